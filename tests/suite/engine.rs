//! Plugins that were compiled by the SDK, in the engine: what they do right and how they go wrong.
//!
//! No server is needed. The guests come from `tests/guests` and `plugins`; `cargo xtask plugins` builds them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use sluicegate::engine::{
    CallError, Conversion, Engine, EngineOptions, Grants, Instance, InstanceOptions, Limits, LogLevel, MigrateError,
    Misuse, OpenError, Plugin, Remedy,
};
use sluicegate::record::{Batch, Column, Output, ShapeError};
use sluicegate::state::{Store, TransformState};

const NOW_MS: i64 = 1_700_000_000_000;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(EngineOptions::default()).unwrap());

/// Compiled anew.
pub(crate) fn load(bytes: &[u8]) -> Arc<Plugin> {
    ENGINE.load(bytes).unwrap()
}

/// Compiled once for all tests.
pub(crate) fn plugin(name: &str) -> Arc<Plugin> {
    static PLUGINS: Mutex<BTreeMap<String, Arc<Plugin>>> = Mutex::new(BTreeMap::new());
    let compile = || {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Into::into);
        let path = target.join(format!("wasm32-wasip2/plugin/{name}.wasm"));
        let bytes = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins`", path.display()));
        ENGINE.load(&bytes).unwrap()
    };
    let mut plugins = PLUGINS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(plugins.entry(name.into()).or_insert_with(compile))
}

fn options(config: &str) -> InstanceOptions {
    InstanceOptions {
        pipeline: "pipeline".into(),
        transform: "transform".into(),
        task: 2,
        inputs: vec!["main".into()],
        outlets: vec!["main".into()],
        config: config.into(),
        limits: Limits { time_per_call: Duration::from_secs(20), ..Limits::default() },
        log_level: LogLevel::INFO,
        grants: Grants::default(),
        now_ms: NOW_MS,
    }
}

/// A plugin's instance and the state of its stores.
struct Guest {
    instance: Instance,
    state: TransformState,
}

impl Guest {
    fn open(name: &str, config: &str) -> Self {
        Self::open_with(name, options(config))
    }

    fn open_with(name: &str, options: InstanceOptions) -> Self {
        let plugin = plugin(name);
        let stores = plugin.manifest().stores.iter().map(|_| Store::default()).collect();
        Self { instance: plugin.instantiate(options).unwrap(), state: TransformState { stores } }
    }

    fn process(&mut self, values: &[&str]) -> Result<(Batch, Output), CallError> {
        let mut batch = batch(values);
        let output = self.instance.process(&mut batch, &mut self.state, NOW_MS)?;
        Ok((batch, output))
    }

    fn values(&mut self, values: &[&str]) -> Vec<String> {
        let (batch, output) = self.process(values).unwrap();
        let emitted = output.emissions.iter().flat_map(|emission| emission.records(&batch));
        emitted.map(|record| String::from_utf8_lossy(record.value.unwrap_or(b"null")).into_owned()).collect()
    }
}

/// Records `key-0`, `key-1`, .. with these values.
fn batch(values: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for (offset, value) in (0..).zip(values) {
        let key = format!("key-{offset}");
        batch.push((0, 2, offset), NOW_MS + offset, Some(key.as_bytes()), Some(value.as_bytes()), std::iter::empty());
    }
    batch
}

#[test]
fn value_length_appends_lengths() {
    assert_eq!(Guest::open("value_length", "{}").values(&["hello", ""]), ["hello,5", ",0"]);
}

/// The SDK copies and checks bytes by its own vector code, in steps that depend on the length.
#[test]
fn texts_of_every_length_pass_and_what_is_no_text_is_found_at_every_place() {
    let mut guest = Guest::open("value_length", "{}");
    let text = |length: usize| (0..length).map(|at| char::from(b'!' + (at % 90) as u8)).collect::<String>();
    let texts: Vec<String> = (0..=700).map(text).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected: Vec<String> = texts.iter().map(|text| format!("{text},{}", text.len())).collect();
    assert_eq!(guest.values(&texts), expected);

    for length in [1, 15, 16, 17, 40, 64, 100, 128, 129, 300, 513] {
        let mut batch = Batch::default();
        for (offset, at) in (0..).zip(0..length) {
            let mut value = text(length).into_bytes();
            value[at] = 0xff;
            batch.push((0, 2, offset), NOW_MS, None, Some(&value), std::iter::empty());
        }
        let output = guest.instance.process(&mut batch, &mut guest.state, NOW_MS).unwrap();
        assert_eq!(output.rejects.len(), length, "of {length} bytes");
    }
}

#[test]
fn keyed_count_goes_on_in_a_new_instance_after_a_flush() {
    let mut guest = Guest::open("keyed_count", "{}");
    assert_eq!(guest.values(&["a", "b"]), ["1", "1"]);
    assert_eq!(guest.values(&["a"]), ["2"]);
    guest.instance.flush(&mut guest.state, NOW_MS).unwrap();
    assert!(guest.state.stores[0].len() == 2);
    guest.instance = plugin("keyed_count").instantiate(options("{}")).unwrap();
    assert_eq!(guest.values(&["a", "b"]), ["3", "2"]);
}

#[test]
fn every_shape_of_output_arrives() {
    let mut guest = Guest::open("guest_shapes", "{}");
    assert_eq!(guest.instance.outlets(), ["main", "odd", "unused"]);
    let (batch, output) = guest.process(&["plain", "all", "tombstone", "drop", "twice", "both", "reject"]).unwrap();
    let mut seen = Vec::new();
    for emission in &output.emissions {
        for record in emission.records(&batch) {
            let value = record.value.map(|value| String::from_utf8_lossy(value).into_owned());
            seen.push((emission.outlet, record.cause, value, record.timestamp, record.headers.count()));
        }
    }
    seen.sort();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [
            (0, 0, text("plain"), NOW_MS, 0),
            (0, 1, text("all"), 5, 3),
            (0, 2, None, NOW_MS + 2, 0),
            (0, 4, text("twice,0"), NOW_MS + 4, 0),
            (0, 4, text("twice,1"), NOW_MS + 4, 0),
            (0, 5, text("both"), NOW_MS + 5, 0),
            (1, 5, text("both,odd"), NOW_MS + 5, 0),
        ]
    );
    assert_eq!(output.rejects.iter().map(|reject| reject.index).collect::<Vec<_>>(), [6]);
}

/// Lets a guest go wrong on the second of two records, and sees that it is dead afterwards.
fn failure(how: &str) -> CallError {
    let mut limited = options(&format!(r#"{{"how":"{how}","on":"bad"}}"#));
    limited.limits.time_per_call = Duration::from_secs(2);
    let mut guest = Guest::open_with("guest_misbehaves", limited);
    let mut given = batch(&["good", "bad"]);
    let error = guest.instance.process(&mut given, &mut guest.state, NOW_MS).unwrap_err();
    assert_eq!(given, batch(&["good", "bad"]), "the batch comes back");
    assert!(guest.instance.is_dead());
    assert!(matches!(guest.process(&["good"]), Err(CallError::Dead)));
    error
}

#[test]
fn a_panic_comes_with_its_text_and_the_functions_it_came_through() {
    let CallError::Trap { backtrace, stderr, .. } = failure("panic") else { panic!("not a trap") };
    assert!(stderr.contains("told to panic on") && stderr.contains("bad"), "{stderr}");
    for function in ["core::panicking::panic_fmt", "processor@0.1.0#process"] {
        assert!(backtrace.iter().any(|frame| frame.contains(function)), "{backtrace:#?}");
    }
}

#[test]
fn traps_say_what_they_are() {
    let message = |how| match failure(how) {
        CallError::Trap { message, .. } => message,
        other => panic!("{how}: {other}"),
    };
    assert!(message("trap").contains("unreachable"));
    assert!(message("recurse").contains("stack"));
    assert!(message("exit").contains("exit("));
}

#[test]
fn limits_are_told_apart_from_traps() {
    assert!(matches!(failure("loop"), CallError::Deadline { .. }));
    assert!(matches!(failure("memory-hog"), CallError::Memory { .. }));
    let big = failure("big-output");
    assert!(matches!(big, CallError::Misuse(Misuse::OutputLimit { .. }) | CallError::Memory { .. }), "{big}");
    assert_eq!(big.remedy(), Remedy::Halve);
}

#[test]
fn a_plugin_can_ask_to_wait_or_to_stop() {
    assert!(matches!(failure("transient"), CallError::Transient(reason) if reason.contains("told to wait")));
    assert!(matches!(failure("fatal"), CallError::Fatal(reason) if reason.contains("told to stop")));
}

#[test]
fn what_was_sent_for_a_rejected_record_is_gone() {
    let mut guest = Guest::open("guest_misbehaves", r#"{"how":"send-and-reject","on":"bad"}"#);
    assert_eq!(guest.values(&["good", "bad", "fine"]), ["good", "fine"]);
    assert_eq!(guest.process(&["bad"]).unwrap().1.rejects.len(), 1);
}

#[test]
fn a_talkative_plugin_goes_on() {
    assert_eq!(Guest::open("guest_misbehaves", r#"{"how":"chatter"}"#).values(&["a"]), ["a"]);
}

#[test]
fn a_plugin_that_does_not_open_says_why() {
    let open =
        |how: &str| plugin("guest_misbehaves").instantiate(options(&format!(r#"{{"how":"{how}"}}"#))).unwrap_err();
    assert!(matches!(open("open-fails"), OpenError::Failed(reason) if reason.contains("told to fail")));
    assert!(matches!(open("config-fails"), OpenError::Config { field, .. } if field == "how"));
    assert!(matches!(open("open-traps"), OpenError::Call(CallError::Trap { .. })));
    let unknown = open("unheard-of");
    assert!(matches!(&unknown, OpenError::Config { field, .. } if field == "how"), "{unknown}");
}

#[test]
fn lies_are_found_out() {
    let lie = |how: &str| {
        let mut guest = Guest::open("guest_lies", &format!(r#"{{"how":"{how}"}}"#));
        let called = guest.process(&["a", "b"]).and_then(|_| guest.instance.flush(&mut guest.state, NOW_MS));
        match called {
            Err(CallError::Misuse(misuse)) => misuse,
            other => panic!("{how}: {other:?}"),
        }
    };
    assert_eq!(Guest::open("guest_lies", "{}").values(&["a", "b"]), ["a", "b"]);
    assert!(matches!(lie("sum"), Misuse::Shape(ShapeError::Sum { .. })));
    assert!(matches!(lie("sum-short"), Misuse::Shape(ShapeError::Sum { .. })));
    assert!(matches!(lie("negative-length"), Misuse::Shape(ShapeError::Length { length: -3, .. })));
    assert!(matches!(lie("count"), Misuse::Shape(ShapeError::Count { .. })));
    assert!(matches!(lie("no-such-cause"), Misuse::Shape(ShapeError::Cause { cause: 2, .. })));
    assert!(matches!(lie("falling-causes"), Misuse::Shape(ShapeError::CauseOrder { .. })));
    assert!(matches!(lie("header-counts"), Misuse::Shape(ShapeError::Count { .. })));
    assert!(matches!(lie("header-name"), Misuse::Shape(_)));
    assert!(matches!(lie("timestamps"), Misuse::Shape(ShapeError::Count { .. })));
    assert!(matches!(lie("unknown-outlet"), Misuse::UnknownOutlet { .. }));
    assert!(matches!(lie("unknown-store"), Misuse::UndeclaredStore { .. }));
    assert!(matches!(lie("reject-nobody"), Misuse::RejectedIndex { index: 2, count: 2 }));
    assert!(matches!(lie("null-key"), Misuse::NullKey { .. }));
    assert!(matches!(lie("put-count"), Misuse::Shape(ShapeError::Count { .. })));
    assert!(matches!(lie("put-sum"), Misuse::Shape(ShapeError::Sum { .. })));
    assert!(matches!(lie("emit-in-flush"), Misuse::OutsideProcess { .. }));
}

#[test]
fn the_world_of_a_plugin_is_virtual() {
    let report = |options| -> serde_json::Value {
        serde_json::from_str(&Guest::open_with("guest_environment", options).values(&["x"])[0]).unwrap()
    };
    let seen = report(options("{}"));
    assert_eq!(seen["variables"], serde_json::json!([]));
    assert_eq!(seen["arguments"], 0);
    for denied in ["file", "written", "socket"] {
        assert_ne!(seen[denied], "allowed", "{denied}");
    }
    assert_eq!((&seen["clock-ms"], &seen["now-ms"]), (&NOW_MS.into(), &NOW_MS.into()));
    assert_eq!(seen["clock-stood-still"], true);
    assert_eq!(report(options("{}"))["random"], seen["random"], "the same task draws the same numbers");
    assert_ne!(report(InstanceOptions { task: 3, ..options("{}") })["random"], seen["random"]);

    let granted =
        report(InstanceOptions { grants: Grants::parse(["clocks", "random", "env:PATH"]).unwrap(), ..options("{}") });
    assert_eq!(granted["variables"][0][0], "PATH");
    assert_ne!(granted["clock-ms"], NOW_MS);
    assert_eq!(granted["now-ms"], NOW_MS);
    assert_ne!(granted["random"], seen["random"]);
}

#[test]
fn state_is_bounded_and_scans_see_what_was_put() {
    let mut guest = Guest::open("guest_stateful", r#"{"how":"scan"}"#);
    assert_eq!(guest.values(&["a=1"]), ["a=1"]);
    assert_eq!(guest.values(&["b=2"]), ["a=1 b=2"]);
    let mut limited = options(r#"{"how":"hog"}"#);
    limited.limits.state_bytes = 10 << 20;
    let mut hog = Guest::open_with("guest_stateful", limited);
    let error = (0..100).find_map(|_| hog.process(&["x"]).err());
    assert!(matches!(error, Some(CallError::Misuse(Misuse::StateLimit { .. }))), "{error:?}");
}

#[test]
fn lies_about_state_of_another_schema_are_found_out() {
    let migrate = |from: u32| {
        let limits = Limits { time_per_call: Duration::from_millis(200), ..Limits::default() };
        let migrator = plugin("guest_lies").migrator(InstanceOptions { limits, ..options("{}") }).unwrap();
        let conversion = Conversion { store: "store".into(), from, to: 1 };
        let one = |text: &'static [u8]| [Some(text)].into_iter().collect::<Column>();
        migrator.unwrap().migrate(&conversion, one(b"key"), one(b"value"), NOW_MS)
    };
    assert_eq!(migrate(11).unwrap().bytes, b"value");
    for (from, problem) in [
        (2, "2 values for 1 keys"),
        (3, "add up to 0 bytes, but it has 3"),
        (4, "length -2"),
        (5, "makes an entry of 1048579 bytes"),
    ] {
        let error = migrate(from).unwrap_err();
        assert!(matches!(error, MigrateError::Misuse { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
    assert!(matches!(migrate(6).unwrap_err(), MigrateError::Entry { reason, .. } if reason == "nowhere"));
    assert!(matches!(migrate(7).unwrap_err(), MigrateError::Fatal { reason, .. } if reason == "told to"));
    assert!(matches!(migrate(8).unwrap_err(), MigrateError::Call { error: CallError::Deadline { .. }, .. }));
    assert!(matches!(migrate(9).unwrap_err(), MigrateError::Call { error: CallError::Misuse(_), .. }));
    assert!(matches!(migrate(10).unwrap_err(), MigrateError::Call { error: CallError::Misuse(_), .. }));
    assert!(plugin("value_length").migrator(options("{}")).unwrap().is_none());
}
