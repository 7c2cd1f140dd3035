//! Pushes: images to registries (OCI distribution-spec, "Push").
//!
//! ```text
//! image ─▶ layers, several at once ─▶ configuration ─▶ manifest
//!            │ the registry has it: nothing │ another repository of it has it: mounted │ else: sent
//!            └ plain archives are compressed before (`pack`)
//! ```
//! A registry is believed no more than by a pull: what it says it has, and what it refuses then, is sent; a digest that
//! it answers is compared; an upload that it has elsewhere gets neither password nor token.
#![forbid(unsafe_code)]

mod blob;
mod pack;
mod plan;
mod steps;

use super::RETRIES;
use super::credentials::Credentials;
use super::http::Settings;
use super::secret::Secret;
use super::settings::settings;
use crate::digest::Digest;
use crate::error::Result;
use crate::image::Image;
use crate::layer::Compression;
use crate::manifest::Descriptor;
use std::fmt;
use std::sync::Arc;

/// As docker has it.
const PARALLEL: usize = 5;

/// What happens during a push. Of layers that are pushed at once, events come from several threads. A layer is called by the
/// digest of its blob in the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PushEvent {
    /// What is to be there in the end.
    Started {
        /// The layers, lowest first; of an index those of all its images, each once.
        layers: Vec<Descriptor>,
    },
    /// The name leads to an index, of which the store does not have all: this image of it is pushed, and no index.
    OnePlatform {
        /// The digest of the index.
        index: Digest,
        /// The digest of the manifest that is pushed in its stead.
        manifest: Digest,
    },
    /// So many bytes of a layer have been compressed, of so many.
    Packed {
        /// The digest of its blob.
        layer: Digest,
        /// Bytes, not compressed.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// So many bytes of a layer have been sent, of so many. After a connection that broke it begins anew.
    Bytes {
        /// The digest of its blob.
        layer: Digest,
        /// Bytes, as they travel.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// The registry has a layer. Once more where it says so, and refuses the manifest for the lack of it.
    Done {
        /// The digest of its blob.
        layer: Digest,
        /// Why it has it.
        sent: Sent,
    },
}

/// Why a registry has a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sent {
    /// It was sent.
    Uploaded,
    /// The repository had it.
    Exists,
    /// Another repository of the registry had it: nothing travelled.
    Mounted {
        /// The name of that repository, without the registry.
        from: String,
    },
}

type Observer = dyn Fn(&PushEvent) + Send + Sync;

/// How an image is pushed; [`Image::push`] is this with nothing set.
///
/// ```no_run
/// use coracle::{Push, PushEvent, Sent, Store};
/// let store = Store::open_default()?;
/// let image = store.image("app:1")?;
/// let pushed = Push::new("registry.example/me/app:1")
///     .observe(|event| {
///         if let PushEvent::Done { layer, sent: Sent::Uploaded } = event {
///             println!("{layer}");
///         }
///     })
///     .run(&image)?;
/// println!("{}", pushed.digest);
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone)]
pub struct Push {
    name: String,
    compression: Compression,
    credentials: Option<Credentials>,
    settings: Settings,
    observer: Option<Arc<Observer>>,
}

settings!(Push);

impl Push {
    /// To this name, with docker's defaults: `me/app` is `docker.io/me/app:latest`. The image need not have it in the store.
    /// With a digest alone (`me/app@sha256:…`), which has to be the image's, it is given no tag.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            compression: Compression::default(),
            credentials: None,
            settings: Settings { retries: RETRIES, parallel: PARALLEL, ..Settings::default() },
            observer: None,
        }
    }

    /// How layers are compressed that the store has as plain archives, as those of `docker save` are: gzip by default, which
    /// everybody reads. The manifest is another one then, and so is the image's digest; its id stays. The bytes are the same
    /// each time, on any number of processors, and what they are is remembered: what the registry has is not compressed again.
    ///
    /// With [`Compression::None`] they are pushed as they are; so is, whatever is said here, each layer that is compressed
    /// already (a new one is when it is built), that came from a registry, or that belongs to an index.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Is told what happens. It is called from the push's threads, which wait for it.
    pub fn observe(mut self, observer: impl Fn(&PushEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Pushes an image, and gives what its name leads to now in the registry: type, digest and size.
    ///
    /// Where the image's entry in the store is an index for several machines and all of it is there, all of it is pushed;
    /// else the manifest for this machine, as docker does ([`PushEvent::OnePlatform`]). An image that was pulled is one machine's.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name, or the digest of another image; `Unsupported` for the host image, and for a registry that
    /// is for reading only; `PermissionDenied` where it wants other credentials; `Network` and `TimedOut` for connections and for
    /// what is wrong at the registry; `NotFound` where it has no such place, or the store not all blobs; `InvalidData` and
    /// `Mismatch` for a registry that answers what it should not, or a blob that is damaged. Each names registry, repository and
    /// step. What has been sent by then stays in the registry without a name, and does not travel again.
    pub fn run(&self, image: &Image) -> Result<Descriptor> {
        steps::run(self, image)
    }

    fn tell(&self, event: &PushEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("name", &self.name)
            .field("compression", &self.compression)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Pushes the image to a registry, under this name: what the registry lacks of it. [`Push`] has the settings.
    ///
    /// ```no_run
    /// use coracle::Store;
    /// let store = Store::open_default()?;
    /// let pushed = store.image("app:1")?.push("registry.example/me/app:1")?;
    /// println!("{}", pushed.digest);
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Push::run`].
    pub fn push(&self, name: &str) -> Result<Descriptor> {
        Push::new(name).run(self)
    }
}
