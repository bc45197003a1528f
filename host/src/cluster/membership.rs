//! Which nodes there are: an ephemeral node each, made at start and again in every new session.
//!
//! Two processes of one name would claim each other's tasks and fence each other's producers, so that the second is refused. A
//! process that was killed leaves its node behind until its session ends; one that is known to be dead, because it ran on this
//! very machine, is taken over from at once.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};
use utoipa::ToSchema;

use super::contents::{decode, encode};
use crate::meta::layout::{self, Segment};
use crate::meta::{Coordination, MetaError, MetaStore, Version, Write};

/// Pause between two looks at a node that is in the way.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a node says of itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeRecord {
    /// Random: tells two processes of one name apart.
    pub instance: String,
    /// Process id.
    pub pid: u32,
    /// When the process started, in clock ticks since the machine did.
    pub started: Option<u64>,
    /// Which machine and which space of process ids: a process id says nothing elsewhere.
    pub machine: Option<String>,
    /// Address of the HTTP endpoint, if it has one.
    pub http: Option<String>,
    /// Version of sluicegate.
    pub version: String,
    /// Processor cores.
    pub cores: usize,
    /// Worker threads that the cluster may have here for each pipeline; `None` for a process that runs a pipeline by itself.
    pub threads: Option<usize>,
}

impl NodeRecord {
    /// This process.
    #[must_use]
    pub fn of_this_process(http: Option<String>, threads: Option<usize>) -> Self {
        let pid = std::process::id();
        Self {
            instance: hex::encode(rand::random::<[u8; 8]>()),
            pid,
            started: start_of(pid),
            machine: this_machine(),
            http,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads,
        }
    }

    /// Whether it runs, or ran, on this machine.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.machine.is_some() && self.machine == this_machine()
    }

    /// Whether this is a process of this machine that has ended.
    fn is_dead(&self) -> bool {
        self.is_here() && self.started.is_some() && start_of(self.pid) != self.started
    }
}

/// The machine's boot and the namespace of process ids, where the system tells.
fn this_machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// When a process of this machine started; `None` where there is none, or the system does not tell.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the start is the 20th field after it, and a zombie has ended.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) { None } else { fields.get(19)?.parse().ok() }
}

/// Why a node cannot join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Its name is taken.
    #[error("a node named `{name}` is running already: process {pid}{}. Stop it, or give this one another name with --node-name", .http.as_ref().map_or(String::new(), |http| format!(" at {http}")))]
    NameTaken {
        /// The name.
        name: String,
        /// The process that has it.
        pid: u32,
        /// Its HTTP endpoint.
        http: Option<String>,
    },
    /// The store.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Membership, kept up until it is dropped or [`Membership::leave`] is called.
pub struct Membership {
    store: Arc<dyn Coordination>,
    path: String,
    instance: String,
    keeper: JoinHandle<()>,
}

impl Membership {
    /// Joins under `name`. A node of that name that does not show life may be waited for, as long as its session can last.
    /// `taken_over` is called when somebody else has the name in a later session.
    ///
    /// # Errors
    /// The name is taken, or the store fails.
    pub async fn join(
        store: Arc<dyn Coordination>,
        name: &Segment,
        record: NodeRecord,
        session_timeout: Duration,
        taken_over: impl FnOnce(JoinError) + Send + 'static,
    ) -> Result<Self, JoinError> {
        let path = layout::node(name);
        let instance = record.instance.clone();
        let entry =
            Entry { store: Arc::clone(&store), path: path.clone(), name: name.clone(), record, session_timeout };
        entry.make().await?;
        let keeper = tokio::spawn(entry.keep(taken_over));
        Ok(Self { store, path, instance, keeper })
    }

    /// Leaves at once instead of when the session ends. Whoever has the name by now keeps it.
    pub async fn leave(self) {
        self.keeper.abort();
        let left = match read(&*self.store, &self.path).await {
            Ok(Some((there, version))) if there.instance == self.instance => {
                remove(&*self.store, &self.path, version).await
            }
            looked => looked.map(drop),
        };
        if let Err(error) = left {
            warn!("the node is not signed off: {error}; it goes with its session");
        }
    }
}

/// A node that is to be there.
struct Entry {
    store: Arc<dyn Coordination>,
    path: String,
    name: Segment,
    record: NodeRecord,
    session_timeout: Duration,
}

impl Entry {
    /// Makes the node again when it has gone, as it does with its session, and says so when it is somebody else's: two processes
    /// that take over from the same dead one at the same moment may both believe that they have the name.
    async fn keep(self, taken_over: impl FnOnce(JoinError) + Send) {
        loop {
            let looked = match self.store.watch(&self.path).await {
                Ok((Some(node), changed)) => {
                    decode::<NodeRecord>(&self.path, &node.data).map(|record| Some((record, changed)))
                }
                Ok((None, _)) => Ok(None),
                Err(error) => Err(error),
            };
            match looked {
                Ok(Some((there, mut changed))) if there.instance == self.record.instance => {
                    if changed.changed().await.is_ok() {
                        continue;
                    }
                }
                Ok(Some((other, _))) => {
                    let name = self.name.to_string();
                    return taken_over(JoinError::NameTaken { name, pid: other.pid, http: other.http });
                }
                Ok(None) => match self.make().await {
                    Ok(()) => {
                        info!("the node is signed on again: its session was replaced");
                        continue;
                    }
                    Err(JoinError::Meta(error)) => warn!("the node is not signed on: {error}"),
                    Err(error) => return taken_over(error),
                },
                Err(error) => debug!("the node cannot be watched: {error}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn make(&self) -> Result<(), JoinError> {
        let Self { path, name, record, .. } = self;
        let store = &*self.store;
        store.ensure(layout::NODES).await?;
        let data = encode(record);
        let until = tokio::time::Instant::now() + self.session_timeout + Duration::from_secs(2);
        let mut said = false;
        loop {
            let create = Write::Create { path: path.to_owned(), data: data.clone(), ephemeral: true };
            match store.multi(vec![create]).await {
                Ok(_) => return Ok(()),
                Err(MetaError::Exists { .. } | MetaError::AnswerLost { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let Some((other, version)) = read(store, path).await? else { continue };
            if other.instance == record.instance {
                // Left over from this process's own session before, which ends on its own; or made a moment ago.
                remove(store, path, version).await?;
            } else if other.is_dead() {
                info!(name = %name, pid = other.pid, "taking over from a process of this machine that has ended");
                remove(store, path, version).await?;
            } else if (other.machine.is_some() && other.machine == record.machine)
                || tokio::time::Instant::now() >= until
            {
                return Err(JoinError::NameTaken { name: name.to_string(), pid: other.pid, http: other.http });
            } else {
                if !std::mem::replace(&mut said, true) {
                    warn!(name = %name, "waiting: a node of this name is signed on elsewhere; if it has ended, its session will end too");
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn read(store: &dyn Coordination, path: &str) -> Result<Option<(NodeRecord, Version)>, MetaError> {
    let Some(node) = store.get(path).await? else { return Ok(None) };
    Ok(Some((decode(path, &node.data)?, node.version)))
}

/// The nodes that are there, by name.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &dyn MetaStore) -> Result<Vec<(String, NodeRecord)>, MetaError> {
    let mut nodes = Vec::new();
    for name in store.children(layout::NODES).await? {
        let Ok(segment) = Segment::new(&name) else { continue };
        let path = layout::node(&segment);
        if let Some(node) = store.get(&path).await? {
            nodes.push((name, decode(&path, &node.data)?));
        }
    }
    Ok(nodes)
}

async fn remove(store: &dyn Coordination, path: &str, version: Version) -> Result<(), MetaError> {
    match store.multi(vec![Write::Delete { path: path.to_owned(), version: Some(version) }]).await {
        Ok(_) | Err(MetaError::Missing { .. } | MetaError::BadVersion { .. } | MetaError::AnswerLost { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::local::LocalStore;

    async fn store() -> (tempfile::TempDir, Arc<LocalStore>) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).await.unwrap();
        (dir, Arc::new(store))
    }

    async fn join(store: &Arc<LocalStore>, record: NodeRecord) -> Result<Membership, JoinError> {
        let name = Segment::new("node-1").unwrap();
        Membership::join(store.clone(), &name, record, Duration::ZERO, |_| {}).await
    }

    #[tokio::test]
    async fn a_second_living_process_of_a_name_is_refused_with_what_to_do() {
        let (_dir, store) = store().await;
        let _first = join(&store, NodeRecord::of_this_process(Some("127.0.0.1:8080".into()), None)).await.unwrap();
        let refused = join(&store, NodeRecord::of_this_process(None, None)).await.err().unwrap().to_string();
        assert!(
            refused.contains("`node-1`") && refused.contains("127.0.0.1:8080") && refused.contains("--node-name"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_process_of_this_machine_that_has_ended_is_taken_over_from() {
        let (_dir, store) = store().await;
        let dead = NodeRecord { started: Some(1), ..NodeRecord::of_this_process(None, None) };
        let _old = join(&store, dead).await.unwrap();
        join(&store, NodeRecord::of_this_process(None, None)).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_elsewhere_is_never_taken_for_dead() {
        let (_dir, store) = store().await;
        let elsewhere =
            NodeRecord { started: Some(1), machine: Some("other".into()), ..NodeRecord::of_this_process(None, None) };
        let _other = join(&store, elsewhere).await.unwrap();
        assert!(matches!(
            join(&store, NodeRecord::of_this_process(None, None)).await,
            Err(JoinError::NameTaken { .. })
        ));
    }

    #[tokio::test]
    async fn who_leaves_makes_room_at_once() {
        let (_dir, store) = store().await;
        join(&store, NodeRecord::of_this_process(None, None)).await.unwrap().leave().await;
        assert_eq!(store.get("/nodes/node-1").await.unwrap(), None);
        join(&store, NodeRecord::of_this_process(None, None)).await.unwrap();
    }

    #[tokio::test]
    async fn who_has_lost_its_name_hears_of_it_and_a_node_that_has_gone_is_made_again() {
        let (_dir, store) = store().await;
        let name = Segment::new("node-1").unwrap();
        let (told, hears) = tokio::sync::oneshot::channel();
        let taken_over = |error: JoinError| told.send(error.to_string()).unwrap();
        let record = NodeRecord::of_this_process(None, None);
        let _first = Membership::join(store.clone(), &name, record.clone(), Duration::ZERO, taken_over).await.unwrap();
        let delete = || vec![Write::Delete { path: "/nodes/node-1".into(), version: None }];
        store.multi(delete()).await.unwrap();
        let again = async {
            while store.get("/nodes/node-1").await.unwrap().is_none() {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
        let other = NodeRecord { instance: "other".into(), pid: 4711, ..record };
        let create = Write::Create {
            path: "/nodes/node-1".into(),
            data: serde_json::to_vec(&other).unwrap().into(),
            ephemeral: true,
        };
        store.multi([delete(), vec![create]].concat()).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(20), hears).await.unwrap().unwrap();
        assert!(heard.contains("process 4711"), "{heard}");
    }

    #[tokio::test]
    async fn who_leaves_late_does_not_sign_off_its_successor() {
        let (_dir, store) = store().await;
        let first = join(&store, NodeRecord::of_this_process(None, None)).await.unwrap();
        // The session of the first has ended unnoticed, and somebody else has come.
        first.keeper.abort();
        store.multi(vec![Write::Delete { path: "/nodes/node-1".into(), version: None }]).await.unwrap();
        let _second = join(&store, NodeRecord::of_this_process(None, None)).await.unwrap();
        first.leave().await;
        assert!(store.get("/nodes/node-1").await.unwrap().is_some());
    }
}
