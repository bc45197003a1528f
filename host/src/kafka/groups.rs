//! What is done with a consumer group from outside.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::error::RDKafkaErrorCode;

use super::clients::OffsetsClient;
use super::consumer::{CommitError, CommitOffset, Consumer, ConsumerOptions};
use super::context::Context;
use super::offsets::{Committed, End, RequestError, Start};
use super::settings::{KafkaSettings, creation_error};
use super::{ClientError, TopicPartition};

/// How long the brokers may take.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// Deletes a group with its offsets; one that does not exist is deleted already.
///
/// # Errors
/// It has members, or the brokers do not do it, in librdkafka's words.
pub fn delete(settings: &KafkaSettings, group: &str) -> Result<(), String> {
    let failed = |error: ClientError| error.to_string();
    let config = settings.metadata_config().map_err(|error| failed(error.into()))?;
    let admin: AdminClient<Context> =
        config.create_with_context(Context::default()).map_err(|error| failed(creation_error(error)))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST_WAIT));
    let answers = futures::executor::block_on(admin.delete_groups(&[group], &options));
    let answers = answers.map_err(|error| error.to_string())?;
    match answers.into_iter().next() {
        Some(Err((_, code @ RDKafkaErrorCode::GroupAuthorizationFailed))) => {
            Err(format!("group `{group}`: {code}; grant this user `Delete` on the group"))
        }
        Some(Err((_, code))) if code != RDKafkaErrorCode::GroupIdNotFound => Err(code.to_string()),
        _ => Ok(()),
    }
}

/// Reads and writes the offsets of a group from outside, without being a member.
pub struct GroupClient {
    consumer: Consumer,
    topics: usize,
}

impl GroupClient {
    /// For a group that reads these topics. Does not wait for a broker.
    ///
    /// # Errors
    /// Settings or topic names that cannot be used.
    pub fn new(settings: &KafkaSettings, group: &str, topics: &[String]) -> Result<Self, ClientError> {
        let options = ConsumerOptions {
            group_id: group.to_owned(),
            client_id: format!("{group}/outside"),
            topics: topics.to_vec(),
        };
        Ok(Self { consumer: Consumer::new(settings, &options)?, topics: topics.len() })
    }

    /// What the group has committed for these partition numbers of every topic, in one request: for each number, the topics in
    /// their order.
    ///
    /// # Errors
    /// The broker does not answer within `wait`, or refuses.
    pub fn committed(&self, partitions: &[u32], wait: Duration) -> Result<Vec<Vec<Committed>>, RequestError> {
        let all: Vec<TopicPartition> = partitions.iter().flat_map(|partition| self.inputs(*partition)).collect();
        let found = self.consumer.offsets().committed(&all, wait)?;
        Ok(found.chunks(self.topics.max(1)).map(<[Committed]>::to_vec).collect())
    }

    /// How many members the group has; none if there is no such group.
    ///
    /// # Errors
    /// The broker does not answer within `wait`, or refuses.
    pub fn members(&self, wait: Duration) -> Result<usize, RequestError> {
        self.consumer.members(wait).map_err(|code| RequestError::new("describe the group", code))
    }

    /// An offset of a partition of every topic, in their order.
    ///
    /// # Errors
    /// The broker does not answer within `wait`, or refuses.
    pub fn offsets(&self, partition: u32, at: Start, wait: Duration) -> Result<Vec<i64>, RequestError> {
        let offsets = self.consumer.offsets();
        self.inputs(partition).map(|input| offsets.start_offset(input, at, wait)).collect()
    }

    /// One end of these partition numbers of every topic: for each number, the topics in their order.
    ///
    /// # Errors
    /// The broker does not answer within `wait`, or refuses.
    pub fn ends(&self, partitions: &[u32], at: End, wait: Duration) -> Result<Vec<Vec<i64>>, RequestError> {
        let all: Vec<TopicPartition> = partitions.iter().flat_map(|partition| self.inputs(*partition)).collect();
        let found = self.consumer.offsets().of_all(&all, at, wait)?;
        Ok(found.chunks(self.topics.max(1)).map(<[i64]>::to_vec).collect())
    }

    /// Commits offsets of a partition number, for the topics in their order. The group must have no members.
    ///
    /// # Errors
    /// The broker does not answer within `wait`, or refuses.
    pub fn commit(&mut self, offsets: &[(u32, Vec<i64>)], wait: Duration) -> Result<(), CommitError> {
        let of = |(partition, offsets): &(u32, Vec<i64>)| {
            let commit = |(partition, offset)| CommitOffset { partition, offset, metadata: String::new() };
            self.inputs(*partition).zip(offsets.clone()).map(commit).collect::<Vec<_>>()
        };
        let all: Vec<CommitOffset> = offsets.iter().flat_map(of).collect();
        self.consumer.commit(&all, wait)
    }

    fn inputs(&self, partition: u32) -> impl Iterator<Item = TopicPartition> + use<> {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        (0u32..).take(self.topics).map(move |input| TopicPartition { input, partition })
    }
}
