//! Layers of images: both the blob and the unpacked directory, from whichever is missing.
#![forbid(unsafe_code)]

use super::archive::Compression;
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::manifest::{Descriptor, ImageConfig, Manifest, media};
use crate::store::{Store, UnpackedLayer};
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A layer as the image's configuration and, where there is one, its manifest promise it.
pub(super) struct Promise<'a> {
    pub(super) diff_id: Digest,
    pub(super) chain_id: Digest,
    /// None in docker's archives, which know only the uncompressed digest.
    pub(super) descriptor: Option<&'a Descriptor>,
}

/// What the layer room writes beside an unpacked layer.
#[derive(Serialize, Deserialize)]
struct Meta {
    digest: Option<Digest>,
    #[serde(default)]
    size: u64,
}

/// Makes sure that the store has the layer, blob and directory. `open` gives the blob when it is needed.
pub(super) fn one<R: Read + Send>(
    store: &Store,
    promise: &Promise<'_>,
    lowers: &[UnpackedLayer],
    open: impl FnOnce() -> Result<R>,
) -> Result<(Descriptor, UnpackedLayer)> {
    let unpacked = match store.layer(&promise.diff_id)? {
        None => store.layer(&promise.chain_id)?,
        some => some,
    };
    let has = |digest: &Digest, size| Ok::<_, Error>(store.blob_size(digest)? == Some(size));
    match (promise.descriptor, unpacked) {
        (Some(promised), Some(unpacked)) => {
            if !has(&promised.digest, promised.size)? {
                let mut writer = store.blob_writer()?;
                io::copy(&mut open()?.take(promised.size + 1), &mut writer).call("copying a layer")?;
                writer.finish(Some((promised.digest, promised.size)))?;
            }
            Ok((promised.clone(), unpacked))
        }
        (Some(promised), None) => {
            let expected =
                Expected { blob: Some((promised.digest, promised.size)), diff_id: Some(promise.diff_id) };
            let applied = if has(&promised.digest, promised.size)? {
                apply(store, store.open_blob(&promised.digest)?, expected, lowers)?
            } else {
                apply(store, open()?, expected, lowers)?
            };
            Ok((promised.clone(), applied.unpacked))
        }
        (None, Some(unpacked)) => {
            // The same content is there; the blob that it came from serves as well as this one.
            let meta: Meta = unpacked.meta()?;
            if let Some(digest) = meta.digest
                && has(&digest, meta.size)?
            {
                return Ok((describe(store, digest, meta.size)?, unpacked));
            }
            let applied =
                apply(store, open()?, Expected { blob: None, diff_id: Some(promise.diff_id) }, lowers)?;
            Ok((describe(store, applied.digest, applied.size)?, applied.unpacked))
        }
        (None, None) => {
            let applied =
                apply(store, open()?, Expected { blob: None, diff_id: Some(promise.diff_id) }, lowers)?;
            Ok((describe(store, applied.digest, applied.size)?, applied.unpacked))
        }
    }
}

/// Makes sure that all layers of an image in the store are unpacked; the lowest first.
pub(super) fn all(store: &Store, manifest: &Manifest, config: &ImageConfig) -> Result<Vec<UnpackedLayer>> {
    let mut layers: Vec<UnpackedLayer> = Vec::new();
    for ((descriptor, diff_id), chain_id) in
        manifest.layers().iter().zip(config.diff_ids()).zip(config.chain_ids())
    {
        let promise = Promise { diff_id: *diff_id, chain_id, descriptor: Some(descriptor) };
        let open = || store.open_blob(&descriptor.digest);
        let (_, layer) = one(store, &promise, &layers, open)
            .map_err(|error| error.during(format!("unpacking the layer {}", descriptor.digest)))?;
        layers.push(layer);
    }
    Ok(layers)
}

/// A descriptor for a layer's blob, by what it begins with.
pub(super) fn describe(store: &Store, digest: Digest, size: u64) -> Result<Descriptor> {
    let mut magic = [0; 4];
    let n = store.open_blob(&digest)?.read_at(&mut magic, 0).call_at("read", store.blob_path(&digest))?;
    let media_type = match Compression::of(&magic[..n]) {
        Compression::Gzip => media::LAYER_GZIP,
        Compression::Zstd => media::LAYER_ZSTD,
        _ => media::LAYER,
    };
    Ok(Descriptor::new(media_type, digest, size))
}

// ---- stands in for the layer room until it is here
pub(super) struct Expected {
    blob: Option<(Digest, u64)>,
    diff_id: Option<Digest>,
}

pub(super) struct Applied {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
    pub(super) unpacked: UnpackedLayer,
}

pub(super) fn apply(
    store: &Store,
    blob: impl Read + Send,
    expected: Expected,
    _lowers: &[UnpackedLayer],
) -> Result<Applied> {
    let mut writer = store.blob_writer()?;
    io::copy(&mut { blob }, &mut writer).call("copying a layer")?;
    let (digest, size) = writer.finish(expected.blob)?;
    let mut text = Vec::new();
    super::archive::decompress(io::BufReader::new(store.open_blob(&digest)?))?
        .read_to_end(&mut text)
        .call("read")?;
    let diff_id = Digest::of(&text);
    if expected.diff_id.is_some_and(|promised| promised != diff_id) {
        return Err(Error::new(ErrorKind::Mismatch, "diff_id"));
    }
    let unpacked = store.stage_layer()?.publish(&diff_id, &Meta { digest: Some(digest), size })?;
    Ok(Applied { digest, size, diff_id, unpacked })
}

pub(super) fn expect(blob: Option<(Digest, u64)>, diff_id: Option<Digest>) -> Expected {
    Expected { blob, diff_id }
}
