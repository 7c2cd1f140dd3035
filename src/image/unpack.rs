//! Layers of images: both the blob and the unpacked directory, from whichever is missing.
#![forbid(unsafe_code)]

use super::archive::Section;
use crate::digest::Digest;
use crate::error::{Call, Result};
use crate::layer::{Applied, Compression, Expected, Lowers, Owners, apply, find, for_caller, unpack_stored};
use crate::manifest::{Descriptor, ImageConfig, Manifest, media};
use crate::store::{Store, UnpackedLayer};
use serde::Deserialize;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// The layers of one image, from the lowest up.
pub(super) struct Stack<'a> {
    store: &'a Store,
    /// The topmost first.
    layers: Vec<UnpackedLayer>,
    chain_id: Option<Digest>,
    owners: Box<dyn Owners>,
}

/// What the layer room writes beside an unpacked layer, as far as it matters here.
#[derive(Deserialize)]
struct Meta {
    digest: Option<Digest>,
    #[serde(default)]
    size: u64,
}

impl<'a> Stack<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, layers: Vec::new(), chain_id: None, owners: for_caller() }
    }

    /// The layers so far, the topmost first.
    pub(super) fn layers(self) -> Vec<UnpackedLayer> {
        self.layers
    }

    /// Makes sure that the store has the next layer, blob and directory; see [`ensure`].
    pub(super) fn add<R: Read + Send>(
        &mut self,
        descriptor: &Descriptor,
        diff_id: &Digest,
        open: impl FnOnce() -> Result<R>,
    ) -> Result<()> {
        let below = Lowers::Ready(&self.layers);
        let layer = ensure(self.store, &*self.owners, descriptor, diff_id, below, self.chain_id, open)?;
        self.push(layer, diff_id);
        Ok(())
    }

    /// Unpacks the next layer, whose blob the store has, where it is not unpacked yet.
    fn add_stored(&mut self, descriptor: &Descriptor, diff_id: &Digest) -> Result<()> {
        let layer = match self.find(diff_id)? {
            Some(layer) => layer,
            None => {
                unpack_stored(self.store, descriptor.digest, Some(*diff_id), &self.layers, self.chain_id)?
                    .unpacked
            }
        };
        self.push(layer, diff_id);
        Ok(())
    }

    /// The same for a layer of which only the diff_id is known, as in docker's archives. Gives its descriptor.
    pub(super) fn add_unknown(
        &mut self,
        diff_id: &Digest,
        open: impl FnOnce() -> Result<Section>,
    ) -> Result<Descriptor> {
        if let Some(layer) = self.find(diff_id)? {
            // The same content is there; the blob that it came from serves as well as this one.
            let Meta { digest, size } = layer.meta()?;
            if let Some(digest) = digest
                && self.store.is_sound(&digest, size)?
            {
                self.push(layer, diff_id);
                return describe(self.store, digest, size);
            }
        }
        let blob = open()?;
        let mut expected = Expected { diff_id: Some(*diff_id), ..Expected::default() };
        if Compression::detect(&blob.head()?)? == Compression::None {
            // Then it is the blob's digest too, and a broken archive is told from another one.
            (expected.digest, expected.size) = (Some(*diff_id), Some(blob.len()));
        }
        let applied = apply(self.store, blob, expected, &self.layers, self.chain_id)?;
        let descriptor = describe_applied(&applied);
        self.push(applied.unpacked, diff_id);
        Ok(descriptor)
    }

    fn find(&self, diff_id: &Digest) -> Result<Option<UnpackedLayer>> {
        find(self.store, diff_id, &self.next(diff_id), &*self.owners)
    }

    fn next(&self, diff_id: &Digest) -> Digest {
        crate::layer::chain_id(self.chain_id.as_ref(), diff_id)
    }

    fn push(&mut self, layer: UnpackedLayer, diff_id: &Digest) {
        self.chain_id = Some(self.next(diff_id));
        self.layers.insert(0, layer);
    }
}

/// Makes sure that the store has a layer of an image, blob and directory; `parent` is the chain_id of those below it.
/// `open` gives the blob when it is needed. What the store has of it already is verified, and replaced where it is damaged.
pub(crate) fn ensure<R: Read + Send>(
    store: &Store,
    owners: &dyn Owners,
    descriptor: &Descriptor,
    diff_id: &Digest,
    lowers: Lowers<'_>,
    parent: Option<Digest>,
    open: impl FnOnce() -> Result<R>,
) -> Result<UnpackedLayer> {
    let Descriptor { digest, size, .. } = *descriptor;
    let chain_id = crate::layer::chain_id(parent.as_ref(), diff_id);
    if let Some(layer) = find(store, diff_id, &chain_id, owners)? {
        if !store.is_sound(&digest, size)? {
            let mut writer = store.blob_writer()?;
            io::copy(&mut open()?.take(size.saturating_add(1)), &mut writer).call("copying a layer")?;
            writer.finish(Some((digest, size)))?;
        }
        return Ok(layer);
    }
    if store.blob_size(&digest)? == Some(size) {
        match unpack_stored(store, digest, Some(*diff_id), lowers, parent) {
            Ok(applied) => return Ok(applied.unpacked),
            // The same content from outside, were it that, would say the same again.
            Err(error) if !store.is_sound(&digest, size)? => {
                tracing::warn!(%error, %digest, store = ?store.path(), "a damaged blob is replaced");
            }
            Err(error) => return Err(error),
        }
    }
    let expected = Expected { digest: Some(digest), size: Some(size), diff_id: Some(*diff_id) };
    Ok(apply(store, open()?, expected, lowers, parent)?.unpacked)
}

/// Makes sure that all layers of an image in the store are unpacked; the topmost first.
pub(super) fn all(store: &Store, manifest: &Manifest, config: &ImageConfig) -> Result<Vec<UnpackedLayer>> {
    let mut stack = Stack::new(store);
    for (descriptor, diff_id) in manifest.layers().iter().zip(config.diff_ids()) {
        stack
            .add_stored(descriptor, diff_id)
            .map_err(|error| error.during(format!("unpacking the layer {}", descriptor.digest)))?;
    }
    Ok(stack.layers())
}

/// The layer of a root filesystem's archive.
pub(super) fn import(store: &Store, archive: impl Read + Send) -> Result<(Descriptor, Digest)> {
    let applied = apply(store, archive, Expected::default(), Lowers::Ready(&[]), None)?;
    Ok((describe_applied(&applied), applied.diff_id))
}

fn describe_applied(applied: &Applied) -> Descriptor {
    Descriptor::new(media_type(applied.compression), applied.digest, applied.size)
}

/// A descriptor for a layer's blob, by what it begins with.
fn describe(store: &Store, digest: Digest, size: u64) -> Result<Descriptor> {
    let mut head = [0; 6];
    let n = store.open_blob(&digest)?.read_at(&mut head, 0).call_at("read", store.blob_path(&digest))?;
    Ok(Descriptor::new(media_type(Compression::detect(&head[..n])?), digest, size))
}

fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => media::LAYER,
        Compression::Gzip => media::LAYER_GZIP,
        Compression::Zstd => media::LAYER_ZSTD,
    }
}
