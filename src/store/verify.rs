//! Whether a store is what it says: blobs and references. The other rooms look at what is theirs;
//! `Store::verify` puts it together.
#![forbid(unsafe_code)]

use super::{Store, list};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{DOCUMENT_MAX, Descriptor, Document, ImageConfig, media};
use crate::store::index::{INDEX, name_of};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Which part of a store a [`Problem`] is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorePart {
    /// `index.json`, the names of images.
    Index,
    /// A blob whose content is not that of its digest.
    Blob,
    /// A reference that leads nowhere: from the index to a manifest, from there to a configuration or a layer.
    Image,
    /// The metadata of an unpacked layer.
    Layer,
    /// The record of a container, or what it needs.
    Container,
    /// What is known of a volume.
    Volume,
}

/// Something in a store that is not as it should be. Its text is the error's.
#[derive(Debug)]
pub struct Problem {
    part: StorePart,
    error: Error,
}

impl Problem {
    /// Where it is.
    pub fn part(&self) -> StorePart {
        self.part
    }

    /// The file or directory.
    pub fn path(&self) -> &Path {
        self.error.path().unwrap_or(Path::new(""))
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        self.error.remedy().unwrap_or_default()
    }

    /// What is wrong.
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// What [`Store::verify`] has looked at, and what is wrong.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Verification {
    /// Blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Images whose references were followed.
    pub images: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Records of containers.
    pub containers: u64,
    /// Volumes.
    pub volumes: u64,
    /// What is wrong; nothing in a sound store.
    pub problems: Vec<Problem>,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes a problem; path and remedy where the error has none of its own.
    ///
    /// # Errors
    /// The error itself where it is this program that lacks something.
    pub(crate) fn add(
        &mut self,
        part: StorePart,
        error: Error,
        path: impl AsRef<Path>,
        remedy: &'static str,
    ) -> Result<()> {
        if matches!(error.kind(), ErrorKind::ResourceExhausted | ErrorKind::OutOfMemory) {
            return Err(error);
        }
        // Some errors name a file as its directory has it.
        let error = if error.path().is_some_and(Path::is_absolute) { error } else { error.with_path(path) };
        let error = if error.remedy().is_some() { error } else { error.with_remedy(remedy) };
        self.problems.push(Problem { part, error });
        Ok(())
    }
}

/// How deep indexes of indexes are followed.
const NESTING: usize = 8;

/// Follows references.
struct Walk<'a> {
    store: &'a Store,
    found: &'a mut Verification,
    /// For whom each blob is there: the name or digest of an image.
    needed: BTreeMap<Digest, String>,
    /// Documents whose references were followed, each once: a layer of one image may be another's manifest.
    followed: BTreeSet<Digest>,
}

impl Store {
    /// Follows all references from the index and from containers, and hashes all blobs.
    pub(crate) fn verify_images(&self, found: &mut Verification) -> Result<()> {
        let mut walk = Walk { store: self, found, needed: BTreeMap::new(), followed: BTreeSet::new() };
        match self.index() {
            Ok(index) => {
                for listed in &index.manifests {
                    let name =
                        name_of(listed).map_or_else(|| listed.digest.to_string(), |name| name.familiar());
                    walk.document(listed, &format!("the image {name}"), 0)?;
                }
            }
            Err(error) => {
                let remedy = "the images are there without their names: write an OCI image index of the manifests in \
                    blobs/, or load the images again into another store";
                walk.found.add(StorePart::Index, error, self.path().join(INDEX), remedy)?;
            }
        }
        // An image that was removed by force is only in the records of its containers.
        for id in list(self.containers_dir())? {
            let Some(id) = id.to_str() else { continue };
            // A record that can't be read is the container room's to report.
            let Ok(Some(part)) = self.tenants().container_part(id) else { continue };
            let Some(digest) = part.pins.image.filter(|digest| !walk.followed.contains(digest)) else {
                continue;
            };
            let size = self.blob_size(&digest)?.unwrap_or(0);
            walk.document(
                &Descriptor::new(media::MANIFEST, digest, size),
                &format!("the image of container {id}"),
                0,
            )?;
        }
        let needed = std::mem::take(&mut walk.needed);
        self.verify_blobs(&needed, found)
    }

    fn verify_blobs(&self, needed: &BTreeMap<Digest, String>, found: &mut Verification) -> Result<()> {
        let todo = Mutex::new(list(self.0.blobs.as_fd())?);
        let found = Mutex::new(found);
        let next = || todo.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || -> Result<()> {
            while let Some(name) = next() {
                let outcome = self.verify_blob(&name);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(size) => {
                        found.blobs += 1;
                        found.bytes += size;
                    }
                    // Nobody collects meanwhile, but a damaged one may just be replaced.
                    Err(error) => {
                        found.blobs += 1;
                        let user = digest_of(&name).and_then(|digest| needed.get(&digest));
                        let error = match user {
                            Some(user) => error.during(format!("verifying {user}")),
                            None => error,
                        };
                        let path = self.path().join("blobs/sha256").join(&name);
                        found.add(StorePart::Blob, error, path, Self::HEAL)?;
                    }
                }
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .filter_map(|_| {
                    let builder = std::thread::Builder::new().name("coracle-verify".into());
                    // With fewer threads it takes longer.
                    builder.spawn_scoped(scope, work).ok()
                })
                .collect();
            let mut all = work();
            for other in others {
                let other = match other.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                all = all.and(other);
            }
            all
        })
    }

    /// The size of a blob that is sound.
    fn verify_blob(&self, name: &OsStr) -> Result<u64> {
        let Some(digest) = digest_of(name) else {
            return Err(Error::new(ErrorKind::InvalidData, "not the name of a blob")
                .with_remedy("remove it while no program uses the store"));
        };
        let content = self.hash_blob(&digest)?;
        if content != digest {
            let what = format!("blob {digest}: its content has digest {content}");
            return Err(Error::new(ErrorKind::Mismatch, what));
        }
        Ok(self.blob_size(&digest)?.unwrap_or(0))
    }
}

fn digest_of(name: &OsStr) -> Option<Digest> {
    format!("sha256:{}", name.to_str()?).parse().ok()
}

impl Walk<'_> {
    /// Whether the blob of a descriptor is there with the right size.
    fn need(&mut self, descriptor: &Descriptor, image: &str) -> Result<bool> {
        let Descriptor { digest, size, .. } = descriptor;
        self.needed.entry(*digest).or_insert_with(|| image.to_owned());
        let error = match self.store.blob_size(digest) {
            Ok(Some(found)) if found == *size => return Ok(true),
            Ok(Some(found)) => Error::new(
                ErrorKind::Mismatch,
                format!("blob {digest}: {found} bytes instead of the promised {size}"),
            ),
            Ok(None) => Error::new(ErrorKind::NotFound, format!("blob {digest} is missing")),
            Err(error) => error,
        };
        self.wrong(error, digest, image)?;
        Ok(false)
    }

    fn wrong(&mut self, error: Error, digest: &Digest, image: &str) -> Result<()> {
        let error = error.during(format!("verifying {image}"));
        self.found.add(StorePart::Image, error, self.store.blob_path(digest), Store::HEAL)
    }

    /// A document's text; `None` where something is wrong with it, which has been noted or will be.
    fn read(&mut self, descriptor: &Descriptor, image: &str) -> Result<Option<Vec<u8>>> {
        if !self.need(descriptor, image)? {
            return Ok(None);
        }
        match self.store.read_blob_small(&descriptor.digest, DOCUMENT_MAX) {
            Ok(raw) => Ok(Some(raw)),
            // All blobs are hashed afterwards.
            Err(error) if error.kind() != ErrorKind::TooLarge => Ok(None),
            Err(error) => self.wrong(error, &descriptor.digest, image).map(|()| None),
        }
    }

    fn document(&mut self, descriptor: &Descriptor, image: &str, depth: usize) -> Result<()> {
        if self.followed.contains(&descriptor.digest) {
            // Its size may be said otherwise here.
            return self.need(descriptor, image).map(drop);
        }
        let Some(raw) = self.read(descriptor, image)? else { return Ok(()) };
        self.followed.insert(descriptor.digest);
        let kind = &descriptor.media_type;
        if !(media::is_manifest(kind) || media::is_index(kind) || kind.is_empty()) {
            // Another tool's: nobody here knows what it refers to.
            return Ok(());
        }
        match Document::parse(raw) {
            Ok(Document::Manifest(manifest)) => self.manifest(&manifest, image),
            Ok(Document::Index(_)) if depth >= NESTING => {
                let error = Error::new(ErrorKind::InvalidData, "indexes of indexes without an end");
                self.wrong(error, &descriptor.digest, image)
            }
            Ok(Document::Index(index)) => {
                for child in &index.manifests {
                    if media::is_no_document(&child.media_type) {
                        self.need(child, image)?;
                        continue;
                    }
                    let others = child.platform.as_ref().is_some_and(|platform| !platform.is_host());
                    // Other machines' images need not be there.
                    if others && self.store.blob_size(&child.digest)?.is_none() {
                        continue;
                    }
                    self.document(child, image, depth + 1)?;
                }
                Ok(())
            }
            Err(error) => self.wrong(error, &descriptor.digest, image),
        }
    }

    fn manifest(&mut self, manifest: &crate::manifest::Manifest, image: &str) -> Result<()> {
        for layer in manifest.layers() {
            self.need(layer, image)?;
        }
        let config = manifest.config();
        if !media::is_config(&config.media_type) {
            // An artifact.
            return self.need(config, image).map(drop);
        }
        let may_be_none = media::is_any_config(&config.media_type);
        self.found.images += u64::from(!may_be_none);
        let Some(raw) = self.read(config, image)? else { return Ok(()) };
        let parsed = ImageConfig::parse(raw);
        if may_be_none && parsed.is_err() {
            // Likewise an artifact.
            return Ok(());
        }
        self.found.images += u64::from(may_be_none);
        let (layers, diff_ids) = match parsed {
            Ok(parsed) => (manifest.layers().len(), parsed.diff_ids().len()),
            Err(error) => return self.wrong(error, &config.digest, image),
        };
        if layers != diff_ids {
            let what = format!("manifest of {layers} layers, configuration of {diff_ids}");
            self.wrong(Error::new(ErrorKind::InvalidData, what), &config.digest, image)?;
        }
        Ok(())
    }
}
