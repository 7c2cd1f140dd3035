//! Garbage: blobs and unpacked layers that nothing needs any more.
//!
//! Needed is what the index names, what containers pin, what builds have made (`cache.rs`), what somebody has leased (an image
//! handle leases its manifest, a layer handle its blob), and all that these lead to. Whoever writes blobs
//! that no index names yet holds [`Store::writing`]; nothing is collected meanwhile.
#![forbid(unsafe_code)]

use super::cache::Cached;
use super::{Lease, Place, Store};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{DOCUMENT_MAX, Document, ImageConfig, media};
use std::collections::HashSet;
use std::os::fd::AsFd;

/// Says that blobs are being written which no index names yet.
#[derive(Debug)]
pub(crate) struct Writing(#[expect(dead_code)] Lease);

impl Store {
    /// Holds the garbage collection back.
    pub(crate) fn writing(&self) -> Result<Writing> {
        Ok(Writing(Lease::lock_file(self.locks_dir(), "gc")?.share()?))
    }

    /// Leases a blob: it is not collected while this lives.
    ///
    /// # Errors
    /// `NotFound` when the store has no such blob.
    pub(crate) fn lease_blob(&self, digest: &Digest) -> Result<Lease> {
        Lease::shared(self.0.blobs.as_fd(), digest.hex())
            .map_err(|error| error.with_path(self.blob_path(digest)))?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such blob").with_path(self.blob_path(digest)))
    }

    /// Removes what nothing needs, and gives the bytes of the blobs that went. While somebody
    /// is [`writing`](Store::writing), nothing is removed; the next collection does it.
    pub(crate) fn collect_garbage(&self) -> Result<u64> {
        let lock = Lease::lock_file(self.locks_dir(), "gc")?;
        if !lock.try_lock().map_err(|error| error.with_path(self.path().join("locks/gc")))? {
            tracing::debug!(store = ?self.path(), "somebody is writing: garbage stays for now");
            return Ok(0);
        }
        let mut live = Live::default();
        self.mark_needed(&mut live)?;
        let blobs = self.blobs()?;
        let (mut doomed, mut leased) = (Vec::new(), Vec::new());
        for digest in blobs.iter().filter(|digest| !live.blobs.contains(digest)) {
            match Lease::try_exclusive(self.0.blobs.as_fd(), digest.hex()) {
                Ok(lease) => doomed.extend(lease.map(|lease| (digest, Some(lease)))),
                // A link: nothing of ours, and nothing that can be locked.
                Err(error) if is_link(&error) => doomed.push((digest, None)),
                Err(error) if error.kind() == ErrorKind::InUse => leased.push(*digest),
                Err(error) => return Err(error),
            }
        }
        for digest in &leased {
            self.mark(digest, &mut live)?;
        }
        // Whoever let go of a lease since then has first written where the image is needed from now on: a name, a container.
        self.mark_needed(&mut live)?;
        let mut freed = 0;
        for (digest, _lease) in doomed.iter().filter(|(digest, _)| !live.blobs.contains(digest)) {
            freed += self.blob_size(digest)?.unwrap_or(0);
            self.remove_blob(digest)?;
        }
        for key in self.layer_keys()? {
            if live.layers.contains(&key) || self.is_live(&key, &live)? {
                continue;
            }
            match self.remove_layer(&key) {
                Err(error) if error.kind() == ErrorKind::InUse => {}
                // Of ids that this program has not: a sweep of one that has them removes it.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    tracing::warn!(%error, %key, store = ?self.path(), "an unpacked layer with other programs' ids stays in tmp/");
                }
                other => other?,
            }
        }
        Ok(freed)
    }

    /// Whether an unpacked layer is one of the live ones, with other ids on disk than the image's.
    fn is_live(&self, key: &Digest, live: &Live) -> Result<bool> {
        let place = self.layer(key).and_then(|layer| layer.map(|layer| layer.meta::<Place>()).transpose());
        match place {
            Ok(place) => {
                Ok(place.and_then(|place| place.of(key)).is_some_and(|id| live.layers.contains(&id)))
            }
            // What nobody can use is unpacked again.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Marks what has a name, what containers pin, and what builds have made.
    fn mark_needed(&self, live: &mut Live) -> Result<()> {
        self.mark_named(live)?;
        for cached in self.all_cached()? {
            self.mark(&cached.manifest, live)?;
        }
        Ok(())
    }

    /// The blobs that are needed whether or not anybody builds.
    pub(super) fn needed_blobs(&self) -> Result<HashSet<Digest>> {
        let mut live = Live::default();
        self.mark_named(&mut live)?;
        Ok(live.blobs)
    }

    /// The bytes of what a step has given and that is not among `counted` yet; then it is.
    pub(super) fn uncounted(&self, cached: &Cached, counted: &mut HashSet<Digest>) -> Result<u64> {
        let mut live = Live { blobs: HashSet::new(), layers: HashSet::new() };
        self.mark(&cached.manifest, &mut live)?;
        let mut size = 0;
        for digest in live.blobs {
            if counted.insert(digest) {
                size += self.blob_size(&digest)?.unwrap_or(0);
            }
        }
        Ok(size)
    }

    fn mark_named(&self, live: &mut Live) -> Result<()> {
        for descriptor in self.index()?.manifests {
            self.mark(&descriptor.digest, live)?;
        }
        for (_, pins) in self.pins()? {
            if let Some(digest) = pins.image {
                self.mark(&digest, live)?;
            }
        }
        Ok(())
    }

    /// Marks a blob and all it leads to.
    fn mark(&self, digest: &Digest, live: &mut Live) -> Result<()> {
        let mut todo = vec![*digest];
        while let Some(digest) = todo.pop() {
            if !live.blobs.insert(digest) {
                continue;
            }
            match self.read_document(&digest)?.map(Document::parse) {
                Some(Ok(Document::Index(index))) => {
                    todo.extend(index.manifests.iter().map(|child| child.digest))
                }
                Some(Ok(Document::Manifest(manifest))) => {
                    live.blobs.extend(manifest.layers().iter().map(|layer| layer.digest));
                    let config = manifest.config();
                    live.blobs.insert(config.digest);
                    if media::is_config(&config.media_type)
                        && let Some(raw) = self.read_document(&config.digest)?
                        && let Ok(config) = ImageConfig::parse(raw)
                    {
                        let chain_ids = config.chain_ids();
                        live.layers.extend(config.diff_ids().iter().chain(&chain_ids));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A blob that may be JSON. What is missing or broken leads nowhere; what can't be read for
    /// another reason stops the collection, else a lack of descriptors would look like a lack of images.
    fn read_document(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        if self.blob_size(digest)?.is_none_or(|size| size > DOCUMENT_MAX) {
            return Ok(None);
        }
        match self.read_blob_small(digest, DOCUMENT_MAX) {
            Ok(raw) => Ok(raw.starts_with(b"{").then_some(raw)),
            Err(error)
                if is_link(&error)
                    || matches!(
                        error.kind(),
                        ErrorKind::NotFound
                            | ErrorKind::Mismatch
                            | ErrorKind::TooLarge
                            | ErrorKind::InvalidData
                    ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What O_NOFOLLOW says of a symbolic link.
fn is_link(error: &Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

#[derive(Default)]
struct Live {
    blobs: HashSet<Digest>,
    /// The diff_ids and chain_ids of layers.
    layers: HashSet<Digest>,
}
