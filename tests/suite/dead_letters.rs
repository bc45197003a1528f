//! What is done about dead letters: listed, shown, processed again where they failed, discarded.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::commands::{done, fails};
use crate::deployment::Deployment;
use crate::records::Record;
use crate::restarts::{at_least_once, count_then, records};
use crate::state::State;

const LETTERS: &str = "[errors]\ndead-letter-topic = \"dead\"\ngive-up-after = 1000\n";

/// Counts by key, and behind it goes wrong as `how` says on counts that begin with 3.
fn counts(how: &str, more: &str) -> String {
    count_then(&format!("how = \"{how}\", on = \"3\""), more)
}

/// Without state.
const WORDS: &str = r#"
name = "words"
[[source]]
topic = "in"
[[transform]]
name = "guest"
plugin = "guest_misbehaves.wasm"
config = { how = "HOW", on = "bad" }
[[sink]]
topic = "out"
[errors]
dead-letter-topic = "dead"
"#;

fn with(pipeline: &str, how: &str) -> String {
    pipeline.replace("HOW", how)
}

fn list(deployment: &Deployment, more: &[&str]) -> Vec<Value> {
    let arguments = [&["dlq", "list", &deployment.pipeline, "--json"], more].concat();
    serde_json::from_str(&done(deployment, &arguments)).unwrap()
}

fn places(letters: &[Value]) -> Vec<String> {
    letters.iter().map(|letter| letter["letter"].as_str().unwrap().to_owned()).collect()
}

/// Replays and waits; what is printed by a command that ends with `code`.
fn replay(deployment: &Deployment, code: i32, which: &[&str]) -> String {
    let arguments = [&["dlq", "replay", &deployment.pipeline], which, &["--wait"]].concat();
    let output = deployment.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Records per key and value that came out.
fn came_out(deployment: &Deployment) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    deployment.read("out").iter().for_each(|record| *counts.entry(record.text()).or_default() += 1);
    counts
}

#[test]
fn after_a_fix_dead_letters_go_through_where_they_failed_and_count_nothing_twice() {
    for exactly in [true, false] {
        let guarantee = |pipeline: String| match exactly {
            true => pipeline,
            false => at_least_once(&pipeline),
        };
        let deployment = Deployment::new(&guarantee(counts("trap", LETTERS)));
        deployment.produce("in", records(120, 30));
        deployment.run_through();
        let open = list(&deployment, &[]);
        assert_eq!(open.len(), 30);
        assert!(open.iter().all(|letter| letter["value"] == "3" && letter["transform"] == "guest"));

        deployment.change(&guarantee(counts("chatter", LETTERS)));
        let node = deployment.start_ready();
        let said = done(&deployment, &["dlq", "replay", "count", "--all", "--wait"]);
        assert_eq!(said, "30 dead letters are ordered to be processed again\n30 of them went through\n");
        node.stop();
        let out = came_out(&deployment);
        let expected = (0..30).flat_map(|key| (1..=4).map(move |count| (format!("key-{key}"), count.to_string())));
        assert!(out.keys().cloned().eq(expected.collect::<std::collections::BTreeSet<_>>()), "{out:?}");
        assert!(out.values().all(|times| *times == 1), "{out:?}");
        assert!(State::of(&deployment).counts().values().all(|count| *count == 4));
        assert!(list(&deployment, &[]).is_empty());
        let all = list(&deployment, &["--all"]);
        assert!(all.len() == 30 && all.iter().all(|letter| letter["fate"] == "replayed"));
        // What was ordered once is not done again by the next process.
        deployment.start_ready().stop();
        assert_eq!(came_out(&deployment), out);
    }
}

#[test]
fn a_replayed_record_that_fails_again_is_a_dead_letter_again_with_its_origin() {
    let deployment = Deployment::new(&with(WORDS, "reject"));
    let given = Record::of("k", "bad").header("trace", Some("7")).in_partition(2).at(1_700_000_000_123);
    deployment.produce("in", [Record::keyless(2, "good"), given]);
    let mut node = deployment.start_ready();
    deployment.wait_for_output(&mut node, "dead", 1);
    let before = list(&deployment, &[]);
    let said = replay(&deployment, 1, &["2/0"]);
    assert!(said.contains("0 of them went through\n2/0 failed again: it is 2/"), "{said}");
    let after = list(&deployment, &[]);
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_eq!((&before[0]["attempt"], &after[0]["attempt"]), (&1.into(), &2.into()));
    for field in
        ["topic", "partition", "offset", "timestamp", "key", "value", "headers", "transform", "error", "reason"]
    {
        assert_eq!(before[0][field], after[0][field], "{field}");
    }
    let shown = done(&deployment, &["dlq", "show", "words", &places(&after)[0]]);
    for line in [
        "attempt 2",
        "transform  guest",
        "plugin     guest-misbehaves@0.1.0 (sha256:",
        "partition 2 offset 1, timestamp 1700000000123",
        "value      bad",
        "header     trace: 7",
        "error      rejected",
        "reason     told to reject",
    ] {
        assert!(shown.contains(line), "{line} is missing in\n{shown}");
    }
    node.stop();
}

/// Fails again on each of several records of one partition, in a way that takes the task back; returns what was said.
fn replayed_in_vain(deployment: &Deployment) -> String {
    let bad = (0..4).map(|number| Record::keyless(1, format!("bad {number}")));
    deployment.produce("in", bad.chain([Record::keyless(1, "good")]));
    let mut node = deployment.start_ready();
    node.wait_for("dead letters", |_| (list(deployment, &[]).len() == 4).then_some(()));
    let said = replay(deployment, 1, &["--all"]);
    deployment.produce("in", [Record::keyless(1, "good")]);
    deployment.wait_for_output(&mut node, "out", 2);
    node.stop();
    let open = list(deployment, &[]);
    assert!(open.len() == 4 && open.iter().all(|letter| letter["attempt"] == 2), "{open:?}");
    assert_eq!(deployment.read("out").len(), 2);
    said
}

#[test]
fn several_replays_that_take_the_task_back_come_to_an_end() {
    let pipeline = format!("{}\n[limits]\ntime-per-batch = \"600ms\"\n", with(WORDS, "loop"));
    let said = replayed_in_vain(&Deployment::new(&pipeline));
    assert!(said.contains("0 of them went through"), "{said}");
}

#[test]
fn several_replays_whose_output_the_broker_refuses_come_to_an_end_and_nobody_else_is_blamed() {
    let large = with(WORDS, "large").replace("on = \"bad\"", "on = \"bad\", number = 20000");
    let deployment = Deployment::new(&large);
    let out = deployment.topic("out");
    crate::shared::alter_topic(&deployment.servers.kafka, &out, "max.message.bytes", "10000");
    let said = replayed_in_vain(&deployment);
    assert!(said.contains("0 of them went through"), "{said}");
}

#[test]
fn a_pipeline_that_was_killed_goes_on_without_its_topic_for_dead_letters() {
    let deployment = Deployment::new(&counts("trap", LETTERS));
    deployment.produce("in", records(90, 30));
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    node.kill();
    deployment.change(&counts("chatter", ""));
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    assert!(State::of(&deployment).counts().values().all(|count| *count == 4));
    assert_eq!(came_out(&deployment).values().sum::<usize>(), 90);
}

#[test]
fn letters_are_chosen_by_place_transform_and_error() {
    let deployment = Deployment::new(&with(WORDS, "reject"));
    deployment.produce("in", (0..6).map(|number| Record::keyless(number % 3, format!("bad {number}"))));
    deployment.run_through();
    assert_eq!(list(&deployment, &[]).len(), 6);
    assert_eq!(list(&deployment, &["--limit", "2"]).len(), 2);
    assert_eq!(list(&deployment, &["--error", "trap"]).len(), 0);
    let table = done(&deployment, &["dlq", "list", "words"]);
    assert!(table.starts_with("LETTER") && table.contains("told to reject"), "{table}");

    let asks = fails(&deployment, 64, &["dlq", "discard", "words", "0/0", "1/0"]);
    assert!(asks.contains("this marks 2 dead letters") && asks.contains("--yes"), "{asks}");
    assert_eq!(list(&deployment, &[]).len(), 6);
    let said = done(&deployment, &["dlq", "discard", "words", "0/0", "1/0", "--yes"]);
    assert_eq!(said, "2 dead letters of `words` discarded\n");
    let open = places(&list(&deployment, &[]));
    assert!(open.len() == 4 && !open.contains(&"0/0".to_owned()) && !open.contains(&"1/0".to_owned()), "{open:?}");

    let dry = done(&deployment, &["dlq", "replay", "words", "--all", "--dry-run"]);
    assert_eq!(dry.lines().count(), 5, "{dry}");
    assert_eq!(list(&deployment, &[]).len(), 4);
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_written() {
    let plain = Deployment::new(&with(WORDS, "reject").replace("[errors]\ndead-letter-topic = \"dead\"\n", ""));
    plain.produce("in", [Record::keyless(0, "good")]);
    plain.run_through();
    assert!(fails(&plain, 64, &["dlq", "list", "words"]).contains("add `dead-letter-topic` under [errors]"));
    assert!(fails(&plain, 64, &["dlq", "list", "nobody"]).contains("nobody"));

    let deployment = Deployment::new(&with(WORDS, "reject"));
    deployment.produce("in", [Record::keyless(0, "bad"), Record::keyless(0, "bad")]);
    deployment.run_through();
    assert!(fails(&deployment, 64, &["dlq", "replay", "words"]).contains("--all takes all of them"));
    assert!(fails(&deployment, 64, &["dlq", "replay", "words", "0"]).contains("as `dlq list` shows them"));
    assert!(fails(&deployment, 64, &["dlq", "replay", "words", "0/77"]).contains("no dead letter 0/77"));
    assert!(fails(&deployment, 64, &["dlq", "show", "words", "0/77"]).contains("no dead letter 0/77"));
    done(&deployment, &["dlq", "discard", "words", "0/0", "--yes"]);
    assert!(fails(&deployment, 64, &["dlq", "replay", "words", "0/0"]).contains("0/0 was discarded already"));
    // Nobody runs it: the order stands, and is followed when somebody does.
    let said = run_waiting(&deployment);
    assert!(
        said.contains("they are ordered, but 1 are not processed") && said.contains("does the pipeline run?"),
        "{said}"
    );
    let mut node = deployment.start_ready();
    node.wait_for("the order to be followed", |_| {
        list(&deployment, &["--all"]).iter().any(|letter| letter["attempt"] == 2).then_some(())
    });
    node.stop();

    let renamed = with(WORDS, "reject").replace("name = \"guest\"", "name = \"other\"");
    deployment.change(&renamed);
    deployment.start_ready().stop();
    let said = fails(&deployment, 64, &["dlq", "replay", "words", "--all"]);
    assert!(said.contains("of transform `guest` and source topic"), "{said}");
}

fn run_waiting(deployment: &Deployment) -> String {
    let output = deployment.command(&["dlq", "replay", "words", "--all", "--wait", "1s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_replays_at_once_order_each_letter_once() {
    let deployment = Deployment::new(&with(WORDS, "reject"));
    deployment.produce("in", (0..30).map(|number| Record::keyless(number % 3, format!("bad {number}"))));
    deployment.run_through();
    deployment.change(&with(WORDS, "chatter"));
    let node = deployment.start_ready();
    let replay = || deployment.command(&["dlq", "replay", "words", "--all"]).output().unwrap();
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(replay)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(outputs.iter().any(|output| output.status.success()), "{outputs:?}");
    // Whoever was overtaken may have left it to the others, who chose before.
    done(&deployment, &["dlq", "replay", "words", "--all", "--wait"]);
    node.stop();
    let out = came_out(&deployment);
    assert!(out.len() == 30 && out.values().all(|times| *times == 1), "{out:?}");
}

#[test]
fn orders_are_followed_once_when_processes_are_killed_meanwhile() {
    let deployment = Deployment::new(&counts("trap", LETTERS));
    deployment.produce("in", records(900, 300));
    deployment.run_through();
    deployment.change(&counts("chatter", LETTERS));
    let mut node = deployment.start_ready();
    done(&deployment, &["dlq", "replay", "count", "--all"]);
    for wait in [0, 30, 120] {
        std::thread::sleep(std::time::Duration::from_millis(wait));
        node.kill();
        node = deployment.start_ready();
    }
    deployment.wait_for_output(&mut node, "out", 900);
    node.stop();
    let out = came_out(&deployment);
    assert!(out.len() == 900 && out.values().all(|times| *times == 1), "{out:?}");
    assert!(State::of(&deployment).counts().values().all(|count| *count == 3));
}

#[test]
fn a_pipeline_that_gets_a_topic_for_dead_letters_later_goes_on_from_its_state() {
    let plain = counts("chatter", "");
    let deployment = Deployment::new(&plain);
    crate::shared::create_topic(&deployment.servers.kafka, &deployment.topic("dead"), 3);
    deployment.produce("in", records(60, 30));
    deployment.run_through();
    deployment.change(&counts("trap", LETTERS));
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    assert_eq!(list(&deployment, &[]).len(), 30);
    deployment.change(&plain);
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    assert!(State::of(&deployment).counts().values().all(|count| *count == 4));
    assert_eq!(deployment.read("out").len(), 90);
}

#[test]
fn a_dead_letter_topic_with_other_partitions_than_the_source_is_refused() {
    let few = with(WORDS, "reject");
    let deployment = Deployment::new(&few.replace("[errors]\ndead-letter-topic = \"dead\"\n", ""));
    crate::shared::create_topic(&deployment.servers.kafka, &deployment.topic("dead"), 1);
    deployment.change(&few);
    let said = fails(&deployment, 64, &["run", "pipeline.toml"]);
    assert!(said.contains("and its dead-letter topic, must have equal numbers of partitions"), "{said}");
}
