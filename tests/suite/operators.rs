//! What operators look with: `doctor`, `state list|get|scan|export|import|drop`, `version`, logs as JSON.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Output, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::commands::{done, fails};
use crate::deployment::{Deployment, Servers};
use crate::records::Record;
use crate::restarts::{COUNT, per_key, records};
use crate::shared::{create_topic, wait_for};
use crate::state::State;

/// Two sources that belong together.
const PAIRS: &str = r#"
name = "pairs"
[[source]]
topic = "left"
[[source]]
topic = "right"
[[transform]]
name = "pairs"
plugin = "guest_pairs.wasm"
[[sink]]
topic = "out"
"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code and findings, by what they are about.
fn doctor(deployment: &Deployment, arguments: &[&str]) -> (Option<i32>, BTreeMap<String, (String, String)>) {
    let Output { status, stdout, .. } =
        deployment.command(&[&["doctor", "--json"], arguments].concat()).output().unwrap();
    let found: Vec<Value> =
        serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&stdout)));
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let entry = |finding: &Value| {
        let said = format!("{}; {}", field(finding, "finding"), field(finding, "help"));
        (field(finding, "subject"), (field(finding, "level"), said))
    };
    (status.code(), found.iter().map(entry).collect())
}

fn level<'a>(findings: &'a BTreeMap<String, (String, String)>, subject: &str) -> (&'a str, &'a str) {
    let (level, said) = findings.get(subject).unwrap_or_else(|| panic!("nothing about {subject}: {findings:?}"));
    (level, said)
}

#[test]
fn a_cluster_that_is_as_it_should_be_has_no_problem_and_nothing_of_the_look_stays() {
    let deployment = Deployment::new(COUNT);
    let (code, findings) = doctor(&deployment, &["pipeline.toml"]);
    assert!(!findings.values().any(|(level, _)| level == "problem"), "{findings:?}");
    assert_eq!(code, Some(0));
    let (input, group) = (format!("topic `{}`", deployment.topic("in")), format!("group `{}`", deployment.group()));
    assert_eq!(level(&findings, &input).0, "ok");
    assert!(level(&findings, &input).1.contains("source: 3 partitions"), "{findings:?}");
    assert_eq!(level(&findings, &group), ("ok", "this user may be a member of it; "));
    let plugin = findings.iter().find(|(subject, _)| subject.starts_with("plugin `/")).unwrap();
    assert_eq!(plugin.1.1, "the file is there; ");
    for subject in ["kafka", "transactions", "zookeeper", "zookeeper request size", "clock", "plugin cache"] {
        assert_eq!(level(&findings, subject).0, "ok", "{subject}: {findings:?}");
    }
    assert_eq!(State::of(&deployment).children("/"), ["format"], "what was written to try it is gone");
    let shown = done(&deployment, &["doctor", "pipeline.toml"]);
    assert!(shown.lines().any(|line| line.starts_with("ok") && line.contains("transactions")), "{shown}");
}

#[test]
fn a_topic_that_is_missing_and_unequal_partitions_are_problems() {
    let deployment = Deployment::new(PAIRS);
    let file = deployment.path("pipeline.toml");
    let (wider, missing) = (format!("{}.wider", deployment.namespace), format!("{}.missing", deployment.namespace));
    create_topic(&deployment.servers.kafka, &wider, 5);
    let changed = fs::read_to_string(&file).unwrap().replace(&deployment.topic("right"), &wider);
    let plugin = changed.lines().find(|line| line.starts_with("plugin")).unwrap();
    let changed = changed.replace(plugin, "plugin = \"pairs@9.0.0\"");
    fs::write(&file, changed.replace(&deployment.topic("out"), &missing)).unwrap();
    let (code, findings) = doctor(&deployment, &["pipeline.toml"]);
    assert_eq!(code, Some(1));
    let (how, said) = level(&findings, "source topics");
    assert!(how == "problem" && said.contains("has 3") && said.contains("has 5"), "{said}");
    let subject = format!("topic `{missing}`");
    assert!(level(&findings, &subject).1.starts_with("sink: it does not exist; create it"), "{findings:?}");
    assert!(level(&findings, "plugin `pairs@9.0.0`").1.contains("not in the registry; "), "{findings:?}");
    assert!(fails_with(&deployment, &["doctor", "pipeline.toml"]).contains("error: there are 3 problems"));
}

/// What is said by a command that has shown something and fails.
fn fails_with(deployment: &Deployment, arguments: &[&str]) -> String {
    let output = deployment.command(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr)
}

#[test]
fn servers_that_are_away_are_problems_beside_one_another() {
    let deployment = Deployment::new(COUNT);
    let away = ["pipeline.toml", "--kafka-bootstrap-servers", "127.0.0.1:1", "--zookeeper-connect", "127.0.0.1:1"];
    let (code, findings) = doctor(&deployment, &away);
    assert_eq!(code, Some(1));
    for subject in ["kafka", "zookeeper"] {
        let (how, said) = level(&findings, subject);
        assert!(how == "problem" && said.contains("127.0.0.1:1"), "{said}");
    }
    assert_eq!(level(&findings, "plugin cache").0, "ok");
}

#[test]
fn a_pipeline_whose_topic_has_grown_is_a_problem_before_it_runs() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(3, 3));
    deployment.run_through();
    let file = deployment.path("pipeline.toml");
    let wider = format!("{}.wider", deployment.namespace);
    create_topic(&deployment.servers.kafka, &wider, 5);
    let changed = fs::read_to_string(&file).unwrap().replace(&deployment.topic("in"), &wider);
    fs::write(&file, changed).unwrap();
    let (code, findings) = doctor(&deployment, &["pipeline.toml"]);
    let (how, said) = level(&findings, "source topics");
    assert!(code == Some(1) && how == "problem" && said.contains("recorded with 3"), "{said}");
}

#[test]
fn a_node_with_a_local_store_is_looked_at_too() {
    let deployment = Deployment::on(Servers::local(), 3, COUNT);
    let (code, findings) = doctor(&deployment, &["pipeline.toml"]);
    assert_eq!((code, level(&findings, "local store").0), (Some(0), "ok"), "{findings:?}");
    assert!(!deployment.path("local").exists(), "nothing is made");
}

/// Entries that `scan --json` shows, by key.
fn scanned(deployment: &Deployment, arguments: &[&str]) -> BTreeMap<String, String> {
    let said = done(deployment, &[&["state", "scan", "count", "counts", "--json"], arguments].concat());
    let entries: Vec<Value> = serde_json::from_str(&said).unwrap();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_else(|| panic!("{entry}")).to_owned();
    entries.iter().map(|entry| (text(entry, "key-text"), text(entry, "value-text"))).collect()
}

#[test]
fn state_is_looked_into_while_the_pipeline_runs_and_after() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    let per_key: BTreeMap<String, String> =
        per_key(&deployment.read("out")).into_iter().map(|(key, count)| (key, count.to_string())).collect();
    assert_eq!(scanned(&deployment, &[]), per_key);
    node.stop();
    assert_eq!(scanned(&deployment, &[]), per_key);

    let one = scanned(&deployment, &["--prefix", "key-2", "--limit", "5"]);
    assert!(one.len() == 5 && one.keys().all(|key| key.starts_with("key-2")), "{one:?}");
    let got = done(&deployment, &["state", "get", "count", "counts", "key-7"]);
    assert!(got.lines().nth(1).is_some_and(|line| line.ends_with("key-7  10")), "{got}");
    assert_eq!(got, done(&deployment, &["state", "get", "count", "counts", "0x6b65792d37", "--transform", "count"]));

    let listed: Vec<Value> = serde_json::from_str(&done(&deployment, &["state", "list", "count", "--json"])).unwrap();
    let entries = |task: &Value| task["stores"][0]["entries"].as_u64().unwrap();
    assert_eq!((listed.len(), listed.iter().map(entries).sum::<u64>()), (3, 30));
    assert_eq!(listed[0]["stores"][0]["value-format"], "postcard:u64");
    let head = State::of(&deployment).head(0).unwrap();
    assert_eq!(listed[0]["epoch"], head.committed.id.epoch.0);
    assert!(listed.iter().all(|task| task["stores"][0]["use"] == "read"), "{listed:?}");
    assert!(done(&deployment, &["state", "list", "count", "--task", "1"]).contains("counts"));

    let exported = done(&deployment, &["state", "export", "count"]);
    assert_eq!(exported.lines().count(), 30);
    let mut unread = deployment.command(&["state", "export", "count"]);
    let mut export = unread.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(export.stdout.take());
    let output = export.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).contains("error")), (Some(0), false), "nobody reads it");
    let first: Value = serde_json::from_str(exported.lines().next().unwrap()).unwrap();
    assert_eq!((&first["transform"], &first["store"]), (&"count".into(), &"counts".into()));
}

#[test]
fn what_is_not_in_the_state_is_said_with_what_is() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", [Record::of("ada", "x")]);
    deployment.run_through();
    let unknown = fails(&deployment, 64, &["state", "scan", "count", "totals"]);
    assert!(unknown.contains("no store `totals`: there are count/counts"), "{unknown}");
    let unknown = fails(&deployment, 64, &["state", "scan", "count", "counts", "--transform", "sum"]);
    assert!(unknown.contains("no store `sum/counts`"), "{unknown}");
    let missing = fails(&deployment, 1, &["state", "get", "count", "counts", "grace"]);
    assert!(missing.contains("no task has the key `grace`"), "{missing}");
    let task = fails(&deployment, 64, &["state", "list", "count", "--task", "3"]);
    assert!(task.contains("there is no task 3: they go from 0 to 2"), "{task}");
}

#[test]
fn a_chunk_that_is_missing_is_an_error_and_not_an_empty_state() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", [Record::of("ada", "x").in_partition(0)]);
    deployment.run_through();
    let state = State::of(&deployment);
    let chunk = state.head(0).unwrap().committed.chunks[0];
    state.delete(&state.path(0).chunk(chunk));
    let said = fails(&deployment, 1, &["state", "scan", "count", "counts", "--task", "0"]);
    assert!(said.contains("it is missing") && said.contains("/0,"), "{said}");
}

#[test]
fn logs_in_json_are_one_object_a_line_and_so_is_the_last_error() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(3, 3));
    let mut command = deployment.run_command("a");
    command.env("SLUICEGATE_LOG_FORMAT", "json").env("SLUICEGATE_LOG", "info");
    let mut node = deployment.spawn(command);
    deployment.wait_until_done(&mut node);
    let log = node.terminate().log;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let recorded = lines.iter().find(|line| line["message"] == "recorded").expect("what it has recorded is logged");
    assert_eq!((&recorded["level"], &recorded["pipeline"]), (&"INFO".into(), &"count".into()));
    assert!(recorded["timestamp"].is_string());

    let said = fails(&deployment, 64, &["run", "nowhere.toml", "--log-format", "json"]);
    let error: Value = serde_json::from_str(&said).unwrap();
    assert!(error["message"].as_str().unwrap().contains("nowhere.toml") && error["level"] == "ERROR", "{said}");
}

#[test]
fn the_program_says_what_it_is_made_of_and_completes_itself() {
    let deployment = Deployment::on(Servers::local(), 1, COUNT);
    let version: Value = serde_json::from_str(&done(&deployment, &["version", "--json"])).unwrap();
    assert_eq!(version["interface"], "sluicegate:transform@0.1.0");
    assert!(version["wasmtime"].as_str().unwrap().starts_with("48."), "{version}");
    assert!(done(&deployment, &["version"]).contains("librdkafka  2."));
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(&deployment, &["completions", shell]).contains("savepoint"), "{shell}");
    }
}

#[test]
fn status_has_rates_state_and_plugins() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    let status = |arguments: &[&str]| -> Value {
        serde_json::from_str(&done(&deployment, &[&["status", "--json"], arguments].concat())).unwrap()
    };
    let all = &status(&["--rates"])[0];
    assert_eq!((&all["pipeline"], &all["lag"]), (&"count".into(), &0.into()), "{all}");
    assert_eq!((&all["rates"]["in"], &all["rates"]["out"]), (&0.0.into(), &0.0.into()), "{all}");
    assert!(all["state-bytes"].as_u64().unwrap() > 0, "{all}");
    let one = &status(&["count"])[0];
    assert_eq!(one["plugins"][0]["transform"], "count");
    assert!(one["plugins"][0]["digest"].as_str().is_some_and(|digest| digest.len() == 64), "{one}");
    assert_eq!(one["rates"], Value::Null, "nobody has asked for them");
    let shown = done(&deployment, &["status", "count", "--rates"]);
    assert!(shown.contains("IN/S") && shown.contains("keyed_count.wasm"), "{shown}");
    node.stop();
}

/// A line of an import.
fn entry(task: u64, key: &str, value: Option<u64>) -> String {
    let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let value = value.map(|value| encode(&postcard::to_stdvec(&value).unwrap()));
    json!({ "task": task, "transform": "count", "store": "counts", "key": encode(key.as_bytes()), "value": value })
        .to_string()
}

#[test]
fn entries_that_are_imported_are_gone_on_from_and_nothing_repeats() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    let exported = done(&deployment, &["state", "export", "count"]);
    let task_of = |key: &str| {
        let encoded = BASE64_STANDARD.encode(key);
        let mut lines = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line["key"] == encoded).unwrap()["task"].as_u64().unwrap()
    };
    let lines = [entry(task_of("key-7"), "key-7", Some(1000)), entry(task_of("key-8"), "key-8", None)];
    fs::write(deployment.path("changes.jsonl"), lines.join("\n")).unwrap();
    deployment.wait_until_group_is_empty();
    let asked = fails(&deployment, 64, &["state", "import", "count", "changes.jsonl"]);
    assert!(asked.contains("changes 2 entries") && asked.contains("--yes"), "{asked}");
    let said = done(&deployment, &["state", "import", "count", "changes.jsonl", "--yes"]);
    assert!(said.contains("entries, epoch "), "{said}");
    // Once more does no harm.
    done(&deployment, &["state", "import", "count", "changes.jsonl", "--yes"]);

    deployment.produce("in", records(30, 30));
    deployment.run_through();
    let counts = State::of(&deployment).counts();
    assert_eq!((counts["key-7"], counts["key-8"], counts["key-9"]), (1001, 1, 11));
    assert_eq!(deployment.read("out").len(), 330, "what was put out before is not put out again");
}

#[test]
fn an_import_after_a_kill_waits_for_the_group_and_goes_on_from_what_kafka_has_committed() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    fs::write(deployment.path("changes.jsonl"), entry(0, "of-the-import", Some(5))).unwrap();
    let import = ["state", "import", "count", "changes.jsonl", "--yes"];
    let running = fails(&deployment, 64, &import);
    assert!(running.contains("pipeline `count` runs on a: stop it first"), "{running}");
    node.kill();
    wait_for("an import", || deployment.command(&import).output().unwrap().status.success().then_some(()));
    deployment.run_through();
    assert_eq!(State::of(&deployment).entries(0, "count", "counts")[&b"of-the-import"[..]], [5]);
    let counts = State::of(&deployment).counts();
    assert!(counts.iter().all(|(key, count)| key == "of-the-import" || *count == 10), "{counts:?}");
    assert_eq!(deployment.read("out").len(), 300, "nothing repeats");
}

#[test]
fn an_import_into_what_is_not_there_is_refused_before_anything_is_changed() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    let wrong = entry(1, "k", Some(1)).replace("counts", "totals");
    fs::write(deployment.path("changes.jsonl"), format!("{}\n{wrong}\n", entry(0, "k", Some(1)))).unwrap();
    let head = State::of(&deployment).head(0).unwrap();
    let said = fails(&deployment, 64, &["state", "import", "count", "changes.jsonl", "--yes"]);
    assert!(said.contains("changes.jsonl:2: there is no store count/totals: there are count/counts"), "{said}");
    assert_eq!(State::of(&deployment).head(0).unwrap(), head);
    let said = fails(&deployment, 64, &["state", "import", "count", "nowhere.jsonl", "--yes"]);
    assert!(said.contains("cannot read `nowhere.jsonl`"), "{said}");
}

#[test]
fn a_store_that_a_removed_transform_has_left_behind_is_dropped_and_one_in_use_is_not() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    let renamed = COUNT.replacen("name = \"count\"\nplugin", "name = \"tally\"\nplugin", 1);
    assert_ne!(renamed, COUNT);
    deployment.change(&renamed);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    deployment.wait_until_group_is_empty();
    let state = State::of(&deployment);
    let (before, offsets) = (state.counts().len(), state.head(0).unwrap().committed.offsets);
    assert_eq!(before, 30);

    let both = fails(&deployment, 64, &["state", "drop", "count", "counts", "--yes"]);
    assert!(both.contains("transforms `count` and `tally` both have a store `counts`"), "{both}");
    let used = fails(&deployment, 64, &["state", "drop", "count", "counts", "--transform", "tally", "--yes"]);
    assert!(used.contains("transform `tally` uses store tally/counts"), "{used}");
    let drop = ["state", "drop", "count", "counts", "--transform", "count"];
    let asked = fails(&deployment, 64, &drop);
    assert!(
        asked.contains("deletes 30 entries of store count/counts in 3 tasks") && asked.contains("--yes"),
        "{asked}"
    );
    assert_eq!(state.counts().len(), 30, "nothing is deleted by a question");
    let one = done(&deployment, &[&drop[..], &["--task", "0", "--yes"]].concat());
    assert!(one.starts_with("task 0: ") && one.lines().count() == 1, "{one}");
    let rest = done(&deployment, &[&drop[..], &["--yes"]].concat());
    assert!(rest.contains("task 1: ") && rest.contains("task 2: ") && !rest.contains("task 0"), "{rest}");
    assert!(state.counts().is_empty());
    assert_eq!(state.head(0).unwrap().committed.offsets, offsets);

    deployment.produce("in", records(30, 30));
    deployment.run_through();
    let tallied = (0..3).flat_map(|task| state.entries(task, "tally", "counts"));
    assert!(tallied.into_iter().all(|(_, value)| value == [11]), "the other store goes on");
    assert_eq!(deployment.read("out").len(), 630, "nothing repeats");
}

#[test]
fn a_store_that_a_revision_nobody_has_run_yet_uses_is_not_dropped() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    deployment.change(&COUNT.replacen("name = \"count\"\nplugin", "name = \"tally\"\nplugin", 1));
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    deployment.wait_until_group_is_empty();
    deployment.change(COUNT);
    done(&deployment, &["deploy", "pipeline.toml"]);
    let said = fails(&deployment, 64, &["state", "drop", "count", "counts", "--transform", "count", "--yes"]);
    assert!(said.contains("revision 3 of pipeline `count` uses store count/counts"), "{said}");
    let running = fails(&deployment, 64, &["state", "drop", "count", "counts", "--transform", "tally", "--yes"]);
    assert!(running.contains("transform `tally` uses store"), "{running}");
    assert_eq!(State::of(&deployment).counts().len(), 30);
}

#[test]
fn the_last_error_is_shown_when_it_is_over() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", [Record::keyless(0, "x")]);
    let node = deployment.spawn(deployment.command(&["worker", "--node-name", "a"]));
    done(&deployment, &["deploy", "pipeline.toml"]);
    let status = || -> Value { serde_json::from_str(&done(&deployment, &["status", "count", "--json"])).unwrap() };
    let has = |status: &Value, field: &str| status[0][field]["a"].is_string() || status[0][field]["a"].is_object();
    wait_for("the failure", || has(&status(), "problems").then_some(()));
    deployment.change(&format!("{COUNT}\n[errors]\non-error = \"skip\"\n"));
    done(&deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
    let over = wait_for("a pipeline without a problem", || Some(status()).filter(|it| !has(it, "problems")));
    assert!(over[0]["last-errors"]["a"]["error"].as_str().unwrap().contains("record has no key"), "{over}");
    assert!(done(&deployment, &["status"]).contains("count on a, until it was tried again, "));
    node.stop();
}

#[test]
fn an_import_leaves_a_group_alone_that_has_members_by_the_newer_protocol() {
    let deployment = Deployment::new(COUNT);
    deployment.use_consumer_protocol();
    deployment.produce("in", records(30, 30));
    let mut node = deployment.start();
    deployment.wait_until_done(&mut node);
    let head = |state: &State| state.head(0).unwrap().generation;
    let state = State::of(&deployment);
    let before = head(&state);
    node.kill();
    fs::write(deployment.path("changes.jsonl"), entry(0, "of-the-import", Some(5))).unwrap();
    // Its session with ZooKeeper ends first: from then on it is the group that tells of it.
    wait_for("a refusal because of the group", || {
        let output = deployment.command(&["state", "import", "count", "changes.jsonl", "--yes"]).output().unwrap();
        assert!(!output.status.success(), "the group still has members");
        text(&output.stderr).contains("the consumer group has ").then_some(())
    });
    assert_eq!(head(&state), before, "the task is not even claimed");
}
