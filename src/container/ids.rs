//! Ranges of user ids for containers of root: 65536 for each, so that no two containers share a kernel user.
//!
//! A range is a file in `ids/` with its number as its name, locked by the program that uses it and naming the container
//! that keeps it. They lie where systemd's convention (UIDS-GIDS.md) has container ranges, 524288 to 1879048191; a
//! store begins to look at a place that its path gives, so that two stores seldom meet.
//!
//! What `/etc/subuid` and `/etc/subgid` give to users ([`given`]) is not taken. useradd(8), which knows nothing of the ranges
//! here, may give a user one that a kept container has: the report of its next start says so.
#![forbid(unsafe_code)]

mod given;
mod on_disk;

pub(crate) use on_disk::OnDisk;
pub(super) use on_disk::{claim, claim_volume, same_as_written};

use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{Lease, Store};
use given::Given;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) const COUNT: u32 = 65536;
const FIRST: u32 = 524288;
const RANGES: u32 = (1879048192 - FIRST) / COUNT;

/// The number of the range that begins there.
fn number(base: u32) -> Option<u32> {
    let number = base.checked_sub(FIRST).map(|above| above / COUNT);
    number.filter(|number| *number < RANGES && FIRST + number * COUNT == base)
}

/// Whether a range begins there.
pub(crate) fn is_range(base: u32) -> bool {
    number(base).is_some()
}

/// Why a range is not its container's alone, if so.
pub(crate) fn shared(base: u32) -> Option<String> {
    match Given::now() {
        Ok(given) => given.some_of(base, COUNT).map(ToString::to_string),
        Err(error) => Some(format!("whether users have some of them can't be told: {error}")),
    }
}

/// A range in use by this program.
#[derive(Debug)]
pub(crate) struct Range {
    lease: Lease,
    path: PathBuf,
    pub base: u32,
}

/// The number of the range that a store tries first.
fn start(store: &Store) -> u32 {
    let mut hasher = DefaultHasher::new();
    store.path().hash(&mut hasher);
    (hasher.finish() % u64::from(RANGES)) as u32
}

impl Range {
    /// A free one for a new container.
    ///
    /// # Errors
    /// `ResourceExhausted` when there is none.
    pub fn take(store: &Store, id: &str) -> Result<Self> {
        Self::take_beside(&*Given::now()?, store, id)
    }

    fn take_beside(given: &Given, store: &Store, id: &str) -> Result<Self> {
        let start = start(store);
        let mut others = None;
        for number in (0..RANGES).map(|step| (start + step) % RANGES) {
            if let Some(span) = given.some_of(FIRST + number * COUNT, COUNT) {
                others.get_or_insert(span);
                continue;
            }
            let Some(mut range) = Self::lock(store, number)? else { continue };
            let mut holder = String::new();
            range.lease.file().take(100).read_to_string(&mut holder).call_at("read", number.to_string())?;
            let kept = !holder.is_empty()
                && rustix::fs::accessat(
                    store.containers_dir(),
                    &holder,
                    rustix::fs::Access::EXISTS,
                    rustix::fs::AtFlags::empty(),
                )
                .is_ok();
            if !kept {
                range.name(id)?;
                return Ok(range);
            }
        }
        let taken = "all ranges of user ids are taken";
        let error = match others {
            None => Error::new(ErrorKind::ResourceExhausted, taken)
                .with_remedy("remove containers that are no longer needed"),
            Some(span) => Error::new(ErrorKind::ResourceExhausted, format!("{taken}: {span}")).with_remedy(
                "leave some of the ids from 524288 to 1879048191 to containers: give users fewer in /etc/subuid and \
                 /etc/subgid (usermod --del-subuids), or remove containers that are no longer needed",
            ),
        };
        Err(error.with_path(store.path().join("ids")))
    }

    /// The one that a kept container has.
    ///
    /// # Errors
    /// `Unsupported` for what begins no range: the container of somebody without root's capabilities names 0, which would
    /// be the host's own root.
    pub fn again(store: &Store, base: u32) -> Result<Self> {
        let number = number(base).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("no range of user ids begins at {base}")).with_remedy(
                "the container was made without the capabilities that this program has: start it as it was made, or \
                 make it anew",
            )
        })?;
        // Whoever saw the container end just now may still be about to close it. Tried again and again: flock(2) waits
        // without a deadline, and nothing tells that a lock is free (inotify tells of the closing before the lock goes).
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            match Self::lock(store, number)? {
                Some(range) => return Ok(range),
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                None => {
                    return Err(Error::new(ErrorKind::InUse, "another program has this container open"));
                }
            }
        }
    }

    fn lock(store: &Store, number: u32) -> Result<Option<Self>> {
        let name = number.to_string();
        let path = store.path().join("ids").join(&name);
        let lease =
            Lease::lock_file(store.ids_dir(), &name).map_err(|error| error.with_path(path.clone()))?;
        let is_free = lease.try_lock().map_err(|error| error.with_path(path.clone()))?;
        Ok(is_free.then(|| Self { lease, path, base: FIRST + number * COUNT }))
    }

    fn name(&mut self, id: &str) -> Result<()> {
        let write = || {
            let mut file = self.lease.file();
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(id.as_bytes())
        };
        write().call_at("write", &self.path)
    }

    /// It may be given to another container.
    pub fn release(mut self) -> Result<()> {
        self.name("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_same_wherever_the_store_lies() {
        let temp = tempfile::tempdir().unwrap();
        let (old, new) = (temp.path().join("old"), temp.path().join("new"));
        let store = Store::open(&old).unwrap();
        let base = Range::take(&store, "kept").unwrap().base;
        std::fs::create_dir(old.join("containers/kept")).unwrap();
        drop(store);
        std::fs::rename(&old, &new).unwrap();
        let store = Store::open(&new).unwrap();
        assert_eq!(Range::again(&store, base).unwrap().base, base);
        // The same file: whoever takes a range there finds that it is kept.
        assert_eq!(new.join("ids").read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_users_have_is_not_taken() {
        let store = Store::temp().unwrap();
        let first = Range::take_beside(&Given::default(), &store, "a").unwrap().base;
        let given = |first: u32, count: u32| {
            let mut given = Given::default();
            given.add("/etc/subgid", &format!("mallory:{first}:{count}"));
            given
        };
        // The last of its ids is enough.
        let range = Range::take_beside(&given(first + COUNT - 1, COUNT), &store, "a").unwrap();
        assert!(range.base != first && range.base != first + COUNT, "{} {first}", range.base);
        // All that there are; nothing is locked, or made, on the way.
        let error = Range::take_beside(&given(0, u32::MAX), &store, "b").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(error.to_string().contains("to mallory"), "{error}");
        assert!(error.remedy().unwrap().contains("/etc/subuid"), "{error}");
        assert_eq!(store.path().join("ids").read_dir().unwrap().count(), 2);
    }

    /// Nobody's root may be the host's.
    #[test]
    fn ids_of_the_host_are_no_range() {
        let store = Store::temp().unwrap();
        for base in [0, 1000, COUNT, FIRST - COUNT, FIRST + 1, FIRST + RANGES * COUNT, u32::MAX] {
            let error = Range::again(&store, base).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{base}: {error}");
        }
    }
}
