//! Swaps to a version that does not convert its state back: nothing goes back by itself, and a person to the state from before.

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::Value;

use super::migration::{COUNTING, many_keys, same, tallies, wait_until_tidy};
use super::{Cluster, PARTITIONS, offsets, rollouts, text};
use crate::commands::{done, fails};
use crate::deployment::Deployment;
use crate::records::Record;
use crate::restarts::{at_least_once, per_key, under_load};
use crate::shared::wait_for;
use crate::state::State;

/// Swaps `count` for the version of schema 2 that knows no step back.
fn swap(deployment: &Deployment, more: &[&str]) -> Output {
    let onward = crate::node::plugin("guest_onward.wasm");
    let swap = ["plugin", "swap", "chain", "count", onward.to_str().unwrap()];
    deployment.command(&[&swap, more].concat()).output().unwrap()
}

const BACK: [&str; 5] = ["plugin", "rollback", "chain", "count", "--from-copy"];

/// Records per key, of those for whose partition and place in it `is_in` holds.
fn per_key_in(deployment: &Deployment, is_in: impl Fn(i32, usize) -> bool) -> BTreeMap<String, u64> {
    let mut next: BTreeMap<i32, usize> = BTreeMap::new();
    let mut records = deployment.read("in");
    records.retain(|record| {
        let partition = record.partition.unwrap();
        let at = next.entry(partition).or_default();
        *at += 1;
        is_in(partition, *at - 1)
    });
    per_key(&records)
}

/// Where each task of schema 2 says that it left the store of schema 1.
fn left_at(deployment: &Deployment) -> BTreeMap<i32, usize> {
    let topic = deployment.topic("in");
    let at = |partition: i32| {
        let head = State::of(deployment).head(partition as u32).unwrap();
        usize::try_from(head.committed.transforms[0].former["counts"][&topic]).unwrap()
    };
    (0..PARTITIONS).map(|partition| (partition, at(partition))).collect()
}

fn pause(cluster: &Cluster) {
    done(&cluster.deployment, &["pause", "chain"]);
    wait_for("the pipeline to stand", || {
        let status = cluster.status();
        status["nodes"].as_object().unwrap().is_empty().then_some(())
    });
    cluster.deployment.wait_until_group_is_empty();
}

#[test]
fn a_state_that_is_not_converted_back_takes_a_flag_and_stays_as_it_was_until_a_person_goes_back_to_it() {
    for pipeline in [COUNTING.to_owned(), at_least_once(COUNTING)] {
        let cluster = Cluster::new(&pipeline);
        many_keys(&cluster.deployment, 5_000);
        cluster.wait_until_done();
        let refused = swap(&cluster.deployment, &[]);
        let said = text(&refused.stderr);
        assert!(refused.status.code() == Some(64) && said.contains("or swap with --no-return"), "{said}");
        let said = under_load(&cluster.deployment, 100, || {
            let output = swap(&cluster.deployment, &["--no-return", "--wait", "--probation", "500ms"]);
            let (said, told) = (text(&output.stdout), text(&output.stderr));
            assert_eq!(output.status.code(), Some(0), "{said}{told}");
            said
        });
        assert!(said.contains("warning  return: none by itself"), "{said}");
        many_keys(&cluster.deployment, 100);
        cluster.wait_until_done();
        let there = offsets(&cluster.deployment, &rollouts(&cluster.deployment)["ended"][0]["rollout"]);
        let listed = done(&cluster.deployment, &["state", "list", "chain"]);
        assert!(listed.contains("count/counts is the state from before a swap without return"), "{listed}");
        let listed: Value =
            serde_json::from_str(&done(&cluster.deployment, &["state", "list", "chain", "--json"])).unwrap();
        let stores = listed[0]["stores"].as_array().unwrap();
        let former = stores.iter().find(|store| store["store"] == "counts").unwrap();
        assert_eq!(
            (&former["use"], former["since"][cluster.deployment.topic("in")].as_u64()),
            (&"former".into(), Some(there[&0] as u64))
        );
        // Nothing but the flag goes back, and only to a pipeline that stands.
        let said = fails(&cluster.deployment, 64, &["plugin", "rollback", "chain", "count"]);
        assert!(said.contains("--from-copy"), "{said}");
        let said = fails(&cluster.deployment, 64, &BACK);
        assert!(said.contains("`sluicegate pause chain` first"), "{said}");
        pause(&cluster);
        // Who stops lets the head say what Kafka says.
        let before = State::of(&cluster.deployment);
        same(&tallies(&cluster.deployment), &per_key(&cluster.deployment.read("in")));
        assert_eq!(left_at(&cluster.deployment), there, "the heads say where, too");
        same(&before.counts(), &per_key_in(&cluster.deployment, |partition, at| at < there[&partition]));
        let said = fails(&cluster.deployment, 64, &BACK);
        let from = format!("task 0: what the records of {} offset {} to ", cluster.deployment.topic("in"), there[&0]);
        assert!(said.contains("add --yes") && said.contains(&from), "{said}");
        assert_eq!(State::of(&cluster.deployment).heads(), before.heads(), "it was only asked");
        let said = done(&cluster.deployment, &[&BACK[..], &["--yes"]].concat());
        assert!(said.contains("taken back: transform `count`") && said.contains(&from), "{said}");

        let ends = cluster.deployment.read("in").iter().fold(BTreeMap::new(), |mut ends, record| {
            *ends.entry(record.partition.unwrap()).or_insert(0_usize) += 1;
            ends
        });
        done(&cluster.deployment, &["resume", "chain"]);
        many_keys(&cluster.deployment, 500);
        cluster.wait_until_done();
        wait_until_tidy(&cluster, "counts@2");
        let shown = done(&cluster.deployment, &["plugin", "rollouts", "chain"]);
        assert!(shown.contains("taken back by ") && shown.contains("to the state from before rollout 1"), "{shown}");
        let exactly_once = cluster.deployment.exactly_once;
        let deployment = cluster.stop();
        let is_remembered = |partition: i32, at: usize| at < there[&partition] || at >= ends[&partition];
        same(&State::of(&deployment).counts(), &per_key_in(&deployment, is_remembered));
        if exactly_once {
            let (given, out) = (deployment.read("in").len(), deployment.read("out"));
            assert_eq!(out.len(), given, "no record is processed again, and none left out");
            let second = out.iter().filter(|record| record.text().1.ends_with(';')).count();
            let between: usize = ends.iter().map(|(partition, end)| end - there[partition]).sum();
            assert_eq!(second, between, "what the second version has sent stays");
        }
    }
}

#[test]
fn a_version_without_return_that_fails_is_held_and_the_records_fail_as_always() {
    let pipeline = COUNTING.replace("[delivery]", "[errors]\ndead-letter-topic = \"dead\"\n[delivery]");
    let cluster = Cluster::new(&pipeline);
    many_keys(&cluster.deployment, 1_000);
    cluster.wait_until_done();
    let more = ["--no-return", "--canary", "25%", "--wait", "--probation", "30s"];
    let output = std::thread::scope(|scope| {
        let swap = scope.spawn(|| swap(&cluster.deployment, &more));
        wait_for("the canary", || {
            rollouts(&cluster.deployment)["under-way"]["watched-since"].is_string().then_some(())
        });
        // The tasks of the version before say what is to be expected.
        many_keys(&cluster.deployment, 8_000);
        let panics = (0..10).map(|number| Record::of(format!("panic-{number}"), "panic").in_partition(0));
        cluster.deployment.produce("in", panics);
        swap.join().unwrap()
    });
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("the rollout is held, a person has to decide"), "{said}");
    assert!(said.contains("it rejects 10 of ") && said.contains("plugin promote chain count"), "{said}");
    let under_way = rollouts(&cluster.deployment)["under-way"].clone();
    assert_eq!((&under_way["phase"], under_way["held"].is_string()), (&"canary".into(), true), "{under_way}");
    let shown = done(&cluster.deployment, &["status"]);
    assert!(shown.contains(": held, 1 of 4 tasks have gone over; a person has to decide: it rejects"), "{shown}");
    // Nothing ends it but a decision.
    let said = fails(&cluster.deployment, 64, &["plugin", "rollback", "chain", "count"]);
    assert!(said.contains("it cannot be called off") && said.contains("--from-copy"), "{said}");
    for refused in [&["deploy", "pipeline.toml"][..], &["undeploy", "chain", "--keep-state"]] {
        assert!(fails(&cluster.deployment, 64, refused).contains("is being changed"), "{refused:?}");
    }
    assert!(fails(&cluster.deployment, 64, &["savepoint", "create", "chain", "now"]).contains("is being changed"));
    cluster.wait_until_done();
    assert_eq!(cluster.deployment.read("dead").len(), 10, "the pipeline goes on, and what fails is a dead letter");

    done(&cluster.deployment, &["plugin", "promote", "chain", "count"]);
    wait_for("the end", || rollouts(&cluster.deployment)["under-way"].is_null().then_some(()));
    let shown = done(&cluster.deployment, &["plugin", "rollouts", "chain"]);
    assert!(shown.contains("promoted, revision 2") && shown.contains("held before: it rejects 10 of"), "{shown}");
    assert!(fails(&cluster.deployment, 64, &["plugin", "promote", "chain", "count"]).contains("nothing to decide"));
    many_keys(&cluster.deployment, 100);
    cluster.wait_until_done();
    let deployment = cluster.stop();
    let counted: Vec<Record> =
        deployment.read("in").into_iter().filter(|record| !record.text().0.starts_with("panic-")).collect();
    same(&tallies(&deployment), &per_key(&counted));
    assert_eq!(deployment.read("out").len(), counted.len());
}

#[test]
fn a_held_rollout_is_taken_back_to_the_state_from_before_and_tasks_that_stayed_forget_nothing() {
    let cluster = Cluster::new(COUNTING);
    many_keys(&cluster.deployment, 1_000);
    cluster.wait_until_done();
    let more = ["--no-return", "--canary", "25%", "--probation", "10m"];
    assert!(swap(&cluster.deployment, &more).status.success());
    wait_for("the canary", || rollouts(&cluster.deployment)["under-way"]["watched-since"].is_string().then_some(()));
    many_keys(&cluster.deployment, 1_000);
    cluster.wait_until_done();
    // It need not be held for that.
    pause(&cluster);
    let said: Value =
        serde_json::from_str(&done(&cluster.deployment, &[&BACK[..], &["--yes", "--json"]].concat())).unwrap();
    let forgotten = said["forgotten"].as_array().unwrap();
    assert_eq!((forgotten.len(), &forgotten[0]["task"]), (1, &0.into()), "{said}");
    let at = |side: &str| forgotten[0][side][cluster.deployment.topic("in")].as_u64().unwrap() as usize;
    let (from, to) = (at("from"), at("to"));
    let ended = rollouts(&cluster.deployment)["ended"][0].clone();
    assert_eq!(ended["outcome"], "returned", "{ended}");
    done(&cluster.deployment, &["resume", "chain"]);
    many_keys(&cluster.deployment, 1_000);
    cluster.wait_until_done();
    wait_until_tidy(&cluster, "counts@2");
    assert_eq!(cluster.status()["revision"], 1);
    let deployment = cluster.stop();
    assert!(to > from);
    let is_remembered = |partition: i32, at: usize| partition > 0 || !(from..to).contains(&at);
    same(&State::of(&deployment).counts(), &per_key_in(&deployment, is_remembered));
}
