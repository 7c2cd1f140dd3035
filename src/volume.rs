//! Volumes: directories with a name that outlive containers.
//!
//! On disk a volume is `volumes/NAME/` with `data/` and `volume.json`. Containers lease the
//! directory while they have it mounted, and pin its name for as long as they exist.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::pins::{VOLUME as META, VOLUME_MAX as META_MAX};
use crate::store::sizes::{self, Closed};
use crate::store::{ANONYMOUS, Lease, Problem, Store, StorePart, Verification, clock, list, random_hex};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

const DATA: &str = "data";

/// A volume: a directory in the store that containers mount, and that stays when they go.
///
/// ```
/// use coracle::{Store, Volume};
/// let store = Store::temp()?;
/// let site = Volume::create(&store, "site")?;
/// std::fs::write(site.path().join("index.html"), "hello")?;
/// assert_eq!(Volume::open(&store, "site")?.size()?, 5);
/// site.remove()?;
/// assert!(store.volumes()?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Volume(Arc<Inner>);

struct Inner {
    store: Store,
    name: String,
    meta: Meta,
    data: OwnedFd,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Meta {
    created: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    anonymous: bool,
    /// The container that it was made for: it is swept when that has gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<String>,
}

/// What a new volume shall be like.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct VolumeBuilder {
    name: Option<String>,
    labels: BTreeMap<String, String>,
    container: Option<String>,
}

impl VolumeBuilder {
    /// Adds a label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Makes the volume, or opens the one that has this name already, as it is.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none; the errors of the file system.
    pub fn create(&self, store: &Store) -> Result<Volume> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => random_hex(ANONYMOUS)?,
        };
        check_name(&name)?;
        if let Some(volume) = Volume::find(store, &name)? {
            return Ok(volume);
        }
        let (lease, volume) = self.make(store, name)?;
        drop(lease);
        Ok(volume)
    }

    /// Makes it, or opens the one that somebody else has made at the same moment. With a lease, from the beginning on.
    fn make(&self, store: &Store, name: String) -> Result<(Lease, Volume)> {
        let meta = Meta {
            created: clock::rfc3339(SystemTime::now()),
            labels: self.labels.clone(),
            anonymous: self.name.is_none(),
            container: self.container.clone(),
        };
        let (lease, staged) = store.new_tmp_dir()?;
        let made = fill(&lease, &meta).and_then(|()| {
            match rustix::fs::renameat(store.tmp_dir(), &staged, store.volumes_dir(), &name) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
                other => other.map(|()| true).call_at("renameat", path(store, &name)),
            }
        });
        if !matches!(made, Ok(true)) {
            store.abandon(&staged);
            made?;
        }
        match Volume::open(store, &name) {
            // Nobody knows its name.
            Err(error) if self.name.is_none() => {
                store.discard_later(store.volumes_dir(), &name)?;
                Err(error)
            }
            other => Ok((lease, other?)),
        }
    }
}

fn fill(dir: &Lease, meta: &Meta) -> Result<()> {
    rustix::fs::mkdirat(dir, DATA, Mode::RWXU).call_at("mkdirat", DATA)?;
    // 0755 whatever the umask is: users of a container other than root pass through it.
    let data = open_data(dir.as_fd()).call_at("openat", DATA)?;
    rustix::fs::fchmod(&data, Mode::from_raw_mode(0o755)).call_at("fchmod", DATA)?;
    let text = serde_json::to_vec(meta)
        .map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, META, flags, Mode::RUSR | Mode::WUSR).call_at("openat", META)?;
    let mut file = File::from(file);
    file.write_all(&text).call_at("write", META)?;
    file.sync_data().call_at("fdatasync", META)
}

fn open_data(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(dir, DATA, crate::store::DIRECTORY, Mode::empty()) {
        // An ordinary user's container has given it to a user of its own: it can be mounted all the same.
        Err(Errno::ACCESS) => {
            let flags = crate::store::DIRECTORY | OFlags::PATH;
            rustix::fs::openat(dir, DATA, flags, Mode::empty())
        }
        other => other,
    }
}

fn path(store: &Store, name: &str) -> PathBuf {
    store.path().join("volumes").join(name)
}

/// Docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, and what a file name may have.
fn check_name(name: &str) -> Result<()> {
    let ok = name.len() <= 255
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if ok {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("volume name {name:?}"))
        .with_remedy("a name is a letter or digit, then letters, digits, '_', '.' and '-'; a host directory is a bind, not a volume"))
}

impl Volume {
    /// Makes a volume of this name, or opens the one that is there.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none; the errors of the file system.
    pub fn create(store: &Store, name: &str) -> Result<Self> {
        Self::builder(name).create(store)
    }

    /// For a volume with labels.
    pub fn builder(name: &str) -> VolumeBuilder {
        VolumeBuilder { name: Some(name.to_owned()), ..Default::default() }
    }

    /// A new volume with a generated name of 64 hex digits, as docker makes one for each VOLUME of an image.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn anonymous(store: &Store) -> Result<Self> {
        VolumeBuilder::default().create(store)
    }

    /// The same for one container, which it goes with, and a lease: it is to live until the container's record names it.
    pub(crate) fn anonymous_of(store: &Store, container: &str) -> Result<(Lease, Self)> {
        let builder = VolumeBuilder { container: Some(container.to_owned()), ..Default::default() };
        builder.make(store, random_hex(ANONYMOUS)?)
    }

    /// Opens the volume of this name.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidInput` for a name that is none.
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        check_name(name)?;
        Self::find(store, name)?.ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, "no such volume").with_path(path(store, name));
            error.with_remedy("Volume::create makes it; Store::volumes lists those that are there")
        })
    }

    fn find(store: &Store, name: &str) -> Result<Option<Self>> {
        let at = |file: &str| path(store, name).join(file);
        let dir = match rustix::fs::openat(store.volumes_dir(), name, crate::store::DIRECTORY, Mode::empty())
        {
            Err(Errno::NOENT) => return Ok(None),
            other => other.call_at("openat", path(store, name))?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&dir, META, flags, Mode::empty()) {
            // Being removed at this moment.
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other.call_at("openat", at(META))?),
        };
        let mut text = Vec::new();
        file.take(META_MAX).read_to_end(&mut text).call_at("read", at(META))?;
        let meta = serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::InvalidData, "metadata of a volume").with_path(at(META)).with_source(error)
        })?;
        let data = match open_data(dir.as_fd()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.call_at("openat", at(DATA))?,
        };
        Ok(Some(Self(Arc::new(Inner { store: store.clone(), name: name.to_owned(), meta, data }))))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the name was generated.
    pub fn is_anonymous(&self) -> bool {
        self.0.meta.anonymous
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.0.meta.labels
    }

    /// When it was made.
    pub fn created(&self) -> SystemTime {
        clock::parse_rfc3339(&self.0.meta.created).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The directory of its content on the host.
    pub fn path(&self) -> PathBuf {
        path(&self.0.store, &self.0.name).join(DATA)
    }

    /// How many bytes its files have, counted now; a file with several links counts once.
    ///
    /// # Errors
    /// `PermissionDenied` when an ordinary user's container made directories that this process can't read.
    pub fn size(&self) -> Result<u64> {
        let size = |stat: &Stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        };
        sizes::sum(self.data_dir(), Closed::IsAnError, size).map_err(|error| {
            let at = error.path().map(|below| self.path().join(below));
            error.with_path(at.unwrap_or_else(|| self.path()))
        })
    }

    /// Removes the volume and everything in it.
    ///
    /// # Errors
    /// `InUse` while a container has it, also one that is not running.
    pub fn remove(&self) -> Result<()> {
        let store = &self.0.store;
        let in_use = |by: String| {
            Error::new(ErrorKind::InUse, format!("volume {:?} is in use by {by}", self.name()))
                .with_path(self.path())
                .with_remedy("remove the container first")
        };
        let user = || -> Result<Option<String>> {
            let pins = store.pins()?;
            let mut users =
                pins.iter().filter(|(_, pins)| pins.volumes.iter().any(|name| name == self.name()));
            Ok(users.next().map(|(id, _)| format!("container {id}")))
        };
        // Before the lock, as that is waited for; and once more when nobody can come any more.
        if let Some(user) = user()? {
            return Err(in_use(user));
        }
        let lease = match Lease::exclusive_soon(store.volumes_dir(), self.name()) {
            Err(error) if error.kind() == ErrorKind::InUse => {
                return Err(in_use("a running container".into()));
            }
            other => other?,
        };
        let Some(_lease) = lease else {
            return Err(Error::new(ErrorKind::NotFound, "no such volume").with_path(self.path()));
        };
        if let Some(user) = user()? {
            return Err(in_use(user));
        }
        store.discard(store.volumes_dir(), self.name())
    }

    /// The directory of its content.
    pub(crate) fn data_dir(&self) -> BorrowedFd<'_> {
        self.0.data.as_fd()
    }

    /// Says that a container uses it: it is not removed while this lives.
    ///
    /// # Errors
    /// `NotFound` when it has been removed meanwhile.
    pub(crate) fn lease(&self) -> Result<Lease> {
        Lease::shared(self.0.store.volumes_dir(), self.name())?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such volume").with_path(self.path()))
    }

    /// Waits for its turn to copy into the volume: two first uses at once would both copy. Held around the question whether
    /// there is anything in it, and the copying.
    pub(crate) fn copy_lock(&self) -> Result<Lease> {
        Lease::exclusive_file(self.0.store.volumes_dir(), format!("{}/{META}", self.name()))
    }
}

/// Looks at what is known of each volume.
pub(crate) fn verify(store: &Store, found: &mut Verification) -> Result<()> {
    let mut readable = 0;
    let broken = store.each_volume(|_| readable += 1)?;
    found.volumes += readable + broken.len() as u64;
    found.problems.extend(broken);
    Ok(())
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Volume").field(&self.0.name).finish()
    }
}

impl Store {
    /// All volumes, by name. One that can't be read is in [`broken_volumes`](Self::broken_volumes) instead.
    ///
    /// # Errors
    /// Those of the file system for the store's own directories, and of a program that lacks memory or descriptors.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        self.each_volume(|volume| volumes.push(volume))?;
        volumes.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(volumes)
    }

    /// What should be a volume and can't be opened: what is known of it is damaged, or a part is missing.
    ///
    /// # Errors
    /// As [`volumes`](Self::volumes).
    pub fn broken_volumes(&self) -> Result<Vec<Problem>> {
        self.each_volume(drop)
    }

    /// Hands over those that can be read, and gives the others.
    fn each_volume(&self, mut readable: impl FnMut(Volume)) -> Result<Vec<Problem>> {
        const REMEDY: &str =
            "save its content, if it is needed, and remove the directory while no program uses it";
        let mut broken = Verification::default();
        for name in list(self.volumes_dir())? {
            let dir = self.path().join("volumes").join(&name);
            let volume = match name.to_str().filter(|name| check_name(name).is_ok()) {
                Some(name) => Volume::find(self, name),
                None => Err(Error::new(ErrorKind::InvalidData, "not the name of a volume")),
            };
            let error = match volume {
                Ok(Some(volume)) => {
                    readable(volume);
                    continue;
                }
                // Removed meanwhile.
                Ok(None) if dir.symlink_metadata().is_err() => continue,
                Ok(None) => {
                    let missing = [META, DATA].map(|name| dir.join(name));
                    let missing = missing.iter().find(|path| path.symlink_metadata().is_err());
                    Error::new(ErrorKind::NotFound, "a part of the volume is missing")
                        .with_path(missing.unwrap_or(&dir))
                }
                Err(error) => error,
            };
            broken.add(StorePart::Volume, error, &dir, REMEDY)?;
        }
        Ok(broken.problems)
    }

    /// Removes the anonymous volumes that no container has, or with `all` the named ones too, as
    /// `docker volume prune` does. Gives the names of what it removed.
    ///
    /// # Errors
    /// Those of the file system; what was removed until then is gone.
    pub fn prune_volumes(&self, all: bool) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for volume in self.volumes()?.iter().filter(|volume| all || volume.is_anonymous()) {
            match volume.remove() {
                Ok(()) => removed.push(volume.name().to_owned()),
                // Used, or somebody else prunes too.
                Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests;
