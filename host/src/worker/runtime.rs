//! Time, chance, and what runs beside a worker thread: everything by which two runs of the same thread can differ, except for
//! Kafka and the metadata store.
//!
//! Nothing in the worker asks the operating system for any of these, so that a simulation can decide them. Durations that are
//! only measured for metrics and messages are the exception.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::{AbortHandle, BoxFuture, abortable};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// What a thread runs on.
pub trait Runtime: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Instant;

    /// Milliseconds since 1970.
    fn now_ms(&self) -> i64;

    /// A number that nobody had before.
    fn nonce(&self) -> u64;

    /// Lets the calling thread stand still.
    fn sleep(&self, time: Duration);

    /// Ends after `time`.
    fn pause(&self, time: Duration) -> BoxFuture<'static, ()>;

    /// Runs `work` beside the thread.
    fn spawn(&self, work: BoxFuture<'static, ()>);

    /// Runs `work` beside the thread, where it may block.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>);

    /// Waits, on the thread, until `work` ends, for `wait` at most. What is not through may be waited for again.
    fn wait(&self, work: Pin<&mut (dyn Future<Output = ()> + Send)>, wait: Duration);
}

impl dyn Runtime {
    /// Time since `earlier`.
    pub(super) fn since(&self, earlier: Instant) -> Duration {
        self.now().saturating_duration_since(earlier)
    }

    /// Runs `work` beside the thread until it ends or is aborted.
    pub(super) fn spawn_abortable(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let (work, handle) = abortable(work);
        self.spawn(work.map(drop).boxed());
        handle
    }

    /// Runs `work` where it may block. `None` when it did not come to its end: it panicked, or the runtime ended.
    pub(super) fn blocking<T: Send + 'static>(
        &self,
        work: Box<dyn FnOnce() -> T + Send>,
    ) -> impl Future<Output = Option<T>> + Send + use<T> {
        let (done, result) = oneshot::channel();
        // Nobody may wait for it any more.
        self.spawn_blocking(Box::new(move || drop(done.send(work()))));
        result.map(Result::ok)
    }

    /// What comes of `work` if it is there within `wait`.
    pub(super) fn output_of<F: Future<Output: Send> + Send + Unpin>(
        &self,
        work: &mut F,
        wait: Duration,
    ) -> Option<F::Output> {
        let mut output = None;
        self.wait(pin!(async { output = Some(work.await) }), wait);
        output
    }
}

/// The real one.
impl Runtime for Handle {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn nonce(&self) -> u64 {
        rand::random()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn pause(&self, time: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(time).boxed()
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) {
        Handle::spawn(self, work);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        Handle::spawn_blocking(self, work);
    }

    fn wait(&self, work: Pin<&mut (dyn Future<Output = ()> + Send)>, wait: Duration) {
        // Whether it was through is seen by what it did.
        let _ = self.block_on(async { tokio::time::timeout(wait, work).await });
    }
}
