//! What a stage begins with: nothing, an earlier stage, an image of the store or of a registry, a further context.
#![forbid(unsafe_code)]

use super::stage::Finished;
use super::transfer::{From, Transfer};
use super::work::{Named, Work};
use crate::digest::Digest;
use crate::dockerfile::{Base, Stage, nearest};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::manifest::{DEFAULT_PATH, Platform};
use crate::reference::Reference;
use serde_json::json;
use std::sync::{Arc, PoisonError};

/// An image is named by its id from so many digits on: a shorter one may be a name.
const ID_MIN: usize = 12;

impl Work<'_> {
    /// The image that a stage begins with, and, of an earlier stage, its variables.
    pub(super) fn base(&self, at: usize, stage: &Stage) -> Result<Finished> {
        let env = |name: &str| self.globals.get(name);
        let name = stage.expand_base(&env)?.text;
        let platform = match stage.expand_platform(&env)? {
            Some(platform) if !platform.text.is_empty() => Some(platform.text.parse::<Platform>()?),
            _ => self.build.platform.clone(),
        };
        if let Some(context) = self.named(&name) {
            return self.of_context(context, platform.as_ref()).map(Finished::of);
        }
        match super::graph::base_of(&self.file, at, &name)? {
            // As in BuildKit it has no machine of its own.
            Base::Scratch => self.scratch(self.build.platform.as_ref()).map(Finished::of),
            Base::Stage(other) => self.stage(other).map(|done| Finished::clone(&done)),
            Base::Image(name) => self
                .image(&name, platform.as_ref())
                .map(Finished::of)
                .map_err(|error| self.or_a_stage(&name, error)),
        }
    }

    /// A name that leads to no image may be a stage's, misspelt.
    pub(super) fn or_a_stage(&self, name: &str, error: Error) -> Error {
        let names = self.file.stages().iter().filter_map(|stage| stage.name.as_deref());
        match nearest(name, names) {
            Some(near) => error.with_remedy(format!("did you mean the stage {near}?")),
            None => error,
        }
    }

    /// A further context by its name: as it is written, or another writing of the same image's name.
    pub(super) fn named(&self, name: &str) -> Option<&Named> {
        let exact = self.contexts.iter().rev().find(|(other, _)| other == name);
        let reference = || name.parse::<Reference>().ok();
        let same = || {
            let wanted = reference()?;
            self.contexts
                .iter()
                .rev()
                .find(|(other, _)| other.parse::<Reference>().ok() == Some(wanted.clone()))
        };
        exact.or_else(same).map(|(_, context)| context)
    }

    fn of_context(&self, context: &Named, platform: Option<&Platform>) -> Result<Image> {
        match context {
            Named::Image(name) => self.image(name, platform),
            Named::Files(context) if context.is_empty() => self.scratch(platform),
            Named::Files(context) => {
                // All of it is the root filesystem.
                let transfer = Transfer::mount("").times(self.epoch).until(self.deadline());
                let scratch = self.scratch(platform)?;
                let from = From::Context(context);
                let copied = transfer.digest(self.store, from)?;
                let key =
                    super::history::key(scratch.id(), &["context", &copied.to_string(), &self.epoch_part()]);
                self.kept(&key, || {
                    let layer = transfer.layer(self.store, from, None)?;
                    self.derived(&scratch, Some(&layer), format!("COPY . / # {copied}"), None, |_| Ok(()))
                })
                .map(|(image, _)| image)
            }
        }
    }

    /// What time all is of, as a part of what steps depend on.
    pub(super) fn epoch_part(&self) -> String {
        self.epoch.map(crate::store::clock::rfc3339).unwrap_or_default()
    }

    /// Nothing, as docker begins with it.
    pub(super) fn scratch(&self, platform: Option<&Platform>) -> Result<Image> {
        let host = Platform::host();
        let platform = platform.unwrap_or(&host).normal();
        let mut config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": { "Env": [format!("PATH={DEFAULT_PATH}")], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [] },
            "history": [],
        });
        if let Some(variant) = &platform.variant {
            config["variant"] = json!(variant);
        }
        Image::blank(self.store, &config)
    }

    /// An image by its name or id, pulled where that is to be. Each is found once in a build.
    pub(super) fn image(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        let key = (name.to_owned(), platform.map(ToString::to_string).unwrap_or_default());
        let place = {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(images.entry(key).or_default())
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = &*place {
            return Ok(image.clone());
        }
        let image = self.find(name, platform)?;
        *place = Some(image.clone());
        Ok(image)
    }

    fn find(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_id = hex.len() >= ID_MIN && hex.len() <= 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id {
            match self.store.image(name) {
                Err(error) if error.kind() == ErrorKind::NotFound && hex.len() < 64 => {}
                other => return other.and_then(|image| suitable(image, name, platform)),
            }
        }
        self.find_by_name(name, platform)
    }

    #[cfg(feature = "registry")]
    fn find_by_name(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        use super::event::BuildEvent;
        let teller = self.teller.clone();
        let told = name.to_owned();
        let mut pull = crate::registry::Pull::new(name).policy(self.build.pull).observe(move |event| {
            teller.tell(BuildEvent::Pull { name: told.clone(), event: event.clone() });
        });
        if let Some(platform) = platform {
            pull = pull.platform(platform.clone());
        }
        if let Some(change) = &self.build.puller {
            pull = change(pull);
        }
        let until = self.deadline();
        pull.until(until).run(self.store).map_err(|error| {
            let error = super::work::late(error, until);
            let wanted = platform.cloned().unwrap_or_else(Platform::host);
            match self.store.image(name) {
                Ok(image) if !image.config().platform().is_for(&wanted) => error.during(format!(
                    "the store has {name} for {}, not for {wanted}",
                    image.config().platform()
                )),
                _ => error,
            }
        })
    }

    #[cfg(not(feature = "registry"))]
    fn find_by_name(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        // A name, and not the beginning of an id.
        let reference: Reference = name.parse()?;
        let image = self.store.image(&reference.to_string()).map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_remedy(
                "load or import it first: this program was built without the feature \"registry\"",
            ),
            _ => error,
        })?;
        suitable(image, name, platform)
    }
}

/// An image is for the machine that was asked for.
fn suitable(image: Image, name: &str, platform: Option<&Platform>) -> Result<Image> {
    match platform {
        Some(wanted) if !image.config().platform().is_for(wanted) => {
            let what = format!("the image {name:?} is for {}, not for {wanted}", image.config().platform());
            Err(Error::new(ErrorKind::Unsupported, what))
        }
        _ => Ok(image),
    }
}

/// What tells two images apart by their files alone.
pub(super) fn files_of(image: &Image) -> Digest {
    let text: String = image.config().diff_ids().iter().map(|id| format!("{id}\n")).collect();
    Digest::of(text.as_bytes())
}
