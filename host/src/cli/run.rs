//! `sluicegate run`: a pipeline in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use super::CommandError;
use crate::config::{Cluster, ClusterArgs, Pipeline};
use crate::node::{self, Parts};
use crate::worker::control::Control;

/// Signals this close together are one: coreutils' `timeout`, for one, signals the process and then its group.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

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
    cluster: ClusterArgs,
}

pub(super) async fn run(args: RunArgs) -> Result<(), CommandError> {
    let (cluster, pipeline) = match (Cluster::load(&args.cluster), Pipeline::load(&args.pipeline)) {
        (Ok(cluster), Ok(pipeline)) => (cluster, pipeline),
        (Err(errors), Ok(_)) | (Ok(_), Err(errors)) => return Err(errors.into()),
        (Err(cluster), Err(pipeline)) => {
            cluster.report();
            return Err(pipeline.into());
        }
    };
    let control = Arc::new(Control::default());
    listen_for_signals(Arc::clone(&control), cluster.limits.drain_deadline)?;
    let kafka = node::kafka_settings(&cluster);
    kafka.check().map_err(|error| cluster.kafka_error(error.property(), &error.to_string()))?;
    let store = node::open_for_node(&cluster, &control).await;
    let Some(store) = store.map_err(|error| CommandError::Failed(error.to_string()))? else { return Ok(()) };
    let local = cluster.zookeeper.is_none().then(|| cluster.local_path.clone());
    let parts = Parts { kafka, store: Arc::clone(&store), local };
    let result = node::run(&cluster, pipeline, parts, control).await;
    store.close().await;
    Ok(result?)
}

/// The first signal drains, the second ends at once.
fn listen_for_signals(control: Arc<Control>, deadline: Duration) -> Result<(), CommandError> {
    let listen = |kind| signal(kind).map_err(|error| CommandError::Failed(format!("cannot listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match first {
                None => {
                    first = Some(Instant::now());
                    warn!("stopping: committing what was done; a second signal ends at once, without that");
                    control.drain(deadline);
                }
                Some(first) if first.elapsed() < ONE_SIGNAL => {}
                Some(_) => std::process::exit(i32::from(super::Exit::Failed.code())),
            }
        }
    });
    Ok(())
}
