//! The flags that every command takes to find its cluster, each with an environment variable behind it.
//!
//! Only what differs from node to node or start to start has a flag; everything else stands in the file. Values are
//! checked by the same rules as the file's, by clap, before a command begins.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::{Http, read};
use crate::config::setting::{Overrides, Source};
use crate::config::value;

/// The cluster file that is read where none is named.
pub(super) const DEFAULT_FILE: &str = "sluicegate.toml";

/// Where the cluster is; each of these goes over the cluster file. They may stand behind a command's own arguments.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Cluster file; `sluicegate.toml` in the working directory if that exists
    #[arg(long, global = true, value_name = "FILE", env = "SLUICEGATE_CLUSTER")]
    pub cluster: Option<PathBuf>,
    /// Kafka brokers to begin with, host:port with commas between
    #[arg(long, global = true, value_name = "SERVERS", env = "SLUICEGATE_KAFKA_BOOTSTRAP_SERVERS", value_parser = kafka_servers)]
    pub kafka_bootstrap_servers: Option<String>,
    /// ZooKeeper servers, host:port with commas between
    #[arg(long, global = true, value_name = "SERVERS", env = "SLUICEGATE_ZOOKEEPER_CONNECT", value_parser = zookeeper_servers)]
    pub zookeeper_connect: Option<String>,
    /// Path in ZooKeeper below which everything is stored
    #[arg(long, global = true, value_name = "PATH", env = "SLUICEGATE_ZOOKEEPER_NAMESPACE", value_parser = namespace)]
    pub zookeeper_namespace: Option<String>,
    /// Name of this node, unique in the cluster
    #[arg(long, global = true, value_name = "NAME", env = "SLUICEGATE_NODE_NAME", value_parser = node_name)]
    pub node_name: Option<String>,
    /// Address of the HTTP endpoint, or `off`
    #[arg(long, global = true, value_name = "ADDRESS", env = "SLUICEGATE_HTTP_LISTEN", value_parser = http)]
    pub http_listen: Option<Http>,
    /// Worker threads for each pipeline
    #[arg(long, global = true, value_name = "COUNT", env = "SLUICEGATE_WORKER_THREADS", value_parser = threads)]
    pub worker_threads: Option<usize>,
    /// Folder of the local store
    #[arg(long, global = true, value_name = "FOLDER", env = "SLUICEGATE_LOCAL_PATH")]
    pub local_path: Option<PathBuf>,
    /// Folder of compiled plugins
    #[arg(long, global = true, value_name = "FOLDER", env = "SLUICEGATE_CACHE_PATH")]
    pub cache_path: Option<PathBuf>,
}

/// The arguments that go over a key of the cluster file.
pub(super) const OVER_KEYS: [(&str, &str); 8] = [
    ("kafka_bootstrap_servers", "kafka.bootstrap.servers"),
    ("zookeeper_connect", "zookeeper.connect"),
    ("zookeeper_namespace", "zookeeper.namespace"),
    ("node_name", "node.name"),
    ("http_listen", "http.listen"),
    ("worker_threads", "worker.threads"),
    ("local_path", "local.path"),
    ("cache_path", "cache.path"),
];

impl ClusterArgs {
    /// Which of the arguments are there, by the key that each goes over, and whether it was typed or is a variable's;
    /// `matches` are those of a command that takes these arguments.
    #[must_use]
    pub fn overrides(matches: &ArgMatches) -> Overrides {
        let source = |(argument, key): (&str, &'static str)| {
            let source = match matches.value_source(argument)? {
                ValueSource::CommandLine => Source::Flag { flag: format!("--{}", argument.replace('_', "-")) },
                ValueSource::EnvVariable => {
                    Source::Environment { variable: format!("SLUICEGATE_{}", argument.to_ascii_uppercase()) }
                }
                _ => return None,
            };
            Some((key, source))
        };
        OVER_KEYS.into_iter().filter_map(source).collect()
    }
}

fn kafka_servers(text: &str) -> Result<String, value::Fault> {
    value::servers(text, read::KAFKA_PORT)
}

fn zookeeper_servers(text: &str) -> Result<String, value::Fault> {
    value::servers(text, read::ZOOKEEPER_PORT)
}

fn namespace(text: &str) -> Result<String, value::Fault> {
    value::namespace(text).map(|()| text.to_owned())
}

fn node_name(text: &str) -> Result<String, value::Fault> {
    value::node_name(text).map(|()| text.to_owned())
}

fn threads(text: &str) -> Result<usize, value::Fault> {
    let count = text.parse().map_err(|_| value::Fault::new("not a number", "write a whole number above 0"))?;
    read::threads(count)
}

/// An address to listen at, or `off`.
pub(super) fn http(text: &str) -> Result<Http, value::Fault> {
    if text == "off" {
        return Ok(Http::Off);
    }
    let with_host = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address = with_host.as_deref().unwrap_or(text).parse::<SocketAddr>();
    address.map(Http::Listen).map_err(|_| {
        let instead = "write an IP address and a port, for example \"127.0.0.1:8080\" or \"0.0.0.0:8080\", or \"off\"";
        value::Fault::new("not an address to listen at", instead)
    })
}
