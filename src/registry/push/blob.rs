//! One blob: asked for, mounted, or sent (distribution-spec, "Pushing blobs", "Mounting a blob from another repository").
#![forbid(unsafe_code)]

use super::Sent;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::registry::http::{Answer, Content, Failed, Method, Payload, stopped};
use crate::registry::session::Session;
use crate::registry::url::Url;
use crate::store::Store;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

const BINARY: &str = "application/octet-stream";

/// Content that may be sent several times, and is verified each time.
pub(super) struct Blob<'a> {
    pub(super) session: &'a Session,
    pub(super) file: File,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Is told how much has been sent.
    pub(super) seen: &'a (dyn Fn(u64) + Sync),
}

impl Blob<'_> {
    /// Has the registry get it: as it is there, from another of its repositories, or sent. With `anew` it is sent whatever the
    /// registry says. An upload that broke begins anew, as what of it came is not known.
    pub(super) fn push(&self, from: Option<&str>, anew: bool) -> Result<Sent> {
        self.session.client().again(|| self.once(from, anew))
    }

    fn once(&self, from: Option<&str>, anew: bool) -> std::result::Result<Sent, Failed> {
        if !anew && is_there(self.session, &self.digest, self.size)? {
            return Ok(Sent::Exists);
        }
        if let Some(from) = from.filter(|_| !anew) {
            let url = self.session.url("blobs/uploads/");
            let url = url.with_parameter("mount", &self.digest.to_string()).with_parameter("from", from);
            let answer = self.session.send(Method::Begin, &url, &[])?;
            match answer.status {
                201 => {
                    self.check(&answer)?;
                    return Ok(Sent::Mounted { from: from.to_owned() });
                }
                // It has not, and has begun an upload.
                202 => return self.send(&upload(&answer)?),
                // It may not be asked for that.
                status => tracing::debug!(status, from, digest = %self.digest, "not mounted"),
            }
        }
        let answer = self.session.send(Method::Begin, &self.session.url("blobs/uploads/"), &[])?;
        match answer.status {
            202 => self.send(&upload(&answer)?),
            _ => Err(self.session.client().refused(answer).into()),
        }
    }

    /// All of it, in one request.
    fn send(&self, upload: &Url) -> std::result::Result<Sent, Failed> {
        let url = upload.with_parameter("digest", &self.digest.to_string());
        let payload = Payload { media_type: BINARY, size: self.size, content: self };
        let answer = self.session.attempt(Method::Put(&payload), &url)?;
        match answer.status {
            200 | 201 | 204 => {
                self.check(&answer)?;
                Ok(Sent::Uploaded)
            }
            // The upload is gone, as after a restart of the registry: another one may do better.
            404 | 410 => {
                Err(Failed { error: self.session.client().refused(answer), may_pass: true, wait: None })
            }
            _ => Err(self.session.client().refused(answer).into()),
        }
    }

    /// Compares what the registry calls it with what it is.
    fn check(&self, answer: &Answer) -> Result<()> {
        check_digest(answer, &self.digest)
    }
}

/// Whether the repository says that it has a blob. One that refuses the question (403, 405, 501) may take the answer, or says why not
/// when that is sent.
pub(super) fn is_there(session: &Session, digest: &Digest, size: u64) -> Result<bool> {
    let answer = session.send(Method::Head, &session.url(&format!("blobs/{digest}")), &[])?;
    match answer.status {
        200 => {
            check_digest(&answer, digest)?;
            match answer.number("content-length") {
                Some(said) if said != size => Err(Error::new(
                    ErrorKind::Mismatch,
                    format!("{}: it says {said} bytes, and the blob has {size}", answer.step),
                )),
                _ => Ok(true),
            }
        }
        401 => Err(session.client().refused(answer)),
        400..=499 | 501 => Ok(false),
        _ => Err(session.client().refused(answer)),
    }
}

/// Refuses an answer that calls something by another digest.
pub(super) fn check_digest(answer: &Answer, digest: &Digest) -> Result<()> {
    match answer.header("docker-content-digest") {
        Some(said) if said != digest.to_string() => Err(Error::new(
            ErrorKind::Mismatch,
            format!("{}: the registry calls it {said:.100?}, and it is {digest}", answer.step),
        )),
        _ => Ok(()),
    }
}

/// Where an upload goes that was begun.
fn upload(answer: &Answer) -> Result<Url> {
    let at = |error: Error| error.during(format!("reading where the upload goes, of {}", answer.step));
    let location = answer.location().unwrap_or_default();
    if location.is_empty() {
        return Err(at(Error::new(ErrorKind::InvalidData, "an upload to nowhere")));
    }
    let url = answer.from.join(location).map_err(at)?;
    if answer.from.tls && !url.tls {
        return Err(at(Error::new(ErrorKind::InvalidData, format!("from TLS to plain HTTP, {url}")))
            .with_remedy("the registry, or the proxy before it, has to know that it is reached by TLS"));
    }
    Ok(url)
}

impl Content for Blob<'_> {
    fn open(&self) -> Box<dyn Read + '_> {
        (self.seen)(0);
        Box::new(Pass { blob: self, at: 0, hasher: Sha256::new() })
    }
}

/// One pass over a blob. Its end is only handed out when all of it is right, so what is damaged never gets whole.
struct Pass<'a> {
    blob: &'a Blob<'a>,
    at: u64,
    hasher: Sha256,
}

impl Read for Pass<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Blob { session, file, digest, size, seen } = self.blob;
        if session.client().is_stopped() {
            return Err(stopped().into());
        }
        let most = usize::try_from(size - self.at).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let damaged = |what: String| {
            Error::new(ErrorKind::Mismatch, format!("blob {digest}: {what}")).with_remedy(Store::HEAL)
        };
        let n = file.read_at(&mut buffer[..most], self.at)?;
        if n == 0 {
            return Err(damaged(format!("{} bytes instead of {size}", self.at)).into());
        }
        self.hasher.update(&buffer[..n]);
        self.at += n as u64;
        seen(self.at);
        if self.at == *size {
            let found = Digest::finish(std::mem::take(&mut self.hasher));
            if found != *digest {
                return Err(damaged(format!("its content has digest {found}")).into());
            }
        }
        Ok(n)
    }
}
