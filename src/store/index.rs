//! `oci-layout` and `index.json`: which images there are and how they are called.
#![forbid(unsafe_code)]

use super::{LAYOUT, Lease, Store};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::manifest::{CONTAINERD_NAME, DOCUMENT_MAX, Descriptor, Index, ORIGIN, REF_NAME};
use crate::reference::Reference;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};

pub(super) const INDEX: &str = "index.json";
const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

impl Store {
    pub(super) fn init_layout(&self) -> Result<()> {
        // One that is whole is only read: it may be on a read-only filesystem.
        let is_whole = || -> Result<bool> {
            Ok(self.read_root_file(LAYOUT, 1)?.is_some() && self.read_root_file(INDEX, 1)?.is_some())
        };
        let _lock = match is_whole()? {
            true => None,
            false => Some(self.lock_index()?),
        };
        match self.read_root_file(LAYOUT, 4096)? {
            None => self.write_root_file(LAYOUT, VERSION.as_bytes())?,
            Some(text) => {
                let version = serde_json::from_slice::<serde_json::Value>(&text)
                    .ok()
                    .and_then(|layout| layout["imageLayoutVersion"].as_str().map(str::to_owned));
                if version.as_deref().is_none_or(|version| !version.starts_with("1.")) {
                    return Err(Error::new(ErrorKind::Unsupported, "image layout of another version than 1")
                        .with_path(self.path().join(LAYOUT)));
                }
            }
        }
        if self.read_root_file(INDEX, 1)?.is_none() {
            self.write_root_file(INDEX, &Index::default().encode()?)?;
        }
        Ok(())
    }

    /// The index as it is now.
    pub(crate) fn index(&self) -> Result<Index> {
        let text = self.read_root_file(INDEX, DOCUMENT_MAX + 1)?.unwrap_or_default();
        Index::parse(&text).map_err(|error| error.with_path(self.path().join(INDEX)))
    }

    /// Changes the index; nobody else does meanwhile. When `change` fails, or changes nothing,
    /// nothing is written. What the change names has to be [synced](Store::sync) before.
    pub(crate) fn update_index<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let _lock = self.lock_index()?;
        let mut index = self.index()?;
        let before = index.encode()?;
        let result = change(&mut index)?;
        let after = index.encode()?;
        if after.len() as u64 > DOCUMENT_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("index of more than {DOCUMENT_MAX} bytes"))
                .with_path(self.path().join(INDEX))
                .with_remedy("remove images"));
        }
        if after != before {
            self.write_root_file(INDEX, &after)?;
        }
        Ok(result)
    }

    fn lock_index(&self) -> Result<Lease> {
        Lease::exclusive_file(self.locks_dir(), "index")
            .map_err(|error| error.with_path(self.path().join("locks/index")).during("locking the index"))
    }

    /// At most `max` bytes of a file at the top of the store.
    fn read_root_file(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = || self.path().join(name);
        let file = match rustix::fs::openat(self.dir(), name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other.call_at("openat", path())?),
        };
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes).call_at("read", path())?;
        Ok(Some(bytes))
    }

    /// Replaces a file at the top of the store, in one step.
    fn write_root_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (mut lease, temporary) = self.new_tmp_file()?;
        let mut replace = || {
            lease.file_mut().write_all(bytes).call_at("write", self.path().join(name))?;
            if !self.is_temporary() {
                lease.file().sync_data().call_at("fdatasync", self.path().join(name))?;
            }
            rustix::fs::renameat(self.tmp_dir(), &temporary, self.dir(), name)
                .call_at("renameat", self.path().join(name))
        };
        replace().inspect_err(|_| {
            // The disk is full, as a rule: what is half written goes at once. If not, the next sweep takes it.
            let _ = rustix::fs::unlinkat(self.tmp_dir(), &temporary, AtFlags::empty());
        })
    }
}

/// The name that an index gives to an image, if it is one that an image can have.
pub(crate) fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotation = |key| descriptor.annotations.get(key);
    annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME))?.parse().ok()
}

/// What the name of an entry led to in its registry, where that was an index.
pub(crate) fn origin_of(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.annotations.get(ORIGIN)?.parse().ok()
}

/// Gives `name` to the image of `descriptor`, and takes it from another. That one stays, without a
/// name when this was its last, as docker leaves it.
pub(crate) fn set_name(index: &mut Index, descriptor: &Descriptor, name: Option<&Reference>) {
    let mut descriptor = descriptor.clone();
    descriptor.annotations.remove(REF_NAME);
    descriptor.annotations.remove(CONTAINERD_NAME);
    if let Some(name) = name {
        take_name(index, name);
        descriptor.annotations.insert(REF_NAME.to_owned(), name.familiar());
        // A name replaces the entry without one.
        index
            .manifests
            .retain(|other| other.digest != descriptor.digest || other.annotations.contains_key(REF_NAME));
    } else if index.manifests.iter().any(|other| other.digest == descriptor.digest) {
        return;
    }
    index.manifests.push(descriptor);
}

/// Takes a name away. The image stays, without a name when this was its last. Gives its manifest.
pub(crate) fn take_name(index: &mut Index, name: &Reference) -> Option<Digest> {
    let at = index.manifests.iter().position(|other| name_of(other).as_ref() == Some(name))?;
    let mut old = index.manifests.remove(at);
    let digest = old.digest;
    if !index.manifests.iter().any(|other| other.digest == digest) {
        old.annotations.remove(REF_NAME);
        old.annotations.remove(CONTAINERD_NAME);
        index.manifests.insert(at, old);
    }
    Some(digest)
}
