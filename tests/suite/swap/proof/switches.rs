//! What the rollouts of a run say: where each task went over, how long that took, and how long its records waited.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::Value;

/// All of them so far.
pub(super) struct Switches {
    topic: String,
    /// For each rollout: partitions with the offset from which the new version holds.
    offsets: Vec<Vec<(i32, i64)>>,
    /// From the start of the command to its end.
    took: Vec<Duration>,
    /// Microseconds, of the tasks that went over while they ran.
    pauses: Vec<u64>,
    /// Tasks that came up with the new version, on a node that was started or took them over.
    came_up: usize,
}

impl Switches {
    /// Of tasks that read `topic`.
    pub(super) fn new(topic: &str) -> Self {
        let topic = topic.to_owned();
        Self { topic, offsets: Vec::new(), took: Vec::new(), pauses: Vec::new(), came_up: 0 }
    }

    /// Takes in a rollout that ended well. What there is to say of it.
    pub(super) fn add(&mut self, rollout: &Value, took: Duration) -> String {
        let mut offsets = Vec::new();
        let mut longest = 0;
        for (partition, switched) in rollout["switched"].as_object().unwrap() {
            offsets.push((partition.parse().unwrap(), switched["offsets"][&self.topic].as_i64().unwrap()));
            match switched["pause-us"].as_u64().unwrap() {
                0 => self.came_up += 1,
                pause => self.pauses.push(pause),
            }
            longest = longest.max(switched["pause-us"].as_u64().unwrap());
        }
        let tasks = offsets.len();
        self.offsets.push(offsets);
        self.took.push(took);
        format!("done after {:.1} s, {tasks} tasks, longest pause {longest} us", took.as_secs_f64())
    }

    /// For each partition: from which offset each swap holds, in their order.
    pub(super) fn offsets(&self, partitions: i32) -> Vec<Vec<i64>> {
        let of = |partition: i32, swap: &Vec<(i32, i64)>| {
            let found = swap.iter().find(|(of, _)| *of == partition);
            found.unwrap_or_else(|| panic!("no offset is recorded for partition {partition}: {swap:?}")).1
        };
        let all = |partition| self.offsets.iter().map(|swap| of(partition, swap)).collect::<Vec<_>>();
        (0..partitions).map(all).collect()
    }

    pub(super) fn print(&mut self) {
        self.took.sort_unstable();
        self.pauses.sort_unstable();
        let seconds: Vec<f64> = self.took.iter().map(Duration::as_secs_f64).collect();
        let [p50, p99, longest] = percentiles(&seconds);
        println!(
            "  {} swaps, from the command to its end: p50 {p50:.2} s, p99 {p99:.2} s, longest {longest:.2} s",
            seconds.len()
        );
        let [p50, p99, longest] = percentiles(&self.pauses);
        println!(
            "  pause of {} tasks that went over: p50 {p50} us, p99 {p99} us, longest {longest} us; {} came up with the new version",
            self.pauses.len(),
            self.came_up
        );
    }
}

/// The value below which half, and 99 of a hundred are; and the last. Of sorted values; zeros of none.
fn percentiles<T: Copy + Default>(sorted: &[T]) -> [T; 3] {
    let last = sorted.len().saturating_sub(1);
    [0.5, 0.99, 1.0].map(|share| sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default())
}
