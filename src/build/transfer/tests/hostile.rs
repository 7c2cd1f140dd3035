//! Contexts that somebody made to get at something else.

use super::*;
use rustix::fs::{CWD, FileType, Mode};
use std::sync::atomic::{AtomicBool, Ordering};

/// A context beside a file that is none of its.
fn outside() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "secret =shadow | context/a =1");
    (Store::temp().unwrap(), dir)
}

#[test]
fn links_lead_nowhere_outside() {
    let (store, dir) = outside();
    let root = dir.path().join("context");
    let secret = dir.path().join("secret");
    symlink(&secret, root.join("absolute")).unwrap();
    symlink("../secret", root.join("up")).unwrap();
    symlink("..", root.join("parent")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let context = Context::dir(&store, &root).unwrap();
    for source in [
        "absolute",
        "up",
        "parent/secret",
        "../secret",
        "magic/etc/passwd",
        "loop",
        "loop/x",
        "a/../../secret",
    ] {
        let transfer = instruction(&format!("COPY {source} /x"), "/");
        let error = transfer.digest(&store, From::Context(&context)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{source}: {error}");
        assert!(transfer.layer(&store, From::Context(&context), None).is_err());
    }
    // In a directory they are copied as what they are.
    let layer = instruction("COPY . /", "/").layer(&store, From::Context(&context), None).unwrap();
    let links = shown(&layer).into_iter().filter(|line| line.contains(" -> ")).count();
    assert_eq!(links, 5);
    assert!(!shown(&layer).concat().contains("shadow"));
}

#[test]
fn pipes_and_sockets_stop_nobody() {
    let (store, dir) = outside();
    let root = dir.path().join("context");
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let context = Context::dir(&store, &root).unwrap();
    let transfer = instruction("COPY . /", "/");
    transfer.digest(&store, From::Context(&context)).unwrap();
    let lines = shown(&transfer.layer(&store, From::Context(&context), None).unwrap());
    // BuildKit's testCopySocket: a file of it.
    assert!(
        lines.contains(&"Fifo pipe".to_owned()) && lines.iter().any(|line| line.ends_with(" socket =")),
        "{lines:?}"
    );
    for name in ["Dockerfile", ".dockerignore"] {
        rustix::fs::mknodat(CWD, root.join(name), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }
    assert_eq!(context.read("Dockerfile").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(context.ignore_of(Some("x")).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_dockerignore_may_be_a_link_within() {
    let (store, dir) = outside();
    let root = dir.path().join("context");
    make(
        &root,
        "rules =a\n | .dockerignore -> rules | docker/App =FROM scratch | docker/App.dockerignore =rules",
    );
    let context = Context::dir(&store, &root).unwrap();
    let patterns = |name: &str| {
        let ignore = context.ignore_of(Some(name)).unwrap();
        ignore.patterns().map(|(text, _)| text.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(patterns("Dockerfile"), ["a"]);
    assert_eq!(patterns("docker/App"), ["rules"]);
    assert_eq!(context.read("docker/App").unwrap(), b"FROM scratch");
    assert_eq!(context.read("docker/Nothing").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(context.read("../secret").unwrap_err().kind(), ErrorKind::InvalidInput);
    // The same in an archive.
    let packed = tar(
        "rules =a | .dockerignore -> rules | docker/App =FROM scratch | docker/App.dockerignore =rules | p/",
    );
    let archive = Context::tar(&store, &packed[..]).unwrap();
    let own = archive.ignore_of(Some("docker/App")).unwrap();
    assert_eq!(own.patterns().map(|(text, _)| text).collect::<Vec<_>>(), ["rules"]);
    assert!(archive.ignore_of(Some("Dockerfile")).unwrap().excludes("a"));
    let archive = archive.ignoring(own).unwrap();
    assert_eq!(archive.read("docker/App").unwrap(), b"FROM scratch");
    assert_eq!(archive.read("rules").unwrap(), b"a", "what is ignored can be read, but not copied");
    let error = instruction("COPY rules /", "/").digest(&store, From::Context(&archive)).unwrap_err();
    assert!(error.to_string().contains("left out by the .dockerignore"), "{error}");
    assert_eq!(archive.read("p").unwrap_err().kind(), ErrorKind::InvalidInput);
    // One that leads out means a file of the context, which is not there.
    fs::remove_file(root.join(".dockerignore")).unwrap();
    symlink("../secret", root.join(".dockerignore")).unwrap();
    assert!(patterns("Dockerfile").is_empty());
    fs::remove_file(root.join(".dockerignore")).unwrap();
    fs::write(root.join(".dockerignore"), "ok\n!\n").unwrap();
    let error = context.ignore_of(Some("Dockerfile")).unwrap_err();
    assert_eq!((error.kind(), error.position().map(|place| place.0)), (ErrorKind::InvalidData, Some(2)));
}

#[test]
fn names_that_mean_something_to_a_layer_are_refused() {
    for context in ["d/.wh.a =", "d/.wh..wh..opq =", "d/.wh.dir/x ="] {
        case(context, "", "COPY d /").fails(ErrorKind::InvalidInput, "whiteout");
    }
    let deep = "d/".repeat(520);
    case(&deep, "", "COPY d /").fails(ErrorKind::TooLarge, "deeper");
    case("f =1", "", &format!("COPY f /{}", "n".repeat(256))).fails(ErrorKind::TooLarge, "255");
}

/// Whoever swaps directories and links while they are read gets an error or a layer, and nothing of what is outside.
#[test]
fn a_context_that_changes_meanwhile_leads_nowhere_outside() {
    let (store, dir) = outside();
    let root = dir.path().join("context");
    make(dir.path(), "away/f =shadow");
    make(&root, "d/f =fine | real/f =fine");
    symlink("../away", root.join("evil")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // `d` is a directory, then a link to what is outside, then a directory again.
            while !stop.load(Ordering::Relaxed) {
                for other in ["evil", "real"] {
                    let swap = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, root.join("d"), CWD, root.join(other), swap).unwrap();
                }
            }
        });
        let (mut made, mut failed) = (0, 0);
        for _ in 0..400 {
            let context = Context::dir(&store, &root).unwrap();
            let transfer = instruction("COPY d /x", "/");
            match transfer.layer(&store, From::Context(&context), None) {
                Ok(layer) => {
                    made += 1;
                    assert!(!shown(&layer).concat().contains("shadow"));
                }
                Err(error) => {
                    failed += 1;
                    let kinds = [ErrorKind::InUse, ErrorKind::NotFound];
                    assert!(kinds.contains(&error.kind()), "{error}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(made + failed, 400);
    });
}

#[test]
fn archives_stay_in_their_place() {
    let store = Store::temp().unwrap();
    let add = |archive: &str, old: &str, text: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("t.tar"), tar(archive)).unwrap();
        let context = Context::dir(&store, dir.path()).unwrap();
        let image = (!old.is_empty()).then(|| base(&store, old));
        let layer = instruction(text, "/").layer(&store, From::Context(&context), image.as_ref())?;
        Ok::<_, Error>(shown(&layer).join(" | "))
    };
    for bad in ["../x =1", "a/../../x =1", "a => ../../etc/passwd", "a => nothing", ".wh.x ="] {
        assert!(add(bad, "", "ADD t.tar /d/").is_err(), "{bad}");
    }
    // Links of the archive and of the image are followed with the destination as their root, as docker unpacks.
    let out = "up -> ../../.. | up/x =1 | abs -> / | abs/y =2";
    assert_eq!(
        add(out, "", "ADD t.tar /d").unwrap(),
        "755 d/ | d/abs -> / | d/up -> ../../.. | 644 d/x =1 | 644 d/y =2"
    );
    let old = "var/run -> /run | run/ | 700 dir/ | dir/sub/x =1 | dir/y =2 | file =3";
    assert_eq!(add("var/run/a/b =1", old, "ADD t.tar /").unwrap(), "755 run/ | 755 run/a/ | 644 run/a/b =1");
    // What is in the way goes.
    assert_eq!(add("dir =1 | 700 file/", old, "ADD t.tar /").unwrap(), "644 dir =1 | 700 file/");
    assert_eq!(
        add("dir =1 | 711 dir/ | dir/new =2", old, "ADD t.tar /").unwrap(),
        "711 dir/ | 644 dir/.wh..wh..opq = | 644 dir/new =2"
    );
    // Contexts that come as archives.
    for bad in ["../x =1", "a -> b | a/x =1", "h => nothing", "a/ | a =1"] {
        let error = Context::tar(&store, &tar(bad)[..]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{bad}");
    }
    assert!(Context::tar(&store, &b"no archive"[..]).is_err());
}
