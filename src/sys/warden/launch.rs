//! How the warden's program is started.

use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::memfd;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command};

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/warden"));

/// Starts the warden's program with the three descriptors that it knows.
pub(super) struct Launch<'a> {
    pub socket: &'a OwnedFd,
    pub host: &'a OwnedFd,
    pub lock: &'a File,
    pub user: bool,
}

impl Launch<'_> {
    fn spawn(&self, program: &impl AsRawFd) -> std::io::Result<Child> {
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.env_clear();
        command.stdin(self.socket.try_clone()?).stdout(self.host.try_clone()?).stderr(self.lock.try_clone()?);
        if self.user {
            command.arg("user");
        }
        command.spawn()
    }

    /// From a sealed memfd; where the system does not execute those (vm.memfd_noexec=2), from a file without a
    /// name.
    pub fn run(&self) -> Result<Child> {
        let program = memfd::sealed("coracle-warden", PROGRAM, 0, true)?;
        match self.spawn(&program) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            child => return child.call("posix_spawn(warden)"),
        }
        let dir = std::env::temp_dir();
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mut file =
            File::from(rustix::fs::open(&dir, flags, Mode::from(0o700)).call_at("open(O_TMPFILE)", &dir)?);
        std::io::Write::write_all(&mut file, PROGRAM).call_at("write", &dir)?;
        // A file that is open for writing can't be executed, also not while a fork of another thread of the host
        // still has it open.
        let readable =
            File::open(format!("/proc/thread-self/fd/{}", file.as_raw_fd())).call_at("open", &dir)?;
        drop(file);
        for _ in 0..100 {
            match self.spawn(&readable) {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now()
                }
                child => return child.call_at("posix_spawn(warden)", &dir),
            }
        }
        self.spawn(&readable).call_at("posix_spawn(warden)", &dir)
    }
}

pub(super) fn explain(error: Error, step: &str) -> Error {
    match step {
        "unshare(CLONE_NEWUSER)" => error.with_kind(ErrorKind::Unsupported).with_remedy(
            "this host does not let an ordinary user make user namespaces: \
             sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0, or an AppArmor profile \
             for this program with `flags=(unconfined) { userns, }`",
        ),
        _ => error.with_kind(ErrorKind::Unsupported),
    }
}
