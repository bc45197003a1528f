//! Who may change something over HTTP: whoever shows the token of the cluster file.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Code, Problem};
use crate::config::Secret;
use crate::http::bearer::Bearer;

/// What has to be shown; without one nothing can be changed over HTTP.
#[derive(Clone)]
pub(super) struct Token(Option<Bearer>);

impl Token {
    pub(super) fn new(token: Option<&Secret>) -> Self {
        Self(token.map(|token| Bearer::new(token.expose())))
    }
}

/// Lets a request through that shows the token.
pub(super) async fn demand(State(token): State<Token>, request: Request, next: Next) -> Response {
    let problem = match &token.0 {
        Some(bearer) if bearer.is_shown_by(request.headers()) => return next.run(request).await,
        Some(_) if request.headers().contains_key(header::AUTHORIZATION) => {
            Problem::new(Code::Unauthorized, "this is not the token of the cluster file")
        }
        Some(_) => Problem::new(
            Code::Unauthorized,
            "whoever changes something shows the token: `Authorization: Bearer ..`, with what `token-env` or `token-file` under [http] of the cluster file name",
        ),
        None => Problem::new(
            Code::NoToken,
            "no token is configured, so that nothing can be changed over HTTP: set `token-env` or `token-file` under [http] of the cluster file, or use the commands",
        ),
    };
    problem.into_response()
}
