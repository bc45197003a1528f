//! The tree of nodes as tables of an embedded database: reads and atomic writes, nothing about sessions.
//!
//! Invariant: a node other than a child of `/` has its parent in the table, and every node stands in the table of children
//! of its parent. All operations block.

use std::path::Path;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::meta::{MetaError, Node, Version, Write, check_path};

/// Path -> version, ephemeral, contents.
const NODES: TableDefinition<&str, (i32, bool, &[u8])> = TableDefinition::new("nodes");
/// Parent and name: so that listing does not walk over the contents of a whole subtree.
const CHILDREN: TableDefinition<(&str, &str), ()> = TableDefinition::new("children");
/// Paths of ephemeral nodes.
const EPHEMERAL: TableDefinition<&str, ()> = TableDefinition::new("ephemeral");
/// Memory for pages: metadata is read seldom, and state only at a restart.
const CACHE_BYTES: usize = 16 << 20;

pub(super) struct Tree {
    database: Database,
}

impl Tree {
    pub(super) fn open(path: &Path) -> Result<Self, redb::DatabaseError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let tree = Self { database };
        tree.make_tables().map_err(|error| match error {
            redb::Error::Io(source) => redb::DatabaseError::Storage(redb::StorageError::Io(source)),
            error => redb::DatabaseError::Storage(redb::StorageError::Corrupted(error.to_string())),
        })?;
        Ok(tree)
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(NODES)?;
        transaction.open_table(CHILDREN)?;
        transaction.open_table(EPHEMERAL)?;
        Ok(transaction.commit()?)
    }

    pub(super) fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        check_path(path)?;
        let read = || -> Result<_, redb::Error> {
            let nodes = self.database.begin_read()?.open_table(NODES)?;
            Ok(nodes.get(path)?.map(|guard| {
                let (version, _, data) = guard.value();
                Node { data: Bytes::copy_from_slice(data), version: Version(version) }
            }))
        };
        read().map_err(|error| failed(path, &error))
    }

    pub(super) fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        check_path(path)?;
        let read = || -> Result<_, redb::Error> {
            let children = self.database.begin_read()?.open_table(CHILDREN)?;
            let mut names = Vec::new();
            for child in children.range((path, "")..)? {
                let (key, ()) = (child?.0, ());
                let (parent, name) = key.value();
                if parent != path {
                    break;
                }
                names.push(name.to_owned());
            }
            Ok(names)
        };
        read().map_err(|error| failed(path, &error))
    }

    pub(super) fn ephemeral(&self) -> Result<Vec<String>, MetaError> {
        let read = || -> Result<_, redb::Error> {
            let ephemeral = self.database.begin_read()?.open_table(EPHEMERAL)?;
            let paths: Result<Vec<_>, _> =
                ephemeral.iter()?.map(|entry| entry.map(|(path, _)| path.value().to_owned())).collect();
            Ok(paths?)
        };
        read().map_err(|error| failed("/", &error))
    }

    /// Applies all writes or none; durable when it returns.
    pub(super) fn write(&self, writes: &[Write]) -> Result<Vec<Option<Version>>, MetaError> {
        let path = writes.first().map_or("/", Write::path);
        let begun = self.database.begin_write().map_err(|error| failed(path, &error.into()))?;
        // A transaction that is dropped leaves nothing behind.
        let versions = apply(&begun, writes)?;
        begun.commit().map_err(|error| MetaError::AnswerLost { reason: format!("cannot sync the store: {error}") })?;
        Ok(versions)
    }
}

fn apply(transaction: &WriteTransaction, writes: &[Write]) -> Result<Vec<Option<Version>>, MetaError> {
    let path = writes.first().map_or("/", Write::path);
    let open = || -> Result<_, redb::Error> {
        Ok(Tables {
            nodes: transaction.open_table(NODES)?,
            children: transaction.open_table(CHILDREN)?,
            ephemeral: transaction.open_table(EPHEMERAL)?,
        })
    };
    let mut tables = open().map_err(|error| failed(path, &error))?;
    writes.iter().map(|write| tables.apply(write)).collect()
}

struct Tables<'a> {
    nodes: Table<'a, &'static str, (i32, bool, &'static [u8])>,
    children: Table<'a, (&'static str, &'static str), ()>,
    ephemeral: Table<'a, &'static str, ()>,
}

impl Tables<'_> {
    fn apply(&mut self, write: &Write) -> Result<Option<Version>, MetaError> {
        let path = write.path();
        let storage = |error: redb::StorageError| failed(path, &error.into());
        let found = self.head(path).map_err(storage)?;
        match write {
            Write::Create { data, ephemeral, .. } => {
                let (parent, _) = split(path)?;
                match self.head(parent).map_err(storage)? {
                    _ if found.is_some() => Err(MetaError::Exists { path: path.into() }),
                    None if parent != "/" => Err(MetaError::Missing { path: path.into() }),
                    Some((_, true)) => Err(MetaError::Failed {
                        path: path.into(),
                        reason: "an ephemeral node cannot have children".into(),
                    }),
                    _ => self.create(path, data, *ephemeral).map_err(storage),
                }
            }
            Write::Set { data, version, .. } => {
                let (present, ephemeral) = expect(found, Some(*version), path)?;
                let next = present.wrapping_add(1);
                self.nodes.insert(path, (next, ephemeral, &data[..])).map_err(storage)?;
                Ok(Some(Version(next)))
            }
            Write::Delete { version, .. } => {
                expect(found, *version, path)?;
                if self.has_children(path).map_err(storage)? {
                    return Err(MetaError::NotEmpty { path: path.into() });
                }
                self.delete(path).map_err(storage)
            }
            Write::Check { version, .. } => expect(found, Some(*version), path).map(|_| None),
        }
    }

    /// Version, and whether it is ephemeral.
    fn head(&self, path: &str) -> Result<Option<(i32, bool)>, redb::StorageError> {
        Ok(self.nodes.get(path)?.map(|guard| {
            let (version, ephemeral, _) = guard.value();
            (version, ephemeral)
        }))
    }

    fn has_children(&self, path: &str) -> Result<bool, redb::StorageError> {
        let next = self.children.range((path, "")..)?.next().transpose()?;
        Ok(next.is_some_and(|(key, _)| key.value().0 == path))
    }

    fn create(&mut self, path: &str, data: &[u8], ephemeral: bool) -> Result<Option<Version>, redb::StorageError> {
        self.nodes.insert(path, (0, ephemeral, data))?;
        if let Ok(key) = split(path) {
            self.children.insert(key, ())?;
        }
        if ephemeral {
            self.ephemeral.insert(path, ())?;
        }
        Ok(Some(Version(0)))
    }

    fn delete(&mut self, path: &str) -> Result<Option<Version>, redb::StorageError> {
        self.nodes.remove(path)?;
        if let Ok(key) = split(path) {
            self.children.remove(key)?;
        }
        self.ephemeral.remove(path)?;
        Ok(None)
    }
}

fn expect(found: Option<(i32, bool)>, wanted: Option<Version>, path: &str) -> Result<(i32, bool), MetaError> {
    match found {
        None => Err(MetaError::Missing { path: path.into() }),
        Some((version, _)) if wanted.is_some_and(|wanted| wanted != Version(version)) => {
            Err(MetaError::BadVersion { path: path.into() })
        }
        Some(found) => Ok(found),
    }
}

/// Parent and name; the root has neither.
pub(super) fn split(path: &str) -> Result<(&str, &str), MetaError> {
    match path.rsplit_once('/') {
        Some((_, "")) | None => Err(bad_path(path)),
        Some(("", name)) => Ok(("/", name)),
        Some(parts) => Ok(parts),
    }
}

fn bad_path(path: &str) -> MetaError {
    MetaError::Failed { path: path.into(), reason: "not a path of a node".into() }
}

fn failed(path: &str, error: &redb::Error) -> MetaError {
    MetaError::Failed { path: path.into(), reason: error.to_string() }
}
