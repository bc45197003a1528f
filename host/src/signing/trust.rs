//! Whose signatures are taken, and what is missing where none of theirs is there.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use super::{KeyId, PublicKey, Signatures};
use crate::digest::Digest;

/// The keys of which one must have signed a plugin before it is stored, deployed or loaded. Without any, none needs a signature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustedKeys(Vec<PublicKey>);

/// What is missing of a signature that is taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Untrusted {
    /// Nobody has signed.
    Unsigned,
    /// Others have: whose keys these are is not known here.
    SignedByOthers(Vec<KeyId>),
    /// What was signed has other contents.
    OtherContents(Digest),
    /// There is one under the name of a trusted key, which that key has not made of this plugin.
    Wrong(KeyId),
}

/// A plugin that needs a signature by a trusted key, and has none.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "plugin {plugin} ({digest}) may not be used here: {missing}; [plugins] of the cluster file trusts {}: \
     `sluicegate plugin sign {target} --key KEY` signs it",
    list(trusted)
)]
pub struct NotTrusted {
    /// Name and version, or what it is called instead.
    pub plugin: String,
    /// Of its bytes.
    pub digest: Digest,
    /// What is missing.
    pub missing: Untrusted,
    /// The keys that are trusted.
    pub trusted: Vec<KeyId>,
    /// What is to be signed: a file, or a plugin of the registry.
    pub target: String,
}

/// How a signature is looked at here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// A trusted key has made it.
    Trusted,
    /// It bears the name of a trusted key, which has not made it.
    Wrong,
    /// The key is none of the trusted ones.
    Unknown,
}

/// Who has signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Signer {
    /// The key.
    pub key: KeyId,
    /// What its signature is worth here.
    pub standing: Standing,
}

impl TrustedKeys {
    /// These.
    #[must_use]
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// Whether plugins need a signature at all.
    #[must_use]
    pub fn are_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// Their names.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.iter().map(PublicKey::id)
    }

    /// Whether plugins need no signature, or the one with this digest has one that is taken. Of several, one is enough.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, digest: &Digest, signatures: &Signatures) -> Result<(), Untrusted> {
        if !self.are_required() {
            return Ok(());
        }
        if signatures.digest() != digest {
            return Err(Untrusted::OtherContents(*signatures.digest()));
        }
        let signers = self.signers(signatures);
        let with = |standing| signers.iter().filter(move |signer| signer.standing == standing);
        if with(Standing::Trusted).next().is_some() {
            return Ok(());
        }
        match with(Standing::Wrong).next() {
            Some(wrong) => Err(Untrusted::Wrong(wrong.key)),
            None if signers.is_empty() => Err(Untrusted::Unsigned),
            None => Err(Untrusted::SignedByOthers(signers.into_iter().map(|signer| signer.key).collect())),
        }
    }

    /// As [`TrustedKeys::check`], with an error that names the plugin and says what to do: sign `target`.
    ///
    /// # Errors
    /// See [`NotTrusted`].
    pub fn require(
        &self,
        digest: &Digest,
        signatures: &Signatures,
        plugin: impl FnOnce() -> String,
        target: &str,
    ) -> Result<(), Box<NotTrusted>> {
        self.check(digest, signatures).map_err(|missing| {
            Box::new(NotTrusted {
                plugin: plugin(),
                digest: *digest,
                missing,
                trusted: self.ids().collect(),
                target: target.to_owned(),
            })
        })
    }

    /// Who has signed, and what it is worth here.
    #[must_use]
    pub fn signers(&self, signatures: &Signatures) -> Vec<Signer> {
        let standing = |key: &KeyId, signature| {
            let mut named = self.0.iter().filter(|trusted| trusted.id() == *key).peekable();
            match (named.peek().is_some(), named.any(|trusted| trusted.verifies(signatures.digest(), signature))) {
                (false, _) => Standing::Unknown,
                (true, false) => Standing::Wrong,
                (true, true) => Standing::Trusted,
            }
        };
        signatures.iter().map(|(key, signature)| Signer { key: *key, standing: standing(key, signature) }).collect()
    }
}

fn list(keys: &[KeyId]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => f.write_str("it has no signature"),
            Self::SignedByOthers(keys) => {
                write!(f, "it is signed only by {}, and not by a trusted key", list(keys))
            }
            Self::OtherContents(digest) => {
                write!(f, "what was signed has other contents ({digest}), it was changed afterwards")
            }
            Self::Wrong(key) => write!(f, "its signature by the trusted key {key} does not verify"),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trusted => "trusted",
            Self::Wrong => "does not verify",
            Self::Unknown => "not among the trusted keys",
        })
    }
}
