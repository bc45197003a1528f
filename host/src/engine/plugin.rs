//! A plugin that is compiled and linked, and the making of instances.

use std::sync::Arc;

use thiserror::Error;
use tracing::Level as LogLevel;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, ResourceTable, TypedFunc};

use super::abi::Unfit;
use super::emission::Emitter;
use super::error::{CallError, classify};
use super::grants::Grants;
use super::guest::{Clock, Guest, Phase};
use super::inspect::{Inspection, LoadError};
use super::instance::{Exports, Instance, begin, log_level, outlets, scene};
use super::interface::{MIGRATION, PROCESSOR};
use super::limits::{HANDLES_MAX, Limiter, Limits};
use super::voice::{Speaker, Voice};
use super::wasi;
use crate::manifest::Manifest;

/// A compiled plugin. Shared by all its instances, on any thread.
pub struct Plugin {
    digest: String,
    inspection: Inspection,
    stores: Arc<[String]>,
    instance: InstancePre<Guest>,
    open: ComponentExportIndex,
    process: ComponentExportIndex,
    flush: ComponentExportIndex,
    migrate: Option<ComponentExportIndex>,
}

/// What an instance is made for.
#[derive(Clone, Debug)]
pub struct InstanceOptions {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Name of the transform in it.
    pub transform: String,
    /// Number of the task.
    pub task: u32,
    /// Names of the inputs; runs of batches count in them.
    pub inputs: Vec<String>,
    /// Outlets that the pipeline binds. Those that the manifest does not declare count only if its outputs are dynamic.
    pub outlets: Vec<String>,
    /// Configuration: a JSON object.
    pub config: String,
    /// Bounds.
    pub limits: Limits,
    /// Messages below this level are thrown away.
    pub log_level: LogLevel,
    /// What of the real world it gets.
    pub grants: Grants,
    /// Processing time while it opens, in milliseconds since 1970.
    pub now_ms: i64,
}

/// Why there is no instance.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The manifest wants grants that the pipeline does not give.
    #[error("it cannot work without the grants {}: add them to `grants` of the transform", .missing.join(", "))]
    Grants {
        /// Those that are missing.
        missing: Vec<String>,
    },
    /// The plugin refuses its configuration.
    #[error("its configuration is wrong{}: {message}", in_field(.field))]
    Config {
        /// Path of the field, empty for the whole.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// The plugin did not start for another reason.
    #[error("it does not start: {0}")]
    Failed(String),
    /// It trapped or ran into a limit.
    #[error("it does not start: {0}")]
    Call(#[from] CallError),
}

impl OpenError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Failed(_) => true,
            Self::Call(error) => error.is_transient(),
            Self::Grants { .. } | Self::Config { .. } => false,
        }
    }
}

fn in_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(" in `{field}`") }
}

impl Plugin {
    pub(super) fn link(
        digest: String,
        inspection: Inspection,
        component: &Component,
        linker: &Linker<Guest>,
    ) -> Result<Self, LoadError> {
        let export = |name| {
            let processor = component.get_export_index(None, PROCESSOR)?;
            component.get_export_index(Some(&processor), name)
        };
        let migrate = component
            .get_export_index(None, MIGRATION)
            .and_then(|migration| component.get_export_index(Some(&migration), "migrate"));
        let (Some(open), Some(process), Some(flush)) = (export("open"), export("process"), export("flush")) else {
            return Err(LoadError::NoProcessor);
        };
        let instance =
            linker.instantiate_pre(component).map_err(|error| LoadError::Types { reason: format!("{error:#}") })?;
        let stores = inspection.manifest.stores.iter().map(|store| store.name.clone()).collect();
        Ok(Self { digest, inspection, stores, instance, open, process, flush, migrate })
    }

    /// SHA-256 of its bytes, in lower-case hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.inspection.manifest
    }

    /// What is known about it without running it.
    #[must_use]
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Makes an instance and opens it. See [`Instance`] about the thread.
    ///
    /// # Errors
    /// It does not start; [`OpenError::is_transient`] says whether trying again may help.
    pub fn instantiate(&self, options: InstanceOptions) -> Result<Instance, OpenError> {
        let missing = options.grants.missing(&self.manifest().wants);
        if !missing.is_empty() {
            return Err(OpenError::Grants { missing });
        }
        let config = options.config.clone();
        let now_ms = options.now_ms;
        let mut store = self.store(options);
        begin(&mut store, Phase::Open, now_ms);
        match self.open(&mut store, &config) {
            Ok(Ok(exports)) => {
                let time_per_call = store.data().limits.time_per_call;
                Ok(Instance { store, exports, dead: false, time_per_call })
            }
            Ok(Err(Unfit::Config(error))) => Err(OpenError::Config { field: error.field, message: error.message }),
            Ok(Err(Unfit::Failed(reason))) => Err(OpenError::Failed(reason)),
            Err(error) => Err(classify(error, scene(&store)).into()),
        }
    }

    pub(super) fn migrate(&self) -> Option<ComponentExportIndex> {
        self.migrate
    }

    /// What an instance lives in.
    pub(super) fn store(&self, options: InstanceOptions) -> wasmtime::Store<Guest> {
        let mut store = wasmtime::Store::new(self.instance.engine(), self.guest(options));
        store.limiter(|guest| &mut guest.limiter);
        store.set_max_component_handles(HANDLES_MAX);
        // What a guest hands over in one call cannot be larger than its memory, but for lists that overlap.
        store.set_hostcall_fuel(usize::try_from(store.data().limits.memory_bytes).unwrap_or(usize::MAX));
        store
    }

    pub(super) fn instantiate_in(
        &self,
        store: &mut wasmtime::Store<Guest>,
    ) -> wasmtime::Result<wasmtime::component::Instance> {
        self.instance.instantiate(store)
    }

    fn open(&self, store: &mut wasmtime::Store<Guest>, config: &str) -> wasmtime::Result<Result<Exports, Unfit>> {
        let instance = self.instantiate_in(store)?;
        let open: TypedFunc<(&str,), (Result<(), Unfit>,)> = instance.get_typed_func(&mut *store, self.open)?;
        let exports = Exports {
            process: instance.get_typed_func(&mut *store, self.process)?,
            flush: instance.get_typed_func(&mut *store, self.flush)?,
        };
        let (opened,) = open.call(&mut *store, (config,))?;
        Ok(opened.map(|()| exports))
    }

    fn guest(&self, options: InstanceOptions) -> Guest {
        let speaker = Speaker { pipeline: options.pipeline, transform: options.transform, task: options.task };
        let clock = Clock::default();
        let voice = Voice::new(speaker.clone(), options.limits.log_bytes);
        let manifest = self.manifest();
        let declared = manifest.outputs.iter().map(|output| output.name.clone());
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        Guest {
            phase: Phase::Open,
            task: options.task,
            inputs: options.inputs,
            outlets: outlets(declared, manifest.dynamic_outputs, options.outlets),
            stores: Arc::clone(&self.stores),
            input: Default::default(),
            emitter: Emitter::new(options.limits.output_bytes),
            state: Default::default(),
            reply: Default::default(),
            limiter: Limiter::new(options.limits.memory_bytes),
            limits: options.limits,
            log_level: log_level(options.log_level),
            wasi: wasi::context(&speaker, &options.grants, &clock, &voice),
            voice,
            clock,
            table,
        }
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("digest", &self.digest)
            .field("name", &self.manifest().name)
            .finish_non_exhaustive()
    }
}
