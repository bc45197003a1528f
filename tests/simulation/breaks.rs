//! The protocol, broken on purpose, each way once: what Kafka or the metadata store would see of code that does it wrong.
//!
//! The models stay as they are, and so does the code under test: what is wrong stands between them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sluicegate::checkpoint::head::Head;
use sluicegate::kafka::clients::{ConsumerClient, Kafka, ProducerClient};
use sluicegate::kafka::consumer::{
    Closed, CommitError, CommitOffset, Committed, ConsumeError, ConsumerEvent, ConsumerOptions, FetchOutcome,
    RequestError, Start, StartError,
};
use sluicegate::kafka::producer::{FlushError, Flushed, ProducerEvent, ProducerOptions, SendError, TopicHandle};
use sluicegate::kafka::transaction::TransactionError;
use sluicegate::kafka::{ClientError, Fetched, TopicPartition};
use sluicegate::meta::layout::TaskPath;
use sluicegate::meta::{MetaError, MetaStore, Node, Version, Write};
use sluicegate::worker::plan::Plan;
use sluicegate::worker::task;

use crate::kafka::Clients;
use crate::kafka::broker::Broker;
use crate::kafka::consumer::{Consumer, Membership};
use crate::kafka::producer::Producer;
use crate::kernel::{Kernel, Pid};
use crate::runtime::sleep;
use crate::zookeeper::Client;

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Break {
    /// A prepare is taken for durable when it was sent.
    CommitsBeforePrepared,
    /// What Kafka has committed is read first, and the head claimed then.
    ReadsBeforeClaim,
    /// A claim begins with a clean slate: what others have prepared goes.
    ClaimDropsPrepared,
    /// Manifests are told apart by their epoch alone.
    BareEpochs,
    /// Only inputs that had records have their offsets committed.
    ForgetsIdleInputs,
    /// A commit of which nobody knows the end is taken for one that did not happen.
    UndoesUnknownCommits,
    /// What the list of chunks shows and the head does not name is deleted, whoever owns the task by then.
    SweepsUnchecked,
}

/// Whose edges are made.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) kernel: Kernel,
    pub(crate) broker: Broker,
    /// Without it, everything is as it should be.
    pub(crate) how: Option<Break>,
}

/// What Kafka had committed before a head was claimed.
type ReadBefore = Arc<Mutex<BTreeMap<TopicPartition, Committed>>>;

/// Kafka and the metadata store as a process sees them.
pub(crate) fn edges(process: Process, store: Client, plan: Arc<Plan>) -> (BrokenKafka, Arc<dyn MetaStore>) {
    let read = ReadBefore::default();
    let inner = Clients { broker: process.broker.clone(), pid: process.pid };
    let kafka = BrokenKafka { inner, how: process.how, read: Arc::clone(&read) };
    (
        kafka,
        Arc::new(BrokenStore { inner: store, process, plan, heads: Mutex::default(), outrun: Mutex::default(), read }),
    )
}

/// A store between the worker and ZooKeeper.
struct BrokenStore {
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

/// Kafka, behind what is wrong.
#[derive(Clone)]
pub(crate) struct BrokenKafka {
    inner: Clients,
    how: Option<Break>,
    read: ReadBefore,
}

impl Kafka for BrokenKafka {
    type Consumer = BrokenConsumer;
    type Producer = BrokenProducer;

    fn consumer(&self, options: &ConsumerOptions) -> Result<BrokenConsumer, ClientError> {
        let inner = self.inner.consumer(options)?;
        Ok(BrokenConsumer { inner, how: self.how, read: Arc::clone(&self.read) })
    }

    fn producer(&self, options: &ProducerOptions) -> Result<BrokenProducer, ClientError> {
        let inner = self.inner.producer(options)?;
        Ok(BrokenProducer { inner, how: self.how, sent: RefCell::default(), undone: RefCell::default() })
    }
}

/// A member of the group, behind what is wrong.
pub(crate) struct BrokenConsumer {
    inner: Consumer,
    how: Option<Break>,
    read: ReadBefore,
}

impl ConsumerClient for BrokenConsumer {
    type Membership = Membership;

    fn meet_coordinator(&self, wait: Duration) {
        self.inner.meet_coordinator(wait);
    }

    fn join(&self) -> Result<(), ClientError> {
        self.inner.join()
    }

    fn fetch(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        wait: Duration,
        sink: impl FnMut(Fetched<'_>),
    ) -> Result<FetchOutcome, ConsumeError> {
        self.inner.fetch(records_max, bytes_max, wait, sink)
    }

    fn next_event(&mut self) -> Option<ConsumerEvent> {
        self.inner.next_event()
    }

    fn accept(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.inner.accept(partitions)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.inner.release(partitions)
    }

    fn start(&mut self, offsets: &[(TopicPartition, i64)], wait: Duration) -> Result<(), StartError> {
        self.inner.start(offsets, wait)
    }

    fn halt(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.inner.halt(partitions)
    }

    fn membership(&self) -> Option<Membership> {
        self.inner.membership()
    }

    fn committed(&self, partitions: &[TopicPartition], wait: Duration) -> Result<Vec<Committed>, RequestError> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known: Vec<Committed> = partitions.iter().filter_map(|at| read.get(at).cloned()).collect();
        if self.how == Some(Break::ReadsBeforeClaim) && known.len() == partitions.len() {
            return Ok(known);
        }
        self.inner.committed(partitions, wait)
    }

    fn start_offset(&self, partition: TopicPartition, start: Start, wait: Duration) -> Result<i64, RequestError> {
        self.inner.start_offset(partition, start, wait)
    }

    fn commit(&mut self, offsets: &[CommitOffset], wait: Duration) -> Result<(), CommitError> {
        self.inner.commit(offsets, wait)
    }

    fn commit_later(&mut self, offsets: &[CommitOffset]) -> Result<(), CommitError> {
        self.inner.commit_later(offsets)
    }

    fn has_unanswered_commits(&self) -> bool {
        self.inner.has_unanswered_commits()
    }

    fn close(self, deadline: Duration) -> Closed {
        self.inner.close(deadline)
    }
}

/// A producer, behind what is wrong.
pub(crate) struct BrokenProducer {
    inner: Producer,
    how: Option<Break>,
    /// The offset that was last sent of each partition.
    sent: RefCell<BTreeMap<TopicPartition, i64>>,
    /// A commit was taken for one that did not happen.
    undone: RefCell<bool>,
}

impl ProducerClient for BrokenProducer {
    type Membership = Membership;

    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError> {
        self.inner.topic(name)
    }

    fn send<'h>(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Result<(), SendError> {
        self.inner.send(topic, partition, key, value, timestamp, headers)
    }

    fn poll(&self, wait: Duration) {
        self.inner.poll(wait);
    }

    fn next_event(&self) -> Option<ProducerEvent> {
        self.inner.next_event()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn flush(&self, wait: Duration) -> Result<Flushed, FlushError> {
        self.inner.flush(wait)
    }

    fn init_transactions(&self, wait: Duration) -> Result<(), TransactionError> {
        self.inner.init_transactions(wait)
    }

    fn begin_transaction(&self) -> Result<(), TransactionError> {
        self.inner.begin_transaction()
    }

    fn send_offsets(
        &self,
        topics: &[String],
        offsets: &[CommitOffset],
        membership: &Membership,
        wait: Duration,
    ) -> Result<(), TransactionError> {
        let mut kept = offsets.to_vec();
        if self.how == Some(Break::ForgetsIdleInputs) {
            let mut sent = self.sent.borrow_mut();
            kept.retain(|offset| sent.get(&offset.partition) != Some(&offset.offset));
            sent.extend(kept.iter().map(|offset| (offset.partition, offset.offset)));
        }
        self.inner.send_offsets(topics, &kept, membership, wait)
    }

    fn commit_transaction(&self, wait: Duration) -> Result<(), TransactionError> {
        match self.inner.commit_transaction(wait) {
            Err(TransactionError::Rebuild { text }) if self.how == Some(Break::UndoesUnknownCommits) => {
                *self.undone.borrow_mut() = true;
                Err(TransactionError::Abort { text })
            }
            result => result,
        }
    }

    fn abort_transaction(&self, wait: Duration) -> Result<(), TransactionError> {
        if std::mem::take(&mut *self.undone.borrow_mut()) {
            // Takes its own id over, so that it can go on.
            return self.inner.init_transactions(wait).inspect_err(|_| *self.undone.borrow_mut() = true);
        }
        self.inner.abort_transaction(wait)
    }
}
