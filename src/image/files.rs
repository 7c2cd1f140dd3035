//! Files of an image without a container and without a mount: the layers are merged as the overlay would, by handle.
#![forbid(unsafe_code)]

use super::Image;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Below, Entry, EntryKind, Found, LayerFile, Lower, for_caller, join, root_dir};
use crate::sys::idmap::is_privileged;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What became of a file from one image to another, in docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// Only the other image has it.
    Added,
    /// Both have it, with another kind, content, mode, owner, target or extended attributes.
    Modified,
    /// The other image does not have it.
    Deleted,
}

/// One file that differs between two images; see [`Image::diff`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Absolute in the image.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
}

impl Image {
    /// Opens a regular file of the image for reading, as a container of it would see it at its start. Symbolic links are
    /// followed with the image as root, so they never lead to the host; no mount and no container is needed. Layers that
    /// are not unpacked yet are unpacked.
    ///
    /// ```
    /// use coracle::{Import, Store};
    /// use std::io::Read;
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// std::fs::write(dir.path().join("os-release"), "ID=boat\n").unwrap();
    /// let image = Import::new().path(&store, dir.path())?;
    /// let mut text = String::new();
    /// image.open("/os-release")?.read_to_string(&mut text).unwrap();
    /// assert_eq!(text, "ID=boat\n");
    /// assert_eq!(image.entries("/")?[0].path().to_str(), Some("os-release"));
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound` where there is nothing, or a link that leads nowhere or through more than 40 others; `InvalidInput` for a
    /// directory, a device or a FIFO, none of which is opened; `Unsupported` for the host image.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<LayerFile> {
        let path = path.as_ref();
        self.files(|below| match below.resolve(path.as_os_str().as_bytes())? {
            Some((at, Some(found))) => below.open_file(&at, &found).map(LayerFile::unpacked),
            Some((_, None)) => {
                Err(Error::new(ErrorKind::InvalidInput, "not a regular file but the root directory")
                    .with_path(path))
            }
            None => Err(missing(path)),
        })
    }

    /// What a directory of the image has in it, sorted by name, with the image's owners. Paths begin at the root without
    /// a slash, as in an archive. A file with several names is an [`EntryKind::File`] under each; devices are told of.
    ///
    /// # Errors
    /// `NotFound` where there is nothing, `InvalidInput` for what is no directory, `Unsupported` for the host image.
    pub fn entries(&self, dir: impl AsRef<Path>) -> Result<Vec<Entry>> {
        let dir = dir.as_ref();
        self.files(|below| {
            let Some((at, found)) = below.resolve(dir.as_os_str().as_bytes())? else {
                return Err(missing(dir));
            };
            if found.is_some_and(|found| found.kind() != Some(EntryKind::Directory)) {
                return Err(
                    Error::new(ErrorKind::InvalidInput, "not a directory of the image").with_path(dir)
                );
            }
            let mut entries = Vec::new();
            for name in below.names(&at)? {
                let path = join(&at, &name);
                if let Some(found) = below.find(&path)? {
                    entries.extend(below.entry(&path, &found)?);
                }
            }
            Ok(entries)
        })
    }

    /// What `other` has else than this image, sorted by path: a directory that was added or deleted is followed by all that
    /// is in it. Times are not compared, as two builds of the same files have different ones. What both have from the same
    /// layers is not read. The images may be of different stores.
    ///
    /// ```
    /// use coracle::{ChangeKind, Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let old = Import::new().path(&store, dir.path())?;
    /// std::fs::write(dir.path().join("motd"), "ahoy\n").unwrap();
    /// let new = Import::new().path(&store, dir.path())?;
    /// let changes = old.diff(&new)?;
    /// assert_eq!((changes[0].path.to_str(), changes[0].kind), (Some("/motd"), ChangeKind::Added));
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unsupported` for the host image; those of the file system, and of unpacking layers that are not unpacked yet.
    pub fn diff(&self, other: &Self) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        // Of a root directory that no archive has, docker and all make the same.
        let root = |image: &Self| -> Result<_> {
            let root = root_dir(&image.layer_dirs()?)?;
            Ok(root.map_or((0o755, 0, 0, Vec::new()), |root| (root.mode, root.uid, root.gid, root.xattrs)))
        };
        if !self.is_host() && !other.is_host() && root(self)? != root(other)? {
            changes.push(Change { path: "/".into(), kind: ChangeKind::Modified });
        }
        self.files(|old| other.files(|new| Comparison { old, new, changes: &mut changes }.all()))?;
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }

    /// Where a path leads in the image, its links followed, and what is there; `None` where there is nothing.
    #[cfg(feature = "build")]
    pub(crate) fn locate(&self, path: &Path) -> Result<Option<(PathBuf, EntryKind)>> {
        if self.0.manifest.layers().is_empty() {
            return Ok((path == Path::new("/")).then(|| (PathBuf::from("/"), EntryKind::Directory)));
        }
        self.files(|below| {
            Ok(below.resolve(path.as_os_str().as_bytes())?.and_then(|(at, found)| {
                let kind = found.map_or(Some(EntryKind::Directory), |found| found.kind())?;
                Some((Path::new("/").join(OsStr::from_bytes(&at)), kind))
            }))
        })
    }

    /// Does something with the merged layers.
    pub(super) fn files<T>(&self, work: impl FnOnce(&mut Below<'_>) -> Result<T>) -> Result<T> {
        if self.is_host() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the files of the host image are not read as an image's",
            )
            .with_remedy("read them on the host, or in a container of the image"));
        }
        let layers = self.layer_dirs()?;
        let owners = for_caller();
        let lowers = layers.iter().map(|layer| Lower::new(layer.dir(), || layer.meta())).collect();
        work(&mut Below::new(lowers, !is_privileged(), Some(&*owners)))
            .map_err(|error| error.during(format!("reading files of the image {}", self.id())))
    }
}

fn missing(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, "no such file in the image").with_path(path)
}

struct Comparison<'a, 'b, 'c> {
    old: &'a mut Below<'b>,
    new: &'a mut Below<'c>,
    changes: &'a mut Vec<Change>,
}

impl Comparison<'_, '_, '_> {
    fn all(&mut self) -> Result<()> {
        // Directories that differ, or may.
        let mut todo = vec![Vec::new()];
        while let Some(dir) = todo.pop() {
            if self.is_same_directory(&dir)? {
                continue;
            }
            let names: BTreeSet<_> = self.old.names(&dir)?.into_iter().chain(self.new.names(&dir)?).collect();
            for name in names {
                let path = join(&dir, &name);
                let (old, new) = (self.old.find(&path)?, self.new.find(&path)?);
                let kind = match (&old, &new) {
                    (None, None) => continue,
                    (None, Some(_)) => Some(ChangeKind::Added),
                    (Some(_), None) => Some(ChangeKind::Deleted),
                    (Some(old), Some(new)) => {
                        (!self.is_same(&path, old, new)?).then_some(ChangeKind::Modified)
                    }
                };
                if let Some(kind) = kind {
                    let shown = [b"/", &path[..]].concat();
                    self.changes.push(Change { path: OsStr::from_bytes(&shown).into(), kind });
                }
                let is_dir = |found: &Found| found.kind() == Some(EntryKind::Directory);
                if old.as_ref().is_some_and(is_dir) || new.as_ref().is_some_and(is_dir) {
                    todo.push(path);
                }
            }
        }
        Ok(())
    }

    /// Whether it is made up of the same directories of the same layers; then all below it is the same too.
    fn is_same_directory(&mut self, path: &[u8]) -> Result<bool> {
        let (old, new) = (self.old.directory(path)?, self.new.directory(path)?);
        if old.len() != new.len() {
            return Ok(false);
        }
        for ((_, old), (_, new)) in old.iter().zip(new.iter()) {
            let stat = |dir| rustix::fs::fstat(dir).call_at("fstat", OsStr::from_bytes(path));
            let (old, new) = (stat(old)?, stat(new)?);
            if (old.st_dev, old.st_ino) != (new.st_dev, new.st_ino) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_same(&self, path: &[u8], old: &Found, new: &Found) -> Result<bool> {
        if let (Found::File(_, _, old), Found::File(_, _, new)) = (old, new)
            && (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino)
        {
            return Ok(true);
        }
        let (Some(mut first), Some(second)) = (self.old.entry(path, old)?, self.new.entry(path, new)?) else {
            return Ok(old.kind() == new.kind());
        };
        first.mtime = second.mtime;
        if first != second {
            return Ok(false);
        }
        if first.kind != EntryKind::File {
            return Ok(true);
        }
        let (old, new) = (self.old.open_file(path, old)?, self.new.open_file(path, new)?);
        have_same_bytes(old, new).call_at("read", OsStr::from_bytes(path))
    }
}

fn have_same_bytes(mut old: File, mut new: File) -> std::io::Result<bool> {
    let (mut first, mut second) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    loop {
        let n = match old.read(&mut first) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if n == 0 {
            return Ok(new.read(&mut second[..1])? == 0);
        }
        match new.read_exact(&mut second[..n]) {
            Ok(()) if first[..n] == second[..n] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
