//! Removing trees by handle: no path is resolved twice, no link is followed.
#![forbid(unsafe_code)]

use super::DIRECTORY;
use crate::error::{Call, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Removes what this process may not: an ordinary user's container leaves files of sub-uids, which
/// only a process inside a user namespace that maps them can remove.
pub(crate) trait Remover: Send + Sync {
    /// Removes `name` below `parent`, whatever it is and whatever is below it. Missing is fine.
    fn remove(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()>;
}

/// Removes `name` below `parent`, whatever it is and whatever is below it. Missing is fine.
///
/// Directories without write permission are made writable first. Nothing outside of the tree is
/// touched even when somebody exchanges directories for links meanwhile.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<()> {
    remove_tree_seizing(parent, name.as_ref(), None)
}

/// Makes the directory of this name in that one the caller's own, with mode 0700.
pub(super) type Seize<'a> = &'a dyn Fn(BorrowedFd<'_>, &CStr) -> Result<()>;

/// The same, with a way to make directories of others the caller's.
pub(super) fn remove_tree_seizing(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    seize: Option<Seize<'_>>,
) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EPERM: what POSIX (and some file systems) say of a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno).call_at("unlinkat", name),
    }
    let Some(top) = open_writable(parent, name, seize)? else { return Ok(()) };
    empty(top, name, seize)?;
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).call_at("unlinkat(AT_REMOVEDIR)", name),
    }
}

/// The same; what this process may not remove, `remover` does.
pub(super) fn remove_tree_with(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    remover: Option<&dyn Remover>,
) -> Result<()> {
    match (remove_tree(parent, name), remover) {
        (Err(error), Some(remover)) if error.kind() == ErrorKind::PermissionDenied => {
            remover.remove(parent, name)
        }
        (result, _) => result,
    }
}

/// A directory being emptied.
struct Level {
    dir: OwnedFd,
    /// Its subdirectories that are still there; the last one is being emptied.
    dirs: Vec<CString>,
}

/// More levels than this are emptied by moving the rest up instead of holding more descriptors.
const DEPTH: usize = 64;

fn empty(top: OwnedFd, name: &OsStr, seize: Option<Seize<'_>>) -> Result<()> {
    let mut levels = vec![Level { dirs: unlink_files(top.as_fd(), name)?, dir: top }];
    // What was moved up to the top, and how many names there were tried: each once, however many directories there are.
    let (mut moved, mut tried) = (Vec::new(), 0);
    while let Some(level) = levels.last_mut() {
        let Some(sub) = level.dirs.last() else {
            if levels.len() == 1 && !moved.is_empty() {
                levels[0].dirs.append(&mut moved);
                continue;
            }
            levels.pop();
            if let Some(level) = levels.last_mut()
                && let Some(done) = level.dirs.pop()
            {
                remove_dir(level.dir.as_fd(), &done)?;
            }
            continue;
        };
        let Some(dir) = open_writable(level.dir.as_fd(), sub, seize)? else {
            level.dirs.pop();
            continue;
        };
        let mut dirs = unlink_files(dir.as_fd(), name)?;
        if levels.len() >= DEPTH && !dirs.is_empty() {
            // Hang the deeper directories below the top, where they are found in their turn.
            for deep in dirs.drain(..) {
                let unused = unused_name(levels[0].dir.as_fd(), &mut tried)?;
                // A directory that changes its parent has to be writable itself, for its "..".
                open_writable(dir.as_fd(), &*deep, seize)?;
                rustix::fs::renameat(&dir, &deep, &levels[0].dir, &unused).call_at("renameat", name)?;
                moved.push(unused);
            }
        }
        levels.push(Level { dir, dirs });
    }
    Ok(())
}

fn unused_name(dir: BorrowedFd<'_>, tried: &mut usize) -> Result<CString> {
    loop {
        let name = CString::new(format!(".{tried:x}")).unwrap_or_default();
        *tried += 1;
        match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(name),
            other => other.call("fstatat")?,
        };
    }
}

fn remove_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).call_at("unlinkat(AT_REMOVEDIR)", &*name.to_string_lossy()),
    }
}

/// Unlinks everything in `dir` but its subdirectories, whose names it gives.
fn unlink_files(dir: BorrowedFd<'_>, top: &OsStr) -> Result<Vec<CString>> {
    let mut dirs = Vec::new();
    for entry in Dir::read_from(dir).call_at("open directory", top)? {
        let entry = entry.call_at("getdents64", top)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            dirs.push(name.to_owned());
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => dirs.push(name.to_owned()),
            Err(errno) => return Err(errno).call_at("unlinkat", &*name.to_string_lossy()),
        }
    }
    Ok(dirs)
}

/// Opens a directory for emptying; `None` when it is gone or no directory any more.
fn open_writable(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    seize: Option<Seize<'_>>,
) -> Result<Option<OwnedFd>> {
    let shown = name.to_string_lossy().into_owned();
    let open = || rustix::fs::openat(parent, name, DIRECTORY, Mode::empty());
    if let Some(seize) = seize {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.call_at("fstatat", &shown)?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && stat.st_uid != rustix::process::geteuid().as_raw()
        {
            seize(parent, &name.into_c_str().call("a file's name")?)?;
        }
    }
    let dir = match open() {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(Errno::ACCESS) => {
            // Not readable. chmod follows links, but a link is not owned by a directory's mode: look
            // first, and the worst that an exchange can do is a wider mode on a file of our own.
            let stat =
                rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).call_at("fstatat", &shown)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(None);
            }
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty()).call_at("fchmodat", &shown)?;
            open().call_at("openat", &shown)?
        }
        other => other.call_at("openat", &shown)?,
    };
    let stat = rustix::fs::fstat(&dir).call_at("fstat", &shown)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if !mode.contains(Mode::RWXU) && !rustix::process::geteuid().is_root() {
        rustix::fs::fchmod(&dir, mode | Mode::RWXU).call_at("fchmod", &shown)?;
    }
    Ok(Some(dir))
}
