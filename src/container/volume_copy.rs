//! The first use of a volume: it gets what the image has at its path.
//!
//! The layers are merged as the overlay would, without mounting it. All goes by handle: a container that has the
//! (still empty) volume already may change it meanwhile, and gains nothing by it.
//!
//! On disk a volume has the ids that layers have: the image's as root, an ordinary user's sub-ids otherwise.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::{Below, EntryKind, Found, Lower, Owned, Owners, copy_content, for_caller, join};
use crate::store::Room;
use crate::sys::idmap::is_privileged;
use crate::volume::Volume;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Owners are set in batches of so many files.
const BATCH: usize = 512;
const CAPABILITY: &[u8] = b"security.capability";

/// Copies, unless something is in the volume already.
pub(super) fn first_use(image: &Image, volume: &Volume, target: &Path) -> Result<()> {
    if image.is_host() {
        return Ok(());
    }
    let owners = for_caller();
    if !is_empty(volume, &*owners)? && !Mark::is_there(volume) {
        return Ok(());
    }
    let _lock = volume.copy_lock()?;
    // A program that died while it copied has left its mark: what it began is done again.
    let again = Mark::is_there(volume);
    if !again && !is_empty(volume, &*owners)? {
        return Ok(());
    }
    let layers = image.layer_dirs()?;
    let lowers = layers.iter().map(|layer| Lower::new(layer.dir(), || layer.meta())).collect();
    // How layers of this user are unpacked.
    let mut below = Below::new(lowers, !is_privileged(), Some(&*owners));
    let Some(source) = resolve(&mut below, target)? else { return Ok(()) };
    let mark = Mark::make(volume)?;
    if is_given_away(volume)? {
        owners.take_back(volume.data_dir(), c"")?;
    }
    let (links, owned, room) = (HashMap::new(), Vec::new(), Room::default());
    let mut copier = Copier { root: volume.data_dir(), owners: &*owners, below, again, links, owned, room };
    copier.directory(source)?;
    copier.give_away(0)?;
    mark.remove()
}

/// Copies what a directory of an image has in it into an empty directory, and what it is itself. `false`: there is no such.
#[cfg(feature = "build")]
pub(crate) fn copy_into(image: &Image, source: &Path, root: BorrowedFd<'_>) -> Result<bool> {
    let (owners, layers) = (for_caller(), image.layer_dirs()?);
    let lowers = layers.iter().map(|layer| Lower::new(layer.dir(), || layer.meta())).collect();
    let mut below = Below::new(lowers, !is_privileged(), Some(&*owners));
    let Some(source) = resolve(&mut below, source)? else { return Ok(false) };
    let (links, owned, room) = (HashMap::new(), Vec::new(), Room::default());
    let mut copier = Copier { root, owners: &*owners, below, again: false, links, owned, room };
    copier.directory(source)?;
    copier.give_away(0)?;
    Ok(true)
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

fn c_name(name: &OsStr) -> CString {
    // Names from the kernel have no NUL, and paths of a specification were checked.
    CString::new(name.as_bytes()).unwrap_or_default()
}

/// Opens something in the volume.
fn open(owners: &dyn Owners, dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match crate::sys::open::openat2(dir, name, flags, Mode::empty(), resolve) {
        Err(Errno::ACCESS) if let Some(fd) = owners.open(dir, name, flags)? => Ok(fd),
        other => other.call_at("openat2(RESOLVE_BENEATH)", &*name.to_string_lossy()),
    }
}

/// Whether this process may not work in the volume: an earlier first use or a container has given it away.
fn is_given_away(volume: &Volume) -> Result<bool> {
    let stat = rustix::fs::fstat(volume.data_dir()).call_at("fstat", volume.path())?;
    Ok(stat.st_uid != rustix::process::geteuid().as_raw())
}

fn is_empty(volume: &Volume, owners: &dyn Owners) -> Result<bool> {
    let data = match open(owners, volume.data_dir(), c".", OFlags::RDONLY | OFlags::DIRECTORY) {
        // Given to a user of a container, so it was used.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
        other => other?,
    };
    for entry in Dir::new(data).call_at("open directory", volume.path())? {
        let entry = entry.call_at("getdents64", volume.path())?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The path in the layers of the directory at `target`, through links as the container sees them; none if there is none.
fn resolve(below: &mut Below<'_>, target: &Path) -> Result<Option<Vec<u8>>> {
    let is_dir =
        |found: &Option<Found>| found.as_ref().is_none_or(|found| found.kind() == Some(EntryKind::Directory));
    let found = below.resolve(target.as_os_str().as_bytes())?;
    Ok(found.filter(|(_, found)| is_dir(found)).map(|(path, _)| path))
}

fn while_copying(error: Error, path: &Path) -> Error {
    error.during(format!("copying {path:?} of the image into a volume"))
}

struct Copier<'a> {
    root: BorrowedFd<'a>,
    owners: &'a dyn Owners,
    below: Below<'a>,
    /// What is there already is from an earlier try.
    again: bool,
    /// Files with several names: where the first one was copied to.
    links: HashMap<(u64, u64), PathBuf>,
    owned: Vec<Owned>,
    room: Room,
}

/// What is copied: its path in the layers, the directory that it lies in, and what it is.
struct Source<'s> {
    path: &'s [u8],
    dir: BorrowedFd<'s>,
    stat: &'s Stat,
}

impl Source<'_> {
    fn name(&self) -> &[u8] {
        self.path.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }
}

/// What is to be done with a directory: its path in the layers, and in the volume.
enum Step {
    Fill(Vec<u8>, PathBuf),
    /// Once all is in it.
    Dress(Vec<u8>, PathBuf),
}

impl Copier<'_> {
    /// Copies a directory with all that is in it. However deep they are, one is held open at a time.
    fn directory(&mut self, source: Vec<u8>) -> Result<()> {
        let mut todo = vec![Step::Fill(source, PathBuf::new())];
        while let Some(step) = todo.pop() {
            match step {
                Step::Fill(source, path) => {
                    let below = self.fill(&source, &path)?;
                    todo.push(Step::Dress(source, path));
                    todo.extend(below.into_iter().map(|(source, path)| Step::Fill(source, path)));
                }
                Step::Dress(source, path) => {
                    self.dress_directory(&source, &path).map_err(|error| while_copying(error, &path))?;
                }
            }
        }
        Ok(())
    }

    /// Copies what a directory has in it; its own directories are only made, and told.
    fn fill(&mut self, source: &[u8], path: &Path) -> Result<Vec<(Vec<u8>, PathBuf)>> {
        let mut directories = Vec::new();
        let target = self.target(path)?;
        for name in self.below.names(source)? {
            let (from, to) = (join(source, &name), path.join(OsStr::from_bytes(&name)));
            // No device is made.
            let Some(Found::File(_, dir, stat)) = self.below.find(&from)? else { continue };
            let name = c_name(OsStr::from_bytes(&name));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.make(target.as_fd(), &name, &to).map_err(|error| while_copying(error, &to))?;
                directories.push((from, to));
            } else {
                let source = Source { path: &from, dir: dir.as_fd(), stat: &stat };
                self.entry(&source, target.as_fd(), &name, &to).map_err(|error| while_copying(error, &to))?;
            }
        }
        Ok(directories)
    }

    fn dress_directory(&mut self, source: &[u8], path: &Path) -> Result<()> {
        let merged = self.below.directory(source)?;
        let Some((_, top)) = merged.first() else { return Ok(()) };
        let stat = rustix::fs::fstat(top).call_at("fstat", path)?;
        let target = self.target(path)?;
        self.dress(top.as_fd(), source, &stat, target.as_fd(), path)
    }

    /// A directory of the volume.
    fn target(&self, path: &Path) -> Result<OwnedFd> {
        let name = if path.as_os_str().is_empty() { OsStr::new(".") } else { path.as_os_str() };
        open(self.owners, self.root, &c_name(name), OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn make(&self, target: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<()> {
        match rustix::fs::mkdirat(target, name, Mode::RWXU) {
            Err(Errno::EXIST) if self.again => self.owners.take_back(target, name),
            other => other.call_at("mkdirat", path),
        }
    }

    /// Copies what is no directory.
    fn entry(&mut self, source: &Source<'_>, target: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<()> {
        let kind = FileType::from_raw_mode(source.stat.st_mode);
        if self.again {
            // What the first try left under this name.
            match rustix::fs::unlinkat(target, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).call_at("unlinkat", path),
            }
        }
        if self.is_linked(source.stat, target, name, path)? {
            return Ok(());
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let from = File::from(self.below.open(source.dir, source.name(), flags, source.path)?);
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)
                    .call_at("openat(O_CREAT)", path)?;
                let to = File::from(made);
                let size = source.stat.st_size as u64;
                copy_content(&from, &to, size, &mut self.room, path.as_os_str().as_bytes())?;
                self.dress(from.as_fd(), source.path, source.stat, to.as_fd(), path)
            }
            FileType::Symlink => {
                let text = self.below.read_link(source.dir, source.name(), source.path)?;
                rustix::fs::symlinkat(&*text, target, name).call_at("symlinkat", path)?;
                self.dress_special(source.stat, target, name, path)
            }
            FileType::Fifo => {
                rustix::fs::mknodat(target, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .call_at("mknodat", path)?;
                let fifo = open(self.owners, target, name, OFlags::PATH)?;
                let own = format!("/proc/thread-self/fd/{}", fifo.as_raw_fd());
                rustix::fs::chmod(own, Mode::from_raw_mode(source.stat.st_mode)).call_at("chmod", path)?;
                self.dress_special(source.stat, target, name, path)
            }
            // Nothing that an image can have.
            _ => Ok(()),
        }
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
        let dir = open(self.owners, self.root, &dir, OFlags::PATH | OFlags::DIRECTORY)?;
        let first = first.file_name().unwrap_or_default();
        rustix::fs::linkat(dir, first, target, name, AtFlags::empty()).call_at("linkat", path)?;
        Ok(true)
    }

    /// Gives a file or directory that is open the attributes of its source.
    fn dress(
        &mut self,
        source: BorrowedFd<'_>,
        from: &[u8],
        stat: &Stat,
        target: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<()> {
        // An ACL changes with the mode.
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode)).call_at("fchmod", path)?;
        let mut capability = None;
        for (name, value) in self.below.xattrs(source, from)? {
            // That one changes with the owner.
            if name == CAPABILITY {
                capability = Some(value);
                continue;
            }
            match rustix::fs::fsetxattr(target, &*name, &value, rustix::fs::XattrFlags::empty()) {
                Ok(()) => {}
                // The volume may be on another filesystem, and some names are root's alone.
                Err(errno @ (Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS)) => {
                    let name = name.escape_ascii();
                    tracing::debug!(?path, %name, %errno, "an attribute is not copied into a volume");
                }
                Err(errno) => {
                    return Err(errno).call_at(format!("fsetxattr({})", name.escape_ascii()), path);
                }
            }
        }
        rustix::fs::futimens(target, &times(stat)).call_at("utimensat", path)?;
        let made = rustix::fs::fstat(target).call_at("fstat", path)?;
        self.own(stat, &made, path, capability)
    }

    /// The same for what is not to be opened.
    fn dress_special(&mut self, stat: &Stat, target: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(target, name, &times(stat), nofollow).call_at("utimensat", path)?;
        let made = rustix::fs::statat(target, name, nofollow).call_at("fstatat", path)?;
        self.own(stat, &made, path, None)
    }

    /// Remembers whose it is to be. A directory comes after all that is in it.
    fn own(&mut self, stat: &Stat, made: &Stat, path: &Path, capability: Option<Vec<u8>>) -> Result<()> {
        let (uid, gid) = self.owners.in_image(stat.st_uid, stat.st_gid);
        let capability = capability.map(|value| self.owners.capability_in_image(value));
        let is_right = (uid, gid) == self.owners.in_image(made.st_uid, made.st_gid) && capability.is_none();
        if self.owners.is_recorded() || is_right {
            return Ok(());
        }
        let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let mode = (!link).then_some(stat.st_mode & 0o7777);
        self.owned.push(Owned { path: c_name(path.as_os_str()), uid, gid, mode, capability });
        self.give_away(BATCH)
    }

    fn give_away(&mut self, at_least: usize) -> Result<()> {
        if self.owned.len() > at_least {
            let batch = std::mem::take(&mut self.owned);
            self.owners.apply(self.root, &batch)?;
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
