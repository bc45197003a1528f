//! `sluicegate plugin new`: a project from the templates in `new/template`.

mod template;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use self::template::Sdk;
use super::build::TARGET;
use crate::cli::CommandError;
use crate::manifest;

/// Arguments of `plugin new`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The project builds and passes its tests as it is. In a checkout of Sluicegate, the SDK is that one.

Examples:
  sluicegate plugin new shout
  sluicegate plugin new totals --state --path plugins/totals")]
pub(in crate::cli) struct NewArgs {
    /// Name of the plugin: lower-case letters, digits and `-`
    name: String,
    /// Folder to make; the name otherwise
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// With a transform that keeps state by key
    #[arg(long)]
    state: bool,
    /// Take this version of the SDK, not the one of the checkout
    #[arg(long, value_name = "VERSION", value_parser = semver::VersionReq::parse)]
    sdk_version: Option<semver::VersionReq>,
}

pub(super) fn run(args: &NewArgs, out: &mut impl Write) -> Result<(), CommandError> {
    check_name(&args.name)?;
    let folder = args.path.clone().unwrap_or_else(|| args.name.clone().into());
    let shown = folder.display();
    must_be_free(&folder)?;
    let sdk = match &args.sdk_version {
        Some(version) => Sdk::Version(version.to_string()),
        None => checkout().map_or_else(|| Sdk::Version(env!("CARGO_PKG_VERSION").into()), Sdk::Path),
    };
    for (path, text) in template::files(&args.name, args.state, &sdk) {
        let path = folder.join(path);
        write_new(&path, &text)
            .map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", path.display())))?;
    }
    let file = template::wasm_file(&args.name);
    writeln!(out, "made {shown}, a plugin with the SDK {sdk}. Next:")?;
    writeln!(out, "  cd {shown}")?;
    writeln!(out, "  cargo test")?;
    writeln!(out, "  sluicegate dev --key-separator :")?;
    writeln!(out, "  sluicegate plugin build")?;
    let wasm = format!("target/{TARGET}/release/{file}");
    writeln!(out, "  sluicegate test {wasm} --in tests/records.jsonl --expect tests/expected.jsonl")?;
    Ok(writeln!(out, "README.md goes on from there.")?)
}

/// Names that cargo or the template cannot have for a package.
const TAKEN: &[&str] = &["alloc", "core", "proc-macro", "serde", "sluicegate-sdk", "std", "test"];

/// Rust's words, which cannot name a library: of the 2024 edition, as far as they are lower-case letters.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

fn check_name(name: &str) -> Result<(), CommandError> {
    let problem = if !manifest::is_name(name) {
        "use lower-case letters, digits and `-`, a letter first, at most 63 of them"
    } else if KEYWORDS.contains(&name) {
        "it is a word of Rust's: choose another one"
    } else if TAKEN.contains(&name) {
        "a library has it already: choose another one"
    } else {
        return Ok(());
    };
    Err(CommandError::BadInput(format!("`{name}` cannot be the name of a plugin: {problem}")))
}

fn must_be_free(folder: &Path) -> Result<(), CommandError> {
    let shown = folder.display();
    let problem = match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => return Ok(()),
        Ok(false) => "it is there already, and not empty".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => error.to_string(),
    };
    Err(CommandError::BadInput(format!("cannot make {shown}: {problem}; name another folder with --path")))
}

/// The SDK of the checkout that the program was built in, or else of the one that the working directory is in.
fn checkout() -> Option<PathBuf> {
    let program = std::env::current_exe().and_then(fs::canonicalize);
    let starts = [program.ok(), std::env::current_dir().ok()];
    let folders = starts.iter().flatten().flat_map(|start| start.ancestors());
    folders.map(|folder| folder.join("guest-sdk")).find(|folder| is_sdk(folder))
}

fn is_sdk(folder: &Path) -> bool {
    fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.contains("name = \"sluicegate-sdk\""))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create_new(path)?.write_all(text.as_bytes())
}
