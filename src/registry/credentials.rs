//! Who one is to a registry: given, or found where docker and podman keep it.
//!
//! `REGISTRY_AUTH_FILE` names the file; without it, it is `config.json` in `DOCKER_CONFIG` or `~/.docker`
//! (docker's `config.json`, containers-auth.json(5)). An entry for a repository counts before one for its registry, a
//! helper of `credHelpers` before an entry, and that before `credsStore`, as docker has it.
//!
//! A helper is a program `docker-credential-NAME` in PATH. It is started as newuidmap is, by posix_spawn: nothing is
//! forked in the host program, and only its own child is waited for.
#![forbid(unsafe_code)]

use super::secret::Secret;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::manifest::null_is_default;
use crate::reference::Reference;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What docker calls its own registry in its files.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const DOCKER_HUB: &str = "docker.io";
const FILE_MAX: u64 = 4 << 20;
const HELPER_SAYS_MAX: usize = 1 << 20;
/// It may ask a person for a password.
const HELPER_TIME: Duration = Duration::from_secs(120);

/// Who a program is to a registry. Its `Debug` shows no password and no token.
///
/// ```
/// use coracle::Credentials;
/// let me = Credentials::basic("me", "secret");
/// assert!(!format!("{me:?}").contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub(super) Kind);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Anonymous,
    Basic {
        user: String,
        password: Secret,
    },
    /// For which a registry's token service gives access tokens (docker's `identitytoken`).
    Refresh(Secret),
}

impl Credentials {
    /// Nobody: what is stored on this machine is not looked at.
    pub fn anonymous() -> Self {
        Self(Kind::Anonymous)
    }

    /// A name and a password, or an access token that serves as one.
    pub fn basic(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self(Kind::Basic { user: user.into(), password: Secret::new(password) })
    }

    /// A refresh token, which the registry's token service changes for access tokens: what docker keeps as `identitytoken`.
    pub fn identity_token(token: impl Into<String>) -> Self {
        Self(Kind::Refresh(Secret::new(token)))
    }

    /// What this machine keeps for a repository; anonymous where it keeps nothing.
    pub(super) fn find(name: &Reference) -> Result<Self> {
        match file()? {
            Some((path, named)) => Self::in_file(&path, named, name)
                .map_err(|error| error.during(format!("looking for the credentials of {}", name.domain()))),
            None => Ok(Self::anonymous()),
        }
    }

    fn in_file(path: &Path, must_be: bool, name: &Reference) -> Result<Self> {
        let mut text = Vec::new();
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be => return Ok(Self::anonymous()),
            other => {
                other.call_at("open", path)?.take(FILE_MAX).read_to_end(&mut text).call_at("read", path)?
            }
        };
        // The text of serde's error may quote the file.
        let config: Config = serde_json::from_slice(&text).map_err(|error| {
            Error::new(
                ErrorKind::InvalidData,
                format!("credentials: not JSON as docker writes it, line {}", error.line()),
            )
            .with_path(path)
        })?;
        config.find(name).map_err(|error| if error.path().is_some() { error } else { error.with_path(path) })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Anonymous => f.write_str("Credentials(anonymous)"),
            Kind::Basic { user, .. } => write!(f, "Credentials({user:?}, …)"),
            Kind::Refresh(_) => f.write_str("Credentials(identity token, …)"),
        }
    }
}

/// The file with credentials, and whether somebody named it.
fn file() -> Result<Option<(PathBuf, bool)>> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = var("REGISTRY_AUTH_FILE") {
        return Ok(Some((path, true)));
    }
    let dir = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|home| home.join(".docker")));
    Ok(dir.map(|dir| (dir.join("config.json"), false)))
}

#[derive(Deserialize)]
struct Config {
    #[serde(default, deserialize_with = "null_is_default")]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers", deserialize_with = "null_is_default")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore", deserialize_with = "null_is_default")]
    store: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "null_is_default")]
    auth: String,
    #[serde(deserialize_with = "null_is_default")]
    username: String,
    #[serde(deserialize_with = "null_is_default")]
    password: String,
    #[serde(rename = "identitytoken", deserialize_with = "null_is_default")]
    identity_token: String,
}

impl Config {
    fn find(&self, name: &Reference) -> Result<Credentials> {
        let registry = name.domain();
        if let Some((key, helper)) = self.helpers.iter().find(|(key, _)| host_of(key) == registry) {
            return ask(helper, key);
        }
        // From the repository up to its registry.
        let whole = format!("{registry}/{}", name.path());
        let ends = whole.match_indices('/').map(|(at, _)| at).chain([whole.len()]);
        let mut scopes: Vec<&str> = ends.map(|at| &whole[..at]).collect();
        scopes.reverse();
        for scope in scopes {
            let mut entries = self
                .auths
                .iter()
                .filter(|(key, _)| *key == scope || (scope == registry && host_of(key) == scope));
            if let Some((key, entry)) = entries.find(|(_, entry)| !entry.is_empty()) {
                return entry.read(key);
            }
        }
        if self.store.is_empty() {
            return Ok(Credentials::anonymous());
        }
        ask(&self.store, if registry == DOCKER_HUB { DOCKER_HUB_KEY } else { registry })
    }
}

/// The registry that a key means: `https://registry.example/v1/` as well as `registry.example`.
fn host_of(key: &str) -> &str {
    let host = match key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None => key.strip_suffix('/').unwrap_or(key),
    };
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

impl Entry {
    /// With a helper docker writes `{}` to say that there is something.
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identity_token].iter().all(|text| text.is_empty())
    }

    fn read(&self, key: &str) -> Result<Credentials> {
        if !self.identity_token.is_empty() {
            return Ok(Credentials::identity_token(&self.identity_token));
        }
        if self.auth.is_empty() {
            return Ok(Credentials::basic(&self.username, &self.password));
        }
        let bad = || {
            Error::new(
                ErrorKind::InvalidData,
                format!("credentials of {key:?}: not the base64 of NAME:PASSWORD"),
            )
        };
        let plain = BASE64_STANDARD.decode(self.auth.trim()).map_err(|_| bad())?;
        let plain = String::from_utf8(plain).map_err(|_| bad())?;
        let (user, password) = plain.split_once(':').ok_or_else(bad)?;
        Ok(Credentials::basic(user, password.trim_end_matches('\0')))
    }
}

/// Asks `docker-credential-HELPER get`; see docker-credential-helpers' README.
fn ask(helper: &str, key: &str) -> Result<Credentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Told {
        username: String,
        secret: String,
    }
    if helper.is_empty()
        || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!("credentials: {helper:?} is no helper's name"),
        ));
    }
    let program = format!("docker-credential-{helper}");
    let said = run(&program, key)?;
    if let Ok(Told { username, secret }) = serde_json::from_slice(&said) {
        // The name that stands for "this is a token".
        return Ok(match username.as_str() {
            "<token>" => Credentials::identity_token(secret),
            _ => Credentials::basic(username, secret),
        });
    }
    let said = String::from_utf8_lossy(&said[..said.len().min(300)]);
    // The words of the helpers' own library, the same in all of them.
    if said.contains("credentials not found") {
        return Ok(Credentials::anonymous());
    }
    Err(Error::new(ErrorKind::PermissionDenied, format!("{program} get: {:?}", said.trim()))
        .with_remedy("unlock what keeps the credentials, or log in again"))
}

fn run(program: &str, key: &str) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| {
        let error = Error::os("posix_spawn", error).with_path(program);
        match error.kind() {
            ErrorKind::NotFound => {
                error.with_remedy("install this credential helper, or take it out of the file that names it")
            }
            _ => error,
        }
    })?;
    let told = talk(&mut child, key).map_err(|error| error.with_path(program));
    if told.is_err() {
        let _ = child.kill();
    }
    // A host that ignores SIGCHLD or reaps everything leaves no status: what was said counts.
    drop(child.wait());
    told
}

fn talk(child: &mut std::process::Child, key: &str) -> Result<Vec<u8>> {
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it answers all the same.
        let _ = stdin.write_all(key.as_bytes());
    }
    let Some(mut stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    let deadline = Instant::now() + HELPER_TIME;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Error::new(ErrorKind::TimedOut, "a credential helper that does not answer")),
            Err(rustix::io::Errno::INTR) => continue,
            other => other.call("poll")?,
        };
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(said),
            Ok(n) => said.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).call("read"),
        }
        if said.len() > HELPER_SAYS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "a credential helper that says more than a megabyte",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(config: &serde_json::Value, name: &str) -> Result<Credentials> {
        serde_json::from_value::<Config>(config.clone()).unwrap().find(&name.parse().unwrap())
    }

    #[test]
    fn the_nearest_entry_counts() {
        let auth = |text: &str| json!({"auth": BASE64_STANDARD.encode(text)});
        let config = json!({"auths": {
            "r.example": auth("registry:1"),
            "r.example/team": auth("team:2:3"),
            "https://index.docker.io/v1/": auth("hub:4"),
            "https://old.example/v1/": auth("old:5"),
            "token.example": {"auth": BASE64_STANDARD.encode("u:p"), "identitytoken": "t"},
            "plain.example:5000": {"username": "u", "password": "p"},
            "empty.example": {},
            "bad.example": {"auth": "%"},
        }});
        for (name, want) in [
            ("r.example/x", Credentials::basic("registry", "1")),
            ("r.example/team/x", Credentials::basic("team", "2:3")),
            ("r.example/teams/x", Credentials::basic("registry", "1")),
            ("debian", Credentials::basic("hub", "4")),
            ("old.example/x", Credentials::basic("old", "5")),
            ("token.example/x", Credentials::identity_token("t")),
            ("plain.example:5000/x", Credentials::basic("u", "p")),
            ("plain.example/x", Credentials::anonymous()),
            ("empty.example/x", Credentials::anonymous()),
        ] {
            assert!(find(&config, name).unwrap() == want, "{name}");
        }
        let error = find(&config, "bad.example/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn names_of_helpers_are_names() {
        for helper in ["../../bin/sh", "", "a b"] {
            let config = json!({"credHelpers": {"r.example": helper}});
            assert_eq!(find(&config, "r.example/x").unwrap_err().kind(), ErrorKind::InvalidData);
        }
        let config = json!({"credsStore": "coracle-has-none-of-this-name"});
        let error = find(&config, "r.example/x").unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.remedy().is_some(), "{error}");
    }
}
