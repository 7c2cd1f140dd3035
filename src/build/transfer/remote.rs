//! What ADD takes from elsewhere: which sources are URLs or git repositories, and files from URLs.
#![forbid(unsafe_code)]

use super::super::tree::Content;
#[cfg(feature = "registry")]
use super::target::MADE;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Entry;
#[cfg(feature = "registry")]
use crate::layer::{EntryKind, Mtime};
use crate::store::Store;
#[cfg(feature = "registry")]
use std::sync::Arc;
use std::time::Instant;

/// What a source of ADD is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Local(&'a str),
    Url(&'a str),
    Git(super::git::GitSource),
}

impl<'a> Place<'a> {
    pub(super) fn of(source: &'a str) -> Result<Self> {
        if let Some(git) = super::git::GitSource::parse(source)? {
            return Ok(Self::Git(git));
        }
        match source.starts_with("http://") || source.starts_with("https://") {
            true => Ok(Self::Url(source)),
            false => Ok(Self::Local(source)),
        }
    }
}

/// As an error may show it: a token may be before the host and in the query.
pub(super) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => authority.to_owned(),
    };
    let path = path.split_once('?').map_or(path.to_owned(), |(path, _)| format!("{path}?***"));
    format!("{scheme}://{host}{path}")
}

/// A file that was got from a URL.
#[derive(Clone)]
pub(super) struct Fetched {
    pub(super) entry: Entry,
    pub(super) content: Content,
    pub(super) digest: Digest,
}

/// The name that a file from a URL has where none is given.
pub(super) fn file_name(url: &str) -> Vec<u8> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let name = path.split('/').rfind(|part| !part.is_empty() && *part != ".").unwrap_or_default();
    let name = unescaped(name);
    match &name[..] {
        b"" | b".." => b"__unnamed__".to_vec(),
        // Escaped slashes are no part of a name.
        name => name.rsplit(|&b| b == b'/').next().unwrap_or_default().to_vec(),
    }
}

/// RFC 3986, 2.1.
fn unescaped(text: &str) -> Vec<u8> {
    let (bytes, mut plain, mut at) = (text.as_bytes(), Vec::new(), 0);
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}

/// `sha256:HEX`.
pub(super) fn checksum(text: &str) -> Result<Digest> {
    text.parse().map_err(|error: Error| {
        error
            .with_kind(ErrorKind::InvalidInput)
            .during(format!("reading --checksum={text}"))
            .with_remedy("sha256: and 64 hexadecimal digits, as sha256sum prints them")
    })
}

#[cfg(feature = "registry")]
pub(super) fn fetch(
    store: &Store,
    url: &str,
    promised: Option<&Digest>,
    until: Option<Instant>,
) -> Result<Fetched> {
    let fetched = crate::registry::fetch(url, promised.is_some(), until)?;
    let mtime = fetched.modified.map_or(MADE, Mtime::from);
    let mut hashing = Hashing { inner: fetched.body, hasher: Default::default() };
    let (file, size) = super::super::memory::spooled(store, &mut hashing)
        .map_err(|error| error.during(format!("getting {}", shown(url))))?;
    let digest = Digest::finish(hashing.hasher);
    if let Some(promised) = promised.filter(|promised| **promised != digest) {
        let what = format!("{}: what came has digest {digest} and not the promised {promised}", shown(url));
        return Err(Error::new(ErrorKind::Mismatch, what));
    }
    let entry = Entry { mode: 0o600, size, mtime, ..Entry::new("", EntryKind::File) };
    Ok(Fetched { entry, content: Content::Piece(Arc::new(file), 0), digest })
}

#[cfg(not(feature = "registry"))]
pub(super) fn fetch(_: &Store, url: &str, _: Option<&Digest>, _: Option<Instant>) -> Result<Fetched> {
    Err(Error::new(ErrorKind::Unsupported, format!("ADD {url}: this program can't speak HTTP"))
        .with_remedy("build coracle with its feature `registry`, or get the file and COPY it"))
}

#[cfg(feature = "registry")]
struct Hashing<R> {
    inner: R,
    hasher: sha2::Sha256,
}

#[cfg(feature = "registry")]
impl<R: std::io::Read> std::io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use sha2::Digest as _;
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}
