//! Removing the images that nobody uses.
#![forbid(unsafe_code)]

use super::Image;
use super::list::{Removed, has_name, is_unusable};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::manifest::{Descriptor, Index};
use crate::store::index::name_of;
use crate::store::{Lease, Store};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// When a thread of a program starts another one, that has for a moment all descriptors of the first, and so its leases.
const PATIENCE: Duration = Duration::from_millis(200);

impl Store {
    /// Removes images that nobody uses, as `docker image prune` does: those without a name, or with `all` also those with
    /// names; and whatever blobs and unpacked layers nothing needs. An image stays while a container has it, running or
    /// not, and while any program has an [`Image`] of it.
    ///
    /// Another program may load, import or use images meanwhile: what it writes or has open stays. Garbage is not collected
    /// then, so that [`freed`](Removed::freed) is 0; the next removal does it.
    ///
    /// ```
    /// use coracle::{Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let image = Import::new().name("app").path(&store, dir.path())?;
    /// assert!(store.prune_images(true)?.deleted.is_empty());
    /// drop(image);
    /// assert!(store.prune_images(false)?.deleted.is_empty());
    /// assert_eq!(store.prune_images(true)?.untagged[0].familiar(), "app:latest");
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the file system. Of an image that can't be read for such a reason, nothing is removed.
    pub fn prune_images(&self, all: bool) -> Result<Removed> {
        self.prune_images_if(all, |_| true)
    }

    /// The same for those images alone of which `wanted` says so: older than a week, say, or with a label. One that can't
    /// be read is not asked about: it stays, unless it has no name. All are asked about first, with nothing locked, so that
    /// `wanted` may use the store as it likes; one that gains or loses a name after that stays.
    ///
    /// # Errors
    /// As [`prune_images`](Self::prune_images).
    pub fn prune_images_if(&self, all: bool, wanted: impl Fn(&Image) -> bool) -> Result<Removed> {
        let mut asked = HashMap::new();
        let index = self.index()?;
        for listed in &index.manifests {
            let entries = entries_of(&index, listed.digest);
            if asked.contains_key(&listed.digest) || !all && entries.iter().any(has_name) {
                continue;
            }
            match Image::from_listed(self, listed) {
                Ok(image) => drop(asked.insert(listed.digest, wanted(&image).then_some(entries))),
                Err(error) if is_unusable(&error) => {}
                // That it can't be read now (no descriptors, say) does not make it rubbish.
                Err(error) => return Err(error.during(format!("reading the image {}", listed.digest))),
            }
        }
        let mut removed = self.update_index(|index| {
            let pinned: HashSet<_> = self.pins()?.into_iter().filter_map(|(_, pins)| pins.image).collect();
            let mut removed = Removed::default();
            let deadline = Instant::now() + PATIENCE;
            let mut seen = HashSet::new();
            let candidates: Vec<_> =
                index.manifests.iter().filter(|listed| seen.insert(listed.digest)).cloned().collect();
            for listed in candidates {
                let own = entries_of(index, listed.digest);
                let is_named = own.iter().any(has_name);
                if is_named && !all {
                    continue;
                }
                let names: Vec<_> = own.iter().filter_map(name_of).collect();
                let is_asked = asked.get(&listed.digest).is_some_and(|then| then.as_ref() == Some(&own));
                match Image::from_listed(self, &listed) {
                    Ok(image) if pinned.contains(image.digest()) || !is_asked => continue,
                    Ok(image) => {
                        let (id, digest) = (*image.id(), *image.digest());
                        // Its own lease.
                        drop(image);
                        if self.is_open(&digest, deadline)? {
                            continue;
                        }
                        removed.deleted.push(id);
                        removed.untagged.extend(names);
                    }
                    // Somebody's, who may heal it.
                    Err(error) if is_unusable(&error) && is_named => continue,
                    // Nothing that could ever be run, and without a name: rubbish too.
                    Err(error) if is_unusable(&error) => {
                        tracing::warn!(%error, digest = %listed.digest, "a nameless image that can't be read")
                    }
                    Err(error) => return Err(error.during(format!("reading the image {}", listed.digest))),
                }
                index.manifests.retain(|other| other.digest != listed.digest);
            }
            Ok(removed)
        })?;
        removed.freed = self.collect_garbage()?;
        Ok(removed)
    }

    /// Whether any program has an image with this manifest open.
    fn is_open(&self, manifest: &Digest, deadline: Instant) -> Result<bool> {
        loop {
            match Lease::try_exclusive(self.blobs_dir(), manifest.hex()) {
                Err(error) if error.kind() == ErrorKind::InUse && Instant::now() < deadline => {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Err(error) if error.kind() == ErrorKind::InUse => return Ok(true),
                other => return other.map(|_| false),
            }
        }
    }
}

/// All entries of an image: one for each of its names, or one without.
fn entries_of(index: &Index, manifest: Digest) -> Vec<Descriptor> {
    index.manifests.iter().filter(|entry| entry.digest == manifest).cloned().collect()
}
