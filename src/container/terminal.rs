//! Terminals (pty(7)) for further commands, and the host's side of any.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use linux_raw_sys::general::DEVPTS_SUPER_MAGIC;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// The two sides of a new terminal of a container's own devpts: the master's and the command's.
///
/// Whoever has CAP_SYS_ADMIN in there may have mounted something else at /dev/pts: nothing is opened in it before the
/// kernel has said that it is a devpts, in which no container can put anything.
pub(super) fn open(root: impl AsFd) -> Result<(OwnedFd, OwnedFd)> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = crate::sys::open::openat2(root, "dev/pts", flags, Mode::empty(), resolve)
        .call_at("openat2(RESOLVE_IN_ROOT)", "/dev/pts")?;
    let found = rustix::fs::fstatfs(&dir).call_at("fstatfs", "/dev/pts")?.f_type as u32;
    if found != DEVPTS_SUPER_MAGIC {
        return Err(Error::new(ErrorKind::Setup, "no devpts is mounted there").with_path("/dev/pts"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master =
        crate::sys::open::openat2(&dir, "ptmx", flags, Mode::empty(), resolve | ResolveFlags::NO_XDEV)
            .call_at("openat2(ptmx)", "/dev/pts/ptmx")?;
    rustix::pty::unlockpt(&master).call("ioctl(TIOCSPTLCK)")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).call("ioctl(TIOCGPTPEER)")?;
    Ok((crate::sys::memfd::above_stdio(master)?, crate::sys::memfd::above_stdio(slave)?))
}

/// Another descriptor of the host's side, where there is one.
pub(super) fn master(of: Option<&OwnedFd>) -> Result<File> {
    let master = of.ok_or_else(|| Error::new(ErrorKind::State, "it has no terminal"))?;
    Ok(master.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?.into())
}

pub(super) fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).call("ioctl(TIOCSWINSZ)")
}
