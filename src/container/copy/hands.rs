//! The calls by which files are copied: this process's own on the caller's files, and on a container's those of a courier
//! that is root of the container's user namespace and of nothing else. So nothing can be opened or made there that the
//! container's own root could not open or make, wherever a path leads.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::Feature;
use crate::layer::Mtime;
use crate::sys::courier::{Courier, Reply};
use crate::sys::open::openat2;
use crate::sys::plan::format::Status;
use crate::sys::plan::{At, Cell, Plan};
use linux_raw_sys::errno::{ENODATA, ENOENT, EOPNOTSUPP};
use linux_raw_sys::general as n;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// So many files are looked at in one call of a courier.
const LOOKS: usize = 32;
/// Of an extended attribute (xattr(7)).
const XATTR_MAX: usize = 64 << 10;
const CAPABILITY: &[u8] = b"security.capability";

/// Names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Beneath a directory and through no link at all.
pub(super) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

pub(super) struct Hands<'a> {
    courier: Option<&'a Courier>,
    /// What paths begin at: absolute ones too, of a container.
    pub root: BorrowedFd<'a>,
    /// How a path is resolved that may have links in it.
    pub how: ResolveFlags,
}

/// What a file is to have beside its content.
#[derive(Default)]
pub(super) struct Dress<'a> {
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    pub mtime: Option<Mtime>,
}

/// What is made under a name.
pub(super) enum New<'a> {
    Directory,
    Symlink(&'a [u8]),
    Fifo,
    /// Another name of this file.
    Link(BorrowedFd<'a>, &'a [u8]),
}

pub(super) fn text(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

pub(super) fn is(error: &Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn c_string(path: &[u8]) -> Result<CString> {
    CString::new(path)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "a NUL byte in a path").with_path(text(path)))
}

/// A name for an open file, for calls that take no O_PATH descriptor: a link of the kernel to the file itself.
fn own_name(file: BorrowedFd<'_>) -> String {
    // Not /proc/self: a thread may have a descriptor table of its own.
    format!("/proc/thread-self/fd/{}", file.as_raw_fd())
}

fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

fn fd_of(reply: Reply, path: &[u8]) -> Result<OwnedFd> {
    let fd = reply.fds.into_iter().next();
    fd.ok_or_else(|| Error::new(ErrorKind::Gone, "the courier has sent no file").with_path(text(path)))
}

impl<'a> Hands<'a> {
    /// This process's own, on paths as it sees them.
    pub fn own() -> Self {
        Self { courier: None, root: CWD, how: ResolveFlags::empty() }
    }

    /// On a container's files: whatever a path has in it, it stays in `root`.
    pub fn inside(root: BorrowedFd<'a>, courier: &'a Courier) -> Self {
        Self { courier: Some(courier), root, how: ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS }
    }

    pub fn is_own(&self) -> bool {
        self.courier.is_none()
    }

    /// Opens a path: for nothing (`PATH`), a directory, or a file that is not there yet. What a container has is opened for
    /// reading by [`reopen`](Self::reopen), when it is known what it is.
    pub fn open(
        &self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd> {
        let name = c_string(path)?;
        let flags = flags | OFlags::CLOEXEC;
        let mode = if flags.contains(OFlags::CREATE) { 0o600 } else { 0 };
        let Some(courier) = self.courier else {
            let opened = openat2(dir, &*name, flags, Mode::from_raw_mode(mode), resolve);
            return opened.call_at("openat2", text(path));
        };
        let mut plan = Plan::new();
        let dir = plan.fd(dir);
        let letter = plan.letter(Status::PLAN);
        open(&mut plan, dir, &name, [flags.bits().into(), mode.into(), resolve.bits()], letter.fd);
        plan.post(letter);
        plan.op(n::__NR_close, "close", [letter.fd.into()]);
        fd_of(courier.call(plan)?, path)
    }

    /// What these names of a directory are, each opened for nothing; none of one that is not there any more.
    pub fn look(&self, dir: BorrowedFd<'_>, names: &[Vec<u8>]) -> Result<Vec<Option<OwnedFd>>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut all = Vec::with_capacity(names.len());
        let Some(courier) = self.courier else {
            for name in names {
                all.push(match openat2(dir, &**name, flags, Mode::empty(), BENEATH) {
                    Err(Errno::NOENT) => None,
                    other => Some(other.call_at("openat2(O_PATH)", text(name))?),
                });
            }
            return Ok(all);
        };
        for names in names.chunks(LOOKS) {
            let mut plan = Plan::new();
            let dir = plan.fd(dir);
            let found = plan.space(4 * names.len());
            let letter = plan.letter(Status::PLAN);
            for (i, name) in names.iter().enumerate() {
                let absent = plan.label();
                let at = plan.c_str(&c_string(name)?);
                let how = plan.words64(&[flags.bits().into(), 0, BENEATH.bits()]);
                plan.op(n::__NR_openat2, "openat2(O_PATH)", [dir.into(), at.into(), how.into(), 24.into()])
                    .path(text(name))
                    .needs(Feature::Openat2)
                    .tolerate(&[ENOENT])
                    .otherwise(absent)
                    .again()
                    .store(letter.fd);
                plan.post(letter).store(Cell(found.0 + 4 * i as u64));
                plan.op(n::__NR_close, "close", [letter.fd.into()]);
                plan.place(absent);
            }
            plan.reply(found, 4 * names.len());
            let reply = courier.call(plan)?;
            let mut fds = reply.fds.into_iter();
            all.extend(reply.bytes.chunks(4).map(|sent| if sent == [0; 4] { None } else { fds.next() }));
        }
        Ok(all)
    }

    /// Opens again what is open for nothing: that very file, whatever has its name by now.
    pub fn reopen(&self, file: BorrowedFd<'_>, flags: OFlags, path: &[u8]) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Some(courier) = self.courier else {
            return rustix::fs::open(own_name(file), flags, Mode::empty()).call_at("openat", text(path));
        };
        let mut plan = Plan::new();
        let file = plan.fd(file);
        let own = plan.decimal("/proc/self/fd/", file, c"");
        let letter = plan.letter(Status::PLAN);
        let args = [n::AT_FDCWD.into(), own.into(), flags.bits().into(), 0.into()];
        plan.op(n::__NR_openat, "openat", args).path(text(path)).store(letter.fd);
        plan.post(letter);
        plan.op(n::__NR_close, "close", [letter.fd.into()]);
        fd_of(courier.call(plan)?, path)
    }

    pub fn make(&self, dir: BorrowedFd<'_>, name: &[u8], new: &New<'_>) -> Result<()> {
        let shown = text(name);
        let name = c_string(name)?;
        let Some(courier) = self.courier else {
            return match new {
                New::Directory => rustix::fs::mkdirat(dir, &*name, Mode::RWXU).call_at("mkdirat", shown),
                New::Symlink(target) => {
                    rustix::fs::symlinkat(*target, dir, &*name).call_at("symlinkat", shown)
                }
                New::Fifo => {
                    let mode = Mode::RUSR | Mode::WUSR;
                    rustix::fs::mknodat(dir, &*name, FileType::Fifo, mode, 0).call_at("mknodat", shown)
                }
                New::Link(of, first) => {
                    rustix::fs::linkat(of, *first, dir, &*name, AtFlags::empty()).call_at("linkat", shown)
                }
            };
        };
        let mut plan = Plan::new();
        let dir = plan.fd(dir);
        let at = plan.c_str(&name);
        match new {
            New::Directory => {
                plan.op(n::__NR_mkdirat, "mkdirat", [dir.into(), at.into(), 0o700.into()]).path(shown);
            }
            New::Symlink(target) => {
                let target = plan.c_str(&c_string(target)?);
                let args = [target.into(), dir.into(), at.into()];
                plan.op(n::__NR_symlinkat, "symlinkat", args).path(shown);
            }
            New::Fifo => {
                let args = [dir.into(), at.into(), (n::S_IFIFO | 0o600).into(), 0.into()];
                plan.op(n::__NR_mknodat, "mknodat", args).path(shown);
            }
            New::Link(of, first) => {
                let (of, first) = (plan.fd(*of), plan.c_str(&c_string(first)?));
                let args = [of.into(), first.into(), dir.into(), at.into(), 0.into()];
                plan.op(n::__NR_linkat, "linkat", args).path(shown);
            }
        }
        courier.call(plan).map(drop)
    }

    /// Takes away a name of what is no directory.
    pub fn unlink(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let c_name = c_string(name)?;
        let Some(courier) = self.courier else {
            let gone = rustix::fs::unlinkat(dir, &*c_name, AtFlags::empty());
            return gone.call_at("unlinkat", text(name));
        };
        let mut plan = Plan::new();
        let dir = plan.fd(dir);
        let at = plan.c_str(&c_name);
        plan.op(n::__NR_unlinkat, "unlinkat", [dir.into(), at.into(), 0.into()]).path(text(name));
        courier.call(plan).map(drop)
    }

    /// Gives a file what it is to have: the capability and the time last, which the others change. Whether it has all of its
    /// extended attributes now: some filesystems have none.
    pub fn dress(&self, file: BorrowedFd<'_>, dress: &Dress<'_>, path: &[u8]) -> Result<bool> {
        let (capability, xattrs): (Vec<_>, Vec<_>) =
            dress.xattrs.iter().partition(|(name, _)| name == CAPABILITY);
        let mut has_all = true;
        for (name, value) in xattrs {
            has_all &= self.set_xattr(file, name, value, path)?;
        }
        match self.courier {
            None => own_dress(file, dress, path)?,
            Some(courier) => {
                let mut plan = Plan::new();
                let file = plan.fd(file);
                dress_in(&mut plan, file, dress, path);
                courier.call(plan)?;
            }
        }
        for (name, value) in capability {
            has_all &= self.set_xattr(file, name, value, path)?;
        }
        Ok(has_all)
    }

    /// False where the filesystem has none.
    fn set_xattr(&self, file: BorrowedFd<'_>, name: &[u8], value: &[u8], path: &[u8]) -> Result<bool> {
        let c_name = c_string(name)?;
        let Some(courier) = self.courier else {
            let set = rustix::fs::setxattr(own_name(file), &*c_name, value, XattrFlags::empty());
            return match set {
                Err(Errno::OPNOTSUPP) => Ok(false),
                other => {
                    other.call_at(format!("setxattr({})", name.escape_ascii()), text(path)).map(|()| true)
                }
            };
        };
        let mut plan = Plan::new();
        let file = plan.fd(file);
        let own = plan.decimal("/proc/self/fd/", file, c"");
        let (name_at, at) = (plan.c_str(&c_name), plan.bytes(value));
        let done = plan.cell(-1);
        let args = [own.into(), name_at.into(), at.into(), value.len().into(), 0.into()];
        let op = plan.op(n::__NR_setxattr, "setxattr", args).detail(name).path(text(path));
        op.store(done).tolerate(&[EOPNOTSUPP]);
        plan.reply(At(done.0), 4);
        Ok(courier.call(plan)?.bytes == [0; 4])
    }

    /// Those extended attributes of an open file that `wanted` names.
    pub fn xattrs(
        &self,
        file: BorrowedFd<'_>,
        wanted: impl Fn(&[u8]) -> bool,
        path: &[u8],
    ) -> Result<Xattrs> {
        let mut names = vec![0; 256];
        let length = loop {
            match rustix::fs::flistxattr(file, &mut names[..]) {
                Ok(length) => break length,
                Err(Errno::RANGE) if names.len() <= XATTR_MAX => names.resize(names.len() * 4, 0),
                Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
                Err(errno) => return Err(errno).call_at("flistxattr", text(path)),
            }
        };
        let mut found = Vec::new();
        for name in names[..length].split(|&b| b == 0).filter(|name| wanted(name)) {
            if let Some(value) = self.xattr(file, &c_string(name)?, path)? {
                found.push((name.to_vec(), value));
            }
        }
        found.sort();
        Ok(found)
    }

    fn xattr(&self, file: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(courier) = self.courier else {
            let mut value = vec![0; XATTR_MAX];
            return match rustix::fs::fgetxattr(file, name, &mut value[..]) {
                Ok(length) => {
                    value.truncate(length);
                    Ok(Some(value))
                }
                // Gone since it was listed.
                Err(Errno::NODATA) => Ok(None),
                Err(errno) => {
                    Err(errno).call_at(format!("fgetxattr({})", name.to_string_lossy()), text(path))
                }
            };
        };
        let mut plan = Plan::new();
        let file = plan.fd(file);
        // The length, -1 for none, then the value.
        let mut room = vec![0; 8 + XATTR_MAX];
        room[..4].copy_from_slice(&(-1i32).to_ne_bytes());
        let (answer, name_at) = (plan.bytes(&room), plan.c_str(name));
        let args = [file.into(), name_at.into(), At(answer.0 + 8).into(), XATTR_MAX.into()];
        let op = plan.op(n::__NR_fgetxattr, "fgetxattr", args).detail(name.to_bytes());
        op.path(text(path)).store(Cell(answer.0)).tolerate(&[ENODATA, EOPNOTSUPP]);
        plan.reply(answer, 8 + XATTR_MAX);
        let bytes = courier.call(plan)?.bytes;
        let (length, value) = bytes.split_at_checked(8).unwrap_or_default();
        let length = length.first_chunk().map_or(-1, |length| i32::from_ne_bytes(*length));
        Ok(usize::try_from(length).ok().and_then(|length| value.get(..length)).map(<[u8]>::to_vec))
    }
}

fn open(plan: &mut Plan<'_>, dir: Cell, path: &CStr, how: [u64; 3], to: Cell) {
    let at = plan.c_str(path);
    // struct open_how: flags, mode, resolve.
    let how = plan.words64(&how);
    let shown = text(path.to_bytes());
    // A rename anywhere makes the kernel give up (EAGAIN) where there is a `..` on the way.
    plan.op(n::__NR_openat2, "openat2", [dir.into(), at.into(), how.into(), 24.into()])
        .needs(Feature::Openat2)
        .path(shown)
        .store(to)
        .again();
}

fn dress_in(plan: &mut Plan<'_>, file: Cell, dress: &Dress<'_>, path: &[u8]) {
    let shown = text(path);
    let own = plan.decimal("/proc/self/fd/", file, c"");
    if let Some((uid, gid)) = dress.owner {
        let empty = plan.c_str(c"");
        let args = [file.into(), empty.into(), uid.into(), gid.into(), n::AT_EMPTY_PATH.into()];
        plan.op(n::__NR_fchownat, "fchownat", args).path(shown);
    }
    if let Some(mode) = dress.mode {
        let args = [n::AT_FDCWD.into(), own.into(), mode.into()];
        plan.op(n::__NR_fchmodat, "fchmodat", args).path(shown);
    }
    if let Some(mtime) = dress.mtime {
        let times = plan.words64(&[0, n::UTIME_OMIT.into(), mtime.secs as u64, mtime.nanos.into()]);
        let args = [n::AT_FDCWD.into(), own.into(), times.into(), 0.into()];
        plan.op(n::__NR_utimensat, "utimensat", args).path(shown);
    }
}

fn own_dress(file: BorrowedFd<'_>, dress: &Dress<'_>, path: &[u8]) -> Result<()> {
    let shown = text(path);
    let owned = match dress.owner {
        None => false,
        Some((uid, gid)) => {
            let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match rustix::fs::chownat(file, "", ids.0, ids.1, AtFlags::EMPTY_PATH) {
                Ok(()) => true,
                Err(Errno::PERM | Errno::INVAL) => false,
                Err(errno) => return Err(errno).call_at("fchownat", shown),
            }
        }
    };
    if let Some(mode) = dress.mode {
        // Whoever owns it, it is not who owned it: nothing is to be executed as that one.
        let is_dir = rustix::fs::fstat(file).is_ok_and(|stat| kind(&stat) == FileType::Directory);
        let mode = if owned || is_dir { mode } else { mode & !0o6000 };
        rustix::fs::chmod(own_name(file), Mode::from_raw_mode(mode)).call_at("fchmodat", shown)?;
    }
    if let Some(mtime) = dress.mtime {
        rustix::fs::utimensat(CWD, own_name(file), &times(mtime), AtFlags::empty())
            .call_at("utimensat", shown)?;
    }
    Ok(())
}

pub(super) fn kind(stat: &rustix::fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// So much memory the names of one directory take at most, in bytes: some millions of names.
const NAMES_MAX: usize = 256 << 20;

/// The names in a directory that is open for reading, sorted.
///
/// # Errors
/// `TooLarge` where there are too many, as in one without end.
pub(super) fn names(dir: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    names_within(dir, path, NAMES_MAX)
}

fn names_within(dir: BorrowedFd<'_>, path: &[u8], max: usize) -> Result<Vec<Vec<u8>>> {
    let (mut names, mut taken) = (Vec::new(), 0);
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.call_at("getdents64", text(path))?;
        let name = entry.file_name().to_bytes();
        // A filesystem of the container's own making (FUSE) names what it likes.
        if !matches!(name, b"." | b".." | b"") && !name.contains(&b'/') {
            taken += name.len() + size_of::<Vec<u8>>();
            if taken > max {
                return Err(
                    Error::new(ErrorKind::TooLarge, "millions of names in a directory").with_path(text(path))
                );
            }
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Copies a file's content, `size` bytes at most, with its holes.
pub(super) fn content(from: &File, size: u64, is_sparse: bool, to: &File, path: &[u8]) -> Result<u64> {
    use rustix::fs::{SeekFrom, seek};
    use std::io::Read;
    let copy = |most| std::io::copy(&mut from.take(most), &mut &*to).call_at("copying", text(path));
    if !is_sparse {
        return copy(size);
    }
    let mut at = 0;
    while at < size {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // A hole up to the end.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno).call_at("lseek(SEEK_DATA)", text(path)),
        };
        let hole = seek(from, SeekFrom::Hole(data)).call_at("lseek(SEEK_HOLE)", text(path))?;
        for file in [from, to] {
            seek(file, SeekFrom::Start(data)).call_at("lseek", text(path))?;
        }
        if copy(hole.min(size).saturating_sub(data))? == 0 {
            break;
        }
        at = hole;
    }
    rustix::fs::ftruncate(to, size).call_at("ftruncate", text(path))?;
    Ok(size)
}

/// What the kernel shows there is no file: procfs, sysfs and their like (statfs(2)).
pub(super) fn is_of_the_kernel(dir: impl AsFd) -> bool {
    const MAGIC: [u64; 9] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x1cd1,
        0x1980_0202,
        0xcafe_4a11,
        0x6462_6720,
        0x7472_6163,
    ];
    rustix::fs::fstatfs(dir).is_ok_and(|stat| MAGIC.contains(&(stat.f_type as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{courier, warden};

    #[test]
    fn an_attribute_that_the_filesystem_does_not_take_is_told() {
        // On disk, as those of a tmpfs came late (Linux 6.6).
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let courier = courier::of_warden(&warden::warden().unwrap()).unwrap();
        let with = |hands: &Hands<'_>, name: &str| {
            let xattrs = [(name.as_bytes().to_vec(), b"1".to_vec())];
            let dress = Dress { xattrs: &xattrs, ..Dress::default() };
            hands.dress(file.as_fd(), &dress, b"f").unwrap()
        };
        let root = File::open("/").unwrap();
        for hands in [Hands::own(), Hands::inside(root.as_fd(), &courier)] {
            assert!(with(&hands, "user.a"));
            // No filesystem has this namespace (xattr(7)).
            assert!(!with(&hands, "nobodys.a"));
        }
    }

    #[test]
    fn the_names_of_a_directory_have_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            File::create(dir.path().join(name)).unwrap();
        }
        let each = 1 + size_of::<Vec<u8>>();
        let names = |max| names_within(File::open(dir.path()).unwrap().as_fd(), b"/d", max);
        assert_eq!(names(2 * each).unwrap(), [b"a", b"b"]);
        let error = names(2 * each - 1).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::TooLarge, Some(Path::new("/d"))));
    }
}
