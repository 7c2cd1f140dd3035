//! What builds write into it.
#![forbid(unsafe_code)]

use super::{CACHE, Cached, MOUNTS};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{Store, open_dir};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

impl Store {
    fn make_cache_room(&self) -> Result<OwnedFd> {
        if let Some(room) = self.cache_room()? {
            return Ok(room);
        }
        make_dir(self.dir(), CACHE).map_err(|error| error.with_path(self.path().join(CACHE)))
    }

    /// What a step with this key gave, which counts as used now. The caller is [writing](Store::writing) until it has leased it.
    pub(crate) fn cached(&self, key: &Digest) -> Result<Option<Cached>> {
        let Some(room) = self.cache_room()? else { return Ok(None) };
        let found = self.cache_record(room.as_fd(), OsStr::new(&key.hex()))?;
        if found.is_some() {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                last_modification: now,
            };
            match rustix::fs::utimensat(&room, key.hex(), &times, AtFlags::SYMLINK_NOFOLLOW) {
                // Pruned just now; or a store that is only read.
                Err(Errno::NOENT | Errno::ROFS) => {}
                other => other.call_at("utimensat", self.cache_path().join(key.hex()))?,
            }
        }
        Ok(found)
    }

    /// Notes what a step with this key has given. The caller is [writing](Store::writing).
    pub(crate) fn set_cached(&self, key: &Digest, cached: &Cached) -> Result<()> {
        let room = self.make_cache_room()?;
        let text = serde_json::to_vec(cached)
            .map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))?;
        let (mut lease, temporary) = self.new_tmp_file()?;
        let path = || self.cache_path().join(key.hex());
        let written = lease.file_mut().write_all(&text).call_at("write", path()).and_then(|()| {
            rustix::fs::renameat(self.tmp_dir(), &temporary, &room, key.hex()).call_at("renameat", path())
        });
        written.inspect_err(|_| {
            // The disk is full, as a rule. If not, the next sweep takes it.
            let _ = rustix::fs::unlinkat(self.tmp_dir(), &temporary, AtFlags::empty());
        })
    }

    /// Where the directories of cache mounts are.
    pub(crate) fn cache_mounts(&self) -> Result<PathBuf> {
        let room = self.make_cache_room()?;
        make_dir(room.as_fd(), MOUNTS)?;
        Ok(self.cache_path().join(MOUNTS))
    }
}

fn make_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        other => other.call_at("mkdirat", name),
    }?;
    open_dir(parent, name)
}
