//! The proof of hot swap: a transform with state goes back and forth between two codes, each time with another configuration, while
//! records flow; also while nodes are killed and come back. In the end a `read_committed` reader has to find, in each partition,
//! every record once and in order, with the count that belongs to it, and made by exactly the version that the offsets recorded
//! by the rollouts say.
//!
//! A short run is one of the tests. `cargo xtask swaps --swaps 50 --rate 50000` is a long one. A run that fails keeps its folder, with
//! the log of every process.
#![allow(clippy::unwrap_used)]

mod load;
mod reading;
mod switches;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sluicegate_harness::kafka::{Kafka, KafkaOptions};

use super::{config, rollouts, worker};
use crate::chaos::verdict::given_up;
use crate::commands::done;
use crate::deployment::{Deployment, Servers};
use crate::node::{self, Node};
use crate::records;
use crate::shared::{self, own_servers, wait_for};

use self::load::Load;
use self::switches::Switches;

/// The commit interval is the default of these tests, 100 ms; a probation is half a second longer than `time-per-batch`.
const PIPELINE: &str = r#"
name = "chain"
[[source]]
topic = "in"
[[transform]]
name = "marks"
plugin = "guest_marks.wasm"
config = { mark = 0 }
[[sink]]
topic = "out"
[limits]
time-per-batch = "1s"
"#;
/// How the guest's code calls itself, and how its other version does.
const CODES: [&str; 2] = ["code-of-version-a", "code-of-version-b"];
/// A swap after which nothing has ended by then has failed. With a node killed, sessions end and tasks move meanwhile.
const SWAP_MAX: &str = "120s";
/// Longest time from the beginning of a swap to the kill of a node: while it is checked, prepared, while tasks go over, while they
/// are watched; in milliseconds.
const KILL_MAX: u64 = 3_000;
/// Longest time for which a killed node is away, in milliseconds.
const AWAY_MAX: u64 = 1_000;
/// What has not been done so long after the load has ended is lost.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(600);

/// What a run consists of.
#[derive(Clone, Copy, Debug)]
struct Proof {
    swaps: usize,
    /// Records a second.
    rate: u64,
    partitions: i32,
    nodes: usize,
    /// A node is killed during each swap, and comes back.
    kills: bool,
    seed: u64,
}

impl Proof {
    /// As small as given, unless the environment says otherwise; and on which servers.
    fn of(swaps: usize, kills: bool) -> (Self, bool) {
        let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let small = Self { swaps, rate: 2_000, partitions: 8, nodes: 3, kills, seed: rand::random() };
        let proof = Self {
            swaps: number("SLUICEGATE_SWAPS").map_or(small.swaps, |swaps| swaps as usize),
            rate: number("SLUICEGATE_SWAPS_RATE").unwrap_or(small.rate),
            partitions: number("SLUICEGATE_SWAPS_PARTITIONS").map_or(small.partitions, |count| count as i32),
            nodes: number("SLUICEGATE_SWAPS_NODES").map_or(small.nodes, |nodes| nodes as usize),
            seed: number("SLUICEGATE_TEST_SEED").unwrap_or(small.seed),
            ..small
        };
        (proof, number("SLUICEGATE_SWAPS").is_some())
    }

    fn describe(&self) -> String {
        let Self { swaps, rate, partitions, nodes, .. } = self;
        let kills = if self.kills { ", one of them killed during each swap" } else { "" };
        format!("{swaps} swaps, {rate} records/s asked for, {partitions} partitions, {nodes} nodes{kills}")
    }
}

/// The guest with each of its codes, as files.
fn codes(deployment: &Deployment) -> [PathBuf; 2] {
    CODES.map(|code| {
        let mut bytes = fs::read(node::plugin("guest_marks.wasm")).unwrap();
        let at: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(CODES[0].as_bytes())).collect();
        let [at] = at[..] else { panic!("the guest's code calls itself something once, not {} times", at.len()) };
        bytes[at..at + code.len()].copy_from_slice(code.as_bytes());
        let path = deployment.path(&format!("{code}.wasm"));
        fs::write(&path, bytes).unwrap();
        path
    })
}

fn run(proof: Proof, on_own_servers: bool) {
    println!("swaps: {}, seed {}", proof.describe(), proof.seed);
    let turn = on_own_servers.then(own_servers);
    let kafka = turn.as_ref().map(|_| {
        let options = KafkaOptions { heap_mib: 1024, full_speed: true, ..KafkaOptions::default() };
        Kafka::start(options).unwrap()
    });
    let kafka_address = kafka.as_ref().map_or_else(|| shared::kafka().bootstrap(), Kafka::bootstrap);
    let servers = Servers { kafka: kafka_address, zookeeper: Some(shared::zookeeper().connect()) };
    let mut deployment = Deployment::on(servers, proof.partitions, PIPELINE);
    match catch_unwind(AssertUnwindSafe(|| prove(proof, &deployment))) {
        Ok(summary) => println!("swaps passed: {summary}"),
        Err(panic) => {
            let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            let why = why.and_then(|why| why.lines().next()).unwrap_or("it panicked");
            let folder = deployment.keep().display();
            println!("swaps FAILED: {}, seed {}: {why}; the logs are in {folder}", proof.describe(), proof.seed);
            resume_unwind(panic);
        }
    }
}

/// One run. What it came to.
fn prove(proof: Proof, deployment: &Deployment) -> String {
    let codes = codes(deployment);
    let mut site = Site::start(proof, deployment);
    let (load, mut switches) = under_load(proof, deployment, || swap_often(&mut site, &codes));
    load.print();
    let (behind, took) = site.catch_up();
    println!(
        "  {behind} records were not committed when the load ended, and all of them {:.1} s later",
        took.as_secs_f64()
    );
    site.stop();
    assert_eq!(given_up(deployment), Vec::<String>::new());
    switches.print();
    let source = reading::source(deployment);
    assert_eq!(source, load.sent, "the producer lost or repeated something, which proves nothing");
    let verdict = reading::sink(deployment, &source, &switches.offsets(proof.partitions));
    println!("  {verdict}");
    let summary = format!("{} swaps at {:.0} records/s, {verdict}", proof.swaps, load.rate());
    assert!(verdict.is_exact(), "{summary}");
    summary
}

/// Sends while `work` runs.
fn under_load<T>(proof: Proof, deployment: &Deployment, work: impl FnOnce() -> T) -> (Load, T) {
    let (done, topic) = (AtomicBool::new(false), deployment.topic("in"));
    let (kafka, partitions) = (&deployment.servers.kafka, proof.partitions as usize);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load::send(kafka, &topic, partitions, proof.rate, &done));
        let result = catch_unwind(AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let load = load.join().unwrap();
        (load, result.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// The nodes, and what is done to them.
struct Site<'a> {
    proof: Proof,
    deployment: &'a Deployment,
    nodes: Vec<Node>,
    random: StdRng,
}

impl<'a> Site<'a> {
    fn start(proof: Proof, deployment: &'a Deployment) -> Self {
        let nodes = (0..proof.nodes).map(|at| worker(deployment, &name(at))).collect();
        let site = Self { proof, deployment, nodes, random: StdRng::seed_from_u64(proof.seed) };
        // The leader places threads on the nodes that it knows.
        wait_for("all nodes", || {
            let nodes: Vec<serde_json::Value> = serde_json::from_str(&done(deployment, &["nodes", "--json"])).unwrap();
            (nodes.len() == proof.nodes).then_some(())
        });
        done(deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
        site
    }

    /// Kills some node at some moment, and starts it again a little later. Which.
    fn kill_some(&mut self) -> String {
        let at = self.random.random_range(0..self.nodes.len());
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..KILL_MAX)));
        self.nodes.remove(at).kill();
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..AWAY_MAX)));
        self.nodes.insert(at, worker(self.deployment, &name(at)));
        name(at)
    }

    /// Waits until everything is committed: how much was not, and how long it took.
    fn catch_up(&mut self) -> (i64, Duration) {
        let (began, consumer) = (Instant::now(), self.deployment.consumer());
        let topic = self.deployment.topic("in");
        let ends = records::ends(&consumer, &topic);
        let left = || {
            let committed = self.deployment.committed(&consumer, &topic);
            let each = ends.iter().zip(committed).map(|(end, committed)| end - committed.unwrap_or_default());
            let left: Vec<i64> = each.collect();
            (left.len() == ends.len()).then(|| left.into_iter().sum::<i64>())
        };
        let behind = wait_for("what the group has committed", left);
        while left() != Some(0) {
            assert!(began.elapsed() < CAUGHT_UP_MAX, "{:?} of {behind} records are not committed", left());
            std::thread::sleep(Duration::from_millis(50));
        }
        (behind, began.elapsed())
    }

    fn stop(mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            assert!(!node.has_ended(), "node {} ended by itself:\n{}", name(at), node.log());
            // From then on it knows what to do at SIGTERM.
            node.wait_for_log("working: ");
        }
        self.nodes.into_iter().for_each(Node::stop);
    }
}

fn name(at: usize) -> String {
    format!("node-{at}")
}

/// One swap after the other. How tasks went over.
fn swap_often(site: &mut Site<'_>, codes: &[PathBuf; 2]) -> Switches {
    let deployment = site.deployment;
    let consumer = deployment.consumer();
    let sink = deployment.topic("out");
    wait_for("records", || records::ends(&consumer, &sink).iter().any(|end| *end > 0).then_some(()));
    let mut switches = Switches::new(&deployment.topic("in"));
    for number in 1..=site.proof.swaps {
        let mark = config(deployment, "mark.json", &json!({ "mark": number }));
        let code = codes[number % 2].to_str().unwrap();
        // Records take as long as they take on a machine that does all of this.
        let swap = ["plugin", "swap", "chain", "marks", code, "--config", &mark, "--max-slowdown", "1000000"];
        let swap = [&swap[..], &["--probation", "1s", "--wait", SWAP_MAX]].concat();
        let began = Instant::now();
        let (took, killed) = std::thread::scope(|scope| {
            let swap = scope.spawn(|| {
                done(deployment, &swap);
                began.elapsed()
            });
            let killed = site.proof.kills.then(|| site.kill_some());
            // A swap that went wrong says so itself.
            (swap.join().unwrap_or_else(|panic| resume_unwind(panic)), killed)
        });
        let ended = rollouts(deployment)["ended"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&ended["rollout"]["number"], &ended["outcome"]), (&json!(number), &json!("done")), "{ended}");
        let said = switches.add(&ended["rollout"], took);
        println!("  swap {number}: {said}{}", killed.map_or_else(String::new, |node| format!(", {node} killed")));
    }
    switches
}

#[test]
fn every_record_comes_out_once_and_from_the_version_that_is_recorded() {
    let (proof, on_own_servers) = Proof::of(8, false);
    run(proof, on_own_servers);
}

#[test]
fn that_holds_while_nodes_are_killed_and_come_back() {
    let (proof, on_own_servers) = Proof::of(4, true);
    run(proof, on_own_servers);
}
