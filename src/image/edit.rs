//! Images out of images: layers are added, the configuration is changed, and what comes of it is another image.
#![forbid(unsafe_code)]

use super::load::{publish_synced, transaction};
use super::{Image, check_layers};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::manifest::{Descriptor, ImageConfig, Manifest, media};
use crate::reference::Reference;
use crate::store::{Store, clock};
use serde_json::{Map, Value, json};
use std::time::SystemTime;

/// A line of an image's history (image-spec, `config.md`, "history"). Whether it made a layer is not said here.
#[derive(Clone, Debug)]
pub(crate) struct HistoryLine {
    pub(crate) created: SystemTime,
    /// The step, as the history shows it; empty where it has none.
    pub(crate) created_by: String,
    pub(crate) comment: Option<String>,
    pub(crate) author: Option<String>,
}

impl HistoryLine {
    pub(super) fn to_json(&self, is_empty: bool) -> Value {
        let mut line = Map::new();
        line.insert("created".to_owned(), json!(clock::rfc3339(self.created)));
        let texts = [
            ("created_by", Some(&self.created_by)),
            ("comment", self.comment.as_ref()),
            ("author", self.author.as_ref()),
        ];
        for (key, text) in texts {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                line.insert(key.to_owned(), json!(text));
            }
        }
        if is_empty {
            line.insert("empty_layer".to_owned(), json!(true));
        }
        Value::Object(line)
    }
}

/// What is done, for who reads that it failed.
const WHAT: &str = "change of an image";

/// What an image has more than the one that it is made of.
pub(crate) struct Revision<'a> {
    /// The next layer, where there is one; of the image's store.
    pub(crate) layer: Option<&'a Layer>,
    pub(crate) history: HistoryLine,
    /// When the image was made; as the line of history was, if nothing is said.
    pub(crate) created: Option<SystemTime>,
}

impl Image {
    /// A new image: this one's layers and maybe one more, its configuration changed, one more line of history. `edit` is
    /// given the whole configuration, to which the layer and the line are added already; its `config` is an object. When it
    /// fails, there is no image.
    ///
    /// It is listed in the store, also without a name.
    ///
    /// # Errors
    /// `Unsupported` for the host image, whose files are in no layer; `InvalidInput` for a layer of another store;
    /// `TooLarge` for more layers or a longer configuration than an image has.
    pub(crate) fn try_derive(
        &self,
        revision: Revision<'_>,
        name: Option<Reference>,
        edit: impl FnOnce(&mut Value) -> Result<()>,
    ) -> Result<Self> {
        let layer = revision.layer.map(Layer::digest);
        let draft = self.draft(revision, edit)?;
        let store = &self.0.store;
        transaction(store, WHAT, || {
            let manifest = draft.write(store)?;
            let is_listed = store.index()?.manifests.iter().any(|other| other.digest == self.0.listed.digest);
            if is_listed {
                // What it stands on is on the disk.
                store.sync_blobs(layer.iter().chain([&manifest.config().digest, manifest.digest()]))?;
            } else {
                store.sync()?;
            }
            publish_synced(store, manifest, name)
        })
    }

    /// The same, but neither listed nor named: it is there as long as a value of it. No index is written and no disk synced.
    pub(crate) fn derive_unlisted(
        &self,
        revision: Revision<'_>,
        edit: impl FnOnce(&mut Value) -> Result<()>,
    ) -> Result<Self> {
        self.draft(revision, edit)?.make(&self.0.store, self.0.fixed)
    }

    /// When a change of it is made.
    pub(super) fn now(&self) -> SystemTime {
        self.0.fixed.unwrap_or_else(SystemTime::now)
    }

    fn draft(&self, revision: Revision<'_>, edit: impl FnOnce(&mut Value) -> Result<()>) -> Result<Draft> {
        self.refuse_host()?;
        let Revision { layer, history, created } = revision;
        let mut layers = self.oci_layers();
        let mut diff_ids = self.0.config.diff_ids().to_vec();
        if let Some(layer) = layer {
            if layer.store().path() != self.0.store.path() {
                let error = Error::new(ErrorKind::InvalidInput, "a layer of another store than the image's");
                return Err(error.with_remedy("build the layer in the image's store"));
            }
            layers.push(oci(layer.descriptor()));
            diff_ids.push(layer.diff_id());
        }
        let below = self.0.config.diff_ids().len();
        let config = self.0.config.edit(|value| {
            value["created"] = json!(clock::rfc3339(created.unwrap_or(history.created)));
            value["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
            let mut lines = take_history(value, below);
            lines.push(history.to_json(layer.is_none()));
            value["history"] = Value::Array(lines);
            edit(value)
        })?;
        Ok(Draft { config, layers })
    }

    pub(super) fn refuse_host(&self) -> Result<()> {
        if !self.is_host() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "the host image has no layers, so no image can be made of it")
            .with_remedy("begin with Image::scratch, or import the files that are needed"))
    }

    /// The descriptors of its layers for a manifest of OCI's, which has no docker's in it.
    pub(super) fn oci_layers(&self) -> Vec<Descriptor> {
        self.0.manifest.layers().iter().cloned().map(oci).collect()
    }
}

pub(super) fn oci(mut layer: Descriptor) -> Descriptor {
    layer.media_type = media::oci_layer(&layer.media_type).to_owned();
    layer
}

/// The content of an image that is not in the store yet.
pub(super) struct Draft {
    pub(super) config: ImageConfig,
    pub(super) layers: Vec<Descriptor>,
}

impl Draft {
    /// An image of it that only its value knows.
    pub(super) fn make(self, store: &Store, fixed: Option<SystemTime>) -> Result<Image> {
        transaction(store, WHAT, || {
            let manifest = self.write(store)?;
            Image::open_as(store, &manifest.descriptor(), fixed)
        })
    }

    /// Stores its documents. The caller is [writing](Store::writing).
    pub(super) fn write(self, store: &Store) -> Result<Manifest> {
        let digest = store.put_blob(self.config.raw())?;
        let descriptor = Descriptor::new(media::CONFIG, digest, self.config.raw().len() as u64);
        let manifest = Manifest::new(descriptor, self.layers)?;
        check_layers(&manifest, &self.config)?;
        store.put_blob(manifest.raw())?;
        Ok(manifest)
    }
}

/// The lines of a configuration's history, with one for each layer at least: some tools write none, or none of some layers,
/// and the next line is to be that of its own layer.
pub(super) fn take_history(config: &mut Value, layers: usize) -> Vec<Value> {
    let mut lines = match config["history"].take() {
        Value::Array(lines) => lines,
        _ => Vec::new(),
    };
    let told = lines.iter().filter(|line| has_layer(line)).count();
    lines.extend((told..layers).map(|_| json!({ "comment": "not told" })));
    lines
}

pub(super) fn has_layer(line: &Value) -> bool {
    line["empty_layer"] != json!(true)
}
