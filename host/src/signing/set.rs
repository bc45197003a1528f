//! The signatures of one plugin together: what stands in `PLUGIN.wasm.sig`, and beside the plugin in the metadata store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{KeyId, PrivateKey, Signature};
use crate::digest::Digest;

/// Version of the encoding.
const FORMAT: u32 = 1;
/// Signatures of one plugin: more people than ever sign the same one.
pub const SIGNATURES_MAX: usize = 32;
/// Bytes of [`SIGNATURES_MAX`] of them, with room for those who write by hand.
pub(super) const BYTES_MAX: usize = 16 << 10;

/// Why signatures cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SignatureError {
    /// Not what is written there.
    #[error("they are damaged: {0}")]
    Damaged(String),
    /// Written by a newer version.
    #[error("they have format version {0}, and this sluicegate reads up to {FORMAT}: use a newer one")]
    Newer(u32),
    /// There is no room for another one.
    #[error("there are {SIGNATURES_MAX} already, which is the most")]
    Full,
}

/// The signatures of one plugin, one for each key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signatures {
    digest: Digest,
    by: BTreeMap<KeyId, Signature>,
}

/// As they are written.
#[derive(Deserialize, Serialize)]
struct Written {
    format: u32,
    digest: Digest,
    signatures: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    key: KeyId,
    signature: Signature,
}

impl Signatures {
    /// None yet.
    #[must_use]
    pub fn none(digest: Digest) -> Self {
        Self { digest, by: BTreeMap::new() }
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SignatureError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        if bytes.len() > BYTES_MAX {
            return Err(SignatureError::Damaged(format!("{} bytes, more than {BYTES_MAX}", bytes.len())));
        }
        let damaged = |error: serde_json::Error| SignatureError::Damaged(error.to_string());
        let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format > FORMAT {
            return Err(SignatureError::Newer(format));
        }
        let Written { digest, signatures, .. } = serde_json::from_slice(bytes).map_err(damaged)?;
        let mut read = Self::none(digest);
        for Entry { key, signature } in signatures {
            read.add(key, signature)?;
        }
        Ok(read)
    }

    /// The bytes to write: JSON in lines, for people to look at.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let signatures = self.by.iter().map(|(&key, &signature)| Entry { key, signature }).collect();
        let written = Written { format: FORMAT, digest: self.digest, signatures };
        let mut bytes = serde_json::to_vec_pretty(&written).expect("it has string keys only");
        bytes.push(b'\n');
        bytes
    }

    /// Of which plugin they are.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether nobody has signed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// Each key with its signature, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&KeyId, &Signature)> {
        self.by.iter()
    }

    /// Signs, once more if need be.
    ///
    /// # Errors
    /// [`SignatureError::Full`].
    pub fn sign(&mut self, key: &PrivateKey) -> Result<(), SignatureError> {
        self.add(key.public().id(), key.sign(&self.digest))
    }

    /// These and `others`, which take the place of those by the same keys; those of another plugin are left out.
    ///
    /// # Errors
    /// [`SignatureError::Full`].
    pub fn with(&self, others: &Self) -> Result<Self, SignatureError> {
        let mut all = self.clone();
        if others.digest == self.digest {
            others.by.iter().try_for_each(|(&key, &signature)| all.add(key, signature))?;
        }
        Ok(all)
    }

    fn add(&mut self, key: KeyId, signature: Signature) -> Result<(), SignatureError> {
        if self.by.len() >= SIGNATURES_MAX && !self.by.contains_key(&key) {
            return Err(SignatureError::Full);
        }
        self.by.insert(key, signature);
        Ok(())
    }
}
