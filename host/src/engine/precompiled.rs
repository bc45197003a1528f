//! The one `unsafe` call of the engine: code that an engine of this very process configuration has compiled before.
//!
//! The invariant: [`component`] is called with bytes that [`super::cache`] has read back with a matching checksum, from a
//! file whose name holds the compatibility hash of this engine, in a directory that only this host's user may write.
//! The checksum keeps damage out; against somebody who may write there it is no protection, as none is possible.

#![expect(unsafe_code, reason = "wasmtime cannot check machine code; the invariant above is what it asks for")]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Makes a component of what `Engine::precompile_component` returned, perhaps in an earlier process.
pub(super) fn component(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes came out of `precompile_component` of a compatible engine, unchanged: see the top of the file.
    unsafe { Component::deserialize(engine, code) }
}
