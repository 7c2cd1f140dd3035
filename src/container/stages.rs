//! The two stages of a start, and what is heard of them.
#![forbid(unsafe_code)]

use super::lock;
use super::script::Script;
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::{self, Fence, Heard, Namespaces};
use crate::sys::idmap::IdMap;
use crate::sys::plan::Cell;
use crate::sys::plan::format::Status;
use crate::sys::warden::{self, Warden};
use linux_raw_sys::general as n;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

/// Messages of our plans.
pub(super) const TERMINAL: u32 = Status::PLAN + 1;
pub(super) use crate::namespace::{BORN, READY};

/// The user namespace whose map id-maps the layers of a range, kept for the next container of that range.
pub(super) fn userns(warden: &Arc<Warden>, base: u32) -> Result<Arc<OwnedFd>> {
    static KEPT: LazyLock<Mutex<HashMap<u32, Arc<OwnedFd>>>> = LazyLock::new(Mutex::default);
    if let Some(fd) = lock(&KEPT).get(&base) {
        return Ok(fd.clone());
    }
    let fd = namespace::for_mounts(warden, &IdMap::range(base, super::ids::COUNT))?;
    let fd = Arc::new(fd);
    lock(&KEPT).insert(base, fd.clone());
    Ok(fd)
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
        let mut terminal = None;
        let Heard { process, ready, failed } = Heard::of(started, deadline, |told| {
            if told.kind == TERMINAL {
                terminal = told.fds.into_iter().next();
            }
        });
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
    namespaces: &Namespaces,
    outer: Option<&IdMap>,
    cgroup: Option<Cell>,
    fence: Option<Fence>,
    inside: impl FnOnce(&mut Script<'_>),
) -> Result<()> {
    s.during("entering the namespaces");
    // The working directory is what finds the root's mount again in the new mount namespace.
    s.op(n::__NR_fchdir, "fchdir", [mount.into()]);
    namespace::clone_into(s, namespaces, outer, cgroup, None, fence, inside)
}
