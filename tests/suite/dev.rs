//! Development mode from the outside: what is typed, what comes out, and changes while it runs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use sluicegate_harness::process::signal_process;
use tempfile::TempDir;

use crate::deployment::Deployment;
use crate::node::{plugin, program};
use crate::shared::{kafka, topic, wait_for};

const PIPELINE: &str = r#"
name = "developed"
[[source]]
topic = "in"
[[transform]]
name = "t"
plugin = "t.wasm"
[[sink]]
topic = "out"
"#;

/// A folder with a pipeline and its plugin.
fn folder(file: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(plugin(file), folder.path().join("t.wasm")).unwrap();
    fs::write(folder.path().join("pipeline.toml"), PIPELINE).unwrap();
    folder
}

fn dev(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = program();
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-cache");
    command.arg("dev").args(arguments).current_dir(folder.path()).env("SLUICEGATE_CACHE_PATH", cache);
    command.env("NO_COLOR", "1");
    command
}

fn lines(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text).lines().map(ToOwned::to_owned).collect()
}

#[test]
fn a_file_goes_through_and_what_is_rejected_is_shown() {
    let folder = folder("guest_misbehaves.wasm");
    let config = "plugin = \"t.wasm\"\nconfig = { how = \"panic\", on = \"bad\" }";
    fs::write(folder.path().join("pipeline.toml"), PIPELINE.replace("plugin = \"t.wasm\"", config)).unwrap();
    fs::write(folder.path().join("records.txt"), "a:one\nb:bad two\nno key\na:three\n").unwrap();
    let arguments = ["--in", "records.txt", "--key-separator", ":", "--once"];
    let output = dev(&folder, &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let shown = lines(&output.stdout);
    let sent: Vec<&String> = shown.iter().filter(|line| line.starts_with("out  ")).collect();
    assert_eq!(sent, ["out  a: one", "out  a: three"]);
    assert!(shown.contains(&"rejected by t: b: bad two".to_owned()), "{shown:?}");
    assert!(shown.iter().any(|line| line.contains("told to panic on Ok(\"bad two\")")), "{shown:?}");
    assert!(said.contains("line 3: there is no `:`") && said.contains("embedded broker"), "{said}");

    let output = dev(&folder, &[&arguments[..], &["--json"]].concat()).output().unwrap();
    let records: Vec<Value> = lines(&output.stdout).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3);
    assert!(records.iter().any(|record| record["topic"] == "developed.rejected" && record["value"] == "bad two"));
}

/// A process whose input a test types.
struct Typed {
    child: Child,
    shown: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    said: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Typed {
    fn start(mut command: Command) -> Self {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let collect = |mut from: Box<dyn Read + Send>| {
            let all = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let into = std::sync::Arc::clone(&all);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    into.lock().unwrap().extend_from_slice(&buffer[..count]);
                }
            });
            all
        };
        let shown = collect(Box::new(child.stdout.take().unwrap()));
        let said = collect(Box::new(child.stderr.take().unwrap()));
        Self { child, shown, said }
    }

    fn types(&mut self, line: impl AsRef<[u8]>) {
        let line = [line.as_ref(), b"\n"].concat();
        self.child.stdin.as_mut().unwrap().write_all(&line).unwrap();
    }

    fn waits_for_said(&self, words: &str) {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(words, || self.said().contains(words).then_some(()));
        }));
        assert!(found.is_ok(), "it did not say `{words}`:\n{}", self.said());
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    fn waits_for_shown(&self, line: &str) {
        wait_for(line, || lines(&self.shown.lock().unwrap()).iter().any(|shown| shown == line).then_some(()));
    }

    fn interrupt(mut self) -> i32 {
        signal_process(self.child.id(), libc::SIGINT).unwrap();
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Another file in the place of the plugin, as compilers and editors do it.
fn replace(folder: &TempDir, bytes: &[u8]) {
    fs::write(folder.path().join("t.new"), bytes).unwrap();
    fs::rename(folder.path().join("t.new"), folder.path().join("t.wasm")).unwrap();
}

/// The same plugin as another file: with a section more.
fn built_anew(folder: &TempDir, number: u8) {
    let mut bytes = fs::read(plugin("keyed_count.wasm")).unwrap();
    bytes.extend_from_slice(&[0, 3, 1, b'x', number]);
    replace(folder, &bytes);
}

fn short_digest(folder: &TempDir) -> String {
    let digest = sluicegate::digest::Digest::of(&fs::read(folder.path().join("t.wasm")).unwrap());
    digest.to_string()["sha256:".len()..][..12].to_owned()
}

#[test]
fn a_changed_plugin_is_swapped_with_the_state_it_has_and_a_changed_file_is_deployed() {
    let folder = folder("keyed_count.wasm");
    let before = short_digest(&folder);
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":"]));
    dev.waits_for_said("running after");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 1");

    built_anew(&folder, 1);
    dev.waits_for_said(&format!("swap of transform `t` from sha256:{before} to sha256:{}", short_digest(&folder)));
    dev.waits_for_said("all tasks have gone over; probation: 2s");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 2");
    dev.waits_for_said("swap done: transform `t` runs sha256:");

    fs::write(folder.path().join("pipeline.toml"), PIPELINE.replace("[[sink]]", "[[sinc]]")).unwrap();
    dev.waits_for_said("unknown");
    fs::write(folder.path().join("pipeline.toml"), PIPELINE.replace("\"out\"", "\"elsewhere\"")).unwrap();
    dev.waits_for_said("deployed as revision 3: sink[elsewhere].");
    dev.waits_for_said("revision 3 runs");
    dev.types("k:x");
    dev.waits_for_shown("elsewhere  k: 3");
    assert_eq!(dev.interrupt(), 0);
}

#[test]
fn what_does_not_pass_the_gate_disturbs_nothing() {
    let folder = folder("keyed_count.wasm");
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":"]));
    dev.waits_for_said("running after");
    replace(&folder, b"no plugin");
    dev.waits_for_said("refused by the gate:");
    dev.waits_for_said("what ran before goes on");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 1");

    // Its outputs are others.
    replace(&folder, &fs::read(plugin("guest_shapes.wasm")).unwrap());
    dev.waits_for_said("`odd`");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 2");

    replace(&folder, &fs::read(plugin("keyed_count.wasm")).unwrap());
    dev.waits_for_said("nothing has changed in what runs");
    let said = dev.said();
    assert!(!said.contains("swap of transform") && !said.contains("`sluicegate "), "{said}");
    assert_eq!(dev.interrupt(), 0);
}

#[test]
fn a_plugin_that_traps_returns_to_the_one_before_and_says_why() {
    let folder = folder("keyed_count.wasm");
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":", "--probation", "10m"]));
    dev.waits_for_said("running after");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 1");
    // Of another schema, which is converted both ways.
    replace(&folder, &fs::read(plugin("guest_tally.wasm")).unwrap());
    dev.waits_for_said("all tasks have gone over; probation: 10m");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 2;");
    dev.types("k:panic");
    dev.waits_for_said("swap returned: transform `t` runs sha256:");
    dev.waits_for_said("told to");
    dev.waits_for_shown("out  k: 3");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 4");
    assert_eq!(dev.interrupt(), 0);
}

#[test]
fn a_version_from_which_nothing_leads_back_is_let_through_and_said_to_be_one() {
    let folder = folder("keyed_count.wasm");
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":"]));
    dev.waits_for_said("running after");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 1");
    replace(&folder, &fs::read(plugin("guest_onward.wasm")).unwrap());
    dev.waits_for_said("warning: store `counts`: schema 1 -> 2");
    dev.waits_for_said("no automatic return, as with --no-return");
    dev.waits_for_said("swap done");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 2;");
    assert_eq!(dev.interrupt(), 0);
}

#[test]
fn what_would_be_held_for_a_person_stays_and_the_pipeline_goes_on() {
    let folder = folder("keyed_count.wasm");
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":", "--probation", "10m"]));
    dev.waits_for_said("running after");
    replace(&folder, &fs::read(plugin("guest_onward.wasm")).unwrap());
    dev.waits_for_said("all tasks have gone over; probation: 10m");
    // What is no text is rejected.
    (0..150).for_each(|_| [&b"k:x"[..], b"k:\xff"].into_iter().for_each(|record| dev.types(record)));
    dev.waits_for_said("it stays all the same, for nothing leads back: it rejects ");
    dev.waits_for_said("swap done: transform `t` runs sha256:");
    dev.waits_for_shown("out  k: 150;");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 151;");
    assert_eq!(dev.interrupt(), 0);
}

#[test]
fn a_swap_without_a_way_back_that_stops_the_pipeline_gives_way_to_the_next_change() {
    let folder = folder("keyed_count.wasm");
    let text = |give_up_after: u32| format!("{PIPELINE}[errors]\ngive-up-after = {give_up_after}\n");
    fs::write(folder.path().join("pipeline.toml"), text(3)).unwrap();
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":", "--probation", "10m"]));
    dev.waits_for_said("running after");
    replace(&folder, &fs::read(plugin("guest_onward.wasm")).unwrap());
    dev.waits_for_said("all tasks have gone over; probation: 10m");
    (0..5).for_each(|_| dev.types("k:panic"));
    dev.waits_for_said("it stays all the same, for nothing leads back: node dev cannot run it");
    fs::write(folder.path().join("pipeline.toml"), text(1000)).unwrap();
    dev.waits_for_said("deployed as revision 3: errors.give-up-after");
    dev.waits_for_said("revision 3 runs");
    dev.types("k:x");
    dev.waits_for_shown("out  k: 1;");
    assert_eq!(dev.interrupt(), 0);
}

#[test]
fn the_newest_change_waits_for_the_end_of_a_swap() {
    let folder = folder("keyed_count.wasm");
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":", "--probation", "8s"]));
    dev.waits_for_said("running after");
    built_anew(&folder, 1);
    dev.waits_for_said("probation: 8s");
    built_anew(&folder, 2);
    dev.waits_for_said("the change waits for the end of the swap");
    let between = short_digest(&folder);
    built_anew(&folder, 3);
    dev.waits_for_said("takes the place of the one that waits");
    dev.waits_for_said(&format!("swap done: transform `t` runs sha256:{}", short_digest(&folder)));
    assert!(!dev.said().contains(&between), "{}", dev.said());
    dev.types("k:x");
    dev.waits_for_shown("out  k: 1");
    assert_eq!(dev.interrupt(), 0);
}

/// A pipeline that gives up after a few records, and those.
fn trapping(folder: &TempDir) -> Vec<String> {
    let config = "plugin = \"t.wasm\"\nconfig = { how = \"trap\" }";
    let text = PIPELINE.replace("plugin = \"t.wasm\"", config) + "[errors]\ngive-up-after = 3\n";
    fs::write(folder.path().join("pipeline.toml"), text).unwrap();
    (0..5).map(|number| format!("k:{number}")).collect()
}

#[test]
fn what_has_failed_for_good_is_deployed_anew_with_a_change() {
    let folder = folder("guest_misbehaves.wasm");
    let records = trapping(&folder);
    let mut dev = Typed::start(dev(&folder, &["--key-separator", ":"]));
    dev.waits_for_said("running after");
    records.iter().for_each(|record| dev.types(record));
    dev.waits_for_said("it is tried again");
    dev.waits_for_said("it stays stopped until something changes");
    let text = fs::read_to_string(folder.path().join("pipeline.toml")).unwrap();
    fs::write(folder.path().join("pipeline.toml"), text.replace("\"trap\"", "\"trap\", on = \"never\"")).unwrap();
    dev.waits_for_said("deployed as revision 2: transform[t].config.on");
    dev.waits_for_said("revision 2 runs");
    dev.waits_for_shown("out  k: 4");
    assert!(!dev.said().contains("`sluicegate "), "{}", dev.said());
    assert_eq!(dev.interrupt(), 0);
}

#[test]
fn once_ends_with_the_reason_when_the_pipeline_has_failed_for_good() {
    let folder = folder("guest_misbehaves.wasm");
    let records = trapping(&folder);
    fs::write(folder.path().join("records.txt"), records.join("\n")).unwrap();
    let output = dev(&folder, &["--in", "records.txt", "--key-separator", ":", "--once"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.rsplit_once("error: ").unwrap().1;
    assert!(last.contains("fails on each of 3 records in a row") && last.contains("give-up-after"), "{said}");
}

#[test]
fn it_works_on_a_real_kafka_too_and_keeps_state_there() {
    let servers = kafka().bootstrap();
    let (source, sink) = (topic(&servers, "dev-in", 2), topic(&servers, "dev-out", 2));
    let folder = folder("keyed_count.wasm");
    let text = PIPELINE.replace("\"in\"", &format!("{source:?}")).replace("\"out\"", &format!("{sink:?}"));
    fs::write(folder.path().join("pipeline.toml"), &text).unwrap();
    fs::write(folder.path().join("records.txt"), "k:x\nk:x\n").unwrap();
    let arguments = ["--in", "records.txt", "--key-separator", ":", "--once", "--kafka", &servers, "--state", "kept"];
    for counts in [[1, 2], [3, 4]] {
        let output = dev(&folder, &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines(&output.stdout), counts.map(|count| format!("{sink}  k: {count}")));
    }
    // The first one is not run beside it.
    let text = text.replace("\"developed\"", "\"another\"");
    fs::write(folder.path().join("pipeline.toml"), text).unwrap();
    fs::write(folder.path().join("records.txt"), "").unwrap();
    let output = dev(&folder, &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("developed"), "{said}");
}

#[test]
fn what_is_wrong_at_the_start_is_said() {
    let deployment = Deployment::new(&PIPELINE.replace("t.wasm", "value_length.wasm"));
    let fails = |code, arguments: &[&str]| crate::commands::fails(&deployment, code, arguments);
    assert!(fails(64, &["dev", "nowhere.toml"]).contains("nowhere.toml"));
    assert!(fails(64, &["dev", "--generate", "0"]).contains("--generate"));
    assert!(fails(64, &["dev", "--state", "kept"]).contains("--kafka"));
    assert!(fails(64, &["dev", "--http-listen", "x"]).contains("write an address like 127.0.0.1:8080"));
    assert!(fails(1, &["dev", "--in", "nowhere.txt", "--once", "--no-build"]).contains("nowhere.txt"));
}
