//! Signed plugins: what no trusted key has signed is neither stored nor deployed nor loaded, by each node's own cluster file.
#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::Value;

use crate::commands::{FROM_REGISTRY, done, fails};
use crate::deployment::Deployment;
use crate::node::Node;
use crate::records::Record;
use crate::shared::wait_for;

/// A second version of the plugin, in the work folder: the same code with a section more. Its digest.
fn other_version(deployment: &Deployment, name: &str) -> String {
    let mut bytes = fs::read(crate::node::plugin("value_length.wasm")).unwrap();
    bytes.extend([0, 6, 4, b'n', b'o', b't', b'e', b'x']);
    fs::write(deployment.path(name), &bytes).unwrap();
    sluicegate::digest::Digest::of(&bytes).to_string()
}

/// Makes a pair of keys, and a cluster file that trusts it.
fn trusting(deployment: &Deployment, cluster: &str, key: &str) -> String {
    let made: Value = serde_json::from_str(&done(deployment, &["plugin", "keygen", key, "--json"])).unwrap();
    let file = fs::read_to_string(deployment.path("sluicegate.toml")).unwrap();
    let plugins = format!("[plugins]\ntrusted-keys = [\"{key}.pub\"]\n");
    fs::write(deployment.path(cluster), file + &plugins).unwrap();
    made["id"].as_str().unwrap().to_owned()
}

fn push(deployment: &Deployment, more: &[&str]) {
    let length = crate::node::plugin("value_length.wasm");
    done(deployment, &[&["plugin", "push", length.to_str().unwrap()], more].concat());
}

fn worker(deployment: &Deployment, name: &str, cluster: &str) -> Node {
    deployment.spawn(deployment.command(&["worker", "--node-name", name, "--cluster", cluster]))
}

fn status(deployment: &Deployment) -> Value {
    let said: Value = serde_json::from_str(&done(deployment, &["status", "length", "--json"])).unwrap();
    said[0].clone()
}

/// Sends a record, and waits until it has come out.
fn passes_records_on(deployment: &Deployment, already: usize) {
    deployment.produce("in", (0..12).map(|number| Record::of(format!("key-{number}"), "x")));
    deployment.wait_for_read("out", already + 12);
}

#[test]
fn a_swap_to_a_plugin_that_nobody_has_signed_is_refused_before_anything_is_touched() {
    let deployment = Deployment::new(FROM_REGISTRY);
    let id = trusting(&deployment, "sluicegate.toml", "release");
    let length = crate::node::plugin("value_length.wasm");
    let refused = fails(&deployment, 64, &["plugin", "push", length.to_str().unwrap()]);
    assert!(refused.contains("it has no signature") && refused.contains(&id), "{refused}");
    push(&deployment, &["--key", "release.key"]);
    let node = worker(&deployment, "a", "sluicegate.toml");
    done(&deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
    passes_records_on(&deployment, 0);

    let digest = other_version(&deployment, "other.wasm");
    let swap = ["plugin", "swap", "length", "length", "other.wasm", "--wait", "--probation", "500ms"];
    let refused = fails(&deployment, 64, &swap);
    for part in ["value-length@0.1.0", &digest, "it has no signature", &id, "plugin sign other.wasm --key"] {
        assert!(refused.contains(part), "{part} is missing in {refused}");
    }
    assert!(fails(&deployment, 64, &["plugin", "inspect", &digest]).contains("no plugin"), "it is stored");
    // By a key that is none of the cluster's.
    done(&deployment, &["plugin", "keygen", "other"]);
    done(&deployment, &["plugin", "sign", "other.wasm", "--key", "other.key"]);
    let refused = fails(&deployment, 64, &swap);
    assert!(refused.contains("it is signed only by "), "{refused}");
    fs::write(deployment.path("other.wasm.sig"), "garbage").unwrap();
    assert!(fails(&deployment, 64, &swap).contains("other.wasm.sig"));
    let rollouts: Value =
        serde_json::from_str(&done(&deployment, &["plugin", "rollouts", "length", "--json"])).unwrap();
    assert_eq!(rollouts, serde_json::json!({ "under-way": null, "ended": [] }));
    let now = status(&deployment);
    assert_eq!((&now["revision"], &now["state"]), (&1.into(), &"running".into()), "{now}");
    passes_records_on(&deployment, 12);

    // Signed, its signature goes along with the bytes, and the node that loads it takes it.
    fs::remove_file(deployment.path("other.wasm.sig")).unwrap();
    done(&deployment, &["plugin", "sign", "other.wasm", "--key", "release.key"]);
    let said = done(&deployment, &swap);
    assert!(said.contains("done: transform `length`"), "{said}");
    assert!(done(&deployment, &["plugin", "inspect", &digest]).contains(&format!("{id} (trusted)")));
    passes_records_on(&deployment, 24);
    node.stop();
}

#[test]
fn a_node_that_is_stricter_than_who_deployed_waits_for_a_signature_while_others_go_on() {
    let deployment = Deployment::new(FROM_REGISTRY);
    let id = trusting(&deployment, "strict.toml", "release");
    push(&deployment, &[]);
    let [lenient, strict] =
        [("a", "sluicegate.toml"), ("b", "strict.toml")].map(|(name, cluster)| worker(&deployment, name, cluster));
    done(&deployment, &["deploy", "pipeline.toml"]);
    let refused = fails(&deployment, 64, &["deploy", "pipeline.toml", "--cluster", "strict.toml"]);
    assert!(refused.contains("transform `length`") && refused.contains("it has no signature"), "{refused}");

    let problem = wait_for("the problem of the strict node", || {
        status(&deployment)["problems"]["b"].as_str().map(ToOwned::to_owned)
    });
    for part in ["transform `length`", "value-length@0.1.0", "it has no signature", &id, "plugin sign sha256:"] {
        assert!(problem.contains(part), "{part} is missing in {problem}");
    }
    assert!(!problem.contains('\n'), "{problem}");
    passes_records_on(&deployment, 0);
    assert_eq!(status(&deployment)["nodes"]["b"]["running"], 0);

    done(&deployment, &["plugin", "sign", "value-length@0.1.0", "--key", "release.key"]);
    wait_for("tasks on the strict node", || {
        let now = status(&deployment);
        let runs = now["nodes"]["b"]["running"].as_u64().is_some_and(|running| running > 0);
        (runs && now["state"] == "running").then_some(())
    });
    passes_records_on(&deployment, 12);
    lenient.stop();
    strict.stop();
}
