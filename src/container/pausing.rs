//! A pause that a program takes back itself, as for a commit; where it is killed before, whoever finds that lets the
//! container go on.
//!
//! The file `pausing` in the container's directory is locked while there is such a pause, and not empty from before it
//! until after it. One that is not empty and not locked tells of a program that was killed.
#![forbid(unsafe_code)]

use super::record::Dir;
use super::running::Running;
use crate::error::{Call, Result};
use crate::store::Lease;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;

const FILE: &str = "pausing";

/// What says that a pause is one of a living program.
pub(super) struct Pausing(Lease);

impl Pausing {
    /// Before the pause. Waits for other programs that have one.
    pub fn begin(running: &Running) -> Result<Self> {
        let dir = &*running.dir;
        let lease = Lease::exclusive_file(dir.as_fd(), FILE).map_err(|error| error.with_path(path(dir)))?;
        let this = Self(lease);
        if this.is_left(dir)? {
            running.thaw()?;
        }
        this.0.file().write_all(b"1").call_at("write", path(dir))?;
        Ok(this)
    }

    /// After it. Without, the container goes on when the next program looks at it.
    pub fn end(self) -> Result<()> {
        self.0.file().set_len(0).call_at("ftruncate", FILE)
    }

    /// Whether it was begun and has not ended.
    fn is_left(&self, dir: &Dir) -> Result<bool> {
        self.0.file().metadata().map(|meta| meta.len() > 0).call_at("fstat", path(dir))
    }
}

fn path(dir: &Dir) -> PathBuf {
    dir.path().join(FILE)
}

/// Lets the container go on where a program that was killed had paused it so.
pub(super) fn settle(running: &Running) {
    if let Err(error) = settled(running) {
        let id = &running.dir.id;
        tracing::warn!(%error, id, "a killed program has paused it: Container::unpause lets it go on");
    }
}

fn settled(running: &Running) -> Result<()> {
    let dir = &*running.dir;
    if !dir.has(FILE) {
        return Ok(());
    }
    let left = Pausing(Lease::lock_file(dir.as_fd(), FILE)?);
    if !left.is_left(dir)? {
        return Ok(());
    }
    // Otherwise it is a living program's, or has ended just now.
    if left.0.try_lock().map_err(|error| error.with_path(path(dir)))? && left.is_left(dir)? {
        running.thaw()?;
        left.end()?;
    }
    Ok(())
}
