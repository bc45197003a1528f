//! A node: builds every service, starts them in order, and drains them in order.
//!
//! This is the one place that knows all of them. Which broker and which metadata store it works with is handed in, so that the
//! embedded demo is the same node with others.

mod api;
mod crew;
pub mod deploy;
pub mod doctor;
pub mod group;
mod hosted;
mod hosting;
mod in_use;
mod load;
pub mod offline;
pub mod replay;
pub mod sandbox;
pub mod status;
mod steps;
mod store;
pub mod swap;
pub mod swapped;
mod trial;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use self::api::Api;
use self::crew::SharedBudget;
use self::group::KafkaGroups;
use self::hosted::{Hosted, OnFailure, Wanted};
pub use self::in_use::digests_in_use;
use self::load::Loader;
pub use self::load::{LoadError, group as consumer_group, kafka_settings};
use self::offline::snapshot::SnapshotError;
pub use self::store::{StoreError, open_for_commands, open_for_node};
use self::swap::Refusal;
use self::swapped::FromBefore;
use crate::checkpoint::store::StateError;
use crate::cluster::election::{self, Leader};
use crate::cluster::imports::ImportError;
use crate::cluster::leader;
use crate::cluster::membership::{JoinError, Membership, NodeRecord};
use crate::cluster::pipelines::{self, Desired, PipelineRecord, Specification};
use crate::config::{Cluster, Errors, Http, Pipeline};
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::http::{Endpoint, View, meta_api};
use crate::kafka::log::LogError;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics::TopicsError;
use crate::meta::layout::{Segment, SegmentError};
use crate::meta::local::NodeFile;
use crate::meta::{Coordination, MetaError, MetaStore};
use crate::metrics::Metrics;
use crate::worker::budget::Budget;
use crate::worker::control::Control;
use crate::worker::failure::Failure;
use crate::worker::plan::Plan;

/// Why a node does not run, or stopped.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The pipeline or its plugins are wrong.
    #[error("{0}")]
    Config(Errors),
    /// A plugin is not to be had.
    #[error(transparent)]
    Load(Box<LoadError>),
    /// The name of the node is taken.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] SegmentError),
    /// The metadata store.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The state of a task cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A task was not taken back.
    #[error(transparent)]
    TakeBack(#[from] ImportError),
    /// WebAssembly does not work here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The topics are not what they should be.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// Source topics do not have the same number of partitions.
    #[error("the source topics of one pipeline, and its dead-letter topic, must have equal numbers of partitions: {0}")]
    Copartitioned(String),
    /// The HTTP endpoint.
    #[error("cannot listen at {address} for http: {source}; choose another address with --http-listen, or `off`")]
    Http {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The cluster runs it.
    #[error(
        "pipeline `{pipeline}` is deployed: the workers of the cluster run it. Change it with `sluicegate deploy`, or take it off the cluster with `sluicegate undeploy {pipeline} --keep-state` first"
    )]
    Deployed {
        /// Its name.
        pipeline: String,
    },
    /// A process runs it by itself.
    #[error(
        "pipeline `{pipeline}` runs by itself on {nodes}, started with `sluicegate run`: end that first; its state stays"
    )]
    ByItself {
        /// Its name.
        pipeline: String,
        /// Where.
        nodes: String,
    },
    /// There is no such pipeline.
    #[error("there is no pipeline `{pipeline}`; `sluicegate status` shows what there is")]
    UnknownPipeline {
        /// Its name.
        pipeline: String,
    },
    /// The state that there is cannot be gone on from.
    #[error(
        "the pipeline could not go on from the state that it has: {reason}
`--discard-state` begins anew, without state and at `start`"
    )]
    Incompatible {
        /// Why.
        reason: String,
    },
    /// The file is from before the swaps of the pipeline.
    #[error("{0}")]
    FromBefore(Box<FromBefore>),
    /// Somebody else was faster.
    #[error("pipeline `{pipeline}` was changed by somebody else meanwhile: look at it, and try again")]
    ChangedMeanwhile {
        /// Its name.
        pipeline: String,
    },
    /// Kafka does not answer, or refuses; in words.
    #[error("kafka: {0}")]
    Kafka(String),
    /// A topic cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// State of an earlier commit cannot be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A swap does not pass the gate.
    #[error(transparent)]
    Gate(#[from] Refusal),
    /// What was asked for makes no sense now.
    #[error("{0}")]
    Refused(String),
    /// The pipeline stopped.
    #[error("pipeline `{pipeline}` stopped: {failure}")]
    Stopped {
        /// Its name.
        pipeline: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// A thread could not be started, or ended by a defect.
    #[error("worker thread {number}: {reason}")]
    Thread {
        /// Which.
        number: usize,
        /// Why.
        reason: String,
    },
}

impl From<LoadError> for NodeError {
    fn from(error: LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl NodeError {
    /// Whether what was asked for is wrong, so that the same again cannot work.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::Name(_)
            | Self::Copartitioned(_)
            | Self::Deployed { .. }
            | Self::ByItself { .. }
            | Self::UnknownPipeline { .. }
            | Self::Incompatible { .. }
            | Self::FromBefore(_)
            | Self::Gate(_)
            | Self::Refused(_) => true,
            Self::Load(error) => error.is_bad_input(),
            Self::TakeBack(error) => matches!(error, ImportError::NoCopy { .. }),
            Self::Snapshot(error) => error.is_bad_input(),
            _ => false,
        }
    }

    /// Whether the same again may work all the same, because somebody may sign a plugin at any time.
    fn awaits_signature(&self) -> bool {
        matches!(self, Self::Load(error) if error.awaits_signature())
    }
}

/// What a node works with.
pub struct Parts {
    /// Where Kafka is.
    pub kafka: KafkaSettings,
    /// Where state, plugins and pipelines are.
    pub store: Arc<dyn Coordination>,
    /// The directory of a local store, for commands on the same machine to find the node.
    pub local: Option<std::path::PathBuf>,
}

/// What the pipelines of a node share.
struct Services {
    loader: Loader,
    kafka: KafkaSettings,
    store: Arc<dyn Coordination>,
    metrics: Arc<Metrics>,
    budget: SharedBudget,
    node: Segment,
}

impl Services {
    /// The plan of what is recorded; `None` when `control` drains before everything is there.
    async fn plan(&self, record: &PipelineRecord, control: &Arc<Control>) -> Result<Option<Plan>, NodeError> {
        match self.loader.load_recorded(record, None, control).await? {
            Some(loaded) => self.loader.plan(loaded, record.revision, record.incarnation).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Runs a pipeline until `control` drains or it fails.
///
/// # Errors
/// Why it does not run or stopped. What was not committed is done again at the next start.
pub async fn run(cluster: Cluster, pipeline: Pipeline, parts: Parts, control: Arc<Control>) -> Result<(), NodeError> {
    control.awaits();
    let threads = cluster.worker_threads;
    let node = Node::start(cluster, parts, &control, None).await?;
    let result = async {
        let services = &node.services;
        let name = Segment::new(pipeline.name.as_str())?;
        let Some((record, plan)) = load(services, pipeline, &name, &control).await? else { return Ok(()) };
        // Nobody changes it: the sender stays, and has nothing to say.
        let (_wanted, receiver) = watch::channel(Some(Wanted { record, threads }));
        let hosted = Hosted::new(Arc::clone(services), &name, Arc::clone(&control), receiver, OnFailure::End);
        control.has_come();
        hosted.run(Some(plan)).await
    };
    let result = result.await;
    node.stop(result).await
}

/// Writes a pipeline down and makes its plan; `None` when `control` drains meanwhile.
async fn load(
    services: &Services,
    pipeline: Pipeline,
    name: &Segment,
    control: &Arc<Control>,
) -> Result<Option<(PipelineRecord, Plan)>, NodeError> {
    let Some(loaded) = services.loader.load(pipeline, None, control).await? else { return Ok(None) };
    let record = record(&*services.store, name, &loaded.specification(), control).await?;
    info!(pipeline = %name, revision = record.revision, incarnation = record.incarnation, "recorded");
    let plan = services.loader.plan(loaded, record.revision, record.incarnation).await?;
    Ok(Some((record, plan)))
}

/// Writes down what is about to run by itself.
async fn record(
    store: &dyn Coordination,
    name: &Segment,
    specification: &Specification,
    control: &Control,
) -> Result<PipelineRecord, NodeError> {
    loop {
        let change = |known: Option<&PipelineRecord>| {
            let specification = specification.clone();
            let record = match known {
                Some(known) if known.desired.is_deployed() => {
                    return Err(NodeError::Deployed { pipeline: name.to_string() });
                }
                Some(known) if known.desired == Desired::Gone => known.respecified(specification).in_new_incarnation(),
                Some(known) => known.respecified(specification),
                None => PipelineRecord::first(specification, Desired::ByItself),
            };
            Ok(Some(PipelineRecord { desired: Desired::ByItself, ..record }))
        };
        let changed = async {
            swapped::refuse(store, name, specification).await?;
            pipelines::change(store, name, change).await
        };
        match changed.await {
            Err(NodeError::Meta(error)) if error.is_outage() && !control.is_draining() => {
                warn!("waiting: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            changed => return Ok(changed?.expect("a change makes the record")),
        }
    }
}

/// Runs what is deployed on the cluster until `control` drains.
///
/// # Errors
/// The node cannot join, or its name was taken over. Pipelines that fail are tried again, and say so in their status.
pub async fn work(cluster: Cluster, parts: Parts, control: Arc<Control>) -> Result<(), NodeError> {
    let threads = cluster.worker_threads;
    let node = Node::start(cluster, parts, &control, Some(threads)).await?;
    let leader = Leader { node: node.services.node.to_string(), instance: node.instance.clone() };
    let store = Arc::clone(&node.services.store);
    let groups = Arc::new(KafkaGroups::new(&node.services.loader.cluster, node.services.kafka.clone()));
    let lead = {
        let store = Arc::clone(&store);
        move || -> BoxFuture<'static, ()> { Box::pin(leader::lead(Arc::clone(&store), groups.clone())) }
    };
    let candidate = tokio::spawn(election::take_part(Arc::clone(&store), leader.clone(), lead));
    info!(node = %node.services.node, threads, "working: it runs what is deployed with `sluicegate deploy`");
    hosting::host(&node.services, &control).await;
    candidate.abort();
    election::resign(&*store, &leader).await;
    info!(node = %node.services.node, "stopped; everything is committed");
    node.stop(Ok(())).await
}

/// A node that has joined.
struct Node {
    services: Arc<Services>,
    instance: String,
    membership: Membership,
    served: Option<AbortHandle>,
    replaced: Arc<OnceLock<JoinError>>,
    local: Option<std::path::PathBuf>,
}

impl Node {
    async fn start(
        cluster: Cluster,
        parts: Parts,
        control: &Arc<Control>,
        threads: Option<usize>,
    ) -> Result<Self, NodeError> {
        let cluster = Arc::new(cluster);
        let metrics = Arc::new(Metrics::default());
        let engine = Arc::new(Engine::new(EngineOptions { cache_dir: Some(cluster.cache_path.clone()) })?);
        let endpoint = match cluster.http {
            Http::Listen(address) => {
                Some(Endpoint::bind(address).await.map_err(|source| NodeError::Http { address, source })?)
            }
            Http::Off => None,
        };
        let address = endpoint.as_ref().map(Endpoint::address);

        let name = Segment::new(cluster.node.as_str())?;
        let session_timeout = cluster.zookeeper.as_ref().map(|zookeeper| zookeeper.session_timeout).unwrap_or_default();
        let record = NodeRecord::of_this_process(address.map(|address| address.to_string()), threads);
        let instance = record.instance.clone();
        let (drain, deadline) = (Arc::clone(control), cluster.limits.drain_deadline);
        let replaced = Arc::new(OnceLock::new());
        let note = Arc::clone(&replaced);
        let taken_over = move |error| {
            // Told once: the task that watches ends with it.
            let _ = note.set(error);
            drain.drain(deadline);
        };
        let membership = Membership::join(Arc::clone(&parts.store), &name, record, session_timeout, taken_over).await?;

        let view = View { metrics: Arc::clone(&metrics), control: Arc::clone(control), session: parts.store.session() };
        let store = Arc::clone(&parts.store) as Arc<dyn MetaStore>;
        let api = Api {
            cluster: Arc::clone(&cluster),
            store,
            engine: Arc::clone(&engine),
            on_loopback: address.is_some_and(|address| address.ip().is_loopback()),
            turns: Arc::new(Semaphore::new(api::TURNS)),
        };
        let served = endpoint.map(|endpoint| serve(endpoint, view, &parts, api));
        let budget = Budget::new(cluster.limits.zookeeper_bytes_per_second, Instant::now());
        let Parts { kafka, store, local } = parts;
        let meta = Arc::clone(&store) as Arc<dyn MetaStore>;
        let loader = Loader { cluster, kafka: kafka.clone(), store: meta, engine, given: None };
        let services = Services { loader, kafka, store, metrics, budget: Arc::new(Mutex::new(budget)), node: name };
        Ok(Self { services: Arc::new(services), instance, membership, served, replaced, local })
    }

    /// Signs off. What ended the node is `result`, unless it was that another process has its name.
    async fn stop(self, result: Result<(), NodeError>) -> Result<(), NodeError> {
        self.membership.leave().await;
        if let Some(served) = self.served {
            served.abort();
        }
        if let Some(dir) = &self.local {
            NodeFile::remove(dir);
        }
        result?;
        match Arc::into_inner(self.replaced).and_then(OnceLock::into_inner) {
            Some(error) => Err(NodeError::Join(error)),
            None => Ok(()),
        }
    }
}

fn serve(endpoint: Endpoint, view: View, parts: &Parts, api: Api) -> AbortHandle {
    let address = endpoint.address();
    info!(%address, "http endpoint: /healthz, /readyz, /metrics, /api/v1");
    let mut more = api::router(api);
    if let Some(dir) = &parts.local {
        let file = NodeFile::new(address);
        more = more.merge(meta_api::router(Arc::clone(&parts.store) as Arc<dyn MetaStore>, &file.token));
        if let Err(error) = file.write(dir) {
            warn!("commands will not find this node: {error}");
        }
    }
    tokio::spawn(endpoint.serve(view, more)).abort_handle()
}
