//! What an image's root directory itself is like: the topmost layer whose archive says so decides.
#![forbid(unsafe_code)]

use super::attributes::{get_xattrs, refusal};
use crate::digest::Digest;
use crate::error::{Call, Result};
use crate::store::UnpackedLayer;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The attributes of a root directory. The owner is as it is on disk: the image's where the caller is root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootDir {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u64),
    /// Of users only: what the others say holds for the machine, or names ids.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The one field of a layer's metadata that matters here, which may be long.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    root: bool,
}

/// Layers never change, so each is asked once.
fn says(layer: &UnpackedLayer) -> Result<bool> {
    static KNOWN: LazyLock<Mutex<HashMap<Digest, bool>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known().get(layer.key()).copied();
    if let Some(root) = found {
        return Ok(root);
    }
    let root = layer.meta::<Part>()?.root;
    known().insert(*layer.key(), root);
    Ok(root)
}

/// Of an image with these layers, the top one first; `None` where no archive has an entry for it.
pub(crate) fn root_dir(layers: &[UnpackedLayer]) -> Result<Option<RootDir>> {
    for layer in layers {
        if says(layer)? {
            return read(layer).map(Some);
        }
    }
    Ok(None)
}

fn read(layer: &UnpackedLayer) -> Result<RootDir> {
    let stat = rustix::fs::fstat(layer.dir()).call_at("fstat", layer.fs_path())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let xattrs = match rustix::fs::openat(layer.dir(), ".", flags, Mode::empty()) {
        Ok(dir) => get_xattrs(std::os::fd::AsFd::as_fd(&dir), b"")?,
        // Of a sub-id, and closed to others.
        Err(Errno::ACCESS) => Vec::new(),
        Err(errno) => return Err(errno).call_at("openat", layer.fs_path()),
    };
    let of_users =
        |(name, _): &(Vec<u8>, Vec<u8>)| name.starts_with(b"user.") && refusal(name, false).is_none();
    Ok(RootDir {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u64),
        xattrs: xattrs.into_iter().filter(of_users).collect(),
    })
}
