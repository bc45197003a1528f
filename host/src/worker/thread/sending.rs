//! Where the records of a batch go.

use std::time::{Duration, Instant};

use tracing::error;

use crate::config::{Guarantee, OnError};
use crate::kafka::clients::{ConsumerClient, Kafka};
use crate::kafka::producer::SendError;
use crate::kafka::transaction::TransactionError;
use crate::record::{Batch, Emission, Reject};
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
    pub(super) plan: &'a Plan,
    pub(super) runtime: &'a dyn Runtime,
    pub(super) outbox: &'a mut Outbox<K>,
    pub(super) consumer: &'a mut K::Consumer,
    pub(super) control: &'a Control,
    pub(super) counters: &'a mut Counters,
    pub(super) served: Instant,
}

impl<K: Kafka> Destination for Sending<'_, K> {
    type Error = Box<Failure>;

    fn send(&mut self, sink: usize, batch: &Batch, emission: &Emission) -> Result<(), Box<Failure>> {
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
        for record in emission.records(batch) {
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

fn log_reject(transform: &str, origin: &Origin, reason: &str, count: u64) {
    error!(transform, %origin, rejected = count, "skipped a record that was rejected: {reason}");
}
