//! The plan that the threads of a pipeline work by. It may change while they run: each takes the newest one over at the end of
//! a commit. Beside it there may be the candidate of a rollout.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::candidate::Candidate;
use super::plan::Plan;

/// Shared by the threads of a pipeline and whoever changes it.
pub struct Plans {
    newest: Watched<Arc<Plan>>,
    candidate: Watched<Option<Arc<Candidate>>>,
    adopted: Mutex<BTreeMap<usize, u64>>,
}

impl Plans {
    /// With the plan to begin with.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        Self { newest: Watched::new(plan), candidate: Watched::new(None), adopted: Mutex::default() }
    }

    /// Another plan for all threads; one that [`Plan::may_become`] allows.
    pub fn change(&self, plan: Arc<Plan>) {
        self.newest.set(plan);
    }

    /// Another candidate, or none: tasks that run it go back to the plan, which may have become the candidate's before.
    pub fn try_out(&self, candidate: Option<Arc<Candidate>>) {
        let is_same = match (&self.candidate.get(), &candidate) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !is_same {
            self.candidate.set(candidate);
        }
    }

    /// The newest plan.
    #[must_use]
    pub fn newest(&self) -> Arc<Plan> {
        self.newest.get()
    }

    /// Whether [`Plans::newer`] would have one.
    #[must_use]
    pub fn is_newer(&self, seen: u64) -> bool {
        self.newest.is_newer(seen)
    }

    /// The newest plan, if there was another one when this was asked with `seen`, which begins with 0.
    #[must_use]
    pub fn newer(&self, seen: &mut u64) -> Option<Arc<Plan>> {
        self.newest.newer(seen)
    }

    /// The candidate, if it is another one than when this was asked with `seen`, which begins with 0.
    #[must_use]
    pub fn newer_candidate(&self, seen: &mut u64) -> Option<Option<Arc<Candidate>>> {
        self.candidate.newer(seen)
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

/// A value, and whether it is another one: looked at in every turn of every thread.
struct Watched<T> {
    number: AtomicU64,
    value: Mutex<T>,
}

impl<T: Clone> Watched<T> {
    fn new(value: T) -> Self {
        Self { number: AtomicU64::new(1), value: Mutex::new(value) }
    }

    fn set(&self, value: T) {
        *lock(&self.value) = value;
        self.number.fetch_add(1, Ordering::Release);
    }

    fn get(&self) -> T {
        lock(&self.value).clone()
    }

    fn is_newer(&self, seen: u64) -> bool {
        self.number.load(Ordering::Acquire) != seen
    }

    fn newer(&self, seen: &mut u64) -> Option<T> {
        let number = self.number.load(Ordering::Acquire);
        (std::mem::replace(seen, number) != number).then(|| self.get())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
