//! A container's volumes: named ones made at the first use, and its own anonymous ones.
#![forbid(unsafe_code)]

use super::ids;
use super::record::Record;
use super::settings::has_nul;
use super::spec::MountKind;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::store::{Lease, Store};
use crate::sys::idmap::IdMap;
use crate::volume::Volume;
use std::path::{Component, Path, PathBuf};

/// Finds or makes the volumes of a new container: those of its mounts, in their order, then one for each VOLUME of
/// the image that no mount covers, unless it is to have its `own_only`. The record names them. Nobody may remove them before it is in the store: that say
/// the leases.
pub(super) fn attach(
    store: &Store,
    image: &Image,
    record: &mut Record,
    own_only: bool,
) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for mount in &mut record.spec.mounts {
        if let MountKind::Volume { name, anonymous } = &mut mount.kind {
            let (lease, volume) = if *anonymous {
                Volume::anonymous_of(store, &record.id)?
            } else {
                let volume = Volume::create(store, name)?;
                (volume.lease()?, volume)
            };
            if *anonymous {
                *name = volume.name().to_owned();
            }
            leases.push(lease);
            record.pins.volumes.push(volume.name().to_owned());
            super::volume_copy::first_use(image, &volume, &mount.target)?;
        }
    }
    for volume in image.config().volumes().filter(|_| !own_only) {
        let target = target_of(volume)?;
        if record.spec.mounts.iter().all(|mount| mount.target != target) {
            let (lease, volume) = Volume::anonymous_of(store, &record.id)?;
            leases.push(lease);
            record.spec.mounts.push(super::Mount {
                kind: MountKind::Volume { name: volume.name().to_owned(), anonymous: true },
                target: target.clone(),
                read_only: false,
            });
            record.pins.volumes.push(volume.name().to_owned());
            super::volume_copy::first_use(image, &volume, &target)?;
        }
    }
    Ok(leases)
}

/// Where a VOLUME is, as docker takes it: from the root, and no further up. An image may say anything.
fn target_of(volume: &str) -> Result<PathBuf> {
    let mut target = PathBuf::from("/");
    for part in Path::new(volume).components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::ParentDir => _ = target.pop(),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    if target.parent().is_some() && !has_nul(target.as_os_str()) {
        return Ok(target);
    }
    let what = format!("the image's VOLUME {volume:?}: no place for a mount");
    Err(Error::new(ErrorKind::InvalidInput, what)
        .with_path(target)
        .with_remedy("make an image without it (Image::without_volume), and the container of that one"))
}

/// Nobody may remove them while the container starts. With an ordinary user's map their files have to be whose they were.
pub(super) fn leases(store: &Store, record: &Record, map: Option<&IdMap>) -> Result<Vec<Lease>> {
    let lease = |name: &String| {
        let volume = Volume::open(store, name)?;
        let lease = volume.lease()?;
        if let Some(map) = map {
            let path = volume.path();
            ids::claim_volume(&lease, path.parent().unwrap_or(&path), map)?;
        }
        Ok(lease)
    };
    record.pins.volumes.iter().map(lease).collect()
}

/// What was made for this container alone goes with it.
pub(super) fn remove_anonymous(store: &Store, record: &Record) -> Result<()> {
    let mut result = Ok(());
    for mount in &record.spec.mounts {
        // Without a name it was not made.
        if let MountKind::Volume { name, anonymous: true } = &mount.kind
            && !name.is_empty()
        {
            let removed = Volume::open(store, name).and_then(|volume| volume.remove());
            let removed = removed.or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                // Without descriptors, as a rule: nobody can look who else needs it. Where that is nobody, it goes later.
                _ => {
                    store.remove_orphan_later(name);
                    Err(error)
                }
            });
            // The first error is told; the others are tried all the same.
            result = result.and(removed);
        }
    }
    result
}
