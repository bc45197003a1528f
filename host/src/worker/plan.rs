//! What a pipeline comes down to once its plugins are loaded and its topics are known. Immutable, shared by all threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::head::TransformIdentity;
use crate::config::{Guarantee, Start};
use crate::engine::{Grants, Instance, InstanceOptions, Limits, Migrator, OpenError, Plugin};
use crate::ids::TaskId;
use crate::kafka::producer::{DeliveryFailure, Transactions};
use crate::state::{StoreName, TaskState};

/// Shortest time-out of transactions: brokers that move a partition leader take seconds.
const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(15);
/// What a transaction may be open beyond the commit interval and the calls into plugins: waiting for the byte budget, acknowledgements
/// and heads.
const TRANSACTION_SLACK: Duration = Duration::from_secs(10);

/// A pipeline, ready to run.
#[derive(Clone)]
pub struct Plan {
    /// Its name.
    pub pipeline: String,
    /// Counts the changes of its specification.
    pub revision: u64,
    /// Counts the lives of its state.
    pub incarnation: u64,
    /// The consumer group of its threads.
    pub group: String,
    /// Where records come from; co-partitioned. Behind the inputs of the pipeline that of the dead letters, if it has any.
    pub sources: Vec<SourcePlan>,
    /// How many of the sources are the pipeline's inputs.
    pub inputs: usize,
    /// Partitions that every source topic has.
    pub partitions: u32,
    /// The chain.
    pub transforms: Vec<TransformPlan>,
    /// Where records go.
    pub sinks: Vec<SinkPlan>,
    /// What holds after a crash.
    pub guarantee: Guarantee,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Keys and values taken after which a thread commits without waiting for the interval.
    pub commit_bytes: u64,
    /// What a failing record does.
    pub failing: FailingRecords,
    /// So many records in a row on which a plugin fails stop the pipeline.
    pub give_up_after: u32,
    /// Most records of one batch.
    pub batch_records: usize,
    /// Most bytes of one batch.
    pub batch_bytes: usize,
}

/// A source topic.
#[derive(Clone, Debug)]
pub struct SourcePlan {
    /// Its name.
    pub topic: String,
    /// Where a task without offset begins.
    pub start: Start,
}

/// A sink topic.
#[derive(Clone, Debug)]
pub struct SinkPlan {
    /// Its name.
    pub topic: String,
    /// Partitions that it had at start.
    pub partitions: u32,
    /// What its records say of the code that made them, where they say where they come from: see
    /// [`lineage`](crate::lineage).
    pub provenance: Option<String>,
}

/// What a record does that a plugin rejects, on which a plugin fails, or whose output Kafka refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailingRecords {
    /// Stops the pipeline.
    Stop,
    /// Is left out.
    Skip,
    /// Goes to a sink that is nobody's output.
    DeadLetter {
        /// Index of the sink.
        sink: usize,
    },
}

/// One transform of the chain.
#[derive(Clone)]
pub struct TransformPlan {
    /// Its name in the pipeline.
    pub name: String,
    /// Its code.
    pub plugin: Arc<Plugin>,
    /// What `open` gets: a JSON object.
    pub config: String,
    /// What an instance may use.
    pub limits: Limits,
    /// What an instance may do.
    pub grants: Grants,
    /// Messages of the plugin below this level are thrown away.
    pub log_level: tracing::Level,
    /// Names of its inputs, in the order of the sources; behind another transform one.
    pub inputs: Vec<String>,
    /// Its outputs; emissions count in them.
    pub outlets: Vec<OutletPlan>,
    /// What the manifests of its tasks say of it.
    pub identity: TransformIdentity,
}

/// One output of a transform.
#[derive(Clone, Debug)]
pub struct OutletPlan {
    /// Its name.
    pub name: String,
    /// Goes on to the next transform.
    pub next: bool,
    /// Goes to these sinks.
    pub sinks: Vec<usize>,
}

impl Plan {
    /// Whether any transform keeps state.
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        self.transforms.iter().any(|transform| !transform.identity.stores.is_empty())
    }

    /// Whether threads that work by this plan can go over to `next` without leaving their group: the group, what is read, and how it
    /// is committed are the same.
    #[must_use]
    pub fn may_become(&self, next: &Self) -> bool {
        let topics = |plan: &Self| plan.sources.iter().map(|source| source.topic.clone()).collect::<Vec<_>>();
        self.group == next.group
            && topics(self) == topics(next)
            && self.partitions == next.partitions
            && self.guarantee == next.guarantee
            && self.is_stateful() == next.is_stateful()
    }

    /// Whether tasks of this plan have the stores that `next` wants, so that their state stays where it is.
    #[must_use]
    pub fn has_stores_of(&self, next: &Self) -> bool {
        self.stores().eq(next.stores())
    }

    /// Whether `next` has the same sinks, so that what its transforms put out goes the same ways.
    #[must_use]
    pub fn has_sinks_of(&self, next: &Self) -> bool {
        let sinks = |plan: &Self| plan.sinks.iter().map(|sink| sink.topic.clone()).collect::<Vec<_>>();
        sinks(self) == sinks(next) && self.failing == next.failing
    }

    /// What a thread called `name` makes its producer with under exactly-once. The time-out is what readers of the sinks wait at
    /// most when a thread dies, and has to be longer than a transaction takes that ends as it should.
    #[must_use]
    pub fn transactions(&self, name: &str) -> Transactions {
        let calls: Duration = self.transforms.iter().map(|transform| transform.limits.time_per_call).sum();
        let timeout = (self.commit_interval + 2 * calls + TRANSACTION_SLACK).max(TRANSACTION_TIMEOUT_MIN);
        Transactions { id: name.to_owned(), timeout }
    }

    /// Whether dead letters go to this sink.
    #[must_use]
    pub fn is_dead_letters(&self, sink: usize) -> bool {
        self.failing == FailingRecords::DeadLetter { sink }
    }

    /// Whether the record that Kafka refused is to blame, so that the one which caused it can be put aside.
    #[must_use]
    pub fn is_fault_of_record(&self, failure: &DeliveryFailure) -> bool {
        let is_letter = |(at, sink): (usize, &SinkPlan)| sink.topic == failure.topic && self.is_dead_letters(at);
        failure.is_of_record() && !self.sinks.iter().enumerate().any(is_letter)
    }

    /// The task of a partition number.
    #[must_use]
    pub fn task(&self, partition: u32) -> TaskId {
        TaskId { pipeline: self.pipeline.clone(), incarnation: self.incarnation, stage: 0, partition }
    }

    /// Empty stores for a task.
    #[must_use]
    pub fn empty_state(&self) -> TaskState {
        TaskState::new(self.stores())
    }

    /// The transform of this name.
    #[must_use]
    pub fn transform(&self, name: &str) -> Option<&TransformPlan> {
        self.transforms.iter().find(|transform| transform.name == name)
    }

    /// The stores that each transform declares.
    pub fn stores(&self) -> impl Iterator<Item = Vec<StoreName>> {
        self.transforms.iter().map(|transform| {
            let stores = transform.plugin.manifest().stores.iter();
            stores.map(|store| StoreName::of(&transform.name, &store.name, store.schema)).collect()
        })
    }

    /// What manifests say of the code.
    #[must_use]
    pub fn identities(&self) -> Vec<TransformIdentity> {
        self.transforms.iter().map(|transform| transform.identity.clone()).collect()
    }

    /// Partition counts by source topic, for heads.
    #[must_use]
    pub fn source_partitions(&self) -> BTreeMap<String, u32> {
        self.sources.iter().map(|source| (source.topic.clone(), self.partitions)).collect()
    }
}

impl TransformPlan {
    /// Whether an instance of this one is as good as one of `other`.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let outlets = |plan: &Self| plan.outlets.iter().map(|outlet| outlet.name.clone()).collect::<Vec<_>>();
        self.identity.is_same_version(&other.identity)
            && self.config == other.config
            && self.limits == other.limits
            && self.grants == other.grants
            && self.log_level == other.log_level
            && self.inputs == other.inputs
            && outlets(self) == outlets(other)
    }

    /// A new, open instance for a task of `pipeline`.
    ///
    /// # Errors
    /// It does not start.
    pub fn open(&self, pipeline: &str, task: u32, now_ms: i64) -> Result<Instance, OpenError> {
        self.plugin.instantiate(self.instance_options(pipeline, task, now_ms))
    }

    /// What converts state for a task of `pipeline`, if the plugin can.
    ///
    /// # Errors
    /// It cannot be instantiated.
    pub fn migrator(&self, pipeline: &str, task: u32, now_ms: i64) -> Result<Option<Migrator>, OpenError> {
        self.plugin.migrator(self.instance_options(pipeline, task, now_ms))
    }

    /// How to make an instance for a task of `pipeline`.
    fn instance_options(&self, pipeline: &str, task: u32, now_ms: i64) -> InstanceOptions {
        InstanceOptions {
            pipeline: pipeline.to_owned(),
            transform: self.name.clone(),
            task,
            inputs: self.inputs.clone(),
            outlets: self.outlets.iter().map(|outlet| outlet.name.clone()).collect(),
            config: self.config.clone(),
            limits: self.limits.clone(),
            grants: self.grants.clone(),
            log_level: self.log_level,
            now_ms,
        }
    }
}
