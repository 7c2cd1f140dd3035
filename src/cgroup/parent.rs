//! Where groups are made: below this process's own place in each hierarchy.
#![forbid(unsafe_code)]

use super::layout::{Hierarchy, Layout};
use super::limits::Limits;
use super::{Cgroup, ROOM, process, valid_name};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, words};
use crate::sys::fork::Witness;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where this process may make control groups, found once and used for many. Cheap to clone.
///
/// Groups are made in a directory `coracle` below this process's own group in each v1 hierarchy that a limit needs,
/// and in the unified hierarchy. On a pure v2 system the kernel lets only groups without processes of their own
/// hand controllers on (cgroups(7), "no internal processes"), so the nearest group above is taken in which
/// `coracle` gets the controllers that the limits need: as root any, as a user one that was delegated.
///
/// The `coracle` directories go with the last handle, if they are empty.
#[derive(Clone, Debug)]
pub struct CgroupParent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// `coracle` directories made or found by this handle.
    made: Mutex<BTreeSet<PathBuf>>,
    /// On v2: which directory gives these controllers.
    chosen: Mutex<BTreeMap<Vec<&'static str>, PathBuf>>,
    /// The process that made it: a fork's copy removes nothing.
    owner: Witness,
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
        Cgroup::create_in(self, name, limits)
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

    /// Every directory in which groups of this crate may lie, seen from here.
    fn rooms(&self) -> Vec<PathBuf> {
        let layout = &self.0.layout;
        let v1 = layout.v1.iter().map(|hierarchy| hierarchy.own.join(ROOM));
        v1.chain(layout.unified.iter().flat_map(above).map(|dir| dir.join(ROOM))).collect()
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
        let prepare = || {
            self.make_room(&room)?;
            if cpuset { inherit(&hierarchy.own, &room) } else { Ok(()) }
        };
        let dir = self.make(&room, name, &prepare)?;
        if cpuset && let Err(error) = inherit(&room, &dir) {
            let _ = fs::remove_dir(&dir);
            return Err(error);
        }
        Ok(dir)
    }

    /// Makes `name` in the unified hierarchy, where it has `controllers`.
    pub(super) fn make_unified(&self, controllers: &[&'static str], name: &str) -> Result<PathBuf> {
        let Some(unified) = &self.0.layout.unified else {
            let error = Error::new(ErrorKind::Unsupported, "a control group v2");
            return Err(error.lacks(words::NO_UNIFIED.of(Feature::Cgroup)));
        };
        let lock = || self.0.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = controllers.to_vec();
        let known = lock().get(&key).cloned();
        let room = match known {
            Some(room) => room,
            None => {
                let room = self.choose(unified, controllers)?;
                lock().insert(key, room.clone());
                room
            }
        };
        let prepare = || self.open_room(&room, controllers);
        self.make(&room, name, &prepare)
    }

    /// The nearest group in which `coracle` can have these controllers.
    fn choose(&self, unified: &Hierarchy, controllers: &[&str]) -> Result<PathBuf> {
        let mut nearest = None;
        for dir in above(unified) {
            let room = dir.join(ROOM);
            match self.open_room(&room, controllers) {
                Ok(()) => return Ok(room),
                Err(error) => nearest.get_or_insert(error),
            };
        }
        let error =
            nearest.unwrap_or_else(|| Error::new(ErrorKind::Unsupported, "no control group to be below"));
        Err(match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnly => {
                error.lacks(words::NOT_DELEGATED.of(Feature::Cgroup))
            }
            _ if error.missing().is_some() => error,
            _ => error.with_remedy(words::DELEGATE),
        })
    }

    /// Makes the directory `room`, from which groups can be joined and in which they have `controllers`.
    fn open_room(&self, room: &Path, controllers: &[&str]) -> Result<()> {
        let dir = room.parent().unwrap_or(room);
        // Joining asks for write permission in the group above both places.
        let procs = dir.join("cgroup.procs");
        fs::OpenOptions::new().write(true).open(&procs).call_at("open", &procs)?;
        let fresh = self.make_room(room)?;
        let enabled = enable(dir, controllers).and_then(|()| enable(room, controllers));
        if enabled.is_err() && fresh {
            let _ = fs::remove_dir(room);
            self.lock_made().remove(room);
        }
        enabled
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

    /// Makes `room/name`. `prepare` makes the room; it runs first where this handle has not made it yet, and again
    /// where another process removed the empty room in between.
    fn make(&self, room: &Path, name: &str, prepare: &dyn Fn() -> Result<()>) -> Result<PathBuf> {
        let dir = room.join(name);
        let mut ready = self.lock_made().contains(room);
        for _ in 0..8 {
            if !ready {
                prepare()?;
            }
            match mkdir(&dir) {
                Ok(()) => return Ok(dir),
                Err(error) if error.kind() == io::ErrorKind::NotFound => ready = false,
                Err(error) => return Err(refused(error, &dir)),
            }
        }
        Err(Error::new(ErrorKind::InUse, "the directory for control groups keeps vanishing").with_path(room))
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

/// Whatever the program's umask: others get no right to make groups in it.
fn mkdir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(dir)
}

/// This process's own group, then each one above it that is mounted.
fn above(hierarchy: &Hierarchy) -> impl Iterator<Item = &Path> {
    hierarchy.own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.mount))
}

/// Gives the groups below `dir` these controllers.
fn enable(dir: &Path, controllers: &[&str]) -> Result<()> {
    if controllers.is_empty() {
        return Ok(());
    }
    let read = |file: &str| {
        let path = dir.join(file);
        fs::read_to_string(&path).call_at("read", &path)
    };
    let has = |list: &str, controller: &str| list.split_whitespace().any(|one| one == controller);
    let available = read("cgroup.controllers")?;
    if let Some(missing) = controllers.iter().find(|controller| !has(&available, controller)) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the {missing} controller is not available in this control group"),
        )
        .with_path(dir));
    }
    let enabled = read("cgroup.subtree_control")?;
    let file = dir.join("cgroup.subtree_control");
    for controller in controllers.iter().filter(|controller| !has(&enabled, controller)) {
        fs::write(&file, format!("+{controller}")).call_at("write", &file)?;
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
mod tests {
    use super::*;
    use crate::cgroup::{LimitKind, Outcome};

    #[test]
    fn looks_upwards_to_the_mount_and_no_further() {
        let place =
            |mount: &str, own: &str| Hierarchy { controllers: vec![], mount: mount.into(), own: own.into() };
        let dirs =
            |mount, own| above(&place(mount, own)).map(|dir| dir.display().to_string()).collect::<Vec<_>>();
        assert_eq!(dirs("/c", "/c/a/b"), ["/c/a/b", "/c/a", "/c"]);
        assert_eq!(dirs("/c", "/c/"), ["/c/"]);
    }

    #[test]
    fn a_plain_directory_is_no_control_group() {
        let dir = tempfile::tempdir().unwrap();
        let own = Hierarchy { controllers: vec![], mount: dir.path().into(), own: dir.path().into() };
        let parent = CgroupParent::new(Layout { v1: vec![], unified: Some(own) }).unwrap();
        let group = parent.create("x", &Limits::new()).unwrap();
        let error = group.freeze(std::time::Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.remedy().is_some() && error.to_string().contains("cgroup.procs"), "{error}");
        assert!(parent.create("x", &Limits::new().pids_max(5)).is_err(), "required");
        let group = parent.create("x", &Limits::new().pids_max(5).best_effort(LimitKind::PidsMax)).unwrap();
        assert!(matches!(group.report().get("pids_max").unwrap().outcome(), Outcome::NotEnforced(_)));
        drop((group, parent));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn controllers_must_be_there_to_be_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        enable(dir.path(), &[]).unwrap();
        enable(dir.path(), &["cpu"]).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "cpu\n");
        enable(dir.path(), &["cpu", "memory"]).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+memory");
        assert_eq!(enable(dir.path(), &["pids"]).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
