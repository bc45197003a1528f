//! Why no server can be used. The client does not say, so each server is asked once over a connection of its own.
//!
//! Only after a connection has failed, for a bounded time, and nothing but `srvr`, the question after a server's health.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use super::tls::Tls;
use crate::tls::{Names, Objection, dial, host, speaks};

/// A four-letter word that servers answer, if only by saying that they do not execute it; and a fifth letter, before which a
/// server that expects TLS does not see that this is none.
const QUESTION: &[u8] = b"srvr\n";

const NAMES: Names = Names {
    servers: "`connect`",
    authorities: "`ca` of [zookeeper.tls]",
    identity: "`certificate` and `key` in [zookeeper.tls]",
};

/// What is wrong with a server.
#[derive(Debug)]
pub(super) struct Finding {
    what: String,
    /// Empty where only waiting helps.
    help: String,
}

impl Finding {
    /// It will be so until somebody does something about it.
    fn refusal(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into() }
    }

    fn outage(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: String::new() }
    }
}

/// What is wrong with all servers together.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// At least one may be usable soon, as far as can be seen.
    Wait(String),
    /// None is usable before somebody does something about it.
    Refuse(String),
}

/// Asks all servers at once.
pub(super) async fn ask(hosts: &str, tls: Option<&Arc<Tls>>) -> Verdict {
    let asked: Vec<_> = hosts
        .split(',')
        .map(|host| {
            let (host, tls) = (host.to_owned(), tls.cloned());
            tokio::task::spawn_blocking(move || (question(&host, tls.as_deref()), host))
        })
        .collect();
    let mut findings = Vec::with_capacity(asked.len());
    for answer in asked {
        if let Ok((finding, host)) = answer.await {
            findings.push((host, finding));
        }
    }
    verdict(findings)
}

fn verdict(findings: Vec<(String, Option<Finding>)>) -> Verdict {
    let hopeless = findings.iter().all(|(_, found)| found.as_ref().is_some_and(|finding| !finding.help.is_empty()));
    let mut texts: Vec<String> = Vec::new();
    for (host, finding) in findings {
        texts.push(match finding {
            None => format!("{host} answers, but gives no session yet"),
            Some(Finding { what, help }) if help.is_empty() => format!("{host} {what}"),
            Some(Finding { what, help }) => format!("{host} {what}: {help}"),
        });
    }
    let text = texts.join("; ");
    if hopeless { Verdict::Refuse(text) } else { Verdict::Wait(text) }
}

/// `None` when the server answers as it should.
fn question(server: &str, tls: Option<&Tls>) -> Option<Finding> {
    let mut tcp = match dial(server) {
        Ok(tcp) => tcp,
        Err(error) => return Some(Finding::outage(format!("cannot be reached ({error})"))),
    };
    match tls {
        None => plain(server, &mut tcp),
        Some(tls) => encrypted(server, tls, &mut tcp),
    }
}

fn encrypted(server: &str, tls: &Tls, tcp: &mut TcpStream) -> Option<Finding> {
    let objection = tls.trust.shake(host(server), tcp, QUESTION).err()?;
    if let Some((what, help)) = objection.cure(NAMES) {
        return Some(Finding::refusal(what, help));
    }
    Some(match objection {
        Objection::NotTls if dial(server).is_ok_and(|mut tcp| answers(&mut tcp)) => Finding::refusal(
            "does not speak TLS at this port",
            "write the server's `secureClientPort` into `connect`, or leave [zookeeper.tls] out",
        ),
        Objection::Io(error) => Finding::outage(format!("does not answer ({error})")),
        Objection::Other(text) => Finding::outage(format!("cannot be spoken to by TLS ({text})")),
        _ => Finding::outage("closed the connection in the middle of the handshake; does it speak TLS at this port"),
    })
}

fn plain(server: &str, tcp: &mut TcpStream) -> Option<Finding> {
    if answers(tcp) {
        return None;
    }
    Some(match speaks(server) {
        true => Finding::refusal(
            "wants TLS at this port",
            "describe it in [zookeeper.tls], or write the server's `clientPort` into `connect`",
        ),
        false => Finding::outage("does not answer; is that the port of a ZooKeeper"),
    })
}

fn answers(tcp: &mut TcpStream) -> bool {
    tcp.write_all(QUESTION).and_then(|()| tcp.read(&mut [0; 1])).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(findings: Vec<Option<Finding>>) -> Verdict {
        verdict(findings.into_iter().map(|finding| ("a:1".to_owned(), finding)).collect())
    }

    #[test]
    fn a_node_gives_up_only_when_no_server_can_become_usable_by_itself() {
        let refusal = || Some(Finding::refusal("wants TLS", "write it"));
        let outage = || Some(Finding::outage("is away"));
        assert_eq!(of(vec![refusal()]), Verdict::Refuse("a:1 wants TLS: write it".into()));
        assert!(matches!(of(vec![refusal(), outage()]), Verdict::Wait(_)));
        assert!(matches!(of(vec![refusal(), None]), Verdict::Wait(_)));
        assert_eq!(of(vec![outage()]), Verdict::Wait("a:1 is away".into()));
    }
}
