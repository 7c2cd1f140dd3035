//! Who owns the files of a layer when the caller may not give them away.
#![forbid(unsafe_code)]

use super::acl;
use crate::error::{Call, Result};
use crate::store::Base;
use crate::sys::idmap::IdMap;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

/// A file that belongs to somebody else than root in the image, or has a capability.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    /// Beneath the layer's directory, through no symbolic link; the last component may be one and is meant itself. Empty
    /// for that directory.
    pub(crate) path: CString,
    /// The image's ids.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Set again afterwards: a change of owner clears set-user-ID and set-group-ID. `None` for a symbolic link.
    pub(crate) mode: Option<u32>,
    /// The value of `security.capability`; a change of owner clears this too.
    pub(crate) capability: Option<Vec<u8>>,
}

/// Gives the files of a layer to their owners, once all of them are there.
pub(crate) trait Owners: Send + Sync {
    /// Changes the owners of files beneath `dir`.
    fn apply(&self, dir: BorrowedFd<'_>, batch: &[Owned]) -> Result<()>;

    /// Which ids files have on disk.
    fn base(&self) -> Base;

    /// Makes a directory beneath `dir` (that itself, where the path is empty) the caller's own again, with mode 0700, where it
    /// may belong to somebody whose files this process may not change.
    fn take_back(&self, _dir: BorrowedFd<'_>, _path: &CStr) -> Result<()> {
        Ok(())
    }

    /// Nothing is changed on disk: owners and capabilities are to be kept in the layer's metadata.
    fn is_recorded(&self) -> bool {
        false
    }

    /// The image's ids of a file that is on disk with these ids. Used where a file of a layer below
    /// is copied into a layer.
    fn in_image(&self, uid: u32, gid: u32) -> (u32, u32) {
        (uid, gid)
    }

    /// Opens a file of a layer below that this process was refused, by its name in a directory; links are not
    /// followed. `None`: there is no other way.
    fn open(&self, _dir: BorrowedFd<'_>, _name: &CStr, _flags: OFlags) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    /// The same for an extended attribute of an open file; `None` inside: it has none.
    fn attribute(&self, _file: BorrowedFd<'_>, _name: &CStr) -> Result<Option<Option<Vec<u8>>>> {
        Ok(None)
    }

    /// An access control list of the image's as it is to be on disk; `None` where it names somebody whom the caller's
    /// containers have no id of.
    fn acl_on_disk(&self, list: Vec<u8>) -> Option<Vec<u8>> {
        Some(list)
    }

    /// The reverse.
    fn acl_in_image(&self, list: Vec<u8>) -> Option<Vec<u8>> {
        Some(list)
    }

    /// The value of `security.capability`, read from a file of a layer below, as it is to be set.
    fn capability_in_image(&self, value: Vec<u8>) -> Vec<u8> {
        value
    }
}

/// For root: layers have the image's ids on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Direct;

impl Owners for Direct {
    fn base(&self) -> Base {
        Base::default()
    }

    fn apply(&self, dir: BorrowedFd<'_>, batch: &[Owned]) -> Result<()> {
        for owned in batch {
            let path = super::path::text(owned.path.as_bytes());
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let at = if owned.path.is_empty() { c"." } else { &*owned.path };
            let fd = rustix::fs::openat2(dir, at, flags, Mode::empty(), how).call_at("openat2", path)?;
            let (uid, gid) = (Uid::from_raw(owned.uid), Gid::from_raw(owned.gid));
            rustix::fs::chownat(&fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                .call_at("fchownat", path)?;
            // An O_PATH descriptor is not to be written by; its name in /proc is.
            let own = super::attributes::proc_path(&fd);
            if let Some(mode) = owned.mode {
                rustix::fs::chmod(&own, Mode::from_raw_mode(mode)).call_at("chmod", path)?;
            }
            if let Some(capability) = &owned.capability {
                rustix::fs::setxattr(&own, c"security.capability", capability, XattrFlags::empty())
                    .call_at("setxattr(security.capability)", path)?;
            }
        }
        Ok(())
    }
}

/// For a user with a single id: the files stay the caller's, and the layer's metadata says whose they
/// are in the image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recorded;

impl Owners for Recorded {
    fn base(&self) -> Base {
        Base::of(&IdMap::single(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()))
    }

    fn apply(&self, _: BorrowedFd<'_>, _: &[Owned]) -> Result<()> {
        Ok(())
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn in_image(&self, _: u32, _: u32) -> (u32, u32) {
        (0, 0)
    }

    fn acl_on_disk(&self, list: Vec<u8>) -> Option<Vec<u8>> {
        acl::renamed(list, |_| None, |_| None)
    }
}

/// How this process gives files away.
pub(crate) fn for_caller() -> Box<dyn Owners> {
    if crate::sys::idmap::is_privileged() {
        return Box::new(Direct);
    }
    match crate::sys::warden::ids_of_caller() {
        (map, None) => Box::new(super::mapped::Mapped::new(map)),
        (_, Some(_)) => Box::new(super::mapped::Single::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn roots_way_goes_through_no_link_either() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("d/f");
        std::fs::create_dir(temp.path().join("d")).unwrap();
        std::fs::write(&file, "").unwrap();
        symlink("d", temp.path().join("l")).unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let apply = |path: &CStr, mode| {
            let owned = Owned { path: path.to_owned(), uid, gid, mode: Some(mode), capability: None };
            Direct.apply(dir.as_fd(), &[owned])
        };
        let mode = || file.metadata().unwrap().permissions().mode() & 0o7777;
        apply(c"d/f", 0o640).unwrap();
        assert_eq!(mode(), 0o640);
        let error = apply(c"l/f", 0o4777).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()), "{error}");
        assert_eq!(mode(), 0o640);
    }
}
