//! Images into archives, in the two forms that every engine reads.
//!
//! Blobs go out as the very bytes that are stored, so all digests are the same wherever the archive is loaded. All else
//! is fixed (order, times, owners): the same images give the same archive.
#![forbid(unsafe_code)]

use super::Image;
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::archive::Writer;
use crate::layer::tar::{Entry, EntryKind};
use crate::manifest::{CONTAINERD_NAME, Descriptor, Index, REF_NAME};
use crate::reference::Reference;
use crate::store::Store;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

/// The form of an archive of images, named as `skopeo` and `podman save --format` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ArchiveFormat {
    /// What `docker save` writes since 25: an image layout with docker's `manifest.json` beside it, so it is an OCI archive
    /// too.
    #[default]
    DockerArchive,
    /// An image layout alone (image-spec, `image-layout.md`), as a tar archive.
    OciArchive,
}

/// Writes one or several images into an archive, each blob once.
///
/// ```
/// use coracle::{ArchiveFormat, Image, Import, Save, Store};
/// let store = Store::temp()?;
/// let dir = tempfile::tempdir().unwrap();
/// let image = Import::new().name("app:1").path(&store, dir.path())?;
/// let mut archive = Vec::new();
/// Save::new().format(ArchiveFormat::OciArchive).image(&image)?.write(&mut archive)?;
///
/// let elsewhere = Store::temp()?;
/// assert_eq!(Image::load_reader(&elsewhere, &archive[..])?[0].digest(), image.digest());
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Save {
    format: ArchiveFormat,
    images: Vec<(Image, Vec<Reference>)>,
}

impl Image {
    /// Writes the image with all its names as a [docker archive](ArchiveFormat::DockerArchive), which is not compressed.
    ///
    /// # Errors
    /// As [`Save::write`].
    pub fn save(&self, writer: impl Write) -> Result<()> {
        self.save_as(ArchiveFormat::default(), writer)
    }

    /// The same in a form of choice.
    ///
    /// # Errors
    /// As [`Save::write`].
    pub fn save_as(&self, format: ArchiveFormat, writer: impl Write) -> Result<()> {
        Save::new().format(format).image(self)?.write(writer)
    }
}

impl Save {
    /// With no image yet; a docker archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// The form of the archive.
    pub fn format(mut self, format: ArchiveFormat) -> Self {
        self.format = format;
        self
    }

    /// A further image, with all names that it has now; not with one that is a digest, which no archive can give. Of an
    /// image for several machines, this machine's is written.
    ///
    /// # Errors
    /// Those of [`Image::references`].
    pub fn image(self, image: &Image) -> Result<Self> {
        let names = image.references()?;
        Ok(self.image_as(image, names.into_iter().filter(|name| name.digest().is_none())))
    }

    /// A further image, to be loaded with these names (it need not have them), or with none.
    pub fn image_as(mut self, image: &Image, names: impl IntoIterator<Item = Reference>) -> Self {
        let known = self.images.iter().position(|(other, _)| other.digest() == image.digest());
        let at = known.unwrap_or_else(|| {
            self.images.push((image.clone(), Vec::new()));
            self.images.len() - 1
        });
        let own = &mut self.images[at].1;
        for name in names {
            if !own.contains(&name) {
                own.push(name);
            }
        }
        self
    }

    /// Writes the archive. Every blob is hashed on its way.
    ///
    /// # Errors
    /// `InvalidInput` without an image, or for a name with a digest; `Unsupported` for the host image; `NotFound` or
    /// `Mismatch` for a blob that is missing or damaged; those of the writer. After an error, what was written is no
    /// archive.
    pub fn write(&self, writer: impl Write) -> Result<()> {
        if self.images.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "saving images: none was given"));
        }
        let (mut index, mut docker) = (Index::default(), Vec::new());
        // By digest: sorted, each once. Images may be of several stores.
        let mut blobs: BTreeMap<Digest, (&Store, u64)> = BTreeMap::new();
        for (image, names) in &self.images {
            if image.is_host() {
                return Err(Error::new(ErrorKind::Unsupported, "the host image has no layers to be saved")
                    .with_remedy("import a root filesystem"));
            }
            if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("image name {name}: a digest can't be given"),
                ));
            }
            let (manifest, store) = (&image.0.manifest, image.store());
            let listed = manifest.descriptor();
            index.manifests.extend(named(&listed, names));
            docker.push(in_docker_list(image, names));
            for blob in manifest.layers().iter().chain([manifest.config(), &listed]) {
                blobs.entry(blob.digest).or_insert((store, blob.size));
            }
        }
        let mut archive = Writer::new(writer);
        for dir in ["blobs/", "blobs/sha256/"] {
            archive.entry(&Entry::new(dir, EntryKind::Directory), &mut io::empty())?;
        }
        for (digest, (store, size)) in &blobs {
            add_blob(&mut archive, store, digest, *size)
                .map_err(|error| error.during(format!("saving the blob {digest}")))?;
        }
        let mut add = |name: &str, text: &[u8]| {
            let entry = Entry { size: text.len() as u64, ..Entry::new(name, EntryKind::File) };
            archive.entry(&entry, &mut &text[..])
        };
        add("index.json", &index.encode()?)?;
        if self.format == ArchiveFormat::DockerArchive {
            add("manifest.json", Value::from(docker).to_string().as_bytes())?;
        }
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.finish().map(drop)
    }
}

/// What an index has of an image: an entry for each name.
fn named(listed: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![listed.clone()];
    }
    let named = |name: &Reference| {
        let mut listed = listed.clone();
        listed.annotations.insert(REF_NAME.to_owned(), name.familiar());
        listed.annotations.insert(CONTAINERD_NAME.to_owned(), name.to_string());
        listed
    };
    names.iter().map(named).collect()
}

fn in_docker_list(image: &Image, names: &[Reference]) -> Value {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let layers: Vec<_> = image.layer_descriptors().iter().map(|layer| path(&layer.digest)).collect();
    let names: Vec<_> = names.iter().map(Reference::familiar).collect();
    json!({ "Config": path(image.id()), "RepoTags": names, "Layers": layers })
}

fn add_blob<W: Write>(archive: &mut Writer<W>, store: &Store, digest: &Digest, size: u64) -> Result<()> {
    let damaged = |what: String| {
        Error::new(ErrorKind::Mismatch, what).with_path(store.blob_path(digest)).with_remedy(Store::HEAL)
    };
    let file = store.open_blob(digest)?;
    let length = file.metadata().call_at("fstat", store.blob_path(digest))?.len();
    if length != size {
        return Err(damaged(format!("blob {digest}: {length} bytes instead of {size}")));
    }
    let mut hashed = Hashed { inner: file, hasher: Sha256::new() };
    let path = format!("blobs/sha256/{}", digest.hex());
    archive.entry(&Entry { size, ..Entry::new(path, EntryKind::File) }, &mut hashed)?;
    let found = Digest::finish(hashed.hasher);
    match found == *digest {
        true => Ok(()),
        false => Err(damaged(format!("blob {digest}: its content has digest {found}"))),
    }
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}
