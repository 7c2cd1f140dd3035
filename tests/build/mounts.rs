//! What RUN is given by its mounts: where they lead, and who may put something else there.

use super::refused::{CANARY, fails, has_nowhere, is_whole, outside};
use super::*;
use coracle::{BuildEvent, ErrorKind};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A source is a path in what it is from, whose root `/` is. BuildKit has it so, but for what leads out of it: there it is the root.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn the_root_of_a_source_is_that_of_what_it_is_from() {
    let (store, (dir, context)) = (bases::store(), outside());
    let build = |text: &str| {
        Build::context(&context).dockerfile_text(format!(
            "FROM localhost/box:1 AS s\nRUN touch /of-the-stage\nFROM localhost/box:1\n{text}\n"
        ))
    };
    let seen = |mount: &str| {
        let image = build(&format!("RUN --mount={mount},target=/m ls -a /m > /seen")).run(&store).unwrap();
        let mut names = String::new();
        std::io::Read::read_to_string(&mut image.open("/seen").unwrap(), &mut names).unwrap();
        names.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for source in
        ["type=bind", "source=/", "source=.", "source=", "source=//", "source=dir/..", "source=/dir/./../"]
    {
        assert_eq!(seen(source), [".", "..", "dir", "one"], "{source}");
    }
    for source in ["source=dir", "source=/dir", "source=/dir/../dir/."] {
        assert_eq!(seen(source), [".", "..", "two"], "{source}");
    }
    for source in ["from=s", "from=s,source=/", "from=s,source=srv/.."] {
        let names = seen(source);
        assert!(
            ["bin", "of-the-stage", "srv"].iter().all(|name| names.iter().any(|seen| seen == name)),
            "{names:?}"
        );
    }
    assert!(seen("from=localhost/box:1,source=/").iter().all(|name| name != "of-the-stage"));
    // The host's own files are at paths that name nothing here.
    let secret = dir.path().join("secret").display().to_string();
    let up = "../".repeat(20);
    for (source, kind) in [
        ("source=/etc".into(), ErrorKind::NotFound),
        ("source=/etc/passwd".into(), ErrorKind::NotFound),
        (format!("source={secret}"), ErrorKind::NotFound),
        ("source=..".into(), ErrorKind::InvalidInput),
        ("source=../..".into(), ErrorKind::InvalidInput),
        ("source=dir/../../secret".into(), ErrorKind::InvalidInput),
        (format!("source={up}{secret}"), ErrorKind::InvalidInput),
        (format!("from=s,source={secret}"), ErrorKind::NotFound),
        (format!("from=s,source={up}{secret}"), ErrorKind::InvalidInput),
        ("from=s,source=../..".into(), ErrorKind::InvalidInput),
    ] {
        let error = fails(&build(&format!("RUN --mount={source},target=/m cat /m /m/*; true")), &store, 4);
        assert_eq!(error.kind(), kind, "{source}: {error}");
        let named = source.rsplit('=').next().unwrap();
        assert!(error.to_string().contains(named), "{source}: {error}");
        assert!(kind != ErrorKind::InvalidInput || error.remedy().is_some(), "{source}: {error}");
    }
    has_nowhere(&store, CANARY.as_bytes());
    is_whole(&store);
}

/// As BuildKit has it: what a link leads to is mounted, wherever on the way it is, with the context's root as that of all links.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_source_that_is_a_link_is_followed() {
    let store = bases::store();
    let dir = context(&[
        ("one.txt", "one"),
        ("dir/two.txt", "two"),
        ("kept/out.txt", "out"),
        (".dockerignore", "kept\n"),
    ]);
    let link = |name: &str, to: &str| symlink(to, dir.path().join(name)).unwrap();
    for (name, to) in [
        ("link.txt", "one.txt"),
        ("again", "link.txt"),
        ("absolute", "/one.txt"),
        ("up", "dir/../../../one.txt"),
        ("dirlink", "dir"),
        ("dir/back", "../again"),
        ("circle", "other"),
        ("other", "circle"),
        ("out", "/etc/passwd"),
        ("up-out", "../../../../../../../../../../../../etc"),
        ("ignored", "kept/out.txt"),
        ("ignored-dir", "kept"),
    ] {
        link(name, to);
    }
    let build = |source: &str, command: &str| {
        Build::context(dir.path()).dockerfile_text(format!(
            "FROM localhost/box:1\nRUN --mount=type=bind,source={source},target=/app/x {command} > /seen\n"
        ))
    };
    let seen = |source: &str, command: &str| {
        let image = build(source, command).run(&store).unwrap_or_else(|error| panic!("{source}: {error}"));
        let mut seen = String::new();
        std::io::Read::read_to_string(&mut image.open("/seen").unwrap(), &mut seen).unwrap();
        seen
    };
    for source in ["link.txt", "again", "absolute", "up", "dir/back", "dirlink/back", "dirlink/../link.txt"] {
        assert_eq!(seen(source, "cat /app/x"), "one", "{source}");
    }
    assert_eq!(seen("dirlink/two.txt", "cat /app/x"), "two");
    assert_eq!(seen("dirlink", "cat /app/x/two.txt"), "two");
    assert_eq!(seen("dirlink", "ls /app/x"), "back\ntwo.txt\n");
    for (source, says) in [
        ("circle", "in a circle"),
        ("circle/x", "in a circle"),
        ("out", "leads to nothing in the context"),
        ("up-out/passwd", "leads to nothing in the context"),
        ("ignored", "left out by the .dockerignore"),
        ("ignored-dir/out.txt", "left out by the .dockerignore"),
    ] {
        let error = fails(&build(source, "cat /app/x"), &store, 2);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{source}: {error}");
        assert!(error.to_string().contains(says), "{source}: {error}");
    }
    // What it leads to counts, and nothing beside it.
    let id = |source: &str| *build(source, "cat /app/x").run(&store).unwrap().id();
    let before = id("again");
    write(dir.path(), "dir/two.txt", "changed");
    assert_eq!(id("again"), before);
    write(dir.path(), "one.txt", "changed");
    assert_eq!(seen("again", "cat /app/x"), "changed");
    // So does where it leads.
    fs::remove_file(dir.path().join("link.txt")).unwrap();
    write(dir.path(), "three.txt", "three");
    link("link.txt", "three.txt");
    assert_eq!(seen("again", "cat /app/x"), "three");
    is_whole(&store);
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While builds run somebody exchanges a cache's directory for a link all the time.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_cache_that_is_exchanged_for_a_link() {
    let (store, dir) = (bases::store(), context(&[("outside/secret", CANARY), ("caches/c/own", "1")]));
    let (outside, caches) = (dir.path().join("outside"), dir.path().join("caches"));
    let (own, link) = (caches.join("c"), dir.path().join("link"));
    symlink(&outside, &link).unwrap();
    let file = "FROM localhost/box:1\nARG N\n\
        RUN --mount=type=cache,id=c,target=/c echo x > /c/written && cat /c/* && : $N\n";
    let build = Build::empty().dockerfile_text(file).cache_dir(&caches);
    let done = AtomicBool::new(false);
    let (mut built, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // Also where an assertion fails.
        let ends = Ends(&done);
        let exchanges = scope.spawn(|| {
            let mut times = 0_u64;
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &own, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                times += 1;
            }
            times
        });
        for n in 0..400 {
            match told::watched(build.clone().arg("N", n.to_string()), &store) {
                (Ok(_), told) => {
                    let said: Vec<u8> = told.iter().flat_map(|told| told.output.clone()).collect();
                    assert!(!text(&said).contains(CANARY), "{}", text(&said));
                    built += 1;
                }
                (Err(error), _) => {
                    assert_eq!(error.position().map(|(line, _)| line), Some(3), "{error}");
                    assert!(!error.to_string().contains(CANARY), "{error}");
                    refused += 1;
                }
            }
            // Nothing outside was written to, nor made.
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
            if built >= 5 && refused >= 5 {
                break;
            }
        }
        drop(ends);
        println!("{built} were built, {refused} were not; {} exchanges", exchanges.join().unwrap());
    });
    assert!(built > 0 && refused > 0, "{built} were built, {refused} were not");
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), CANARY);
    // The caller's own link to the directory of all of them is followed.
    let own = [own, link].into_iter().find(|path| path.symlink_metadata().unwrap().is_dir()).unwrap();
    assert_eq!(fs::read_to_string(own.join("written")).unwrap(), "x\n");
    is_whole(&store);
}

/// What a program was making when it was killed, and what another one is making.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn caches_that_nobody_makes_any_more_are_removed() {
    let (store, dir) = (bases::store(), tempfile::tempdir().unwrap());
    let caches = dir.path();
    let (left, used) = (".new-0123456789abcdef", ".new-fedcba9876543210");
    // Names of others.
    let others = [".new-0123456789abcdeg", ".new-0123", "new-0123456789abcdef"];
    for name in [left, used].iter().chain(&others) {
        write(caches, &format!("{name}/dir/file"), "x");
    }
    let lock = fs::File::open(caches.join(used)).unwrap();
    lock.lock_shared().unwrap();
    let text = "FROM localhost/box:1\nRUN --mount=type=cache,id=c,target=/c echo x > /c/file\n";
    let build = Build::empty().dockerfile_text(text).cache_dir(caches).no_cache(true);
    build.run(&store).unwrap();
    let is_there = |name: &str| caches.join(name).exists();
    assert!(!is_there(left) && is_there("c/file"));
    assert!(is_there(&format!("{used}/dir/file")) && others.iter().all(|name| is_there(name)));
    // A program that another test starts at this moment has all locks of this one until it executes.
    drop(lock);
    eventually("it is removed", || {
        build.run(&store).unwrap();
        !is_there(used)
    });
    assert_eq!(count(caches), 1 + others.len());
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn of_two_caches_at_one_place_the_later_is_seen() {
    let (store, caches) = (bases::store(), tempfile::tempdir().unwrap());
    let text = "FROM localhost/box:1\nRUN --mount=type=cache,id=a,target=/c --mount=type=cache,id=b,target=/c echo x > /c/x\n";
    Build::empty().dockerfile_text(text).cache_dir(caches.path()).run(&store).unwrap();
    assert_eq!((count(caches.path().join("a")), count(caches.path().join("b"))), (0, 1));
}

/// What a build says, of its commands and in warnings.
fn said(build: &Build, store: &Store) -> (String, Vec<String>) {
    let all: Arc<Mutex<Vec<u8>>> = Arc::default();
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let (to, warned) = (all.clone(), warnings.clone());
    let build = build.clone().on_event(move |event| match event {
        BuildEvent::Output { bytes, .. } => to.lock().unwrap().extend_from_slice(bytes),
        BuildEvent::Warning { text, .. } => warned.lock().unwrap().push(text.clone()),
        _ => {}
    });
    build.run(store).unwrap();
    let said = text(&all.lock().unwrap()).to_owned();
    let warnings = warnings.lock().unwrap().clone();
    (said, warnings)
}

/// BuildKit's testCacheMountModeNoCache; and each RUN of one build sees what the one before it left.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn without_a_cache_those_that_are_mounted_begin_anew() {
    let store = bases::store();
    for sharing in ["shared", "locked", "private"] {
        let caches = tempfile::tempdir().unwrap();
        let mount = format!("--mount=type=cache,id=c,target=/c,sharing={sharing}");
        let text = format!(
            "FROM localhost/box:1\nARG FOO\nRUN {mount} touch /c/$FOO && ls /c\n\
             RUN {mount} touch /c/again-$FOO && ls /c && chmod 700 /c\n\
             RUN {mount},from=localhost/box:1,source=/etc test -e /c/motd && touch /c/x-$FOO && ls -d /c/x-*\n"
        );
        let build =
            |foo: &str| Build::empty().dockerfile_text(&text).arg("FOO", foo).cache_dir(caches.path());
        let none = Vec::<String>::new();
        assert_eq!(
            said(&build("a").no_cache(true), &store),
            ("a\na\nagain-a\n/c/x-a".into(), none.clone()),
            "{sharing}"
        );
        assert_eq!(
            said(&build("b"), &store).0,
            "a\nagain-a\nb\na\nagain-a\nagain-b\nb\n/c/x-a\n/c/x-b",
            "{sharing}"
        );
        assert_eq!(
            said(&build("c").no_cache(true), &store),
            ("c\nagain-c\nc\n/c/x-c".into(), none),
            "{sharing}"
        );
        // Nothing of those before is left beside them.
        assert_eq!(count(caches.path()), 2, "{sharing}");
    }
    is_whole(&store);
}

/// What another build uses is not taken away from it.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_cache_that_is_in_use_is_not_emptied() {
    let (store, caches) = (bases::store(), tempfile::tempdir().unwrap());
    write(caches.path(), "c/old", "x");
    let build = |sharing: &str| {
        Build::empty()
            .dockerfile_text(format!(
                "FROM localhost/box:1\nRUN --mount=type=cache,id=c,target=/c,sharing={sharing} ls /c; touch /c/new\n\
                 RUN --mount=type=cache,id=c,target=/c,sharing={sharing} ls /c\n"
            ))
            .cache_dir(caches.path())
            .no_cache(true)
    };
    let used = fs::File::open(caches.path().join("c")).unwrap();
    used.lock_shared().unwrap();
    let (said_then, warnings) = said(&build("shared"), &store);
    assert_eq!(said_then, "old\nnew\nold");
    assert!(warnings.len() == 1 && warnings[0].contains("the cache c is in use"), "{warnings:?}");
    // Whoever wants another one has it; the first stays.
    assert_eq!(said(&build("private"), &store), ("new".into(), Vec::new()));
    assert!(caches.path().join("c/old").exists());
    // And whoever waits for it empties it then.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| said(&build("locked"), &store));
        assert!(!waits.is_finished() && caches.path().join("c/old").exists());
        drop(used);
        assert_eq!(waits.join().unwrap(), ("new".into(), Vec::new()));
    });
    is_whole(&store);
}

/// BuildKit has it so; there is nothing to mount on where that is the root.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn without_a_target_it_is_the_working_directory() {
    let (store, dir) = (bases::store(), context(&[("one", "1\n")]));
    let caches = tempfile::tempdir().unwrap();
    let build = |text: &str| {
        Build::context(dir.path())
            .dockerfile_text(format!("FROM localhost/box:1\n{text}\n"))
            .cache_dir(caches.path())
    };
    let text = "WORKDIR /srv/dir\nRUN --mount=type=bind test \"$(ls)\" = one && cat one > /got\n\
        RUN --mount=type=bind,target= test -e /srv/dir/one\n\
        RUN --mount=type=tmpfs test -z \"$(ls)\" && touch lost\n\
        RUN --mount=type=cache,id=x touch in-x\n\
        RUN --mount=type=cache touch in-its-own\n\
        RUN test \"$(ls)\" = old";
    let image = build(text).run(&store).unwrap();
    let mut got = String::new();
    std::io::Read::read_to_string(&mut image.open("/got").unwrap(), &mut got).unwrap();
    assert_eq!(got, "1\n");
    assert!(caches.path().join("x/in-x").exists() && caches.path().join("%2Fsrv%2Fdir/in-its-own").exists());
    for mount in ["type=bind", "type=tmpfs", "type=cache", "type=cache,id=x"] {
        for before in ["", "WORKDIR /\n"] {
            let error = build(&format!("{before}RUN --mount={mount} true")).run(&store).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{mount}: {error}");
            assert!(error.to_string().contains("without a target") && error.remedy().is_some(), "{error}");
        }
    }
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_relative_target_of_a_secret_is_in_the_root() {
    let store = bases::store();
    let text = "FROM localhost/box:1\nWORKDIR /srv\n\
        RUN --mount=type=secret,id=k,target=etc/key test \"$(cat /etc/key)\" = 12345678 -a ! -e /srv/etc\n\
        RUN --mount=type=tmpfs,target=tmpfs test -d /srv/tmpfs -a ! -e /tmpfs\n";
    Build::empty().dockerfile_text(text).secret("k", *b"12345678").run(&store).unwrap();
    for target in [".", "", "proc/x", "../.."] {
        let text = format!(
            "FROM localhost/box:1\nWORKDIR /srv\nRUN --mount=type=secret,id=k,target={target} true\n"
        );
        let built = Build::empty().dockerfile_text(text).secret("k", *b"12345678").run(&store);
        assert_eq!(built.is_err(), !target.is_empty(), "{target}: {built:?}");
    }
}
