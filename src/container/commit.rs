//! Containers into images.
#![forbid(unsafe_code)]

use super::Container;
use super::settings;
use super::spec::{MountKind, Spec};
use super::written::{Pause, Written};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "build")]
use crate::image::instruction;
use crate::image::{HistoryLine, Image, Revision};
#[cfg(feature = "build")]
use crate::layer::Changed;
use crate::reference::Reference;
use crate::signal::Signal;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

type Observer = dyn Fn(&Path, &str) + Send + Sync;

/// Makes an image of a container; see [`Container::committing`].
#[derive(Clone)]
#[must_use]
pub struct Commit<'a> {
    container: &'a Container,
    name: Option<String>,
    pause: Pause,
    author: Option<String>,
    message: Option<String>,
    created: Option<SystemTime>,
    latest: Option<SystemTime>,
    observer: Option<Arc<Observer>>,
    #[cfg(feature = "build")]
    changes: Vec<String>,
}

impl Container {
    /// Makes an image of the container and gives it this name, which is taken from another that has it: the layers of its own
    /// image, and one with what it has changed, if it has. The container runs or not; one that runs is paused meanwhile.
    /// [`committing`](Self::committing) has choices.
    ///
    /// As docker's, the new image has the settings that the container was made with: its command, entrypoint, environment, user,
    /// working directory, labels, ports, anonymous volumes and stop signal.
    ///
    /// # Errors
    /// As [`Commit::run`].
    pub fn commit(&self, name: &str) -> Result<Image> {
        self.committing().name(name).run()
    }

    /// Begins to make an image of the container.
    ///
    /// ```
    /// use coracle::{Container, Import, Store};
    /// let store = Store::temp()?;
    /// let dir = tempfile::tempdir().unwrap();
    /// let base = Import::new().cmd(["/bin/true"]).path(&store, dir.path())?;
    /// let container = Container::builder(&base).label("stage", "done").create()?;
    /// let image = container.committing().name("me/app:1").author("me").message("as it is").run()?;
    /// assert_eq!(image.config().labels()["stage"], "done");
    /// assert_eq!(image.layers()?.len(), 1); // nothing has changed
    /// # Ok::<(), coracle::Error>(())
    /// ```
    pub fn committing(&self) -> Commit<'_> {
        Commit {
            container: self,
            name: None,
            pause: Pause::Yes,
            author: None,
            message: None,
            created: None,
            latest: None,
            observer: None,
            #[cfg(feature = "build")]
            changes: Vec::new(),
        }
    }

    /// What the container has changed as a layer of its image's store, `None` where that is nothing, and what no layer has; times later than `latest`
    /// are `latest`. The layer is unpacked already, so that an image with it can be used at once. It has to be stopped, or
    /// is read while it goes on. The caller is [writing](crate::store::Store::writing).
    #[cfg(feature = "build")]
    pub(crate) fn difference(
        &self,
        latest: Option<SystemTime>,
        scan: Option<crate::layer::Scan<'_>>,
    ) -> Result<Changed> {
        let written = self.written(Pause::No)?;
        written.layer(latest, true, scan).map_err(during)
    }
}

fn during(error: Error) -> Error {
    error.during("making a layer of a container's changes")
}

impl Commit<'_> {
    /// The name of the image, which is taken from another that has it. Without one it has only its id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether a container that runs is paused meanwhile; by default it is. Without, it may be caught in the midst of its work,
    /// and where it cuts a file short just then, that is an error. A program that is killed just then leaves another one's
    /// container paused, until any program opens it ([`Store::containers`](crate::Store::containers), `coracle ps`) or asks for its
    /// [`state`](Container::state). Of two commits at once the second waits for the first one's pause to end.
    pub fn pause(mut self, yes: bool) -> Self {
        self.pause = if yes { Pause::Yes } else { Pause::No };
        self
    }

    /// Who made the image.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// The comment in the image's history.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// A change to the image's settings, as an instruction of a Dockerfile: `CMD ["nginx"]`, `ENV A=1`. There may be several.
    ///
    /// A change does what it says, as in a build. `docker commit --change` merges what it gives with the container's settings once
    /// more: there `ENTRYPOINT []` changes nothing, `CMD []` without an entrypoint keeps the old command, and HEALTHCHECK keeps
    /// the intervals that it does not give.
    #[cfg(feature = "build")]
    pub fn change(mut self, instruction: impl Into<String>) -> Self {
        self.changes.push(instruction.into());
        self
    }

    /// When the image was made; now by default.
    pub fn created(mut self, created: SystemTime) -> Self {
        self.created = Some(created);
        self
    }

    /// The image was made then, and files that were modified later count as modified then: the same changes give the same
    /// image. It is what the environment variable `SOURCE_DATE_EPOCH` says to programs that look for it; this library does
    /// not.
    pub fn source_date_epoch(mut self, time: SystemTime) -> Self {
        (self.created, self.latest) = (Some(time), Some(time));
        self
    }

    /// Told of each file that the image does not get, below the container's root, and why: a layer has no sockets.
    pub fn on_left_out(mut self, observer: impl Fn(&Path, &str) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Makes the image. Its new layer is a plain archive with its entries in the order of their names: the same changes have
    /// the same digest. A push compresses it. The layer is unpacked in the same pass, so that containers of the image start at
    /// once; where a container is paused for it, that is left to the first of them, and the pause half as long.
    ///
    /// Sockets are left out ([`on_left_out`](Self::on_left_out)), and what else no layer can have is an error that names it.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, a change that is none, a setting that is not UTF-8, or a file called `.wh.…`,
    /// which layers have another use for. `Unsupported` for a container of the host image, where a container that runs can't
    /// be paused and is to be, and for a file of an owner whom the container does not know itself. `State` for one whose
    /// writable layer was in memory and that has ended. `TooLarge` for a path that is longer than 4095 bytes or deeper than 512
    /// directories. `InUse` where a file changed while it was read. `StorageFull` where less of the disk would stay free than
    /// a fiftieth (at most 256 MiB).
    pub fn run(self) -> Result<Image> {
        let name = match self.name.as_ref().map(|name| name.parse::<Reference>()).transpose()? {
            Some(name) if name.digest().is_some() => {
                let what = format!("image name {name}: a digest can't be given");
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
            name => name,
        };
        // A mistake in them is told before anything is stopped.
        #[cfg(feature = "build")]
        instruction::parse_changes(&self.changes)?;
        // The new blob belongs to nobody until the image is there. A collection is waited for before the container stands still.
        let _writing = self.container.0.store.writing()?;
        let written = self.container.written(self.pause)?;
        let settings = Settings::of(&written)?;
        // Its blob is synced, as what the image is: what is unpacked can be had from it again.
        let deferred = self.container.0.store.defer();
        let (layer, left_out) = written.layer(self.latest, !written.is_frozen(), None).map_err(during)?;
        drop(deferred);
        let image = written.image.clone();
        written.go_on()?;
        if let Some(observer) = &self.observer {
            left_out.iter().for_each(|(path, why)| observer(path, why));
        }
        let created = self.created.unwrap_or_else(SystemTime::now);
        let history = HistoryLine {
            created,
            created_by: settings.created_by.clone(),
            comment: self.message.clone(),
            author: self.author.clone(),
        };
        let revision = Revision { layer: layer.as_ref(), history, created: None };
        image.try_derive(revision, name, |config| {
            if let Some(author) = &self.author {
                config["author"] = json!(author);
            }
            settings.apply(&mut config["config"]);
            self.make_changes(config)
        })
    }

    #[cfg(feature = "build")]
    fn make_changes(&self, config: &mut Value) -> Result<()> {
        instruction::apply_changes(config, &instruction::parse_changes(&self.changes)?)
    }

    #[cfg(not(feature = "build"))]
    fn make_changes(&self, _: &mut Value) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Commit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("container", &self.container)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a container was made with, for its image.
struct Settings {
    created_by: String,
    /// Fields of the configuration with their new values; null takes one away.
    fields: Vec<(&'static str, Value)>,
    /// Keys that are added to what a field has.
    added: Vec<(&'static str, String, Value)>,
}

fn text(word: &OsStr) -> Result<&str> {
    word.to_str().ok_or_else(|| {
        let what = format!("{word:?} is not UTF-8: the settings of an image are");
        Error::new(ErrorKind::InvalidInput, what).with_remedy("make the container with another value")
    })
}

fn texts(words: &[OsString]) -> Result<Vec<&str>> {
    words.iter().map(|word| text(word)).collect()
}

impl Settings {
    fn of(written: &Written<'_>) -> Result<Self> {
        let (spec, config) = (&written.record.spec, written.image.config());
        let words = settings::words(spec, config).unwrap_or_default();
        let mut fields = Vec::new();
        let mut set = |key, value: Value| fields.push((key, value));
        if let Some(entrypoint) = &spec.entrypoint {
            set("Entrypoint", json!(texts(entrypoint)?));
        }
        if spec.entrypoint.is_some() || spec.command.is_some() || !spec.args.is_empty() {
            let of_image = || match spec.entrypoint {
                Some(_) => Vec::new(),
                None => config.cmd().iter().map(String::as_str).collect(),
            };
            let mut cmd = spec.command.as_deref().map_or_else(|| Ok(of_image()), texts)?;
            cmd.extend(texts(&spec.args)?);
            set("Cmd", if cmd.is_empty() { Value::Null } else { json!(cmd) });
        }
        if !spec.env.is_empty() || spec.env_cleared {
            let of_image = config.env().iter().filter(|_| !spec.env_cleared);
            let of_image = of_image.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let of_image = of_image.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
            let own = spec.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
            let pairs = settings::environment(of_image.chain(own));
            set("Env", json!(texts(&settings::joined(&pairs))?));
        }
        if let Some(user) = &spec.user {
            set("User", json!(user));
        }
        if let Some(dir) = &spec.working_dir {
            set("WorkingDir", json!(text(dir.as_os_str())?));
        }
        if let Some(signal) = spec.stop_signal {
            set("StopSignal", json!(Signal::try_from(signal)?.to_string()));
        }
        let created_by = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        Ok(Self { created_by, fields, added: added(spec)? })
    }

    fn apply(&self, config: &mut Value) {
        for (key, value) in &self.fields {
            match (value, config.as_object_mut()) {
                (Value::Null, Some(config)) => drop(config.remove(*key)),
                _ => config[*key] = value.clone(),
            }
        }
        for (field, key, value) in &self.added {
            if !config[*field].is_object() {
                config[*field] = json!({});
            }
            config[*field][key] = value.clone();
        }
    }
}

fn added(spec: &Spec) -> Result<Vec<(&'static str, String, Value)>> {
    let mut all = Vec::new();
    for (name, value) in &spec.labels {
        all.push(("Labels", name.clone(), json!(value)));
    }
    for publish in &spec.publish {
        all.push(("ExposedPorts", format!("{}/tcp", publish.container), json!({})));
    }
    for mount in &spec.mounts {
        if matches!(mount.kind, MountKind::Volume { anonymous: true, .. }) {
            all.push(("Volumes", text(mount.target.as_os_str())?.to_owned(), json!({})));
        }
    }
    Ok(all)
}
