//! Blobs: immutable content under its digest.
#![forbid(unsafe_code)]

use super::{Lease, Room, Store};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// So many bytes are read at a time to hash a blob.
const HASHED: usize = 256 << 10;

/// Writes a blob: hashes and counts what passes, and publishes it under its digest at the end.
/// Dropped before that, it leaves nothing.
pub(crate) struct BlobWriter {
    store: Store,
    lease: Lease,
    /// The name in `tmp/`; `None` once published.
    name: Option<String>,
    hasher: Sha256,
    size: u64,
    room: Room,
}

impl BlobWriter {
    /// Publishes the blob. `expected`: digest and size that were promised.
    ///
    /// # Errors
    /// `Mismatch` when the content is not what was promised; nothing is published then.
    pub(crate) fn finish(mut self, expected: Option<(Digest, u64)>) -> Result<(Digest, u64)> {
        let digest = Digest::finish(std::mem::take(&mut self.hasher));
        if let Some((promised, size)) = expected {
            check(&promised, size, &digest, self.size)?;
        }
        if let Some(name) = &self.name {
            let (tmp, blobs, hex) = (self.store.tmp_dir(), &self.store.0.blobs, digest.hex());
            let published = match rustix::fs::renameat_with(tmp, name, blobs, &hex, RenameFlags::NOREPLACE) {
                // A blob that is there may be leased, so it stays; one that is damaged or cut short is replaced.
                Err(Errno::EXIST) if self.store.is_sound(&digest, self.size)? => Ok(false),
                // EINVAL: a file system without the flag.
                Err(Errno::EXIST | Errno::INVAL) => {
                    rustix::fs::renameat(tmp, name, blobs, &hex).map(|()| true)
                }
                other => other.map(|()| true),
            };
            if published.call_at("renameat2", self.store.blob_path(&digest))? {
                self.name = None;
            }
        }
        Ok((digest, self.size))
    }

    /// The bytes that have been written so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Compares content with its promise.
pub(crate) fn check(promised: &Digest, promised_size: u64, digest: &Digest, size: u64) -> Result<()> {
    if size != promised_size {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("blob {promised}: {size} bytes instead of the promised {promised_size}"),
        ));
    }
    if digest != promised {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("blob {promised}: its content has digest {digest}"),
        ));
    }
    Ok(())
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = match self.lease.file().write(bytes) {
            // As `Write` has it, so that the caller tries again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            other => other.call_at("write", self.store.path().join("tmp"))?,
        };
        let room = self.room.take(self.lease.file(), n as u64);
        room.map_err(|error| error.with_path(self.store.path().join("tmp")))?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = rustix::fs::unlinkat(self.store.tmp_dir(), name, AtFlags::empty())
        {
            tracing::warn!(%error, name, "half-made blob stays until the next sweep");
        }
    }
}

impl Store {
    pub(crate) fn blob_writer(&self) -> Result<BlobWriter> {
        let (lease, name) = self.new_tmp_file().map_err(|error| error.during("making a blob"))?;
        Ok(BlobWriter {
            store: self.clone(),
            lease,
            name: Some(name),
            hasher: Sha256::new(),
            size: 0,
            room: Room::default(),
        })
    }

    /// Stores bytes that are at hand.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).call("write")?;
        Ok(writer.finish(None)?.0)
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound` when the store has no such blob.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.blob_path(digest);
        let file =
            rustix::fs::openat(&self.0.blobs, digest.hex(), flags, Mode::empty()).call_at("openat", &path)?;
        let file = File::from(file);
        if !file.metadata().call_at("fstat", &path)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidData, "blob: not a regular file").with_path(path));
        }
        Ok(file)
    }

    /// The size of a blob; `None` when the store has no such blob. A blob that no index names may
    /// have been cut short by a power failure: compare the size before trusting it.
    pub(crate) fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        match rustix::fs::statat(&self.0.blobs, digest.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            other => Ok(Some(other.call_at("fstatat", self.blob_path(digest))?.st_size as u64)),
        }
    }

    /// Whether the store has this blob with its right content, which is read whole: what stands on a disk may have
    /// changed since it was written.
    pub(crate) fn is_sound(&self, digest: &Digest, size: u64) -> Result<bool> {
        if self.blob_size(digest)? != Some(size) {
            return Ok(false);
        }
        match self.hash_blob(digest) {
            Ok(found) => Ok(found == *digest),
            // No file, or one that the disk doesn't give any more.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::InvalidData
                        | ErrorKind::PermissionDenied
                        | ErrorKind::Io
                ) =>
            {
                tracing::debug!(%error, %digest, "a blob that can't be read");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The digest that a blob's content has now.
    pub(crate) fn hash_blob(&self, digest: &Digest) -> Result<Digest> {
        let mut file = self.open_blob(digest)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; HASHED];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Digest::finish(hasher)),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).call_at("read", self.blob_path(digest)),
            }
        }
    }

    /// What to do about a blob that is not what it should be.
    pub(crate) const HEAL: &str =
        "load or import the image again, which replaces damaged blobs; or remove the image";

    /// Reads a manifest or a configuration and verifies its digest.
    ///
    /// # Errors
    /// `TooLarge` above `max` bytes, `Mismatch` for other content than the digest says.
    pub(crate) fn read_blob_small(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        self.open_blob(digest)?.take(max + 1).read_to_end(&mut bytes).call_at("read", &path)?;
        if bytes.len() as u64 > max {
            return Err(
                Error::new(ErrorKind::TooLarge, format!("blob of more than {max} bytes")).with_path(path)
            );
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("blob {digest}: its content has digest {found}"),
            )
            .with_path(path)
            .with_remedy(Self::HEAL));
        }
        Ok(bytes)
    }

    /// The content of a blob without reading it: finished blobs never change.
    pub(crate) fn map_blob(&self, digest: &Digest) -> Result<Bytes> {
        let file = self.open_blob(digest)?;
        crate::sys::map::immutable(&file).call_at("mmap", self.blob_path(digest))
    }

    /// Removes a blob. Missing is fine.
    pub(crate) fn remove_blob(&self, digest: &Digest) -> Result<()> {
        match rustix::fs::unlinkat(&self.0.blobs, digest.hex(), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other.call_at("unlinkat", self.blob_path(digest)),
        }
    }

    /// The digests of all blobs.
    pub(crate) fn blobs(&self) -> Result<Vec<Digest>> {
        use std::os::fd::AsFd;
        Ok(super::list(self.0.blobs.as_fd())?
            .iter()
            .filter_map(|name| format!("sha256:{}", name.to_str()?).parse().ok())
            .collect())
    }
}
