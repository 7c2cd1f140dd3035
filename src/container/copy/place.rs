//! Entries become files: each made anew beneath a directory that is held by its handle, over what had its name.
#![forbid(unsafe_code)]

use super::hands::{BENEATH, Dress, Hands, New, content, is, kind, text};
use super::walk::{Data, LeftOut};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, Missing, words};
use crate::layer::tar::Reader;
use crate::layer::{Entry, EntryKind, Mtime, join, normal, split};
use crate::sys::idmap::IdMap;
use rustix::fs::{FileType, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How often a name is taken from what somebody puts there again and again.
const TRIES: u32 = 16;
/// Directories that are remembered to the end, for their times.
const DIRECTORIES_MAX: usize = 5_000_000;

/// Whose the files become.
pub(super) enum Owner<'a> {
    /// In a container: its root's, or as they were, where it has these ids.
    Root,
    Same(&'a IdMap),
    /// The caller's.
    Caller,
    /// As they were, where the caller may.
    Kept,
}

/// Links in the names of an archive, which lead where the container's own do.
pub(super) struct Followed<'a> {
    pub root: BorrowedFd<'a>,
    /// Of the directory, in the root.
    pub path: Vec<u8>,
}

pub(super) struct Place<'a> {
    pub hands: &'a Hands<'a>,
    pub base: OwnedFd,
    /// What the top is to be called in there; without, its content goes there.
    pub name: Option<Vec<u8>>,
    pub owner: Owner<'a>,
    pub followed: Option<Followed<'a>>,
    pub entries: u64,
    pub bytes: u64,
    /// What files did not get.
    lost: LeftOut,
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// What they are to have when all is in them.
    directories: BTreeMap<Vec<u8>, (u32, Mtime)>,
}

fn conflict(what: &'static str) -> Error {
    Error::new(ErrorKind::AlreadyExists, what)
        .with_remedy("remove what is there first, or copy to another place")
}

impl<'a> Place<'a> {
    pub fn new(hands: &'a Hands<'a>, base: OwnedFd, name: Option<Vec<u8>>, owner: Owner<'a>) -> Self {
        Self {
            hands,
            base,
            name,
            owner,
            followed: None,
            entries: 0,
            bytes: 0,
            lost: Vec::new(),
            parent: None,
            directories: BTreeMap::new(),
        }
    }

    /// An entry of a tree, whose paths and targets of hard links begin at its top.
    pub fn add(&mut self, entry: Entry, data: Data<'_>) -> Result<()> {
        let under = |name: &Option<Vec<u8>>, path: &[u8]| match name {
            Some(name) if path.is_empty() => name.clone(),
            Some(name) => join(name, path),
            None => path.to_vec(),
        };
        let path = under(&self.name, &entry.path);
        let link = match entry.kind {
            EntryKind::HardLink => under(&self.name, &entry.link),
            _ => Vec::new(),
        };
        self.put(&path, &link, entry, |file, entry| match data {
            Data::None => Ok(0),
            Data::Bytes(bytes) => {
                { file }.write_all(bytes).call_at("write", text(&entry.path))?;
                Ok(bytes.len() as u64)
            }
            Data::File(from, is_sparse) => content(from, entry.size, is_sparse, file, &entry.path),
        })
    }

    /// An entry of an archive.
    pub fn add_archived<R: BufRead>(&mut self, entry: Entry, data: &mut Reader<R>) -> Result<()> {
        let path = normal(&entry.path)?;
        let link = match entry.kind {
            EntryKind::HardLink => normal(&entry.link)?,
            _ => Vec::new(),
        };
        self.put(&path, &link, entry, |file, entry| {
            let shown = text(&entry.path);
            let mut written = 0;
            while let Some((offset, chunk)) = data.chunk()? {
                if offset != written {
                    let at = rustix::fs::SeekFrom::Start(offset);
                    rustix::fs::seek(file, at).call_at("lseek", shown)?;
                }
                let n = { file }.write(chunk).call_at("write", shown)?;
                written = offset + n as u64;
                data.consume_chunk(n);
            }
            if written != entry.size {
                rustix::fs::ftruncate(file, entry.size).call_at("ftruncate", shown)?;
            }
            Ok(entry.size)
        })
    }

    fn put(
        &mut self,
        path: &[u8],
        link: &[u8],
        entry: Entry,
        write: impl FnOnce(&File, &Entry) -> Result<u64>,
    ) -> Result<()> {
        if path.is_empty() {
            return match entry.kind {
                EntryKind::Directory => Ok(()),
                _ => Err(Error::new(ErrorKind::InvalidData, "a file in place of the destination")),
            };
        }
        self.made(path, link, entry, write).map_err(|error| match error.path() {
            Some(inner) if inner == text(path) => error,
            _ => error.with_path(text(path)),
        })?;
        self.entries += 1;
        Ok(())
    }

    fn made(
        &mut self,
        path: &[u8],
        link: &[u8],
        entry: Entry,
        write: impl FnOnce(&File, &Entry) -> Result<u64>,
    ) -> Result<()> {
        let (parent, name) = split(path);
        let dir = self.parent(parent)?.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
        let dir = dir.as_fd();
        let (owner, mode) = self.dressed(&entry)?;
        match entry.kind {
            EntryKind::Directory => {
                let made = self.directory(dir, name)?;
                let dress = Dress { owner, mode: Some(mode | 0o700), xattrs: &entry.xattrs, mtime: None };
                self.dress(made.as_fd(), &dress, path)?;
                if self.directories.len() >= DIRECTORIES_MAX {
                    return Err(Error::new(ErrorKind::TooLarge, "more than five million directories"));
                }
                self.directories.insert(path.to_vec(), (mode, entry.mtime));
                Ok(())
            }
            EntryKind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let made = self.replace(dir, name, |hands| hands.open(dir, name, flags, BENEATH))?;
                let file = File::from(made);
                self.bytes += write(&file, &entry)?;
                let dress =
                    Dress { owner, mode: Some(mode), xattrs: &entry.xattrs, mtime: Some(entry.mtime) };
                self.dress(file.as_fd(), &dress, path)
            }
            EntryKind::HardLink => {
                let (parent, first) = split(link);
                if first.is_empty() {
                    return Err(Error::new(ErrorKind::InvalidData, "a hard link to the destination itself"));
                }
                let of = self.parent(parent)?.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
                if link == path {
                    return Err(Error::new(ErrorKind::InvalidData, "a hard link to itself"));
                }
                self.replace(dir, name, |hands| hands.make(dir, name, &New::Link(of.as_fd(), first)))
            }
            EntryKind::Symlink | EntryKind::Fifo => {
                let new = match entry.kind {
                    EntryKind::Symlink => New::Symlink(&entry.link),
                    _ => New::Fifo,
                };
                self.replace(dir, name, |hands| hands.make(dir, name, &new))?;
                let mode = (entry.kind == EntryKind::Fifo).then_some(mode);
                let made = self.hands.open(dir, name, OFlags::PATH | OFlags::NOFOLLOW, BENEATH)?;
                let dress = Dress { owner, mode, xattrs: &[], mtime: Some(entry.mtime) };
                self.dress(made.as_fd(), &dress, path)
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                let error = Error::new(ErrorKind::Unsupported, "a device in an archive");
                Err(error.with_remedy("give a device to a container with ContainerBuilder::device"))
            }
        }
    }

    fn dress(&mut self, file: BorrowedFd<'_>, dress: &Dress<'_>, path: &[u8]) -> Result<()> {
        if !self.hands.dress(file, dress, path)? {
            self.lost
                .push((text(path).to_owned(), "its extended attributes: the filesystem has none".into()));
        }
        Ok(())
    }

    /// Owner and mode of a new file. With another owner than it had, nothing is executed as the owner.
    fn dressed(&self, entry: &Entry) -> Result<(Option<(u32, u32)>, u32)> {
        let ids = (entry.uid, entry.gid);
        let is_dir = entry.kind == EntryKind::Directory;
        let plain = |is_same: bool| if is_same || is_dir { entry.mode } else { entry.mode & !0o6000 };
        match &self.owner {
            Owner::Root => Ok((Some((0, 0)), plain(ids == (0, 0)))),
            Owner::Caller => Ok((None, plain(false))),
            // Where the caller may not, the mode is made plain then.
            Owner::Kept => Ok((Some(ids), entry.mode)),
            Owner::Same(map) => {
                if map.user(ids.0).is_some() && map.group(ids.1).is_some() {
                    return Ok((Some(ids), entry.mode));
                }
                let what = format!("a file of user {} and group {} in the container", ids.0, ids.1);
                let error = Error::new(ErrorKind::Unsupported, what.clone());
                Err(match map.is_single() {
                    true => error.lacks(Missing::new(Feature::SubIds, what, words::UIDMAP)),
                    false => error.with_remedy("the container has no such ids: copy without archive"),
                })
            }
        }
    }

    /// The directory of an entry.
    fn parent(&mut self, path: &[u8]) -> Result<&OwnedFd> {
        if self.parent.as_ref().is_none_or(|(known, _)| known != path) {
            let opened = self.enter(path)?;
            self.parent = None;
            return Ok(&self.parent.insert((path.to_vec(), opened)).1);
        }
        match &self.parent {
            Some((_, dir)) => Ok(dir),
            None => Ok(&self.base),
        }
    }

    fn enter(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if path.is_empty() {
            return self.base.try_clone().call("fcntl(F_DUPFD_CLOEXEC)");
        }
        let Some(Followed { root, path: base }) = &self.followed else {
            return self.hands.open(self.base.as_fd(), path, flags | OFlags::NOFOLLOW, BENEATH);
        };
        let open = |path: &[u8]| self.hands.open(*root, &join(base, path), flags, self.hands.how);
        match open(path) {
            Err(error) if is(&error, &[Errno::NOENT]) => {}
            other => return other,
        }
        // An archive need not have the directories that its files are in.
        let mut dir = self.base.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
        for end in (1..=path.len()).filter(|&end| end == path.len() || path[end] == b'/') {
            dir = match open(&path[..end]) {
                Err(error) if is(&error, &[Errno::NOENT]) => {
                    let made = self.directory(dir.as_fd(), split(&path[..end]).1)?;
                    let dress = Dress { owner: Some((0, 0)), mode: Some(0o755), ..Dress::default() };
                    self.hands.dress(made.as_fd(), &dress, &path[..end])?;
                    made
                }
                other => other?,
            };
        }
        Ok(dir)
    }

    /// A directory that is there, or is made.
    fn directory(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
        match self.hands.make(dir, name, &New::Directory) {
            Err(error) if is(&error, &[Errno::EXIST]) => {}
            other => other?,
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        self.hands.open(dir, name, flags, BENEATH).map_err(|error| {
            match is(&error, &[Errno::NOTDIR, Errno::LOOP]) {
                true => conflict("a directory in place of what is none").with_source(error),
                false => error,
            }
        })
    }

    /// Makes something under a name that something else may have, which goes then unless it is a directory.
    fn replace<T>(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn(&Hands<'_>) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..TRIES {
            match make(self.hands) {
                Err(error) if is(&error, &[Errno::EXIST]) => {}
                other => return other,
            }
            // From a mount namespace that is not the container's, unlinkat would take the mount away with the name.
            let resolve = BENEATH | ResolveFlags::NO_XDEV;
            match self.hands.open(dir, name, OFlags::PATH | OFlags::NOFOLLOW, resolve) {
                Err(error) if is(&error, &[Errno::XDEV]) => {
                    return Err(Error::os("unlinkat", Errno::BUSY).with_remedy(
                        "something is mounted there: change what is mounted, or write into it from a command",
                    ));
                }
                Err(error) if is(&error, &[Errno::NOENT]) => continue,
                other => drop(other?),
            }
            match self.hands.unlink(dir, name) {
                Err(error) if is(&error, &[Errno::NOENT]) => {}
                Err(error) if is(&error, &[Errno::ISDIR]) => {
                    return Err(conflict("a file in place of a directory").with_source(error));
                }
                other => other?,
            }
        }
        Err(Error::new(ErrorKind::InUse, "somebody puts something there again and again"))
    }

    /// Directories get what they are to have in the end, the deepest first. What somebody has moved away stays as it is.
    pub fn finish(&mut self, left_out: &mut LeftOut) -> Result<()> {
        left_out.append(&mut self.lost);
        for (path, (mode, mtime)) in std::mem::take(&mut self.directories).into_iter().rev() {
            let dir = match self.enter_again(&path) {
                Err(error) if is(&error, &[Errno::NOENT, Errno::NOTDIR, Errno::LOOP]) => {
                    left_out.push((text(&path).to_owned(), "its times: it was replaced meanwhile".into()));
                    continue;
                }
                other => other?,
            };
            // What it had before it was made accessible has no bit more than was asked for.
            let is_dir = rustix::fs::fstat(&dir).is_ok_and(|stat| kind(&stat) == FileType::Directory);
            let mode = (is_dir && mode & 0o700 != 0o700).then_some(mode);
            let dress = Dress { mode, mtime: Some(mtime), ..Dress::default() };
            self.hands.dress(dir.as_fd(), &dress, &path)?;
        }
        Ok(())
    }

    fn enter_again(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match &self.followed {
            None => self.hands.open(self.base.as_fd(), path, flags, BENEATH),
            Some(Followed { root, path: base }) => {
                self.hands.open(*root, &join(base, path), flags, self.hands.how)
            }
        }
    }
}
