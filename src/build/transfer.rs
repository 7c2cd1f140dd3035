//! Stand-in.
#![forbid(unsafe_code)]
use super::context::Context;
use crate::digest::Digest;
use crate::dockerfile::{Add, Copy, Source};
use crate::error::{Call, Result};
use crate::image::Image;
use crate::layer::{Compression, Layer};
use crate::store::Store;
use std::time::SystemTime;

#[derive(Clone, Copy)]
pub(crate) enum From<'a> {
    Context(&'a Context),
    Image(&'a Image),
}
pub(crate) struct Transfer(Vec<Source>, String, String);
impl Transfer {
    pub(crate) fn copy(copy: &Copy, workdir: &str) -> Self {
        Self(copy.sources.clone(), copy.destination.clone(), workdir.into())
    }
    pub(crate) fn add(add: &Add, workdir: &str) -> Self {
        Self(add.sources.clone(), add.destination.clone(), workdir.into())
    }
    pub(crate) fn times(self, _: Option<SystemTime>) -> Self {
        self
    }
    pub(crate) fn digest(&self, store: &Store, from: From<'_>) -> Result<Digest> {
        Ok(self.layer(store, from, None)?.digest())
    }
    pub(crate) fn layer(&self, store: &Store, from: From<'_>, _: Option<&Image>) -> Result<Layer> {
        let mut builder = Layer::builder().compression(Compression::None);
        for source in &self.0 {
            let Source::Path(path) = source else { continue };
            let bytes = match from {
                From::Context(context) => context.read(path)?,
                From::Image(image) => {
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut image.open(path)?, &mut bytes).call("read")?;
                    bytes
                }
            };
            let name = path.rsplit('/').next().unwrap_or_default();
            let to = std::path::Path::new(&self.2).join(&self.1);
            let to = if self.1.ends_with('/') || self.1 == "." { to.join(name) } else { to };
            builder = builder.file(to.strip_prefix("/").unwrap_or(&to), bytes);
        }
        builder.build(store)
    }
}
