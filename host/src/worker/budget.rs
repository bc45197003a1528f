//! How many bytes per second the commits of a node may write to the metadata store: a ZooKeeper ensemble is shared.
//!
//! A token bucket that may go into debt: a commit is never refused or cut, but the ones after it wait until the debt is paid.
//! Pure; the node's threads share one behind a lock.

use std::time::{Duration, Instant};

/// A budget of bytes per second.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes_per_second: f64,
    available: f64,
    at: Instant,
}

impl Budget {
    /// A full budget: one second's worth may be written at once.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        let bytes_per_second = bytes_per_second.max(1) as f64;
        Self { bytes_per_second, available: bytes_per_second, at: now }
    }

    /// A commit has written `bytes`.
    pub fn spend(&mut self, bytes: u64, now: Instant) {
        self.refill(now);
        self.available -= bytes as f64;
    }

    /// How long from `now` until the debt is paid; zero when there is none.
    #[must_use]
    pub fn debt(&self, now: Instant) -> Duration {
        let mut budget = self.clone();
        budget.refill(now);
        Duration::from_secs_f64((-budget.available).max(0.0) / budget.bytes_per_second)
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.available = (self.available + passed * self.bytes_per_second).min(self.bytes_per_second);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_second_allows_costs_no_delay() {
        let now = Instant::now();
        let mut budget = Budget::new(1_000, now);
        budget.spend(1_000, now);
        assert_eq!(budget.debt(now), Duration::ZERO);
    }

    #[test]
    fn more_is_paid_back_over_time() {
        let now = Instant::now();
        let mut budget = Budget::new(1_000, now);
        budget.spend(4_000, now);
        assert_eq!(budget.debt(now), Duration::from_secs(3));
        assert_eq!(budget.debt(now + Duration::from_secs(2)), Duration::from_secs(1));
        assert_eq!(budget.debt(now + Duration::from_secs(9)), Duration::ZERO);
    }
}
