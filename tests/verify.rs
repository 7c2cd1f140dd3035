//! `Store::verify`: each kind of damage is found, with the file and what to do, and nothing else is.
#![forbid(unsafe_code)]

mod common;

use common::*;
use coracle::{Container, ErrorKind, Image, Store, StorePart, Volume};
use std::fs;
use std::path::{Path, PathBuf};

/// A store with everything in it that can be damaged, and where that lies.
struct World {
    store: Store,
    manifest: PathBuf,
    config: PathBuf,
    blob: PathBuf,
    /// An unpacked layer.
    layer: PathBuf,
    container: PathBuf,
    volume: PathBuf,
    fixture: Fixture,
}

impl World {
    fn new() -> Self {
        let store = Store::temp().unwrap();
        let fixture = Fixture::new(&["one", "two"]);
        let oci = pack(&oci_members(&fixture, Some("app:1"), "+gzip", gzip));
        let image = Image::load_reader(&store, &oci[..]).unwrap().remove(0);
        image.tag("app:2").unwrap();
        let other = Fixture::new(&["three"]);
        Image::load_reader(&store, &docker_archive(&[(&other, &["other:1"])])[..]).unwrap();
        let volume = Volume::create(&store, "data").unwrap();
        let container = Container::builder(&image).name("kept").volume(&volume, "/data").create().unwrap();
        let path = store.path().join("containers").join(container.id());
        container.keep().unwrap();
        let host = Image::host(&store).unwrap();
        let ran = sh(&host, "echo x >/tmp/x").start().unwrap();
        assert!(ran.wait().unwrap().success());
        ran.keep().unwrap();

        let blob = |hex: String| store.path().join("blobs/sha256").join(hex);
        let layers = fs::read_dir(store.path().join("layers")).unwrap();
        Self {
            manifest: blob(image.digest().hex()),
            config: blob(image.id().hex()),
            blob: blob(image.layer_descriptors()[0].digest.hex()),
            layer: layers.map(|layer| layer.unwrap().path()).min().unwrap(),
            container: path,
            volume: volume.path().parent().unwrap().to_owned(),
            store,
            fixture,
        }
    }
}

#[test]
fn a_sound_store_is_sound() {
    let w = World::new();
    let found = w.store.verify().unwrap();
    assert!(found.is_sound(), "{:#?}", found.problems);
    assert_eq!((found.blobs, found.images, found.layers), (7, 2, 3));
    assert_eq!((found.containers, found.volumes), (2, 1));
    let sizes = fs::read_dir(w.store.path().join("blobs/sha256")).unwrap();
    assert_eq!(found.bytes, sizes.map(|blob| blob.unwrap().metadata().unwrap().len()).sum::<u64>());
    let empty = Store::temp().unwrap().verify().unwrap();
    assert!(empty.is_sound() && empty.blobs == 0);
}

fn flip(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

fn replace(path: &Path, find: &str, put: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(find), "{text}");
    fs::write(path, text.replace(find, put)).unwrap();
}

/// What is done to a store, the part it is in, and the file that is named.
type Damage = (&'static str, fn(&World) -> PathBuf, StorePart);

const DAMAGES: &[Damage] = &[
    (
        "a flipped bit in a layer's blob",
        |w| {
            flip(&w.blob);
            w.blob.clone()
        },
        StorePart::Blob,
    ),
    (
        "a flipped bit in a configuration",
        |w| {
            flip(&w.config);
            w.config.clone()
        },
        StorePart::Blob,
    ),
    (
        "a flipped bit in a manifest",
        |w| {
            flip(&w.manifest);
            w.manifest.clone()
        },
        StorePart::Blob,
    ),
    (
        "a blob cut short",
        |w| {
            fs::write(&w.blob, "x").unwrap();
            w.blob.clone()
        },
        StorePart::Blob,
    ),
    (
        "no blob of a layer",
        |w| {
            fs::remove_file(&w.blob).unwrap();
            w.blob.clone()
        },
        StorePart::Image,
    ),
    (
        "no configuration",
        |w| {
            fs::remove_file(&w.config).unwrap();
            w.config.clone()
        },
        StorePart::Image,
    ),
    (
        "no manifest",
        |w| {
            fs::remove_file(&w.manifest).unwrap();
            w.manifest.clone()
        },
        StorePart::Image,
    ),
    (
        "a link instead of a blob",
        |w| {
            fs::remove_file(&w.blob).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", &w.blob).unwrap();
            w.blob.clone()
        },
        StorePart::Blob,
    ),
    (
        "what is no blob",
        |w| {
            let stranger = w.store.path().join("blobs/sha256/letter");
            fs::write(&stranger, "x").unwrap();
            stranger
        },
        StorePart::Blob,
    ),
    (
        "an index that is none",
        |w| {
            let index = w.store.path().join("index.json");
            fs::write(&index, "{").unwrap();
            index
        },
        StorePart::Index,
    ),
    (
        "another size in the index",
        |w| {
            let index = w.store.path().join("index.json");
            let size = w.manifest.metadata().unwrap().len();
            replace(&index, &format!("\"size\":{size}"), &format!("\"size\":{}", size + 1));
            w.manifest.clone()
        },
        StorePart::Image,
    ),
    (
        "an unpacked layer without metadata",
        |w| {
            fs::remove_file(w.layer.join("meta.json")).unwrap();
            w.layer.join("meta.json")
        },
        StorePart::Layer,
    ),
    (
        "metadata that is none",
        |w| {
            fs::write(w.layer.join("meta.json"), "[").unwrap();
            w.layer.join("meta.json")
        },
        StorePart::Layer,
    ),
    (
        "metadata of another layer",
        |w| {
            let name = w.layer.with_file_name("0".repeat(64));
            fs::rename(&w.layer, &name).unwrap();
            name
        },
        StorePart::Layer,
    ),
    (
        "an unpacked layer without files",
        |w| {
            fs::rename(w.layer.join("fs"), w.layer.join("other")).unwrap();
            w.layer.clone()
        },
        StorePart::Layer,
    ),
    (
        "a record that is none",
        |w| {
            fs::write(w.container.join("container.json"), "{\"id\":").unwrap();
            w.container.join("container.json")
        },
        StorePart::Container,
    ),
    (
        "a record that is empty",
        |w| {
            fs::write(w.container.join("container.json"), "").unwrap();
            w.container.join("container.json")
        },
        StorePart::Container,
    ),
    (
        "no record",
        |w| {
            fs::remove_file(w.container.join("container.json")).unwrap();
            w.container.clone()
        },
        StorePart::Container,
    ),
    (
        "the record of another container",
        |w| {
            let id = w.container.file_name().unwrap().to_str().unwrap();
            let record = w.container.join("container.json");
            replace(&record, &format!("\"id\":\"{id}\""), "\"id\":\"other\"");
            record
        },
        StorePart::Container,
    ),
    (
        "another name",
        |w| {
            fs::rename(w.store.path().join("names/kept"), w.store.path().join("names/other")).unwrap();
            w.store.path().join("names/other")
        },
        StorePart::Container,
    ),
    (
        "a name that leads to no text",
        |w| {
            fs::write(w.store.path().join("names/kept"), [0xff; 64]).unwrap();
            w.store.path().join("names/kept")
        },
        StorePart::Container,
    ),
    (
        "a directory among the names",
        |w| {
            fs::create_dir(w.store.path().join("names/dir")).unwrap();
            w.store.path().join("names/dir")
        },
        StorePart::Container,
    ),
    (
        "a name that is no text",
        |w| {
            let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff");
            fs::write(w.store.path().join("names").join(name), "").unwrap();
            w.store.path().join("names").join(name)
        },
        StorePart::Container,
    ),
    (
        "a writable layer that is no directory",
        |w| {
            fs::remove_dir(w.container.join("upper")).unwrap();
            fs::write(w.container.join("upper"), "").unwrap();
            w.container.join("upper")
        },
        StorePart::Container,
    ),
    (
        "no writable layer",
        |w| {
            fs::remove_dir(w.container.join("upper")).unwrap();
            w.container.join("upper")
        },
        StorePart::Container,
    ),
    (
        "no volume",
        |w| {
            fs::remove_dir_all(&w.volume).unwrap();
            w.volume.clone()
        },
        StorePart::Container,
    ),
    (
        "a volume's metadata that are none",
        |w| {
            fs::write(w.volume.join("volume.json"), "[]").unwrap();
            w.volume.join("volume.json")
        },
        StorePart::Volume,
    ),
    (
        "no metadata of a volume",
        |w| {
            fs::remove_file(w.volume.join("volume.json")).unwrap();
            w.volume.join("volume.json")
        },
        StorePart::Volume,
    ),
    (
        "a volume without its directory",
        |w| {
            fs::remove_dir(w.volume.join("data")).unwrap();
            w.volume.join("data")
        },
        StorePart::Volume,
    ),
];

#[test]
fn each_damage_is_found_and_named() {
    for (what, damage, part) in DAMAGES {
        let w = World::new();
        let path = damage(&w);
        let found = w.store.verify().unwrap();
        let named = found.problems.iter().find(|problem| problem.part() == *part && problem.path() == path);
        let named = named.unwrap_or_else(|| panic!("{what}: {part:?} {path:?}: {:#?}", found.problems));
        assert!(!named.remedy().is_empty(), "{what}: {named}");
        // A blob that is cut short is also one of the wrong size, but each says the same file.
        for problem in &found.problems {
            assert_eq!(problem.path(), path, "{what}: {problem}");
        }
        if *part == StorePart::Blob && !path.ends_with("letter") {
            assert!(named.to_string().contains("the image app:1"), "{what}: {named}");
        }
    }
}

/// One that can't be read hides no other, and is not hidden itself.
#[test]
fn listings_have_what_can_be_read_beside_what_can_not() {
    for (what, damage, part) in DAMAGES {
        let w = World::new();
        let ran = w.store.containers().unwrap().into_iter().find(|one| one.name() != "kept").unwrap();
        let (id, name) = (ran.id().to_owned(), ran.name().to_owned());
        drop(ran);
        let path = damage(&w);
        let (containers, broken) = (w.store.containers().unwrap(), w.store.broken_containers().unwrap());
        assert_eq!(containers.len() + broken.len(), 2, "{what}");
        assert!(containers.iter().any(|one| one.id() == id), "{what}");
        // A name that was made up is found in the records only.
        assert_eq!(w.store.container(&name).unwrap().id(), id, "{what}");
        let (volumes, lost) = (w.store.volumes().unwrap(), w.store.broken_volumes().unwrap());
        assert_eq!(volumes.len() + lost.len(), usize::from(*what != "no volume"), "{what}");
        let is_record = what.contains("record") && !what.contains("another");
        assert!(!is_record || broken.len() == 1, "{what}");
        assert_eq!(lost.len(), usize::from(*part == StorePart::Volume), "{what}");
        for problem in broken.iter().chain(&lost) {
            assert_eq!(problem.path(), path, "{what}: {problem}");
            assert!(!problem.remedy().is_empty(), "{what}: {problem}");
        }
        if let [problem] = &broken[..] {
            assert_eq!(problem.part(), StorePart::Container, "{what}");
            let error = w.store.container("nobodys_name").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("broken_containers")), "{error}");
            assert!(w.store.container("kept").is_err(), "{what}");
        }
    }
}

/// What the remedy says, helps.
#[test]
fn what_is_loaded_again_is_sound() {
    let w = World::new();
    for path in [&w.blob, &w.config, &w.manifest] {
        flip(path);
    }
    fs::remove_dir_all(&w.layer).unwrap();
    assert_eq!(w.store.verify().unwrap().problems.len(), 3);
    let oci = pack(&oci_members(&w.fixture, Some("app:1"), "+gzip", gzip));
    Image::load_reader(&w.store, &oci[..]).unwrap();
    let found = w.store.verify().unwrap();
    assert!(found.is_sound(), "{:#?}", found.problems);
}

/// An image that was removed by force stays as long as a container has it, and is looked at.
#[test]
fn an_image_without_a_name_is_looked_at_for_its_container() {
    let w = World::new();
    for name in ["app:1", "app:2"] {
        w.store.force_remove_image(name).unwrap();
    }
    assert!(w.store.verify().unwrap().is_sound());
    fs::remove_file(&w.blob).unwrap();
    let found = w.store.verify().unwrap();
    assert_eq!((found.problems.len(), found.problems[0].path()), (1, w.blob.as_path()));
    assert!(found.problems[0].to_string().contains("of container"), "{}", found.problems[0]);
}

/// What one image calls a layer may be another's manifest, and what that refers to is looked at all the same.
#[test]
fn a_manifest_that_is_somebody_elses_layer() {
    use serde_json::Value;
    let w = World::new();
    let blobs = w.store.path().join("blobs/sha256");
    let at = w.store.path().join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&at).unwrap()).unwrap();
    let app = index["manifests"][0].clone();
    let mut other: Value = serde_json::from_slice(&fs::read(&w.manifest).unwrap()).unwrap();
    other["layers"] = serde_json::json!([app, app]);
    let other = other.to_string();
    let digest = coracle::Digest::of(other.as_bytes());
    fs::write(blobs.join(digest.hex()), &other).unwrap();
    let mut listed = app;
    listed["digest"] = digest.to_string().into();
    listed["size"] = other.len().into();
    listed["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "stranger:1"});
    index["manifests"].as_array_mut().unwrap().insert(0, listed);
    fs::write(&at, index.to_string()).unwrap();
    assert!(w.store.verify().unwrap().is_sound());
    fs::remove_file(&w.blob).unwrap();
    let found = w.store.verify().unwrap();
    let is_named =
        |problem: &coracle::Problem| problem.path() == w.blob && problem.part() == StorePart::Image;
    assert!(found.problems.iter().any(is_named), "{:?}", found.problems);
}
