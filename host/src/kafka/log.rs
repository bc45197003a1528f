//! A topic as a log: read whole or in part, as far as it is committed now, and appended to in one transaction. For commands, not for
//! the record path: everything blocks.

mod archive;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use thiserror::Error;

use super::ClientError;
use super::context::Context;
use super::native::HeaderIter;
use super::producer::{FlushError, Producer, ProducerOptions, SendError, Transactions};
use super::settings::{KafkaSettings, creation_error};
use super::transaction::TransactionError;

pub use self::archive::{Archive, Found, Reached};

/// How long the brokers may take to answer, and how long nothing may come while a topic is read.
const WAIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// A record as it stands in a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Partition number.
    pub partition: i32,
    /// Offset; where one is to be appended, it counts for nothing.
    pub offset: i64,
    /// Milliseconds since 1970; negative: none.
    pub timestamp: i64,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A topic cannot be read or appended to.
#[derive(Debug, Error)]
pub enum LogError {
    /// No client could be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The brokers do not answer, or refuse.
    #[error("topic `{topic}`: {reason}")]
    Kafka {
        /// Which.
        topic: String,
        /// In librdkafka's words.
        reason: String,
    },
    /// Somebody else has taken the transactional id over.
    #[error("the same command was started a second time, and goes on instead of this one: {reason}")]
    Overtaken {
        /// In librdkafka's words.
        reason: String,
    },
}

/// Reads what is in a topic, partition by partition in no order, each by offset.
///
/// # Errors
/// See [`LogError`].
pub fn read(settings: &KafkaSettings, topic: &str, mut each: impl FnMut(Entry)) -> Result<(), LogError> {
    let consumer = consumer(settings, true)?;
    let mut assignment = TopicPartitionList::new();
    let partitions = assign(&consumer, topic, Offset::Beginning, &mut assignment)?;
    // By number: a partition that grows meanwhile says several times that its end is reached.
    let mut unread: BTreeSet<i32> = (0..).take(partitions).collect();
    consumer.assign(&assignment).map_err(|error| failed(topic, &error))?;
    let mut heard = Instant::now();
    while !unread.is_empty() {
        match consumer.poll(POLL) {
            None if heard.elapsed() < WAIT => continue,
            None => {
                let reason = format!("nothing has come for {WAIT:?}");
                return Err(LogError::Kafka { topic: topic.to_owned(), reason });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(unread.remove(&partition)),
            Some(message) => each(entry(&message.map_err(|error| failed(topic, &error))?)),
        }
        heard = Instant::now();
    }
    Ok(())
}

/// What comes into topics, as it comes.
pub struct Tail {
    consumer: BaseConsumer<Context>,
    from: Offset,
    topics: BTreeSet<String>,
}

impl Tail {
    /// From the beginning of every partition, or from its end as it is then.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn new(settings: &KafkaSettings, from_beginning: bool) -> Result<Self, LogError> {
        let from = if from_beginning { Offset::Beginning } else { Offset::End };
        Ok(Self { consumer: consumer(settings, false)?, from, topics: BTreeSet::new() })
    }

    /// Follows a topic too.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn follow(&mut self, topic: &str) -> Result<(), LogError> {
        if self.topics.insert(topic.to_owned()) {
            let mut assignment = TopicPartitionList::new();
            assign(&self.consumer, topic, self.from, &mut assignment)?;
            self.consumer.incremental_assign(&assignment).map_err(|error| failed(topic, &error))?;
        }
        Ok(())
    }

    /// Takes what has come, waiting at most so long for the first record; returns how many.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn next(&mut self, wait: Duration, mut each: impl FnMut(&str, Entry)) -> Result<usize, LogError> {
        let (until, mut count) = (Instant::now() + wait, 0);
        loop {
            let left = if count > 0 { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            match self.consumer.poll(left) {
                None => return Ok(count),
                // librdkafka goes on by itself, and says so again and again.
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(|code| TRANSIENT.contains(&code)) => {
                    if left.is_zero() {
                        return Ok(count);
                    }
                }
                Some(message) => {
                    let message = message.map_err(|error| {
                        // librdkafka does not say which.
                        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
                        failed(&topics.join("`, `"), &error)
                    })?;
                    each(message.topic(), entry(&message));
                    count += 1;
                }
            }
        }
    }
}

const TRANSIENT: [RDKafkaErrorCode; 3] =
    [RDKafkaErrorCode::BrokerTransportFailure, RDKafkaErrorCode::AllBrokersDown, RDKafkaErrorCode::OperationTimedOut];

fn failed(topic: &str, error: &KafkaError) -> LogError {
    LogError::Kafka { topic: topic.to_owned(), reason: error.to_string() }
}

/// One that commits nothing, and is nobody's member.
fn consumer(settings: &KafkaSettings, tells_ends: bool) -> Result<BaseConsumer<Context>, LogError> {
    let config = consumer_config(settings, tells_ends)?;
    Ok(config.create_with_context(Context::default()).map_err(creation_error)?)
}

fn consumer_config(settings: &KafkaSettings, tells_ends: bool) -> Result<ClientConfig, LogError> {
    let mut config = settings.metadata_config().map_err(ClientError::from)?;
    config.set("enable.partition.eof", tells_ends.to_string()).set("isolation.level", "read_committed");
    config.set("group.id", "sluicegate/log").set("enable.auto.commit", "false");
    config.set("fetch.wait.max.ms", "50").set("fetch.queue.backoff.ms", "1");
    Ok(config)
}

/// Adds all partitions of a topic; how many.
fn assign(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    from: Offset,
    assignment: &mut TopicPartitionList,
) -> Result<usize, LogError> {
    let metadata = consumer.fetch_metadata(Some(topic), WAIT).map_err(|error| failed(topic, &error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    let partitions = found.map_or(0, |found| found.partitions().len());
    if partitions == 0 {
        return Err(LogError::Kafka { topic: topic.to_owned(), reason: "there is no such topic".to_owned() });
    }
    for partition in (0..partitions).filter_map(|number| i32::try_from(number).ok()) {
        assignment.add_partition_offset(topic, partition, from).map_err(|error| failed(topic, &error))?;
    }
    Ok(partitions)
}

fn entry(message: &BorrowedMessage<'_>) -> Entry {
    let header =
        |(name, value): (&[u8], Option<&[u8]>)| (String::from_utf8_lossy(name).into_owned(), value.map(<[u8]>::to_vec));
    Entry {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: HeaderIter::of(message).map(header).collect(),
    }
}

/// Appends to a topic, under a transactional id: whoever has it last is the only one that can.
pub struct Appender {
    producer: Producer,
    topic: String,
}

impl Appender {
    /// Takes the id over, which ends what an earlier holder has left open. What is read from now on is not changed by that one.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn take_over(settings: &KafkaSettings, topic: &str, id: &str) -> Result<Self, LogError> {
        let transactions = Some(Transactions { id: id.to_owned(), timeout: WAIT });
        let producer = Producer::new(settings, &ProducerOptions { client_id: id.to_owned(), transactions })?;
        let appender = Self { producer, topic: topic.to_owned() };
        appender.repeat(|producer| producer.init_transactions(POLL))?;
        Ok(appender)
    }

    /// Appends all of the entries, each to its partition, or none.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn append(mut self, entries: &[Entry]) -> Result<(), LogError> {
        let failed = |topic: &str, reason: String| LogError::Kafka { topic: topic.to_owned(), reason };
        let handle = self.producer.topic(&self.topic)?;
        self.repeat(Producer::begin_transaction)?;
        for entry in entries {
            let Entry { partition, timestamp, key, value, headers, .. } = entry;
            loop {
                let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref()));
                match self.producer.send(handle, *partition, key.as_deref(), value.as_deref(), *timestamp, headers) {
                    Ok(()) => break,
                    Err(SendError::QueueFull) => self.producer.poll(POLL),
                    Err(error) => return Err(failed(&self.topic, error.to_string())),
                }
            }
        }
        match self.producer.flush(Instant::now() + WAIT) {
            Ok(_) => {}
            Err(FlushError::Refused { first, .. }) if !first.is_final() => {
                return Err(LogError::Overtaken { reason: first.to_string() });
            }
            Err(error) => return Err(failed(&self.topic, error.to_string())),
        }
        self.repeat(|producer| producer.commit_transaction(POLL))
    }

    fn repeat(&self, call: impl Fn(&Producer) -> Result<(), TransactionError>) -> Result<(), LogError> {
        let until = Instant::now() + WAIT;
        loop {
            match call(&self.producer) {
                Ok(()) => return Ok(()),
                Err(TransactionError::Again { .. }) if Instant::now() < until => self.producer.poll(POLL),
                Err(TransactionError::Rebuild { text }) => return Err(LogError::Overtaken { reason: text }),
                Err(error) => return Err(LogError::Kafka { topic: self.topic.clone(), reason: error.to_string() }),
            }
        }
    }
}
