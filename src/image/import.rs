//! Images from root filesystems.
#![forbid(unsafe_code)]

use super::Image;
use super::edit::Draft;
use super::load::{publish_one, transaction};
use super::settings::Settings;
use super::unpack;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::manifest::{Descriptor, ImageConfig};
use crate::reference::Reference;
use crate::store::{Store, clock};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

/// Makes an image of one layer from a root filesystem, as `docker import` does.
///
/// ```no_run
/// use coracle::{Import, Store};
/// let store = Store::open_default()?;
/// let image = Import::new().name("busybox:1").cmd(["/bin/sh"]).env("LANG", "C.UTF-8").path(&store, "rootfs.tar.gz")?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Import {
    name: Option<String>,
    message: Option<String>,
    author: Option<String>,
    created: Option<SystemTime>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<(String, String)>,
    labels: BTreeMap<String, String>,
    volumes: Vec<String>,
    ports: Vec<String>,
    #[cfg(feature = "build")]
    changes: Vec<String>,
}

fn strings(words: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    words.into_iter().map(Into::into).collect()
}

impl Import {
    /// With no name and no settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name of the image, which is taken from another that has it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The comment in the image's history.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Who made the image.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// When it was made; now by default. With a time given, the same archive gives the same image.
    pub fn created(mut self, created: SystemTime) -> Self {
        self.created = Some(created);
        self
    }

    /// USER.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// WORKDIR.
    pub fn working_dir(mut self, path: impl Into<String>) -> Self {
        self.working_dir = Some(path.into());
        self
    }

    /// STOPSIGNAL.
    pub fn stop_signal(mut self, signal: impl Into<String>) -> Self {
        self.stop_signal = Some(signal.into());
        self
    }

    /// ENTRYPOINT.
    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.entrypoint = strings(words);
        self
    }

    /// CMD.
    pub fn cmd(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.cmd = strings(words);
        self
    }

    /// Adds an ENV.
    pub fn env(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Adds a LABEL.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Adds a VOLUME.
    pub fn volume(mut self, path: impl Into<String>) -> Self {
        self.volumes.push(path.into());
        self
    }

    /// Adds an EXPOSE: `80/tcp`, `80`, `8000-8010/udp`.
    pub fn expose(mut self, port: impl Into<String>) -> Self {
        self.ports.push(port.into());
        self
    }

    /// Adds a change as `docker import --change` takes it: an instruction of a Dockerfile, as
    /// `CMD ["nginx", "-g", "daemon off;"]`, or several lines of them. They are made in their order, after all else that is
    /// set here: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR.
    #[cfg(feature = "build")]
    pub fn change(mut self, instruction: impl Into<String>) -> Self {
        self.changes.push(instruction.into());
        self
    }

    /// Imports a tar archive (plain, gzip or zstd), or a directory. Of a directory, sockets and what is mounted in it are left
    /// out, each with a line of `tracing`; [`Layer::left_out`] tells of a layer by itself.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, and for a setting or a change that can't be; `InvalidData` for what is no archive
    /// and for a change that is no instruction; `Unsupported` for a compression that is not known; the errors of the file
    /// system. Nothing of it stays then.
    pub fn path(&self, store: &Store, path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let during = |error: Error| error.during(format!("importing {}", path.display()));
        let metadata = std::fs::metadata(path).call_at("stat", path).map_err(during)?;
        if metadata.is_dir() {
            return self.run(store, || directory(store, path)).map_err(during);
        }
        let file = File::open(path).call_at("open", path).map_err(during)?;
        self.run(store, || unpack::import(store, file)).map_err(during)
    }

    /// Imports a tar archive from a stream.
    ///
    /// # Errors
    /// As [`path`](Self::path).
    pub fn reader(&self, store: &Store, reader: impl Read + Send) -> Result<Image> {
        self.run(store, || unpack::import(store, reader))
            .map_err(|error| error.during("importing from a stream"))
    }

    fn run(
        &self,
        store: &Store,
        layer: impl FnOnce() -> Result<(Descriptor, crate::digest::Digest)>,
    ) -> Result<Image> {
        let name = match self.name.as_ref().map(|name| name.parse::<Reference>()).transpose()? {
            Some(name) if name.digest().is_some() => {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("image name {name}: a digest can't be given"),
                ));
            }
            name => name,
        };
        // What is wrong with them is found before anything is read.
        let settings = self.settings()?;
        transaction(store, "import", || {
            let (descriptor, diff_id) = layer()?;
            let draft = Draft { config: self.config(&diff_id, settings)?, layers: vec![descriptor] };
            publish_one(store, draft.write(store)?, name)
        })
    }

    fn config(&self, diff_id: &crate::digest::Digest, settings: Value) -> Result<ImageConfig> {
        let created = clock::rfc3339(self.created.unwrap_or_else(SystemTime::now));
        let message = self.message.as_deref().unwrap_or("imported");
        let history = json!([{ "created": created, "comment": message }]);
        ImageConfig::new(&[*diff_id], history, &created)?.edit(|value| {
            for key in ["author", "config"] {
                if let Some(set) = settings.get(key) {
                    value[key] = set.clone();
                }
            }
            Ok(())
        })
    }

    /// What was asked for, as the part of a configuration that can be without files.
    fn settings(&self) -> Result<Value> {
        let mut value = json!({});
        let mut settings = Settings::of(&mut value);
        let texts = [&self.author, &self.user, &self.working_dir, &self.stop_signal];
        let [author, user, working_dir, stop_signal] = texts.map(Option::as_deref);
        author.map_or(Ok(()), |author| settings.author(author))?;
        user.map_or(Ok(()), |user| settings.user(user))?;
        working_dir.map_or(Ok(()), |path| settings.working_dir(path))?;
        stop_signal.map_or(Ok(()), |signal| settings.stop_signal(signal))?;
        settings.entrypoint(&self.entrypoint)?;
        settings.cmd(&self.cmd)?;
        self.env.iter().try_for_each(|(name, value)| settings.env(name, value))?;
        self.labels.iter().try_for_each(|(name, value)| settings.label(name, value))?;
        self.volumes.iter().try_for_each(|path| settings.volume(path))?;
        self.ports.iter().try_for_each(|port| settings.exposed_port(port))?;
        #[cfg(feature = "build")]
        super::instruction::apply_changes(&mut value, &super::instruction::parse_changes(&self.changes)?)?;
        Ok(value)
    }
}

fn directory(store: &Store, path: &Path) -> Result<(Descriptor, crate::digest::Digest)> {
    let layer = Layer::builder().dir(path).build(store)?;
    for (left_out, why) in layer.left_out() {
        tracing::warn!(path = ?left_out, why, "left out of the image");
    }
    Ok((Descriptor::new(layer.media_type(), layer.digest(), layer.size()), layer.diff_id()))
}
