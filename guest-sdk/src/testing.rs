//! A host in memory: unit tests of a plugin by plain `cargo test`, without Wasm, Kafka or a server.
//!
//! The plugin runs through the same code as in a component; only the calls of the host are imitated. What it imitates: a
//! record's life, inheritance, rejections, state that lasts, commits and rollbacks. What it does not: limits, deadlines,
//! time that goes by itself.
//!
//! ```
//! use sluicegate_sdk::prelude::*;
//! use sluicegate_sdk::testing::{TestHost, record};
//!
//! #[transform]
//! fn shout(record: Record, out: &mut Output) -> Outcome {
//!     out.send(record.with_value(record.text()?.to_uppercase()))
//! }
//!
//! # fn main() {
//! let mut host = TestHost::<shout>::new("{}");
//! let done = host.process([record("k", "hello")]);
//! assert_eq!(done.values("main"), ["HELLO"]);
//! # }
//! ```

mod records;

use crate::failure::{Failure, Unfit};
use crate::host::{Entries, Level, World, world};
use crate::key::Key;
use crate::runtime::{Plugin, Runtime};
use crate::state::{State, codec};
use std::collections::BTreeMap;
use std::fmt::Display;

pub use crate::host::Calls;
pub use records::{TestRecord, keyless, record, tombstone};

/// Runs one plugin.
pub struct TestHost<T: Plugin> {
    runtime: Option<Runtime<T>>,
    config: String,
    world: World,
    committed: BTreeMap<String, Entries>,
    next_offset: i64,
    outputs: Vec<String>,
}

/// What came of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processed {
    outputs: BTreeMap<String, Vec<TestRecord>>,
    rejects: Vec<(usize, String)>,
}

/// The fields of a manifest that the test host goes by.
#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Declared {
    #[serde(default = "one_main")]
    inputs: Vec<Named>,
    #[serde(default = "one_main")]
    outputs: Vec<Named>,
    #[serde(default)]
    dynamic_outputs: bool,
    #[serde(default)]
    stores: Vec<Named>,
}

#[derive(serde::Deserialize)]
struct Named {
    name: String,
}

fn one_main() -> Vec<Named> {
    vec![Named { name: "main".into() }]
}

fn names(named: Vec<Named>) -> Vec<String> {
    named.into_iter().map(|named| named.name).collect()
}

impl<T: Plugin> TestHost<T> {
    /// Opens the plugin with a configuration: `json!({..})` or JSON text.
    ///
    /// # Panics
    /// The plugin does not start: see [`TestHost::try_new`].
    #[must_use]
    #[track_caller]
    pub fn new(config: impl Display) -> Self {
        match Self::try_new(config) {
            Ok(host) => host,
            Err(unfit) => panic!("the plugin does not start: {unfit}"),
        }
    }

    /// Opens the plugin with a configuration.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn try_new(config: impl Display) -> Result<Self, Unfit> {
        let declared: Declared = serde_json::from_str(T::MANIFEST).expect("the attribute writes valid manifests");
        let outputs = names(declared.outputs);
        let world = World {
            inputs: names(declared.inputs),
            declared_outputs: (!declared.dynamic_outputs).then(|| outputs.clone()),
            declared_stores: names(declared.stores),
            ..World::default()
        };
        let config = config.to_string();
        let mut host = Self { runtime: None, config, world, committed: BTreeMap::new(), next_offset: 0, outputs };
        host.reopen()?;
        Ok(host)
    }

    /// Processes records as one batch.
    ///
    /// # Panics
    /// The call fails as a whole: see [`TestHost::try_process`].
    #[track_caller]
    pub fn process(&mut self, records: impl IntoIterator<Item = TestRecord>) -> Processed {
        match self.try_process(records) {
            Ok(processed) => processed,
            Err(failure) => panic!("processing failed: {failure:?}"),
        }
    }

    /// Processes records as one batch. After a failure the plugin is a new instance and the state is that of the last
    /// [`TestHost::commit`], as with the real host.
    ///
    /// # Errors
    /// The call failed as a whole: [`fatal`](crate::fatal) or [`transient`](crate::transient).
    pub fn try_process(&mut self, records: impl IntoIterator<Item = TestRecord>) -> Result<Processed, Failure> {
        let records: Vec<_> = records.into_iter().map(|record| self.place(record)).collect();
        if records.is_empty() {
            return Ok(Processed::default());
        }
        let inputs = &self.world.inputs;
        let batch = records::batch(&records, inputs);
        let mut runtime = self.running();
        let outcome = self.within(|| runtime.process(&batch));
        let emissions = std::mem::take(&mut self.world.emissions);
        let rejects = std::mem::take(&mut self.world.rejects);
        match outcome {
            Ok(()) => self.runtime = Some(runtime),
            Err(failure) => {
                self.world.stores = self.committed.clone();
                return Err(failure);
            }
        }
        let rejects: Vec<_> = rejects.into_iter().map(|(index, reason)| (index as usize, reason)).collect();
        let mut outputs: BTreeMap<String, Vec<TestRecord>> =
            self.outputs.iter().map(|name| (name.clone(), vec![])).collect();
        for (outlet, emission) in emissions {
            let emitted = records::emitted(&emission, &records);
            let kept = emitted.into_iter().filter(|(cause, _)| !rejects.iter().any(|(index, _)| index == cause));
            outputs.entry(outlet).or_default().extend(kept.map(|(_, record)| record));
        }
        Ok(Processed { outputs, rejects })
    }

    /// Commits: the plugin hands over what it holds back, and a later failure returns to this state.
    ///
    /// # Panics
    /// The plugin cannot hand over its state.
    #[track_caller]
    pub fn commit(&mut self) {
        let mut runtime = self.running();
        if let Err(failure) = self.within(|| runtime.flush()) {
            panic!("flushing failed: {failure:?}");
        }
        self.runtime = Some(runtime);
        self.committed = self.world.stores.clone();
    }

    /// Commits and goes on with a new instance, as after a restart.
    #[track_caller]
    pub fn restart(&mut self) {
        self.commit();
        self.runtime = None;
    }

    /// The value of a key in a `Value` store, after a commit.
    #[track_caller]
    pub fn value<K: Key + ?Sized, V: State>(&mut self, store: &str, key: &K) -> Option<V> {
        let mut encoded = Vec::new();
        key.encode(&mut encoded);
        let entries = self.state(store);
        entries.get(&encoded).map(|bytes| codec::decode(bytes).expect("the store holds values of that type"))
    }

    /// The encoded entries of a store, after a commit.
    #[track_caller]
    pub fn state(&mut self, store: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.commit();
        self.world.stores.get(store).cloned().unwrap_or_default()
    }

    /// Puts an entry into a store, as an earlier run or version would have left it, and goes on with a new instance.
    pub fn put_state(&mut self, store: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.restart();
        self.world.stores.entry(store.into()).or_default().insert(key.into(), value.into());
        self.committed = self.world.stores.clone();
    }

    /// What was logged so far: level and text.
    #[must_use]
    pub fn logs(&self) -> Vec<(log::Level, &str)> {
        let level = |level| match level {
            Level::Trace => log::Level::Trace,
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        self.world.logs.iter().map(|(at, _, text)| (level(*at), text.as_str())).collect()
    }

    /// How often the host was called so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.world.calls
    }

    /// Sets processing time, in milliseconds since 1970.
    pub fn set_now(&mut self, now: i64) {
        self.world.now = now;
    }

    /// The manifest, as it stands in the component.
    #[must_use]
    pub fn manifest() -> serde_json::Value {
        serde_json::from_str(T::MANIFEST).expect("the attribute writes valid manifests")
    }

    fn place(&mut self, mut record: TestRecord) -> TestRecord {
        if record.offset < 0 {
            record.offset = self.next_offset;
        }
        self.next_offset = record.offset + 1;
        record
    }

    fn running(&mut self) -> Runtime<T> {
        if self.runtime.is_none() {
            self.reopen().expect("the plugin was opened with this configuration before");
        }
        self.runtime.take().expect("it was just opened")
    }

    fn reopen(&mut self) -> Result<(), Unfit> {
        let config = self.config.clone();
        self.runtime = Some(self.within(|| Runtime::open(&config))?);
        Ok(())
    }

    /// Calls the plugin with this host's world as the thread's.
    fn within<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let before = world(|current| std::mem::replace(current, std::mem::take(&mut self.world)));
        let result = call();
        self.world = world(|current| std::mem::replace(current, before));
        result
    }
}

impl Processed {
    /// What was sent to an output, in order.
    ///
    /// # Panics
    /// The plugin has no such output.
    #[must_use]
    #[track_caller]
    pub fn output(&self, name: &str) -> &[TestRecord] {
        self.outputs.get(name).unwrap_or_else(|| panic!("there is no output `{name}`"))
    }

    /// The values sent to an output as text; a tombstone is an empty text.
    ///
    /// # Panics
    /// The plugin has no such output.
    #[must_use]
    #[track_caller]
    pub fn values(&self, name: &str) -> Vec<String> {
        let text =
            |record: &TestRecord| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        self.output(name).iter().map(text).collect()
    }

    /// Index in the batch and reason of each rejected record.
    #[must_use]
    pub fn rejects(&self) -> &[(usize, String)] {
        &self.rejects
    }
}
