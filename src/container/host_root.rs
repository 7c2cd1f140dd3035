//! The host's own root directory as a container's, and the files of /etc that docker writes.
//!
//! An ordinary user's namespace may not take `/` as an overlay's lower directory (the mounts below it are locked to
//! it), and a mount below would be missing in one. So the root is put together from parts: an overlay over each
//! top-level directory, or, where something is mounted below one, over the directories in it.
//!
//! Each directory that is taken has a number, which it keeps while the host's directories and mounts change:
//!
//! ```text
//! parts/N/path         a link: which of the host's directories it is; made last
//! parts/N/upper, work  of the overlay, where it is taken whole
//! parts/N/made         else, once what the container has a copy of is made: from then on that is the container's
//! ```
//!
//! One that was taken entry by entry is taken so again: what the container made there is there. What it made itself, or put
//! in the place of the host's, stays, and no link of its own is followed on the way.
#![forbid(unsafe_code)]

use super::record::{Dir, Record, make_dir};
use super::rootfs::{Base, Part};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::host::{What, steps};
use crate::store::{DIRECTORY, Store, list};
use crate::sys::mountinfo;
use crate::sys::open::openat2;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bound over the image's; never part of a diff.
pub(super) const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// What stage B makes anew.
const OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

pub(super) fn open_root() -> Result<OwnedFd> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call_at("open", "/")
}

/// Their contents for a start.
pub(super) fn etc_files(record: &Record, hostname: &str) -> Result<Vec<(&'static str, String)>> {
    let host = record.spec.network.is_host();
    let own = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
               ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    // Docker shows the host's own names on the host's network.
    let of_host = |path| {
        if !host {
            return Ok(None);
        }
        let bytes = if_there(fs::read(path)).call_at("read", path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let mut hosts = of_host("/etc/hosts")?.unwrap_or_else(|| own.to_owned());
    for (name, address) in &record.spec.hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    if !host {
        hosts.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    let resolv = of_host("/etc/resolv.conf")?.unwrap_or_default();
    Ok(ETC_FILES.into_iter().zip([hosts, format!("{hostname}\n"), resolv]).collect())
}

/// The largest file, in bytes, that is copied where its directory can't be an overlay: those of /etc, where other engines
/// mount some. A larger one is the host's own, read-only.
const COPIED_MAX: u64 = 64 << 10;

struct Planner<'a> {
    dir: &'a Dir,
    owner: Option<(u32, u32)>,
    in_memory: bool,
    mounted: BTreeMap<PathBuf, String>,
    hidden: BTreeSet<PathBuf>,
    parts: Vec<Part>,
    /// Of each directory that was taken, at earlier starts and at this.
    numbers: BTreeMap<PathBuf, usize>,
    /// The first that nothing has had.
    free: usize,
    planned: BTreeSet<usize>,
}

/// Makes the directories of the writable layer and lists the parts, a directory before what is in it.
///
/// # Errors
/// `State` where something that the container wrote has no place in the host's root any more.
pub(super) fn prepare(
    store: &Store,
    dir: &Dir,
    exposed: &[PathBuf],
    owner: Option<(u32, u32)>,
    in_memory: bool,
) -> Result<Base> {
    let steps = steps(store, exposed)?;
    let hidden = steps.iter().filter(|step| step.what == What::Hide).map(|step| step.path.clone()).collect();
    // Where, and of what type; what is on top there comes last.
    let mounted = mountinfo::read()?.into_iter().map(|mount| (mount.point, mount.kind)).collect();
    let (numbers, free) = if in_memory { Default::default() } else { numbers(dir)? };
    let (parts, planned) = (Vec::new(), BTreeSet::new());
    let mut planner = Planner { dir, owner, in_memory, mounted, hidden, parts, numbers, free, planned };
    let layers = if owner.is_some() {
        planner.filesystems()?;
        vec![PathBuf::from("/")]
    } else {
        let root = Path::new("/");
        let number = planner.number(root, None)?;
        planner.directory(root, number)?;
        Vec::new()
    };
    planner.nothing_is_lost()?;
    for step in &steps {
        let (path, is_dir) = (step.path.clone(), step.is_dir);
        planner.parts.push(match step.what {
            What::Return => Part::Return { path, is_dir },
            What::Hide if !is_dir => Part::HideFile { path },
            What::Hide => {
                let (mode, writable) = match path.to_str() {
                    Some("/tmp" | "/var/tmp") => (0o1777, true),
                    Some("/run" | "/home") => (0o755, true),
                    Some("/root") => (0o700, true),
                    _ => (0o555, false),
                };
                Part::HideDir { path, mode, writable }
            }
        });
    }
    Ok(Base { root_dir: None, layers, parts: planner.parts })
}

/// What has a number, and the first that is free.
fn numbers(dir: &Dir) -> Result<(BTreeMap<PathBuf, usize>, usize)> {
    let (mut numbers, mut free) = (BTreeMap::new(), 0);
    let Some(parts) = open_real(dir, Path::new("parts"))? else { return Ok((numbers, free)) };
    for name in list(parts.as_fd())? {
        let Some(number) = name.to_str().and_then(|name| name.parse::<usize>().ok()) else { continue };
        free = free.max(number + 1);
        match rustix::fs::readlinkat(&parts, format!("{number}/path"), Vec::new()) {
            // Its start came to an end before anybody ran.
            Err(Errno::NOENT) => {}
            other => {
                let path = other.call_at("readlinkat", dir.path().join(format!("parts/{number}/path")))?;
                numbers.insert(PathBuf::from(OsStr::from_bytes(path.to_bytes())), number);
            }
        }
    }
    Ok((numbers, free))
}

/// A directory to be read, to which no link leads.
fn open_real(dir: &Dir, path: &Path) -> Result<Option<OwnedFd>> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, path, DIRECTORY, Mode::empty(), how) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        other => other.map(Some).call_at("openat2(RESOLVE_BENEATH)", dir.path().join(path)),
    }
}

/// Filesystems that hold a system's own files and can be id-mapped.
const DISK_TYPES: [&str; 7] = ["ext4", "xfs", "btrfs", "f2fs", "erofs", "squashfs", "ext2"];

/// The host goes on meanwhile: what has gone since it was listed is not there.
fn if_there<T>(found: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The error where what a container wrote can't be shown.
fn has_no_place(path: &Path) -> Error {
    let what = "what the container wrote there has no place: the host has mounted, unmounted, hidden or removed something here \
                since, or the container has put something else there";
    Error::new(ErrorKind::State, what).with_path(path).with_remedy(
        "mount or unmount it there as it was at the container's last start, or remove the container and create it anew",
    )
}

impl Planner<'_> {
    /// Root takes `/` whole, which shows nothing of what is mounted below it: those filesystems come as parts.
    fn filesystems(&mut self) -> Result<()> {
        let covered = |path: &Path| {
            self.hidden.iter().any(|hidden| path.starts_with(hidden))
                || OWN.iter().any(|own| path.starts_with(own))
                || path == Path::new("/")
        };
        let wanted: Vec<PathBuf> = self
            .mounted
            .iter()
            .filter(|(path, kind)| DISK_TYPES.contains(&kind.as_str()) && !covered(path) && path.is_dir())
            .map(|(path, _)| path.clone())
            .collect();
        for path in wanted {
            let Some(meta) = if_there(path.metadata()).call_at("stat", &path)? else { continue };
            if !self.in_memory {
                self.has_place(&path)?;
            }
            self.overlay(path, &meta)?;
        }
        Ok(())
    }

    /// Whether nothing that the container wrote is covered by a part at this path, or could not be in it.
    fn has_place(&self, path: &Path) -> Result<()> {
        // Where the container wrote as long as nothing was mounted there.
        let above = self.numbers.iter().filter(|(above, _)| path.starts_with(above) && *above != path);
        let before = match above.max_by_key(|(above, _)| above.components().count()) {
            Some((above, number)) => {
                let below = path.strip_prefix(above).unwrap_or(path);
                Path::new(&format!("parts/{number}/upper")).join(below)
            }
            None => Self::relative(path),
        };
        let is_lost = match self.numbers.get(path) {
            None => !self.is_empty(&before)?,
            // What it had removed, or replaced by something else, is no place to mount on.
            Some(number) => {
                let is_gone = match rustix::fs::statat(self.dir, &before, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT | Errno::NOTDIR) => false,
                    other => {
                        let mode = other.call_at("fstatat", self.dir.path().join(&before))?.st_mode;
                        FileType::from_raw_mode(mode) != FileType::Directory
                    }
                };
                is_gone && !self.is_empty(Path::new(&format!("parts/{number}/upper")))?
            }
        };
        if is_lost { Err(has_no_place(path)) } else { Ok(()) }
    }

    /// A directory that can't be taken whole: its entries one by one, which are an ordinary user's then, with no other
    /// owner.
    fn directory(&mut self, path: &Path, number: usize) -> Result<()> {
        let Some(entries) = if_there(fs::read_dir(path)).call_at("open", path)? else { return Ok(()) };
        let entries = entries.map(|entry| Ok(entry?.path()));
        let mut entries: Vec<PathBuf> = entries.collect::<std::io::Result<_>>().call_at("getdents", path)?;
        entries.sort();
        let is_new = self.in_memory || !self.dir.has(format!("parts/{number}/made"));
        let upper = match self.in_memory {
            true => None,
            false => open_real(self.dir, &Self::relative(path))?,
        };
        if upper.is_none() && !self.in_memory {
            return Ok(());
        }
        let upper = upper.as_ref().map(AsFd::as_fd);
        for entry in entries {
            // Of other people's mounts not even that is told.
            let Ok(meta) = entry.symlink_metadata() else { continue };
            if meta.is_symlink() {
                if let (true, Some(target)) =
                    (is_new, if_there(fs::read_link(&entry)).call_at("readlink", &entry)?)
                {
                    self.link(upper, &entry, &target)?;
                }
            } else if meta.is_dir() {
                self.entry(upper, entry, &meta, is_new)?;
            } else if meta.is_file() {
                // Of what is hidden the name is there. A mount of the host's file could not be covered any more once
                // that is removed, which may be while this start goes on.
                let bytes = match self.hidden.contains(&entry) {
                    true => Some(Vec::new()),
                    false if meta.len() <= COPIED_MAX => fs::read(&entry).ok(),
                    false => None,
                };
                let kind = there(upper, &entry)?;
                let kind = kind.map(|stat| (FileType::from_raw_mode(stat.st_mode), stat.st_size));
                match bytes {
                    Some(_) if !is_new => {}
                    // The container's own, from when the host had no such directory.
                    Some(_) if kind.is_some_and(|(kind, _)| kind != FileType::RegularFile) => {}
                    Some(bytes) => {
                        let (path, mode) = (Self::relative(&entry), meta.permissions().mode() & 0o777);
                        self.parts.push(Part::MakeFile { path, mode, bytes });
                    }
                    // A place to mount on is an empty file.
                    None if kind.is_none_or(|kind| kind == (FileType::RegularFile, 0)) => {
                        self.parts.push(Part::File { path: entry });
                    }
                    None => {}
                }
            }
        }
        if is_new && !self.in_memory {
            self.parts.push(Part::Made { number });
        }
        Ok(())
    }

    /// A directory in one that is taken entry by entry.
    fn entry(
        &mut self,
        upper: Option<BorrowedFd<'_>>,
        path: PathBuf,
        meta: &fs::Metadata,
        is_new: bool,
    ) -> Result<()> {
        let is_empty = OWN.iter().any(|own| path == Path::new(own)) || self.hidden.contains(&path);
        let known = self.numbers.get(&path).copied();
        let kind = there(upper, &path)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            None => {}
            Some(FileType::Directory) if is_new || known.is_some() || is_empty => {}
            Some(_) => {
                return Ok(());
            }
        }
        let was_entered = known.is_some_and(|number| !self.dir.has(format!("parts/{number}/upper")));
        if known.is_some() && !was_entered && kind.is_some() && !self.is_empty(&Self::relative(&path))? {
            // Made while the host had no such directory.
            return Err(has_no_place(&path));
        }
        let enter = was_entered || self.has_mount_below(&path);
        let number = match is_empty {
            true => None,
            false => Some(self.number(&path, (!enter).then_some(meta))?),
        };
        if kind.is_none() || is_new {
            let (mode, owner) = (meta.permissions().mode() & 0o7777, None);
            match upper {
                None => self.parts.push(Part::MakeDir { path: Self::relative(&path), mode, owner }),
                Some(upper) => make_dir(upper, name_of(&path), mode, owner)
                    .map_err(|(step, errno)| Error::os(step, errno).with_path(&path))?,
            }
        }
        match number {
            Some(number) if enter => self.directory(&path, number),
            Some(number) => {
                self.parts.push(Part::Overlay { path, number });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether something is mounted below it that is not hidden anyway.
    fn has_mount_below(&self, path: &Path) -> bool {
        let below = |mount: &&PathBuf| mount.starts_with(path) && mount.as_path() != path;
        // Mounts under something hidden lock their parents to them all the same, for an ordinary user.
        self.mounted.keys().any(|mount| below(&mount))
    }

    fn relative(path: &Path) -> PathBuf {
        Path::new("upper").join(path.strip_prefix("/").unwrap_or(path))
    }

    fn shifted(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        let range = |id| if id < super::ids::COUNT { id } else { 65534 };
        self.owner.map(|(base_uid, base_gid)| (base_uid + range(uid), base_gid + range(gid)))
    }

    /// A directory beside the writable layer. One in memory has to be made by stage A.
    fn mkdir(&mut self, path: String, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
        if self.in_memory {
            self.parts.push(Part::MakeDir { path: path.into(), mode, owner });
            return Ok(());
        }
        self.dir.mkdir(path, mode, owner)
    }

    fn link(&mut self, upper: Option<BorrowedFd<'_>>, path: &Path, target: &Path) -> Result<()> {
        let Some(upper) = upper else {
            let (path, target) = (Self::relative(path), target.to_owned());
            self.parts.push(Part::MakeLink { path, target });
            return Ok(());
        };
        match rustix::fs::symlinkat(target, upper, name_of(path)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::os("symlinkat", errno).with_path(path)),
        }
    }

    fn overlay(&mut self, path: PathBuf, meta: &fs::Metadata) -> Result<()> {
        let number = self.number(&path, Some(meta))?;
        self.parts.push(Part::Overlay { path, number });
        Ok(())
    }

    /// The number of a directory, and what it has by it. With its metadata it is to be taken whole.
    fn number(&mut self, path: &Path, whole: Option<&fs::Metadata>) -> Result<usize> {
        let known = self.numbers.get(path).copied();
        let number = known.unwrap_or(self.free);
        let own = format!("parts/{number}");
        self.planned.insert(number);
        if known.is_none() {
            self.free += 1;
            if !self.in_memory && number == 0 {
                self.mkdir("parts".into(), 0o755, self.owner)?;
            }
            if !self.in_memory || whole.is_some() {
                self.mkdir(own.clone(), 0o755, self.owner)?;
            }
        }
        let upper = format!("{own}/upper");
        match whole {
            Some(meta) => {
                if known.is_none() {
                    let mode = meta.permissions().mode() & 0o7777;
                    self.mkdir(upper, mode, self.shifted((meta.uid(), meta.gid())))?;
                }
                if !self.in_memory {
                    self.dir.store.remove_tree(self.dir.as_fd(), format!("{own}/work"))?;
                }
                self.mkdir(format!("{own}/work"), 0o700, self.owner)?;
            }
            // It was whole.
            None if known.is_some() => match rustix::fs::unlinkat(self.dir, &upper, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY) => return Err(has_no_place(path)),
                Err(errno) => return Err(Error::os("unlinkat", errno).with_path(self.dir.path().join(upper))),
            },
            None => {}
        }
        if known.is_none() && !self.in_memory {
            let link = format!("{own}/path");
            rustix::fs::symlinkat(path, self.dir, &link).call_at("symlinkat", self.dir.path().join(link))?;
        }
        self.numbers.insert(path.to_owned(), number);
        Ok(number)
    }

    /// Whether a directory of the container's has nothing in it, or is not there.
    fn is_empty(&self, name: &Path) -> Result<bool> {
        let Some(dir) = open_real(self.dir, name)? else { return Ok(true) };
        Ok(list(dir.as_fd())?.is_empty())
    }

    /// What was taken before and is not now has nothing of the container's.
    fn nothing_is_lost(&self) -> Result<()> {
        for (path, number) in &self.numbers {
            let upper = format!("parts/{number}/upper");
            if !self.planned.contains(number) && !self.is_empty(Path::new(&upper))? {
                return Err(has_no_place(path));
            }
        }
        Ok(())
    }
}

/// What has the name of this path in the writable layer.
fn there(upper: Option<BorrowedFd<'_>>, path: &Path) -> Result<Option<Stat>> {
    let Some(upper) = upper else { return Ok(None) };
    match rustix::fs::statat(upper, name_of(path), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some).call_at("fstatat", path),
    }
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}
