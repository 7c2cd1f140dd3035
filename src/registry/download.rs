//! A blob on its way. When the connection breaks, it goes on where it was: whoever reads keeps its hash and notices nothing.
#![forbid(unsafe_code)]

use super::http::{BodyReader, broken_body, stopped};
use super::session::Session;
use super::url::Url;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Descriptor, media};
use std::io::{self, Read};

/// So many bytes more make a connection that broke a new one: it may break as often again.
const PROGRESS: u64 = 1 << 20;
/// Of the addresses that a manifest gives for a layer.
const URLS_SHOWN: usize = 3;
const DISCARD: usize = 64 << 10;

pub(super) struct Download<'a> {
    session: &'a Session,
    digest: Digest,
    size: u64,
    /// Of what its maker gives to no registry.
    elsewhere: Option<Error>,
    at: u64,
    body: Option<BodyReader>,
    step: String,
    tried: u32,
    /// Where it stood when tries were counted last.
    counted_at: u64,
    seen: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Download<'a> {
    pub(super) fn new(session: &'a Session, descriptor: &Descriptor, seen: &'a (dyn Fn(u64) + Sync)) -> Self {
        let Descriptor { digest, size, .. } = *descriptor;
        let step = format!("reading the blob {digest}");
        let elsewhere = media::is_elsewhere(&descriptor.media_type).then(|| kept_elsewhere(descriptor));
        Self { session, digest, size, elsewhere, at: 0, body: None, step, tried: 0, counted_at: 0, seen }
    }

    fn wrong_size(&self, size: u64) -> Error {
        let (digest, promised) = (self.digest, self.size);
        Error::new(
            ErrorKind::Mismatch,
            format!("blob {digest}: {size} bytes instead of the promised {promised}"),
        )
    }

    fn open(&mut self) -> Result<()> {
        let answer = match self.session.open_blob(&self.digest, self.at, self.size) {
            // There is nothing after what came: it is shorter than promised.
            Err(error) if error.kind() == ErrorKind::Mismatch && self.at > 0 => {
                return Err(self.wrong_size(self.at).with_source(error));
            }
            // A registry may have it all the same.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(match self.elsewhere.take() {
                    Some(elsewhere) => elsewhere.with_source(error),
                    None => error,
                });
            }
            other => other?,
        };
        self.step.clone_from(&answer.step);
        let length = answer.number("content-length");
        let skip = if answer.status == 206 {
            let range = answer.header("content-range").unwrap_or_default();
            if range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse().ok())
                != Some(self.at)
            {
                let what =
                    format!("{}: bytes {range:.100?} where those from {} were asked for", self.step, self.at);
                return Err(Error::new(ErrorKind::InvalidData, what));
            }
            0
        } else {
            // A server without ranges begins again.
            self.at
        };
        // A registry may say anything.
        let whole = length.map(|length| (self.at - skip).saturating_add(length));
        if let Some(whole) = whole
            && whole != self.size
        {
            return Err(self.wrong_size(whole));
        }
        let mut body = answer.into_reader();
        let mut left = skip;
        let mut buffer = vec![0; if skip > 0 { DISCARD } else { 0 }];
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match body.read(&mut buffer[..most]).map_err(|error| broken_body(&self.step, error))? {
                0 => return Err(self.ended()),
                n => left -= n as u64,
            }
        }
        self.body = Some(body);
        Ok(())
    }

    fn ended(&self) -> Error {
        let (at, size) = (self.at, self.size);
        Error::new(ErrorKind::Network, format!("{}: it ended after {at} of {size} bytes", self.step))
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(body) = &mut self.body else {
            self.open()?;
            return self.next(buffer);
        };
        match body.read(buffer).map_err(|error| broken_body(&self.step, error))? {
            0 if self.at < self.size => Err(self.ended()),
            n => Ok(n),
        }
    }
}

/// Image-spec, "Non-Distributable Layers": a layer that is where its `urls` say. They lead anywhere, so none is followed.
fn kept_elsewhere(descriptor: &Descriptor) -> Error {
    let said = descriptor.extra.get("urls").and_then(|urls| urls.as_array());
    let urls = said.into_iter().flatten().filter_map(|url| Url::parse(url.as_str()?).ok());
    let urls: Vec<_> = urls.take(URLS_SHOWN).map(|url| format!("{:.200}", url.to_string())).collect();
    let at = if urls.is_empty() { "nobody says where".to_owned() } else { urls.join(", ") };
    let digest = descriptor.digest;
    Error::new(
        ErrorKind::Unsupported,
        format!("the blob {digest} is kept elsewhere, as its maker wants: {at}"),
    )
    .with_remedy("push an image that has it to a registry of your own, with a tool that pushes such layers")
}

impl Read for Download<'_> {
    /// Ends one byte after the promised size, where a registry sends more: enough to see it.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let client = self.session.client();
        let most = usize::try_from(self.size.saturating_add(1).saturating_sub(self.at))
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 || (self.at == self.size && self.body.is_none() && self.size > 0) {
            return Ok(0);
        }
        loop {
            if client.is_stopped() {
                return Err(stopped().into());
            }
            let error = match self.next(&mut buffer[..most]) {
                Ok(n) => {
                    self.at += n as u64;
                    if n > 0 {
                        (self.seen)(self.at.min(self.size));
                    }
                    return Ok(n);
                }
                Err(error) => client.scrubbed(error),
            };
            let was_open = self.body.take().is_some();
            // A request that failed has been tried again already.
            if !was_open || !matches!(error.kind(), ErrorKind::Network | ErrorKind::TimedOut) {
                return Err(error.into());
            }
            if self.at >= self.counted_at + PROGRESS {
                self.tried = 0;
            }
            self.counted_at = self.at;
            self.tried += 1;
            if self.tried >= client.tries() {
                return Err(error.into());
            }
            tracing::debug!(%error, at = self.at, "a download goes on");
            client.wait(self.tried, None)?;
        }
    }
}
