//! Ed25519 keys in the PEM format, and the signatures they make.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::message;
use crate::digest::Digest;

/// Bytes of an id: enough that nobody meets the same one twice by chance. Nothing is believed for its id.
const ID_BYTES: usize = 8;

/// Why a text holds no key that can be used. No part of the text is in it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum KeyError {
    /// A private key where a public one belongs.
    #[error("this is a private key, and the public one belongs here: `openssl pkey -in KEY -pubout` writes it")]
    Private,
    /// A public key where a private one belongs.
    #[error("this is a public key, and the private one belongs here")]
    Public,
    /// A private key behind a password.
    #[error(
        "this key has a password: write it without one, for this user's eyes alone: `umask 077; openssl pkey -in .. -out ..`"
    )]
    Encrypted,
    /// Something else.
    #[error(
        "this is no Ed25519 key in the PEM format: `sluicegate plugin keygen` makes one, and so does `openssl genpkey -algorithm ed25519`"
    )]
    NoKey,
    /// A key under which anything verifies.
    #[error("this is a key for which everybody can make signatures: make another one with `sluicegate plugin keygen`")]
    Weak,
}

/// A short name of a public key: the first digits of the SHA-256 of its DER form.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId([u8; ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for KeyId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut id = [0; ID_BYTES];
        hex::decode_to_slice(text, &mut id)?;
        Ok(Self(id))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom(format!("the id of a key has {} hexadecimal digits", 2 * ID_BYTES)))
    }
}

/// A key that makes signatures. Wiped when it is dropped.
pub struct PrivateKey(SigningKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().id())
    }
}

impl PrivateKey {
    /// The key that `seed` makes, which has to be random.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a `PRIVATE KEY` (PKCS#8).
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let refused = match pem {
            _ if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") => KeyError::Encrypted,
            _ if pem.contains("-----BEGIN PUBLIC KEY-----") => KeyError::Public,
            _ => KeyError::NoKey,
        };
        SigningKey::from_pkcs8_pem(pem.trim()).map(Self).map_err(|_| refused)
    }

    /// As it is written to a file: the form that OpenSSL writes, and every version of it reads, without the public key.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let bytes = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        bytes.to_pkcs8_pem(LineEnding::LF).expect("a key of 32 bytes is always encoded")
    }

    /// The key that its signatures are verified by.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a plugin.
    #[must_use]
    pub fn sign(&self, digest: &Digest) -> Signature {
        Signature(self.0.sign(&message(digest)))
    }
}

/// A key that signatures are verified by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a `PUBLIC KEY` (SPKI).
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let refused = if pem.contains("PRIVATE KEY-----") { KeyError::Private } else { KeyError::NoKey };
        let key = VerifyingKey::from_public_key_pem(pem.trim()).map_err(|_| refused)?;
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(Self(key)) }
    }

    /// As it is written to a file.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).expect("a key of 32 bytes is always encoded")
    }

    /// Its short name; `openssl pkey -pubin -in KEY.pub -outform der | sha256sum` begins with it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let der = self.0.to_public_key_der().expect("a key of 32 bytes is always encoded");
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&Sha256::digest(der.as_bytes())[..ID_BYTES]);
        KeyId(id)
    }

    /// Whether this key made the signature, of this plugin.
    #[must_use]
    pub fn verifies(&self, digest: &Digest, signature: &Signature) -> bool {
        self.0.verify_strict(&message(digest), &signature.0).is_ok()
    }
}

/// What one key says of one plugin. As text it is 64 bytes in Base64.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Signature(ed25519_dalek::Signature);

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).ok();
        let signature = bytes.and_then(|bytes| ed25519_dalek::Signature::from_slice(&bytes).ok());
        signature.map(Self).ok_or_else(|| de::Error::custom("a signature is 64 bytes in Base64"))
    }
}
