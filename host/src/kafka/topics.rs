//! Waits until topics are there, and says how many partitions they have.
//!
//! Uses a client of its own, without a group, that asks for the named topics only: listing all of a cluster is slow, and a
//! consumer does not create what it asks for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use thiserror::Error;

use super::ClientError;
use super::context::{Context, Notice};
use super::settings::{KafkaSettings, creation_error};

const REQUEST_WAIT: Duration = Duration::from_millis(1000);
const RETRY: Duration = Duration::from_millis(200);
const MESSAGE_EVERY: Duration = Duration::from_secs(5);

/// Topics are not there.
#[derive(Debug, Error)]
pub enum TopicsError {
    /// No client could be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker refuses.
    #[error("topic `{topic}`: {reason}")]
    Refused {
        /// Which.
        topic: String,
        /// Why.
        reason: RDKafkaErrorCode,
    },
    /// The deadline has passed.
    #[error("after {waited:?} still {reason}")]
    TimedOut {
        /// What is missing.
        reason: String,
        /// For how long it was waited.
        waited: Duration,
    },
    /// The caller does not want to wait any longer.
    #[error("waiting for topics was cancelled")]
    Cancelled,
}

/// Waits until all `topics` exist, for ever without a `deadline`, and returns the number of partitions of each. What is being
/// waited for is logged at once and every few seconds. `cancelled` is asked several times a second.
///
/// # Errors
/// See [`TopicsError`].
pub fn wait_for_topics(
    settings: &KafkaSettings,
    topics: &[String],
    deadline: Option<Duration>,
    mut cancelled: impl FnMut() -> bool,
) -> Result<BTreeMap<String, i32>, TopicsError> {
    let begin = Instant::now();
    let client: BaseConsumer<Context> = settings
        .metadata_config()
        .map_err(ClientError::from)?
        .create_with_context(Context::default())
        .map_err(creation_error)?;
    let mut counts = BTreeMap::new();
    let mut said: Option<(String, Instant)> = None;
    loop {
        let reason = ask(&client, topics, &mut counts)?;
        let Some(reason) = reason else { return Ok(counts) };
        if cancelled() {
            return Err(TopicsError::Cancelled);
        }
        if deadline.is_some_and(|deadline| begin.elapsed() >= deadline) {
            return Err(TopicsError::TimedOut { reason, waited: begin.elapsed() });
        }
        if said.as_ref().is_none_or(|(before, at)| *before != reason || at.elapsed() >= MESSAGE_EVERY) {
            tracing::warn!(waited_s = begin.elapsed().as_secs(), "waiting: {reason}");
            said = Some((reason, Instant::now()));
        }
        client.poll(RETRY);
    }
}

/// One round. Returns what is missing.
fn ask(
    client: &BaseConsumer<Context>,
    topics: &[String],
    counts: &mut BTreeMap<String, i32>,
) -> Result<Option<String>, TopicsError> {
    let mut missing = Vec::new();
    for topic in topics {
        if counts.contains_key(topic) {
            continue;
        }
        match partition_count(client, topic) {
            Ok(count) => {
                counts.insert(topic.clone(), count);
            }
            Err(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::LeaderNotAvailable,
            ) => missing.push(format!("`{topic}`")),
            Err(
                reason @ (RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::InvalidTopic
                | RDKafkaErrorCode::InvalidArgument),
            ) => return Err(TopicsError::Refused { topic: topic.clone(), reason }),
            Err(code) => return Ok(Some(broker_trouble(client, code))),
        }
    }
    Ok((!missing.is_empty()).then(|| format!("topic {} does not exist; create it", missing.join(", "))))
}

fn partition_count(client: &BaseConsumer<Context>, topic: &str) -> Result<i32, RDKafkaErrorCode> {
    let metadata = client
        .fetch_metadata(Some(topic), REQUEST_WAIT)
        .map_err(|error| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))?;
    let entry = metadata.topics().iter().find(|entry| entry.name() == topic);
    let entry = entry.ok_or(RDKafkaErrorCode::UnknownTopic)?;
    if let Some(error) = entry.error() {
        return Err(error.into());
    }
    match i32::try_from(entry.partitions().len()) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(RDKafkaErrorCode::UnknownTopic),
    }
}

/// Why no broker answers, in as many words as are known.
fn broker_trouble(client: &BaseConsumer<Context>, code: RDKafkaErrorCode) -> String {
    client.poll(Duration::ZERO);
    let mut text = None;
    while let Some(notice) = client.context().next() {
        if let Notice::Error { code, text: said } = notice
            && code != RDKafkaErrorCode::AllBrokersDown
        {
            text = Some(said);
        }
    }
    match text {
        Some(text) => format!("no broker answers ({text})"),
        None => format!("no broker answers ({code})"),
    }
}
