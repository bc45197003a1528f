//! The store of a single node without ZooKeeper: one file in one directory.
//!
//! Writes are durable when they are answered. One process at a time has the file open: the operating system's lock on it
//! says so, not a note that a crash leaves behind. Commands reach the store of a running node through that node
//! ([`super::remote::open_local`]); [`NodeFile`] tells them where it is.
//!
//! All writes go through one thread, in the order in which they were asked for. The session lasts as long as the process
//! has the file open, so ephemeral nodes of a process that crashed are removed by the next one that opens it.

mod node_file;
mod tree;
mod watches;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::node_file::NodeFile;
use self::tree::Tree;
use self::watches::Watches;
use super::{Coordination, MetaError, MetaStore, Node, Session, SessionState, Version, Write, check_writes, layout};

/// The file in the store's directory.
const FILE_NAME: &str = "meta.redb";
/// Time between two looks at a file that another process has open.
pub(super) const IN_USE_POLL: Duration = Duration::from_millis(50);
/// Writes that may wait for the writing thread before callers wait.
const QUEUE_WRITES_MAX: usize = 256;

/// Why a local store cannot be opened.
#[derive(Debug, Error)]
pub enum LocalError {
    /// Another process has it open.
    #[error("the store in {} is in use by {}", .dir.display(), holder_text(.holder.as_ref()))]
    InUse {
        /// The store's directory.
        dir: PathBuf,
        /// The running node that has it open, when it says where it is.
        holder: Option<NodeFile>,
    },
    /// The directory or a file in it cannot be made, read or written.
    #[error("cannot use the store in {}: {source}; check that the directory is yours and the disk has room", .dir.display())]
    File {
        /// The store's directory.
        dir: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The file is damaged, or no store.
    #[error("cannot read {}: {reason}; restore it from a copy, or move it away to start with an empty store", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// The contents are refused.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

fn holder_text(holder: Option<&NodeFile>) -> String {
    match holder {
        Some(node) => format!("process {} at {}: stop it, or use another directory", node.pid, node.address),
        None => "another process: wait for it or stop it, or use another directory".into(),
    }
}

/// A write and where its outcome goes.
struct Order {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<Vec<Option<Version>>, MetaError>>,
}

/// A store in a directory.
pub struct LocalStore {
    /// `None` when closed.
    open: Mutex<Option<Open>>,
    session: watch::Sender<Session>,
    watches: Arc<Watches>,
}

/// What is there until it is closed.
struct Open {
    tree: Arc<Tree>,
    orders: mpsc::Sender<Order>,
    writer: JoinHandle<()>,
}

impl LocalStore {
    /// Opens the store in `dir` like [`LocalStore::open`], but waits for a command that has it open for a moment. A running
    /// node is not waited for.
    ///
    /// # Errors
    /// Those of [`LocalStore::open`].
    pub async fn open_within(dir: &Path, wait: Duration) -> Result<Self, LocalError> {
        let deadline = Instant::now() + wait;
        loop {
            match Self::open(dir).await {
                Err(LocalError::InUse { holder: None, .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(IN_USE_POLL).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Opens the store in `dir`, which is made when it is missing.
    ///
    /// # Errors
    /// [`LocalError::InUse`] while another process has it open; the others say what to do.
    pub async fn open(dir: &Path) -> Result<Self, LocalError> {
        let file_error = |source| LocalError::File { dir: dir.into(), source };
        let path = dir.join(FILE_NAME);
        let opened = {
            let (dir, path) = (dir.to_path_buf(), path.clone());
            tokio::task::spawn_blocking(move || {
                std::fs::create_dir_all(&dir)?;
                Ok(Tree::open(&path))
            })
            .await
        };
        let tree = match opened.map_err(|stopped| file_error(std::io::Error::other(stopped)))?.map_err(file_error)? {
            Ok(tree) => Arc::new(tree),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(LocalError::InUse { dir: dir.into(), holder: NodeFile::read(dir) });
            }
            Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))) => return Err(file_error(source)),
            Err(error) => return Err(LocalError::Damaged { path, reason: error.to_string() }),
        };
        // Whoever left it no longer holds the lock.
        NodeFile::remove(dir);

        let watches = Arc::new(Watches::default());
        let (orders, queue) = mpsc::channel(QUEUE_WRITES_MAX);
        let writer = Writer { tree: tree.clone(), watches: watches.clone() };
        let thread = std::thread::Builder::new().name("meta-local".into());
        let writer = thread.spawn(move || writer.run(queue)).map_err(file_error)?;
        let store = Self {
            open: Mutex::new(Some(Open { tree, orders, writer })),
            session: watch::Sender::new(Session { number: 1, state: SessionState::Connected }),
            watches,
        };
        store.remove_ephemeral().await?;
        layout::check_format(&store).await?;
        Ok(store)
    }

    async fn remove_ephemeral(&self) -> Result<(), MetaError> {
        let ephemeral = self.read("/", Tree::ephemeral).await?;
        // One by one: together they might be too large for a request.
        for path in ephemeral {
            self.multi(vec![Write::Delete { path, version: None }]).await?;
        }
        Ok(())
    }

    async fn read<T: Send + 'static>(
        &self,
        path: &str,
        read: impl FnOnce(&Tree) -> Result<T, MetaError> + Send + 'static,
    ) -> Result<T, MetaError> {
        let tree = self.lock().as_ref().map(|open| open.tree.clone()).ok_or_else(|| closed(path))?;
        tokio::task::spawn_blocking(move || read(&tree)).await.unwrap_or_else(|_| Err(closed(path)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Waits for the writes that were asked for and lets go of the file. Blocks for as long as they take.
    fn close(self) {
        let Self { tree, orders, writer } = self;
        drop(orders);
        if writer.join().is_err() {
            tracing::error!("the thread that writes the local store has panicked");
        }
        drop(tree);
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        if let Some(open) = self.lock().take() {
            open.close();
        }
    }
}

fn closed(path: &str) -> MetaError {
    MetaError::Failed { path: path.into(), reason: "the store is closed".into() }
}

#[async_trait]
impl MetaStore for LocalStore {
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        let wanted = path.to_owned();
        self.read(path, move |tree| tree.get(&wanted)).await
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        let wanted = path.to_owned();
        self.read(path, move |tree| tree.children(&wanted)).await
    }

    async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
        check_writes(&writes)?;
        let Some(path) = writes.first().map(|write| write.path().to_owned()) else { return Ok(Vec::new()) };
        let orders = self.lock().as_ref().map(|open| open.orders.clone()).ok_or_else(|| closed(&path))?;
        let (done, outcome) = oneshot::channel();
        orders.send(Order { writes, done }).await.map_err(|_| closed(&path))?;
        drop(orders);
        // The thread answers every order it takes; an answer is lost only when it has panicked.
        outcome.await.unwrap_or_else(|_| Err(MetaError::AnswerLost { reason: "the writing thread is gone".into() }))
    }
}

#[async_trait]
impl Coordination for LocalStore {
    fn session(&self) -> watch::Receiver<Session> {
        self.session.subscribe()
    }

    async fn watch(&self, path: &str) -> Result<(Option<Node>, watch::Receiver<()>), MetaError> {
        let changes = self.watches.data(path);
        Ok((self.get(path).await?, changes))
    }

    async fn watch_children(&self, path: &str) -> Result<(Vec<String>, watch::Receiver<()>), MetaError> {
        let changes = self.watches.children(path);
        Ok((self.children(path).await?, changes))
    }

    async fn close(&self) {
        if self.lock().is_none() {
            return;
        }
        if let Err(error) = self.remove_ephemeral().await {
            tracing::warn!(%error, "ephemeral nodes stay until the store is opened again");
        }
        let Some(open) = self.lock().take() else { return };
        self.session.send_modify(|session| session.state = SessionState::Closed);
        if tokio::task::spawn_blocking(move || open.close()).await.is_err() {
            tracing::warn!("the runtime stopped before the local store was closed");
        }
    }
}

/// The one that writes.
struct Writer {
    tree: Arc<Tree>,
    watches: Arc<Watches>,
}

impl Writer {
    fn run(self, mut queue: mpsc::Receiver<Order>) {
        while let Some(Order { writes, done }) = queue.blocking_recv() {
            let outcome = self.tree.write(&writes);
            if outcome.is_ok() {
                self.watches.notify(&writes);
            }
            // Whoever asked may have stopped waiting.
            let _ = done.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests;
