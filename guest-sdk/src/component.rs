//! The exported functions of a plugin, over the one instance that a component has. Wasm only.

use crate::bindings::exports::sluicegate::transform::processor::{ConfigError, Unfit as WireUnfit};
use crate::bindings::sluicegate::transform::types::Failure as WireFailure;
use crate::failure::{Failure, FailureKind, Unfit};
use crate::host::Batch;
use crate::runtime::{Plugin, Runtime};
use std::cell::RefCell;

/// The plugin of this component, once it is opened.
pub struct Instance<T>(RefCell<Option<Runtime<T>>>);

impl<T: Plugin> Instance<T> {
    /// Not opened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// The export `open`.
    pub fn open(&self, config: &str) -> Result<(), WireUnfit> {
        let runtime = Runtime::open(config).map_err(|unfit| match unfit {
            Unfit::Config { field, message } => WireUnfit::Config(ConfigError { field, message }),
            Unfit::Failed(reason) => WireUnfit::Failed(reason),
        })?;
        self.0.replace(Some(runtime));
        Ok(())
    }

    /// The export `process`.
    pub fn process(&self, batch: &Batch) -> Result<(), WireFailure> {
        self.with(|runtime| runtime.process(batch))
    }

    /// The export `flush`.
    pub fn flush(&self) -> Result<(), WireFailure> {
        self.with(Runtime::flush)
    }

    fn with(&self, act: impl FnOnce(&mut Runtime<T>) -> Result<(), Failure>) -> Result<(), WireFailure> {
        match self.0.borrow_mut().as_mut() {
            Some(runtime) => act(runtime).map_err(|failure| wire(&failure)),
            None => Err(WireFailure::Fatal("the host has not opened the plugin".into())),
        }
    }
}

impl<T: Plugin> Default for Instance<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn wire(failure: &Failure) -> WireFailure {
    let reason = failure.reason().to_owned();
    match failure.kind() {
        FailureKind::Reject => WireFailure::Input(reason),
        FailureKind::Transient => WireFailure::Transient(reason),
        FailureKind::Fatal => WireFailure::Fatal(reason),
    }
}
