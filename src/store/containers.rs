//! Directories of containers: `containers/ID`.
//!
//! Whoever has a container open leases its directory. One that goes with its program has a file
//! `ephemeral` in it; when nobody leases it any more, the next [`Store::open`] sweeps it away.
#![forbid(unsafe_code)]

use super::{Lease, Pins, Store, list};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

const EPHEMERAL: &str = "ephemeral";

impl Store {
    /// Makes the directory of a new container, leased. The caller still leases what it pins.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is taken.
    pub(crate) fn new_container(&self, id: &str, pins: &Pins, ephemeral: bool) -> Result<Lease> {
        let (lease, staged) = Lease::new_dir(self.tmp_dir())?;
        let fill = || {
            pins.write(std::os::fd::AsFd::as_fd(&lease))?;
            if ephemeral {
                set_ephemeral(std::os::fd::AsFd::as_fd(&lease), true)?;
            }
            match rustix::fs::renameat(self.tmp_dir(), &staged, self.containers_dir(), id) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => {
                    Err(Error::new(ErrorKind::AlreadyExists, format!("container id {id:?} is taken")))
                }
                other => other.call_at("renameat", self.path().join("containers").join(id)),
            }
        };
        if let Err(error) = fill() {
            self.remove_tree(self.tmp_dir(), &staged)?;
            return Err(error);
        }
        Ok(lease)
    }

    /// Leases the directory of a container; `None` where there is none.
    pub(crate) fn container_dir(&self, id: &str) -> Result<Option<Lease>> {
        Lease::shared(self.containers_dir(), id)
    }

    /// Removes the directory of a container, whoever leases it. Missing is fine.
    pub(crate) fn remove_container(&self, id: &str) -> Result<()> {
        match self.discard(self.containers_dir(), id) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes the ephemeral containers of dead programs. What can't be removed is reported and stays.
    pub(super) fn sweep_containers(&self) -> Result<bool> {
        let mut all = true;
        for id in list(self.containers_dir())? {
            let sweep = || -> Result<()> {
                let flag = std::path::Path::new(&id).join(EPHEMERAL);
                match rustix::fs::statat(self.containers_dir(), &flag, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                    other => other.call_at("fstatat", &flag)?,
                };
                match Lease::try_exclusive(self.containers_dir(), &id) {
                    Ok(Some(_lease)) => self.discard(self.containers_dir(), &id),
                    Err(error) if error.kind() != ErrorKind::InUse => Err(error),
                    _ => Ok(()),
                }
            };
            if let Err(error) = sweep() {
                all = false;
                tracing::warn!(%error, ?id, store = ?self.path(), "container of a dead program");
            }
        }
        Ok(all)
    }
}

/// Says whether a container goes with its program.
pub(crate) fn set_ephemeral(container: BorrowedFd<'_>, ephemeral: bool) -> Result<()> {
    if ephemeral {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(container, EPHEMERAL, flags, Mode::RUSR | Mode::WUSR)
            .call_at("openat", EPHEMERAL)?;
        return Ok(());
    }
    match rustix::fs::unlinkat(container, EPHEMERAL, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other.call_at("unlinkat", EPHEMERAL),
    }
}
