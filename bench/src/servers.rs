//! The Kafka and the ZooKeeper that are measured against: started for the run, or those of somebody else.

use anyhow::Result;
use clap::Args;
use sluicegate_harness::kafka::{Kafka, KafkaOptions};
use sluicegate_harness::zookeeper::{ZooKeeper, ZooKeeperOptions};

/// Where the servers are.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Use this Kafka instead of starting one
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Use this ZooKeeper instead of starting one
    #[arg(long, value_name = "HOST:PORT")]
    pub zookeeper: Option<String>,
}

/// Servers that serve.
pub struct Servers {
    /// For `bootstrap.servers`.
    pub bootstrap: String,
    /// For ZooKeeper's clients.
    pub connect: String,
    _kafka: Option<Kafka>,
    _zookeeper: Option<ZooKeeper>,
}

impl ServerArgs {
    /// Starts what is not given.
    ///
    /// # Errors
    /// A server does not start.
    pub fn start(&self) -> Result<Servers> {
        self.start_with(&[])
    }

    /// Starts what is not given, a broker with these settings.
    ///
    /// # Errors
    /// A server does not start.
    pub fn start_with(&self, settings: &[(&str, &str)]) -> Result<Servers> {
        let kafka = match &self.kafka {
            Some(_) => None,
            None => {
                // Topics of earlier rounds go at once; each holds as much as the source.
                let options = KafkaOptions { heap_mib: 1024, full_speed: true, ..KafkaOptions::default() };
                let options = settings.iter().fold(options, |options, (key, value)| options.with(key, value));
                Some(Kafka::start(options.with("log.segment.delete.delay.ms", "1000"))?)
            }
        };
        let (connect, zookeeper) = self.start_zookeeper()?;
        let bootstrap = kafka.as_ref().map_or_else(|| self.kafka.clone().unwrap_or_default(), Kafka::bootstrap);
        Ok(Servers { bootstrap, connect, _kafka: kafka, _zookeeper: zookeeper })
    }

    /// Starts a ZooKeeper alone, unless one is given: its address, and what keeps it alive.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_zookeeper(&self) -> Result<(String, Option<ZooKeeper>)> {
        if let Some(connect) = &self.zookeeper {
            return Ok((connect.clone(), None));
        }
        // `mntr` says how many requests there were.
        let settings = [("4lw.commands.whitelist".to_owned(), "srvr,mntr".to_owned())].into();
        let options = ZooKeeperOptions { heap_mib: 1024, settings, ..ZooKeeperOptions::default() };
        let zookeeper = ZooKeeper::start(options)?;
        Ok((zookeeper.connect(), Some(zookeeper)))
    }
}
