//! A node: builds every service, starts them in order, and drains them in order.
//!
//! This is the one place that knows all of them. Which broker and which metadata store it works with is handed in, so that the
//! embedded demo is the same node with others.

mod load;
mod store;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use axum::Router;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, error, info, warn};

pub use load::{LoadError, digests_in_use, kafka_settings};
pub use store::{StoreError, open_for_commands, open_for_node};

use crate::cluster::membership::{JoinError, Membership, NodeRecord};
use crate::config::{Cluster, Errors, Http, Pipeline};
use crate::engine::{Engine, EngineError, EngineOptions};
use crate::http::{Endpoint, View, meta_api};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics::TopicsError;
use crate::meta::layout::{Segment, SegmentError};
use crate::meta::local::NodeFile;
use crate::meta::{Coordination, MetaError, MetaStore};
use crate::metrics::Metrics;
use crate::worker::budget::Budget;
use crate::worker::control::Control;
use crate::worker::failure::Failure;
use crate::worker::gathering::Gathering;
use crate::worker::orphans::Orphans;
use crate::worker::thread::{Equipment, Thread};

/// Why a node does not run, or stopped.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The pipeline or its plugins are wrong.
    #[error("{0}")]
    Config(Errors),
    /// A plugin is not to be had.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The name of the node is taken.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] SegmentError),
    /// The metadata store.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// WebAssembly does not work here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The topics are not what they should be.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// Source topics do not have the same number of partitions.
    #[error("the source topics of one pipeline must have equal numbers of partitions: {0}")]
    Copartitioned(String),
    /// The HTTP endpoint.
    #[error("cannot listen at {address} for http: {source}; choose another address with --http-listen, or `off`")]
    Http {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
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

impl NodeError {
    /// Whether what was asked for is wrong, so that the same again cannot work.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Config(_) | Self::Name(_) | Self::Copartitioned(_) => true,
            Self::Load(error) => error.is_bad_input(),
            _ => false,
        }
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

/// Runs a pipeline until `control` drains or it fails.
///
/// # Errors
/// Why it does not run or stopped. What was not committed is done again at the next start.
pub async fn run(cluster: &Cluster, pipeline: Pipeline, parts: Parts, control: Arc<Control>) -> Result<(), NodeError> {
    let begin = Instant::now();
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
    let record = NodeRecord::of_this_process(address.map(|address| address.to_string()));
    let (drain, deadline) = (Arc::clone(&control), cluster.limits.drain_deadline);
    let replaced = Arc::new(OnceLock::new());
    let note = Arc::clone(&replaced);
    let taken_over = move |error| {
        // Told once: the task that watches ends with it.
        let _ = note.set(error);
        drain.drain(deadline);
    };
    let membership = Membership::join(Arc::clone(&parts.store), &name, record, session_timeout, taken_over).await?;

    let view = View { metrics: Arc::clone(&metrics), control: Arc::clone(&control), session: parts.store.session() };
    let served = endpoint.map(|endpoint| serve(endpoint, view, &parts));
    let result = run_pipeline(cluster, &pipeline, &parts, &engine, &metrics, &control, begin).await;

    membership.leave().await;
    if let Some(served) = served {
        served.abort();
    }
    if let Some(dir) = &parts.local {
        NodeFile::remove(dir);
    }
    result?;
    match Arc::into_inner(replaced).and_then(OnceLock::into_inner) {
        Some(error) => Err(NodeError::Join(error)),
        None => Ok(()),
    }
}

fn serve(endpoint: Endpoint, view: View, parts: &Parts) -> AbortHandle {
    let address = endpoint.address();
    info!(%address, "http endpoint: /healthz, /readyz, /metrics");
    let mut more = Router::new();
    if let Some(dir) = &parts.local {
        let file = NodeFile::new(address);
        more = meta_api::router(Arc::clone(&parts.store) as Arc<dyn MetaStore>, &file.token);
        if let Err(error) = file.write(dir) {
            warn!("commands will not find this node: {error}");
        }
    }
    tokio::spawn(endpoint.serve(view, more)).abort_handle()
}

async fn run_pipeline(
    cluster: &Cluster,
    pipeline: &Pipeline,
    parts: &Parts,
    engine: &Arc<Engine>,
    metrics: &Arc<Metrics>,
    control: &Arc<Control>,
    begin: Instant,
) -> Result<(), NodeError> {
    let Some(plan) = load::plan(cluster, pipeline, parts, engine, control).await? else { return Ok(()) };
    let plan = Arc::new(plan);
    let threads = cluster.worker_threads.min(plan.partitions.max(1) as usize);
    let budget = Budget::new(cluster.limits.zookeeper_bytes_per_second, Instant::now());
    let equipment = Equipment {
        plan: Arc::clone(&plan),
        kafka: parts.kafka.clone(),
        meta: Arc::clone(&parts.store) as Arc<dyn MetaStore>,
        runtime: Handle::current(),
        budget: Arc::new(Mutex::new(budget)),
        metrics: Arc::clone(metrics),
        control: Arc::clone(control),
        orphans: Arc::new(Orphans::new(
            Arc::clone(&plan),
            Arc::clone(&parts.store) as Arc<dyn MetaStore>,
            Handle::current(),
            parts.kafka.clone(),
        )),
        gathering: Arc::new(Gathering::of(threads)),
        node: cluster.node.as_str().to_owned(),
    };
    info!(
        pipeline = plan.pipeline,
        threads,
        partitions = plan.partitions,
        state = if plan.is_stateful() { "kept" } else { "none" },
        guarantee = %plan.guarantee,
        took = ?begin.elapsed(),
        "started"
    );
    let result = run_threads(&equipment, threads, cluster).await;
    match &result {
        Ok(()) => info!(pipeline = plan.pipeline, "stopped; everything is committed"),
        Err(error) => debug!("{error}"),
    }
    result
}

/// Runs the threads until all have ended; one that fails lets the others commit and end.
async fn run_threads(equipment: &Equipment, threads: usize, cluster: &Cluster) -> Result<(), NodeError> {
    let (ended, mut endings) = mpsc::unbounded_channel();
    for number in 0..threads {
        let (own, ended) = (equipment.clone(), ended.clone());
        let work = move || {
            let run = || Thread::join(own, number).and_then(Thread::run);
            // A panic is a defect; the pipeline stops as for any failure, and the other threads commit.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            let _ = ended.send((number, result));
        };
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(work);
        if let Err(error) = thread {
            equipment.control.drain(cluster.limits.drain_deadline);
            return Err(NodeError::Thread { number, reason: format!("cannot be started: {error}") });
        }
    }
    drop(ended);
    let mut first = None;
    while let Some((number, result)) = endings.recv().await {
        let error = match result {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => {
                NodeError::Stopped { pipeline: equipment.plan.pipeline.clone(), failure: Box::new(failure) }
            }
            Err(_) => {
                NodeError::Thread { number, reason: "ended by a defect of sluicegate; its message is above".into() }
            }
        };
        equipment.control.drain(cluster.limits.drain_deadline);
        match &first {
            None => first = Some(error),
            Some(_) => error!("{error}"),
        }
    }
    first.map_or(Ok(()), Err)
}
