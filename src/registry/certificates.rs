//! Certificates for one registry, where docker, podman and skopeo look for them: in a directory that is named as the registry
//! (containers-certs.d(5)), `*.crt` whom to trust, `*.cert` with the `*.key` of the same name who one is.
#![forbid(unsafe_code)]

use super::http::Settings;
use super::secret::Secret;
use crate::error::{Call, Error, ErrorKind, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
                self.roots.push(fs::read(path).call_at("read", path)?);
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
