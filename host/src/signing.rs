//! Signatures of plugins: keys, what is signed, what a file of signatures looks like, and whose signatures are taken.
//!
//! Pure but for `beside`; where keys and signatures are kept otherwise is others' business. A signature is over the digest of a plugin and stands beside it, so
//! that signing changes neither bytes nor digest, and several may sign the same plugin. Keys are Ed25519, in the PEM files that
//! OpenSSL writes and reads. Invariants: a private key is in no `Debug` and no error, and is wiped when it is dropped; what is
//! read from a file or from the metadata store is checked before it is believed, and never panics.

mod beside;
mod keys;
mod set;
mod trust;

pub use self::beside::{BesideError, path_beside, read_beside};
pub use self::keys::{KeyError, KeyId, PrivateKey, PublicKey, Signature};
pub use self::set::{SIGNATURES_MAX, SignatureError, Signatures};
pub use self::trust::{NotTrusted, Signer, Standing, TrustedKeys, Untrusted};

use crate::digest::Digest;

/// What stands before the digest in what is signed: a signature of a plugin can be taken for one of nothing else.
const DOMAIN: &str = "sluicegate-plugin-v1\n";

/// The bytes that are signed: `sluicegate-plugin-v1`, a line end, and the digest as it is shown.
fn message(digest: &Digest) -> Vec<u8> {
    format!("{DOMAIN}{digest}").into_bytes()
}

#[cfg(test)]
mod tests;
