//! `sluicegate plugin push`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;
use semver::Version;
use serde::Serialize;

use super::progress::Progress;
use super::{BadInput, Surroundings};
use crate::cli::table;
use crate::cluster::registry::{Description, PluginEntry, Pushed, Registry};
use crate::config::ClusterArgs;

/// Arguments of `plugin push`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate plugin push target/wasm32-wasip2/release/shout.wasm
  sluicegate plugin push shout.wasm --zookeeper-connect zk-1:2181")]
pub(in crate::cli) struct PushArgs {
    /// The component, as `sluicegate plugin build` makes it
    pub(super) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    #[serde(flatten)]
    entry: &'a PluginEntry,
    was_there: bool,
}

pub(super) async fn run(args: PushArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let file = args.file.display();
    let bytes = tokio::fs::read(&args.file).await.with_context(|| BadInput(format!("cannot read {file}")))?;
    let outline = (around.inspect)(&bytes).with_context(|| BadInput(format!("{file} cannot be pushed")))?;
    let manifest = outline.manifest;
    let plugin = Description {
        version: Version::parse(&manifest.version).with_context(|| format!("{file}: version {}", manifest.version))?,
        name: manifest.name,
        interface: manifest.interface,
        description: manifest.description,
    };
    let registry = Registry::new((around.store)(args.cluster).await?);
    let progress = Progress::new(format!("{}@{}", plugin.name, plugin.version));
    let pushed = registry.push(&plugin, &bytes, |stored| progress.at(stored, bytes.len() as u64)).await;
    progress.end();
    let Pushed { entry, was_there } = pushed?;
    if args.json {
        return Ok(table::json(out, &Report { entry: &entry, was_there })?);
    }
    let PluginEntry { name, version, record } = entry;
    let done = if was_there { "is in the registry already, with the same contents:" } else { "pushed:" };
    Ok(writeln!(out, "{name}@{version} {done} {}, {}", ByteSize(record.size), record.digest)?)
}
