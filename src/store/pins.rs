//! What containers need to stay: `containers/ID/pins.json`.
//!
//! A lease holds while a program lives; a container that is kept needs its image and its volumes
//! also while no program has it open. Whoever makes a container leases image and volumes, writes the
//! pins, and only then may let go of the leases: removal takes the lease first and looks at the pins then.
#![forbid(unsafe_code)]

use super::{Store, list};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

const PINS: &str = "pins.json";

/// What one container needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pins {
    /// The manifest of its image; none for the host's own root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Digest>,
    /// The names of its volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<String>,
}

impl Pins {
    /// Writes them into a container's directory.
    pub(crate) fn write(&self, container: BorrowedFd<'_>) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(container, PINS, flags, Mode::RUSR | Mode::WUSR).call_at("openat", PINS)?;
        File::from(file).write_all(&text).call_at("write", PINS)
    }
}

impl Store {
    /// The pins of all containers, by container id.
    pub(crate) fn pins(&self) -> Result<Vec<(String, Pins)>> {
        let mut all = Vec::new();
        for id in list(self.containers_dir())? {
            let Some(id) = id.to_str() else { continue };
            let path = || self.path().join("containers").join(id).join(PINS);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file =
                match rustix::fs::openat(self.containers_dir(), format!("{id}/{PINS}"), flags, Mode::empty())
                {
                    Err(Errno::NOENT | Errno::NOTDIR) => continue,
                    other => File::from(other.call_at("openat", path())?),
                };
            let mut text = Vec::new();
            file.take(1 << 20).read_to_end(&mut text).call_at("read", path())?;
            let pins = serde_json::from_slice(&text).map_err(|error| {
                Error::new(ErrorKind::InvalidData, "pins of a container").with_path(path()).with_source(error)
            })?;
            all.push((id.to_owned(), pins));
        }
        Ok(all)
    }
}
