//! Images made of images: settings, layers, fewer layers, another base, and the whole as one archive.

use super::common::podman::Podman;
use super::files::{layer, lower, upper};
use super::*;
use coracle::{EntryKind, Healthcheck, Layer};
use std::time::UNIX_EPOCH;
use tar::EntryType::{Directory, Link, Regular};

fn of_layers(store: &Store, layers: Vec<Vec<u8>>) -> Image {
    load(store, &docker_archive(&[(&Fixture::of(layers), &[])])).unwrap().remove(0)
}

fn read(image: &Image, path: &str) -> String {
    let mut text = String::new();
    image.open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

fn export(image: &Image) -> Vec<u8> {
    let mut archive = Vec::new();
    image.export(&mut archive).unwrap();
    archive
}

/// The entries of a layer: path, kind, mode, owner, and the target of a link.
fn listed(layer: &Layer) -> Vec<(String, EntryKind, u32, u32, Option<String>)> {
    let shown = |path: &Path| path.to_str().unwrap().to_owned();
    let entries = layer.entries().unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let link = entry.link_target().map(shown);
            (shown(entry.path()), entry.kind(), entry.mode(), entry.uid(), link)
        })
        .collect()
}

fn paths(layer: &Layer) -> Vec<String> {
    listed(layer).into_iter().map(|entry| entry.0).collect()
}

#[track_caller]
fn assert_same_files(one: &Image, other: &Image) {
    let changes = one.diff(other).unwrap();
    assert!(changes.is_empty(), "{changes:?}");
    // Times, too, which a difference leaves out.
    let mut todo = vec![std::path::PathBuf::from("/")];
    while let Some(dir) = todo.pop() {
        let entries = one.entries(&dir).unwrap();
        assert_eq!(entries, other.entries(&dir).unwrap(), "{dir:?}");
        let directories = entries.iter().filter(|entry| entry.kind() == EntryKind::Directory);
        todo.extend(directories.map(|entry| Path::new("/").join(entry.path())));
    }
}

/// An image with a shell in it.
fn busybox(store: &Store) -> Image {
    let files = Layer::builder()
        .file_with_mode("bin/busybox", fs::read("/bin/busybox").expect("busybox-static"), 0o755)
        .symlink("busybox", "bin/sh")
        .symlink("busybox", "bin/cat");
    Image::scratch(store).unwrap().with_layer(&files.build(store).unwrap()).unwrap()
}

#[test]
fn of_a_chain_of_changes_its_end_is_left() {
    let store = Store::temp().unwrap();
    let make = |text: &str| {
        let image = Image::scratch(&store)?.with_created(UNIX_EPOCH)?;
        image.with_file("/etc/motd", text.to_owned())?.with_env("A", "1")?.with_cmd(["/bin/a", "b"])
    };
    let image = make("ahoy\n").unwrap();
    assert_eq!(read(&image, "etc/motd"), "ahoy\n");
    assert!(store.images().unwrap().is_empty() && image.references().unwrap().is_empty());
    assert_eq!(make("ahoy\n").unwrap().digest(), image.digest());
    assert_ne!(make("else\n").unwrap().digest(), image.digest());
    // Nobody has a name for it, so nobody finds it; who has it keeps it.
    assert_eq!(store.image(&image.id().to_string()).unwrap_err().kind(), ErrorKind::NotFound);
    image.tag("a:1").unwrap();
    make("gone\n").unwrap().tag("b:1").unwrap();
    store.remove_image("b:1").unwrap();
    assert_eq!(names(&store.image("a:1").unwrap()), ["a:1"]);
    // Manifest, configuration and the layer.
    assert_eq!(count(store.path().join("blobs/sha256")), 3);
    drop(image);
    store.remove_image("a:1").unwrap();
    assert_empty(&store);
}

#[test]
fn what_a_value_has_stays_while_others_are_removed() {
    let store = Store::temp().unwrap();
    let base = of_layers(&store, vec![lower()]);
    base.tag("base:1").unwrap();
    let image = base.with_file("/new", "new\n").unwrap();
    store.remove_image("base:1").unwrap();
    drop(base);
    assert_eq!(read(&image, "new") + &read(&image, "etc/passwd"), "new\nroot\n");
    image.tag("late:1").unwrap();
    drop(image);
    assert_eq!(read(&store.image("late:1").unwrap(), "usr/lib/os-release"), "ID=old\n");
}

#[test]
fn settings_are_set_and_taken_away() {
    let store = Store::temp().unwrap();
    let base = of_layers(&store, vec![lower()]);
    let (before, made) = (base.config().clone(), base.digest());
    let check = {
        let mut check = Healthcheck::default();
        check.test = vec!["CMD".into(), "/check".into()];
        check.interval = 1_000_000_000;
        check
    };
    let set = || -> coracle::Result<Image> {
        base.with_created(UNIX_EPOCH + Duration::from_secs(1))?
            .with_env("B", "x=y z")?
            .with_env("A", "2")?
            .with_label("l", "v")?
            .with_entrypoint(["/e", "f"])?
            .with_cmd(["c"])?
            .with_user("7:8")?
            .with_working_dir("/srv/")?
            .with_working_dir("www")?
            .with_volume("/data")?
            .with_exposed_port("80")?
            .with_exposed_port("100-101/udp")?
            .with_stop_signal("SIGINT")?
            .with_healthcheck(&check)?
            .with_shell(["/bin/bash", "-c"])?
            .with_author("me")
    };
    let image = set().unwrap();
    let config = image.config();
    assert_eq!(config.env(), ["A=2", "B=x=y z"]);
    assert_eq!((config.entrypoint(), config.cmd()), (&["/e".into(), "f".into()][..], &["c".into()][..]));
    assert_eq!((config.user(), config.working_dir()), ("7:8", "/srv/www"));
    assert_eq!(config.volumes().collect::<Vec<_>>(), ["/data"]);
    assert_eq!(config.exposed_ports().collect::<Vec<_>>(), ["100/udp", "101/udp", "80/tcp"]);
    assert_eq!((config.stop_signal(), config.author()), (Some("SIGINT"), Some("me")));
    assert_eq!((config.healthcheck(), config.labels()["l"].as_str()), (Some(&check), "v"));
    assert_eq!(config.shell(), Some(&["/bin/bash".into(), "-c".into()][..]));
    assert_eq!(image.created(), Some(UNIX_EPOCH + Duration::from_secs(1)));
    // Each is a line of history without a layer, and the image's layer is still that of its first line.
    let history = image.history().unwrap();
    assert_eq!(history.len(), 1 + 15);
    assert_eq!(history.iter().filter(|line| line.layer.is_some()).count(), 1);
    assert_eq!((history[0].created_by.as_str(), history[15].created_by.as_str()), ("test", "MAINTAINER me"));
    assert!(history[0].layer.is_some());
    assert_eq!(set().unwrap().digest(), image.digest());

    let less = image.without_env("B").and_then(|image| image.without_label("l")).unwrap();
    let less =
        less.without_volume("/data").and_then(|image| image.without_exposed_port("100-101/udp")).unwrap();
    assert_eq!((less.config().env(), less.config().labels().len()), (&["A=2".to_owned()][..], 0));
    assert_eq!((less.config().volumes().count(), less.config().exposed_ports().count()), (0, 1));
    // A new entrypoint has no old command.
    let other = image.with_entrypoint(["/other"]).unwrap();
    assert_eq!((other.config().entrypoint().len(), other.config().cmd().len()), (1, 0));
    // What it was made of is what it was.
    assert_eq!((base.config().json(), base.digest()), (before.json(), made));
}

#[test]
fn a_layer_follows_the_history_of_its_own() {
    let store = Store::temp().unwrap();
    // One line of history for two layers.
    let image = of_layers(&store, vec![lower(), upper()]).with_file("/x", "x").unwrap();
    let layers = image.layers().unwrap();
    assert_eq!(layers.len(), 3);
    let history = image.history().unwrap();
    let of: Vec<_> = history.iter().map(|line| line.diff_id.unwrap()).collect();
    assert_eq!(of, layers.iter().map(Layer::diff_id).collect::<Vec<_>>());
    assert!(history[2].created_by.contains("in /x"), "{history:?}");
    // What was made here is stored plain: a push compresses it.
    assert_eq!(layers[2].media_type(), "application/vnd.oci.image.layer.v1.tar");

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "of a directory").unwrap();
    fs::write(dir.path().join("x.tar"), upper()).unwrap();
    let from_dir = image.with_dir(dir.path()).unwrap();
    assert_eq!(read(&from_dir, "file"), "of a directory");
    let from_tar = image.with_tar(dir.path().join("x.tar")).unwrap();
    assert_eq!(from_tar.layers().unwrap()[3].diff_id(), Digest::of(&upper()));
    assert_eq!(from_tar.open("etc/gone").unwrap_err().kind(), ErrorKind::NotFound);
}

/// A layout whose image has docker's media types, as registries give it.
#[test]
fn of_dockers_manifest_comes_one_of_oci() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&["one", "two"]);
    let mut members = oci_members(&fixture, Some("app:1"), "+gzip", gzip);
    let is_manifest = |name: &str, data: &[u8]| name != "index.json" && text(data).contains("schemaVersion");
    let at = members.iter().position(|(name, data)| is_manifest(name, data)).unwrap();
    let manifest = text(&members[at].1)
        .replace("vnd.oci.image.layer.v1.tar+gzip", "vnd.docker.image.rootfs.diff.tar.gzip")
        .replace("vnd.oci.image.config.v1+json", "vnd.docker.container.image.v1+json")
        .replace("vnd.oci.image.manifest.v1+json", "vnd.docker.distribution.manifest.v2+json");
    members[at] =
        (format!("blobs/sha256/{}", Digest::of(manifest.as_bytes()).hex()), manifest.clone().into());
    let index = json!({"schemaVersion": 2, "manifests": [{"size": manifest.len(),
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": Digest::of(manifest.as_bytes())}]});
    let listed = members.iter().position(|(name, _)| name == "index.json").unwrap();
    members[listed].1 = index.to_string().into_bytes();
    write_layout(dir.path(), &members);
    let store = Store::temp().unwrap();
    let docker = Image::load(&store, dir.path()).unwrap().remove(0);
    assert!(docker.manifest_json().contains("docker"));
    let image = docker.with_label("a", "b").unwrap();
    assert!(!image.manifest_json().contains("docker"), "{}", image.manifest_json());
    assert_eq!(image.config().diff_ids(), docker.config().diff_ids());
    assert_same_files(&docker, &image);
}

#[test]
fn an_export_is_what_the_image_shows() {
    let store = Store::temp().unwrap();
    let image = of_layers(&store, vec![lower(), upper()]);
    let archive = export(&image);
    assert_eq!(archive, export(&image));
    let whole = Layer::read(&store, &archive[..]).unwrap();
    use EntryKind::{CharDevice, Fifo, File, HardLink, Symlink};
    let entry = |path: &str, kind, mode, uid, link: Option<&str>| {
        (path.to_owned(), kind, mode, uid, link.map(str::to_owned))
    };
    let expected = [
        entry("absolute", Symlink, 0o777, 0, Some("/etc/passwd")),
        entry("etc/", EntryKind::Directory, 0o755, 0, None),
        entry("fifo", Fifo, 0o600, 0, None),
        entry("hidden/", EntryKind::Directory, 0o755, 0, None),
        entry("home/", EntryKind::Directory, 0o700, 1000, None),
        entry("loop", Symlink, 0o777, 0, Some("loop")),
        entry("nowhere", Symlink, 0o777, 0, Some("/not/there")),
        entry("null", CharDevice, 0o666, 0, None),
        entry("out", Symlink, 0o777, 0, Some("../../../etc/passwd")),
        entry("same/", EntryKind::Directory, 0o755, 0, None),
        entry("usr/", EntryKind::Directory, 0o755, 0, None),
        entry("etc/os-release", Symlink, 0o777, 0, Some("../usr/lib/os-release")),
        entry("etc/other", File, 0o644, 0, None),
        entry("etc/passwd", HardLink, 0o644, 0, Some("etc/other")),
        entry("hidden/new", File, 0o600, 0, None),
        entry("home/key", File, 0o600, 1000, None),
        entry("same/file", File, 0o644, 0, None),
        entry("usr/lib/", EntryKind::Directory, 0o755, 0, None),
        entry("usr/lib/os-release", File, 0o644, 0, None),
    ];
    assert_eq!(listed(&whole), expected);
    let again = Import::new().reader(&store, &archive[..]).unwrap();
    assert_same_files(&image, &again);
    assert_eq!(export(&again), archive);
    // What the archive says of the root directory stays said.
    let root = layer(&[("./", Directory, "", 0o700), ("a", Regular, "a", 0o644)]);
    let image = of_layers(&store, vec![root, layer(&[("b", Regular, "b", 0o644)])]);
    let again = Import::new().reader(&store, &export(&image)[..]).unwrap();
    assert_eq!(listed(&again.layers().unwrap()[0])[0].2, 0o700);
    assert_same_files(&image, &again);
}

#[test]
fn extended_attributes_are_exported() {
    let store = Store::temp().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_pax_extensions([("SCHILY.xattr.user.note", &b"a\nb"[..])]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o4755);
    header.set_mtime(1_700_000_000);
    archive.append_data(&mut header, "file", &b"x"[..]).unwrap();
    let plain = archive.into_inner().unwrap();
    let image = of_layers(&store, vec![plain, layer(&[("other", Regular, "x", 0o644)])]);
    if image.entries("/").unwrap()[0].xattrs().count() == 0 {
        panic!("this file system has no user attributes: the test wants another TMPDIR");
    }
    for image in [image.squash().unwrap(), Import::new().reader(&store, &export(&image)[..]).unwrap()] {
        let entries = image.layers().unwrap()[0].entries().unwrap().map(|entry| entry.unwrap());
        let file = entries.into_iter().find(|entry| entry.path() == "file").unwrap();
        assert_eq!(file.mode(), 0o4755);
        assert_eq!(file.xattrs().collect::<Vec<_>>(), [("user.note".as_ref(), &b"a\nb"[..])]);
    }
}

#[test]
fn a_squashed_image_has_one_layer_and_the_same_files() {
    let store = Store::temp().unwrap();
    let image = of_layers(&store, vec![lower(), upper()]).with_created(UNIX_EPOCH).unwrap();
    let image = image.with_env("A", "2").unwrap();
    let squashed = image.squash().unwrap();
    let layers = squashed.layers().unwrap();
    assert_eq!(layers.len(), 1);
    assert!(paths(&layers[0]).iter().all(|path| !path.contains(".wh.")));
    let mut archive = Vec::new();
    fs::File::open(store.path().join("blobs/sha256").join(layers[0].digest().hex()))
        .unwrap()
        .read_to_end(&mut archive)
        .unwrap();
    assert_eq!(archive, export(&image));
    assert_same_files(&image, &squashed);
    assert_eq!(
        (squashed.config().env(), squashed.config().cmd()),
        (image.config().env(), image.config().cmd())
    );
    let history = squashed.history().unwrap();
    assert_eq!(history.len(), image.history().unwrap().len() + 1);
    let with_layer: Vec<_> = history.iter().map(|line| line.layer.is_some()).collect();
    assert_eq!(with_layer.iter().position(|has| *has), Some(history.len() - 1), "{history:?}");
    assert_eq!(image.squash().unwrap().digest(), squashed.digest());
    // Nothing to do.
    assert_eq!(squashed.squash().unwrap().digest(), squashed.digest());
    let scratch = Image::scratch(&store).unwrap();
    assert_eq!(scratch.squash().unwrap().digest(), scratch.digest());
    assert_eq!(export(&scratch), [0; 1024]);
}

#[test]
fn what_is_above_a_base_becomes_one_layer() {
    let store = Store::temp().unwrap();
    let base = of_layers(&store, vec![lower()]);
    let image = base.with_created(UNIX_EPOCH).unwrap();
    let add = |image: &Image, files: &[_]| {
        image.with_layer(&Layer::read(&store, &layer(files)[..]).unwrap()).unwrap()
    };
    let image = add(&image, &[("etc/.wh.passwd", Regular, "", 0o644), ("tmp/a", Regular, "a", 0o644)]);
    // A file becomes a directory, a directory a file, a directory another one; a device goes.
    let image = add(
        &image,
        &[
            (".wh.out", Regular, "", 0o644),
            ("out/in", Regular, "in", 0o600),
            (".wh.same", Regular, "", 0o644),
            ("same", Regular, "now a file", 0o644),
            ("hidden/.wh..wh..opq", Regular, "", 0o644),
            ("hidden/deep/new", Regular, "new", 0o644),
            (".wh.null", Regular, "", 0o644),
            ("tmp/b", Link, "tmp/a", 0o644),
        ],
    );
    // Gone again.
    let image = add(&image, &[(".wh.fifo", Regular, "", 0o644), ("tmp/.wh.a", Regular, "", 0o644)]);
    let squashed = image.squash_onto(&base).unwrap();
    let layers = squashed.layers().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[0].digest(), base.layers().unwrap()[0].digest());
    assert_eq!(
        paths(&layers[1]),
        [
            "etc/",
            "hidden/",
            "out/",
            "same",
            "tmp/",
            ".wh.fifo",
            ".wh.null",
            "etc/.wh.passwd",
            "hidden/deep/",
            "hidden/.wh.old",
            "hidden/deep/new",
            "out/in",
            "tmp/b",
        ]
    );
    assert_same_files(&image, &squashed);
    let history = squashed.history().unwrap();
    assert_eq!(history.iter().filter(|line| line.layer.is_some()).count(), 2);
    assert!(history[0].layer.is_some() && history.last().unwrap().layer.is_some(), "{history:?}");
    // One layer above it is one already.
    assert_eq!(squashed.squash_onto(&base).unwrap().digest(), squashed.digest());
    let error = image.squash_onto(&image.with_file("/x", "x").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn another_base_comes_below_the_same_layers() {
    let store = Store::temp().unwrap();
    let old = of_layers(&store, vec![lower()]).with_label("version", "1").unwrap();
    let app = old.with_file("/app", "app\n").unwrap().with_env("MODE", "fast").unwrap();
    let app = app.with_file("/etc/passwd", "mine\n").unwrap().with_user("9").unwrap();
    let newer = layer(&[
        ("etc/", Directory, "", 0o755),
        ("etc/passwd", Regular, "newer\n", 0o644),
        ("etc/new", Regular, "new\n", 0o644),
    ]);
    let new = of_layers(&store, vec![newer.clone(), layer(&[("etc/newer", Regular, "", 0o600)])]);
    let new = new.with_env("A", "2").unwrap().with_label("version", "2").unwrap().with_user("1").unwrap();
    let app = app.with_created(UNIX_EPOCH).unwrap();
    let rebased = app.rebase(&old, &new).unwrap();
    assert_eq!(
        read(&rebased, "app") + &read(&rebased, "etc/passwd") + &read(&rebased, "etc/new"),
        "app\nmine\nnew\n"
    );
    assert_eq!(rebased.open("etc/gone").unwrap_err().kind(), ErrorKind::NotFound);
    let config = rebased.config();
    assert_eq!(
        (config.env(), config.labels()["version"].as_str()),
        (&["A=2".to_owned(), "MODE=fast".into()][..], "2")
    );
    assert_eq!((config.user(), config.cmd()), ("9", &["/bin/sh".to_owned()][..]));
    let digests = |image: &Image| image.layers().unwrap().iter().map(Layer::digest).collect::<Vec<_>>();
    assert_eq!(digests(&rebased), [digests(&new), digests(&app)[1..].to_vec()].concat());
    // The new base's lines, then the application's own.
    let lines: Vec<_> =
        rebased.history().unwrap().into_iter().map(|line| (line.created_by, line.diff_id)).collect();
    let base = new.history().unwrap();
    assert!(
        base.iter().zip(&lines).all(|(base, line)| (&base.created_by, base.diff_id) == (&line.0, line.1))
    );
    let rest = &lines[base.len()..];
    assert_eq!(rest.len(), 4 + 1, "{lines:?}");
    assert!(
        rest[0].0.contains("in /app") && rest[0].1 == Some(app.layers().unwrap()[1].diff_id()),
        "{lines:?}"
    );
    assert_eq!(app.rebase(&old, &new).unwrap().digest(), rebased.digest());
    // And back.
    let back = rebased.rebase(&new, &old).unwrap();
    assert_same_files(&app, &back);
    assert_eq!((back.config().env(), back.config().labels()), (app.config().env(), app.config().labels()));
    // The old base may be another store's: only what its layers are called counts.
    let elsewhere = Store::temp().unwrap();
    let other_old = of_layers(&elsewhere, vec![lower()]).with_label("version", "1").unwrap();
    assert_eq!(app.rebase(&other_old, &new).unwrap().config().env(), config.env());
}

#[test]
fn what_can_not_be_is_refused_and_leaves_nothing() {
    let (store, elsewhere) = (Store::temp().unwrap(), Store::temp().unwrap());
    let host = Image::host(&store).unwrap();
    let image = of_layers(&store, vec![lower()]).with_file("/a", "a").unwrap();
    image.tag("app").unwrap();
    let old = of_layers(&store, vec![lower()]);
    old.tag("old").unwrap();
    let stranger = Fixture::of_machine(vec![lower()], "s390x");
    let stranger = load(&store, &docker_archive(&[(&stranger, &["stranger"])])).unwrap().remove(0);
    let before = (count(store.path().join("blobs/sha256")), count(store.path().join("layers")));
    let theirs = Layer::builder().file("x", "x").build(&elsewhere).unwrap();
    let foreign = of_layers(&elsewhere, vec![layer(&[("y", Regular, "y", 0o644)])]);
    let missing = Path::new("/nowhere/at all");
    for (what, result, kind) in [
        ("host", host.with_env("A", "1"), ErrorKind::Unsupported),
        ("host", host.with_file("/a", "b"), ErrorKind::Unsupported),
        ("host", host.squash(), ErrorKind::Unsupported),
        ("host", host.with_created(UNIX_EPOCH), ErrorKind::Unsupported),
        ("host", host.rebase(&old, &old), ErrorKind::Unsupported),
        ("host", image.rebase(&host, &old), ErrorKind::Unsupported),
        ("host", image.rebase(&old, &host), ErrorKind::Unsupported),
        ("host", image.squash_onto(&host), ErrorKind::Unsupported),
        ("layer of another store", image.with_layer(&theirs), ErrorKind::InvalidInput),
        ("base of another store", image.rebase(&old, &foreign), ErrorKind::InvalidInput),
        ("not its base", image.rebase(&foreign, &old), ErrorKind::InvalidInput),
        ("above it", old.rebase(&image, &old), ErrorKind::InvalidInput),
        ("another machine's", image.rebase(&old, &stranger), ErrorKind::InvalidInput),
        ("not its base", image.squash_onto(&foreign), ErrorKind::InvalidInput),
        ("no name", image.with_env("", "x"), ErrorKind::InvalidInput),
        ("=", image.with_env("A=B", "x"), ErrorKind::InvalidInput),
        ("NUL", image.with_cmd(["a\0b"]), ErrorKind::InvalidInput),
        ("NUL", image.with_user("a\0b"), ErrorKind::InvalidInput),
        ("no label", image.with_label("", "x"), ErrorKind::InvalidInput),
        ("no port", image.with_exposed_port("http"), ErrorKind::InvalidInput),
        ("no volume", image.with_volume(""), ErrorKind::InvalidInput),
        ("no signal", image.with_stop_signal("SIGNO"), ErrorKind::InvalidInput),
        ("no shell", image.with_shell([""; 0]), ErrorKind::InvalidInput),
        ("..", image.with_file("../a", "x"), ErrorKind::InvalidInput),
        ("root", image.with_file("/", "x"), ErrorKind::InvalidInput),
        ("whiteout", image.with_file("/.wh.a", "x"), ErrorKind::InvalidInput),
        ("no directory", image.with_dir(missing), ErrorKind::NotFound),
        ("no archive", image.with_tar(missing), ErrorKind::NotFound),
        ("no archive", image.with_tar("/etc/passwd"), ErrorKind::InvalidData),
    ] {
        let error = result.map(|image| image.config().json().to_owned()).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
    let error = image.with_env("BIG", "x".repeat(5 << 20)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    // A hard link to what only the old base has.
    let linked =
        old.with_layer(&Layer::read(&store, &layer(&[("etc/link", Link, "etc/passwd", 0o644)])[..]).unwrap());
    let linked = linked.unwrap();
    let empty = Image::scratch(&store).unwrap();
    let error = linked.rebase(&old, &empty).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    drop((linked, empty));
    // What failed is garbage by now.
    old.with_file("/x", "x").unwrap().tag("x").unwrap();
    store.remove_image("x").unwrap();
    let after = (count(store.path().join("blobs/sha256")), count(store.path().join("layers")));
    assert_eq!(after, before);
    assert_eq!(count(store.path().join("tmp")), 0);
}

#[test]
fn no_image_has_more_layers_than_could_run() {
    let store = Store::temp().unwrap();
    let layers = Fixture::new(&[""; 499]);
    let image = of_layers(&store, layers.layers);
    assert_eq!(image.with_file("a", "a").unwrap_err().kind(), ErrorKind::TooLarge);
    let squashed = image.squash().unwrap().with_file("a", "a").unwrap();
    assert_eq!((squashed.layers().unwrap().len(), squashed.entries("dir").unwrap().len()), (2, 499));
}

#[test]
#[cfg(feature = "build")]
fn an_import_takes_changes_as_docker_does() {
    let store = Store::temp().unwrap();
    let rootfs = tar([("bin/sh", Node::File(b"#!"))]);
    let import = Import::new().cmd(["/bin/sh"]).env("DIR", "/srv").expose("90");
    let import = import.change("WORKDIR $DIR/www").change("ENV A=\"x y\" B='$A'").change("EXPOSE 80-81");
    let image = import.clone().change("LABEL dir=$DIR").reader(&store, &rootfs[..]).unwrap();
    let config = image.config();
    assert_eq!((config.working_dir(), config.labels()["dir"].as_str()), ("/srv/www", "/srv"));
    assert_eq!(
        (config.env(), config.cmd()),
        (&["DIR=/srv".into(), "A=x y".into(), "B=$A".into()][..], &["/bin/sh".into()][..])
    );
    assert_eq!(config.exposed_ports().collect::<Vec<_>>(), ["80/tcp", "81/tcp", "90/tcp"]);
    let image = import.clone().change("ENTRYPOINT [\"/e\"]").reader(&store, &rootfs[..]).unwrap();
    assert_eq!((image.config().entrypoint().len(), image.config().cmd().len()), (1, 0));
    let before = count(store.path().join("blobs/sha256"));
    for (change, kind) in [
        ("RUN true", ErrorKind::InvalidInput),
        ("EXPOSE x", ErrorKind::InvalidInput),
        ("NONSENSE", ErrorKind::InvalidData),
    ] {
        // A reader that would fail: nothing is read before.
        let error = import.clone().change(change).reader(&store, &b""[..]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(change.split(' ').next().unwrap()), "{error}");
    }
    assert_eq!(count(store.path().join("blobs/sha256")), before);
    let image = image.with_change("ENV C=$A\nUSER 5").unwrap();
    assert_eq!(
        (image.config().env().last().map(String::as_str), image.config().user()),
        (Some("C=x y"), "5")
    );
}

#[test]
#[ignore = "needs /bin/busybox (busybox-static): run with --include-ignored"]
fn what_was_squashed_and_rebased_runs() {
    let store = Store::temp().unwrap();
    let base = busybox(&store);
    let old = base.with_file("/etc/version", "1\n").unwrap();
    let app = old.with_file("/etc/app", "app\n").unwrap();
    let app =
        app.with_entrypoint(["/bin/sh", "-c"]).unwrap().with_cmd(["cat /etc/version /etc/app"]).unwrap();
    let new = base.with_file("/etc/version", "2\n").unwrap();
    let rebased = app.rebase(&old, &new).unwrap();
    let squashed = rebased.squash().unwrap();
    let onto = rebased.squash_onto(&base).unwrap();
    assert_eq!([&app, &rebased, &squashed, &onto].map(|image| image.layers().unwrap().len()), [3, 3, 1, 2]);
    for (image, text) in [(&app, "1\napp"), (&rebased, "2\napp"), (&squashed, "2\napp"), (&onto, "2\napp")] {
        assert_eq!(say(&coracle::Container::builder(image)), text);
    }
    // A container of what has no name keeps it.
    let container = coracle::Container::builder(&squashed).create().unwrap();
    drop((squashed, onto, rebased, new, app, old));
    base.with_file("/x", "x").unwrap().tag("x").unwrap();
    store.remove_image("x").unwrap();
    container.start().unwrap();
    assert!(container.wait().unwrap().success());
}

#[test]
#[ignore = "needs skopeo, umoci and podman: run with --include-ignored"]
fn other_tools_read_what_was_edited() {
    let name = format!("coracle-edited-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in("/var/tmp").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = of_layers(&store, vec![lower_without_devices(), upper()]);
    let edited =
        base.with_file("/a", "a\n").unwrap().with_label("l", "v").unwrap().with_exposed_port("80").unwrap();
    let scratch = Image::scratch(&store).unwrap().with_file("/etc/passwd", "other\n").unwrap();
    let all = [
        ("edited:1", edited.clone()),
        ("squashed:1", edited.squash().unwrap()),
        ("onto:1", edited.squash_onto(&base).unwrap()),
        ("rebased:1", edited.rebase(&base, &scratch).unwrap()),
        ("scratch:1", scratch),
    ];
    let podman = Podman::new();
    let whole = tempfile::NamedTempFile::new().unwrap();
    let whole = whole.path().to_str().unwrap();
    for (name, image) in &all {
        image.tag(name).unwrap();
        let source = format!("oci:{}:{name}", store.path().display());
        let seen: Value = serde_json::from_str(&peer("skopeo", ["inspect", &source])).unwrap();
        assert_eq!(seen["Digest"], image.digest().to_string(), "{name}");
        let at = format!("{}:{name}", store.path().display());
        let seen: Value = serde_json::from_str(&peer("umoci", ["stat", "--json", "--image", &at])).unwrap();
        let lines = seen["history"].as_array().unwrap();
        let layers = lines.iter().filter(|line| line["empty_layer"] != json!(true)).count();
        assert_eq!(
            (lines.len(), layers),
            (image.history().unwrap().len(), image.layers().unwrap().len()),
            "{name}"
        );
        let pulled = podman.run(&["pull", "--quiet", &source]);
        assert_eq!(pulled.trim(), image.id().hex(), "{name}");
        assert_eq!(podman.inspect("{{.Digest}}", pulled.trim()), image.digest().to_string(), "{name}");
        fs::remove_file(whole).unwrap();
        podman.run(&["save", "--quiet", "--output", whole, pulled.trim()]);
        let back = Image::load(&Store::temp().unwrap(), whole).unwrap().remove(0);
        assert_same_files(image, &back);
        podman.clear();
    }
    // What umoci unpacks of a squashed image is what it unpacks of the image itself.
    let unpacked = |name: &str| {
        let bundle = dir.path().join(format!("bundle-{}", name.replace(':', "-")));
        let at = format!("{}:{name}", store.path().display());
        let args = ["unpack", "--rootless", "--image", &at, bundle.to_str().unwrap()];
        peer("umoci", args);
        let found = peer("find", [bundle.join("rootfs").to_str().unwrap(), "-printf", "%P %y %m %l %s\n"]);
        let mut lines: Vec<_> = found
            .lines()
            .filter(|line| line.contains(" f ") || line.contains(" l "))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let expected = unpacked("edited:1");
    assert!(expected.len() > 5);
    assert_eq!(unpacked("squashed:1"), expected);
    assert_eq!(unpacked("onto:1"), expected);
}

/// Rootless tools make no nodes.
fn lower_without_devices() -> Vec<u8> {
    layer(&[
        ("etc/", Directory, "", 0o755),
        ("etc/os-release", tar::EntryType::Symlink, "../usr/lib/os-release", 0o777),
        ("etc/passwd", Regular, "root\n", 0o644),
        ("etc/gone", Regular, "gone\n", 0o644),
        ("usr/lib/", Directory, "", 0o755),
        ("usr/lib/os-release", Regular, "ID=old\n", 0o644),
        ("hidden/", Directory, "", 0o755),
        ("hidden/old", Regular, "old\n", 0o644),
    ])
}
