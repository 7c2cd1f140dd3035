//! Makes a directory out of a layer's archive, for use as a lower directory of an overlay.
//!
//! **Beneath, by handle.** The directory is entered by its descriptor alone. A path is looked up by
//! `openat2` beneath it, everything is made by `*at` calls with a single name that must not exist yet.
//!
//! **Links in paths.** An entry `a/b` where this layer made `a` a symbolic link goes where the link
//! leads, inside of the layer, as if the link were followed in the image's own root. A link that only
//! a layer *below* has is not followed: `a` becomes a directory that hides it, as it does in every
//! engine that unpacks into overlay directories. So what a layer becomes does not depend on links below it.
//!
//! **Parents** that the archive does not have are made; they get mode, owner, time and attributes of
//! the directory in the layers below, or else are root's, 0755, of 1970.
//!
//! **Whiteouts** hide what is below and nothing of this layer, in whatever order they come. They are
//! kept until the end, and only those that hide something are made: the overlay lists a whiteout in a
//! directory that exists in one layer alone. For a directory that this layer has too, a whiteout makes
//! it opaque. An opaque mark on the root has no meaning to the overlay and becomes whiteouts.
//!
//! **Devices** are never made. They are kept in [`LayerMeta`]; where a layer below has something of the
//! same name, a whiteout hides it.
//!
//! **Needing the layers below.** A layer with implicit parents, whiteouts, devices or hard links to
//! files that it does not have is not self-contained (`LayerMeta::self_contained`): it is filed under
//! its chain_id. That depends on the archive alone.
#![forbid(unsafe_code)]

mod finish;
mod parents;

use super::acl;
use super::attributes::{self, Attributes, Phase, ids, mode, refusal, shown, times};
#[cfg(test)]
use super::below::Lower;
use super::below::{Below, Found, Load};
use super::meta::{Device, LayerMeta, PathText, Skipped};
use super::owner::{Owned, Owners};
use super::path::{Meaning, join, meaning, normal, split, text};
use super::tar::{Entry, EntryKind, Reader};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::Room;
use parents::{Handle, Handles, Place};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const NOT_ON_THIS_KIND: &str = "not on this kind of file";

/// How much of an archive is taken.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Files in the layer, parents that are made for them included.
    pub(crate) entries: u64,
    /// Bytes of the uncompressed archive. A bomb ends here, or where the disk is to stay free ([`Room`]).
    pub(crate) bytes: Option<u64>,
    /// Memory for what must be remembered to the end: directories, whiteouts, devices, owners.
    pub(crate) memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 5_000_000, bytes: Some(256 << 30), memory: 256 << 20 }
    }
}

/// What a layer is unpacked for.
pub(crate) struct Target<'a> {
    /// Overlay marks in `user.overlay.*` instead of `trusted.overlay.*`.
    pub(crate) user_xattr: bool,
    /// `None`: the caller is root and files get their owners at once.
    pub(crate) owners: Option<&'a dyn Owners>,
    pub(crate) limits: Limits,
}

impl<'a> Target<'a> {
    /// For this process; `owners` counts for ordinary users, and root without capabilities.
    pub(crate) fn for_caller(owners: &'a dyn Owners) -> Self {
        let privileged = crate::sys::idmap::is_privileged();
        Self { user_xattr: !privileged, owners: (!privileged).then_some(owners), limits: Limits::default() }
    }
}

/// What is known of a layer once it is unpacked: [`LayerMeta`] without digests.
pub(crate) struct Outcome {
    pub(crate) meta: LayerMeta,
}

/// At most so many things left out are listed.
const SKIPPED_MAX: usize = 1000;

pub(crate) struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    target: &'a Target<'a>,
    below: Below<'a>,
    handles: Handles,
    /// Directories by path, with what they are to be in the end; `None`: the archive does not say.
    directories: BTreeMap<Vec<u8>, Option<Attributes>>,
    /// As in the archive: links in them are followed in the end.
    whiteouts: BTreeSet<Vec<u8>>,
    opaque_asked: BTreeSet<Vec<u8>>,
    /// Directories that hide what is below.
    opaque: BTreeMap<Vec<u8>, ()>,
    devices: BTreeMap<Vec<u8>, Device>,
    owned: BTreeMap<Vec<u8>, Owned>,
    /// Files of layers below that are here only because something of this layer links to them.
    copied: BTreeMap<Vec<u8>, ()>,
    skipped: Vec<Skipped>,
    skipped_more: u64,
    needs_below: bool,
    entries: u64,
    made: u64,
    memory: usize,
    room: Room,
    /// Who owns a new file, once that is known and sure to be the same for all.
    creator: Option<(u32, u32)>,
}

impl<'a> Unpacker<'a> {
    /// Unpacks into `root`, an empty directory. `lowers`: the layers below, the topmost first.
    #[cfg(test)]
    pub(crate) fn new(root: BorrowedFd<'a>, lowers: Vec<Lower<'a>>, target: &'a Target<'a>) -> Result<Self> {
        Self::later(root, Box::new(move || Ok(lowers)), target)
    }

    /// The same with layers below that are waited for when one of them matters: at the end, or never.
    pub(crate) fn later(root: BorrowedFd<'a>, load: Load<'a>, target: &'a Target<'a>) -> Result<Self> {
        Ok(Self {
            root,
            target,
            below: Below::later(load, target.user_xattr, target.owners),
            handles: Handles::new(root)?,
            directories: BTreeMap::new(),
            whiteouts: BTreeSet::new(),
            opaque_asked: BTreeSet::new(),
            opaque: BTreeMap::new(),
            devices: BTreeMap::new(),
            owned: BTreeMap::new(),
            copied: BTreeMap::new(),
            skipped: Vec::new(),
            skipped_more: 0,
            needs_below: false,
            entries: 0,
            made: 0,
            memory: 0,
            room: Room::default(),
            creator: None,
        })
    }

    /// Unpacks a whole archive.
    pub(crate) fn unpack<R: BufRead>(mut self, reader: &mut Reader<R>) -> Result<Outcome> {
        while let Some(entry) = reader.next()? {
            self.add(entry, reader)?;
        }
        self.finish()
    }

    fn add<R: BufRead>(&mut self, mut entry: Entry, data: &mut Reader<R>) -> Result<()> {
        self.entries += 1;
        self.count()?;
        let path = normal(&entry.path)?;
        if path.is_empty() {
            if entry.kind != EntryKind::Directory {
                return Err(Error::new(ErrorKind::InvalidData, "the root of a layer is not a directory")
                    .with_path(text(&entry.path)));
            }
            let attributes = self.attributes(&mut entry, &path)?;
            return self.remember_directory(path, Some(attributes));
        }
        match meaning(&path)? {
            Meaning::Aufs => return Ok(()),
            Meaning::Whiteout(hidden) => {
                self.remember(hidden.len())?;
                self.whiteouts.insert(hidden);
                return Ok(());
            }
            Meaning::Opaque(dir) => {
                self.remember(dir.len())?;
                self.opaque_asked.insert(dir);
                return Ok(());
            }
            Meaning::File => {}
        }
        let (parent, name) = split(&path);
        let parent = self.parent(parent)?;
        let path = join(&parent.path, name);
        match entry.kind {
            EntryKind::File => self.file(&parent, &path, entry, data),
            EntryKind::Directory => {
                let attributes = self.attributes(&mut entry, &path)?;
                self.directory(&parent, path, attributes)
            }
            EntryKind::HardLink => self.hard_link(&parent, &path, &entry),
            EntryKind::Symlink | EntryKind::Fifo => {
                let attributes = self.attributes(&mut entry, &path)?;
                self.replace(&parent, &path, |dir, name| match entry.kind {
                    EntryKind::Symlink => rustix::fs::symlinkat(entry.link.as_slice(), dir, name),
                    _ => rustix::fs::mknodat(dir, name, FileType::Fifo, mode(0o600), 0),
                })?;
                self.special(&parent, path, attributes, entry.kind == EntryKind::Symlink)
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => self.device(&parent, path, &entry),
        }
    }

    fn file<R: BufRead>(
        &mut self,
        parent: &Handle,
        path: &[u8],
        mut entry: Entry,
        data: &mut Reader<R>,
    ) -> Result<()> {
        let fd = self.create(parent, path)?;
        let mut written = 0;
        while let Some((offset, chunk)) = data.chunk()? {
            let n = if offset == written {
                rustix::io::write(&fd, chunk).call_at("write", text(path))?
            } else {
                rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(offset)).call_at("lseek", text(path))?;
                rustix::io::write(&fd, chunk).call_at("write", text(path))?
            };
            written = offset + n as u64;
            data.consume_chunk(n);
            self.room.take(self.root, n as u64).map_err(|error| error.with_path(text(path)))?;
        }
        if written != entry.size {
            rustix::fs::ftruncate(&fd, entry.size).call_at("ftruncate", text(path))?;
        }
        let attributes = self.attributes(&mut entry, path)?;
        self.dress(fd.as_fd(), path, attributes)
    }

    /// A new, empty, regular file.
    fn create(&mut self, parent: &Handle, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.replace(parent, path, |dir, name| rustix::fs::openat(dir, name, flags, mode(0o600)))?;
        if self.creator.is_none() && self.target.owners.is_none() {
            // Directories have no set-group-ID bit before the end, so what is true of one is true of all,
            // unless the directory that we were given has it.
            let stat = rustix::fs::fstat(&fd).call_at("fstat", text(path))?;
            let top = rustix::fs::fstat(self.root).call("fstat")?;
            let inherits = top.st_mode & 0o2000 != 0 || top.st_gid != stat.st_gid;
            self.creator = Some(if inherits { (u32::MAX, u32::MAX) } else { (stat.st_uid, stat.st_gid) });
        }
        Ok(fd)
    }

    /// Gives a file that is open for writing its attributes.
    fn dress(&mut self, fd: BorrowedFd<'_>, path: &[u8], mut attributes: Attributes) -> Result<()> {
        self.own(path, &mut attributes, false)?;
        let xattrs = std::mem::take(&mut attributes.xattrs);
        self.set_xattrs(fd, path, &xattrs, Phase::BeforeOwner)?;
        if self.target.owners.is_none() && self.creator != Some((attributes.uid, attributes.gid)) {
            let (uid, gid) = ids(attributes.uid, attributes.gid);
            rustix::fs::fchown(fd, uid, gid).call_at("fchown", text(path))?;
        }
        rustix::fs::fchmod(fd, mode(attributes.mode)).call_at("fchmod", text(path))?;
        self.set_xattrs(fd, path, &xattrs, Phase::AfterMode)?;
        rustix::fs::futimens(fd, &times(attributes.mtime)).call_at("utimensat", text(path))
    }

    fn set_xattrs(
        &mut self,
        fd: BorrowedFd<'_>,
        path: &[u8],
        xattrs: &[(Vec<u8>, Vec<u8>)],
        phase: Phase,
    ) -> Result<()> {
        if xattrs.is_empty() {
            return Ok(());
        }
        let mut left_out = Vec::new();
        attributes::set_xattrs(fd, path, xattrs, phase, |what| left_out.push(what))?;
        left_out.into_iter().try_for_each(|what| self.skip(path, what))
    }

    /// Gives a symbolic link or a named pipe its attributes.
    fn special(
        &mut self,
        parent: &Handle,
        path: Vec<u8>,
        mut attributes: Attributes,
        link: bool,
    ) -> Result<()> {
        let name = split(&path).1;
        self.own(&path, &mut attributes, link)?;
        // The kernel has `user` attributes for files and directories only.
        let (kept, left_out): (Vec<_>, Vec<_>) = std::mem::take(&mut attributes.xattrs)
            .into_iter()
            .partition(|(name, _)| !name.starts_with(b"user."));
        for (name, _) in left_out {
            self.skip(&path, format!("{}: {NOT_ON_THIS_KIND}", shown(&name)))?;
        }
        if self.target.owners.is_none() {
            let (uid, gid) = ids(attributes.uid, attributes.gid);
            rustix::fs::chownat(&parent.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .call_at("fchownat", text(&path))?;
        }
        if !link || !kept.is_empty() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd =
                rustix::fs::openat(&parent.fd, name, flags, Mode::empty()).call_at("openat", text(&path))?;
            let own = attributes::proc_path(&fd);
            for (name, value) in &kept {
                let shown = shown(name);
                let name = CString::new(name.as_slice()).unwrap_or_default();
                rustix::fs::setxattr(&own, &name, value, rustix::fs::XattrFlags::empty())
                    .call_at(format!("setxattr({shown})"), text(&path))?;
            }
            if !link {
                rustix::fs::chmod(&own, mode(attributes.mode)).call_at("chmod", text(&path))?;
            }
        }
        rustix::fs::utimensat(&parent.fd, name, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .call_at("utimensat", text(&path))
    }

    fn directory(&mut self, parent: &Handle, path: Vec<u8>, attributes: Attributes) -> Result<()> {
        let name = split(&path).1;
        let replaced = match rustix::fs::mkdirat(&parent.fd, name, mode(0o700)) {
            Ok(()) => self.devices.remove(&path[..]).is_some(),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .call_at("fstatat", text(&path))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    false
                } else {
                    self.clear(parent, &path)?;
                    rustix::fs::mkdirat(&parent.fd, name, mode(0o700)).call_at("mkdirat", text(&path))?;
                    true
                }
            }
            Err(errno) => return Err(errno).call_at("mkdirat", text(&path)),
        };
        if replaced {
            // What was here before has already hidden what is below.
            self.opaque.insert(path.clone(), ());
        }
        self.remember_directory(path, Some(attributes))
    }

    fn hard_link(&mut self, parent: &Handle, path: &[u8], entry: &Entry) -> Result<()> {
        let target = normal(&entry.link)?;
        let bad = |what: &str| {
            Err(Error::new(ErrorKind::InvalidData, format!("hard link to {:?}: {what}", text(&entry.link)))
                .with_path(text(path)))
        };
        if target.is_empty() {
            return bad("that is the root");
        }
        if meaning(&target)? != Meaning::File {
            return bad("that is no file of a layer");
        }
        let (dir, target_name) = split(&target);
        let mut copied = false;
        loop {
            let Some(found) = self.look(dir)? else { return bad("there is no such file") };
            let target = join(found.path(), target_name);
            if let Some(device) = self.devices.get(&target[..]).cloned() {
                return self.place_device(parent, path.to_vec(), device);
            }
            let linked = match &found {
                Place::Missing(_) => Err(Errno::NOENT),
                Place::Here(from) => {
                    let name = split(path).1;
                    let link =
                        || rustix::fs::linkat(&from.fd, target_name, &parent.fd, name, AtFlags::empty());
                    match link() {
                        Err(Errno::EXIST) if target == path => Ok(()),
                        // The kernel looks for the target first, so it is there.
                        Err(Errno::EXIST) => {
                            self.clear(parent, path)?;
                            link()
                        }
                        other => other,
                    }
                }
            };
            match linked {
                Ok(()) => {
                    self.devices.remove(path);
                    // Two names, one file: who keeps owners by name keeps them for both.
                    if let Some(mut owned) = self.owned.get(&target).cloned() {
                        owned.path = c_path(path)?;
                        self.remember(path.len())?;
                        self.owned.insert(path.to_vec(), owned);
                    } else {
                        self.owned.remove(path);
                    }
                    return Ok(());
                }
                Err(Errno::NOENT) if !copied => {
                    copied = true;
                    if !self.copy_up(&target)? {
                        return bad("there is no such file");
                    }
                }
                Err(Errno::PERM) => return bad("it is a directory, or may not be linked to"),
                Err(errno) => return Err(errno).call_at("linkat", text(path)),
            }
        }
    }

    fn device(&mut self, parent: &Handle, path: Vec<u8>, entry: &Entry) -> Result<()> {
        let device = Device {
            block: entry.kind == EntryKind::BlockDevice,
            major: entry.device.0,
            minor: entry.device.1,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            secs: entry.mtime.secs,
            nanos: entry.mtime.nanos,
        };
        self.place_device(parent, path, device)
    }

    fn place_device(&mut self, parent: &Handle, path: Vec<u8>, device: Device) -> Result<()> {
        self.clear(parent, &path)?;
        self.remember(path.len() + 64)?;
        self.devices.insert(path, device);
        Ok(())
    }

    /// Makes something under a name, in place of what this layer had there before.
    fn replace<T>(
        &mut self,
        parent: &Handle,
        path: &[u8],
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let name = split(path).1;
        let made = match make(parent.fd.as_fd(), name) {
            Err(Errno::EXIST) => {
                self.clear(parent, path)?;
                make(parent.fd.as_fd(), name)
            }
            made => made,
        };
        if !self.devices.is_empty() {
            self.devices.remove(path);
        }
        made.call_at("making a file", text(path))
    }

    /// Removes what this layer has at `path`, whatever it is.
    fn clear(&mut self, parent: &Handle, path: &[u8]) -> Result<()> {
        self.handles.forget();
        crate::store::remove_tree(parent.fd.as_fd(), std::ffi::OsStr::new(text(split(path).1)))?;
        let was_directory = self.directories.contains_key(path);
        remove_beneath(&mut self.devices, path, was_directory);
        remove_beneath(&mut self.owned, path, was_directory);
        remove_beneath(&mut self.copied, path, was_directory);
        remove_beneath(&mut self.opaque, path, was_directory);
        remove_beneath(&mut self.directories, path, was_directory);
        Ok(())
    }

    /// The attributes that this layer is to have, out of those that the archive has.
    fn attributes(&mut self, entry: &mut Entry, path: &[u8]) -> Result<Attributes> {
        let mut attributes = Attributes::of_entry(entry);
        let privileged = self.target.owners.is_none();
        let mut left_out = Vec::new();
        attributes.xattrs.retain(|(name, _)| {
            // A capability goes with the owner.
            let refused = match entry.kind {
                _ if name == attributes::CAPABILITY => None,
                EntryKind::Directory => refusal(name, privileged),
                EntryKind::Symlink if acl::is_list(name) => Some(NOT_ON_THIS_KIND),
                _ if acl::is_default(name) => Some(NOT_ON_THIS_KIND),
                _ => refusal(name, privileged),
            };
            if let Some(why) = refused {
                left_out.push(format!("{}: {why}", shown(name)));
            }
            refused.is_none()
        });
        left_out.into_iter().try_for_each(|what| self.skip(path, what))?;
        Ok(attributes)
    }

    /// Where the caller can't give files away: remembers whose it is to be.
    fn own(&mut self, path: &[u8], attributes: &mut Attributes, link: bool) -> Result<()> {
        let Some(owners) = self.target.owners else { return Ok(()) };
        for (name, value) in std::mem::take(&mut attributes.xattrs) {
            if !acl::is_list(&name) {
                attributes.xattrs.push((name, value));
                continue;
            }
            let of_group = acl::of_group(&value).filter(|_| !acl::is_default(&name));
            match owners.acl_on_disk(value) {
                Some(value) => attributes.xattrs.push((name, value)),
                None => {
                    // Else its group would have what the list gives to others.
                    if let Some(of_group) = of_group {
                        attributes.mode = attributes.mode & !0o070 | of_group << 3;
                    }
                    let what = "names users or groups of whom there are no sub-ids";
                    self.skip(path, format!("{}: {what}", shown(&name)))?;
                }
            }
        }
        let capability = attributes.take_capability();
        if attributes.uid == 0 && attributes.gid == 0 && capability.is_none() {
            self.owned.remove(path);
            return Ok(());
        }
        self.remember(2 * path.len() + 128 + capability.as_ref().map_or(0, Vec::len))?;
        let owned = Owned {
            path: c_path(path)?,
            uid: attributes.uid,
            gid: attributes.gid,
            mode: (!link).then_some(attributes.mode),
            capability,
        };
        self.owned.insert(path.to_vec(), owned);
        Ok(())
    }

    fn remember_directory(&mut self, path: Vec<u8>, attributes: Option<Attributes>) -> Result<()> {
        self.remember(path.len() + 96 + attributes.as_ref().map_or(0, Attributes::weight))?;
        self.directories.insert(path, attributes);
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<()> {
        self.memory += bytes;
        if self.memory > self.target.limits.memory {
            let max = self.target.limits.memory >> 20;
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("layer with more than {max} MiB of directories, whiteouts and owners"),
            ));
        }
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.made += 1;
        if self.made > self.target.limits.entries {
            let max = self.target.limits.entries;
            return Err(Error::new(ErrorKind::TooLarge, format!("layer of more than {max} files")));
        }
        Ok(())
    }

    fn skip(&mut self, path: &[u8], what: String) -> Result<()> {
        tracing::debug!(path = ?text(path), what, "left out of the layer");
        if self.skipped.len() < SKIPPED_MAX {
            self.remember(path.len() + what.len() + 64)?;
            self.skipped.push(Skipped { path: PathText(path.to_vec()), what });
        } else {
            self.skipped_more += 1;
        }
        Ok(())
    }
}

/// Removes `path` and, of a directory, all beneath it. Only that range is visited.
fn remove_beneath<V>(map: &mut BTreeMap<Vec<u8>, V>, path: &[u8], directory: bool) {
    map.remove(path);
    if directory {
        // '0' comes after '/'.
        let range = [path, b"/"].concat()..[path, b"0"].concat();
        let beneath: Vec<_> = map.range(range).map(|(key, _)| key.clone()).collect();
        beneath.iter().for_each(|key| _ = map.remove(key));
    }
}

fn c_path(path: &[u8]) -> Result<CString> {
    CString::new(path)
        .map_err(|_| Error::new(ErrorKind::InvalidData, "a path with a NUL").with_path(text(path)))
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
