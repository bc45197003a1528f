//! A TCP proxy that fails on command: holds what it gets, swallows answers, cuts connections.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to bytes in one direction.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Forward,
    Hold,
    Swallow,
}

#[derive(Clone, Copy)]
struct Mode {
    requests: Fate,
    answers: Fate,
    /// Connections of earlier generations are closed.
    generation: u64,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    held: watch::Sender<usize>,
}

impl Proxy {
    pub(crate) async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mode = watch::Sender::new(Mode { requests: Fate::Forward, answers: Fate::Forward, generation: 0 });
        let held = watch::Sender::new(0);
        let target = target.to_owned();
        let (modes, counter) = (mode.clone(), held.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let generation = modes.borrow().generation;
                let watch = || Following { modes: modes.subscribe(), generation, held: counter.clone() };
                tokio::spawn(watch().copy(client_read, server_write, |mode| mode.requests));
                tokio::spawn(watch().copy(server_read, client_write, |mode| mode.answers));
            }
        });
        Ok(Self { address, mode, held })
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn forward(&self) {
        self.both(Fate::Forward, Fate::Forward);
    }

    /// Nothing passes in either direction.
    pub(crate) fn hold(&self) {
        self.both(Fate::Hold, Fate::Hold);
    }

    /// Requests pass, answers are thrown away.
    pub(crate) fn swallow_answers(&self) {
        self.both(Fate::Forward, Fate::Swallow);
    }

    fn both(&self, requests: Fate, answers: Fate) {
        self.mode.send_modify(|mode| *mode = Mode { requests, answers, ..*mode });
    }

    /// Closes the connections there are. What is held is lost.
    pub(crate) fn cut(&self) {
        self.mode.send_modify(|mode| mode.generation += 1);
    }

    /// Bytes that have been held back.
    pub(crate) fn held(&self) -> watch::Receiver<usize> {
        self.held.subscribe()
    }
}

struct Following {
    modes: watch::Receiver<Mode>,
    generation: u64,
    held: watch::Sender<usize>,
}

impl Following {
    async fn copy(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, fate: fn(&Mode) -> Fate) {
        let mut buffer = vec![0; 1 << 16];
        let mut cut = self.modes.clone();
        let generation = self.generation;
        loop {
            let count = tokio::select! {
                read = from.read(&mut buffer) => read.unwrap_or(0),
                _ = cut.wait_for(|mode| mode.generation > generation) => 0,
            };
            if count == 0 {
                return;
            }
            if fate(&self.modes.borrow()) == Fate::Hold {
                self.held.send_modify(|held| *held += count);
            }
            // One look at the mode decides: what was held before a cut is not forwarded after it.
            let decided = self.modes.wait_for(|mode| mode.generation > generation || fate(mode) != Fate::Hold).await;
            match decided.map(|mode| (mode.generation > generation, fate(&mode))) {
                Ok((false, Fate::Forward)) if to.write_all(&buffer[..count]).await.is_ok() => {}
                Ok((false, Fate::Swallow)) => {}
                _ => return,
            }
        }
    }
}
