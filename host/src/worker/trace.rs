//! What a commit is doing, for whoever collects traces: a span, with one in it for each of its stages.
//!
//! Costs a comparison where nobody does.

use tracing::field::Empty;
use tracing::{Span, info_span};

/// A commit, from its beginning to its end; one that is dropped before has failed.
pub struct CommitTrace {
    commit: Span,
    has_ended: bool,
    stage: &'static str,
    in_stage: Span,
}

impl CommitTrace {
    /// Begins now.
    #[must_use]
    pub fn new(pipeline: &str, revision: u64) -> Self {
        let revision = number(revision);
        let commit = info_span!(
            target: "sluicegate", parent: None, "commit",
            pipeline, revision, bytes = Empty, outcome = Empty, otel.status_code = Empty, otel.status_description = Empty,
        );
        Self { commit, has_ended: false, stage: "", in_stage: Span::none() }
    }

    /// What it does from now on, until something else is said.
    pub fn stage(&mut self, stage: &'static str) {
        if self.stage != stage {
            self.stage = stage;
            self.in_stage = match self.commit.is_disabled() {
                true => Span::none(),
                false => info_span!(target: "sluicegate", parent: &self.commit, "stage", otel.name = stage),
            };
        }
    }

    /// It ended.
    pub fn committed(&mut self, bytes: u64) {
        self.in_stage = Span::none();
        self.has_ended = true;
        self.commit.record("bytes", number(bytes)).record("outcome", "committed");
    }

    /// It ended, and counts nowhere, or nobody knows whether it does.
    pub fn failed(&mut self, outcome: &str, reason: &str) {
        self.has_ended = true;
        self.in_stage = Span::none();
        self.commit
            .record("outcome", outcome)
            .record("otel.status_code", "ERROR")
            .record("otel.status_description", reason);
    }
}

impl Drop for CommitTrace {
    fn drop(&mut self) {
        if !self.has_ended {
            self.failed("failed", "it was given up, or the pipeline stopped");
        }
    }
}

/// Collectors know signed numbers, and take others for text.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
