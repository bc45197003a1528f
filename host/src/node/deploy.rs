//! What a deployment checks before anything is changed, and what it changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::group::{Group, KafkaGroups};
use super::load::{Loaded, Loader, kafka_settings};
use super::swapped::{self, TakenBack};
use super::{NodeError, steps};
use crate::checkpoint::store::{StateError, TaskStore};
use crate::cluster::election;
use crate::cluster::leader::{self, Left};
use crate::cluster::pipelines::{self, Desired, PipelineRecord, Specification};
use crate::cluster::presence;
use crate::config::{Cluster, Difference, Pipeline, differences};
use crate::engine::Engine;
use crate::meta::layout::Segment;
use crate::meta::{MetaError, MetaStore};
use crate::worker::compatible;
use crate::worker::control::Control;
use crate::worker::plan::Plan;

/// How long topics that are not there yet are waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Members of a group that were killed are in it for its session time-out.
const MEMBERS_WAIT: Duration = Duration::from_secs(15);
/// Pause between two looks at such a group.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A pipeline that could be deployed.
pub struct Deployable {
    store: Arc<dyn MetaStore>,
    name: Segment,
    /// What is recorded of it now.
    pub known: Option<PipelineRecord>,
    /// What it is to be.
    pub specification: Specification,
    /// Whether it begins without state, and where it says that it starts.
    pub discards_state: bool,
    takes_back: Vec<TakenBack>,
}

/// What a deployment changes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Deployment {
    /// Name of the pipeline.
    pub pipeline: String,
    /// The revision that it makes; the one that there is if nothing differs.
    pub revision: u64,
    /// The life of the state that it goes on from, or begins.
    pub incarnation: u64,
    /// Whether there was no such pipeline.
    pub is_new: bool,
    /// Whether the state that there is is given up.
    pub discards_state: bool,
    /// Whether it stays paused.
    pub paused: bool,
    /// Tasks.
    pub partitions: u32,
    /// What differs from the revision that there is.
    pub differences: Vec<Difference>,
    /// Transforms that it takes back to what they ran before a swap.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub takes_back: Vec<TakenBack>,
    /// Whether it was done, and not only looked at.
    pub deployed: bool,
}

/// Checks everything that can be checked: the file, the plugins and their configuration, topics, and whether the state that there
/// is can be gone on from.
///
/// # Errors
/// The first thing that is wrong.
pub async fn check(
    cluster: &Arc<Cluster>,
    store: Arc<dyn MetaStore>,
    engine: Option<Arc<Engine>>,
    pipeline: Pipeline,
    discard_state: bool,
) -> Result<Deployable, NodeError> {
    let name = Segment::new(pipeline.name.as_str())?;
    let loader = match engine {
        Some(engine) => Loader::new(cluster, &store, engine),
        None => Loader::of_command(cluster, &store)?,
    };
    let never = Arc::new(Control::default());
    let loaded = loader.load(pipeline, Some(PATIENCE), &never).await?;
    let loaded: Loaded = loaded.expect("nobody drains it");
    let specification = loaded.specification();
    let known = pipelines::read(&*store, &name).await?.map(|known| known.record);
    let discards_state = discard_state || known.as_ref().is_some_and(|known| known.desired == Desired::Gone);
    let incarnation = known.as_ref().map_or(1, |known| known.incarnation);
    let plan = loader.plan(loaded, known.as_ref().map_or(0, |known| known.revision) + 1, incarnation).await?;
    by_itself_nowhere(&*store, &name).await?;
    if let Some(rollout) = known.as_ref().and_then(|known| known.rollout.as_ref()) {
        return Err(NodeError::Refused(format!(
            "transform `{}` of pipeline `{name}` is being changed: wait for the end, or call it off with `sluicegate plugin rollback {name} {}`",
            rollout.transform, rollout.transform
        )));
    }
    if known.is_some() && !discards_state {
        goes_on(&store, &Arc::new(plan)).await?;
    }
    let takes_back = match &known {
        Some(known) => {
            let ended = pipelines::rollouts(&*store, &name).await?;
            swapped::taken_back(known, &ended, &specification).map_err(NodeError::Config)?
        }
        None => Vec::new(),
    };
    Ok(Deployable { store, name, known, specification, discards_state, takes_back })
}

async fn by_itself_nowhere(store: &dyn MetaStore, name: &Segment) -> Result<(), NodeError> {
    let nodes = presence::list(store, name).await?;
    let by_itself: Vec<String> =
        nodes.into_iter().filter(|(_, presence)| presence.by_itself).map(|(node, _)| node).collect();
    if by_itself.is_empty() {
        return Ok(());
    }
    Err(NodeError::ByItself { pipeline: name.to_string(), nodes: by_itself.join(", ") })
}

/// Whether the tasks could go on by this plan.
async fn goes_on(store: &Arc<dyn MetaStore>, plan: &Arc<Plan>) -> Result<(), NodeError> {
    let failed = |error: StateError| match error.is_outage() {
        true => NodeError::State(error),
        false => NodeError::Incompatible { reason: error.to_string() },
    };
    let mut taken = Vec::new();
    for partition in 0..plan.partitions {
        let task = plan.task(partition);
        let head = TaskStore::new(Arc::clone(store), task.clone()).read().await.map_err(failed)?;
        let Some((head, _)) = head else { continue };
        if !plan.is_stateful() {
            let reason = "it has kept state, and would not any more; its offsets are with its state".to_owned();
            return Err(NodeError::Incompatible { reason });
        }
        let conversions = compatible::offsets(plan, &head, &head.committed)
            .and_then(|_| compatible::conversions((plan, &[]), &task, &head.committed))
            .map_err(|failure| NodeError::Incompatible { reason: failure.to_string() })?;
        if let Some((at, _)) = conversions.first() {
            let of_chunk = |chunk| head.chunks.get(chunk).map_or(0, |facts| u64::from(facts.bytes));
            let bytes = head.committed.chunks.iter().map(of_chunk).sum();
            if let Some(problem) = steps::too_large(&task, &plan.transforms[*at].name, bytes) {
                return Err(NodeError::Refused(problem));
            }
        }
        steps::add(&mut taken, &task, conversions);
    }
    steps::all_known(plan, taken).await.map_err(|reason| NodeError::Incompatible { reason })
}

impl Deployable {
    fn next(&self, known: Option<&PipelineRecord>) -> Option<PipelineRecord> {
        let specification = self.specification.clone();
        let Some(known) = known else { return Some(PipelineRecord::first(specification, Desired::Running)) };
        let next = known.respecified(specification);
        let next = if self.discards_state { next.in_new_incarnation() } else { next };
        let desired = if known.desired == Desired::Paused { Desired::Paused } else { Desired::Running };
        Some(PipelineRecord { desired, ..next })
    }

    /// What it would change.
    #[must_use]
    pub fn deployment(&self) -> Deployment {
        let known = self.known.as_ref();
        let before = known.map_or("{}", |known| &known.specification.canonical);
        let changed = known.is_none_or(|known| known.specification.digest != self.specification.digest);
        let (revision, incarnation) = known.map_or((0, 1), |known| (known.revision, known.incarnation));
        let next = known.map_or(1, |known| known.last_incarnation + 1);
        Deployment {
            pipeline: self.name.to_string(),
            revision: revision + u64::from(changed),
            incarnation: if self.discards_state && known.is_some() { next } else { incarnation },
            is_new: known.is_none(),
            discards_state: self.discards_state && known.is_some(),
            paused: known.is_some_and(|known| known.desired == Desired::Paused),
            partitions: self.specification.partitions,
            differences: differences(before, &self.specification.canonical),
            takes_back: self.takes_back.clone(),
            deployed: false,
        }
    }

    /// Writes it down, and into `deployment` what it came to; the nodes of the cluster do the rest.
    ///
    /// # Errors
    /// Somebody else has changed it since it was checked; those of the store.
    pub async fn deploy(&self, deployment: &mut Deployment) -> Result<PipelineRecord, NodeError> {
        let change = |known: Option<&PipelineRecord>| {
            if known != self.known.as_ref() {
                // A lost answer, or somebody else.
                if known.is_some_and(|known| known.specification == self.specification && known.desired.is_deployed()) {
                    return Ok(known.cloned());
                }
                return Err(NodeError::ChangedMeanwhile { pipeline: self.name.to_string() });
            }
            Ok(self.next(known))
        };
        let record = pipelines::change(&*self.store, &self.name, change).await?.expect("a change makes the record");
        (deployment.deployed, deployment.revision, deployment.incarnation) =
            (true, record.revision, record.incarnation);
        Ok(record)
    }
}

/// Changes what is wanted of a pipeline.
///
/// # Errors
/// There is no such pipeline, or `change` refuses; those of the store.
async fn want(
    store: &dyn MetaStore,
    name: &Segment,
    change: impl Fn(&PipelineRecord) -> Result<PipelineRecord, NodeError>,
) -> Result<PipelineRecord, NodeError> {
    let unknown = || NodeError::UnknownPipeline { pipeline: name.to_string() };
    let changed = pipelines::change(store, name, |known| match known {
        Some(known) if known.desired != Desired::Gone => change(known).map(Some),
        _ => Err(unknown()),
    });
    changed.await?.ok_or_else(unknown)
}

/// Lets a deployed pipeline commit and stop.
///
/// # Errors
/// It is not deployed; those of the store.
pub async fn pause(store: &dyn MetaStore, name: &Segment) -> Result<PipelineRecord, NodeError> {
    want(store, name, |known| {
        must_be_deployed(name, known)?;
        Ok(PipelineRecord { desired: Desired::Paused, ..known.clone() })
    })
    .await
}

/// Lets a deployed pipeline go on; where it has failed it is tried again.
///
/// # Errors
/// It is not deployed; those of the store.
pub async fn resume(store: &dyn MetaStore, name: &Segment) -> Result<PipelineRecord, NodeError> {
    want(store, name, |known| {
        must_be_deployed(name, known)?;
        Ok(PipelineRecord { desired: Desired::Running, attempt: known.attempt + 1, ..known.clone() })
    })
    .await
}

fn must_be_deployed(name: &Segment, known: &PipelineRecord) -> Result<(), NodeError> {
    if known.desired.is_deployed() {
        return Ok(());
    }
    Err(NodeError::Refused(format!("pipeline `{name}` is not deployed; `sluicegate deploy FILE` deploys it")))
}

/// Takes a pipeline off the cluster. `None` when its state stays; else whether it is deleted already.
///
/// # Errors
/// There is no such pipeline, or it runs by itself; those of the store.
pub async fn undeploy(
    cluster: &Arc<Cluster>,
    store: &dyn MetaStore,
    name: &Segment,
    keep_state: bool,
) -> Result<Option<Left>, NodeError> {
    by_itself_nowhere(store, name).await?;
    let desired = if keep_state { Desired::StateKept } else { Desired::Gone };
    let gone = |known: &PipelineRecord| {
        let one_way = known.rollout.as_ref().filter(|rollout| keep_state && !rollout.can_be_called_off());
        match one_way {
            // Some of the state is of one version then, and some of the other.
            Some(rollout) => Err(NodeError::Refused(format!(
                "transform `{}` of pipeline `{name}` is being changed without a way back, so that there is no version yet which its state is of: wait for the end, or decide as `sluicegate plugin rollouts {name}` says",
                rollout.transform
            ))),
            None => Ok(PipelineRecord { desired, rollout: None, ..known.clone() }),
        }
    };
    want(store, name, gone).await?;
    if keep_state { Ok(None) } else { clean_without_leader(cluster, store, name).await.map(Some) }
}

/// Deletes what a pipeline has left behind if nobody leads, who would do that; waits a while for a group whose members were killed.
///
/// # Errors
/// Those of the store.
pub async fn clean_without_leader(
    cluster: &Arc<Cluster>,
    store: &dyn MetaStore,
    name: &Segment,
) -> Result<Left, NodeError> {
    let groups = KafkaGroups::new(cluster, kafka_settings(cluster));
    let until = Instant::now() + MEMBERS_WAIT;
    while election::leader(store).await?.is_none() {
        if leader::clean(store, &groups, name).await? == Left::Nothing {
            return Ok(Left::Nothing);
        }
        if Instant::now() >= until {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(Left::Something)
}

/// The record of a pipeline, and its consumer group.
///
/// # Errors
/// There is no such pipeline; those of the store.
pub async fn known(
    cluster: &Arc<Cluster>,
    store: &dyn MetaStore,
    name: &Segment,
) -> Result<(PipelineRecord, Group), NodeError> {
    let unknown = || NodeError::UnknownPipeline { pipeline: name.to_string() };
    let known = pipelines::read(store, name).await?.ok_or_else(unknown)?;
    let failed = |reason| MetaError::Failed { path: name.to_string(), reason };
    let group = Group::new(cluster, &known.record).map_err(failed)?;
    Ok((known.record, group))
}
