//! The command line as a script sees it: exit codes, what goes to stdout, and what errors say.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::deployment::{Deployment, Servers};
use crate::node;
use crate::records::Record;
use crate::restarts::COUNT;
use crate::shared::wait_for;

/// A pipeline whose plugin comes from the registry.
pub(crate) const FROM_REGISTRY: &str = r#"
name = "length"
[[source]]
topic = "in"
[[transform]]
name = "length"
plugin = "value-length@0.1.0"
[[sink]]
topic = "out"
"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command to its end.
fn run(deployment: &Deployment, arguments: &[&str]) -> Output {
    deployment.command(arguments).output().unwrap()
}

/// What a command prints that succeeds.
pub(crate) fn done(deployment: &Deployment, arguments: &[&str]) -> String {
    let output = run(deployment, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What a command says that fails.
pub(crate) fn fails(deployment: &Deployment, code: i32, arguments: &[&str]) -> String {
    let output = run(deployment, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "", "errors go to stderr");
    text(&output.stderr)
}

#[test]
fn what_was_typed_wrong_is_64_and_help_is_0() {
    let deployment = Deployment::new(FROM_REGISTRY);
    assert!(fails(&deployment, 64, &["frobnicate"]).contains("frobnicate"));
    fails(&deployment, 64, &["run"]);
    fails(&deployment, 64, &["run", "pipeline.toml", "--no-such-flag"]);
    assert!(fails(&deployment, 64, &["run", "nowhere.toml"]).contains("nowhere.toml"));
    assert!(fails(&deployment, 64, &["run", "pipeline.toml", "--log", "=="]).contains("log filter"));
    assert!(done(&deployment, &["--help"]).contains("run"));
    assert!(done(&deployment, &["--version"]).starts_with("sluicegate "));
}

#[test]
fn a_wrong_pipeline_file_is_64_with_the_line_and_what_to_write() {
    let deployment = Deployment::new(FROM_REGISTRY);
    let wrong = "name = \"x\"\n\n[[source]]\ntopik = \"in\"\n\n[[transform]]\nname = \"t\"\nplugin = \"p@1\"\n\n[[sink]]\ntopic = 5\n";
    fs::write(deployment.path("wrong.toml"), wrong).unwrap();
    let said = fails(&deployment, 64, &["run", "wrong.toml"]);
    assert!(said.contains("wrong.toml:4:1") && said.contains("write `topic`"), "{said}");
    assert!(said.contains("wrong.toml:11:"), "all errors at once:\n{said}");
}

#[test]
fn a_wrong_cluster_file_is_64_with_the_line() {
    let deployment = Deployment::new(FROM_REGISTRY);
    fs::write(deployment.path("wrong.toml"), "[kafka]\nenable.auto.commit = true\nnot.a.property = 1\n").unwrap();
    let said = fails(&deployment, 64, &["run", "pipeline.toml", "--cluster", "wrong.toml"]);
    assert!(said.contains("wrong.toml:2:") && said.contains("enable.auto.commit"), "{said}");
    fs::write(deployment.path("wrong.toml"), "[kafka]\nnot.a.property = 1\n").unwrap();
    let said = fails(&deployment, 64, &["run", "pipeline.toml", "--cluster", "wrong.toml"]);
    assert!(said.contains("wrong.toml:2:") && said.contains("not.a.property"), "{said}");
}

#[test]
fn a_plugin_that_is_not_there_is_64_with_what_to_do() {
    let deployment = Deployment::new(FROM_REGISTRY);
    let said = fails(&deployment, 64, &["run", "pipeline.toml"]);
    assert!(said.contains("value-length@0.1.0") && said.contains("plugin push"), "{said}");
    assert!(said.contains("pipeline.toml:"), "{said}");
}

/// Pushes, runs, looks and removes, with whatever store the deployment has.
fn registry_while_a_node_runs(deployment: &Deployment) {
    let length = node::plugin("value_length.wasm");
    let length = length.to_str().unwrap();
    assert!(done(deployment, &["plugin", "push", length]).starts_with("value-length@0.1.0 pushed:"));
    deployment.produce("in", [Record::of("a", "hello")]);
    let mut running = deployment.start();
    deployment.wait_until_done(&mut running);

    let count = node::plugin("keyed_count.wasm");
    let pushed: Value =
        serde_json::from_str(&done(deployment, &["plugin", "push", count.to_str().unwrap(), "--json"])).unwrap();
    assert_eq!((&pushed["name"], &pushed["was-there"]), (&"keyed-count".into(), &false.into()));
    assert!(done(deployment, &["plugin", "push", length]).contains("already, with the same contents"));
    let listed: Value = serde_json::from_str(&done(deployment, &["plugin", "list", "--json"])).unwrap();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["keyed-count", "value-length"]);
    assert!(done(deployment, &["plugin", "list"]).contains("value-length"));
    let inspected = done(deployment, &["plugin", "inspect", "keyed-count@0.1.0"]);
    assert!(inspected.contains("counts") && inspected.contains(pushed["digest"].as_str().unwrap()), "{inspected}");

    let refused = run(deployment, &["plugin", "remove", "value-length@0.1.0"]);
    assert!(
        !refused.status.success() && text(&refused.stderr).contains(&format!("pipeline `{}`", deployment.pipeline)),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(done(deployment, &["plugin", "remove", "keyed-count@0.1.0"]), "removed keyed-count@0.1.0\n");
    assert!(!done(deployment, &["plugin", "list"]).contains("keyed-count"));

    deployment.produce("in", [Record::of("a", "hi")]);
    deployment.wait_until_done(&mut running);
    running.stop();
    let values: Vec<String> = deployment.read("out").iter().map(|record| record.text().1).collect();
    assert_eq!(values, ["hello,5", "hi,2"]);
    assert!(done(deployment, &["plugin", "list"]).contains("value-length"));
}

#[test]
fn plugins_are_pushed_and_removed_in_zookeeper_while_a_node_runs() {
    registry_while_a_node_runs(&Deployment::new(FROM_REGISTRY));
}

#[test]
fn plugins_are_pushed_and_removed_in_the_local_store_while_a_node_has_it_open() {
    // All local stores have one namespace in Kafka: the pipeline's name has to be its own.
    let pipeline = FROM_REGISTRY.replacen("\"length\"", "\"length-local\"", 1);
    registry_while_a_node_runs(&Deployment::on(Servers::local(), 3, &pipeline));
}

#[test]
fn plugin_commands_tell_bad_input_from_failure() {
    let deployment = Deployment::new(FROM_REGISTRY);
    fails(&deployment, 64, &["plugin", "push", "nowhere.wasm"]);
    fs::write(deployment.path("no.wasm"), "no component").unwrap();
    fails(&deployment, 64, &["plugin", "push", "no.wasm"]);
    fails(&deployment, 64, &["plugin", "remove", "value-length"]);
    let away = ["plugin", "list", "--zookeeper-connect", "127.0.0.1:1"];
    assert!(fails(&deployment, 1, &away).contains("127.0.0.1:1"));
}

#[test]
fn a_plugin_is_looked_at_without_a_cluster() {
    let deployment = Deployment::new(FROM_REGISTRY);
    let file = node::plugin("keyed_count.wasm");
    let shown = done(&deployment, &["plugin", "inspect", file.to_str().unwrap(), "--zookeeper-connect", "127.0.0.1:1"]);
    assert!(shown.starts_with("keyed-count@"), "{shown}");
}

#[test]
fn state_in_the_local_store_survives_sigkill() {
    let pipeline = COUNT.replacen("\"count\"", "\"count-local\"", 1);
    let deployment = Deployment::on(Servers::local(), 3, &pipeline);
    for expected in ["1", "2", "3"] {
        deployment.produce("in", [Record::of("a", "x")]);
        let mut node = deployment.start();
        deployment.wait_until_done(&mut node);
        node.kill();
        assert_eq!(deployment.read("out").last().unwrap().text().1, expected);
    }
}

#[test]
fn topics_that_are_missing_are_waited_for() {
    let deployment = Deployment::new(COUNT);
    let file = deployment.path("pipeline.toml");
    let topic = format!("{}.late", deployment.namespace);
    let changed = fs::read_to_string(&file).unwrap().replace(&deployment.topic("out"), &topic);
    fs::write(&file, changed).unwrap();
    let mut node = deployment.start();
    node.wait_for_log("waiting: ");
    node.wait_for("the name of the topic", |node| node.log().contains(&topic).then_some(()));
    assert_eq!(node.get("/healthz").unwrap().0, 200);
    assert_eq!(node.get("/readyz").unwrap().0, 503);
    crate::shared::create_topic(&deployment.servers.kafka, &topic, 1);
    node.wait_until_ready();
    node.stop();
}

#[test]
fn a_second_signal_ends_at_once() {
    // A plugin that does not come back for a minute: that long the stop would take.
    let deployment = Deployment::new(
        r#"
        name = "loops"
        [[source]]
        topic = "in"
        [[transform]]
        name = "guest"
        plugin = "guest_misbehaves.wasm"
        config = { how = "loop" }
        [[sink]]
        topic = "out"
        [limits]
        time-per-batch = "1m"
        "#,
    );
    deployment.produce("in", [Record::keyless(0, "x")]);
    let mut node = deployment.start();
    node.wait_for("the record", |node| (node.metric("sluicegate_records_in_total") >= 1.0).then_some(()));
    node.signal(libc::SIGTERM);
    node.wait_for_log("a second signal ends at once");
    let begin = Instant::now();
    // Signals close together count as one: again until one counts.
    wait_for("the end", || {
        node.signal(libc::SIGTERM);
        node.has_ended().then_some(())
    });
    node.wait_for_end().expect(1, &[]);
    assert!(begin.elapsed() < Duration::from_secs(10));
}
