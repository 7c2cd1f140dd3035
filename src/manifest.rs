//! Descriptors, manifests, indexes and configurations of images (image-spec; docker's schema 2).
//!
//! What was read keeps its bytes, because a digest is over bytes; a field that is unknown here
//! survives. Whatever can be wrong is found when it is read, so the getters have no errors.
#![forbid(unsafe_code)]

mod config;
pub(crate) mod media;

pub use config::{Healthcheck, ImageConfig};
pub use oci_spec::image::History;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The most bytes of a manifest, an index or a configuration.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;

/// What an index calls an image (image-spec, `annotations.md`).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name that docker and containerd write beside it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Type, digest and size of a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// What kind of content it is.
    #[serde(default)]
    pub media_type: String,
    /// The digest of the blob's bytes.
    pub digest: Digest,
    /// How many bytes the blob has.
    pub size: u64,
    /// In an index: for which machine the image is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Whatever else it said.
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            extra: Map::new(),
        }
    }
}

/// The machine that an image is made for, in Go's words: `amd64`, `arm64`, `linux`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Platform {
    /// The processor.
    #[serde(default)]
    pub architecture: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The variant of the processor, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Whatever else it said.
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

impl Platform {
    /// This machine's.
    pub(crate) fn host() -> Self {
        Self {
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                "x86" => "386",
                "riscv64" => "riscv64",
                other => other,
            }
            .to_owned(),
            os: "linux".to_owned(),
            variant: None,
            extra: Map::new(),
        }
    }

    pub(crate) fn is_host(&self) -> bool {
        let host = Self::host();
        self.os == host.os && self.architecture == host.architecture
    }
}

/// An image's manifest: its configuration and its layers, lowest first.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    raw: Vec<u8>,
    digest: Digest,
    parts: ManifestParts,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestParts {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    pub(crate) fn parse(raw: Vec<u8>) -> Result<Self> {
        let parts: ManifestParts = parse("image manifest", &raw)?;
        if parts.schema_version != 2 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("image manifest of schema version {}", parts.schema_version),
            ));
        }
        Ok(Self { digest: Digest::of(&raw), raw, parts })
    }

    /// A new OCI manifest.
    pub(crate) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Result<Self> {
        let parts = ManifestParts {
            schema_version: 2,
            media_type: media::MANIFEST.to_owned(),
            config,
            layers,
            annotations: BTreeMap::new(),
        };
        let raw = encode(&parts)?;
        Ok(Self { digest: Digest::of(&raw), raw, parts })
    }

    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The media type it says it has, else OCI's.
    pub(crate) fn media_type(&self) -> &str {
        if self.parts.media_type.is_empty() { media::MANIFEST } else { &self.parts.media_type }
    }

    pub(crate) fn config(&self) -> &Descriptor {
        &self.parts.config
    }

    pub(crate) fn layers(&self) -> &[Descriptor] {
        &self.parts.layers
    }

    /// A descriptor of this manifest.
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type(), self.digest, self.raw.len() as u64)
    }
}

/// A list of manifests: an image for several machines, or the `index.json` of an image layout.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Index {
    pub(crate) fn parse(raw: &[u8]) -> Result<Self> {
        let index: Self = parse("image index", raw)?;
        if index.schema_version != 2 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("image index of schema version {}", index.schema_version),
            ));
        }
        Ok(index)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: media::INDEX.to_owned(),
            manifests: Vec::new(),
            extra: Map::new(),
        }
    }
}

/// A manifest or an index: a descriptor's blob.
pub(crate) enum Document {
    Manifest(Box<Manifest>),
    Index(Index),
}

impl Document {
    /// Reads whichever it is. What could be read as either is refused (CVE-2021-41190).
    pub(crate) fn parse(raw: Vec<u8>) -> Result<Self> {
        #[derive(Deserialize)]
        struct Shape {
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            #[serde(default, rename = "mediaType")]
            media_type: String,
        }
        let shape: Shape = parse("image manifest", &raw)?;
        let both = shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some());
        let says_index = media::is_index(&shape.media_type);
        let says_manifest = media::is_manifest(&shape.media_type);
        if both || (says_index && shape.manifests.is_none()) || (says_manifest && shape.manifests.is_some()) {
            return Err(Error::new(ErrorKind::InvalidData, "both a manifest and an index of manifests"));
        }
        match shape.manifests {
            Some(_) => Index::parse(&raw).map(Self::Index),
            None => Ok(Self::Manifest(Box::new(Manifest::parse(raw)?))),
        }
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))
}

/// Reads a bounded JSON document.
pub(crate) fn parse<T: DeserializeOwned>(what: &'static str, raw: &[u8]) -> Result<T> {
    if raw.len() as u64 > DOCUMENT_MAX {
        return Err(Error::new(ErrorKind::TooLarge, format!("{what} of more than {DOCUMENT_MAX} bytes")));
    }
    serde_json::from_slice(raw).map_err(|error| Error::new(ErrorKind::InvalidData, what).with_source(error))
}

/// Go writes `null` for what is empty.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
