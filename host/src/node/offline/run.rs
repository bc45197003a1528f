//! One version of a chain over recorded batches, with a copy of a task's state.
//!
//! The way of a batch is the worker's own ([`chain`], and [`careful`] once a call has failed), and so is what becomes of a
//! failure; only the sinks and the commit are others. Each batch is a commit of its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::future::{BoxFuture, ready};
use thiserror::Error;

use crate::checkpoint::head::Manifest;
use crate::comparison::outcome::{self, Outcomes, REJECTED, Refusal};
use crate::engine::{Grants, OpenError, Remedy};
use crate::record::{Batch, Emission, Reject};
use crate::state::{StoreName, TaskState};
use crate::worker::careful::{self, Careful, CarefulError, Trouble};
use crate::worker::chain::{self, ChainError, Destination, Unsent};
use crate::worker::compatible;
use crate::worker::failure::Failure;
use crate::worker::migration;
use crate::worker::plan::Plan;
use crate::worker::runtime::Runtime;
use crate::worker::task::{self, Task};

/// Why a version cannot be run over recorded records.
#[derive(Debug, Error)]
pub enum NotRun {
    /// A plugin wants something of the real world.
    #[error(
        "transform `{transform}` runs plugin {plugin}, which wants {wants}: what it does depends on the real world, and cannot be repeated on recorded records"
    )]
    Grants {
        /// Which transform.
        transform: String,
        /// Name and version of its plugin.
        plugin: String,
        /// The grants, separated by commas.
        wants: String,
    },
    /// It cannot go on from the state that there is.
    #[error("{0}")]
    State(Box<Failure>),
    /// Its state is of another schema, and was not converted when the time was over.
    #[error("the state of task {task} was not converted by then")]
    OutOfTime {
        /// Of which task.
        task: u32,
    },
    /// A plugin does not start.
    #[error("transform `{transform}` does not start: {error}")]
    Open {
        /// Which transform.
        transform: String,
        /// Why.
        error: OpenError,
    },
}

/// Why a run did not get to its end; where and how, in the worker's words.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{reason}")]
pub struct Stopped {
    /// In words.
    pub reason: String,
}

/// What a transform took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    /// Records that it was given.
    pub records: usize,
    /// Time in its calls.
    pub time: Duration,
}

/// A version, with the state of a task as it has become.
pub struct Run {
    runtime: Still,
    task: Task,
    /// A call has failed.
    careful: Option<Careful>,
    spent: Vec<Spent>,
    until: Option<Instant>,
}

/// The plan as a run takes it: nothing of the real world is granted, and plugins only say what is wrong.
///
/// # Errors
/// A plugin wants more.
pub fn without_world(plan: &Plan) -> Result<Arc<Plan>, NotRun> {
    let mut plan = plan.clone();
    for transform in &mut plan.transforms {
        let manifest = transform.plugin.manifest();
        if !manifest.wants.is_empty() {
            return Err(NotRun::Grants {
                transform: transform.name.clone(),
                plugin: format!("{}@{}", manifest.name, manifest.version),
                wants: manifest.wants.join(", "),
            });
        }
        transform.grants = Grants::default();
        transform.log_level = tracing::Level::ERROR;
    }
    Ok(Arc::new(plan))
}

impl Run {
    /// A version that goes on from `state`, whose stores are taken by their names, and converted where `manifest` says that they
    /// are of another schema, if need be by `former`, which has made them. `plan` is [`without_world`], `now_ms` the time
    /// that its plugins see while they open, in milliseconds since 1970. What is looked for, or converted, when `until` is over is
    /// given up.
    ///
    /// # Errors
    /// A plugin does not start, or does not convert state of another schema, or not in time.
    pub fn new(
        plan: &Arc<Plan>,
        partition: u32,
        (state, manifest, former): (&TaskState, Option<&Manifest>, Option<&Arc<Plan>>),
        now_ms: i64,
        until: Option<Instant>,
    ) -> Result<Self, NotRun> {
        let open = task::instantiate(plan, partition, now_ms);
        let instances =
            open.map_err(|(at, error)| NotRun::Open { transform: plan.transforms[at].name.clone(), error })?;
        let (mut state, offsets) = (copy(plan, state), vec![0; plan.sources.len()]);
        if let Some(manifest) = manifest {
            let formers: Vec<_> = former.into_iter().cloned().collect();
            convert((plan, &formers), partition, manifest, &mut state, now_ms, until)?;
        }
        Ok(Self {
            runtime: Still(AtomicI64::new(now_ms)),
            task: Task::new(partition, Arc::clone(plan), instances, state, None, offsets),
            careful: None,
            spent: vec![Spent::default(); plan.transforms.len()],
            until,
        })
    }

    /// Processes a batch and commits.
    ///
    /// # Errors
    /// The pipeline would have stopped, or waited, in this batch; nothing is known of its records, and the run is at its end.
    pub fn process(&mut self, batch: &Batch) -> Result<Outcomes, Stopped> {
        self.see_the_time(batch);
        if self.careful.is_none() {
            let plan = Arc::clone(&self.task.plan);
            let mut collector = Collector::new(&plan, batch, &mut self.spent);
            match at_once(&mut self.task, self.runtime.now_ms(), batch, &mut collector) {
                Ok(()) => {
                    let outcomes = collector.outcomes;
                    self.commit();
                    return Ok(outcomes);
                }
                Err(failed) => self.careful = Some(self.go_carefully(failed)?),
            }
        }
        self.carefully(0, batch)
    }

    /// Processes records as the transform of index `first` is to see them, by themselves, and commits.
    ///
    /// # Errors
    /// As [`Run::process`].
    pub fn process_from(&mut self, first: usize, batch: &Batch) -> Result<Outcomes, Stopped> {
        self.see_the_time(batch);
        // What was known of other records says nothing of these.
        self.careful = Some(Careful::new(self.runtime.now()));
        self.carefully(first, batch)
    }

    /// The state as it has become.
    #[must_use]
    pub fn state(&self) -> &TaskState {
        &self.task.state
    }

    /// Names of the stores that the version reads.
    pub fn stores(&self) -> impl Iterator<Item = StoreName> {
        self.task.plan.stores().flatten()
    }

    /// What a transform took, by its index.
    #[must_use]
    pub fn spent(&self, transform: usize) -> Spent {
        self.spent.get(transform).copied().unwrap_or_default()
    }

    fn see_the_time(&self, batch: &Batch) {
        let latest = batch.timestamps.iter().copied().max().unwrap_or(0);
        self.runtime.0.fetch_max(latest, Ordering::Relaxed);
    }

    fn commit(&mut self) {
        settle(&mut self.task.state);
        self.task.seal();
        self.task.committed();
    }

    fn go_carefully(&mut self, failed: Failed) -> Result<Careful, Stopped> {
        let mut careful = Careful::new(self.runtime.now());
        match failed {
            Failed::Call { transform, batch } => careful.suspect(transform, &batch),
            Failed::Flush => {}
            Failed::Stopped(stopped) => return Err(stopped),
        }
        self.go_back()?;
        Ok(careful)
    }

    fn go_back(&mut self) -> Result<(), Stopped> {
        let plan = Arc::clone(&self.task.plan);
        let opened = task::instantiate(&plan, self.task.partition, self.runtime.now_ms());
        let instances = opened.map_err(|(at, error)| {
            Stopped::of(&Failure::Open { transform: plan.transforms[at].name.clone(), error })
        })?;
        self.task.roll_back(instances);
        Ok(())
    }

    /// As a worker does after a failure, until it is known which records fail.
    fn carefully(&mut self, first: usize, batch: &Batch) -> Result<Outcomes, Stopped> {
        let plan = Arc::clone(&self.task.plan);
        loop {
            let mut collector = Collector::new(&plan, batch, &mut self.spent);
            let careful = self.careful.get_or_insert_with(|| Careful::new(Instant::now()));
            let mut run = careful::Run::new(&plan, &self.runtime, careful, &mut self.task);
            let trouble = match run.through(first, &mut batch.clone(), &mut collector) {
                Ok(()) => {
                    let outcomes = collector.outcomes;
                    self.commit();
                    return Ok(outcomes);
                }
                Err(CarefulError::Back(trouble)) => trouble,
                Err(CarefulError::Failed(failure)) => return Err(Stopped::of(&failure)),
                Err(CarefulError::Stray { reason }) => return Err(Stopped { reason }),
                Err(CarefulError::Chain(error)) => return Err(Failed::of(&plan, error).stopped(&plan)),
            };
            if self.until.is_some_and(|until| Instant::now() >= until) {
                let (span, reason) = (task::span(&plan, batch), trouble.one_line());
                let reason = format!(
                    "it fails in the batch of {span}, and which records it fails on was not found in the time given: {reason}"
                );
                return Err(Stopped { reason });
            }
            self.go_back()?;
        }
    }
}

/// Converts state that `plan` would misread.
fn convert(
    (plan, formers): (&Arc<Plan>, &[Arc<Plan>]),
    partition: u32,
    manifest: &Manifest,
    state: &mut TaskState,
    now_ms: i64,
    until: Option<Instant>,
) -> Result<(), NotRun> {
    let failed = |failure| NotRun::State(Box::new(failure));
    let task = plan.task(partition);
    let conversions = compatible::conversions((plan, formers), &task, manifest).map_err(failed)?;
    if conversions.is_empty() {
        return Ok(());
    }
    let mut goes_on = || until.is_none_or(|until| Instant::now() < until);
    // A call of its own may take longer than there is time for all.
    let in_time = |plan: &Plan| until.map_or_else(|| plan.clone(), |until| with_calls_until(plan, until));
    let formers: Vec<Arc<Plan>> = formers.iter().map(|former| Arc::new(in_time(former))).collect();
    let plans = (&in_time(plan), &formers[..]);
    let converted = migration::convert_while(plans, &task, conversions, state, now_ms, &mut goes_on);
    match converted {
        Ok(true) => {
            settle(state);
            Ok(())
        }
        Ok(false) => Err(NotRun::OutOfTime { task: partition }),
        // What it failed on may be that.
        Err(_) if !goes_on() => Err(NotRun::OutOfTime { task: partition }),
        Err(failure) => Err(failed(failure)),
    }
}

/// The plan with calls that end at `until` at the latest.
fn with_calls_until(plan: &Plan, until: Instant) -> Plan {
    let mut plan = plan.clone();
    let left = until.saturating_duration_since(Instant::now());
    for transform in &mut plan.transforms {
        transform.limits.time_per_call = transform.limits.time_per_call.min(left);
    }
    plan
}

impl Stopped {
    fn of(failure: &Failure) -> Self {
        Self { reason: failure.to_string() }
    }
}

/// Why a batch did not get through at once.
enum Failed {
    /// Some record of what a transform had is to blame.
    Call { transform: usize, batch: Box<Batch> },
    /// What was held back could not be put.
    Flush,
    /// No record is.
    Stopped(Stopped),
}

impl Failed {
    fn of(plan: &Plan, error: ChainError<Infallible>) -> Self {
        match error {
            ChainError::Call { transform, batch, error } if error.remedy() == Remedy::Halve => {
                Self::Call { transform, batch }
            }
            ChainError::Call { transform, batch, error } => {
                let (name, span) = (plan.transforms[transform].name.clone(), task::span(plan, &batch));
                Self::Stopped(Stopped::of(&Failure::Call { transform: name, span, error }))
            }
            ChainError::Refused { transform, batch, .. } => Self::Call { transform, batch },
            ChainError::Destination(never) => match never {},
        }
    }

    /// Where care was taken already.
    fn stopped(self, plan: &Plan) -> Stopped {
        match self {
            Self::Stopped(stopped) => stopped,
            Self::Call { transform, batch } => {
                let (name, span) = (&plan.transforms[transform].name, task::span(plan, &batch));
                Stopped { reason: format!("transform `{name}` fails on the batch of {span}") }
            }
            Self::Flush => Stopped { reason: "a plugin fails to flush its state".to_owned() },
        }
    }
}

fn at_once(task: &mut Task, now_ms: i64, batch: &Batch, collector: &mut Collector<'_>) -> Result<(), Failed> {
    let plan = Arc::clone(&task.plan);
    let Task { instances, state, .. } = &mut *task;
    let passed = chain::run(&plan, instances, state, None, &mut batch.clone(), now_ms, collector);
    passed.map_err(|error| Failed::of(&plan, error))?;
    task.flush(now_ms).map_err(|failure| match &failure {
        Failure::Flush { error, .. } if error.remedy() == Remedy::Halve => Failed::Flush,
        failure => Failed::Stopped(Stopped::of(failure)),
    })
}

/// As if it was committed.
fn settle(state: &mut TaskState) {
    for store in state.stores_mut() {
        store.seal();
        store.mark_durable();
    }
}

/// The stores of `plan` with the entries that `state` has under their names.
fn copy(plan: &Plan, state: &TaskState) -> TaskState {
    let mut copy = plan.empty_state();
    let names = state.names().to_vec();
    for (name, from) in names.iter().zip(state.stores()) {
        let number = copy.number(name);
        let store = copy.store_mut(number);
        from.iter().for_each(|(key, value)| store.put(key, Some(value)));
    }
    settle(&mut copy);
    copy
}

/// The sinks of a run: what comes out is noted, by source record.
struct Collector<'a> {
    plan: &'a Plan,
    outcomes: Outcomes,
    spent: &'a mut [Spent],
}

impl<'a> Collector<'a> {
    fn new(plan: &'a Plan, batch: &Batch, spent: &'a mut [Spent]) -> Self {
        Self { plan, outcomes: outcome::blank(batch), spent }
    }

    fn refuse(&mut self, transform: usize, batch: &Batch, index: u32, kind: &str, reason: &str) {
        let Some(origin) = batch.origin(index) else { return };
        let transform = self.plan.transforms[transform].name.clone();
        let refusal = Refusal { transform, kind: kind.to_owned(), reason: reason.to_owned() };
        self.outcomes.entry(origin.into()).or_default().refusals.push(refusal);
    }
}

impl Destination for Collector<'_> {
    type Error = Infallible;

    fn send(&mut self, sink: usize, batch: &Batch, emission: &Emission) -> Result<(), Unsent<Infallible>> {
        outcome::note_sent(&mut self.outcomes, sink, batch, emission);
        Ok(())
    }

    fn reject(&mut self, transform: usize, batch: &Batch, rejects: &[Reject]) -> Result<(), Infallible> {
        // One that is rejected twice counts once.
        let mut seen = std::collections::BTreeSet::new();
        for Reject { index, reason } in rejects.iter().filter(|reject| seen.insert(reject.index)) {
            self.refuse(transform, batch, *index, REJECTED, reason);
        }
        Ok(())
    }

    fn failed(&mut self, transform: usize, batch: &Batch, trouble: &Trouble) -> Result<(), Infallible> {
        self.refuse(transform, batch, 0, trouble.kind, &trouble.reason);
        Ok(())
    }

    fn acknowledged(&mut self) -> Result<Option<String>, Infallible> {
        Ok(None)
    }

    fn processed(&mut self, transform: usize, records: usize, time: Duration) {
        if let Some(spent) = self.spent.get_mut(transform) {
            spent.records += records;
            spent.time += time;
        }
    }

    fn call_failed(&mut self, _: usize) {}
}

/// What a run runs on: the time of the records, and nothing beside it.
struct Still(AtomicI64);

impl Runtime for Still {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn nonce(&self) -> u64 {
        0
    }

    fn sleep(&self, _: Duration) {}

    fn pause(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) {
        block_on(work);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn wait(&self, work: Pin<&mut (dyn Future<Output = ()> + Send)>, _: Duration) {
        block_on(work);
    }
}
