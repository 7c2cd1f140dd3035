//! What a file keeps on its way: owner, mode, times, attributes, names.

use super::*;
use coracle::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, SystemTime};

/// What the container itself says of its files.
#[track_caller]
fn said(container: &Container, script: &str) -> String {
    let out = container.exec(["sh", "-c", script]).output().unwrap();
    assert!(out.status.success(), "{}", out.stderr_text());
    out.stdout_text().trim_end().to_owned()
}

fn running() -> Container {
    ready(&sh(&host(), "echo; sleep 1000"))
}

/// A tree with everything that is kept.
fn tree(dir: &Path) {
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("d/f"), "f").unwrap();
    fs::hard_link(dir.join("d/f"), dir.join("d/same")).unwrap();
    std::os::unix::fs::symlink("f", dir.join("d/l")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("d/p"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("d/f", 0o641);
    mode("d/p", 0o620);
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    fs::File::open(dir.join("d/f")).unwrap().set_modified(old).unwrap();
    fs::File::open(dir.join("d")).unwrap().set_modified(old).unwrap();
    mode("d", 0o1751);
}

#[test]
fn modes_times_and_names_are_kept_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    everywhere(|container| {
        container.copy_in(dir.path().join("d"), "/kept").unwrap();
        let out = tempfile::tempdir().unwrap();
        container.copy_out("/kept", out.path().join("d")).unwrap();
        for name in ["d", "d/f", "d/same", "d/l", "d/p"] {
            let [before, after] =
                [dir.path(), out.path()].map(|top| top.join(name).symlink_metadata().unwrap());
            assert_eq!(after.mode(), before.mode(), "{name}");
            if name != "d/l" && name != "d/p" {
                assert_eq!(after.modified().unwrap(), before.modified().unwrap(), "{name}");
            }
            assert_eq!(after.nlink(), before.nlink(), "{name}");
        }
        assert_eq!(outside(out.path()), outside(dir.path()));
        let ino = |name: &str| fs::metadata(out.path().join(name)).unwrap().ino();
        assert_eq!(ino("d/f"), ino("d/same"));
    });
    let container = running();
    container.copy_in(dir.path().join("d"), "/kept").unwrap();
    let listed =
        said(&container, "cd /kept; stat -c '%n %a %u:%g %h %.Y' . f same; stat -c '%n %a %u:%g' l p");
    let expected = ". 1751 0:0 2 1500000000.123456789\nf 641 0:0 2 1500000000.123456789\n\
                    same 641 0:0 2 1500000000.123456789\nl 777 0:0\np 620 0:0";
    assert_eq!(listed, expected);
}

#[test]
fn without_archive_files_become_the_roots_and_the_callers() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    fs::write(&file, "x").unwrap();
    if is_root() {
        chown(&file, Some(1234), Some(1235)).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
    let container = running();
    container.copy_in(&file, "/f").unwrap();
    // It is another user's file now: nothing is executed as that one.
    assert_eq!(said(&container, "stat -c '%u:%g %a' /f"), "0:0 755");
    container.copying().copy_in_tar(&tar([("t", Node::File(b"t"))])[..], "/").unwrap();
    assert_eq!(said(&container, "stat -c '%u:%g' /t"), "0:0");
    said(&container, "echo x >/s; chmod 6711 /s");
    if !is_single(&container) {
        said(&container, "chown 33:34 /s; chmod 6711 /s");
    }
    let out = dir.path().join("s");
    container.copy_out("/s", &out).unwrap();
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!(stat(&out), (me.0, me.1, 0o711));
}

#[test]
fn with_archive_they_keep_their_owners() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    fs::write(&file, "x").unwrap();
    let container = running();
    let copying = container.copying().archive(true);
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let ids = if is_root() { (1234, 1235) } else { me };
    if is_root() {
        chown(&file, Some(1234), Some(1235)).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    if is_single(&container) {
        let error = copying.copy_in(&file, "/f").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.remedy().is_some(), "{error}");
        return;
    }
    copying.copy_in(&file, "/f").unwrap();
    assert_eq!(said(&container, "stat -c '%u:%g %a' /f"), format!("{}:{} 4755", ids.0, ids.1));
    said(&container, "echo x >/s; chown 33:34 /s; chmod 4711 /s");
    let out = dir.path().join("s");
    copying.copy_out("/s", &out).unwrap();
    // Whoever may not give it away has it, and it is no other user's program.
    let expected = if is_root() { (33, 34, 0o4711) } else { (me.0, me.1, 0o711) };
    assert_eq!(stat(&out), expected);
    // An archive has the container's ids, whoever looks.
    let mut archive = Vec::new();
    container.copying().copy_out_tar("/s", &mut archive).unwrap();
    let mut archive = tar::Archive::new(&archive[..]);
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    let header = entry.header();
    let found = (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap() & 0o7777);
    assert_eq!(found, (33, 34, 0o4711));
}

#[test]
fn an_id_that_the_container_has_not_is_named() {
    let container = running();
    let mut header = tar::Header::new_ustar();
    header.set_path("f").unwrap();
    header.set_uid(200_000);
    header.set_gid(0);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_mtime(0);
    header.set_cksum();
    let archive = [&header.as_bytes()[..], &[0; 1024]].concat();
    let error = container.copying().archive(true).copy_in_tar(&archive[..], "/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("200000") && error.remedy().is_some(), "{error}");
    container.copying().copy_in_tar(&archive[..], "/").unwrap();
}

#[test]
fn attributes_of_users_are_kept_and_no_others() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = dir.path().join("f");
    fs::write(&file, "x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&file, name, value, flags);
    if set("user.note", b"kept") == Err(rustix::io::Errno::OPNOTSUPP) {
        panic!("/var/tmp has no extended attributes");
    }
    set("user.overlay.opaque", b"y").unwrap();
    const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if is_root() {
        set("security.capability", &CAPABILITY).unwrap();
        set("trusted.note", b"not kept").unwrap();
    }
    let names = |path: &Path| {
        let mut names = vec![0; 4096];
        let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
        let mut names: Vec<_> = names[..length]
            .split(|&b| b == 0)
            .filter(|name| !name.is_empty() && *name != b"security.selinux")
            .map(|name| String::from_utf8(name.to_vec()).unwrap())
            .collect();
        names.sort();
        names
    };
    everywhere(|container| {
        container.copy_in(&file, "/f").unwrap();
        container.copy_out("/f", dir.path().join("plain")).unwrap();
        assert_eq!(names(&dir.path().join("plain")), ["user.note"]);
        fs::remove_file(dir.path().join("plain")).unwrap();
        if is_root() {
            let copying = container.copying().archive(true);
            copying.copy_in(&file, "/f").unwrap();
            copying.copy_out("/f", dir.path().join("full")).unwrap();
            assert_eq!(names(&dir.path().join("full")), ["security.capability", "user.note"]);
            let mut value = [0; 64];
            let length =
                rustix::fs::getxattr(dir.path().join("full"), "security.capability", &mut value[..]).unwrap();
            assert_eq!(value[..length], CAPABILITY);
        }
        // By an archive nothing more comes in.
        let mut header = tar::Header::new_ustar();
        header.set_path("g").unwrap();
        header.set_mode(0o644);
        header.set_size(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        let pax = [("SCHILY.xattr.user.a", &b"1"[..]), ("SCHILY.xattr.user.overlay.redirect", b"/x")];
        let pax = pax.into_iter().chain([
            ("SCHILY.xattr.trusted.overlay.redirect", &b"/x"[..]),
            ("SCHILY.xattr.security.capability", &CAPABILITY),
        ]);
        archive.append_pax_extensions(pax).unwrap();
        archive.append(&header, &b""[..]).unwrap();
        container.copying().copy_in_tar(&archive.into_inner().unwrap()[..], "/").unwrap();
        container.copying().archive(true).copy_out("/g", dir.path().join("g")).unwrap();
        assert_eq!(names(&dir.path().join("g")), ["user.a"]);
        fs::remove_file(dir.path().join("g")).unwrap();
    });
}

#[test]
fn what_can_not_be_copied_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "f").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let container = running();
    let copied = container.copy_in(dir.path(), "/t").unwrap();
    let [(path, why)] = copied.left_out() else { panic!("{copied:?}") };
    assert_eq!((path.to_str(), why.as_str()), (Some("s"), "a socket"));
    assert_eq!(inside(&container, "/t"), ["f=f"]);
    // Devices, and what the kernel makes up, unless it is asked for by its name.
    let out = tempfile::tempdir().unwrap();
    let copied = container.copy_out("/dev", out.path().join("dev")).unwrap();
    assert!(copied.left_out().iter().any(|(path, why)| path.ends_with("null") && why == "a device"));
    assert!(!out.path().join("dev/null").exists());
    container.copy_out("/proc/version", out.path()).unwrap();
    let version = fs::read_to_string("/proc/version").unwrap();
    assert_eq!(fs::read_to_string(out.path().join("version")).unwrap(), version);
    // Of a page, says its size.
    container.copy_out("/sys/devices/virtual/net/lo/mtu", out.path()).unwrap();
    assert_eq!(fs::read_to_string(out.path().join("mtu")).unwrap(), "65536\n");
    // A binary one has its own, of several megabytes, where the kernel was built with it.
    let types = "/sys/kernel/btf/vmlinux";
    if let Ok(bytes) = fs::read(types) {
        container.copy_out(types, out.path()).unwrap();
        assert!(fs::read(out.path().join("vmlinux")).unwrap() == bytes);
    }
}
