//! State of another schema version, made beside the running version of a task before it goes over: what has to be converted is
//! taken out of the task here, converted on another thread, and put beside it.

use std::sync::Arc;

use futures::FutureExt;

use super::Thread;
use crate::kafka::clients::Kafka;
use crate::record::Column;
use crate::worker::candidate::Candidate;
use crate::worker::migration::{Converter, Copying, Migration, Page};

/// A page that was away.
pub(super) struct Converted {
    partition: u32,
    page: Page,
    outcome: Result<(Converter, Column), String>,
}

impl<K: Kafka> Thread<K> {
    /// Takes in what has been converted, and sends out what is next.
    pub(super) fn copy_state(&mut self, candidate: &Arc<Candidate>) {
        while let Some(converted) = self.spares.converted() {
            self.take_converted(converted);
        }
        if candidate.routes.is_empty() || candidate.is_called_off() {
            return;
        }
        let mut refused = Vec::new();
        for task in self.tasks.iter_mut().flatten() {
            let Some(slot) = self.slots.get_mut(&task.partition) else { continue };
            if slot.tally.is_refused() || Arc::ptr_eq(&task.plan, &candidate.plan) {
                continue;
            }
            if task.migration.is_none() {
                let copying = Copying::new(Arc::clone(&candidate.routes), &mut task.state);
                task.migration = Some(Migration::Copying(Box::new(copying)));
                task.dirty |= task.former.make_anew(&candidate.routes);
            }
            let Some(Migration::Copying(copying)) = &mut task.migration else { continue };
            let is_ready = copying.is_ready(&task.state);
            slot.tally.is_ready(is_ready);
            // What is left is copied in the switch: more that goes out would only keep the task from it.
            if is_ready && candidate.is_wanted(task.partition) {
                continue;
            }
            if copying.is_outrun() {
                refused.push(task.partition);
                continue;
            }
            let next = copying.next_page(&mut task.state);
            task.dirty |= task.state.has_changed();
            let Some((page, converter)) = next else { continue };
            let (runtime, partition, candidate) =
                (Arc::clone(&self.equipment.runtime), task.partition, Arc::clone(candidate));
            let answer = self.spares.answer();
            let work = async move {
                let now_ms = runtime.now_ms();
                let convert = move || convert(&candidate, partition, page, converter, now_ms);
                if let Some(converted) = runtime.blocking(Box::new(convert)).await {
                    // The thread may have gone.
                    let _ = answer.send(converted);
                }
            };
            self.equipment.runtime.spawn(work.boxed());
        }
        for partition in refused {
            self.give_up_copying(partition, "its state changes faster than it is converted");
        }
    }

    fn take_converted(&mut self, converted: Converted) {
        let Converted { partition, page, outcome } = converted;
        let Some(task) = self.tasks.get_mut(partition as usize).and_then(Option::as_mut) else { return };
        // It was for a task that has come up anew since, or for another candidate.
        let Some(Migration::Copying(copying)) = &mut task.migration else { return };
        if !copying.awaits(&page) {
            return;
        }
        match outcome {
            Ok((converter, values)) => task.dirty |= copying.take(page, converter, values, &mut task.state),
            Err(reason) if copying.failed(&page) => self.give_up_copying(partition, &reason),
            Err(_) => {}
        }
    }

    fn give_up_copying(&mut self, partition: u32, reason: &str) {
        if let Some(task) = self.tasks.get_mut(partition as usize).and_then(Option::as_mut) {
            task.migration = None;
        }
        self.note_refused(partition, reason);
    }
}

fn convert(candidate: &Candidate, partition: u32, page: Page, converter: Option<Converter>, now_ms: i64) -> Converted {
    let opened = converter.map_or_else(|| candidate.converter(partition, now_ms), Ok);
    let outcome = opened.and_then(|mut converter| {
        let route = &candidate.routes[page.route];
        let values = converter.convert(route, page.keys.clone(), page.values.clone(), now_ms);
        values.map(|values| (converter, values)).map_err(|error| error.to_string())
    });
    Converted { partition, page, outcome }
}
