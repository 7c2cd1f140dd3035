//! Directories of containers: `containers/ID`.
//!
//! Whoever has a container open leases its directory. One whose record says that it is ephemeral goes with its
//! program: when nobody leases it any more, the next [`Store::open`] sweeps it away, and its control groups.
#![forbid(unsafe_code)]

use super::{Lease, Store, list};
use crate::cgroup::CgroupParent;
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

impl Store {
    /// Where this program's control groups go.
    pub(crate) fn cgroups(&self) -> Result<&CgroupParent> {
        if let Some(parent) = self.0.cgroups.get() {
            return Ok(parent);
        }
        let found = CgroupParent::detect()?;
        Ok(self.0.cgroups.get_or_init(|| found))
    }

    /// Makes the directory of a new container, leased, and shows it once `fill` has written what is in it. The caller
    /// still leases what it pins.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is taken.
    pub(crate) fn new_container(
        &self,
        id: &str,
        fill: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<Lease> {
        let (lease, staged) = Lease::new_dir(self.tmp_dir())?;
        let filled = fill(lease.as_fd()).and_then(|()| {
            match rustix::fs::renameat(self.tmp_dir(), &staged, self.containers_dir(), id) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => {
                    Err(Error::new(ErrorKind::AlreadyExists, format!("container id {id:?} is taken")))
                }
                other => other.call_at("renameat", self.path().join("containers").join(id)),
            }
        });
        if let Err(error) = filled {
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
                let _lease = match Lease::try_exclusive(self.containers_dir(), &id) {
                    Ok(Some(lease)) => lease,
                    Ok(None) => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::InUse => return Ok(()),
                    Err(error) => return Err(error),
                };
                let Some(name) = id.to_str() else { return Ok(()) };
                if !self.container_part(name)?.is_some_and(|part| part.ephemeral) {
                    return Ok(());
                }
                self.discard(self.containers_dir(), &id)?;
                // Its processes went with their program; only empty directories are left of its groups.
                self.cgroups()?.sweep(|group| group != name).map(drop)
            };
            if let Err(error) = sweep() {
                all = false;
                tracing::warn!(%error, ?id, store = ?self.path(), "container of a dead program");
            }
        }
        Ok(all)
    }
}
