//! `wasi:logging`: messages of the guest, into tracing.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmStr};

use crate::engine::abi::Level;
use crate::engine::guest::Guest;
use crate::engine::interface::LOGGING;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(LOGGING)?.func_wrap(
        "log",
        |store: StoreContextMut<'_, Guest>, (level, context, message): (Level, WasmStr, WasmStr)| {
            if level >= store.data().log_level {
                store.data().voice.log(level, &context.to_str(&store)?, &message.to_str(&store)?);
            }
            Ok(())
        },
    )
}
