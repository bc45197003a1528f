//! How pipelines and nodes are, put together from the metadata store, Kafka and what nodes count: for commands and for the API.

mod rates;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use utoipa::ToSchema;

pub use self::rates::{Rates, Sample};
use super::NodeError;
use super::group::{Group, Progress};
use crate::candidate::Shadowed;
use crate::checkpoint::head::Head;
use crate::checkpoint::store::{StateError, TaskStore};
use crate::cluster::contents;
use crate::cluster::election;
use crate::cluster::inspection;
use crate::cluster::membership::{self, NodeRecord};
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::cluster::placement::Placement;
use crate::cluster::presence::{self, Activity, Incident, Presence};
use crate::cluster::rollout::{Awaited, Ended, NodeReport, Phase, Rollout, Version};
use crate::config::{Cluster, Pipeline, Transform};
use crate::ids::TaskId;
use crate::meta::layout::{self, Segment};
use crate::meta::{MetaError, MetaStore};

/// What nodes count is asked for twice, with this between.
pub const RATES_OVER: Duration = Duration::from_secs(1);
/// Heads that are read at the same time.
const READS_IN_FLIGHT: usize = 16;

/// How a pipeline is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PipelineStatus {
    /// Its name.
    pub pipeline: String,
    /// In one word.
    pub state: &'static str,
    /// What is wanted of it.
    pub desired: Desired,
    /// Counts the changes of its specification, from 1.
    pub revision: u64,
    /// The life of its state, from 1.
    pub incarnation: u64,
    /// Tasks that take records.
    pub running: usize,
    /// Partitions of its topics.
    pub tasks: u32,
    /// Worker threads.
    pub threads: usize,
    /// Records that are not committed yet; `None` when Kafka does not say.
    pub lag: Option<u64>,
    /// Records a second; `None` when nobody has asked for it, or no node can be asked.
    pub rates: Option<Rates>,
    /// Bytes of state in the metadata store, over all tasks; `None` when a head cannot be read.
    pub state_bytes: Option<u64>,
    /// What its transforms run.
    pub plugins: Vec<PluginStatus>,
    /// The rollout that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Where it runs.
    pub nodes: BTreeMap<String, Presence>,
    /// What the leader has decided.
    #[schema(value_type = BTreeMap<String, u32>)]
    pub placement: Placement,
    /// Why it does not run as it should, by node.
    pub problems: BTreeMap<String, String>,
    /// What went wrong last, by node, also when it runs again.
    pub last_errors: BTreeMap<String, Incident>,
    /// How its tasks are; where one pipeline was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_status: Option<Vec<TaskStatus>>,
    /// What could not be found out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a transform runs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PluginStatus {
    /// Name of the transform.
    pub transform: String,
    /// As the pipeline file names it.
    pub plugin: String,
    /// SHA-256, in hexadecimal.
    pub digest: String,
}

/// How far a rollout is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RolloutStatus {
    /// Counts the rollouts of the pipeline, from 1.
    pub number: u64,
    /// Which transform.
    pub transform: String,
    /// What it ran before.
    pub from: Version,
    /// What it is to run.
    pub to: Version,
    /// What happens now.
    pub phase: Phase,
    /// Since when the tasks that are to run the new version do, and are watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watched_since: Option<jiff::Timestamp>,
    /// Tasks that have gone over.
    pub gone_over: usize,
    /// Of so many.
    pub tasks: u32,
    /// How the new version compares in the shadow of the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadowed: Option<Shadowed>,
    /// Why it is being called off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it waits for a person to decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// What else it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Awaited>,
}

impl RolloutStatus {
    fn new(rollout: &Rollout, nodes: &BTreeMap<String, Presence>) -> Self {
        let reports = || nodes.values().filter_map(|presence| presence.rollout.as_ref());
        Self {
            number: rollout.number,
            transform: rollout.transform.clone(),
            from: rollout.from.clone(),
            to: rollout.to.clone(),
            phase: rollout.phase,
            watched_since: rollout.watched_since,
            gone_over: rollout.gone_over(reports()),
            shadowed: rollout.shadowed(reports()),
            tasks: rollout.candidate.partitions,
            reason: rollout.reason.clone(),
            held: rollout.awaits_decision().map(str::to_owned),
            waits_for: rollout.waits_for(said(nodes)),
        }
    }
}

/// What nodes say of a rollout.
fn said<'a>(
    nodes: impl IntoIterator<Item = (&'a String, &'a Presence)>,
) -> impl Iterator<Item = (&'a str, Option<&'a NodeReport>)> {
    nodes.into_iter().map(|(node, presence)| (node.as_str(), presence.rollout.as_ref()))
}

/// The rollouts of a pipeline.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Rollouts {
    /// The one that has not ended.
    pub under_way: Option<Rollout>,
    /// What it waits for, but for time, records and a person's decision.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Awaited>,
    /// Those that have and are kept, the oldest first.
    pub ended: Vec<Ended>,
}

/// The rollouts of a pipeline, how far the one under way is, and what became of the others.
///
/// # Errors
/// There is no such pipeline; those of the store.
pub async fn rollouts(store: &dyn MetaStore, name: &Segment) -> Result<Rollouts, NodeError> {
    let unknown = || NodeError::UnknownPipeline { pipeline: name.to_string() };
    let record = pipelines::read(store, name).await?.ok_or_else(unknown)?.record;
    let nodes = presence::list(store, name).await?;
    let reports = || nodes.iter().filter_map(|(_, presence)| presence.rollout.as_ref());
    let under_way = record.rollout.map(|rollout| Rollout { shadowed: rollout.shadowed(reports()), ..rollout });
    let waits_for = under_way.as_ref().map_or_else(Vec::new, |rollout| awaited(rollout, &nodes));
    Ok(Rollouts { under_way, waits_for, ended: pipelines::rollouts(store, name).await? })
}

/// What a rollout waits for, by what nodes say.
#[must_use]
pub fn awaited(rollout: &Rollout, nodes: &[(String, Presence)]) -> Vec<Awaited> {
    rollout.waits_for(said(nodes.iter().map(|(node, presence)| (node, presence))))
}

/// How a task is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TaskStatus {
    /// Its partition.
    pub task: u32,
    /// Which node claimed its state last.
    pub node: Option<String>,
    /// Which thread of that.
    pub thread: Option<String>,
    /// The number of the last commit of its state.
    pub epoch: Option<u64>,
    /// Bytes of state in the metadata store.
    pub state_bytes: Option<u64>,
    /// By source topic: what is committed, and how much is left.
    pub sources: Vec<SourceStatus>,
}

/// How far a task is with a source topic.
#[derive(Debug, Serialize, ToSchema)]
pub struct SourceStatus {
    /// The topic.
    pub topic: String,
    /// The offset that its group has committed: of the next record.
    pub committed: Option<i64>,
    /// Records behind that.
    pub lag: u64,
}

/// How all pipelines are; or the one that is named, with its tasks.
///
/// # Errors
/// There is no such pipeline; those of the store. What Kafka does not say is missing, and is a warning.
pub async fn pipelines(
    cluster: &Arc<Cluster>,
    store: &Arc<dyn MetaStore>,
    only: Option<&Segment>,
) -> Result<Vec<PipelineStatus>, NodeError> {
    let has_worker = membership::list(&**store).await?.iter().any(|(_, node)| node.threads.is_some());
    let mut statuses = Vec::new();
    match only {
        Some(name) => {
            let unknown = || NodeError::UnknownPipeline { pipeline: name.to_string() };
            let known = pipelines::read(&**store, name).await?.ok_or_else(unknown)?;
            statuses.push(pipeline(cluster, store, name, known.record, has_worker, true).await?);
        }
        None => {
            for (name, record) in pipelines::list(&**store).await? {
                if record.desired != Desired::Gone {
                    statuses.push(pipeline(cluster, store, &name, record, has_worker, false).await?);
                }
            }
        }
    }
    Ok(statuses)
}

/// Asks the nodes what they have counted, and puts into `statuses` what was done since `before`.
///
/// # Errors
/// Those of the store.
pub async fn rate(
    store: &dyn MetaStore,
    statuses: &mut [PipelineStatus],
    before: Option<&Sample>,
) -> Result<Sample, MetaError> {
    let now = Sample::take(&membership::list(store).await?).await;
    let rates = before.map_or_else(BTreeMap::new, |before| now.since(before));
    statuses.iter_mut().for_each(|status| status.rates = rates.get(&status.pipeline).copied());
    Ok(now)
}

async fn pipeline(
    cluster: &Arc<Cluster>,
    store: &Arc<dyn MetaStore>,
    name: &Segment,
    record: PipelineRecord,
    has_worker: bool,
    with_tasks: bool,
) -> Result<PipelineStatus, NodeError> {
    let nodes: BTreeMap<String, Presence> = presence::list(&**store, name).await?.into_iter().collect();
    let path = layout::placement(name);
    let placed: Option<Placement> = match store.get(&path).await? {
        Some(node) => Some(contents::decode(&path, &node.data)?),
        None => None,
    };
    // What the leader has not looked at yet starts.
    let somebody_runs_it = has_worker && placed.as_ref().is_none_or(|placement| !placement.is_empty());
    let placement = placed.unwrap_or_default();
    let tasks = record.specification.partitions;
    let progress = match Group::new(cluster, &record) {
        Ok(group) => group.progress(record.incarnation, tasks).await,
        Err(error) => Err(error),
    };
    let mut warnings = Vec::new();
    if let Err(error) = &progress {
        warnings.push(format!("kafka does not say how far `{name}` is: {error}"));
    }
    let task_status = match task_statuses(store, name, &record, progress.as_deref().unwrap_or_default()).await {
        Ok(tasks) => Some(tasks),
        Err(error) if with_tasks => return Err(error.into()),
        Err(error) => {
            warnings.push(error.to_string());
            None
        }
    };
    let problem = |(node, presence): (&String, &Presence)| Some((node.clone(), presence.problem.clone()?));
    let last_error = |(node, presence): (&String, &Presence)| Some((node.clone(), presence.last_error.clone()?));
    Ok(PipelineStatus {
        pipeline: name.to_string(),
        state: state(&record, somebody_runs_it, &nodes),
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
        rollout: record.rollout.as_ref().map(|rollout| RolloutStatus::new(rollout, &nodes)),
        problems: nodes.iter().filter_map(problem).collect(),
        last_errors: nodes.iter().filter_map(last_error).collect(),
        nodes,
        placement,
        task_status: task_status.filter(|_| with_tasks),
        warnings,
    })
}

/// A node of the cluster.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Whether it leads.
    pub leads: bool,
    /// Of which pipelines it runs threads, and how many.
    pub pipelines: BTreeMap<String, usize>,
    /// What it says of itself.
    #[serde(flatten)]
    pub record: NodeRecord,
}

/// Which nodes there are, by name.
///
/// # Errors
/// Those of the store.
pub async fn nodes(store: &dyn MetaStore) -> Result<Vec<NodeStatus>, MetaError> {
    let leader = election::leader(store).await?;
    let mut running: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for (name, _) in pipelines::list(store).await? {
        for (node, presence) in presence::list(store, &name).await? {
            running.entry(node).or_default().insert(name.to_string(), presence.threads);
        }
    }
    let status = |(node, record): (String, NodeRecord)| NodeStatus {
        leads: leader.as_ref().is_some_and(|leader| leader.node == node && leader.instance == record.instance),
        pipelines: running.remove(&node).unwrap_or_default(),
        node,
        record,
    };
    Ok(membership::list(store).await?.into_iter().map(status).collect())
}

/// What the recorded pipeline file names, with what that came to.
fn plugins(record: &PipelineRecord) -> Vec<PluginStatus> {
    let pipeline = Pipeline::parse(Path::new("recorded"), &record.specification.file);
    let transforms = pipeline.map_or_else(|_| Vec::new(), |pipeline| pipeline.transforms);
    let of = |(transform, digest): (Transform, &String)| PluginStatus {
        transform: transform.name,
        plugin: transform.plugin.to_string(),
        digest: digest.clone(),
    };
    transforms.into_iter().zip(&record.specification.plugins).map(of).collect()
}

/// In one word, the worst first. `placed`: there is a worker, and the leader has not said that none is to run it.
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
    store: &Arc<dyn MetaStore>,
    name: &Segment,
    record: &PipelineRecord,
    progress: &[Vec<Progress>],
) -> Result<Vec<TaskStatus>, StateError> {
    let incarnation = record.incarnation;
    let read = |partition| async move {
        let task = TaskId { pipeline: name.to_string(), incarnation, stage: 0, partition };
        let head = TaskStore::new(Arc::clone(store), task).read().await?.map(|(head, _)| head);
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

/// Node and thread in an owner's name, `<group>/<node>/<thread>`.
fn owner(name: &str) -> Option<(&str, &str)> {
    let (front, thread) = name.rsplit_once('/')?;
    Some((front.rsplit_once('/')?.1, thread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::{Switched, TaskReport};
    use crate::cluster::pipelines::Specification;

    fn record(desired: Desired) -> PipelineRecord {
        PipelineRecord::first(Specification { partitions: 2, ..Specification::default() }, desired)
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
            rollout: None,
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
    fn tasks_have_gone_over_that_say_so_of_this_rollout() {
        let rollout = crate::cluster::rollout::tests::rollout(None);
        let report = |number: u64, switched: &[bool]| NodeReport {
            number,
            prepared: true,
            problem: None,
            shadowed: None,
            tasks: switched.iter().zip(0..).map(|(switched, task)| (task, task_report(*switched))).collect(),
        };
        let node = |report| Presence { rollout: Some(report), ..presence(Activity::Running, 2) };
        let nodes = BTreeMap::from([
            ("a".to_owned(), node(report(rollout.number, &[true, false]))),
            ("b".to_owned(), node(report(rollout.number, &[true]))),
            ("c".to_owned(), node(report(rollout.number + 1, &[true, true]))),
            ("d".to_owned(), presence(Activity::Running, 2)),
        ]);
        let status = RolloutStatus::new(&rollout, &nodes);
        assert_eq!((status.gone_over, status.tasks, status.reason), (2, rollout.candidate.partitions, None));
        let waits: Vec<String> = status.waits_for.iter().map(ToString::to_string).collect();
        assert_eq!(waits, ["node c: the new version is not loaded", "node d: the new version is not loaded"]);
        let off = RolloutStatus::new(&rollout.called_off("it traps"), &nodes);
        assert_eq!((off.phase, off.reason.as_deref()), (Phase::Return, Some("it traps")));
    }

    fn task_report(switched: bool) -> TaskReport {
        TaskReport { switched: switched.then(Switched::default), ..TaskReport::default() }
    }

    #[test]
    fn the_node_and_thread_of_an_owner_are_in_its_name() {
        assert_eq!(owner("sluicegate/orders/1/host-3.example.org/0"), Some(("host-3.example.org", "0")));
        assert_eq!(owner(""), None);
    }
}
