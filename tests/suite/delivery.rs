//! What happens to records on their way: nothing that the plugin does not do. And where reading begins.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use sluicegate_harness::jars::{Distribution, class_path};

use crate::deployment::Deployment;
use crate::records::{Record, read_all};
use crate::restarts::{COUNT, at_least_once, check_exact, commits, records};
use crate::shared::{SOON, topic};

/// Passes records on as they are, unless their value is one of its words.
const SHAPES: &str = r#"
name = "pass"
[[source]]
topic = "in"
[[transform]]
name = "shapes"
plugin = "guest_shapes.wasm"
[[sink]]
topic = "out"
[[discard]]
output = "odd"
"#;

fn values(records: &[Record], partition: i32) -> Vec<String> {
    let in_partition = records.iter().filter(|record| record.partition == Some(partition));
    in_partition.map(|record| record.text().1).collect()
}

#[test]
fn keys_values_headers_and_timestamps_pass_unchanged() {
    let deployment = Deployment::new(SHAPES);
    let given = [
        Record::keyless(0, "no key").at(1_000),
        Record::of("key", "value").in_partition(2).at(1_700_000_000_123),
        Record::of("", "").in_partition(0).at(2),
        Record::of([0, 0xff, 0xfe], [0xff, 0, 1]).in_partition(1).at(3),
        Record { value: None, ..Record::of("tombstone", "") }.at(4),
        Record { value: None, ..Record::keyless(1, "") }.at(5),
        Record::of("headers", "x")
            .header("a", Some("1"))
            .header("n", None)
            .header("a", Some(""))
            .header("ä", Some("ü"))
            .at(6),
        Record::of("large", vec![b'x'; 900_000]).at(7),
    ];
    deployment.produce("in", given.clone());
    deployment.run_through();

    let strip = |record: &Record| Record { partition: None, ..record.clone() };
    let mut out: Vec<Record> = deployment.read("out").iter().map(strip).collect();
    out.sort_by_key(|record| record.timestamp);
    let mut expected: Vec<Record> = given.iter().map(strip).collect();
    expected.sort_by_key(|record| record.timestamp);
    assert_eq!(out, expected);
}

#[test]
fn records_of_a_partition_keep_their_order() {
    let deployment = Deployment::new(SHAPES);
    let number = |number: i32| Record::keyless(number % 3, number.to_string());
    deployment.produce("in", (0..30_000).map(number));
    deployment.run_through();
    let out = deployment.read("out");
    for partition in 0..3 {
        let expected: Vec<String> =
            (0..30_000).filter(|number| number % 3 == partition).map(|number| number.to_string()).collect();
        assert!(values(&out, partition) == expected, "partition {partition} is out of order");
    }
}

/// The partition of each key, as Kafka's own console producer chooses it.
fn partitions_by_java(bootstrap: &str, keys: &[String]) -> BTreeMap<String, i32> {
    let topic = topic(bootstrap, "java", 7);
    let mut java = Command::new("java")
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", &class_path(Distribution::Kafka).unwrap()])
        .args(["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", bootstrap, "--topic", &topic])
        .args(["--property", "parse.key=true", "--property", "key.separator=:"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines: String = keys.iter().map(|key| format!("{key}:x\n")).collect();
    java.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(java.wait().unwrap().success());
    read_all(bootstrap, &topic).iter().map(|record| (record.text().0, record.partition.unwrap())).collect()
}

#[test]
fn keyed_records_go_where_javas_client_sends_them() {
    let deployment = Deployment::on(crate::deployment::Servers::shared(), 7, SHAPES);
    let keys: Vec<String> = (0..300).map(|number| "k".repeat(number % 9) + &number.to_string()).collect();
    // They come from partitions that say nothing about their keys.
    let given = keys.iter().zip(0..).map(|(key, number)| Record::of(key, "x").in_partition(number % 7));
    deployment.produce("in", given);
    deployment.run_through();
    let chosen: BTreeMap<String, i32> =
        deployment.read("out").iter().map(|record| (record.text().0, record.partition.unwrap())).collect();
    assert_eq!(chosen, partitions_by_java(&deployment.servers.kafka, &keys));
}

#[test]
fn records_without_a_key_keep_their_partition_number() {
    let deployment = Deployment::new(SHAPES);
    deployment.produce("in", (0..30).map(|number| Record::keyless(number % 3, format!("{}", number % 3))));
    deployment.run_through();
    let out = deployment.read("out");
    assert_eq!(out.len(), 30);
    assert!(out.iter().all(|record| record.text().1 == record.partition.unwrap().to_string()));
}

/// Starts at the latest record, stops, and starts again behind new ones; returns how many came out.
fn started_at_the_latest(pipeline: &str) -> usize {
    let latest = pipeline.replace("topic = \"in\"", "topic = \"in\"\nstart = \"latest\"");
    let deployment = Deployment::new(&latest);
    let produce =
        |value| deployment.produce("in", (0..3).map(|partition| Record::of("k", value).in_partition(partition)));
    produce("before");
    let mut node = deployment.start();
    // Ready may mean: of no task yet.
    node.wait_for("all tasks", |node| (node.metric("sluicegate_tasks_running") >= 3.0).then_some(()));
    produce("while");
    deployment.wait_until_done(&mut node);
    node.stop();
    produce("after");
    deployment.run_through();
    deployment.read("out").len()
}

#[test]
fn start_at_the_latest_record_counts_only_where_the_group_has_no_offset() {
    assert_eq!(started_at_the_latest(SHAPES), 6);
}

#[test]
fn start_at_the_latest_record_counts_only_where_there_is_no_head() {
    assert_eq!(started_at_the_latest(COUNT), 6);
}

#[test]
fn start_at_a_timestamp_reads_from_the_first_record_at_it() {
    let from = SHAPES.replace("topic = \"in\"", "topic = \"in\"\nstart = 2026-01-31T12:00:05Z");
    let deployment = Deployment::new(&from);
    const NOON: i64 = 1_769_860_800_000;
    let records = (1..=9).map(|second| Record::keyless(0, second.to_string()).at(NOON + second * 1000));
    deployment.produce("in", records);
    deployment.run_through();
    assert_eq!(values(&deployment.read("out"), 0), ["5", "6", "7", "8", "9"]);
}

fn set_offsets(consumer: &BaseConsumer, topic: &str, partitions: i32, offset: i64) {
    let mut offsets = TopicPartitionList::new();
    for partition in 0..partitions {
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    }
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
}

#[test]
fn without_state_an_offset_that_an_operator_sets_is_where_it_goes_on() {
    let deployment = Deployment::new(SHAPES);
    deployment.produce("in", (0..9).map(|number| Record::keyless(0, number.to_string())));
    deployment.run_through();
    let topic = deployment.topic("in");
    deployment.wait_until_group_is_empty();
    let consumer = deployment.consumer();
    consumer.fetch_metadata(Some(&topic), SOON).unwrap();
    set_offsets(&consumer, &topic, 1, 7);
    deployment.run_through();
    assert_eq!(values(&deployment.read("out"), 0)[9..], ["7", "8"]);
}

#[test]
fn many_bytes_are_committed_before_the_interval_is_over() {
    let often = at_least_once(COUNT).replace("\"50ms\"", "\"60s\"\ncommit-bytes = \"4KiB\"");
    let deployment = Deployment::new(&often);
    deployment.produce("in", records(6_000, 30));
    let mut node = deployment.start();
    // By the interval they would take minutes.
    node.wait_for("three commits", |node| (commits(node) >= 3.0).then_some(()));
    node.wait_for("all records", |node| (node.metric("sluicegate_records_in_total") >= 6_000.0).then_some(()));
    node.stop();
    check_exact(&deployment);
}
