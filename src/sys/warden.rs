//! The host's side of the warden (see `warden/main.rs`): brings it up, sends plans, hears how processes end.
//!
//! There is one for each program, made at the first use. A forked copy of the program gets its own.

mod hang;
mod launch;
mod started;
mod told;

pub(crate) use started::{Begun, Started, Told};
pub(crate) use told::{Exit, Process, number};

use super::fork::Witness;
use super::idmap::{self, IdMap, Rights};
use super::plan::format::{Event, Request};
use super::plan::{Compiled, Plan};
use super::{diagnose, memfd, message};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, Missing};
use crate::signal::Signal;
use launch::{Launch, explain};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::collections::HashMap;
use std::fs::File;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use told::{Shared, gone, lock};

/// How the sockets for other programs are called; the rest is the program's number.
pub(crate) const DOOR: &str = "warden-";
/// Before the name of one that does not listen yet.
pub(crate) const NEW: &str = "new-";

/// How long another program's warden may take to let this one in, or to answer: microseconds, unless it has been stopped.
const WELCOME_TIME: Duration = Duration::from_secs(10);

pub(crate) struct Warden {
    /// None of another program's.
    own: Option<Own>,
    shared: Arc<Shared>,
    next: AtomicU64,
    /// Of the user namespace that the warden lives in; `None` for root.
    map: Option<IdMap>,
    /// Why the map has one id only.
    single: Option<Missing>,
    features: Features,
    /// Where other programs may connect, by the directory.
    doors: Mutex<HashMap<PathBuf, Door>>,
    /// Set once a plan was begun in vain: what it needs that only the rest shows is not to be had here.
    pub in_vain: AtomicBool,
    /// The first part of the last plan that came in two, and a file of it.
    first_part: Mutex<Option<(Vec<u8>, Arc<OwnedFd>)>>,
    /// The control group that it was put into, or why it stays where it is; whoever makes the groups decides.
    pub scope: OnceLock<Result<PathBuf, String>>,
}

/// What the warden has found the kernel to have, where plans are to be different without it. Found by use: a filter over
/// this program may refuse what the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// clone3(2), with `CLONE_INTO_CGROUP`.
    pub clone3: bool,
    /// An overlay takes lower directories of mounts that are attached nowhere (Linux 6.15).
    pub detached_lowers: bool,
}

impl Features {
    fn from_bits(bits: i64) -> Self {
        Self { clone3: bits & Event::HAS_CLONE3 != 0, detached_lowers: bits & Event::HAS_OPEN_TREE_ATTR != 0 }
    }
}

/// A socket for other programs; the warden listens on it until it is shut down.
struct Door {
    name: String,
    socket: OwnedFd,
}

/// What makes a warden this program's own.
struct Own {
    pidfd: OwnedFd,
    /// What it was started with, and has.
    rights: Rights,
    /// Holds a POSIX record lock from this process for as long as it is this program. Never closed, nor is any
    /// other descriptor of it: that would drop the lock.
    _lock: File,
}

/// What a forked copy of the program inherits and must not touch.
struct Slot {
    witness: Witness,
    /// One for all rights that the program has had. What one of them has started may have no handle any more that keeps it.
    wardens: Mutex<Vec<Arc<Warden>>>,
}

static SLOT: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());

fn slot() -> Result<&'static Slot> {
    loop {
        let current = SLOT.load(Ordering::Acquire);
        // SAFETY: null or a slot that was leaked below, which is never freed.
        if let Some(slot) = unsafe { current.as_ref() }
            && slot.witness.is_here()
        {
            return Ok(slot);
        }
        // The first use in this process. A parent's slot stays as it is: its lock may be held by a thread
        // that does not exist here.
        let new = Box::into_raw(Box::new(Slot { witness: Witness::current()?, wardens: Mutex::default() }));
        if SLOT.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: made above, seen by nobody.
            drop(unsafe { Box::from_raw(new) });
        }
    }
}

/// This program's warden; a new one if there is none, if it has ended, or if it was started with rights that the program has
/// given up since. What that one has started stays with it.
pub(crate) fn warden() -> Result<Arc<Warden>> {
    let slot = slot()?;
    let mut wardens = lock(&slot.wardens);
    if let Some(warden) = usable(&wardens) {
        return Ok(warden);
    }
    wardens.retain(|warden| !warden.has_ended());
    let warden = Arc::new(Warden::start().map_err(|error| error.during("starting this program's warden"))?);
    wardens.push(warden.clone());
    Ok(warden)
}

/// This program's warden, if there is one already.
pub(crate) fn running() -> Option<Arc<Warden>> {
    usable(&lock(&slot().ok()?.wardens))
}

/// The one that is to start what this program starts now.
fn usable(wardens: &[Arc<Warden>]) -> Option<Arc<Warden>> {
    wardens.iter().find(|warden| !warden.is_beyond() && !warden.has_ended()).cloned()
}

/// Which ids this program's containers have, as an ordinary user: those of its warden, as the user's sub-ids may have
/// changed since, and only a start of it tells whether newuidmap maps them. And why it is one id only.
pub(crate) fn ids_of_caller() -> (IdMap, Option<Missing>) {
    let of = |warden: &Warden| Some((warden.map.clone()?, warden.single.clone()));
    running().and_then(|warden| of(&warden)).unwrap_or_else(|| match idmap::of_caller() {
        // A program that can have no warden is told so where it needs one.
        (map, None) => warden().ok().and_then(|warden| of(&warden)).unwrap_or((map, None)),
        single => single,
    })
}

impl Warden {
    fn start() -> Result<Self> {
        if idmap::is_privileged() {
            return Self::start_as(None, None);
        }
        idmap::is_one_user()?;
        let (map, single) = idmap::of_caller();
        match Self::start_as(Some(map), single) {
            // newuidmap is there, and does not do it: where there is one id only, containers can be had all the same.
            Err(error) => match error.missing().filter(|why| why.feature() == Feature::SubIds) {
                Some(why) => Self::start_as(Some(idmap::of_caller_alone()), Some(why.clone())),
                None => Err(error),
            },
            up => up,
        }
    }

    fn start_as(map: Option<IdMap>, single: Option<Missing>) -> Result<Self> {
        let rights = Rights::current();
        let (socket, theirs) = message::pair()?;
        let host = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .call("pidfd_open")
            .map_err(|error| diagnose::explain(error, Feature::Pidfd))?;
        let lock = File::from(memfd::above_stdio(
            rustix::fs::memfd_create("coracle-lock", rustix::fs::MemfdFlags::CLOEXEC)
                .call("memfd_create")
                .map_err(|error| diagnose::explain(error, Feature::ExecutableMemfd))?,
        )?);
        let launch = Launch { socket: &theirs, host: &host, lock: &lock, user: map.is_some() };
        let mut child = launch.run()?;
        drop(theirs);
        let up = Self::bring_up(&socket, &lock, child.id(), map.as_ref());
        // The spawned process ends as soon as the warden exists, or when nobody has the other end of its socket any more.
        // Somebody else may have reaped it (a handler of the host that reaps everything) or the kernel (SIGCHLD ignored):
        // there is nothing to learn, and its number may be another's, so that it is not killed.
        let up = up.map(|(pidfd, features)| (pidfd, features, socket));
        drop(child.wait());
        let (pidfd, features, socket) = up?;
        let shared = Shared::new(socket)?;
        let own = Some(Own { pidfd, rights, _lock: lock });
        let doors = Mutex::default();
        let scope = OnceLock::new();
        let (next, first_part, in_vain) = (AtomicU64::new(1), Mutex::default(), AtomicBool::new(false));
        let warden = Self { own, shared, next, map, single, features, doors, in_vain, first_part, scope };
        warden.listen()?;
        Ok(warden)
    }

    fn bring_up(
        socket: &OwnedFd,
        lock: &File,
        child: u32,
        map: Option<&IdMap>,
    ) -> Result<(OwnedFd, Features)> {
        const STEPS: [&str; 14] = [
            "",
            "close_range",
            "chdir(\"/\")",
            "unshare(CLONE_NEWUSER)",
            "setresuid(0)",
            "unshare(CLONE_NEWPID)",
            "clone(CLONE_PIDFD)",
            "unshare(CLONE_NEWNS)",
            "signalfd4",
            "clone",
            launch::PROC,
            "keyctl(KEYCTL_JOIN_SESSION_KEYRING)",
            "fcntl(F_DUPFD_CLOEXEC)",
            "socketpair",
        ];
        let mut pidfd = None;
        let mut up = None;
        loop {
            // The pidfd comes from the spawned process, the other from the warden: in any order.
            if let (Some(pidfd), Some(features)) = (pidfd.take_if(|_| up.is_some()), up) {
                return Ok((pidfd, features));
            }
            let mut buffer = [0; size_of::<Event>()];
            let Some((_, fds)) = message::receive(socket, &mut buffer)? else {
                return Err(gone());
            };
            let event = Event::from_bytes(&buffer);
            match event.kind {
                Event::ENTERED => {
                    if let Some(map) = map {
                        idmap::write(child, map).map_err(launch::explain_map)?;
                    }
                    // Not before the spawned process has its copy: closing any descriptor of the file in this
                    // process, as `Command` did just now, drops the lock.
                    rustix::fs::fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive)
                        .call("fcntl(F_SETLK)")?;
                    message::send(
                        socket,
                        &Request { kind: Request::GO, pad: 0, id: 0, size: 0 }.to_bytes(),
                        &[],
                    )?;
                }
                Event::PIDFD => pidfd = fds.into_iter().next(),
                Event::FAILED => {
                    let step = STEPS.get(event.id as usize).copied().unwrap_or("?");
                    return Err(explain(Error::errno(step, event.value as i32), step, map.is_some()));
                }
                Event::UP => up = Some(Features::from_bits(event.value)),
                other => return Err(Error::new(ErrorKind::Setup, format!("the warden said {other}"))),
            }
        }
    }

    /// A thread of the host notices the warden's end, and takes what it tells where nobody waits for anything: with a full
    /// socket the warden does nothing. Another program's, which lets go of whoever does not listen, is listened to always.
    fn listen(&self) -> Result<()> {
        /// How long it leaves to those who wait what they are woken for as well.
        const PATIENCE: Duration = Duration::from_millis(100);
        let pidfd =
            self.own.as_ref().map(|own| own.pidfd.try_clone()).transpose().call("fcntl(F_DUPFD_CLOEXEC)")?;
        let shared = self.shared.clone();
        let run = move || {
            // The host's signals are for the host's threads.
            let _ = nix::sys::signal::SigSet::all().thread_block();
            while let Some(pidfd) = &pidfd
                && message::either_readable(pidfd, &shared.socket).is_ok_and(|ended| !ended)
                && message::readable(pidfd, Some(Instant::now() + PATIENCE)).is_ok_and(|ended| !ended)
            {
                shared.drain();
            }
            while shared.wait(None, |_| None::<()>).is_ok() {}
            // A host that is a subreaper or PID 1 has inherited the warden; elsewhere this is ECHILD.
            if let Some(pidfd) = pidfd {
                let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            }
        };
        std::thread::Builder::new()
            .name("coracle".into())
            .stack_size(256 << 10)
            .spawn(run)
            .call("pthread_create")?;
        Ok(())
    }

    /// Lets other programs of this user start plans here, by a socket in the directory `dir` at `path`; gives its name.
    /// Whoever can reach it has this warden's rights, so the directory is the user's alone.
    ///
    /// # Errors
    /// `ResourceExhausted` where the warden listens in as many directories as it can.
    pub fn open_door(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<String> {
        let mut doors = lock(&self.doors);
        let is_there = |name: &str| {
            use rustix::fs::{Access, AtFlags, accessat};
            accessat(dir, name, Access::EXISTS, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        };
        if let Some(door) = doors.get(path).filter(|door| is_there(&door.name)) {
            return Ok(door.name.clone());
        }
        // A temporary store takes the name of its socket along when it goes; the warden is told so.
        doors.retain(|at, door| {
            let stays = at != path && at.join(&door.name).symlink_metadata().is_ok();
            if !stays {
                let _ = rustix::net::shutdown(&door.socket, rustix::net::Shutdown::Both);
            }
            stays
        });
        // Programs in other PID namespaces may have the same number, and the same store.
        let random = std::hash::RandomState::new().hash_one(doors.len());
        let name = format!("{DOOR}{}-{random:016x}", std::process::id());
        // Until it listens it has another name: a door that refuses is taken for a dead program's and removed.
        let new = format!("{NEW}{name}");
        let socket = message::listen(dir, &new).map_err(|error| error.with_path(path.join(&new)))?;
        rustix::fs::renameat(dir, &new, dir, &name).call_at("renameat", path.join(&name))?;
        match self.ask(Request::LISTEN, 0, socket.as_fd())? {
            0 => {}
            errno => {
                let error = Error::errno("listen(in the warden)", errno as i32).with_path(path);
                return Err(error.with_remedy("let go of stores that are no longer needed"));
            }
        }
        doors.insert(path.to_owned(), Door { name: name.clone(), socket });
        Ok(name)
    }

    /// Another program's warden, by its door.
    ///
    /// # Errors
    /// `ResourceExhausted` where it has as many connections as it can have; `TimedOut` where it does not answer.
    pub fn connect(dir: BorrowedFd<'_>, name: &str) -> Result<Arc<Self>> {
        let deadline = Instant::now() + WELCOME_TIME;
        let socket = message::connect(dir, name, deadline).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => unanswered().with_path(name),
            _ => error.with_path(name),
        })?;
        welcome(&socket, deadline).map_err(|error| error.with_path(name))?;
        let shared = Shared::new(socket)?;
        let (next, doors, first_part) = (AtomicU64::new(1), Mutex::default(), Mutex::default());
        let in_vain = AtomicBool::new(false);
        // What is sent there starts no container.
        let features = Features { clone3: true, detached_lowers: true };
        let scope = OnceLock::new();
        let (own, map, single) = (None, None, None);
        let warden = Self { own, shared, next, map, single, features, doors, in_vain, first_part, scope };
        warden.listen()?;
        Ok(Arc::new(warden))
    }

    /// Its number in this program's PID namespace.
    ///
    /// # Errors
    /// `Gone` when it has ended, and of another program's.
    pub fn pid(&self) -> Result<i32> {
        let own = self.own.as_ref().ok_or_else(gone)?;
        told::number(&own.pidfd)?.filter(|pid| *pid > 0).ok_or_else(gone)
    }

    /// The map of the user namespace that the warden lives in; `None` for root, which lives in none of its own.
    pub fn map(&self) -> Option<&IdMap> {
        self.map.as_ref()
    }

    /// Why there is only one id, where that is so.
    pub fn single(&self) -> Option<&Missing> {
        self.single.as_ref()
    }

    /// What its kernel has.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Executes a plan in a child of the warden.
    ///
    /// # Errors
    /// `TimedOut` where another program's warden does not take it.
    pub fn start_plan(self: &Arc<Self>, plan: Plan<'_>) -> Result<Started> {
        self.start_plan_by(plan, None)
    }

    /// The same. After the deadline, where one is given, nobody waits any more for another program's warden to take it.
    pub fn start_plan_by(self: &Arc<Self>, plan: Plan<'_>, deadline: Option<Instant>) -> Result<Started> {
        let started = self.start_sized(plan, 0)?;
        if self.own.is_none() {
            self.see_taken(&started, deadline)?;
        }
        Ok(started)
    }

    /// Waits until another program's warden has taken a plan. One that says nothing may be at work all the same, as where its
    /// container is frozen; but the warden answers what comes after it.
    fn see_taken(&self, started: &Started, deadline: Option<Instant>) -> Result<()> {
        /// A plan says something within microseconds.
        const PATIENCE: Duration = Duration::from_secs(1);
        let within = |time| {
            let until = Instant::now() + time;
            deadline.map_or(until, |deadline| deadline.min(until))
        };
        if message::readable(started, Some(within(PATIENCE)))? || within(PATIENCE) <= Instant::now() {
            return Ok(());
        }
        let until = Some(within(WELCOME_TIME));
        self.ask_by(Request::SIGNAL, 0, self.shared.socket.as_fd(), until).map(drop)
    }

    pub(super) fn start_sized(self: &Arc<Self>, plan: Plan<'_>, memory: usize) -> Result<Started> {
        let (compiled, fds) = plan.compile(1)?;
        let memfd = compiled.memfd(memory)?;
        let (status, theirs) = message::pair()?;
        let size = compiled.bytes.len().max(memory) as u64;
        let mut all: Vec<BorrowedFd<'_>> = vec![memfd.as_fd(), theirs.as_fd()];
        all.extend(fds);
        self.send(size, &all, compiled, status)
    }

    /// Executes the first part of a plan, which is to be gone on with.
    pub fn begin(self: &Arc<Self>, plan: &mut Plan<'_>) -> Result<Begun> {
        let (bytes, fds) = plan.first_part()?;
        let size = bytes.len() as u64;
        let memfd = {
            let mut last = lock(&self.first_part);
            match &*last {
                // Starts have it in common.
                Some((known, memfd)) if *known == bytes => memfd.clone(),
                _ => {
                    let memfd = Arc::new(memfd::sealed("coracle-plan", &bytes, bytes.len(), false)?);
                    last.insert((bytes, memfd)).1.clone()
                }
            }
        };
        let (status, theirs) = message::pair()?;
        let (second, seconds) = message::pair()?;
        let mut all: Vec<BorrowedFd<'_>> = vec![memfd.as_fd(), theirs.as_fd(), seconds.as_fd()];
        all.extend(fds);
        let started = Some(self.send(size, &all, Compiled::default(), status)?);
        Ok(Begun { started, second, given: false })
    }

    fn send(
        self: &Arc<Self>,
        size: u64,
        fds: &[BorrowedFd<'_>],
        compiled: Compiled,
        status: OwnedFd,
    ) -> Result<Started> {
        self.shared.check()?;
        self.shared.drain();
        let since = Some(lock(&self.shared.state).start());
        let started = Started { warden: self.clone(), compiled, status, heard: false, since, kept: None };
        let request = Request { kind: Request::START, pad: 0, id: 0, size };
        match message::send(&self.shared.socket, &request.to_bytes(), fds) {
            Err(error) => Err(self.lost(error)),
            Ok(()) => Ok(started),
        }
    }

    /// The answer to a request: an errno or 0.
    fn answer(&self, id: u64, deadline: Option<Instant>) -> Result<i64> {
        let answer = self.shared.wait(deadline, |state| state.answers.get(&id).copied().flatten())?;
        answer.ok_or_else(unanswered)
    }

    /// Whether it still takes requests: what it answers to this one, which does nothing, is the same.
    fn answers(&self) -> bool {
        self.shared.check().is_ok() && self.ask(Request::SIGNAL, 0, self.shared.socket.as_fd()).is_ok()
    }

    /// Also just now, where nobody has taken that yet.
    fn has_ended(&self) -> bool {
        lock(&self.shared.state).gone || self.shared.is_gone()
    }

    /// Whether it has other rights than the program has now.
    pub fn is_beyond(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.rights != Rights::current())
    }

    /// A request that can't be sent, as there is nobody any more who takes it.
    fn lost(&self, error: Error) -> Error {
        if self.has_ended() { gone() } else { error }
    }

    /// Sends a request that is answered with an errno or 0.
    ///
    /// # Errors
    /// `TimedOut` where another program's warden does not answer.
    fn ask(&self, kind: u32, size: u64, fd: BorrowedFd<'_>) -> Result<i64> {
        self.ask_by(kind, size, fd, self.patience())
    }

    fn patience(&self) -> Option<Instant> {
        self.own.is_none().then(|| Instant::now() + WELCOME_TIME)
    }

    fn ask_by(&self, kind: u32, size: u64, fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<i64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.state).answers.insert(id, None);
        let request = Request { kind, pad: 0, id, size };
        let sent = message::send(&self.shared.socket, &request.to_bytes(), &[fd]);
        let answer = sent.map_err(|error| self.lost(error)).and_then(|()| self.answer(id, deadline));
        lock(&self.shared.state).answers.remove(&id);
        answer
    }
}

/// Sends a signal; by the warden where this program has given up the right to, and the warden has kept it. After the
/// deadline, where one is given, nobody waits any more for its answer. False: the process has ended.
pub(crate) fn signal(
    pidfd: BorrowedFd<'_>,
    signal: Signal,
    warden: Option<&Warden>,
    deadline: Option<Instant>,
) -> Result<bool> {
    // SAFETY: of the kernel's numbers, and not one of those that a C library keeps for itself.
    let named = unsafe { rustix::process::Signal::from_raw_unchecked(signal.number()) };
    let sent = match (pidfd_send_signal(pidfd, named), warden) {
        (Err(Errno::PERM), Some(warden)) => {
            warden.shared.check()?;
            let deadline = deadline.or_else(|| warden.patience());
            // The number of the signal travels in `size`.
            match warden.ask_by(Request::SIGNAL, signal.number() as u64, pidfd, deadline)? {
                0 => Ok(()),
                errno => Err(Errno::from_raw_os_error(errno as i32)),
            }
        }
        (sent, _) => sent,
    };
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(Error::os("pidfd_send_signal", errno)),
    }
}

/// Of another program's warden.
pub(crate) fn unanswered() -> Error {
    Error::new(ErrorKind::TimedOut, "the warden of the container's program does not answer")
        .with_remedy("it may be stopped, and its program with it")
}

/// What another program's warden says first.
fn welcome(socket: &OwnedFd, deadline: Instant) -> Result<()> {
    if !message::readable(socket, Some(deadline))? {
        return Err(unanswered());
    }
    let mut buffer = [0; size_of::<Event>()];
    let told = message::receive(socket, &mut buffer)?.map(|_| Event::from_bytes(&buffer));
    match told {
        Some(Event { kind: Event::WELCOME, value: 0, .. }) => Ok(()),
        Some(Event { kind: Event::WELCOME, .. }) => Err(Error::new(
            ErrorKind::ResourceExhausted,
            "too many programs use containers of the program that runs this one",
        )
        .with_remedy(
            "let go of other commands in its containers first (64 connections at most, fewer where that program's limit \
             on descriptors was low at its first container)",
        )),
        _ => Err(gone()),
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // A forked copy of the program has the connection in common with the program, which still needs it.
        if self.own.is_none() && self.shared.check().is_ok() {
            // Ends the listening thread.
            let _ = rustix::net::shutdown(&self.shared.socket, rustix::net::Shutdown::Both);
        }
    }
}
