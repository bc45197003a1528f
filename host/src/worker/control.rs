//! How a node tells its worker threads to stop, and how it sees how far they are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by a node and its threads.
#[derive(Debug, Default)]
pub struct Control {
    draining: AtomicBool,
    deadline: Mutex<Option<Instant>>,
    joined: AtomicUsize,
    assigned: AtomicUsize,
    running: AtomicUsize,
}

impl Control {
    /// Asks every thread to commit and end within `deadline`. The first call counts.
    pub fn drain(&self, deadline: Duration) {
        let mut until = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        until.get_or_insert_with(|| Instant::now() + deadline);
        self.draining.store(true, Ordering::Release);
    }

    /// Whether threads are to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How much of the drain's deadline is left; `None` while nobody has asked for it.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let until = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Whether the drain has taken too long.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.is_draining() && self.left() == Some(Duration::ZERO)
    }

    /// A thread has heard from the group for the first time.
    pub fn has_joined(&self) {
        self.joined.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread has other numbers of assigned and running tasks than before.
    pub fn tasks(&self, before: (usize, usize), now: (usize, usize)) {
        self.assigned.fetch_add(now.0.wrapping_sub(before.0), Ordering::Relaxed);
        self.running.fetch_add(now.1.wrapping_sub(before.1), Ordering::Relaxed);
    }

    /// Assigned and running tasks, once any thread has heard from the group.
    #[must_use]
    pub fn progress(&self) -> Option<(usize, usize)> {
        let tasks = (self.assigned.load(Ordering::Relaxed), self.running.load(Ordering::Relaxed));
        (self.joined.load(Ordering::Relaxed) > 0).then_some(tasks)
    }
}
