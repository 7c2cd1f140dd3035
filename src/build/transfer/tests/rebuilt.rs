//! What is read again, and what is not.

use super::*;
use rustix::time::{ClockId, clock_gettime};

/// Waits until the kernel's clock has ticked on, so that what was written is known to be old.
fn settle() {
    let now = || clock_gettime(ClockId::RealtimeCoarse);
    let start = now();
    while (now().tv_sec - start.tv_sec) * 1_000_000_000 + now().tv_nsec - start.tv_nsec < 150_000_000 {
        std::thread::yield_now();
    }
}

/// Which files were opened for reading, by their access times: those that were not are of 1970.
fn forget_access(path: &Path) {
    let file = fs::File::open(path).unwrap();
    let times = fs::FileTimes::new().set_accessed(UNIX_EPOCH);
    file.set_times(times).unwrap();
}

/// Content that can't be read is not needed: as an ordinary user a file without permissions would be refused, and as root the
/// same is seen by what the store knows.
#[test]
fn files_that_did_not_change_are_known() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "a =1 | d/b =2 | d/c =3");
    forget_access(&dir.path().join("a"));
    settle();
    let transfer = instruction("COPY . /", "/");
    let unknown = |context: &Context| {
        context
            .with(|tree| {
                let mut unknown = 0;
                select::walk(tree, b"", &Filter::default(), &mut |_, _, _, item, _| {
                    if let Content::Disk(file) = &item.content {
                        unknown += usize::from(file.known().is_none());
                    }
                    Ok(())
                })?;
                Ok(unknown)
            })
            .unwrap()
    };
    let build = || {
        let context = Context::dir(&store, dir.path()).unwrap();
        let unknown = unknown(&context);
        let digest = transfer.digest(&store, From::Context(&context)).unwrap();
        context.save().unwrap();
        (unknown, digest)
    };
    let (unknown_first, first) = build();
    assert_eq!(unknown_first, 3);
    assert_eq!(build(), (0, first));
    // Another content of the same length, with the time set back.
    let path = dir.path().join("d/b");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "X").unwrap();
    fs::File::open(&path).unwrap().set_modified(time).unwrap();
    settle();
    let (unknown_then, second) = build();
    assert_eq!(unknown_then, 1);
    assert_ne!(second, first);
    assert_eq!(build(), (0, second));
    // One that has the place of another, and a mode alone.
    fs::rename(dir.path().join("d/c"), dir.path().join("a")).unwrap();
    settle();
    let (unknown_then, third) = build();
    assert!(unknown_then == 1 && third != second);
    fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    settle();
    assert_ne!(build().1, third);
}

/// Within a tick two contents may have one time: what was read so soon is not trusted.
#[test]
fn what_changed_just_now_is_read_again() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut digests = std::collections::BTreeSet::new();
    for round in 0..50 {
        make(dir.path(), &format!("a ={:02}", round));
        let context = Context::dir(&store, dir.path()).unwrap();
        let digest = instruction("COPY a /", "/").digest(&store, From::Context(&context)).unwrap();
        drop(context);
        assert!(digests.insert(digest.to_string()), "round {round} has the content of another");
    }
}

#[test]
fn what_is_known_may_be_lost_or_broken() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "a =1 | b =2");
    settle();
    let digest = || {
        let context = Context::dir(&store, dir.path()).unwrap();
        instruction("COPY . /", "/").digest(&store, From::Context(&context)).unwrap()
    };
    let first = digest();
    let kept = fs::read_dir(store.path().join("contexts")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&kept).unwrap();
    for at in [0, 8, 16, 30, 80, whole.len() - 1] {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        fs::write(&kept, &broken).unwrap();
        assert_eq!(digest(), first, "byte {at}");
    }
    for length in [0, 5, 23, 24, whole.len() - 1] {
        fs::write(&kept, &whole[..length]).unwrap();
        assert_eq!(digest(), first, "{length} bytes");
    }
    fs::remove_dir_all(store.path().join("contexts")).unwrap();
    assert_eq!(digest(), first);
}

/// The layer has what the digest is of, or none is made.
/// Its digest is of what is copied then, whatever becomes of the file in between.
#[test]
fn a_file_is_read_once() {
    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "a =1 | d/b =2");
    let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    for name in ["a", "d/b"] {
        add_watch(&watch, dir.path().join(name), WatchFlags::OPEN).unwrap();
    }
    let opened = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&watch, &mut buffer);
        std::iter::from_fn(|| reader.next().map(drop).ok()).count()
    };
    let transfer = instruction("COPY . /", "/");
    let context = Context::dir(&store, dir.path()).unwrap();
    let digest = transfer.digest(&store, From::Context(&context)).unwrap();
    let layer = transfer.layer(&store, From::Context(&context), None).unwrap();
    assert_eq!(opened(), 2);
    // It was let go of, and is read for a second copy.
    assert_eq!(transfer.layer(&store, From::Context(&context), None).unwrap().diff_id(), layer.diff_id());
    assert_eq!(opened(), 2);

    let context = Context::dir(&store, dir.path()).unwrap();
    assert_eq!(transfer.digest(&store, From::Context(&context)).unwrap(), digest);
    fs::write(dir.path().join("a"), "3").unwrap();
    fs::remove_file(dir.path().join("d/b")).unwrap();
    assert_eq!(transfer.layer(&store, From::Context(&context), None).unwrap().diff_id(), layer.diff_id());
}

#[test]
fn a_file_that_changes_after_its_digest_makes_no_layer() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "a =1 | b =2");
    // More than is held in memory meanwhile.
    fs::File::options().write(true).open(dir.path().join("a")).unwrap().set_len(33 << 20).unwrap();
    settle();
    let context = Context::dir(&store, dir.path()).unwrap();
    let transfer = instruction("COPY . /", "/");
    transfer.digest(&store, From::Context(&context)).unwrap();
    fs::write(dir.path().join("a"), "3").unwrap();
    let error = transfer.layer(&store, From::Context(&context), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    fs::remove_file(dir.path().join("a")).unwrap();
    assert_eq!(transfer.layer(&store, From::Context(&context), None).unwrap_err().kind(), ErrorKind::InUse);
    // What was listed once stays for all steps.
    fs::write(dir.path().join("new"), "4").unwrap();
    assert_eq!(
        instruction("COPY new /", "/").digest(&store, From::Context(&context)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}
