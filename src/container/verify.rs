//! Whether a store is sound: what each room says of its part.
#![forbid(unsafe_code)]

use super::ids;
use super::record::{Dir, Names, Record, UPPER};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Store, StorePart, Verification};
use rustix::fs::{AtFlags, statat};
use std::collections::BTreeMap;

pub(super) const REMEDY: &str =
    "remove the container's directory while no program uses it, if its content is not needed";

pub(super) fn no_id() -> Error {
    Error::new(ErrorKind::InvalidData, "not the id of a container")
}

pub(super) fn no_record() -> Error {
    Error::new(ErrorKind::NotFound, "a container without a record")
}

impl Store {
    /// Looks at everything in the store: hashes every blob, follows every reference from names and containers to
    /// manifests, configurations and layers, and reads what is known of every unpacked layer, container and volume.
    /// Nothing is changed.
    ///
    /// It reads all blobs once, so it takes as long as the disk does. Others may use the store meanwhile; garbage
    /// is not collected until it ends. The files in unpacked layers and volumes are not compared with anything.
    ///
    /// ```
    /// use coracle::{Layer, Store};
    /// let store = Store::temp()?;
    /// let layer = Layer::builder().file("etc/motd", "ahoy\n").build(&store)?;
    /// let verified = store.verify()?;
    /// assert_eq!((verified.blobs, verified.is_sound()), (1, true));
    ///
    /// std::fs::write(store.path().join("blobs/sha256").join(layer.digest().hex()), "other").unwrap();
    /// let verified = store.verify()?;
    /// println!("{} help: {}", verified.problems[0].path().display(), verified.problems[0].remedy());
    /// assert!(!verified.is_sound());
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the file system for the store's own directories, and of a program that lacks memory or descriptors; all
    /// else is a [`Problem`](crate::Problem).
    pub fn verify(&self) -> Result<Verification> {
        let _writing = self.writing()?;
        let mut found = Verification::default();
        self.verify_images(&mut found)?;
        crate::layer::verify(self, &mut found)?;
        crate::volume::verify(self, &mut found)?;
        containers(self, &mut found)?;
        Ok(found)
    }
}

fn containers(store: &Store, found: &mut Verification) -> Result<()> {
    let mut names = BTreeMap::new();
    for id in crate::store::list(store.containers_dir())? {
        let path = store.path().join("containers").join(&id);
        let record = match id.to_str() {
            Some(id) => Dir::open(store, id).and_then(|dir| match dir {
                None => Ok(None),
                Some(dir) => Ok(dir.record()?.map(|record| (dir, record))),
            }),
            None => Err(no_id()),
        };
        match record {
            Ok(Some((dir, record))) => {
                found.containers += 1;
                for error in check(store, &dir, &record)? {
                    found.add(StorePart::Container, error, &path, REMEDY)?;
                }
                names.insert(record.id, record.name);
            }
            // Removed meanwhile.
            Ok(None) if path.symlink_metadata().is_err() => {}
            Ok(None) => {
                found.containers += 1;
                found.add(StorePart::Container, no_record(), &path, REMEDY)?;
            }
            Err(error) => {
                found.containers += 1;
                found.add(StorePart::Container, error, &path, REMEDY)?;
            }
        }
    }
    for name in Names::all(store)? {
        let path = store.path().join(Names::path(&name));
        let id = match name.to_str() {
            Some(name) => Names::get(store, name),
            None => Err(Error::new(ErrorKind::InvalidData, "not the name of a container")),
        };
        let error = match id.map(|id| id.and_then(|id| names.get(&id))) {
            Ok(Some(own)) if name != **own => {
                let what = format!("the name {name:?} of a container that is called {own:?}");
                Error::new(ErrorKind::InvalidData, what)
            }
            // One whose container is gone is that of a program that was killed, and free.
            Ok(_) => continue,
            Err(error) => error,
        };
        found.add(StorePart::Container, error, path, "remove it")?;
    }
    Ok(())
}

/// What is wrong with one container.
fn check(store: &Store, dir: &Dir, record: &Record) -> Result<Vec<Error>> {
    let mut wrong = Vec::new();
    let at = |name: &str| dir.path().join(name);
    if record.id != dir.id {
        let what = format!("the record of container {}", record.id);
        wrong.push(Error::new(ErrorKind::InvalidData, what).with_path(at("container.json")));
    }
    if record.base != 0 && !ids::is_range(record.base) {
        let what = format!("no range of user ids begins at {}", record.base);
        wrong.push(Error::new(ErrorKind::InvalidData, what).with_path(at("container.json")));
    }
    // What else an overlay wants is made anew by each start.
    if !record.spec.in_memory {
        match dir.open_dir(UPPER) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let what = "the container's writable layer is missing";
                wrong.push(Error::new(ErrorKind::NotFound, what).with_path(at(UPPER)));
            }
            Err(error) => wrong.push(error),
        }
    }
    if let Err(error) = dir.running() {
        wrong.push(error.with_remedy("remove the file when no program has started the container"));
    }
    for volume in &record.pins.volumes {
        if statat(store.volumes_dir(), volume, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            let what = format!("volume {volume:?} of container {}", record.id);
            wrong.push(
                Error::new(ErrorKind::NotFound, what)
                    .with_path(store.path().join("volumes").join(volume))
                    .with_remedy("make a volume of this name, or remove the container"),
            );
        }
    }
    // Removed meanwhile, in the midst of this.
    let gone = dir.record()?.is_none();
    Ok(if gone { Vec::new() } else { wrong })
}
