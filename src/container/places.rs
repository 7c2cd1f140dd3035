//! Where the places lie that a container may write to, when a further command asks.
//!
//! They were mounted where the image's own links lead. Those are followed here; one that a container may have put there
//! since is not, as the place behind it is none that was given to it.
#![forbid(unsafe_code)]

use crate::error::{Call, Result};
use crate::security::landlock::Places;
use crate::sys::open::openat2;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The same places by paths without the image's links; without those that are not there any more. To be opened with no link
/// on the way: what they lead through may be changed at any time.
pub(super) fn as_named(root: BorrowedFd<'_>, mut places: Places) -> Result<Places> {
    // With a root that can be written they are of no use, and its links are no longer the image's.
    if !places.root {
        let writable = std::mem::take(&mut places.writable);
        for path in writable {
            places.writable.extend(resolve(root, &path)?);
        }
    }
    Ok(places)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components().map(|part| part.as_os_str().to_owned()).collect()
}

fn resolve(root: BorrowedFd<'_>, path: &Path) -> Result<Option<PathBuf>> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut stack: Vec<(OsString, OwnedFd)> = Vec::new();
    let mut todo = parts(path);
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        let name = match Path::new(&part).components().next() {
            Some(Component::RootDir) => {
                stack.clear();
                continue;
            }
            Some(Component::ParentDir) => {
                stack.pop();
                continue;
            }
            Some(Component::Normal(name)) => name,
            _ => continue,
        };
        let dir = stack.last().map_or(root, |(_, fd)| fd.as_fd());
        let found = match openat2(dir, name, flags, Mode::empty(), how) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other.call_at("openat2(RESOLVE_BENEATH)", path)?,
        };
        let stat = rustix::fs::fstat(&found).call_at("fstat", path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            stack.push((name.to_owned(), found));
            continue;
        }
        links += 1;
        if links > LINKS_MAX || !is_read_only(dir, path)? {
            return Ok(None);
        }
        let text = rustix::fs::readlinkat(&found, c"", Vec::new()).call_at("readlinkat", path)?;
        let text = OsString::from_vec(text.into_bytes());
        for part in parts(Path::new(&text)).into_iter().rev() {
            todo.push_front(part);
        }
    }
    let names = std::iter::once(OsStr::new("/")).chain(stack.iter().map(|(name, _)| name.as_os_str()));
    Ok(Some(names.collect()))
}

/// Whether the container can't change what lies in a directory: the mount's flag is locked to it, and whoever is in a Landlock
/// domain mounts nothing.
fn is_read_only(dir: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    let flags = rustix::fs::fstatvfs(dir).call_at("fstatfs", path)?.f_flag;
    Ok(flags.contains(StatVfsMountFlags::RDONLY))
}
