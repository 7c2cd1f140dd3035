//! A layer's blob, in one pass: hashed, stored, uncompressed, hashed again, unpacked, each in its own thread.
//!
//! ```text
//! source ─▶ digest, blob ─▶ decompress ─┬▶ diff_id
//!                                       └▶ unpack (the calling thread)
//! ```
//! A plain archive skips the middle: its digest is its diff_id. Nothing is published before all of it
//! is known to be right.
#![forbid(unsafe_code)]

use super::below::Lower;
use super::compression::{Compression, MAGIC, decoder};
use super::flow::{Pool, Sender, Stream, channel, stopped};
use super::meta::LayerMeta;
use super::owner::{self, Owners};
use super::tar::{ReadLimits, Reader};
use super::unpack::{Limits, Outcome, Target, Unpacker};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{BlobWriter, Store, UnpackedLayer};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::cell::OnceCell;
use std::io::{BufRead, Read, Write};
use std::thread::{Scope, ScopedJoinHandle};

/// What a blob was promised to be. What is not known is not compared.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    pub(crate) diff_id: Option<Digest>,
}

/// A layer that is in the store, as a blob and unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) chain_id: Digest,
    pub(crate) compression: Compression,
    pub(crate) unpacked: UnpackedLayer,
    /// Entries of the archive.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) entries: u64,
}

/// OCI image-spec, config.md, "Layer ChainID": of the lowest layer its diff_id.
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        None => *diff_id,
    }
}

/// The layers below one, the topmost first.
#[derive(Clone, Copy)]
pub(crate) enum Lowers<'a> {
    /// They are there.
    Ready(&'a [UnpackedLayer]),
    #[cfg(feature = "registry")]
    /// They are being made: this waits for them, and is called when something of them is asked for.
    Later(&'a dyn Fn() -> Result<Vec<UnpackedLayer>>),
}

impl<'a, T: AsRef<[UnpackedLayer]> + ?Sized> From<&'a T> for Lowers<'a> {
    fn from(layers: &'a T) -> Self {
        Self::Ready(layers.as_ref())
    }
}

/// The unpacked layer, if the store has it with these owners.
pub(crate) fn find(
    store: &Store,
    diff_id: &Digest,
    chain_id: &Digest,
    owners: &dyn Owners,
) -> Result<Option<UnpackedLayer>> {
    let base = owners.base();
    if let Some(layer) = store.layer(&base.file(diff_id))? {
        // As the lowest layer of an image it is filed here too when it would be another above others.
        if diff_id == chain_id || layer.meta::<LayerMeta>()?.self_contained {
            return Ok(Some(layer));
        }
    }
    if diff_id == chain_id { Ok(None) } else { store.layer(&base.file(chain_id)) }
}

/// Takes a layer's blob from outside into the store and unpacks it above `lowers`, the topmost first;
/// `parent` is their chain_id. A layer that is unpacked already is verified and stored, no more.
///
/// # Errors
/// `Mismatch` when it is not what was expected; `InvalidData`, `TooLarge`, `Unsupported` for an archive
/// that is broken, hostile or beyond the limits. The layer is not in the store then.
pub(crate) fn apply<'a>(
    store: &Store,
    blob: impl Read + Send,
    expected: Expected,
    lowers: impl Into<Lowers<'a>>,
    parent: Option<Digest>,
) -> Result<Applied> {
    let owners = owner::for_caller();
    let job =
        Job { store, expected, lowers: lowers.into(), parent, owners: &*owners, limits: Limits::default() };
    job.run(blob, Some(store.blob_writer()?))
}

/// Unpacks a blob that is in the store already, verifying it again.
///
/// # Errors
/// As [`apply`]; `NotFound` when there is no such blob.
pub(crate) fn unpack_stored<'a>(
    store: &Store,
    digest: Digest,
    diff_id: Option<Digest>,
    lowers: impl Into<Lowers<'a>>,
    parent: Option<Digest>,
) -> Result<Applied> {
    let owners = owner::for_caller();
    let expected = Expected { digest: Some(digest), size: None, diff_id };
    let job =
        Job { store, expected, lowers: lowers.into(), parent, owners: &*owners, limits: Limits::default() };
    job.run(store.open_blob(&digest)?, None).map_err(|error| match error.kind() {
        ErrorKind::Mismatch => error.with_path(store.blob_path(&digest)).with_remedy(Store::HEAL),
        _ => error,
    })
}

/// One blob's way into the store.
pub(super) struct Job<'a> {
    pub(super) store: &'a Store,
    pub(super) expected: Expected,
    pub(super) lowers: Lowers<'a>,
    pub(super) parent: Option<Digest>,
    pub(super) owners: &'a dyn Owners,
    pub(super) limits: Limits,
}

/// Where the compressed bytes go.
enum Sink {
    Blob(BlobWriter),
    Hash(Sha256, u64),
}

impl Sink {
    fn add(&mut self, chunk: &Bytes) -> Result<()> {
        match self {
            Self::Blob(writer) => writer.write_all(chunk).call("write"),
            Self::Hash(hasher, size) => {
                hasher.update(chunk);
                *size += chunk.len() as u64;
                Ok(())
            }
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Blob(writer) => writer.size(),
            Self::Hash(_, size) => *size,
        }
    }

    /// Publishes the blob if it is as promised.
    fn finish(self, expected: &Expected) -> Result<(Digest, u64)> {
        let size = self.size();
        if let Some(promised) = expected.size
            && promised != size
        {
            return Err(wrong_size(expected, size, promised));
        }
        match self {
            Self::Blob(writer) => writer.finish(expected.digest.map(|digest| (digest, size))),
            Self::Hash(hasher, size) => {
                let digest = Digest::finish(hasher);
                match expected.digest {
                    Some(promised) if promised != digest => Err(Error::new(
                        ErrorKind::Mismatch,
                        format!("blob {promised}: its content has digest {digest}"),
                    )),
                    _ => Ok((digest, size)),
                }
            }
        }
    }
}

fn wrong_size(expected: &Expected, size: u64, promised: u64) -> Error {
    let name = expected.digest.map_or_else(|| "of a layer".to_owned(), |digest| digest.to_string());
    Error::new(
        ErrorKind::Mismatch,
        format!("blob {name}: {size} bytes or more instead of the promised {promised}"),
    )
}

/// What came out of the threads.
struct Passed {
    sink: Sink,
    /// `None` for a plain archive, where it is the digest.
    diff_id: Option<Digest>,
    bytes: u64,
    made: Option<(crate::store::StagedLayer, Outcome)>,
}

/// What is done with the uncompressed archive beside hashing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It is unpacked.
    Unpack,
    /// It is read to its end, to see that it is an archive.
    Read,
    /// Nothing: this very archive has been unpacked before.
    Drop,
}

/// A blob in the store.
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
    pub(super) compression: Compression,
    bytes: u64,
    made: Option<(crate::store::StagedLayer, Outcome)>,
}

impl Job<'_> {
    /// Stores an archive without unpacking it.
    pub(super) fn store(&self, blob: impl Read + Send, then: Then) -> Result<Stored> {
        self.verified(blob, Sink::Blob(self.store.blob_writer()?), then)
    }

    pub(super) fn run(&self, blob: impl Read + Send, writer: Option<BlobWriter>) -> Result<Applied> {
        let known = match &self.expected.diff_id {
            Some(diff_id) => {
                find(self.store, diff_id, &chain_id(self.parent.as_ref(), diff_id), self.owners)?
            }
            None => None,
        };
        let sink = match writer {
            Some(writer) => Sink::Blob(writer),
            None => Sink::Hash(Sha256::new(), 0),
        };
        let then = if known.is_some() { Then::Drop } else { Then::Unpack };
        let Stored { digest, size, diff_id, compression, bytes, made } = self.verified(blob, sink, then)?;
        let chain_id = chain_id(self.parent.as_ref(), &diff_id);
        let applied =
            |unpacked, entries| Applied { digest, size, diff_id, chain_id, compression, unpacked, entries };
        // The store may have it since, or all along where the diff_id was not known before.
        let known = match known {
            Some(layer) => Some(layer),
            None => find(self.store, &diff_id, &chain_id, self.owners)?,
        };
        if let Some(layer) = known {
            let entries = layer.meta::<LayerMeta>()?.entries;
            return Ok(applied(layer, entries));
        }
        let Some((staged, outcome)) = made else {
            return Err(Error::new(ErrorKind::State, "a layer was not unpacked"));
        };
        let base = self.owners.base();
        let key = base.file(if outcome.meta.self_contained { &diff_id } else { &chain_id });
        let (diff_id, chain_id, digest) = (Some(diff_id), Some(chain_id), Some(digest));
        let meta = LayerMeta { diff_id, chain_id, base, digest, size, bytes, ..outcome.meta };
        Ok(applied(staged.publish(&key, &meta)?, meta.entries))
    }

    /// One pass over the blob, which is published if it is what was expected.
    fn verified(&self, mut blob: impl Read + Send, sink: Sink, then: Then) -> Result<Stored> {
        let pool = Pool::default();
        let first = pool.read(&mut blob).call("reading a layer")?;
        let compression = Compression::detect(&first[..first.len().min(MAGIC)])?;
        let Passed { sink, diff_id, bytes, made } = self.pass(blob, first, &pool, compression, sink, then)?;
        let mut expected = self.expected;
        match diff_id {
            Some(found) => {
                if let Some(promised) = expected.diff_id.filter(|&promised| promised != found) {
                    return Err(wrong_diff_id(&promised, &found));
                }
            }
            // The digest of a plain archive is its diff_id.
            None => match (expected.digest, expected.diff_id) {
                (Some(digest), Some(diff_id)) if digest != diff_id => {
                    return Err(wrong_diff_id(&diff_id, &digest));
                }
                (digest, diff_id) => expected.digest = digest.or(diff_id),
            },
        }
        let (digest, size) = sink.finish(&expected)?;
        Ok(Stored { digest, size, diff_id: diff_id.unwrap_or(digest), compression, bytes, made })
    }

    /// Runs the threads.
    fn pass(
        &self,
        blob: impl Read + Send,
        first: Bytes,
        pool: &Pool,
        compression: Compression,
        sink: Sink,
        then: Then,
    ) -> Result<Passed> {
        std::thread::scope(|scope| {
            let (to_next, compressed) = channel();
            let expected = self.expected;
            let intake = spawn(scope, "coracle-blob", {
                let pool = pool.clone();
                move || take_in(blob, first, &pool, sink, &to_next, &expected)
            })?;
            let (inflate, hash, plain) = match compression {
                Compression::None => (None, None, compressed),
                _ => {
                    let (to_hash, hashed) = channel();
                    let (to_unpack, plain) = channel();
                    let max = self.limits.bytes;
                    let inflate = spawn(scope, "coracle-inflate", {
                        let pool = pool.clone();
                        move || decompress(compressed, &pool, &to_hash, &to_unpack, max)
                    })?;
                    let hash = spawn(scope, "coracle-diff-id", move || digest_of(hashed))?;
                    (Some(inflate), Some(hash), plain)
                }
            };
            let made = match then {
                Then::Unpack => self.unpack(plain).map(Some),
                Then::Read => read_through(plain).map(|()| None),
                Then::Drop => drain(plain).map(|()| None),
            };

            let sink = join(intake)?;
            // An error here came first, or the intake would have had its own.
            let inflated = inflate.map(join).transpose();
            let hashed = hash.map(join).transpose();
            let result = match (inflated, made, hashed) {
                (Ok(inflated), Ok(made), Ok(hashed)) => {
                    let bytes = inflated.unwrap_or_else(|| sink.size());
                    if let Some(max) = self.limits.bytes
                        && bytes > max
                    {
                        return Err(too_large(max));
                    }
                    return Ok(Passed { sink, diff_id: hashed, bytes, made });
                }
                // A thread that could not go on because another one stopped says so; that one knows why.
                (Err(error), _, _) if !is_stopped(&error) => error,
                (_, Err(error), _) => error,
                (_, _, Err(error)) | (Err(error), _, _) => error,
            };
            // A blob that is not what was promised explains any other error.
            if self.expected.digest.is_some() || self.expected.size.is_some() {
                let expected = Expected { diff_id: None, ..self.expected };
                match sink {
                    Sink::Blob(writer) if self.expected.digest.is_none() => {
                        if let Some(promised) = expected.size.filter(|&size| size != writer.size()) {
                            return Err(wrong_size(&expected, writer.size(), promised));
                        }
                    }
                    sink => _ = sink.finish(&expected)?,
                }
            }
            Err(result)
        })
    }

    pub(super) fn unpack(&self, mut plain: Stream) -> Result<(crate::store::StagedLayer, Outcome)> {
        let staged = self.store.stage_layer()?;
        let loaded = OnceCell::new();
        let load = || {
            let layers: &Vec<UnpackedLayer> = match self.lowers {
                Lowers::Ready(layers) => loaded.get_or_init(|| layers.to_vec()),
                #[cfg(feature = "registry")]
                Lowers::Later(wait) => {
                    let layers = wait()?;
                    loaded.get_or_init(|| layers)
                }
            };
            Ok(layers.iter().map(|layer| Lower::new(layer.dir(), || layer.meta())).collect())
        };
        let target = Target { limits: self.limits.clone(), ..Target::for_caller(self.owners) };
        // Where a digest is promised, it says whether the archive is whole.
        let verified = self.expected.digest.is_some() || self.expected.diff_id.is_some();
        let limits = ReadLimits { unterminated: verified, ..ReadLimits::default() };
        let mut reader = Reader::new(&mut plain, limits);
        let outcome = Unpacker::later(staged.dir(), Box::new(load), &target)?.unpack(&mut reader)?;
        // What follows the end mark belongs to the digest.
        drain(plain)?;
        Ok((staged, outcome))
    }
}

fn wrong_diff_id(promised: &Digest, found: &Digest) -> Error {
    Error::new(ErrorKind::Mismatch, format!("layer {promised}: its archive has digest {found}"))
}

fn too_large(max: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("layer of more than {max} bytes"))
}

pub(super) fn is_stopped(error: &Error) -> bool {
    // Nothing else in here breaks a pipe.
    error.kind() == ErrorKind::Gone
}

const STOPPED: &str = "reading an archive";

/// Hashes, stores and hands on what comes in.
fn take_in(
    mut blob: impl Read,
    first: Bytes,
    pool: &Pool,
    mut sink: Sink,
    next: &Sender,
    expected: &Expected,
) -> Result<Sink> {
    let mut chunk = first;
    let mut wanted = true;
    loop {
        let end = chunk.is_empty();
        sink.add(&chunk)?;
        if let Some(promised) = expected.size.filter(|&promised| sink.size() > promised) {
            return Err(wrong_size(expected, sink.size(), promised));
        }
        if wanted {
            wanted = next.send(chunk).is_ok();
        }
        // When nobody wants more, an archive is broken, or so it seems: what was promised will tell.
        if end || !wanted && expected.digest.is_none() && expected.size.is_none() {
            return Ok(sink);
        }
        chunk = pool.read(&mut blob).call("reading a layer")?;
    }
}

fn decompress(
    compressed: Stream,
    pool: &Pool,
    to_hash: &Sender,
    to_unpack: &Sender,
    max: Option<u64>,
) -> Result<u64> {
    let (_, mut plain) = decoder(compressed)?;
    let mut bytes = 0;
    loop {
        let chunk = pool.read(&mut plain).call(STOPPED)?;
        let end = chunk.is_empty();
        bytes += chunk.len() as u64;
        if let Some(max) = max.filter(|&max| bytes > max) {
            return Err(too_large(max));
        }
        if to_hash.send(chunk.clone()).is_err() || to_unpack.send(chunk).is_err() {
            return Err(stopped()).call(STOPPED);
        }
        if end {
            return Ok(bytes);
        }
    }
}

fn digest_of(mut stream: Stream) -> Result<Digest> {
    let mut hasher = Sha256::new();
    while let Some(chunk) = stream.chunk().call(STOPPED)? {
        hasher.update(&chunk);
    }
    Ok(Digest::finish(hasher))
}

fn read_through(mut plain: Stream) -> Result<()> {
    let mut reader = Reader::new(&mut plain, ReadLimits::default());
    while let Some(entry) = reader.next()? {
        super::path::normal(&entry.path)?;
    }
    drain(plain)
}

fn drain(mut stream: impl BufRead) -> Result<()> {
    loop {
        let n = stream.fill_buf().call(STOPPED)?.len();
        if n == 0 {
            return Ok(());
        }
        stream.consume(n);
    }
}

pub(super) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).call("starting a thread")
}

pub(super) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
