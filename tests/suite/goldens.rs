//! Commands as data: `tests/commands/NAME.args` is a test, with what is expected of it in `NAME.expected`; a new one needs no
//! Rust, and no servers.
//!
//! The first line of `.args` is what is typed, words with single spaces between; each further one is a variable of the
//! environment. Commands run in a copy of `tests/commands/files`. `BLESS=1` writes what is found into `.expected`.
#![allow(clippy::unwrap_used)]

use std::fs;
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

fn work_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(Path::new(FOLDER).join("files")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

/// Exit code and both streams.
fn run(case: &Path) -> String {
    let text = fs::read_to_string(case).unwrap();
    let mut lines = text.lines();
    let folder = work_folder();
    let mut command = node::program();
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SLUICEGATE_") {
            command.env_remove(variable);
        }
    }
    command.args(lines.next().unwrap().split(' ')).current_dir(folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
    command.envs(lines.map(|line| line.split_once('=').unwrap()));
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let code = output.status.code().unwrap();
    format!("exit code {code}\n-- standard output\n{stdout}-- standard error\n{stderr}")
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
