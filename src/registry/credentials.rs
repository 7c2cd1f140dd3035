//! Who one is to a registry: given, or found where docker and podman keep it.
//!
//! `DOCKER_AUTH_CONFIG` has what such a file has, of which `auths` counts, and before the file's. `REGISTRY_AUTH_FILE` names the file; without it, it is `config.json` in `DOCKER_CONFIG` or `~/.docker`
//! (docker's `config.json`, containers-auth.json(5)). As docker has it, a registry that `credHelpers` names is that helper's alone,
//! and all others are `credsStore`'s, where there is one: what stands in `auths` beside is not looked at, as it may be of a time
//! before. Without them, an entry for a repository counts before one for its registry.
#![forbid(unsafe_code)]

use super::authfile::{AuthFile, Object};
use super::helper::Helper;
use super::secret::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::null_is_default;
use crate::reference::Reference;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// What docker calls its own registry in its files.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
pub(super) const DOCKER_HUB: &str = "docker.io";
/// A helper's program, or a base64 of it, holds this much; tokens have some thousand bytes.
const SECRET_MAX: usize = 256 << 10;

/// Who a program is to a registry. Its `Debug` shows no password and no token.
///
/// They go to the registry that they are for, and with no redirect to another host. For a token they go to the service that the
/// registry names: over TLS to any host, as docker.io has it, so who gives a registry a password trusts it to name the right one. A
/// registry without TLS may only name itself.
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
    /// An access token itself (docker's `registrytoken`).
    Bearer(Secret),
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

    /// What this machine keeps for a repository; anonymous where it keeps nothing. A helper is not waited for after `until`.
    pub(super) fn find(name: &Reference, until: Option<Instant>) -> Result<Self> {
        let registry = name.domain();
        if let Some(found) = of_environment(registry, Some(name.path())).map_err(looking_for(registry))? {
            return Ok(found);
        }
        let find = |file: &AuthFile| match file.read_named()? {
            Some((config, _)) => {
                config.find(registry, Some(name.path()), until).map_err(|error| file.name(error))
            }
            None => Ok(Self::anonymous()),
        };
        AuthFile::find().map_or(Ok(Self::anonymous()), |file| find(&file)).map_err(looking_for(registry))
    }

    /// What this machine keeps for a registry as a whole.
    pub(super) fn kept(registry: &str) -> Result<Option<Self>> {
        if let Some(found) = of_environment(registry, None).map_err(looking_for(registry))? {
            return Ok(Some(found));
        }
        let find = |file: &AuthFile| match file.read()? {
            Some((config, _)) => config.find(registry, None, None).map_err(|error| file.name(error)),
            None => Ok(Self::anonymous()),
        };
        let found = AuthFile::find().map_or(Ok(Self::anonymous()), |file| find(&file));
        Ok(Some(found.map_err(looking_for(registry))?).filter(|found| found.0 != Kind::Anonymous))
    }

    /// Whether they can be kept.
    pub(super) fn check(&self) -> Result<()> {
        Entry::of(self).map(drop)
    }

    /// Keeps these for a registry, in place of others; see [`RegistryClient::login`](super::RegistryClient::login).
    pub(super) fn keep(&self, registry: &str) -> Result<CredentialsPlace> {
        let file = AuthFile::find().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no file for credentials")
                .with_remedy("set HOME, DOCKER_CONFIG or REGISTRY_AUTH_FILE")
        })?;
        let entry = Entry::of(self)?;
        let keep = |config: Config, object: &mut Object| {
            forget(object, registry);
            let Some((name, key)) = config.helper(registry) else {
                object.set_auth(key_of(registry), &entry)?;
                return Ok(CredentialsPlace::File(file.path().to_owned()));
            };
            Helper::named(&name)?.store(&key, self)?;
            // As docker has it: that there is something, and elsewhere.
            object.set_auth(key_of(registry), &Entry::default())?;
            Ok(CredentialsPlace::Helper(name))
        };
        file.change(keep).map_err(|error| error.during(format!("keeping the credentials of {registry}")))
    }

    /// Forgets what this machine keeps for a registry: whether that was anything.
    pub(super) fn forget(registry: &str) -> Result<bool> {
        let Some(file) = AuthFile::find() else { return Ok(false) };
        let forgetting = |error: Error| error.during(format!("forgetting the credentials of {registry}"));
        if file.read().map_err(forgetting)?.is_none() {
            return Ok(false);
        }
        let work = |config: Config, object: &mut Object| {
            let erased = match config.helper(registry) {
                Some((name, key)) => Helper::named(&name)?.erase(&key)?,
                None => false,
            };
            Ok(forget(object, registry) || erased)
        };
        file.change(work).map_err(forgetting)
    }
}

/// What the environment itself has: the text of a file of docker's.
fn of_environment(registry: &str, path: Option<&str>) -> Result<Option<Credentials>> {
    const VAR: &str = "DOCKER_AUTH_CONFIG";
    let Some(text) = std::env::var_os(VAR).filter(|text| !text.is_empty()) else { return Ok(None) };
    // The text of serde's error may quote it.
    let config: Config = serde_json::from_slice(text.as_encoded_bytes()).map_err(|_| {
        Error::new(ErrorKind::InvalidData, format!("{VAR}: not JSON as docker writes it"))
            .with_remedy(format!("give it {{\"auths\": …}}, or unset {VAR}"))
    })?;
    config.of_auths(registry, path)
}

fn looking_for(registry: &str) -> impl FnOnce(Error) -> Error {
    move |error| error.during(format!("looking for the credentials of {registry}"))
}

fn forget(object: &mut Object, registry: &str) -> bool {
    // One for a part of the registry, as podman has it, stays.
    let is_part = |key: &str| !key.contains("://") && key.contains('/') && !key.ends_with('/');
    object.remove_auths(|key| host_of(key) == registry && !is_part(key))
}

/// What a registry is called in docker's file.
fn key_of(registry: &str) -> &str {
    if registry == DOCKER_HUB { DOCKER_HUB_KEY } else { registry }
}

/// Where credentials were put.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialsPlace {
    /// A file, in which whoever may read it can read them: they are encoded, not encrypted.
    File(PathBuf),
    /// A credential helper, by the name that docker's file has for it: `docker-credential-NAME`.
    Helper(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Anonymous => f.write_str("Credentials(anonymous)"),
            Kind::Basic { user, .. } => write!(f, "Credentials({user:?}, …)"),
            Kind::Refresh(_) => f.write_str("Credentials(identity token, …)"),
            Kind::Bearer(_) => f.write_str("Credentials(access token, …)"),
        }
    }
}

#[derive(Default, Deserialize)]
pub(super) struct Config {
    #[serde(default, deserialize_with = "null_is_default")]
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(default, rename = "credHelpers", deserialize_with = "null_is_default")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore", deserialize_with = "null_is_default")]
    store: String,
}

#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Entry {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    auth: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    password: String,
    #[serde(
        rename = "identitytoken",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    identity_token: String,
    #[serde(
        rename = "registrytoken",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    access_token: String,
}

impl Config {
    /// Who keeps a registry's credentials in place of the file, and under which key.
    fn helper(&self, registry: &str) -> Option<(String, String)> {
        if let Some((key, helper)) = self.helpers.iter().find(|(key, _)| host_of(key) == registry) {
            // One without a name is the file, whoever keeps all others.
            return (!helper.is_empty()).then(|| (helper.clone(), key.clone()));
        }
        (!self.store.is_empty()).then(|| (self.store.clone(), key_of(registry).to_owned()))
    }

    fn find(&self, registry: &str, path: Option<&str>, until: Option<Instant>) -> Result<Credentials> {
        if let Some((helper, key)) = self.helper(registry) {
            return Helper::named(&helper)?.until(until).get(&key);
        }
        Ok(self.of_auths(registry, path)?.unwrap_or_else(Credentials::anonymous))
    }

    fn of_auths(&self, registry: &str, path: Option<&str>) -> Result<Option<Credentials>> {
        // From the repository up to its registry.
        let whole = path.map_or(registry.to_owned(), |path| format!("{registry}/{path}"));
        let ends = whole.match_indices('/').map(|(at, _)| at).chain([whole.len()]);
        let mut scopes: Vec<&str> = ends.map(|at| &whole[..at]).collect();
        scopes.reverse();
        for scope in scopes {
            // By the very name that it is written under today, else by one that means the same.
            let exact = |key: &&str| if scope == registry { *key == key_of(registry) } else { *key == scope };
            let means = |key: &&str| *key == scope || (scope == registry && host_of(key) == scope);
            let keys = || self.auths.keys().map(String::as_str);
            for key in
                keys().filter(exact).chain(keys().filter(|key| *key == scope)).chain(keys().filter(means))
            {
                if let Some(Some(entry)) = self.auths.get(key)
                    && !entry.is_empty()
                {
                    return entry.read(key).map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// The registry that a key means: `https://registry.example/v1/` and `registry.example/v1` as well as `registry.example`.
fn host_of(key: &str) -> &str {
    let host = match key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None => {
            let key = key.strip_suffix('/').unwrap_or(key);
            let host = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2"));
            host.filter(|host| !host.contains('/')).unwrap_or(key)
        }
    };
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

impl Entry {
    fn of(credentials: &Credentials) -> Result<Self> {
        let bad = |why| Error::new(ErrorKind::InvalidInput, format!("credentials: {why}"));
        let encoded = |user: &str, password: &str| BASE64_STANDARD.encode(format!("{user}:{password}"));
        let (text, entry) = match &credentials.0 {
            Kind::Anonymous => return Err(bad("nobody's can't be kept")),
            Kind::Basic { user, .. } if user.is_empty() || user.contains(':') => {
                return Err(bad("a name that is empty or has a colon in it"));
            }
            Kind::Basic { user, password } => {
                let auth = encoded(user, password.reveal());
                (password, Self { auth, ..Self::default() })
            }
            Kind::Refresh(token) => {
                // The name is nobody's, which docker and podman take for what it is.
                let (auth, identity_token) = (encoded("<token>", ""), token.reveal().to_owned());
                (token, Self { auth, identity_token, ..Self::default() })
            }
            Kind::Bearer(token) => {
                (token, Self { access_token: token.reveal().to_owned(), ..Self::default() })
            }
        };
        match text.reveal() {
            "" => Err(bad("an empty password or token")),
            text if text.len() > SECRET_MAX || text.contains('\0') => {
                Err(bad("a password or token of more than 256 KiB, or with a zero byte"))
            }
            _ => Ok(entry),
        }
    }

    /// With a helper docker writes `{}` to say that there is something.
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identity_token, &self.access_token]
            .iter()
            .all(|text| text.is_empty())
    }

    fn read(&self, key: &str) -> Result<Credentials> {
        if !self.access_token.is_empty() {
            if !self.access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let what = format!("credentials of {key:?}: a registrytoken with what no token has in it");
                return Err(Error::new(ErrorKind::InvalidData, what));
            }
            return Ok(Credentials(Kind::Bearer(Secret::new(&self.access_token))));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(config: &serde_json::Value, name: &str) -> Result<Credentials> {
        let name: Reference = name.parse().unwrap();
        serde_json::from_value::<Config>(config.clone()).unwrap().find(name.domain(), Some(name.path()), None)
    }

    #[test]
    fn the_nearest_entry_counts() {
        let auth = |text: &str| json!({"auth": BASE64_STANDARD.encode(text)});
        let broken = json!({"auths": {"r.example": {"registrytoken": "a\nb"}}});
        assert_eq!(find(&broken, "r.example/x").unwrap_err().kind(), ErrorKind::InvalidData);
        let config = json!({"auths": {
            "r.example": auth("registry:1"),
            "r.example/team": auth("team:2:3"),
            "https://index.docker.io/v1/": auth("hub:4"),
            "https://old.example/v1/": auth("old:5"),
            "token.example": {"auth": BASE64_STANDARD.encode("u:p"), "identitytoken": "t"},
            "plain.example:5000": {"username": "u", "password": "p"},
            "empty.example": {},
            "bad.example": {"auth": "%"},
            "twice.example": auth("exact:6"),
            "https://twice.example": auth("other:7"),
            "http://twice.example/v1/": auth("other:8"),
            "v1.example/v1/": auth("v1:9"),
            "v2.example/v1": auth("v2:10"),
            "null.example": null,
            "bearer.example": {"auth": BASE64_STANDARD.encode("u:p"), "registrytoken": "a"},
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
            ("twice.example/x", Credentials::basic("exact", "6")),
            ("v1.example/x", Credentials::basic("v1", "9")),
            ("v2.example/x", Credentials::basic("v2", "10")),
            ("null.example/x", Credentials::anonymous()),
            ("bearer.example/x", Credentials(Kind::Bearer(Secret::new("a")))),
        ] {
            assert!(find(&config, name).unwrap() == want, "{name}");
        }
        let error = find(&config, "bad.example/x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn names_of_helpers_are_names() {
        for helper in ["../../bin/sh", "a b"] {
            let config = json!({"credHelpers": {"r.example": helper}});
            assert_eq!(find(&config, "r.example/x").unwrap_err().kind(), ErrorKind::InvalidData);
        }
        // None: the file, in place of who keeps all others.
        let store = "coracle-has-none-of-this-name";
        let auths = json!({"r.example": {"auth": "bWU6cHc="}});
        let config = json!({"credHelpers": {"r.example": ""}, "credsStore": store, "auths": auths});
        assert!(find(&config, "r.example/x").is_ok());
        assert!(find(&config, "other.example/x").is_err());
        let config = json!({"credsStore": "coracle-has-none-of-this-name"});
        let error = find(&config, "r.example/x").unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.remedy().is_some(), "{error}");
    }
}
