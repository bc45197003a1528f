//! What a consumer says: what has happened, and how what it was asked for went.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use thiserror::Error;

#[cfg(doc)]
use super::Consumer;
use crate::kafka::TopicPartition;
use crate::kafka::statistics::Statistics;

/// Something happened. In the order of happening.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// The group gives these partitions to this member: answer with [`Consumer::accept`], also when there are none. The group
    /// waits for it.
    Assigned(Vec<TopicPartition>),
    /// The group wants these partitions back: commit, then answer with [`Consumer::release`]. The group waits for it.
    Revoked {
        /// Which.
        partitions: Vec<TopicPartition>,
        /// Another member may own them already: commits will be refused, so do not commit.
        lost: bool,
    },
    /// An offset commit that was not waited for has ended.
    Committed(Result<(), CommitError>),
    /// A partition cannot be read.
    PartitionFailed {
        /// Which.
        partition: TopicPartition,
        /// Why.
        fault: PartitionFault,
        /// In librdkafka's words.
        text: String,
    },
    /// Regular numbers, every `statistics.interval.ms`.
    Statistics {
        /// All of them.
        statistics: Statistics,
        /// Records behind the end, of each started partition whose end is known.
        lag: Vec<(TopicPartition, u64)>,
    },
    /// No broker can be reached. librdkafka goes on trying, and so may the caller.
    BrokersDown,
    /// Something else, that librdkafka recovers from by itself.
    Trouble {
        /// In librdkafka's words.
        text: String,
    },
}

/// Why a partition cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PartitionFault {
    /// The offset asked for does not exist (any more): retention was shorter than the outage, or the topic was made anew.
    OffsetOutOfRange,
    /// This client may not read the topic.
    NotAuthorized,
    /// Topic or partition is gone.
    Unknown,
    /// Something else.
    Other,
}

impl PartitionFault {
    pub(super) fn of(code: RDKafkaErrorCode) -> Self {
        match code {
            RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::NoOffset => {
                Self::OffsetOutOfRange
            }
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed => {
                Self::NotAuthorized
            }
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition => Self::Unknown,
            _ => Self::Other,
        }
    }
}

/// What a fetch brought.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FetchOutcome {
    /// Records given to the sink.
    pub records: usize,
    /// Bytes of their keys and values.
    pub bytes: usize,
    /// Whether [`Consumer::next_event`] has something.
    pub events: bool,
}

/// This consumer is finished; a new one is needed.
#[derive(Clone, Debug, Error)]
#[error("the consumer has failed for good: {text}")]
pub struct ConsumeError {
    /// In librdkafka's words.
    pub text: String,
}

/// An offset, and what belongs to it, for a commit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommitOffset {
    /// Of which partition.
    pub partition: TopicPartition,
    /// Offset of the next record to be read.
    pub offset: i64,
    /// Stored with it; at most 4096 bytes by the broker's default.
    pub metadata: String,
}

/// Offsets with their metadata, for librdkafka; `topics` by input.
pub(in crate::kafka) fn offset_list(topics: &[String], offsets: &[CommitOffset]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for commit in offsets {
        let Some(topic) = topics.get(commit.partition.input as usize) else { continue };
        let mut element = list.add_partition(topic, commit.partition.partition);
        element.set_offset(Offset::Offset(commit.offset)).expect("a position is an offset");
        if !commit.metadata.is_empty() {
            element.set_metadata(&commit.metadata);
        }
    }
    list
}

/// A commit of offsets that did not succeed.
#[derive(Clone, Debug, Error)]
pub enum CommitError {
    /// This member is not, or no longer, entitled to commit: the partitions have gone to somebody else or will.
    #[error("the group refuses the commit of this member: {0}")]
    NotOwner(RDKafkaErrorCode),
    /// The answer did not come in time; the commit may have been applied.
    #[error("no answer to the offset commit after {0:?}")]
    TimedOut(Duration),
    /// For another reason.
    #[error("commit offsets: {0}")]
    Failed(RDKafkaErrorCode),
}

impl CommitError {
    pub(super) fn of(code: RDKafkaErrorCode) -> Self {
        match code {
            RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::FencedInstanceId
            | RDKafkaErrorCode::FencedMemberEpoch
            | RDKafkaErrorCode::StaleMemberEpoch
            | RDKafkaErrorCode::AssignmentLost => Self::NotOwner(code),
            RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut => Self::TimedOut(Duration::ZERO),
            other => Self::Failed(other),
        }
    }

    /// Whether the same commit may succeed when it is tried again.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::NotOwner(_) => false,
            Self::Failed(code) => matches!(
                code,
                RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::WaitingForCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress
                    | RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::NetworkException
                    | RDKafkaErrorCode::TimedOutQueue
                    | RDKafkaErrorCode::Retry
                    | RDKafkaErrorCode::ThrottlingQuotaExceeded
            ),
        }
    }
}

/// Starting partitions failed.
#[derive(Clone, Debug, Error)]
pub enum StartError {
    /// One of them has not been accepted.
    #[error("{0} is not held by this consumer")]
    NotHeld(TopicPartition),
    /// librdkafka was not ready for it in time.
    #[error("{partition} could not be moved to offset {offset} in {waited:?}")]
    TimedOut {
        /// Which partition.
        partition: TopicPartition,
        /// Where to.
        offset: i64,
        /// For how long it was tried.
        waited: Duration,
    },
    /// librdkafka refuses.
    #[error("seek: {0}")]
    Refused(#[source] KafkaError),
}

/// How closing went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The member has left the group.
    Left,
    /// It took too long; a thread is left behind, and the broker finds out by the session time-out.
    Abandoned,
}
