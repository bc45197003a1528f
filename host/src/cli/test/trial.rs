//! Runs a plugin in the sandbox, batch by batch, with a commit after each; finds the record that it fails on.
//!
//! Time that the plugin sees is the latest timestamp of the records so far, so that it gives the same each time.

use std::ops::Range;

use super::record;
use super::record::Outcome;
use crate::engine::{CallError, Instance, InstanceOptions, OpenError, Plugin, Remedy};
use crate::record::{Batch, Output};
use crate::state::TransformState;

/// A plugin that is tried.
pub(super) struct Trial<'a> {
    plugin: &'a Plugin,
    options: InstanceOptions,
    instance: Instance,
    /// The instance has processed something.
    used: bool,
    now_ms: i64,
    /// Its stores.
    pub(super) state: TransformState,
}

/// It failed on records, by their indices among all.
#[derive(Debug)]
pub(super) struct Failing {
    pub(super) records: Range<usize>,
    pub(super) batch: Batch,
    pub(super) error: CallError,
    /// Each of them was tried by itself, or there is one.
    pub(super) narrowed: bool,
}

/// A batch that could not be processed.
pub(super) enum Stopped {
    Open(OpenError),
    Failing(Box<Failing>),
}

impl From<OpenError> for Stopped {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl<'a> Trial<'a> {
    /// Opens the plugin.
    pub(super) fn new(plugin: &'a Plugin, options: InstanceOptions, state: TransformState) -> Result<Self, OpenError> {
        let instance = plugin.instantiate(options.clone())?;
        Ok(Self { plugin, options, instance, used: false, now_ms: 0, state })
    }

    /// Processes a batch and commits; what came of it goes to `outcomes`.
    ///
    /// # Errors
    /// It failed. What is in `outcomes` is of the records before the one that it failed on, if that could be found, and the state
    /// is the one behind them.
    pub(super) fn process(&mut self, batch: &Batch, outcomes: &mut Vec<Outcome>) -> Result<(), Stopped> {
        let mut first_failure = None;
        let mut pieces = vec![batch.clone()];
        while let Some(mut piece) = pieces.pop() {
            let error = match self.call(&mut piece) {
                Ok(output) => {
                    outcomes.extend(record::outcomes(&piece, &output, self.instance.outlets()));
                    self.instance.recycle(output);
                    self.used = true;
                    continue;
                }
                Err(error) => error,
            };
            self.instance = self.plugin.instantiate(self.options.clone())?;
            let used = std::mem::take(&mut self.used);
            match piece.len() {
                _ if error.remedy() != Remedy::Halve => return Err(failing(piece, error, false)),
                // Perhaps what the instance did before is to blame: once more, in a new one.
                1 if used => pieces.push(piece.clone()),
                1 => return Err(failing(piece, error, true)),
                count => {
                    pieces.push(piece.range(count / 2, count));
                    pieces.push(piece.range(0, count / 2));
                }
            }
            first_failure.get_or_insert((piece, error));
        }
        match first_failure {
            // Each by itself is fine.
            Some((piece, error)) => Err(failing(piece, error, true)),
            None => Ok(()),
        }
    }

    fn call(&mut self, batch: &mut Batch) -> Result<Output, CallError> {
        let latest = batch.timestamps.iter().copied().max().unwrap_or(0);
        self.now_ms = self.now_ms.max(latest);
        let output = self.instance.process_apart(batch, &mut self.state, self.now_ms)?;
        durable(&mut self.state);
        Ok(output)
    }
}

/// As after a commit: what has changed until now is not remembered any more.
pub(super) fn durable(state: &mut TransformState) {
    for store in &mut state.stores {
        store.seal();
        store.mark_durable();
    }
}

fn failing(batch: Batch, error: CallError, narrowed: bool) -> Stopped {
    let index = |offset: Option<&i64>| offset.and_then(|&offset| usize::try_from(offset).ok()).unwrap_or(0);
    let records = index(batch.offsets.first())..index(batch.offsets.last()) + 1;
    Stopped::Failing(Box::new(Failing { records, batch, error, narrowed }))
}
