//! A cluster over HTTP, as programs use it: deployed, looked at, paused and taken off, on any of its nodes.
#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::Value;

use crate::commands::{FROM_REGISTRY, done};
use crate::deployment::Deployment;
use crate::node::Node;
use crate::records::Record;
use crate::shared::wait_for;

const TOKEN: &str = "a-token-of-the-tests";

struct Client {
    base: String,
    agent: ureq::Agent,
}

impl Client {
    fn of(node: &mut Node) -> Self {
        let address = node.wait_for("an http endpoint", |node| node.http());
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Self { base: format!("http://{address}/api/v1"), agent }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let uri = format!("{}{path}", self.base);
        let request = ureq::http::Request::builder().method(method).uri(uri);
        let request = request.header("Authorization", format!("Bearer {TOKEN}")).body(body.to_owned()).unwrap();
        let mut response = self.agent.run(request).unwrap();
        (response.status().as_u16(), response.body_mut().read_json().unwrap())
    }

    fn done(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = self.ask(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    fn wait_for_state(&self, state: &str) {
        wait_for(&format!("state `{state}`"), || {
            (self.done("GET", "/pipelines/length", "")["state"] == state).then_some(())
        });
    }
}

#[test]
fn a_pipeline_is_deployed_changed_paused_and_taken_off_over_http() {
    let deployment = Deployment::new(FROM_REGISTRY);
    fs::write(deployment.path("token"), TOKEN).unwrap();
    let cluster = fs::read_to_string(deployment.path("sluicegate.toml")).unwrap();
    let cluster = cluster.replace("[http]\n", "[http]\ntoken-file = \"token\"\n");
    fs::write(deployment.path("sluicegate.toml"), cluster).unwrap();
    let worker = |name: &str| deployment.spawn(deployment.command(&["worker", "--node-name", name]));
    let (mut a, mut b) = (worker("a"), worker("b"));
    let (on_a, on_b) = (Client::of(&mut a), Client::of(&mut b));
    let file = fs::read_to_string(deployment.path("pipeline.toml")).unwrap();

    // Its plugin is not there yet.
    let (status, problem) = on_a.ask("PUT", "/pipelines/length", &file);
    assert_eq!((status, &problem["code"]), (422, &"invalid-pipeline".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("value-length@0.1.0"), "{problem}");
    done(&deployment, &["plugin", "push", crate::node::plugin("value_length.wasm").to_str().unwrap()]);
    assert_eq!(on_b.done("GET", "/plugins", "")[0]["name"], "value-length");

    let plan = on_a.done("PUT", "/pipelines/length?dry-run=true", &file);
    assert_eq!((&plan["is-new"], &plan["deployed"], &plan["partitions"]), (&true.into(), &false.into(), &3.into()));
    assert_eq!(on_b.ask("GET", "/pipelines/length", "").0, 404, "a dry run changes nothing");
    assert_eq!(on_a.done("PUT", "/pipelines/length", &file)["deployed"], true);
    on_b.wait_for_state("running");
    deployment.produce("in", [Record::of("a", "abc")]);
    wait_for("a record", || (deployment.read("out").len() == 1).then_some(()));

    // What the commands say is what it says.
    let command = |words: &[&str]| -> Value { serde_json::from_str(&done(&deployment, words)).unwrap() };
    assert_eq!(on_a.done("GET", "/nodes", ""), command(&["nodes", "--json"]));
    let told = on_a.done("GET", "/pipelines/length?rates=true", "");
    assert!(told["rates"]["in"].is_number() && told["task-status"].as_array().unwrap().len() == 3, "{told}");
    assert_eq!(on_a.done("GET", "/pipelines/length/revisions", ""), command(&["revisions", "length", "--json"]));

    // Another configuration of a transform, by a rollout: first looked at, then begun.
    let swap = |more: &str| {
        let config = r#"{"separator": ";"}"#;
        format!(
            r#"{{"transform": "length", "plugin": "value-length@0.1.0", "config": {config}, "strategy": {{"probation-ms": 1}}{more}}}"#
        )
    };
    let looked_at = on_a.done("POST", "/pipelines/length/rollouts", &swap(r#", "dry-run": true"#));
    assert_eq!((&looked_at["begun"], &looked_at["rehearsed"]["counts"]["different"]), (&false.into(), &1.into()));
    assert!(on_b.done("GET", "/pipelines/length/rollouts", "")["under-way"].is_null(), "a dry run changes nothing");
    let begun = on_b.done("POST", "/pipelines/length/rollouts", &swap(""));
    assert_eq!((&begun["begun"], &begun["rollout"]["number"]), (&true.into(), &1.into()), "{begun}");
    let ended = wait_for("the end of the rollout", || {
        on_a.done("GET", "/pipelines/length/rollouts", "")["ended"].as_array()?.first().cloned()
    });
    assert_eq!(ended["outcome"], "done", "{ended}");
    let (status, problem) = on_a.ask("POST", "/pipelines/length/rollouts", &swap(""));
    assert_eq!((status, &problem["code"]), (409, &"conflict".into()), "it runs this already: {problem}");

    let changed = format!("{file}[limits]\nbatch-records = 7\n");
    let plan = on_b.done("PUT", "/pipelines/length", &changed);
    assert_eq!(plan["revision"], 3);
    assert!(plan["differences"].as_array().unwrap().iter().any(|it| it["after"] == 7), "{plan}");
    on_a.wait_for_state("running");
    assert_eq!(on_a.done("POST", "/pipelines/length/pause", "")["desired"], "paused");
    on_b.wait_for_state("paused");
    assert_eq!(on_b.done("POST", "/pipelines/length/resume", "")["desired"], "running");
    on_a.wait_for_state("running");

    let (status, problem) = on_a.ask("DELETE", "/pipelines/length", "");
    assert_eq!(
        (status, &problem["code"]),
        (400, &"invalid-request".into()),
        "what becomes of the state has to be said"
    );
    assert_eq!(on_a.done("DELETE", "/pipelines/length?keep-state=true", "")["state"], "kept");
    on_b.wait_for_state("undeployed");
    assert_eq!(on_a.done("DELETE", "/pipelines/length?keep-state=false", "")["state"], "being-deleted");
    assert_eq!(on_b.done("GET", "/pipelines", ""), Value::Array(Vec::new()));
    let (status, problem) = on_b.ask("POST", "/pipelines/length/pause", "");
    assert_eq!((status, &problem["code"]), (404, &"unknown-pipeline".into()));
    a.stop();
    b.stop();
}
