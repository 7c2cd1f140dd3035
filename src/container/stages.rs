//! The two stages of a start, and what is heard of them.
#![forbid(unsafe_code)]

use super::lock;
use super::script::Script;
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::{OP_END, OP_ROAM, OP_STAY, Status};
use crate::sys::plan::{At, Cell, Plan};
use crate::sys::warden::{self, Warden};
use linux_raw_sys::general as n;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

/// Messages of our plans.
pub(super) const BORN: u32 = Status::PLAN;
pub(super) const TERMINAL: u32 = Status::PLAN + 1;
pub(super) const READY: u32 = Status::PLAN + 2;

/// The user namespace whose map id-maps the layers of a range, kept for the next container of that range.
pub(super) fn userns(warden: &Arc<Warden>, base: u32) -> Result<Arc<OwnedFd>> {
    static KEPT: LazyLock<Mutex<HashMap<u32, Arc<OwnedFd>>>> = LazyLock::new(Mutex::default);
    if let Some(fd) = lock(&KEPT).get(&base) {
        return Ok(fd.clone());
    }
    let mut s = Script::new();
    s.during("making a user namespace");
    let pipe = s.space(8);
    s.op(n::__NR_pipe2, "pipe2", [pipe.into(), n::O_CLOEXEC.into()]);
    let (read, write) = (Cell(pipe.0), Cell(pipe.0 + 4));
    const SIGCHLD: u64 = 17;
    let args = s.words64(&[u64::from(n::CLONE_NEWUSER), 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0]);
    let pid = s.op(n::__NR_clone3, "clone3(CLONE_NEWUSER)", [args.into(), 88.into()]).result();
    let child = s.label();
    s.jump_if_zero(pid, child);
    write_maps(&mut s, pid, &IdMap::range(base, super::ids::COUNT), false);
    let path = s.decimal("/proc/", pid, c"/ns/user");
    let letter = s.letter(BORN);
    s.op(
        n::__NR_openat,
        "openat(ns/user)",
        [super::script::CWD.into(), path.into(), n::O_CLOEXEC.into(), 0.into()],
    )
    .store(letter.fd);
    s.op(n::__NR_close, "close", [write.into()]);
    const WALL: u64 = 0x4000_0000;
    s.op(n::__NR_wait4, "wait4", [pid.into(), 0.into(), WALL.into(), 0.into()]);
    s.post(letter);
    let end = s.label();
    s.jump(end);
    s.place(child);
    s.op(n::__NR_close, "close", [write.into()]);
    let byte = s.space(8);
    s.op(n::__NR_read, "read", [read.into(), byte.into(), 1.into()]);
    s.place(end);
    let mut started = warden.start_plan(s.plan)?;
    let told = started.next()?;
    let fd = told.and_then(|told| told.fds.into_iter().next());
    let fd = Arc::new(fd.ok_or_else(|| Error::new(ErrorKind::Setup, "the user namespace did not come"))?);
    lock(&KEPT).insert(base, fd.clone());
    Ok(fd)
}

/// Writes the maps of the process in `pid`, from a process that has the rights to.
fn write_maps(s: &mut Plan<'_>, pid: Cell, map: &IdMap, deny_groups: bool) {
    s.during("writing the maps of the user namespace");
    let mut put = |suffix: &std::ffi::CStr, text: &str| {
        let path = s.decimal("/proc/", pid, suffix);
        let flags = n::O_WRONLY | n::O_CLOEXEC;
        let fd = s
            .op(n::__NR_openat, "openat", [super::script::CWD.into(), path.into(), flags.into(), 0.into()])
            .path(format!("/proc/PID{}", suffix.to_string_lossy()))
            .result();
        let at = s.bytes(text.as_bytes());
        s.op(n::__NR_write, "write", [fd.into(), at.into(), text.len().into()])
            .full()
            .path(format!("/proc/PID{}", suffix.to_string_lossy()));
        s.op(n::__NR_close, "close", [fd.into()]);
    };
    if deny_groups {
        put(c"/setgroups", "deny");
    }
    put(c"/uid_map", &IdMap::text(&map.users));
    put(c"/gid_map", &IdMap::text(&map.groups));
}

/// What the plan's messages gave.
pub(super) struct Born {
    pub process: warden::Process,
    pub terminal: Option<OwnedFd>,
}

impl Born {
    /// Listens until the command is executed or a step has failed.
    pub fn hear(started: &mut warden::Started, cgroup: Option<&Cgroup>) -> Result<Self> {
        let mut process = None;
        let mut terminal = None;
        let mut ready = false;
        let heard = loop {
            match started.next() {
                Ok(None) => break Ok(()),
                Ok(Some(told)) => {
                    let fd = told.fds.into_iter().next();
                    match (told.kind, fd) {
                        (BORN, Some(pidfd)) => process = Some(started.adopt(told.value as i32, pidfd)),
                        (TERMINAL, Some(master)) => terminal = Some(master),
                        (READY, _) => ready = true,
                        _ => {}
                    }
                }
                Err(error) => break Err(error),
            }
        };
        // What failed after the birth ends by itself; it is waited for, so that it is reaped and its group empty.
        let failed = heard.err();
        match (failed, process, ready) {
            (None, Some(process), true) => Ok(Self { process, terminal }),
            (error, process, _) => {
                let exit = match &process {
                    Some(process) => process.wait(Some(Instant::now() + super::KILL_TIME))?,
                    None => None,
                };
                let oom = cgroup
                    .and_then(|cgroup| cgroup.oom_kills().ok().flatten())
                    .is_some_and(|kills| kills > 0);
                Err(match error {
                    Some(error) => error,
                    None if oom => Error::new(
                        ErrorKind::OutOfMemory,
                        "memory_max was reached before the command started",
                    )
                    .with_remedy("raise memory_max"),
                    None => Error::new(ErrorKind::Setup, format!("the set-up was killed ({exit:?})")),
                })
            }
        }
    }
}

/// A bound on the processes of one container where no control group can be had: RLIMIT_NPROC (getrlimit(2)).
///
/// The kernel counts processes for each user in each user namespace, and all those of a namespace once more for whoever
/// made it, in the namespace above; there it holds them to what the maker's soft limit was at that moment. So the
/// container's namespace is made from one that has no other processes, and the number bounds all users of the
/// container together, whatever they change to and whatever namespaces they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// Processes and threads.
    pub max: u64,
    /// What the limit is otherwise: soft and hard.
    pub otherwise: (u64, u64),
}

impl Fence {
    /// At most so many, as far as this program's own hard limit lets them be.
    pub fn new(pids: u64) -> Result<Self> {
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

/// Stage A clones stage B into all its namespaces, writes its maps and ends; B goes on as the container.
///
/// With a fence another process lies between, in the namespace that has the container's as its only child. It must
/// be gone when B goes on, as it counts too: so A stays until then.
pub(super) fn two_stages(
    s: &mut Script<'_>,
    mount: Cell,
    namespaces: u32,
    cgroup: Option<Cell>,
    map: &IdMap,
    fence: Option<Fence>,
    inside: impl FnOnce(&mut Script<'_>),
) {
    s.during("entering the namespaces");
    // The working directory is what finds the root's mount again in the new mount namespace.
    s.op(n::__NR_fchdir, "fchdir", [mount.into()]);
    let sync = pipe(s);
    let inner = match fence {
        Some(fence) => {
            between(s, map, fence, sync);
            &map.nested()
        }
        None => map,
    };
    s.during("entering the namespaces");
    let born = s.letter(BORN);
    const CLONE_PARENT: u32 = 0x8000;
    let flags = u64::from(namespaces | n::CLONE_PIDFD | CLONE_PARENT);
    let flags = flags | if cgroup.is_some() { n::CLONE_INTO_CGROUP } else { 0 };
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    let args = s.words64(&[flags, born.fd.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    if let Some(cgroup) = cgroup {
        s.op(n::__NR_fcntl, "fcntl(F_DUPFD_CLOEXEC)", [cgroup.into(), n::F_DUPFD_CLOEXEC.into(), 3.into()])
            .store(Cell(args.0 + 80));
    }
    s.op(OP_STAY, "stay", []);
    s.op(n::__NR_clone3, "clone3", [args.into(), 88.into()])
        .detail(format!("{namespaces:#x}"))
        .remedy("see /proc/sys/user/max_*_namespaces, and what confines this program")
        .store(born.value);
    let child = s.label();
    s.jump_if_zero(born.value, child);
    write_maps(s, born.value, inner, map.is_single());
    s.during("entering the namespaces");
    if fence.is_none() {
        sync.go(s);
    }
    s.post(born);
    s.op(OP_END, "end", [0.into()]);
    s.place(child);
    s.op(OP_ROAM, "roam", []);
    sync.wait(s);
    if let Some(fence) = fence {
        fence.lift(s);
    }
    inside(s);
}

/// Lets a child wait for its parent.
#[derive(Clone, Copy)]
struct Pipe {
    read: Cell,
    write: Cell,
}

fn pipe(s: &mut Plan<'_>) -> Pipe {
    let both = s.space(8);
    s.op(n::__NR_pipe2, "pipe2", [both.into(), n::O_CLOEXEC.into()]);
    Pipe { read: Cell(both.0), write: Cell(both.0 + 4) }
}

impl Pipe {
    /// Until there is a byte; a parent that has ended is an error.
    fn wait(self, s: &mut Plan<'_>) {
        s.op(n::__NR_close, "close", [self.write.into()]);
        let byte = s.space(8);
        s.op(n::__NR_read, "read(sync)", [self.read.into(), byte.into(), 1.into()]).full();
    }

    fn go(self, s: &mut Plan<'_>) {
        let byte = s.bytes(b"x");
        s.op(n::__NR_write, "write(sync)", [self.write.into(), byte.into(), 1.into()]);
    }
}

/// What follows is executed by a process in a user namespace of its own, whose limit on processes is `fence`.
fn between(s: &mut Script<'_>, map: &IdMap, fence: Fence, sync: Pipe) {
    const SIGCHLD: u64 = 17;
    const WALL: u64 = 0x4000_0000;
    s.during("entering a user namespace that bounds the number of processes");
    let mapped = pipe(s);
    let args = s.words64(&[u64::from(n::CLONE_NEWUSER), 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0]);
    s.op(OP_STAY, "stay", []);
    let pid = s
        .op(n::__NR_clone3, "clone3(CLONE_NEWUSER)", [args.into(), 88.into()])
        .remedy("see /proc/sys/user/max_user_namespaces, and what confines this program")
        .result();
    let child = s.label();
    s.jump_if_zero(pid, child);
    write_maps(s, pid, map, map.is_single());
    mapped.go(s);
    let status = s.cell(-1);
    s.op(n::__NR_wait4, "wait4", [pid.into(), At(status.0).into(), WALL.into(), 0.into()]);
    let done = s.label();
    s.jump_if_zero(status, done);
    // It has told what failed.
    s.op(OP_END, "end", [0.into()]);
    s.place(done);
    sync.go(s);
    s.op(OP_END, "end", [0.into()]);
    s.place(child);
    mapped.wait(s);
    s.op(n::__NR_setresgid, "setresgid", [0.into(), 0.into(), 0.into()]);
    s.op(n::__NR_setresuid, "setresuid", [0.into(), 0.into(), 0.into()]);
    // Else /proc/PID/uid_map of its child would belong to the host's root.
    s.op(
        n::__NR_prctl,
        "prctl(PR_SET_DUMPABLE)",
        [linux_raw_sys::prctl::PR_SET_DUMPABLE.into(), 1.into(), 0.into(), 0.into(), 0.into()],
    );
    Fence::set(s, fence.max, fence.otherwise.1);
}
