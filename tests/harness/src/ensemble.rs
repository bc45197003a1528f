//! An ensemble of three ZooKeepers: it serves as long as two of them do, under a leader that these have elected.
//!
//! A member is a [`ZooKeeper`], and is killed and restarted as one. It says that it serves only while there is a leader.

use std::fs;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::ports::Port;
use crate::zookeeper::{ZooKeeper, ZooKeeperOptions, leads};

const MEMBERS: usize = 3;
const HEAP_MIB: u32 = 128;

/// Three ZooKeeper servers on 127.0.0.1.
#[derive(Debug)]
pub struct Ensemble {
    members: Vec<ZooKeeper>,
    /// Between the members: they are nobody else's while it lives.
    _ports: Vec<Port>,
}

impl Ensemble {
    /// Starts three servers and waits until all of them serve: about two seconds.
    ///
    /// # Errors
    /// As [`ZooKeeper::start`].
    pub fn start() -> Result<Self> {
        let ports = (0..2 * MEMBERS).map(|_| Port::free()).collect::<Result<Vec<Port>>>()?;
        let mut options = ZooKeeperOptions { heap_mib: HEAP_MIB, ..ZooKeeperOptions::default() };
        // In ticks: how long a member may take to join, and to answer the leader.
        options.settings.extend([("initLimit".to_owned(), "20".to_owned()), ("syncLimit".to_owned(), "8".to_owned())]);
        for (id, ports) in (1..).zip(ports.chunks(2)) {
            let address = format!("{}:{}", ports[0].address(), ports[1].number());
            options.settings.insert(format!("server.{id}"), address);
        }
        let member = |id: usize| {
            let member = ZooKeeper::prepare(options.clone())?;
            fs::create_dir_all(member.data()).context("create ZooKeeper's folder")?;
            fs::write(member.data().join("myid"), id.to_string()).context("write myid")?;
            Ok(member)
        };
        let members = (1..=MEMBERS).map(member).collect::<Result<_>>()?;
        let mut ensemble = Self { members, _ports: ports };
        ensemble.restart()?;
        Ok(ensemble)
    }

    /// For a client's connect string.
    #[must_use]
    pub fn connect(&self) -> String {
        self.members.iter().map(ZooKeeper::connect).collect::<Vec<_>>().join(",")
    }

    /// The servers.
    #[must_use]
    pub fn members(&self) -> &[ZooKeeper] {
        &self.members
    }

    /// One of them, to be disturbed.
    pub fn member(&mut self, at: usize) -> &mut ZooKeeper {
        &mut self.members[at]
    }

    /// Which member leads; none while one is being elected.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| leads(&member.connect()))
    }

    /// SIGKILL to all.
    ///
    /// # Errors
    /// From the operating system.
    pub fn kill(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(ZooKeeper::kill)
    }

    /// Starts all of them again, after `kill` of those that run, with the same data.
    ///
    /// # Errors
    /// As [`ZooKeeper::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        // At the same time: each is ready when it has found another.
        thread::scope(|scope| {
            let starting: Vec<_> = self.members.iter_mut().map(|member| scope.spawn(|| member.restart())).collect();
            starting
                .into_iter()
                .try_for_each(|start| start.join().map_err(|_| anyhow!("the start of a member panicked"))?)
        })
    }
}
