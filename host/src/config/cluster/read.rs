//! From the text of a cluster file, the environment and flags to a `Cluster`: keys, defaults, bounds.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::arguments::{self, ClusterArgs};
use super::{Authentication, Cluster, ClusterLimits, Http, NodeName, ZooKeeper, kafka, tls};
use crate::config::diagnostic::{Diagnostic, Errors};
use crate::config::secret::{self, Secret};
use crate::config::section::{self, Section, Shape};
use crate::config::text::Text;
use crate::config::value::{self, Bounds, Fault};
use crate::signing::{PublicKey, TrustedKeys};

const ROOT: Shape = Shape {
    heading: "",
    keys: &[],
    tables: &["node", "kafka", "zookeeper", "local", "cache", "http", "worker", "limits", "plugins"],
    open: false,
};
const NODE: Shape = Shape { heading: "[node]", keys: &["name"], tables: &[], open: false };
const KAFKA: Shape = Shape { heading: "[kafka]", keys: &[], tables: &["consumer", "producer"], open: true };
const ZOOKEEPER: Shape = Shape {
    heading: "[zookeeper]",
    keys: &["connect", "namespace", "session-timeout"],
    tables: &["auth", "tls"],
    open: false,
};
const AUTH: Shape = Shape {
    heading: "[zookeeper.auth]",
    keys: &["scheme", "user", "password-env", "password-file"],
    tables: &[],
    open: false,
};
const TLS: Shape = Shape { heading: "[zookeeper.tls]", keys: &["ca", "certificate", "key"], tables: &[], open: false };
const LOCAL: Shape = Shape { heading: "[local]", keys: &["path"], tables: &[], open: false };
const CACHE: Shape = Shape { heading: "[cache]", keys: &["path"], tables: &[], open: false };
const HTTP: Shape = Shape { heading: "[http]", keys: &["listen", "token-env", "token-file"], tables: &[], open: false };
const WORKER: Shape = Shape { heading: "[worker]", keys: &["threads"], tables: &[], open: false };
const LIMITS: Shape = Shape {
    heading: "[limits]",
    keys: &["zookeeper-bytes-per-second", "plugin-size", "drain-deadline"],
    tables: &[],
    open: false,
};

const PLUGINS: Shape = Shape { heading: "[plugins]", keys: &["trusted-keys"], tables: &[], open: false };

/// Every table of a cluster file, the top level first.
pub(in crate::config) const SHAPES: &[&Shape] =
    &[&ROOT, &NODE, &KAFKA, &ZOOKEEPER, &AUTH, &TLS, &LOCAL, &CACHE, &HTTP, &WORKER, &LIMITS, &PLUGINS];

pub(super) const KAFKA_PORT: u16 = 9092;
pub(super) const ZOOKEEPER_PORT: u16 = 2181;
const KAFKA_SERVERS: &str = "bootstrap.servers";
const THREADS_MAX: u64 = 256;

const THREADS: Bounds<u64> = Bounds {
    min: 1,
    why_min: "somebody must do the work",
    max: THREADS_MAX,
    why_max: "each has a consumer and a producer with threads of their own",
};
const SESSION_TIMEOUT: Bounds<Duration> = Bounds {
    min: Duration::from_secs(1),
    why_min: "a pause that short would already count as a crash",
    max: Duration::from_secs(300),
    why_max: "that long the work of a crashed node would lie still",
};
const ZOOKEEPER_RATE: Bounds<u64> = Bounds {
    min: 64 << 10,
    why_min: "a commit of little state must still get through",
    max: 1 << 30,
    why_max: "no ensemble takes more",
};
const PLUGIN_SIZE: Bounds<u64> = Bounds {
    min: 64 << 10,
    why_min: "the smallest plugins have that much",
    max: 256 << 20,
    why_max: "plugins are stored in ZooKeeper, which keeps everything in memory",
};
const DRAIN_DEADLINE: Bounds<Duration> = Bounds {
    min: Duration::from_secs(1),
    why_min: "the last commit needs time",
    max: Duration::from_secs(600),
    why_max: "those who stop processes do not wait longer",
};

pub(super) fn cluster(text: Text, arguments: &ClusterArgs) -> Result<Cluster, Errors> {
    let mut cluster = section::read(&text, SHAPES, |root| root_table(root, &text, arguments))?;
    cluster.text = text;
    Ok(cluster)
}

fn root_table(root: &Section<'_>, text: &Text, arguments: &ClusterArgs) -> Option<Cluster> {
    let node = node(&root.table("node", &NODE), arguments);
    let kafka = kafka(root, text, arguments);
    let zookeeper = zookeeper(root, text, arguments);
    let path = |section: Section<'_>| section.optional("path", |field| field.parsed(|path| folder(path, text)));
    let local_path = path(root.table("local", &LOCAL));
    let cache_path = path(root.table("cache", &CACHE));
    let http_table = root.table("http", &HTTP);
    let http = http_table.optional("listen", |field| field.parsed(arguments::http));
    let http_token = token(&http_table, text);
    let threads = root.table("worker", &WORKER).optional("threads", |field| {
        field.count(|count| value::count(count, &THREADS)).and_then(|count| usize::try_from(count).ok())
    });
    let limits = limits(&root.table("limits", &LIMITS));
    let trusted = root
        .table("plugins", &PLUGINS)
        .value("trusted-keys", Vec::new(), |field| field.list(|key| trusted_key(key, text)));

    let local_path = arguments.local_path.clone().or(local_path?).unwrap_or_else(|| PathBuf::from(".sluicegate"));
    Some(Cluster {
        node: node?,
        kafka: kafka?,
        zookeeper: zookeeper?,
        cache_path: arguments.cache_path.clone().or(cache_path?).unwrap_or_else(|| default_cache(&local_path)),
        local_path,
        http: arguments.http_listen.or(http?).unwrap_or(Http::Listen(([127, 0, 0, 1], 8080).into())),
        http_token: http_token?,
        worker_threads: arguments.worker_threads.or(threads?).unwrap_or_else(default_threads),
        limits: limits?,
        trusted_keys: TrustedKeys::new(trusted?),
        text: Text::default(),
    })
}

pub(super) fn threads(count: u64) -> Result<usize, Fault> {
    let count = value::count(count, &THREADS)?;
    usize::try_from(count).map_err(|error| Fault::new(error.to_string(), "write a smaller number"))
}

fn default_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.min(usize::try_from(THREADS_MAX).unwrap_or(usize::MAX))
}

/// `$XDG_CACHE_HOME/sluicegate`, `~/.cache/sluicegate`, or, for users without a home, a folder of the local store.
fn default_cache(local_path: &std::path::Path) -> PathBuf {
    let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    cache.map_or_else(|| local_path.join("cache"), |cache| cache.join("sluicegate"))
}

fn folder(path: &str, text: &Text) -> Result<PathBuf, Fault> {
    if path.is_empty() || path.contains('\0') {
        return Err(Fault::new(
            "not a path",
            "write the path of a folder; a relative one starts from this file's folder",
        ));
    }
    Ok(text.resolve(path))
}

fn node(section: &Section<'_>, arguments: &ClusterArgs) -> Option<NodeName> {
    let name = section.optional("name", |field| field.checked(value::node_name))?;
    if let Some(name) = arguments.node_name.clone().or(name) {
        return Some(NodeName(name));
    }
    let host = gethostname::gethostname();
    let name = host.to_str().filter(|host| value::node_name(host).is_ok());
    if name.is_none() {
        let message = format!("the host name {host:?} cannot be the name of a node");
        let help = "set `name` in [node], SLUICEGATE_NODE_NAME or --node-name";
        section.findings().add(Diagnostic::new(message).help(help));
    }
    name.map(|name| NodeName(name.to_owned()))
}

fn kafka(root: &Section<'_>, text: &Text, arguments: &ClusterArgs) -> Option<kafka::Kafka> {
    let mut kafka = kafka::properties(&root.table("kafka", &KAFKA), text)?;
    if let Some(servers) = &arguments.kafka_bootstrap_servers {
        kafka.common.set(KAFKA_SERVERS, servers.clone());
    } else if kafka.common.get(KAFKA_SERVERS).is_none() {
        kafka.common.set(KAFKA_SERVERS, format!("localhost:{KAFKA_PORT}"));
    }
    Some(kafka)
}

/// A public key: its text, or the file that has it.
fn trusted_key(key: &str, text: &Text) -> Result<PublicKey, Fault> {
    let instead = "write the path of a file with -----BEGIN PUBLIC KEY----- in it, or its text";
    let read = |path| fs::read_to_string(&path).map_err(|error| (path, error));
    let pem = match key.contains("-----BEGIN") {
        true => key.to_owned(),
        false => read(text.resolve(key)).map_err(|(path, error)| {
            let name = path.display();
            Fault::new(format!("cannot read `{name}`: {error}"), instead)
        })?,
    };
    PublicKey::from_pem(&pem).map_err(|error| Fault::new(error.to_string(), instead))
}

/// `None` if something is wrong, `Some(None)` if no ensemble is configured.
fn zookeeper(root: &Section<'_>, text: &Text, arguments: &ClusterArgs) -> Option<Option<ZooKeeper>> {
    let section = root.table("zookeeper", &ZOOKEEPER);
    let connect = section.optional("connect", |field| field.parsed(|servers| value::servers(servers, ZOOKEEPER_PORT)));
    let namespace = section.value("namespace", "/sluicegate".to_owned(), |field| field.checked(value::namespace));
    let session_timeout = section.value("session-timeout", Duration::from_secs(10), |field| {
        field.parsed(|text| value::duration(text, &SESSION_TIMEOUT))
    });
    let auth = match section.field("auth") {
        None => Some(None),
        Some(_) => authentication(&section.table("auth", &AUTH), text).map(Some),
    };
    let tls = match section.field("tls") {
        None => Some(None),
        Some(_) => tls::read(&section.table("tls", &TLS), text).map(Some),
    };
    let connect = arguments.zookeeper_connect.clone().or(connect?);
    if connect.is_none() && root.field("zookeeper").is_some() {
        section.required("connect", "\"localhost:2181\"");
        return None;
    }
    let namespace = arguments.zookeeper_namespace.clone().or(namespace)?;
    let (session_timeout, auth, tls) = (session_timeout?, auth?, tls?);
    Some(connect.map(|connect| ZooKeeper { connect, namespace, session_timeout, auth, tls }))
}

fn authentication(section: &Section<'_>, text: &Text) -> Option<Authentication> {
    let scheme = section.value("scheme", (), |field| field.word(&[("digest", ())]));
    let user = section.required("user", "\"sluicegate\"").and_then(|field| {
        field.checked(|user| match user.is_empty() || user.contains(':') {
            true => Err(Fault::new("not the name of a user", "write a name without `:`")),
            false => Ok(()),
        })
    });
    let password = secret(section, text, "password", ["password-env", "password-file"]);
    if password == Some(None) {
        let message = "[zookeeper.auth] does not say where the password is";
        let diagnostic = Diagnostic::new(message).at(section.place());
        section.findings().add(diagnostic.help(either("password")));
    }
    scheme?;
    Some(Authentication { user: user?, password: password?? })
}

/// `None` if something is wrong, `Some(None)` if nobody may change something over HTTP.
fn token(section: &Section<'_>, text: &Text) -> Option<Option<Secret>> {
    const SHORTEST: usize = 16;
    let token = secret(section, text, "token", ["token-env", "token-file"])?;
    let is_sound = |token: &Secret| {
        let token = token.expose();
        token.len() >= SHORTEST && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if token.as_ref().is_some_and(|token| !is_sound(token)) {
        let what = format!("the token under [http] is not {SHORTEST} or more letters, digits and signs of ASCII");
        let diagnostic = Diagnostic::new(what);
        section.findings().add(diagnostic.at(section.place()).help("make one with `openssl rand -hex 32`"));
        return None;
    }
    Some(token)
}

/// A secret that an environment variable or a file has. `None` if something is wrong, `Some(None)` if it is not there.
fn secret(section: &Section<'_>, text: &Text, what: &str, [env, file]: [&'static str; 2]) -> Option<Option<Secret>> {
    let fault = |problem| Fault::new(problem, "set it, or name another one");
    let from_environment =
        section.field(env).map(|field| field.parsed(|it| secret::from_environment(it).map_err(fault)));
    let from_file =
        section.field(file).map(|field| field.parsed(|it| secret::from_file(&text.resolve(it)).map_err(fault)));
    match (from_environment, from_file) {
        (None, None) => Some(None),
        (Some(secret), None) | (None, Some(secret)) => secret.map(Some),
        (Some(_), Some(_)) => {
            let diagnostic = Diagnostic::new(format!("{} has two {what}s", section.heading())).at(section.place());
            section.findings().add(diagnostic.help(either(what)));
            None
        }
    }
}

fn either(what: &str) -> String {
    format!("write either {what}-env = \"VARIABLE\" or {what}-file = \"path\"")
}

fn limits(section: &Section<'_>) -> Option<ClusterLimits> {
    let size = |key, default, bounds| {
        section.value(key, default, |field| field.parsed_or_number(|text| value::size(text, bounds)))
    };
    let zookeeper_bytes_per_second = size("zookeeper-bytes-per-second", 10 << 20, &ZOOKEEPER_RATE);
    let plugin_size = size("plugin-size", 64 << 20, &PLUGIN_SIZE);
    let drain_deadline = section.value("drain-deadline", Duration::from_secs(30), |field| {
        field.parsed(|text| value::duration(text, &DRAIN_DEADLINE))
    });
    Some(ClusterLimits {
        zookeeper_bytes_per_second: zookeeper_bytes_per_second?,
        plugin_size: plugin_size?,
        drain_deadline: drain_deadline?,
    })
}
