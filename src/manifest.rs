//! Descriptors, manifests, indexes and configurations of images (image-spec; docker's schema 2).
//!
//! What was read keeps its bytes, because a digest is over bytes; a field that is unknown here
//! survives. Whatever can be wrong is found when it is read, so the getters have no errors.
#![forbid(unsafe_code)]

mod config;
pub(crate) mod media;
mod platform;

pub(crate) use config::DEFAULT_PATH;
pub use config::{Healthcheck, ImageConfig};
pub use oci_spec::image::History;
pub use platform::Platform;

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

/// What the name of a pulled image led to in its registry, where that is not its manifest but an index.
pub(crate) const ORIGIN: &str = "coracle.origin.digest";
/// For which machine it was chosen from that index, whose word counts: configurations may be wrong, or say less.
pub(crate) const ORIGIN_PLATFORM: &str = "coracle.origin.platform";

/// The repositories, with their registries, that an image came from and went to: separated by spaces, the last ones.
#[cfg(feature = "registry")]
pub(crate) const REPOSITORIES: &str = "coracle.repositories";

/// What plain layers of an image are when they are compressed, for each compression (`.gzip`, `.zstd`):
/// `PLAIN=COMPRESSED/SIZE`, separated by spaces.
#[cfg(feature = "registry")]
pub(crate) const PACKED: &str = "coracle.packed";

/// Type, digest and size of a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// What kind of content it is.
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: String,
    /// The digest of the blob's bytes.
    pub digest: Digest,
    /// How many bytes the blob has.
    pub size: u64,
    /// In an index: for which machine the image is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nulls_are_empty")]
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
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    media_type: String,
    config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nulls_are_empty")]
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
#[serde(from = "IndexParts", into = "IndexParts")]
pub(crate) struct Index {
    schema_version: u32,
    media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
    /// Those whose digests are of another algorithm: nothing here can read them, but they stay.
    foreign: Vec<Foreign>,
    extra: Map<String, Value>,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexParts {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    media_type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Listed>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Listed {
    Known(Descriptor),
    Foreign(Foreign),
}

/// A descriptor by a digest that is not known.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Foreign(Map<String, Value>);

impl Foreign {
    pub(crate) fn digest(&self) -> &str {
        self.0.get("digest").and_then(Value::as_str).unwrap_or_default()
    }

    fn platform(&self) -> Option<Platform> {
        self.0.get("platform").and_then(|platform| Platform::deserialize(platform).ok())
    }
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error as _;
        let listed = Map::deserialize(deserializer)?;
        let digest = listed.get("digest").and_then(Value::as_str).map(str::parse::<Digest>);
        match digest {
            Some(Err(error)) if error.kind() == ErrorKind::Unsupported => Ok(Self::Foreign(Foreign(listed))),
            _ => Descriptor::deserialize(Value::Object(listed)).map(Self::Known).map_err(D::Error::custom),
        }
    }
}

impl From<IndexParts> for Index {
    fn from(parts: IndexParts) -> Self {
        let IndexParts { schema_version, media_type, manifests: all, extra } = parts;
        let (mut manifests, mut foreign) = (Vec::new(), Vec::new());
        for listed in all {
            match listed {
                Listed::Known(descriptor) => manifests.push(descriptor),
                Listed::Foreign(other) => foreign.push(other),
            }
        }
        Self { schema_version, media_type, manifests, foreign, extra }
    }
}

impl From<Index> for IndexParts {
    fn from(index: Index) -> Self {
        let Index { schema_version, media_type, manifests, foreign, extra } = index;
        let known = manifests.into_iter().map(Listed::Known);
        let manifests = known.chain(foreign.into_iter().map(Listed::Foreign)).collect();
        Self { schema_version, media_type, manifests, extra }
    }
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

    /// The media type it says it has, else OCI's.
    #[cfg(feature = "registry")]
    pub(crate) fn media_type(&self) -> &str {
        if self.media_type.is_empty() { media::INDEX } else { &self.media_type }
    }

    /// Those that it has by digests that are not known.
    #[cfg(feature = "registry")]
    pub(crate) fn foreign(&self) -> &[Foreign] {
        &self.foreign
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    /// The image for a machine. One that says for which it is comes before one that says nothing, a nearer variant
    /// before another, and among equals the first counts (image-spec, image-index.md).
    ///
    /// # Errors
    /// `Unsupported` where there is none; `digest` is this index's, for the words.
    pub(crate) fn choose(&self, wanted: &Platform, digest: &Digest) -> Result<&Descriptor> {
        let rank = |child: &Descriptor| match &child.platform {
            _ if media::is_no_document(&child.media_type) => None,
            None => Some((true, 0)),
            Some(platform) => platform.rank_for(wanted).map(|rank| (false, rank)),
        };
        let ranked = self.manifests.iter().filter_map(|child| rank(child).map(|rank| (rank, child)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, child)| child).ok_or_else(|| {
            let is_it = |other: &&Foreign| {
                other.platform().is_none_or(|platform| platform.rank_for(wanted).is_some())
            };
            if let Some(other) = self.foreign.iter().find(is_it) {
                let what = format!(
                    "image {digest}: for {wanted} it has {:?}, and only sha256 is known",
                    other.digest()
                );
                return Error::new(ErrorKind::Unsupported, what);
            }
            let names = self.manifests.iter().filter_map(|child| child.platform.as_ref());
            let names: Vec<_> = names.map(|platform| platform.to_string()).collect();
            let this =
                if *wanted == Platform::host() { "this machine" } else { "the machine that was asked for" };
            Error::new(
                ErrorKind::Unsupported,
                format!("image {digest} is not for {this}, {wanted}: it is for {}", names.join(", ")),
            )
        })
    }
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: media::INDEX.to_owned(),
            manifests: Vec::new(),
            foreign: Vec::new(),
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
            #[serde(default, rename = "mediaType", deserialize_with = "null_is_default")]
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

pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
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

/// And in maps of texts `null` for an empty text.
pub(crate) fn nulls_are_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    let map: BTreeMap<String, Option<String>> = null_is_default(deserializer)?;
    Ok(map.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests;
