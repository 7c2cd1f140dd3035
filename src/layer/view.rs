//! The files that stacked layers show, as entries with the image's owners; and where a path leads among them.
#![forbid(unsafe_code)]

use super::acl;
use super::attributes::{Attributes, CAPABILITY};
use super::below::{Below, Found};
use super::entry::{Entry, EntryKind, Mtime};
use super::path::{DEPTH_MAX, join, split, text};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::idmap::IdMap;
use crate::sys::owners::{capability_in, inside_of as inside};
use rustix::fs::{FileType, OFlags};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Names in a path, with those of its links. With the kernel a container's links may have tens of thousands.
const PARTS_MAX: usize = 4096;

impl Below<'_> {
    /// Where `path` leads: symbolic links are followed with the layers as root, and `..` of the root is the root. `None`
    /// where there is nothing, or nothing that an image could have: deeper than 512 directories, or far longer a way than any path;
    /// nothing inside is the root directory itself.
    pub(crate) fn resolve(&mut self, path: &[u8]) -> Result<Option<(Vec<u8>, Option<Found>)>> {
        let mut todo: Vec<Vec<u8>> = Vec::new();
        let push = |todo: &mut Vec<Vec<u8>>, path: &[u8]| {
            todo.extend(path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
        };
        push(&mut todo, path);
        let (mut at, mut found, mut links) = (Vec::new(), None::<Found>, 0);
        let mut parts = 0;
        while let Some(part) = todo.pop() {
            parts += 1;
            if parts > PARTS_MAX {
                return Ok(None);
            }
            if found.as_ref().is_some_and(|found| !found.is(FileType::Directory)) {
                return Ok(None);
            }
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    // A directory, as it was come through.
                    at = split(&at).0.to_vec();
                    found = None;
                    continue;
                }
                _ => {}
            }
            let here = join(&at, &part);
            if here.iter().filter(|&&b| b == b'/').count() >= DEPTH_MAX {
                return Ok(None);
            }
            let Some(next) = self.find(&here)? else { return Ok(None) };
            if let Found::File(_, dir, stat) = &next
                && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
            {
                links += 1;
                if links > LINKS_MAX {
                    return Ok(None);
                }
                let target = self.read_link(dir.as_fd(), &part, &here)?.into_vec();
                if target.starts_with(b"/") {
                    (at, found) = (Vec::new(), None);
                }
                push(&mut todo, &target);
                continue;
            }
            (at, found) = (here, Some(next));
        }
        if found.is_none() && !at.is_empty() {
            found = self.find(&at)?;
        }
        Ok(Some((at, found)))
    }

    /// The target of a symbolic link.
    pub(crate) fn read_link(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OsString> {
        let link = self.open(dir, name, OFlags::PATH, path)?;
        let target = rustix::fs::readlinkat(&link, c"", Vec::new()).call_at("readlinkat", text(path))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Opens a regular file that was [found](Self::find) at `path`.
    ///
    /// # Errors
    /// `InvalidInput` for all else, of which nothing is opened.
    pub(crate) fn open_file(&self, path: &[u8], found: &Found) -> Result<File> {
        match found {
            Found::File(_, dir, _) if found.is(FileType::RegularFile) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                Ok(File::from(self.open(dir.as_fd(), split(path).1, flags, path)?))
            }
            found => {
                let what = match found.kind() {
                    Some(EntryKind::Directory) => "a directory",
                    Some(EntryKind::Fifo) => "a named pipe",
                    Some(EntryKind::CharDevice | EntryKind::BlockDevice) => "a device",
                    _ => "something else",
                };
                Err(Error::new(ErrorKind::InvalidInput, format!("not a regular file but {what}"))
                    .with_path(text(path)))
            }
        }
    }

    /// What was [found](Self::find) at `path` as an archive would describe it; `None` of what no layer can have. A
    /// file with several names is a file under each of them.
    pub(crate) fn entry(&self, path: &[u8], found: &Found) -> Result<Option<Entry>> {
        self.described(path, found, true)
    }

    /// The same without the extended attributes of a regular file, which is then not opened.
    #[cfg(feature = "build")]
    pub(crate) fn entry_unopened(&self, path: &[u8], found: &Found) -> Result<Option<Entry>> {
        self.described(path, found, false)
    }

    fn described(&self, path: &[u8], found: &Found, opened: bool) -> Result<Option<Entry>> {
        let Some(kind) = found.kind() else { return Ok(None) };
        let mut entry = Entry::new(path, kind);
        let (number, dir, stat) = match found {
            Found::Device(_, device) => {
                (entry.mode, entry.uid, entry.gid) = (device.mode, device.uid, device.gid);
                entry.mtime = Mtime { secs: device.secs, nanos: device.nanos };
                entry.device = (device.major, device.minor);
                return Ok(Some(entry));
            }
            Found::File(number, dir, stat) => (*number, dir, stat),
        };
        let name = split(path).1;
        let xattrs = match kind {
            EntryKind::File => {
                entry.size = stat.st_size as u64;
                match opened {
                    true => self.xattrs(self.open_file(path, found)?.as_fd(), path)?,
                    false => Vec::new(),
                }
            }
            EntryKind::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                self.xattrs(self.open(dir.as_fd(), name, flags, path)?.as_fd(), path)?
            }
            EntryKind::Symlink => {
                entry.link = self.read_link(dir.as_fd(), name, path)?.into_vec();
                Vec::new()
            }
            _ => Vec::new(),
        };
        let Attributes { mode, uid, gid, mtime, mut xattrs } =
            self.as_in_image(number, path, Attributes::of_file(stat, xattrs))?;
        xattrs.sort();
        Ok(Some(Entry { mode, uid, gid, mtime, xattrs, ..entry }))
    }

    /// The root directory of the topmost layer.
    pub(crate) fn root(&mut self) -> Result<Option<Entry>> {
        let merged = self.directory(b"")?;
        let Some((number, dir)) = merged.first() else { return Ok(None) };
        let stat = rustix::fs::fstat(dir).call_at("fstat", "/")?;
        let attributes = Attributes::of_file(&stat, self.xattrs(dir.as_fd(), b"")?);
        let Attributes { mode, uid, gid, mtime, xattrs } = self.as_in_image(*number, b"", attributes)?;
        Ok(Some(Entry { mode, uid, gid, mtime, xattrs, ..Entry::new(".", EntryKind::Directory) }))
    }

    /// Attributes on disk of a file of the layer with this number, with the owners of the image.
    pub(super) fn as_in_image(
        &self,
        number: usize,
        path: &[u8],
        mut attributes: Attributes,
    ) -> Result<Attributes> {
        if let Some(ids) = self.layer(number).ids() {
            return written_by(ids, path, attributes);
        }
        let Some(owners) = self.owners() else { return Ok(attributes) };
        (attributes.uid, attributes.gid) = owners.in_image(attributes.uid, attributes.gid);
        let mut capability = attributes.take_capability().map(|value| owners.capability_in_image(value));
        if let Some(owner) = self.layer(number).meta()?.owners.get(path) {
            (attributes.uid, attributes.gid) = (owner.uid, owner.gid);
            capability = owner.capability.clone().or(capability);
        }
        for (_, value) in attributes.xattrs.iter_mut().filter(|(name, _)| acl::is_list(name)) {
            *value = owners.acl_in_image(std::mem::take(value)).unwrap_or_default();
        }
        attributes.xattrs.extend(capability.map(|value| (CAPABILITY.to_vec(), value)));
        Ok(attributes)
    }
}

/// Attributes on disk of a file that a container has written, with the ids that its image calls them by.
fn written_by(ids: &IdMap, path: &[u8], mut attributes: Attributes) -> Result<Attributes> {
    let foreign = |what: String| {
        let error = Error::new(ErrorKind::Unsupported, what).with_path(text(path));
        error.with_remedy(
            "no image can have it: give it to a user and group that the container has, or remove it",
        )
    };
    let user = |id| inside(&ids.users, id);
    let group = |id| inside(&ids.groups, id);
    let Attributes { uid, gid, .. } = attributes;
    attributes.uid = user(uid).ok_or_else(|| {
        foreign(format!("a file of user {uid} on the host, whom the container does not have"))
    })?;
    attributes.gid = group(gid).ok_or_else(|| {
        foreign(format!("a file of group {gid} on the host, which the container does not have"))
    })?;
    for (name, value) in &mut attributes.xattrs {
        if acl::is_list(name) {
            *value = acl::renamed(std::mem::take(value), user, group).ok_or_else(|| {
                foreign("an access control list that names somebody whom the container does not have".into())
            })?;
        } else if name == CAPABILITY {
            *value = capability_in(ids, std::mem::take(value)).ok_or_else(|| {
                foreign("a capability for a user namespace whose root the container does not have".into())
            })?;
        }
    }
    Ok(attributes)
}

impl Found {
    pub(crate) fn is(&self, kind: FileType) -> bool {
        matches!(self, Self::File(_, _, stat) if FileType::from_raw_mode(stat.st_mode) == kind)
    }

    /// The number of the layer that has it, from the topmost.
    pub(super) fn layer(&self) -> usize {
        match self {
            Self::Device(number, _) | Self::File(number, ..) => *number,
        }
    }

    pub(crate) fn kind(&self) -> Option<EntryKind> {
        match self {
            Self::Device(_, device) if device.block => Some(EntryKind::BlockDevice),
            Self::Device(..) => Some(EntryKind::CharDevice),
            Self::File(_, _, stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Some(EntryKind::File),
                FileType::Directory => Some(EntryKind::Directory),
                FileType::Symlink => Some(EntryKind::Symlink),
                FileType::Fifo => Some(EntryKind::Fifo),
                _ => None,
            },
        }
    }
}
