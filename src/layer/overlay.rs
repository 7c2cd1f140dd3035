//! Overlay mounts: directories seen as one, the kernel's filesystems/overlayfs.
//!
//! [`stack`] is the operations of a plan, for a container's root and for an [`Overlay`] by itself. An overlay belongs to the
//! user namespace of whoever makes it and needs capabilities there, so the warden does, and passes its descriptor on. It is
//! attached to no directory: it is in no mount table, and gone with its last descriptor.
#![forbid(unsafe_code)]

use super::Layer;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, words};
use crate::namespace;
use crate::store::UnpackedLayer;
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::Status;
use crate::sys::plan::{Added, Cell, Label};
use crate::sys::script::Script;
use crate::sys::warden;
use linux_raw_sys::errno::ENOENT;
use linux_raw_sys::general as n;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the plan sends.
const MOUNTED: u32 = Status::PLAN;
/// The kernel's own limit (OVL_MAX_STACK).
const LOWERS_MAX: usize = 500;

/// An overlay as a plan makes it; paths are the warden's.
pub(crate) struct Stack<'a> {
    /// Topmost first.
    pub lowers: &'a [PathBuf],
    /// The plan goes on there if a lower one has gone.
    pub gone: Option<Label>,
    /// The upper and the work directory, and what they are called in errors.
    pub upper: Option<(Cell, Cell, &'a Path)>,
    /// These two are on the disk, in the store: its filesystem may be none for them.
    pub in_store: bool,
    /// Whose map the lower directories are seen through.
    pub userns: Option<Cell>,
    pub userxattr: bool,
    pub redirect_dir: Option<bool>,
    pub volatile: bool,
    /// The kernel takes lower directories that are attached nowhere. Else they are attached for a moment, in a mount
    /// namespace that has to be the process's own.
    pub detached: bool,
}

/// Gives the mount, attached nowhere yet. Never with device nodes: its superblock may belong to the initial user namespace,
/// where a node opens the host's device.
pub(crate) fn stack(s: &mut Script<'_>, stack: &Stack<'_>) -> Cell {
    let mut lowers: Vec<(Cell, &Path)> = Vec::with_capacity(stack.lowers.len() + 1);
    let mut seen = HashSet::new();
    for path in stack.lowers {
        // The kernel takes no directory twice (ELOOP), and all that a lower one has and hides the same one above it has and hides.
        if !seen.insert(path) {
            continue;
        }
        let layer = match stack.gone {
            Some(gone) => s.open_path_if_there(path, gone),
            None => s.open_path(path),
        };
        let lower = s.clone_mount(layer, false, path);
        let flags = n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_RDONLY;
        s.set_attributes(lower, flags, stack.userns, false, path);
        if stack.lowers.len() > 100 {
            // Two descriptors for each would come near to what a process may have.
            s.op(n::__NR_close, "close", [layer.into()]);
        }
        lowers.push((lower, path));
    }
    if stack.upper.is_none() && lowers.len() == 1 {
        // The kernel wants two.
        lowers.push((s.tmpfs(4096, 2, 0o755, None, n::MOUNT_ATTR_NODEV), Path::new("tmpfs")));
    }
    if !stack.detached {
        return attached(s, stack, &lowers);
    }
    let fs = s.fsopen(c"overlay");
    if stack.userxattr {
        s.set_flag(fs, c"userxattr");
    }
    if let Some(on) = stack.redirect_dir {
        s.set(fs, c"redirect_dir", if on { "on" } else { "off" });
    }
    if stack.volatile {
        s.set_flag(fs, c"volatile");
    }
    for (lower, path) in lowers {
        let at = s.magic(lower);
        s.set_string(fs, c"lowerdir+", at, path);
    }
    if let Some((upper, work, path)) = stack.upper {
        // With an index, which some kernels have by default, an upper directory is of these very lower ones: a layer that was
        // unpacked again would be another one.
        s.set(fs, c"index", "off");
        for (key, fd) in [(c"upperdir", upper), (c"workdir", work)] {
            let at = s.magic(fd);
            of_store(s.set_string(fs, key, at, path), stack);
        }
    }
    of_store(s.create(fs, "overlay"), stack);
    s.mount_of(fs, "overlay", n::MOUNT_ATTR_NODEV)
}

/// Its error says so where the store's filesystem is the reason.
fn of_store(op: Added<'_, '_>, stack: &Stack<'_>) {
    if let (true, Some((_, _, path))) = (stack.in_store, stack.upper) {
        op.upper(path);
    }
}

/// Before Linux 6.15: the lower directories have to be attached in the mount namespace of whoever mounts, and each has to
/// have a name, as there may be no `lowerdir+` (6.8), and what fsconfig(2) takes ends at 255 bytes. So it is mount(2),
/// whose options may be a page, in a tmpfs with short names: 500 of them take 2 KB.
fn attached(s: &mut Script<'_>, stack: &Stack<'_>, lowers: &[(Cell, &Path)]) -> Cell {
    const INODES: u64 = 4;
    let tmpfs = s.tmpfs(4096, lowers.len() as u64 + INODES, 0o700, None, n::MOUNT_ATTR_NODEV);
    // Over the root, where it hides nothing: the root of this process stays what it is.
    let root = s.open_path(Path::new("/"));
    s.attach(tmpfs, root, Path::new("/"));
    s.op(n::__NR_fchdir, "fchdir", [tmpfs.into()]);
    let leave = |s: &mut Script<'_>| {
        let (dot, slash) = (s.c_str(c"."), s.c_str(c"/"));
        s.op(n::__NR_umount2, "umount2(MNT_DETACH)", [dot.into(), n::MNT_DETACH.into()]);
        s.op(n::__NR_chdir, "chdir", [slash.into()]).path("/");
    };
    let unlinked = s.label();
    let mut options = String::from("lowerdir=");
    for (i, (lower, path)) in lowers.iter().enumerate() {
        let name = i.to_string();
        let at = s.string(&name);
        s.op(n::__NR_mkdirat, "mkdirat", [tmpfs.into(), at.into(), 0o700.into()]).path(path);
        let attached = s.attach_at(*lower, tmpfs, at, path);
        if stack.gone.is_some() {
            attached.tolerate(&[ENOENT]).otherwise(unlinked);
        }
        options.push_str(if i == 0 { "" } else { ":" });
        options.push_str(&name);
    }
    let mut path = stack.lowers.first().map_or(Path::new("/"), PathBuf::as_path);
    if let Some((upper, work, dir)) = stack.upper {
        for (key, fd) in [("upperdir", upper), ("workdir", work)] {
            let target = s.magic(fd);
            let name = s.string(key);
            s.op(n::__NR_symlinkat, "symlinkat", [target.into(), tmpfs.into(), name.into()]).path(dir);
            options.push_str(&format!(",{key}={key}"));
        }
        options.push_str(",index=off");
        path = dir;
    }
    if stack.userxattr {
        options.push_str(",userxattr");
    }
    if let Some(on) = stack.redirect_dir {
        options.push_str(if on { ",redirect_dir=on" } else { ",redirect_dir=off" });
    }
    if stack.volatile {
        options.push_str(",volatile");
    }
    let (kind, name, options) = (s.c_str(c"overlay"), s.c_str(c"overlay"), s.string(&options));
    s.op(n::__NR_mkdirat, "mkdirat", [tmpfs.into(), name.into(), 0o700.into()]).path(path);
    let args = [kind.into(), name.into(), kind.into(), n::MS_NODEV.into(), options.into()];
    let feature = if stack.userns.is_some() { Feature::OverlayIdMapped } else { Feature::Overlay };
    of_store(s.op(n::__NR_mount, "mount(\"overlay\")", args).path(path).needs(feature), stack);
    let mount = s.copy_mount(Path::new("overlay"));
    // It has its own copies of all of them.
    leave(s);
    let Some(gone) = stack.gone else { return mount };
    let done = s.label();
    s.jump(done);
    s.place(unlinked);
    leave(s);
    s.jump(gone);
    s.place(done);
    mount
}

/// Directories that are to be seen as one: lower ones, that are only read, and an upper one that takes what is written.
///
/// ```
/// use coracle::Overlay;
/// use std::fs;
/// let dir = std::env::temp_dir().join(format!("coracle-doc-{}", std::process::id()));
/// for name in ["lower", "upper", "work"] {
///     fs::create_dir_all(dir.join(name))?;
/// }
/// fs::write(dir.join("lower/motd"), "ahoy\n")?;
///
/// let overlay = Overlay::new().lower(dir.join("lower")).upper(dir.join("upper"), dir.join("work"));
/// let mounted = overlay.mount()?;
/// assert_eq!(fs::read_to_string(mounted.path().join("motd"))?, "ahoy\n");
/// fs::write(mounted.path().join("new"), "written\n")?;
/// drop(mounted);
/// assert_eq!(fs::read_to_string(dir.join("upper/new"))?, "written\n");
/// // The kernel leaves a directory in there that nobody may look into.
/// fs::set_permissions(dir.join("work/work"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
/// fs::remove_dir_all(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    lowers: Vec<PathBuf>,
    leases: Vec<UnpackedLayer>,
    upper: Option<(PathBuf, PathBuf)>,
    map: Option<IdMap>,
    userxattr: Option<bool>,
    redirect_dir: bool,
    volatile: bool,
}

impl Overlay {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a lower directory below those that are there: the topmost comes first. 500 at most.
    ///
    /// Whiteouts and opaque directories in it are overlayfs's own: character devices 0/0, and the attribute
    /// `trusted.overlay.opaque` or, with [`userxattr`](Self::userxattr), `user.overlay.opaque`.
    pub fn lower(mut self, dir: impl Into<PathBuf>) -> Self {
        self.lowers.push(dir.into());
        self
    }

    /// Adds layers below those that are there, topmost first, and unpacks those that the store does not have unpacked. The
    /// mount keeps them from being removed.
    ///
    /// # Errors
    /// Those of [`Layer::unpack`].
    pub fn layers(mut self, layers: &[Layer]) -> Result<Self> {
        let Some((top, below)) = layers.split_first() else { return Ok(self) };
        let unpacked = top.unpacked(below)?;
        self.lowers.extend(unpacked.iter().map(UnpackedLayer::fs_path));
        self.leases.extend(unpacked);
        Ok(self)
    }

    /// The directory that takes what is written, and an empty one beside it, on the same filesystem, for the kernel's own
    /// use. Without them the overlay is read-only. Neither may be in another overlay at the same time.
    pub fn upper(mut self, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self {
        self.upper = Some((upper.into(), work.into()));
        self
    }

    /// The ids in the lower directories are those of a namespace with this map: a file of user 0 is seen as one of
    /// `map.user(0)`. The upper directory is as it is. For root only, on filesystems that can be id-mapped.
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.map = Some(map);
        self
    }

    /// Whether overlayfs keeps its attributes as `user.overlay.*` rather than `trusted.overlay.*`. An ordinary user's overlay
    /// always does, and by default nobody else's.
    pub fn userxattr(mut self, userxattr: bool) -> Self {
        self.userxattr = Some(userxattr);
        self
    }

    /// Whether a directory of a lower layer is renamed by an attribute of the upper directory; else, and by default, rename(2)
    /// fails with `EXDEV` and programs copy. Not with `userxattr`.
    pub fn redirect_dir(mut self, redirect_dir: bool) -> Self {
        self.redirect_dir = redirect_dir;
        self
    }

    /// Nothing is synced to the disk, also not by fsync(2). After a crash the upper directory is worth nothing; the kernel
    /// refuses to use it again until `WORK/work/incompat/volatile` is removed.
    pub fn volatile(mut self, volatile: bool) -> Self {
        self.volatile = volatile;
        self
    }

    /// Mounts it, attached nowhere. May be called again, without an upper directory or after the mount before has gone.
    ///
    /// Directories are looked up by the program's warden, in a copy of the mount namespace in which it was started.
    ///
    /// # Errors
    /// `NotFound` for a directory that does not exist; `Unsupported` for one of another [`OverlayMount`], which has no path;
    /// `InvalidInput` without a lower directory, with more than 500, or for
    /// options that exclude each other; `Unsupported` for an ordinary user's id map. What the kernel refuses names the call,
    /// `fsconfig(FSCONFIG_CMD_CREATE)` or, before Linux 6.15, `mount("overlay")` for what it finds wrong with the whole: an
    /// upper and a work directory on different
    /// filesystems, or on one that can't be an upper directory, or directories within each other.
    pub fn mount(&self) -> Result<OverlayMount> {
        let warden = warden::warden()?;
        let invalid = |what: &str| Err(Error::new(ErrorKind::InvalidInput, what.to_owned()));
        let userxattr = self.userxattr.unwrap_or(warden.map().is_some());
        if self.lowers.is_empty() || self.lowers.len() > LOWERS_MAX {
            return invalid("an overlay has 1 to 500 lower directories");
        }
        if userxattr && self.redirect_dir {
            return invalid("redirect_dir with userxattr: the kernel has no such overlay");
        }
        if warden.map().is_some() && !userxattr {
            return Err(Error::new(ErrorKind::PermissionDenied, "trusted.overlay.* of an ordinary user")
                .with_remedy("leave userxattr at its default, or run as root"));
        }
        if warden.map().is_some() && self.map.is_some() {
            let error = Error::new(ErrorKind::Unsupported, "id-mapped layers");
            return Err(error.lacks(words::ORDINARY_USER.of(Feature::IdMappedMounts)));
        }
        let lowers = self.lowers.iter().map(|dir| directory(dir)).collect::<Result<Vec<_>>>()?;
        let upper = match &self.upper {
            Some((upper, work)) => Some((directory(upper)?, directory(work)?)),
            None => None,
        };
        let userns = match &self.map {
            Some(map) => Some(namespace::for_mounts(&warden, map)?),
            None => None,
        };
        let mut s = Script::new();
        s.during("mounting an overlay");
        let detached = warden.features().detached_lowers;
        if !detached {
            s.unshare_mounts();
            s.private_mounts();
        }
        let userns = userns.as_ref().map(|fd| s.fd(fd.as_fd()));
        let upper = upper.as_ref().map(|(upper, work)| (s.open_path(upper), s.open_path(work), &**upper));
        let redirect_dir = (!userxattr).then_some(self.redirect_dir);
        let stacked = Stack {
            lowers: &lowers,
            gone: None,
            upper,
            in_store: false,
            userns,
            userxattr,
            redirect_dir,
            volatile: self.volatile,
            detached,
        };
        let mount = stack(&mut s, &stacked);
        let letter = s.letter(MOUNTED);
        s.op(n::__NR_fcntl, "fcntl(F_DUPFD_CLOEXEC)", [mount.into(), n::F_DUPFD_CLOEXEC.into(), 3.into()])
            .store(letter.fd);
        s.post(letter);
        let mut started = warden.start_plan(s.plan)?;
        let mut mounted = None;
        while let Some(told) = started.next(None)? {
            mounted = told.fds.into_iter().next();
        }
        let fd = mounted.ok_or_else(|| Error::new(ErrorKind::Gone, "the warden has sent no mount"))?;
        Ok(OverlayMount { fd, _leases: self.leases.clone() })
    }
}

/// As the warden finds it, whose working directory is another.
fn directory(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Error::new(ErrorKind::InvalidInput, "a NUL byte in a path").with_path(path));
    }
    let found = path.canonicalize().call_at("realpath", path)?;
    let (meant, meta) = (path.metadata().call_at("stat", path)?, found.metadata().call_at("stat", &found)?);
    if (meant.dev(), meant.ino()) != (meta.dev(), meta.ino()) {
        // The path below /proc of a descriptor whose directory is in no mount table.
        let error = Error::new(ErrorKind::Unsupported, "a directory that has no path of its own");
        return Err(error.with_path(path));
    }
    match meta.is_dir() {
        true => Ok(found),
        false => Err(Error::new(ErrorKind::InvalidInput, "not a directory").with_path(path)),
    }
}

/// A mounted overlay, which exists as long as this does, or a file of it is open.
///
/// It is the root directory, opened with `O_PATH`: openat(2), openat2(2) and the other `*at` calls take it
/// ([`AsFd`]), and std's functions take paths below [`path`](Self::path). It is in no mount table; a forked copy of the program
/// has its own copy of the descriptor, and the overlay lives as long as that one too. However this program ends, the
/// overlay is gone.
#[derive(Debug)]
pub struct OverlayMount {
    fd: OwnedFd,
    _leases: Vec<UnpackedLayer>,
}

impl OverlayMount {
    /// A path of the root directory that is good in this process for as long as this exists: `/proc/self/fd/N`. A symbolic link
    /// in the overlay that is absolute, or leads up and out, is followed into the host's files by functions that take paths;
    /// openat2(2) with `RESOLVE_IN_ROOT` doesn't.
    pub fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/self/fd");
        path.push(OsStr::new(&self.fd.as_raw_fd().to_string()));
        path
    }
}

impl AsFd for OverlayMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
