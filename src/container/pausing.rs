//! A pause that a program takes back itself, as for a commit; where it is killed before, whoever asks for the container lets it
//! go on.
//!
//! The file `pausing` in the container's directory names the program, from before such a pause until after it. Who begins a pause of
//! any kind, ends one, or looks after what a killed program has left does so [alone](crate::Store::pausing).
#![forbid(unsafe_code)]

use super::record::{living, this_program};
use super::running::Running;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Lease;
use crate::sys::pids;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(super) const FILE: &str = "pausing";

/// How long another program's pause is waited for: it commits, or was stopped in it.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked for again, as nothing tells of its end.
const AGAIN: Duration = Duration::from_millis(5);

/// The program that has paused it: its process, when that began, and the PID namespace that it is in; and which of its pauses.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark(i32, u64, #[serde(default)] u64, #[serde(default)] u64);

impl Mark {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (pid, began) = this_program();
        Self(pid, began, pids::own().unwrap_or(0), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Of another PID namespace there is no program that can pause what runs in this one: it was there for an earlier run.
    fn is_living(&self) -> Result<bool> {
        Ok(!pids::is_other(self.2) && living(self.0, self.1)?.is_some())
    }
}

/// A container that is paused for a moment.
pub(super) struct Pausing(Arc<Running>, Mark);

impl Pausing {
    /// `None` where somebody has paused it to stay so. Waits for others that have it paused for a moment.
    ///
    /// # Errors
    /// As [`Running::pause`]; `InUse` where another program's moment has no end.
    pub fn begin(running: &Arc<Running>) -> Result<Option<Self>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let turn = turn(running)?;
            if clear(running)? {
                if running.is_paused() {
                    return Ok(None);
                }
                let mark = Mark::new();
                running.dir.set_pausing(Some(&mark))?;
                return match running.freeze(true) {
                    Ok(()) => Ok(Some(Self(running.clone(), mark))),
                    Err(error) => {
                        if let Err(error) = running.dir.set_pausing(None) {
                            tracing::warn!(%error, id = running.dir.id, "the mark of a pause that did not come about");
                        }
                        Err(error)
                    }
                };
            }
            drop(turn);
            if Instant::now() >= deadline {
                let error =
                    Error::new(ErrorKind::InUse, "another program has the container paused, for a commit");
                return Err(error
                    .with_path(running.dir.path().join(FILE))
                    .with_remedy("end that program, or continue it where it was stopped (SIGCONT)"));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Lets it go on, unless somebody has done that: what is paused then is paused by another.
    pub fn end(self) -> Result<()> {
        let Self(running, own) = self;
        let _turn = turn_where_there_is_one(&running);
        if matches!(running.dir.pausing(), Ok(mark) if mark.as_ref() != Some(&own)) {
            return Ok(());
        }
        let thawed = match running.freeze(false) {
            // It was killed meanwhile.
            Err(error) if error.kind() == ErrorKind::State => Ok(()),
            other => other,
        };
        // Whatever became of it: who waits for this pause is not to wait for ever.
        thawed.and(running.dir.set_pausing(None))
    }
}

fn turn(running: &Running) -> Result<Lease> {
    running.dir.store.pausing(&running.dir.id)
}

/// What needs none in the end isn't refused for it.
fn turn_where_there_is_one(running: &Running) -> Option<Lease> {
    let turn = turn(running);
    turn.inspect_err(|error| tracing::debug!(%error, id = running.dir.id, "paused, or not, without a turn"))
        .ok()
}

/// Lets the container go on where a killed program has paused it for a moment. Whether no program has it so then.
fn clear(running: &Running) -> Result<bool> {
    match running.dir.pausing() {
        Ok(None) => return Ok(true),
        Ok(Some(mark)) if mark.is_living()? => return Ok(false),
        Ok(Some(_)) => running.thaw()?,
        // Cut short with the machine's power: nothing that was paused then is.
        Err(error) if error.kind() == ErrorKind::InvalidData => {}
        Err(error) => return Err(error),
    }
    running.dir.set_pausing(None)?;
    Ok(true)
}

/// Pauses it to stay so, or ends whatever pause there is. That needs the container alone: who has given up its rights to the
/// store since it started it, or whose disk has become full or read-only, does so without a turn.
pub(super) fn pause(running: &Running, freeze: bool) -> Result<()> {
    let Some(_turn) = turn_where_there_is_one(running) else { return running.freeze(freeze) };
    let was_paused = running.is_paused();
    match clear(running) {
        // No trouble with the mark keeps anybody from letting it go on.
        Err(error) if !freeze => {
            tracing::warn!(%error, id = running.dir.id, "what has paused a container can't be told");
        }
        cleared => _ = cleared?,
    }
    let has_gone_on = was_paused && !running.is_paused();
    // That of a killed program has been ended just now, or when the container was asked for.
    let is_done = running.let_go.swap(false, Ordering::Relaxed) || has_gone_on;
    if !freeze && is_done && !running.is_paused() {
        return Ok(());
    }
    let done = running.freeze(freeze);
    if !freeze && done.as_ref().map_or_else(|error| error.kind() == ErrorKind::State, |()| true) {
        // Nobody has it paused for a moment any more.
        running.dir.set_pausing(None)?;
    }
    done
}

/// The same, by whoever only asks for the container.
pub(super) fn settle(running: &Running) {
    if !running.dir.has(FILE) {
        return;
    }
    let settled = || {
        let _turn = turn(running)?;
        let was_paused = running.is_paused();
        clear(running)?;
        if was_paused && !running.is_paused() {
            running.let_go.store(true, Ordering::Relaxed);
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = settled() {
        tracing::warn!(%error, id = running.dir.id, "whether a killed program has paused it for a commit can't be told");
    }
}
