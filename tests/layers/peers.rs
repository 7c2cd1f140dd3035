use crate::built::everything;
use crate::common::peer;
use crate::trees::{Compare, Scratch, assert_same, tree, tree_with_sub_ids};
use coracle::{Compression, EntryKind, Layer, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn untar(archive: &Path, dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let archive = archive.to_str().unwrap();
    let dir = dir.to_str().unwrap();
    peer("tar", ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", archive, "-C", dir]);
}

/// Makes an image of an archive and unpacks it, both by umoci; as an ordinary user as that can.
fn umoci_unpacks(scratch: &Path, archive: &str) -> PathBuf {
    let path = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let image = format!("{}:image", path("oci"));
    peer("umoci", ["init", "--layout", &path("oci")]);
    peer("umoci", ["new", "--image", &image]);
    peer("umoci", ["raw", "add-layer", "--image", &image, archive]);
    let rootless: &[&str] = if is_root() { &[] } else { &["--rootless"] };
    peer("umoci", [&["raw", "unpack"], rootless, &["--image", &image, &path("umoci")]].concat());
    scratch.join("umoci")
}

/// As root all of it, as an ordinary user all but owners and what only root may set.
fn everything_comparable() -> Compare {
    Compare { owners: is_root(), all_xattrs: is_root(), root: true }
}

/// Takes out what umoci makes in the place of devices where it can't make them.
fn without_devices(mut tree: BTreeMap<String, String>, layer: &Layer) -> BTreeMap<String, String> {
    for entry in layer.entries().unwrap() {
        let entry = entry.unwrap();
        if matches!(entry.kind(), EntryKind::CharDevice | EntryKind::BlockDevice) {
            let name = entry.path().to_str().unwrap().trim_start_matches("./").to_owned();
            tree.remove(&name);
        }
    }
    tree
}

#[test]
#[ignore = "needs umoci, mmdebstrap, uidmap and Debian's mirror: run with --include-ignored"]
fn debian_unpacks_as_umoci_and_tar_unpack_it() {
    let scratch = Scratch::new();
    let archive = scratch.path().join("debian.tar").to_str().unwrap().to_owned();
    // iputils-ping has a file capability.
    let made = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--include=iputils-ping", "bookworm", &archive])
        // Its own user namespace has to get there.
        .env("TMPDIR", "/tmp")
        .status()
        .expect("mmdebstrap (Debian's package of that name)");
    assert!(made.success(), "{made}");
    let store = Store::temp().unwrap();
    let umoci = umoci_unpacks(scratch.path(), &archive);
    let compare = everything_comparable();
    let umoci = tree(&umoci, compare);
    assert!(umoci.len() > 3000, "{}", umoci.len());
    for word in ["Symlink", "Directory", "RegularFile", " =", "4755"] {
        assert!(umoci.values().any(|line| line.contains(word)), "no {word}: the test tests less");
    }
    let tar = is_root().then(|| {
        assert!(umoci.values().any(|line| line.contains("security.capability")), "the test tests nothing");
        untar(Path::new(&archive), &scratch.path().join("tar"));
        tree(&scratch.path().join("tar"), compare)
    });
    for compression in [None, Some(Compression::Gzip)] {
        let builder = Layer::builder().tar(&archive);
        let builder = match compression {
            Some(compression) => builder.compression(compression),
            None => builder,
        };
        let layer = builder.build(&store).unwrap();
        let ours = tree_with_sub_ids(&layer.unpack(&[]).unwrap(), compare);
        let umoci = without_devices(umoci.clone(), &layer);
        assert_same(&ours, &umoci, &format!("umoci, {compression:?}"));
        if let Some(tar) = &tar {
            assert_same(&ours, tar, &format!("GNU tar, {compression:?}"));
        }
    }
}

/// Odd things, of which a distribution has few: sub-second and early times, pipes, attributes, ACLs, closed directories.
#[test]
#[ignore = "needs umoci, GNU tar, acl, attr and setcap: run with --include-ignored"]
fn oddities_unpack_as_umoci_unpacks_them() {
    let source = everything();
    let at = |name: &str| source.path().join(name).to_str().unwrap().to_owned();
    peer("setfacl", ["-m", "u:33:r--", &at("again")]);
    // Go's reader of archives takes an empty value for none.
    peer("setfattr", ["-x", "user.empty", &at("sub")]);
    let mut arguments = vec!["--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner"];
    if is_root() {
        peer("chown", ["-h", "33:44", &at("link"), &at("pipe"), &at("big"), &at("sub")]);
        peer("chmod", ["4711", &at("big")]);
        peer("setfattr", ["-n", "trusted.note", "-v", "x", &at("big")]);
        peer("setcap", ["cap_net_raw+ep", &at("empty")]);
    } else {
        // Whom files are given to, an ordinary user can't see afterwards.
        arguments.extend(["--owner=0", "--group=0"]);
    }
    let scratch = Scratch::new();
    let archive = scratch.path().join("odd.tar").to_str().unwrap().to_owned();
    arguments.extend(["-cf", &archive, "-C", source.path().to_str().unwrap(), "."]);
    peer("tar", &arguments);
    let compare = everything_comparable();
    let umoci = tree(&umoci_unpacks(scratch.path(), &archive), compare);
    let mut words = vec!["Fifo", "Symlink", " =", ".750000000", ".123456789", "user.note", "4711", "1500"];
    if is_root() {
        words.extend(["33:44", "trusted.note", "security.capability", "system.posix_acl_access"]);
    }
    for word in words {
        assert!(umoci.values().any(|line| line.contains(word)), "no {word}: {umoci:#?}");
    }
    let store = Store::open(scratch.path().join("store")).unwrap();
    let layer = Layer::builder().tar(&archive).build(&store).unwrap();
    assert_same(&tree(&layer.unpack(&[]).unwrap(), compare), &umoci, "umoci");
}

#[test]
#[ignore = "needs GNU tar: run with --include-ignored"]
fn all_formats_of_gnu_tar_unpack_as_tar_unpacks_them() {
    let source = everything();
    let at = |name: &str| source.path().join(name);
    // 8 MiB with data at three places.
    let sparse = std::fs::File::create(at("sparse")).unwrap();
    for offset in [4096, 3 << 20, (8 << 20) - 5000] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[9; 5000], offset).unwrap();
    }
    std::fs::File::create(at("hole")).unwrap().set_len(5 << 20).unwrap();
    let many = std::fs::File::create(at("many pieces")).unwrap();
    for piece in 0..60 {
        std::os::unix::fs::FileExt::write_all_at(&many, b"x", piece * 65536).unwrap();
    }
    drop((sparse, many));
    let scratch = Scratch::new();
    let store = Store::open(scratch.path().join("store")).unwrap();
    for (i, format) in [
        &["--format=gnu", "--sparse"][..],
        &["--format=gnu"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse"],
        &["--format=posix", "--hard-dereference"],
    ]
    .into_iter()
    .enumerate()
    {
        let archive = scratch.path().join(format!("{i}.tar"));
        let mut arguments = format.to_vec();
        if !is_root() {
            // Whom files are given to, an ordinary user can't see afterwards.
            arguments.extend(["--owner=0", "--group=0"]);
        }
        arguments.extend(["--numeric-owner", "-cf", archive.to_str().unwrap()]);
        arguments.extend(["-C", source.path().to_str().unwrap(), "."]);
        peer("tar", &arguments);
        let theirs = scratch.path().join(format!("{i}"));
        untar(&archive, &theirs);
        let compare = Compare { owners: is_root(), all_xattrs: false, root: true };
        let layer = Layer::builder().tar(&archive).build(&store).unwrap();
        let ours = layer.unpack(&[]).unwrap();
        assert_same(&tree(&ours, compare), &tree(&theirs, compare), &format!("{format:?}"));
        if format.contains(&"--sparse") {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(ours.join("hole").metadata().unwrap().blocks(), 0, "{format:?}");
        }
    }
}

#[test]
#[ignore = "needs GNU tar: run with --include-ignored"]
fn gnu_tar_reads_what_the_builder_writes() {
    let source = everything();
    let scratch = Scratch::new();
    let store = Store::open(scratch.path().join("store")).unwrap();
    let compare = Compare { owners: is_root(), all_xattrs: false, root: true };
    for compression in [Compression::None, Compression::Gzip] {
        let layer = Layer::builder().dir(source.path()).compression(compression).build(&store).unwrap();
        let blob = store.path().join("blobs/sha256").join(layer.digest().hex());
        let dir = scratch.path().join(format!("{compression:?}"));
        untar(&blob, &dir);
        assert_same(&tree(&dir, compare), &tree(source.path(), compare), &format!("{compression:?}"));
    }
}

#[test]
#[ignore = "needs root: mounts an overlay, beside unshare and umoci"]
fn the_overlay_shows_what_umoci_unpacks() {
    use crate::testing::Raw;
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let store = Store::open(path("store")).unwrap();
    let bottom = Raw::new()
        .dir("./")
        .dir("a")
        .mode(0o700)
        .file("a/x", "x")
        .file("a/y", "y")
        .dir("b")
        .file("b/deep", "1")
        .dir("c")
        .file("c/old", "1")
        .file("f", "f")
        .symlink("l", "f")
        .dir("m")
        .file("m/moved", "m");
    let middle = Raw::new()
        .dir("./")
        .dir("a")
        .file("a/.wh.x", "")
        .file("a/new", "n")
        .file(".wh.b", "")
        .dir("c")
        .file("c/.wh..wh..opq", "")
        .file("c/fresh", "2")
        .symlink("b", "c")
        .dir("m")
        .hard("m/name", "m/moved")
        .file("m/.wh.moved", "")
        .dir("n")
        .file("n/only here", "n");
    let top = Raw::new()
        .dir("./")
        .file(".wh.f", "")
        .file("a/implied", "i")
        .file(".wh.b", "")
        .dir("b")
        .file("b/again", "b")
        .dir("n")
        .file("n/.wh.only here", "")
        .file("n/.wh.never there", "")
        .dir("empty")
        .file("empty/.wh.never there", "");
    let image = format!("{}:layers", path("oci"));
    peer("umoci", ["init", "--layout", &path("oci")]);
    peer("umoci", ["new", "--image", &image]);
    let mut layers: Vec<Layer> = Vec::new();
    for (i, raw) in [bottom, middle, top].into_iter().enumerate() {
        let archive = path(&format!("{i}.tar"));
        std::fs::write(&archive, raw.end()).unwrap();
        peer("umoci", ["raw", "add-layer", "--image", &image, &archive]);
        layers.insert(0, Layer::builder().tar(&archive).build(&store).unwrap());
    }
    peer("umoci", ["raw", "unpack", "--image", &image, &path("umoci")]);
    let dirs: Vec<String> = (0..layers.len())
        .map(|i| layers[i].unpack(&layers[i + 1..]).unwrap().to_str().unwrap().to_owned())
        .collect();
    std::fs::create_dir(path("seen")).unwrap();
    std::fs::create_dir(path("copy")).unwrap();
    // The mount is in a namespace of the shell's, which copies what it sees.
    let script = "mount -t overlay overlay -o ro,lowerdir=$1 $2 && cp -a $2/. $3/ && ls -R $2 >$3.ls 2>&1";
    peer("unshare", ["-m", "sh", "-ec", script, "sh", &dirs.join(":"), &path("seen"), &path("copy")]);
    let compare = Compare { owners: true, all_xattrs: false, root: false };
    let mut umoci = tree(Path::new(&path("umoci")), compare);
    let mut ours = tree(Path::new(&path("copy")), compare);
    assert!(umoci.len() > 10, "{umoci:?}");
    // Times of directories that umoci changed after it had set them.
    for tree in [&mut umoci, &mut ours] {
        for line in tree.values_mut().filter(|line| line.starts_with("Directory")) {
            let words: Vec<_> =
                line.split(' ').filter(|word| !word.contains('.')).map(str::to_owned).collect();
            *line = words.join(" ");
        }
    }
    assert_same(&ours, &umoci, "umoci");
    // A whiteout that hides nothing would be listed as a file that can't be read.
    let listed = std::fs::read_to_string(path("copy.ls")).unwrap();
    assert!(!listed.contains("never there") && !listed.contains("cannot"), "{listed}");
}
