//! How threads are told to stop, and how it is seen how far they are.
//!
//! Controls form a tree: a node, the pipelines that it runs, the threads of each. Who drains one drains what is below it; what is
//! counted below one counts for it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by whoever stops something and what is to be stopped.
#[derive(Debug, Default)]
pub struct Control {
    above: Option<Arc<Control>>,
    draining: AtomicBool,
    deadline: Mutex<Option<Instant>>,
    awaited: AtomicUsize,
    assigned: AtomicUsize,
    running: AtomicUsize,
    busy_ns: AtomicU64,
}

impl Control {
    /// One below `above`.
    #[must_use]
    pub fn below(above: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { above: Some(Arc::clone(above)), ..Self::default() })
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |control| control.above.as_deref())
    }

    /// Asks every thread below to commit and end within `deadline`. The first call counts.
    pub fn drain(&self, deadline: Duration) {
        let mut until = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        until.get_or_insert_with(|| Instant::now() + deadline);
        self.draining.store(true, Ordering::Release);
    }

    /// Whether threads are to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.chain().any(|control| control.draining.load(Ordering::Acquire))
    }

    /// How much of the drain's deadline is left; `None` while nobody has asked for it.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let deadline = |control: &Self| *control.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        let until = self.chain().filter_map(deadline).min();
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Whether the drain has taken too long.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.is_draining() && self.left() == Some(Duration::ZERO)
    }

    /// There is something to wait for before all that is below works: a pipeline to be loaded, a thread that has not heard from
    /// its group.
    pub fn awaits(&self) {
        for control in self.chain() {
            control.awaited.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was awaited has come, or will not come any more. Without anything that is awaited here, nothing happens.
    pub fn has_come(&self) {
        let decrement = |count: usize| count.checked_sub(1);
        if self.awaited.fetch_update(Ordering::Relaxed, Ordering::Relaxed, decrement).is_ok() {
            for control in self.chain().skip(1) {
                control.awaited.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// A thread has other numbers of assigned and running tasks than before.
    pub fn tasks(&self, before: (usize, usize), now: (usize, usize)) {
        for control in self.chain() {
            control.assigned.fetch_add(now.0.wrapping_sub(before.0), Ordering::Relaxed);
            control.running.fetch_add(now.1.wrapping_sub(before.1), Ordering::Relaxed);
        }
    }

    /// Assigned and running tasks.
    #[must_use]
    pub fn task_counts(&self) -> (usize, usize) {
        (self.assigned.load(Ordering::Relaxed), self.running.load(Ordering::Relaxed))
    }

    /// Whether something is still awaited.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    /// A thread was at work for so long.
    pub fn worked(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        for control in self.chain() {
            control.busy_ns.fetch_add(ns, Ordering::Relaxed);
        }
    }

    /// How long threads were at work, all together.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_ns.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_drains_one_drains_what_is_below_and_nothing_else() {
        let node = Arc::new(Control::default());
        let (first, second) = (Control::below(&node), Control::below(&node));
        let thread = Control::below(&first);
        first.drain(Duration::from_secs(60));
        assert!(thread.is_draining() && first.is_draining());
        assert!(!second.is_draining() && !node.is_draining());
        node.drain(Duration::ZERO);
        assert!(second.is_draining() && thread.is_overdue(), "the shortest deadline counts");
    }

    #[test]
    fn what_is_counted_below_counts_above() {
        let node = Arc::new(Control::default());
        let threads = [Control::below(&node), Control::below(&node)];
        threads[0].tasks((0, 0), (4, 1));
        threads[1].tasks((0, 0), (2, 2));
        threads[0].tasks((4, 1), (1, 1));
        assert_eq!((node.task_counts(), threads[0].task_counts()), ((3, 3), (1, 1)));
        threads[1].worked(Duration::from_millis(3));
        assert_eq!(node.busy(), Duration::from_millis(3));
    }

    #[test]
    fn it_waits_until_everything_has_come_once() {
        let node = Arc::new(Control::default());
        let threads = [Control::below(&node), Control::below(&node)];
        threads.iter().for_each(|thread| thread.awaits());
        threads[0].has_come();
        threads[0].has_come();
        assert!(node.is_waiting() && threads[1].is_waiting());
        threads[1].has_come();
        assert!(!node.is_waiting());
    }
}
