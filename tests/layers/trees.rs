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
        if compare.all_xattrs || name.starts_with("user.") {
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
