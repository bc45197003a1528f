//! Opens the metadata store that a cluster's configuration names.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tracing::warn;

use crate::config::{self, Cluster};
use crate::meta::local::{LocalError, LocalStore};
use crate::meta::remote::open_local;
use crate::meta::zookeeper::{AWAY_WAIT_DEFAULT, ZooKeeper, ZooKeeperAuth, ZooKeeperOptions, ZooKeeperTls};
use crate::meta::{Coordination, MetaError, MetaStore};
use crate::worker::control::Control;

/// How long a node waits for a command that has the local store open.
const COMMAND_WAIT: Duration = Duration::from_secs(5);

/// Why there is no store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// ZooKeeper.
    #[error("zookeeper at {connect}: {source}")]
    ZooKeeper {
        /// Where.
        connect: String,
        /// What failed.
        source: MetaError,
    },
    /// The local store.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// Opens the store for a node. Waits for a ZooKeeper that is away until `control` drains; `None` then.
///
/// # Errors
/// It cannot be used.
pub async fn open_for_node(cluster: &Cluster, control: &Control) -> Result<Option<Arc<dyn Coordination>>, StoreError> {
    let Some(zookeeper) = &cluster.zookeeper else {
        return Ok(Some(Arc::new(LocalStore::open_within(&cluster.local_path, COMMAND_WAIT).await?)));
    };
    while !control.is_draining() {
        match ZooKeeper::connect(options(zookeeper)).await {
            Ok(store) => return Ok(Some(Arc::new(store))),
            Err(error) if error.is_outage() => {
                warn!("waiting: zookeeper at {} cannot be reached: {error}", zookeeper.connect)
            }
            Err(source) => return Err(StoreError::ZooKeeper { connect: zookeeper.connect.clone(), source }),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(None)
}

/// Opens the store for a command: a local one that a running node has open is reached through the node.
///
/// # Errors
/// It cannot be used.
pub async fn open_for_commands(cluster: &Cluster) -> Result<Arc<dyn MetaStore>, StoreError> {
    let Some(zookeeper) = &cluster.zookeeper else {
        return Ok(open_local(&cluster.local_path).await?);
    };
    match ZooKeeper::connect(options(zookeeper)).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(source) => Err(StoreError::ZooKeeper { connect: zookeeper.connect.clone(), source }),
    }
}

pub(super) fn options(zookeeper: &config::ZooKeeper) -> ZooKeeperOptions {
    let auth = zookeeper.auth.as_ref().map(|auth| ZooKeeperAuth {
        scheme: "digest".to_owned(),
        secret: format!("{}:{}", auth.user, auth.password.expose()),
    });
    let tls = zookeeper.tls.as_ref().map(|tls| ZooKeeperTls {
        ca: tls.ca.clone(),
        identity: tls.identity.as_ref().map(|it| (it.certificate.clone(), it.key.expose().to_owned())),
    });
    ZooKeeperOptions {
        connect: zookeeper.connect.clone(),
        namespace: zookeeper.namespace.clone(),
        session_timeout: zookeeper.session_timeout,
        away_wait: AWAY_WAIT_DEFAULT,
        auth,
        tls,
    }
}
