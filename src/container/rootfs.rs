//! Stage A: the root filesystem, built with the warden's rights in a mount namespace of its own.
//!
//! What is mounted here is locked once the container's mount namespace is made: its root can neither remove these
//! mounts nor take their flags away. Root and volumes are always NODEV, as an overlay belongs to the initial user
//! namespace and a device node in it would open the host's device.
#![forbid(unsafe_code)]

use super::dev::{self, Dev};
use super::given::{self, FileId};
use super::protection::Protection;
use super::script::{CWD, Links, Script};
use super::spec::{FileContent, covering};
use super::stages::WITHOUT;
use crate::error::ErrorKind;
use crate::feature::Feature;
use crate::layer::RootDir;
use crate::layer::overlay::{self, Stack};
use crate::sys::plan::format::OP_FAIL;
use crate::sys::plan::{Cell, Label};
use linux_raw_sys::errno::{
    EACCES, EAGAIN, EBADF, EBUSY, EEXIST, EINVAL, ELOOP, ENOENT, ENXIO, EOPNOTSUPP, EXDEV,
};
use linux_raw_sys::general as n;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to mount, with host paths already resolved.
pub(super) struct Root<'a> {
    /// The container's directory in the store.
    pub dir: &'a Path,
    pub base: Base,
    /// Its writable layer is this tmpfs, in bytes.
    pub memory: Option<u64>,
    /// Of the user namespace that maps the container's ids; none as an ordinary user.
    pub userns: Option<Cell>,
    /// What container ids are for stage A.
    pub shift: Shift,
    pub mounts: Vec<Planned>,
    /// Files of /etc that are made anew for each start: name and content.
    pub etc: Vec<(&'static str, String)>,
    pub files: &'a [FileContent],
    pub dev: Dev<'a>,
    pub read_only: bool,
    /// Mounts that can't be id-mapped are attached without, and that is [told](WITHOUT).
    pub unmapped: bool,
    /// Writes need not reach the disk before the end of the container.
    pub volatile: bool,
    /// The kernel has overlays over mounts that are attached nowhere.
    pub detached_lowers: bool,
    /// The bytes and the files of it that are in memory alone.
    pub given: (u64, u64),
}

impl Root<'_> {
    /// The mount that a path is in; none of the root's own.
    fn covering(&self, path: &Path) -> Option<&Planned> {
        covering(self.mounts.iter(), |planned| &planned.target, path)
    }

    /// Whether its place is in a mount from outside.
    fn is_within_another(&self, planned: &Planned) -> bool {
        self.mounts.iter().any(|other| {
            matches!(other.source, Source::Path { .. })
                && other.target != planned.target
                && planned.target.starts_with(&other.target)
        })
    }

    /// Whether something has to be made below this directory, as a place to mount on or as a file.
    fn has_place_in(&self, dir: &Path) -> bool {
        let returned = |part: &Part| matches!(part, Part::Return { path, .. } if path.starts_with(dir));
        self.base.parts.iter().any(returned)
            || self.mounts.iter().any(|mount| mount.target.starts_with(dir))
            || self.files.iter().any(|file| file.path.starts_with(dir))
    }
}

pub(super) struct Base {
    /// What the root directory itself is to be, where the writable layer is new and the image says.
    pub root_dir: Option<RootDir>,
    /// Directories of layers, top first; none for a root that is all parts.
    pub layers: Vec<PathBuf>,
    /// What lies on it, of this machine's own root.
    pub parts: Vec<Part>,
}

/// A piece of the host's root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A directory of the writable layer, where that is in memory (on disk the host has made it).
    MakeDir { path: PathBuf, mode: u32, owner: Option<(u32, u32)> },
    /// A symbolic link likewise.
    MakeLink { path: PathBuf, target: PathBuf },
    /// A small file of a directory that can't be taken whole, in the writable layer. Nobody has run there.
    MakeFile { path: PathBuf, mode: u32, bytes: Vec<u8> },
    /// All of those in a directory are made: from now on they are the container's.
    Made { number: usize },
    /// An overlay over this directory, with `parts/N` as its writable layer.
    Overlay { path: PathBuf, number: usize },
    /// A larger one: the host's, read-only.
    File { path: PathBuf },
    /// Covered: by an empty directory.
    HideDir { path: PathBuf, mode: u32, writable: bool },
    /// Covered: by an empty file.
    HideFile { path: PathBuf },
    /// In something covered, and given back.
    Return { path: PathBuf, is_dir: bool },
}

/// How stage A names the container's ids.
#[derive(Clone, Copy)]
pub(super) struct Shift(pub u32);

impl Shift {
    pub fn owner(self, uid: u32, gid: u32) -> (u32, u32) {
        (self.0 + uid, self.0 + gid)
    }
}

/// A mount of the spec, with its source.
pub(super) struct Planned {
    /// Absolute, without `..`.
    pub target: PathBuf,
    pub is_dir: bool,
    pub source: Source,
    pub read_only: bool,
}

pub(super) enum Source {
    /// Of the host; with `id` it has to be that file.
    Path {
        path: PathBuf,
        recursive: bool,
        suid: bool,
        id: Option<FileId>,
    },
    Tmpfs {
        size: u64,
        inodes: u64,
        mode: u32,
        exec: bool,
    },
    Memory {
        bytes: Arc<[u8]>,
        mode: u32,
        owner: (u32, u32),
    },
    Layers {
        lowers: Vec<PathBuf>,
        path: PathBuf,
    },
}

/// The operations; gives the descriptor of the root's mount, which is attached in the container's directory.
pub(super) fn build(s: &mut Script<'_>, root: &Root<'_>) -> Cell {
    s.during("building the root filesystem");
    let dir = s.open_path(root.dir);
    let fresh = fresh(s, root, dir);
    let etc = etc_files(s, root, fresh);
    s.during("mounting the root filesystem");
    let writable = match root.memory {
        Some(size) => {
            let mount = s.tmpfs(size, 1 << 20, 0o700, None, n::MOUNT_ATTR_NODEV);
            s.attach(mount, dir, root.dir);
            for name in [c"upper", c"work", c"parts"] {
                make_dir(s, mount, name, 0o755, root);
            }
            mount
        }
        None => dir,
    };
    let Stand { mount, parts: parts_mounted, temporary, covers } = stand(s, root, dir, writable);
    for name in [c"proc", c"sys", c"dev"] {
        let at = s.c_str(name);
        let exists = s.label();
        s.op(n::__NR_mkdirat, "mkdirat", [mount.into(), at.into(), 0o755.into()])
            .path(Path::new("/").join(&*name.to_string_lossy()))
            .tolerate(&[EEXIST])
            .otherwise(exists);
        s.chown(mount, at, root.shift.owner(0, 0), Path::new("/"));
        s.place(exists);
    }
    // In the order in which they go.
    let is_asked = !root.files.is_empty() || !root.mounts.is_empty();
    let guards = is_asked.then(|| Guard::each(s, mount, fresh, ["dev", "proc", "sys"]));
    let mut guards = guards.into_iter().flatten();
    let mut written: Vec<Written<'_>> = root
        .files
        .iter()
        .filter(|file| root.covering(&file.path).is_none())
        .map(|file| write_file(s, root, mount, Path::new("/"), file))
        .collect();
    for (number, planned) in root.mounts.iter().enumerate() {
        written.extend(one(s, root, mount, (fresh, writable), number as u64, planned));
    }
    s.during("mounting the files of /etc");
    for (file, (name, _)) in etc.into_iter().zip(&root.etc) {
        let path = Path::new("/etc").join(name);
        let target = s.mountpoint(mount, &path, false, root.shift.owner(0, 0));
        s.attach(file, target, &path).remedy("the image has there what is no file: make it one");
    }
    if let Some(dev) = guards.next() {
        dev.leave(s, mount);
    }
    let dev = super::inside::mountable(s, mount, "dev");
    dev::build(s, dev, fresh, &root.dev, root.shift);
    for file in &written {
        is_seen(s, mount, file);
    }
    for guard in guards {
        guard.leave(s, mount);
    }
    // Only now: until here, places to mount on and files were made in it.
    let read_only = root.read_only.then(|| parts_mounted.into_iter().chain(temporary).chain([mount]));
    make_read_only(s, covers.into_iter().chain(read_only.into_iter().flatten()));
    mount
}

/// The same for one that does not run, whose files are to be reached: without what each start makes anew, and with nothing to
/// be written where a tmpfs would be. It is not for anybody to live in.
pub(super) fn build_resting(s: &mut Script<'_>, root: &Root<'_>) -> Cell {
    s.during("mounting the root filesystem");
    let dir = s.open_path(root.dir);
    let Stand { mount, parts, temporary, covers } = stand(s, root, dir, dir);
    for (number, planned) in root.mounts.iter().enumerate() {
        match planned.source {
            // Of what a build gives, a record has nothing.
            Source::Path { .. } | Source::Memory { .. } | Source::Layers { .. } => {
                drop(one(s, root, mount, (dir, dir), number as u64, planned));
            }
            Source::Tmpfs { mode, .. } => {
                let flags = n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_RDONLY;
                let owner = root.shift.owner(0, 0);
                let target = s.mountpoint(mount, &planned.target, true, owner);
                let nothing = s.tmpfs(4096, 2, mode, Some(owner), flags);
                s.attach(nothing, target, &planned.target);
            }
        }
    }
    let read_only = root.read_only.then(|| parts.into_iter().chain([mount])).into_iter().flatten();
    make_read_only(s, covers.into_iter().chain(temporary).chain(read_only));
    mount
}

fn make_read_only(s: &mut Script<'_>, mounts: impl Iterator<Item = Cell>) {
    for mount in mounts {
        // Of a place that had gone there is no mount, and no descriptor.
        s.set_attributes(mount, n::MOUNT_ATTR_RDONLY, None, false, Path::new("/")).tolerate(&[EBADF]);
    }
}

/// What all else is mounted on.
struct Stand {
    /// The root's.
    mount: Cell,
    /// Of the host's root, those that can be written so far.
    parts: Vec<Cell>,
    /// Likewise, in memory.
    temporary: Vec<Cell>,
    /// And those that are to be read-only in the end.
    covers: Vec<Cell>,
}

/// Attached at `dir`, over what was attached there before, which is not needed by path any more.
fn stand(s: &mut Script<'_>, root: &Root<'_>, dir: Cell, writable: Cell) -> Stand {
    let mount = if root.base.layers.is_empty() {
        let upper = s.open_dir_at(writable, c"upper");
        let mount = s.clone_mount(upper, false, root.dir);
        s.set_attributes(mount, n::MOUNT_ATTR_NODEV, None, false, root.dir);
        mount
    } else {
        if let Some(dir) = &root.base.root_dir {
            dress_root(s, root, writable, dir);
            s.during("mounting the root filesystem");
        }
        let upper = s.open_dir_at(writable, c"upper");
        let work = s.open_dir_at(writable, c"work");
        overlay(s, root, &root.base.layers, None, (upper, work))
    };
    s.attach(mount, dir, Path::new("/"));
    let mut stand = Stand { mount, parts: Vec::new(), temporary: Vec::new(), covers: Vec::new() };
    for part in &root.base.parts {
        let open = host_part(s, root, mount, writable, part);
        match part {
            Part::HideDir { writable: false, .. } => stand.covers.extend(open),
            Part::HideDir { .. } => stand.temporary.extend(open),
            _ => stand.parts.extend(open),
        }
    }
    stand
}

fn make_dir(s: &mut Script<'_>, parent: Cell, name: &std::ffi::CStr, mode: u32, root: &Root<'_>) {
    let at = s.c_str(name);
    s.op(n::__NR_mkdirat, "mkdirat", [parent.into(), at.into(), mode.into()]).path(root.dir);
    s.chown(parent, at, root.shift.owner(0, 0), root.dir);
}

/// An overlay shows of its topmost directory what the writable layer's is like.
fn dress_root(s: &mut Script<'_>, root: &Root<'_>, writable: Cell, dir: &RootDir) {
    s.during("giving the root directory its attributes");
    let (upper, path) = (s.c_str(c"upper"), Path::new("/"));
    s.chown(writable, upper, root.shift.owner(dir.uid, dir.gid), path);
    s.op(n::__NR_fchmodat, "fchmodat", [writable.into(), upper.into(), dir.mode.into()]).path(path);
    if !dir.xattrs.is_empty() {
        let opened = s.open_dir_at(writable, c"upper");
        let opened = s.magic(opened);
        for (name, value) in &dir.xattrs {
            let name = s.string(OsStr::from_bytes(name));
            let at = s.bytes(value);
            s.op(
                n::__NR_setxattr,
                "setxattr",
                [opened.into(), name.into(), at.into(), value.len().into(), 0.into()],
            )
            .path(path)
            .tolerate(&[EOPNOTSUPP]);
        }
    }
    // struct timespec of the last access, which stays, and of the last change.
    let times = s.words64(&[0, n::UTIME_OMIT.into(), dir.mtime.0 as u64, dir.mtime.1]);
    s.op(n::__NR_utimensat, "utimensat", [writable.into(), upper.into(), times.into(), 0.into()]).path(path);
}

/// A small tmpfs for all that is made anew for each start: the files of /etc, and /dev as a directory in it. A filesystem of
/// its own for each of them would take the kernel longer than all else about it.
fn fresh(s: &mut Script<'_>, root: &Root<'_>, dir: Cell) -> Cell {
    s.during("making the files of /etc and /dev");
    // The host's /etc/hosts may be long.
    let size = dev::SIZE + (1 << 20) + root.etc.iter().map(|(_, text)| text.len() as u64).sum::<u64>();
    let (size, inodes) = (size + root.given.0, dev::INODES + 16 + root.given.1);
    let tmpfs = s.tmpfs(size, inodes, 0o755, Some(root.shift.owner(0, 0)), dev::PLAIN);
    // A mount can be copied only where it is attached.
    s.attach(tmpfs, dir, root.dir);
    tmpfs
}

/// Writes them; gives each as a mount that is attached nowhere yet.
fn etc_files(s: &mut Script<'_>, root: &Root<'_>, tmpfs: Cell) -> Vec<Cell> {
    s.during("writing the files of /etc");
    let owner = root.shift.owner(0, 0);
    let flags = n::O_CREAT | n::O_WRONLY | n::O_CLOEXEC;
    root.etc
        .iter()
        .map(|(name, text)| {
            let path = Path::new("/etc").join(name);
            let at = s.string(name);
            let open = [tmpfs.into(), at.into(), flags.into(), 0o644.into()];
            let fd = s.op(n::__NR_openat, "openat(O_CREAT)", open).path(&path).result();
            if !text.is_empty() {
                s.write(fd, text.as_bytes(), &path);
            }
            s.op(n::__NR_fchown, "fchown", [fd.into(), owner.0.into(), owner.1.into()]).path(&path);
            s.clone_mount(fd, false, &path)
        })
        .collect()
}

fn overlay(
    s: &mut Script<'_>,
    root: &Root<'_>,
    layers: &[PathBuf],
    gone: Option<Label>,
    (upper, work): (Cell, Cell),
) -> Cell {
    let as_root = root.userns.is_some();
    let stack = Stack {
        lowers: layers,
        gone,
        upper: Some((upper, work, root.dir)),
        in_store: root.memory.is_none(),
        userns: root.userns,
        userxattr: !as_root,
        // Renaming a directory of a lower layer is a copy then, as everywhere else; a layer needs no redirects.
        redirect_dir: as_root.then_some(false),
        volatile: root.volatile,
        detached: root.detached_lowers,
    };
    overlay::stack(s, &stack)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Gives the mount, if it can be written so far.
fn host_part(s: &mut Script<'_>, root: &Root<'_>, mount: Cell, writable: Cell, part: &Part) -> Option<Cell> {
    let owner = root.shift.owner(0, 0);
    match part {
        Part::MakeDir { path, mode, owner } => {
            let at = s.string(path);
            let mode = *mode;
            s.op(n::__NR_mkdirat, "mkdirat", [writable.into(), at.into(), mode.into()]).path(path);
            if let Some(owner) = owner {
                s.chown(writable, at, *owner, path);
            }
            s.op(n::__NR_fchmodat, "fchmodat", [writable.into(), at.into(), mode.into()]).path(path);
            None
        }
        Part::MakeLink { path, target } => {
            let (at, target) = (s.string(path), s.string(target));
            s.op(n::__NR_symlinkat, "symlinkat", [target.into(), writable.into(), at.into()]).path(path);
            None
        }
        Part::MakeFile { path, mode, bytes } => {
            let at = s.string(path);
            // A start that failed may have made it.
            let flags = n::O_CREAT | n::O_TRUNC | n::O_WRONLY | n::O_CLOEXEC | n::O_NOFOLLOW;
            let open = [writable.into(), at.into(), flags.into(), (*mode).into()];
            let fd = s.op(n::__NR_openat, "openat(O_CREAT)", open).path(path).result();
            if !bytes.is_empty() {
                s.write(fd, bytes, path);
            }
            s.op(n::__NR_fchmod, "fchmod", [fd.into(), (*mode).into()]).path(path);
            s.op(n::__NR_close, "close", [fd.into()]);
            None
        }
        Part::Made { number } => {
            let made = format!("parts/{number}/made");
            let at = s.string(&made);
            s.op(n::__NR_mkdirat, "mkdirat", [writable.into(), at.into(), 0o700.into()]).path(made);
            None
        }
        Part::Overlay { path, number } => {
            let gone = s.label();
            let target = s.open_in(mount, relative(path), Links::Avoid, Some(gone));
            let parts = s.open_dir_at(writable, c"parts");
            let name = std::ffi::CString::new(number.to_string()).unwrap_or_default();
            let own = s.open_dir_at(parts, &name);
            let upper = s.open_dir_at(own, c"upper");
            let work = s.open_dir_at(own, c"work");
            let overlay = overlay(s, root, std::slice::from_ref(path), Some(gone), (upper, work));
            s.attach(overlay, target, path);
            s.place(gone);
            Some(overlay)
        }
        Part::File { path } | Part::Return { path, .. } => {
            let is_dir = matches!(part, Part::Return { is_dir: true, .. });
            let gone = s.label();
            let source = match part {
                Part::File { .. } => s.open_path_if_there(path, gone),
                // Somebody asked for it.
                _ => s.open_path(path),
            };
            let copy = s.clone_mount(source, false, path);
            let flags = n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_RDONLY;
            s.set_attributes(copy, flags, root.userns, false, path);
            let target = s.mountpoint(mount, path, is_dir, owner);
            let attached = s.attach(copy, target, path);
            if let Part::File { .. } = part {
                // What is unlinked by now is no more mounted than what had gone before.
                attached.tolerate(&[ENOENT]);
            }
            s.place(gone);
            None
        }
        Part::HideDir { path, mode, writable } => {
            let absent = s.label();
            // It may have gone since it was found, or the container has something else there.
            let target = s.open_in(mount, relative(path), Links::Avoid, Some(absent));
            let open = *writable || root.has_place_in(path);
            let flags =
                n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOSUID | if open { 0 } else { n::MOUNT_ATTR_RDONLY };
            let size = if *writable { super::spec::Mount::TMPFS_SIZE } else { 4096 };
            let cover = s.tmpfs(size, 65536, *mode, Some(owner), flags);
            s.attach(cover, target, path);
            s.place(absent);
            open.then_some(cover)
        }
        Part::HideFile { path } => {
            let absent = s.label();
            let target = s.open_in(mount, relative(path), Links::Avoid, Some(absent));
            let null = s.open_path(Path::new("/dev/null"));
            let cover = s.clone_mount(null, false, path);
            s.attach(cover, target, path);
            s.place(absent);
            None
        }
    }
}

/// Gives the files that were written into it.
fn one<'a>(
    s: &mut Script<'_>,
    root: &Root<'a>,
    mount: Cell,
    places: (Cell, Cell),
    number: u64,
    planned: &Planned,
) -> Vec<Written<'a>> {
    s.during("mounting what was asked for");
    let owner = root.shift.owner(0, 0);
    let place = |s: &mut Script<'_>| s.mountpoint(mount, &planned.target, planned.is_dir, owner);
    let target = match root.userns.is_some() && root.is_within_another(planned) {
        true => s.as_owner(owner, place),
        false => place(s),
    };
    let read_only = if planned.read_only { n::MOUNT_ATTR_RDONLY } else { 0 };
    match &planned.source {
        Source::Tmpfs { size, inodes, mode, exec } => {
            let flags =
                n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOSUID | if *exec { 0 } else { n::MOUNT_ATTR_NOEXEC };
            let tmpfs = s.tmpfs(*size, *inodes, *mode, Some(root.shift.owner(0, 0)), flags | read_only);
            s.attach(tmpfs, target, &planned.target);
            let is_here = |file: &&FileContent| {
                root.covering(&file.path).is_some_and(|covering| covering.target == planned.target)
            };
            let files = root.files.iter().filter(is_here);
            files.map(|file| write_file(s, root, tmpfs, &planned.target, file)).collect()
        }
        Source::Path { path, recursive, suid, id } => {
            // Resolved by the host already: a link that shows up now was put there meanwhile.
            let at = s.string(path);
            let how = s.words64(&[u64::from(n::O_PATH | n::O_CLOEXEC), 0, u64::from(n::RESOLVE_NO_SYMLINKS)]);
            let source = s
                .op(
                    n::__NR_openat2,
                    "openat2(RESOLVE_NO_SYMLINKS)",
                    [CWD.into(), at.into(), how.into(), 24.into()],
                )
                .needs(Feature::Openat2)
                .path(path)
                .remedy("the source of a mount must exist when the container starts")
                .result();
            if let Some(id) = id {
                given::is_same(s, source, *id, path);
            }
            let copy = s.clone_mount(source, *recursive, path);
            let flags = n::MOUNT_ATTR_NODEV | read_only | if *suid { 0 } else { n::MOUNT_ATTR_NOSUID };
            let mapped = s.label();
            let unmapped = s.label();
            let set = s.set_attributes(copy, flags, root.userns, *recursive, path);
            let set = set.protection(Protection::IdMappedMounts.name());
            if root.unmapped && root.userns.is_some() {
                set.tolerate(&[EINVAL]).otherwise(unmapped);
                s.jump(mapped);
                s.place(unmapped);
                s.set_attributes(copy, flags, None, *recursive, path);
                s.tell(&[u64::from(WITHOUT), number]);
                s.place(mapped);
            }
            s.attach(copy, target, &planned.target);
            Vec::new()
        }
        Source::Memory { bytes, mode, owner } => {
            let file = (&**bytes, *mode, *owner);
            let copy = given::memory_file(s, root, places.0, number, file, &planned.target);
            s.attach(copy, target, &planned.target);
            Vec::new()
        }
        Source::Layers { lowers, path } => {
            let tree = given::tree(s, root, places, number, (lowers, path), planned.read_only);
            s.attach(tree, target, &planned.target);
            Vec::new()
        }
    }
}

/// A file of the caller's that has been written.
struct Written<'a> {
    path: &'a Path,
    /// Its directory when it was written.
    dir: Cell,
}

const BEHIND: &str = "a mount hides it, as a symbolic link of the image's leads one into the other: name both by the path behind the link";

/// A link of the image's, or of a volume's, may lead the file, or a mount, to where the mount hides the file.
fn is_seen(s: &mut Script<'_>, root: Cell, file: &Written<'_>) {
    s.during("looking for a file that was written into the container");
    let (hidden, seen) = (s.label(), s.label());
    let parent = relative(file.path.parent().unwrap_or(Path::new("/")));
    let dir = s.open_in(root, parent, Links::Follow, Some(hidden));
    let name = s.string(file.path.file_name().unwrap_or_default());
    let flags = u64::from(n::O_RDONLY | n::O_NONBLOCK | n::O_NOCTTY | n::O_NOFOLLOW | n::O_CLOEXEC);
    let own = s
        .op(n::__NR_openat, "openat", [file.dir.into(), name.into(), flags.into(), 0.into()])
        .path(file.path)
        .result();
    // Nor may something be mounted on the file itself.
    let how = s.words64(&[flags, 0, u64::from(n::RESOLVE_BENEATH | n::RESOLVE_NO_XDEV)]);
    let found = s
        .op(n::__NR_openat2, "openat2(RESOLVE_NO_XDEV)", [dir.into(), name.into(), how.into(), 24.into()])
        .needs(Feature::Openat2)
        .path(file.path)
        .again()
        .tolerate(&[EXDEV, ENOENT, ELOOP, EACCES, ENXIO])
        .otherwise(hidden)
        .result();
    if_same(s, own, found, file.path, seen);
    s.place(hidden);
    s.op(OP_FAIL, "openat2(RESOLVE_IN_ROOT)", [ENOENT.into()])
        .path(file.path)
        .kind(ErrorKind::InvalidInput)
        .remedy(BEHIND);
    s.place(seen);
    for fd in [dir, own, found, file.dir] {
        s.op(n::__NR_close, "close", [fd.into()]).path(file.path);
    }
}

/// Goes on at `same` where both are of one file, which can't be locked twice (flock(2)).
fn if_same(s: &mut Script<'_>, one: Cell, other: Cell, path: &Path, same: Label) {
    const LOCK: u64 = 2 | 4; // LOCK_EX | LOCK_NB
    s.op(n::__NR_flock, "flock", [one.into(), LOCK.into()]).path(path);
    s.op(n::__NR_flock, "flock", [other.into(), LOCK.into()]).path(path).tolerate(&[EAGAIN]).otherwise(same);
}

/// Something read-only on what /proc, /sys and /dev are mounted on later than all else: where a link leads a file or a mount
/// there, nothing can be made.
struct Guard {
    mount: Cell,
    name: &'static str,
}

impl Guard {
    fn each(s: &mut Script<'_>, root: Cell, fresh: Cell, names: [&'static str; 3]) -> [Self; 3] {
        s.during("guarding /proc, /sys and /dev");
        let path = Path::new("/");
        let guard = s.c_str(c"guard");
        s.op(n::__NR_mkdirat, "mkdirat", [fresh.into(), guard.into(), 0o555.into()]).path(path);
        names.map(|name| {
            let at = s.string(name);
            let mount = s.copy_mount_at(fresh, guard, path).result();
            s.set_attributes(mount, n::MOUNT_ATTR_RDONLY, None, false, path);
            s.attach_at(mount, root, at, path);
            Self { mount, name }
        })
    }

    /// It goes, if it is still what is seen there: else something was mounted on it.
    fn leave(self, s: &mut Script<'_>, root: Cell) {
        s.during("mounting what was asked for");
        let path = Path::new("/").join(self.name);
        let mut open = |dir: Cell, name: &str| {
            let name = s.string(name);
            let flags = u64::from(n::O_RDONLY | n::O_DIRECTORY | n::O_CLOEXEC);
            let how = s.words64(&[flags, 0, u64::from(n::RESOLVE_BENEATH | n::RESOLVE_NO_SYMLINKS)]);
            let args = [dir.into(), name.into(), how.into(), 24.into()];
            let op = s.op(n::__NR_openat2, "openat2(RESOLVE_BENEATH)", args).needs(Feature::Openat2);
            op.path(&path).again().result()
        };
        let (own, seen) = (open(self.mount, "."), open(root, self.name));
        let same = s.label();
        if_same(s, own, seen, &path, same);
        let hidden = s.op(OP_FAIL, "move_mount", [EBUSY.into()]).path(&path).kind(ErrorKind::InvalidInput);
        hidden.remedy(
            "a symbolic link of the image's leads a mount there, where it would be hidden: mount it elsewhere",
        );
        s.place(same);
        let at = s.magic(self.mount);
        s.op(n::__NR_umount2, "umount2(MNT_DETACH)", [at.into(), n::MNT_DETACH.into()]).path(&path);
        for fd in [own, seen, self.mount] {
            s.op(n::__NR_close, "close", [fd.into()]).path(&path);
        }
    }
}

/// A file of the caller's, in the writable layer or a tmpfs that is attached at `at`. Its directory is found and made inside.
fn write_file<'a>(
    s: &mut Script<'_>,
    root: &Root<'_>,
    mount: Cell,
    at: &Path,
    file: &'a FileContent,
) -> Written<'a> {
    s.during("writing a file into the container");
    let owner = root.shift.owner(0, 0);
    let parent = file.path.parent().unwrap_or(Path::new("/"));
    let parent = parent.strip_prefix(at).unwrap_or(parent);
    let dir = s.mountpoint(mount, parent, true, owner);
    let name = s.string(file.path.file_name().unwrap_or_default());
    // Whatever had the name, also a link, is not followed but replaced.
    s.op(n::__NR_unlinkat, "unlinkat", [dir.into(), name.into(), 0.into()])
        .path(&file.path)
        .tolerate(&[ENOENT]);
    let flags = n::O_CREAT | n::O_EXCL | n::O_WRONLY | n::O_CLOEXEC | n::O_NOFOLLOW;
    let fd = s
        .op(n::__NR_openat, "openat(O_CREAT)", [dir.into(), name.into(), flags.into(), file.mode.into()])
        .path(&file.path)
        .result();
    if !file.bytes.is_empty() {
        s.write(fd, &file.bytes, &file.path);
    }
    s.op(n::__NR_fchown, "fchown", [fd.into(), owner.0.into(), owner.1.into()]).path(&file.path);
    s.op(n::__NR_fchmod, "fchmod", [fd.into(), file.mode.into()]).path(&file.path);
    // A file that is open for writing keeps its mount from becoming read-only.
    s.op(n::__NR_close, "close", [fd.into()]).path(&file.path);
    Written { path: &file.path, dir }
}
