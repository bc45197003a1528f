//! Which stores of a task stay as they were when it went over to code that does not convert its state back. Pure.
//!
//! Nobody keeps them in step, so that they are no copies: only a person goes back to them. What a plan declares, or what is about to
//! be written, is none of them any more; a manifest that says otherwise would lead a person to state that never was.

use std::collections::BTreeMap;

use super::migration::Route;
use crate::checkpoint::head::{Manifest, TransformIdentity};
use crate::state::StoreName;

/// Stores that stay as they were, each with the next offset of each source topic then.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Former(BTreeMap<StoreName, BTreeMap<String, i64>>);

impl Former {
    /// Those that a manifest knows.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let of_transform = |made_it: &TransformIdentity| {
            let name = |store: &String| StoreName { transform: made_it.name.clone(), store: store.clone() };
            made_it.former.iter().map(|(store, at)| (name(store), at.clone())).collect::<Vec<_>>()
        };
        Self(manifest.transforms.iter().flat_map(of_transform).collect())
    }

    /// Those of a transform, as a manifest has them.
    #[must_use]
    pub fn of_transform(&self, transform: &str) -> BTreeMap<String, BTreeMap<String, i64>> {
        let own = self.0.iter().filter(|(name, _)| name.transform == transform);
        own.map(|(name, at)| (name.store.clone(), at.clone())).collect()
    }

    /// Whether this store stays as it was.
    #[must_use]
    pub fn contains(&self, store: &StoreName) -> bool {
        self.0.contains_key(store)
    }

    /// The task has gone over by these routes, at these offsets.
    pub fn leave(&mut self, routes: &[Route], at: &BTreeMap<String, i64>) {
        let sources = routes.iter().map(|route| route.source.clone());
        self.0.extend(sources.map(|source| (source, at.clone())));
    }

    /// What these routes lead to is written from now on. Whether any of it has stayed until now.
    pub fn make_anew(&mut self, routes: &[Route]) -> bool {
        let before = self.0.len();
        self.0.retain(|name, _| routes.iter().all(|route| route.target != *name));
        self.0.len() < before
    }

    /// These stores are in use.
    pub fn declare(&mut self, stores: impl IntoIterator<Item = Vec<StoreName>>) {
        for name in stores.into_iter().flatten() {
            self.0.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::protocol::tests::genesis;

    fn counts(schema: u32) -> StoreName {
        StoreName::of("count", "counts", schema)
    }

    fn route(from: u32, to: u32) -> [Route; 1] {
        [Route::of("count", "counts", from, to)]
    }

    fn at(offset: i64) -> BTreeMap<String, i64> {
        [("orders".to_owned(), offset)].into()
    }

    /// As a next owner finds it.
    fn restored(former: &Former) -> Former {
        let mut manifest = genesis().committed;
        let identity = |name: &str| TransformIdentity {
            name: name.to_owned(),
            plugin: String::new(),
            config: String::new(),
            stores: BTreeMap::new(),
            copies: BTreeMap::new(),
            former: former.of_transform(name),
            since: BTreeMap::new(),
        };
        manifest.transforms = vec![identity("other"), identity("count")];
        Former::of(&manifest)
    }

    #[test]
    fn what_stays_is_found_by_the_next_owner_and_with_the_offsets_of_each_departure() {
        let mut former = Former::default();
        former.leave(&route(1, 2), &at(60));
        former.leave(&route(2, 3), &at(90));
        assert_eq!(restored(&former), former);
        assert_eq!(former.of_transform("count"), [("counts".into(), at(60)), ("counts@2".into(), at(90))].into());
        assert!(former.of_transform("other").is_empty());
        assert!(former.contains(&counts(1)) && !former.contains(&counts(3)));
    }

    #[test]
    fn what_is_written_or_read_again_is_not_what_it_was() {
        let mut left = Former::default();
        left.leave(&route(1, 2), &at(60));
        let mut former = left.clone();
        assert!(!former.make_anew(&route(2, 3)), "that is another store");
        assert!(former.make_anew(&route(2, 1)), "half of it would be of one time and half of another");
        assert_eq!(former, Former::default());
        let mut former = left;
        former.declare([vec![counts(2)], Vec::new()]);
        assert!(former.contains(&counts(1)));
        former.declare([vec![counts(1)], Vec::new()]);
        assert!(!former.contains(&counts(1)));
    }
}
