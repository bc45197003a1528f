//! Whether plugins know the steps from one schema version of a store to another that a change takes: they are asked, with no
//! entries, before anything is touched.

use std::sync::Arc;

use crate::ids::TaskId;
use crate::record::Column;
use crate::worker::compatible;
use crate::worker::failure::Failure;
use crate::worker::migration::{Converter, Route};
use crate::worker::plan::Plan;

/// State of a task, in bytes of its chunks, that a deployment converts at most. A task converts all of it before it takes records, and
/// writes it with one commit: so much is written in a few seconds within the default byte budget, and readers of the sinks wait for it.
const AT_ONCE_BYTES_MAX: u64 = 64 << 20;

/// Asks for the step of a route, with no entries. Runs guests: on a thread that may block.
///
/// # Errors
/// It is not known, in words.
pub(super) fn knows(converter: &mut Converter, route: &Route, now_ms: i64) -> Result<(), String> {
    let converted = converter.convert(route, Column::default(), Column::default(), now_ms);
    converted.map(drop).map_err(|error| error.to_string())
}

/// A step that a deployment takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Step {
    /// Index of the transform.
    transform: usize,
    route: Route,
    /// A task that takes it.
    task: TaskId,
}

/// Adds the steps that a task takes to those of others.
pub(super) fn add(steps: &mut Vec<Step>, task: &TaskId, conversions: Vec<(usize, Vec<Route>)>) {
    for (transform, routes) in conversions {
        for route in routes {
            if !steps.iter().any(|step| (step.transform, &step.route) == (transform, &route)) {
                steps.push(Step { transform, route, task: task.clone() });
            }
        }
    }
}

/// Asks the plugins of a plan for steps.
///
/// # Errors
/// The first that is not known.
pub(super) async fn all_known(plan: &Arc<Plan>, steps: Vec<Step>) -> Result<(), String> {
    let plan = Arc::clone(plan);
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let ask = move || steps.iter().try_for_each(|step| ask(&plan, step, now_ms).map_err(|failure| failure.to_string()));
    tokio::task::spawn_blocking(ask).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn ask(plan: &Plan, Step { transform, route, task }: &Step, now_ms: i64) -> Result<(), Failure> {
    let transform = &plan.transforms[*transform];
    let opened =
        Converter::open((transform, transform), std::slice::from_ref(route), (&plan.pipeline, task.partition), now_ms);
    opened.and_then(|mut converter| knows(&mut converter, route, now_ms)).map_err(|problem| {
        let problem = format!("its `migrate` does not take that step: {problem}");
        compatible::misread(task, transform, &route.conversion, &problem)
    })
}

/// Why so much state of a task, in bytes of its chunks, is not converted by a deployment, if it is too much.
pub(super) fn too_large(task: &TaskId, transform: &str, bytes: u64) -> Option<String> {
    (bytes > AT_ONCE_BYTES_MAX).then(|| {
        let (bytes, most) = (bytesize::ByteSize(bytes), bytesize::ByteSize(AT_ONCE_BYTES_MAX));
        let pipeline = &task.pipeline;
        format!(
            "task {task} has {bytes} of state, and a deployment converts at most {most} of it to what the plugin of transform `{transform}` reads: it takes no record until all of it is converted and written. `sluicegate plugin swap {pipeline} {transform} PLUGIN` converts beside the version that runs; then deploy what else has changed"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(partition: u32) -> TaskId {
        TaskId { pipeline: "orders".into(), incarnation: 1, stage: 0, partition }
    }

    #[test]
    fn a_step_that_several_tasks_take_is_asked_for_once() {
        let mut steps = Vec::new();
        let [there, further] = [(1, 2), (1, 3)].map(|(from, to)| Route::of("count", "counts", from, to));
        add(&mut steps, &task(0), vec![(0, vec![there.clone()])]);
        add(&mut steps, &task(1), vec![(0, vec![there.clone()]), (1, vec![there.clone()])]);
        add(&mut steps, &task(2), vec![(0, vec![further.clone()])]);
        let of = |step: &Step| (step.transform, step.route.clone(), step.task.partition);
        let expected = [(0, there.clone(), 0), (1, there, 1), (0, further, 2)];
        assert_eq!(steps.iter().map(of).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn more_state_than_one_commit_should_hold_is_for_a_swap() {
        assert_eq!(too_large(&task(3), "count", AT_ONCE_BYTES_MAX), None);
        let said = too_large(&task(3), "count", AT_ONCE_BYTES_MAX + 1).unwrap();
        assert!(said.contains("`sluicegate plugin swap orders count PLUGIN`") && said.contains("64.0 MiB"), "{said}");
    }
}
