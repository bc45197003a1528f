//! What a worker thread runs on, from the scheduler.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use sluicegate::worker::runtime::Runtime;

use crate::kernel::{Kernel, Pid};

/// A simulated process, to its worker threads.
pub(crate) struct Simulated {
    pub(crate) kernel: Kernel,
    pub(crate) pid: Pid,
    /// Gives everybody the same nonce.
    pub(crate) bare_epochs: bool,
}

impl Runtime for Simulated {
    fn now(&self) -> Instant {
        self.kernel.instant()
    }

    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + i64::try_from(self.kernel.now().as_millis()).expect("a run is short")
    }

    fn nonce(&self) -> u64 {
        if self.bare_epochs { 0 } else { self.kernel.random(|rng| rng.random()) }
    }

    fn sleep(&self, time: Duration) {
        self.kernel.sleep(time);
    }

    fn pause(&self, time: Duration) -> BoxFuture<'static, ()> {
        sleep(&self.kernel, self.pid, time).boxed()
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) {
        self.kernel.spawn(self.pid, work);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.kernel.start(self.pid, work);
    }

    fn wait(&self, mut work: Pin<&mut (dyn Future<Output = ()> + Send)>, wait: Duration) {
        // Looked at from time to time: nobody has to wake the fiber.
        let mut context = Context::from_waker(Waker::noop());
        self.kernel.wait_for(wait, || work.as_mut().poll(&mut context).is_ready());
    }
}

/// Ends after `time`.
pub(crate) fn sleep(kernel: &Kernel, pid: Pid, time: Duration) -> impl Future<Output = ()> + Send + 'static {
    let kernel = kernel.clone();
    let mut until = None;
    std::future::poll_fn(move |context| {
        let now = kernel.now();
        let until = *until.get_or_insert(now + time);
        if until <= now {
            return Poll::Ready(());
        }
        kernel.timer(pid, until - now, context.waker().clone());
        Poll::Pending
    })
}

/// Where the answer to a request arrives.
pub(crate) struct Answer<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }
}

impl<T> Answer<T> {
    /// It is there.
    pub(crate) fn give(&self, answer: T) {
        let waker = {
            let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            place.0.get_or_insert(answer);
            place.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it is there.
    pub(crate) fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.is_some()
    }

    /// If it is there.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// Looks, and asks to be woken.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<T> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match place.0.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                place.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Set once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
