//! Files, mounts, volumes, the root filesystem.
use super::*;
use coracle::{Mount, Volume};
use std::fs;

#[test]
fn files_are_written_before_the_start() {
    let image = host();
    let builder = sh(&image, "cat /made/here/a; stat -c %a:%u:%g /made/here/a; /b; stat -c %a /made")
        .file("/made/here/a", "text\n")
        .file_mode("/b", "#!/bin/sh\necho ran\n", 0o755);
    assert_eq!(say(&builder), "text\n644:0:0\nran\n755");
    let all = sh(&image, "cat /made /srv/own /tmp/in /empty")
        .file("/made", "a")
        .file("/tmp/in", "b")
        .file("/empty", "");
    assert_eq!(say(&all.file("/srv/own", "c").read_only(true)), "acb");
    let error = sh(&image, "true").file("relative", "x").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(sh(&image, "true").file("/a/../b", "x").run().unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// What is mounted later would hide them.
#[test]
fn files_are_seen_in_a_tmpfs_and_refused_elsewhere() {
    let image = host();
    let script = "cat /t/a /t/made/b /t/t2/c; stat -c %a:%u /t/a; ls -A /t/t2; mv /t/a /t/gone";
    let volume = Volume::create(image.store(), "data").unwrap();
    let container = sh(&image, script)
        .file("/t/a", "a")
        .file("/t/made/b", "b")
        .tmpfs("/t")
        .volume(&volume, "/t/v")
        .tmpfs("/t/t2")
        .file_mode("/t/t2/c", "c\n", 0o600)
        .create()
        .unwrap();
    for _ in 0..2 {
        container.start().unwrap();
        assert!(container.wait().unwrap().success(), "{}", text(&container.logs(Stream::Stderr).unwrap()));
        assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), "abc\n644:0\nc");
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = || sh(&image, "true").file("/t/v/a", "x");
    for builder in [
        plain().volume(&volume, "/t/v"),
        plain().tmpfs("/t").bind(dir.path(), "/t/v"),
        plain().mount(Mount::tmpfs("/t").read_only()),
        plain().tmpfs("/t/v/a"),
    ] {
        let error = builder.create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.path() == Some("/t/v/a".as_ref()) && error.remedy().is_some(), "{error}");
    }
    assert_eq!(image.store().volumes().unwrap().len(), 1);
}

/// The files of /etc that every container gets are the caller's where the caller says so.
#[test]
fn files_of_etc_can_be_given() {
    let image = host();
    let given = sh(&image, "cat /etc/hosts /etc/resolv.conf; hostname; cat /etc/hostname")
        .file("/etc/hosts", "192.0.2.1 given\n")
        .file("/etc/resolv.conf", "nameserver 192.0.2.2\n")
        .hostname("box");
    assert_eq!(say(&given), "192.0.2.1 given\nnameserver 192.0.2.2\nbox\nbox");
    // Longer than any that is made.
    let names = (0..40_000).fold(sh(&image, "wc -l </etc/hosts"), |builder, n| {
        builder.host(format!("a-name-of-some-length-{n}"), [192, 0, 2, 1].into())
    });
    assert!(say(&names).parse::<u32>().unwrap() > 40_000);
}

#[test]
fn a_read_only_root_can_not_be_written() {
    let image = host();
    let script = "touch /x 2>/dev/null && echo root; touch /etc/x 2>/dev/null && echo etc; \
        touch /t/x && touch /dev/shm/x && echo mounts";
    assert_eq!(say(&sh(&image, script).read_only(true).tmpfs("/t")), "mounts");
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    let image = host();
    let mount = Mount::tmpfs("/t").size(1 << 20).mode(0o700);
    let script = "stat -c %a /t; df -k --output=size /t | tail -1 | tr -d ' '; \
        head -c 2000000 /dev/zero >/t/x 2>/dev/null || echo full; \
        printf '#!/bin/sh\n' >/t/run; chmod 755 /t/run; rm /t/x; /t/run 2>/dev/null || echo noexec";
    assert_eq!(say(&sh(&image, script).mount(mount.clone())), "700\n1024\nfull\nnoexec");
    let exec =
        sh(&image, "printf '#!/bin/sh\\necho ran\\n' >/t/run; chmod 755 /t/run; /t/run").mount(mount.exec());
    assert_eq!(say(&exec), "ran");
}

#[test]
fn binds_show_the_hosts_files() {
    let image = host();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), "from the host").unwrap();
    let mount = Mount::bind(dir.path(), "/b");
    let script = "cat /b/in; echo; echo out >/b/out; stat -c %u /b/in /b/out";
    assert_eq!(say(&sh(&image, script).mount(mount.clone())), "from the host\n0\n0");
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "out\n");
    // Container root wrote as the caller.
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::geteuid().as_raw();
    assert_eq!(fs::metadata(dir.path().join("out")).unwrap().uid(), me);
    let script =
        "cat /b/in; touch /b/no 2>/dev/null || echo; mount -o remount,rw /b 2>/dev/null && echo bad; true";
    assert_eq!(say(&sh(&image, script).mount(mount.read_only())), "from the host");
    assert!(!dir.path().join("no").exists());
    let file = Mount::bind(dir.path().join("in"), "/one/file");
    assert_eq!(say(&sh(&image, "cat /one/file").mount(file)), "from the host");
    let error = sh(&image, "true").bind("/no/such/directory", "/b").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn volumes_outlive_containers() {
    let image = host();
    let store = image.store();
    let volume = Volume::create(store, "site").unwrap();
    say(&sh(&image, "echo one >/v/a; chown 33:33 /v/a 2>/dev/null; true").volume(&volume, "/v"));
    assert_eq!(say(&sh(&image, "cat /w/a").volume(&volume, "/w")), "one");
    let read_only = Mount::volume("site", "/v").read_only();
    assert_eq!(
        say(&sh(&image, "cat /v/a; touch /v/b 2>/dev/null || echo refused").mount(read_only)),
        "one\nrefused"
    );
    let user = sh(&image, "true").volume(&volume, "/v").create().unwrap();
    assert_eq!(volume.remove().unwrap_err().kind(), ErrorKind::InUse);
    user.remove().unwrap();
    volume.remove().unwrap();
    assert_eq!(store.volumes().unwrap().len(), 0);
}

/// As `node_modules` of its own in a project's directory: the place is made in what lies beneath, as container root's.
#[test]
fn a_mount_within_another_finds_its_place_or_makes_it() {
    let image = host();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = dir.path().join("one");
    fs::write(&file, "bound").unwrap();
    let script =
        "cat /v/deep/er/one; stat -c %u:%g /v/deep /v/deep/er; echo own > /v/in/file; stat -c %u /v/in";
    let builder = sh(&image, script)
        .mount(Mount::volume("outer", "/v"))
        .mount(Mount::volume("inner", "/v/in"))
        .mount(Mount::bind(&file, "/v/deep/er/one").read_only());
    for _ in 0..2 {
        assert_eq!(say(&builder), "bound0:0\n0:0\n0");
    }
    let volume = |name| Volume::open(image.store(), name).unwrap();
    assert_eq!(fs::read_to_string(volume("inner").path().join("file")).unwrap(), "own\n");
    assert_eq!(fs::read(volume("outer").path().join("deep/er/one")).unwrap(), b"");
    assert_eq!(fs::read_dir(volume("outer").path().join("in")).unwrap().count(), 0);
    // In a directory of the host's that is somebody's own, whom the container does not have, likewise.
    let bound = sh(&image, "ls /b").mount(Mount::bind(dir.path(), "/b")).mount(Mount::tmpfs("/b/made"));
    assert_eq!(say(&bound), "made\none");
    let read_only = sh(&image, "true").mount(Mount::bind(dir.path(), "/b").read_only());
    let error = read_only.mount(Mount::tmpfs("/b/missing")).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
}

#[test]
fn nothing_of_the_host_is_copied_into_a_volume() {
    let image = host();
    let volume = Volume::create(image.store(), "apt").unwrap();
    assert_eq!(say(&sh(&image, "ls -A /etc/apt").volume(&volume, "/etc/apt")), "");
}

#[test]
fn anonymous_volumes_go_with_their_container() {
    let image = host();
    let mount = Mount::anonymous_volume("/v");
    let container = sh(&image, "touch /v/x").mount(mount).start().unwrap();
    assert!(container.wait().unwrap().success());
    assert_eq!(image.store().volumes().unwrap().len(), 1);
    container.remove().unwrap();
    assert_eq!(image.store().volumes().unwrap().len(), 0);
}

#[test]
fn what_can_not_be_made_leaves_nothing() {
    let image = host();
    let store = image.store();
    let anonymous = || sh(&image, "true").mount(coracle::Mount::anonymous_volume("/a"));
    let error = anonymous().mount(coracle::Mount::volume("no/name", "/b")).create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    // Such a record nobody could read: not this container's, and with it those of all others.
    let error = anonymous().file("/large", vec![0xff; 16 << 20]).create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert_eq!((store.volumes().unwrap().len(), store.containers().unwrap().len()), (0, 0));
}

#[test]
fn the_writable_layer_can_be_in_memory_and_bounded() {
    let image = host();
    let builder = sh(&image, "head -c 9000000 /dev/zero >/x 2>/dev/null || echo full; touch /y || true");
    assert_eq!(say(&builder.clone().writable_in_memory(true).disk_max(4 << 20)), "full");
    assert_eq!(say(&builder.clone().writable_in_memory(true)), "");
    let container = builder.writable_in_memory(true).create().unwrap();
    assert_eq!(container.keep().unwrap_err().kind(), ErrorKind::State);
}

/// A layer with busybox, and the places that a container needs, that says what the root directory is like.
pub fn busybox(mode: u32, uid: u64, gid: u64) -> Vec<u8> {
    let program = fs::read("/bin/busybox").expect("busybox-static, which this test needs");
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, mode, uid, gid, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, path, data).unwrap();
    };
    add("./", tar::EntryType::Directory, mode, uid, gid, b"");
    add("bin/", tar::EntryType::Directory, 0o755, 0, 0, b"");
    add("bin/busybox", tar::EntryType::Regular, 0o755, 0, 0, &program);
    for place in ["proc/", "sys/", "dev/", "etc/"] {
        add(place, tar::EntryType::Directory, 0o755, 0, 0, b"");
    }
    archive.into_inner().unwrap()
}

/// An image of these layers, lowest first.
pub fn image_of(store: &Store, layers: Vec<Vec<u8>>) -> Image {
    let archive = docker_archive(&[(&Fixture::of(layers), &["layers:1"])]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), archive).unwrap();
    Image::load(store, file.path()).unwrap().remove(0)
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn the_root_directory_is_as_the_image_says() {
    let store = Store::temp().unwrap();
    let look = ["/bin/busybox", "stat", "-c", "%a %u:%g %Y", "/"];
    let above = common::tar([("etc/above", Node::File(b"a layer that says nothing of it"))]);
    let image = image_of(&store, vec![busybox(0o711, 33, 34), above]);
    for in_memory in [false, true] {
        let builder = Container::builder(&image).writable_in_memory(in_memory);
        assert_eq!(say(&builder.command(look)), "711 33:34 1600000000", "in memory: {in_memory}");
    }
    // It holds: another user may go through and not look.
    let other = Container::builder(&image).user("77").command(["/bin/busybox", "sh", "-c", "cd / && ls"]);
    let out = other.run().unwrap();
    assert!(!out.status.success() && out.stderr_text().contains("denied"), "{}", out.stderr_text());

    // What a container makes of it stays its own, also for its next start.
    let change = "busybox test -e /kept || { busybox touch /kept; busybox chmod 1750 /; busybox chown 5:6 /; }; \
        busybox stat -c '%a %u:%g' /";
    let container = Container::builder(&image).command(["/bin/busybox", "sh", "-c", change]);
    let container = container.name("own").create().unwrap();
    for _ in 0..2 {
        container.start().unwrap();
        assert!(container.wait().unwrap().success());
        assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), "1750 5:6");
    }
    container.keep().unwrap();
    let container = store.container("own").unwrap();
    container.start().unwrap();
    container.wait().unwrap();
    assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), "1750 5:6");
    container.remove().unwrap();
    assert_eq!(
        say(&Container::builder(&image).command(look)),
        "711 33:34 1600000000",
        "the image did not change"
    );
}
