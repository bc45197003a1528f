//! Who wants to know of changes in a local store.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::tree::split;
use crate::meta::Write;

/// Channels by path. A channel without a receiver goes away when it is notified or when somebody asks for one.
#[derive(Default)]
pub(super) struct Watches {
    data: Mutex<HashMap<String, watch::Sender<()>>>,
    children: Mutex<HashMap<String, watch::Sender<()>>>,
}

impl Watches {
    /// Changes of a node's contents, and of whether it exists, from now on.
    pub(super) fn data(&self, path: &str) -> watch::Receiver<()> {
        subscribe(&self.data, path)
    }

    /// Changes of the list of a node's children, from now on.
    pub(super) fn children(&self, path: &str) -> watch::Receiver<()> {
        subscribe(&self.children, path)
    }

    /// Tells of writes that have been made.
    pub(super) fn notify(&self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Check { .. } => {}
                Write::Set { path, .. } => notify(&self.data, path),
                Write::Create { path, .. } | Write::Delete { path, .. } => {
                    notify(&self.data, path);
                    // Whether the node itself is there matters to whoever lists it, too.
                    notify(&self.children, path);
                    if let Ok((parent, _)) = split(path) {
                        notify(&self.children, parent);
                    }
                }
            }
        }
    }
}

type Channels = Mutex<HashMap<String, watch::Sender<()>>>;

fn lock(channels: &Channels) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
    channels.lock().unwrap_or_else(PoisonError::into_inner)
}

fn subscribe(channels: &Channels, path: &str) -> watch::Receiver<()> {
    let mut channels = lock(channels);
    channels.retain(|_, sender| !sender.is_closed());
    channels.entry(path.to_owned()).or_default().subscribe()
}

fn notify(channels: &Channels, path: &str) {
    if let Some(sender) = lock(channels).remove(path) {
        sender.send_replace(());
    }
}
