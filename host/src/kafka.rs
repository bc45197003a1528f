//! Kafka: the only place that names rdkafka. It knows nothing of plugins and of state.
//!
//! Everything here blocks and belongs on a worker's own OS thread; a [`Consumer`](consumer::Consumer) or
//! [`Producer`](producer::Producer) is used by one thread at a time; [`Offsets`](offsets::Offsets) may be asked by any. Records cross the border borrowed, a batch at a time,
//! and nothing is allocated per record on this side. `unsafe` is confined to [`native`], which wraps the calls of librdkafka
//! that rdkafka has no form for.
//!
//! Not here: what to do about a group event or an error; the worker decides.

mod access;
pub mod clients;
pub mod consumer;
mod context;
pub mod embedded;
pub mod groups;
pub mod log;
mod native;
pub mod offsets;
pub mod partition;
mod probe;
pub mod producer;
pub mod settings;
pub mod statistics;
pub mod survey;
pub mod topics;
pub mod transaction;

use std::fmt;

pub use self::native::{Fetched, HeaderIter};

/// A partition of one of the consumer's topics.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TopicPartition {
    /// Index of the topic among those the consumer was made with.
    pub input: u32,
    /// Partition number.
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input {} partition {}", self.input, self.partition)
    }
}

/// The version of librdkafka.
#[must_use]
pub fn librdkafka_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Settings that librdkafka or Sluicegate refuses.
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    /// A topic name no broker would take.
    #[error("`{topic}` is no topic name")]
    TopicName {
        /// The name.
        topic: String,
    },
    /// librdkafka refuses for another reason.
    #[error("make the kafka client: {0}")]
    Client(#[source] rdkafka::error::KafkaError),
}
