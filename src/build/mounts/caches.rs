//! The directories of `RUN --mount=type=cache`: made, locked and mounted by handle, as others may write to where they are.
#![forbid(unsafe_code)]

use super::{Files, Mounted, sharing_of, target};
use crate::build::stage::{At, Finished};
use crate::build::work::Work;
use crate::container::{HeldDir, Mount as Bind, copy_into};
use crate::dockerfile::{Mount, Sharing};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::{Owned, for_caller};
use crate::store::{Lease, leads_to, random_hex, unused};
use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// How often a cache that another build has is asked for again; flock(2) waits without a deadline.
const AGAIN: Duration = Duration::from_millis(20);

/// So often a shared cache that is to be emptied is asked for: a program that this one starts has its locks until it executes.
const TIMES: usize = 50;

/// What a cache is named until it has what it begins with, and when it is removed; no id gives a name with a dot at its beginning.
const NEW: &str = ".new-";
const DIGITS: usize = 16;

/// The mode and the owner of a cache that asks for none.
pub(super) const USUAL: (u32, (u32, u32)) = (0o755, (0, 0));

pub(super) fn access_of(mount: &Mount) -> (u32, (u32, u32)) {
    let (mode, (uid, gid)) = USUAL;
    (mount.mode.unwrap_or(mode) & 0o7777, (mount.uid.unwrap_or(uid), mount.gid.unwrap_or(gid)))
}

pub(super) fn asks_for_access(mount: &Mount) -> bool {
    mount.mode.is_some() || mount.uid.is_some() || mount.gid.is_some()
}

/// Whether there are files in it from the beginning.
pub(super) fn begins(mount: &Mount) -> bool {
    mount.from.as_deref().is_some_and(|from| !from.is_empty())
}

/// Where all of them are.
struct Room {
    dir: OwnedFd,
    /// Without links.
    path: PathBuf,
}

/// A cache as a step asks for it.
struct Wanted<'a, 'w> {
    at: &'a At<'w>,
    mount: &'a Mount,
    room: &'a Room,
    sharing: Sharing,
}

impl Wanted<'_, '_> {
    fn lock(&self) -> FlockOperation {
        match self.sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            _ => FlockOperation::NonBlockingLockExclusive,
        }
    }
}

impl Work<'_> {
    fn room(&self) -> Result<Room> {
        let dir = match &self.build.cache_dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).call_at("mkdir", dir)?;
                dir.clone()
            }
            None => self.store.cache_mounts()?,
        };
        let path = dir.canonicalize().call_at("realpath", &dir)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).call_at("open", &path)?;
        let room = Room { dir, path };
        if !self.swept.swap(true, std::sync::atomic::Ordering::Relaxed) {
            self.sweep(&room)?;
        }
        Ok(room)
    }

    /// Removes what programs have left that were killed while they made one.
    fn sweep(&self, room: &Room) -> Result<()> {
        for name in crate::store::list(room.dir.as_fd())? {
            let hex = name.to_str().and_then(|name| name.strip_prefix(NEW));
            if !hex.is_some_and(|hex| hex.len() == DIGITS && hex.bytes().all(|b| b.is_ascii_hexdigit())) {
                continue;
            }
            let removed = match unused(room.dir.as_fd(), &name) {
                Ok(Some(_lease)) => self.store.remove_tree(room.dir.as_fd(), &name),
                other => other.map(drop),
            };
            // It is in nobody's way.
            if let Err(error) = removed {
                tracing::warn!(%error, room = ?room.path, ?name, "what a killed build has left");
            }
        }
        Ok(())
    }

    pub(super) fn cache(
        &self,
        at: &At<'_>,
        mount: &Mount,
        state: &Finished,
        mounted: &mut Mounted,
    ) -> Result<()> {
        let target = target(mount, state)?;
        let room = self.room()?;
        let name = self.directory_of(at, mount, state)?;
        let sharing = sharing_of(mount);
        // It has the directory already: another lock of it would never come.
        let path = room.path.join(&name);
        let has = mounted.locks.iter().position(|(other, _)| sharing != Sharing::Private && *other == path);
        let number = match has {
            Some(number) => number,
            None => {
                let (path, lock) = self.locked_as(&Wanted { at, mount, room: &room, sharing }, &name)?;
                // When it was last used, for `Store::prune_cache`.
                let now = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
                if let Err(error) = lock.file().set_times(now) {
                    tracing::debug!(%error, ?path, "the time of a cache's directory");
                }
                mounted.locks.push((path, lock));
                mounted.locks.len() - 1
            }
        };
        let (path, lock) = &mounted.locks[number];
        mounted.given.held.push(HeldDir::new(target.clone(), path.clone(), lock.as_fd())?);
        let bind = Bind::bind(path, target);
        mounted.binds.push(if mount.read_only { bind.read_only() } else { bind });
        Ok(())
    }

    /// The directory of this name; where that may be another one, the first that nobody has.
    fn locked_as(&self, wanted: &Wanted<'_, '_>, name: &str) -> Result<(PathBuf, Lease)> {
        let mut number = 0;
        loop {
            let name = if number == 0 { name.to_owned() } else { format!("{name}~{number}") };
            if let Some(lock) = self.locked(wanted, &name)? {
                return Ok((wanted.room.path.join(name), lock));
            }
            number += 1;
        }
    }

    /// The directory of a cache, locked; `None` where another build has it alone and this one may have another.
    fn locked(&self, wanted: &Wanted<'_, '_>, name: &str) -> Result<Option<Lease>> {
        let room = wanted.room;
        let path = || room.path.join(name);
        let is_anew = self.build.no_cache;
        if is_anew && wanted.sharing == Sharing::Shared {
            self.empty_shared(wanted, name)?;
        }
        loop {
            self.check()?;
            let file = match open_cache(room, name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let emptied = is_anew.then(|| self.emptied());
                    let Some(made) = self.make(wanted, name)? else { continue };
                    if let Some(mut emptied) = emptied {
                        emptied.insert(path());
                    }
                    return Ok(Some(made));
                }
                other => Lease::of(other?.into())?,
            };
            while !lock(file.as_fd(), wanted.lock()).map_err(|error| error.with_path(path()))? {
                if wanted.sharing == Sharing::Private {
                    return Ok(None);
                }
                self.check()?;
                std::thread::sleep(AGAIN);
            }
            // It may have been pruned before it was locked.
            if !leads_to(room.dir.as_fd(), OsStr::new(name), &file)? {
                continue;
            }
            if is_anew && wanted.sharing != Sharing::Shared && self.emptied().insert(path()) {
                self.remove(room, name)?;
                continue;
            }
            return Ok(Some(file));
        }
    }

    /// Of a build that uses nothing again (`--no-cache`): which caches it need not empty any more.
    fn emptied(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.emptied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a shared cache before this build uses it first. One that others use stays as it is.
    fn empty_shared(&self, wanted: &Wanted<'_, '_>, name: &str) -> Result<()> {
        let room = wanted.room;
        let path = room.path.join(name);
        // No other RUN of this build begins with it meanwhile.
        let mut emptied = self.emptied();
        while !emptied.contains(&path) {
            let file = match open_cache(room, name) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
            let mut left = TIMES;
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            while !lock(file.as_fd(), exclusive).map_err(|error| error.with_path(&path))? {
                self.check()?;
                left -= 1;
                if left == 0 {
                    let what = format!("the cache {name} is in use, so that it keeps what is in it");
                    self.teller.warn(Some(wanted.at.step.span.first), what);
                    emptied.insert(path);
                    return Ok(());
                }
                std::thread::sleep(AGAIN);
            }
            if leads_to(room.dir.as_fd(), OsStr::new(name), &file)? {
                self.remove(room, name)?;
                emptied.insert(path);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes a cache that is locked. Who is killed meanwhile has left one without its name, and not a part of one.
    fn remove(&self, room: &Room, name: &str) -> Result<()> {
        let old = format!("{NEW}{}", random_hex(DIGITS / 2)?);
        rustix::fs::renameat_with(&room.dir, name, &room.dir, &old, RenameFlags::NOREPLACE)
            .call_at("renameat2(RENAME_NOREPLACE)", room.path.join(name))?;
        self.store.remove_tree(room.dir.as_fd(), &old).map_err(|error| error.during("emptying a cache"))
    }

    /// Makes it, under another name until it is what it begins with, and locked from the beginning on, so that nobody takes it for
    /// what a killed program has left. `None` where another build was faster.
    fn make(&self, wanted: &Wanted<'_, '_>, name: &str) -> Result<Option<Lease>> {
        let room = wanted.room;
        let (new, dir) = loop {
            let new = format!("{NEW}{}", random_hex(DIGITS / 2)?);
            rustix::fs::mkdirat(&room.dir, &new, Mode::RWXU).call_at("mkdir", room.path.join(&new))?;
            // Who looks for what was left may have been faster than the lock.
            match open_dir(room, &new) {
                Ok(dir)
                    if lock(dir.as_fd(), wanted.lock())?
                        && leads_to(room.dir.as_fd(), OsStr::new(&new), &dir)? =>
                {
                    break (new, dir);
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        };
        let made = self.fill(wanted.at, wanted.mount, &dir).and_then(|()| {
            match rustix::fs::renameat_with(&room.dir, &new, &room.dir, name, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => Ok(false),
                other => other.call_at("renameat2(RENAME_NOREPLACE)", room.path.join(name)).map(|()| true),
            }
        });
        match made {
            Ok(true) => Lease::of(dir.into()).map(Some),
            other => {
                let removed = self.store.remove_tree(room.dir.as_fd(), &new);
                // Why it was not filled matters more.
                other.and_then(|_| removed.map(|()| None))
            }
        }
    }

    /// The image whose files a cache begins with.
    pub(super) fn begins_with(&self, at: &At<'_>, mount: &Mount) -> Result<Image> {
        match self.files(at, mount)? {
            Files::Image(image) => Ok(image),
            Files::Context(_) => {
                let what = "a cache that begins with files of a context";
                Err(Error::new(ErrorKind::Unsupported, what)
                    .with_remedy("from= of a cache names a stage or an image"))
            }
        }
    }

    /// What a new cache begins with: files of an image, its owner and mode.
    fn fill(&self, at: &At<'_>, mount: &Mount, dir: &OwnedFd) -> Result<()> {
        if begins(mount) {
            let image = self.begins_with(at, mount)?;
            let source = Path::new("/").join(mount.source.as_deref().unwrap_or_default());
            if !copy_into(&image, &source, dir.as_fd())? {
                let error =
                    Error::new(ErrorKind::NotFound, "there is no such directory to begin a cache with");
                return Err(error.with_path(source));
            }
            if !asks_for_access(mount) {
                return Ok(());
            }
        }
        let (mode, (uid, gid)) = access_of(mount);
        // Before it is somebody else's, who may change it then.
        rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).call("fchmod")?;
        if (uid, gid) == (0, 0) && mount.from.is_none() {
            return Ok(());
        }
        let owned = Owned { path: CString::default(), uid, gid, mode: Some(mode), capability: None };
        for_caller().apply(dir.as_fd(), &[owned])
    }
}

/// Whether it was free.
fn lock(file: BorrowedFd<'_>, operation: FlockOperation) -> Result<bool> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).call("flock"),
        }
    }
}

/// An ordinary user's may belong to a sub-id, and be closed to the user.
fn open_cache(room: &Room, name: &str) -> Result<OwnedFd> {
    match (open_dir(room, name), CString::new(OsStr::new(name).as_encoded_bytes())) {
        (Err(error), Ok(name)) if error.kind() == ErrorKind::PermissionDenied => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            for_caller().open(room.dir.as_fd(), &name, flags)?.ok_or(error)
        }
        (other, _) => other,
    }
}

fn open_dir(room: &Room, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&room.dir, name, flags, Mode::empty())
        .call_at("openat", room.path.join(name))
        .map_err(|error| error.during("opening the directory of a cache"))
}
