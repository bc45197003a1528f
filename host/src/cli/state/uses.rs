//! What a store of a task is there for, by the manifest of its state. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::checkpoint::head::Manifest;
use crate::state::StoreName;

/// What a store is there for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "use", rename_all = "kebab-case")]
pub(super) enum Use {
    /// The transform reads it.
    Read,
    /// The same entries in the form of the version before, kept in step so that a rollout can go back.
    Copy,
    /// The state from before a swap without return, as it was at these offsets of the source topics. Only a person goes back to it.
    Former {
        /// The next offset of each source topic when the task went over.
        since: BTreeMap<String, i64>,
    },
    /// No version that made the state has it: it is being converted, is superseded, or belongs to what is gone.
    Unused,
}

impl Use {
    pub(super) fn of(manifest: &Manifest, store: &StoreName) -> Self {
        let has = |transform: &str, stores: &BTreeMap<String, u32>| {
            stores.iter().any(|(name, schema)| StoreName::of(transform, name, *schema) == *store)
        };
        for transform in manifest.transforms.iter().filter(|transform| transform.name == store.transform) {
            if has(&transform.name, &transform.stores) {
                return Self::Read;
            }
            if has(&transform.name, &transform.copies) {
                return Self::Copy;
            }
            if let Some(since) = transform.former.get(&store.store) {
                return Self::Former { since: since.clone() };
            }
        }
        Self::Unused
    }

    /// In a word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Copy => "copy",
            Self::Former { .. } => "former",
            Self::Unused => "-",
        }
    }
}

/// Why each of these stores takes room that stay from before, and what drops it; a line for each.
pub(super) fn about_formers(pipeline: &str, formers: &BTreeSet<StoreName>) -> String {
    let line = |name: &StoreName| {
        let StoreName { transform, store } = name;
        format!(
            "\n{name} is the state from before a swap without return: `sluicegate plugin rollback {pipeline} {transform} --from-copy` goes back to it, `sluicegate state drop {pipeline} {store} --transform {transform}` deletes it\n"
        )
    };
    formers.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::head::TransformIdentity;
    use crate::checkpoint::protocol::tests::genesis;

    fn store(transform: &str, store: &str) -> StoreName {
        StoreName { transform: transform.to_owned(), store: store.to_owned() }
    }

    #[test]
    fn a_store_is_read_or_a_copy_or_stays_from_before_or_is_nobodys() {
        let since = BTreeMap::from([("orders".to_owned(), 60)]);
        let count = TransformIdentity {
            name: "count".to_owned(),
            plugin: String::new(),
            config: String::new(),
            stores: [("counts".to_owned(), 3), ("seen".to_owned(), 2)].into(),
            copies: [("seen".to_owned(), 1)].into(),
            former: [("counts".to_owned(), since.clone())].into(),
            since: BTreeMap::new(),
        };
        let manifest = Manifest { transforms: vec![count], ..genesis().committed };
        let cases = [
            ("counts@3", Use::Read),
            ("seen@2", Use::Read),
            ("seen", Use::Copy),
            ("counts", Use::Former { since: since.clone() }),
            ("counts@2", Use::Unused),
        ];
        for (name, expected) in cases {
            assert_eq!(Use::of(&manifest, &store("count", name)), expected, "{name}");
        }
        assert_eq!(Use::of(&manifest, &store("other", "counts")), Use::Unused);
        let json = serde_json::to_value(Use::Former { since }).unwrap();
        assert_eq!(json, serde_json::json!({ "use": "former", "since": { "orders": 60 } }));
    }

    #[test]
    fn what_stays_from_before_is_said_with_what_goes_back_and_what_drops_it() {
        let said = about_formers("orders", &[store("count", "counts")].into());
        assert!(said.contains("count/counts is the state from before"), "{said}");
        assert!(said.contains("`sluicegate plugin rollback orders count --from-copy`"), "{said}");
        assert!(said.contains("`sluicegate state drop orders counts --transform count`"), "{said}");
        assert_eq!(about_formers("orders", &BTreeSet::new()), "");
    }
}
