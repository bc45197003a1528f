//! The one module that makes paths of metadata nodes, and the version of that layout.
//!
//! ```text
//! /format                                                       layout version
//! /nodes/<node>                                                 ephemeral
//! /plugins/<name>/<version>
//! /blobs/<digest>/<i>
//! /blobs/<digest>/signatures                                    who has signed it
//! /leader                                                       ephemeral: the node that leads
//! /pipelines/<name>                                             what is wanted of it
//! /pipelines/<name>/revisions/<n>
//! /pipelines/<name>/rollouts/<n>                                those that have ended
//! /pipelines/<name>/nodes/<node>                                ephemeral: how it is there
//! /placement/<name>                                             worker threads by node; the leader's
//! /savepoints/<pipeline>/<name>                                 what it is of; and its chunks below
//! /savepoints/<pipeline>/<name>/<partition>/<i>
//! /state/<pipeline>/<incarnation>/<stage>/<task>/head
//! /state/<pipeline>/<incarnation>/<stage>/<task>/chunks/<id>
//! /state/<pipeline>/<incarnation>/<stage>/<task>/started        instead of these, for a task without state
//! /trial-<number>                                               ephemeral: what `sluicegate doctor` tries writing with
//! ```
//! All paths are relative to the namespace. Names come in as [`Segment`]s, so that no name can leave its place.

use std::fmt;

use thiserror::Error;

use super::{MetaError, MetaStore, Write};
use crate::digest::Digest;
use crate::ids::{ChunkName, TaskId};

/// Version of the layout, the contents of `/format`.
pub const FORMAT: u32 = 1;

/// Longest name of a node in bytes.
const SEGMENT_BYTES_MAX: usize = 255;

/// A name that may stand between two slashes: not empty, at most 255 bytes, ASCII letters, digits, `-`, `_`, `.`, `+` and
/// not `.` or `..`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Segment(String);

/// A name that cannot be part of a path.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{name}` cannot name a node of the metadata store: use 1 to {SEGMENT_BYTES_MAX} letters, digits, `-`, `_`, `.` and `+`"
)]
pub struct SegmentError {
    /// The name.
    pub name: String,
}

impl Segment {
    /// Checks a name.
    ///
    /// # Errors
    /// [`SegmentError`] names it.
    pub fn new(name: &str) -> Result<Self, SegmentError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        let valid =
            (1..=SEGMENT_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != "..";
        if valid { Ok(Self(name.into())) } else { Err(SegmentError { name: name.into() }) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Parent of all nodes.
pub const NODES: &str = "/nodes";
/// Parent of all plugins.
pub const PLUGINS: &str = "/plugins";
/// Parent of all blobs.
pub const BLOBS: &str = "/blobs";
/// Parent of all pipelines.
pub const PIPELINES: &str = "/pipelines";
/// The node that leads.
pub const LEADER: &str = "/leader";
/// Parent of all placements.
pub const PLACEMENT: &str = "/placement";
/// Parent of all savepoints.
pub const SAVEPOINTS: &str = "/savepoints";
/// Parent of all state.
pub const STATE: &str = "/state";
const FORMAT_PATH: &str = "/format";

/// A node of the cluster.
#[must_use]
pub fn node(name: &Segment) -> String {
    format!("{NODES}/{name}")
}

/// Parent of a plugin's versions.
#[must_use]
pub fn plugin(name: &Segment) -> String {
    format!("{PLUGINS}/{name}")
}

/// A version of a plugin.
#[must_use]
pub fn plugin_version(name: &Segment, version: &semver::Version) -> String {
    format!("{PLUGINS}/{name}/{version}")
}

/// A blob: its manifest, and parent of its chunks.
#[must_use]
pub fn blob(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

/// A chunk of a blob.
#[must_use]
pub fn blob_chunk(digest: &Digest, index: usize) -> String {
    format!("{BLOBS}/{}/{index}", digest.hex())
}

/// The signatures of a blob.
#[must_use]
pub fn blob_signatures(digest: &Digest) -> String {
    format!("{BLOBS}/{}/signatures", digest.hex())
}

/// A pipeline.
#[must_use]
pub fn pipeline(name: &Segment) -> String {
    format!("{PIPELINES}/{name}")
}

/// Parent of a pipeline's revisions.
#[must_use]
pub fn revisions(pipeline: &Segment) -> String {
    format!("{PIPELINES}/{pipeline}/revisions")
}

/// A revision of a pipeline.
#[must_use]
pub fn revision(pipeline: &Segment, revision: u64) -> String {
    format!("{PIPELINES}/{pipeline}/revisions/{revision}")
}

/// Parent of a pipeline's rollouts.
#[must_use]
pub fn rollouts(pipeline: &Segment) -> String {
    format!("{PIPELINES}/{pipeline}/rollouts")
}

/// A rollout of a pipeline that has ended.
#[must_use]
pub fn rollout(pipeline: &Segment, number: u64) -> String {
    format!("{PIPELINES}/{pipeline}/rollouts/{number}")
}

/// Parent of the nodes that have to do with a pipeline.
#[must_use]
pub fn pipeline_nodes(pipeline: &Segment) -> String {
    format!("{PIPELINES}/{pipeline}/nodes")
}

/// How a pipeline is on a node.
#[must_use]
pub fn pipeline_node(pipeline: &Segment, node: &Segment) -> String {
    format!("{PIPELINES}/{pipeline}/nodes/{node}")
}

/// Worker threads of a pipeline, by node.
#[must_use]
pub fn placement(pipeline: &Segment) -> String {
    format!("{PLACEMENT}/{pipeline}")
}

/// Parent of a pipeline's incarnations of state.
#[must_use]
pub fn pipeline_state(pipeline: &Segment) -> String {
    format!("{STATE}/{pipeline}")
}

/// Parent of a pipeline's savepoints.
#[must_use]
pub fn savepoints(pipeline: &Segment) -> String {
    format!("{SAVEPOINTS}/{pipeline}")
}

/// A savepoint.
#[must_use]
pub fn savepoint(pipeline: &Segment, name: &Segment) -> String {
    format!("{SAVEPOINTS}/{pipeline}/{name}")
}

/// A node to try writing with; `number` is nobody else's.
#[must_use]
pub fn trial(number: u64) -> String {
    format!("/trial-{number:016x}")
}

/// Where a task's state lives.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TaskPath(String);

impl TaskPath {
    /// The place of `task`, whose pipeline's name was checked where it came in.
    #[must_use]
    pub fn new(task: &TaskId) -> Self {
        let TaskId { pipeline, incarnation, stage, partition } = task;
        Self(format!("{STATE}/{pipeline}/{incarnation}/{stage}/{partition}"))
    }

    /// Its head.
    #[must_use]
    pub fn head(&self) -> String {
        format!("{}/head", self.0)
    }

    /// Parent of its chunks.
    #[must_use]
    pub fn chunks(&self) -> String {
        format!("{}/chunks", self.0)
    }

    /// Parent of everything.
    #[must_use]
    pub fn root(&self) -> String {
        self.0.clone()
    }

    /// Without state: a mark that it has started once.
    #[must_use]
    pub fn started(&self) -> String {
        format!("{}/started", self.0)
    }

    /// One of its chunks.
    #[must_use]
    pub fn chunk(&self, name: ChunkName) -> String {
        format!("{}/chunks/{name}", self.0)
    }
}

/// Writes the layout's version into a new store; refuses a store with another version. Every store does it when it is
/// opened.
///
/// # Errors
/// [`MetaError::Failed`] says which version was found and what to do; those of the store.
pub async fn check_format(store: &dyn MetaStore) -> Result<(), MetaError> {
    let found = match store.get(FORMAT_PATH).await? {
        Some(node) => node.data,
        None => {
            let data = FORMAT.to_string().into();
            match store.multi(vec![Write::Create { path: FORMAT_PATH.into(), data, ephemeral: false }]).await {
                Ok(_) => return Ok(()),
                Err(error) if matches!(error, MetaError::Exists { .. }) || error.may_have_happened() => {}
                Err(error) => return Err(error),
            }
            store.get(FORMAT_PATH).await?.map(|node| node.data).unwrap_or_default()
        }
    };
    if found == FORMAT.to_string() {
        return Ok(());
    }
    Err(MetaError::Failed {
        path: FORMAT_PATH.into(),
        reason: format!(
            "the layout version there is `{}`, this sluicegate knows {FORMAT}: use a sluicegate of that version, or another namespace",
            String::from_utf8_lossy(&found)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place() {
        for name in ["", ".", "..", "a/b", "/", "a b", "ä", "a\0", &"x".repeat(256)] {
            assert!(Segment::new(name).is_err(), "{name:?}");
        }
        for name in ["a", "value-length", "1.0.0-rc.1+build", "host_1.example.org"] {
            assert_eq!(Segment::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn paths_are_those_of_the_documented_layout() {
        let name = Segment::new("orders").unwrap();
        let task = TaskPath::new(&TaskId { pipeline: "orders".into(), incarnation: 3, stage: 0, partition: 12 });
        assert_eq!(task.head(), "/state/orders/3/0/12/head");
        assert_eq!(task.chunk("7.1".parse().unwrap()), "/state/orders/3/0/12/chunks/7.1");
        assert_eq!(plugin_version(&name, &semver::Version::new(1, 2, 3)), "/plugins/orders/1.2.3");
        assert!(blob_chunk(&Digest::of(b""), 4).ends_with("b855/4"));
        assert!(blob_signatures(&Digest::of(b"")).ends_with("b855/signatures"));
    }
}
