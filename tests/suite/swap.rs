//! Hot swap: a transform goes over to another version while records flow, task by task, and back when it goes wrong.
#![allow(clippy::unwrap_used)]

mod migration;
mod no_return;
mod proof;
mod shadow;

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::commands::{done, fails};
use crate::deployment::{Deployment, Servers};
use crate::node::Node;
use crate::records::Record;
use crate::restarts::{at_least_once, per_key, under_load};
use crate::shared::wait_for;
use crate::state::State;

/// Counts per key, writes the count with its length behind it, and passes everything on.
const CHAIN: &str = r#"
name = "chain"
[[source]]
topic = "in"
[[transform]]
name = "count"
plugin = "keyed_count.wasm"
[[transform]]
name = "length"
plugin = "value_length.wasm"
config = { separator = "," }
[[transform]]
name = "guest"
plugin = "guest_misbehaves.wasm"
config = { how = "trap", on = "never" }
[[sink]]
topic = "out"
[delivery]
commit-interval = "50ms"
[limits]
time-per-batch = "300ms"
"#;
const PARTITIONS: i32 = 4;

struct Cluster {
    // Before the folder that they log to.
    nodes: Vec<Node>,
    deployment: Deployment,
}

impl Cluster {
    fn new(pipeline: &str) -> Self {
        let deployment = Deployment::on(Servers::shared(), PARTITIONS, pipeline);
        let nodes = ["a", "b"].map(|name| worker(&deployment, name)).into();
        done(&deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
        Self { deployment, nodes }
    }

    /// A swap of the configuration alone.
    fn configure(&self, transform: &str, plugin: &str, new: &Value, more: &[&str]) -> Output {
        let file = config(&self.deployment, "config.json", new);
        let plugin = crate::node::plugin(plugin);
        let arguments = ["plugin", "swap", "chain", transform, plugin.to_str().unwrap(), "--config", &file];
        let probation: &[&str] = if more.contains(&"--probation") { &[] } else { &["--probation", "500ms"] };
        let arguments = [&arguments[..], &["--wait"], probation, more].concat();
        self.deployment.command(&arguments).output().unwrap()
    }

    fn separate(&self, separator: &str, more: &[&str]) -> String {
        let output = self.configure("length", "value_length.wasm", &json!({ "separator": separator }), more);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn status(&self) -> Value {
        let said: Value = serde_json::from_str(&done(&self.deployment, &["status", "chain", "--json"])).unwrap();
        said[0].clone()
    }

    fn wait_until_done(&self) {
        wait_for("a commit of everything", || (self.status()["lag"] == 0).then_some(()));
    }

    fn stop(self) -> Deployment {
        self.nodes.into_iter().for_each(Node::stop);
        self.deployment
    }
}

fn worker(deployment: &Deployment, name: &str) -> Node {
    deployment.spawn(deployment.command(&["worker", "--node-name", name]))
}

fn config(deployment: &Deployment, name: &str, config: &Value) -> String {
    let path = deployment.path(name);
    fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn rollouts(deployment: &Deployment) -> Value {
    serde_json::from_str(&done(deployment, &["plugin", "rollouts", "chain", "--json"])).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks that every record was counted once and came out once. The separators of each partition, in the order of its records.
fn separators(deployment: &Deployment) -> BTreeMap<i32, Vec<char>> {
    assert_eq!(State::of(deployment).counts(), per_key(&deployment.read("in")));
    each_once(deployment, |count, rest| {
        let mut rest = rest.chars();
        let separator = rest.next().unwrap();
        assert_eq!(rest.as_str(), count.len().to_string());
        separator
    })
}

/// Checks that every record came out once, and counts one after the other. What `of` makes of each count and of what stands behind
/// it, by partition, in the order of the records.
fn each_once<T>(deployment: &Deployment, of: impl Fn(&str, &str) -> T) -> BTreeMap<i32, Vec<T>> {
    let expected = per_key(&deployment.read("in"));
    let total = expected.values().sum::<u64>() as usize;
    deployment.wait_for_read("out", total);
    let out = deployment.read("out");
    assert_eq!(out.len(), total, "nothing is lost, and nothing repeats");
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut made: BTreeMap<i32, Vec<T>> = BTreeMap::new();
    for record in &out {
        let (key, value) = record.text();
        let digits = value.chars().take_while(char::is_ascii_digit).count();
        let next = counts.entry(key.clone()).or_default();
        *next += 1;
        assert_eq!(value[..digits].parse(), Ok(*next), "{key}: counts come out one after the other");
        made.entry(record.partition.unwrap()).or_default().push(of(&value[..digits], &value[digits..]));
    }
    migration::same(&counts, &expected);
    made
}

/// Stops the nodes, and checks that every record counted once; under exactly-once that each came out once too.
fn nothing_is_lost(cluster: Cluster) {
    cluster.wait_until_done();
    let exactly_once = cluster.deployment.exactly_once;
    let deployment = cluster.stop();
    match exactly_once {
        true => drop(separators(&deployment)),
        false => assert_eq!(State::of(&deployment).counts(), per_key(&deployment.read("in"))),
    }
}

/// Where the rollout says that each partition went over.
fn offsets(deployment: &Deployment, rollout: &Value) -> BTreeMap<i32, usize> {
    let switched = rollout["switched"].as_object().unwrap();
    let offset = |task: &Value| task["offsets"][deployment.topic("in")].as_u64().unwrap() as usize;
    switched.iter().map(|(partition, task)| (partition.parse().unwrap(), offset(task))).collect()
}

#[test]
fn a_transform_goes_over_while_records_flow_and_every_record_is_made_by_one_version() {
    let cluster = Cluster::new(CHAIN);
    let said = under_load(&cluster.deployment, 100, || {
        wait_for("records", || (cluster.deployment.read("out").len() > 300).then_some(()));
        let said = cluster.separate(";", &[]);
        let after = cluster.deployment.read("in").len();
        wait_for("records after it", || (cluster.deployment.read("in").len() > after + 300).then_some(()));
        said
    });
    for line in [
        "configuration: another one, and accepted",
        "plugin: value-length@",
        "probation: 800ms",
        "begun: ",
        "done: transform `length`",
    ] {
        assert!(said.contains(line), "{said}");
    }
    cluster.wait_until_done();
    let rollouts = rollouts(&cluster.deployment);
    assert_eq!((&rollouts["under-way"], &rollouts["ended"][0]["outcome"]), (&Value::Null, &"done".into()));
    let offsets = offsets(&cluster.deployment, &rollouts["ended"][0]["rollout"]);
    assert_eq!(offsets.len(), PARTITIONS as usize);
    assert_eq!(cluster.status()["revision"], 2);
    let recorded = done(&cluster.deployment, &["revisions", "chain", "--show", "2"]);
    assert!(recorded.contains("separator = \";\""), "{recorded}");
    let deployment = cluster.stop();
    for (partition, separators) in separators(&deployment) {
        let at = offsets[&partition];
        let made_by_old = separators.iter().take_while(|&&separator| separator == ',').count();
        assert_eq!(made_by_old, at, "partition {partition} went over where the rollout says");
        assert!(separators[at..].iter().all(|&separator| separator == ';'), "partition {partition}");
    }
    let heads = State::of(&deployment).heads();
    for (head, partition) in heads.iter().zip(0..) {
        let since = &head.committed.transforms[1].since[&deployment.topic("in")];
        assert_eq!(usize::try_from(*since).unwrap(), offsets[&partition], "the head says so too");
        assert!(head.committed.transforms[0].since.is_empty(), "the other transforms are left alone");
    }
}

#[test]
fn a_stateful_transform_finds_its_state_in_place_and_a_rollback_takes_it_back() {
    let cluster = Cluster::new(CHAIN);
    // Another plugin, which does the same.
    let mut bytes = fs::read(crate::node::plugin("keyed_count.wasm")).unwrap();
    bytes.extend([0, 6, 4, b'n', b'o', b't', b'e', b'x']);
    let other = cluster.deployment.path("other.wasm");
    fs::write(&other, bytes).unwrap();
    under_load(&cluster.deployment, 100, || {
        let other = other.to_str().unwrap();
        let said =
            done(&cluster.deployment, &["plugin", "swap", "chain", "count", other, "--wait", "--probation", "500ms"]);
        assert!(said.contains("store `counts`: schema 1, found in place"), "{said}");
        assert!(said.contains("return: loses nothing"), "{said}");
        let said =
            done(&cluster.deployment, &["plugin", "rollback", "chain", "count", "--wait", "--probation", "500ms"]);
        assert!(said.contains("done: transform `count`"), "{said}");
    });
    cluster.wait_until_done();
    let ended = rollouts(&cluster.deployment)["ended"].clone();
    assert_eq!(ended[0]["rollout"]["to"]["plugin"], ended[1]["rollout"]["from"]["plugin"]);
    assert_eq!(ended[0]["rollout"]["from"]["plugin"], ended[1]["rollout"]["to"]["plugin"]);
    separators(&cluster.stop());
}

#[test]
fn a_version_that_traps_goes_back_by_itself_and_the_pipeline_does_not_stop() {
    for pipeline in [CHAIN.to_owned(), at_least_once(CHAIN)] {
        let cluster = Cluster::new(&pipeline);
        let output = under_load(&cluster.deployment, 100, || {
            wait_for("records", || (cluster.deployment.read("out").len() > 300).then_some(()));
            let traps = json!({ "how": "trap" });
            // The gate would have found it.
            let output = cluster.configure("guest", "guest_misbehaves.wasm", &traps, &["--records", "0"]);
            let after = cluster.deployment.read("in").len();
            wait_for("records after it", || (cluster.deployment.read("in").len() > after + 300).then_some(()));
            output
        });
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("is back on what it ran before: task ") && said.contains("unreachable"), "{said}");
        cluster.wait_until_done();
        let status = cluster.status();
        assert_eq!((&status["revision"], &status["state"]), (&1.into(), &"running".into()), "{status}");
        let shown = done(&cluster.deployment, &["plugin", "rollouts", "chain"]);
        assert!(shown.contains("returned") && shown.contains("unreachable"), "{shown}");
        nothing_is_lost(cluster);
    }
}

#[test]
fn versions_that_are_no_good_never_stop_the_pipeline() {
    let cluster = Cluster::new(CHAIN);
    let bad = [
        (json!({ "how": "reject" }), "reject"),
        (json!({ "how": "loop" }), "time"),
        (json!({ "how": "leak", "number": 200 }), "fails"),
        (json!({ "how": "fatal" }), "told to stop"),
        (json!({ "how": "transient" }), "fails"),
    ];
    under_load(&cluster.deployment, 100, || {
        for (config, reason) in &bad {
            let output = cluster.configure("guest", "guest_misbehaves.wasm", config, &["--records", "0"]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{config}: {said}");
            assert!(said.contains("is back on what it ran before") && said.contains(reason), "{config}: {said}");
        }
    });
    cluster.wait_until_done();
    assert_eq!(cluster.status()["revision"], 1);
    separators(&cluster.stop());
}

#[test]
fn what_a_later_transform_rejects_of_a_new_version_takes_it_back() {
    let pipeline = r#"
name = "chain"
[[source]]
topic = "in"
[[transform]]
name = "first"
plugin = "guest_misbehaves.wasm"
config = { how = "large", on = "never", number = 2 }
[[transform]]
name = "second"
plugin = "guest_misbehaves.wasm"
config = { how = "reject", on = "xx" }
[[sink]]
topic = "out"
[errors]
on-error = "skip"
[delivery]
commit-interval = "50ms"
"#;
    let cluster = Cluster::new(pipeline);
    let output = under_load(&cluster.deployment, 100, || {
        wait_for("records", || (cluster.deployment.read("out").len() > 300).then_some(()));
        let large = json!({ "how": "large", "number": 2 });
        cluster.configure("first", "guest_misbehaves.wasm", &large, &["--records", "0", "--probation", "20s"])
    });
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is back on what it ran before: it rejects "), "{said}");
    cluster.stop();
}

#[test]
fn a_swap_without_records_says_that_nothing_is_known_of_it() {
    let cluster = Cluster::new(CHAIN);
    let said = cluster.separate(";", &[]);
    assert!(said.contains("warning: no record came while it was watched"), "{said}");
    let said = under_load(&cluster.deployment, 100, || cluster.separate("|", &[]));
    assert!(said.contains("watched over ") && said.contains(" records, 0 of them rejected"), "{said}");
    cluster.wait_until_done();
    separators(&cluster.stop());
}

#[test]
fn a_canary_goes_first() {
    let cluster = Cluster::new(CHAIN);
    let said = under_load(&cluster.deployment, 100, || {
        let output =
            cluster.configure("length", "value_length.wasm", &json!({ "separator": ";" }), &["--canary", "25%"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stderr)
    });
    assert!(said.contains("canary: 1 of 4 tasks are watched") && said.contains("probation: 4 of 4"), "{said}");
    cluster.wait_until_done();
    separators(&cluster.stop());
}

#[test]
fn a_rollout_under_way_is_alone_and_can_be_called_off() {
    let cluster = Cluster::new(CHAIN);
    let file = config(&cluster.deployment, "config.json", &json!({ "separator": ";" }));
    let plugin = crate::node::plugin("value_length.wasm");
    let plugin = plugin.to_str().unwrap();
    let swap = ["plugin", "swap", "chain", "length", plugin, "--config", &file, "--probation", "10m"];
    done(&cluster.deployment, &swap);
    wait_for("the probation", || {
        let under_way = rollouts(&cluster.deployment)["under-way"].clone();
        under_way["watched-since"].is_string().then_some(())
    });
    let refused = fails(&cluster.deployment, 64, &swap);
    assert!(
        refused.contains("is being changed already") && refused.contains("plugin rollback chain length"),
        "{refused}"
    );
    let refused = fails(&cluster.deployment, 64, &["deploy", "pipeline.toml"]);
    assert!(refused.contains("is being changed"), "{refused}");
    let said = done(&cluster.deployment, &["plugin", "rollback", "chain", "length", "--wait"]);
    assert!(said.contains("called off"), "{said}");
    cluster.deployment.produce("in", (0..40).map(|number| Record::of(format!("key-{number}"), "x")));
    cluster.wait_until_done();
    let deployment = cluster.stop();
    assert!(separators(&deployment).values().flatten().all(|&separator| separator == ','));
}

#[test]
fn a_rollout_that_no_node_takes_part_in_says_so_and_goes_on_when_one_comes() {
    let deployment = Cluster::new(CHAIN).stop();
    let file = config(&deployment, "config.json", &json!({ "separator": ";" }));
    let plugin = crate::node::plugin("value_length.wasm");
    let swap = ["plugin", "swap", "chain", "length", plugin.to_str().unwrap(), "--config", &file];
    let output = deployment.command(&[&swap[..], &["--probation", "500ms", "--wait", "6s"]].concat()).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("; it waits for a node: none runs the pipeline"),
        "{said}"
    );
    for looked in [&["status"][..], &["plugin", "rollouts", "chain"]] {
        let said = done(&deployment, looked);
        assert!(said.contains("waits for a node: none runs the pipeline"), "{said}");
    }
    assert_eq!(rollouts(&deployment)["waits-for"], json!([{ "lacks": "node" }]));
    let node = worker(&deployment, "c");
    wait_for("the end", || rollouts(&deployment)["under-way"].is_null().then_some(()));
    let ended = rollouts(&deployment);
    assert_eq!((&ended["ended"][0]["outcome"], &ended["waits-for"]), (&"done".into(), &Value::Null), "{ended}");
    node.stop();
}

#[test]
fn what_does_not_pass_the_gate_is_refused_before_anything_is_touched() {
    let cluster = Cluster::new(CHAIN);
    let path = |name: &str| crate::node::plugin(name).to_str().unwrap().to_owned();
    let length = path("value_length.wasm");
    let wrong = config(&cluster.deployment, "wrong.json", &json!({ "seperator": ";" }));
    let cases: [(&[&str], &str); 6] = [
        (&["orders", "length", &length], "there is no pipeline `orders`"),
        (&["chain", "lenght", &length], "it has `count`, `length`, `guest`"),
        (&["chain", "length", &length], "runs this already"),
        (&["chain", "length", "value-length@9"], "no plugin value-length@9 in the registry"),
        (&["chain", "length", &length, "--config", &wrong], "seperator"),
        (&["chain", "length", "nowhere.wasm"], "there is no file nowhere.wasm"),
    ];
    for (arguments, message) in cases {
        let said = fails_somehow(&cluster.deployment, &[&["plugin", "swap"], arguments].concat());
        assert!(said.contains(message), "{arguments:?}: {said}");
    }
    let dry = [
        "plugin",
        "swap",
        "chain",
        "length",
        &length,
        "--config",
        &config(&cluster.deployment, "c.json", &json!({})),
        "--dry-run",
    ];
    let said = done(&cluster.deployment, &dry);
    assert!(!said.contains("begun"), "{said}");
    assert_eq!(rollouts(&cluster.deployment), json!({ "under-way": null, "ended": [] }));
    cluster.stop();
}

fn fails_somehow(deployment: &Deployment, arguments: &[&str]) -> String {
    let output = deployment.command(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr)
}
