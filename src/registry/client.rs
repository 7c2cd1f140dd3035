//! A registry as a whole: who one is to it, and what it has.
#![forbid(unsafe_code)]

use super::auth::{self, Auth, Challenge};
use super::credentials::{Credentials, CredentialsPlace, DOCKER_HUB};
use super::http::{Answer, Client, Method, Request, Settings};
use super::pace::Pace;
use super::secret::Secret;
use super::session::address;
use super::{PARALLEL, RETRIES};
use crate::error::{Error, ErrorKind, Result};
use crate::reference::Reference;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A registry by its host: to log in to it and out of it, and to see what it has.
///
/// ```no_run
/// use coracle::{Credentials, Image, RegistryClient, Store};
/// let registry = RegistryClient::new("registry.lan:5000")?;
/// registry.login(&Credentials::basic("me", std::fs::read_to_string("password")?.trim_end()))?;
/// // From here on for every program of this user, docker and podman too.
/// let image = Image::pull(&Store::open_default()?, "registry.lan:5000/me/app")?;
/// for name in registry.repositories()? {
///     println!("{name}: {:?}", registry.tags(&name)?);
/// }
/// registry.logout()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RegistryClient {
    /// As it stands in names.
    pub(super) host: String,
    pub(super) settings: Settings,
    pub(super) credentials: Option<Credentials>,
}

impl RegistryClient {
    /// A registry by its host, with its port, as in names: `docker.io`, `registry.lan:5000`. As docker has it, an address
    /// (`https://registry.lan/v2/`) means its host, and `index.docker.io` docker.io. Nothing is asked yet.
    ///
    /// # Errors
    /// `InvalidInput` for what is no host.
    pub fn new(host: &str) -> Result<Self> {
        let host = host_of(host)?;
        let settings = Settings { retries: RETRIES, parallel: PARALLEL, ..Settings::default() };
        Ok(Self { host, settings, credentials: None })
    }

    /// Speaks plain HTTP, where anybody on the way can read what passes, passwords too. See
    /// [`Pull::plain_http`](super::Pull::plain_http).
    pub fn plain_http(mut self) -> Self {
        self.settings.plain.push(self.host.to_ascii_lowercase());
        self
    }

    /// Trusts these certificates (PEM) beside the system's.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.roots.push(pem.into());
        self
    }

    /// Shows this certificate where the registry asks for one in TLS: a chain, its own first, and the private key, both PEM.
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<String>) -> Self {
        self.settings.client = Some((chain.into(), Secret::new(key)));
        self
    }

    /// Takes certificates from a directory in place of this machine's; see [`Pull::certificates_in`](super::Pull::certificates_in).
    pub fn certificates_in(mut self, dir: impl Into<PathBuf>) -> Self {
        self.settings.certificates = Some(dir.into());
        self
    }

    /// How often a request is tried again, as with [`Pull::retries`](super::Pull::retries).
    pub fn retries(mut self, times: u32) -> Self {
        self.settings.retries = times.min(20);
        self
    }

    /// How patient one is with the registry, as with [`Pull::patience`](super::Pull::patience).
    pub fn patience(mut self, time: Duration) -> Self {
        self.settings.pace = Pace::of(time);
        self
    }

    /// The host, as it stands in names.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Asks the registry whether it knows these credentials, and if so keeps them where docker and podman find them too:
    /// with the helper that `credHelpers` or `credsStore` of the file names that [`Pull::credentials`](super::Pull::credentials)
    /// tells of, else in that file, in which they are encoded and not encrypted (mode 0600; whatever else is in it stays).
    ///
    /// Where the registry's token service gives a token to stay with, that is kept in place of the password. A registry that asks
    /// nobody who it is can't say whether it knows them: then they are kept, as docker does.
    ///
    /// What `DOCKER_AUTH_CONFIG` has for this registry counts before what is kept, as long as it is set.
    ///
    /// # Errors
    /// `PermissionDenied` where the registry refuses them: then nothing is kept. `InvalidInput` for anonymous ones and for a
    /// name with a colon; `NotFound` for what is no registry; as [`Pull::run`](super::Pull::run) for the way there; those of the file and
    /// of the helper, with their path.
    pub fn login(&self, credentials: &Credentials) -> Result<CredentialsPlace> {
        let kept = self.verify(credentials).map_err(|error| self.during(error, "logging in to"))?;
        kept.keep(&self.host)
    }

    /// Who is logged in to it on this machine, or is named in `DOCKER_AUTH_CONFIG`; `None` where nobody is.
    ///
    /// # Errors
    /// Those of the file and of the helper that keep it.
    pub fn logged_in(&self) -> Result<Option<Credentials>> {
        Credentials::kept(&self.host)
    }

    /// Forgets what [`login`](Self::login) keeps, whoever has kept it: whether that was anything. The registry is not asked, and
    /// what the environment has (`DOCKER_AUTH_CONFIG`) stays.
    ///
    /// # Errors
    /// Those of the file and of the helper, with their path.
    pub fn logout(&self) -> Result<bool> {
        Credentials::forget(&self.host)
    }

    pub(super) fn during(&self, error: Error, what: &str) -> Error {
        error.during(format!("{what} {}", self.host))
    }

    /// What is to be kept of credentials that the registry knows.
    fn verify(&self, credentials: &Credentials) -> Result<Credentials> {
        credentials.check()?;
        let client = Client::of(&self.settings, &self.host)?;
        self.verify_by(&client, credentials).map_err(|error| client.scrubbed(error))
    }

    fn verify_by(&self, client: &Client, credentials: &Credentials) -> Result<Credentials> {
        let registry = address(client, &self.host)?;
        let url = registry.with_target("/v2/".to_owned());
        let ask = |auth: &Auth| {
            let authorization = auth.header();
            client.send(&Request { method: Method::Get, url: &url, headers: &[], authorization })
        };
        let first = ask(&Auth::None)?;
        let asks = first.status == 401 && first.from.is_same_origin(&url);
        let (auth, token) = match Challenge::of(&first) {
            Some(challenge) if asks => {
                drop(first);
                auth::meet_to_stay(client, &registry, challenge, credentials)?
            }
            _ if first.status == 200 => (auth::unasked(client, credentials), None),
            _ => return Err(no_registry(client, first)),
        };
        let answer = ask(&auth)?;
        match answer.status {
            200 => Ok(token.unwrap_or_else(|| credentials.clone())),
            _ => Err(no_registry(client, answer)),
        }
    }
}

/// distribution-spec, "Determining Support".
fn no_registry(client: &Client, answer: Answer) -> Error {
    match answer.status {
        404 => Error::new(ErrorKind::NotFound, format!("{}: 404, so this is no registry", answer.step))
            .with_remedy("check the host and its port"),
        _ => client.refused(answer),
    }
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryClient").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The host of what people write for a registry.
fn host_of(text: &str) -> Result<String> {
    let bad = || {
        Error::new(
            ErrorKind::InvalidInput,
            format!("registry {text:?}: not a host with its port, as in names"),
        )
    };
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    // What else stands there would be lost.
    if !["", "v1", "v2"].contains(&path.trim_end_matches('/')) {
        return Err(bad());
    }
    if matches!(host, "registry-1.docker.io" | DOCKER_HUB) {
        return Ok(DOCKER_HUB.to_owned());
    }
    match format!("{host}/x").parse::<Reference>() {
        Ok(name) if matches!(name.path(), "x" | "library/x") => Ok(name.domain().to_owned()),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_what_names_begin_with() {
        for (text, host) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("localhost", "localhost"),
            ("http://r.example:5000", "r.example:5000"),
            ("https://r.example/v2/", "r.example"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            assert_eq!(RegistryClient::new(text).unwrap().host(), host, "{text}");
        }
        for bad in ["", "name", "r.example/team", "https://", "r.example:port", "me@r.example", "a b.example"]
        {
            assert_eq!(RegistryClient::new(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
