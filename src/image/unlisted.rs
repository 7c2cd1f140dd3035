//! Images of a build's steps: neither listed nor named, until the last of them is.
#![forbid(unsafe_code)]

use super::Image;
use super::edit::Draft;
use crate::error::Result;
use crate::manifest::{Descriptor, ImageConfig, encode};
use crate::reference::Reference;
use crate::store::index::{name_of, set_name};
use crate::store::{Store, UnpackedLayer};
use serde_json::Value;

impl Image {
    /// The same image with a configuration that is changed and nothing more: no line of history, no other time.
    pub(crate) fn retouched(&self, edit: impl FnOnce(&mut Value) -> Result<()>) -> Result<Self> {
        self.refuse_host()?;
        let config = self.0.config.edit(edit)?;
        Draft { config, layers: self.oci_layers() }.make(&self.0.store, None)
    }

    /// An image of nothing, for a build `FROM scratch`.
    pub(crate) fn blank(store: &Store, config: &Value) -> Result<Self> {
        let config = ImageConfig::parse(encode(config)?)?;
        Draft { config, layers: Vec::new() }.make(store, None)
    }

    /// Lists it in the store under these names, or without any. What is so already costs nothing.
    pub(crate) fn list(&self, names: &[Reference]) -> Result<()> {
        let entries = self.0.store.index()?.manifests;
        let mine = |name: Option<&Reference>| {
            let is = |entry: &&Descriptor| entry.digest == self.0.listed.digest;
            entries.iter().filter(is).any(|entry| name.is_none() || name_of(entry).as_ref() == name)
        };
        if mine(None) && names.iter().all(|name| mine(Some(name))) {
            return Ok(());
        }
        // Those that are there before all is synced: what is unpacked meanwhile may not be on the disk.
        let layers = self.unpacked()?;
        self.0.store.sync()?;
        layers.iter().try_for_each(UnpackedLayer::settle)?;
        self.0.store.update_index(|index| {
            for name in names {
                set_name(index, &self.entry(index, name), Some(name));
            }
            if names.is_empty() {
                set_name(index, &self.0.listed, None);
            }
            Ok(())
        })
    }

    /// Its layers, as far as they are unpacked.
    fn unpacked(&self) -> Result<Vec<UnpackedLayer>> {
        let (config, owners) = (&self.0.config, crate::layer::for_caller());
        let mut all = Vec::new();
        for (diff_id, chain_id) in config.diff_ids().iter().zip(config.chain_ids()) {
            all.extend(crate::layer::find(&self.0.store, diff_id, &chain_id, &*owners)?);
        }
        Ok(all)
    }
}
