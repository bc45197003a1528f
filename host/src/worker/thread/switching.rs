//! Going over to the candidate of a rollout, and back: each task by itself, between two commits.
//!
//! The switch itself is only that an instance takes the place of another. What the task was until then is in a commit with the version
//! that made it in its manifest; what the candidate makes is in the next one, under its own name. So a crash between the two
//! finds a task that has not gone over. At-least-once everything is committed first. Under exactly-once the switch comes right after a
//! commit has begun, which goes on beside the records as always: a task does not stand still for it. If that commit is aborted, the
//! task has gone over where it goes on then; or has not, if its state had to be converted.
//!
//! A task that fails with the candidate goes back to its last commit and to the version before: a candidate never stops a pipeline. A
//! candidate from which no task goes back is, for a task that has gone over, what the pipeline runs: what it fails on is a failing
//! record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::copying::Converted;
use super::{START_WAIT, Slot, Thread, micros};
use crate::candidate::{Counted, InShadow, Switched, TaskReport};
use crate::engine::{Instance, MigrateError, OpenError};
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::worker::candidate::Candidate;
use crate::worker::careful::one_line;
use crate::worker::failure::Failure;
use crate::worker::migration::Migration;
use crate::worker::plan::Plan;
use crate::worker::shadow::{End, Shadow};
use crate::worker::task::Task;

/// How a task fares in a rollout.
#[derive(Default)]
pub(super) struct Tally {
    /// The transform that is counted.
    transform: usize,
    report: TaskReport,
}

impl Tally {
    fn of(transform: usize) -> Self {
        Self { transform, ..Self::default() }
    }

    fn counted(&mut self, transform: usize) -> Option<&mut Counted> {
        let TaskReport { switched, before, after, .. } = &mut self.report;
        (self.transform == transform).then_some(if switched.is_some() { after } else { before })
    }

    pub(super) fn processed(&mut self, transform: usize, records: usize, time: Duration) {
        if let Some(counted) = self.counted(transform) {
            counted.records += records as u64;
            counted.busy_us += micros(time);
        }
    }

    /// Takes in what a task's shadow has done.
    pub(super) fn note_shadow(&mut self, task: &mut Task) {
        let Some(shadow) = &mut task.shadow else { return };
        self.report.after = self.report.after.and(shadow.seen());
        match shadow.end() {
            None if shadow.has_begun() => self.report.shadow = Some(InShadow::Sees),
            None => {}
            Some(End::TooLarge) => {
                self.report.shadow = Some(InShadow::GivenUp);
                task.end_shadow();
            }
            Some(End::Failed(reason)) => {
                self.report.shadow = Some(InShadow::Failed(one_line(reason)));
                task.end_shadow();
            }
        }
    }

    /// Whether a shadow of the task may begin.
    fn may_have_shadow(&self) -> bool {
        self.report.refused.is_none() && matches!(self.report.shadow, None | Some(InShadow::Sees))
    }

    /// Takes in from where a task runs the candidate: further back than it went over, if that commit was aborted.
    fn note_where(&mut self, task: &Task) {
        if let (Some(switched), Some(since)) = (&mut self.report.switched, &task.since[self.transform])
            && !since.is_empty()
        {
            switched.offsets.clone_from(since);
        }
    }

    /// Whether the task can go over.
    pub(super) fn is_ready(&mut self, ready: bool) {
        // It may be less so again in a moment; the switch looks.
        self.report.ready |= ready;
    }

    pub(super) fn is_refused(&self) -> bool {
        self.report.refused.is_some()
    }

    /// What a later transform rejects counts too: it may be what this one makes of the records.
    pub(super) fn rejected(&mut self, transform: usize, records: usize) {
        if transform >= self.transform
            && let Some(counted) = self.counted(self.transform)
        {
            counted.errors += records as u64;
        }
    }
}

impl Slot {
    /// The task runs another version: what was known is about the one before.
    pub(super) fn begins_anew(&mut self) {
        self.tally.report.switched = None;
        self.careful = None;
        self.replaying.clear();
    }
}

type Opened = Result<Instance, OpenError>;

/// What is made beside the thread for tasks that are to go over: instances of the candidate, and state that it can read.
pub(super) struct Spares {
    opened: mpsc::UnboundedSender<(u32, Opened)>,
    inbox: mpsc::UnboundedReceiver<(u32, Opened)>,
    /// By partition; nothing while one is being opened.
    spares: BTreeMap<u32, Option<Box<Instance>>>,
    converted: mpsc::UnboundedSender<Converted>,
    converted_inbox: mpsc::UnboundedReceiver<Converted>,
    due: Due,
}

/// Whether a switch was due, and has come to nothing: state that changes as fast as it is copied is ready for a moment only.
#[derive(Default)]
struct Due {
    /// Since the last commit has begun.
    seen: bool,
    missed: bool,
}

impl Due {
    fn see(&mut self, is_due: bool) {
        self.seen |= is_due;
    }

    /// A commit has begun.
    fn at_seal(&mut self, is_due: bool) {
        self.missed |= std::mem::take(&mut self.seen) && !is_due;
    }
}

impl Spares {
    pub(super) fn new() -> Self {
        let (opened, inbox) = mpsc::unbounded_channel();
        let (converted, converted_inbox) = mpsc::unbounded_channel();
        Self { opened, inbox, spares: BTreeMap::new(), converted, converted_inbox, due: Due::default() }
    }

    /// State that has been converted.
    pub(super) fn converted(&mut self) -> Option<Converted> {
        self.converted_inbox.try_recv().ok()
    }

    /// Where to send it.
    pub(super) fn answer(&self) -> mpsc::UnboundedSender<Converted> {
        self.converted.clone()
    }

    /// The task is not here any more.
    pub(super) fn forget(&mut self, partition: u32) {
        self.spares.remove(&partition);
    }

    /// Whether some of `tasks` can go over, and none of their instances is on its way: they go over in one go.
    fn are_open_for<'a>(&self, candidate: &Candidate, mut tasks: impl Iterator<Item = &'a Task>) -> bool {
        let is_open = |task: &Task| {
            let may_go = candidate.is_wanted(task.partition) && !Arc::ptr_eq(&task.plan, &candidate.plan);
            may_go && matches!(self.spares.get(&task.partition), Some(Some(_)))
        };
        self.spares.values().all(Option::is_some) && tasks.any(|task| is_open(task) && is_copied(task, candidate))
    }

    fn take(&mut self, partition: u32) -> Option<Box<Instance>> {
        let instance = self.spares.get_mut(&partition)?.take()?;
        self.spares.remove(&partition);
        Some(instance)
    }
}

impl<K: Kafka> Thread<K> {
    /// Takes in what is to be tried out, and opens it for the tasks that are to go over.
    pub(super) fn follow_candidate(&mut self) {
        if let Some(candidate) = self.equipment.plans.newer_candidate(&mut self.candidate_seen) {
            self.spares = Spares::new();
            let transform = candidate.as_ref().map_or(0, |candidate| candidate.transform);
            self.slots.values_mut().for_each(|slot| slot.tally = Tally::of(transform));
            self.restorer.try_out(candidate.clone());
            // Those that are coming up know of another one, or of none.
            for (partition, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.attempt.is_some()) {
                slot.attempt = Some(self.restorer.begin(*partition));
            }
            for task in self.tasks.iter_mut().flatten() {
                task.migration.take_if(|migration| matches!(migration, Migration::Copying(_)));
                task.end_shadow();
            }
            self.candidate = candidate;
        }
        let Some(candidate) = self.candidate.clone() else { return };
        while let Ok((partition, opened)) = self.spares.inbox.try_recv() {
            match opened {
                // It was for a task that has gone since.
                _ if !self.spares.spares.contains_key(&partition) => {}
                Ok(instance) => drop(self.spares.spares.insert(partition, Some(Box::new(instance)))),
                Err(error) => {
                    self.spares.spares.remove(&partition);
                    self.note_refused(partition, &format!("it does not start: {error}"));
                }
            }
        }
        // A thread that is about to let tasks go over commits and nothing else: what is copied meanwhile would be one commit more.
        let is_due = self.is_switch_due();
        self.spares.due.see(is_due);
        if !is_due {
            self.copy_state(&candidate);
        }
        self.shadows(&candidate);
        for task in self.tasks.iter().flatten() {
            let Some(slot) = self.slots.get(&task.partition) else { continue };
            let goes_over = candidate.is_wanted(task.partition) && !slot.tally.is_refused();
            let runs_it = Arc::ptr_eq(&task.plan, &candidate.plan);
            let has_use = !runs_it && (goes_over || needs_shadow(task, slot, &candidate));
            if !has_use || self.spares.spares.contains_key(&task.partition) {
                continue;
            }
            self.spares.spares.insert(task.partition, None);
            let (runtime, opened) = (Arc::clone(&self.equipment.runtime), self.spares.opened.clone());
            let (candidate, partition) = (Arc::clone(&candidate), task.partition);
            let work = async move {
                let now_ms = runtime.now_ms();
                let (plan, at) = (Arc::clone(&candidate.plan), candidate.transform);
                let open = move || plan.transforms[at].open(&plan.pipeline, partition, now_ms);
                if let Some(instance) = runtime.blocking(Box::new(open)).await {
                    // The thread may have gone.
                    let _ = opened.send((partition, instance));
                }
            };
            self.equipment.runtime.spawn(work.boxed());
        }
    }

    /// Lets tasks have the candidate in their shadow, or not any more.
    fn shadows(&mut self, candidate: &Arc<Candidate>) {
        for task in self.tasks.iter_mut().flatten() {
            let Some(slot) = self.slots.get_mut(&task.partition) else { continue };
            if !candidate.is_wanted_in_shadow() {
                task.end_shadow();
            }
            slot.tally.note_shadow(task);
            if needs_shadow(task, slot, candidate)
                && let Some(instance) = self.spares.take(task.partition)
            {
                task.shadow = Some(Box::new(Shadow::new(Arc::clone(candidate), instance)));
            }
            // It begins with a commit, even if no record comes.
            let Task { shadow, state, migration, .. } = &mut **task;
            let begins = |shadow: &Shadow| shadow.can_begin(state, migration.as_ref());
            task.dirty |= shadow.as_deref().is_some_and(begins);
        }
    }

    /// Whether the thread is to come to rest because tasks can go over, or are to go back.
    pub(super) fn is_switch_due(&self) -> bool {
        let tasks = || self.tasks.iter().flatten().map(|task| &**task);
        self.candidate.as_ref().is_some_and(|candidate| self.spares.are_open_for(candidate, tasks()))
            || self.tasks.iter().flatten().any(|task| !self.may_run(task))
    }

    /// Whether a task may go on with what it runs.
    fn may_run(&self, task: &Task) -> bool {
        let is_refused = || self.slots.get(&task.partition).is_some_and(|slot| slot.tally.is_refused());
        let of = |candidate: &Arc<Candidate>| {
            Arc::ptr_eq(&task.plan, &candidate.plan) && candidate.is_wanted(task.partition) && !is_refused()
        };
        Arc::ptr_eq(&task.plan, &self.plan) || task.is_one_way() || self.candidate.as_ref().is_some_and(of)
    }

    /// Whether tasks may go over when a commit has begun. Not to or from a plan that there is a newer one of; and a search for records
    /// that fail is for the version that failed.
    pub(super) fn may_switch_at_seal(&self) -> bool {
        self.is_exactly_once()
            && !self.spares.due.missed
            && !self.equipment.control.is_draining()
            && !self.equipment.plans.is_newer(self.plan_seen)
            && self.slots.values().all(|slot| slot.careful.is_none())
    }

    /// A commit has begun: what comes from here on is of the next one. Lets tasks go over that can.
    pub(super) fn switch_at_seal(&mut self) -> Result<(), Failure> {
        let is_due = self.is_switch_due();
        self.spares.due.at_seal(is_due);
        if is_due && self.may_switch_at_seal() { self.switch() } else { Ok(()) }
    }

    /// Lets tasks go over whose instances are open, and back those that are not to run the candidate any more. Everything is
    /// committed, or in the commit that has just begun.
    pub(super) fn switch(&mut self) -> Result<(), Failure> {
        let runtime = Arc::clone(&self.equipment.runtime);
        let began = std::time::Instant::now();
        let mut switched = Vec::new();
        let stay: Vec<bool> =
            self.tasks.iter().map(|task| task.as_ref().is_none_or(|task| self.may_run(task))).collect();
        for (task, stays) in self.tasks.iter_mut().zip(stay) {
            let Some(task) = task else { continue };
            let Some(slot) = self.slots.get_mut(&task.partition) else { continue };
            let is_before = Arc::ptr_eq(&task.plan, &self.plan);
            let can_go = is_before && self.candidate.as_ref().is_some_and(|candidate| is_copied(task, candidate));
            let spare = if can_go { self.spares.take(task.partition) } else { None };
            match (&self.candidate, spare) {
                (Some(candidate), Some(instance)) if candidate.is_wanted(task.partition) => {
                    if let Err(error) = copy_the_rest(task, candidate, runtime.now_ms()) {
                        slot.tally.report.refused.get_or_insert_with(|| one_line(&error.to_string()));
                        task.dirty = true;
                        continue;
                    }
                    task.instances[candidate.transform] = *instance;
                    task.since[candidate.transform] = Some(task.offsets());
                    switched.push(task.partition);
                }
                _ if stays => continue,
                _ => {
                    go_over(task, &self.plan, runtime.now_ms())?;
                    info!(task = %self.plan.task(task.partition), "went back to the version before");
                }
            }
            // The next commit says what the task runs, even if no record comes.
            task.dirty = true;
            slot.begins_anew();
        }
        let pause_us = micros(began.elapsed());
        self.spares.due = Due::default();
        self.went_over = switched.len();
        for partition in switched {
            let Some(task) = &self.tasks[partition as usize] else { continue };
            let Some(slot) = self.slots.get_mut(&partition) else { continue };
            let offsets = task.offsets();
            info!(task = %self.plan.task(partition), thread = self.name, ?offsets, pause_us, "went over to the candidate");
            slot.tally.report.switched = Some(Switched { offsets, pause_us });
            // What was counted in the shadow is not of this.
            slot.tally.report.after = Counted::default();
        }
        self.report_trial();
        Ok(())
    }

    /// A task has come up: it may run the candidate already.
    pub(super) fn came_up(&mut self, partition: u32) {
        let (Some(candidate), Some(Some(task))) = (&self.candidate, self.tasks.get(partition as usize)) else { return };
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        let refused = slot.tally.report.refused.take();
        slot.tally = Tally::of(candidate.transform);
        slot.tally.report.refused = refused;
        if Arc::ptr_eq(&task.plan, &candidate.plan) {
            let since = task.since[candidate.transform].clone().filter(|since| !since.is_empty());
            let offsets = since.unwrap_or_else(|| task.offsets());
            slot.tally.report.switched = Some(Switched { offsets, pause_us: 0 });
        }
        candidate.report(partition, slot.tally.report.clone());
    }

    /// Tells how the tasks fare.
    pub(super) fn report_trial(&mut self) {
        let Some(candidate) = &self.candidate else { return };
        for task in self.tasks.iter().flatten() {
            if let Some(slot) = self.slots.get_mut(&task.partition) {
                slot.tally.note_where(task);
                slot.tally.report.committed = slot.tally.report.switched.is_some() && !task.unsaid;
                let mut report = slot.tally.report.clone();
                // Who hears that all have gone over for good relies on it.
                if matches!(task.migration, Some(Migration::OneWay(_))) && task.unsaid {
                    report.switched = None;
                }
                candidate.report(task.partition, report);
            }
        }
    }

    /// Whether a task runs a candidate, so that what goes wrong is a reason to go back.
    pub(super) fn is_on_trial(&self, partition: usize) -> bool {
        let task = self.tasks.get(partition).and_then(Option::as_ref);
        task.is_some_and(|task| self.goes_back(task))
    }

    /// Whether a task runs a candidate from which it goes back when that fails.
    pub(super) fn goes_back(&self, task: &Task) -> bool {
        !Arc::ptr_eq(&task.plan, &self.plan) && !task.is_one_way()
    }

    /// A task fails with the candidate: takes it back to its last commit and to the version before.
    pub(super) fn refuse(&mut self, partition: usize, reason: &str) -> Result<(), Failure> {
        let Some(task) = self.tasks.get_mut(partition).and_then(Option::as_mut) else { return Ok(()) };
        let number = task.partition;
        leave(task, &self.plan);
        task.dirty = true;
        warn!(task = %self.plan.task(number), "the candidate fails, going back to the version before: {}", one_line(reason));
        self.note_refused(number, reason);
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.begins_anew();
        }
        self.report_trial();
        if self.is_exactly_once() {
            // The other tasks' outputs are in the same transaction, or are held back for the same.
            self.committer.take_back(&self.tasks, reason);
            return Ok(());
        }
        let positions = self.roll_back(number)?;
        self.consumer.start(&positions, START_WAIT)?;
        Ok(())
    }

    pub(super) fn note_refused(&mut self, partition: u32, reason: &str) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        slot.tally.report.refused.get_or_insert_with(|| one_line(reason));
        if let Some(candidate) = &self.candidate {
            candidate.report(partition, slot.tally.report.clone());
        }
    }
}

/// Lets a task work by `plan` when it has gone back, which it does whatever it has done: what is another version there begins
/// where it goes on then.
pub(super) fn leave(task: &mut Task, plan: &Arc<Plan>) {
    let before = task.work_by(plan);
    for (since, (one, other)) in task.since.iter_mut().zip(before.transforms.iter().zip(&plan.transforms)) {
        if !one.is_same(other) {
            *since = None;
        }
    }
}

/// Lets a task work by `plan`, with new instances of what is another one there. Its state is there.
pub(super) fn go_over(task: &mut Task, plan: &Arc<Plan>, now_ms: i64) -> Result<(), Failure> {
    let (before, offsets) = (task.work_by(plan), task.offsets());
    for (at, transform) in plan.transforms.iter().enumerate().filter(|(at, it)| !it.is_same(&before.transforms[*at])) {
        let opened = transform.open(&plan.pipeline, task.partition, now_ms);
        task.instances[at] = opened.map_err(|error| Failure::Open { transform: transform.name.clone(), error })?;
        task.since[at] = Some(offsets.clone());
    }
    Ok(())
}

/// Whether a task is to have the candidate in its shadow, and has not.
fn needs_shadow(task: &Task, slot: &Slot, candidate: &Arc<Candidate>) -> bool {
    let is_free = task.shadow.is_none() && slot.careful.is_none() && !Arc::ptr_eq(&task.plan, &candidate.plan);
    candidate.is_wanted_in_shadow() && is_free && slot.tally.may_have_shadow()
}

/// Whether nothing of a task's state has to be copied before it goes over, but what the switch copies.
fn is_copied(task: &Task, candidate: &Candidate) -> bool {
    match &task.migration {
        Some(Migration::Copying(copying)) => copying.is_ready(&task.state),
        _ => candidate.routes.is_empty(),
    }
}

/// Copies what is left of a task's state, which works by the candidate then.
fn copy_the_rest(task: &mut Task, candidate: &Candidate, now_ms: i64) -> Result<(), MigrateError> {
    let copying = match task.migration.take() {
        Some(Migration::Copying(mut copying)) => {
            copying.finish(&mut task.state, now_ms)?;
            Some(copying)
        }
        _ => None,
    };
    task.work_by(&candidate.plan);
    let transform = candidate.transform;
    task.migration = match copying {
        Some(copying) if candidate.is_one_way() => {
            task.former.leave(&candidate.routes, &task.offsets());
            Some(Migration::OneWay(copying.into_one_way()))
        }
        copying => copying
            .and_then(|copying| copying.into_mirror())
            .map(|mirror| Migration::Mirroring { transform, mirror: Box::new(mirror) }),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_was_due_and_is_so_no_more_when_the_commit_begins_was_missed() {
        let mut due = Due::default();
        let mut commit = |seen: &[bool], is_due: bool| {
            seen.iter().for_each(|is_due| due.see(*is_due));
            due.at_seal(is_due);
            due.missed
        };
        assert!(!commit(&[false], false));
        assert!(!commit(&[false, true], true), "it is made");
        assert!(commit(&[false, true, false], false));
        assert!(commit(&[false], false), "until one is made");
    }
}
