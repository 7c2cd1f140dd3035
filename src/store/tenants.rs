//! The directories that containers and volumes live in, and the one that they leave by. What the janitor needs of a store: it
//! must not have a handle, as the store goes with its last one.
#![forbid(unsafe_code)]

use super::remove::{Remover, remove_tree_with};
use super::{Lease, random_hex};
use crate::error::{Call, Result};
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

#[derive(Debug)]
pub(super) struct Tenants {
    /// Of the store.
    pub path: PathBuf,
    pub containers: OwnedFd,
    pub volumes: OwnedFd,
    pub tmp: OwnedFd,
}

impl Tenants {
    /// Takes a volume that was made for one container alone out of the store, when that has gone, and gives its name in
    /// `tmp/`. `None` where it is no such, or somebody else has removed it.
    ///
    /// # Errors
    /// `InUse` while somebody leases it.
    pub fn take_orphan(&self, name: &OsStr) -> Result<Option<String>> {
        if !self.is_orphan(name)? {
            return Ok(None);
        }
        let lease = Lease::try_exclusive(self.volumes.as_fd(), name)?;
        // Whose container is being made has a lease until the container is there: asked once more.
        if lease.is_none() || !self.is_orphan(name)? {
            return Ok(None);
        }
        let doomed = random_hex(8)?;
        match rustix::fs::renameat(&self.volumes, name, &self.tmp, &doomed) {
            // Another program was faster.
            Err(Errno::NOENT) => Ok(None),
            other => other.call_at("renameat", self.path.join("volumes").join(name)).map(|()| Some(doomed)),
        }
    }

    /// Removes what was taken out of the store, with the help of the [`Remover`] where one is needed.
    pub fn remove_doomed(&self, doomed: &str, remover: &OnceLock<Box<dyn Remover>>) -> Result<()> {
        remove_tree_with(self.tmp.as_fd(), OsStr::new(doomed), remover.get().map(|remover| &**remover))
    }

    fn is_orphan(&self, name: &OsStr) -> Result<bool> {
        let Some(container) = self.volume_part(name)?.and_then(|part| part.container) else {
            return Ok(false);
        };
        match statat(&self.containers, &container, AtFlags::SYMLINK_NOFOLLOW) {
            // Somebody may have learnt its name.
            Err(Errno::NOENT) => {
                Ok(!self.pins()?.iter().any(|(_, pins)| pins.volumes.iter().any(|pinned| **pinned == *name)))
            }
            other => other.map(|_| false).call_at("fstatat", self.path.join("containers").join(container)),
        }
    }
}
