//! A token that a request has to show.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// A token, known by its digest.
#[derive(Clone)]
pub struct Bearer(Arc<[u8; 32]>);

impl Bearer {
    /// Of this token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(Arc::new(fingerprint(token)))
    }

    /// Whether `Authorization` has it. Digests are compared: how long that takes says nothing about the token.
    #[must_use]
    pub fn is_shown_by(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = shown.split_once(' ').unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && fingerprint(token) == *self.0
    }
}

fn fingerprint(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
