//! The processes of a group: waiting for them, killing them, and removing the directory behind them.
#![forbid(unsafe_code)]

use super::stats::{Files, field};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a group of a dead owner is fought with.
const CLEAR: Duration = Duration::from_secs(5);

/// Waits until `cgroup.events` of a v2 group says `key value`.
pub(super) fn wait_event(files: Files<'_>, key: &str, value: u64, deadline: Instant) -> Result<()> {
    let path = || files.path.join("cgroup.events");
    let fd = openat(files.dir, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os("openat", errno).with_path(path()))?;
    let file = fs::File::from(fd);
    loop {
        // A read also tells the kernel which state is known: any later change makes the file ready (POLLPRI).
        let mut buffer = [0; 256];
        let len = file.read_at(&mut buffer, 0).call_at("pread", path())?;
        if field(&String::from_utf8_lossy(&buffer[..len]), key) == Some(value) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(
                Error::new(ErrorKind::TimedOut, format!("waiting for {key} {value}")).with_path(path())
            );
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno).with_path(path())),
        }
    }
}

/// The processes of a group, as this process's pid namespace numbers them. One that it can't see is left out.
pub(super) fn procs(text: &str) -> HashSet<i32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid > 0).collect()
}

/// How long those are fought with that fork while they are killed one by one.
const KILL: Duration = Duration::from_secs(2);

/// Kills one by one until nobody is left, as whoever forks meanwhile has a child that was not there to be killed.
///
/// # Errors
/// `TimedOut` where new ones come all the time. Those that have been killed and hang in the kernel are none.
pub(super) fn kill_all(files: Files<'_>) -> Result<()> {
    let deadline = Instant::now() + KILL;
    let mut killed = HashSet::new();
    loop {
        kill_each(files)?;
        let text = files.read("cgroup.procs")?;
        let left = procs(&text);
        if left.is_empty() {
            // Who is in no PID namespace below this program's is 0 to it, and can't be killed by it.
            return match text.lines().any(|line| line.trim() == "0") {
                true => Err(Error::new(ErrorKind::Unsupported, "killing processes of another PID namespace")
                    .with_path(files.path)
                    .with_remedy("kill them from where they are seen; Linux 5.14 kills all of a v2 group")),
                false => Ok(()),
            };
        }
        let is_new = left.iter().any(|pid| !killed.contains(pid));
        if Instant::now() >= deadline {
            // Who is killed forks no more.
            return if is_new {
                let error = Error::new(ErrorKind::TimedOut, "killing processes that go on forking");
                Err(error
                    .with_path(files.path)
                    .with_remedy("call it again; Linux 5.14 kills all of a v2 group at once"))
            } else {
                Ok(())
            };
        }
        killed.extend(left);
        if !is_new {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Kills what is in the group now, one by one: for v1, and for kernels before `cgroup.kill` (5.14).
fn kill_each(files: Files<'_>) -> Result<()> {
    let mut held = Vec::new();
    for pid in procs(&files.read("cgroup.procs")?) {
        match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(pidfd)) => held.push((pid, pidfd)),
            Some(Err(rustix::io::Errno::SRCH)) | None => {}
            Some(Err(errno)) => return Err(Error::os(format!("pidfd_open({pid})"), errno)),
        }
    }
    // Whoever is still in the group is whom the descriptor was opened for: the number was not used again.
    let still = procs(&files.read("cgroup.procs")?);
    for (pid, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
        match pidfd_send_signal(pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(Error::os(format!("pidfd_send_signal({pid}, SIGKILL)"), errno)),
        }
    }
    Ok(())
}

/// Kills what is in the group at `dir` and below, and removes it.
pub(super) fn clear(dir: &Path) -> Result<()> {
    let deadline = Instant::now() + CLEAR;
    loop {
        match remove(dir, Instant::now()) {
            Err(error) if error.kind() == ErrorKind::InUse && Instant::now() < deadline => {}
            other => return other,
        }
        kill_tree(dir)?;
        remove(dir, Instant::now() + Duration::from_millis(100))
            .or_else(|error| if error.kind() == ErrorKind::InUse { Ok(()) } else { Err(error) })?;
    }
}

/// One that somebody else removes meanwhile has nobody in it: its files say so in several ways (ENODEV, ENOENT).
fn kill_tree(dir: &Path) -> Result<()> {
    kill_those_in(dir).or_else(|error| if dir.exists() { Err(error) } else { Ok(()) })
}

fn kill_those_in(dir: &Path) -> Result<()> {
    let kill = dir.join("cgroup.kill");
    match fs::OpenOptions::new().write(true).open(&kill) {
        Ok(file) => return file.write_at(b"1", 0).map(|_| ()).call_at("write", &kill),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::os("open", error).with_path(kill)),
    }
    for inner in subdirectories(dir) {
        kill_tree(&inner)?;
    }
    match open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => kill_each(Files { dir: std::os::fd::AsFd::as_fd(&fd), path: dir }),
        Err(errno) => Err(Error::os("open", errno).with_path(dir)),
    }
}

fn subdirectories(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes the group at `dir` and the empty ones below. While processes are ending in it, waits until `deadline`:
/// on v2 for the kernel's event, on v1, which has none, by trying again each millisecond.
pub(super) fn remove(dir: &Path, deadline: Instant) -> Result<()> {
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => Error::os("rmdir", error).with_path(dir),
        };
        let inner = subdirectories(dir);
        for inner in &inner {
            remove(inner, deadline)?;
        }
        if !inner.is_empty() {
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if error.kind() != ErrorKind::InUse || left.is_zero() {
            return Err(error);
        }
        match open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) if dir.join("cgroup.events").exists() => {
                let files = Files { dir: std::os::fd::AsFd::as_fd(&fd), path: dir };
                match wait_event(files, "populated", 0, deadline) {
                    Err(timeout) if timeout.kind() == ErrorKind::TimedOut => return Err(error),
                    // Of one that somebody else has removed meanwhile its files say so (ENODEV, ENOENT).
                    Err(other) if dir.exists() => return Err(other),
                    _ => {}
                }
            }
            _ => std::thread::sleep(left.min(Duration::from_millis(1))),
        }
    }
}
