//! Manifests and their tags (distribution-spec, "Pulling manifests", "Pushing Manifests", "Deleting Manifests").
#![forbid(unsafe_code)]

use super::Shared;
use super::body::Body;
use super::fault::{Fault, code};
use super::links::{Links, check_type};
use super::names::Repository;
use super::request::Head;
use super::response::Response;
use super::shelf::{Found, digest};
use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::image::NESTING;
use crate::manifest::{DOCUMENT_MAX, Descriptor, media};
use std::collections::HashSet;
use std::sync::Arc;

/// In one request; the specification wants ten at least.
const TAGS_MAX: usize = 64;

/// A manifest's digest or a tag, in a path.
enum Wanted {
    Digest(Digest),
    Tag(crate::reference::Reference),
}

fn wanted(repository: &Repository, text: &str) -> Result<Wanted, Fault> {
    // No tag has a colon.
    match text.contains(':') {
        true => digest(text).map(Wanted::Digest),
        false => repository.tagged(text).map(Wanted::Tag),
    }
}

fn unknown(text: &str) -> Fault {
    Fault::new(404, code::MANIFEST_UNKNOWN, format!("no manifest {text} in this repository"))
}

fn find(shared: &Shared, repository: &Repository, text: &str) -> Result<Found, Fault> {
    let found = match wanted(repository, text)? {
        Wanted::Digest(digest) => shared.shelf.manifest(repository, &digest)?,
        Wanted::Tag(name) => shared.shelf.tagged(&name)?,
    };
    found.ok_or_else(|| unknown(text))
}

pub(super) fn get(shared: &Shared, repository: &Repository, text: &str) -> Result<Response, Fault> {
    let found = find(shared, repository, text)?;
    let raw = match shared.shelf.store.read_blob_small(&found.digest, DOCUMENT_MAX) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(unknown(text)),
        other => other?,
    };
    let kind = match found.media_type.is_empty() {
        true => Links::parse(&raw)?.media_type,
        false => found.media_type,
    };
    let response = Response::new(200).digest(&found.digest).with("Content-Type", kind);
    Ok(response.with("ETag", format!("\"{}\"", found.digest)).bytes(raw))
}

pub(super) fn put(
    shared: &Shared,
    head: &Head,
    repository: &Repository,
    text: &str,
    body: &mut Body<'_>,
) -> Result<Response, Fault> {
    let invalid = |why: String| Fault::new(400, code::MANIFEST_INVALID, why);
    let mut tags = Vec::new();
    let promised = match wanted(repository, text)? {
        Wanted::Digest(digest) => Some(digest),
        Wanted::Tag(tag) => {
            tags.push(tag);
            None
        }
    };
    for tag in head.parameters("tag") {
        if tags.len() == TAGS_MAX {
            return Err(Fault::new(414, code::UNSUPPORTED, format!("more than {TAGS_MAX} tags")));
        }
        tags.push(repository.tagged(tag)?);
    }
    let raw = body.read_all(DOCUMENT_MAX)?;
    let links = Links::parse(&raw).map_err(|error| invalid(error.to_string()))?;
    if let Some(promised) = promised
        && promised != links.digest
    {
        let what = format!("{promised} was promised, what came has {}", links.digest);
        return Err(Fault::new(400, code::DIGEST_INVALID, what));
    }
    let media_type =
        check_type(&links, head.header("content-type")).map_err(|error| invalid(error.to_string()))?;
    if let Some(foreign) = &links.foreign {
        return Err(missing(foreign, "the manifest"));
    }
    let store = &shared.shelf.store;
    // From here on nothing is collected, until the index leads to all of it.
    let writing = store.writing()?;
    let mut needed = HashSet::new();
    for blob in &links.blobs {
        need_blob(shared, repository, blob, &mut needed)?;
    }
    for child in &links.manifests {
        need_manifest(shared, repository, child, &mut needed, 1)?;
    }
    store.put_blob(&raw)?;
    let links = Arc::new(links);
    shared.shelf.put(repository, links.clone(), &media_type, &tags)?;
    drop(writing);
    let key = repository.key();
    if tags.is_empty() {
        // It is a part of something, as a rule: it is there for that, whatever is pruned meanwhile, with all that it needs.
        shared.pending.keep(&key, &links.digest, links.size)?;
        shared.pending.listed(&key, needed.iter().chain([&links.digest]));
    } else {
        // It is complete.
        shared.pending.came(&key, &needed);
    }
    let mut response = Response::new(201)
        .digest(&links.digest)
        .with("Location", format!("/v2/{}/manifests/{}", repository.name, links.digest));
    if let Some(subject) = links.subject {
        response = response.with("OCI-Subject", subject.to_string());
    }
    if promised.is_some() {
        for tag in head.parameters("tag") {
            response = response.with("OCI-Tag", tag);
        }
    }
    Ok(response)
}

fn missing(digest: impl std::fmt::Display, what: &str) -> Fault {
    Fault::new(400, code::MANIFEST_BLOB_UNKNOWN, format!("{what} {digest} is not in this repository"))
}

/// Makes sure that a blob of a manifest is one of the store's.
fn need_blob(
    shared: &Shared,
    repository: &Repository,
    blob: &Descriptor,
    needed: &mut HashSet<Digest>,
) -> Result<(), Fault> {
    if !needed.insert(blob.digest) {
        return Ok(());
    }
    let size = match shared.pending.admit(&repository.key(), &blob.digest)? {
        Some(size) => size,
        None => match shared.shelf.blob(repository, &blob.digest)? {
            Some(size) => size,
            // Whoever made it may not give it to a registry, and says where else it is (image-spec, "Non-Distributable Layers").
            None if media::is_elsewhere(&blob.media_type) => return Ok(()),
            None => return Err(missing(blob.digest, "the blob")),
        },
    };
    if size != blob.size {
        let what = format!("the blob {} has {size} bytes, not {}", blob.digest, blob.size);
        return Err(Fault::new(400, code::SIZE_INVALID, what));
    }
    Ok(())
}

/// Makes sure that a manifest of an index is in the store, and all that it leads to: it came before, and may have been
/// pruned since.
fn need_manifest(
    shared: &Shared,
    repository: &Repository,
    child: &Descriptor,
    needed: &mut HashSet<Digest>,
    depth: usize,
) -> Result<(), Fault> {
    if depth > NESTING {
        return Err(Fault::new(400, code::MANIFEST_INVALID, "indexes of indexes without an end"));
    }
    if !needed.insert(child.digest) {
        return Ok(());
    }
    let waited = shared.pending.admit(&repository.key(), &child.digest)?.is_some();
    if !waited && shared.shelf.manifest(repository, &child.digest)?.is_none() {
        return Err(missing(child.digest, "the manifest"));
    }
    let Some(links) = shared.shelf.links(&child.digest)? else {
        return Err(missing(child.digest, "the manifest"));
    };
    if links.size != child.size {
        let what = format!("the manifest {} has {} bytes, not {}", child.digest, links.size, child.size);
        return Err(Fault::new(400, code::SIZE_INVALID, what));
    }
    for blob in &links.blobs {
        need_blob(shared, repository, blob, needed)?;
    }
    for grandchild in &links.manifests {
        need_manifest(shared, repository, grandchild, needed, depth + 1)?;
    }
    Ok(())
}

pub(super) fn delete(shared: &Shared, repository: &Repository, text: &str) -> Result<Response, Fault> {
    let deleted = match wanted(repository, text)? {
        Wanted::Tag(tag) => shared.shelf.delete_tag(repository, &tag)?,
        Wanted::Digest(digest) => {
            // It need not wait for anything any more.
            shared.pending.forget(&repository.key(), &digest);
            match shared.shelf.manifest(repository, &digest)? {
                Some(found) if !found.is_listed => {
                    let what = "an index of manifests in this repository has it: delete that";
                    return Err(Fault::new(405, code::UNSUPPORTED, what).with("Allow", "GET, HEAD"));
                }
                _ => shared.shelf.delete_manifest(repository, &digest)?,
            }
        }
    };
    match deleted {
        true => Ok(Response::new(202)),
        false => Err(unknown(text)),
    }
}
