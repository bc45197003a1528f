//! Whether a plan can go on from what a task has. Pure.

use super::failure::Failure;
use super::plan::{Plan, SourcePlan};
use crate::checkpoint::head::{Head, Manifest};
use crate::ids::TaskId;

/// The offsets that the task goes on from, in the order of the plan's sources; none for dead letters that it has not read before.
///
/// # Errors
/// Its keys belong to other partition numbers, its state is of another schema, or it has never read one of the sources.
pub fn offsets(plan: &Plan, task: &TaskId, head: &Head, manifest: &Manifest) -> Result<Vec<Option<i64>>, Failure> {
    for (topic, &now) in &plan.source_partitions() {
        if let Some(&before) = head.partitions.get(topic).filter(|&&before| before != now) {
            return Err(Failure::Repartitioned { topic: topic.clone(), before, now });
        }
    }
    schemas(plan, task, manifest)?;
    let offset = |(input, source): (usize, &SourcePlan)| match manifest.offsets.get(&source.topic) {
        None if input < plan.inputs => Err(Failure::NewSource { topic: source.topic.clone(), manifest: manifest.id }),
        known => Ok(known.copied()),
    };
    plan.sources.iter().enumerate().map(offset).collect()
}

/// Refuses state that the plugins would misread.
///
/// # Errors
/// A store is of another schema.
pub fn schemas(plan: &Plan, task: &TaskId, manifest: &Manifest) -> Result<(), Failure> {
    for declared in plan.identities() {
        let Some(written) = manifest.transforms.iter().find(|written| written.name == declared.name) else {
            continue;
        };
        for (store, &version) in &declared.stores {
            if let Some(&found) = written.stores.get(store).filter(|&&found| found != version) {
                return Err(Failure::Schema {
                    task: task.clone(),
                    transform: declared.name.clone(),
                    store: store.clone(),
                    found,
                    plugin: declared.plugin.clone(),
                    declared: version,
                });
            }
        }
    }
    Ok(())
}
