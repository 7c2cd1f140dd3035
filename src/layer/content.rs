//! Looking into a layer: its entries, and single files of it.
#![forbid(unsafe_code)]

use super::attributes::proc_path;
use super::compression::decoder;
use super::entry::{Entry, EntryKind};
use super::path::{Meaning, join, meaning, normal, split, text};
use super::tar::{ReadLimits, Reader};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{Store, UnpackedLayer};
use bytes::Buf;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

type Archive = Reader<BufReader<Box<dyn Read + Send>>>;

/// The entries of a layer, read from its archive as they are asked for.
pub struct Entries {
    reader: Option<Archive>,
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        let next = self.reader.as_mut()?.next().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.reader = None;
        }
        next
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

/// A regular file of a layer or of an image, for reading.
pub struct LayerFile(Source);

enum Source {
    Unpacked(File),
    Archived(Box<Archive>),
}

impl LayerFile {
    pub(crate) fn unpacked(file: File) -> Self {
        Self(Source::Unpacked(file))
    }
}

impl Read for LayerFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Unpacked(file) => file.read(buffer),
            Source::Archived(archive) => archive.read(buffer),
        }
    }
}

impl fmt::Debug for LayerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerFile").finish_non_exhaustive()
    }
}

fn archive(store: &Store, digest: &Digest) -> Result<Archive> {
    let (_, plain) = decoder(BufReader::with_capacity(64 << 10, store.map_blob(digest)?.reader()))?;
    // The blob was verified when it came in, so where it stops, it ends.
    let limits = ReadLimits { unterminated: true, ..ReadLimits::default() };
    Ok(Reader::new(BufReader::with_capacity(64 << 10, plain), limits))
}

pub(super) fn entries(store: &Store, digest: &Digest) -> Result<Entries> {
    Ok(Entries { reader: Some(archive(store, digest)?) })
}

/// Opens a file of the unpacked layer; `None` where only the archive can tell.
pub(super) fn open_unpacked(layer: &UnpackedLayer, path: &Path) -> Result<Option<LayerFile>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let found = match crate::sys::open::openat2(layer.dir(), path, flags, Mode::empty(), how) {
        Ok(found) => found,
        // A device is not there, and not nothing. A directory may be closed to this user.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(None),
        Err(errno) => return Err(errno).call_at("openat2", path),
    };
    let stat = rustix::fs::fstat(&found).call_at("fstat", path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    // Only now that it is known to be a regular file.
    match rustix::fs::open(proc_path(&found), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(LayerFile(Source::Unpacked(File::from(fd))))),
        Err(Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno).call_at("open", path),
    }
}

/// As many links as the kernel follows.
const LINKS_MAX: u32 = 40;

/// Number in the archive, kind and target of each file, by name.
type Names = HashMap<Vec<u8>, (usize, EntryKind, Vec<u8>)>;

/// The memory that the names of a layer may take: some million files.
const NAMES_MAX: usize = 256 << 20;

fn names(entries: impl Iterator<Item = Result<Entry>>, max: usize) -> Result<Names> {
    let mut names = Names::new();
    let mut memory = 0;
    for (number, entry) in entries.enumerate() {
        let entry = entry?;
        let name = normal(&entry.path)?;
        if !name.is_empty() && meaning(&name)? == Meaning::File {
            let link = match entry.kind {
                EntryKind::HardLink => normal(&entry.link)?,
                _ => entry.link,
            };
            memory += name.len() + link.len() + size_of::<(Vec<u8>, (usize, EntryKind, Vec<u8>))>();
            if memory > max {
                let what = format!("layer with more than {} MiB of names", max >> 20);
                return Err(Error::new(ErrorKind::TooLarge, what)
                    .with_remedy("unpack the layer: a file on disk is found without them"));
            }
            names.insert(name, (number, entry.kind, link));
        }
    }
    Ok(names)
}

/// Finds a file in the archive, in a first pass over all names, and reads it in a second.
pub(super) fn open_archived(store: &Store, digest: &Digest, path: &Path) -> Result<LayerFile> {
    let number = resolve(&names(entries(store, digest)?, NAMES_MAX)?, path)?;
    let mut reader = archive(store, digest)?;
    for _ in 0..=number {
        reader.next()?;
    }
    Ok(LayerFile(Source::Archived(Box::new(reader))))
}

/// Follows links as the kernel would with the layer as root.
fn resolve(names: &Names, path: &Path) -> Result<usize> {
    let missing = || Error::new(ErrorKind::NotFound, "no such file in the layer").with_path(path);
    let mut todo: Vec<Vec<u8>> = Vec::new();
    let push = |todo: &mut Vec<Vec<u8>>, path: &[u8]| {
        todo.extend(path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
    };
    push(&mut todo, path.as_os_str().as_bytes());
    let mut at = Vec::new();
    let mut links = 0;
    let mut file = None;
    while let Some(part) = todo.pop() {
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                at = split(&at).0.to_vec();
                file = None;
                continue;
            }
            _ => {}
        }
        if file.is_some() {
            return Err(missing());
        }
        let here = join(&at, &part);
        match names.get(&here) {
            Some((_, EntryKind::Symlink, target)) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(missing());
                }
                if target.starts_with(b"/") {
                    at.clear();
                }
                push(&mut todo, target);
                continue;
            }
            Some((_, EntryKind::HardLink, target)) => {
                // Its target is a file, or another name of one.
                let mut target = target;
                while let Some((_, EntryKind::HardLink, next)) = names.get(target) {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(missing());
                    }
                    target = next;
                }
                file = Some(names.get(target).ok_or_else(missing)?);
            }
            Some(found @ (_, kind, _)) if *kind != EntryKind::Directory => file = Some(found),
            // A directory, or one that the archive does not have itself.
            _ => {}
        }
        at = here;
    }
    match file {
        Some((number, EntryKind::File, _)) => Ok(*number),
        Some((_, kind, _)) => {
            Err(Error::new(ErrorKind::InvalidInput, format!("not a regular file but a {kind:?}"))
                .with_path(path))
        }
        None if at.is_empty() || names.keys().any(|name| text(name).starts_with(text(&at))) => {
            Err(Error::new(ErrorKind::InvalidInput, "not a regular file but a directory").with_path(path))
        }
        None => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_for_names_is_bounded() {
        let files = |n: usize| (0..n).map(|n| Ok(Entry::new(format!("dir/{n}"), EntryKind::File)));
        assert_eq!(names(files(1000), 1 << 20).unwrap().len(), 1000);
        assert_eq!(names(files(100_000), 1 << 20).unwrap_err().kind(), ErrorKind::TooLarge);
        // Also where one name is given again and again, each time with a longer target.
        let link = |n: usize| Entry { link: vec![b'x'; n << 10], ..Entry::new("link", EntryKind::Symlink) };
        assert_eq!(names((0..1000).map(|n| Ok(link(n))), 1 << 20).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
