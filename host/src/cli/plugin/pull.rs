//! `sluicegate plugin pull`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::progress::Progress;
use super::{BadInput, Surroundings, signatures};
use crate::cli::{file, table};
use crate::cluster::registry::{Registry, RegistryReference};
use crate::config::ClusterArgs;
use crate::digest::Digest;
use crate::signing::path_beside;

/// Digits of a digest in the name of a file: enough to tell plugins apart.
const NAME_DIGITS: usize = 12;

/// Arguments of `plugin pull`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
What is written is verified by its digest. A file with other contents is never overwritten. Signatures go into FILE.sig.

Examples:
  sluicegate plugin pull shout@0.1.0
  sluicegate plugin pull shout@0 -o shout.wasm")]
pub(in crate::cli) struct PullArgs {
    /// A plugin of the registry: `name@1.2.3`, `name@1`, `sha256:..`
    #[arg(value_name = "REFERENCE")]
    pub(super) plugin: String,
    /// Where to write it; NAME-VERSION.wasm otherwise
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    file: &'a Path,
    digest: Digest,
    size: u64,
    was_there: bool,
}

pub(super) async fn run(args: PullArgs, around: Surroundings<'_>, out: &mut (impl Write + Send)) -> Result<()> {
    let reference: RegistryReference = args.plugin.parse().with_context(|| BadInput("nothing is pulled".into()))?;
    let registry = Registry::new((around.store)(args.cluster).await?);
    let (digest, name) = match &reference {
        RegistryReference::Digest(digest) => (registry.resolve(&reference).await?, digest.hex()[..NAME_DIGITS].into()),
        RegistryReference::Version { .. } => {
            let entry = registry.find(&reference).await?;
            (entry.record.digest, format!("{}-{}", entry.name, entry.version))
        }
    };
    let path = args.output.unwrap_or_else(|| format!("{name}.wasm").into());
    let shown = path.display();
    let there = match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| BadInput(format!("cannot write {shown}"))),
    };
    let was_there = there.is_some();
    let size = match there {
        Some(bytes) if Digest::of(&bytes) == digest => bytes.len(),
        Some(_) => {
            let what = format!("{shown} is there, with other contents: name another file with -o, or remove this one");
            return Err(BadInput(what).into());
        }
        None => {
            let progress = Progress::new(reference.to_string());
            let fetched = registry.fetch_watched(&digest, |bytes, total| progress.at(bytes, total)).await;
            progress.end();
            let bytes = fetched?;
            file::write(&path, &bytes).with_context(|| format!("cannot write {shown}"))?;
            bytes.len()
        }
    } as u64;
    let there = registry.signatures(&digest).await?;
    if !there.is_empty() {
        let all = signatures::beside(&path, digest)?.with(&there);
        let all = all.with_context(|| BadInput(format!("the signatures of {shown} are not written")))?;
        let beside = path_beside(&path);
        file::write(&beside, &all.encode()).with_context(|| format!("cannot write {}", beside.display()))?;
    }
    if args.json {
        return Ok(table::json(out, &Report { file: &path, digest, size, was_there })?);
    }
    let done = if was_there { "is there already:" } else { "written:" };
    Ok(writeln!(out, "{shown} {done} {}, {digest}", ByteSize(size))?)
}
