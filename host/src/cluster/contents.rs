//! What stands in nodes: JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::meta::MetaError;

/// The bytes to store.
pub(super) fn encode(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("it has string keys only"))
}

/// Reads what stands at `path`.
///
/// # Errors
/// It is damaged.
pub fn decode<T: for<'de> Deserialize<'de>>(path: &str, data: &[u8]) -> Result<T, MetaError> {
    serde_json::from_slice(data).map_err(|error| MetaError::Failed {
        path: path.to_owned(),
        reason: format!("what stands there is damaged, or of another version: {error}"),
    })
}
