//! Versions on recorded records, with real servers: the rehearsal in the gate of a swap, `replay`, and dead letters.
#![allow(clippy::unwrap_used)]

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
