//! One pipeline on this node, from what is wanted of it to threads: started, changed, stopped, tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::crew::Crew;
use super::trial::Trial;
use super::{NodeError, Services};
use crate::cluster::pipelines::PipelineRecord;
use crate::cluster::presence::{Activity, Incident, Presence, Publisher};
use crate::meta::layout::Segment;
use crate::metrics::PipelineLabels;
use crate::worker::control::Control;
use crate::worker::plan::Plan;

/// How it is goes into the presence this often.
const TICK: Duration = Duration::from_millis(500);
/// The same during a rollout, when others wait for what it says.
const TRIAL_TICK: Duration = Duration::from_millis(100);
/// The load is measured over so long.
const BUSY_OVER: Duration = Duration::from_secs(10);
/// A pipeline that has run this long before it failed has not failed again.
const RECOVERED: Duration = Duration::from_secs(60);
/// Pauses before a pipeline that failed is tried again; after the last of them it stays as it is.
const RETRIES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// A revision that does not load, though nothing is wrong with it or a signature alone is missing, is loaded again after so long.
const LOAD_AGAIN: Duration = Duration::from_secs(5);
/// How often is looked whether the node drains.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// What a node is to do with a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) record: PipelineRecord,
    pub(super) threads: usize,
}

impl Wanted {
    /// Whether this is worth another try when `before` has failed.
    fn is_new(&self, before: &Self) -> bool {
        let of = |wanted: &Self| (wanted.record.revision, wanted.record.incarnation, wanted.record.attempt);
        of(self) != of(before)
    }
}

/// What happens when it fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum OnFailure {
    /// It ends with the error.
    End,
    /// It is tried again a few times, and then when something has changed.
    Retry,
}

/// A plan on its way; `None` when the node drains before it is there.
type Loading = BoxFuture<'static, Result<Option<Plan>, NodeError>>;

/// One pipeline on this node.
pub(super) struct Hosted {
    services: Arc<Services>,
    control: Arc<Control>,
    wanted: watch::Receiver<Option<Wanted>>,
    on_failure: OnFailure,
    pipeline: Segment,
    publisher: Option<Publisher>,
    failures: usize,
}

/// Resolves when `control` drains.
pub(super) async fn draining(control: &Control) {
    while !control.is_draining() {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

impl Hosted {
    /// Of `pipeline`, which is recorded; does what `wanted` says until its sender is gone, or `control` drains.
    pub(super) fn new(
        services: Arc<Services>,
        pipeline: &Segment,
        control: Arc<Control>,
        wanted: watch::Receiver<Option<Wanted>>,
        on_failure: OnFailure,
    ) -> Self {
        Self { services, control, wanted, on_failure, pipeline: pipeline.clone(), publisher: None, failures: 0 }
    }

    fn publish(&mut self, change: impl FnOnce(&mut Presence)) {
        let Self { services, pipeline, on_failure, publisher, .. } = self;
        let publisher = publisher.get_or_insert_with(|| {
            let first = Presence::starting(*on_failure == OnFailure::End);
            Publisher::new(Arc::clone(&services.store), pipeline, &services.node, first)
        });
        publisher.update(change);
    }

    fn note_failed(&self, failed: bool) {
        let labels = PipelineLabels { pipeline: self.pipeline.to_string() };
        self.services.metrics.pipeline_failed.get_or_create(&labels).set(i64::from(failed));
    }

    async fn withdraw(&mut self) {
        self.note_failed(false);
        if let Some(publisher) = self.publisher.take() {
            publisher.withdraw().await;
        }
    }

    /// Runs it, with `plan` to begin with if there is one.
    ///
    /// # Errors
    /// Why it failed, with [`OnFailure::End`].
    pub(super) async fn run(mut self, mut plan: Option<Plan>) -> Result<(), NodeError> {
        let result = loop {
            if self.control.is_draining() {
                break Ok(());
            }
            let Some(mut now) = self.wanted.borrow_and_update().clone() else {
                self.withdraw().await;
                tokio::select! {
                    changed = self.wanted.changed() => if changed.is_err() { break Ok(()) },
                    () = draining(&self.control) => {}
                }
                continue;
            };
            let begin = Instant::now();
            let control = Control::below(&self.control);
            control.awaits();
            let lived = self.live(&mut now, plan.take(), &control).await;
            control.has_come();
            match lived {
                Ok(()) => self.failures = 0,
                Err(error) if self.on_failure == OnFailure::End => break Err(error),
                Err(error) => {
                    if begin.elapsed() >= RECOVERED {
                        self.failures = 0;
                    }
                    self.failed(&now, &error).await;
                }
            }
        };
        self.withdraw().await;
        result
    }

    /// From loading to the end of all threads. `Ok` when they ended because something else is wanted. `now` becomes what was done
    /// last.
    async fn live(&mut self, now: &mut Wanted, plan: Option<Plan>, control: &Arc<Control>) -> Result<(), NodeError> {
        let begin = Instant::now();
        self.publish(|presence| {
            let by_itself = presence.by_itself;
            *presence = Presence {
                since: presence.since,
                activity: presence.activity,
                last_error: presence.last_error.take(),
                ..Presence::starting(by_itself)
            };
            presence.activity = Activity::Starting;
            presence.revision = now.record.revision;
            presence.incarnation = now.record.incarnation;
        });
        let plan = match plan {
            Some(plan) => Arc::new(plan),
            None => match self.load(now, control).await? {
                Some(plan) => Arc::new(plan),
                None => return Ok(()),
            },
        };
        // Tasks come up with the version that made their state, which may be the candidate.
        let mut trial = Trial::default();
        trial.follow(&self.services, &now.record, control);
        if trial.has_begun() {
            let mut changes = self.wanted.clone();
            tokio::select! {
                loaded = trial.loaded() => match loaded {
                    Err(error) if trial.is_one_way() => return Err(error),
                    loaded => drop(trial.take(loaded, &plan)),
                },
                // It comes up with the version before, and hears of the change below. Not where nothing but the candidate goes on.
                _ = changes.changed() => if trial.is_one_way() {
                    return Ok(());
                },
            }
        }
        let mut crew = Crew::start(&self.services, plan, trial.candidate(), now.threads, Arc::clone(control))?;
        self.note_failed(false);
        control.has_come();
        let plan = crew.plan();
        info!(
            pipeline = plan.pipeline,
            revision = plan.revision,
            threads = crew.threads(),
            partitions = plan.partitions,
            state = if plan.is_stateful() { "kept" } else { "none" },
            guarantee = %plan.guarantee,
            took = ?begin.elapsed(),
            "started"
        );
        let mut loading: Option<Loading> = None;
        let mut busy = Busy::new();
        loop {
            let tick = if trial.is_under_way() { TRIAL_TICK } else { TICK };
            tokio::select! {
                ended = crew.ended() => {
                    if ended.is_ok() {
                        info!(pipeline = plan.pipeline, "stopped; everything is committed");
                    }
                    return ended;
                }
                // What is wanted when the threads end is looked at then.
                changed = self.wanted.changed(), if !control.is_draining() => {
                    let wanted = self.wanted.borrow_and_update().clone();
                    match wanted.filter(|wanted| changed.is_ok() && wanted.record.incarnation == now.record.incarnation) {
                        None => {
                            loading = None;
                            crew.drain();
                        }
                        Some(wanted) => {
                            if trial.becomes_plan(&crew, &wanted.record) {
                                // What may still be on its way is older.
                                loading = None;
                                self.publish(|presence| presence.problem = None);
                            } else if wanted.record.revision != now.record.revision {
                                loading = Some(self.load_beside(&wanted.record, control, Duration::ZERO));
                            }
                            if wanted.threads != now.threads {
                                crew.resize(wanted.threads)?;
                            }
                            *now = wanted;
                            trial.follow(&self.services, &now.record, control);
                            crew.try_out(trial.candidate());
                            self.publish(|presence| presence.rollout = trial.report());
                        }
                    }
                }
                // Beside the plan that it is to differ from.
                loaded = trial.loaded(), if loading.is_none() => {
                    crew.try_out(trial.take(loaded, &crew.plan()));
                    self.publish(|presence| presence.rollout = trial.report());
                }
                Some(loaded) = OptionFuture::from(loading.as_mut()) => {
                    loading = None;
                    match loaded {
                        Ok(None) => {}
                        Ok(Some(next)) => {
                            self.publish(|presence| presence.problem = None);
                            let revision = next.revision;
                            if crew.plan().may_become(&next) {
                                info!(pipeline = plan.pipeline, revision, "changed; applied at the next commit");
                                crew.follow(Arc::new(next));
                            } else {
                                info!(pipeline = plan.pipeline, revision, "changed; the threads commit and begin anew");
                                crew.drain();
                            }
                        }
                        Err(error) => {
                            let revision = now.record.revision;
                            error!(pipeline = plan.pipeline, "revision {revision} cannot be used, the one before goes on: {error}");
                            let problem = format!("revision {revision} cannot be used: {error}");
                            self.publish(|presence| {
                                presence.last_error = Some(Incident::now(problem.clone()));
                                presence.problem = Some(problem);
                            });
                            if !error.is_bad_input() || error.awaits_signature() {
                                loading = Some(self.load_beside(&now.record, control, LOAD_AGAIN));
                            }
                        }
                    }
                }
                () = tokio::time::sleep(tick) => {
                    let (assigned, running) = control.task_counts();
                    let measured = busy.measure(control.busy(), crew.threads());
                    self.publish(|presence| {
                        presence.activity = if control.is_draining() { Activity::Stopping } else { Activity::Running };
                        presence.threads = crew.threads();
                        presence.revision = crew.revision().unwrap_or(presence.revision);
                        (presence.assigned, presence.running) = (assigned, running);
                        presence.busy = measured.unwrap_or(presence.busy);
                        presence.rollout = trial.report();
                    });
                }
            }
        }
    }

    /// Another revision, while the one before runs on.
    fn load_beside(&self, record: &PipelineRecord, control: &Arc<Control>, pause: Duration) -> Loading {
        let (services, record, control) = (Arc::clone(&self.services), record.clone(), Arc::clone(control));
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            services.plan(&record, &control).await
        })
    }

    /// `None` when something else is wanted before it is loaded.
    async fn load(&mut self, wanted: &Wanted, control: &Arc<Control>) -> Result<Option<Plan>, NodeError> {
        let mut changes = self.wanted.clone();
        let loaded = tokio::select! {
            loaded = self.services.plan(&wanted.record, control) => loaded,
            _ = changes.changed() => Ok(None),
        };
        if matches!(loaded, Ok(None)) {
            // What still waits for topics ends.
            control.drain(Duration::ZERO);
        }
        loaded
    }

    /// Waits for the next try.
    async fn failed(&mut self, before: &Wanted, error: &NodeError) {
        let pause = match error.awaits_signature() {
            true => Some(&LOAD_AGAIN),
            false => RETRIES.get(self.failures).filter(|_| !error.is_bad_input()),
        };
        self.failures += 1;
        let name = &self.services.node;
        match pause {
            Some(pause) => warn!(node = %name, "{error}\ntrying again in {pause:?}"),
            None => error!(
                "{error}\nit stays stopped here; change it with `sluicegate deploy`, or try again with `sluicegate resume`"
            ),
        }
        self.note_failed(true);
        self.publish(|presence| {
            presence.activity = if pause.is_some() { Activity::Retrying } else { Activity::Failed };
            (presence.threads, presence.assigned, presence.running, presence.busy) = (0, 0, 0, 0);
            presence.problem = Some(error.to_string());
            presence.rollout = None;
            presence.last_error = Some(Incident::now(error.to_string()));
        });
        let again = async {
            match pause {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            loop {
                if self.wanted.changed().await.is_err() {
                    return;
                }
                let is_new = self.wanted.borrow_and_update().as_ref().is_none_or(|wanted| wanted.is_new(before));
                if is_new {
                    return;
                }
            }
        };
        tokio::select! {
            () = again => {}
            () = changed => self.failures = 0,
            () = draining(&self.control) => {}
        }
    }
}

/// What threads were busy, measured over a while.
struct Busy {
    since: Instant,
    before: Duration,
}

impl Busy {
    fn new() -> Self {
        Self { since: Instant::now(), before: Duration::ZERO }
    }

    /// Thousandths of the threads' time, when enough of it has passed; rounded, so that it does not change all the time.
    fn measure(&mut self, busy: Duration, threads: usize) -> Option<u32> {
        let over = self.since.elapsed();
        if over < BUSY_OVER {
            return None;
        }
        let share = (busy - self.before).as_secs_f64() / over.as_secs_f64() / threads.max(1) as f64;
        *self = Self { since: Instant::now(), before: busy };
        Some((share.min(1.0) * 20.0).round() as u32 * 50)
    }
}
