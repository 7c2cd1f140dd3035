#![forbid(unsafe_code)]

use super::*;
use crate::layer::below::is_whiteout;
use crate::layer::mapped::Mapped;
use crate::layer::owner::{Direct, Recorded};
use crate::layer::tar::ReadLimits;
use crate::layer::testing::{Random, Raw, damage, record};
use crate::sys::idmap::{Extent, IdMap};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::TempDir;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn target() -> Target<'static> {
    Target::for_caller(if is_root() { &Direct } else { &Recorded })
}

/// A layer of a test.
struct Made {
    dir: TempDir,
    meta: LayerMeta,
}

impl Made {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Directories may be closed to their owner.
        let parent = std::fs::File::open(self.dir.path().parent().unwrap()).unwrap();
        let _ = crate::store::remove_tree(parent.as_fd(), self.dir.path().file_name().unwrap());
    }
}

fn unpack_with(archive: &[u8], below: &[&Made], target: &Target<'_>) -> Result<Made> {
    let dir = tempfile::tempdir().unwrap();
    let root = std::fs::File::open(dir.path()).unwrap();
    let dirs: Vec<_> = below.iter().map(|made| std::fs::File::open(made.dir.path()).unwrap()).collect();
    let lowers = dirs.iter().zip(below).map(|(dir, made)| Lower::new(dir.as_fd(), || Ok(made.meta.clone())));
    let mut reader = Reader::new(archive, ReadLimits::default());
    let outcome = Unpacker::new(root.as_fd(), lowers.collect(), target).and_then(|u| u.unpack(&mut reader));
    let made = Made { dir, meta: LayerMeta::default() };
    outcome.map(|outcome| Made { meta: outcome.meta, dir: tempfile::tempdir().unwrap() }).map(
        |mut with_meta| {
            let mut made = made;
            std::mem::swap(&mut made.dir, &mut with_meta.dir);
            with_meta
        },
    )
}

/// `below`: the topmost first.
fn unpack(archive: Raw, below: &[&Made]) -> Made {
    unpack_with(&archive.end(), below, &target()).unwrap()
}

fn refused(archive: Raw, below: &[&Made]) -> ErrorKind {
    match unpack_with(&archive.end(), below, &target()) {
        Err(error) => error.kind(),
        Ok(made) => panic!("it was unpacked: {:?}", tree(&made)),
    }
}

/// What is on disk, one line a file.
fn tree(made: &Made) -> Vec<String> {
    fn add(dir: &Path, shown: &str, lines: &mut Vec<String>) {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for name in names {
            let path = dir.join(&name);
            let shown = format!("{shown}{name}");
            let stat = rustix::fs::lstat(&path).unwrap();
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let opaque = if is_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
                    let mut value = [0; 8];
                    let opaque = rustix::fs::lgetxattr(&path, opaque, &mut value[..]).is_ok();
                    lines.push(format!("{shown}/{}", if opaque { " opaque" } else { "" }));
                    add(&path, &format!("{shown}/"), lines);
                }
                FileType::Symlink => {
                    lines.push(format!("{shown} -> {}", std::fs::read_link(&path).unwrap().display()));
                }
                FileType::RegularFile => {
                    lines.push(format!("{shown} = {}", std::fs::read_to_string(&path).unwrap()));
                }
                _ if is_whiteout(&stat) => lines.push(format!("{shown} whiteout")),
                kind => lines.push(format!("{shown} {kind:?}")),
            }
        }
    }
    let mut lines = Vec::new();
    add(made.dir.path(), "", &mut lines);
    lines
}

#[test]
fn types_modes_and_times() {
    let archive = Raw::new()
        .dir("./")
        .mode(0o711)
        .pax(&[("mtime", b"-1.25")])
        .dir("closed")
        .mode(0o555)
        .pax(&[("mtime", b"3.000000007")])
        .file("closed/file", "text")
        .mode(0o6755)
        .pax(&[("mtime", b"5.5")])
        .symlink("closed/link", "/nowhere/../at all")
        .header(b"closed/pipe", b'6', 0, |_| ())
        .mode(0o622)
        .dir("sticky")
        .mode(0o3777);
    let made = unpack(archive, &[]);
    let stat = |name: &str| std::fs::symlink_metadata(made.path(name)).unwrap();
    let mode = |name: &str| stat(name).mode() & 0o7777;
    let time = |name: &str| (stat(name).mtime(), stat(name).mtime_nsec());
    assert_eq!((mode(""), mode("closed"), mode("closed/file")), (0o711, 0o555, 0o6755));
    assert_eq!((mode("sticky"), mode("closed/pipe")), (0o3777, 0o622));
    assert_eq!(time("closed"), (-2, 750_000_000));
    assert_eq!(time("closed/file"), (3, 7));
    assert_eq!(time("closed/link"), (5, 500_000_000));
    assert_eq!(time("closed/pipe"), (1_000_000_000, 0));
    assert_eq!(std::fs::read_link(made.path("closed/link")).unwrap(), Path::new("/nowhere/../at all"));
    assert!(made.meta.self_contained && made.meta.root);
    assert_eq!(made.meta.entries, 6);
}

#[test]
fn a_directory_that_is_closed_to_its_owner_takes_files() {
    let archive =
        Raw::new().dir("d").mode(0).file("d/f", "x").dir("d/e").mode(0o500).file("d/e/g", "y").mode(0);
    let made = unpack(archive, &[]);
    assert_eq!(made.path("d").metadata().unwrap().mode() & 0o7777, 0);
    std::fs::set_permissions(made.path("d"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(std::fs::symlink_metadata(made.path("d/e/g")).unwrap().mode() & 0o7777, 0);
}

#[test]
fn owners_and_capabilities_are_set_or_recorded() {
    let capability = b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let archive = Raw::new()
        .pax(&[("uid", b"1234"), ("gid", b"4000000000"), ("SCHILY.xattr.security.capability", capability)])
        .file("tool", "")
        .mode(0o4755)
        .pax(&[("uid", b"7")])
        .symlink("link", "tool")
        .hard("other", "tool")
        .pax(&[("gid", b"8")])
        .dir("d")
        .file("plain", "");
    let made = unpack(archive, &[]);
    let stat = |name: &str| std::fs::symlink_metadata(made.path(name)).unwrap();
    let owner = |name: &str| (stat(name).uid(), stat(name).gid());
    assert_eq!(stat("tool").mode() & 0o7777, 0o4755);
    if is_root() {
        assert_eq!(owner("tool"), (1234, 4_000_000_000));
        assert_eq!((owner("link"), owner("d"), owner("plain")), ((7, 0), (0, 8), (0, 0)));
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(made.path("tool"), "security.capability", &mut value[..]).unwrap();
        assert_eq!(&value[..length], capability);
        assert!(made.meta.owners.is_empty());
    } else {
        let owners: Vec<_> =
            made.meta.owners.iter().map(|(path, owner)| (text(&path.0), owner.uid, owner.gid)).collect();
        let all =
            [("d", 0, 8), ("link", 7, 0), ("other", 1234, 4_000_000_000), ("tool", 1234, 4_000_000_000)];
        assert_eq!(owners, all.map(|(path, uid, gid)| (Path::new(path), uid, gid)));
        assert_eq!(made.meta.owners[&b"tool"[..]].capability.as_deref(), Some(&capability[..]));
    }
}

#[test]
fn direct_owners_give_files_away_by_name() {
    // An ordinary user may give a file to nobody but to itself.
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (uid, gid) = if is_root() { (11, 12) } else { own };
    let made = unpack(Raw::new().file("f", "").symlink("l", "/etc/passwd"), &[]);
    let owned =
        |path: &std::ffi::CStr, mode| Owned { path: path.to_owned(), uid, gid, mode, capability: None };
    let root = std::fs::File::open(made.dir.path()).unwrap();
    Direct.apply(root.as_fd(), &[owned(c"f", Some(0o4711)), owned(c"l", None)]).unwrap();
    for name in ["f", "l"] {
        let stat = std::fs::symlink_metadata(made.path(name)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (uid, gid), "{name}");
    }
    assert_eq!(made.path("f").metadata().unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(std::fs::metadata("/etc/passwd").unwrap().uid(), 0);
}

#[test]
fn attributes_that_steer_the_overlay_are_left_out_and_told() {
    let archive = Raw::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("LIBARCHIVE.xattr.user.overlay%2eredirect", b"L2V0Yw"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.user.kept", b"v"),
        ])
        .dir("d")
        .pax(&[("SCHILY.xattr.user.overlay.metacopy", b""), ("SCHILY.xattr.user.kept", b"v")])
        .file("f", "")
        .mode(0o400)
        .pax(&[("SCHILY.xattr.user.a", b"v")])
        .symlink("l", "f");
    let made = unpack(archive, &[]);
    for name in ["d", "f"] {
        let mut names = [0; 256];
        let length = rustix::fs::llistxattr(made.path(name), &mut names[..]).unwrap();
        assert_eq!(names[..length].escape_ascii().to_string(), "user.kept\\x00", "{name}");
    }
    let told: Vec<_> =
        made.meta.skipped.iter().map(|s| (text(&s.path.0).to_owned(), s.what.clone())).collect();
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(told.iter().any(|(_, what)| what == "user.overlay.redirect: steers the overlay"), "{told:?}");
}

#[test]
fn an_acl_is_set_with_its_mode() {
    // Version 2; u::rw-, u:1000:rwx, g::r--, m::rwx, o::---.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 7, 1000), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let text = b"user::rw-,user:1000:rwx,group::r--,mask::rwx,other::---";
    for (key, value) in [("SCHILY.xattr.system.posix_acl_access", &acl[..]), ("SCHILY.acl.access", text)] {
        // Of the ids that an ordinary user's containers have, as they are on disk; where it has none, of nobody.
        let extent = |inside, outside, count| Extent { inside, outside, count };
        let extents = vec![extent(0, 500, 1), extent(1, 100_000, 65535)];
        let mapped = Mapped::new(IdMap { users: extents.clone(), groups: extents });
        let owners: [(Option<&dyn Owners>, _); 3] =
            [(None, Some(1000)), (Some(&mapped), Some(100_999)), (Some(&Recorded), None)];
        for (owners, id) in owners.into_iter().skip(usize::from(!is_root())) {
            let target = Target { owners, ..target() };
            let archive = Raw::new().pax(&[(key, value)]).file("f", "").mode(0o670).end();
            let made = unpack_with(&archive, &[], &target).unwrap();
            let mut on_disk = [0; 256];
            let read = rustix::fs::lgetxattr(made.path("f"), "system.posix_acl_access", &mut on_disk[..]);
            match (id, made.meta.skipped.first()) {
                (Some(id), None) => {
                    let mut expected = acl.clone();
                    expected[16..20].copy_from_slice(&u32::to_le_bytes(id));
                    assert_eq!(on_disk[..read.unwrap()], expected, "{key}");
                }
                (None, Some(skipped)) => {
                    assert!(skipped.what.contains("no sub-ids") && read.is_err(), "{skipped:?}");
                    let mode = std::fs::metadata(made.path("f")).unwrap().mode();
                    assert_eq!(mode & 0o777, 0o640, "the group's own rights, not the mask");
                }
                (_, skipped) => assert!(skipped.unwrap().what.contains("not on this file system")),
            }
        }
    }
    // Only a directory has one for what is new in it, and a link none.
    let plain = [&acl[..12], &acl[20..28], &acl[36..]].concat();
    let default = [("SCHILY.xattr.system.posix_acl_default", &plain[..])];
    let access = [("SCHILY.xattr.system.posix_acl_access", &plain[..])];
    let raw = Raw::new().pax(&default).dir("d").pax(&default).file("f", "");
    let made = unpack(raw.pax(&access).symlink("l", "f").pax(&access).file("g", ""), &[]);
    let skipped: Vec<_> = made.meta.skipped.iter().map(|s| (s.path.0.as_slice(), &*s.what)).collect();
    if !skipped.iter().any(|(_, what)| what.contains("not on this file system")) {
        let why = |name: &str| format!("system.posix_acl_{name}: not on this kind of file");
        assert_eq!(skipped, [(&b"f"[..], &*why("default")), (b"l", &*why("access"))]);
        let read = |path, name| rustix::fs::lgetxattr(made.path(path), name, &mut [0; 256][..]);
        assert_eq!(read("d", "system.posix_acl_default"), Ok(plain.len()));
    }
    let named =
        unpack(Raw::new().pax(&[("SCHILY.acl.access", b"user::rw-,user:joe:rwx")]).file("f", ""), &[]);
    assert!(
        named.meta.skipped[0].what.contains("SCHILY.acl.access: names users"),
        "{:?}",
        named.meta.skipped
    );
    let broken = Raw::new().pax(&[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0junk")]).file("f", "");
    assert!(unpack_with(&broken.end(), &[], &target()).is_err_and(|e| e.kind() == ErrorKind::InvalidData));
}

#[test]
fn the_later_entry_counts() {
    let table = [
        (Raw::new().file("a", "1").file("a", "2"), vec!["a = 2"]),
        (Raw::new().file("a", "1").symlink("a", "b"), vec!["a -> b"]),
        (Raw::new().symlink("a", "b").file("a", "1"), vec!["a = 1"]),
        (Raw::new().dir("a").file("a/b", "1").file("a", "2"), vec!["a = 2"]),
        (Raw::new().dir("a").file("a/b", "1").symlink("a", "c"), vec!["a -> c"]),
        // What lies below has been hidden by the file, so it does not come back.
        (Raw::new().file("a", "1").dir("a").file("a/b", "2"), vec!["a/ opaque", "a/b = 2"]),
        (Raw::new().symlink("a", "/").dir("a").file("a/b", "2"), vec!["a/ opaque", "a/b = 2"]),
        (Raw::new().device("a", b'3', 1, 3).dir("a"), vec!["a/ opaque"]),
        (Raw::new().device("a", b'3', 1, 3).file("a", "1"), vec!["a = 1"]),
        (Raw::new().file("a", "1").device("a", b'3', 1, 3), vec![]),
        (Raw::new().dir("a").file("a/b", "1").dir("a").mode(0o700), vec!["a/", "a/b = 1"]),
        (Raw::new().file("a", "1").hard("b", "a").file("a", "2"), vec!["a = 2", "b = 1"]),
        (Raw::new().file("a", "1").file("b", "2").hard("b", "a"), vec!["a = 1", "b = 1"]),
        (Raw::new().file("a", "1").hard("a", "a"), vec!["a = 1"]),
        (Raw::new().file("d/a", "1").hard("./d//b", "/d/a"), vec!["d/", "d/a = 1", "d/b = 1"]),
        (Raw::new().symlink("s", "x").hard("t", "s"), vec!["s -> x", "t -> x"]),
    ];
    for (i, (archive, expected)) in table.into_iter().enumerate() {
        assert_eq!(tree(&unpack(archive, &[])), expected, "row {i}");
    }
}

#[test]
fn links_in_paths_lead_no_further_than_the_root() {
    let canary = tempfile::tempdir().unwrap();
    let outside = canary.path().to_str().unwrap();
    let long = outside.trim_start_matches('/');
    let table = [
        // Inside the image, the target is made.
        (Raw::new().symlink("a", outside).file("a/f", "x"), vec![format!("{long}/f = x")]),
        (
            Raw::new().symlink("a", &format!("../../../..{outside}")).file("a/f", "x"),
            vec![format!("{long}/f = x")],
        ),
        (Raw::new().symlink("a", "b/..").file("a/f", "x"), vec!["f = x".into()]),
        (Raw::new().dir("b").symlink("a", "b").symlink("c", "a").file("c/f", "x"), vec!["b/f = x".into()]),
        (Raw::new().file(outside, "x"), vec![format!("{long} = x")]),
        (Raw::new().symlink("a", "/").dir("a/b").file("a/b/f", "x"), vec!["b/f = x".into()]),
    ];
    for (i, (archive, expected)) in table.into_iter().enumerate() {
        let made = unpack(archive, &[]);
        let tree = tree(&made);
        for line in expected {
            assert!(tree.contains(&line), "row {i}: {line} in {tree:?}");
        }
        assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0, "row {i}");
    }
    for (i, archive) in [
        Raw::new().symlink("a", "a").file("a/f", ""),
        Raw::new().symlink("a", "b").symlink("b", "a").file("a/f", ""),
        Raw::new().file("a", "").file("a/f", ""),
        Raw::new().file("a", "").symlink("b", "a").file("b/f", ""),
        Raw::new().device("a", b'3', 1, 3).file("a/f", ""),
        Raw::new().file("../f", ""),
        Raw::new().file("a/../../f", ""),
        Raw::new().hard("a", "../../../etc/passwd"),
        Raw::new().hard("a", "/etc/passwd"),
        Raw::new().symlink("e", "/etc").hard("a", "e/passwd"),
        Raw::new().dir("d").hard("a", "d"),
        Raw::new().hard("a", "/"),
        Raw::new().hard("a", "a"),
        Raw::new().hard("a", "d/.wh.x"),
        Raw::new().dir("a").file("a/b", "").hard("a", "a/b"),
        Raw::new().header(b".", b'6', 0, |_| ()),
        Raw::new().symlink(".", "/etc"),
        Raw::new().file(".wh.", ""),
        Raw::new().file("a/.wh..", ""),
        Raw::new().file("a/.wh...", ""),
        Raw::new().file(".wh.a/b", ""),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(refused(archive, &[]), ErrorKind::InvalidData, "row {i}");
    }
}

/// `a/x`, `a/y/z`, `f`, and a link `l` to `a`.
fn lower() -> Made {
    let archive = Raw::new()
        .pax(&[("mtime", b"44.5"), ("SCHILY.xattr.user.of", b"below")])
        .dir("a")
        .mode(0o751)
        .file("a/x", "x")
        .dir("a/y")
        .file("a/y/z", "z")
        .pax(&[("mtime", b"77.7")])
        .file("f", "f")
        .mode(0o640)
        .symlink("l", "a");
    unpack(archive, &[])
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    let lower = lower();
    let row = |archive: Raw, expected: &[&str]| {
        let made = unpack(archive, &[&lower]);
        assert_eq!(tree(&made), expected);
        assert!(!made.meta.self_contained);
    };
    row(Raw::new().file(".wh.f", ""), &["f whiteout"]);
    row(Raw::new().file("a/.wh.x", ""), &["a/", "a/x whiteout"]);
    row(Raw::new().dir("a").file("a/.wh.x", ""), &["a/", "a/x whiteout"]);
    row(Raw::new().file("a/.wh.nothing", ""), &[]);
    row(Raw::new().file("b/.wh.nothing", ""), &[]);
    row(Raw::new().file("f/.wh.nothing", ""), &[]);
    row(Raw::new().file("l/.wh.x", ""), &[]);
    row(Raw::new().file("f", "new").file("f/.wh.x", ""), &["f = new"]);
    // The same layer's own file stays, whichever comes first.
    row(Raw::new().file("f", "new").file(".wh.f", ""), &["f = new"]);
    row(Raw::new().file(".wh.f", "").file("f", "new"), &["f = new"]);
    row(Raw::new().dir("a").file("a/n", "n").file(".wh.a", ""), &["a/ opaque", "a/n = n"]);
    row(Raw::new().file(".wh.a", "").dir("a").file("a/n", "n"), &["a/ opaque", "a/n = n"]);
    row(Raw::new().file(".wh.a", "").file("a/n", "n"), &["a/ opaque", "a/n = n"]);
    row(Raw::new().file(".wh.a", "").symlink("a", "n"), &["a -> n"]);
    row(Raw::new().file("a/.wh..wh..opq", ""), &["a/ opaque"]);
    row(Raw::new().file("a/.wh.x", "").file("a/.wh..wh..opq", ""), &["a/ opaque"]);
    row(Raw::new().file("b/.wh..wh..opq", ""), &[]);
    row(Raw::new().file(".wh..wh..opq", "").file("f", "n"), &["a whiteout", "f = n", "l whiteout"]);
    row(Raw::new().file(".wh..wh..opq", "").dir("a"), &["a/ opaque", "f whiteout", "l whiteout"]);
    // Through a link of this layer.
    row(Raw::new().symlink("s", "a").file("s/.wh.x", ""), &["a/", "a/x whiteout", "s -> a"]);
    // A link that is below is no way.
    row(Raw::new().file("l/n", "n"), &["l/", "l/n = n"]);
    // aufs had its own.
    let made = unpack(Raw::new().file(".wh..wh.plnk/1.2", "").file("a/.wh..wh.aufs", ""), &[&lower]);
    assert_eq!(tree(&made), [""; 0]);
    // Opaque and of this layer: nothing is asked of the layers below.
    let made = unpack(Raw::new().dir("a").file("a/.wh..wh..opq", ""), &[&lower]);
    assert_eq!((tree(&made), made.meta.self_contained), (vec!["a/ opaque".to_owned()], true));
}

#[test]
fn without_layers_below_whiteouts_hide_nothing() {
    let made = unpack(Raw::new().file(".wh.f", "").file("a/.wh.x", "").file(".wh..wh..opq", ""), &[]);
    assert_eq!(tree(&made), [""; 0]);
    assert!(!made.meta.self_contained);
}

#[test]
fn several_layers_below_are_seen_as_one() {
    let bottom = lower();
    let middle =
        unpack(Raw::new().file(".wh.f", "").dir("a").file("a/.wh.x", "").file("a/n", "n"), &[&bottom]);
    let opaque = unpack(Raw::new().dir("a").file("a/.wh..wh..opq", ""), &[&middle, &bottom]);
    let below = [&middle, &bottom];
    // What is hidden already needs no whiteout, and can't be linked to.
    assert_eq!(tree(&unpack(Raw::new().file(".wh.f", "").file("a/.wh.x", ""), &below)), [""; 0]);
    assert_eq!(tree(&unpack(Raw::new().file("a/.wh.n", ""), &below)), ["a/", "a/n whiteout"]);
    assert_eq!(tree(&unpack(Raw::new().file("a/y/.wh.z", ""), &below)), ["a/", "a/y/", "a/y/z whiteout"]);
    assert_eq!(refused(Raw::new().hard("h", "f"), &below), ErrorKind::InvalidData);
    let below = [&opaque, &middle, &bottom];
    assert_eq!(tree(&unpack(Raw::new().file("a/.wh.n", "").file("a/y/.wh.z", ""), &below)), [""; 0]);
    assert_eq!(tree(&unpack(Raw::new().file(".wh.a", ""), &below)), ["a whiteout"]);
}

#[test]
fn missing_parents_are_as_they_are_below() {
    let lower = lower();
    let made = unpack(Raw::new().file("a/n", "n").file("new/dir/f", ""), &[&lower]);
    let a = made.path("a").metadata().unwrap();
    assert_eq!((a.mode() & 0o7777, a.mtime(), a.mtime_nsec()), (0o751, 44, 500_000_000));
    let mut value = [0; 8];
    let length = rustix::fs::lgetxattr(made.path("a"), "user.of", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"below");
    let new = made.path("new/dir").metadata().unwrap();
    assert_eq!((new.mode() & 0o7777, new.mtime()), (0o755, 0));
    assert!(!made.meta.self_contained);
    // With the parents in the archive, in whatever order, nothing is asked of the layers below.
    let made = unpack(Raw::new().file("a/n", "n").dir("a").mode(0o700), &[&lower]);
    assert_eq!(made.path("a").metadata().unwrap().mode() & 0o7777, 0o700);
    assert!(made.meta.self_contained);
}

#[test]
fn hard_links_to_files_below_bring_them_up() {
    let lower = lower();
    let made = unpack(Raw::new().hard("g", "f").hard("a/y/again", "f"), &[&lower]);
    assert_eq!(tree(&made), ["a/", "a/y/", "a/y/again = f", "f = f", "g = f"]);
    let stats = ["f", "g", "a/y/again"].map(|name| made.path(name).metadata().unwrap());
    assert!(stats.iter().all(|stat| stat.ino() == stats[0].ino() && stat.nlink() == 3));
    assert_eq!((stats[0].mode() & 0o7777, stats[0].mtime(), stats[0].mtime_nsec()), (0o640, 77, 700_000_000));
    assert!(!made.meta.self_contained);
    assert_eq!(made.path("a").metadata().unwrap().mode() & 0o7777, 0o751);
    // The layer below keeps its own.
    assert_eq!(lower.path("f").metadata().unwrap().nlink(), 1);
    // The old name goes, the new one stays: a file was moved.
    for archive in [Raw::new().hard("g", "f").file(".wh.f", ""), Raw::new().file(".wh.f", "").hard("g", "f")]
    {
        assert_eq!(tree(&unpack(archive, &[&lower])), ["f whiteout", "g = f"]);
    }
    assert_eq!(tree(&unpack(Raw::new().hard("m", "l"), &[&lower])), ["l -> a", "m -> a"]);
    assert_eq!(refused(Raw::new().hard("b", "a"), &[&lower]), ErrorKind::InvalidData);
    assert_eq!(refused(Raw::new().hard("b", "l/x"), &[&lower]), ErrorKind::InvalidData);
    assert_eq!(refused(Raw::new().hard("b", "f/x"), &[&lower]), ErrorKind::InvalidData);
}

#[test]
fn devices_are_kept_in_the_metadata_alone() {
    let lower = lower();
    let archive = Raw::new()
        .device("null", b'3', 1, 3)
        .mode(0o666)
        .device("f", b'4', 8, 0)
        .hard("zero", "null")
        .device("dev/whiteout", b'3', 0, 0);
    let made = unpack(archive, &[&lower]);
    // A device is hidden like anything else, and hides.
    assert_eq!(tree(&made), ["dev/", "f whiteout"]);
    let device = |name: &str| &made.meta.devices[name.as_bytes()];
    assert_eq!((device("null").major, device("null").minor, device("null").mode), (1, 3, 0o666));
    assert!(device("f").block && device("zero") == device("null"));
    assert_eq!(made.meta.devices.len(), 4);
    assert!(!made.meta.self_contained);
    let above = unpack(Raw::new().file(".wh.null", "").hard("n", "zero"), &[&made, &lower]);
    assert_eq!(tree(&above), ["null whiteout"]);
    assert_eq!(above.meta.devices.keys().map(|p| &p.0[..]).collect::<Vec<_>>(), [b"n".as_slice(), b"zero"]);
}

#[test]
fn limits_are_errors() {
    let many = (0..50).fold(Raw::new(), |raw, i| raw.file(&format!("d/{i}"), "")).end();
    let limited = |limits| Target { limits, ..target() };
    let few = limited(Limits { entries: 20, ..Limits::default() });
    assert!(unpack_with(&many, &[], &few).is_err_and(|e| e.kind() == ErrorKind::TooLarge));
    let deep = Raw::new().pax(&[("path", "d/".repeat(400).as_bytes())]).dir("x").end();
    assert!(unpack_with(&deep, &[], &few).is_err_and(|e| e.kind() == ErrorKind::TooLarge));
    let dirs = (0..50).fold(Raw::new(), |raw, i| raw.dir(&i.to_string())).end();
    let small = limited(Limits { memory: 2000, ..Limits::default() });
    assert!(unpack_with(&dirs, &[], &small).is_err_and(|e| e.kind() == ErrorKind::TooLarge));
    let long = "n".repeat(256);
    for path in [long.clone(), "d/".repeat(513), format!("{}f", "d/".repeat(2100))] {
        let archive = Raw::new().pax(&[("path", path.as_bytes())]).file("x", "");
        assert_eq!(refused(archive, &[]), ErrorKind::TooLarge);
    }
}

#[test]
fn what_is_told_of_attributes_left_out_is_bounded() {
    // As long as the kernel takes it, and four times as long where it is shown.
    let name = format!("LIBARCHIVE.xattr.user.overlay.{}", "%ff".repeat(242));
    let file = |raw: Raw, n: usize| raw.pax(&[(&name, b"")]).file(&n.to_string(), "");
    let archive = (0..50).fold(Raw::new(), file).end();
    let limited = |memory| Target { limits: Limits { memory, ..Limits::default() }, ..target() };
    let made = unpack_with(&archive, &[], &limited(50 * 400)).unwrap();
    assert_eq!(made.meta.skipped.len(), 50);
    for Skipped { what, .. } in &made.meta.skipped {
        assert!(what.len() < 300 && what.ends_with("…: steers the overlay"), "{what}");
    }
    let error = unpack_with(&archive, &[], &limited(50 * 256)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

#[test]
fn holes_stay_holes() {
    let archive = Raw::new()
        .pax(&[("GNU.sparse.size", b"1099511627776"), ("GNU.sparse.map", b"1048576,3")])
        .file("s", "abc");
    match unpack_with(&archive.end(), &[], &target()) {
        Ok(made) => {
            let stat = made.path("s").metadata().unwrap();
            assert_eq!(stat.len(), 1 << 40);
            assert!(stat.blocks() < 1000);
            let mut data = [0; 5];
            std::os::unix::fs::FileExt::read_at(
                &std::fs::File::open(made.path("s")).unwrap(),
                &mut data,
                1048575,
            )
            .unwrap();
            assert_eq!(&data, b"\0abc\0");
        }
        // A file system with smaller files.
        Err(error) => assert!(error.step() == "ftruncate", "{error}"),
    }
}

#[test]
fn random_damage_stays_inside() {
    let canary = tempfile::tempdir().unwrap();
    std::fs::write(canary.path().join("c"), "untouched").unwrap();
    let outside = canary.path().to_str().unwrap();
    let whole = Raw::new()
        .dir("d")
        .file("d/f", "data")
        .symlink("s", outside)
        .symlink("d/up", "../../../../..")
        .file("s/in", "x")
        .hard("h", "d/f")
        .hard("x", "a/x")
        .pax(&[("path", format!("d/up{outside}/c").as_bytes()), ("SCHILY.xattr.user.a", b"b")])
        .file("x", "x")
        .extended(b'g', &record("mtime", b"1.5"))
        .file("a/.wh.x", "")
        .file("a/.wh..wh..opq", "")
        .device("null", b'3', 1, 3)
        .end();
    let lower = lower();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut good = 0;
    for _ in 0..400 {
        let mut archive = whole.clone();
        damage(&mut archive, &mut random);
        good += usize::from(unpack_with(&archive, &[&lower], &target()).is_ok());
    }
    assert!(good > 20, "{good} unpacked");
    assert_eq!(std::fs::read_to_string(canary.path().join("c")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1);
    assert_eq!(tree(&lower).len(), 6);
}
