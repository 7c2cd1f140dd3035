//! Stands in for the layer room until it is here: stores, verifies, unpacks nothing.
#![forbid(unsafe_code)]
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{Store, UnpackedLayer};
use serde_json::json;
use std::io::{self, BufRead, Cursor, Read};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}
pub(crate) const MAGIC: usize = 6;
impl Compression {
    pub(crate) fn detect(head: &[u8]) -> Result<Self> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', ..] => {
                Err(Error::new(ErrorKind::Unsupported, "archive compressed with xz"))
            }
            _ => Ok(Self::None),
        }
    }
}
pub(crate) fn decoder<'a, R: BufRead + Send + 'a>(
    mut input: R,
) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut head = Vec::new();
    input.by_ref().take(6).read_to_end(&mut head).call("read")?;
    let compression = Compression::detect(&head)?;
    let input = Cursor::new(head).chain(input);
    Ok((
        compression,
        match compression {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input).call("zstd")?),
        },
    ))
}
#[derive(Default, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    pub(crate) diff_id: Option<Digest>,
}
pub(crate) struct Applied {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
    pub(crate) compression: Compression,
    pub(crate) unpacked: UnpackedLayer,
}
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        Some(p) => Digest::of(format!("{p} {diff_id}").as_bytes()),
        None => *diff_id,
    }
}
pub(crate) fn find(store: &Store, diff_id: &Digest, chain_id: &Digest) -> Result<Option<UnpackedLayer>> {
    Ok(match store.layer(diff_id)? {
        None => store.layer(chain_id)?,
        some => some,
    })
}
pub(crate) fn apply(
    store: &Store,
    mut blob: impl Read + Send,
    expected: Expected,
    _lowers: &[UnpackedLayer],
    _parent: Option<Digest>,
) -> Result<Applied> {
    let mut writer = store.blob_writer()?;
    io::copy(&mut blob, &mut writer).call("copying a layer")?;
    let (digest, size) = writer.finish(expected.digest.zip(expected.size))?;
    let mut text = Vec::new();
    let (compression, mut reader) = decoder(io::BufReader::new(store.open_blob(&digest)?))?;
    reader.read_to_end(&mut text).map_err(|e| Error::os("read", e).with_kind(ErrorKind::InvalidData))?;
    let diff_id = Digest::of(&text);
    if expected.diff_id.is_some_and(|promised| promised != diff_id) {
        return Err(Error::new(ErrorKind::Mismatch, "diff_id"));
    }
    if text.len() < 1024 {
        return Err(Error::new(ErrorKind::InvalidData, "no tar"));
    }
    let unpacked = store.stage_layer()?.publish(&diff_id, &json!({"digest": digest, "size": size}))?;
    Ok(Applied { digest, size, diff_id, compression, unpacked })
}
pub(crate) fn unpack_stored(
    store: &Store,
    digest: Digest,
    diff_id: Option<Digest>,
    lowers: &[UnpackedLayer],
    parent: Option<Digest>,
) -> Result<Applied> {
    apply(
        store,
        store.open_blob(&digest)?,
        Expected { digest: Some(digest), size: store.blob_size(&digest)?, diff_id },
        lowers,
        parent,
    )
}
