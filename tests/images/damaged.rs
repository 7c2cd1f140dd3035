//! What becomes of a store whose files have changed on the disk.

use super::*;
use coracle::Layer;
use std::path::PathBuf;

fn blobs(store: &Store) -> Vec<PathBuf> {
    let blobs = fs::read_dir(store.path().join("blobs/sha256")).unwrap();
    blobs.map(|blob| blob.unwrap().path()).collect()
}

/// Changes one bit, so that the size stays.
fn damage(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

#[track_caller]
fn assert_sound(store: &Store) {
    for blob in blobs(store) {
        let digest = Digest::of(&fs::read(&blob).unwrap());
        assert_eq!(digest.hex(), blob.file_name().unwrap().to_str().unwrap());
    }
    for image in store.images().unwrap() {
        for layer in image.layers().unwrap() {
            layer.entries().unwrap().for_each(|entry| drop(entry.unwrap()));
        }
    }
}

/// Each blob in its turn, and all of them at once; with the layers unpacked, and with none.
#[test]
fn what_is_loaded_again_replaces_damaged_blobs() {
    let image = Fixture::new(&["one", "two"]);
    let docker = docker_archive(&[(&image, &["app:1"])]);
    let oci = pack(&oci_members(&image, Some("app:1"), "+gzip", gzip));
    for (what, archive) in [("docker", &docker), ("oci", &oci)] {
        for unpacked in [true, false] {
            let store = Store::temp().unwrap();
            drop(load(&store, archive).unwrap());
            let all = blobs(&store);
            assert_eq!(all.len(), 4);
            for some in all.chunks(1).chain([&all[..]]) {
                some.iter().for_each(|blob| damage(blob));
                if !unpacked {
                    let layers = fs::read_dir(store.path().join("layers")).unwrap();
                    layers.for_each(|layer| fs::remove_dir_all(layer.unwrap().path()).unwrap());
                }
                let loaded = load(&store, archive);
                let loaded = loaded.unwrap_or_else(|error| panic!("{what}, {unpacked}, {some:?}: {error}"));
                assert_eq!((loaded[0].id(), loaded.len()), (&image.id(), 1), "{what}");
                assert_sound(&store);
                assert_eq!(blobs(&store).len(), 4);
            }
        }
    }
}

#[test]
fn what_is_made_again_replaces_damaged_blobs() {
    let rootfs = tar([("file", Node::File(b"of a root filesystem"))]);
    let import = Import::new().created(std::time::UNIX_EPOCH);
    let store = Store::temp().unwrap();
    let first = import.reader(&store, &rootfs[..]).unwrap();
    blobs(&store).iter().for_each(|blob| damage(blob));
    assert_eq!(import.reader(&store, &rootfs[..]).unwrap().id(), first.id());
    assert_sound(&store);

    let store = Store::temp().unwrap();
    let builder = Layer::builder().file("a", "b");
    let layer = builder.build(&store).unwrap();
    damage(&blobs(&store)[0]);
    assert_eq!(builder.build(&store).unwrap().digest(), layer.digest());
    assert_sound(&store);
}

/// Nothing from outside can say better, so it is an error, with the file and what to do.
#[test]
fn a_damaged_layer_is_not_unpacked() {
    let store = Store::temp().unwrap();
    let layer = Layer::builder().file("a", "b").build(&store).unwrap();
    let blob = blobs(&store).remove(0);
    damage(&blob);
    let error = layer.unpack(&[]).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Mismatch, Some(blob.as_path())), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("again")), "{error}");
    assert_eq!(count(store.path().join("layers")), 0);
}
