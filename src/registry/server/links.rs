//! What a manifest leads to, of whatever kind it is: an image, an index, an artifact.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{DOCUMENT_MAX, Descriptor, Document, media, null_is_default, nulls_are_empty, parse};
use crate::store::Store;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Documents of so many bytes in all are remembered.
const REMEMBERED: u64 = 32 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts {
    #[serde(default, deserialize_with = "null_is_default")]
    media_type: String,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Descriptor>,
    #[serde(default)]
    subject: Option<Subject>,
    #[serde(default, deserialize_with = "nulls_are_empty")]
    annotations: BTreeMap<String, String>,
}

/// It need not be here, and may have a digest that is not known here.
#[derive(Deserialize)]
struct Subject {
    digest: String,
}

impl Subject {
    fn known(&self) -> Result<Option<Digest>> {
        match self.digest.parse::<Digest>() {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            other => other.map(Some),
        }
    }
}

#[derive(Debug)]
pub(super) struct Links {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// What it says of itself, else what its shape says.
    pub(super) media_type: String,
    says_type: bool,
    is_index: bool,
    /// The manifests of an index.
    pub(super) manifests: Vec<Descriptor>,
    /// Configuration and layers, or whatever an artifact has, or an index beside manifests.
    pub(super) blobs: Vec<Descriptor>,
    /// What is known by no digest that could be looked up.
    pub(super) foreign: Option<String>,
    pub(super) subject: Option<Digest>,
    /// As a list of referrers has it.
    pub(super) artifact_type: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Links {
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        // Whether it is one or the other, and only one.
        let index = match Document::parse(raw.to_vec())? {
            Document::Index(index) => Some(index),
            Document::Manifest(_) => None,
        };
        let is_index = index.is_some();
        let foreign = index.as_ref().and_then(|index| index.foreign().first());
        let foreign = foreign.map(|other| other.digest().to_owned());
        let parts: Parts = parse("image manifest", raw)?;
        let children = index.map(|index| index.manifests).unwrap_or_default().into_iter();
        let (blobs, manifests) = children.partition(|child| media::is_no_document(&child.media_type));
        let blobs: Vec<Descriptor> = blobs;
        let shape = if is_index { media::INDEX } else { media::MANIFEST };
        let given = parts.artifact_type.filter(|kind| !kind.is_empty());
        let artifact_type = given.or_else(|| parts.config.as_ref().map(|config| config.media_type.clone()));
        Ok(Self {
            digest: Digest::of(raw),
            size: raw.len() as u64,
            says_type: !parts.media_type.is_empty(),
            is_index,
            media_type: if parts.media_type.is_empty() { shape.to_owned() } else { parts.media_type },
            manifests,
            foreign,
            blobs: parts.config.into_iter().chain(parts.layers).chain(blobs).collect(),
            subject: parts.subject.map(|subject| subject.known()).transpose()?.flatten(),
            artifact_type,
            annotations: parts.annotations,
        })
    }

    /// Its descriptor in a list of referrers.
    pub(super) fn referrer(&self) -> serde_json::Value {
        let mut descriptor = serde_json::json!({
            "mediaType": self.media_type, "digest": self.digest, "size": self.size,
        });
        if let Some(kind) = &self.artifact_type {
            descriptor["artifactType"] = kind.as_str().into();
        }
        if !self.annotations.is_empty() {
            descriptor["annotations"] = serde_json::json!(self.annotations);
        }
        descriptor
    }
}

/// Documents that were read: they never change.
#[derive(Default)]
pub(super) struct Read(Mutex<(HashMap<Digest, Arc<Links>>, u64)>);

impl Read {
    /// What the document of this digest leads to; `None` where the store has none that can be read.
    pub(super) fn get(&self, store: &Store, digest: &Digest) -> Result<Option<Arc<Links>>> {
        if let Some(links) = self.0.lock().unwrap_or_else(PoisonError::into_inner).0.get(digest) {
            return Ok(Some(links.clone()));
        }
        let read = store.read_blob_small(digest, DOCUMENT_MAX).and_then(|raw| Links::parse(&raw));
        let links = match read {
            Ok(links) => Arc::new(links),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::Mismatch
                        | ErrorKind::InvalidData
                        | ErrorKind::TooLarge
                        | ErrorKind::Unsupported
                ) =>
            {
                tracing::debug!(%error, %digest, "not served");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.remember(links.clone());
        Ok(Some(links))
    }

    pub(super) fn remember(&self, links: Arc<Links>) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, bytes) = &mut *read;
        if *bytes + links.size > REMEMBERED {
            known.clear();
            *bytes = 0;
        }
        *bytes += links.size;
        known.insert(links.digest, links);
    }
}

/// The type of a manifest that a client has sent as this.
///
/// # Errors
/// `InvalidData` where the two don't fit, or nobody knows the type.
pub(super) fn check_type(links: &Links, sent: Option<&str>) -> Result<String> {
    let sent = sent.map(|sent| sent.split(';').next().unwrap_or_default().trim());
    let kind = sent.filter(|sent| !sent.is_empty()).unwrap_or(&links.media_type);
    let is_known = if links.is_index { media::is_index(kind) } else { media::is_manifest(kind) };
    if !is_known || (links.says_type && kind != links.media_type) {
        let what = if links.is_index { "index" } else { "manifest" };
        return Err(Error::new(
            ErrorKind::InvalidData,
            format!("{what} of type {:?} sent as {kind:?}", links.media_type),
        ));
    }
    Ok(kind.to_owned())
}
