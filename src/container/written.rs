//! What a container has written, as it lies on disk or is seen in its root, while nothing of it changes.
#![forbid(unsafe_code)]

use super::exec::root_of;
use super::given::Given;
use super::host_root::ETC_FILES;
use super::ids;
use super::pausing::{self, Pausing};
use super::record::{Record, UPPER};
use super::running::Running;
use super::{Container, Inner, Phase, lock, removed};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::{
    Below, Changed, Difference, Entry, Flattened, Layer, Lower, Onto, Owners, RootDir, Scan, View,
    for_caller, root_dir,
};
use crate::store::{Lease, UnpackedLayer};
use crate::sys::idmap::{IdMap, is_privileged};
use crate::sys::{owners, warden};
use rustix::fs::{AtFlags, StatxFlags};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Whether a container that runs is stopped meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// It is, by the freezer, unless it stands still already.
    Yes,
    No,
}

/// What keeps a container from changing.
enum Still {
    /// Nobody starts it.
    Stopped(#[expect(dead_code)] Lease),
    /// It was frozen for this.
    Frozen(Arc<Running>, Pausing),
    /// Somebody else has paused it.
    Paused(Arc<Running>),
    /// It goes on.
    Moving(Arc<Running>),
}

/// What a container has written.
pub(super) struct Written<'a> {
    pub image: &'a Image,
    pub record: Record,
    given: Arc<Given>,
    /// The image's layers, the topmost first.
    pub layers: Vec<UnpackedLayer>,
    /// The writable layer, or the root as it is seen.
    root: OwnedFd,
    view: View,
    ids: IdMap,
    owners: Box<dyn Owners>,
    still: Still,
}

impl Container {
    pub(super) fn written(&self, pause: Pause) -> Result<Written<'_>> {
        self.0.witness.check()?;
        self.0.written(pause)
    }
}

impl Inner {
    fn written(&self, pause: Pause) -> Result<Written<'_>> {
        let record = self.record(Clone::clone)?;
        let image = self.image.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the image of the container is gone")
                .with_path(&record.image_name)
        })?;
        if image.is_host() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the host image is in no store, so there is nothing to compare with",
            )
            .with_remedy("use a container of an image that is in the store"));
        }
        if let Some(held) = &*lock(&self.held) {
            held.is_whole()?;
            if record.base == 0 {
                ids::same_as_written(&held.dir, &record, &warden::ids_of_caller().0)?;
            }
        }
        let layers = image.layer_dirs()?;
        let mut still = self.stand_still(pause)?;
        let opened = match record.spec.in_memory {
            false => self.upper().map(|upper| (upper, View::Writable)),
            true => self.root_as_seen(&still),
        };
        let (root, view) = opened.inspect_err(|_| still.go_on_quietly(&self.id))?;
        let ids = match record.base {
            0 => warden::ids_of_caller().0,
            base => IdMap::range(base, ids::COUNT),
        };
        let given = self.given.clone();
        Ok(Written { image, record, given, layers, root, view, ids, owners: for_caller(), still })
    }

    fn running_now(&self) -> Result<Option<Arc<Running>>> {
        let Phase::Running(running) = &*lock(&self.phase) else { return Ok(None) };
        match running.try_wait() {
            Ok(None) => Ok(Some(running.clone())),
            // However that came.
            Ok(Some(_)) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Gone | ErrorKind::TimedOut) => Ok(None),
            // What its output met says nothing about its files.
            Err(_) => Ok(None),
        }
    }

    fn stand_still(&self, pause: Pause) -> Result<Still> {
        if let Some(running) = self.running_now()? {
            if pause == Pause::No {
                pausing::settle(&running);
                return Ok(if running.is_paused() { Still::Paused(running) } else { Still::Moving(running) });
            }
            match Pausing::begin(&running) {
                Ok(Some(pausing)) => return Ok(Still::Frozen(running, pausing)),
                Ok(None) => return Ok(Still::Paused(running)),
                // It has ended.
                Err(error) if error.kind() == ErrorKind::State => {}
                Err(error) => {
                    return Err(error.during("pausing a container while its changes are read").with_remedy(
                        "stop the container first, or choose not to have it paused: Commit::pause(false), --pause=false",
                    ));
                }
            }
        }
        self.refuse_others()?;
        let turn = self.store.starting(&self.id)?;
        // The phase is not to be asked any more: whoever starts it has it locked, and waits for this turn.
        let running = lock(&self.held).as_ref().ok_or_else(removed)?.dir.running()?;
        if let Some(running) = running
            && running.process(&self.store, &self.id)?.is_some()
        {
            return Err(Error::new(ErrorKind::State, "the container has just been started")
                .with_path(&self.id)
                .with_remedy(
                    "try again; of one that another program started, open it again (Store::container)",
                ));
        }
        Ok(Still::Stopped(turn))
    }

    fn upper(&self) -> Result<OwnedFd> {
        let dir = lock(&self.held).as_ref().map(|held| held.dir.clone()).ok_or_else(removed)?;
        dir.open_dir(UPPER)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the writable layer of a container")
                .with_path(dir.path().join(UPPER))
        })
    }

    /// A writable layer in memory is in no directory: what was written there is seen in the container alone.
    fn root_as_seen(&self, still: &Still) -> Result<(OwnedFd, View)> {
        let gone = || {
            Error::new(ErrorKind::State, "a writable layer in memory is there while the container runs")
                .with_path(&self.id)
                .with_remedy("have it read before the container ends, or keep the writable layer on disk")
        };
        let (Still::Frozen(running, _) | Still::Paused(running) | Still::Moving(running)) = still else {
            return Err(gone());
        };
        let (member, process) = running.member()?;
        let root = root_of(member, &*process).map_err(|error| match error.kind() {
            ErrorKind::NotFound => gone().with_source(error),
            _ => error,
        })?;
        let stat = rustix::fs::statx(&root, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .call_at("statx(STATX_MNT_ID)", "/")?;
        Ok((root, View::Whole(stat.stx_mnt_id)))
    }
}

impl Written<'_> {
    /// The layers of the image.
    pub(super) fn lowers(&self) -> Vec<Lower<'_>> {
        self.layers.iter().map(|layer| Lower::new(layer.dir(), || layer.meta())).collect()
    }

    /// What it has written alone.
    pub(super) fn tree(&self) -> Lower<'_> {
        Lower::written(self.root.as_fd(), &self.ids)
    }

    pub(super) fn merged<'b>(&'b self, layers: Vec<Lower<'b>>) -> Below<'b> {
        Below::new(layers, !is_privileged(), Some(&*self.owners))
    }

    /// It beside the image.
    pub(super) fn difference(&self) -> Result<Difference<'_>> {
        let tree = self.merged(vec![self.tree()]);
        let image = self.merged(self.lowers());
        let is_moving = matches!(self.still, Still::Moving(_));
        Ok(Difference::new(self.view, self.root.as_fd(), tree, image, self.places()?).moving(is_moving))
    }

    /// All of the container's root as one archive; gives what has no place in one.
    pub(super) fn flatten(&self, writer: impl Write) -> Result<Vec<(PathBuf, String)>> {
        let is_moving = matches!(self.still, Still::Moving(_));
        let (mut image, places) = (self.merged(self.lowers()), self.places()?);
        let left_out = match self.view {
            View::Writable => {
                let mut merged = self.merged(std::iter::once(self.tree()).chain(self.lowers()).collect());
                let root = merged.root()?.filter(Entry::is_unusual_root);
                let mut archive = Flattened::new(writer, root)?;
                archive.layers(&mut merged, &places, is_moving)?;
                archive.places(&mut image, &places)?;
                archive.finish()?.1
            }
            // What is seen has the image in it.
            View::Whole(_) => {
                let (tree, nothing) = (self.merged(vec![self.tree()]), self.merged(Vec::new()));
                let seen = Difference::new(self.view, self.root.as_fd(), tree, nothing, places.clone());
                let mut archive = Flattened::new(writer, None)?;
                archive.seen(&mut seen.moving(is_moving))?;
                archive.places(&mut image, &places)?;
                archive.finish()?.1
            }
        };
        Ok(left_out)
    }

    /// As a layer; `None` where nothing has changed. Times later than `latest` are `latest`. The caller is
    /// [writing](crate::store::Store::writing).
    pub(super) fn layer(
        &self,
        latest: Option<SystemTime>,
        unpack: bool,
        scan: Option<Scan<'_>>,
    ) -> Result<Changed> {
        let parent = self.image.config().chain_ids().pop();
        let onto = unpack.then_some(Onto { layers: &self.layers, parent, scan });
        let root = self.image_root()?;
        Layer::of_difference(self.image.store(), self.difference()?, root.as_ref(), latest, onto)
    }

    /// What the image says of its root directory, with its own ids.
    pub(super) fn image_root(&self) -> Result<Option<RootDir>> {
        let root = root_dir(&self.layers)?;
        // As root they are the image's on disk.
        let of_layers = (self.record.base == 0).then_some(&self.ids);
        Ok(root.map(|root| match of_layers {
            None => root,
            Some(ids) => RootDir {
                uid: owners::inside(&ids.users, root.uid),
                gid: owners::inside(&ids.groups, root.gid),
                ..root
            },
        }))
    }

    /// The places that something is mounted on, which are none of the container's own files.
    fn places(&self) -> Result<BTreeSet<Vec<u8>>> {
        let spec = &self.record.spec;
        let mounts: Vec<_> = spec.mounts.iter().filter(|mount| mount.shm_size().is_none()).collect();
        let is_own = |path: &Path| {
            mounts.iter().all(|mount| mount.target != path)
                && self.given.targets().all(|target| target != path)
                && spec.files.iter().all(|file| file.path != path)
        };
        let mut places: BTreeSet<Vec<u8>> = ["proc", "sys", "dev"].into_iter().map(Into::into).collect();
        let etc = ETC_FILES.into_iter().map(|name| Path::new("/etc").join(name)).filter(|path| is_own(path));
        let targets: Vec<_> = etc
            .chain(mounts.iter().map(|mount| mount.target.clone()))
            .chain(self.given.targets().map(Path::to_owned))
            .collect();
        // Where the links of the container's root lead.
        let layers =
            std::iter::once(self.tree()).filter(|_| self.view == View::Writable).chain(self.lowers());
        let mut merged = self.merged(layers.collect());
        for target in targets {
            places.extend(merged.resolve(target.as_os_str().as_bytes())?.map(|(path, _)| path));
            let target = target.as_os_str().as_bytes();
            places.insert(target.strip_prefix(b"/").unwrap_or(target).to_vec());
        }
        places.remove(&b""[..]);
        Ok(places)
    }

    /// Whether it was paused for this.
    pub(super) fn is_frozen(&self) -> bool {
        matches!(self.still, Still::Frozen(..))
    }

    /// Lets it go on.
    pub(super) fn go_on(mut self) -> Result<()> {
        self.still.go_on()
    }
}

impl Still {
    fn go_on(&mut self) -> Result<()> {
        let Self::Frozen(running, _) = self else { return Ok(()) };
        let moving = Self::Moving(running.clone());
        match std::mem::replace(self, moving) {
            Self::Frozen(_, pausing) => {
                pausing.end().map_err(|error| error.during("letting a paused container go on"))
            }
            _ => Ok(()),
        }
    }

    fn go_on_quietly(&mut self, id: &str) {
        if let Err(error) = self.go_on() {
            tracing::warn!(%error, id, "a container stays paused: Container::unpause lets it go on");
        }
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        self.still.go_on_quietly(&self.record.id);
    }
}
