//! Garbage: blobs and unpacked layers that nothing needs any more.
//!
//! Needed is what the index names, what containers pin, what builds have made (`cache.rs`), what somebody has leased (an image
//! handle leases its manifest, a layer handle its blob), and all that these lead to. Whoever writes blobs
//! that no index names yet holds [`Store::writing`]; nothing is collected meanwhile.
//!
//! Each blob is locked while it is looked whether it may go, and no longer, as a lock costs a descriptor. So a document goes before
//! all that it leads to: when the turn comes to a blob, whatever led to it is gone, or in use and all below it marked.
#![forbid(unsafe_code)]

use super::cache::Cached;
use super::{Lease, Place, Store};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::manifest::{DOCUMENT_MAX, Document, ImageConfig, media};
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// So many documents are locked at once: what is needed is looked up anew for all of them together, and descriptors are the
/// whole program's.
const LOCKED_MAX: usize = 32;

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
        let Unmarked { documents, others } = self.unmarked(&live)?;
        let mut freed = self.remove_documents(&documents, &mut live)?;
        // Nothing can lead to one of these any more but what is marked, as nobody writes.
        for digest in others {
            if !live.blobs.contains(&digest)
                && let Some(_seized) = self.seize(&digest, &mut live)?
            {
                freed += self.remove_garbage(&digest)?;
            }
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

    /// The blobs that are not marked.
    fn unmarked(&self, live: &Live) -> Result<Unmarked> {
        let (mut first, mut links, mut others) = (Vec::new(), HashMap::new(), Vec::new());
        for digest in self.blobs()?.into_iter().filter(|digest| !live.blobs.contains(digest)) {
            match self.read_document(&digest).map(|raw| raw.map(Document::parse)) {
                Ok(Some(Ok(document))) => _ = links.insert(digest, links_of(&document)),
                Ok(_) => others.push(digest),
                // What it leads to the disk doesn't tell any more.
                Err(error) if error.kind() == ErrorKind::Io => first.push(digest),
                Err(error) => return Err(error),
            }
        }
        first.extend(in_order(&links));
        Ok(Unmarked { documents: first, others })
    }

    /// Removes what nobody uses of these documents, and gives their bytes.
    fn remove_documents(&self, documents: &[Digest], live: &mut Live) -> Result<u64> {
        let mut freed = 0;
        for some in documents.chunks(LOCKED_MAX) {
            let mut doomed = Vec::new();
            for digest in some {
                if !live.blobs.contains(digest)
                    && let Some(seized) = self.seize(digest, live)?
                {
                    doomed.push((digest, seized));
                }
            }
            if doomed.is_empty() {
                continue;
            }
            // Whoever let go of a lease before that has first written where the image is needed from now on: a name, a container.
            self.mark_needed(live)?;
            for (digest, _seized) in doomed.iter().filter(|(digest, _)| !live.blobs.contains(digest)) {
                freed += self.remove_garbage(digest)?;
            }
        }
        Ok(freed)
    }

    /// Locks a blob. `None`: somebody uses it, and it is marked with all that it leads to; or it is gone.
    fn seize(&self, digest: &Digest, live: &mut Live) -> Result<Option<Seized>> {
        match Lease::try_exclusive(self.0.blobs.as_fd(), digest.hex()) {
            Ok(lease) => Ok(lease.map(|lease| Seized(Some(lease)))),
            Err(error) if is_link(&error) => Ok(Some(Seized(None))),
            Err(error) if error.kind() == ErrorKind::InUse => self.mark(digest, live).map(|()| None),
            Err(error) => Err(error.with_path(self.blob_path(digest))),
        }
    }

    /// Removes a blob that is locked, and gives its bytes.
    fn remove_garbage(&self, digest: &Digest) -> Result<u64> {
        let size = self.blob_size(digest)?.unwrap_or(0);
        self.remove_blob(digest).map(|()| size)
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
        let mut live = Live::default();
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
        let mut todo = vec![(*digest, true)];
        while let Some((digest, is_document)) = todo.pop() {
            if !live.blobs.insert(digest) {
                continue;
            }
            let raw = match self.read_document(&digest) {
                // A layer that the disk doesn't give any more, as a rule.
                Err(error)
                    if !is_document
                        && matches!(error.kind(), ErrorKind::Io | ErrorKind::PermissionDenied) =>
                {
                    continue;
                }
                other => other?,
            };
            let Some(Ok(document)) = raw.map(Document::parse) else { continue };
            // Whatever it says that these are: a manifest may have another one among its layers.
            let is_index = matches!(document, Document::Index(_));
            todo.extend(links_of(&document).into_iter().map(|below| (below, is_index)));
            if let Document::Manifest(manifest) = document
                && media::is_config(&manifest.config().media_type)
                && let Some(raw) = self.read_document(&manifest.config().digest)?
                && let Ok(config) = ImageConfig::parse(raw)
            {
                let chain_ids = config.chain_ids();
                live.layers.extend(config.diff_ids().iter().chain(&chain_ids));
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
        let read = || {
            let (file, mut first) = (self.open_blob(digest)?, [0]);
            file.read_at(&mut first, 0).call_at("pread", self.blob_path(digest))?;
            // No more than that of a small layer.
            (first == *b"{").then(|| self.read_blob_small(digest, DOCUMENT_MAX)).transpose()
        };
        match read() {
            Ok(raw) => Ok(raw),
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

/// What a document leads to.
fn links_of(document: &Document) -> Vec<Digest> {
    match document {
        Document::Index(index) => index.manifests.iter().map(|child| child.digest).collect(),
        Document::Manifest(manifest) => {
            manifest.layers().iter().chain([manifest.config()]).map(|blob| blob.digest).collect()
        }
    }
}

/// Documents in such an order that each comes before all those that it leads to.
fn in_order(links: &HashMap<Digest, Vec<Digest>>) -> Vec<Digest> {
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    for top in links.keys() {
        let mut todo = vec![(top, false)];
        while let Some((digest, is_done)) = todo.pop() {
            if is_done {
                order.push(*digest);
                continue;
            }
            if let Some(below) = links.get(digest)
                && seen.insert(digest)
            {
                todo.push((digest, true));
                todo.extend(below.iter().map(|below| (below, false)));
            }
        }
    }
    order.reverse();
    order
}

/// A blob that nobody uses or begins to use; without a lock where it is a link: nothing of ours, and nothing that can be locked.
struct Seized(#[expect(dead_code)] Option<Lease>);

/// Blobs that nothing leads to which has a name or is pinned.
struct Unmarked {
    /// Each before all that it leads to.
    documents: Vec<Digest>,
    others: Vec<Digest>,
}

#[derive(Default)]
struct Live {
    blobs: HashSet<Digest>,
    /// The diff_ids and chain_ids of layers.
    layers: HashSet<Digest>,
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
