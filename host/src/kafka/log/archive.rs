//! Parts of a topic that were written before: from one offset to another.
//!
//! Commits nothing and joins nothing. Where records are gone, that is an error: nothing is skipped to the oldest or the newest.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message as _, Timestamp};
use rdkafka::{Offset, TopicPartitionList};

use super::{LogError, POLL, TRANSIENT, WAIT, consumer_config, failed};
use crate::kafka::context::Context;
use crate::kafka::native::HeaderIter;
use crate::kafka::settings::{KafkaSettings, creation_error};

/// What librdkafka may fetch ahead: what is wanted is often a few records of a topic that goes on.
const AHEAD_KIB: &str = "8192";

/// A topic whose older records are read.
pub struct Archive {
    consumer: BaseConsumer<Context>,
    topic: String,
}

/// A record, borrowed: copy out what is to be kept.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// Offset.
    pub offset: i64,
    /// Milliseconds since 1970, or -1 if it has none.
    pub timestamp: i64,
    /// Whether the broker gave it its timestamp, when it came.
    pub is_append_time: bool,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: HeaderIter<'a>,
}

/// How far reading got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reached {
    /// The end of what was asked for, or of the partition.
    End,
    /// The time was over, or whoever reads had enough.
    Cut,
}

impl Archive {
    /// Does not wait for a broker.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn open(settings: &KafkaSettings, topic: &str) -> Result<Self, LogError> {
        let mut config = consumer_config(settings, true)?;
        config.set("auto.offset.reset", "error").set("queued.max.messages.kbytes", AHEAD_KIB);
        let consumer = config.create_with_context(Context::default()).map_err(creation_error)?;
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// Its name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// How many partitions it has.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn partitions(&self) -> Result<i32, LogError> {
        let mut list = TopicPartitionList::new();
        let count = super::assign(&self.consumer, &self.topic, Offset::Beginning, &mut list)?;
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }

    /// The offset of the oldest record of a partition, and that behind the newest.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn bounds(&self, partition: i32) -> Result<Range<i64>, LogError> {
        let found = self.consumer.fetch_watermarks(&self.topic, partition, WAIT);
        let (oldest, end) = found.map_err(|error| failed(&self.topic, &error))?;
        Ok(oldest..end)
    }

    /// The offset of the first record of a partition with this timestamp, in milliseconds since 1970, or a later one; none if there
    /// is no such record.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn at(&self, partition: i32, timestamp: i64) -> Result<Option<i64>, LogError> {
        let list = self.list(partition, Offset::Offset(timestamp))?;
        let found = self.consumer.offsets_for_times(list, WAIT).map_err(|error| failed(&self.topic, &error))?;
        let Some(element) = found.elements().into_iter().next() else { return Ok(None) };
        element.error().map_err(|error| failed(&self.topic, &error))?;
        match element.offset() {
            Offset::Offset(offset) => Ok(Some(offset)),
            _ => Ok(None),
        }
    }

    /// Reads the records of a partition whose offsets are in a range, as far as they are committed, until `until` at most.
    ///
    /// # Errors
    /// The first of them are gone; see [`LogError`].
    pub fn read(
        &self,
        partition: i32,
        range: Range<i64>,
        until: Option<Instant>,
        mut each: impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<Reached, LogError> {
        if range.is_empty() {
            return Ok(Reached::End);
        }
        let list = self.list(partition, Offset::Offset(range.start))?;
        self.consumer.assign(&list).map_err(|error| failed(&self.topic, &error))?;
        let reached = self.read_assigned(partition, &range, until, &mut each);
        // Nothing more is fetched.
        self.consumer.unassign().map_err(|error| failed(&self.topic, &error))?;
        reached
    }

    fn read_assigned(
        &self,
        partition: i32,
        range: &Range<i64>,
        until: Option<Instant>,
        each: &mut impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<Reached, LogError> {
        let mut heard = Instant::now();
        loop {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(Reached::Cut);
            }
            let message = match self.consumer.poll(left.min(POLL)) {
                Some(Err(KafkaError::PartitionEOF(of))) if of == partition => return Ok(Reached::End),
                Some(Ok(message)) => message,
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    let reason =
                        format!("the records of partition {partition} from offset {} on are gone", range.start);
                    return Err(LogError::Kafka { topic: self.topic.clone(), reason });
                }
                None | Some(Err(KafkaError::PartitionEOF(_))) if heard.elapsed() < WAIT => continue,
                Some(Err(error)) => match error.rdkafka_error_code() {
                    // librdkafka goes on by itself.
                    Some(code) if TRANSIENT.contains(&code) && heard.elapsed() < WAIT => continue,
                    _ => return Err(failed(&self.topic, &error)),
                },
                None => {
                    let reason = format!("nothing has come for {WAIT:?}");
                    return Err(LogError::Kafka { topic: self.topic.clone(), reason });
                }
            };
            heard = Instant::now();
            if message.partition() != partition || message.offset() < range.start {
                continue;
            }
            if message.offset() >= range.end {
                return Ok(Reached::End);
            }
            let found = Found {
                offset: message.offset(),
                timestamp: message.timestamp().to_millis().unwrap_or(-1),
                is_append_time: matches!(message.timestamp(), Timestamp::LogAppendTime(_)),
                key: message.key(),
                value: message.payload(),
                headers: HeaderIter::of(&message),
            };
            if each(found).is_break() {
                return Ok(Reached::Cut);
            }
            if message.offset() + 1 == range.end {
                return Ok(Reached::End);
            }
        }
    }

    fn list(&self, partition: i32, offset: Offset) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, offset).map_err(|error| failed(&self.topic, &error))?;
        Ok(list)
    }
}
