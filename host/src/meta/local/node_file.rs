//! Where the node is that has a local store open: a file beside the store, for commands on the same machine.
//!
//! It is a hint and no lock: a crash leaves it behind, and it counts only while the store's file is locked.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "node.json";

/// A running node as it is found in `node.json`.
#[derive(Clone, Deserialize, PartialEq, Eq, Serialize)]
pub struct NodeFile {
    /// Process id.
    pub pid: u32,
    /// Where its HTTP endpoint listens.
    pub address: SocketAddr,
    /// What a request to its metadata endpoint must carry. Only the owner of the file can read it.
    pub token: String,
}

impl fmt::Debug for NodeFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, address, token: _ } = self;
        formatter.debug_struct("NodeFile").field("pid", pid).field("address", address).finish_non_exhaustive()
    }
}

impl NodeFile {
    /// For this process, with a new token.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { pid: std::process::id(), address, token: hex::encode(rand::random::<[u8; 16]>()) }
    }

    /// Writes it into the store's directory, readable by its owner alone. Call it when the endpoint answers.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        // Under another name first, so that nobody reads half of it.
        let unfinished = dir.join(format!("{FILE_NAME}.{}", self.pid));
        let _ = fs::remove_file(&unfinished);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&unfinished, path(dir))
    }

    /// Reads it; `None` where there is none that can be read.
    #[must_use]
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path(dir)).ok()?).ok()
    }

    /// Removes it, if it is there.
    pub fn remove(dir: &Path) {
        let _ = fs::remove_file(path(dir));
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}
