//! What the group gives and takes, what else the consumer reports, and what the group is told of offsets.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::{COMMIT_WAIT, START_WAIT, Thread};
use crate::kafka::TopicPartition;
use crate::kafka::clients::{ConsumerClient, Kafka, OffsetsClient};
use crate::kafka::consumer::{ConsumerEvent, PartitionFault};
use crate::kafka::offsets;
use crate::worker::commit::Advanced;
use crate::worker::failure::Failure;
use crate::worker::step;

/// How long a rebalance may wait for a commit: then the partitions go without, and what was not committed is done again.
const REVOKE_WAIT: Duration = Duration::from_secs(10);
/// How long the end waits for the group to take the offsets that the heads have.
pub(super) const LAST_OFFSETS_WAIT: Duration = Duration::from_secs(2);
/// How long the group's offsets stay behind the heads after a refusal, which a rebalance causes, before they are sent again.
const GROUP_OFFSETS_AGAIN: Duration = Duration::from_millis(500);

impl<K: Kafka> Thread<K> {
    /// Answers what has happened since.
    pub(super) fn group_events(&mut self) -> Result<(), Failure> {
        while let Some(event) = self.consumer.next_event() {
            match event {
                ConsumerEvent::Assigned(partitions) => self.assigned(&partitions)?,
                ConsumerEvent::Revoked { partitions, lost } => self.revoked(&partitions, lost)?,
                ConsumerEvent::Committed(Ok(())) => {}
                ConsumerEvent::Committed(Err(error)) => {
                    debug!("group offsets: {error}");
                    self.group_offsets_at = Some(self.equipment.runtime.now() + GROUP_OFFSETS_AGAIN);
                }
                ConsumerEvent::PartitionFailed { partition, fault, text } => {
                    self.partition_failed(partition, fault, text)?
                }
                ConsumerEvent::Statistics { lag, .. } => self.counters.lag(&lag),
                ConsumerEvent::BrokersDown => {
                    if self.brokers_down.is_due() {
                        warn!("waiting: no kafka broker can be reached");
                    }
                }
                ConsumerEvent::Trouble { text } => warn!("kafka consumer: {text}"),
            }
        }
        self.outbox.serve();
        Ok(())
    }

    fn partition_failed(&mut self, at: TopicPartition, fault: PartitionFault, text: String) -> Result<(), Failure> {
        let topic = self.plan.sources[at.input as usize].topic.clone();
        if fault == PartitionFault::OffsetOutOfRange && at.input as usize >= self.plan.inputs {
            return self.letters_expired(at, &topic);
        }
        if matches!(fault, PartitionFault::OffsetOutOfRange | PartitionFault::NotAuthorized) {
            let expired = fault == PartitionFault::OffsetOutOfRange;
            return Err(Failure::Source { topic, partition: at.partition, text, expired });
        }
        warn!(topic, partition = at.partition, "waiting: {text}");
        Ok(())
    }

    /// Orders that its retention has taken away: there is nothing left to follow before the oldest record.
    fn letters_expired(&mut self, at: TopicPartition, topic: &str) -> Result<(), Failure> {
        let Ok(partition) = usize::try_from(at.partition) else { return Ok(()) };
        let Some(task) = self.tasks.get_mut(partition).and_then(Option::as_mut) else { return Ok(()) };
        let input = at.input as usize;
        match self.consumer.offsets().start_offset(at, offsets::Start::Earliest, COMMIT_WAIT) {
            Ok(begin) => {
                warn!(topic, partition, begin, "dead letters behind the last commit are gone: going on at the oldest");
                task.advance_to(input, begin);
            }
            // It fails again where it was.
            Err(error) => warn!("waiting: {error}"),
        }
        self.consumer.start(&[(at, task.next[input])], START_WAIT)?;
        Ok(())
    }

    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        if !std::mem::replace(&mut self.joined, true) {
            self.equipment.control.has_come();
        }
        self.consumer.accept(partitions)?;
        self.counters.rebalanced();
        for at in partitions {
            let Ok(partition) = u32::try_from(at.partition) else { continue };
            if partition >= self.plan.partitions {
                let topic = &self.plan.sources[at.input as usize].topic;
                warn!(
                    topic,
                    partition,
                    "the topic has got more partitions: their records wait until the pipeline is started again"
                );
                continue;
            }
            let slot = self.slots.entry(partition).or_default();
            slot.assigned.insert(at.input);
            if slot.assigned.len() == self.plan.sources.len() {
                slot.attempt = Some(self.restorer.begin(partition));
            }
        }
        info!(pipeline = self.plan.pipeline, partitions = ?numbers(partitions), "assigned");
        Ok(())
    }

    fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<(), Failure> {
        info!(pipeline = self.plan.pipeline, partitions = ?numbers(partitions), lost, "revoked");
        if lost && self.outbox.is_in_transaction() {
            self.abort_now("partitions were lost")?;
        } else if !lost {
            let claimed_elsewhere = self.commit_before_release()?;
            let leaving = |number: u32| partitions.iter().any(|at| u32::try_from(at.partition) == Ok(number));
            if self.is_exactly_once() {
                self.committer.clean_stop(&mut self.tasks, leaving, COMMIT_WAIT);
            }
            for number in claimed_elsewhere.into_iter().filter(|number| !leaving(*number)) {
                self.claim_again(number)?;
            }
        }
        for at in partitions {
            let Ok(partition) = u32::try_from(at.partition) else { continue };
            self.drop_task(partition);
            if let Some(slot) = self.slots.get_mut(&partition) {
                slot.attempt = None;
                slot.patience = None;
                slot.careful = None;
                slot.replaying.clear();
                slot.assigned.remove(&at.input);
                if slot.assigned.is_empty() {
                    self.slots.remove(&partition);
                }
            }
        }
        self.counters.rebalanced();
        self.halt_widowed(partitions)?;
        self.consumer.release(partitions)?;
        Ok(())
    }

    /// Inputs that stay while another input of their task goes: without the task their records would be fetched for nothing.
    fn halt_widowed(&mut self, leaving: &[TopicPartition]) -> Result<(), Failure> {
        let numbers: BTreeSet<i32> = leaving.iter().map(|at| at.partition).collect();
        let stay = numbers.into_iter().filter_map(|partition| {
            let slot = self.slots.get(&u32::try_from(partition).ok()?)?;
            Some(slot.assigned.iter().map(move |&input| TopicPartition { input, partition }))
        });
        let stay: Vec<TopicPartition> = stay.flatten().collect();
        self.consumer.halt(&stay)?;
        Ok(())
    }

    /// Commits while the group waits. What cannot be committed in time is done again by the next owner. Returns the tasks that
    /// somebody else has claimed.
    fn commit_before_release(&mut self) -> Result<Vec<u32>, Failure> {
        let until = self.equipment.runtime.now() + REVOKE_WAIT;
        if !self.committer.is_under_way() && !self.tasks.iter().flatten().any(|task| task.dirty) {
            return Ok(Vec::new());
        }
        while self.equipment.runtime.now() < until && !self.equipment.control.is_overdue() {
            self.begin_commit()?;
            match self.advance(COMMIT_WAIT)? {
                Advanced::Waiting(_) => {}
                Advanced::Ended { lost } => {
                    self.begin_interval();
                    // What was processed during the commit takes another one.
                    if !self.is_exactly_once() || !self.tasks.iter().flatten().any(|task| task.dirty) {
                        return Ok(lost);
                    }
                }
                Advanced::Spoiled { reason } => {
                    self.take_back(&reason)?;
                    return Ok(Vec::new());
                }
                Advanced::Aborted { lost, reason } => {
                    self.go_back(&lost, &reason)?;
                    return Ok(Vec::new());
                }
                Advanced::Unknown { reason } => {
                    self.recover(&reason)?;
                    return Ok(Vec::new());
                }
            }
        }
        warn!(
            "partitions are given up without a commit: their work since the last one is done again by the next owner"
        );
        if self.is_exactly_once() {
            self.abort_now("partitions are revoked")?;
        }
        Ok(Vec::new())
    }

    /// Tells the group what the heads say before the thread leaves it, so that its lag is right while nobody runs. The heads
    /// decide: a group that does not listen does not hold up the end for long.
    pub(super) fn last_group_offsets(&mut self) -> Result<(), Failure> {
        if !self.consumer.has_unanswered_commits() && self.group_offsets_at.is_none() {
            return Ok(());
        }
        let wait = self.equipment.control.left().map_or(LAST_OFFSETS_WAIT, |left| left.min(LAST_OFFSETS_WAIT));
        let until = self.equipment.runtime.now() + wait;
        loop {
            let offsets: Vec<_> = self.tasks.iter().flatten().flat_map(|task| task.group_offsets()).collect();
            let left = until.saturating_duration_since(self.equipment.runtime.now());
            if offsets.is_empty() || left.is_zero() {
                return Ok(());
            }
            match self.consumer.commit(&offsets, left) {
                Ok(()) => return Ok(()),
                Err(error) => debug!("group offsets: {error}"),
            }
            self.consumer.fetch(0, 0, step::FETCH_WAIT_MAX, |_| {})?;
            self.group_events()?;
        }
    }

    /// Tells the group again what the heads say. A topic without new records has no next commit that would.
    pub(super) fn repeat_group_offsets(&mut self) {
        if self.committer.is_under_way() || self.group_offsets_at.is_none_or(|at| self.equipment.runtime.now() < at) {
            return;
        }
        self.group_offsets_at = None;
        let offsets: Vec<_> = self.tasks.iter().flatten().flat_map(|task| task.group_offsets()).collect();
        if !offsets.is_empty()
            && let Err(error) = self.consumer.commit_later(&offsets)
        {
            debug!("group offsets: {error}");
            self.group_offsets_at = Some(self.equipment.runtime.now() + GROUP_OFFSETS_AGAIN);
        }
    }
}

fn numbers(partitions: &[TopicPartition]) -> Vec<String> {
    partitions
        .iter()
        .map(|at| if at.input == 0 { at.partition.to_string() } else { format!("{}:{}", at.input, at.partition) })
        .collect()
}
