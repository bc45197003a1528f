//! `sluicegate plugin inspect`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::{BadInput, Outline, Surroundings, signatures};
use crate::cli::table;
use crate::cluster::registry::{Registry, RegistryError, RegistryReference};
use crate::config::ClusterArgs;
use crate::digest::Digest;
use crate::signing::{Signatures, Signer};

/// Arguments of `plugin inspect`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate plugin inspect target/wasm32-wasip2/release/shout.wasm
  sluicegate plugin inspect shout@0.1.0 --json")]
pub(in crate::cli) struct InspectArgs {
    /// A file, or a plugin of the registry: `name@1.2.3`, `name@1`, `sha256:..`
    #[arg(value_name = "FILE|REFERENCE")]
    pub(super) plugin: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

/// What is shown of a plugin.
#[derive(Serialize)]
pub(super) struct Report {
    digest: Digest,
    size: u64,
    #[serde(flatten)]
    outline: Outline,
    /// Where that is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    signatures: Option<Vec<Signer>>,
}

impl Report {
    pub(super) fn new(bytes: &[u8], outline: Outline) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64, outline, signatures: None }
    }
}

pub(super) async fn run(args: InspectArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let (bytes, signatures) = read(&args.plugin, &args.cluster, around).await?;
    let outline =
        (around.inspect)(&bytes).with_context(|| BadInput(format!("{} is no plugin for this host", args.plugin)))?;
    let signers = match signatures.is_empty() {
        true => Vec::new(),
        false => (around.trusted)(&args.cluster)?.signers(&signatures),
    };
    let report = Report { signatures: Some(signers), ..Report::new(&bytes, outline) };
    let said = if args.json { table::json(out, &report) } else { write_text(out, &report) };
    Ok(said?)
}

async fn read(plugin: &str, cluster: &ClusterArgs, around: Surroundings<'_>) -> Result<(Vec<u8>, Signatures)> {
    // A file goes first: its name may look like anything.
    if Path::new(plugin).exists() {
        let bytes = tokio::fs::read(plugin).await.with_context(|| BadInput(format!("cannot read {plugin}")))?;
        let signatures = signatures::beside(Path::new(plugin), Digest::of(&bytes))?;
        return Ok((bytes, signatures));
    }
    let reference: RegistryReference =
        plugin.parse().with_context(|| BadInput(format!("there is no file {plugin}")))?;
    let registry = Registry::new((around.store)(cluster.clone()).await?);
    let digest = registry.resolve(&reference).await?;
    Ok((registry.fetch(&digest).await?, known(digest, registry.signatures(&digest).await)?))
}

/// Signatures that cannot be read are none, for those who only look.
pub(super) fn known(digest: Digest, found: Result<Signatures, RegistryError>) -> Result<Signatures> {
    match found {
        Err(error @ RegistryError::Signatures { .. }) => {
            eprintln!("note: {error}");
            Ok(Signatures::none(digest))
        }
        found => Ok(found?),
    }
}

/// For people.
pub(super) fn write_text(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let Report { digest, size, outline: Outline { manifest, world, imports, provenance }, signatures } = report;
    writeln!(out, "{}@{}", manifest.name, manifest.version)?;
    if !manifest.description.is_empty() {
        writeln!(out, "  {}", manifest.description)?;
    }
    writeln!(out, "  digest     {digest}")?;
    writeln!(out, "  size       {}", ByteSize(*size))?;
    writeln!(out, "  world      {world}")?;
    if !manifest.sdk.is_empty() {
        writeln!(out, "  sdk        {}", manifest.sdk)?;
    }
    for (what, list) in [("language", &provenance.languages), ("tools", &provenance.tools)] {
        if !list.is_empty() {
            writeln!(out, "  {what:<10} {}", list.join(", "))?;
        }
    }
    for (what, text) in [("source", &provenance.source), ("revision", &provenance.revision)] {
        if !text.is_empty() {
            writeln!(out, "  {what:<10} {text}")?;
        }
    }
    for Signer { key, standing } in signatures.iter().flatten() {
        writeln!(out, "  signed by  {key} ({standing})")?;
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
