//! What brokers say of themselves, of topics and of a group, asked once: nothing is waited for that is not there.

use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode;

use super::ClientError;
use super::access::advice;
use super::context::Context;
use super::native::{Admin, TopicDescription};
pub use super::native::{Partition, Rights};
use super::producer::{Producer, ProducerOptions, Transactions};
use super::settings::{KafkaSettings, creation_error};
use super::topics::{Answer, Trouble};
use super::transaction::TransactionError;

/// How long brokers may take altogether.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one question may take.
const REQUEST_WAIT: Duration = Duration::from_secs(3);
/// How long one attempt to take over a transactional id waits.
const INIT_WAIT: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    /// These topics.
    pub topics: Vec<String>,
    /// This consumer group.
    pub group: Option<String>,
}

/// What brokers have answered.
#[derive(Clone, Debug)]
pub struct Survey {
    /// As `host:port`.
    pub brokers: Vec<String>,
    /// Those that were asked about; or why there is no answer.
    pub topics: Result<Vec<Topic>, String>,
    /// What this user may do with the group. `None` when the broker does not say, or nobody has asked.
    pub group: Result<Option<Rights>, String>,
}

/// A topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions, or why they are not known.
    pub partitions: Result<Vec<Partition>, TopicError>,
    /// What this user may do with it. `None` when the broker does not say.
    pub rights: Option<Rights>,
}

/// Why a topic's partitions are not known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TopicError {
    /// There is no such topic.
    Missing,
    /// This user may not see it.
    Denied,
    /// Something else, in librdkafka's words.
    Other(String),
}

impl From<TopicDescription> for Topic {
    fn from(TopicDescription { name, partitions, rights }: TopicDescription) -> Self {
        let partitions = partitions.map_err(|code| match code {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => TopicError::Missing,
            RDKafkaErrorCode::TopicAuthorizationFailed => TopicError::Denied,
            other => TopicError::Other(other.to_string()),
        });
        Self { name, partitions, rights }
    }
}

/// Asks the brokers.
///
/// # Errors
/// None of them answers, or lets this user in; in words.
pub fn survey(settings: &KafkaSettings, questions: &Questions) -> Result<Survey, String> {
    let config = settings.metadata_config().map_err(|error| error.to_string())?;
    let client: BaseConsumer<Context> =
        config.create_with_context(Context::default()).map_err(|error| creation_error(error).to_string())?;
    let admin = Admin::new(&client);
    let in_words = |code: RDKafkaErrorCode| format!("{code}{}", advice(code));
    Ok(Survey {
        brokers: brokers(settings, &client, &admin)?,
        topics: match questions.topics.is_empty() {
            true => Ok(Vec::new()),
            false => match admin.topics(&questions.topics, REQUEST_WAIT) {
                Ok(topics) => Ok(topics.into_iter().map(Topic::from).collect()),
                Err(code) => Err(in_words(code)),
            },
        },
        group: match &questions.group {
            None => Ok(None),
            Some(group) => admin.group(group, PATIENCE).map(|found| found.rights).map_err(in_words),
        },
    })
}

fn brokers(settings: &KafkaSettings, client: &BaseConsumer<Context>, admin: &Admin<'_>) -> Result<Vec<String>, String> {
    let begin = Instant::now();
    let mut trouble = Trouble::default();
    loop {
        let code = match admin.brokers(REQUEST_WAIT) {
            Ok(brokers) => return Ok(brokers),
            Err(code) => code,
        };
        let reason = match trouble.of(settings, client, code) {
            Answer::NoAccess(reason) => return Err(reason),
            Answer::Waiting(reason) => reason,
            Answer::All => String::new(),
        };
        if begin.elapsed() >= PATIENCE {
            return Err(reason);
        }
        client.poll(Duration::from_millis(100));
    }
}

/// Whether transactions can be had under a transactional id: it is taken over, and nothing is written. Kafka remembers
/// the id until it expires there.
///
/// # Errors
/// They cannot, in words.
pub fn try_transactions(settings: &KafkaSettings, id: &str) -> Result<(), String> {
    let transactions = Transactions { id: id.to_owned(), timeout: PATIENCE };
    let options = ProducerOptions { client_id: id.to_owned(), transactions: Some(transactions) };
    let producer = Producer::new(settings, &options).map_err(|error: ClientError| error.to_string())?;
    let begin = Instant::now();
    loop {
        match producer.init_transactions(INIT_WAIT) {
            Ok(()) => return Ok(()),
            Err(TransactionError::Again { .. }) if begin.elapsed() < PATIENCE => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}
