//! Owners of an ordinary user who has sub-ids.
#![forbid(unsafe_code)]

use super::acl;
use super::owner::{Owned, Owners, Recorded};
use crate::error::Result;
use crate::store::Base;
use crate::sys::idmap::IdMap;
use crate::sys::owners::{Keeper, Ownership, capability_inside, inside};
use rustix::fs::OFlags;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// On disk the files belong to sub-ids, as a container of this user sees them.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: IdMap,
    keeper: Keeper,
}

impl Mapped {
    /// For a user who has this map.
    pub(crate) fn new(map: IdMap) -> Self {
        Self { map, keeper: Keeper::default() }
    }
}

impl Owners for Mapped {
    fn base(&self) -> Base {
        Base::of(&self.map)
    }

    fn apply(&self, dir: BorrowedFd<'_>, batch: &[Owned]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let batch: Vec<_> = batch.iter().map(ownership).collect();
        self.keeper.apply(dir, &batch)
    }

    fn take_back(&self, dir: BorrowedFd<'_>, path: &CStr) -> Result<()> {
        let own = Ownership { path: path.to_owned(), uid: 0, gid: 0, mode: Some(0o700), capability: None };
        self.keeper.apply(dir, [&own])
    }

    fn in_image(&self, uid: u32, gid: u32) -> (u32, u32) {
        (inside(&self.map.users, uid), inside(&self.map.groups, gid))
    }

    fn acl_on_disk(&self, list: Vec<u8>) -> Option<Vec<u8>> {
        acl::renamed(list, |id| self.map.user(id), |id| self.map.group(id))
    }

    fn acl_in_image(&self, list: Vec<u8>) -> Option<Vec<u8>> {
        let (users, groups) = (&self.map.users, &self.map.groups);
        acl::renamed(list, |id| Some(inside(users, id)), |id| Some(inside(groups, id)))
    }

    fn open(&self, dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<Option<OwnedFd>> {
        self.keeper.open(dir, name, flags.bits()).map(Some)
    }

    fn attribute(&self, file: BorrowedFd<'_>, name: &CStr) -> Result<Option<Option<Vec<u8>>>> {
        self.keeper.attribute(file, name).map(Some)
    }

    fn capability_in_image(&self, value: Vec<u8>) -> Vec<u8> {
        capability_inside(value)
    }
}

/// [`Recorded`], with a way to files that their owner closed to himself: in a container he is root, who reads them all the same.
#[derive(Debug, Default)]
pub(crate) struct Single {
    keeper: Keeper,
}

impl Owners for Single {
    fn base(&self) -> Base {
        Recorded.base()
    }

    fn apply(&self, dir: BorrowedFd<'_>, batch: &[Owned]) -> Result<()> {
        Recorded.apply(dir, batch)
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn in_image(&self, uid: u32, gid: u32) -> (u32, u32) {
        Recorded.in_image(uid, gid)
    }

    fn acl_on_disk(&self, list: Vec<u8>) -> Option<Vec<u8>> {
        Recorded.acl_on_disk(list)
    }

    fn open(&self, dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<Option<OwnedFd>> {
        self.keeper.open(dir, name, flags.bits()).map(Some)
    }

    fn attribute(&self, file: BorrowedFd<'_>, name: &CStr) -> Result<Option<Option<Vec<u8>>>> {
        self.keeper.attribute(file, name).map(Some)
    }
}

fn ownership(owned: &Owned) -> Ownership {
    Ownership {
        path: owned.path.clone(),
        uid: owned.uid,
        gid: owned.gid,
        // The mode is right already but for what a change of owner clears.
        mode: owned.mode.filter(|mode| mode & 0o6000 != 0),
        capability: owned.capability.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::idmap::Extent;

    #[test]
    fn ids_on_disk_are_translated_back() {
        let extents = vec![
            Extent { inside: 0, outside: 1000, count: 1 },
            Extent { inside: 1, outside: 100_000, count: 65535 },
        ];
        let mapped = Mapped::new(IdMap { users: extents.clone(), groups: extents });
        assert_eq!(mapped.in_image(1000, 100_000), (0, 1));
        assert_eq!(mapped.in_image(100_032, 1000), (33, 0));
        assert_eq!(mapped.in_image(0, 1001), (65534, 65534));
        let list = |id: u32| [&[2, 0, 0, 0, 2, 0, 7, 0][..], &id.to_le_bytes()].concat();
        assert_eq!(mapped.acl_on_disk(list(33)), Some(list(100_032)));
        assert_eq!(mapped.acl_in_image(list(100_032)), Some(list(33)));
        assert_eq!(mapped.acl_on_disk(list(70_000)), None);
    }
}
