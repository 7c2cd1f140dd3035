//! What containers need to stay: the part of `containers/ID/container.json` that this room reads.
//!
//! A lease holds while a program lives; a container that is kept needs its image and its volumes
//! also while no program has it open. Whoever makes a container leases image and volumes, writes the
//! record, and only then may let go of the leases: removal takes the lease first and looks at the pins then.
#![forbid(unsafe_code)]

use super::tenants::Tenants;
use super::{Store, list};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// The record of a container; all but these fields is its own room's business.
pub(crate) const RECORD: &str = "container.json";
pub(crate) const RECORD_MAX: u64 = 64 << 20;

/// Where it runs, of one that does or that a killed program has left so; likewise.
pub(crate) const RUNNING: &str = "running.json";

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

#[derive(Deserialize)]
pub(super) struct Part {
    #[serde(default)]
    pub(super) pins: Pins,
    /// It goes with its program.
    #[serde(default)]
    pub(super) ephemeral: bool,
    /// Its project quota.
    #[serde(default)]
    pub(super) project: Option<u32>,
}

/// Where records are written: device and inode of `containers/`. In a copy of the store it is another, and the groups that the
/// records there name are the original's, which may be running.
pub(crate) type Seat = (u64, u64);

pub(super) fn seat_of(containers: BorrowedFd<'_>) -> Result<Seat> {
    let stat = rustix::fs::fstat(containers).call_at("fstat", "containers")?;
    Ok((stat.st_dev, stat.st_ino))
}

/// What the records of a container say of its control groups: their directories, and those in which its program may have made some
/// before it could write them down.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    seat: Option<Seat>,
    cgroups: Vec<PathBuf>,
    rooms: Vec<PathBuf>,
}

/// What was cut short, or is damaged, names none: after a power failure there are none any more.
fn groups_in(containers: BorrowedFd<'_>, id: &str, file: &str) -> Result<Option<Groups>> {
    let text = read(containers, Path::new(id).join(file)).map_err(|error| error.with_path(file))?;
    Ok(text.map(|text| serde_json::from_slice(&text).unwrap_or_default()))
}

/// The directories of the control groups that a container may have, below `containers/`. `None` of a copy of another container,
/// whose groups have its name.
pub(super) fn groups_of(containers: BorrowedFd<'_>, id: &str) -> Result<Option<Vec<PathBuf>>> {
    let here = seat_of(containers)?;
    let (running, record) = (groups_in(containers, id, RUNNING)?, groups_in(containers, id, RECORD)?);
    let said = running.as_ref().or(record.as_ref()).and_then(|groups| groups.seat);
    if said.is_some_and(|seat| seat != here) {
        return Ok(None);
    }
    let of_here =
        |groups: Option<Groups>| groups.filter(|groups| groups.seat == Some(here)).unwrap_or_default();
    let mut groups = of_here(running).cgroups;
    groups.extend(of_here(record).rooms.into_iter().map(|room| room.join(id)));
    Ok(Some(groups))
}

/// A file that may be missing.
fn read(dir: BorrowedFd<'_>, name: PathBuf) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, &name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => File::from(other.call_at("openat", &name)?),
    };
    let mut text = Vec::new();
    file.take(RECORD_MAX).read_to_end(&mut text).call_at("read", &name)?;
    Ok(Some(text))
}

/// What is known of a volume; all but this field is its own room's business.
pub(crate) const VOLUME: &str = "volume.json";
pub(crate) const VOLUME_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
pub(super) struct VolumePart {
    /// The container that it was made for, and goes with.
    #[serde(default)]
    pub(super) container: Option<String>,
}

impl Store {
    /// The pins of all containers, by container id.
    pub(crate) fn pins(&self) -> Result<Vec<(String, Pins)>> {
        self.tenants().pins()
    }
}

impl Tenants {
    pub(super) fn pins(&self) -> Result<Vec<(String, Pins)>> {
        let mut all = Vec::new();
        for id in list(self.containers.as_fd())? {
            let Some(id) = id.to_str() else { continue };
            if let Some(part) = self.container_part(id)? {
                all.push((id.to_owned(), part.pins));
            }
        }
        Ok(all)
    }

    /// `None` where there is no such container, or no record in it.
    pub(super) fn container_part(&self, id: &str) -> Result<Option<Part>> {
        let path = || self.path.join("containers").join(id).join(RECORD);
        let text = read(self.containers.as_fd(), Path::new(id).join(RECORD));
        let Some(text) = text.map_err(|error| error.with_path(path()))? else { return Ok(None) };
        if text.is_empty() {
            // The machine stopped before it was on the disk. One that is kept is synced, so its program had it alone.
            return Ok(Some(Part { pins: Pins::default(), ephemeral: true, project: None }));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(ErrorKind::InvalidData, "record of a container")
                .with_path(path())
                .with_source(error)
                .with_remedy("nothing is removed that it may need; remove the container's directory if it is not needed")
        })
    }

    /// What this room reads of `volumes/NAME/volume.json`; `None` where there is none.
    pub(super) fn volume_part(&self, name: &OsStr) -> Result<Option<VolumePart>> {
        let file = Path::new(name).join(VOLUME);
        let path = || self.path.join("volumes").join(&file);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(self.volumes.as_fd(), file.as_path(), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => File::from(other.call_at("openat", path())?),
        };
        let mut text = Vec::new();
        opened.take(VOLUME_MAX).read_to_end(&mut text).call_at("read", path())?;
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(ErrorKind::InvalidData, "metadata of a volume").with_path(path()).with_source(error)
        })
    }
}
