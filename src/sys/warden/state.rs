//! What the host knows of a warden's processes: which are on their way, and how those that have ended did.
//!
//! A number is a process's only until the warden has told its end: then it may be another's.

use super::lock;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

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
pub(super) struct Promise {
    pub(super) told: Mutex<Option<Option<Exit>>>,
    pub(super) changed: Condvar,
}

impl Promise {
    pub(super) fn keep(&self, exit: Option<Exit>) {
        let mut told = lock(&self.told);
        if told.is_none() {
            *told = Some(exit);
            self.changed.notify_all();
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        lock(&self.told).is_some()
    }
}

#[derive(Default)]
pub(super) struct State {
    /// Set once the socket has come to its end.
    pub(super) gone: bool,
    /// Requests: how they were answered.
    pub(super) answers: HashMap<u64, Option<std::result::Result<i32, i64>>>,
    /// First stages and couriers: nobody asks how they end.
    pub(super) stages: HashSet<i32>,
    pub(super) promises: HashMap<i32, Arc<Promise>>,
    /// Ends of processes whose starter has not come to claim them yet, and when they were told. The warden tells all
    /// that it tells to all: those of other programs' processes are never claimed.
    unclaimed: HashMap<i32, (u64, Exit)>,
    /// Plans on their way; each knows how many ends had been told before it.
    pub(super) starting: usize,
    pub(super) told: u64,
}

impl State {
    /// What was told before is of processes that have ended before, which may have had the same numbers.
    pub(super) fn start(&mut self) -> u64 {
        self.starting += 1;
        self.told
    }

    pub(super) fn started(&mut self) {
        self.starting -= 1;
        if self.starting == 0 {
            self.unclaimed.clear();
        }
    }

    pub(super) fn adopt(&mut self, pid: i32, since: u64) -> Arc<Promise> {
        let promise = Arc::new(Promise::default());
        match self.unclaimed.remove(&pid) {
            Some((told, exit)) if told > since => promise.keep(Some(exit)),
            _ if self.gone => promise.keep(None),
            _ => drop(self.promises.insert(pid, promise.clone())),
        }
        promise
    }

    pub(super) fn ended(&mut self, pid: i32, exit: Exit) {
        self.told += 1;
        match self.promises.remove(&pid) {
            Some(promise) => promise.keep(Some(exit)),
            // Nobody here has started anything that could be it.
            None if self.starting == 0 => {}
            None => drop(self.unclaimed.insert(pid, (self.told, exit))),
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
