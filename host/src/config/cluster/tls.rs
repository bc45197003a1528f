//! The table `[zookeeper.tls]`: files in the PEM format, read and looked through once.
//!
//! Whether a certificate is trusted, and fits its key, is seen where connections are made. Invariant: a key is never in
//! `Debug`, and no part of a file is in an error.

use std::{fmt, fs};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::diagnostic::Diagnostic;
use crate::config::field::Field;
use crate::config::secret::Secret;
use crate::config::section::Section;
use crate::config::text::Text;
use crate::config::value::Fault;

/// What a connection is encrypted with. `Debug` shows no contents: a file may hold a certificate and its key.
#[derive(Clone, PartialEq)]
pub struct Tls {
    /// Certificates of the authorities whose word about a server is taken, as PEM.
    pub ca: String,
    /// What this node shows of itself; nothing if none.
    pub identity: Option<Identity>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

/// A certificate and its key.
#[derive(Clone, PartialEq)]
pub struct Identity {
    /// The certificate and those between it and the authority, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: Secret,
}

pub(super) fn read(section: &Section<'_>, text: &Text) -> Option<Tls> {
    let ca = section.required("ca", "\"ca.pem\"").and_then(|field| file(&field, text, certificates));
    let certificate = section.optional("certificate", |field| file(field, text, certificates));
    let key = section.optional("key", |field| file(field, text, key));
    let identity = match (certificate?, key?) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(Identity { certificate, key: Secret::new(key) }),
        (certificate, _) => {
            let (there, missing) = if certificate.is_some() { ("certificate", "key") } else { ("key", "certificate") };
            let diagnostic = Diagnostic::new(format!("[zookeeper.tls] has a `{there}` and no `{missing}`"));
            section.findings().add(diagnostic.at(section.place()).help("write both, or none of them"));
            return None;
        }
    };
    Some(Tls { ca: ca?, identity })
}

/// The text of a file that `check` has nothing against.
fn file(field: &Field<'_>, text: &Text, check: fn(&str) -> Result<(), Fault>) -> Option<String> {
    field.parsed(|path| {
        let path = text.resolve(path);
        let pem = fs::read_to_string(&path).map_err(|error| {
            let name = path.display();
            Fault::new(format!("cannot read `{name}`: {error}"), "write the path of a file in the PEM format")
        })?;
        check(&pem).map(|()| pem)
    })
}

fn certificates(pem: &str) -> Result<(), Fault> {
    let count = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map(|found| found.len());
    match count {
        Ok(1..) => Ok(()),
        Ok(_) => {
            Err(Fault::new("no certificate is in this file", "write a file with -----BEGIN CERTIFICATE----- in it"))
        }
        Err(error) => Err(damaged(&error)),
    }
}

fn key(pem: &str) -> Result<(), Fault> {
    if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || pem.contains("Proc-Type: 4,ENCRYPTED") {
        let help = "write it without a password, for this user's eyes alone: `umask 077; openssl pkey -in .. -out ..`";
        return Err(Fault::new("the key in this file has a password", help));
    }
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(_) => Ok(()),
        Err(pem::Error::NoItemsFound) => {
            Err(Fault::new("no private key is in this file", "write a file with -----BEGIN PRIVATE KEY----- in it"))
        }
        Err(error) => Err(damaged(&error)),
    }
}

fn damaged(error: &pem::Error) -> Fault {
    // Its other variants quote the file.
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "it ends in the middle of a section",
        _ => "it is not in the PEM format",
    };
    Fault::new(format!("this file is damaged: {what}"), "write the path of a file in the PEM format")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_damaged_file_is_shown() {
        for damaged in [
            "-----BEGIN PRIVATE KEY-----\nhunter2\n",
            "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n",
            "-----BEGIN hunter2\n-----END PRIVATE KEY-----\n",
        ] {
            let fault = format!("{:?}", key(damaged).unwrap_err());
            assert!(!fault.contains("hunter"), "{fault}");
        }
    }

    #[test]
    fn a_key_with_a_password_is_told_from_none() {
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(format!("{:?}", key(encrypted).unwrap_err()).contains("password"));
        assert!(format!("{:?}", key("").unwrap_err()).contains("no private key"));
    }
}
