//! What authors of plugins type: `plugin new|build|check|pack` and `test`. No server is needed.
//!
//! What they print for input that is wrong is among the [`goldens`](crate::goldens).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::goldens::work_folder;
use crate::node;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A folder in which commands are typed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = work_folder();
        // Here there is no cluster.
        fs::remove_file(folder.path().join("sluicegate.toml")).unwrap();
        Self(folder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The program here, with nothing from the environment that would change what it says.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = node::program();
        command.args(arguments).current_dir(self.0.path()).env("NO_COLOR", "1").env("SLUICEGATE_LOG", "error");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) -> String {
        done(&mut self.command(arguments))
    }

    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command prints that succeeds.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (said, printed) = (text(&output.stderr), text(&output.stdout));
    assert_eq!(output.status.code(), Some(0), "{command:?}:\n{said}\n{printed}");
    printed
}

/// Cargo in a project, without the network: the versions of the repository have been fetched.
fn cargo(project: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    offline(command.args(arguments).current_dir(project));
    command
}

fn offline(command: &mut Command) -> &mut Command {
    command.env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR")
}

/// Makes a project in `folder`, started in the repository, whose SDK it takes. Its target folder stays from run to run.
fn new_project(folder: &Folder, name: &str, flags: &[&str]) -> PathBuf {
    let project = folder.path(name);
    let arguments = [&["plugin", "new", name, "--path", project.to_str().unwrap()], flags].concat();
    let said = done(folder.command(&arguments).current_dir(REPOSITORY));
    assert!(said.contains("cargo test") && said.contains("sluicegate plugin build"), "{said}");
    fs::copy(Path::new(REPOSITORY).join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let target = Path::new(REPOSITORY).join("target/new-plugins");
    fs::create_dir_all(&target).unwrap();
    symlink(fs::canonicalize(target).unwrap(), project.join("target")).unwrap();
    project
}

#[test]
fn a_new_project_passes_its_tests_builds_and_fits_its_pipeline() {
    let folder = Folder::new();
    for (name, flags) in [("new-plain", &[][..]), ("new-state", &["--state"][..])] {
        let project = new_project(&folder, name, flags);
        let tested = done(&mut cargo(&project, &["test", "--quiet"]));
        assert!(tested.contains("test result: ok"), "{tested}");

        let head = checked_in(&project);
        let build = || done(offline(folder.command(&["plugin", "build", "--json"]).current_dir(&project)));
        let said = build();
        let built: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(built[0]["manifest"]["name"], name);
        let provenance = &built[0]["provenance"];
        assert_eq!((&provenance["revision"], &provenance["languages"][0]), (&head.into(), &"Rust".into()));
        assert_eq!(provenance["source"], "https://example.org/plugins.git");
        assert!(provenance["tools"][0].as_str().unwrap().starts_with("rustc "), "{provenance}");
        assert!(provenance["sdk"].as_str().unwrap().starts_with("sluicegate-sdk "), "{provenance}");
        let wasm = built[0]["file"].as_str().unwrap();
        let bytes = fs::read(project.join(wasm)).unwrap();
        assert_eq!(build(), said, "the same sources give the same bytes");
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has("processor@0.1.0#process") && !has(".debug_info"), "stripped to the names of functions");

        let expect = ["test", wasm, "--in", "tests/records.jsonl", "--expect", "tests/expected.jsonl"];
        assert_eq!(done(folder.command(&expect).current_dir(&project)), "");
        let check = ["plugin", "check", wasm, "--pipeline", "pipeline.toml"];
        let checked = done(folder.command(&check).current_dir(&project));
        assert!(checked.contains(&format!("main to the topic {name}-out")) && checked.ends_with("ok\n"), "{checked}");
        assert_eq!(checked.contains("totals, schema 1"), name == "new-state", "{checked}");
    }
}

/// Checks a project in, and says which revision that is.
fn checked_in(project: &Path) -> String {
    let git = |arguments: &[&str]| {
        let user = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"];
        done(Command::new("git").arg("-C").arg(project).args(user).args(arguments))
    };
    git(&["init", "--quiet"]);
    git(&["remote", "add", "origin", "https://ada:hunter2@example.org/plugins.git"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "first"]);
    git(&["rev-parse", "HEAD"]).trim().to_owned()
}

#[test]
fn a_project_never_overwrites_anything() {
    let folder = Folder::new();
    folder.done(&["plugin", "new", "mine"]);
    fs::write(folder.path("mine/src/lib.rs"), "// hours of work").unwrap();
    let said = folder.fails(64, &["plugin", "new", "mine"]);
    assert!(said.contains("cannot make mine: it is there already, and not empty") && said.contains("--path"), "{said}");
    assert_eq!(fs::read_to_string(folder.path("mine/src/lib.rs")).unwrap(), "// hours of work");
    fs::create_dir(folder.path("empty")).unwrap();
    folder.done(&["plugin", "new", "mine", "--path", "empty", "--sdk-version", "0.3"]);
    let manifest: toml::Table = fs::read_to_string(folder.path("empty/Cargo.toml")).unwrap().parse().unwrap();
    assert_eq!(manifest["dependencies"]["sluicegate-sdk"].as_str(), Some("^0.3"));
}

#[test]
fn what_keeps_a_project_from_building_is_said() {
    let folder = Folder::new();
    let project = folder.path("own");
    fs::create_dir_all(project.join("src")).unwrap();
    let manifest = "[package]\nname = \"own\"\nedition = \"2024\"\n[lib]\n#crate-type\n[workspace]\n";
    fs::write(project.join("Cargo.toml"), manifest).unwrap();
    fs::write(project.join("src/lib.rs"), "pub fn f() -> u8 { \"no\" }").unwrap();
    let build = |rustc: Option<&Path>| {
        let mut command = folder.command(&["plugin", "build", "own"]);
        if let Some(rustc) = rustc {
            command.env("RUSTC", rustc);
        }
        let output = offline(&mut command).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (code, said) = build(None);
    assert!(
        code == Some(1) && said.contains("mismatched types") && said.contains("does not build: see above"),
        "{said}"
    );

    fs::write(project.join("src/lib.rs"), "pub fn f() {}").unwrap();
    let (code, said) = build(None);
    assert!(code == Some(64) && said.contains("crate-type = [\"cdylib\"]"), "{said}");

    fs::write(project.join("Cargo.toml"), manifest.replace("#crate-type", "crate-type = [\"cdylib\"]")).unwrap();
    let (code, said) = build(None);
    assert!(code == Some(64) && said.contains("is no plugin for this host: it has no manifest"), "{said}");

    let output = folder.command(&["plugin", "build", "own"]).env("CARGO", "/no/such/cargo").output().unwrap();
    let said = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("cannot run /no/such/cargo") && said.contains("rustup.rs"),
        "{said}"
    );

    let rustc = folder.path("rustc");
    fs::write(&rustc, "#!/bin/sh\necho /no/such/folder\n").unwrap();
    fs::set_permissions(&rustc, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (code, said) = build(Some(&rustc));
    assert!(code == Some(1) && said.contains("`rustup target add wasm32-wasip2`"), "{said}");
}

#[test]
fn a_component_of_another_language_becomes_a_plugin() {
    let folder = Folder::new();
    // As a compiler without an SDK would leave it: the bytes with another manifest inside stand for it.
    let pack = ["plugin", "pack", "plugins/value_length.wasm", "--manifest", "plugin.toml", "-o", "packed.wasm"];
    assert!(folder.fails(64, &pack).contains("has a manifest already: --replace"));
    assert!(!folder.path("packed.wasm").exists());
    let said = folder.done(&[&pack[..], &["--replace"]].concat());
    assert!(said.starts_with("lengths@1.2.0 packed: packed.wasm, "), "{said}");
    let inspected: Value = serde_json::from_str(&folder.done(&["plugin", "inspect", "packed.wasm", "--json"])).unwrap();
    assert_eq!(
        (&inspected["manifest"]["name"], &inspected["manifest"]["version"]),
        (&"lengths".into(), &"1.2.0".into())
    );
    let ran = folder.done(&["test", "packed.wasm", "--in", "records.jsonl"]);
    assert!(ran.starts_with("{\"output\":\"main\",\"key\":\"a\",\"value\":\"hello,5\"}\n"), "{ran}");
    let again = ["plugin", "pack", "packed.wasm", "--manifest", "plugin.toml", "--replace", "--json"];
    let packed: Value = serde_json::from_str(&folder.done(&again)).unwrap();
    assert_eq!(packed["digest"], inspected["digest"], "into the file itself, and nothing else has changed");
}

#[test]
fn what_a_plugin_wants_has_to_be_granted() {
    let folder = Folder::new();
    fs::write(folder.path("wants.toml"), "name = \"wants\"\nversion = \"1.0.0\"\nwants = [\"clocks\", \"env:HOME\"]\n")
        .unwrap();
    let pack =
        ["plugin", "pack", "plugins/value_length.wasm", "--manifest", "wants.toml", "--replace", "-o", "wants.wasm"];
    folder.done(&pack);
    let test = ["test", "wants.wasm", "--in", "records.jsonl"];
    assert!(folder.fails(64, &test).contains("cannot work without grants: add --grant clocks --grant env:HOME"));
    folder.done(&[&test[..], &["--grant", "clocks", "--grant", "env:HOME"]].concat());
    let said = folder.fails(64, &["plugin", "check", "wants.wasm", "--pipeline", "count.toml"]);
    assert!(said.contains("count.toml:8:") && said.contains("grants = [\"clocks\", \"env:HOME\"]"), "{said}");
}

#[test]
fn a_check_reports_what_a_plugin_asks_for_and_gets() {
    let folder = Folder::new();
    let checked = folder.done(&["plugin", "check", "plugins/keyed_count.wasm", "--pipeline", "count.toml"]);
    for line in [
        "keyed-count@0.1.0",
        "  world      sluicegate:transform@0.1.0",
        "as the transform `count` of count.toml",
        "  grants     wants none; has none",
        "  input      main from the topic in",
        "  output     main to the topic out",
        "  store      counts, schema 1",
        "  config     accepted",
    ] {
        assert!(checked.lines().any(|found| found == line), "{line} is missing in\n{checked}");
    }
    let json = folder.done(&["plugin", "check", "plugins/keyed_count.wasm", "--pipeline", "count.toml", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["fits"], &json["transforms"][0]["stores"][0]["schema"]), (&true.into(), &1.into()));
    assert!(json["transforms"][0]["memory-bytes"].as_u64().unwrap() > 1 << 16, "{json}");
    assert!(folder.done(&["plugin", "check", "plugins/keyed_count.wasm"]).ends_with("ok\n"));
}

#[test]
fn a_check_gets_the_other_plugins_of_a_pipeline_from_the_registry() {
    let folder = Folder::new();
    let pipeline = fs::read_to_string(folder.path("two.toml")).unwrap();
    let pipeline = pipeline.replace("./plugins/value_length.wasm", "value-length@0.1.0");
    fs::write(folder.path("two.toml"), pipeline).unwrap();
    let store = ["--local-path", "store"];
    let check = [&["plugin", "check", "plugins/keyed_count.wasm", "--pipeline", "two.toml"][..], &store].concat();
    let said = folder.fails(64, &check);
    assert!(said.contains("no plugin value-length@0.1.0 in the registry") && said.contains("two.toml:8:"), "{said}");
    folder.done(&[&["plugin", "push", "plugins/value_length.wasm"][..], &store].concat());
    let checked = folder.done(&check);
    assert!(checked.contains("  input      main from the transform `length`\n"), "{checked}");

    let pulled = folder.done(&[&["plugin", "pull", "value-length@0"][..], &store].concat());
    assert!(pulled.starts_with("value-length-0.1.0.wasm written: "), "{pulled}");
    let bytes = |file: &str| fs::read(folder.path(file)).unwrap();
    assert_eq!(bytes("value-length-0.1.0.wasm"), bytes("plugins/value_length.wasm"));
}

#[test]
fn what_does_not_fit_is_in_the_report_and_at_its_line() {
    let folder = Folder::new();
    let output = folder.run(&["plugin", "check", "plugins/mask_json.wasm", "--pipeline", "misfit.toml", "--json"]);
    assert_eq!(output.status.code(), Some(64));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines: Vec<_> =
        json["errors"].as_array().unwrap().iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!((&json["fits"], lines.as_slice()), (&false.into(), &[8, 10, 14][..]), "{json}");
    assert_eq!(json["transforms"][0]["configuration"], "refused");
    let said = text(&output.stderr);
    assert!(said.contains("misfit.toml:10:") && said.contains("misfit.toml:14:"), "{said}");
}

#[test]
fn a_plugin_that_does_not_start_is_found_by_a_check() {
    let said =
        Folder::new().fails(64, &["plugin", "check", "plugins/guest_misbehaves.wasm", "--pipeline", "trap.toml"]);
    assert!(
        said.starts_with("error: the plugin does not start: it trapped") && said.contains("trap.toml:8:"),
        "{said}"
    );
    assert!(said.contains("processor@0.1.0#open"), "with its backtrace:\n{said}");
}

#[test]
fn state_goes_into_a_test_and_comes_out_of_it() {
    let folder = Folder::new();
    let test = ["test", "plugins/keyed_count.wasm", "--in", "records.jsonl"];
    let first = folder.done(&[&test[..], &["--state-out", "after.jsonl"]].concat());
    assert!(first.contains("\"value\":\"1\""), "{first}");
    let state = fs::read_to_string(folder.path("after.jsonl")).unwrap();
    assert!(state.starts_with("{\"store\":\"counts\",\"key\":\"a\",\"value\":{\"base64\":\""), "{state}");
    let again = folder.done(&[&test[..], &["--state", "after.jsonl", "--batch", "1", "--json"]].concat());
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["outcomes"][0]["value"], "3", "{again}");
    assert_eq!(again["state"].as_array().unwrap().len(), state.lines().count());
}

#[test]
fn a_trap_is_shown_with_the_record_that_causes_it() {
    let folder = Folder::new();
    for batch in ["1", "2", "1000"] {
        let config = r#"{"how":"panic","on":"bad"}"#;
        let test = ["test", "plugins/guest_misbehaves.wasm", "--in", "bad.jsonl", "--config", config, "--batch", batch];
        let output = folder.run(&test);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("fails on the record at bad.jsonl:4: it trapped"), "{said}");
        for part in
            ["told to panic on", "backtrace:", "processor@0.1.0#process", "{\"key\":\"c\",\"value\":\"bad one\"}"]
        {
            assert!(said.contains(part), "{part} is missing in\n{said}");
        }
        let before = "{\"output\":\"main\",\"key\":\"a\",\"value\":\"good\"}\n{\"output\":\"main\",\"key\":\"b\",\"value\":\"fine\"}\n";
        assert_eq!(text(&output.stdout), before, "what came before it");
    }
    let json = ["--config", r#"{"how":"trap","on":"bad"}"#, "--json"];
    let output = folder.run(&[&["test", "plugins/guest_misbehaves.wasm", "--in", "bad.jsonl"][..], &json].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["failure"]["kind"], &report["failure"]["first-line"]), (&"trap".into(), &4.into()), "{report}");
}

#[test]
fn a_record_is_not_blamed_for_what_came_before_it() {
    let folder = Folder::new();
    // Traps on whatever comes after two records in one instance.
    let config = r#"{"how":"leak","number":2}"#;
    let test = ["test", "plugins/guest_misbehaves.wasm", "--in", "records.jsonl", "--config", config];
    let said = folder.fails(1, &test);
    assert!(said.contains("and on none of them alone"), "{said}");
}

#[test]
fn a_bench_gives_time_and_memory() {
    let folder = Folder::new();
    let bench = ["test", "plugins/keyed_count.wasm", "--in", "records.jsonl", "--bench"];
    let printed = folder.done(&bench);
    assert!(printed.starts_with("A RECORD") && printed.lines().count() == 2, "{printed}");
    let figures: Value = serde_json::from_str(&folder.done(&[&bench[..], &["--json"]].concat())).unwrap();
    let figures = &figures["bench"];
    assert!(
        figures["ns-per-record"].as_f64().unwrap() >= figures["ns-per-record-fastest"].as_f64().unwrap(),
        "{figures}"
    );
    assert!(figures["passes"].as_u64().unwrap() >= 10 && figures["guest-memory-bytes"].as_u64().unwrap() > 1 << 16);
}

#[test]
fn records_may_come_from_standard_input() {
    let folder = Folder::new();
    let mut command = folder.command(&["test", "plugins/value_length.wasm", "--in", "-"]);
    command.stdin(fs::File::open(folder.path("records.jsonl")).unwrap());
    assert!(done(&mut command).contains("hello,5"));
}
