//! `oci-layout` and `index.json`.
#![forbid(unsafe_code)]

use super::{LAYOUT, Lease, Store};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};

pub(super) const INDEX: &str = "index.json";
const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

impl Store {
    pub(super) fn init_layout(&self) -> Result<()> {
        let _lock = self.lock_index()?;
        match self.read_root_file(LAYOUT, 4096)? {
            None => self.write_root_file(LAYOUT, VERSION.as_bytes())?,
            Some(text) => {
                let version = serde_json::from_slice::<serde_json::Value>(&text)
                    .ok()
                    .and_then(|layout| layout["imageLayoutVersion"].as_str().map(str::to_owned));
                if version.as_deref().is_none_or(|version| !version.starts_with("1.")) {
                    return Err(Error::new(ErrorKind::Unsupported, "image layout of another version than 1")
                        .with_path(self.path().join(LAYOUT)));
                }
            }
        }
        if self.read_root_file(INDEX, 1)?.is_none() {
            self.write_root_file(INDEX, EMPTY_INDEX.as_bytes())?;
        }
        Ok(())
    }

    fn lock_index(&self) -> Result<Lease> {
        Lease::exclusive_file(self.locks_dir(), "index").map_err(|error| error.during("locking the index"))
    }

    /// At most `max` bytes of a file at the top of the store.
    fn read_root_file(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = || self.path().join(name);
        let file = match rustix::fs::openat(self.dir(), name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other.call_at("openat", path())?),
        };
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes).call_at("read", path())?;
        Ok(Some(bytes))
    }

    /// Replaces a file at the top of the store, in one step.
    fn write_root_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (mut lease, temporary) = Lease::new_file(self.tmp_dir())?;
        lease.file_mut().write_all(bytes).call_at("write", self.path().join(name))?;
        // Everything that the new text names has to be on the disk before it.
        self.sync()?;
        rustix::fs::renameat(self.tmp_dir(), &temporary, self.dir(), name)
            .call_at("renameat", self.path().join(name))
    }
}
