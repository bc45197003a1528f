//! What is told of a candidate: of the version that tasks go over to in a rollout. Written by worker threads, read by whoever leads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::comparison::{self, Counts, Example};

/// How a task went over.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Switched {
    /// The first offset of each source topic that the candidate processed, or is to process.
    pub offsets: BTreeMap<String, i64>,
    /// How long it took to exchange the instances of the thread's tasks, between two commits, in microseconds. 0 for one that came
    /// up with it.
    pub pause_us: u64,
}

/// What is counted of a version in a task.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Counted {
    /// Records processed.
    pub records: u64,
    /// Of these, rejected: also those of which a later transform has rejected what came of them.
    pub errors: u64,
    /// Time in the plugin, in microseconds.
    pub busy_us: u64,
}

impl Counted {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            errors: self.errors + other.errors,
            busy_us: self.busy_us + other.busy_us,
        }
    }
}

/// What a task has of a candidate in the shadow of the version that it runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InShadow {
    /// It sees the records of the task.
    Sees,
    /// It has seen enough of them to have changed more of the state than can be kept beside it.
    GivenUp,
    /// It has failed there; why.
    Failed(String),
}

/// How what candidates do in the shadow compares with what the version that runs does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Shadowed {
    /// How many records and outputs, of each kind; the version that runs is the first.
    pub counts: Counts,
    /// A few records of which something else comes. The topic of a sink is the name of an outlet of the transform here.
    pub examples: Vec<Example>,
}

impl Shadowed {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.counts = self.counts.and(other.counts);
        comparison::join_examples(&mut self.examples, &other.examples);
        self
    }
}

/// How a task fares in a rollout.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TaskReport {
    /// How it went over; absent while it runs the version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched: Option<Switched>,
    /// Whether a commit says so, so that it comes up with the candidate again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub committed: bool,
    /// Whether all of its state that has to be converted first is, so that it can go over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// Why it does not run the candidate, though it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What it has of the candidate in the shadow, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<InShadow>,
    /// What the version before has done since the rollout began here.
    pub before: Counted,
    /// What the candidate has done; in the shadow, before the task has gone over.
    pub after: Counted,
}
