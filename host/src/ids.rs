//! Identities that are written down: epochs, manifests, chunks, tasks.
//!
//! Each has one text form, used in Kafka's offset metadata, in heads and in messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The number of a task's commit. Genesis is 0.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a task's head has been claimed. Not Kafka's generation.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ClaimGeneration(pub u64);

impl ClaimGeneration {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for ClaimGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not the identity it should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not {what}")]
pub struct InvalidId {
    text: String,
    what: &'static str,
}

/// Identity of a manifest: its epoch and a random part, because a bare number collides between aborted attempts, claimants
/// that have lost the task, restored backups and savepoints. Written `12-9f86d081884c7d65`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ManifestId {
    /// The commit it belongs to.
    pub epoch: Epoch,
    /// Random.
    pub nonce: u64,
}

impl fmt::Display for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.epoch, self.nonce)
    }
}

impl FromStr for ManifestId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts = text.split_once('-').filter(|(_, nonce)| nonce.len() == 16);
        let parse = |(epoch, nonce): (&str, &str)| {
            Some(Self { epoch: Epoch(epoch.parse().ok()?), nonce: u64::from_str_radix(nonce, 16).ok()? })
        };
        parts.and_then(parse).ok_or_else(|| InvalidId { text: text.to_owned(), what: "a manifest id" })
    }
}

/// Name of a chunk of state: the claim generation that wrote it and a counter. Never used again. Written `3.17`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChunkName {
    /// Under which claim it was written.
    pub generation: ClaimGeneration,
    /// Counts the chunks written under that claim, from 1.
    pub counter: u64,
}

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.counter)
    }
}

impl FromStr for ChunkName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = |(generation, counter): (&str, &str)| {
            Some(Self { generation: ClaimGeneration(generation.parse().ok()?), counter: counter.parse().ok()? })
        };
        text.split_once('.').and_then(parse).ok_or_else(|| InvalidId { text: text.to_owned(), what: "a chunk name" })
    }
}

/// Serde by the text form.
macro_rules! as_text {
    ($($id:ty),*) => {$(
        impl Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(ManifestId, ChunkName);

/// Which task: a stage of an incarnation of a pipeline on one partition number.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TaskId {
    /// The pipeline's name.
    pub pipeline: String,
    /// Counts the deployments that did not keep state, from 1.
    pub incarnation: u64,
    /// The part of the pipeline between two repartitions, from 0.
    pub stage: u32,
    /// The partition number.
    pub partition: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.pipeline, self.incarnation, self.stage, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_as_they_are_written() {
        let manifest = ManifestId { epoch: Epoch(12), nonce: 0x00ab };
        assert_eq!(manifest.to_string(), "12-00000000000000ab");
        assert_eq!(manifest.to_string().parse(), Ok(manifest));
        let chunk = ChunkName { generation: ClaimGeneration(3), counter: 17 };
        assert_eq!(chunk.to_string(), "3.17");
        assert_eq!(chunk.to_string().parse(), Ok(chunk));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "12", "12-ab", "x-00000000000000ab", "12-00000000000000ag"] {
            assert!(text.parse::<ManifestId>().is_err(), "{text}");
        }
        for text in ["", "3", "3.", ".1", "a.b"] {
            assert!(text.parse::<ChunkName>().is_err(), "{text}");
        }
    }
}
