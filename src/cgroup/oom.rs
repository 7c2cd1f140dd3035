//! Waiting until memory runs out in a group.
//!
//! v2: `memory.events` is ready (POLLPRI) when a number in it has changed. v1: an eventfd that is registered in
//! `cgroup.event_control` for `memory.oom_control`. See the kernel's admin-guide/cgroup-v2 and cgroup-v1/memory, 10.
#![forbid(unsafe_code)]

use super::stats::{Files, field};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::time::after;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Tells when memory runs out in a group; made by [`Cgroup::oom_events`](super::Cgroup::oom_events) and
/// [`Container::oom_events`](crate::Container::oom_events).
///
/// What happened before it was made is not told. Which processes are killed for it, and how many, is in
/// [`Stats::oom_kills`](super::Stats::oom_kills): on v1 a moment later.
#[derive(Debug)]
pub struct OomEvents {
    file: File,
    path: PathBuf,
    /// v1: what is signalled.
    signal: Option<OwnedFd>,
    /// v2: the count that was told last.
    told: u64,
}

impl OomEvents {
    pub(super) fn new(files: Files<'_>, v2: bool) -> Result<Self> {
        let open = |name: &str, flags| {
            let fd = openat(files.dir, name, flags | OFlags::CLOEXEC, Mode::empty());
            fd.map(File::from).call_at("openat", files.path.join(name))
        };
        let name = if v2 { "memory.events" } else { "memory.oom_control" };
        let file = open(name, OFlags::RDONLY).map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_kind(ErrorKind::Unsupported).with_remedy(NO_MEMORY),
            _ => error,
        })?;
        let mut events = Self { file, path: files.path.join(name), signal: None, told: 0 };
        if v2 {
            events.told = events.count()?;
            return Ok(events);
        }
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).call("eventfd")?;
        let line = format!("{} {}", signal.as_raw_fd(), events.file.as_raw_fd());
        let control = open("cgroup.event_control", OFlags::WRONLY)?;
        control.write_at(line.as_bytes(), 0).call_at("write", files.path.join("cgroup.event_control"))?;
        events.signal = Some(signal);
        Ok(events)
    }

    /// Waits until memory runs out once more; false when it has not until the time is up.
    ///
    /// # Errors
    /// `State` when the group is gone: the container has ended.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let deadline = after(timeout);
        loop {
            // Also whether the group is still there: its end makes both kinds ready.
            let count = self.count()?;
            if self.has_news(count)? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut ready = match &self.signal {
                Some(signal) => [PollFd::new(signal, PollFlags::IN)],
                None => [PollFd::new(&self.file, PollFlags::PRI)],
            };
            match poll(&mut ready, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::os("poll", errno).with_path(&self.path)),
            }
        }
    }

    /// How often it has run out; on v1, which doesn't count it, what there is to read.
    fn count(&self) -> Result<u64> {
        let mut buffer = [0; 512];
        // A read also tells the kernel which state is known: any later change makes the file ready.
        match self.file.read_at(&mut buffer, 0) {
            Ok(len) => Ok(field(&String::from_utf8_lossy(&buffer[..len]), "oom").unwrap_or(0)),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => {
                Err(Error::new(ErrorKind::State, "the control group is gone").with_path(&self.path))
            }
            Err(error) => Err(Error::os("pread", error).with_path(&self.path)),
        }
    }

    fn has_news(&mut self, count: u64) -> Result<bool> {
        let Some(signal) = &self.signal else {
            return Ok(std::mem::replace(&mut self.told, count) < count);
        };
        let mut number = [0; 8];
        match rustix::io::read(signal, &mut number) {
            Ok(_) => {
                // The end of the group signals, too.
                self.count()?;
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(Error::os("read(eventfd)", errno)),
        }
    }
}

/// What gives a group the controller.
pub(super) const NO_MEMORY: &str = "ask for a limit on memory: without, the group doesn't count it";
