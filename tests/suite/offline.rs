//! Versions of plugins over recorded records, without servers: what comes of each record, and how failures are found.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate::checkpoint::head::TransformIdentity;
use sluicegate::comparison::{Cause, Comparison, Naming, Outcomes, RecordOutcome};
use sluicegate::config::{Guarantee, Start};
use sluicegate::engine::{Grants, Limits, LogLevel};
use sluicegate::node::offline::run::without_world;
use sluicegate::node::offline::{NotRun, Run, states};
use sluicegate::record::Batch;
use sluicegate::state::TaskState;
use sluicegate::worker::plan::{FailingRecords, OutletPlan, Plan, SinkPlan, SourcePlan, TransformPlan};

use crate::engine::plugin;

/// A chain of plugins with their configurations; the last one goes to the sink.
fn plan(chain: &[(&str, &str)]) -> Plan {
    let last = chain.len() - 1;
    let transform = |(at, (name, config)): (usize, &(&str, &str))| {
        let plugin = plugin(name);
        let sinks = if at == last { vec![0] } else { Vec::new() };
        TransformPlan {
            name: name.replace('_', "-"),
            config: (*config).to_owned(),
            limits: Limits { time_per_call: Duration::from_millis(300), ..Limits::default() },
            grants: Grants { clocks: true, ..Grants::default() },
            log_level: LogLevel::ERROR,
            inputs: vec!["main".to_owned()],
            outlets: vec![OutletPlan { name: "main".to_owned(), next: at != last, sinks }],
            identity: TransformIdentity {
                name: (*name).to_owned(),
                plugin: plugin.digest().to_owned(),
                config: String::new(),
                stores: plugin.manifest().stores.iter().map(|store| (store.name.clone(), store.schema)).collect(),
                copies: std::collections::BTreeMap::new(),
                former: std::collections::BTreeMap::new(),
                since: std::collections::BTreeMap::new(),
            },
            plugin,
        }
    };
    Plan {
        pipeline: "offline".to_owned(),
        incarnation: 1,
        revision: 1,
        group: "offline".to_owned(),
        sources: vec![SourcePlan { topic: "in".to_owned(), start: Start::Earliest }],
        inputs: 1,
        partitions: 4,
        transforms: chain.iter().enumerate().map(transform).collect(),
        sinks: vec![SinkPlan { topic: "out".to_owned(), partitions: 4, provenance: None }],
        guarantee: Guarantee::ExactlyOnce,
        commit_interval: Duration::from_millis(100),
        commit_bytes: 1 << 20,
        failing: FailingRecords::Stop,
        give_up_after: 100,
        batch_records: 1000,
        batch_bytes: 1 << 20,
    }
}

/// Records of one key with these values, from an offset on.
fn batch(from: i64, values: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for (offset, value) in (from..).zip(values) {
        batch.push((0, 2, offset), 1_000 + offset, Some(b"ada"), Some(value.as_bytes()), std::iter::empty());
    }
    batch
}

fn run(plan: &Plan, state: &TaskState) -> Run {
    Run::new(&without_world(plan).unwrap(), 2, (state, None, None), 0, None).unwrap()
}

fn of(outcomes: &Outcomes, offset: i64) -> &RecordOutcome {
    &outcomes[&Cause { input: 0, partition: 2, offset }]
}

fn values(outcomes: &Outcomes) -> Vec<String> {
    let sent = outcomes.values().flat_map(|outcome| &outcome.sent);
    sent.map(|sent| String::from_utf8(sent.value.clone().unwrap()).unwrap()).collect()
}

const COUNT: (&str, &str) = ("keyed_count", "{}");

#[test]
fn a_run_goes_on_from_a_copy_of_the_state_and_leaves_it_as_it_was() {
    let plan = plan(&[COUNT]);
    let mut first = run(&plan, &TaskState::default());
    assert_eq!(values(&first.process(&batch(0, &["x", "x"])).unwrap()), ["1", "2"]);
    for _ in 0..2 {
        let mut second = run(&plan, first.state());
        assert_eq!(values(&second.process(&batch(2, &["x"])).unwrap()), ["3"]);
    }
    let mut differences = Vec::new();
    states(&mut differences, 2, &first, &run(&plan, first.state()));
    assert_eq!((differences[0].same, differences[0].differences()), (1, 0));
}

#[test]
fn the_records_that_fail_are_found_and_the_others_come_out_as_if_they_were_not_there() {
    let plan = plan(&[COUNT, ("guest_misbehaves", r#"{"how": "trap", "on": "3"}"#)]);
    let mut run = run(&plan, &TaskState::default());
    let outcomes = run.process(&batch(0, &["x"; 6])).unwrap();
    assert_eq!(values(&outcomes), ["1", "2", "4", "5", "6"]);
    let refusal = &of(&outcomes, 2).refusals[0];
    assert_eq!((refusal.transform.as_str(), refusal.kind.as_str()), ("guest-misbehaves", "trap"));
    assert!(of(&outcomes, 3).refusals.is_empty());
    // What was tried twice was counted once.
    assert_eq!(values(&run.process(&batch(6, &["x"])).unwrap()), ["7"]);
}

#[test]
fn a_rejected_record_is_refused_with_the_words_of_the_plugin() {
    let plan = plan(&[("guest_misbehaves", r#"{"how": "reject", "on": "bad"}"#)]);
    let outcomes = run(&plan, &TaskState::default()).process(&batch(5, &["good", "bad"])).unwrap();
    assert_eq!(values(&outcomes), ["good"]);
    let refusal = &of(&outcomes, 6).refusals[0];
    assert!(refusal.is_reject() && refusal.reason == "told to reject", "{refusal:?}");
}

#[test]
fn what_would_stop_a_pipeline_ends_the_run_and_says_where() {
    let stops = |how: &str, why: &str| {
        let plan = plan(&[("guest_misbehaves", &format!(r#"{{"how": "{how}"}}"#))]);
        let values = vec!["x"; 200];
        let said = run(&plan, &TaskState::default()).process(&batch(7, &values)).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("topic in partition 2 offset "), "{said}");
    };
    stops("fatal", "it gives up: told to stop");
    stops("transient", "it cannot go on for now");
    stops("trap", "fails on each of 100 records in a row");
}

#[test]
fn a_search_ends_when_its_time_is_over() {
    let plan = without_world(&plan(&[("guest_misbehaves", r#"{"how": "loop"}"#)])).unwrap();
    let begin = Instant::now();
    let mut run = Run::new(&plan, 2, (&TaskState::default(), None, None), 0, Some(begin)).unwrap();
    let said = run.process(&batch(0, &["x"; 50])).unwrap_err().to_string();
    assert!(said.contains("was not found in the time given") && said.contains("ran longer than"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(30), "fifty calls of 300 ms were not waited for");
}

#[test]
fn nothing_of_the_real_world_is_seen_though_the_pipeline_grants_it() {
    let environment = plan(&[("guest_environment", "{}")]);
    let seen = || values(&run(&environment, &TaskState::default()).process(&batch(41, &["x"])).unwrap()).remove(0);
    let first = seen();
    assert_eq!(first, seen(), "the same again");
    assert!(first.contains(r#""clock-ms":1041"#) && first.contains(r#""clock-stood-still":true"#), "{first}");
}

#[test]
fn a_plugin_that_wants_grants_is_refused_by_name() {
    let bytes = std::fs::read(crate::node::plugin("guest_environment.wasm")).unwrap();
    let manifest = r#"{"name":"wants","version":"1.0.0","interface":"0.1.0","wants":["clocks","random"]}"#;
    let bytes = sluicegate::engine::pack(&bytes, &serde_json::from_str(manifest).unwrap(), true).unwrap();
    let mut plan = plan(&[COUNT, ("guest_environment", "{}")]);
    plan.transforms[1].plugin = crate::engine::load(&bytes);
    let error = without_world(&plan).err().unwrap();
    assert!(matches!(error, NotRun::Grants { .. }));
    let said = error.to_string();
    assert!(said.contains("`guest-environment` runs plugin wants@1.0.0, which wants clocks, random"), "{said}");
}

#[test]
fn two_versions_over_the_same_records_are_compared_record_by_record() {
    let version = |separator: &str| {
        let config = format!(r#"{{"separator": "{separator}"}}"#);
        run(&plan(&[("value_length", &config)]), &TaskState::default())
    };
    let (mut before, mut after) = (version(","), version(";"));
    let mut comparison = Comparison::new(Naming::default());
    for at in 0..3 {
        let batch = batch(at * 10, &["x"; 10]);
        comparison.add(&before.process(&batch).unwrap(), &after.process(&batch).unwrap());
    }
    assert_eq!((comparison.counts.records, comparison.counts.different, comparison.counts.same), (30, 30, 0));
    assert_eq!(before.spent(0).records, 30);
    assert!(before.spent(0).time > Duration::ZERO);
    let same = Arc::new(plan(&[("value_length", "{}")]));
    let mut comparison = Comparison::new(Naming::default());
    let outcomes = |batch: &Batch| run(&same, &TaskState::default()).process(batch).unwrap();
    comparison.add(&outcomes(&batch(0, &["x", "y"])), &outcomes(&batch(0, &["x", "y"])));
    assert_eq!((comparison.counts.same, comparison.counts.differences()), (2, 0));
}
