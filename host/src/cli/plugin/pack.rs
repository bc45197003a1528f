//! `sluicegate plugin pack`.

use std::io::Write;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;

use super::Outline;
use super::inspect::Report;
use crate::cli::{CommandError, file, table};
use crate::config::load_manifest;
use crate::digest::Digest;
use crate::engine::{self, PackError};

/// Arguments of `plugin pack`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The Rust SDK writes the manifest by itself. docs/commands.md has an example of a manifest file.

Examples:
  sluicegate plugin pack app.wasm --manifest plugin.toml
  sluicegate plugin pack app.wasm --manifest plugin.toml -o shout.wasm --replace")]
pub(in crate::cli) struct PackArgs {
    /// A component that exports the plugin interface
    file: PathBuf,
    /// What the plugin is: its name, version, outputs, stores
    #[arg(long, value_name = "plugin.toml")]
    manifest: PathBuf,
    /// Where to write the plugin; into FILE itself otherwise
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Put the manifest in the place of one that FILE has
    #[arg(long)]
    replace: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PackArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let shown = args.file.display();
    let component = file::read(&args.file)?;
    let manifest = load_manifest(&args.manifest)?;
    let refused = |error| match error {
        PackError::Present => CommandError::BadInput(format!(
            "{shown} has a manifest already: --replace puts this one in its place, `sluicegate plugin inspect` shows it"
        )),
        PackError::Load(error) => CommandError::BadInput(format!("{shown} cannot be packed: {error}")),
    };
    let packed = engine::pack(&component, &manifest, args.replace).map_err(refused)?;
    let found = engine::inspect(&packed)
        .map_err(|error| CommandError::BadInput(format!("{shown} is no plugin for this host: {error}")))?;
    let path = args.output.as_ref().unwrap_or(&args.file);
    file::write(path, &packed)
        .map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", path.display())))?;
    if args.json {
        return Ok(table::json(out, &Report::new(&packed, Outline::from(found)))?);
    }
    let (name, version) = (&manifest.name, &manifest.version);
    let (size, digest) = (ByteSize(packed.len() as u64), Digest::of(&packed));
    Ok(writeln!(out, "{name}@{version} packed: {}, {size}, {digest}", path.display())?)
}
