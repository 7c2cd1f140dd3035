//! How the warden's program is started.

use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::Feature;
use crate::sys::{diagnose, memfd};
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
        // One that refuses does so when the file is made, or when it is executed.
        match memfd::sealed("coracle-warden", PROGRAM, 0, true) {
            Ok(program) => match self.spawn(&program) {
                Err(error) if error.raw_os_error() == Some(EPERM) => return Err(refused(error)),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
                child => return child.call("posix_spawn(warden)"),
            },
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
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

const EPERM: i32 = 1;

/// No program can start another then: the C library takes only ENOSYS for a reason to use clone(2).
fn refused(error: std::io::Error) -> Error {
    Error::os("posix_spawn(warden)", error).with_kind(ErrorKind::Unsupported).with_remedy(
        "a seccomp filter over this program refuses clone3(2) with EPERM, where the C library expects ENOSYS: \
         Docker before 20.10.10 does; update it, or run its container with --security-opt seccomp=unconfined",
    )
}

/// Why the warden did not come up. AppArmor lets an ordinary user (`user`) have the namespace, and nothing in it.
pub(super) fn explain(error: Error, step: &str, user: bool) -> Error {
    let errno = error.raw_os_error().unwrap_or(0);
    let refused = error.kind() == ErrorKind::PermissionDenied;
    let feature = match step {
        "close_range" => Feature::CloseRange,
        "unshare(CLONE_NEWPID)" => Feature::PidNamespace,
        "unshare(CLONE_NEWNS)" => Feature::MountNamespace,
        "clone(CLONE_PIDFD)" => Feature::Clone3,
        PROC => Feature::FreshProc,
        _ => Feature::UserNamespace,
    };
    let in_namespace = step != PROC && feature != Feature::Clone3 && refused;
    match user && (in_namespace || step == "unshare(CLONE_NEWUSER)") {
        true => error.lacks(diagnose::no_user_namespace(step, errno)),
        false => diagnose::explain(error.with_kind(ErrorKind::Unsupported), feature),
    }
}

/// Why the warden's user namespace got no ids: what a profile without capabilities gives no right to.
pub(super) fn explain_map(error: Error) -> Error {
    match (error.missing(), error.kind(), error.raw_os_error()) {
        (None, ErrorKind::PermissionDenied, Some(errno)) => {
            let missing = diagnose::no_user_namespace(error.step(), errno);
            error.lacks(missing)
        }
        _ => error,
    }
}

/// The last step: a /proc of the warden's own.
pub(super) const PROC: &str = "mount(\"proc\", \"/proc\")";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_learns_what_keeps_namespaces_from_working() {
        let refused = |errno, step: &'static str, user| {
            let error = explain(Error::errno(step, errno), step, user);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            error.missing().map(|missing| missing.feature())
        };
        assert_eq!(refused(28, "unshare(CLONE_NEWUSER)", true), Some(Feature::UserNamespace));
        assert_eq!(refused(1, "unshare(CLONE_NEWPID)", true), Some(Feature::UserNamespace));
        assert_eq!(refused(28, "unshare(CLONE_NEWPID)", true), Some(Feature::PidNamespace));
        assert_eq!(refused(1, PROC, true), Some(Feature::FreshProc));
        assert_eq!(refused(1, "unshare(CLONE_NEWPID)", false), Some(Feature::PidNamespace));
        assert_eq!(refused(38, "clone(CLONE_PIDFD)", true), Some(Feature::Clone3));
        assert_eq!(refused(12, "clone", true), None);
    }
}
