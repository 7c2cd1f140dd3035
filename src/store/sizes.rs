//! A walk through a tree that containers have written, and may be writing: however deep and however wide it is, a few descriptors
//! are open at a time.
#![forbid(unsafe_code)]

use super::DIRECTORY;
use crate::error::{Call, Result};
use crate::sys::open::openat2;
use rustix::fs::{AtFlags, Dir, FileType, Mode, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What becomes of a directory that this process may not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    IsAnError,
    CountsNothing,
}

/// Device and inode.
type Id = (u64, u64);

/// A directory on the way from the top to where the walk is.
struct Level {
    name: CString,
    id: Id,
    /// Those in it that are still to be visited.
    dirs: Vec<CString>,
}

/// The sum of what `size` says of each file below a directory that is no directory itself; of one with several names once. No link is
/// followed and no mount entered, and what vanishes meanwhile is gone.
///
/// # Errors
/// Their paths are relative to the top.
pub(crate) fn sum(top: BorrowedFd<'_>, closed: Closed, size: impl Fn(&Stat) -> u64) -> Result<u64> {
    let mut walk = Walk { closed, size, seen: HashSet::new(), sum: 0, levels: Vec::new() };
    let Some(mut here) = walk.enter(top, c".")? else { return Ok(0) };
    while let Some(level) = walk.levels.last_mut() {
        if let Some(name) = level.dirs.pop() {
            if let Some(dir) = walk.enter(here.as_fd(), &name)? {
                here = dir;
            }
            continue;
        }
        walk.levels.pop();
        // Those above that have nothing more are left with it.
        let Some(to) = walk.levels.iter().rposition(|level| !level.dirs.is_empty()) else { break };
        here = walk.climb(top, here, to)?;
    }
    Ok(walk.sum)
}

struct Walk<S> {
    closed: Closed,
    size: S,
    /// Files with several names.
    seen: HashSet<Id>,
    sum: u64,
    levels: Vec<Level>,
}

impl<S: Fn(&Stat) -> u64> Walk<S> {
    fn shown(&self, name: &CStr) -> PathBuf {
        let names = self.levels.iter().map(|level| level.name.as_c_str()).chain([name]);
        names.filter(|name| *name != c".").map(|name| OsStr::from_bytes(name.to_bytes())).collect()
    }

    /// Opens a directory, counts what is in it, and makes it the last level; `None` where there is none to be counted.
    fn enter(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>> {
        let closed = self.closed;
        let is_left_out = |errno| errno == Errno::ACCESS && closed == Closed::CountsNothing;
        let dir = match open(parent, name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
            Err(errno) if is_left_out(errno) => return Ok(None),
            other => other.call_at("openat2", self.shown(name))?,
        };
        let stat = rustix::fs::fstat(&dir).call_at("fstat", self.shown(name))?;
        let mut dirs = Vec::new();
        // It is opened once more, and may have been closed or removed by now.
        let entries = match Dir::read_from(&dir) {
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) if is_left_out(errno) => return Ok(None),
            other => other.call_at("open directory", self.shown(name))?,
        };
        for entry in entries {
            let entry = entry.call_at("getdents64", self.shown(name))?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                Err(errno) if is_left_out(errno) => continue,
                other => {
                    let shown = || self.shown(name).join(OsStr::from_bytes(entry.file_name().to_bytes()));
                    other.call_at("fstatat", shown())?
                }
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                dirs.push(entry.file_name().to_owned());
            } else if stat.st_nlink < 2 || self.seen.insert((stat.st_dev, stat.st_ino)) {
                self.sum = self.sum.saturating_add((self.size)(&stat));
            }
        }
        self.levels.push(Level { name: name.to_owned(), id: (stat.st_dev, stat.st_ino), dirs });
        Ok(Some(dir))
    }

    /// From the directory that was left back to the level of this number, which becomes the last one.
    fn climb(&mut self, top: BorrowedFd<'_>, left: OwnedFd, to: usize) -> Result<OwnedFd> {
        let mut here = left;
        loop {
            match open_above(&here).call_at("openat(\"..\")", self.shown(c"."))? {
                Some((dir, id)) if self.levels.last().is_some_and(|level| level.id == id) => here = dir,
                // Somebody has moved it.
                _ => return self.again(top, to),
            }
            if self.levels.len() == to + 1 {
                return Ok(here);
            }
            self.levels.pop();
        }
    }

    /// The same by the names from the top, as far as they still lead to the same directories.
    fn again(&mut self, top: BorrowedFd<'_>, to: usize) -> Result<OwnedFd> {
        self.levels.truncate(to + 1);
        let mut here = match open(top, c".") {
            Err(Errno::ACCESS) if self.closed == Closed::CountsNothing => {
                self.levels.clear();
                return rustix::io::fcntl_dupfd_cloexec(top, 0).call("fcntl(F_DUPFD_CLOEXEC)");
            }
            other => other.call_at("openat2", ".")?,
        };
        for number in 1..self.levels.len() {
            let level = &self.levels[number];
            let found = match open(here.as_fd(), &level.name) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS) => None,
                other => Some(other.call_at("openat2", self.shown(c"."))?),
            };
            let id = found.as_ref().map(rustix::fs::fstat).transpose().call_at("fstat", self.shown(c"."))?;
            match found {
                Some(dir) if id.is_some_and(|stat| (stat.st_dev, stat.st_ino) == level.id) => here = dir,
                _ => {
                    self.levels.truncate(number);
                    break;
                }
            }
        }
        Ok(here)
    }
}

fn open(dir: BorrowedFd<'_>, name: &CStr) -> std::result::Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(dir, name, DIRECTORY, Mode::empty(), how)
}

/// The directory above, and what tells it from others.
fn open_above(dir: &OwnedFd) -> std::result::Result<Option<(OwnedFd, Id)>, Errno> {
    match rustix::fs::openat(dir, c"..", DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT | Errno::ACCESS) => Ok(None),
        other => {
            let above = other?;
            let stat = rustix::fs::fstat(&above)?;
            Ok(Some((above, (stat.st_dev, stat.st_ino))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs::{self, File};

    #[test]
    fn a_directory_that_is_moved_away_meanwhile_leads_nowhere_else() {
        let temp = tempfile::tempdir().unwrap();
        let at = |path: &str| temp.path().join(path);
        fs::create_dir(at("out")).unwrap();
        for (path, size) in [("x", 1), ("y", 10), ("z", 100)] {
            fs::create_dir_all(at("top/a").join(path)).unwrap();
            File::create(at("top/a").join(path).join("file")).unwrap().set_len(size).unwrap();
        }
        fs::hard_link(at("top/a/x/file"), at("top/again")).unwrap();
        File::create(at("out/file")).unwrap().set_len(1000).unwrap();
        let moved = Cell::new(0);
        let size = |stat: &Stat| {
            // Where it is just now.
            let from = match stat.st_size {
                1 => "x",
                10 => "y",
                _ => "z",
            };
            if moved.replace(moved.get() + 1) == 1 {
                fs::rename(at("top/a").join(from), at("out").join(from)).unwrap();
            }
            stat.st_size as u64
        };
        let top = File::open(at("top")).unwrap();
        assert_eq!(sum(top.as_fd(), Closed::IsAnError, size).unwrap(), 111);
        assert_eq!(fs::read_dir(at("out")).unwrap().count(), 2);
    }
}
