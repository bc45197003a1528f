//! The host's calls in memory, for unit tests: one [`World`] a thread, that of the test host whose plugin is running.
//!
//! Holds a plugin to the same rules as the real host, by panicking where that one ends the call. It measures nothing and
//! limits nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Byte strings, one after the other, with a length each; see `wit/types.wit`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lengths: Vec<i32>,
}

/// Headers of several records; see `wit/types.wit`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) counts: Vec<i32>,
    pub(crate) names: Column,
    pub(crate) values: Column,
}

/// Neighbouring records with one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) input: u32,
    pub(crate) partition: i32,
    pub(crate) count: u32,
}

/// Records for one outlet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) causes: Option<Vec<u32>>,
    pub(crate) keys: Option<Column>,
    pub(crate) values: Option<Column>,
    pub(crate) headers: Option<Headers>,
    pub(crate) timestamps: Option<Vec<i64>>,
}

/// A page of entries of a store.
pub(crate) struct Page {
    pub(crate) keys: Column,
    pub(crate) values: Column,
    pub(crate) more: bool,
}

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// The records of a call.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) runs: Vec<Run>,
    pub(crate) offsets: Vec<i64>,
    pub(crate) timestamps: Vec<i64>,
    pub(crate) keys: Column,
    pub(crate) values: Column,
    pub(crate) headers: Headers,
}

/// A store's entries, by key.
pub(crate) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// How often a plugin called the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Reads of a store, of any number of keys each.
    pub gets: u64,
    /// Writes to a store, of any number of keys each.
    pub puts: u64,
    /// Pages scanned.
    pub scans: u64,
    /// Emissions, of any number of records each.
    pub emissions: u64,
    /// Columns pulled from batches.
    pub columns: u64,
}

/// What the host is for the plugin that runs on this thread.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) inputs: Vec<String>,
    pub(crate) declared_outputs: Option<Vec<String>>,
    pub(crate) declared_stores: Vec<String>,
    pub(crate) stores: BTreeMap<String, Entries>,
    pub(crate) emissions: Vec<(String, Records)>,
    pub(crate) rejects: Vec<(u32, String)>,
    pub(crate) logs: Vec<(Level, String, String)>,
    pub(crate) now: i64,
    pub(crate) task: u32,
    pub(crate) calls: Calls,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Does something with the world of this thread.
pub(crate) fn world<T>(act: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(act)
}

impl Column {
    pub(crate) fn push(&mut self, entry: Option<&[u8]>) {
        self.bytes.extend_from_slice(entry.unwrap_or_default());
        self.lengths
            .push(entry.map_or(super::NULL, |entry| i32::try_from(entry.len()).expect("an entry has less than 2 GiB")));
    }

    /// The entries; `Err` holds the negative length.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<&[u8], i32>> {
        let sum: usize = self.lengths.iter().filter_map(|&length| usize::try_from(length).ok()).sum();
        assert_eq!(sum, self.bytes.len(), "the lengths of a column must add up to its bytes");
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map(move |&length| {
            let (entry, behind) = rest.split_at(usize::try_from(length).map_err(|_| length)?);
            rest = behind;
            Ok(entry)
        })
    }
}

impl Batch {
    fn pulled<T: Clone>(&self, column: &T) -> T {
        world(|world| world.calls.columns += 1);
        column.clone()
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.offsets.len()).expect("a test batch is small")
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.pulled(&self.runs)
    }

    pub(crate) fn offsets(&self) -> Vec<i64> {
        self.pulled(&self.offsets)
    }

    pub(crate) fn timestamps(&self) -> Vec<i64> {
        self.pulled(&self.timestamps)
    }

    pub(crate) fn keys(&self) -> Column {
        self.pulled(&self.keys)
    }

    pub(crate) fn values(&self) -> Column {
        self.pulled(&self.values)
    }

    pub(crate) fn headers(&self) -> Headers {
        self.pulled(&self.headers)
    }

    pub(crate) fn header(&self, name: &str) -> Column {
        world(|world| world.calls.columns += 1);
        let mut names = self.headers.names.entries();
        let mut values = self.headers.values.entries();
        let mut column = Column::default();
        for &count in &self.headers.counts {
            let mut last = None;
            for _ in 0..count {
                let (header, value) = names.next().zip(values.next()).expect("a test batch is well formed");
                if header == Ok(name.as_bytes()) {
                    last = value.ok();
                }
            }
            column.push(last);
        }
        column
    }
}

/// One output.
pub(crate) struct Outlet {
    name: String,
}

impl Outlet {
    pub(crate) fn new(name: &str) -> Self {
        world(|world| {
            let declared =
                world.declared_outputs.as_ref().is_none_or(|outputs| outputs.iter().any(|output| output == name));
            assert!(declared, "the manifest declares no output `{name}`");
        });
        Self { name: name.into() }
    }

    pub(crate) fn emit(&self, records: &Records) {
        world(|world| {
            world.calls.emissions += 1;
            world.emissions.push((self.name.clone(), records.clone()));
        });
    }
}

/// Rejects one record of the batch.
pub(crate) fn reject(index: u32, reason: &str) {
    world(|world| world.rejects.push((index, reason.into())));
}

/// One store.
pub(crate) struct Store {
    name: String,
}

impl Store {
    pub(crate) fn new(name: &str) -> Self {
        world(|world| {
            assert!(world.declared_stores.iter().any(|store| store == name), "the manifest declares no store `{name}`");
        });
        Self { name: name.into() }
    }

    pub(crate) fn get(&self, keys: &Column) -> Column {
        world(|world| {
            world.calls.gets += 1;
            let store = world.stores.entry(self.name.clone()).or_default();
            let mut values = Column::default();
            for key in keys.entries() {
                values.push(store.get(key.expect("a key of a store is not null")).map(Vec::as_slice));
            }
            values
        })
    }

    pub(crate) fn put(&self, keys: &Column, values: &Column) {
        assert_eq!(keys.lengths.len(), values.lengths.len(), "one value a key");
        world(|world| {
            world.calls.puts += 1;
            let store = world.stores.entry(self.name.clone()).or_default();
            for (key, value) in keys.entries().zip(values.entries()) {
                let key = key.expect("a key of a store is not null");
                match value {
                    Ok(value) => store.insert(key.to_vec(), value.to_vec()),
                    Err(_) => store.remove(key),
                };
            }
        });
    }

    pub(crate) fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Page {
        world(|world| {
            world.calls.scans += 1;
            let store = world.stores.entry(self.name.clone()).or_default();
            let from = match after {
                Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
                _ => Bound::Included(prefix.to_vec()),
            };
            let mut rest = store.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
            let mut page = Page { keys: Column::default(), values: Column::default(), more: false };
            for (key, value) in rest.by_ref().take(limit as usize) {
                page.keys.push(Some(key));
                page.values.push(Some(value));
            }
            page.more = rest.next().is_some();
            page
        })
    }
}

/// The task's number.
pub(crate) fn task() -> u32 {
    world(|world| world.task)
}

/// Names of the inputs.
pub(crate) fn inputs() -> Vec<String> {
    world(|world| world.inputs.clone())
}

/// Processing time, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    world(|world| world.now)
}

/// Everything is kept in tests.
pub(crate) fn log_level() -> Level {
    Level::Trace
}

/// Keeps a message.
pub(crate) fn log(level: Level, context: &str, message: &str) {
    world(|world| world.logs.push((level, context.into(), message.into())));
}
