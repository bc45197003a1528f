//! Heads and chunks on their way to the metadata store, beside the thread.
//!
//! A request that was sent is never given up because the thread wants to look at its group: a store whose answers take
//! longer than the thread may wait would be asked the same again and again, and no commit would ever end. So the writing
//! goes on by itself and the thread looks in from time to time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::AbortHandle;
use tokio::sync::oneshot;

use super::runtime::Runtime;
use crate::checkpoint::store::{self, PendingCommit, StateError};
use crate::meta::MetaStore;

/// The commits, and how writing them went.
type Written = (Vec<PendingCommit>, Result<(), StateError>);

/// Commits on their way; whoever drops this gives them up.
struct Writing {
    written: oneshot::Receiver<Written>,
    running: AbortHandle,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Some commits, until each is settled.
pub struct Settling {
    meta: Arc<dyn MetaStore>,
    runtime: Arc<dyn Runtime>,
    /// Those that nobody is writing at the moment.
    resting: Vec<PendingCommit>,
    writing: Option<Writing>,
    forgotten: BTreeSet<u32>,
}

impl Settling {
    /// Nothing is sent before [`Settling::wait`].
    #[must_use]
    pub fn new(meta: Arc<dyn MetaStore>, runtime: Arc<dyn Runtime>, commits: Vec<PendingCommit>) -> Self {
        Self { meta, runtime, resting: commits, writing: None, forgotten: BTreeSet::new() }
    }

    /// The task of this partition has gone: how its commit ends is of no interest. What was sent for it may still be written;
    /// the next claim settles that.
    pub fn forget(&mut self, partition: u32) {
        self.forgotten.insert(partition);
    }

    /// Writes, and waits for about `wait` at most. Returns the settled commits of the tasks that are still here; `None` while
    /// they are on their way.
    ///
    /// # Errors
    /// An outage ([`StateError::is_outage`]): wait again, nothing is lost. Anything else is final.
    pub fn wait(&mut self, wait: Duration) -> Result<Option<Vec<PendingCommit>>, StateError> {
        let mut writing = self.writing.take().unwrap_or_else(|| {
            let (meta, mut commits) = (Arc::clone(&self.meta), std::mem::take(&mut self.resting));
            commits.retain(|commit| !self.forgotten.contains(&commit.partition()));
            let (done, written) = oneshot::channel();
            let running = self.runtime.spawn_abortable(async move {
                let result = store::settle(&*meta, &mut commits).await;
                // Nobody may want to know any more.
                drop(done.send((commits, result)));
            });
            Writing { written, running }
        });
        match self.runtime.output_of(&mut writing.written, wait) {
            Some(Ok((mut commits, result))) => {
                commits.retain(|commit| !self.forgotten.contains(&commit.partition()));
                match result {
                    Ok(()) => Ok(Some(commits)),
                    Err(error) => {
                        self.resting = commits;
                        Err(error)
                    }
                }
            }
            // A defect, whose message is out already, or the runtime's end: as a panic on the thread itself would.
            Some(Err(stopped)) => std::panic::resume_unwind(Box::new(stopped.to_string())),
            None => {
                self.writing = Some(writing);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use async_trait::async_trait;

    use super::*;
    use crate::checkpoint::head::{Decider, Manifest};
    use crate::checkpoint::ledger::Ledger;
    use crate::checkpoint::protocol;
    use crate::checkpoint::store::{Claim, Settled, TaskStore};
    use crate::ids::{ManifestId, TaskId};
    use crate::meta::local::LocalStore;
    use crate::meta::{MetaError, Node, Version, Write};
    use crate::state::{StoreName, TaskState};

    /// A store each of whose answers takes its time.
    struct Slow {
        inner: LocalStore,
        delay: Mutex<Duration>,
        writes: Mutex<usize>,
    }

    impl Slow {
        async fn hesitate(&self) {
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
        }
    }

    #[async_trait]
    impl MetaStore for Slow {
        async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
            self.hesitate().await;
            self.inner.get(path).await
        }

        async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
            self.inner.children(path).await
        }

        async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
            *self.writes.lock().unwrap() += 1;
            let result = self.inner.multi(writes).await;
            self.hesitate().await;
            result
        }
    }

    struct Bench {
        _dir: tempfile::TempDir,
        runtime: tokio::runtime::Runtime,
        meta: Arc<Slow>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let inner = runtime.block_on(LocalStore::open(dir.path())).unwrap();
            let meta = Arc::new(Slow { inner, delay: Mutex::default(), writes: Mutex::default() });
            Self { _dir: dir, runtime, meta }
        }

        fn claim(&self, partition: u32) -> Claim {
            let task = TaskId { pipeline: "orders".into(), incarnation: 1, stage: 0, partition };
            let store = TaskStore::new(self.meta.clone(), task);
            self.runtime.block_on(async {
                store.genesis(&protocol::tests::genesis()).await.unwrap();
                store.claim("node-1", tokio::time::sleep).await.unwrap()
            })
        }

        fn settling(&self, commits: Vec<PendingCommit>) -> Settling {
            *self.meta.delay.lock().unwrap() = Duration::from_millis(60);
            *self.meta.writes.lock().unwrap() = 0;
            Settling::new(self.meta.clone(), Arc::new(self.runtime.handle().clone()), commits)
        }
    }

    fn commit(claim: &mut Claim, ledger: &Ledger, state: &mut TaskState) -> PendingCommit {
        claim.commit(Decider::Head, ledger, state, |epoch, chunks| Manifest {
            id: ManifestId { epoch, nonce: 1 },
            chunks,
            offsets: [("orders".to_owned(), 7)].into(),
            watermark: None,
            transforms: Vec::new(),
        })
    }

    fn until_settled(settling: &mut Settling) -> Vec<PendingCommit> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(commits) = settling.wait(Duration::from_millis(5)).unwrap() {
                return commits;
            }
        }
        panic!("the commit never ends");
    }

    #[test]
    fn a_store_that_takes_longer_than_the_thread_waits_is_asked_once() {
        let bench = Bench::new();
        let (mut ledger, mut state) = (Ledger::default(), TaskState::new([vec![StoreName::of("count", "counts", 1)]]));
        state.store_mut(0).put(b"key", Some(b"value"));
        let mut claim = bench.claim(0);
        let pending = commit(&mut claim, &ledger, &mut state);
        let mut settled = until_settled(&mut bench.settling(vec![pending]));
        assert_eq!(*bench.meta.writes.lock().unwrap(), 1);
        assert_eq!(claim.settled(settled.pop().unwrap(), &mut ledger, &mut state), Settled::Durable);
    }

    #[test]
    fn a_commit_of_many_chunks_ends_though_it_takes_longer_than_the_thread_waits() {
        let bench = Bench::new();
        let (mut ledger, mut state) = (Ledger::default(), TaskState::new([vec![StoreName::of("count", "counts", 1)]]));
        for key in 0..400u32 {
            // Does not compress.
            let value: Vec<u8> = crate::digest::Digest::of(&key.to_be_bytes()).hex().into_bytes().repeat(60);
            state.store_mut(0).put(&key.to_be_bytes(), Some(&value));
        }
        let mut claim = bench.claim(0);
        let pending = commit(&mut claim, &ledger, &mut state);
        let chunks = pending.chunk_count();
        assert!(chunks > 2, "{chunks}");
        let mut settled = until_settled(&mut bench.settling(vec![pending]));
        assert!(*bench.meta.writes.lock().unwrap() <= chunks + 1, "chunks are not written twice");
        assert_eq!(claim.settled(settled.pop().unwrap(), &mut ledger, &mut state), Settled::Durable);
    }

    #[test]
    fn the_commit_of_a_task_that_has_gone_is_not_given_back() {
        let bench = Bench::new();
        let (ledger, mut state) = (Ledger::default(), TaskState::default());
        let mut claims = [bench.claim(0), bench.claim(1)];
        let commits = claims.iter_mut().map(|claim| commit(claim, &ledger, &mut state)).collect();
        let mut settling = bench.settling(commits);
        assert!(settling.wait(Duration::from_millis(1)).unwrap().is_none());
        settling.forget(0);
        let partitions: Vec<u32> = until_settled(&mut settling).iter().map(PendingCommit::partition).collect();
        assert_eq!(partitions, [1]);
    }
}
