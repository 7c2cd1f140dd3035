//! A bound on the processes of a user namespace, where no control group can be had.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use crate::sys::diagnose;
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::OP_END;
use crate::sys::plan::{At, Cell, Label};
use crate::sys::script::{Lacking, NewProcess, Script};
use linux_raw_sys::general as n;

/// A bound on the processes of one container where no control group can be had: RLIMIT_NPROC (getrlimit(2)).
///
/// Since Linux 5.14 the kernel counts processes for each user in each user namespace, and all those of a namespace once more for whoever
/// made it, in the namespace above; there it holds them to what the maker's soft limit was at that moment. So the
/// container's namespace is made from one that has no other processes, and the number bounds all users of the
/// container together, whatever they change to and whatever namespaces they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    /// Processes and threads.
    pub max: u64,
    /// What the limit is otherwise: soft and hard.
    pub otherwise: (u64, u64),
}

impl Fence {
    /// At most so many, as far as this program's own hard limit lets them be.
    ///
    /// # Errors
    /// `Unsupported` for one alone, and on a kernel that counts otherwise.
    pub fn new(pids: u64) -> Result<Self> {
        if let Some(missing) = diagnose::no_fence() {
            return Err(Error::new(ErrorKind::Unsupported, "pids_max through RLIMIT_NPROC").lacks(missing));
        }
        if pids < 2 {
            let error = Error::new(ErrorKind::Unsupported, "pids_max 1 through RLIMIT_NPROC");
            return Err(error.with_remedy("allow 2, or let it have a control group"));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nproc);
        let hard = limit.maximum.unwrap_or(u64::MAX);
        let otherwise = (limit.current.unwrap_or(u64::MAX), hard);
        Ok(Self { max: pids.min(hard), otherwise })
    }

    fn set(s: &mut Script<'_>, soft: u64, hard: u64) {
        const RLIMIT_NPROC: u32 = 6;
        let limit = s.words64(&[soft, hard]);
        s.op(
            n::__NR_prlimit64,
            "prlimit64(RLIMIT_NPROC)",
            [0.into(), RLIMIT_NPROC.into(), limit.into(), 0.into()],
        )
        .remedy("this program's hard limit was lower when it started its first container");
    }

    /// In the container's first process: each of its users may have as many as they ever may.
    pub fn lift(self, s: &mut Script<'_>) {
        Self::set(s, self.otherwise.0, self.otherwise.1);
    }
}

/// Lets a child wait for its parent.
#[derive(Clone, Copy)]
pub(super) struct Pipe {
    read: Cell,
    write: Cell,
}

pub(super) fn pipe(s: &mut Script<'_>) -> Pipe {
    let both = s.space(8);
    s.op(n::__NR_pipe2, "pipe2", [both.into(), n::O_CLOEXEC.into()]);
    Pipe { read: Cell(both.0), write: Cell(both.0 + 4) }
}

impl Pipe {
    /// Until there is a byte; a parent that has ended is an error.
    pub fn wait(self, s: &mut Script<'_>) {
        s.op(n::__NR_close, "close", [self.write.into()]);
        let byte = s.space(8);
        s.op(n::__NR_read, "read(sync)", [self.read.into(), byte.into(), 1.into()]).full();
    }

    pub fn go(self, s: &mut Script<'_>) {
        let byte = s.bytes(b"x");
        s.op(n::__NR_write, "write(sync)", [self.write.into(), byte.into(), 1.into()]);
    }
}

/// `__WALL` of wait4(2): children of every kind.
pub(super) const WALL: u64 = 0x4000_0000;

/// A child in a user namespace of its own.
pub(super) struct NewUser {
    pub pid: Cell,
    /// Where its operations are.
    pub child: Label,
    /// It waits here until it may go on.
    pub mapped: Pipe,
}

/// Clones a child into a new user namespace and writes the map.
pub(super) fn new_user(s: &mut Script<'_>, map: &IdMap, proc: Option<Cell>) -> NewUser {
    const SIGCHLD: u32 = 17;
    let mapped = pipe(s);
    let pid = s.cell(-1);
    s.clone_process(&NewProcess {
        flags: n::CLONE_NEWUSER.into(),
        exit_signal: SIGCHLD,
        pid,
        pidfd: None,
        cgroup: None,
        detail: "CLONE_NEWUSER",
        lacking: Lacking::Feature(Feature::UserNamespace),
    });
    let child = s.label();
    s.jump_if_zero(pid, child);
    s.write_maps(proc, pid, map);
    NewUser { pid, child, mapped }
}

/// What follows is executed by a process in a user namespace of its own with this map, whose limit on processes is
/// `fence`. The process that made it waits until the other has ended, lets whoever waits at `sync` go on, as neither of
/// the two counts any more, and goes on itself at the label.
pub(super) fn between(
    s: &mut Script<'_>,
    map: &IdMap,
    proc: Option<Cell>,
    fence: Fence,
    sync: Pipe,
) -> Label {
    s.during("entering a user namespace that bounds the number of processes");
    let NewUser { pid, child, mapped } = new_user(s, map, proc);
    mapped.go(s);
    let status = s.cell(-1);
    s.op(n::__NR_wait4, "wait4", [pid.into(), At(status.0).into(), WALL.into(), 0.into()]);
    let done = s.label();
    s.jump_if_zero(status, done);
    // It has told what failed.
    s.op(OP_END, "end", [0.into()]);
    s.place(done);
    sync.go(s);
    let after = s.label();
    s.jump(after);
    s.place(child);
    mapped.wait(s);
    s.op(n::__NR_setresgid, "setresgid", [0.into(), 0.into(), 0.into()]);
    s.op(n::__NR_setresuid, "setresuid", [0.into(), 0.into(), 0.into()]);
    // Else /proc/PID/uid_map of its child would belong to the host's root.
    s.dumpable(true);
    Fence::set(s, fence.max, fence.otherwise.1);
    after
}
