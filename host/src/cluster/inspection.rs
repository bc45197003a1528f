//! A task's state, read by somebody who has not claimed it: as of one commit, while its owner goes on.
//!
//! Writes nothing. Which commit is decided as recovery decides it, by what Kafka and the head say; the owner may commit
//! between the questions, and delete chunks that are about to be read: then everything is asked again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::savepoints::Offsets;
use crate::checkpoint::head::{Head, Manifest};
use crate::checkpoint::resolve::resolve;
use crate::checkpoint::store::{StateError, TaskStore};
use crate::ids::TaskId;
use crate::meta::MetaStore;
use crate::state::TaskState;

/// A pipeline that runs commits while its state is read: so often is looked again.
const ATTEMPTS_MAX: usize = 50;
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The state of a task at one commit.
pub struct TaskView {
    /// Which commit: its epoch, its offsets, and what made the state.
    pub manifest: Manifest,
    /// Bytes of its chunks, as they are stored.
    pub stored_bytes: u64,
    /// The entries.
    pub state: TaskState,
    /// Why it is not certain that this is what the task goes on from: Kafka and the head disagree, and what the head takes
    /// as committed is shown.
    pub doubt: Option<String>,
}

/// Why a task's state could not be read.
#[derive(Debug, Error)]
pub enum InspectionError {
    /// Its head or its chunks.
    #[error(transparent)]
    State(#[from] StateError),
    /// Kafka does not say what is committed.
    #[error("kafka: {0}")]
    Kafka(String),
    /// It changes faster than it is read.
    #[error("task {task} commits faster than its state can be read: try again, or pause the pipeline")]
    Changing {
        /// Which task.
        task: TaskId,
    },
}

/// Reads the state of a task; `None` for one that has never started, or keeps none.
///
/// # Errors
/// See [`InspectionError`].
pub async fn view(
    meta: &Arc<dyn MetaStore>,
    offsets: &dyn Offsets,
    task: &TaskId,
) -> Result<Option<TaskView>, InspectionError> {
    let store = TaskStore::new(Arc::clone(meta), task.clone());
    let mut doubtful = None;
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let Some((head, version)) = store.read().await? else { return Ok(None) };
        let kafka = offsets.committed(task.incarnation, task.partition).await.map_err(InspectionError::Kafka)?;
        let (manifest, doubt) = match resolve(&head, &kafka) {
            Ok(manifest) => (manifest, None),
            // A commit between the two looks, if the head is another one now.
            Err(_) if doubtful != Some(version) => {
                doubtful = Some(version);
                continue;
            }
            Err(disagreement) => (&head.committed, Some(disagreement.to_string())),
        };
        let mut state = TaskState::default();
        match store.restore(&head, manifest, &mut state).await {
            Ok(_) => {
                let (manifest, stored_bytes) = (manifest.clone(), stored_bytes(&head, manifest));
                return Ok(Some(TaskView { manifest, stored_bytes, state, doubt }));
            }
            // Deleted by the owner, if the head is another one now.
            Err(error @ StateError::Chunk { .. }) => {
                if store.read().await?.is_some_and(|(_, now)| now == version) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(InspectionError::Changing { task: task.clone() })
}

/// Where a task is, by topic: the offsets of what it has committed, as far as that is certain. `None` for one that has never
/// started, or keeps no state.
///
/// # Errors
/// See [`InspectionError`].
pub async fn position(
    meta: &Arc<dyn MetaStore>,
    offsets: &dyn Offsets,
    task: &TaskId,
) -> Result<Option<BTreeMap<String, i64>>, InspectionError> {
    let store = TaskStore::new(Arc::clone(meta), task.clone());
    let mut doubtful = None;
    loop {
        let Some((head, version)) = store.read().await? else { return Ok(None) };
        let kafka = offsets.committed(task.incarnation, task.partition).await.map_err(InspectionError::Kafka)?;
        match resolve(&head, &kafka) {
            Ok(manifest) => return Ok(Some(manifest.offsets.clone())),
            // A commit between the two looks, if the head is another one now.
            Err(_) if doubtful != Some(version) => doubtful = Some(version),
            Err(_) => return Ok(Some(head.committed.offsets)),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A manifest of a task that is certainly committed, with its state: the one that `choose` names among those that its head keeps.
/// `None` when it chooses none, or there is no head.
///
/// # Errors
/// See [`InspectionError`].
pub async fn kept(
    meta: &Arc<dyn MetaStore>,
    task: &TaskId,
    choose: &(dyn Fn(&[&Manifest]) -> Option<usize> + Sync),
) -> Result<Option<(Manifest, TaskState)>, InspectionError> {
    let store = TaskStore::new(Arc::clone(meta), task.clone());
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let Some((head, version)) = store.read().await? else { return Ok(None) };
        let manifests: Vec<&Manifest> = std::iter::once(&head.committed).chain(&head.retained).collect();
        let Some(&manifest) = choose(&manifests).and_then(|at| manifests.get(at)) else { return Ok(None) };
        let mut state = TaskState::default();
        match store.restore(&head, manifest, &mut state).await {
            Ok(_) => return Ok(Some((manifest.clone(), state))),
            // Deleted by the owner, if the head is another one now.
            Err(error @ StateError::Chunk { .. }) => {
                if store.read().await?.is_some_and(|(_, now)| now == version) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(InspectionError::Changing { task: task.clone() })
}

/// Bytes of the chunks of one of the head's manifests, as they are stored.
#[must_use]
pub fn stored_bytes(head: &Head, manifest: &Manifest) -> u64 {
    let facts = manifest.chunks.iter().filter_map(|chunk| head.chunks.get(chunk));
    facts.map(|facts| u64::from(facts.bytes)).sum()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::checkpoint::head::Decider;
    use crate::checkpoint::ledger::Ledger;
    use crate::checkpoint::protocol;
    use crate::checkpoint::resolve::{GroupOffset, GroupOffsets};
    use crate::checkpoint::store::settle;
    use crate::ids::ManifestId;
    use crate::meta::Write;
    use crate::meta::layout::TaskPath;
    use crate::meta::local::LocalStore;
    use crate::state::StoreName;

    /// A group that has committed with this metadata.
    struct Kafka(&'static str);

    #[async_trait]
    impl Offsets for Kafka {
        async fn committed(&self, _: u64, _: u32) -> Result<GroupOffsets, String> {
            let offset = GroupOffset { offset: Some(110), metadata: self.0.to_owned() };
            Ok([("orders".to_owned(), offset)].into())
        }

        async fn members(&self, _: u64) -> Result<usize, String> {
            Ok(0)
        }

        async fn commit(&self, _: u64, _: &BTreeMap<u32, BTreeMap<String, i64>>) -> Result<(), String> {
            Err("nothing is committed by looking".to_owned())
        }
    }

    fn task() -> TaskId {
        TaskId { pipeline: "orders".into(), incarnation: 1, stage: 0, partition: 0 }
    }

    /// A task whose head holds one entry.
    async fn committed() -> (tempfile::TempDir, Arc<dyn MetaStore>) {
        let dir = tempfile::tempdir().unwrap();
        let meta: Arc<dyn MetaStore> = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        let store = TaskStore::new(Arc::clone(&meta), task());
        store.genesis(&protocol::tests::genesis()).await.unwrap();
        let mut claim = store.claim("node-1", tokio::time::sleep).await.unwrap();
        let mut state = TaskState::new([vec![StoreName::of("count", "counts", 1)]]);
        state.store_mut(0).put(b"ada", Some(b"5"));
        let mut pending = vec![claim.commit(Decider::Head, &Ledger::default(), &mut state, |epoch, chunks| Manifest {
            id: ManifestId { epoch, nonce: 7 },
            chunks,
            offsets: [("orders".to_owned(), 110)].into(),
            watermark: None,
            transforms: Vec::new(),
        })];
        settle(&*meta, &mut pending).await.unwrap();
        (dir, meta)
    }

    #[tokio::test]
    async fn a_commit_is_seen_whole_and_a_task_that_never_started_is_none() {
        let (_dir, meta) = committed().await;
        let view = super::view(&meta, &Kafka(""), &task()).await.unwrap().unwrap();
        assert_eq!((view.manifest.id.epoch.0, view.manifest.chunks.len(), view.doubt), (1, 1, None));
        assert_eq!(view.state.names()[0].to_string(), "count/counts");
        assert_eq!(view.state.store(0).get(b"ada"), Some(&b"5"[..]));
        let other = TaskId { partition: 1, ..task() };
        assert!(super::view(&meta, &Kafka(""), &other).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_kafka_and_the_head_disagree_about_is_shown_with_a_doubt() {
        let (_dir, meta) = committed().await;
        let view = super::view(&meta, &Kafka("9-0000000000000009"), &task()).await.unwrap().unwrap();
        assert_eq!(view.state.store(0).get(b"ada"), Some(&b"5"[..]));
        assert!(view.doubt.is_some_and(|doubt| doubt.contains("disagree")));
    }

    #[tokio::test]
    async fn a_chunk_that_is_gone_though_the_head_names_it_is_an_error() {
        let (_dir, meta) = committed().await;
        let (head, _) = TaskStore::new(Arc::clone(&meta), task()).read().await.unwrap().unwrap();
        let path = TaskPath::new(&task()).chunk(head.committed.chunks[0]);
        meta.multi(vec![Write::Delete { path, version: None }]).await.unwrap();
        let error = super::view(&meta, &Kafka(""), &task()).await.err().unwrap().to_string();
        assert!(error.contains("it is missing"), "{error}");
    }
}
