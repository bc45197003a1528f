//! Running versions of a pipeline's transforms over recorded records, beside the pipeline and without it.
//!
//! - [`run`]: one version over batches, with a copy of a task's state; what comes of each record.
//! - [`tape`]: the records, as they stand in the source topics.
//! - [`snapshot`]: state to go on from, at an earlier commit.
//! - [`emitted`]: what was really sent.
//!
//! A run sees the virtual sandbox only: a clock that shows the newest timestamp of the records so far, random numbers that follow
//! from pipeline, transform and task, and nothing of the real world. It sends nothing, commits nothing, and is nobody's member.
//!
//! Two runs from the same state over the same batches differ by what the versions do, and by nothing else. A run differs from what a
//! pipeline did where that depended on the hour, on random numbers, or on the order of several inputs.

use std::collections::BTreeSet;

use crate::comparison;

pub mod emitted;
pub mod run;
pub mod snapshot;
pub mod tape;

pub use self::run::{NotRun, Run, Stopped};

/// Compares the states that two runs of a task have, in the stores that both versions read: those of another schema hold other bytes.
/// Adds to what is known of the stores from other tasks.
pub fn states(known: &mut Vec<comparison::StoreDifference>, task: u32, first: &Run, second: &Run) {
    let of_second: BTreeSet<_> = second.stores().collect();
    let both = first.stores().filter(|store| of_second.contains(store)).collect();
    comparison::states(known, task, &both, [first.state(), second.state()]);
}
