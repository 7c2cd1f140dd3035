//! Into a container's root: of one that runs through its command's process, of any other by a mount for the moment.
#![forbid(unsafe_code)]

use super::super::bounds::DiskBound;
use super::super::dev::Dev;
use super::super::given::Given;
use super::super::ground::{Ground, planned_mounts};
use super::super::ids::{COUNT, Range, claim};
use super::super::inside::become_root;
use super::super::record::Dir;
use super::super::rootfs::{Root, Shift, build_resting};
use super::super::running::{Running, not_running};
use super::super::script::Script;
use super::super::{Container, KILL_TIME, Phase, exec, lock, removed, stages, start, volumes};
use crate::cgroup::Report;
use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use crate::store::{Lease, UnpackedLayer};
use crate::sys::courier::{self, Courier};
use crate::sys::idmap::IdMap;
use crate::sys::message;
use crate::sys::plan::Plan;
use crate::sys::plan::format::{OP_CLOSE_FROM, Status};
use crate::sys::time::after;
use crate::sys::warden::{self, Warden};
use linux_raw_sys::general as n;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Mounting takes milliseconds, if nothing hangs.
const TIME: Duration = Duration::from_secs(60);

const TRIES: u32 = 100;
const ESRCH: i32 = linux_raw_sys::errno::ESRCH as i32;

/// The root of a container, and who opens what is in it.
pub(super) struct Inside {
    /// `None` only while it is dropped.
    root: Option<OwnedFd>,
    pub courier: Courier,
    /// Of the container's user namespace, as this process sees it.
    pub map: IdMap,
    resting: Option<Resting>,
}

/// The files of one that does not run, mounted in a namespace of their own. Meanwhile nobody starts it.
struct Resting {
    mounter: Courier,
    dir: PathBuf,
    _layers: Vec<UnpackedLayer>,
    _held: Arc<Dir>,
    _leases: Vec<Lease>,
    // The last to go.
    _turn: Lease,
}

impl Inside {
    pub fn enter(container: &Container) -> Result<Self> {
        // It may be started, or end, while it is looked at.
        for _ in 0..TRIES {
            if let Some(inside) = Self::enter_as_it_is(container)? {
                return Ok(inside);
            }
        }
        Err(Error::new(ErrorKind::InUse, "the container is started again and again")
            .with_path(&container.0.id))
    }

    fn enter_as_it_is(container: &Container) -> Result<Option<Self>> {
        let inner = &container.0;
        inner.witness.check()?;
        let running = match &*lock(&inner.phase) {
            Phase::Running(running) => Some(running.clone()),
            Phase::Created | Phase::Exited(_) | Phase::Elsewhere(_) => None,
        };
        if let Some(running) = running
            && matches!(running.try_wait(), Ok(None))
        {
            return Self::unless_ended(&running);
        }
        inner.refuse_others()?;
        let turn = inner.store.starting(&inner.id)?;
        // Another handle or program may have started it since.
        let dir = lock(&inner.held).as_ref().map(|held| held.dir.clone()).ok_or_else(removed)?;
        let started = match dir.running()? {
            Some(record) => start::join(&dir, &record)?,
            None => None,
        };
        match started {
            Some(running) => {
                drop(turn);
                Self::unless_ended(&running)
            }
            None => Self::resting(container, turn).map(Some),
        }
    }

    fn unless_ended(running: &Running) -> Result<Option<Self>> {
        match Self::running(running) {
            Err(error) if error.kind() == ErrorKind::State => {
                // It is on its way out, as a rule; until its end is told it would be found running again.
                let last = Some(after(KILL_TIME));
                let has_ended = match running.warden {
                    Some(_) => !matches!(running.wait(last), Ok(None)),
                    // Of another program's its process tells.
                    None => message::readable(&*running.process.pidfd, last)?,
                };
                if has_ended { Ok(None) } else { Err(error) }
            }
            other => other.map(Some),
        }
    }

    fn running(running: &Running) -> Result<Self> {
        let warden = match (&running.warden, &running.door) {
            (Some(warden), _) => warden.clone(),
            (None, Some(door)) => Warden::connect(running.dir.store.locks_dir(), door)?,
            (None, None) => return Err(Error::new(ErrorKind::State, "the container has no warden")),
        };
        let (member, member_fd) = running.member()?;
        let root = exec::root_of(member, &*member_fd);
        let map = IdMap::of(&format!("/proc/{member}"));
        let gone = |error: Error| match error.kind() {
            // What /proc says of a process that is on its way out.
            ErrorKind::NotFound => not_running(&running.dir.id).with_source(error),
            _ if error.raw_os_error() == Some(ESRCH) => not_running(&running.dir.id).with_source(error),
            _ => error,
        };
        // Else somebody else may have its number by now, whose map is another.
        if message::readable(&*member_fd, Some(Instant::now()))? {
            return Err(not_running(&running.dir.id));
        }
        let (root, map) = (root.map_err(gone)?, map.map_err(gone)?);
        let mut s = Script::new();
        s.during("entering the container's user namespace");
        let pidfd = s.fd(member_fd.as_fd());
        s.op(n::__NR_setns, "setns(pidfd, CLONE_NEWUSER)", [pidfd.into(), n::CLONE_NEWUSER.into()]);
        become_root(&mut s, !map.is_single());
        s.tell(&[u64::from(Status::PLAN), 0]);
        let (courier, _) = Courier::start_told(&warden, s.plan, after(TIME)).map_err(gone)?;
        Ok(Self { root: Some(root), courier, map, resting: None })
    }

    fn resting(container: &Container, turn: Lease) -> Result<Self> {
        let inner = &container.0;
        let warden = warden::warden()?;
        let mut held = lock(&inner.held);
        let held = held.as_mut().ok_or_else(removed)?;
        held.refresh()?;
        held.is_whole()?;
        if held.record.spec.in_memory {
            let error = Error::new(ErrorKind::State, "its writable layer is in memory, while it runs");
            return Err(error.with_path(&held.record.name).with_remedy("Container::start it first"));
        }
        let image = inner.image.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the image of the container is gone")
                .with_path(&held.record.image_name)
        })?;
        if held.range.is_none() && warden.map().is_none() {
            held.range = Some(Range::again(&inner.store, held.record.base)?);
        }
        claim(held, warden.map())?;
        let disk = DiskBound::of(&inner.store, held)?;
        let Ground { layers, base, was_mounted } = Ground::prepare(inner, held, image, warden.map())?;
        let (record, dir) = (&held.record, &held.dir);
        let leases = volumes::leases(&inner.store, record, warden.map())?;
        disk.apply(&inner.store, dir, &mut Report::default())?;
        let userns = match held.range {
            Some(_) => Some(stages::userns(&warden, record.base)?),
            None => None,
        };
        let dir_path = dir.path();
        let mut s = Script::new();
        let root = Root {
            dir: &dir_path,
            base,
            memory: None,
            given: (0, 0),
            userns: userns.as_ref().map(|fd| s.fd(fd.as_fd())),
            shift: Shift(record.base),
            mounts: planned_mounts(&inner.store, record, &Given::default())?,
            etc: Vec::new(),
            files: &[],
            dev: Dev { devices: &[], shm_size: None },
            read_only: record.spec.read_only,
            // Of a mount that can't be id-mapped a start tells; here it is only looked at.
            unmapped: false,
            volatile: !held.kept,
            detached_lowers: warden.features().detached_lowers,
        };
        if was_mounted {
            // An overlay does not share its writable layer.
            s.kept_are_gone();
        }
        s.during("entering a mount namespace");
        s.unshare_mounts();
        s.private_mounts();
        let mount = build_resting(&mut s, &root);
        let letter = s.letter(Status::PLAN);
        s.copy_fd(mount, letter.fd);
        s.post(letter);
        // What it has open would keep the mounts.
        let status = s.status();
        s.op(n::__NR_dup3, "dup3", [status.into(), 3.into(), n::O_CLOEXEC.into()]).store(status);
        s.op(OP_CLOSE_FROM, "close_range", [4.into()]);
        let (mounter, fds) = Courier::start_told(&warden, s.plan, after(TIME))?;
        let map = warden.map().cloned().unwrap_or_else(|| IdMap::range(record.base, COUNT));
        let courier = match &userns {
            Some(userns) => root_of_namespace(&warden, userns.as_fd())?,
            // It is the container's root already, as a user has one range only.
            None => courier::of_warden(&warden)?,
        };
        let root = fds.into_iter().next();
        let root = root.ok_or_else(|| Error::new(ErrorKind::Gone, "the warden has sent no mount"))?;
        let resting = Resting {
            mounter,
            dir: dir_path.clone(),
            _layers: layers,
            _held: dir.clone(),
            _leases: leases,
            _turn: turn,
        };
        Ok(Self { root: Some(root), courier, map, resting: Some(resting) })
    }

    pub fn root(&self) -> Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(removed)
    }
}

/// A courier that is root of this user namespace.
fn root_of_namespace(warden: &Arc<Warden>, userns: BorrowedFd<'_>) -> Result<Courier> {
    let mut s = Script::new();
    s.during("entering the container's user namespace");
    let userns = s.fd(userns);
    s.op(n::__NR_setns, "setns(CLONE_NEWUSER)", [userns.into(), n::CLONE_NEWUSER.into()])
        .needs(Feature::UserNamespace);
    become_root(&mut s, true);
    s.tell(&[u64::from(Status::PLAN), 0]);
    Courier::start_told(warden, s.plan, after(TIME)).map(|(courier, _)| courier)
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.root.take());
        let Some(resting) = &self.resting else { return };
        // Whoever starts the container next finds its writable layer in no mount.
        let mut plan = Plan::new();
        let at = plan.string(&resting.dir);
        plan.op(n::__NR_umount2, "umount2(MNT_DETACH)", [at.into(), n::MNT_DETACH.into()]).path(&resting.dir);
        if let Err(error) = resting.mounter.call(plan) {
            tracing::warn!(%error, dir = ?resting.dir, "the files of a container stay mounted until its courier ends");
        }
    }
}
