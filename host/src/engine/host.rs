//! The functions that a guest may call, one file an interface.
//!
//! Each is linked by name with `func_wrap`, so that lists are read in place; wasmtime compares their types with the
//! plugin's imports. A rule that a guest breaks is returned as a [`Misuse`](super::error::Misuse), which ends the call.
//! Unknown imports are never defined as traps: a plugin that needs them must not link.

mod context;
mod input;
mod logging;
mod output;
mod state;

use wasmtime::component::Linker;

use super::guest::Guest;

/// Links every interface of the world.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    context::link(linker)?;
    input::link(linker)?;
    logging::link(linker)?;
    output::link(linker)?;
    state::link(linker)
}
