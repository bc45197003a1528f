//! The calls a plugin can make, under one set of names: the generated imports in Wasm, an imitation in memory elsewhere.
//!
//! Everything above this module is the same code on both, which is what makes a plugin's unit tests worth something.

#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(target_family = "wasm")]
mod wasm;

#[cfg(not(target_family = "wasm"))]
pub use native::Calls;
#[cfg(not(target_family = "wasm"))]
pub(crate) use native::*;
#[cfg(target_family = "wasm")]
pub(crate) use wasm::*;

/// Length of a null entry.
pub(crate) const NULL: i32 = -1;
/// Length of an entry that inherits from its cause; only in what is emitted.
pub(crate) const INHERIT: i32 = -2;
