use crate::testing::Raw;
use crate::trees::{Compare, Scratch, assert_same, tree};
use coracle::{Compression, EntryKind, ErrorKind, Layer, Store};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn text(layer: &Layer, path: &str) -> Result<String, ErrorKind> {
    let mut text = String::new();
    layer.open(path).map_err(|error| error.kind())?.read_to_string(&mut text).unwrap();
    Ok(text)
}

/// A directory with one of everything that needs no privilege.
pub fn everything() -> Scratch {
    let dir = Scratch::new();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("sub/closed")).unwrap();
    std::fs::write(at("sub/file"), "text").unwrap();
    std::fs::write(at("sub/closed/tool"), "#!/bin/true").unwrap();
    std::fs::write(at("weird \u{e4} \n name"), "w").unwrap();
    std::fs::write(at(&"n".repeat(250)), "long").unwrap();
    std::fs::create_dir_all(at(&format!("{}/{}", "d".repeat(120), "e".repeat(120)))).unwrap();
    std::fs::write(at(&format!("{}/{}/f", "d".repeat(120), "e".repeat(120))), "deep").unwrap();
    std::fs::hard_link(at("sub/file"), at("sub/other")).unwrap();
    std::fs::hard_link(at("sub/file"), at("again")).unwrap();
    symlink("/absolute/../target", at("link")).unwrap();
    symlink("t".repeat(300), at("long link")).unwrap();
    std::fs::write(at("big"), vec![7; 300_000]).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    let cwd = rustix::fs::CWD;
    rustix::fs::mknodat(cwd, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for (name, mode) in
        [("sub/closed/tool", 0o4711), ("sub/closed", 0o1500), ("empty", 0o440), ("pipe", 0o604)]
    {
        std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("big"), "user.note", b"a\nb\0c", flags).unwrap();
    rustix::fs::setxattr(at("sub"), "user.empty", b"", flags).unwrap();
    let time = |name: &str, secs, nanos| {
        let time = rustix::fs::Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(cwd, at(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    time("big", -2, 750_000_000);
    time("link", 1_600_000_000, 123_456_789);
    time("sub/closed", 1, 1);
    time("empty", 0, 0);
    dir
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let dir = everything();
    let store = Store::temp().unwrap();
    let compare = Compare { owners: rustix::process::geteuid().is_root(), all_xattrs: false, root: true };
    let before = tree(dir.path(), compare);
    // Whom files are given to, an ordinary user can't see afterwards.
    let builder = Layer::builder().dir(dir.path());
    let builder = if compare.owners { builder } else { builder.owner(0, 0) };
    let compressions = [Compression::None, Compression::Gzip, Compression::Zstd];
    for &compression in &compressions[..if cfg!(feature = "zstd") { 3 } else { 2 }] {
        let layer = builder.clone().compression(compression).build(&store).unwrap();
        assert_same(&tree(&layer.unpack(&[]).unwrap(), compare), &before, &format!("{compression:?}"));
    }
}

#[test]
fn the_same_files_make_the_same_layer() {
    let dir = everything();
    let stores = [Store::temp().unwrap(), Store::temp().unwrap()];
    let layers = stores
        .each_ref()
        .map(|store| Layer::builder().dir(dir.path()).file("b", "2").file("a", "1").build(store).unwrap());
    assert_eq!(layers[0].digest(), layers[1].digest());
    let a = Layer::builder().file("a", "1").file("b", "2").build(&stores[0]).unwrap();
    let b = Layer::builder().file("b", "2").file("a", "1").build(&stores[0]).unwrap();
    let plain = Layer::builder().file("a", "1").file("b", "2").compression(Compression::None);
    let plain = plain.build(&stores[0]).unwrap();
    assert_eq!(a.digest(), b.digest());
    assert_eq!((plain.diff_id(), plain.digest()), (a.diff_id(), a.diff_id()));
    assert_eq!(a.media_type(), "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(plain.media_type(), "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(
        std::fs::metadata(stores[0].path().join("blobs/sha256").join(a.digest().hex())).unwrap().len(),
        a.size()
    );
}

#[test]
fn an_archive_alone_is_taken_byte_for_byte() {
    let store = Store::temp().unwrap();
    let mut archive = Raw::new().file("f", "text").end();
    // What follows the end mark belongs to it.
    archive.extend_from_slice(&[0; 8192]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &archive).unwrap();
    let layer = Layer::builder().tar(file.path()).build(&store).unwrap();
    assert_eq!(layer.digest(), coracle::Digest::of(&archive));
    assert_eq!((layer.diff_id(), layer.chain_id()), (layer.digest(), layer.digest()));
    assert_eq!(Layer::read(&store, &archive[..]).unwrap().digest(), layer.digest());
    // With more in the layer, or another compression, it is written anew.
    let more = Layer::builder().tar(file.path()).file("f", "later").build(&store).unwrap();
    assert_eq!(text(&more, "f").unwrap(), "later");
    let gzip = Layer::builder().tar(file.path()).compression(Compression::Gzip).build(&store).unwrap();
    assert_eq!(text(&gzip, "f").unwrap(), "text");
}

#[test]
fn files_are_found_in_the_archive_and_on_disk_alike() {
    let store = Store::temp().unwrap();
    let archive = Raw::new()
        .dir("dir")
        .file("dir/file", "text")
        .hard("dir/hard", "dir/file")
        .symlink("dir/up", "../dir/hard")
        .symlink("absolute", "/dir/file")
        .symlink("way", "dir")
        .symlink("out", "../../../../etc/passwd")
        .symlink("loop", "loop")
        .file("twice", "old")
        .file("twice", "new")
        .file("implied/file", "x")
        .device("null", b'3', 1, 3)
        .header(b"pipe", b'6', 0, |_| ())
        .file("dir/.wh.gone", "")
        .end();
    let layer = Layer::read(&store, &archive[..]).unwrap();
    for round in ["archive", "disk"] {
        for path in
            ["dir/file", "/dir/file", "dir/hard", "dir/up", "absolute", "way/file", "./dir//../dir/file"]
        {
            assert_eq!(text(&layer, path).as_deref(), Ok("text"), "{round}: {path}");
        }
        assert_eq!(text(&layer, "twice").unwrap(), "new", "{round}");
        assert_eq!(text(&layer, "implied/file").unwrap(), "x", "{round}");
        for path in ["none", "dir/gone", "dir/.wh.gone", "out", "loop", "dir/file/x", "etc/passwd"] {
            assert_eq!(text(&layer, path), Err(ErrorKind::NotFound), "{round}: {path}");
        }
        for path in ["dir", "implied", "null", "pipe", "/"] {
            assert_eq!(text(&layer, path), Err(ErrorKind::InvalidInput), "{round}: {path}");
        }
        layer.unpack(&[]).unwrap();
    }
    let kinds: Vec<_> = layer.entries().unwrap().map(|entry| entry.unwrap().kind()).collect();
    assert_eq!(kinds.len(), 14);
    let device = layer.entries().unwrap().find_map(|entry| entry.unwrap().device());
    assert_eq!(device, Some((1, 3)));
    assert_eq!(kinds[2], EntryKind::HardLink);
}

#[test]
fn layers_stack() {
    let store = Store::temp().unwrap();
    let lower =
        Layer::builder().directory("etc", 0o750).file("etc/a", "a").file("etc/b", "b").build(&store).unwrap();
    let upper = Layer::builder().file("etc/c", "c").whiteout("etc/a").build(&store).unwrap();
    let over = upper.unpack(std::slice::from_ref(&lower)).unwrap();
    assert_eq!(over.join("etc").metadata().unwrap().mode() & 0o7777, 0o750);
    let whiteout = std::fs::symlink_metadata(over.join("etc/a")).unwrap();
    assert_eq!((whiteout.mode() & 0o170000, whiteout.rdev()), (0o020000, 0));
    // Above nothing, the same archive becomes another directory; both stay.
    let alone = upper.unpack(&[]).unwrap();
    assert_ne!(over, alone);
    assert_eq!(alone.join("etc").metadata().unwrap().mode() & 0o7777, 0o755);
    assert!(!alone.join("etc/a").exists());
    assert_eq!(upper.unpack(std::slice::from_ref(&lower)).unwrap(), over);
    // One that needs nothing from below is shared by all.
    assert_eq!(lower.unpack(std::slice::from_ref(&upper)).unwrap(), lower.unpack(&[]).unwrap());
    let other = Store::temp().unwrap();
    let foreign = Layer::builder().file("x", "").build(&other).unwrap();
    assert_eq!(upper.unpack(&[foreign]).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_is_closed_to_the_caller_below_is_seen_all_the_same() {
    let store = Store::temp().unwrap();
    let closed = |raw: Raw, path: &str| raw.pax(&[("uid", b"33"), ("gid", b"44")]).dir(path).mode(0o700);
    let mine = |raw: Raw| raw.pax(&[("uid", b"33"), ("gid", b"44"), ("SCHILY.xattr.user.note", b"secret")]);
    let lower = closed(closed(Raw::new(), "d"), "d/sub");
    let lower = mine(mine(lower).file("d/f", "text").mode(0o600)).file("d/sub/x", "x");
    let lower = Layer::read(&store, &lower.symlink("d/link", "f").end()[..]).unwrap();
    let upper = Raw::new().file("d/.wh.f", "").file("d/sub/y", "y").hard("h", "d/f").hard("l", "d/link");
    let upper = Layer::read(&store, &upper.file("d/none/.wh.z", "").end()[..]).unwrap();
    let below = lower.unpack(&[]).unwrap().join("d").metadata().unwrap();
    let above = upper.unpack(std::slice::from_ref(&lower)).unwrap();
    let d = above.join("d").metadata().unwrap();
    assert_eq!((d.mode(), d.uid(), d.gid()), (below.mode(), below.uid(), below.gid()));
    let h = above.join("h").metadata().unwrap();
    // It has moved: its old name has a whiteout.
    assert_eq!((h.len(), h.nlink(), h.mode() & 0o7777, h.uid()), (4, 1, 0o600, below.uid()));
    assert_eq!(std::fs::read_link(above.join("l")).unwrap(), Path::new("f"));
    // One more above both.
    let top = Raw::new().file("d/sub/.wh.y", "").file("d/sub/.wh.x", "").file("d/sub/.wh..wh..opq", "");
    let top = Layer::read(&store, &top.end()[..]).unwrap();
    top.unpack(&[upper, lower]).unwrap();
}

#[test]
fn sockets_are_left_out_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let store = Store::temp().unwrap();
    let layer = Layer::builder().dir(dir.path()).build(&store).unwrap();
    assert_eq!(layer.left_out(), [(Path::new("socket").to_owned(), "a socket".to_owned())]);
    let paths: Vec<_> = layer.entries().unwrap().map(|entry| entry.unwrap().path().to_owned()).collect();
    assert_eq!(paths, [Path::new("./"), Path::new("file")]);
}

#[test]
fn other_file_systems_are_not_entered() {
    // The only mounts that every user has everywhere.
    let store = Store::temp().unwrap();
    let error = match Layer::builder().dir("/dev").compression(Compression::None).build(&store) {
        Ok(layer) => {
            assert!(
                layer.left_out().iter().any(|(path, _)| path == Path::new("shm")),
                "{:?}",
                layer.left_out()
            );
            return;
        }
        Err(error) => error,
    };
    // Some directories of /dev are closed to ordinary users.
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[test]
fn mistakes_are_told_at_the_end() {
    let store = Store::temp().unwrap();
    let kind = |builder: coracle::LayerBuilder| builder.build(&store).unwrap_err().kind();
    assert_eq!(kind(Layer::builder().file("../a", "").file("b", "")), ErrorKind::InvalidInput);
    assert_eq!(kind(Layer::builder().file("", "")), ErrorKind::InvalidInput);
    assert_eq!(kind(Layer::builder().file("a/.wh.b", "")), ErrorKind::InvalidInput);
    assert_eq!(kind(Layer::builder().symlink("", "a")), ErrorKind::InvalidInput);
    assert_eq!(kind(Layer::builder().whiteout("/")), ErrorKind::InvalidInput);
    assert_eq!(kind(Layer::builder().dir("/nowhere/at/all")), ErrorKind::NotFound);
    assert_eq!(kind(Layer::builder().tar("/nowhere/at/all")), ErrorKind::NotFound);
    let hostile = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hostile.path(), Raw::new().file("../../evil", "x").end()).unwrap();
    assert_eq!(kind(Layer::builder().tar(hostile.path()).file("a", "")), ErrorKind::InvalidData);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".wh.file"), "").unwrap();
    assert_eq!(kind(Layer::builder().dir(dir.path())), ErrorKind::InvalidInput);
    assert_eq!(std::fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn an_owner_is_for_everything() {
    let dir = everything();
    let store = Store::temp().unwrap();
    let builder = Layer::builder().dir(dir.path()).file("more", "").owner(33, 44);
    let layer = builder.build(&store).unwrap();
    for entry in layer.entries().unwrap() {
        let entry = entry.unwrap();
        assert_eq!((entry.uid(), entry.gid()), (33, 44), "{entry:?}");
    }
    let wrong = Layer::builder().owner(u32::MAX, 0).build(&store).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
}

#[test]
fn many_threads_unpack_one_layer_once() {
    let dir = everything();
    let store = Store::temp().unwrap();
    let layer = Layer::builder().dir(dir.path()).owner(0, 0).build(&store).unwrap();
    let paths: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| layer.unpack(&[]).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0]));
    assert_eq!(std::fs::read_dir(store.path().join("layers")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}
