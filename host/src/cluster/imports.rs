//! Entries put into the state of a task that nobody runs, the entries of a store taken out of it, or the task taken back to stores
//! of a version before, as further commits of it: `docs/commit-protocol.md` has the rules.
//!
//! Does not decide which. Invariant: the offsets stay as they are, whoever runs the task at the same time makes
//! the import fail, or waits for it, and no entry is taken out that what made the state reads.

use std::sync::Arc;

use thiserror::Error;

use super::savepoints::Offsets;
use crate::checkpoint::head::{Decider, Manifest, TransformIdentity};
use crate::checkpoint::ledger::Ledger;
use crate::checkpoint::resolve::{Disagreement, resolve};
use crate::checkpoint::store::{Claim, Settled, StateError, TaskStore, settle};
use crate::ids::{Epoch, ManifestId, TaskId};
use crate::meta::MetaStore;
use crate::state::{StoreName, TaskState};

/// Entries that one commit takes out: each is written down as deleted, with its key.
const DROP_ENTRIES: u64 = 10_000;
/// Bytes of keys after which a commit takes out no more: those of an ordinary commit of a busy task.
const DROP_BYTES: usize = 1 << 20;

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

/// What was taken out of a task.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dropped {
    /// How many entries.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// The last commit of the task.
    pub epoch: Epoch,
}

/// Why entries were not put into a task's state, or taken out of it.
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
    /// A transform reads the store, or keeps it as a copy.
    #[error("task {task}: transform `{}` uses store {store}: entries of a store in use are removed by `sluicegate state import`", .store.transform)]
    InUse {
        /// Which task.
        task: TaskId,
        /// Which store.
        store: StoreName,
    },
    /// A rollout keeps the same state in the form of another schema too.
    #[error(
        "store {store} of task {task} is kept in two forms while its transform is being changed: wait for the end of the rollout, or call it off, and let the pipeline run until then"
    )]
    HasCopy {
        /// Which task.
        task: TaskId,
        /// Which store.
        store: StoreName,
    },
    /// What the version before had is not there as it was.
    #[error(
        "task {task}: store {store} is not there as it was when the task went over: it was dropped or made anew since, and there is nothing to go back to"
    )]
    NoCopy {
        /// Which task.
        task: TaskId,
        /// Which store.
        store: StoreName,
    },
    /// Somebody has claimed the task meanwhile.
    #[error(
        "task {task} was claimed by somebody else meanwhile: this commit of it was not made; is the pipeline running?"
    )]
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
    let mut opened = Opened::claim(meta, offsets, task).await?;
    if let Some(Change { store, .. }) = changes.iter().find(|Change { store, .. }| has_copy(&opened.base, store)) {
        return Err(ImportError::HasCopy { task: task.clone(), store: store.clone() });
    }
    for Change { store, key, value } in changes {
        let number = opened.state.number(store);
        opened.state.store_mut(number).put(key, value.as_deref());
    }
    opened.commit().await
}

/// Takes all entries of a store out of the state of a task, in commits of bounded size. Safe to repeat, and to go on with after an
/// interruption.
///
/// # Errors
/// See [`ImportError`]; [`ImportError::InUse`] before anything is changed.
pub async fn drop_store(
    meta: &Arc<dyn MetaStore>,
    offsets: &dyn Offsets,
    task: &TaskId,
    store: &StoreName,
) -> Result<Dropped, ImportError> {
    let mut opened = Opened::claim(meta, offsets, task).await?;
    if uses(&opened.base, store) {
        return Err(ImportError::InUse { task: task.clone(), store: store.clone() });
    }
    // From the first of its commits on nobody goes back to it.
    for transform in opened.base.transforms.iter_mut().filter(|transform| transform.name == store.transform) {
        transform.former.remove(&store.store);
    }
    let number = opened.state.number(store);
    let entries = opened.state.store_mut(number);
    let mut dropped = Dropped { entries: entries.len() as u64, bytes: entries.bytes(), epoch: opened.base.id.epoch };
    // Nothing is put in, so that no slot is given twice.
    let (mut slot, slots) = (0, entries.slots());
    while !opened.state.store(number).is_empty() {
        let entries = opened.state.store_mut(number);
        let (mut taken, mut bytes) = (0, 0);
        while slot < slots && taken < DROP_ENTRIES && bytes < DROP_BYTES {
            if let (key, Some(_)) = entries.entry(slot) {
                let key = key.to_vec();
                entries.put(&key, None);
                (taken, bytes) = (taken + 1, bytes + key.len());
            }
            slot += 1;
        }
        dropped.epoch = opened.commit().await?;
    }
    Ok(dropped)
}

/// Lets a task go on by the version `was` of a transform, from the stores that stay of it as they were: what has changed since in those
/// that the present version reads is forgotten. The offsets stay. Does nothing for one that goes on by that version already.
///
/// # Errors
/// See [`ImportError`]; [`ImportError::NoCopy`] before anything is changed.
pub async fn take_back(
    meta: &Arc<dyn MetaStore>,
    offsets: &dyn Offsets,
    task: &TaskId,
    was: &TransformIdentity,
) -> Result<Epoch, ImportError> {
    let mut opened = Opened::claim(meta, offsets, task).await?;
    let since = opened.base.offsets.clone();
    let epoch = opened.base.id.epoch;
    let Some(now) = opened.base.transforms.iter_mut().find(|now| now.name == was.name) else { return Ok(epoch) };
    if now.is_same_version(was) {
        return Ok(epoch);
    }
    if let Some(store) = missing(now, was) {
        return Err(ImportError::NoCopy { task: task.clone(), store });
    }
    let mut former = std::mem::take(&mut now.former);
    was.stores.iter().for_each(|(store, schema)| {
        former.remove(&StoreName::of(&was.name, store, *schema).store);
    });
    *now = TransformIdentity { since, former, ..was.clone() };
    opened.commit().await
}

/// A store that the version `was` reads, that `now` reads under another schema version, and that does not stay as it was.
#[must_use]
pub fn missing(now: &TransformIdentity, was: &TransformIdentity) -> Option<StoreName> {
    let other =
        was.stores.iter().filter(|(store, schema)| now.stores.get(*store).is_some_and(|other| other != *schema));
    other
        .map(|(store, schema)| StoreName::of(&was.name, store, *schema))
        .find(|name| !now.former.contains_key(&name.store))
}

/// Whether what made the state reads this store, or keeps it as a copy.
#[must_use]
pub fn uses(manifest: &Manifest, store: &StoreName) -> bool {
    manifest.transforms.iter().any(|transform| {
        let mut stores = transform.stores.iter().chain(&transform.copies);
        stores.any(|(name, schema)| StoreName::of(&transform.name, name, *schema) == *store)
    })
}

/// A task that was claimed from outside, and its state.
struct Opened {
    claim: Claim,
    /// What the state goes on from.
    base: Manifest,
    state: TaskState,
    ledger: Ledger,
    meta: Arc<dyn MetaStore>,
    task: TaskId,
}

impl Opened {
    async fn claim(meta: &Arc<dyn MetaStore>, offsets: &dyn Offsets, task: &TaskId) -> Result<Self, ImportError> {
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
        let ledger = store.restore(claim.head(), &base, &mut state).await?;
        Ok(Self { claim, base, state, ledger, meta: Arc::clone(meta), task: task.clone() })
    }

    /// Makes what has changed in the state durable.
    async fn commit(&mut self) -> Result<Epoch, ImportError> {
        let base = self.base.clone();
        let make = |epoch, chunks| Manifest { id: ManifestId { epoch, nonce: rand::random() }, chunks, ..base };
        let mut pending = [self.claim.commit(Decider::Head, &self.ledger, &mut self.state, make)];
        settle(&*self.meta, &mut pending).await?;
        let [pending] = pending;
        match self.claim.settled(pending, &mut self.ledger, &mut self.state) {
            Settled::Durable => Ok(self.claim.head().committed.id.epoch),
            Settled::Lost => Err(ImportError::Claimed { task: self.task.clone() }),
        }
    }
}

/// Whether the manifest's transforms have another form of the store, or this one is it.
fn has_copy(manifest: &Manifest, store: &StoreName) -> bool {
    let transforms = manifest.transforms.iter().filter(|transform| transform.name == store.transform);
    transforms.flat_map(|transform| transform.copies.keys()).any(|copy| copy == store.declared())
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
    use crate::checkpoint::head::Head;
    use crate::checkpoint::protocol;
    use crate::checkpoint::resolve::{GroupOffset, GroupOffsets};
    use crate::cluster::inspection;
    use crate::meta::local::LocalStore;
    use crate::meta::{Write, layout};

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

    fn store(transform: &str, store: &str) -> StoreName {
        StoreName { transform: transform.to_owned(), store: store.to_owned() }
    }

    /// A head as genesis makes it, of a task whose only transform is `count`.
    async fn begun_with(stores: &[(&str, u32)], copies: &[(&str, u32)]) -> (tempfile::TempDir, Arc<dyn MetaStore>) {
        let dir = tempfile::tempdir().unwrap();
        let meta: Arc<dyn MetaStore> = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        let of = |named: &[(&str, u32)]| named.iter().map(|(name, schema)| ((*name).to_owned(), *schema)).collect();
        let mut head = protocol::tests::genesis();
        head.committed.transforms = vec![TransformIdentity {
            name: "count".into(),
            plugin: String::new(),
            config: String::new(),
            stores: of(stores),
            copies: of(copies),
            former: Default::default(),
            since: BTreeMap::new(),
        }];
        TaskStore::new(Arc::clone(&meta), task()).genesis(&head).await.unwrap();
        (dir, meta)
    }

    #[tokio::test]
    async fn a_large_store_is_dropped_in_several_commits_and_others_stay_with_the_offsets() {
        let (_dir, meta) = begun_with(&[("counts", 2)], &[]).await;
        let old = |at: u64| Change { value: Some(b"1".to_vec()), ..change(&format!("{at:05}"), None) };
        let kept = Change { store: store("count", "counts@2"), ..change("ada", Some("5")) };
        let put: Vec<Change> = (0..=DROP_ENTRIES).map(old).chain([kept]).collect();
        assert_eq!(import(&meta, &Kafka::empty(), &task(), &put).await.unwrap(), Epoch(1));
        let dropped = drop_store(&meta, &Kafka::empty(), &task(), &store("count", "counts")).await.unwrap();
        let entries = DROP_ENTRIES + 1;
        assert_eq!(dropped, Dropped { entries, bytes: entries * 6, epoch: Epoch(3) });
        let view = inspection::view(&meta, &Kafka::empty(), &task()).await.unwrap().unwrap();
        assert_eq!((view.state.len(), view.manifest.offsets), (1, [("orders".to_owned(), 100)].into()));
        let again = drop_store(&meta, &Kafka::empty(), &task(), &store("count", "counts")).await.unwrap();
        assert_eq!(again, Dropped { entries: 0, bytes: 0, epoch: Epoch(3) }, "there is nothing left to commit");
    }

    #[tokio::test]
    async fn a_store_that_a_version_reads_or_keeps_as_a_copy_is_not_dropped_nor_imported_into() {
        let (_dir, meta) = begun_with(&[("counts", 2)], &[("counts", 1)]).await;
        let import = async |change| import(&meta, &Kafka::empty(), &task(), &[change]).await.unwrap_err();
        let error = import(change("ada", Some("5"))).await;
        assert!(matches!(error, ImportError::HasCopy { .. }), "one form would not know of it: {error}");
        for named in ["counts", "counts@2"] {
            let error = drop_store(&meta, &Kafka::empty(), &task(), &store("count", named)).await.unwrap_err();
            assert!(matches!(error, ImportError::InUse { .. }), "{named}: {error}");
        }
        for named in [store("count", "counts@3"), store("other", "counts")] {
            assert_eq!(drop_store(&meta, &Kafka::empty(), &task(), &named).await.unwrap().entries, 0);
        }
    }

    #[tokio::test]
    async fn a_group_with_members_keeps_its_stores() {
        let (_dir, meta) = begun().await;
        import(&meta, &Kafka::empty(), &task(), &[change("ada", Some("5"))]).await.unwrap();
        for joined_at in [1, 2] {
            let busy = Kafka { joined_at, ..Kafka::empty() };
            let error = drop_store(&meta, &busy, &task(), &store("count", "counts")).await.unwrap_err();
            assert!(matches!(error, ImportError::Running { members: 1 }), "{error}");
        }
        assert_eq!(entry(&meta, "ada").await, Some(b"5".to_vec()));
    }

    /// A task of schema 2, whose state of schema 1 stays as it was.
    async fn gone_over() -> (tempfile::TempDir, Arc<dyn MetaStore>, TransformIdentity) {
        let (dir, meta) = begun_with(&[("counts", 2)], &[]).await;
        let path = layout::TaskPath::new(&task()).head();
        let node = meta.get(&path).await.unwrap().unwrap();
        let mut head = Head::decode(&node.data).unwrap();
        let now = &mut head.committed.transforms[0];
        now.former = [("counts".to_owned(), [("orders".to_owned(), 60)].into())].into();
        let was = TransformIdentity {
            plugin: "before".into(),
            stores: [("counts".to_owned(), 1)].into(),
            former: BTreeMap::new(),
            ..now.clone()
        };
        let set = Write::Set { path, data: head.encode().into(), version: node.version };
        meta.multi(vec![set]).await.unwrap();
        let new = Change { store: store("count", "counts@2"), ..change("ada", Some("7;")) };
        import(&meta, &Kafka::empty(), &task(), &[change("ada", Some("5")), new]).await.unwrap();
        (dir, meta, was)
    }

    #[tokio::test]
    async fn a_task_is_taken_back_to_what_stayed_as_it_was_with_its_offsets_once() {
        let (_dir, meta, was) = gone_over().await;
        let busy = Kafka { joined_at: 1, ..Kafka::empty() };
        let error = take_back(&meta, &busy, &task(), &was).await.unwrap_err();
        assert!(matches!(error, ImportError::Running { .. }), "{error}");
        for _ in 0..2 {
            assert_eq!(take_back(&meta, &Kafka::empty(), &task(), &was).await.unwrap(), Epoch(2));
        }
        let view = inspection::view(&meta, &Kafka::empty(), &task()).await.unwrap().unwrap();
        let offsets: BTreeMap<String, i64> = [("orders".to_owned(), 100)].into();
        assert_eq!(view.manifest.offsets, offsets);
        assert_eq!(view.manifest.transforms, [TransformIdentity { since: offsets, ..was }]);
        assert_eq!(entry(&meta, "ada").await, Some(b"5".to_vec()));
    }

    #[tokio::test]
    async fn nobody_is_taken_back_to_a_store_that_was_dropped_even_in_part() {
        let (_dir, meta, was) = gone_over().await;
        let more: Vec<Change> = (0..=DROP_ENTRIES).map(|at| change(&format!("{at:05}"), Some("1"))).collect();
        import(&meta, &Kafka::empty(), &task(), &more).await.unwrap();
        drop_store(&meta, &Kafka::empty(), &task(), &store("count", "counts")).await.unwrap();
        let (head, _) = TaskStore::new(Arc::clone(&meta), task()).read().await.unwrap().unwrap();
        let begun = head.retained.iter().chain([&head.committed]).filter(|manifest| manifest.id.epoch > Epoch(2));
        assert_eq!(begun.clone().count(), 2, "it took two commits");
        assert!(begun.into_iter().all(|manifest| manifest.transforms[0].former.is_empty()), "from the first one on");
        let error = take_back(&meta, &Kafka::empty(), &task(), &was).await.unwrap_err();
        assert!(matches!(&error, ImportError::NoCopy { store, .. } if store.store == "counts"), "{error}");
    }
}
