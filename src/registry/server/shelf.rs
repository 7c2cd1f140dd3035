//! The store as the server shows it: which repositories there are, and what is in them.
//!
//! A manifest is in a repository by an entry of the store's index: under a tag, or under its digest alone. What an index of
//! manifests in it leads to is in it as well, and all their blobs.
#![forbid(unsafe_code)]

use super::fault::Fault;
use super::links::{Links, Read};
use super::names::{Names, Repository};
use crate::digest::Digest;
use crate::error::Result;
use crate::image::NESTING;
use crate::manifest::{Descriptor, Index};
use crate::reference::Reference;
use crate::store::Store;
use crate::store::index::{name_of, set_name, take_name};
use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

pub(super) struct Shelf {
    pub(super) store: Store,
    pub(super) names: Names,
    read: Read,
}

/// A manifest that was found.
pub(super) struct Found {
    pub(super) digest: Digest,
    /// As the descriptor that led to it says.
    pub(super) media_type: String,
    /// Whether an entry of the index leads to it, and not another manifest alone.
    pub(super) is_listed: bool,
}

impl Shelf {
    pub(super) fn new(store: Store, names: Names) -> Self {
        Self { store, names, read: Read::default() }
    }

    /// All repositories that have something, in their order.
    pub(super) fn repositories(&self) -> Result<BTreeSet<String>> {
        let index = self.store.index()?;
        let names = index.manifests.iter().filter_map(name_of);
        Ok(names.filter_map(|name| Some(self.names.of(&name)?.name)).collect())
    }

    /// The tags of a repository, in their order; `None` where there is nothing in it.
    pub(super) fn tags(&self, repository: &Repository) -> Result<Option<BTreeSet<String>>> {
        let index = self.store.index()?;
        let mut mine = entries(&index, repository).peekable();
        if mine.peek().is_none() {
            return Ok(None);
        }
        Ok(Some(mine.filter_map(|(name, _)| name.tag().map(str::to_owned)).collect()))
    }

    /// The manifest under a tag.
    pub(super) fn tagged(&self, name: &Reference) -> Result<Option<Found>> {
        let index = self.store.index()?;
        let listed = index.manifests.iter().find(|listed| name_of(listed).as_ref() == Some(name));
        Ok(listed.map(|listed| found(listed, true)))
    }

    /// Visits all manifests of a repository, each once, those of the index first.
    fn walk<T>(
        &self,
        index: &Index,
        repository: &Repository,
        mut visit: impl FnMut(&Descriptor, bool) -> Result<ControlFlow<T>>,
    ) -> Result<Option<T>> {
        let mut seen = HashSet::new();
        let mut level: Vec<Descriptor> =
            entries(index, repository).map(|(_, listed)| listed.clone()).collect();
        for depth in 0..=NESTING {
            let mut next = Vec::new();
            for listed in level {
                if !seen.insert(listed.digest) {
                    continue;
                }
                if let ControlFlow::Break(answer) = visit(&listed, depth == 0)? {
                    return Ok(Some(answer));
                }
                if let Some(links) = self.read.get(&self.store, &listed.digest)? {
                    next.extend(links.manifests.iter().cloned());
                }
            }
            level = next;
        }
        Ok(None)
    }

    /// A manifest of a repository by its digest.
    pub(super) fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Option<Found>> {
        let found = self.walk(&self.store.index()?, repository, |listed, is_listed| {
            Ok(match listed.digest == *digest {
                true => ControlFlow::Break(found(listed, is_listed)),
                false => ControlFlow::Continue(()),
            })
        })?;
        // An index may name manifests that are not here.
        match &found {
            Some(there) if self.store.blob_size(&there.digest)?.is_none() => Ok(None),
            _ => Ok(found),
        }
    }

    /// The size of a blob that some manifest of a repository has.
    pub(super) fn blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
        // Before all else, as it costs least.
        let Some(size) = self.store.blob_size(digest)? else { return Ok(None) };
        self.walk(&self.store.index()?, repository, |listed, _| self.has_blob(&listed.digest, digest, size))
    }

    /// The same in any repository that is served.
    pub(super) fn blob_anywhere(&self, digest: &Digest) -> Result<Option<u64>> {
        let Some(size) = self.store.blob_size(digest)? else { return Ok(None) };
        let index = self.store.index()?;
        let mut seen = HashSet::new();
        for name in index.manifests.iter().filter_map(name_of) {
            let Some(repository) = self.names.of(&name).filter(|found| seen.insert(found.key())) else {
                continue;
            };
            let found =
                self.walk(&index, &repository, |listed, _| self.has_blob(&listed.digest, digest, size))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn has_blob(&self, manifest: &Digest, blob: &Digest, size: u64) -> Result<ControlFlow<u64>> {
        let links = self.read.get(&self.store, manifest)?;
        let has = links.is_some_and(|links| links.blobs.iter().any(|other| other.digest == *blob));
        Ok(if has { ControlFlow::Break(size) } else { ControlFlow::Continue(()) })
    }

    /// The manifests of a repository whose subject this is, of those that are wanted; in the order of their digests. Their content
    /// is not kept: each may have some megabytes, and an index room for ten thousand of them.
    pub(super) fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        wanted: impl Fn(&Links) -> bool,
    ) -> Result<BTreeSet<Digest>> {
        let mut all = BTreeSet::new();
        self.walk::<()>(&self.store.index()?, repository, |listed, _| {
            let links = self.read.get(&self.store, &listed.digest)?;
            let links = links.filter(|links| links.subject == Some(*subject) && wanted(links));
            all.extend(links.map(|links| links.digest));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    pub(super) fn links(&self, digest: &Digest) -> Result<Option<Arc<Links>>> {
        self.read.get(&self.store, digest)
    }

    /// Puts a manifest, whose blobs are all there, into a repository: under tags, or under its digest alone.
    pub(super) fn put(
        &self,
        repository: &Repository,
        links: Arc<Links>,
        media_type: &str,
        tags: &[Reference],
    ) -> Result<()> {
        self.store.sync()?;
        let descriptor = Descriptor::new(media_type, links.digest, links.size);
        let by_digest = repository.by_digest(links.digest)?;
        self.store.update_index(|index| {
            for tag in tags {
                untag(index, repository, tag)?;
                set_name(index, &descriptor, Some(tag));
            }
            let is_tagged = entries(index, repository)
                .any(|(name, listed)| listed.digest == links.digest && name.tag().is_some());
            match is_tagged {
                true => drop(remove_entry(index, &by_digest)),
                false => set_name(index, &descriptor, Some(&by_digest)),
            }
            // Those that came before it, as an index comes after its manifests: it leads to them now, and they go with it.
            for child in &links.manifests {
                remove_entry(index, &repository.by_digest(child.digest)?);
            }
            Ok(())
        })?;
        self.read.remember(links);
        Ok(())
    }

    /// Takes a tag away; the manifest stays under its digest. Whether there was one.
    pub(super) fn delete_tag(&self, repository: &Repository, tag: &Reference) -> Result<bool> {
        self.store.update_index(|index| untag(index, repository, tag))
    }

    /// Takes a manifest out of a repository, with all its tags. Whether an entry led to it.
    pub(super) fn delete_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let removed = self.store.update_index(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|listed| {
                listed.digest != *digest || !name_of(listed).is_some_and(|name| repository.has(&name))
            });
            Ok(index.manifests.len() < before)
        })?;
        if removed {
            self.store.collect_garbage()?;
        }
        Ok(removed)
    }
}

fn found(listed: &Descriptor, is_listed: bool) -> Found {
    Found { digest: listed.digest, media_type: listed.media_type.clone(), is_listed }
}

fn entries<'a>(
    index: &'a Index,
    repository: &'a Repository,
) -> impl Iterator<Item = (Reference, &'a Descriptor)> {
    index.manifests.iter().filter_map(move |listed| {
        let name = name_of(listed).filter(|name| repository.has(name))?;
        Some((name, listed))
    })
}

/// Takes a tag from a manifest, which keeps its digest as a name where it has no other in the repository.
fn untag(index: &mut Index, repository: &Repository, tag: &Reference) -> Result<bool> {
    let Some(old) = index.manifests.iter().find(|listed| name_of(listed).as_ref() == Some(tag)).cloned()
    else {
        return Ok(false);
    };
    take_name(index, tag);
    if !entries(index, repository).any(|(_, listed)| listed.digest == old.digest) {
        set_name(index, &old, Some(&repository.by_digest(old.digest)?));
    }
    Ok(true)
}

/// Removes an entry, and what it named where that has no other.
fn remove_entry(index: &mut Index, name: &Reference) -> bool {
    let before = index.manifests.len();
    index.manifests.retain(|listed| name_of(listed).as_ref() != Some(name));
    index.manifests.len() < before
}

/// A digest in a path or a query.
pub(super) fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|_| {
        let what = format!("{text:?} is no digest that is known here: sha256 and 64 lower-case hex digits");
        Fault::new(400, super::fault::code::DIGEST_INVALID, what)
    })
}
