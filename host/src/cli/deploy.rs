//! `sluicegate deploy`, and the commands that change what is wanted of a pipeline.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::connection::{self, Connection};
use super::{CommandError, table, wait};
use crate::cluster::leader::Left;
use crate::cluster::membership;
use crate::cluster::pipelines::{Desired, PipelineRecord};
use crate::cluster::presence::{self, Activity};
use crate::config::{ClusterArgs, Difference, Pipeline, differences};
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::node::NodeError;
use crate::node::deploy::{self, Deployment};
use crate::node::swapped::TakenBack;

/// How often is looked how far the nodes are.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `deploy`.
#[derive(Args, Debug)]
#[command(after_help = "\
The nodes of the cluster take a change over at their next commit, without a restart: nothing is lost, and nothing is done
twice. The state stays, by the names of the transforms.

Examples:
  sluicegate deploy orders.toml --dry-run
  sluicegate deploy orders.toml --wait 30s
  sluicegate deploy orders.toml --discard-state")]
pub(super) struct DeployArgs {
    /// Pipeline file
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: PathBuf,
    /// Check everything and show what would change, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Begin without state, and where `start` says
    #[arg(long)]
    discard_state: bool,
    /// Wait until all nodes run it, for so long at most
    #[arg(long, value_name = "TIME", value_parser = wait::parse, num_args = 0..=1, default_missing_value = "60s")]
    wait: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: DeployArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let pipeline = Pipeline::load(&args.pipeline)?;
    let name = connection::name(pipeline.name.as_str())?;
    let Connection { cluster, store } = Connection::open(&args.cluster).await?;
    connection::kafka(&cluster)?;
    let deployable = deploy::check(&cluster, Arc::clone(&store), None, pipeline, args.discard_state).await?;
    let mut plan = deployable.deployment();
    if !args.json {
        show(out, &plan)?;
    }
    if !args.dry_run {
        let record = deployable.deploy(&mut plan).await?;
        if !args.json {
            writeln!(out, "deployed")?;
        }
        if let Some(wait) = args.wait.filter(|_| record.desired == Desired::Running) {
            wait_for(&*store, &name, &record, wait).await?;
        }
    }
    if args.json { Ok(table::json(out, &plan)?) } else { Ok(()) }
}

fn show(out: &mut impl Write, plan: &Deployment) -> Result<(), CommandError> {
    let Deployment { pipeline, revision, partitions, .. } = plan;
    if plan.is_new {
        writeln!(out, "pipeline `{pipeline}` is new: revision {revision}, {partitions} tasks")?;
    } else if plan.differences.is_empty() {
        writeln!(out, "pipeline `{pipeline}` is the same as revision {revision}")?;
    } else {
        writeln!(out, "pipeline `{pipeline}` changes from revision {} to {revision}:", revision - 1)?;
    }
    for Difference { at, before, after } in plan.differences.iter().filter(|_| !plan.is_new) {
        match (before, after) {
            (Some(before), Some(after)) => writeln!(out, "  ~ {at}: {} -> {}", short(before), short(after))?,
            (None, Some(after)) => writeln!(out, "  + {at}: {}", short(after))?,
            (before, None) => writeln!(out, "  - {at}: {}", short(before.as_ref().unwrap_or(&Value::Null)))?,
        }
    }
    for TakenBack { transform, runs, rollout, file } in &plan.takes_back {
        writeln!(out, "this takes back the swap of transform `{transform}`, rollout {rollout}: from {runs} to {file}")?;
    }
    if plan.discards_state {
        writeln!(out, "its state is discarded: it begins anew where `start` says (incarnation {})", plan.incarnation)?;
    }
    if plan.paused {
        writeln!(out, "it is paused: `sluicegate resume {pipeline}` starts it")?;
    }
    Ok(())
}

fn short(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain("..".chars()).collect()
}

/// Waits until the tasks of all partitions run by this revision.
async fn wait_for(
    store: &dyn MetaStore,
    name: &Segment,
    record: &PipelineRecord,
    wait: Duration,
) -> Result<(), CommandError> {
    let until = Instant::now() + wait;
    let mut said = String::new();
    if !membership::list(store).await?.iter().any(|(_, node)| node.threads.is_some()) {
        eprintln!("note: no node of the cluster is alive: `sluicegate worker` starts one; waiting for it");
    }
    loop {
        let nodes = presence::list(store, name).await?;
        for (node, presence) in &nodes {
            if let Some(problem) = presence
                .problem
                .as_ref()
                .filter(|_| presence.revision >= record.revision || presence.activity == Activity::Running)
            {
                return Err(CommandError::Failed(format!("node {node}: {problem}")));
            }
        }
        let current = |presence: &&presence::Presence| {
            presence.revision == record.revision && presence.incarnation == record.incarnation
        };
        let all_current = nodes.iter().all(|(_, presence)| current(&presence));
        let running: usize =
            nodes.iter().map(|(_, presence)| presence).filter(current).map(|presence| presence.running).sum();
        let state = format!("{running} of {} tasks run it, on {} nodes", record.specification.partitions, nodes.len());
        if all_current && running >= record.specification.partitions as usize {
            eprintln!("{state}");
            return Ok(());
        }
        if Instant::now() >= until {
            let hint = if nodes.is_empty() { "no node runs it: is there a `sluicegate worker`?" } else { &state };
            return Err(CommandError::Failed(format!("it does not run everywhere after {wait:?}: {hint}")));
        }
        if std::io::stderr().is_terminal() && said != state {
            eprintln!("waiting: {state}");
            said = state;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Arguments of `undeploy`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate undeploy orders --keep-state
  sluicegate undeploy orders --yes")]
pub(super) struct UndeployArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Keep state and offsets: a later deployment goes on from them
    #[arg(long)]
    keep_state: bool,
    /// Delete state and offsets without another question
    #[arg(long, conflicts_with = "keep_state")]
    yes: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn undeploy(args: UndeployArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let Connection { cluster, store } = Connection::open(&args.cluster).await?;
    if !args.keep_state && !args.yes {
        return Err(CommandError::BadInput(format!(
            "this deletes the state and the offsets of pipeline `{name}` for good: add --yes if that is meant, or --keep-state"
        )));
    }
    let state = match deploy::undeploy(&cluster, &*store, &name, args.keep_state).await? {
        None => "its state stays for a later deployment",
        Some(Left::Nothing) => "its state is deleted",
        Some(Left::Something) => "its state is deleted when the last node has let go of it",
    };
    Ok(writeln!(out, "pipeline `{name}` is taken off the cluster; {state}")?)
}

/// Arguments of `pause` and `resume`.
#[derive(Args, Debug)]
pub(super) struct NamedArgs {
    /// Name of the pipeline
    pipeline: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn pause(args: NamedArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let Connection { store, .. } = Connection::open(&args.cluster).await?;
    deploy::pause(&*store, &name).await?;
    Ok(writeln!(out, "pipeline `{name}` is paused: its nodes commit and stop")?)
}

pub(super) async fn resume(args: NamedArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let Connection { store, .. } = Connection::open(&args.cluster).await?;
    deploy::resume(&*store, &name).await?;
    Ok(writeln!(out, "pipeline `{name}` goes on; nodes where it had failed try again")?)
}

/// Arguments of `revisions`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate revisions orders
  sluicegate revisions orders --show 3 > orders-3.toml && sluicegate deploy orders-3.toml")]
pub(super) struct RevisionsArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Print the pipeline file of this revision
    #[arg(long, value_name = "REVISION")]
    show: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn revisions(args: RevisionsArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let Connection { store, .. } = Connection::open(&args.cluster).await?;
    let revisions = crate::cluster::pipelines::revisions(&*store, &name).await?;
    if revisions.is_empty() {
        return Err(NodeError::UnknownPipeline { pipeline: name.to_string() }.into());
    }
    if let Some(wanted) = args.show {
        let Some(found) = revisions.iter().find(|revision| revision.revision == wanted) else {
            let message = format!(
                "revision {wanted} of pipeline `{name}` is not kept; `sluicegate revisions {name}` lists those that are"
            );
            return Err(CommandError::BadInput(message));
        };
        return Ok(write!(out, "{}", found.specification.file)?);
    }
    if args.json {
        return Ok(table::json(out, &revisions)?);
    }
    let mut before: Option<&str> = None;
    let mut rows = Vec::with_capacity(revisions.len());
    for revision in &revisions {
        let canonical = &revision.specification.canonical;
        let changes = before.map_or_else(Vec::new, |before| differences(before, canonical));
        let places: Vec<String> = changes.into_iter().map(|change| change.at).collect();
        before = Some(canonical);
        rows.push([
            revision.revision.to_string(),
            table::time(revision.recorded_at),
            revision.recorded_by.clone(),
            places.join(", "),
        ]);
    }
    Ok(table::print(out, ["REVISION", "RECORDED", "BY", "CHANGED"], &rows)?)
}
