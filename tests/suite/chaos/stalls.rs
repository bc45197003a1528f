//! Reads the sink as its users would, and notes the longest times in which nothing came: at all, and in each partition. All
//! partitions have input all the time.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::message::Message;

use super::PARTITIONS;
use super::fault::Events;
use crate::records;

/// A time in which nothing came.
#[derive(Clone, Copy)]
struct Stall {
    began: Instant,
    length: Duration,
}

/// The records of a partition, or of all of them.
#[derive(Clone, Copy)]
struct Flow {
    last: Instant,
    longest: Stall,
}

impl Flow {
    fn new(now: Instant) -> Self {
        Self { last: now, longest: Stall { began: now, length: Duration::ZERO } }
    }

    fn record(&mut self, now: Instant) {
        let stall = Stall { began: self.last, length: now - self.last };
        self.last = now;
        if stall.length > self.longest.length {
            self.longest = stall;
        }
    }
}

pub(super) struct Stalls {
    overall: Flow,
    partitions: BTreeMap<i32, Flow>,
}

impl Stalls {
    /// Reads until `done`.
    pub(super) fn watch(bootstrap: &str, topic: &str, done: &AtomicBool) -> Self {
        let consumer = records::consumer(bootstrap, "watcher");
        let mut assignment = rdkafka::TopicPartitionList::new();
        assignment.add_partition_range(topic, 0, PARTITIONS - 1);
        assignment.set_all_offsets(rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&assignment).unwrap();
        let mut overall = None;
        let mut partitions = BTreeMap::new();
        while !done.load(Ordering::Relaxed) {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let now = Instant::now();
                overall.get_or_insert_with(|| Flow::new(now)).record(now);
                partitions.entry(message.partition()).or_insert_with(|| Flow::new(now)).record(now);
            }
        }
        Self { overall: overall.unwrap_or_else(|| Flow::new(Instant::now())), partitions }
    }

    /// With what was going on.
    pub(super) fn print(&self, events: &Events) {
        println!("  longest times without a record for readers:");
        let all = ("all partitions".to_owned(), &self.overall);
        let each = self.partitions.iter().map(|(partition, flow)| (format!("partition {partition}"), flow));
        for (name, flow) in std::iter::once(all).chain(each) {
            let Stall { began, length } = flow.longest;
            let faults = events.around(began, length);
            println!("    {name:<14} {:>5.1} s from {} {faults}", length.as_secs_f64(), events.time(began));
        }
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overall = self.overall.longest.length.as_secs_f64();
        let one = self.partitions.values().map(|flow| flow.longest.length.as_secs_f64()).fold(0.0, f64::max);
        write!(f, "longest stall {overall:.1} s, of one partition {one:.1} s")
    }
}
