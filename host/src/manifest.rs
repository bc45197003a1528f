//! What a plugin says about itself: JSON in the custom section `sluicegate:manifest`, readable without running it.
//!
//! Grows by optional fields only; fields that are not known are ignored. Finding the section in a component is the
//! engine's business, what it means is decided here.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Name of the custom section.
pub const SECTION: &str = "sluicegate:manifest";
/// The package version of the plugin interface that this host speaks.
pub const INTERFACE: &str = "0.1.0";

/// A plugin's manifest. `docs/manifest.schema.json` describes it for other languages.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// `^[a-z][a-z0-9-]{0,62}$`.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// The package version it was built for.
    pub interface: String,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Name and version of the SDK that wrote this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sdk: String,
    /// Inputs in order; the guest counts in them.
    #[serde(default = "one_main")]
    pub inputs: Vec<Port>,
    /// Outputs; the first goes on down the chain.
    #[serde(default = "one_main")]
    pub outputs: Vec<Port>,
    /// May open every outlet that the pipeline binds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dynamic_outputs: bool,
    /// Keyed state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreDeclaration>,
    /// Grants it cannot work without, for example `clocks`, `random`, `env:NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<String>,
    /// JSON Schema of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}

/// An input or output.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Port {
    /// Name, unique among its kind.
    pub name: String,
    /// An output that a pipeline need not bind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A store of keyed state.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreDeclaration {
    /// Name, unique in the plugin.
    pub name: String,
    /// Version of the encoding of its values, from 1.
    pub schema: u32,
    /// `bytes`, `utf8`, `postcard`, `json`, ..: for tools that show state.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key_format: String,
    /// Like `key_format`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value_format: String,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Why a manifest is refused.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not JSON, or a field of the wrong type, or one that is missing.
    #[error("its manifest is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// A field says something that cannot be.
    #[error("its manifest is not valid: `{field}` {problem}")]
    Field {
        /// Which field: a path such as `outputs[1].name`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Built for another interface.
    #[error(
        "it was built for the plugin interface {found}; this host has {INTERFACE}: build it with an SDK of that version"
    )]
    Interface {
        /// What the manifest says.
        found: String,
    },
}

pub(crate) fn one_main() -> Vec<Port> {
    vec![Port { name: "main".into(), optional: false, description: String::new() }]
}

/// Whether `name` may name a plugin, a pipeline or a transform: `^[a-z][a-z0-9-]{0,62}$`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl Manifest {
    /// Reads and checks the contents of the section.
    ///
    /// # Errors
    /// What is wrong with it, in words for the plugin's author.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(json)?;
        match manifest.faults().into_iter().next() {
            None => Ok(manifest),
            Some(fault) => Err(fault),
        }
    }

    /// Everything that cannot be, beyond the types of the fields.
    pub(crate) fn faults(&self) -> Vec<ManifestError> {
        let fault = |field: &str, problem: String| ManifestError::Field { field: field.into(), problem };
        let mut faults = Vec::new();
        if !is_name(&self.name) {
            let problem = format!("is `{}`: use lower-case letters, digits and `-`, a letter first", self.name);
            faults.push(fault("name", problem));
        }
        if let Err(error) = semver::Version::parse(&self.version) {
            faults.push(fault("version", format!("is `{}`, not a semantic version: {error}", self.version)));
        }
        // Growth is by functions within 0.1: a newer patch version is refused by the name of what it misses, not here.
        let compatible =
            semver::Version::parse(&self.interface).is_ok_and(|version| version.major == 0 && version.minor == 1);
        if !compatible {
            faults.push(ManifestError::Interface { found: self.interface.clone() });
        }
        for (field, ports) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            if ports.is_empty() {
                faults.push(fault(field, "is empty: leave it out for one named `main`".into()));
            }
            faults.extend(repeated(field, ports.iter().map(|port| port.name.as_str())));
        }
        faults.extend(repeated("stores", self.stores.iter().map(|store| store.name.as_str())));
        for (nth, store) in self.stores.iter().enumerate().filter(|(_, store)| store.schema == 0) {
            let problem = format!("gives `{}` the schema version 0: they start at 1", store.name);
            faults.push(fault(&format!("stores[{nth}].schema"), problem));
        }
        faults
    }
}

/// The names of a list that are empty or were there before.
fn repeated<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Vec<ManifestError> {
    let mut seen = std::collections::BTreeSet::new();
    let fault = |(nth, name): (usize, &str)| {
        let problem = match name {
            "" => "is empty".to_owned(),
            name if !seen.insert(name.to_owned()) => format!("names `{name}` twice"),
            _ => return None,
        };
        Some(ManifestError::Field { field: format!("{field}[{nth}].name"), problem })
    };
    names.enumerate().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_ports_mean_one_called_main() {
        let manifest = Manifest::parse(br#"{"name":"a","version":"1.0.0","interface":"0.1.0"}"#).unwrap();
        assert_eq!(manifest.inputs[0].name, "main");
        assert_eq!(manifest.outputs[0].name, "main");
    }

    #[test]
    fn unknown_fields_are_ignored() {
        Manifest::parse(br#"{"name":"a","version":"1.0.0","interface":"0.1.9","later":{"x":1}}"#).unwrap();
    }

    #[test]
    fn faults_name_the_field() {
        let message = |json: &str| Manifest::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(message(r#"{"name":"A","version":"1.0.0","interface":"0.1.0"}"#).contains("`name`"));
        assert!(message(r#"{"name":"a","version":"1","interface":"0.1.0"}"#).contains("`version`"));
        assert!(message(r#"{"name":"a","version":"1.0.0","interface":"0.2.0"}"#).contains("interface 0.2.0"));
        let twice = r#"{"name":"a","version":"1.0.0","interface":"0.1.0","outputs":[{"name":"x"},{"name":"x"}]}"#;
        assert!(message(twice).contains("`x` twice"));
        let schema = r#"{"name":"a","version":"1.0.0","interface":"0.1.0","stores":[{"name":"s","schema":0}]}"#;
        assert!(message(schema).contains("start at 1"));
    }
}
