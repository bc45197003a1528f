//! `sluicegate status`: how pipelines are.

mod rates;
mod shown;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use self::rates::{Rates, Sample};
use super::connection::{self, Connection};
use super::{CommandError, table};
use crate::checkpoint::head::Head;
use crate::checkpoint::store::{StateError, TaskStore};
use crate::cluster::contents;
use crate::cluster::inspection;
use crate::cluster::membership;
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::cluster::placement::Placement;
use crate::cluster::presence::{self, Activity, Incident, Presence};
use crate::config::{ClusterArgs, Pipeline};
use crate::ids::TaskId;
use crate::meta::layout::{self, Segment};
use crate::node::deploy;
use crate::node::group::{Group, Progress};

/// `--watch` looks again after this long.
const WATCH: Duration = Duration::from_secs(1);
/// Heads that are read at the same time.
const READS_IN_FLIGHT: usize = 16;
/// Clears the screen and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Arguments of `status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate status
  sluicegate status orders
  sluicegate status orders --watch
  sluicegate status --rates --json")]
pub(super) struct StatusArgs {
    /// Show the tasks of this pipeline
    pipeline: Option<String>,
    /// Show it again every second, with records a second
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Ask the nodes for records a second, which takes a second
    #[arg(long)]
    rates: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How a pipeline is.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PipelineStatus {
    pipeline: String,
    /// In one word.
    state: &'static str,
    desired: Desired,
    revision: u64,
    incarnation: u64,
    /// Tasks that take records.
    running: usize,
    /// Partitions of its topics.
    tasks: u32,
    /// Worker threads.
    threads: usize,
    /// Records that are not committed yet; `None` when Kafka does not say.
    lag: Option<u64>,
    /// Records a second; `None` when nobody has asked for it, or no node can be asked.
    rates: Option<Rates>,
    /// Bytes of state in the metadata store, over all tasks; `None` when a head cannot be read.
    state_bytes: Option<u64>,
    /// What its transforms run.
    plugins: Vec<PluginStatus>,
    /// Where it runs.
    nodes: BTreeMap<String, Presence>,
    /// What the leader has decided.
    placement: Placement,
    /// Why it does not run as it should, by node.
    problems: BTreeMap<String, String>,
    /// What went wrong last, by node, also when it runs again.
    last_errors: BTreeMap<String, Incident>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_status: Option<Vec<TaskStatus>>,
}

/// What a transform runs.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PluginStatus {
    transform: String,
    /// As the pipeline file names it.
    plugin: String,
    /// SHA-256, in hexadecimal.
    digest: String,
}

/// How a task is.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TaskStatus {
    task: u32,
    /// Which node claimed its state last.
    node: Option<String>,
    /// Which thread of that.
    thread: Option<String>,
    /// The number of the last commit of its state.
    epoch: Option<u64>,
    /// Bytes of state in the metadata store.
    state_bytes: Option<u64>,
    /// By source topic: what is committed, and how much is left.
    sources: Vec<SourceStatus>,
}

#[derive(Serialize)]
struct SourceStatus {
    topic: String,
    committed: Option<i64>,
    lag: u64,
}

pub(super) async fn run(args: StatusArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let only = args.pipeline.as_deref().map(connection::name).transpose()?;
    let connection = Connection::open(&args.cluster).await?;
    let mut before = None;
    if args.rates && !args.watch {
        before = Some(Sample::take(&membership::list(&*connection.store).await?).await);
        tokio::time::sleep(WATCH).await;
    }
    loop {
        let mut statuses = statuses(&connection, only.as_ref()).await?;
        if args.rates || args.watch {
            let now = Sample::take(&membership::list(&*connection.store).await?).await;
            let rates = before.as_ref().map_or_else(BTreeMap::new, |before| now.since(before));
            statuses.iter_mut().for_each(|status| status.rates = rates.get(&status.pipeline).copied());
            before = Some(now);
        }
        if args.json {
            return Ok(table::json(out, &statuses)?);
        }
        if args.watch && std::io::stdout().is_terminal() {
            write!(out, "{CLEAR}")?;
        }
        shown::print(out, &statuses)?;
        if !args.watch {
            return Ok(());
        }
        out.flush()?;
        tokio::time::sleep(WATCH).await;
        if !std::io::stdout().is_terminal() {
            writeln!(out)?;
        }
    }
}

async fn statuses(connection: &Connection, only: Option<&Segment>) -> Result<Vec<PipelineStatus>, CommandError> {
    let store = &*connection.store;
    let mut statuses = Vec::new();
    let has_worker = membership::list(store).await?.iter().any(|(_, node)| node.threads.is_some());
    match only {
        Some(name) => {
            let (record, _) = deploy::known(&connection.cluster, store, name).await?;
            statuses.push(status(connection, name, record, has_worker, true).await?);
        }
        None => {
            for (name, record) in pipelines::list(store).await? {
                if record.desired != Desired::Gone {
                    statuses.push(status(connection, &name, record, has_worker, false).await?);
                }
            }
        }
    }
    Ok(statuses)
}

async fn status(
    connection: &Connection,
    name: &Segment,
    record: PipelineRecord,
    has_worker: bool,
    with_tasks: bool,
) -> Result<PipelineStatus, CommandError> {
    let store = &connection.store;
    let nodes: BTreeMap<String, Presence> = presence::list(&**store, name).await?.into_iter().collect();
    let path = layout::placement(name);
    let placement = match store.get(&path).await? {
        Some(node) => contents::decode(&path, &node.data)?,
        None => Placement::new(),
    };
    let tasks = record.specification.partitions;
    let progress = match Group::new(&connection.cluster, &record) {
        Ok(group) => group.progress(record.incarnation, tasks).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &progress {
        eprintln!("warning: kafka does not say how far `{name}` is: {error}");
    }
    let task_status = task_statuses(connection, name, &record, progress.as_deref().unwrap_or_default()).await;
    let task_status = match task_status {
        Ok(tasks) => Some(tasks),
        Err(error) if with_tasks => return Err(error.into()),
        Err(error) => {
            eprintln!("warning: {error}");
            None
        }
    };
    let problem = |(node, presence): (&String, &Presence)| Some((node.clone(), presence.problem.clone()?));
    let last_error = |(node, presence): (&String, &Presence)| Some((node.clone(), presence.last_error.clone()?));
    Ok(PipelineStatus {
        pipeline: name.to_string(),
        state: state(&record, has_worker && !placement.is_empty(), &nodes),
        desired: record.desired,
        revision: record.revision,
        incarnation: record.incarnation,
        running: nodes.values().map(|presence| presence.running).sum(),
        tasks,
        threads: nodes.values().map(|presence| presence.threads).sum(),
        lag: progress.ok().map(|progress| progress.iter().flatten().map(Progress::lag).sum()),
        rates: None,
        state_bytes: task_status.as_ref().map(|tasks| tasks.iter().filter_map(|task| task.state_bytes).sum()),
        plugins: plugins(&record),
        problems: nodes.iter().filter_map(problem).collect(),
        last_errors: nodes.iter().filter_map(last_error).collect(),
        nodes,
        placement,
        task_status: task_status.filter(|_| with_tasks),
    })
}

/// What the recorded pipeline file names, with what that came to.
fn plugins(record: &PipelineRecord) -> Vec<PluginStatus> {
    let pipeline = Pipeline::parse(std::path::Path::new("recorded"), &record.specification.file);
    let transforms = pipeline.map_or_else(|_| Vec::new(), |pipeline| pipeline.transforms);
    let of = |(transform, digest): (crate::config::Transform, &String)| PluginStatus {
        transform: transform.name,
        plugin: transform.plugin.to_string(),
        digest: digest.clone(),
    };
    transforms.into_iter().zip(&record.specification.plugins).map(of).collect()
}

/// In one word, the worst first. `placed`: there is a worker, and the leader has said who is to run it.
fn state(record: &PipelineRecord, placed: bool, nodes: &BTreeMap<String, Presence>) -> &'static str {
    let any = |activity| nodes.values().any(|presence| presence.activity == activity);
    let running: usize = nodes.values().map(|presence| presence.running).sum();
    match record.desired {
        Desired::Gone | Desired::StateKept => {
            if nodes.is_empty() {
                "undeployed"
            } else {
                "stopping"
            }
        }
        Desired::Paused => {
            if nodes.is_empty() {
                "paused"
            } else {
                "stopping"
            }
        }
        Desired::ByItself if nodes.is_empty() => "stopped",
        _ if any(Activity::Failed) => "failed",
        _ if any(Activity::Retrying) => "retrying",
        Desired::Running if !placed => "no-worker",
        _ if nodes.is_empty() || any(Activity::Starting) => "starting",
        _ if running < record.specification.partitions as usize => "restoring",
        _ if nodes.values().any(|presence| presence.revision != record.revision) => "changing",
        _ => "running",
    }
}

async fn task_statuses(
    connection: &Connection,
    name: &Segment,
    record: &PipelineRecord,
    progress: &[Vec<Progress>],
) -> Result<Vec<TaskStatus>, StateError> {
    let incarnation = record.incarnation;
    let read = |partition| async move {
        let task = TaskId { pipeline: name.to_string(), incarnation, stage: 0, partition };
        let head = TaskStore::new(Arc::clone(&connection.store), task).read().await?.map(|(head, _)| head);
        let progress = progress.get(partition as usize).map_or(&[][..], Vec::as_slice);
        Ok(task_status(partition, head.as_ref(), progress))
    };
    let partitions = futures::stream::iter(0..record.specification.partitions);
    partitions.map(read).buffered(READS_IN_FLIGHT).try_collect().await
}

fn task_status(task: u32, head: Option<&Head>, progress: &[Progress]) -> TaskStatus {
    let owner = head.and_then(|head| owner(&head.owner));
    let newest = head.map(|head| head.prepared.last().unwrap_or(&head.committed));
    let of = |progress: &Progress| SourceStatus {
        topic: progress.topic.clone(),
        committed: progress.committed,
        lag: progress.lag(),
    };
    TaskStatus {
        task,
        node: owner.map(|(node, _)| node.to_owned()),
        thread: owner.map(|(_, thread)| thread.to_owned()),
        epoch: newest.map(|manifest| manifest.id.epoch.0),
        state_bytes: head.zip(newest).map(|(head, newest)| inspection::stored_bytes(head, newest)),
        sources: progress.iter().map(of).collect(),
    }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Node and thread in an owner's name, `<group>/<node>/<thread>`.
fn owner(name: &str) -> Option<(&str, &str)> {
    let (front, thread) = name.rsplit_once('/')?;
    Some((front.rsplit_once('/')?.1, thread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::pipelines::Specification;

    fn record(desired: Desired) -> PipelineRecord {
        let (file, canonical, digest) = (String::new(), String::new(), String::new());
        PipelineRecord::first(Specification { file, canonical, digest, plugins: Vec::new(), partitions: 2 }, desired)
    }

    fn presence(activity: Activity, running: usize) -> Presence {
        Presence {
            activity,
            revision: 1,
            incarnation: 1,
            by_itself: false,
            threads: 1,
            assigned: 2,
            running,
            busy: 0,
            problem: None,
            last_error: None,
            since: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_pipeline_without_a_worker_is_not_said_to_be_starting() {
        let nobody = BTreeMap::new();
        assert_eq!(state(&record(Desired::Running), false, &nobody), "no-worker");
        assert_eq!(state(&record(Desired::Running), true, &nobody), "starting");
        assert_eq!(state(&record(Desired::Paused), false, &nobody), "paused");
        let here = |activity, running| BTreeMap::from([("a".to_owned(), presence(activity, running))]);
        assert_eq!(state(&record(Desired::Running), true, &here(Activity::Running, 1)), "restoring");
        assert_eq!(state(&record(Desired::Running), true, &here(Activity::Running, 2)), "running");
        // One that has failed says so, whoever is there.
        assert_eq!(state(&record(Desired::Running), false, &here(Activity::Failed, 0)), "failed");
        // By `run`, without the leader's decision.
        assert_eq!(state(&record(Desired::ByItself), false, &here(Activity::Running, 2)), "running");
    }

    #[test]
    fn the_node_and_thread_of_an_owner_are_in_its_name() {
        assert_eq!(owner("sluicegate/orders/1/host-3.example.org/0"), Some(("host-3.example.org", "0")));
        assert_eq!(owner(""), None);
    }
}
