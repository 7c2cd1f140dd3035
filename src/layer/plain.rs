//! Layers that are written entry by entry: plain archives, as what a build makes is compressed when it is pushed.
#![forbid(unsafe_code)]

use super::Layer;
use super::archive::Writer;
use super::build::write;
use super::compression::Compression;
use super::flow::Chunks;
use crate::error::Result;
use crate::store::Store;

impl Layer {
    /// A plain layer of what `fill` writes. The same entries in the same order are the same layer.
    pub(crate) fn plain(store: &Store, fill: impl FnOnce(&mut Writer<Chunks>) -> Result<()>) -> Result<Self> {
        let _writing = store.writing()?;
        let made = write(store, Compression::None, |output| {
            let mut archive = Writer::new(output);
            fill(&mut archive)?;
            archive.finish()
        })?;
        Self::new(store, made.digest, made.size, made.diff_id, Compression::None, Vec::new())
    }
}
