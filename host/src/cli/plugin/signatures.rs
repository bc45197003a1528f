//! Keys and signatures in files, for the commands that sign, push, pull and show.

use std::path::Path;

use anyhow::{Context, Result};
use zeroize::Zeroizing;

use super::BadInput;
use crate::digest::Digest;
use crate::signing::{PrivateKey, Signatures, path_beside, read_beside};

/// The private key in a file. No part of the file is in an error.
pub(super) fn key(path: &Path) -> Result<PrivateKey> {
    let shown = path.display();
    let pem = std::fs::read_to_string(path).map(Zeroizing::new);
    let pem = pem.with_context(|| BadInput(format!("cannot read the key {shown}")))?;
    PrivateKey::from_pem(&pem).with_context(|| BadInput(format!("{shown} cannot be signed with")))
}

/// The signatures beside a file, which has these contents; none if they are of others.
pub(super) fn beside(plugin: &Path, digest: Digest) -> Result<Signatures> {
    match read_beside(plugin).map_err(|error| BadInput(error.to_string()))? {
        None => Ok(Signatures::none(digest)),
        Some(signatures) if *signatures.digest() == digest => Ok(signatures),
        Some(signatures) => {
            let (file, other) = (path_beside(plugin), signatures.digest());
            eprintln!("note: {} is of other contents ({other}), and says nothing of these", file.display());
            Ok(Signatures::none(digest))
        }
    }
}
