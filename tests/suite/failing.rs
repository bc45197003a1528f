//! Records that a plugin rejects or fails on: they are found and put aside, everything else is delivered, in order, once.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use crate::deployment::{Deployment, Servers};
use crate::records::Record;
use crate::restarts::{at_least_once, count_then, killed_often, records};
use crate::shared::{alter_topic, wait_for};
use crate::state::State;

/// Goes wrong as HOW says on records whose value begins with `bad`, with these lines more.
fn misbehaves(how: &str, more: &str) -> String {
    format!(
        r#"
name = "failing"
[[source]]
topic = "in"
[[transform]]
name = "guest"
plugin = "guest_misbehaves.wasm"
config = {{ how = "{how}", on = "bad", number = 2000000 }}
[[sink]]
topic = "out"
[delivery]
commit-interval = "100ms"
[limits]
memory = "16MiB"
time-per-batch = "200ms"
[errors]
{more}
"#
    )
}

const LETTERS: &str = "dead-letter-topic = \"dead\"";

/// Counts, and behind it fails where key and count end in 3.
fn counts_and_fails() -> String {
    count_then("how = \"trap-on-threes\"", &format!("[errors]\n{LETTERS}\n"))
}

fn headers(record: &Record) -> BTreeMap<String, String> {
    let text = |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or(b"null")).into_owned();
    record.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Every seventh of 300 records is bad; the values number them.
fn numbered() -> Vec<Record> {
    let value = |number: i32| if number % 7 == 3 { format!("bad {number}") } else { format!("good {number}") };
    (0..300).map(|number| Record::keyless(number % 3, value(number))).collect()
}

/// The values of one partition.
fn values(records: &[Record], partition: i32) -> Vec<String> {
    let of = records.iter().filter(|record| record.partition == Some(partition));
    of.map(|record| record.text().1).collect()
}

/// Checks that the good records came out in order, and the bad ones as dead letters.
fn check_split(deployment: &Deployment, exactly: bool) {
    let given = deployment.read("in");
    let (out, dead) = (deployment.read("out"), deployment.read("dead"));
    for partition in 0..3 {
        let (bad, good): (Vec<String>, Vec<String>) =
            values(&given, partition).into_iter().partition(|value| value.starts_with("bad"));
        let (mut out, mut dead) = (values(&out, partition), values(&dead, partition));
        if !exactly {
            // Repetitions go back to an earlier record; the last ones are whole.
            for list in [&mut out, &mut dead] {
                let mut seen = BTreeSet::new();
                list.retain(|value| seen.insert(value.clone()));
            }
        }
        assert_eq!((out, dead), (good, bad), "partition {partition}");
    }
}

#[test]
fn rejected_records_become_dead_letters_as_they_were() {
    let deployment = Deployment::new(&misbehaves("reject", LETTERS));
    let bad = Record::of("k", "bad one").header("trace", Some("7")).header("none", None);
    let bad = bad.header("sluicegate.reason", Some("of an earlier life"));
    deployment.produce("in", [Record::of("k", "good"), bad.at(1_700_000_000_123)]);
    deployment.run_through();
    let dead = deployment.read("dead");
    let [letter] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!(letter.text(), ("k".to_owned(), "bad one".to_owned()));
    assert_eq!(&letter.headers[..2], [("trace".to_owned(), Some(b"7".to_vec())), ("none".to_owned(), None)]);
    let mut headers = headers(letter);
    let source = deployment.read("in").iter().find(|record| record.text().1 == "bad one").unwrap().partition.unwrap();
    let digest = headers.remove("sluicegate.plugin-digest").unwrap();
    assert_eq!(digest.len(), 64, "{digest}");
    let topic = deployment.topic("in");
    let expected = [
        ("trace", "7"),
        ("none", "null"),
        ("sluicegate.pipeline", "failing"),
        ("sluicegate.transform", "guest"),
        ("sluicegate.plugin", "guest-misbehaves"),
        ("sluicegate.plugin-version", "0.1.0"),
        ("sluicegate.topic", topic.as_str()),
        ("sluicegate.partition", &source.to_string()),
        ("sluicegate.offset", "1"),
        ("sluicegate.timestamp", "1700000000123"),
        ("sluicegate.error", "rejected"),
        ("sluicegate.reason", "told to reject"),
        ("sluicegate.attempt", "1"),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert!(letter.timestamp.unwrap() > 1_700_000_000_123, "retention counts from when it became a dead letter");
    assert_eq!(deployment.read("out").len(), 1);
}

#[test]
fn records_that_a_plugin_fails_on_are_found_and_everything_else_is_delivered_in_order() {
    let failures = [
        ("trap", "trap", "unreachable"),
        ("panic", "trap", "told to panic on"),
        ("recurse", "trap", "stack"),
        ("exit", "trap", "ends no plugin"),
        ("memory-hog", "memory", "16.0 MiB"),
        ("big-output", "misuse", "emits more than"),
        ("reject", "rejected", "told to reject"),
        ("large", "output-refused", "message.max.bytes"),
    ];
    for (how, kind, why) in failures {
        for exactly in [true, false] {
            let pipeline = misbehaves(how, LETTERS);
            let pipeline = if exactly { pipeline } else { at_least_once(&pipeline) };
            println!("{how}, exactly-once: {exactly}");
            let deployment = Deployment::new(&pipeline);
            deployment.produce("in", numbered());
            deployment.run_through();
            check_split(&deployment, exactly);
            for letter in deployment.read("dead") {
                let headers = headers(&letter);
                assert_eq!(headers["sluicegate.error"], kind);
                assert!(headers["sluicegate.reason"].contains(why), "{}", headers["sluicegate.reason"]);
            }
        }
    }
}

#[test]
fn a_record_that_a_plugin_never_returns_from_is_found() {
    for exactly in [true, false] {
        let pipeline = misbehaves("loop", LETTERS);
        let deployment = Deployment::new(&if exactly { pipeline } else { at_least_once(&pipeline) });
        let bad = |number: i32| if number % 60 == 31 { "bad" } else { "good" };
        deployment
            .produce("in", (0..180).map(|number| Record::keyless(number % 3, format!("{} {number}", bad(number)))));
        deployment.run_through();
        check_split(&deployment, exactly);
        assert!(deployment.read("dead").iter().all(|letter| headers(letter)["sluicegate.error"] == "deadline"));
    }
}

#[test]
fn output_that_the_broker_refuses_for_its_size_is_found() {
    for exactly in [true, false] {
        let pipeline = misbehaves("large", LETTERS).replace("2000000", "20000");
        let deployment = Deployment::new(&if exactly { pipeline } else { at_least_once(&pipeline) });
        alter_topic(&deployment.servers.kafka, &deployment.topic("out"), "max.message.bytes", "10000");
        let bad = |number: i32| if number % 30 == 16 { "bad" } else { "good" };
        deployment
            .produce("in", (0..60).map(|number| Record::keyless(number % 3, format!("{} {number}", bad(number)))));
        deployment.run_through();
        check_split(&deployment, exactly);
        assert!(deployment.read("dead").iter().all(|letter| headers(letter)["sluicegate.error"] == "output-refused"));
    }
}

#[test]
fn a_dead_letter_that_is_refused_stops_the_pipeline() {
    let deployment = Deployment::new(&misbehaves("trap", LETTERS));
    alter_topic(&deployment.servers.kafka, &deployment.topic("dead"), "max.message.bytes", "100");
    deployment.produce("in", [Record::keyless(1, "good"), Record::keyless(1, "bad")]);
    let dead = deployment.topic("dead");
    deployment.start().wait_for_end().expect(1, &["output was refused", &dead]);
    assert_eq!(deployment.read("out").len(), 0);
}

#[test]
fn what_a_transform_further_down_fails_on_is_kept_as_that_transform_saw_it() {
    let deployment = Deployment::new(&counts_and_fails());
    deployment.produce("in", records(600, 60));
    deployment.run_through();
    assert!(State::of(&deployment).counts().values().all(|count| *count == 10));
    let dead = deployment.read("dead");
    assert_eq!(dead.len(), 6);
    assert!(dead.iter().all(|letter| letter.text().1 == "3" && headers(letter)["sluicegate.transform"] == "guest"));
    assert_eq!(deployment.read("out").len(), 594);
}

#[test]
fn what_a_failing_record_had_changed_in_the_state_is_taken_back() {
    let pipeline = misbehaves("grow", LETTERS)
        .replace("guest_misbehaves", "guest_stateful")
        .replace(r#", on = "bad", number = 2000000"#, "");
    for exactly in [true, false] {
        let deployment = Deployment::new(&if exactly { pipeline.clone() } else { at_least_once(&pipeline) });
        // Each key has 30 values of one letter, every fifth of them bad.
        let value = |number: i32| if number / 10 % 5 == 3 { "bad" } else { "x" };
        deployment.produce("in", (0..300).map(|number| Record::of(format!("k{}", number % 10), value(number))));
        deployment.run_through();
        let mut lengths: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for record in deployment.read("out") {
            lengths.entry(record.text().0).or_default().insert(record.text().1.parse().unwrap());
        }
        assert_eq!(lengths.len(), 10);
        assert!(lengths.values().all(|lengths| lengths.iter().copied().eq(1..=24)), "{lengths:?}");
        assert!(deployment.read("dead").len() >= 60);
        let state = State::of(&deployment);
        let kept = (0..3).flat_map(|partition| state.entries(partition, "guest", "grown"));
        let kept: Vec<String> = kept.map(|(_, text)| postcard::from_bytes(&text).unwrap()).collect();
        assert_eq!(kept, vec!["x".repeat(24); 10]);
    }
}

/// Counts that came out, with those among the dead letters: each once.
fn check_counts(deployment: &Deployment, exactly: bool) {
    let expected = crate::restarts::per_key(&deployment.read("in"));
    assert!(State::of(deployment).counts() == expected, "state and input differ");
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (topic, dead) in [("out", false), ("dead", true)] {
        for record in deployment.read(topic) {
            let (key, value) = record.text();
            assert_eq!(key.ends_with('3') && value.ends_with('3'), dead, "{topic}: {key} {value}");
            found.entry(key).or_default().push(value.parse().unwrap());
        }
    }
    for (key, counts) in &mut found {
        counts.sort_unstable();
        if !exactly {
            counts.dedup();
        }
        assert!(*counts == (1..=expected[key]).collect::<Vec<_>>(), "{key}: {counts:?}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn nothing_is_lost_or_repeated_when_processes_are_killed_while_they_look_for_failing_records() {
    let deployment = killed_often(&counts_and_fails(), 6);
    let ends = deployment.read("in").len();
    wait_for("what was open to end", || {
        (deployment.read("out").len() + deployment.read("dead").len() >= ends).then_some(())
    });
    check_counts(&deployment, true);
}

#[test]
fn nothing_is_lost_at_least_once_when_processes_are_killed_while_they_look_for_failing_records() {
    check_counts(&killed_often(&at_least_once(&counts_and_fails()), 4), false);
}

#[test]
fn failing_records_that_are_skipped_are_counted() {
    let deployment = Deployment::new(&misbehaves("trap", "on-error = \"skip\""));
    deployment.produce("in", numbered());
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    let bad = numbered().iter().filter(|record| record.text().1.starts_with("bad")).count();
    // Some may have been put aside in a transaction that was aborted.
    assert!(node.metric("sluicegate_records_failed_total") as usize >= bad);
    assert!(node.metric("sluicegate_guest_failures_total") as usize > bad);
    node.wait_for_log("put aside a record that the plugin fails on: it trapped");
    node.stop();
    assert_eq!(deployment.read("out").len(), 300 - bad);
}

#[test]
fn a_plugin_that_fails_on_everything_stops_its_pipeline_and_fills_no_topic() {
    let deployment = Deployment::new(&misbehaves("panic", &format!("{LETTERS}\ngive-up-after = 20")));
    deployment.produce("in", (0..100).map(|number| Record::keyless(0, format!("bad {number}"))));
    let ended = deployment.start().wait_for_end();
    ended.expect(1, &["transform `guest` fails on each of 20 records in a row", "told to panic", "give-up-after"]);
    assert_eq!(deployment.read("dead").len(), 0);
}

#[test]
fn a_plugin_that_leaks_is_started_anew_and_no_record_is_blamed() {
    let leaks = misbehaves("leak", LETTERS).replace("2000000", "3000").replace("on = \"bad\"", "on = \"\"");
    let deployment = Deployment::new(&leaks);
    deployment.produce("in", (0..20_000).map(|number| Record::keyless(0, number.to_string())));
    deployment.run_through();
    assert_eq!(values(&deployment.read("out"), 0), (0..20_000).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(deployment.read("dead").len(), 0);

    let often = leaks.replace("3000", "3");
    let deployment = Deployment::new(&often);
    deployment.produce("in", (0..2_000).map(|number| Record::keyless(0, number.to_string())));
    deployment.start().wait_for_end().expect(1, &["of which no record fails by itself", "unreachable"]);
    assert_eq!(deployment.read("dead").len(), 0);
}

#[test]
fn other_tasks_of_the_thread_commit_while_one_looks_for_records_that_take_too_long() {
    let deployment = Deployment::on(Servers::shared(), 2, &misbehaves("loop", LETTERS));
    let bad = |number: i32| if number % 10 == 5 { "bad" } else { "good" };
    deployment.produce("in", (0..200).map(|number| Record::keyless(0, bad(number))));
    let mut command = deployment.run_command("a");
    command.args(["--worker-threads", "1"]);
    let mut node = deployment.spawn(command);
    node.wait_for("a first failure", |node| (node.metric("sluicegate_guest_failures_total") >= 1.0).then_some(()));
    deployment.produce("in", (0..100).map(|number| Record::keyless(1, number.to_string())));
    node.wait_for("the other task", |_| (values(&deployment.read("out"), 1).len() == 100).then_some(()));
    assert!(deployment.read("dead").len() < 20, "the search was over too soon to tell");
    node.kill();
}
