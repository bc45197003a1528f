//! What the metadata store has of a pipeline: its record, and the plugins that it names.

use std::path::Path;
use std::sync::Arc;

use super::finding::Finding;
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::cluster::registry::{Registry, RegistryError};
use crate::config::{Pipeline, PluginReference};
use crate::digest::Digest;
use crate::meta::layout::Segment;
use crate::meta::{MetaError, MetaStore};
use crate::signing::{Signatures, TrustedKeys, read_beside};

/// What is recorded of it, if it is there.
pub(super) async fn record(store: &dyn MetaStore, pipeline: &Pipeline) -> Result<Option<PipelineRecord>, MetaError> {
    // What may name a pipeline may name a node of the store.
    let Ok(name) = Segment::new(pipeline.name.as_str()) else { return Ok(None) };
    let known = pipelines::read(store, &name).await?;
    Ok(known.map(|known| known.record).filter(|record| record.desired != Desired::Gone))
}

/// Whether the plugins can be had, and may be used; without a store to ask, those alone that are files.
pub(super) async fn plugins(
    store: Option<&Arc<dyn MetaStore>>,
    pipeline: &Pipeline,
    trusted: &TrustedKeys,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for transform in &pipeline.transforms {
        let subject = format!("plugin `{}`", transform.plugin);
        let finding = match (&transform.plugin, store) {
            (PluginReference::Path(path), _) => match std::fs::metadata(path) {
                Ok(found) if found.is_file() => of_file(subject, path, trusted),
                Ok(_) => Finding::problem(subject, "it is no file").help("build the plugin, or correct the path"),
                Err(error) => {
                    Finding::problem(subject, error.to_string()).help("build the plugin, or correct the path")
                }
            },
            (_, None) => Finding::warning(subject, "not looked up: there is no ZooKeeper to ask for it"),
            (reference, Some(store)) => in_registry(subject, store, reference, trusted).await,
        };
        findings.push(finding);
    }
    findings
}

fn of_file(subject: String, path: &Path, trusted: &TrustedKeys) -> Finding {
    if !trusted.are_required() {
        return Finding::ok(subject, "the file is there");
    }
    let (digest, signatures) = match (std::fs::read(path), read_beside(path)) {
        (Ok(bytes), Ok(signatures)) => (Digest::of(&bytes), signatures),
        (Err(error), _) => return Finding::problem(subject, error.to_string()),
        (_, Err(error)) => return Finding::problem(subject, error.to_string()),
    };
    let signatures = signatures.unwrap_or_else(|| Signatures::none(digest));
    signed(subject, "the file is there", trusted, &signatures, &digest, &path.display().to_string())
}

fn signed(
    subject: String,
    found: &str,
    trusted: &TrustedKeys,
    signatures: &Signatures,
    digest: &Digest,
    target: &str,
) -> Finding {
    match trusted.check(digest, signatures) {
        Ok(()) if trusted.are_required() => Finding::ok(subject, format!("{found}, signed by a trusted key")),
        Ok(()) => Finding::ok(subject, found),
        Err(missing) => {
            Finding::problem(subject, format!("{found}, and no node that trusts these keys loads it: {missing}"))
                .help(format!("`sluicegate plugin sign {target} --key KEY` signs it"))
        }
    }
}

async fn in_registry(
    subject: String,
    store: &Arc<dyn MetaStore>,
    reference: &PluginReference,
    trusted: &TrustedKeys,
) -> Finding {
    let parsed = reference.to_string().parse().expect("the configuration checks references");
    let registry = Registry::new(Arc::clone(store));
    match registry.resolve(&parsed).await {
        Ok(_) if !trusted.are_required() => Finding::ok(subject, "in the registry"),
        Ok(digest) => match registry.signatures(&digest).await {
            Ok(signatures) => signed(subject, "in the registry", trusted, &signatures, &digest, &reference.to_string()),
            Err(error) => Finding::problem(subject, error.to_string()),
        },
        Err(RegistryError::Unknown { .. }) => Finding::problem(subject, "not in the registry")
            .help("`sluicegate plugin list` shows what there is, `sluicegate plugin push FILE` adds one"),
        Err(error) => Finding::problem(subject, error.to_string()),
    }
}
