//! Names in archives: what they mean in a layer.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Linux's PATH_MAX counts the NUL.
const PATH_MAX: usize = 4095;
/// More than any real tree has; each level costs a descriptor and time on the way down.
pub(super) const DEPTH_MAX: usize = 512;
pub(super) const NAME_MAX: usize = 255;

/// The path beneath the root, without leading, double or trailing slashes and without `.`; empty for the root itself.
///
/// An absolute path means the same path in the image, as it does to every other unpacker.
/// `..` is refused: no writer of layers needs it, and what it means depends on links.
pub(crate) fn normal(path: &[u8]) -> Result<Vec<u8>> {
    let bad =
        |kind, what: &str| Err(Error::new(kind, format!("path in an archive: {what}")).with_path(text(path)));
    if path.len() > PATH_MAX {
        return bad(ErrorKind::TooLarge, "longer than 4095 bytes");
    }
    if path.contains(&0) {
        return bad(ErrorKind::InvalidData, "has a NUL");
    }
    let mut normal = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return bad(ErrorKind::InvalidData, "has a .. component"),
            _ if part.len() > NAME_MAX => return bad(ErrorKind::TooLarge, "a name longer than 255 bytes"),
            _ => {
                if depth > 0 {
                    normal.push(b'/');
                }
                normal.extend_from_slice(part);
                depth += 1;
            }
        }
    }
    if depth > DEPTH_MAX {
        return bad(ErrorKind::TooLarge, "deeper than 512 directories");
    }
    Ok(normal)
}

/// Parent and last name of a normal path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// The parents of a normal path without the root, the nearest first.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(split(path).0), |path| Some(split(path).0)).take_while(|path| !path.is_empty())
}

/// What an entry's name means (OCI image-spec, layer.md, "Whiteouts").
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A file of this layer.
    File,
    /// This path of the layers below is gone.
    Whiteout(Vec<u8>),
    /// All that the layers below have in this directory is gone.
    Opaque(Vec<u8>),
    /// Bookkeeping of aufs, which once wrote such layers.
    Aufs,
}

/// `path` is normal and not the root.
pub(super) fn meaning(path: &[u8]) -> Result<Meaning> {
    let (parent, name) = split(path);
    for part in parent.split(|&b| b == b'/') {
        if part.starts_with(b".wh..wh.") {
            return Ok(Meaning::Aufs);
        }
        if part.starts_with(b".wh.") {
            return Err(
                Error::new(ErrorKind::InvalidData, "a whiteout that is a directory").with_path(text(path))
            );
        }
    }
    match name.strip_prefix(b".wh.") {
        None => Ok(Meaning::File),
        Some(b".wh..opq") => Ok(Meaning::Opaque(parent.to_vec())),
        Some(rest) if rest.starts_with(b".wh.") => Ok(Meaning::Aufs),
        // A whiteout of the directory itself or of its parent would delete more than its name says.
        Some(b"" | b"." | b"..") => {
            Err(Error::new(ErrorKind::InvalidData, "a whiteout without a name").with_path(text(path)))
        }
        Some(hidden) => Ok(Meaning::Whiteout(join(parent, hidden))),
    }
}

/// For messages.
pub(super) fn text(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_beneath() {
        for (path, expected) in
            [("a/b", "a/b"), ("./a//b/", "a/b"), ("/etc/passwd", "etc/passwd"), ("./", ""), ("/", "")]
        {
            assert_eq!(normal(path.as_bytes()).unwrap(), expected.as_bytes(), "{path}");
        }
        for path in ["..", "a/../b", "../../etc/passwd", "/..", "a/.."] {
            assert_eq!(normal(path.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidData, "{path}");
        }
        for path in ["x".repeat(256), "x/".repeat(513), "x/".repeat(3000)] {
            assert_eq!(normal(path.as_bytes()).unwrap_err().kind(), ErrorKind::TooLarge);
        }
    }

    #[test]
    fn whiteouts_are_told_from_files() {
        let is = |path: &str| meaning(path.as_bytes());
        assert_eq!(is("a/b").unwrap(), Meaning::File);
        assert_eq!(is("a/.wh.b").unwrap(), Meaning::Whiteout(b"a/b".to_vec()));
        assert_eq!(is("a/.wh..wh..opq").unwrap(), Meaning::Opaque(b"a".to_vec()));
        assert_eq!(is(".wh..wh..opq").unwrap(), Meaning::Opaque(b"".to_vec()));
        assert_eq!(is("a/.wh..wh.aufs").unwrap(), Meaning::Aufs);
        assert_eq!(is(".wh..wh.plnk/12.34").unwrap(), Meaning::Aufs);
        for path in ["a/.wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert_eq!(is(path).unwrap_err().kind(), ErrorKind::InvalidData, "{path}");
        }
        let up: Vec<_> = ancestors(b"a/b/c").collect();
        assert_eq!(up, [&b"a/b"[..], b"a"]);
    }
}
