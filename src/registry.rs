//! Registries: images from and to where docker, podman and skopeo have them (OCI distribution-spec).
//!
//! ```text
//! name ─▶ session ─▶ manifest ─▶ configuration ─▶ layers, several at once ─▶ store
//!           │  └ what authorises: credentials, tokens (`auth`, `credentials`)
//!           └ one request: redirects, time, another try (`http`)
//! ```
//! Nothing is believed. A registry's answers are bounded before they are read, every document and blob is compared with the
//! digest and the size that led to it, in the one pass that streams it, and an image has its name when all of it is there. So
//! a pull that is killed leaves whole layers, which the next one finds, and nothing else; one that fails for what came leaves nothing.
//!
//! What lets one in (passwords, tokens, the query of a presigned address) is in no error and no trace of this crate, and goes to
//! no other host; but a registry with TLS may name another with TLS as its token service. The HTTP library below logs each byte
//! where a program turns on its targets `ureq` and `ureq_proto` at the level TRACE: leave those at DEBUG, in whose records there
//! is none of it, with a filter (`trace,ureq=debug,ureq_proto=debug`) or `log`'s feature `release_max_level_debug`.
//!
//! Other hosts than this machine are reached through the proxy of the environment: that of the address's scheme (`HTTPS_PROXY`,
//! `HTTP_PROXY`), else `ALL_PROXY`, else the other scheme's, but for the hosts of `NO_PROXY` (`lan` or `reg.lan:5000`, `.lan`, `10.0.0.0/8`,
//! `*`: as Go's programs read it). A proxy is asked to connect (CONNECT), also for plain HTTP, and has to allow that for its ports.
//!
//! A push (`push`) goes the other way over the same session. The other way round, `server` serves a store to others.
//!
//! Threads are a pull's or a push's own and end with it. There is no runtime, and no connection stays behind.
#![forbid(unsafe_code)]

mod auth;
mod authfile;
mod catalog;
mod certificates;
mod client;
mod credentials;
mod date;
mod download;
#[cfg(feature = "build")]
mod fetch;
mod helper;
mod http;
mod layers;
mod origin;
mod pace;
mod proxy;
mod pull;
mod push;
mod secret;
mod server;
mod session;
mod settings;
mod tls;
mod url;

pub use catalog::SearchResult;
pub use client::RegistryClient;
pub use credentials::{Credentials, CredentialsPlace};
#[cfg(feature = "build")]
pub(crate) use fetch::fetch;
pub use push::{Push, PushEvent, Sent};
pub use server::{Access, Registry, RegistryBuilder};

use crate::digest::Digest;
use crate::error::Result;
use crate::image::Image;
use crate::manifest::{Descriptor, Platform};
use crate::store::Store;
use http::Settings;
use secret::Secret;
use settings::settings;
use std::fmt;
use std::sync::Arc;

/// As docker has it.
const PARALLEL: usize = 3;
const RETRIES: u32 = 4;

/// When a pull asks the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PullPolicy {
    /// Each time: the name may lead elsewhere by now. Only what is missing travels; where nothing is, it takes one request.
    #[default]
    Always,
    /// When the store has no image of this name for the machine that was asked for; where none was, what is of another machine
    /// does if it is all that the name means (built or loaded here), and not if it was one of several.
    Missing,
    /// Not at all: what the store does not have is an error. Where no machine was asked for, one of any does.
    Never,
}

/// What happens during a pull. Of layers that are pulled at once, events come from several threads.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PullEvent {
    /// The registry has the image.
    Found {
        /// The digest of its manifest.
        digest: Digest,
        /// Its layers, lowest first.
        layers: Vec<Descriptor>,
    },
    /// So many bytes of a layer have come, of so many.
    Bytes {
        /// The digest of its blob.
        layer: Digest,
        /// Bytes, compressed as they are.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// The store has a layer, verified and unpacked.
    Ready {
        /// The digest of its blob.
        layer: Digest,
        /// Whether it came from the registry; the store had it else.
        travelled: bool,
    },
}

type Observer = dyn Fn(&PullEvent) + Send + Sync;

/// How an image is pulled; [`Image::pull`] is this with nothing set.
///
/// A connection that breaks is taken up where it was, within the same pull. When the program itself is killed, layers that had
/// come whole stay in the store, and the next pull gets the others from their beginning.
///
/// ```no_run
/// use coracle::{Pull, PullEvent, PullPolicy, Store};
/// let store = Store::open_default()?;
/// let image = Pull::new("debian:12")
///     .platform("linux/arm64".parse()?)
///     .policy(PullPolicy::Missing)
///     .observe(|event| {
///         if let PullEvent::Ready { layer, .. } = event {
///             println!("{layer}");
///         }
///     })
///     .run(&store)?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone)]
pub struct Pull {
    name: String,
    platform: Option<Platform>,
    policy: PullPolicy,
    credentials: Option<Credentials>,
    /// A registry, and where else its images are.
    mirrors: Vec<(String, String)>,
    settings: Settings,
    observer: Option<Arc<Observer>>,
}

settings!(Pull);

impl Pull {
    /// An image by its name, with docker's defaults: `debian` is `docker.io/library/debian:latest`. A digest
    /// (`debian@sha256:…`) counts before a tag: the image is listed by the repository and that digest then, and has no tag.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            platform: None,
            policy: PullPolicy::default(),
            credentials: None,
            mirrors: Vec::new(),
            settings: Settings { retries: RETRIES, parallel: PARALLEL, ..Settings::default() },
            observer: None,
        }
    }

    /// For which machine; by default, of an image for several, this one. An older variant of the processor does where there
    /// is none of this variant. With a platform, an image that is for another machine alone is refused.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// When the registry is asked; by default always.
    pub fn policy(mut self, policy: PullPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Asks a mirror before this registry: hosts, with their ports, as in names (`docker.io`, `mirror.lan:5000`). Of several, in
    /// the order in which they were given; when something is wrong with one, the next, and the registry itself at last.
    ///
    /// What a mirror sends is verified as anything is, but what a tag leads to is a mirror's word. [`Credentials`] and
    /// certificates that were given are for the registry and don't go to mirrors; for those, this machine's are looked for. Only
    /// [`root_certificates`](Self::root_certificates) count for both.
    pub fn mirror(mut self, registry: impl Into<String>, mirror: impl Into<String>) -> Self {
        let lower = |host: String| host.to_ascii_lowercase();
        self.mirrors.push((lower(registry.into()), lower(mirror.into())));
        self
    }

    /// Is told what happens. It is called from the pull's threads, which wait for it.
    pub fn observe(mut self, observer: impl Fn(&PullEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// All of it ends then, at the latest.
    #[cfg(feature = "build")]
    pub(crate) fn until(mut self, deadline: Option<std::time::Instant>) -> Self {
        self.settings.until = deadline;
        self
    }

    /// Pulls it into a store.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name. `NotFound` where the registry, or with [`PullPolicy::Never`] the store, has no such
    /// image; `PermissionDenied` where the registry wants other credentials; `Network` and `TimedOut` for connections and for what
    /// is wrong at the registry; `Unsupported` for an image of other machines, no image, or layers that are kept elsewhere; `InvalidData`, `Mismatch` and
    /// `TooLarge` for a registry that sends what it should not; and as [`Image::load`]. Each names registry, repository and step.
    pub fn run(&self, store: &Store) -> Result<Image> {
        pull::run(self, store)
    }

    fn tell(&self, event: &PullEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl fmt::Debug for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pull")
            .field("name", &self.name)
            .field("platform", &self.platform)
            .field("policy", &self.policy)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Pulls an image from its registry, for this machine: what the store lacks of it. [`Pull`] has the settings.
    ///
    /// ```no_run
    /// use coracle::{Image, Store};
    /// let store = Store::open_default()?;
    /// let debian = Image::pull(&store, "debian:12")?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Pull::run`].
    pub fn pull(store: &Store, name: &str) -> Result<Self> {
        Pull::new(name).run(store)
    }
}
