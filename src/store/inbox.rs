//! What arrives before anything needs it: the blobs of a push whose manifest is still to come.
//!
//! An inbox is a directory in `tmp/`, leased by whoever receives. What is in it is nobody's blob yet: no collection takes it,
//! and a sweep takes all of it when its program is dead. A blob comes in by being written, or as a further link of one that the
//! store has, which so stays whatever a collection removes meanwhile. It becomes one of the store's by a link, too.
#![forbid(unsafe_code)]

use super::{Lease, Room, Store, random_hex};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

pub(crate) struct Inbox {
    store: Store,
    dir: Lease,
    name: String,
}

/// A file of an inbox, open to be written on.
pub(crate) struct Arriving {
    file: File,
    path: PathBuf,
    room: Room,
}

impl Store {
    pub(crate) fn inbox(&self) -> Result<Inbox> {
        let (dir, name) = self.new_tmp_dir()?;
        Ok(Inbox { store: self.clone(), dir, name })
    }
}

impl Inbox {
    fn path(&self, name: &str) -> PathBuf {
        self.store.path().join("tmp").join(&self.name).join(name)
    }

    /// Opens a file to go on after its first `at` bytes; what it has beyond them is cut off. It is made where `at` is 0.
    pub(crate) fn write(&self, name: &str, at: u64) -> Result<Arriving> {
        let path = self.path(name);
        let made = if at == 0 { OFlags::CREATE } else { OFlags::empty() };
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | made;
        let file =
            rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR).call_at("openat", &path)?;
        let mut file = File::from(file);
        if file.metadata().call_at("fstat", &path)?.len() > at {
            file.set_len(at).call_at("ftruncate", &path)?;
        }
        file.seek(SeekFrom::Start(at)).call_at("lseek", &path)?;
        Ok(Arriving { file, path, room: Room::default() })
    }

    /// A file that is whole becomes this blob. The caller has hashed it.
    pub(crate) fn settle(&self, name: &str, digest: &Digest) -> Result<()> {
        rustix::fs::renameat(&self.dir, name, &self.dir, digest.hex()).call_at("renameat", self.path(name))
    }

    /// Keeps a blob of the store's here, too. Whether the store has it.
    pub(crate) fn keep(&self, digest: &Digest) -> Result<bool> {
        let hex = digest.hex();
        match rustix::fs::linkat(self.store.blobs_dir(), &hex, &self.dir, &hex, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).call_at("linkat", self.store.blob_path(digest)),
        }
    }

    /// Makes a blob that is here one of the store's. The caller is [writing](Store::writing). A damaged one is replaced.
    pub(crate) fn admit(&self, digest: &Digest, size: u64) -> Result<()> {
        let (hex, blobs) = (digest.hex(), self.store.blobs_dir());
        let path = || self.store.blob_path(digest);
        match rustix::fs::linkat(&self.dir, &hex, blobs, &hex, AtFlags::empty()) {
            Err(Errno::EXIST) => {}
            other => return other.call_at("linkat", path()),
        }
        let inode = |dir: std::os::fd::BorrowedFd<'_>| -> Result<_> {
            let stat = rustix::fs::statat(dir, &hex, AtFlags::SYMLINK_NOFOLLOW).call_at("fstatat", path())?;
            Ok((stat.st_dev, stat.st_ino))
        };
        if inode(self.dir.as_fd())? == inode(blobs)? || self.store.is_sound(digest, size)? {
            return Ok(());
        }
        // A rename onto the name, as a link can't replace one.
        let other = random_hex(8)?;
        rustix::fs::linkat(&self.dir, &hex, &self.dir, &other, AtFlags::empty()).call_at("linkat", path())?;
        rustix::fs::renameat(&self.dir, &other, blobs, &hex).call_at("renameat", path())
    }

    /// Opens a blob that is here.
    ///
    /// # Errors
    /// `NotFound` when it is not.
    pub(crate) fn open(&self, digest: &Digest) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = self.path(&digest.hex());
        let file =
            rustix::fs::openat(&self.dir, digest.hex(), flags, Mode::empty()).call_at("openat", path)?;
        Ok(file.into())
    }

    /// Removes a file. Missing is fine.
    pub(crate) fn remove(&self, name: &str) {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                let error = Error::os("unlinkat", errno).with_path(self.path(name));
                tracing::warn!(%error, "what arrived and is not needed stays until its inbox goes");
            }
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.store.abandon(&self.name);
    }
}

impl Arriving {
    /// Writes all of it, or leaves what was written to the next [`Inbox::write`] to cut off.
    ///
    /// # Errors
    /// `StorageFull` where less of the disk would stay free than is to.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => {
                    return Err(Error::new(ErrorKind::Io, "write: nothing was taken").with_path(&self.path));
                }
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).call_at("write", &self.path),
            }
        }
        self.room.take(&self.file, bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn holds(store: &Store, digest: &Digest) -> bool {
        store.blob_size(digest).unwrap().is_some()
    }

    #[test]
    fn what_is_kept_outlives_a_collection_and_comes_back() {
        let store = Store::temp().unwrap();
        let inbox = store.inbox().unwrap();
        let digest = store.put_blob(b"of the store").unwrap();
        assert!(inbox.keep(&digest).unwrap() && inbox.keep(&digest).unwrap());
        assert!(!inbox.keep(&Digest::of(b"unknown")).unwrap());
        store.collect_garbage().unwrap();
        assert!(!holds(&store, &digest));
        let mut text = String::new();
        inbox.open(&digest).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "of the store");
        inbox.admit(&digest, 12).unwrap();
        assert!(store.is_sound(&digest, 12).unwrap());
        inbox.admit(&digest, 12).unwrap();
    }

    #[test]
    fn what_arrives_goes_on_where_it_was_and_replaces_what_is_damaged() {
        let store = Store::temp().unwrap();
        let inbox = store.inbox().unwrap();
        inbox.write("upload", 0).unwrap().write(b"half and more").unwrap();
        inbox.write("upload", 4).unwrap().write(b" whole").unwrap();
        let digest = Digest::of(b"half whole");
        std::fs::write(store.blob_path(&digest), b"half wrong").unwrap();
        inbox.settle("upload", &digest).unwrap();
        inbox.admit(&digest, 10).unwrap();
        assert!(store.is_sound(&digest, 10).unwrap());
        let names = super::super::list(inbox.dir.as_fd()).unwrap();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn an_inbox_goes_with_its_program() {
        let store = Store::temp().unwrap();
        let tmp = store.path().join("tmp");
        let count = || std::fs::read_dir(&tmp).unwrap().count();
        let inbox = store.inbox().unwrap();
        inbox.write("upload", 0).unwrap().write(b"x").unwrap();
        store.sweep().unwrap();
        assert_eq!(count(), 1);
        drop(inbox);
        assert_eq!(count(), 0);
        // One that was not dropped: nobody has the lease.
        std::fs::create_dir(tmp.join("dead")).unwrap();
        std::fs::write(tmp.join("dead/upload"), b"x").unwrap();
        store.sweep().unwrap();
        assert_eq!(count(), 0);
    }
}
