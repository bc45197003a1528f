//! One task: a partition number, its state, its instances, and how far it has got.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::failure::{Failure, Origin, Span};
use super::former::Former;
use super::migration::{self, Migration};
use super::plan::Plan;
use super::shadow::{self, Shadow};
use crate::checkpoint::head::{Manifest, TransformIdentity};
use crate::checkpoint::ledger::Ledger;
use crate::checkpoint::store::Claim;
use crate::engine::{CallError, Instance, OpenError};
use crate::kafka::TopicPartition;
use crate::kafka::consumer::CommitOffset;
use crate::record::Batch;
use crate::state::TaskState;

/// By transform; see [`Task::since`].
pub type Since = Vec<Option<BTreeMap<String, i64>>>;

/// A task that runs.
pub struct Task {
    /// Its partition number.
    pub partition: u32,
    /// What it runs: the plan of its thread, or the candidate of a rollout.
    pub plan: Arc<Plan>,
    /// One for each transform.
    pub instances: Vec<Instance>,
    /// The first offsets that the code of each transform processed, by topic, where the task has gone over to it.
    /// None: from where it goes on when it has gone back.
    pub since: Since,
    /// Its stores.
    pub state: TaskState,
    /// What stays of versions before.
    pub former: Former,
    /// What it does to its state because of a rollout.
    pub migration: Option<Migration>,
    /// The candidate of a rollout that sees what it does.
    pub shadow: Option<Box<Shadow>>,
    /// Its state was converted when it came up, and that is not committed: it cannot go back in memory.
    pub converted: bool,
    /// Where its state is durable; `None` without state.
    pub durable: Option<Durable>,
    /// The next offset of each input, after what was processed.
    pub next: Vec<i64>,
    /// What of it is in the commit under way, if the task has a part in that.
    pub sealed: Option<Sealed>,
    /// The next offset of each input, as of the last commit.
    pub committed: Vec<i64>,
    /// Records taken from Kafka and not processed yet, by input.
    pub inbox: Vec<Batch>,
    /// No commit says yet what it runs.
    pub unsaid: bool,
    /// There is something to commit: records were processed since the last commit began, or Kafka does not know what the task goes
    /// on from.
    pub dirty: bool,
}

/// What of a task is in the commit under way.
pub struct Sealed {
    /// The next offset of each input.
    pub next: Vec<i64>,
    /// The task has gone over to another version since, which the commit does not say; `since` as it was.
    pub before: Option<Since>,
}

/// The durable side of a task with state.
pub struct Durable {
    /// Its head.
    pub claim: Claim,
    /// Its chunks.
    pub ledger: Ledger,
}

impl Task {
    /// A task that goes on from `offsets`, one for each input.
    #[must_use]
    pub fn new(
        partition: u32,
        plan: Arc<Plan>,
        instances: Vec<Instance>,
        state: TaskState,
        durable: Option<Durable>,
        offsets: Vec<i64>,
    ) -> Self {
        let since = plan.transforms.iter().map(|_| Some(BTreeMap::new())).collect();
        let inbox = offsets.iter().map(|_| Batch::default()).collect();
        let next = offsets.clone();
        Self {
            partition,
            plan,
            instances,
            since,
            state,
            former: Former::default(),
            migration: None,
            shadow: None,
            converted: false,
            durable,
            next,
            sealed: None,
            committed: offsets,
            inbox,
            unsaid: false,
            dirty: false,
        }
    }

    /// What its manifests say of the code.
    #[must_use]
    pub fn identities(&self) -> Vec<TransformIdentity> {
        let identities = self.plan.identities().into_iter().zip(&self.since);
        let since = |since: &Option<BTreeMap<String, i64>>| since.clone().unwrap_or_default();
        let mut identities: Vec<_> =
            identities.map(|(identity, it)| TransformIdentity { since: since(it), ..identity }).collect();
        if let Some(Migration::Mirroring { transform, mirror }) = &self.migration {
            identities[*transform].copies = mirror.kept().collect();
        }
        identities.iter_mut().for_each(|identity| identity.former = self.former.of_transform(&identity.name));
        identities
    }

    /// Whether it runs the candidate of a rollout from which it does not go back.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        matches!(self.migration, Some(Migration::OneWay(_)))
    }

    /// Deletes some of what is superseded and not to stay. Whether there was any.
    pub fn tidy(&mut self) -> bool {
        migration::tidy(&mut self.state, |name| self.former.contains(name))
    }

    /// Takes what `manifest`, from which the task goes on, knows of the code that it runs. What it does not know begins here.
    pub fn remember(&mut self, manifest: &Manifest) {
        let offsets = self.offsets();
        for (transform, since) in self.plan.transforms.iter().zip(&mut self.since) {
            let written = manifest.transforms.iter().find(|written| written.is_same_version(&transform.identity));
            *since = Some(written.map_or_else(|| offsets.clone(), |written| written.since.clone()));
        }
        self.former = Former::of(manifest);
        self.former.declare(self.plan.stores());
    }

    /// Where the task is, by topic.
    #[must_use]
    pub fn offsets(&self) -> BTreeMap<String, i64> {
        let sources = self.plan.sources.iter().zip(&self.next);
        sources.map(|(source, next)| (source.topic.clone(), *next)).collect()
    }

    /// Whether there is anything in the inbox.
    #[must_use]
    pub fn has_records(&self) -> bool {
        self.inbox.iter().any(|inbox| !inbox.is_empty())
    }

    /// Everything that has come from the first `inputs` sources as one batch, in processing order; the buffers of a single input
    /// are kept for reuse.
    pub fn take_batch(&mut self, inputs: usize) -> Batch {
        match &mut self.inbox[..inputs] {
            [only] => std::mem::take(only),
            several => {
                let merged = Batch::merge(several);
                several.iter_mut().for_each(Batch::clear);
                merged
            }
        }
    }

    /// Gives back the buffers of a batch that has been processed.
    pub fn recycle(&mut self, inputs: usize, mut batch: Batch) {
        if let [only] = &mut self.inbox[..inputs] {
            batch.clear();
            *only = batch;
        }
    }

    /// What has come from the source of dead letters, which is behind the first `inputs`.
    pub fn take_letters(&mut self, inputs: usize) -> Batch {
        self.inbox.get_mut(inputs).map(std::mem::take).unwrap_or_default()
    }

    /// Leaves letters for the next turn.
    pub fn put_letters_back(&mut self, inputs: usize, letters: Batch) {
        if let Some(inbox) = self.inbox.get_mut(inputs) {
            *inbox = letters;
        }
    }

    /// Notes the offset behind what is being processed of one input.
    pub fn advance_to(&mut self, input: usize, next: i64) {
        if let Some(before) = self.next.get_mut(input) {
            *before = next;
        }
        self.dirty = true;
    }

    /// Notes the offsets behind a batch that is being processed.
    pub fn advance(&mut self, batch: &Batch) {
        let mut end = 0;
        for run in &batch.runs {
            end += run.count as usize;
            if let (Some(next), Some(last)) = (self.next.get_mut(run.input as usize), batch.offsets.get(end - 1)) {
                *next = last + 1;
            }
        }
        self.dirty = true;
    }

    /// What was done until now is in the commit that begins; what comes is for the next.
    pub fn seal(&mut self) {
        if let Some(Migration::Copying(copying)) = &mut self.migration {
            copying.note_seal();
        }
        self.sealed = Some(Sealed { next: self.next.clone(), before: None });
        self.dirty = false;
    }

    /// What was sealed is committed.
    pub fn committed(&mut self) {
        if let Some(Sealed { next, before }) = self.sealed.take() {
            self.committed = next;
            self.converted = false;
            if before.is_some() {
                return;
            }
            self.unsaid = false;
            match &mut self.migration {
                Some(Migration::Mirroring { mirror, .. }) => mirror.settle(),
                Some(Migration::OneWay(one_way)) => one_way.settle(),
                Some(Migration::Copying(_)) | None => {}
            }
        }
    }

    /// Whether something has been done that is not committed.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.dirty || self.sealed.is_some()
    }

    /// Whether it has gone over by the commit under way.
    #[must_use]
    pub fn has_just_gone_over(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.before.is_some())
    }

    /// The commit under way is aborted. If it has gone over by that, with state that was made of what is in there: lets it work by
    /// `plan` again, as if it had not. Whether that is so.
    pub fn undo_going_over(&mut self, plan: &Arc<Plan>) -> bool {
        if !matches!(self.migration, Some(Migration::Mirroring { .. } | Migration::OneWay(_))) {
            return false;
        }
        let Some(since) = self.sealed.as_mut().and_then(|sealed| sealed.before.take()) else { return false };
        self.work_by(plan);
        self.since = since;
        true
    }

    /// Takes back everything since the last commit; the instances are new, the caller moves the consumer back.
    pub fn roll_back(&mut self, instances: Vec<Instance>) {
        self.end_shadow();
        if let Some(Migration::Copying(copying)) = &mut self.migration {
            copying.note_roll_back(&self.state);
        }
        self.state.stores_mut().for_each(|store| store.roll_back());
        self.instances = instances;
        self.next.clone_from(&self.committed);
        self.sealed = None;
        self.inbox.iter_mut().for_each(Batch::clear);
        // One that has gone back to another version says so in its next commit.
        self.dirty = self.unsaid;
        let offsets = self.offsets();
        // What has gone over since then begins here.
        let is_ahead = |since: &BTreeMap<String, i64>| {
            since.iter().any(|(topic, at)| offsets.get(topic).is_some_and(|now| now < at))
        };
        for since in self.since.iter_mut().filter(|since| since.as_ref().is_none_or(is_ahead)) {
            *since = Some(offsets.clone());
        }
        self.dirty |= match &mut self.migration {
            Some(Migration::Mirroring { mirror, .. }) => mirror.redo(&mut self.state),
            Some(Migration::OneWay(one_way)) => one_way.redo(&mut self.state),
            Some(Migration::Copying(_)) | None => false,
        };
    }

    /// The partitions it reads.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + use<> {
        partitions(self.partition, self.next.len())
    }

    /// Partitions it reads, each with the offset to go on from.
    #[must_use]
    pub fn positions(&self) -> Vec<(TopicPartition, i64)> {
        self.partitions().zip(self.next.iter().copied()).collect()
    }

    /// What the group should have for it: the offsets of its last durable manifest; nothing without state.
    #[must_use]
    pub fn group_offsets(&self) -> Vec<CommitOffset> {
        let Some(Durable { claim, .. }) = &self.durable else { return Vec::new() };
        let metadata = claim.base().to_string();
        let offsets = self.partitions().zip(self.committed.iter().copied());
        offsets.map(|(partition, offset)| CommitOffset { partition, offset, metadata: metadata.clone() }).collect()
    }

    /// Works by `plan` from now on; its transforms find their stores. The instances are the caller's business.
    pub fn work_by(&mut self, plan: &Arc<Plan>) -> Arc<Plan> {
        if !self.plan.has_stores_of(plan) {
            self.state.declare(plan.stores());
        }
        self.migration = None;
        self.end_shadow();
        self.unsaid = true;
        if let Some(sealed) = &mut self.sealed {
            sealed.before.get_or_insert_with(|| self.since.clone());
        }
        let before = std::mem::replace(&mut self.plan, Arc::clone(plan));
        self.former.declare(plan.stores());
        before
    }

    /// Nobody sees any more what it does.
    pub fn end_shadow(&mut self) {
        if self.shadow.take().is_some() {
            shadow::join(&mut self.state);
        }
    }

    /// Puts what the instances hold back into the state.
    ///
    /// # Errors
    /// A plugin failed; the task has to go back to its last commit.
    pub fn flush(&mut self, now_ms: i64) -> Result<(), Failure> {
        for ((instance, state), transform) in
            self.instances.iter_mut().zip(&mut self.state.transforms).zip(&self.plan.transforms)
        {
            instance.flush(state, now_ms).map_err(|error| Failure::Flush {
                transform: transform.name.clone(),
                partition: self.partition,
                error: Box::new(error),
            })?;
        }
        match &mut self.migration {
            None | Some(Migration::OneWay(_)) => {}
            Some(Migration::Copying(copying)) => copying.note_changes(&self.state),
            Some(Migration::Mirroring { transform, mirror }) => {
                mirror.copy_changes(&mut self.state, now_ms).map_err(|error| Failure::Flush {
                    transform: self.plan.transforms[*transform].name.clone(),
                    partition: self.partition,
                    error: Box::new(CallError::Fatal(error.to_string())),
                })?;
            }
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.at_commit(&mut self.state, self.migration.as_mut(), now_ms);
        }
        Ok(())
    }
}

/// The partitions of a task.
pub fn partitions(partition: u32, inputs: usize) -> impl Iterator<Item = TopicPartition> + use<> {
    let partition = i32::try_from(partition).unwrap_or(i32::MAX);
    (0..).take(inputs).map(move |input| TopicPartition { input, partition })
}

/// New, open instances for a task, one for each transform.
///
/// # Errors
/// One of them does not start: its index and why.
pub fn instantiate(plan: &Plan, partition: u32, now_ms: i64) -> Result<Vec<Instance>, (usize, OpenError)> {
    let open = |(at, transform): (usize, &super::plan::TransformPlan)| {
        transform.open(&plan.pipeline, partition, now_ms).map_err(|error| (at, error))
    };
    plan.transforms.iter().enumerate().map(open).collect()
}

/// Where a record of a batch comes from.
#[must_use]
pub fn origin(plan: &Plan, batch: &Batch, index: u32) -> Origin {
    let (input, partition, offset) = batch.origin(index).unwrap_or((0, -1, -1));
    let topic = plan.sources.get(input as usize).map_or_else(String::new, |source| source.topic.clone());
    Origin { topic, partition, offset }
}

/// What a batch spans.
#[must_use]
pub fn span(plan: &Plan, batch: &Batch) -> Span {
    let last_offset = batch.offsets.last().copied().unwrap_or(-1);
    Span { first: origin(plan, batch, 0), last_offset, records: batch.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Guarantee, Start};
    use crate::worker::migration::OneWay;
    use crate::worker::plan::{FailingRecords, SourcePlan};

    fn at(offset: i64) -> BTreeMap<String, i64> {
        [("orders".to_owned(), offset)].into()
    }

    /// It has processed up to offset 10, which is in the commit under way, and then gone over to another version.
    fn that_went_over_by_a_commit() -> Task {
        let plan = Arc::new(Plan {
            pipeline: "p".to_owned(),
            revision: 1,
            incarnation: 1,
            group: "p".to_owned(),
            sources: vec![SourcePlan { topic: "orders".to_owned(), start: Start::Earliest }],
            inputs: 1,
            partitions: 1,
            transforms: Vec::new(),
            sinks: Vec::new(),
            guarantee: Guarantee::ExactlyOnce,
            commit_interval: std::time::Duration::from_secs(1),
            commit_bytes: 1,
            failing: FailingRecords::Stop,
            give_up_after: 1,
            batch_records: 1,
            batch_bytes: 1,
        });
        let mut task = Task::new(0, Arc::clone(&plan), Vec::new(), TaskState::default(), None, vec![0]);
        task.since = vec![Some(BTreeMap::new())];
        task.advance_to(0, 10);
        task.seal();
        task.work_by(&plan);
        task.since = vec![Some(task.offsets())];
        task.dirty = true;
        task.advance_to(0, 15);
        task
    }

    #[test]
    fn the_commit_by_which_a_task_goes_over_does_not_say_so_and_the_next_one_does() {
        let mut task = that_went_over_by_a_commit();
        task.committed();
        assert_eq!((task.committed.clone(), task.unsaid), (vec![10], true));
        // What was done since is taken back: it went over where it did.
        task.roll_back(Vec::new());
        assert_eq!((task.since.clone(), task.dirty), (vec![Some(at(10))], true));
        task.seal();
        task.committed();
        assert!(!task.unsaid);
    }

    #[test]
    fn when_the_commit_by_which_a_task_went_over_is_aborted_it_has_gone_over_where_it_goes_on() {
        let mut task = that_went_over_by_a_commit();
        task.roll_back(Vec::new());
        assert_eq!((task.next.clone(), task.since.clone()), (vec![0], vec![Some(at(0))]));
        assert!(task.dirty && task.unsaid && task.sealed.is_none());
    }

    #[test]
    fn with_state_that_was_converted_it_has_not_gone_over_then() {
        let mut task = that_went_over_by_a_commit();
        let plan = Arc::clone(&task.plan);
        assert!(task.has_just_gone_over() && !task.undo_going_over(&plan), "it has the state that it had");
        task.migration = Some(Migration::OneWay(OneWay::default()));
        assert!(task.undo_going_over(&plan));
        task.roll_back(Vec::new());
        assert_eq!((task.since.clone(), task.is_one_way()), (vec![Some(BTreeMap::new())], false));
    }
}
