//! A cluster of workers: pipelines are deployed, changed, paused and taken off while records flow; nodes come, go and die.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::commands::{done, fails};
use crate::deployment::{Deployment, Servers};
use crate::node::Node;
use crate::records::Record;
use crate::resolve::LENGTH;
use crate::restarts::{COUNT, check_exact, commits, per_key, records, under_load};
use crate::shared::wait_for;
use crate::state::State;

fn worker(deployment: &Deployment, name: &str) -> Node {
    deployment.spawn(deployment.command(&["worker", "--node-name", name]))
}

fn workers<const N: usize>(deployment: &Deployment, names: [&str; N]) -> [Node; N] {
    names.map(|name| worker(deployment, name))
}

fn deploy(deployment: &Deployment) {
    done(deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
}

/// What `status` says of the pipeline.
fn status(deployment: &Deployment) -> Value {
    let said: Value = serde_json::from_str(&done(deployment, &["status", &deployment.pipeline, "--json"])).unwrap();
    said[0].clone()
}

fn wait_for_state(deployment: &Deployment, wanted: &str) -> Value {
    wait_for(&format!("state `{wanted}`"), || Some(status(deployment)).filter(|status| status["state"] == wanted))
}

/// Waits until everything in the source is committed.
fn wait_until_done(deployment: &Deployment) {
    wait_for("a commit of everything", || (status(deployment)["lag"] == 0).then_some(()));
}

/// Threads that run, by node.
fn threads(status: &Value) -> BTreeMap<String, u64> {
    let nodes = status["nodes"].as_object().unwrap();
    nodes.iter().map(|(node, presence)| (node.clone(), presence["threads"].as_u64().unwrap())).collect()
}

fn stop<const N: usize>(nodes: [Node; N]) {
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn workers_run_what_is_deployed_and_go_on_when_nodes_come_and_die() {
    let deployment = Deployment::on(Servers::shared(), 4, COUNT);
    let nodes = under_load(&deployment, 200, || {
        let [a, mut b] = workers(&deployment, ["a", "b"]);
        deploy(&deployment);
        assert_eq!(threads(&status(&deployment)), [("a".into(), 2), ("b".into(), 2)].into());
        b.wait_for("commits", |b| (commits(b) > 3.0).then_some(()));
        // Whoever leads: its end is survived.
        a.kill();
        let c = worker(&deployment, "c");
        wait_for("threads on the new node", || {
            let status = status(&deployment);
            (status["state"] == "running" && threads(&status) == [("b".into(), 2), ("c".into(), 2)].into())
                .then_some(())
        });
        [b, c]
    });
    wait_until_done(&deployment);
    let nodes_said = done(&deployment, &["nodes"]);
    assert!(nodes_said.contains("leader") && nodes_said.contains("count:2"), "{nodes_said}");
    stop(nodes);
    check_exact(&deployment);
    assert_eq!(threads(&status(&deployment)), BTreeMap::new());
}

#[test]
fn a_changed_pipeline_is_taken_over_without_a_restart_and_nothing_is_lost_or_done_twice() {
    let deployment = Deployment::new(LENGTH);
    let nodes = workers(&deployment, ["a", "b"]);
    deploy(&deployment);
    let send = |from: usize| {
        deployment.produce("in", (from..from + 300).map(|number| Record::of(format!("key-{number}"), "abc")));
    };
    send(0);
    let changed = LENGTH.replace("[[sink]]", "config = { separator = \";\" }\n[[sink]]");
    deployment.change(&changed);
    let plan = done(&deployment, &["deploy", "pipeline.toml", "--dry-run"]);
    assert!(plan.contains("+ transform[length].config.separator: \";\""), "{plan}");
    assert_eq!(status(&deployment)["revision"], 1, "a dry run changes nothing");
    deploy(&deployment);
    assert_eq!(status(&deployment)["revision"], 2);
    send(300);
    wait_until_done(&deployment);
    let revisions = done(&deployment, &["revisions", "length"]);
    assert!(revisions.contains("transform[length].config.separator"), "{revisions}");
    let first = done(&deployment, &["revisions", "length", "--show", "1"]);
    assert!(!first.contains("separator"), "{first}");
    stop(nodes);
    let out = deployment.read("out");
    assert_eq!(out.len(), 600);
    for record in &out {
        let (key, value) = record.text();
        let number: usize = key.strip_prefix("key-").unwrap().parse().unwrap();
        // What came before the change may have been processed after it; what came after it was not processed before.
        assert!(value == "abc;3" || (number < 300 && value == "abc,3"), "{key}: {value}");
    }
}

#[test]
fn another_sink_and_another_guarantee_are_taken_over_too() {
    let deployment = Deployment::new(COUNT);
    let nodes = workers(&deployment, ["a", "b"]);
    deploy(&deployment);
    deployment.produce("in", records(300, 30));
    crate::shared::create_topic(&deployment.servers.kafka, &deployment.topic("more"), 3);
    deployment.change(&COUNT.replace("topic = \"out\"", "topic = \"more\""));
    deploy(&deployment);
    deployment.produce("in", records(300, 30));
    wait_until_done(&deployment);
    deployment.change(&crate::restarts::at_least_once(COUNT));
    deploy(&deployment);
    deployment.produce("in", records(300, 30));
    wait_until_done(&deployment);
    stop(nodes);
    assert_eq!(State::of(&deployment).counts(), per_key(&deployment.read("in")));
    assert_eq!(deployment.read("out").len() + deployment.read("more").len(), 900);
    let mut values: Vec<u64> = ["out", "more"]
        .iter()
        .flat_map(|topic| deployment.read(topic))
        .filter(|record| record.text().0 == "key-7")
        .map(|record| record.text().1.parse().unwrap())
        .collect();
    values.sort_unstable();
    assert_eq!(values, (1..=30).collect::<Vec<u64>>());
}

#[test]
fn a_pipeline_is_paused_and_resumed_and_taken_off_with_and_without_its_state() {
    let deployment = Deployment::new(COUNT);
    let nodes = workers(&deployment, ["a", "b"]);
    deploy(&deployment);
    deployment.produce("in", records(300, 30));
    wait_until_done(&deployment);
    done(&deployment, &["pause", "count"]);
    wait_for_state(&deployment, "paused");
    deployment.produce("in", records(300, 30));
    done(&deployment, &["resume", "count"]);
    wait_until_done(&deployment);

    done(&deployment, &["undeploy", "count", "--keep-state"]);
    wait_for_state(&deployment, "undeployed");
    check_exact(&deployment);
    let refused = fails(&deployment, 64, &["pause", "count"]);
    assert!(refused.contains("is not deployed"), "{refused}");
    deployment.produce("in", records(300, 30));
    deploy(&deployment);
    wait_until_done(&deployment);
    let sevens = deployment.read("out").into_iter().filter(|record| record.text().0 == "key-7");
    let sevens: Vec<String> = sevens.map(|record| record.text().1).collect();
    assert_eq!(sevens, (1..=30).map(|count| count.to_string()).collect::<Vec<_>>());

    let refused = fails(&deployment, 64, &["undeploy", "count"]);
    assert!(refused.contains("--yes") && refused.contains("--keep-state"), "{refused}");
    done(&deployment, &["undeploy", "count", "--yes"]);
    wait_for("the end of the state", || State::of(&deployment).heads().is_empty().then_some(()));
    assert!(done(&deployment, &["status"]).contains("no pipelines"));
    deploy(&deployment);
    wait_until_done(&deployment);
    let status = status(&deployment);
    assert_eq!(status["incarnation"], 2);
    stop(nodes);
    let again = deployment.read("out").len() - 900;
    assert_eq!(again, 900, "it begins anew where `start` says");
}

#[test]
fn a_pipeline_goes_on_from_a_savepoint() {
    let deployment = Deployment::new(COUNT);
    let nodes = workers(&deployment, ["a"]);
    deploy(&deployment);
    deployment.produce("in", records(300, 30));
    wait_until_done(&deployment);
    let made = under_load(&deployment, 100, || done(&deployment, &["savepoint", "create", "count", "before"]));
    assert!(made.contains("3 tasks"), "{made}");
    wait_until_done(&deployment);
    let refused = fails(&deployment, 64, &["savepoint", "restore", "count", "before", "--yes"]);
    assert!(refused.contains("sluicegate pause count"), "{refused}");
    done(&deployment, &["pause", "count"]);
    wait_for_state(&deployment, "paused");
    let refused = fails(&deployment, 64, &["savepoint", "restore", "count", "before"]);
    assert!(refused.contains("--yes"), "{refused}");
    done(&deployment, &["savepoint", "restore", "count", "before", "--yes"]);
    done(&deployment, &["resume", "count"]);
    wait_until_done(&deployment);
    wait_for_state(&deployment, "running");
    stop(nodes);
    // State and offsets belong together: whatever was counted after the savepoint is counted again, and nothing else.
    let counts = State::of_incarnation(&deployment, 2).counts();
    assert_eq!(counts, per_key(&deployment.read("in")));
    assert!(done(&deployment, &["savepoint", "list", "count"]).contains("complete"));
    done(&deployment, &["savepoint", "delete", "count", "before"]);
    assert!(done(&deployment, &["savepoint", "list", "count"]).contains("no savepoints"));
}

#[test]
fn a_pipeline_that_fails_is_tried_again_and_says_why_while_others_go_on() {
    let deployment = Deployment::new(COUNT);
    let nodes = workers(&deployment, ["a"]);
    deploy(&deployment);
    // The same source, another pipeline, whose plugin fails on every record.
    let text = fs::read_to_string(deployment.path("pipeline.toml")).unwrap();
    let fails_always = crate::node::plugin("guest_misbehaves.wasm");
    let counting = crate::node::plugin("keyed_count.wasm");
    let broken = text
        .replace("name = \"count\"\n", "name = \"broken\"\n")
        .replace(counting.to_str().unwrap(), fails_always.to_str().unwrap())
        .replace("[[transform]]", "[[transform]]\nconfig = { how = \"trap\" }");
    fs::write(deployment.path("broken.toml"), broken).unwrap();
    done(&deployment, &["deploy", "broken.toml"]);
    deployment.produce("in", records(300, 30));
    wait_for("the failure in the status", || {
        let said: Value = serde_json::from_str(&done(&deployment, &["status", "broken", "--json"])).unwrap();
        (said[0]["state"] == "retrying" || said[0]["state"] == "failed")
            .then(|| said[0]["problems"]["a"].as_str().map(str::to_owned))?
            .filter(|problem| problem.contains("transform"))
    });
    wait_until_done(&deployment);
    done(&deployment, &["undeploy", "broken", "--yes"]);
    stop(nodes);
    check_exact(&deployment);
}

#[test]
fn clusters_in_different_namespaces_do_not_see_each_other() {
    let (one, other) = (Deployment::new(COUNT), Deployment::new(COUNT));
    let nodes = [worker(&one, "a"), worker(&other, "a")];
    deploy(&one);
    assert!(done(&other, &["status"]).contains("no pipelines"));
    let listed: Value = serde_json::from_str(&done(&other, &["nodes", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    one.produce("in", records(300, 30));
    wait_until_done(&one);
    stop(nodes);
    check_exact(&one);
}

#[test]
fn what_runs_by_itself_is_not_deployed_and_what_is_deployed_does_not_run_by_itself() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    let alone = deployment.start_ready();
    let refused = fails(&deployment, 64, &["deploy", "pipeline.toml"]);
    assert!(refused.contains("`count` runs by itself on a"), "{refused}");
    let refused = fails(&deployment, 64, &["undeploy", "count", "--yes"]);
    assert!(refused.contains("`count` runs by itself on a"), "{refused}");
    alone.stop();
    let nodes = workers(&deployment, ["b"]);
    deploy(&deployment);
    deployment.start().wait_for_end().expect(64, &["`count` is deployed", "sluicegate undeploy count --keep-state"]);
    deployment.produce("in", records(300, 30));
    wait_until_done(&deployment);
    stop(nodes);
    check_exact(&deployment);
}

#[test]
fn a_deployment_that_could_not_go_on_from_the_state_is_refused() {
    let deployment = Deployment::new(COUNT);
    let nodes = workers(&deployment, ["a"]);
    deploy(&deployment);
    deployment.produce("in", records(300, 30));
    wait_until_done(&deployment);
    deployment.change(&LENGTH.replace("name = \"length\"\n[[source]]", "name = \"count\"\n[[source]]"));
    let refused = fails(&deployment, 64, &["deploy", "pipeline.toml"]);
    assert!(refused.contains("has kept state") && refused.contains("--discard-state"), "{refused}");
    wait_until_done(&deployment);
    stop(nodes);
    check_exact(&deployment);
}

#[test]
fn a_deployment_of_one_machine_needs_no_zookeeper() {
    let deployment = Deployment::on(Servers::local(), 3, COUNT);
    let mut node = worker(&deployment, "a");
    node.wait_for_log("working:");
    deploy(&deployment);
    deployment.produce("in", records(300, 30));
    wait_until_done(&deployment);
    assert!(done(&deployment, &["nodes"]).contains("leader"));
    node.stop();
    assert_eq!(deployment.read("out").len(), 300);
}

#[test]
fn without_a_cluster_a_pipeline_is_started_over_and_goes_back_to_a_savepoint() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    done(&deployment, &["savepoint", "create", "count", "before"]);
    deployment.produce("in", records(300, 30));
    deployment.run_through();
    done(&deployment, &["savepoint", "restore", "count", "before", "--yes"]);
    assert!(State::of(&deployment).heads().is_empty(), "nobody leads who would delete what was there before");
    let again = deployment.start();
    deployment.wait_for_read("out", 900);
    again.stop();
    assert_eq!(State::of_incarnation(&deployment, 2).counts(), per_key(&deployment.read("in")));

    let said = done(&deployment, &["undeploy", "count", "--yes"]);
    assert!(said.contains("its state is deleted\n"), "{said}");
    assert!(State::of_incarnation(&deployment, 2).heads().is_empty());
    let anew = deployment.start();
    deployment.wait_for_read("out", 1_500);
    anew.stop();
    assert_eq!(State::of_incarnation(&deployment, 3).counts(), per_key(&deployment.read("in")));
}

#[test]
fn a_file_from_before_a_swap_is_not_run_and_deploy_says_that_it_takes_the_swap_back() {
    let deployment = Deployment::new(LENGTH);
    deployment.produce("in", records(30, 3));
    let node = worker(&deployment, "a");
    deploy(&deployment);
    fs::write(deployment.path("new.toml"), "separator = \";\"\n").unwrap();
    let plugin = crate::node::plugin("value_length.wasm");
    let swap = ["plugin", "swap", "length", "length", plugin.to_str().unwrap(), "--config", "new.toml"];
    done(&deployment, &[&swap[..], &["--probation", "500ms", "--wait"]].concat());
    done(&deployment, &["undeploy", "length", "--keep-state"]);
    node.stop();

    let said = fails(&deployment, 64, &["run", "pipeline.toml"]);
    assert!(
        said.contains("transform `length`: the file has ") && said.contains("; since rollout 1 it runs "),
        "{said}"
    );
    assert!(said.contains("config.separator: nothing in the file, \";\" runs"), "{said}");
    assert!(said.contains("`sluicegate revisions length --show 2 > FILE`"), "{said}");
    let before = fs::read(deployment.path("pipeline.toml")).unwrap();
    let recorded = done(&deployment, &["revisions", "length", "--show", "2"]);
    fs::write(deployment.path("pipeline.toml"), recorded).unwrap();
    let swapped = || deployment.read("out").iter().filter(|record| record.text().1.contains(';')).count();
    let before_the_run = swapped();
    deployment.produce("in", records(30, 3));
    deployment.run_through();
    assert_eq!(swapped(), before_the_run + 30, "what was swapped in runs");

    fs::write(deployment.path("pipeline.toml"), before).unwrap();
    let said = done(&deployment, &["deploy", "pipeline.toml", "--dry-run"]);
    assert!(said.contains("this takes back the swap of transform `length`, rollout 1: from "), "{said}");
    done(&deployment, &["deploy", "pipeline.toml"]);
    done(&deployment, &["undeploy", "length", "--keep-state"]);
    deployment.produce("in", records(30, 3));
    deployment.run_through();
    assert_eq!((swapped(), deployment.read("out").len()), (before_the_run + 30, 90), "the file has won");
}

#[test]
fn status_shows_a_rollout_under_way_until_it_has_ended() {
    let deployment = Deployment::new(LENGTH);
    deployment.produce("in", records(30, 3));
    let node = worker(&deployment, "a");
    deploy(&deployment);
    assert!(status(&deployment)["rollout"].is_null());
    fs::write(deployment.path("new.toml"), "separator = \";\"\n").unwrap();
    let plugin = crate::node::plugin("value_length.wasm");
    let swap = ["plugin", "swap", "length", "length", plugin.to_str().unwrap(), "--config", "new.toml"];
    done(&deployment, &[&swap[..], &["--probation", "10m"]].concat());
    let rollout = wait_for("all tasks to have gone over", || {
        Some(status(&deployment)["rollout"].clone())
            .filter(|it| it["gone-over"] == 3 && it["watched-since"].is_string())
    });
    assert_eq!((&rollout["transform"], &rollout["phase"]), (&"length".into(), &"everywhere".into()), "{rollout}");
    let shown = done(&deployment, &["status"]);
    let line = shown.lines().find(|line| line.starts_with("length: rollout 1 of transform `length`, ")).unwrap();
    assert!(line.contains(" -> ") && line.ends_with(": probation, 3 of 3 tasks have gone over"), "{line}");
    done(&deployment, &["plugin", "rollback", "length", "length", "--wait"]);
    assert!(status(&deployment)["rollout"].is_null());
    assert!(!done(&deployment, &["status"]).contains("rollout"));
    node.stop();
}
