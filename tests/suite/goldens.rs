//! Commands as data: `tests/commands/NAME.args` is a test, with what is expected of it in `NAME.expected`; a new one needs no
//! Rust, and no servers.
//!
//! `.args` has an argument a line; behind an empty line, variables of the environment. Commands run in a folder with what is in
//! `tests/commands/files`, and with `plugins`, the folder of the plugins and test guests. `BLESS=1` writes what is found into
//! `.expected`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::node;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/commands");

fn cases() -> Vec<PathBuf> {
    let files = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|it| it == "args")).collect();
    cases.sort();
    cases
}

/// A folder in which commands are typed.
pub(crate) fn work_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(Path::new(FOLDER).join("files")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    symlink(node::plugin("keyed_count.wasm").parent().unwrap(), folder.path().join("plugins")).unwrap();
    folder
}

/// Exit code and both streams.
fn run(case: &Path) -> String {
    let text = fs::read_to_string(case).unwrap();
    let (arguments, variables) = text.split_once("\n\n").unwrap_or((&text, ""));
    let folder = work_folder();
    let mut command = node::program();
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SLUICEGATE_") {
            command.env_remove(variable);
        }
    }
    command.args(arguments.lines()).current_dir(folder.path()).stdin(Stdio::null());
    command.env("NO_COLOR", "1");
    command.envs(variables.lines().map(|line| line.split_once('=').unwrap()));
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let code = output.status.code().unwrap();
    format!("exit {code}\n-- stdout\n{stdout}-- stderr\n{stderr}")
}

#[test]
fn commands_print_what_is_expected_of_them() {
    let cases = cases();
    assert!(cases.len() > 10, "the cases are not found");
    let mut wrong = Vec::new();
    for case in cases {
        let found = run(&case);
        assert!(!found.contains("hunter"), "{}: a secret is printed:\n{found}", case.display());
        let expected = case.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "other than in .expected (BLESS=1 writes it):\n{}", wrong.join("\n"));
}
