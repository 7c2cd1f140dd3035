//! What could be left of a host program, and is not; and what is left on purpose, to see that it would be found.
use super::*;
use std::collections::BTreeSet;
use std::path::Path;

/// The rooms of a store that have something in them for each thing that is kept.
const ROOMS: [&str; 6] = ["blobs/sha256", "layers", "containers", "volumes", "names", "tmp"];

pub struct Look {
    store: PathBuf,
    /// What is in the rooms for what the supervisor keeps.
    before: BTreeSet<PathBuf>,
}

fn names(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What of a store, or beside it, is mounted: in all mount namespaces that a process is in. A filesystem may be mounted
/// itself at the directory that has both, or anywhere above.
fn mounted(store: &Path) -> Vec<String> {
    let both = store.parent().unwrap();
    let mark = format!("{}/", both.file_name().unwrap().to_string_lossy());
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for pid in names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok()) {
        // Of another user's process it is not told which namespace it is in: looked at once for each of them.
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap_or_else(|_| PathBuf::from(&pid));
        if seen.insert(namespace) {
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let line = mounts.lines().find(|line| line.contains(&mark));
            found.extend(line.map(|line| format!("mounted for process {pid}: {line}")));
        }
    }
    found
}

impl Look {
    pub fn new(store: &Path) -> Self {
        let mut this = Self { store: store.to_owned(), before: BTreeSet::new() };
        this.before = this.content();
        this
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    fn content(&self) -> BTreeSet<PathBuf> {
        let inside = |room: &&str| {
            let dir = self.store.join(room);
            names(&dir).into_iter().map(move |name| dir.join(name))
        };
        ROOMS.iter().flat_map(inside).collect()
    }

    /// What is left of a host that made these containers.
    pub fn left(&self, ids: &[String]) -> Vec<String> {
        let mut left = mounted(&self.store);
        // Their groups are empty at once; the directories go with the next opening.
        for group in cgroups_with("") {
            let is_theirs = group.file_name().is_some_and(|name| ids.iter().any(|id| name == &**id));
            let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            if is_theirs && !processes.trim().is_empty() {
                left.push(format!("in the control group {} are {processes:?}", group.display()));
            }
        }
        let store = Store::open(&self.store).unwrap();
        self.swept(&store, ids, &mut left);
        verified(&store, &mut left);
        if left.is_empty() {
            self.clear(&store);
            drop(store);
            let now = self.content();
            let differs = |a: &BTreeSet<_>, b| a.difference(b).cloned().collect::<Vec<PathBuf>>();
            let (more, fewer) = (differs(&now, &self.before), differs(&self.before, &now));
            if !(more.is_empty() && fewer.is_empty()) {
                left.push(format!("left {more:?}, lost {fewer:?}"));
            }
        }
        left
    }

    /// What the opening of the store should have swept.
    fn swept(&self, store: &Store, ids: &[String], left: &mut Vec<String>) {
        let mut all = |room: &str, kept: BTreeSet<String>| {
            let found = names(self.store.join(room));
            if found != kept {
                left.push(format!("in {room}/ is {found:?} instead of {kept:?}"));
            }
        };
        all("tmp", BTreeSet::new());
        let containers = store.containers().unwrap();
        all("containers", containers.iter().map(|container| container.id().to_owned()).collect());
        let volumes = store.volumes().unwrap();
        all("volumes", volumes.iter().map(|volume| volume.name().to_owned()).collect());
        let of_stores = |name: &str| name == "data" || name.starts_with("v-");
        let strange = volumes.iter().map(Volume::name).filter(|name| !of_stores(name));
        left.extend(strange.map(|name| format!("the anonymous one of volumes/: {name}")));
        for container in &containers {
            let name = container.name();
            if !(["kept", "other"].contains(&&*name) || name.starts_with("k-")) {
                left.push(format!("{name} was not kept"));
            }
        }
        let own = format!("warden-{}-", std::process::id());
        // One that was being made is taken for a dead program's after a minute: until it listens nothing tells it from a living one's.
        let doors = names(self.store.join("locks")).into_iter().filter(|name| name.starts_with("warden-"));
        left.extend(doors.filter(|name| !name.starts_with(&own)).map(|name| format!("the door {name}")));
        // Of a thousand containers none is started at the same time as two others.
        let ranges = names(self.store.join("ids")).len();
        if ranges > 16 {
            left.push(format!("{ranges} ranges of ids"));
        }
        let groups: BTreeSet<_> = cgroups_with("")
            .into_iter()
            .filter_map(|dir| dir.file_name()?.to_str().map(String::from))
            .collect();
        left.extend(
            ids.iter().filter(|id| groups.contains(*id)).map(|id| format!("the control group of {id}")),
        );
    }

    /// Removes what a host may have kept; all of it can be used.
    fn clear(&self, store: &Store) {
        for container in store.containers().unwrap() {
            if container.name().starts_with("k-") {
                container.remove().unwrap();
            }
        }
        for image in store.images().unwrap() {
            let names: Vec<_> = image.references().unwrap().iter().map(|name| name.familiar()).collect();
            for layer in image.layers().unwrap() {
                assert!(layer.entries().unwrap().map(Result::unwrap).count() > 0, "{names:?}");
            }
            if names.iter().all(|name| !name.starts_with("base")) {
                let id = image.id().to_string();
                drop(image);
                store.force_remove_image(&id).unwrap();
            }
        }
        for volume in store.volumes().unwrap() {
            if volume.name().starts_with("v-") {
                volume.remove().unwrap();
            }
        }
        store.prune_images(false).unwrap();
        // A dead program's name is whoever's wants it.
        for name in names(self.store.join("names")) {
            if name.starts_with("k-") {
                sh(&Image::host(store).unwrap(), "true").name(name).create().unwrap().remove().unwrap();
            }
        }
    }
}

/// All that `Store::verify` says, and that it has looked at everything; the blobs by this program's own hashing, too.
fn verified(store: &Store, left: &mut Vec<String>) {
    let verification = store.verify().unwrap();
    left.extend(verification.problems.iter().map(|problem| format!("verified: {problem}")));
    let mut bytes = 0;
    for blob in fs::read_dir(store.path().join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        let content = fs::read(&blob).unwrap();
        bytes += content.len() as u64;
        if blob.file_name().unwrap().to_str() != Some(&*coracle::Digest::of(&content).hex()) {
            left.push(format!("{} has another digest", blob.display()));
        }
    }
    let number = |room: &str| names(store.path().join(room)).len() as u64;
    let expected = (number("blobs/sha256"), bytes, number("layers"), number("containers"), number("volumes"));
    let v = &verification;
    if (v.blobs, v.bytes, v.layers, v.containers, v.volumes) != expected {
        left.push(format!("verified {v:?}, there is {expected:?}"));
    }
    if v.images < store.images().unwrap().len() as u64 {
        left.push(format!("verified {} images", v.images));
    }
}

/// What is left on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    Process,
    /// And all else that a container has that goes on.
    Mount,
    Group,
    Temporary,
    Container,
    Layer,
    Volume,
    Door,
    Damage,
    Reference,
}

/// Takes it away again.
pub struct Planted(Option<Box<dyn FnOnce()>>);

impl Drop for Planted {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

impl Leak {
    pub const ALL: [Self; 10] = [
        Self::Process,
        Self::Mount,
        Self::Group,
        Self::Temporary,
        Self::Container,
        Self::Layer,
        Self::Volume,
        Self::Door,
        Self::Damage,
        Self::Reference,
    ];

    /// What says that it was seen.
    pub fn word(self) -> &'static str {
        match self {
            Self::Process => "processes: [",
            Self::Mount => "mounted for process",
            Self::Group => "the control group of",
            Self::Temporary => "in tmp/ is",
            Self::Container => "in containers/ is",
            Self::Layer => "layers/",
            Self::Volume => "of volumes/",
            Self::Door => "the door warden-",
            Self::Damage => "verified: blob",
            Self::Reference => "is missing",
        }
    }
}

impl Look {
    /// `None` where this user can't have it.
    pub fn plant(&self, leak: Leak, ids: &mut Vec<String>) -> Option<Planted> {
        // Nobody else's, nor that of one that was killed.
        let long = format!("{:08x}{}", std::process::id(), "ab".repeat(28));
        let made = |path: PathBuf| {
            fs::create_dir(&path).unwrap();
            // Somebody holds it, so that no sweep takes it.
            let held = fs::File::open(&path).unwrap();
            held.lock_shared().unwrap();
            move || {
                drop(held);
                let _ = fs::remove_dir_all(path);
            }
        };
        let undo: Box<dyn FnOnce()> = match leak {
            Leak::Process => return None,
            Leak::Mount => {
                let store = Store::open(&self.store).unwrap();
                let container = sh(&Image::host(&store).unwrap(), "echo ready; exec sleep 1000");
                let container = ready(&container.bind(bound(&self.store), "/bound"));
                Box::new(move || container.remove().unwrap())
            }
            Leak::Group => {
                let group = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
                let group = group.into_iter().find(|dir| dir.is_dir())?.join(&long);
                fs::create_dir(&group).ok()?;
                ids.push(long);
                Box::new(move || fs::remove_dir(group).unwrap())
            }
            Leak::Temporary => Box::new(made(self.store.join("tmp/left"))),
            Leak::Container => Box::new(made(self.store.join("containers").join(long))),
            Leak::Layer => Box::new(made(self.store.join("layers").join(long))),
            Leak::Volume => {
                let store = Store::open(&self.store).unwrap();
                let volume = Volume::create(&store, &long).unwrap();
                Box::new(move || volume.remove().unwrap())
            }
            Leak::Door => {
                let path = self.store.join("locks/warden-1-ab");
                let door = std::os::unix::net::UnixListener::bind(&path).unwrap();
                Box::new(move || {
                    drop(door);
                    let _ = fs::remove_file(path);
                })
            }
            Leak::Damage | Leak::Reference => {
                let kept = self.before.iter().find(|path| path.to_string_lossy().contains("blobs/")).unwrap();
                let (path, content) = (kept.clone(), fs::read(kept).unwrap());
                fs::remove_file(&path).unwrap();
                if leak == Leak::Damage {
                    let mut other = content.clone();
                    other[7] ^= 1;
                    fs::write(&path, other).unwrap();
                }
                Box::new(move || fs::write(path, content).unwrap())
            }
        };
        Some(Planted(Some(undo)))
    }
}
