//! Puts a manifest into a component, for plugins in languages whose SDK does not do it.
//!
//! Pure. Everything else in the component stays as it is, byte for byte; a manifest that a module inside brought along
//! stays too, and the outermost one counts.

use thiserror::Error;
use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::BinaryReader;

use super::inspect::{LoadError, Outline, check_kind};
use crate::manifest::{self, Manifest};

/// Magic number and version: what stands before the first section.
const PREAMBLE_BYTES: usize = 8;
/// The number of custom sections.
const CUSTOM: u8 = 0;

/// Why a component does not get its manifest.
#[derive(Debug, Error)]
pub enum PackError {
    /// It is no component.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It has one, which was not to be replaced.
    #[error("it has a manifest already")]
    Present,
}

/// `component` with `manifest`; with `replace` instead of the one that it has.
///
/// # Errors
/// See [`PackError`]. That the result is a plugin is not checked here: [`inspect`](super::inspect()) does.
pub fn pack(component: &[u8], manifest: &Manifest, replace: bool) -> Result<Vec<u8>, PackError> {
    check_kind(component)?;
    if Outline::read(component)?.has_manifest() && !replace {
        return Err(PackError::Present);
    }
    let mut packed = without(component, &[manifest::SECTION])?;
    let json = serde_json::to_vec(manifest).expect("a manifest has strings for keys");
    CustomSection { name: manifest::SECTION.into(), data: json.into() }.append_to_component(&mut packed);
    Ok(packed)
}

/// The component without the custom sections of its outermost level that have one of these names.
pub(super) fn without(component: &[u8], names: &[&str]) -> Result<Vec<u8>, LoadError> {
    kept(component, names).map_err(|error| LoadError::NotAComponent { reason: error.to_string() })
}

fn kept(component: &[u8], names: &[&str]) -> wasmparser::Result<Vec<u8>> {
    let mut reader = BinaryReader::new(component, 0);
    let mut kept = reader.read_bytes(PREAMBLE_BYTES)?.to_vec();
    while !reader.eof() {
        let begin = reader.original_position();
        let number = reader.read_u8()?;
        let mut contents = reader.read_reader()?;
        let goes = number == CUSTOM && names.contains(&contents.read_string()?);
        if !goes {
            kept.extend_from_slice(&component[begin..reader.original_position()]);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Manifest {
        let json = format!(r#"{{"name":"{name}","version":"1.0.0","interface":"0.1.0"}}"#);
        Manifest::parse(json.as_bytes()).unwrap()
    }

    fn manifest_of(component: &[u8]) -> Manifest {
        Manifest::parse(Outline::read(component).unwrap().manifest().unwrap()).unwrap()
    }

    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn a_component_gets_its_manifest_and_is_otherwise_the_same() {
        let bare = component(r#"(component (core module (@custom "other" "kept")))"#);
        let packed = pack(&bare, &named("a"), false).unwrap();
        assert_eq!(manifest_of(&packed), named("a"));
        assert!(packed.starts_with(&bare));
    }

    #[test]
    fn a_manifest_is_replaced_only_when_asked_to() {
        let bare = component(r#"(component (core module) (core module))"#);
        let packed = pack(&bare, &named("a"), false).unwrap();
        assert!(matches!(pack(&packed, &named("b"), false), Err(PackError::Present)));
        let replaced = pack(&packed, &named("b"), true).unwrap();
        assert_eq!(replaced, pack(&bare, &named("b"), false).unwrap());
    }

    #[test]
    fn the_outermost_manifest_counts() {
        let inside = component(
            r#"(component (core module (@custom "sluicegate:manifest" "{\"name\":\"x\",\"version\":\"1.0.0\",\"interface\":\"0.1.0\"}")))"#,
        );
        assert_eq!(manifest_of(&inside).name, "x");
        assert!(matches!(pack(&inside, &named("a"), false), Err(PackError::Present)));
        assert_eq!(manifest_of(&pack(&inside, &named("a"), true).unwrap()).name, "a");
    }

    #[test]
    fn what_is_no_component_is_refused_and_never_panics() {
        assert!(matches!(pack(b"", &named("a"), false), Err(PackError::Load(_))));
        let core = wat::parse_str("(module)").unwrap();
        assert!(matches!(pack(&core, &named("a"), false), Err(PackError::Load(LoadError::CoreModule))));
        let whole = component("(component (core module))");
        for end in 0..whole.len() {
            // A cut may fall between two sections.
            let _ = pack(&whole[..end], &named("a"), true);
        }
    }
}
