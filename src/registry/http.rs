//! HTTP for registries: one request and what comes of it.
//!
//! - **Redirects** are followed here, at most ten; with a body or for a POST only those that keep the method (307, 308). What authorises a request goes to the host, port and
//!   scheme that it was meant for and to no other. From TLS none leads to plain HTTP, and to plain HTTP only where it is allowed.
//! - **Time.** All that a registry does has an end (`pace`): each wait for the next bytes, a head and a document as a whole, and a
//!   blob by the least rate at which it has to go on. Where whoever asked has a deadline (a build), all of it ends then.
//! - **Again.** What says that it may pass (408, 429 with Retry-After, 5xx, a connection that is reset or silent) is tried again,
//!   later each time. A transfer that was given up stops at once.
#![forbid(unsafe_code)]

use super::date::retry_after;
use super::pace::{Pace, Steady};
use super::proxy::{Proxies, Proxy};
use super::secret::Secret;
use super::tls::Tls;
use super::url::Url;
use crate::error::{Error, ErrorKind, Result};
use rustls::ClientConfig;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use ureq::http;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

const REDIRECTS_MAX: usize = 10;
/// The first wait before another try; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Who is told to wait longer than this is told the error instead.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What an answer that is an error may say.
const SAID_MAX: u64 = 64 << 10;
const SHOWN_MAX: usize = 300;
/// A body of more bytes is sent when the registry wants it (RFC 9110, 10.1.1), or says nothing for a second: what it refuses, or
/// has elsewhere, it says before.
const UNASKED: u64 = 1 << 20;

/// Connections, and what all requests of a pull or a push have in common.
pub(super) struct Client {
    agents: Agents,
    /// For other hosts than the registry's, where there are certificates for that alone.
    others: Option<Agents>,
    /// The registry's host.
    home: String,
    proxies: Proxies,
    /// Hosts, with their ports, that are spoken to without TLS.
    plain: Vec<String>,
    /// Whether this machine itself is.
    plain_here: bool,
    tries: u32,
    pace: Pace,
    until: Option<Instant>,
    stop: Stop,
    /// What is taken out of texts from outside.
    secrets: Mutex<Vec<Secret>>,
}

/// What makes connections and keeps them.
struct Agents {
    /// With nothing between.
    direct: ureq::Agent,
    /// Through a proxy, for TLS and for plain HTTP.
    tls: ureq::Agent,
    plain: ureq::Agent,
}

impl Agents {
    /// `others` is what is for no host alone.
    fn new(
        settings: &Settings,
        proxies: &Proxies,
        tls: &Arc<ClientConfig>,
        others: &Arc<ClientConfig>,
    ) -> Self {
        let pace = settings.pace;
        let config = || {
            ureq::Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
                // Whatever else in the program turned on: a digest is over the bytes as they are.
                .accept_encoding("")
                .timeout_connect(Some(pace.connect()))
                .timeout_per_read(Some(pace.silence()))
                .timeout_per_write(Some(pace.silence()))
                .timeout_send_request(Some(pace.silence()))
                .timeout_recv_response(Some(pace.silence()))
                .timeout_recv_body(Some(pace.document()))
                .max_idle_connections(settings.parallel + 1)
                .max_idle_connections_per_host(settings.parallel + 1)
        };
        let agent = |proxy: Option<&ureq::Proxy>| {
            let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
            let config = config().proxy(proxy.cloned()).build();
            let tls = Tls { config: tls.clone(), proxy: proxy.map(|_| others.clone()) };
            ureq::Agent::with_parts(config, connector.chain(tls), DefaultResolver::default())
        };
        let direct = agent(None);
        let by = |proxy: &Proxy| match proxy {
            Proxy::Through(proxy) => agent(Some(proxy)),
            _ => direct.clone(),
        };
        Self { tls: by(&proxies.tls), plain: by(&proxies.plain), direct }
    }
}

/// How the connections are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) plain: Vec<String>,
    /// Certificates in PEM form beside the system's roots.
    pub(super) roots: Vec<Vec<u8>>,
    /// The same, but for the registry's host alone.
    pub(super) own_roots: Vec<Vec<u8>>,
    /// Who one is to a registry that asks for it in TLS: a chain and its key, PEM.
    pub(super) client: Option<(Vec<u8>, Secret)>,
    /// A directory with both, in place of those of this machine.
    pub(super) certificates: Option<PathBuf>,
    pub(super) retries: u32,
    pub(super) pace: Pace,
    /// When all of it has to be done.
    pub(super) until: Option<Instant>,
    /// Idle connections that are kept.
    pub(super) parallel: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Method<'a> {
    /// For a document.
    Get,
    /// For so many bytes of a blob.
    GetBlob(u64),
    Head,
    /// A form, `application/x-www-form-urlencoded`.
    Post(&'a str),
    /// A POST of nothing, which begins something.
    Begin,
    Put(&'a Payload<'a>),
}

/// The body of a PUT.
pub(super) struct Payload<'a> {
    pub(super) media_type: &'a str,
    pub(super) size: u64,
    pub(super) content: &'a dyn Content,
}

/// What is opened for each request that it goes with.
pub(super) trait Content {
    fn open(&self) -> Box<dyn Read + '_>;
}

impl Content for &[u8] {
    fn open(&self) -> Box<dyn Read + '_> {
        Box::new(*self)
    }
}

pub(super) struct Request<'a> {
    pub(super) method: Method<'a>,
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(&'static str, String)],
    /// The value of the Authorization header.
    pub(super) authorization: Option<Secret>,
}

impl Request<'_> {
    fn verb(&self) -> &'static str {
        match self.method {
            Method::Get | Method::GetBlob(_) => "GET",
            Method::Head => "HEAD",
            Method::Post(_) | Method::Begin => "POST",
            Method::Put(_) => "PUT",
        }
    }

    /// Whether a redirect of this status is followed; others would make another request of it.
    fn follows(&self, status: u16) -> bool {
        match self.method {
            Method::Get | Method::GetBlob(_) | Method::Head => matches!(status, 301 | 302 | 303 | 307 | 308),
            Method::Begin | Method::Put(_) => matches!(status, 307 | 308),
            Method::Post(_) => false,
        }
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    /// The request it answers, for people.
    pub(super) step: String,
    /// Who answered, after all redirects.
    pub(super) from: Url,
    pace: Pace,
    /// A blob was asked for, whose time goes by its size.
    of_blob: bool,
    response: http::Response<ureq::Body>,
}

pub(super) type BodyReader = Steady<ureq::BodyReader<'static>>;

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Where it leads, in whatever bytes.
    pub(super) fn location(&self) -> Option<&[u8]> {
        Some(self.response.headers().get(http::header::LOCATION)?.as_bytes())
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    pub(super) fn into_reader(self) -> BodyReader {
        self.pace.steady(self.response.into_body().into_reader())
    }

    /// The body, which is a document: read whole.
    pub(super) fn read(self, max: u64) -> Result<Vec<u8>> {
        let step = self.step.clone();
        let too_large =
            || Error::new(ErrorKind::TooLarge, format!("{step}: an answer of more than {max} bytes"));
        if self.number("content-length").is_some_and(|length| length > max) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        self.into_reader().take(max + 1).read_to_end(&mut body).map_err(|error| broken_body(&step, error))?;
        if body.len() as u64 > max { Err(too_large()) } else { Ok(body) }
    }
}

impl Client {
    /// For one registry, with what this machine has for it.
    pub(super) fn of(settings: &Settings, registry: &str) -> Result<Self> {
        Self::new(&settings.of(registry)?, Url::of_registry(registry, true)?.host)
    }

    /// For any host, with nothing of what this machine has for registries.
    #[cfg(feature = "build")]
    pub(super) fn for_host(settings: &Settings, host: &str) -> Result<Self> {
        Self::new(settings, host.to_owned())
    }

    fn new(settings: &Settings, home: String) -> Result<Self> {
        let (own, proxies) = (settings.tls(true)?, Proxies::of_environment());
        // Whoever else is spoken to on the way: a token service, where blobs are, a proxy.
        let (others, of_others) = match settings.is_for_home() {
            true => {
                let tls = settings.tls(false)?;
                (Some(Agents::new(settings, &proxies, &tls, &tls)), tls)
            }
            false => (None, own.clone()),
        };
        Ok(Self {
            agents: Agents::new(settings, &proxies, &own, &of_others),
            proxies,
            others,
            home,
            plain: settings.plain.clone(),
            plain_here: !settings.has_certificates(),
            tries: settings.retries.saturating_add(1),
            pace: settings.pace,
            until: settings.until,
            stop: Stop::default(),
            secrets: Mutex::new(Vec::new()),
        })
    }

    /// What connects to a host.
    fn agent(&self, url: &Url) -> &ureq::Agent {
        let agents = self.others.as_ref().filter(|_| url.host != self.home).unwrap_or(&self.agents);
        match self.proxies.to(url) {
            Proxy::Through(_) if url.tls => &agents.tls,
            Proxy::Through(_) => &agents.plain,
            // A foreign one is an error before it comes to this.
            Proxy::None | Proxy::Foreign(_) => &agents.direct,
        }
    }

    /// Whether this host may be spoken to without TLS.
    pub(super) fn allows_plain(&self, url: &Url) -> bool {
        (self.plain_here && url.is_loopback())
            || self
                .plain
                .iter()
                .any(|host| *host == url.host || *host == format!("{}:{}", url.host, url.port))
    }

    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// Ends all waiting and all transfers, now and later.
    pub(super) fn stop(&self) {
        self.stop.set();
        for agents in self.others.iter().chain([&self.agents]) {
            for agent in [&agents.direct, &agents.tls, &agents.plain] {
                agent.clone().shutdown();
            }
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_set()
    }

    /// When all of it has to be done.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What is left of the time, where it has an end.
    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    fn is_late(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// What is never to be read in a text.
    pub(super) fn hide(&self, secret: &Secret) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if !secrets.contains(secret) {
            secrets.push(secret.clone());
        }
    }

    /// An error as it may be seen: what a registry repeats of a secret, in whatever it sends, is not in it. Each error that leaves
    /// what talks to a registry, or goes into a trace, comes by here.
    pub(super) fn scrubbed(&self, error: Error) -> Error {
        error.reworded(&|text| self.scrub(text))
    }

    fn scrub(&self, text: &str) -> String {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.iter().fold(text.to_owned(), |text, secret| secret.scrub(text))
    }

    /// Sends a request, follows where it is sent on to, and tries again what may pass. Any status but those is an answer.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer> {
        self.again(|| self.attempt(request))
    }

    /// The same once.
    pub(super) fn attempt(&self, request: &Request<'_>) -> std::result::Result<Answer, Failed> {
        let answer = self.follow(request)?;
        if !passes(answer.status) {
            return Ok(answer);
        }
        let wait = answer.header("retry-after").and_then(|text| retry_after(text, SystemTime::now()));
        Err(Failed { error: self.refused(answer), may_pass: true, wait })
    }

    /// Does what may fail for a while, until it does not or the tries are used up.
    pub(super) fn again<T>(&self, mut attempt: impl FnMut() -> std::result::Result<T, Failed>) -> Result<T> {
        let mut tried = 1;
        loop {
            let Failed { error, may_pass, wait } = match attempt() {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let error = self.scrubbed(error);
            if !may_pass || self.is_late() {
                return Err(error);
            }
            if tried >= self.tries || wait.is_some_and(|wait| wait > LONGEST_WAIT) {
                return Err(match wait {
                    Some(wait) => error.with_remedy(format!("try again in {} s", wait.as_secs())),
                    None => error,
                });
            }
            tracing::debug!(%error, tried, "a request is tried again");
            self.wait(tried, wait)?;
            tried += 1;
        }
    }

    /// Waits before the next try: as long as was asked for, or longer each time.
    pub(super) fn wait(&self, tried: u32, asked: Option<Duration>) -> Result<()> {
        let own = FIRST_WAIT.saturating_mul(1 << tried.saturating_sub(1).min(8));
        let time = asked.unwrap_or(own).min(LONGEST_WAIT).min(self.left().unwrap_or(Duration::MAX));
        match self.stop.wait(time) {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    fn follow(&self, request: &Request<'_>) -> std::result::Result<Answer, Failed> {
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            if self.is_stopped() {
                return Err(stopped().into());
            }
            let step = format!("{} {url}", request.verb());
            if self.is_late() {
                return Err(Error::new(ErrorKind::TimedOut, format!("{step}: the time for it is up")).into());
            }
            if !url.tls && !self.allows_plain(&url) {
                let to = if url.is_loopback() { "where TLS was asked for" } else { "to another machine" };
                return Err(Error::new(ErrorKind::InvalidData, format!("{step}: plain HTTP {to}"))
                    .with_remedy(
                        "nobody on the way may read or change it: allow it by name, Pull::plain_http",
                    )
                    .into());
            }
            if let Proxy::Foreign(proxy) = self.proxies.to(&url) {
                let what = format!("{step}: by the {proxy} that the environment names");
                let error = Error::new(ErrorKind::Unsupported, what);
                return Err(error
                    .with_remedy(
                        "name an http:// one in HTTPS_PROXY or HTTP_PROXY, or the registry in NO_PROXY",
                    )
                    .into());
            }
            let authorization = request.authorization.as_ref().filter(|_| url.is_same_origin(request.url));
            let once = |expects| {
                self.once(request, &url, authorization, expects).map_err(|error| failed(&step, error))
            };
            let mut response = once(true)?;
            // Who does not know what it is asked for is sent the body unasked (RFC 9110, 10.1.1).
            if response.status() == http::StatusCode::EXPECTATION_FAILED {
                response = once(false)?;
            }
            let status = response.status().as_u16();
            let of_blob = matches!(request.method, Method::GetBlob(_));
            let answer = Answer { status, step, from: url, pace: self.pace, of_blob, response };
            if !request.follows(status) {
                return Ok(answer);
            }
            let at = |error: Error| error.during(format!("following a redirect of {}", answer.step));
            let Some(location) = answer.location() else {
                return Err(at(Error::new(ErrorKind::InvalidData, "a redirect to nowhere")).into());
            };
            let next = answer.from.join(location).map_err(at)?;
            if answer.from.tls && !next.tls {
                let what = format!("a redirect from TLS to plain HTTP, {next}");
                return Err(at(Error::new(ErrorKind::InvalidData, what)).into());
            }
            url = next;
        }
        let what = format!("{} {}: more than {REDIRECTS_MAX} redirects", request.verb(), request.url);
        Err(Error::new(ErrorKind::InvalidData, what).into())
    }

    fn once(
        &self,
        request: &Request<'_>,
        url: &Url,
        authorization: Option<&Secret>,
        expects: bool,
    ) -> std::result::Result<http::Response<ureq::Body>, ureq::Error> {
        let mut builder = http::Request::builder().method(request.verb()).uri(url.whole());
        for (name, value) in request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(secret) = authorization {
            let mut value = http::HeaderValue::from_str(secret.reveal()).map_err(http::Error::from)?;
            value.set_sensitive(true);
            builder = builder.header(http::header::AUTHORIZATION, value);
        }
        let (agent, left) = (self.agent(url), self.left());
        match request.method {
            Method::Post(form) => {
                let builder = builder.header("content-type", "application/x-www-form-urlencoded");
                agent.run(agent.configure_request(builder.body(form)?).timeout_global(left).build())
            }
            Method::Begin => {
                agent.run(agent.configure_request(builder.body("")?).timeout_global(left).build())
            }
            Method::Put(payload) => {
                let mut builder =
                    builder.header("content-type", payload.media_type).header("content-length", payload.size);
                if expects && payload.size > UNASKED {
                    builder = builder.header("expect", "100-continue");
                }
                let mut body = payload.content.open();
                let request = builder.body(ureq::SendBody::from_reader(&mut body))?;
                let whole = self.pace.blob(payload.size);
                let request = agent.configure_request(request).timeout_send_body(Some(whole));
                agent.run(request.timeout_global(left).build())
            }
            Method::GetBlob(bytes) => {
                let request = agent.configure_request(builder.body(())?);
                let whole = self.pace.blob(bytes);
                agent.run(request.timeout_recv_body(Some(whole)).timeout_global(left).build())
            }
            Method::Get | Method::Head => {
                agent.run(agent.configure_request(builder.body(())?).timeout_global(left).build())
            }
        }
    }

    /// The error of a status that is one.
    pub(super) fn refused(&self, answer: Answer) -> Error {
        self.refusal(answer).0
    }

    /// The same, and the codes that the registry gives for it.
    pub(super) fn refusal(&self, answer: Answer) -> (Error, Vec<String>) {
        let reason = answer.response.status().canonical_reason().unwrap_or("no name for it");
        let (status, step, from) = (answer.status, answer.step.clone(), answer.from.clone());
        let mut said = Vec::new();
        // Only words: without them the error is as good. What is in chunks may take a blob's time.
        if !answer.of_blob || answer.number("content-length").is_some() {
            let _ = answer.into_reader().take(SAID_MAX).read_to_end(&mut said);
        }
        let (said, codes) = registry_says(&said);
        let said = self.clean(&said);
        let error = |kind| Error::new(kind, format!("{step}: {status} {reason}{said}"));
        let error = match status {
            401 | 403 => error(ErrorKind::PermissionDenied).with_remedy(
                "check the name; a private repository wants credentials: log in (RegistryClient::login, docker login), or Pull::credentials",
            ),
            404 => error(ErrorKind::NotFound).with_remedy("check the name and the tag"),
            // What servers say that were spoken to without the TLS that they want.
            400 if !from.tls && codes.is_empty() => error(ErrorKind::Network)
                .with_remedy("where it speaks TLS, give its certificate: Pull::root_certificates"),
            405 => error(ErrorKind::Unsupported).with_remedy("this registry may be for reading only"),
            413 => {
                error(ErrorKind::TooLarge).with_remedy("have the registry, or the proxy before it, take more")
            }
            416 => error(ErrorKind::Mismatch),
            429 => error(ErrorKind::Network)
                .with_remedy("try again later; with credentials a registry answers more requests"),
            _ => error(ErrorKind::Network),
        };
        (error, codes)
    }

    fn clean(&self, text: &str) -> String {
        // Before it is cut, so that no half of a secret stays.
        let shown: String =
            self.scrub(text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX).collect();
        if shown.is_empty() { shown } else { format!(" ({shown})") }
    }
}

/// distribution-spec, "Error Codes": `{"errors": [{"code", "message"}]}`.
fn registry_says(body: &[u8]) -> (String, Vec<String>) {
    #[derive(serde::Deserialize)]
    struct Said {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(said) = serde_json::from_slice::<Said>(body) else { return Default::default() };
    let text: Vec<_> = said.errors.iter().map(|one| format!("{}: {}", one.code, one.message)).collect();
    (text.join("; "), said.errors.into_iter().map(|one| one.code).collect())
}

fn passes(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// What went wrong, and whether another try may go better.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) may_pass: bool,
    /// How long the registry asks to be left alone.
    pub(super) wait: Option<Duration>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, may_pass: false, wait: None }
    }
}

/// What was stopped because something else failed: that knows why.
pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::Gone, "the transfer was given up")
}

/// An error on the way. Texts of the HTTP library may have an address with its query in them: none is taken over.
fn failed(step: &str, error: ureq::Error) -> Failed {
    let of = |kind, what: &str, may_pass| Failed {
        error: Error::new(kind, format!("{step}: {what}")),
        may_pass,
        wait: None,
    };
    match error {
        // What was to be sent could not be read: no connection's fault.
        ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
            Error::os(step.to_owned(), error).into()
        }
        ureq::Error::Io(error) => {
            Failed { may_pass: is_passing(&error), error: of_io(step, error), wait: None }
        }
        ureq::Error::Timeout(_) => of(ErrorKind::TimedOut, "no answer in time", true),
        ureq::Error::HostNotFound => of(ErrorKind::Network, "no such host", false),
        ureq::Error::ConnectionFailed => of(ErrorKind::Network, "no connection", true),
        ureq::Error::Rustls(error) => Failed {
            error: Error::new(ErrorKind::Network, format!("{step}: TLS")).with_source(error),
            may_pass: false,
            wait: None,
        },
        ureq::Error::Tls(why) => of(ErrorKind::Network, why, false),
        ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => of(
            ErrorKind::Network,
            "the proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY does not connect",
            false,
        ),
        ureq::Error::BodyStalled => of(ErrorKind::Network, "the connection ended early", true),
        _ => of(ErrorKind::InvalidData, "not an HTTP answer", false),
    }
}

fn of_io(step: &str, error: io::Error) -> Error {
    let timed_out = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
    let kind = if timed_out { ErrorKind::TimedOut } else { ErrorKind::Network };
    Error::os(step.to_owned(), error).with_kind(kind)
}

/// Whether what broke a connection may be gone the next time.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    // InvalidData: what TLS says of a certificate.
    !matches!(error.kind(), K::InvalidData | K::InvalidInput | K::ConnectionRefused | K::NotFound)
}

/// The error of a body that broke off.
pub(super) fn broken_body(step: &str, error: io::Error) -> Error {
    match error.downcast::<ureq::Error>() {
        Ok(error) => failed(step, error).error,
        Err(error) => of_io(step, error),
    }
}

/// Whether a transfer was given up, and a sleep that ends then.
#[derive(Default)]
struct Stop {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was set within this time.
    fn wait(&self, time: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(set, time, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_those_that_are_named() {
        let plain = ["a.lan", "b.lan:80", "c.lan:5000"].map(str::to_owned).to_vec();
        let client = Client::of(&Settings { plain, ..Settings::default() }, "a.lan").unwrap();
        for (host, is_allowed) in [
            ("a.lan", true),
            ("a.lan:5000", true),
            ("b.lan", true),
            ("b.lan:80", true),
            ("b.lan:5000", false),
            ("c.lan:5000", true),
            ("c.lan", false),
            ("d.lan", false),
            ("localhost:5000", true),
        ] {
            assert_eq!(client.allows_plain(&Url::of_domain(host, false).unwrap()), is_allowed, "{host}");
        }
    }
}
