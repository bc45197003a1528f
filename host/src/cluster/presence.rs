//! How a pipeline is on a node: an ephemeral node that says so, for `status` and for whoever leads.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::debug;
use utoipa::ToSchema;

use super::contents::{decode, encode};
use super::rollout::NodeReport;
use crate::meta::layout::{self, Segment};
use crate::meta::{Coordination, MetaError, MetaStore, Write};

/// Pause before a write that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// What changes is written at most so often.
const PACE: Duration = Duration::from_millis(200);

/// What a node does with a pipeline.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// Loads plugins, waits for topics.
    Starting,
    /// Its threads are there.
    Running,
    /// Its threads commit and end.
    Stopping,
    /// It failed, and will be tried again.
    Retrying,
    /// It failed, and stays so until somebody changes it or asks for another try.
    Failed,
}

/// How a pipeline is on a node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Presence {
    /// What the node does.
    pub activity: Activity,
    /// The revision that its threads run.
    pub revision: u64,
    /// The life of the state that they work on.
    pub incarnation: u64,
    /// Whether the process was started with this pipeline.
    pub by_itself: bool,
    /// Worker threads.
    pub threads: usize,
    /// Tasks that Kafka has given to them.
    pub assigned: usize,
    /// Of these, tasks that take records.
    pub running: usize,
    /// Thousandths of their time that the threads were at work, on the average.
    pub busy: u32,
    /// Why it does not run, or not what it should.
    pub problem: Option<String>,
    /// The last failure of this process, also when it runs again.
    #[serde(default)]
    pub last_error: Option<Incident>,
    /// How its part of a rollout is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<NodeReport>,
    /// Since when it does what it does.
    pub since: jiff::Timestamp,
}

/// Something that went wrong.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Incident {
    /// When.
    pub at: jiff::Timestamp,
    /// What.
    pub error: String,
}

impl Incident {
    /// It went wrong now.
    #[must_use]
    pub fn now(error: String) -> Self {
        Self { at: jiff::Timestamp::now(), error }
    }
}

impl Presence {
    /// Of a pipeline that is about to be loaded.
    #[must_use]
    pub fn starting(by_itself: bool) -> Self {
        Self {
            activity: Activity::Starting,
            revision: 0,
            incarnation: 0,
            by_itself,
            threads: 0,
            assigned: 0,
            running: 0,
            busy: 0,
            problem: None,
            last_error: None,
            rollout: None,
            since: jiff::Timestamp::now(),
        }
    }
}

/// Keeps the presence of one pipeline up to date until it is dropped or [`Publisher::withdraw`] is called.
pub struct Publisher {
    store: Arc<dyn Coordination>,
    path: String,
    now: watch::Sender<Presence>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Publishes how `pipeline` is on `node`. The pipeline is recorded.
    #[must_use]
    pub fn new(store: Arc<dyn Coordination>, pipeline: &Segment, node: &Segment, first: Presence) -> Self {
        let path = layout::pipeline_node(pipeline, node);
        let (now, values) = watch::channel(first);
        let task = tokio::spawn(publish(Arc::clone(&store), path.clone(), values));
        Self { store, path, now, task }
    }

    /// Changes what is published; nothing happens when it is the same.
    pub fn update(&self, change: impl FnOnce(&mut Presence)) {
        self.now.send_if_modified(|presence| {
            let before = presence.clone();
            change(presence);
            if presence.activity != before.activity {
                presence.since = jiff::Timestamp::now();
            }
            *presence != before
        });
    }

    /// Says that the pipeline is no longer here.
    pub async fn withdraw(self) {
        self.task.abort();
        // What was on its way has arrived, or has been given up, before the node is deleted.
        let _ = self.task.await;
        if let Err(error) = remove(&*self.store, &self.path).await {
            debug!("{} goes with its session: {error}", self.path);
        }
    }
}

async fn publish(store: Arc<dyn Coordination>, path: String, mut values: watch::Receiver<Presence>) {
    let mut session = store.session();
    let mut made_in = None;
    loop {
        let number = session.borrow_and_update().number;
        let value = values.borrow_and_update().clone();
        match write(&*store, &path, &value, made_in == Some(number)).await {
            Ok(()) => made_in = Some(number),
            Err(error) => {
                debug!("{path} is not written: {error}");
                made_in = None;
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        }
        tokio::select! {
            changed = values.changed() => if changed.is_err() { return },
            changed = session.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Writes the node; one of an earlier session, which would go with that, is replaced.
async fn write(store: &dyn MetaStore, path: &str, value: &Presence, is_ours: bool) -> Result<(), MetaError> {
    let data = encode(value);
    if is_ours && let Some(node) = store.get(path).await? {
        store.multi(vec![Write::Set { path: path.into(), data, version: node.version }]).await?;
        return Ok(());
    }
    remove(store, path).await?;
    store.multi(vec![Write::Create { path: path.into(), data, ephemeral: true }]).await?;
    Ok(())
}

async fn remove(store: &dyn MetaStore, path: &str) -> Result<(), MetaError> {
    match store.multi(vec![Write::Delete { path: path.into(), version: None }]).await {
        Ok(_) | Err(MetaError::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// How a pipeline is on all nodes, by the node's name.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &dyn MetaStore, pipeline: &Segment) -> Result<Vec<(String, Presence)>, MetaError> {
    let mut presences = Vec::new();
    for name in store.children(&layout::pipeline_nodes(pipeline)).await? {
        let Ok(node) = Segment::new(&name) else { continue };
        let path = layout::pipeline_node(pipeline, &node);
        if let Some(found) = store.get(&path).await? {
            presences.push((name, decode(&path, &found.data)?));
        }
    }
    Ok(presences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::local::LocalStore;

    async fn until(store: &LocalStore, pipeline: &Segment, seen: impl Fn(&[(String, Presence)]) -> bool) {
        let look = async {
            while !seen(&list(store, pipeline).await.unwrap()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_node_says_is_there_until_it_is_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        let (pipeline, node) = (Segment::new("orders").unwrap(), Segment::new("node-1").unwrap());
        store.ensure(&layout::pipeline_nodes(&pipeline)).await.unwrap();
        let begin = jiff::Timestamp::now();
        let publisher = Publisher::new(store.clone(), &pipeline, &node, Presence::starting(false));
        until(&store, &pipeline, |found| found.first().is_some_and(|(name, _)| name == "node-1")).await;
        publisher.update(|presence| presence.activity = Activity::Running);
        until(&store, &pipeline, |found| {
            found.iter().any(|(_, now)| now.activity == Activity::Running && now.since > begin)
        })
        .await;
        publisher.withdraw().await;
        assert_eq!(list(&*store, &pipeline).await.unwrap(), []);
    }
}
