//! In place of handshakes in a program that was built without TLS: there is no value of this type.

use std::net::TcpStream;

use super::Objection;

/// Whom this side trusts.
#[derive(Clone, Debug)]
pub enum Trust {}

impl Trust {
    /// Never.
    ///
    /// # Errors
    /// Always.
    pub fn new(_: &str, _: Option<(&str, &str)>) -> Result<Self, String> {
        Err("this program was built without TLS; build it with the cargo feature `tls`, which is on by default".into())
    }

    pub(super) fn nobody() -> Option<Self> {
        None
    }

    /// Any.
    #[must_use]
    pub fn takes(_: &str) -> bool {
        true
    }

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub fn shake(&self, _: &str, _: &mut TcpStream, _: &[u8]) -> Result<(), Objection> {
        match *self {}
    }
}
