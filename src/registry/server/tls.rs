//! TLS as the client has it: rustls with ring, 1.2 and 1.3.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

pub(super) fn config(chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>> {
    let bad = |what: &'static str| Error::new(ErrorKind::InvalidInput, what);
    let certificates = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    // Whatever is said of what a key is made of stays here.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        bad("the registry's private key: none in PEM form that can be read")
            .with_remedy("give PKCS#8, PKCS#1 or SEC1 without a password")
    })?;
    let certificates = certificates
        .map_err(|error| bad("the registry's certificate: not in PEM form").with_source(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("the registry's certificate: none in it"));
    }
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions();
    let mut config = builder
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|error| bad("the registry's certificate and private key").with_source(error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
