//! Files of ids that the caller isn't: an ordinary user's containers leave files of sub-ids, which only a process in
//! a user namespace that maps them may give away, open or take back. A courier does it.

use super::courier::{self, Courier};
use super::plan::format::{COURIER_SIZE, DATA_AT, Op, Status};
use super::plan::{Cell, Plan};
use super::warden::{Warden, warden};
use crate::error::{Error, ErrorKind, Result};
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
    fn courier(&self) -> Result<(Arc<Warden>, Arc<Courier>)> {
        let warden = warden()?;
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, courier)) = &*started
            && Arc::ptr_eq(of, &warden)
        {
            return Ok((warden, courier.clone()));
        }
        let courier = Arc::new(courier::of_warden(&warden)?);
        *started = Some((warden.clone(), courier.clone()));
        Ok((warden, courier))
    }

    /// Gives files beneath `dir` to their owners.
    pub fn apply<'a>(
        &self,
        dir: BorrowedFd<'_>,
        batch: impl IntoIterator<Item = &'a Ownership>,
    ) -> Result<()> {
        let (warden, courier) = self.courier()?;
        let mut script = Script::new(dir);
        for owned in batch {
            check(&warden, owned)?;
            if script.size + Script::size_of(owned) > COURIER_SIZE {
                courier.call(std::mem::replace(&mut script, Script::new(dir)).plan)?;
            }
            script.add(owned);
        }
        courier.call(script.plan).map(drop)
    }

    /// Opens `path` beneath `dir` (`.` for the directory itself), through no symbolic link.
    pub fn open(&self, dir: BorrowedFd<'_>, path: &CStr, flags: u32) -> Result<OwnedFd> {
        let (_, courier) = self.courier()?;
        let mut plan = Plan::new();
        let dir = plan.fd(dir);
        let letter = plan.letter(Status::PLAN);
        let flags = u64::from(flags | n::O_CLOEXEC | n::O_NOFOLLOW);
        open(&mut plan, dir, path, flags, letter.fd);
        plan.post(letter);
        plan.op(n::__NR_close, "close", [letter.fd.into()]);
        let reply = courier.call(plan)?;
        let fd = reply.fds.into_iter().next();
        fd.ok_or_else(|| Error::new(ErrorKind::Gone, "the courier has sent no file").with_path(shown(path)))
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

fn shown(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

fn open(plan: &mut Plan<'_>, dir: Cell, path: &CStr, flags: u64, to: Cell) {
    const EAGAIN: u32 = 11;
    let at = plan.c_str(if path.is_empty() { c"." } else { path });
    let beneath = n::RESOLVE_BENEATH | n::RESOLVE_NO_SYMLINKS | n::RESOLVE_NO_MAGICLINKS;
    // struct open_how: flags, mode, resolve.
    let how = plan.words64(&[flags, 0, u64::from(beneath)]);
    let again = plan.label();
    plan.place(again);
    // A rename somewhere in the tree makes the kernel give up (EAGAIN).
    plan.op(n::__NR_openat2, "openat2(RESOLVE_BENEATH)", [dir.into(), at.into(), how.into(), 24.into()])
        .path(shown(path))
        .store(to)
        .tolerate(&[EAGAIN])
        .otherwise(again);
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
                plan.op(n::__NR_fchmodat, "fchmodat", [n::AT_FDCWD.into(), own.into(), mode.into()]).path(path);
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
