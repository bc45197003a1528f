//! A TLS handshake of one's own, to find out why that of a library fails: none of them says so in words that help.
//!
//! No connection that carries anything is made here. Everything blocks, for a bounded time. In a program without the feature
//! `tls` there is no [`Trust`].

#[cfg(not(feature = "tls"))]
#[path = "tls/absent.rs"]
mod trust;
#[cfg(feature = "tls")]
mod trust;

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

pub use trust::Trust;

/// How long each step may take.
const STEP: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug)]
pub enum Objection {
    /// The other side closed the connection, or answered something that is not TLS: it may not speak it.
    NotTls,
    /// Nothing came in time, or the connection broke.
    Io(io::Error),
    /// No trusted authority has signed the server's certificate.
    Untrusted,
    /// The server's certificate is over. When it ended.
    Expired(String),
    /// The server's certificate is for others. For whom.
    OtherName(String),
    /// The server's certificate cannot be used for another reason.
    Unusable(String),
    /// The server does not accept this side: its certificate, most of the time.
    Rejected(String),
    /// Anything else.
    Other(String),
}

/// The settings that a user would change.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Where the servers stand.
    pub servers: &'static str,
    /// Where trusted authorities stand.
    pub authorities: &'static str,
    /// Where certificate and key of this side stand.
    pub identity: &'static str,
}

impl Objection {
    /// What is wrong with a server, and what to do about it. `None` where it may become right by itself.
    #[must_use]
    pub fn cure(&self, names: Names) -> Option<(String, String)> {
        let Names { servers, authorities, identity } = names;
        Some(match self {
            Self::Untrusted => (
                format!("shows a certificate that no authority in {authorities} has signed"),
                "put the certificate of the authority that signed it there".to_owned(),
            ),
            Self::Expired(when) => (
                format!("shows a certificate that has expired ({when})"),
                "renew the server's certificate, or set this machine's clock".to_owned(),
            ),
            Self::OtherName(whose) => (
                format!("shows a certificate for another name ({whose})"),
                format!("write a name that stands in it into {servers}, or have this name put into the certificate"),
            ),
            Self::Unusable(why) => {
                (format!("shows a certificate that cannot be used ({why})"), "replace it on the server".to_owned())
            }
            Self::Rejected(how) => (
                format!("does not accept this side of the connection ({how})"),
                format!(
                    "set {identity} to a certificate that an authority in the server's trust store has signed, and its \
                     key; the server's log says more"
                ),
            ),
            Self::NotTls | Self::Io(_) | Self::Other(_) => return None,
        })
    }
}

/// A connection to `host:port`.
///
/// # Errors
/// No address, or nobody who answers there.
pub fn dial(server: &str) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP) {
            Ok(tcp) => {
                tcp.set_read_timeout(Some(STEP))?;
                tcp.set_write_timeout(Some(STEP))?;
                return Ok(tcp);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A server's name without the port.
#[must_use]
pub fn host(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Whether a server answers a greeting of TLS with one. False in a program without TLS, which cannot greet.
#[must_use]
pub fn speaks(server: &str) -> bool {
    let Some(nobody) = Trust::nobody() else { return false };
    let Ok(mut tcp) = dial(server) else { return false };
    !matches!(
        nobody.shake(host(server), &mut tcp, b""),
        Err(Objection::NotTls | Objection::Io(_) | Objection::Other(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_ports() {
        for (server, name) in [("a:1", "a"), ("127.0.0.1:2181", "127.0.0.1"), ("[::1]:2181", "::1"), ("a", "a")] {
            assert_eq!(host(server), name);
        }
    }
}
