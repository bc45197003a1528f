//! What came out, against what was sent: for every key the counts 1, 2, 3 .., each once and in order, for whoever reads.
#![allow(clippy::unwrap_used)]

use std::cmp;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use sluicegate_harness::kafka::Kafka;

use crate::deployment::Deployment;
use crate::records::Record;
use crate::shared::SOON;

/// For every key: the numbers that its records carry, in their order.
type Sequences = BTreeMap<String, Vec<u64>>;

fn sequences(pairs: impl Iterator<Item = (String, String)>) -> Sequences {
    let mut sequences = Sequences::new();
    for (key, value) in pairs {
        sequences.entry(key).or_default().push(value.parse().unwrap());
    }
    sequences
}

fn length(sequences: &Sequences) -> usize {
    sequences.values().map(Vec::len).sum()
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
struct Defects {
    gaps: usize,
    duplicates: usize,
    disorder: usize,
}

impl Defects {
    /// `sent` has, for every key, 1, 2, 3 .. up to the last of it.
    fn between(sent: &Sequences, counted: &Sequences) -> Self {
        let mut defects = Self::default();
        for (key, sent) in sent {
            let counted = counted.get(key).map_or(&[][..], Vec::as_slice);
            let mut highest = 0;
            for &count in counted {
                match count.cmp(&(highest + 1)) {
                    cmp::Ordering::Equal => {}
                    cmp::Ordering::Greater => defects.gaps += 1,
                    cmp::Ordering::Less if counted.iter().filter(|other| **other == count).count() > 1 => {
                        defects.duplicates += 1;
                    }
                    cmp::Ordering::Less => defects.disorder += 1,
                }
                highest = highest.max(count);
            }
            defects.gaps += usize::from(highest < sent.len() as u64);
        }
        defects
    }
}

pub(super) struct Verdict {
    sent: usize,
    read: usize,
    defects: Defects,
    /// What the console consumer printed is the same.
    console_agrees: bool,
    /// How often a pipeline failed on a node, and why.
    failures: BTreeMap<String, usize>,
    /// A pipeline was given up on a node, or something panicked.
    given_up: Vec<String>,
}

impl Verdict {
    pub(super) fn of(kafka: &Kafka, deployment: &Deployment) -> Self {
        let text = |record: &Record| record.text();
        let sent = sequences(deployment.read("in").iter().map(text));
        let is_numbered = |numbers: &Vec<u64>| numbers.iter().copied().eq(1..=numbers.len() as u64);
        assert!(sent.values().all(is_numbered), "the producer lost or repeated something, which proves nothing");
        // What a killed process left open hides what came after it until its successor or the broker has ended it.
        let until = Instant::now() + SOON;
        let read = loop {
            let read = sequences(deployment.read("out").iter().map(text));
            if length(&read) >= length(&sent) || Instant::now() >= until {
                break read;
            }
        };
        let printed = kafka.tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &[
                "--topic",
                &deployment.topic("out"),
                "--from-beginning",
                "--isolation-level",
                "read_committed",
                "--property",
                "print.key=true",
                "--timeout-ms",
                "10000",
            ],
        );
        // That nothing more came in time is an error of its own in the output.
        let printed = printed.unwrap();
        let pairs = printed.lines().filter_map(|line| line.split_once('\t')).filter(|(key, _)| key.starts_with("key-"));
        let printed = sequences(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let (failures, given_up) = failures(deployment);
        Self {
            sent: length(&sent),
            read: length(&read),
            defects: Defects::between(&sent, &read),
            console_agrees: printed == read,
            failures,
            given_up,
        }
    }

    pub(super) fn is_exact(&self) -> bool {
        self.read == self.sent && self.defects == Defects::default() && self.console_agrees && self.given_up.is_empty()
    }

    pub(super) fn print(&self) {
        println!("  {} records in, {} out", self.sent, self.read);
        let agrees = if self.console_agrees { "the same" } else { "SOMETHING ELSE" };
        println!("  kafka's console consumer with read_committed reads {agrees}");
        let failures: usize = self.failures.values().sum();
        println!("  the pipeline failed on a node, and was tried again, {failures} times");
        self.failures.iter().for_each(|(why, count)| println!("  {count:>4} x {why}"));
        self.given_up.iter().for_each(|line| println!("  GIVEN UP: {line}"));
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, defects: Defects { gaps, duplicates, disorder }, .. } = self;
        write!(f, "{sent} records, {gaps} gaps, {duplicates} duplicates, {disorder} out of order")
    }
}

/// Lines that no fault may bring about.
pub(crate) fn given_up(deployment: &Deployment) -> Vec<String> {
    failures(deployment).1
}

/// What the nodes logged: why the pipeline failed, how often; and lines that no fault may bring about.
fn failures(deployment: &Deployment) -> (BTreeMap<String, usize>, Vec<String>) {
    let (mut failures, mut given_up) = (BTreeMap::new(), Vec::new());
    for (file, log) in deployment.logs() {
        let mut before = "";
        for line in log.lines() {
            if line.contains("trying again in ") {
                let why = before.split_once("node=").map_or(before, |(_, why)| why);
                *failures.entry(why.to_owned()).or_default() += 1;
            }
            if ["it stays stopped here", "panicked at", "defect of sluicegate"].iter().any(|words| line.contains(words))
            {
                given_up.push(format!("{file}: {before} {line}"));
            }
            before = line;
        }
    }
    (failures, given_up)
}
