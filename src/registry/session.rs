//! One repository of one registry: what asks it for anything, and its manifests and blobs (distribution-spec, "Pull").
#![forbid(unsafe_code)]

use super::auth::{Auth, Challenge, Wanted, meet};
use super::credentials::Credentials;
use super::download::Download;
use super::http::{Answer, Client, Failed, Method, Request};
use super::secret::Secret;
use super::url::Url;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{DOCUMENT_MAX, Descriptor, media};
use crate::reference::Reference;
use crate::store::blob::check;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

pub(super) struct Session {
    client: Client,
    registry: Url,
    name: Reference,
    /// Without, they are looked for when they are asked for.
    credentials: Option<Credentials>,
    wanted: Wanted,
    auth: Mutex<Auth>,
}

/// A manifest or an index, verified as far as it was promised anything.
pub(super) struct Fetched {
    pub(super) raw: Vec<u8>,
    pub(super) digest: Digest,
}

impl Session {
    pub(super) fn new(client: Client, name: &Reference, credentials: Option<Credentials>) -> Result<Self> {
        let registry = address(&client, name.domain())?;
        let wanted = Wanted::pull(name.path());
        Ok(Self { client, registry, name: name.clone(), credentials, wanted, auth: Mutex::default() })
    }

    /// With the right to push, and to take blobs from these repositories of the registry.
    pub(super) fn pushing(self, from: &[String]) -> Self {
        Self { wanted: Wanted::push(self.name.path(), from), ..self }
    }

    pub(super) fn name(&self) -> &Reference {
        &self.name
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What the registry says that the name leads to, without its content; `None` where it does not say: some registries and caches
    /// answer no HEAD (403, 405). What there is, or what is wrong, is for the GET that comes next.
    pub(super) fn head_manifest(&self, at: &str) -> Result<Option<Digest>> {
        let answer = self.ask(Method::Head, &format!("manifests/{at}"), &[accept()])?;
        match answer.status {
            200 => Ok(answer.header("docker-content-digest").and_then(|digest| digest.parse().ok())),
            _ => Ok(None),
        }
    }

    /// A manifest or an index by tag or digest.
    pub(super) fn manifest(&self, at: &str, promised: Option<&Descriptor>) -> Result<Fetched> {
        let answer = self.ask(Method::Get, &format!("manifests/{at}"), &[accept()])?;
        if answer.status != 200 {
            return Err(self.client.refused(answer));
        }
        let step = answer.step.clone();
        let said = answer.header("docker-content-digest").map(str::to_owned);
        let media_type = answer.header("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        check_type(&step, &media_type)?;
        let raw = answer.read(DOCUMENT_MAX)?;
        let (digest, size) = (Digest::of(&raw), raw.len() as u64);
        let wrong = |error: Error| error.during(format!("verifying the answer to {step}"));
        if let Some(promised) = promised {
            check(&promised.digest, promised.size, &digest, size).map_err(wrong)?;
        } else if let Ok(promised) = at.parse::<Digest>() {
            check(&promised, size, &digest, size).map_err(wrong)?;
        }
        if let Some(said) = said.and_then(|said| said.parse::<Digest>().ok()) {
            check(&said, size, &digest, size).map_err(wrong)?;
        }
        check_says(&step, &media_type, &raw)?;
        Ok(Fetched { raw, digest })
    }

    /// A document that a manifest names, whole and verified.
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > DOCUMENT_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("document {digest} of {size} bytes")));
        }
        let mut raw = Vec::new();
        self.blob(descriptor, &|_| ())
            .take(size + 1)
            .read_to_end(&mut raw)
            .map_err(|error| Error::os("reading a document", error))?;
        check(digest, *size, &Digest::of(&raw), raw.len() as u64)?;
        Ok(raw)
    }

    /// A blob as a stream, which begins with the first read. What comes is not verified here.
    pub(super) fn blob<'a>(
        &'a self,
        descriptor: &Descriptor,
        seen: &'a (dyn Fn(u64) + Sync),
    ) -> Download<'a> {
        Download::new(self, descriptor, seen)
    }

    /// Asks for a blob's bytes from `from` on, of so many.
    pub(super) fn open_blob(&self, digest: &Digest, from: u64, size: u64) -> Result<Answer> {
        let range = [("range", format!("bytes={from}-"))];
        let headers = if from == 0 { &[][..] } else { &range[..] };
        let answer = self.ask(Method::GetBlob(size), &format!("blobs/{digest}"), headers)?;
        match answer.status {
            200 | 206 => Ok(answer),
            _ => Err(self.client.refused(answer)),
        }
    }

    /// The address of something in the repository.
    pub(super) fn url(&self, below: &str) -> Url {
        self.registry.with_target(format!("/v2/{}/{below}", self.name.path()))
    }

    fn ask(&self, method: Method<'_>, below: &str, headers: &[(&'static str, String)]) -> Result<Answer> {
        self.send(method, &self.url(below), headers)
    }

    /// One request with what authorises it; where that is not enough, with what the registry asks for.
    pub(super) fn send(
        &self,
        method: Method<'_>,
        url: &Url,
        headers: &[(&'static str, String)],
    ) -> Result<Answer> {
        self.authorized(url, |authorization| {
            self.client.send(&Request { method, url, headers, authorization })
        })
    }

    /// The same, with no other try.
    pub(super) fn attempt(&self, method: Method<'_>, url: &Url) -> std::result::Result<Answer, Failed> {
        self.authorized(url, |authorization| {
            self.client.attempt(&Request { method, url, headers: &[], authorization })
        })
    }

    fn authorized<E: From<Error>>(
        &self,
        url: &Url,
        request: impl Fn(Option<Secret>) -> std::result::Result<Answer, E>,
    ) -> std::result::Result<Answer, E> {
        // Where a registry has its uploads elsewhere, that is another host.
        let ours = url.is_same_origin(&self.registry);
        let header = if ours { self.authorization()? } else { None };
        let answer = request(header.clone())?;
        // What another host refuses, or one after a redirect, is not ours to answer.
        if answer.status != 401 || !ours || !answer.from.is_same_origin(url) {
            return Ok(answer);
        }
        let Some(challenge) = Challenge::of(&answer) else { return Ok(answer) };
        drop(answer);
        let header = {
            let mut auth = self.auth.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have asked meanwhile.
            if auth.header() == header {
                *auth = self.meet(challenge)?;
            }
            auth.header()
        };
        request(header)
    }

    fn authorization(&self) -> Result<Option<Secret>> {
        let mut auth = self.auth.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(challenge) = auth.ended() {
            *auth = self.meet(challenge)?;
        }
        Ok(auth.header())
    }

    fn meet(&self, challenge: Challenge) -> Result<Auth> {
        let credentials = match &self.credentials {
            Some(credentials) => credentials.clone(),
            None => Credentials::find(&self.name, self.client.until())?,
        };
        let meet =
            |wanted: &Wanted| meet(&self.client, &self.registry, challenge.clone(), &credentials, wanted);
        match (meet(&self.wanted), self.wanted.alone()) {
            // A service that refuses all for the sake of what would only spare an upload.
            (Err(error), Some(alone)) if error.kind() == ErrorKind::PermissionDenied => {
                tracing::debug!(%error, "a token is asked for without other repositories");
                meet(&alone)
            }
            (other, _) => other,
        }
    }
}

/// Where a registry answers.
pub(super) fn address(client: &Client, domain: &str) -> Result<Url> {
    let plain = client.allows_plain(&Url::of_registry(domain, false)?);
    Url::of_registry(domain, !plain)
}

fn accept() -> (&'static str, String) {
    ("accept", media::DOCUMENTS.join(", "))
}

/// Refuses an answer that is no manifest by its own words: a login page, or docker's manifests of before 2016.
fn check_type(step: &str, media_type: &str) -> Result<()> {
    if media_type.starts_with(SCHEMA_1) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{step}: a manifest of docker's schema version 1"),
        )
        .with_remedy("have the image pushed again by a docker of today, or copy it with skopeo"));
    }
    let known = media::is_manifest(media_type) || media::is_index(media_type);
    if known || ["", "application/json", "application/octet-stream", "text/plain"].contains(&media_type) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidData, format!("{step}: not a manifest but {media_type:.100?}")))
}

/// A manifest under an index's type, or the reverse, means something else to another client (CVE-2021-41190).
fn check_says(step: &str, media_type: &str, raw: &[u8]) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Says {
        #[serde(default, rename = "mediaType")]
        media_type: String,
    }
    let says = serde_json::from_slice::<Says>(raw).map_or_else(|_| String::new(), |says| says.media_type);
    if media_type.starts_with("application/vnd.") && !says.is_empty() && says != media_type {
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!("{step}: a {says:.100?} under the type {media_type:?}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
