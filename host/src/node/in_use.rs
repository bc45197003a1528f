//! Who needs which plugin: what `plugin remove` asks before it removes one.
//!
//! A plugin is needed by what runs or may run: the record of a pipeline, a rollout, what a rollback would take. And by state, which
//! names the plugins that made it: the heads of tasks, with the manifests that they retain, and savepoints. State that an
//! undeployed pipeline has kept is state like any other, because the pipeline may be deployed again and go on from it. Nothing
//! is guessed: a head or a savepoint that cannot be read may name any plugin, and is an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::NodeError;
use super::load::of_record;
use crate::checkpoint::head::Manifest;
use crate::checkpoint::protocol::RETAINED_MANIFESTS;
use crate::checkpoint::store::TaskStore;
use crate::cluster::leader::is_left_over;
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::cluster::rollout::{Outcome, Rollout};
use crate::cluster::savepoints::{self, SavedPlugins};
use crate::digest::Digest;
use crate::ids::TaskId;
use crate::meta::layout::{self, Segment};
use crate::meta::{MetaError, MetaStore};

/// Heads that are read at the same time.
const READS_IN_FLIGHT: usize = 16;

/// Who uses a digest, and what ends that; of several, the one that is found first.
type Users = BTreeMap<Digest, String>;

/// The digests that are in use, each with who uses it and what ends that: their plugins may not be removed.
///
/// # Errors
/// Those of the store, and what is damaged.
pub async fn digests_in_use(store: &Arc<dyn MetaStore>) -> Result<BTreeMap<Digest, String>, NodeError> {
    let mut users = Users::new();
    let known = pipelines::list(&**store).await?;
    for (name, record) in known.iter().filter(|(_, record)| record.desired != Desired::Gone) {
        what_may_run(&**store, name, record, &mut users).await?;
    }
    for (name, record) in &known {
        of_state(store, name, record, &mut users).await?;
    }
    for SavedPlugins { pipeline, savepoint, plugins } in savepoints::plugins(&**store).await? {
        for hex in plugins {
            users.entry(of_record(&hex)?).or_insert_with(|| {
                format!(
                    "savepoint `{savepoint}` of pipeline `{pipeline}`: `sluicegate savepoint delete {pipeline} {savepoint}` deletes that"
                )
            });
        }
    }
    Ok(users)
}

/// Those that the record of a pipeline names, and what it may be rolled back to.
async fn what_may_run(
    store: &dyn MetaStore,
    name: &Segment,
    record: &PipelineRecord,
    users: &mut Users,
) -> Result<(), MetaError> {
    for hex in &record.specification.plugins {
        let end = match record.desired {
            Desired::StateKept => {
                format!(", undeployed with its state kept: `sluicegate undeploy {name}` deletes the state too")
            }
            _ => ": let it run another version first, or undeploy it".to_owned(),
        };
        users.insert(of_record(hex)?, format!("pipeline `{name}`, revision {}{end}", record.revision));
    }
    if let Some(rollout) = &record.rollout {
        let transform = &rollout.transform;
        let user = format!(
            "a rollout of pipeline `{name}`: wait for its end, or call it off with `sluicegate plugin rollback {name} {transform}`"
        );
        users.entry(of_record(&rollout.to.plugin)?).or_insert(user);
    }
    let ended = pipelines::rollouts(store, name).await?;
    let last: BTreeMap<&str, &Rollout> = ended
        .iter()
        .filter(|ended| ended.outcome == Outcome::Done)
        .map(|ended| (ended.rollout.transform.as_str(), &ended.rollout))
        .collect();
    for (transform, rollout) in last {
        let user = format!(
            "pipeline `{name}`, whose transform `{transform}` may be rolled back to it: another swap of that transform ends that"
        );
        users.entry(of_record(&rollout.from.plugin)?).or_insert(user);
    }
    Ok(())
}

/// Those that have made the state of a pipeline.
async fn of_state(
    store: &Arc<dyn MetaStore>,
    name: &Segment,
    record: &PipelineRecord,
    users: &mut Users,
) -> Result<(), NodeError> {
    let tasks = tasks(&**store, name, record).await?;
    let heads = stream::iter(tasks).map(|task| async {
        let head = TaskStore::new(Arc::clone(store), task.clone()).read().await?;
        Ok::<_, NodeError>((task, head))
    });
    let mut heads = heads.buffered(READS_IN_FLIGHT);
    while let Some((task, head)) = heads.try_next().await? {
        let Some((head, _)) = head else { continue };
        let current = std::iter::once(&head.committed).chain(&head.prepared).map(|manifest| (manifest, true));
        for (manifest, is_current) in current.chain(head.retained.iter().map(|manifest| (manifest, false))) {
            note(&task, record, manifest, is_current, users)?;
        }
    }
    Ok(())
}

/// The tasks that have state, in incarnations that somebody may go on from: the leader deletes the others.
async fn tasks(store: &dyn MetaStore, name: &Segment, record: &PipelineRecord) -> Result<Vec<TaskId>, MetaError> {
    let mut tasks = Vec::new();
    for incarnation in numbers(store, &layout::pipeline_state(name)).await? {
        if is_left_over(record, incarnation) {
            continue;
        }
        let root = format!("{}/{incarnation}", layout::pipeline_state(name));
        for stage in numbers(store, &root).await? {
            for partition in numbers(store, &format!("{root}/{stage}")).await? {
                tasks.push(TaskId { pipeline: name.to_string(), incarnation, stage, partition });
            }
        }
    }
    Ok(tasks)
}

/// The children that have a number for a name.
async fn numbers<N: std::str::FromStr>(store: &dyn MetaStore, path: &str) -> Result<Vec<N>, MetaError> {
    Ok(store.children(path).await?.iter().filter_map(|name| name.parse().ok()).collect())
}

fn note(
    task: &TaskId,
    record: &PipelineRecord,
    manifest: &Manifest,
    is_current: bool,
    users: &mut Users,
) -> Result<(), MetaError> {
    let TaskId { pipeline, partition, .. } = task;
    for transform in &manifest.transforms {
        let named = match is_current {
            true => "has made its state",
            false => "has made one of the last states that it retains",
        };
        let end = match record.desired {
            Desired::StateKept => format!("`sluicegate undeploy {pipeline}` deletes that state"),
            _ => format!("{RETAINED_MANIFESTS} commits with another version end that"),
        };
        let user = format!(
            "task {partition} of pipeline `{pipeline}`, of which it {named}, as transform `{}`: {end}",
            transform.name
        );
        users.entry(of_record(&transform.plugin)?).or_insert(user);
    }
    Ok(())
}
