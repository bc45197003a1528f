//! `sluicegate plugin list`.

use std::io::Write;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;

use super::Surroundings;
use crate::cli::table;
use crate::cluster::registry::{PluginEntry, Registry};
use crate::config::ClusterArgs;

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

const HEADINGS: [&str; 6] = ["NAME", "VERSION", "SIZE", "PUSHED", "DIGEST", "DESCRIPTION"];
/// Characters of a digest that are shown: enough to tell plugins apart. `--json` has all of it.
const DIGEST_CHARACTERS: usize = 19;

pub(super) async fn run(args: ListArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let entries = Registry::new((around.store)(args.cluster).await?).list().await?;
    if args.json {
        return Ok(table::json(out, &entries)?);
    }
    if entries.is_empty() {
        return Ok(writeln!(out, "no plugins: `sluicegate plugin push FILE` adds one")?);
    }
    let rows: Vec<[String; 6]> = entries.iter().map(row).collect();
    Ok(table::print(out, HEADINGS, &rows)?)
}

fn row(entry: &PluginEntry) -> [String; 6] {
    let PluginEntry { name, version, record } = entry;
    let mut digest = record.digest.to_string();
    digest.truncate(DIGEST_CHARACTERS);
    let size = ByteSize(record.size).to_string();
    let pushed = record.pushed_at.strftime("%Y-%m-%d %H:%M").to_string();
    [name.clone(), version.to_string(), size, pushed, digest, record.description.clone()]
}
