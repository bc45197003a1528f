//! Dead letters that are processed again: each by itself, where it failed, with care.

use std::sync::Arc;

use tracing::{info, warn};

use super::Thread;
use super::sending::Sending;
use crate::kafka::clients::Kafka;
use crate::worker::careful::{self, Careful};
use crate::worker::dead_letter::{self, Order};
use crate::worker::failure::Failure;

impl<K: Kafka> Thread<K> {
    /// Does what the orders say that have come for a task. Not during a commit: what Kafka refuses has to be refused at once.
    pub(super) fn replay(&mut self, partition: usize) -> Result<(), Failure> {
        let plan = Arc::clone(&self.plan);
        let Some(task) = &mut self.tasks[partition] else { return Ok(()) };
        let Some(slot) = self.slots.get_mut(&task.partition) else { return Ok(()) };
        if self.outbox.is_closed() {
            return Ok(());
        }
        let letters = task.take_letters(plan.inputs);
        if letters.is_empty() {
            return Ok(());
        }
        task.advance(&letters);
        self.counters.taken(&letters);
        let runtime = &*self.equipment.runtime;
        for ((_, _, offset), record) in letters.origins().zip(letters.records()) {
            let Some(Order { transform, mut batch, attempt }) = dead_letter::order(&plan, &record) else {
                if let Some(of) = dead_letter::header(&record, dead_letter::REPLAY_OF)
                    && dead_letter::header(&record, dead_letter::PIPELINE) == Some(&plan.pipeline)
                {
                    warn!(
                        pipeline = plan.pipeline,
                        offset,
                        "cannot process dead letter {of} again: its transform is not there, or its headers are damaged"
                    );
                }
                continue;
            };
            let (_, careful) = slot
                .replaying
                .take()
                .filter(|(known, _)| *known == offset)
                .unwrap_or_else(|| (offset, Careful::new(runtime.now())));
            let (_, careful) = slot.replaying.insert((offset, careful));
            info!(task = %plan.task(task.partition), offset, attempt = attempt + 1, "processing a dead letter again");
            let mut sending =
                Sending::new(&plan, &self.equipment, &mut self.outbox, &mut self.consumer, &mut self.counters);
            sending.attempt(attempt + 1);
            let passed = careful::Run::new(&plan, runtime, careful, task).through(transform, &mut batch, &mut sending);
            self.counters.sent(&mut self.outbox);
            if let Err(error) = passed {
                return self.not_processed(partition, error);
            }
        }
        slot.replaying = None;
        Ok(())
    }
}
