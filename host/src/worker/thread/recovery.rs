//! Going back: to the last commit in memory, or to what Kafka says.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::switching::leave;
use super::{ABORT_WAIT, COMMIT_WAIT, Equipment, Patience, START_WAIT, Thread};
use crate::config::Guarantee;
use crate::engine::Instance;
use crate::kafka::TopicPartition;
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::transaction::TransactionError;
use crate::worker::careful::one_line;
use crate::worker::commit::Advanced;
use crate::worker::failure::Failure;
use crate::worker::outbox::Outbox;
use crate::worker::plan::Plan;
use crate::worker::task;

/// How long one attempt to take over the transactional id may hold the thread up, and the pause before the next.
const INIT_WAIT: Duration = Duration::from_millis(500);
/// Waiting for Kafka to take the thread's transactions is said this often.
const INIT_MESSAGE: Duration = Duration::from_secs(5);
/// First and longest pause after a plugin asked for patience.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

impl<K: Kafka> Thread<K> {
    /// Between two commits, a transaction has failed.
    pub(super) fn transaction_failed(&mut self, error: TransactionError) -> Result<(), Failure> {
        match error {
            TransactionError::Refused { .. } => Err(error.into()),
            TransactionError::Abort { text } | TransactionError::Again { text } => {
                self.committer.abort(&self.tasks, &text);
                Ok(())
            }
            TransactionError::Rebuild { text } => self.recover(&text),
        }
    }

    /// Aborts the transaction before anything else happens, or waits for the end of one that is being committed.
    pub(super) fn abort_now(&mut self, reason: &str) -> Result<(), Failure> {
        let until = self.equipment.runtime.now() + ABORT_WAIT;
        self.committer.abort(&self.tasks, reason);
        while self.equipment.runtime.now() < until {
            match self.advance(COMMIT_WAIT)? {
                Advanced::Waiting(_) => {}
                Advanced::Ended { .. } => {
                    self.begin_interval();
                    return Ok(());
                }
                Advanced::Spoiled { reason } => return self.take_back(&reason),
                Advanced::Aborted { lost, reason } => return self.go_back(&lost, &reason),
                Advanced::Unknown { reason } => return self.recover(&reason),
            }
        }
        self.recover("kafka does not end the transaction")
    }

    /// The transaction was aborted: takes every task that took part back to its last commit, and claims those again whose heads
    /// are not what this thread knows.
    pub(super) fn go_back(&mut self, lost: &[u32], reason: &str) -> Result<(), Failure> {
        // Looking for records that fail, it is part of the search.
        match self.slots.values().all(|slot| slot.careful.is_none()) {
            true => warn!(
                pipeline = self.plan.pipeline,
                "the transaction was aborted, its records are processed again: {reason}"
            ),
            false => debug!("the transaction was aborted, its records are processed again: {}", one_line(reason)),
        }
        self.counters.aborted();
        self.roll_back_all(lost)
    }

    /// The transaction was committed, and what was processed meanwhile is taken back.
    pub(super) fn take_back(&mut self, reason: &str) -> Result<(), Failure> {
        warn!(pipeline = self.plan.pipeline, "what was processed during a commit is processed again: {reason}");
        self.roll_back_all(&[])
    }

    fn roll_back_all(&mut self, lost: &[u32]) -> Result<(), Failure> {
        self.begin_interval();
        let tasks = self.tasks.iter().flatten();
        let numbers: Vec<u32> = tasks.filter(|task| task.is_ahead()).map(|task| task.partition).collect();
        let mut positions = Vec::new();
        for number in numbers.into_iter().filter(|number| !lost.contains(number)) {
            positions.extend(self.roll_back(number)?);
        }
        self.consumer.start(&positions, START_WAIT)?;
        lost.iter().try_for_each(|&number| self.claim_again(number))
    }

    /// Takes a task back to its last commit in memory, with new instances. Returns from where it is to be started; nothing for one
    /// that waits for its plugin.
    pub(super) fn roll_back(&mut self, partition: u32) -> Result<Vec<(TopicPartition, i64)>, Failure> {
        let Some(task) = self.tasks.get_mut(partition as usize).and_then(Option::as_mut) else { return Ok(Vec::new()) };
        if task.converted {
            // Going back in memory would take the conversion back too.
            self.bring_up_again(partition)?;
            return Ok(Vec::new());
        }
        let partitions: Vec<TopicPartition> = task.partitions().collect();
        self.consumer.halt(&partitions)?;
        let now_ms = self.equipment.runtime.now_ms();
        if task.undo_going_over(&self.plan)
            && let Some(slot) = self.slots.get_mut(&partition)
        {
            slot.begins_anew();
        }
        let may_leave = self.is_on_trial(partition as usize);
        let Some(task) = self.tasks.get_mut(partition as usize).and_then(Option::as_mut) else { return Ok(Vec::new()) };
        let instances = match instantiate(&task.plan, partition, now_ms) {
            // What cannot be opened again is refused like what fails.
            Err(failure) if may_leave => {
                leave(task, &self.plan);
                self.note_refused(partition, &failure.to_string());
                instantiate(&self.plan, partition, now_ms)?
            }
            opened => opened?,
        };
        let Some(task) = self.tasks.get_mut(partition as usize).and_then(Option::as_mut) else { return Ok(Vec::new()) };
        task.roll_back(instances);
        let patience = self.slots.get(&partition).and_then(|slot| slot.patience.as_ref());
        let starts = patience.is_none_or(|patience| patience.resumed);
        Ok(if starts { task.positions() } else { Vec::new() })
    }

    /// Nothing that this thread holds can be believed: takes its transactional id over again, which settles what was open, and
    /// brings its tasks up from what Kafka says.
    pub(super) fn recover(&mut self, reason: &str) -> Result<(), Failure> {
        warn!(pipeline = self.plan.pipeline, "asking kafka what was committed: {reason}");
        self.counters.aborted();
        self.committer.drop_under_way();
        let held: Vec<(u32, Vec<TopicPartition>)> = self
            .slots
            .iter()
            .filter_map(|(&number, slot)| {
                let partition = i32::try_from(number).ok()?;
                Some((number, slot.assigned.iter().map(|&input| TopicPartition { input, partition }).collect()))
            })
            .collect();
        for (number, partitions) in &held {
            self.consumer.halt(partitions)?;
            self.drop_task(*number);
        }
        self.open_outbox()?;
        for (number, slot) in &mut self.slots {
            slot.patience = None;
            if slot.assigned.len() == self.plan.sources.len() {
                slot.attempt = Some(self.restorer.begin(*number));
            }
        }
        self.begin_interval();
        Ok(())
    }

    /// A new producer; the one before is dropped, with what it has not written.
    pub(super) fn open_outbox(&mut self) -> Result<(), Failure> {
        let consumer = &mut self.consumer;
        self.outbox = open_outbox(&self.equipment, &self.plan, &self.name, || {
            consumer.fetch(0, 0, Duration::ZERO, |_| {}).map(|_| ()).map_err(Failure::from)
        })?;
        Ok(())
    }

    /// Somebody else claimed a task that Kafka still assigns to this thread: whoever it was, Kafka decides.
    pub(super) fn claim_again(&mut self, partition: u32) -> Result<(), Failure> {
        let task = self.plan.task(partition);
        warn!(%task, "the head is not what this thread wrote last; the task is assigned here: claiming it again");
        self.bring_up_again(partition)
    }

    fn bring_up_again(&mut self, partition: u32) -> Result<(), Failure> {
        let partitions: Vec<TopicPartition> = task::partitions(partition, self.plan.sources.len()).collect();
        self.consumer.halt(&partitions)?;
        self.drop_task(partition);
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.attempt = Some(self.restorer.begin(partition));
        }
        Ok(())
    }

    /// Takes a task back to its last commit and lets it stand for a while.
    pub(super) fn wait_for_plugin(&mut self, partition: usize, transform: usize) -> Result<(), Failure> {
        self.counters.retried(transform);
        let Some(task) = &self.tasks[partition] else { return Ok(()) };
        let (number, behind) = (task.partition, task.next.clone());
        let Some(slot) = self.slots.get_mut(&number) else { return Ok(()) };
        let pause = slot.patience.take().map_or(PATIENCE.0, |before| (before.pause * 2).min(PATIENCE.1));
        slot.patience = Some(Patience { until: self.equipment.runtime.now() + pause, pause, resumed: false, behind });
        if self.is_exactly_once() {
            // The other tasks' outputs are in the same transaction, or are held back for the same.
            self.committer.take_back(&self.tasks, "a plugin asks for patience");
            return Ok(());
        }
        self.roll_back(number).map(drop)
    }

    /// Resumes tasks whose plugin asked for patience, and ends care that is not needed any more.
    pub(super) fn patience(&mut self) -> Result<(), Failure> {
        let now = self.equipment.runtime.now();
        for (&partition, slot) in &mut self.slots {
            slot.careful.take_if(|careful| careful.is_over(now));
            let (Some(patience), Some(Some(task))) = (&mut slot.patience, self.tasks.get(partition as usize)) else {
                continue;
            };
            if !patience.resumed && now >= patience.until {
                patience.resumed = true;
                self.consumer.start(&task.positions(), START_WAIT)?;
            }
        }
        Ok(())
    }
}

/// A producer that may send: under exactly-once one that has taken its transactional id over. While Kafka is away, or lets
/// an earlier transaction end, calls `meanwhile`; a drain is not waited out.
pub(super) fn open_outbox<K: Kafka>(
    equipment: &Equipment<K>,
    plan: &Plan,
    name: &str,
    mut meanwhile: impl FnMut() -> Result<(), Failure>,
) -> Result<Outbox<K>, Failure> {
    let open = || Outbox::new(&equipment.kafka, plan, name.to_owned(), Arc::clone(&equipment.runtime));
    let mut outbox = open()?;
    let mut said = equipment.runtime.now();
    while plan.guarantee == Guarantee::ExactlyOnce && !equipment.control.is_draining() {
        let text = match outbox.init_transactions(INIT_WAIT) {
            Ok(()) => break,
            Err(error @ TransactionError::Refused { .. }) => return Err(error.into()),
            Err(TransactionError::Again { text } | TransactionError::Abort { text }) => text,
            Err(TransactionError::Rebuild { text }) => {
                equipment.runtime.sleep(INIT_WAIT);
                outbox = open()?;
                text
            }
        };
        if equipment.runtime.since(said) >= INIT_MESSAGE {
            said = equipment.runtime.now();
            warn!(pipeline = plan.pipeline, "waiting for kafka to take the transactional id `{name}`: {text}");
        }
        meanwhile()?;
    }
    Ok(outbox)
}

/// New instances for a task.
pub(super) fn instantiate(plan: &Plan, partition: u32, now_ms: i64) -> Result<Vec<Instance>, Failure> {
    task::instantiate(plan, partition, now_ms).map_err(|(at, error)| {
        let transform = plan.transforms[at].name.clone();
        Failure::Open { transform, error }
    })
}
