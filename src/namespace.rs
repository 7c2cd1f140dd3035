//! Namespaces: what a process has of its own of the system, namespaces(7).
//!
//! [`Namespaces`] is the value that says which; a container's first process gets its own by it, and with
//! [`Namespaces::command`] it is usable alone, without an image or a store: the command is the host's and sees the host's
//! files. As everything here it is made by the program's warden, so nothing is forked in this program, and it
//! is gone with it.
//!
//! | kind | what the command has of its own | without it |
//! |---|---|---|
//! | `Pid` | it is process 1 of a new namespace and all others in it end with it | the warden's processes |
//! | `Mount` | a mount table that is cut off from the host's; with `Pid`, a /proc of its own | a copy that receives the host's mounts and gives none back |
//! | `Net` | a network with a loopback interface that is up | the host's |
//! | `Uts` | a host name | the host's |
//! | `Ipc` | System V IPC and POSIX message queues | the host's |
//! | `Cgroup` | its control group looks like the root of all | the host's |
//! | `User` | user ids, and all capabilities over what else is its own | the caller's, as root |
//!
//! A stage of the plan joins what is to be joined, clones the command into what is to be new ([`clone_into`]), writes its
//! maps and ends; the command's process makes itself at home ([`Namespaces::settle`]) and executes.
#![forbid(unsafe_code)]

mod enter;
mod fence;

pub use enter::{Enter, Entered};
pub(crate) use fence::Fence;
use fence::NewUser;

use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use crate::sys::courier::Letter;
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::{OP_END, Status};
use crate::sys::plan::{Cell, Label};
use crate::sys::script::{CWD, Lacking, NewProcess, Script};
use crate::sys::warden::{self, Started, Told, Warden};
use linux_raw_sys::{errno as e, general as n};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages of plans: the process that was cloned (its pid, its pidfd); it is about to execute; a descriptor.
pub(crate) const BORN: u32 = Status::PLAN;
pub(crate) const READY: u32 = Status::PLAN + 2;
const DESCRIPTOR: u32 = Status::PLAN + 3;

/// How long a kill may take until it is an error of its own.
const KILL_TIME: Duration = Duration::from_secs(10);

/// The kernel's longest host name, in bytes.
const HOSTNAME_MAX: usize = 64;

/// One kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NamespaceKind {
    /// Control groups, cgroup_namespaces(7).
    Cgroup,
    /// System V IPC and POSIX message queues, ipc_namespaces(7).
    Ipc,
    /// Mounts, mount_namespaces(7).
    Mount,
    /// Network interfaces, addresses, ports, network_namespaces(7).
    Net,
    /// Process ids, pid_namespaces(7).
    Pid,
    /// User ids and capabilities, user_namespaces(7).
    User,
    /// Host name, uts_namespaces(7).
    Uts,
}

impl NamespaceKind {
    pub(crate) const ALL: [Self; 7] =
        [Self::Cgroup, Self::Ipc, Self::Mount, Self::Net, Self::Pid, Self::User, Self::Uts];

    /// The name in /proc/PID/ns, and `PIDFD_GET_*_NAMESPACE` of linux/pidfd.h.
    fn name(self) -> (&'static str, u32) {
        match self {
            Self::Cgroup => ("cgroup", 1),
            Self::Ipc => ("ipc", 2),
            Self::Mount => ("mnt", 3),
            Self::Net => ("net", 4),
            Self::Pid => ("pid", 5),
            Self::User => ("user", 9),
            Self::Uts => ("uts", 10),
        }
    }

    /// What a host must have for it.
    pub fn feature(self) -> Feature {
        match self {
            Self::Cgroup => Feature::CgroupNamespace,
            Self::Ipc => Feature::IpcNamespace,
            Self::Mount => Feature::MountNamespace,
            Self::Net => Feature::NetNamespace,
            Self::Pid => Feature::PidNamespace,
            Self::User => Feature::UserNamespace,
            Self::Uts => Feature::UtsNamespace,
        }
    }

    pub(crate) fn flag(self) -> u32 {
        match self {
            Self::Cgroup => n::CLONE_NEWCGROUP,
            Self::Ipc => n::CLONE_NEWIPC,
            Self::Mount => n::CLONE_NEWNS,
            Self::Net => n::CLONE_NEWNET,
            Self::Pid => n::CLONE_NEWPID,
            Self::User => n::CLONE_NEWUSER,
            Self::Uts => n::CLONE_NEWUTS,
        }
    }
}

impl std::fmt::Display for NamespaceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name().0)
    }
}

/// Which namespaces a command is to have of its own, which ones it shares with another process, and what they are like.
/// What is not named is the host's, but for two that belong to the program's warden: the PID namespace in which
/// everything of this program lives, and a mount namespace that gives nothing back to the host.
///
/// ```
/// use coracle::Namespaces;
/// let out = Namespaces::new()
///     .user() // its root is whoever calls
///     .pid()
///     .mount()
///     .net()
///     .hostname("ark")
///     .command(["/bin/sh", "-c", "echo $$ $(id -u) $(cat /proc/sys/kernel/hostname)"])
///     .output()?;
/// assert_eq!(String::from_utf8_lossy(&out.stdout), "1 0 ark\n");
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// Namespaces alone are not a sandbox: the command has the host's files, no seccomp filter and no limits, and without a
/// user namespace of its own, root's capabilities where the caller is root. That is what a
/// [`Container`](crate::Container) is for.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// `CLONE_NEW*` flags.
    new: u32,
    joined: Vec<(NamespaceKind, Arc<OwnedFd>)>,
    /// Of a new user namespace; by default root is the caller.
    map: Option<IdMap>,
    /// Who the command is in a user namespace that it joins.
    first: (u32, u32),
    hostname: Option<OsString>,
}

impl Namespaces {
    /// None but the warden's.
    pub fn new() -> Self {
        Self::default()
    }

    /// All kinds, new.
    pub fn all() -> Self {
        NamespaceKind::ALL.into_iter().fold(Self::new(), Self::with)
    }

    /// A new namespace of this kind.
    pub fn with(mut self, kind: NamespaceKind) -> Self {
        self.joined.retain(|(joined, _)| *joined != kind);
        self.new |= kind.flag();
        self
    }

    /// No namespace of this kind, after all.
    pub fn without(mut self, kind: NamespaceKind) -> Self {
        self.joined.retain(|(joined, _)| *joined != kind);
        self.new &= !kind.flag();
        self
    }

    /// Whether there is a new one of this kind.
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.new & kind.flag() != 0
    }

    /// The command is process 1 of a new PID namespace. Signals that it does not handle do not reach it from inside, and
    /// orphans are its to reap, unless an [init process](Enter::init) is in front of it. When it ends, all others in there
    /// are killed.
    pub fn pid(self) -> Self {
        self.with(NamespaceKind::Pid)
    }

    /// Mounts of its own: neither side sees what the other mounts from then on. With a PID namespace that is new or
    /// joined, /proc is mounted anew.
    pub fn mount(self) -> Self {
        self.with(NamespaceKind::Mount)
    }

    /// A host name of its own.
    pub fn uts(self) -> Self {
        self.with(NamespaceKind::Uts)
    }

    /// System V IPC and message queues of its own.
    pub fn ipc(self) -> Self {
        self.with(NamespaceKind::Ipc)
    }

    /// A network of its own, with a loopback interface that is up and nothing else. /sys stays the host's.
    pub fn net(self) -> Self {
        self.with(NamespaceKind::Net)
    }

    /// A user namespace of its own, in which root is the caller and nobody else exists. An ordinary user needs one for
    /// anything else to be new.
    pub fn user(self) -> Self {
        self.with(NamespaceKind::User)
    }

    /// A user namespace with these ids: [`IdMap::range`], [`IdMap::single`], [`IdMap::available`] or any other. The command
    /// begins as user and group 0 where these are mapped, else as the first that are, and without supplementary groups
    /// unless only one user is mapped.
    ///
    /// The kernel and [`command`](Self::command)'s methods refuse ids that are not the caller's to give.
    pub fn user_map(mut self, map: IdMap) -> Self {
        self.map = Some(map);
        self.user()
    }

    /// The control group that the command is in looks like the root to it.
    pub fn cgroup(self) -> Self {
        self.with(NamespaceKind::Cgroup)
    }

    /// A host name, in a new UTS namespace: 64 bytes at most.
    pub fn hostname(mut self, name: impl Into<OsString>) -> Self {
        self.hostname = Some(name.into());
        self.uts()
    }

    /// Shares a namespace that exists already, by a descriptor of it (a file of /proc/PID/ns,
    /// [`Entered::namespace`], a bind mount of one).
    ///
    /// The kernel checks that it is of that kind. In a user namespace the command is its root.
    pub fn join(mut self, kind: NamespaceKind, namespace: impl Into<OwnedFd>) -> Self {
        self = self.without(kind);
        self.joined.push((kind, Arc::new(namespace.into())));
        self
    }

    /// The namespaces of a process, given by a pidfd, to be shared by a further command. They exist for as long as the
    /// value does, whatever becomes of the process; but nothing can be started in a PID namespace whose process 1 is gone.
    ///
    /// # Errors
    /// `State` when the process has ended; `PermissionDenied` for one that this program may not look into (what it may
    /// look into and not join is seen, before Linux 6.11, by the command); `Unsupported` for another kind of descriptor.
    pub fn of(process: impl AsFd, kinds: impl IntoIterator<Item = NamespaceKind>) -> Result<Self> {
        let kinds: Vec<_> = kinds.into_iter().collect();
        let opened = open(&warden::warden()?, process, &kinds)?;
        Ok(kinds.into_iter().zip(opened).fold(Self::new(), |all, (kind, fd)| all.join(kind, fd)))
    }

    /// A command that is to run in them: a program of the host and its arguments.
    pub fn command(&self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Enter<'static> {
        Enter::new(self.clone(), words.into_iter().map(Into::into).collect())
    }

    /// The new ones, as clone(2) and setns(2) take them.
    pub(crate) fn flags(&self) -> u32 {
        self.new
    }

    fn joins(&self, kind: NamespaceKind) -> bool {
        self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// What a plan can't be made of.
    fn validate(&self, warden: &Warden) -> Result<()> {
        let invalid = |what: String| Err(Error::new(ErrorKind::InvalidInput, what));
        if let Some(name) = self.hostname.as_deref().filter(|_| self.has(NamespaceKind::Uts))
            && (name.is_empty() || name.len() > HOSTNAME_MAX || name.as_bytes().contains(&0))
        {
            return invalid(format!("host name {name:?}: 1 to {HOSTNAME_MAX} bytes"));
        }
        if self.map.as_ref().is_some_and(|map| map.users.is_empty() || map.groups.is_empty()) {
            return invalid("an id map without a user or without a group".into());
        }
        let own_user = self.has(NamespaceKind::User) || self.joins(NamespaceKind::User);
        if warden.map().is_some() && !own_user {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "an ordinary user's command without a user namespace of its own",
            )
            .with_remedy("add Namespaces::user, or run as root"));
        }
        Ok(())
    }

    /// The map of the new user namespace, in this program's ids.
    fn new_map(&self) -> IdMap {
        self.map.clone().unwrap_or_else(|| {
            IdMap::single(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        })
    }

    /// In a process that is in them: what belongs to new namespaces and is not mounted.
    pub(crate) fn settle(&self, s: &mut Script<'_>) {
        if let Some(name) = self.hostname.as_deref().filter(|_| self.has(NamespaceKind::Uts)) {
            s.during("setting the host name");
            let at = s.string(name);
            s.op(n::__NR_sethostname, "sethostname", [at.into(), name.len().into()])
                .path(name)
                .needs(Feature::UserNamespace);
        }
        if self.has(NamespaceKind::Net) {
            s.loopback();
        }
    }

    /// Joins what is to be joined, the user namespace last: the rights over all of them are the warden's.
    fn join_all(&self, s: &mut Script<'_>, fds: &[(NamespaceKind, Cell)]) {
        s.during("joining the namespaces");
        let (user, others): (Vec<_>, Vec<_>) = fds.iter().partition(|(kind, _)| *kind == NamespaceKind::User);
        for (kind, fd) in others.into_iter().chain(user) {
            s.op(n::__NR_setns, "setns", [fd.into(), kind.flag().into()]).detail(kind.name().0);
        }
    }
}

/// How a process is made in its namespaces.
#[derive(Default)]
pub(crate) struct Birth<'a> {
    /// The map of the warden's own user namespace.
    pub outer: Option<&'a IdMap>,
    /// The v2 group to be born in.
    pub cgroup: Option<Cell>,
    /// Where /proc is, unless it is at its place.
    pub proc: Option<Cell>,
    /// The new user namespace lies in another one, which bounds how many processes it has.
    pub fence: Option<Fence>,
    /// Kinds that the new process itself enters, before all else: what takes its time there happens beside what its
    /// parent does `meanwhile`.
    pub later: u32,
    /// Its parent may see to it that its mounts are taken down after its end is told.
    pub mounts_later: bool,
}

/// What [`clone_into`] begins with, where that comes before the rest of its plan.
#[derive(Clone, Copy)]
pub(crate) struct Cloned {
    born: Letter,
    sync: fence::Pipe,
}

/// The first part of a plan that ends with [`clone_into`]: the clone, and what the new process enters `later`. Then both
/// take the rest. `into` is the v2 group to be born in.
pub(crate) fn clone_first(s: &mut Script<'_>, now: u32, later: u32, into: Option<Cell>) -> Cloned {
    s.during("entering the namespaces");
    let cloned = Cloned::prepare(s);
    let lacking = Lacking::Feature(needed(now));
    let child = cloned.clone(s, now, into, lacking);
    s.post(cloned.born);
    let status = s.status();
    s.more(status);
    s.place(child);
    enter_later(s, later);
    let second = s.second_socket();
    s.more(second);
    cloned
}

impl Cloned {
    fn prepare(s: &mut Script<'_>) -> Self {
        let (born, executor) = s.letter_of_two(BORN);
        // Whom to end as well when nothing more is heard.
        let pid = s.op(n::__NR_getpid, "getpid", []).result();
        s.op(n::__NR_pidfd_open, "pidfd_open", [pid.into(), 0.into()]).store(executor).needs(Feature::Pidfd);
        Self { born, sync: fence::pipe(s) }
    }

    /// Gives where the new process goes on.
    fn clone(self, s: &mut Script<'_>, now: u32, cgroup: Option<Cell>, lacking: Lacking) -> Label {
        const CLONE_PARENT: u32 = 0x8000;
        s.clone_process(&NewProcess {
            flags: (now | CLONE_PARENT).into(),
            exit_signal: 0,
            pid: self.born.value,
            pidfd: Some(self.born.fd),
            cgroup,
            detail: &format!("{now:#x}"),
            lacking,
        });
        let child = s.label();
        s.jump_if_zero(self.born.value, child);
        child
    }
}

fn enter_later(s: &mut Script<'_>, kinds: u32) {
    if kinds != 0 {
        s.op(n::__NR_unshare, "unshare", [kinds.into()]).detail(format!("{kinds:#x}")).needs(needed(kinds));
    }
}

/// The last operations of a process that clones another into its new namespaces, writes its maps, does something
/// `meanwhile`, given the other's number and pidfd, and ends. The other one goes on with `inside`, as a child of the warden's.
/// After a [`first`](clone_first) part, that one goes on where this says.
pub(crate) fn clone_into(
    s: &mut Script<'_>,
    namespaces: &Namespaces,
    birth: &Birth<'_>,
    first: Option<Cloned>,
    meanwhile: impl FnOnce(&mut Script<'_>, Option<Letter>),
    inside: impl FnOnce(&mut Script<'_>),
) -> Result<Label> {
    let map = namespaces.has(NamespaceKind::User).then(|| namespaces.new_map());
    let mut beneath = match (&map, birth.outer) {
        (Some(map), Some(outer)) => Some(map.beneath(outer)?),
        _ => map.clone(),
    };
    let mut after = None;
    let mut clone = |s: &mut Script<'_>| -> Result<(Cloned, Label)> {
        let cloned = Cloned::prepare(s);
        if let (Some(fence), Some(map)) = (birth.fence, &map) {
            after = Some(fence::between(s, beneath.as_ref().unwrap_or(map), birth.proc, fence, cloned.sync));
            s.during("entering the namespaces");
            beneath = Some(map.beneath(map)?);
        }
        let now = namespaces.new & !birth.later;
        let lacking = match namespaces.joins(NamespaceKind::Pid) {
            true => Lacking::Remedy("a PID namespace whose first process has ended takes no other"),
            false => Lacking::Feature(needed(now)),
        };
        Ok((cloned, cloned.clone(s, now, birth.cgroup, lacking)))
    };
    s.during("entering the namespaces");
    let (Cloned { born, sync }, child) = match first {
        Some(cloned) => (cloned, s.label()),
        None => clone(s)?,
    };
    if first.is_some() {
        // It may have ended long ago, and its number be another's.
        s.op(n::__NR_pidfd_send_signal, "pidfd_send_signal", [born.fd.into(), 0.into(), 0.into(), 0.into()]);
    }
    if let Some(map) = &beneath {
        s.write_maps(birth.proc, born.value, map);
        s.during("entering the namespaces");
    }
    if after.is_none() {
        sync.go(s);
    }
    if first.is_none() {
        s.post(born);
    }
    if let Some(after) = after {
        s.op(OP_END, "end", [0.into()]);
        s.place(after);
    }
    // What a process in between has cloned only that one knows.
    meanwhile(s, (birth.mounts_later && birth.fence.is_none()).then_some(born));
    s.op(OP_END, "end", [0.into()]);
    s.place(child);
    s.during("entering the namespaces");
    if first.is_none() {
        enter_later(s, namespaces.new & birth.later);
    }
    sync.wait(s);
    if let Some(fence) = birth.fence {
        fence.lift(s);
    }
    inside(s);
    Ok(child)
}

/// What a call needs that makes these namespaces at once: the one that is refused most often.
fn needed(flags: u32) -> Feature {
    use NamespaceKind as K;
    let order = [K::User, K::Net, K::Pid, K::Mount, K::Cgroup, K::Ipc, K::Uts];
    let first = order.into_iter().find(|kind| flags & kind.flag() != 0);
    first.map_or(Feature::Clone3, NamespaceKind::feature)
}

/// What was heard of a plan that ends with [`clone_into`].
pub(crate) struct Heard {
    pub process: Option<warden::Process>,
    /// Whether it came to executing its command.
    pub ready: bool,
    pub failed: Option<Error>,
}

impl Heard {
    /// Listens until the command is executed or a step has failed; `other` is given what else the plan says. What is
    /// not ready by the deadline is killed, and where it hung is the error's step.
    pub fn of(
        started: &mut Started,
        mut deadline: Option<Instant>,
        mut other: impl FnMut(Told),
    ) -> Result<Self> {
        // While nothing is read a process of the plan may find no room to tell more.
        const SLICE: Duration = Duration::from_secs(1);
        let mut heard = Self { process: None, ready: false, failed: None };
        let mut executor = None;
        loop {
            let slice = Instant::now() + SLICE;
            let until = deadline.map_or(slice, |deadline| deadline.min(slice));
            let executed = started.is_executed(Some(until))?;
            loop {
                match started.next((!executed).then(Instant::now)) {
                    Ok(None) => return Ok(heard),
                    Ok(Some(Told { kind: BORN, value, fds })) => {
                        let mut fds = fds.into_iter();
                        heard.process = fds.next().map(|pidfd| started.adopt(value as i32, pidfd));
                        executor = fds.next();
                    }
                    Ok(Some(Told { kind: READY, .. })) => heard.ready = true,
                    Ok(Some(told)) => other(told),
                    Err(error) if !executed && is_nothing(&error) => break,
                    Err(_) if executed && heard.failed.is_some() => return Ok(heard),
                    // Of several that fail, the first has the reason.
                    Err(_) if heard.failed.is_some() => break,
                    Err(error) => {
                        heard.failed = Some(error);
                        // All processes end now.
                        let end = Instant::now() + KILL_TIME;
                        deadline = Some(deadline.map_or(end, |deadline| deadline.min(end)));
                    }
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let hung = started.give_up(heard.process.as_ref(), executor.as_ref())?;
                let late = || Error::new(ErrorKind::TimedOut, "its time was up before it was executed");
                heard.failed.get_or_insert_with(|| hung.unwrap_or_else(late));
                return Ok(heard);
            }
        }
    }
}

/// Not what a call of the plan says, which has an errno.
fn is_nothing(error: &Error) -> bool {
    error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_none()
}

/// `PIDFD_GET_*_NAMESPACE` of ioctl_pidfd(2).
pub(crate) fn pidfd_request(kind: NamespaceKind) -> u32 {
    0xff00 | kind.name().1
}

/// Opens namespaces of a process with the warden's rights.
fn open(warden: &Arc<Warden>, process: impl AsFd, kinds: &[NamespaceKind]) -> Result<Vec<OwnedFd>> {
    let mut s = Script::new();
    s.during("opening the namespaces of a process");
    let pidfd = s.fd(process.as_fd());
    for kind in kinds {
        let (name, _) = kind.name();
        let letter = s.letter(DESCRIPTOR);
        s.op(n::__NR_ioctl, "ioctl", [pidfd.into(), pidfd_request(*kind).into(), 0.into()])
            .detail(format!("PIDFD_GET_{}_NAMESPACE", name.to_uppercase()))
            .store(letter.fd);
        s.post(letter);
    }
    let mut started = warden.start_plan(s.plan)?;
    let mut opened = Vec::new();
    loop {
        match started.next(None) {
            Ok(Some(told)) => opened.extend(told.fds),
            Ok(None) => break,
            Err(error) => {
                // Not every kernel knows all of these.
                let is_unknown =
                    [Some(e::ENOTTY as i32), Some(e::EINVAL as i32)].contains(&error.raw_os_error());
                return match warden::number(&process.as_fd())?.filter(|_| is_unknown) {
                    Some(pid) => open_by_number(process, pid, kinds).map_err(explain),
                    None => Err(explain(error)),
                };
            }
        }
    }
    match opened.len() == kinds.len() {
        true => Ok(opened),
        false => Err(Error::new(ErrorKind::Gone, "the warden has sent too few namespaces")),
    }
}

/// Before Linux 6.11: the files of /proc, with this program's own rights. They are of the process that the descriptor
/// means, as its number is not another's while it is still there afterwards.
fn open_by_number(process: impl AsFd, pid: i32, kinds: &[NamespaceKind]) -> Result<Vec<OwnedFd>> {
    let ended = || Error::errno("open the namespaces of a process", e::ESRCH as i32);
    let mut opened = Vec::new();
    for kind in kinds {
        let path = format!("/proc/{pid}/ns/{}", kind.name().0);
        match std::fs::File::open(&path) {
            Ok(file) => opened.push(file.into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ended()),
            Err(error) => return Err(Error::os("open", error).with_path(path)),
        }
    }
    match warden::number(&process.as_fd())? == Some(pid) {
        true => Ok(opened),
        false => Err(ended()),
    }
}

fn explain(error: Error) -> Error {
    match error.raw_os_error().map(|errno| errno as u32) {
        Some(e::ESRCH) => error.with_kind(ErrorKind::State).with_remedy("the process has ended"),
        Some(e::ENOTTY | e::EINVAL) => {
            error.with_kind(ErrorKind::Unsupported).with_remedy("this takes a pidfd")
        }
        Some(e::EACCES | e::EPERM) => error.with_remedy("this program may not look into that process"),
        _ => error,
    }
}

/// A user namespace with this map (in the warden's ids) and nobody in it, for id-mapped mounts.
pub(crate) fn for_mounts(warden: &Arc<Warden>, map: &IdMap) -> Result<OwnedFd> {
    let mut s = Script::new();
    s.during("making a user namespace");
    // Else only CAP_SYS_PTRACE may open the child's namespace, which root of a docker container has not.
    s.dumpable(true);
    let NewUser { pid, child, mapped } = fence::new_user(&mut s, map, None);
    let path = s.decimal("/proc/", pid, c"/ns/user");
    let letter = s.letter(DESCRIPTOR);
    s.op(n::__NR_openat, "openat(ns/user)", [CWD.into(), path.into(), n::O_CLOEXEC.into(), 0.into()])
        .store(letter.fd);
    mapped.go(&mut s);
    s.op(n::__NR_wait4, "wait4", [pid.into(), 0.into(), fence::WALL.into(), 0.into()]);
    s.post(letter);
    let end = s.label();
    s.jump(end);
    s.place(child);
    mapped.wait(&mut s);
    s.place(end);
    let mut started = warden.start_plan(s.plan)?;
    let told = started.next(None)?;
    let fd = told.and_then(|told| told.fds.into_iter().next());
    fd.ok_or_else(|| Error::new(ErrorKind::Setup, "the user namespace did not come"))
}
