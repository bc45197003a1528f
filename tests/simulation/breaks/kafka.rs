//! What is wrong towards Kafka.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sluicegate::kafka::clients::{ConsumerClient, Kafka, OffsetsClient, ProducerClient};
use sluicegate::kafka::consumer::{
    Closed, CommitError, CommitOffset, ConsumeError, ConsumerEvent, ConsumerOptions, FetchOutcome, StartError,
};
use sluicegate::kafka::offsets::{Committed, RequestError, Start};
use sluicegate::kafka::producer::{FlushError, Flushed, ProducerEvent, ProducerOptions, SendError, TopicHandle};
use sluicegate::kafka::transaction::TransactionError;
use sluicegate::kafka::{ClientError, Fetched, TopicPartition};

use super::{Break, ReadBefore};
use crate::kafka::Clients;
use crate::kafka::consumer::{Consumer, Membership, Offsets};
use crate::kafka::producer::Producer;

/// Kafka, behind what is wrong.
#[derive(Clone)]
pub(crate) struct BrokenKafka {
    inner: Clients,
    how: Option<Break>,
    read: ReadBefore,
}

impl BrokenKafka {
    pub(super) fn new(inner: Clients, how: Option<Break>, read: ReadBefore) -> Self {
        Self { inner, how, read }
    }
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
    type Offsets = BrokenOffsets;

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

    fn offsets(&self) -> BrokenOffsets {
        BrokenOffsets { inner: self.inner.offsets(), how: self.how, read: Arc::clone(&self.read) }
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

/// Questions, behind what is wrong.
#[derive(Clone)]
pub(crate) struct BrokenOffsets {
    inner: Offsets,
    how: Option<Break>,
    read: ReadBefore,
}

impl OffsetsClient for BrokenOffsets {
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
        if self.how == Some(Break::CommitsBeforeOutputs) {
            return Ok(Flushed::attested());
        }
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
