//! What a commit is doing, for whoever collects traces: a span, with one in it for each of its stages.
//!
//! Costs a comparison where nobody does.

use tracing::field::Empty;
use tracing::{Span, info_span};

/// A commit, from its beginning to its end.
pub struct CommitTrace {
    commit: Span,
    stage: &'static str,
    in_stage: Span,
}

impl CommitTrace {
    /// Begins now.
    #[must_use]
    pub fn new(pipeline: &str, revision: u64) -> Self {
        let commit = info_span!(
            target: "sluicegate", parent: None, "commit",
            pipeline, revision, bytes = Empty, outcome = Empty, otel.status_code = Empty, otel.status_description = Empty,
        );
        Self { commit, stage: "", in_stage: Span::none() }
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
        self.commit.record("bytes", bytes).record("outcome", "committed");
    }

    /// It ended, and counts nowhere, or nobody knows whether it does.
    pub fn failed(&mut self, outcome: &str, reason: &str) {
        self.in_stage = Span::none();
        self.commit
            .record("outcome", outcome)
            .record("otel.status_code", "ERROR")
            .record("otel.status_description", reason);
    }
}
