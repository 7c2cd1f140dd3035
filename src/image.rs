//! Images: immutable values in a store, and their ways in.
//!
//! An image is a manifest, which names a configuration and layers by digest. Its **id** is the
//! digest of the configuration, as docker has it; its **digest** is the manifest's. Names lead to
//! images and may be moved; an image itself never changes.
#![forbid(unsafe_code)]

mod archive;
mod edit;
mod export;
mod files;
pub(crate) mod host;
mod import;
#[cfg(feature = "build")]
pub(crate) mod instruction;
mod list;
mod load;
mod prune;
mod rebase;
mod save;
mod settings;
mod squash;
mod tree;
#[cfg(feature = "build")]
mod unlisted;
mod unpack;
mod with;

pub(crate) use edit::{HistoryLine, Revision};
pub use files::{Change, ChangeKind};
pub use import::Import;
#[cfg(feature = "registry")]
pub(crate) use list::entry;
pub use list::{BrokenImage, Removed};
#[cfg(feature = "registry")]
pub(crate) use load::publish_pulled;
pub use save::{ArchiveFormat, Save};
pub use tree::{HistoryEntry, ImageTree, ImageUsage};
#[cfg(feature = "registry")]
pub(crate) use unpack::ensure as ensure_layer;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{
    DOCUMENT_MAX, Descriptor, Document, ImageConfig, Index, Manifest, ORIGIN, ORIGIN_PLATFORM, Platform,
    media,
};
use crate::reference::Reference;
use crate::store::index::{name_of, origin_of, set_name};
use crate::store::{Lease, Store, UnpackedLayer, clock};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// An image in a store. It stays there while this value exists, also when its names go. A forked copy of the program that goes on
/// by itself opens it anew ([`Store::image`]): what it has of this value ends with the original's.
///
/// ```no_run
/// use coracle::{Image, Store};
/// let store = Store::open_default()?;
/// let image = Image::load(&store, "debian.tar")?.remove(0);
/// println!("{} {:?} {:?}", image.id(), image.references()?, image.config().cmd());
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone)]
pub struct Image(Arc<Inner>);

struct Inner {
    store: Store,
    /// What the store's index lists: the manifest, or an index of manifests for several machines.
    listed: Descriptor,
    manifest: Manifest,
    config: ImageConfig,
    source: Source,
    /// When changes of it are said to be made, by [`Image::with_created`].
    fixed: Option<SystemTime>,
    /// Nobody removes it while this value exists.
    _lease: Option<Lease>,
    /// The topmost first.
    unpacked: OnceLock<Vec<UnpackedLayer>>,
}

/// Where an image's files are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// In its layers.
    Layers,
    /// In this machine's own root directory, but for what the `host` room lists.
    Host {
        /// What is given back of the hidden: absolute paths.
        exposed: Vec<PathBuf>,
    },
}

impl Image {
    /// Loads all images of an archive (docker's or OCI's, plain, gzip or zstd) or of a directory with an OCI
    /// image layout. The names in it are given to its images, and taken from others.
    ///
    /// Everything is verified; when anything is wrong, nothing of it stays. Of an image for several machines,
    /// this machine's is loaded.
    ///
    /// # Errors
    /// `InvalidData` for what is no such archive or a malformed one, `Mismatch` for content with another digest or
    /// size than promised, `TooLarge` above the bounds, `StorageFull` where less of the disk would stay free than a fiftieth (at
    /// most 256 MiB), `Unsupported` for an unknown compression or another machine's image.
    pub fn load(store: &Store, path: impl AsRef<Path>) -> Result<Vec<Self>> {
        load::path(store, path.as_ref())
    }

    /// The same from a stream, which is read to its end and kept in a file of the store meanwhile.
    ///
    /// # Errors
    /// As [`load`](Self::load), and `StorageFull` where no more of it may be kept: some of the disk stays free.
    pub fn load_reader(store: &Store, reader: impl Read + Send) -> Result<Vec<Self>> {
        load::reader(store, reader)
    }

    /// Makes an image of a root filesystem: a tar archive (plain, gzip or zstd) or a directory.
    /// It has no command and no settings; [`Import`] gives it some.
    ///
    /// # Errors
    /// As [`Import::path`].
    pub fn import(store: &Store, path: impl AsRef<Path>, name: &str) -> Result<Self> {
        Import::new().name(name).path(store, path)
    }

    /// This machine's own root directory as an image, so that something runs with no download: read-only below a
    /// container's writable layer.
    ///
    /// What untrusted code must not read is hidden: `/root`, `/home` and other people's homes, `/tmp`, `/run`,
    /// `/var/tmp`, this store and other engines' data, password files, host keys, credentials of clouds, clusters and
    /// package tools; in `/etc` everything, and in `/var/lib`, `/var/log`, `/var/cache` and `/var/spool` whatever lies
    /// directly in them, that others may not read. [`expose`](Self::expose) gives a path back. A secret that
    /// a program keeps readable for everybody, or in a place of its own, is not known and not hidden.
    ///
    /// For an ordinary user the host's files belong to nobody whom a container knows (ids that its user namespace doesn't
    /// have), so the kernel lets its root change none of them: it may make files in the top-level directories, as
    /// `/etc` and `/usr`, but `/etc/passwd` and the directories below, as `/usr/lib`, are read-only to it (EACCES). As
    /// root, and on an image of its own, there is no such limit.
    ///
    /// # Errors
    /// None are to be expected: the machine is looked at when a container starts.
    pub fn host(store: &Store) -> Result<Self> {
        let config = host::config()?;
        let descriptor = Descriptor::new(media::CONFIG, *config.digest(), config.raw().len() as u64);
        let manifest = Manifest::new(descriptor, Vec::new())?;
        Ok(Self(Arc::new(Inner {
            store: store.clone(),
            listed: manifest.descriptor(),
            manifest,
            config,
            source: Source::Host { exposed: Vec::new() },
            fixed: None,
            _lease: None,
            unpacked: OnceLock::new(),
        })))
    }

    /// The host image with `path` (absolute) given back, readable as the host's file permissions have it.
    ///
    /// # Errors
    /// `InvalidInput` for a relative path, or an image that is not the host's.
    pub fn expose(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let Source::Host { exposed } = &self.0.source else {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "only the host image hides what could be exposed",
            ));
        };
        if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
            return Err(Error::new(ErrorKind::InvalidInput, "expose: not an absolute path without ..")
                .with_path(path));
        }
        let mut exposed = exposed.clone();
        // Without `.` and double slashes.
        exposed.push(path.components().collect());
        Ok(Self(Arc::new(Inner {
            store: self.0.store.clone(),
            listed: self.0.listed.clone(),
            manifest: self.0.manifest.clone(),
            config: self.0.config.clone(),
            source: Source::Host { exposed },
            fixed: None,
            _lease: None,
            unpacked: OnceLock::new(),
        })))
    }

    /// The digest of its configuration: docker's image id.
    pub fn id(&self) -> &Digest {
        self.0.config.digest()
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> &Digest {
        self.0.manifest.digest()
    }

    /// Its names at this moment.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` where the store's index is broken.
    pub fn references(&self) -> Result<Vec<Reference>> {
        let index = self.0.store.index()?;
        let mine = index.manifests.iter().filter(|other| other.digest == self.0.listed.digest);
        Ok(mine.filter_map(name_of).collect())
    }

    /// What it is in its repositories whatever becomes of their tags, docker's `RepoDigests`: each of them with a digest. Of what
    /// was pulled, that is the digest that the name led to: an index's, of an image for several machines.
    ///
    /// ```no_run
    /// let debian = coracle::Store::open_default()?.image("debian:12")?;
    /// // debian@sha256:…
    /// println!("{}", debian.repo_digests()?[0].familiar());
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`references`](Self::references).
    pub fn repo_digests(&self) -> Result<Vec<Reference>> {
        let mut all: Vec<Reference> = Vec::new();
        for listed in self.0.store.index()?.manifests {
            let Some(name) = name_of(&listed).filter(|_| listed.digest == self.0.listed.digest) else {
                continue;
            };
            let digest = name.digest().copied().or_else(|| origin_of(&listed)).unwrap_or(listed.digest);
            let name = name.by_digest(digest);
            if !all.contains(&name) {
                all.push(name);
            }
        }
        Ok(all)
    }

    /// When it was made, where it says so.
    pub fn created(&self) -> Option<SystemTime> {
        self.0.config.created().and_then(clock::parse_rfc3339)
    }

    /// The bytes of its manifest, configuration and layers, as they are stored (compressed).
    pub fn size(&self) -> u64 {
        let manifest = &self.0.manifest;
        let documents = [manifest.config().size, manifest.raw().len() as u64];
        // A layer that is elsewhere may be said to have any size.
        manifest.layers().iter().map(|layer| layer.size).chain(documents).fold(0, u64::saturating_add)
    }

    /// Its configuration.
    pub fn config(&self) -> &ImageConfig {
        &self.0.config
    }

    /// The processor it is made for, in Go's words: `amd64`, `arm64`.
    pub fn architecture(&self) -> &str {
        self.0.config.architecture()
    }

    /// The manifest's text, JSON.
    pub fn manifest_json(&self) -> &str {
        std::str::from_utf8(self.0.manifest.raw()).unwrap_or_default()
    }

    /// The descriptors of its layers, lowest first.
    pub fn layer_descriptors(&self) -> &[Descriptor] {
        self.0.manifest.layers()
    }

    /// Its layers, the lowest first.
    ///
    /// # Errors
    /// `NotFound` when a blob of them is gone.
    pub fn layers(&self) -> Result<Vec<crate::layer::Layer>> {
        let mut parent = None;
        let pairs = self.0.manifest.layers().iter().zip(self.0.config.diff_ids());
        pairs
            .map(|(descriptor, diff_id)| {
                let layer =
                    crate::layer::Layer::of_image(&self.0.store, descriptor, *diff_id, parent.as_ref())?;
                parent = Some(layer.chain_id());
                Ok(layer)
            })
            .collect()
    }

    /// The store it is in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Whether this is the machine's own root ([`Image::host`]).
    pub fn is_host(&self) -> bool {
        matches!(self.0.source, Source::Host { .. })
    }

    /// Gives it a name, which is taken from the image that had it.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name, or one with a digest; `Unsupported` for the host image.
    pub fn tag(&self, name: &str) -> Result<Reference> {
        let name: Reference = name.parse()?;
        if name.digest().is_some() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("image name {name}: a digest can't be given"),
            ));
        }
        if self.is_host() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the host image is not in the store and has no name",
            )
            .with_remedy("name it as it is: Image::host, on the command line @host"));
        }
        self.call(&name)?;
        Ok(name)
    }

    /// Lists it under a name, or a repository with a digest.
    pub(crate) fn call(&self, name: &Reference) -> Result<()> {
        let digest = &self.0.listed.digest;
        if !self.0.store.index()?.manifests.iter().any(|other| other.digest == *digest) {
            // One that was made of another, or lost its names: it may not be on the disk yet.
            self.0.store.sync()?;
        }
        self.0.store.update_index(|index| {
            set_name(index, &self.entry(index, name), Some(name));
            Ok(())
        })
    }

    /// What an index is to have of it under a name. What another name led to in a registry says nothing of this one, but where
    /// that is the digest that it has for a name.
    pub(crate) fn entry(&self, index: &Index, name: &Reference) -> Descriptor {
        let mine = |other: &&Descriptor| other.digest == self.0.listed.digest;
        if let Some(entry) =
            index.manifests.iter().filter(mine).find(|other| name_of(other).as_ref() == Some(name))
        {
            return entry.clone();
        }
        let mut entry = self.0.listed.clone();
        if origin_of(&entry).as_ref() != name.digest() {
            entry.annotations.remove(ORIGIN);
            entry.annotations.remove(ORIGIN_PLATFORM);
        }
        entry
    }

    pub(crate) fn source(&self) -> &Source {
        &self.0.source
    }

    /// Its unpacked layers, the top first; none for the host image. Layers that are not unpacked yet (another
    /// tool put the image into the store) are unpacked now.
    pub(crate) fn layer_dirs(&self) -> Result<Vec<UnpackedLayer>> {
        if self.0.unpacked.get().is_none() && !self.is_host() {
            let layers = unpack::all(&self.0.store, &self.0.manifest, &self.0.config)?;
            // Another thread may have been faster, with the same layers.
            let _ = self.0.unpacked.set(layers);
        }
        Ok(self.0.unpacked.get().cloned().unwrap_or_default())
    }

    /// Whether the store has all its blobs, by their sizes.
    #[cfg(any(feature = "registry", feature = "build"))]
    pub(crate) fn is_whole(&self) -> bool {
        let all = self.0.manifest.layers().iter().chain([self.0.manifest.config()]);
        let mut sizes = all.map(|blob| (self.0.store.blob_size(&blob.digest), blob.size));
        sizes.all(|(found, size)| found.is_ok_and(|found| found == Some(size)))
    }

    /// Its entry in the store's index.
    #[cfg(feature = "registry")]
    pub(crate) fn listed(&self) -> &Descriptor {
        &self.0.listed
    }

    #[cfg(feature = "registry")]
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Whether it is what this digest leads to in a registry.
    #[cfg(feature = "registry")]
    pub(crate) fn is_from(&self, digest: &Digest) -> bool {
        self.0.listed.digest == *digest || origin_of(&self.0.listed).as_ref() == Some(digest)
    }

    /// The image of a manifest that a container pins; `None` where it is not in the store.
    pub(crate) fn by_digest(store: &Store, digest: &Digest) -> Result<Option<Self>> {
        let Some(size) = store.blob_size(digest)? else { return Ok(None) };
        Self::from_listed(store, &Descriptor::new(media::MANIFEST, *digest, size)).map(Some)
    }

    /// The image that an entry of the store's index leads to.
    pub(crate) fn from_listed(store: &Store, listed: &Descriptor) -> Result<Self> {
        Self::open_as(store, listed, None)
    }

    fn open_as(store: &Store, listed: &Descriptor, fixed: Option<SystemTime>) -> Result<Self> {
        let (manifest, lease) = resolve(listed, &mut |descriptor| {
            let lease = store.lease_blob(&descriptor.digest)?;
            Ok((store.read_blob_small(&descriptor.digest, DOCUMENT_MAX)?, lease))
        })?;
        check_shape(&manifest)?;
        let raw = store.read_blob_small(&manifest.config().digest, DOCUMENT_MAX)?;
        let config = parse_config(&manifest, raw)
            .map_err(|error| error.with_path(store.blob_path(&manifest.config().digest)))?;
        check_layers(&manifest, &config)?;
        Ok(Self(Arc::new(Inner {
            store: store.clone(),
            listed: listed.clone(),
            manifest,
            config,
            source: Source::Layers,
            fixed,
            _lease: Some(lease),
            unpacked: OnceLock::new(),
        })))
    }
}

/// How deep indexes of indexes may be.
pub(crate) const NESTING: usize = 4;

/// Reads the manifest of a descriptor; of an index, the one for this machine.
fn resolve<T>(
    listed: &Descriptor,
    read: &mut impl FnMut(&Descriptor) -> Result<(Vec<u8>, T)>,
) -> Result<(Manifest, T)> {
    let mut at = listed.clone();
    for _ in 0..NESTING {
        let (raw, extra) = read(&at)?;
        match Document::parse(raw).map_err(|error| error.during(format!("reading {}", at.digest)))? {
            Document::Manifest(manifest) => return Ok((*manifest, extra)),
            Document::Index(index) => {
                at = index.choose(&Platform::host(), &at.digest)?.clone();
            }
        }
    }
    Err(Error::new(ErrorKind::InvalidData, format!("index {} leads to indexes only", listed.digest)))
}

/// Refuses artifacts, and layers that nobody here can read.
pub(crate) fn check_shape(manifest: &Manifest) -> Result<()> {
    let config = &manifest.config().media_type;
    if !media::is_config(config) {
        return Err(artifact(config));
    }
    match manifest.layers().iter().find(|layer| !media::is_layer(&layer.media_type)) {
        Some(layer) => {
            Err(Error::new(ErrorKind::Unsupported, format!("layer of type {:?}", layer.media_type)))
        }
        None => Ok(()),
    }
}

fn artifact(config: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("not an image but an artifact of type {config:?}"))
}

/// Reads the configuration of a manifest. What it is may show only now.
pub(crate) fn parse_config(manifest: &Manifest, raw: Vec<u8>) -> Result<ImageConfig> {
    let media_type = &manifest.config().media_type;
    ImageConfig::parse(raw).map_err(|error| match error.kind() {
        ErrorKind::InvalidData if media::is_any_config(media_type) => artifact(media_type).with_source(error),
        _ => error,
    })
}

pub(crate) fn check_layers(manifest: &Manifest, config: &ImageConfig) -> Result<()> {
    let (layers, diff_ids) = (manifest.layers().len(), config.diff_ids().len());
    if layers == diff_ids {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidData,
        format!("manifest of {layers} layers, configuration of {diff_ids}"),
    ))
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("id", self.id()).field("source", &self.0.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
