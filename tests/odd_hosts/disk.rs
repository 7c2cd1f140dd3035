//! A store on a filesystem that is full, of bytes or of inodes, or read-only.
//!
//! The filesystem is a small tmpfs in a mount namespace of its own.
use super::*;
use rustix::fs::statvfs;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Everything in a store but for the files that are only locked: path and size.
fn content(store: &Path) -> BTreeMap<PathBuf, u64> {
    fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, u64>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            found.insert(entry.path(), if meta.is_dir() { 0 } else { meta.size() });
            if meta.is_dir() {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(store, &mut found);
    // Nor are the ranges of ids: one whose container does not exist is free. What an overlay works with is made anew by
    // each start.
    found.retain(|path, _| {
        let work = path.components().any(|part| part.as_os_str() == "work");
        !path.starts_with(store.join("locks")) && !path.starts_with(store.join("ids")) && !work
    });
    found
}

/// What fills the filesystem up to a few pages or inodes.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Pages,
    Inodes,
}

struct Ballast<'a>(&'a Path);

impl Ballast<'_> {
    fn leave(&self, of: Of, number: u64) -> bool {
        fs::create_dir(self.0.join("ballast")).unwrap();
        let file = self.0.join("ballast/file");
        match of {
            Of::Pages => {
                let free = statvfs(self.0).unwrap();
                let mut file = File::create(file).unwrap();
                let page = vec![1; free.f_bsize as usize];
                let mut pages: u64 = 0;
                while file.write_all(&page).is_ok() {
                    pages += 1;
                }
                file.set_len(pages.saturating_sub(number).saturating_mul(free.f_bsize)).unwrap();
                pages >= number
            }
            Of::Inodes => {
                File::create(&file).unwrap();
                let free = statvfs(self.0).unwrap().f_favail;
                for number in 0..free.saturating_sub(number) {
                    fs::hard_link(&file, self.0.join(format!("ballast/{number}"))).unwrap();
                }
                free >= number
            }
        }
    }

    fn remove(&self) {
        fs::remove_dir_all(self.0.join("ballast")).unwrap();
    }
}

#[track_caller]
fn assert_full(what: &str, error: &coracle::Error) {
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{what}: {error}");
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC), "{what}: {error}");
    assert!(error.path().is_some(), "{what}: no path: {error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("room")), "{what}: {error}");
}

static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Does something with ever more room, until it succeeds. Whatever fails before says why, on which path and what to
/// do, and leaves nothing.
fn with_ever_more<T>(what: &str, of: Of, mount: &Path, act: impl Fn() -> coracle::Result<T>) -> T {
    let store = mount.join("store");
    eventually("what was removed before is gone", || count(store.join("tmp")) == 0);
    let before = content(&store);
    let ballast = Ballast(mount);
    let mut failures = 0;
    for room in 0.. {
        assert!(ballast.leave(of, room), "{what}: needs all there is");
        let result = act();
        ballast.remove();
        match result {
            Ok(value) => {
                println!("{what}: {failures} failures");
                FAILURES.fetch_add(failures, Ordering::Relaxed);
                return value;
            }
            Err(error) => {
                failures += 1;
                assert_full(&format!("{what}, {room} left"), &error);
                let mut last = BTreeMap::new();
                let deadline = Instant::now() + LONG;
                while last != before {
                    last = content(&store);
                    let changed: Vec<_> =
                        last.iter().filter(|(path, size)| before.get(*path) != Some(size)).collect();
                    assert!(Instant::now() < deadline, "{what}, {room} left: {changed:?} after {error}");
                }
            }
        }
    }
    unreachable!("the filesystem is small")
}

fn fill(of: Of) {
    let Some(mount) = mounted() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut noise = vec![0; 40_000];
    noise.iter_mut().enumerate().for_each(|(at, byte)| *byte = ((at * at) >> 3) as u8);
    let files = ["a", "b", "c/d", "c/e"];
    let layer = tar([("c", Node::Dir)].into_iter().chain(files.map(|name| (name, Node::File(&noise)))));
    let archive = docker_archive(&[(&Fixture::of(vec![layer]), &["app:1"])]);
    let file = dir.path().join("app.tar");
    fs::write(&file, archive).unwrap();

    let store = Store::open(mount.join("store")).unwrap();
    // Files that are only locked stay: each is there before anything is counted.
    drop(Image::load(&store, &file).unwrap());
    store.force_remove_image("app:1").unwrap();
    let mount = store.path().parent().unwrap();
    let app = with_ever_more("loading an image", of, mount, || Image::load(&store, &file)).remove(0);
    let image = Image::host(&store).unwrap();
    // The directories of what was never there before.
    assert_eq!(say(&sh(&image, "echo before").name("kept")), "before");
    drop(with_ever_more("creating a container", of, mount, || Container::builder(&app).create()));
    coracle::Volume::create(&store, "other").unwrap().remove().unwrap();
    with_ever_more("making a volume", of, mount, || coracle::Volume::create(&store, "v")).remove().unwrap();
    let out = with_ever_more("running a container", of, mount, || sh(&image, "echo there").run());
    assert_eq!(text(&out.stdout), "there");
    with_ever_more("keeping a container", of, mount, || {
        let container = sh(&image, "exit 3").name("kept").create()?;
        let id = container.id().to_owned();
        // It can be tried again.
        container.keep().inspect_err(|_| store.container(&id).unwrap().remove().unwrap())
    });
    let container = store.container("kept").unwrap();
    // An overlay leaves a directory when it is mounted for the first time.
    container.start().unwrap();
    assert_eq!(container.wait().unwrap().code(), Some(3));
    with_ever_more("starting a kept container", of, mount, || container.start());
    assert_eq!(container.wait().unwrap().code(), Some(3));
    container.remove().unwrap();
    assert!(FAILURES.load(Ordering::Relaxed) > 20, "the disk was never full");
    // What runs meets the full disk by itself, and goes on when there is room.
    let script = "echo ready; while ! read x </go 2>/dev/null; do sleep 0.05; done; \
        cp /etc/passwd /copy 2>/dev/null && mkdir /d 2>/dev/null || echo full >&2; \
        while [ \"$x\" != 2 ]; do read x </go; sleep 0.05; done; cp /etc/passwd /copy && mkdir -p /d && echo room >&2";
    let go = dir.path().join("go");
    fs::write(&go, "").unwrap();
    let container = ready(&sh(&image, script).mount(coracle::Mount::bind(&go, "/go").read_only()));
    Ballast(mount).leave(of, 0);
    let say = |line: &str| {
        OpenOptions::new().write(true).truncate(true).open(&go).unwrap().write_all(line.as_bytes())
    };
    say("1\n").unwrap();
    eventually("the disk is full", || {
        text(&container.logs(coracle::Stream::Stderr).unwrap()).contains("full")
    });
    if coracle::Host::probe().has(coracle::Feature::Freeze) {
        container.pause().unwrap();
        assert_eq!(container.state(), coracle::State::Paused);
        container.unpause().unwrap();
    }
    Ballast(mount).remove();
    say("2\n").unwrap();
    assert!(container.wait().unwrap().success());
    assert!(text(&container.logs(coracle::Stream::Stderr).unwrap()).ends_with("room"));
}

/// Not a test when run by itself.
#[test]
fn ever_more_pages() {
    fill(Of::Pages);
}

/// Not a test when run by itself.
#[test]
fn ever_more_inodes() {
    fill(Of::Inodes);
}

#[test]
fn no_bytes_are_left() {
    on_small_filesystem("size=2m,mode=777", &["disk::ever_more_pages"], "");
}

#[test]
fn no_inodes_are_left() {
    on_small_filesystem("size=8m,nr_inodes=400,mode=777", &["disk::ever_more_inodes"], "");
}

/// What is in the store that becomes read-only.
fn furnished(store: &Path) -> Store {
    let store = Store::open(store).unwrap();
    let archive = docker_archive(&[(&Fixture::new(&["one", "two"]), &["app:1"])]);
    let app = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
    Container::builder(&app).name("kept").create().unwrap().keep().unwrap();
    coracle::Volume::create(&store, "data").unwrap();
    store
}

/// Opening, listing, inspecting; and whatever writes says that it can't.
fn is_read_only(path: &Path, kind: ErrorKind) {
    let store = Store::open(path).unwrap();
    let images = store.images().unwrap();
    assert_eq!(images.len(), 1);
    let app = store.image("app:1").unwrap();
    assert_eq!(app.references().unwrap().len(), 1);
    assert!(app.manifest_json().contains("layers"));
    assert_eq!(app.config().env(), ["A=1"]);
    let layers = app.layers().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[0].entries().unwrap().count(), 2);
    let kept = store.container("kept").unwrap();
    assert_eq!(kept.state(), coracle::State::Created);
    assert!(kept.inspect().unwrap().contains("kept"));
    assert_eq!(store.containers().unwrap().len(), 1);
    assert_eq!(store.volumes().unwrap().len(), 1);
    assert_eq!(coracle::Volume::open(&store, "data").unwrap().size().unwrap(), 0);
    let host = Image::host(&store).unwrap();

    let other = docker_archive(&[(&Fixture::new(&["three"]), &["other:1"])]);
    for (what, result) in [
        ("load", Image::load_reader(&store, &other[..]).map(drop)),
        ("tag", app.tag("more:1").map(drop)),
        ("untag", store.untag("app:1")),
        ("remove_image", store.force_remove_image("app:1").map(drop)),
        ("create", sh(&host, "true").create().map(drop)),
        ("run", sh(&host, "true").run().map(drop)),
        ("start", kept.start()),
        ("remove", kept.remove()),
        ("volume", coracle::Volume::create(&store, "more").map(drop)),
        ("prune", store.prune_images(false).map(drop)),
    ] {
        let error = result.err().unwrap_or_else(|| panic!("{what} works"));
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.path().is_some(), "{what}: {error}");
        assert!(error.remedy().is_some(), "{what}: {error}");
    }
    assert_eq!(Store::open(path).unwrap().containers().unwrap().len(), 1);
}

/// Not a test when run by itself.
#[test]
fn a_store_is_made() {
    let Some(mount) = mounted() else { return };
    drop(furnished(&mount.join("store")));
}

/// Not a test when run by itself.
#[test]
fn it_can_be_read() {
    let Some(mount) = mounted() else { return };
    is_read_only(&mount.join("store"), ErrorKind::ReadOnly);
}

#[test]
fn a_read_only_filesystem() {
    let tests = ["disk::a_store_is_made", "disk::it_can_be_read"];
    on_small_filesystem("size=8m,mode=777", &tests, "mount -o remount,bind,ro \"$m\"");
}
