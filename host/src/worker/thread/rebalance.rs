//! What the group gives and takes.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{info, warn};

use super::{COMMIT_WAIT, Thread};
use crate::kafka::TopicPartition;
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::worker::commit::Advanced;
use crate::worker::failure::Failure;

/// How long a rebalance may wait for a commit: then the partitions go without, and what was not committed is done again.
const REVOKE_WAIT: Duration = Duration::from_secs(10);

impl<K: Kafka> Thread<K> {
    pub(super) fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), Failure> {
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

    pub(super) fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<(), Failure> {
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
    pub(super) fn halt_widowed(&mut self, leaving: &[TopicPartition]) -> Result<(), Failure> {
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
    pub(super) fn commit_before_release(&mut self) -> Result<Vec<u32>, Failure> {
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
}

fn numbers(partitions: &[TopicPartition]) -> Vec<String> {
    partitions
        .iter()
        .map(|at| if at.input == 0 { at.partition.to_string() } else { format!("{}:{}", at.input, at.partition) })
        .collect()
}
