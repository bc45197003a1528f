//! What the node that leads does: it places worker threads on nodes, and deletes what pipelines have left behind that are gone.
//!
//! It decides again whenever nodes or pipelines change, and from time to time because loads do. All it knows stands in the
//! store, so that the next leader goes on where this one stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::{debug, info, warn};

use super::contents::{decode, encode};
use super::membership;
use super::pipelines::{self, Desired, PipelineRecord};
use super::placement::{self, Capacity, Demand, Placement};
use super::presence::{self, Activity, Presence};
use super::rollout::{Next, NodeReport, Rollout};
use super::watching::Watching;
use crate::meta::layout::{self, Segment};
use crate::meta::{Coordination, MetaError, MetaStore, Write};

/// Loads are looked at this often.
const LOOK: Duration = Duration::from_secs(30);
/// While something that should be deleted is still in use, it is looked again after so long.
const LEFT_LOOK: Duration = Duration::from_secs(3);
/// During a rollout it is looked this often, for what time alone changes.
const ROLLOUT_LOOK: Duration = Duration::from_millis(500);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// Nodes deleted in one request.
const DELETES: usize = 500;
/// What a thread is taken to need before anybody has measured it, in thousandths of a core.
const WEIGHT_UNKNOWN: u32 = 500;
/// Measured loads are taken as the next of these, so that small changes move nothing.
const WEIGHTS: [u32; 5] = [50, 125, 250, 500, 1000];

/// What the leader needs of Kafka.
#[async_trait]
pub trait Groups: Send + Sync {
    /// The group of an incarnation of a pipeline.
    fn name(&self, pipeline: &str, incarnation: u64) -> String;

    /// Deletes a consumer group with its offsets; one that does not exist is deleted already.
    async fn delete(&self, group: &str) -> Result<(), String>;
}

/// Leads until it is dropped.
pub async fn lead(store: Arc<dyn Coordination>, groups: Arc<dyn Groups>) {
    loop {
        let mut watching = Watching::new(&*store);
        match round(&mut watching, &*store, &*groups).await {
            Ok(look) => watching.changed(look).await,
            Err(error) => {
                debug!("leading: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

struct Known {
    name: Segment,
    record: PipelineRecord,
    presences: Vec<(String, Presence)>,
}

/// Whether something is to be deleted that cannot be yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    /// It is not.
    Nothing,
    /// It is: a node has it still, or the group has members.
    Something,
}

/// Deletes what a pipeline has left behind, where nobody leads.
///
/// # Errors
/// Those of the store.
pub async fn clean(store: &dyn MetaStore, groups: &dyn Groups, name: &Segment) -> Result<Left, MetaError> {
    let Some(known) = pipelines::read(store, name).await? else { return Ok(Left::Nothing) };
    let presences = presence::list(store, name).await?;
    delete_left_over(store, groups, &Known { name: name.clone(), record: known.record, presences }).await
}

/// Everything there is to do now. When to look again, if nothing changes.
async fn round(
    watching: &mut Watching<'_>,
    store: &dyn Coordination,
    groups: &dyn Groups,
) -> Result<Duration, MetaError> {
    let nodes = capacities(watching, store).await?;
    let mut known = Vec::new();
    for name in watching.children(layout::PIPELINES).await? {
        let Ok(name) = Segment::new(&name) else { continue };
        let path = layout::pipeline(&name);
        let Some(node) = watching.get(&path).await? else { continue };
        // One that cannot be read keeps the others from nothing.
        match decode::<PipelineRecord>(&path, &node.data) {
            Ok(record) => {
                // What is left behind is deleted when the last node has let go of it.
                watching.children(&layout::pipeline_nodes(&name)).await?;
                let presences = presence::list(store, &name).await?;
                known.push(Known { name, record, presences });
            }
            Err(error) => warn!("{error}"),
        }
    }
    place(store, &nodes, &known).await?;
    let mut look = LOOK;
    for pipeline in &known {
        if let Some(rollout) = &pipeline.record.rollout {
            match roll_out(watching, store, pipeline, rollout).await {
                Err(error) if error.is_outage() => return Err(error),
                // It keeps the others from nothing.
                Err(error) => warn!(pipeline = %pipeline.name, "the rollout cannot be moved on: {error}"),
                Ok(()) => {}
            }
            look = look.min(ROLLOUT_LOOK);
        }
        if delete_left_over(store, groups, pipeline).await? == Left::Something {
            look = look.min(LEFT_LOOK);
        }
    }
    Ok(look)
}

/// Moves a rollout on. Nodes tell how they are with it; each word of theirs is a reason to look again.
async fn roll_out(
    watching: &mut Watching<'_>,
    store: &dyn MetaStore,
    Known { name, presences, .. }: &Known,
    rollout: &Rollout,
) -> Result<(), MetaError> {
    let mut reports: BTreeMap<&str, NodeReport> = BTreeMap::new();
    for (node, _) in presences {
        let Ok(segment) = Segment::new(node) else { continue };
        let path = layout::pipeline_node(name, &segment);
        let Some(found) = watching.get(&path).await? else { continue };
        let presence: Presence = decode(&path, &found.data)?;
        reports.extend(said(presence, rollout).map(|report| (node.as_str(), report)));
    }
    let path = layout::placement(name);
    let placement: Placement = match watching.get(&path).await? {
        Some(node) => decode(&path, &node.data)?,
        None => Placement::new(),
    };
    let placed: Vec<&str> =
        placement.iter().filter(|(_, threads)| **threads > 0).map(|(node, _)| node.as_str()).collect();
    let reports = reports.iter().map(|(node, report)| (*node, report)).collect();
    match rollout.next(&placed, &reports, jiff::Timestamp::now()) {
        Next::Wait => {}
        Next::Go(next) => {
            info!(pipeline = %name, transform = rollout.transform, phase = ?next.phase, reason = next.reason, "rollout");
            pipelines::move_rollout(store, name, rollout, &next).await?;
        }
        Next::End(ended, outcome) => {
            info!(pipeline = %name, transform = rollout.transform, ?outcome, reason = ended.reason, "rollout ended");
            pipelines::end_rollout(store, name, rollout, &ended, outcome).await?;
        }
    }
    Ok(())
}

/// What a node says of a rollout. One that has no threads runs nothing, whatever it said before; one where the pipeline fails
/// cannot run the candidate.
fn said(presence: Presence, rollout: &Rollout) -> Option<NodeReport> {
    let fails = matches!(presence.activity, Activity::Failed | Activity::Retrying);
    if !fails && presence.threads > 0 {
        return presence.rollout;
    }
    let why = presence.problem.unwrap_or_default();
    let problem = fails.then(|| format!("the pipeline fails there: {why}"));
    let prepared = presence.rollout.is_some_and(|report| report.number == rollout.number && report.prepared);
    Some(NodeReport { number: rollout.number, prepared, problem, ..NodeReport::default() })
}

/// The nodes that take threads.
async fn capacities(watching: &mut Watching<'_>, store: &dyn MetaStore) -> Result<Vec<Capacity>, MetaError> {
    watching.children(layout::NODES).await?;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let capacity = |(node, record): (String, membership::NodeRecord)| {
        Some(Capacity { node, threads: number(record.threads?), cores: number(record.cores) })
    };
    Ok(membership::list(store).await?.into_iter().filter_map(capacity).collect())
}

async fn place(store: &dyn MetaStore, nodes: &[Capacity], known: &[Known]) -> Result<(), MetaError> {
    let mut demands = Vec::with_capacity(known.len());
    let mut versions = Vec::with_capacity(known.len());
    for Known { name, record, presences } in known {
        let path = layout::placement(name);
        let node = store.get(&path).await?;
        let current: Placement = match &node {
            Some(node) => decode(&path, &node.data)?,
            None => Placement::new(),
        };
        let wanted = if record.desired == Desired::Running { record.specification.partitions } else { 0 };
        demands.push(Demand { partitions: wanted, weight: weight(presences), current });
        versions.push(node.map(|node| node.version));
    }
    let placements = placement::place(nodes, &demands);
    for (((known, demand), version), wanted) in known.iter().zip(&demands).zip(versions).zip(placements) {
        if demand.current == wanted {
            continue;
        }
        let (path, data) = (layout::placement(&known.name), encode(&wanted));
        let write = match version {
            Some(version) => Write::Set { path, data, version },
            None => {
                store.ensure(layout::PLACEMENT).await?;
                Write::Create { path, data, ephemeral: false }
            }
        };
        store.multi(vec![write]).await?;
        info!(pipeline = %known.name, threads = ?wanted, "placed");
    }
    Ok(())
}

/// What one thread of a pipeline needs.
fn weight(presences: &[(String, Presence)]) -> u32 {
    let running = presences.iter().map(|(_, presence)| presence).filter(|now| now.activity == Activity::Running);
    let (busy, threads) = running.fold((0, 0), |(busy, threads), now| {
        (busy + u64::from(now.busy) * now.threads as u64, threads + now.threads as u64)
    });
    let Some(mean) = busy.checked_div(threads) else { return WEIGHT_UNKNOWN };
    WEIGHTS.into_iter().find(|weight| u64::from(*weight) >= mean).unwrap_or(WEIGHTS[WEIGHTS.len() - 1])
}

/// Deletes incarnations that nobody will use again and no node has to do with any more, each with its consumer group.
async fn delete_left_over(store: &dyn MetaStore, groups: &dyn Groups, pipeline: &Known) -> Result<Left, MetaError> {
    let Known { name, record, presences } = pipeline;
    let mut left = Left::Nothing;
    let in_use: BTreeSet<u64> = presences.iter().map(|(_, presence)| presence.incarnation).collect();
    for child in store.children(&layout::pipeline_state(name)).await? {
        let Ok(incarnation) = child.parse::<u64>() else { continue };
        if !is_left_over(record, incarnation) {
            continue;
        }
        if in_use.contains(&incarnation) {
            left = Left::Something;
            continue;
        }
        let group = groups.name(name.as_str(), incarnation);
        // The group goes first: as long as the state is there, somebody knows that both have to go.
        if let Err(error) = groups.delete(&group).await {
            info!("the consumer group `{group}` is not deleted yet: {error}");
            left = Left::Something;
            continue;
        }
        let path = format!("{}/{incarnation}", layout::pipeline_state(name));
        delete_tree(store, &path).await?;
        info!(pipeline = %name, incarnation, "deleted state that is not used any more");
    }
    Ok(left)
}

/// Whether nobody will use an incarnation of a pipeline's state again. One that is being prepared has the highest number, and is not
/// in use yet.
#[must_use]
pub fn is_left_over(record: &PipelineRecord, incarnation: u64) -> bool {
    let current = (record.desired != Desired::Gone).then_some(record.incarnation);
    let prepared = (record.last_incarnation > record.incarnation).then_some(record.last_incarnation);
    incarnation <= record.last_incarnation && Some(incarnation) != current && Some(incarnation) != prepared
}

/// Deletes a node and everything below it.
///
/// # Errors
/// Those of the store; what is left is deleted by doing it again.
pub async fn delete_tree(store: &dyn MetaStore, path: &str) -> Result<(), MetaError> {
    let mut all = vec![path.to_owned()];
    let mut at = 0;
    while at < all.len() {
        let parent = all[at].clone();
        all.extend(store.children(&parent).await?.into_iter().map(|child| format!("{parent}/{child}")));
        at += 1;
    }
    all.reverse();
    for some in all.chunks(DELETES) {
        let delete = |path: &String| Write::Delete { path: path.clone(), version: None };
        match store.multi(some.iter().map(delete).collect()).await {
            Ok(_) | Err(MetaError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::candidate::{Switched, TaskReport};
    use crate::cluster::membership::NodeRecord;
    use crate::cluster::pipelines::Specification;
    use crate::meta::local::LocalStore;

    #[derive(Default)]
    struct Deleted(Mutex<Vec<String>>);

    #[async_trait]
    impl Groups for Deleted {
        fn name(&self, pipeline: &str, incarnation: u64) -> String {
            format!("{pipeline}/{incarnation}")
        }

        async fn delete(&self, group: &str) -> Result<(), String> {
            self.0.lock().unwrap().push(group.to_owned());
            Ok(())
        }
    }

    struct Bench {
        _dir: tempfile::TempDir,
        store: LocalStore,
        groups: Deleted,
        name: Segment,
    }

    impl Bench {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = LocalStore::open(dir.path()).await.unwrap();
            let bench = Self { _dir: dir, store, groups: Deleted::default(), name: Segment::new("orders").unwrap() };
            bench.store.ensure(layout::NODES).await.unwrap();
            bench
        }

        async fn node(&self, name: &str, threads: Option<usize>) {
            let record = NodeRecord { cores: 2, ..NodeRecord::of_this_process(None, threads) };
            let data = serde_json::to_vec(&record).unwrap().into();
            let path = layout::node(&Segment::new(name).unwrap());
            self.store.multi(vec![Write::Create { path, data, ephemeral: false }]).await.unwrap();
        }

        async fn change(&self, change: impl Fn(PipelineRecord) -> PipelineRecord) {
            let specification = Specification { partitions: 4, ..Specification::default() };
            let first = PipelineRecord::first(specification, Desired::Running);
            let change = |known: Option<&PipelineRecord>| {
                Ok::<_, MetaError>(Some(change(known.cloned().unwrap_or_else(|| first.clone()))))
            };
            pipelines::change(&self.store, &self.name, change).await.unwrap();
        }

        async fn round(&self) {
            round(&mut Watching::new(&self.store), &self.store, &self.groups).await.unwrap();
        }

        async fn placement(&self) -> Placement {
            let node = self.store.get(&layout::placement(&self.name)).await.unwrap().unwrap();
            serde_json::from_slice(&node.data).unwrap()
        }

        async fn state(&self, incarnation: u64) {
            self.store.ensure(&format!("/state/orders/{incarnation}/0/3/chunks/1.1")).await.unwrap();
        }

        async fn incarnations(&self) -> Vec<String> {
            self.store.children("/state/orders").await.unwrap()
        }
    }

    #[tokio::test]
    async fn workers_get_threads_and_other_processes_do_not() {
        let bench = Bench::new().await;
        bench.node("a", Some(2)).await;
        bench.node("b", Some(2)).await;
        bench.node("by-itself", None).await;
        bench.change(|record| record).await;
        bench.round().await;
        assert_eq!(bench.placement().await, [("a".to_owned(), 2), ("b".to_owned(), 2)].into());
        bench.change(|record| PipelineRecord { desired: Desired::Paused, ..record }).await;
        bench.round().await;
        assert_eq!(bench.placement().await, Placement::new());
    }

    #[tokio::test]
    async fn state_goes_with_its_group_when_nobody_will_use_it_again() {
        let bench = Bench::new().await;
        bench.change(|record| record).await;
        bench.state(1).await;
        bench.round().await;
        assert_eq!(bench.incarnations().await, ["1"]);
        bench.change(|record| PipelineRecord { desired: Desired::StateKept, ..record }).await;
        bench.round().await;
        assert_eq!(bench.incarnations().await, ["1"]);
        bench.change(|record| PipelineRecord { desired: Desired::Gone, ..record }).await;
        bench.round().await;
        assert!(bench.incarnations().await.is_empty());
        assert_eq!(*bench.groups.0.lock().unwrap(), ["orders/1"]);
    }

    #[tokio::test]
    async fn state_that_a_node_still_has_or_that_is_being_prepared_stays() {
        let bench = Bench::new().await;
        bench.change(|record| PipelineRecord { incarnation: 3, last_incarnation: 5, ..record }).await;
        for incarnation in 2..6 {
            bench.state(incarnation).await;
        }
        let presence = Presence { incarnation: 2, ..Presence::starting(false) };
        let path = layout::pipeline_node(&bench.name, &Segment::new("a").unwrap());
        let data = serde_json::to_vec(&presence).unwrap().into();
        bench.store.multi(vec![Write::Create { path: path.clone(), data, ephemeral: false }]).await.unwrap();
        bench.round().await;
        assert_eq!(bench.incarnations().await, ["2", "3", "5"], "4 was begun and given up");
        bench.store.multi(vec![Write::Delete { path, version: None }]).await.unwrap();
        bench.round().await;
        assert_eq!(bench.incarnations().await, ["3", "5"]);
    }

    #[test]
    fn a_load_is_what_its_threads_are_busy() {
        let running = |busy, threads| {
            let presence = Presence { activity: Activity::Running, busy, threads, ..Presence::starting(false) };
            ("a".to_owned(), presence)
        };
        assert_eq!(weight(&[]), WEIGHT_UNKNOWN);
        assert_eq!(weight(&[running(0, 2)]), 50);
        assert_eq!(weight(&[running(900, 1), running(100, 3)]), 500);
        assert_eq!(weight(&[running(2000, 1)]), 1000);
    }

    #[test]
    fn a_node_that_fails_or_has_no_threads_runs_nothing_whatever_it_said_before() {
        let rollout = super::super::rollout::tests::rollout(None);
        let tasks = BTreeMap::from([(0, TaskReport { switched: Some(Switched::default()), ..TaskReport::default() })]);
        let report = NodeReport { number: rollout.number, prepared: true, tasks, ..NodeReport::default() };
        let presence = |activity, threads| Presence {
            activity,
            threads,
            problem: Some("it traps".to_owned()),
            rollout: Some(report.clone()),
            ..Presence::starting(false)
        };
        assert_eq!(said(presence(Activity::Running, 2), &rollout), Some(report.clone()));
        let failed = said(presence(Activity::Retrying, 0), &rollout).unwrap();
        assert!(failed.tasks.is_empty() && failed.problem.unwrap().contains("it traps"));
        let starting = said(presence(Activity::Starting, 0), &rollout).unwrap();
        assert!(starting.tasks.is_empty() && starting.problem.is_none() && starting.prepared);
    }
}
