//! State over restarts: after SIGTERM, after SIGKILL, and after SIGKILL again and again while commits are being made.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::producer::Producer;

use crate::deployment::Deployment;
use crate::node::Node;
use crate::records::{self, Record};
use crate::shared::SOON;
use crate::state::State;

/// Counts records per key.
pub(crate) const COUNT: &str = r#"
name = "count"
[[source]]
topic = "in"
[[transform]]
name = "count"
plugin = "keyed_count.wasm"
[[sink]]
topic = "out"
[delivery]
commit-interval = "50ms"
"#;

/// The same, and behind it a guest that goes wrong as `config` says, with these lines more.
pub(crate) fn count_then(config: &str, more: &str) -> String {
    let guest = format!(
        "[[transform]]\nname = \"guest\"\nplugin = \"guest_misbehaves.wasm\"\nconfig = {{ {config} }}\n[[sink]]"
    );
    COUNT.replace("[[sink]]", &guest) + more
}

/// `count` records over `keys` keys.
pub(crate) fn records(count: usize, keys: usize) -> impl Iterator<Item = Record> {
    (0..count).map(move |number| Record::of(format!("key-{}", number % keys), "x"))
}

/// Records per key that are in a topic.
pub(crate) fn per_key(records: &[Record]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    records.iter().for_each(|record| *counts.entry(record.text().0).or_default() += 1);
    counts
}

/// The highest count of each key that was sent.
fn highest(records: &[Record]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for record in records {
        let (key, value) = record.text();
        let highest: &mut u64 = counts.entry(key).or_default();
        *highest = value.parse::<u64>().unwrap().max(*highest);
    }
    counts
}

/// Checks that every record was counted once: in the state, in the output, and that the offsets beside the state are those of
/// the group and the topic's ends.
pub(crate) fn check_exact(deployment: &Deployment) {
    check_exact_in(deployment, &State::of(deployment));
}

/// As [`check_exact`], where the state is not open to everybody.
pub(crate) fn check_exact_in(deployment: &Deployment, state: &State) {
    let expected = per_key(&deployment.read("in"));
    assert!(state.counts() == expected, "state and input differ:\n{:?}\n{expected:?}", state.counts());
    if deployment.exactly_once {
        // What a killed process left open hides what came after it until its successor has ended it.
        deployment.wait_for_read("out", expected.values().sum::<u64>() as usize);
    }
    let out = deployment.read("out");
    assert!(highest(&out) == expected, "output and input differ");
    if deployment.exactly_once {
        // Every count from the first to the highest came out, so that none came out twice.
        assert_eq!(out.len(), deployment.read("in").len(), "output repeats");
    }
    let (consumer, topic) = (deployment.consumer(), deployment.topic("in"));
    let ends = records::ends(&consumer, &topic);
    let in_heads: Vec<i64> = state.heads().iter().map(|head| head.committed.offsets[&topic]).collect();
    assert_eq!(in_heads, ends);
    let in_group: Vec<i64> = deployment.committed(&consumer, &topic).into_iter().map(Option::unwrap).collect();
    assert_eq!(in_group, ends);
}

#[test]
fn state_survives_sigterm_and_sigkill() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    check_exact(&deployment);
    assert_eq!(deployment.read("out").len(), 300, "nothing repeats after a clean stop");

    deployment.produce("in", records(300, 30));
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    node.kill();
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    check_exact(&deployment);
    assert_eq!(State::of(&deployment).counts()["key-7"], 30);
}

/// The same pipeline at-least-once.
pub(crate) fn at_least_once(pipeline: &str) -> String {
    pipeline.replace("[delivery]", "[delivery]\nguarantee = \"at-least-once\"")
}

fn a_clean_stop_repeats_nothing(pipeline: &str) {
    let deployment = Deployment::new(pipeline);
    for round in 1..=2 {
        deployment.produce("in", records(5_000, 50));
        let mut node = deployment.start();
        node.wait_for("all output", |node| (node.metric("sluicegate_records_out_total") >= 5_000.0).then_some(()));
        // The commit interval is far away: the stop commits.
        node.stop();
        check_exact(&deployment);
        assert_eq!(deployment.read("out").len(), round * 5_000);
    }
}

#[test]
fn a_clean_stop_at_least_once_repeats_nothing() {
    a_clean_stop_repeats_nothing(&at_least_once(&COUNT.replace("50ms", "1m")));
}

#[test]
fn a_clean_stop_exactly_once_repeats_nothing() {
    a_clean_stop_repeats_nothing(&COUNT.replace("50ms", "10s"));
}

/// Writes records in small portions while `work` runs; their values number the records of each key: 1, 2, 3 ..
pub(crate) fn under_load<T>(deployment: &Deployment, keys: usize, work: impl FnOnce() -> T) -> T {
    /// 5,000 records a second.
    const PORTION: (usize, Duration) = (100, Duration::from_millis(20));
    let done = AtomicBool::new(false);
    let (bootstrap, topic) = (deployment.servers.kafka.clone(), deployment.topic("in"));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let producer = records::producer(&bootstrap);
            let (mut portion, mut sent) = (0, vec![0_u64; keys]);
            while !done.load(Ordering::Relaxed) {
                let numbered = (0..PORTION.0).map(|number| {
                    let key = (portion * 37 + number) % keys;
                    sent[key] += 1;
                    Record::of(format!("key-{key}"), sent[key].to_string())
                });
                records::send(&producer, &topic, numbered);
                portion += 1;
                std::thread::sleep(PORTION.1);
            }
            producer.flush(SOON).unwrap();
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        load.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// How many commits a process has made.
pub(crate) fn commits(node: &Node) -> f64 {
    node.metric("sluicegate_commit_duration_seconds_count")
}

#[test]
fn counts_are_exact_after_many_kills_during_commits() {
    kills_during_commits(COUNT);
}

#[test]
fn counts_are_exact_at_least_once_after_many_kills_during_commits() {
    kills_during_commits(&at_least_once(COUNT));
}

/// Kills the pipeline's process again and again under load, then lets one run through.
pub(crate) fn killed_often(pipeline: &str, kills: u32) -> Deployment {
    let seed = std::env::var("SLUICEGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("SLUICEGATE_TEST_SEED={seed} repeats the moments of the kills");
    let mut random = StdRng::seed_from_u64(seed);
    let deployment = Deployment::new(pipeline);
    under_load(&deployment, 500, || {
        for _ in 0..kills {
            let mut node = deployment.start();
            // From the first commit on, so that many kills meet a commit that is being made.
            node.wait_for("a commit", |node| (commits(node) > 0.0).then_some(()));
            std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
            node.kill();
        }
    });
    deployment.run_through();
    deployment
}

fn kills_during_commits(pipeline: &str) {
    let deployment = killed_often(pipeline, 12);
    check_exact(&deployment);
    let epochs: u64 = State::of(&deployment).heads().iter().map(|head| head.committed.id.epoch.0).sum();
    println!("{epochs} commits, {} records", deployment.read("in").len());
}
