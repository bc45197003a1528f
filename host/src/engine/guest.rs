//! What the host keeps for one instance: the data of its wasmtime store.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::abi::{ColumnOut, Level};
use super::emission::Emitter;
use super::input::Input;
use super::limits::{Limiter, Limits};
use super::voice::Voice;
use crate::state::TransformState;

/// Handle type of `input.batch`. There is one batch at a time, so it carries nothing.
pub(super) struct BatchHandle;
/// Handle type of `output.outlet`; its number is the outlet's.
pub(super) struct OutletHandle;
/// Handle type of `state.store`; its number is the store's.
pub(super) struct StoreHandle;

/// Which export is running. What a guest may call depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Process,
    Flush,
    Migrate,
}

/// Milliseconds since 1970 as the guest sees them: set by the host before a call, still during it.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Moves on to `now`, never back.
    pub(super) fn advance(&self, now_ms: i64) {
        self.0.fetch_max(now_ms, Ordering::Relaxed);
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Data of a store.
pub(super) struct Guest {
    pub(super) phase: Phase,
    pub(super) task: u32,
    /// Names, as `context.inputs` returns them.
    pub(super) inputs: Vec<String>,
    /// Names; a position is an outlet's number.
    pub(super) outlets: Arc<[String]>,
    /// Names of the manifest's stores; a position is a store's number, here and in `state`.
    pub(super) stores: Arc<[String]>,
    pub(super) input: Input,
    pub(super) emitter: Emitter,
    /// The caller's, while `process` or `flush` runs.
    pub(super) state: TransformState,
    /// What `store.get` answered last: a buffer to use again.
    pub(super) reply: Arc<ColumnOut>,
    pub(super) limits: Limits,
    pub(super) limiter: Limiter,
    pub(super) log_level: Level,
    pub(super) voice: Voice,
    pub(super) clock: Clock,
    pub(super) wasi: WasiCtx,
    pub(super) table: ResourceTable,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
