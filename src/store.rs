//! The store: images, unpacked layers, containers and volumes on disk.
//!
//! ```text
//! STORE/                      mode 0700
//! ├── oci-layout              {"imageLayoutVersion":"1.0.0"}
//! ├── index.json              one descriptor for each name of an image; changed under locks/index
//! ├── blobs/sha256/HEX        manifests, configurations, compressed layers: immutable
//! ├── layers/HEX/             an unpacked layer, HEX of its diff_id or chain_id (or of these and the ids it has on disk)
//! │   ├── fs/                 its files as they are in the image, whiteouts in overlayfs' form
//! │   ├── meta.json           what the filesystem can't hold (written by the layer room)
//! │   └── attributes          which extended attribute tells that it has those that it needs
//! ├── containers/ID/          records, marks and writable layers (written by the container room)
//! ├── volumes/NAME/           data/, volume.json (written by the volume room), an ordinary user's ids (by the container room)
//! ├── names/                  names of containers that were asked for (written by the container room)
//! ├── cache/                  what builds have made: records of steps, directories of cache mounts
//! ├── mountpoints/            the lowest layer of every container: places to mount on
//! ├── ids/                    ranges of user ids that containers have
//! ├── contexts/               what files of build contexts had in them (written by the build room)
//! ├── locks/                  files that are only locked, never read
//! └── tmp/                    whatever is half made
//! ```
//!
//! The upper half is an OCI image layout (image-spec, `image-layout.md`), so other tools read the
//! store as it is. An image's name is the annotation `org.opencontainers.image.ref.name` in its
//! short form with the tag, `debian:12` or `localhost:5000/me/app:1`:
//!
//! ```text
//! skopeo inspect oci:/var/lib/coracle:debian:12
//! umoci stat --image /var/lib/coracle:debian:12
//! ```
//!
//! Other tools know nothing of the locks below: let them write into a store only while no program uses it.
//!
//! **Publishing.** A blob or a layer is written below `tmp/` and becomes visible by one rename, when
//! it is complete and verified. Whoever comes second with the same content throws its own copy away.
//!
//! **Leases.** Everything in `tmp/` and every layer in use is held by a shared `flock` on its file or
//! directory; to remove something takes the exclusive lock and a second look whether the name still
//! leads there. The kernel lets go of a dead program's locks, so [`Store::open`] sweeps what it left.
//!
//! **Power failure.** Files are not synced one by one. A layer is followed by one `syncfs` before its
//! rename (those of a build's steps together by one at its end; that of a commit by none, which only its blob is worth), and a change of `index.json` by one before its own; a blob that no index names may be
//! cut short, which its size tells, and is then written again. A container that is kept is on the disk, and so is its name. A
//! temporary store syncs nothing.
//!
//! **Copies and backups.** A store may lie anywhere and be moved while no program uses it. A copy needs the owners of files, as root
//! or the user makes them, hard links and extended attributes: `cp -a`, `rsync -aHX`, `tar --xattrs --xattrs-include=*`. Where
//! these are missing, layers are unpacked again, and containers that were kept say so when they are started.
#![forbid(unsafe_code)]

pub(crate) mod attributes;
pub(crate) mod blob;
mod cache;
pub(crate) mod clock;
pub(crate) mod containers;
mod gc;
#[cfg(feature = "registry")]
mod inbox;
pub(crate) mod index;
mod janitor;
mod layers;
mod lease;
mod mapped;
mod mountpoints;
pub(crate) mod pins;
mod remove;
mod room;
pub(crate) mod sizes;
mod temp;
mod tenants;
mod unsynced;
mod verify;

pub(crate) use blob::BlobWriter;
pub use cache::PrunedCache;
#[cfg(feature = "build")]
pub(crate) use cache::{Cached, unused};
pub(crate) use containers::ANONYMOUS;
#[cfg(feature = "registry")]
pub(crate) use inbox::Inbox;
pub(crate) use layers::{Base, Place, StagedLayer, UnpackedLayer};
pub(crate) use lease::{Lease, leads_to, random_hex};
pub(crate) use pins::Pins;
pub(crate) use remove::{Remover, remove_tree};
pub(crate) use room::Room;
pub use verify::{Problem, StorePart, Verification};

use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::fork::Witness;
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tenants::Tenants;

/// A handle to a store; copies of it are the same store.
///
/// Many programs may have one store open at once.
///
/// ```
/// use coracle::Store;
/// let store = Store::temp()?;                 // gone with its last handle
/// assert!(store.path().join("index.json").exists());
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: OwnedFd,
    blobs: OwnedFd,
    layers: OwnedFd,
    ids: OwnedFd,
    locks: OwnedFd,
    tenants: Arc<Tenants>,
    remover: Arc<OnceLock<Box<dyn Remover>>>,
    /// Removes what was discarded, on a thread of its own; started by the first that needs it.
    janitor: Mutex<Option<janitor::Janitor>>,
    witness: Witness,
    cgroups: OnceLock<crate::cgroup::CgroupParent>,
    /// The sweep at the opening had to leave something.
    unswept: AtomicBool,
    /// So many put off syncing what they publish.
    deferring: AtomicUsize,
    temporary: Option<temp::Temporary>,
}

/// The directories that make a store, in the order of their making.
const ROOMS: [&str; 8] = ["tmp", "locks", "blobs", "layers", "containers", "volumes", "ids", "blobs/sha256"];
const LAYOUT: &str = "oci-layout";

impl Store {
    /// Opens the user's own store and makes it where there is none: `/var/lib/coracle` for root (with its capabilities), else
    /// `$XDG_DATA_HOME/coracle` or `~/.local/share/coracle`.
    ///
    /// # Errors
    /// As [`Store::open`]; `NotFound` when an ordinary user has neither of the variables.
    pub fn open_default() -> Result<Self> {
        Self::open(Self::default_path()?)
    }

    /// Where [`Store::open_default`] opens.
    ///
    /// # Errors
    /// `NotFound` when an ordinary user has neither of the variables.
    pub fn default_path() -> Result<PathBuf> {
        if crate::sys::idmap::is_privileged() {
            return Ok("/var/lib/coracle".into());
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        // The XDG base directory specification: a relative value counts as none.
        if let Some(data) = absolute("XDG_DATA_HOME") {
            return Ok(data.join("coracle"));
        }
        match absolute("HOME") {
            Some(home) => Ok(home.join(".local/share/coracle")),
            None => Err(Error::new(ErrorKind::NotFound, "no directory for the store")
                .with_remedy("set XDG_DATA_HOME or HOME, or name a directory with Store::open")),
        }
    }

    /// Opens the store at `path`, and makes it where there is none (mode 0700, parents as needed).
    /// An existing OCI image layout becomes a store.
    ///
    /// Half-made content of programs that are dead is swept away.
    ///
    /// # Errors
    /// `InvalidInput` for a directory that holds other things; `PermissionDenied` for one that belongs to another user, or
    /// that everybody may write to; the errors of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(path.as_ref(), None)
    }

    /// A new store of its own in a directory for temporary files (`$TMPDIR`, `/var/tmp` or `/tmp`, the first that
    /// can hold a container's writable layer). It is removed with its last handle; when the program
    /// dies before, by the next program of this user that makes a temporary store.
    ///
    /// # Errors
    /// `Unsupported` where all of them are on an overlay filesystem; those of the file system.
    pub fn temp() -> Result<Self> {
        let temporary = temp::Temporary::new()?;
        let path = temporary.path().to_owned();
        Self::open_as(&path, Some(temporary))
    }

    fn open_as(path: &Path, temporary: Option<temp::Temporary>) -> Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).call_at("mkdir", parent)?;
        }
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => other.call_at("mkdir", path),
        }?;
        let path = path.canonicalize().call_at("realpath", path)?;
        let root = rustix::fs::open(&path, DIRECTORY, Mode::empty()).call_at("open", &path)?;
        refuse_others(&root, &path)?;
        refuse_strangers(&root, &path)?;
        for room in ROOMS {
            match rustix::fs::mkdirat(&root, room, Mode::RWXU) {
                Err(rustix::io::Errno::EXIST) => Ok(()),
                other => other.call_at("mkdirat", path.join(room)),
            }?;
        }
        let room =
            |name: &str| open_dir(root.as_fd(), name).map_err(|error| error.with_path(path.join(name)));
        let store = Self(Arc::new(Inner {
            blobs: room("blobs/sha256")?,
            layers: room("layers")?,
            ids: room("ids")?,
            locks: room("locks")?,
            tenants: Arc::new(Tenants {
                containers: room("containers")?,
                volumes: room("volumes")?,
                tmp: room("tmp")?,
                path: path.clone(),
            }),
            root,
            remover: Arc::default(),
            janitor: Mutex::new(None),
            witness: Witness::current()?,
            cgroups: OnceLock::new(),
            unswept: AtomicBool::new(false),
            deferring: AtomicUsize::new(0),
            temporary,
        }));
        store.init_layout()?;
        if !crate::sys::idmap::is_privileged() {
            store.set_remover(Box::new(mapped::Mapped::default()))?;
        }
        store.sweep()?;
        Ok(store)
    }

    /// The directory of the store, absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        &self.0.tenants.path
    }

    /// Whether this store goes away with its last handle.
    pub(crate) fn is_temporary(&self) -> bool {
        self.0.temporary.is_some()
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.0.root.as_fd()
    }

    fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }

    pub(crate) fn blobs_dir(&self) -> BorrowedFd<'_> {
        self.0.blobs.as_fd()
    }

    pub(crate) fn containers_dir(&self) -> BorrowedFd<'_> {
        self.0.tenants.containers.as_fd()
    }

    pub(crate) fn ids_dir(&self) -> BorrowedFd<'_> {
        self.0.ids.as_fd()
    }

    pub(crate) fn volumes_dir(&self) -> BorrowedFd<'_> {
        self.0.tenants.volumes.as_fd()
    }

    pub(crate) fn locks_dir(&self) -> BorrowedFd<'_> {
        self.0.locks.as_fd()
    }

    pub(crate) fn tmp_dir(&self) -> BorrowedFd<'_> {
        self.0.tenants.tmp.as_fd()
    }

    /// Writes everything down to the disk, once.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.is_temporary() {
            return Ok(());
        }
        rustix::fs::syncfs(&self.0.root).call_at("syncfs", self.path())
    }

    /// Writes these blobs down to the disk, and their names.
    pub(crate) fn sync_blobs<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        if self.is_temporary() {
            return Ok(());
        }
        for digest in digests {
            let path = || self.blob_path(digest);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let blob = rustix::fs::openat(&self.0.blobs, digest.hex(), flags, Mode::empty())
                .call_at("openat", path())?;
            rustix::fs::fdatasync(blob).call_at("fdatasync", path())?;
        }
        rustix::fs::fsync(&self.0.blobs).call_at("fsync", self.path().join("blobs/sha256"))
    }

    /// Names who removes trees that this process may not: files of ids that only a user namespace
    /// reaches. The first one named stays. What the sweep at the opening had to leave is swept now.
    pub(crate) fn set_remover(&self, remover: Box<dyn Remover>) -> Result<()> {
        if self.0.remover.set(remover).is_ok() && self.0.unswept.swap(false, Ordering::Relaxed) {
            self.sweep()?;
        }
        Ok(())
    }

    /// Removes `name` below `parent`, with the help of the [`Remover`] where one is needed.
    pub(crate) fn remove_tree(&self, parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<()> {
        remove::remove_tree_with(parent, name.as_ref(), self.0.remover.get().map(|remover| &**remover))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A forked copy owns neither the thread nor the directory.
        if !self.witness.is_here() {
            std::mem::forget(self.temporary.take());
            std::mem::forget(self.janitor.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            return;
        }
        if let Some(janitor) = self.janitor.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            janitor.finish();
        }
        if let Some(temporary) = self.temporary.take() {
            temporary.remove(self.remover.get().map(|remover| &**remover));
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.0.tenants.path).finish()
    }
}

pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()).call_at("openat", name)
}

/// The names of a directory, without `.` and `..`.
pub(crate) fn list(dir: BorrowedFd<'_>) -> Result<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).call("open directory")? {
        let entry = entry.call("getdents64")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        }
    }
    Ok(names)
}

/// Who can write into a store says what is mounted into its containers, and with whose rights: nobody but its user.
fn refuse_others(root: &OwnedFd, path: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(root).call_at("fstat", path)?;
    let me = rustix::process::geteuid().as_raw();
    let what = if stat.st_uid != me {
        format!("the store belongs to the user {}, this program to {me}", stat.st_uid)
    } else if Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH) {
        "everybody may write into the store".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::PermissionDenied, what)
        .with_path(path)
        .with_remedy("each user has a store of their own: open it as its user, or name another directory"))
}

/// A directory with other things in it does not become a store: `Store::open("/tmp")` is a mistake.
fn refuse_strangers(root: &OwnedFd, path: &Path) -> Result<()> {
    let names = list(root.as_fd()).map_err(|error| error.with_path(path))?;
    if names.iter().any(|name| name == LAYOUT) {
        return Ok(());
    }
    // Another process may be making the same store at this moment.
    let ours =
        |name: &OsStr| name == "lost+found" || name == "index.json" || ROOMS.iter().any(|room| name == *room);
    match names.iter().find(|name| !ours(name)) {
        Some(stranger) => {
            Err(Error::new(ErrorKind::InvalidInput, format!("not a store: it holds {stranger:?}"))
                .with_path(path)
                .with_remedy("name an empty directory, or one that does not exist yet"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
