//! The tasks' heads and chunks in the metadata store: claim, restore, commit, sweep.
//!
//! Every write is versioned. One whose answer was lost is read back before anything else happens, and a read-back that does not
//! show it decides nothing: only the next versioned write that wins does. Nothing in here waits for a store that is away except
//! [`TaskStore::claim`], which runs beside the worker thread; commits return to the caller, which goes on polling Kafka.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};
use thiserror::Error;
use tracing::{info, warn};

use super::chunk::{self, ChunkError};
use super::head::{ChunkDigest, Decider, Head, HeadError, Manifest};
use super::ledger::{Delta, Ledger};
use super::protocol::{self, Lineage};
use crate::ids::{ChunkName, Epoch, ManifestId, TaskId};
use crate::meta::layout::TaskPath;
use crate::meta::{MetaError, MetaStore, Version, Write};
use crate::state::TaskState;

/// Bytes that are packed into one request: see `docs/operating.md` for what was measured.
const PACK_BYTES: usize = 256 * 1024;

/// Writes that are packed into one request.
const PACK_WRITES: usize = 256;

/// Chunks that are read at the same time.
const READS_IN_FLIGHT: usize = 16;

/// Chunks of a large commit that are written at the same time: more would only lie in the connection's buffer.
const WRITES_IN_FLIGHT: usize = 16;

/// Pause between two looks at a store that is away.
const OUTAGE_PAUSE: Duration = Duration::from_millis(200);

/// Why a task's state cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The metadata store.
    #[error("task {task}: {source}")]
    Meta {
        /// Which task.
        task: TaskId,
        /// What failed.
        source: MetaError,
    },
    /// The head.
    #[error("task {task}: {source}")]
    Head {
        /// Which task.
        task: TaskId,
        /// What is wrong with it.
        source: HeadError,
    },
    /// The head is missing though the task had one.
    #[error("task {task}: its head is missing")]
    NoHead {
        /// Which task.
        task: TaskId,
    },
    /// A chunk is missing or damaged.
    #[error("task {task}, epoch {epoch}: chunk {chunk} cannot be used: {source}")]
    Chunk {
        /// Which task.
        task: TaskId,
        /// The epoch that was to be restored.
        epoch: Epoch,
        /// Which chunk.
        chunk: ChunkName,
        /// What is wrong with it.
        source: ChunkError,
    },
}

impl StateError {
    /// Whether waiting may cure it.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Meta { source, .. } if source.is_outage())
    }
}

/// The place of one task in the metadata store.
#[derive(Clone)]
pub struct TaskStore {
    meta: Arc<dyn MetaStore>,
    task: TaskId,
    path: TaskPath,
}

/// A task that this process has claimed: its head as it was last written here.
pub struct Claim {
    store: TaskStore,
    head: Head,
    version: Version,
    last_chunk: u64,
    former_owner: String,
    lineage: Lineage,
    /// Durable, and Kafka has not decided yet.
    undecided: Option<Undecided>,
}

struct Undecided {
    manifest: ManifestId,
    delta: Delta,
}

/// How writing a head ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settled {
    /// It is durable.
    Durable,
    /// Somebody else has claimed the task: nothing of it was or will be written.
    Lost,
}

/// The head of one task that is to be written, with its chunks: a commit, or the preparation of one. See [`settle`].
pub struct PendingCommit {
    store: TaskStore,
    manifest: ManifestId,
    /// Whether writing it is the commit, or Kafka's transaction.
    decider: Decider,
    next: Head,
    next_bytes: Bytes,
    expected: Version,
    chunks: Vec<(ChunkName, Bytes)>,
    delta: Delta,
    drop: Vec<ChunkName>,
    chunks_written: bool,
    uncertain: bool,
    settled: Option<(Settled, Version)>,
}

impl TaskStore {
    /// The place of `task`.
    #[must_use]
    pub fn new(meta: Arc<dyn MetaStore>, task: TaskId) -> Self {
        let path = TaskPath::new(&task);
        Self { meta, task, path }
    }

    /// Reads the head; `None` before genesis.
    ///
    /// # Errors
    /// When the store is away or the head is damaged.
    pub async fn read(&self) -> Result<Option<(Head, Version)>, StateError> {
        let Some(node) = self.meta.get(&self.path.head()).await.map_err(|source| self.failed(source))? else {
            return Ok(None);
        };
        let head = Head::decode(&node.data).map_err(|source| StateError::Head { task: self.task.clone(), source })?;
        Ok(Some((head, node.version)))
    }

    /// Writes the first head. That somebody else was faster is no error.
    ///
    /// # Errors
    /// When the store is away; safe to repeat.
    pub async fn genesis(&self, head: &Head) -> Result<(), StateError> {
        self.meta.ensure(&self.path.chunks()).await.map_err(|source| self.failed(source))?;
        let create = Write::Create { path: self.path.head(), data: head.encode().into(), ephemeral: false };
        match self.meta.multi(vec![create]).await {
            Ok(_) | Err(MetaError::Exists { .. }) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Claims the task for `owner`; waits, by `pause`, for a store that is away.
    ///
    /// # Errors
    /// When there is no head, or it is damaged, or the store refuses for good.
    pub async fn claim<P: Future<Output = ()>>(
        &self,
        owner: &str,
        pause: impl Fn(Duration) -> P,
    ) -> Result<Claim, StateError> {
        let mut attempted: Option<Head> = None;
        let mut former_owner = String::new();
        loop {
            let (head, version) = match self.read().await {
                Ok(Some(found)) => found,
                Ok(None) => return Err(StateError::NoHead { task: self.task.clone() }),
                Err(error) if error.is_outage() => {
                    pause(OUTAGE_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A claim whose answer was lost is found here. Generations are not given twice, so that it is ours.
            if attempted.as_ref() == Some(&head) {
                return Ok(self.claimed(head, version, former_owner));
            }
            former_owner.clone_from(&head.owner);
            let claimed = protocol::claim(&head, owner);
            let set = Write::Set { path: self.path.head(), data: claimed.encode().into(), version };
            match self.meta.multi(vec![set]).await {
                Ok(versions) => {
                    let version = versions.first().copied().flatten().unwrap_or(Version(version.0 + 1));
                    return Ok(self.claimed(claimed, version, former_owner));
                }
                Err(MetaError::BadVersion { .. }) => {}
                Err(source) if source.is_outage() => attempted = Some(claimed),
                Err(source) => return Err(self.failed(source)),
            }
        }
    }

    fn claimed(&self, head: Head, version: Version, former_owner: String) -> Claim {
        let lineage = Lineage::restored(head.committed.id);
        Claim { store: self.clone(), head, version, last_chunk: 0, former_owner, lineage, undecided: None }
    }

    /// Reads the state of one of the head's manifests into `state`, which has to be new.
    ///
    /// # Errors
    /// When the store is away, or a chunk is missing or damaged: names the task, the epoch and the chunk.
    pub async fn restore(&self, head: &Head, manifest: &Manifest, state: &mut TaskState) -> Result<Ledger, StateError> {
        self.restore_from(&|chunk| self.path.chunk(chunk), head, manifest, state).await
    }

    /// The same with chunks that were copied to other places, which `path` names.
    ///
    /// # Errors
    /// As [`TaskStore::restore`].
    pub async fn restore_from(
        &self,
        path: &(dyn Fn(ChunkName) -> String + Sync),
        head: &Head,
        manifest: &Manifest,
        state: &mut TaskState,
    ) -> Result<Ledger, StateError> {
        let mut ledger = Ledger::default();
        let unusable =
            |chunk, source| StateError::Chunk { task: self.task.clone(), epoch: manifest.id.epoch, chunk, source };
        let read = |name: ChunkName| async move {
            let node = self.meta.get(&path(name)).await.map_err(|source| self.failed(source))?;
            let stored = node.ok_or_else(|| unusable(name, ChunkError::Damaged("it is missing")))?.data;
            let expected = head.chunks.get(&name).map(|facts| facts.digest);
            if expected != Some(ChunkDigest::of(&stored)) {
                // Decoding says more about what is wrong, for example a newer format.
                chunk::decode(&stored).map_err(|source| unusable(name, source))?;
                return Err(unusable(name, ChunkError::Damaged("its digest is not the one in the head")));
            }
            let decoded = chunk::decode(&stored).map_err(|source| unusable(name, source))?;
            Ok((name, decoded))
        };
        let names = futures::stream::iter(manifest.chunks.clone());
        let mut chunks = std::pin::pin!(names.map(read).buffered(READS_IN_FLIGHT));
        while let Some((name, decoded)) = chunks.try_next().await? {
            ledger.restore(state, name, &decoded).map_err(|source| unusable(name, source))?;
        }
        Ok(ledger)
    }

    fn failed(&self, source: MetaError) -> StateError {
        StateError::Meta { task: self.task.clone(), source }
    }
}

impl Claim {
    /// The head as it was last written.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Who had the task before, if that may have left a transaction open.
    #[must_use]
    pub fn may_have_left_open(&self) -> Option<&str> {
        let leaves = !self.head.prepared.is_empty() && self.former_owner != self.head.owner;
        leaves.then_some(&*self.former_owner)
    }

    /// What the state goes on from.
    #[must_use]
    pub fn base(&self) -> ManifestId {
        self.lineage.base
    }

    /// The state goes on from this manifest of the head, and not from the committed one: Kafka said so.
    pub fn restored(&mut self, base: ManifestId) {
        self.lineage = Lineage::restored(base);
    }

    /// Makes the commit of what changed in `state`, or, where Kafka decides, its preparation. Nothing is written yet. What
    /// changes in `state` from now on belongs to the next commit. This one is durable with [`Claim::settled`] or, where Kafka
    /// decides, with [`Claim::committed`]; or `state` is rolled back, with [`Claim::aborted`].
    pub fn commit(
        &mut self,
        decider: Decider,
        ledger: &Ledger,
        state: &mut TaskState,
        make: impl FnOnce(Epoch, Vec<ChunkName>) -> Manifest,
    ) -> PendingCommit {
        let generation = self.head.generation;
        let delta = ledger.encode(state, || {
            self.last_chunk += 1;
            ChunkName { generation, counter: self.last_chunk }
        });
        state.seal();
        let manifest = make(protocol::next_epoch(&self.head), delta.row.clone());
        let id = manifest.id;
        let next = match decider {
            Decider::Head => protocol::commit_at_least_once(&self.head, manifest, delta.facts()),
            Decider::Kafka => protocol::prepare(&self.head, &self.lineage, manifest, delta.facts()),
        };
        self.pending(id, decider, next, delta)
    }

    /// After the last commit in Kafka: makes the head hold everything; `None` when it does already.
    pub fn clean_stop(&self) -> Option<PendingCommit> {
        let next = protocol::clean_stop(&self.head, &self.lineage)?;
        Some(self.pending(next.committed.id, Decider::Head, next, Delta::default()))
    }

    fn pending(&self, manifest: ManifestId, decider: Decider, next: Head, delta: Delta) -> PendingCommit {
        PendingCommit {
            store: self.store.clone(),
            manifest,
            decider,
            next_bytes: next.encode().into(),
            drop: protocol::dropped_chunks(&self.head, &next),
            next,
            expected: self.version,
            chunks: delta.new.iter().map(|chunk| (chunk.name, chunk.stored.clone())).collect(),
            delta,
            chunks_written: false,
            uncertain: false,
            settled: None,
        }
    }

    /// Takes in a head that was written, or was not.
    pub fn settled(&mut self, commit: PendingCommit, ledger: &mut Ledger, state: &mut TaskState) -> Settled {
        let Some((Settled::Durable, version)) = commit.settled else { return Settled::Lost };
        self.head = commit.next;
        self.version = version;
        match commit.decider {
            Decider::Head => {
                self.lineage = Lineage::restored(commit.manifest);
                ledger.apply(state, commit.delta);
            }
            Decider::Kafka => {
                self.undecided = Some(Undecided { manifest: commit.manifest, delta: commit.delta });
            }
        }
        Settled::Durable
    }

    /// What is prepared while Kafka has not decided.
    #[must_use]
    pub fn undecided(&self) -> Option<ManifestId> {
        self.undecided.as_ref().map(|undecided| undecided.manifest)
    }

    /// Kafka has committed what was prepared.
    pub fn committed(&mut self, ledger: &mut Ledger, state: &mut TaskState) {
        if let Some(Undecided { manifest, delta }) = self.undecided.take() {
            self.lineage.committed(manifest);
            ledger.apply(state, delta);
        }
    }

    /// Kafka has acknowledged that what was prepared will not be committed.
    pub fn aborted(&mut self) {
        if let Some(Undecided { manifest, .. }) = self.undecided.take() {
            self.lineage.aborted.insert(manifest);
        }
    }

    /// Whether the head is still as it was last written here. Asked by a request that changes nothing and goes the way of writes:
    /// a server that lags behind does not answer it.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn holds(&self) -> Result<bool, StateError> {
        let check = Write::Check { path: self.store.path.head(), version: self.version };
        match self.store.meta.multi(vec![check]).await {
            Ok(_) => Ok(true),
            Err(MetaError::BadVersion { .. } | MetaError::Missing { .. }) => Ok(false),
            Err(source) => Err(self.store.failed(source)),
        }
    }

    /// Deletes chunks that earlier owners left behind. Best effort: what stays is swept by the next owner.
    ///
    /// # Errors
    /// When the store is away, or the task was claimed by somebody else meanwhile.
    pub async fn sweep(&self) -> Result<usize, StateError> {
        let failed = |source| self.store.failed(source);
        let children = self.store.meta.children(&self.store.path.chunks()).await.map_err(failed)?;
        let existing: Vec<ChunkName> = children.iter().filter_map(|name| name.parse().ok()).collect();
        let left_over = protocol::left_over_chunks(&self.head, &existing);
        for some in left_over.chunks(PACK_WRITES) {
            let check = Write::Check { path: self.store.path.head(), version: self.version };
            let deletes = some.iter().map(|chunk| Write::Delete { path: self.store.path.chunk(*chunk), version: None });
            self.store.meta.multi(std::iter::once(check).chain(deletes).collect()).await.map_err(failed)?;
        }
        if !left_over.is_empty() {
            info!(task = %self.store.task, chunks = left_over.len(), "deleted chunks that an earlier owner left behind");
        }
        Ok(left_over.len())
    }
}

impl PendingCommit {
    /// Bytes that it writes: chunks and head.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.delta.stored_bytes() + self.next_bytes.len() as u64
    }

    /// The partition number of its task.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.store.task.partition
    }

    /// Chunks that it writes.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    fn creates(&self) -> impl Iterator<Item = Write> {
        let create = |(name, stored): &(ChunkName, Bytes)| Write::Create {
            path: self.store.path.chunk(*name),
            data: stored.clone(),
            ephemeral: false,
        };
        self.chunks.iter().map(create)
    }

    /// The writes that make it durable: what is left of its chunks, and the head.
    fn writes(&self) -> Vec<Write> {
        let mut writes: Vec<Write> = if self.chunks_written { Vec::new() } else { self.creates().collect() };
        writes.push(Write::Set { path: self.store.path.head(), data: self.next_bytes.clone(), version: self.expected });
        writes
            .extend(self.drop.iter().map(|chunk| Write::Delete { path: self.store.path.chunk(*chunk), version: None }));
        writes
    }

    /// Looks whether a write whose answer was lost has been applied.
    async fn read_back(&mut self) -> Result<(), StateError> {
        let Some((head, version)) = self.store.read().await? else {
            return Err(StateError::NoHead { task: self.store.task.clone() });
        };
        self.uncertain = false;
        if version.0 == self.expected.0 + 1 && head == self.next {
            self.settled = Some((Settled::Durable, version));
        } else if version != self.expected {
            self.settled = Some((Settled::Lost, version));
        }
        Ok(())
    }

    /// Writes the chunks on their own, for commits that do not fit into one request.
    async fn write_chunks(&mut self) -> Result<(), StateError> {
        let writes = self.creates().map(|create| {
            let meta = Arc::clone(&self.store.meta);
            async move {
                let (Write::Create { path, data, .. } | Write::Set { path, data, .. }) = create.clone() else {
                    return Ok(());
                };
                match meta.multi(vec![create]).await {
                    Ok(_) => Ok(()),
                    // Written by an attempt whose answer was lost: names are never given twice.
                    Err(MetaError::Exists { .. }) if meta.get(&path).await?.is_some_and(|node| node.data == data) => {
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
        });
        let writes: Vec<_> = writes.collect();
        let written = futures::stream::iter(writes).buffered(WRITES_IN_FLIGHT).try_collect::<Vec<()>>().await;
        written.map_err(|source| self.store.failed(source))?;
        self.chunks_written = true;
        Ok(())
    }
}

/// Writes commits of several tasks, packed into few requests, until each is settled.
///
/// May be cancelled: what was on its way then counts as uncertain and is read back first.
///
/// # Errors
/// An outage ([`StateError::is_outage`]): call again with the same commits when the store may be back; what was settled stays
/// settled. Anything else is final.
pub async fn settle(meta: &dyn MetaStore, commits: &mut [PendingCommit]) -> Result<(), StateError> {
    for commit in commits.iter_mut().filter(|commit| commit.settled.is_none()) {
        if commit.uncertain {
            commit.read_back().await?;
        }
        let bytes: usize = commit.writes().iter().map(Write::request_bytes).sum();
        if commit.settled.is_none() && !commit.chunks_written && bytes > PACK_BYTES {
            commit.write_chunks().await?;
        }
    }
    while commits.iter().any(|commit| commit.settled.is_none()) {
        let packs = pack(commits);
        packs.iter().flatten().for_each(|&at| commits[at].uncertain = true);
        let requests = packs.iter().map(|pack| meta.multi(pack.iter().flat_map(|&at| commits[at].writes()).collect()));
        let results = future::join_all(requests.collect::<Vec<_>>()).await;
        let mut outage = None;
        for (pack, result) in packs.into_iter().zip(results) {
            match result {
                Ok(_) => {
                    for at in pack {
                        let commit = &mut commits[at];
                        commit.settled = Some((Settled::Durable, Version(commit.expected.0 + 1)));
                    }
                }
                Err(error) if error.is_outage() => {
                    pack.iter().for_each(|&at| commits[at].uncertain = error.may_have_happened());
                    outage.get_or_insert((pack[0], error));
                }
                Err(error) => refused(commits, &pack, error).await?,
            }
        }
        if let Some((at, source)) = outage {
            return Err(commits[at].store.failed(source));
        }
    }
    Ok(())
}

/// Finds the commit that made a request fail; the others of the request are tried again.
async fn refused(commits: &mut [PendingCommit], pack: &[usize], error: MetaError) -> Result<(), StateError> {
    pack.iter().for_each(|&at| commits[at].uncertain = false);
    let (MetaError::BadVersion { path } | MetaError::Exists { path } | MetaError::Missing { path }) = &error else {
        return Err(commits[pack[0]].store.failed(error));
    };
    let culprit = pack.iter().copied().find(|&at| commits[at].writes().iter().any(|write| write.path() == path));
    let commit = &mut commits[culprit.unwrap_or(pack[0])];
    match &error {
        // Either somebody claimed the task, or an attempt whose answer was lost has been applied.
        MetaError::BadVersion { .. } => commit.read_back().await?,
        MetaError::Exists { .. } if !commit.chunks_written => commit.write_chunks().await?,
        MetaError::Missing { .. } if !commit.drop.is_empty() && *path != commit.store.path.head() => {
            warn!(task = %commit.store.task, %path, "a chunk that was to be deleted is gone already");
            commit.drop.clear();
        }
        _ => return Err(commit.store.failed(error)),
    }
    Ok(())
}

/// Distributes the commits that are not settled over requests.
fn pack(commits: &[PendingCommit]) -> Vec<Vec<usize>> {
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let (mut bytes, mut writes) = (0, 0);
    for (at, commit) in commits.iter().enumerate().filter(|(_, commit)| commit.settled.is_none()) {
        let own = commit.writes();
        let own_bytes: usize = own.iter().map(Write::request_bytes).sum();
        match packs.last_mut() {
            Some(pack) if bytes + own_bytes <= PACK_BYTES && writes + own.len() <= PACK_WRITES => {
                pack.push(at);
                bytes += own_bytes;
                writes += own.len();
            }
            _ => {
                packs.push(vec![at]);
                (bytes, writes) = (own_bytes, own.len());
            }
        }
    }
    packs
}

#[cfg(test)]
mod tests;
