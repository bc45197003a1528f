//! Metadata: versioned nodes in a tree, written atomically. ZooKeeper's model, and only as much of it as is needed.
//!
//! Every implementation is held to one suite ([`conformance`]). What callers may rely on:
//! - a write names the version it replaces; nothing is written blindly;
//! - several writes of one [`MetaStore::multi`] happen together or not at all;
//! - an error says whether the write may have happened ([`MetaError::may_have_happened`]); it is never repeated in here;
//! - a session reads its own writes;
//! - requests that are too large are refused before they are sent.
//!
//! What they may not rely on: that of two requests in flight the second happens only if the first did. A write that must
//! not happen without another one waits for its answer, or stands in the same multi.

pub mod conformance;
pub mod layout;
pub mod local;
pub mod remote;
pub mod zookeeper;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

/// Bytes that one request may carry, all writes of a multi and their paths together: ZooKeeper's default `jute.maxbuffer`
/// is 1,048,575 bytes, and a server answers a larger request by closing the connection on everyone in flight.
pub const REQUEST_BYTES_MAX: usize = 1_000_000;

/// What a write takes in a request beside its path and contents: lengths, versions, flags, the access control list (60
/// bytes) and the namespace (at most [`zookeeper::NAMESPACE_BYTES_MAX`]).
const WRITE_FRAMING_BYTES: usize = 128;

/// How often a node has been written: 0 when it was made.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Version(pub i32);

/// A node's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What was written last.
    pub data: Bytes,
    /// Its version.
    pub version: Version,
}

/// One write of a [`MetaStore::multi`]. Paths begin with `/` and are relative to the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Makes a node; its parent must exist (see [`MetaStore::ensure`]).
    Create {
        /// Where.
        path: String,
        /// Contents.
        data: Bytes,
        /// Goes away with the session.
        ephemeral: bool,
    },
    /// Replaces the contents of a node of exactly this version.
    Set {
        /// Where.
        path: String,
        /// Contents.
        data: Bytes,
        /// The version it must have.
        version: Version,
    },
    /// Deletes a node without children, of this version if given.
    Delete {
        /// Where.
        path: String,
        /// The version it must have.
        version: Option<Version>,
    },
    /// Writes nothing; fails the whole multi unless the node has this version.
    Check {
        /// Where.
        path: String,
        /// The version it must have.
        version: Version,
    },
}

impl Write {
    /// The node it is about.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Create { path, .. }
            | Self::Set { path, .. }
            | Self::Delete { path, .. }
            | Self::Check { path, .. } => path,
        }
    }

    /// What it adds to the size of a request, in bytes: path, contents and a margin for the framing.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        let data = match self {
            Self::Create { data, .. } | Self::Set { data, .. } => data.len(),
            Self::Delete { .. } | Self::Check { .. } => 0,
        };
        self.path().len() + data + WRITE_FRAMING_BYTES
    }
}

/// Refuses writes that are too large for one request, or at paths that are none, as every store must before it sends
/// anything.
///
/// # Errors
/// [`MetaError::TooLarge`], [`MetaError::Failed`].
pub fn check_writes(writes: &[Write]) -> Result<(), MetaError> {
    let bytes = writes.iter().map(Write::request_bytes).sum();
    match writes.first() {
        Some(first) if bytes > REQUEST_BYTES_MAX => Err(MetaError::TooLarge { path: first.path().into(), bytes }),
        _ => writes.iter().try_for_each(|write| check_path(write.path())),
    }
}

/// Refuses what is no absolute path, like ZooKeeper: names between slashes, none of them empty, `.` or `..`.
///
/// # Errors
/// [`MetaError::Failed`].
pub fn check_path(path: &str) -> Result<(), MetaError> {
    let bad = |name: &str| name.is_empty() || name == "." || name == ".." || name.chars().any(char::is_control);
    match path.strip_prefix('/') {
        Some("") => Ok(()),
        Some(names) if !names.split('/').any(bad) => Ok(()),
        _ => Err(MetaError::Failed { path: path.into(), reason: "not a path of a node".into() }),
    }
}

/// Whether the store can be reached, and in which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Counts the sessions of this process, from 1. Another number: ephemeral nodes are gone and must be made again.
    pub number: u64,
    /// How it is.
    pub state: SessionState,
}

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Requests are answered.
    Connected,
    /// The connection is lost; the session may still live.
    Away,
    /// It is over for good (authentication refused, or closed); a restart is needed.
    Closed,
}

/// Why a request failed. `path` is the node it failed at.
#[derive(Clone, Debug, Deserialize, Eq, Error, PartialEq, Serialize)]
pub enum MetaError {
    /// A node to be made exists.
    #[error("{path} exists already")]
    Exists {
        /// Where.
        path: String,
    },
    /// A node, or the parent of one to be made, is missing.
    #[error("{path} does not exist")]
    Missing {
        /// Where.
        path: String,
    },
    /// The node has another version: somebody else has written it.
    #[error("{path} was written by somebody else")]
    BadVersion {
        /// Where.
        path: String,
    },
    /// A node to be deleted has children.
    #[error("{path} has children")]
    NotEmpty {
        /// Where.
        path: String,
    },
    /// The request was not sent because it is too large.
    #[error("a request of {bytes} bytes at {path} is larger than the {REQUEST_BYTES_MAX} bytes that the store takes")]
    TooLarge {
        /// The first node of the request.
        path: String,
        /// Its size.
        bytes: usize,
    },
    /// The answer was lost: the write may have been applied. Read back.
    #[error("the connection was lost before the answer came: {reason}")]
    AnswerLost {
        /// What the client said.
        reason: String,
    },
    /// The store cannot be reached; nothing was sent.
    #[error("the metadata store cannot be reached: {reason}")]
    Away {
        /// What the client said.
        reason: String,
    },
    /// Servers are there, and cannot be used before somebody does something about it.
    #[error("{reason}")]
    Unusable {
        /// What is wrong with each, and what to do.
        reason: String,
    },
    /// Access denied.
    #[error("no access to {path}: {reason}; check the credentials and the node's access control list")]
    Denied {
        /// Where.
        path: String,
        /// What the store said.
        reason: String,
    },
    /// Anything else that repeating does not cure.
    #[error("the metadata store failed at {path}: {reason}")]
    Failed {
        /// Where.
        path: String,
        /// What the store said.
        reason: String,
    },
}

impl MetaError {
    /// Whether a write that failed like this may have been applied.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::AnswerLost { .. })
    }

    /// Whether it fails only because the store is away, so that waiting may cure it.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::AnswerLost { .. } | Self::Away { .. })
    }
}

/// A store of metadata: all that commands and the registry need. Calls may be made from any thread of the runtime; several
/// may be in flight and are sent in the order in which the futures are first polled.
#[async_trait]
pub trait MetaStore: Send + Sync + 'static {
    /// Reads a node; `None` where there is none.
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError>;

    /// Names of a node's children, sorted; empty where there is no such node.
    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError>;

    /// Writes all or nothing. Returns the new version for each [`Write::Create`] and [`Write::Set`], `None` for the others.
    async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError>;

    /// Makes a persistent, empty node and its parents where they are missing. Safe to repeat.
    async fn ensure(&self, path: &str) -> Result<(), MetaError> {
        let mut end = path.len();
        loop {
            let create = Write::Create { path: path[..end].into(), data: Bytes::new(), ephemeral: false };
            match self.multi(vec![create]).await {
                Ok(_) | Err(MetaError::Exists { .. }) if end == path.len() => return Ok(()),
                Ok(_) | Err(MetaError::Exists { .. }) => {
                    end = path[end + 1..].find('/').map_or(path.len(), |length| end + 1 + length);
                }
                Err(MetaError::Missing { path: missing }) => match path[..end].rfind('/') {
                    None | Some(0) => return Err(MetaError::Missing { path: missing }),
                    Some(parent) => end = parent,
                },
                Err(error) => return Err(error),
            }
        }
    }
}

/// A store that its user has a session with: ephemeral nodes and changes. What a node needs; a command that reaches the
/// store of a running node over HTTP has none.
#[async_trait]
pub trait Coordination: MetaStore {
    /// Changes of the session, the present one included.
    fn session(&self) -> watch::Receiver<Session>;

    /// Reads a node and returns a receiver that is notified at least once when the node has changed, appeared or gone since,
    /// and when changes may have been missed (the connection or the session was replaced). Then it has done its work: watch
    /// again.
    async fn watch(&self, path: &str) -> Result<(Option<Node>, watch::Receiver<()>), MetaError>;

    /// Like [`Coordination::watch`] for the names of a node's children.
    async fn watch_children(&self, path: &str) -> Result<(Vec<String>, watch::Receiver<()>), MetaError>;

    /// Ends the session: ephemeral nodes go at once, and requests fail from then on.
    async fn close(&self);
}
