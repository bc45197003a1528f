//! Write Sluicegate transforms in Rust: one file, one attribute. `docs/writing-a-plugin.md` is the way in.
//!
//! ```
//! //! value -> "value,length"
//! use sluicegate_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Config { separator: String }
//!
//! #[transform]
//! fn value_length(config: &Config, record: Record, out: &mut Output) -> Outcome {
//!     let text = record.text()?;                            // not UTF-8: rejected, with that reason
//!     out.send(record.with_value(format!("{text}{}{}", config.separator, text.len())))
//! }
//! # fn main() {}
//! ```
//!
//! With state, a transform is a struct whose fields declare what it has:
//!
//! ```
//! //! Running count per key.
//! use sluicegate_sdk::prelude::*;
//!
//! #[transform]
//! struct KeyedCount {
//!     #[store(schema = 1)]
//!     counts: Value<[u8], u64>,
//!     #[output]
//!     main: Output,
//! }
//!
//! impl Transform for KeyedCount {
//!     fn process(&mut self, record: Record) -> Outcome {
//!         let key = record.key().ok_or_else(|| reject("record has no key"))?;
//!         let count = self.counts.update(key, |n| n.unwrap_or(0) + 1);
//!         self.main.send(record.with_value(count.to_string()))
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! The modules in reading order: [`record`] and [`payload`] (what comes in and goes out), [`failure`], [`key`] and the
//! state types, [`migration`] (state of another version), [`testing`] (plain `cargo test`), `runtime` (what drives a plugin), `host` (the calls it can make).

// The attribute names this crate from outside; its own tests use it too.
extern crate self as sluicegate_sdk;

mod batch;
#[cfg(target_family = "wasm")]
pub mod bindings;
mod bytes;
#[cfg(target_family = "wasm")]
mod component;
mod config;
pub mod failure;
mod host;
pub mod key;
mod logging;
#[doc(hidden)]
pub mod manifest;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod migrating;
pub mod migration;
mod output;
pub mod payload;
pub mod record;
mod runtime;
mod state;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use failure::{Failure, FailureKind, Outcome, Unfit, fatal, reject, transient};
pub use key::Key;
pub use migration::{Migrate, Step};
pub use output::{Output, Outputs};
pub use payload::{Json, Payload};
pub use record::Record;
pub use runtime::Transform;
pub use sluicegate_sdk_macros::transform;
pub use state::{Map, Scan, State, Value, Want};

/// Processing time in milliseconds since 1970. Stands still during a call and never goes back.
#[must_use]
pub fn now() -> i64 {
    host::now()
}

/// The task's number: that of the source partition it reads.
#[must_use]
pub fn task() -> u32 {
    host::task()
}

/// What a plugin's file begins with: `use sluicegate_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Json, Map, Migrate, Outcome, Output, Outputs, Record, Step, Transform, Unfit, Value, Want, fatal, reject,
        transform, transient,
    };
    pub use log::{debug, error, info, trace, warn};
    pub use serde::{Deserialize, Serialize};
}

/// For the attribute's code only.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_family = "wasm")]
    pub use crate::component::Instance;
    pub use crate::config::{NoConfig, parse_config};
    pub use crate::manifest;
    pub use crate::output::Output;
    pub use crate::runtime::{Part, Plugin, Visit};
    pub use crate::state::StoreOptions;
    #[cfg(target_family = "wasm")]
    pub use wit_bindgen::rt;
}
