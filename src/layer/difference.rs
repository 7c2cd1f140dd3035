//! What a container has changed of its image, found by a walk through what it has written.
//!
//! Everything goes by handle, no link is followed and no mount is entered; the container may have made anything of its tree, and
//! go on meanwhile. What is found comes in an order that depends on the names alone: of each directory first what is no directory,
//! then, one after the other, the directories in it.
#![forbid(unsafe_code)]

use super::attributes::{Attributes, get_xattrs_with};
use super::below::{Below, Found, is_whiteout};
use super::entry::{Entry, EntryKind, Mtime};
use super::path::{join, normal, text};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// How what a container has written is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// As the writable layer of an overlay, with whiteouts and opaque directories.
    Writable,
    /// As the whole root that the container sees; its mount has this number (statx(2), STATX_MNT_ID).
    Whole(u64),
}

/// A container's tree beside its image.
pub(crate) struct Difference<'a> {
    pub(super) view: View,
    root: BorrowedFd<'a>,
    /// One layer, the tree.
    pub(super) tree: Below<'a>,
    pub(super) image: Below<'a>,
    /// What is none of the container's own: places that something is mounted on.
    excluded: BTreeSet<Vec<u8>>,
    /// The container may go on meanwhile.
    moving: bool,
    /// The first name of every file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// What has no place in a layer, and why.
    pub(super) left_out: Vec<(std::path::PathBuf, String)>,
}

/// What becomes of what is found.
pub(super) trait Visitor {
    /// A file or a directory of the tree, that the image may have too; a directory comes before what is in it.
    fn found(&mut self, difference: &mut Difference<'_>, node: &Node<'_>) -> Result<ControlFlow<()>>;

    /// A name that the image has and the tree has not. `covered`: in a directory that hides the image's anyway.
    fn gone(&mut self, path: Vec<u8>, covered: bool) -> Result<ControlFlow<()>>;

    /// A directory that hides all that the image has in it.
    fn opaque(&mut self, path: &[u8]) -> Result<ControlFlow<()>>;
}

/// Something of the tree.
pub(super) struct Node<'n> {
    /// Empty for the root.
    pub(super) path: &'n [u8],
    pub(super) stat: Stat,
    /// The directory it lies in, and its name there; the directory itself and nothing for the root.
    dir: BorrowedFd<'n>,
    name: &'n [u8],
    /// What the image has there.
    pub(super) image: Option<Found>,
    /// It is in a directory that hides the image's.
    pub(super) covered: bool,
}

impl Node<'_> {
    pub(super) fn is(&self, kind: FileType) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == kind
    }
}

/// A directory that is still to be looked into.
struct Todo {
    path: Vec<u8>,
    /// Nothing is seen there of the image.
    covered: bool,
}

/// A reader of archives takes a megabyte of attributes for one file, with what is around them.
const XATTRS_MAX: usize = (1 << 20) - (64 << 10);

const CHANGED: &str = "a file changed while it was read";
const STOP_IT: &str = "stop the container, or let it be paused meanwhile";

impl<'a> Difference<'a> {
    /// `tree`: the directory `root` alone. `image`: the layers below it.
    pub(crate) fn new(
        view: View,
        root: BorrowedFd<'a>,
        tree: Below<'a>,
        image: Below<'a>,
        excluded: BTreeSet<Vec<u8>>,
    ) -> Self {
        Self { view, root, tree, image, excluded, moving: false, links: HashMap::new(), left_out: Vec::new() }
    }

    /// Whether the container may go on meanwhile: what has just gone is no error then.
    pub(crate) fn moving(self, moving: bool) -> Self {
        Self { moving, ..self }
    }

    /// For a second walk.
    pub(super) fn begin_again(&mut self) {
        self.links.clear();
        self.left_out.clear();
    }

    /// Whether something is mounted in it or below, so that places to mount on may have been made in it.
    pub(super) fn has_excluded(&self, path: &[u8]) -> bool {
        let mut beneath = path.to_vec();
        if !path.is_empty() {
            beneath.push(b'/');
        }
        self.excluded.range(beneath.clone()..).next().is_some_and(|next| next.starts_with(&beneath))
    }

    pub(super) fn walk(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        // Directories to visit, the next one last. No more than one is open at a time.
        let mut todo = vec![Todo { path: Vec::new(), covered: false }];
        while let Some(at) = todo.pop() {
            if self.directory(&at, visitor, &mut todo)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        at: &Todo,
        visitor: &mut dyn Visitor,
        todo: &mut Vec<Todo>,
    ) -> Result<ControlFlow<()>> {
        let path = &at.path[..];
        let Some(dir) = self.open_dir(path)? else { return Ok(ControlFlow::Continue(())) };
        let mut covered = at.covered;
        let stat = rustix::fs::fstat(&dir).call_at("fstat", text(path))?;
        let image = if path.is_empty() { None } else { self.image.find(path)? };
        let node = Node { path, stat, dir: dir.as_fd(), name: b".", image, covered };
        if self.visit(&node, visitor)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if !path.is_empty() && !covered && self.view == View::Writable && self.tree.is_opaque(&dir, path)? {
            covered = true;
            if !self.image.directory(path)?.is_empty() && visitor.opaque(path)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        // The names, and whether the tree has them.
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        if covered || self.view != View::Writable {
            names.extend(self.image.names(path)?.into_iter().map(|name| (name, false)));
        }
        names.extend(self.names(&dir, path)?.into_iter().map(|name| (name, true)));
        let mut directories = Vec::new();
        for (name, is_there) in names {
            let path = join(path, &name);
            if self.excluded.contains(&path) {
                continue;
            }
            let flow = match is_there {
                true => self.name(&dir, &name, path, covered, visitor, &mut directories)?,
                false => self.missing(path, covered, visitor)?,
            };
            if flow.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        todo.extend(directories.into_iter().rev());
        Ok(ControlFlow::Continue(()))
    }

    fn name(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: Vec<u8>,
        covered: bool,
        visitor: &mut dyn Visitor,
        directories: &mut Vec<Todo>,
    ) -> Result<ControlFlow<()>> {
        const GO_ON: ControlFlow<()> = ControlFlow::Continue(());
        normal(&path)?;
        // It has just been removed.
        let Some(stat) = self.tree.stat(dir.as_fd(), name, &path)? else { return Ok(GO_ON) };
        if self.is_mounted(dir.as_fd(), name, &path)? {
            return Ok(GO_ON);
        }
        if self.view == View::Writable {
            match self.is_whiteout(dir.as_fd(), name, &path, &stat) {
                Err(error) if self.moving && error.kind() == ErrorKind::NotFound => return Ok(GO_ON),
                Ok(false) => {}
                other => {
                    other?;
                    return self.missing(path, covered, visitor);
                }
            }
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            directories.push(Todo { path, covered });
            return Ok(GO_ON);
        }
        let image = self.image.find(&path)?;
        if let Some(Found::File(_, _, old)) = &image
            && self.view != View::Writable
            && is_untouched(old, &stat)
        {
            return Ok(GO_ON);
        }
        self.visit(&Node { path: &path, stat, dir: dir.as_fd(), name, image, covered }, visitor)
    }

    fn visit(&mut self, node: &Node<'_>, visitor: &mut dyn Visitor) -> Result<ControlFlow<()>> {
        match visitor.found(self, node) {
            // It has just gone.
            Err(error)
                if self.moving
                    && error.kind() == ErrorKind::NotFound
                    && error.path() == Some(text(node.path)) =>
            {
                Ok(ControlFlow::Continue(()))
            }
            other => other,
        }
    }

    fn missing(
        &mut self,
        path: Vec<u8>,
        covered: bool,
        visitor: &mut dyn Visitor,
    ) -> Result<ControlFlow<()>> {
        match self.image.find(&path)? {
            // No container sees an image's devices.
            None => Ok(ControlFlow::Continue(())),
            Some(Found::Device(..)) if self.view != View::Writable => Ok(ControlFlow::Continue(())),
            Some(_) => visitor.gone(path, covered),
        }
    }

    /// The names in an open directory.
    fn names(&self, dir: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        // Not opened again: it may be one that only the owners' way could open.
        let copy = dir.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
        for entry in Dir::new(copy).call_at("readdir", text(path))? {
            let entry = entry.call_at("readdir", text(path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// Opens a directory beneath the root through no link and no mount; `None` where there is none any more.
    fn open_dir(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        let name = if path.is_empty() { b"." } else { path };
        match self.open(self.root, name, OFlags::RDONLY | OFlags::DIRECTORY, path) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, path: &[u8]) -> Result<OwnedFd> {
        let how = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let changed = |errno: Errno| {
            Error::new(ErrorKind::InUse, CHANGED)
                .with_path(text(path))
                .with_remedy(STOP_IT)
                .with_source(std::io::Error::from(errno))
        };
        match crate::sys::open::openat2(dir, name, flags, Mode::empty(), how) {
            // Something else has taken its place.
            Err(errno @ (Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::NXIO)) => Err(changed(errno)),
            Err(Errno::ACCESS) => {
                let c_name = std::ffi::CString::new(name).unwrap_or_default();
                let owners = self.tree.owners();
                match owners.map_or(Ok(None), |owners| owners.open(dir, &c_name, flags))? {
                    Some(fd) if self.is_in_tree(fd.as_fd(), path)? => Ok(fd),
                    Some(_) => Err(changed(Errno::XDEV)),
                    None => Err(Errno::ACCESS).call_at("openat2", text(path)),
                }
            }
            other => other.call_at("openat2", text(path)),
        }
    }

    /// Whether an open file lies in no other mount.
    fn is_in_tree(&self, file: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
        let View::Whole(mount) = self.view else { return Ok(true) };
        mount_of(file, b"", AtFlags::EMPTY_PATH, path).map(|found| found == mount)
    }

    /// Whether something is mounted on a name.
    fn is_mounted(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<bool> {
        let View::Whole(mount) = self.view else { return Ok(false) };
        match mount_of(dir, name, AtFlags::SYMLINK_NOFOLLOW, path) {
            Ok(found) => Ok(found != mount),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let found = self.tree.open(dir, name, OFlags::PATH, path)?;
                self.is_in_tree(found.as_fd(), path).map(|is_in| !is_in)
            }
            Err(error) => Err(error),
        }
    }

    /// A device 0/0, or an empty file with the overlay's mark, which container root can't set.
    fn is_whiteout(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8], stat: &Stat) -> Result<bool> {
        if is_whiteout(stat) {
            return Ok(true);
        }
        if stat.st_size != 0 || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let file = self.open(dir, name, OFlags::RDONLY | OFlags::NONBLOCK, path)?;
        self.tree.is_marked_whiteout(file.as_fd(), path)
    }

    /// What a node would be in an archive, and its content where it has some. `None`: no archive can have it, which is
    /// noted.
    pub(super) fn describe(&mut self, node: &Node<'_>) -> Result<Option<(Entry, Option<File>)>> {
        let Node { path, stat, .. } = *node;
        let left_out = |what: &str| (text(path).to_owned(), what.to_owned());
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Socket => {
                self.left_out.push(left_out("a socket"));
                return Ok(None);
            }
            _ => {
                self.left_out.push(left_out("of unknown kind"));
                return Ok(None);
            }
        };
        let mut entry = Entry::new(if path.is_empty() { b"." } else { path }, kind);
        let (mut stat, mut xattrs, mut file) = (stat, Vec::new(), None);
        match kind {
            EntryKind::File | EntryKind::Directory => {
                // A FIFO that takes the file's place must not stop us.
                let flags = if kind == EntryKind::File { OFlags::NONBLOCK } else { OFlags::DIRECTORY };
                let fd = self.open(node.dir, node.name, OFlags::RDONLY | flags, path)?;
                let now = rustix::fs::fstat(&fd).call_at("fstat", text(path))?;
                if FileType::from_raw_mode(now.st_mode) != FileType::from_raw_mode(stat.st_mode) {
                    return Err(Error::new(ErrorKind::InUse, CHANGED)
                        .with_path(text(path))
                        .with_remedy(STOP_IT));
                }
                stat = now;
                xattrs = self.xattrs(fd.as_fd(), path)?;
                if kind == EntryKind::File {
                    entry.size = stat.st_size as u64;
                    file = Some(File::from(fd));
                }
            }
            EntryKind::Symlink => entry.link = self.tree.read_link(node.dir, node.name, path)?.into_vec(),
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            }
            EntryKind::Fifo | EntryKind::HardLink => {}
        }
        let attributes = self.tree.as_in_image(0, path, Attributes::of_file(&stat, xattrs))?;
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        entry = Entry { mode, uid, gid, mtime, xattrs, ..entry };
        self.keep_recorded(node, &mut entry)?;
        Ok(Some((entry, file)))
    }

    /// A user with a single id has given no file away: whose it is in the image, only the image knows.
    fn keep_recorded(&mut self, node: &Node<'_>, entry: &mut Entry) -> Result<()> {
        if node.covered || !self.tree.owners().is_some_and(|owners| owners.is_recorded()) {
            return Ok(());
        }
        let Some(found) = node.image.as_ref().filter(|found| found.kind() == Some(entry.kind)) else {
            return Ok(());
        };
        if let Some(old) = self.image.entry(node.path, found)? {
            (entry.uid, entry.gid) = (old.uid, old.gid);
        }
        Ok(())
    }

    fn xattrs(&self, file: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let owners = self.tree.owners();
        let xattrs = get_xattrs_with(file, path, |name| {
            owners.map_or(Ok(None), |owners| owners.attribute(file, name))
        })?;
        let size: usize = xattrs.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        if size > XATTRS_MAX {
            let what = format!("a file with {size} bytes of extended attributes");
            return Err(Error::new(ErrorKind::TooLarge, what).with_path(text(path)));
        }
        Ok(xattrs)
    }

    /// The path under which the file came already, if it has several names.
    pub(super) fn linked(&mut self, stat: &Stat, path: &[u8]) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return None;
        }
        let id = (stat.st_dev, stat.st_ino);
        match self.links.get(&id) {
            Some(first) => Some(first.clone()),
            None => {
                self.links.insert(id, path.to_vec());
                None
            }
        }
    }
}

/// Whether a file that is seen through the overlay is the very one of a layer. What was copied into the writable layer has
/// another time of change, which nobody can set.
fn is_untouched(old: &Stat, new: &Stat) -> bool {
    let of = |stat: &Stat| {
        let times = [(stat.st_ctime, stat.st_ctime_nsec), (stat.st_mtime, stat.st_mtime_nsec)];
        (times, stat.st_mode, stat.st_size)
    };
    of(old) == of(new)
}

fn mount_of(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags, path: &[u8]) -> Result<u64> {
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(dir, name, flags, StatxFlags::MNT_ID).call_at("statx", text(path))?;
    Ok(stat.stx_mnt_id)
}

// ---- docker's A, C and D

/// What became of a path, in docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    Added,
    Modified,
    Deleted,
}

impl Difference<'_> {
    /// What `docker diff` says, by path without the leading slash: a directory whose mode, owner and capability are the same
    /// counts as modified where something beneath it is.
    pub(crate) fn changes(&mut self) -> Result<BTreeMap<Vec<u8>, Became>> {
        let mut changes = Changes(BTreeMap::new());
        self.walk(&mut changes)?;
        let mut all = changes.0;
        let above: BTreeSet<_> = all
            .keys()
            .flat_map(|path| super::path::ancestors(path).map(<[u8]>::to_vec).collect::<Vec<_>>())
            .collect();
        for path in above {
            if let btree_map::Entry::Vacant(place) = all.entry(path) {
                let is_old = self.image.find(place.key())?.is_some();
                place.insert(if is_old { Became::Modified } else { Became::Added });
            }
        }
        Ok(all)
    }
}

struct Changes(BTreeMap<Vec<u8>, Became>);

impl Visitor for Changes {
    fn found(&mut self, difference: &mut Difference<'_>, node: &Node<'_>) -> Result<ControlFlow<()>> {
        if node.path.is_empty() || is_place(difference, node)? {
            return Ok(ControlFlow::Continue(()));
        }
        let became = match &node.image {
            None => Some(Became::Added),
            Some(found) => is_modified(difference, node, found)?.then_some(Became::Modified),
        };
        if let Some(became) = became {
            self.0.insert(node.path.to_vec(), became);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn gone(&mut self, path: Vec<u8>, _: bool) -> Result<ControlFlow<()>> {
        self.0.insert(path, Became::Deleted);
        Ok(ControlFlow::Continue(()))
    }

    fn opaque(&mut self, _: &[u8]) -> Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }
}

/// Whether a directory may have been made as a place to mount on, or above one: then it counts only for what is in it.
pub(super) fn is_place(difference: &mut Difference<'_>, node: &Node<'_>) -> Result<bool> {
    if node.image.is_some() || !node.is(FileType::Directory) || !difference.has_excluded(node.path) {
        return Ok(false);
    }
    let Some((entry, _)) = difference.describe(node)? else { return Ok(false) };
    Ok((entry.mode, entry.uid, entry.gid, entry.xattrs.is_empty()) == (0o755, 0, 0, true))
}

/// As docker compares: of directories neither size nor time, of all else neither content nor other attributes than a
/// capability.
fn is_modified(difference: &mut Difference<'_>, node: &Node<'_>, image: &Found) -> Result<bool> {
    let kind = match image {
        Found::File(_, _, old) => FileType::from_raw_mode(old.st_mode),
        Found::Device(_, device) if device.block => FileType::BlockDevice,
        Found::Device(..) => FileType::CharacterDevice,
    };
    if !node.is(kind) || node.is(FileType::Socket) {
        return Ok(true);
    }
    let Some(old) = difference.image.entry(node.path, image)? else { return Ok(true) };
    let Some((new, _)) = difference.describe(node)? else { return Ok(true) };
    let capability = |entry: &Entry| {
        let mut all = entry.xattrs.iter();
        all.find(|(name, _)| name == super::attributes::CAPABILITY).map(|(_, value)| value.clone())
    };
    let of = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.device, capability(entry));
    if of(&old) != of(&new) {
        return Ok(true);
    }
    let size = |entry: &Entry| entry.size.max(entry.link.len() as u64);
    Ok(old.kind != EntryKind::Directory && (!same_time(old.mtime, new.mtime) || size(&old) != size(&new)))
}

/// Some filesystems and archives have whole seconds only.
fn same_time(a: Mtime, b: Mtime) -> bool {
    a.secs == b.secs && (a.nanos == b.nanos || a.nanos == 0 || b.nanos == 0)
}

/// Whether two entries of a directory differ in their times alone, if in anything.
pub(super) fn same_but_for_time(a: &Entry, b: &Entry) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}
