//! What a layer is going to have, over what is below it.
//!
//! Files are put here as BuildKit's `fsutil/copy` puts them into a mounted snapshot, and the same conflicts are errors. All
//! directories on the way to a file are part of the layer, with what they are below, as some engines make missing ones as they like.
#![forbid(unsafe_code)]

use super::super::tree::{Content, Xattrs, text};
use super::select::is_whiteout_name;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Below, Entry, EntryKind, Found, Mtime, join, normal, split};
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Of what is made and not copied: the second day of 1980 (UTC), from which on every archive can have it in every time zone. So a
/// layer depends on what is copied alone.
pub(in crate::build) const MADE: Mtime = Mtime { secs: 315_619_200, nanos: 0 };

#[derive(Clone)]
pub(super) struct Planned {
    /// Without a path.
    pub(super) entry: Entry,
    pub(super) content: Content,
    /// Where it is in the tree that it is from.
    pub(super) at: Vec<u8>,
    /// Of a file with several names: its device and inode there.
    pub(super) inode: Option<(u64, u64)>,
    /// A directory that shows what the same one below has.
    merges: bool,
    /// It took the place of a directory below.
    pub(super) hides: bool,
}

impl Planned {
    pub(super) fn new(entry: Entry, content: Content, at: &[u8]) -> Self {
        Self { entry, content, at: at.to_vec(), inode: None, merges: false, hides: false }
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Now {
    Nothing,
    Directory,
    Link(Vec<u8>),
    Other,
}

/// What becomes of something else that is in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Clash {
    /// A file takes the place of what is no directory; all else is an error.
    Refuse,
    /// All but two directories: the new takes the place of the old.
    Replace,
}

#[derive(Default)]
pub(super) struct Target<'a, 'b> {
    below: Option<&'a mut Below<'b>>,
    pub(super) planned: BTreeMap<Vec<u8>, Planned>,
}

impl<'a, 'b> Target<'a, 'b> {
    pub(super) fn new(below: Option<&'a mut Below<'b>>) -> Self {
        Self { below, planned: BTreeMap::new() }
    }

    pub(super) fn now(&mut self, path: &[u8]) -> Result<Now> {
        if path.is_empty() {
            return Ok(Now::Directory);
        }
        if let Some(planned) = self.planned.get(path) {
            return Ok(match planned.entry.kind {
                EntryKind::Directory => Now::Directory,
                EntryKind::Symlink => Now::Link(planned.entry.link.clone()),
                _ => Now::Other,
            });
        }
        if !self.shows_below(split(path).0) {
            return Ok(Now::Nothing);
        }
        let Some(below) = self.below.as_deref_mut() else { return Ok(Now::Nothing) };
        Ok(match below.find(path)? {
            None => Now::Nothing,
            Some(found) if found.is(FileType::Directory) => Now::Directory,
            Some(Found::File(_, dir, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                Now::Link(below.read_link(dir.as_fd(), split(path).1, path)?.into_vec())
            }
            Some(_) => Now::Other,
        })
    }

    /// Whether what is below still counts in this directory.
    fn shows_below(&self, mut path: &[u8]) -> bool {
        while !path.is_empty() {
            if let Some(planned) = self.planned.get(path) {
                return planned.merges;
            }
            path = split(path).0;
        }
        self.below.is_some()
    }

    /// Where a path leads, with `root` as the root of all links. What is not there is taken as it is.
    pub(super) fn resolve(&mut self, root: &[u8], path: &[u8]) -> Result<Vec<u8>> {
        let mut todo: Vec<Vec<u8>> = path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec).collect();
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(part) = todo.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    at = split(&at).0.to_vec();
                    continue;
                }
                _ => {}
            }
            let here = join(&at, &part);
            let absolute = if root.is_empty() { here.clone() } else { join(root, &here) };
            match self.now(&absolute)? {
                Now::Link(link) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::new(ErrorKind::InvalidInput, "more than 40 links on the way")
                            .with_path(shown(path)));
                    }
                    if link.starts_with(b"/") {
                        at = Vec::new();
                    }
                    todo.extend(link.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                }
                _ => at = here,
            }
        }
        Ok(match (root.is_empty(), at.is_empty()) {
            (true, _) => at,
            (false, true) => root.to_vec(),
            (false, false) => join(root, &at),
        })
    }

    /// Makes a directory and those that it is in, as far as they are missing, with mode 0755.
    pub(super) fn make_all(&mut self, path: &[u8], (uid, gid): (u32, u32)) -> Result<()> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let ends: Vec<usize> = ends.chain([path.len()]).filter(|end| *end > 0).collect();
        for end in ends {
            let path = &path[..end];
            match self.now(path)? {
                Now::Directory => self.adopt(path)?,
                Now::Nothing => {
                    let entry = Entry { uid, gid, mtime: MADE, ..Entry::new("", EntryKind::Directory) };
                    self.insert(path, Planned::new(entry, Content::Nothing, b""))?;
                }
                Now::Link(_) | Now::Other => {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        "the destination is below what is no directory",
                    )
                    .with_path(shown(path)));
                }
            }
        }
        Ok(())
    }

    /// Takes a directory that is below into the layer, as it is.
    fn adopt(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() || self.planned.contains_key(path) {
            return Ok(());
        }
        let Some(below) = self.below.as_deref_mut() else { return Ok(()) };
        let found = below.find(path)?;
        let entry = match &found {
            Some(found) => below.entry(path, found)?,
            None => None,
        };
        if let Some(mut entry) = entry {
            entry.path = Vec::new();
            let mut planned = Planned::new(entry, Content::Nothing, b"");
            planned.merges = true;
            self.insert(path, planned)?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &[u8], planned: Planned) -> Result<()> {
        let path = normal(path)?;
        if is_whiteout_name(&path) {
            let what = "a file that a layer would take for a whiteout";
            return Err(Error::new(ErrorKind::InvalidInput, what).with_path(shown(&path)));
        }
        self.planned.insert(path, planned);
        Ok(())
    }

    /// Puts a file that is no directory where its directory is.
    pub(super) fn put(&mut self, path: &[u8], mut planned: Planned, clash: Clash) -> Result<()> {
        if self.now(path)? == Now::Directory {
            if clash == Clash::Refuse || path.is_empty() {
                let what = "a directory is where a file is to be";
                return Err(Error::new(ErrorKind::InvalidInput, what).with_path(shown(path)));
            }
            planned.hides = match self.planned.get(path) {
                Some(old) => old.merges || old.hides,
                None => true,
            };
            let mut inside = path.to_vec();
            inside.push(b'/');
            let names = self.planned.range(inside.clone()..).map(|(name, _)| name);
            // Only these are looked at: an archive may have each of its directories replaced.
            let names: Vec<_> = names.take_while(|name| name.starts_with(&inside)).cloned().collect();
            for name in names {
                self.planned.remove(&name);
            }
        } else if let Some(old) = self.planned.get(path) {
            planned.hides = old.hides;
        }
        self.insert(path, planned)
    }

    /// The same of a directory; one that is there keeps what is in it. `whole`: it takes all of the new one's attributes, else
    /// only its mode.
    pub(super) fn put_directory(
        &mut self,
        path: &[u8],
        mut planned: Planned,
        whole: bool,
        clash: Clash,
    ) -> Result<()> {
        match self.now(path)? {
            Now::Directory => {
                self.adopt(path)?;
                if let Some(old) = self.planned.get_mut(path) {
                    match whole {
                        true => old.entry = planned.entry,
                        false => old.entry.mode = planned.entry.mode,
                    }
                }
                Ok(())
            }
            Now::Nothing => self.insert(path, planned),
            Now::Link(_) | Now::Other if clash == Clash::Refuse => {
                Err(Error::new(ErrorKind::InvalidInput, "what is no directory is where one is to be")
                    .with_path(shown(path))
                    .with_remedy(
                        "copy what is in the directory, to where the link leads, or remove it before",
                    ))
            }
            Now::Link(_) | Now::Other => {
                // The directory that was there before is not to come back with it.
                planned.hides = self.planned.get(path).is_some_and(|old| old.hides);
                self.insert(path, planned)
            }
        }
    }

    /// Gives a directory that is there another time.
    pub(super) fn touch(&mut self, path: &[u8], mtime: Mtime) -> Result<()> {
        self.adopt(path)?;
        if let Some(planned) = self.planned.get_mut(path) {
            planned.entry.mtime = mtime;
        }
        Ok(())
    }
}

/// With attributes that were read since.
pub(super) fn with_xattrs(entry: &Entry, path: &[u8], xattrs: Xattrs) -> Entry {
    Entry { path: path.to_vec(), xattrs, ..entry.clone() }
}

fn shown(path: &[u8]) -> std::path::PathBuf {
    text(&[b"/", path].concat()).to_owned()
}
