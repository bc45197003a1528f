//! State as lines of a file: a store's name, a key, a value. Pure.

use serde::{Deserialize, Serialize};

use super::lines::{self, Line, LineError};
use crate::manifest::StoreDeclaration;
use crate::payload::Payload;
use crate::state::{Store, TransformState};

/// An entry of a store.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    store: String,
    key: Payload,
    value: Payload,
}

/// Reads entries for a plugin that has these stores.
///
/// # Errors
/// The first line that is wrong.
pub(super) fn read(file: &str, bytes: &[u8], stores: &[StoreDeclaration]) -> Result<Vec<Entry>, LineError> {
    let entries: Vec<Line<Entry>> = lines::read(file, bytes)?;
    let known = |entry: &Entry| stores.iter().any(|store| store.name == entry.store);
    if let Some(Line { number, contents }) = entries.iter().find(|line| !known(&line.contents)) {
        let names: Vec<&str> = stores.iter().map(|store| store.name.as_str()).collect();
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let problem = format!("the plugin has no store `{}`; it has {has}", contents.store);
        return Err(LineError::new(file, *number, problem, lines::write([contents]).trim_end()));
    }
    Ok(entries.into_iter().map(|line| line.contents).collect())
}

/// Stores that hold `entries`, as the state that a plugin finds.
pub(super) fn fill(entries: &[Entry], stores: &[StoreDeclaration]) -> TransformState {
    let mut state = TransformState { stores: stores.iter().map(|_| Store::default()).collect() };
    for Entry { store, key, value } in entries {
        if let Some(number) = stores.iter().position(|declared| declared.name == *store) {
            state.stores[number].put(&key.0, Some(&value.0));
        }
    }
    state
}

/// The entries of all stores, by store and key.
pub(super) fn entries(state: &TransformState, stores: &[StoreDeclaration]) -> Vec<Entry> {
    let of = |(store, declared): (&Store, &StoreDeclaration)| -> Vec<Entry> {
        let entry =
            |(key, value): (&[u8], &[u8])| Entry { store: declared.name.clone(), key: key.into(), value: value.into() };
        let mut entries: Vec<Entry> = store.iter().map(entry).collect();
        entries.sort();
        entries
    };
    state.stores.iter().zip(stores).flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(names: &[&str]) -> Vec<StoreDeclaration> {
        let store = |name: &&str| StoreDeclaration {
            name: (*name).to_owned(),
            schema: 1,
            key_format: String::new(),
            value_format: String::new(),
            description: String::new(),
        };
        names.iter().map(store).collect()
    }

    #[test]
    fn state_comes_back_as_it_was_written() {
        let stores = stores(&["b", "a"]);
        let text = r#"{"store":"b","key":"k","value":{"base64":"AQ=="}}
{"store":"a","key":"k","value":"2"}
{"store":"a","key":"l","value":"3"}
"#;
        let read = read("state", text.as_bytes(), &stores).unwrap();
        assert_eq!(lines::write(entries(&fill(&read, &stores), &stores)), text);
    }

    #[test]
    fn a_store_that_is_not_declared_is_named_with_those_that_are() {
        let said = |names: &[&str]| {
            let text = b"{\"store\":\"x\",\"key\":\"k\",\"value\":\"v\"}";
            read("state.jsonl", text, &stores(names)).unwrap_err().to_string()
        };
        assert!(said(&["a", "b"]).starts_with("state.jsonl:1:1: the plugin has no store `x`; it has a, b"));
        assert!(said(&[]).contains("it has none"));
    }
}
