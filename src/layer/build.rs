//! Makes layers out of files, directories and archives.
#![forbid(unsafe_code)]

use super::Layer;
use super::apply::{Expected, Job, Then, join, spawn};
use super::archive::Writer;
use super::changed::{Onto, unpack};
use super::compression::{Compression, decoder};
#[cfg(feature = "build")]
use super::entry::Mtime;
use super::entry::{Entry, EntryKind};
use super::flow::{Chunks, Stream, channel};
use super::pack::pack;
use super::path::{Meaning, meaning, normal, text};
use super::tar::{ReadLimits, Reader};
use super::unpack::Limits;
use super::walk::{LeftOut, walk};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{BlobWriter, Store};
use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Makes a [`Layer`]; see [`Layer::builder`].
///
/// The same input gives the same layer, byte for byte, on any machine: names are sorted, files that are
/// given as bytes are of 1970 and root's. Directories and archives come in the order they were added, then the files
/// that were given one by one; of two files with one name the later counts.
#[derive(Debug, Clone, Default)]
pub struct LayerBuilder {
    sources: Vec<Source>,
    files: BTreeMap<Vec<u8>, (Entry, Bytes)>,
    compression: Option<Compression>,
    owner: Option<(u32, u32)>,
    /// The first mistake; a builder reports it at the end.
    mistake: Option<(ErrorKind, PathBuf, String)>,
}

#[derive(Debug, Clone)]
enum Source {
    Directory(PathBuf),
    Tar(PathBuf),
}

impl LayerBuilder {
    /// What is in a directory of the host becomes the root of the layer, with its owners, modes, times and
    /// extended attributes. Links are not followed, other file systems mounted beneath it are not entered, sockets are left
    /// out: [`Layer::left_out`] tells what.
    pub fn dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::Directory(path.into()));
        self
    }

    /// A tar archive, plain or compressed. Alone in a layer it is taken as it is, byte for byte,
    /// unless a compression or an owner is asked for, so that the layer has the archive's digest.
    pub fn tar(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::Tar(path.into()));
        self
    }

    /// A file with mode 0644. Directories above it that the layer does not have are those of the layers below.
    pub fn file(self, path: impl AsRef<Path>, bytes: impl Into<Bytes>) -> Self {
        self.file_with_mode(path, bytes, 0o644)
    }

    /// A file with a mode such as `0o755`.
    pub fn file_with_mode(self, path: impl AsRef<Path>, bytes: impl Into<Bytes>, mode: u32) -> Self {
        let bytes = bytes.into();
        let entry = Entry { mode, size: bytes.len() as u64, ..Entry::new("", EntryKind::File) };
        self.add(path.as_ref(), entry, bytes)
    }

    /// A directory with a mode such as `0o755`.
    pub fn directory(self, path: impl AsRef<Path>, mode: u32) -> Self {
        self.add(path.as_ref(), Entry { mode, ..Entry::new("", EntryKind::Directory) }, Bytes::new())
    }

    /// A symbolic link at `path` to `target`, which is kept as it is.
    pub fn symlink(self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Self {
        let link = target.as_ref().as_os_str().as_bytes().to_vec();
        let entry = Entry { mode: 0o777, link, ..Entry::new("", EntryKind::Symlink) };
        self.add(path.as_ref(), entry, Bytes::new())
    }

    /// Hides what the layers below have at `path`.
    pub fn whiteout(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let mut hidden = b".wh.".to_vec();
                hidden.extend_from_slice(name.as_bytes());
                let path = parent.join(text(&hidden));
                self.add_entry(&path, Entry::new("", EntryKind::File), Bytes::new(), true)
            }
            _ => self.mistaken(ErrorKind::InvalidInput, path, "a whiteout needs a name"),
        }
    }

    /// Everything in the layer belongs to this user and group of the image, whoever owns it on the host.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        if uid == u32::MAX || gid == u32::MAX {
            return self.mistaken(ErrorKind::InvalidInput, Path::new(""), "an owner of -1");
        }
        self.owner = Some((uid, gid));
        self
    }

    /// What was given one by one so far is of this time, not of 1970.
    #[cfg(feature = "build")]
    pub(crate) fn mtime(mut self, mtime: Mtime) -> Self {
        self.files.values_mut().for_each(|(entry, _)| entry.mtime = mtime);
        self
    }

    /// How the layer is compressed; gzip unless told otherwise, because every registry and engine takes it. All processors
    /// work on it, and the bytes are the same on any number of them.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Writes the layer into the store. It is unpacked when an image with it is used, or by [`Layer::unpack`].
    ///
    /// # Errors
    /// `InvalidInput` for a path that is empty or has `..`, `NotFound` for a source that is not there,
    /// `InvalidData` for a broken archive, `InUse` where a file changed while it was read, `Unsupported` for zstd
    /// without the feature.
    pub fn build(&self, store: &Store) -> Result<Layer> {
        if let Some((kind, path, what)) = &self.mistake {
            return Err(Error::new(*kind, what.clone()).with_path(path));
        }
        let as_it_is = self.files.is_empty() && self.compression.is_none() && self.owner.is_none();
        if let ([Source::Tar(path)], true) = (&self.sources[..], as_it_is) {
            let file = open(path)?;
            return take(store, file).map_err(|error| error.during(format!("reading the layer {path:?}")));
        }
        let _writing = store.writing()?;
        let compression = self.compression.unwrap_or_default();
        let mut left_out = Vec::new();
        let made = write(store, compression, |output| {
            let mut archive = Writer::new(output);
            let mut add = |mut entry: Entry, data: &mut dyn Read| {
                (entry.uid, entry.gid) = self.owner.unwrap_or((entry.uid, entry.gid));
                archive.entry(&entry, data)
            };
            for source in &self.sources {
                match source {
                    Source::Directory(path) => add_directory(&mut add, path, &mut left_out),
                    Source::Tar(path) => add_archive(&mut add, path),
                }?;
            }
            for (entry, bytes) in self.files.values() {
                add(entry.clone(), &mut &bytes[..])?;
            }
            archive.finish()
        })?;
        Layer::new(store, made.digest, made.size, made.diff_id, compression, left_out)
    }

    fn add(self, path: &Path, entry: Entry, bytes: Bytes) -> Self {
        self.add_entry(path, entry, bytes, false)
    }

    fn add_entry(mut self, path: &Path, mut entry: Entry, bytes: Bytes, whiteout: bool) -> Self {
        let name = match normal(path.as_os_str().as_bytes()) {
            Ok(name) => name,
            Err(error) => return self.mistaken(ErrorKind::InvalidInput, path, error.step()),
        };
        if name.is_empty() && entry.kind != EntryKind::Directory {
            return self.mistaken(ErrorKind::InvalidInput, path, "the root of a layer is a directory");
        }
        if !whiteout && !name.is_empty() && !matches!(meaning(&name), Ok(Meaning::File)) {
            return self.mistaken(ErrorKind::InvalidInput, path, "a name that means a whiteout");
        }
        if entry.kind == EntryKind::Symlink && (entry.link.is_empty() || entry.link.contains(&0)) {
            return self.mistaken(ErrorKind::InvalidInput, path, "a link without a target");
        }
        entry.mode &= 0o7777;
        entry.path = if name.is_empty() { b".".to_vec() } else { name.clone() };
        self.files.insert(name, (entry, bytes));
        self
    }

    fn mistaken(mut self, kind: ErrorKind, path: &Path, what: &str) -> Self {
        self.mistake.get_or_insert_with(|| (kind, path.to_owned(), what.to_owned()));
        self
    }
}

/// Takes an archive as it is.
pub(super) fn take(store: &Store, archive: impl Read + Send) -> Result<Layer> {
    let _writing = store.writing()?;
    let owners = super::owner::for_caller();
    let job = Job {
        store,
        expected: Expected::default(),
        lowers: super::apply::Lowers::Ready(&[]),
        parent: None,
        owners: &*owners,
        limits: Limits::default(),
    };
    let stored = job.store(archive, Then::Read)?;
    Layer::new(store, stored.digest, stored.size, stored.diff_id, stored.compression, Vec::new())
}

fn open(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).call_at("open", path)
}

type Add<'a> = &'a mut dyn FnMut(Entry, &mut dyn Read) -> Result<()>;

fn add_directory(add: Add<'_>, path: &Path, left_out: &mut Vec<LeftOut>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).call_at("open", path)?;
    walk(root.as_fd(), left_out, add).map_err(|error| error.during(format!("reading the directory {path:?}")))
}

fn add_archive(add: Add<'_>, path: &Path) -> Result<()> {
    let mut read = || {
        let (_, plain) = decoder(BufReader::new(open(path)?))?;
        let mut reader = Reader::new(BufReader::with_capacity(128 << 10, plain), ReadLimits::default());
        while let Some(entry) = reader.next()? {
            // What could never be unpacked becomes no layer.
            normal(&entry.path)?;
            add(entry, &mut reader)?;
        }
        Ok(())
    };
    read().map_err(|error: Error| error.during(format!("reading the archive {path:?}")))
}

/// What was written.
pub(crate) struct Written {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

/// Stores what `fill` writes as a blob, compressed; hashing and compressing have threads of their own.
/// The caller holds `store.writing()`.
pub(crate) fn write(
    store: &Store,
    compression: Compression,
    fill: impl FnOnce(Chunks) -> Result<Chunks>,
) -> Result<Written> {
    write_with(store, compression, None, fill)
}

/// The same for a layer that is unpacked meanwhile, by one more thread.
pub(super) fn write_with(
    store: &Store,
    compression: Compression,
    onto: Option<Onto<'_>>,
    fill: impl FnOnce(Chunks) -> Result<Chunks>,
) -> Result<Written> {
    let blob = store.blob_writer()?;
    std::thread::scope(|scope| {
        let (to_blob, plain) = channel();
        let packer = spawn(scope, "coracle-pack", move || match compression {
            Compression::None => keep(plain, blob),
            _ => pack(plain, blob, compression),
        })?;
        let mut senders = vec![to_blob];
        let mut hash = None;
        if compression != Compression::None {
            let (to_hash, plain) = channel();
            hash = Some(spawn(scope, "coracle-diff-id", move || digest_of(plain))?);
            senders.push(to_hash);
        }
        let (mut unpacker, mut scanner) = (None, None);
        if let Some(onto) = onto {
            if let Some(scan) = onto.scan {
                let (to_scan, mut plain) = channel();
                scanner = Some(spawn(scope, "coracle-scan", move || scan(&mut plain))?);
                senders.push(to_scan);
            }
            let (to_unpack, plain) = channel();
            unpacker = Some(spawn(scope, "coracle-unpack", move || unpack(store, &onto, plain))?);
            senders.push(to_unpack);
        }
        let filled = fill(Chunks::new(senders)).and_then(|chunks| chunks.finish().call("writing an archive"));
        let packed = join(packer);
        let hashed = hash.map(join).transpose();
        let unpacked = unpacker.map(join).transpose();
        let scanned = scanner.map(join).transpose();
        // When a thread fails, the others see its channel closed, and those that they write to see theirs: the cause is where none was.
        let mut wrong = Vec::new();
        let parts = (
            sound(filled, &mut wrong),
            sound(packed, &mut wrong),
            sound(unpacked, &mut wrong),
            sound(scanned, &mut wrong),
            sound(hashed, &mut wrong),
        );
        let (Some(()), Some(blob), Some(unpacked), Some(_), Some(diff_id)) = parts else {
            let cause = wrong.iter().position(|error| !super::apply::is_stopped(error)).unwrap_or(0);
            return Err(wrong.swap_remove(cause));
        };
        let bytes = blob.size();
        let (digest, size) = blob.finish(None)?;
        let written = Written { digest, size, diff_id: diff_id.unwrap_or(digest) };
        if let Some(unpacked) = unpacked {
            unpacked.publish(&written, bytes)?;
        }
        Ok(written)
    })
}

fn sound<T>(result: Result<T>, wrong: &mut Vec<Error>) -> Option<T> {
    result.map_err(|error| wrong.push(error)).ok()
}

/// Writes whole chunks.
fn keep(mut plain: Stream, mut blob: BlobWriter) -> Result<BlobWriter> {
    while let Some(chunk) = plain.chunk().call("reading an archive")? {
        blob.write_all(&chunk).call("write")?;
    }
    Ok(blob)
}

fn digest_of(mut stream: Stream) -> Result<Digest> {
    let mut hasher = Sha256::new();
    while let Some(chunk) = stream.chunk().call("reading an archive")? {
        hasher.update(&chunk);
    }
    Ok(Digest::finish(hasher))
}
