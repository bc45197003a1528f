//! `sluicegate plugin build`: cargo, with what a plugin is built with.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Outline, inspect};
use crate::cli::{CommandError, file, table};
use crate::engine;
use crate::provenance::{DIRTY, public_address};

/// What plugins are compiled for.
pub(super) const TARGET: &str = "wasm32-wasip2";
/// Debug information goes, the names of functions stay: backtraces show them.
const STRIPPED: &str = "profile.release.strip=\"debuginfo\"";

/// Arguments of `plugin build`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
In release mode, stripped of debug information; names of functions stay, for backtraces. In a git checkout the component
says which repository and revision it was built from, with `-dirty` behind the revision when files were changed since.

Examples:
  sluicegate plugin build
  sluicegate plugin build plugins/shout --json")]
pub(in crate::cli) struct BuildArgs {
    /// Folder of the project
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A line that cargo writes for each thing that it has made, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Serialize)]
struct Built {
    file: PathBuf,
    #[serde(flatten)]
    plugin: inspect::Report,
}

pub(super) fn run(args: &BuildArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let shown = args.dir.display();
    if !args.dir.join("Cargo.toml").is_file() {
        let what = format!("there is no Cargo.toml in {shown}: `sluicegate plugin new NAME` makes a project");
        return Err(CommandError::BadInput(what));
    }
    let files = components_of(&args.dir)?;
    if files.is_empty() {
        let what = format!("{shown} has no plugin in it: its Cargo.toml needs [lib] with crate-type = [\"cdylib\"]");
        return Err(CommandError::BadInput(what));
    }
    let sources = Sources::of(&args.dir);
    let built = files.into_iter().map(|file| look_at(file, sources.as_ref())).collect::<Result<Vec<_>, _>>()?;
    if args.json {
        return Ok(table::json(out, &built)?);
    }
    for Built { file, plugin } in &built {
        writeln!(out, "{}", file.display())?;
        inspect::write_text(out, plugin)?;
    }
    Ok(())
}

/// Builds what is in a folder; its components.
pub(in crate::cli) fn components_of(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    target_must_be_there(dir)?;
    Ok(components(&cargo(dir)?))
}

/// Runs cargo, whose errors and progress go to stderr; what it says to machines.
fn cargo(dir: &Path) -> Result<String, CommandError> {
    let cargo = program("CARGO", "cargo");
    let mut command = Command::new(&cargo);
    command.args(["build", "--release", "--target", TARGET, "--config", STRIPPED]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let child = command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let output = child.and_then(std::process::Child::wait_with_output).map_err(|error| {
        let cargo = cargo.display();
        CommandError::Failed(format!("cannot run {cargo}: {error}; https://rustup.rs installs Rust"))
    })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(CommandError::Failed(format!("the plugin in {} does not build: see above", dir.display()))),
    }
}

/// Asks the compiler that the project is built with, which may be another one than elsewhere.
fn target_must_be_there(dir: &Path) -> Result<(), CommandError> {
    let asked = Command::new(program("RUSTC", "rustc"))
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output();
    // Without an answer cargo says what is wrong.
    let Some(answer) = asked.ok().filter(|answer| answer.status.success()) else { return Ok(()) };
    let folder = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    match folder.is_dir() {
        true => Ok(()),
        false => Err(CommandError::Failed(format!(
            "Rust has no standard library for {TARGET} here: add it with `rustup target add {TARGET}`"
        ))),
    }
}

fn program(variable: &str, name: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| name.into(), PathBuf::from)
}

/// Where the sources of a build are.
#[derive(Debug, Eq, PartialEq)]
struct Sources {
    repository: Option<String>,
    revision: String,
}

impl Sources {
    /// As git knows it; `None` where there is no git, no checkout or no commit.
    fn of(dir: &Path) -> Option<Self> {
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            // Looking must not lock anything.
            command.arg("-C").arg(dir).args(arguments).env("GIT_OPTIONAL_LOCKS", "0");
            let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok();
            let output = output.filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let revision = git(&["rev-parse", "--verify", "HEAD"]).filter(|revision| !revision.is_empty())?;
        // When git cannot say that nothing has changed, something may have.
        let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
        let repository = git(&["remote", "get-url", "origin"]).and_then(|remote| public_address(&remote));
        Some(Self { repository, revision: if is_clean { revision } else { revision + DIRTY } })
    }
}

/// The components among what cargo made. Lines that are no messages come from build scripts.
fn components(messages: &str) -> Vec<PathBuf> {
    let made = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let of_plugins = made.filter(|message| {
        let is_plugin = |target: &Target| target.kind.iter().any(|kind| kind == "cdylib");
        message.reason == "compiler-artifact" && message.target.as_ref().is_some_and(is_plugin)
    });
    let files = of_plugins.flat_map(|message| message.filenames);
    files.filter(|file| file.extension().is_some_and(|extension| extension == "wasm")).collect()
}

/// Says in the component where its sources are, if that is known, and reads what it is. Whatever strips a component does so
/// before: what is written here stays.
fn look_at(file: PathBuf, sources: Option<&Sources>) -> Result<Built, CommandError> {
    let mut bytes = file::read(&file)?;
    let refused = |error| CommandError::BadInput(format!("{} is no plugin for this host: {error}", file.display()));
    if let Some(Sources { repository, revision }) = sources {
        let stamped = engine::stamp(&bytes, repository.as_deref(), revision).map_err(refused)?;
        if stamped != bytes {
            file::write(&file, &stamped)
                .map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", file.display())))?;
            bytes = stamped;
        }
    }
    let found = engine::inspect(&bytes).map_err(refused)?;
    let plugin = inspect::Report::new(&bytes, Outline::from(found));
    // Shorter to read and to type, where it lies below the working directory.
    let here = std::env::current_dir().unwrap_or_default();
    let file = file.strip_prefix(&here).map(Path::to_path_buf).unwrap_or(file);
    Ok(Built { file, plugin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_the_wasm_files_of_cdylibs() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"filenames":["/t/libserde.rlib"]}"#,
            "\nsaid by a build script\n",
            r#"{"reason":"build-script-executed","package_id":"x"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["cdylib"]},"filenames":["/t/shout.wasm","/t/shout.d"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(components(messages), [Path::new("/t/shout.wasm")]);
    }

    #[test]
    fn sources_are_those_of_the_checkout_and_changed_ones_are_marked() {
        let folder = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            let user = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"];
            let output = command.arg("-C").arg(folder.path()).args(user).args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(Sources::of(folder.path()), None, "no checkout");
        git(&["init", "-q"]);
        assert_eq!(Sources::of(folder.path()), None, "no commit");
        std::fs::write(folder.path().join("lib.rs"), "1").unwrap();
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "first"]);
        let head = git(&["rev-parse", "HEAD"]);
        assert_eq!(Sources::of(folder.path()), Some(Sources { repository: None, revision: head.clone() }));
        git(&["remote", "add", "origin", "https://ada:hunter2@example.org/shout.git"]);
        std::fs::write(folder.path().join("more.rs"), "2").unwrap();
        let expected =
            Sources { repository: Some("https://example.org/shout.git".to_owned()), revision: format!("{head}-dirty") };
        assert_eq!(Sources::of(folder.path()), Some(expected));
    }
}
