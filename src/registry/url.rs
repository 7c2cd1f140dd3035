//! Addresses, as far as a registry needs them: RFC 3986 without user names, fragments and other schemes than HTTP's.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::net::IpAddr;

/// More than any presigned address has.
const LENGTH_MAX: usize = 16 << 10;

/// Where docker.io answers.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// An absolute address. It is shown without its query, which may hold what lets anybody in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    /// In lower case, an IPv6 address in its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// With the query, beginning with a slash.
    target: String,
}

impl Url {
    /// The address of a registry's API: `domain` is of a [`Reference`](crate::Reference), and so well-formed.
    pub(super) fn of_domain(domain: &str, tls: bool) -> Result<Self> {
        Self::parse(&format!("{}://{domain}/", if tls { "https" } else { "http" }))
    }

    /// Where a registry answers.
    pub(super) fn of_registry(domain: &str, tls: bool) -> Result<Self> {
        Self::of_domain(if domain == DOCKER_HUB.0 { DOCKER_HUB.1 } else { domain }, tls)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad = |why| Error::new(ErrorKind::InvalidData, format!("address of a registry: {why}"));
        if text.len() > LENGTH_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("too long, or with characters that no address has"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("neither http nor https")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        if authority.contains('@') {
            return Err(bad("with a user name"));
        }
        let after_address = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_address..].find(':') {
            Some(at) => {
                let (host, port) = authority.split_at(after_address + at);
                (host, port[1..].parse().map_err(|_| bad("not a port"))?)
            }
            None => (authority, if tls { 443 } else { 80 }),
        };
        if host.is_empty() {
            return Err(bad("no host"));
        }
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        Ok(Self { tls, host: host.to_ascii_lowercase(), port, target })
    }

    /// Where a Location header leads from here. What no address has in it, and some registries write nevertheless, is taken for what it
    /// is to become: a quote or UTF-8 for their escapes.
    pub(super) fn join(&self, location: impl AsRef<[u8]>) -> Result<Self> {
        let joined = self.resolve(&escaped(location.as_ref()))?;
        let target = match joined.target.split_once('?') {
            Some((path, query)) => format!("{}?{query}", without_dots(path)),
            None => without_dots(&joined.target),
        };
        Ok(joined.with_target(target))
    }

    fn resolve(&self, location: &str) -> Result<Self> {
        if location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':')) {
            return Self::parse(location);
        }
        let scheme = if self.tls { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let path = self.path();
        let target = match location.bytes().next() {
            None => self.target.clone(),
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{path}{location}"),
            Some(_) => format!("{}/{location}", path.rsplit_once('/').map_or("", |(parent, _)| parent)),
        };
        Self::parse(&format!("{scheme}://{}:{}{target}", self.host, self.port))
    }

    /// The same host, port and scheme with another path, which begins with a slash.
    pub(super) fn with_target(&self, target: String) -> Self {
        Self { target, ..self.clone() }
    }

    /// The path and the query.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// The same with one more parameter in the query.
    pub(super) fn with_parameter(&self, name: &str, value: &str) -> Self {
        let sign = if self.target.contains('?') { '&' } else { '?' };
        self.with_target(format!("{}{sign}{name}={}", self.target, escape(value)))
    }

    pub(super) fn is_same_origin(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    /// The host with its port.
    pub(super) fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether it stays on this machine: then plain HTTP shows nothing to anybody (docker's rule).
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// The host, where it is an address and no name. One of IPv4 within IPv6 is that of IPv4.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        address.parse().ok().map(|address: IpAddr| address.to_canonical())
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// With the query: for the wire, not for people.
    pub(super) fn whole(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.target)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without what would end an address or is none of its characters, but for what servers take and everybody sends: `{}|\^`.
fn escaped(location: &[u8]) -> String {
    let mut text = String::new();
    for byte in location.trim_ascii() {
        match byte {
            b' ' | b'"' | b'<' | b'>' | b'`' | 0x80.. => text.push_str(&format!("%{byte:02X}")),
            byte => text.push((*byte).into()),
        }
    }
    text
}

/// RFC 3986, 5.2.4, of a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment == ".." {
            kept.pop();
        }
        match segment {
            "." | ".." if segments.peek().is_none() => kept.push(""),
            "." | ".." => {}
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// RFC 3986, 2.1: for a query and for a form alike.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_join_as_rfc_3986_has_it() {
        let base = Url::parse("https://R.example:5000/v2/a/blobs/x?q=1").unwrap();
        for (location, whole) in [
            ("/v2/b", "https://r.example:5000/v2/b"),
            ("y?z=1", "https://r.example:5000/v2/a/blobs/y?z=1"),
            ("?z", "https://r.example:5000/v2/a/blobs/x?z"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("http://[::1]:80/x#f", "http://[::1]/x"),
            ("HTTPS://cdn.example?k", "https://cdn.example/?k"),
            ("../../c/./d/../e?x=/../y", "https://r.example:5000/v2/c/e?x=/../y"),
            ("../../../../..", "https://r.example:5000/"),
            ("/a/..", "https://r.example:5000/"),
            ("/a//b/.", "https://r.example:5000/a//b/"),
            ("https://cdn.example/a/../b", "https://cdn.example/b"),
            ("/x?f=\"a b\"&<é>`", "https://r.example:5000/x?f=%22a%20b%22&%3C%C3%A9%3E%60"),
            (" /é?s={a}|b^c ", "https://r.example:5000/%C3%A9?s={a}|b^c"),
            ("/path:with/colon", "https://r.example:5000/path:with/colon"),
        ] {
            assert_eq!(base.join(location).unwrap().whole(), whole, "{location}");
        }
        for bad in [
            "ftp://x/",
            "https://",
            "https://me@x/",
            "https://x:y/",
            "https://x:70000/",
            "/a\tb",
            "file:///etc",
        ] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries_are_not_shown() {
        let url = Url::parse("https://cdn.example/x?signature=secret").unwrap();
        assert_eq!((url.to_string(), format!("{url:?}")), (url.to_string(), url.to_string()));
        assert_eq!(url.to_string(), "https://cdn.example/x");
        assert_eq!(
            url.with_parameter("scope", "a:b c").whole(),
            "https://cdn.example/x?signature=secret&scope=a%3Ab%20c"
        );
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (host, is) in [
            ("localhost", true),
            ("127.0.0.1:5000", true),
            ("127.8.9.1", true),
            ("[::1]:5000", true),
            ("127.0.0.1.example.com", false),
            ("localhost.example.com", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(Url::of_domain(host, false).unwrap().is_loopback(), is, "{host}");
        }
    }
}
