//! Plugins that go wrong in a running pipeline: it stops with what happened and where, and nothing of the batch stays.
//!
//! What each failure is to the engine is tested in [`crate::engine`]; here, what becomes of the pipeline and of its state.
#![allow(clippy::unwrap_used)]

use crate::deployment::Deployment;
use crate::records::Record;
use crate::restarts::{check_exact, count_then, records};
use crate::state::State;

/// Goes wrong as `how` says on records whose value begins with `bad`.
fn misbehaves(how: &str) -> Deployment {
    Deployment::new(&format!(
        r#"
        name = "misbehaves"
        [[source]]
        topic = "in"
        [[transform]]
        name = "guest"
        plugin = "guest_misbehaves.wasm"
        config = {{ how = "{how}", on = "bad" }}
        [[sink]]
        topic = "out"
        [limits]
        memory = "16MiB"
        "#
    ))
}

/// Counts, and then goes wrong on eleventh records: keyed-count puts numbers there, so it stands behind.
fn goes_wrong_behind_counts(how: &str) -> String {
    count_then(&format!("how = \"{how}\", on = \"11\""), "")
}

#[test]
fn a_guest_that_goes_wrong_stops_its_pipeline_with_where_and_why() {
    let failures = [
        ("loop", "time"),
        ("memory-hog", "memory"),
        ("trap", "unreachable"),
        ("panic", "told to panic"),
        ("recurse", "stack"),
        ("exit", "exit"),
        ("big-output", "emits more than"),
        ("fatal", "told to stop"),
    ];
    for (how, why) in failures {
        let deployment = misbehaves(how);
        deployment.produce("in", [Record::keyless(1, "good"), Record::keyless(1, "bad")]);
        let ended = deployment.start().wait_for_end();
        ended.expect(1, &["pipeline `misbehaves` stopped", "transform `guest`", "partition 1 offset", why]);
    }
}

#[test]
fn a_guest_that_lies_stops_its_pipeline() {
    for how in ["sum", "negative-length", "count", "no-such-cause", "reject-nobody", "emit-in-flush"] {
        let deployment = Deployment::new(&format!(
            r#"
            name = "lies"
            [[source]]
            topic = "in"
            [[transform]]
            name = "guest"
            plugin = "guest_lies.wasm"
            config = {{ how = "{how}" }}
            [[sink]]
            topic = "out"
            "#
        ));
        deployment.produce("in", [Record::keyless(1, "a"), Record::keyless(1, "b")]);
        let ended = deployment.start().wait_for_end();
        ended.expect(1, &["pipeline `lies` stopped", "transform `guest`", "partition 1"]);
    }
}

#[test]
fn a_plugin_that_does_not_open_is_bad_input() {
    misbehaves("config-fails").start().wait_for_end().expect(64, &["how", "told to fail", "pipeline.toml:"]);
    misbehaves("open-traps").start().wait_for_end().expect(64, &["transform `guest` does not start"]);
    misbehaves("unheard-of").start().wait_for_end().expect(64, &["unheard-of", "pipeline.toml:"]);
}

#[test]
fn a_failed_batch_leaves_no_state_behind() {
    let deployment = Deployment::new(&goes_wrong_behind_counts("trap"));
    // Ten of each of 30 keys, committed; then an eleventh of one of them.
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    let before = State::of(&deployment);
    let (counts, offsets) =
        (before.counts(), before.heads().into_iter().map(|head| head.committed).collect::<Vec<_>>());
    deployment.produce("in", [Record::of("key-3", "x")]);
    deployment.start().wait_for_end().expect(1, &["transform `guest`"]);
    let after = State::of(&deployment);
    assert_eq!(after.counts(), counts);
    assert_eq!(after.heads().into_iter().map(|head| head.committed).collect::<Vec<_>>(), offsets);

    // A plugin that can do with it goes on from there, and counts the record once.
    deployment.change(&goes_wrong_behind_counts("chatter"));
    deployment.run_through();
    assert_eq!(State::of(&deployment).counts()["key-3"], 11);
    check_exact(&deployment);
}

#[test]
fn a_record_that_is_rejected_stops_with_its_coordinates() {
    let deployment = misbehaves("reject");
    deployment.produce("in", [Record::keyless(1, "good"), Record::keyless(1, "bad"), Record::keyless(1, "good")]);
    let topic = deployment.topic("in");
    let coordinates = format!("topic {topic} partition 1 offset 1: told to reject");
    deployment.start().wait_for_end().expect(1, &["transform `guest` rejects", &coordinates, "on-error = \"skip\""]);
}

#[test]
fn records_that_are_skipped_are_counted_and_logged() {
    let deployment = Deployment::new(
        r#"
        name = "skips"
        [[source]]
        topic = "in"
        [[transform]]
        name = "guest"
        plugin = "guest_misbehaves.wasm"
        config = { how = "reject", on = "bad" }
        [[sink]]
        topic = "out"
        [errors]
        on-error = "skip"
        "#,
    );
    let given = (0..200).map(|number| Record::keyless(number % 3, if number % 4 == 0 { "bad" } else { "good" }));
    deployment.produce("in", given);
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    assert_eq!(node.metric("sluicegate_records_rejected_total") as u64, 50);
    assert_eq!(node.metric("sluicegate_records_in_total") as u64, 200);
    assert_eq!(node.metric("sluicegate_records_out_total") as u64, 150);
    let said = node.log().matches("put aside a record that was rejected").count();
    assert!((1..50).contains(&said), "logged {said} times: with sampling");
    node.stop();
    assert_eq!(deployment.read("out").len(), 150);
}

#[test]
fn a_plugin_that_asks_for_patience_is_waited_for_and_loses_nothing() {
    let deployment = Deployment::new(&goes_wrong_behind_counts("transient"));
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    deployment.produce("in", [Record::of("key-3", "x"), Record::of("key-3", "x")]);
    let mut node = deployment.start();
    node.wait_for("three tries", |node| (node.metric("sluicegate_guest_retries_total") >= 3.0).then_some(()));
    node.wait_for_log("told to wait");
    // It waits, and still stops when it is told to; nothing of the tries stays.
    node.stop();
    assert_eq!(State::of(&deployment).counts()["key-3"], 10);
    deployment.change(&goes_wrong_behind_counts("chatter"));
    deployment.run_through();
    check_exact(&deployment);
}

#[test]
fn a_pipeline_that_stopped_leaves_its_group_at_once() {
    let deployment = misbehaves("fatal");
    deployment.produce("in", [Record::keyless(0, "bad")]);
    deployment.start().wait_for_end().expect(1, &["told to stop"]);
    let consumer = deployment.consumer();
    let list = rdkafka::consumer::Consumer::fetch_group_list(&consumer, Some(&deployment.group()), crate::shared::SOON)
        .unwrap();
    assert!(list.groups().iter().all(|group| group.members().is_empty()));
}

#[test]
fn state_beyond_its_limit_stops_the_pipeline_and_says_which_limit() {
    let deployment = Deployment::new(
        r#"
        name = "hog"
        [[source]]
        topic = "in"
        [[transform]]
        name = "hog"
        plugin = "guest_stateful.wasm"
        config = { how = "hog" }
        [[sink]]
        topic = "out"
        [limits]
        state-bytes = "512KiB"
        "#,
    );
    // Each record adds a MiB.
    deployment.produce("in", (0..20).map(|_| Record::keyless(0, "x")));
    deployment
        .start()
        .wait_for_end()
        .expect(1, &["transform `hog` fails on the record at", "its state in this task would grow beyond 512.0 KiB"]);
}
