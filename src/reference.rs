//! Names of images as docker writes them: `debian`, `me/app:1`, `localhost:5000/app@sha256:…`.
//!
//! The grammar is the one of the distribution project; the defaults are docker's: no domain means
//! `docker.io`, there no namespace means `library/`, and neither tag nor digest means `:latest`.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const LATEST: &str = "latest";
/// The longest path of a repository.
const PATH_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// The name of an image, with docker's defaults filled in.
///
/// `{}` writes the whole name, `{:#}` (and [`familiar`](Reference::familiar)) the short one.
///
/// ```
/// use coracle::Reference;
/// let debian: Reference = "debian".parse()?;
/// assert_eq!(debian.to_string(), "docker.io/library/debian:latest");
/// assert_eq!(debian.familiar(), "debian:latest");
/// let own: Reference = "localhost:5000/me/app:1".parse()?;
/// assert_eq!((own.domain(), own.path(), own.tag()), ("localhost:5000", "me/app", Some("1")));
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry: a host name or address, with a port where one was given.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in the registry, such as `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `latest` by default, none where there is only a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, where one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The short form that people write, with the tag: `debian:12`.
    pub fn familiar(&self) -> String {
        format!("{self:#}")
    }

    /// The same name with another tag and no digest.
    ///
    /// # Errors
    /// `InvalidInput` for what is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        check_tag(tag).map_err(|why| bad(tag, why))?;
        Ok(Self { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    /// What of the repository has this digest, without a tag.
    pub(crate) fn by_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Whether both are names in one repository of one registry.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        (&self.domain, &self.path) == (&other.domain, &other.path)
    }

    /// The same name with this digest; the tag stays.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = f.alternate() && self.domain == DEFAULT_DOMAIN;
        match self.path.strip_prefix(OFFICIAL) {
            // What has a slash would be read as another namespace.
            Some(name) if short && !name.contains('/') => f.write_str(name)?,
            _ if short => f.write_str(&self.path)?,
            _ => write!(f, "{}/{}", self.domain, self.path)?,
        }
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("image name {text:?}: {why}"))
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why| bad(text, why);
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("64 hex digits are an image's id, not its name"));
        }
        if text.starts_with('@') {
            return Err(bad("a name is missing before the '@'"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    digest
                        .parse::<Digest>()
                        .map_err(|error| error.during(format!("reading the image name {text:?}")))?,
                ),
            ),
            None => (text, None),
        };
        let (domain, rest) = match rest.split_once('/') {
            Some((first, path)) if is_domain(first) => (first, path),
            _ => (DEFAULT_DOMAIN, rest),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') && !path.is_empty() {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        check_domain(domain).map_err(bad)?;
        check_path(&path).map_err(bad)?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(bad)?;
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(LATEST.to_owned()),
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }
}

/// Whether the part before the first slash is a registry and not a namespace: docker's rule.
fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let alnum = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return Err("no ] after an IPv6 address") };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return Err("not an IPv6 address");
        }
        return match port.strip_prefix(':') {
            None if port.is_empty() => Ok(()),
            Some(port) if is_port(port) => Ok(()),
            _ => Err("not a port"),
        };
    }
    let host = match domain.split_once(':') {
        Some((host, port)) if is_port(port) => host,
        Some(_) => return Err("not a port"),
        None => domain,
    };
    let component = |text: &str| {
        let bytes = text.as_bytes();
        alnum(bytes.first())
            && alnum(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    if host.split('.').all(component) { Ok(()) } else { Err("not a host name") }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > PATH_MAX {
        return Err("longer than 255 characters");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("repository names are lower case");
    }
    if path.split('/').all(is_component) { Ok(()) } else { Err("not a repository name") }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match tag.as_bytes() {
        [] => Err("an empty tag"),
        bytes if bytes.len() > TAG_MAX => Err("a tag of more than 128 characters"),
        [first, rest @ ..]
            if is_word(*first) && rest.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-')) =>
        {
            Ok(())
        }
        _ => Err("not a tag"),
    }
}

#[cfg(test)]
mod tests;
