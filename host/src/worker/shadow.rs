//! The candidate of a rollout in the shadow of the version that runs: it sees the same records of a task, what comes of them is compared,
//! and thrown away.
//!
//! It goes on from the state as it is in a commit, in a view of its own ([`Store::split`](crate::state::Store::split)): what it changes is
//! never durable, and what the running version changes it does not see. So both go on from the same state over the same records. It
//! cannot fail the task: what fails is the shadow. A call may take so many times as long as that of the running version, and that is
//! all it adds to it.
//!
//! Whatever disturbs the task ends its shadow, and another one begins at the next commit: that it goes back, looks for records that fail,
//! processes dead letters again, or comes up elsewhere. Records may be compared twice then, and what is between is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Level;

use super::candidate::Candidate;
use super::migration::Migration;
use crate::candidate::{Counted, Shadowed};
use crate::comparison::outcome::{self, Outcomes, REJECTED, Refusal};
use crate::comparison::{Comparison, Naming};
use crate::engine::{CallError, Instance};
use crate::record::{Batch, Output};
use crate::state::{Store, TaskState, TransformState};

/// A call of a shadow may take so many times as long as that of the version that runs.
const TIMES: u32 = 20;
/// But no less than this.
const CALL_MIN: Duration = Duration::from_millis(500);
/// Bytes that the view of a task may have beside its state.
const BYTES_MAX: u64 = 64 << 20;

/// Why a shadow has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// The candidate has failed, in words.
    Failed(String),
    /// Its view has become too large: it is not tried again.
    TooLarge,
}

/// The candidate in the shadow of one task.
pub struct Shadow {
    candidate: Arc<Candidate>,
    instance: Box<Instance>,
    /// Its stores, by number, in the order of its manifest; none before it has begun.
    stores: Option<Vec<usize>>,
    seen: Counted,
    comparison: Comparison,
    end: Option<End>,
}

impl Shadow {
    /// Begins with the next commit of its task.
    #[must_use]
    pub fn new(candidate: Arc<Candidate>, mut instance: Box<Instance>) -> Self {
        instance.set_log_level(Level::ERROR);
        let plan = &candidate.plan;
        let comparison = Comparison::new(Naming {
            sources: plan.sources.iter().map(|source| source.topic.clone()).collect(),
            sinks: plan.transforms[candidate.transform].outlets.iter().map(|outlet| outlet.name.clone()).collect(),
            ..Naming::default()
        });
        Self { candidate, instance, stores: None, seen: Counted::default(), comparison, end: None }
    }

    /// Index of the transform.
    #[must_use]
    pub fn transform(&self) -> usize {
        self.candidate.transform
    }

    /// Whether it sees records.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.stores.is_some()
    }

    /// What was counted since this was asked last.
    pub fn seen(&mut self) -> Counted {
        std::mem::take(&mut self.seen)
    }

    /// Why it sees no more, if it does not.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether it begins with the next commit: what it reads is there, but for what a switch would copy too.
    #[must_use]
    pub fn can_begin(&self, state: &TaskState, migration: Option<&Migration>) -> bool {
        let is_there = match migration {
            Some(Migration::Copying(copying)) => copying.is_ready(state),
            _ => self.candidate.routes.is_empty(),
        };
        is_there && !self.has_begun() && self.end.is_none()
    }

    /// The state is as it will be committed: begins, or has the candidate put into its view what it holds back.
    pub fn at_commit(&mut self, state: &mut TaskState, migration: Option<&mut Migration>, now_ms: i64) {
        if self.end.is_some() {
            return;
        }
        if self.has_begun() {
            let flushed = self.call(state, CALL_MIN, |instance, state| instance.flush(state, now_ms));
            return self.note(flushed);
        }
        if !self.can_begin(state, migration.as_deref()) {
            return;
        }
        if let Some(Migration::Copying(copying)) = migration
            && let Err(error) = copying.catch_up(state, now_ms)
        {
            self.end = Some(End::Failed(error.to_string()));
            return;
        }
        let names = self.candidate.plan.stores().nth(self.candidate.transform).unwrap_or_default();
        let stores: Vec<usize> = names.iter().map(|name| state.number(name)).collect();
        stores.iter().for_each(|number| state.store_mut(*number).split());
        self.stores = Some(stores);
    }

    /// Sees a batch of which the version that runs has made `output`, in this time.
    pub fn see(
        &mut self,
        batch: &mut Batch,
        (output, outlets): (&Output, &[String]),
        state: &mut TaskState,
        now_ms: i64,
        took: Duration,
    ) {
        if self.end.is_some() || !self.has_begun() {
            return;
        }
        let began = Instant::now();
        let limit = took.saturating_mul(TIMES).max(CALL_MIN);
        let called = self.call(state, limit, |instance, state| instance.process(batch, state, now_ms));
        let theirs = match called {
            Ok(theirs) => theirs,
            Err(error) => return self.note(Err(error)),
        };
        self.seen = self.seen.and(Counted {
            records: batch.len() as u64,
            errors: rejected(&theirs),
            busy_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
        if outlets == self.instance.outlets() && *output == theirs {
            let outputs = theirs.emissions.iter().map(|emission| emission.count as u64).sum();
            self.comparison.are_same(batch.len() as u64, outputs);
        } else {
            let first = self.outcomes(batch, output, outlets);
            let second = self.outcomes(batch, &theirs, self.instance.outlets());
            self.comparison.add(&first, &second);
        }
        // Other threads tell it too: without what takes time.
        let counts = std::mem::take(&mut self.comparison.counts);
        let examples = if counts.differences() > 0 { self.comparison.examples() } else { Vec::new() };
        self.candidate.compared(&Shadowed { counts, examples });
        self.instance.recycle(theirs);
        let beside: u64 = self.stores.iter().flatten().map(|number| state.store(*number).bytes_beside()).sum();
        if beside > BYTES_MAX {
            self.end = Some(End::TooLarge);
        }
    }

    fn note(&mut self, called: Result<(), CallError>) {
        if let Err(error) = called {
            self.end = Some(End::Failed(format!("in the shadow of the version before: {error}")));
        }
    }

    /// Lets the candidate work on its view.
    fn call<T>(
        &mut self,
        state: &mut TaskState,
        limit: Duration,
        work: impl FnOnce(&mut Instance, &mut TransformState) -> T,
    ) -> T {
        let numbers = self.stores.as_deref().unwrap_or_default();
        let turned = |number: &usize| {
            let mut store = std::mem::take(state.store_mut(*number));
            store.turn(true);
            store
        };
        let mut view = TransformState { stores: numbers.iter().map(turned).collect() };
        self.instance.limit_call(limit);
        let done = work(&mut self.instance, &mut view);
        for (number, mut store) in numbers.iter().zip(view.stores) {
            store.turn(false);
            *state.store_mut(*number) = store;
        }
        done
    }

    /// What came of each record, by the outlets of the candidate's plan.
    fn outcomes(&self, batch: &Batch, output: &Output, outlets: &[String]) -> Outcomes {
        let transform = &self.candidate.plan.transforms[self.candidate.transform];
        let mut outcomes = outcome::blank(batch);
        for emission in &output.emissions {
            let name = outlets.get(emission.outlet as usize);
            let bound = transform.outlets.iter().position(|outlet| Some(&outlet.name) == name);
            if let Some(outlet) =
                bound.filter(|at| transform.outlets[*at].next || !transform.outlets[*at].sinks.is_empty())
            {
                outcome::note_sent(&mut outcomes, outlet, batch, emission);
            }
        }
        for reject in &output.rejects {
            let Some(outcome) = batch.origin(reject.index).and_then(|origin| outcomes.get_mut(&origin.into())) else {
                continue;
            };
            if outcome.refusals.is_empty() {
                let (transform, kind, reason) = (transform.name.clone(), REJECTED.to_owned(), reject.reason.clone());
                outcome.refusals.push(Refusal { transform, kind, reason });
            }
        }
        outcomes
    }
}

/// Nobody sees beside the state of a task any more.
pub fn join(state: &mut TaskState) {
    state.stores_mut().for_each(Store::join);
}

fn rejected(output: &Output) -> u64 {
    let mut indices: Vec<u32> = output.rejects.iter().map(|reject| reject.index).collect();
    indices.sort_unstable();
    indices.dedup();
    indices.len() as u64
}
