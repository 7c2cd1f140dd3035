//! Images edited without a Dockerfile: a layer more, or another setting.
#![forbid(unsafe_code)]

use super::Image;
use super::edit::{Draft, HistoryLine, Revision};
use super::settings::Settings;
use crate::error::Result;
use crate::layer::{Compression, Layer, LayerBuilder};
use crate::manifest::{Healthcheck, ImageConfig};
use crate::store::{Store, clock};
use bytes::Bytes;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

fn strings(words: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    words.into_iter().map(Into::into).collect()
}

/// # Images out of images
///
/// An image never changes; each of these gives another one, with a line more in its history. It is a whole image, of which
/// containers are made, but it has no name and [`Store::images`] does not list it: it goes when no value and no container has it
/// any more, unless it was [tagged](Self::tag). So a chain of changes leaves nothing but its end.
///
/// ```
/// use coracle::{Image, Layer, Store};
/// use std::time::UNIX_EPOCH;
/// let store = Store::temp()?;
/// let files = Layer::builder().file_with_mode("bin/hello", "#!/bin/sh\necho ahoy\n", 0o755).build(&store)?;
/// let make = || {
///     Image::scratch(&store)?
///         .with_created(UNIX_EPOCH)?
///         .with_layer(&files)?
///         .with_file("/etc/motd", "welcome\n")?
///         .with_env("LANG", "C.UTF-8")?
///         .with_cmd(["/bin/hello"])
/// };
/// let image = make()?;
/// assert!(store.images()?.is_empty());
/// image.tag("hello:1")?;
/// assert_eq!((image.config().cmd(), image.config().env()), (&["/bin/hello".into()][..], &["LANG=C.UTF-8".into()][..]));
/// assert_eq!(make()?.digest(), image.digest(), "the same changes are the same image");
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// All of them fail with `Unsupported` for the host image, whose files are in no layer, with `InvalidInput` for a text with a NUL
/// byte, and with the errors of the file system.
impl Image {
    /// An image with no files and no settings, for this machine, to begin with. It has no time either.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn scratch(store: &Store) -> Result<Self> {
        let config = ImageConfig::new(&[], json!([]), "")?.edit(|value| {
            value.as_object_mut().map(|config| config.remove("created"));
            Ok(())
        })?;
        Draft { config, layers: Vec::new() }.make(store, None)
    }

    /// The image as made at `time` (of whole nanoseconds since 1970), and so is whatever is made of this value by further
    /// changes: with it the same changes of the same image give the same image, to the digest. Without it each change says when
    /// it was made. An image that is opened anew, by its name, knows nothing of it.
    ///
    /// # Errors
    /// As all changes: see above.
    pub fn with_created(&self, time: SystemTime) -> Result<Self> {
        self.refuse_host()?;
        let config = self.config().edit(|value| {
            value["created"] = json!(clock::rfc3339(time));
            Ok(())
        })?;
        Draft { config, layers: self.oci_layers() }.make(self.store(), Some(time))
    }

    /// With one more layer above its own, of the same store.
    ///
    /// # Errors
    /// `InvalidInput` for a layer of another store, `TooLarge` above 499 layers.
    pub fn with_layer(&self, layer: &Layer) -> Result<Self> {
        self.revised(Some(layer), format!("ADD layer:{} in /", layer.diff_id().hex()), |_| Ok(()))
    }

    /// With what is in a directory of the host above its own files, as [`LayerBuilder::dir`] takes it: owners, modes and
    /// times stay.
    ///
    /// # Errors
    /// `NotFound` for a directory that is not there, and as [`LayerBuilder::build`].
    pub fn with_dir(&self, path: impl Into<PathBuf>) -> Result<Self> {
        let layer = self.layer_of(Layer::builder().dir(path))?;
        self.revised(Some(&layer), format!("COPY dir:{} in /", layer.diff_id().hex()), |_| Ok(()))
    }

    /// With the files of a tar archive, plain or compressed, which is taken as it is: whiteouts in it (`.wh.NAME`) hide
    /// files of the image.
    ///
    /// # Errors
    /// `NotFound` for a file that is not there, `InvalidData` for what is no archive.
    pub fn with_tar(&self, path: impl Into<PathBuf>) -> Result<Self> {
        self.refuse_host()?;
        let layer = Layer::builder().tar(path).build(self.store())?;
        self.revised(Some(&layer), format!("ADD file:{} in /", layer.diff_id().hex()), |_| Ok(()))
    }

    /// With a file of these bytes, root's, with mode 0644 and the time 0. Another mode, and more than one file in a layer,
    /// is [`Layer::builder`]'s. Directories above it are those of the image, or root's with mode 0755.
    ///
    /// # Errors
    /// `InvalidInput` for a path that no file can have, such as one with `..`.
    pub fn with_file(&self, path: impl AsRef<Path>, bytes: impl Into<Bytes>) -> Result<Self> {
        let path = path.as_ref();
        let layer = self.layer_of(Layer::builder().file(path, bytes))?;
        let step = format!("COPY file:{} in {}", layer.diff_id().hex(), path.display());
        self.revised(Some(&layer), step, |_| Ok(()))
    }

    /// ENV: a variable, which keeps its place where it is there already.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is empty or has a `=`.
    pub fn with_env(&self, name: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self> {
        let (name, value) = (name.as_ref(), value.as_ref());
        self.set(format!("ENV {name}={value}"), |settings| settings.env(name, value))
    }

    /// Without a variable.
    ///
    /// # Errors
    /// As all changes.
    pub fn without_env(&self, name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        self.set(format!("without ENV {name}"), |settings| {
            settings.no_env(name);
            Ok(())
        })
    }

    /// LABEL.
    ///
    /// # Errors
    /// `InvalidInput` for an empty name.
    pub fn with_label(&self, name: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self> {
        let (name, value) = (name.as_ref(), value.as_ref());
        self.set(format!("LABEL {name}={value}"), |settings| settings.label(name, value))
    }

    /// Without a label.
    ///
    /// # Errors
    /// As all changes.
    pub fn without_label(&self, name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        self.set(format!("without LABEL {name}"), |settings| {
            settings.no_label(name);
            Ok(())
        })
    }

    /// ENTRYPOINT, of no words for none. It takes CMD away, as in a Dockerfile; so [`with_cmd`](Self::with_cmd) comes after it.
    ///
    /// # Errors
    /// As all changes.
    pub fn with_entrypoint(&self, words: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let words = strings(words);
        self.set(format!("ENTRYPOINT {}", json!(words)), |settings| {
            settings.cmd(&[])?;
            settings.entrypoint(&words)
        })
    }

    /// CMD, of no words for none.
    ///
    /// # Errors
    /// As all changes.
    pub fn with_cmd(&self, words: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let words = strings(words);
        self.set(format!("CMD {}", json!(words)), |settings| settings.cmd(&words))
    }

    /// USER: a name or a number, with `:group` where one is wanted; empty for root.
    ///
    /// # Errors
    /// As all changes.
    pub fn with_user(&self, user: impl AsRef<str>) -> Result<Self> {
        let user = user.as_ref();
        self.set(format!("USER {user}"), |settings| settings.user(user))
    }

    /// WORKDIR: what is relative begins at the image's own.
    ///
    /// # Errors
    /// As all changes.
    pub fn with_working_dir(&self, path: impl AsRef<str>) -> Result<Self> {
        let path = path.as_ref();
        self.set(format!("WORKDIR {path}"), |settings| settings.working_dir(path))
    }

    /// VOLUME: a path that gets an anonymous volume.
    ///
    /// # Errors
    /// `InvalidInput` for an empty path.
    pub fn with_volume(&self, path: impl AsRef<str>) -> Result<Self> {
        let path = path.as_ref();
        self.set(format!("VOLUME {}", json!([path])), |settings| settings.volume(path))
    }

    /// Without a volume, which no Dockerfile can say.
    ///
    /// # Errors
    /// As all changes.
    pub fn without_volume(&self, path: impl AsRef<str>) -> Result<Self> {
        let path = path.as_ref();
        self.set(format!("without VOLUME {path}"), |settings| {
            settings.no_volume(path);
            Ok(())
        })
    }

    /// EXPOSE: `80`, `53/udp`, `8000-8010/tcp`.
    ///
    /// # Errors
    /// `InvalidInput` for what is no port.
    pub fn with_exposed_port(&self, port: impl AsRef<str>) -> Result<Self> {
        let port = port.as_ref();
        self.set(format!("EXPOSE {port}"), |settings| settings.exposed_port(port))
    }

    /// Without an exposed port, or a range of them.
    ///
    /// # Errors
    /// `InvalidInput` for what is no port.
    pub fn without_exposed_port(&self, port: impl AsRef<str>) -> Result<Self> {
        let port = port.as_ref();
        self.set(format!("without EXPOSE {port}"), |settings| settings.no_exposed_port(port))
    }

    /// STOPSIGNAL: `SIGTERM`, `TERM`, `15`.
    ///
    /// # Errors
    /// `InvalidInput` for a signal that Linux does not have.
    pub fn with_stop_signal(&self, signal: impl AsRef<str>) -> Result<Self> {
        let signal = signal.as_ref();
        self.set(format!("STOPSIGNAL {signal}"), |settings| settings.stop_signal(signal))
    }

    /// HEALTHCHECK; [`Healthcheck::test`] is `["NONE"]` for none at all.
    ///
    /// # Errors
    /// `InvalidInput` for a test that begins with another word than it has, and for a time below 0.
    pub fn with_healthcheck(&self, check: &Healthcheck) -> Result<Self> {
        self.set(format!("HEALTHCHECK {}", json!(check.test)), |settings| settings.healthcheck(check))
    }

    /// SHELL, for the shell form of instructions in builds upon this image.
    ///
    /// # Errors
    /// `InvalidInput` for no words.
    pub fn with_shell(&self, words: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let words = strings(words);
        self.set(format!("SHELL {}", json!(words)), |settings| settings.shell(&words))
    }

    /// Who made the image, as MAINTAINER.
    ///
    /// # Errors
    /// As all changes.
    pub fn with_author(&self, author: impl AsRef<str>) -> Result<Self> {
        let author = author.as_ref();
        self.set(format!("MAINTAINER {author}"), |settings| settings.author(author))
    }

    /// An instruction of a Dockerfile, or several lines of them, as `docker commit --change` takes them: CMD, ENTRYPOINT, ENV,
    /// EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR. Variables in them are the image's.
    ///
    /// ```
    /// use coracle::{Image, Store};
    /// let store = Store::temp()?;
    /// let image = Image::scratch(&store)?.with_env("DIR", "/srv")?.with_change("WORKDIR $DIR/www\nEXPOSE 80")?;
    /// assert_eq!(image.config().working_dir(), "/srv/www");
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidData` with the line for what is no instruction, `InvalidInput` for another instruction than these, and for a
    /// setting that can't be.
    #[cfg(feature = "build")]
    pub fn with_change(&self, instructions: impl AsRef<str>) -> Result<Self> {
        let steps = super::instruction::parse_changes([instructions.as_ref()])?;
        let texts: Vec<_> = steps.iter().map(|step| step.text.as_str()).collect();
        self.derive_unlisted(self.revision(None, texts.join("; ")), |config| {
            super::instruction::apply_changes(config, &steps)
        })
    }

    fn layer_of(&self, builder: LayerBuilder) -> Result<Layer> {
        self.refuse_host()?;
        // A push compresses it.
        builder.compression(Compression::None).build(self.store())
    }

    fn revision<'a>(&self, layer: Option<&'a Layer>, created_by: String) -> Revision<'a> {
        let (comment, author) = (None, None);
        let history = HistoryLine { created: self.now(), created_by, comment, author };
        Revision { layer, history, created: None }
    }

    fn revised(
        &self,
        layer: Option<&Layer>,
        created_by: String,
        change: impl FnOnce(&mut Settings<'_>) -> Result<()>,
    ) -> Result<Self> {
        self.derive_unlisted(self.revision(layer, created_by), |config| change(&mut Settings::of(config)))
    }

    fn set(&self, created_by: String, change: impl FnOnce(&mut Settings<'_>) -> Result<()>) -> Result<Self> {
        self.revised(None, created_by, change)
    }
}
