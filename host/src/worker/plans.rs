//! The plan that the threads of a pipeline work by. It may change while they run: each takes the newest one over at the end of
//! a commit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::Plan;

/// Shared by the threads of a pipeline and whoever changes it.
pub struct Plans {
    number: AtomicU64,
    newest: Mutex<Arc<Plan>>,
    adopted: Mutex<BTreeMap<usize, u64>>,
}

impl Plans {
    /// With the plan to begin with.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        Self { number: AtomicU64::new(1), newest: Mutex::new(plan), adopted: Mutex::default() }
    }

    /// Another plan for all threads; one that [`Plan::may_become`] allows.
    pub fn change(&self, plan: Arc<Plan>) {
        *lock(&self.newest) = plan;
        self.number.fetch_add(1, Ordering::Release);
    }

    /// The newest plan.
    #[must_use]
    pub fn newest(&self) -> Arc<Plan> {
        Arc::clone(&lock(&self.newest))
    }

    /// Whether [`Plans::newer`] would have one.
    #[must_use]
    pub fn is_newer(&self, seen: u64) -> bool {
        self.number.load(Ordering::Acquire) != seen
    }

    /// The newest plan, if there was another one when this was asked with `seen`, which begins with 0.
    #[must_use]
    pub fn newer(&self, seen: &mut u64) -> Option<Arc<Plan>> {
        let number = self.number.load(Ordering::Acquire);
        (std::mem::replace(seen, number) != number).then(|| self.newest())
    }

    /// Thread `number` works by this revision.
    pub fn adopted(&self, number: usize, revision: u64) {
        lock(&self.adopted).insert(number, revision);
    }

    /// Thread `number` has ended.
    pub fn left(&self, number: usize) {
        lock(&self.adopted).remove(&number);
    }

    /// The oldest revision that a thread works by.
    #[must_use]
    pub fn oldest_adopted(&self) -> Option<u64> {
        lock(&self.adopted).values().min().copied()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
