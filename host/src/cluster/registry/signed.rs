//! Signatures beside the blob that they are of: one node, written under its version, gone with the blob.
//!
//! Whose they are, and whether they are taken, is decided elsewhere: what stands in the registry can be written by whoever has
//! access to it. Damage is an error for whoever needs the signatures, and is written over by whoever signs again.

use super::{ATTEMPTS_MAX, Registry, RegistryError};
use crate::digest::Digest;
use crate::meta::{MetaError, Node, Write, layout};
use crate::signing::{SignatureError, Signatures};

impl Registry {
    /// The signatures of a plugin; none where nobody has signed it, or there is no such plugin.
    ///
    /// # Errors
    /// [`RegistryError::Signatures`], those of the store.
    pub async fn signatures(&self, digest: &Digest) -> Result<Signatures, RegistryError> {
        match self.store.get(&layout::blob_signatures(digest)).await? {
            Some(node) => read(digest, &node),
            None => Ok(Signatures::none(*digest)),
        }
    }

    /// Adds signatures to those that a plugin has. What there is then.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] when the registry does not have the plugin, [`RegistryError::Signatures`] when there is no room
    /// for more, those of the store; it may be repeated.
    pub async fn add_signatures(&self, more: &Signatures) -> Result<Signatures, RegistryError> {
        let digest = more.digest();
        if more.is_empty() {
            return Ok(more.clone());
        }
        let path = layout::blob_signatures(digest);
        for _ in 0..ATTEMPTS_MAX {
            let blob = self.blobs().find(digest).await?.ok_or_else(|| RegistryError::Unknown {
                reference: digest.to_string(),
                hint: "push the file that has this digest".into(),
            })?;
            let node = self.store.get(&path).await?;
            let there = match node.as_ref().map(|node| read(digest, node)).transpose() {
                Err(RegistryError::Signatures { problem: SignatureError::Damaged(problem), .. }) => {
                    tracing::warn!(%digest, problem, "writing damaged signatures anew");
                    Signatures::none(*digest)
                }
                there => there?.unwrap_or_else(|| Signatures::none(*digest)),
            };
            let all = there.with(more).map_err(|problem| RegistryError::Signatures { digest: *digest, problem })?;
            let data = all.encode().into();
            let write = match node {
                Some(node) if node.data == data => return Ok(all),
                Some(Node { version, .. }) => Write::Set { path: path.clone(), data, version },
                None => Write::Create { path: path.clone(), data, ephemeral: false },
            };
            match self.store.multi(vec![blob.unchanged(), write]).await {
                Ok(_) => return Ok(all),
                // Somebody else signs it or deletes it, or an answer was lost: the next look tells.
                Err(
                    MetaError::Exists { .. }
                    | MetaError::BadVersion { .. }
                    | MetaError::Missing { .. }
                    | MetaError::AnswerLost { .. },
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended { what: format!("the signatures of {digest}") })
    }
}

fn read(digest: &Digest, node: &Node) -> Result<Signatures, RegistryError> {
    let failed = |problem| RegistryError::Signatures { digest: *digest, problem };
    let signatures = Signatures::decode(&node.data).map_err(failed)?;
    match signatures.digest() == digest {
        true => Ok(signatures),
        false => {
            Err(failed(SignatureError::Damaged(format!("they are those of another plugin, {}", signatures.digest()))))
        }
    }
}
