//! The pipeline of a scenario, with real plugins.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use sluicegate::checkpoint::head::TransformIdentity;
use sluicegate::config::Start;
use sluicegate::engine::{Engine, EngineOptions, Grants, Limits, Plugin};
use sluicegate::worker::plan::{FailingRecords, OutletPlan, Plan, SinkPlan, SourcePlan, TransformPlan};

use crate::scenario::{Scenario, Second};

/// Compiled once for all runs.
fn plugin(name: &str) -> Arc<Plugin> {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(EngineOptions::default()).expect("an engine"));
    static PLUGINS: Mutex<BTreeMap<String, Arc<Plugin>>> = Mutex::new(BTreeMap::new());
    let compile = || {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Into::into);
        let path = target.join(format!("wasm32-wasip2/plugin/{name}.wasm"));
        let bytes = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins`", path.display()));
        ENGINE.load(&bytes).expect("a plugin")
    };
    let mut plugins = PLUGINS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(plugins.entry(name.into()).or_insert_with(compile))
}

/// What may be tried out beside `base`: the last transform is another version, which in every second try that can
/// goes wrong on every record.
pub(crate) fn candidate(scenario: &Scenario, base: &Plan, number: u64) -> Plan {
    let mut plan = plan(scenario, base.revision);
    plan.revision = base.revision + 1;
    for (transform, same) in plan.transforms.iter_mut().zip(&base.transforms) {
        transform.identity = same.identity.clone();
        transform.limits = same.limits.clone();
    }
    for (transform, same) in plan.transforms.iter_mut().zip(&base.transforms) {
        transform.plugin = Arc::clone(&same.plugin);
    }
    let last = plan.transforms.last_mut().expect("at least one");
    // Of another schema, a higher or a lower one, or of the same, which need not convert.
    let (name, schema) = if number.is_multiple_of(3) { ("keyed_count", 1) } else { ("guest_tally", 2) };
    if scenario.stateful && scenario.second.is_none() && number % 3 != 1 {
        last.plugin = plugin(name);
        last.identity.plugin = last.plugin.digest().to_owned();
        last.identity.stores = BTreeMap::from([("counts".to_owned(), schema)]);
    }
    let traps = scenario.second == Some(Second::Traps) && number % 2 == 1;
    if traps {
        last.config = r#"{"how": "trap"}"#.to_owned();
    }
    // One that was there before, or a new one.
    last.identity.config = if traps { "trap" } else { "again" }.to_owned();
    let is_base = base.transforms.last().is_some_and(|base| base.is_same(last));
    if is_base || number.is_multiple_of(4) {
        last.identity.config = format!("{}+{number}", base.revision);
    }
    plan
}

/// The next revision: the same plugins.
pub(crate) fn next(scenario: &Scenario, base: &Plan) -> Plan {
    let mut plan = plan(scenario, base.revision + 1);
    for (transform, same) in plan.transforms.iter_mut().zip(&base.transforms) {
        transform.plugin = Arc::clone(&same.plugin);
        transform.identity.plugin.clone_from(&same.identity.plugin);
        transform.identity.stores.clone_from(&same.identity.stores);
    }
    plan
}

/// Every second revision allows calls more time, and so transactions.
pub(crate) fn plan(scenario: &Scenario, revision: u64) -> Plan {
    let transform = |name: &str, plugin: Arc<Plugin>, config: &str, last: bool| TransformPlan {
        name: name.to_owned(),
        config: config.to_owned(),
        limits: Limits { time_per_call: Duration::from_secs(5 - revision % 2 * 4), ..Limits::default() },
        grants: Grants::default(),
        log_level: tracing::Level::ERROR,
        inputs: vec!["main".to_owned(); scenario.inputs as usize],
        outlets: vec![OutletPlan {
            name: "main".to_owned(),
            next: !last,
            sinks: if last { vec![0] } else { Vec::new() },
        }],
        identity: TransformIdentity {
            name: name.to_owned(),
            plugin: plugin.digest().to_owned(),
            config: revision.to_string(),
            stores: plugin.manifest().stores.iter().map(|store| (store.name.clone(), store.schema)).collect(),
            copies: std::collections::BTreeMap::new(),
            former: std::collections::BTreeMap::new(),
            since: std::collections::BTreeMap::new(),
        },
        plugin,
    };
    let works = plugin(if scenario.stateful { "keyed_count" } else { "value_length" });
    let mut transforms = vec![transform("transform", works, "{}", scenario.second.is_none())];
    if let Some(second) = scenario.second {
        let config = match second {
            Second::Moody => r#"{"how": "moody"}"#,
            // The third record of each key, and others.
            Second::Traps => r#"{"how": "trap", "on": "3"}"#,
        };
        transforms.push(transform("second", plugin("guest_misbehaves"), config, true));
    }
    let source = |input: u32| SourcePlan { topic: format!("in-{input}"), start: Start::Earliest };
    Plan {
        pipeline: "counted".to_owned(),
        incarnation: 1,
        revision,
        group: "simulated/counted/1".to_owned(),
        sources: (0..scenario.inputs).map(source).collect(),
        inputs: scenario.inputs as usize,
        partitions: scenario.partitions,
        transforms,
        sinks: vec![SinkPlan { topic: "out".to_owned(), partitions: scenario.partitions, provenance: None }],
        guarantee: scenario.guarantee,
        commit_interval: Duration::from_millis(200),
        commit_bytes: 512,
        // Among the others, so that all of them are counted through.
        failing: FailingRecords::DeadLetter { sink: 0 },
        give_up_after: 100,
        // So few that a thread has often not caught up, and processes records during a commit.
        batch_records: 4,
        batch_bytes: 1 << 20,
    }
}
