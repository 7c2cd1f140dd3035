//! The two stages of a start, and what is heard of them.
#![forbid(unsafe_code)]

use super::lock;
use super::script::Script;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::{OP_END, OP_ROAM, OP_STAY, Status};
use crate::sys::plan::{Cell, Plan};
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
    let told = started.next(None)?;
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
    /// Listens until the command is executed or a step has failed. Where others are in the container already, they
    /// can stop the process before it is the command: `deadline` is for that.
    pub fn hear(
        started: &mut warden::Started,
        oom_kills: impl Fn() -> Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Self> {
        let mut process: Option<warden::Process> = None;
        let mut terminal = None;
        let mut ready = false;
        let heard = loop {
            match started.next(deadline) {
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
        let failed = heard.err();
        if let (Some(error), Some(process)) = (&failed, &process)
            && error.kind() == ErrorKind::TimedOut
        {
            started.kill(process)?;
        }
        // What failed after the birth ends by itself; it is waited for, so that it is reaped and its group empty.
        match (failed, process, ready) {
            (None, Some(process), true) => Ok(Self { process, terminal }),
            (error, process, _) => {
                let exit = match &process {
                    Some(process) => process.wait(Some(Instant::now() + super::KILL_TIME))?,
                    None => None,
                };
                let oom = oom_kills().is_some_and(|kills| kills > 0);
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

/// Stage A clones stage B into all its namespaces, writes its maps and ends; B goes on as the container.
pub(super) fn two_stages(
    s: &mut Script<'_>,
    mount: Cell,
    namespaces: u32,
    cgroup: Option<Cell>,
    map: &IdMap,
    inside: impl FnOnce(&mut Script<'_>),
) {
    s.during("entering the namespaces");
    // The working directory is what finds the root's mount again in the new mount namespace.
    s.op(n::__NR_fchdir, "fchdir", [mount.into()]);
    let pipe = s.space(8);
    s.op(n::__NR_pipe2, "pipe2", [pipe.into(), n::O_CLOEXEC.into()]);
    let (read, write) = (Cell(pipe.0), Cell(pipe.0 + 4));
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
    write_maps(s, born.value, map, map.is_single());
    s.during("entering the namespaces");
    let byte = s.bytes(b"x");
    s.op(n::__NR_write, "write(sync)", [write.into(), byte.into(), 1.into()]);
    s.post(born);
    s.op(OP_END, "end", [0.into()]);
    s.place(child);
    s.op(OP_ROAM, "roam", []);
    s.op(n::__NR_close, "close", [write.into()]);
    let byte = s.space(8);
    s.op(n::__NR_read, "read(sync)", [read.into(), byte.into(), 1.into()]).full();
    inside(s);
}
