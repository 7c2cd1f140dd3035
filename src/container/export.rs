//! A container's root filesystem as one archive.
#![forbid(unsafe_code)]

use super::Container;
use super::written::Pause;
use crate::error::Result;
use std::io::Write;

impl Container {
    /// Writes the container's root filesystem as one plain tar archive, as `docker export` does: the image with what the
    /// container has changed, with the image's owners. Nothing of what is mounted into it is in there: where something is mounted,
    /// the archive has what the image has.
    ///
    /// It may run, and is not paused: [`pause`](Self::pause) it before where that matters. Sockets are left out, each with a line
    /// of `tracing`.
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
    pub fn export(&self, writer: impl Write) -> Result<()> {
        let written = self.written(Pause::No)?;
        let left_out = written.flatten(writer).map_err(|error| error.during("exporting a container"))?;
        for (path, why) in left_out {
            tracing::warn!(?path, why, "left out of the archive");
        }
        Ok(())
    }
}
