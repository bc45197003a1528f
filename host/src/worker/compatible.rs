//! Whether a plan can go on from what a task has. Pure.

use super::failure::Failure;
use super::migration::Route;
use super::plan::{Plan, SourcePlan, TransformPlan};
use crate::checkpoint::head::{Head, Manifest};
use crate::engine::Conversion;
use crate::ids::TaskId;
use crate::state::StoreName;

/// The offsets that the task goes on from, in the order of the plan's sources; none for dead letters that it has not read before.
///
/// # Errors
/// Its keys belong to other partition numbers, or it has never read one of the sources.
pub fn offsets(plan: &Plan, head: &Head, manifest: &Manifest) -> Result<Vec<Option<i64>>, Failure> {
    for (topic, &now) in &plan.source_partitions() {
        if let Some(&before) = head.partitions.get(topic).filter(|&&before| before != now) {
            return Err(Failure::Repartitioned { topic: topic.clone(), before, now });
        }
    }
    let offset = |(input, source): (usize, &SourcePlan)| match manifest.offsets.get(&source.topic) {
        None if input < plan.inputs => Err(Failure::NewSource { topic: source.topic.clone(), manifest: manifest.id }),
        known => Ok(known.copied()),
    };
    plan.sources.iter().enumerate().map(offset).collect()
}

/// State that the plugins of `plan` would misread, by transform: what has to be converted before the task can go on.
///
/// # Errors
/// A plugin does not convert.
pub fn conversions(plan: &Plan, task: &TaskId, manifest: &Manifest) -> Result<Vec<(usize, Vec<Route>)>, Failure> {
    let mut conversions = Vec::new();
    for (at, transform) in plan.transforms.iter().enumerate() {
        let declared = &transform.identity;
        let Some(written) = manifest.transforms.iter().find(|written| written.name == declared.name) else {
            continue;
        };
        let mut routes = Vec::new();
        for (store, &to) in &declared.stores {
            let other = |from: &&u32| **from != to && written.copies.get(store) != Some(&to);
            let Some(&from) = written.stores.get(store).filter(other) else { continue };
            let conversion = Conversion { store: store.clone(), from, to };
            if !transform.plugin.inspection().migrates {
                return Err(misread(task, transform, &conversion, "does not convert it"));
            }
            let source = Some(StoreName::of(&transform.name, store, from));
            let target = StoreName::of(&transform.name, store, to);
            routes.push(Route { source, target, conversion, by_next: true });
        }
        if !routes.is_empty() {
            conversions.push((at, routes));
        }
    }
    Ok(conversions)
}

/// State that a plugin would misread, and why it was not converted.
#[must_use]
pub fn misread(task: &TaskId, transform: &TransformPlan, conversion: &Conversion, problem: &str) -> Failure {
    Failure::Schema {
        task: task.clone(),
        transform: transform.name.clone(),
        conversion: Box::new(conversion.clone()),
        plugin: transform.identity.plugin.clone(),
        problem: problem.into(),
    }
}
