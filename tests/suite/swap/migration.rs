//! Swaps to a version whose stores have another schema: the state is converted beside the version that runs, and back.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::{Cluster, each_once, offsets, rollouts, text, worker};
use crate::commands::{done, fails};
use crate::deployment::Deployment;
use crate::records::Record;
use crate::restarts::{at_least_once, per_key, under_load};
use crate::shared::wait_for;
use crate::state::State;

/// Counts per key: `keyed-count` writes `COUNT`, `guest-tally` writes `COUNT;`.
pub(super) const COUNTING: &str = r#"
name = "chain"
[[source]]
topic = "in"
[[transform]]
name = "count"
plugin = "keyed_count.wasm"
[[sink]]
topic = "out"
[delivery]
commit-interval = "50ms"
[limits]
time-per-batch = "300ms"
"#;

/// Swaps `count` for the version of schema 2.
fn swap(deployment: &Deployment, more: &[&str]) -> std::process::Output {
    let tally = crate::node::plugin("guest_tally.wasm");
    let swap = ["plugin", "swap", "chain", "count", tally.to_str().unwrap()];
    deployment.command(&[&swap, more].concat()).output().unwrap()
}

/// So many records, each of a key of its own.
pub(super) fn many_keys(deployment: &Deployment, count: usize) {
    deployment.produce("in", (0..count).map(|number| Record::of(format!("other-{number}"), "1")));
}

/// Checks that every record was counted once, and came out once. Which version made the records of each partition, in their order:
/// whether it was that of schema 2.
pub(super) fn made_by(deployment: &Deployment) -> BTreeMap<i32, Vec<bool>> {
    each_once(deployment, |_, rest| {
        assert!(matches!(rest, "" | ";"), "{rest}");
        rest == ";"
    })
}

/// Counts of many keys, of which a failure shows few.
pub(super) fn same(found: &BTreeMap<String, u64>, expected: &BTreeMap<String, u64>) {
    let differs = |(key, count): &(&String, &u64)| found.get(*key) != Some(*count);
    let differing: Vec<_> = expected.iter().filter(differs).map(|(key, count)| (key, count, found.get(key))).collect();
    assert_eq!(differing.iter().take(5).collect::<Vec<_>>(), Vec::<&(&String, &u64, Option<&u64>)>::new());
    assert_eq!(found.len(), expected.len());
}

/// The counts that the state holds under schema 2.
pub(super) fn tallies(deployment: &Deployment) -> BTreeMap<String, u64> {
    let state = State::of(deployment);
    let entries = (0..super::PARTITIONS as u32).flat_map(|partition| state.entries(partition, "count", "counts@2"));
    let count = |value: &[u8]| postcard::from_bytes::<(u64, u64)>(value).unwrap().0;
    entries.map(|(key, value)| (String::from_utf8(key).unwrap(), count(&value))).collect()
}

/// Waits until no entry of a store is left that is superseded.
pub(super) fn wait_until_tidy(cluster: &Cluster, store: &str) {
    wait_for("what is superseded to go", || {
        let said: Value =
            serde_json::from_str(&done(&cluster.deployment, &["state", "list", "chain", "--json"])).unwrap();
        let tasks = said.as_array().unwrap().iter();
        let stores = tasks.flat_map(|task| task["stores"].as_array().unwrap());
        stores.filter(|it| it["store"] == store).all(|it| it["entries"] == 0).then_some(())
    });
}

#[test]
fn state_of_another_schema_is_converted_while_records_flow_and_back() {
    for pipeline in [COUNTING.to_owned(), at_least_once(COUNTING)] {
        let cluster = Cluster::new(&pipeline);
        many_keys(&cluster.deployment, 20_000);
        under_load(&cluster.deployment, 100, || {
            wait_for("records", || (cluster.deployment.read("out").len() > 20_300).then_some(()));
            let output = swap(&cluster.deployment, &["--wait", "--probation", "500ms"]);
            let (said, told) = (text(&output.stdout), text(&output.stderr));
            assert_eq!(output.status.code(), Some(0), "{said}{told}");
            assert!(said.contains("store `counts`: schema 1 -> 2: converted beside the version that runs"), "{said}");
            assert!(said.contains("both forms of the state are kept until it has passed"), "{said}");
        });
        cluster.wait_until_done();
        wait_until_tidy(&cluster, "counts");
        let after = rollouts(&cluster.deployment)["ended"][0]["rollout"].clone();
        let expected = per_key(&cluster.deployment.read("in"));
        // What was committed last stands in the head with the next commit.
        wait_for("the tallies", || (tallies(&cluster.deployment) == expected).then_some(()));
        let back = ["plugin", "rollback", "chain", "count", "--wait", "--probation", "500ms"];
        let said = under_load(&cluster.deployment, 100, || done(&cluster.deployment, &back));
        assert!(said.contains("schema 2 -> 1: converted beside"), "{said}");
        cluster.wait_until_done();
        wait_until_tidy(&cluster, "counts@2");
        let exactly_once = cluster.deployment.exactly_once;
        let there = offsets(&cluster.deployment, &after);
        let again = offsets(&cluster.deployment, &rollouts(&cluster.deployment)["ended"][1]["rollout"]);
        let deployment = cluster.stop();
        same(&State::of(&deployment).counts(), &per_key(&deployment.read("in")));
        if !exactly_once {
            continue;
        }
        for (partition, versions) in made_by(&deployment) {
            let second = there[&partition]..again[&partition];
            let right = |(at, is_second): (usize, &bool)| *is_second == second.contains(&at);
            assert!(versions.iter().enumerate().all(right), "partition {partition} went over where the rollouts say");
        }
    }
}

#[test]
fn a_version_that_fails_after_its_state_was_converted_goes_back_without_loss() {
    let cluster = Cluster::new(COUNTING);
    // The commit that has an entry for which there is no way back is not made, and neither is one of a call that panics.
    for (key, value) in [("key-1", "panic"), ("one-way", "1")] {
        let said = under_load(&cluster.deployment, 100, || {
            let output = std::thread::scope(|scope| {
                let swap =
                    scope.spawn(|| swap(&cluster.deployment, &["--records", "0", "--wait", "--probation", "20s"]));
                wait_for("the probation", || {
                    rollouts(&cluster.deployment)["under-way"]["watched-since"].is_string().then_some(())
                });
                cluster.deployment.produce("in", [Record::of(key, value)]);
                swap.join().unwrap()
            });
            assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
            text(&output.stderr)
        });
        let reason = if value == "panic" { "told to" } else { "there is no way back for this key" };
        assert!(said.contains("is back on what it ran before") && said.contains(reason), "{said}");
    }
    cluster.wait_until_done();
    wait_until_tidy(&cluster, "counts@2");
    assert_eq!(cluster.status()["revision"], 1);
    let deployment = cluster.stop();
    same(&State::of(&deployment).counts(), &per_key(&deployment.read("in")));
    made_by(&deployment);
}

#[test]
fn state_that_cannot_be_converted_calls_the_swap_off_before_anything_has_switched() {
    for (key, reason) in [("unconvertible", "this key is refused"), ("trap", "told to")] {
        let cluster = Cluster::new(COUNTING);
        many_keys(&cluster.deployment, 5_000);
        cluster.deployment.produce("in", [Record::of(key, "1")]);
        cluster.wait_until_done();
        let refused = swap(&cluster.deployment, &[]);
        let output = swap(&cluster.deployment, &["--records", "0", "--wait", "--probation", "500ms"]);
        for (output, code) in [(refused, 64), (output, 1)] {
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(said.contains("store `counts` from schema 1 to 2") && said.contains(reason), "{said}");
        }
        let ended = rollouts(&cluster.deployment)["ended"][0].clone();
        assert_eq!((&ended["outcome"], &ended["rollout"]["switched"]), (&"returned".into(), &Value::Null), "{ended}");
        wait_until_tidy(&cluster, "counts@2");
        assert_eq!(cluster.status()["state"], "running");
        let deployment = cluster.stop();
        assert!(made_by(&deployment).values().flatten().all(|is_second| !is_second));
    }
}

#[test]
fn nodes_that_die_while_state_is_converted_lose_nothing() {
    let Cluster { deployment, nodes } = Cluster::new(COUNTING);
    many_keys(&deployment, 20_000);
    let nodes = under_load(&deployment, 100, || {
        let mut nodes = nodes;
        for round in 0..4_u64 {
            match round % 2 {
                0 => assert!(swap(&deployment, &["--probation", "1s"]).status.success()),
                _ => drop(done(&deployment, &["plugin", "rollback", "chain", "count", "--probation", "1s"])),
            }
            // Sooner and later: while it is loaded, converted, gone over to, watched.
            sleep(Duration::from_millis(300 * round));
            nodes.remove(0).kill();
            nodes.push(worker(&deployment, &format!("node-{round}")));
            wait_for("the end of the rollout", || rollouts(&deployment)["under-way"].is_null().then_some(()));
        }
        nodes
    });
    let cluster = Cluster { deployment, nodes };
    cluster.wait_until_done();
    let ended = rollouts(&cluster.deployment)["ended"].clone();
    assert!(ended.as_array().unwrap().iter().all(|ended| ended["outcome"] == "done"), "{ended}");
    let deployment = cluster.stop();
    same(&State::of(&deployment).counts(), &per_key(&deployment.read("in")));
    made_by(&deployment);
}

#[test]
fn a_deployed_plugin_converts_the_state_that_it_finds_and_one_that_cannot_is_refused() {
    let cluster = Cluster::new(COUNTING);
    many_keys(&cluster.deployment, 5_000);
    cluster.wait_until_done();
    let file = cluster.deployment.path("pipeline.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    // It converts, but not this: that is asked before anything is touched.
    std::fs::write(&file, before.replace("keyed_count.wasm", "guest_leaps.wasm")).unwrap();
    let said = fails(&cluster.deployment, 64, &["deploy", "pipeline.toml"]);
    assert!(said.contains("its `migrate` does not take that step") && said.contains("from schema 1 to 3"), "{said}");
    assert_eq!((&cluster.status()["revision"], &cluster.status()["state"]), (&1.into(), &"running".into()));
    std::fs::write(&file, before.replace("keyed_count.wasm", "guest_tally.wasm")).unwrap();
    done(&cluster.deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
    many_keys(&cluster.deployment, 5_000);
    cluster.wait_until_done();
    std::fs::write(&file, before).unwrap();
    let said = fails(&cluster.deployment, 64, &["deploy", "pipeline.toml"]);
    assert!(said.contains("declares version 1 and does not convert it"), "{said}");
    let deployment = cluster.stop();
    same(&tallies(&deployment), &per_key(&deployment.read("in")));
    made_by(&deployment);
}
