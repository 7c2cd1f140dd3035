//! Layers that the store has as plain archives, compressed on their way out; and the manifest that names them so.
//!
//! What comes of it is in a file without a name, which the kernel frees: the store does not keep it.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Compression, pack};
use crate::manifest::{Descriptor, Manifest, media};
use crate::store::{Room, Store};
use rustix::fs::AtFlags;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};

/// The type that a plain layer has when it is compressed; `None` for what is no plain layer.
pub(super) fn packed_type(media_type: &str, compression: Compression) -> Option<String> {
    let (gzip, zstd) = match media_type {
        media::LAYER => ("+gzip", "+zstd"),
        media::DOCKER_LAYER => (".gzip", ".zstd"),
        _ => return None,
    };
    match compression {
        Compression::None => None,
        Compression::Gzip => Some(format!("{media_type}{gzip}")),
        Compression::Zstd => Some(format!("{media_type}{zstd}")),
    }
}

/// Compresses a blob of the store, verified on the way, and gives what came of it, to be read. `seen` may end it.
pub(super) fn packed(
    store: &Store,
    layer: &Descriptor,
    media_type: &str,
    compression: Compression,
    seen: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<(Descriptor, File)> {
    let (lease, name) = store.new_tmp_file()?;
    rustix::fs::unlinkat(store.tmp_dir(), &name, AtFlags::empty()).call_at("unlinkat", &name)?;
    let output = Output { file: lease.into_file()?, room: Room::default(), hasher: Sha256::new(), size: 0 };
    let mut plain = Plain { file: store.open_blob(&layer.digest)?, hasher: Sha256::new(), size: 0, seen };
    let output = pack(&mut plain, output, compression)?;
    let found = Digest::finish(plain.hasher);
    if found != layer.digest {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("blob {}: its content has digest {found}", layer.digest),
        )
        .with_path(store.blob_path(&layer.digest))
        .with_remedy(Store::HEAL));
    }
    Ok((Descriptor::new(media_type, Digest::finish(output.hasher), output.size), output.file))
}

struct Plain<'a> {
    file: File,
    hasher: Sha256,
    size: u64,
    seen: &'a (dyn Fn(u64) -> Result<()> + Sync),
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.size += n as u64;
        if n > 0 {
            (self.seen)(self.size)?;
        }
        Ok(n)
    }
}

struct Output {
    file: File,
    room: Room,
    hasher: Sha256,
    size: u64,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.room.take(&self.file, n as u64)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The manifest with other blobs for some of its layers; all else that it says stays.
pub(super) fn rewritten(manifest: &Manifest, packed: &[(Digest, Descriptor)]) -> Result<Manifest> {
    let bad = |error| Error::new(ErrorKind::InvalidData, "image manifest").with_source(error);
    let mut value: Value = serde_json::from_slice(manifest.raw()).map_err(bad)?;
    for layer in value["layers"].as_array_mut().into_iter().flatten() {
        let digest = layer["digest"].as_str().unwrap_or_default().to_owned();
        if let Some((_, new)) = packed.iter().find(|(old, _)| old.to_string() == digest) {
            layer["mediaType"] = json!(new.media_type);
            layer["digest"] = json!(new.digest);
            layer["size"] = json!(new.size);
        }
    }
    Manifest::parse(serde_json::to_vec(&value).map_err(bad)?)
}
