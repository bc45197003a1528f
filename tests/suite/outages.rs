//! Servers that go away under load and come back, and sessions that end: the pipeline waits, goes on by itself, and every record
//! is counted once. Tests that disturb a server have their own.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString};
use sluicegate_harness::kafka::{Kafka, KafkaOptions};
use sluicegate_harness::zookeeper::{ZooKeeper, ZooKeeperOptions};

use crate::deployment::{Deployment, Servers};
use crate::meta::proxy::Proxy;
use crate::node::Node;
use crate::records::Record;
use crate::restarts::{COUNT, check_exact, commits, records, under_load};
use crate::shared::own_servers;
use crate::state::{State, runtime};

const LENGTH: &str = r#"
name = "length"
[[source]]
topic = "in"
[[transform]]
name = "length"
plugin = "value_length.wasm"
[[sink]]
topic = "out"
"#;

const AWAY: Duration = Duration::from_secs(10);

/// Bytes of state and heads that a process has written.
fn written(node: &Node) -> f64 {
    node.metric("sluicegate_checkpoint_bytes_total")
}

fn with_own_zookeeper(zookeeper: &ZooKeeper, pipeline: &str) -> Deployment {
    Deployment::on(Servers { zookeeper: Some(zookeeper.connect()), ..Servers::shared() }, 3, pipeline)
}

#[test]
fn zookeeper_away_for_ten_seconds_pauses_state_and_costs_nothing() {
    let _turn = own_servers();
    let mut zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).unwrap();
    let deployment = with_own_zookeeper(&zookeeper, COUNT);
    let node = under_load(&deployment, 100, || {
        let mut node = deployment.start();
        node.wait_for("a commit", |node| (commits(node) > 0.0).then_some(()));
        zookeeper.kill().unwrap();
        node.wait_for_log("the metadata store is away");
        // What was under way has ended by now, one way or the other.
        std::thread::sleep(Duration::from_secs(1));
        // Bytes, not commits: one whose tasks were taken away meanwhile ends too, and counts, with nothing written.
        let (before, bytes) = (commits(&node), written(&node));
        assert!(bytes > 0.0);
        std::thread::sleep(AWAY);
        assert_eq!(written(&node), bytes, "nothing is committed without it");
        assert_eq!(node.get("/readyz").unwrap().0, 503);
        zookeeper.restart().unwrap();
        node.wait_for("commits to go on", |node| (commits(node) > before + 3.0).then_some(()));
        node.wait_until_ready();
        node
    });
    let mut node = node;
    deployment.wait_until_done(&mut node);
    node.stop();
    check_exact(&deployment);
}

#[test]
fn without_state_records_go_on_while_zookeeper_is_away() {
    let _turn = own_servers();
    let mut zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).unwrap();
    let deployment = with_own_zookeeper(&zookeeper, LENGTH);
    deployment.produce("in", records(30, 30));
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    zookeeper.kill().unwrap();
    node.wait_for_log("the metadata store is away");
    deployment.produce("in", records(300, 30));
    deployment.wait_until_done(&mut node);
    assert_eq!(deployment.read("out").len(), 330);
    node.stop();
}

#[test]
fn a_session_that_expires_is_replaced_and_no_record_counts_twice() {
    let _turn = own_servers();
    let zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).unwrap();
    let proxy = runtime().block_on(Proxy::start(&zookeeper.connect())).unwrap();
    let servers = Servers { zookeeper: Some(proxy.address()), ..Servers::shared() };
    let deployment = Deployment::on(servers, 3, COUNT);
    let observer = State::at(&zookeeper.connect(), &deployment);
    let mut node = under_load(&deployment, 100, || {
        let mut node = deployment.start();
        node.wait_for("a commit", |node| (commits(node) > 0.0).then_some(()));
        assert!(observer.get("/nodes/a").is_some());
        proxy.hold();
        node.wait_for("the end of the session", |_| observer.get("/nodes/a").is_none().then_some(()));
        proxy.cut();
        proxy.forward();
        node.wait_for_log("the node is signed on again");
        assert!(observer.get("/nodes/a").is_some());
        let before = commits(&node);
        node.wait_for("commits to go on", |node| (commits(node) > before + 3.0).then_some(()));
        node
    });
    deployment.wait_until_done(&mut node);
    node.stop();
    check_exact(&deployment);
}

#[test]
fn a_broker_that_restarts_under_load_loses_nothing() {
    let _turn = own_servers();
    let mut kafka = Kafka::start(KafkaOptions::default()).unwrap();
    let servers = Servers { kafka: kafka.bootstrap(), ..Servers::shared() };
    let deployment = Deployment::on(servers, 3, COUNT);
    let mut node = under_load(&deployment, 100, || {
        let mut node = deployment.start();
        node.wait_for("a commit", |node| (commits(node) > 0.0).then_some(()));
        kafka.kill().unwrap();
        node.wait_for_log("no kafka broker can be reached");
        kafka.restart().unwrap();
        let before = commits(&node);
        node.wait_for("commits to go on", |node| (commits(node) > before + 3.0).then_some(()));
        node
    });
    deployment.wait_until_done(&mut node);
    node.stop();
    check_exact(&deployment);
}

#[test]
fn a_state_entry_larger_than_zookeeper_takes_is_refused_with_its_size() {
    let deployment = Deployment::new(
        r#"
        name = "grows"
        [[source]]
        topic = "in"
        [[transform]]
        name = "grow"
        plugin = "guest_stateful.wasm"
        config = { how = "grow" }
        [[sink]]
        topic = "out"
        "#,
    );
    // Random, so that it does not compress.
    let portion = || Record::of("k", Alphanumeric.sample_string(&mut rand::rng(), 700_000));
    deployment.produce("in", [portion()]);
    deployment.run_through();
    let before = State::of(&deployment).heads().into_iter().map(|head| head.committed).collect::<Vec<_>>();
    deployment.produce("in", [portion()]);
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &["pipeline `grows` stopped", "1400004", "fit into the metadata store"]);
    let after = State::of(&deployment).heads().into_iter().map(|head| head.committed).collect::<Vec<_>>();
    assert_eq!(after, before, "nothing of it is written");
}
