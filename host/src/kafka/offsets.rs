//! What a group has committed, and where partitions begin and end: questions to the brokers that any thread may ask, and wait for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use thiserror::Error;

use super::TopicPartition;
use super::clients::OffsetsClient;
use super::context::Context;
use super::native::metadata_of;

/// Asking the broker failed.
#[derive(Clone, Debug, Error)]
#[error("{action}: {source}")]
pub struct RequestError {
    action: &'static str,
    #[source]
    pub(super) source: KafkaError,
}

impl RequestError {
    /// `action` failed with `code`.
    #[must_use]
    pub fn new(action: &'static str, code: RDKafkaErrorCode) -> Self {
        Self::of(action)(KafkaError::Global(code))
    }

    pub(super) fn of(action: &'static str) -> impl Fn(KafkaError) -> Self + Copy {
        move |source| Self { action, source }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        !matches!(
            self.source.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::InvalidArgument
                    | RDKafkaErrorCode::Fatal
            )
        )
    }
}

/// An offset the group has committed for a partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Committed {
    /// Of which partition.
    pub partition: TopicPartition,
    /// `None` where the group has committed nothing.
    pub offset: Option<i64>,
    /// What was stored with it; empty if nothing. Bytes that are not UTF-8 are replaced.
    pub metadata: String,
}

/// Where a partition without an offset begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// At the oldest record there is.
    Earliest,
    /// Behind the newest.
    Latest,
    /// At the first record of this time or later, in milliseconds since 1970; behind the newest if there is none.
    Timestamp(i64),
}

/// Which end of a partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// At the oldest record there is.
    Oldest,
    /// Behind the newest.
    Newest,
}

/// Asks on a consumer's connections, for as long as that consumer lives.
#[derive(Clone)]
pub struct Offsets {
    consumer: Weak<BaseConsumer<Context>>,
    topics: Arc<[String]>,
}

impl Offsets {
    pub(super) fn new(consumer: &Arc<BaseConsumer<Context>>, topics: &[String]) -> Self {
        Self { consumer: Arc::downgrade(consumer), topics: topics.into() }
    }

    fn consumer(&self, action: &'static str) -> Result<Arc<BaseConsumer<Context>>, RequestError> {
        self.consumer.upgrade().ok_or_else(|| RequestError::new(action, RDKafkaErrorCode::BrokerDestroy))
    }

    fn topic(&self, partition: TopicPartition) -> &str {
        self.topics.get(partition.input as usize).map_or("", String::as_str)
    }

    /// An offset of each of many partitions: one request to each broker that leads some of them.
    ///
    /// # Errors
    /// A broker is away, does not answer within `wait`, or refuses.
    pub(super) fn of_all(
        &self,
        partitions: &[TopicPartition],
        at: End,
        wait: Duration,
    ) -> Result<Vec<i64>, RequestError> {
        const ACTION: &str = "look up where partitions begin and end";
        let failed = RequestError::of(ACTION);
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // Where a time is asked for, these two names stand for the first and for the last.
        let offset = match at {
            End::Oldest => Offset::Beginning,
            End::Newest => Offset::End,
        };
        let list = self.list(partitions.iter().map(|&partition| (partition, offset)));
        let list = self.consumer(ACTION)?.offsets_for_times(list, wait).map_err(failed)?;
        let found = |element: &TopicPartitionListElem<'_>| {
            element.error().map_err(failed)?;
            match element.offset() {
                Offset::Offset(offset) => Ok(offset),
                _ => Err(RequestError::new(ACTION, RDKafkaErrorCode::NoOffset)),
            }
        };
        list.elements().iter().map(found).collect()
    }

    fn list(&self, partitions: impl IntoIterator<Item = (TopicPartition, Offset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            let added = list.add_partition_offset(self.topic(partition), partition.partition, offset);
            added.expect("an offset is a position or a name of one");
        }
        list
    }
}

impl OffsetsClient for Offsets {
    fn committed(&self, partitions: &[TopicPartition], wait: Duration) -> Result<Vec<Committed>, RequestError> {
        const ACTION: &str = "read committed offsets";
        let failed = RequestError::of(ACTION);
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let list = self.list(partitions.iter().map(|&partition| (partition, Offset::Invalid)));
        let list = self.consumer(ACTION)?.committed_offsets(list, wait).map_err(failed)?;
        let metadata = metadata_of(&list);
        let elements = list.elements();
        let mut committed = Vec::with_capacity(partitions.len());
        for ((&partition, element), metadata) in partitions.iter().zip(&elements).zip(metadata) {
            element.error().map_err(failed)?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            committed.push(Committed { partition, offset, metadata });
        }
        Ok(committed)
    }

    fn start_offset(&self, partition: TopicPartition, start: Start, wait: Duration) -> Result<i64, RequestError> {
        const ACTION: &str = "look up the offset to start from";
        let failed = RequestError::of(ACTION);
        let consumer = self.consumer(ACTION)?;
        let ends = || consumer.fetch_watermarks(self.topic(partition), partition.partition, wait).map_err(failed);
        match start {
            Start::Earliest => Ok(ends()?.0),
            Start::Latest => Ok(ends()?.1),
            Start::Timestamp(timestamp) => {
                let list = self.list([(partition, Offset::Offset(timestamp))]);
                let list = consumer.offsets_for_times(list, wait).map_err(failed)?;
                let elements = list.elements();
                let found = elements.first().map(|element| element.error().map(|()| element.offset()));
                match found.transpose().map_err(failed)? {
                    Some(Offset::Offset(offset)) => Ok(offset),
                    _ => Ok(ends()?.1),
                }
            }
        }
    }
}
