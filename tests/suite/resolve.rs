//! What a task resumes from when Kafka and its head do not agree: every row of the table that can be brought about, with the
//! real program; and heads and chunks that cannot be used. Nothing here is guessed: it goes on or stops with both sides named.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::commands::done;
use crate::deployment::{Deployment, Servers};
use crate::records::Record;
use crate::restarts::{COUNT, check_exact, per_key, records};
use crate::state::State;

/// A pipeline without state.
pub(crate) const LENGTH: &str = r#"
name = "length"
[[source]]
topic = "in"
[[transform]]
name = "length"
plugin = "value_length.wasm"
[[sink]]
topic = "out"
"#;

/// Where a chunk has its format version, behind four bytes that say what it is.
const CHUNK_FORMAT_AT: usize = 4;

/// A counting pipeline that has run once and stopped, with nobody left in its group.
fn counted() -> Deployment {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    deployment.wait_until_group_is_empty();
    deployment
}

fn admin(deployment: &Deployment) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &deployment.servers.kafka).create().unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn delete_group(deployment: &Deployment) {
    let (admin, group) = (admin(deployment), deployment.group());
    block_on(admin.delete_groups(&[&group], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
}

fn add_partitions(deployment: &Deployment, topic: &str, count: usize) {
    let (admin, topic) = (admin(deployment), deployment.topic(topic));
    let new = NewPartitions::new(&topic, count);
    block_on(admin.create_partitions(&[new], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
}

/// Sets the group's offsets of the source, as an operator would: without metadata.
fn reset_offsets(deployment: &Deployment, offset: i64) {
    let topic = deployment.topic("in");
    let positions = HashMap::from_iter((0..3).map(|partition| ((topic.clone(), partition), Offset::Offset(offset))));
    deployment.consumer().commit(&TopicPartitionList::from_topic_map(&positions).unwrap(), CommitMode::Sync).unwrap();
}

#[test]
fn a_head_that_is_missing_while_kafka_names_its_manifest_stops_the_task() {
    let deployment = counted();
    let state = State::of(&deployment);
    state.delete(&state.path(1).head());
    let task = state.task(1).to_string();
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &[&task, "kafka's consumer group:", "head:", "that the head does not know"]);
}

#[test]
fn a_head_restored_from_an_old_backup_stops_the_task_and_names_both_sides() {
    let deployment = counted();
    let state = State::of(&deployment);
    let backup = state.get(&state.path(0).head()).unwrap().data;
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    let newer = state.head(0).unwrap().committed;
    deployment.wait_until_group_is_empty();
    state.set(&state.path(0).head(), backup);
    let older = state.head(0).unwrap().committed;
    assert!(older.id.epoch < newer.id.epoch);
    let ended = deployment.start().wait_for_end();
    let task = state.task(0).to_string();
    ended.expect(1, &[&task, &newer.id.to_string(), &older.id.to_string(), "newer than the head's"]);
}

#[test]
fn offsets_that_an_operator_resets_yield_to_the_head() {
    let deployment = counted();
    reset_offsets(&deployment, 0);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    check_exact(&deployment);
    assert_eq!(deployment.read("out").len(), 600, "nothing is read twice");
}

#[test]
fn after_a_crash_a_group_that_is_deleted_stops_the_pipeline_until_an_operator_accepts_the_head() {
    let deployment = Deployment::new(COUNT);
    let mut node = deployment.start();
    for _ in 0..3 {
        deployment.produce("in", records(300, 30));
        deployment.wait_until_done(&mut node);
    }
    node.kill();
    deployment.wait_until_group_is_empty();
    delete_group(&deployment);
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &["kafka decides", "sluicegate state accept count --task"]);
    let shown = done(&deployment, &["state", "accept", "count"]);
    assert!(shown.contains("no offset") && shown.contains("--head or --kafka"), "{shown}");
    let refused = deployment.command(&["state", "accept", "count", "--kafka"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(64) && said.contains("kafka has no offset"), "{said}");
    let accepted = done(&deployment, &["state", "accept", "count", "--head"]);
    assert!(accepted.contains("goes on with the state of"), "{accepted}");
    let shown = done(&deployment, &["state", "accept", "count"]);
    assert!(!shown.contains("--head or --kafka"), "{shown}");
    let state = State::of(&deployment);
    deployment.run_through();
    assert_eq!(state.counts(), per_key(&deployment.read("in")));
}

#[test]
fn a_group_that_is_deleted_yields_to_the_head() {
    let deployment = counted();
    delete_group(&deployment);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    check_exact(&deployment);
}

#[test]
fn without_state_a_group_that_is_deleted_stops_the_pipeline_with_the_command_to_use() {
    let deployment = Deployment::new(LENGTH);
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    deployment.wait_until_group_is_empty();
    delete_group(&deployment);
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &["has no offset any more", "sluicegate state reset length --task"]);
    // What it says to do works.
    done(&deployment, &["state", "reset", "length", "--from", "earliest"]);
    deployment.run_through();
    assert_eq!(deployment.read("out").len(), 60);
}

#[test]
fn a_topic_with_another_number_of_partitions_than_the_state_stops_the_pipeline() {
    let deployment = counted();
    add_partitions(&deployment, "in", 5);
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &["had 3 partitions", "has 5 now"]);
}

#[test]
fn a_topic_that_grows_while_it_is_read_is_reported_and_the_rest_goes_on() {
    let deployment = Deployment::new(COUNT);
    // Looked for every half second instead of every five minutes.
    let file = deployment.path("sluicegate.toml");
    let cluster = fs::read_to_string(&file).unwrap();
    let often = cluster.replace("[kafka]\n", "[kafka]\ntopic.metadata.refresh.interval.ms = 500\n");
    fs::write(&file, often).unwrap();
    let mut node = deployment.start();
    deployment.produce("in", (0..3).map(|partition| Record::of("k", "x").in_partition(partition)));
    deployment.wait_until_done(&mut node);
    add_partitions(&deployment, "in", 5);
    node.wait_for_log("the topic has got more partitions");
    deployment.produce("in", (0..5).map(|partition| Record::of("k", "x").in_partition(partition)));
    deployment.wait_for_output(&mut node, "out", 6);
    node.stop();
    assert_eq!(deployment.read("out").len(), 6, "records of the new ones wait");
}

#[test]
fn without_state_new_partitions_are_read_from_their_start() {
    let deployment = Deployment::new(LENGTH);
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    add_partitions(&deployment, "in", 5);
    deployment.produce("in", [Record::keyless(4, "new")]);
    deployment.run_through();
    assert!(deployment.read("out").iter().any(|record| record.text().1 == "new,3"));
}

#[test]
fn sources_with_different_numbers_of_partitions_are_refused() {
    let two = LENGTH
        .replace("[[transform]]", "[[source]]\ntopic = \"more\"\n[[transform]]")
        .replace("value_length", "guest_pairs");
    let deployment = Deployment::on(Servers::shared(), 3, &two);
    add_partitions(&deployment, "more", 4);
    let ended = deployment.start().wait_for_end();
    ended.expect(64, &["equal numbers of partitions", "in has 3", "more has 4"]);
}

/// The first chunk of a task's committed state.
fn a_chunk(state: &State, partition: u32) -> (String, String) {
    let name = state.head(partition).unwrap().committed.chunks[0];
    (name.to_string(), state.path(partition).chunk(name))
}

#[test]
fn a_damaged_chunk_is_named_with_its_task_and_epoch() {
    let deployment = counted();
    let state = State::of(&deployment);
    let (name, path) = a_chunk(&state, 2);
    let mut data = state.get(&path).unwrap().data.to_vec();
    let middle = data.len() / 2;
    data[middle] ^= 0x40;
    state.set(&path, data);
    let epoch = state.head(2).unwrap().committed.id.epoch;
    let words = format!("task {}, epoch {epoch}: chunk {name} cannot be used", state.task(2));
    deployment.start().wait_for_end().expect(1, &[&words]);
}

#[test]
fn a_missing_chunk_is_named_with_its_task_and_epoch() {
    let deployment = counted();
    let state = State::of(&deployment);
    let (name, path) = a_chunk(&state, 2);
    state.delete(&path);
    let epoch = state.head(2).unwrap().committed.id.epoch;
    let words = format!("task {}, epoch {epoch}: chunk {name} cannot be used", state.task(2));
    deployment.start().wait_for_end().expect(1, &[&words, "missing"]);
}

#[test]
fn a_chunk_of_another_task_is_not_taken_for_its_own() {
    let deployment = counted();
    let state = State::of(&deployment);
    let (_, other) = a_chunk(&state, 1);
    let (name, path) = a_chunk(&state, 2);
    state.set(&path, state.get(&other).unwrap().data);
    deployment.start().wait_for_end().expect(1, &[&format!("chunk {name} cannot be used"), "digest"]);
}

#[test]
fn a_newer_format_of_a_head_is_refused_by_its_number() {
    let deployment = counted();
    let state = State::of(&deployment);
    let path = state.path(1).head();
    let mut head: Value = serde_json::from_slice(&state.get(&path).unwrap().data).unwrap();
    head["format"] = 99.into();
    state.set(&path, head.to_string());
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &[&state.task(1).to_string(), "format version 99", "use the version that wrote it"]);
}

#[test]
fn a_newer_format_of_a_chunk_is_refused_by_its_number() {
    let deployment = counted();
    let state = State::of(&deployment);
    let (name, path) = a_chunk(&state, 0);
    let mut data = state.get(&path).unwrap().data.to_vec();
    data[CHUNK_FORMAT_AT] = 99;
    state.set(&path, data);
    let words = format!("task {}", state.task(0));
    deployment.start().wait_for_end().expect(1, &[&words, &name, "99"]);
}

#[test]
fn a_newer_layout_of_the_namespace_is_refused() {
    let deployment = counted();
    let state = State::of(&deployment);
    state.set("/format", "99");
    deployment.start().wait_for_end().expect(1, &["layout version there is `99`"]);
}
