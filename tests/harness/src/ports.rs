//! Free TCP ports that stay one's own while a server restarts.
//!
//! Ports come from below the range the kernel uses for outgoing connections: in it, a client that tries to connect to a
//! server which is down may be given that very port and connect to itself. A lock file keeps other processes of this crate
//! from choosing the same port; it is held as long as the [`Port`] lives.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};

const LOWEST: u16 = 12_000;
const COUNT: u16 = 18_000;
const ATTEMPTS_MAX: usize = 200;

/// A port on 127.0.0.1.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: Option<File>,
}

impl Port {
    /// A port nobody listens on, reserved among the users of this crate.
    ///
    /// # Errors
    /// None found after many attempts, or the lock files cannot be written.
    pub fn free() -> Result<Self> {
        let folder = std::env::temp_dir().join("sluicegate-ports");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        for attempt in 0..ATTEMPTS_MAX {
            let random = RandomState::new().hash_one((std::process::id(), attempt));
            let number = LOWEST + u16::try_from(random % u64::from(COUNT)).expect("smaller than COUNT");
            let path = folder.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: Some(lock) });
            }
        }
        bail!("no free port between {LOWEST} and {}", LOWEST + COUNT)
    }

    /// A port that somebody chose, unless something listens on it.
    ///
    /// # Errors
    /// The port is taken.
    pub fn fixed(number: u16) -> Result<Self> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, number))
            .with_context(|| format!("port {number} is taken: stop what listens there or choose another"))?;
        Ok(Self { number, _lock: None })
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:<number>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
