//! `sluicegate plugin remove`.

use std::io::Write;

use anyhow::{Context, Result};
use clap::Args;

use super::{BadInput, Surroundings};
use crate::cli::table;
use crate::cluster::registry::{Registry, RegistryReference, VersionPattern};
use crate::config::ClusterArgs;

/// Arguments of `plugin remove`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate plugin remove shout@0.1.0")]
pub(in crate::cli) struct RemoveArgs {
    /// Which version, in full
    #[arg(value_name = "NAME@VERSION")]
    pub(super) plugin: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

pub(super) async fn run(args: RemoveArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let reference = args.plugin.parse().with_context(|| BadInput("nothing is removed".into()))?;
    let RegistryReference::Version { name, version: VersionPattern::Exactly(version) } = reference else {
        let what = "say which version to remove, in full: `name@1.2.3`; `sluicegate plugin list` shows them";
        return Err(BadInput(what.into()).into());
    };
    let store = (around.store)(args.cluster).await?;
    let users = (around.users)(store.clone()).await?;
    let entry = Registry::new(store).remove(&name, &version, |digest| users.get(digest).cloned()).await?;
    if args.json { Ok(table::json(out, &entry)?) } else { Ok(writeln!(out, "removed {name}@{version}")?) }
}
