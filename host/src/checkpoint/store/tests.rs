//! Commits and claims against a store whose answers get lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::ids::{ManifestId, TaskId};
use crate::meta::Node;
use crate::meta::local::LocalStore;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The write is applied, its answer is lost.
    LostApplied,
    /// The request is lost, its answer looks lost too.
    LostUnapplied,
    /// The store is away before anything is sent.
    Away,
}

/// A store with a list of faults for the writes to come.
struct Faulty {
    inner: LocalStore,
    faults: Mutex<VecDeque<Fault>>,
    largest: Mutex<usize>,
}

#[async_trait]
impl MetaStore for Faulty {
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        self.inner.get(path).await
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        self.inner.children(path).await
    }

    async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
        let bytes = writes.iter().map(Write::request_bytes).sum();
        let largest = |known: &mut usize| *known = (*known).max(bytes);
        largest(&mut self.largest.lock().unwrap());
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let lost = || Err(MetaError::AnswerLost { reason: "test".into() });
        match fault {
            Fault::None => self.inner.multi(writes).await,
            Fault::LostApplied => {
                let _ = self.inner.multi(writes).await;
                lost()
            }
            Fault::LostUnapplied => lost(),
            Fault::Away => Err(MetaError::Away { reason: "test".into() }),
        }
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    meta: Arc<Faulty>,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inner = LocalStore::open(dir.path()).await.unwrap();
        Self { _dir: dir, meta: Arc::new(Faulty { inner, faults: Mutex::default(), largest: Mutex::default() }) }
    }

    fn faults(&self, faults: &[Fault]) {
        *self.meta.faults.lock().unwrap() = faults.iter().copied().collect();
    }

    fn store(&self, partition: u32) -> TaskStore {
        let task = TaskId { pipeline: "orders".into(), incarnation: 1, stage: 0, partition };
        TaskStore::new(self.meta.clone(), task)
    }

    /// A claimed task with empty state.
    async fn task(&self, partition: u32) -> Running {
        let store = self.store(partition);
        store.genesis(&protocol::tests::genesis()).await.unwrap();
        Running::begin(store).await
    }
}

struct Running {
    store: TaskStore,
    claim: Claim,
    ledger: Ledger,
    state: TaskState,
    nonce: u64,
}

impl Running {
    async fn begin(store: TaskStore) -> Self {
        let claim = store.claim("node-1").await.unwrap();
        let mut state = TaskState::new([("count", vec!["counts".to_owned()])]);
        let ledger = store.restore(claim.head(), &claim.head().committed, &mut state).await.unwrap();
        Self { store, claim, ledger, state, nonce: 0 }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.state.store_mut(0).put(key, Some(value));
    }

    fn commit(&mut self, offset: i64) -> PendingCommit {
        self.nonce += 1;
        let nonce = self.nonce;
        self.claim.commit_at_least_once(&self.ledger, &self.state, |epoch, chunks| Manifest {
            id: ManifestId { epoch, nonce },
            chunks,
            offsets: [("orders".to_owned(), offset)].into(),
            watermark: None,
            transforms: Vec::new(),
        })
    }

    fn settled(&mut self, commit: PendingCommit) -> Settled {
        self.claim.settled(commit, &mut self.ledger, &mut self.state)
    }

    fn contents(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state.store(0).iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }
}

/// Settles as the worker does: again after every outage.
async fn settle_through_outages(bench: &Bench, commits: &mut [PendingCommit]) {
    while let Err(error) = settle(bench.meta.as_ref(), commits).await {
        assert!(error.is_outage(), "{error}");
    }
}

#[tokio::test]
async fn what_was_committed_is_found_by_the_next_owner() {
    let bench = Bench::new().await;
    let mut task = bench.task(0).await;
    for round in 0..50u64 {
        task.put(&(round % 7).to_be_bytes(), &round.to_be_bytes());
        let mut commits = [task.commit(round as i64)];
        settle(bench.meta.as_ref(), &mut commits).await.unwrap();
        let [commit] = commits;
        assert_eq!(task.settled(commit), Settled::Committed);
    }
    let next = Running::begin(bench.store(0)).await;
    assert_eq!(next.contents(), task.contents());
    assert_eq!(next.claim.head().committed.offsets["orders"], 49);
    assert_eq!(next.claim.head().generation.0, 2);
}

#[tokio::test]
async fn a_commit_survives_every_sequence_of_lost_answers() {
    let faults = [Fault::None, Fault::LostApplied, Fault::LostUnapplied, Fault::Away];
    for sequence in 0..64 {
        let bench = Bench::new().await;
        let mut task = bench.task(0).await;
        bench.faults(&[faults[sequence % 4], faults[sequence / 4 % 4], faults[sequence / 16]]);
        for round in 1..=3u64 {
            task.put(b"key", &round.to_be_bytes());
            let mut commits = [task.commit(round as i64)];
            settle_through_outages(&bench, &mut commits).await;
            let [commit] = commits;
            assert_eq!(task.settled(commit), Settled::Committed, "sequence {sequence}");
        }
        let next = Running::begin(bench.store(0)).await;
        assert_eq!(next.contents(), task.contents(), "sequence {sequence}");
        let committed = &next.claim.head().committed;
        assert_eq!((committed.id.epoch, committed.offsets["orders"]), (Epoch(3), 3), "sequence {sequence}");
    }
}

#[tokio::test]
async fn an_owner_whose_task_was_claimed_loses_its_commit_also_when_the_answer_was_lost() {
    for fault in [Fault::None, Fault::LostApplied, Fault::LostUnapplied, Fault::Away] {
        let bench = Bench::new().await;
        let mut old = bench.task(0).await;
        old.put(b"key", b"old");
        let mut commits = [old.commit(1)];
        let mut new = Running::begin(bench.store(0)).await;
        bench.faults(&[fault]);
        settle_through_outages(&bench, &mut commits).await;
        let [commit] = commits;
        assert_eq!(old.settled(commit), Settled::Lost, "{fault:?}");
        new.put(b"key", b"new");
        let mut commits = [new.commit(2)];
        settle(bench.meta.as_ref(), &mut commits).await.unwrap();
        let [commit] = commits;
        assert_eq!(new.settled(commit), Settled::Committed, "{fault:?}");
    }
}

#[tokio::test]
async fn one_lost_task_does_not_take_the_others_of_its_request_with_it() {
    let bench = Bench::new().await;
    let mut tasks = [bench.task(0).await, bench.task(1).await, bench.task(2).await];
    Running::begin(bench.store(1)).await;
    let mut commits: Vec<_> = tasks.iter_mut().map(|task| task.commit(1)).collect();
    settle(bench.meta.as_ref(), &mut commits).await.unwrap();
    let settled: Vec<_> = tasks.iter_mut().zip(commits).map(|(task, commit)| task.settled(commit)).collect();
    assert_eq!(settled, [Settled::Committed, Settled::Lost, Settled::Committed]);
}

#[tokio::test]
async fn a_large_commit_is_cut_into_requests_that_the_store_takes() {
    use rand::{RngCore, SeedableRng};
    for faults in [vec![], vec![Fault::LostApplied, Fault::None, Fault::LostUnapplied, Fault::LostApplied]] {
        let bench = Bench::new().await;
        let mut task = bench.task(0).await;
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        let mut value = vec![0; 10_000];
        for key in 0..300u32 {
            random.fill_bytes(&mut value);
            task.put(&key.to_be_bytes(), &value);
        }
        bench.faults(&faults);
        let mut commits = [task.commit(1)];
        settle_through_outages(&bench, &mut commits).await;
        let [commit] = commits;
        assert_eq!(task.settled(commit), Settled::Committed);
        assert!(*bench.meta.largest.lock().unwrap() <= crate::meta::REQUEST_BYTES_MAX);
        assert_eq!(Running::begin(bench.store(0)).await.contents(), task.contents());
    }
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_found() {
    for fault in [Fault::LostApplied, Fault::LostUnapplied, Fault::Away] {
        let bench = Bench::new().await;
        bench.store(0).genesis(&protocol::tests::genesis()).await.unwrap();
        bench.faults(&[fault]);
        let mut task = Running::begin(bench.store(0)).await;
        let mut commits = [task.commit(1)];
        settle(bench.meta.as_ref(), &mut commits).await.unwrap();
        let [commit] = commits;
        assert_eq!(task.settled(commit), Settled::Committed, "{fault:?}");
    }
}

#[tokio::test]
async fn a_damaged_a_missing_and_a_newer_chunk_are_named_with_task_and_epoch() {
    let bench = Bench::new().await;
    let mut task = bench.task(0).await;
    task.put(b"key", b"value");
    let mut commits = [task.commit(1)];
    settle(bench.meta.as_ref(), &mut commits).await.unwrap();
    let [commit] = commits;
    task.settled(commit);
    let path = task.store.path.chunk("1.1".parse().unwrap());
    let stored = bench.meta.get(&path).await.unwrap().unwrap();
    let mut newer = stored.data.to_vec();
    newer[4] = 200;
    let mut damaged = stored.data.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut version = stored.version;
    for (data, message) in [(damaged, "checksum"), (newer, "format version 200")] {
        let set = Write::Set { path: path.clone(), data: data.into(), version };
        version = bench.meta.multi(vec![set]).await.unwrap()[0].unwrap();
        let text = restore_error(&bench).await;
        assert!(text.contains("task orders/1/0/0, epoch 1: chunk 1.1") && text.contains(message), "{text}");
    }
    bench.meta.multi(vec![Write::Delete { path, version: None }]).await.unwrap();
    let text = restore_error(&bench).await;
    assert!(text.contains("chunk 1.1") && text.contains("missing"), "{text}");
}

async fn restore_error(bench: &Bench) -> String {
    let store = bench.store(0);
    let (head, _) = store.read().await.unwrap().unwrap();
    let mut state = TaskState::default();
    store.restore(&head, &head.committed, &mut state).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_new_owner_sweeps_what_an_earlier_one_left_behind_and_nothing_else() {
    let bench = Bench::new().await;
    let mut old = bench.task(0).await;
    old.put(b"key", b"value");
    let mut commits = [old.commit(1)];
    settle(bench.meta.as_ref(), &mut commits).await.unwrap();
    let [commit] = commits;
    old.settled(commit);
    let orphan = old.store.path.chunk("1.9".parse().unwrap());
    let create = Write::Create { path: orphan.clone(), data: Bytes::new(), ephemeral: false };
    bench.meta.multi(vec![create]).await.unwrap();
    assert_eq!(old.claim.sweep().await.unwrap(), 0, "its own claim's chunks may belong to a commit under way");
    let new = Running::begin(bench.store(0)).await;
    assert!(old.claim.sweep().await.is_ok_and(|swept| swept == 0));
    assert_eq!(new.claim.sweep().await.unwrap(), 1);
    assert_eq!(bench.meta.get(&orphan).await.unwrap(), None);
    assert_eq!(Running::begin(bench.store(0)).await.contents(), old.contents());
}

#[tokio::test]
async fn an_owner_that_lost_the_task_deletes_nothing() {
    let bench = Bench::new().await;
    let first = bench.task(0).await;
    let orphan = first.store.path.chunk("1.9".parse().unwrap());
    bench.meta.multi(vec![Write::Create { path: orphan.clone(), data: Bytes::new(), ephemeral: false }]).await.unwrap();
    let second = Running::begin(bench.store(0)).await;
    Running::begin(bench.store(0)).await;
    assert!(second.claim.sweep().await.is_err());
    assert!(bench.meta.get(&orphan).await.unwrap().is_some());
}

#[tokio::test]
async fn a_chunk_deleted_by_hand_does_not_stop_commits() {
    let bench = Bench::new().await;
    let mut task = bench.task(0).await;
    for round in 0..20u64 {
        task.put(b"key", &round.to_be_bytes());
        let mut commits = [task.commit(round as i64)];
        if let Some(chunk) = commits[0].drop.first() {
            let path = task.store.path.chunk(*chunk);
            let _ = bench.meta.multi(vec![Write::Delete { path, version: None }]).await;
        }
        settle(bench.meta.as_ref(), &mut commits).await.unwrap();
        let [commit] = commits;
        assert_eq!(task.settled(commit), Settled::Committed);
    }
}
