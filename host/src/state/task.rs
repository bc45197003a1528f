//! The state of one task: the stores of its transforms.

use std::fmt;

use super::Store;

/// Names a store within a pipeline: survives a transform that changes its place in the chain.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StoreName {
    /// The transform's name in the pipeline.
    pub transform: String,
    /// The store's name in the plugin's manifest; from schema version 2 on with the version behind it: `counts@2`.
    pub store: String,
}

impl StoreName {
    /// The name of what a plugin declares as `store` under this schema version. A store of another version is another store, so that
    /// both can be there while one is made from the other.
    #[must_use]
    pub fn of(transform: &str, store: &str, schema: u32) -> Self {
        let store = if schema <= 1 { store.to_owned() } else { format!("{store}@{schema}") };
        Self { transform: transform.to_owned(), store }
    }

    /// The store's name in the plugin's manifest.
    #[must_use]
    pub fn declared(&self) -> &str {
        self.store.split_once('@').map_or(&self.store, |(name, _)| name)
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.transform, self.store)
    }
}

/// The stores of one transform, in the order of its plugin's manifest.
#[derive(Debug, Default)]
pub struct TransformState {
    /// What the guest reads and writes.
    pub stores: Vec<Store>,
}

impl TransformState {
    /// See [`Store::mark`].
    pub fn mark(&mut self) {
        self.stores.iter_mut().for_each(Store::mark);
    }

    /// See [`Store::keep_marked`].
    pub fn keep_marked(&mut self) {
        self.stores.iter_mut().for_each(Store::keep_marked);
    }

    /// See [`Store::undo_marked`].
    pub fn undo_marked(&mut self) {
        self.stores.iter_mut().for_each(Store::undo_marked);
    }
}

/// All stores of a task. A store is numbered by its place in [`TaskState::names`]; the number stays when a transform comes to declare
/// it, or does so no more.
#[derive(Debug, Default)]
pub struct TaskState {
    /// One for each transform of the chain.
    pub transforms: Vec<TransformState>,
    /// Stores that no transform declares: kept as they are.
    kept: Vec<Store>,
    names: Vec<StoreName>,
    /// Where each store is.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Declared { transform: usize, at: usize },
    Kept(usize),
}

impl TaskState {
    /// Empty stores: for each transform those that it declares.
    pub fn new(transforms: impl IntoIterator<Item = Vec<StoreName>>) -> Self {
        let mut state = Self::default();
        state.declare(transforms);
        state
    }

    /// From now on transforms declare these stores. Those that are there keep what they hold, others begin empty, and what nobody
    /// declares any more is kept.
    pub fn declare(&mut self, transforms: impl IntoIterator<Item = Vec<StoreName>>) {
        let numbers = 0..self.names.len();
        let mut stores: Vec<Option<Store>> =
            numbers.map(|number| Some(std::mem::take(self.store_mut(number)))).collect();
        self.kept.clear();
        self.transforms.clear();
        for (transform, names) in transforms.into_iter().enumerate() {
            let mut declared = TransformState::default();
            for (at, name) in names.into_iter().enumerate() {
                let known = self.names.iter().position(|known| *known == name);
                let number = known.unwrap_or_else(|| {
                    self.names.push(name);
                    self.places.push(Place::Kept(0));
                    stores.push(Some(Store::default()));
                    stores.len() - 1
                });
                self.places[number] = Place::Declared { transform, at };
                declared.stores.push(stores[number].take().unwrap_or_default());
            }
            self.transforms.push(declared);
        }
        for (store, place) in stores.into_iter().zip(&mut self.places) {
            if let Some(store) = store {
                *place = Place::Kept(self.kept.len());
                self.kept.push(store);
            }
        }
    }

    /// Names of all stores.
    #[must_use]
    pub fn names(&self) -> &[StoreName] {
        &self.names
    }

    /// The number of a store, made as one to be kept where no transform declares it.
    pub fn number(&mut self, name: &StoreName) -> usize {
        match self.names.iter().position(|known| known == name) {
            Some(number) => number,
            None => {
                self.names.push(name.clone());
                self.places.push(Place::Kept(self.kept.len()));
                self.kept.push(Store::default());
                self.names.len() - 1
            }
        }
    }

    /// A store by its number.
    #[must_use]
    pub fn store(&self, number: usize) -> &Store {
        match self.places[number] {
            Place::Declared { transform, at } => &self.transforms[transform].stores[at],
            Place::Kept(at) => &self.kept[at],
        }
    }

    /// A store by its number.
    pub fn store_mut(&mut self, number: usize) -> &mut Store {
        match self.places[number] {
            Place::Declared { transform, at } => &mut self.transforms[transform].stores[at],
            Place::Kept(at) => &mut self.kept[at],
        }
    }

    /// Every store, by number.
    pub fn stores(&self) -> impl Iterator<Item = &Store> {
        (0..self.names.len()).map(|number| self.store(number))
    }

    /// Every store, in no order.
    pub fn stores_mut(&mut self) -> impl Iterator<Item = &mut Store> {
        self.transforms.iter_mut().flat_map(|transform| &mut transform.stores).chain(&mut self.kept)
    }

    /// Numbers of the stores that hold something and are superseded: a transform declares the same store under another schema version.
    pub fn superseded(&self) -> impl Iterator<Item = usize> {
        let is_declared = |place: &Place| matches!(place, Place::Declared { .. });
        let named = || self.names.iter().zip(&self.places);
        let old = named().enumerate().filter(move |(_, (_, place))| !is_declared(place));
        old.filter(move |(_, (name, _))| {
            let other = |(declared, place): (&StoreName, &Place)| {
                is_declared(place) && (&declared.transform, declared.declared()) == (&name.transform, name.declared())
            };
            named().any(other)
        })
        .map(|(number, _)| number)
        .filter(|number| !self.store(*number).is_empty())
    }

    /// What changed is being made durable: see [`Store::seal`].
    pub fn seal(&mut self) {
        self.stores_mut().for_each(Store::seal);
    }

    /// Whether anything changed since it was last sealed.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.transforms.iter().flat_map(|transform| &transform.stores).chain(&self.kept).any(Store::has_changed)
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stores().map(Store::bytes).sum()
    }

    /// Number of all entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stores().map(Store::len).sum()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(schema: u32) -> Vec<StoreName> {
        vec![StoreName::of("count", "counts", schema)]
    }

    #[test]
    fn stores_keep_their_numbers_and_contents_when_other_ones_are_declared() {
        let mut state = TaskState::new([counts(1), vec![StoreName::of("join", "left", 1)]]);
        state.store_mut(0).put(b"k", Some(b"1"));
        let copy = state.number(&StoreName::of("count", "counts", 2));
        state.store_mut(copy).put(b"k", Some(b"one"));
        state.declare([counts(2), vec![StoreName::of("join", "left", 1)]]);
        assert_eq!(state.transforms[0].stores[0].get(b"k"), Some(&b"one"[..]));
        assert_eq!((state.store(0).get(b"k"), state.store(copy).get(b"k")), (Some(&b"1"[..]), Some(&b"one"[..])));
        assert_eq!(state.superseded().collect::<Vec<_>>(), [0]);
        state.declare([counts(1), Vec::new()]);
        assert_eq!(state.transforms[0].stores[0].get(b"k"), Some(&b"1"[..]));
        assert_eq!(state.superseded().collect::<Vec<_>>(), [copy], "what no version declares is no other version");
        assert_eq!((state.len(), state.names().len()), (2, 3));
    }

    #[test]
    fn the_first_schema_version_has_the_plain_name() {
        assert_eq!(StoreName::of("count", "counts", 1).to_string(), "count/counts");
        let second = StoreName::of("count", "counts", 2);
        assert_eq!((second.to_string().as_str(), second.declared()), ("count/counts@2", "counts"));
    }
}
