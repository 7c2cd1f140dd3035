//! Which file is meant, and where it goes: docker's rules for the two paths of `docker cp`.
#![forbid(unsafe_code)]

use super::hands::{BENEATH, Hands, is, kind, text};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// What is copied.
pub(super) struct Source {
    /// Opened for nothing.
    pub file: OwnedFd,
    pub is_dir: bool,
    /// What it is called; none where its content is meant (`dir/.`, `/`).
    pub name: Option<Vec<u8>>,
}

/// Where it goes.
pub(super) struct Target {
    pub dir: OwnedFd,
    /// Its path, for what is looked up there later.
    pub path: Vec<u8>,
    /// The name that it gets; none where its content goes there.
    pub name: Option<Vec<u8>>,
}

/// A path, absolute in a container.
fn bytes(hands: &Hands<'_>, path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    match hands.is_own() || path.starts_with(b"/") {
        true => path.to_vec(),
        false => [b"/", path].concat(),
    }
}

/// The path without slashes and dots at its end, and whether it had any: what it names then has to be a directory.
fn trimmed(path: &[u8]) -> (&[u8], bool) {
    let mut rest = path;
    loop {
        rest = match rest {
            [head @ .., b'/'] => head,
            [head @ .., b'/', b'.'] => head,
            [b'.'] => &[],
            _ => return (rest, rest.len() < path.len()),
        };
    }
}

/// What a source is called: by its path alone, as docker has it. None where the content of a directory is meant.
fn name_of(path: &[u8]) -> Option<Vec<u8>> {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
    let mut names = Vec::new();
    let mut last: &[u8] = b"";
    for part in path[..end].split(|&b| b == b'/') {
        last = part;
        match part {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.pop().filter(|_| last != b".").map(<[u8]>::to_vec)
}

/// Its directory, as a path that can be opened, and its name; none for what has no name.
fn parts(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, name) = match path.iter().rposition(|&b| b == b'/') {
        Some(0) => (&path[..1], &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b"."[..], path),
    };
    (!matches!(name, b"" | b"..")).then_some((head, name))
}

/// A link as the last part is meant itself, unless `follow`, or the path ends in a slash.
pub(super) fn source(hands: &Hands<'_>, path: &Path, follow: bool) -> Result<Source> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "no path to copy from"));
    }
    let whole = bytes(hands, path);
    let is_asserted = trimmed(&whole).1;
    let mut flags = OFlags::PATH;
    flags.set(OFlags::NOFOLLOW, !follow && !is_asserted);
    flags.set(OFlags::DIRECTORY, is_asserted);
    let file = hands.open(hands.root, &whole, flags, hands.how)?;
    let is_dir = is_directory(&file, &whole)?;
    Ok(Source { file, is_dir, name: name_of(&whole) })
}

fn is_directory(file: &OwnedFd, path: &[u8]) -> Result<bool> {
    let stat = rustix::fs::fstat(file).call_at("fstat", text(path))?;
    Ok(kind(&stat) == FileType::Directory)
}

/// An existing directory, for an archive.
pub(super) fn directory(hands: &Hands<'_>, path: &Path) -> Result<Target> {
    match found(hands, path)? {
        Found::Directory { dir, path } => Ok(Target { dir, path, name: None }),
        Found::File { .. } | Found::Missing { .. } => {
            let error = Error::new(ErrorKind::InvalidInput, "the destination of an archive is no directory");
            Err(error.with_path(path).with_remedy("name a directory that is there"))
        }
    }
}

/// Where `source` goes when it is copied to `path`.
pub(super) fn target(hands: &Hands<'_>, path: &Path, source: &Source) -> Result<Target> {
    let is_asserted = trimmed(&bytes(hands, path)).1;
    let refused = |kind, what: &'static str, remedy: &'static str| {
        Err(Error::new(kind, what).with_path(path).with_remedy(remedy))
    };
    match found(hands, path)? {
        // Of a directory whose content is meant, nothing else goes there.
        Found::Directory { dir, path } => Ok(Target { dir, path, name: source.name.clone() }),
        Found::File { .. } if source.is_dir => refused(
            ErrorKind::AlreadyExists,
            "a directory can't be copied to a file",
            "name a directory, or a name that is free",
        ),
        Found::File { file, .. } if file != FileType::RegularFile => refused(
            ErrorKind::InvalidInput,
            "the destination is neither a directory nor a regular file",
            "copy beside it, or stream an archive",
        ),
        Found::File { dir, path, name, .. } => Ok(Target { dir, path, name: Some(name) }),
        Found::Missing { .. } if is_asserted && !source.is_dir => refused(
            ErrorKind::NotFound,
            "the destination directory must exist",
            "make it first, or leave out the slash at its end",
        ),
        Found::Missing { dir, path, name } => Ok(Target { dir, path, name: Some(name) }),
    }
}

enum Found {
    Directory {
        dir: OwnedFd,
        path: Vec<u8>,
    },
    /// Of this kind, and where it is.
    File {
        file: FileType,
        dir: OwnedFd,
        path: Vec<u8>,
        name: Vec<u8>,
    },
    /// Only its directory is there.
    Missing {
        dir: OwnedFd,
        path: Vec<u8>,
        name: Vec<u8>,
    },
}

/// What a path leads to, through links, also through a last one that leads to nothing.
fn found(hands: &Hands<'_>, path: &Path) -> Result<Found> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "no path to copy to"));
    }
    let mut whole = bytes(hands, path);
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    for _ in 0..LINKS_MAX {
        let (short, is_asserted) = trimmed(&whole);
        let Some((head, name)) = parts(short) else {
            // The root, the working directory, or what is above one.
            let dir = hands.open(hands.root, &whole, directory, hands.how)?;
            return Ok(Found::Directory { dir, path: whole });
        };
        let dir = hands.open(hands.root, head, directory, hands.how).map_err(|error| {
            match is(&error, &[Errno::NOENT]) {
                true => error.with_path(path).with_remedy("make the directory that it is to be in first"),
                false => error,
            }
        })?;
        let (head, name) = (head.to_vec(), name.to_vec());
        let looked = hands.open(dir.as_fd(), &name, OFlags::PATH | OFlags::NOFOLLOW, BENEATH);
        let file = match looked {
            Err(error) if is(&error, &[Errno::NOENT]) => {
                return Ok(Found::Missing { dir, path: head, name });
            }
            other => other?,
        };
        let stat = rustix::fs::fstat(&file).call_at("fstat", path)?;
        match kind(&stat) {
            FileType::Directory => {
                let dir = hands.reopen(file.as_fd(), directory, &whole)?;
                return Ok(Found::Directory { dir, path: whole });
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&file, "", Vec::new()).call_at("readlinkat", path)?;
                let target = target.into_bytes();
                let slash: &[u8] = if is_asserted { b"/" } else { b"" };
                whole = match target.starts_with(b"/") {
                    true => [&target, slash].concat(),
                    false => [&head[..], b"/", &target, slash].concat(),
                };
            }
            _ if is_asserted => {
                let error = Error::os("openat2(O_DIRECTORY)", Errno::NOTDIR);
                return Err(error.with_path(path).with_remedy("leave out the slash at its end"));
            }
            file => return Ok(Found::File { file, dir, path: head, name }),
        }
    }
    Err(Error::os("openat2", Errno::LOOP).with_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_says_at_its_end() {
        let is = |path: &str| {
            let (short, asserted) = trimmed(path.as_bytes());
            let name = name_of(path.as_bytes()).map(|name| String::from_utf8(name).unwrap());
            (String::from_utf8(short.to_vec()).unwrap(), asserted, name)
        };
        for (path, short, asserted, name) in [
            ("a", "a", false, Some("a")),
            ("a/b", "a/b", false, Some("b")),
            ("a/", "a", true, Some("a")),
            ("a//", "a", true, Some("a")),
            ("a/.", "a", true, None),
            ("a/./", "a", true, None),
            ("a/..", "a/..", false, None),
            ("a/b/..", "a/b/..", false, Some("a")),
            ("a.", "a.", false, Some("a.")),
            ("..", "..", false, None),
            (".", "", true, None),
            ("/", "", true, None),
            ("/.", "", true, None),
            ("./a", "./a", false, Some("a")),
        ] {
            assert_eq!(is(path), (short.into(), asserted, name.map(str::to_owned)), "{path}");
        }
        let parts = |path: &'static str| parts(path.as_bytes());
        assert_eq!(parts("a"), Some((&b"."[..], &b"a"[..])));
        assert_eq!(parts("/a"), Some((&b"/"[..], &b"a"[..])));
        assert_eq!(parts("/a/b"), Some((&b"/a"[..], &b"b"[..])));
        assert_eq!([parts(""), parts("a/.."), parts("..")], [None; 3]);
    }
}
