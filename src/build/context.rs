//! The build context: the files that COPY and ADD may take, from a directory without what a `.dockerignore` leaves out, or from
//! an archive.
#![forbid(unsafe_code)]

use super::disk::Disk;
use super::memory::Memory;
use super::stats::Stats;
use super::tree::{Tree, clean, resolve, text};
use crate::dockerfile::Ignore;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{EntryKind, decoder};
use crate::store::Store;
use std::io::{BufReader, Read};
use std::path::Path;

/// A Dockerfile or a `.dockerignore` is no longer.
const TEXT_MAX: u64 = 16 << 20;

/// Where COPY and ADD take files from. Its files are looked at once, when they are asked for first; what they have in them is read
/// only if it may have changed since another build of the same directory.
pub(crate) struct Context {
    kind: Kind,
}

enum Kind {
    Disk(Disk),
    Memory(Memory),
}

impl Context {
    /// A directory of the host. What is known of its files is kept in the store.
    ///
    /// # Errors
    /// Those of opening it.
    pub(crate) fn dir(store: &Store, path: &Path) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let path = path.canonicalize().call_at("realpath", path)?;
        let stats = Stats::open(store, path.as_os_str().as_bytes());
        Ok(Self { kind: Kind::Disk(Disk::open(&path, Ignore::default(), Some(stats))?) })
    }

    /// A tar archive, plain or compressed, which is read to its end. Its files belong to root.
    ///
    /// # Errors
    /// `InvalidData` for what is no archive, `TooLarge` beyond 256 GiB, `Unsupported` for a compression that is not known,
    /// `StorageFull` where some of the disk would not stay free.
    pub(crate) fn tar(store: &Store, reader: impl Read + Send) -> Result<Self> {
        let read = || {
            let (_, plain) = decoder(BufReader::new(reader))?;
            Memory::read(store, plain)
        };
        let memory = read().map_err(|error: Error| error.during("reading the context's archive"))?;
        Ok(Self { kind: Kind::Memory(memory) })
    }

    /// A Dockerfile without a context: `docker build -` with one as its input.
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Memory(Memory::default()) }
    }

    /// What a file of the context has in it, a Dockerfile's name with its directories. No `.dockerignore` leaves it out.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for what is no regular file; `TooLarge` for more than 16 MiB.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self.optional(name)? {
            Some(bytes) => Ok(bytes),
            None => Err(Error::new(ErrorKind::NotFound, "no such file in the context").with_path(name)),
        }
    }

    fn optional(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let (path, leads_out) = clean(name.as_bytes());
        if leads_out || path.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "no file of the context").with_path(name));
        }
        match &self.kind {
            Kind::Disk(disk) => disk.text(&path, TEXT_MAX),
            Kind::Memory(memory) => bytes(&mut memory.any(), &path),
        }
    }

    /// Whether it came as an archive, or is empty: no `.dockerignore` counts then.
    pub(crate) fn is_archive(&self) -> bool {
        matches!(self.kind, Kind::Memory(_))
    }

    /// Whether it is none of a directory and has no files at all.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.kind, Kind::Memory(memory) if memory.is_empty())
    }

    /// What is to be ignored for the Dockerfile of this name: `NAME.dockerignore` beside it, or else `.dockerignore`.
    ///
    /// # Errors
    /// `InvalidData` with the line for a pattern that is none; as [`read`](Self::read).
    pub(crate) fn ignore_of(&self, dockerfile: Option<&str>) -> Result<Ignore> {
        let own = dockerfile.map(|name| format!("{name}.dockerignore"));
        for name in own.into_iter().chain([".dockerignore".to_owned()]) {
            if let Some(bytes) = self.optional(&name)? {
                return Ignore::parse(bytes).map_err(|error| error.during(format!("reading {name}")));
            }
        }
        Ok(Ignore::default())
    }

    /// The same files without those that are ignored.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn ignoring(self, ignore: Ignore) -> Result<Self> {
        let kind = match self.kind {
            Kind::Disk(disk) => Kind::Disk(disk.ignoring(ignore)?),
            Kind::Memory(mut memory) => {
                memory.ignore(&ignore);
                Kind::Memory(memory)
            }
        };
        Ok(Self { kind })
    }

    /// Keeps what was read for the next build; so does its end, with a warning where it fails.
    ///
    /// # Errors
    /// Those of writing into the store.
    pub(crate) fn save(&self) -> Result<()> {
        match &self.kind {
            Kind::Disk(disk) => disk.save(),
            Kind::Memory(_) => Ok(()),
        }
    }

    /// Does something with its files.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut dyn Tree) -> Result<T>) -> Result<T> {
        match &self.kind {
            Kind::Disk(disk) => work(&mut &*disk),
            Kind::Memory(memory) => work(&mut &*memory),
        }
    }
}

/// What a regular file has in it, where a path leads to one.
fn bytes(tree: &mut dyn Tree, path: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some((at, item)) = resolve(tree, path)? else { return Ok(None) };
    if item.entry.kind != EntryKind::File {
        return Err(Error::new(ErrorKind::InvalidInput, "not a regular file").with_path(text(path)));
    }
    if item.entry.size > TEXT_MAX {
        let what = format!("a file of more than {TEXT_MAX} bytes");
        return Err(Error::new(ErrorKind::TooLarge, what).with_path(text(path)));
    }
    let mut bytes = Vec::new();
    tree.open(&at, &item, &mut |_, data| {
        data.take(TEXT_MAX).read_to_end(&mut bytes).call_at("read", text(path)).map(drop)
    })?;
    Ok(Some(bytes))
}
