//! Exactly-once from topic to topic, state included: what a reader of the sinks sees, and what becomes of a transaction that does
//! not end with a commit. Restarts, takeovers and outages are in their own modules, which check the same.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sluicegate_harness::kafka::{Kafka, KafkaOptions};

use crate::deployment::{Deployment, Servers};
use crate::records::Record;
use crate::restarts::{COUNT, at_least_once, check_exact, commits, killed_often, per_key, records, under_load};
use crate::shared::{SOON, own_servers};

const LENGTH: &str = r#"
name = "length"
[[source]]
topic = "in"
[[transform]]
name = "length"
plugin = "value_length.wasm"
[[sink]]
topic = "out"
[delivery]
commit-interval = "50ms"
"#;

#[test]
fn without_state_every_record_comes_out_once_however_often_the_process_is_killed() {
    let deployment = killed_often(LENGTH, 8);
    let given = deployment.read("in");
    deployment.wait_for_read("out", given.len());
    assert!(per_key(&deployment.read("out")) == per_key(&given), "output and input differ");
}

#[test]
fn a_producer_of_the_same_transactional_id_fences_the_thread_which_goes_on_from_what_kafka_says() {
    let deployment = Deployment::on(Servers::shared(), 1, COUNT);
    let mut node = under_load(&deployment, 100, || {
        let mut node = deployment.start();
        node.wait_for("a commit", |node| (commits(node) > 0.0).then_some(()));
        let thief: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &deployment.servers.kafka)
            .set("transactional.id", format!("{}/a/0", deployment.group()))
            .create()
            .unwrap();
        thief.init_transactions(SOON).unwrap();
        node.wait_for_log("asking kafka what was committed");
        let before = commits(&node);
        node.wait_for("commits to go on", |node| (commits(node) > before + 3.0).then_some(()));
        node
    });
    deployment.wait_until_done(&mut node);
    node.stop();
    check_exact(&deployment);
}

#[test]
fn a_partition_that_kafka_tells_no_offset_of_holds_up_no_other() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    deployment.wait_until_group_is_empty();
    // While a transaction has offsets of a partition, nobody is told which are committed.
    let foreign: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &deployment.servers.kafka)
        .set("transactional.id", format!("{}/foreign", deployment.group()))
        .create()
        .unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&deployment.topic("in"), 0, Offset::Offset(1)).unwrap();
    foreign.init_transactions(SOON).unwrap();
    foreign.begin_transaction().unwrap();
    let group = deployment.consumer().group_metadata().unwrap();
    foreign.send_offsets_to_transaction(&offsets, &group, SOON).unwrap();

    deployment.produce("in", records(300, 30));
    let given = deployment.read("in");
    let held_up = given.iter().filter(|record| record.partition == Some(0)).count() / 2;
    assert!(held_up > 0 && held_up < 300, "{held_up} records of the second half are in partition 0");
    let mut node = deployment.start();
    deployment.wait_for_output(&mut node, "out", given.len() - held_up);
    node.wait_for_log("waiting: read committed offsets");
    assert_eq!(deployment.read("out").len(), given.len() - held_up);
    foreign.abort_transaction(SOON).unwrap();
    deployment.wait_until_done(&mut node);
    node.stop();
    check_exact(&deployment);
}

#[test]
fn a_change_of_the_guarantee_keeps_the_state() {
    let at_least_once = at_least_once(COUNT);
    let deployment = Deployment::new(&at_least_once);
    for text in [COUNT, &at_least_once, COUNT, COUNT] {
        deployment.produce("in", records(300, 30));
        deployment.run_through();
        check_exact(&deployment);
        deployment.change(text);
    }
    // From a process that was killed, too: Kafka decides about what it had prepared.
    for text in [&at_least_once, COUNT] {
        deployment.produce("in", records(300, 30));
        let mut node = deployment.start();
        deployment.wait_until_done(&mut node);
        node.kill();
        deployment.change(text);
    }
    // Something to do, or it might be stopped before it has begun.
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    check_exact(&deployment);
}

#[test]
fn a_plugin_that_traps_leaves_nothing_open_for_readers_to_wait_for() {
    let deployment = Deployment::on(
        Servers::shared(),
        1,
        r#"
        name = "traps"
        [[source]]
        topic = "in"
        [[transform]]
        name = "guest"
        plugin = "guest_misbehaves.wasm"
        config = { how = "trap", on = "bad" }
        [[sink]]
        topic = "out"
        [delivery]
        commit-interval = "10s"
        "#,
    );
    deployment.produce("in", (0..3).map(|_| Record::keyless(0, "good")));
    let mut node = deployment.start();
    node.wait_for("records to go out", |node| (node.metric("sluicegate_records_out_total") >= 3.0).then_some(()));
    deployment.produce("in", [Record::keyless(0, "bad")]);
    node.wait_for_end().expect(1, &["transform `guest`", "partition 0 offset"]);
    assert_eq!(deployment.read("out").len(), 0, "of an interval that was not committed, nothing is visible");
    // A record behind the open transaction would not be read before its time-out of 15 s.
    let began = std::time::Instant::now();
    deployment.produce("out", [Record::keyless(0, "behind")]);
    deployment.wait_for_read("out", 1);
    assert!(began.elapsed() < Duration::from_secs(10), "readers waited {:?}", began.elapsed());
}

#[test]
fn a_broker_that_does_not_allow_the_time_out_is_named_with_what_to_do() {
    let _turn = own_servers();
    let kafka = Kafka::start(KafkaOptions::default().with("transaction.max.timeout.ms", "5000")).unwrap();
    let deployment = Deployment::on(Servers { kafka: kafka.bootstrap(), ..Servers::shared() }, 1, COUNT);
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &["kafka refuses the transaction", "transaction.timeout.ms", "guarantee = \"at-least-once\""]);
}
