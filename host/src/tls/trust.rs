//! Handshakes, with rustls.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, Stream};

use super::Objection;

/// Whom this side trusts, and who it is.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Of texts in the PEM format: certificates of authorities, and a certificate with its key.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(authorities: &str, identity: Option<(&str, &str)>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            let certificate = certificate.map_err(|_| "the authorities' file is not in the PEM format")?;
            roots.add(certificate).map_err(|error| format!("an authority's certificate: {error}"))?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|_| "the certificate is not in the PEM format")?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
                let key = key.map_err(|_| "the key is not in the PEM format")?;
                builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
                    error => format!("the certificate and its key: {error}"),
                })?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// Trusts nobody, and is nobody: enough to find out whether a server speaks TLS.
    pub(super) fn nobody() -> Option<Self> {
        Self::new("", None).ok()
    }

    /// Whether a certificate can be for this host.
    #[must_use]
    pub fn takes(host: &str) -> bool {
        ServerName::try_from(host).is_ok()
    }

    /// Shakes hands. With a `question`, also waits for the first byte of an answer: a server may refuse a certificate after the
    /// handshake.
    ///
    /// # Errors
    /// Why it failed.
    pub fn shake(&self, host: &str, tcp: &mut TcpStream, question: &[u8]) -> Result<(), Objection> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| Objection::Other(error.to_string()))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name).map_err(|error| of_tls(&error))?;
        if let Err(error) = connection.complete_io(tcp) {
            return Err(of_io(error, true));
        }
        if question.is_empty() {
            return Ok(());
        }
        let mut stream = Stream::new(&mut connection, tcp);
        let asked = stream.write_all(question).and_then(|()| stream.read(&mut [0; 1]));
        asked.map(drop).map_err(|error| of_io(error, false))
    }
}

fn of_io(error: io::Error, handshaking: bool) -> Objection {
    use io::ErrorKind as Kind;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(error), _) => of_tls(error),
        (None, Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe) if handshaking => Objection::NotTls,
        _ => Objection::Io(error),
    }
}

fn of_tls(error: &rustls::Error) -> Objection {
    match error {
        rustls::Error::InvalidMessage(_) => Objection::NotTls,
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Objection::Untrusted,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Objection::Expired(error.to_string())
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Objection::OtherName(error.to_string())
            }
            error => Objection::Unusable(error.to_string()),
        },
        rustls::Error::AlertReceived(alert) => Objection::Rejected(format!("{alert:?}")),
        error => Objection::Other(error.to_string()),
    }
}
