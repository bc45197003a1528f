//! Runs plugins: the only place that names wasmtime.
//!
//! [`inspect()`] reads what bytes are; [`Engine::load`] makes a [`Plugin`] of them; [`Plugin::instantiate`] makes an
//! [`Instance`], into which batches go and out of which emissions come. It knows nothing of Kafka, of ZooKeeper, of when to
//! retry or commit: it says what happened, the worker decides.
//!
//! What always holds: a guest can end its own calls and nothing else. Whatever it hands over is checked before it is
//! believed; memory, time, tables, handles, output, state and log messages are bounded; the world it sees is virtual.

mod abi;
mod cache;
mod emission;
mod error;
mod grants;
mod guest;
mod host;
mod input;
mod inspect;
mod instance;
mod interface;
mod limits;
mod migrator;
mod pack;
mod plugin;
mod precompiled;
mod rejects;
mod stamp;
#[cfg(test)]
mod tests;
mod voice;
mod wasi;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use thiserror::Error;
use tracing::warn;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, WasmBacktraceDetails};

use crate::digest::Digest;

use self::cache::Cache;
pub use self::error::{CallError, Misuse, Remedy};
pub use self::grants::{Grants, UnknownGrant};
use self::guest::Guest;
pub use self::inspect::{Inspection, LoadError, PLUGIN_BYTES_MAX, inspect};
pub use self::instance::Instance;
use self::instance::TICK;
pub use self::limits::Limits;
pub use self::migrator::{Conversion, MigrateError, Migrator};
pub use self::pack::{PackError, pack};
pub use self::plugin::{InstanceOptions, OpenError, Plugin};
pub use self::stamp::stamp;
/// How important a message is, as `tracing` has it.
pub use tracing::Level as LogLevel;

/// The version of wasmtime.
#[must_use]
pub fn wasmtime_version() -> &'static str {
    wasmtime_environ::VERSION
}

/// How an engine is made.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Where compiled plugins are kept between starts; `None` compiles each time.
    pub cache_dir: Option<PathBuf>,
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// wasmtime does not run on this machine.
    #[error("cannot set up WebAssembly on this machine: {0}")]
    Wasmtime(String),
    /// No thread for deadlines.
    #[error("cannot start the thread that watches deadlines: {0}")]
    Thread(#[from] std::io::Error),
}

/// Compiles plugins. One a process.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<Guest>,
    cache: Option<Cache>,
    /// By digest; the lock also keeps two threads from compiling the same plugin.
    loaded: Mutex<HashMap<String, Weak<Plugin>>>,
}

impl Engine {
    /// Makes the engine, and a thread that watches deadlines until the last plugin and instance is gone.
    ///
    /// # Errors
    /// wasmtime does not support this machine, or there is no thread to be had.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        let refused = |error: wasmtime::Error| EngineError::Wasmtime(format!("{error:#}"));
        let engine = wasmtime::Engine::new(&config()).map_err(refused)?;
        let mut linker = Linker::new(&engine);
        wasi::link(&mut linker).and_then(|()| host::link(&mut linker)).map_err(refused)?;
        watch_deadlines(&engine)?;
        let cache = options.cache_dir.map(|directory| Cache::new(directory, engine.precompile_compatibility_hash()));
        Ok(Self { engine, linker, cache, loaded: Mutex::default() })
    }

    /// Makes a plugin of its bytes: from memory if it is in use already, from the cache on disk, or by compiling.
    /// Compiling takes some 100 ms for a small plugin, seconds for an interpreter.
    ///
    /// # Errors
    /// The bytes are no plugin that this host can run.
    pub fn load(&self, bytes: &[u8]) -> Result<Arc<Plugin>, LoadError> {
        let digest = Digest::of(bytes).hex();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&digest).and_then(Weak::upgrade) {
            return Ok(plugin);
        }
        let inspection = inspect(bytes)?;
        let component = self.component(&digest, bytes)?;
        let plugin = Arc::new(Plugin::link(digest.clone(), inspection, &component, &self.linker)?);
        loaded.retain(|_, plugin| plugin.strong_count() > 0);
        loaded.insert(digest, Arc::downgrade(&plugin));
        Ok(plugin)
    }

    fn component(&self, digest: &str, bytes: &[u8]) -> Result<Component, LoadError> {
        if let Some(code) = self.cache.as_ref().and_then(|cache| cache.read(digest)) {
            match precompiled::component(&self.engine, &code) {
                Ok(component) => return Ok(component),
                Err(error) => warn!(digest, %error, "compiled plugin does not fit this host: compiling again"),
            }
        }
        let refused = |error: wasmtime::Error| LoadError::Compile { reason: format!("{error:#}") };
        let component = Component::from_binary(&self.engine, bytes).map_err(refused)?;
        if let Some(cache) = &self.cache {
            cache.write(digest, &component.serialize().map_err(refused)?);
        }
        Ok(component)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cache", &self.cache).finish_non_exhaustive()
    }
}

fn config() -> Config {
    let mut config = Config::new();
    // Component-model async: not used, and every call is slower with it.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    // The same input gives the same output on every machine of a cluster.
    config.relaxed_simd_deterministic(true);
    config
}

/// Moves the clock that deadlines are measured on, as long as the engine lives.
fn watch_deadlines(engine: &wasmtime::Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    thread::Builder::new().name("deadlines".into()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    })?;
    Ok(())
}
