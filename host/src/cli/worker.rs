//! `sluicegate worker`: a node of a cluster.

use std::sync::Arc;

use clap::Args;

use super::logging::TelemetryArgs;
use super::{CommandError, run, signals};
use crate::config::{Cluster, ClusterArgs};
use crate::node;
use crate::worker::control::Control;

/// Arguments of `worker`.
#[derive(Args, Debug)]
#[command(after_help = "\
SIGTERM and SIGINT commit what was done, hand over, and end with exit code 0; a second one ends at once.

Examples:
  sluicegate worker --node-name a --kafka-bootstrap-servers kafka-1:9092 --zookeeper-connect zk-1:2181
  sluicegate deploy orders.toml && sluicegate status --watch")]
pub(super) struct WorkerArgs {
    #[command(flatten)]
    pub(super) telemetry: TelemetryArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: WorkerArgs) -> Result<(), CommandError> {
    let cluster = Cluster::load(&args.cluster)?;
    let control = Arc::new(Control::default());
    signals::drain_on_signal(Arc::clone(&control), cluster.limits.drain_deadline)?;
    let Some(parts) = run::parts(&cluster, &control).await? else { return Ok(()) };
    let store = Arc::clone(&parts.store);
    let result = node::work(cluster, parts, control).await;
    store.close().await;
    Ok(result?)
}
