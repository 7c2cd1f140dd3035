//! Reads a directory of the host as the entries of a layer: by handle, no link followed, on one file
//! system, in an order that depends on the names alone.
#![forbid(unsafe_code)]

use super::attributes::{Attributes, get_xattrs};
use super::entry::{Entry, EntryKind};
use super::path::{join, text};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Something that has no place in a layer, and why.
pub(super) type LeftOut = (PathBuf, String);

/// Calls `each` with every file beneath `root` and its data; the root itself comes first, as `./`.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    left_out: &mut Vec<LeftOut>,
    each: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    // The first name of every file that has several.
    let mut links = HashMap::new();
    // Directories to visit, the next one last. No more than one is open at a time.
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let Some(dir) = open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY)? else {
            let stat = rustix::fs::statat(root, &path[..], AtFlags::SYMLINK_NOFOLLOW)
                .call_at("fstatat", text(&path))?;
            each(entry(&path, EntryKind::Directory, &stat, Vec::new()), &mut io::empty())?;
            left_out.push((text(&path).to_owned(), "what is mounted here".to_owned()));
            continue;
        };
        let stat = rustix::fs::fstat(&dir).call_at("fstat", text(&path))?;
        let shown = if path.is_empty() { b".".to_vec() } else { path.clone() };
        each(entry(&shown, EntryKind::Directory, &stat, get_xattrs(dir.as_fd(), &path)?), &mut io::empty())?;
        let mut names = Vec::new();
        for item in Dir::read_from(&dir).call_at("readdir", text(&path))? {
            let item = item.call_at("readdir", text(&path))?;
            let name = item.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        let mut directories = Vec::new();
        for name in names {
            let path = join(&path, &name);
            let stat = rustix::fs::statat(&dir, &name[..], AtFlags::SYMLINK_NOFOLLOW)
                .call_at("fstatat", text(&path))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(path);
            } else if name.starts_with(b".wh.") {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    "a file that a layer would take for a whiteout",
                )
                .with_path(text(&path)));
            } else {
                file(dir.as_fd(), &name, path, &stat, &mut links, left_out, each)?;
            }
        }
        todo.extend(directories.into_iter().rev());
    }
    Ok(())
}

fn file(
    dir: BorrowedFd<'_>,
    name: &[u8],
    path: Vec<u8>,
    stat: &Stat,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    left_out: &mut Vec<LeftOut>,
    each: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Socket => {
            left_out.push((text(&path).to_owned(), "a socket".to_owned()));
            return Ok(());
        }
        _ => {
            left_out.push((text(&path).to_owned(), "of unknown kind".to_owned()));
            return Ok(());
        }
    };
    if stat.st_nlink > 1 {
        if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
            let mut link = entry(&path, EntryKind::HardLink, stat, Vec::new());
            link.link = first.clone();
            return each(link, &mut io::empty());
        }
        links.insert((stat.st_dev, stat.st_ino), path.clone());
    }
    match kind {
        EntryKind::File => {
            // A FIFO that takes the file's place must not stop us.
            let Some(fd) = open_name(dir, name, OFlags::RDONLY | OFlags::NONBLOCK, &path)? else {
                left_out.push((text(&path).to_owned(), "a file that is mounted here".to_owned()));
                return Ok(());
            };
            let stat = rustix::fs::fstat(&fd).call_at("fstat", text(&path))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(
                    Error::new(ErrorKind::InUse, "a file changed while it was read").with_path(text(&path))
                );
            }
            let mut found = entry(&path, kind, &stat, get_xattrs(fd.as_fd(), &path)?);
            found.size = stat.st_size as u64;
            each(found, &mut File::from(fd))
        }
        EntryKind::Symlink => {
            let mut found = entry(&path, kind, stat, Vec::new());
            let target = rustix::fs::readlinkat(dir, name, Vec::new()).call_at("readlinkat", text(&path))?;
            found.link = target.into_bytes();
            each(found, &mut io::empty())
        }
        _ => {
            let mut found = entry(&path, kind, stat, Vec::new());
            if kind != EntryKind::Fifo {
                found.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            }
            each(found, &mut io::empty())
        }
    }
}

fn entry(path: &[u8], kind: EntryKind, stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Entry {
    let Attributes { mode, uid, gid, mtime, xattrs } = Attributes::of_file(stat, xattrs);
    Entry { mode, uid, gid, mtime, xattrs, ..Entry::new(path, kind) }
}

/// Opens beneath `root`, through no link and no mount; `None` where something is mounted.
fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
    let name = if path.is_empty() { b"." } else { path };
    open_name(root, name, flags, path)
}

fn open_name(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, path: &[u8]) -> Result<Option<OwnedFd>> {
    let how = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match crate::sys::open::openat2(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), how)
    {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno).call_at("openat2", text(path)),
    }
}
