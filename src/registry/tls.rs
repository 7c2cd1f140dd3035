//! TLS to registries: rustls with ring, 1.2 and 1.3, over the connections of the HTTP library.
//!
//! webpki says whom to believe, but for one thing. It takes no authority's certificate for a server's, and `openssl req -x509` makes
//! nothing else: a registry's one file, which is given to its clients as their `ca.crt`. Where a server shows the very certificate
//! that its caller gave to trust, byte for byte, that is no objection, as it is none of OpenSSL's and Go's. All else stays:
//! its time, its name, and that the server has its key.
#![forbid(unsafe_code)]

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, StreamOwned,
};
use std::sync::Arc;
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Trust {
    roots: RootCertStore,
    /// Those of them that were given, and are not merely this machine's.
    given: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    pub(super) fn new(
        system: Vec<CertificateDer<'static>>,
        given: Vec<CertificateDer<'static>>,
        provider: &CryptoProvider,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system.into_iter().chain(given.iter().cloned()));
        Self { roots, given, algorithms: provider.signature_verification_algorithms }
    }
}

/// webpki has looked at the time before it says so.
fn is_for_an_authority(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, more, now, algorithms) {
            Err(error) if is_for_an_authority(&error) && self.given.contains(certificate) => {}
            other => other?,
        }
        verify_server_name(&parsed, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a client trusts, and who it is.
pub(super) fn config(
    system: Vec<CertificateDer<'static>>,
    given: Vec<CertificateDer<'static>>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let trust = Arc::new(Trust::new(system, given, &provider));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(trust);
    Ok(Arc::new(match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    }))
}

/// Speaks TLS where the address says so.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    /// With the proxy, where there is one: it has nothing of what is for the registry alone.
    pub(super) proxy: Option<Arc<ClientConfig>>,
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Stream>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        // An IPv6 address without its brackets.
        let host = details.uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ureq::Error::Tls("a name that no certificate can have"))?;
        // The way to a proxy is by none.
        let of_proxy = self.proxy.as_ref().filter(|_| details.config.proxy().is_none());
        let config = of_proxy.unwrap_or(&self.config).clone();
        let mut connection = ClientConnection::new(config, name)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(left(details));
        connection.complete_io(&mut socket)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned::new(connection, socket);
        Ok(Some(Either::B(Stream { buffers: LazyBuffers::new(input, output), stream })))
    }
}

/// Of the time for connecting, what all before has left.
fn left(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Duration::Exact(all), Instant::Exact(began), Instant::Exact(now)) =
        (timeout.after, details.now, (details.current_time)())
    {
        timeout.after = Duration::Exact(all.saturating_sub(now.saturating_duration_since(began)));
    }
    timeout
}

pub(super) struct Stream {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Transport for Stream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        std::io::Write::write_all(&mut self.stream, &self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let came = std::io::Read::read(&mut self.stream, self.buffers.input_append_buf())?;
        self.buffers.input_appended(came);
        Ok(came > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;
    use std::time::Duration;

    /// `openssl req -x509 -addext subjectAltName=DNS:registry.test,IP:10.0.0.7 …` and another of the same words.
    const PEM: [&str; 2] = [
        "-----BEGIN CERTIFICATE-----
MIIBjTCCATOgAwIBAgIUNn5wja6/roMI8gPjxGUETMGw7Z8wCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBcjAeFw0yNjExMjcxMzI0MTNaFw0zNjExMjQxMzI0MTNaMAwx
CjAIBgNVBAMMAXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAShPIZPlZM3Pa1h
J4M1fHugNgmk5UFLcgvFSqH5q+GTER8gzGMG/aazdKxYK5P/xBu7twGcyBgSLys1
mNYlVJTpo3MwcTAdBgNVHQ4EFgQUMgEEm4HzY34uvgR2SfB0PE+XATkwHwYDVR0j
BBgwFoAUMgEEm4HzY34uvgR2SfB0PE+XATkwDwYDVR0TAQH/BAUwAwEB/zAeBgNV
HREEFzAVgg1yZWdpc3RyeS50ZXN0hwQKAAAHMAoGCCqGSM49BAMCA0gAMEUCIQCh
aH3PvUH3a8WAF86JvKXiTz6g6U/1LkCmzWQyj1KSeQIgdLQAVojwQKsALfKVaj3f
qnqf0UchiO+jsh8FcwQSJm0=
-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----
MIIBhzCCAS2gAwIBAgIUesmE8RRhT8fmigsleHMTQG05DYowCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBcjAeFw0yNjExMjcxMzI0MTNaFw0zNjExMjQxMzI0MTNaMAwx
CjAIBgNVBAMMAXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASXc4Vw9g/QGrr1
pWzdozgAU9iqJb0CNSZ+fHQVk1MdTW5EmorbhfwjopTE3JiN5AwEV2X4jFd2Jc13
lvQg3LGFo20wazAdBgNVHQ4EFgQUhP40PAld5yLnxh3Qxgma7c1HfUQwHwYDVR0j
BBgwFoAUhP40PAld5yLnxh3Qxgma7c1HfUQwDwYDVR0TAQH/BAUwAwEB/zAYBgNV
HREEETAPgg1yZWdpc3RyeS50ZXN0MAoGCCqGSM49BAMCA0gAMEUCID4LB4z/ropE
h3KqVe1nRxgVd49sdwxdjz4RgLSOjEPxAiEAz41ILKznlJOma8jQcff3BcLFvpvk
veRVpUnPVSANiPs=
-----END CERTIFICATE-----",
    ];
    /// In the years that they hold, 2026 to 2036, and before and after.
    const NOW: u64 = 1_900_000_000;

    #[test]
    fn an_authoritys_certificate_is_a_servers_where_it_was_given() {
        let [own, other] = PEM.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
        let provider = ring::default_provider();
        let believed =
            |system: &[&CertificateDer<'static>], given: &[&CertificateDer<'static>], name, now| {
                let all = |some: &[&CertificateDer<'static>]| some.iter().map(|one| (*one).clone()).collect();
                let name = ServerName::try_from(name).unwrap();
                let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
                let trust = Trust::new(all(system), all(given), &provider);
                trust.verify_server_cert(&own, &[], &name, &[], now).map(drop)
            };
        for name in ["registry.test", "10.0.0.7"] {
            assert_eq!(believed(&[], &[&other, &own], name, NOW), Ok(()), "{name}");
        }
        for name in ["another.test", "r", "10.0.0.8", "x.registry.test"] {
            let error = believed(&[], &[&own], name, NOW).unwrap_err();
            let is_name =
                matches!(error, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }));
            assert!(is_name, "{name}: {error}");
        }
        let expired = believed(&[], &[&own], "registry.test", NOW + 400_000_000).unwrap_err();
        let is_time = |error: &Error| {
            matches!(
                error,
                Error::InvalidCertificate(
                    CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. }
                )
            )
        };
        assert!(is_time(&expired), "{expired}");
        let early = believed(&[], &[&own], "registry.test", NOW - 400_000_000).unwrap_err();
        assert!(is_time(&early), "{early}");
        // Another one, and one that this machine has for an authority's.
        for (system, given) in [(&[][..], &[&other][..]), (&[&own], &[]), (&[&own], &[&other]), (&[], &[])] {
            let error = believed(system, given, "registry.test", NOW).unwrap_err();
            assert!(is_for_an_authority(&error), "{error}");
        }
    }
}
