use crate::testing::{Raw, record};
use coracle::ErrorKind::{self, InvalidData, TooLarge, Unsupported};
use coracle::{Layer, Store};
use std::io::Write;
use std::path::Path;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn names(dir: impl AsRef<Path>) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Takes and unpacks an archive; gives the path of what came of it.
fn take(store: &Store, archive: &[u8]) -> coracle::Result<std::path::PathBuf> {
    Layer::read(store, archive)?.unpack(&[])
}

#[test]
fn hostile_archives_give_typed_errors_and_leave_nothing() {
    let base = tempfile::tempdir().unwrap();
    let canary = base.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "untouched").unwrap();
    let outside = canary.to_str().unwrap();
    let store = Store::open(base.path().join("store")).unwrap();

    let raw = Raw::new;
    let good = raw().dir("d").file("d/f", "text").end();
    let flip = |data: &[u8], at: usize| {
        let mut data = data.to_vec();
        data[at] ^= 0x10;
        data
    };
    let packed = gzip(&good);
    let acl_junk = raw().pax(&[("SCHILY.xattr.security.capability", b"junk")]).file("f", "").end();
    let mut table: Vec<(&str, Vec<u8>, ErrorKind)> = vec![
        ("up and out", raw().file("../../../../../../../../../../tmp/evil", "x").end(), InvalidData),
        ("up in the middle", raw().dir("a").file("a/../../evil", "x").end(), InvalidData),
        ("up in a PAX path", raw().pax(&[("path", b"../evil")]).file("f", "x").end(), InvalidData),
        ("up in a long name", raw().extended(b'L', b"../evil\0").file("f", "x").end(), InvalidData),
        ("a hard link to a file of the host", raw().hard("h", &format!("{outside}/file")).end(), InvalidData),
        ("a hard link up and out", raw().hard("h", "../../../etc/passwd").end(), InvalidData),
        ("a hard link through a link", raw().symlink("s", outside).hard("h", "s/file").end(), InvalidData),
        ("a hard link to a directory", raw().dir("d").hard("h", "d").end(), InvalidData),
        ("a link that leads to itself", raw().symlink("s", "s").file("s/f", "").end(), InvalidData),
        ("beneath a file", raw().file("f", "").file("f/g", "").end(), InvalidData),
        ("a root that is a link", raw().symlink("./", "/etc").end(), InvalidData),
        ("a whiteout of nothing", raw().file("d/.wh.", "").end(), InvalidData),
        ("a whiteout of the parent", raw().file("d/.wh...", "").end(), InvalidData),
        ("a whiteout as directory", raw().file(".wh.d/f", "").end(), InvalidData),
        ("a wrong checksum", flip(&good, 0), InvalidData),
        ("a huge size", raw().header(b"f", b'0', (1 << 33) - 1, |_| ()).data(b"x").end(), InvalidData),
        (
            "a size of 2^64-1",
            raw().pax(&[("size", b"18446744073709551615")]).file("f", "").end(),
            InvalidData,
        ),
        ("a negative size", raw().header(b"f", b'0', 0, |h| h[124..136].fill(0xff)).end(), InvalidData),
        ("a huge PAX header", raw().header(b"x", b'x', (1 << 33) - 1, |_| ()).end(), TooLarge),
        ("two names", raw().pax(&[("path", b"a")]).extended(b'L', b"b\0").file("c", "").end(), InvalidData),
        ("an endless name", raw().pax(&[("path", &[b'n'; 300])]).file("f", "").end(), TooLarge),
        (
            "an endless path",
            raw().pax(&[("path", "d/".repeat(3000).as_bytes())]).file("f", "").end(),
            TooLarge,
        ),
        (
            "an endless way down",
            raw().pax(&[("path", "d/".repeat(600).as_bytes())]).file("f", "").end(),
            TooLarge,
        ),
        ("the owner -1", raw().pax(&[("uid", b"4294967295")]).file("f", "").end(), InvalidData),
        ("an unknown type", raw().header(b"f", b'~', 0, |_| ()).end(), Unsupported),
        ("xz", b"\xfd7zXZ\0\0\0 and so on".to_vec(), Unsupported),
        ("bzip2", b"BZh91AY&SY and so on".to_vec(), Unsupported),
        ("no archive", b"#!/bin/sh\necho hello\n".repeat(100), InvalidData),
        ("nothing", Vec::new(), InvalidData),
        ("gzip of nothing", gzip(b""), InvalidData),
        ("a gzip checksum", flip(&packed, packed.len() - 7), InvalidData),
        ("a gzip length", flip(&packed, packed.len() - 1), InvalidData),
        ("a gzip tail", [&packed[..], b"tail"].concat(), InvalidData),
        ("gzip cut short", packed[..packed.len() - 4].to_vec(), InvalidData),
        ("gzip twice", gzip(&packed), InvalidData),
    ];
    if rustix::process::geteuid().is_root() {
        table.push(("a capability that is none", acl_junk, InvalidData));
    }
    for (what, archive, kind) in &table {
        match take(&store, archive) {
            Ok(path) => panic!("{what}: it was unpacked: {:?}", names(path)),
            Err(error) => assert_eq!(error.kind(), *kind, "{what}: {error}"),
        }
        for dir in ["layers", "tmp"] {
            let left = names(store.path().join(dir));
            assert!(left.is_empty(), "{what}: {dir} has {left:?}");
        }
        assert_eq!(names(&canary), ["file"], "{what}");
        assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "untouched", "{what}");
    }
    assert!(!Path::new("/tmp/evil").exists());
    // And it still works.
    assert_eq!(names(take(&store, &good).unwrap()), ["d"]);
}

#[test]
fn what_looks_hostile_but_is_not() {
    let store = Store::temp().unwrap();
    let smuggled = record("linkpath", b"/etc/passwd");
    let archive = Raw::new()
        // An absolute path is one in the image.
        .file("/etc/motd", "ahoy")
        .pax(&[("SCHILY.xattr.user.note", &[b"\n", &smuggled[..]].concat())])
        .symlink("s", "real")
        .symlink("up", "../../../..")
        .file("up/in", "inside")
        .end();
    let path = take(&store, &archive).unwrap();
    assert_eq!(std::fs::read_to_string(path.join("etc/motd")).unwrap(), "ahoy");
    assert_eq!(std::fs::read_link(path.join("s")).unwrap(), Path::new("real"));
    assert_eq!(std::fs::read_to_string(path.join("in")).unwrap(), "inside");
}

#[test]
fn cut_at_any_block_it_is_an_error() {
    let store = Store::temp().unwrap();
    let archive = Raw::new()
        .dir("d")
        .pax(&[("path", b"d/file")])
        .file("x", &"data".repeat(300))
        .extended(b'L', b"d/link\0")
        .symlink("x", "file")
        .hard("d/hard", "d/file")
        .end();
    assert!(take(&store, &archive).is_ok());
    for cut in (0..archive.len() - 1024).step_by(512) {
        let error = take(&store, &archive[..cut]).unwrap_err();
        assert_eq!(error.kind(), InvalidData, "cut at {cut}: {error}");
    }
    let packed = gzip(&archive);
    for cut in 0..packed.len() {
        assert_eq!(take(&store, &packed[..cut]).unwrap_err().kind(), InvalidData, "gzip, cut at {cut}");
    }
    assert!(names(store.path().join("tmp")).is_empty());
}

#[test]
fn a_hundred_thousand_entries_far_down() {
    let store = Store::temp().unwrap();
    let deep = "d/".repeat(45);
    let mut archive = Raw::new();
    for i in 0..100_000 {
        archive = archive.file(&format!("{deep}{}", i % 500), "");
    }
    let layer = Layer::read(&store, &archive.end()[..]).unwrap();
    let path = layer.unpack(&[]).unwrap();
    assert_eq!(names(path.join(deep)).len(), 500);
}

/// A file of zeros, packed a thousandfold.
fn bomb(mib: u64) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&Raw::new().header(b"zeros", b'0', mib << 20, |_| ()).0).unwrap();
    (0..mib).for_each(|_| encoder.write_all(&[0; 1 << 20]).unwrap());
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

/// In a mount namespace of its own, with a small filesystem; see below.
#[test]
fn on_a_small_disk() {
    let Some(disk) = std::env::var_os("CORACLE_TEST_DISK") else { return };
    let free = || rustix::fs::statvfs(&disk).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    let store = Store::open(Path::new(&disk).join("store")).unwrap();
    let layer = Layer::read(&store, &bomb(300)[..]).unwrap();
    let before = free();
    let error = layer.unpack(&[]).unwrap_err();
    assert!(error.to_string().contains("to stay free"), "{error}");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    // An archive of images is unpacked to a file first.
    let error = coracle::Image::load_reader(&store, &bomb(300)[..]).unwrap_err();
    assert!(error.to_string().contains("to stay free"), "{error}");
    // Zeros that the archive does not even have, packed as they are made.
    let sparse = Raw::new().pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", b"1099511627776"),
    ]);
    let archive = Path::new(&disk).join("sparse.tar");
    std::fs::write(&archive, sparse.header(b"f", b'0', 512, |_| ()).data(b"0\n").end()).unwrap();
    let builder = Layer::builder().tar(&archive).compression(coracle::Compression::None);
    let error = builder.build(&store).unwrap_err();
    assert!(error.to_string().contains("to stay free"), "{error}");
    assert!(names(store.path().join("tmp")).is_empty() && names(store.path().join("layers")).is_empty());
    assert!(free() + (1 << 20) > before);
    println!("the disk has room");
}

#[test]
#[ignore = "needs root: mounts a small filesystem"]
fn a_bomb_does_not_fill_the_disk() {
    let disk = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs -o size=128m tmpfs $1; export CORACLE_TEST_DISK=$1; \
        exec $2 --exact hostile::on_a_small_disk --nocapture";
    let arguments =
        ["-m", "sh", "-ec", script, "sh", disk.path().to_str().unwrap(), program.to_str().unwrap()];
    let said = crate::common::peer("unshare", arguments);
    assert!(said.contains("the disk has room"), "{said}");
}

#[test]
fn a_bomb_that_stops_early_leaves_nothing() {
    // Half of what its header promises, packed a thousandfold.
    let store = Store::temp().unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let header = Raw::new().header(b"zeros", b'0', 80 << 20, |_| ()).0;
    encoder.write_all(&header).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..40 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    assert_eq!(take(&store, &bomb).unwrap_err().kind(), InvalidData);
    assert!(names(store.path().join("tmp")).is_empty());
}
