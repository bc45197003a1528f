//! Rollouts over HTTP: looked at, begun, decided, called off and taken back, as `sluicegate plugin` does.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path as InPath, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::problem::{Code, Problem, Problems};
use super::{Answer, Api, segment};
use crate::cluster::rollout::{Rollout, Strategy};
use crate::meta::layout::Segment;
use crate::node::status::{self, Rollouts};
use crate::node::swap::{self, Finding, FromCopy, Rehearsal, Rehearsed, Rollback, Since, Swap};

/// How long versions are tried on recorded records: somebody waits for the answer.
const REHEARSAL: Duration = Duration::from_secs(5);

/// What is left out of how carefully, or all of it, is as with the commands.
type Said = serde_json::Map<String, serde_json::Value>;

/// The rollouts of a pipeline: the one under way, and those that have ended and are kept, the oldest first.
#[utoipa::path(get, path = "/pipelines/{pipeline}/rollouts", tag = "pipelines",
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Rollouts), Problems))]
pub(super) async fn list_rollouts(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
) -> Answer<Rollouts> {
    let name = segment(&name?)?;
    api.known(&name).await?;
    Ok(Json(status::rollouts(&*api.store, &name).await?))
}

/// Calls off the rollout that is under way: its tasks go back to what they ran before.
#[utoipa::path(delete, path = "/pipelines/{pipeline}/rollouts/current", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Rollout), Problems))]
pub(super) async fn call_off_rollout(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
) -> Answer<Rollout> {
    let name = segment(&name?)?;
    api.known(&name).await?;
    info!(pipeline = %name, "its rollout is to be called off, over http");
    Ok(Json(swap::call_off_current(&*api.store, &name, "called off over http").await?))
}

/// Lets the rollout go on that is held for a person to decide, as `sluicegate plugin promote` does.
///
/// All tasks go over, and then it has ended, whatever the new version does. Where none is held it is a conflict.
#[utoipa::path(post, path = "/pipelines/{pipeline}/rollouts/current/promote", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Rollout), Problems))]
pub(super) async fn promote_rollout(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
) -> Answer<Rollout> {
    let name = segment(&name?)?;
    api.known(&name).await?;
    let rollout = swap::promote_current(&*api.store, &name).await?;
    info!(pipeline = %name, rollout = rollout.number, "its rollout is promoted, over http");
    Ok(Json(rollout))
}

/// A version that a transform is to go over to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct NewRollout {
    /// Name of the transform.
    transform: String,
    /// A plugin of the registry: `name@1.2.3`, `name@1` or `sha256:..`.
    #[schema(example = "mask-json@1.3.0")]
    plugin: String,
    /// Its configuration from now on; the same as before if it is left out.
    #[serde(default)]
    config: Option<serde_json::Value>,
    /// How carefully; what is left out is as with the command.
    #[serde(default)]
    #[schema(value_type = Option<Strategy>)]
    strategy: Said,
    /// Both versions are tried on so many records of each task first; 0 tries none.
    #[serde(default = "records_tried")]
    records: usize,
    /// Check everything, and begin nothing.
    #[serde(default)]
    dry_run: bool,
}

fn records_tried() -> usize {
    1000
}

/// What was found of a rollout before anything is touched.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Begun {
    /// Whether it was begun.
    begun: bool,
    /// What was looked at.
    findings: Vec<Finding>,
    /// How both versions did on recorded records, if that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsed: Option<Rehearsed>,
    /// The rollout.
    rollout: Rollout,
}

impl Begun {
    fn of(swap: Swap, begun: bool) -> Self {
        let Swap { findings, rehearsed, rollout, .. } = swap;
        Self { begun, findings, rehearsed, rollout }
    }
}

/// Lets a transform of a running pipeline go over to another version, as `sluicegate plugin swap` does.
///
/// Answers when it has begun; how it goes on is told by the rollouts of the pipeline. What does not pass the gate is a conflict.
#[utoipa::path(post, path = "/pipelines/{pipeline}/rollouts", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")), request_body = NewRollout,
    responses((status = 200, body = Begun), Problems))]
pub(super) async fn begin_rollout(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Begun> {
    let (name, new) = (segment(&name?)?, read::<NewRollout>(&body?)?);
    let reference = new.plugin.parse().map_err(|error| wrong(format!("`plugin`: {error}")))?;
    let strategy = strategy(new.strategy).map_err(wrong)?;
    if new.config.as_ref().is_some_and(|config| !config.is_object()) {
        return Err(wrong("`config` has to be an object"));
    }
    api.known(&name).await?;
    let _turn = api.turn()?;
    let rehearsal = (new.records > 0).then_some(Rehearsal { records: new.records, time: REHEARSAL });
    let request = swap::Request {
        transform: new.transform,
        source: swap::Source::Registry(reference),
        config: new.config,
        strategy,
        rehearsal,
    };
    let swap = swap::check(&api.cluster, Arc::clone(&api.store), &name, request).await?;
    if !new.dry_run {
        begin(&name, &swap).await?;
    }
    Ok(Json(Begun::of(swap, !new.dry_run)))
}

async fn begin(name: &Segment, swap: &Swap) -> Result<(), Problem> {
    swap.begin().await?;
    info!(pipeline = %name, rollout = swap.rollout.number, "rollout begun over http");
    Ok(())
}

/// A transform that is to go back to what it ran before its last rollout.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct NewRollback {
    /// Name of the transform.
    transform: String,
    /// How carefully; what is left out is as with the command. Without meaning where a rollout under way is called off.
    #[serde(default)]
    #[schema(value_type = Option<Strategy>)]
    strategy: Said,
    /// After a rollout without return: go back to the state from before it, and forget what has changed since. The pipeline has to be
    /// paused.
    #[serde(default)]
    from_copy: bool,
    /// With `from-copy`: do it. Without it nothing is done, and the problem says what would be forgotten.
    #[serde(default)]
    yes: bool,
}

impl NewRollback {
    /// How carefully, where that can be said.
    fn strategy(&self) -> Result<Strategy, String> {
        if self.yes && !self.from_copy {
            return Err("`yes` is for `from-copy`: leave it out".to_owned());
        }
        if self.from_copy && !self.strategy.is_empty() {
            return Err("with `from-copy` nothing is watched: leave `strategy` out".to_owned());
        }
        let strategy = strategy(self.strategy.clone())?;
        match strategy.no_return {
            true => Err("`strategy`: `no-return` is for a rollout, and not for the way back: leave it out".to_owned()),
            false => Ok(strategy),
        }
    }
}

/// How a transform goes back.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RolledBack {
    /// The rollout that was under way is called off.
    CalledOff(Box<Rollout>),
    /// A rollout has begun, to what it ran before.
    Begun(Box<Begun>),
    /// Its tasks have the state from before, and go on from there when the pipeline is resumed.
    TakenBack(TakenBack),
}

/// What was taken back to the state from before.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TakenBack {
    /// The revision that the pipeline has now.
    revision: u64,
    /// What was forgotten, by task; nothing of tasks that had not gone over.
    forgotten: Vec<Since>,
}

/// Takes a transform back to the version before its last rollout, as `sluicegate plugin rollback` does.
///
/// A rollout of it that is under way is called off; after the end another one begins, which changes it back. Where nothing converts
/// the state back, that is a conflict: there is `from-copy`, for a pipeline that is paused.
#[utoipa::path(post, path = "/pipelines/{pipeline}/rollouts/rollback", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")), request_body = NewRollback,
    responses((status = 200, body = RolledBack), Problems))]
pub(super) async fn roll_back(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<RolledBack> {
    let (name, back) = (segment(&name?)?, read::<NewRollback>(&body?)?);
    let strategy = back.strategy().map_err(wrong)?;
    api.known(&name).await?;
    let _turn = api.turn()?;
    let (cluster, store, transform) = (&api.cluster, Arc::clone(&api.store), &*back.transform);
    if back.from_copy {
        let copy = swap::from_copy(cluster, store, &name, transform).await?;
        let taken_back = take_back(&name, transform, &copy, back.yes).await?;
        return Ok(Json(RolledBack::TakenBack(taken_back)));
    }
    match swap::roll_back(cluster, store, &name, transform, strategy).await? {
        Rollback::CalledOff(rollout) => {
            info!(pipeline = %name, rollout = rollout.number, "its rollout is called off, over http");
            Ok(Json(RolledBack::CalledOff(rollout)))
        }
        Rollback::Back(swap) => {
            begin(&name, &swap).await?;
            Ok(Json(RolledBack::Begun(Box::new(Begun::of(*swap, true)))))
        }
    }
}

async fn take_back(name: &Segment, transform: &str, copy: &FromCopy, yes: bool) -> Result<TakenBack, Problem> {
    if !yes {
        let to = copy.to();
        return Err(wrong(format!(
            "this takes transform `{transform}` of pipeline `{name}` back to {to}, with its state from before; what has changed in it since is forgotten for good, and the records are not processed again: add `\"yes\": true` if that is meant\n{}",
            swap::forgotten(&copy.forgotten)
        )));
    }
    let record = copy.take_back().await?;
    info!(pipeline = %name, transform, revision = record.revision, "taken back to the state from before, over http");
    Ok(TakenBack { revision: record.revision, forgotten: copy.forgotten.clone() })
}

fn wrong(problem: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, problem)
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| wrong(format!("the body: {error}")))
}

/// Refuses what is not known, a limit that is misspelt would be none, and what would do nothing, or nothing but harm.
fn strategy(given: Said) -> Result<Strategy, String> {
    let keys: Vec<String> = given.keys().cloned().collect();
    let strategy: Strategy = serde_json::from_value(given.into()).map_err(|error| format!("`strategy`: {error}"))?;
    if let Some(unknown) = keys.iter().find(|key| !Strategy::KEYS.contains(&key.as_str())) {
        return Err(format!("`strategy`: there is no `{unknown}`; there are {}", Strategy::KEYS.join(", ")));
    }
    if strategy.max_differences_ppm.is_some() && strategy.shadow.is_none() {
        return Err(
            "`strategy`: `max-differences-ppm` is of the records in the shadow: say with `shadow` how many there are, such as \"10000\" or \"10m\""
                .to_owned(),
        );
    }
    if strategy.max_slowdown == 0 {
        return Err(
            "`strategy`: `max-slowdown` is how many times the present version's time is too slow: write at least 1"
                .to_owned(),
        );
    }
    Ok(strategy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(strategy_given: serde_json::Value) -> String {
        strategy(strategy_given.as_object().unwrap().clone()).unwrap_err()
    }

    #[test]
    fn a_strategy_with_a_limit_that_would_do_nothing_is_refused_with_what_to_write() {
        let said = refused(serde_json::json!({ "max-differences-ppm": 10 }));
        assert!(said.contains("`max-differences-ppm`") && said.contains("`shadow`"), "{said}");
        let said = refused(serde_json::json!({ "max-slowdown": 0 }));
        assert!(said.contains("`max-slowdown`") && said.contains("at least 1"), "{said}");
        let said = refused(serde_json::json!({ "max-eror-ppm": 1 }));
        assert!(said.contains("no `max-eror-ppm`"), "{said}");
        let all = serde_json::json!({ "max-differences-ppm": 10, "shadow": "100", "max-slowdown": 1 });
        assert_eq!(strategy(all.as_object().unwrap().clone()).unwrap().max_differences_ppm, Some(10));
    }

    #[test]
    fn what_a_rollback_is_told_has_to_have_a_meaning() {
        let told = |more: serde_json::Value| {
            let mut body = serde_json::json!({ "transform": "a" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<NewRollback>(body).unwrap().strategy()
        };
        assert_eq!(told(serde_json::json!({})), Ok(Strategy::default()));
        assert_eq!(told(serde_json::json!({ "from-copy": true, "yes": true })), Ok(Strategy::default()));
        let cases = [
            (serde_json::json!({ "yes": true }), "`yes` is for `from-copy`"),
            (serde_json::json!({ "from-copy": true, "strategy": { "canary": "1" } }), "leave `strategy` out"),
            (serde_json::json!({ "strategy": { "no-return": true } }), "`no-return`"),
            (serde_json::json!({ "strategy": { "max-slowdown": 0 } }), "at least 1"),
        ];
        for (body, word) in cases {
            let said = told(body.clone()).unwrap_err();
            assert!(said.contains(word), "{body}: {said}");
        }
    }
}
