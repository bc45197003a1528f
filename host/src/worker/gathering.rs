//! Where the threads of a node meet before they join their group.
//!
//! A group that has formed looks at a new member only when the others' heartbeats come, and takes several rounds to move
//! partitions over. Threads that join within a few milliseconds of each other are one round, and get at once what they keep.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A meeting of a number of threads.
#[derive(Debug)]
pub struct Gathering {
    missing: Mutex<usize>,
    complete: Condvar,
}

impl Gathering {
    /// For so many threads.
    #[must_use]
    pub fn of(threads: usize) -> Self {
        Self { missing: Mutex::new(threads), complete: Condvar::new() }
    }

    /// Waits until all are here, for `wait` at most: one that fails to come does not keep the others.
    pub fn arrive(&self, wait: Duration) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        *missing = missing.saturating_sub(1);
        self.complete.notify_all();
        drop(self.complete.wait_timeout_while(missing, wait, |missing| *missing > 0));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn threads_go_on_together() {
        let gathering = Gathering::of(3);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| gathering.arrive(Duration::from_secs(60)));
            }
        });
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn one_that_does_not_come_is_waited_for_so_long_and_no_longer() {
        let began = Instant::now();
        Gathering::of(2).arrive(Duration::from_millis(20));
        assert!(began.elapsed() >= Duration::from_millis(20));
    }
}
