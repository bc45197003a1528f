//! Who leads: whoever made the one ephemeral node first. The others wait until it goes, and try again.
//!
//! For a moment after a session was lost, two nodes may believe that they lead. What a leader does must not do harm then: its
//! writes are versioned, and each is what any leader would write who knows the same.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use super::contents::{decode, encode};
use crate::meta::layout::LEADER;
use crate::meta::{Coordination, MetaError, MetaStore, SessionState, Write};

/// Pause after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Who leads.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Leader {
    /// The node's name.
    pub node: String,
    /// Which process of that name.
    pub instance: String,
}

/// Takes part until it is dropped: runs `lead` while this node leads, and drops it when it does not any more.
pub async fn take_part<'a>(
    store: Arc<dyn Coordination>,
    own: Leader,
    lead: impl Fn() -> BoxFuture<'a, ()> + Send + Sync,
) {
    let mut made_in = None;
    loop {
        match step(&*store, &own, &mut made_in, &lead).await {
            Ok(()) => {}
            Err(error) => {
                debug!("election: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn step<'a>(
    store: &dyn Coordination,
    own: &Leader,
    made_in: &mut Option<u64>,
    lead: &(impl Fn() -> BoxFuture<'a, ()> + Send + Sync),
) -> Result<(), MetaError> {
    let mut session = store.session();
    let number = session.borrow_and_update().number;
    let (node, mut changes) = store.watch(LEADER).await?;
    let Some(node) = node else {
        match store.multi(vec![Write::Create { path: LEADER.into(), data: encode(own), ephemeral: true }]).await {
            Ok(_) => *made_in = Some(number),
            Err(MetaError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        return Ok(());
    };
    let there: Leader = decode(LEADER, &node.data)?;
    if there != *own {
        debug!(leader = there.node, "another node leads");
        let _ = changes.changed().await;
        return Ok(());
    }
    if *made_in != Some(number) {
        // Of an earlier session of this process, and would go with that; or an answer was lost.
        let delete = Write::Delete { path: LEADER.into(), version: Some(node.version) };
        return match store.multi(vec![delete]).await {
            Ok(_) | Err(MetaError::Missing { .. } | MetaError::BadVersion { .. }) => Ok(()),
            Err(error) => Err(error),
        };
    }
    info!("this node leads the cluster");
    let lost = async {
        loop {
            tokio::select! {
                _ = changes.changed() => return,
                changed = session.changed() => {
                    let now = *session.borrow_and_update();
                    if changed.is_err() || now.number != number || now.state == SessionState::Closed {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = lost => {}
        () = lead() => {}
    }
    Ok(())
}

/// Who leads now.
///
/// # Errors
/// Those of the store.
pub async fn leader(store: &dyn MetaStore) -> Result<Option<Leader>, MetaError> {
    store.get(LEADER).await?.map(|node| decode(LEADER, &node.data)).transpose()
}

/// Gives the lead up at once instead of when the session ends.
pub async fn resign(store: &dyn MetaStore, own: &Leader) {
    if matches!(leader(store).await, Ok(Some(there)) if there == *own)
        && let Err(error) = store.multi(vec![Write::Delete { path: LEADER.into(), version: None }]).await
    {
        debug!("the lead goes with the session: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::meta::local::LocalStore;

    #[tokio::test]
    async fn one_leads_at_a_time_and_another_when_it_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        let leading = Arc::new(Mutex::new(Vec::new()));
        let candidate = |node: &'static str| {
            let (store, leading) = (store.clone(), leading.clone());
            tokio::spawn(async move {
                let own = Leader { node: node.into(), instance: node.into() };
                let lead = || -> BoxFuture<'static, ()> {
                    let leading = leading.clone();
                    Box::pin(async move {
                        leading.lock().unwrap().push(node);
                        std::future::pending().await
                    })
                };
                take_part(store, own, lead).await;
            })
        };
        let until = |wanted: Vec<&'static str>| {
            let leading = leading.clone();
            let look = async move {
                while *leading.lock().unwrap() != wanted {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), look)
        };
        let first = candidate("a");
        until(vec!["a"]).await.unwrap();
        let _second = candidate("b");
        first.abort();
        assert!(first.await.is_err());
        assert_eq!(*leading.lock().unwrap(), ["a"], "its node is there as long as its session");
        resign(&*store, &Leader { node: "a".into(), instance: "a".into() }).await;
        until(vec!["a", "b"]).await.unwrap();
        assert_eq!(leader(&*store).await.unwrap().unwrap().node, "b");
    }
}
