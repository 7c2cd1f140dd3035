//! One file from a URL, for who builds: the same client as for registries, without credentials.
#![forbid(unsafe_code)]

use super::RETRIES;
use super::date::date;
use super::http::{Client, Method, Request, Settings};
use super::url::Url;
use crate::error::{Error, ErrorKind, Result};
use std::io::{self, Read};
use std::time::{Instant, SystemTime};

/// What a server answered.
pub(crate) struct Fetch {
    /// Not verified.
    pub(crate) body: Box<dyn Read + Send>,
    /// Last-Modified (RFC 9110, 8.8.2).
    pub(crate) modified: Option<SystemTime>,
}

/// As much at the least rate that a transfer has to keep.
const BYTES_MAX: u64 = 256 << 30;

/// Asks for a file. `verified`: what comes is compared with a digest, so anybody on the way may see it and nobody change it; else it
/// comes over TLS, or from this machine. After `until` nothing more comes.
///
/// # Errors
/// As of a pull: `NotFound` (404), `PermissionDenied`, `Network`, `TimedOut`.
pub(crate) fn fetch(url: &str, verified: bool, until: Option<Instant>) -> Result<Fetch> {
    let parsed = Url::parse(url)
        .map_err(|error| error.with_kind(ErrorKind::InvalidInput).during("reading the address"))?;
    let mut settings = Settings { retries: RETRIES, parallel: 1, until, ..Settings::default() };
    if verified {
        settings.plain.push(parsed.host.clone());
    }
    if !parsed.tls && !verified && !parsed.is_loopback() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{parsed}: plain HTTP, where anybody may change it"),
        )
        .with_remedy("use https://, or give its digest: ADD --checksum=sha256:…"));
    }
    let client = Client::for_host(&settings, &parsed.host)?;
    let request =
        Request { method: Method::GetBlob(BYTES_MAX), url: &parsed, headers: &[], authorization: None };
    let answer = client.send(&request)?;
    if answer.status != 200 {
        let kind = match answer.status {
            404 | 410 => ErrorKind::NotFound,
            401 | 403 => ErrorKind::PermissionDenied,
            _ => ErrorKind::Network,
        };
        return Err(Error::new(kind, format!("{}: status {}", answer.step, answer.status)));
    }
    let modified = answer.header("last-modified").and_then(|text| date(text, SystemTime::now()));
    let step = answer.step.clone();
    // The client lives as long as its connection.
    let body = Body { step, inner: answer.into_reader(), _client: client };
    Ok(Fetch { body: Box::new(body), modified })
}

struct Body<R> {
    step: String,
    inner: R,
    _client: Client,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => super::http::broken_body(&self.step, error).into(),
        })
    }
}
