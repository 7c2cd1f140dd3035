//! A plan whose time is up: where it hangs, and its end.

use super::Started;
use super::told::Process;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::plan::Plan;
use crate::sys::plan::format::{BASE, Header, Status};
use linux_raw_sys::general as n;
use std::fs::File;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long the warden may take to open a process, and a killed one to end.
const TIME: Duration = Duration::from_secs(10);

const OPENED: u32 = Status::PLAN;

impl Started {
    /// Kills the process that the plan has announced, and the one that executes the plan, which is called so in the
    /// warden's PID namespace. What hangs where no signal reaches it (state D) ends when its call comes back.
    ///
    /// Gives an error that names the call in which one of them was, where this program may look into them.
    pub fn give_up(&self, process: Option<&Process>, executor: Option<i32>) -> Result<Option<Error>> {
        let executor = executor.map(|pid| self.executor(pid)).transpose()?.flatten();
        let both = || executor.iter().chain(process);
        let hung = both().find_map(|process| self.compiled.hung(step_of(process)?));
        both().try_for_each(|process| self.kill(process))?;
        if let Some(executor) = &executor {
            executor.wait(Some(Instant::now() + TIME))?;
        }
        Ok(hung)
    }

    /// The executing process, unless it has ended.
    fn executor(&self, pid: i32) -> Result<Option<Process>> {
        const ESRCH: u32 = 3;
        let mut plan = Plan::new();
        plan.during("opening a process that hangs");
        let letter = plan.letter(OPENED);
        let gone = plan.label();
        plan.op(n::__NR_pidfd_open, "pidfd_open", [pid.into(), 0.into()])
            .store(letter.fd)
            .tolerate(&[ESRCH])
            .otherwise(gone);
        plan.post(letter);
        plan.place(gone);
        // Else nothing at all would be told.
        let nothing = plan.words64(&[u64::from(OPENED), 0]);
        let status = plan.status();
        plan.op(n::__NR_write, "write(status)", [status.into(), nothing.into(), 16.into()]);
        let told = self.warden.start_plan(plan)?.next(Some(Instant::now() + TIME))?;
        let Some(pidfd) = told.and_then(|told| told.fds.into_iter().next()) else { return Ok(None) };
        // Another process may have got the number. Then the end of the first was told before, and the answer to any
        // request comes after that.
        match self.warden.signal(pidfd.as_fd(), 0) {
            Err(error) if error.kind() == ErrorKind::Gone => return Err(error),
            _ => {}
        }
        let process = self.adopt(pid, pidfd);
        Ok(process.wait(Some(Instant::now()))?.is_none().then_some(process))
    }
}

/// The operation that a process is executing.
fn step_of(process: &Process) -> Option<u32> {
    let memory = File::open(format!("/proc/{}/mem", process.pid().ok()??)).ok()?;
    let mut step = [0; 8];
    memory.read_exact_at(&mut step, (BASE + offset_of!(Header, step)) as u64).ok()?;
    u64::from_ne_bytes(step).try_into().ok()
}
