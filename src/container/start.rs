//! From a record to a running command: checks, plans, and the conversation with the warden.
#![forbid(unsafe_code)]

use super::inside::{self, Command, Inside};
use super::output::{Log, OUTPUT_MAX, Pipes, Stdio};
use super::record::{Dir, Exited, Record, RunningRecord};
use super::rootfs::{self, Base, Planned, Root, Shift, Source};
use super::running::{Ending, Running};
use super::script::Script;
use super::spec::{MountKind, SeccompChoice, Spec};
use super::users::{self, Identity};
use super::{ExitStatus, Held, Inner, host_root, lock, removed, volumes};
use crate::cgroup::{Cgroup, LimitKind, Limits, Report, Requirement};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::{Image, Source as ImageSource};
use crate::manifest::ImageConfig;
use crate::security::capability::Capabilities;
use crate::security::paths::{MASKED, READ_ONLY, thermal_throttle};
use crate::security::seccomp::{Seccomp, SeccompProfile};
use crate::store::Store;
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::Status;
use crate::sys::plan::{Cell, Plan};
use crate::sys::warden::{self, Warden};
use linux_raw_sys::{general as n, prctl};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Messages of our plans.
pub(super) const BORN: u32 = Status::PLAN;
pub(super) const TERMINAL: u32 = Status::PLAN + 1;
pub(super) const READY: u32 = Status::PLAN + 2;

/// Processes of a container, unless the builder says otherwise.
const PIDS_MAX: u64 = 2048;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What can be seen to be wrong before anything is made.
pub(super) fn validate(spec: &Spec) -> Result<()> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidInput, what);
    let words = [&spec.entrypoint, &spec.command].into_iter().flatten().flatten().chain(&spec.args);
    let pairs = spec.env.iter().flat_map(|(name, value)| [name, value]);
    if words.chain(pairs).any(|word| word.as_bytes().contains(&0)) {
        return Err(invalid("an argument or variable with a NUL byte".into()));
    }
    if let Some((name, _)) =
        spec.env.iter().find(|(name, _)| name.is_empty() || name.as_bytes().contains(&b'='))
    {
        return Err(invalid(format!("environment variable {name:?}")));
    }
    if let Some(name) = spec
        .hostname
        .as_ref()
        .filter(|name| name.is_empty() || name.len() > 64 || name.contains(['\0', '\n']))
    {
        return Err(invalid(format!("host name {name:?}: 1 to 64 bytes")));
    }
    let targets =
        spec.mounts.iter().map(|mount| &mount.target).chain(spec.files.iter().map(|file| &file.path));
    for path in targets.chain(&spec.working_dir) {
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || path.as_os_str().as_bytes().contains(&0) {
            return Err(
                invalid("a path in the container must be absolute, without '..'".into()).with_path(path)
            );
        }
    }
    for path in spec.mounts.iter().map(|mount| &mount.target).chain(spec.files.iter().map(|file| &file.path))
    {
        if path.parent().is_none() {
            return Err(invalid(
                "nothing can be mounted on or written to the container's root itself".into(),
            ));
        }
    }
    for device in &spec.devices {
        let inside = device.target.strip_prefix("/dev").is_ok_and(|name| {
            name.components().next().is_some()
                && name.components().all(|part| matches!(part, Component::Normal(_)))
        });
        if !inside {
            return Err(invalid("a device must be in /dev of the container".into()).with_path(&device.target));
        }
    }
    let own = crate::security::limit::OwnNamespaces { net: !spec.network.is_host(), ipc: true };
    spec.sysctls.iter().try_for_each(|sysctl| sysctl.check(own))?;
    capabilities(spec).map(drop)
}

pub(super) fn capabilities(spec: &Spec) -> Result<Capabilities> {
    Capabilities::DEFAULT.adjusted(&spec.cap_add, &spec.cap_drop)
}

pub(super) fn image_name(image: &Image) -> String {
    if image.is_host() {
        return "@host".into();
    }
    let name = image.references().ok().and_then(|names| names.first().map(ToString::to_string));
    name.unwrap_or_else(|| image.id().to_string())
}

pub(super) fn exposed(image: &Image) -> Vec<PathBuf> {
    match image.source() {
        ImageSource::Host { exposed } => exposed.clone(),
        ImageSource::Layers => Vec::new(),
    }
}

/// The image of a kept container. It is pinned, so it is there.
pub(super) fn reopen_image(store: &Store, record: &Record) -> Result<Option<Image>> {
    match &record.pins.image {
        Some(digest) => Image::by_digest(store, digest),
        None => {
            let host = Image::host(store)?;
            record.exposed.iter().try_fold(host, |image, path| image.expose(path)).map(Some)
        }
    }
}

/// `SIGTERM`, `TERM` or a number, as images write it.
pub(super) fn signal(name: &str) -> Result<Signal> {
    let unknown = || Error::new(ErrorKind::InvalidInput, format!("signal {name:?}"));
    if let Ok(number) = name.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| unknown());
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse().map_err(|_| unknown())
}

/// Whether it becomes readable in time.
pub(super) fn poll_readable(fd: BorrowedFd<'_>, time: Option<Duration>) -> Result<bool> {
    let deadline = time.map(|time| Instant::now() + time);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno)),
        }
    }
}

/// What the program of another's container wrote about its end; it may still be about to.
pub(super) fn exited_of_other(dir: &Dir) -> Result<Exited> {
    // Until its program has cleaned up (or is gone itself), the record says that it runs.
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline && dir.running()?.is_some() && dir.record()?.is_some() {
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let record = dir.record()?;
    let now = SystemTime::now();
    let lost = || Exited { status: ExitStatus::lost(), started: now, finished: now };
    Ok(record.and_then(|record| record.exited).unwrap_or_else(lost))
}

/// Another program's running container; `None` when its first process is gone.
pub(super) fn join(dir: &Dir, _record: &Record, running: &RunningRecord) -> Result<Option<Arc<Running>>> {
    let Some(pid) = rustix::process::Pid::from_raw(running.pid) else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(Error::os("pidfd_open", errno)),
    };
    if super::record::start_time(running.pid) != Some(running.start_time) {
        return Ok(None);
    }
    let cgroup = if running.cgroups.is_empty() { None } else { Some(Cgroup::open(&running.cgroups)?) };
    let Some(dir) = Dir::open(&dir.store, &dir.id)? else { return Ok(None) };
    Ok(Some(Arc::new(Running {
        process: warden::Process::foreign(pidfd),
        warden: None,
        cgroup: Mutex::new(cgroup),
        report: Report::default(),
        started: running.started,
        deadline: None,
        log: Log::new(0),
        ours: Mutex::default(),
        callback: None,
        terminal: None,
        ports: Mutex::default(),
        dir: Arc::new(dir),
        paused: AtomicBool::new(running.paused),
        end: Mutex::new(Ending::Not),
        ended: Condvar::new(),
        timed_out: AtomicBool::new(false),
    })))
}

/// The user namespace whose map id-maps the layers of a range, kept for the next container of that range.
fn userns(warden: &Arc<Warden>, base: u32) -> Result<Arc<OwnedFd>> {
    static KEPT: LazyLock<Mutex<HashMap<u32, Arc<OwnedFd>>>> = LazyLock::new(Mutex::default);
    if let Some(fd) = lock(&KEPT).get(&base) {
        return Ok(fd.clone());
    }
    let mut s = Script::new();
    s.during("making a user namespace");
    let pipe = s.space(8);
    s.op(n::__NR_pipe2, "pipe2", [pipe.into(), n::O_CLOEXEC.into()]);
    let (read, write) = (Cell(pipe.0), Cell(pipe.0 + 4));
    const SIGCHLD: u64 = 17;
    let args = s.words64(&[u64::from(n::CLONE_NEWUSER), 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0]);
    let pid = s.op(n::__NR_clone3, "clone3(CLONE_NEWUSER)", [args.into(), 88.into()]).result();
    let child = s.label();
    s.jump_if_zero(pid, child);
    write_maps(&mut s, pid, &IdMap::range(base, super::ids::COUNT), false);
    let path = s.decimal("/proc/", pid, c"/ns/user");
    let letter = s.letter(BORN);
    s.op(
        n::__NR_openat,
        "openat(ns/user)",
        [super::script::CWD.into(), path.into(), n::O_CLOEXEC.into(), 0.into()],
    )
    .store(letter.fd);
    s.op(n::__NR_close, "close", [write.into()]);
    const WALL: u64 = 0x4000_0000;
    s.op(n::__NR_wait4, "wait4", [pid.into(), 0.into(), WALL.into(), 0.into()]);
    s.post(letter);
    let end = s.label();
    s.jump(end);
    s.place(child);
    s.op(n::__NR_close, "close", [write.into()]);
    let byte = s.space(8);
    s.op(n::__NR_read, "read", [read.into(), byte.into(), 1.into()]);
    s.place(end);
    let mut started = warden.start_plan(s.plan)?;
    let told = started.next()?;
    let fd = told.and_then(|told| told.fds.into_iter().next());
    let fd = Arc::new(fd.ok_or_else(|| Error::new(ErrorKind::Setup, "the user namespace did not come"))?);
    lock(&KEPT).insert(base, fd.clone());
    Ok(fd)
}

/// Writes the maps of the process in `pid`, from a process that has the rights to.
fn write_maps(s: &mut Plan<'_>, pid: Cell, map: &IdMap, deny_groups: bool) {
    s.during("writing the maps of the user namespace");
    let mut put = |suffix: &std::ffi::CStr, text: &str| {
        let path = s.decimal("/proc/", pid, suffix);
        let flags = n::O_WRONLY | n::O_CLOEXEC;
        let fd = s
            .op(n::__NR_openat, "openat", [super::script::CWD.into(), path.into(), flags.into(), 0.into()])
            .path(format!("/proc/PID{}", suffix.to_string_lossy()))
            .result();
        let at = s.bytes(text.as_bytes());
        s.op(n::__NR_write, "write", [fd.into(), at.into(), text.len().into()])
            .full()
            .path(format!("/proc/PID{}", suffix.to_string_lossy()));
        s.op(n::__NR_close, "close", [fd.into()]);
    };
    if deny_groups {
        put(c"/setgroups", "deny");
    }
    put(c"/uid_map", &IdMap::text(&map.users));
    put(c"/gid_map", &IdMap::text(&map.groups));
}

/// The surroundings of a command, from the specification and the image.
pub(super) struct Resolved {
    pub pairs: Vec<(OsString, OsString)>,
    pub working_dir: PathBuf,
    pub identity: Identity,
}

pub(super) fn words(spec: &Spec, config: &ImageConfig) -> Result<Vec<OsString>> {
    let of_image = |words: &[String]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let (mut words, command) = match (&spec.entrypoint, &spec.command) {
        (Some(entrypoint), command) => (entrypoint.clone(), command.clone().unwrap_or_default()),
        (None, Some(command)) => (of_image(config.entrypoint()), command.clone()),
        (None, None) => (of_image(config.entrypoint()), of_image(config.cmd())),
    };
    words.extend(command);
    words.extend(spec.args.iter().cloned());
    if words.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "the image names no command")
            .with_remedy("give one with ContainerBuilder::command"));
    }
    Ok(words)
}

/// Variables as `execve` takes them: later ones win, in the order in which they first appeared.
pub(super) fn environment<'a>(
    pairs: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
) -> Vec<(OsString, OsString)> {
    let mut all: Vec<(OsString, OsString)> = Vec::new();
    for (name, value) in pairs {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => all.push((name.to_owned(), value.to_owned())),
        }
    }
    all
}

/// Where commands are searched.
pub(super) fn path_of(pairs: &[(OsString, OsString)]) -> OsString {
    pairs.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone()).unwrap_or_default()
}

pub(super) fn joined(pairs: &[(OsString, OsString)]) -> Vec<OsString> {
    let join = |(name, value): &(OsString, OsString)| {
        let mut bytes = name.clone().into_vec();
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        OsString::from_vec(bytes)
    };
    pairs.iter().map(join).collect()
}

/// Reads a small file of the container's root without mounting it: the writable layer over the image's layers.
/// `None` where it does not exist (or a layer hides it).
pub(super) fn read_in_root(
    upper: &[OwnedFd],
    layers: &[BorrowedFd<'_>],
    path: &str,
    max: u64,
) -> Result<Option<String>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for dir in upper.iter().map(AsFd::as_fd).chain(layers.iter().copied()) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            Ok(fd) => fd,
            // A whiteout is a device without a driver.
            Err(Errno::NXIO | Errno::LOOP | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(Error::os("openat2(RESOLVE_BENEATH)", errno).with_path(path)),
        };
        let file = File::from(fd);
        if !file.metadata().call_at("fstat", path)?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = file.take(max + 1).read_to_end(&mut bytes).call_at("read", path)?;
        if read as u64 > max {
            return Err(Error::new(ErrorKind::TooLarge, format!("more than {max} bytes")).with_path(path));
        }
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(None)
}

pub(super) fn resolve(record: &Record, config: &ImageConfig, identity: Identity) -> Result<Resolved> {
    let spec = &record.spec;
    let hostname = OsString::from(hostname(record));
    let mut defaults: Vec<(&OsStr, &OsStr)> = vec![
        (OsStr::new("PATH"), OsStr::new(DEFAULT_PATH)),
        (OsStr::new("HOSTNAME"), &hostname),
        (OsStr::new("HOME"), identity.home.as_os_str()),
    ];
    if spec.tty {
        defaults.push((OsStr::new("TERM"), OsStr::new("xterm")));
    }
    let of_image = config.env().iter().filter(|_| !spec.env_cleared).filter_map(|pair| pair.split_once('='));
    let of_image = of_image.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
    let own = spec.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    let pairs = environment(defaults.into_iter().chain(of_image).chain(own));
    let of_image = Path::new(config.working_dir());
    let of_image = if of_image.is_absolute() { of_image } else { Path::new("/") };
    let working_dir = spec.working_dir.as_deref().unwrap_or(of_image).to_owned();
    Ok(Resolved { pairs, working_dir, identity })
}

fn hostname(record: &Record) -> &str {
    record.spec.hostname.as_deref().unwrap_or(&record.id[..12])
}

/// The default paths to cover that exist on this kernel, and whether each is a directory.
fn default_masked() -> &'static [(PathBuf, bool)] {
    static EXISTING: LazyLock<Vec<(PathBuf, bool)>> = LazyLock::new(|| {
        let cpus = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
        let cpus = cpus.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("cpu")?.parse().ok());
        let all = MASKED.iter().map(PathBuf::from).chain(cpus.map(thermal_throttle).map(PathBuf::from));
        all.filter_map(|path| path.metadata().ok().map(|meta| (path, meta.is_dir()))).collect()
    });
    &EXISTING
}

pub(super) fn seccomp(choice: &SeccompChoice) -> Result<Seccomp> {
    match choice {
        SeccompChoice::Default => Ok(Seccomp::Default),
        SeccompChoice::Unconfined => Ok(Seccomp::Unconfined),
        SeccompChoice::Profile(json) => {
            static KEPT: LazyLock<Mutex<HashMap<String, SeccompProfile>>> = LazyLock::new(Mutex::default);
            if let Some(profile) = lock(&KEPT).get(json) {
                return Ok(Seccomp::Profile(profile.clone()));
            }
            let parsed = Seccomp::from_json(json)?;
            if let Seccomp::Profile(profile) = &parsed {
                let mut kept = lock(&KEPT);
                if kept.len() >= 64 {
                    kept.clear();
                }
                kept.insert(json.clone(), profile.clone());
            }
            Ok(parsed)
        }
    }
}

/// The control group, where one can be had. The default limit on processes is only a best effort.
fn control_group(store: &Store, id: &str, spec: &Spec) -> Result<(Option<Cgroup>, Report)> {
    let mut limits: Limits = spec.limits.clone();
    let asked = limits.kinds().any(|kind| limits.requirement_of(kind) == Requirement::Required);
    if !limits.kinds().any(|kind| kind == LimitKind::PidsMax) {
        limits = limits.pids_max(PIDS_MAX).best_effort(LimitKind::PidsMax);
    }
    match store.cgroups()?.create(id, &limits) {
        Ok(cgroup) => {
            let report = cgroup.report().clone();
            Ok((Some(cgroup), report))
        }
        Err(error) if asked => Err(error),
        Err(error) => Ok((None, Report::none(&limits, &error.to_string()))),
    }
}

/// Starts the container's command. The caller holds the lock on the container's phase.
pub(super) fn start(inner: &Arc<Inner>) -> Result<Arc<Running>> {
    let mut held = lock(&inner.held);
    let held = held.as_mut().ok_or_else(removed)?;
    let warden = warden::warden()?;
    if held.range.is_none() && warden.map().is_none() {
        held.range = Some(super::ids::Range::again(&inner.store, held.record.base)?);
    }
    let image = inner.image.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the image of the container is gone")
            .with_path(&held.record.image_name)
    })?;
    launch(inner, held, image, warden).map_err(|error| match error.kind() {
        ErrorKind::Exec => error,
        _ => error.during("starting a container"),
    })
}

fn launch(inner: &Arc<Inner>, held: &mut Held, image: &Image, warden: Arc<Warden>) -> Result<Arc<Running>> {
    let record = &held.record;
    let (spec, dir) = (&record.spec, &held.dir);
    // As an ordinary user stage A is root of the warden's namespace and names ids as the container does.
    let shift = Shift(record.base);
    let disk_owner = held.range.is_some().then_some((record.base, record.base));
    let layers = image.layer_dirs()?;
    let in_memory = spec.in_memory;
    if spec.disk_max.is_some() && !in_memory {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "disk_max on this filesystem: it has no project quotas",
        )
        .with_path(inner.store.path())
        .with_remedy("use writable_in_memory(true), or a store on a filesystem mounted with prjquota"));
    }
    let base = prepare_writable(inner, dir, image, &layers, disk_owner, in_memory)?;

    let (upper, layer_fds): (Vec<OwnedFd>, Vec<BorrowedFd<'_>>) = match image.is_host() {
        false => {
            (dir.open_dir("upper").into_iter().collect(), layers.iter().map(|layer| layer.dir()).collect())
        }
        true => (vec![host_root::open_root()?], Vec::new()),
    };
    let read = |path| read_in_root(&upper, &layer_fds, path, users::FILE_MAX).map(Option::unwrap_or_default);
    let user = spec.user.as_deref().unwrap_or(image.config().user());
    let identity = users::identify(user, &spec.groups, &read("etc/passwd")?, &read("etc/group")?)?;
    let resolved = resolve(record, image.config(), identity)?;
    let words = words(spec, image.config())?;
    let path = path_of(&resolved.pairs);
    let env = joined(&resolved.pairs);

    let mounts = planned_mounts(&inner.store, record)?;
    let leases = volumes::leases(&inner.store, record)?;
    let (cgroup, mut report) = control_group(&inner.store, &record.id, spec)?;
    let streams = lock(&inner.streams).clone();
    let inherit = |stdio: &Stdio| if spec.tty { Stdio::null() } else { stdio.clone() };
    let pipes = Pipes::new(&inherit(&streams.stdin), &inherit(&streams.stdout), &inherit(&streams.stderr))?;
    let userns = match held.range {
        Some(_) => Some(userns(&warden, record.base)?),
        None => None,
    };
    if let Some(why) = warden.single() {
        report.add_single_id(why);
    }
    let map = warden.map().map_or_else(|| IdMap::range(record.base, super::ids::COUNT), IdMap::nested);
    let groups_allowed = !map.is_single();
    let capabilities = capabilities(spec)?;
    let masked: Vec<(PathBuf, bool)> = match &spec.masked {
        None => default_masked().to_vec(),
        Some(paths) => {
            paths.iter().map(|path| (path.clone(), path.metadata().is_ok_and(|meta| meta.is_dir()))).collect()
        }
    };
    let read_only: Vec<PathBuf> = match &spec.read_only_paths {
        None => READ_ONLY.iter().map(PathBuf::from).collect(),
        Some(paths) => paths.clone(),
    };
    let inside = Inside {
        hostname: hostname(record),
        own_network: !spec.network.is_host(),
        masked: &masked,
        read_only: &read_only,
        sysctls: &spec.sysctls,
        devices: &spec.devices,
        tty_group: map.group(5).is_some(),
        cgroup2: cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.v2_dir().is_some() && cgroup.tasks_fds().next().is_none()),
    };
    let command = Command {
        words: &words,
        env: &env,
        path: &path,
        working_dir: &resolved.working_dir,
        identity: &resolved.identity,
        capabilities,
        no_new_privileges: !spec.new_privileges,
        seccomp: seccomp(&spec.seccomp)?.program(capabilities)?,
        ulimits: &spec.ulimits,
        init: spec.init,
        groups_allowed,
    };

    let mut s = Script::new();
    if warden.map().is_some() {
        // Else /proc/PID/uid_map of stage B would belong to the host's root.
        s.op(
            n::__NR_prctl,
            "prctl(PR_SET_DUMPABLE)",
            [prctl::PR_SET_DUMPABLE.into(), 1.into(), 0.into(), 0.into(), 0.into()],
        );
    }
    let userns_cell = userns.as_ref().map(|fd| s.fd(fd.as_fd()));
    let stdio = [0, 1, 2].map(|i| s.fd(pipes.theirs[i].as_fd()));
    let joins: Vec<Cell> = cgroup.iter().flat_map(|cgroup| cgroup.tasks_fds()).map(|fd| s.fd(fd)).collect();
    let v2 = cgroup.as_ref().and_then(|cgroup| cgroup.v2_dir()).map(|fd| s.fd(fd));
    let dir_path = dir.path();
    let root = Root {
        dir: &dir_path,
        base,
        memory: in_memory.then(|| spec.disk_max.unwrap_or(super::spec::Mount::TMPFS_SIZE * 16)),
        userns: userns_cell,
        shift,
        etc: etc(record, &mounts),
        mounts,
        files: &spec.files,
        read_only: spec.read_only,
        volatile: !held.kept,
    };
    let mount = rootfs::build(&mut s, &root);
    let namespaces = n::CLONE_NEWUSER
        | n::CLONE_NEWNS
        | n::CLONE_NEWPID
        | n::CLONE_NEWUTS
        | n::CLONE_NEWIPC
        | if inside.own_network { n::CLONE_NEWNET } else { 0 }
        | if joins.is_empty() { n::CLONE_NEWCGROUP } else { 0 };
    let terminal = spec.tty.then(|| s.letter(TERMINAL));
    two_stages(&mut s, mount, namespaces, v2, &map, |s| {
        if !joins.is_empty() {
            s.during("joining the control groups");
            for join in &joins {
                s.write(*join, b"0", Path::new("tasks"));
            }
            s.op(n::__NR_unshare, "unshare(CLONE_NEWCGROUP)", [n::CLONE_NEWCGROUP.into()]);
        }
        inside::become_root(s, groups_allowed);
        let slave = inside::mounts(s, &inside, terminal);
        let stdio = slave.map_or(stdio, |slave| [slave; 3]);
        if let Some(slave) = slave {
            s.op(
                n::__NR_ioctl,
                "ioctl(TIOCSCTTY)",
                [slave.into(), linux_raw_sys::ioctl::TIOCSCTTY.into(), 0.into()],
            );
            let owner = [resolved.identity.uid.into(), if inside.tty_group { 5 } else { 0 }.into()];
            s.op(n::__NR_fchown, "fchown(terminal)", [slave.into(), owner[0], owner[1]]).tolerate_all();
        }
        inside::execute(s, &command, stdio, &[u64::from(READY), 0]);
    });

    let started_at = SystemTime::now();
    let mut started = warden.start_plan(s.plan)?;
    drop(pipes.theirs);
    let born = Born::hear(&mut started, cgroup.as_ref())?;
    drop(leases);
    let running = Arc::new(Running {
        process: born.process,
        warden: Some(warden),
        cgroup: Mutex::new(cgroup),
        report,
        started: started_at,
        deadline: spec.timeout.map(|time| Instant::now() + time),
        log: Log::new(streams.output_max.unwrap_or(OUTPUT_MAX)),
        ours: Mutex::new(pipes.ours),
        callback: streams.on_output.clone(),
        terminal: born.terminal,
        ports: Mutex::default(),
        dir: dir.clone(),
        paused: AtomicBool::new(false),
        end: Mutex::new(Ending::Not),
        ended: Condvar::new(),
        timed_out: AtomicBool::new(false),
    });
    Ok(running)
}

/// What the plan's messages gave.
pub(super) struct Born {
    pub process: warden::Process,
    pub terminal: Option<OwnedFd>,
}

impl Born {
    /// Listens until the command is executed or a step has failed.
    pub fn hear(started: &mut warden::Started, cgroup: Option<&Cgroup>) -> Result<Self> {
        let mut process = None;
        let mut terminal = None;
        let mut ready = false;
        let heard = loop {
            match started.next() {
                Ok(None) => break Ok(()),
                Ok(Some(told)) => {
                    let fd = told.fds.into_iter().next();
                    match (told.kind, fd) {
                        (BORN, Some(pidfd)) => process = Some(started.adopt(told.value as i32, pidfd)),
                        (TERMINAL, Some(master)) => terminal = Some(master),
                        (READY, _) => ready = true,
                        _ => {}
                    }
                }
                Err(error) => break Err(error),
            }
        };
        // What failed after the birth ends by itself; it is waited for, so that it is reaped and its group empty.
        let failed = heard.err();
        match (failed, process, ready) {
            (None, Some(process), true) => Ok(Self { process, terminal }),
            (error, process, _) => {
                let exit = match &process {
                    Some(process) => process.wait(Some(Instant::now() + super::KILL_TIME))?,
                    None => None,
                };
                let oom = cgroup
                    .and_then(|cgroup| cgroup.oom_kills().ok().flatten())
                    .is_some_and(|kills| kills > 0);
                Err(match error {
                    Some(error) => error,
                    None if oom => Error::new(
                        ErrorKind::OutOfMemory,
                        "memory_max was reached before the command started",
                    )
                    .with_remedy("raise memory_max"),
                    None => Error::new(ErrorKind::Setup, format!("the set-up was killed ({exit:?})")),
                })
            }
        }
    }
}

/// Stage A clones stage B into all its namespaces, writes its maps and ends; B goes on as the container.
fn two_stages(
    s: &mut Script<'_>,
    mount: Cell,
    namespaces: u32,
    cgroup: Option<Cell>,
    map: &IdMap,
    inside: impl FnOnce(&mut Script<'_>),
) {
    s.during("entering the namespaces");
    // The working directory is what finds the root's mount again in the new mount namespace.
    s.op(n::__NR_fchdir, "fchdir", [mount.into()]);
    let pipe = s.space(8);
    s.op(n::__NR_pipe2, "pipe2", [pipe.into(), n::O_CLOEXEC.into()]);
    let (read, write) = (Cell(pipe.0), Cell(pipe.0 + 4));
    let born = s.letter(BORN);
    const CLONE_PARENT: u32 = 0x8000;
    let flags = u64::from(namespaces | n::CLONE_PIDFD | CLONE_PARENT);
    let flags = flags | if cgroup.is_some() { n::CLONE_INTO_CGROUP } else { 0 };
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    let args = s.words64(&[flags, born.fd.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    if let Some(cgroup) = cgroup {
        s.op(n::__NR_fcntl, "fcntl(F_DUPFD_CLOEXEC)", [cgroup.into(), n::F_DUPFD_CLOEXEC.into(), 3.into()])
            .store(Cell(args.0 + 80));
    }
    s.op(n::__NR_clone3, "clone3", [args.into(), 88.into()])
        .call(format!("clone3({namespaces:#x})"))
        .remedy("see /proc/sys/user/max_*_namespaces, and what confines this program")
        .store(born.value);
    let child = s.label();
    s.jump_if_zero(born.value, child);
    write_maps(s, born.value, map, map.is_single());
    s.during("entering the namespaces");
    let byte = s.bytes(b"x");
    s.op(n::__NR_write, "write(sync)", [write.into(), byte.into(), 1.into()]);
    s.post(born);
    s.op(crate::sys::plan::format::OP_END, "end", [0.into()]);
    s.place(child);
    s.op(n::__NR_close, "close", [write.into()]);
    let byte = s.space(8);
    s.op(n::__NR_read, "read(sync)", [read.into(), byte.into(), 1.into()]).full();
    inside(s);
}

/// The writable layer's directories, and what lies below it.
fn prepare_writable(
    inner: &Inner,
    dir: &Dir,
    image: &Image,
    layers: &[crate::store::UnpackedLayer],
    owner: Option<(u32, u32)>,
    in_memory: bool,
) -> Result<Base> {
    if !in_memory {
        dir.mkdir("upper", 0o755, owner)?;
        // Left by an earlier start: an overlay wants its own, and empty.
        inner.store.remove_tree(dir.as_fd(), "work")?;
        dir.mkdir("work", 0o700, owner)?;
    }
    if let ImageSource::Host { exposed } = image.source() {
        return host_root::prepare(&inner.store, dir, exposed, owner, in_memory);
    }
    let mut layers: Vec<PathBuf> = layers.iter().map(|layer| layer.fs_path()).collect();
    if layers.is_empty() {
        // An image without files: an overlay needs a lower directory all the same.
        dir.mkdir("empty", 0o755, None)?;
        layers.push(dir.path().join("empty"));
    }
    Ok(Base { layers, parts: Vec::new() })
}

/// The files of /etc, but for those that the caller mounts.
fn etc(record: &Record, mounts: &[Planned]) -> Vec<(&'static str, String)> {
    let mut files = host_root::etc_files(record, hostname(record));
    files.retain(|(name, _)| mounts.iter().all(|planned| planned.target != Path::new("/etc").join(name)));
    files
}

/// The mounts of the specification, in the order of their depth.
fn planned_mounts(store: &Store, record: &Record) -> Result<Vec<Planned>> {
    let mut all = Vec::new();
    let mut volume_names = record.pins.volumes.iter();
    for mount in &record.spec.mounts {
        let (source, is_dir) = match &mount.kind {
            MountKind::Tmpfs { size, inodes, mode, exec } => {
                (Source::Tmpfs { size: *size, inodes: *inodes, mode: *mode, exec: *exec }, true)
            }
            MountKind::Bind { source } => {
                let path = source
                    .canonicalize()
                    .call_at("realpath", source)
                    .map_err(|error| error.with_remedy("the source of a bind mount must exist"))?;
                let is_dir = path.metadata().call_at("stat", &path)?.is_dir();
                (Source::Path { path, recursive: is_dir, suid: false }, is_dir)
            }
            MountKind::Volume { .. } => {
                let name = volume_names
                    .next()
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, "a volume of the record"))?;
                let volume = crate::volume::Volume::open(store, name)?;
                (Source::Path { path: volume.path(), recursive: false, suid: false }, true)
            }
        };
        all.push(Planned { target: mount.target.clone(), is_dir, source, read_only: mount.read_only });
    }
    all.sort_by_key(|planned| planned.target.components().count());
    Ok(all)
}
