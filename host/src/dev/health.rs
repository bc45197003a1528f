//! How the pipeline that is developed is, by what its record wants and its node says. Pure.

use crate::cluster::pipelines::PipelineRecord;
use crate::cluster::presence::{Activity, Presence};

/// How it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Health {
    /// The node has not said yet how the recorded revision is.
    Coming,
    /// All its tasks take records.
    Runs,
    /// An earlier revision runs, because the recorded one cannot be used: why.
    Behind(String),
    /// It has failed, why, and is tried again.
    Retries(String),
    /// It has failed, why, and stays stopped.
    Failed(String),
}

impl Health {
    /// By the record, and by what the node says of it, if anything.
    pub(super) fn of(record: &PipelineRecord, presence: Option<&Presence>) -> Self {
        let Some(presence) = presence.filter(|presence| presence.incarnation == record.incarnation) else {
            return Self::Coming;
        };
        let is_current = presence.revision == record.revision;
        let running = presence.running >= record.specification.partitions as usize;
        match (presence.activity, presence.problem.clone()) {
            (Activity::Failed, problem) if is_current => Self::Failed(problem.unwrap_or_default()),
            (Activity::Retrying, problem) if is_current => Self::Retries(problem.unwrap_or_default()),
            (Activity::Running, Some(problem)) if !is_current => Self::Behind(problem),
            (Activity::Running, _) if is_current && running => Self::Runs,
            _ => Self::Coming,
        }
    }

    /// Whether nothing runs.
    pub(super) fn stands(&self) -> bool {
        matches!(self, Self::Retries(_) | Self::Failed(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::pipelines::{Desired, Specification};

    fn health(activity: Activity, revision: u64, running: usize, problem: Option<&str>) -> Health {
        let specification = Specification { partitions: 2, ..Specification::default() };
        let record = PipelineRecord { revision: 3, ..PipelineRecord::first(specification, Desired::Running) };
        let problem = problem.map(str::to_owned);
        let presence = Presence { activity, revision, incarnation: 1, running, problem, ..Presence::starting(false) };
        Health::of(&record, Some(&presence))
    }

    #[test]
    fn it_runs_when_all_tasks_of_the_recorded_revision_do() {
        assert_eq!(health(Activity::Starting, 3, 0, None), Health::Coming);
        assert_eq!(health(Activity::Running, 3, 1, None), Health::Coming);
        assert_eq!(health(Activity::Running, 2, 2, None), Health::Coming);
        assert_eq!(health(Activity::Running, 3, 2, None), Health::Runs);
    }

    #[test]
    fn what_an_earlier_revision_failed_of_says_nothing_of_this_one() {
        assert_eq!(health(Activity::Failed, 2, 0, Some("it traps")), Health::Coming);
        assert_eq!(health(Activity::Failed, 3, 0, Some("it traps")), Health::Failed("it traps".to_owned()));
        let retries = health(Activity::Retrying, 3, 0, Some("it traps"));
        assert!(retries == Health::Retries("it traps".to_owned()) && retries.stands());
    }

    #[test]
    fn a_revision_that_cannot_be_used_leaves_the_one_before_at_work() {
        let behind = health(Activity::Running, 2, 2, Some("revision 3 cannot be used"));
        assert!(behind == Health::Behind("revision 3 cannot be used".to_owned()) && !behind.stands());
    }
}
