//! `sluicegate plugin list`.

use std::io::Write;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use futures::future::try_join_all;
use serde::Serialize;

use super::{Surroundings, inspect};
use crate::cli::table;
use crate::cluster::registry::{PluginEntry, Registry};
use crate::config::ClusterArgs;
use crate::digest;
use crate::signing::Signer;

/// Arguments of `plugin list`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate plugin list
  sluicegate plugin list --json")]
pub(in crate::cli) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

/// For machines.
#[derive(Serialize)]
struct Signed<'a> {
    #[serde(flatten)]
    entry: &'a PluginEntry,
    signatures: Vec<Signer>,
}

const HEADINGS: [&str; 6] = ["NAME", "VERSION", "SIZE", "PUSHED", "DIGEST", "DESCRIPTION"];

pub(super) async fn run(args: ListArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let trusted = (around.trusted)(&args.cluster)?;
    let registry = Registry::new((around.store)(args.cluster).await?);
    let entries = registry.list().await?;
    if args.json {
        let signed = entries.iter().map(async |entry| {
            let digest = entry.record.digest;
            let signatures = inspect::known(digest, registry.signatures(&digest).await)?;
            Ok::<_, anyhow::Error>(Signed { entry, signatures: trusted.signers(&signatures) })
        });
        return Ok(table::json(out, &try_join_all(signed).await?)?);
    }
    if entries.is_empty() {
        return Ok(writeln!(out, "no plugins: `sluicegate plugin push FILE` adds one")?);
    }
    let rows: Vec<[String; 6]> = entries.iter().map(row).collect();
    Ok(table::print(out, HEADINGS, &rows)?)
}

fn row(entry: &PluginEntry) -> [String; 6] {
    let PluginEntry { name, version, record } = entry;
    // `--json` has all of it.
    let digest = format!("{}{}", digest::PREFIX, digest::short(&record.digest.hex()));
    let size = ByteSize(record.size).to_string();
    let pushed = record.pushed_at.strftime("%Y-%m-%d %H:%M").to_string();
    [name.clone(), version.to_string(), size, pushed, digest, record.description.clone()]
}
