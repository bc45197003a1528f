//! The state of one task: the stores of its transforms.

use std::fmt;

use super::Store;

/// Names a store within a pipeline: survives a transform that changes its place in the chain.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StoreName {
    /// The transform's name in the pipeline.
    pub transform: String,
    /// The store's name in the plugin's manifest.
    pub store: String,
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

/// All stores of a task. A store is numbered by its place in [`TaskState::names`].
#[derive(Debug, Default)]
pub struct TaskState {
    /// One for each transform of the chain.
    pub transforms: Vec<TransformState>,
    /// Stores found in the state that no transform declares any more: kept as they are.
    kept: Vec<Store>,
    names: Vec<StoreName>,
}

impl TaskState {
    /// Empty stores: for each transform its name and those of its stores.
    pub fn new<'a>(transforms: impl IntoIterator<Item = (&'a str, Vec<String>)>) -> Self {
        let mut state = Self::default();
        for (transform, stores) in transforms {
            state.transforms.push(TransformState { stores: stores.iter().map(|_| Store::default()).collect() });
            state.names.extend(stores.into_iter().map(|store| StoreName { transform: transform.to_owned(), store }));
        }
        state
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
                self.kept.push(Store::default());
                self.names.len() - 1
            }
        }
    }

    /// A store by its number.
    #[must_use]
    pub fn store(&self, number: usize) -> &Store {
        self.stores().nth(number).expect("numbers come from names()")
    }

    /// A store by its number.
    pub fn store_mut(&mut self, number: usize) -> &mut Store {
        let declared = self.transforms.iter_mut().flat_map(|transform| &mut transform.stores);
        declared.chain(&mut self.kept).nth(number).expect("numbers come from names()")
    }

    /// Every store, by number.
    pub fn stores(&self) -> impl Iterator<Item = &Store> {
        self.transforms.iter().flat_map(|transform| &transform.stores).chain(&self.kept)
    }

    /// Every store, by number.
    pub fn stores_mut(&mut self) -> impl Iterator<Item = &mut Store> {
        self.transforms.iter_mut().flat_map(|transform| &mut transform.stores).chain(&mut self.kept)
    }

    /// What changed is being made durable: see [`Store::seal`].
    pub fn seal(&mut self) {
        self.stores_mut().for_each(Store::seal);
    }

    /// Whether anything changed since it was last sealed.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.stores().any(Store::has_changed)
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
