//! Converting entries of a store from one schema version to another, by a plugin that can.
//!
//! Runs on an instance of its own that is never opened, in which state and output may not be called: what comes out depends on the
//! entries alone.

use thiserror::Error;
use wasmtime::component::{ComponentType, Lift, TypedFunc};

use super::abi::ColumnOut;
use super::error::{CallError, classify};
use super::guest::{Guest, Phase};
use super::instance::{begin, scene};
use super::plugin::{InstanceOptions, OpenError, Plugin};
use crate::record::{Column, ShapeError};
use crate::state::ENTRY_BYTES_MAX;

/// A column that was copied out of the guest.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct ColumnBack {
    bytes: Vec<u8>,
    lengths: Vec<i32>,
}

/// `migration.bad-entry`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct BadEntry {
    index: u32,
    reason: String,
}

/// `migration.stuck`.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Stuck {
    #[component(name = "unsupported")]
    Unsupported,
    #[component(name = "entry")]
    Entry(BadEntry),
    #[component(name = "fatal")]
    Fatal(String),
}

type Converted = (Result<ColumnBack, Stuck>,);
pub(super) type Migrate = TypedFunc<(String, u32, u32, ColumnOut, ColumnOut), Converted>;

/// From which schema version of a store to which.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conversion {
    /// The store, as the manifest names it.
    pub store: String,
    /// The version of the entries that there are.
    pub from: u32,
    /// The version that is wanted.
    pub to: u32,
}

impl std::fmt::Display for Conversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "store `{}` from schema {} to {}", self.store, self.from, self.to)
    }
}

/// Why entries were not converted. Nothing has changed; the instance is dead but for the first two.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The plugin does not know this step.
    #[error("the plugin does not convert {0}")]
    Unsupported(Conversion),
    /// It cannot convert an entry.
    #[error("{conversion}: the entry with the key {key} cannot be converted: {reason}")]
    Entry {
        /// What was to be done.
        conversion: Conversion,
        /// As text if it is some.
        key: String,
        /// In the plugin's words.
        reason: String,
    },
    /// It says that nothing can be converted.
    #[error("{conversion}: {reason}")]
    Fatal {
        /// What was to be done.
        conversion: Conversion,
        /// In the plugin's words.
        reason: String,
    },
    /// What it returned does not fit what it was given.
    #[error("{conversion}: it breaks a rule of the plugin interface: {problem}")]
    Misuse {
        /// What was to be done.
        conversion: Conversion,
        /// What is wrong with it.
        problem: String,
    },
    /// It trapped or ran into a limit.
    #[error("{conversion}: {error}")]
    Call {
        /// What was to be done.
        conversion: Conversion,
        /// How it ended.
        error: CallError,
    },
}

/// An instance that converts.
pub struct Migrator {
    store: wasmtime::Store<Guest>,
    migrate: Migrate,
    dead: bool,
}

impl Plugin {
    /// Makes an instance that converts entries; `None` for a plugin that does not say how.
    ///
    /// # Errors
    /// It cannot be instantiated.
    pub fn migrator(&self, options: InstanceOptions) -> Result<Option<Migrator>, OpenError> {
        let Some(export) = self.migrate() else { return Ok(None) };
        let now_ms = options.now_ms;
        let mut store = self.store(options);
        begin(&mut store, Phase::Migrate, now_ms);
        let mut make = || {
            let instance = self.instantiate_in(&mut store)?;
            instance.get_typed_func(&mut store, export)
        };
        match make() {
            Ok(migrate) => Ok(Some(Migrator { store, migrate, dead: false })),
            Err(error) => Err(classify(error, scene(&store)).into()),
        }
    }
}

impl Migrator {
    /// Converts `values`, one of each of `keys`. Returns as many; null drops the entry.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate(
        &mut self,
        conversion: &Conversion,
        keys: Column,
        values: Column,
        now_ms: i64,
    ) -> Result<Column, MigrateError> {
        let of = || conversion.clone();
        if self.dead {
            return Err(MigrateError::Call { conversion: of(), error: CallError::Dead });
        }
        begin(&mut self.store, Phase::Migrate, now_ms);
        let Conversion { store, from, to } = conversion.clone();
        let sizes: Vec<i32> = keys.lengths.clone();
        let names = keys.clone();
        let called = self.migrate.call(&mut self.store, (store, from, to, keys.into(), values.into()));
        match called {
            Ok((Ok(ColumnBack { bytes, lengths }),)) => checked(Column { bytes, lengths }, &sizes)
                .map_err(|problem| MigrateError::Misuse { conversion: of(), problem }),
            Ok((Err(Stuck::Unsupported),)) => Err(MigrateError::Unsupported(of())),
            Ok((Err(Stuck::Entry(BadEntry { index, reason })),)) => {
                let key = names.values().nth(index as usize).flatten().unwrap_or_default();
                Err(MigrateError::Entry { conversion: of(), key: shown(key), reason })
            }
            Ok((Err(Stuck::Fatal(reason)),)) => {
                self.dead = true;
                Err(MigrateError::Fatal { conversion: of(), reason })
            }
            Err(error) => {
                self.dead = true;
                Err(MigrateError::Call { conversion: of(), error: classify(error, scene(&self.store)) })
            }
        }
    }
}

impl std::fmt::Debug for Migrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migrator").field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// Whether there is a value, or null, for each key, and each fits into the metadata store.
fn checked(values: Column, keys: &[i32]) -> Result<Column, String> {
    values.check("values", false).map_err(|error: ShapeError| error.to_string())?;
    if values.len() != keys.len() {
        return Err(format!("it returns {} values for {} keys", values.len(), keys.len()));
    }
    let bytes =
        |(key, value): (&i32, &i32)| key.max(&0).unsigned_abs() as usize + value.max(&0).unsigned_abs() as usize;
    match keys.iter().zip(&values.lengths).map(bytes).find(|bytes| *bytes > ENTRY_BYTES_MAX) {
        Some(bytes) => {
            Err(format!("it makes an entry of {bytes} bytes: at most {ENTRY_BYTES_MAX} fit into the metadata store"))
        }
        None => Ok(values),
    }
}

/// Most bytes of a key that an error shows.
const KEY_SHOWN_MAX: usize = 100;

fn shown(key: &[u8]) -> String {
    let key = &key[..key.len().min(KEY_SHOWN_MAX)];
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => format!("`{text}`"),
        _ => format!("0x{}", hex::encode(key)),
    }
}
