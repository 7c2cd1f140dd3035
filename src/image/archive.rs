//! An archive of images as something to look files up in.
//!
//! The outer archive is only indexed, never unpacked: names in it are keys of a table and touch no
//! path of the host. What can't be read at any place (a stream, a compressed archive) is first
//! written to a nameless file of the store, so memory stays bounded whatever the order is.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::tar::{EntryKind, ReadLimits, Reader};
use crate::layer::{Compression, decoder};
use crate::store::{Room, Store};
use crate::sys::open::openat2;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The most entries of an outer archive: each layer takes one to three.
const ENTRIES_MAX: u64 = 65_536;
/// The memory that their names may take: a name of an archive of images is some 80 bytes long.
const NAMES_MAX: usize = 32 << 20;
/// The most bytes of an outer archive, uncompressed: a bomb ends here, or where the disk is to stay free.
const ARCHIVE_MAX: u64 = 256 << 30;
/// How many links may lead from one name to its file.
const LINKS_MAX: usize = 8;
const BUFFER: usize = 256 << 10;

/// Where blobs are looked up.
pub(super) enum Medium {
    Directory(OwnedFd),
    Archive(Archive),
}

pub(super) struct Archive {
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// A link to another name of the archive.
    Link(Vec<u8>),
}

/// A piece of a file, read at its own pace.
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Section {
    pub(super) fn len(&self) -> u64 {
        self.end - self.at
    }

    /// Its first bytes, enough to tell compressions apart.
    pub(super) fn head(&self) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        let start = Section { file: self.file.clone(), ..*self };
        start.take(6).read_to_end(&mut head).call("read")?;
        Ok(head)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Medium {
    pub(super) fn open(store: &Store, path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).call_at("open", path)?);
        let kind = file.metadata().call_at("fstat", path)?;
        if kind.is_dir() {
            return Ok(Self::Directory(file.into()));
        }
        if !kind.is_file() {
            return Self::from_reader(store, file);
        }
        let mut magic = [0; 6];
        let n = file.read_at(&mut magic, 0).call_at("read", path)?;
        if Compression::detect(&magic[..n])? == Compression::None {
            return Archive::index(file).map(Self::Archive);
        }
        Self::from_reader(store, file)
    }

    pub(super) fn from_reader(store: &Store, reader: impl Read + Send) -> Result<Self> {
        let mut spool = spool_file(store)?;
        let (_, plain) = decoder(BufReader::with_capacity(BUFFER, reader))?;
        // One more: an archive of just that size is not too large.
        let mut reader = plain.take(ARCHIVE_MAX + 1);
        let mut buffer = vec![0; BUFFER];
        let mut room = Room::default();
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            spool.write_all(&buffer[..n]).call_at("write", store.path().join("tmp"))?;
            room.take(&spool, n as u64)?;
        }
        if reader.limit() == 0 {
            return Err(Error::new(ErrorKind::TooLarge, format!("archive of more than {ARCHIVE_MAX} bytes")));
        }
        Archive::index(spool).map(Self::Archive)
    }

    /// Opens a file by its name inside; `None` where there is none.
    pub(super) fn get(&self, name: &str) -> Result<Option<Section>> {
        match self {
            Self::Archive(archive) => archive.get(name),
            Self::Directory(dir) => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = match openat2(dir, name, flags, Mode::empty(), resolve) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                    other => File::from(other.call_at("openat2", name)?),
                };
                let metadata = file.metadata().call_at("fstat", name)?;
                if !metadata.is_file() {
                    return Err(Error::new(ErrorKind::InvalidData, "not a regular file").with_path(name));
                }
                Ok(Some(Section { file: Arc::new(file), at: 0, end: metadata.len() }))
            }
        }
    }

    /// Reads a document whole.
    pub(super) fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.get(name)? else { return Ok(None) };
        if section.len() > max {
            return Err(Error::new(ErrorKind::TooLarge, format!("{name:.200} of more than {max} bytes")));
        }
        let mut bytes = Vec::new();
        section.take(max).read_to_end(&mut bytes).call_at("read", name)?;
        Ok(Some(bytes))
    }
}

impl Archive {
    fn index(mut file: File) -> Result<Self> {
        file.rewind().call("lseek")?;
        let end = file.metadata().call("fstat")?.len();
        let file = Arc::new(file);
        let section = Section { file: file.clone(), at: 0, end };
        // Digests tell whether all is there.
        let limits = ReadLimits { headers: ENTRIES_MAX, unterminated: true, ..ReadLimits::default() };
        let mut reader = Reader::new(BufReader::with_capacity(BUFFER, section), limits);
        let mut members = HashMap::new();
        let mut memory = 0;
        while let Some(entry) = reader.next()? {
            memory += entry.path.len() + entry.link.len();
            if memory > NAMES_MAX {
                let what = format!("archive of images with more than {} MiB of names", NAMES_MAX >> 20);
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
            let member = match entry.kind() {
                _ if entry.sparse => {
                    return Err(Error::new(ErrorKind::Unsupported, "a sparse file in an archive of images")
                        .with_path(entry.path()));
                }
                EntryKind::File => Member::File { offset: reader.position(), size: entry.size() },
                EntryKind::Symlink => {
                    // Relative to the directory it is in.
                    let parent = entry.path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                    Member::Link([&entry.path[..parent], &entry.link].concat())
                }
                EntryKind::HardLink => Member::Link(entry.link.clone()),
                _ => continue,
            };
            // What leads outside is nobody's name.
            let Some(name) = normal(&entry.path) else { continue };
            if members.insert(name, member).is_some() {
                return Err(Error::new(ErrorKind::InvalidData, "archive with two entries of one name")
                    .with_path(entry.path()));
            }
        }
        Ok(Self { file, members })
    }

    fn get(&self, name: &str) -> Result<Option<Section>> {
        let mut name = normal(name.as_bytes());
        for _ in 0..LINKS_MAX {
            match name.as_ref().and_then(|name| self.members.get(name)) {
                None => return Ok(None),
                Some(Member::Link(target)) => name = normal(target),
                Some(&Member::File { offset, size }) => {
                    return Ok(Some(Section {
                        file: self.file.clone(),
                        at: offset,
                        end: offset.saturating_add(size),
                    }));
                }
            }
        }
        Err(Error::new(
            ErrorKind::InvalidData,
            format!(
                "archive with links in a circle from {:?}",
                name.map(|name| String::from_utf8_lossy(&name).into_owned())
            ),
        ))
    }
}

/// A name without `.`, `..` and double slashes; `None` when it is absolute or leads out of the archive.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    if name.first() == Some(&b'/') {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// A file without a name: the kernel frees it by itself.
fn spool_file(store: &Store) -> Result<File> {
    let (lease, name) = store.new_tmp_file()?;
    rustix::fs::unlinkat(store.tmp_dir(), &name, AtFlags::empty()).call_at("unlinkat", &name)?;
    lease.into_file()
}

/// Broken compression is the archive's fault, an errno the machine's.
fn unreadable(error: io::Error) -> Error {
    let kind = error.raw_os_error().is_none();
    let error = Error::os("reading the archive", error);
    if kind && error.kind() == ErrorKind::Io { error.with_kind(ErrorKind::InvalidData) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, want) in [
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("a/../b", Some("b")),
            ("../b", None),
            ("a/../../b", None),
            ("/etc/passwd", None),
            ("", Some("")),
        ] {
            assert_eq!(normal(name.as_bytes()), want.map(|want| want.as_bytes().to_vec()), "{name}");
        }
    }
}
