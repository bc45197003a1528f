//! The state of a deployment's tasks as it stands in ZooKeeper: read as a host would, and damaged where a test wants that.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sluicegate::checkpoint::head::Head;
use sluicegate::checkpoint::store::{StateError, TaskStore};
use sluicegate::ids::TaskId;
use sluicegate::meta::layout::TaskPath;
use sluicegate::meta::zookeeper::{ZooKeeper, ZooKeeperOptions};
use sluicegate::meta::{MetaError, MetaStore, Node, Write};
use sluicegate::state::{StoreName, TaskState};
use tokio::runtime::Runtime;

use crate::deployment::Deployment;
use crate::shared::wait_for;

/// For what the library does asynchronously.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    RUNTIME.get_or_init(build)
}

/// The answer; nothing when the server could not be asked, which on a busy machine it sometimes cannot.
fn answered<T, E: Debug>(answer: Result<T, E>, is_outage: impl Fn(&E) -> bool) -> Option<T> {
    match answer {
        Err(error) if is_outage(&error) => None,
        answer => Some(answer.unwrap()),
    }
}

/// A view of a deployment's part of ZooKeeper.
pub(crate) struct State {
    meta: Arc<ZooKeeper>,
    pipeline: String,
    incarnation: u64,
}

impl State {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        Self::at(deployment.servers.zookeeper.as_ref().unwrap(), deployment)
    }

    /// Through another address than the deployment's.
    pub(crate) fn at(connect: &str, deployment: &Deployment) -> Self {
        Self::through(ZooKeeperOptions::new(connect, &format!("/{}", deployment.namespace)), deployment)
    }

    /// With credentials.
    pub(crate) fn through(options: ZooKeeperOptions, deployment: &Deployment) -> Self {
        let meta = Arc::new(runtime().block_on(ZooKeeper::connect(options)).unwrap());
        Self { meta, pipeline: deployment.pipeline.clone(), incarnation: 1 }
    }

    /// Of a later life of the state.
    pub(crate) fn of_incarnation(deployment: &Deployment, incarnation: u64) -> Self {
        Self { incarnation, ..Self::of(deployment) }
    }

    pub(crate) fn task(&self, partition: u32) -> TaskId {
        TaskId { pipeline: self.pipeline.clone(), incarnation: self.incarnation, stage: 0, partition }
    }

    pub(crate) fn path(&self, partition: u32) -> TaskPath {
        TaskPath::new(&self.task(partition))
    }

    /// A task's head, if it has one.
    pub(crate) fn head(&self, partition: u32) -> Option<Head> {
        let store = TaskStore::new(self.meta.clone(), self.task(partition));
        let read = || runtime().block_on(store.read());
        wait_for("the head", || answered(read(), StateError::is_outage)).map(|(head, _)| head)
    }

    /// The heads of tasks 0, 1, ..
    pub(crate) fn heads(&self) -> Vec<Head> {
        (0..).map_while(|partition| self.head(partition)).collect()
    }

    /// What a store of a transform holds in a task.
    pub(crate) fn entries(&self, partition: u32, transform: &str, store: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let task = TaskStore::new(self.meta.clone(), self.task(partition));
        let head = self.head(partition).unwrap();
        let mut state = wait_for("the state", || {
            let mut state = TaskState::default();
            let restored = runtime().block_on(task.restore(&head, &head.committed, &mut state));
            answered(restored, StateError::is_outage).map(|_| state)
        });
        let name = StoreName { transform: transform.to_owned(), store: store.to_owned() };
        let number = state.number(&name);
        state.store(number).iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// The counts of a `keyed-count` named `count`, over all tasks.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let tasks = (0..).take_while(|&partition| self.head(partition).is_some());
        let entries = tasks.flat_map(|partition| self.entries(partition, "count", "counts"));
        entries.map(|(key, value)| (String::from_utf8(key).unwrap(), postcard::from_bytes(&value).unwrap())).collect()
    }

    pub(crate) fn get(&self, path: &str) -> Option<Node> {
        wait_for("the node", || answered(runtime().block_on(self.meta.get(path)), MetaError::is_outage))
    }

    /// Names of a node's children.
    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        wait_for("the names", || answered(runtime().block_on(self.meta.children(path)), MetaError::is_outage))
    }

    /// Writes a node that exists, whatever it holds.
    pub(crate) fn set(&self, path: &str, data: impl Into<Bytes>) {
        let version = self.get(path).unwrap().version;
        let set = Write::Set { path: path.to_owned(), data: data.into(), version };
        runtime().block_on(self.meta.multi(vec![set])).unwrap();
    }

    pub(crate) fn delete(&self, path: &str) {
        let delete = Write::Delete { path: path.to_owned(), version: None };
        runtime().block_on(self.meta.multi(vec![delete])).unwrap();
    }
}
