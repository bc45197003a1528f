//! What a command and a running node say to one another about the node's store: postcard in the bodies of POST requests.
//!
//! Both ends are built from this file, and the path of the endpoint names its version: a command of another version gets
//! 404, not nonsense.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::meta::{MetaError, REQUEST_BYTES_MAX, Version, Write};

/// What all paths begin with.
pub const PREFIX: &str = "/meta/v1";
/// Reads a node: path -> contents and version, or none.
pub const GET: &str = "get";
/// Lists children: path -> names.
pub const CHILDREN: &str = "children";
/// Writes: list of [`WireWrite`] -> list of versions.
pub const MULTI: &str = "multi";

/// Largest body of a request in bytes: a multi, its lengths encoded.
pub const BODY_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;
/// Largest answer in bytes: a node's contents, or names of thousands of children.
pub const ANSWER_BYTES_MAX: usize = 16 * REQUEST_BYTES_MAX;

/// The body of an answer.
pub type Answer<T> = Result<T, MetaError>;

/// A [`Write`].
#[derive(Deserialize, Serialize)]
pub enum WireWrite {
    /// [`Write::Create`]: path, contents, ephemeral.
    Create(String, Vec<u8>, bool),
    /// [`Write::Set`]: path, contents, version.
    Set(String, Vec<u8>, Version),
    /// [`Write::Delete`]: path, version.
    Delete(String, Option<Version>),
    /// [`Write::Check`]: path, version.
    Check(String, Version),
}

impl From<Write> for WireWrite {
    fn from(write: Write) -> Self {
        match write {
            Write::Create { path, data, ephemeral } => Self::Create(path, data.into(), ephemeral),
            Write::Set { path, data, version } => Self::Set(path, data.into(), version),
            Write::Delete { path, version } => Self::Delete(path, version),
            Write::Check { path, version } => Self::Check(path, version),
        }
    }
}

impl From<WireWrite> for Write {
    fn from(write: WireWrite) -> Self {
        match write {
            WireWrite::Create(path, data, ephemeral) => Self::Create { path, data: Bytes::from(data), ephemeral },
            WireWrite::Set(path, data, version) => Self::Set { path, data: Bytes::from(data), version },
            WireWrite::Delete(path, version) => Self::Delete { path, version },
            WireWrite::Check(path, version) => Self::Check { path, version },
        }
    }
}
