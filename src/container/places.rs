//! Where the places lie that a container may write to, when a further command asks.
//!
//! They were mounted where the image's own links lead. Those are followed here; one that a container may have put there
//! since is not, as the place behind it is none that was given to it. Nor is one in a bind or a volume, also where the container
//! may only read it: somebody else may write there, and would say where the container may. What was mounted by way of such a
//! link is no place for a further command.
//!
//! Should a place be another one than was meant all the same, it is one of the same container: all of this happens beneath its
//! root, and the flags of its mounts, which are the first wall, are what they were.
#![forbid(unsafe_code)]

use crate::error::{Call, Result};
use crate::security::landlock::Places;
use crate::sys::mountinfo;
use crate::sys::open::openat2;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags, statx};
use rustix::io::Errno;
use std::cell::OnceCell;
use std::collections::{HashSet, VecDeque};
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
        let mounts = Mounts { root: of(root)?.0, shared: OnceCell::new() };
        let writable = std::mem::take(&mut places.writable);
        for path in writable {
            places.writable.extend(resolve(root, &mounts, &path)?);
        }
    }
    Ok(places)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components().map(|part| part.as_os_str().to_owned()).collect()
}

fn resolve(root: BorrowedFd<'_>, mounts: &Mounts, path: &Path) -> Result<Option<PathBuf>> {
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
        if links > LINKS_MAX || !mounts.is_images(dir).map_err(|error| error.with_path(path))? {
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

/// Mounts as the container sees them.
struct Mounts {
    /// Of the root filesystem.
    root: u64,
    /// The filesystems that are mounted on the host, too.
    shared: OnceCell<HashSet<(u32, u32)>>,
}

impl Mounts {
    /// Whether what lies in a directory is the image's, and stays so. The container can't change it: the mount's flag is locked
    /// to it, and whoever is in a Landlock domain mounts nothing. Nor can others: it is the root filesystem, or a part of the
    /// host's in an overlay of the container's own.
    fn is_images(&self, dir: BorrowedFd<'_>) -> Result<bool> {
        const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
        if !rustix::fs::fstatvfs(dir).call("fstatfs")?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Ok(false);
        }
        let (mount, filesystem) = of(dir)?;
        if mount == self.root {
            return Ok(true);
        }
        let kind = rustix::fs::fstatfs(dir).call("fstatfs")?.f_type as u64;
        Ok(kind == OVERLAYFS_SUPER_MAGIC && !self.shared()?.contains(&filesystem))
    }

    fn shared(&self) -> Result<&HashSet<(u32, u32)>> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared);
        }
        let shared = mountinfo::read()?.into_iter().map(|mount| mount.filesystem).collect();
        Ok(self.shared.get_or_init(|| shared))
    }
}

/// The mount that a file is in, and its filesystem's number.
fn of(file: BorrowedFd<'_>) -> Result<(u64, (u32, u32))> {
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).call("statx(STATX_MNT_ID)")?;
    Ok((stat.stx_mnt_id, (stat.stx_dev_major, stat.stx_dev_minor)))
}
