//! Writes records: idempotent, acknowledged by all replicas, each partition's records in the order they were sent.
//!
//! A record that has been taken is never given up: a broker that is away is waited for, and as the buffer is bounded, the
//! caller is told that it is full and stops taking input. What the broker refuses for good (too large, not authorized) shows up
//! in [`Producer::flush`], which succeeds only when everything sent before it has been written.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer as _};
use thiserror::Error;

use super::ClientError;
use super::access::advice;
use super::context::{Context, Notice};
use super::native::Writer;
use super::settings::{KafkaSettings, creation_error};
use super::statistics::Statistics;

/// Failures kept for the report; more are only counted.
const FAILURES_MAX: usize = 100;
/// Waiting for acknowledgements is interrupted this often, to hear of failures.
const FLUSH_SLICE: Duration = Duration::from_millis(100);
/// How many reports of librdkafka are served in one go.
const NOTICES_MAX: usize = 1024;

/// What a producer is made with.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Name of this client in the broker's logs and metrics.
    pub client_id: String,
    /// For transactions.
    pub transactions: Option<Transactions>,
}

/// What a producer with transactions is made with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transactions {
    /// The same over restarts, so that the successor of a producer that was killed ends its transaction.
    pub id: String,
    /// After this time the broker aborts an open transaction.
    pub timeout: Duration,
}

/// A topic of one producer, by the order in which it was first asked for. Not valid for another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TopicHandle(pub usize);

/// A record was not taken.
#[derive(Clone, Debug, Error)]
pub enum SendError {
    /// The buffer is full. Let some time pass with [`Producer::poll`] and send again.
    #[error("the producer's queue is full")]
    QueueFull,
    /// Larger than `message.max.bytes`.
    #[error("the record is larger than `message.max.bytes` of the producer allows")]
    TooLarge,
    /// There is no such topic or partition (any more).
    #[error("the topic or its partition {partition} does not exist")]
    UnknownTopicOrPartition {
        /// The partition asked for.
        partition: i32,
    },
    /// This client may not write to the topic.
    #[error("not authorized to write to the topic{}", advice(RDKafkaErrorCode::TopicAuthorizationFailed))]
    NotAuthorized,
    /// The producer has failed for good; a new one is needed.
    #[error("the producer has failed for good: {text}")]
    Fatal {
        /// In librdkafka's words.
        text: String,
    },
    /// Something else.
    #[error("send a record: {0}")]
    Other(RDKafkaErrorCode),
}

impl SendError {
    /// Whether the record is not to blame, but the transaction that it belongs to: that has to be aborted.
    #[must_use]
    pub fn is_of_transaction(&self) -> bool {
        matches!(self, Self::Fatal { .. } | Self::Other(RDKafkaErrorCode::State))
    }
}

/// A record that was taken and then refused by the broker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeliveryFailure {
    /// Topic.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Why.
    pub code: RDKafkaErrorCode,
}

impl DeliveryFailure {
    /// Whether this record, or one beside it in its request, is to blame.
    #[must_use]
    pub fn is_of_record(&self) -> bool {
        use RDKafkaErrorCode as Code;
        matches!(
            self.code,
            Code::MessageSizeTooLarge
                | Code::MessageBatchTooLarge
                | Code::InvalidMessage
                | Code::InvalidMessageSize
                | Code::InvalidTimestamp
                | Code::InvalidRecord
                | Code::PolicyViolation
        )
    }

    /// Whether the record or its topic is to blame, so that sending it again cannot help. Otherwise it failed with its
    /// transaction.
    #[must_use]
    pub fn is_final(&self) -> bool {
        use RDKafkaErrorCode as Code;
        let is_of_topic = matches!(
            self.code,
            Code::InvalidTopic
                | Code::TopicAuthorizationFailed
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition
        );
        is_of_topic || self.is_of_record()
    }
}

impl fmt::Display for DeliveryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic `{}` partition {}: {}{}", self.topic, self.partition, self.code, advice(self.code))
    }
}

/// Everything sent has been written, and nothing sent since the producer was made has failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flushed(());

impl Flushed {
    /// Only for what implements [`ProducerClient::flush`](super::clients::ProducerClient::flush), and only as its answer: a commit
    /// relies on it.
    #[must_use]
    pub fn attested() -> Self {
        Self(())
    }
}

/// Not everything sent has been written.
#[derive(Clone, Debug, Error)]
pub enum FlushError {
    /// Not yet: flush again, or drop the producer and repeat the work.
    #[error("{in_flight} records are not acknowledged yet")]
    TimedOut {
        /// How many.
        in_flight: usize,
    },
    /// Some never will be. The work since the last commit has to be repeated, without a transaction with a new producer.
    #[error("{count} records were refused; the first: {first}")]
    Refused {
        /// How many.
        count: u64,
        /// The first of them.
        first: DeliveryFailure,
    },
    /// The producer has failed for good; a new one is needed.
    #[error("the producer has failed for good: {text}")]
    Fatal {
        /// In librdkafka's words.
        text: String,
    },
}

/// Something about the producer that is not about one record.
#[derive(Debug)]
pub enum ProducerEvent {
    /// Regular numbers, every `statistics.interval.ms`.
    Statistics(Statistics),
    /// No broker can be reached. librdkafka goes on trying.
    BrokersDown,
    /// Something else, that librdkafka recovers from by itself.
    Trouble {
        /// In librdkafka's words.
        text: String,
    },
}

/// What went wrong and what happened, since the producer was made.
#[derive(Debug, Default)]
struct Ledger {
    failures: Vec<DeliveryFailure>,
    failures_count: u64,
    fatal: Option<String>,
    events: VecDeque<ProducerEvent>,
}

/// An idempotent producer. Dropping it throws away what has not been written yet.
pub struct Producer {
    writer: Writer,
    transactional_id: Option<String>,
    /// Whether a transaction is open.
    pub(super) in_transaction: Cell<bool>,
    topics: Vec<String>,
    ledger: RefCell<Ledger>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl Producer {
    /// Makes a producer. Does not wait for a broker.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(settings: &KafkaSettings, options: &ProducerOptions) -> Result<Self, ClientError> {
        let config = settings.producer_config(&options.client_id, options.transactions.as_ref())?;
        let producer: BaseProducer<Context> = config.create_with_context(Context::default()).map_err(creation_error)?;
        let transactional_id = options.transactions.as_ref().map(|transactions| transactions.id.clone());
        Ok(Self {
            writer: Writer::new(producer),
            transactional_id,
            in_transaction: Cell::new(false),
            topics: Vec::new(),
            ledger: RefCell::default(),
        })
    }

    /// Empty without transactions.
    pub(super) fn transactional_id(&self) -> &str {
        self.transactional_id.as_deref().unwrap_or_default()
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// What was refused belonged to a transaction that has been aborted.
    pub(super) fn forget_failures(&self) {
        self.poll(Duration::ZERO);
        let mut ledger = self.ledger.borrow_mut();
        ledger.failures.clear();
        ledger.failures_count = 0;
    }

    fn native(&self) -> &BaseProducer<Context> {
        self.writer.producer()
    }

    /// A handle for a topic; the same one for the same name.
    ///
    /// # Errors
    /// It is no topic name.
    pub fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError> {
        if let Some(index) = self.topics.iter().position(|topic| topic == name) {
            return Ok(TopicHandle(index));
        }
        let index = self.writer.add_topic(name).ok_or_else(|| ClientError::TopicName { topic: name.to_owned() })?;
        self.topics.push(name.to_owned());
        Ok(TopicHandle(index))
    }

    /// Takes a record, by copy; does not block. `timestamp` is in milliseconds since 1970; with a negative one (or 0) the record
    /// gets the time of sending.
    ///
    /// # Errors
    /// See [`SendError`]; the record was not taken.
    #[inline]
    pub fn send<'h>(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Result<(), SendError> {
        self.writer
            .send(topic.0, partition, key, value, timestamp.max(0), headers)
            .map_err(|code| self.send_error(code, partition))
    }

    #[cold]
    fn send_error(&self, code: RDKafkaErrorCode, partition: i32) -> SendError {
        match code {
            RDKafkaErrorCode::QueueFull => SendError::QueueFull,
            RDKafkaErrorCode::MessageSizeTooLarge => SendError::TooLarge,
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition => SendError::UnknownTopicOrPartition { partition },
            RDKafkaErrorCode::TopicAuthorizationFailed => SendError::NotAuthorized,
            RDKafkaErrorCode::State if self.is_denied() => SendError::NotAuthorized,
            RDKafkaErrorCode::Fatal => SendError::Fatal { text: self.fatal_text() },
            other => SendError::Other(other),
        }
    }

    fn fatal_text(&self) -> String {
        self.native().client().fatal_error().map_or_else(String::new, |(_, text)| text)
    }

    /// Hears what librdkafka reports, for up to `wait`.
    pub fn poll(&self, wait: Duration) {
        let context = self.native().context();
        context.serve(wait, NOTICES_MAX, |wait| self.native().poll(wait));
        while let Some(notice) = context.next() {
            self.enter(notice);
        }
    }

    fn enter(&self, notice: Notice) {
        let mut ledger = self.ledger.borrow_mut();
        match notice {
            Notice::NotDelivered { topic, partition, code } => {
                ledger.failures_count += 1;
                if ledger.failures.len() < FAILURES_MAX {
                    ledger.failures.push(DeliveryFailure { topic, partition, code });
                }
            }
            Notice::Statistics(statistics) => ledger.events.push_back(ProducerEvent::Statistics(statistics)),
            Notice::Error { code: RDKafkaErrorCode::Fatal, text } => {
                let known = self.fatal_text();
                ledger.fatal = Some(if known.is_empty() { text } else { known });
            }
            Notice::Error { code: RDKafkaErrorCode::AllBrokersDown, .. } => {
                ledger.events.push_back(ProducerEvent::BrokersDown);
            }
            // librdkafka has logged it, with the address.
            Notice::Error { code: RDKafkaErrorCode::BrokerTransportFailure, .. } => {}
            Notice::Error { code, text } => {
                ledger.events.push_back(ProducerEvent::Trouble { text: format!("{code}: {text}") });
            }
            // A consumer's.
            Notice::Assign(_) | Notice::Revoke { .. } => {}
        }
    }

    /// The next thing that happened, if any; [`Producer::poll`] and [`Producer::flush`] collect them.
    #[must_use]
    pub fn next_event(&self) -> Option<ProducerEvent> {
        self.ledger.borrow_mut().events.pop_front()
    }

    /// Records that were taken and then refused, at most the first hundred, as far as has been heard.
    #[must_use]
    pub fn failures(&self) -> Vec<DeliveryFailure> {
        self.ledger.borrow().failures.clone()
    }

    /// Records taken and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.native().in_flight_count()).unwrap_or(0)
    }

    /// Waits until everything sent has been written.
    ///
    /// # Errors
    /// See [`FlushError`]. A refused record makes every later flush fail too: there is no way to un-lose it with this producer.
    pub fn flush(&self, deadline: Instant) -> Result<Flushed, FlushError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let written = self.writer.flush(left.min(FLUSH_SLICE));
            self.poll(Duration::ZERO);
            let ledger = self.ledger.borrow();
            if let Some(text) = &ledger.fatal {
                return Err(FlushError::Fatal { text: text.clone() });
            }
            if let Some(first) = ledger.failures.first() {
                let mut first = first.clone();
                if !first.is_final() && self.is_denied() {
                    first.code = RDKafkaErrorCode::TopicAuthorizationFailed;
                }
                return Err(FlushError::Refused { count: ledger.failures_count, first });
            }
            match written {
                Ok(true) => return Ok(Flushed::attested()),
                Ok(false) if left.is_zero() => return Err(FlushError::TimedOut { in_flight: self.in_flight() }),
                Ok(false) => {}
                Err(code) => return Err(FlushError::Fatal { text: code.to_string() }),
            }
        }
    }
}
