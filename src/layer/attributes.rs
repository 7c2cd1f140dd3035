//! Mode, owner, times and extended attributes, set on a file by its descriptor.
#![forbid(unsafe_code)]

use super::entry::{Entry, Mtime};
use super::path::text;
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What a file is beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Mtime,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of_entry(entry: &mut Entry) -> Self {
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: std::mem::take(&mut entry.xattrs),
        }
    }

    pub(super) fn of_file(stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Mtime { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            xattrs,
        }
    }

    /// The memory that it takes while it is remembered.
    pub(super) fn weight(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    pub(super) fn take_capability(&mut self) -> Option<Vec<u8>> {
        let at = self.xattrs.iter().position(|(name, _)| name == CAPABILITY)?;
        Some(self.xattrs.remove(at).1)
    }
}

/// An attribute's name for messages, which keep no more of one than most have.
pub(super) fn shown(name: &[u8]) -> String {
    const MAX: usize = 255;
    let mut text = name[..name.len().min(MAX)].escape_ascii().to_string();
    if text.len() > MAX || name.len() > MAX {
        text.truncate(MAX);
        text.push('…');
    }
    text
}

pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// Why an archive's attribute is not set, if it is not.
pub(super) fn refusal(name: &[u8], privileged: bool) -> Option<&'static str> {
    // They would tell the overlay where to look for other files: an archive must not.
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return Some("steers the overlay");
    }
    // What another machine's security module or file server thinks of its file.
    if matches!(name, b"security.selinux" | b"system.nfs4_acl" | b"security.ima" | b"security.evm") {
        return Some("belongs to the machine it comes from");
    }
    if name.starts_with(b"SCHILY.acl.") {
        return Some("names users or groups of the machine it comes from, or is no list");
    }
    if !privileged && (name.starts_with(b"trusted.") || name.starts_with(b"security.")) {
        return Some("needs root");
    }
    None
}

/// The three times at which attributes are set. A change of owner takes capabilities away, a change of
/// mode changes an ACL, and a file without write permission takes no `user` attribute from its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    BeforeOwner,
    AfterMode,
}

impl Phase {
    fn of(name: &[u8]) -> Self {
        if name == CAPABILITY || name.starts_with(b"system.posix_acl_") {
            Self::AfterMode
        } else {
            Self::BeforeOwner
        }
    }
}

/// Sets the attributes of one phase; those that this file system or kind of file can't have go to `skip`.
pub(super) fn set_xattrs(
    fd: BorrowedFd<'_>,
    path: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    phase: Phase,
    mut skip: impl FnMut(String),
) -> Result<()> {
    for (name, value) in xattrs.iter().filter(|(name, _)| Phase::of(name) == phase) {
        let shown = shown(name);
        let Ok(c_name) = CString::new(name.as_slice()) else { continue };
        match rustix::fs::fsetxattr(fd, &c_name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => skip(format!("{shown}: not on this file system")),
            // The value is not what this attribute's values look like.
            Err(Errno::INVAL) => {
                return Err(Error::errno(format!("fsetxattr({shown})"), Errno::INVAL.raw_os_error())
                    .with_kind(ErrorKind::InvalidData)
                    .with_path(text(path)));
            }
            Err(errno) => return Err(errno).call_at(format!("fsetxattr({shown})"), text(path)),
        }
    }
    Ok(())
}

/// All attributes of a file but those of the overlay itself and of the machine.
pub(crate) fn get_xattrs(fd: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    get_xattrs_with(fd, path, |_| Ok(None))
}

/// The same; `refused` may know another way to what this process is refused.
pub(super) fn get_xattrs_with(
    fd: BorrowedFd<'_>,
    path: &[u8],
    refused: impl Fn(&CStr) -> Result<Option<Option<Vec<u8>>>>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 256];
    let length = loop {
        match rustix::fs::flistxattr(fd, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() <= 1 << 16 => names.resize(names.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).call_at("flistxattr", text(path)),
        }
    };
    let mut found = Vec::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if refusal(name, true).is_some() {
            continue;
        }
        let Ok(c_name) = CString::new(name) else { continue };
        let mut value = vec![0; 1 << 16];
        match rustix::fs::fgetxattr(fd, &c_name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_vec(), value));
            }
            // Gone since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => {
                let other = if errno == Errno::ACCESS { refused(&c_name)? } else { None };
                let Some(value) = other else {
                    return Err(errno).call_at(format!("fgetxattr({})", shown(name)), text(path));
                };
                found.extend(value.map(|value| (name.to_vec(), value)));
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

pub(super) fn ids(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

pub(super) fn mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode)
}

/// A name for an open file, for the calls that take no O_PATH descriptor. It is a link of the kernel
/// that leads to the file itself, also where that is a symbolic link.
pub(super) fn proc_path(fd: impl AsFd) -> CString {
    // Not /proc/self: a thread may have a descriptor table of its own.
    let path = format!("/proc/thread-self/fd/{}", fd.as_fd().as_raw_fd());
    CString::new(path).unwrap_or_default()
}
