//! What the metadata store has of a pipeline: its record, and the plugins that it names.

use std::sync::Arc;

use super::finding::Finding;
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::cluster::registry::{Registry, RegistryError};
use crate::config::{Pipeline, PluginReference};
use crate::meta::layout::Segment;
use crate::meta::{MetaError, MetaStore};

/// What is recorded of it, if it is there.
pub(super) async fn record(store: &dyn MetaStore, pipeline: &Pipeline) -> Result<Option<PipelineRecord>, MetaError> {
    // What may name a pipeline may name a node of the store.
    let Ok(name) = Segment::new(pipeline.name.as_str()) else { return Ok(None) };
    let known = pipelines::read(store, &name).await?;
    Ok(known.map(|known| known.record).filter(|record| record.desired != Desired::Gone))
}

/// Whether the plugins can be had; without a store to ask, those alone that are files.
pub(super) async fn plugins(store: Option<&Arc<dyn MetaStore>>, pipeline: &Pipeline) -> Vec<Finding> {
    let mut findings = Vec::new();
    for transform in &pipeline.transforms {
        let subject = format!("plugin `{}`", transform.plugin);
        let finding = match (&transform.plugin, store) {
            (PluginReference::Path(path), _) => match std::fs::metadata(path) {
                Ok(found) if found.is_file() => Finding::ok(subject, "the file is there"),
                Ok(_) => Finding::problem(subject, "it is no file").help("build the plugin, or correct the path"),
                Err(error) => {
                    Finding::problem(subject, error.to_string()).help("build the plugin, or correct the path")
                }
            },
            (_, None) => Finding::warning(subject, "not looked up: there is no ZooKeeper to ask for it"),
            (reference, Some(store)) => in_registry(subject, store, reference).await,
        };
        findings.push(finding);
    }
    findings
}

async fn in_registry(subject: String, store: &Arc<dyn MetaStore>, reference: &PluginReference) -> Finding {
    let parsed = reference.to_string().parse().expect("the configuration checks references");
    match Registry::new(Arc::clone(store)).resolve(&parsed).await {
        Ok(_) => Finding::ok(subject, "in the registry"),
        Err(RegistryError::Unknown { .. }) => Finding::problem(subject, "not in the registry")
            .help("`sluicegate plugin list` shows what there is, `sluicegate plugin push FILE` adds one"),
        Err(error) => Finding::problem(subject, error.to_string()),
    }
}
