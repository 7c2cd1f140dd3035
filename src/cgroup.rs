//! Control groups: limits for the processes of a container, and a handle on all of them at once.
//!
//! A [`Cgroup`] is usable alone, without a container. It lies below the group that this process is in, as
//! `coracle/NAME`, in the hierarchies it needs:
//!
//! | kernel's set-up | limits | freeze, kill, processor time, pressure |
//! |---|---|---|
//! | v2 | unified | unified |
//! | hybrid (v1 with an empty v2 beside it) | one v1 directory for each controller in use | unified |
//! | v1 | likewise | killing one by one; no freezing: a process frozen by v1 survives SIGKILL |
//!
//! A process joins by itself: it writes `0` into the descriptors of [`Cgroup::join_fds`], or is made in the group by
//! `clone3(CLONE_INTO_CGROUP)` with [`Cgroup::v2_dir`]. Everything that is needed later is opened at the start, so a
//! program that gives up its privileges meanwhile still pauses and kills.
//!
//! Devices are limited by files on v1 and by a program that the kernel runs on v2 ([`devices`]). What is asked of a
//! user's systemd is in [`systemd`].
//!
//! See cgroups(7) and the kernel's admin-guide/cgroup-v1 and cgroup-v2.
#![forbid(unsafe_code)]

#[cfg(feature = "cgroups")]
mod control;
mod devices;
mod freeze;
#[cfg(feature = "cgroups")]
mod hugetlb;
mod io;
mod layout;
mod limits;
mod oom;
mod parent;
mod pressure;
mod process;
mod report;
mod stats;
mod systemd;

pub use devices::DeviceRule;
pub use io::IoMax;
pub use limits::{LimitKind, Limits, Requirement};
pub use oom::OomEvents;
pub use parent::CgroupParent;
pub(crate) use parent::Origin;
pub use pressure::{Pressure, Stall};
pub use report::{Outcome, Report, ReportEntry};
pub use stats::{IoStats, Stats};

use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, Missing, words};
use crate::sys::fork::Witness;
use crate::sys::time::after;
use rustix::fs::{Mode, OFlags, open, openat};
use stats::Files;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directory in which all groups of this crate lie.
const ROOM: &str = "coracle";

/// A control group with its limits. Removed when it goes, if nothing is left in it.
///
/// Drop removes quietly and never kills: what still runs in the group stays, and the directory with it, until
/// [`CgroupParent::sweep`]. [`remove`](Self::remove) reports, [`keep`](Self::keep) opts out. In a forked copy of the
/// program, Drop does nothing. If the program is killed the directory stays, until a sweep.
///
/// ```no_run
/// use coracle::{Cgroup, Limits};
/// let group = Cgroup::create("job-1", &Limits::new().memory_max(64 << 20).pids_max(32))?;
/// for file in group.join_paths() {
///     // Moves this process. A child does it for itself, before it executes a program.
///     std::fs::write(file, "0")?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Cgroup {
    name: String,
    v1: Vec<V1>,
    unified: Result<Unified, Missing>,
    report: Report,
    /// Keeps the directory above; `None` where another process owns the group.
    _parent: Option<CgroupParent>,
    /// Of the process that removes it; `None` where nobody does.
    owner: Option<Witness>,
    heir: Option<Heir>,
}

/// Removes what has stayed of a group, where that can be done by now.
pub(crate) type Remnant = Box<dyn FnMut() -> Result<()> + Send>;

type Bequest = dyn FnOnce(&str, Remnant) + Send + Sync;

/// Who is given the name of a group that could not be removed when it went, and what removes it later.
struct Heir(Box<Bequest>);

impl std::fmt::Debug for Heir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Heir")
    }
}

/// A directory in a v1 hierarchy.
#[derive(Debug)]
struct V1 {
    controllers: Vec<String>,
    path: PathBuf,
    dir: OwnedFd,
    tasks: OwnedFd,
}

/// The directory in the unified hierarchy.
#[derive(Debug)]
struct Unified {
    path: PathBuf,
    dir: OwnedFd,
    procs: OwnedFd,
    /// None before Linux 5.2.
    freeze: Option<OwnedFd>,
    /// None before Linux 5.14.
    kill: Option<OwnedFd>,
}

impl Cgroup {
    /// Makes a group named `name` with `limits`, below this process's own group.
    ///
    /// The name is 1 to 200 letters, digits, `_`, `-` and `.`, not starting with a `.`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]: a name or a value that can't be. [`ErrorKind::AlreadyExists`]: the name is taken.
    /// [`ErrorKind::Unsupported`], [`ErrorKind::PermissionDenied`]: a required limit that this kernel, this build
    /// (feature `cgroups`) or this user can't have. Nothing is left behind then.
    pub fn create(name: &str, limits: &Limits) -> Result<Self> {
        CgroupParent::detect()?.create(name, limits)
    }

    fn create_in(
        parent: &CgroupParent,
        name: &str,
        limits: &Limits,
        origin: Option<Origin<'_>>,
    ) -> Result<Self> {
        if !valid_name(name) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{name:?} can't name a control group")));
        }
        limits.validate()?;
        let mut group = Self {
            name: name.to_owned(),
            v1: Vec::new(),
            unified: Err(words::NO_UNIFIED.of(Feature::Cgroup)),
            report: Report::begin(),
            _parent: Some(parent.clone()),
            owner: Some(Witness::current()?),
            heir: None,
        };
        // From here on an error drops `group`, which removes what was made.
        let (mut kinds, mut on_v2): (Vec<LimitKind>, Vec<LimitKind>) = (Vec::new(), Vec::new());
        for kind in limits.kinds() {
            if cfg!(not(feature = "cgroups")) {
                let error = Error::new(ErrorKind::Unsupported, kind.name());
                group.refused(limits, kind, error.lacks(words::NO_LIMITS_BUILT.of(kind.feature())))?;
            } else if parent.v1_of(kind.v1_controller()).is_some() {
                match group.enter_v1(parent, kind.v1_controller()) {
                    Ok(()) => kinds.push(kind),
                    Err(error) => group.refused(limits, kind, error)?,
                }
            } else if parent.has_unified() {
                on_v2.push(kind);
            } else {
                let error = Error::new(ErrorKind::Unsupported, "a control group");
                group.refused(limits, kind, error.lacks(words::not_mounted(kind.v1_controller())))?;
            }
        }
        group.enter_unified(parent, limits, &mut on_v2, origin)?;
        // The time that v2 counts for every group, v1 counts in a hierarchy that limits nothing.
        if !group.v1.is_empty() && group.unified.is_err() && parent.v1_of("cpuacct").is_some() {
            match group.enter_v1(parent, "cpuacct") {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
                // Without it there is no such number in the statistics.
                _ => {}
            }
        }
        kinds.extend(on_v2);
        kinds.sort();
        for kind in kinds {
            group.limit(limits, kind)?;
        }
        Ok(group)
    }

    /// Opens a group that another handle made, by its [`paths`](Self::paths). This handle never removes it by itself.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where a directory is gone.
    pub fn open(paths: impl IntoIterator<Item: AsRef<Path>>) -> Result<Self> {
        let mut group = Self {
            name: String::new(),
            v1: Vec::new(),
            unified: Err(words::NO_UNIFIED.of(Feature::Cgroup)),
            report: Report::default(),
            _parent: None,
            owner: None,
            heir: None,
        };
        for path in paths {
            let path = path.as_ref();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                group.name = name.to_owned();
            }
            match path.join("tasks").exists() {
                true => group.v1.push(V1::open(path.to_owned(), Vec::new())?),
                false => group.unified = Ok(Unified::open(path.to_owned())?),
            }
        }
        Ok(group)
    }

    /// Makes the directory in the hierarchy of `controller`, unless it is there already.
    fn enter_v1(&mut self, parent: &CgroupParent, controller: &str) -> Result<()> {
        if self.v1_of(controller).is_some() {
            return Ok(());
        }
        let Some(hierarchy) = parent.v1_of(controller) else {
            let error = Error::new(ErrorKind::Unsupported, "a control group");
            return Err(error.lacks(words::not_mounted(controller)));
        };
        let path = parent.make_v1(hierarchy, &self.name)?;
        let v1 = V1::open(path.clone(), hierarchy.controllers.clone());
        if v1.is_err() {
            let _ = std::fs::remove_dir(path);
        }
        self.v1.push(v1?);
        Ok(())
    }

    /// Makes the directory in the unified hierarchy. It must have what is required of it; without anything
    /// required the group can do without, and says why when it is asked to freeze.
    fn enter_unified(
        &mut self,
        parent: &CgroupParent,
        limits: &Limits,
        kinds: &mut Vec<LimitKind>,
        origin: Option<Origin<'_>>,
    ) -> Result<()> {
        let controllers = |kinds: &[LimitKind]| {
            let mut list: Vec<_> = kinds.iter().filter_map(|kind| kind.v2_controller()).collect();
            list.sort_unstable();
            list.dedup();
            list
        };
        let mut made = parent.make_unified(&controllers(kinds), &self.name, origin);
        if made.is_err() && !kinds.is_empty() {
            // Which of them it was takes trying one by one: those that fail alone are refused.
            let mut kept: Vec<LimitKind> = Vec::new();
            for kind in std::mem::take(kinds) {
                kept.push(kind);
                match parent.make_unified(&controllers(&kept), &self.name, origin) {
                    Ok(dir) => std::fs::remove_dir(&dir).call_at("rmdir", &dir)?,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
                    Err(error) => {
                        kept.pop();
                        self.refused(limits, kind, error)?;
                    }
                }
            }
            *kinds = kept;
            made = parent.make_unified(&controllers(kinds), &self.name, origin);
        }
        match made {
            Ok(path) => {
                let unified = Unified::open(path.clone());
                if unified.is_err() {
                    let _ = std::fs::remove_dir(path);
                }
                self.unified = Ok(unified?);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
            Err(error) => self.unified = Err(error.into_missing(Feature::Cgroup, words::DELEGATE).0),
        }
        Ok(())
    }

    /// Sets one limit and notes what became of it.
    #[cfg(feature = "cgroups")]
    fn limit(&mut self, limits: &Limits, kind: LimitKind) -> Result<()> {
        let outcome = match (self.v1_of(kind.v1_controller()), &self.unified) {
            (Some(v1), _) => control::set(limits, kind, &v1.path, false),
            (None, Ok(unified)) => control::set(limits, kind, &unified.path, true),
            (None, Err(why)) => {
                Err(Error::new(ErrorKind::Unsupported, "a control group v2").lacks(why.clone()))
            }
        };
        match outcome {
            Ok(value) => {
                self.report.push(
                    kind.name(),
                    limits.asked(kind).unwrap_or_default(),
                    Outcome::Enforced(value),
                );
                Ok(())
            }
            Err(error) => self.refused(limits, kind, error),
        }
    }

    #[cfg(not(feature = "cgroups"))]
    fn limit(&mut self, _: &Limits, _: LimitKind) -> Result<()> {
        Ok(())
    }

    /// A limit that can't be had: an error if it is required, else a line of the report.
    fn refused(&mut self, limits: &Limits, kind: LimitKind, error: Error) -> Result<()> {
        let asked = limits.asked(kind).unwrap_or_default();
        // One lack has many consequences: it is told as that of what was asked for, in the words of the probe.
        let missing = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnly if error.remedy().is_none() => {
                Some(words::NOT_DELEGATED.of(kind.feature()))
            }
            _ => error.missing().cloned().map(|missing| missing.of(kind.feature())),
        };
        let error = match missing {
            Some(missing) => error.lacks(missing),
            None => error,
        };
        match limits.requirement_of(kind) {
            // A taken name is no matter of what this machine can enforce.
            _ if error.kind() == ErrorKind::AlreadyExists => Err(error),
            Requirement::Required => {
                let during = format!("setting the limit {} {asked}", kind.name());
                Err(error.during(during).with_protection(kind.name()))
            }
            Requirement::BestEffort => {
                self.report.push(kind.name(), asked, Outcome::NotEnforced(error.to_string()));
                Ok(())
            }
        }
    }

    fn v1_of(&self, controller: &str) -> Option<&V1> {
        self.v1.iter().find(|v1| v1.has(controller))
    }

    /// Why it has no directory in the unified hierarchy.
    pub(crate) fn lack(&self) -> Option<&Missing> {
        self.unified.as_ref().err()
    }

    fn unified(&self) -> Result<&Unified> {
        self.unified.as_ref().map_err(|why| {
            Error::new(ErrorKind::Unsupported, "the control group has no v2 directory").lacks(why.clone())
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The group's directories, v1 first: what [`open`](Self::open) takes in another process.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let unified = self.unified.iter().map(|unified| unified.path.as_path());
        self.v1.iter().map(|v1| v1.path.as_path()).chain(unified)
    }

    /// What became of each limit.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The files into which a process that joins writes `0`: `tasks` on v1, `cgroup.procs` on v2.
    ///
    /// On v1 that moves the thread that writes. Once all are written it and its children are in the group.
    pub fn join_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks_fds().chain(self.unified.iter().map(|unified| unified.procs.as_fd()))
    }

    /// Only the `tasks` files of v1, for a process that `clone3` makes in [`v2_dir`](Self::v2_dir).
    pub fn tasks_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.v1.iter().map(|v1| v1.tasks.as_fd())
    }

    /// What each v1 hierarchy controls in which the group has a directory.
    pub(crate) fn v1_controllers(&self) -> impl Iterator<Item = &[String]> {
        self.v1.iter().map(|v1| &*v1.controllers)
    }

    /// The same files as [`join_fds`](Self::join_fds), by path.
    pub fn join_paths(&self) -> impl Iterator<Item = PathBuf> {
        let unified = self.unified.iter().map(|unified| unified.path.join("cgroup.procs"));
        self.v1.iter().map(|v1| v1.path.join("tasks")).chain(unified)
    }

    /// The directory in the unified hierarchy, for `clone3(CLONE_INTO_CGROUP)`.
    pub fn v2_dir(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().ok().map(|unified| unified.dir.as_fd())
    }

    /// Kills every process of the group, also those that are being forked, and those that are frozen.
    ///
    /// Without a v2 hierarchy, or before Linux 5.14, they are killed one by one until none is left, for two seconds at
    /// most; on v2 they are frozen for that time, so that none forks (Linux 5.2).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] of a group without any directory; [`ErrorKind::TimedOut`] where they are killed one by
    /// one and others come all the time; those of the system.
    pub fn kill(&self) -> Result<()> {
        if let Ok(unified) = &self.unified {
            return match &unified.kill {
                Some(fd) => write(fd, b"1").call_at("write", unified.path.join("cgroup.kill")),
                None => self.kill_frozen(unified),
            };
        }
        match self.v1.first() {
            Some(v1) => process::kill_all(v1.files()),
            None => self.unified().map(|_| ()),
        }
    }

    /// The processes of the group, by their pids in this process's namespace.
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    pub fn procs(&self) -> Result<Vec<i32>> {
        let files = match (&self.unified, self.v1.first()) {
            (Ok(unified), _) => unified.files(),
            (Err(_), Some(v1)) => v1.files(),
            (Err(_), None) => return self.unified().map(|_| Vec::new()),
        };
        let mut pids: Vec<_> = process::procs(&files.read("cgroup.procs")?).into_iter().collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Waits until no process is left in the group, zombies not counted.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`]; [`ErrorKind::Unsupported`] without a v2 hierarchy.
    pub fn wait_empty(&self, timeout: Duration) -> Result<()> {
        process::wait_event(self.unified()?.files(), "populated", 0, after(timeout))
    }

    /// What the group has used until now.
    ///
    /// # Errors
    /// Those of the system. What the kernel doesn't count is `None`.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        if let Ok(unified) = &self.unified {
            unified.files().cpu_v2(&mut stats)?;
            unified.files().memory(true, &mut stats)?;
            unified.files().pids(&mut stats)?;
            unified.files().io_v2(&mut stats)?;
            unified.files().pressure(&mut stats)?;
        }
        for v1 in &self.v1 {
            if v1.has("memory") {
                v1.files().memory(false, &mut stats)?;
            }
            if v1.has("pids") {
                v1.files().pids(&mut stats)?;
            }
            if v1.has("blkio") {
                v1.files().io_v1(&mut stats)?;
            }
            if v1.has("cpu") {
                v1.files().cpu_v1(&mut stats)?;
            }
            if v1.has("cpuacct") && stats.cpu_usage.is_none() {
                v1.files().cpuacct_v1(&mut stats)?;
            }
        }
        Ok(stats)
    }

    /// How many processes were killed because memory ran out; `None` where memory is not counted.
    ///
    /// # Errors
    /// Those of the system.
    pub fn oom_kills(&self) -> Result<Option<u64>> {
        match (self.v1_of("memory"), &self.unified) {
            (Some(v1), _) => v1.files().oom_kills(false),
            (None, Ok(unified)) => unified.files().oom_kills(true),
            (None, Err(_)) => Ok(None),
        }
    }

    /// Tells from now on when memory runs out in the group.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] of a group without the memory controller; those of the system.
    pub fn oom_events(&self) -> Result<OomEvents> {
        match (self.v1_of("memory"), &self.unified) {
            (Some(v1), _) => OomEvents::new(v1.files(), false),
            (None, Ok(unified)) => OomEvents::new(unified.files(), true),
            (None, Err(_)) => {
                let error = Error::new(ErrorKind::Unsupported, "the group doesn't count memory");
                Err(error.with_remedy(oom::NO_MEMORY))
            }
        }
    }

    /// Removes the group. Processes that are ending are waited for, up to two seconds.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`]: processes are left in it. [`ErrorKind::PermissionDenied`]: this process may no longer.
    pub fn remove(mut self) -> Result<()> {
        self.owner = None;
        let removed = self.remove_by(Instant::now() + Duration::from_secs(2));
        if removed.is_err() {
            self.bequeath();
        }
        removed
    }

    /// Whoever gets it if something is left in it when it goes.
    pub(crate) fn leave_to(&mut self, heir: impl FnOnce(&str, Remnant) + Send + Sync + 'static) {
        self.heir = Some(Heir(Box::new(heir)));
    }

    fn bequeath(&mut self) {
        let Some(Heir(heir)) = self.heir.take() else { return };
        let paths: Vec<PathBuf> = self.paths().map(Into::into).collect();
        // With the last group in it the directory above goes.
        let parent = self._parent.clone();
        let remove = move || {
            let _parent = &parent;
            paths.iter().try_for_each(|path| process::remove(path, Instant::now()))
        };
        heir(&self.name, Box::new(remove));
    }

    /// Leaves the group as it is.
    pub fn keep(mut self) {
        self.owner = None;
    }

    /// The unified directory first: the kernel tells when it is empty, and v1 is then too.
    fn remove_by(&self, deadline: Instant) -> Result<()> {
        let unified = self.unified.iter().map(|unified| &unified.path);
        let mut first = None;
        for path in unified.chain(self.v1.iter().map(|v1| &v1.path)) {
            if let Err(error) = process::remove(path, deadline) {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.owner.is_some_and(|owner| owner.is_here()) {
            let removed = self.remove_by(Instant::now() + Duration::from_millis(100));
            if removed.is_err() {
                self.bequeath();
            }
        }
    }
}

impl V1 {
    /// `controllers` is asked of the directory itself where it is not known.
    fn open(path: PathBuf, mut controllers: Vec<String>) -> Result<Self> {
        let dir = open_dir(&path)?;
        if controllers.is_empty() {
            let marks = [
                ("memory", "memory.limit_in_bytes"),
                ("pids", "pids.max"),
                ("cpu", "cpu.shares"),
                ("cpuacct", "cpuacct.usage"),
                ("cpuset", "cpuset.cpus"),
                ("blkio", "blkio.throttle.io_serviced"),
                ("devices", "devices.list"),
            ];
            controllers
                .extend(marks.iter().filter(|(_, file)| path.join(file).exists()).map(|(c, _)| (*c).into()));
        }
        let tasks = open_file(&dir, &path, "tasks", OFlags::WRONLY)?;
        Ok(Self { controllers, path, dir, tasks })
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    fn files(&self) -> Files<'_> {
        Files { dir: self.dir.as_fd(), path: &self.path }
    }
}

impl Unified {
    fn open(path: PathBuf) -> Result<Self> {
        let dir = open_dir(&path)?;
        let any = |name| match open_file(&dir, &path, name, OFlags::WRONLY) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let (freeze, kill) = (any("cgroup.freeze")?, any("cgroup.kill")?);
        let procs = open_file(&dir, &path, "cgroup.procs", OFlags::WRONLY)?;
        Ok(Self { dir, procs, freeze, kill, path })
    }

    fn files(&self) -> Files<'_> {
        Files { dir: self.dir.as_fd(), path: &self.path }
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).call_at("open", path)
}

fn open_file(dir: &OwnedFd, path: &Path, name: &str, flags: OFlags) -> Result<OwnedFd> {
    openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os("openat", errno).with_path(path.join(name)))
}

/// Files of control groups take a value in one write, whatever the offset.
fn write(fd: &OwnedFd, value: &[u8]) -> rustix::io::Result<()> {
    loop {
        match rustix::io::write(fd, value) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn valid_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=200).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "brave_wegener", "0", "x.y-z", &"n".repeat(200)] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ä", "a\n", &"n".repeat(201)] {
            assert!(!valid_name(bad), "{bad:?}");
        }
    }

    /// A build without limits says so, and gives no group that has less than was asked.
    #[test]
    #[cfg(not(feature = "cgroups"))]
    fn limits_without_the_feature_say_so() {
        let name = format!("test-{}-without", std::process::id());
        let limits = Limits::new().memory_max(64 << 20);
        let error = Cgroup::create(&name, &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("`cgroups`")), "{error}");
        let group = Cgroup::create(&name, &limits.best_effort(LimitKind::MemoryMax)).unwrap();
        let outcome = group.report().get("memory_max").unwrap().outcome();
        assert!(matches!(outcome, Outcome::NotEnforced(why) if why.contains("`cgroups`")), "{outcome:?}");
    }
}
