//! Directories of containers: `containers/ID`.
//!
//! Whoever has a container open leases its directory. One whose record says that it is ephemeral goes with its
//! program: when nobody leases it any more, the next [`Store::open`] sweeps it away, its control groups, and the
//! volumes that were made for it alone.
#![forbid(unsafe_code)]

use super::pins::{Seat, groups_of, seat_of};
use super::{DIRECTORY, Lease, Store, list};
use crate::cgroup::CgroupParent;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::quota;
use rustix::fs::Mode;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// The directory of a writable layer in that of its container.
pub(crate) const UPPER: &str = "upper";

/// Random bytes in the name of an anonymous volume, two digits each.
pub(crate) const ANONYMOUS: usize = 32;

impl Store {
    /// Waits until nobody starts the container of this id, in this program or another. Whoever starts it holds this from
    /// the look whether it runs until its record says that it does.
    pub(crate) fn starting(&self, id: &str) -> Result<Lease> {
        self.alone(id, "starting")
    }

    /// Waits until nobody pauses the container of this id, or lets it go on: that is for a moment, however long the pause is.
    pub(crate) fn pausing(&self, id: &str) -> Result<Lease> {
        self.alone(id, "pausing")
    }

    fn alone(&self, id: &str, name: &str) -> Result<Lease> {
        let first = id.get(..15).unwrap_or(id);
        let at = i64::from_str_radix(first, 16).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "an id of hexadecimal digits was expected").with_path(id)
        })?;
        let lease = Lease::exclusive_byte(self.locks_dir(), name, at);
        lease.map_err(|error| error.with_path(self.path().join("locks").join(name)))
    }

    /// Waits until nobody gives a container a name, or takes one away.
    pub(crate) fn naming(&self) -> Result<Lease> {
        let lease = Lease::exclusive_file(self.locks_dir(), "names");
        lease.map_err(|error| error.with_path(self.path().join("locks/names")))
    }

    /// See [`Seat`].
    pub(crate) fn seat(&self) -> Result<Seat> {
        seat_of(self.containers_dir())
    }

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
        let (lease, staged) = self.new_tmp_dir()?;
        let filled = fill(lease.as_fd()).and_then(|()| {
            match rustix::fs::renameat(self.tmp_dir(), &staged, self.containers_dir(), id) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => {
                    Err(Error::new(ErrorKind::AlreadyExists, format!("container id {id:?} is taken")))
                }
                other => other.call_at("renameat", self.path().join("containers").join(id)),
            }
        });
        if let Err(error) = filled {
            self.abandon(&staged);
            return Err(error);
        }
        Ok(lease)
    }

    /// Takes away the bounds of a container's project quota. What is still counted is on its way out.
    pub(crate) fn clear_quota(&self, id: &str, project: Option<u32>) -> Result<()> {
        let Some(project) = project else { return Ok(()) };
        // Mounted without quotas meanwhile, or moved.
        let is_lost =
            |errno: &Errno| [Errno::SRCH, Errno::NOSYS, Errno::INVAL, Errno::OPNOTSUPP].contains(errno);
        match self.owns_project(id, project) {
            // In a copy of the store the number is the original's, which it still bounds.
            Ok(false) => return Ok(()),
            Err(errno) if is_lost(&errno) => return Ok(()),
            other => other.call_at("quotactl_fd(Q_GETQUOTA)", self.path())?,
        };
        match quota::set(self.containers_dir(), project, 0, 0) {
            Err(errno) if !is_lost(&errno) => {
                Err(Error::os("quotactl_fd(Q_SETQUOTA)", errno).with_path(self.path()))
            }
            _ => Ok(()),
        }
    }

    /// Removes the control groups that a killed program has left of a container, wherever it was.
    pub(crate) fn sweep_groups(&self, id: &str) -> Result<()> {
        let Some(paths) = groups_of(self.containers_dir(), id)? else { return Ok(()) };
        let groups = self.cgroups()?;
        let seen = groups.sweep(|group| group != id).map(drop);
        seen.and(groups.sweep_at(id, &paths))
    }

    /// Whether a container's writable layer counts for the project that its record names, or nothing does yet.
    pub(crate) fn owns_project(&self, id: &str, project: u32) -> std::result::Result<bool, Errno> {
        let upper = Path::new(id).join(UPPER);
        let counts = match rustix::fs::openat(self.containers_dir(), &upper, DIRECTORY, Mode::empty()) {
            Ok(dir) => quota::project(dir.as_fd()) == Ok(project),
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(errno) => return Err(errno),
        };
        Ok(counts || quota::get(self.containers_dir(), project)?.inodes == 0)
    }

    /// Removes the ephemeral containers of dead programs, and the control groups of all that nobody has open. What
    /// can't be removed is reported and stays.
    pub(super) fn sweep_containers(&self) -> Result<bool> {
        let mut all = true;
        let mut left = |what: &str, error: Error| {
            all = false;
            tracing::warn!(%error, what, store = ?self.path(), "left over from a dead program");
        };
        let mut any = false;
        let (mut ephemeral, mut copied) = (BTreeMap::new(), BTreeSet::new());
        for id in list(self.containers_dir())? {
            let Some(name) = id.to_str() else { continue };
            let mut look = || -> Result<()> {
                let Some(lease) = self.unused_container(name)? else { return Ok(()) };
                any = true;
                match groups_of(self.containers_dir(), name)? {
                    None => drop(copied.insert(name.to_owned())),
                    Some(groups) if groups.is_empty() => {}
                    // Also those that can't be seen from this program's own group. While they are there their container stays.
                    Some(groups) => self.cgroups()?.sweep_at(name, &groups)?,
                }
                if let Some(part) = self.tenants().container_part(name)?.filter(|part| part.ephemeral) {
                    ephemeral.insert(name.to_owned(), (part.project, lease));
                }
                Ok(())
            };
            if let Err(error) = look() {
                left(name, error);
            }
        }
        // Their processes went with their programs; only empty directories are left of their groups. These go first:
        // without the container's directory nobody would know that the groups are dead, were this program killed now.
        // A kept one may be opened and started at any moment, and is kept from that while its group goes.
        let held = RefCell::new(BTreeMap::new());
        let is_alive = |group: &str| {
            if copied.contains(group) {
                return true;
            }
            // Asked again in each hierarchy.
            if ephemeral.contains_key(group) || held.borrow().contains_key(group) {
                return false;
            }
            match self.unused_container(group) {
                Ok(Some(lease)) => held.borrow_mut().insert(group.to_owned(), lease).is_some(),
                // In use, another store's, or not to be told.
                Ok(None) | Err(_) => true,
            }
        };
        if any && let Err(error) = self.cgroups().and_then(|groups| groups.sweep(is_alive)) {
            left("control groups", error);
        }
        drop(held);
        for (id, (project, _lease)) in ephemeral {
            let cleared = self.clear_quota(&id, project);
            if let Err(error) = cleared.and_then(|()| self.discard(self.containers_dir(), &id)) {
                left(&id, error);
            }
        }
        for name in list(self.volumes_dir())? {
            if let Err(error) = self.sweep_volume(&name) {
                left(&name.to_string_lossy(), error);
            }
        }
        Ok(all)
    }

    /// The exclusive lease of a container that nobody has open; `None` of one that somebody has, and where there is none.
    fn unused_container(&self, id: &str) -> Result<Option<Lease>> {
        match Lease::try_exclusive(self.containers_dir(), id) {
            Err(error) if error.kind() == ErrorKind::InUse => Ok(None),
            other => other,
        }
    }

    /// Removes a volume that was made for one container alone, when that has gone.
    fn sweep_volume(&self, name: &OsStr) -> Result<()> {
        // Only such have names that nobody thought of.
        if name.len() != 2 * ANONYMOUS {
            return Ok(());
        }
        match self.tenants().take_orphan(name) {
            Ok(Some(doomed)) => self.remove_tree(self.tmp_dir(), doomed),
            Ok(None) => Ok(()),
            Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
            Err(error) => Err(error),
        }
    }
}
