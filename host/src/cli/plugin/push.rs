//! `sluicegate plugin push`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;
use semver::Version;
use serde::Serialize;

use super::progress::Progress;
use super::{BadInput, Surroundings, signatures};
use crate::cli::table;
use crate::cluster::registry::{Description, PluginEntry, Pushed, Registry};
use crate::config::ClusterArgs;
use crate::digest::Digest;

/// Arguments of `plugin push`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Signatures in FILE.sig go along. Where the cluster file has trusted keys, a plugin that none of them has signed is refused
before anything is stored.

Examples:
  sluicegate plugin push target/wasm32-wasip2/release/shout.wasm
  sluicegate plugin push shout.wasm --zookeeper-connect zk-1:2181
  sluicegate plugin push shout.wasm --key release.key")]
pub(in crate::cli) struct PushArgs {
    /// The component, as `sluicegate plugin build` makes it
    pub(super) file: PathBuf,
    /// Sign it too, with the private key in this file
    #[arg(long, value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
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
    let digest = Digest::of(&bytes);
    let mut signed = signatures::beside(&args.file, digest)?;
    if let Some(key) = &args.key {
        signed.sign(&signatures::key(key)?).with_context(|| BadInput(format!("{file} is not signed")))?;
    }
    let trusted = (around.trusted)(&args.cluster)?;
    let plugin = Description {
        version: Version::parse(&manifest.version).with_context(|| format!("{file}: version {}", manifest.version))?,
        name: manifest.name,
        interface: manifest.interface,
        description: manifest.description,
        provenance: outline.provenance,
    };
    let registry = Registry::new((around.store)(args.cluster).await?);
    if trusted.check(&digest, &signed).is_err() {
        // Pushed before, it may have been signed there.
        let all = registry.signatures(&digest).await?.with(&signed).with_context(|| format!("{file} is not pushed"))?;
        let plugin = || format!("{}@{}", plugin.name, plugin.version);
        trusted.require(&digest, &all, plugin, &file.to_string()).map_err(|error| BadInput(error.to_string()))?;
    }
    let progress = Progress::new(format!("{}@{}", plugin.name, plugin.version));
    let pushed = registry.push(&plugin, &bytes, &signed, |stored| progress.at(stored, bytes.len() as u64)).await;
    progress.end();
    let Pushed { entry, was_there } = pushed?;
    if args.json {
        return Ok(table::json(out, &Report { entry: &entry, was_there })?);
    }
    let PluginEntry { name, version, record } = entry;
    let done = if was_there { "is in the registry already, with the same contents:" } else { "pushed:" };
    Ok(writeln!(out, "{name}@{version} {done} {}, {}", ByteSize(record.size), record.digest)?)
}
