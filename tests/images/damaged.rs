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

/// The files of an image that are needed to list it: damaged, cut short, gone, unreadable.
#[test]
fn a_broken_image_hides_no_other() {
    let (good, bad) = (Fixture::new(&["one", "two"]), Fixture::new(&["three"]));
    let archives = [docker_archive(&[(&good, &["good:1"])]), docker_archive(&[(&bad, &["bad:1", "bad:2"])])];
    let none: fn(&Path) = |blob| fs::remove_file(blob).unwrap();
    let cut: fn(&Path) = |blob| fs::write(blob, &fs::read(blob).unwrap()[..20]).unwrap();
    let link: fn(&Path) = |blob| {
        fs::remove_file(blob).unwrap();
        std::os::unix::fs::symlink("elsewhere", blob).unwrap();
    };
    for of_config in [true, false] {
        for break_it in [damage, none, cut, link] {
            let store = Store::temp().unwrap();
            load(&store, &archives[1]).unwrap();
            let (digest, id) = {
                let loaded = load(&store, &archives[0]).unwrap();
                assert_eq!(loaded[0].id(), &good.id());
                let bad = store.image("bad:1").unwrap();
                (*bad.digest(), *bad.id())
            };
            let blob = store.path().join("blobs/sha256").join(if of_config { id } else { digest }.hex());
            assert!(store.broken_images().unwrap().is_empty());
            break_it(&blob);

            let images = store.images().unwrap();
            assert_eq!(images.iter().map(names).collect::<Vec<_>>(), [["good:1"]]);
            let broken = store.broken_images().unwrap();
            assert_eq!((broken.len(), *broken[0].digest()), (1, digest));
            let called: Vec<_> = broken[0].references().iter().map(|name| name.familiar()).collect();
            assert_eq!(called, ["bad:1", "bad:2"]);
            let error = broken[0].error();
            assert!(error.path() == Some(&blob) && error.remedy().is_some(), "{error}");
            assert_eq!(store.image(&good.id().hex()[..12]).unwrap().id(), &good.id());

            // It goes as any other: a name, the last name and all of it, or by its digest.
            assert_eq!(store.remove_image("bad:2").unwrap().untagged.len(), 1);
            if of_config {
                let removed = store.remove_image("bad:1").unwrap();
                assert_eq!((removed.untagged.len(), removed.deleted), (1, vec![digest]));
            } else {
                assert_eq!(store.remove_image(&digest.hex()[..12]).unwrap().deleted, [digest]);
            }
            assert!(store.broken_images().unwrap().is_empty());
            assert_eq!(store.images().unwrap().len(), 1);
            drop(images);
            // Or is sound again.
            load(&store, &archives[1]).unwrap();
            break_it(&blob);
            load(&store, &archives[1]).unwrap();
            assert_eq!((store.images().unwrap().len(), store.broken_images().unwrap().len()), (2, 0));
        }
    }
}
