//! `disk_max` of a writable layer on disk: a project quota of the store's filesystem.
//!
//! The project's number is one of the range of user ids that the store gave the container, so no two containers of a
//! store share one; a number that has bounds or files already (another store's on the same filesystem) is passed
//! over, also by what has it from a record that was copied with its store. Only the writable layer counts for it, not the container's record, which has to be written also when
//! the layer is full. The bounds go before the container's directory does; what a killed program left, the
//! store's sweep clears.
#![forbid(unsafe_code)]

use super::Held;
use super::record::Dir;
use crate::cgroup::{Outcome, Report};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, words};
use crate::store::Store;
use crate::sys::idmap::is_privileged;
use crate::sys::quota;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// As many files as a writable layer in memory may have.
pub(super) const INODES: u64 = 1 << 20;
/// How many numbers of its range a container may try.
const TRIES: u32 = 256;
/// Directories in each other, each of them held open.
const DEPTH: usize = 100;

/// The directories of the writable layer.
const DIRS: [&str; 3] = ["upper", "work", "parts"];

fn unsupported(store: &Store) -> Error {
    Error::new(ErrorKind::Unsupported, "disk_max on this filesystem")
        .with_path(store.path())
        .lacks(words::NO_QUOTAS.of(Feature::ProjectQuota))
}

fn refused(store: &Store, call: &'static str, errno: Errno) -> Error {
    let error = Error::os(call, errno).with_path(store.path());
    match errno {
        // From any user namespace but the first, the number of a file's project is not to be changed.
        Errno::PERM | Errno::INVAL => error.lacks(words::QUOTAS_ARE_ROOTS.of(Feature::ProjectQuota)),
        _ => error,
    }
}

/// Bounds the container's project, which it notes in the record first, so that whoever sweeps knows it. Gives the
/// project's number.
pub(super) fn bound(store: &Store, held: &mut Held, bytes: u64) -> Result<u32> {
    // Whatever the filesystem has.
    if !is_privileged() {
        return Err(refused(store, "quotactl_fd(Q_SETQUOTA)", Errno::PERM));
    }
    if !quota::enforced(store.containers_dir())
        .map_err(|errno| refused(store, "quotactl_fd(Q_XGETQSTAT)", errno))?
    {
        return Err(unsupported(store));
    }
    if held.range.is_none() {
        return Err(refused(store, "quotactl_fd(Q_SETQUOTA)", Errno::PERM));
    }
    let is_own = |project: &u32| {
        let owns = store.owns_project(&held.record.id, *project);
        owns.map_err(|errno| refused(store, "quotactl_fd(Q_GETQUOTA)", errno))
    };
    let project = match held.record.project {
        Some(project) if is_own(&project)? => project,
        _ => {
            let project = unused(store, held.record.base)?;
            held.record.project = Some(project);
            held.dir.set_record(&held.record)?;
            project
        }
    };
    quota::set(store.containers_dir(), project, bytes, INODES)
        .map_err(|errno| refused(store, "quotactl_fd(Q_SETQUOTA)", errno))?;
    Ok(project)
}

fn unused(store: &Store, base: u32) -> Result<u32> {
    for project in base..base.saturating_add(TRIES) {
        let there = quota::get(store.containers_dir(), project)
            .map_err(|errno| refused(store, "quotactl_fd(Q_GETQUOTA)", errno))?;
        if there == quota::Quota::default() {
            return Ok(project);
        }
    }
    Err(Error::new(ErrorKind::ResourceExhausted, "no number for a project quota is free")
        .with_path(store.path())
        .with_remedy("see what has quotas there: repquota -P"))
}

/// Lets the writable layer count for the project, and reads back that it does and that the bound holds.
pub(super) fn count(store: &Store, dir: &Dir, project: u32, bytes: u64, report: &mut Report) -> Result<()> {
    for name in DIRS {
        // What is made below one that counts, counts. At the first start these are a handful of empty directories.
        if let Some(top) = open(dir.as_fd(), name)?
            && quota::project(top.as_fd()).call_at("ioctl(FS_IOC_FSGETXATTR)", dir.path().join(name))?
                != project
        {
            tag(store, &top, project, DEPTH)?;
        }
    }
    let there = quota::get(store.containers_dir(), project)
        .map_err(|errno| refused(store, "quotactl_fd(Q_GETQUOTA)", errno))?;
    if there.bytes_max == 0 || there.bytes_max > bytes.max(1024) || there.inodes == 0 {
        return Err(Error::new(ErrorKind::Setup, format!("disk_max {bytes} does not hold: {there:?}"))
            .with_path(store.path()));
    }
    let value = format!("{}, by project quota {project}", there.bytes_max);
    report.push("disk_max", bytes.to_string(), Outcome::Enforced(value));
    Ok(())
}

/// `None` for what is no directory or file any more: nobody else is there who could change it.
fn open(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::LOOP) => Ok(None),
        Err(errno) => Err(Error::os("openat", errno)),
    }
}

/// A tree of a layer that nothing runs in. What is neither file nor directory takes no blocks.
fn tag(store: &Store, top: &OwnedFd, project: u32, depth: usize) -> Result<()> {
    let Some(below) = depth.checked_sub(1) else {
        let what = "disk_max: the writable layer was made without, and is too deep to be counted now";
        return Err(Error::new(ErrorKind::Unsupported, what).with_path(store.path()));
    };
    let set = |file: &OwnedFd, is_dir| {
        quota::set_project(file.as_fd(), project, is_dir)
            .map_err(|errno| refused(store, "ioctl(FS_IOC_FSSETXATTR)", errno))
    };
    set(top, true)?;
    for entry in rustix::fs::Dir::read_from(top).call("open directory")? {
        let entry = entry.call("getdents64")?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        match entry.file_type() {
            FileType::Directory => {
                if let Some(dir) = open(top.as_fd(), entry.file_name())? {
                    tag(store, &dir, project, below)?;
                }
            }
            FileType::RegularFile => {
                if let Some(file) = open(top.as_fd(), entry.file_name())? {
                    set(&file, false)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
