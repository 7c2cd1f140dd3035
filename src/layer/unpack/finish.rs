//! What can only be done when all entries are there: whiteouts, parents that the archive does not have,
//! modes and times of directories, owners. And copies of files of the layers below.
#![forbid(unsafe_code)]

use super::{Attributes, Found, Handle, Outcome, Phase, Place, Unpacker};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::attributes::{ids, mode};
use crate::layer::below::opaque_name;
use crate::layer::holes;
use crate::layer::meta::{LayerMeta, Owner, PathText};
use crate::layer::owner::Owned;
use crate::layer::path::{ancestors, join, split, text};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

/// So many files get their owners in one call.
const BATCH: usize = 4096;

impl Unpacker<'_> {
    pub(super) fn finish(mut self) -> Result<Outcome> {
        self.place_opaque()?;
        self.place_whiteouts()?;
        self.hide_below_devices()?;
        self.finish_directories()?;
        let meta = LayerMeta {
            self_contained: !self.needs_below,
            root: self.directories.get(&b""[..]).is_some_and(Option::is_some),
            entries: self.entries,
            devices: std::mem::take(&mut self.devices)
                .into_iter()
                .map(|(path, d)| (PathText(path), d))
                .collect(),
            skipped: std::mem::take(&mut self.skipped),
            skipped_more: self.skipped_more,
            owners: self.give_away()?,
            ..LayerMeta::default()
        };
        Ok(Outcome { meta })
    }

    /// Marks directories that hide all below them.
    fn place_opaque(&mut self) -> Result<()> {
        for asked in std::mem::take(&mut self.opaque_asked) {
            if asked.is_empty() {
                // The overlay takes no mark on the topmost directory of a layer.
                self.needs_below = true;
                let names = self.below.names(b"")?;
                self.whiteouts.extend(names);
                continue;
            }
            match self.look(&asked)? {
                None => {}
                Some(Place::Here(handle)) => {
                    self.opaque.insert(handle.path.clone(), ());
                }
                Some(Place::Missing(path)) => {
                    self.needs_below = true;
                    if let Some(Found::File(_, _, stat)) = self.below.find(&path)?
                        && is(&stat, FileType::Directory)
                    {
                        let handle = self.parent(&path)?;
                        self.opaque.insert(handle.path.clone(), ());
                    }
                }
            }
        }
        Ok(())
    }

    fn place_whiteouts(&mut self) -> Result<()> {
        for asked in std::mem::take(&mut self.whiteouts) {
            self.needs_below = true;
            let (dir, name) = split(&asked);
            let parent = match self.look(dir)? {
                None => continue,
                Some(Place::Here(parent)) => parent,
                Some(Place::Missing(dir)) => {
                    if self.below.find(&join(&dir, name))?.is_some() {
                        let parent = self.parent(&dir)?;
                        self.whiteout(&parent, &join(&parent.path, name))?;
                    }
                    continue;
                }
            };
            let path = join(&parent.path, name);
            match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) if self.copied.contains_key(&path) => {
                    // It was never a file of this layer.
                    self.clear(&parent, &path)?;
                    self.whiteout(&parent, &path)?;
                }
                Ok(stat) if is(&stat, FileType::Directory) => {
                    self.opaque.insert(path, ());
                }
                Ok(_) => {}
                Err(Errno::NOENT) if self.devices.contains_key(&path) => {}
                Err(Errno::NOENT) => self.whiteout(&parent, &path)?,
                Err(errno) => return Err(errno).call_at("fstatat", text(&path)),
            }
        }
        Ok(())
    }

    fn hide_below_devices(&mut self) -> Result<()> {
        let devices: Vec<_> = self.devices.keys().cloned().collect();
        for path in devices {
            self.needs_below = true;
            // Another device is not on disk, and has hidden what is below it.
            if !matches!(self.below.find(&path)?, Some(Found::Device(..))) {
                let parent = self.parent(split(&path).0)?;
                self.whiteout(&parent, &path)?;
            }
        }
        Ok(())
    }

    /// Makes a whiteout if there is something to hide.
    fn whiteout(&mut self, parent: &Handle, path: &[u8]) -> Result<()> {
        if ancestors(path).any(|dir| self.opaque.contains_key(dir)) || self.below.find(path)?.is_none() {
            return Ok(());
        }
        self.count()?;
        let name = split(path).1;
        match rustix::fs::mknodat(&parent.fd, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(errno @ Errno::PERM) => Err(Error::errno("mknodat(whiteout)", errno.raw_os_error())
                .with_path(text(path))
                .with_remedy("whiteouts of an ordinary user need Linux 5.8 and a file system without nodev rules of its own")),
            Err(errno) => Err(errno).call_at("mknodat(whiteout)", text(path)),
        }
    }

    /// Gives directories what they are to have in the end, the deepest first: from then on they may be
    /// closed to the caller, and their times must not change any more.
    fn finish_directories(&mut self) -> Result<()> {
        self.handles.forget();
        let directories = std::mem::take(&mut self.directories);
        let has_root = directories.contains_key(&b""[..]);
        for (path, attributes) in directories.iter().rev() {
            let attributes = match attributes {
                Some(attributes) => attributes.clone(),
                None => self.implicit_attributes(path)?,
            };
            self.finish_directory(path, attributes)?;
        }
        if !has_root {
            // What the caller gave is right but for the time, which is to be the same for everyone.
            self.finish_directory(b"", Attributes { mode: 0o755, ..Attributes::default() })?;
        }
        self.directories = directories;
        Ok(())
    }

    fn finish_directory(&mut self, path: &[u8], mut attributes: Attributes) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let name = if path.is_empty() { b"." } else { path };
        let fd =
            rustix::fs::openat2(self.root, name, flags, Mode::empty(), how).call_at("openat2", text(path))?;
        self.own(path, &mut attributes, false)?;
        let xattrs = std::mem::take(&mut attributes.xattrs);
        self.set_xattrs(fd.as_fd(), path, &xattrs, Phase::BeforeOwner)?;
        if self.opaque.contains_key(path) {
            let name = opaque_name(self.target.user_xattr);
            rustix::fs::fsetxattr(&fd, name, b"y", XattrFlags::empty())
                .call_at(format!("fsetxattr({})", name.to_string_lossy()), text(path))?;
        }
        if self.target.owners.is_none() {
            let (uid, gid) = ids(attributes.uid, attributes.gid);
            rustix::fs::fchown(&fd, uid, gid).call_at("fchown", text(path))?;
        }
        rustix::fs::fchmod(&fd, mode(attributes.mode)).call_at("fchmod", text(path))?;
        self.set_xattrs(fd.as_fd(), path, &xattrs, Phase::AfterMode)?;
        rustix::fs::futimens(&fd, &super::times(attributes.mtime)).call_at("utimensat", text(path))
    }

    /// A parent that the archive does not have is as it is below.
    fn implicit_attributes(&mut self, path: &[u8]) -> Result<Attributes> {
        self.needs_below = true;
        if let Some(Found::File(layer, dir, stat)) = self.below.find(path)?
            && is(&stat, FileType::Directory)
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = self.below.open(dir.as_fd(), split(path).1, flags, path)?;
            return self.attributes_below(layer, path, fd.as_fd(), &stat);
        }
        Ok(Attributes { mode: 0o755, ..Attributes::default() })
    }

    /// The image's attributes of a file of a layer below.
    fn attributes_below(
        &self,
        layer: usize,
        path: &[u8],
        fd: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<Attributes> {
        let attributes = Attributes::of_file(stat, self.below.xattrs(fd, path)?);
        self.below.as_in_image(layer, path, attributes)
    }

    /// Takes a file of a layer below into this one, under its own path. False: there is none.
    pub(super) fn copy_up(&mut self, path: &[u8]) -> Result<bool> {
        self.needs_below = true;
        let (layer, from, stat) = match self.below.find(path)? {
            None => return Ok(false),
            Some(Found::Device(_, device)) => {
                self.count()?;
                let parent = self.parent(split(path).0)?;
                self.place_device(&parent, path.to_vec(), device)?;
                return Ok(true);
            }
            Some(Found::File(layer, from, stat)) => (layer, from, stat),
        };
        let name = split(path).1;
        let parent = self.parent(split(path).0)?;
        // Through a link of this layer the path leads elsewhere.
        if parent.path != split(path).0 {
            return Ok(false);
        }
        self.count()?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let source = self.below.open(from.as_fd(), name, OFlags::RDONLY | OFlags::NONBLOCK, path)?;
                let attributes = self.attributes_below(layer, path, source.as_fd(), &stat)?;
                let fd = self.create(&parent, path)?;
                let (source, file) = (File::from(source), File::from(fd));
                // It shares the blocks where the filesystem can.
                if rustix::fs::ioctl_ficlone(&file, &source).is_err() {
                    holes::copy(&source, &file, stat.st_size as u64, &mut self.room, path)?;
                }
                self.dress(file.as_fd(), path, attributes)?;
            }
            kind @ (FileType::Symlink | FileType::Fifo) => {
                let link = kind == FileType::Symlink;
                let attributes =
                    self.below.as_in_image(layer, path, Attributes::of_file(&stat, Vec::new()))?;
                if link {
                    let link = self.below.open(from.as_fd(), name, OFlags::PATH, path)?;
                    let target =
                        rustix::fs::readlinkat(&link, c"", Vec::new()).call_at("readlinkat", text(path))?;
                    self.replace(&parent, path, |dir, name| rustix::fs::symlinkat(&*target, dir, name))?;
                } else {
                    self.replace(&parent, path, |dir, name| {
                        rustix::fs::mknodat(dir, name, FileType::Fifo, mode(0o600), 0)
                    })?;
                }
                self.special(&parent, path.to_vec(), attributes, link)?;
            }
            _ => {
                return Err(Error::new(ErrorKind::InvalidData, "a hard link to a directory or socket")
                    .with_path(text(path)));
            }
        }
        self.remember(path.len() + 32)?;
        self.copied.insert(path.to_vec(), ());
        Ok(true)
    }

    /// Gives files to their owners, or says whose they are where that can't be done.
    fn give_away(&mut self) -> Result<std::collections::BTreeMap<PathText, Owner>> {
        let owned = std::mem::take(&mut self.owned);
        let Some(owners) = self.target.owners else { return Ok(Default::default()) };
        if owners.is_recorded() {
            let record = |(path, owned): (Vec<u8>, Owned)| {
                let owner = Owner { uid: owned.uid, gid: owned.gid, capability: owned.capability };
                (PathText(path), owner)
            };
            return Ok(owned.into_iter().map(record).collect());
        }
        let owned: Vec<Owned> = owned.into_values().collect();
        for batch in owned.chunks(BATCH) {
            owners.apply(self.root, batch)?;
        }
        Ok(Default::default())
    }
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}
