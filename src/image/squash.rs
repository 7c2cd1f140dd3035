//! Images with fewer layers: all that an image shows as one.
#![forbid(unsafe_code)]

use super::Image;
use super::edit::{Draft, HistoryLine, has_layer, oci, take_history};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Below, Layer, Lower, for_caller};
use crate::store::clock;
use crate::sys::idmap::is_privileged;
use serde_json::{Value, json};
use std::collections::BTreeSet;

impl Image {
    /// The same files and settings in one layer: what a layer hides of those below it is gone. An image of one layer, or of none,
    /// stays as it is. Unnamed: see [above](Self::scratch).
    ///
    /// # Errors
    /// `Unsupported` for the host image; those of the file system.
    pub fn squash(&self) -> Result<Self> {
        self.squash_above(0)
    }

    /// The same of the layers above those of `base`, which stay shared with it. `base` may be an image of any store.
    ///
    /// # Errors
    /// `InvalidInput` where this image does not stand on `base`: where not all of its layers are the lowest of this one; and as
    /// [`squash`](Self::squash).
    pub fn squash_onto(&self, base: &Self) -> Result<Self> {
        self.check_base(base)?;
        self.squash_above(base.config().diff_ids().len())
    }

    fn squash_above(&self, kept: usize) -> Result<Self> {
        self.refuse_host()?;
        let all = self.config().diff_ids().len();
        let above = all - kept;
        if above < 2 {
            return Ok(self.clone());
        }
        let layer = match kept {
            0 => self.files(|below| {
                let root = below.told_root(above)?;
                Layer::of_flattened(self.store(), root, |archive| {
                    archive.layers(below, &BTreeSet::new(), false)
                })
            })?,
            _ => self.layer_above(above)?,
        };
        let mut layers = self.oci_layers();
        layers.truncate(kept);
        layers.push(oci(layer.descriptor()));
        let mut diff_ids = self.config().diff_ids()[..kept].to_vec();
        diff_ids.push(layer.diff_id());
        let created = self.now();
        let line = HistoryLine {
            created,
            created_by: String::new(),
            comment: Some(format!("{above} layers of {} as one", self.id())),
            author: None,
        };
        let config = self.config().edit(|value| {
            value["created"] = json!(clock::rfc3339(created));
            value["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
            let mut lines = take_history(value, all);
            let merged = lines.iter_mut().filter(|line| has_layer(line)).skip(kept);
            merged.for_each(|line| line["empty_layer"] = json!(true));
            lines.push(line.to_json(false));
            value["history"] = Value::Array(lines);
            Ok(())
        })?;
        Draft { config, layers }.make(self.store(), self.0.fixed)
    }

    /// What the topmost layers change as one layer.
    fn layer_above(&self, above: usize) -> Result<Layer> {
        let layers = self.layer_dirs()?;
        let owners = for_caller();
        let below = |from: usize| {
            let lowers =
                layers[from..].iter().map(|layer| Lower::new(layer.dir(), || layer.meta())).collect();
            Below::new(lowers, !is_privileged(), Some(&*owners))
        };
        let (mut all, mut base) = (below(0), below(above));
        let mut make = || {
            let root = all.told_root(above)?;
            Layer::of_flattened(self.store(), root, |archive| {
                archive.layers_above(&mut all, &mut base, above)
            })
        };
        make().map_err(|error| error.during(format!("reading files of the image {}", self.id())))
    }

    /// Whether the layers of `base` are the lowest of this image.
    pub(super) fn check_base(&self, base: &Self) -> Result<()> {
        self.refuse_host()?;
        base.refuse_host()?;
        let (own, below) = (self.config().diff_ids(), base.config().diff_ids());
        if own.starts_with(below) {
            return Ok(());
        }
        let same = own.iter().zip(below).take_while(|(own, below)| own == below).count();
        let what = format!(
            "image {} does not stand on {}: of its {} layers the lowest {same} are the same",
            self.id(),
            base.id(),
            below.len()
        );
        Err(Error::new(ErrorKind::InvalidInput, what)
            .with_remedy("give the very image that it was made of; Store::image_tree shows which are there"))
    }
}
