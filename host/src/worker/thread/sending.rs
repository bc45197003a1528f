//! Where the records of a batch go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::error;

use super::{Equipment, Thread};
use crate::config::{Guarantee, OnError};
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::producer::SendError;
use crate::kafka::transaction::TransactionError;
use crate::record::{Batch, Emission, RecordView, Reject};
use crate::worker::chain::Destination;
use crate::worker::control::Control;
use crate::worker::counters::Counters;
use crate::worker::failure::{Failure, Origin};
use crate::worker::outbox::Outbox;
use crate::worker::plan::Plan;
use crate::worker::runtime::Runtime;
use crate::worker::task;

/// The first so many rejected records are logged, then one in a thousand.
const REJECTS_LOGGED: u64 = 10;

/// The destination of a chain: the outbox, and what happens to rejected records.
pub(super) struct Sending<'a, K: Kafka> {
    plan: &'a Plan,
    runtime: &'a dyn Runtime,
    outbox: &'a mut Outbox<K>,
    consumer: &'a mut K::Consumer,
    control: &'a Control,
    counters: &'a mut Counters,
    served: Instant,
}

impl<'a, K: Kafka> Sending<'a, K> {
    pub(super) fn new(
        plan: &'a Plan,
        equipment: &'a Equipment<K>,
        outbox: &'a mut Outbox<K>,
        consumer: &'a mut K::Consumer,
        counters: &'a mut Counters,
    ) -> Self {
        let (runtime, control) = (&*equipment.runtime, &*equipment.control);
        Self { plan, runtime, outbox, consumer, control, counters, served: runtime.now() }
    }

    /// Sends records that were made of those of `batch`.
    pub(super) fn deliver<'r>(
        &mut self,
        sink: usize,
        batch: &Batch,
        records: impl Iterator<Item = RecordView<'r>>,
    ) -> Result<(), Box<Failure>> {
        let partition = batch.runs.first().map_or(0, |run| run.partition);
        let Self { runtime, outbox, consumer, control, served, .. } = self;
        let mut fatal = None;
        let mut meanwhile = || {
            // The membership is kept alive; what the group wants is done when the batch is through.
            if runtime.since(*served) >= Duration::from_millis(100) {
                *served = runtime.now();
                fatal = consumer.fetch(0, 0, Duration::ZERO, |_| {}).err();
            }
            fatal.is_none() && !control.is_overdue()
        };
        for record in records {
            match outbox.send(sink, &record, partition, &mut meanwhile) {
                Ok(()) => {}
                Err(SendError::QueueFull) => {
                    return Err(Box::new(match fatal {
                        Some(fatal) => fatal.into(),
                        None => Failure::Undrained { waiting_for: "kafka to take the output".into() },
                    }));
                }
                Err(error) if self.plan.guarantee == Guarantee::ExactlyOnce && error.is_of_transaction() => {
                    let text = error.to_string();
                    return Err(Box::new(TransactionError::Abort { text }.into()));
                }
                Err(error) => {
                    let origin = task::origin(self.plan, batch, record.cause);
                    let topic = self.plan.sinks[sink].topic.clone();
                    return Err(Box::new(Failure::Send { topic, origin, error }));
                }
            }
        }
        Ok(())
    }
}

impl<K: Kafka> Destination for Sending<'_, K> {
    type Error = Box<Failure>;

    fn send(&mut self, sink: usize, batch: &Batch, emission: &Emission) -> Result<(), Box<Failure>> {
        if self.outbox.is_closed() {
            self.outbox.hold(sink, batch, emission);
            return Ok(());
        }
        self.deliver(sink, batch, emission.records(batch))
    }

    fn reject(&mut self, transform: usize, batch: &Batch, rejects: &[Reject]) -> Result<(), Box<Failure>> {
        let name = &self.plan.transforms[transform].name;
        for reject in rejects {
            let origin = task::origin(self.plan, batch, reject.index);
            let count = self.counters.rejected(transform);
            if self.plan.on_error == OnError::Stop {
                let reason = reject.reason.clone();
                return Err(Box::new(Failure::Rejected { transform: name.clone(), origin, reason }));
            }
            if count <= REJECTS_LOGGED || count.is_multiple_of(1000) {
                log_reject(name, &origin, &reject.reason, count);
            }
        }
        Ok(())
    }

    fn processed(&mut self, transform: usize, _records: usize, time: Duration) {
        self.counters.processed(transform, time);
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
        let mut sending =
            Sending::new(&plan, &self.equipment, &mut self.outbox, &mut self.consumer, &mut self.counters);
        let sent = held.iter().try_for_each(|(sink, batch)| sending.deliver(*sink, batch, batch.records()));
        self.counters.sent(&mut self.outbox);
        sent.or_else(|failure| self.not_delivered(*failure))
    }

    pub(super) fn not_delivered(&mut self, failure: Failure) -> Result<(), Failure> {
        match failure {
            Failure::Transaction(error) => self.transaction_failed(error),
            failure => Err(failure),
        }
    }
}

fn log_reject(transform: &str, origin: &Origin, reason: &str, count: u64) {
    error!(transform, %origin, rejected = count, "skipped a record that was rejected: {reason}");
}
