//! An in-process stand-in for a broker, for the demo and quick tests: librdkafka's own mock cluster.
//!
//! What it does not promise: durability (everything is in memory, at most about 5 MiB a partition, the oldest records go
//! silently), transactions (nothing is fenced, aborted records stay visible), looking up offsets by time, creating topics through
//! the protocol, and being quick with the classic group protocol (a join takes 3 s; use `group.protocol=consumer`). A
//! producer must not run further ahead of the readers than the retention. It is no measure of speed either.

use std::fmt;

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use thiserror::Error;

use super::settings::KafkaSettings;

/// The embedded broker refuses.
#[derive(Debug, Error)]
#[error("embedded broker: {action}: {source}")]
pub struct EmbeddedError {
    action: String,
    #[source]
    source: KafkaError,
}

/// A broker in this process, on a port of 127.0.0.1 that other processes can reach too. Ends with the value.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker").field("bootstrap", &self.bootstrap()).finish()
    }
}

impl EmbeddedBroker {
    /// Starts one.
    ///
    /// # Errors
    /// No port could be opened.
    pub fn start() -> Result<Self, EmbeddedError> {
        let cluster = MockCluster::new(1).map_err(|source| EmbeddedError { action: "start".to_owned(), source })?;
        Ok(Self { cluster })
    }

    /// For `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Settings of clients of this broker: where it is, the group protocol that is quick with it, and a short wait for records
    /// (it does not answer a fetch early when some arrive).
    #[must_use]
    pub fn settings(&self) -> KafkaSettings {
        let mut settings = KafkaSettings::default();
        settings.common.insert("bootstrap.servers".to_owned(), self.bootstrap());
        settings.consumer.insert("group.protocol".to_owned(), "consumer".to_owned());
        settings.consumer.insert("fetch.wait.max.ms".to_owned(), "10".to_owned());
        settings
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// It exists already.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), EmbeddedError> {
        self.cluster
            .create_topic(topic, partitions, 1)
            .map_err(|source| EmbeddedError { action: format!("create topic `{topic}`"), source })
    }
}
