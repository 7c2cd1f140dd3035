//! `cp`: files into a container and out of it.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, switch};
use crate::fail::{Result, fail, usage};
use crate::format;
use coracle::{Copied, Store};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

pub const CP: &[Flag] = &[
    switch("archive", "Files keep their user and group, by number").short('a'),
    switch("follow-link", "A symbolic link as the source stands for what it leads to").short('L'),
    switch("quiet", "Don't say what was copied; so it is where no terminal is").short('q'),
];

/// One of the two operands.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// An archive, from stdin or to stdout.
    Stream,
    Local(OsString),
    Container(String, OsString),
}

impl Side {
    /// A colon separates a container and its path; a local path with one in it begins with `/` or `.`.
    fn of(word: &OsStr) -> Result<Self> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Stream);
        }
        let colon = bytes.iter().position(|&b| b == b':');
        let Some(colon) = colon.filter(|_| !bytes.starts_with(b"/") && !bytes.starts_with(b".")) else {
            return Ok(Self::Local(word.to_owned()));
        };
        let name =
            std::str::from_utf8(&bytes[..colon]).map_err(|_| usage(format!("{word:?}: no container")))?;
        if name.is_empty() {
            return Err(usage(format!("{word:?}: no container before the colon")));
        }
        let path = OsString::from_vec(bytes[colon + 1..].to_vec());
        // As docker: nothing is the root.
        let path = if path.is_empty() { "/".into() } else { path };
        Ok(Self::Container(name.to_owned(), path))
    }
}

pub fn cp(store: &Store, args: &Args) -> Result<u8> {
    let [source, dest] = [0, 1].map(|i| Side::of(&args.operands[i]));
    let (source, dest) = (source?, dest?);
    let (archive, follow) = (args.has("archive"), args.has("follow-link"));
    let says = match args.raw("quiet") {
        Some(quiet) => quiet != "true",
        None => io::stdout().is_terminal(),
    };
    let (copied, to) = match (source, dest) {
        (Side::Container(..), Side::Container(..)) => {
            return Err(usage("copying between containers is not supported: copy out, then in"));
        }
        (Side::Container(name, path), dest) => {
            let container = store.container(&name)?;
            let copying = container.copying().archive(archive).follow(follow);
            match dest {
                Side::Local(dest) => (copying.copy_out(path, &dest)?, dest),
                _ if io::stdout().is_terminal() => {
                    return Err(fail("an archive is not written to a terminal: redirect the output"));
                }
                _ => {
                    // Without the buffer for lines that Rust's own has.
                    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                    warn(&copying.copy_out_tar(path, out)?);
                    return Ok(0);
                }
            }
        }
        (source, Side::Container(name, path)) => {
            let container = store.container(&name)?;
            let copying = container.copying().archive(archive).follow(follow);
            let copied = match source {
                Side::Local(source) => copying.copy_in(source, &path)?,
                _ => copying.copy_in_tar(File::from(io::stdin().as_fd().try_clone_to_owned()?), &path)?,
            };
            let to = [name.as_bytes(), b":", path.as_bytes()].concat();
            (copied, OsString::from_vec(to))
        }
        _ => return Err(usage("one of the two has to be CONTAINER:PATH")),
    };
    warn(&copied);
    if says {
        let (size, to) = (format::size(copied.bytes()), Path::new(&to).display());
        eprintln!("Successfully copied {size} to {to}");
    }
    Ok(0)
}

fn warn(copied: &Copied) {
    for (path, why) in copied.left_out() {
        format::left_out(path, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_separates_unless_the_path_says_that_it_is_local() {
        let of = |word: &str| Side::of(OsStr::new(word)).unwrap();
        let container = |name: &str, path: &str| Side::Container(name.into(), path.into());
        assert_eq!(of("-"), Side::Stream);
        assert_eq!(of("a:b"), container("a", "b"));
        assert_eq!(of("a:/b:c"), container("a", "/b:c"));
        assert_eq!(of("a:"), container("a", "/"));
        for local in ["a", "./a:b", "/a:b", "../a:b", "dir/file"] {
            assert_eq!(of(local), Side::Local(local.into()));
        }
        assert!(Side::of(OsStr::new(":a")).is_err());
    }
}
