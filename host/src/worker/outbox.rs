//! The sinks of a thread: chooses partitions, sends, and lets the input wait while the producer's buffer is full.
//!
//! While a transaction is being committed, nothing more may go into it: outputs are held back until the next one begins. And the
//! producer is away: what is asked of the brokers about a transaction blocks, and the thread has other things to do meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::warn;

use super::permit::CommitPermit;
use super::plan::{Plan, SinkPlan};
use super::runtime::Runtime;
use super::throttle::Throttle;
use crate::config::Guarantee;
use crate::kafka::clients::{ConsumerClient, Kafka, ProducerClient};
use crate::kafka::consumer::CommitOffset;
use crate::kafka::producer::{FlushError, Flushed, ProducerEvent, ProducerOptions, SendError, TopicHandle};
use crate::kafka::transaction::TransactionError;
use crate::kafka::{ClientError, partition};
use crate::record::{Batch, RecordView};

/// How long the brokers may take to answer what is asked about a transaction, before they are asked again.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// So many bytes of outputs are held back at most, and those of one more batch.
const HELD_MAX: usize = 16 << 20;
const IN_USE: &str = "the producer is used while a question is under way";
/// How long to wait for room before looking again whether to go on.
const ROOM_WAIT: Duration = Duration::from_millis(5);
/// A buffer that stays full this long is worth a message.
const FULL_MESSAGE: Duration = Duration::from_secs(10);

/// Sends records to sinks.
pub struct Outbox<K: Kafka> {
    runtime: Arc<dyn Runtime>,
    producer: Place<K::Producer>,
    sources: Vec<String>,
    sinks: Vec<Sink>,
    sent: Vec<u64>,
    in_transaction: bool,
    /// The transaction takes nothing more.
    closed: bool,
    /// Outputs for the next one, each with its sink.
    held: Vec<(usize, Batch)>,
    held_bytes: usize,
    brokers_down: Throttle,
}

/// Where the producer is.
enum Place<P> {
    Here(P),
    /// With a question about its transaction.
    Asking {
        commit: bool,
        answer: BoxFuture<'static, Option<(P, Result<(), TransactionError>)>>,
    },
    /// Only within a method, and after the runtime has ended.
    Gone,
}

impl<P> Place<P> {
    fn here(&self) -> &P {
        match self {
            Self::Here(producer) => producer,
            _ => panic!("{IN_USE}"),
        }
    }

    fn here_mut(&mut self) -> &mut P {
        match self {
            Self::Here(producer) => producer,
            _ => panic!("{IN_USE}"),
        }
    }
}

/// The offsets are in the transaction: it may be committed.
pub struct OffsetsSent(());

#[derive(Clone, Copy)]
struct Sink {
    topic: TopicHandle,
    partitions: i32,
    /// Whether a record's key chooses its partition.
    by_key: bool,
}

impl<K: Kafka> Outbox<K> {
    /// A producer for the sinks of `plan`, under a name that is nobody else's and stays the same over restarts.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(kafka: &K, plan: &Plan, name: String, runtime: Arc<dyn Runtime>) -> Result<Self, ClientError> {
        let transactions = (plan.guarantee == Guarantee::ExactlyOnce).then(|| plan.transactions(&name));
        let mut producer = kafka.producer(&ProducerOptions { client_id: name, transactions })?;
        let sinks = sinks(&mut producer, plan)?;
        let sent = vec![0; sinks.len()];
        let sources = plan.sources.iter().map(|source| source.topic.clone()).collect();
        Ok(Self {
            runtime,
            producer: Place::Here(producer),
            sources,
            sinks,
            sent,
            in_transaction: false,
            closed: false,
            held: Vec::new(),
            held_bytes: 0,
            brokers_down: Throttle::default(),
        })
    }

    /// Sends to the sinks of another plan from now on.
    ///
    /// # Errors
    /// A topic that cannot be used.
    pub fn change(&mut self, plan: &Plan) -> Result<(), ClientError> {
        self.sinks = sinks(self.producer.here_mut(), plan)?;
        self.sent = vec![0; self.sinks.len()];
        Ok(())
    }

    /// Under exactly-once: ends what an earlier producer of this name has left open. Before anything else.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn init_transactions(&self, wait: Duration) -> Result<(), TransactionError> {
        self.producer.here().init_transactions(wait)
    }

    /// Under exactly-once: makes sure that a transaction has begun.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn begin(&mut self) -> Result<(), TransactionError> {
        if !self.in_transaction {
            self.producer.here().begin_transaction()?;
            self.in_transaction = true;
        }
        Ok(())
    }

    /// Whether a transaction has begun and not ended.
    #[must_use]
    pub fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// The transaction is being committed: takes nothing more into it.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether outputs have to be [held back](Outbox::hold).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Holds outputs back for the next transaction.
    pub fn hold(&mut self, sink: usize, held: Batch) {
        self.held_bytes += held.bytes();
        self.held.push((sink, held));
    }

    /// Whether more may be held back.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.held_bytes < HELD_MAX
    }

    /// The transaction has ended. Returns what was held back, to be sent or to be forgotten.
    pub fn open(&mut self) -> Vec<(usize, Batch)> {
        self.closed = false;
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// Whether a question about the transaction is under way.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        !matches!(self.producer, Place::Here(_))
    }

    fn ask(
        &mut self,
        commit: bool,
        question: impl FnOnce(&K::Producer) -> Result<(), TransactionError> + Send + 'static,
    ) {
        let producer = match std::mem::replace(&mut self.producer, Place::Gone) {
            Place::Here(producer) => producer,
            asking => {
                self.producer = asking;
                return;
            }
        };
        let asking = move || {
            let answer = question(&producer);
            (producer, answer)
        };
        self.producer = Place::Asking { commit, answer: self.runtime.blocking(Box::new(asking)).boxed() };
    }

    /// The answer to what was asked, if it is there within `wait`.
    fn answer(&mut self, wait: Duration) -> Option<Result<(), TransactionError>> {
        let Place::Asking { commit, answer } = &mut self.producer else { return None };
        let commit = *commit;
        let Some((producer, result)) = self.runtime.output_of(answer, wait)? else {
            // A defect, whose message is out already, or the runtime's end: as a panic on the thread itself would.
            std::panic::resume_unwind(Box::new("a question to kafka did not come to its end"))
        };
        self.producer = Place::Here(producer);
        if commit && result.is_ok() {
            self.in_transaction = false;
        }
        Some(result)
    }

    /// Asks for offsets to be made part of the transaction.
    pub fn ask_offsets(
        &mut self,
        _: &CommitPermit,
        offsets: Vec<CommitOffset>,
        membership: <K::Consumer as ConsumerClient>::Membership,
    ) {
        let sources = self.sources.clone();
        self.ask(false, move |producer| producer.send_offsets(&sources, &offsets, &membership, ANSWER_WAIT));
    }

    /// The offsets that were asked for are part of the transaction.
    ///
    /// # Errors
    /// See [`TransactionError`]; the permit comes back.
    pub fn offsets_sent(
        &mut self,
        permit: CommitPermit,
        wait: Duration,
    ) -> Result<OffsetsSent, (CommitPermit, TransactionError)> {
        match self.answer(wait).unwrap_or_else(under_way) {
            Ok(()) => Ok(OffsetsSent(())),
            Err(error) => Err((permit, error)),
        }
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn commit(&mut self, _: &OffsetsSent, wait: Duration) -> Result<(), TransactionError> {
        self.ask(true, |producer| producer.commit_transaction(ANSWER_WAIT));
        self.answer(wait).unwrap_or_else(under_way)
    }

    /// Aborts the transaction, if one has begun; what was asked before is waited for first.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn abort(&mut self, wait: Duration) -> Result<(), TransactionError> {
        if self.is_asking()
            && let Err(error) = self.answer(wait).unwrap_or_else(under_way)
            && (self.is_asking() || !matches!(error, TransactionError::Again { .. } | TransactionError::Abort { .. }))
        {
            return Err(error);
        }
        if self.in_transaction {
            self.producer.here().abort_transaction(wait)?;
            self.in_transaction = false;
        }
        Ok(())
    }

    /// Sends a record: one with a key to the partition that Kafka's own client would choose, one without, and a dead letter, to the
    /// partition with the number of its source. While there is no room, calls `meanwhile` every few milliseconds; it says whether to go on.
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
        let Sink { topic, partitions, by_key } = self.sinks[sink];
        let target = partition::choose(record.key.filter(|_| by_key), source_partition, partitions);
        let mut full_since: Option<Instant> = None;
        loop {
            let headers = record.headers;
            match self.producer.here().send(topic, target, record.key, record.value, record.timestamp, headers) {
                Ok(()) => {
                    self.sent[sink] += 1;
                    return Ok(());
                }
                Err(SendError::QueueFull) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= FULL_MESSAGE {
                        warn!(
                            in_flight = self.producer.here().in_flight(),
                            "waiting: the brokers do not take records as fast as they come"
                        );
                        full_since = Some(Instant::now());
                    }
                    self.producer.here().poll(ROOM_WAIT);
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
        self.producer.here().flush(wait)
    }

    /// Hears what the producer reports.
    pub fn serve(&mut self) {
        let Place::Here(producer) = &self.producer else { return };
        producer.poll(Duration::ZERO);
        while let Some(event) = producer.next_event() {
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

fn under_way() -> Result<(), TransactionError> {
    Err(TransactionError::Again { text: "the brokers have not answered yet".to_owned() })
}

fn sinks(producer: &mut impl ProducerClient, plan: &Plan) -> Result<Vec<Sink>, ClientError> {
    let mut sink = |(at, sink): (usize, &SinkPlan)| {
        let partitions = i32::try_from(sink.partitions).unwrap_or(i32::MAX);
        // Dead letters stay in the partition of their task.
        Ok(Sink { topic: producer.topic(&sink.topic)?, partitions, by_key: !plan.is_dead_letters(at) })
    };
    plan.sinks.iter().enumerate().map(&mut sink).collect()
}
