//! What builds have made: `cache/HEX`, HEX of the digest of all that a step depends on.
//!
//! ```text
//! cache/HEX            {"manifest":"sha256:…","id":"sha256:…"}: the image that the step gave
//! cache/mounts/NAME/   the directory of a `RUN --mount=type=cache`, unless the caller has a place for it
//! ```
//!
//! These images have no entry in `index.json`, as nobody has asked for them; they are found by their ids, and are in use as long as
//! their record is there. When a record was last used is the time of its file. A record is written aside and renamed. It is no more than a
//! hint: one that is empty, or of an image that is not whole, as after a power failure, counts as none.
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
mod written;

use super::sizes::{self, Closed};
use super::{Lease, Store, leads_to, list, open_dir};
use crate::digest::Digest;
use crate::error::{Call, ErrorKind, Result};
use crate::sys::owners::{Keeper, Ownership};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const CACHE: &str = "cache";
const MOUNTS: &str = "mounts";
/// A record has two digests.
const RECORD_MAX: u64 = 4096;

/// The image that a step gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cached {
    pub(crate) manifest: Digest,
    /// The digest of its configuration.
    pub(crate) id: Digest,
}

/// What [`Store::prune_cache`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunedCache {
    /// Steps that a build would do again.
    pub steps: usize,
    /// Directories of cache mounts.
    pub mounts: usize,
    /// The bytes that are free now, of the files of cache mounts those that this program may look at. What another program uses
    /// at this moment goes later.
    pub freed: u64,
}

/// Something that can be pruned.
struct Item<'a> {
    dir: BorrowedFd<'a>,
    name: OsString,
    is_mount: bool,
    used: SystemTime,
}

impl Store {
    /// The directory of the records; `None` where nothing was ever built.
    fn cache_room(&self) -> Result<Option<OwnedFd>> {
        match open_dir(self.dir(), CACHE) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(|error| error.with_path(self.path().join(CACHE))),
        }
    }

    fn cache_path(&self) -> PathBuf {
        self.path().join(CACHE)
    }

    /// A record; what is none counts as nothing.
    fn cache_record(&self, room: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Cached>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = || self.cache_path().join(name);
        let file = match rustix::fs::openat(room, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            other => File::from(other.call_at("openat", path())?),
        };
        if !file.metadata().call_at("fstat", path())?.is_file() {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.take(RECORD_MAX).read_to_end(&mut text).call_at("read", path())?;
        Ok(serde_json::from_slice(&text).ok())
    }

    fn cache_names(&self, room: BorrowedFd<'_>) -> Result<Vec<OsString>> {
        let mut names = list(room).map_err(|error| error.with_path(self.cache_path()))?;
        names.retain(|name| name.len() == 64);
        Ok(names)
    }

    /// All that builds have made and that no one has pruned.
    pub(crate) fn all_cached(&self) -> Result<Vec<Cached>> {
        let Some(room) = self.cache_room()? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for name in self.cache_names(room.as_fd())? {
            all.extend(self.cache_record(room.as_fd(), &name)?);
        }
        Ok(all)
    }

    /// Forgets all steps that gave the image with this id.
    pub(crate) fn forget_steps(&self, id: &Digest) -> Result<()> {
        let Some(room) = self.cache_room()? else { return Ok(()) };
        for name in self.cache_names(room.as_fd())? {
            if self.cache_record(room.as_fd(), &name)?.is_some_and(|cached| cached.id == *id) {
                match rustix::fs::unlinkat(&room, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno).call_at("unlinkat", self.cache_path().join(&name)),
                }
            }
        }
        Ok(())
    }

    /// Removes what builds have left to be used again: the results of steps that were last used longer ago than `older_than`, and
    /// then, the longest unused first, so many that what is left has at most `keep_bytes`. What is `None` is no reason to keep
    /// anything, so that with neither all of it goes. Images with a name, and those of containers, lose nothing by it.
    ///
    /// Directories of cache mounts in the store count as well, and stay as long as a build uses them; those that are elsewhere
    /// are the caller's (`Build::cache_dir`).
    ///
    /// ```
    /// use coracle::Store;
    /// use std::time::Duration;
    /// let store = Store::temp()?;
    /// let week = Duration::from_secs(7 * 86_400);
    /// assert_eq!(store.prune_cache(Some(week), Some(10 << 30))?.steps, 0);
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the file system.
    pub fn prune_cache(&self, older_than: Option<Duration>, keep_bytes: Option<u64>) -> Result<PrunedCache> {
        let mut pruned = PrunedCache::default();
        let Some(records) = self.cache_room()? else { return Ok(pruned) };
        let mounts = match open_dir(records.as_fd(), MOUNTS) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let mut items = self.cache_items(records.as_fd(), mounts.as_ref().map(AsFd::as_fd))?;
        items.sort_by_key(|item| std::cmp::Reverse(item.used));
        let now = SystemTime::now();
        let is_old = |item: &Item<'_>| {
            let age = now.duration_since(item.used).unwrap_or_default();
            older_than.is_some_and(|limit| age > limit) || older_than.is_none() && keep_bytes.is_none()
        };
        // What is needed anyway costs the cache nothing.
        let mut counted = keep_bytes.map(|_| self.needed_blobs()).transpose()?;
        let mut kept = 0u64;
        for item in items {
            let size = self.item_size(&item, counted.as_mut())?;
            kept = kept.saturating_add(size);
            if !is_old(&item) && keep_bytes.is_none_or(|most| kept <= most) {
                continue;
            }
            // One that stays keeps its bytes.
            if self.prune_item(&item)? {
                kept -= size;
                match item.is_mount {
                    true => (pruned.mounts, pruned.freed) = (pruned.mounts + 1, pruned.freed + size),
                    false => pruned.steps += 1,
                }
            }
        }
        if pruned.steps > 0 {
            pruned.freed += self.collect_garbage()?;
        }
        Ok(pruned)
    }

    /// What goes with it; of a record only where somebody counts, and only what is in no one's account yet.
    fn item_size(&self, item: &Item<'_>, counted: Option<&mut HashSet<Digest>>) -> Result<u64> {
        match (item.is_mount, counted) {
            (true, _) => tree_size(item.dir, &item.name),
            (false, None) => Ok(0),
            (false, Some(counted)) => match self.cache_record(item.dir, &item.name)? {
                Some(cached) => self.uncounted(&cached, counted),
                None => Ok(0),
            },
        }
    }

    /// Whether it was there and nobody used it.
    fn prune_item(&self, item: &Item<'_>) -> Result<bool> {
        if item.is_mount {
            let Some(_lease) = unused(item.dir, &item.name)? else { return Ok(false) };
            self.discard(item.dir, &item.name)?;
            return Ok(true);
        }
        match rustix::fs::unlinkat(item.dir, &item.name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(false),
            other => other.call_at("unlinkat", self.cache_path().join(&item.name)).map(|()| true),
        }
    }

    fn cache_items<'a>(&self, room: BorrowedFd<'a>, mounts: Option<BorrowedFd<'a>>) -> Result<Vec<Item<'a>>> {
        let mut items = Vec::new();
        let records = self.cache_names(room)?.into_iter().map(|name| (room, name, false));
        let of_mounts = mounts.map(|dir| list(dir).map(|names| (dir, names))).transpose()?;
        let mounts = of_mounts
            .into_iter()
            .flat_map(|(dir, names)| names.into_iter().map(move |name| (dir, name, true)));
        for (dir, name, is_mount) in records.chain(mounts) {
            let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.call_at("fstatat", self.cache_path().join(&name))?,
            };
            let since = Duration::new(u64::try_from(stat.st_mtime).unwrap_or(0), stat.st_mtime_nsec as u32);
            let used = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH);
            items.push(Item { dir, name, is_mount, used });
        }
        Ok(items)
    }
}

/// Locked, unless a build uses it or it is gone.
pub(crate) fn unused(mounts: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Lease>> {
    let found = match Lease::try_exclusive(mounts, name) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => unused_of_sub_id(mounts, name),
        other => other,
    };
    match found {
        Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::NotFound) => Ok(None),
        other => other,
    }
}

/// Of an ordinary user it may be a sub-id's, and closed to the user.
fn unused_of_sub_id(mounts: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Lease>> {
    let path = CString::new(name.as_bytes()).call("the name of a directory")?;
    let (keeper, flags) = (Keeper::default(), OFlags::RDONLY | OFlags::DIRECTORY);
    let opened = keeper.open(mounts, &path, flags.bits())?;
    let lease = Lease::try_exclusive_of(opened.into(), name)?;
    // Another program may have pruned it since, and a build made another one.
    if !leads_to(mounts, name, &lease)? {
        return Ok(None);
    }
    // Only its owner moves it.
    let own = Ownership { path, uid: 0, gid: 0, mode: Some(0o700), capability: None };
    keeper.apply(mounts, [&own])?;
    Ok(Some(lease))
}

/// The bytes of a directory's files, as far as this process may look.
fn tree_size(parent: BorrowedFd<'_>, name: &OsStr) -> Result<u64> {
    let top = match rustix::fs::openat(parent, name, super::DIRECTORY, Mode::empty()) {
        // Not there any more, or a build that has just made it gives it to a sub-id, and closes it.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(0),
        other => other.call_at("openat", name)?,
    };
    sizes::sum(top.as_fd(), Closed::CountsNothing, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_a_build_uses_counts_and_stays() {
        let store = Store::temp().unwrap();
        let mounts = store.path().join(CACHE).join(MOUNTS);
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        for (name, size) in [("used", 64 << 10), ("free", 16 << 10)] {
            std::fs::create_dir_all(mounts.join(name)).unwrap();
            std::fs::write(mounts.join(name).join("file"), vec![1; size]).unwrap();
        }
        File::open(mounts.join("free")).unwrap().set_modified(hour_ago).unwrap();
        let room = open_dir(store.dir(), CACHE).unwrap();
        let room = open_dir(room.as_fd(), MOUNTS).unwrap();
        let lease = Lease::shared(room.as_fd(), "used").unwrap().unwrap();
        let pruned = store.prune_cache(None, Some(32 << 10)).unwrap();
        assert_eq!((pruned.mounts, pruned.steps), (1, 0));
        assert!(mounts.join("used").exists() && !mounts.join("free").exists());
        drop(lease);
        assert_eq!(store.prune_cache(None, None).unwrap().mounts, 1);
        assert_eq!(std::fs::read_dir(&mounts).unwrap().count(), 0);
    }
}
