//! Containers: from a builder to a running command, and what can be done with it.
//!
//! A container is made by the program's warden (see `warden/main.rs`) from a plan that this module compiles: stage A
//! builds the root filesystem ([`rootfs`]), stage B goes inside and executes ([`inside`]).
#![forbid(unsafe_code)]

mod accounts;
mod bounds;
mod builder;
mod commit;
mod copy;
mod dev;
mod devices;
mod diff;
mod exec;
mod export;
mod find;
mod given;
mod ground;
mod hierarchies;
mod host_root;
mod ids;
mod inner;
mod inside;
mod names;
mod pausing;
mod places;
mod profile;
mod protection;
mod quota;
mod reach;
mod record;
mod rootfs;
mod running;
mod settings;
mod spec;
mod stages;
mod start;
mod status;
mod terminal;
mod users;
mod verify;
mod volume_copy;
mod volumes;
mod written;

pub use crate::sys::output::{Stdio, Stream};
pub use builder::ContainerBuilder;
pub use commit::Commit;
pub use copy::{Copied, Copying};
pub use devices::Device;
pub use exec::{Exec, Executed};
pub use profile::Profile;
pub use protection::Protection;
pub use reach::Ready;
pub use spec::Mount;
pub use status::{ExitStatus, Output, State};

use crate::cgroup::{CgroupParent, OomEvents, Report, Stats};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::store::{Pins, Store, random_hex};
use crate::sys::fork::Witness;
// The modules below name them through here.
use crate::signal::Signal;
use crate::sys::time::after;
use crate::sys::{output, script};
pub(crate) use given::Given;
#[cfg(feature = "build")]
pub(crate) use given::{HeldDir, MemoryFile, Tree};
use ids::Range;
use output::Streams;
use record::{Dir, Exited, Names, Record, RunningRecord};
use running::Running;
use stages::Prepared;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};
#[cfg(feature = "build")]
pub(crate) use volume_copy::copy_into;

/// How long a kill may take until it is an error of its own.
const KILL_TIME: Duration = Duration::from_secs(10);

/// A container of this program, or one that another program keeps in the store.
///
/// It has three ways out: Drop kills, reaps and deletes, quietly; [`remove`](Self::remove) does the same and reports;
/// [`keep`](Self::keep) leaves it in the store, as it was created or as it ended, for any program to open. However
/// this program ends, no process, mount or network of the container stays; its directory, where it was not kept, is
/// swept by the next [`Store::open`].
///
/// One that a program in another PID namespace runs, or in control groups that this one does not see, as inside another
/// container with the same store, is seen to run and out of reach: it can't be waited for, stopped, entered or removed from
/// here (`Unsupported`) until it has ended.
///
/// In a forked copy of the program the methods fail with kind `Gone`, and Drop does nothing.
pub struct Container(Arc<Inner>);

pub(crate) struct Inner {
    store: Store,
    id: String,
    image: Option<Image>,
    streams: Mutex<Streams>,
    given: Arc<Given>,
    witness: Witness,
    /// `None` once removed.
    held: Mutex<Option<Held>>,
    phase: Mutex<Phase>,
    /// Readable once the command has ended: an eventfd, or the pidfd of another program's container.
    end: OwnedFd,
    /// The eventfd of one that another program ran when it was opened, and that this one has started since.
    own_end: OnceLock<OwnedFd>,
}

/// What a container has in the store.
pub(crate) struct Held {
    dir: Arc<Dir>,
    record: Record,
    /// As root; an ordinary user's containers share the user's ids.
    range: Option<Range>,
    kept: bool,
    /// What is done already of its first start.
    prepared: Option<Prepared>,
}

enum Phase {
    Created,
    Running(Arc<Running>),
    /// Out of reach, as in another PID namespace: all that is known is what its program has written down.
    Elsewhere(Box<RunningRecord>),
    Exited(Exited),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn removed() -> Error {
    Error::new(ErrorKind::NotFound, "the container has been removed")
}

impl Container {
    /// Begins a container on this image.
    pub fn builder(image: &Image) -> ContainerBuilder {
        ContainerBuilder::new(image)
    }

    fn create(builder: &ContainerBuilder) -> Result<Self> {
        let mut spec = builder.spec.clone();
        settings::validate(&spec)?;
        settings::anchor(&mut spec)?;
        builder.given.validate()?;
        let image = &builder.image;
        let store = image.store();
        if let Some(name) = spec.name.as_deref().filter(|name| !names::is_valid(name)) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("container name {name:?}")).with_remedy(
                "use letters, digits, '_', '.' and '-', beginning with a letter or digit, two at least",
            ));
        }
        let id = random_hex(32)?;
        let prepared =
            store.cgroups().ok().and_then(|cgroups| Prepared::new(cgroups, &start::namespaces(&spec)));
        let range = if crate::sys::idmap::is_privileged() { Some(Range::take(store, &id)?) } else { None };
        let mut record = Record {
            name: spec.name.clone().unwrap_or_else(|| names::generated(&id)),
            id,
            created: SystemTime::now(),
            pins: Pins { image: (!image.is_host()).then(|| *image.digest()), volumes: Vec::new() },
            ephemeral: true,
            image_name: start::image_name(image),
            exposed: start::exposed(image),
            spec,
            base: range.as_ref().map_or(0, |range| range.base),
            ids: None,
            project: None,
            exited: None,
            attribute: None,
            rooms: store.cgroups().map(CgroupParent::rooms_in_words).unwrap_or_default(),
            seat: Some(store.seat()?),
        };
        let owner = range.as_ref().map(|range| (range.base, range.base));
        // Nobody removes the volumes before the record says that they are needed.
        let made = volumes::attach(store, image, &mut record, builder.given.no_volumes).and_then(|_leases| {
            settings::files_are_seen(&record.spec)?;
            Dir::make(store, &record, owner)
        });
        let dir = match made {
            Ok(dir) => dir,
            Err(error) => {
                if let Err(left) = volumes::remove_anonymous(store, &record) {
                    tracing::warn!(error = %left, "anonymous volumes stay for now; it is tried again, and by the next Store::open");
                }
                return Err(error);
            }
        };
        let named = if record.spec.name.is_some() { take_name(store, &record) } else { Ok(()) };
        // Only now it is known whose control group it is, and that it is not to be swept.
        let prepared = prepared.and_then(|prepared| prepared.enter(store, &record));
        let held = Held { dir: Arc::new(dir), record, range, kept: false, prepared };
        // From here on its Drop removes what was made.
        let container = Self::new(
            held,
            Some(image.clone()),
            builder.streams.clone(),
            Phase::Created,
            end_event()?,
            builder.given.clone(),
        )?;
        named.map(|()| container)
    }

    fn new(
        held: Held,
        image: Option<Image>,
        streams: Streams,
        phase: Phase,
        end: OwnedFd,
        given: Arc<Given>,
    ) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            store: held.dir.store.clone(),
            id: held.record.id.clone(),
            image,
            streams: Mutex::new(streams),
            given,
            witness: Witness::current()?,
            held: Mutex::new(Some(held)),
            phase: Mutex::new(phase),
            end,
            own_end: OnceLock::new(),
        })))
    }

    /// The id: 64 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The first 12 digits of the id.
    pub fn short_id(&self) -> &str {
        &self.0.id[..12]
    }

    /// The name.
    pub fn name(&self) -> String {
        self.0.record(|record| record.name.clone()).unwrap_or_default()
    }

    /// The name of its image, as it was when the container was made.
    pub fn image_name(&self) -> String {
        self.0.record(|record| record.image_name.clone()).unwrap_or_default()
    }

    /// When it was made.
    pub fn created(&self) -> SystemTime {
        self.0.record(|record| record.created).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Its labels.
    pub fn labels(&self) -> std::collections::BTreeMap<String, String> {
        self.0.record(|record| record.spec.labels.clone()).unwrap_or_default()
    }

    /// The record as JSON: what it was made from and how it last ended.
    ///
    /// # Errors
    /// `NotFound` once it was removed.
    pub fn inspect(&self) -> Result<String> {
        let text = self.0.record(serde_json::to_string_pretty)?;
        text.map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))
    }

    /// Its image; `None` when it is gone from the store.
    pub fn image(&self) -> Option<&Image> {
        self.0.image.as_ref()
    }

    /// When its command was last started; `None` before the first time.
    pub fn started(&self) -> Option<SystemTime> {
        match &*self.0.phase() {
            Phase::Created => None,
            Phase::Running(running) => Some(running.started),
            Phase::Elsewhere(running) => Some(running.started),
            Phase::Exited(exited) => Some(exited.started),
        }
    }

    /// When its command ended, if it did.
    pub fn finished(&self) -> Option<SystemTime> {
        match &*self.0.phase() {
            Phase::Created | Phase::Elsewhere(_) => None,
            Phase::Running(running) => running.exited().map(|exited| exited.finished),
            Phase::Exited(exited) => Some(exited.finished),
        }
    }

    /// How long [`stop`](Self::stop) should wait, where the builder said so.
    pub fn stop_timeout(&self) -> Option<Duration> {
        self.0.record(|record| record.spec.stop_timeout).ok().flatten()
    }

    /// Where the streams of the next [`start`](Self::start) come from and go to: a container that was opened from the
    /// store has none of its builder's.
    pub fn set_streams(&self, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) {
        let mut streams = lock(&self.0.streams);
        (streams.stdin, streams.stdout, streams.stderr) = (stdin.into(), stdout.into(), stderr.into());
    }

    /// Starts the command. A container that has ended may be started again, with its changes.
    ///
    /// # Errors
    /// `State` when it runs, also when another program has just started it, and for one that another handle made and has
    /// not kept; on the host image also when the host has changed so that something that was written has no place;
    /// of an ordinary user's also when the user's sub-ids have changed so that its files are somebody else's, and of one in a copy
    /// of a store that was made without extended attributes; `Unsupported` when it runs out of reach, or its record has settings that only a later version of this library knows; see
    /// [`ContainerBuilder::start`].
    pub fn start(&self) -> Result<()> {
        self.0.witness.check()?;
        self.0.refuse_others()?;
        let mut phase = self.0.phase();
        let (mut told, mut own_end) = (false, None);
        if let Phase::Running(running) = &*phase {
            match running.try_wait() {
                Ok(None) => {
                    let error = Error::new(ErrorKind::State, "the container is running");
                    return Err(error.with_path(self.name()).with_remedy("Container::stop or kill it first"));
                }
                // It has ended all the same: with its warden, or by its time limit.
                Err(error) if !matches!(error.kind(), ErrorKind::Gone | ErrorKind::TimedOut) => {
                    return Err(error);
                }
                Ok(Some(_)) | Err(_) => {}
            }
            told = self.0.is_told(running)?;
            if running.warden.is_none() {
                // That pidfd has told of its process's end, and always will.
                own_end = Some(end_event()?);
            }
        }
        let running = self.launch()?;
        // Until it runs anew, the descriptor goes on telling of the last end.
        if told && let Err(error) = self.0.forget_end() {
            running.end()?;
            return Err(error);
        }
        if let Some(end) = own_end {
            // Nobody else sets it: the phase is locked.
            let _ = self.0.own_end.set(end);
        }
        *phase = Phase::Running(running.clone());
        drop(phase);
        if let Err(error) = running.clone().watch(&self.0) {
            // Nobody would take its output.
            running.log.close();
            running.watched.store(false, Ordering::Relaxed);
            running.end()?;
            return Err(error);
        }
        Ok(())
    }

    /// Starts it, opens its published ports, and shows it to other programs.
    fn launch(&self) -> Result<Arc<Running>> {
        let _starting = self.0.store.starting(&self.0.id)?;
        let (running, listening) = start::start(&self.0)?;
        let published = self
            .0
            .record(|record| record.spec.network.is_host())
            .and_then(|host_network| reach::publish(&running, listening, host_network, self.0.witness));
        let published = published.and_then(|()| {
            // Before anybody can see that it has ended, which takes the record away again.
            running.publish_record(reach::published(&running))
        });
        match published {
            Err(error) if error.kind() != ErrorKind::State => {
                running.end()?;
                Err(error)
            }
            _ => Ok(running),
        }
    }

    /// Start, collect, wait: all in the calling thread.
    fn run_to_end(self) -> Result<Output> {
        let running = self.launch()?;
        *lock(&self.0.phase) = Phase::Running(running.clone());
        let output = running.collect();
        let removed = self.0.remove(false);
        let output = output?;
        removed.map(|()| output)
    }

    fn running(&self) -> Result<Arc<Running>> {
        self.0.witness.check()?;
        match &*self.0.phase() {
            Phase::Running(running) => Ok(running.clone()),
            Phase::Created => {
                let error = Error::new(ErrorKind::State, "the container has not been started");
                Err(error.with_path(&self.0.id).with_remedy("Container::start starts it"))
            }
            Phase::Elsewhere(_) => Err(record::elsewhere(&self.0.id)),
            Phase::Exited(_) => Err(running::not_running(&self.0.id)),
        }
    }

    /// Waits for the command's end. The answer stays the same, however often and from how many threads it is asked for.
    ///
    /// # Errors
    /// `State` before the start; `TimedOut` when [`timeout`](ContainerBuilder::timeout) ended it; `Gone` when the
    /// warden was killed, and with it the container; `Panicked` when it has ended and
    /// [`on_output`](ContainerBuilder::on_output) panicked before; `Io` likewise where its output could not be read.
    pub fn wait(&self) -> Result<ExitStatus> {
        if let Phase::Exited(exited) = &*self.0.phase() {
            return Ok(exited.status);
        }
        match self.running()?.wait(None)? {
            Some(status) => Ok(status),
            None => Err(Error::new(ErrorKind::TimedOut, "waiting without a limit")),
        }
    }

    /// Waits for the command's end at most so long; `None` when it still runs then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, time: Duration) -> Result<Option<ExitStatus>> {
        if let Phase::Exited(exited) = &*self.0.phase() {
            return Ok(Some(exited.status));
        }
        self.running()?.wait(Some(after(time)))
    }

    /// How the command ended, if it did.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Sends a signal to the command. As PID 1 of its namespace it ignores those it has no handler for, but SIGKILL and
    /// SIGSTOP.
    ///
    /// # Errors
    /// `State` when it does not run.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.running()?.kill(signal)
    }

    /// Sends the stop signal, waits so long, then kills.
    ///
    /// # Errors
    /// `State` when it does not run; `TimedOut` when not even SIGKILL has ended it within 10 s; else as [`wait`](Self::wait).
    pub fn stop(&self, timeout: Duration) -> Result<ExitStatus> {
        let signal = self.stop_signal()?;
        let running = self.running()?;
        running.kill(signal)?;
        if let Some(status) = running.wait(Some(after(timeout)))? {
            return Ok(status);
        }
        running.end()
    }

    /// The signal that [`stop`](Self::stop) sends first.
    ///
    /// # Errors
    /// `InvalidInput` for a signal of the image that there is not.
    pub fn stop_signal(&self) -> Result<Signal> {
        let own = self.0.record(|record| record.spec.stop_signal)?;
        let of_image =
            || self.0.image.as_ref().and_then(|image| image.config().stop_signal().map(str::to_owned));
        match own {
            Some(number) => Signal::try_from(number),
            None => of_image().map_or(Ok(Signal::SIGTERM), |name| name.parse()),
        }
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// `State` when it does not run or is frozen; `Unsupported` where no cgroup v2 hierarchy can be had.
    pub fn pause(&self) -> Result<()> {
        self.running()?.pause(true)
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// `State` when it is not frozen; else as [`pause`](Self::pause).
    pub fn unpause(&self) -> Result<()> {
        self.running()?.pause(false)
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        match &*self.0.phase() {
            Phase::Created => State::Created,
            Phase::Exited(_) => State::Exited,
            Phase::Running(running) => match running.try_wait() {
                Ok(None) if running.is_paused() => {
                    pausing::settle(running);
                    if running.is_paused() { State::Paused } else { State::Running }
                }
                Ok(None) => State::Running,
                _ => State::Exited,
            },
            Phase::Elsewhere(_) => State::Running,
        }
    }

    /// What was asked for that this host might not have, and what it enforces. Empty before the start.
    ///
    /// Of a run that another program or another handle started it is what that one was told, as long as it goes on and if
    /// the container is a kept one; else it is empty. An outcome that only a later version of this library knows counts as
    /// not enforced.
    pub fn report(&self) -> Report {
        match &*self.0.phase() {
            Phase::Running(running) => running.report.clone(),
            Phase::Elsewhere(running) => Report::from_json(&running.report),
            _ => Report::default(),
        }
    }

    /// What it has used so far. A figure that its control group does not count is `None`, see [`Stats`].
    ///
    /// # Errors
    /// `State` when it does not run; `Unsupported` where it has no control group, so that there is no figure at all.
    pub fn stats(&self) -> Result<Stats> {
        self.running()?.stats()
    }

    /// Tells from now on when memory runs out: most often a process, not always the first one, is killed then.
    ///
    /// # Errors
    /// `State` when it does not run; `Unsupported` without a limit on memory.
    pub fn oom_events(&self) -> Result<OomEvents> {
        self.running()?.oom_events()
    }

    /// Its processes: for each the line that `ps` would give, see [`Process`].
    ///
    /// # Errors
    /// `State` when it does not run.
    pub fn top(&self) -> Result<Vec<Process>> {
        self.running()?.top()
    }

    /// The pid of its first process, in this program's PID namespace.
    ///
    /// # Errors
    /// `State` when it does not run.
    pub fn pid(&self) -> Result<i32> {
        self.running()?.pid()
    }

    /// What is kept of an output: its last bytes, 16 MiB unless the builder said otherwise; also after the end, as long as
    /// this handle is there.
    ///
    /// # Errors
    /// `State` where this handle has not started it, and of a stream that is not collected, as it goes to a terminal, a pipe, a
    /// file or nowhere.
    pub fn logs(&self, stream: Stream) -> Result<Vec<u8>> {
        self.running()?.output(stream)
    }

    /// The other end of a piped stdin. Dropping it is the end of the command's input.
    pub fn take_stdin(&self) -> Option<std::io::PipeWriter> {
        lock(&self.running().ok()?.ours).stdin.take()
    }

    /// The other end of a piped stdout.
    pub fn take_stdout(&self) -> Option<std::io::PipeReader> {
        lock(&self.running().ok()?.ours).stdout.take()
    }

    /// The other end of a piped stderr.
    pub fn take_stderr(&self) -> Option<std::io::PipeReader> {
        lock(&self.running().ok()?.ours).stderr.take()
    }

    /// The host's side of the container's terminal: what is written to it was typed, what is read was printed.
    ///
    /// # Errors
    /// `State` for a container without one.
    pub fn terminal(&self) -> Result<std::fs::File> {
        terminal::master(self.running()?.terminal.as_ref())
    }

    /// Sets the size of the container's terminal, in characters.
    ///
    /// # Errors
    /// `State` for a container without one.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        terminal::resize(self.terminal()?, columns, rows)
    }

    /// Prepares a further command in the running container.
    pub fn exec<S: Into<std::ffi::OsString>>(&self, words: impl IntoIterator<Item = S>) -> Exec<'_> {
        Exec::new(self, words.into_iter().map(Into::into).collect())
    }

    /// Kills it if it runs and removes what it has in the store.
    ///
    /// # Errors
    /// `State` for one that does not run and that another handle made and has not kept; `Unsupported` for one that runs
    /// out of reach.
    pub fn remove(self) -> Result<()> {
        self.0.witness.check()?;
        let runs_here = matches!(&*self.0.phase(), Phase::Running(_));
        if !runs_here {
            self.0.refuse_elsewhere()?;
            self.0.refuse_others()?;
        }
        self.0.remove(true)
    }

    /// Leaves the container in the store: created, or, if it runs, killed first, with all its changes. One that
    /// another program runs is left as it is. When this returns, it is on the disk.
    ///
    /// Where it can't be written down, as on a full disk, nothing is lost yet: [`Store::container`] opens it by its id, and it
    /// can be kept then. The next [`Store::open`] sweeps it while nobody has it open.
    ///
    /// # Errors
    /// `State` for a writable layer in memory: nothing of it is left; and for one that another handle made and has not kept.
    pub fn keep(self) -> Result<()> {
        self.0.witness.check()?;
        self.0.keep()
    }
}

/// A process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// In this program's PID namespace.
    pub pid: i32,
    /// Of its parent, likewise.
    pub parent: i32,
    /// The user's id on the host.
    pub uid: u32,
    /// `R`, `S`, `D`, `T`, `Z`, … (proc_pid_stat(5)).
    pub state: char,
    /// Processor time so far.
    pub time: Duration,
    /// The command's words; the name in brackets of one that has none.
    pub command: String,
}

impl AsFd for Container {
    /// Becomes readable when the command has ended: for `poll`, or tokio's `AsyncFd`. Once this program has started a
    /// container that another one ran when it was opened, it is another descriptor. Of one that ran out of reach then,
    /// it tells only of what this program starts.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.end()
    }
}

impl AsRawFd for Container {
    /// The same descriptor, for whoever wants its number: tokio's `AsyncFd` does.
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.0.id).field("state", &self.state()).finish()
    }
}

fn end_event() -> Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).call("eventfd")
}

fn take_name(store: &Store, record: &Record) -> Result<()> {
    if Names::take(store, &record.name, &record.id)? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::AlreadyExists, format!("a container is called {:?}", record.name))
        .with_remedy("remove it first, or choose another name"))
}
