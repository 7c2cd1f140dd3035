//! Temporary stores.
#![forbid(unsafe_code)]

use super::pins::groups_of;
use super::remove::remove_tree_with;
use super::{DIRECTORY, Lease, Remover, list, random_hex};
use crate::cgroup::CgroupParent;
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const PREFIX: &str = "coracle-temp-";

/// The directory of a temporary store: leased while it lives, removed on drop.
pub(super) struct Temporary {
    base: OwnedFd,
    name: String,
    path: PathBuf,
    _lease: Lease,
}

impl Temporary {
    pub(super) fn new() -> Result<Self> {
        let mut failed = None;
        for path in bases() {
            match Self::new_in(&path) {
                Ok(temporary) => return Ok(temporary),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed
            .unwrap_or_else(|| Error::new(ErrorKind::NotFound, "no directory for temporary files"))
            .with_remedy("set TMPDIR to a writable directory that is not on an overlay filesystem"))
    }

    fn new_in(base: &Path) -> Result<Self> {
        let path = base.canonicalize().call_at("realpath", base)?;
        let base = rustix::fs::open(&path, DIRECTORY, Mode::empty()).call_at("open", &path)?;
        // A container's writable layer can't lie on an overlay.
        let magic = rustix::fs::fstatfs(&base).call_at("fstatfs", &path)?.f_type as u32;
        if magic == linux_raw_sys::general::OVERLAYFS_SUPER_MAGIC {
            return Err(Error::new(ErrorKind::Unsupported, "an overlay filesystem can't hold a store")
                .with_path(path));
        }
        sweep(&base, &path, None);
        loop {
            let name = format!("{PREFIX}{}", random_hex(8)?);
            match rustix::fs::mkdirat(&base, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                other => other.call_at("mkdirat", path.join(&name))?,
            }
            // `None`: a sweeper was faster than the lock.
            if let Some(lease) = Lease::shared(base.as_fd(), &name)? {
                return Ok(Self { path: path.join(&name), base, name, _lease: lease });
            }
        }
    }

    /// Sweeps again beside this one, with help.
    pub(super) fn sweep(&self, remover: &dyn Remover) {
        if let Some(path) = self.path.parent() {
            sweep(&self.base, path, Some(remover));
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Temporary {
    /// The only way it goes: with its store.
    pub(super) fn remove(self, remover: Option<&dyn Remover>) {
        if let Err(error) = remove_tree_with(self.base.as_fd(), OsStr::new(&self.name), remover) {
            tracing::warn!(%error, path = ?self.path, "temporary store stays until the next sweep");
        }
    }
}

fn bases() -> Vec<PathBuf> {
    let mut bases: Vec<PathBuf> = std::env::var_os("TMPDIR").map(PathBuf::from).into_iter().collect();
    bases.retain(|path| path.is_absolute());
    bases.extend(["/var/tmp".into(), "/tmp".into()]);
    bases
}

/// Removes the temporary stores of this user's dead programs.
fn sweep(base: &OwnedFd, path: &Path, remover: Option<&dyn Remover>) {
    let warn = |error| tracing::warn!(error = %error, ?path, "temporary store of a dead program");
    let names = match list(base.as_fd()) {
        Ok(names) => names,
        Err(error) => return warn(error),
    };
    for name in names.iter().filter(|name| name.to_str().is_some_and(|name| name.starts_with(PREFIX))) {
        // One that can't be removed keeps no other.
        sweep_one(base, name, remover).unwrap_or_else(warn);
    }
}

fn sweep_one(base: &OwnedFd, name: &OsStr, remover: Option<&dyn Remover>) -> Result<()> {
    // Others may write here too: only what is ours, and a directory.
    let uid = match rustix::fs::statat(base, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.call_at("fstatat", name)?.st_uid,
    };
    if uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    match Lease::try_exclusive(base.as_fd(), name) {
        Ok(Some(lease)) => {
            // First: without these directories nobody would know that the groups are dead.
            sweep_groups(&lease)?;
            remove_tree_with(base.as_fd(), name, remover)
        }
        Ok(None) => Ok(()),
        Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the control groups of its containers, all of which are dead.
fn sweep_groups(store: &Lease) -> Result<()> {
    let dir = match rustix::fs::openat(store, "containers", DIRECTORY, Mode::empty()) {
        // It was killed while it made the store.
        Err(Errno::NOENT) => return Ok(()),
        other => other.call_at("openat", "containers")?,
    };
    let mut containers = BTreeMap::new();
    for id in list(dir.as_fd())? {
        if let Some(name) = id.to_str()
            && let Some(groups) = groups_of(dir.as_fd(), name)?
        {
            containers.insert(name.to_owned(), groups);
        }
    }
    if containers.is_empty() {
        return Ok(());
    }
    let parent = CgroupParent::detect()?;
    for (id, groups) in &containers {
        parent.sweep_at(id, groups)?;
    }
    parent.sweep(|group| !containers.contains_key(group)).map(drop)
}
