//! Files that belong to others than the container's root: an ordinary user's container may make them, and they go
//! as all others do.

mod common;

use common::eventually;
use coracle::{Container, Image, Store, Volume};
use std::path::Path;

/// What a container may leave: directories of other users that nobody else may enter, deep ones, odd modes.
const LEAVE: &str = "set -e; cd $1; mkdir -p a/b/c; echo x > a/b/c/f; mkdir locked; chmod 0 locked; \
    i=0; while [ $i -lt 100 ]; do mkdir d; cd d; i=$((i+1)); done; echo deep > f; cd $1; \
    if chown 33:33 a 2>/dev/null; then chown -R 33:44 a d locked; fi; chmod -R go= a d";

fn leave(image: &Image, volume: &Volume) -> Container {
    let container = Container::builder(image).command(["sh", "-c", LEAVE, "sh", "/srv"]).start().unwrap();
    assert!(
        container.wait().unwrap().success(),
        "{}",
        String::from_utf8_lossy(&container.logs(coracle::Stream::Stderr).unwrap())
    );
    let out = Container::builder(image)
        .command(["sh", "-c", LEAVE, "sh", "/v"])
        .volume(volume, "/v")
        .run()
        .unwrap();
    assert!(out.status.success(), "{}", out.stderr_text());
    container
}

fn names(path: &Path) -> Vec<String> {
    let names = path.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn what_others_own_is_removed() {
    let store = Store::temp().unwrap();
    let image = Image::host(&store).unwrap();
    let volume = Volume::create(&store, "v").unwrap();
    let container = leave(&image, &volume);
    let again = Container::builder(&image)
        .command(["sh", "-c", "cat /v/a/b/c/f; stat -c %u /v/a"])
        .volume(&volume, "/v")
        .run()
        .unwrap();
    assert!(again.stdout_text().starts_with("x\n"), "{}{}", again.stdout_text(), again.stderr_text());
    container.remove().unwrap();
    volume.remove().unwrap();
    for room in ["containers", "volumes", "tmp"] {
        assert!(names(&store.path().join(room)).is_empty(), "{room}: {:?}", names(&store.path().join(room)));
    }
    let path = store.path().to_owned();
    drop((image, volume, store));
    // What watched its containers may have it a moment longer.
    eventually("the store goes", || !path.exists());
}

#[test]
fn a_temporary_store_goes_with_all_that_is_in_it() {
    let store = Store::temp().unwrap();
    let image = Image::host(&store).unwrap();
    let container = leave(&image, &Volume::create(&store, "v").unwrap());
    container.keep().unwrap();
    let path = store.path().to_owned();
    assert!(!names(&path.join("containers")).is_empty() && !names(&path.join("volumes")).is_empty());
    drop((image, store));
    eventually("the store goes", || !path.exists());
}
