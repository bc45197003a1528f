//! Reads several nodes and waits until any of them has changed.

use std::time::Duration;

use futures::future;
use tokio::sync::watch;

use crate::meta::{Coordination, MetaError, Node};

/// After a change, others are awaited this long: they often come together.
const TOGETHER: Duration = Duration::from_millis(50);

/// A look at the store that notes what it looked at.
pub struct Watching<'a> {
    store: &'a dyn Coordination,
    seen: Vec<watch::Receiver<()>>,
}

impl<'a> Watching<'a> {
    /// Nothing is watched yet.
    #[must_use]
    pub fn new(store: &'a dyn Coordination) -> Self {
        Self { store, seen: Vec::new() }
    }

    /// Reads a node.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn get(&mut self, path: &str) -> Result<Option<Node>, MetaError> {
        let (node, changes) = self.store.watch(path).await?;
        self.seen.push(changes);
        Ok(node)
    }

    /// Reads the names of a node's children.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn children(&mut self, path: &str) -> Result<Vec<String>, MetaError> {
        let (names, changes) = self.store.watch_children(path).await?;
        self.seen.push(changes);
        Ok(names)
    }

    /// Waits until any of it has changed, or may have, for `at_most`.
    pub async fn changed(mut self, at_most: Duration) {
        let changes = self.seen.iter_mut().map(|changes| Box::pin(changes.changed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return tokio::time::sleep(at_most).await;
        }
        if tokio::time::timeout(at_most, future::select_all(changes)).await.is_ok() {
            tokio::time::sleep(TOGETHER).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::local::LocalStore;
    use crate::meta::{MetaStore, Write};

    #[tokio::test]
    async fn a_change_of_anything_that_was_read_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).await.unwrap();
        for path in ["/a", "/b", "/b/c"] {
            let mut watching = Watching::new(&store);
            assert_eq!(watching.get("/a").await.unwrap().is_some(), path != "/a");
            watching.children("/b").await.unwrap();
            let create = Write::Create { path: path.into(), data: bytes::Bytes::new(), ephemeral: false };
            store.multi(vec![create]).await.unwrap();
            let noticed = watching.changed(Duration::from_secs(600));
            tokio::time::timeout(Duration::from_secs(20), noticed).await.unwrap();
        }
    }
}
