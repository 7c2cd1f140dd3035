//! What a directory holds, in lines that can be compared.

use rustix::fs::FileType;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A temporary directory that can be removed although directories in it are closed to their owner.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fn open(dir: &Path) {
            let _ = std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700));
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open(&entry.path());
                }
            }
        }
        open(self.path());
    }
}

/// What to compare.
#[derive(Clone, Copy)]
pub struct Compare {
    pub owners: bool,
    /// Names in all namespaces, or only `user.`.
    pub all_xattrs: bool,
    pub root: bool,
}

/// Type, mode, owner, time to the nanosecond, size or target, attributes, and which names are one file. No devices.
pub fn tree(root: &Path, compare: Compare) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut first = HashMap::new();
    add(root, root, compare, &mut first, &mut lines);
    if !compare.root {
        lines.remove("");
    }
    lines
}

fn add(
    root: &Path,
    path: &Path,
    compare: Compare,
    first: &mut HashMap<u64, String>,
    lines: &mut BTreeMap<String, String>,
) {
    let stat = rustix::fs::lstat(path).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return;
    }
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
    let mut line =
        format!("{kind:?} {:o} {}.{:09}", stat.st_mode & 0o7777, stat.st_mtime, stat.st_mtime_nsec);
    if compare.owners {
        line += &format!(" {}:{}", stat.st_uid, stat.st_gid);
    }
    if kind != FileType::Directory && stat.st_nlink > 1 {
        line += &format!(" ={}", first.entry(stat.st_ino).or_insert_with(|| name.clone()));
    }
    match kind {
        FileType::Symlink => line += &format!(" -> {:?}", std::fs::read_link(path).unwrap()),
        FileType::RegularFile => match std::fs::read(path) {
            Ok(data) => line += &format!(" {}", coracle::Digest::of(&data)),
            Err(_) => line += &format!(" {} bytes", stat.st_size),
        },
        _ => {}
    }
    for (name, value) in xattrs(path) {
        // What umoci notes for those who can't set owners.
        let noted = name == "user.rootlesscontainers";
        if (compare.all_xattrs || name.starts_with("user.")) && !noted {
            line += &format!(" {name}={}", value.escape_ascii());
        }
    }
    lines.insert(name, line);
    if kind == FileType::Directory {
        let mut entries: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            add(root, &entry, compare, first, lines);
        }
    }
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found: Vec<_> = names[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"))
        .filter_map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(path, CString::new(name).unwrap(), &mut value[..]).ok()?;
            value.truncate(length);
            Some((String::from_utf8_lossy(name).into_owned(), value))
        })
        .collect();
    found.sort();
    found
}

/// Fails with the lines that differ, not with all of them.
pub fn assert_same(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>, what: &str) {
    let differing: Vec<String> = ours
        .keys()
        .chain(theirs.keys())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .take(20)
        .map(|name| format!("{name}\n  ours:   {:?}\n  theirs: {:?}", ours.get(name), theirs.get(name)))
        .collect();
    assert!(differing.is_empty(), "{what}:\n{}", differing.join("\n"));
}

const TREE: &str = "CORACLE_TEST_TREE";

/// The same as [`tree`] by a process that has the ids which an ordinary user's layers have: others may not enter all
/// directories. As root, this one.
pub fn tree_with_sub_ids(dir: &Path, compare: Compare) -> BTreeMap<String, String> {
    if rustix::process::geteuid().is_root() {
        return tree(dir, compare);
    }
    assert!(!compare.owners, "they are the namespace's");
    let own = std::env::current_exe().unwrap();
    let out = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--map-auto"])
        .arg(own)
        .args(["--exact", "trees::prints_a_tree", "--nocapture"])
        .env(TREE, dir)
        .output()
        .expect("unshare (util-linux)");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let pairs = text.lines().filter_map(|line| line.strip_prefix("TREE "));
    let mut lines: BTreeMap<String, String> =
        pairs.map(|line| serde_json::from_str::<(String, String)>(line).unwrap()).collect();
    assert!(!lines.is_empty(), "{text}");
    if !compare.all_xattrs {
        assert!(!lines.values().any(|line| line.contains("security.capability")), "{lines:?}");
    }
    if !compare.root {
        lines.remove("");
    }
    lines
}

/// Only by [`tree_with_sub_ids`].
#[test]
fn prints_a_tree() {
    let Some(dir) = std::env::var_os(TREE) else { return };
    for line in tree(Path::new(&dir), Compare { owners: false, all_xattrs: false, root: true }) {
        println!("TREE {}", serde_json::to_string(&line).unwrap());
    }
}

/// The comparisons with other programs would pass if they compared nothing: each word of a line is one that differs.
#[test]
fn each_attribute_is_compared() {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    type Change = fn(&Path);
    fn remake(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) {
        fs::remove_file(path).unwrap();
        make(path).unwrap();
        time(path, 1_000, 0);
    }
    fn time(path: &Path, secs: i64, nanos: i64) {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    let make = || {
        let dir = Scratch::new();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/file"), "text").unwrap();
        fs::hard_link(at("d/file"), at("d/hard")).unwrap();
        fs::write(at("d/other"), "text").unwrap();
        symlink("target", at("d/link")).unwrap();
        rustix::fs::mknodat(CWD, at("d/pipe"), FileType::Fifo, 0o600.into(), 0).unwrap();
        rustix::fs::setxattr(at("d/file"), "user.note", b"1", XattrFlags::empty()).unwrap();
        for name in ["d/file", "d/other", "d/link", "d/pipe", "d", ""] {
            time(&at(name), 1_000, 0);
        }
        dir
    };
    let changes: &[(&str, &str, Change)] = &[
        ("type", "d/other", |path| remake(path, |path| symlink("text", path))),
        ("mode", "d/file", |path| fs::set_permissions(path, PermissionsExt::from_mode(0o4755)).unwrap()),
        ("a directory's mode", "d", |path| {
            fs::set_permissions(path, PermissionsExt::from_mode(0o1755)).unwrap()
        }),
        ("a pipe's mode", "d/pipe", |path| {
            fs::set_permissions(path, PermissionsExt::from_mode(0o604)).unwrap()
        }),
        ("seconds", "d/file", |path| time(path, 1_001, 0)),
        ("nanoseconds", "d/file", |path| time(path, 1_000, 1)),
        ("a directory's time", "d", |path| time(path, 1_000, 1)),
        ("a link's time", "d/link", |path| time(path, 1_000, 1)),
        ("content", "d/other", |path| fs::write(path, "tex_").unwrap()),
        ("a link's target", "d/link", |path| remake(path, |path| symlink("targe_", path))),
        ("an attribute", "d/file", |path| {
            rustix::fs::setxattr(path, "user.note", b"2", XattrFlags::empty()).unwrap()
        }),
        ("a further attribute", "d/other", |path| {
            rustix::fs::setxattr(path, "user.note", b"1", XattrFlags::empty()).unwrap()
        }),
        ("a hard link", "d/hard", |path| {
            remake(path, |path| fs::write(path, "text"));
            rustix::fs::setxattr(path, "user.note", b"1", XattrFlags::empty()).unwrap();
            time(path, 1_000, 0);
        }),
        ("a name", "d/hard", |path| fs::rename(path, path.with_file_name("herd")).unwrap()),
    ];
    let root = rustix::process::geteuid().is_root();
    let of_root: &[(&str, &str, Change)] = &[
        ("owner", "d/other", |path| chown(path, Some(1), None).unwrap()),
        ("group", "d/other", |path| chown(path, None, Some(1)).unwrap()),
        ("a link's owner", "d/link", |path| std::os::unix::fs::lchown(path, Some(1), None).unwrap()),
        ("a capability", "d/other", |path| {
            let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            rustix::fs::setxattr(path, "security.capability", &value, XattrFlags::empty()).unwrap()
        }),
    ];
    let compare = Compare { owners: root, all_xattrs: root, root: true };
    let before = tree(make().path(), compare);
    assert_eq!(tree(make().path(), compare), before);
    for (what, name, change) in changes.iter().chain(if root { of_root } else { &[] }) {
        let dir = make();
        change(&dir.path().join(name));
        // Of the directory that a name was changed in, the time is set back: the name itself has to tell.
        if *name != "d" {
            time(&dir.path().join("d"), 1_000, 0);
        }
        assert_ne!(tree(dir.path(), compare), before, "{what}");
    }
}
