//! What the warden has told: how requests were answered, and how processes ended.

use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::fork::Witness;
use crate::sys::message::{self, Arrived};
use crate::sys::plan::format::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How a process ended, as the warden saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// `CLD_EXITED` (1), `CLD_KILLED` (2) or `CLD_DUMPED` (3).
    pub how: u32,
    /// Exit code or signal.
    pub status: i32,
    pub user: Duration,
    pub system: Duration,
    pub peak_bytes: u64,
}

impl Exit {
    /// By SIGKILL.
    pub fn is_killed(self) -> bool {
        const CLD_EXITED: u32 = 1;
        self.how != CLD_EXITED && self.status == 9
    }
}

impl From<Exit> for std::process::ExitStatus {
    fn from(exit: Exit) -> Self {
        const CLD_EXITED: u32 = 1;
        const CLD_DUMPED: u32 = 3;
        std::os::unix::process::ExitStatusExt::from_raw(match exit.how {
            CLD_EXITED => exit.status << 8,
            CLD_DUMPED => exit.status | 0x80,
            _ => exit.status,
        })
    }
}

/// A promise of a process's end. `None` inside once the warden is gone without having told.
type Promise = OnceLock<Option<Exit>>;

/// A process that the warden is the parent of.
#[derive(Clone)]
pub(crate) struct Process {
    promise: Arc<Promise>,
    pub pidfd: Arc<OwnedFd>,
    /// Where its end is told.
    shared: Option<Arc<Shared>>,
}

/// The number of a pidfd's process here, -1 when it has ended; `None` of another kind of descriptor.
pub(crate) fn number(pidfd: &impl AsRawFd) -> Result<Option<i32>> {
    let path = format!("/proc/thread-self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).call_at("read", &path)?;
    Ok(text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()))
}

impl Process {
    /// A process that another program's warden is the parent of: nobody here is told how it ends.
    pub fn foreign(pidfd: OwnedFd) -> Self {
        Self { promise: Arc::default(), pidfd: Arc::new(pidfd), shared: None }
    }

    /// Its number in this program's PID namespace, as long as it has one.
    pub fn pid(&self) -> Result<Option<i32>> {
        Ok(number(&*self.pidfd)?.filter(|pid| *pid > 0))
    }

    /// An error in a forked copy of the program.
    pub fn check(&self) -> Result<()> {
        self.shared.as_ref().map_or(Ok(()), |shared| shared.check())
    }

    /// How it ended; waits for that until `deadline`, where one is given.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<Option<Exit>> {
        // Nothing is read by a forked copy of the program: it would be lost to the program itself, and nobody tells the copy.
        self.check()?;
        let told = || self.promise.get().copied();
        let exit = match (told(), &self.shared) {
            (None, Some(shared)) => shared.wait(deadline, |_| told())?,
            (exit, _) => exit,
        };
        exit.map(|exit| exit.ok_or_else(gone)).transpose()
    }
}

pub(super) fn gone() -> Error {
    Error::new(
        ErrorKind::Gone,
        "the warden process of this program has ended, and all its containers with it",
    )
    .with_remedy("start them again: the next start brings up a new warden")
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
pub(super) struct State {
    /// Set once the socket has come to its end.
    pub gone: bool,
    /// Somebody waits at the socket.
    taking: bool,
    /// Requests: how they were answered.
    pub answers: HashMap<u64, Option<i64>>,
    promises: HashMap<i32, Arc<Promise>>,
    /// Ends of processes whose starter has not come to claim them yet, and when they were told. The warden tells all
    /// that it tells to all: those of other programs' processes are never claimed.
    unclaimed: HashMap<i32, (u64, Exit)>,
    /// Plans on their way; each knows how many ends had been told before it.
    starting: usize,
    told: u64,
}

/// The connection to a warden, and what is known of its processes.
///
/// Whoever waits for something takes what the warden tells, for all: a thread for that alone would have to be woken first,
/// which costs as much as a good part of a container's start. While one does, others that wait are told by it, and when it
/// has what it waited for, the next of them goes on.
pub(super) struct Shared {
    pub socket: OwnedFd,
    witness: Witness,
    pub state: Mutex<State>,
    changed: Condvar,
}

impl State {
    /// What was told before is of processes that have ended before, which may have had the same numbers.
    pub fn start(&mut self) -> u64 {
        self.starting += 1;
        self.told
    }

    pub fn started(&mut self) {
        self.starting -= 1;
        if self.starting == 0 {
            self.unclaimed.clear();
        }
    }

    fn adopt(&mut self, pid: i32, since: u64) -> Arc<Promise> {
        let promise = Arc::new(Promise::default());
        match self.unclaimed.remove(&pid) {
            Some((told, exit)) if told > since => drop(promise.set(Some(exit))),
            _ if self.gone => drop(promise.set(None)),
            _ => drop(self.promises.insert(pid, promise.clone())),
        }
        promise
    }

    fn take(&mut self, event: Event) {
        match event.kind {
            Event::ANSWER => {
                if let Some(answer) = self.answers.get_mut(&event.id) {
                    *answer = Some(event.value);
                }
            }
            Event::EXITED => {
                let exit = Exit {
                    how: event.id as u32,
                    status: event.value as i32,
                    user: Duration::from_micros(event.user_us),
                    system: Duration::from_micros(event.system_us),
                    peak_bytes: event.peak_kib << 10,
                };
                self.ended(event.pid, exit);
            }
            _ => {}
        }
    }

    /// The warden has gone.
    fn end(&mut self) {
        self.gone = true;
        for (_, promise) in self.promises.drain() {
            let _ = promise.set(None);
        }
    }

    fn ended(&mut self, pid: i32, exit: Exit) {
        self.told += 1;
        match self.promises.remove(&pid) {
            Some(promise) => drop(promise.set(Some(exit))),
            // Nobody here has started anything that could be it.
            None if self.starting == 0 => {}
            None => drop(self.unclaimed.insert(pid, (self.told, exit))),
        }
    }
}

impl Shared {
    pub fn new(socket: OwnedFd) -> Result<Arc<Self>> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Ok(Arc::new(Self { socket, witness: Witness::current()?, state, changed }))
    }

    /// An error in a forked copy of the program.
    pub fn check(&self) -> Result<()> {
        self.witness.check()
    }

    /// A process that is to be told of; `since` is what [`State::start`] gave when its plan was sent.
    pub fn adopt(self: &Arc<Self>, pid: i32, pidfd: OwnedFd, since: u64) -> Process {
        let promise = lock(&self.state).adopt(pid, since);
        Process { promise, pidfd: Arc::new(pidfd), shared: Some(self.clone()) }
    }

    /// Whether the warden has gone, also where nobody has taken that yet.
    pub fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&at_once)).is_ok() && !polled[0].revents().is_empty()
    }

    /// Waits until there is what is looked for; `None` at the deadline, where one is given.
    ///
    /// # Errors
    /// `Gone` once the warden has ended and there is nothing to find.
    pub fn wait<T>(
        &self,
        deadline: Option<Instant>,
        mut find: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut state = lock(&self.state);
        let mut is_last = false;
        loop {
            if let Some(found) = find(&mut state) {
                return Ok(Some(found));
            }
            if state.gone {
                return Err(gone());
            }
            if is_last {
                return Ok(None);
            }
            if state.taking {
                state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                    None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(left) => {
                        is_last = left.is_zero();
                        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                continue;
            }
            let taking = Taking::begin(self, &mut state);
            drop(state);
            match message::readable(&self.socket, deadline)? {
                true => self.take_all()?,
                false => is_last = true,
            }
            state = lock(&self.state);
            taking.end(&mut state);
        }
    }

    /// Takes what has been told by now, unless somebody does already: while the socket is full the warden does nothing.
    pub fn drain(&self) {
        let taking = {
            let mut state = lock(&self.state);
            (!state.taking && !state.gone).then(|| Taking::begin(self, &mut state))
        };
        if let Some(taking) = taking {
            // An error is whoever's who waits next.
            let _ = self.take_all();
            taking.end(&mut lock(&self.state));
        }
    }

    fn take_all(&self) -> Result<()> {
        let mut buffer = [0; size_of::<Event>()];
        loop {
            match message::try_receive(&self.socket, &mut buffer) {
                Ok(Arrived::Message) => lock(&self.state).take(Event::from_bytes(&buffer)),
                Ok(Arrived::Nothing) => return Ok(()),
                Ok(Arrived::End) => {
                    lock(&self.state).end();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The right to take what the warden tells.
struct Taking<'a>(&'a Shared);

impl<'a> Taking<'a> {
    fn begin(shared: &'a Shared, state: &mut State) -> Self {
        state.taking = true;
        Self(shared)
    }

    fn end(self, state: &mut State) {
        state.taking = false;
        self.0.changed.notify_all();
        std::mem::forget(self);
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).taking = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_of_the_process_that_was_started_before_it() {
        let exit = |status| {
            let (user, system, peak_bytes) = Default::default();
            Exit { how: 1, status, user, system, peak_bytes }
        };
        let claimed = |promise: Arc<Promise>| promise.get().copied();
        let mut state = State::default();
        // Of another program's command, long before: nothing of it stays.
        state.ended(7, exit(1));
        assert!(state.unclaimed.is_empty());
        // The same while something is being started here; then a process gets the number.
        let _courier = state.start();
        state.ended(7, exit(2));
        let since = state.start();
        let promise = state.adopt(7, since);
        assert_eq!(claimed(promise.clone()), None);
        state.ended(7, exit(3));
        assert_eq!(claimed(promise), Some(Some(exit(3))));
        // One that has ended before it is claimed.
        let since = state.start();
        state.ended(8, exit(4));
        assert_eq!(claimed(state.adopt(8, since)), Some(Some(exit(4))));
        state.ended(9, exit(5));
        (0..3).for_each(|_| state.started());
        assert!(state.unclaimed.is_empty());
    }
}
