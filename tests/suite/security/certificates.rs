//! Certificates for servers and clients of a test: an authority, and what it signs. Everything is made anew each time; no key
//! is ever checked in.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use sluicegate_harness::identity::Identity;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Who signs.
#[derive(Debug)]
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = named(name, Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    /// For a server at `hosts`, names or addresses, or a client without any.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Identity {
        self.sign(named(name, hosts.iter().map(|&host| host.to_owned()).collect()))
    }

    /// One that has been over since yesterday.
    pub(crate) fn issue_expired(&self, name: &str, hosts: &[&str]) -> Identity {
        let mut params = named(name, hosts.iter().map(|&host| host.to_owned()).collect());
        params.not_after = (SystemTime::now() - DAY).into();
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Identity {
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn named(name: &str, hosts: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (SystemTime::now() - 2 * DAY).into();
    params.not_after = (SystemTime::now() + 365 * DAY).into();
    params
}
