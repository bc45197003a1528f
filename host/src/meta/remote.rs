//! The local store of a running node, reached over HTTP: what a command uses while a node has the store open.
//!
//! Only [`MetaStore`]: there is no session of its own, so ephemeral nodes are refused and changes are not told. The other
//! end is [`crate::http::meta_api`]; [`wire`] is what they say to one another.

pub mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::wire::{Answer, WireWrite};
use super::local::{IN_USE_POLL, LocalError, LocalStore, NodeFile};
use super::{MetaError, MetaStore, Node, Version, Write, check_writes};

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long [`open_local`] waits for a process that has the store open without saying where it is: a node that starts, or
/// another command.
const IN_USE_WAIT: Duration = Duration::from_secs(5);

/// Opens the local store in `dir`, through the running node if one has it open.
///
/// # Errors
/// Those of [`LocalStore::open`]; [`LocalError::InUse`] when whoever has it open does not let go of it within a few seconds
/// and is no node that answers.
pub async fn open_local(dir: &Path) -> Result<Arc<dyn MetaStore>, LocalError> {
    let deadline = Instant::now() + IN_USE_WAIT;
    loop {
        let in_use = match LocalStore::open(dir).await {
            Ok(store) => return Ok(Arc::new(store)),
            Err(in_use @ LocalError::InUse { .. }) => in_use,
            Err(error) => return Err(error),
        };
        if let LocalError::InUse { holder: Some(node), .. } = &in_use {
            let store = RemoteStore::new(node);
            // A stale file names a node that is gone; its port may even belong to somebody else by now.
            match store.get("/").await {
                Ok(_) => return Ok(Arc::new(store)),
                Err(error) => tracing::debug!(%error, ?node, "the node that has the store open does not answer"),
            }
        }
        if Instant::now() >= deadline {
            return Err(in_use);
        }
        tokio::time::sleep(IN_USE_POLL).await;
    }
}

/// The store of a running node.
pub struct RemoteStore {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

impl RemoteStore {
    /// For the node that `node.json` describes. Nothing is sent yet.
    #[must_use]
    pub fn new(node: &NodeFile) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Self {
            agent: config.into(),
            base: format!("http://{}{}", node.address, wire::PREFIX),
            authorization: format!("Bearer {}", node.token),
        }
    }

    async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        call: &'static str,
        body: &impl Serialize,
    ) -> Result<T, MetaError> {
        let body = postcard::to_stdvec(body).map_err(|error| garbled(&error.to_string()))?;
        let url = format!("{}/{call}", self.base);
        let (agent, authorization) = (self.agent.clone(), self.authorization.clone());
        let sent = move || -> Result<Answer<T>, MetaError> {
            let request = agent.post(&url).header("authorization", &authorization);
            let mut response = request.send(&body[..]).map_err(|error| of_transport(&error))?;
            if response.status() != 200 {
                let reason = format!("the node answered {} to {call}", response.status());
                return Err(MetaError::Denied { path: "/".into(), reason });
            }
            let limit = u64::try_from(wire::ANSWER_BYTES_MAX).unwrap_or(u64::MAX);
            let read = response.body_mut().with_config().limit(limit).read_to_vec();
            let answer = read.map_err(|error| MetaError::AnswerLost { reason: error.to_string() })?;
            postcard::from_bytes(&answer).map_err(|error| garbled(&error.to_string()))
        };
        let lost = |stopped: tokio::task::JoinError| Err(MetaError::AnswerLost { reason: stopped.to_string() });
        tokio::task::spawn_blocking(sent).await.unwrap_or_else(lost)?
    }

    async fn read<T: DeserializeOwned + Send + 'static>(&self, call: &'static str, path: &str) -> Result<T, MetaError> {
        self.ask(call, &path).await.map_err(|error| match error {
            MetaError::AnswerLost { reason } => MetaError::Away { reason },
            error => error,
        })
    }
}

/// An answer that cannot be read, from another version of the program: a write may have happened.
fn garbled(reason: &str) -> MetaError {
    MetaError::AnswerLost { reason: format!("the node and this command do not understand one another: {reason}") }
}

fn of_transport(error: &ureq::Error) -> MetaError {
    let reason = error.to_string();
    let refused = matches!(error, ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused);
    let unsent = refused || matches!(error, ureq::Error::ConnectionFailed | ureq::Error::HostNotFound);
    if unsent { MetaError::Away { reason } } else { MetaError::AnswerLost { reason } }
}

#[async_trait]
impl MetaStore for RemoteStore {
    async fn get(&self, path: &str) -> Result<Option<Node>, MetaError> {
        let found: Option<(Vec<u8>, Version)> = self.read(wire::GET, path).await?;
        Ok(found.map(|(data, version)| Node { data: data.into(), version }))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, MetaError> {
        self.read(wire::CHILDREN, path).await
    }

    async fn multi(&self, writes: Vec<Write>) -> Result<Vec<Option<Version>>, MetaError> {
        check_writes(&writes)?;
        let writes: Vec<WireWrite> = writes.into_iter().map(WireWrite::from).collect();
        self.ask(wire::MULTI, &writes).await
    }
}

#[cfg(test)]
mod tests;
