//! A specification with another plugin or another configuration of one transform. Nothing is stored.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Source, refused};
use crate::cluster::pipelines::Specification;
use crate::cluster::registry::{Registry, RegistryError, RegistryReference};
use crate::config::{Pipeline, with_transform};
use crate::digest::Digest;
use crate::node::load::{Given, Loader};
use crate::node::{LoadError, NodeError};

/// What a specification becomes.
pub(in crate::node) struct Change {
    /// Its pipeline.
    pub(in crate::node) pipeline: Pipeline,
    /// As it would be written down.
    pub(in crate::node) specification: Specification,
    /// How its file names the plugin.
    pub(in crate::node) reference: String,
}

/// `known` with another plugin or another configuration of the transform at this index; what is not given stays. The bytes of a
/// plugin that comes from a file are with the loader then, and not in the registry.
///
/// # Errors
/// There is no such plugin, or the file that it would be is wrong.
pub(in crate::node) async fn changed(
    loader: &mut Loader,
    known: &Specification,
    at: usize,
    source: Option<&Source>,
    config: Option<&Value>,
) -> Result<Change, NodeError> {
    let before = Pipeline::parse(Path::new("recorded"), &known.file).map_err(NodeError::Config)?;
    let transform = &before.transforms[at];
    let (reference, digest) = match source {
        Some(source) => {
            let (reference, digest) = resolve(loader, &transform.name, source).await?;
            (reference, digest.hex())
        }
        None => (transform.plugin.to_string(), known.plugins[at].clone()),
    };
    let text = with_transform(&known.file, at, &reference, config)
        .ok_or_else(|| refused("the configuration has a null, which a pipeline file cannot have: leave the key out"))?;
    let origin = format!("pipeline `{}` with {reference}", before.name);
    let pipeline = Pipeline::parse(Path::new(&origin), &text).map_err(NodeError::Config)?;
    let plugins = known.plugins.iter().enumerate();
    let plugins: Vec<String> =
        plugins.map(|(index, old)| if index == at { digest.clone() } else { old.clone() }).collect();
    let specification = Specification {
        canonical: pipeline.canonical_json(&plugins),
        digest: pipeline.digest(&plugins),
        file: text,
        plugins,
        partitions: known.partitions,
    };
    Ok(Change { pipeline, specification, reference })
}

/// As the pipeline file is to name the plugin, and its digest.
async fn resolve(loader: &mut Loader, transform: &str, source: &Source) -> Result<(String, Digest), NodeError> {
    let registry = Registry::new(Arc::clone(&loader.store));
    let failed = |reference: String| {
        let transform = transform.to_owned();
        move |source: RegistryError| NodeError::from(LoadError::Registry { transform, reference, source })
    };
    match source {
        Source::File(path) => {
            let shown = path.display();
            let bytes = tokio::fs::read(path).await;
            let bytes = bytes.map_err(|error| refused(format!("cannot read the plugin {shown}: {error}")))?;
            loader.has_room_for(&bytes).map_err(|message| refused(format!("{shown}: {message}")))?;
            let signatures = loader.signatures_beside(transform, path, &bytes)?;
            let digest = Digest::of(&bytes);
            loader.given = Some(Given { digest, bytes, signatures });
            Ok((digest.to_string(), digest))
        }
        Source::Registry(reference @ RegistryReference::Digest(_)) => {
            let digest = registry.resolve(reference).await.map_err(failed(reference.to_string()))?;
            Ok((digest.to_string(), digest))
        }
        Source::Registry(reference) => {
            let entry = registry.find(reference).await.map_err(failed(reference.to_string()))?;
            Ok((format!("{}@{}", entry.name, entry.version), entry.record.digest))
        }
    }
}
