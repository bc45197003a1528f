//! A task that has gone over to a version which converts its state back: each of its commits holds both forms.

use super::{Converter, PAGE_ENTRIES, Put, Route, put_again};
use crate::engine::MigrateError;
use crate::record::Column;
use crate::state::{Slot, TaskState};

/// Keeps the stores of the version before beside those of the candidate, entry for entry, in each commit.
#[derive(Debug)]
pub struct Mirror {
    routes: Vec<Route>,
    converter: Converter,
    /// What was copied in the switch, while that is not committed: going back to the commit before takes it away.
    unsettled: Vec<Put>,
}

impl Mirror {
    /// Just now, with what was copied in the switch.
    pub(super) fn after(unsettled: Vec<Put>, routes: &[Route], converter: Converter) -> Self {
        Self { unsettled, ..Self::new(routes, converter) }
    }

    /// For what was copied by these routes.
    #[must_use]
    pub fn new(routes: &[Route], converter: Converter) -> Self {
        Self { routes: routes.iter().map(Route::back).collect(), converter, unsettled: Vec::new() }
    }

    /// The stores that are kept, with the schema version that they have.
    pub fn kept(&self) -> impl Iterator<Item = (String, u32)> {
        self.routes.iter().map(|route| (route.conversion.store.clone(), route.conversion.to))
    }

    /// The switch is committed.
    pub fn settle(&mut self) {
        self.unsettled.clear();
    }

    /// The task has gone back to its last commit, which may be the one before the switch. Whether anything was put again.
    pub fn redo(&mut self, state: &mut TaskState) -> bool {
        put_again(&self.unsettled, state)
    }

    /// Before changes are sealed: copies what has changed.
    ///
    /// # Errors
    /// An entry cannot be converted.
    pub fn copy_changes(&mut self, state: &mut TaskState, now_ms: i64) -> Result<(), MigrateError> {
        for route in &self.routes {
            let (source, target) = (state.number(&route.source), state.number(&route.target));
            let slots: Vec<Slot> = state.store(source).changed().collect();
            for slots in slots.chunks(PAGE_ENTRIES) {
                let (mut keys, mut values, mut gone) = (Column::default(), Column::default(), Vec::new());
                for slot in slots {
                    match state.store(source).entry(*slot) {
                        (key, Some(value)) => {
                            keys.push(Some(key));
                            values.push(Some(value));
                        }
                        (key, None) => gone.push(key.to_vec()),
                    }
                }
                if !keys.is_empty() {
                    let values = self.converter.convert(route, keys.clone(), values, now_ms)?;
                    Put { target, keys, values }.apply(state);
                }
                gone.iter().for_each(|key| state.store_mut(target).put(key, None));
            }
        }
        Ok(())
    }
}
