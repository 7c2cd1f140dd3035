//! An image's root filesystem as one archive.
#![forbid(unsafe_code)]

use super::Image;
use crate::error::Result;
use crate::layer::Flattened;
use std::collections::BTreeSet;
use std::io::Write;

impl Image {
    /// Writes the image's root filesystem as one plain tar archive: its layers as a container of it would see them, with the
    /// image's owners, hard links, extended attributes and devices. The same image is the same archive. Layers that are not
    /// unpacked yet are unpacked. [`Import`](super::Import) reads it again.
    ///
    /// ```
    /// use coracle::{Image, Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// std::fs::write(dir.path().join("motd"), "ahoy\n").unwrap();
    /// let image = Import::new().path(&store, dir.path())?;
    /// let mut archive = Vec::new();
    /// image.export(&mut archive)?;
    /// assert_eq!(Import::new().reader(&store, &archive[..])?.entries("/")?.len(), 1);
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unsupported` for the host image; those of the file system and of the writer, and of unpacking layers that are not
    /// unpacked yet.
    pub fn export(&self, writer: impl Write) -> Result<()> {
        self.files(|below| {
            let mut archive = Flattened::new(writer, below.told_root(usize::MAX)?)?;
            archive.layers(below, &BTreeSet::new(), false)?;
            archive.finish().map(drop)
        })
    }
}
