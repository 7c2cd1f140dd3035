//! Files of ids that the caller isn't: an ordinary user's containers leave files of sub-ids, which only a process in
//! a user namespace that maps them may give away, open or take back. A courier does it.

use super::courier::{self, Courier, Reply};
use super::idmap::{Extent, IdMap};
use super::plan::format::{COURIER_SIZE, DATA_AT, Op, Status};
use super::plan::{Cell, Plan};
use super::warden::{Warden, warden};
use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use linux_raw_sys::errno::{ENODATA, EOPNOTSUPP};
use linux_raw_sys::general as n;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What a file beneath a directory is to become.
#[derive(Debug, Clone)]
pub(crate) struct Ownership {
    /// Through no symbolic link; the last component may be one and is meant itself. Empty for the directory.
    pub path: CString,
    /// As the namespace names them: 0 is the caller.
    pub uid: u32,
    pub gid: u32,
    /// Set after the owner, whose change clears set-user-ID and set-group-ID.
    pub mode: Option<u32>,
    /// The value of `security.capability`, likewise.
    pub capability: Option<Vec<u8>>,
}

/// The courier in the warden's namespace. It is started when it is needed first, and again when its warden has
/// ended or this is a forked copy of the program.
#[derive(Default)]
pub(crate) struct Keeper {
    started: Mutex<Option<(Arc<Warden>, Arc<Courier>)>>,
}

impl Keeper {
    fn courier(&self, warden: &Arc<Warden>) -> Result<Arc<Courier>> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, courier)) = &*started
            && Arc::ptr_eq(of, warden)
        {
            return Ok(courier.clone());
        }
        let courier = Arc::new(courier::of_warden(warden)?);
        *started = Some((warden.clone(), courier.clone()));
        Ok(courier)
    }

    fn call(&self, warden: &Arc<Warden>, plan: Plan<'_>) -> Result<Reply> {
        let reply = self.courier(warden)?.call(plan);
        if reply.is_err() {
            // It has ended, or what the plan opened before it failed is still open there.
            *self.started.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        reply
    }

    /// Gives files beneath `dir` to their owners.
    pub fn apply<'a>(
        &self,
        dir: BorrowedFd<'_>,
        batch: impl IntoIterator<Item = &'a Ownership>,
    ) -> Result<()> {
        let warden = warden()?;
        let mut script = Script::new(dir);
        for owned in batch {
            check(&warden, owned)?;
            if script.size + Script::size_of(owned) > COURIER_SIZE {
                self.call(&warden, std::mem::replace(&mut script, Script::new(dir)).plan)?;
            }
            script.add(owned);
        }
        self.call(&warden, script.plan).map(drop)
    }

    /// Opens `path` beneath `dir` (`.` for the directory itself), through no symbolic link.
    pub fn open(&self, dir: BorrowedFd<'_>, path: &CStr, flags: u32) -> Result<OwnedFd> {
        let mut plan = Plan::new();
        let dir = plan.fd(dir);
        let letter = plan.letter(Status::PLAN);
        let flags = u64::from(flags | n::O_CLOEXEC | n::O_NOFOLLOW);
        open(&mut plan, dir, path, flags, letter.fd);
        plan.post(letter);
        plan.op(n::__NR_close, "close", [letter.fd.into()]);
        let reply = self.call(&warden()?, plan)?;
        let fd = reply.fds.into_iter().next();
        fd.ok_or_else(|| Error::new(ErrorKind::Gone, "the courier has sent no file").with_path(shown(path)))
    }

    /// An extended attribute of an open file.
    pub fn attribute(&self, file: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>> {
        const MAX: usize = 64 << 10;
        let mut plan = Plan::new();
        let file = plan.fd(file);
        // The length, -1 for none, then the value.
        let mut room = vec![0; 8 + MAX];
        room[..4].copy_from_slice(&(-1i32).to_ne_bytes());
        let answer = plan.bytes(&room);
        let name_at = plan.c_str(name);
        plan.op(
            n::__NR_fgetxattr,
            "fgetxattr",
            [file.into(), name_at.into(), super::plan::At(answer.0 + 8).into(), MAX.into()],
        )
        .store(Cell(answer.0))
        .tolerate(&[ENODATA, EOPNOTSUPP]);
        plan.reply(answer, 8 + MAX);
        let bytes = self.call(&warden()?, plan)?.bytes;
        let (len, value) = bytes.split_at_checked(8).unwrap_or_default();
        let len = len.first_chunk().map_or(0, |len| i32::from_ne_bytes(*len));
        Ok(usize::try_from(len).ok().and_then(|len| value.get(..len)).map(<[u8]>::to_vec))
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

/// An id that the namespace doesn't have would be EINVAL, which says nothing.
fn check(warden: &Warden, owned: &Ownership) -> Result<()> {
    let Some(map) = warden.map() else { return Ok(()) };
    let what = match (map.user(owned.uid), map.group(owned.gid)) {
        (Some(_), Some(_)) => return Ok(()),
        (None, _) => format!("a file of user {}, of whom there is no sub-id", owned.uid),
        (_, None) => format!("a file of group {}, of which there is no sub-id", owned.gid),
    };
    Err(Error::new(ErrorKind::Unsupported, what)
        .with_path(shown(&owned.path))
        .with_remedy("give this user more sub-ids in /etc/subuid and /etc/subgid (65536 is usual)"))
}

/// What the namespace calls an id of the host; nobody (overflowuid of proc_sys_kernel(5)) where it has none.
pub(crate) fn inside(extents: &[Extent], id: u32) -> u32 {
    const NOBODY: u32 = 65534;
    inside_of(extents, id).unwrap_or(NOBODY)
}

/// The same; `None` where it has none.
pub(crate) fn inside_of(extents: &[Extent], id: u32) -> Option<u32> {
    let found = extents.iter().find(|e| id >= e.outside && id - e.outside < e.count)?;
    Some(found.inside + (id - found.outside))
}

/// A capability as read from outside names the namespace's root (capabilities(7), version 3). Inside, where it
/// is to be set, that goes without saying (version 2).
pub(crate) fn capability_inside(mut value: Vec<u8>) -> Vec<u8> {
    if value.len() == 24 && value[3] == 3 {
        value[3] = 2;
        value.truncate(20);
    }
    value
}

/// The same where the root that a capability names is looked for: of a namespace with this map, or, below it, of one of its
/// users, which stays. `None` for somebody else's.
pub(crate) fn capability_in(map: &IdMap, mut value: Vec<u8>) -> Option<Vec<u8>> {
    if value.len() != 24 || value[3] != 3 {
        return Some(value);
    }
    let root = value.last_chunk().map(|root| u32::from_le_bytes(*root))?;
    match inside_of(&map.users, root)? {
        0 => Some(capability_inside(value)),
        user => {
            value[20..].copy_from_slice(&user.to_le_bytes());
            Some(value)
        }
    }
}

fn shown(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

fn open(plan: &mut Plan<'_>, dir: Cell, path: &CStr, flags: u64, to: Cell) {
    let at = plan.c_str(if path.is_empty() { c"." } else { path });
    let beneath = n::RESOLVE_BENEATH | n::RESOLVE_NO_SYMLINKS | n::RESOLVE_NO_MAGICLINKS;
    // struct open_how: flags, mode, resolve.
    let how = plan.words64(&[flags, 0, u64::from(beneath)]);
    // A rename somewhere in the tree makes the kernel give up (EAGAIN).
    plan.op(n::__NR_openat2, "openat2(RESOLVE_BENEATH)", [dir.into(), at.into(), how.into(), 24.into()])
        .needs(Feature::Openat2)
        .path(shown(path))
        .store(to)
        .again();
}

/// A plan for many files.
struct Script<'fd> {
    plan: Plan<'fd>,
    dir: Cell,
    file: Cell,
    /// What it takes in the courier's memory, rather more than less.
    size: usize,
}

impl<'fd> Script<'fd> {
    fn new(dir: BorrowedFd<'fd>) -> Self {
        let mut plan = Plan::new();
        plan.during("giving files to their owners");
        let dir = plan.fd(dir);
        let file = plan.cell(-1);
        Self { plan, dir, file, size: DATA_AT + 64 }
    }

    fn size_of(owned: &Ownership) -> usize {
        let data = owned.path.as_bytes().len() + owned.capability.as_ref().map_or(0, Vec::len) + 192;
        6 * size_of::<Op>() + data
    }

    fn add(&mut self, owned: &Ownership) {
        self.size += Self::size_of(owned);
        let (plan, file, path) = (&mut self.plan, self.file, shown(&owned.path));
        let flags = n::O_PATH | n::O_NOFOLLOW | n::O_CLOEXEC;
        open(plan, self.dir, &owned.path, flags.into(), file);
        let empty = plan.c_str(c"");
        let ids = [owned.uid.into(), owned.gid.into()];
        plan.op(
            n::__NR_fchownat,
            "fchownat",
            [file.into(), empty.into(), ids[0], ids[1], n::AT_EMPTY_PATH.into()],
        )
        .path(path);
        if owned.mode.is_some() || owned.capability.is_some() {
            // An O_PATH descriptor is not to be changed by; its name in /proc is.
            let own = plan.decimal("/proc/self/fd/", file, c"");
            if let Some(mode) = owned.mode {
                plan.op(n::__NR_fchmodat, "fchmodat", [n::AT_FDCWD.into(), own.into(), mode.into()])
                    .path(path);
            }
            if let Some(capability) = &owned.capability {
                let name = plan.c_str(c"security.capability");
                let value = plan.bytes(capability);
                plan.op(
                    n::__NR_setxattr,
                    "setxattr(security.capability)",
                    [own.into(), name.into(), value.into(), capability.len().into(), 0.into()],
                )
                .path(path);
            }
        }
        plan.op(n::__NR_close, "close", [file.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn owned(path: &str, uid: u32, gid: u32, mode: Option<u32>) -> Ownership {
        Ownership { path: CString::new(path).unwrap(), uid, gid, mode, capability: None }
    }

    #[test]
    fn gives_files_away_and_opens_them() {
        let warden = warden().unwrap();
        if warden.single().is_some() {
            return; // a user without sub-ids has nobody to give files to
        }
        let host = |id: u32| warden.map().map_or(id, |map| map.user(id).unwrap());
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/f"), "secret").unwrap();
        fs::set_permissions(at("d/f"), fs::Permissions::from_mode(0o6711)).unwrap();
        symlink("/etc/passwd", at("d/l")).unwrap();
        symlink("d", at("x")).unwrap();
        let dir = fs::File::open(temp.path()).unwrap();
        let keeper = Keeper::default();

        // More than one plan's worth.
        let mut batch: Vec<_> = (0..600)
            .map(|n| {
                let name = format!("file-with-a-name-of-some-length-{n}");
                fs::write(at(&name), "").unwrap();
                owned(&name, 1 + n, 2, None)
            })
            .collect();
        let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        batch.push(Ownership { capability: Some(capability), ..owned("d/f", 33, 34, Some(0o6711)) });
        batch.push(owned("d/l", 35, 36, None));
        batch.push(owned("d", 33, 33, Some(0o700)));
        keeper.apply(dir.as_fd(), &batch).unwrap();
        let link = fs::symlink_metadata(at("file-with-a-name-of-some-length-599")).unwrap();
        assert_eq!(link.uid(), host(600));

        let open = |path| {
            let mut text = String::new();
            let fd = keeper.open(dir.as_fd(), path, n::O_RDONLY)?;
            fs::File::from(fd).read_to_string(&mut text).unwrap();
            Ok::<_, Error>(text)
        };
        assert_eq!(open(c"d/f").unwrap(), "secret");
        for refused in [c"d/l", c"x/f", c"../etc"] {
            assert!(open(refused).is_err(), "{refused:?}");
        }
        let d = keeper.open(dir.as_fd(), c"d", n::O_RDONLY | n::O_DIRECTORY).unwrap();
        let stat = rustix::fs::fstat(&d).unwrap();
        assert_eq!((stat.st_uid, stat.st_mode & 0o7777), (host(33), 0o700));
        assert_eq!(keeper.attribute(d.as_fd(), c"user.x").unwrap(), None);
        let f = keeper.open(dir.as_fd(), c"d/f", n::O_RDONLY).unwrap();
        assert!(keeper.attribute(f.as_fd(), c"security.capability").unwrap().is_some());
        let file = rustix::fs::fstat(keeper.open(dir.as_fd(), c"d/f", n::O_RDONLY).unwrap()).unwrap();
        assert_eq!((file.st_uid, file.st_mode & 0o7777), (host(33), 0o6711));

        // Back to the caller, or the temporary directory stays.
        keeper.apply(dir.as_fd(), &[owned("d", 0, 0, Some(0o755))]).unwrap();
        let stat = fs::metadata(at("d/f")).unwrap();
        assert_eq!(stat.uid(), host(33));
        assert_eq!(fs::symlink_metadata(at("d/l")).unwrap().uid(), host(35));
        assert_ne!(fs::metadata("/etc/passwd").unwrap().uid(), host(35));
    }

    #[test]
    fn an_id_that_is_not_there_is_named() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("f"), "").unwrap();
        let dir = fs::File::open(temp.path()).unwrap();
        let keeper = Keeper::default();
        let result = keeper.apply(dir.as_fd(), &[owned("f", 3_000_000_000, 0, None)]);
        match warden().unwrap().map() {
            None => result.unwrap(),
            Some(_) => {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("3000000000"), "{error}");
            }
        }
        let error = keeper.apply(dir.as_fd(), &[owned("missing", 0, 0, None)]).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(Path::new("missing"))));
        keeper.apply(dir.as_fd(), &[owned("f", 0, 0, None)]).unwrap();
    }
}
