//! Images among others: how one came to be, which ones it stands on, which ones stand on it, and what they share.
//!
//! Images of a store form a tree by their layers' chain ids (image-spec, `config.md`, "Layer ChainID"): an image whose
//! topmost chain id is among another's has all of its layers below the other's own.
#![forbid(unsafe_code)]

use super::Image;
use crate::digest::Digest;
use crate::error::Result;
use crate::layer::{find, for_caller};
use crate::manifest::{Descriptor, History, ImageConfig};
use crate::store::{Store, clock};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

/// One step in which an image came to be, with the layer that it made: a line of `docker history`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// When it was done, where the history says so.
    pub created: Option<SystemTime>,
    /// The command, as it was written down; empty where nothing was.
    pub created_by: String,
    /// Who did it.
    pub author: Option<String>,
    /// What there is to say about it.
    pub comment: Option<String>,
    /// The layer's blob as the manifest lists it; `None` for a step that changed no file.
    pub layer: Option<Descriptor>,
    /// The digest of the layer's archive, uncompressed.
    pub diff_id: Option<Digest>,
    /// What identifies the layer together with all below it.
    pub chain_id: Option<Digest>,
    /// The bytes of the blob as it is stored, compressed as it is; 0 without a layer.
    pub size: u64,
    /// The bytes of the layer's archive, uncompressed (its tar headers with it), which is known of a layer that is
    /// unpacked; 0 without a layer.
    pub unpacked_size: Option<u64>,
}

/// What an image shares with others of its store, in bytes; see [`Image::usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageUsage {
    /// Blobs (manifest, configuration and layers, as they are stored) that another image has too.
    pub shared: u64,
    /// Blobs that only this image has: what its removal frees of them.
    pub unique: u64,
    /// Unpacked layers that another image has too: the bytes of their archives, uncompressed.
    pub unpacked_shared: u64,
    /// Unpacked layers that only this image has.
    pub unpacked_unique: u64,
}

/// An image, and the images that stand on it; see [`Store::image_tree`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageTree {
    /// The image.
    pub image: Image,
    /// What it shares with all others of the store.
    pub usage: ImageUsage,
    /// The images that stand on it and on no nearer one, in the order in which they came.
    pub children: Vec<ImageTree>,
}

/// What the layer room writes beside an unpacked layer, as far as it matters here.
#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    self_contained: bool,
    #[serde(default)]
    bytes: u64,
}

impl Image {
    /// How it came to be, the oldest step first (`docker history` shows the newest first): the history of its
    /// configuration, joined with its layers and their sizes (image-spec, `config.md`, "history").
    ///
    /// A history is what its writer says. Where it names fewer steps with a layer than there are layers, the rest
    /// follows without words; where it names more, these have no layer.
    ///
    /// ```
    /// use coracle::{Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let image = Import::new().message("from a directory").path(&store, dir.path())?;
    /// let history = image.history()?;
    /// assert_eq!((history.len(), history[0].comment.as_deref()), (1, Some("from a directory")));
    /// assert_eq!(history[0].size, image.layers()?[0].size());
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` where an unpacked layer's metadata is broken.
    pub fn history(&self) -> Result<Vec<HistoryEntry>> {
        let sizes: Vec<_> = self.metas()?.into_iter().map(|meta| meta.map(|meta| meta.bytes)).collect();
        Ok(join(self.config(), self.layer_descriptors(), &sizes))
    }

    /// The images of its store that it stands on, the nearest first: those whose layers are all below its own. Of
    /// images with the very same layers, it stands on one whose history is the beginning of its own.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn ancestors(&self) -> Result<Vec<Self>> {
        let mut found = self.others(|other| stands_on(self.config(), other.config()))?;
        found.sort_by_key(|other| Reverse(nearness(self.config(), other.config())));
        Ok(found)
    }

    /// The images of its store that stand on it, the nearest first: what is to be made again when one of its layers
    /// has a hole. The reverse of [`ancestors`](Self::ancestors).
    ///
    /// ```
    /// use coracle::{Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let image = Import::new().name("base").path(&store, dir.path())?;
    /// for other in image.descendants()? {
    ///     println!("{} stands on base", other.id());
    /// }
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn descendants(&self) -> Result<Vec<Self>> {
        let mut found = self.others(|other| stands_on(other.config(), self.config()))?;
        found.sort_by_key(|other| height(other.config()));
        Ok(found)
    }

    /// How much of it other images of its store have too, and how much it has alone; each blob and each unpacked layer
    /// counts once. An image that can't be read, or is another machine's, is none of the others. All zero for the
    /// host image.
    ///
    /// ```
    /// use coracle::{Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let image = Import::new().path(&store, dir.path())?;
    /// let usage = image.usage()?;
    /// assert_eq!((usage.shared, usage.unique), (0, image.size()));
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::images`], and those of [`history`](Self::history).
    pub fn usage(&self) -> Result<ImageUsage> {
        let mut holders = Holders::default();
        self.others(|other| {
            holders.add(other);
            false
        })?;
        self.usage_among(&holders, 0)
    }

    /// Shared is what more than `own` of these have.
    fn usage_among(&self, holders: &Holders, own: usize) -> Result<ImageUsage> {
        let mut usage = ImageUsage::default();
        if self.is_host() {
            return Ok(usage);
        }
        let is_shared =
            |counts: &HashMap<Digest, usize>, id: &Digest| counts.get(id).is_some_and(|count| *count > own);
        for (digest, size) in self.blobs() {
            let shared = is_shared(&holders.blobs, &digest);
            let sum = if shared { &mut usage.shared } else { &mut usage.unique };
            *sum = sum.saturating_add(size);
        }
        let mut seen = HashSet::new();
        let names = self.config().diff_ids().iter().zip(self.config().chain_ids());
        for ((diff_id, chain_id), meta) in names.zip(self.metas()?) {
            let Some(meta) = meta else { continue };
            let id = if meta.self_contained { *diff_id } else { chain_id };
            if seen.insert(id) {
                let shared = is_shared(&holders.layers, &id);
                *if shared { &mut usage.unpacked_shared } else { &mut usage.unpacked_unique } += meta.bytes;
            }
        }
        Ok(usage)
    }

    /// Every blob of it with its size.
    fn blobs(&self) -> BTreeMap<Digest, u64> {
        let manifest = &self.0.manifest;
        let documents = [(*manifest.digest(), manifest.raw().len() as u64)];
        let listed = manifest.layers().iter().chain([manifest.config()]).map(|blob| (blob.digest, blob.size));
        documents.into_iter().chain(listed).collect()
    }

    fn others(&self, mut wanted: impl FnMut(&Self) -> bool) -> Result<Vec<Self>> {
        if self.is_host() {
            return Ok(Vec::new());
        }
        self.store().images_that(|other| other.digest() != self.digest() && wanted(other))
    }

    /// Of each layer, the lowest first, what is known of it when it is unpacked.
    fn metas(&self) -> Result<Vec<Option<Meta>>> {
        let (store, owners): (&Store, _) = (self.store(), for_caller());
        let ids = self.config().diff_ids().iter().zip(self.config().chain_ids());
        ids.map(|(diff_id, chain_id)| match find(store, diff_id, &chain_id, &*owners)? {
            Some(layer) => layer.meta().map(Some),
            None => Ok(None),
        })
        .collect()
    }
}

impl Store {
    /// The images that have a layer, by its digest, its diff_id or its chain id: what is to be made again when it has a
    /// hole, whether the image that brought it is still here or not. In the order in which they came.
    ///
    /// ```
    /// use coracle::{Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let image = Import::new().path(&store, dir.path())?;
    /// let layer = &image.layers()?[0];
    /// for id in [layer.digest(), layer.diff_id(), layer.chain_id()] {
    ///     assert_eq!(store.images_with_layer(&id)?[0].id(), image.id());
    /// }
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn images_with_layer(&self, layer: &Digest) -> Result<Vec<Image>> {
        self.images_that(|image| {
            let is_listed = image.layer_descriptors().iter().any(|listed| listed.digest == *layer);
            is_listed
                || image.config().diff_ids().contains(layer)
                || image.config().chain_ids().contains(layer)
        })
    }

    /// All images as trees: below each image those that stand on it. An image that stands on several has its place below
    /// the [nearest](Image::ancestors). One that can't be read is in [`broken_images`](Self::broken_images) instead.
    ///
    /// ```
    /// use coracle::{Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let image = Import::new().name("base").path(&store, dir.path())?;
    /// let trees = store.image_tree()?;
    /// assert_eq!((trees.len(), trees[0].children.len()), (1, 0));
    /// assert_eq!(trees[0].image.id(), image.id());
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Image::usage`].
    pub fn image_tree(&self) -> Result<Vec<ImageTree>> {
        let images = self.images()?;
        let mut holders = Holders::default();
        images.iter().for_each(|image| holders.add(image));
        // The highest first: when an image's turn comes, it has all that stands on it.
        let mut order: Vec<_> = (0..images.len()).collect();
        order.sort_by_key(|at| Reverse(height(images[*at].config())));
        let mut children = vec![BTreeMap::new(); images.len()];
        let mut trees = BTreeMap::new();
        for at in order {
            let (image, own) = (&images[at], images[at].config());
            let below = images.iter().enumerate().filter(|(_, other)| stands_on(own, other.config()));
            let nearest = below.min_by_key(|(_, other)| Reverse(nearness(own, other.config())));
            let parent = nearest.map(|(parent, _)| parent);
            let tree = ImageTree {
                image: image.clone(),
                usage: image.usage_among(&holders, 1)?,
                children: std::mem::take(&mut children[at]).into_values().collect(),
            };
            parent.map_or(&mut trees, |parent| &mut children[parent]).insert(at, tree);
        }
        Ok(trees.into_values().collect())
    }
}

/// How many images have each blob, and each layer by its diff_id and its chain id.
#[derive(Default)]
struct Holders {
    blobs: HashMap<Digest, usize>,
    layers: HashMap<Digest, usize>,
    seen: HashSet<Digest>,
}

impl Holders {
    fn add(&mut self, image: &Image) {
        // One image may be listed by itself and in an index.
        if !self.seen.insert(*image.digest()) {
            return;
        }
        image.blobs().into_keys().for_each(|digest| *self.blobs.entry(digest).or_default() += 1);
        let config = image.config();
        let ids: HashSet<_> = config.diff_ids().iter().copied().chain(config.chain_ids()).collect();
        ids.into_iter().for_each(|id| *self.layers.entry(id).or_default() += 1);
    }
}

/// How high it stands: whatever stands on it is higher.
fn height(config: &ImageConfig) -> (usize, usize) {
    (config.diff_ids().len(), config.history().len())
}

/// Of what an image stands on, the nearest has most of its layers, and of these most of its history.
fn nearness(image: &ImageConfig, base: &ImageConfig) -> (usize, usize) {
    let is_beginning = image.history().starts_with(base.history());
    (base.diff_ids().len(), if is_beginning { base.history().len() + 1 } else { 0 })
}

/// Whether all of `base` lies below the rest of `image`.
fn stands_on(image: &ImageConfig, base: &ImageConfig) -> bool {
    // Chain ids agree exactly where all diff_ids below do.
    let (own, below) = (image.diff_ids(), base.diff_ids());
    if below.is_empty() || !own.starts_with(below) {
        return false;
    }
    own.len() > below.len()
        || (image.history().len() > base.history().len() && image.history().starts_with(base.history()))
}

fn join(config: &ImageConfig, layers: &[Descriptor], unpacked: &[Option<u64>]) -> Vec<HistoryEntry> {
    let chain_ids = config.chain_ids();
    let mut layers = layers.iter().zip(config.diff_ids()).zip(chain_ids).zip(unpacked);
    let mut entry = |step: Option<&History>| {
        let is_empty = step.is_some_and(|step| step.empty_layer().unwrap_or_default());
        let layer = if is_empty { None } else { layers.next() };
        if step.is_none() && layer.is_none() {
            return None;
        }
        let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        let mut entry = HistoryEntry {
            created: step.and_then(|step| clock::parse_rfc3339(step.created().as_deref()?)),
            created_by: step.and_then(|step| step.created_by().clone()).unwrap_or_default(),
            author: step.and_then(|step| text(step.author())),
            comment: step.and_then(|step| text(step.comment())),
            layer: None,
            diff_id: None,
            chain_id: None,
            size: 0,
            unpacked_size: Some(0),
        };
        if let Some((((layer, diff_id), chain_id), unpacked)) = layer {
            entry.size = layer.size;
            entry.layer = Some(layer.clone());
            (entry.diff_id, entry.chain_id) = (Some(*diff_id), Some(chain_id));
            entry.unpacked_size = *unpacked;
        }
        Some(entry)
    };
    let mut all: Vec<_> = config.history().iter().filter_map(|step| entry(Some(step))).collect();
    all.extend(std::iter::from_fn(|| entry(None)));
    all
}
