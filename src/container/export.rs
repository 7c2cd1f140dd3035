//! A container's root filesystem as one archive.
#![forbid(unsafe_code)]

use super::Container;
use super::written::Pause;
use crate::error::Result;
use std::io::Write;
use std::path::PathBuf;

impl Container {
    /// Writes the container's root filesystem as one plain tar archive, as `docker export` does: the image with what the
    /// container has changed, with the image's owners. Nothing of what is mounted into it is in there: where something is mounted,
    /// the archive has what the image has.
    ///
    /// It may run, and is not paused: [`pause`](Self::pause) it before where that matters. Gives what was left out, below its root,
    /// and why: an archive has no sockets.
    ///
    /// ```no_run
    /// use coracle::Store;
    /// let container = Store::open_default()?.container("web")?;
    /// container.export(std::fs::File::create("web.tar").unwrap())?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`diff`](Self::diff), `InUse` where a file was cut short while it was read, and those of the writer.
    pub fn export(&self, writer: impl Write) -> Result<Vec<(PathBuf, String)>> {
        let written = self.written(Pause::No)?;
        written.flatten(writer).map_err(|error| error.during("exporting a container"))
    }
}
