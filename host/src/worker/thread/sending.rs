//! Where the records of a batch go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::error;

use super::switching::Tally;
use super::{Equipment, Thread};
use crate::config::Guarantee;
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::producer::{FlushError, SendError};
use crate::kafka::transaction::TransactionError;
use crate::lineage;
use crate::record::{Batch, Emission, RecordView, Reject};
use crate::worker::careful::Trouble;
use crate::worker::chain::{Destination, Unsent};
use crate::worker::control::Control;
use crate::worker::counters::Counters;
use crate::worker::dead_letter;
use crate::worker::failure::Failure;
use crate::worker::outbox::Outbox;
use crate::worker::plan::{FailingRecords, Plan};
use crate::worker::runtime::Runtime;
use crate::worker::task;

/// So many records that are put aside are logged each, then one in a thousand.
const ALL_LOGGED: u64 = 10;
/// While the thread waits for Kafka to take records, the group is served this often.
const SERVE_EVERY: Duration = Duration::from_millis(100);
/// How long is waited for acknowledgements within a batch. A commit waits longer.
const ACKNOWLEDGED_WAIT: Duration = Duration::from_secs(5);

/// The destination of a chain: the outbox, and what happens to rejected records.
pub(super) struct Sending<'a, K: Kafka> {
    plan: &'a Plan,
    runtime: &'a dyn Runtime,
    outbox: &'a mut Outbox<K>,
    consumer: &'a mut K::Consumer,
    control: &'a Control,
    counters: &'a mut Counters,
    served: Instant,
    attempt: u32,
    tally: &'a mut Tally,
}

impl<'a, K: Kafka> Sending<'a, K> {
    pub(super) fn new(
        plan: &'a Plan,
        equipment: &'a Equipment<K>,
        outbox: &'a mut Outbox<K>,
        consumer: &'a mut K::Consumer,
        counters: &'a mut Counters,
        tally: &'a mut Tally,
    ) -> Self {
        let (runtime, control) = (&*equipment.runtime, &*equipment.control);
        Self { plan, runtime, outbox, consumer, control, counters, served: runtime.now(), attempt: 1, tally }
    }

    /// What is sent from now on is of a record that is tried for the so many-th time.
    pub(super) fn attempt(&mut self, attempt: u32) {
        self.attempt = attempt;
    }

    /// Sends records that were made of those of `batch`.
    pub(super) fn deliver<'r>(
        &mut self,
        sink: usize,
        batch: &Batch,
        records: impl Iterator<Item = RecordView<'r>>,
    ) -> Result<(), Unsent<Box<Failure>>> {
        let partition = batch.runs.first().map_or(0, |run| run.partition);
        let Self { runtime, outbox, consumer, control, served, .. } = self;
        let mut fatal = None;
        let mut meanwhile = || {
            // The membership is kept alive; what the group wants is done when the batch is through.
            if runtime.since(*served) >= SERVE_EVERY {
                *served = runtime.now();
                fatal = consumer.fetch(0, 0, Duration::ZERO, |_| {}).err();
            }
            fatal.is_none() && !control.is_overdue()
        };
        let mut refused = Vec::new();
        for record in records {
            match outbox.send(sink, &record, partition, &mut meanwhile) {
                Ok(()) => {}
                Err(error @ SendError::TooLarge) => {
                    refused.push((record.cause, format!("{error} (topic {})", self.plan.sinks[sink].topic)));
                }
                Err(SendError::QueueFull) => {
                    return Err(Unsent::Failed(Box::new(match fatal {
                        Some(fatal) => fatal.into(),
                        None => Failure::Undrained { waiting_for: "kafka to take the output".into() },
                    })));
                }
                Err(error) if self.plan.guarantee == Guarantee::ExactlyOnce && error.is_of_transaction() => {
                    let text = error.to_string();
                    return Err(Unsent::Failed(Box::new(TransactionError::Abort { text }.into())));
                }
                Err(error) => {
                    let origin = task::origin(self.plan, batch, record.cause);
                    let topic = self.plan.sinks[sink].topic.clone();
                    return Err(Unsent::Failed(Box::new(Failure::Send { topic, origin, error })));
                }
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(Unsent::Refused(refused)) }
    }

    /// Sends what was emitted, with headers that say where it comes from.
    fn send_stamped(&mut self, sink: usize, stamped: Batch, emission: &Emission) -> Result<(), Unsent<Box<Failure>>> {
        if self.outbox.is_closed() {
            self.outbox.hold(sink, stamped);
            return Ok(());
        }
        self.deliver(sink, &stamped, stamped.records()).map_err(|unsent| match (unsent, &emission.causes) {
            (Unsent::Refused(refused), Some(causes)) => {
                let cause = |index: u32| causes.get(index as usize).copied().unwrap_or(index);
                Unsent::Refused(refused.into_iter().map(|(index, reason)| (cause(index), reason)).collect())
            }
            (unsent, _) => unsent,
        })
    }

    /// Does with records of `batch`, by index, what the pipeline does with those that a transform has trouble with.
    fn put_aside(&mut self, transform: usize, batch: &Batch, troubles: &[(u32, &Trouble)]) -> Result<(), Box<Failure>> {
        let FailingRecords::DeadLetter { sink } = self.plan.failing else { return Ok(()) };
        let letters = dead_letter::letters(self.plan, transform, batch, troubles, self.attempt, self.runtime.now_ms());
        self.counters.dead_letters(transform, letters.len());
        if self.outbox.is_closed() {
            self.outbox.hold(sink, letters);
            return Ok(());
        }
        self.deliver(sink, &letters, letters.records()).map_err(|unsent| self.lost_letter(sink, &letters, unsent))
    }

    /// A dead letter that is refused cannot become another one.
    fn lost_letter(&self, sink: usize, letters: &Batch, unsent: Unsent<Box<Failure>>) -> Box<Failure> {
        match unsent {
            Unsent::Failed(failure) => failure,
            Unsent::Refused(refused) => {
                let origin = task::origin(self.plan, letters, refused.first().map_or(0, |(cause, _)| *cause));
                let topic = self.plan.sinks[sink].topic.clone();
                Box::new(Failure::Send { topic, origin, error: SendError::TooLarge })
            }
        }
    }
}

impl<K: Kafka> Destination for Sending<'_, K> {
    type Error = Box<Failure>;

    fn send(&mut self, sink: usize, batch: &Batch, emission: &Emission) -> Result<(), Unsent<Box<Failure>>> {
        if let Some(made_by) = &self.plan.sinks[sink].provenance {
            let topic = |input: u32| Some(self.plan.sources.get(input as usize)?.topic.as_str());
            let stamped = lineage::stamped(topic, made_by, batch, emission);
            return self.send_stamped(sink, stamped, emission);
        }
        if self.outbox.is_closed() {
            let mut held = Batch::default();
            held.append_emitted(batch, emission);
            self.outbox.hold(sink, held);
            return Ok(());
        }
        self.deliver(sink, batch, emission.records(batch))
    }

    fn reject(&mut self, transform: usize, batch: &Batch, rejects: &[Reject]) -> Result<(), Box<Failure>> {
        let name = &self.plan.transforms[transform].name;
        // One that is rejected twice counts once.
        let mut troubles: BTreeMap<u32, Trouble> = BTreeMap::new();
        for Reject { index, reason } in rejects {
            let trouble = || Trouble { kind: "rejected", reason: reason.clone() };
            troubles.entry(*index).or_insert_with(trouble);
        }
        self.tally.rejected(transform, troubles.len());
        for (index, trouble) in &troubles {
            let count = self.counters.rejected(transform);
            let origin = || task::origin(self.plan, batch, *index);
            if self.plan.failing == FailingRecords::Stop {
                let (transform, origin, reason) = (name.clone(), origin(), trouble.reason.clone());
                return Err(Box::new(Failure::Rejected { transform, origin, reason }));
            }
            if is_logged(count) {
                let (origin, reason) = (origin(), trouble.one_line());
                error!(transform = name, %origin, rejected = count, "put aside a record that was rejected: {reason}");
            }
        }
        let troubles: Vec<(u32, &Trouble)> = troubles.iter().map(|(index, trouble)| (*index, trouble)).collect();
        self.put_aside(transform, batch, &troubles)
    }

    fn failed(&mut self, transform: usize, batch: &Batch, trouble: &Trouble) -> Result<(), Box<Failure>> {
        let count = self.counters.failed(transform);
        self.tally.rejected(transform, 1);
        let name = &self.plan.transforms[transform].name;
        let origin = task::origin(self.plan, batch, 0);
        if self.plan.failing == FailingRecords::Stop {
            let (transform, trouble) = (name.clone(), trouble.clone());
            return Err(Box::new(Failure::Failed { transform, origin, trouble }));
        }
        if is_logged(count) {
            let reason = trouble.one_line();
            error!(transform = name, %origin, failed = count, "put aside a record that the plugin fails on: {reason}");
        }
        self.put_aside(transform, batch, &[(0, trouble)])
    }

    fn acknowledged(&mut self) -> Result<Option<String>, Box<Failure>> {
        let begin = self.runtime.now();
        loop {
            let error = match self.outbox.flush(SERVE_EVERY) {
                Ok(_) => return Ok(None),
                Err(error) => error,
            };
            match error {
                FlushError::TimedOut { .. } if self.runtime.since(begin) < ACKNOWLEDGED_WAIT => {
                    self.consumer.fetch(0, 0, Duration::ZERO, |_| {}).map_err(Failure::from)?;
                }
                FlushError::Refused { ref first, .. } if self.plan.is_fault_of_record(first) => {
                    return Ok(Some(first.to_string()));
                }
                FlushError::Refused { ref first, .. } if first.is_final() => return Err(Box::new(error.into())),
                // Without transactions the producer does not recover.
                FlushError::Refused { .. } | FlushError::Fatal { .. }
                    if self.plan.guarantee == Guarantee::AtLeastOnce =>
                {
                    return Err(Box::new(error.into()));
                }
                error => {
                    let text = error.to_string();
                    return Err(Box::new(TransactionError::Abort { text }.into()));
                }
            }
        }
    }

    fn processed(&mut self, transform: usize, records: usize, time: Duration) {
        self.tally.processed(transform, records, time);
        self.counters.processed(transform, time);
    }

    fn call_failed(&mut self, transform: usize) {
        self.counters.call_failed(transform);
    }
}

impl<K: Kafka> Thread<K> {
    /// Sends, in a transaction of their own, outputs that were held back during a commit.
    pub(super) fn send_held(&mut self) -> Result<(), Failure> {
        let held = self.outbox.open();
        if held.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.outbox.begin() {
            return self.transaction_failed(error);
        }
        let plan = Arc::clone(&self.plan);
        // What was held back is counted already.
        let mut tally = Tally::default();
        for (sink, batch) in &held {
            let Self { equipment, outbox, consumer, counters, .. } = self;
            let mut sending = Sending::new(&plan, equipment, outbox, consumer, counters, &mut tally);
            match sending.deliver(*sink, batch, batch.records()) {
                Ok(()) => {}
                Err(unsent @ Unsent::Refused(_)) if plan.is_dead_letters(*sink) => {
                    return Err(*sending.lost_letter(*sink, batch, unsent));
                }
                Err(Unsent::Refused(refused)) => {
                    let partition = batch.runs.first().and_then(|run| usize::try_from(run.partition).ok());
                    let reason = refused.first().map_or("", |(_, reason)| reason);
                    return self.go_carefully(partition.unwrap_or(0), reason, |_| {});
                }
                Err(Unsent::Failed(failure)) => return self.not_delivered(*failure),
            }
        }
        self.counters.sent(&mut self.outbox);
        Ok(())
    }

    pub(super) fn not_delivered(&mut self, failure: Failure) -> Result<(), Failure> {
        match failure {
            Failure::Transaction(error) => self.transaction_failed(error),
            failure => Err(failure),
        }
    }
}

fn is_logged(count: u64) -> bool {
    count <= ALL_LOGGED || count.is_multiple_of(1000)
}
