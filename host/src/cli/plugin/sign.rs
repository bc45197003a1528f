//! `sluicegate plugin sign`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::{BadInput, Surroundings, signatures};
use crate::cli::{file, table};
use crate::cluster::registry::{Registry, RegistryReference};
use crate::config::ClusterArgs;
use crate::digest::Digest;
use crate::signing::{KeyId, Signatures, path_beside};

/// Arguments of `plugin sign`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The signature of a file goes into FILE.sig beside it, which `plugin push` takes along; that of a plugin of the registry stands
there. Neither changes the plugin, and several may sign it. Sign what you have built: of a plugin of the registry you know
only what others have put there.

Examples:
  sluicegate plugin sign target/wasm32-wasip2/release/shout.wasm --key release.key
  sluicegate plugin sign shout@0.1.0 --key release.key")]
pub(in crate::cli) struct SignArgs {
    /// A file, or a plugin of the registry: `name@1.2.3`, `name@1`, `sha256:..`
    #[arg(value_name = "FILE|REFERENCE")]
    pub(super) plugin: String,
    /// The private key
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    plugin: String,
    digest: Digest,
    key: KeyId,
    signed_by: Vec<&'a KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: SignArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let key = signatures::key(&args.key)?;
    let path = Path::new(&args.plugin);
    // A file goes first: its name may look like anything.
    let (plugin, signed, file) = if path.exists() {
        let bytes = tokio::fs::read(path).await.with_context(|| BadInput(format!("cannot read {}", args.plugin)))?;
        let plugin = name(&args.plugin, &bytes, around)?;
        let mut signed = signatures::beside(path, Digest::of(&bytes))?;
        signed.sign(&key).with_context(|| BadInput(format!("{} is not signed", args.plugin)))?;
        let beside = path_beside(path);
        file::write(&beside, &signed.encode()).with_context(|| format!("cannot write {}", beside.display()))?;
        (plugin, signed, Some(beside))
    } else {
        let reference: RegistryReference =
            args.plugin.parse().with_context(|| BadInput(format!("there is no file {}", args.plugin)))?;
        let registry = Registry::new((around.store)(args.cluster).await?);
        let digest = registry.resolve(&reference).await?;
        let plugin = name(&args.plugin, &registry.fetch(&digest).await?, around)?;
        let mut signed = Signatures::none(digest);
        signed.sign(&key).with_context(|| BadInput(format!("{reference} is not signed")))?;
        (plugin, registry.add_signatures(&signed).await?, None)
    };
    let (digest, id) = (*signed.digest(), key.public().id());
    let signed_by: Vec<&KeyId> = signed.iter().map(|(key, _)| key).collect();
    if args.json {
        return Ok(table::json(out, &Report { plugin, digest, key: id, signed_by, file })?);
    }
    let place = file.map_or_else(|| "the registry".to_owned(), |file| file.display().to_string());
    let count = signed_by.len();
    let plural = if count == 1 { "" } else { "s" };
    Ok(writeln!(out, "{plugin} signed by {id}: {digest}, {count} signature{plural} in {place}")?)
}

/// Name and version: what is no plugin is not signed.
fn name(plugin: &str, bytes: &[u8], around: Surroundings<'_>) -> Result<String> {
    let outline = (around.inspect)(bytes).with_context(|| BadInput(format!("{plugin} is not signed")))?;
    Ok(format!("{}@{}", outline.manifest.name, outline.manifest.version))
}
