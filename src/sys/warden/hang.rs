//! A plan whose time is up: where it hangs, and its end.

use super::Started;
use super::told::{Process, number};
use crate::error::{Error, Result};
use crate::sys::message;
use crate::sys::plan::format::{BASE, Header};
use std::fs::File;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long a killed process may take to end.
pub(super) const TIME: Duration = Duration::from_secs(10);

impl Started {
    /// Kills the process that the plan has announced, and the one that executes the plan. What hangs where no signal reaches
    /// it (state D) ends when its call comes back.
    ///
    /// Gives an error that names the call in which one of them was, where this program may look into them.
    pub fn give_up(&self, process: Option<&Process>, executor: Option<&OwnedFd>) -> Result<Option<Error>> {
        let both = || executor.into_iter().chain(process.map(|process| &*process.pidfd));
        let hung = both().find_map(|pidfd| self.compiled.hung(step_of(pidfd)?));
        both().try_for_each(|pidfd| self.kill(pidfd))?;
        if let Some(executor) = executor {
            message::readable(executor, Some(Instant::now() + TIME))?;
        }
        Ok(hung)
    }
}

/// The operation that a process is executing.
fn step_of(pidfd: &OwnedFd) -> Option<u32> {
    let pid = number(pidfd).ok()?.filter(|pid| *pid > 0)?;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut step = [0; 8];
    memory.read_exact_at(&mut step, (BASE + offset_of!(Header, step)) as u64).ok()?;
    u64::from_ne_bytes(step).try_into().ok()
}
