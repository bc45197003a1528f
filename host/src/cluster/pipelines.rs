//! The pipelines that are known: specification, revision, incarnation.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::meta::layout::{self, Segment};
use crate::meta::{MetaError, MetaStore, Write};

/// What is written down of a pipeline.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PipelineRecord {
    /// Counts the changes of the specification, from 1.
    pub revision: u64,
    /// Counts the deployments that did not keep state, from 1.
    pub incarnation: u64,
    /// SHA-256 of `spec`, in hexadecimal.
    pub digest: String,
    /// The specification as canonical JSON: defaults filled in, plugins by digest.
    pub spec: String,
    /// SHA-256 of each transform's plugin, in hexadecimal.
    pub plugins: Vec<String>,
    /// When this revision was recorded.
    pub recorded_at: jiff::Timestamp,
}

/// Writes down what is about to run: a specification that differs from the last one is a new revision.
///
/// # Errors
/// Those of the store; safe to repeat.
pub async fn record(
    store: &dyn MetaStore,
    name: &Segment,
    spec: &str,
    digest: &str,
    plugins: &[String],
) -> Result<PipelineRecord, MetaError> {
    let path = layout::pipeline(name);
    loop {
        let known = match store.get(&path).await? {
            Some(node) => Some((decode(&path, &node.data)?, node.version)),
            None => None,
        };
        let (revision, incarnation) = match &known {
            Some((record, _)) if record.digest == digest => return Ok(record.clone()),
            Some((record, _)) => (record.revision + 1, record.incarnation),
            None => (1, 1),
        };
        let (digest, spec, plugins) = (digest.to_owned(), spec.to_owned(), plugins.to_vec());
        let record =
            PipelineRecord { revision, incarnation, digest, spec, plugins, recorded_at: jiff::Timestamp::now() };
        let data = Bytes::from(serde_json::to_vec(&record).expect("a record has string keys only"));
        let write = match known {
            Some((_, version)) => Write::Set { path: path.clone(), data, version },
            None => {
                store.ensure(layout::PIPELINES).await?;
                Write::Create { path: path.clone(), data, ephemeral: false }
            }
        };
        match store.multi(vec![write]).await {
            Ok(_) => return Ok(record),
            // Somebody else was faster, or an answer was lost: the next look tells.
            Err(MetaError::Exists { .. } | MetaError::BadVersion { .. } | MetaError::AnswerLost { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// All pipelines, by name.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &dyn MetaStore) -> Result<Vec<(String, PipelineRecord)>, MetaError> {
    let mut pipelines = Vec::new();
    for name in store.children(layout::PIPELINES).await? {
        let Ok(segment) = Segment::new(&name) else { continue };
        let path = layout::pipeline(&segment);
        if let Some(node) = store.get(&path).await? {
            pipelines.push((name, decode(&path, &node.data)?));
        }
    }
    Ok(pipelines)
}

fn decode(path: &str, data: &[u8]) -> Result<PipelineRecord, MetaError> {
    serde_json::from_slice(data).map_err(|error| MetaError::Failed {
        path: path.to_owned(),
        reason: format!("the pipeline's record is damaged: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::local::LocalStore;

    #[tokio::test]
    async fn a_changed_specification_is_a_new_revision_and_the_same_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).await.unwrap();
        let name = Segment::new("orders").unwrap();
        let plugins = vec!["d".repeat(64)];
        let first = record(&store, &name, "{}", "a", &plugins).await.unwrap();
        assert_eq!((first.revision, first.incarnation), (1, 1));
        assert_eq!(record(&store, &name, "{}", "a", &plugins).await.unwrap(), first);
        let second = record(&store, &name, "{1}", "b", &plugins).await.unwrap();
        assert_eq!((second.revision, second.incarnation), (2, 1));
        assert_eq!(list(&store).await.unwrap(), [("orders".to_owned(), second)]);
    }
}
