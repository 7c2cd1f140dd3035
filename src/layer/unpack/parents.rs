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
            Some(handle) => Ok(handle),
            None => Err(Error::new(ErrorKind::InvalidData, "no such directory").with_path(text(path))),
        }
    }

    /// The directory at `path`, links of this layer followed; `None` where this layer has none.
    pub(super) fn look(&mut self, path: &[u8]) -> Result<Option<Handle>> {
        match self.resolve(path, false) {
            // Beneath a file of this layer there is nothing.
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(None),
            other => other,
        }
    }

    fn resolve(&mut self, path: &[u8], create: bool) -> Result<Option<Handle>> {
        if let Some(handle) = self.handles.get(path) {
            return Ok(Some(handle));
        }
        // Most paths exist and have no link in them: one call.
        if let Some(handle) = open_beneath(&self.handles.root, path)? {
            self.handles.keep(path, &handle);
            return Ok(Some(handle));
        }
        self.walk(path, create, &mut 0)
    }

    /// Component by component, from the nearest directory that is open.
    fn walk(&mut self, path: &[u8], create: bool, links: &mut u32) -> Result<Option<Handle>> {
        if let Some(handle) = self.handles.get(path) {
            return Ok(Some(handle));
        }
        let (parent, name) = split(path);
        let Some(parent) = self.walk(parent, create, links)? else { return Ok(None) };
        let found = self.step(&parent, name, create, links)?;
        if let Some(handle) = &found {
            self.handles.keep(path, handle);
        }
        Ok(found)
    }

    fn step(&mut self, here: &Handle, name: &[u8], create: bool, links: &mut u32) -> Result<Option<Handle>> {
        let path = join(&here.path, name);
        match rustix::fs::openat(&here.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => return Ok(Some(Rc::new(Directory { fd, path }))),
            Err(Errno::NOENT) if self.devices.contains_key(&path) => return Err(not_a_directory(&path)),
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => return self.implicit(here, path).map(Some),
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
        let mut at = if target.starts_with(b"/") { self.handles.root.clone() } else { here.clone() };
        for part in target.split(|&b| b == b'/') {
            at = match part {
                b"" | b"." => continue,
                // Above the root is the root, as in the image.
                b".." => {
                    let up = split(&at.path).0.to_vec();
                    match self.handles.get(&up).filter(|handle| handle.path == up) {
                        Some(handle) => handle,
                        None => open_beneath(&self.handles.root, &up)?.ok_or_else(|| not_a_directory(&up))?,
                    }
                }
                part => match self.step(&at, part, create, links)? {
                    Some(next) => next,
                    None => return Ok(None),
                },
            };
        }
        Ok(Some(at))
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
    match rustix::fs::openat2(root.fd.as_fd(), name, DIRECTORY, Mode::empty(), how) {
        Ok(fd) => Ok(Some(Rc::new(Directory { fd, path: path.to_vec() }))),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno).call_at("openat2", text(path)),
    }
}

fn not_a_directory(path: &[u8]) -> Error {
    Error::new(ErrorKind::InvalidData, "an entry beneath a file that is not a directory")
        .with_path(text(path))
}
