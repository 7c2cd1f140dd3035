//! What a container is doing, and how its command ended.
#![forbid(unsafe_code)]

use crate::sys::warden::Exit;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Not started yet.
    Created,
    /// Its command runs.
    Running,
    /// It runs and is frozen.
    Paused,
    /// Its command has ended.
    Exited,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Exited => "exited",
        })
    }
}

/// How a container's command ended: with a code, by a signal, for lack of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    raw: i32,
    oom_killed: bool,
    #[serde(default)]
    used: Used,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    user_us: u64,
    system_us: u64,
    peak_bytes: u64,
}

impl ExitStatus {
    pub(crate) fn new(exit: Exit, oom_killed: bool) -> Self {
        let raw = std::process::ExitStatus::from(exit).into_raw();
        let used = Used {
            user_us: exit.user.as_micros() as u64,
            system_us: exit.system.as_micros() as u64,
            peak_bytes: exit.peak_bytes,
        };
        Self { raw, oom_killed, used }
    }

    /// Of a container whose program went away with it: killed.
    pub(crate) fn lost() -> Self {
        Self { raw: 9, oom_killed: false, used: Used::default() }
    }

    /// Whether the code was 0.
    pub fn success(&self) -> bool {
        self.raw == 0
    }

    /// The exit code, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.into_std().code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.into_std().signal()
    }

    /// Whether the kernel killed a process of the container because the memory limit was reached.
    pub fn oom_killed(&self) -> bool {
        self.oom_killed
    }

    /// What a shell and docker make of it: the code, or 128 and the signal.
    pub fn shell_code(&self) -> i32 {
        self.code().unwrap_or_else(|| 128 + self.signal().unwrap_or(0))
    }

    /// Processor time in programs, of the command and the children it waited for.
    pub fn user_time(&self) -> Duration {
        Duration::from_micros(self.used.user_us)
    }

    /// Processor time in the kernel, likewise.
    pub fn system_time(&self) -> Duration {
        Duration::from_micros(self.used.system_us)
    }

    /// The largest resident size of the command or a child it waited for, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.used.peak_bytes
    }

    /// As `std` has it.
    pub fn into_std(self) -> std::process::ExitStatus {
        std::process::ExitStatus::from_raw(self.raw)
    }
}

impl From<ExitStatus> for std::process::ExitStatus {
    fn from(status: ExitStatus) -> Self {
        status.into_std()
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.into_std().fmt(f)?;
        if self.oom_killed { f.write_str(" (out of memory)") } else { Ok(()) }
    }
}

/// What [`run`](super::ContainerBuilder::run) and [`Exec::output`](super::Exec::output) return.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
    /// What was asked for and what this host enforced.
    pub report: crate::cgroup::Report,
}

impl Output {
    /// stdout as text, malformed UTF-8 replaced.
    pub fn stdout_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// stderr as text, malformed UTF-8 replaced.
    pub fn stderr_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }
}
