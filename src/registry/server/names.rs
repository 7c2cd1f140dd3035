//! Repositories of the server and names of the store's images.
//!
//! A repository is an image's name as people write it, without its tag: `app` is `docker.io/library/app`, `quay.io/me/app` is
//! itself. So what `coracle images` shows as `me/app:1` is pulled as `HOST:PORT/me/app:1`, and what is pushed there is shown so.
//! With a prefix, repositories are what is below it, and nothing else is served. A name with a port can't be a repository
//! without one: no client could write it.
#![forbid(unsafe_code)]

use super::fault::{Fault, code};
use crate::error::{Error, ErrorKind, Result};
use crate::reference::Reference;

/// The longest repository (distribution-spec, "Pulling manifests": many clients have no more with the host).
const LENGTH_MAX: usize = 255;

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// With the domain, without a slash at its end.
    prefix: Option<String>,
}

/// A repository of the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Repository {
    /// As the client says it.
    pub(super) name: String,
    /// The store's name of it, with any tag.
    reference: Reference,
}

impl Names {
    pub(super) fn below(prefix: &str) -> Result<Self> {
        let bad = || {
            Error::new(
                ErrorKind::InvalidInput,
                format!("prefix of names {prefix:?}: not the beginning of one"),
            )
            .with_remedy("give a host, or a host and the beginning of a path: registry.lan:5000/team")
        };
        // Two components: of one alone docker's rule would make another name.
        let probe: Reference = format!("{prefix}/x/y:z").parse().map_err(|_| bad())?;
        let whole = format!("{}/{}", probe.domain(), probe.path());
        let prefix = whole.strip_suffix("/x/y").ok_or_else(bad)?;
        Ok(Self { prefix: Some(prefix.to_owned()) })
    }

    /// The repository that a client means.
    pub(super) fn repository(&self, name: &str) -> Result<Repository, Fault> {
        let bad = || Fault::new(400, code::NAME_INVALID, format!("{name:?} is no repository"));
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
        if name.len() > LENGTH_MAX || !name.bytes().all(is_name) {
            return Err(bad());
        }
        let whole = match &self.prefix {
            Some(prefix) => format!("{prefix}/{name}:x"),
            None => format!("{name}:x"),
        };
        let reference: Reference = whole.parse().map_err(|_| bad())?;
        Ok(Repository { name: name.to_owned(), reference })
    }

    /// The repository in which an image of this name is served.
    pub(super) fn of(&self, name: &Reference) -> Option<Repository> {
        let text = match &self.prefix {
            Some(prefix) => {
                let whole = format!("{}/{}", name.domain(), name.path());
                whole.strip_prefix(prefix.as_str())?.strip_prefix('/')?.to_owned()
            }
            None => {
                let familiar = name.with_tag("x").ok()?.familiar();
                familiar.strip_suffix(":x")?.to_owned()
            }
        };
        self.repository(&text).ok().filter(|repository| repository.has(name))
    }
}

impl Repository {
    /// Whether a name is one of this repository's.
    pub(super) fn has(&self, name: &Reference) -> bool {
        (name.domain(), name.path()) == (self.reference.domain(), self.reference.path())
    }

    /// The same under whatever name a client uses.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.reference.domain(), self.reference.path())
    }

    pub(super) fn tagged(&self, tag: &str) -> Result<Reference, Fault> {
        let bad = |_| Fault::new(400, code::MANIFEST_INVALID, format!("{tag:?} is no tag"));
        self.reference.with_tag(tag).map_err(bad)
    }

    /// What the store calls a manifest of it that has no tag.
    pub(super) fn by_digest(&self, digest: crate::digest::Digest) -> Result<Reference> {
        format!("{}@{digest}", self.key()).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_names_without_their_tags() {
        let names = Names::default();
        for (repository, name) in [
            ("app", "docker.io/library/app"),
            ("library/app", "docker.io/library/app"),
            ("me/app", "docker.io/me/app"),
            ("quay.io/me/app", "quay.io/me/app"),
            ("localhost/app", "localhost/app"),
            ("docker.io/app", "docker.io/library/app"),
        ] {
            let found = names.repository(repository).unwrap();
            assert_eq!(found.key(), name);
            assert_eq!(found.tagged("1").unwrap().to_string(), format!("{name}:1"));
            let back = names.of(&found.tagged("1").unwrap()).unwrap();
            assert_eq!(back.key(), name, "{}", back.name);
        }
        let shown = |name: &str| names.of(&name.parse().unwrap()).map(|found| found.name);
        assert_eq!(shown("debian:12").unwrap(), "debian");
        assert_eq!(shown("quay.io/a/b").unwrap(), "quay.io/a/b");
        assert_eq!(shown("localhost:5000/app"), None);
    }

    #[test]
    fn below_a_prefix_is_nothing_else() {
        let names = Names::below("registry.lan:5000/team").unwrap();
        assert_eq!(names.repository("app").unwrap().key(), "registry.lan:5000/team/app");
        let shown = |name: &str| names.of(&name.parse().unwrap()).map(|found| found.name);
        assert_eq!(shown("registry.lan:5000/team/a/b:2").unwrap(), "a/b");
        for other in ["registry.lan:5000/teams/app", "registry.lan:5000/team", "team/app", "debian"] {
            assert_eq!(shown(other), None, "{other}");
        }
        let hub = Names::below("docker.io").unwrap();
        assert_eq!(hub.of(&"debian".parse().unwrap()).unwrap().name, "library/debian");
        assert_eq!(hub.repository("library/debian").unwrap().key(), "docker.io/library/debian");
        assert_eq!(Names::below("me").unwrap().repository("app").unwrap().key(), "docker.io/me/app");
        for bad in ["", "/", "a//b", "Up.er/Case", "a/", "a:b/c@d", "../x"] {
            assert!(Names::below(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_repository() {
        let long = "a".repeat(256);
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "../a",
            "a/../b",
            "a/.",
            "A",
            "a_",
            "a b",
            "a:b",
            "a@b",
            "é",
            "localhost:5000/a",
            &long,
        ] {
            assert!(Names::default().repository(bad).is_err(), "{bad}");
        }
    }
}
