//! One running instance of a plugin, and the calls into it.
//!
//! A call borrows the caller's batch and state by swapping buffers and gives both back however it ends. After an error the
//! instance is dead; a new one is made with [`Plugin::instantiate`](super::Plugin::instantiate).

use std::sync::Arc;
use std::time::Duration;

use tracing::Level as LogLevel;
use wasmtime::component::{Resource, TypedFunc};

use super::abi::{Failure, Level};
use super::error::{CallError, Scene, classify};
use super::guest::{BatchHandle, Guest, Phase};
use super::rejects::drop_rejected;
use crate::record::{Batch, Output};
use crate::state::TransformState;

/// How often the engine looks at deadlines: a call may run this much longer than its limit.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// What is called again and again; `open` is called once.
pub(super) struct Exports {
    pub(super) process: TypedFunc<(Resource<BatchHandle>,), (Result<(), Failure>,)>,
    pub(super) flush: TypedFunc<(), (Result<(), Failure>,)>,
}

/// An opened plugin instance. Calls run on the caller's thread, which needs 1 MiB of stack to spare, and never inside an
/// async task: a guest that writes to its standard streams blocks on a runtime of its own.
pub struct Instance {
    pub(super) store: wasmtime::Store<Guest>,
    pub(super) exports: Exports,
    pub(super) dead: bool,
    /// As the plugin's limits have it.
    pub(super) time_per_call: Duration,
}

impl Instance {
    /// Processes a batch. `now_ms` is the processing time that the guest sees, in milliseconds since 1970; an earlier one than
    /// before counts as the one before. An empty batch is not sent.
    ///
    /// The output's outlets are numbered as in [`Instance::outlets`]. What was emitted for rejected records is gone from it
    /// already. Give it to [`Instance::recycle`] when it has been read.
    ///
    /// # Errors
    /// The call failed as a whole and put out nothing. `state` holds what it had put by then: roll it back. `batch` is as
    /// it was. The instance is dead.
    pub fn process(&mut self, batch: &mut Batch, state: &mut TransformState, now_ms: i64) -> Result<Output, CallError> {
        if batch.is_empty() && !self.dead {
            return Ok(Output::default());
        }
        self.store.data_mut().input.swap(batch);
        let process = self.exports.process;
        let called = self.call(Phase::Process, state, now_ms, |store| {
            // There is one batch at a time, so the handle needs no number.
            process.call(store, (Resource::new_borrow(0),))
        });
        let guest = self.store.data_mut();
        guest.input.swap(batch);
        let mut output = guest.emitter.take();
        called?;
        drop_rejected(&mut output);
        Ok(output)
    }

    /// Has the guest put what it holds back. To be called before each commit.
    ///
    /// # Errors
    /// As [`Instance::process`].
    pub fn flush(&mut self, state: &mut TransformState, now_ms: i64) -> Result<(), CallError> {
        let flush = self.exports.flush;
        self.call(Phase::Flush, state, now_ms, |store| flush.call(store, ()))
    }

    /// Processes a batch and has the guest put back what it holds: [`Instance::process`] and [`Instance::flush`], together or not at
    /// all. Takes time for each entry that has changed since the last commit.
    ///
    /// # Errors
    /// As [`Instance::process`], but `state` is as it was.
    pub fn process_apart(
        &mut self,
        batch: &mut Batch,
        state: &mut TransformState,
        now_ms: i64,
    ) -> Result<Output, CallError> {
        state.mark();
        let called = self.process(batch, state, now_ms);
        let called = called.and_then(|output| self.flush(state, now_ms).map(|()| output));
        match called {
            Ok(_) => state.keep_marked(),
            Err(_) => state.undo_marked(),
        }
        called
    }

    fn call(
        &mut self,
        phase: Phase,
        state: &mut TransformState,
        now_ms: i64,
        export: impl FnOnce(&mut wasmtime::Store<Guest>) -> wasmtime::Result<(Result<(), Failure>,)>,
    ) -> Result<(), CallError> {
        if self.dead {
            return Err(CallError::Dead);
        }
        std::mem::swap(&mut self.store.data_mut().state, state);
        begin(&mut self.store, phase, now_ms);
        let called = export(&mut self.store);
        std::mem::swap(&mut self.store.data_mut().state, state);
        let ended = match called {
            Ok((Ok(()),)) => Ok(()),
            Ok((Err(Failure::Input(reason)),)) => Err(CallError::Input(reason)),
            Ok((Err(Failure::Transient(reason)),)) => Err(CallError::Transient(reason)),
            Ok((Err(Failure::Fatal(reason)),)) => Err(CallError::Fatal(reason)),
            Err(error) => Err(classify(error, scene(&self.store))),
        };
        self.dead = ended.is_err();
        ended
    }

    /// Names of the outlets; [`Emission::outlet`](crate::record::Emission::outlet) counts in them. First the manifest's outputs,
    /// then, for a plugin with dynamic outputs, the others that were bound.
    #[must_use]
    pub fn outlets(&self) -> &[String] {
        &self.store.data().outlets
    }

    /// Takes back the buffers of an output that has been read.
    pub fn recycle(&mut self, output: Output) {
        self.store.data_mut().emitter.recycle(output);
    }

    /// Messages below this level are thrown away from the next call on.
    pub fn set_log_level(&mut self, level: LogLevel) {
        self.store.data_mut().log_level = log_level(level);
    }

    /// Bytes of linear memory that the guest has. It never shrinks.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.store.data().limiter.memory_bytes()
    }

    /// A call may take this long from the next one on, where the plugin's limits allow more.
    pub fn limit_call(&mut self, time: Duration) {
        let limits = &mut self.store.data_mut().limits;
        limits.time_per_call = time.min(self.time_per_call);
    }

    /// Whether a call has failed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("outlets", &self.outlets()).field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// Prepares a store for a call of any export.
pub(super) fn begin(store: &mut wasmtime::Store<Guest>, phase: Phase, now_ms: i64) {
    let guest = store.data_mut();
    guest.phase = phase;
    guest.limiter.memory_refused = false;
    guest.clock.advance(now_ms);
    guest.voice.refill(now_ms);
    // The current tick has begun already, so one more than fits; and one for the rounding.
    let ticks = guest.limits.time_per_call.as_nanos() / TICK.as_nanos() + 2;
    store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX / 2));
}

/// What is known about the end of the call that has just failed.
pub(super) fn scene(store: &wasmtime::Store<Guest>) -> Scene {
    let guest = store.data();
    Scene {
        stderr: guest.voice.stderr_tail(),
        memory_refused: guest.limiter.memory_refused,
        memory_limit: guest.limits.memory_bytes,
        deadline: guest.limits.time_per_call,
    }
}

pub(super) fn log_level(level: LogLevel) -> Level {
    match level {
        LogLevel::TRACE => Level::Trace,
        LogLevel::DEBUG => Level::Debug,
        LogLevel::INFO => Level::Info,
        LogLevel::WARN => Level::Warn,
        LogLevel::ERROR => Level::Error,
    }
}

/// The outlets that an instance may open, in the order of their numbers.
pub(super) fn outlets(declared: impl Iterator<Item = String>, dynamic: bool, bound: Vec<String>) -> Arc<[String]> {
    let mut outlets: Vec<String> = declared.collect();
    for name in bound {
        if dynamic && !outlets.contains(&name) {
            outlets.push(name);
        }
    }
    outlets.into()
}
