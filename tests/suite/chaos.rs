//! Three workers count records exactly-once while processes and servers are killed, frozen, drained, restarted and cut off, and
//! the pipeline is changed and paused, at random. In the end a `read_committed` reader has to find, for every key, the counts
//! 1, 2, 3 .. in order; so has Kafka's own console consumer; and the state has to agree.
//!
//! A short run is one of the tests. `cargo xtask chaos --seconds 600 --seed 1` is a long one. A run that fails keeps its folder,
//! with the log of every process.
#![allow(clippy::unwrap_used)]

mod fault;
mod link;
mod site;
mod stalls;
pub(crate) mod verdict;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluicegate_harness::ensemble::Ensemble;
use sluicegate_harness::kafka::{Kafka, KafkaOptions};

use crate::deployment::{Deployment, Servers};
use crate::restarts::{check_exact, under_load};
use crate::shared::own_servers;

use fault::{Bag, Events};
use site::Site;
use stalls::Stalls;
use verdict::Verdict;

const PARTITIONS: i32 = 6;
const KEYS: usize = 200;
/// Longest pause between two faults, in milliseconds.
const CALM_MAX: u64 = 1_500;

fn run(seconds: u64, seed: u64) {
    let _turn = own_servers();
    let mut random = StdRng::seed_from_u64(seed);
    let newer_protocol: bool = random.random();
    println!(
        "chaos: seed {seed}, {seconds} s, group.protocol {}",
        ["classic", "consumer"][usize::from(newer_protocol)]
    );
    // A killed broker is not let in again before its session with the controller has ended: 9 s if nothing else is said.
    let sessions = KafkaOptions::default()
        .with("broker.session.timeout.ms", "3000")
        .with("broker.heartbeat.interval.ms", "500")
        .with("group.consumer.min.session.timeout.ms", "2000")
        .with("group.consumer.session.timeout.ms", "3000");
    let mut kafka = Kafka::start(sessions).unwrap();
    let mut ensemble = Ensemble::start().unwrap();
    let servers = Servers { kafka: kafka.bootstrap(), zookeeper: Some(ensemble.connect()) };
    let mut deployment = Deployment::on(servers, PARTITIONS, &site::pipeline(0));
    if newer_protocol {
        deployment.use_consumer_protocol();
    }
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let events = Events::new();
        let stalls = disturb(&mut kafka, &mut ensemble, &deployment, &events, seconds, &mut random);
        let verdict = Verdict::of(&kafka, &deployment);
        println!("chaos: {} faults in {seconds} s, seed {seed}", events.len());
        events.print_counts();
        stalls.print(&events);
        verdict.print();
        let summary = format!("{} faults, {verdict}, {stalls}", events.len());
        assert!(verdict.is_exact(), "{summary}");
        check_exact(&deployment);
        summary
    }));
    match judged {
        Ok(summary) => println!("chaos passed: seed {seed}, {seconds} s, {summary}"),
        Err(panic) => {
            let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            let why = why.and_then(|why| why.lines().next()).unwrap_or("it panicked");
            // Who has which partition, as the broker sees it.
            let group = ["--describe", "--members", "--verbose", "--group", &deployment.group()];
            let members = kafka.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &group);
            println!("{}", members.unwrap_or_else(|error| format!("{error:#}")));
            let kept = deployment.keep().join("kafka.log");
            if let Err(error) = std::fs::copy(kafka.log(), &kept) {
                println!("kafka's log is not kept: {error}");
            }
            println!("chaos FAILED: seed {seed}, {seconds} s, {why}; the logs are in {}", deployment.keep().display());
            resume_unwind(panic);
        }
    }
}

/// Injects faults for a while, and lets everything that was sent be processed. How long readers waited meanwhile.
fn disturb(
    kafka: &mut Kafka,
    ensemble: &mut Ensemble,
    deployment: &Deployment,
    events: &Events,
    seconds: u64,
    random: &mut StdRng,
) -> Stalls {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = scope.spawn(|| Stalls::watch(&deployment.servers.kafka, &deployment.topic("out"), &done));
        let disturbed = catch_unwind(AssertUnwindSafe(|| {
            let mut site = Site::start(kafka, ensemble, deployment, events);
            under_load(deployment, KEYS, || {
                let mut bag = Bag::default();
                let until = Instant::now() + Duration::from_secs(seconds);
                while Instant::now() < until {
                    site.inject(bag.draw(random), random);
                    std::thread::sleep(Duration::from_millis(random.random_range(0..CALM_MAX)));
                }
            });
            site.settle();
        }));
        done.store(true, Ordering::Relaxed);
        let stalls = readers.join().unwrap();
        disturbed.unwrap_or_else(|panic| resume_unwind(panic));
        stalls
    })
}

#[test]
fn nothing_is_lost_or_repeated_whatever_fails() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    run(number("SLUICEGATE_CHAOS_SECONDS").unwrap_or(40), number("SLUICEGATE_CHAOS_SEED").unwrap_or_else(rand::random));
}
