//! Going on with a task whose plugin failed, or whose output Kafka refuses.

use tracing::{debug, warn};

use super::{START_WAIT, Thread};
use crate::engine::{CallError, Remedy};
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::record::Batch;
use crate::worker::careful::{Careful, CarefulError, one_line};
use crate::worker::chain::ChainError;
use crate::worker::failure::Failure;
use crate::worker::task::{self, Task};

impl<K: Kafka> Thread<K> {
    /// A batch did not get through.
    pub(super) fn not_processed(&mut self, partition: usize, error: CarefulError<Box<Failure>>) -> Result<(), Failure> {
        if self.is_on_trial(partition)
            && let Some(reason) = self.fault(&error)
        {
            self.refuse(partition, &reason)?;
            // At-least-once, a producer does not forget what was refused.
            return match error {
                CarefulError::Back(trouble) if trouble.is_refusal() && !self.is_exactly_once() => {
                    self.all_go_back(&trouble.reason)
                }
                _ => Ok(()),
            };
        }
        match error {
            CarefulError::Chain(ChainError::Destination(failure)) => self.not_delivered(*failure),
            CarefulError::Chain(ChainError::Call { transform, batch, error }) => {
                self.call_failed(partition, transform, &batch, error)
            }
            CarefulError::Chain(ChainError::Refused { transform, batch, refused }) => {
                let reason = refused.first().map_or_else(String::new, |(_, reason)| reason.clone());
                self.go_carefully(partition, &reason, |careful| careful.refused(transform, &batch, refused))
            }
            CarefulError::Back(trouble) if trouble.is_refusal() => self.all_go_back(&trouble.reason),
            CarefulError::Back(trouble) => self.go_carefully(partition, &trouble.reason, |_| {}),
            CarefulError::Stray { reason } => {
                self.all_go_carefully();
                self.all_go_back(&reason)
            }
            CarefulError::Failed(failure) => Err(*failure),
        }
    }

    /// What a plugin is to blame for.
    fn fault(&self, error: &CarefulError<Box<Failure>>) -> Option<String> {
        match error {
            CarefulError::Chain(ChainError::Call { transform, batch, error }) => {
                self.counters.call_failed(*transform);
                Some(self.failure_of(*transform, batch, error))
            }
            CarefulError::Chain(ChainError::Refused { refused, .. }) => {
                refused.first().map(|(_, reason)| reason.clone())
            }
            CarefulError::Chain(ChainError::Destination(failure)) => match **failure {
                Failure::Rejected { .. } | Failure::Failed { .. } | Failure::Send { .. } => Some(failure.to_string()),
                _ => None,
            },
            CarefulError::Back(trouble) => Some(trouble.reason.clone()),
            CarefulError::Failed(failure) => Some(failure.to_string()),
            CarefulError::Stray { .. } => None,
        }
    }

    fn failure_of(&self, transform: usize, batch: &Batch, error: &CallError) -> String {
        let (name, span) = (&self.plan.transforms[transform].name, task::span(&self.plan, batch));
        format!("transform `{name}` fails on the batch of {span}: {error}")
    }

    fn call_failed(
        &mut self,
        partition: usize,
        transform: usize,
        batch: &Batch,
        error: Box<CallError>,
    ) -> Result<(), Failure> {
        let span = task::span(&self.plan, batch);
        let name = self.plan.transforms[transform].name.clone();
        match error.remedy() {
            Remedy::Halve => {
                self.counters.call_failed(transform);
                let reason = self.failure_of(transform, batch, &error);
                self.go_carefully(partition, &reason, |careful| careful.suspect(transform, batch))
            }
            Remedy::Wait => {
                warn!(transform = name, "waiting: the plugin fails on {span} and asks for patience: {error}");
                self.wait_for_plugin(partition, transform)
            }
            Remedy::Stop => Err(Failure::Call { transform: name, span, error }),
        }
    }

    /// A plugin could not put what it held back, before a commit.
    pub(super) fn flush_failed(
        &mut self,
        transform: String,
        partition: u32,
        error: Box<CallError>,
    ) -> Result<(), Failure> {
        if self.is_on_trial(partition as usize) {
            return self.refuse(partition as usize, &format!("transform `{transform}` fails to flush: {error}"));
        }
        let at = self.plan.transforms.iter().position(|known| known.name == transform).unwrap_or(0);
        // With care, everything is put after each call: no record is to blame then.
        let is_careful = self.slots.get(&partition).is_some_and(|slot| slot.careful.is_some());
        match error.remedy() {
            Remedy::Halve if !is_careful => {
                self.counters.call_failed(at);
                let reason = format!("transform `{transform}` fails to flush its state: {error}");
                self.go_carefully(partition as usize, &reason, |_| {})
            }
            Remedy::Wait => {
                warn!(transform, partition, "waiting: the plugin fails to flush and asks for patience: {error}");
                self.wait_for_plugin(partition as usize, at)
            }
            Remedy::Halve | Remedy::Stop => Err(Failure::Flush { transform, partition, error }),
        }
    }

    /// Takes a task back to its last commit, and lets it go on with care. `tell` adds what is known.
    pub(super) fn go_carefully(
        &mut self,
        partition: usize,
        reason: &str,
        tell: impl FnOnce(&mut Careful),
    ) -> Result<(), Failure> {
        if self.is_on_trial(partition) {
            return self.refuse(partition, reason);
        }
        let Some(number) = self.tasks[partition].as_ref().map(|task| task.partition) else { return Ok(()) };
        let Some(slot) = self.slots.get_mut(&number) else { return Ok(()) };
        let now = self.equipment.runtime.now();
        if slot.careful.is_none() {
            let task = self.plan.task(number);
            warn!(%task, "looking for the records that fail, from the last commit on: {}", one_line(reason));
        } else {
            debug!(partition, "going back to the last commit: {}", one_line(reason));
        }
        let careful = slot.careful.get_or_insert_with(|| Careful::new(now));
        careful.failed(now);
        tell(careful);
        if self.is_exactly_once() {
            // The other tasks' outputs are in the same transaction, or are held back for the same.
            self.committer.take_back(&self.tasks, reason);
            return Ok(());
        }
        let positions = self.roll_back(number)?;
        self.consumer.start(&positions, START_WAIT)?;
        Ok(())
    }

    /// Kafka has refused output because of what it is, and what others have sent with it is done again too.
    fn all_go_back(&mut self, reason: &str) -> Result<(), Failure> {
        if self.is_exactly_once() {
            self.committer.take_back(&self.tasks, reason);
            return Ok(());
        }
        // The producer does not forget what was refused.
        self.open_outbox()?;
        self.committer.abort(&self.tasks, reason);
        Ok(())
    }

    /// Kafka has refused output because of what it is; whose, is not known.
    pub(super) fn all_go_carefully(&mut self) {
        let now = self.equipment.runtime.now();
        // A candidate is suspected first, unless none of its output is there yet: its task goes on with the version before.
        let is_suspected = |task: &Task| self.goes_back(task) && !task.has_just_gone_over();
        let on_trial = self.tasks.iter().flatten().filter(|task| is_suspected(task));
        let on_trial: Vec<u32> = on_trial.map(|task| task.partition).collect();
        for partition in &on_trial {
            self.note_refused(*partition, "kafka refuses output that may be of this version");
        }
        for (_, slot) in self.slots.iter_mut().filter(|(partition, _)| !on_trial.contains(partition)) {
            let careful = slot.careful.get_or_insert_with(|| Careful::new(now));
            careful.failed(now);
            careful.must_acknowledge();
        }
    }

    /// The tasks to be processed now. Under exactly-once, a task whose next batch is likely to fail has a transaction to itself,
    /// because an abort takes back what all of it did; it takes turns with the others.
    pub(super) fn tasks_in_turn(&mut self) -> Vec<usize> {
        let with_records =
            |(_, task): &(usize, &Option<Box<Task>>)| task.as_ref().is_some_and(|task| task.has_records());
        let all = self.tasks.iter().enumerate().filter(with_records).map(|(at, _)| at);
        if !self.is_exactly_once() || self.slots.values().all(|slot| slot.careful.is_none()) {
            return all.collect();
        }
        let is_searching = |at: &usize| {
            let slot = u32::try_from(*at).ok().and_then(|number| self.slots.get(&number));
            slot.and_then(|slot| slot.careful.as_ref()).is_some_and(Careful::is_searching)
        };
        let (searching, others): (Vec<usize>, Vec<usize>) = all.partition(is_searching);
        if searching.is_empty() && !self.alone {
            return others;
        }
        if self.tasks.iter().flatten().any(|task| task.dirty) {
            // The next turn comes with the commit.
            self.bytes_since_commit = u64::MAX;
            return if self.alone { Vec::new() } else { others };
        }
        self.alone = !searching.is_empty() && (!self.alone || others.is_empty());
        if !self.alone {
            return others;
        }
        self.searches += 1;
        vec![searching[self.searches % searching.len()]]
    }
}
