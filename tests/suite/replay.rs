//! Versions on recorded records, with real servers: the rehearsal in the gate of a swap, `replay`, and dead letters.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::commands::{done, fails};
use crate::deployment::{Deployment, Servers};
use crate::node::{self, Node};
use crate::records::Record;
use crate::shared::wait_for;

/// Without state: the value and its length.
const LENGTHS: &str = r#"
name = "lengths"
[[source]]
topic = "in"
[[transform]]
name = "length"
plugin = "value_length.wasm"
config = { separator = "," }
[[sink]]
topic = "out"
"#;

/// Counts per key, with the length behind the count, and passes everything on.
const COUNTS: &str = r#"
name = "counts"
[[source]]
topic = "in"
[[transform]]
name = "count"
plugin = "keyed_count.wasm"
[[transform]]
name = "guest"
plugin = "guest_misbehaves.wasm"
config = { how = "trap", on = "never" }
[[sink]]
topic = "out"
"#;

const PARTITIONS: i32 = 2;

/// A pipeline that a worker runs.
struct Site {
    // Before the folder that it logs to.
    worker: Node,
    deployment: Deployment,
}

impl Site {
    fn new(pipeline: &str) -> Self {
        Self::on(Deployment::on(Servers::shared(), PARTITIONS, pipeline))
    }

    fn on(deployment: Deployment) -> Self {
        let worker = deployment.spawn(deployment.command(&["worker", "--node-name", "a"]));
        done(&deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
        Self { worker, deployment }
    }

    /// So many records of ten keys, all processed.
    fn feed(&mut self, count: usize) {
        self.deployment.produce("in", (0..count).map(|number| Record::of(format!("key-{}", number % 10), "hello")));
        self.deployment.wait_until_done(&mut self.worker);
    }

    fn file(&self, name: &str, contents: &Value) -> String {
        let path = self.deployment.path(name);
        fs::write(&path, contents.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A swap of a transform's configuration.
    fn swap(&self, transform: &str, plugin: &str, config: &Value, more: &[&str]) -> Output {
        let file = self.file("config.json", config);
        let plugin = node::plugin(plugin);
        let arguments = ["plugin", "swap", &self.deployment.pipeline, transform, plugin.to_str().unwrap()];
        let arguments = [&arguments[..], &["--config", &file], more].concat();
        self.deployment.command(&arguments).output().unwrap()
    }

    /// What commands could have left behind: offsets of the group, records, rollouts.
    fn traces(&self) -> Value {
        let name = &self.deployment.pipeline;
        let rollouts: Value =
            serde_json::from_str(&done(&self.deployment, &["plugin", "rollouts", name, "--json"])).unwrap();
        let consumer = self.deployment.consumer();
        let committed = self.deployment.committed(&consumer, &self.deployment.topic("in"));
        let out: Vec<_> = self.deployment.read("out").iter().map(Record::text).collect();
        json!({ "rollouts": rollouts, "committed": committed, "out": out })
    }

    fn stop(self) -> Deployment {
        self.worker.stop();
        self.deployment
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Another plugin that does the same, in a file.
fn copy(deployment: &Deployment, plugin: &str) -> String {
    let mut bytes = fs::read(node::plugin(plugin)).unwrap();
    bytes.extend([0, 6, 4, b'n', b'o', b't', b'e', b'x']);
    let path = deployment.path("copy.wasm");
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_dry_run_shows_what_would_come_out_differently_and_writes_nothing() {
    let mut site = Site::new(LENGTHS);
    site.feed(40);
    let before = site.traces();
    let output = site.swap("length", "value_length.wasm", &json!({ "separator": ";" }), &["--dry-run"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let line = "warning  records: the last 40 of 2 of 2 tasks through both versions: 0 the same, 40 different";
    assert!(said.contains(line), "{said}");
    assert!(said.contains("ok       time a record: ") && said.contains(" in transform `length`"), "{said}");
    let example = format!("different: topic {} partition", site.deployment.topic("in"));
    assert!(said.contains(&example), "{said}");
    assert!(said.contains("present  key-") && said.contains(": hello,5") && said.contains(": hello;5"), "{said}");

    // A plugin that is only looked at is not stored.
    let other = copy(&site.deployment, "value_length.wasm");
    let swap = ["plugin", "swap", "lengths", "length", &other, "--dry-run", "--records", "5", "--json"];
    let found: Value = serde_json::from_str(&done(&site.deployment, &swap)).unwrap();
    let rehearsed = &found["rehearsed"];
    assert_eq!((&rehearsed["counts"]["records"], &rehearsed["counts"]["same"]), (&10.into(), &10.into()), "{found}");
    let digest = found["rollout"]["to"]["reference"].as_str().unwrap();
    let unknown = fails(&site.deployment, 64, &["plugin", "swap", "lengths", "length", digest]);
    assert!(unknown.contains("in the registry"), "{unknown}");

    let none = done(&site.deployment, &["plugin", "swap", "lengths", "length", &other, "--dry-run", "--records", "0"]);
    assert!(!none.contains("records: "), "{none}");
    assert_eq!(site.traces(), before);
    site.stop();
}

#[test]
fn the_gate_refuses_a_version_that_fails_where_the_present_one_does_not() {
    let mut site = Site::new(COUNTS);
    site.feed(100);
    let before = site.traces();
    // Today's counts have seen these records: they go on from ten a key.
    let traps = json!({ "how": "trap", "on": "13" });
    for more in [&["--dry-run"][..], &[]] {
        let output = site.swap("guest", "guest_misbehaves.wasm", &traps, more);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}{}", text(&output.stdout));
        assert!(said.contains("fails on ") && said.contains(" that the present one processes"), "{said}");
        assert!(said.contains(&format!("topic {} partition", site.deployment.topic("in"))), "{said}");
        assert!(said.contains("transform `guest`: trap: "), "{said}");
    }
    let stops = site.swap("guest", "guest_misbehaves.wasm", &json!({ "how": "fatal" }), &[]);
    let said = text(&stops.stderr);
    assert!(stops.status.code() == Some(64) && said.contains("would stop the pipeline"), "{said}");
    // What rejects more may mean to.
    let output = site.swap("guest", "guest_misbehaves.wasm", &json!({ "how": "reject", "on": "13" }), &["--dry-run"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(said.contains("90 the same, 10 rejected by the new one only"), "{said}");
    assert!(said.contains("transform `guest`: rejected: told to reject"), "{said}");
    assert_eq!(site.traces(), before);
    site.stop();
}

#[test]
fn state_is_copied_for_both_versions_and_what_they_leave_is_compared() {
    let mut site = Site::new(COUNTS);
    site.feed(100);
    let other = copy(&site.deployment, "keyed_count.wasm");
    let swap = ["plugin", "swap", "counts", "count", &other, "--dry-run", "--json"];
    let found: Value = serde_json::from_str(&done(&site.deployment, &swap)).unwrap();
    let (rehearsed, stores) = (&found["rehearsed"], &found["rehearsed"]["stores"]);
    assert_eq!((&rehearsed["counts"]["same"], &rehearsed["counts"]["different"]), (&100.into(), &0.into()), "{found}");
    assert_eq!((&stores[0]["store"], &stores[0]["same"]), (&"count/counts".into(), &10.into()), "{found}");
    assert_eq!(rehearsed["examples"], json!([]));
    let counts = crate::state::State::of(&site.stop()).counts();
    assert!(counts.values().all(|count| *count == 10), "the state is what it was: {counts:?}");
}

#[test]
fn a_version_that_hangs_ends_the_rehearsal_in_its_time_and_not_the_pipeline() {
    let mut site = Site::new(&format!("{COUNTS}\n[limits]\ntime-per-batch = \"200ms\"\n"));
    site.feed(200);
    let begin = std::time::Instant::now();
    let output = site.swap("guest", "guest_misbehaves.wasm", &json!({ "how": "loop" }), &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("ran longer than the 200ms"), "{said}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(30), "{:?}", begin.elapsed());
    site.feed(10);
    wait_for("records after it", || (site.deployment.read("out").len() == 210).then_some(()));
    site.stop();
}

/// With where its records come from.
fn with_provenance(pipeline: &str) -> String {
    match pipeline.contains("[delivery]") {
        true => pipeline.replace("[delivery]\n", "[delivery]\nprovenance-headers = true\n"),
        false => format!("{pipeline}\n[delivery]\nprovenance-headers = true\n"),
    }
}

/// Replays, with an exit code; what was found and what was said.
fn replay(deployment: &Deployment, code: i32, more: &[&str]) -> (Value, String) {
    let arguments = [&["replay", &deployment.pipeline, "--json"], more].concat();
    let output = deployment.command(&arguments).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}{}", text(&output.stdout));
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

#[test]
fn what_was_sent_is_compared_record_by_record_where_records_say_where_they_come_from() {
    let mut site = Site::new(&with_provenance(&LENGTHS.replace("config", "# config")));
    let given = Record::of("ada", "hello").header("trace", Some("7")).header("sluicegate-source", Some("x/0/1"));
    site.deployment.produce("in", [given.at(1_700_000_000_123)]);
    site.feed(40);
    let out = site.deployment.read("out");
    let source = site.deployment.topic("in");
    for record in &out {
        let of = |name: &str| {
            let mut found = record.headers.iter().filter(|(other, _)| other == name);
            let value = found.next().and_then(|(_, value)| value.clone());
            assert!(found.next().is_none(), "{name} is there once: {record:?}");
            String::from_utf8(value.unwrap_or_default()).unwrap()
        };
        assert!(of("sluicegate-source").starts_with(&format!("{source}/")), "{record:?}");
        assert!(of("sluicegate-plugin").starts_with("lengths/length="), "{record:?}");
    }
    let traced = out.iter().find(|record| record.headers.iter().any(|(name, _)| name == "trace")).unwrap();
    assert_eq!(traced.timestamp, Some(1_700_000_000_123), "the rest is as it was");

    let before = site.traces();
    let (found, _) = replay(&site.deployment, 0, &[]);
    assert_eq!((&found["against"], &found["counts"]["same"]), (&"emitted".into(), &41.into()), "{found}");
    assert_eq!((&found["differs"], &found["counts"]["records"]), (&false.into(), &41.into()), "{found}");

    let config = site.file("semicolon.json", &json!({ "separator": ";" }));
    let candidate = ["--transform", "length", "--config", &config];
    let (found, said) = replay(&site.deployment, 1, &candidate);
    assert_eq!((&found["counts"]["different"], &found["counts"]["missing"]), (&41.into(), &0.into()), "{found}");
    assert!(said.contains("does something else than what was sent"), "{said}");
    assert_eq!(found["examples"][0]["topic"], source.as_str());

    // By hand the same with a plugin from a file, which is not stored.
    let other = copy(&site.deployment, "value_length.wasm");
    let (found, _) = replay(&site.deployment, 0, &["--transform", "length", "--plugin", &other, "--task", "1"]);
    assert_eq!(found["tasks"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["counts"]["same"], found["counts"]["records"]);

    // A range of offsets.
    let (found, _) = replay(&site.deployment, 0, &["--from", "2", "--records", "3"]);
    assert_eq!((&found["tasks"][0]["from"][&source], &found["tasks"][0]["records"]), (&2.into(), &3.into()), "{found}");
    let shown = done(&site.deployment, &["replay", "lengths"]);
    assert!(shown.contains("compared with what was sent, each record by its `sluicegate-source`"), "{shown}");
    assert_eq!(site.traces(), before);
    site.stop();
}

#[test]
fn what_was_put_aside_is_compared_with_the_dead_letters() {
    let pipeline = r#"
name = "words"
[[source]]
topic = "in"
[[transform]]
name = "guest"
plugin = "guest_misbehaves.wasm"
config = { how = "trap", on = "bad" }
[[sink]]
topic = "out"
[errors]
dead-letter-topic = "dead"
"#;
    let mut site = Site::new(&with_provenance(pipeline));
    let values = ["good", "bad", "good", "badder", "good"];
    site.deployment.produce("in", values.map(|value| Record::keyless(0, value)));
    site.deployment.wait_until_done(&mut site.worker);
    let (found, _) = replay(&site.deployment, 0, &[]);
    assert_eq!((&found["against"], &found["counts"]["same"]), (&"emitted".into(), &3.into()), "{found}");
    let less = site.file("less.json", &json!({ "how": "trap", "on": "badder" }));
    let (found, _) = replay(&site.deployment, 1, &["--transform", "guest", "--config", &less]);
    assert_eq!(found["counts"]["failed-by-first-only"], 1, "{found}");
    let example = &found["examples"][0];
    assert_eq!((&example["offset"], &example["first"]["put-aside"]["kind"]), (&1.into(), &"trap".into()), "{found}");
    let more = site.file("more.json", &json!({ "how": "reject", "on": "g" }));
    let (found, _) = replay(&site.deployment, 1, &["--transform", "guest", "--config", &more]);
    let counts = &found["counts"];
    assert_eq!(
        (&counts["rejected-by-second-only"], &counts["failed-by-first-only"]),
        (&3.into(), &2.into()),
        "{found}"
    );
    site.stop();
}

#[test]
fn a_stateful_pipeline_is_replayed_from_a_savepoint_and_a_candidate_that_differs_is_one() {
    for exactly in [true, false] {
        let guarantee = |pipeline: &str| match exactly {
            true => pipeline.to_owned(),
            false => crate::restarts::at_least_once(pipeline),
        };
        let mut site = Site::new(&with_provenance(&guarantee(COUNTS)));
        // So many commits that the head does not keep the first one.
        (0..6).for_each(|_| site.feed(10));
        done(&site.deployment, &["savepoint", "create", "counts", "before"]);
        site.feed(100);
        let before = site.traces();
        let (found, _) = replay(&site.deployment, 0, &["--from", "before"]);
        assert_eq!((&found["against"], &found["counts"]["same"]), (&"emitted".into(), &100.into()), "{found}");
        assert_eq!(found["tasks"][0]["state"], "savepoint `before`", "{found}");
        // The state is brought to where the comparison begins.
        let task = &found["tasks"][0];
        let topic = site.deployment.topic("in");
        let from = task["from"][&topic].as_u64().unwrap() + 10;
        let later = ["--from", &from.to_string(), "--task", "0"];
        let (found, _) = replay(&site.deployment, 0, &later);
        assert_eq!((&found["tasks"][0]["brought-up"], &found["differs"]), (&10.into(), &false.into()), "{found}");
        let early = ["--from", "0", "--task", "0"];
        let (_, said) = replay(&site.deployment, 64, &early);
        assert!(said.contains("there is no state of task 0 at or before that place any more"), "{said}");

        // By a run of the versions that made the state: without what was sent.
        let present = ["--from", "before", "--against", "present"];
        let (found, _) = replay(&site.deployment, 0, &present);
        assert_eq!((&found["against"], &found["stores"][0]["same"]), (&"present".into(), &10.into()), "{found}");
        let rejects = site.file("rejects.json", &json!({ "how": "reject", "on": "9" }));
        let candidate = [&present[..], &["--transform", "guest", "--config", &rejects]].concat();
        let (found, said) = replay(&site.deployment, 1, &candidate);
        assert_eq!(found["counts"]["rejected-by-second-only"], 10, "{found}");
        assert!(said.contains("something else than the versions that ran"), "{said}");
        let stops = site.file("stops.json", &json!({ "how": "fatal" }));
        let (found, _) = replay(&site.deployment, 1, &["--from", "before", "--transform", "guest", "--config", &stops]);
        assert!(found["stopped"][0].as_str().unwrap().contains("told to stop"), "{found}");
        assert_eq!(site.traces(), before);
        site.stop();
    }
}

#[test]
fn the_versions_that_made_the_state_are_found_though_others_run_now() {
    let mut site = Site::new(LENGTHS);
    site.feed(10);
    let (found, _) = replay(&site.deployment, 0, &[]);
    assert_eq!(found["against"], "present");
    assert!(found["because"].as_str().unwrap().contains("no `provenance-headers`"), "{found}");
    assert!(found["notes"].to_string().contains("the candidate is what ran"), "{found}");
    site.stop();

    let mut site = Site::new(COUNTS);
    site.feed(20);
    done(&site.deployment, &["savepoint", "create", "counts", "before"]);
    site.feed(20);
    let chatters = COUNTS.replace("how = \"trap\", on = \"never\"", "how = \"reject\", on = \"4\"");
    site.deployment.change(&chatters);
    done(&site.deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
    // The candidate is what runs now; what made the state of the savepoint ran before.
    let (found, _) = replay(&site.deployment, 1, &["--from", "before"]);
    assert_eq!(
        (&found["against"], &found["counts"]["rejected-by-second-only"]),
        (&"present".into(), &10.into()),
        "{found}"
    );
    assert_eq!((&found["counts"]["same"], &found["stores"][0]["different"]), (&10.into(), &0.into()), "{found}");
    site.stop();
}

#[test]
fn several_inputs_are_replayed_and_it_is_said_what_that_cannot_promise() {
    let pairs = r#"
name = "pairs"
[[source]]
topic = "left"
input = "left"
[[source]]
topic = "right"
input = "right"
[[transform]]
name = "pairs"
plugin = "guest_pairs.wasm"
[[sink]]
topic = "out"
"#;
    let mut site = Site::new(&with_provenance(pairs));
    done(&site.deployment, &["savepoint", "create", "pairs", "empty"]);
    for (topic, value) in [("left", "l"), ("right", "r")] {
        site.deployment.produce(topic, (0..20).map(|key| Record::of(format!("key-{key}"), value)));
    }
    site.deployment.wait_until_done(&mut site.worker);
    // Which of the two came last is the cause of a pair, so that this one may differ.
    let output = site.deployment.command(&["replay", "pairs", "--from", "empty", "--json"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["counts"]["records"], 40, "{found}");
    assert!(found["notes"][0].as_str().unwrap().contains("several inputs were merged by their timestamps"), "{found}");
    let present = ["--from", "empty", "--against", "present"];
    let (found, _) = replay(&site.deployment, 0, &present);
    assert_eq!((&found["counts"]["same"], &found["counts"]["different"]), (&20.into(), &0.into()), "{found}");
    let (_, said) = replay(&site.deployment, 64, &["--from", "7"]);
    assert!(said.contains("has 2 source topics, and an offset is of one"), "{said}");
    let other = copy(&site.deployment, "guest_pairs.wasm");
    let dry = done(&site.deployment, &["plugin", "swap", "pairs", "pairs", &other, "--dry-run"]);
    assert!(dry.contains("40 the same") && dry.contains("several inputs were merged"), "{dry}");
    site.stop();
}

#[test]
fn what_cannot_be_replayed_is_64_and_says_why() {
    let mut site = Site::new(LENGTHS);
    let says = |site: &Site, more: &[&str], why: &str| {
        let said = fails(&site.deployment, 64, &[&["replay", "lengths"], more].concat());
        assert!(said.contains(why), "{more:?}: {said}");
    };
    says(&site, &[], "there is no record of pipeline `lengths` to replay");
    site.feed(10);
    says(&site, &["--transform", "lenght", "--plugin", "value-length@9"], "it has `length`");
    says(&site, &["--transform", "length"], "what is to be another in transform `length`?");
    says(&site, &["--plugin", "value-length@9"], "--transform");
    says(&site, &["--from", "nowhere"], "has no savepoint `nowhere`");
    says(&site, &["--from", "2026-01-31T12:00:00"], "with its zone");
    says(&site, &["--task", "7"], "there is no task 7");
    says(&site, &["--records", "0"], "compares nothing");
    says(&site, &["--against", "emitted"], "no record of the sinks says that it comes from these records");
    says(&site, &["--from", "999999"], "there is no record");
    let nobody = fails(&site.deployment, 64, &["replay", "nobody"]);
    assert!(nobody.contains("there is no pipeline `nobody`"), "{nobody}");
    let wants = fs::read(node::plugin("value_length.wasm")).unwrap();
    let manifest = r#"{"name":"wants","version":"1.0.0","interface":"0.1.0","wants":["random"]}"#;
    let wants = sluicegate::engine::pack(&wants, &serde_json::from_str(manifest).unwrap(), true).unwrap();
    fs::write(site.deployment.path("wants.wasm"), wants).unwrap();
    let granted = LENGTHS.replace("[[sink]]", "grants = [\"random\"]\n[[sink]]");
    site.deployment.change(&granted);
    done(&site.deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
    let wants = site.deployment.path("wants.wasm");
    let wants = wants.to_str().unwrap();
    let refused = "transform `length` runs plugin wants@1.0.0, which wants random";
    says(&site, &["--transform", "length", "--plugin", wants], refused);
    // In a swap that is no reason to refuse it.
    let dry = done(&site.deployment, &["plugin", "swap", "lengths", "length", wants, "--dry-run"]);
    assert!(dry.contains("warning  records: not tried: ") && dry.contains(refused), "{dry}");
    site.stop();
}

#[test]
fn in_a_rollout_each_record_names_the_version_that_made_it() {
    let site = Site::new(&with_provenance(LENGTHS));
    crate::restarts::under_load(&site.deployment, 100, || {
        wait_for("records", || (site.deployment.read("out").len() > 200).then_some(()));
        let output =
            site.swap("length", "value_length.wasm", &json!({ "separator": ";" }), &["--wait", "--probation", "500ms"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let after = site.deployment.read("in").len();
        wait_for("records after it", || (site.deployment.read("in").len() > after + 200).then_some(()));
    });
    let total = site.deployment.read("in").len();
    site.deployment.wait_for_read("out", total);
    let mut made_by: BTreeMap<char, BTreeSet<String>> = BTreeMap::new();
    let mut sources = BTreeSet::new();
    for record in site.deployment.read("out") {
        let of = |name: &str| {
            let values = record.headers.iter().filter(|(other, _)| other == name);
            let values: Vec<_> = values.map(|(_, value)| text(value.as_deref().unwrap())).collect();
            assert_eq!(values.len(), 1, "{record:?}");
            values[0].clone()
        };
        let (_, value) = record.text();
        let separator = value.chars().find(|it| matches!(it, ',' | ';')).unwrap();
        made_by.entry(separator).or_default().insert(of("sluicegate-plugin"));
        sources.insert(of("sluicegate-source"));
    }
    assert_eq!(sources.len(), total, "every source record is named once");
    let made_by: Vec<_> = made_by.into_values().collect();
    assert!(made_by.len() == 2 && made_by.iter().all(|names| names.len() == 1), "{made_by:?}");
    assert_ne!(made_by[0], made_by[1]);
    site.stop();
}

#[test]
fn a_dry_run_of_dead_letters_shows_what_would_come_of_them_and_writes_nothing() {
    let pipeline = |on: &str| {
        format!(
            r#"
name = "letters"
[[source]]
topic = "in"
[[transform]]
name = "guest"
plugin = "guest_misbehaves.wasm"
config = {{ how = "trap", on = "{on}" }}
[[transform]]
name = "count"
plugin = "keyed_count.wasm"
[[sink]]
topic = "out"
[errors]
dead-letter-topic = "dead"
"#
        )
    };
    let deployment = Deployment::new(&pipeline("bad"));
    let values = ["good", "bad one", "good", "bad two", "badder"];
    deployment.produce("in", values.map(|value| Record::of("ada", value).in_partition(1)));
    deployment.produce("in", [0, 2].map(|partition| Record::of("grace", "good").in_partition(partition)));
    deployment.run_through();
    let letters = || deployment.read("dead").len();
    assert_eq!(letters(), 3);
    let dry = |more: &[&str]| done(&deployment, &[&["dlq", "replay", "letters", "--all", "--dry-run"], more].concat());

    // As it is, it fails again.
    let said = dry(&[]);
    assert_eq!(said.matches("be put aside: transform `guest`: trap: ").count(), 3, "{said}");

    // With the fix most go through, one after the other, on today's counts.
    deployment.change(&pipeline("badder"));
    deployment.start_ready().stop();
    let found: Value = serde_json::from_str(&dry(&["--json"])).unwrap();
    let would = found["would"].as_array().unwrap();
    assert_eq!((&found["ordered"], would.len()), (&false.into(), 3), "{found}");
    let sent = |at: usize| (&would[at]["sent"][0][0], &would[at]["sent"][0][1]["sent"]["value"]);
    assert_eq!(sent(0), (&deployment.topic("out").into(), &"3".into()), "{found}");
    assert_eq!(sent(1).1, "4", "{found}");
    assert_eq!(would[2]["put-aside"][0]["put-aside"]["kind"], "trap", "{found}");
    let said = dry(&[]);
    assert!(said.contains(&format!("send to {}: ada: 3", deployment.topic("out"))), "{said}");

    assert_eq!((letters(), deployment.read("out").len()), (3, 4));
    assert_eq!(crate::state::State::of(&deployment).counts()["ada"], 2);
    let renamed = pipeline("never").replace("\"guest\"", "\"other\"");
    deployment.change(&renamed);
    deployment.start_ready().stop();
    let said = dry(&[]);
    assert!(said.contains("not be processed: the pipeline does not have both transform `guest`"), "{said}");
}
