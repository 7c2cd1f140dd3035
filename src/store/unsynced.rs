//! Layers that are not on the disk yet: those of a build's steps, which are synced once, at its end, and that of a commit, whose
//! blob is: it need not be written twice for the disk.
//!
//! Such a layer has a file `unsynced` beside its files, with the number of the boot in it. A filesystem keeps the order of names, so
//! whoever finds the layer finds the mark; and as long as the machine has not been started again, what was written can be read
//! whether or not it is on the disk. After that the layer counts as none, and is unpacked again.
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
use super::UnpackedLayer;
use super::{Lease, Store};
use crate::error::{Call, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

const MARK: &str = "unsynced";
/// proc_sys_kernel(5).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The number of this boot; `None` where the kernel does not tell.
fn boot() -> Option<&'static str> {
    static BOOT_ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || std::fs::read_to_string(BOOT).ok().filter(|id| id.len() > 8);
    BOOT_ID.get_or_init(read).as_deref()
}

/// As long as this is there, layers that are published are marked and not synced.
pub(crate) struct Deferred<'a>(&'a Store);

impl Drop for Deferred<'_> {
    fn drop(&mut self) {
        self.0.0.deferring.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Store {
    /// Puts off syncing layers. Whoever names their image in the index has [synced](Store::sync) all then and says so of each
    /// ([`UnpackedLayer::settle`]), or their [blobs](Store::sync_blobs) alone: then they are unpacked again after the machine
    /// was started anew.
    pub(crate) fn defer(&self) -> Deferred<'_> {
        self.0.deferring.fetch_add(1, Ordering::Relaxed);
        Deferred(self)
    }

    /// Before a layer that lies in this directory is published.
    pub(super) fn sync_or_mark(&self, layer: BorrowedFd<'_>) -> Result<()> {
        let Some(boot) = boot().filter(|_| self.0.deferring.load(Ordering::Relaxed) > 0) else {
            return self.sync();
        };
        if self.is_temporary() {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(layer, MARK, flags, Mode::RUSR | Mode::WUSR)
            .call_at("openat(O_CREAT)", MARK)?;
        File::from(file).write_all(boot.as_bytes()).call_at("write", MARK)
    }

    /// Whether a layer was not on the disk when the machine stopped, or lost its attributes on its way here. Then it is removed,
    /// if nobody has it.
    pub(super) fn is_lost(&self, layer: Lease, name: &str) -> Result<Option<Lease>> {
        if self.is_synced(&layer)? && self.has_attributes(&layer)? {
            return Ok(Some(layer));
        }
        drop(layer);
        let layers = self.0.layers.as_fd();
        match Lease::exclusive_soon(layers, name) {
            Ok(Some(_lease)) => self.discard(layers, name)?,
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::InUse => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn is_synced(&self, layer: &Lease) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut text = String::new();
        match rustix::fs::openat(layer.as_fd(), MARK, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(true),
            other => {
                let file = File::from(other.call_at("openat", MARK)?);
                // What was cut short, or is no text, is not this boot's either.
                let _ = file.take(256).read_to_string(&mut text);
            }
        }
        Ok(boot().is_some_and(|boot| boot == text))
    }
}

#[cfg(feature = "build")]
impl UnpackedLayer {
    /// It is on the disk by now.
    pub(crate) fn settle(&self) -> Result<()> {
        match rustix::fs::unlinkat(self.directory(), MARK, rustix::fs::AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other.call_at("unlinkat", MARK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::UnpackedLayer;
    use super::*;
    use crate::digest::Digest;

    fn published(store: &Store, key: &Digest) -> UnpackedLayer {
        store.stage_layer().unwrap().publish(key, &"meta").unwrap()
    }

    #[cfg(feature = "build")]
    #[test]
    fn what_was_not_synced_before_the_machine_stopped_is_no_layer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let (key, synced) = (Digest::of(b"a"), Digest::of(b"b"));
        let deferred = store.defer();
        drop(published(&store, &key));
        drop(deferred);
        drop(published(&store, &synced));
        assert!(store.layer(&key).unwrap().is_some(), "it is the same boot");
        let mark = dir.path().join("store/layers").join(key.hex()).join(MARK);
        for other in ["", "other boot"] {
            std::fs::write(&mark, other).unwrap();
            assert!(store.layer(&key).unwrap().is_none(), "{other:?}");
            let _deferred = store.defer();
            drop(published(&store, &key));
        }
        let layer = store.layer(&key).unwrap().unwrap();
        layer.settle().unwrap();
        layer.settle().unwrap();
        assert!(!mark.exists() && store.layer(&synced).unwrap().is_some());
    }

    #[test]
    fn a_layer_that_is_synced_has_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let key = Digest::of(b"a");
        drop(published(&store, &key));
        assert!(!dir.path().join("store/layers").join(key.hex()).join(MARK).exists());
    }
}
