//! Contexts, instructions and bases, and the layers that they make: what BuildKit's own tests and `fsutil/copy` say of them.

use super::*;
use crate::dockerfile::{Dockerfile, Instruction};
use crate::image::Import;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

mod hostile;
mod peers;
mod rebuilt;
mod remote;

/// A tree in lines: `a/b =content`, `a/ `, `a -> target`; a mode before (`755 a/`) and an owner after it (`755 1:2 a/`).
fn lines(text: &str) -> impl Iterator<Item = (Option<u32>, (u32, u32), &str)> {
    text.split('|').map(|line| line.trim_matches(' ')).filter(|line| !line.is_empty()).map(|line| {
        let (mut rest, mut mode, mut owner) = (line, None, (0, 0));
        if let Some((first, after)) = rest.split_once(' ')
            && let Ok(number) = u32::from_str_radix(first, 8)
        {
            (mode, rest) = (Some(number), after);
        }
        if let Some((first, after)) = rest.split_once(' ')
            && let Some((uid, gid)) = first.split_once(':')
            && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
        {
            (owner, rest) = ((uid, gid), after);
        }
        (mode, owner, rest)
    })
}

/// Makes a tree on disk.
fn make(root: &Path, text: &str) {
    for (mode, _, line) in lines(text) {
        if let Some((name, target)) = line.split_once(" -> ") {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
            continue;
        }
        if let Some((name, target)) = line.split_once(" => ") {
            fs::hard_link(root.join(target), root.join(name)).unwrap();
            continue;
        }
        let (name, content) = line.split_once(" =").unwrap_or((line, ""));
        let path = root.join(name);
        if name.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
        }
        let default = if name.ends_with('/') { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode.unwrap_or(default))).unwrap();
    }
}

/// The same as an archive.
fn tar(text: &str) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (mode, (uid, gid), line) in lines(text) {
        let mtime = Mtime { secs: 1_000_000_000, nanos: 0 };
        let mut entry = Entry { uid, gid, mtime, ..Entry::new("", EntryKind::File) };
        let mut content = "";
        if let Some((name, target)) = line.split_once(" -> ") {
            entry = Entry { path: name.into(), kind: EntryKind::Symlink, link: target.into(), ..entry };
            entry.mode = 0o777;
        } else if let Some((name, target)) = line.split_once(" => ") {
            entry = Entry { path: name.into(), kind: EntryKind::HardLink, link: target.into(), ..entry };
        } else {
            let (name, given) = line.split_once(" =").unwrap_or((line, ""));
            content = given;
            (entry.path, entry.size) = (name.into(), content.len() as u64);
            if name.ends_with('/') {
                entry.kind = EntryKind::Directory;
            }
            let default = if name.ends_with('/') { 0o755 } else { 0o644 };
            entry.mode = mode.unwrap_or(default);
        }
        writer.entry(&entry, &mut content.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

fn base(store: &Store, text: &str) -> Image {
    Import::new().reader(store, &tar(text)[..]).unwrap()
}

/// The layer's entries, in the words of these tests.
fn shown(layer: &Layer) -> Vec<String> {
    let entries: Vec<_> = layer.entries().unwrap().map(Result::unwrap).collect();
    let show = |entry: &Entry| {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let owner = match (entry.uid, entry.gid) {
            (0, 0) => String::new(),
            (uid, gid) => format!("{uid}:{gid} "),
        };
        let link = String::from_utf8_lossy(&entry.link).into_owned();
        match entry.kind {
            EntryKind::Symlink => format!("{owner}{path} -> {link}"),
            EntryKind::HardLink => format!("{owner}{path} => {link}"),
            EntryKind::Directory => format!("{:o} {owner}{path}", entry.mode),
            EntryKind::File => {
                let mut content = Vec::new();
                if !path.contains(".wh.") {
                    layer.open(&path).unwrap().read_to_end(&mut content).unwrap();
                }
                let content = String::from_utf8_lossy(&content);
                format!("{:o} {owner}{path} ={content}", entry.mode)
            }
            kind => format!("{kind:?} {owner}{path}"),
        }
    };
    entries.iter().map(show).collect()
}

/// The first instruction of a Dockerfile that begins with it.
fn instruction(text: &str, workdir: &str) -> Transfer {
    let file = Dockerfile::parse(format!("FROM scratch\n{text}\n")).unwrap();
    match file.stages()[0].steps[0].expand(&|_: &str| None).unwrap().instruction {
        Instruction::Copy(copy) => Transfer::copy(&copy, workdir),
        Instruction::Add(add) => Transfer::add(&add, workdir),
        other => panic!("{other:?}"),
    }
}

struct Case<'a> {
    context: &'a str,
    ignore: &'a str,
    base: &'a str,
    workdir: &'a str,
    text: &'a str,
}

fn case<'a>(context: &'a str, base: &'a str, text: &'a str) -> Case<'a> {
    Case { context, ignore: "", base, workdir: "/", text }
}

impl Case<'_> {
    fn run(&self) -> Result<Vec<String>> {
        let store = Store::temp()?;
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), self.context);
        let context =
            Context::dir(&store, dir.path())?.ignoring(crate::dockerfile::Ignore::parse(self.ignore)?)?;
        let image = (!self.base.is_empty()).then(|| base(&store, self.base));
        let transfer = instruction(self.text, self.workdir);
        let digest = transfer.digest(&store, From::Context(&context))?;
        let layer = transfer.layer(&store, From::Context(&context), image.as_ref())?;
        // The same once more, and from an archive of the same files.
        let again = transfer.layer(&store, From::Context(&context), image.as_ref())?;
        assert_eq!(again.digest(), layer.digest(), "{}", self.text);
        let packed = Layer::builder().dir(dir.path()).build(&store)?;
        let blob = fs::File::open(store.path().join("blobs/sha256").join(packed.digest().hex())).unwrap();
        let tar = Context::tar(&store, blob)?.ignoring(crate::dockerfile::Ignore::parse(self.ignore)?)?;
        assert_eq!(shown(&transfer.layer(&store, From::Context(&tar), image.as_ref())?), shown(&layer));
        assert_eq!(transfer.digest(&store, From::Context(&tar))?, digest, "{}", self.text);
        Ok(shown(&layer))
    }

    #[track_caller]
    fn gives(&self, expected: &str) {
        let expected: Vec<_> =
            expected.split('|').map(|line| line.trim_matches(' ')).filter(|line| !line.is_empty()).collect();
        assert_eq!(self.run().unwrap(), expected, "{}", self.text);
    }

    #[track_caller]
    fn fails(&self, kind: ErrorKind, words: &str) {
        let error = self.run().unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(words), "{}: {error}", self.text);
    }
}

const SOME: &str = "foo.go =foo | bar.go =bar | 700 sub/ | 700 sub/dir1/ | 700 sub/dir1/dir2/ | 600 sub/dir1/dir2/foo =deep \
                    | link -> sub | sub/up -> ../bar.go";

#[test]
fn one_file() {
    for (text, expected) in [
        ("COPY foo.go /", "644 foo.go =foo"),
        ("COPY foo.go /x", "644 x =foo"),
        ("COPY foo.go /x/", "755 x/ | 644 x/foo.go =foo"),
        ("COPY foo.go /x/y/z", "755 x/ | 755 x/y/ | 644 x/y/z =foo"),
        ("COPY foo.go /x/.", "755 x/ | 644 x/foo.go =foo"),
        ("COPY foo.go .", "644 foo.go =foo"),
        ("COPY foo.go ./a/../b", "644 b =foo"),
        ("COPY ./foo.go ../../b", "644 b =foo"),
        ("COPY /foo.go b", "644 b =foo"),
        ("COPY ../foo.go b", "644 b =foo"),
        ("COPY sub/dir1/dir2/foo /", "600 foo =deep"),
        // Links in a source are followed, the last one too, and the name is the link's.
        ("COPY link/dir1/dir2/foo /", "600 foo =deep"),
        ("COPY sub/up /", "644 up =bar"),
        ("ADD foo.go /x/", "755 x/ | 644 x/foo.go =foo"),
        ("COPY [\"foo.go\", \"/with space/\"]", "755 with space/ | 644 with space/foo.go =foo"),
    ] {
        case(SOME, "", text).gives(expected);
    }
    Case { workdir: "/srv/app", ..case(SOME, "", "COPY foo.go .") }
        .gives("755 srv/ | 755 srv/app/ | 644 srv/app/foo.go =foo");
    Case { workdir: "/srv/app", ..case(SOME, "", "COPY foo.go x") }
        .gives("755 srv/ | 755 srv/app/ | 644 srv/app/x =foo");
    Case { workdir: "/srv", ..case(SOME, "755 srv/", "COPY foo.go ../x") }.gives("644 x =foo");
}

#[test]
fn directories_and_what_is_in_them() {
    for (text, expected) in [
        // The directory itself is not copied, nor is its mode.
        (
            "COPY sub /x",
            "755 x/ | 700 x/dir1/ | 700 x/dir1/dir2/ | 600 x/dir1/dir2/foo =deep | x/up -> ../bar.go",
        ),
        ("COPY sub/dir1/ x", "755 x/ | 700 x/dir2/ | 600 x/dir2/foo =deep"),
        ("COPY sub/dir1/. x", "755 x/ | 700 x/dir2/ | 600 x/dir2/foo =deep"),
        ("COPY sub/dir1 /", "700 dir2/ | 600 dir2/foo =deep"),
        // A link to a directory as a source means that.
        ("COPY link/dir1 /", "700 dir2/ | 600 dir2/foo =deep"),
        ("COPY foo.go sub/dir1 /x/", "755 x/ | 700 x/dir2/ | 600 x/dir2/foo =deep | 644 x/foo.go =foo"),
        (
            "COPY . /",
            "644 bar.go =bar | 644 foo.go =foo | link -> sub | 700 sub/ | 700 sub/dir1/ | 700 sub/dir1/dir2/ \
             | 600 sub/dir1/dir2/foo =deep | sub/up -> ../bar.go",
        ),
    ] {
        case(SOME, "", text).gives(expected);
    }
}

#[test]
fn a_file_with_several_names_stays_one() {
    let context = "a =1 | d/ | e/ | d/b => a | e/c => a | e/d =1";
    case(context, "", "COPY . /").gives("644 a =1 | 755 d/ | d/b => a | 755 e/ | e/c => a | 644 e/d =1");
    case(context, "", "COPY d e /x/").gives("755 x/ | 644 x/b =1 | x/c => x/b | 644 x/d =1");
    case(context, "", "COPY d/b /x").gives("644 x =1");
}

#[test]
fn attributes_come_along() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "d/f =1 | d/e/");
    let transfer = instruction("COPY d /", "/");
    let mut seen = std::collections::BTreeSet::new();
    for (round, name) in ["d/f", "d/e", ""].iter().enumerate() {
        let context = Context::dir(&store, dir.path()).unwrap();
        let layer = transfer.layer(&store, From::Context(&context), None).unwrap();
        assert!(seen.insert(transfer.digest(&store, From::Context(&context)).unwrap().hex()));
        let marked = layer.entries().unwrap().filter(|entry| entry.as_ref().unwrap().xattrs().count() == 1);
        assert_eq!(marked.count(), round);
        if !name.is_empty() {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(dir.path().join(name), c"user.note", b"x", flags).unwrap();
        }
    }
}

#[test]
fn wildcards_are_gos() {
    for (text, expected) in [
        ("COPY *.go /x/", "755 x/ | 644 x/bar.go =bar | 644 x/foo.go =foo"),
        ("COPY f*.go x", "644 x =foo"),
        ("COPY [e-g]oo.?o x", "644 x =foo"),
        ("COPY sub/*/dir2/foo /x/", "755 x/ | 600 x/foo =deep"),
        ("COPY sub/*/dir2/foo /x/y", "755 x/ | 600 x/y =deep"),
        ("COPY link/*/dir2 /x", "755 x/ | 600 x/foo =deep"),
        // What is in a directory that matches, not the directory.
        ("COPY sub/d* /x/", "755 x/ | 700 x/dir2/ | 600 x/dir2/foo =deep"),
        // A link that matches is what it leads to.
        ("COPY sub/u* /x/", "755 x/ | 644 x/up =bar"),
        // Nothing matches, and that is no error: BuildKit's testEmptyWildcard.
        ("COPY foo.go nomatch* /", "644 foo.go =foo"),
        ("COPY nomatch* /x/", ""),
        // No star goes over a slash.
        ("COPY *foo /x/", ""),
        ("COPY foo[.]go x", "644 x =foo"),
    ] {
        case(SOME, "", text).gives(expected);
    }
    case("a[b] =1 | ab =2", "", "COPY a[[]b] /x/").gives("755 x/ | 644 x/a[b] =1");
    case(SOME, "", "COPY foo[ /x/").fails(ErrorKind::InvalidInput, "a pattern that is broken");
    case("dangling -> nowhere", "", "COPY d* /x/").fails(ErrorKind::NotFound, "a link to nowhere");
}

#[test]
fn what_is_there_keeps_what_it_is() {
    let old = "700 5:6 app/ | 711 5:6 app/sub/ | 600 5:6 app/sub/old =1 | lib -> usr/lib | usr/lib/ | 755 usr/ | 1777 tmp/ \
               | file =1 | absolute -> /app | out -> ../../app";
    for (context, text, expected) in [
        ("a =1", "COPY a /app/", "700 5:6 app/ | 644 app/a =1"),
        ("a =1", "COPY a /tmp/", "1777 tmp/ | 644 tmp/a =1"),
        ("a =1", "COPY a /app", "700 5:6 app/ | 644 app/a =1"),
        (
            "a =1",
            "COPY a /app/sub/new/x",
            "700 5:6 app/ | 711 5:6 app/sub/ | 755 app/sub/new/ | 644 app/sub/new/x =1",
        ),
        // Links on the way are followed, with the image as root.
        ("a =1", "COPY a /lib/", "755 usr/ | 755 usr/lib/ | 644 usr/lib/a =1"),
        ("a =1", "COPY a /lib/x/", "755 usr/ | 755 usr/lib/ | 755 usr/lib/x/ | 644 usr/lib/x/a =1"),
        ("a =1", "COPY a /absolute", "700 5:6 app/ | 644 app/a =1"),
        ("a =1", "COPY a /out/b", "700 5:6 app/ | 644 app/b =1"),
        ("a =1", "COPY a /file", "644 file =1"),
        // The destination keeps all but its time; directories in it become what is copied.
        ("d/sub/new =2", "COPY d /app", "700 5:6 app/ | 755 app/sub/ | 644 app/sub/new =2"),
        ("d/x -> y", "COPY d /app/sub", "700 5:6 app/ | 711 5:6 app/sub/ | app/sub/x -> y"),
        ("d/lib =3", "COPY d /", "644 lib =3"),
    ] {
        case(context, old, text).gives(expected);
    }
    let refused = |context: &str, text: &str, words: &str| {
        case(context, old, text).fails(ErrorKind::InvalidInput, words);
    };
    refused("d/app =1", "COPY d /", "a directory is where a file is to be");
    refused("d/lib/x =1", "COPY d /", "what is no directory is where one is to be");
    refused("d/file/x =1", "COPY d /", "what is no directory is where one is to be");
    refused("d/x =1", "COPY d /file", "a file is where a directory is to be");
    refused("a =1", "COPY a /file/x", "below what is no directory");
    refused("a =1 | b =2", "COPY a b /new", "several files for one name");
    // With --link nothing below counts.
    for (text, expected) in [
        ("COPY --link a /lib/", "755 lib/ | 644 lib/a =1"),
        ("COPY --link a /tmp/x", "755 tmp/ | 644 tmp/x =1"),
        ("COPY --link a /file/x", "755 file/ | 644 file/x =1"),
        ("COPY --link --chown=3:4 a /app/", "755 3:4 app/ | 644 3:4 app/a =1"),
        // But for a --chmod, beside which it does nothing.
        ("COPY --link --chmod=711 a /lib/", "755 usr/ | 755 usr/lib/ | 711 usr/lib/a =1"),
        ("ADD --link --chmod=711 a /lib/", "755 usr/ | 755 usr/lib/ | 711 usr/lib/a =1"),
    ] {
        case("a =1", old, text).gives(expected);
    }
}

#[test]
fn owners_and_modes() {
    let old = "etc/passwd =root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n \
               | etc/group =root:x:0:\nus:x:50:\nme:x:1001:\n";
    for (text, expected) in [
        ("COPY --chown=7:8 f /x/y", "755 7:8 x/ | 600 7:8 x/y =1"),
        ("COPY --chown=7 f /", "600 7:7 f =1"),
        ("COPY --chown=me f /", "600 1000:1001 f =1"),
        ("COPY --chown=me:us d /d", "755 1000:50 d/ | 640 1000:50 d/g =2"),
        ("COPY --chown=me:9 f /", "600 1000:9 f =1"),
        ("COPY --chown=0:us f /", "600 0:50 f =1"),
        ("COPY --chown=:us f /", "600 0:50 f =1"),
        ("COPY --chown=1000: f /", "600 1000:1000 f =1"),
        ("COPY --chmod=4755 f /", "4755 f =1"),
        ("COPY --chmod=0 f /", "0 f =1"),
        ("COPY --chmod=644 f /parent/f", "755 parent/ | 644 parent/f =1"),
        ("COPY --chmod=750 d /x", "755 x/ | 750 x/g =2"),
        ("COPY --chmod=u=rwX,go=rX . /x", "755 x/ | 755 x/d/ | 644 x/d/g =2 | 644 x/f =1 | x/l -> f"),
        ("COPY --chmod=a+x f /n/", "755 n/ | 711 n/f =1"),
        ("ADD --chmod=o=r f /", "604 f =1"),
    ] {
        case("600 f =1 | 750 d/ | 640 d/g =2 | l -> f", old, text).gives(expected);
    }
    for (text, kind) in [
        ("COPY --chown=nobody f /", ErrorKind::NotFound),
        ("COPY --chown=me:nobody f /", ErrorKind::NotFound),
        ("COPY --chown=-1 f /", ErrorKind::NotFound),
        ("COPY --chown=4294967295 f /", ErrorKind::NotFound),
        ("COPY --chmod=64a f /", ErrorKind::InvalidInput),
        ("COPY --chmod=10000 f /", ErrorKind::InvalidInput),
    ] {
        case("f =1", old, text).fails(kind, "--ch");
    }
    case("f =1", "", "COPY --chown=me f /").fails(ErrorKind::NotFound, "give a number");
    // Where there are no such files, and where they have another one of that name.
    let odd = "etc/passwd =root:x:7:8::/:/bin/sh\nme:x:1:2::/:/bin/sh\n | etc/group =root:x:8:\n";
    for (old, text, expected) in [
        ("", "COPY --chown=root f /", "644 f =1"),
        ("", "COPY --chown=root:root f /", "644 f =1"),
        ("", "ADD --chown=root:5 f /", "644 0:5 f =1"),
        (odd, "COPY --chown=root f /", "644 f =1"),
        (odd, "COPY --chown=me:root f /", "644 1:0 f =1"),
    ] {
        case("f =1", old, text).gives(expected);
    }
}

#[test]
fn excluded_and_with_parents() {
    let context = "dir1/101.png =1 | dir1/102.txt =2 | dir2/201.txt =3 | dir2/a/b.txt =4 | dir2/a/c =5 | top.txt =6 | top.md =7";
    for (text, expected) in [
        (
            "COPY --exclude=*/*.txt --exclude=top* . /x",
            "755 x/ | 755 x/dir1/ | 644 x/dir1/101.png =1 | 755 x/dir2/ | 755 x/dir2/a/ | 644 x/dir2/a/b.txt =4 | 644 x/dir2/a/c =5",
        ),
        ("COPY --exclude=**/*.txt dir2 /x", "755 x/ | 755 x/a/ | 644 x/a/c =5"),
        ("COPY --exclude=* dir* /x/", "755 x/"),
        ("COPY --exclude=a dir2 /x", "755 x/ | 644 x/201.txt =3"),
        ("COPY --exclude=a --exclude=!a/c dir2 /x", "755 x/ | 644 x/201.txt =3 | 755 x/a/ | 644 x/a/c =5"),
        ("COPY --exclude=*.txt top* /x/", "755 x/ | 644 x/top.md =7"),
        ("ADD --exclude=*.png dir1/ /x/", "755 x/ | 644 x/102.txt =2"),
        ("COPY --parents dir2/a/c /", "755 dir2/ | 755 dir2/a/ | 644 dir2/a/c =5"),
        ("COPY --parents dir2/a/c /y/", "755 y/ | 755 y/dir2/ | 755 y/dir2/a/ | 644 y/dir2/a/c =5"),
        ("COPY --parents dir2/./a/* /y/", "755 y/ | 755 y/a/ | 644 y/a/b.txt =4 | 644 y/a/c =5"),
        ("COPY --parents dir*/./*.txt /y/", "755 y/ | 644 y/102.txt =2 | 644 y/201.txt =3"),
        ("COPY --parents **/b.txt /y/", "755 y/ | 755 y/dir2/ | 755 y/dir2/a/ | 644 y/dir2/a/b.txt =4"),
        (
            "COPY --parents dir2/a /y/",
            "755 y/ | 755 y/dir2/ | 755 y/dir2/a/ | 644 y/dir2/a/b.txt =4 | 644 y/dir2/a/c =5",
        ),
        ("COPY --parents --exclude=**/c dir2/./a /y/", "755 y/ | 755 y/a/ | 644 y/a/b.txt =4"),
        ("COPY --parents nothing* /y/", "755 y/"),
    ] {
        case(context, "", text).gives(expected);
    }
    case(context, "", "COPY --parents dir2/nothing /y/")
        .fails(ErrorKind::NotFound, "COPY dir2/nothing: not found");
}

#[test]
fn what_is_ignored_is_not_there() {
    let context =
        "foo =1 | bar =2 | bay =3 | node/a/keep/x =4 | node/a/y =5 | node/z =6 | .dockerignore =ba*\n!bay";
    let copy = |ignore, text| Case { ignore, ..case(context, "", text) };
    copy("ba*\n!bay\n.dockerignore\nnode", "COPY . /").gives("644 bay =3 | 644 foo =1");
    copy("*\n!foo", "COPY . /").gives("644 foo =1");
    copy("node\n!node/a/keep\nba*\n.d*", "COPY . /")
        .gives("644 foo =1 | 755 node/ | 755 node/a/ | 755 node/a/keep/ | 644 node/a/keep/x =4");
    copy("node\n!node/a/keep\nba*\n.d*", "COPY node/a/keep /").gives("644 x =4");
    copy("node\n!node/nothing", "COPY node /x").fails(ErrorKind::NotFound, "left out by the .dockerignore");
    copy("bar", "COPY bar /").fails(ErrorKind::NotFound, "COPY bar: left out by the .dockerignore");
    copy("", "COPY ber /")
        .fails(ErrorKind::NotFound, "COPY ber: not found in the context; help: did you mean bar?");
    copy("", "COPY node/a/kep/x /").fails(ErrorKind::NotFound, "not found in the context");
    copy("", "COPY ../../etc/shadow /").fails(ErrorKind::NotFound, "leads out of the context");
}

#[test]
fn here_documents() {
    case("", "", "COPY <<EOF /x/y\none\n  two\nEOF").gives("755 x/ | 644 x/y =one\n  two\n");
    case("f =1", "", "COPY <<a <<-b f /x/\none\na\n\ttwo\nb")
        .gives("755 x/ | 644 x/a =one\n | 644 x/b =two\n | 644 x/f =1");
    case("", "", "ADD --chmod=755 --chown=1:2 <<EOF /run.sh\n#!/bin/sh\nEOF")
        .gives("755 1:2 run.sh =#!/bin/sh\n");
}

#[test]
fn the_digest_is_of_what_is_copied() {
    let store = Store::temp().unwrap();
    let digest = |context: &str, text: &str| {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), context);
        let context = Context::dir(&store, dir.path()).unwrap();
        instruction(text, "/").digest(&store, From::Context(&context)).unwrap()
    };
    let same = |a: &str, b: &str, text: &str| digest(a, text) == digest(b, text);
    // Nothing that is not copied, and no times.
    assert!(same("a =1 | b =1", "a =1 | b =2", "COPY a /"));
    assert!(same("d/a =1 | b =1", "d/a =1", "COPY d /"));
    assert!(same("d/a =1 | d/b =1", "d/a =1 | d/b =2", "COPY --exclude=b d /"));
    assert!(same("700 d/ | d/a =1", "755 d/ | d/a =1", "COPY d /"), "what becomes of no file");
    for (a, b, text) in [
        ("a =1", "a =2", "COPY a /"),
        ("a =1", "600 a =1", "COPY a /"),
        ("d/a =1", "d/b =1", "COPY d /"),
        ("d/a =1", "d/a =1 | d/b/", "COPY d /"),
        ("d/a -> x", "d/a -> y", "COPY d /"),
        ("d/a -> x", "d/a =x", "COPY d /"),
        ("700 d/e/", "d/e/", "COPY d /"),
        ("a1 =1", "a2 =1", "COPY a* /"),
        ("x =1", "x =1", "COPY <<a /\nb\na"),
        ("d/a =1 | d/b/c =2", "d/a =1 | d/b/c =3", "COPY --parents d/b /"),
    ] {
        assert_eq!(same(a, b, text), a == b, "{a} and {b}: {text}");
    }
    let text = |content: &str| digest("", &format!("COPY <<a /\n{content}\na"));
    assert_ne!(text("1"), text("2"));
}

#[test]
fn times_are_kept_and_bounded() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "d/old =1 | d/new =2");
    let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for (name, seconds) in [("d/old", 1_000), ("d/new", 3_000), ("d", 2_500)] {
        fs::File::open(dir.path().join(name)).unwrap().set_modified(time(seconds)).unwrap();
    }
    let context = Context::dir(&store, dir.path()).unwrap();
    let times = |text: &str, bound: Option<u64>| {
        let transfer = instruction(text, "/").times(bound.map(time));
        let layer = transfer.layer(&store, From::Context(&context), None).unwrap();
        layer.entries().unwrap().map(|entry| entry.unwrap().mtime.secs).collect::<Vec<_>>()
    };
    assert_eq!(times("COPY d /a/x", None), [MADE.secs, 2_500, 3_000, 1_000]);
    assert_eq!(times("COPY d /a/x", Some(2_000)), [2_000, 2_000, 2_000, 1_000]);
}

#[test]
fn a_copy_ends_when_the_time_is_up() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "d/a =1 | d/b =2 | c =3");
    let context = Context::dir(&store, dir.path()).unwrap();
    let copy = |until| instruction("COPY d /", "/").until(Some(until));
    let now = Instant::now();
    for result in [
        copy(now).digest(&store, From::Context(&context)).map(drop),
        copy(now).layer(&store, From::Context(&context), None).map(drop),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
    }
    let later = copy(now + Duration::from_secs(3600));
    later.digest(&store, From::Context(&context)).unwrap();
    assert_eq!(later.layer(&store, From::Context(&context), None).unwrap().entries().unwrap().count(), 2);
    assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn from_an_image() {
    let store = Store::temp().unwrap();
    let image = base(
        &store,
        "1:2 file =1 | 750 3:4 dir/ | 711 101:201 dir/sub/ | 600 102:202 dir/sub/f =2 | 5:6 hard => file | abs -> /dir | dir/l -> /file",
    );
    let old = base(&store, "700 500:600 there/");
    let copy = |text: &str, below: Option<&Image>| {
        let transfer = instruction(text, "/");
        transfer.digest(&store, From::Image(&image)).unwrap();
        shown(&transfer.layer(&store, From::Image(&image), below).unwrap()).join(" | ")
    };
    // BuildKit's testCopyChownExistingDir: owners come along, but not those of the directory that is named.
    assert_eq!(copy("COPY --from=x /file /", None), "644 1:2 file =1");
    assert_eq!(
        copy("COPY --from=x /dir /dir", None),
        "755 dir/ | dir/l -> /file | 711 101:201 dir/sub/ | 600 102:202 dir/sub/f =2"
    );
    assert_eq!(
        copy("COPY --from=x /abs/. /there", Some(&old)),
        "700 500:600 there/ | there/l -> /file | 711 101:201 there/sub/ | 600 102:202 there/sub/f =2"
    );
    assert_eq!(copy("COPY --from=x --chown=9:9 /dir/s* /n/", None), "755 9:9 n/ | 600 9:9 n/f =2");
    assert_eq!(
        copy("COPY --from=x /file /hard /y/", None),
        "755 y/ | 644 1:2 y/file =1 | 1:2 y/hard => y/file"
    );
    assert_eq!(copy("COPY --from=x dir/l /", None), "644 1:2 l =1");
    let error = instruction("COPY --from=x /fil /", "/").digest(&store, From::Image(&image)).unwrap_err();
    assert!(
        error.to_string().starts_with("COPY /fil: not found in the image; help: did you mean file?"),
        "{error}"
    );
}
