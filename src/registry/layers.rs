//! The layers of one image, several at once: each is hashed, stored, inflated and unpacked while it arrives.
//!
//! What a layer becomes may depend on those below it (a whiteout, a directory that its archive leaves out), but that is asked
//! at the end of its unpacking, or never: so it waits there for those below and nowhere else. Workers take the lowest layer
//! that is left, so whoever is waited for is at work.
#![forbid(unsafe_code)]

use super::PullEvent;
use super::http::stopped;
use super::session::Session;
use crate::digest::Digest;
use crate::error::{Call, Error, Result};
use crate::image::ensure_layer;
use crate::layer::{Lowers, Owners, for_caller};
use crate::manifest::{Descriptor, ImageConfig, Manifest};
use crate::store::{Store, UnpackedLayer};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Has the store get all layers of an image.
pub(super) fn pull(
    store: &Store,
    session: &Session,
    manifest: &Manifest,
    config: &ImageConfig,
    parallel: usize,
    tell: &(dyn Fn(&PullEvent) + Sync),
) -> Result<()> {
    let count = manifest.layers().len();
    let (diff_ids, chain_ids) = (config.diff_ids(), config.chain_ids());
    let work = Work {
        store,
        session,
        layers: manifest.layers(),
        diff_ids,
        chain_ids: &chain_ids,
        tell,
        next: AtomicUsize::new(0),
        state: Mutex::new(State { made: vec![None; count], failed: None, gave_up: false }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..parallel.clamp(1, count.max(1)) {
            let worker = std::thread::Builder::new().name("coracle-pull".into());
            if let Err(error) = worker.spawn_scoped(scope, || work.work()).call("starting a thread") {
                work.give_up(Some(error));
                break;
            }
        }
    });
    let state = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    state.failed.map_or(Ok(()), Err)
}

struct Work<'a> {
    store: &'a Store,
    session: &'a Session,
    layers: &'a [Descriptor],
    diff_ids: &'a [Digest],
    chain_ids: &'a [Digest],
    tell: &'a (dyn Fn(&PullEvent) + Sync),
    next: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    made: Vec<Option<UnpackedLayer>>,
    /// The first error; others follow from it.
    failed: Option<Error>,
    gave_up: bool,
}

/// A panic of a worker must leave nobody waiting.
struct Alarm<'a, 'b> {
    work: &'a Work<'b>,
    armed: bool,
}

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if self.armed {
            self.work.give_up(None);
        }
    }
}

impl Work<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, error: Option<Error>) {
        let mut state = self.state();
        state.gave_up = true;
        if state.failed.is_none() {
            state.failed = error;
        }
        drop(state);
        self.session.client().stop();
        self.changed.notify_all();
    }

    /// Takes layers as long as there are any.
    fn work(&self) {
        let mut alarm = Alarm { work: self, armed: true };
        let owners = for_caller();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            if at >= self.layers.len() || self.state().gave_up {
                break;
            }
            match self.one(at, &*owners) {
                Ok(layer) => {
                    self.state().made[at] = Some(layer);
                    self.changed.notify_all();
                }
                Err(error) => {
                    self.give_up(Some(error.during(format!("pulling the layer {}", self.layers[at].digest))));
                    break;
                }
            }
        }
        alarm.armed = false;
    }

    fn one(&self, at: usize, owners: &dyn Owners) -> Result<UnpackedLayer> {
        let descriptor = &self.layers[at];
        // The same content twice, as of steps that change nothing, travels once.
        if let Some(same) = self.layers[..at].iter().position(|below| below.digest == descriptor.digest) {
            self.wait(same..same + 1)?;
        }
        let layer = descriptor.digest;
        let travelled = AtomicBool::new(false);
        let seen = |done| (self.tell)(&PullEvent::Bytes { layer, done, size: descriptor.size });
        let open = || {
            travelled.store(true, Ordering::Relaxed);
            seen(0);
            Ok(self.session.blob(descriptor, &seen))
        };
        let below = || self.wait(0..at);
        let parent = at.checked_sub(1).map(|below| self.chain_ids[below]);
        let (diff_id, lowers) = (&self.diff_ids[at], Lowers::Later(&below));
        let made = ensure_layer(self.store, owners, descriptor, diff_id, lowers, parent, open)?;
        (self.tell)(&PullEvent::Ready { layer, travelled: travelled.load(Ordering::Relaxed) });
        Ok(made)
    }

    /// Waits for these layers; the topmost first.
    fn wait(&self, which: std::ops::Range<usize>) -> Result<Vec<UnpackedLayer>> {
        let mut state = self.state();
        loop {
            if state.gave_up {
                return Err(stopped());
            }
            if let Some(layers) = state.made[which.clone()].iter().rev().cloned().collect() {
                return Ok(layers);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
