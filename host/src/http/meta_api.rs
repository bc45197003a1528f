//! The store of this node for commands on the same machine: the other end of [`crate::meta::remote`].
//!
//! Every request carries the token from `node.json`, which only the user who runs the node can read. Mount it on an
//! endpoint that listens on loopback.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;

use super::bearer::Bearer;
use crate::meta::remote::wire::{self, Answer, WireWrite};
use crate::meta::{MetaError, MetaStore, Write};

/// Routes under [`wire::PREFIX`] that read and write `store` for whoever shows `token`.
pub fn router(store: Arc<dyn MetaStore>, token: &str) -> Router {
    let routes = Router::new()
        .route(&format!("/{}", wire::GET), post(get))
        .route(&format!("/{}", wire::CHILDREN), post(children))
        .route(&format!("/{}", wire::MULTI), post(multi))
        .with_state(store)
        .layer(DefaultBodyLimit::max(wire::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Bearer::new(token), authorize));
    Router::new().nest(wire::PREFIX, routes)
}

async fn authorize(State(bearer): State<Bearer>, request: Request, next: Next) -> Response {
    match bearer.is_shown_by(request.headers()) {
        true => next.run(request).await,
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn get(State(store): State<Arc<dyn MetaStore>>, body: Bytes) -> Response {
    let Ok(path) = postcard::from_bytes::<String>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let found = store.get(&path).await;
    encode(&found.map(|node| node.map(|node| (Vec::from(node.data), node.version))))
}

async fn children(State(store): State<Arc<dyn MetaStore>>, body: Bytes) -> Response {
    let Ok(path) = postcard::from_bytes::<String>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    encode(&store.children(&path).await)
}

async fn multi(State(store): State<Arc<dyn MetaStore>>, body: Bytes) -> Response {
    let Ok(writes) = postcard::from_bytes::<Vec<WireWrite>>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let writes: Vec<Write> = writes.into_iter().map(Write::from).collect();
    let ephemeral = writes.iter().find(|write| matches!(write, Write::Create { ephemeral: true, .. }));
    if let Some(write) = ephemeral {
        let reason = "an ephemeral node needs a session, and a command has none".into();
        return encode(&Answer::<()>::Err(MetaError::Failed { path: write.path().into(), reason }));
    }
    encode(&store.multi(writes).await)
}

fn encode<T: Serialize>(answer: &Answer<T>) -> Response {
    match postcard::to_stdvec(answer) {
        Ok(bytes) => bytes.into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode an answer of the metadata endpoint");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
