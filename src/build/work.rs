//! One run of a build: what it was given, read and checked, and who works on which stage.
#![forbid(unsafe_code)]

use super::args::{EPOCH, Given, Globals};
use super::context::Context;
use super::event::{BuildEvent, BuildStep, Teller};
use super::graph::{Permits, Plan, Stages};
use super::secrets::Secrets;
use super::stage::Finished;
use super::{Build, BuildContext, Files, Text};
use crate::container::Container;
use crate::dockerfile::{Dockerfile, Ignore, Stage, Warning};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::manifest::Platform;
use crate::reference::Reference;
use crate::signal::Signal;
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A Dockerfile is no longer.
const TEXT_MAX: u64 = 16 << 20;

/// More threads than these don't wait for each other; what is worked on at once is less.
const THREADS_MAX: usize = 32;

/// No image, but nothing, which is what FROM means by it, too.
const SCRATCH: &str = "scratch";

/// Where an image that is looked for is put.
type Place = Arc<Mutex<Option<Image>>>;

/// What every stage needs to know.
pub(super) struct Work<'a> {
    pub(super) build: &'a Build,
    pub(super) store: &'a Store,
    pub(super) file: Dockerfile,
    pub(super) given: Given,
    pub(super) globals: Globals,
    pub(super) context: Context,
    pub(super) contexts: Vec<(String, Named)>,
    pub(super) secrets: Secrets,
    pub(super) epoch: Option<SystemTime>,
    pub(super) teller: Arc<Teller>,
    /// Images of FROM and `--from` by name and platform, each found once.
    pub(super) images: Mutex<HashMap<(String, String), Place>>,
    /// The images whose history may have what a step gives; looked at when a step was not found otherwise.
    pub(super) candidates: OnceLock<Vec<Image>>,
    plan: Plan,
    stages: Stages<Finished>,
    permits: Permits,
    deadline: Option<Instant>,
    running: Mutex<Vec<Weak<Container>>>,
    /// Whether it was looked for what others have left where cache mounts are.
    pub(super) swept: AtomicBool,
    /// The directories of caches that this build has emptied, or left as they were, because nothing is to be used again.
    pub(super) emptied: Mutex<HashSet<PathBuf>>,
}

/// A further context.
pub(super) enum Named {
    Files(Box<Context>),
    Image(String),
}

/// The Dockerfile, and the context without what it ignores.
pub(super) struct Read {
    pub(super) file: Dockerfile,
    pub(super) context: Context,
    pub(super) ignore: Ignore,
}

fn open(store: &Store, context: &BuildContext) -> Result<Context> {
    let opened = match &context.0 {
        Files::Empty | Files::Image(_) => Ok(Context::empty()),
        Files::Dir(path) => Context::dir(store, path),
        Files::File(path) => {
            std::fs::File::open(path).call_at("open", path).and_then(|file| Context::tar(store, file))
        }
        Files::Stream(stream) => {
            let reader = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let reader = reader.ok_or_else(|| {
                Error::new(ErrorKind::State, "the context's archive was read by an earlier build")
                    .with_remedy("BuildContext::tar_file can be read again")
            })?;
            Context::tar(store, reader)
        }
    };
    opened.map_err(|error| error.during("opening the build context"))
}

/// Where a Dockerfile was found.
enum At {
    Context(String),
    Host(PathBuf),
}

/// As docker has it, who writes `dockerfile` means it.
fn in_small_letters(path: &Path) -> Option<PathBuf> {
    (path.file_name()? == "Dockerfile").then(|| path.with_file_name("dockerfile"))
}

/// Reads the Dockerfile, wherever it is.
pub(super) fn read(build: &Build, store: &Store) -> Result<Read> {
    let context = open(store, &build.context)?;
    let during = |error: Error| error.during("reading the Dockerfile");
    let (text, at) = match &build.text {
        Text::Given(text) => (text.clone(), At::Context("Dockerfile".into())),
        Text::Path(path) => {
            let read = |path: &Path| match name_in_context(build, path)? {
                Some(name) => context.read(&name).map(|text| (text, At::Context(name))),
                None => host_file(path).map(|text| (text, At::Host(path.to_owned()))),
            };
            let found = read(path).or_else(|error| match in_small_letters(path) {
                Some(other) if error.kind() == ErrorKind::NotFound => match read(&other) {
                    // The usual name is what to write.
                    Err(none) if none.kind() == ErrorKind::NotFound => Err(error),
                    other => other,
                },
                _ => Err(error),
            });
            found.map_err(during)?
        }
    };
    let ignore = match &at {
        // As BuildKit has it: whoever packed an archive has chosen what is in it.
        _ if context.is_archive() => Ignore::default(),
        At::Context(name) => context.ignore_of(Some(name))?,
        At::Host(path) => {
            let mut own = path.clone().into_os_string();
            own.push(".dockerignore");
            match host_file(Path::new(&own)) {
                Ok(text) => Ignore::parse(text)
                    .map_err(|error| error.during(format!("reading {}", own.to_string_lossy())))?,
                Err(error) if error.kind() == ErrorKind::NotFound => context.ignore_of(Some("Dockerfile"))?,
                Err(error) => return Err(error),
            }
        }
    };
    let file = Dockerfile::parse(text)?;
    Ok(Read { file, context: context.ignoring(ignore.clone())?, ignore })
}

/// The name of a Dockerfile in the context; `None` where it is outside of it.
fn name_in_context(build: &Build, path: &Path) -> Result<Option<String>> {
    let name = |path: &Path| match path.to_str() {
        Some(name) => Ok(Some(name.to_owned())),
        None => {
            Err(Error::new(ErrorKind::InvalidInput, "a Dockerfile's name that is not UTF-8").with_path(path))
        }
    };
    if !path.is_absolute() {
        return name(path);
    }
    let Files::Dir(root) = &build.context.0 else { return Ok(None) };
    let root = root.canonicalize().call_at("realpath", root)?;
    // By its directory: the file itself may be a link.
    let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let parent = parent.canonicalize().call_at("realpath", parent)?;
    parent.strip_prefix(&root).map_or(Ok(None), |parent| name(&parent.join(last)))
}

fn host_file(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).call_at("open", path)?;
    file.take(TEXT_MAX + 1).read_to_end(&mut text).call_at("read", path)?;
    Ok(text)
}

/// Seconds since 1970.
fn epoch(build: &Build, given: &Given) -> Result<Option<SystemTime>> {
    let Some(text) = given.get(EPOCH).filter(|_| build.epoch.is_none()) else { return Ok(build.epoch) };
    let time = text.parse().ok().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    match time {
        Some(time) => Ok(Some(time)),
        None if text.is_empty() => Ok(None),
        None => Err(Error::new(ErrorKind::InvalidInput, format!("{EPOCH}={text:?}"))
            .with_remedy("a number of seconds since 1970 is expected")),
    }
}

impl Build {
    pub(super) fn warnings(&self) -> Result<Vec<Warning>> {
        // What is known of a context's files has no place here, as none of them is copied.
        let store = Store::temp()?;
        let Read { file, ignore, .. } = read(self, &store)?;
        file.check(Some(&ignore), &|_| None)
    }

    pub(super) fn work(&self, store: &Store) -> Result<Image> {
        let deadline = self.timeout.and_then(|time| Instant::now().checked_add(time));
        let names = self.tags.iter().map(|tag| tag.parse::<Reference>()).collect::<Result<Vec<_>>>()?;
        if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
            let what = format!("image name {name}: a digest can't be given");
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let secrets = Secrets::read(&self.secrets)?;
        let Read { file, context, ignore } = read(self, store)?;
        let teller = Arc::new(Teller::new(self.observer.clone()));
        warn(&file, &ignore, &teller)?;
        let given = Given::new(&self.args);
        let epoch = epoch(self, &given)?;
        let host = Platform::host();
        let target = self.platform.as_ref().unwrap_or(&host);
        let globals = Globals::new(&file, &given, &host, target, &self.target)?;
        let mut contexts = Vec::new();
        for (name, context) in &self.contexts {
            let named = match &context.0 {
                Files::Image(image) if image != SCRATCH => Named::Image(image.clone()),
                _ => Named::Files(Box::new(with_own_ignore(open(store, context)?)?)),
            };
            contexts.push((name.clone(), named));
        }
        let is_context = |name: &str| contexts.iter().any(|(other, _)| other == name);
        let plan = Plan::new(&file, file.target(&self.target)?, &globals, &is_context)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let work = Work {
            build: self,
            store,
            given,
            globals,
            context,
            contexts,
            secrets,
            epoch,
            teller,
            images: Mutex::default(),
            candidates: OnceLock::new(),
            stages: Stages::new(file.stages().len()),
            permits: Permits::new(self.parallel.unwrap_or(processors)),
            plan,
            file,
            deadline,
            running: Mutex::default(),
            swept: AtomicBool::new(false),
            emptied: Mutex::default(),
        };
        if !self.cache_from.is_empty() {
            work.candidates()?;
        }
        // All that the steps give is synced once, when the image is listed.
        let deferred = store.defer();
        let image = work.all()?;
        drop(deferred);
        // The context's own: what was read need not be read again. Whoever gets an error finds no name changed.
        work.context.save()?;
        image.list(&names)?;
        let unused = work.given.unused();
        if !unused.is_empty() {
            let what = format!("no ARG asks for the build arguments {}", unused.join(", "));
            work.teller.warn(None, what);
        }
        Ok(image)
    }
}

/// A further context has no Dockerfile whose name could count.
fn with_own_ignore(context: Context) -> Result<Context> {
    if context.is_archive() {
        return Ok(context);
    }
    let ignore = context.ignore_of(None)?;
    context.ignoring(ignore)
}

/// Tells what looks wrong in the file; `# check=error=true` makes it an error.
fn warn(file: &Dockerfile, ignore: &Ignore, teller: &Teller) -> Result<()> {
    let is_error = file.check_options()?.error;
    if !is_error && !teller.is_there() {
        return Ok(());
    }
    let warnings = file.check(Some(ignore), &|_| None)?;
    for warning in &warnings {
        teller.warn(Some(warning.span.first), format!("{}: {}", warning.rule.name(), warning.message));
    }
    match warnings.first() {
        Some(first) if is_error => {
            let what = format!("line {}: {}: {}", first.span.first, first.rule.name(), first.message);
            Err(Error::new(ErrorKind::InvalidData, what)
                .with_remedy("the file says that warnings are errors (# check=error=true)"))
        }
        _ => Ok(()),
    }
}

impl Work<'_> {
    /// Works on all that the target needs.
    fn all(&self) -> Result<Image> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(at) = self.plan.needed.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stage(*at).is_err() {
                    self.kill();
                    return;
                }
            }
        };
        let threads = self.plan.needed.len().min(THREADS_MAX);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let thread = std::thread::Builder::new().name("coracle-build".into());
                // With fewer threads it takes longer.
                if let Err(error) = thread.spawn_scoped(scope, work) {
                    tracing::debug!(%error, "a build goes on with fewer threads");
                    break;
                }
            }
            work();
        });
        match self.stages.wrong() {
            Some(error) => Err(error),
            None => self.stage(self.plan.target).map(|done| done.image.clone()),
        }
    }

    /// A stage's result: waits for it, or works on it.
    pub(super) fn stage(&self, at: usize) -> Result<Arc<Finished>> {
        self.stages.get(at, || self.run_stage(at))
    }

    pub(super) fn plan_target(&self) -> usize {
        self.plan.target
    }

    pub(super) fn permits(&self) -> &Permits {
        &self.permits
    }

    /// An error where another stage has failed, or where the time is up.
    pub(super) fn check(&self) -> Result<()> {
        self.stages.check()?;
        in_time(self.deadline)
    }

    /// What is left of the time.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn now(&self) -> SystemTime {
        self.epoch.unwrap_or_else(SystemTime::now)
    }

    /// `number`: that of the step in its stage, 0 for FROM.
    pub(super) fn step(
        &self,
        at: usize,
        number: usize,
        line: usize,
        text: &str,
        is_trigger: bool,
    ) -> Arc<BuildStep> {
        let stage: &Stage = &self.file.stages()[at];
        Arc::new(BuildStep {
            stage: at,
            stage_name: stage.name.clone(),
            number: self.plan.number(at) + number,
            of: self.plan.of,
            is_trigger,
            line,
            text: text.to_owned(),
        })
    }

    pub(super) fn tell(&self, event: BuildEvent) {
        self.teller.tell(event);
    }

    /// A container that is killed when another stage fails.
    pub(super) fn watch(&self, container: &Arc<Container>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|container| container.strong_count() > 0);
        running.push(Arc::downgrade(container));
        drop(running);
        if self.stages.is_stopped() {
            kill(container);
        }
    }

    fn kill(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        running.iter().filter_map(Weak::upgrade).for_each(|container| kill(&container));
    }
}

fn kill(container: &Container) {
    match container.kill(Signal::SIGKILL) {
        // It has ended, or not begun.
        Err(error) if error.kind() != ErrorKind::State => {
            tracing::warn!(%error, "the container of a build that has failed");
        }
        _ => {}
    }
}

/// An error after the end of the build's time.
pub(super) fn in_time(until: Option<Instant>) -> Result<()> {
    match until {
        Some(until) if Instant::now() >= until => Err(time_is_up()),
        _ => Ok(()),
    }
}

/// What did not come in time failed for that, whoever was waited for.
pub(super) fn late(error: Error, until: Option<Instant>) -> Error {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::Network | ErrorKind::Gone if in_time(until).is_err() => {
            time_is_up().with_source(error)
        }
        _ => error,
    }
}

pub(super) fn time_is_up() -> Error {
    Error::new(ErrorKind::TimedOut, "the build's time is up").with_remedy("give it more with Build::timeout")
}
