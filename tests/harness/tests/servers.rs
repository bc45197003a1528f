//! The harness keeps its own promises.
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sluicegate_harness::ensemble::Ensemble;
use sluicegate_harness::kafka::{Kafka, KafkaOptions, answers};
use sluicegate_harness::zookeeper::{ZooKeeper, ZooKeeperOptions, serves};

#[test]
fn zookeeper_starts_stops_restarts_and_pauses() {
    let mut zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).unwrap();
    let address = zookeeper.connect();
    zookeeper.stop().unwrap();
    assert!(!serves(&address));
    zookeeper.restart().unwrap();
    assert!(serves(&address));
    zookeeper.pause().unwrap();
    // A thread that is running when the signal is sent goes on for a moment.
    falls_silent(&address);
    zookeeper.resume().unwrap();
    assert!(serves(&address));
    zookeeper.wipe().unwrap();
    zookeeper.restart().unwrap();
    assert!(serves(&address));
    drop(zookeeper);
    assert!(!serves(&address));
}

#[test]
fn an_ensemble_elects_another_leader_and_comes_back_whole() {
    let mut ensemble = Ensemble::start().unwrap();
    let addresses: Vec<String> = ensemble.members().iter().map(ZooKeeper::connect).collect();
    assert_eq!(ensemble.connect(), addresses.join(","));
    let first = ensemble.leader().unwrap();
    ensemble.member(first).kill().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let second = loop {
        if let Some(leader) = ensemble.leader() {
            break leader;
        }
        assert!(Instant::now() < deadline, "no other leader");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_ne!(first, second);
    ensemble.member(first).restart().unwrap();
    assert!(addresses.iter().all(|address| serves(address)));
    ensemble.kill().unwrap();
    assert_eq!(ensemble.leader(), None);
    ensemble.restart().unwrap();
    assert!(ensemble.leader().is_some() && addresses.iter().all(|address| serves(address)));
}

#[test]
fn kafka_keeps_its_topics_across_a_kill_and_runs_its_tools() {
    let mut kafka = Kafka::start(KafkaOptions::default().with("num.partitions", "2")).unwrap();
    let address = kafka.bootstrap();
    kafka.create_topic("kept", 3).unwrap();
    kafka.kill().unwrap();
    assert!(!answers(&address));
    kafka.restart().unwrap();
    assert_eq!(kafka.tool("org.apache.kafka.tools.TopicCommand", &["--list"]).unwrap().trim(), "kept");
    kafka.stop().unwrap();
    assert!(!answers(&address));
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let error = Kafka::start(KafkaOptions::default().with("broker.id", "no number")).unwrap_err();
    assert!(format!("{error:#}").contains("broker.id"), "{error:#}");
}

#[test]
fn a_server_dies_with_the_process_that_started_it() {
    const ROLE: &str = "SLUICEGATE_HARNESS_ROLE";
    if std::env::var_os(ROLE).is_some() {
        let zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).unwrap();
        println!("address={}", zookeeper.connect());
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_dies_with_the_process_that_started_it", "--nocapture"])
        .env(ROLE, "starter")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let address = std::io::BufRead::lines(output)
        .map(Result::unwrap)
        .find_map(|line| line.split_once("address=").map(|(_, address)| address.to_owned()))
        .unwrap();
    assert!(serves(&address));
    child.kill().unwrap();
    child.wait().unwrap();
    falls_silent(&address);
}

/// Waits until nobody serves at `address` any more.
fn falls_silent(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while serves(address) {
        assert!(Instant::now() < deadline, "{address} is still served");
        std::thread::sleep(Duration::from_millis(20));
    }
}
