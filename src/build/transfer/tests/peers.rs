//! The same instructions by Debian's buildah.

use super::*;
use crate::layer::tar::{ReadLimits, Reader};
use std::collections::BTreeMap as Map;
use std::process::Command;

type Shown = Map<String, String>;

/// Files as they are in an archive: kind, mode, owner, target or content.
fn files(bytes: &[u8]) -> Shown {
    let mut reader = Reader::new(bytes, ReadLimits::default());
    let mut shown = Shown::new();
    while let Some(entry) = reader.next().unwrap() {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        let path = String::from_utf8_lossy(&entry.path).trim_matches(['/', '.']).to_owned();
        if path.is_empty() {
            continue;
        }
        let link = String::from_utf8_lossy(&entry.link).into_owned();
        let mode = if entry.kind == EntryKind::Symlink { 0 } else { entry.mode };
        let content = String::from_utf8_lossy(&content).into_owned();
        shown.insert(path, format!("{:?} {mode:o} {}:{} {link}{content}", entry.kind, entry.uid, entry.gid));
    }
    shown
}

const CONTEXT: &str = "foo.go =foo | bar.go =bar | 700 sub/ | 700 sub/dir1/ | 600 sub/dir1/deep =deep | link -> sub/dir1/deep \
                       | sub/up -> ../bar.go | 711 run.sh =x";

#[test]
#[ignore = "needs root and buildah"]
fn buildah_makes_the_same_files() {
    let scratch = tempfile::tempdir().unwrap();
    let storage = scratch.path().join("storage");
    for (number, text) in [
        "COPY foo.go /",
        "COPY foo.go /a/b/c",
        "COPY foo.go /a/",
        "COPY sub /x/",
        "COPY sub/ /x",
        "COPY . /all/",
        "COPY *.go /go/",
        "COPY sub/* /y/",
        "COPY foo.go bar.go /two/",
        "COPY --chown=7:8 sub /owned",
        "COPY --chmod=750 run.sh /bin/run",
        "COPY --chmod=640 sub/dir1 /modes",
        "COPY --chown=7:8 foo.go /made/on/the/way/",
        "COPY sub/*1 /star/",
        "COPY sub/d*/deep /star2/",
        "COPY f*.go /one.go",
        "COPY link /followed",
        "ADD sub/dir1 /added/",
        "ADD t.tar /t/",
        "ADD t.tar.gz /t",
        "COPY t.tar /t/",
        "COPY foo.go ./rel/../x",
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), CONTEXT);
        let archive = tar("750 3:4 d/ | 600 5:6 d/f =one | d/l -> f");
        fs::write(dir.path().join("t.tar"), &archive).unwrap();
        let gzip = Command::new("gzip").arg("-k").arg(dir.path().join("t.tar")).status().unwrap();
        assert!(gzip.success());
        let file = scratch.path().join("Dockerfile");
        fs::write(&file, format!("FROM scratch\n{text}\n")).unwrap();
        let out = scratch.path().join(format!("{number}.tar"));
        let status = Command::new("buildah")
            .args(["--root".as_ref(), storage.as_os_str(), "--runroot".as_ref(), storage.as_os_str()])
            .args(["--storage-driver", "vfs", "bud", "--isolation", "chroot", "--no-cache", "-q"])
            .arg("-o")
            .arg(format!("type=tar,dest={}", out.display()))
            .arg("-f")
            .arg(&file)
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(status.status.success(), "{text}: {}", String::from_utf8_lossy(&status.stderr));
        let theirs = files(&fs::read(&out).unwrap());
        let store = Store::temp().unwrap();
        let context = Context::dir(&store, dir.path()).unwrap();
        let layer = instruction(text, "/").layer(&store, From::Context(&context), None).unwrap();
        let ours = files(&fs::read(store.path().join("blobs/sha256").join(layer.digest().hex())).unwrap());
        assert_eq!(ours, theirs, "{text}");
    }
}
