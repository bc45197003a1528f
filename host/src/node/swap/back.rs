//! Taking a transform back: a rollout that is under way is called off, one that has ended is changed back by another one.
//!
//! Where nothing converts the state back, neither is possible. What a held rollout comes to is decided by a person then: it goes on
//! as it is ([`promote`]), or the tasks go back to the state from before it ([`super::from_copy()`]).

use std::path::Path;
use std::sync::Arc;

use super::{Request, Source, Swap, check, refused};
use crate::cluster::pipelines::{self, PipelineRecord};
use crate::cluster::registry::RegistryReference;
use crate::cluster::rollout::{Ended, Outcome, Phase, Rollout, Strategy};
use crate::config::{Cluster, Pipeline};
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::node::NodeError;
use crate::node::load::of_record;

/// How a rollback begins.
pub enum Rollback {
    /// The rollout that was under way is called off.
    CalledOff(Box<Rollout>),
    /// What the last rollout has changed is to be changed back.
    Back(Box<Swap>),
}

/// Calls the rollout off that is under way, of whatever transform.
///
/// # Errors
/// There is none, or no way back; those of the store.
pub async fn call_off_current(store: &dyn MetaStore, name: &Segment, reason: &str) -> Result<Rollout, NodeError> {
    let known = known(store, name).await?;
    let none = || refused(format!("no rollout of pipeline `{name}` is under way"));
    call_off(store, name, known.rollout.as_ref().ok_or_else(none)?, reason).await
}

async fn call_off(
    store: &dyn MetaStore,
    name: &Segment,
    rollout: &Rollout,
    reason: &str,
) -> Result<Rollout, NodeError> {
    let off = pipelines::call_off(store, name, rollout.number, reason).await?.ok_or_else(|| just_ended(name))?;
    if off.phase == Phase::Return {
        return Ok(off);
    }
    let transform = &off.transform;
    Err(refused(format!(
        "tasks of transform `{transform}` may have gone over, and nothing converts their state back: it cannot be called off. {}",
        only_from_copy(name, transform)
    )))
}

fn just_ended(name: &Segment) -> NodeError {
    refused(format!("the rollout has just ended: `sluicegate plugin rollouts {name}` shows how"))
}

/// The only way back, as a sentence.
fn only_from_copy(name: &Segment, transform: &str) -> String {
    format!(
        "`sluicegate pause {name}` and then `sluicegate plugin rollback {name} {transform} --from-copy` go back to the state from before, and forget what came since"
    )
}

pub(super) async fn known(store: &dyn MetaStore, name: &Segment) -> Result<PipelineRecord, NodeError> {
    let unknown = || NodeError::UnknownPipeline { pipeline: name.to_string() };
    Ok(pipelines::read(store, name).await?.ok_or_else(unknown)?.record)
}

/// Lets the rollout of a transform go on that is held, whatever its candidate does.
///
/// # Errors
/// None is held; those of the store.
pub async fn promote(store: &dyn MetaStore, name: &Segment, transform: &str) -> Result<Rollout, NodeError> {
    let rollout = known(store, name).await?.rollout.filter(|rollout| rollout.transform == transform);
    decide(store, name, rollout).await?.ok_or_else(|| {
        refused(format!(
            "no rollout of transform `{transform}` of pipeline `{name}` is held: there is nothing to decide"
        ))
    })
}

/// The same of whatever transform.
///
/// # Errors
/// As [`promote`].
pub async fn promote_current(store: &dyn MetaStore, name: &Segment) -> Result<Rollout, NodeError> {
    let rollout = known(store, name).await?.rollout;
    let none = || refused(format!("no rollout of pipeline `{name}` is held: there is nothing to decide"));
    decide(store, name, rollout).await?.ok_or_else(none)
}

/// `None` where nobody has to decide.
async fn decide(store: &dyn MetaStore, name: &Segment, rollout: Option<Rollout>) -> Result<Option<Rollout>, NodeError> {
    let Some(held) = rollout.filter(|rollout| rollout.awaits_decision().is_some()) else { return Ok(None) };
    pipelines::promote(store, name, held.number).await?.ok_or_else(|| just_ended(name)).map(Some)
}

/// Takes a transform back to the version before its last rollout: plugin and configuration.
///
/// # Errors
/// There is nothing to go back to, or no way, or it does not pass the gate; those of the store.
pub async fn roll_back(
    cluster: &Arc<Cluster>,
    store: Arc<dyn MetaStore>,
    name: &Segment,
    transform: &str,
    strategy: Strategy,
) -> Result<Rollback, NodeError> {
    let known = known(&*store, name).await?;
    if let Some(rollout) = known.rollout.as_ref().filter(|rollout| rollout.transform == transform) {
        let reason = format!("called off by {}", pipelines::whoever());
        return call_off(&*store, name, rollout, &reason).await.map(|off| Rollback::CalledOff(Box::new(off)));
    }
    let last = last(&*store, name, transform).await?;
    if last.strategy.no_return {
        return Err(refused(format!(
            "nothing converts the state of transform `{transform}` back to what {} reads. {}",
            last.from,
            only_from_copy(name, transform)
        )));
    }
    let (source, config) = before(&*store, name, &last).await?;
    // Who goes back is in a hurry, and knows what comes.
    let request = Request { transform: transform.to_owned(), source, config, strategy, rehearsal: None };
    Ok(Rollback::Back(Box::new(check(cluster, store, name, request).await?)))
}

pub(super) fn nothing(name: &Segment, transform: &str) -> NodeError {
    refused(format!(
        "no rollout of transform `{transform}` of pipeline `{name}` is known: there is nothing to go back to"
    ))
}

/// The last rollout of a transform that went well.
pub(super) async fn last(store: &dyn MetaStore, name: &Segment, transform: &str) -> Result<Rollout, NodeError> {
    let ended = pipelines::rollouts(store, name).await?;
    let is_it = |ended: &Ended| ended.outcome == Outcome::Done && ended.rollout.transform == transform;
    ended.into_iter().rev().find(is_it).map(|ended| ended.rollout).ok_or_else(|| nothing(name, transform))
}

/// The plugin and the configuration that a transform had before a rollout.
pub(super) async fn before(
    store: &dyn MetaStore,
    name: &Segment,
    last: &Rollout,
) -> Result<(Source, Option<serde_json::Value>), NodeError> {
    let transform = &last.transform;
    // The revision before has them.
    let revisions = pipelines::revisions(store, name).await?;
    let revision = revisions.iter().find(|revision| revision.revision + 1 == last.revision);
    let revision = revision.ok_or_else(|| nothing(name, transform))?;
    let pipeline = Pipeline::parse(Path::new("recorded"), &revision.specification.file).map_err(NodeError::Config)?;
    let config = pipeline.transforms.iter().find(|it| it.name == *transform).map(|it| it.config.clone());
    let source = match last.from.reference.parse::<RegistryReference>() {
        Ok(reference @ RegistryReference::Version { .. }) => Source::Registry(reference),
        // A file that was on somebody's machine: the registry has its bytes.
        _ => Source::Registry(RegistryReference::Digest(of_record(&last.from.plugin)?)),
    };
    Ok((source, config))
}
