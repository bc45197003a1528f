//! A plugin's manifest as a TOML file, for `sluicegate plugin pack`: the fields of the JSON, and its rules, by line.
//!
//! Stricter than the JSON in one thing: here somebody is writing, so that a field which is not known is a mistake. What the
//! fields mean, and which values cannot be, is the business of [`crate::manifest`].

use std::path::Path;

use super::diagnostic::{Diagnostic, Errors};
use super::field::Field;
use super::pipeline::Grant;
use super::section::{self, Section, Shape};
use super::text::{Step, Text};
use super::value::{self, Bounds, Fault};
use crate::manifest::{self, INTERFACE, Manifest, ManifestError, Port, StoreDeclaration};

const ROOT: Shape = Shape {
    heading: "",
    keys: &["name", "version", "interface", "description", "sdk", "dynamic-outputs", "wants"],
    tables: &["inputs", "outputs", "stores", "config"],
    open: false,
};
const INPUT: Shape = Shape { heading: "[[inputs]]", keys: &["name", "description"], tables: &[], open: false };
const OUTPUT: Shape =
    Shape { heading: "[[outputs]]", keys: &["name", "optional", "description"], tables: &[], open: false };
const STORE: Shape = Shape {
    heading: "[[stores]]",
    keys: &["name", "schema", "key-format", "value-format", "description"],
    tables: &[],
    open: false,
};

/// Every table of a manifest; the top level first.
pub(super) const SHAPES: &[&Shape] = &[&ROOT, &INPUT, &OUTPUT, &STORE];

const SCHEMA: Bounds<u64> = Bounds {
    min: 1,
    why_min: "versions of a store's encoding start at 1",
    max: u32::MAX as u64,
    why_max: "that is the largest version there can be",
};

/// Reads and checks a manifest file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_manifest(path: &Path) -> Result<Manifest, Errors> {
    match Text::read(path) {
        Ok(text) => read(&text),
        Err(problem) => {
            let message = format!("cannot read the manifest `{}`: {problem}", path.display());
            Err(Errors::new(&Text::default(), vec![Diagnostic::new(message)]))
        }
    }
}

/// Checks a manifest whose text was read elsewhere; `origin` is shown in errors.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_manifest(origin: &Path, text: &str) -> Result<Manifest, Errors> {
    read(&Text::new(origin, text))
}

fn read(text: &Text) -> Result<Manifest, Errors> {
    let manifest = section::read(text, SHAPES, manifest)?;
    let faults: Vec<Diagnostic> = manifest.faults().into_iter().map(|fault| diagnostic(text, fault)).collect();
    if faults.is_empty() { Ok(manifest) } else { Err(Errors::new(text, faults)) }
}

fn diagnostic(text: &Text, fault: ManifestError) -> Diagnostic {
    let message = "the manifest is not valid";
    match fault {
        ManifestError::Field { field, problem } => {
            Diagnostic::new(message).at(text.place(&[Step::Path(&field)])).label(problem)
        }
        ManifestError::Interface { .. } => Diagnostic::new(message)
            .at(text.place(&[Step::Key("interface")]))
            .label(format!("this host has the plugin interface {INTERFACE}"))
            .help("leave it out for the interface of this host, or use a host that has the other one"),
        ManifestError::Json(error) => Diagnostic::new(format!("{message}: {error}")),
    }
}

fn manifest(root: &Section<'_>) -> Option<Manifest> {
    let name = root.required("name", "\"my-plugin\"").and_then(|field| field.checked(value::name));
    let version = root.required("version", "\"0.1.0\"").and_then(|field| field.parsed(version));
    let interface = root.value("interface", INTERFACE.to_owned(), |field| text(*field));
    let description = described(root);
    let sdk = root.value("sdk", String::new(), |field| text(*field));
    let dynamic_outputs = root.value("dynamic-outputs", false, Field::boolean);
    let wants = root.value("wants", Vec::new(), |field| field.list(grant));
    let config = root.optional("config", Field::json_object);
    let inputs = ports(root, "inputs", &INPUT);
    let outputs = ports(root, "outputs", &OUTPUT);
    let stores: Vec<_> = root.tables("stores", &STORE).iter().map(store).collect();
    Some(Manifest {
        name: name?,
        version: version?,
        interface: interface?,
        description: description?,
        sdk: sdk?,
        inputs: inputs?,
        outputs: outputs?,
        dynamic_outputs: dynamic_outputs?,
        stores: stores.into_iter().collect::<Option<_>>()?,
        wants: wants?,
        config: config?,
    })
}

/// Absent ports are one called `main`.
fn ports(root: &Section<'_>, key: &'static str, shape: &'static Shape) -> Option<Vec<Port>> {
    if root.field(key).is_none() {
        return Some(manifest::one_main());
    }
    let ports: Vec<Option<Port>> = root
        .tables(key, shape)
        .iter()
        .map(|section| {
            let name = section.required("name", "\"main\"").and_then(text);
            let is_output = shape.keys.contains(&"optional");
            let optional = if is_output { section.value("optional", false, Field::boolean) } else { Some(false) };
            let description = described(section);
            Some(Port { name: name?, optional: optional?, description: description? })
        })
        .collect();
    ports.into_iter().collect()
}

fn store(section: &Section<'_>) -> Option<StoreDeclaration> {
    let name = section.required("name", "\"counts\"").and_then(text);
    let schema = section.required("schema", "1").and_then(|field| field.count(|schema| value::count(schema, &SCHEMA)));
    let key_format = section.value("key-format", String::new(), |field| text(*field));
    let value_format = section.value("value-format", String::new(), |field| text(*field));
    let description = described(section);
    Some(StoreDeclaration {
        name: name?,
        schema: u32::try_from(schema?).unwrap_or(u32::MAX),
        key_format: key_format?,
        value_format: value_format?,
        description: description?,
    })
}

fn described(section: &Section<'_>) -> Option<String> {
    section.value("description", String::new(), |field| text(*field))
}

fn text(field: Field<'_>) -> Option<String> {
    field.checked(|_| Ok(()))
}

fn version(text: &str) -> Result<String, Fault> {
    let fault = |_| Fault::new("not a semantic version", "write three numbers, for example \"0.1.0\"");
    semver::Version::parse(text).map(|version| version.to_string()).map_err(fault)
}

fn grant(text: &str) -> Result<String, Fault> {
    let fault = || Fault::new("no such grant", "the grants are \"clocks\", \"random\" and \"env:NAME\"");
    Grant::parse(text).map(|grant| grant.to_string()).ok_or_else(fault)
}
