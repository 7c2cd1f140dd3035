//! How a registry lets one in: what it asks for with 401 (RFC 9110, 11.6.1), and the tokens of its token service
//! (distribution's `spec/auth/token.md` and `oauth.md`).
//!
//! **Whom credentials go to.** Basic ones to the registry itself, over TLS or where plain HTTP is allowed. For a token they
//! go to the service that the registry names: over TLS to any host, as docker.io has auth.docker.io; a registry without TLS may only
//! name itself, as anybody on the way could write another name there. Tokens go to the registry alone.
#![forbid(unsafe_code)]

use super::credentials::{Credentials, Kind};
use super::http::{Answer, Client, Method, Request};
use super::secret::Secret;
use super::url::{Url, escape};
use crate::error::{Error, ErrorKind, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::time::{Duration, Instant};

const TOKEN_MAX: u64 = 1 << 20;
/// How long a token holds that does not say so (`token.md`, `expires_in`).
const LIFE: Duration = Duration::from_secs(60);
const LIFE_MAX: Duration = Duration::from_secs(86_400);
/// A token is renewed before it may end on the way.
const EARLY: Duration = Duration::from_secs(10);
const CLIENT_ID: &str = "coracle";

/// What goes with each request.
#[derive(Default)]
pub(super) enum Auth {
    #[default]
    None,
    Basic(Secret),
    Bearer {
        header: Secret,
        until: Instant,
        challenge: Challenge,
    },
}

impl Auth {
    /// The header for a request now; `None` with a challenge to be met again when the token has ended.
    pub(super) fn header(&self) -> Option<Secret> {
        match self {
            Self::None => None,
            Self::Basic(header) | Self::Bearer { header, .. } => Some(header.clone()),
        }
    }

    /// The challenge of a token that has ended.
    pub(super) fn ended(&self) -> Option<Challenge> {
        match self {
            Self::Bearer { until, challenge, .. } if *until <= Instant::now() => Some(challenge.clone()),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Of all that a registry asks for, what is known here: a token rather than a password.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        let all: Vec<_> = answer.all("www-authenticate").flat_map(parse).collect();
        all.iter().find(|challenge| **challenge != Self::Basic).or(all.first()).cloned()
    }
}

/// What a token is to allow.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    own: String,
    /// A part of it, which a registry asks for when that is all that a request needs.
    part: Option<String>,
    /// Scopes beside.
    more: Vec<String>,
}

impl Wanted {
    /// This scope, beside what the registry says.
    pub(super) fn scope(own: String) -> Self {
        Self { own, part: None, more: Vec::new() }
    }

    pub(super) fn pull(path: &str) -> Self {
        Self::scope(format!("repository:{path}:pull"))
    }

    /// Pushing to a repository, from where blobs of others are taken.
    pub(super) fn push(path: &str, from: &[String]) -> Self {
        let pull = |path: &str| format!("repository:{path}:pull");
        let more = from.iter().map(|from| pull(from)).collect();
        Self { own: format!("{},push", pull(path)), part: Some(pull(path)), more }
    }

    /// Without what is beside; `None` where nothing is.
    pub(super) fn alone(&self) -> Option<Self> {
        (!self.more.is_empty()).then(|| Self { more: Vec::new(), ..self.clone() })
    }

    /// The scopes to ask for: those that the registry wants for a request and all that will be wanted, at once. What one of them
    /// allows another does not say again.
    fn scopes(&self, asked: Option<&str>) -> Vec<String> {
        let whole =
            |scope: &str| if self.part.as_deref() == Some(scope) { &self.own } else { scope }.to_owned();
        let mut scopes: Vec<_> = asked.unwrap_or_default().split_whitespace().map(whole).collect();
        for scope in [&self.own].into_iter().chain(&self.more) {
            if !scopes.iter().any(|other| allows(other, scope)) {
                scopes.push(scope.clone());
            }
        }
        scopes
    }
}

/// Whether a scope has all of another (`token.md`: TYPE:NAME:ACTION,ACTION).
fn allows(scope: &str, other: &str) -> bool {
    match (scope.rsplit_once(':'), other.rsplit_once(':')) {
        (Some((resource, actions)), Some((same, wanted))) => {
            let has = |action| actions.split(',').any(|own| own == action);
            resource == same && wanted.split(',').all(has)
        }
        _ => scope == other,
    }
}

/// Meets a challenge.
pub(super) fn meet(
    client: &Client,
    registry: &Url,
    challenge: Challenge,
    credentials: &Credentials,
    wanted: &Wanted,
) -> Result<Auth> {
    Ok(authorize(client, registry, challenge, credentials, Some(wanted))?.0)
}

/// Meets the challenge of a registry that one wants to be known to, of no repository. Also what is to be kept in place of
/// a password, where the token service gives something for it (`offline_token`).
pub(super) fn meet_to_stay(
    client: &Client,
    registry: &Url,
    challenge: Challenge,
    credentials: &Credentials,
) -> Result<(Auth, Option<Credentials>)> {
    authorize(client, registry, challenge, credentials, None)
}

fn authorize(
    client: &Client,
    registry: &Url,
    challenge: Challenge,
    credentials: &Credentials,
    wanted: Option<&Wanted>,
) -> Result<(Auth, Option<Credentials>)> {
    if let (Challenge::Bearer { .. }, Kind::Bearer(token)) = (&challenge, &credentials.0) {
        client.hide(token);
        let header = Secret::new(format!("Bearer {}", token.reveal()));
        return Ok((Auth::Bearer { header, until: Instant::now() + LIFE_MAX, challenge }, None));
    }
    let Challenge::Bearer { realm, service, scope: asked } = &challenge else {
        return match &credentials.0 {
            Kind::Basic { user, password } => Ok((Auth::Basic(basic(client, user, password)), None)),
            Kind::Anonymous | Kind::Refresh(_) | Kind::Bearer(_) => Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("{registry} asks for a name and a password"),
            )
            .with_remedy("log in (RegistryClient::login, docker login), or Pull::credentials")),
        };
    };
    let realm = Url::parse(realm).map_err(|error| error.during("reading where the registry gives tokens"))?;
    refuse_strangers(registry, &realm)?;
    let stays = wanted.is_none();
    let scopes = match wanted {
        Some(wanted) => wanted.scopes(asked.as_deref()),
        None => asked.iter().cloned().collect(),
    };
    let headers = [("accept", "application/json".to_owned())];
    let answer = match &credentials.0 {
        Kind::Refresh(token) => {
            client.hide(token);
            // As it is sent, too.
            client.hide(&Secret::new(escape(token.reveal())));
            let service = service.as_deref().unwrap_or(&registry.host);
            let mut form = format!(
                "grant_type=refresh_token&refresh_token={}&client_id={CLIENT_ID}&service={}",
                escape(token.reveal()),
                escape(service)
            );
            if !scopes.is_empty() {
                form = format!("{form}&scope={}", escape(&scopes.join(" ")));
            }
            let method = Method::Post(&form);
            client.send(&Request { method, url: &realm, headers: &headers, authorization: None })?
        }
        known => {
            let authorization = match known {
                Kind::Basic { user, password } => Some(basic(client, user, password)),
                _ => None,
            };
            let mut url = realm;
            if let Some(service) = service {
                url = url.with_parameter("service", service);
            }
            for scope in &scopes {
                url = url.with_parameter("scope", scope);
            }
            if stays {
                url = url.with_parameter("offline_token", "true").with_parameter("client_id", CLIENT_ID);
            }
            client.send(&Request { method: Method::Get, url: &url, headers: &headers, authorization })?
        }
    };
    if answer.status != 200 {
        return Err(client.refused(answer).during("asking for a token"));
    }
    let step = answer.step.clone();
    #[derive(Deserialize)]
    struct Told {
        token: Option<String>,
        access_token: Option<String>,
        refresh_token: Option<String>,
        expires_in: Option<u64>,
    }
    // Without serde's text, which may quote it.
    let told = serde_json::from_slice::<Told>(&answer.read(TOKEN_MAX)?).ok();
    let Some(told) = told else {
        return Err(Error::new(ErrorKind::InvalidData, format!("{step}: no token in the answer")));
    };
    let token = [told.token, told.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let Some(token) = token.filter(|token| token.bytes().all(|b| b.is_ascii_graphic())) else {
        return Err(Error::new(ErrorKind::InvalidData, format!("{step}: no token in the answer")));
    };
    let life = told.expires_in.map_or(LIFE, Duration::from_secs).max(LIFE).min(LIFE_MAX);
    client.hide(&Secret::new(&token));
    let refresh = told.refresh_token.filter(|token| stays && !token.is_empty());
    let refresh = refresh.map(|token| {
        client.hide(&Secret::new(&token));
        Credentials::identity_token(token)
    });
    let auth = Auth::Bearer {
        header: Secret::new(format!("Bearer {token}")),
        until: Instant::now() + life - EARLY,
        challenge,
    };
    Ok((auth, refresh))
}

/// What a password goes with unasked.
pub(super) fn unasked(client: &Client, credentials: &Credentials) -> Auth {
    match &credentials.0 {
        Kind::Basic { user, password } => Auth::Basic(basic(client, user, password)),
        _ => Auth::None,
    }
}

fn basic(client: &Client, user: &str, password: &Secret) -> Secret {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{}", password.reveal()));
    client.hide(password);
    client.hide(&Secret::new(&encoded));
    Secret::new(format!("Basic {encoded}"))
}

/// A token service that credentials may not go to.
fn refuse_strangers(registry: &Url, realm: &Url) -> Result<()> {
    let why = match (registry.tls, realm.tls) {
        (true, false) => "without TLS",
        (false, _) if registry.host != realm.host => {
            "on another host, which a registry without TLS can't be trusted to name"
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidData, format!("{registry} names a token service {why}: {realm}")))
}

/// The challenges of one header that are known here. `Bearer realm="https://…",service="…", Basic realm="x"`.
fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header.trim_start();
    let mut scheme = "";
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut end = |scheme: &str, parameters: &mut Vec<(String, String)>| {
        let mut take = |name: &str| {
            let at = parameters.iter().position(|(other, _)| other == name)?;
            Some(parameters.swap_remove(at).1)
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = take("realm")
        {
            found.push(Challenge::Bearer { realm, service: take("service"), scope: take("scope") });
        }
        parameters.clear();
    };
    while !rest.is_empty() {
        let word = rest.split([' ', ',', '=']).next().unwrap_or_default();
        let after = rest[word.len()..].trim_start();
        match after.strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, after) = value_of(value.trim_start());
                parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            _ => {
                if !word.is_empty() {
                    end(scheme, &mut parameters);
                    scheme = word;
                }
                rest = after.strip_prefix('=').unwrap_or(after);
            }
        }
        rest = rest.trim_start_matches([',', ' ', '\t']);
    }
    end(scheme, &mut parameters);
    found
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn challenges_are_read_as_rfc_9110_writes_them() {
        for (header, want) in [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://a/t\",service=\"r\",scope=\"repository:a/b:pull,push\"",
                vec![bearer("https://a/t", Some("r"), Some("repository:a/b:pull,push"))],
            ),
            ("Bearer realm = https://a , service=r", vec![bearer("https://a", Some("r"), None)]),
            (
                "Basic realm=\"a, b=\\\"c\\\"\", Bearer realm=\"https://a/t\"",
                vec![Challenge::Basic, bearer("https://a/t", None, None)],
            ),
            ("Negotiate, NTLM", vec![]),
            ("Bearer service=\"no realm\"", vec![]),
            ("Bearer realm=\"open", vec![bearer("open", None, None)]),
            ("", vec![]),
            (",,= =", vec![]),
        ] {
            assert_eq!(parse(header), want, "{header}");
        }
    }

    #[test]
    fn what_is_wanted_is_asked_for_at_once() {
        let (pull, push) = (Wanted::pull("a/b"), Wanted::push("a/b", &["c".into()]));
        for (wanted, asked, scopes) in [
            (&pull, None, &["repository:a/b:pull"][..]),
            (&pull, Some(""), &["repository:a/b:pull"]),
            (&pull, Some("repository:p/a/b:pull"), &["repository:p/a/b:pull", "repository:a/b:pull"]),
            (&pull, Some("repository:a/b:pull,push other:x:y"), &["repository:a/b:pull,push", "other:x:y"]),
            (&push, None, &["repository:a/b:pull,push", "repository:c:pull"]),
            (&push, Some("repository:a/b:pull"), &["repository:a/b:pull,push", "repository:c:pull"]),
            (
                &push,
                Some("repository:a/b:push,pull repository:c:pull"),
                &["repository:a/b:push,pull", "repository:c:pull"],
            ),
        ] {
            assert_eq!(wanted.scopes(asked), scopes, "{asked:?}");
        }
    }

    #[test]
    fn tokens_are_asked_for_where_nobody_listens() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (registry, realm, allowed) in [
            ("https://r.example/", "https://auth.example/t", true),
            ("https://r.example/", "http://r.example/t", false),
            ("http://localhost:5000/", "http://localhost:5001/t", true),
            ("http://localhost:5000/", "https://auth.example/t", false),
            ("http://localhost:5000/", "http://127.0.0.1:5000/t", false),
        ] {
            assert_eq!(refuse_strangers(&url(registry), &url(realm)).is_ok(), allowed, "{registry} {realm}");
        }
    }
}
