//! Under which name a node on loopback may be asked: a page in a browser may give its own name this machine's address, and would
//! then be let read what is served here.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Code, Problem};

/// Lets a request through that is asked of an address, or of `localhost`.
pub(super) async fn demand_own(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    match host.is_none_or(is_own) {
        true => next.run(request).await,
        false => {
            let message = "this node listens on its own machine alone: ask 127.0.0.1 or localhost, not another name";
            Problem::new(Code::WrongHost, message).into_response()
        }
    }
}

fn is_own(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_address = host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    is_address || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_others_may_have_are_not_those_of_this_machine() {
        for own in ["127.0.0.1:8080", "127.0.0.1", "localhost:1", "LocalHost", "[::1]:8080", "[::1]"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["evil.example", "evil.example:8080", "localhost.evil.example", ""] {
            assert!(!is_own(other), "{other}");
        }
    }
}
