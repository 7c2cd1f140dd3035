//! A tree of files as the entries of an archive: by handle, through no link, whatever the container does meanwhile.
#![forbid(unsafe_code)]

use super::hands::{BENEATH, Hands, is, is_of_the_kernel, kind, names, text};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Entry, EntryKind, Mtime, join};
use crate::sys::idmap::IdMap;
use crate::sys::owners::inside;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// How many names of directories wait to be visited, at most.
const DIRECTORIES_MAX: usize = 5_000_000;

/// So much is read, in bytes, of a file that has no size: it has to be known before the content goes out.
const MADE_UP_MAX: u64 = 64 << 20;

/// The content of a file. What the kernel makes up as it is read (proc(5), sysfs(5)) has no size before.
pub(super) enum Data<'a> {
    None,
    /// Opened for reading, and whether it may have holes.
    File(&'a File, bool),
    Bytes(&'a [u8]),
}

pub(super) type Each<'e> = dyn FnMut(Entry, Data<'_>) -> Result<()> + 'e;

/// What was not copied, and why.
pub(super) type LeftOut = Vec<(PathBuf, String)>;

pub(super) struct Tree<'a> {
    pub hands: &'a Hands<'a>,
    /// Of a container's files: the map of its user namespace.
    pub map: Option<&'a IdMap>,
    /// Which extended attributes go along.
    pub wanted: &'a dyn Fn(&[u8]) -> bool,
}

fn changed(path: &[u8]) -> Error {
    Error::new(ErrorKind::InUse, "it was replaced while it was copied").with_path(text(path))
}

impl Tree<'_> {
    /// Calls `each` with the file that is open (for nothing) as `top`, and with all beneath it, a directory before what is in
    /// it. Paths begin below `top`, whose own is empty.
    pub fn walk(&self, top: &OwnedFd, left_out: &mut LeftOut, each: &mut Each<'_>) -> Result<()> {
        let stat = rustix::fs::fstat(top).call("fstat")?;
        // The first name of every file that has several.
        let mut links = HashMap::new();
        if kind(&stat) != FileType::Directory {
            return match self.file(top.as_fd(), Vec::new(), &stat, &mut links, each)? {
                None => Ok(()),
                Some(why) => Err(Error::new(ErrorKind::InvalidInput, format!("{why} can't be copied"))),
            };
        }
        // No more than one is open at a time.
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let beneath = if path.is_empty() { b"." } else { &*path };
            let dir = match self.hands.open(top.as_fd(), beneath, flags, BENEATH) {
                Err(error) if is(&error, &[Errno::NOENT, Errno::NOTDIR, Errno::LOOP]) => {
                    left_out.push((text(&path).to_owned(), "it was replaced while it was copied".into()));
                    continue;
                }
                other => other?,
            };
            if !path.is_empty() && is_of_the_kernel(&dir) {
                left_out.push((text(&path).to_owned(), "a filesystem of the kernel".into()));
                continue;
            }
            let stat = rustix::fs::fstat(&dir).call_at("fstat", text(&path))?;
            let mut entry = self.entry(&path, EntryKind::Directory, &stat);
            entry.xattrs = self.hands.xattrs(dir.as_fd(), self.wanted, &path)?;
            each(entry, Data::None)?;
            let names = names(dir.as_fd(), &path)?;
            let mut directories = Vec::new();
            for names in names.chunks(32) {
                let found = self.hands.look(dir.as_fd(), names)?;
                for (name, found) in names.iter().zip(found) {
                    // It has gone meanwhile, as files do.
                    let Some(found) = found else { continue };
                    let path = join(&path, name);
                    let stat = rustix::fs::fstat(&found).call_at("fstat", text(&path))?;
                    if kind(&stat) == FileType::Directory {
                        directories.push(path);
                    } else if let Some(why) =
                        self.file(found.as_fd(), path.clone(), &stat, &mut links, each)?
                    {
                        left_out.push((text(&path).to_owned(), why.into()));
                    }
                }
            }
            if todo.len() + directories.len() > DIRECTORIES_MAX {
                return Err(Error::new(ErrorKind::TooLarge, "more than five million directories"));
            }
            todo.extend(directories.into_iter().rev());
        }
        Ok(())
    }

    /// Gives what it is that can't be copied.
    fn file(
        &self,
        found: BorrowedFd<'_>,
        path: Vec<u8>,
        stat: &Stat,
        links: &mut HashMap<(u64, u64), Vec<u8>>,
        each: &mut Each<'_>,
    ) -> Result<Option<&'static str>> {
        let entry_kind = match kind(stat) {
            FileType::RegularFile => EntryKind::File,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => return Ok(Some("a socket")),
            FileType::CharacterDevice | FileType::BlockDevice => return Ok(Some("a device")),
            _ => return Ok(Some("a file of unknown kind")),
        };
        let mut entry = self.entry(&path, entry_kind, stat);
        if stat.st_nlink > 1 {
            if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
                entry.kind = EntryKind::HardLink;
                entry.link = first.clone();
                each(entry, Data::None)?;
                return Ok(None);
            }
            links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        match entry_kind {
            EntryKind::File => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let file = File::from(self.hands.reopen(found, flags, &path)?);
                let stat = rustix::fs::fstat(&file).call_at("fstat", text(&path))?;
                if kind(&stat) != FileType::RegularFile {
                    return Err(changed(&path));
                }
                entry.xattrs = self.hands.xattrs(file.as_fd(), self.wanted, &path)?;
                entry.size = stat.st_size as u64;
                // In sysfs attributes have the size of a page, whatever is in them, and what is binary has its own, of which not
                // everybody is given all (sysfs(5)).
                let may_be = entry.size <= MADE_UP_MAX && stat.st_blocks == 0;
                let is_made_up = entry.size == 0 || may_be && is_of_the_kernel(&file);
                if !is_made_up {
                    let is_sparse = stat.st_blocks.saturating_mul(512) < stat.st_size;
                    each(entry, Data::File(&file, is_sparse))?;
                } else {
                    let mut bytes = Vec::new();
                    (&file).take(MADE_UP_MAX + 1).read_to_end(&mut bytes).call_at("read", text(&path))?;
                    if bytes.len() as u64 > MADE_UP_MAX {
                        let what = "a file without a size, and more than 64 MiB in it";
                        return Err(Error::new(ErrorKind::TooLarge, what).with_path(text(&path)));
                    }
                    entry.size = bytes.len() as u64;
                    each(entry, Data::Bytes(&bytes))?;
                }
            }
            EntryKind::Symlink => {
                let target =
                    rustix::fs::readlinkat(found, "", Vec::new()).call_at("readlinkat", text(&path))?;
                entry.link = target.into_bytes();
                each(entry, Data::None)?;
            }
            _ => each(entry, Data::None)?,
        }
        Ok(None)
    }

    fn entry(&self, path: &[u8], kind: EntryKind, stat: &Stat) -> Entry {
        let ids = (stat.st_uid, stat.st_gid);
        let (uid, gid) = self.map.map_or(ids, |map| (inside(&map.users, ids.0), inside(&map.groups, ids.1)));
        let mtime = Mtime { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
        Entry { mode: stat.st_mode & 0o7777, uid, gid, mtime, ..Entry::new(path, kind) }
    }
}
