//! What a swap of one transform checks before anything is touched, and how it is begun.

mod back;
mod change;
mod from_copy;
mod gate;
mod refusal;
mod rehearsal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub use self::back::{Rollback, call_off_current, promote, promote_current, roll_back};
pub(super) use self::change::{Change, changed};
pub use self::from_copy::{FromCopy, Since, forgotten, from_copy};
use self::gate::Ways;
pub use self::gate::{Finding, Level};
pub use self::refusal::Refusal;
pub use self::rehearsal::{Rehearsal, Rehearsed};
use super::deploy::PATIENCE;
use super::load::{Given, Loader};
use super::{LoadError, NodeError, steps};
use crate::cluster::pipelines::{self, Desired, PipelineRecord, Specification};
use crate::cluster::registry::{Registry, RegistryReference};
use crate::cluster::rollout::{Phase, Rollout, Strategy, Version};
use crate::config::{Cluster, Pipeline};
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::worker::candidate::Candidate;
use crate::worker::control::Control;
use crate::worker::migration::Route;

/// The probation lasts as long as one call may take, and for this.
const SLACK: Duration = Duration::from_millis(500);

/// Which plugin a transform is to run.
#[derive(Clone, Debug)]
pub enum Source {
    /// One of the registry; what it means is decided once.
    Registry(RegistryReference),
    /// A file: its bytes go into the registry, under their digest alone.
    File(PathBuf),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the transform.
    pub transform: String,
    /// Its next plugin.
    pub source: Source,
    /// Its next configuration; the same as before if none.
    pub config: Option<Value>,
    /// How carefully.
    pub strategy: Strategy,
    /// How much is tried on recorded records first, if anything.
    pub rehearsal: Option<Rehearsal>,
}

/// A swap that has passed the gate.
pub struct Swap {
    store: Arc<dyn MetaStore>,
    name: Segment,
    known: PipelineRecord,
    /// The plugin, where it comes from a file.
    plugin: Option<Given>,
    /// What is to be begun.
    pub rollout: Rollout,
    /// What was looked at.
    pub findings: Vec<Finding>,
    /// How both versions did on recorded records, if that was tried.
    pub rehearsed: Option<Rehearsed>,
}

/// Checks everything that can be checked before a swap: that the pipeline runs and nothing else is being rolled out, that the plugin
/// is there, fits the pipeline and the state that there is, and opens with its configuration.
///
/// # Errors
/// The first thing that is wrong.
pub async fn check(
    cluster: &Arc<Cluster>,
    store: Arc<dyn MetaStore>,
    name: &Segment,
    request: Request,
) -> Result<Swap, NodeError> {
    let known = running(&*store, name).await?;
    let file = &known.specification.file;
    let before = Pipeline::parse(Path::new("recorded"), file).map_err(NodeError::Config)?;
    let Some(at) = before.transforms.iter().position(|transform| transform.name == request.transform) else {
        let names: Vec<String> = before.transforms.iter().map(|transform| format!("`{}`", transform.name)).collect();
        let (transform, names) = (&request.transform, names.join(", "));
        return Err(refused(format!("pipeline `{name}` has no transform `{transform}`; it has {names}")));
    };
    let mut loader = Loader::of_command(cluster, &store)?;
    let change = changed(&mut loader, &known.specification, at, Some(&request.source), request.config.as_ref()).await?;
    let Change { pipeline: after, specification: candidate, reference } = change;
    let (from, to) = (version(&before, &known.specification.plugins, at), version(&after, &candidate.plugins, at));
    if (&from.plugin, &from.config) == (&to.plugin, &to.config) {
        return Err(refused(format!("transform `{}` runs this already: {reference}", request.transform)));
    }
    // A call that hangs is known as one when its time is over.
    let call = after.transforms[at].limits.time_per_batch + SLACK;
    let probation_ms = request.strategy.probation_ms.max(u64::try_from(call.as_millis()).unwrap_or(u64::MAX));
    // The record may have been written by somebody who does not count them.
    let last = pipelines::rollouts(&*store, name).await?.last().map_or(0, |ended| ended.rollout.number);
    let rollout = Rollout {
        number: known.rollouts.max(last) + 1,
        revision: known.revision + 1,
        transform: request.transform,
        from,
        to,
        strategy: Strategy { probation_ms, ..request.strategy },
        converts: false,
        shadowed: None,
        watched: None,
        phase: Phase::Prepare,
        watched_since: None,
        reason: None,
        held: None,
        promoted_by: None,
        started_at: jiff::Timestamp::now(),
        started_by: pipelines::whoever(),
        switched: BTreeMap::new(),
        candidate,
    };
    let (findings, rehearsed, converts) = gate(&loader, &known, &rollout, at, request.rehearsal).await?;
    let rollout = Rollout { converts, ..rollout };
    let plugin = loader.given.take();
    Ok(Swap { store, name: name.clone(), known, plugin, rollout, findings, rehearsed })
}

/// What the transform at this index runs.
fn version(pipeline: &Pipeline, plugins: &[String], at: usize) -> Version {
    Version {
        reference: pipeline.transforms[at].plugin.to_string(),
        plugin: plugins[at].clone(),
        config: pipeline.config_hash(at).unwrap_or_default(),
    }
}

/// The record of a pipeline that can be swapped.
async fn running(store: &dyn MetaStore, name: &Segment) -> Result<PipelineRecord, NodeError> {
    let unknown = || NodeError::UnknownPipeline { pipeline: name.to_string() };
    let known = pipelines::read(store, name).await?.ok_or_else(unknown)?.record;
    match known.desired {
        Desired::Gone => return Err(unknown()),
        Desired::ByItself => {
            return Err(refused(format!(
                "pipeline `{name}` runs by itself, started with `sluicegate run`: a swap takes a cluster, `sluicegate worker` and `sluicegate deploy`"
            )));
        }
        Desired::Paused | Desired::StateKept => {
            return Err(refused(format!(
                "pipeline `{name}` does not run, so that there is nothing to swap while it does: change its file, and `sluicegate deploy` it"
            )));
        }
        Desired::Running => {}
    }
    if let Some(other) = &known.rollout {
        return Err(refused(format!(
            "transform `{}` of pipeline `{name}` is being changed already, by {} since {}: `sluicegate plugin rollouts {name}` shows how far it is, `sluicegate plugin rollback {name} {}` calls it off",
            other.transform, other.started_by, other.started_at, other.transform
        )));
    }
    Ok(known)
}

/// Loads both versions, as nodes will, and compares them; at the end on recorded records. Also whether state has to be converted.
async fn gate(
    loader: &Loader,
    known: &PipelineRecord,
    rollout: &Rollout,
    at: usize,
    rehearsal: Option<Rehearsal>,
) -> Result<(Vec<Finding>, Option<Rehearsed>, bool), NodeError> {
    let never = Arc::new(Control::default());
    let plan = async |specification: &Specification, revision: u64| {
        let record = PipelineRecord { specification: specification.clone(), revision, ..known.clone() };
        let loaded = loader.load_recorded(&record, Some(PATIENCE), &never).await?.expect("nobody drains it");
        loader.plan(loaded, revision, known.incarnation).await
    };
    let before = Arc::new(plan(&known.specification, known.revision).await?);
    let after = Arc::new(plan(&rollout.candidate, rollout.revision).await?);
    let candidate = Candidate::new(&before, Arc::clone(&after)).map(Arc::new);
    let ways = match &candidate {
        Some(candidate) => ways(Arc::clone(candidate)).await,
        None => Ways::new(),
    };
    let compare = |no_return: bool| gate::compare(&before.transforms[at], &after.transforms[at], &ways, no_return);
    let no_return = rollout.strategy.no_return;
    let mut findings = compare(no_return);
    findings.extend(gate::shadow(&rollout.strategy, after.transforms[at].plugin.manifest()));
    findings.push(gate::strategy(&rollout.strategy));
    refusal::passes(&findings).map_err(|refused| match no_return || refusal::passes(&compare(true)).is_err() {
        true => refused,
        false => refused.for_want_of_return(),
    })?;
    let candidate = candidate.ok_or(Refusal::Beyond)?;
    let converts = !candidate.routes.is_empty();
    let Some(rehearsal) = rehearsal else { return Ok((findings, None, converts)) };
    let rehearsed = rehearsal::rehearse(loader, known, [before, after], at, rehearsal).await;
    findings.extend(rehearsal::findings(&rehearsed, &rollout.transform));
    refusal::passes(&findings)?;
    Ok((findings, rehearsed.ok(), converts))
}

/// Asks which ways of converting state the versions know, there and back, with no entries.
async fn ways(candidate: Arc<Candidate>) -> Ways {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let ask = move || {
        let mut converter = candidate.converter(0, now_ms);
        let mut knows = |route: &Route| {
            let converter = converter.as_mut().map_err(|error| error.clone())?;
            steps::knows(converter, route, now_ms)
        };
        candidate
            .routes
            .iter()
            .map(|route| (route.conversion.store.clone(), (knows(route), knows(&route.back()))))
            .collect()
    };
    tokio::task::spawn_blocking(ask).await.unwrap_or_default()
}

impl Swap {
    /// Writes it down; the nodes of the cluster do the rest.
    ///
    /// # Errors
    /// Somebody else has changed the pipeline since it was checked; those of the store.
    pub async fn begin(&self) -> Result<PipelineRecord, NodeError> {
        if let Some(Given { bytes, signatures, .. }) = &self.plugin {
            let (transform, reference) = (self.rollout.transform.clone(), self.rollout.to.reference.clone());
            let stored = Registry::new(Arc::clone(&self.store)).store_blob(bytes, signatures).await;
            stored.map_err(|source| LoadError::Registry { transform, reference, source })?;
        }
        let begin = |known: Option<&PipelineRecord>| match known {
            // A lost answer.
            Some(known) if known.rollout.as_ref().is_some_and(|it| it.is_same(&self.rollout)) => Ok(None),
            Some(known) if *known == self.known => {
                let (rollout, rollouts) = (Some(self.rollout.clone()), self.rollout.number);
                Ok(Some(PipelineRecord { rollout, rollouts, ..known.clone() }))
            }
            _ => Err(NodeError::ChangedMeanwhile { pipeline: self.name.to_string() }),
        };
        let record = pipelines::change(&*self.store, &self.name, begin).await?;
        Ok(record.expect("it is there"))
    }
}

fn refused(message: impl Into<String>) -> NodeError {
    NodeError::Refused(message.into())
}
