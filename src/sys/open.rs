//! Opening beneath a directory.
#![forbid(unsafe_code)]

use super::plan::format::AGAIN_MAX;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// openat2(2). The kernel gives up (EAGAIN) where it can't be sure that a `..` stayed beneath because something,
/// anywhere on the machine, was renamed or mounted meanwhile: then it is asked again. Not for ever: a container may have made
/// a long way of links with `..`, and rename files all the time, or may have a lease on the file (fcntl(2), `F_SETLEASE`).
pub(crate) fn openat2(
    dir: impl AsFd,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..AGAIN_MAX {
        match rustix::fs::openat2(&dir, path, flags, mode, resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}
