//! Transactions whose thread has died: ended by whoever takes over its tasks, so that readers of the sinks, and the offsets of the
//! group, do not wait for the time-out.
//!
//! An owner that is alive ends its transactions itself, and taking over its transactional id would only disturb it. So the
//! node has to have left the metadata store first.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tracing::{debug, info};

use super::plan::Plan;
use super::runtime::Runtime;
use crate::kafka::clients::{Kafka, ProducerClient};
use crate::kafka::producer::{ProducerOptions, Transactions};
use crate::kafka::transaction::TransactionError;
use crate::meta::MetaStore;
use crate::meta::layout::{self, Segment};

/// So long after its time-out the broker has ended a transaction by itself.
const SLACK: Duration = Duration::from_secs(5);
/// Pause between two looks whether the node is gone.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How long one attempt to end a transaction waits.
const INIT_WAIT: Duration = Duration::from_secs(1);

/// Ends what dead owners left open; one for all threads of a pipeline, so that each owner is looked after once.
pub struct Orphans<K> {
    plan: Arc<Plan>,
    meta: Arc<dyn MetaStore>,
    runtime: Arc<dyn Runtime>,
    kafka: K,
    watched: Arc<Mutex<BTreeSet<String>>>,
}

impl<K: Kafka> Orphans<K> {
    /// For the threads of a pipeline.
    #[must_use]
    pub fn new(plan: Arc<Plan>, meta: Arc<dyn MetaStore>, runtime: Arc<dyn Runtime>, kafka: K) -> Self {
        Self { plan, meta, runtime, kafka, watched: Arc::default() }
    }

    /// Ends, beside the thread, the open transaction of `owner` if its node is gone or goes within the time that one can be open.
    pub fn watch(&self, owner: &str) {
        let Some(node) = node_of(owner, &self.plan.group) else { return };
        if !self.watched.lock().unwrap_or_else(PoisonError::into_inner).insert(owner.to_owned()) {
            return;
        }
        let (meta, kafka, watched) = (Arc::clone(&self.meta), self.kafka.clone(), Arc::clone(&self.watched));
        let (owner, transactions) = (owner.to_owned(), self.plan.transactions(owner));
        let runtime = Arc::clone(&self.runtime);
        let work = async move {
            let until = runtime.now() + transactions.timeout + SLACK;
            let path = layout::node(&node);
            while runtime.now() < until {
                if matches!(meta.get(&path).await, Ok(None)) {
                    let clock = Arc::clone(&runtime);
                    let ending = move || end(&kafka, transactions, || clock.now() < until);
                    match runtime.blocking(Box::new(ending)).await.unwrap_or_else(|| Err("given up".to_owned())) {
                        Ok(()) => info!(%owner, "ended what a thread left open when its node died"),
                        Err(error) => debug!(%owner, "its transaction is left to its time-out: {error}"),
                    }
                    break;
                }
                runtime.pause(LOOK_PAUSE).await;
            }
            watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&owner);
        };
        self.runtime.spawn(work.boxed());
    }
}

/// The node in an owner's name, `<group>/<node>/<thread>`.
fn node_of(owner: &str, group: &str) -> Option<Segment> {
    let (node, _) = owner.strip_prefix(group)?.strip_prefix('/')?.split_once('/')?;
    Segment::new(node).ok()
}

fn end<K: Kafka>(kafka: &K, transactions: Transactions, in_time: impl Fn() -> bool) -> Result<(), String> {
    let client_id = format!("{}-successor", transactions.id);
    let options = ProducerOptions { client_id, transactions: Some(transactions) };
    let producer = kafka.producer(&options).map_err(|error| error.to_string())?;
    loop {
        match producer.init_transactions(INIT_WAIT) {
            Ok(()) => return Ok(()),
            Err(TransactionError::Again { .. }) if in_time() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_of_an_owner_is_in_its_name() {
        let node = |owner| node_of(owner, "sluicegate/orders/1").map(|node| node.as_str().to_owned());
        assert_eq!(node("sluicegate/orders/1/host-3.example.org/0"), Some("host-3.example.org".to_owned()));
        for other in ["", "sluicegate/orders/10/a/0", "sluicegate/orders/1/a", "other/orders/1/a/0"] {
            assert_eq!(node(other), None, "{other}");
        }
    }
}
