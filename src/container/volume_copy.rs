//! The first use of a volume: it gets what the image has at its path.
//!
//! The layers are merged as the overlay would, without mounting it. All goes by handle: a container that has the
//! (still empty) volume already may change it meanwhile, and gains nothing by it.
//!
//! On disk a volume has the ids that layers have: the image's as root, an ordinary user's sub-ids otherwise. Those a
//! courier has to set, and what belongs to them it has to open.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, Result};
use crate::image::Image;
use crate::sys::idmap::{self, IdMap};
use crate::sys::owners::{Keeper, Ownership, capability_inside, inside};
use crate::volume::Volume;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Owners are set in batches of so many files.
const BATCH: usize = 512;
const CAPABILITY: &CStr = c"security.capability";

/// Copies, unless something is in the volume already.
pub(super) fn first_use(image: &Image, volume: &Volume, target: &Path) -> Result<()> {
    if image.is_host() {
        return Ok(());
    }
    let mut copier = Copier::new(volume);
    if !copier.is_empty()? && !Mark::is_there(volume) {
        return Ok(());
    }
    let _lock = volume.copy_lock()?;
    // A program that died while it copied has left its mark: what it began is done again.
    copier.again = Mark::is_there(volume);
    if !copier.again && !copier.is_empty()? {
        return Ok(());
    }
    let layers = image.layer_dirs()?;
    let all = layers.iter().map(|layer| dup(layer.dir())).collect::<Result<Vec<_>>>()?;
    let Some(source) = copier.resolve(Merged(all), target)? else { return Ok(()) };
    let mark = Mark::make(volume)?;
    copier.take_back()?;
    let data = copier.open(volume.data_dir(), c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    copier.directory(&source, data.as_fd(), Path::new(""))?;
    copier.give_away(0)?;
    mark.remove()
}

/// A file beside the data says that copying has begun and not ended.
struct Mark<'a>(&'a Volume);

impl<'a> Mark<'a> {
    fn path(volume: &Volume) -> PathBuf {
        volume.path().with_file_name("copying")
    }

    fn is_there(volume: &Volume) -> bool {
        Self::path(volume).symlink_metadata().is_ok()
    }

    fn make(volume: &'a Volume) -> Result<Self> {
        let path = Self::path(volume);
        File::create(&path).call_at("open(O_CREAT)", &path)?;
        Ok(Self(volume))
    }

    fn remove(self) -> Result<()> {
        let path = Self::path(self.0);
        std::fs::remove_file(&path).call_at("unlink", &path)
    }
}

fn dup(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().call("fcntl(F_DUPFD_CLOEXEC)")
}

fn c_name(name: &OsStr) -> CString {
    // Names from the kernel have no NUL, and paths of a specification were checked.
    CString::new(name.as_bytes()).unwrap_or_default()
}

/// The directories that make up one directory of the image, the topmost first.
struct Merged(Vec<OwnedFd>);

enum Found {
    Directory(Merged),
    /// The directory that it lies in, and what it is.
    File(usize, Box<Stat>),
    Link(OsString),
}

struct Copier<'a> {
    volume: &'a Volume,
    privileged: bool,
    /// An ordinary user's ids; none where there is only one.
    map: Option<IdMap>,
    keeper: Keeper,
    opaque: &'static CStr,
    /// What is there already is from an earlier try.
    again: bool,
    /// Files with several names: where the first one was copied to.
    links: HashMap<(u64, u64), PathBuf>,
    owners: Vec<Ownership>,
}

impl<'a> Copier<'a> {
    fn new(volume: &'a Volume) -> Self {
        let privileged = idmap::is_privileged();
        let map = match privileged {
            true => None,
            false => Some(crate::sys::warden::ids_of_caller().0).filter(|map| !map.is_single()),
        };
        // How layers of this user are unpacked.
        let opaque = match privileged {
            true => c"trusted.overlay.opaque",
            false => c"user.overlay.opaque",
        };
        Self {
            volume,
            privileged,
            map,
            keeper: Keeper::default(),
            opaque,
            again: false,
            links: HashMap::new(),
            owners: Vec::new(),
        }
    }

    fn open(&self, dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match crate::sys::open::openat2(dir, name, flags, Mode::empty(), resolve) {
            Err(Errno::ACCESS) if self.map.is_some() => self.keeper.open(dir, name, flags.bits()),
            other => other.call_at("openat2(RESOLVE_BENEATH)", &*name.to_string_lossy()),
        }
    }

    /// What it is, without opening it; `None` where nothing is.
    fn stat(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Stat>> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::ACCESS) if self.map.is_some() => {
                match self.keeper.open(dir, name, OFlags::PATH.bits()) {
                    Ok(fd) => rustix::fs::fstat(fd).call("fstat").map(Some),
                    Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Err(errno) => Err(errno).call_at("fstatat", &*name.to_string_lossy()),
        }
    }

    fn is_opaque(&self, dir: &OwnedFd, name: &CStr) -> Result<bool> {
        let mut value = [0; 4];
        match rustix::fs::fgetxattr(dir, self.opaque, &mut value[..]) {
            Ok(len) => Ok(value[..len] == *b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(Errno::ACCESS) if self.map.is_some() => {
                Ok(self.keeper.attribute(dir.as_fd(), self.opaque)?.as_deref() == Some(b"y"))
            }
            Err(errno) => Err(errno).call_at("fgetxattr(overlay.opaque)", &*name.to_string_lossy()),
        }
    }

    /// What the image shows under a name.
    fn find(&self, merged: &Merged, name: &CStr) -> Result<Option<Found>> {
        let mut dirs = Vec::new();
        for (number, dir) in merged.0.iter().enumerate() {
            let Some(stat) = self.stat(dir.as_fd(), name)? else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let sub = self.open(dir.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    let opaque = self.is_opaque(&sub, name)?;
                    dirs.push(sub);
                    if opaque {
                        break;
                    }
                }
                // A whiteout, or below a directory: hidden, and so is what is further down.
                FileType::CharacterDevice => break,
                _ if !dirs.is_empty() => break,
                FileType::Symlink => {
                    let link = self.open(dir.as_fd(), name, OFlags::PATH)?;
                    let text = rustix::fs::readlinkat(&link, c"", Vec::new()).call("readlinkat")?;
                    return Ok(Some(Found::Link(OsString::from_vec(text.into_bytes()))));
                }
                _ => return Ok(Some(Found::File(number, Box::new(stat)))),
            }
        }
        Ok((!dirs.is_empty()).then_some(Found::Directory(Merged(dirs))))
    }

    /// The directory at `target`, through links as the container sees them; none if there is no directory.
    fn resolve(&self, root: Merged, target: &Path) -> Result<Option<Merged>> {
        let mut stack = vec![root];
        let parts = |path: &Path| -> VecDeque<OsString> {
            path.components().map(|part| part.as_os_str().to_owned()).collect()
        };
        let mut todo = parts(target);
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => stack.truncate(1),
                Some(Component::ParentDir) if stack.len() > 1 => drop(stack.pop()),
                Some(Component::Normal(name)) => {
                    let Some(last) = stack.last() else { return Ok(None) };
                    match self.find(last, &c_name(name))? {
                        Some(Found::Directory(dir)) => stack.push(dir),
                        Some(Found::Link(text)) if links < LINKS_MAX => {
                            links += 1;
                            let mut path = parts(Path::new(&text));
                            path.append(&mut todo);
                            todo = path;
                        }
                        _ => return Ok(None),
                    }
                }
                _ => {}
            }
        }
        Ok(stack.pop())
    }

    /// Whether this process may not work in the volume: an earlier first use or a container has given it away.
    fn is_given_away(&self) -> Result<bool> {
        let stat = rustix::fs::fstat(self.volume.data_dir()).call_at("fstat", self.volume.path())?;
        Ok(self.map.is_some() && stat.st_uid != rustix::process::geteuid().as_raw())
    }

    fn is_empty(&self) -> Result<bool> {
        if !self.is_given_away()? {
            return self.volume.is_fresh();
        }
        let flags = (OFlags::RDONLY | OFlags::DIRECTORY).bits();
        let data = self.keeper.open(self.volume.data_dir(), c".", flags)?;
        for entry in Dir::new(data).call_at("open directory", self.volume.path())? {
            let entry = entry.call_at("getdents64", self.volume.path())?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take_back(&self) -> Result<()> {
        if !self.is_given_away()? {
            return Ok(());
        }
        let data = self.volume.data_dir();
        let own = Ownership { path: c"".into(), uid: 0, gid: 0, mode: Some(0o700), capability: None };
        self.keeper.apply(data, [&own])
    }

    /// Copies the content of a directory and what it is itself.
    fn directory(&mut self, source: &Merged, target: BorrowedFd<'_>, path: &Path) -> Result<()> {
        let mut names = BTreeSet::new();
        for dir in &source.0 {
            // Not reopened: it may be a directory that only the courier could open.
            for entry in Dir::new(dup(dir.as_fd())?).call_at("open directory", path)? {
                let entry = entry.call_at("getdents64", path)?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    names.insert(entry.file_name().to_owned());
                }
            }
        }
        for name in names {
            let below = path.join(OsStr::from_bytes(name.to_bytes()));
            let copied = match self.find(source, &name)? {
                None => Ok(()),
                Some(Found::Directory(dir)) => self.subdirectory(&dir, target, &name, &below),
                Some(Found::Link(text)) => self.link(source, target, &name, &below, &text),
                Some(Found::File(number, stat)) => {
                    self.file(source.0[number].as_fd(), &stat, target, &name, &below)
                }
            };
            copied.map_err(|error| error.during(format!("copying {below:?} of the image into a volume")))?;
        }
        let Some(top) = source.0.first() else { return Ok(()) };
        let stat = rustix::fs::fstat(top).call_at("fstat", path)?;
        self.dress(top.as_fd(), &stat, target, path)
    }

    fn subdirectory(
        &mut self,
        source: &Merged,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
    ) -> Result<()> {
        match rustix::fs::mkdirat(target, name, Mode::RWXU) {
            Err(Errno::EXIST) if self.again => {
                if self.map.is_some() {
                    let own =
                        Ownership { path: name.into(), uid: 0, gid: 0, mode: Some(0o700), capability: None };
                    self.keeper.apply(target, [&own])?;
                }
            }
            other => other.call_at("mkdirat", path)?,
        }
        let made = self.open(target, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.directory(source, made.as_fd(), path)
    }

    /// In a second try, what the first one left under a name.
    fn clear(&self, target: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<()> {
        if self.again {
            match rustix::fs::unlinkat(target, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).call_at("unlinkat", path),
            }
        }
        Ok(())
    }

    fn link(
        &mut self,
        source: &Merged,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        text: &OsStr,
    ) -> Result<()> {
        self.clear(target, name, path)?;
        for dir in &source.0 {
            if let Some(stat) = self.stat(dir.as_fd(), name)? {
                if self.is_linked(&stat, target, name, path)? {
                    return Ok(());
                }
                rustix::fs::symlinkat(text, target, name).call_at("symlinkat", path)?;
                return self.dress_special(&stat, target, name, path);
            }
        }
        Ok(())
    }

    /// Whether it is another name of a file that was copied already, and is now here too.
    fn is_linked(&mut self, stat: &Stat, target: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let id = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get(&id) else {
            self.links.insert(id, path.to_owned());
            return Ok(false);
        };
        let dir = first.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = c_name(dir.map_or(OsStr::new("."), Path::as_os_str));
        let dir = self.open(self.volume.data_dir(), &dir, OFlags::PATH | OFlags::DIRECTORY)?;
        let first = first.file_name().unwrap_or_default();
        rustix::fs::linkat(dir, first, target, name, AtFlags::empty()).call_at("linkat", path)?;
        Ok(true)
    }

    fn file(
        &mut self,
        source: BorrowedFd<'_>,
        stat: &Stat,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
    ) -> Result<()> {
        self.clear(target, name, path)?;
        if self.is_linked(stat, target, name, path)? {
            return Ok(());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let mut from = File::from(self.open(source, name, OFlags::RDONLY | OFlags::NONBLOCK)?);
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)
                    .call_at("openat(O_CREAT)", path)?;
                let mut to = File::from(made);
                // By copy_file_range, which shares the blocks where the filesystem can.
                std::io::copy(&mut from, &mut to).call_at("copy_file_range", path)?;
                self.dress(from.as_fd(), stat, to.as_fd(), path)
            }
            FileType::Fifo => {
                rustix::fs::mknodat(target, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .call_at("mknodat", path)?;
                self.dress_special(stat, target, name, path)
            }
            // Nothing that an image can have.
            _ => Ok(()),
        }
    }

    /// Gives a file or directory that is open the attributes of its source.
    fn dress(
        &mut self,
        source: BorrowedFd<'_>,
        stat: &Stat,
        target: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<()> {
        if self.privileged {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::fchown(target, Some(uid), Some(gid)).call_at("fchown", path)?;
        }
        // An ACL changes with the mode, a capability with the owner.
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode)).call_at("fchmod", path)?;
        let mut capability = None;
        for (name, value) in self.attributes(source, path)? {
            if !self.privileged && name.as_c_str() == CAPABILITY {
                capability = Some(value);
                continue;
            }
            match rustix::fs::fsetxattr(target, &*name, &value, rustix::fs::XattrFlags::empty()) {
                Ok(()) => {}
                // The volume may be on another filesystem, and some names are root's alone.
                Err(errno @ (Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS)) => {
                    tracing::debug!(?path, ?name, %errno, "an attribute is not copied into a volume");
                }
                Err(errno) => {
                    return Err(errno).call_at(format!("fsetxattr({})", name.to_string_lossy()), path);
                }
            }
        }
        rustix::fs::futimens(target, &times(stat)).call_at("utimensat", path)?;
        self.own(stat, path, capability)
    }

    /// The same for what is not to be opened.
    fn dress_special(&mut self, stat: &Stat, target: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.privileged {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(target, name, Some(uid), Some(gid), nofollow).call_at("fchownat", path)?;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            let fifo = self.open(target, name, OFlags::PATH)?;
            let own = format!("/proc/thread-self/fd/{}", fifo.as_raw_fd());
            rustix::fs::chmod(own, Mode::from_raw_mode(stat.st_mode)).call_at("chmod", path)?;
        }
        rustix::fs::utimensat(target, name, &times(stat), nofollow).call_at("utimensat", path)?;
        self.own(stat, path, None)
    }

    /// Those that belong to the content; not the overlay's, and not the machine's.
    fn attributes(&self, file: BorrowedFd<'_>, path: &Path) -> Result<Vec<(CString, Vec<u8>)>> {
        let mut names = vec![0; 64 << 10];
        let len = match rustix::fs::flistxattr(file, &mut names[..]) {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).call_at("flistxattr", path),
        };
        let mut found = Vec::new();
        for name in names[..len].split_inclusive(|&b| b == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let bytes = name.to_bytes();
            let copied = bytes.starts_with(b"user.")
                || bytes.starts_with(b"trusted.")
                || bytes.starts_with(b"system.posix_acl_")
                || name == CAPABILITY;
            let overlay = bytes.starts_with(b"user.overlay.") || bytes.starts_with(b"trusted.overlay.");
            if !copied || overlay {
                continue;
            }
            let mut value = vec![0; 64 << 10];
            match rustix::fs::fgetxattr(file, name, &mut value[..]) {
                Ok(len) => {
                    value.truncate(len);
                    found.push((name.to_owned(), value));
                }
                Err(Errno::NODATA) => {}
                Err(Errno::ACCESS | Errno::PERM) if self.map.is_some() => {
                    found.extend(self.keeper.attribute(file, name)?.map(|value| (name.to_owned(), value)));
                }
                Err(errno) => {
                    let error = Error::os(format!("fgetxattr({})", name.to_string_lossy()), errno);
                    return Err(error.with_path(path));
                }
            }
        }
        Ok(found)
    }

    /// As an ordinary user: remembers whose it is to be. A directory comes after all that is in it.
    fn own(&mut self, stat: &Stat, path: &Path, capability: Option<Vec<u8>>) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let (uid, gid) = (inside(&map.users, stat.st_uid), inside(&map.groups, stat.st_gid));
        let capability = capability.map(capability_inside);
        if (uid, gid) == (0, 0) && capability.is_none() {
            return Ok(());
        }
        let mode = stat.st_mode & 0o7777;
        let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let mode = (!link && mode & 0o6000 != 0).then_some(mode);
        self.owners.push(Ownership { path: c_name(path.as_os_str()), uid, gid, mode, capability });
        self.give_away(BATCH)
    }

    fn give_away(&mut self, at_least: usize) -> Result<()> {
        if self.owners.len() > at_least {
            let batch = std::mem::take(&mut self.owners);
            self.keeper.apply(self.volume.data_dir(), &batch)?;
        }
        Ok(())
    }
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    }
}
