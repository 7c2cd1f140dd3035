//! What is pushed of an image: its blobs, and the documents that name them.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, NESTING};
use crate::manifest::{DOCUMENT_MAX, Descriptor, Document, Manifest, media};
use crate::store::Store;

#[derive(Default)]
pub(super) struct Plan {
    /// Each once, lowest first.
    pub(super) layers: Vec<Descriptor>,
    pub(super) configs: Vec<Descriptor>,
    /// What an index names before it; the last is the image's.
    pub(super) documents: Vec<(Descriptor, Vec<u8>)>,
    /// The index whose place a manifest has.
    pub(super) in_place_of: Option<Digest>,
}

impl Plan {
    pub(super) fn of(image: &Image) -> Result<Self> {
        let (store, listed, manifest) = (image.store(), image.listed(), image.manifest());
        let mut plan = Self::default();
        if listed.digest != *manifest.digest() {
            if plan.add(store, listed, NESTING)? {
                return Ok(plan);
            }
            plan = Self { in_place_of: Some(listed.digest), ..Self::default() };
        }
        plan.add_manifest(manifest);
        plan.documents.push((manifest.descriptor(), manifest.raw().to_vec()));
        for blob in plan.layers.iter().chain(&plan.configs) {
            if !has(store, blob)? {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("the store has no blob {}", blob.digest),
                )
                .with_path(store.path())
                .with_remedy(Store::HEAL));
            }
        }
        Ok(plan)
    }

    /// A manifest, or an index with all that it names. Gives false where the store does not have all.
    fn add(&mut self, store: &Store, listed: &Descriptor, deeper: usize) -> Result<bool> {
        if deeper == 0 {
            return Err(Error::new(ErrorKind::InvalidData, "indexes of indexes, too deep"));
        }
        if store.blob_size(&listed.digest)? != Some(listed.size) {
            return Ok(false);
        }
        if self.documents.iter().any(|(other, _)| other.digest == listed.digest) {
            return Ok(true);
        }
        let raw = store.read_blob_small(&listed.digest, DOCUMENT_MAX)?;
        match Document::parse(raw.clone())? {
            Document::Manifest(manifest) => {
                for blob in manifest.layers().iter().chain([manifest.config()]) {
                    if !has(store, blob)? {
                        return Ok(false);
                    }
                }
                self.add_manifest(&manifest);
                self.documents.push((manifest.descriptor(), raw));
            }
            Document::Index(index) => {
                for child in &index.manifests {
                    if media::is_no_document(&child.media_type) || !self.add(store, child, deeper - 1)? {
                        return Ok(false);
                    }
                }
                let media_type = index.media_type().to_owned();
                self.documents.push((Descriptor::new(&media_type, listed.digest, listed.size), raw));
            }
        }
        Ok(true)
    }

    fn add_manifest(&mut self, manifest: &Manifest) {
        let once = |all: &mut Vec<Descriptor>, blob: &Descriptor| {
            if !all.iter().any(|other| other.digest == blob.digest) {
                all.push(blob.clone());
            }
        };
        manifest.layers().iter().for_each(|layer| once(&mut self.layers, layer));
        once(&mut self.configs, manifest.config());
    }
}

fn has(store: &Store, blob: &Descriptor) -> Result<bool> {
    Ok(store.blob_size(&blob.digest)? == Some(blob.size))
}
