//! Bytes under their digest: chunks, and a node that says that they are complete.
//!
//! The node of a blob is empty while chunks are missing: while it is being stored, after a push that was interrupted, and
//! once it was removed (the empty node stays, so that its version never goes back and a check of it means something).
//! Chunks are what their digest and number say, whoever writes them, so that several may store the same blob and go on
//! where another one stopped. It becomes complete in a request that checks every chunk, and loses chunks only in requests
//! that check that it is not. Signatures stand beside the chunks and go with them; one is added in a request that checks that the
//! blob is complete.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{RegistryError, encode};
use crate::digest::Digest;
use crate::meta::{MetaError, MetaStore, Node, Version, Write, layout};

/// The size at which ZooKeeper takes the most bytes per second (measured: 123 MB/s, against 26-84 at 900 KiB).
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks in flight: 4 MiB.
const CHUNKS_IN_FLIGHT: usize = 16;
/// Attempts of completing a blob that others delete or complete meanwhile.
const ATTEMPTS_MAX: usize = 10;

pub(super) struct Blobs<'a> {
    pub(super) store: &'a dyn MetaStore,
}

/// What the node of a complete blob holds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Extent {
    /// Bytes.
    size: u64,
    /// Chunks.
    chunks: usize,
}

/// The node of a complete blob as it was read.
pub(super) struct Blob {
    path: String,
    extent: Extent,
    version: Version,
}

impl Blob {
    /// Writes the node as it is: fails whoever deletes the blob at the same time.
    pub(super) fn renewed(&self) -> Write {
        Write::Set { path: self.path.clone(), data: encode(&self.extent).into(), version: self.version }
    }

    /// Fails a request when the blob has been deleted, or anything else has become of it.
    pub(super) fn unchanged(&self) -> Write {
        Write::Check { path: self.path.clone(), version: self.version }
    }

    /// Marks it as incomplete: the first step of deleting it.
    pub(super) fn doomed(&self) -> Write {
        Write::Set { path: self.path.clone(), data: Bytes::new(), version: self.version }
    }
}

impl Blobs<'_> {
    /// The blob, if it is complete.
    pub(super) async fn find(&self, digest: &Digest) -> Result<Option<Blob>, RegistryError> {
        let path = layout::blob(digest);
        match self.store.get(&path).await? {
            Some(Node { data, version }) if !data.is_empty() => {
                let damaged = |error: serde_json::Error| damaged(digest, &error.to_string());
                let extent = serde_json::from_slice(&data).map_err(damaged)?;
                Ok(Some(Blob { path, extent, version }))
            }
            _ => Ok(None),
        }
    }

    pub(super) async fn is_complete(&self, digest: &Digest) -> Result<bool, RegistryError> {
        Ok(self.find(digest).await?.is_some())
    }

    /// Stores what is missing of `bytes`, or damaged.
    pub(super) async fn store(
        &self,
        digest: &Digest,
        bytes: &[u8],
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<Blob, RegistryError> {
        let path = layout::blob(digest);
        for _ in 0..ATTEMPTS_MAX {
            if let Some(blob) = self.find(digest).await? {
                match self.fetch(digest, |_, _| {}).await {
                    Ok(_) => {
                        progress(bytes.len() as u64);
                        return Ok(blob);
                    }
                    Err(RegistryError::Damaged { problem, .. }) => {
                        tracing::warn!(%digest, problem, "repairing a blob of the registry");
                    }
                    Err(RegistryError::Unknown { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            self.store.ensure(&path).await?;
            let Some(begun) = self.store.get(&path).await? else { continue };
            let chunks = match self.store_chunks(digest, bytes, progress).await {
                Ok(chunks) => chunks,
                // Somebody removes what an earlier push has left.
                Err(RegistryError::Meta(MetaError::Missing { .. } | MetaError::BadVersion { .. })) => continue,
                Err(error) => return Err(error),
            };
            let extent = Extent { size: bytes.len() as u64, chunks: chunks.len() };
            let complete = Write::Set { path: path.clone(), data: encode(&extent).into(), version: begun.version };
            match self.store.multi(chunks.into_iter().chain([complete]).collect()).await {
                // Complete, or somebody else was at it: the next look tells.
                Ok(_) | Err(MetaError::BadVersion { .. } | MetaError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended { what: digest.to_string() })
    }

    /// Stores the chunks that are missing or different. Returns a check for each.
    async fn store_chunks(
        &self,
        digest: &Digest,
        bytes: &[u8],
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<Vec<Write>, RegistryError> {
        let mut stored = 0;
        let mut checks = Vec::new();
        let chunks: Vec<Bytes> = bytes.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
        let mut writes = stream::iter(chunks.into_iter().enumerate())
            .map(|(index, chunk)| self.store_chunk(layout::blob_chunk(digest, index), chunk))
            .buffer_unordered(CHUNKS_IN_FLIGHT);
        while let Some((size, check)) = writes.try_next().await? {
            stored += size;
            progress(stored);
            checks.push(check);
        }
        Ok(checks)
    }

    async fn store_chunk(&self, path: String, data: Bytes) -> Result<(u64, Write), RegistryError> {
        let size = data.len() as u64;
        let create = Write::Create { path: path.clone(), data: data.clone(), ephemeral: false };
        let version = match self.store.multi(vec![create]).await {
            Ok(versions) => versions,
            Err(MetaError::Exists { .. }) => match self.store.get(&path).await? {
                Some(node) if node.data == data => vec![Some(node.version)],
                Some(Node { version, .. }) => {
                    self.store.multi(vec![Write::Set { path: path.clone(), data, version }]).await?
                }
                None => return Err(MetaError::Missing { path }.into()),
            },
            Err(error) => return Err(error.into()),
        };
        let version = version.first().copied().flatten().unwrap_or(Version(0));
        Ok((size, Write::Check { path, version }))
    }

    /// Reads and verifies; `progress` is told how many bytes are there, and of how many.
    pub(super) async fn fetch(&self, digest: &Digest, progress: impl Fn(u64, u64)) -> Result<Vec<u8>, RegistryError> {
        let Some(blob) = self.find(digest).await? else {
            let hint = "it was not pushed, or removed: push the file that has this digest".into();
            return Err(RegistryError::Unknown { reference: digest.to_string(), hint });
        };
        let mut chunks = stream::iter((0..blob.extent.chunks).map(|index| layout::blob_chunk(digest, index)))
            .map(async |path| (self.store.get(&path).await, path))
            .buffered(CHUNKS_IN_FLIGHT);
        let mut bytes = Vec::new();
        while let Some((chunk, path)) = chunks.next().await {
            let chunk = chunk?.ok_or_else(|| damaged(digest, &format!("{path} is missing")))?;
            bytes.extend_from_slice(&chunk.data);
            progress(bytes.len() as u64, blob.extent.size);
        }
        let found = Digest::of(&bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            Err(damaged(digest, &format!("its contents have the digest {found}")))
        }
    }

    /// Deletes what is below a blob that is not complete, unless somebody completes it meanwhile.
    pub(super) async fn sweep(&self, digest: &Digest) -> Result<(), RegistryError> {
        let path = layout::blob(digest);
        let Some(node) = self.store.get(&path).await?.filter(|node| node.data.is_empty()) else { return Ok(()) };
        let guard = Write::Check { path: path.clone(), version: node.version };
        for name in self.store.children(&path).await? {
            let delete = Write::Delete { path: format!("{path}/{name}"), version: None };
            match self.store.multi(vec![guard.clone(), delete]).await {
                Ok(_) | Err(MetaError::Missing { .. }) => {}
                Err(MetaError::BadVersion { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn damaged(digest: &Digest, problem: &str) -> RegistryError {
    RegistryError::Damaged { what: digest.to_string(), problem: problem.into() }
}
