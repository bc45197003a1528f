//! `sluicegate plugin build`: cargo, with what a plugin is built with.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Outline, inspect};
use crate::cli::{CommandError, file, table};
use crate::engine;

/// What plugins are compiled for.
pub(super) const TARGET: &str = "wasm32-wasip2";
/// Debug information goes, the names of functions stay: backtraces show them.
const STRIPPED: &str = "profile.release.strip=\"debuginfo\"";

/// Arguments of `plugin build`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
In release mode, stripped of debug information; names of functions stay, for backtraces.

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
    let built = files.into_iter().map(look_at).collect::<Result<Vec<_>, _>>()?;
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

fn look_at(file: PathBuf) -> Result<Built, CommandError> {
    let bytes = file::read(&file)?;
    let refused = |error| CommandError::BadInput(format!("{} is no plugin for this host: {error}", file.display()));
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
}
