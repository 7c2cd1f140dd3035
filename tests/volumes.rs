//! Named and anonymous volumes, through the public interface.

mod common;

use common::*;
use coracle::{ErrorKind, Store, Volume};
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn create_opens_what_is_there() {
    let store = Store::temp().unwrap();
    let first = Volume::builder("site").label("a", "1").create(&store).unwrap();
    fs::write(first.path().join("file"), "content").unwrap();
    let second = Volume::builder("site").label("a", "2").create(&store).unwrap();
    assert_eq!(second.labels()["a"], "1");
    assert_eq!(second.created(), first.created());
    assert!(first.created().elapsed().unwrap().as_secs() < 60);
    assert_eq!(fs::read_to_string(second.path().join("file")).unwrap(), "content");
    assert_eq!(Volume::open(&store, "other").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn names_are_dockers() {
    let store = Store::temp().unwrap();
    for good in ["a", "A0", "my_volume-1.2", &"x".repeat(255)] {
        assert_eq!(Volume::create(&store, good).unwrap().name(), good);
    }
    for bad in ["", ".", "..", "-a", "_a", "a/b", "/etc", "a b", "ä", "a\0", &"x".repeat(256)] {
        assert_eq!(Volume::create(&store, bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        assert_eq!(Volume::open(&store, bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    assert_eq!(store.volumes().unwrap().len(), 4);
}

#[test]
fn anonymous_ones_are_pruned_and_named_ones_only_when_asked() {
    let store = Store::temp().unwrap();
    let anonymous = Volume::anonymous(&store).unwrap();
    assert!(anonymous.is_anonymous());
    assert!(anonymous.name().len() == 64 && anonymous.name().bytes().all(|b| b.is_ascii_hexdigit()));
    Volume::create(&store, "named").unwrap();
    assert_eq!(store.prune_volumes(false).unwrap(), [anonymous.name()]);
    assert_eq!(store.prune_volumes(false).unwrap(), Vec::<String>::new());
    assert_eq!(store.prune_volumes(true).unwrap(), ["named"]);
    assert!(store.volumes().unwrap().is_empty());
}

#[test]
fn size_counts_files_once_and_stays_beneath() {
    let store = Store::temp().unwrap();
    let volume = Volume::create(&store, "v1").unwrap();
    assert_eq!(volume.size().unwrap(), 0);
    let deep = volume.path().join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), [0; 1000]).unwrap();
    fs::hard_link(deep.join("file"), volume.path().join("again")).unwrap();
    std::os::unix::fs::symlink("/usr", volume.path().join("link")).unwrap();
    assert_eq!(volume.size().unwrap(), 1000);
}

/// A container can make deeper directories than any path is long.
#[test]
fn size_counts_whatever_is_how_deep() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let store = Store::temp().unwrap();
    let volume = Volume::create(&store, "deep").unwrap();
    let mut dir = std::os::fd::OwnedFd::from(fs::File::open(volume.path()).unwrap());
    for _ in 0..3000 {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        mkdirat(&dir, "e", Mode::RWXU).unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = openat(&dir, "e/file", flags, Mode::RUSR).unwrap();
        rustix::fs::ftruncate(file, 10).unwrap();
        dir = openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    assert_eq!(volume.size().unwrap(), 30_000);
    volume.remove().unwrap();
}

#[test]
fn outlives_its_handles_and_its_removal_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let data = Volume::create(&Store::open(&path).unwrap(), "kept").unwrap().path();
    fs::write(data.join("file"), "x").unwrap();
    let store = Store::open(&path).unwrap();
    let volume = Volume::open(&store, "kept").unwrap();
    volume.remove().unwrap();
    assert!(!data.exists());
    assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0);
    assert_eq!(volume.remove().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(Volume::create(&store, "kept").unwrap().size().unwrap() == 0);
}

#[test]
fn many_threads_make_one_volume() {
    let store = Store::temp().unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || {
                let volume = Volume::create(store, "one").unwrap();
                fs::write(volume.path().join(n.to_string()), "x").unwrap();
            });
        }
    });
    assert_eq!(Volume::open(&store, "one").unwrap().size().unwrap(), 8);
    assert_eq!(store.volumes().unwrap().len(), 1);
}

/// Between fork and exec a program that is being started has a copy of every descriptor, and so holds every lock.
#[test]
fn a_volume_is_free_at_once_although_programs_are_started() {
    let store = Store::temp().unwrap();
    let image = coracle::Image::host(&store).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(std::process::Command::new("true").status().unwrap().success());
                }
            });
        }
        let removed = (0..100).try_for_each(|_| {
            let volume = Volume::create(&store, "site")?;
            let container = coracle::Container::builder(&image).volume(&volume, "/mnt").create()?;
            container.remove()?;
            volume.remove()
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        removed.unwrap();
    });
}

/// Container root writes as the caller, whatever the container's ids are; another one's files are another's, also on the host.
#[test]
fn on_the_host_a_containers_root_is_the_caller() {
    let image = host();
    let volume = Volume::create(image.store(), "data").unwrap();
    let mounts = |script: &str| sh(&image, script).volume(&volume, "/v");
    let owner = |name: &str| {
        let found = fs::metadata(volume.path().join(name)).unwrap();
        (found.uid(), found.gid())
    };
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    say(&mounts("chmod 1777 /v; echo of root >/v/root"));
    assert_eq!((owner("."), owner("root")), (me, me));
    // What the caller puts there is container root's.
    fs::write(volume.path().join("callers"), "x").unwrap();
    assert_eq!(say(&mounts("stat -c %u:%g /v /v/root /v/callers")), "0:0\n0:0\n0:0");
    let probe = ready(&mounts("echo ready; exec sleep 1000"));
    if is_single(&probe) {
        assert_eq!(mounts("true").user("33:34").run().unwrap_err().kind(), ErrorKind::Unsupported);
        return;
    }
    // As root a volume keeps the container's own numbers, as docker's do; a user has only his range for others.
    let on_host = |kind: &str, id: u32| {
        if is_root() {
            return id;
        }
        let map = fs::read_to_string(format!("/proc/{}/{kind}_map", probe.pid().unwrap())).unwrap();
        // user_namespaces(7): inside, outside, how many.
        let lines = map.lines().map(|line| line.split_whitespace().map(|word| word.parse::<u32>().unwrap()));
        let mut found = lines.map(|mut words| [(); 3].map(|()| words.next().unwrap()));
        let [inside, outside, _] =
            found.find(|[from, _, count]| (*from..from + count).contains(&id)).unwrap();
        assert_ne!(outside, 0, "{map}");
        outside + (id - inside)
    };
    say(&mounts("echo of 33 >/v/33").user("33:34"));
    assert_eq!(owner("33"), (on_host("uid", 33), on_host("gid", 34)));
    // Each container has a range of its own, and sees them as the first did.
    assert_eq!(say(&mounts("stat -c %u:%g /v/33")), "33:34");
}
