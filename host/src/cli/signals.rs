//! SIGTERM and SIGINT: the first drains, the second ends at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use super::{CommandError, Exit};
use crate::worker::control::Control;

/// Signals this close together are one: coreutils' `timeout`, for one, signals the process and then its group.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// Drains `control` within `deadline` at the first signal.
pub(super) fn drain_on_signal(control: Arc<Control>, deadline: Duration) -> Result<(), CommandError> {
    let listen =
        |kind| signal(kind).map_err(|error| CommandError::Failed(format!("cannot listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match first {
                None => {
                    first = Some(Instant::now());
                    warn!("stopping: committing what was done; a second signal ends at once, without that");
                    control.drain(deadline);
                }
                Some(first) if first.elapsed() < ONE_SIGNAL => {}
                Some(_) => std::process::exit(i32::from(Exit::Failed.code())),
            }
        }
    });
    Ok(())
}
