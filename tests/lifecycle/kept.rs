//! What changes between two uses of a container that is kept: the machine, the program's place, the library.
use super::*;
use coracle::{Device, Mount};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A container that has said something to a file, and exits with how often it has.
const COUNTS: &str = "echo x >>/srv/count; exit $(wc -l </srv/count)";

fn dir_of(store: &Store, id: &str) -> PathBuf {
    store.path().join("containers").join(id)
}

fn ends_with(container: &Container, code: i32) {
    container.start().unwrap();
    assert_eq!(container.wait().unwrap().code(), Some(code));
}

/// The file that says where it runs is not synced: it may be there and have nothing in it.
#[test]
fn one_that_ran_when_the_power_failed_is_opened_started_and_removed() {
    let image = host();
    let store = image.store();
    let container = sh(&image, COUNTS).name("box").start().unwrap();
    assert_eq!(container.wait().unwrap().code(), Some(1));
    let running = dir_of(store, container.id()).join("running.json");
    container.keep().unwrap();
    for (round, left) in ["", "{\"pid\":12,\"name", "\0\0\0\0\0\0\0\0"].into_iter().enumerate() {
        fs::write(&running, left).unwrap();
        let container = Store::open(store.path()).unwrap().container("box").unwrap();
        assert_eq!(container.state(), State::Exited, "{left:?}");
        ends_with(&container, 2 + round as i32);
    }
    fs::write(&running, "").unwrap();
    assert!(store.broken_containers().unwrap().is_empty() && store.verify().unwrap().is_sound());
    store.container("box").unwrap().remove().unwrap();
    // What was not cut short but is not understood may be about what runs.
    let other = sh(&image, "true").name("box").create().unwrap();
    fs::write(dir_of(store, other.id()).join("running.json"), "[1, 2]").unwrap();
    assert_eq!(store.container("box").unwrap_err().kind(), ErrorKind::InvalidData);
}

/// Whoever starts it may be in another directory.
#[test]
fn a_relative_source_is_that_of_where_the_container_was_made() {
    if !is_own_process("kept::a_relative_source_is_that_of_where_the_container_was_made") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    for name in ["here", "there"] {
        fs::create_dir_all(temp.path().join(name).join("data")).unwrap();
        fs::write(temp.path().join(name).join("data/file"), name).unwrap();
    }
    let image = host();
    let store = image.store();
    std::env::set_current_dir(temp.path().join("here")).unwrap();
    let bound = sh(&image, "cat /bound/file").mount(Mount::bind("data", "/bound"));
    bound.name("bound").create().unwrap().keep().unwrap();
    std::env::set_current_dir("/dev").unwrap();
    let device = sh(&image, "test -c /dev/nothing").device(Device::new("zero").at("/dev/nothing"));
    device.name("device").create().unwrap().keep().unwrap();
    for other in ["there", "."] {
        std::env::set_current_dir(temp.path().join(other)).unwrap();
        let container = store.container("bound").unwrap();
        ends_with(&container, 0);
        assert_eq!(container.logs(Stream::Stdout).unwrap(), b"here");
        ends_with(&store.container("device").unwrap(), 0);
    }
}

/// A disk may have room again.
#[test]
fn what_could_not_be_kept_is_there_to_be_kept() {
    let image = host();
    let store = image.store();
    let make = || {
        let container = sh(&image, COUNTS).start().unwrap();
        assert_eq!(container.wait().unwrap().code(), Some(1));
        let id = container.id().to_owned();
        // What the record is written to first.
        let in_the_way = dir_of(store, &id).join("container.json.new");
        fs::create_dir(&in_the_way).unwrap();
        let error = container.keep().unwrap_err();
        assert_eq!(error.path(), Some(&*in_the_way), "{error}");
        assert!(error.to_string().contains(&id), "{error}");
        (id, in_the_way)
    };
    let (id, in_the_way) = make();
    let again = store.container(&id).unwrap();
    // While somebody has it open it is not swept.
    drop(Store::open(store.path()).unwrap());
    fs::remove_dir(&in_the_way).unwrap();
    again.keep().unwrap();
    drop(Store::open(store.path()).unwrap());
    ends_with(&store.container(&id).unwrap(), 2);
    store.container(&id).unwrap().remove().unwrap();
    // Nobody came back for that one.
    let (id, _) = make();
    // Its thread may have it open for a moment more.
    eventually("it is swept", || {
        drop(Store::open(store.path()).unwrap());
        !dir_of(store, &id).exists()
    });
    assert_eq!(count(store.path().join("containers")), 0);
}

#[test]
fn what_an_older_handle_keeps_is_what_others_have_made_of_it() {
    let image = host();
    let store = image.store();
    sh(&image, COUNTS).name("box").create().unwrap().keep().unwrap();
    let old = store.container("box").unwrap();
    ends_with(&store.container("box").unwrap(), 1);
    old.keep().unwrap();
    let container = store.container("box").unwrap();
    assert_eq!((container.state(), container.wait().unwrap().code()), (State::Exited, Some(1)));
    // Nor does the maker's handle remove what another one has been told is kept.
    let made = sh(&image, "true").name("made").create().unwrap();
    let error = store.container("made").unwrap().keep().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    drop(made);
    assert_eq!(store.container("made").unwrap_err().kind(), ErrorKind::NotFound);
}

fn change(record: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    change(&mut value);
    fs::write(record, value.to_string()).unwrap();
}

/// A setting's name, and what asks for it.
type Later = (&'static str, fn(&mut Value));

/// Nothing is enforced less than asked, also by a library that is older than the record.
#[test]
fn a_setting_of_a_later_version_is_not_left_out() {
    let image = host();
    let store = image.store();
    let asked: [Later; 4] = [
        ("sandbox", |spec| spec["sandbox"] = json!({"level": 3})),
        ("limits.gpu_max", |spec| spec["limits"]["gpu_max"] = json!(1)),
        ("mounts.no_symlinks", |spec| spec["mounts"][0]["no_symlinks"] = json!(true)),
        ("files.encrypted", |spec| spec["files"][1]["encrypted"] = json!("yes")),
    ];
    for (name, ask) in asked {
        let builder = sh(&image, "true").name("box").tmpfs("/t").file("/srv/a", "a").file("/srv/b", "b");
        let container = builder.create().unwrap();
        let record = dir_of(store, container.id()).join("container.json");
        container.keep().unwrap();
        change(&record, |value| ask(&mut value["spec"]));
        let container = store.container("box").unwrap();
        let error = container.start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&format!("{name:?}")) && error.remedy().is_some(), "{error}");
        container.remove().unwrap();
    }
    // What asks for nothing, and what is missing, as an earlier version has it.
    let container = sh(&image, "true").name("box").create().unwrap();
    let record = dir_of(store, container.id()).join("container.json");
    container.keep().unwrap();
    change(&record, |value| {
        for name in ["project", "exited", "rooms", "seat"] {
            value.as_object_mut().unwrap().remove(name);
        }
        let spec = value["spec"].as_object_mut().unwrap();
        for name in ["landlock", "levels", "start_timeout", "pids_unlimited"] {
            assert!(spec.remove(name).is_some(), "{name}");
        }
        for (name, nothing) in [("a", json!(null)), ("b", json!(false)), ("c", json!([])), ("d", json!({}))] {
            spec.insert(name.into(), nothing);
        }
    });
    ends_with(&store.container("box").unwrap(), 0);
}

/// As rsync and tar make one where nobody tells them otherwise: what a layer has emptied would have something in it again.
#[test]
fn a_copy_without_extended_attributes_is_noticed() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (path, copied) = (dir.path().join("store"), dir.path().join("copy"));
    let store = Store::open(&path).unwrap();
    let below = common::tar([("dir/", Node::Dir), ("dir/secret", Node::File(b"removed"))]);
    let above = common::tar([
        ("dir/", Node::Dir),
        ("dir/.wh..wh..opq", Node::File(b"")),
        ("dir/new", Node::File(b"new")),
    ]);
    let archive = docker_archive(&[(&Fixture::of(vec![below, above]), &["app:1"])]);
    let image = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
    sh(&Image::host(&store).unwrap(), "true").name("box").create().unwrap().keep().unwrap();
    drop((image, store));
    let looks = |store: &Path| {
        let store = Store::open(store).unwrap();
        let image = store.image("app:1").unwrap();
        assert_eq!(image.open("/dir/secret").err().map(|error| error.kind()), Some(ErrorKind::NotFound));
        assert!(image.open("/dir/new").is_ok());
        store.container("box").unwrap()
    };
    for (flags, is_whole) in [("-a", true), ("-a --no-preserve=xattr", false)] {
        let words = flags.split(' ').map(Into::into).chain([path.clone(), copied.clone()]);
        peer("cp", words);
        let container = looks(&copied);
        if is_whole {
            ends_with(&container, 0);
        } else {
            let error = container.start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::State, "{error}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("--xattrs")), "{error}");
            // As the remedy has it for who has no other copy.
            let own = dir_of(&Store::open(&copied).unwrap(), container.id());
            let record: Value =
                serde_json::from_slice(&fs::read(own.join("container.json")).unwrap()).unwrap();
            let name = record["attribute"].as_str().unwrap();
            rustix::fs::setxattr(&own, name, b"1", rustix::fs::XattrFlags::empty()).unwrap();
            ends_with(&container, 0);
        }
        container.remove().unwrap();
        fs::remove_dir_all(&copied).unwrap();
    }
}

/// As a program leaves it that is killed between the making of a control group and the writing down.
#[test]
#[ignore = "needs root and writable cgroups: makes the groups of a container"]
fn a_start_that_was_killed_keeps_nobody_from_the_next() {
    let image = host();
    let store = image.store();
    let container =
        sh(&image, "echo ready; exec sleep 1000").memory_max(64 << 20).name("box").create().unwrap();
    let running = dir_of(store, container.id()).join("running.json");
    container.keep().unwrap();
    let container = store.container("box").unwrap();
    container.start().unwrap();
    let running: Value = serde_json::from_slice(&fs::read(running).unwrap()).unwrap();
    let groups: Vec<PathBuf> = serde_json::from_value(running["cgroups"].clone()).unwrap();
    assert!(!groups.is_empty());
    container.kill(Signal::SIGKILL).unwrap();
    container.wait().unwrap();
    assert_eq!(cgroups_with(container.id()), Vec::<PathBuf>::new());
    groups.iter().for_each(|group| fs::create_dir_all(group).unwrap());
    container.start().unwrap();
    assert_eq!(container.state(), State::Running);
    container.remove().unwrap();
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

const STORE: &str = "CORACLE_TEST_STORE";

/// Not a test when run by itself: what is traced.
#[test]
fn one_is_kept() {
    let Some(dir) = std::env::var_os(STORE) else { return };
    let image = Image::host(&Store::open(dir).unwrap()).unwrap();
    let container = sh(&image, "echo kept >/srv/note").start().unwrap();
    assert!(container.wait().unwrap().success());
    container.keep().unwrap();
}

/// What `keep` has said is so after a power failure: else the next opening would sweep it away as nobody's.
#[test]
#[ignore = "needs root and strace: under a user's own trace newuidmap is not set-user-id"]
fn what_is_kept_is_on_the_disk() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = dir.path().join("store");
    let log = dir.path().join("log");
    let mut strace = std::process::Command::new("strace");
    strace
        .args(["-f", "-qq", "-y", "-e", "trace=openat,fsync,fdatasync,syncfs,renameat,renameat2", "-o"])
        .arg(&log);
    strace.arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "kept::one_is_kept", "--test-threads=1"]).env(STORE, &path);
    passes(strace);
    let store = Store::open(&path).unwrap();
    let kept = store.containers().unwrap().remove(0);
    let calls = fs::read_to_string(log).unwrap();
    let calls: Vec<_> = calls.lines().collect();
    let last = |what: &dyn Fn(&str) -> bool, name: &str| {
        calls.iter().rposition(|call| what(call)).unwrap_or_else(|| panic!("{name}: {calls:#?}"))
    };
    let name = format!("names/{}", kept.name());
    let named = last(&|call| call.contains("O_EXCL") && call.contains(&name), "its name");
    let synced = last(&|call| call.contains("syncfs"), "what it has written");
    let renamed = last(&|call| call.contains("rename") && call.contains("container.json"), "its record");
    let own = format!("containers/{}>", kept.id());
    let whole = last(&|call| call.contains("fsync(") && call.contains(&own), "the record's name");
    assert!(named < synced && synced < renamed && renamed < whole, "{calls:#?}");
}
