//! Encrypted connections: how the client makes them, and what else looks into why one fails.

use zookeeper_client::{Client, Connector, Error};

use super::ZooKeeperTls;
use crate::tls::Trust;

pub(super) struct Tls {
    #[cfg(feature = "tls")]
    options: zookeeper_client::TlsOptions,
    pub(super) trust: Trust,
}

impl Tls {
    /// The error says what is wrong with the files.
    pub(super) fn new(tls: &ZooKeeperTls) -> Result<Self, String> {
        let unusable = |error| format!("[zookeeper.tls]: {error}");
        let identity = tls.identity.as_ref().map(|(certificate, key)| (certificate.as_str(), key.as_str()));
        // Before the client's own options, which say less of what is wrong.
        let trust = Trust::new(&tls.ca, identity).map_err(unusable)?;
        Ok(Self {
            #[cfg(feature = "tls")]
            options: options(tls).map_err(|error| unusable(error.to_string()))?,
            trust,
        })
    }

    #[cfg(feature = "tls")]
    pub(super) async fn connect(&self, connector: Connector, hosts: &str) -> Result<Client, Error> {
        connector.with_tls(self.options.clone()).secure_connect(hosts).await
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn connect(&self, _: Connector, _: &str) -> Result<Client, Error> {
        match self.trust {}
    }
}

#[cfg(feature = "tls")]
fn options(tls: &ZooKeeperTls) -> Result<zookeeper_client::TlsOptions, Error> {
    let options = zookeeper_client::TlsOptions::new().with_pem_ca(&tls.ca)?;
    match &tls.identity {
        Some((certificate, key)) => options.with_pem_identity(certificate, key),
        None => Ok(options),
    }
}
