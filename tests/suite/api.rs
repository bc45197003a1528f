//! A cluster over HTTP, as programs use it: deployed, looked at, paused and taken off, on any of its nodes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::commands::{FROM_REGISTRY, done};
use crate::deployment::Deployment;
use crate::node::Node;
use crate::records::Record;
use crate::restarts::COUNT;
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

    /// Waits until everything that was produced is committed.
    fn wait_for_commit(&self) {
        wait_for("a commit of everything", || (self.done("GET", "/pipelines/length", "")["lag"] == 0).then_some(()));
    }

    fn wait_for_end_of(&self, rollout: u64, outcome: &str) {
        let ended = wait_for("the end of the rollout", || {
            let ended = self.done("GET", "/pipelines/length/rollouts", "")["ended"].clone();
            ended.as_array()?.iter().find(|ended| ended["rollout"]["number"] == rollout).cloned()
        });
        assert_eq!(ended["outcome"], outcome, "{ended}");
    }
}

fn take_a_token(deployment: &Deployment) {
    fs::write(deployment.path("token"), TOKEN).unwrap();
    let cluster = fs::read_to_string(deployment.path("sluicegate.toml")).unwrap();
    let cluster = cluster.replace("[http]\n", "[http]\ntoken-file = \"token\"\n");
    fs::write(deployment.path("sluicegate.toml"), cluster).unwrap();
}

#[test]
fn a_pipeline_is_deployed_changed_paused_and_taken_off_over_http() {
    let deployment = Deployment::new(FROM_REGISTRY);
    take_a_token(&deployment);
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
    on_a.wait_for_end_of(1, "done");
    let (status, problem) = on_a.ask("POST", "/pipelines/length/rollouts", &swap(""));
    assert_eq!((status, &problem["code"]), (409, &"conflict".into()), "it runs this already: {problem}");
    let (status, problem) = on_a.ask("POST", "/pipelines/length/rollouts/current/promote", "");
    assert_eq!((status, &problem["code"]), (409, &"conflict".into()), "none is held: {problem}");
    let back = r#"{"transform": "length", "strategy": {"probation-ms": 1}}"#;
    let back = on_a.done("POST", "/pipelines/length/rollouts/rollback", back);
    assert_eq!(back["begun"]["rollout"]["number"], 2, "{back}");
    on_b.wait_for_end_of(2, "done");

    let changed = format!("{file}[limits]\nbatch-records = 7\n");
    let plan = on_b.done("PUT", "/pipelines/length", &changed);
    assert_eq!(plan["revision"], 4);
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

/// Counts per key, with state of schema 1.
fn counting() -> String {
    COUNT.replacen("name = \"count\"", "name = \"length\"", 1)
}

#[test]
fn a_rollout_without_return_is_taken_back_over_http_when_that_is_said_twice() {
    let deployment = Deployment::new(&counting());
    take_a_token(&deployment);
    let mut node = deployment.spawn(deployment.command(&["worker", "--node-name", "a"]));
    let client = Client::of(&mut node);
    done(&deployment, &["plugin", "push", crate::node::plugin("guest_onward.wasm").to_str().unwrap()]);
    done(&deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
    deployment.produce("in", [Record::of("a", "1")]);
    deployment.wait_for_read("out", 1);
    let swap =
        r#"{"transform": "count", "plugin": "guest-onward@0.1.0", "strategy": {"probation-ms": 1, "no-return": true}}"#;
    assert_eq!(client.done("POST", "/pipelines/length/rollouts", swap)["begun"], true);
    client.wait_for_end_of(1, "done");

    let rollback = "/pipelines/length/rollouts/rollback";
    let (plain, asked) = (r#"{"transform": "count"}"#, r#"{"transform": "count", "from-copy": true}"#);
    let said = |body: &str, status: u16| {
        let (found, problem) = client.ask("POST", rollback, body);
        assert_eq!(found, status, "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    };
    assert!(said(plain, 409).contains("nothing converts the state"));
    assert!(said(asked, 409).contains("`sluicegate pause length` first"));
    client.done("POST", "/pipelines/length/pause", "");
    client.wait_for_state("paused");
    deployment.wait_until_group_is_empty();
    let told = said(asked, 400);
    assert!(told.contains(r#"add `"yes": true`"#) && told.contains("task 0: what the records of"), "{told}");
    let back = client.done("POST", rollback, r#"{"transform": "count", "from-copy": true, "yes": true}"#);
    let back = &back["taken-back"];
    assert_eq!((&back["revision"], back["forgotten"].as_array().map(Vec::len)), (&3.into(), Some(3)), "{back}");
    client.done("POST", "/pipelines/length/resume", "");
    deployment.produce("in", [Record::of("a", "1")]);
    deployment.wait_for_read("out", 2);
    assert_eq!(deployment.read("out")[1].text().1, "2", "the version of schema 1 goes on from its own state");
    node.stop();
}

#[test]
fn a_conversion_that_takes_longer_than_the_dry_run_may_is_given_up_and_said() {
    let deployment = Deployment::new(&format!("{}[limits]\ntime-per-batch = \"1m\"\n", counting()));
    take_a_token(&deployment);
    let mut node = deployment.spawn(deployment.command(&["worker", "--node-name", "a"]));
    let client = Client::of(&mut node);
    done(&deployment, &["plugin", "push", crate::node::plugin("guest_tally.wasm").to_str().unwrap()]);
    done(&deployment, &["deploy", "pipeline.toml", "--wait", "60s"]);
    deployment.produce("in", [Record::of("loop", "1")]);
    deployment.wait_for_read("out", 1);
    client.wait_for_commit();
    let swap = r#"{"transform": "count", "plugin": "guest-tally@0.1.0", "dry-run": true}"#;
    let begun = Instant::now();
    let found = client.done("POST", "/pipelines/length/rollouts", swap);
    assert!(begun.elapsed() < Duration::from_secs(30), "a call may take 1m, and the dry run 5s: {:?}", begun.elapsed());
    let findings = found["findings"].as_array().unwrap();
    let records = findings.iter().find(|finding| finding["subject"] == "records").unwrap();
    let said = records["finding"].as_str().unwrap();
    assert_eq!(records["level"], "warning", "{said}");
    assert!(said.contains("after 5s the time was over") && said.contains("was not converted by then"), "{said}");
    node.stop();
}
