//! What a worker thread does next. Pure: from observed facts to one step; no clock, no I/O.

use std::time::{Duration, Instant};

/// The longest a thread waits for a first record: group events are looked at between two waits.
pub const FETCH_WAIT_MAX: Duration = Duration::from_millis(20);

/// How long one step of a commit may hold up a thread that must not process records meanwhile, before it looks at its group again.
pub const COMMIT_WAIT: Duration = Duration::from_millis(500);

/// A commit that comes before the interval is over waits so long, and as long as the last one took: the metadata store and the
/// brokers have others to serve.
const EARLY_MIN: Duration = Duration::from_millis(10);

/// What the thread sees.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// Now.
    pub now: Instant,
    /// When the last commit ended.
    pub last_commit: Instant,
    /// The commit interval of the pipeline.
    pub commit_interval: Duration,
    /// Whether so many bytes were taken since the last commit that the interval is not waited for.
    pub bytes_due: bool,
    /// How long the byte budget asks commits to wait beyond the interval.
    pub budget_delay: Duration,
    /// How long a commit may wait for the budget. What the budget asks beyond that is waited before records are taken.
    pub stretch_max: Duration,
    /// Under exactly-once, how long the last commit took: readers see nothing before a commit, so that one which costs little
    /// need not wait for the interval. `None` at-least-once.
    pub last_took: Option<Duration>,
    /// Whether the last look at the source took everything that was there.
    pub caught_up: bool,
    /// Whether anything was done since the last commit, or since the one under way began.
    pub dirty: bool,
    /// Whether a commit is under way that could not be ended yet.
    pub committing: bool,
    /// Whether records may be processed during a commit.
    pub overlapping: bool,
    /// Whether any task can take records.
    pub running: bool,
    /// Whether there is another plan to go over to, when everything is committed.
    pub changing: bool,
    /// Whether tasks are to go over with the next commit, which does not wait for the interval then.
    pub switching: bool,
    /// Whether the thread is to stop after a last commit.
    pub draining: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Begin a commit, or go on with the one under way.
    Commit {
        /// At most.
        wait: Duration,
    },
    /// Look at the commit under way, then take and process what there is.
    Overlap,
    /// Take records, waiting at most this long for the first, and process them.
    Fetch {
        /// At most.
        wait: Duration,
    },
    /// Nothing can be done: look at the group again after this long.
    Idle {
        /// How long.
        wait: Duration,
    },
    /// Everything is durable: go over to the newest plan.
    Change,
    /// Everything is durable and the thread is to stop.
    Finish,
}

/// Decides.
#[must_use]
pub fn next(observed: &Observed) -> Step {
    // What the budget asks beyond the stretch is waited before records are taken, also during a commit.
    let within_budget = observed.budget_delay <= observed.stretch_max;
    let comes_to_rest = observed.draining || observed.changing;
    // A thread that has caught up only waits for the commit: it is through the sooner, and so is the next one.
    let has_work = observed.running && !observed.caught_up;
    let overlapping = observed.overlapping && has_work && within_budget && !comes_to_rest;
    if observed.committing && overlapping {
        return Step::Overlap;
    }
    let commit = Step::Commit { wait: if overlapping { Duration::ZERO } else { COMMIT_WAIT } };
    if observed.committing {
        return commit;
    }
    if observed.draining {
        return if observed.dirty { commit } else { Step::Finish };
    }
    if observed.changing {
        return if observed.dirty { commit } else { Step::Change };
    }
    if observed.switching && !observed.dirty {
        return Step::Change;
    }
    if !observed.dirty && !within_budget {
        return Step::Idle { wait: FETCH_WAIT_MAX };
    }
    let due = observed.last_commit + pause(observed);
    if observed.dirty && observed.now >= due {
        return commit;
    }
    let wait = if observed.dirty { FETCH_WAIT_MAX.min(due - observed.now) } else { FETCH_WAIT_MAX };
    if observed.running { Step::Fetch { wait } } else { Step::Idle { wait } }
}

/// How long after the last commit the next is due.
fn pause(observed: &Observed) -> Duration {
    let interval = if observed.bytes_due { Duration::ZERO } else { observed.commit_interval };
    let interval = interval + observed.budget_delay.min(observed.stretch_max);
    match observed.last_took {
        // Nothing waits to be processed, so that more commits cost no throughput; or it is for once.
        Some(took) if (observed.caught_up || observed.switching) && observed.budget_delay.is_zero() => {
            interval.min(EARLY_MIN.max(took))
        }
        _ => interval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Step = Step::Commit { wait: COMMIT_WAIT };

    fn observed() -> Observed {
        let now = Instant::now();
        Observed {
            now,
            last_commit: now,
            commit_interval: Duration::from_secs(1),
            bytes_due: false,
            budget_delay: Duration::ZERO,
            stretch_max: Duration::MAX,
            last_took: None,
            caught_up: false,
            dirty: true,
            committing: false,
            overlapping: false,
            running: true,
            changing: false,
            switching: false,
            draining: false,
        }
    }

    #[test]
    fn records_are_taken_until_the_commit_is_due() {
        let mut seen = observed();
        assert_eq!(next(&seen), Step::Fetch { wait: FETCH_WAIT_MAX });
        seen.now += Duration::from_millis(995);
        assert_eq!(next(&seen), Step::Fetch { wait: Duration::from_millis(5) });
        seen.now += Duration::from_millis(5);
        assert_eq!(next(&seen), COMMIT);
    }

    #[test]
    fn nothing_done_means_nothing_to_commit() {
        let seen = observed();
        let later = seen.now + Duration::from_secs(100);
        assert_eq!(next(&Observed { dirty: false, now: later, ..seen }), Step::Fetch { wait: FETCH_WAIT_MAX });
    }

    #[test]
    fn many_bytes_do_not_wait_for_the_interval_but_for_the_budget() {
        let seen = Observed { bytes_due: true, ..observed() };
        assert_eq!(next(&seen), COMMIT);
        let over_budget = Observed { budget_delay: Duration::from_secs(1), ..seen };
        assert!(matches!(next(&over_budget), Step::Fetch { .. }));
        assert_eq!(next(&Observed { now: seen.now + Duration::from_secs(1), ..over_budget }), COMMIT);
    }

    #[test]
    fn the_budget_delays_a_commit() {
        let mut seen = Observed { budget_delay: Duration::from_secs(1), ..observed() };
        seen.now += Duration::from_millis(1_500);
        assert!(matches!(next(&seen), Step::Fetch { .. }));
        seen.now += Duration::from_millis(500);
        assert_eq!(next(&seen), COMMIT);
    }

    #[test]
    fn what_the_budget_asks_beyond_the_stretch_is_waited_before_records_are_taken() {
        let stretch_max = Duration::from_secs(5);
        let mut seen = Observed { budget_delay: Duration::from_secs(60), stretch_max, ..observed() };
        seen.now += Duration::from_secs(5);
        assert!(matches!(next(&seen), Step::Fetch { .. }));
        seen.now += Duration::from_secs(1);
        assert_eq!(next(&seen), COMMIT);
        assert!(matches!(next(&Observed { dirty: false, ..seen }), Step::Idle { .. }));
    }

    #[test]
    fn a_commit_that_costs_little_comes_sooner_when_nothing_else_waits() {
        let took = Duration::from_millis(30);
        let mut seen = Observed { last_took: Some(took), caught_up: true, ..observed() };
        seen.now += took;
        assert_eq!(next(&seen), COMMIT);
        assert!(matches!(next(&Observed { caught_up: false, ..seen }), Step::Fetch { .. }), "there is a backlog");
        let over_budget = Observed { budget_delay: Duration::from_millis(1), ..seen };
        assert!(matches!(next(&over_budget), Step::Fetch { .. }), "the store is asked for too much already");
        let costly =
            Observed { last_took: Some(Duration::from_secs(20)), now: seen.last_commit + seen.commit_interval, ..seen };
        assert_eq!(next(&costly), COMMIT, "the interval is the longest that a record waits");
    }

    #[test]
    fn a_commit_under_way_comes_before_everything() {
        assert_eq!(next(&Observed { committing: true, draining: true, dirty: false, ..observed() }), COMMIT);
    }

    #[test]
    fn records_are_processed_during_a_commit_unless_the_thread_is_to_come_to_rest() {
        let seen = Observed { committing: true, overlapping: true, ..observed() };
        assert_eq!(next(&seen), Step::Overlap);
        assert_eq!(next(&Observed { caught_up: true, ..seen }), COMMIT);
        assert_eq!(next(&Observed { draining: true, ..seen }), COMMIT);
        assert_eq!(next(&Observed { changing: true, ..seen }), COMMIT);
        assert_eq!(next(&Observed { running: false, ..seen }), COMMIT);
        let in_debt = Observed { budget_delay: Duration::from_secs(6), stretch_max: Duration::from_secs(5), ..seen };
        assert_eq!(next(&in_debt), COMMIT, "or the debt would grow with every commit");
        let due = Observed { committing: false, now: seen.last_commit + seen.commit_interval, ..seen };
        assert_eq!(next(&due), Step::Commit { wait: Duration::ZERO }, "it is only begun");
    }

    #[test]
    fn draining_commits_once_and_finishes() {
        let seen = Observed { draining: true, ..observed() };
        assert_eq!(next(&seen), COMMIT);
        assert_eq!(next(&Observed { dirty: false, ..seen }), Step::Finish);
    }

    #[test]
    fn another_plan_is_gone_over_to_when_everything_is_committed() {
        let seen = Observed { changing: true, ..observed() };
        assert_eq!(next(&seen), COMMIT);
        assert_eq!(next(&Observed { dirty: false, ..seen }), Step::Change);
        assert_eq!(next(&Observed { dirty: false, draining: true, ..seen }), Step::Finish);
        assert_eq!(next(&Observed { committing: true, ..seen }), COMMIT);
    }

    #[test]
    fn tasks_go_over_by_a_commit_that_comes_soon_and_does_not_keep_records_waiting() {
        let last_took = Some(Duration::from_millis(30));
        let mut seen = Observed { switching: true, overlapping: true, last_took, ..observed() };
        assert!(matches!(next(&seen), Step::Fetch { .. }), "one right behind another waits for the brokers");
        assert_eq!(next(&Observed { committing: true, ..seen }), Step::Overlap, "by the next one");
        seen.now += Duration::from_millis(30);
        assert_eq!(next(&seen), Step::Commit { wait: Duration::ZERO });
        assert_eq!(next(&Observed { dirty: false, ..seen }), Step::Change);
        assert_eq!(next(&Observed { dirty: false, draining: true, ..seen }), Step::Finish);
    }

    #[test]
    fn without_a_running_task_no_record_is_taken() {
        assert!(matches!(next(&Observed { running: false, dirty: false, ..observed() }), Step::Idle { .. }));
    }
}
