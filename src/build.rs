//! Builds: from a Dockerfile and a context to an image.
//!
//! ```no_run
//! use coracle::{Build, BuildEvent, Store};
//! let store = Store::open_default()?;
//! let app = Build::context("./app")
//!     .tag("me/app:1.2")
//!     .arg("VERSION", "1.2")
//!     .on_event(|event| {
//!         if let BuildEvent::Step { step } = event {
//!             println!("Step {}/{} : {}", step.number, step.of, step.text);
//!         }
//!     })
//!     .run(&store)?;
//! println!("Successfully built {}", app.id());
//! # Ok::<(), coracle::Error>(())
//! ```
//!
//! From the file to the image it goes like this, each a module: which stages are needed (`graph`), what each begins with (`base`),
//! its instructions one after the other (`stage`) with their variables (`args`), and for each of them: what it depends on, as
//! one digest (`history`), whether that was made before (`cache`), and else the making, of which COPY and ADD are `transfer` and RUN is
//! `run`. What is made is an image at each step: a layer at most, and a configuration.
#![forbid(unsafe_code)]

mod agent;
mod args;
mod base;
mod cache;
mod context;
mod disk;
mod event;
mod files;
mod graph;
mod history;
mod memory;
mod mounts;
mod run;
mod secrets;
mod stage;
mod stats;
mod transfer;
mod tree;
mod work;

pub use event::{BuildEvent, BuildStep};

use crate::cgroup::Limits;
use crate::dockerfile::Warning;
use crate::error::Result;
use crate::image::Image;
use crate::manifest::Platform;
use crate::network::Network;
use crate::security::limit::Ulimit;
use crate::store::Store;
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

#[cfg(feature = "registry")]
use crate::registry::{Pull, PullPolicy};

type Observer = dyn Fn(&BuildEvent) + Send + Sync;
type Reader = Box<dyn Read + Send>;

/// Where a build takes files from: its own context, or a further one with a name.
///
/// Nothing outside of it is read, wherever its symbolic links lead.
#[derive(Clone)]
pub struct BuildContext(Files);

#[derive(Clone)]
enum Files {
    Empty,
    Dir(PathBuf),
    File(PathBuf),
    /// Read once, by the first build.
    Stream(Arc<Mutex<Option<Reader>>>),
    Image(String),
}

impl BuildContext {
    /// A directory, without what its `.dockerignore` leaves out; of a build's own context `NAME.dockerignore` beside the Dockerfile
    /// NAME takes its place.
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self(Files::Dir(path.into()))
    }

    /// A tar archive of it, plain or compressed. All that is in it is there: a `.dockerignore` is a file as any other.
    pub fn tar_file(path: impl Into<PathBuf>) -> Self {
        Self(Files::File(path.into()))
    }

    /// The same from a stream. It is read to its end by the first build that is run or checked; a second one has an error of kind
    /// `State`.
    pub fn tar(reader: impl Read + Send + 'static) -> Self {
        Self(Files::Stream(Arc::new(Mutex::new(Some(Box::new(reader))))))
    }

    /// The files of an image by its name, as `--build-context name=docker-image://debian:12` has it; of `scratch` there
    /// are none. Of a name that FROM has, it takes the place.
    pub fn image(name: impl Into<String>) -> Self {
        Self(Files::Image(name.into()))
    }

    /// No files.
    pub fn empty() -> Self {
        Self(Files::Empty)
    }
}

impl fmt::Debug for BuildContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Files::Empty => f.write_str("empty"),
            Files::Dir(path) => f.debug_tuple("Dir").field(path).finish(),
            Files::File(path) => f.debug_tuple("Tar").field(path).finish(),
            Files::Stream(_) => f.write_str("Stream"),
            Files::Image(name) => f.debug_tuple("Image").field(name).finish(),
        }
    }
}

/// A secret for `RUN --mount=type=secret`: bytes, or what a file has at the time of the build. It is never shown.
#[derive(Clone)]
pub struct BuildSecret(Secret);

#[derive(Clone)]
enum Secret {
    Bytes(Arc<[u8]>),
    File(PathBuf),
}

impl BuildSecret {
    /// What this file has, of which at most 500 KiB are read, as docker does, when a build begins.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Secret::File(path.into()))
    }
}

impl<T: AsRef<[u8]>> From<T> for BuildSecret {
    fn from(bytes: T) -> Self {
        Self(Secret::Bytes(bytes.as_ref().into()))
    }
}

impl fmt::Debug for BuildSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Secret::Bytes(_) => f.write_str("BuildSecret(…)"),
            Secret::File(path) => f.debug_tuple("BuildSecret").field(path).finish(),
        }
    }
}

/// Which Dockerfile.
#[derive(Clone, Debug)]
enum Text {
    /// By its path.
    Path(PathBuf),
    Given(Vec<u8>),
}

/// A build: a Dockerfile, a context, and what `docker build` has flags for. Cheap to clone; [`run`](Self::run) may be called
/// again.
///
/// RUN executes in a [`Container`](crate::Container) with this crate's default walls, but for the network, which is the host's
/// unless [`network`](Self::network) says otherwise, as nearly every Dockerfile downloads something.
///
/// A step is not done again when what it depends on is the same: the image before it, its text with the variables replaced, the
/// files that it copies (content, names, owners and modes, not times), and for RUN also all ARGs in scope. It is looked for among
/// the steps of earlier builds in this store ([`Store::prune_cache`]), and in the history of images that are believed
/// ([`cache_from`](Self::cache_from)).
///
/// ```
/// use coracle::{Build, Store};
/// let store = Store::temp()?;
/// let build = Build::empty().dockerfile_text("FROM scratch\nENV GREETING=ahoy\nLABEL a=b").tag("hello");
/// let image = build.run(&store)?;
/// assert!(image.config().env().contains(&"GREETING=ahoy".to_owned()));
/// // A second time everything is there already.
/// assert_eq!(build.run(&store)?.id(), image.id());
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Build {
    context: BuildContext,
    text: Text,
    tags: Vec<String>,
    target: String,
    args: Vec<(String, String)>,
    contexts: Vec<(String, BuildContext)>,
    secrets: Vec<(String, BuildSecret)>,
    ssh: Vec<(String, PathBuf)>,
    labels: Vec<(String, String)>,
    hosts: Vec<(String, IpAddr)>,
    ulimits: Vec<Ulimit>,
    limits: Limits,
    network: Network,
    platform: Option<Platform>,
    no_cache: bool,
    images_as_cache: bool,
    cache_from: Vec<String>,
    cache_dir: Option<PathBuf>,
    epoch: Option<SystemTime>,
    parallel: Option<usize>,
    timeout: Option<Duration>,
    new_privileges: bool,
    allow_insecure: bool,
    allow_host_network: bool,
    #[cfg(feature = "registry")]
    pull: PullPolicy,
    #[cfg(feature = "registry")]
    puller: Option<Arc<dyn Fn(Pull) -> Pull + Send + Sync>>,
    observer: Option<Arc<Observer>>,
}

impl Build {
    /// A build of the directory `path`, with `path/Dockerfile`.
    pub fn context(path: impl Into<PathBuf>) -> Self {
        Self::new(BuildContext::dir(path))
    }

    /// A build of a tar archive, plain or compressed, with the `Dockerfile` in it.
    pub fn context_tar(reader: impl Read + Send + 'static) -> Self {
        Self::new(BuildContext::tar(reader))
    }

    /// A build without files, for a [`dockerfile_text`](Self::dockerfile_text).
    pub fn empty() -> Self {
        Self::new(BuildContext::empty())
    }

    /// A build of a context.
    pub fn new(context: BuildContext) -> Self {
        Self {
            context,
            text: Text::Path("Dockerfile".into()),
            tags: Vec::new(),
            target: String::new(),
            args: Vec::new(),
            contexts: Vec::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            labels: Vec::new(),
            hosts: Vec::new(),
            ulimits: Vec::new(),
            limits: Limits::default(),
            network: Network::host(),
            platform: None,
            no_cache: false,
            images_as_cache: false,
            cache_from: Vec::new(),
            cache_dir: None,
            epoch: None,
            parallel: None,
            timeout: None,
            new_privileges: false,
            allow_insecure: false,
            allow_host_network: false,
            #[cfg(feature = "registry")]
            pull: PullPolicy::Missing,
            #[cfg(feature = "registry")]
            puller: None,
            observer: None,
        }
    }

    /// Which Dockerfile (`--file`). A relative path is one of the context; an absolute one is one of the host, which need not be
    /// in the context.
    pub fn dockerfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.text = Text::Path(path.into());
        self
    }

    /// The Dockerfile itself.
    pub fn dockerfile_text(mut self, text: impl AsRef<[u8]>) -> Self {
        self.text = Text::Given(text.as_ref().to_vec());
        self
    }

    /// A name for the image (`--tag`), which is taken from the image that has it. Without any it is listed without a name.
    pub fn tag(mut self, name: impl Into<String>) -> Self {
        self.tags.push(name.into());
        self
    }

    /// The name of the stage to build (`--target`); by default the last one.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = stage.into();
        self
    }

    /// A value for an ARG (`--build-arg`); of one name the last counts. Those for proxies (`HTTP_PROXY`, `HTTPS_PROXY`, `FTP_PROXY`,
    /// `NO_PROXY`, `ALL_PROXY`, also in small letters) need no ARG, and are then neither in the history nor part of what a step depends on.
    /// `SOURCE_DATE_EPOCH` is as [`source_date_epoch`](Self::source_date_epoch), in seconds.
    pub fn arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.push((name.into(), value.into()));
        self
    }

    /// A further context (`--build-context`) for FROM, `COPY --from` and `RUN --mount=from=`, where it takes the place of stages and
    /// images with this name.
    pub fn build_context(mut self, name: impl Into<String>, context: BuildContext) -> Self {
        self.contexts.push((name.into(), context));
        self
    }

    /// A secret (`--secret`): in memory as long as a RUN with `--mount=type=secret,id=…` executes. It is in no layer, no
    /// event and no error: in the output of a RUN it is replaced by `***`, and a RUN that leaves it in its layer fails.
    /// Of fewer than 8 bytes neither is looked for.
    pub fn secret(mut self, id: impl Into<String>, secret: impl Into<BuildSecret>) -> Self {
        self.secrets.push((id.into(), secret.into()));
        self
    }

    /// The socket of an SSH agent (`--ssh`), `default` for an id where the Dockerfile has none.
    pub fn ssh(mut self, id: impl Into<String>, socket: impl Into<PathBuf>) -> Self {
        self.ssh.push((id.into(), socket.into()));
        self
    }

    /// Does every step anew (`--no-cache`). A cache mount is emptied before the build uses it first, unless it is a shared one that
    /// something else uses at this moment: then a [`Warning`](BuildEvent::Warning) says so.
    pub fn no_cache(mut self, yes: bool) -> Self {
        self.no_cache = yes;
        self
    }

    /// An image of the store in whose history steps are looked for, too (`--cache-from`): whoever made it says what its steps
    /// gave, so it should be one's own. One that is not there is no error.
    pub fn cache_from(mut self, image: impl Into<String>) -> Self {
        self.cache_from.push(image.into());
        self
    }

    /// Whether all images of the store are believed as [`cache_from`](Self::cache_from) has it; false by default, as anybody
    /// can make an image whose history says `apt-get update`, and have it pulled for another reason.
    pub fn images_as_cache(mut self, yes: bool) -> Self {
        self.images_as_cache = yes;
        self
    }

    /// When the registry is asked for the images of FROM and of `--from` (`--pull`); by default
    /// [`PullPolicy::Missing`]: for those that the store lacks.
    #[cfg(feature = "registry")]
    pub fn pull(mut self, policy: PullPolicy) -> Self {
        self.pull = policy;
        self
    }

    /// How they are pulled: what a [`Pull`] can be told, such as credentials. Its name, platform, policy and observer are set already.
    #[cfg(feature = "registry")]
    pub fn pull_with(mut self, change: impl Fn(Pull) -> Pull + Send + Sync + 'static) -> Self {
        self.puller = Some(Arc::new(change));
        self
    }

    /// For which machine (`--platform`): which image of several FROM takes, `TARGETPLATFORM`, and what the image that comes of it is
    /// for, also where its last FROM names another. By default this one, whose programs are all that a RUN can execute.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// The network of RUN (`--network`); the host's by default. A RUN can say that it needs none; to say that it needs the host's
    /// is an error where this is [`Network::none`], unless [allowed](Self::allow_host_network).
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Whether `RUN --network=host` is allowed where the build's own network is none.
    pub fn allow_host_network(mut self, yes: bool) -> Self {
        self.allow_host_network = yes;
        self
    }

    /// Whether `RUN --security=insecure` is allowed: it executes with all capabilities of its user namespace, and without the
    /// filter of system calls and the masks over /proc.
    pub fn allow_insecure(mut self, yes: bool) -> Self {
        self.allow_insecure = yes;
        self
    }

    /// As [`ContainerBuilder::no_new_privileges`](crate::ContainerBuilder::no_new_privileges), for RUN: `sudo` in a Dockerfile
    /// needs false.
    pub fn no_new_privileges(mut self, yes: bool) -> Self {
        self.new_privileges = !yes;
        self
    }

    /// A label of the image (`--label`), over those of its Dockerfile.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// A line for /etc/hosts while a RUN executes (`--add-host`).
    pub fn add_host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.hosts.push((name.into(), address));
        self
    }

    /// A resource limit of the processes of RUN (`--ulimit`).
    pub fn ulimit(mut self, limit: Ulimit) -> Self {
        self.ulimits.push(limit);
        self
    }

    /// Limits of each RUN, such as [memory](Limits::memory_max) (`--memory`). Without one of
    /// [processes](Limits::pids_max) (`--pids-limit`) a RUN has 2048 of them and of threads, as a container has.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where the directories of `RUN --mount=type=cache` are: one for each id, which is its name (bytes other than letters, digits,
    /// `.`, `_` and `-` as `%XX`). One with an owner, a mode or files to begin with is another one of that id, with these behind a
    /// `~`. They are the caller's, to keep and to restore; by default they are the store's, in its
    /// `cache/mounts/`, and [`Store::prune_cache`] removes them.
    pub fn cache_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(path.into());
        self
    }

    /// The time that everything says it is from ([SOURCE_DATE_EPOCH](https://reproducible-builds.org/specs/source-date-epoch/)): the
    /// image, its history, and files of its layers that would be younger. Where RUN gives the same files, two builds
    /// give the same image, byte for byte.
    pub fn source_date_epoch(mut self, time: SystemTime) -> Self {
        self.epoch = Some(time);
        self
    }

    /// How many stages are worked on at once; by default as many as there are processors.
    pub fn parallel(mut self, stages: usize) -> Self {
        self.parallel = Some(stages.max(1));
        self
    }

    /// How long all of it may take; by default as long as it does. When the time is up the build fails with kind `TimedOut`: a RUN is
    /// killed, a pull and a download are given up, whoever is silent there, a COPY ends at its next file, and no further step is begun.
    /// Only what this machine does alone is brought to its end, such as the layer of a RUN that has ended.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Is told what happens: from several threads, never from two at once. The build waits for it.
    pub fn on_event(mut self, observer: impl Fn(&BuildEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// What `docker build --check` says of the Dockerfile, without building anything; see
    /// [`Dockerfile::check`](crate::dockerfile::Dockerfile::check).
    ///
    /// # Errors
    /// As [`run`](Self::run), as far as it is about the Dockerfile and the context.
    pub fn check(&self) -> Result<Vec<Warning>> {
        self.warnings()
    }

    /// Builds it.
    ///
    /// What of the image is done already stays, also when the build fails or the program dies: a later one goes on from there.
    ///
    /// # Errors
    /// What is wrong with an instruction has its [line](crate::Error::position), with a caret. `InvalidData` for what is no Dockerfile or
    /// can't be done as it is written; `NotFound` for a Dockerfile, files, a stage, images that are not there; `Command` for a RUN
    /// that ends with another code than 0, with the last of its output in the text, [`Error::stdout`](crate::Error::stdout) and
    /// [`Error::stderr`](crate::Error::stderr); `PermissionDenied` for what is not allowed, and for a secret in a layer; `TimedOut`; and
    /// those of [`Container`](crate::Container), of pulling an image, and of the file system.
    pub fn run(&self, store: &Store) -> Result<Image> {
        self.work(store)
    }
}

impl fmt::Debug for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Build")
            .field("context", &self.context)
            .field("text", &self.text)
            .field("tags", &self.tags)
            .field("target", &self.target)
            .field("platform", &self.platform)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
