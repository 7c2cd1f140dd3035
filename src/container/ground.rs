//! What a container's root filesystem is made of: layers, a writable layer on them, mounts, the files of /etc.
#![forbid(unsafe_code)]

use super::given::Given;
use super::record::{Dir, Record, UPPER, WORK};
use super::rootfs::{Base, Planned, Source};
use super::settings::hostname;
use super::spec::MountKind;
use super::{Held, Inner, accounts, host_root};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::{Image, Source as ImageSource};
use crate::layer::{RootDir, root_dir};
use crate::store::{Store, UnpackedLayer};
use crate::sys::idmap::{Extent, IdMap};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What the container's root stands on.
pub(super) struct Ground {
    /// Nobody removes them as long as this is there.
    pub layers: Vec<UnpackedLayer>,
    pub base: Base,
    /// An overlay has been mounted with this writable layer before.
    pub was_mounted: bool,
}

impl Ground {
    /// As the image, and what an earlier run has left, have it. `map` is the warden's, where it is in a user namespace.
    pub fn prepare(inner: &Inner, held: &Held, image: &Image, map: Option<&IdMap>) -> Result<Self> {
        let (record, dir) = (&held.record, &held.dir);
        let in_memory = record.spec.in_memory;
        let owner = held.range.is_some().then_some((record.base, record.base));
        let layers = image.layer_dirs()?;
        // An overlay that was mounted once has left a directory; what a run made of the root directory itself then stays.
        let was_mounted = !in_memory && dir.has("work/work");
        if was_mounted {
            // An overlay wants its own, and empty.
            inner.store.remove_tree(dir.as_fd(), WORK)?;
        }
        // Also after a start that came to an end in between.
        if !in_memory && !dir.has(WORK) {
            dir.mkdir(WORK, 0o700, owner)?;
        }
        let is_new = in_memory || !was_mounted && record.exited.is_none();
        let base = match image.source() {
            ImageSource::Host { exposed } => {
                host_root::prepare(&inner.store, dir, exposed, owner, in_memory)?
            }
            ImageSource::Layers => {
                let root_dir = if is_new { root_dir(&layers)? } else { None };
                let root_dir = root_dir.map(|dir| in_container(dir, map));
                let mut layers: Vec<PathBuf> = layers.iter().map(|layer| layer.fs_path()).collect();
                layers.push(inner.store.mountpoints()?);
                Base { root_dir, layers, parts: Vec::new() }
            }
        };
        Ok(Self { layers, base, was_mounted })
    }

    /// What a file of the root has, such as /etc/passwd; nothing where it is not there.
    pub fn read(&self, dir: &Dir, image: &Image, path: &str) -> Result<String> {
        match image.is_host() {
            true => accounts::in_mounted(host_root::open_root()?.as_fd(), path),
            false => accounts::in_layers(dir.open_dir(UPPER)?.as_ref(), &self.layers, path),
        }
    }
}

/// With the owner as the container names it; nobody where it has none.
fn in_container(dir: RootDir, map: Option<&IdMap>) -> RootDir {
    let id = |extents: Option<&[Extent]>, id| match extents {
        Some(extents) => crate::sys::owners::inside(extents, id),
        None if id < super::ids::COUNT => id,
        None => 65534,
    };
    let uid = id(map.map(|map| &*map.users), dir.uid);
    let gid = id(map.map(|map| &*map.groups), dir.gid);
    RootDir { uid, gid, ..dir }
}

/// The files of /etc, but for those that the caller mounts or writes.
pub(super) fn etc(record: &Record, mounts: &[Planned]) -> Result<Vec<(&'static str, String)>> {
    let mut files = host_root::etc_files(record, hostname(record))?;
    files.retain(|(name, _)| {
        let path = Path::new("/etc").join(name);
        mounts.iter().all(|planned| planned.target != path)
            && record.spec.files.iter().all(|file| file.path != path)
    });
    Ok(files)
}

/// The mounts of the specification, in the order of their depth.
pub(super) fn planned_mounts(store: &Store, record: &Record, given: &Given) -> Result<Vec<Planned>> {
    let mut all = given.planned()?;
    let mut volume_names = record.pins.volumes.iter();
    for mount in record.spec.mounts.iter().filter(|mount| mount.shm_size().is_none()) {
        let (source, is_dir) = match &mount.kind {
            MountKind::Tmpfs { size, inodes, mode, exec } => {
                (Source::Tmpfs { size: *size, inodes: *inodes, mode: *mode, exec: *exec }, true)
            }
            MountKind::Bind { source } => match given.held(&mount.target, source) {
                Some(held) => (held, true),
                None => {
                    let path = source
                        .canonicalize()
                        .call_at("realpath", source)
                        .map_err(|error| error.with_remedy("the source of a bind mount must exist"))?;
                    let is_dir = path.metadata().call_at("stat", &path)?.is_dir();
                    (Source::Path { path, recursive: is_dir, suid: false, id: None }, is_dir)
                }
            },
            MountKind::Volume { .. } => {
                let name = volume_names
                    .next()
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, "a volume of the record"))?;
                let volume = crate::volume::Volume::open(store, name)?;
                (Source::Path { path: volume.path(), recursive: false, suid: false, id: None }, true)
            }
        };
        all.push(Planned { target: mount.target.clone(), is_dir, source, read_only: mount.read_only });
    }
    all.sort_by_key(|planned| planned.target.components().count());
    Ok(all)
}
