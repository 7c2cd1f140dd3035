//! What a build gives to the container of a RUN, and what no record has: files and variables in memory, and files of images.
#![forbid(unsafe_code)]

use super::ids;
use super::rootfs::{Planned, Root, Source};
use super::script::{Links, Script};
use super::settings::environment;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::overlay::{self, Stack};
use crate::store::UnpackedLayer;
use crate::sys::plan::{At, Cell};
use linux_raw_sys::errno::{EINTR, ETIMEDOUT};
use linux_raw_sys::general as n;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All of it; nothing by default.
#[derive(Clone, Default)]
pub(crate) struct Given {
    /// VOLUMEs of the image are none: what is written there is to be in the difference.
    pub(crate) no_volumes: bool,
    /// Variables, over all others: they may be secrets.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) files: Vec<MemoryFile>,
    pub(crate) trees: Vec<Tree>,
    /// What binds of these targets are to be.
    pub(crate) held: Vec<HeldDir>,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Given")
            .field("no_volumes", &self.no_volumes)
            .field("env", &names)
            .field("files", &self.files)
            .field("trees", &self.trees)
            .field("held", &self.held)
            .finish()
    }
}

/// A file that is in memory alone, read-only.
#[derive(Clone)]
pub(crate) struct MemoryFile {
    pub(crate) target: PathBuf,
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) mode: u32,
    /// User and group in the container.
    pub(crate) owner: (u32, u32),
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its content may be a secret.
        f.debug_struct("MemoryFile").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A file or directory of an image, or all of it. What is written to it goes with the container.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) target: PathBuf,
    /// The topmost first.
    pub(crate) layers: Vec<UnpackedLayer>,
    /// In the layers, without a link on the way.
    pub(crate) path: PathBuf,
    pub(crate) is_dir: bool,
    pub(crate) read_only: bool,
}

/// A directory of the host that a bind is to show: the one that the caller has opened, whatever is at its path by then.
#[derive(Clone, Debug)]
pub(crate) struct HeldDir {
    target: PathBuf,
    path: PathBuf,
    id: FileId,
}

/// What tells a file from all others for as long as somebody has it open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileId {
    inode: u64,
    device: (u32, u32),
}

#[cfg(feature = "build")]
impl HeldDir {
    /// `path`: where it was found, without a link on the way.
    pub(crate) fn new(target: PathBuf, path: PathBuf, dir: std::os::fd::BorrowedFd<'_>) -> Result<Self> {
        use crate::error::Call;
        use rustix::fs::{AtFlags, StatxFlags, statx};
        let stat = statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).call_at("statx", &path)?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        Ok(Self { target, path, id: FileId { inode: stat.stx_ino, device } })
    }
}

#[cfg(feature = "build")]
impl super::ContainerBuilder {
    /// Once, for the first start.
    pub(crate) fn given(mut self, given: Given) -> Self {
        self.given = Arc::new(given);
        self
    }
}

impl Given {
    /// What can be seen to be wrong before anything is made.
    pub(super) fn validate(&self) -> Result<()> {
        let is_wrong = |(name, value): &&(String, String)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        match self.env.iter().find(is_wrong) {
            // Its value may be a secret.
            Some((name, _)) => {
                let what = format!("environment variable {name:?}: no name, or a value with a NUL byte");
                Err(Error::new(ErrorKind::InvalidInput, what))
            }
            None => Ok(()),
        }
    }

    /// The variables in place of, or after, those of the record.
    pub(super) fn add_env(&self, pairs: &mut Vec<(OsString, OsString)>) {
        let own = self.env.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
        let all = pairs.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).chain(own);
        *pairs = environment(all);
    }

    /// As mounts, in no order.
    pub(super) fn planned(&self) -> Result<Vec<Planned>> {
        let mut all = Vec::new();
        for file in &self.files {
            let (uid, gid) = file.owner;
            if uid >= ids::COUNT || gid >= ids::COUNT {
                let what = format!("the owner {uid}:{gid} of a file in memory");
                let error = Error::new(ErrorKind::InvalidInput, what).with_path(&file.target);
                return Err(error.with_remedy("a container has the ids up to 65535"));
            }
            let source = Source::Memory { bytes: file.bytes.clone(), mode: file.mode, owner: file.owner };
            all.push(Planned { target: file.target.clone(), is_dir: false, source, read_only: true });
        }
        for tree in &self.trees {
            let lowers = tree.layers.iter().map(UnpackedLayer::fs_path).collect();
            let source = Source::Layers { lowers, path: tree.path.clone() };
            let (target, is_dir) = (tree.target.clone(), tree.is_dir);
            all.push(Planned { target, is_dir, source, read_only: tree.read_only });
        }
        Ok(all)
    }

    /// What a bind of this directory, where it was found, is to show at the target.
    pub(super) fn held(&self, target: &Path, path: &Path) -> Option<Source> {
        let held = self.held.iter().find(|held| held.target == target && held.path == path)?;
        Some(Source::Path { path: held.path.clone(), recursive: true, suid: false, id: Some(held.id) })
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Path> {
        let files = self.files.iter().map(|file| &*file.target);
        files.chain(self.trees.iter().map(|tree| &*tree.target))
    }

    /// The bytes and the files that are in memory.
    pub(super) fn room(&self) -> (u64, u64) {
        let bytes = |file: &MemoryFile| (file.bytes.len() as u64).next_multiple_of(4096);
        (self.files.iter().map(bytes).sum(), (self.files.len() + self.trees.len()) as u64)
    }
}

/// Writes a file into the small tmpfs; gives it as a mount that is attached nowhere yet.
pub(super) fn memory_file(
    s: &mut Script<'_>,
    root: &Root<'_>,
    fresh: Cell,
    number: u64,
    (bytes, mode, owner): (&[u8], u32, (u32, u32)),
    path: &Path,
) -> Cell {
    s.during("writing a file in memory");
    let (uid, gid) = root.shift.owner(owner.0, owner.1);
    let at = s.string(format!("given{number}").as_str());
    let flags = n::O_CREAT | n::O_EXCL | n::O_WRONLY | n::O_CLOEXEC;
    let open = [fresh.into(), at.into(), flags.into(), 0o600.into()];
    let fd = s.op(n::__NR_openat, "openat(O_CREAT)", open).path(path).result();
    if !bytes.is_empty() {
        s.write(fd, bytes, path);
    }
    s.op(n::__NR_fchown, "fchown", [fd.into(), uid.into(), gid.into()]).path(path);
    s.op(n::__NR_fchmod, "fchmod", [fd.into(), mode.into()]).path(path);
    let copy = s.clone_mount(fd, false, path);
    s.op(n::__NR_close, "close", [fd.into()]).path(path);
    let flags = n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_RDONLY;
    // The tmpfs's own says that nothing in it is executed.
    let clear = if mode & 0o111 != 0 { n::MOUNT_ATTR_NOEXEC } else { 0 };
    s.change_attributes(copy, (flags, clear), None, false, path);
    copy
}

/// Goes on only if an open file is that one. A directory that was opened in another mount namespace can't be mounted in this one, so
/// it is opened again here, and may be another. What compares two words in memory is futex(2): of equal ones it says that the time is up.
pub(super) fn is_same(s: &mut Script<'_>, file: Cell, id: FileId, path: &Path) {
    let stat = s.space(size_of::<n::statx>());
    let empty = s.c_str(c"");
    let (flags, mask) = (n::AT_EMPTY_PATH, n::STATX_INO);
    s.op(n::__NR_statx, "statx", [file.into(), empty.into(), flags.into(), mask.into(), stat.into()])
        .path(path);
    let no_time = s.words64(&[0, 0]);
    let [a, b, c, d, e, f, g, h] = id.inode.to_ne_bytes();
    let inode = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])];
    let inode_at = offset_of!(n::statx, stx_ino);
    for (at, word) in [
        (inode_at, inode[0]),
        (inode_at + 4, inode[1]),
        (offset_of!(n::statx, stx_dev_major), id.device.0),
        (offset_of!(n::statx, stx_dev_minor), id.device.1),
    ] {
        let at = At(stat.0 + at as u64);
        s.op(
            n::__NR_futex,
            "comparing with the directory that was locked",
            [at.into(), n::FUTEX_WAIT.into(), word.into(), no_time.into()],
        )
        .tolerate(&[ETIMEDOUT, EINTR])
        .path(path)
        .kind(ErrorKind::State)
        .remedy("somebody has put another one there meanwhile: let nobody else write to where it is");
    }
}

/// Mounts what stacked layers have at a path. `writable` is where the container's writable layer is.
pub(super) fn tree(
    s: &mut Script<'_>,
    root: &Root<'_>,
    (fresh, writable): (Cell, Cell),
    number: u64,
    (lowers, path): (&[PathBuf], &Path),
    read_only: bool,
) -> Cell {
    s.during("mounting files of an image");
    let owner = root.shift.owner(0, 0);
    let name = format!("given{number}");
    let upper = (!read_only).then(|| {
        let mut dir = |name: &str| {
            let at = s.string(name);
            s.op(n::__NR_mkdirat, "mkdirat", [writable.into(), at.into(), 0o755.into()]).path(root.dir);
            s.chown(writable, at, owner, root.dir);
            s.open_in(writable, Path::new(name), Links::Refuse, None)
        };
        dir(&name);
        (dir(&format!("{name}/upper")), dir(&format!("{name}/work")), root.dir)
    });
    let as_root = root.userns.is_some();
    let stack = Stack {
        lowers,
        gone: None,
        upper,
        in_store: root.memory.is_none(),
        userns: root.userns,
        userxattr: !as_root,
        redirect_dir: as_root.then_some(false),
        volatile: root.volatile && !read_only,
        detached: root.detached_lowers,
    };
    let mut mount = overlay::stack(s, &stack);
    if path.components().next().is_some() {
        // Only of what is attached a part can be copied.
        let at = s.string(name.as_str());
        s.op(n::__NR_mkdirat, "mkdirat", [fresh.into(), at.into(), 0o700.into()]).path(root.dir);
        s.attach_at(mount, fresh, at, path);
        let part = s.open_in(mount, path, Links::Refuse, None);
        mount = s.clone_mount(part, false, path);
    }
    let read_only = if read_only { n::MOUNT_ATTR_RDONLY } else { 0 };
    s.set_attributes(mount, n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOSUID | read_only, None, false, path);
    mount
}

#[cfg(test)]
#[cfg(feature = "build")]
mod tests {
    use super::*;
    use crate::container::{Container, Mount};
    use crate::image::Image;
    use crate::store::Store;
    use std::os::fd::AsFd;

    #[test]
    fn a_bind_shows_the_directory_that_is_held_or_none() {
        let image = Image::host(&Store::temp().unwrap()).unwrap();
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(one.path().join("file"), "one").unwrap();
        let run = |held: &Path| {
            let (dir, path) = (std::fs::File::open(held).unwrap(), one.path().canonicalize().unwrap());
            let held = vec![HeldDir::new("/mnt".into(), path.clone(), dir.as_fd()).unwrap()];
            Container::builder(&image)
                .command(["cat", "/mnt/file"])
                .mount(Mount::bind(&path, "/mnt"))
                .given(Given { held, ..Given::default() })
                .run()
        };
        assert_eq!(run(one.path()).unwrap().stdout, b"one");
        let error = run(other.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
        assert_eq!(error.path(), Some(&*one.path().canonicalize().unwrap()), "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("another one")), "{error}");
    }
}
