//! Several threads and programs at once, and dead ones.

use super::*;

#[test]
fn many_threads_load_and_remove_at_once() {
    let store = Store::temp().unwrap();
    let shared = Fixture::new(&["one", "two"]);
    let archive = gzip(&docker_archive(&[(&shared, &["app"])]));
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (store, archive, shared) = (&store, &archive, &shared);
            scope.spawn(move || {
                for round in 0..5 {
                    assert_eq!(load(store, archive).unwrap()[0].id(), &shared.id());
                    let own = Fixture::new(&["one", &format!("{n} {round}")]);
                    let name = format!("own{n}");
                    let image = load(store, &docker_archive(&[(&own, &[&name])])).unwrap().remove(0);
                    assert_eq!(store.image(&name).unwrap().id(), image.id());
                    drop(image);
                    assert_eq!(store.remove_image(&name).unwrap().deleted, [own.id()]);
                }
            });
        }
    });
    assert_eq!(names(&store.image("app").unwrap()), ["app:latest"]);
    store.prune_images(false).unwrap();
    assert_eq!(
        (store.images().unwrap().len(), count(store.path().join("layers")), count(store.path().join("tmp"))),
        (1, 2, 0)
    );
}

/// A value of an image keeps it until its name does: there is no moment in between at which it could be collected.
#[test]
fn what_gets_a_name_while_others_prune_is_there() {
    let store = Store::temp().unwrap();
    let base = load(&store, &docker_archive(&[(&Fixture::new(&["one"]), &["base"])])).unwrap().remove(0);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    store.prune_images(false).unwrap();
                }
            });
        }
        // Whatever comes out, the others end.
        let ids: Vec<_> = (0..300)
            .map(|n| -> coracle::Result<_> {
                let image = base.with_env("N", n.to_string())?;
                image.tag("kept")?;
                let id = *image.id();
                drop(image);
                Ok((id, *store.image("kept")?.id()))
            })
            .collect();
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        for (n, ids) in ids.into_iter().enumerate() {
            let (made, found) = ids.unwrap_or_else(|error| panic!("{n}: {error}"));
            assert_eq!(made, found);
        }
    });
    store.prune_images(false).unwrap();
    assert_eq!(count(store.path().join("blobs/sha256")), 5);
}

/// A process of its own for the tests below; in a plain run it has nothing to do.
#[test]
fn child_process() {
    let Some(path) = std::env::var_os("CORACLE_TEST_STORE") else { return };
    match std::env::var("CORACLE_TEST_DO").as_deref() {
        Ok("load") => {
            let store = Store::open(path).unwrap();
            let mut archive = Vec::new();
            std::io::stdin().read_to_end(&mut archive).unwrap();
            load(&store, &archive).unwrap();
        }
        Ok("import") => {
            let store = Store::open(path).unwrap();
            Import::new().reader(&store, std::io::stdin()).unwrap();
        }
        Ok("temp") => {
            let store = Store::temp().unwrap();
            fs::write(path, store.path().to_str().unwrap()).unwrap();
            println!("ready");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
        other => panic!("{other:?}"),
    }
}

fn spawn(what: &str, path: &Path) -> std::process::Child {
    let vars = [("CORACLE_TEST_STORE", path.as_os_str()), ("CORACLE_TEST_DO", OsStr::new(what))];
    child("together::child_process", &vars)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn many_processes_load_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let image = Fixture::new(&["one", "two"]);
    let archive = docker_archive(&[(&image, &["app"])]);
    let mut children: Vec<_> = (0..6).map(|_| spawn("load", &path)).collect();
    for child in &mut children {
        child.stdin.take().unwrap().write_all(&archive).unwrap();
    }
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.image("app").unwrap().id(), &image.id());
    assert_eq!(
        (count(path.join("layers")), count(path.join("blobs/sha256")), count(path.join("tmp"))),
        (2, 4, 0)
    );
}

/// Waits for something to become true.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_killed_program_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(Store::open(&path).unwrap());
    let rootfs = tar([("a", Node::File(&vec![7; 8 << 20])), ("b", Node::File(b"x"))]);
    let mut child = spawn("import", &path);
    // More than any buffer in between, and never the end.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&rootfs[..6 << 20]).unwrap();
    until("half-made content", || count(path.join("tmp")) > 0);
    let living = Store::open(&path).unwrap();
    assert!(count(path.join("tmp")) > 0, "what a living program makes is not swept");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(count(path.join("tmp")) > 0);
    let store = Store::open(&path).unwrap();
    assert_empty(&store);
    assert!(living.images().unwrap().is_empty());
}

#[test]
fn a_temporary_store_of_a_killed_program_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    if std::env::var_os(ROLE).is_none() {
        // Where no other program makes temporary stores, and sweeps.
        let name = "together::a_temporary_store_of_a_killed_program_is_swept";
        return again(name, &["env"], &[("TMPDIR", dir.path())]);
    }
    let file = dir.path().join("path");
    let mut child = spawn("temp", &file);
    let stdin = child.stdin.take();
    until("the store", || {
        fs::read_to_string(&file).is_ok_and(|path| Path::new(&path).join("index.json").exists())
    });
    let theirs = fs::read_to_string(&file).unwrap();
    let _ours = Store::temp().unwrap();
    assert!(Path::new(&theirs).exists(), "a living program's store is not swept");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    assert!(Path::new(&theirs).exists());
    let _ours = Store::temp().unwrap();
    until("the sweep", || !Path::new(&theirs).exists());
}

#[test]
fn what_is_in_use_anywhere_is_not_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let take = |text: &str, names: &[&str]| {
        load(&store, &docker_archive(&[(&Fixture::new(&[text]), names)])).unwrap().remove(0)
    };
    let (open, named, nameless) =
        (take("open", &[]), take("named", &["named", "too"]), take("nameless", &[]));
    let pinned = take("pinned", &["pinned"]);
    // As a container's record pins it, whose program is not there.
    let container = path.join("containers/0123456789abcdef");
    fs::create_dir(&container).unwrap();
    let record = json!({"pins": {"image": pinned.digest()}}).to_string();
    fs::write(container.join("container.json"), record).unwrap();
    let ids = [*named.id(), *nameless.id(), *pinned.id()];
    let sizes = [named.size(), nameless.size()];
    drop((named, nameless, pinned));

    let removed = store.prune_images(false).unwrap();
    assert_eq!((removed.deleted, removed.freed), (vec![ids[1]], sizes[1]));
    assert!(removed.untagged.is_empty());
    let removed = store.prune_images_if(true, |image| image.id() != &ids[0]).unwrap();
    assert_eq!(removed, coracle::Removed::default());
    // Whoever is asked may use the store; what gets a name meanwhile stays.
    let removed = store.prune_images_if(true, |image| {
        if image.id() == &ids[0] {
            image.tag("meanwhile").unwrap();
        }
        true
    });
    assert_eq!(removed.unwrap(), coracle::Removed::default());
    store.untag("meanwhile").unwrap();
    let removed = store.prune_images(true).unwrap();
    assert_eq!((removed.deleted, removed.freed), (vec![ids[0]], sizes[0]));
    let untagged: Vec<_> = removed.untagged.iter().map(|name| name.familiar()).collect();
    assert_eq!(untagged, ["named:latest", "too:latest"]);
    assert_eq!(store.images().unwrap().len(), 2);
    fs::remove_dir_all(&container).unwrap();
    drop(open);
    assert_eq!(store.prune_images(true).unwrap().deleted.len(), 2);
    assert_empty(&store);
}

#[test]
fn what_another_process_brings_in_is_not_collected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let old = load(&store, &docker_archive(&[(&Fixture::new(&["old"]), &["old"])])).unwrap().remove(0);
    let (id, size) = (*old.id(), old.size());
    drop(old);
    let rootfs = tar([("a", Node::File(&vec![7; 8 << 20])), ("b", Node::File(b"x"))]);
    let mut child = spawn("import", &path);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&rootfs[..6 << 20]).unwrap();
    until("half-made content", || count(path.join("tmp")) > 0);
    // The image goes, its content when nobody writes.
    let removed = store.prune_images(true).unwrap();
    assert_eq!((removed.deleted, removed.freed), (vec![id], 0));
    assert!(count(path.join("tmp")) > 0);
    stdin.write_all(&rootfs[6 << 20..]).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let images = store.images().unwrap();
    assert_eq!((images.len(), images[0].config().diff_ids()), (1, &[Digest::of(&rootfs)][..]));
    assert!(store.verify().unwrap().is_sound());
    assert_eq!(store.prune_images(true).unwrap(), {
        let mut nothing = coracle::Removed::default();
        nothing.freed = size;
        nothing
    });
    drop(images);
    assert_eq!(store.prune_images(false).unwrap().deleted.len(), 1);
    assert_empty(&store);
}
