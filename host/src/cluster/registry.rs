//! Plugins in the metadata store: bytes by digest, and names and versions that point at digests.
//!
//! What a version points at never changes. Nothing here reads a plugin: what it says about itself comes in as a
//! [`Description`]. The invariant that keeps bytes and versions together: a version is made in the same request that
//! writes the blob's node anew, so whoever deletes a blob that has just been given a version fails, and sees it.

mod blob;
mod reference;
mod signed;

use std::sync::Arc;

use futures::future::try_join_all;
use semver::Version;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use self::blob::Blobs;
pub use self::reference::{ReferenceError, RegistryReference, VersionPattern};
use crate::digest::Digest;
use crate::meta::layout::{self, Segment, SegmentError};
use crate::meta::{MetaError, MetaStore, Node, Write};
use crate::provenance::Provenance;
use crate::signing::{SignatureError, Signatures};

/// Attempts of a change that others keep getting in the way of.
const ATTEMPTS_MAX: usize = 10;

/// What the registry says of a version.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PluginRecord {
    /// Of its bytes.
    #[schema(value_type = String, example = "sha256:9f86d0..")]
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// The package version of the plugin interface it was built for.
    pub interface: String,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where it comes from, as far as it says.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// When it was pushed first, in UTC. Written as in RFC 3339.
    #[serde(with = "timestamp")]
    pub pushed_at: jiff::Timestamp,
}

/// What a plugin says about itself, as far as the registry keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Version.
    pub version: Version,
    /// The package version of the plugin interface it was built for.
    pub interface: String,
    /// One line for people.
    pub description: String,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// A version that is listed or was resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PluginEntry {
    /// Name.
    pub name: String,
    /// Version.
    #[schema(value_type = String, example = "1.2.0")]
    pub version: Version,
    /// What is known of it.
    #[serde(flatten)]
    pub record: PluginRecord,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The version as it stands in the registry now.
    pub entry: PluginEntry,
    /// Whether it was there before, with the same bytes.
    pub was_there: bool,
}

/// Why the registry refuses or fails.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// The metadata store.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A name that cannot be stored.
    #[error(transparent)]
    Name(#[from] SegmentError),
    /// The version has other bytes.
    #[error(
        "{plugin} is in the registry already, with other contents ({there}; this is {here}): \
         versions do not change, raise the version in the plugin's manifest and push again"
    )]
    Immutable {
        /// Name and version.
        plugin: String,
        /// Digest in the registry.
        there: Digest,
        /// Digest of what was to be pushed.
        here: Digest,
    },
    /// Nothing in the registry matches.
    #[error("no plugin {reference} in the registry; {hint}")]
    Unknown {
        /// What was asked for.
        reference: String,
        /// What there is.
        hint: String,
    },
    /// Its signatures cannot be used.
    #[error("the signatures of plugin {digest} in the registry cannot be used: {problem}{}", what_to_do(problem))]
    Signatures {
        /// Of which plugin.
        digest: Digest,
        /// What is wrong with them.
        problem: SignatureError,
    },
    /// Somebody uses it.
    #[error("{plugin} is used by {user}")]
    InUse {
        /// Name and version.
        plugin: String,
        /// Who uses it, and what ends that.
        user: String,
    },
    /// What is stored is not what its digest says, or cannot be read.
    #[error("{what} is damaged in the registry: {problem}; push the plugin again")]
    Damaged {
        /// Which version or blob.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Others changed the same thing again and again.
    #[error("others keep changing {what} in the registry: try again")]
    Contended {
        /// What was to be changed.
        what: String,
    },
}

impl RegistryError {
    /// Whether the same again cannot work.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::Name(_)
                | Self::Immutable { .. }
                | Self::Unknown { .. }
                | Self::InUse { .. }
                | Self::Signatures { .. }
        )
    }
}

/// Signing again writes anew what cannot be read.
fn what_to_do(problem: &SignatureError) -> &'static str {
    match problem {
        SignatureError::Damaged(_) => ": sign it again, with `sluicegate plugin sign`",
        SignatureError::Newer(_) | SignatureError::Full => "",
    }
}

/// The plugins of a cluster.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn MetaStore>,
}

impl Registry {
    /// The registry in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn MetaStore>) -> Self {
        Self { store }
    }

    fn blobs(&self) -> Blobs<'_> {
        Blobs { store: &*self.store }
    }

    /// Stores `bytes` as the version that `plugin` names. Pushing the same bytes again changes nothing but that `signatures` are
    /// added to those that there are; they are there before the version is. `progress` is told how many bytes are stored.
    ///
    /// # Errors
    /// [`RegistryError::Immutable`] when the version has other bytes. After any error it may be repeated: what has been
    /// stored is not stored again.
    pub async fn push(
        &self,
        plugin: &Description,
        bytes: &[u8],
        signatures: &Signatures,
        progress: impl Fn(u64) + Sync,
    ) -> Result<Pushed, RegistryError> {
        let name = Segment::new(&plugin.name)?;
        let path = layout::plugin_version(&name, &plugin.version);
        let digest = Digest::of(bytes);
        for _ in 0..ATTEMPTS_MAX {
            if let Some(there) = self.read(&path).await? {
                let pushed = pushed_before(plugin, digest, there)?;
                // Pushing again heals what is damaged.
                self.blobs().store(&digest, bytes, &progress).await?;
                self.add_signatures(signatures).await?;
                return Ok(pushed);
            }
            let blob = self.blobs().store(&digest, bytes, &progress).await?;
            match self.add_signatures(signatures).await {
                // Somebody deletes it: look again.
                Err(RegistryError::Unknown { .. }) => continue,
                added => drop(added?),
            }
            self.store.ensure(&layout::plugin(&name)).await?;
            let record = PluginRecord {
                digest,
                size: bytes.len() as u64,
                interface: plugin.interface.clone(),
                description: plugin.description.clone(),
                provenance: plugin.provenance.clone(),
                pushed_at: jiff::Timestamp::now(),
            };
            let create = Write::Create { path: path.clone(), data: encode(&record).into(), ephemeral: false };
            match self.store.multi(vec![blob.renewed(), create]).await {
                Ok(_) => return Ok(Pushed { entry: entry(plugin, record), was_there: false }),
                // Somebody pushed the same, or deletes the blob, or the parent: look again.
                Err(MetaError::Exists { .. } | MetaError::BadVersion { .. } | MetaError::Missing { .. }) => {}
                // Read back. A write that shows up later finds itself: it is the same record but for the time.
                Err(error) if error.may_have_happened() => match self.read(&path).await? {
                    Some(there) if there == record => {
                        return Ok(Pushed { entry: entry(plugin, record), was_there: false });
                    }
                    _ => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended { what: format!("{}@{}", plugin.name, plugin.version) })
    }

    /// Stores `bytes` under their digest alone, with `signatures`, for a plugin that a pipeline names by path.
    ///
    /// # Errors
    /// Those of the store; it may be repeated.
    pub async fn store_blob(&self, bytes: &[u8], signatures: &Signatures) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        self.blobs().store(&digest, bytes, &|_| {}).await?;
        self.add_signatures(signatures).await?;
        Ok(digest)
    }

    /// All versions, by name and then by version.
    ///
    /// # Errors
    /// Those of the store, and [`RegistryError::Damaged`].
    pub async fn list(&self) -> Result<Vec<PluginEntry>, RegistryError> {
        let names = self.store.children(layout::PLUGINS).await?;
        let versions = try_join_all(names.iter().map(|name| self.versions(name))).await?;
        Ok(versions.into_iter().flatten().collect())
    }

    /// The versions of a plugin, the lowest first.
    async fn versions(&self, name: &str) -> Result<Vec<PluginEntry>, RegistryError> {
        let segment = Segment::new(name)?;
        let versions = self.store.children(&layout::plugin(&segment)).await?;
        let read = versions.iter().filter_map(|text| Version::parse(text).ok()).map(async |version| {
            let record = self.read(&layout::plugin_version(&segment, &version)).await?;
            // Deleted since it was listed: none.
            Ok::<_, RegistryError>(record.map(|record| PluginEntry { name: name.into(), version, record }))
        });
        let mut entries: Vec<PluginEntry> = try_join_all(read).await?.into_iter().flatten().collect();
        entries.sort_by(|one, other| one.version.cmp(&other.version));
        Ok(entries)
    }

    /// What a reference means now.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] says what there is instead.
    pub async fn resolve(&self, reference: &RegistryReference) -> Result<Digest, RegistryError> {
        match reference {
            RegistryReference::Digest(digest) => match self.blobs().is_complete(digest).await? {
                true => Ok(*digest),
                false => Err(RegistryError::Unknown {
                    reference: digest.to_string(),
                    hint: "push the file that has this digest".into(),
                }),
            },
            RegistryReference::Version { .. } => Ok(self.find(reference).await?.record.digest),
        }
    }

    /// The version that a reference means now; of several, the highest. A digest means the highest version that has it.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] says what there is instead.
    pub async fn find(&self, reference: &RegistryReference) -> Result<PluginEntry, RegistryError> {
        let candidates = match reference {
            RegistryReference::Digest(_) => self.list().await?,
            RegistryReference::Version { name, .. } => self.versions(name).await?,
        };
        let hint = match (reference, candidates.last()) {
            (RegistryReference::Version { name, .. }, Some(last)) => {
                format!("the last version of {name} is {}", last.version)
            }
            _ => "`sluicegate plugin list` shows what there is, `sluicegate plugin push FILE` adds one".into(),
        };
        let unknown = || RegistryError::Unknown { reference: reference.to_string(), hint };
        candidates.into_iter().rfind(|entry| reference.matches(entry)).ok_or_else(unknown)
    }

    /// The bytes with this digest, verified.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Damaged`], those of the store.
    pub async fn fetch(&self, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        self.fetch_watched(digest, |_, _| {}).await
    }

    /// Like [`Registry::fetch`]; `progress` is told how many bytes are there, and of how many.
    ///
    /// # Errors
    /// As [`Registry::fetch`].
    pub async fn fetch_watched(&self, digest: &Digest, progress: impl Fn(u64, u64)) -> Result<Vec<u8>, RegistryError> {
        self.blobs().fetch(digest, progress).await
    }

    /// Removes a version, and its bytes when no other version has the same. `user_of` says who uses a digest, if anybody
    /// does: then nothing is removed.
    ///
    /// # Errors
    /// [`RegistryError::InUse`], [`RegistryError::Unknown`], those of the store. After any error it may be repeated.
    pub async fn remove(
        &self,
        name: &str,
        version: &Version,
        user_of: impl Fn(&Digest) -> Option<String>,
    ) -> Result<PluginEntry, RegistryError> {
        let reference = RegistryReference::exactly(name, version.clone());
        let path = layout::plugin_version(&Segment::new(name)?, version);
        for _ in 0..ATTEMPTS_MAX {
            let entry = self.find(&reference).await?;
            let digest = entry.record.digest;
            if let Some(user) = user_of(&digest) {
                return Err(RegistryError::InUse { plugin: reference.to_string(), user });
            }
            // The order matters: a version made after the blob is read here changes the blob's node, and fails the multi.
            let blob = self.blobs().find(&digest).await?;
            let others = self.list().await?;
            let shared = others
                .iter()
                .any(|other| other.record.digest == digest && (other.name != name || other.version != *version));
            let delete = Write::Delete { path: path.clone(), version: None };
            let doomed = blob.filter(|_| !shared);
            let writes = std::iter::once(delete).chain(doomed.map(|blob| blob.doomed())).collect();
            let removed = match self.store.multi(writes).await {
                Err(error) if error.may_have_happened() && self.read(&path).await?.is_none() => Ok(Vec::new()),
                outcome => outcome,
            };
            match removed {
                Ok(_) => {
                    if !shared {
                        self.blobs().sweep(&digest).await?;
                    }
                    return Ok(entry);
                }
                Err(MetaError::BadVersion { .. } | MetaError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended { what: format!("{name}@{version}") })
    }

    async fn read(&self, path: &str) -> Result<Option<PluginRecord>, RegistryError> {
        let decode = |node: Node| {
            serde_json::from_slice(&node.data)
                .map_err(|error| RegistryError::Damaged { what: path.into(), problem: error.to_string() })
        };
        self.store.get(path).await?.map(decode).transpose()
    }
}

fn entry(plugin: &Description, record: PluginRecord) -> PluginEntry {
    PluginEntry { name: plugin.name.clone(), version: plugin.version.clone(), record }
}

fn pushed_before(plugin: &Description, here: Digest, there: PluginRecord) -> Result<Pushed, RegistryError> {
    if there.digest == here {
        return Ok(Pushed { entry: entry(plugin, there), was_there: true });
    }
    let plugin = format!("{}@{}", plugin.name, plugin.version);
    Err(RegistryError::Immutable { plugin, there: there.digest, here })
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with string keys are always encoded")
}

/// Serde by the text form.
mod timestamp {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(timestamp: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(timestamp)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(Error::custom)
    }
}

#[cfg(test)]
mod tests;
