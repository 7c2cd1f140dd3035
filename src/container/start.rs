//! From a record to a running command: checks, plans, and the conversation with the warden.
#![forbid(unsafe_code)]

use super::bounds::{Bounds, DiskBound, bounds};
use super::dev::Dev;
use super::devices;
use super::given::Given;
use super::ground::{Ground, etc, planned_mounts};
use super::hierarchies::Hierarchies;
use super::inside::{self, Command, Inside};
use super::output::{Log, OUTPUT_MAX, Pipes};
use super::protection::{self, Ids, Made, Protection, Wall};
use super::reach::{self, Listener};
use super::record::{Dir, Exited, Record, RunningRecord};
use super::rootfs::{self, Root, Shift};
use super::running::Running;
use super::script::Script;
use super::settings::{
    Resolved, capabilities, check_command, hostname, joined, path_of, resolve, seccomp, words,
};
use super::spec::{Mount, Spec};
use super::stages::{self, Beginning, Born, Prepared, READY, Stages, TERMINAL, userns, v2_of};
use super::users;
use super::{ExitStatus, Held, Inner, lock, removed, volumes};
use crate::cgroup::{Cgroup, Report};
use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use crate::image::{Image, Source as ImageSource};
use crate::namespace::{Birth, Fence, NamespaceKind, Namespaces};
use crate::security::landlock::Entering;
use crate::security::limit::own_network;
use crate::security::paths::{MASKED, READ_ONLY, thermal_throttle};
use crate::store::Store;
use crate::sys::diagnose;
use crate::sys::idmap::IdMap;
use crate::sys::plan::{Cell, Label};
use crate::sys::time::after;
use crate::sys::warden::{self, Warden};
use linux_raw_sys::general as n;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long the warden's part of a start may take, unless the builder says otherwise: milliseconds, if nothing hangs.
const START_TIME: Duration = Duration::from_secs(60);

/// How long another program that lives may take to write down how its container ended.
const TOLD_TIME: Duration = Duration::from_secs(2);

pub(super) fn image_name(image: &Image) -> String {
    if image.is_host() {
        return "@host".into();
    }
    let names = image.references().unwrap_or_default();
    let name = names.iter().find(|name| name.tag().is_some()).or(names.first()).map(ToString::to_string);
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

/// What the program of another's container wrote about the end of the run that began at `started`. It may still be about
/// to; one that was killed itself never will.
pub(super) fn exited_of_other(dir: &Dir, started: SystemTime) -> Result<Exited> {
    dir.until_ended(started, Instant::now() + TOLD_TIME)?;
    // Of an earlier run it says nothing about this one.
    let exited = dir.record()?.and_then(|record| record.exited).filter(|exited| exited.started == started);
    Ok(exited.unwrap_or_else(|| Exited { status: ExitStatus::lost(), started, finished: started }))
}

/// Another program's running container; `None` when its first process is gone.
///
/// # Errors
/// `Unsupported` of one that is out of reach.
pub(super) fn join(dir: &Dir, running: &RunningRecord) -> Result<Option<Arc<Running>>> {
    let Some(pidfd) = running.process(&dir.store, &dir.id)? else { return Ok(None) };
    let cgroup = match running.cgroups.is_empty() {
        true => None,
        false => match Cgroup::open(&running.cgroups) {
            // Swept meanwhile: nobody is in them any more.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => Some(other?),
        },
    };
    let Some(dir) = Dir::open(&dir.store, &dir.id)? else { return Ok(None) };
    let process = warden::Process::foreign(pidfd);
    Ok(Some(Arc::new(Running {
        single: running.single,
        door: Some(running.door.clone()),
        cgroup: Mutex::new(cgroup),
        report: Report::from_json(&running.report),
        ..Running::new(process, Arc::new(dir), running.started)
    })))
}

const PROCESSORS: &str = "/sys/devices/system/cpu";

/// What covers the heat of each processor that there is now.
fn throttles() -> impl Iterator<Item = PathBuf> {
    let cpus = std::fs::read_dir(PROCESSORS).into_iter().flatten().flatten();
    let cpus = cpus.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("cpu")?.parse().ok());
    cpus.map(thermal_throttle).map(PathBuf::from)
}

/// The default paths to cover, whether they exist or not.
pub(super) fn all_masked() -> impl Iterator<Item = PathBuf> {
    MASKED.iter().map(PathBuf::from).chain(throttles())
}

/// A path to cover, and whether it is a directory, where it was there when this was found out.
type Covered = (PathBuf, Option<bool>);

/// The default paths to cover, for a start. Also those that are not there now: they may come, with a module or a processor, and the
/// container's own /proc may have what the program's lacks (`subset=pid`, proc(5)).
fn default_masked() -> Vec<Covered> {
    static FOUND: Mutex<Option<(u64, Vec<Covered>)>> = Mutex::new(None);
    // A directory has as many links as it has directories in it: a processor more shows.
    let links = Path::new(PROCESSORS).metadata().map_or(0, |meta| meta.nlink());
    let mut found = lock(&FOUND);
    let known = found.take().filter(|(of, _)| *of == links).map(|(_, paths)| paths);
    let paths = known.unwrap_or_else(find_masked);
    *found = Some((links, paths.clone()));
    paths
}

fn find_masked() -> Vec<Covered> {
    let now = |path: PathBuf| {
        let is_dir = path.metadata().ok().map(|meta| meta.is_dir());
        (path, is_dir)
    };
    let mut throttles: Vec<Covered> = throttles().map(now).collect();
    // A part of the kernel's that is never loaded later: all processors that are up have it, or none ever will. Of these a
    // machine may have hundreds.
    if throttles.iter().all(|(_, there)| there.is_none()) {
        throttles.clear();
    }
    MASKED.iter().map(PathBuf::from).map(now).chain(throttles).collect()
}

/// A container that runs, and its ports, which nobody forwards yet.
type Launched = (Arc<Running>, Vec<(u16, Option<Listener>)>);

/// Starts the container's command. The caller holds the lock on the container's phase.
pub(super) fn start(inner: &Arc<Inner>) -> Result<Launched> {
    let mut held = lock(&inner.held);
    let held = held.as_mut().ok_or_else(removed)?;
    if let Some(unknown) = held.refresh()? {
        let what = format!(
            "the container's record has a setting that this version of the library does not know: {unknown:?}"
        );
        return Err(Error::new(ErrorKind::Unsupported, what).with_path(&held.record.name).with_remedy(
            "start it with the version that made it, or a later one; or remove it and create it anew",
        ));
    }
    held.is_whole()?;
    if let Some(running) = held.dir.running()? {
        let theirs = |what| {
            let error = Error::new(ErrorKind::State, what).with_path(&held.record.name);
            Err(error.with_remedy("wait until it has ended (Container::wait), or stop it"))
        };
        if join(&held.dir, &running)?.is_some() {
            return theirs("another program runs the container");
        }
        // What it writes down about the end would else be about this run.
        if !held.dir.until_ended(running.started, Instant::now() + TOLD_TIME)? {
            return theirs("another program ran the container and has not written down yet how it ended");
        }
        // Its program was killed and left its groups.
        inner.store.sweep_groups(&held.record.id)?;
    }
    let warden = warden::warden()?;
    if held.range.is_none() && warden.map().is_none() {
        held.range = Some(super::ids::Range::again(&inner.store, held.record.base)?);
    }
    super::ids::claim(held, warden.map())?;
    let image = inner.image.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the image of the container is gone")
            .with_path(&held.record.image_name)
    })?;
    let listening = reach::listen(&warden, &held.record.spec)?;
    let launched = launch(inner, held, image, warden).map_err(diagnose::explain_call);
    launched.map(|running| (running, listening)).map_err(|error| match error.kind() {
        ErrorKind::Exec => error,
        _ => error.during("starting a container"),
    })
}

fn launch(inner: &Arc<Inner>, held: &mut Held, image: &Image, warden: Arc<Warden>) -> Result<Arc<Running>> {
    let prepared = held.prepared.take();
    let disk = DiskBound::of(&inner.store, held)?;
    let record = &held.record;
    let (spec, dir) = (&record.spec, &held.dir);
    let wall = Wall::of(spec)?;
    let map = warden.map().cloned().unwrap_or_else(|| IdMap::range(record.base, super::ids::COUNT));
    let ids = Ids { map: &map, base: record.base, single: warden.single() };
    ids.check(spec)?;
    let devices = devices::plan(&spec.devices)?;
    let namespaces = namespaces(spec);
    let (Bounds { cgroup, mut report, fence }, begun, mut s) =
        begin(inner, prepared, &warden, &namespaces, record, &devices)?;
    let groups = Groups::of(cgroup.as_ref(), &warden, begun.is_some());
    let ground = Ground::prepare(inner, held, image, warden.map())?;
    let wanted = Wanted::of(record, dir, image, &ground, &inner.given)?;
    let identity = &wanted.resolved.identity;
    ids.check_identity(identity)?;
    let mounts = planned_mounts(&inner.store, record, &inner.given)?;
    let leases = volumes::leases(&inner.store, record, warden.map())?;
    disk.apply(&inner.store, dir, &mut report)?;
    let streams = lock(&inner.streams).clone();
    let pipes = if spec.tty { Pipes::none() } else { Pipes::new(&streams) }?;
    let userns = match held.range {
        Some(_) => Some(userns(&warden, record.base)?),
        None => None,
    };
    let groups_allowed = !map.is_single();
    let capabilities = capabilities(spec)?;
    let (masked, read_only) = covered(spec);
    let namespaces = namespaces.user_map(map.clone()).hostname(hostname(record));
    let namespaces = match groups.is_late {
        // Only once it has joined its groups.
        true => namespaces.without(NamespaceKind::Cgroup),
        false => namespaces,
    };
    let memory = spec.in_memory.then(|| spec.disk_max.unwrap_or(Mount::TMPFS_SIZE * 16));
    let made = Made {
        spec,
        ids,
        namespaces: &namespaces,
        capabilities,
        wall: &wall,
        masked: masked.len(),
        read_only: read_only.len(),
        devices: &devices,
        memory,
    };
    made.add_to(&mut report);
    protection::insist(spec, &report)?;
    let has_v1 = inner.store.cgroups()?.has_v1();
    let own_network = namespaces.has(NamespaceKind::Net).then(|| own_network(&map));
    let inside = Inside {
        namespaces: &namespaces,
        masked: &masked,
        read_only: &read_only,
        read_only_known: spec.read_only_paths.is_none(),
        own_network: own_network.as_ref().map(<[_; 2]>::as_slice).unwrap_or_default(),
        sysctls: &spec.sysctls,
        tty_group: map.group(5).is_some(),
        hierarchies: Hierarchies::of(cgroup.as_ref(), spec.limits.kinds().next().is_some(), has_v1),
    };
    let command = Command {
        words: &wanted.words,
        env: &wanted.env,
        path: &wanted.path,
        working_dir: &wanted.resolved.working_dir,
        make_working_dir: true,
        identity,
        capabilities,
        no_new_privileges: !spec.new_privileges,
        seccomp: seccomp(&spec.seccomp)?.program(capabilities)?,
        seccomp_best_effort: spec.is_best_effort(Protection::Seccomp),
        landlock: wall.domain().map(|domain| (domain, spec.places(), Entering::First)),
        ulimits: &spec.ulimits,
        init: spec.init,
        groups_allowed,
    };
    let dir_path = dir.path();
    let root = Root {
        dir: &dir_path,
        base: ground.base,
        memory,
        userns: userns.as_ref().map(|fd| s.fd(fd.as_fd())),
        // As an ordinary user stage A is root of the warden's namespace and names ids as the container does.
        shift: Shift(record.base),
        etc: etc(record, &mounts)?,
        mounts,
        files: &spec.files,
        dev: Dev { devices: &devices, shm_size: spec.mounts.iter().find_map(Mount::shm_size) },
        read_only: spec.read_only,
        unmapped: spec.is_best_effort(Protection::IdMappedMounts),
        volatile: !held.kept,
        detached_lowers: warden.features().detached_lowers,
        given: inner.given.room(),
    };
    if ground.was_mounted {
        // An overlay does not share its writable layer.
        s.kept_are_gone();
    }
    let parts = Parts { root: &root, inside: &inside, command: &command, groups, fence, pipes: &pipes };
    let second = parts.write(&mut s, &warden, begun.as_ref(), spec.tty)?;

    let started_at = SystemTime::now();
    let mut started = match begun {
        Some(begun) => begun.go_on(s, second)?,
        None => warden.start_plan(s.plan)?,
    };
    drop(pipes.theirs);
    let time = spec.start_timeout.unwrap_or(START_TIME);
    let born = Born::hear(&mut started, || cgroup.as_ref()?.oom_kills().ok().flatten(), Some(after(time)));
    let born = born.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => error.with_remedy(
            "a filesystem hangs, or is slow: ContainerBuilder::start_timeout gives it more time than a minute",
        ),
        ErrorKind::ReadOnly => error.with_remedy(
            "nothing can be made there: it is read-only, or a symbolic link of the image's leads into /proc, /sys or /dev",
        ),
        _ => error,
    })?;
    drop(leases);
    for without in &born.without {
        protection::without(&mut report, *without, &root.mounts);
    }
    Ok(Arc::new(Running {
        warden: Some(warden),
        single: map.is_single(),
        cgroup: Mutex::new(cgroup),
        report,
        deadline: spec.timeout.map(after),
        log: Log::new(streams.output_max.unwrap_or(OUTPUT_MAX), pipes.ours.collected()),
        ours: Mutex::new(pipes.ours),
        callback: streams.on_output.clone(),
        terminal: born.terminal,
        ..Running::new(born.process, dir.clone(), started_at)
    }))
}

/// The start on its way, where it can begin early, and what holds the container to its limits. To be dropped in the reverse
/// order: what has begun may have a process in the group.
fn begin<'fd>(
    inner: &Inner,
    prepared: Option<Prepared>,
    warden: &Arc<Warden>,
    namespaces: &Namespaces,
    record: &Record,
    devices: &[devices::Planned],
) -> Result<(Bounds, Option<Beginning>, Script<'fd>)> {
    let begun = match prepared.and_then(|prepared| prepared.start(warden)) {
        Some((s, begun, Some(bounds))) => return Ok((bounds, Some(begun), s)),
        Some((s, begun, None)) => Some((s, begun)),
        None => stages::begun(warden, inner.store.cgroups()?, namespaces)?,
    };
    let may_be_in_vain = begun.is_some();
    let bounded = || bounds(&inner.store, &record.id, &record.spec, devices, warden);
    let bounds = match bounded() {
        // Whoever starts it does so alone, and no record says that it runs: a program was killed while it started it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            inner.store.sweep_groups(&record.id)?;
            bounded()?
        }
        other => other?,
    };
    // A fence has to be around all of it.
    if let Some((s, begun)) = begun.filter(|_| bounds.fence.is_none())
        && let Some(begun) = begun.goes_into(v2_of(bounds.cgroup.as_ref(), warden))?
    {
        return Ok((bounds, Some(begun), s));
    }
    warden.in_vain.fetch_or(may_be_in_vain, Ordering::Relaxed);
    Ok((bounds, None, Script::new()))
}

/// How the container comes into its control groups.
struct Groups<'a> {
    /// The one that it is born in, where it is not on its way there already.
    v2: Option<BorrowedFd<'a>>,
    /// Those that it joins by itself.
    joins: Vec<BorrowedFd<'a>>,
    /// It is in all of them only some time after its birth.
    is_late: bool,
}

impl<'a> Groups<'a> {
    fn of(cgroup: Option<&'a Cgroup>, warden: &Warden, has_begun: bool) -> Self {
        let joins: Vec<_> = match warden.features().clone3 {
            true => cgroup.iter().flat_map(|cgroup| cgroup.tasks_fds()).collect(),
            // Without CLONE_INTO_CGROUP it joins the one of v2 as those of v1.
            false => cgroup.iter().flat_map(|cgroup| cgroup.join_fds()).collect(),
        };
        let is_late = has_begun || !joins.is_empty();
        Self { v2: v2_of(cgroup, warden).filter(|_| !has_begun), joins, is_late }
    }
}

/// What the plan of a start is written from.
struct Parts<'a> {
    root: &'a Root<'a>,
    inside: &'a Inside<'a>,
    command: &'a Command<'a>,
    groups: Groups<'a>,
    fence: Option<Fence>,
    pipes: &'a Pipes,
}

impl<'a> Parts<'a> {
    /// Gives where stage B goes on, after a beginning.
    fn write(
        self,
        s: &mut Script<'a>,
        warden: &Warden,
        begun: Option<&Beginning>,
        tty: bool,
    ) -> Result<Label> {
        let Self { root, inside, command, groups, fence, pipes } = self;
        let identity = command.identity;
        if warden.map().is_some() {
            // Else /proc/PID/uid_map of stage B would belong to the host's root.
            s.dumpable(true);
        }
        let stdio = [0, 1, 2].map(|i| s.fd(pipes.theirs[i].as_fd()));
        let joins: Vec<Cell> = groups.joins.iter().map(|fd| s.fd(*fd)).collect();
        let cgroup = groups.v2.map(|fd| s.fd(fd));
        inside::give_pipes(s, stdio, pipes.made, root.shift.owner(identity.uid, identity.gid));
        let terminal = tty.then(|| s.letter(TERMINAL));
        let birth =
            Birth { outer: warden.map(), cgroup, fence, mounts_later: root.volatile, ..Birth::default() };
        let early = |s: &mut Script<'_>| {
            s.during("joining the control groups");
            for join in &joins {
                s.write(*join, b"0", Path::new("tasks"));
            }
            if groups.is_late {
                s.op(n::__NR_unshare, "unshare(CLONE_NEWCGROUP)", [n::CLONE_NEWCGROUP.into()])
                    .needs(Feature::CgroupNamespace);
            }
            inside::become_root(s, command.groups_allowed);
            inside::bound(s, command.capabilities);
            inside.namespaces.settle(s);
        };
        let build = |s: &mut Script<'_>| rootfs::build(s, root);
        let mounts = |s: &mut Script<'_>| inside::mounts(s, inside, terminal);
        let stages = Stages { namespaces: inside.namespaces, birth, begun };
        stages.write(s, build, early, mounts, |s, slave| {
            let stdio = slave.map_or(stdio, |slave| [slave; 3]);
            if let Some(slave) = slave {
                inside::control(s, slave);
                let owner = [identity.uid.into(), if inside.tty_group { 5 } else { 0 }.into()];
                s.op(n::__NR_fchown, "fchown(terminal)", [slave.into(), owner[0], owner[1]]).tolerate_all();
            }
            inside::execute(s, command, stdio, &[u64::from(READY), 0]);
        })
    }
}

/// The command and its surroundings, as the record, the image and the files in the container have them.
struct Wanted {
    resolved: Resolved,
    words: Vec<OsString>,
    env: Vec<OsString>,
    path: OsString,
}

impl Wanted {
    fn of(record: &Record, dir: &Dir, image: &Image, ground: &Ground, given: &Given) -> Result<Self> {
        let (spec, config) = (&record.spec, image.config());
        // One that the caller writes there is what the command will see.
        let written = |path| spec.files.iter().rev().find(|file| file.path == Path::new("/").join(path));
        let read = |path| match written(path) {
            Some(file) => Ok(String::from_utf8_lossy(&file.bytes).into_owned()),
            None => ground.read(dir, image, path),
        };
        let user = spec.user.as_deref().unwrap_or(config.user());
        let identity = users::identify(user, &spec.groups, &read("etc/passwd")?, &read("etc/group")?)?;
        let mut resolved = resolve(record, config, identity)?;
        given.add_env(&mut resolved.pairs);
        let (path, env) = (path_of(&resolved.pairs), joined(&resolved.pairs));
        let words = words(spec, config)?;
        // The image's own, too; what it calls its variables is its own affair.
        check_command(words.iter().chain(&env), &[])?;
        Ok(Self { words, env, path, resolved })
    }
}

/// The paths to cover, and whether each is a directory, where that is known; and those to be read only.
fn covered(spec: &Spec) -> (Vec<Covered>, Vec<PathBuf>) {
    let masked = match &spec.masked {
        None => default_masked(),
        Some(paths) => paths.iter().map(|path| (path.clone(), None)).collect(),
    };
    let read_only = match &spec.read_only_paths {
        None => READ_ONLY.iter().map(PathBuf::from).collect(),
        Some(paths) => paths.clone(),
    };
    (masked, read_only)
}

/// Those of its own.
pub(super) fn namespaces(spec: &Spec) -> Namespaces {
    match spec.network.is_host() {
        true => Namespaces::all().without(NamespaceKind::Net),
        false => Namespaces::all(),
    }
}
