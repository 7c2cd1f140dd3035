//! What the warden has told: how requests were answered, and how processes ended.

use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::fork::Witness;
use crate::sys::message::{self, Arrived};
use crate::sys::plan::format::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
#[derive(Debug, Default)]
struct Promise {
    told: Mutex<Option<Option<Exit>>>,
    changed: Condvar,
}

impl Promise {
    fn keep(&self, exit: Option<Exit>) {
        let mut told = lock(&self.told);
        if told.is_none() {
            *told = Some(exit);
            self.changed.notify_all();
        }
    }

    fn is_kept(&self) -> bool {
        lock(&self.told).is_some()
    }
}

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
        if let Some(helper) = self.shared.as_deref().and_then(Helper::of) {
            // Not with the promise locked: the helper keeps it.
            while !self.promise.is_kept() && helper.take(deadline)? {}
        }
        let mut told = lock(&self.promise.told);
        loop {
            if let Some(exit) = *told {
                return match exit {
                    Some(exit) => Ok(Some(exit)),
                    None => Err(gone()),
                };
            }
            told = match deadline {
                None => self.promise.changed.wait(told).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    self.promise.changed.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// A waiting thread that takes what the warden tells by itself: to be woken by the listening thread, which is to be
/// woken first, costs as much as a good part of a container's start. While there is one, nobody else takes anything.
struct Helper<'a>(&'a Shared);

impl<'a> Helper<'a> {
    fn of(shared: &'a Shared) -> Option<Self> {
        let there_is_one = std::mem::replace(&mut *lock(&shared.helped), true);
        // Made only where it is one: its end says that there is none.
        if there_is_one { None } else { Some(Self(shared)) }
    }

    /// Waits for something to be told, and takes it; false at the deadline, and when the warden is gone.
    fn take(&self, deadline: Option<Instant>) -> Result<bool> {
        Ok(message::readable(&self.0.socket, deadline)? && self.0.take_all())
    }
}

impl Drop for Helper<'_> {
    fn drop(&mut self) {
        *lock(&self.0.helped) = false;
        self.0.unhelped.notify_all();
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
pub(super) struct Shared {
    pub socket: OwnedFd,
    /// There is a [`Helper`]. The listening thread holds it from a message's receipt to the end of its handling: what
    /// one pid is told of has an order.
    helped: Mutex<bool>,
    unhelped: Condvar,
    witness: Witness,
    pub state: Mutex<State>,
    pub changed: Condvar,
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
            Some((told, exit)) if told > since => promise.keep(Some(exit)),
            _ if self.gone => promise.keep(None),
            _ => drop(self.promises.insert(pid, promise.clone())),
        }
        promise
    }

    fn ended(&mut self, pid: i32, exit: Exit) {
        self.told += 1;
        match self.promises.remove(&pid) {
            Some(promise) => promise.keep(Some(exit)),
            // Nobody here has started anything that could be it.
            None if self.starting == 0 => {}
            None => drop(self.unclaimed.insert(pid, (self.told, exit))),
        }
    }
}

impl Shared {
    pub fn new(socket: OwnedFd) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            socket,
            helped: Mutex::default(),
            unhelped: Condvar::new(),
            witness: Witness::current()?,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
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

    /// The listening thread's part; false once the warden is gone.
    pub fn listen(&self) -> bool {
        if message::readable(&self.socket, None).is_err() {
            return false;
        }
        let mut helped = lock(&self.helped);
        if !*helped {
            return self.take_all();
        }
        while *helped {
            helped = self.unhelped.wait(helped).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Takes what has been told; false once the warden is gone.
    fn take_all(&self) -> bool {
        let mut buffer = [0; size_of::<Event>()];
        loop {
            match message::try_receive(&self.socket, &mut buffer) {
                Ok(Arrived::Message) => self.take(Event::from_bytes(&buffer)),
                Ok(Arrived::Nothing) => return true,
                Ok(Arrived::End) | Err(_) => return false,
            }
        }
    }

    fn take(&self, event: Event) {
        let mut state = lock(&self.state);
        match event.kind {
            Event::ANSWER => {
                if let Some(answer) = state.answers.get_mut(&event.id) {
                    *answer = Some(event.value);
                    self.changed.notify_all();
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
                state.ended(event.pid, exit);
            }
            _ => {}
        }
    }

    pub fn end(&self) {
        let mut state = lock(&self.state);
        state.gone = true;
        self.changed.notify_all();
        for (_, promise) in state.promises.drain() {
            promise.keep(None);
        }
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
        let claimed = |promise: Arc<Promise>| *lock(&promise.told);
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
