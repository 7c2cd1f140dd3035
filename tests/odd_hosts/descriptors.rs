//! Programs with few descriptors left, with many taken, and without standard streams.
use super::*;
use coracle::Stdio;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn null() -> std::io::Result<File> {
    File::open("/dev/null")
}

#[test]
fn the_first_200_are_taken() {
    if !is_own_process("descriptors::the_first_200_are_taken") {
        return;
    }
    let mut taken = vec![null().unwrap()];
    while taken.last().unwrap().as_raw_fd() < 200 {
        taken.push(null().unwrap());
    }
    let image = host();
    // Nothing of the host's in the container: only what ls itself opened.
    assert_eq!(say(&sh(&image, "ls /proc/self/fd")), "0\n1\n2\n3");
    let container = ready(&sh(&image, "echo ready; exec cat").stdin(Stdio::piped()));
    assert_eq!(text(&container.exec(["ls", "/proc/self/fd"]).output().unwrap().stdout), "0\n1\n2\n3");
    drop(container.take_stdin());
    assert!(container.wait().unwrap().success());
    assert!(taken.iter().all(|file| file.metadata().is_ok()));
}

/// What a container has left in a cache may be as wide as it likes, and as deep.
#[test]
fn pruning_a_cache_of_many_directories() {
    if !is_own_process("descriptors::pruning_a_cache_of_many_directories") {
        return;
    }
    let store = Store::temp().unwrap();
    let cache = store.path().join("cache/mounts/wide");
    (0..1000).for_each(|n| fs::create_dir_all(cache.join(n.to_string())).unwrap());
    fs::create_dir_all(cache.join("deep/".repeat(500))).unwrap();
    fs::write(cache.join("999/file"), vec![1; 1 << 20]).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..limit }).unwrap();
    let pruned = store.prune_cache(None, Some(0)).unwrap();
    assert!(pruned.mounts == 1 && pruned.freed >= 1 << 20, "{pruned:?}");
    assert!(!cache.exists());
}

/// Nor is what an image brings into a volume as deep as there are descriptors.
#[test]
fn a_volume_begins_with_deep_directories() {
    if !is_own_process("descriptors::a_volume_begins_with_deep_directories") {
        return;
    }
    let store = Store::temp().unwrap();
    let path = format!("data/{}", "d/".repeat(500));
    let layer = coracle::Layer::builder().file(format!("{path}file"), "deep").build(&store).unwrap();
    let image = Image::scratch(&store).unwrap().with_layer(&layer).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..limit }).unwrap();
    let volume = coracle::Volume::create(&store, "deep").unwrap();
    Container::builder(&image).command(["/none"]).volume(&volume, "/data").create().unwrap();
    assert_eq!(volume.size().unwrap(), 4);
}

const CLOSED: &str = "CORACLE_TEST_CLOSED";

/// Each of the eight sets of standard streams that a program may have closed.
#[test]
fn standard_streams_are_closed() {
    for set in 0..8 {
        let set = set.to_string();
        passes(child("descriptors::with_streams_closed", &[(CLOSED, set.as_ref())]));
    }
}

/// Not a test when run by itself.
#[test]
fn with_streams_closed() {
    let Ok(set) = std::env::var(CLOSED) else { return };
    let set: i32 = set.parse().unwrap();
    let closed: Vec<i32> = (0..3).filter(|fd| set & 1 << fd != 0).collect();
    // SAFETY: the three are open when a program starts.
    let stream = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
    let saved: Vec<_> = closed
        .iter()
        .map(|fd| nix::fcntl::fcntl(stream(*fd), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(100)).unwrap())
        .collect();
    closed.iter().for_each(|fd| nix::unistd::close(*fd).unwrap());
    let result = std::panic::catch_unwind(without_streams);
    for (fd, saved) in closed.iter().zip(saved) {
        // SAFETY: both are this test's; what the library may have opened there is closed with its last handle.
        unsafe {
            let mut to = std::mem::ManuallyDrop::new(OwnedFd::from_raw_fd(*fd));
            nix::unistd::dup2(OwnedFd::from_raw_fd(saved), &mut to).unwrap();
        }
    }
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn without_streams() {
    let image = host();
    for _ in 0..2 {
        let out = sh(&image, "echo out; echo err >&2; wc -c").stdin("four").run().unwrap();
        assert_eq!((text(&out.stdout).as_str(), text(&out.stderr).as_str()), ("out\n4", "err"));
    }
    let container = ready(&sh(&image, "echo ready; cat; exit 5").stdin(Stdio::piped()));
    let within = container.exec(["sh", "-c", "cat; echo e >&2"]).stdin("in").output().unwrap();
    assert_eq!((text(&within.stdout).as_str(), text(&within.stderr).as_str()), ("in", "e"));
    drop(container.take_stdin());
    assert_eq!(container.wait().unwrap().code(), Some(5));
    // What there is not can't be inherited, and is nothing worse than that.
    for fd in [0, 1, 2] {
        let plain = sh(&image, "true");
        let inherits = match fd {
            0 => plain.stdin(Stdio::inherit()),
            1 => plain.stdout(Stdio::inherit()),
            _ => plain.stderr(Stdio::inherit()),
        };
        match inherits.start() {
            Ok(container) => assert!(container.wait().unwrap().success()),
            Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EBADF), "{error}"),
        }
    }
    let store = image.store().path().to_owned();
    assert_eq!(count(store.join("containers")), 1, "the one above, which has a handle");
    drop((container, image));
    // What watched the last containers has it, too.
    eventually("the store goes with its last handle", || !store.exists());
}

/// Does something with ever more descriptors left, until it succeeds. Whatever fails before says why and what to do, and
/// `check` finds nothing left of it.
fn with_ever_more<T>(what: &str, act: impl Fn() -> coracle::Result<T>, check: impl Fn()) -> T {
    let mut taken = Vec::with_capacity(1 << 10);
    let mut last = None;
    // The host as an image takes a descriptor for each path that it hides: of those it fails at, some are enough.
    for spare in (0..40).chain((40..350).step_by(7)) {
        while let Ok(file) = null() {
            taken.push(file);
        }
        taken.truncate(taken.len().saturating_sub(spare));
        let result = act();
        // A thread of the library's may have closed one after they were all taken.
        let has_room = null().is_ok();
        taken.clear();
        match result {
            Ok(value) => {
                assert!(spare > 0 || has_room, "{what}: needs no descriptor at all");
                return value;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{what}, {spare} left: {error}");
                let remedy = error.remedy().unwrap_or_default();
                assert!(remedy.contains("ulimit -n"), "{what}, {spare} left: {error}");
                check();
                last = Some(error);
            }
        }
    }
    panic!("{what}: needs 350 descriptors: {last:?}");
}

#[test]
fn there_are_no_more() {
    if !is_own_process("descriptors::there_are_no_more") {
        return;
    }
    let limit = Rlimit { current: Some(400), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let archive = docker_archive(&[(&Fixture::new(&["one", "two"]), &["app:1"])]);
    let file = dir.path().join("app.tar");
    fs::write(&file, archive).unwrap();

    let store = with_ever_more("opening a store", || Store::open(&path), || {});
    let image = Image::host(&store).unwrap();
    let is_clean = || {
        // By this program itself, as soon as it has descriptors again.
        for room in ["containers", "volumes", "tmp"] {
            eventually(&format!("something is left in {room}"), || count(path.join(room)) == 0);
        }
        assert!(nix::sys::wait::waitpid(None, None).is_err(), "no child is left");
    };
    // The first one also brings up the warden.
    let plain = sh(&image, "exit 3").mount(coracle::Mount::anonymous_volume("/v"));
    let out = with_ever_more("running a container", || plain.run(), is_clean);
    assert_eq!(out.status.code(), Some(3));
    is_clean();
    let lasting = sh(&image, "read line").stdin(Stdio::piped());
    let container = with_ever_more("starting a container", || lasting.start(), is_clean);
    let out = with_ever_more(
        "executing in a container",
        || container.exec(["sh", "-c", "exit 4"]).output(),
        || assert_eq!(container.try_wait().unwrap(), None),
    );
    assert_eq!(out.status.code(), Some(4));
    with_ever_more("seeing its processes", || container.top(), || {});
    with_ever_more("opening it again", || store.container(container.id()), || {});
    container.remove().unwrap();
    is_clean();
    let loaded = with_ever_more(
        "loading an image",
        || Image::load(&store, &file),
        || {
            is_clean();
            // A layer that was whole may stay, in no image's name.
            assert!(store.images().unwrap().is_empty());
            store.prune_images(false).unwrap();
            assert_eq!((count(path.join("blobs/sha256")), count(path.join("layers"))), (0, 0));
        },
    );
    assert_eq!(loaded.len(), 1);
    let created =
        with_ever_more("creating a container", || Container::builder(&loaded[0]).create(), is_clean);
    drop((created, loaded));
    let remove = || match store.force_remove_image("app:1") {
        // Its name went, and what it was made of has stayed.
        Err(error) if error.kind() == ErrorKind::NotFound => store.prune_images(false),
        other => other,
    };
    with_ever_more("removing an image", remove, || {});
    is_clean();
    assert_eq!((count(path.join("blobs/sha256")), count(path.join("layers"))), (0, 0));
}

/// More images than descriptors, as other tools put them into a layout: blobs alone, and what an index would list.
fn put_images(blobs: &Path) -> Vec<serde_json::Value> {
    let limit = Rlimit { current: Some(100), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut listed = Vec::new();
    for n in 0..IMAGES {
        for (name, data) in oci_members(&Fixture::new(&[&n.to_string()]), None, "", <[u8]>::to_vec) {
            if let Some(name) = name.strip_prefix("blobs/sha256/") {
                fs::write(blobs.join(name), data).unwrap();
            } else if name == "index.json" {
                let index: serde_json::Value = serde_json::from_slice(&data).unwrap();
                listed.push(index["manifests"][0].clone());
            }
        }
    }
    listed
}

const IMAGES: usize = 400;

/// Whatever there is too much of, it is removed with what descriptors there are.
#[test]
fn more_garbage_than_descriptors() {
    if !is_own_process("descriptors::more_garbage_than_descriptors") {
        return;
    }
    let store = Store::temp().unwrap();
    let blobs = store.path().join("blobs/sha256");
    let fill = || {
        put_images(&blobs);
        let size = |file: std::io::Result<fs::DirEntry>| file.unwrap().metadata().unwrap().len();
        fs::read_dir(&blobs).unwrap().map(size).sum::<u64>()
    };
    let load = || Image::load_reader(&store, &docker_archive(&[(&Fixture::new(&["one"]), &["app"])])[..]);

    let size = fill();
    assert_eq!(count(&blobs), 3 * IMAGES);
    assert_eq!(store.prune_images(false).unwrap().freed, size);
    assert_eq!(count(&blobs), 0);
    drop(load().unwrap());
    let size = fill();
    assert_eq!(store.remove_image("app").unwrap().freed, size);
    assert_eq!((count(&blobs), count(store.path().join("layers"))), (0, 0));
    // What is in use stays, and all of the rest goes.
    let kept = load().unwrap();
    let size = fill() - kept[0].size();
    assert_eq!(store.prune_images(false).unwrap().freed, size);
    assert_eq!(count(&blobs), 3);
}

/// A value of an image takes a descriptor. What gives few of them needs few.
#[test]
fn more_images_than_descriptors() {
    if !is_own_process("descriptors::more_images_than_descriptors") {
        return;
    }
    let store = Store::temp().unwrap();
    let blobs = store.path().join("blobs/sha256");
    let index = serde_json::json!({"schemaVersion": 2, "manifests": put_images(&blobs)});
    fs::write(store.path().join("index.json"), index.to_string()).unwrap();
    let error = store.images().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.remedy().unwrap_or_default().contains("ulimit -n"), "{error}");
    assert!(store.broken_images().unwrap().is_empty());
    let id = Fixture::new(&["7"]).id();
    let image = store.image(&id.to_string()).unwrap();
    assert_eq!(store.images_with_layer(&image.config().diff_ids()[0]).unwrap().len(), 1);
    assert_eq!(image.usage().unwrap().unique, image.size());
    assert!(image.ancestors().unwrap().is_empty());
    assert_eq!(store.prune_images(false).unwrap().deleted.len(), IMAGES - 1);
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(count(&blobs), 3);
}

/// Who else may need it can't be looked up without descriptors: it goes when there are some, and with no opening of the store.
#[test]
fn a_volume_goes_with_its_container_without_descriptors() {
    if !is_own_process("descriptors::a_volume_goes_with_its_container_without_descriptors") {
        return;
    }
    let image = host();
    let with_volume = || sh(&image, "true").mount(coracle::Mount::anonymous_volume("/v")).create().unwrap();
    let (removed, dropped) = (with_volume(), with_volume());
    let limit = Rlimit { current: Some(400), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut taken = Vec::with_capacity(1 << 10);
    while let Ok(file) = null() {
        taken.push(file);
    }
    let error = removed.remove().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    while let Ok(file) = null() {
        taken.push(file);
    }
    drop(dropped);
    drop(taken);
    for room in ["volumes", "containers", "tmp"] {
        let room = image.store().path().join(room);
        eventually(&format!("something is left in {}", room.display()), || count(&room) == 0);
    }
}
