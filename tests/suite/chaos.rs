//! Three nodes count records exactly-once while processes and servers are killed, frozen, drained, restarted and cut off, at random.
//! In the end a `read_committed` reader has to find, for every key, the counts 1, 2, 3 .. in order, and the state has to agree.
//!
//! A short run is one of the tests. `cargo xtask chaos --seconds 600 --seed 1` is a long one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rdkafka::consumer::Consumer;
use sluicegate_harness::kafka::{Kafka, KafkaOptions};
use sluicegate_harness::zookeeper::{ZooKeeper, ZooKeeperOptions};

use crate::deployment::{Deployment, Servers};
use crate::meta::proxy::Proxy;
use crate::node::Node;
use crate::records::{self, Record};
use crate::restarts::{COUNT, check_exact, under_load};
use crate::shared::{SOON, own_servers};
use crate::state::runtime;

const NODES: [&str; 3] = ["a", "b", "c"];
const PARTITIONS: i32 = 6;
const KEYS: usize = 200;
const WORTH_SAYING: Duration = Duration::from_secs(3);
/// Longer than the sessions in Kafka and ZooKeeper, which are at most 4 s in these tests.
const FREEZE: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Fault {
    Kill,
    Freeze,
    Drain,
    CutOff,
    SwallowAnswers,
    RestartKafka,
    RestartZooKeeper,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9 of a node",
            Self::Freeze => "node frozen for longer than its sessions",
            Self::Drain => "node drained and started again",
            Self::CutOff => "node cut off from zookeeper",
            Self::SwallowAnswers => "zookeeper's answers to a node lost",
            Self::RestartKafka => "kafka killed and started again",
            Self::RestartZooKeeper => "zookeeper killed and started again",
        })
    }
}

/// Node faults come more often than those of servers, which everybody has to recover from.
const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Drain,
    Fault::Drain,
    Fault::Freeze,
    Fault::Freeze,
    Fault::CutOff,
    Fault::CutOff,
    Fault::SwallowAnswers,
    Fault::SwallowAnswers,
    Fault::RestartKafka,
    Fault::RestartZooKeeper,
];

struct Cluster<'a> {
    kafka: &'a mut Kafka,
    zookeeper: &'a mut ZooKeeper,
    proxies: Vec<Proxy>,
    deployment: &'a Deployment,
    nodes: Vec<Node>,
}

impl<'a> Cluster<'a> {
    fn start(kafka: &'a mut Kafka, zookeeper: &'a mut ZooKeeper, deployment: &'a Deployment) -> Self {
        let proxy = |_| runtime().block_on(Proxy::start(&zookeeper.connect())).unwrap();
        let proxies: Vec<Proxy> = NODES.iter().map(proxy).collect();
        let mut cluster = Self { kafka, zookeeper, proxies, deployment, nodes: Vec::new() };
        cluster.nodes = (0..NODES.len()).map(|at| cluster.node(at)).collect();
        cluster.nodes.iter_mut().for_each(Node::wait_until_ready);
        cluster
    }

    fn node(&self, at: usize) -> Node {
        let mut command = self.deployment.run_command(NODES[at]);
        command.args(["--zookeeper-connect", &self.proxies[at].address()]);
        self.deployment.spawn(command)
    }

    /// Injects a fault and undoes it, except that the system then has to recover by itself.
    fn inject(&mut self, fault: Fault, random: &mut StdRng) {
        let at = random.random_range(0..self.nodes.len());
        let pause = |random: &mut StdRng, up_to: u64| {
            std::thread::sleep(Duration::from_millis(random.random_range(0..up_to)));
        };
        match fault {
            Fault::Kill => {
                self.nodes.remove(at).kill();
                pause(random, 3_000);
            }
            Fault::Drain => {
                self.nodes.remove(at).terminate();
                pause(random, 1_000);
            }
            Fault::Freeze => {
                self.nodes[at].signal(libc::SIGSTOP);
                std::thread::sleep(FREEZE);
                self.nodes[at].signal(libc::SIGCONT);
            }
            Fault::CutOff => {
                self.proxies[at].hold();
                pause(random, 6_000);
                self.proxies[at].cut();
                self.proxies[at].forward();
            }
            Fault::SwallowAnswers => {
                self.proxies[at].swallow_answers();
                pause(random, 1_000);
                self.proxies[at].cut();
                self.proxies[at].forward();
            }
            Fault::RestartKafka => {
                self.kafka.kill().unwrap();
                pause(random, 2_000);
                self.kafka.restart().unwrap();
            }
            Fault::RestartZooKeeper => {
                self.zookeeper.kill().unwrap();
                pause(random, 5_000);
                self.zookeeper.restart().unwrap();
            }
        }
        if matches!(fault, Fault::Kill | Fault::Drain) {
            let node = self.node(at);
            self.nodes.insert(at, node);
        }
        for (name, node) in NODES.iter().zip(&mut self.nodes) {
            assert!(!node.has_ended(), "node {name} ended by itself:\n{}", node.log());
        }
    }
}

/// Reads the sink as its users would, and notes the longest time in which nothing came.
fn longest_stall(bootstrap: &str, topic: &str, done: &AtomicBool) -> Duration {
    let consumer = records::consumer(bootstrap, "watcher");
    let mut assignment = rdkafka::TopicPartitionList::new();
    assignment.add_partition_range(topic, 0, PARTITIONS - 1);
    assignment.set_all_offsets(rdkafka::Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let (mut last, mut longest) = (None, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        if let Some(Ok(_)) = consumer.poll(Duration::from_millis(100)) {
            let now = Instant::now();
            let gap = last.replace(now).map_or(Duration::ZERO, |last| now - last);
            if gap >= WORTH_SAYING {
                println!("    readers waited {gap:.1?}");
            }
            longest = longest.max(gap);
        }
    }
    longest
}

/// For every key: the counts that came out, in order.
fn counts(records: &[Record]) -> BTreeMap<String, Vec<u64>> {
    let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in records {
        let (key, value) = record.text();
        counts.entry(key).or_default().push(value.parse().unwrap());
    }
    counts
}

fn run(seconds: u64, seed: u64) {
    let _turn = own_servers();
    let mut random = StdRng::seed_from_u64(seed);
    let newer_protocol: bool = random.random();
    println!(
        "chaos: {seconds} s with seed {seed}, group.protocol {}",
        ["classic", "consumer"][usize::from(newer_protocol)]
    );
    let sessions = KafkaOptions::default()
        .with("group.consumer.min.session.timeout.ms", "2000")
        .with("group.consumer.session.timeout.ms", "3000");
    let mut kafka = Kafka::start(sessions).unwrap();
    let mut zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).unwrap();
    let servers = Servers { kafka: kafka.bootstrap(), zookeeper: Some(zookeeper.connect()) };
    let deployment = Deployment::on(servers, PARTITIONS, &COUNT.replace("50ms", "100ms"));
    if newer_protocol {
        deployment.use_consumer_protocol();
    }
    let (done, sink) = (AtomicBool::new(false), deployment.topic("out"));
    let mut injected: BTreeMap<Fault, u32> = BTreeMap::new();
    let stall = std::thread::scope(|scope| {
        let watch = scope.spawn(|| longest_stall(&deployment.servers.kafka, &sink, &done));
        let mut cluster = Cluster::start(&mut kafka, &mut zookeeper, &deployment);
        under_load(&deployment, KEYS, || {
            let until = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < until {
                let fault = *FAULTS.choose(&mut random).unwrap();
                let began = Instant::now();
                cluster.inject(fault, &mut random);
                println!("  {fault}: {:.1?}", began.elapsed());
                *injected.entry(fault).or_default() += 1;
                std::thread::sleep(Duration::from_millis(random.random_range(0..3_000)));
            }
        });
        // Nobody is in its way any more: everything that was sent is committed, wherever it is.
        deployment.wait_until_done(&mut cluster.nodes[0]);
        cluster.nodes.drain(..).for_each(Node::stop);
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });

    // What a killed process left open hides what came after it until its successor or the broker has ended it.
    let (given, until) = (deployment.read("in"), Instant::now() + SOON);
    let out = loop {
        let out = deployment.read("out");
        if out.len() >= given.len() || Instant::now() >= until {
            break out;
        }
    };
    let per_key = counts(&out);
    let (mut gaps, mut repeated, mut disorder) = (0, 0, 0);
    for counts in per_key.values() {
        for pair in [0].iter().chain(counts).zip(counts) {
            match pair.1.cmp(&(pair.0 + 1)) {
                std::cmp::Ordering::Greater => gaps += 1,
                std::cmp::Ordering::Less if pair.0 == pair.1 => repeated += 1,
                std::cmp::Ordering::Less => disorder += 1,
                std::cmp::Ordering::Equal => {}
            }
        }
    }
    let faults: u32 = injected.values().sum();
    println!("chaos: {faults} faults in {seconds} s, seed {seed}");
    injected.iter().for_each(|(fault, count)| println!("  {count:>4} x {fault}"));
    println!("  {} records in, {} out; longest time without a record for readers: {stall:.1?}", given.len(), out.len());
    println!("  gaps {gaps}, repetitions {repeated}, out of order {disorder}");
    assert_eq!((gaps, repeated, disorder, out.len()), (0, 0, 0, given.len()));
    check_exact(&deployment);
}

#[test]
fn nothing_is_lost_or_repeated_whatever_fails() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    run(number("SLUICEGATE_CHAOS_SECONDS").unwrap_or(40), number("SLUICEGATE_CHAOS_SEED").unwrap_or_else(rand::random));
}
