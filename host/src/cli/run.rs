//! `sluicegate run`: a pipeline in this process.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::logging::TelemetryArgs;
use super::{CommandError, connection, signals};
use crate::config::{Cluster, ClusterArgs, Pipeline};
use crate::node::{self, Parts};
use crate::worker::control::Control;

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(after_help = "\
SIGTERM and SIGINT commit what was done and end with exit code 0; a second one ends at once.

Examples:
  sluicegate run value-length.toml
  sluicegate run value-length.toml --kafka-bootstrap-servers kafka-1:9092 --zookeeper-connect zk-1:2181")]
pub(super) struct RunArgs {
    /// Pipeline file
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: PathBuf,
    #[command(flatten)]
    pub(super) telemetry: TelemetryArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: RunArgs) -> Result<(), CommandError> {
    let (cluster, pipeline) = connection::both(Cluster::load(&args.cluster), Pipeline::load(&args.pipeline))?;
    let control = Arc::new(Control::default());
    signals::drain_on_signal(Arc::clone(&control), cluster.limits.drain_deadline)?;
    let Some(parts) = parts(&cluster, &control).await? else { return Ok(()) };
    let store = Arc::clone(&parts.store);
    let result = node::run(cluster, pipeline, parts, control).await;
    store.close().await;
    Ok(result?)
}

/// What a node works with; `None` when it is told to stop before the store is there.
pub(super) async fn parts(cluster: &Cluster, control: &Control) -> Result<Option<Parts>, CommandError> {
    let kafka = connection::kafka(cluster)?;
    if cluster.zookeeper.is_none() {
        let path = cluster.local_path.display();
        tracing::warn!(
            "no ZooKeeper is configured: plugins, pipelines and state are in the local store {path}, for this node alone"
        );
    }
    let store = node::open_for_node(cluster, control).await;
    let store = store.map_err(|error| CommandError::Failed(error.to_string()))?;
    let local = cluster.zookeeper.is_none().then(|| cluster.local_path.clone());
    Ok(store.map(|store| Parts { kafka, store, local }))
}
