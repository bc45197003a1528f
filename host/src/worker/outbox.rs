//! The sinks of a thread: chooses partitions, sends, and lets the input wait while the producer's buffer is full.

use std::time::{Duration, Instant};

use tracing::warn;

use super::permit::CommitPermit;
use super::plan::{Plan, SinkPlan};
use super::throttle::Throttle;
use crate::config::Guarantee;
use crate::kafka::clients::{ConsumerClient, Kafka, ProducerClient};
use crate::kafka::consumer::CommitOffset;
use crate::kafka::producer::{FlushError, Flushed, ProducerEvent, ProducerOptions, SendError, TopicHandle};
use crate::kafka::transaction::TransactionError;
use crate::kafka::{ClientError, partition};
use crate::record::RecordView;

/// How long to wait for room before looking again whether to go on.
const ROOM_WAIT: Duration = Duration::from_millis(5);
/// A buffer that stays full this long is worth a message.
const FULL_MESSAGE: Duration = Duration::from_secs(10);

/// Sends records to sinks.
pub struct Outbox<K: Kafka> {
    producer: K::Producer,
    sources: Vec<String>,
    sinks: Vec<Sink>,
    sent: Vec<u64>,
    in_transaction: bool,
    brokers_down: Throttle,
}

/// The offsets are in the transaction: it may be committed.
pub struct OffsetsSent(());

#[derive(Clone, Copy)]
struct Sink {
    topic: TopicHandle,
    partitions: i32,
}

impl<K: Kafka> Outbox<K> {
    /// A producer for the sinks of `plan`, under a name that is nobody else's and stays the same over restarts.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(kafka: &K, plan: &Plan, name: String) -> Result<Self, ClientError> {
        let transactions = (plan.guarantee == Guarantee::ExactlyOnce).then(|| plan.transactions(&name));
        let mut producer = kafka.producer(&ProducerOptions { client_id: name, transactions })?;
        let sinks = sinks(&mut producer, plan)?;
        let sent = vec![0; sinks.len()];
        let sources = plan.sources.iter().map(|source| source.topic.clone()).collect();
        Ok(Self { producer, sources, sinks, sent, in_transaction: false, brokers_down: Throttle::default() })
    }

    /// Sends to the sinks of another plan from now on.
    ///
    /// # Errors
    /// A topic that cannot be used.
    pub fn change(&mut self, plan: &Plan) -> Result<(), ClientError> {
        self.sinks = sinks(&mut self.producer, plan)?;
        self.sent = vec![0; self.sinks.len()];
        Ok(())
    }

    /// Under exactly-once: ends what an earlier producer of this name has left open. Before anything else.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn init_transactions(&self, wait: Duration) -> Result<(), TransactionError> {
        self.producer.init_transactions(wait)
    }

    /// Under exactly-once: makes sure that a transaction has begun.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn begin(&mut self) -> Result<(), TransactionError> {
        if !self.in_transaction {
            self.producer.begin_transaction()?;
            self.in_transaction = true;
        }
        Ok(())
    }

    /// Whether a transaction has begun and not ended.
    #[must_use]
    pub fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Makes offsets part of the transaction.
    ///
    /// # Errors
    /// See [`TransactionError`]; the permit comes back.
    pub fn send_offsets(
        &self,
        permit: CommitPermit,
        offsets: &[CommitOffset],
        membership: &<K::Consumer as ConsumerClient>::Membership,
        wait: Duration,
    ) -> Result<OffsetsSent, (CommitPermit, TransactionError)> {
        match self.producer.send_offsets(&self.sources, offsets, membership, wait) {
            Ok(()) => Ok(OffsetsSent(())),
            Err(error) => Err((permit, error)),
        }
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn commit(&mut self, _: &OffsetsSent, wait: Duration) -> Result<(), TransactionError> {
        self.producer.commit_transaction(wait)?;
        self.in_transaction = false;
        Ok(())
    }

    /// Aborts the transaction, if one has begun.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn abort(&mut self, wait: Duration) -> Result<(), TransactionError> {
        if self.in_transaction {
            self.producer.abort_transaction(wait)?;
            self.in_transaction = false;
        }
        Ok(())
    }

    /// Sends a record: one with a key to the partition that Kafka's own client would choose, one without to the partition with
    /// the number of its source. While there is no room, calls `meanwhile` every few milliseconds; it says whether to go on.
    ///
    /// # Errors
    /// The record cannot be sent, or `meanwhile` gave up ([`SendError::QueueFull`]).
    #[inline]
    pub fn send(
        &mut self,
        sink: usize,
        record: &RecordView<'_>,
        source_partition: i32,
        mut meanwhile: impl FnMut() -> bool,
    ) -> Result<(), SendError> {
        let Sink { topic, partitions } = self.sinks[sink];
        let target = partition::choose(record.key, source_partition, partitions);
        let mut full_since: Option<Instant> = None;
        loop {
            let headers = record.headers;
            match self.producer.send(topic, target, record.key, record.value, record.timestamp, headers) {
                Ok(()) => {
                    self.sent[sink] += 1;
                    return Ok(());
                }
                Err(SendError::QueueFull) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= FULL_MESSAGE {
                        warn!(
                            in_flight = self.producer.in_flight(),
                            "waiting: the brokers do not take records as fast as they come"
                        );
                        full_since = Some(Instant::now());
                    }
                    self.producer.poll(ROOM_WAIT);
                    if !meanwhile() {
                        return Err(SendError::QueueFull);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until everything sent is acknowledged.
    ///
    /// # Errors
    /// It is not; see [`FlushError`].
    pub fn flush(&self, wait: Duration) -> Result<Flushed, FlushError> {
        self.producer.flush(wait)
    }

    /// Hears what the producer reports.
    pub fn serve(&mut self) {
        self.producer.poll(Duration::ZERO);
        while let Some(event) = self.producer.next_event() {
            match event {
                ProducerEvent::Statistics(_) => {}
                ProducerEvent::BrokersDown => {
                    if self.brokers_down.is_due() {
                        warn!("waiting: no kafka broker can be reached to write to");
                    }
                }
                ProducerEvent::Trouble { text } => warn!("kafka producer: {text}"),
            }
        }
    }

    /// Records sent to each sink since it was last asked.
    pub fn take_sent(&mut self) -> impl Iterator<Item = (usize, u64)> {
        self.sent.iter_mut().map(std::mem::take).enumerate()
    }
}

fn sinks(producer: &mut impl ProducerClient, plan: &Plan) -> Result<Vec<Sink>, ClientError> {
    let mut sink = |sink: &SinkPlan| {
        let partitions = i32::try_from(sink.partitions).unwrap_or(i32::MAX);
        Ok(Sink { topic: producer.topic(&sink.topic)?, partitions })
    };
    plan.sinks.iter().map(&mut sink).collect()
}
