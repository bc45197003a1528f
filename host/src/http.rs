//! What every node serves over HTTP: health, metrics, and for commands on the same machine its local store.

pub mod bearer;
pub mod meta_api;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::meta::{Session, SessionState};
use crate::metrics::Metrics;
use crate::worker::control::Control;

/// What the endpoint shows.
#[derive(Clone)]
pub struct View {
    /// The node's metrics.
    pub metrics: Arc<Metrics>,
    /// How far its threads are.
    pub control: Arc<Control>,
    /// How its session with the metadata store is.
    pub session: tokio::sync::watch::Receiver<Session>,
}

/// The endpoint, listening.
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl Endpoint {
    /// Listens; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is not this machine's, or is in use.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the task is aborted. `more` is served beside what every node has.
    pub async fn serve(self, view: View, more: Router) {
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(view)
            .merge(more);
        if let Err(error) = axum::serve(self.listener, router).await {
            tracing::error!("the http endpoint ended: {error}");
        }
    }
}

/// 200 when the node does all it can; 503 and the reason when it waits for something.
async fn ready(State(view): State<View>) -> Response {
    let reason = not_ready(&view.control, view.session.borrow().state);
    match reason {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

fn not_ready(control: &Control, session: SessionState) -> Option<String> {
    if control.is_draining() {
        return Some("draining".into());
    }
    if session != SessionState::Connected {
        return Some("the metadata store cannot be reached".into());
    }
    if control.is_waiting() {
        return Some("waiting for plugins, topics or the consumer group".into());
    }
    let (assigned, running) = control.task_counts();
    (running < assigned).then(|| format!("restoring: {running} of {assigned} tasks run"))
}

async fn metrics(State(view): State<View>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], view.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_node_is_ready_when_all_its_tasks_run() {
        let control = Control::default();
        let reason = |control: &Control| not_ready(control, SessionState::Connected);
        control.awaits();
        assert!(reason(&control).is_some_and(|reason| reason.contains("group")));
        control.has_come();
        control.tasks((0, 0), (4, 1));
        assert!(reason(&control).is_some_and(|reason| reason.contains("1 of 4")));
        control.tasks((4, 1), (4, 4));
        assert_eq!(reason(&control), None);
        assert!(not_ready(&control, SessionState::Away).is_some());
        control.drain(Duration::from_secs(1));
        assert_eq!(reason(&control).as_deref(), Some("draining"));
    }
}
