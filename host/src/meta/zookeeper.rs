//! The store of a cluster: a chroot in ZooKeeper. The only place, with the modules below it, that names
//! `zookeeper_client`.
//!
//! A request is sent when its future is first polled while the connection is up, so that several are in flight at a time.
//! Nothing is sent twice. While the connection is down, new requests wait a bounded time and then fail as
//! [`MetaError::Away`]: those were never sent. What was in flight fails as [`MetaError::AnswerLost`].
//!
//! The session is over only when a server says so: the client gives one up by itself after a while without a server, and
//! then [`link`] takes it up again.

mod error;
mod examination;
mod link;
mod probe;
mod tls;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, MultiWriteError, MultiWriteResult, Stat};

pub use self::examination::Examination;
use self::link::Link;
use super::{Coordination, MetaError, MetaStore, Node, Session, Version, Write, check_path, check_writes, layout};

/// Longest namespace in bytes, a chroot of the connect string included: it stands in every path of a request, and the guard
/// of its size does not know it.
pub const NAMESPACE_BYTES_MAX: usize = 64;
/// How long a session outlives its last contact, unless configured.
pub const SESSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// How long a request waits for a connection, unless configured.
pub const AWAY_WAIT_DEFAULT: Duration = Duration::from_secs(3);

/// How to reach a ZooKeeper ensemble.
#[derive(Clone)]
pub struct ZooKeeperOptions {
    /// `host:port,host:port`, optionally with a chroot behind the last one.
    pub connect: String,
    /// Path under which everything is kept, made if missing. Below the chroot of `connect` if there is one.
    pub namespace: String,
    /// How long the session outlives its last contact. Servers clamp it to 2-20 of their ticks.
    pub session_timeout: Duration,
    /// How long a request waits for a connection before it fails.
    pub away_wait: Duration,
    /// Who to be.
    pub auth: Option<ZooKeeperAuth>,
    /// How to encrypt; not at all if none.
    pub tls: Option<ZooKeeperTls>,
}

impl ZooKeeperOptions {
    /// No authentication, no encryption, usual times.
    #[must_use]
    pub fn new(connect: &str, namespace: &str) -> Self {
        Self {
            connect: connect.into(),
            namespace: namespace.into(),
            session_timeout: SESSION_TIMEOUT_DEFAULT,
            away_wait: AWAY_WAIT_DEFAULT,
            auth: None,
            tls: None,
        }
    }

    /// What to do when access was denied; `said` is the server's word.
    fn explain(&self, said: &str) -> String {
        let user = self.auth.as_ref().and_then(|auth| auth.secret.split_once(':')).map(|(user, _)| user);
        match user {
            Some(user) => format!("{said} as user `{user}`; it was made by another user or with another password"),
            None if self.authenticated() => format!("{said} with this certificate"),
            None => format!("{said} without credentials; set [zookeeper.auth]"),
        }
    }

    /// Whether the server knows who this is. Then nodes are made accessible to their creator only; otherwise to everybody.
    fn authenticated(&self) -> bool {
        self.auth.is_some() || self.tls.as_ref().is_some_and(|tls| tls.identity.is_some())
    }
}

/// Credentials.
#[derive(Clone)]
pub struct ZooKeeperAuth {
    /// `digest`, for example.
    pub scheme: String,
    /// `user:password` for `digest`.
    pub secret: String,
}

/// What to encrypt with. Texts in the PEM format.
#[derive(Clone)]
pub struct ZooKeeperTls {
    /// Certificates of the authorities that servers' certificates must be signed by.
    pub ca: String,
    /// Certificate and key to show to a server, which takes them for credentials.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for ZooKeeperTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ZooKeeperTls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ZooKeeperAuth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ZooKeeperAuth").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl fmt::Debug for ZooKeeperOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connect, namespace, session_timeout, away_wait, auth, tls } = self;
        formatter
            .debug_struct("ZooKeeperOptions")
            .field("connect", connect)
            .field("namespace", namespace)
            .field("session_timeout", session_timeout)
            .field("away_wait", away_wait)
            .field("auth", auth)
            .field("tls", tls)
            .finish()
    }
}

/// A session with a ZooKeeper ensemble.
#[derive(Debug)]
pub struct ZooKeeper {
    link: Link,
    authenticated: bool,
}

impl ZooKeeper {
    /// Connects, makes the namespace where it is missing, and checks the layout's version there.
    ///
    /// # Errors
    /// [`MetaError::Away`] when no server answers within seconds, [`MetaError::Unusable`] when servers and this process do
    /// not come together over TLS, [`MetaError::Denied`] when the credentials are refused or do not suffice,
    /// [`MetaError::Failed`] for options that make no sense and for another layout version.
    pub async fn connect(options: ZooKeeperOptions) -> Result<Self, MetaError> {
        let target = Target::parse(&options)?;
        let authenticated = options.authenticated();
        let denied = |error| match error {
            MetaError::Denied { path, reason } => MetaError::Denied { path, reason: options.explain(&reason) },
            other => other,
        };
        let link = Link::connect(&target.hosts, &options, |client| {
            let root = target.root.clone();
            async move { enter(client, &root, authenticated).await }
        });
        let store = Self { link: link.await.map_err(denied)?, authenticated };
        layout::check_format(&store).await.map_err(denied)?;
        Ok(store)
    }

    async fn read(&self, path: &str) -> Result<Option<(Vec<u8>, Stat)>, MetaError> {
        check_path(path)?;
        let client = self.link.client(path).await?;
        match client.get_data(path).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error::of_read(path, &error)),
        }
    }
}

/// Where the servers are, and the chroot there.
struct Target {
    hosts: String,
    root: String,
}

impl Target {
    fn parse(options: &ZooKeeperOptions) -> Result<Self, MetaError> {
        let refuse = |what: &str, reason: &str| MetaError::Failed { path: what.into(), reason: reason.into() };
        let connect = options.connect.trim();
        let (hosts, chroot) = connect.split_once('/').map_or((connect, ""), |(hosts, chroot)| (hosts, chroot));
        if hosts.split(',').any(|host| host.trim().is_empty()) {
            return Err(refuse(connect, "the connect string must be `host:port,host:port`"));
        }
        let names: Vec<&str> =
            chroot.split('/').chain(options.namespace.split('/')).filter(|name| !name.is_empty()).collect();
        if let Some(Err(error)) = names.iter().map(|name| layout::Segment::new(name)).find(Result::is_err) {
            return Err(refuse(&options.namespace, &error.to_string()));
        }
        let root = format!("/{}", names.join("/"));
        if root.len() > NAMESPACE_BYTES_MAX {
            return Err(refuse(&root, &format!("the namespace is longer than {NAMESPACE_BYTES_MAX} bytes")));
        }
        Ok(Self { hosts: hosts.split(',').map(str::trim).collect::<Vec<_>>().join(","), root })
    }
}

/// Makes the namespace where it is missing and returns a client inside it.
async fn enter(client: Client, root: &str, authenticated: bool) -> Result<Client, MetaError> {
    if root != "/" {
        // Asked first: whoever may write inside the namespace need not be allowed to make it.
        let found = client.check_stat(root).await.map_err(|error| error::of_read(root, &error))?;
        if found.is_none() {
            let made = client.mkdir(root, &creating(false, authenticated)).await;
            made.map_err(|error| error::of_write(root, &error))?;
        }
    }
    let refused = |_| MetaError::Failed { path: root.into(), reason: "not a path for a namespace".into() };
    client.chroot(root.to_owned()).map_err(refused)
}

fn creating(ephemeral: bool, authenticated: bool) -> CreateOptions<'static> {
    let mode = if ephemeral { CreateMode::Ephemeral } else { CreateMode::Persistent };
    mode.with_acls(if authenticated { Acls::creator_all() } else { Acls::anyone_all() })
}

#[async_trait]
impl MetaStore for ZooKeeper {
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        Ok(self.read(path).await?.map(node))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        check_path(path)?;
        let client = self.link.client(path).await?;
        match client.list_children(path).await {
            Ok(names) => Ok(sorted(names)),
            Err(Error::NoNode) => Ok(Vec::new()),
            Err(error) => Err(error::of_read(path, &error)),
        }
    }

    async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
        check_writes(&writes)?;
        let Some(path) = writes.first().map(Write::path) else { return Ok(Vec::new()) };
        let client = self.link.client(path).await?;
        // The request is sent in `commit`; what it leaves to be awaited is the answer.
        let answer = {
            let mut writer = client.new_multi_writer();
            for write in &writes {
                let added = match write {
                    Write::Create { path, data, ephemeral } => {
                        writer.add_create(path, data, &creating(*ephemeral, self.authenticated))
                    }
                    Write::Set { path, data, version } => writer.add_set_data(path, data, Some(version.0)),
                    Write::Delete { path, version } => writer.add_delete(path, version.map(|version| version.0)),
                    Write::Check { path, version } => writer.add_check_version(path, version.0),
                };
                added.map_err(|error| error::of_write(write.path(), &error))?;
            }
            writer.commit()
        };
        match answer.await {
            Ok(results) => Ok(results.into_iter().map(version_of).collect()),
            Err(MultiWriteError::OperationFailed { index, source }) => {
                Err(error::of_write(writes.get(index).map_or(path, Write::path), &source))
            }
            Err(MultiWriteError::RequestFailed { source }) => Err(error::of_write(path, &source)),
        }
    }
}

fn version_of(result: MultiWriteResult) -> Option<Version> {
    match result {
        MultiWriteResult::Create { stat, .. } | MultiWriteResult::SetData { stat } => Some(Version(stat.version)),
        _ => None,
    }
}

fn node((data, stat): (Vec<u8>, Stat)) -> Node {
    Node { data: data.into(), version: Version(stat.version) }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

#[async_trait]
impl Coordination for ZooKeeper {
    fn session(&self) -> watch::Receiver<Session> {
        self.link.session()
    }

    async fn watch(&self, path: &str) -> Result<(Option<Node>, watch::Receiver<()>), MetaError> {
        check_path(path)?;
        let client = self.link.client(path).await?;
        // The node may appear or go between the two questions: ask again until one of them is answered.
        loop {
            let session = self.link.session();
            match client.get_and_watch_data(path).await {
                Ok((data, stat, watcher)) => return Ok((Some(node((data, stat))), link::changes(watcher, session))),
                Err(Error::NoNode) => {}
                Err(error) => return Err(error::of_read(path, &error)),
            }
            match client.check_and_watch_stat(path).await {
                Ok((None, watcher)) => return Ok((None, link::changes(watcher, session))),
                Ok((Some(_), _)) => {}
                Err(error) => return Err(error::of_read(path, &error)),
            }
        }
    }

    async fn watch_children(&self, path: &str) -> Result<(Vec<String>, watch::Receiver<()>), MetaError> {
        check_path(path)?;
        let client = self.link.client(path).await?;
        loop {
            let session = self.link.session();
            match client.list_and_watch_children(path).await {
                Ok((names, watcher)) => return Ok((sorted(names), link::changes(watcher, session))),
                Err(Error::NoNode) => {}
                Err(error) => return Err(error::of_read(path, &error)),
            }
            match client.check_and_watch_stat(path).await {
                Ok((None, watcher)) => return Ok((Vec::new(), link::changes(watcher, session))),
                Ok((Some(_), _)) => {}
                Err(error) => return Err(error::of_read(path, &error)),
            }
        }
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

#[cfg(test)]
mod tests;
