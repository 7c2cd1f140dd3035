//! What a layer has that its directory cannot hold.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::store::Base;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// Kept beside the files of an unpacked layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LayerMeta {
    /// Digest of the archive, uncompressed; what the layer is.
    pub(crate) diff_id: Option<Digest>,
    /// What it is together with the layers below it.
    pub(crate) chain_id: Option<Digest>,
    /// Which ids its files have on disk.
    pub(crate) base: Base,
    /// Digest and size of the blob that it was unpacked from; the same layer may come in other compressions.
    pub(crate) digest: Option<Digest>,
    pub(crate) size: u64,
    /// What is unpacked is the same whatever lies below, so it is filed under the diff_id.
    pub(crate) self_contained: bool,
    /// The archive says what the root directory itself is like. Otherwise a layer below does, and
    /// failing all it is root's, with mode 0755.
    pub(crate) root: bool,
    /// Entries of the archive, and bytes of it uncompressed.
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Device nodes by path.
    pub(crate) devices: BTreeMap<PathText, Device>,
    /// Owners that the files on disk do not have, by path.
    pub(crate) owners: BTreeMap<PathText, Owner>,
    /// What was left out, and why.
    pub(crate) skipped: Vec<Skipped>,
    /// More was left out than is listed.
    pub(crate) skipped_more: u64,
}

/// A device node of the image. It is never made: a node on a file system of the host opens the host's device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

/// The image's owner of a file that belongs to the caller on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The value of `security.capability`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capability: Option<Vec<u8>>,
}

/// Something of the archive that is not in the layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) path: PathText,
    pub(crate) what: String,
}

/// A path as text: names are bytes, JSON is Unicode. `%` and what is not UTF-8 is written as `%25`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PathText(pub(crate) Vec<u8>);

impl std::borrow::Borrow<[u8]> for PathText {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            text.push_str(&chunk.valid().replace('%', "%25"));
            for byte in chunk.invalid() {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::pax::unescape(text.as_bytes())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a path with a broken escape"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_json() {
        let meta = LayerMeta {
            owners: BTreeMap::from([(
                PathText(b"a%b/\xff\xfe/\xc3\xa4".to_vec()),
                Owner { uid: 1, gid: 2, capability: Some(vec![1, 10, 0]) },
            )]),
            ..LayerMeta::default()
        };
        let json = serde_json::to_string(&meta).unwrap();
        assert!(json.contains("a%25b/%FF%FE/ä"), "{json}");
        assert_eq!(serde_json::from_str::<LayerMeta>(&json).unwrap().owners, meta.owners);
    }
}
