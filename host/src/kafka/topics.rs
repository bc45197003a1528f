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
use super::access::{advice, is_refusal};
use super::context::{Context, Notice};
use super::probe;
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
    #[error("topic `{topic}`: {reason}{}", advice(*.reason))]
    Refused {
        /// Which.
        topic: String,
        /// Why.
        reason: RDKafkaErrorCode,
    },
    /// No broker lets this client in, and none will.
    #[error("kafka at {servers}: {reason}")]
    NoAccess {
        /// The brokers to begin with.
        servers: String,
        /// In librdkafka's words.
        reason: String,
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
    let mut trouble = Trouble::default();
    let mut said: Option<(String, Instant)> = None;
    loop {
        let reason = match ask(settings, &client, topics, &mut counts, &mut trouble)? {
            Answer::All => return Ok(counts),
            Answer::Waiting(reason) => reason,
            Answer::NoAccess(reason) => {
                let servers = settings.common.get("bootstrap.servers").cloned().unwrap_or_default();
                return Err(TopicsError::NoAccess { servers, reason });
            }
        };
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

/// What a round has brought.
pub(super) enum Answer {
    /// Every topic is there.
    All,
    /// For what has to be waited.
    Waiting(String),
    /// What somebody has to do something about.
    NoAccess(String),
}

fn ask(
    settings: &KafkaSettings,
    client: &BaseConsumer<Context>,
    topics: &[String],
    counts: &mut BTreeMap<String, i32>,
    trouble: &mut Trouble,
) -> Result<Answer, TopicsError> {
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
            Err(code) => return Ok(trouble.of(settings, client, code)),
        }
    }
    Ok(match missing.is_empty() {
        true => Answer::All,
        false => Answer::Waiting(format!("topic {} does not exist; create it", missing.join(", "))),
    })
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

/// What librdkafka has said about brokers that do not answer. It says so when it happens, not in answer to a question.
#[derive(Default)]
pub(super) struct Trouble {
    last: Option<(RDKafkaErrorCode, String)>,
    all_down: bool,
    probed: Option<Instant>,
}

impl Trouble {
    /// Why no broker answers, in as many words as are known.
    pub(super) fn of(
        &mut self,
        settings: &KafkaSettings,
        client: &BaseConsumer<Context>,
        code: RDKafkaErrorCode,
    ) -> Answer {
        client.poll(Duration::ZERO);
        while let Some(notice) = client.context().next() {
            match notice {
                Notice::Error { code: RDKafkaErrorCode::AllBrokersDown, .. } => self.all_down = true,
                Notice::Error { code, text } => self.last = Some((code, text)),
                _ => {}
            }
        }
        if self.probed.is_none_or(|at| at.elapsed() >= MESSAGE_EVERY) {
            self.probed = Some(Instant::now());
            if let Some(reason) = probe::ask(settings) {
                return Answer::NoAccess(reason);
            }
        }
        match &self.last {
            Some((code, text)) if self.all_down && is_refusal(*code) => {
                Answer::NoAccess(format!("{text}{}", advice(*code)))
            }
            Some((_, text)) => Answer::Waiting(format!("no broker answers ({text})")),
            None => Answer::Waiting(format!("no broker answers ({code})")),
        }
    }
}
