//! Images from archives and layout directories.
#![forbid(unsafe_code)]

use super::archive::Medium;
use super::unpack::Stack;
use super::{Image, check_layers, check_shape, parse_config, resolve};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{
    CONTAINERD_NAME, DOCUMENT_MAX, Descriptor, ImageConfig, Index, Manifest, REF_NAME, media,
    null_is_default, parse,
};
use crate::reference::Reference;
use crate::store::Store;
use crate::store::blob::check;
use crate::store::index::set_name;
use serde::Deserialize;
use std::io::Read;
use std::path::Path;

const INDEX: &str = "index.json";
const DOCKER: &str = "manifest.json";
/// More images than this in one archive are a mistake, or worse.
const IMAGES_MAX: usize = 10_000;

pub(super) fn path(store: &Store, path: &Path) -> Result<Vec<Image>> {
    Medium::open(store, path)
        .and_then(|medium| load(store, &medium))
        .map_err(|error| error.during(format!("loading {}", path.display())))
}

pub(super) fn reader(store: &Store, reader: impl Read + Send) -> Result<Vec<Image>> {
    Medium::from_reader(store, reader)
        .and_then(|medium| load(store, &medium))
        .map_err(|error| error.during("loading images from a stream"))
}

/// An image whose content is in the store, and how it shall be called.
struct Found {
    manifest: Manifest,
    names: Vec<Reference>,
}

fn load(store: &Store, medium: &Medium) -> Result<Vec<Image>> {
    transaction(store, "load", || take_in(store, medium).and_then(|found| publish(store, &found)))
}

/// Does what writes blobs into the store. When it fails, nothing of them stays.
pub(super) fn transaction<T>(store: &Store, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let writing = store.writing()?;
    let done = work();
    drop(writing);
    if done.is_err()
        && let Err(error) = store.collect_garbage()
    {
        tracing::warn!(%error, store = ?store.path(), "what a failed {what} left stays until the next collection");
    }
    done
}

/// Names the images in the index; from here on they are there.
fn publish(store: &Store, found: &[Found]) -> Result<Vec<Image>> {
    publish_with(store, found, |_| ())
}

/// The same with something noted in the index.
fn publish_with(store: &Store, found: &[Found], note: impl Fn(&mut Descriptor)) -> Result<Vec<Image>> {
    store.sync()?;
    name_found(store, found, note)
}

fn name_found(store: &Store, found: &[Found], note: impl Fn(&mut Descriptor)) -> Result<Vec<Image>> {
    let describe = |manifest: &Manifest| {
        let mut descriptor = manifest.descriptor();
        note(&mut descriptor);
        descriptor
    };
    store.update_index(|index| {
        for Found { manifest, names } in found {
            let descriptor = describe(manifest);
            names.iter().for_each(|name| set_name(index, &descriptor, Some(name)));
            if names.is_empty() {
                set_name(index, &descriptor, None);
            }
        }
        Ok(())
    })?;
    found.iter().map(|found| Image::from_listed(store, &describe(&found.manifest))).collect()
}

/// Publishes one new image under a name, for whoever made its blobs. The caller is
/// [writing](Store::writing).
pub(super) fn publish_one(store: &Store, manifest: Manifest, name: Option<Reference>) -> Result<Image> {
    one(publish(store, &[Found { manifest, names: name.into_iter().collect() }])?)
}

/// The same, of blobs that are on the disk.
pub(super) fn publish_synced(store: &Store, manifest: Manifest, name: Option<Reference>) -> Result<Image> {
    one(name_found(store, &[Found { manifest, names: name.into_iter().collect() }], |_| ())?)
}

/// The same for an image from a repository of a registry, where its name led to `origin`.
#[cfg(feature = "registry")]
pub(crate) fn publish_pulled(
    store: &Store,
    manifest: Manifest,
    name: Reference,
    origin: Digest,
    platform: &crate::manifest::Platform,
    repository: String,
) -> Result<Image> {
    let differs = origin != *manifest.digest();
    let note = |descriptor: &mut Descriptor| {
        descriptor.annotations.insert(crate::manifest::REPOSITORIES.to_owned(), repository.clone());
        if differs {
            descriptor.annotations.insert(crate::manifest::ORIGIN.to_owned(), origin.to_string());
            descriptor.annotations.insert(crate::manifest::ORIGIN_PLATFORM.to_owned(), platform.to_string());
        }
    };
    one(publish_with(store, &[Found { manifest, names: vec![name] }], note)?)
}

fn one(images: Vec<Image>) -> Result<Image> {
    images
        .into_iter()
        .next()
        .ok_or_else(|| Error::new(ErrorKind::State, "an image was published and is not there"))
}

fn take_in(store: &Store, medium: &Medium) -> Result<Vec<Found>> {
    let docker: Vec<DockerImage> = match medium.read(DOCKER, DOCUMENT_MAX)? {
        Some(raw) => parse(DOCKER, &raw)?,
        None => Vec::new(),
    };
    if let Some(raw) = medium.read(INDEX, DOCUMENT_MAX)? {
        return oci(store, medium, &Index::parse(&raw)?, &docker);
    }
    if docker.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidData,
            "no archive of images: neither index.json nor manifest.json in it",
        )
        .with_remedy("a root filesystem is imported, not loaded"));
    }
    if docker.len() > IMAGES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, format!("archive of more than {IMAGES_MAX} images")));
    }
    docker.iter().map(|image| docker_image(store, medium, image)).collect()
}

// ---- OCI

fn oci(store: &Store, medium: &Medium, index: &Index, docker: &[DockerImage]) -> Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    let mut refused = None;
    if index.manifests.len() > IMAGES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, format!("archive of more than {IMAGES_MAX} images")));
    }
    for listed in &index.manifests {
        let taken = match &listed.platform {
            Some(platform) if !platform.is_host() => Err(Error::new(
                ErrorKind::Unsupported,
                format!("image {} is for {}/{}", listed.digest, platform.os, platform.architecture),
            )),
            _ => oci_image(store, medium, listed),
        };
        let manifest = match taken {
            Ok(manifest) => manifest,
            // Another machine's image or an artifact beside ours is nothing wrong.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                refused = refused.or(Some(error));
                continue;
            }
            Err(error) => return Err(error.during(format!("reading the image {}", listed.digest))),
        };
        let mut names: Vec<_> = oci_name(listed)?.into_iter().collect();
        // Docker writes the names of an image also, or only, in its own list.
        let config = manifest.config().digest.hex();
        for image in docker.iter().filter(|image| image.config.contains(&config)) {
            names = image.names()?;
        }
        match found.iter_mut().find(|other| other.manifest.digest() == manifest.digest()) {
            Some(other) => other.names.extend(names),
            None => found.push(Found { manifest, names }),
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// The name of an entry. What OCI allows and docker does not (upper case, `+`) is no name here.
fn oci_name(listed: &Descriptor) -> Result<Option<Reference>> {
    let annotation = |key| listed.annotations.get(key);
    let Some(text) = annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME)) else { return Ok(None) };
    match text.parse::<Reference>() {
        Ok(name) if name.digest().is_none() => Ok(Some(name)),
        _ => {
            tracing::warn!(name = text, digest = %listed.digest, "can't be the name of an image: loaded without one");
            Ok(None)
        }
    }
}

fn oci_image(store: &Store, medium: &Medium, listed: &Descriptor) -> Result<Manifest> {
    let (manifest, ()) = resolve(listed, &mut |descriptor| Ok((read_blob(medium, descriptor)?, ())))?;
    check_shape(&manifest)?;
    let raw = read_blob(medium, manifest.config())?;
    let config = parse_config(&manifest, raw)?;
    check_layers(&manifest, &config)?;
    let mut stack = Stack::new(store);
    for (descriptor, diff_id) in manifest.layers().iter().zip(config.diff_ids()) {
        let open = || {
            let blob = open_blob(medium, &descriptor.digest)?;
            if blob.len() != descriptor.size {
                check(&descriptor.digest, descriptor.size, &descriptor.digest, blob.len())?;
            }
            Ok(blob)
        };
        stack
            .add(descriptor, diff_id, open)
            .map_err(|error| error.during(format!("reading the layer {}", descriptor.digest)))?;
    }
    store.put_blob(config.raw())?;
    store.put_blob(manifest.raw())?;
    Ok(manifest)
}

fn open_blob(medium: &Medium, digest: &Digest) -> Result<super::archive::Section> {
    medium
        .get(&format!("blobs/sha256/{}", digest.hex()))?
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("blob {digest} is not in it")))
}

/// Reads a document and verifies it.
fn read_blob(medium: &Medium, descriptor: &Descriptor) -> Result<Vec<u8>> {
    if descriptor.size > DOCUMENT_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("document {} of {} bytes", descriptor.digest, descriptor.size),
        ));
    }
    let mut raw = Vec::new();
    let blob = open_blob(medium, &descriptor.digest)?;
    blob.take(descriptor.size + 1).read_to_end(&mut raw).map_err(|error| Error::os("read", error))?;
    check(&descriptor.digest, descriptor.size, &Digest::of(&raw), raw.len() as u64)?;
    Ok(raw)
}

// ---- docker

/// One image of docker's `manifest.json`. Its paths are keys of the archive and nothing else.
#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    #[serde(rename = "Layers", default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}

impl DockerImage {
    fn names(&self) -> Result<Vec<Reference>> {
        let name = |text: &String| {
            let name: Reference =
                text.parse().map_err(|error: Error| error.with_kind(ErrorKind::InvalidData))?;
            match name.digest() {
                None => Ok(name),
                Some(_) => {
                    Err(Error::new(ErrorKind::InvalidData, format!("RepoTags: {text:?} has a digest")))
                }
            }
        };
        self.repo_tags.iter().map(name).collect()
    }

    /// The digest that the name of the configuration promises: `HEX.json` or `blobs/sha256/HEX`.
    fn promised(&self) -> Option<Digest> {
        let name = self.config.rsplit('/').next()?;
        format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name)).parse().ok()
    }
}

fn docker_image(store: &Store, medium: &Medium, image: &DockerImage) -> Result<Found> {
    let missing = |name: &str| Error::new(ErrorKind::InvalidData, format!("{name:?} is not in it"));
    let names = image.names()?;
    let raw = medium.read(&image.config, DOCUMENT_MAX)?.ok_or_else(|| missing(&image.config))?;
    if let Some(promised) = image.promised() {
        check(&promised, raw.len() as u64, &Digest::of(&raw), raw.len() as u64)?;
    }
    let config =
        ImageConfig::parse(raw).map_err(|error| error.during(format!("reading {:?}", image.config)))?;
    if config.diff_ids().len() != image.layers.len() {
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!(
                "manifest.json lists {} layers, the configuration {}",
                image.layers.len(),
                config.diff_ids().len()
            ),
        ));
    }
    let (mut stack, mut descriptors) = (Stack::new(store), Vec::new());
    for (name, diff_id) in image.layers.iter().zip(config.diff_ids()) {
        let open = || medium.get(name)?.ok_or_else(|| missing(name));
        let descriptor = stack
            .add_unknown(diff_id, open)
            .map_err(|error| error.during(format!("reading the layer {name:?}")))?;
        descriptors.push(descriptor);
    }
    let digest = store.put_blob(config.raw())?;
    let manifest =
        Manifest::new(Descriptor::new(media::CONFIG, digest, config.raw().len() as u64), descriptors)?;
    store.put_blob(manifest.raw())?;
    Ok(Found { manifest, names })
}
