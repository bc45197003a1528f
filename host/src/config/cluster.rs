//! The cluster file, validated: the servers, this node, its threads and limits. `docs/cluster-reference.md` is its manual.
//!
//! Flags go over the environment, that over the file, that over defaults; without any of them a node works with a Kafka
//! on this machine and the local store. Nothing is connected or created here. Invariant: secrets are masked in `Debug`.

mod arguments;
mod effective;
mod kafka;
mod read;
mod tls;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Errors};
use super::secret::Secret;
use super::text::{Step, Text};
use crate::signing::TrustedKeys;

pub use arguments::ClusterArgs;
pub use kafka::{Kafka, KafkaProperties, KafkaProperty};
#[cfg(test)]
pub(super) use read::SHAPES;
pub use tls::{Identity, Tls};

/// The name of a node: ASCII letters, digits, `.`, `_` and `-`, at most 255 of them.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node needs to know about its surroundings.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// This node's name; unique in the namespace.
    pub node: NodeName,
    /// Properties for librdkafka.
    pub kafka: Kafka,
    /// The ensemble; a node without one keeps everything in the local store.
    pub zookeeper: Option<ZooKeeper>,
    /// Folder of the local store.
    pub local_path: PathBuf,
    /// Folder of compiled plugins; may be deleted at any time.
    pub cache_path: PathBuf,
    /// Where the HTTP endpoint listens.
    pub http: Http,
    /// What has to be shown there by whoever changes something; nobody may without.
    pub http_token: Option<Secret>,
    /// Worker threads for each pipeline, at least one.
    pub worker_threads: usize,
    /// Bounds on what the node uses.
    pub limits: ClusterLimits,
    /// Whose signatures plugins need.
    pub trusted_keys: TrustedKeys,
    text: Text,
}

/// How to reach ZooKeeper.
#[derive(Clone, Debug, PartialEq)]
pub struct ZooKeeper {
    /// `host:port`, several with commas between.
    pub connect: String,
    /// Absolute path below which everything is stored.
    pub namespace: String,
    /// How long a node may be silent before it counts as gone; the ensemble may clamp it.
    pub session_timeout: Duration,
    /// Who the node is to the ensemble; nobody if none.
    pub auth: Option<Authentication>,
    /// How connections are encrypted; not at all if none.
    pub tls: Option<Tls>,
}

/// Credentials for ZooKeeper's scheme `digest`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authentication {
    /// Name of the user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// Where the HTTP endpoint listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Http {
    /// At this address; port 0 takes a free one.
    Listen(SocketAddr),
    /// Nowhere: no metrics, and no commands that reach a running node through it.
    Off,
}

/// Bounds on what a node uses.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterLimits {
    /// Bytes of state a second that a node writes to ZooKeeper; commits wait when it is exceeded.
    pub zookeeper_bytes_per_second: u64,
    /// Most bytes of a plugin's file.
    pub plugin_size: u64,
    /// Longest time that draining and the last commit may take after the signal to stop.
    pub drain_deadline: Duration,
}

impl Cluster {
    /// Reads the cluster file, if there is one, and puts environment and flags over it.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn load(arguments: &ClusterArgs) -> Result<Self, Errors> {
        let text = match &arguments.cluster {
            Some(path) => Text::read(path).map_err(|problem| unreadable(path, &problem))?,
            None => {
                let path = Path::new(arguments::DEFAULT_FILE);
                match path.exists() {
                    true => Text::read(path).map_err(|problem| unreadable(path, &problem))?,
                    false => Text::default(),
                }
            }
        };
        read::cluster(text, arguments)
    }

    /// The cluster file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        Some(self.text.origin()).filter(|origin| !origin.as_os_str().is_empty())
    }

    /// Checks a cluster file whose text was read elsewhere, with environment and flags put over it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(origin: &Path, text: &str, arguments: &ClusterArgs) -> Result<Self, Errors> {
        read::cluster(Text::new(origin, text), arguments)
    }

    /// An error of librdkafka about a property, shown at the line of the cluster file; without a name, about all of them.
    #[must_use]
    pub fn kafka_error(&self, property: &str, message: &str) -> Errors {
        if property.is_empty() {
            let diagnostic = Diagnostic::new(format!("librdkafka refuses what [kafka] says: {message}"));
            return Errors::new(&self.text, vec![diagnostic]);
        }
        let title = format!("librdkafka refuses the property `{property}`");
        let place = ["producer", "consumer", ""]
            .into_iter()
            .find_map(|side| self.text.find(&[Step::Key("kafka"), Step::Path(side), Step::Path(property)]));
        let diagnostic = match place {
            Some(place) => Diagnostic::new(title).at(place).label(message),
            None => Diagnostic::new(format!("{title}: {message}")),
        };
        Errors::new(&self.text, vec![diagnostic])
    }
}

fn unreadable(path: &Path, problem: &str) -> Errors {
    let message = format!("cannot read the cluster file `{}`: {problem}", path.display());
    Errors::new(&Text::default(), vec![Diagnostic::new(message)])
}
