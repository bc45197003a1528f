//! Guests in the text format, so that every way of ending a call is tried without a toolchain for plugins.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use super::*;
use crate::record::{Batch, Entry, Output, ShapeError};
use crate::state::{Store, TransformState};

mod hostile;

const MANIFEST: &str = r#"{"name":"test","version":"1.0.0","interface":"0.1.0",
    "outputs":[{"name":"main"},{"name":"late","optional":true}],"stores":[{"name":"counts","schema":1}]}"#;
/// A processing time that no real clock shows.
const NOW_MS: i64 = 1_000_000;

/// A guest that does this in its exports.
#[derive(Default)]
struct Script<'a> {
    open: &'a str,
    process: &'a str,
    flush: &'a str,
    data: &'a str,
}

impl Script<'_> {
    fn text(&self) -> String {
        include_str!("tests/guest.wat")
            .replace("\"DATA\"", &format!("{:?}", self.data))
            .replace("      OPEN\n", &format!("{}\n", self.open))
            .replace("      PROCESS\n", &format!("{}\n", self.process))
            .replace("      FLUSH\n", &format!("{}\n", self.flush))
    }

    fn bytes(&self) -> Vec<u8> {
        component(&self.text(), MANIFEST)
    }

    fn open(&self) -> Result<Instance, OpenError> {
        self.open_with(options())
    }

    fn open_with(&self, options: InstanceOptions) -> Result<Instance, OpenError> {
        engine().load(&self.bytes()).unwrap().instantiate(options)
    }
}

fn process(process: &str) -> Instance {
    Script { process, ..Script::default() }.open().unwrap()
}

fn component(text: &str, manifest: &str) -> Vec<u8> {
    let mut bytes = wat::parse_str(text).unwrap();
    append_manifest(&mut bytes, manifest);
    bytes
}

fn append_manifest(bytes: &mut Vec<u8>, manifest: &str) {
    let name = crate::manifest::SECTION.as_bytes();
    let size = 1 + name.len() + manifest.len();
    bytes.push(0);
    bytes.extend([(size & 0x7f) as u8 | 0x80, (size >> 7) as u8]);
    bytes.push(u8::try_from(name.len()).unwrap());
    bytes.extend(name);
    bytes.extend(manifest.as_bytes());
}

fn engine() -> &'static Engine {
    static ENGINE: std::sync::LazyLock<Engine> =
        std::sync::LazyLock::new(|| Engine::new(EngineOptions::default()).unwrap());
    &ENGINE
}

fn options() -> InstanceOptions {
    InstanceOptions {
        pipeline: "pipeline".into(),
        transform: "transform".into(),
        task: 3,
        inputs: vec!["main".into()],
        outlets: vec!["main".into()],
        config: "{}".into(),
        limits: Limits { memory_bytes: 4 << 20, ..Limits::default() },
        log_level: tracing::Level::INFO,
        grants: Grants::default(),
        now_ms: NOW_MS,
    }
}

fn batch(values: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for (offset, value) in (0..).zip(values) {
        batch.push((0, 3, offset), offset * 10, Some(b"key"), Some(value.as_bytes()), std::iter::empty());
    }
    batch
}

fn state() -> TransformState {
    TransformState { stores: vec![Store::default()] }
}

fn run(instance: &mut Instance) -> Result<Output, CallError> {
    let mut given = batch(&["a", "bb", "ccc"]);
    let mut state = state();
    let output = instance.process(&mut given, &mut state, NOW_MS);
    assert_eq!(given, batch(&["a", "bb", "ccc"]), "the batch comes back");
    assert_eq!(state.stores.len(), 1, "the state comes back");
    output
}

/// The error, once it has been seen that the instance is dead after it.
fn fail(instance: &mut Instance) -> CallError {
    let error = run(instance).unwrap_err();
    assert!(instance.is_dead());
    assert!(matches!(run(instance), Err(CallError::Dead)));
    assert!(matches!(instance.flush(&mut state(), NOW_MS), Err(CallError::Dead)));
    error
}

fn misuse(body: &str) -> Misuse {
    match fail(&mut process(body)) {
        CallError::Misuse(misuse) => misuse,
        other => panic!("not a misuse: {other}"),
    }
}

/// The value of the only record, as `$emit_i64` writes it.
fn number(output: &Output) -> i64 {
    let [emission] = output.emissions.as_slice() else { panic!("{output:?}") };
    i64::from_le_bytes(emission.values.as_ref().unwrap().bytes.as_slice().try_into().unwrap())
}

#[test]
fn what_a_guest_passes_on_inherits_everything() {
    let output = run(&mut process("(call $pass (global.get $main))")).unwrap();
    let given = batch(&["a", "bb", "ccc"]);
    let [emission] = output.emissions.as_slice() else { panic!("{output:?}") };
    assert_eq!((emission.outlet, emission.count), (0, 3));
    let values: Vec<_> = emission.records(&given).map(|record| record.value.unwrap().to_vec()).collect();
    assert_eq!(values, [b"a".to_vec(), b"bb".to_vec(), b"ccc".to_vec()]);
}

/// Emits the pulled values again, to the outlet `late`.
const ECHO: &str = "(call $values (local.get $batch) (i32.const 600))
    (call $emit_values (call $outlet (i32.const 20) (i32.const 4))
      (i32.load (i32.const 600)) (i32.load (i32.const 604)) (i32.load (i32.const 608)) (i32.load (i32.const 612)))";

#[test]
fn columns_cross_into_the_guest_and_back() {
    let mut instance = process(ECHO);
    assert_eq!(instance.outlets(), ["main", "late"]);
    for _ in 0..3 {
        let output = run(&mut instance).unwrap();
        let [emission] = output.emissions.as_slice() else { panic!("{output:?}") };
        assert_eq!(emission.outlet, 1);
        let values = emission.values.as_ref().unwrap();
        assert_eq!((values.bytes.as_slice(), values.lengths.as_slice()), (&b"abbccc"[..], &[1, 2, 3][..]));
        instance.recycle(output);
    }
}

#[test]
fn an_empty_batch_is_not_sent() {
    let mut instance = process("(unreachable)");
    assert_eq!(instance.process(&mut Batch::default(), &mut state(), NOW_MS).unwrap(), Output::default());
}

#[test]
fn what_is_rejected_is_not_emitted() {
    let output =
        run(&mut process("(call $pass (global.get $main)) (call $reject (i32.const 1) (i32.const 16) (i32.const 4))"));
    let output = output.unwrap();
    assert_eq!(output.rejects, [crate::record::Reject { index: 1, reason: "main".into() }]);
    assert_eq!(output.emissions[0].causes.as_deref(), Some(&[0, 2][..]));
}

/// Puts the batch's values as keys of the store, with themselves as values.
const PUT: &str = "(call $values (local.get $batch) (i32.const 600))
    (call $put (call $store (i32.const 24) (i32.const 6))
      (i32.load (i32.const 600)) (i32.load (i32.const 604)) (i32.load (i32.const 608)) (i32.load (i32.const 612))
      (i32.load (i32.const 600)) (i32.load (i32.const 604)) (i32.load (i32.const 608)) (i32.load (i32.const 612)))";

#[test]
fn state_is_written_and_read_back() {
    let mut state = state();
    process(PUT).process(&mut batch(&["a", "bb"]), &mut state, NOW_MS).unwrap();
    assert_eq!(state.stores[0].get(b"bb"), Some(&b"bb"[..]));
    let get = "(call $values (local.get $batch) (i32.const 600))
        (call $get (call $store (i32.const 24) (i32.const 6))
          (i32.load (i32.const 600)) (i32.load (i32.const 604)) (i32.load (i32.const 608)) (i32.load (i32.const 612))
          (i32.const 640))
        (call $emit_values (global.get $main)
          (i32.load (i32.const 640)) (i32.load (i32.const 644)) (i32.load (i32.const 648)) (i32.load (i32.const 652)))";
    let output = process(get).process(&mut batch(&["bb", "none", "bb"]), &mut state, NOW_MS).unwrap();
    let values = output.emissions[0].values.as_ref().unwrap();
    assert_eq!(values.iter().collect::<Vec<_>>(), [Entry::Bytes(b"bb"), Entry::Null, Entry::Bytes(b"bb")]);
    let scan = "(call $scan (call $store (i32.const 24) (i32.const 6))
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 640))
        (call $emit_i64 (i64.load8_u (i32.const 672)))";
    let output = process(scan).process(&mut batch(&["x"]), &mut state, NOW_MS).unwrap();
    assert_eq!(number(&output), 1, "there is more than one entry");
}

#[test]
fn what_a_failed_call_put_is_in_the_state_to_be_rolled_back() {
    let mut state = state();
    let error = process(&format!("{PUT} (unreachable)")).process(&mut batch(&["a"]), &mut state, NOW_MS).unwrap_err();
    assert!(matches!(error, CallError::Trap { .. }));
    assert_eq!(state.stores[0].get(b"a"), Some(&b"a"[..]));
}

#[test]
fn typed_failures_carry_the_guests_words() {
    let fail_with = |kind: u32| {
        let process = format!("(return (call $failure (i32.const {kind}) (i32.const 4)))");
        fail(&mut Script { process: &process, data: "oops", ..Script::default() }.open().unwrap())
    };
    let errors = [fail_with(0), fail_with(1), fail_with(2)];
    assert!(matches!(&errors[0], CallError::Input(reason) if reason == "oops"));
    assert!(matches!(&errors[1], CallError::Transient(reason) if reason == "oops"));
    assert!(matches!(&errors[2], CallError::Fatal(reason) if reason == "oops"));
    assert_eq!(errors.map(|error| error.remedy()), [Remedy::Halve, Remedy::Wait, Remedy::Stop]);
}

#[test]
fn a_trap_names_the_functions_and_shows_standard_error() {
    let process = "(call $write (call $stderr) (i32.const 256) (i32.const 4) (i32.const 700)) (unreachable)";
    let mut instance = Script { process, data: "help", ..Script::default() }.open().unwrap();
    let CallError::Trap { message, backtrace, stderr } = fail(&mut instance) else { panic!("not a trap") };
    assert!(message.contains("unreachable"), "{message}");
    assert_eq!(stderr, "help");
    assert!(backtrace[0].contains("process"), "{backtrace:?}");
}

#[test]
fn exit_is_a_trap() {
    let error = fail(&mut process("(call $exit (i32.const 0))")).to_string();
    assert!(error.contains("exit(0)"), "{error}");
}

#[test]
fn a_loop_ends_at_the_deadline() {
    let mut options = options();
    options.limits.time_per_call = Duration::from_millis(100);
    let mut instance = Script { process: "(loop $l (br $l))", ..Script::default() }.open_with(options).unwrap();
    let start = Instant::now();
    assert!(matches!(fail(&mut instance), CallError::Deadline { .. }));
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[test]
fn waiting_for_a_clock_ends_at_once() {
    let start = Instant::now();
    run(&mut process("(call $block (call $sleep (i64.const 3600000000000)))")).unwrap();
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_guest_that_needs_more_memory_than_it_may_have_is_told_from_other_traps() {
    let mut instance = process("(drop (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8000000)))");
    assert_eq!(instance.memory_bytes(), 2 * 65536);
    assert!(matches!(fail(&mut instance), CallError::Memory { limit } if limit == 4 << 20));
    let mut options = options();
    options.limits.memory_bytes = 65536;
    let refused = Script::default().open_with(options).unwrap_err();
    assert!(matches!(refused, OpenError::Call(CallError::Memory { .. })), "{refused}");
}

#[test]
fn deep_recursion_is_a_trap() {
    let error = fail(&mut process("(drop (call $recurse (i32.const 1)))"));
    let CallError::Trap { message, backtrace, .. } = error else { panic!("{error}") };
    assert!(message.contains("stack"), "{message}");
    assert!(backtrace.len() < 50);
}

#[test]
fn lying_lengths_are_misuse() {
    let sum = misuse(
        "(i32.store (i32.const 700) (i32.const 5))
         (call $emit_values (global.get $main) (i32.const 16) (i32.const 4) (i32.const 700) (i32.const 1))",
    );
    assert!(matches!(sum, Misuse::Shape(ShapeError::Sum { sum: 5, bytes: 4, .. } | ShapeError::Count { .. })), "{sum}");
    let put = misuse(
        "(i32.store (i32.const 700) (i32.const 500))
         (call $put (call $store (i32.const 24) (i32.const 6))
           (i32.const 16) (i32.const 4) (i32.const 700) (i32.const 1)
           (i32.const 16) (i32.const 4) (i32.const 700) (i32.const 1))",
    );
    assert!(matches!(put, Misuse::Shape(ShapeError::Sum { sum: 500, bytes: 4, .. })), "{put}");
}

#[test]
fn lists_outside_the_memory_are_traps() {
    let error = fail(&mut process(
        "(call $emit_values (global.get $main) (i32.const 16) (i32.const 0x7fffffff) (i32.const 700) (i32.const 1))",
    ));
    assert!(matches!(error, CallError::Trap { .. }), "{error}");
}

#[test]
fn handles_that_are_not_the_guests_are_traps() {
    for body in
        ["(call $pass (i32.const 77))", "(call $pass (local.get $batch))", "(drop (call $count (global.get $main)))"]
    {
        assert!(matches!(fail(&mut process(body)), CallError::Trap { .. }), "{body}");
    }
}

#[test]
fn handles_without_end_are_refused() {
    let error = fail(&mut process("(loop $l (drop (call $outlet (i32.const 16) (i32.const 4))) (br $l))"));
    assert!(error.to_string().contains("handle"), "{error}");
}

#[test]
fn rules_that_are_broken_are_named() {
    let undeclared = misuse("(drop (call $store (i32.const 16) (i32.const 4)))");
    assert!(matches!(undeclared, Misuse::UndeclaredStore { name } if name == "main"));
    let unknown = misuse("(drop (call $outlet (i32.const 24) (i32.const 6)))");
    assert!(matches!(unknown, Misuse::UnknownOutlet { name } if name == "counts"));
    let index = misuse("(call $reject (i32.const 3) (i32.const 16) (i32.const 4))");
    assert!(matches!(index, Misuse::RejectedIndex { index: 3, count: 3 }));
    let null = misuse(
        "(i32.store (i32.const 700) (i32.const -1))
         (call $get (call $store (i32.const 24) (i32.const 6))
           (i32.const 0) (i32.const 0) (i32.const 700) (i32.const 1) (i32.const 640))",
    );
    assert!(matches!(null, Misuse::NullKey { store, index: 0 } if store == "counts"));
}

#[test]
fn what_belongs_to_process_is_refused_elsewhere() {
    let mut instance = Script { flush: "(call $pass (global.get $main))", ..Script::default() }.open().unwrap();
    let error = instance.flush(&mut state(), NOW_MS).unwrap_err();
    assert!(matches!(error, CallError::Misuse(Misuse::OutsideProcess { function: "outlet.emit" })));
    let open = "(call $get (call $store (i32.const 24) (i32.const 6))
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 640))";
    let error = Script { open, ..Script::default() }.open().unwrap_err();
    assert!(matches!(error, OpenError::Call(CallError::Misuse(Misuse::StateOutside { .. }))), "{error}");
}

#[test]
fn output_and_state_are_bounded() {
    let mut small = options();
    small.limits.output_bytes = 10_000;
    small.limits.state_bytes = 5;
    let endless = Script { process: "(loop $l (call $pass (global.get $main)) (br $l))", ..Script::default() };
    let error = fail(&mut endless.open_with(small.clone()).unwrap());
    assert!(matches!(error, CallError::Misuse(Misuse::OutputLimit { limit: 10_000 })), "{error}");
    let error = fail(&mut Script { process: PUT, ..Script::default() }.open_with(small).unwrap());
    assert!(matches!(error, CallError::Misuse(Misuse::StateLimit { limit: 5 })), "{error}");
}

#[test]
fn messages_without_end_do_no_harm() {
    let process = "(local.set $i (i32.const 100000))
        (loop $l
          (call $log (i32.const 2) (i32.const 16) (i32.const 4) (i32.const 256) (i32.const 8))
          (local.set $i (i32.sub (local.get $i) (i32.const 1)))
          (br_if $l (local.get $i)))";
    run(&mut Script { process, data: "message!", ..Script::default() }.open().unwrap()).unwrap();
}

#[test]
fn clocks_show_the_processing_time_and_never_go_back() {
    let both = "(call $emit_i64 (i64.add (call $now) (call $clock)))";
    let mut instance = process(both);
    let at =
        |instance: &mut Instance, now_ms| number(&instance.process(&mut batch(&["a"]), &mut state(), now_ms).unwrap());
    assert_eq!(at(&mut instance, NOW_MS), NOW_MS + NOW_MS * 1_000_000);
    assert_eq!(at(&mut instance, NOW_MS + 5), (NOW_MS + 5) * 1_000_001);
    assert_eq!(at(&mut instance, 0), (NOW_MS + 5) * 1_000_001);
}

#[test]
fn random_numbers_belong_to_the_task_unless_the_real_ones_are_granted() {
    let draw = |task, grants: Grants| {
        let script = Script { process: "(call $emit_i64 (call $random))", ..Script::default() };
        let mut instance = script.open_with(InstanceOptions { task, grants, ..options() }).unwrap();
        number(&instance.process(&mut batch(&["a"]), &mut state(), NOW_MS).unwrap())
    };
    assert_eq!(draw(1, Grants::default()), draw(1, Grants::default()));
    assert_ne!(draw(1, Grants::default()), draw(2, Grants::default()));
    let real = || Grants { random: true, ..Grants::default() };
    assert_ne!(draw(1, real()), draw(1, real()));
}

#[test]
fn the_environment_is_empty_but_for_what_is_granted() {
    let variables = |grants: Grants| {
        let process = "(call $environment (i32.const 640)) (call $emit_i64 (i64.load32_u (i32.const 644)))";
        let mut instance =
            Script { process, ..Script::default() }.open_with(InstanceOptions { grants, ..options() }).unwrap();
        number(&instance.process(&mut batch(&["a"]), &mut state(), NOW_MS).unwrap())
    };
    assert_eq!(variables(Grants::default()), 0);
    assert_eq!(variables(Grants { env: vec!["PATH".into(), "NOT_SET_ANYWHERE".into()], ..Grants::default() }), 1);
}

#[test]
fn grants_that_the_manifest_wants_must_be_there() {
    let manifest = r#"{"name":"test","version":"1.0.0","interface":"0.1.0","wants":["clocks"]}"#;
    let plugin = engine().load(&component(&Script::default().text(), manifest)).unwrap();
    let error = plugin.instantiate(options()).unwrap_err();
    assert!(error.to_string().contains("clocks"), "{error}");
    let grants = Grants { clocks: true, ..Grants::default() };
    plugin.instantiate(InstanceOptions { grants, ..options() }).unwrap();
}

#[test]
fn a_plugin_that_does_not_start_says_why() {
    let open = |kind: u32| {
        let open = format!("(return (call $failure (i32.const {kind}) (i32.const 5)))");
        Script { open: &open, data: "paths", ..Script::default() }.open().unwrap_err()
    };
    assert!(matches!(open(0), OpenError::Config { field, message } if field == "paths" && message == "paths"));
    let failed = open(1);
    assert!(failed.is_transient());
    assert!(matches!(failed, OpenError::Failed(reason) if reason == "paths"));
}

#[test]
fn dynamic_outputs_open_what_the_pipeline_binds() {
    let manifest = r#"{"name":"test","version":"1.0.0","interface":"0.1.0","dynamic-outputs":true}"#;
    let script = Script { process: ECHO, ..Script::default() };
    let plugin = engine().load(&component(&script.text(), manifest)).unwrap();
    let bound = InstanceOptions { outlets: vec!["late".into(), "main".into()], ..options() };
    let mut instance = plugin.instantiate(bound).unwrap();
    assert_eq!(instance.outlets(), ["main", "late"]);
    let mut none = TransformState::default();
    let output = instance.process(&mut batch(&["a"]), &mut none, NOW_MS).unwrap();
    assert_eq!(output.emissions[0].outlet, 1);
    let error = plugin.instantiate(options()).unwrap().process(&mut batch(&["a"]), &mut none, NOW_MS).unwrap_err();
    assert!(matches!(error, CallError::Misuse(Misuse::UnknownOutlet { .. })));
}

fn refusal(bytes: &[u8]) -> String {
    let inspected = inspect(bytes).unwrap_err().to_string();
    assert_eq!(engine().load(bytes).unwrap_err().to_string(), inspected);
    inspected
}

#[test]
fn what_is_no_plugin_is_refused_with_what_it_is() {
    assert!(refusal(b"").contains("empty"));
    assert!(refusal(b"\x7fELF and so on").contains("not a WebAssembly component"));
    assert!(refusal(b"  (component)").contains("text format"));
    assert!(refusal(&wat::parse_str("(module)").unwrap()).contains("core WebAssembly module"));
    let whole = Script::default().bytes();
    assert!(refusal(&whole[..whole.len() / 2]).contains("not a WebAssembly component"));
    assert!(refusal(&wat::parse_str("(component)").unwrap()).contains("no manifest"));
    assert!(refusal(&component("(component)", MANIFEST)).contains("does not export"));
    assert!(refusal(&component(&Script::default().text(), "{}")).contains("name"));
    assert!(refusal(&vec![0; PLUGIN_BYTES_MAX + 1]).contains("at most"));
}

#[test]
fn an_unknown_version_import_or_function_is_refused_by_name() {
    let text = Script::default().text();
    let other = text.replace(
        "(export \"sluicegate:transform/processor@0.1.0\"",
        "(export \"sluicegate:transform/processor@0.2.0\"",
    );
    assert!(refusal(&component(&other, MANIFEST)).contains("`sluicegate:transform/processor@0.2.0`"));
    let other = text.replace("sluicegate:transform/context@0.1.0", "sluicegate:transform/context@0.3.0");
    assert!(refusal(&component(&other, MANIFEST)).contains("`sluicegate:transform/context@0.3.0`"));
    let newer = text
        .replace("\"task\" (func (result u32))", "\"shard\" (func (result u32))")
        .replace("$context \"task\"", "$context \"shard\"");
    assert!(refusal(&component(&newer, MANIFEST)).contains("`shard`"));
    let foreign = text.replacen("(component", "(component (import \"wasi:http/types@0.2.0\" (instance))", 1);
    assert!(refusal(&component(&foreign, MANIFEST)).contains("`wasi:http/types@0.2.0`"));
    let function = text.replacen("(component", "(component (import \"loose\" (func))", 1);
    assert!(refusal(&component(&function, MANIFEST)).contains("`loose`"));
}

#[test]
fn a_newer_patch_version_links() {
    let newer = Script::default().text().replace("@0.1.0\"", "@0.1.7\"");
    engine().load(&component(&newer, MANIFEST)).unwrap().instantiate(options()).unwrap();
}

#[test]
fn functions_of_other_types_are_refused() {
    let other = Script::default().text().replace("\"task\" (func (result u32))", "\"task\" (func (result s32))");
    let error = engine().load(&component(&other, MANIFEST)).unwrap_err();
    assert!(matches!(error, LoadError::Types { .. }), "{error}");
    assert!(error.to_string().contains("task"), "{error}");
}

#[test]
fn inspection_tells_what_a_plugin_is_and_asks_for() {
    let bytes = Script::default().bytes();
    let inspection = inspect(&bytes).unwrap();
    assert_eq!(inspection.manifest.name, "test");
    assert_eq!(inspection.world, "sluicegate:transform@0.1.0");
    assert_eq!(inspection.exports, [interface::PROCESSOR]);
    assert!(inspection.imports.iter().any(|import| import == "wasi:cli/exit@0.2.3"));
    assert!(!inspection.migrates);
    assert_eq!(inspection.bytes, bytes.len());
}

#[test]
fn a_compiled_plugin_is_kept_and_a_damaged_one_is_compiled_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache_dir = directory.path().join("plugins");
    let load = || {
        let engine = Engine::new(EngineOptions { cache_dir: Some(cache_dir.clone()) }).unwrap();
        let plugin = engine.load(&Script { process: ECHO, ..Script::default() }.bytes()).unwrap();
        run(&mut plugin.instantiate(options()).unwrap()).unwrap()
    };
    let files = || std::fs::read_dir(&cache_dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let first = load();
    let [file] = files().try_into().unwrap();
    let whole = std::fs::read(&file).unwrap();
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(load(), first);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written, "read, not written");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0xff;
    for bytes in [&damaged[..], &whole[..100], &[]] {
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(load(), first);
        assert_eq!(std::fs::read(&file).unwrap(), whole, "replaced by a whole one");
    }
    let not_a_directory = directory.path().join("file");
    std::fs::write(&not_a_directory, "x").unwrap();
    Engine::new(EngineOptions { cache_dir: Some(not_a_directory) }).unwrap().load(&Script::default().bytes()).unwrap();
}

#[test]
fn a_plugin_in_use_is_compiled_once() {
    let bytes = Script { data: "once", ..Script::default() }.bytes();
    let plugin = engine().load(&bytes).unwrap();
    assert!(Arc::ptr_eq(&plugin, &engine().load(&bytes).unwrap()));
    assert_eq!(plugin.digest().len(), 64);
}

#[test]
fn what_is_emitted_with_too_many_records_for_the_causes_is_refused() {
    let error = misuse(
        "(i32.store (i32.const 700) (i32.const 4))
         (call $emit_values (global.get $main) (i32.const 16) (i32.const 4) (i32.const 700) (i32.const 1))",
    );
    assert!(matches!(error, Misuse::Shape(ShapeError::Count { found: 1, expected: 3, .. })), "{error}");
}
