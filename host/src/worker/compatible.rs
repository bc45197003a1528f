//! Whether a plan can go on from what a task has. Pure.

use std::sync::Arc;

use super::failure::Failure;
use super::migration::Route;
use super::plan::{Plan, SourcePlan, TransformPlan};
use crate::checkpoint::head::{Head, Manifest};
use crate::engine::Conversion;
use crate::ids::TaskId;

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

/// State that the plugins of `plan` would misread, by transform: what has to be converted before the task can go on. `formers` are
/// plans that may have made it: of two versions the one with the higher schema converts, and where that is not known the one there is.
///
/// # Errors
/// No plugin converts.
pub fn conversions(
    (plan, formers): (&Plan, &[Arc<Plan>]),
    task: &TaskId,
    manifest: &Manifest,
) -> Result<Vec<(usize, Vec<Route>)>, Failure> {
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
            let mut route = Route::of(&transform.name, store, from, to);
            let is_back = !route.by_next && maker(formers, &declared.name, &route.conversion).is_some();
            route.by_next = !is_back;
            if !is_back && !transform.plugin.inspection().migrates {
                return Err(misread(task, transform, &route.conversion, "does not convert it"));
            }
            routes.push(route);
        }
        if !routes.is_empty() {
            conversions.push((at, routes));
        }
    }
    Ok(conversions)
}

/// The version of a transform that may have made what is to be converted, and converts it.
#[must_use]
pub fn maker<'a>(formers: &'a [Arc<Plan>], transform: &str, conversion: &Conversion) -> Option<&'a TransformPlan> {
    let made_it = |it: &&TransformPlan| it.identity.stores.get(&conversion.store) == Some(&conversion.from);
    let known = formers.iter().filter_map(|former| former.transform(transform));
    known.filter(made_it).find(|it| it.plugin.inspection().migrates)
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
