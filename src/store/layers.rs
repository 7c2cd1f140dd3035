//! Unpacked layers: `layers/KEY/fs`, where KEY is the hex of
//! - the layer's **diff_id** when the layer stands by itself, or
//! - its **chain_id** when what was unpacked also came from the layers below (a hard link to a file
//!   there, the metadata of a parent directory that this layer's archive does not have).
//!
//! Except as root with its capabilities, the files have other ids on disk than in the image: of sub-ids, or the one id
//! that there is. For each such map a layer is unpacked by itself, see [`Base`].
#![forbid(unsafe_code)]

use super::{Lease, Store};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::idmap::IdMap;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

const META: &str = "meta.json";
/// Metadata lists device nodes and the like; more than this is not a layer's.
const META_MAX: u64 = 64 << 20;

/// Which ids the files of an unpacked layer have on disk: the image's own, or what a user namespace's map makes of
/// them. A layer of one map must not be taken for the same layer under another: sub-ids are given or taken away,
/// newuidmap is installed, root works once with its capabilities and once without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base(Option<String>);

impl Base {
    /// The ids of this map; see [`IdMap`].
    pub(crate) fn of(map: &IdMap) -> Self {
        let text = |extents| IdMap::text(extents).trim_end().replace('\n', ", ");
        Self(Some(format!("users {}; groups {}", text(&map.users), text(&map.groups))))
    }

    /// Under what a layer with these ids is filed, by its diff_id or chain_id.
    pub(crate) fn file(&self, key: &Digest) -> Digest {
        match &self.0 {
            None => *key,
            Some(ids) => Digest::of(format!("{key} with ids {ids}").as_bytes()),
        }
    }
}

/// The part of a layer's metadata that says where it belongs; the rest is the layer room's business.
#[derive(Debug, Deserialize)]
pub(crate) struct Place {
    #[serde(default)]
    base: Base,
    diff_id: Option<Digest>,
    chain_id: Option<Digest>,
}

impl Place {
    /// The diff_id or chain_id that a layer which is filed under `key` has; `None`: it should not be there.
    pub(crate) fn of(&self, key: &Digest) -> Option<Digest> {
        [self.diff_id, self.chain_id].into_iter().flatten().find(|id| self.base.file(id) == *key)
    }
}

/// A layer being unpacked. Dropped before [`publish`](StagedLayer::publish), it is removed.
pub(crate) struct StagedLayer {
    store: Store,
    lease: Option<Lease>,
    name: String,
    fs: OwnedFd,
}

impl StagedLayer {
    #[cfg(test)]
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.store.path().join("tmp").join(&self.name).join("fs")
    }

    /// The directory to unpack into: mode 0755, owned by the caller.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.fs.as_fd()
    }

    /// Publishes the layer under `key`. When another process was first, theirs is used and this one removed.
    pub(crate) fn publish(mut self, key: &Digest, meta: &impl Serialize) -> Result<UnpackedLayer> {
        let Some(lease) = &self.lease else {
            return Err(Error::new(ErrorKind::State, "a layer is published once"));
        };
        if let Some(theirs) = self.store.layer(key)? {
            return Ok(theirs);
        }
        let text = encode(meta, META_MAX)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(lease, META, flags, Mode::RUSR | Mode::WUSR).call_at("openat", META)?;
        File::from(file).write_all(&text).call_at("write", META)?;
        self.store.mark_attributes(lease.as_fd())?;
        self.store.sync_or_mark(lease.as_fd())?;
        // A directory that has entries is never replaced by rename.
        match rustix::fs::renameat(self.store.tmp_dir(), &self.name, &self.store.0.layers, key.hex()) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                return self.store.layer(key)?.ok_or_else(|| {
                    Error::new(ErrorKind::InUse, "a layer is being removed while it is made again")
                        .with_path(self.store.layer_path(key))
                });
            }
            Err(errno) => return Err(errno).call_at("renameat", self.store.layer_path(key)),
        }
        let fs = self.fs.try_clone().call("dup")?;
        // The same lock goes on as the lease of the published layer.
        match self.lease.take() {
            Some(lease) => {
                Ok(UnpackedLayer(Arc::new(Unpacked { lease, fs, key: *key, store: self.store.clone() })))
            }
            None => Err(Error::new(ErrorKind::State, "a layer is published once")),
        }
    }
}

/// What is longer than `max` could not be read again: no more of it is ever in memory.
fn encode(meta: &impl Serialize, max: u64) -> Result<Vec<u8>> {
    let mut text = Bounded { text: Vec::new(), max };
    serde_json::to_writer(&mut text, meta).map_err(|error| match error.is_io() {
        true => Error::new(ErrorKind::TooLarge, format!("layer with more than {max} bytes of metadata")),
        false => Error::new(ErrorKind::InvalidData, "encoding a layer's metadata").with_source(error),
    })?;
    Ok(text.text)
}

struct Bounded {
    text: Vec<u8>,
    max: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.text.len() + bytes.len()) as u64 > self.max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for StagedLayer {
    fn drop(&mut self) {
        if self.lease.is_some() {
            self.store.abandon(&self.name);
        }
    }
}

/// A layer that is unpacked in the store. It is not removed while this exists, in any process.
#[derive(Clone)]
pub(crate) struct UnpackedLayer(Arc<Unpacked>);

struct Unpacked {
    lease: Lease,
    fs: OwnedFd,
    key: Digest,
    store: Store,
}

impl UnpackedLayer {
    /// The directory of its files.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.0.fs.as_fd()
    }

    pub(crate) fn fs_path(&self) -> PathBuf {
        self.0.store.layer_path(&self.0.key).join("fs")
    }

    /// The directory that has that and its metadata.
    #[cfg(feature = "build")]
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.0.lease.as_fd()
    }

    /// Under what it is filed: its diff_id or its chain_id, or what its [`Base`] makes of them.
    pub(crate) fn key(&self) -> &Digest {
        &self.0.key
    }

    /// What [`StagedLayer::publish`] wrote beside the files.
    pub(crate) fn meta<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.0.store.layer_path(&self.0.key).join(META);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0.lease, META, flags, Mode::empty()).call_at("openat", &path)?;
        let mut text = Vec::new();
        File::from(file).take(META_MAX).read_to_end(&mut text).call_at("read", &path)?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::InvalidData, "metadata of a layer").with_path(path).with_source(error)
        })
    }
}

impl fmt::Debug for UnpackedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UnpackedLayer").field(&self.0.key).finish()
    }
}

impl Store {
    /// An empty directory for a layer to be unpacked into.
    pub(crate) fn stage_layer(&self) -> Result<StagedLayer> {
        let (lease, name) = self.new_tmp_dir().map_err(|error| error.during("making a layer"))?;
        let made = rustix::fs::mkdirat(&lease, "fs", Mode::RWXU)
            .call_at("mkdirat", "fs")
            .and_then(|()| super::open_dir(lease.as_fd(), "fs"))
            .and_then(|fs| {
                // The mode of the image's root directory, whatever the umask is.
                rustix::fs::fchmod(&fs, Mode::from_raw_mode(0o755)).call_at("fchmod", "fs")?;
                Ok(fs)
            });
        match made {
            Ok(fs) => Ok(StagedLayer { store: self.clone(), lease: Some(lease), name, fs }),
            Err(error) => {
                self.abandon(&name);
                Err(error)
            }
        }
    }

    /// The unpacked layer under `key`, leased; `None` where there is none.
    pub(crate) fn layer(&self, key: &Digest) -> Result<Option<UnpackedLayer>> {
        let Some(lease) = Lease::shared(self.0.layers.as_fd(), key.hex())? else { return Ok(None) };
        let Some(lease) = self.is_lost(lease, &key.hex())? else { return Ok(None) };
        let fs = match super::open_dir(lease.as_fd(), "fs") {
            // An ordinary user's, whose root directory belongs to a sub-id and is closed to others: for paths in it.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&lease, "fs", flags, Mode::empty()).call_at("openat", "fs")?
            }
            other => other?,
        };
        Ok(Some(UnpackedLayer(Arc::new(Unpacked { lease, fs, key: *key, store: self.clone() }))))
    }

    /// Removes an unpacked layer. Missing is fine.
    ///
    /// # Errors
    /// `InUse` while anybody has it leased.
    pub(crate) fn remove_layer(&self, key: &Digest) -> Result<()> {
        match Lease::try_exclusive(self.0.layers.as_fd(), key.hex())? {
            Some(_lease) => self.discard(self.0.layers.as_fd(), key.hex()),
            None => Ok(()),
        }
    }

    /// The names of the directories of unpacked layers.
    pub(crate) fn layer_names(&self) -> Result<Vec<std::ffi::OsString>> {
        super::list(self.0.layers.as_fd())
    }

    /// The keys of all unpacked layers.
    pub(crate) fn layer_keys(&self) -> Result<Vec<Digest>> {
        Ok(super::list(self.0.layers.as_fd())?
            .iter()
            .filter_map(|name| format!("sha256:{}", name.to_str()?).parse().ok())
            .collect())
    }

    fn layer_path(&self, key: &Digest) -> PathBuf {
        self.path().join("layers").join(key.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_ends_where_it_could_not_be_read_again() {
        // Each of them seven bytes with its quotes and comma.
        let names = |count: usize| vec!["name"; count];
        assert_eq!(encode(&names(10), 71).unwrap().len(), 71);
        let error = encode(&names(11), 71).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        let mut text = Bounded { text: Vec::new(), max: 71 };
        serde_json::to_writer(&mut text, &names(1_000_000)).unwrap_err();
        assert!(text.text.len() <= 71 && text.text.capacity() < 1000);
    }
}
