//! The head of a task: one node, versioned by the metadata store, that says who owns the task, what its state consists of
//! and from which offsets it goes on. JSON, so that an operator can read it with any ZooKeeper client.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{ChunkName, ClaimGeneration, ManifestId};

/// Version of the encoding of heads and of what they refer to.
pub const FORMAT: u32 = 1;

/// Everything that is known of a task.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Head {
    /// [`FORMAT`].
    pub format: u32,
    /// How often the task has been claimed. A claim makes every write of earlier owners fail.
    pub generation: ClaimGeneration,
    /// Who claimed it last: the owner's transactional id; empty after genesis.
    pub owner: String,
    /// Whom recovery believes when Kafka and the head differ.
    pub decider: Decider,
    /// The state and offsets that the head takes as committed.
    pub committed: Manifest,
    /// Manifests that are durable while Kafka's transaction decides about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared: Vec<Manifest>,
    /// Former manifests, newest first, whose chunks are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained: Vec<Manifest>,
    /// Partitions that each source topic had at genesis: keyed state belongs to partition numbers.
    pub partitions: BTreeMap<String, u32>,
    /// Every chunk that a manifest names.
    #[serde(default)]
    pub chunks: BTreeMap<ChunkName, ChunkFacts>,
}

/// Who decides what is committed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decider {
    /// The head: after genesis, after an at-least-once commit, after a clean stop.
    Head,
    /// Kafka's committed offsets: from the first prepare that follows an own Kafka commit.
    Kafka,
}

/// The state of a task at an epoch.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Its identity, which Kafka's offset metadata carries too.
    pub id: ManifestId,
    /// Chunks, oldest first: a later one overrides an earlier one.
    #[serde(with = "row")]
    pub chunks: Vec<ChunkName>,
    /// The next offset to read from each source topic, in the task's partition.
    pub offsets: BTreeMap<String, i64>,
    /// Event time, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<i64>,
    /// What made the state, in the order of the chain.
    pub transforms: Vec<TransformIdentity>,
}

/// Which code and configuration a transform ran.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransformIdentity {
    /// Name in the pipeline.
    pub name: String,
    /// SHA-256 of the plugin, in hexadecimal.
    pub plugin: String,
    /// SHA-256 of its configuration, in hexadecimal.
    pub config: String,
    /// Schema version of each store.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stores: BTreeMap<String, u32>,
    /// Schema version of copies of stores that are kept beside, entry for entry, so that the version before can go on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub copies: BTreeMap<String, u32>,
    /// Stores of the version before, as `state list` names them, that stay as they were when the task went over to code which does not
    /// convert back; each with the next offset of each source topic then. They are in step with nothing, and only a person goes back
    /// to them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub former: BTreeMap<String, BTreeMap<String, i64>>,
    /// The first offset of each source topic that this code and configuration processed, if the task went over to them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, i64>,
}

impl TransformIdentity {
    /// Whether this is the same code with the same configuration.
    #[must_use]
    pub fn is_same_version(&self, other: &Self) -> bool {
        self.name == other.name && self.plugin == other.plugin && self.config == other.config
    }
}

/// What a manifest knows of a chunk without reading it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChunkFacts {
    /// Of its stored bytes.
    pub digest: ChunkDigest,
    /// Stored bytes.
    pub bytes: u32,
}

/// The first 16 bytes of the SHA-256 of a chunk's stored bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkDigest(pub [u8; 16]);

impl ChunkDigest {
    /// The digest of stored bytes.
    #[must_use]
    pub fn of(stored: &[u8]) -> Self {
        use sha2::Digest;
        let mut digest = [0; 16];
        digest.copy_from_slice(&sha2::Sha256::digest(stored)[..16]);
        Self(digest)
    }
}

impl fmt::Display for ChunkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for ChunkDigest {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut digest = [0; 16];
        hex::decode_to_slice(text, &mut digest)?;
        Ok(Self(digest))
    }
}

impl Serialize for ChunkDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChunkDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a head cannot be used.
#[derive(Debug, Error)]
pub enum HeadError {
    /// Not JSON of the right form.
    #[error("the head is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Written by a newer version.
    #[error(
        "the head has format version {found}, this version of sluicegate reads up to {FORMAT}: use the version that wrote it, or a newer one"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
    /// A manifest names a chunk of which nothing is known.
    #[error("the head is damaged: manifest {manifest} names chunk {chunk}, of which the head knows nothing")]
    UnknownChunk {
        /// Which manifest.
        manifest: ManifestId,
        /// Which chunk.
        chunk: ChunkName,
    },
}

impl Head {
    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a head has string keys only and serializes into memory")
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// When they are damaged or of a newer format.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes)?;
        if format > FORMAT {
            return Err(HeadError::Newer { found: format });
        }
        let head: Self = serde_json::from_slice(bytes)?;
        for manifest in head.manifests() {
            if let Some(&chunk) = manifest.chunks.iter().find(|chunk| !head.chunks.contains_key(chunk)) {
                return Err(HeadError::UnknownChunk { manifest: manifest.id, chunk });
            }
        }
        Ok(head)
    }

    /// All manifests: committed, prepared, retained.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        std::iter::once(&self.committed).chain(&self.prepared).chain(&self.retained)
    }
}

/// A row of chunks as text: neighbours of one claim are written `3.17-42`, because a head is written at every commit and a row
/// may be long.
mod row {
    use std::borrow::Cow;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::ChunkName;

    /// Chunks that one run may stand for: far above what a row has, and a bound on what a damaged head can make us allocate.
    const RUN_MAX: u64 = 1 << 20;

    pub(super) fn serialize<S: Serializer>(row: &[ChunkName], serializer: S) -> Result<S::Ok, S::Error> {
        let follows = |one: &ChunkName, next: &ChunkName| {
            one.generation == next.generation && one.counter.checked_add(1) == Some(next.counter)
        };
        serializer.collect_seq(row.chunk_by(follows).map(|run| match run {
            [first, .., last] => format!("{first}-{}", last.counter),
            run => run.iter().map(ToString::to_string).collect(),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ChunkName>, D::Error> {
        let mut row = Vec::new();
        for run in Vec::<Cow<'de, str>>::deserialize(deserializer)? {
            let (first, last) = run.split_once('-').map_or((&*run, None), |(first, last)| (first, Some(last)));
            let first: ChunkName = first.parse().map_err(D::Error::custom)?;
            let last = last.map_or(Ok(first.counter), str::parse).map_err(D::Error::custom)?;
            if last < first.counter || last - first.counter > RUN_MAX {
                return Err(D::Error::custom(format!("`{run}` is no run of chunks")));
            }
            row.extend((first.counter..=last).map(|counter| ChunkName { counter, ..first }));
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::protocol::tests::genesis;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = genesis();
        assert_eq!(Head::decode(&head.encode()).unwrap(), head);
    }

    #[test]
    fn a_newer_format_is_refused_even_when_the_rest_is_unreadable() {
        let error = Head::decode(br#"{"format":2,"something":"else"}"#).unwrap_err();
        assert!(matches!(error, HeadError::Newer { found: 2 }), "{error}");
        assert!(error.to_string().contains("format version 2"));
    }

    #[test]
    fn neighbouring_chunks_are_written_as_runs() {
        let mut head = genesis();
        let names = ["2.9", "3.1", "3.2", "3.3", "3.5", "3.4"];
        head.committed.chunks = names.iter().map(|name| name.parse().unwrap()).collect();
        let facts = ChunkFacts { digest: ChunkDigest([7; 16]), bytes: 5 };
        head.chunks = head.committed.chunks.iter().map(|name| (*name, facts)).collect();
        let text = String::from_utf8(head.encode()).unwrap();
        assert!(text.contains(r#""chunks":["2.9","3.1-3","3.5","3.4"]"#), "{text}");
        assert_eq!(Head::decode(text.as_bytes()).unwrap(), head);
        for wrong in ["3.3-1", "3.1-99999999999", "3.1-x", "-"] {
            let damaged = text.replace("3.1-3", wrong);
            assert!(matches!(Head::decode(damaged.as_bytes()), Err(HeadError::Damaged(_))), "{wrong}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let mut bytes = genesis().encode();
        bytes.truncate(bytes.len() - 3);
        assert!(matches!(Head::decode(&bytes), Err(HeadError::Damaged(_))));
    }

    #[test]
    fn a_manifest_may_not_name_a_chunk_without_digest() {
        let mut head = genesis();
        head.committed.chunks.push("1.1".parse().unwrap());
        let error = Head::decode(&head.encode()).unwrap_err();
        assert!(error.to_string().contains("names chunk 1.1"), "{error}");
    }
}
