//! Names, ids and removal.

use super::*;

#[test]
fn names_move_and_images_stay() {
    let store = Store::temp().unwrap();
    let (one, two) = (Fixture::new(&["one"]), Fixture::new(&["two"]));
    let first = load(&store, &docker_archive(&[(&one, &["app:1"])])).unwrap().remove(0);
    let second = load(&store, &docker_archive(&[(&two, &["app:1", "two"])])).unwrap().remove(0);
    assert_eq!(names(&first), Vec::<String>::new());
    assert_eq!(names(&second), ["app:1", "two:latest"]);
    assert_eq!(first.tag("docker.io/library/app:1").unwrap().familiar(), "app:1");
    assert_eq!((names(&first), names(&second)), (vec!["app:1".to_owned()], vec!["two:latest".to_owned()]));
    // By name in any form, by id, by its beginning, by digest.
    for name in [
        "app:1",
        "library/app:1",
        "docker.io/app:1",
        &first.id().to_string(),
        &first.id().hex(),
        &first.id().hex()[..12],
        &first.digest().hex()[..12],
        &format!("app@{}", first.digest()),
    ] {
        assert_eq!(store.image(name).unwrap().id(), first.id(), "{name}");
    }
    assert_eq!(store.image("two").unwrap().id(), second.id());
    for (name, kind) in [
        ("app", ErrorKind::NotFound),
        ("nope:1", ErrorKind::NotFound),
        ("App", ErrorKind::InvalidInput),
        ("", ErrorKind::InvalidInput),
        ("sha256:", ErrorKind::InvalidInput),
        (&format!("two@{}", first.digest()), ErrorKind::NotFound),
    ] {
        assert_eq!(store.image(name).unwrap_err().kind(), kind, "{name:?}");
    }
    assert_eq!(first.tag("Bad").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(first.tag(&format!("a@{}", first.digest())).unwrap_err().kind(), ErrorKind::InvalidInput);
    store.untag("two").unwrap();
    assert_eq!(store.untag("two").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.images().unwrap().len(), 2);
}

#[test]
fn ids_that_begin_alike_are_not_guessed() {
    let store = Store::temp().unwrap();
    for n in 0..17 {
        load(&store, &docker_archive(&[(&Fixture::new(&[&n.to_string()]), &[])])).unwrap();
    }
    let images = store.images().unwrap();
    assert_eq!(images.len(), 17);
    // Seventeen ids have sixteen first digits at most.
    let several = "0123456789abcdef".chars().filter(|digit| {
        store.image(&digit.to_string()).is_err_and(|error| error.kind() == ErrorKind::InvalidInput)
    });
    assert!(several.count() > 0);
    assert!(images.iter().all(|image| store.image(&image.id().hex()).unwrap().id() == image.id()));
}

#[test]
fn removal_is_dockers() {
    let store = Store::temp().unwrap();
    let (base, above) = (Fixture::new(&["base"]), Fixture::new(&["base", "above"]));
    let images =
        load(&store, &docker_archive(&[(&base, &["base:1", "base:2"]), (&above, &["above:1"])])).unwrap();
    drop(images);
    let layers = || count(store.path().join("layers"));
    // A name that is not the last one.
    let removed = store.remove_image("base:1").unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len(), removed.freed), (1, 0, 0));
    store.image("base:2").unwrap().tag("base:3").unwrap();
    // By id, with several names.
    assert_eq!(store.remove_image(&base.id().hex()).unwrap_err().kind(), ErrorKind::InUse);
    store.untag("base:3").unwrap();
    let removed = store.remove_image("base:2").unwrap();
    assert_eq!(removed.deleted, [base.id()]);
    assert!(removed.freed > 0);
    // The layer is still the other image's.
    assert_eq!(layers(), 2);
    assert_eq!(store.remove_image("base:2").unwrap_err().kind(), ErrorKind::NotFound);
    let removed = store.remove_image(&above.id().hex()[..10]).unwrap();
    assert_eq!((removed.deleted, removed.untagged[0].familiar()), (vec![above.id()], "above:1".to_owned()));
    assert_empty(&store);
    // Force.
    load(&store, &docker_archive(&[(&base, &["a", "b", "c"])])).unwrap();
    let removed = store.force_remove_image(&base.id().hex()).unwrap();
    assert_eq!(removed.untagged.len(), 3);
    assert_empty(&store);
}

#[test]
fn an_image_in_use_is_not_removed() {
    let store = Store::temp().unwrap();
    let image = load(&store, &docker_archive(&[(&Fixture::new(&["x"]), &["app"])])).unwrap().remove(0);
    let container = store.path().join("containers/c0ffee");
    fs::create_dir(&container).unwrap();
    let record = json!({"pins": {"image": image.digest()}}).to_string();
    fs::write(container.join("container.json"), record).unwrap();
    drop(image);
    let error = store.remove_image("app").unwrap_err();
    assert!(error.kind() == ErrorKind::InUse && error.to_string().contains("c0ffee"), "{error}");
    // By force it loses its names, not its content.
    store.force_remove_image("app").unwrap();
    assert!(store.images().unwrap().is_empty());
    assert_eq!((count(store.path().join("layers")), count(store.path().join("blobs/sha256"))), (1, 3));
    fs::remove_dir_all(&container).unwrap();
    store.prune_images(false).unwrap();
    assert_empty(&store);
}

#[test]
fn a_handle_keeps_what_was_removed() {
    let store = Store::temp().unwrap();
    let image = load(&store, &docker_archive(&[(&Fixture::new(&["x", "y"]), &["app"])])).unwrap().remove(0);
    let removed = Store::open(store.path()).unwrap().remove_image("app").unwrap();
    assert_eq!((removed.deleted, removed.freed), (vec![*image.id()], 0));
    assert!(store.images().unwrap().is_empty());
    assert_eq!(count(store.path().join("layers")), 2);
    assert_eq!(image.tag("back").unwrap().familiar(), "back:latest");
    store.untag("back").unwrap();
    let id = *image.id();
    drop(image);
    let pruned = store.prune_images(false).unwrap();
    assert!(pruned.deleted == [id] && pruned.freed > 0);
    assert_empty(&store);
}

/// Another tool's names may be none to docker.
#[test]
fn images_with_other_tools_names_are_not_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, nameless) = (Fixture::new(&["theirs"]), Fixture::new(&["nameless"]));
    write_layout(dir.path(), &oci_members(&theirs, Some("Release_A"), "+gzip", gzip));
    let store = Store::open(dir.path()).unwrap();
    load(&store, &docker_archive(&[(&nameless, &[])])).unwrap();
    assert_eq!(store.prune_images(false).unwrap().deleted, [nameless.id()]);
    assert_eq!(store.image(&theirs.id().hex()).unwrap().id(), &theirs.id());
    assert_eq!(store.images().unwrap().len(), 1);
}

/// What can't be read at the moment is not what can never be read.
#[test]
fn an_image_that_cannot_be_read_now_is_not_pruned() {
    let store = Store::temp().unwrap();
    let image = Fixture::new(&["x"]);
    let loaded = load(&store, &docker_archive(&[(&image, &[])])).unwrap().remove(0);
    let blob = store.path().join("blobs/sha256").join(image.id().hex());
    // Not below `tmp/`, which is swept.
    let aside = store.path().join("locks/aside");
    drop(loaded);
    // A socket can't be opened (ENXIO).
    fs::rename(&blob, &aside).unwrap();
    let short = store.path().join("s");
    let socket = std::os::unix::net::UnixListener::bind(&short).unwrap();
    fs::rename(short, &blob).unwrap();
    assert_eq!(store.prune_images(false).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(store.image(&image.id().hex()).unwrap_err().kind(), ErrorKind::Io);
    drop(socket);
    fs::remove_file(&blob).unwrap();
    fs::rename(&aside, &blob).unwrap();
    assert_eq!(store.image(&image.id().hex()).unwrap().id(), &image.id());
    assert_eq!(store.prune_images(false).unwrap().deleted, [image.id()]);
    assert_empty(&store);
}

#[test]
fn the_host_image_is_not_in_the_store() {
    let store = Store::temp().unwrap();
    let host = Image::host(&store).unwrap();
    assert!(host.is_host() && store.images().unwrap().is_empty());
    assert_eq!(host.tag("host").unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(host.expose("/root").is_ok());
    for bad in ["root", "", "/a/../b"] {
        assert_eq!(host.expose(bad).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let image = load(&store, &docker_archive(&[(&Fixture::new(&["x"]), &[])])).unwrap().remove(0);
    assert_eq!(image.expose("/root").unwrap_err().kind(), ErrorKind::InvalidInput);
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    shared(&host);
    shared(&store);
}
