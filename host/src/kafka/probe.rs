//! Why no broker can be used, where librdkafka does not say: it tells a wrong port from an outage in one direction only, and
//! has one message for all that may be wrong with a certificate.

use std::fs;

use super::settings::KafkaSettings;
use crate::tls::{Names, Objection, Trust, dial, host, speaks};

const PORT: u16 = 9092;

const NAMES: Names = Names {
    servers: "`bootstrap.servers`",
    authorities: "`ssl.ca.location`",
    identity: "`ssl.certificate.location` and `ssl.key.location`",
};

/// What is wrong with each of the brokers to begin with, and what to do. `None` unless that is known of all.
pub(super) fn ask(settings: &KafkaSettings) -> Option<String> {
    let get = |name| settings.common.get(name).map(String::as_str);
    let encrypts = get("security.protocol").is_some_and(|protocol| protocol.to_ascii_lowercase().ends_with("ssl"));
    let trust = if encrypts { Some(trust(settings)?) } else { None };
    let servers = get("bootstrap.servers")?.split(',').map(|server| address(server.trim()));
    let findings: Option<Vec<String>> = servers
        .map(|server| match &trust {
            None => plain(&server),
            Some(trust) => encrypted(&server, trust),
        })
        .collect();
    findings.map(|findings| findings.join("; "))
}

fn plain(server: &str) -> Option<String> {
    speaks(server).then(|| {
        format!("{server} wants TLS at this port: set `security.protocol` in [kafka] to \"ssl\", or to \"sasl_ssl\" with a user and a password")
    })
}

fn encrypted(server: &str, trust: &Trust) -> Option<String> {
    let objection = match dial(server) {
        Ok(mut tcp) => trust.shake(host(server), &mut tcp, b"").err()?,
        Err(error) => Objection::Io(error),
    };
    objection.cure(NAMES).map(|(what, help)| format!("{server} {what}: {help}"))
}

/// The authorities that are named; not those of the machine, which librdkafka finds by itself.
fn trust(settings: &KafkaSettings) -> Option<Trust> {
    let authorities = match (settings.common.get("ssl.ca.pem"), settings.common.get("ssl.ca.location")) {
        (Some(pem), _) => pem.clone(),
        (None, path) => fs::read_to_string(path?).ok()?,
    };
    Trust::new(&authorities, None).ok()
}

fn address(server: &str) -> String {
    let server = server.rsplit_once("://").map_or(server, |(_, address)| address);
    let has_port = server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { server.to_owned() } else { format!("{server}:{PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_written_in_several_ways() {
        for (written, address_) in [("a", "a:9092"), ("a:1", "a:1"), ("SSL://a:1", "a:1"), ("[::1]:2", "[::1]:2")] {
            assert_eq!(address(written), address_);
        }
    }
}
