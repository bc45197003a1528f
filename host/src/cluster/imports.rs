//! Entries put into the state of a task that nobody runs, as one more commit of it: `docs/commit-protocol.md` has the rules.
//!
//! Does not decide which entries. Invariant: the offsets stay as they are, and whoever runs the task at the same time
//! makes the import fail, or waits for it.

use std::sync::Arc;

use thiserror::Error;

use super::savepoints::Offsets;
use crate::checkpoint::head::{Decider, Manifest};
use crate::checkpoint::resolve::{Disagreement, resolve};
use crate::checkpoint::store::{Settled, StateError, TaskStore, settle};
use crate::ids::{Epoch, ManifestId, TaskId};
use crate::meta::MetaStore;
use crate::state::{StoreName, TaskState};

/// An entry as it is to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// In which store.
    pub store: StoreName,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; none to remove it.
    pub value: Option<Vec<u8>>,
}

/// Why entries were not put into a task's state.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Its head or its chunks. After an outage it may have been done: the same import again does no harm.
    #[error(transparent)]
    State(#[from] StateError),
    /// Kafka does not say what is committed, or who is in the group.
    #[error("kafka: {0}")]
    Kafka(String),
    /// Somebody runs it.
    #[error(
        "the consumer group has {members} members: somebody runs the pipeline, or was killed a moment ago; try again"
    )]
    Running {
        /// How many.
        members: usize,
    },
    /// Kafka and the head contradict each other.
    #[error("task {task}: {disagreement}\n`sluicegate state accept` decides who is right")]
    Disagreement {
        /// Which task.
        task: TaskId,
        /// Both sides.
        disagreement: Disagreement,
    },
    /// Somebody has claimed the task meanwhile.
    #[error("task {task} was claimed by somebody else meanwhile: nothing of it was changed; is the pipeline running?")]
    Claimed {
        /// Which task.
        task: TaskId,
    },
}

/// Puts entries into the state of a task. Safe to repeat.
///
/// # Errors
/// See [`ImportError`].
pub async fn import(
    meta: &Arc<dyn MetaStore>,
    offsets: &dyn Offsets,
    task: &TaskId,
    changes: &[Change],
) -> Result<Epoch, ImportError> {
    // Before the claim: it would take the task from whoever runs it.
    nobody_runs(offsets, task).await?;
    let store = TaskStore::new(Arc::clone(meta), task.clone());
    let no_head = || StateError::NoHead { task: task.clone() };
    let (former, _) = store.read().await?.ok_or_else(no_head)?;
    // In the name of the owner before: what it may have left open in Kafka is found by that name.
    let mut claim = store.claim(&former.owner, tokio::time::sleep).await?;
    // And after it: a member that is not in the group any more sends no offsets for what it has prepared.
    nobody_runs(offsets, task).await?;
    let kafka = offsets.committed(task.incarnation, task.partition).await.map_err(ImportError::Kafka)?;
    let resolved = resolve(claim.head(), &kafka);
    let base: Manifest =
        resolved.map_err(|disagreement| ImportError::Disagreement { task: task.clone(), disagreement })?.clone();
    claim.restored(base.id);

    let mut state = TaskState::default();
    let mut ledger = store.restore(claim.head(), &base, &mut state).await?;
    for Change { store, key, value } in changes {
        let number = state.number(store);
        state.store_mut(number).put(key, value.as_deref());
    }
    let mut pending = [claim.commit(Decider::Head, &ledger, &mut state, |epoch, chunks| Manifest {
        id: ManifestId { epoch, nonce: rand::random() },
        chunks,
        ..base
    })];
    settle(&**meta, &mut pending).await?;
    let [pending] = pending;
    match claim.settled(pending, &mut ledger, &mut state) {
        Settled::Durable => Ok(claim.head().committed.id.epoch),
        Settled::Lost => Err(ImportError::Claimed { task: task.clone() }),
    }
}

async fn nobody_runs(offsets: &dyn Offsets, task: &TaskId) -> Result<(), ImportError> {
    match offsets.members(task.incarnation).await.map_err(ImportError::Kafka)? {
        0 => Ok(()),
        members => Err(ImportError::Running { members }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::checkpoint::protocol;
    use crate::checkpoint::resolve::{GroupOffset, GroupOffsets};
    use crate::cluster::inspection;
    use crate::meta::local::LocalStore;

    /// A group that has committed what genesis has, with this metadata, and gets members with the question of that number.
    struct Kafka {
        metadata: &'static str,
        joined_at: usize,
        asked: AtomicUsize,
    }

    impl Kafka {
        fn empty() -> Self {
            Self { metadata: "", joined_at: usize::MAX, asked: AtomicUsize::new(0) }
        }
    }

    #[async_trait]
    impl Offsets for Kafka {
        async fn committed(&self, _: u64, _: u32) -> Result<GroupOffsets, String> {
            let offset = GroupOffset { offset: Some(100), metadata: self.metadata.to_owned() };
            Ok([("orders".to_owned(), offset)].into())
        }

        async fn commit(&self, _: u64, _: &BTreeMap<u32, BTreeMap<String, i64>>) -> Result<(), String> {
            Err("offsets stay as they are".to_owned())
        }

        async fn members(&self, _: u64) -> Result<usize, String> {
            Ok(usize::from(self.asked.fetch_add(1, Ordering::Relaxed) + 1 >= self.joined_at))
        }
    }

    fn task() -> TaskId {
        TaskId { pipeline: "orders".into(), incarnation: 1, stage: 0, partition: 0 }
    }

    fn change(key: &str, value: Option<&str>) -> Change {
        let store = StoreName { transform: "count".into(), store: "counts".into() };
        Change { store, key: key.into(), value: value.map(Into::into) }
    }

    async fn begun() -> (tempfile::TempDir, Arc<dyn MetaStore>) {
        let dir = tempfile::tempdir().unwrap();
        let meta: Arc<dyn MetaStore> = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        TaskStore::new(Arc::clone(&meta), task()).genesis(&protocol::tests::genesis()).await.unwrap();
        (dir, meta)
    }

    async fn entry(meta: &Arc<dyn MetaStore>, key: &str) -> Option<Vec<u8>> {
        let view = inspection::view(meta, &Kafka::empty(), &task()).await.unwrap().unwrap();
        assert_eq!(view.manifest.offsets, [("orders".to_owned(), 100)].into());
        view.state.stores().next().and_then(|store| store.get(key.as_bytes())).map(<[u8]>::to_vec)
    }

    #[tokio::test]
    async fn entries_are_put_and_removed_and_the_offsets_stay() {
        let (_dir, meta) = begun().await;
        let first = [change("ada", Some("5")), change("grace", Some("7"))];
        assert_eq!(import(&meta, &Kafka::empty(), &task(), &first).await.unwrap(), Epoch(1));
        let second = [change("ada", None), change("grace", Some("8"))];
        assert_eq!(import(&meta, &Kafka::empty(), &task(), &second).await.unwrap(), Epoch(2));
        assert_eq!((entry(&meta, "ada").await, entry(&meta, "grace").await), (None, Some(b"8".to_vec())));
    }

    #[tokio::test]
    async fn a_group_with_members_is_left_alone_and_its_task_not_even_claimed() {
        let (_dir, meta) = begun().await;
        let busy = Kafka { joined_at: 1, ..Kafka::empty() };
        let error = import(&meta, &busy, &task(), &[change("ada", Some("5"))]).await.unwrap_err();
        assert!(matches!(error, ImportError::Running { members: 1 }), "{error}");
        let (head, _) = TaskStore::new(Arc::clone(&meta), task()).read().await.unwrap().unwrap();
        assert_eq!(head, protocol::tests::genesis());
    }

    #[tokio::test]
    async fn a_member_that_joins_between_the_claim_and_the_question_ends_the_import() {
        let (_dir, meta) = begun().await;
        let joining = Kafka { joined_at: 2, ..Kafka::empty() };
        let error = import(&meta, &joining, &task(), &[change("ada", Some("5"))]).await.unwrap_err();
        assert!(matches!(error, ImportError::Running { .. }), "{error}");
        let (head, _) = TaskStore::new(Arc::clone(&meta), task()).read().await.unwrap().unwrap();
        assert_eq!(head.committed.id.epoch, Epoch(0));
    }

    #[tokio::test]
    async fn what_only_a_person_can_decide_is_not_decided_by_an_import() {
        let (_dir, meta) = begun().await;
        let other = Kafka { metadata: "9-0000000000000009", ..Kafka::empty() };
        let error = import(&meta, &other, &task(), &[change("ada", Some("5"))]).await.unwrap_err().to_string();
        assert!(error.contains("sluicegate state accept"), "{error}");
    }
}
