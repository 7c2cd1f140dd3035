//! Extended attributes that a copy of the store may lack.
//!
//! Overlayfs keeps in them which directories hide what lies below, and files have capabilities and lists of access. cp -a takes them
//! along; rsync and tar do so only when they are told to (`rsync -X`, `tar --xattrs --xattrs-include=*`), and say nothing. So what
//! needs them has one more, of the same kind, and says beside that it has: where that one is gone, the others are.
#![forbid(unsafe_code)]

use super::{Lease, Store};
use crate::error::{Call, Result};
use crate::sys::idmap::is_privileged;
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

const TRUSTED: &str = "trusted.coracle.whole";
const USER: &str = "user.coracle.whole";
/// In the directory of a layer: the name of the attribute.
const MARK: &str = "attributes";

/// The one of those that this program's overlays use.
fn own() -> &'static str {
    if is_privileged() { TRUSTED } else { USER }
}

/// Gives a directory the attribute, and its name; none where the filesystem has no such.
pub(crate) fn leave(dir: impl AsFd) -> Option<&'static str> {
    rustix::fs::fsetxattr(dir, own(), b"1", XattrFlags::empty()).is_ok().then(own)
}

/// Whether a directory that was given the attribute of this name has lost it. Of one that this program may not ask for it is not known.
pub(crate) fn are_gone(dir: impl AsFd, name: &str) -> Result<bool> {
    Ok(name == own() && !has(dir.as_fd())?)
}

fn has(dir: BorrowedFd<'_>) -> Result<bool> {
    match rustix::fs::fgetxattr(dir, own(), &mut [0; 8]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno).call(format!("fgetxattr({})", own())),
    }
}

impl Store {
    /// Before a layer that lies in this directory is published.
    pub(super) fn mark_attributes(&self, layer: BorrowedFd<'_>) -> Result<()> {
        let Some(name) = leave(layer) else { return Ok(()) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(layer, MARK, flags, Mode::RUSR | Mode::WUSR)
            .call_at("openat(O_CREAT)", MARK)?;
        File::from(file).write_all(name.as_bytes()).call_at("write", MARK)
    }

    /// Whether a layer has the attributes that it was published with.
    pub(super) fn has_attributes(&self, layer: &Lease) -> Result<bool> {
        if has(layer.as_fd())? {
            return Ok(true);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut name = Vec::new();
        match rustix::fs::openat(layer.as_fd(), MARK, flags, Mode::empty()) {
            // Its filesystem had none, or it is an earlier version's.
            Err(Errno::NOENT) => return Ok(true),
            other => {
                let file = File::from(other.call_at("openat", MARK)?);
                file.take(64).read_to_end(&mut name).call_at("read", MARK)?;
            }
        }
        are_gone(layer, &String::from_utf8_lossy(&name)).map(|gone| !gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_layer_whose_attributes_are_gone_is_none() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let key = Digest::of(b"a");
        let publish = || drop(store.stage_layer().unwrap().publish(&key, &"meta").unwrap());
        publish();
        assert!(store.layer(&key).unwrap().is_some());
        let layer = dir.path().join("store/layers").join(key.hex());
        let opened = File::open(&layer).unwrap();
        let other = if own() == USER { TRUSTED } else { USER };
        rustix::fs::fremovexattr(&opened, own()).unwrap();
        // What another program has marked, with other rights, is its affair.
        std::fs::write(layer.join(MARK), other).unwrap();
        assert!(store.layer(&key).unwrap().is_some());
        std::fs::remove_file(layer.join(MARK)).unwrap();
        assert!(store.layer(&key).unwrap().is_some(), "an earlier version's");
        std::fs::write(layer.join(MARK), own()).unwrap();
        assert!(store.layer(&key).unwrap().is_none());
        assert!(!layer.exists());
        publish();
        assert!(store.layer(&key).unwrap().is_some());
    }
}
