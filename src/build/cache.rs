//! Results that are there already: those that this store's builds have noted, and those that the history of an image tells of
//! that the caller believes.
#![forbid(unsafe_code)]

use super::work::Work;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::Layer;
use crate::manifest::History;
use crate::store::{Cached, clock};
use serde_json::Value;
use std::time::SystemTime;

impl Work<'_> {
    /// What a step with this key gave before, or what `make` gives; and whether it was there.
    pub(super) fn kept(&self, key: &Digest, make: impl FnOnce() -> Result<Image>) -> Result<(Image, bool)> {
        if let Some(image) = self.noted(key)? {
            return Ok((image, true));
        }
        let image = make()?;
        self.note(key, &image)?;
        Ok((image, false))
    }

    /// The same for a step on an image, by a key of all of its settings: `make` gives the layer, if it has one, and `change` what
    /// becomes of them.
    pub(super) fn kept_on(
        &self,
        key: &Digest,
        parent: &Image,
        line: &str,
        change: impl FnOnce(&mut Value) -> Result<()>,
        make: impl FnOnce() -> Result<Option<Layer>>,
    ) -> Result<(Image, bool)> {
        if let Some(found) = self.noted(key)? {
            let image = match stands_on(&found, parent) {
                true => found,
                false => self.onto(key, parent, line, &found, change)?,
            };
            return Ok((image, true));
        }
        let layer = make()?;
        let image = self.derived(parent, layer.as_ref(), line.to_owned(), None, change)?;
        self.note(key, &image)?;
        Ok((image, false))
    }

    /// The same for a step that changes no settings, by a key of those that it depends on. It may be that of another image with
    /// the same steps.
    pub(super) fn kept_or_known(
        &self,
        key: &Digest,
        parent: &Image,
        line: &str,
        make: impl FnOnce() -> Result<Option<Layer>>,
    ) -> Result<(Image, bool)> {
        if let Some(found) = self.noted(key)? {
            let is_it =
                stands_on(&found, parent) && found.config().settings()? == parent.config().settings()?;
            let image = match is_it {
                true => found,
                false => self.onto(key, parent, line, &found, |_| Ok(()))?,
            };
            return Ok((image, true));
        }
        let known = self.known(parent, line)?;
        let was_known = known.is_some();
        let (layer, created) = match known {
            Some((layer, created)) => (layer, created),
            None => (make()?, None),
        };
        let image = self.derived(parent, layer.as_ref(), line.to_owned(), created, |_| Ok(()))?;
        self.note(key, &image)?;
        Ok((image, was_known))
    }

    /// A step that was done on the same ground, as one on `parent`, whose history or settings are others.
    fn onto(
        &self,
        key: &Digest,
        parent: &Image,
        line: &str,
        found: &Image,
        change: impl FnOnce(&mut Value) -> Result<()>,
    ) -> Result<Image> {
        let last = found.config().history().last();
        let layer = match last.is_none_or(|last| last.empty_layer().unwrap_or(false)) {
            true => None,
            false => found.layers()?.pop(),
        };
        let image = self.derived(parent, layer.as_ref(), line.to_owned(), last.and_then(created), change)?;
        self.note(key, &image)?;
        Ok(image)
    }

    fn noted(&self, key: &Digest) -> Result<Option<Image>> {
        if self.build.no_cache {
            return Ok(None);
        }
        // Nothing is collected between the look at the record and the lease.
        let _writing = self.store.writing()?;
        let Some(Cached { manifest, .. }) = self.store.cached(key)? else { return Ok(None) };
        match Image::by_digest(self.store, &manifest) {
            Ok(image) => Ok(image.filter(Image::is_whole)),
            // A power failure has cut it short, or somebody has: it is made again.
            Err(error) if is_lost(&error) => {
                tracing::debug!(%error, %key, "the result of a step that can't be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn note(&self, key: &Digest, image: &Image) -> Result<()> {
        self.store.set_cached(key, &Cached { manifest: *image.digest(), id: *image.id() })
    }

    /// The layer that this step has in an image of the store whose steps up to it are the same, and when it was made.
    fn known(&self, parent: &Image, line: &str) -> Result<Option<(Option<Layer>, Option<SystemTime>)>> {
        // With a time for everything, files of such a layer may be of another one.
        let is_any = self.build.images_as_cache || !self.build.cache_from.is_empty();
        if self.build.no_cache || !is_any || self.epoch.is_some() {
            return Ok(None);
        }
        for image in self.candidates()? {
            if let Some((has_layer, created)) = next(parent, image, line) {
                if !has_layer {
                    return Ok(Some((None, created)));
                }
                let at = parent.config().diff_ids().len();
                let layers = match image.layers() {
                    // It may be gone: then it is made again.
                    Err(error) if is_lost(&error) => continue,
                    other => other?,
                };
                let layer = layers.into_iter().nth(at);
                if layer.is_some() {
                    return Ok(Some((layer, created)));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn candidates(&self) -> Result<&[Image]> {
        if let Some(images) = self.candidates.get() {
            return Ok(images);
        }
        let mut images = Vec::new();
        if self.build.images_as_cache {
            images = self.store.images()?;
        }
        for name in &self.build.cache_from {
            match self.store.image(name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.teller.warn(None, format!("there is no image {name} that could be a cache"));
                }
                other => images.push(other.map_err(|error| error.during("looking for an image as a cache"))?),
            }
        }
        images.retain(Image::is_whole);
        Ok(self.candidates.get_or_init(|| images))
    }
}

/// Whether an image has this one's history, and one line more.
fn stands_on(image: &Image, parent: &Image) -> bool {
    let history = image.config().history();
    history.split_last().is_some_and(|(_, before)| before == parent.config().history())
}

/// Whether it says that something is not there any more, or not whole, and not that it could not be looked at.
fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Mismatch | ErrorKind::InvalidData)
}

/// Whether the image has the layers and the history of `parent`, and then this line: whether that has a layer, and when it was made.
fn next(parent: &Image, image: &Image, line: &str) -> Option<(bool, Option<SystemTime>)> {
    let (below, above) = (parent.config(), image.config());
    let is_empty = |line: &History| line.empty_layer().unwrap_or(false);
    let next = above.history().get(below.history().len())?;
    let layers = below.diff_ids().len();
    let is_alike = next.created_by().as_deref() == Some(line)
        && above.diff_ids().starts_with(below.diff_ids())
        && below.history().iter().zip(above.history()).all(|(one, other)| {
            one.created_by() == other.created_by() && is_empty(one) == is_empty(other)
        })
        // Else the next line with a layer is not the next layer's.
        && below.history().iter().filter(|line| !is_empty(line)).count() == layers;
    let has_layer = !is_empty(next);
    (is_alike && (!has_layer || above.diff_ids().len() > layers)).then(|| (has_layer, created(next)))
}

fn created(line: &History) -> Option<SystemTime> {
    line.created().as_deref().and_then(clock::parse_rfc3339)
}
