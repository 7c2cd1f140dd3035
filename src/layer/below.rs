//! What the layers below show at a path, as the overlay would: the upper of two files hides the lower,
//! directories merge unless one is opaque, a whiteout hides all beneath. No link is followed.
#![forbid(unsafe_code)]

use super::attributes::{CAPABILITY, Xattrs, get_xattr, get_xattrs, get_xattrs_by};
use super::meta::{Device, LayerMeta};
use super::owner::Owners;
use super::path::{c_path, split, text};
use crate::error::{Call, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// How the overlay is told that a directory hides what is below it: `overlay` mounts of an ordinary
/// user take `user.overlay.opaque` (`userxattr`), those of root `trusted.overlay.opaque`.
pub(super) fn opaque_name(user_xattr: bool) -> &'static CStr {
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
}

impl<'a> Lower<'a> {
    /// `load` is asked for the metadata when it is needed, which for most layers is never.
    pub(crate) fn new(dir: BorrowedFd<'a>, load: impl Fn() -> Result<LayerMeta> + Send + 'a) -> Self {
        Self { dir, meta: OnceCell::new(), load: Box::new(load) }
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
pub(super) struct Below<'a> {
    layers: Vec<Lower<'a>>,
    /// Who opens what is closed to the caller: files of layers belong to their owners.
    owners: Option<&'a dyn Owners>,
    opaque: &'static CStr,
    /// The directory that was looked at last: questions come in the order of the tree.
    last: Option<(Vec<u8>, Merged)>,
}

/// The directories that make up one directory: the layer's number and a handle that is good for looking up only.
type Merged = Rc<Vec<(usize, OwnedFd)>>;

pub(super) enum Found {
    Device(Device),
    /// In which layer, and what it is.
    File(usize, Box<Stat>),
}

const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl<'a> Below<'a> {
    pub(super) fn new(layers: Vec<Lower<'a>>, owners: Option<&'a dyn Owners>, user_xattr: bool) -> Self {
        Self { layers, owners, opaque: opaque_name(user_xattr), last: None }
    }

    pub(super) fn layer(&self, number: usize) -> &Lower<'a> {
        &self.layers[number]
    }

    /// What the layers below show at `path`, which is normal and not the root.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Found>> {
        let merged = self.directory(split(path).0)?;
        for (number, dir) in merged.iter() {
            match self.stat(*number, dir.as_fd(), path)? {
                Some(stat) if is_whiteout(&stat) => {
                    return Ok(self.device(*number, path)?.map(Found::Device));
                }
                Some(stat) => return Ok(Some(Found::File(*number, Box::new(stat)))),
                None => {
                    if let Some(device) = self.device(*number, path)? {
                        return Ok(Some(Found::Device(device)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Opens a file or directory that [`find`](Self::find) has found.
    pub(super) fn open(&self, layer: usize, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let dir = self.layers[layer].dir;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let own = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match (rustix::fs::openat2(dir, path, own, Mode::empty(), how), self.owners) {
            (Err(Errno::ACCESS), Some(owners)) => owners.open(dir, &c_path(path)?, flags),
            (opened, _) => opened.call_at("openat2", text(path)),
        }
    }

    /// The extended attributes of a file that [`open`](Self::open) has opened, as the image has them.
    pub(super) fn xattrs(&self, file: BorrowedFd<'_>, path: &[u8]) -> Result<Xattrs> {
        let Some(owners) = self.owners.filter(|owners| !owners.is_recorded()) else {
            return get_xattrs(file, path);
        };
        get_xattrs_by(file, path, &|name| {
            // A capability is for one user namespace, and shown in another as if for none.
            if name.to_bytes() == CAPABILITY {
                return owners.attribute(file, name);
            }
            match get_xattr(file, name) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => owners.attribute(file, name),
                other => other,
            }
        })
    }

    /// The names that the layers below show in their root directory.
    pub(super) fn root_names(&mut self) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for number in 0..self.layers.len() {
            let dir = self.open(number, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
            for entry in rustix::fs::Dir::new(dir).call("readdir")? {
                let entry = entry.call("readdir")?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(name.to_vec());
                }
            }
            let devices = self.layers[number].meta()?.devices.keys();
            names.extend(devices.filter(|path| !path.0.contains(&b'/')).map(|path| path.0.clone()));
        }
        let mut shown = BTreeSet::new();
        for name in names {
            if self.find(&name)?.is_some() {
                shown.insert(name);
            }
        }
        Ok(shown)
    }

    fn device(&self, number: usize, path: &[u8]) -> Result<Option<Device>> {
        Ok(self.layers[number].meta()?.devices.get(path).cloned())
    }

    /// What one layer has at `path`, whose parent directory there is `dir`.
    fn stat(&self, number: usize, dir: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Stat>> {
        match (rustix::fs::statat(dir, split(path).1, AtFlags::SYMLINK_NOFOLLOW), self.owners) {
            (Err(Errno::NOENT), _) => Ok(None),
            // A directory that is closed to the caller.
            (Err(Errno::ACCESS), Some(owners)) => {
                match owners.open(self.layers[number].dir, &c_path(path)?, OFlags::PATH) {
                    Ok(file) => rustix::fs::fstat(&file).call_at("fstat", text(path)).map(Some),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
            (stat, _) => stat.call_at("fstatat", text(path)).map(Some),
        }
    }

    /// The directories that make up `path`, the topmost first; none where the layers below have no directory there.
    fn directory(&mut self, path: &[u8]) -> Result<Merged> {
        if let Some((last, merged)) = &self.last
            && last == path
        {
            return Ok(merged.clone());
        }
        let mut merged = Vec::new();
        if path.is_empty() {
            for number in 0..self.layers.len() {
                merged.push((number, self.open(number, b".", LOOK)?));
            }
        } else {
            let up = self.directory(split(path).0)?;
            for (number, dir) in up.iter() {
                match self.stat(*number, dir.as_fd(), path)? {
                    None if self.device(*number, path)?.is_some() => break,
                    None => continue,
                    Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => break,
                    Some(_) => merged.push((*number, self.open(*number, path, LOOK)?)),
                }
                if self.is_opaque(*number, path)? {
                    break;
                }
            }
        }
        let merged = Rc::new(merged);
        self.last = Some((path.to_vec(), merged.clone()));
        Ok(merged)
    }

    fn is_opaque(&self, number: usize, path: &[u8]) -> Result<bool> {
        let dir = self.open(number, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let value = match (get_xattr(dir.as_fd(), self.opaque), self.owners) {
            (Err(error), Some(owners)) if error.kind() == ErrorKind::PermissionDenied => {
                owners.attribute(dir.as_fd(), self.opaque)
            }
            (value, _) => value,
        };
        Ok(value.map_err(|error| error.with_path(text(path)))?.as_deref() == Some(b"y"))
    }
}
