//! Certificates for `localhost` and 127.0.0.1, made for one test.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// An authority of one's own and a server's certificate, in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// Whom to trust.
    pub authority: String,
    /// The server's certificate.
    pub server: String,
    /// The server's key.
    pub server_key: String,
}

impl Certificates {
    /// Makes them.
    pub fn make() -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).expect("a certificate").pem();
        let issuer = Issuer::new(params, authority_key);
        let server_key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("parameters");
        let server = params.signed_by(&server_key, &issuer).expect("a certificate").pem();
        Self { authority, server, server_key: server_key.serialize_pem() }
    }
}
