//! A candidate in the shadow of the version that runs: what it would have done is seen, and nothing of it happens.

use serde_json::{Value, json};

use super::{CHAIN, Cluster, nothing_is_lost, rollouts, separators, text, worker};
use crate::commands::done;
use crate::deployment::Deployment;
use crate::restarts::{at_least_once, under_load};
use crate::shared::wait_for;

/// Swaps `count` for a plugin, with so many records in the shadow first.
fn swap(deployment: &Deployment, plugin: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let swap = ["plugin", "swap", "chain", "count", plugin, "--wait", "--probation", "500ms"];
    let output = deployment.command(&[&swap, more].concat()).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The counter under another digest.
fn same_counter(deployment: &Deployment) -> String {
    let mut bytes = std::fs::read(crate::node::plugin("keyed_count.wasm")).unwrap();
    bytes.extend([0, 6, 4, b'n', b'o', b't', b'e', b'x']);
    let path = deployment.path("other.wasm");
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn last(deployment: &Deployment) -> Value {
    let ended = rollouts(deployment)["ended"].clone();
    ended.as_array().unwrap().last().unwrap().clone()
}

#[test]
fn a_version_that_does_the_same_agrees_record_for_record_with_a_state_of_its_own() {
    for pipeline in [CHAIN.to_owned(), at_least_once(CHAIN)] {
        let cluster = Cluster::new(&pipeline);
        let other = same_counter(&cluster.deployment);
        let (code, said, told) = under_load(&cluster.deployment, 100, || {
            wait_for("records", || (cluster.deployment.read("out").len() > 300).then_some(()));
            swap(&cluster.deployment, &other, &["--shadow", "600"])
        });
        assert_eq!(code, Some(0), "{said}{told}");
        assert!(said.contains("shadow: the next 600 records first"), "{said}");
        assert!(told.contains(" of 600 records: ") && told.contains(" the same\n"), "{told}");
        let shadowed = last(&cluster.deployment)["rollout"]["shadowed"].clone();
        let [records, same] = ["records", "same"].map(|count| shadowed["counts"][count].as_u64().unwrap());
        assert!(records >= 600 && records == same, "{shadowed}");
        assert_eq!(shadowed["examples"], json!([]));
        nothing_is_lost(cluster);
    }
}

#[test]
fn state_of_another_schema_is_seen_as_converted_and_goes_on_by_itself() {
    let cluster = Cluster::new(super::migration::COUNTING);
    let tally = crate::node::plugin("guest_tally.wasm");
    let (code, said, told) = under_load(&cluster.deployment, 100, || {
        wait_for("records", || (cluster.deployment.read("out").len() > 300).then_some(()));
        swap(&cluster.deployment, tally.to_str().unwrap(), &["--shadow", "600"])
    });
    assert_eq!(code, Some(0), "{said}{told}");
    let shadowed = last(&cluster.deployment)["rollout"]["shadowed"].clone();
    let counts = &shadowed["counts"];
    assert_eq!((&counts["same"], &counts["different"]), (&0.into(), &counts["records"]), "{shadowed}");
    let examples = shadowed["examples"].as_array().unwrap();
    for example in examples {
        let [first, second] = ["first", "second"].map(|side| example[side]["sent"]["value"].as_str().unwrap());
        assert_eq!(format!("{first};"), second, "both have counted alike: {example}");
        assert!(example["offset"].is_u64(), "{example}");
    }
    assert!(!examples.is_empty() && said.contains("\n  different: topic "), "{said}");
    cluster.wait_until_done();
    super::migration::made_by(&cluster.stop());
}

#[test]
fn too_many_differences_call_it_off_before_anything_of_it_was_sent() {
    let cluster = Cluster::new(CHAIN);
    let output = under_load(&cluster.deployment, 100, || {
        let more = ["--shadow", "1m", "--max-differences", "1%", "--records", "0"];
        cluster.configure("length", "value_length.wasm", &json!({ "separator": ";" }), &more)
    });
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}{told}");
    assert!(told.contains("is back on what it ran before: in the shadow, of "), "{told}");
    assert!(said.contains("\n  different: topic ") && said.contains(", for output "), "{said}");
    let shown = done(&cluster.deployment, &["plugin", "rollouts", "chain"]);
    assert!(shown.contains("1: shadow: ") && shown.contains(", for output "), "{shown}");
    cluster.wait_until_done();
    assert_eq!(cluster.status()["revision"], 1);
    assert!(separators(&cluster.stop()).values().flatten().all(|&separator| separator == ','));
}

#[test]
fn what_fails_in_the_shadow_is_called_off_and_the_pipeline_does_not_notice() {
    let cluster = Cluster::new(CHAIN);
    let bad = [
        (json!({ "how": "trap" }), "in the shadow of the version before: "),
        (json!({ "how": "loop" }), "in the shadow of the version before: "),
        (json!({ "how": "leak", "number": 200 }), "in the shadow of the version before: "),
        (json!({ "how": "reject" }), "it rejects "),
    ];
    under_load(&cluster.deployment, 100, || {
        for (config, reason) in &bad {
            let more = ["--shadow", "1m", "--records", "0"];
            let output = cluster.configure("guest", "guest_misbehaves.wasm", config, &more);
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{config}: {told}");
            assert!(told.contains("is back on what it ran before") && told.contains(reason), "{config}: {told}");
            assert_eq!(last(&cluster.deployment)["rollout"]["switched"], Value::Null);
        }
    });
    cluster.wait_until_done();
    assert_eq!(cluster.status()["revision"], 1);
    separators(&cluster.stop());
}

#[test]
fn tasks_that_move_in_the_shadow_begin_there_anew_and_still_agree() {
    let Cluster { deployment, mut nodes } = Cluster::new(CHAIN);
    let other = same_counter(&deployment);
    let nodes = under_load(&deployment, 100, || {
        done(&deployment, &["plugin", "swap", "chain", "count", &other, "--shadow", "10m"]);
        for round in 0..3 {
            let seen = || {
                let status: Value = serde_json::from_str(&done(&deployment, &["status", "chain", "--json"])).unwrap();
                status[0]["rollout"]["shadowed"]["counts"].clone()
            };
            wait_for("records in the shadow", || (seen()["records"].as_u64() > Some(200)).then_some(()));
            let counts = seen();
            assert_eq!(counts["records"], counts["same"], "round {round}: {counts}");
            nodes.remove(0).kill();
            nodes.push(worker(&deployment, &format!("node-{round}")));
        }
        let said = done(&deployment, &["plugin", "rollback", "chain", "count", "--wait"]);
        assert!(said.contains("called off"), "{said}");
        nodes
    });
    let cluster = Cluster { nodes, deployment };
    cluster.wait_until_done();
    assert_eq!(cluster.status()["revision"], 1);
    separators(&cluster.stop());
}
