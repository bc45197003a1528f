//! Puts into a component where its sources are: the custom sections `source` and `revision`, as wasm-tools and registries of
//! components know them.
//!
//! Pure. Everything else in the component stays as it is, byte for byte, and the same sources give the same bytes: nothing in
//! here knows the time, or whose machine it is.

use wasm_encoder::{ComponentSection, CustomSection};

use super::inspect::{LoadError, check_kind};
use super::pack::without;
use crate::provenance::{REVISION, SOURCE};

/// `component` with the repository and the revision of its sources, in the place of those that it has.
///
/// # Errors
/// It is no component.
pub fn stamp(component: &[u8], source: Option<&str>, revision: &str) -> Result<Vec<u8>, LoadError> {
    check_kind(component)?;
    let mut stamped = without(component, &[SOURCE, REVISION])?;
    for (name, text) in source.map(|source| (SOURCE, source)).into_iter().chain([(REVISION, revision)]) {
        CustomSection { name: name.into(), data: text.as_bytes().into() }.append_to_component(&mut stamped);
    }
    Ok(stamped)
}

#[cfg(test)]
mod tests {
    use super::super::inspect::Outline;
    use super::*;
    use crate::manifest::Manifest;

    fn component(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn sources_are_written_read_and_replaced() {
        let bare = component(r#"(component (core module (@custom "other" "kept")))"#);
        let first = stamp(&bare, Some("https://example.org/a"), "1234").unwrap();
        assert!(first.starts_with(&bare));
        let found = Outline::read(&first).unwrap().provenance();
        assert_eq!((found.source.as_str(), found.revision.as_str()), ("https://example.org/a", "1234"));
        assert_eq!(stamp(&bare, Some("https://example.org/a"), "1234").unwrap(), first, "the same gives the same");
        let second = stamp(&first, None, "5678-dirty").unwrap();
        assert_eq!(second, stamp(&bare, None, "5678-dirty").unwrap());
    }

    #[test]
    fn wasm_metadata_reads_what_is_written() {
        let stamped = stamp(&component("(component)"), Some("https://example.org/a"), "1234-dirty").unwrap();
        let read = wasm_metadata::Payload::from_binary(&stamped).unwrap();
        let read = read.metadata();
        assert_eq!(read.source.as_ref().unwrap().to_string(), "https://example.org/a");
        assert_eq!(read.revision.as_ref().unwrap().to_string(), "1234-dirty");
    }

    #[test]
    fn a_manifest_that_is_put_in_later_leaves_them_where_they_are() {
        let stamped = stamp(&component("(component (core module))"), Some("https://example.org/a"), "1234").unwrap();
        let manifest = Manifest::parse(br#"{"name":"a","version":"1.0.0","interface":"0.1.0"}"#).unwrap();
        let packed = super::super::pack::pack(&stamped, &manifest, false).unwrap();
        assert_eq!(Outline::read(&packed).unwrap().provenance().revision, "1234");
    }

    #[test]
    fn what_is_no_component_is_refused() {
        assert!(matches!(stamp(b"", None, "1"), Err(LoadError::NotAComponent { .. })));
        let core = wat::parse_str("(module)").unwrap();
        assert!(matches!(stamp(&core, None, "1"), Err(LoadError::CoreModule)));
    }
}
