//! Why a pipeline stops. Each says what happened, where, and what to do; the pipeline goes on from its last commit when it is
//! started again.

use std::fmt;

use thiserror::Error;

use super::careful::Trouble;
use crate::checkpoint::resolve::{Disagreement, OffsetsGone};
use crate::checkpoint::store::StateError;
use crate::engine::{CallError, Conversion, OpenError};
use crate::ids::{ManifestId, TaskId};
use crate::kafka::ClientError;
use crate::kafka::consumer::{CommitError, ConsumeError, StartError};
use crate::kafka::offsets::RequestError;
use crate::kafka::producer::{FlushError, SendError};
use crate::kafka::transaction::TransactionError;

/// Where a record comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// Source topic.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {} partition {} offset {}", self.topic, self.partition, self.offset)
    }
}

/// The first and last record of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Span {
    /// The first record.
    pub first: Origin,
    /// The offset of the last record, in whatever partition it is.
    pub last_offset: i64,
    /// How many records.
    pub records: usize,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ({} records)", self.first, self.last_offset, self.records)
    }
}

/// Why a pipeline stops.
#[derive(Debug, Error)]
pub enum Failure {
    /// A record was rejected, and `on-error` is `"stop"`.
    #[error(
        "transform `{transform}` rejects the record at {origin}: {reason}\nfix the record's producer or the plugin; or, under [errors], set a `dead-letter-topic` to put such records aside, or `on-error = \"skip\"` to leave them out"
    )]
    Rejected {
        /// Which transform.
        transform: String,
        /// Which record.
        origin: Origin,
        /// The plugin's words.
        reason: String,
    },
    /// A plugin fails on a record, and `on-error` is `"stop"`.
    #[error(
        "transform `{transform}` fails on the record at {origin}: {}\nfix the plugin; or, under [errors], set a `dead-letter-topic` to put such records aside, or `on-error = \"skip\"` to leave them out",
        .trouble.reason
    )]
    Failed {
        /// Which transform.
        transform: String,
        /// Which record.
        origin: Origin,
        /// How.
        trouble: Trouble,
    },
    /// A plugin fails on one record after the other.
    #[error(
        "transform `{transform}` fails on each of {count} records in a row, the last one at {origin}: {}\nit seems not to be the records; fix the plugin, or raise `give-up-after` under [errors]",
        .trouble.reason
    )]
    Hopeless {
        /// Which transform.
        transform: String,
        /// How many.
        count: u32,
        /// The last record.
        origin: Origin,
        /// How.
        trouble: Trouble,
    },
    /// A plugin fails often, and no record is to blame.
    #[error(
        "transform `{transform}` fails again and again on batches of which no record fails by itself: {}\nthe plugin leaks memory, depends on something hidden, or is too slow for `time-per-batch`",
        .trouble.reason
    )]
    Unexplained {
        /// Which transform.
        transform: String,
        /// How it failed last.
        trouble: Trouble,
    },
    /// A call into a plugin failed.
    #[error("transform `{transform}` fails on the batch of {span}: {error}")]
    Call {
        /// Which transform.
        transform: String,
        /// What it was processing.
        span: Span,
        /// How it failed.
        error: Box<CallError>,
    },
    /// A plugin could not put what it held back.
    #[error("transform `{transform}` fails to flush its state on partition {partition}: {error}")]
    Flush {
        /// Which transform.
        transform: String,
        /// Which task.
        partition: u32,
        /// How it failed.
        error: Box<CallError>,
    },
    /// A plugin does not start.
    #[error("transform `{transform}` does not start: {error}")]
    Open {
        /// Which transform.
        transform: String,
        /// Why.
        error: OpenError,
    },
    /// The state of a task cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Kafka and a head contradict each other.
    #[error(
        "task {task} cannot go on: {disagreement}\n`sluicegate state accept {} --task {}` shows both sides; with --head or --kafka it says which one is right",
        .task.pipeline, .task.partition
    )]
    Disagreement {
        /// Which task.
        task: TaskId,
        /// Both sides.
        disagreement: Disagreement,
    },
    /// The offsets of a pipeline without state are gone.
    #[error(
        "task {task} cannot go on: {gone}\n`sluicegate state reset {} --task {} --from earliest` (or latest) says where to go on",
        .task.pipeline, .task.partition
    )]
    OffsetsGone {
        /// Which task.
        task: TaskId,
        /// Which topics.
        gone: OffsetsGone,
    },
    /// The topic has another number of partitions than when the state was made.
    #[error(
        "topic {topic} had {before} partitions when the state of this pipeline was made and has {now} now: keyed state belongs to partition numbers, and records of a key may now come in another one. Copy the records into a topic with {before} partitions, or begin anew with `sluicegate deploy --discard-state`"
    )]
    Repartitioned {
        /// Which topic.
        topic: String,
        /// Partitions at genesis.
        before: u32,
        /// Partitions now.
        now: u32,
    },
    /// A store has state of another schema version than the plugin declares.
    #[error(
        "task {task}: store `{}` of transform `{transform}` holds state of schema version {}, and plugin {plugin} declares version {} and {problem}. Run the plugin that wrote it, give the store another name, or begin anew with `sluicegate deploy --discard-state`",
        .conversion.store, .conversion.from, .conversion.to
    )]
    Schema {
        /// Which task.
        task: TaskId,
        /// Which transform.
        transform: String,
        /// Which store, and the versions of its state and of the plugin.
        conversion: Box<Conversion>,
        /// The plugin's digest.
        plugin: String,
        /// Why it was not converted.
        problem: Box<str>,
    },
    /// The state was made without this topic: nothing says where to begin with it.
    #[error(
        "the state of this pipeline ({manifest}) was made without the source topic {topic}, so that it has no offset to go on from. Take the topic out of it again, or begin anew with `sluicegate deploy --discard-state`"
    )]
    NewSource {
        /// Which topic.
        topic: String,
        /// The manifest that was to be restored.
        manifest: ManifestId,
    },
    /// A source partition cannot be read.
    #[error("topic {topic} partition {partition} cannot be read: {text}{}", if *.expired { "\nthe records behind the last commit are gone (retention was shorter than the outage, or the topic was made anew). `sluicegate state reset` with --from earliest --keep-state goes on at the oldest record: it is not chosen silently" } else { "" })]
    Source {
        /// Which topic.
        topic: String,
        /// Which partition.
        partition: i32,
        /// In librdkafka's words.
        text: String,
        /// Whether the offset does not exist.
        expired: bool,
    },
    /// A record cannot be sent.
    #[error("the record made from {origin} cannot be sent to topic {topic}: {error}")]
    Send {
        /// Which topic.
        topic: String,
        /// Which source record it comes from.
        origin: Origin,
        /// Why.
        error: SendError,
    },
    /// Records that were sent are refused.
    #[error("output was refused: {0}")]
    Delivery(#[from] FlushError),
    /// The consumer has failed.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// A client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The group refuses a request for good.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Partitions cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Transactions are refused.
    #[error(
        "kafka refuses the transaction: {0}\nexactly-once needs brokers from 2.5 on, `Write` on the transactional id, and a `transaction.timeout.ms` that the broker allows; or set `guarantee = \"at-least-once\"` under [delivery]"
    )]
    Transaction(#[from] TransactionError),
    /// Offsets cannot be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The last commit could not be made before the deadline of the drain.
    #[error(
        "the last commit could not be made within the drain deadline: {waiting_for}. Nothing is lost: what came after the commit before it is done again at the next start"
    )]
    Undrained {
        /// What it waited for.
        waiting_for: String,
    },
}
