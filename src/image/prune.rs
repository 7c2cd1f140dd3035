//! Removing the images that nobody uses.
#![forbid(unsafe_code)]

use super::Image;
use super::list::{Removed, has_digest_only, has_name, is_unusable};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::manifest::{Descriptor, Index};
use crate::store::index::name_of;
use crate::store::{Lease, Store};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Who only looks at an image has it for a moment.
const PATIENCE: Duration = Duration::from_millis(200);

impl Store {
    /// Removes images that nobody uses, as `docker image prune` does: those without a name, or with their digest for a name, or
    /// with `all` also those with names; and whatever blobs and unpacked layers nothing needs. An image stays while a container has it, running or
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
        let read = |listed: &Descriptor| match Image::from_listed(self, listed) {
            Err(error) if is_unusable(&error) => Ok(Err(error)),
            Ok(image) => Ok(Ok(image)),
            // That it can't be read now (no descriptors, say) does not make it rubbish.
            Err(error) => Err(error.during(format!("reading the image {}", listed.digest))),
        };
        let index = self.index()?;
        let (mut seen, mut candidates) = (HashSet::new(), Vec::new());
        for listed in index.manifests.iter().filter(|listed| seen.insert(listed.digest)) {
            let entries = entries_of(&index, listed.digest);
            let is_named = entries.iter().any(has_name);
            if !all && entries.iter().any(|entry| has_name(entry) && !has_digest_only(entry)) {
                continue;
            }
            match read(listed)? {
                Ok(image) if wanted(&image) => {
                    candidates.push((entries, Some((*image.id(), *image.digest()))))
                }
                // Nothing that could ever be run, and without a name: rubbish too.
                Err(_) if !is_named => candidates.push((entries, None)),
                // Not wanted; or somebody's, who may heal it.
                _ => {}
            }
        }
        let mut removed = self.update_index(|index| {
            let pinned: HashSet<_> = self.pins()?.into_iter().filter_map(|(_, pins)| pins.image).collect();
            let mut removed = Removed::default();
            let deadline = Instant::now() + PATIENCE;
            for (entries, image) in candidates {
                let listed = &entries[0];
                if entries_of(index, listed.digest) != entries {
                    continue;
                }
                match image {
                    Some((_, digest)) if pinned.contains(&digest) || self.is_open(&digest, deadline)? => {
                        continue;
                    }
                    Some((id, _)) => {
                        removed.deleted.push(id);
                        removed.untagged.extend(entries.iter().filter_map(name_of));
                    }
                    None => match read(listed)? {
                        // Healed meanwhile.
                        Ok(_) => continue,
                        Err(error) => {
                            tracing::warn!(%error, digest = %listed.digest, "a nameless image that can't be read")
                        }
                    },
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
                    std::thread::sleep(Duration::from_millis(1));
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
