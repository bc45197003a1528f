//! Whose signatures are taken, and what is missing where none of theirs is there.

use std::fmt;

use serde::Serialize;

use super::{KeyId, PublicKey, Signatures};

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
    /// There is one under the name of a trusted key, which that key has not made of this plugin.
    Wrong(KeyId),
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

    /// Whether plugins need no signature, or this one has one that is taken. Of several, one is enough.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, signatures: &Signatures) -> Result<(), Untrusted> {
        let signers = self.signers(signatures);
        let with = |standing| signers.iter().filter(move |signer| signer.standing == standing);
        if !self.are_required() || with(Standing::Trusted).next().is_some() {
            return Ok(());
        }
        match with(Standing::Wrong).next() {
            Some(wrong) => Err(Untrusted::Wrong(wrong.key)),
            None if signers.is_empty() => Err(Untrusted::Unsigned),
            None => Err(Untrusted::SignedByOthers(signers.into_iter().map(|signer| signer.key).collect())),
        }
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

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => f.write_str("it has no signature"),
            Self::SignedByOthers(keys) => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                write!(f, "it is signed only by {}, and not by a trusted key", keys.join(", "))
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
