//! What the layers below show at a path, as the overlay would: the upper of two files hides the lower,
//! directories merge unless one is opaque, a whiteout hides all beneath. No link is followed.
#![forbid(unsafe_code)]

use super::attributes::get_xattrs_with;
use super::meta::{Device, LayerMeta};
use super::owner::Owners;
use super::path::{join, split, text};
use crate::error::{Call, ErrorKind, Result};
use crate::sys::idmap::IdMap;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// How the overlay is told that a directory hides what is below it: `overlay` mounts of an ordinary
/// user take `user.overlay.opaque` (`userxattr`), those of root `trusted.overlay.opaque`.
pub(crate) fn opaque_name(user_xattr: bool) -> &'static CStr {
    if user_xattr { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" }
}

/// A whiteout is a character device 0/0 (kernel, filesystems/overlayfs, "Whiteouts and opaque directories").
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// One layer below.
pub(crate) struct Lower<'a> {
    dir: BorrowedFd<'a>,
    meta: OnceCell<LayerMeta>,
    load: Box<dyn Fn() -> Result<LayerMeta> + Send + 'a>,
    /// Which ids its files have on disk, where they are not those of the layers: of a container's writable layer.
    ids: Option<&'a IdMap>,
}

impl<'a> Lower<'a> {
    /// `load` is asked for the metadata when it is needed, which for most layers is never.
    pub(crate) fn new(dir: BorrowedFd<'a>, load: impl Fn() -> Result<LayerMeta> + Send + 'a) -> Self {
        Self { dir, meta: OnceCell::new(), load: Box::new(load), ids: None }
    }

    /// What a container has written: a directory with these ids on disk, and nothing beside it.
    pub(crate) fn written(dir: BorrowedFd<'a>, ids: &'a IdMap) -> Self {
        Self { ids: Some(ids), ..Self::new(dir, || Ok(LayerMeta::default())) }
    }

    pub(super) fn ids(&self) -> Option<&'a IdMap> {
        self.ids
    }

    pub(super) fn meta(&self) -> Result<&LayerMeta> {
        if let Some(meta) = self.meta.get() {
            return Ok(meta);
        }
        let meta = (self.load)()?;
        Ok(self.meta.get_or_init(|| meta))
    }
}

/// The layers below, the topmost first.
pub(crate) struct Below<'a> {
    layers: Vec<Lower<'a>>,
    /// Gives the layers at the first question.
    load: Option<Load<'a>>,
    opaque: &'static CStr,
    /// Who opens what this process may not.
    owners: Option<&'a dyn Owners>,
    /// The directory that was looked at last: questions come in the order of the tree.
    last: Option<(Vec<u8>, Merged)>,
}

/// Waits for the layers below, the topmost first.
pub(crate) type Load<'a> = Box<dyn FnOnce() -> Result<Vec<Lower<'a>>> + 'a>;

/// The directories that make up one directory, the topmost first: the layer's number and a handle.
pub(crate) type Merged = Rc<Vec<(usize, OwnedFd)>>;

pub(crate) enum Found {
    /// The layer's number, and what its metadata says.
    Device(usize, Device),
    /// The layer's number, the directory it lies in, and what it is.
    File(usize, OwnedFd, Box<Stat>),
}

impl<'a> Below<'a> {
    pub(crate) fn new(layers: Vec<Lower<'a>>, user_xattr: bool, owners: Option<&'a dyn Owners>) -> Self {
        Self { layers, load: None, opaque: opaque_name(user_xattr), owners, last: None }
    }

    /// The same for layers that may not be there yet: `load` is called at the first question, if there is one.
    pub(super) fn later(load: Load<'a>, user_xattr: bool, owners: Option<&'a dyn Owners>) -> Self {
        Self { load: Some(load), ..Self::new(Vec::new(), user_xattr, owners) }
    }

    /// Opens what is called `name` in a directory of a layer below; a link is not followed.
    pub(crate) fn open(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        flags: OFlags,
        path: &[u8],
    ) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => match self.refused(dir, name, flags)? {
                Some(fd) => Ok(fd),
                None => Err(Errno::ACCESS).call_at("openat", text(path)),
            },
            other => other.call_at("openat", text(path)),
        }
    }

    fn refused(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
        match (self.owners, CString::new(name)) {
            (Some(owners), Ok(name)) => owners.open(dir, &name, flags),
            _ => Ok(None),
        }
    }

    /// What is called `name`; `None`: nothing is.
    pub(super) fn stat(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Option<Stat>> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::ACCESS) => match self.refused(dir, name, OFlags::PATH) {
                Ok(Some(fd)) => rustix::fs::fstat(&fd).map(Some).call_at("fstat", text(path)),
                Ok(None) => Err(Errno::ACCESS).call_at("fstatat", text(path)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
            Err(errno) => Err(errno).call_at("fstatat", text(path)),
        }
    }

    pub(super) fn is_opaque(&self, dir: &OwnedFd, path: &[u8]) -> Result<bool> {
        Ok(self.mark(dir.as_fd(), self.opaque, path)?.as_deref() == Some(b"y"))
    }

    /// Whether an empty file has the mark of a whiteout that is none by its kind.
    pub(super) fn is_marked_whiteout(&self, file: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
        let user_xattr = self.opaque == opaque_name(true);
        let name = if user_xattr { c"user.overlay.whiteout" } else { c"trusted.overlay.whiteout" };
        Ok(self.mark(file, name, path)?.is_some())
    }

    /// A mark of the overlay's; empty for one that is longer than any that counts.
    fn mark(&self, file: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = [0; 4];
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(length) => Ok(Some(value[..length].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::RANGE) => Ok(Some(Vec::new())),
            Err(errno) => {
                let other = match (errno, self.owners) {
                    (Errno::ACCESS, Some(owners)) => owners.attribute(file, name)?,
                    _ => None,
                };
                other.ok_or(errno).call_at("fgetxattr", text(path))
            }
        }
    }

    pub(super) fn owners(&self) -> Option<&'a dyn Owners> {
        self.owners
    }

    pub(super) fn layer(&self, number: usize) -> &Lower<'a> {
        &self.layers[number]
    }

    /// The extended attributes of an open file, but for those of the overlay itself and of the machine.
    pub(crate) fn xattrs(&self, file: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        get_xattrs_with(file, path, |name| {
            self.owners.map_or(Ok(None), |owners| owners.attribute(file, name))
        })
    }

    /// What the layers below show at `path`, which is normal and not the root.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<Option<Found>> {
        let (parent, name) = split(path);
        let merged = self.directory(parent)?;
        for (number, dir) in merged.iter() {
            match self.stat(dir.as_fd(), name, path)? {
                Some(stat) if is_whiteout(&stat) => {
                    return Ok(self.device(*number, path)?.map(|device| Found::Device(*number, device)));
                }
                Some(stat) => {
                    let dir = dir.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
                    return Ok(Some(Found::File(*number, dir, Box::new(stat))));
                }
                None => {
                    if let Some(device) = self.device(*number, path)? {
                        return Ok(Some(Found::Device(*number, device)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The names that the layers below show in the directory at `path`; none where they show no directory there.
    pub(crate) fn names(&mut self, path: &[u8]) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for (number, dir) in self.directory(path)?.iter() {
            // Not reopened: it may be a directory that only the owners' way could open.
            let dir = dir.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
            let mut dir = Dir::new(dir).call_at("readdir", text(path))?;
            // Where it stands, the copy has in common with the first.
            dir.rewind();
            for entry in dir {
                let entry = entry.call_at("readdir", text(path))?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(name.to_vec());
                }
            }
            let devices = self.layers[*number].meta()?.devices.keys().map(|device| split(&device.0));
            names.extend(devices.filter(|(parent, _)| *parent == path).map(|(_, name)| name.to_vec()));
        }
        let mut shown = BTreeSet::new();
        for name in names {
            if self.find(&join(path, &name))?.is_some() {
                shown.insert(name);
            }
        }
        Ok(shown)
    }

    fn device(&self, number: usize, path: &[u8]) -> Result<Option<Device>> {
        Ok(self.layers[number].meta()?.devices.get(path).cloned())
    }

    /// The directories that make up `path`, the topmost first; none where the layers below have no directory there.
    pub(crate) fn directory(&mut self, path: &[u8]) -> Result<Merged> {
        // From the last one, where that is on the way.
        let (mut at, mut merged) = match &self.last {
            Some((last, merged)) if last == path => return Ok(merged.clone()),
            Some((last, merged)) if last.is_empty() => (0, merged.clone()),
            Some((last, merged))
                if path.strip_prefix(&last[..]).is_some_and(|rest| rest.first() == Some(&b'/')) =>
            {
                (last.len(), merged.clone())
            }
            _ => (0, self.tops()?),
        };
        while at < path.len() {
            let begin = if at == 0 { 0 } else { at + 1 };
            let slash = path[begin..].iter().position(|&b| b == b'/');
            at = slash.map_or(path.len(), |slash| begin + slash);
            merged = self.in_each(&merged, &path[..at])?;
        }
        self.last = Some((path.to_vec(), merged.clone()));
        Ok(merged)
    }

    fn tops(&mut self) -> Result<Merged> {
        // Whatever is asked comes by here first.
        if let Some(load) = self.load.take() {
            self.layers = load()?;
        }
        let mut all = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            all.push((number, self.open(layer.dir, b".", OFlags::RDONLY | OFlags::DIRECTORY, b"")?));
        }
        Ok(Rc::new(all))
    }

    /// Of a directory, whose parent is made up of `up`.
    fn in_each(&self, up: &Merged, path: &[u8]) -> Result<Merged> {
        let name = split(path).1;
        let mut merged = Vec::new();
        for (number, dir) in up.iter() {
            match self.stat(dir.as_fd(), name, path)? {
                None if self.device(*number, path)?.is_some() => break,
                None => continue,
                Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => break,
                Some(_) => {}
            }
            let dir = self.open(dir.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY, path)?;
            let opaque = self.is_opaque(&dir, path)?;
            merged.push((*number, dir));
            if opaque {
                break;
            }
        }
        Ok(Rc::new(merged))
    }
}
