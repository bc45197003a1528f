//! The clients of a worker thread as what it needs of them, so that the same thread also runs over a model of Kafka.
//!
//! [`KafkaSettings`] makes the real ones. What each call promises is said at [`Consumer`] and [`Producer`]. Every use is of one
//! kind of client that is known when the thread is compiled: nothing is looked up per record.

use std::time::{Duration, Instant};

use super::consumer::{
    Closed, CommitError, CommitOffset, ConsumeError, Consumer, ConsumerEvent, ConsumerOptions, FetchOutcome, StartError,
};
use super::offsets::{Committed, Offsets, RequestError, Start};
use super::producer::{FlushError, Flushed, Producer, ProducerEvent, ProducerOptions, SendError, TopicHandle};
use super::settings::KafkaSettings;
use super::transaction::{Membership, TransactionError};
use super::{ClientError, Fetched, TopicPartition};

/// Makes clients.
pub trait Kafka: Clone + Send + Sync + 'static {
    /// A member of a group.
    type Consumer: ConsumerClient;
    /// A producer.
    type Producer: ProducerClient<Membership = <Self::Consumer as ConsumerClient>::Membership>;

    /// See [`Consumer::new`].
    ///
    /// # Errors
    /// Settings or topic names that cannot be used.
    fn consumer(&self, options: &ConsumerOptions) -> Result<Self::Consumer, ClientError>;

    /// See [`Producer::new`].
    ///
    /// # Errors
    /// Settings that cannot be used.
    fn producer(&self, options: &ProducerOptions) -> Result<Self::Producer, ClientError>;
}

/// One member of a consumer group: [`Consumer`].
#[expect(missing_docs, clippy::missing_errors_doc, reason = "said at `Consumer`")]
pub trait ConsumerClient: Send {
    /// Proof of being a member, for a transaction.
    type Membership: Send + 'static;
    /// For questions beside the thread.
    type Offsets: OffsetsClient;

    fn meet_coordinator(&self, wait: Duration);
    fn join(&self) -> Result<(), ClientError>;
    fn fetch(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        wait: Duration,
        sink: impl FnMut(Fetched<'_>),
    ) -> Result<FetchOutcome, ConsumeError>;
    fn next_event(&mut self) -> Option<ConsumerEvent>;
    fn accept(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError>;
    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError>;
    fn start(&mut self, offsets: &[(TopicPartition, i64)], wait: Duration) -> Result<(), StartError>;
    fn halt(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError>;
    fn membership(&self) -> Option<Self::Membership>;
    fn offsets(&self) -> Self::Offsets;
    fn commit(&mut self, offsets: &[CommitOffset], wait: Duration) -> Result<(), CommitError>;
    fn commit_later(&mut self, offsets: &[CommitOffset]) -> Result<(), CommitError>;
    fn has_unanswered_commits(&self) -> bool;
    fn close(self, deadline: Duration) -> Closed;
}

/// Asks the brokers about offsets, from any thread.
pub trait OffsetsClient: Clone + Send + Sync + 'static {
    /// What the group has committed for these partitions, in one request.
    ///
    /// # Errors
    /// The broker is away, does not answer within `wait`, or refuses.
    fn committed(&self, partitions: &[TopicPartition], wait: Duration) -> Result<Vec<Committed>, RequestError>;

    /// The offset at which a partition that has none begins.
    ///
    /// # Errors
    /// As for [`OffsetsClient::committed`].
    fn start_offset(&self, partition: TopicPartition, start: Start, wait: Duration) -> Result<i64, RequestError>;
}

/// A producer: [`Producer`].
#[expect(missing_docs, clippy::missing_errors_doc, reason = "said at `Producer`")]
pub trait ProducerClient: Send + 'static {
    /// What its consumer gives for a transaction.
    type Membership: Send + 'static;

    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError>;
    fn send<'h>(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Result<(), SendError>;
    fn poll(&self, wait: Duration);
    fn next_event(&self) -> Option<ProducerEvent>;
    fn in_flight(&self) -> usize;
    fn flush(&self, wait: Duration) -> Result<Flushed, FlushError>;
    fn init_transactions(&self, wait: Duration) -> Result<(), TransactionError>;
    fn begin_transaction(&self) -> Result<(), TransactionError>;
    fn send_offsets(
        &self,
        topics: &[String],
        offsets: &[CommitOffset],
        membership: &Self::Membership,
        wait: Duration,
    ) -> Result<(), TransactionError>;
    fn commit_transaction(&self, wait: Duration) -> Result<(), TransactionError>;
    fn abort_transaction(&self, wait: Duration) -> Result<(), TransactionError>;
}

impl Kafka for KafkaSettings {
    type Consumer = Consumer;
    type Producer = Producer;

    fn consumer(&self, options: &ConsumerOptions) -> Result<Consumer, ClientError> {
        Consumer::new(self, options)
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Producer, ClientError> {
        Producer::new(self, options)
    }
}

impl ConsumerClient for Consumer {
    type Membership = Membership;
    type Offsets = Offsets;

    fn meet_coordinator(&self, wait: Duration) {
        self.meet_coordinator(wait);
    }

    fn join(&self) -> Result<(), ClientError> {
        self.join()
    }

    #[inline]
    fn fetch(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        wait: Duration,
        sink: impl FnMut(Fetched<'_>),
    ) -> Result<FetchOutcome, ConsumeError> {
        self.fetch(records_max, bytes_max, wait, sink)
    }

    fn next_event(&mut self) -> Option<ConsumerEvent> {
        self.next_event()
    }

    fn accept(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.accept(partitions)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.release(partitions)
    }

    fn start(&mut self, offsets: &[(TopicPartition, i64)], wait: Duration) -> Result<(), StartError> {
        self.start(offsets, wait)
    }

    fn halt(&mut self, partitions: &[TopicPartition]) -> Result<(), RequestError> {
        self.halt(partitions)
    }

    fn membership(&self) -> Option<Membership> {
        self.membership()
    }

    fn offsets(&self) -> Offsets {
        self.offsets()
    }

    fn commit(&mut self, offsets: &[CommitOffset], wait: Duration) -> Result<(), CommitError> {
        self.commit(offsets, wait)
    }

    fn commit_later(&mut self, offsets: &[CommitOffset]) -> Result<(), CommitError> {
        self.commit_later(offsets)
    }

    fn has_unanswered_commits(&self) -> bool {
        self.has_unanswered_commits()
    }

    fn close(self, deadline: Duration) -> Closed {
        self.close(deadline)
    }
}

impl ProducerClient for Producer {
    type Membership = Membership;

    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError> {
        self.topic(name)
    }

    #[inline]
    fn send<'h>(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Result<(), SendError> {
        self.send(topic, partition, key, value, timestamp, headers)
    }

    fn poll(&self, wait: Duration) {
        self.poll(wait);
    }

    fn next_event(&self) -> Option<ProducerEvent> {
        self.next_event()
    }

    fn in_flight(&self) -> usize {
        self.in_flight()
    }

    fn flush(&self, wait: Duration) -> Result<Flushed, FlushError> {
        self.flush(Instant::now() + wait)
    }

    fn init_transactions(&self, wait: Duration) -> Result<(), TransactionError> {
        self.init_transactions(wait)
    }

    fn begin_transaction(&self) -> Result<(), TransactionError> {
        self.begin_transaction()
    }

    fn send_offsets(
        &self,
        topics: &[String],
        offsets: &[CommitOffset],
        membership: &Membership,
        wait: Duration,
    ) -> Result<(), TransactionError> {
        self.send_offsets(topics, offsets, membership, wait)
    }

    fn commit_transaction(&self, wait: Duration) -> Result<(), TransactionError> {
        self.commit_transaction(wait)
    }

    fn abort_transaction(&self, wait: Duration) -> Result<(), TransactionError> {
        self.abort_transaction(wait)
    }
}
