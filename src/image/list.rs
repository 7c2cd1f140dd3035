//! Finding, listing and removing images.
#![forbid(unsafe_code)]

use super::Image;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{CONTAINERD_NAME, Descriptor, Index, REF_NAME};
use crate::reference::Reference;
use crate::store::Store;
use crate::store::index::{name_of, origin_of, take_name};
use std::collections::HashSet;

/// What the removal of an image did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The names that lead nowhere now.
    pub untagged: Vec<Reference>,
    /// The ids of the images that are gone; empty when other names still lead to the image. Of a broken one, the
    /// digest of its manifest.
    pub deleted: Vec<Digest>,
    /// The bytes of the blobs that are gone. What another program uses at this moment goes later.
    pub freed: u64,
}

/// Something in a store that should be an image and can't be read: a document of it is damaged or gone.
///
/// Its name may be given to a new image, it is replaced by loading the image again, and
/// [`Store::remove_image`] removes it by name or digest.
#[derive(Debug)]
pub struct BrokenImage {
    digest: Digest,
    references: Vec<Reference>,
    error: Error,
}

impl BrokenImage {
    /// The digest of its manifest, as the store's index has it.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its names.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Why it can't be read, with the file and what to do.
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl Store {
    /// Opens an image by name (`debian`, `debian:12`, `debian@sha256:…`), by id, or by the beginning of its id; by
    /// id also what a step of a build has given, which [`images`](Self::images) doesn't list. A digest is the manifest's, or, of
    /// what was pulled from that repository, also the one of the index that it was chosen from.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidInput` when several ids begin so or the text can't be a name.
    pub fn image(&self, name: &str) -> Result<Image> {
        let index = self.index()?;
        match self.find(&index, name) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.of_step(name)?.ok_or(error),
            other => Ok(other?.0),
        }
    }

    /// What a step of a build has given, by its id or the beginning of it.
    fn of_step(&self, name: &str) -> Result<Option<Image>> {
        let Some(hex) = is_id(name) else { return Ok(None) };
        let mut found = self.all_cached()?;
        found.retain(|cached| cached.id.hex().starts_with(hex) || cached.manifest.hex().starts_with(hex));
        let Some(first) = found.first() else { return Ok(None) };
        if found.iter().any(|other| other.id != first.id) {
            return Err(several(name));
        }
        Image::by_digest(self, &first.manifest)
    }

    /// All images, in the order in which they came. One that can't be read is in
    /// [`broken_images`](Self::broken_images) instead.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` where the store's index is broken; `ResourceExhausted` for more images than
    /// this program may have descriptors, as each takes one as long as there is a value of it.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.images_that(|_| true)
    }

    /// Those images alone that are wanted; the others take no descriptor.
    pub(super) fn images_that(&self, wanted: impl FnMut(&Image) -> bool) -> Result<Vec<Image>> {
        Ok(self.sorted_images(wanted)?.0)
    }

    /// What the store's index lists as an image and can't be read, in the order in which it came.
    /// [`Store::verify`] looks at all content, not only at what is needed to list an image.
    ///
    /// ```
    /// use coracle::{Layer, Store};
    /// let store = Store::temp()?;
    /// for broken in store.broken_images()? {
    ///     eprintln!("{}: {}", broken.digest(), broken.error());
    /// }
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn broken_images(&self) -> Result<Vec<BrokenImage>> {
        Ok(self.sorted_images(|_| false)?.1)
    }

    fn sorted_images(
        &self,
        mut wanted: impl FnMut(&Image) -> bool,
    ) -> Result<(Vec<Image>, Vec<BrokenImage>)> {
        let mut seen = HashSet::new();
        let (mut images, mut broken) = (Vec::new(), Vec::new());
        let index = self.index()?;
        for listed in index.manifests.iter().filter(|listed| seen.insert(listed.digest)) {
            let error = match Image::from_listed(self, listed) {
                Ok(image) => {
                    images.extend(wanted(&image).then_some(image));
                    continue;
                }
                Err(error) => error,
            };
            if is_of_program(&error) {
                return Err(error.during(format!("reading the image {}", listed.digest)));
            }
            if error.kind() == ErrorKind::Unsupported {
                // An artifact, or another machine's: no image here.
                tracing::debug!(%error, digest = %listed.digest, "not listed");
                continue;
            }
            // It may just have been removed.
            let names: Vec<_> =
                self.index()?.manifests.into_iter().filter(|other| other.digest == listed.digest).collect();
            if names.is_empty() {
                continue;
            }
            let error = match error.remedy() {
                Some(_) => error,
                None => error.with_remedy(Store::HEAL),
            };
            broken.push(BrokenImage {
                digest: listed.digest,
                references: names.iter().filter_map(name_of).collect(),
                error,
            });
        }
        Ok((images, broken))
    }

    /// Takes a name away. The image stays, also when this was its last name.
    ///
    /// # Errors
    /// `NotFound` when no image has the name.
    pub fn untag(&self, name: &str) -> Result<()> {
        let reference: Reference = name.parse()?;
        self.update_index(|index| take_name(index, &reference).map(drop).ok_or_else(|| not_found(name)))
    }

    /// Removes an image as `docker rmi` does: a name that is not its last is only taken away; with the last name,
    /// or by id, the image goes, and with it every layer that no other image has. A repository's last tag goes with the digests
    /// by which the image was pulled from there. What builds have made stays in their cache
    /// ([`prune_cache`](Self::prune_cache)), unless it is an id of such a step that is named.
    ///
    /// # Errors
    /// `NotFound`; `InUse` while a container has it (running or not), or when it is named by id and has several names.
    pub fn remove_image(&self, name: &str) -> Result<Removed> {
        self.remove(name, false)
    }

    /// The same with `--force`: takes all its names, also when a container has it. Its content then goes with
    /// the last container.
    ///
    /// # Errors
    /// `NotFound`; those of the file system.
    pub fn force_remove_image(&self, name: &str) -> Result<Removed> {
        self.remove(name, true)
    }

    fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let removed = self.remove_listed(name, force);
        let mut removed = match removed {
            // What only a step of a build has given is forgotten by its id.
            Err(error) if error.kind() == ErrorKind::NotFound => match self.of_step(name)? {
                Some(image) => {
                    self.forget_steps(image.id())?;
                    Removed { deleted: vec![*image.id()], ..Removed::default() }
                }
                None => return Err(error),
            },
            other => other?,
        };
        if !removed.deleted.is_empty() {
            removed.freed = self.collect_garbage()?;
        }
        Ok(removed)
    }

    fn remove_listed(&self, name: &str, force: bool) -> Result<Removed> {
        self.update_index(|index| {
            let Target { digest, manifest, id, wanted } = self.target(index, name)?;
            let names: Vec<_> =
                index.manifests.iter().filter(|other| other.digest == digest).filter_map(name_of).collect();
            let others = match &wanted {
                Some(wanted) => without(&names, wanted),
                None => {
                    names.iter().filter(|name| name.tag().is_some() || !is_tagged(&names, name)).collect()
                }
            };
            if wanted.is_some() && !others.is_empty() {
                let gone: Vec<_> = names.iter().filter(|name| !others.contains(name)).cloned().collect();
                for name in &gone {
                    take_name(index, name);
                }
                return Ok(Removed { untagged: gone, ..Default::default() });
            } else if wanted.is_none() && others.len() > 1 && !force {
                let names: Vec<_> = others.iter().map(|name| name.familiar()).collect();
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!("image {name:?} has the names {}", names.join(", ")),
                )
                .with_remedy("remove it by its names, or by force"));
            }
            let pinned = self.pins()?.into_iter().find(|(_, pins)| pins.image == Some(manifest));
            if let Some((id, _)) = pinned
                && !force
            {
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!("image {name:?} is in use by container {id}"),
                )
                .with_remedy("remove the container first, or the image by force"));
            }
            index.manifests.retain(|other| other.digest != digest);
            Ok(Removed { untagged: names, deleted: vec![id], freed: 0 })
        })
    }

    /// What is to be removed: an image, or what is broken.
    fn target(&self, index: &Index, text: &str) -> Result<Target> {
        let (error, wanted) = match self.find(index, text) {
            Ok((image, wanted)) => {
                let (digest, manifest, id) = (image.0.listed.digest, *image.digest(), *image.id());
                return Ok(Target { digest, manifest, id, wanted });
            }
            Err(error) if is_of_program(&error) => return Err(error),
            Err(error) => (error, text.parse::<Reference>().ok()),
        };
        let named = wanted.and_then(|name| {
            let listed = entry(index, &name)?;
            Some((listed.digest, called(listed, &name)))
        });
        let (digest, wanted) = match (named, is_id(text)) {
            (Some(named), _) => named,
            (None, None) => return Err(error),
            // Its id is not known, as its configuration can't be read.
            (None, Some(hex)) => {
                let digests: HashSet<_> = index.manifests.iter().map(|listed| listed.digest).collect();
                let mut found = digests.into_iter().filter(|digest| digest.hex().starts_with(hex));
                match (found.next(), found.next()) {
                    (Some(digest), None) => (digest, None),
                    (None, _) => return Err(error),
                    _ => return Err(several(text)),
                }
            }
        };
        Ok(Target { digest, manifest: digest, id: digest, wanted })
    }

    /// The image that `text` names in this index, and the name if it was found by that.
    fn find(&self, index: &Index, text: &str) -> Result<(Image, Option<Reference>)> {
        let hex = is_id(text);
        let name = match text.parse::<Reference>() {
            Ok(name) => Some(name),
            Err(_) if hex.is_some() => None,
            Err(error) => return Err(error),
        };
        if let Some(name) = &name
            && let Some(listed) = entry(index, name)
        {
            return Ok((Image::from_listed(self, listed)?, called(listed, name)));
        }
        let Some(hex) = hex else { return Err(not_found(text)) };
        let mut found: Option<Image> = None;
        let mut unreadable = None;
        for listed in &index.manifests {
            let image = match Image::from_listed(self, listed) {
                Ok(image) => image,
                // It has no id that it could be asked by.
                Err(error) if is_unusable(&error) => continue,
                // It may be the one.
                Err(error) => {
                    unreadable = unreadable.or(Some(error));
                    continue;
                }
            };
            if !image.id().hex().starts_with(hex) && !image.digest().hex().starts_with(hex) {
                continue;
            }
            if found.as_ref().is_some_and(|other| other.id() != image.id()) {
                return Err(several(text));
            }
            found = found.or(Some(image));
        }
        match found {
            Some(image) => Ok((image, None)),
            None => Err(unreadable.unwrap_or_else(|| not_found(text))),
        }
    }
}

/// What an index has of an image that is to be removed.
struct Target {
    digest: Digest,
    /// What containers pin.
    manifest: Digest,
    id: Digest,
    /// By which name it was found.
    wanted: Option<Reference>,
}

/// The digits of what could be an id or its beginning.
fn is_id(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let digits = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ((1..=64).contains(&hex.len()) && digits).then_some(hex)
}

fn several(text: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("several images have an id that begins with {text:?}"))
        .with_remedy("give more digits of it")
}

/// Also one that another tool gave and that is none to docker (with upper case, say): it is somebody's image.
pub(super) fn has_name(listed: &Descriptor) -> bool {
    [REF_NAME, CONTAINERD_NAME].iter().any(|key| listed.annotations.contains_key(*key))
}

/// Whether all that it is called by is its digest in a repository: an image so is one without a name, as docker has it.
pub(super) fn has_digest_only(listed: &Descriptor) -> bool {
    name_of(listed).is_some_and(|name| name.tag().is_none())
}

/// Whether it lies in the image itself that it can't be read, and will so for ever.
pub(super) fn is_unusable(error: &Error) -> bool {
    use ErrorKind::{InvalidData, Mismatch, NotFound, TooLarge, Unsupported};
    matches!(error.kind(), InvalidData | Mismatch | NotFound | TooLarge | Unsupported)
}

/// Whether this program lacks something, which says nothing of an image.
fn is_of_program(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ResourceExhausted | ErrorKind::OutOfMemory)
}

/// The entry of an index that a name means: the one of that tag; or, in that repository, what is called by the digest, has it, or
/// was chosen from what has it.
pub(crate) fn entry<'a>(index: &'a Index, wanted: &Reference) -> Option<&'a Descriptor> {
    let named = || index.manifests.iter().filter_map(|listed| Some((name_of(listed)?, listed)));
    let Some(digest) = wanted.digest() else {
        return named().find(|(name, _)| name == wanted).map(|(_, listed)| listed);
    };
    let beside = || named().filter(|(name, _)| name.is_beside(wanted));
    let found = beside().find(|(name, _)| name.digest() == Some(digest));
    let found = found.or_else(|| beside().find(|(_, listed)| listed.digest == *digest));
    let found = found.or_else(|| beside().find(|(_, listed)| origin_of(listed).as_ref() == Some(digest)));
    found.map(|(_, listed)| listed)
}

/// The name of an entry where it is that by which it was found: a tag's entry is also found by a digest.
fn called(listed: &Descriptor, wanted: &Reference) -> Option<Reference> {
    name_of(listed).filter(|name| name.digest() == wanted.digest())
}

/// Whether a tag of the same repository is among the names.
fn is_tagged(names: &[Reference], name: &Reference) -> bool {
    names.iter().any(|other| other.tag().is_some() && other.is_beside(name))
}

/// What is left of an image's names without one of them. With a repository's last tag go its digests, as docker has it.
fn without<'a>(names: &'a [Reference], gone: &Reference) -> Vec<&'a Reference> {
    let tags: Vec<_> = names.iter().filter(|name| *name != gone && name.tag().is_some()).cloned().collect();
    let goes = |name: &Reference| {
        name == gone
            || (gone.tag().is_some()
                && name.tag().is_none()
                && name.is_beside(gone)
                && !is_tagged(&tags, name))
    };
    names.iter().filter(|name| !goes(name)).collect()
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no image {name:?} in the store"))
        .with_remedy("load, import or build it first")
}
