//! Certificates for one registry, where docker, podman and skopeo look for them: in a directory that is named as the registry
//! (containers-certs.d(5)), `*.crt` whom to trust, `*.cert` with the `*.key` of the same name who one is. They are for that
//! registry's host: where it sends one on to, a token service or a store of blobs, neither counts.
#![forbid(unsafe_code)]

use super::http::Settings;
use super::secret::Secret;
use super::tls;
use crate::error::{Call, Error, ErrorKind, Result};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SYSTEM: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

impl Settings {
    /// With the certificates that this machine has for a registry, or those of the directory that was named.
    pub(super) fn of(&self, registry: &str) -> Result<Self> {
        let mut settings = self.clone();
        if let Some(dir) = &self.certificates {
            settings.take(dir, fs::read_dir(dir).call_at("opendir", dir)?)?;
            return Ok(settings);
        }
        // The first that is there counts.
        for dir in places().map(|place| place.join(registry)) {
            match fs::read_dir(&dir) {
                Ok(listed) => {
                    settings.take(&dir, listed)?;
                    break;
                }
                // What this user may not look into is not this user's.
                Err(error) => tracing::trace!(%error, dir = %dir.display(), "no certificates"),
            }
        }
        Ok(settings)
    }

    /// Whether there are any beside the system's.
    pub(super) fn has_certificates(&self) -> bool {
        !self.roots.is_empty() || self.is_for_home()
    }

    /// Whether some are for the registry's host and no other.
    pub(super) fn is_for_home(&self) -> bool {
        !self.own_roots.is_empty() || self.client.is_some()
    }

    /// Whom to trust and who one is, at the registry's host or at others.
    pub(super) fn tls(&self, at_home: bool) -> Result<Arc<ClientConfig>> {
        let own = if at_home { &self.own_roots[..] } else { &[] };
        let client = self.client.as_ref().filter(|_| at_home);
        let client = client.map(|(chain, key)| client_of(chain, key)).transpose()?;
        let mut given = named_by_environment();
        for pem in self.roots.iter().chain(own) {
            given.extend(certificates("a root certificate", pem)?);
        }
        tls::config(system(), given, client).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "a client's certificate and its key").with_source(error)
        })
    }

    fn take(&mut self, dir: &Path, listed: fs::ReadDir) -> Result<()> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in listed {
            paths.push(entry.call_at("readdir", dir)?.path());
        }
        paths.sort();
        let ends = |path: &Path, end: &str| path.extension().is_some_and(|extension| extension == end);
        let bad = |path: &Path, why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("certificates of a registry: {why}")).with_path(path)
        };
        let mut own = None;
        for path in &paths {
            if ends(path, "crt") {
                self.own_roots.push(fs::read(path).call_at("read", path)?);
            } else if ends(path, "key") && !paths.contains(&path.with_extension("cert")) {
                return Err(bad(path, "a .key without the .cert that it is for"));
            } else if ends(path, "cert") {
                let key = path.with_extension("key");
                let secret = match fs::read_to_string(&key) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Err(bad(path, "a .cert without its .key"));
                    }
                    other => other.call_at("read", &key)?,
                };
                let chain = fs::read(path).call_at("read", path)?;
                if own.replace((chain, Secret::new(secret))).is_some() {
                    return Err(bad(dir, "two of one's own, of which one can be shown"));
                }
            }
        }
        // One that was given counts before.
        self.client = self.client.take().or(own);
        Ok(())
    }
}

fn places() -> impl Iterator<Item = PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
    own.map(|dir| dir.join("containers/certs.d")).into_iter().chain(SYSTEM.map(PathBuf::from))
}

fn system() -> Vec<CertificateDer<'static>> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "a certificate of the system");
    }
    system.certs
}

/// Those of SSL_CERT_FILE, which are the system's too: what can't be read of them is told there.
fn named_by_environment() -> Vec<CertificateDer<'static>> {
    let file = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    let found = file.map(CertificateDer::pem_file_iter).and_then(|found| found.ok());
    found.into_iter().flatten().flatten().collect()
}

/// All certificates of a PEM text, one at least.
fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |why| Error::new(ErrorKind::InvalidInput, format!("{what}: {why}"));
    let found = CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<Vec<_>, _>>();
    let found = found.map_err(|_| bad("broken PEM"))?;
    if found.is_empty() { Err(bad("no certificate in it")) } else { Ok(found) }
}

fn client_of(chain: &[u8], key: &Secret) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates("a client's certificate", chain)?;
    // Its own error may quote it.
    let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "a client's certificate: no private key in PEM"))?;
    Ok((chain, key))
}
