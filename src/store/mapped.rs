//! Removing what an ordinary user's containers have left: directories of sub-ids.
#![forbid(unsafe_code)]

use super::remove::{Remover, remove_tree_seizing};
use crate::error::Result;
use crate::sys::owners::{Keeper, Ownership};
use std::ffi::{CStr, OsStr};
use std::os::fd::BorrowedFd;

/// Gives each directory on the way back to the caller, who may then remove what is in it. Nothing is started
/// before the first one that needs it.
#[derive(Debug, Default)]
pub(super) struct Mapped(Keeper);

impl Remover for Mapped {
    fn remove(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let seize = |dir: BorrowedFd<'_>, name: &CStr| {
            let own = Ownership { path: name.into(), uid: 0, gid: 0, mode: Some(0o700), capability: None };
            self.0.apply(dir, [&own])
        };
        remove_tree_seizing(parent, name, Some(&seize))
    }
}
