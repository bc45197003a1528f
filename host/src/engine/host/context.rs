//! `context`: where the instance runs.

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use crate::engine::guest::Guest;
use crate::engine::interface::CONTEXT;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut context = linker.instance(CONTEXT)?;
    context.func_wrap("task", |store: StoreContextMut<'_, Guest>, (): ()| Ok((store.data().task,)))?;
    context.func_wrap("inputs", |store: StoreContextMut<'_, Guest>, (): ()| Ok((store.data().inputs.clone(),)))?;
    context.func_wrap("now", |store: StoreContextMut<'_, Guest>, (): ()| Ok((store.data().clock.now_ms(),)))?;
    context.func_wrap("log-level", |store: StoreContextMut<'_, Guest>, (): ()| Ok((store.data().log_level,)))
}
