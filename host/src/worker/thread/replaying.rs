//! Dead letters that are processed again: each by itself, where it failed, with care.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Thread;
use super::sending::Sending;
use crate::kafka::clients::Kafka;
use crate::worker::careful::{self, Careful, CarefulError};
use crate::worker::dead_letter::{self, Order};
use crate::worker::failure::Failure;

/// Orders are followed for so long at a time.
const TURN_MAX: Duration = Duration::from_millis(500);

impl<K: Kafka> Thread<K> {
    /// Does what the orders say that have come for a task. Not during a commit: what Kafka refuses has to be refused at once.
    pub(super) fn replay(&mut self, partition: usize) -> Result<(), CarefulError<Box<Failure>>> {
        let Some(task) = &mut self.tasks[partition] else { return Ok(()) };
        let plan = Arc::clone(&task.plan);
        let Some(slot) = self.slots.get_mut(&task.partition) else { return Ok(()) };
        if self.outbox.is_closed() {
            return Ok(());
        }
        let letters = task.take_letters(plan.inputs);
        if letters.is_empty() {
            return Ok(());
        }
        self.counters.taken(&letters);
        let runtime = &*self.equipment.runtime;
        let began = runtime.now();
        // Of several, one may go back while others have gone through: what is known stays until it is committed.
        let committed = task.committed.get(plan.inputs).copied().unwrap_or_default();
        slot.replaying.retain(|offset, _| *offset >= committed);
        for (number, ((_, _, offset), record)) in letters.origins().zip(letters.records()).enumerate() {
            if runtime.since(began) >= TURN_MAX {
                // The group and the transaction do not wait for ever.
                task.put_letters_back(plan.inputs, letters.range(number, letters.len()));
                return Ok(());
            }
            task.advance_to(plan.inputs, offset + 1);
            let Some(Order { transform, mut batch, attempt }) = dead_letter::order(&plan, &record) else {
                if let Some(of) = dead_letter::header(&record, dead_letter::REPLAY_OF)
                    && dead_letter::header(&record, dead_letter::PIPELINE) == Some(&plan.pipeline)
                {
                    warn!(
                        pipeline = plan.pipeline,
                        offset,
                        "cannot process dead letter {of} again: its transform or its source is not there any more, or its headers are damaged"
                    );
                }
                continue;
            };
            task.end_shadow();
            let careful = slot.replaying.entry(offset).or_insert_with(|| {
                let mut careful = Careful::new(runtime.now());
                // It is done by itself: what Kafka refuses of it is refused at once.
                careful.must_acknowledge();
                careful
            });
            let attempt = attempt.saturating_add(1);
            info!(task = %plan.task(task.partition), offset, attempt, "processing a dead letter again");
            let mut sending = Sending::new(
                &plan,
                &self.equipment,
                &mut self.outbox,
                &mut self.consumer,
                &mut self.counters,
                &mut slot.tally,
            );
            sending.attempt(attempt);
            let passed = careful::Run::new(&plan, runtime, careful, task).through(transform, &mut batch, &mut sending);
            self.counters.sent(&mut self.outbox);
            passed?;
        }
        Ok(())
    }
}
