//! What a server that speaks TLS shows of itself. Where it comes from is the test's business.

/// A certificate and its key, in the PEM format.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Identity {
    /// Both in one text, as Java's servers take them.
    #[must_use]
    pub fn key_and_certificate(&self) -> String {
        format!("{}{}", self.key, self.certificate)
    }
}
