//! What a container has changed of its image, as `docker diff` says it.
#![forbid(unsafe_code)]

use super::Container;
use super::written::Pause;
use crate::error::Result;
use crate::image::{Change, ChangeKind};
use crate::layer::Became;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

impl Container {
    /// What the container has changed of its image, sorted by path, in docker's words: a directory that was deleted comes
    /// alone, one that was added with all that is in it, and one in which something has changed is
    /// [`Modified`](ChangeKind::Modified) too. The root directory is not told of. A file counts as modified by its kind, mode,
    /// owner, size, time or capability, a directory by its mode and owner; nothing is read.
    ///
    /// What is mounted into it is none of its own: nothing of volumes and binds, of `/proc`, `/sys` and `/dev`, nor of the files
    /// of `/etc` that this library makes, nor the empty places that it made to mount on (docker shows the latter).
    ///
    /// It may run, and is not paused. What changes meanwhile is told of as it was or as it became.
    ///
    /// ```
    /// use coracle::{ChangeKind, Container, Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let image = Import::new().cmd(["/bin/true"]).path(&store, dir.path())?;
    /// let container = Container::builder(&image).file("/etc/motd", "ahoy\n").create()?;
    /// assert!(container.diff()?.is_empty()); // the file is written when it starts
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unsupported` for a container of the host image, and where it has a file of an owner whom it does not know itself;
    /// `State` for one whose writable layer was in memory and that has ended; `TooLarge` for a path that is longer than 4095
    /// bytes or deeper than 512 directories; those of the file system.
    pub fn diff(&self) -> Result<Vec<Change>> {
        let written = self.written(Pause::No)?;
        let changes =
            written.difference()?.changes().map_err(|error| error.during("reading a container's changes"))?;
        let change = |(path, became): (Vec<u8>, Became)| Change {
            path: OsStr::from_bytes(&[b"/", &path[..]].concat()).into(),
            kind: match became {
                Became::Added => ChangeKind::Added,
                Became::Modified => ChangeKind::Modified,
                Became::Deleted => ChangeKind::Deleted,
            },
        };
        let mut changes: Vec<_> = changes.into_iter().map(change).collect();
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }
}
