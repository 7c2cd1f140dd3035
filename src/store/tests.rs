#![forbid(unsafe_code)]
use super::*;
use crate::digest::Digest;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

fn tmp_is_empty(store: &Store) -> bool {
    list(store.tmp_dir()).unwrap().is_empty()
}

#[test]
fn a_temporary_store_goes_with_its_last_handle() {
    let store = Store::temp().unwrap();
    let path = store.path().to_owned();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let other = store.clone();
    drop(store);
    assert!(path.join("index.json").exists());
    drop(other);
    assert!(!path.exists());
}

#[test]
fn a_directory_with_other_things_does_not_become_a_store() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter"), "x").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn opens_again_what_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/store");
    let digest = Store::open(&path).unwrap().put_blob(b"content").unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.read_blob_small(&digest, 100).unwrap(), b"content");
    assert_eq!(&store.map_blob(&digest).unwrap()[..], b"content");
    assert_eq!(store.read_blob_small(&digest, 3).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(store.open_blob(&Digest::of(b"other")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_blob_that_is_not_as_promised_is_not_published() {
    let store = Store::temp().unwrap();
    for promise in [(Digest::of(b"y"), 1), (Digest::of(b"x"), 2)] {
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"x").unwrap();
        assert_eq!(writer.finish(Some(promise)).unwrap_err().kind(), ErrorKind::Mismatch);
    }
    assert!(tmp_is_empty(&store));
    assert!(store.blobs().unwrap().is_empty());
}

#[test]
fn a_changed_blob_is_noticed() {
    let store = Store::temp().unwrap();
    let digest = store.put_blob(b"content").unwrap();
    std::fs::write(store.blob_path(&digest), "c0ntent").unwrap();
    assert_eq!(store.read_blob_small(&digest, 100).unwrap_err().kind(), ErrorKind::Mismatch);
}

#[test]
fn layers_are_published_once_and_leased() {
    let store = Store::temp().unwrap();
    let key = Digest::of(b"layer");
    let staged = |text: &str| {
        let staged = store.stage_layer().unwrap();
        std::fs::write(staged.path().join("file"), text).unwrap();
        staged
    };
    drop(staged("dropped"));
    assert!(tmp_is_empty(&store));
    let (first, second) = (staged("first"), staged("second"));
    let first = first.publish(&key, &"first").unwrap();
    let second = second.publish(&key, &"second").unwrap();
    for layer in [&first, &second] {
        assert_eq!(std::fs::read_to_string(layer.fs_path().join("file")).unwrap(), "first");
        assert_eq!(layer.meta::<String>().unwrap(), "first");
    }
    assert!(tmp_is_empty(&store));
    drop(first);
    let elsewhere = Store::open(store.path()).unwrap();
    assert_eq!(elsewhere.remove_layer(&key).unwrap_err().kind(), ErrorKind::InUse);
    drop(second);
    elsewhere.remove_layer(&key).unwrap();
    assert!(store.layer(&key).unwrap().is_none());
    assert!(tmp_is_empty(&store));
}

#[test]
fn sweeps_what_nobody_holds_and_nothing_else() {
    let store = Store::temp().unwrap();
    let held = store.stage_layer().unwrap();
    let mut blob = store.blob_writer().unwrap();
    blob.write_all(b"half").unwrap();
    let tmp = store.path().join("tmp");
    std::fs::create_dir_all(tmp.join("dead/fs/deep")).unwrap();
    std::fs::write(tmp.join("dead/fs/deep/file"), "x").unwrap();
    std::fs::set_permissions(tmp.join("dead/fs/deep"), PermissionsExt::from_mode(0o000)).unwrap();
    std::os::unix::fs::symlink("/etc", tmp.join("link")).unwrap();
    Store::open(store.path()).unwrap();
    assert_eq!(list(store.tmp_dir()).unwrap().len(), 2);
    assert!(held.path().exists());
    blob.finish(None).unwrap();
}

#[test]
fn removes_deep_trees_with_few_descriptors() {
    use std::os::fd::AsFd;
    let dir = tempfile::tempdir().unwrap();
    let top = std::fs::File::open(dir.path()).unwrap();
    let mut at: OwnedFd = top.try_clone().unwrap().into();
    for n in 0..1000 {
        for name in ["d", "side"] {
            rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o500 + 0o200 * u32::from(name == "d")))
                .unwrap();
        }
        rustix::fs::symlinkat("/", &at, "link").unwrap();
        at = open_dir(at.as_fd(), "d").unwrap();
        assert!(n < 1000);
    }
    remove_tree(top.as_fd(), "d").unwrap();
    remove_tree(top.as_fd(), "side").unwrap();
    remove_tree(top.as_fd(), "link").unwrap();
    remove_tree(top.as_fd(), "link").unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(std::path::Path::new("/etc").exists());
}

/// The time it takes grows with the tree, and no faster: a container may have left any tree.
#[test]
fn removes_wide_trees_below_deep_ones() {
    use std::os::fd::AsFd;
    // In memory, where that can be: a disk may take a minute.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let top = std::fs::File::open(dir.path()).unwrap();
    let mut at: OwnedFd = top.try_clone().unwrap().into();
    let make = |at: &OwnedFd, name: &str| rustix::fs::mkdirat(at, name, Mode::RWXU).unwrap();
    // The last that is not moved up itself, as all are that are below it.
    for _ in 0..64 {
        make(&at, "d");
        at = open_dir(at.as_fd(), "d").unwrap();
    }
    for n in 0..20_000 {
        make(&at, &n.to_string());
        make(&at, &format!("{n}/below"));
    }
    let spent = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = spent();
    remove_tree(top.as_fd(), "d").unwrap();
    // Minutes, if it looked for each new name from the first one on.
    let seconds = (spent() - before) / rustix::param::clock_ticks_per_second();
    assert!(seconds < 20, "{seconds} s");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn many_threads_open_one_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::thread::scope(|scope| {
        for n in 0..8u8 {
            let path = &path;
            scope.spawn(move || Store::open(path).unwrap().put_blob(&[n]).unwrap());
        }
    });
    let store = Store::open(&path).unwrap();
    assert_eq!(store.blobs().unwrap().len(), 8);
    assert!(tmp_is_empty(&store));
}

#[test]
fn ephemeral_containers_of_the_dead_are_swept() {
    let store = Store::temp().unwrap();
    let record = |ephemeral: bool| {
        let text = format!(r#"{{"id":"x","pins":{{"volumes":["v"]}},"ephemeral":{ephemeral}}}"#);
        move |dir: BorrowedFd<'_>| -> Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, pins::RECORD, flags, Mode::RUSR | Mode::WUSR).call("openat")?;
            std::io::Write::write_all(&mut std::fs::File::from(fd), text.as_bytes()).call("write")
        }
    };
    let make = |id: &str, ephemeral| store.new_container(id, record(ephemeral)).unwrap();
    let alive = make("alive", true);
    drop(make("dead", true));
    drop(make("kept", false));
    let turned = make("turned", true);
    record(false)(turned.as_fd()).unwrap();
    drop(turned);
    assert!(store.pins().unwrap().iter().all(|(_, pins)| pins.volumes == ["v"]));
    let taken = store.new_container("alive", record(true)).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    Store::open(store.path()).unwrap();
    let mut ids = list(store.containers_dir()).unwrap();
    ids.sort();
    assert_eq!(ids, ["alive", "kept", "turned"]);
    assert!(tmp_is_empty(&store));
    drop(alive);
}

/// What this process may not remove is left for whoever may.
#[test]
fn a_remover_helps_where_the_process_may_not() {
    struct Helper(std::sync::Arc<AtomicBool>);
    impl Remover for Helper {
        fn remove(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
            self.0.store(true, Ordering::Relaxed);
            rustix::fs::renameat(parent, name, rustix::fs::CWD, "/nonexistent").unwrap_err();
            remove_tree(parent, name)
        }
    }
    let called = std::sync::Arc::new(AtomicBool::new(false));
    let store = Store::temp().unwrap();
    if store.0.remover.get().is_some() {
        return; // an ordinary user's store has one from the beginning, see tests/owners.rs
    }
    store.0.unswept.store(true, Ordering::Relaxed);
    std::fs::create_dir(store.path().join("tmp/left")).unwrap();
    store.set_remover(Box::new(Helper(called.clone()))).unwrap();
    assert!(tmp_is_empty(&store));
    assert!(!called.load(Ordering::Relaxed), "it helps only where it has to");
}

#[test]
fn a_store_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("store");
    drop(Store::open(&path).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(Store::open(&path).unwrap_err().kind(), ErrorKind::PermissionDenied);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(Store::open(&path).unwrap());
    // Whose it is can be changed by root alone; a user finds others' directories.
    let other = match rustix::process::geteuid().is_root() {
        true => chown(&path, Some(1), Some(1)).map(|()| path.clone()).unwrap(),
        false => "/usr/bin".into(),
    };
    let error = Store::open(&other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("belongs to the user"), "{error}");
}

/// After a power failure a file may be empty that was written before its directory got its name.
#[test]
fn a_container_whose_record_did_not_reach_the_disk_is_swept() {
    let store = Store::temp().unwrap();
    let empty = |dir: BorrowedFd<'_>| -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        rustix::fs::openat(dir, pins::RECORD, flags, Mode::RUSR | Mode::WUSR).call("openat").map(drop)
    };
    let alive = store.new_container("alive", empty).unwrap();
    drop(store.new_container("cut", empty).unwrap());
    assert!(store.pins().unwrap().iter().all(|(_, pins)| *pins == Pins::default()));
    Store::open(store.path()).unwrap();
    assert_eq!(list(store.containers_dir()).unwrap(), ["alive"]);
    drop(alive);
}
