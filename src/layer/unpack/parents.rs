//! The directories that entries go into: found beneath the root, made where they are missing, kept open
//! for the next entry.
#![forbid(unsafe_code)]

use super::Unpacker;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::path::{join, split, text};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// A directory of the layer.
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// Its path without links.
    pub(super) path: Vec<u8>,
}

pub(super) type Handle = Rc<Directory>;

/// Where a path leads, once the links in it are followed.
pub(super) enum Place {
    Here(Handle),
    /// This layer has no such directory.
    Missing(Vec<u8>),
}

impl Place {
    pub(super) fn path(&self) -> &[u8] {
        match self {
            Self::Here(handle) => &handle.path,
            Self::Missing(path) => path,
        }
    }
}

/// Directories by the path that an archive uses for them. Archives come in the order of a tree.
pub(super) struct Handles {
    root: Handle,
    open: HashMap<Vec<u8>, Handle>,
}

/// A program may have 1024 descriptors; several layers are unpacked at once.
const OPEN_MAX: usize = 32;
/// As many as the kernel follows.
const LINKS_MAX: u32 = 40;

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Handles {
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let fd = root.try_clone_to_owned().call("fcntl(F_DUPFD_CLOEXEC)")?;
        Ok(Self { root: Rc::new(Directory { fd, path: Vec::new() }), open: HashMap::new() })
    }

    fn get(&self, path: &[u8]) -> Option<Handle> {
        if path.is_empty() { Some(self.root.clone()) } else { self.open.get(path).cloned() }
    }

    fn keep(&mut self, path: &[u8], handle: &Handle) {
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), handle.clone());
    }

    /// To be called when a directory or a link has gone or changed its place.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }
}

impl Unpacker<'_> {
    /// The directory at `path`, links of this layer followed, what is missing made.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Handle> {
        match self.resolve(path, true)? {
            Place::Here(handle) => Ok(handle),
            Place::Missing(path) => {
                Err(Error::new(ErrorKind::InvalidData, "no such directory").with_path(text(&path)))
            }
        }
    }

    /// Where `path` leads when links of this layer are followed; `None` where it leads to no directory.
    pub(super) fn look(&mut self, path: &[u8]) -> Result<Option<Place>> {
        match self.resolve(path, false) {
            // Beneath a file of this layer there is nothing.
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(None),
            other => other.map(Some),
        }
    }

    fn resolve(&mut self, path: &[u8], create: bool) -> Result<Place> {
        if let Some(handle) = self.handles.get(path) {
            return Ok(Place::Here(handle));
        }
        // Most paths exist and have no link in them: one call.
        if let Some(handle) = open_beneath(&self.handles.root, path)? {
            self.handles.keep(path, &handle);
            return Ok(Place::Here(handle));
        }
        self.walk(path, create, &mut 0)
    }

    /// Component by component, from the nearest directory that is open.
    fn walk(&mut self, path: &[u8], create: bool, links: &mut u32) -> Result<Place> {
        if let Some(handle) = self.handles.get(path) {
            return Ok(Place::Here(handle));
        }
        let (parent, name) = split(path);
        let parent = self.walk(parent, create, links)?;
        let found = self.step(&parent, name, create, links)?;
        if let Place::Here(handle) = &found {
            self.handles.keep(path, handle);
        }
        Ok(found)
    }

    fn step(&mut self, from: &Place, name: &[u8], create: bool, links: &mut u32) -> Result<Place> {
        let here = match from {
            Place::Here(here) => here,
            Place::Missing(path) => return Ok(Place::Missing(join(path, name))),
        };
        let path = join(&here.path, name);
        match rustix::fs::openat(&here.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => return Ok(Place::Here(Rc::new(Directory { fd, path }))),
            Err(Errno::NOENT) if self.devices.contains_key(&path) => return Err(not_a_directory(&path)),
            Err(Errno::NOENT) if !create => return Ok(Place::Missing(path)),
            Err(Errno::NOENT) => return self.implicit(here, path).map(Place::Here),
            // A link or another file.
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno).call_at("openat", text(&path)),
        }
        let stat =
            rustix::fs::statat(&here.fd, name, AtFlags::SYMLINK_NOFOLLOW).call_at("fstatat", text(&path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(not_a_directory(&path));
        }
        *links += 1;
        if *links > LINKS_MAX {
            return Err(Error::new(ErrorKind::InvalidData, "a path through more than 40 symbolic links")
                .with_path(text(&path)));
        }
        let target = rustix::fs::readlinkat(&here.fd, name, Vec::new()).call_at("readlinkat", text(&path))?;
        let target = target.to_bytes();
        let start = if target.starts_with(b"/") { &self.handles.root } else { here };
        let mut at = Place::Here(start.clone());
        for part in target.split(|&b| b == b'/') {
            at = match part {
                b"" | b"." => continue,
                b".." => self.above(&at)?,
                part => self.step(&at, part, create, links)?,
            };
        }
        Ok(at)
    }

    /// The parent directory. Above the root is the root, as in the image.
    fn above(&mut self, place: &Place) -> Result<Place> {
        let up = split(place.path()).0.to_vec();
        if let Some(handle) = self.handles.get(&up).filter(|handle| handle.path == up) {
            return Ok(Place::Here(handle));
        }
        Ok(match open_beneath(&self.handles.root, &up)? {
            Some(handle) => Place::Here(handle),
            None => Place::Missing(up),
        })
    }

    /// Makes a directory that the archive does not have, or does not have yet.
    fn implicit(&mut self, here: &Handle, path: Vec<u8>) -> Result<Handle> {
        self.count()?;
        let name = split(&path).1;
        rustix::fs::mkdirat(&here.fd, name, Mode::RWXU).call_at("mkdirat", text(&path))?;
        let fd =
            rustix::fs::openat(&here.fd, name, DIRECTORY, Mode::empty()).call_at("openat", text(&path))?;
        self.remember_directory(path.clone(), None)?;
        Ok(Rc::new(Directory { fd, path }))
    }
}

/// A directory that is reached through no link.
fn open_beneath(root: &Handle, path: &[u8]) -> Result<Option<Handle>> {
    let how = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let name = if path.is_empty() { b"." } else { path };
    match crate::sys::open::openat2(root.fd.as_fd(), name, DIRECTORY, Mode::empty(), how) {
        Ok(fd) => Ok(Some(Rc::new(Directory { fd, path: path.to_vec() }))),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno).call_at("openat2", text(path)),
    }
}

fn not_a_directory(path: &[u8]) -> Error {
    Error::new(ErrorKind::InvalidData, "an entry beneath a file that is not a directory")
        .with_path(text(path))
}
