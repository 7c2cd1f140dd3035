//! Images in a store: ways in, names, removal, and what happens to broken ones.

mod common;

#[path = "images/broken.rs"]
mod broken;
#[path = "images/damaged.rs"]
mod damaged;
#[path = "images/edit.rs"]
mod edit;
#[path = "images/files.rs"]
mod files;
#[path = "images/foreign.rs"]
mod foreign;
#[path = "images/names.rs"]
mod names;
#[path = "images/peers.rs"]
mod peers;
#[path = "images/save.rs"]
mod save;
#[path = "images/synced.rs"]
mod synced;
#[path = "images/together.rs"]
mod together;
#[path = "images/tree.rs"]
mod tree;

use common::*;
use coracle::{Digest, ErrorKind, Image, Import, Store};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn load(store: &Store, archive: &[u8]) -> coracle::Result<Vec<Image>> {
    Image::load_reader(store, archive)
}

fn names(image: &Image) -> Vec<String> {
    image.references().unwrap().iter().map(|name| name.familiar()).collect()
}

/// Nothing is in the store, and nothing half-made.
#[track_caller]
fn assert_empty(store: &Store) {
    for room in ["blobs/sha256", "layers", "tmp"] {
        assert_eq!(count(store.path().join(room)), 0, "{room}");
    }
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn docker_archives_plain_and_compressed_are_the_same_image() {
    let image = Fixture::new(&["one", "two"]);
    let plain = docker_archive(&[(&image, &["app:1", "localhost:5000/me/app"])]);
    let compressed = [
        plain.clone(),
        gzip(&plain),
        #[cfg(feature = "zstd")]
        zstd(&plain),
    ];
    for archive in compressed {
        let store = Store::temp().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.tar"), &archive).unwrap();
        let loaded = Image::load(&store, dir.path().join("a.tar")).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(*loaded[0].id(), image.id());
        assert_eq!(names(&loaded[0]), ["app:1", "localhost:5000/me/app:latest"]);
        assert_eq!(loaded[0].config().cmd(), ["/bin/sh"]);
        assert_eq!(loaded[0].config().json().as_bytes(), image.config);
        assert_eq!(loaded[0].layer_descriptors().len(), 2);
        let made = std::time::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        assert_eq!(loaded[0].created(), Some(made));
        let again = load(&store, &archive).unwrap();
        assert_eq!(again[0].digest(), loaded[0].digest());
        assert_eq!(store.images().unwrap().len(), 1);
        assert_eq!(count(store.path().join("blobs/sha256")), 4);
        assert_eq!(count(store.path().join("layers")), 2);
        assert_eq!(count(store.path().join("tmp")), 0);
    }
}

#[test]
fn oci_archives_and_directories_keep_their_manifest() {
    let image = Fixture::new(&["one", "two", "three"]);
    let members = oci_members(&image, Some("app:1"), "+gzip", gzip);
    let store = Store::temp().unwrap();
    let from_archive = load(&store, &gzip(&pack(&members))).unwrap().remove(0);
    let dir = tempfile::tempdir().unwrap();
    write_layout(dir.path(), &members);
    let elsewhere = Store::temp().unwrap();
    let from_dir = Image::load(&elsewhere, dir.path()).unwrap().remove(0);
    assert_eq!(from_archive.digest(), from_dir.digest());
    assert!(members.iter().any(|(name, _)| name.ends_with(&from_dir.digest().hex())));
    assert_eq!((*from_dir.id(), names(&from_dir)), (image.id(), vec!["app:1".to_owned()]));
    // The same layers, compressed in another way: unpacked once, other blobs.
    let docker = docker_archive(&[(&image, &["app:2"])]);
    let other = load(&elsewhere, &docker).unwrap().remove(0);
    assert_eq!(other.id(), from_dir.id());
    assert_eq!(count(elsewhere.path().join("layers")), 3);
    // And the reverse: the blob that is missing is taken in.
    let plain = Store::temp().unwrap();
    load(&plain, &docker).unwrap();
    let both = load(&plain, &pack(&members)).unwrap().remove(0);
    assert_eq!(both.digest(), from_dir.digest());
    for layer in both.layer_descriptors() {
        let blob = fs::read(plain.path().join("blobs/sha256").join(layer.digest.hex())).unwrap();
        assert_eq!(Digest::of(&blob), layer.digest);
    }
}

#[test]
fn an_archive_of_several_images_shares_layers_also_by_links() {
    let (base, mut above) = (Fixture::new(&["base"]), Fixture::new(&["base", "above"]));
    let mut list: Vec<Value> = Vec::new();
    let config = |image: &Fixture| format!("{}.json", image.id().hex());
    list.push(json!({"Config": config(&base), "RepoTags": ["base:1"], "Layers": ["aaa/layer.tar"]}));
    list.push(
        json!({"Config": config(&above), "RepoTags": null, "Layers": ["bbb/layer.tar", "ccc/layer.tar"]}),
    );
    let list = Value::from(list).to_string();
    let archive = tar([
        (config(&base).as_str(), Node::File(&base.config)),
        (config(&above).as_str(), Node::File(&above.config)),
        ("aaa/", Node::Dir),
        ("aaa/layer.tar", Node::File(&base.layers[0])),
        ("bbb/layer.tar", Node::Link("../aaa/layer.tar")),
        ("ddd.tar", Node::File(&above.layers[1])),
        ("ccc/layer.tar", Node::HardLink("./ddd.tar")),
        ("./manifest.json", Node::File(list.as_bytes())),
    ]);
    let store = Store::temp().unwrap();
    let images = load(&store, &archive).unwrap();
    assert_eq!(images.iter().map(|image| *image.id()).collect::<Vec<_>>(), [base.id(), above.id()]);
    assert_eq!((names(&images[0]), names(&images[1])), (vec!["base:1".to_owned()], vec![]));
    assert_eq!(count(store.path().join("layers")), 2);
    above.config.clear();
}

#[test]
fn an_index_gives_this_machines_image() {
    let mine = Fixture::new(&["mine"]);
    let theirs = Fixture::of_machine(vec![tar([("x", Node::File(b"theirs"))])], "s390x");
    let mut members = oci_members(&theirs, None, "", <[u8]>::to_vec);
    members.retain(|(name, _)| name.starts_with("blobs/"));
    let theirs_manifest = members
        .iter()
        .find(|(_, data)| {
            data.windows(9).any(|w| w == b"\"layers\":") && data.starts_with(b"{\"config\":{\"digest")
        })
        .unwrap()
        .clone();
    let mine_members = oci_members(&mine, None, "+gzip", gzip);
    let listed: Value =
        serde_json::from_slice(&mine_members.iter().find(|(name, _)| name == "index.json").unwrap().1)
            .unwrap();
    let mut listed = listed["manifests"][0].clone();
    let digest = listed["digest"].as_str().unwrap().to_owned();
    listed["platform"] =
        json!({"os": "linux", "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }});
    let platform = |data: &[u8], arch: &str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(data),
        "size": data.len(), "platform": {"os": "linux", "architecture": arch}})
    };
    let nested = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [platform(&theirs_manifest.1, "s390x"), listed, platform(b"attestation", "unknown")]})
    .to_string()
    .into_bytes();
    members.extend(mine_members.into_iter().filter(|(name, _)| name.starts_with("blobs/")));
    members.push((format!("blobs/sha256/{}", Digest::of(&nested).hex()), nested.clone()));
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": Digest::of(&nested), "size": nested.len(), "annotations": {"org.opencontainers.image.ref.name": "multi:1"}}]});
    members.push(("index.json".into(), index.to_string().into_bytes()));
    let store = Store::temp().unwrap();
    let image = load(&store, &pack(&members)).unwrap().remove(0);
    assert_eq!((image.id(), image.digest().to_string()), (&mine.id(), digest));
    assert_eq!(names(&image), ["multi:1"]);

    // The same layout as a store: the index stays, and leads to the same image.
    let dir = tempfile::tempdir().unwrap();
    members.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    write_layout(dir.path(), &members);
    let store = Store::open(dir.path()).unwrap();
    let image = store.image("multi:1").unwrap();
    assert_eq!(image.id(), &mine.id());
    image.tag("other").unwrap();
    assert_eq!(names(&image), ["multi:1", "other:latest"]);
    assert_eq!(store.images().unwrap().len(), 1);

    // Nothing for us in it.
    let only = oci_members(&theirs, None, "", <[u8]>::to_vec);
    let mut only_index: Value =
        serde_json::from_slice(&only.iter().find(|(name, _)| name == "index.json").unwrap().1).unwrap();
    only_index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let mut only: Vec<_> = only.into_iter().filter(|(name, _)| name != "index.json").collect();
    only.push(("index.json".into(), only_index.to_string().into_bytes()));
    let store = Store::temp().unwrap();
    let error = load(&store, &pack(&only)).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("s390x"), "{error}");
    assert_empty(&store);
}

#[test]
fn a_root_filesystem_becomes_an_image() {
    let rootfs =
        tar([("bin/", Node::Dir), ("bin/sh", Node::File(b"#!")), ("etc/hostname", Node::File(b"x"))]);
    let store = Store::temp().unwrap();
    let import =
        Import::new().name("root:1").cmd(["/bin/sh", "-i"]).env("A", "b=c").user("7:8").working_dir("/srv");
    let import = import
        .label("l", "v")
        .volume("/data")
        .expose("80/tcp")
        .entrypoint(["/e"])
        .stop_signal("SIGINT")
        .author("me");
    let image = import.reader(&store, &rootfs[..]).unwrap();
    let config = image.config();
    assert_eq!(
        (config.cmd(), config.env(), config.user()),
        (&["/bin/sh".to_owned(), "-i".into()][..], &["A=b=c".to_owned()][..], "7:8")
    );
    assert_eq!(
        (config.working_dir(), config.stop_signal(), config.author()),
        ("/srv", Some("SIGINT"), Some("me"))
    );
    assert_eq!((config.volumes().next(), config.exposed_ports().next()), (Some("/data"), Some("80/tcp")));
    assert_eq!(config.diff_ids(), [Digest::of(&rootfs)]);
    assert!(image.created().unwrap().elapsed().unwrap() < Duration::from_secs(60));
    assert_eq!(names(&image), ["root:1"]);
    // With a time given, the same image again.
    let fixed = Import::new().created(std::time::UNIX_EPOCH);
    assert_eq!(
        fixed.reader(&store, &rootfs[..]).unwrap().id(),
        fixed.reader(&store, &gzip(&rootfs)[..]).unwrap().id()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), gzip(&rootfs)).unwrap();
    assert_eq!(
        Image::import(&store, file.path(), "root:2").unwrap().config().diff_ids(),
        [Digest::of(&rootfs)]
    );
}

#[test]
fn what_is_no_archive_is_refused_and_leaves_nothing() {
    let store = Store::temp().unwrap();
    let rootfs = tar([("bin/sh", Node::File(b"#!"))]);
    let good = docker_archive(&[(&Fixture::new(&["x"]), &[])]);
    let mut gzipped = gzip(&good);
    gzipped.truncate(gzipped.len() / 2);
    for (what, bytes, kind) in [
        ("nothing", &b""[..], ErrorKind::InvalidData),
        ("text", b"hello", ErrorKind::InvalidData),
        ("zeros", &[0; 1024], ErrorKind::InvalidData),
        ("a root filesystem", &rootfs, ErrorKind::InvalidData),
        ("cut short", &good[..good.len() / 2], ErrorKind::InvalidData),
        ("compressed and cut short", &gzipped, ErrorKind::InvalidData),
        ("xz", b"\xfd7zXZ\0\0\0", ErrorKind::Unsupported),
    ] {
        let error = load(&store, bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert_empty(&store);
    }
    for (what, bytes, kind) in [
        ("nothing", &b""[..], ErrorKind::InvalidData),
        ("text", b"hello", ErrorKind::InvalidData),
        ("cut short", &rootfs[..600], ErrorKind::InvalidData),
        ("compressed and cut short", &gzipped, ErrorKind::InvalidData),
        ("xz", b"\xfd7zXZ\0\0\0", ErrorKind::Unsupported),
    ] {
        let error = Import::new().reader(&store, bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "import {what}: {error}");
        assert_empty(&store);
    }
    assert_eq!(Image::load(&store, "/nowhere").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        Import::new().name("Bad").reader(&store, &rootfs[..]).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_empty(&store);
}

#[test]
fn a_directory_becomes_an_image() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/motd"), "hello").unwrap();
    std::os::unix::fs::symlink("/etc/motd", dir.path().join("m")).unwrap();
    let image = Image::import(&store, dir.path(), "dir:1").unwrap();
    let layers = image.layers().unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0].chain_id(), layers[0].diff_id());
    let mut text = String::new();
    layers[0].open("etc/motd").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    let again = Image::import(&store, dir.path(), "dir:2").unwrap();
    assert_eq!(again.layers().unwrap()[0].digest(), layers[0].digest(), "the same files are the same layer");
}
