//! Files of an image, read without a container and without a mount.

use super::*;
use coracle::{Change, ChangeKind, EntryKind};

/// An archive of one layer, with modes and devices as `common::tar` has none.
pub(super) fn layer(files: &[(&str, tar::EntryType, &str, u32)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind, text, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        let owner = if path.starts_with("home/") { 1000 } else { 0 };
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(0);
        let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        if is_link {
            header.set_link_name(text).unwrap();
        } else if matches!(kind, tar::EntryType::Char) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        } else {
            header.set_size(text.len() as u64);
        }
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, if is_link { &b""[..] } else { text.as_bytes() }).unwrap();
    }
    archive.into_inner().unwrap()
}

use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};

pub(super) fn lower() -> Vec<u8> {
    layer(&[
        ("etc/", Directory, "", 0o755),
        ("etc/os-release", Symlink, "../usr/lib/os-release", 0o777),
        ("etc/passwd", Regular, "root\n", 0o644),
        ("etc/gone", Regular, "gone\n", 0o644),
        ("usr/lib/", Directory, "", 0o755),
        ("usr/lib/os-release", Regular, "ID=old\n", 0o644),
        ("hidden/", Directory, "", 0o755),
        ("hidden/old", Regular, "old\n", 0o644),
        ("same/", Directory, "", 0o755),
        ("same/file", Regular, "same\n", 0o644),
        ("out", Symlink, "../../../etc/passwd", 0o777),
        ("absolute", Symlink, "/etc/passwd", 0o777),
        ("loop", Symlink, "loop", 0o777),
        ("nowhere", Symlink, "/not/there", 0o777),
        ("null", Char, "", 0o666),
        ("fifo", Fifo, "", 0o600),
    ])
}

pub(super) fn upper() -> Vec<u8> {
    layer(&[
        ("etc/.wh.gone", Regular, "", 0o644),
        ("etc/other", Link, "etc/passwd", 0o644),
        ("usr/lib/os-release", Regular, "ID=new\n", 0o644),
        ("hidden/.wh..wh..opq", Regular, "", 0o644),
        ("hidden/new", Regular, "new\n", 0o600),
        ("home/", Directory, "", 0o700),
        ("home/key", Regular, "secret\n", 0o600),
    ])
}

fn both(store: &Store) -> (Image, Image) {
    let take = |layers: Vec<Vec<u8>>, name: &str| {
        load(store, &docker_archive(&[(&Fixture::of(layers), &[name])])).unwrap().remove(0)
    };
    (take(vec![lower()], "old"), take(vec![lower(), upper()], "new"))
}

fn read(image: &Image, path: &str) -> coracle::Result<String> {
    let mut text = String::new();
    image.open(path)?.read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn files_are_read_as_the_overlay_shows_them() {
    let store = Store::temp().unwrap();
    let (old, new) = both(&store);
    for (path, before, after) in [
        ("/etc/os-release", Some("ID=old\n"), Some("ID=new\n")),
        ("etc/passwd", Some("root\n"), Some("root\n")),
        ("/etc//../etc/./passwd", Some("root\n"), Some("root\n")),
        ("/../../etc/passwd", Some("root\n"), Some("root\n")),
        ("etc/gone", Some("gone\n"), None),
        ("etc/other", None, Some("root\n")),
        ("hidden/old", Some("old\n"), None),
        ("hidden/new", None, Some("new\n")),
        ("home/key", None, Some("secret\n")),
        // Never the host's.
        ("out", Some("root\n"), Some("root\n")),
        ("absolute", Some("root\n"), Some("root\n")),
        ("nowhere", None, None),
        ("loop", None, None),
        ("etc/passwd/", None, None),
        ("etc/passwd/..", None, None),
        ("hidden/.wh..wh..opq", None, None),
        ("etc/.wh.gone", None, None),
    ] {
        for (image, expected) in [(&old, before), (&new, after)] {
            match (read(image, path), expected) {
                (Ok(text), Some(expected)) => assert_eq!(text, expected, "{path}"),
                (Err(error), None) => assert_eq!(error.kind(), ErrorKind::NotFound, "{path}: {error}"),
                other => panic!("{path}: {other:?}"),
            }
        }
    }
    for (path, what) in
        [("/", "the root directory"), ("etc", "a directory"), ("null", "a device"), ("fifo", "a named pipe")]
    {
        let error = new.open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path}: {error}");
        assert!(error.to_string().contains(what), "{path}: {error}");
    }
    let host = Image::host(&store).unwrap();
    assert_eq!(host.open("/etc/passwd").unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(host.diff(&new).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_directory_is_listed_with_what_its_files_are() {
    let store = Store::temp().unwrap();
    let (_, new) = both(&store);
    let list = |dir: &str| {
        let entries = new.entries(dir).unwrap();
        entries.iter().map(|entry| entry.path().to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("etc"), ["etc/os-release", "etc/other", "etc/passwd"]);
    assert_eq!(list("/hidden/../hidden/"), ["hidden/new"]);
    let root = ["absolute", "etc", "fifo", "hidden", "home", "loop", "nowhere", "null", "out", "same", "usr"];
    assert_eq!(list("/"), root);
    let entries = new.entries("/").unwrap();
    let entry = |name: &str| entries.iter().find(|entry| entry.path() == Path::new(name)).unwrap();
    assert_eq!((entry("null").kind(), entry("null").device()), (EntryKind::CharDevice, Some((1, 3))));
    assert_eq!((entry("fifo").kind(), entry("fifo").mode()), (EntryKind::Fifo, 0o600));
    assert_eq!(entry("out").link_target(), Some(Path::new("../../../etc/passwd")));
    let hidden = &new.entries("hidden").unwrap()[0];
    assert_eq!((hidden.size(), hidden.mode(), hidden.uid(), hidden.gid()), (4, 0o600, 0, 0));
    let key = &new.entries("home").unwrap()[0];
    assert_eq!((key.size(), key.mode(), key.uid(), key.gid()), (7, 0o600, 1000, 1000));
    assert_eq!(hidden.modified(), Some(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    assert_eq!(new.entries("etc/passwd").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(new.entries("none").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn images_are_compared_file_by_file() {
    let store = Store::temp().unwrap();
    let (old, new) = both(&store);
    let told = |changes: Vec<Change>| {
        let letter = |kind| match kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            _ => 'D',
        };
        let line = |change: &Change| format!("{} {}", letter(change.kind), change.path.display());
        changes.iter().map(line).collect::<Vec<_>>()
    };
    let expected = [
        "D /etc/gone",
        "A /etc/other",
        "A /hidden/new",
        "D /hidden/old",
        "A /home",
        "A /home/key",
        "C /usr/lib/os-release",
    ];
    assert_eq!(told(old.diff(&new).unwrap()), expected);
    let reverse = [
        "A /etc/gone",
        "D /etc/other",
        "D /hidden/new",
        "A /hidden/old",
        "D /home",
        "D /home/key",
        "C /usr/lib/os-release",
    ];
    assert_eq!(told(new.diff(&old).unwrap()), reverse);
    assert!(new.diff(&new).unwrap().is_empty());

    // The same files from other layers, with other times, in another store: only what really differs is told.
    let elsewhere = Store::temp().unwrap();
    let files = |text: &str, mode| {
        let all = [
            ("a/", Directory, "", 0o755),
            ("a/file", Regular, text, mode),
            ("b/", Directory, "", 0o755),
            ("b/c/", Directory, "", 0o755),
            ("b/c/d", Regular, "d", 0o644),
            ("b-c", Regular, text, 0o644),
        ];
        let mut archive = layer(&all);
        // Another time in the first header: where the field is, and its checksum.
        let header: &mut [u8; 512] = (&mut archive[..512]).try_into().unwrap();
        let mut changed = tar::Header::from_byte_slice(header).clone();
        changed.set_mtime(if mode == 0o644 { 5 } else { 6 });
        changed.set_cksum();
        header.copy_from_slice(changed.as_bytes());
        archive
    };
    let take = |store: &Store, layers: Vec<Vec<u8>>| {
        load(store, &docker_archive(&[(&Fixture::of(layers), &[])])).unwrap().remove(0)
    };
    let first = take(&store, vec![files("one", 0o644)]);
    let extra = layer(&[("b", Regular, "now a file", 0o644)]);
    let second = take(&elsewhere, vec![files("one", 0o600), extra]);
    let third = take(&elsewhere, vec![files("two", 0o644)]);
    assert_eq!(told(first.diff(&second).unwrap()), ["C /a/file", "C /b", "D /b/c", "D /b/c/d"]);
    assert_eq!(told(first.diff(&third).unwrap()), ["C /a/file", "C /b-c"]);
    // What is in a directory follows it.
    let none = take(&elsewhere, vec![layer(&[("a/", Directory, "", 0o755)])]);
    let all = ["A /a/file", "A /b", "A /b/c", "A /b/c/d", "A /b-c"];
    assert_eq!(told(none.diff(&first).unwrap()), all);
    assert!(first.diff(&take(&elsewhere, vec![files("one", 0o644)])).unwrap().is_empty());
}
