//! In which repositories the blobs of a store are, as far as it knows: those that it pulled them from and pushed them to.
//!
//! It stands in `index.json` with each image (`coracle.repositories`) and goes with it. A name alone says nothing: it may be one
//! that this machine gave, and is nobody else's business.
//!
//! Beside it stands what its plain layers became when they were compressed for a push (`coracle.packed.gzip`): whether a registry has
//! that can then be asked without compressing them again.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::Result;
use crate::layer::Compression;
use crate::manifest::{DOCUMENT_MAX, Descriptor, Document, PACKED, REPOSITORIES};
use crate::reference::Reference;
use crate::store::Store;
use std::collections::{HashMap, HashSet};

/// So many are remembered of an image, the last ones.
const REMEMBERED: usize = 8;

pub(super) struct Origins {
    /// By a blob's digest, the repositories that have it.
    blobs: HashMap<Digest, Vec<String>>,
    /// By a plain layer's digest, what it becomes.
    packed: HashMap<(Compression, Digest), (Digest, u64)>,
}

/// A repository with its registry.
pub(super) fn repository(name: &Reference) -> String {
    format!("{}/{}", name.domain(), name.path())
}

impl Origins {
    /// Of all images in a store. What can't be read says nothing.
    pub(super) fn of(store: &Store) -> Result<Self> {
        let mut found: HashMap<Digest, Vec<String>> = HashMap::new();
        let mut packed = HashMap::new();
        for listed in store.index()?.manifests {
            for compression in [Compression::Gzip, Compression::Zstd] {
                let noted = listed.annotations.get(&packed_key(compression));
                let all = noted.into_iter().flat_map(|noted| noted.split(' ')).filter_map(packed_layer);
                packed.extend(all.map(|(plain, becomes)| ((compression, plain), becomes)));
            }
            let Some(noted) = listed.annotations.get(REPOSITORIES) else { continue };
            for blob in blobs(store, &listed) {
                let known = found.entry(blob).or_default();
                for repository in noted.split(' ') {
                    if !known.iter().any(|other| other == repository) {
                        known.push(repository.to_owned());
                    }
                }
            }
        }
        Ok(Self { blobs: found, packed })
    }

    /// Digest and size of what a plain layer became when it was compressed so.
    pub(super) fn packed(&self, compression: Compression, plain: &Digest) -> Option<(Digest, u64)> {
        self.packed.get(&(compression, *plain)).copied()
    }

    /// Whether a blob came from a registry, or went to one as it is.
    pub(super) fn has(&self, blob: &Digest) -> bool {
        self.blobs.contains_key(blob)
    }

    /// Other repositories of a registry that have a blob, the nearest by their names first.
    pub(super) fn beside(&self, blob: &Digest, name: &Reference) -> Vec<&str> {
        let all = self.blobs.get(blob).map_or(&[][..], Vec::as_slice).iter();
        let mut paths: Vec<&str> = all
            .filter_map(|repository| repository.strip_prefix(name.domain())?.strip_prefix('/'))
            .filter(|path| *path != name.path())
            .collect();
        let common =
            |path: &str| path.split('/').zip(name.path().split('/')).take_while(|(a, b)| a == b).count();
        paths.sort_by_key(|path| std::cmp::Reverse(common(path)));
        paths
    }
}

fn packed_key(compression: Compression) -> String {
    format!("{PACKED}.{}", if compression == Compression::Zstd { "zstd" } else { "gzip" })
}

fn packed_layer(text: &str) -> Option<(Digest, (Digest, u64))> {
    let (plain, becomes) = text.split_once('=')?;
    let (digest, size) = becomes.split_once('/')?;
    Some((plain.parse().ok()?, (digest.parse().ok()?, size.parse().ok()?)))
}

/// Notes what plain layers of an image became.
pub(super) fn remember_packed(
    store: &Store,
    image: &Digest,
    compression: Compression,
    packed: &[(Digest, Descriptor)],
) -> Result<()> {
    let all: Vec<_> = packed
        .iter()
        .map(|(plain, becomes)| format!("{plain}={}/{}", becomes.digest, becomes.size))
        .collect();
    store.update_index(|index| {
        for listed in index.manifests.iter_mut().filter(|listed| listed.digest == *image) {
            listed.annotations.insert(packed_key(compression), all.join(" "));
        }
        Ok(())
    })
}

/// All blobs that an entry of the index leads to, but the documents.
fn blobs(store: &Store, listed: &Descriptor) -> Vec<Digest> {
    let (mut found, mut seen, mut todo) = (Vec::new(), HashSet::new(), vec![listed.digest]);
    while let Some(digest) = todo.pop() {
        if !seen.insert(digest) {
            continue;
        }
        match store.read_blob_small(&digest, DOCUMENT_MAX).and_then(Document::parse) {
            Ok(Document::Manifest(manifest)) => {
                let all = manifest.layers().iter().chain([manifest.config()]);
                found.extend(all.map(|blob| blob.digest));
            }
            Ok(Document::Index(index)) => todo.extend(index.manifests.iter().map(|child| child.digest)),
            Err(_) => {}
        }
    }
    found
}

/// Notes that a repository has an image of the store, with all its blobs as they are.
pub(super) fn remember(store: &Store, image: &Digest, repository: &str) -> Result<()> {
    store.update_index(|index| {
        for listed in index.manifests.iter_mut().filter(|listed| listed.digest == *image) {
            let noted = listed.annotations.entry(REPOSITORIES.to_owned()).or_default();
            let mut all: Vec<_> = noted.split(' ').filter(|other| !other.is_empty()).collect();
            if !all.contains(&repository) {
                all.push(repository);
                *noted = all[all.len().saturating_sub(REMEMBERED)..].join(" ");
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plain_layer_becomes_is_read_as_it_is_written() {
        let (plain, packed) = (Digest::of(b"plain"), Digest::of(b"packed"));
        assert_eq!(packed_layer(&format!("{plain}={packed}/17")), Some((plain, (packed, 17))));
        for bad in ["", "x=y/1", &format!("{plain}={packed}"), &format!("{plain}={packed}/-1")] {
            assert_eq!(packed_layer(bad), None, "{bad}");
        }
    }
}
