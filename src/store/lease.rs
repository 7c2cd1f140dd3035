//! Leases: shared `flock`s that say "somebody alive uses this".
//!
//! A lock is only worth something on the file that the name leads to, so whoever takes one looks
//! again afterwards: between `open` and `flock` another process may have renamed or removed it.
#![forbid(unsafe_code)]

use super::janitor::{Janitor, Task};
use super::{Store, list, remove_tree};
use crate::cgroup::Remnant;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::fork::Witness;
use crate::sys::warden::{DOOR, NEW};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A locked file or directory. The lock goes when this is dropped, and when the program dies.
#[derive(Debug)]
pub(crate) struct Lease {
    file: File,
    /// The byte that is locked, where it is not all of the file.
    byte: Option<i64>,
    owner: Witness,
}

impl Drop for Lease {
    /// Gives the lock up by word. Closing alone would not: until it is executed, a program that another thread starts has all
    /// descriptors of this one, and with them the locks, and a forked copy has them for as long as it lives. The copy itself gives
    /// nothing up.
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        // That this fails is not to be expected, and closing follows.
        let _ = match self.byte {
            Some(at) => self.set_byte(false, libc::F_UNLCK, at),
            None => self.file.unlock(),
        };
    }
}

impl Lease {
    /// Of a file that is locked, or will be.
    pub(crate) fn of(file: File) -> Result<Self> {
        Ok(Self { file, byte: None, owner: Witness::current()? })
    }

    /// Opens `name` (a file or directory, never a link) and takes the shared lock.
    /// `None` when there is no such name.
    pub(crate) fn shared(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<Option<Self>> {
        let name = name.as_ref();
        loop {
            let Some(file) = open_any(parent, name)? else { return Ok(None) };
            uninterrupted(|| file.lock_shared()).call_at("flock(LOCK_SH)", name)?;
            if leads_to(parent, name, &file)? {
                return Self::of(file).map(Some);
            }
        }
    }

    /// Waits for the exclusive lock of an open file, whose name is for the error.
    #[cfg(feature = "registry")]
    pub(crate) fn exclusive(file: File, name: &OsStr) -> Result<Self> {
        let lease = Self::of(file)?;
        uninterrupted(|| lease.file.lock()).call_at("flock(LOCK_EX)", name)?;
        Ok(lease)
    }

    /// The same as [`shared`](Self::shared) with the exclusive lock, if nobody has any.
    ///
    /// # Errors
    /// `InUse` when somebody has one.
    pub(crate) fn try_exclusive(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<Option<Self>> {
        let name = name.as_ref();
        loop {
            let Some(file) = open_any(parent, name)? else { return Ok(None) };
            let lease = Self::try_exclusive_of(file, name)?;
            if leads_to(parent, name, &lease.file)? {
                return Ok(Some(lease));
            }
        }
    }

    /// Of an open file, whose name is for the error.
    ///
    /// # Errors
    /// `InUse` when somebody has one.
    pub(crate) fn try_exclusive_of(file: File, name: &OsStr) -> Result<Self> {
        let lease = Self::of(file)?;
        match lease.try_lock().map_err(|error| error.with_path(name))? {
            true => Ok(lease),
            false => Err(Error::new(ErrorKind::InUse, "flock(LOCK_EX): in use").with_path(name)),
        }
    }

    /// The same with some patience, as who only looks at it has a lock for a moment. Tried again and again: flock(2) waits
    /// without a deadline, and nothing tells that a lock is free.
    ///
    /// # Errors
    /// `InUse` when somebody has kept one for a fifth of a second.
    pub(crate) fn exclusive_soon(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<Option<Self>> {
        let deadline = Instant::now() + Duration::from_millis(200);
        loop {
            match Self::try_exclusive(parent, name.as_ref()) {
                Err(error) if error.kind() == ErrorKind::InUse && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    /// Opens `name`, which is made where it is missing, without a lock yet.
    pub(crate) fn lock_file(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).call_at("openat", name)?;
        Self::of(file.into())
    }

    /// Takes the exclusive lock on an opened [`lock_file`](Self::lock_file), if nobody has any: whether it did.
    pub(crate) fn try_lock(&self) -> Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error).call("flock(LOCK_EX)"),
        }
    }

    /// Waits for the exclusive lock on `name`, which is made where it is missing and never removed.
    pub(crate) fn exclusive_file(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<Self> {
        let lease = Self::lock_file(parent, name.as_ref())?;
        uninterrupted(|| lease.file.lock()).call_at("flock(LOCK_EX)", name.as_ref())?;
        Ok(lease)
    }

    /// Waits for the exclusive lock on one byte of the file `name`: without a file for each that is to be locked. It is of
    /// this opening of the file, and goes with it as the others do (fcntl(2), open file description locks).
    pub(crate) fn exclusive_byte(parent: BorrowedFd<'_>, name: impl AsRef<OsStr>, at: i64) -> Result<Self> {
        let mut lease = Self::lock_file(parent, name.as_ref())?;
        lease.set_byte(true, libc::F_WRLCK, at).call_at("fcntl(F_OFD_SETLKW)", name.as_ref())?;
        lease.byte = Some(at);
        Ok(lease)
    }

    /// The same, but waits no longer than that.
    ///
    /// # Errors
    /// `TimedOut` when somebody has it still.
    #[cfg(feature = "registry")]
    pub(crate) fn exclusive_byte_until(
        parent: BorrowedFd<'_>,
        name: impl AsRef<OsStr>,
        at: i64,
        until: Option<Instant>,
    ) -> Result<Self> {
        let name = name.as_ref();
        let Some(until) = until else { return Self::exclusive_byte(parent, name, at) };
        let mut lease = Self::lock_file(parent, name)?;
        // Nothing tells that a lock is free but what waits without a deadline.
        loop {
            match lease.set_byte(false, libc::F_WRLCK, at) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => {
                    other.call_at("fcntl(F_OFD_SETLK)", name)?;
                    lease.byte = Some(at);
                    return Ok(lease);
                }
            }
            if Instant::now() >= until {
                let what = "fcntl(F_OFD_SETLK): another one has it, and the time is up";
                return Err(Error::new(ErrorKind::TimedOut, what).with_path(name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn set_byte(&self, waits: bool, kind: i32, at: i64) -> io::Result<()> {
        let flock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: at,
            l_len: 1,
            l_pid: 0,
        };
        let call = || match waits {
            true => FcntlArg::F_OFD_SETLKW(&flock),
            false => FcntlArg::F_OFD_SETLK(&flock),
        };
        uninterrupted(|| Ok(fcntl(&self.file, call()).map(drop)?))
    }

    /// Makes a directory with a new name and leases it. Also gives the name.
    pub(crate) fn new_dir(parent: BorrowedFd<'_>) -> Result<(Self, String)> {
        loop {
            let name = random_hex(8)?;
            match rustix::fs::mkdirat(parent, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                other => other.call_at("mkdirat", &name)?,
            }
            // `None`: a sweeper was faster than the lock.
            if let Some(lease) = Self::shared(parent, &name)? {
                return Ok((lease, name));
            }
        }
    }

    /// Makes a file with a new name, open for reading and writing, and leases it.
    pub(crate) fn new_file(parent: BorrowedFd<'_>) -> Result<(Self, String)> {
        loop {
            let name = random_hex(8)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(parent, &name, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => continue,
                other => File::from(other.call_at("openat(O_CREAT)", &name)?),
            };
            uninterrupted(|| file.lock_shared()).call_at("flock(LOCK_SH)", &name)?;
            if leads_to(parent, OsStr::new(&name), &file)? {
                return Ok((Self::of(file)?, name));
            }
        }
    }

    /// Waits for the shared lock on an opened [`lock_file`](Self::lock_file).
    pub(crate) fn share(self) -> Result<Self> {
        uninterrupted(|| self.file.lock_shared()).call("flock(LOCK_SH)")?;
        Ok(self)
    }

    /// Whether somebody else has a shared lock, too. For a moment this one is given up.
    pub(crate) fn is_shared(&self) -> Result<bool> {
        let alone = self.try_lock()?;
        uninterrupted(|| self.file.lock_shared()).call("flock(LOCK_SH)")?;
        Ok(!alone)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The file without its lock.
    pub(crate) fn into_file(self) -> Result<File> {
        self.file.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")
    }

    pub(crate) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `flock` waits, and a signal handler of the host program may end the waiting.
fn uninterrupted(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => return other,
        }
    }
}

fn open_any(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<File>> {
    // O_NONBLOCK: a FIFO must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        other => Ok(Some(other.call_at("openat", name)?.into())),
    }
}

/// Whether `name` still is this very file.
pub(crate) fn leads_to(parent: BorrowedFd<'_>, name: &OsStr, file: impl AsFd) -> Result<bool> {
    let ours = rustix::fs::fstat(file).call_at("fstat", name)?;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        other => {
            let now = other.call_at("fstatat", name)?;
            Ok((now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino))
        }
    }
}

/// `bytes` random bytes as hex digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String> {
    use std::fmt::Write;
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .call_at("read", "/dev/urandom")?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

impl Store {
    /// A new directory in `tmp/`, leased, and its name.
    pub(crate) fn new_tmp_dir(&self) -> Result<(Lease, String)> {
        Lease::new_dir(self.tmp_dir()).map_err(|error| error.with_path(self.path().join("tmp")))
    }

    /// A new file in `tmp/`, leased, and its name.
    pub(crate) fn new_tmp_file(&self) -> Result<(Lease, String)> {
        Lease::new_file(self.tmp_dir()).map_err(|error| error.with_path(self.path().join("tmp")))
    }

    /// Removes what dead programs left in `tmp/` and their ephemeral containers. What can't be removed is reported and stays.
    pub(crate) fn sweep(&self) -> Result<()> {
        // First: their directories go through `tmp/`.
        let mut all = self.sweep_containers()?;
        let tmp = self.tmp_dir();
        for name in list(tmp)? {
            let swept = match Lease::try_exclusive(tmp, &name) {
                Ok(None) => Ok(()),
                Ok(Some(_lease)) => self.remove_tree(tmp, &name),
                Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
                // A link or a socket: nothing of ours, and nothing that can be locked.
                Err(error)
                    if [Some(Errno::LOOP.raw_os_error()), Some(Errno::NXIO.raw_os_error())]
                        .contains(&error.raw_os_error()) =>
                {
                    remove_tree(tmp, &name)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = swept {
                all = false;
                tracing::warn!(%error, ?name, store = ?self.path(), "left over from a dead program");
            }
        }
        self.sweep_doors()?;
        if let (Some(temporary), Some(remover)) = (&self.0.temporary, self.0.remover.get()) {
            temporary.sweep(&**remover);
        }
        self.0.unswept.store(!all, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the sockets of wardens that are gone.
    fn sweep_doors(&self) -> Result<()> {
        let locks = self.locks_dir();
        for name in list(locks)? {
            let Some(name) = name.to_str() else { continue };
            let is_dead = match name.strip_prefix(NEW) {
                Some(door) => door.starts_with(DOOR) && is_old(locks, name)?,
                None if name.starts_with(DOOR) => crate::sys::message::is_deaf(locks, name)?,
                None => false,
            };
            if is_dead {
                match rustix::fs::unlinkat(locks, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    // It is in nobody's way.
                    Err(errno) => {
                        let error =
                            Error::os("unlinkat", errno).with_path(self.path().join("locks").join(name));
                        tracing::warn!(%error, "the door of a dead program's warden");
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes a directory out of the store in one step: nobody finds it afterwards, and what is left
    /// of it after a crash is swept. The caller has the exclusive lease, or needs none.
    pub(crate) fn discard(&self, parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        let doomed = random_hex(8)?;
        match rustix::fs::renameat(parent, name, self.tmp_dir(), &doomed) {
            // Another program was faster.
            Err(Errno::NOENT) => return Ok(()),
            other => other.call_at("renameat", name)?,
        }
        let removed = self.remove_tree(self.tmp_dir(), &doomed);
        if removed.is_err() {
            self.remove_later(doomed);
        }
        removed
    }

    /// The same, without waiting for the removal: what fails there is left to the next sweep.
    pub(crate) fn discard_later(&self, parent: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        let doomed = random_hex(8)?;
        match rustix::fs::renameat(parent, name, self.tmp_dir(), &doomed) {
            // Another program was faster.
            Err(Errno::NOENT) => return Ok(()),
            other => other.call_at("renameat", name)?,
        }
        match self.remove_later(doomed.clone()) {
            true => Ok(()),
            false => self.remove_tree(self.tmp_dir(), &doomed),
        }
    }

    /// Removes what was half made in `tmp/`. Where that fails now, as it does without descriptors, it is tried again.
    pub(crate) fn abandon(&self, name: &str) {
        if let Err(error) = self.remove_tree(self.tmp_dir(), name)
            && !self.remove_later(name.to_owned())
        {
            tracing::warn!(%error, name, store = ?self.path(), "half-made content stays until the next sweep");
        }
    }

    /// Whether there is a thread that removes it from `tmp/`.
    fn remove_later(&self, doomed: String) -> bool {
        let (tenants, remover) = (self.0.tenants.clone(), self.0.remover.clone());
        let what = format!("{}/tmp/{doomed}, for the next sweep", self.path().display());
        self.try_later(what, false, move || tenants.remove_doomed(&doomed, &remover))
    }

    /// Whether there is a thread that removes a volume which was made for one container alone, and could not be removed with
    /// it. Where another one needs it by now it stays.
    pub(crate) fn remove_orphan_later(&self, name: &str) -> bool {
        let (tenants, remover) = (self.0.tenants.clone(), self.0.remover.clone());
        let what = format!("{}/volumes/{name}, for the next sweep", self.path().display());
        let (name, mut doomed) = (OsString::from(name), None);
        self.try_later(what, false, move || {
            if doomed.is_none() {
                doomed = tenants.take_orphan(&name)?;
            }
            doomed.as_ref().map_or(Ok(()), |doomed| tenants.remove_doomed(doomed, &remover))
        })
    }

    /// For a control group that has processes when it goes, which are ending or hang. Once its container has gone no sweep
    /// knows whose it is.
    pub(crate) fn heir_of_group(&self) -> impl FnOnce(&str, Remnant) + Send + Sync + 'static {
        let store = self.clone();
        move |name, remove| {
            let what = format!("the control group {name}");
            if !store.try_later(what.clone(), true, remove) {
                tracing::warn!(what, "it could not be removed and stays");
            }
        }
    }

    /// Whether there is a thread that does it, and does it again for some time while it fails.
    fn try_later(
        &self,
        what: String,
        is_last_chance: bool,
        remove: impl FnMut() -> Result<()> + Send + 'static,
    ) -> bool {
        if !self.0.witness.is_here() {
            // A forked copy of the program has no such thread, and the lock may be one's that does not exist here.
            return false;
        }
        let mut janitor = self.0.janitor.lock().unwrap_or_else(PoisonError::into_inner);
        if janitor.is_none() {
            *janitor = Janitor::start();
        }
        janitor
            .as_ref()
            .is_some_and(|janitor| janitor.take(Task { what, is_last_chance, remove: Box::new(remove) }))
    }
}

/// Whether a door that does not listen yet has been so for longer than any program takes.
fn is_old(locks: BorrowedFd<'_>, name: &str) -> Result<bool> {
    const LONG: u64 = 60;
    let made = match rustix::fs::statat(locks, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        other => other.call_at("fstatat", name)?.st_ctime,
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(made).is_ok_and(|made| made + LONG < now.as_secs()))
}
