//! A modelled ZooKeeper: versioned nodes, written several at once or not at all, through a network that loses things.
//!
//! A client's requests arrive in the order in which they were sent, except for one whose connection broke: it may arrive seconds
//! later, after everything that its client did about it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sluicegate::meta::{self, MetaError, MetaStore, Node, Version, Write};

use crate::faults::{Fault, Faults};
use crate::kernel::{Kernel, Pid};
use crate::oracle::Oracle;
use crate::runtime::Answer;

/// The nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(Arc<BTreeMap<Arc<str>, Node>>);

impl Tree {
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let from = self.0.range::<str, _>((Bound::Excluded(prefix.as_str()), Bound::Unbounded));
        let below = from.map_while(|(path, _)| path.strip_prefix(prefix.as_str()));
        below.filter(|name| !name.contains('/')).map(str::to_owned).collect()
    }

    fn change(&mut self) -> &mut BTreeMap<Arc<str>, Node> {
        Arc::make_mut(&mut self.0)
    }

    /// All or nothing.
    fn apply(&mut self, writes: &[Write]) -> Result<Vec<Option<Version>>, MetaError> {
        meta::check_writes(writes)?;
        // Shared with whoever holds the former one, so that it is copied before it is changed.
        let before = self.clone();
        let versions = writes.iter().map(|write| self.write(write)).collect::<Result<_, _>>();
        if versions.is_err() {
            *self = before;
        }
        let versions = versions?;
        Ok(versions)
    }

    fn write(&mut self, write: &Write) -> Result<Option<Version>, MetaError> {
        let path = write.path().to_owned();
        let found = self.0.get(path.as_str()).map(|node| node.version);
        let expect = |version: Version| match found {
            None => Err(MetaError::Missing { path: path.clone() }),
            Some(found) if found != version => Err(MetaError::BadVersion { path: path.clone() }),
            Some(_) => Ok(()),
        };
        match write {
            Write::Create { data, .. } => {
                let parent = path.rfind('/').map_or("", |end| &path[..end]);
                if !parent.is_empty() && !self.0.contains_key(parent) {
                    return Err(MetaError::Missing { path: parent.to_owned() });
                }
                if found.is_some() {
                    return Err(MetaError::Exists { path });
                }
                self.change().insert(path.into(), Node { data: data.clone(), version: Version(0) });
                Ok(Some(Version(0)))
            }
            Write::Set { data, version, .. } => {
                expect(*version)?;
                let version = Version(version.0 + 1);
                self.change().insert(path.into(), Node { data: data.clone(), version });
                Ok(Some(version))
            }
            Write::Delete { version, .. } => {
                match (version, found) {
                    (Some(version), _) => expect(*version)?,
                    (None, None) => return Err(MetaError::Missing { path }),
                    (None, Some(_)) => {}
                }
                if !self.children(&path).is_empty() {
                    return Err(MetaError::NotEmpty { path });
                }
                self.change().remove(path.as_str());
                Ok(None)
            }
            Write::Check { version, .. } => expect(*version).map(|()| None),
        }
    }
}

/// The ensemble.
#[derive(Clone)]
pub(crate) struct ZooKeeper {
    kernel: Kernel,
    faults: Faults,
    oracle: Oracle,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    tree: Tree,
    /// Until when it is away, for all or for one.
    away: BTreeMap<Option<Pid>, Duration>,
}

impl ZooKeeper {
    pub(crate) fn new(kernel: Kernel, faults: Faults, oracle: Oracle) -> Self {
        Self { kernel, faults, oracle, inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    pub(crate) fn tree(&self) -> Tree {
        self.inner().tree.clone()
    }

    /// For a process; `None` for an observer to whom nothing happens.
    pub(crate) fn client(&self, pid: Pid) -> Client {
        Client { zookeeper: self.clone(), pid, last: Arc::default() }
    }

    /// Cannot be reached for a while, by one process or by all.
    pub(crate) fn be_away(&self, from: Option<Pid>, time: Duration) {
        self.faults.count(Fault::StoreAway);
        let until = self.kernel.now() + time;
        self.inner().away.insert(from, until);
    }

    fn is_away(&self, from: Pid) -> bool {
        let now = self.kernel.now();
        let inner = self.inner();
        [None, Some(from)].iter().any(|whom| inner.away.get(whom).is_some_and(|until| now < *until))
    }

    /// What a session that begins or ends does to its ephemeral node.
    pub(crate) fn set_presence(&self, path: &str, pid: Option<Pid>) {
        let mut inner = self.inner();
        match pid {
            Some(pid) => {
                let node = Node { data: pid.to_string().into(), version: Version(0) };
                inner.tree.change().insert(path.into(), node);
            }
            None => {
                inner.tree.change().remove(path);
            }
        }
    }

    fn apply(&self, writes: &[Write]) -> Result<Vec<Option<Version>>, MetaError> {
        let mut inner = self.inner();
        let result = inner.tree.apply(writes);
        self.kernel.note(format_args!("zookeeper: {} -> {}", Shown(writes), shown(&result)));
        for write in writes {
            if let Write::Set { path, data, .. } = write
                && path.ends_with("/head")
            {
                self.kernel.detail(|| head(data));
            }
        }
        if result.is_ok() {
            self.oracle.wrote(&inner.tree, writes);
        }
        result
    }
}

/// A session with the ensemble.
#[derive(Clone)]
pub(crate) struct Client {
    zookeeper: ZooKeeper,
    pid: Pid,
    /// When the last request arrives.
    last: Arc<Mutex<Duration>>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Answered,
    Unheard,
    Unanswered,
    Late,
}

fn lost() -> MetaError {
    MetaError::AnswerLost { reason: "the connection broke".to_owned() }
}

impl Client {
    fn fate(&self, writes: bool) -> Fate {
        let faults = &self.zookeeper.faults;
        if faults.strikes(Fault::StoreRequestLost) {
            Fate::Unheard
        } else if faults.strikes(Fault::StoreAnswerLost) {
            Fate::Unanswered
        } else if writes && faults.strikes(Fault::StoreLateWrite) {
            Fate::Late
        } else {
            Fate::Answered
        }
    }

    /// Sent when it is first polled.
    fn request<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnOnce(&ZooKeeper) -> Result<T, MetaError> + Send + 'static,
    ) -> impl Future<Output = Result<T, MetaError>> + Send {
        let mut unsent = Some((self.clone(), work));
        let answer = Answer::default();
        std::future::poll_fn(move |context| {
            if let Some((client, work)) = unsent.take() {
                client.send(writes, work, answer.clone());
            }
            answer.poll(context)
        })
    }

    fn send<T: Send + 'static>(
        self,
        writes: bool,
        work: impl FnOnce(&ZooKeeper) -> Result<T, MetaError> + Send + 'static,
        answer: Answer<Result<T, MetaError>>,
    ) {
        let ZooKeeper { kernel, faults, .. } = self.zookeeper.clone();
        if self.zookeeper.is_away(self.pid) {
            let away = MetaError::Away { reason: "no server answers".to_owned() };
            kernel.after(faults.latency(), move || answer.give(Err(away)));
            return;
        }
        faults.point(self.pid);
        let fate = self.fate(writes);
        let arrives = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = (*last + Duration::from_micros(1)).max(kernel.now() + faults.latency());
            *last - kernel.now()
        };
        let back = faults.latency();
        match fate {
            Fate::Unheard => kernel.after(arrives + back, move || answer.give(Err(lost()))),
            Fate::Late => {
                kernel.after(arrives + back, move || answer.give(Err(lost())));
                let late = kernel.between(Duration::from_millis(20), Duration::from_secs(3));
                kernel.after(arrives + late, move || drop(work(&self.zookeeper)));
            }
            Fate::Unanswered | Fate::Answered => {
                let (network, client) = (kernel.clone(), self);
                kernel.after(arrives, move || {
                    let zookeeper = &client.zookeeper;
                    if zookeeper.is_away(client.pid) {
                        answer.give(Err(lost()));
                        return;
                    }
                    let result = work(zookeeper);
                    faults.point(client.pid);
                    network.after(back, move || {
                        let heard = fate == Fate::Answered && !client.zookeeper.is_away(client.pid);
                        answer.give(if heard { result } else { Err(lost()) });
                    });
                });
            }
        }
    }
}

#[async_trait]
impl MetaStore for Client {
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        let path = path.to_owned();
        self.request(false, move |zookeeper| Ok(zookeeper.inner().tree.get(&path).cloned())).await
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        let path = path.to_owned();
        self.request(false, move |zookeeper| Ok(zookeeper.inner().tree.children(&path))).await
    }

    async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
        self.zookeeper.oracle.attempted(&writes);
        self.request(true, move |zookeeper| zookeeper.apply(&writes)).await
    }
}

/// A store that always answers at once: for looking at the end.
pub(crate) struct Still(pub(crate) Tree);

#[async_trait]
impl MetaStore for Still {
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        Ok(self.0.get(path).cloned())
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        Ok(self.0.children(path))
    }

    async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
        Err(MetaError::Denied { path: writes[0].path().to_owned(), reason: "only to be looked at".to_owned() })
    }
}

/// Writes, in short.
struct Shown<'a>(&'a [Write]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, write) in self.0.iter().enumerate() {
            let space = if at > 0 { ", " } else { "" };
            let path = write.path().trim_start_matches("/state/");
            match write {
                Write::Create { .. } => write!(f, "{space}create {path}")?,
                Write::Set { version, .. } => write!(f, "{space}set {path} of version {}", version.0)?,
                Write::Delete { .. } => write!(f, "{space}delete {path}")?,
                Write::Check { version, .. } => write!(f, "{space}check {path} of version {}", version.0)?,
            }
        }
        Ok(())
    }
}

/// What a head says.
fn head(data: &Bytes) -> String {
    sluicegate::checkpoint::head::Head::decode(data).map_or_else(
        |_| String::new(),
        |head| {
            let prepared: Vec<String> = head.prepared.iter().map(|manifest| manifest.id.to_string()).collect();
            format!(
                "generation {}, decider {:?}, committed {}, prepared [{}]",
                head.generation,
                head.decider,
                head.committed.id,
                prepared.join(" ")
            )
        },
    )
}

fn shown<T>(result: &Result<T, MetaError>) -> String {
    result.as_ref().map_or_else(ToString::to_string, |_| "done".to_owned())
}
