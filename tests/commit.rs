//! Containers into images: what they have changed, as a layer, as a list, as an archive.
#![forbid(unsafe_code)]

mod common;

#[path = "commit/hostile.rs"]
mod hostile;
#[path = "commit/kinds.rs"]
mod kinds;
#[path = "commit/mounts.rs"]
mod mounts;
#[path = "commit/peers.rs"]
mod peers;
#[path = "commit/running.rs"]
mod running;
#[path = "commit/settings.rs"]
mod settings;
#[path = "commit/synced.rs"]
mod synced;

use common::*;
use coracle::{ChangeKind, Container, ContainerBuilder, ErrorKind, Image, Import, Store, Stream};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Programs that busybox has not, or not with all that is needed.
const TOOLS: [&str; 6] = ["find", "getfattr", "setfattr", "setcap", "touch", "dd"];

/// What the base image has of its own: path, kind and content, mode, owner.
const FILES: &[(&str, Kind, u32, u64)] = &[
    ("./", Kind::Dir, 0o755, 0),
    ("etc/", Kind::Dir, 0o755, 0),
    ("etc/keep", Kind::File("keep"), 0o644, 0),
    ("etc/gone", Kind::File("gone"), 0o600, 0),
    ("etc/modified", Kind::File("modified"), 0o640, 33),
    ("etc/same", Kind::File("same"), 0o644, 33),
    ("tmp/", Kind::Dir, 0o1777, 0),
    ("usr/share/", Kind::Dir, 0o755, 0),
    ("usr/share/dir/", Kind::Dir, 0o750, 33),
    ("usr/share/dir/a", Kind::File("a"), 0o644, 33),
    ("usr/share/dir/sub/", Kind::Dir, 0o755, 0),
    ("usr/share/dir/sub/c", Kind::File("c"), 0o644, 0),
    ("opt/", Kind::Dir, 0o755, 0),
    ("opt/whole/", Kind::Dir, 0o755, 0),
    ("opt/whole/x", Kind::File("x"), 0o644, 0),
    ("opt/whole/y/", Kind::Dir, 0o755, 0),
    ("opt/whole/y/z", Kind::File("z"), 0o644, 0),
    ("opt/tofile/", Kind::Dir, 0o755, 0),
    ("opt/tofile/in", Kind::File("in"), 0o644, 0),
    ("opt/tolink/", Kind::Dir, 0o755, 0),
    ("opt/tolink/in", Kind::File("in"), 0o644, 0),
    ("opt/todir", Kind::File("file"), 0o644, 0),
    ("opt/moved/", Kind::Dir, 0o711, 1000),
    ("opt/moved/deep", Kind::File("deep"), 0o444, 1000),
    ("links/", Kind::Dir, 0o755, 0),
    ("links/one", Kind::File("one"), 0o644, 0),
    ("links/two", Kind::Hard("links/one"), 0o644, 0),
    ("links/soft", Kind::Link("one"), 0o777, 0),
    ("private/", Kind::Dir, 0o700, 1000),
    ("private/secret", Kind::File("secret"), 0o600, 1000),
    ("bin/", Kind::Dir, 0o755, 0),
];

enum Kind {
    Dir,
    File(&'static str),
    Link(&'static str),
    Hard(&'static str),
}

/// A base image with a shell and tools.
fn base(store: &Store) -> Image {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |mode: u32, owner: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_600_000_000);
        header
    };
    for (path, kind, mode, owner) in FILES {
        let mut header = header(*mode, *owner);
        let (entry, data, target) = match kind {
            Kind::Dir => (tar::EntryType::Directory, "", None),
            Kind::File(text) => (tar::EntryType::Regular, *text, None),
            Kind::Link(target) => (tar::EntryType::Symlink, "", Some(target)),
            Kind::Hard(target) => (tar::EntryType::Link, "", Some(target)),
        };
        header.set_entry_type(entry);
        header.set_size(data.len() as u64);
        match target {
            Some(target) => archive.append_link(&mut header, path, target).unwrap(),
            None => archive.append_data(&mut header, path, data.as_bytes()).unwrap(),
        }
    }
    let mut programs = BTreeSet::new();
    for tool in TOOLS {
        let path = peer("sh", ["-c", &format!("PATH=$PATH:/usr/sbin:/sbin command -v {tool}")]);
        let path = std::fs::canonicalize(path.trim()).unwrap();
        for word in peer("ldd", [&path]).split_whitespace().filter(|word| word.starts_with('/')) {
            programs.insert(PathBuf::from(word));
        }
        append(&mut archive, &path, &format!("bin/{tool}"), header(0o755, 0));
    }
    for program in programs {
        append(
            &mut archive,
            &program,
            program.strip_prefix("/").unwrap().to_str().unwrap(),
            header(0o755, 0),
        );
    }
    append(&mut archive, Path::new("/bin/busybox"), "bin/busybox", header(0o755, 0));
    for applet in peer("/bin/busybox", ["--list"]).lines().filter(|name| !TOOLS.contains(name)) {
        if applet != "busybox" {
            let mut header = header(0o777, 0);
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
        }
    }
    let archive = archive.into_inner().unwrap();
    Import::new().name("base:1").cmd(["/bin/sh"]).env("PATH", "/bin").reader(store, &archive[..]).unwrap()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, from: &Path, to: &str, mut header: tar::Header) {
    let bytes = std::fs::read(from).unwrap_or_else(|error| panic!("{from:?}: {error}; this test needs it"));
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, to, &bytes[..]).unwrap();
}

/// Everything that a container sees of its root: kinds, modes, owners, links, sizes, times to the nanosecond, content, and
/// attributes. Of the root directory only mode and owner: its time changes with what is made in it, and is no image's.
const LIST: &str = r#"
list() {
    cd /
    set -- \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf \) -prune
    /bin/find . -maxdepth 0 -printf '%p %m %U:%G\n'
    /bin/find . -mindepth 1 "$@" -o \( -type d -printf '%p d %m %U:%G %T@\n' -o -type f -printf '%p f %m %U:%G %n %s %T@\n' \
        -o -printf '%p %y %m %U:%G %T@ %l\n' \) | sort
    /bin/find . -mindepth 1 "$@" -o -type f -exec md5sum {} + | sort
    /bin/find . -mindepth 1 "$@" -o -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex
}
"#;

/// Has the script change things and then list everything.
fn changing(image: &Image, script: &str) -> ContainerBuilder {
    sh(image, &format!("set -e\n{LIST}\n{script}\nlist"))
}

/// Runs it to its end, and leaves the container.
#[track_caller]
fn ended(builder: &ContainerBuilder) -> (Container, String) {
    let container = builder.start().unwrap();
    let status = container.wait().unwrap();
    let logs = |stream| text(&container.logs(stream).unwrap());
    assert!(status.success(), "{status}: {}\n{}", logs(Stream::Stderr), logs(Stream::Stdout));
    let out = logs(Stream::Stdout);
    (container, out)
}

/// What a container of the image sees.
#[track_caller]
fn seen(image: &Image) -> String {
    say(&changing(image, ""))
}

#[track_caller]
fn assert_same(first: &str, second: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (a, b) = (lines(first), lines(second));
    let only =
        |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>().join("\n");
    assert!(first == second, "only in the first:\n{}\nonly in the second:\n{}", only(&a, &b), only(&b, &a));
}

/// `A /path` and the like.
fn shown(container: &Container) -> Vec<String> {
    let letter = |kind| match kind {
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
        _ => 'C',
    };
    let changes = container.diff().unwrap();
    changes.iter().map(|change| format!("{} {}", letter(change.kind), change.path.display())).collect()
}

/// The paths in the last layer of an image.
fn entries(image: &Image) -> Vec<String> {
    let layers = image.layers().unwrap();
    let entries = layers.last().unwrap().entries().unwrap();
    entries.map(|entry| entry.unwrap().path().to_string_lossy().into_owned()).collect()
}

/// Whether a container that runs can be paused here.
fn can_pause(image: &Image) -> bool {
    let container = ready(&sh(image, "echo ready; read line").stdin(coracle::Stdio::piped()));
    match container.pause() {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            false
        }
    }
}
