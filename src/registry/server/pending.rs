//! What was pushed and has no manifest yet: uploads under way, and blobs that wait for one.
//!
//! All of it is in an [`Inbox`], which no collection touches. A blob waits in a repository, from when it was uploaded, mounted, or
//! a writer was told that it is there, until as many tagged manifests of that repository have come with it, or for as long as an
//! upload may be left alone; where there are as many as there may be, until it is the oldest and nothing was pushed to the repository for
//! a minute. So a push that goes on finds what it has been told of, whatever is pruned meanwhile; and what nobody finishes goes.
//! Neither an upload nor a blob that waits has a descriptor open.
#![forbid(unsafe_code)]

use super::body::Body;
use super::fault::{Fault, code};
use crate::digest::Digest;
use crate::error::Result;
use crate::store::{Inbox, Store, random_hex};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Where there are as many as there may be, one that was left alone for so long makes room.
const LEFT_ALONE: Duration = Duration::from_secs(60);
const COPIED: usize = 256 << 10;

pub(super) struct Pending {
    inbox: Inbox,
    /// Uploads, and blobs in each repository that they wait in, together.
    max: usize,
    blob_max: u64,
    /// How long one may be left alone.
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    uploads: HashMap<String, Arc<Upload>>,
    blobs: HashMap<Digest, Waiting>,
    /// When all were last looked at for their age.
    swept: Instant,
}

struct Waiting {
    size: u64,
    /// By their keys.
    repositories: HashMap<String, Promise>,
}

struct Promise {
    /// The last that was told of it.
    since: Instant,
    /// How many were, of whose manifests none has come: two may push what has this blob.
    times: usize,
    /// Some manifest of the repository has it, or it is one, so it is in the store, unless somebody removed it since.
    is_kept: bool,
}

/// An upload.
pub(super) struct Upload {
    pub(super) id: String,
    /// The key of the repository.
    repository: String,
    touched: Mutex<Instant>,
    progress: Mutex<Progress>,
}

struct Progress {
    size: u64,
    hasher: Sha256,
    /// Settled, cancelled or failed: there is nothing to go on with.
    is_over: bool,
}

/// An upload that nobody else writes to.
pub(super) struct Session<'a> {
    pending: &'a Pending,
    upload: &'a Upload,
    progress: MutexGuard<'a, Progress>,
}

impl Pending {
    pub(super) fn new(store: &Store, max: usize, blob_max: u64, timeout: Duration) -> Result<Self> {
        let state = State { uploads: HashMap::new(), blobs: HashMap::new(), swept: Instant::now() };
        Ok(Self { inbox: store.inbox()?, max, blob_max, timeout, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload.
    pub(super) fn begin(&self, repository: &str) -> Result<Arc<Upload>, Fault> {
        let hex = random_hex(16)?;
        // As a UUID of version 4 is written (RFC 9562).
        let id = format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
        let upload = Arc::new(Upload {
            id: id.clone(),
            repository: repository.to_owned(),
            touched: Mutex::new(Instant::now()),
            progress: Mutex::new(Progress { size: 0, hasher: Sha256::new(), is_over: false }),
        });
        let mut state = self.state();
        if !self.has_room(&mut state) {
            let fault = Fault::new(429, code::TOO_MANY, "as many uploads are under way as there may be");
            return Err(fault.with("Retry-After", LEFT_ALONE.as_secs().to_string()));
        }
        state.uploads.insert(id, upload.clone());
        Ok(upload)
    }

    pub(super) fn upload(&self, repository: &str, id: &str) -> Result<Arc<Upload>, Fault> {
        let upload = self.state().uploads.get(id).cloned();
        upload
            .filter(|upload| upload.repository == repository)
            .ok_or_else(|| Fault::new(404, code::BLOB_UPLOAD_UNKNOWN, "no such upload"))
    }

    /// Goes on with an upload, alone.
    pub(super) fn session<'a>(&'a self, upload: &'a Upload) -> Result<Session<'a>, Fault> {
        let progress = match upload.progress.try_lock() {
            Ok(progress) => progress,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let fault =
                    Fault::new(409, code::BLOB_UPLOAD_INVALID, "another request writes to this upload");
                return Err(fault.closing());
            }
        };
        if progress.is_over {
            return Err(Fault::new(404, code::BLOB_UPLOAD_UNKNOWN, "no such upload"));
        }
        upload.touch();
        Ok(Session { pending: self, upload, progress })
    }

    /// Whether one more may come. What was left alone too long goes; where that is not enough, what has been for a while.
    fn has_room(&self, state: &mut State) -> bool {
        self.expire(state);
        if state.len() >= self.max {
            self.retain(state, |promise| !promise.is_kept);
        }
        while state.len() >= self.max
            && let Some((repository, digest)) = state.left_alone()
        {
            self.remove(state, &repository, &digest);
        }
        while state.len() >= self.max {
            let oldest = state.uploads.values().min_by_key(|upload| upload.since());
            let Some(oldest) = oldest.filter(|upload| upload.since().elapsed() > LEFT_ALONE).cloned() else {
                return false;
            };
            if !self.give_up(state, &oldest) {
                return false;
            }
        }
        true
    }

    /// Whether nobody is writing to it.
    fn give_up(&self, state: &mut State, upload: &Upload) -> bool {
        let Ok(mut progress) = upload.progress.try_lock() else { return false };
        progress.is_over = true;
        state.uploads.remove(&upload.id);
        self.inbox.remove(&upload.id);
        true
    }

    /// Lets go of what was left alone for too long, each second at most.
    fn expire(&self, state: &mut State) {
        let age = self.timeout;
        if state.swept.elapsed() < age.min(Duration::from_secs(1)) {
            return;
        }
        state.swept = Instant::now();
        let old: Vec<_> = state.uploads.values().filter(|one| one.since().elapsed() > age).cloned().collect();
        for upload in old {
            self.give_up(state, &upload);
        }
        self.retain(state, |promise| promise.since.elapsed() <= age);
    }

    fn retain(&self, state: &mut State, stays: impl Fn(&Promise) -> bool) {
        state.blobs.retain(|digest, waiting| {
            waiting.repositories.retain(|_, promise| stays(promise));
            let is_wanted = !waiting.repositories.is_empty();
            if !is_wanted {
                self.inbox.remove(&digest.hex());
            }
            is_wanted
        });
    }

    /// Lets go of what was left alone for too long.
    pub(super) fn sweep(&self) {
        self.expire(&mut self.state());
    }

    /// The size of a blob that waits in a repository, or in any.
    pub(super) fn blob(&self, repository: Option<&str>, digest: &Digest) -> Option<u64> {
        let mut state = self.state();
        let waiting = state.blobs.get_mut(digest)?;
        if let Some(repository) = repository {
            waiting.repositories.get_mut(repository)?.since = Instant::now();
        }
        Some(waiting.size)
    }

    /// Opens a blob that waits in a repository.
    pub(super) fn open(&self, repository: &str, digest: &Digest) -> Result<Option<(File, u64)>> {
        let Some(size) = self.blob(Some(repository), digest) else { return Ok(None) };
        Ok(Some((self.inbox.open(digest)?, size)))
    }

    /// Has a blob of the store's, or one that waits elsewhere, wait in this repository. Whether there is room for it, and
    /// the blob is still there.
    pub(super) fn keep(&self, repository: &str, digest: &Digest, size: u64) -> Result<bool> {
        let mut state = self.state();
        let waits = |waiting: &Waiting| waiting.repositories.contains_key(repository);
        if !state.blobs.get(digest).is_some_and(waits) && !self.has_room(&mut state) {
            return Ok(false);
        }
        let is_here = state.blobs.contains_key(digest) || self.inbox.keep(digest)?;
        if is_here {
            state.wait(repository, *digest, size);
        }
        Ok(is_here)
    }

    /// Makes a blob that waits in a repository one of the store's. The caller is writing there.
    pub(super) fn admit(&self, repository: &str, digest: &Digest) -> Result<Option<u64>> {
        // Locked throughout: nobody lets go of it meanwhile.
        let state = self.state();
        let waiting = state.blobs.get(digest).filter(|waiting| waiting.repositories.contains_key(repository));
        let Some(waiting) = waiting else { return Ok(None) };
        self.inbox.admit(digest, waiting.size)?;
        Ok(Some(waiting.size))
    }

    /// A manifest of a repository has these now: each has waited for one less.
    pub(super) fn came<'a>(&self, repository: &str, blobs: impl IntoIterator<Item = &'a Digest>) {
        let mut state = self.state();
        for digest in blobs {
            let Some(waiting) = state.blobs.get_mut(digest) else { continue };
            let Some(promise) = waiting.repositories.get_mut(repository) else { continue };
            promise.times = promise.times.saturating_sub(1);
            promise.is_kept = true;
            if promise.times == 0 {
                self.remove(&mut state, repository, digest);
            }
        }
    }

    /// A manifest of a repository that has no tag yet has these now. They wait on for the one that is tagged, as long as there
    /// is room.
    pub(super) fn listed<'a>(&self, repository: &str, blobs: impl IntoIterator<Item = &'a Digest>) {
        let mut state = self.state();
        for digest in blobs {
            let waiting = state.blobs.get_mut(digest);
            if let Some(promise) = waiting.and_then(|waiting| waiting.repositories.get_mut(repository)) {
                promise.is_kept = true;
            }
        }
    }

    /// No longer has a blob wait in a repository. Whether it did.
    pub(super) fn forget(&self, repository: &str, digest: &Digest) -> bool {
        self.remove(&mut self.state(), repository, digest)
    }

    fn remove(&self, state: &mut State, repository: &str, digest: &Digest) -> bool {
        let Some(waiting) = state.blobs.get_mut(digest) else { return false };
        let waited = waiting.repositories.remove(repository).is_some();
        if waiting.repositories.is_empty() {
            state.blobs.remove(digest);
            self.inbox.remove(&digest.hex());
        }
        waited
    }
}

impl State {
    fn len(&self) -> usize {
        self.uploads.len() + self.blobs.values().map(|waiting| waiting.repositories.len()).sum::<usize>()
    }

    /// The blob that waits longest, of those for which nobody has done anything for a while, nor for their repository: a push may
    /// take long for its last layer.
    fn left_alone(&self) -> Option<(String, Digest)> {
        let is_old = |since: Instant| since.elapsed() > LEFT_ALONE;
        let is_busy = |repository: &str| {
            self.uploads.values().any(|upload| upload.repository == repository && !is_old(upload.since()))
        };
        let waiting = self.blobs.iter().flat_map(|(digest, waiting)| {
            waiting.repositories.iter().map(move |(repository, promise)| (promise.since, repository, digest))
        });
        let old = waiting.filter(|(since, repository, _)| is_old(*since) && !is_busy(repository));
        old.min_by_key(|(since, ..)| *since).map(|(_, repository, digest)| (repository.clone(), *digest))
    }

    fn wait(&mut self, repository: &str, digest: Digest, size: u64) {
        let waiting =
            self.blobs.entry(digest).or_insert_with(|| Waiting { size, repositories: HashMap::new() });
        let promise = waiting.repositories.entry(repository.to_owned()).or_insert_with(|| Promise {
            since: Instant::now(),
            times: 0,
            is_kept: false,
        });
        promise.since = Instant::now();
        promise.times += 1;
    }
}

impl Upload {
    fn since(&self) -> Instant {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Session<'_> {
    /// The bytes that came so far.
    pub(super) fn size(&self) -> u64 {
        self.progress.size
    }

    /// Takes in what a request brings. What came before it broke off stays.
    pub(super) fn append(&mut self, body: &mut Body<'_>) -> Result<(), Fault> {
        let max = self.pending.blob_max;
        let too_large =
            || Fault::new(413, code::SIZE_INVALID, format!("a blob of more than {max} bytes")).closing();
        if body.length() == Some(0) {
            return Ok(());
        }
        if body.length().is_some_and(|length| length > max.saturating_sub(self.progress.size)) {
            self.cancel();
            return Err(too_large());
        }
        let mut file = self.pending.inbox.write(&self.upload.id, self.progress.size)?;
        let most =
            body.length().map_or(COPIED, |length| COPIED.min(usize::try_from(length).unwrap_or(COPIED)));
        let mut buffer = vec![0; most];
        loop {
            let n = match body.next(&mut buffer)? {
                0 => return Ok(()),
                n => n,
            };
            if n as u64 > max - self.progress.size {
                self.cancel();
                return Err(too_large());
            }
            if let Err(error) = file.write(&buffer[..n]) {
                // There is no room, as a rule: what came makes some.
                self.cancel();
                return Err(error.into());
            }
            self.progress.hasher.update(&buffer[..n]);
            self.progress.size += n as u64;
            self.upload.touch();
        }
    }

    /// Ends it: the blob waits in its repository.
    pub(super) fn finish(mut self, promised: &Digest) -> Result<u64, Fault> {
        let found = Digest::finish(std::mem::take(&mut self.progress.hasher));
        let size = self.progress.size;
        if found != *promised {
            self.cancel();
            let what = format!("{promised} was promised, what came has {found}");
            return Err(Fault::new(400, code::DIGEST_INVALID, what));
        }
        self.progress.is_over = true;
        let pending = self.pending;
        let mut state = pending.state();
        if size == 0 {
            // Nothing was written yet.
            pending.inbox.write(&self.upload.id, 0)?;
        }
        // The same content may wait already; a file takes another's place at once.
        pending.inbox.settle(&self.upload.id, promised)?;
        state.uploads.remove(&self.upload.id);
        state.wait(&self.upload.repository, *promised, size);
        Ok(size)
    }

    pub(super) fn cancel(&mut self) {
        self.progress.is_over = true;
        self.pending.state().uploads.remove(&self.upload.id);
        self.pending.inbox.remove(&self.upload.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_alone_makes_room() {
        let store = Store::temp().unwrap();
        let pending = Pending::new(&store, 2, 1 << 20, Duration::from_secs(3600)).unwrap();
        let keep = |text: &str| {
            store.put_blob(text.as_bytes()).unwrap();
            pending.keep("me/app", &Digest::of(text.as_bytes()), text.len() as u64).unwrap()
        };
        let waits = |text: &str| pending.state().blobs.contains_key(&Digest::of(text.as_bytes()));
        assert!(keep("old") && keep("new") && !keep("more"));
        let age = LEFT_ALONE + Duration::from_secs(1);
        for promise in pending.state().blobs.get_mut(&Digest::of(b"old")).unwrap().repositories.values_mut() {
            promise.since = promise.since.checked_sub(age).unwrap();
        }
        assert!(keep("more") && !keep("even more"));
        assert_eq!(["old", "new", "more"].map(waits), [false, true, true]);
        // Of a push that goes on nothing is let go of.
        let busy = Pending::new(&store, 3, 1 << 20, Duration::from_secs(3600)).unwrap();
        let keep_in = |repository: &str, text: &str| {
            store.put_blob(text.as_bytes()).unwrap();
            busy.keep(repository, &Digest::of(text.as_bytes()), text.len() as u64).unwrap()
        };
        assert!(keep_in("me/one", "one") && keep_in("me/two", "two"));
        let upload = busy.begin("me/one").unwrap();
        for waiting in busy.state().blobs.values_mut() {
            waiting.repositories.values_mut().for_each(|promise| promise.since -= age);
        }
        let waits_there = |text: &str| busy.state().blobs.contains_key(&Digest::of(text.as_bytes()));
        assert!(keep_in("me/three", "three") && waits_there("one") && !waits_there("two"));
        assert!(!keep_in("me/three", "four"));
        *upload.touched.lock().unwrap() -= age;
        assert!(keep_in("me/three", "four") && !waits_there("one"));
        // In the index, it need not wait.
        pending.listed("me/app", [&Digest::of(b"new")]);
        assert!(keep("even more") && !waits("new") && waits("more"));
    }
}
