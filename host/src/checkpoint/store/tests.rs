//! Commits and claims against a store whose answers get lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::checkpoint::resolve;
use crate::ids::{ManifestId, TaskId};
use crate::meta::Node;
use crate::meta::local::LocalStore;
use crate::state::StoreName;

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
        let claim = store.claim("node-1", tokio::time::sleep).await.unwrap();
        let mut state = TaskState::new([vec![StoreName::of("count", "counts", 1)]]);
        let ledger = store.restore(claim.head(), &claim.head().committed, &mut state).await.unwrap();
        Self { store, claim, ledger, state, nonce: 0 }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.state.store_mut(0).put(key, Some(value));
    }

    fn commit(&mut self, offset: i64) -> PendingCommit {
        self.write(Decider::Head, offset)
    }

    fn write(&mut self, decider: Decider, offset: i64) -> PendingCommit {
        self.nonce += 1;
        let nonce = self.nonce;
        self.claim.commit(decider, &self.ledger, &mut self.state, |epoch, chunks| Manifest {
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
        assert_eq!(task.settled(commit), Settled::Durable);
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
            assert_eq!(task.settled(commit), Settled::Durable, "sequence {sequence}");
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
        assert_eq!(new.settled(commit), Settled::Durable, "{fault:?}");
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
    assert_eq!(settled, [Settled::Durable, Settled::Lost, Settled::Durable]);
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
        assert_eq!(task.settled(commit), Settled::Durable);
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
        assert_eq!(task.settled(commit), Settled::Durable, "{fault:?}");
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
async fn a_claim_holds_until_somebody_else_claims() {
    let bench = Bench::new().await;
    let mut task = bench.task(0).await;
    let mut commits = [task.commit(1)];
    settle_through_outages(&bench, &mut commits).await;
    let [commit] = commits;
    assert_eq!(task.settled(commit), Settled::Durable);
    assert!(task.claim.holds().await.unwrap(), "its own commit does not end it");
    bench.faults(&[Fault::Away]);
    assert!(task.claim.holds().await.unwrap_err().is_outage());
    bench.store(0).claim("node-2", tokio::time::sleep).await.unwrap();
    assert!(!task.claim.holds().await.unwrap());
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
        assert_eq!(task.settled(commit), Settled::Durable);
    }
}

impl Running {
    /// Prepares, through outages. Returns what Kafka would name.
    async fn prepared(&mut self, bench: &Bench, offset: i64) -> ManifestId {
        let mut commits = [self.write(Decider::Kafka, offset)];
        settle_through_outages(bench, &mut commits).await;
        let [commit] = commits;
        assert_eq!(self.settled(commit), Settled::Durable);
        self.claim.undecided().unwrap()
    }

    fn committed(&mut self) {
        self.claim.committed(&mut self.ledger, &mut self.state);
    }

    fn aborted(&mut self) {
        self.state.stores_mut().for_each(crate::state::Store::roll_back);
        self.claim.aborted();
    }

    /// The next owner, which finds `kafka` in the group.
    async fn takes_over(store: TaskStore, kafka: Option<ManifestId>, offset: i64) -> Self {
        let mut claim = store.claim("node-2", tokio::time::sleep).await.unwrap();
        let metadata = kafka.map(|id| id.to_string()).unwrap_or_default();
        let group = resolve::GroupOffset { offset: kafka.map(|_| offset), metadata };
        let manifest = resolve::resolve(claim.head(), &[("orders".to_owned(), group)].into()).unwrap().clone();
        let mut state = TaskState::new([vec![StoreName::of("count", "counts", 1)]]);
        let ledger = store.restore(claim.head(), &manifest, &mut state).await.unwrap();
        claim.restored(manifest.id);
        Self { store, claim, ledger, state, nonce: 1_000 }
    }
}

#[tokio::test]
async fn kafka_decides_about_what_was_prepared() {
    for kafka_has_committed in [false, true] {
        let bench = Bench::new().await;
        let mut task = bench.task(0).await;
        task.put(b"key", b"1");
        let first = task.prepared(&bench, 1).await;
        task.committed();
        task.put(b"key", b"2");
        let second = task.prepared(&bench, 2).await;
        // Here the process ends.
        let (says, offset) = if kafka_has_committed { (second, 2) } else { (first, 1) };
        let next = Running::takes_over(bench.store(0), Some(says), offset).await;
        let expected: &[u8] = if kafka_has_committed { b"2" } else { b"1" };
        assert_eq!(next.contents()[b"key".as_slice()], expected);
    }
}

#[tokio::test]
async fn a_crash_before_the_first_commit_in_kafka_begins_again() {
    let bench = Bench::new().await;
    let mut task = bench.task(0).await;
    task.put(b"key", b"1");
    task.prepared(&bench, 1).await;
    let next = Running::takes_over(bench.store(0), None, 0).await;
    assert!(next.contents().is_empty());
}

#[tokio::test]
async fn prepares_commits_and_aborts_keep_the_state_exact_through_lost_answers() {
    let faults = [Fault::None, Fault::LostApplied, Fault::LostUnapplied, Fault::Away];
    for sequence in 0..64 {
        let bench = Bench::new().await;
        let mut task = bench.task(0).await;
        bench.faults(&[faults[sequence % 4], faults[sequence / 4 % 4], faults[sequence / 16]]);
        let mut last = None;
        for round in 0..30u64 {
            task.put(&(round % 5).to_be_bytes(), &round.to_be_bytes());
            let id = task.prepared(&bench, round as i64).await;
            if round % 3 == 1 {
                task.aborted();
            } else {
                task.committed();
                last = Some((id, round as i64));
            }
        }
        let (id, offset) = last.unwrap();
        let next = Running::takes_over(bench.store(0), Some(id), offset).await;
        assert_eq!(next.contents(), task.contents(), "sequence {sequence}");
        let chunks = bench.meta.children(&next.store.path.chunks()).await.unwrap();
        assert!(chunks.len() <= next.claim.head().chunks.len() + 1, "sequence {sequence}: aborted chunks are deleted");
    }
}

#[tokio::test]
async fn a_former_owners_prepare_stays_until_the_new_owner_has_committed() {
    let bench = Bench::new().await;
    let mut old = bench.task(0).await;
    old.put(b"key", b"old");
    let theirs = old.prepared(&bench, 1).await;
    let mut new = Running::takes_over(bench.store(0), None, 0).await;
    new.put(b"key", b"new");
    let ours = new.prepared(&bench, 2).await;
    let prepared =
        |task: &Running| -> Vec<ManifestId> { task.claim.head().prepared.iter().map(|manifest| manifest.id).collect() };
    assert_eq!(prepared(&new), [theirs, ours]);
    // The former owner was the true one after all, and its transaction was committed.
    let again = Running::takes_over(bench.store(0), Some(theirs), 1).await;
    assert_eq!(again.contents()[b"key".as_slice()], *b"old");
    // Or it was not.
    let mut new = Running::takes_over(bench.store(0), Some(ours), 2).await;
    new.put(b"key", b"newer");
    new.prepared(&bench, 3).await;
    new.committed();
    new.put(b"key", b"newest");
    let last = new.prepared(&bench, 4).await;
    assert_eq!(prepared(&new), [last]);
}

#[tokio::test]
async fn after_a_clean_stop_kafka_may_forget() {
    let bench = Bench::new().await;
    let mut task = bench.task(0).await;
    task.put(b"key", b"1");
    task.prepared(&bench, 1).await;
    task.committed();
    let mut commits = [task.claim.clean_stop().unwrap()];
    settle(bench.meta.as_ref(), &mut commits).await.unwrap();
    let next = Running::takes_over(bench.store(0), None, 0).await;
    assert_eq!(next.contents()[b"key".as_slice()], *b"1");
    assert_eq!(next.claim.head().committed.offsets["orders"], 1);
}
