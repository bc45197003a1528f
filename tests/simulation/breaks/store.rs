//! What is wrong towards the metadata store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sluicegate::checkpoint::head::Head;
use sluicegate::kafka::TopicPartition;
use sluicegate::kafka::offsets::Committed;
use sluicegate::meta::layout::TaskPath;
use sluicegate::meta::{MetaError, MetaStore, Node, Version, Write};
use sluicegate::worker::plan::Plan;
use sluicegate::worker::task;

use super::{Break, Process, ReadBefore};
use crate::runtime::sleep;
use crate::zookeeper::Client;

/// A store between the worker and ZooKeeper.
pub(super) struct BrokenStore {
    inner: Client,
    process: Process,
    plan: Arc<Plan>,
    /// The last head seen, by its path.
    heads: Mutex<BTreeMap<String, Head>>,
    /// Heads whose claim has failed because somebody was faster.
    outrun: Mutex<BTreeSet<String>>,
    read: ReadBefore,
}

impl BrokenStore {
    pub(super) fn new(inner: Client, process: Process, plan: Arc<Plan>, read: ReadBefore) -> Self {
        Self { inner, process, plan, heads: Mutex::default(), outrun: Mutex::default(), read }
    }

    /// Reads what Kafka has committed for the task of a head, as soon as it is stable.
    async fn read_kafka(&self, head_path: &str) {
        let Process { pid, kernel, broker, .. } = &self.process;
        let path = |number: &u32| TaskPath::new(&self.plan.task(*number)).head();
        let Some(task) = (0..self.plan.partitions).find(|number| path(number) == head_path) else { return };
        let partitions: Vec<TopicPartition> = task::partitions(task, self.plan.sources.len()).collect();
        let found = loop {
            match broker.stable_offsets(&partitions) {
                Some(found) => break found,
                None => sleep(kernel, *pid, Duration::from_millis(10)).await,
            }
        };
        let committed = |(partition, found): (TopicPartition, Option<(i64, String)>)| {
            let (offset, metadata) = found.map_or((None, String::new()), |(offset, text)| (Some(offset), text));
            (partition, Committed { partition, offset, metadata })
        };
        let found = partitions.into_iter().zip(found).map(committed);
        self.read.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        // The answer is on its way, and the process may come to stand still before it claims.
        broker.faults.point(*pid);
        sleep(kernel, *pid, broker.faults.latency()).await;
    }

    /// Whether this is the write of a head, and which.
    fn head(write: &Write) -> Option<Head> {
        match write {
            Write::Set { path, data, .. } if path.ends_with("/head") => Head::decode(data).ok(),
            _ => None,
        }
    }

    fn former(&self, path: &str) -> Option<Head> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    fn note(&self, path: &str, head: Head) {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), head);
    }

    fn is_outrun(&self, path: &str) -> bool {
        self.outrun.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    fn is_claim(&self, write: &Write, head: &Head) -> bool {
        self.former(write.path()).is_some_and(|former| head.generation > former.generation)
    }

    /// Writes that are on their way when they are said to be done.
    async fn later(&self, writes: Vec<Write>) -> Vec<Option<Version>> {
        let versions = writes.iter().map(|write| match write {
            Write::Set { version, .. } => Some(Version(version.0 + 1)),
            Write::Create { .. } => Some(Version(0)),
            Write::Delete { .. } | Write::Check { .. } => None,
        });
        let versions = versions.collect();
        let (client, kernel, pid) = (self.inner.clone(), self.process.kernel.clone(), self.process.pid);
        let wait = kernel.between(Duration::ZERO, Duration::from_millis(30));
        self.process.kernel.spawn(
            pid,
            Box::pin(async move {
                sleep(&kernel, pid, wait).await;
                drop(client.multi(writes).await);
            }),
        );
        versions
    }
}

#[async_trait]
impl MetaStore for BrokenStore {
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        if self.process.how.is_none() {
            return self.inner.get(path).await;
        }
        // A claim begins with this. One that has to look again, because somebody was faster, does not read Kafka again.
        if self.process.how == Some(Break::ReadsBeforeClaim) && !self.is_outrun(path) {
            self.read_kafka(path).await;
        }
        let found = self.inner.get(path).await?;
        if let Some(head) =
            found.as_ref().filter(|_| path.ends_with("/head")).and_then(|node| Head::decode(&node.data).ok())
        {
            self.note(path, head);
        }
        Ok(found)
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        let children = self.inner.children(path).await?;
        let Some(root) = path.strip_suffix("/chunks").filter(|_| self.process.how == Some(Break::SweepsUnchecked))
        else {
            return Ok(children);
        };
        // The sweep as it should not be; nothing is left for the one that comes.
        let Some(head) = self.former(&format!("{root}/head")) else { return Ok(children) };
        let unnamed = children.iter().filter(|name| name.parse().is_ok_and(|name| !head.chunks.contains_key(&name)));
        let delete = |name: &String| Write::Delete { path: format!("{path}/{name}"), version: None };
        let deletes: Vec<Write> = unnamed.map(delete).collect();
        if !deletes.is_empty() {
            drop(self.inner.multi(deletes).await);
        }
        Ok(Vec::new())
    }

    async fn multi(&self, mut writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
        if self.process.how.is_none() {
            return self.inner.multi(writes).await;
        }
        for write in &mut writes {
            let Some(mut head) = Self::head(write) else { continue };
            let claims = self.is_claim(write, &head);
            if self.process.how == Some(Break::ClaimDropsPrepared) && claims {
                head.prepared.clear();
                if let Write::Set { data, .. } = write {
                    *data = head.encode().into();
                }
            }
            if self.process.how == Some(Break::CommitsBeforePrepared) && !claims {
                return Ok(self.later(writes).await);
            }
        }
        let claimed: Vec<String> = writes
            .iter()
            .filter(|write| Self::head(write).is_some_and(|head| self.is_claim(write, &head)))
            .map(|write| write.path().to_owned())
            .collect();
        let result = self.inner.multi(writes.clone()).await;
        for path in claimed {
            let mut outrun = self.outrun.lock().unwrap_or_else(PoisonError::into_inner);
            match &result {
                Err(MetaError::BadVersion { .. }) => outrun.insert(path),
                _ => outrun.remove(&path),
            };
        }
        if result.is_ok() {
            writes.iter().filter_map(|write| Some((write.path(), Self::head(write)?))).for_each(|(path, head)| {
                self.note(path, head);
            });
        }
        result
    }
}
