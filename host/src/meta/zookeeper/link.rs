//! The connection of this process: one client at a time, replaced when it has given up.
//!
//! A client ends for good when a server says that its session has expired, and also when it has found no server for 7/5 of
//! the session time-out: then the session may still live on the servers (they keep it when they were down themselves). So
//! the next client asks for the same session first; only a server's no makes a new one, and only then
//! [`Session::number`] goes up.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use zookeeper_client::{Client, Connector, Error, OneshotWatcher, SessionInfo, SessionState as ClientState};

use super::probe::Verdict;
use super::tls::Tls;
use super::{ZooKeeperOptions, error, probe};
use crate::meta::{MetaError, Session, SessionState};
use crate::tls::{Trust, host};

/// Waits between attempts to connect, doubled from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long the first connection is tried for, if the session time-out is not shorter: whoever can wait tries again.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long closing waits for the server to hear of it; without that it ends the session at its time-out.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Link {
    shared: Arc<Shared>,
    away_wait: Duration,
}

struct Shared {
    /// The client to use, as long as it has not given up.
    client: Mutex<Option<Client>>,
    session: watch::Sender<Session>,
}

/// How to make a client.
struct Dialer {
    hosts: String,
    connector: Box<dyn Fn() -> Connector + Send + Sync>,
    tls: Option<Arc<Tls>>,
    chroot: String,
}

impl Dialer {
    fn new(hosts: &str, options: &ZooKeeperOptions) -> Result<Self, MetaError> {
        let unusable = |reason| MetaError::Unusable { reason };
        let tls = options.tls.as_ref().map(|tls| Tls::new(tls).map(Arc::new)).transpose().map_err(unusable)?;
        if let Some(server) = hosts.split(',').find(|server| tls.is_some() && !Trust::takes(host(server))) {
            return Err(unusable(format!("{server} has a name that no certificate can be for; write another one")));
        }
        let (timeout, auth) = (options.session_timeout, options.auth.clone());
        let connector = move || {
            // Every server is tried once: repeating is done here, with a limit on the wait between.
            let connector = Client::connector().with_session_timeout(timeout).with_fail_eagerly();
            match &auth {
                Some(auth) => connector.with_auth(&auth.scheme, auth.secret.as_bytes()),
                None => connector,
            }
        };
        Ok(Self { hosts: hosts.into(), connector: Box::new(connector), tls, chroot: "/".into() })
    }

    /// Why there is no session.
    async fn ask(&self) -> Verdict {
        probe::ask(&self.hosts, self.tls.as_ref()).await
    }

    /// A client that does not know what its predecessor has seen waits until its server is as far as the leader: or it might
    /// read less than this process has written.
    async fn redial(&self, session: Option<SessionInfo>) -> Result<Client, Error> {
        let client = self.dial(session).await?;
        client.sync("/").await?;
        Ok(client)
    }

    async fn dial(&self, session: Option<SessionInfo>) -> Result<Client, Error> {
        let connector = (self.connector)();
        let connector = match session {
            Some(session) => connector.with_session(session),
            None => connector,
        };
        let client = match &self.tls {
            Some(tls) => tls.connect(connector, &self.hosts).await?,
            None => connector.connect(&self.hosts).await?,
        };
        client.chroot(self.chroot.clone()).map_err(|_| Error::BadArguments(&"chroot"))
    }
}

impl Link {
    /// Connects within seconds and enters the namespace.
    pub(super) async fn connect<Entered>(
        hosts: &str,
        options: &ZooKeeperOptions,
        enter: impl FnOnce(Client) -> Entered,
    ) -> Result<Self, MetaError>
    where
        Entered: Future<Output = Result<Client, MetaError>>,
    {
        let mut dialer = Dialer::new(hosts, options)?;
        let deadline = Instant::now() + options.session_timeout.min(CONNECT_WAIT);
        let mut wait = BACK_OFF.0;
        let client = loop {
            let failure = match dialer.dial(None).await {
                Ok(client) => break client,
                Err(error @ (Error::AuthFailed | Error::BadArguments(_))) => return Err(error::of_read(hosts, &error)),
                Err(failure) => failure,
            };
            tracing::debug!(%failure, "no session");
            let verdict = dialer.ask().await;
            match verdict {
                Verdict::Refuse(reason) => return Err(MetaError::Unusable { reason }),
                Verdict::Wait(reason) if Instant::now() + wait >= deadline => return Err(MetaError::Away { reason }),
                Verdict::Wait(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACK_OFF.1);
        };
        let client = enter(client).await?;
        dialer.chroot = client.path().to_owned();

        let session = Session { number: 1, state: SessionState::Connected };
        let shared =
            Arc::new(Shared { client: Mutex::new(Some(client.clone())), session: watch::Sender::new(session) });
        tokio::spawn(keep(shared.clone(), dialer, client));
        Ok(Self { shared, away_wait: options.away_wait })
    }

    pub(super) fn session(&self) -> watch::Receiver<Session> {
        self.shared.session.subscribe()
    }

    /// The client, once it is connected. Waits a bounded time for that; `path` is for the error.
    pub(super) async fn client(&self, path: &str) -> Result<Client, MetaError> {
        let closed = || MetaError::Failed { path: path.into(), reason: "the session is closed".into() };
        if let Some(client) = self.shared.connected() {
            return Ok(client);
        }
        let mut session = self.session();
        let connected = async {
            loop {
                let state =
                    session.wait_for(|session| session.state != SessionState::Away).await.map(|session| session.state);
                if !matches!(state, Ok(SessionState::Connected)) {
                    return Err(closed());
                }
                // It may be away again already.
                match self.shared.connected() {
                    Some(client) => return Ok(client),
                    None => tokio::task::yield_now().await,
                }
            }
        };
        let away = |_| MetaError::Away { reason: format!("no connection for {:?}", self.away_wait) };
        tokio::time::timeout(self.away_wait, connected).await.map_err(away)?
    }

    pub(super) async fn close(&self) {
        let client = self.shared.close();
        let Some(client) = client else { return };
        let mut states = client.state_watcher();
        // The session is closed when the last clone of the client is gone; requests in flight hold one each.
        drop(client);
        let closed = async { while !states.changed().await.is_terminated() {} };
        if tokio::time::timeout(CLOSE_WAIT, closed).await.is_err() {
            tracing::debug!("no server confirmed the end of the session; it ends at its time-out");
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("session", &*self.shared.session.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    fn connected(&self) -> Option<Client> {
        let state = self.session.borrow().state;
        if state == SessionState::Connected {
            self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
        } else {
            None
        }
    }

    fn replace(&self, client: Option<Client>) -> Option<Client> {
        std::mem::replace(&mut *self.client.lock().unwrap_or_else(PoisonError::into_inner), client)
    }

    /// Closed is for good.
    fn publish(&self, state: SessionState, new: bool) {
        self.session.send_if_modified(|session| {
            let changed = session.state != SessionState::Closed && (session.state != state || new);
            if changed {
                session.state = state;
                session.number += u64::from(new);
            }
            changed
        });
    }

    fn close(&self) -> Option<Client> {
        self.publish(SessionState::Closed, false);
        self.replace(None)
    }

    fn is_closed(&self) -> bool {
        self.session.borrow().state == SessionState::Closed
    }
}

/// Follows the client's state, and replaces the client when it has given up, until the link is closed.
async fn keep(shared: Arc<Shared>, dialer: Dialer, mut client: Client) {
    loop {
        let last = client.session().clone();
        if !follow(&shared, client).await {
            return;
        }
        shared.publish(SessionState::Away, false);
        shared.replace(None);
        let Some((replacement, new)) = redial(&shared, &dialer, last).await else { return };
        client = replacement;
        shared.replace(Some(client.clone()));
        shared.publish(SessionState::Connected, new);
        if shared.is_closed() {
            shared.replace(None);
            return;
        }
    }
}

/// Publishes the client's state until it has given up (true), or until nothing can be done any more (false).
async fn follow(shared: &Shared, client: Client) -> bool {
    let mut states = client.state_watcher();
    let mut state = client.state();
    // Not held any longer: the last clone that goes closes the session.
    drop(client);
    let mut session = shared.session.subscribe();
    loop {
        match state {
            ClientState::SyncConnected => shared.publish(SessionState::Connected, false),
            ClientState::Disconnected | ClientState::ConnectedReadOnly => shared.publish(SessionState::Away, false),
            ClientState::Expired | ClientState::Closed => return !shared.is_closed(),
            ClientState::AuthFailed => {
                tracing::error!(
                    "the metadata store refuses the credentials it has accepted before; restart with good ones"
                );
                shared.close();
                return false;
            }
        }
        tokio::select! {
            changed = states.changed() => state = changed,
            _ = session.wait_for(|session| session.state == SessionState::Closed) => return false,
        }
    }
}

/// Connects, with the last session or, when a server knows it no more, with a new one (true). `None`: closed meanwhile.
async fn redial(shared: &Shared, dialer: &Dialer, last: SessionInfo) -> Option<(Client, bool)> {
    let mut last = Some(last);
    let mut wait = BACK_OFF.0;
    let mut told = false;
    let mut session = shared.session.subscribe();
    loop {
        match dialer.redial(last.clone()).await {
            Ok(client) => {
                let new = last.is_none();
                tracing::info!(session = %client.session_id(), new, "connected to the metadata store again");
                return Some((client, new));
            }
            Err(Error::SessionExpired) if last.take().is_some() => continue,
            Err(Error::AuthFailed) => {
                tracing::error!("the metadata store refuses the credentials; restart with good ones");
                shared.close();
                return None;
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                let (Verdict::Wait(why) | Verdict::Refuse(why)) = dialer.ask().await;
                tracing::warn!(%error, "the metadata store is away, trying again until it is back: {why}");
            }
            Err(error) => tracing::debug!(%error, "the metadata store is still away"),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(BACK_OFF.1),
            _ = session.wait_for(|session| session.state == SessionState::Closed) => return None,
        }
    }
}

/// Turns a watcher that fires once into a receiver that is also notified when events may have been missed.
pub(super) fn changes(watcher: OneshotWatcher, mut session: watch::Receiver<Session>) -> watch::Receiver<()> {
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        let replaced = async {
            while session.changed().await.is_ok() && session.borrow_and_update().state == SessionState::Away {}
        };
        tokio::select! {
            _ = watcher.changed() => {}
            () = replaced => {}
            () = sender.closed() => return,
        }
        sender.send_replace(());
    });
    receiver
}
