//! Stand-in.
#![forbid(unsafe_code)]
use crate::dockerfile::Ignore;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::Store;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) struct Context(pub(super) Option<PathBuf>);

impl Context {
    pub(crate) fn dir(_: &Store, path: &Path) -> Result<Self> {
        Ok(Self(Some(path.canonicalize().call_at("realpath", path)?)))
    }
    pub(crate) fn tar(_: &Store, _: impl Read + Send) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "tar"))
    }
    pub(crate) fn empty() -> Self {
        Self(None)
    }
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.0.clone().unwrap_or_default().join(name);
        std::fs::read(&path).call_at("read", path)
    }
    pub(crate) fn ignore_of(&self, _: &str) -> Result<Ignore> {
        Ok(Ignore::default())
    }
    pub(crate) fn ignoring(self, _: Ignore) -> Result<Self> {
        Ok(self)
    }
    pub(crate) fn save(&self) -> Result<()> {
        Ok(())
    }
}
