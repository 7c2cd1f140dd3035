//! What the handles on a container have in common: how it is kept, ended and removed.
#![forbid(unsafe_code)]

use super::ids::Range;
use super::record::{Dir, Exited, Names, Record, elsewhere};
use super::running::Running;
use super::{Held, Inner, KILL_TIME, Phase, lock, names, removed, start, volumes};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{attributes, random_hex};
use crate::sys::time::after;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::SystemTime;

impl Held {
    /// The record of one that was opened from the store is what it is now, as others may have started it since. Gives a setting
    /// in it that this version of the library does not know.
    pub(super) fn refresh(&mut self) -> Result<Option<String>> {
        if !self.kept {
            return Ok(None);
        }
        let (record, unknown) = self.dir.record_of_any_version()?.ok_or_else(removed)?;
        self.record = record;
        Ok(unknown)
    }

    /// An error where its files have lost their extended attributes on their way here.
    pub(super) fn is_whole(&self) -> Result<()> {
        match &self.record.attribute {
            Some(name) if attributes::are_gone(&*self.dir, name)? => {
                let what = "the container's files have lost their extended attributes: directories that it has emptied would \
                            show the image's files again";
                Err(Error::new(ErrorKind::State, what).with_path(self.dir.path()).with_remedy(format!(
                    "copy the store again with them (cp -a, rsync -aHX, tar --xattrs --xattrs-include=*); to use the container \
                     as it is: setfattr -n {name} -v 1 on its directory"
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Inner {
    pub(super) fn record<T>(&self, read: impl FnOnce(&Record) -> T) -> Result<T> {
        lock(&self.held).as_ref().map(|held| read(&held.record)).ok_or_else(removed)
    }

    /// What it is doing. That one out of reach has ended nothing tells but the store, which is asked each time.
    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        let mut phase = lock(&self.phase);
        let Phase::Elsewhere(run) = &*phase else { return phase };
        match self.ended_elsewhere(run.started) {
            Ok(Some(exited)) => *phase = Phase::Exited(exited),
            Ok(None) => {}
            // It is asked again.
            Err(error) => tracing::warn!(%error, id = self.id, "whether a container has ended can't be told"),
        }
        phase
    }

    fn ended_elsewhere(&self, started: SystemTime) -> Result<Option<Exited>> {
        let Some(dir) = self.dir() else { return Ok(None) };
        match dir.running()?.filter(|now| now.started == started) {
            Some(run) if run.is_elsewhere(&self.store)? => Ok(None),
            _ => start::exited_of_other(&dir, started).map(Some),
        }
    }

    fn dir(&self) -> Option<Arc<Dir>> {
        lock(&self.held).as_ref().map(|held| held.dir.clone())
    }

    /// An error for one that runs out of reach: it can be asked for nothing, and nothing of it is to be taken away.
    pub(super) fn refuse_elsewhere(&self) -> Result<()> {
        let Some(dir) = self.dir() else { return Ok(()) };
        match dir.running() {
            Ok(Some(run)) if run.is_elsewhere(&self.store)? => Err(elsewhere(&self.id)),
            // What can't be read keeps nobody from removing it.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Whether it runs as another program's: that one decides when it ends.
    pub(super) fn is_foreign(&self) -> bool {
        match &*lock(&self.phase) {
            Phase::Running(running) => running.warden.is_none(),
            Phase::Elsewhere(_) => true,
            Phase::Created | Phase::Exited(_) => false,
        }
    }

    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.own_end.get().unwrap_or(&self.end).as_fd()
    }

    /// Waits until the thread that watched it is done, which it tells last of all; whether there is something told.
    pub(super) fn is_told(&self, running: &Running) -> Result<bool> {
        Ok(running.watched.load(Ordering::Relaxed)
            && crate::sys::message::readable(self.end(), Some(after(KILL_TIME)))?)
    }

    /// The descriptor that tells of the end is not to tell of the last one any more.
    pub(super) fn forget_end(&self) -> Result<()> {
        rustix::io::read(self.end(), &mut [0; 8]).call("read(eventfd)").map(drop)
    }

    /// An error for a container that was opened from the store, and that belongs to the handle that made it: that one
    /// starts it and removes it, as it likes. While `run` has it, nothing in the store says that it runs.
    pub(super) fn refuse_others(&self) -> Result<()> {
        let held = lock(&self.held);
        let Some(held) = held.as_ref().filter(|held| held.kept && held.record.ephemeral) else {
            return Ok(());
        };
        // It may have been kept meanwhile, or its program is dead.
        let kept = held.dir.record()?.is_some_and(|record| !record.ephemeral);
        match kept || !held.dir.is_shared()? {
            true => Ok(()),
            false => {
                let error = Error::new(ErrorKind::State, "the container belongs to the handle that made it");
                Err(error.with_path(&held.record.name).with_remedy("Container::keep leaves it to everybody"))
            }
        }
    }

    pub(super) fn end_running(&self) -> Result<()> {
        let running = match &*lock(&self.phase) {
            Phase::Running(running) => running.clone(),
            _ => return Ok(()),
        };
        match running.end() {
            // The warden was killed: so were they. Nor is their group left to the thread that watches.
            Err(error) if error.kind() == ErrorKind::Gone => {
                running.release_group();
                Ok(())
            }
            ended => ended.map(drop),
        }
    }

    /// Whether its first process has not ended.
    fn may_go_on(&self) -> bool {
        match &*lock(&self.phase) {
            Phase::Running(running) => {
                let now = Some(std::time::Instant::now());
                !crate::sys::message::readable(&*running.process.pidfd, now).unwrap_or(false)
            }
            _ => false,
        }
    }

    fn is_watched(&self) -> bool {
        matches!(&*lock(&self.phase), Phase::Running(running) if running.watched.load(Ordering::Relaxed))
    }

    /// With `wait`, until nothing is left on disk.
    pub(super) fn remove(&self, wait: bool) -> Result<()> {
        let ended = self.end_running();
        let Some(held) = lock(&self.held).take() else { return ended };
        if ended.is_err() && self.may_go_on() {
            // Its processes may still write, as its users. The directory keeps the name and the range of ids; the thread that
            // watches holds it until they have ended, where there is one. Then a sweep takes it all.
            if !self.is_watched() {
                std::mem::forget(held.dir);
            }
            return ended;
        }
        let store = &self.store;
        let Held { dir, record, range, prepared, kept } = held;
        drop(prepared);
        let left = match dir.running() {
            Ok(None) if !(kept && record.ephemeral) => Ok(()),
            // The next one who opens it tries again: without the directory nobody would know of the groups.
            Ok(_) => match store.sweep_groups(&record.id) {
                Err(error) => return ended.and(Err(error)),
                swept => swept,
            },
            Err(error) => Err(error),
        };
        drop(dir);
        let freed = store.clear_quota(&record.id, record.project);
        let discarded = if wait {
            store.discard(store.containers_dir(), &record.id)
        } else {
            store.discard_later(store.containers_dir(), &record.id)
        };
        let named = Names::release(store, &record.name, &record.id);
        let released = range.map_or(Ok(()), Range::release);
        let volumes = volumes::remove_anonymous(store, &record);
        ended.and(freed).and(discarded).and(named).and(released).and(volumes).and(left)
    }

    pub(super) fn keep(&self) -> Result<()> {
        if self.is_foreign() {
            return Ok(());
        }
        self.refuse_others()?;
        let in_memory = self.record(|record| record.spec.in_memory)?;
        if in_memory {
            return Err(Error::new(ErrorKind::State, "a writable layer in memory can't be kept"));
        }
        self.end_running()?;
        let mut held = lock(&self.held);
        let Some(held) = held.as_mut() else { return Err(removed()) };
        // From here on its Drop removes nothing: what can't be written down now may be another time.
        if std::mem::replace(&mut held.kept, true) {
            // Opened from the store, where another one may have kept it, or started it, since.
            held.record = held.dir.record()?.ok_or_else(removed)?;
            if !held.record.ephemeral {
                return Ok(());
            }
        }
        if let Phase::Running(running) = &*lock(&self.phase) {
            held.record.exited = running.exited();
        }
        self.write_kept(held).map_err(|error| error.during(format!("keeping the container {}", self.id)))
    }

    fn write_kept(&self, held: &mut Held) -> Result<()> {
        if held.record.spec.name.is_none() {
            // From now on nobody else may have it.
            while !Names::take(&self.store, &held.record.name, &held.record.id)? {
                held.record.name = names::generated(&random_hex(32)?);
            }
            held.record.spec.name = Some(held.record.name.clone());
        }
        // An ephemeral container's writes need not have reached the disk, nor has its name.
        self.store.sync()?;
        held.record.attribute = attributes::leave(&*held.dir).map(str::to_owned);
        // Whoever starts it makes its control group.
        held.prepared = None;
        held.record.rooms.clear();
        let ephemeral = std::mem::replace(&mut held.record.ephemeral, false);
        let written = held.dir.set_record(&held.record).and_then(|()| held.dir.sync());
        held.record.ephemeral = ephemeral && written.is_err();
        written
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.witness.is_here() {
            return;
        }
        // Another program's container is none of ours to end.
        if self.is_foreign() {
            return;
        }
        let kept = lock(&self.held).as_ref().is_none_or(|held| held.kept);
        let result = match kept {
            true => self.end_running(),
            false => self.remove(false),
        };
        if let Err(error) = result {
            tracing::warn!(%error, id = self.id, "a container could not be removed; the next Store::open does it");
        }
    }
}
