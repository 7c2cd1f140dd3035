//! The two stages of a start, and what is heard of them.
#![forbid(unsafe_code)]

use super::bounds::{Bounds, bounds};
use super::lock;
use super::record::Record;
use super::script::{CWD, Script};
use crate::cgroup::{Cgroup, CgroupParent};
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::{self, Birth, Cloned, Heard, NamespaceKind, Namespaces};
use crate::store::Store;
use crate::sys::courier::Letter;
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::Status;
use crate::sys::plan::{Cell, Label};
use crate::sys::warden::{self, Warden};
use linux_raw_sys::general as n;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

/// Messages of our plans.
pub(super) const TERMINAL: u32 = Status::PLAN + 1;
pub(super) use crate::namespace::{BORN, READY};
/// It goes on without something, as best effort allows: its value says without what.
pub(super) const WITHOUT: u32 = Status::PLAN + 4;
/// The seccomp filter; lower values are numbers of mounts that are not id-mapped.
pub(super) const NO_FILTER: u64 = u32::MAX as u64;

/// The user namespace whose map id-maps the layers of a range, kept for the next container of that range. A program that
/// goes through many stores goes through many ranges: not all of them are kept.
pub(super) fn userns(warden: &Arc<Warden>, base: u32) -> Result<Arc<OwnedFd>> {
    const KEPT_MAX: usize = 64;
    static KEPT: LazyLock<Mutex<HashMap<u32, Arc<OwnedFd>>>> = LazyLock::new(Mutex::default);
    if let Some(fd) = lock(&KEPT).get(&base) {
        return Ok(fd.clone());
    }
    let fd = namespace::for_mounts(warden, &IdMap::range(base, super::ids::COUNT))?;
    let fd = Arc::new(fd);
    let mut kept = lock(&KEPT);
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(base, fd.clone());
    Ok(fd)
}

/// What the plan's messages gave.
pub(super) struct Born {
    pub process: warden::Process,
    pub terminal: Option<OwnedFd>,
    /// What it goes on without.
    pub without: Vec<u64>,
}

impl Born {
    /// Listens until the command is executed or a step has failed. Where others are in the container already, they
    /// can stop the process before it is the command: `deadline` is for that.
    pub fn hear(
        started: &mut warden::Started,
        oom_kills: impl Fn() -> Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Self> {
        const EPIPE: i32 = 32;
        const ENOENT: i32 = 2;
        const ESRCH: i32 = 3;
        let (mut terminal, mut without) = (None, Vec::new());
        let Heard { process, ready, failed } = Heard::of(started, deadline, |told| match told.kind {
            TERMINAL => terminal = told.fds.into_iter().next(),
            WITHOUT => without.push(told.value as u64),
            _ => {}
        })?;
        // What failed after the birth ends by itself; it is waited for, so that it is reaped and its group empty.
        match (failed, process, ready) {
            (None, Some(process), true) => Ok(Self { process, terminal, without }),
            (error, process, ready) => {
                // Its other stage has failed, after it was let go.
                if let Some(process) = process.as_ref().filter(|_| ready) {
                    started.kill(&process.pidfd)?;
                }
                let exit = match &process {
                    Some(process) => process.wait(Some(Instant::now() + super::KILL_TIME))?,
                    None => None,
                };
                let oom = oom_kills().is_some_and(|kills| kills > 0);
                // Or its parent learnt it first, who has nobody to send to any more, or nobody whose maps to write.
                let gone = [EPIPE, ENOENT, ESRCH].map(Some);
                let killed = error.as_ref().is_none_or(|error| gone.contains(&error.raw_os_error()));
                Err(match error {
                    Some(error) if !(oom && killed) => error,
                    _ if oom => Error::new(
                        ErrorKind::OutOfMemory,
                        "memory_max was reached before the command started",
                    )
                    .with_remedy("raise memory_max"),
                    _ => Error::new(ErrorKind::Setup, format!("the set-up was killed ({exit:?})")),
                })
            }
        }
    }
}

/// What B enters by itself, beside A's work.
const LATER: u32 = n::CLONE_NEWNET | n::CLONE_NEWIPC | n::CLONE_NEWUTS;

/// What is done of a start before it is known what it is to be: A has its mount namespace, B is born and makes its own
/// network, which takes the kernel as long as all that the host has to find out.
pub(super) struct Beginning {
    cloned: Cloned,
    sockets: Cell,
    /// A waits for the v2 group that B is to be born in.
    grouped: bool,
    /// Where A goes on: with whatever is added next.
    first: Label,
    plan: warden::Begun,
}

/// A start that was begun when its container was made, as OCI's `create` does it: A waits for what root filesystem to build, and
/// B, in the container's namespaces and its control group, for what to be. Before there is that group, A waits for it alone.
/// They end with this.
pub(super) struct Prepared {
    warden: Arc<Warden>,
    script: Script<'static>,
    // Before the group, which would be waited for until it is empty.
    beginning: Beginning,
    bounds: Option<Bounds>,
    _place: Place,
}

/// One of the few that may wait at once: each is two processes, and here two sockets and what its control group has open.
struct Place;

static PREPARED: AtomicUsize = AtomicUsize::new(0);

impl Place {
    fn take() -> Option<Self> {
        const PLACES: usize = 4;
        let taken = PREPARED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (taken < PLACES).then_some(taken + 1)
        });
        taken.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PREPARED.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Prepared {
    /// Begins a start in `namespaces` ahead of it. `None` where that can't be, which says nothing about the start: there is no
    /// warden yet, or its second process would be born before its container is to run.
    pub fn new(cgroups: &CgroupParent, namespaces: &Namespaces) -> Option<Self> {
        let warden = warden::running()?;
        if !may_begin(&warden, cgroups) || !is_grouped(&warden, cgroups) {
            return None;
        }
        let place = Place::take()?;
        let (script, mut beginning) = begin(&warden, namespaces, true).ok()?;
        beginning.plan.rest();
        Some(Self { warden, script, beginning, bounds: None, _place: place })
    }

    /// Goes on into the control group of its container. `None` where it can't, which says nothing about the start either: a
    /// bound that can't be had is the start's to tell.
    ///
    /// Not where a device is given: who is allowed to open it goes by the number that it has at the start.
    pub fn enter(mut self, store: &Store, record: &Record) -> Option<Self> {
        if !record.spec.devices.is_empty() {
            return Some(self);
        }
        let bounds = bounds(store, &record.id, &record.spec, &[], &self.warden);
        let Ok(bounds) = bounds else { return Some(self) };
        // A fence has to be around all of it.
        if bounds.fence.is_some() {
            return None;
        }
        self.beginning = self.beginning.goes_into(v2_of(bounds.cgroup.as_ref(), &self.warden)).ok()??;
        self.bounds = Some(bounds);
        Some(self)
    }

    /// The start that goes on by this warden; `None` where it has to be begun again.
    pub fn start<'fd>(mut self, warden: &Arc<Warden>) -> Option<(Script<'fd>, Beginning, Option<Bounds>)> {
        if !Arc::ptr_eq(&self.warden, warden) {
            return None;
        }
        // Only then: of one that ends between the two it would not be told.
        self.beginning.plan.wake();
        match self.beginning.plan.is_there() {
            true => Some((self.script, self.beginning, self.bounds)),
            false => None,
        }
    }
}

/// The v2 group that a container is born in.
pub(super) fn v2_of<'a>(cgroup: Option<&'a Cgroup>, warden: &Warden) -> Option<BorrowedFd<'a>> {
    cgroup.filter(|_| warden.features().clone3).and_then(Cgroup::v2_dir)
}

/// Whether containers are born in a group of v2.
fn is_grouped(warden: &Warden, cgroups: &CgroupParent) -> bool {
    warden.features().clone3 && cgroups.has_unified()
}

/// Whether starts can begin early. Processes of an ordinary user, and of root without control groups, may need a namespace
/// in between ([`Fence`](crate::namespace::Fence)), which only a group that can't be had tells.
fn may_begin(warden: &Warden, cgroups: &CgroupParent) -> bool {
    !warden.in_vain.load(Ordering::Relaxed)
        && warden.map().is_none()
        && (cgroups.has_unified() || cgroups.has_v1())
}

/// A start that begins now, before it is known what holds it to its limits. `None` where it can't begin early.
pub(super) fn begun<'fd>(
    warden: &Arc<Warden>,
    cgroups: &CgroupParent,
    namespaces: &Namespaces,
) -> Result<Option<(Script<'fd>, Beginning)>> {
    match may_begin(warden, cgroups) {
        true => begin(warden, namespaces, is_grouped(warden, cgroups)).map(Some),
        false => Ok(None),
    }
}

/// Begins a start in `namespaces`; with `grouped`, in a v2 group.
fn begin<'fd>(
    warden: &Arc<Warden>,
    namespaces: &Namespaces,
    grouped: bool,
) -> Result<(Script<'fd>, Beginning)> {
    let mut s = Script::in_two_parts();
    let sockets = mounts_of_its_own(&mut s);
    let status = s.status();
    let into = grouped.then(|| s.take(status));
    let flags = namespaces.clone().without(NamespaceKind::Mount).flags();
    // Of the control groups only once it has joined all of them.
    let flags = flags & !n::CLONE_NEWCGROUP;
    let cloned = namespace::clone_first(&mut s, flags & !LATER, flags & LATER, into);
    let plan = warden.begin(&mut s.plan)?;
    let first = s.label();
    s.place(first);
    Ok((s, Beginning { cloned, sockets, grouped, first, plan }))
}

impl Beginning {
    /// Hands A the group; `None` where there is none against all expectation, or one.
    pub fn goes_into(mut self, group: Option<BorrowedFd<'_>>) -> Result<Option<Self>> {
        if self.grouped != group.is_some() {
            return Ok(None);
        }
        group.map(|group| self.plan.send(group)).transpose()?;
        Ok(Some(self))
    }

    /// Sends the rest; B goes on at `second`.
    pub fn go_on(self, rest: Script<'_>, second: Label) -> Result<warden::Started> {
        self.plan.go_on(rest.plan, [self.first, second])
    }
}

/// A mount namespace for A, and the sockets by which it reaches B.
fn mounts_of_its_own(s: &mut Script<'_>) -> Cell {
    s.during("entering a mount namespace");
    s.unshare_mounts();
    let sockets = s.space(8);
    const AF_UNIX: u32 = 1;
    const SOCK_SEQPACKET_CLOEXEC: u32 = 5 | 0o2000000;
    let args = [AF_UNIX.into(), SOCK_SEQPACKET_CLOEXEC.into(), 0.into(), sockets.into()];
    s.op(n::__NR_socketpair, "socketpair", args);
    Cell(sockets.0)
}

/// What the two stages are made with.
pub(super) struct Stages<'a> {
    pub namespaces: &'a Namespaces,
    pub birth: Birth<'a>,
    pub begun: Option<&'a Beginning>,
}

impl Stages<'_> {
    /// Stage A clones stage B, writes its maps, builds the root filesystem and ends; B goes on as the container.
    ///
    /// A new network namespace takes the kernel as long as the whole root filesystem: B enters it meanwhile. Its mount
    /// namespace comes last, as a copy of A's: made with less privilege, it has all of A's mounts locked. Its working
    /// directory is what finds the root's mount again in there. `build` gives that mount, `mounts` ends in it as the new root,
    /// and `command` is what comes then.
    ///
    /// Gives where B goes on in the plan's second part, after a [beginning](begin).
    pub fn write<T>(
        self,
        s: &mut Script<'_>,
        build: impl FnOnce(&mut Script<'_>) -> Cell,
        early: impl FnOnce(&mut Script<'_>),
        mounts: impl FnOnce(&mut Script<'_>) -> T,
        command: impl FnOnce(&mut Script<'_>, T),
    ) -> Result<Label> {
        let Self { namespaces, birth, begun } = self;
        let sockets = match begun {
            Some(begun) => begun.sockets,
            None => mounts_of_its_own(s),
        };
        let (from, to) = (sockets, Cell(sockets.0 + 4));
        // Until here it has followed what the host mounts, as the warden does.
        s.during("entering a mount namespace");
        s.private_mounts();
        let namespaces = namespaces.clone().without(NamespaceKind::Mount);
        let birth = Birth { later: LATER, ..birth };
        namespace::clone_into(
            s,
            &namespaces,
            &birth,
            begun.map(|begun| begun.cloned),
            |s, born| {
                let mount = build(s);
                // When it comes, all is built.
                let letter = s.letter(0);
                s.copy_fd(mount, letter.fd);
                s.send(to, letter);
                // Whoever is the last to leave this mount namespace takes it down, which takes as long as many a mount and makes
                // all who unmount wait: B closes the socket when it has left its old root, too.
                s.op(n::__NR_close, "close", [from.into()]);
                let byte = s.space(8);
                s.op(n::__NR_read, "read(sync)", [to.into(), byte.into(), 1.into()]).tolerate_all();
                if let Some(born) = born {
                    keep_mounts(s, born);
                }
            },
            |s| {
                // Else its end would not be seen.
                s.op(n::__NR_close, "close", [to.into()]);
                early(s);
                s.during("entering the mount namespace");
                let mount = s.take(from);
                s.op(n::__NR_fchdir, "fchdir", [mount.into()]);
                s.unshare_mounts();
                let left = mounts(s);
                s.op(n::__NR_close, "close", [from.into()]);
                command(s, left);
            },
        )
    }
}

/// The mount namespace of B is taken down after its end is told, not before. Where that can't be, the end comes later.
fn keep_mounts(s: &mut Script<'_>, born: Letter) {
    s.during("keeping the mount namespace");
    let path = s.decimal("/proc/", born.value, c"/ns/mnt");
    let flags = n::O_RDONLY | n::O_CLOEXEC;
    let namespace = s.cell(-1);
    let ended = s.label();
    s.op(n::__NR_openat, "openat", [CWD.into(), path.into(), flags.into(), 0.into()])
        .tolerate_all()
        .otherwise(ended)
        .store(namespace);
    s.keep(born.fd, namespace);
    s.place(ended);
}
