//! Layers: the archives that images are made of, and the directories they become.
//!
//! A [`Layer`] is a blob in the store, verified when it came in. `apply` unpacks it into a directory for an
//! overlay mount; `unpack` says what becomes of each kind of entry.
#![forbid(unsafe_code)]

mod acl;
mod apply;
pub(crate) mod archive;
mod attributes;
mod below;
mod build;
mod changed;
mod compression;
mod content;
mod difference;
mod entry;
mod flatten;
mod flow;
mod holes;
mod mapped;
mod meta;
pub(crate) mod overlay;
mod owner;
mod pack;
mod path;
mod pax;
#[cfg(feature = "build")]
mod plain;
mod root;
mod sparse;
pub(crate) mod tar;
#[cfg(test)]
mod testing;
mod unpack;
mod verify;
mod view;
mod walk;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Descriptor, media};
use crate::store::{Lease, Store, UnpackedLayer};
pub(crate) use apply::{Applied, Expected, Lowers, apply, chain_id, find, unpack_stored};
#[cfg(feature = "build")]
pub(crate) use attributes::get_xattrs;
pub(crate) use below::{Below, Found, Lower, opaque_name};
pub use build::LayerBuilder;
pub(crate) use changed::{Changed, Onto, Scan};
pub use compression::Compression;
#[cfg(feature = "build")]
pub(crate) use compression::MAGIC;
pub(crate) use compression::decoder;
pub use content::{Entries, LayerFile};
pub(crate) use difference::{Became, Difference, View};
pub(crate) use entry::Mtime;
pub use entry::{Entry, EntryKind};
pub(crate) use flatten::Flattened;
pub(crate) use holes::copy as copy_content;
pub use overlay::{Overlay, OverlayMount};
pub(crate) use owner::{Owned, Owners, for_caller};
#[cfg(feature = "registry")]
pub(crate) use pack::pack;
pub(crate) use path::{join, normal, split};
pub(crate) use root::{RootDir, root_dir};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub(crate) use verify::verify;

/// One layer of an image: an immutable archive of files in the store. Cloning it is cheap.
///
/// The store keeps the blob while a handle exists.
///
/// ```
/// use coracle::{Layer, Store};
/// use std::io::Read;
/// let store = Store::temp()?;
/// let layer = Layer::builder().file("etc/motd", "ahoy\n").symlink("motd", "etc/greeting").build(&store)?;
/// let mut text = String::new();
/// layer.open("etc/greeting")?.read_to_string(&mut text).unwrap();
/// assert_eq!(text, "ahoy\n");
/// assert_eq!(layer.entries()?.count(), 2);
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone)]
pub struct Layer(Arc<Inner>);

struct Inner {
    store: Store,
    digest: Digest,
    size: u64,
    diff_id: Digest,
    chain_id: Digest,
    media_type: String,
    left_out: Vec<(PathBuf, String)>,
    _lease: Lease,
}

impl Layer {
    /// Makes a layer out of files, directories and archives.
    pub fn builder() -> LayerBuilder {
        LayerBuilder::default()
    }

    /// Takes an archive, plain or compressed, from a reader, byte for byte.
    ///
    /// # Errors
    /// `InvalidData`, `TooLarge` or `Unsupported` when it is not an archive that a layer can be.
    pub fn read(store: &Store, archive: impl Read + Send) -> Result<Self> {
        build::take(store, archive)
    }

    fn new(
        store: &Store,
        digest: Digest,
        size: u64,
        diff_id: Digest,
        compression: Compression,
        left_out: Vec<(PathBuf, String)>,
    ) -> Result<Self> {
        let media_type = match compression {
            Compression::None => media::LAYER,
            Compression::Gzip => media::LAYER_GZIP,
            Compression::Zstd => media::LAYER_ZSTD,
        };
        let _lease = store.lease_blob(&digest)?;
        let (store, media_type) = (store.clone(), media_type.to_owned());
        Ok(Self(Arc::new(Inner {
            store,
            digest,
            size,
            diff_id,
            chain_id: diff_id,
            media_type,
            left_out,
            _lease,
        })))
    }

    /// A layer of an image. `parent`: the chain_id of the layers below it.
    pub(crate) fn of_image(
        store: &Store,
        descriptor: &Descriptor,
        diff_id: Digest,
        parent: Option<&Digest>,
    ) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            store: store.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            diff_id,
            chain_id: chain_id(parent, &diff_id),
            media_type: descriptor.media_type.clone(),
            left_out: Vec::new(),
            _lease: store.lease_blob(&descriptor.digest)?,
        })))
    }

    /// The store it is in.
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.0.media_type, self.0.digest, self.0.size)
    }

    /// The digest of the blob, compressed as it is.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The digest of the archive, uncompressed: what the configuration of an image lists.
    pub fn diff_id(&self) -> Digest {
        self.0.diff_id
    }

    /// What identifies this layer together with all below it: for a layer that is not part of an image,
    /// and for the lowest of one, its diff_id (OCI image-spec, config.md, "Layer ChainID").
    pub fn chain_id(&self) -> Digest {
        self.0.chain_id
    }

    /// The size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// For example `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub fn media_type(&self) -> &str {
        &self.0.media_type
    }

    /// What the builder met in a directory that has no place in a layer, and why: sockets, other mounts.
    pub fn left_out(&self) -> &[(PathBuf, String)] {
        &self.0.left_out
    }

    /// The entries of the archive in its order, whiteouts and devices included.
    ///
    /// # Errors
    /// Of the system when the blob can't be opened; the iterator's own for a broken archive.
    pub fn entries(&self) -> Result<Entries> {
        content::entries(&self.0.store, &self.0.digest)
    }

    /// Opens a regular file of the layer. Symbolic and hard links are followed inside of the layer; layers below are not looked at.
    ///
    /// # Errors
    /// `NotFound` where the layer has no such file or a whiteout; `InvalidInput` for a directory or device.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<LayerFile> {
        let path = path.as_ref();
        if let Some(unpacked) = find(&self.0.store, &self.0.diff_id, &self.0.chain_id, &*owner::for_caller())?
            && let Some(file) = content::open_unpacked(&unpacked, path)?
        {
            return Ok(file);
        }
        content::open_archived(&self.0.store, &self.0.digest, path)
    }

    /// Unpacks the layer above `below`, the topmost first, unless the store has it so already. Gives the
    /// directory, fit to be a lower directory of an overlay; it belongs to the store and must not be changed.
    /// It may be removed when no image has the layer.
    ///
    /// # Errors
    /// `InvalidData`, `TooLarge` or `Unsupported` for an archive that is broken, hostile or beyond the limits (five million files,
    /// 256 GiB); `StorageFull` where less of the disk would stay free than a fiftieth (at most 256 MiB); `InvalidInput` when one of
    /// `below` is of another store. Nothing of the layer stays then.
    pub fn unpack(&self, below: &[Layer]) -> Result<PathBuf> {
        Ok(self.unpacked(below)?[0].fs_path())
    }

    /// The same with all those below it, the topmost first.
    fn unpacked(&self, below: &[Layer]) -> Result<Vec<UnpackedLayer>> {
        let _writing = self.0.store.writing()?;
        let owners = owner::for_caller();
        let mut lowers: Vec<UnpackedLayer> = Vec::new();
        let mut parent = None;
        for layer in below.iter().rev().chain([self]) {
            if layer.0.store.path() != self.0.store.path() {
                return Err(Error::new(ErrorKind::InvalidInput, "layers of different stores"));
            }
            let (store, digest, diff_id) = (&layer.0.store, layer.0.digest, layer.0.diff_id);
            let chain_id = chain_id(parent.as_ref(), &diff_id);
            let unpacked = match find(store, &diff_id, &chain_id, &*owners)? {
                Some(unpacked) => unpacked,
                None => unpack_stored(store, digest, Some(diff_id), &lowers, parent)?.unpacked,
            };
            lowers.insert(0, unpacked);
            parent = Some(chain_id);
        }
        Ok(lowers)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("digest", &self.0.digest)
            .field("diff_id", &self.0.diff_id)
            .field("size", &self.0.size)
            .finish_non_exhaustive()
    }
}
