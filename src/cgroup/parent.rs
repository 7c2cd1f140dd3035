//! Where groups are made: below this process's own place in each hierarchy, or where systemd gives room.
#![forbid(unsafe_code)]

use super::layout::{Hierarchy, Layout};
use super::limits::Limits;
use super::{Cgroup, ROOM, process, systemd, valid_name};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, words};
use crate::sys::fork::Witness;
use crate::sys::mountinfo;
use linux_raw_sys::general;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// So often a directory is made that other processes remove as they find it empty.
const TRIES: usize = 8;

/// Where this process may make control groups, found once and used for many. Cheap to clone.
///
/// Groups are made in a directory `coracle` below this process's own group in each v1 hierarchy that a limit needs,
/// and in the unified hierarchy. On a pure v2 system the kernel lets only groups without processes of their own
/// hand controllers on (cgroups(7), "no internal processes"), so the nearest group above is taken in which
/// `coracle` gets the controllers that the limits need: as root any, as a user one that was delegated. For containers of
/// a user whose systemd hands on groups only where it is asked to, it is asked for a scope of their own.
///
/// The `coracle` directories go with the last handle, if they are empty.
#[derive(Clone, Debug)]
pub struct CgroupParent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// `coracle` directories made or found by this handle.
    made: Mutex<BTreeSet<PathBuf>>,
    /// On v2: where these controllers are to be had.
    chosen: Mutex<BTreeMap<Vec<&'static str>, Choice>>,
    /// The process that made it: a fork's copy removes nothing.
    owner: Witness,
}

#[derive(Clone, Debug)]
enum Choice {
    /// The directory in which groups are made.
    Room(PathBuf),
    /// That of the scope which systemd made for the [`Origin`].
    Scope,
}

/// The process whose children will join the groups, where that is not this program itself.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub pid: &'a dyn Fn() -> Result<i32>,
    /// The scope into which it was put, or why it stays where it is: decided with the first group, as a process can't
    /// join groups across a border that its user doesn't own.
    pub scope: &'a OnceLock<Result<PathBuf, String>>,
}

impl CgroupParent {
    /// Finds this process's place.
    ///
    /// # Errors
    /// When /proc can't be read. That no hierarchy can be used is an error of [`create`](Self::create).
    pub fn detect() -> Result<Self> {
        Self::new(Layout::detect()?)
    }

    fn new(layout: Layout) -> Result<Self> {
        let (made, chosen) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { layout, made, chosen, owner: Witness::current()? })))
    }

    /// Makes a group with these limits. See [`Cgroup::create`].
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn create(&self, name: &str, limits: &Limits) -> Result<Cgroup> {
        Cgroup::create_in(self, name, limits, None)
    }

    /// The same for children of another process, which may be moved for it.
    pub(crate) fn create_for(&self, origin: Origin<'_>, name: &str, limits: &Limits) -> Result<Cgroup> {
        Cgroup::create_in(self, name, limits, Some(origin))
    }

    /// Removes what dead owners left: every group of which `is_alive(name)` is false. Processes in it are killed
    /// first. How many groups (directories) were removed.
    ///
    /// Other programs under the same group make theirs in the same place: `is_alive` must be true of a name it
    /// does not know to be its own.
    ///
    /// # Errors
    /// The first that could not be removed; the others are tried nevertheless.
    pub fn sweep(&self, is_alive: impl Fn(&str) -> bool) -> Result<usize> {
        let (mut removed, mut failed) = (0, None);
        for room in self.rooms() {
            let entries = match fs::read_dir(&room) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    failed.get_or_insert(Error::os("open", error).with_path(&room));
                    continue;
                }
            };
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let name = entry.file_name();
                let Some(name) = name.to_str().filter(|name| valid_name(name)) else { continue };
                if is_alive(name) {
                    continue;
                }
                match process::clear(&entry.path()) {
                    Ok(()) => removed += 1,
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            if !self.lock_made().contains(&room) {
                // Not empty means in use.
                let _ = fs::remove_dir(&room);
            }
        }
        match failed {
            Some(error) => Err(error.during("sweeping control groups")),
            None => Ok(removed),
        }
    }

    /// The same of one name at these paths, wherever this process is. What is no group of this crate's with that name stays.
    pub(crate) fn sweep_at(&self, name: &str, paths: &[PathBuf]) -> Result<()> {
        let mut failed = None;
        for path in paths {
            let cleared = room_of(path, name).and_then(|room| {
                let Some(room) = room else { return Ok(()) };
                process::clear(path)?;
                if !self.lock_made().contains(room) {
                    // Not empty means in use.
                    let _ = fs::remove_dir(room);
                }
                Ok(())
            });
            if let Err(error) = cleared {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), |error| Err(error.during("sweeping control groups")))
    }

    /// Every directory in which groups of this crate may lie, seen from here.
    fn rooms(&self) -> Vec<PathBuf> {
        let layout = &self.0.layout;
        let v1 = layout.v1.iter().map(|hierarchy| hierarchy.own.join(ROOM));
        v1.chain(layout.unified.iter().flat_map(above).map(|dir| dir.join(ROOM))).collect()
    }

    /// The same where they are to be written down: those that are no text can't be.
    pub(crate) fn rooms_in_words(&self) -> Vec<PathBuf> {
        self.rooms().into_iter().filter(|room| room.to_str().is_some()).collect()
    }

    fn lock_made(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The v1 hierarchy of a controller, if there is one.
    pub(super) fn v1_of(&self, controller: &str) -> Option<&Hierarchy> {
        self.0.layout.v1_of(controller)
    }

    /// Whether there are v1 hierarchies that control something.
    pub(crate) fn has_v1(&self) -> bool {
        !self.0.layout.v1.is_empty()
    }

    /// Whether there is a unified hierarchy.
    pub(crate) fn has_unified(&self) -> bool {
        self.0.layout.unified.is_some()
    }

    /// Makes `name` in a v1 hierarchy.
    pub(super) fn make_v1(&self, hierarchy: &Hierarchy, name: &str) -> Result<PathBuf> {
        let room = hierarchy.own.join(ROOM);
        let cpuset = hierarchy.controllers.iter().any(|c| c == "cpuset");
        // With a group in it nobody removes the room; who has made it may not have got as far as its cpuset.
        let fill = |dir: &Path| {
            if cpuset {
                inherit(&hierarchy.own, &room)?;
                inherit(&room, dir)?;
            }
            Ok(true)
        };
        self.make(&room, name, &|| self.make_room(&room).map(drop), &fill)
    }

    /// Makes `name` in the unified hierarchy, where it has `controllers`.
    pub(super) fn make_unified(
        &self,
        controllers: &[&'static str],
        name: &str,
        origin: Option<Origin<'_>>,
    ) -> Result<PathBuf> {
        let Some(unified) = &self.0.layout.unified else {
            let error = Error::new(ErrorKind::Unsupported, "a control group v2");
            return Err(error.lacks(words::NO_UNIFIED.of(Feature::Cgroup)));
        };
        let lock = || self.0.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = controllers.to_vec();
        let known = lock().get(&key).cloned();
        let choice = match known {
            Some(choice) => choice,
            None => {
                let choice = self.choose(unified, controllers, origin)?;
                lock().insert(key, choice.clone());
                choice
            }
        };
        let room = match choice {
            Choice::Room(room) => room,
            Choice::Scope => self.scope(origin)?.join(ROOM),
        };
        // The room may be another process's by now, which needs other controllers.
        let has_all = |dir: &Path| match controllers {
            [] => Ok(true),
            _ => Ok(lacking(&read(dir, "cgroup.controllers")?, controllers).is_none()),
        };
        self.make(&room, name, &|| self.open_room(&room, controllers), &has_all)
    }

    /// The nearest group in which `coracle` can have these controllers.
    fn choose(
        &self,
        unified: &Hierarchy,
        controllers: &[&str],
        origin: Option<Origin<'_>>,
    ) -> Result<Choice> {
        let mut nearest = None;
        let mut look = |dir: &Path| {
            let room = dir.join(ROOM);
            match self.open_room(&room, controllers) {
                Ok(()) => Some(room),
                Err(error) => {
                    nearest.get_or_insert(error);
                    None
                }
            }
        };
        // A user's systemd is asked where it can be; with v1 beside it has nothing to give.
        let may_ask = !rustix::process::geteuid().is_root() && self.0.layout.v1.is_empty();
        let asked = origin.filter(|_| may_ask);
        let is_moved = || asked.is_some_and(|origin| matches!(origin.scope.get(), Some(Ok(_))));
        let mut refused = None;
        if !is_moved() {
            // Those that systemd keeps for itself come last.
            let own = above(unified).filter(|dir| asked.is_none() || !is_systemds(dir));
            let found = own.into_iter().find_map(&mut look);
            if let Some(room) = found {
                let stays = || Err("its first groups are elsewhere".to_owned());
                if asked.is_none_or(|origin| origin.scope.get_or_init(stays).is_err()) {
                    return Ok(Choice::Room(room));
                }
            }
        }
        if asked.is_some() {
            match self.scope(asked).and_then(|scope| self.open_room(&scope.join(ROOM), controllers)) {
                Ok(()) => return Ok(Choice::Scope),
                // From where it is now it can join no group elsewhere.
                Err(error) if is_moved() => return Err(error),
                Err(error) => refused = Some(error),
            }
            if let Some(room) = above(unified).filter(|dir| is_systemds(dir)).find_map(&mut look) {
                return Ok(Choice::Room(room));
            }
        }
        let error =
            nearest.unwrap_or_else(|| Error::new(ErrorKind::Unsupported, "no control group to be below"));
        let error = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnly => {
                error.lacks(words::NOT_DELEGATED.of(Feature::Cgroup))
            }
            _ if error.missing().is_some() || error.remedy().is_some() => error,
            _ => error.with_remedy(words::DELEGATE),
        };
        Err(match refused {
            Some(refused) => {
                let missing = words::not_given(error.missing(), &refused);
                error.lacks(missing)
            }
            None => error,
        })
    }

    /// The scope in which `origin` is, asked for at the first call.
    fn scope(&self, origin: Option<Origin<'_>>) -> Result<PathBuf> {
        let unsupported = |why: String| Error::new(ErrorKind::Unsupported, why);
        let origin =
            origin.ok_or_else(|| unsupported("only containers have a scope of systemd's".to_owned()))?;
        let made =
            origin.scope.get_or_init(|| (origin.pid)().and_then(ask).map_err(|error| error.to_string()));
        made.clone().map_err(unsupported)
    }

    /// Makes the directory `room`, from which groups can be joined and in which they have `controllers`.
    fn open_room(&self, room: &Path, controllers: &[&str]) -> Result<()> {
        let dir = room.parent().unwrap_or(room);
        // Joining asks for write permission in the group above both places.
        let procs = dir.join("cgroup.procs");
        fs::OpenOptions::new().write(true).open(&procs).call_at("open", &procs)?;
        let (mut fresh, mut new) = (false, Vec::new());
        let mut opened = Ok(());
        for _ in 0..TRIES {
            fresh |= self.make_room(room)?;
            opened = enable(dir, controllers, &mut new);
            if opened.is_err() {
                break;
            }
            opened = enable(room, controllers, &mut Vec::new()).and_then(|()| takes_processes(room));
            let Err(error) = &opened else { return Ok(()) };
            // Another process has removed it (of what is open then, the kernel says ENODEV), or has taken back from `dir` what
            // it had enabled for nothing.
            let is_gone = matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV));
            let is_taken_back = error.raw_os_error().is_none() && error.missing().is_some();
            if !is_gone && !is_taken_back {
                break;
            }
        }
        if fresh {
            let _ = fs::remove_dir(room);
            self.lock_made().remove(room);
        }
        // What this has changed for nothing: a group with processes that hands on pids is none that others can be below
        // (cgroups(7), "threaded").
        for controller in new {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("-{controller}"));
        }
        opened
    }

    /// Whether it had to be made.
    fn make_room(&self, room: &Path) -> Result<bool> {
        let fresh = match mkdir(room) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(refused(error, room)),
        };
        self.lock_made().insert(room.to_owned());
        Ok(fresh)
    }

    /// Makes `room/name`. `prepare` makes the room; it runs first where this handle has not made it yet. It runs again where
    /// another process removed the empty room in between, or where what was made in it is not `whole`: with that in it the
    /// room stays as it is.
    fn make(
        &self,
        room: &Path,
        name: &str,
        prepare: &dyn Fn() -> Result<()>,
        whole: &dyn Fn(&Path) -> Result<bool>,
    ) -> Result<PathBuf> {
        let dir = room.join(name);
        let mut ready = self.lock_made().contains(room);
        for _ in 0..TRIES {
            if !ready {
                prepare()?;
            }
            ready = match mkdir(&dir) {
                Ok(()) => match whole(&dir) {
                    Ok(true) => return Ok(dir),
                    unfit => {
                        let removed = fs::remove_dir(&dir).call_at("rmdir", &dir);
                        // Why it is unfit matters more.
                        let unfit = unfit?;
                        removed?;
                        unfit
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(refused(error, &dir)),
            };
        }
        let what = "the directory for control groups keeps vanishing, or comes back without controllers";
        Err(Error::new(ErrorKind::InUse, what)
            .with_path(room)
            .with_remedy("some other program removes it or writes cgroup.subtree_control: end that"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.owner.is_here() {
            let made = self.made.get_mut().unwrap_or_else(PoisonError::into_inner);
            for room in made.iter() {
                // Another process's groups in it keep it there.
                let _ = fs::remove_dir(room);
            }
        }
    }
}

/// Where this user may not make groups, limits can't be had.
fn refused(error: io::Error, dir: &Path) -> Error {
    let error = Error::os("mkdir", error).with_path(dir);
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnly => {
            error.lacks(words::NOT_DELEGATED.of(Feature::Cgroup))
        }
        _ => error,
    }
}

/// The directory `coracle` in which the group of this name lies, if the path is one's.
fn room_of<'a>(path: &'a Path, name: &str) -> Result<Option<&'a Path>> {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    let room = path.parent().filter(|room| room.file_name().is_some_and(|last| last == ROOM));
    let has_name = valid_name(name) && path.file_name().is_some_and(|last| last == name);
    if !has_name || !path.is_absolute() || !path.components().all(is_plain) {
        return Ok(None);
    }
    let kind = match rustix::fs::statfs(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other.call_at("statfs", path)?.f_type as u32,
    };
    Ok(room.filter(|_| [general::CGROUP_SUPER_MAGIC, general::CGROUP2_SUPER_MAGIC].contains(&kind)))
}

/// Whatever the program's umask: others get no right to make groups in it.
fn mkdir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(dir)
}

/// Has systemd put the process `pid` into a scope, and makes room in it: `pid` goes into a group below, as only a group
/// without processes hands controllers on.
fn ask(pid: i32) -> Result<PathBuf> {
    systemd::scope(pid)?;
    let path = format!("/proc/{pid}/cgroup");
    let groups = fs::read_to_string(&path).call_at("read", path)?;
    let scope = Layout::parse(&mountinfo::read()?, &groups).unified.map(|group| group.own);
    let scope = scope.filter(|dir| dir.extension().is_some_and(|kind| kind == "scope")).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("systemd has put process {pid} into {:?}", groups.trim()))
    })?;
    let leaf = scope.join("warden");
    mkdir(&leaf).call_at("mkdir", &leaf)?;
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, pid.to_string()).call_at("write", procs)?;
    Ok(scope)
}

/// A group in which systemd itself makes groups: others are to ask it ("Control Group APIs and Delegation").
fn is_systemds(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".slice") || name.starts_with("user@") && name.ends_with(".service")
}

/// This process's own group, then each one above it that is mounted.
fn above(hierarchy: &Hierarchy) -> impl Iterator<Item = &Path> {
    hierarchy.own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.mount))
}

/// An error where the kernel lets no process be: below a group that has become the root of a threaded sub-tree.
fn takes_processes(room: &Path) -> Result<()> {
    let kind = read(room, "cgroup.type")?;
    match kind.trim_end() {
        "domain" | "domain threaded" => Ok(()),
        other => Err(Error::new(ErrorKind::Unsupported, format!("a control group of the type {other:?}"))
            .with_path(room)),
    }
}

fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    fs::read_to_string(&path).call_at("read", &path)
}

/// Whether a list of controllers, as the kernel writes it, has this one.
fn has(list: &str, controller: &str) -> bool {
    list.split_whitespace().any(|one| one == controller)
}

/// The first of them that the list lacks.
fn lacking<'a>(list: &str, controllers: &[&'a str]) -> Option<&'a str> {
    controllers.iter().find(|controller| !has(list, controller)).copied()
}

/// Gives the groups below `dir` these controllers; those that they did not have before are added to `new`.
fn enable<'a>(dir: &Path, controllers: &[&'a str], new: &mut Vec<&'a str>) -> Result<()> {
    if controllers.is_empty() {
        return Ok(());
    }
    if let Some(missing) = lacking(&read(dir, "cgroup.controllers")?, controllers) {
        let error = Error::new(ErrorKind::Unsupported, "a control group").with_path(dir);
        return Err(error.lacks(words::no_controller(missing)));
    }
    let enabled = read(dir, "cgroup.subtree_control")?;
    let file = dir.join("cgroup.subtree_control");
    for controller in controllers.iter().filter(|controller| !has(&enabled, controller)) {
        let added = fs::write(&file, format!("+{controller}"));
        added.map_err(|error| match error.raw_os_error() {
            // cgroups(7), "no internal processes": this program is one, and is not moved.
            Some(nix::libc::EBUSY) => Error::os(format!("write(\"+{controller}\")"), error)
                .with_path(&file)
                .lacks(words::BUSY_GROUP.of(Feature::Cgroup)),
            _ => Error::os(format!("write(\"+{controller}\")"), error).with_path(&file),
        })?;
        new.push(*controller);
    }
    Ok(())
}

#[cfg(feature = "cgroups")]
fn inherit(parent: &Path, dir: &Path) -> Result<()> {
    super::control::inherit_cpuset(parent, dir)
}

/// Without limits there is no cpuset.
#[cfg(not(feature = "cgroups"))]
fn inherit(_: &Path, _: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
