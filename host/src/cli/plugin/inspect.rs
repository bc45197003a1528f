//! `sluicegate plugin inspect`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::{BadInput, Outline, Surroundings};
use crate::cli::table;
use crate::cluster::registry::{Registry, RegistryReference};
use crate::digest::Digest;

/// Arguments of `plugin inspect`.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// A file, or a plugin of the registry: `name@1.2.3`, `name@1`, `sha256:..`
    #[arg(value_name = "FILE|REFERENCE")]
    pub plugin: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    digest: Digest,
    size: u64,
    #[serde(flatten)]
    outline: Outline,
}

pub(super) async fn run(args: InspectArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let bytes = read(&args.plugin, around).await?;
    let outline =
        (around.inspect)(&bytes).with_context(|| BadInput(format!("{} is no plugin for this host", args.plugin)))?;
    let report = Report { digest: Digest::of(&bytes), size: bytes.len() as u64, outline };
    if args.json { Ok(table::json(out, &report)?) } else { write_text(out, &report) }
}

async fn read(plugin: &str, around: Surroundings<'_>) -> Result<Vec<u8>> {
    // A file goes first: its name may look like anything.
    if Path::new(plugin).exists() {
        return tokio::fs::read(plugin).await.with_context(|| BadInput(format!("cannot read {plugin}")));
    }
    let reference: RegistryReference =
        plugin.parse().with_context(|| BadInput(format!("there is no file {plugin}")))?;
    let registry = Registry::new((around.store)().await?);
    let digest = registry.resolve(&reference).await?;
    Ok(registry.fetch(&digest).await?)
}

fn write_text(out: &mut impl Write, report: &Report) -> Result<()> {
    let Report { digest, size, outline: Outline { manifest, imports } } = report;
    writeln!(out, "{}@{}", manifest.name, manifest.version)?;
    if !manifest.description.is_empty() {
        writeln!(out, "  {}", manifest.description)?;
    }
    writeln!(out, "  digest     {digest}")?;
    writeln!(out, "  size       {}", ByteSize(*size))?;
    writeln!(out, "  interface  {}", manifest.interface)?;
    if !manifest.sdk.is_empty() {
        writeln!(out, "  sdk        {}", manifest.sdk)?;
    }
    let ports = |ports: &[crate::manifest::Port]| {
        let name =
            |port: &crate::manifest::Port| format!("{}{}", port.name, if port.optional { " (optional)" } else { "" });
        ports.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    writeln!(out, "  inputs     {}", ports(&manifest.inputs))?;
    let dynamic = if manifest.dynamic_outputs { ", and every one that a pipeline binds" } else { "" };
    writeln!(out, "  outputs    {}{dynamic}", ports(&manifest.outputs))?;
    for store in &manifest.stores {
        writeln!(out, "  store      {} (schema {})", store.name, store.schema)?;
    }
    if !manifest.wants.is_empty() {
        writeln!(out, "  wants      {}", manifest.wants.join(", "))?;
    }
    writeln!(out, "  imports")?;
    for import in imports {
        writeln!(out, "    {import}")?;
    }
    Ok(())
}
