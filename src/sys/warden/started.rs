//! Plans on their way: what they tell, and those whose first part is executed before there is a second.

use super::Warden;
use super::told::{Process, gone, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::signal::Signal;
use crate::sys::message;
use crate::sys::plan::format::Status;
use crate::sys::plan::{Compiled, Label, Plan};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Every plan tells something, if it is executed at all.
fn not_executed() -> Error {
    Error::new(ErrorKind::Setup, "the plan was not executed").with_remedy(
        "the warden may lack room for its descriptors: raise the limit of this program (ulimit -n)",
    )
}

/// A plan on its way.
pub(crate) struct Started {
    pub(super) warden: Arc<Warden>,
    pub(super) compiled: Compiled,
    pub(super) status: OwnedFd,
    /// Something was told.
    pub(super) heard: bool,
    /// How many ends had been told before; none once no process of it is to be adopted any more.
    pub(super) since: Option<u64>,
    /// What was heard already, and is the next.
    pub(super) kept: Option<Told>,
}

/// A plan whose first part is being executed, by two processes that both wait for the rest. Dropped, it ends when they have.
pub(crate) struct Begun {
    /// None once it goes on.
    pub(super) started: Option<Started>,
    /// Where the second process takes the rest; shut down for all who have it when it is not to come.
    pub(super) second: OwnedFd,
    /// The first process has been given something: the second may be in a control group.
    pub(super) given: bool,
}

impl Begun {
    fn status(&self) -> Result<BorrowedFd<'_>> {
        self.started.as_ref().map(AsFd::as_fd).ok_or_else(gone)
    }

    /// Lets it wait for long: no process of it is to be adopted meanwhile, so that nothing told is kept for it.
    pub fn rest(&mut self) {
        if let Some(started) = &mut self.started {
            started.settle();
        }
    }

    /// Whether it still waits: somebody may have killed one of its processes meanwhile. What it has told first has pidfds of
    /// those that there are; before, there is one.
    pub fn is_there(&mut self) -> bool {
        let Some(started) = &mut self.started else { return false };
        let now = Some(Instant::now());
        match started.next(now) {
            Ok(Some(told)) => {
                let waits = |pidfd| message::readable(pidfd, now).is_ok_and(|ended| !ended);
                let wait = told.fds.iter().all(waits);
                started.kept = Some(told);
                wait
            }
            Err(error) => error.kind() == ErrorKind::TimedOut,
            Ok(None) => false,
        }
    }

    /// It is to go on: what is told from now on may be of its processes.
    pub fn wake(&mut self) {
        if let Some(started) = &mut self.started {
            started.settle();
            started.since = Some(lock(&started.warden.shared.state).start());
        }
    }

    /// Sends a descriptor for the first process to take.
    pub fn send(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        self.given = true;
        message::send_to_some(self.status()?, &[&[0; size_of::<Status>()]], &[fd])
    }

    /// Sends the rest; the processes go on at these.
    pub fn go_on(mut self, plan: Plan<'_>, at: [Label; 2]) -> Result<Started> {
        let compiled = plan.second_part(at)?.send([self.status()?, self.second.as_fd()])?;
        let mut started = self.started.take().ok_or_else(gone)?;
        started.compiled = compiled;
        Ok(started)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        /// How long two processes may take to end that do nothing else.
        const END_TIME: Duration = Duration::from_secs(1);
        let Some(started) = &self.started else { return };
        // A forked copy of the program has the sockets in common with the program, which still needs them.
        if started.warden.shared.check().is_err() {
            return;
        }
        for socket in [&started.status, &self.second] {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
        }
        // One that rests and was given no control group need not be gone for that to be removed.
        if started.since.is_some() || self.given {
            let _ = message::hung_up(&started.status, Some(Instant::now() + END_TIME));
        }
    }
}

/// What a plan's own operations send.
pub(crate) struct Told {
    pub kind: u32,
    pub value: i64,
    pub fds: Vec<OwnedFd>,
}

impl Started {
    /// The next message of the plan; `None` once every process that had its socket has closed it or has become
    /// another program.
    ///
    /// # Errors
    /// `TimedOut` when none has come by the deadline, where one is given.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Told>> {
        if let Some(told) = self.kept.take() {
            return Ok(Some(told));
        }
        if deadline.is_some() && !message::readable(&self.status, deadline)? {
            return Err(Error::new(ErrorKind::TimedOut, "its time was up before it was executed"));
        }
        let mut buffer = [0; 64];
        let Some((_, fds)) = message::receive(&self.status, &mut buffer)? else {
            return match self.heard {
                true if !self.warden.shared.is_gone() => Ok(None),
                // A warden that is killed closes what it has in any order, its own socket last.
                false if self.warden.answers() => Err(not_executed()),
                _ => Err(gone()),
            };
        };
        self.heard = true;
        let status = Status::from_bytes(&buffer);
        match status.kind {
            Status::FAILED => Err(self.compiled.error(status.step, status.value)),
            kind => Ok(Some(Told { kind, value: status.value, fds })),
        }
    }

    /// Waits until every process of the plan has closed its socket, has become another program, or has ended: what they tell
    /// meanwhile wakes nobody, while they need the processors. False at the deadline.
    pub fn is_executed(&self, deadline: Option<Instant>) -> Result<bool> {
        message::hung_up(&self.status, deadline)
    }

    pub fn adopt(&self, pid: i32, pidfd: OwnedFd) -> Process {
        self.warden.shared.adopt(pid, pidfd, self.since.unwrap_or(u64::MAX))
    }

    /// Kills a process of the plan; by the warden where it has become somebody whom the host may not signal.
    ///
    /// # Errors
    /// `TimedOut` where the warden is needed and does not answer: it may be stopped.
    pub fn kill(&self, process: &OwnedFd) -> Result<()> {
        let until = Some(Instant::now() + super::hang::TIME);
        super::signal(process.as_fd(), Signal::SIGKILL, Some(&self.warden), until).map(drop)
    }

    /// Nothing of it is to be adopted: what is told of unknown processes need not be kept for it.
    pub fn settle(&mut self) {
        if self.since.take().is_some() {
            lock(&self.warden.shared.state).started();
        }
    }

    pub(in crate::sys) fn socket(&self) -> &OwnedFd {
        &self.status
    }
}

impl AsFd for Started {
    /// Readable when there is something to hear.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.status.as_fd()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::super::warden;
    use super::*;
    use crate::sys::plan::Cell;
    use linux_raw_sys::general as n;
    use std::io::Read;

    /// Two processes that wait for the rest of a plan, and a descriptor that they have opened.
    fn begun<'a>() -> (Plan<'a>, Cell, Begun) {
        const SIGCHLD: u32 = 17;
        let mut plan = Plan::in_two_parts();
        let path = plan.c_str(c"/");
        let open = [n::AT_FDCWD.into(), path.into(), n::O_PATH.into(), 0.into()];
        let opened = plan.op(n::__NR_openat, "openat", open).result();
        let child = plan.label();
        let args = [SIGCHLD.into(), 0.into(), 0.into(), 0.into(), 0.into()];
        let clone = plan.op(n::__NR_clone, "clone", args).result();
        plan.jump_if_zero(clone, child);
        let status = plan.status();
        plan.more(status);
        plan.place(child);
        let second = plan.second_socket();
        plan.more(second);
        let begun = warden().unwrap().begin(&mut plan).unwrap();
        (plan, opened, begun)
    }

    #[test]
    fn two_processes_go_on_with_what_comes_later() {
        let (reader, writer) = std::io::pipe().unwrap();
        // In a message of its own, and where it is too large for one.
        for size in [10, 1 << 20] {
            let (mut plan, opened, begun) = begun();
            let to = plan.fd(writer.as_fd());
            let text = plan.bytes(&vec![b'x'; size]);
            let (first, second) = (plan.label(), plan.label());
            for label in [first, second] {
                plan.place(label);
                let letter = plan.letter(Status::PLAN);
                let last = crate::sys::plan::At(text.0 + size as u64 - 1);
                plan.op(n::__NR_write, "write", [to.into(), last.into(), 1.into()]);
                plan.op(n::__NR_dup, "dup", [opened.into()]).store(letter.fd);
                plan.post(letter);
                plan.op(crate::sys::plan::format::OP_END, "end", [0.into()]);
            }
            let mut started = begun.go_on(plan, [first, second]).unwrap();
            assert!(started.is_executed(Some(Instant::now() + Duration::from_secs(60))).unwrap());
            for _ in 0..2 {
                let told = started.next(None).unwrap().unwrap();
                assert_eq!((told.kind, told.fds.len()), (Status::PLAN, 1));
            }
            assert!(started.next(None).unwrap().is_none());
        }
        drop(writer);
        let mut all = String::new();
        { reader }.read_to_string(&mut all).unwrap();
        assert_eq!(all, "xxxx");
    }

    #[test]
    fn what_does_not_come_is_not_waited_for() {
        let (_, _, begun) = begun();
        let status = begun.status().unwrap().try_clone_to_owned().unwrap();
        drop(begun);
        assert!(message::hung_up(&status, Some(Instant::now())).unwrap(), "both have ended");
    }

    #[test]
    fn what_the_first_part_says_is_heard() {
        let mut plan = Plan::in_two_parts();
        let path = plan.c_str(c"/nowhere");
        plan.op(n::__NR_chdir, "chdir", [path.into()]).path("/nowhere");
        let begun = warden().unwrap().begin(&mut plan).unwrap();
        let rest = plan.label();
        plan.place(rest);
        let mut started = begun.go_on(plan, [rest, rest]).unwrap();
        let Err(error) = started.next(None) else { panic!("it has failed") };
        assert_eq!((error.step(), error.raw_os_error()), ("chdir", Some(2)));
    }
}
