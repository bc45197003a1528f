//! Certificates for servers and clients of a test: an authority, and what it signs. Everything is made anew each time; no key
//! is ever checked in.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Who signs.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in the PEM format.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Issued {
    /// Both in one text, as Java's servers take them.
    #[must_use]
    pub fn key_and_certificate(&self) -> String {
        format!("{}{}", self.key, self.certificate)
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = named(name, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make a key")?;
        CertifiedIssuer::self_signed(params, key).map(Self).context("sign the authority's certificate")
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// For a server at `hosts`, names or addresses, or a client without any.
    ///
    /// # Errors
    /// A host that cannot stand in a certificate.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Result<Issued> {
        self.sign(named(name, hosts.iter().map(|&host| host.to_owned()).collect())?)
    }

    /// One that has been over since yesterday.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_expired(&self, name: &str, hosts: &[&str]) -> Result<Issued> {
        let mut params = named(name, hosts.iter().map(|&host| host.to_owned()).collect())?;
        params.not_after = (SystemTime::now() - DAY).into();
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Issued> {
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &self.0).context("sign a certificate")?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn named(name: &str, hosts: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts).context("name the hosts of a certificate")?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (SystemTime::now() - 2 * DAY).into();
    params.not_after = (SystemTime::now() + 365 * DAY).into();
    Ok(params)
}
