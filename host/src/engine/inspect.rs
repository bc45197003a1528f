//! Reads what a plugin is and asks for out of its bytes, without compiling or running anything.
//!
//! Pure. Everything that can be refused without a compiler is refused here, in words for the plugin's author; what
//! passes may still fail to compile or to link, because types are compared only then.

use thiserror::Error;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{KnownCustom, Parser, Payload, ProducersSectionReader, Validator, WasmFeatures};

use super::interface::{self, Known};
use crate::manifest::{self, INTERFACE, Manifest, ManifestError};
use crate::provenance::{self, Provenance};

/// Largest plugin that is accepted: an interpreter with its library (Python: 18 MB) fits several times.
pub const PLUGIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a plugin says about itself and what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// Its manifest.
    pub manifest: Manifest,
    /// The world it was built for, as the version of its `processor` says: `sluicegate:transform@0.1.0`.
    pub world: String,
    /// Interfaces that it imports, in their order. What it can do is this list.
    pub imports: Vec<String>,
    /// Interfaces that it exports, in their order.
    pub exports: Vec<String>,
    /// Whether it converts state of other schema versions.
    pub migrates: bool,
    /// Where it comes from, as far as it says.
    pub provenance: Provenance,
    /// Size in bytes.
    pub bytes: usize,
}

/// Why bytes are not a plugin that this host can run.
#[derive(Debug, Error)]
pub enum LoadError {
    /// More than [`PLUGIN_BYTES_MAX`].
    #[error(
        "it has {bytes} bytes, at most {PLUGIN_BYTES_MAX} are accepted: build it in release mode and strip debug information"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A core module.
    #[error(
        "it is a core WebAssembly module, not a component: build for `wasm32-wasip2`, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// Anything else that is no component.
    #[error("it is not a WebAssembly component: {reason}")]
    NotAComponent {
        /// What the bytes look like, or what the validator says.
        reason: String,
    },
    /// No manifest section.
    #[error(
        "it has no manifest (custom section `{}`): the Rust SDK adds one, for other languages use `sluicegate plugin pack`",
        manifest::SECTION
    )]
    NoManifest,
    /// More than one, and none of them on the outside.
    #[error("it holds {count} different manifests in its modules: add the right one with `sluicegate plugin pack`")]
    ManyManifests {
        /// How many.
        count: usize,
    },
    /// The manifest is refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An interface in a version that this host does not have.
    #[error(
        "it was built for `{name}`; this host speaks sluicegate:transform@{INTERFACE} and WASI 0.2: build it with an SDK of that version, or use a newer host"
    )]
    Version {
        /// The import or export in question.
        name: String,
    },
    /// An import outside WASI 0.2 and the plugin interface.
    #[error(
        "it imports `{name}`, which no plugin may: only sluicegate:transform@{INTERFACE}, wasi:logging and WASI 0.2 without HTTP are there"
    )]
    Import {
        /// The import.
        name: String,
    },
    /// A function that a newer version of the interface has.
    #[error(
        "it imports the function `{function}` of `{interface}`, which this host does not have: it needs a newer host"
    )]
    Function {
        /// The interface.
        interface: String,
        /// The function.
        function: String,
    },
    /// No `processor`.
    #[error("it does not export `{}`: implement the world `transform`", interface::PROCESSOR)]
    NoProcessor,
    /// The compiler refuses it.
    #[error("it does not compile: {reason}")]
    Compile {
        /// In the compiler's words.
        reason: String,
    },
    /// Imports or exports have other types than this host's.
    #[error("its imports or exports do not have the types of this host's interface: {reason}")]
    Types {
        /// Which, in wasmtime's words.
        reason: String,
    },
}

/// Reads a plugin's manifest, imports and exports, and refuses what this host could not run.
///
/// # Errors
/// Everything but [`LoadError::Compile`] and [`LoadError::Types`].
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    check_kind(bytes)?;
    let outline = Outline::read(bytes)?;
    let manifest = Manifest::parse(outline.manifest()?)?;
    let types = Validator::new_with_features(WasmFeatures::default())
        .validate_all(bytes)
        .map_err(|error| LoadError::NotAComponent { reason: error.to_string() })?;
    for name in &outline.imports {
        let functions = match types.as_ref().component_item_for_import(name).map(|item| item.ty) {
            Some(ComponentEntityType::Instance(id)) => {
                let exports = &types[id].exports;
                exports.iter().filter(|(_, item)| matches!(item.ty, ComponentEntityType::Func(_))).map(|(name, _)| name)
            }
            _ => return Err(LoadError::Import { name: name.clone() }),
        };
        check_import(name, functions)?;
    }
    let processor = outline.exports.iter().find(|name| interface::compatible(interface::PROCESSOR, name));
    let Some(processor) = processor else {
        return Err(match outline.exports.iter().find(|name| interface::is_other_processor(name)) {
            Some(name) => LoadError::Version { name: name.clone() },
            None => LoadError::NoProcessor,
        });
    };
    let mut provenance = outline.provenance();
    if !manifest.sdk.is_empty() {
        provenance.sdk = provenance::text(manifest.sdk.as_bytes());
    }
    Ok(Inspection {
        manifest,
        provenance,
        world: processor.replace("/processor", ""),
        migrates: outline.exports.iter().any(|name| interface::compatible(interface::MIGRATION, name)),
        imports: outline.imports,
        exports: outline.exports,
        bytes: bytes.len(),
    })
}

pub(super) fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > PLUGIN_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes: bytes.len() });
    }
    if Parser::is_component(bytes) {
        return Ok(());
    }
    if Parser::is_core_wasm(bytes) {
        return Err(LoadError::CoreModule);
    }
    let reason = if bytes.is_empty() {
        "the file is empty"
    } else if bytes.trim_ascii_start().starts_with(b"(") {
        "this looks like the text format; translate it with `wasm-tools parse`"
    } else {
        "it does not begin with the magic number of one"
    };
    Err(LoadError::NotAComponent { reason: reason.into() })
}

fn check_import<'a>(name: &str, mut functions: impl Iterator<Item = &'a String>) -> Result<(), LoadError> {
    match interface::import(name) {
        Known::Wasi => Ok(()),
        Known::Functions(known) => match functions.find(|function| !known.contains(&function.as_str())) {
            None => Ok(()),
            Some(function) => Err(LoadError::Function { interface: name.into(), function: function.clone() }),
        },
        Known::OtherVersion => Err(LoadError::Version { name: name.into() }),
        Known::No => Err(LoadError::Import { name: name.into() }),
    }
}

/// What stands in the outermost component, and at any depth the manifests and what they were made with.
#[derive(Default)]
pub(super) struct Outline<'a> {
    imports: Vec<String>,
    exports: Vec<String>,
    outer_manifest: Option<&'a [u8]>,
    inner_manifests: Vec<&'a [u8]>,
    provenance: Provenance,
}

impl<'a> Outline<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, LoadError> {
        let mut outline = Self::default();
        outline.collect(bytes).map_err(|error| LoadError::NotAComponent { reason: error.to_string() })?;
        Ok(outline)
    }

    fn collect(&mut self, bytes: &'a [u8]) -> wasmparser::Result<()> {
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        self.imports.push(import?.name.name.into());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        self.exports.push(export?.name.name.into());
                    }
                }
                Payload::CustomSection(section) if section.name() == manifest::SECTION => {
                    if depth == 0 {
                        self.outer_manifest = Some(section.data());
                    } else if !self.inner_manifests.contains(&section.data()) {
                        self.inner_manifests.push(section.data());
                    }
                }
                Payload::CustomSection(section) => match (section.name(), section.as_known()) {
                    (_, KnownCustom::Producers(producers)) => self.produced(producers),
                    // Inside stands what a part was made of.
                    (provenance::SOURCE, _) if depth == 0 => self.provenance.source = provenance::text(section.data()),
                    (provenance::REVISION, _) if depth == 0 => {
                        self.provenance.revision = provenance::text(section.data());
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// As far as it can be read.
    fn produced(&mut self, producers: ProducersSectionReader<'_>) {
        for field in producers.into_iter().flatten() {
            for value in field.values.into_iter().flatten() {
                self.provenance.produced(field.name, value.name, value.version);
            }
        }
    }

    /// What it was made with, and of which sources.
    pub(super) fn provenance(&self) -> Provenance {
        self.provenance.clone()
    }

    /// Whether there is a manifest at any depth.
    pub(super) fn has_manifest(&self) -> bool {
        self.outer_manifest.is_some() || !self.inner_manifests.is_empty()
    }

    /// The outermost manifest wins: `plugin pack` overrides what a module brought along.
    pub(super) fn manifest(&self) -> Result<&'a [u8], LoadError> {
        match (self.outer_manifest, self.inner_manifests.as_slice()) {
            (Some(manifest), _) => Ok(manifest),
            (None, [manifest]) => Ok(*manifest),
            (None, []) => Err(LoadError::NoManifest),
            (None, many) => Err(LoadError::ManyManifests { count: many.len() }),
        }
    }
}
