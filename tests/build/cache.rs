//! Which change has which step done again, and whose results are used.

use super::told::{done, steps_done, watched};
use super::*;
use std::os::unix::fs::PermissionsExt;

const TEXT: &str = "\
FROM localhost/box:1
ENV E=1
RUN echo before > /tmp/before
ARG A=1
RUN echo first > /tmp/first
COPY one /one
RUN echo second > /tmp/second
COPY dir /dir
RUN echo third > /tmp/third
LABEL l=1
";

const FILES: &[(&str, &str)] = &[
    ("Dockerfile", TEXT),
    ("one", "one"),
    ("other", "other"),
    ("dir/x", "x"),
    ("dir/ignored", "ignored"),
    (".dockerignore", "dir/ignored\n"),
];

/// The steps from the one that begins so.
fn from(start: &str) -> Vec<&str> {
    let steps: Vec<_> = TEXT.lines().skip(1).filter(|line| !line.starts_with("ARG")).collect();
    let at = steps.iter().position(|step| step.starts_with(start)).unwrap();
    steps[at..].to_vec()
}

/// Those that do something; an ARG is a name for what comes later.
fn relevant(done: &[String]) -> Vec<&str> {
    done.iter().map(String::as_str).filter(|step| !step.starts_with("ARG")).collect()
}

/// Those that make files.
fn works(done: &[String]) -> usize {
    done.iter().filter(|step| ["RUN", "COPY", "ADD"].iter().any(|name| step.starts_with(name))).count()
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_change_has_the_steps_done_again_that_depend_on_it() {
    type Change = fn(&Path, Build) -> Build;
    const NONE: &str = "";
    fn text(dir: &Path, from: &str, to: &str) {
        let path = dir.join("Dockerfile");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    }
    fn mode(path: &Path, bits: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    }
    let changes: &[(&str, &str, Change)] = &[
        ("nothing", NONE, |_, build| build),
        ("times", NONE, |dir, build| {
            for name in ["one", "dir/x"] {
                let file = fs::File::open(dir.join(name)).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }
            build
        }),
        ("the file itself, with the same content", NONE, |dir, build| {
            fs::copy(dir.join("one"), dir.join("copy")).unwrap();
            fs::rename(dir.join("copy"), dir.join("one")).unwrap();
            build
        }),
        ("a file that is not copied", NONE, |dir, build| {
            write(dir, "other", "changed");
            write(dir, "new", "new");
            build
        }),
        ("a file that is left out", NONE, |dir, build| {
            write(dir, "dir/ignored", "changed");
            build
        }),
        ("a comment and spaces", NONE, |dir, build| {
            text(dir, "RUN echo second", "# why\nRUN  echo second");
            build
        }),
        ("a label of the command line", NONE, |_, build| build.label("of", "the command line")),
        ("a name", NONE, |_, build| build.tag("another:name")),
        ("a proxy", NONE, |_, build| build.arg("HTTP_PROXY", "http://proxy:1")),
        ("the value that is the default", NONE, |_, build| build.arg("A", "1")),
        ("content", "COPY one", |dir, build| {
            write(dir, "one", "ONE");
            build
        }),
        ("content of the same size and time", "COPY one", |dir, build| {
            let time = fs::metadata(dir.join("one")).unwrap().modified().unwrap();
            write(dir, "one", "eno");
            fs::File::open(dir.join("one")).unwrap().set_modified(time).unwrap();
            build
        }),
        ("a mode", "COPY one", |dir, build| {
            mode(&dir.join("one"), 0o755);
            build
        }),
        ("content in a directory", "COPY dir", |dir, build| {
            write(dir, "dir/x", "y");
            build
        }),
        ("a name in a directory", "COPY dir", |dir, build| {
            fs::rename(dir.join("dir/x"), dir.join("dir/y")).unwrap();
            build
        }),
        ("a directory more", "COPY dir", |dir, build| {
            fs::create_dir(dir.join("dir/empty")).unwrap();
            build
        }),
        ("a file that is a link now", "COPY dir", |dir, build| {
            fs::remove_file(dir.join("dir/x")).unwrap();
            std::os::unix::fs::symlink("y", dir.join("dir/x")).unwrap();
            build
        }),
        ("what is left out", "COPY dir", |dir, build| {
            fs::remove_file(dir.join(".dockerignore")).unwrap();
            build
        }),
        ("a command", "RUN echo second", |dir, build| {
            text(dir, "echo second", "echo  second");
            build
        }),
        ("a build argument", "RUN echo first", |_, build| build.arg("A", "2")),
        ("a default", "RUN echo first", |dir, build| {
            text(dir, "ARG A=1", "ARG A=2");
            build
        }),
        ("a variable", "ENV", |dir, build| {
            text(dir, "ENV E=1", "ENV E=2");
            build
        }),
        ("the last one", "LABEL", |dir, build| {
            text(dir, "LABEL l=1", "LABEL l=2");
            build
        }),
        ("the base", "ENV", |dir, build| {
            text(dir, "FROM localhost/box:1", "FROM localhost/other:1");
            build
        }),
        ("the wish", "ENV", |_, build| build.no_cache(true)),
    ];
    let mut wrong = Vec::new();
    for (what, first, change) in changes {
        let (store, dir) = (bases::store(), context(FILES));
        mode(&dir.path().join("one"), 0o644);
        let (_, all) = steps_done(&Build::context(dir.path()), &store);
        assert_eq!(relevant(&all), from("ENV"), "{what}");
        let build = change(dir.path(), Build::context(dir.path()));
        let (_, again) = steps_done(&build, &store);
        let expected = if first.is_empty() { 0 } else { from(first).len() };
        if relevant(&again).len() != expected {
            wrong.push(format!("{what}: from {first:?} on it should be, it was {again:?}"));
        }
        // And what was done stays: the first one is found again.
        if !what.contains("wish") {
            let (_, back) = steps_done(&Build::context(dir.path()).dockerfile_text(TEXT), &store);
            let before = from("ENV").len() - expected;
            assert!(back.len() <= from("ENV").len() - before, "{what}: {back:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn the_same_step_in_another_dockerfile_is_found() {
    let store = bases::store();
    let build = |text: &str| Build::empty().dockerfile_text(text);
    let one = "FROM localhost/box:1 AS one\nRUN echo one\nRUN echo two\n";
    steps_done(&build(one), &store);
    let (_, again) = steps_done(&build("FROM localhost/box:1\nRUN echo one\nRUN echo three\n"), &store);
    assert_eq!(again, ["RUN echo three"]);
    // Below another one it is another one.
    let (_, again) = steps_done(&build("FROM localhost/box:1\nRUN echo two\n"), &store);
    assert_eq!(again, ["RUN echo two"]);
}

/// Who waits for a stage holds no cache that the stage waits for.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_cache_that_begins_with_a_stage_waits_for_no_lock() {
    let store = bases::store();
    let text = "FROM localhost/box:1 AS a\nRUN true\nRUN --mount=type=cache,id=one,sharing=locked,target=/c echo a > /srv/a\n\
        FROM localhost/box:1\nRUN --mount=type=cache,id=one,sharing=locked,target=/c \\\n\
        --mount=type=cache,id=two,from=a,source=/srv,target=/d cp /d/a /got\n";
    for _ in 0..8 {
        // It would not end else.
        let build = Build::empty().dockerfile_text(text).timeout(std::time::Duration::from_secs(60));
        assert!(build.no_cache(true).parallel(2).run(&store).unwrap().open("/got").is_ok());
        store.prune_cache(None, None).unwrap();
    }
}

/// As in BuildKit an ARG is what a RUN sees; what copies files does not change with it.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn an_argument_changes_what_uses_it() {
    let (store, dir) = (bases::store(), context(&[("one", "1"), ("two", "2")]));
    let text = "FROM localhost/box:1\nARG C\nCOPY one /\nWORKDIR /w\nADD two .\nENV E=1\nRUN echo $C > /c\nCOPY one /after\n";
    let build = |value: &str| Build::context(dir.path()).dockerfile_text(text).arg("C", value);
    let (first, _) = steps_done(&build("1"), &store);
    let (second, done) = steps_done(&build("2"), &store);
    assert_eq!(done, ["ARG C", "RUN echo $C > /c", "COPY one /after"]);
    let lines = |image: &Image| -> Vec<String> {
        image.config().history().iter().map(|line| line.created_by().clone().unwrap_or_default()).collect()
    };
    let expected: Vec<_> = lines(&first)
        .into_iter()
        .map(|line| line.replace("ARG C=1", "ARG C=2").replace("|1 C=1", "|1 C=2"))
        .collect();
    assert_eq!(lines(&second), expected);
    let ids = |image: &Image| image.config().diff_ids().to_vec();
    assert_eq!(ids(&first)[..4], ids(&second)[..4]);
    assert_ne!(ids(&first)[4], ids(&second)[4]);
    assert_eq!(first.config().working_dir(), second.config().working_dir());
    // Each of them is found again, and is the same image.
    for (value, image) in [("1", &first), ("2", &second)] {
        let (again, done) = steps_done(&build(value), &store);
        assert_eq!((again.id(), done), (image.id(), Vec::new()), "{value}");
    }
    // A global one that only FROM uses changes nothing below.
    let text = |value: &str| format!("ARG T={value}\nFROM localhost/box:${{T%x}}\nRUN echo global > /g");
    steps_done(&Build::empty().dockerfile_text(text("1")), &store);
    assert!(steps_done(&Build::empty().dockerfile_text(text("1x")), &store).1.is_empty());
}

/// As in BuildKit: a command sees variables, its user and its directory, what copies files sees none of it, and neither sees how the
/// image is to be started or what it is called.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_setting_changes_what_sees_it() {
    let text = "FROM localhost/box:1\nLABEL l=1\nCMD a\nEXPOSE 1\nENV E=1\nUSER 1\nCOPY one /one\n\
        WORKDIR /w\nRUN id -u > /tmp/id; echo $E >> /tmp/id; cat /proc/sys/kernel/random/uuid > /tmp/uuid\n";
    let (store, dir) = (bases::store(), context(&[("one", "1")]));
    let build = |text: &str| steps_done(&Build::context(dir.path()).dockerfile_text(text), &store);
    let read = |image: &Image, path: &str| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut image.open(path).unwrap(), &mut text).unwrap();
        text
    };
    let (first, _) = build(text);
    let settings = |image: &Image| {
        let config: serde_json::Value = serde_json::from_str(image.config().json()).unwrap();
        config["config"].clone()
    };
    let uuid = read(&first, "/tmp/uuid");
    for (from, to) in
        [("LABEL l=1", "LABEL l=2"), ("CMD a", "ENTRYPOINT b"), ("EXPOSE 1", "VOLUME /v\nSTOPSIGNAL INT")]
    {
        let (image, done) = build(&text.replace(from, to));
        assert_eq!(works(&done), 0, "{done:?}");
        assert_eq!(read(&image, "/tmp/uuid"), uuid, "{to}");
        // And its own settings are what it has.
        let elsewhere = bases::store();
        let fresh =
            Build::context(dir.path()).dockerfile_text(text.replace(from, to)).run(&elsewhere).unwrap();
        assert_ne!(read(&fresh, "/tmp/uuid"), uuid);
        assert_eq!(settings(&image), settings(&fresh), "{to}");
        // The first is found as it was, though the other was noted after it.
        let (again, done) = build(text);
        assert_eq!((again.config().labels()["l"].as_str(), works(&done)), ("1", 0), "{done:?}");
    }
    for (from, to, id) in [("ENV E=1", "ENV E=2", "1\n2\n"), ("USER 1", "USER 2", "2\n1\n")] {
        let (image, done) = build(&text.replace(from, to));
        assert_eq!(works(&done), 1, "{done:?}");
        assert!(done.iter().any(|step| step.starts_with("RUN")), "{done:?}");
        assert_eq!(read(&image, "/tmp/id"), id);
    }
    // What was done before is another ground, although there are no other files.
    let twice = "FROM localhost/box:1\nRUN test 1\nLABEL a=b\nRUN test 1\n";
    assert_eq!(works(&build(twice).1), 2);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_stage_that_is_copied_from_counts_by_what_it_has() {
    let store = bases::store();
    let build = |comment: &str, content: &str| {
        Build::empty().dockerfile_text(format!(
            "FROM localhost/box:1 AS made\nRUN echo {content} > /made # {comment}\nFROM localhost/box:1\nCOPY --from=made /made /made\nRUN cat /made\n"
        ))
    };
    steps_done(&build("a", "one"), &store);
    // Made anew, and the same: no later step is done again.
    let (_, again) = steps_done(&build("b", "one"), &store);
    assert_eq!(again, ["RUN echo one > /made # b"]);
    let (_, again) = steps_done(&build("b", "two"), &store);
    assert_eq!(again.len(), 3, "{again:?}");
}

pub const STORE: &str = "CORACLE_TEST_STORE";
pub const CONTEXT: &str = "CORACLE_TEST_CONTEXT";

/// In a process of its own.
fn build_as_told() -> bool {
    let (Some(store), Some(context)) = (std::env::var_os(STORE), std::env::var_os(CONTEXT)) else {
        return false;
    };
    let image = Build::context(PathBuf::from(context)).run(&Store::open(store).unwrap()).unwrap();
    println!("\nbuilt {}", image.id());
    true
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_another_program_has_built_is_found() {
    if build_as_told() {
        return;
    }
    let (store, dir) = (bases::store(), context(FILES));
    let test = "cache::what_another_program_has_built_is_found";
    passes(child(test, &[(STORE, store.path().as_os_str()), (CONTEXT, dir.path().as_os_str())]));
    let (_, again) = steps_done(&Build::context(dir.path()), &store);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn programs_that_build_the_same_at_once() {
    if build_as_told() {
        return;
    }
    let (store, dir) = (bases::store(), context(FILES));
    let test = "cache::programs_that_build_the_same_at_once";
    let vars = [(STORE, store.path().as_os_str()), (CONTEXT, dir.path().as_os_str())];
    let start = || child(test, &vars).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let all: Vec<_> = (0..4).map(|_| start()).collect();
    for program in all {
        let out = program.wait_with_output().unwrap();
        assert!(out.status.success() && text(&out.stdout).contains("built sha256:"), "{}", text(&out.stdout));
    }
    assert!(store.verify().unwrap().is_sound());
    let (_, again) = steps_done(&Build::context(dir.path()), &store);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn an_image_from_elsewhere_is_a_cache() {
    let (store, dir) = (bases::store(), context(FILES));
    let (image, _) = steps_done(&Build::context(dir.path()).tag("app:1"), &store);
    let mut archive = Vec::new();
    image.save(&mut archive).unwrap();
    for believed in [true, false] {
        let other = bases::store();
        Image::load_reader(&other, &archive[..]).unwrap();
        let build = Build::context(dir.path()).images_as_cache(believed);
        let (again, did) = steps_done(&build, &other);
        assert_eq!(works(&did), if believed { 0 } else { 6 }, "{did:?}");
        if believed {
            assert_eq!(again.config().diff_ids(), image.config().diff_ids());
        }
    }
}

/// Anybody can write a history.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_hostile_image_is_no_cache() {
    let store = bases::store();
    let layer = tar([("srv/made", Node::File(b"poisoned"))]);
    let mut hostile = bases::image(vec![bases::root(), layer], json!({}));
    let mut config: Value = serde_json::from_slice(&hostile.config).unwrap();
    config["history"][1]["created_by"] = json!("RUN [\"touch\",\"/srv/made\"]");
    hostile.config = config.to_string().into_bytes();
    Image::load_reader(&store, &docker_archive(&[(&hostile, &["localhost/hostile:1"])])[..]).unwrap();
    let build = || Build::empty().dockerfile_text("FROM localhost/box:1\nRUN [\"touch\", \"/srv/made\"]\n");
    let made = |build: Build| {
        let image = build.run(&store).unwrap();
        std::io::read_to_string(image.open("/srv/made").unwrap()).unwrap()
    };
    assert_eq!(made(build().cache_from("localhost/other:1")), "");
    store.prune_cache(None, None).unwrap();
    // It is the caller's to say.
    assert_eq!(made(build().cache_from("localhost/hostile:1")), "poisoned");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn cache_mounts_are_directories_of_the_callers() {
    let store = bases::store();
    let caches = tempfile::tempdir().unwrap();
    let text = "FROM localhost/box:1\nARG N\nRUN --mount=type=cache,id=log,target=/c echo $N >> /c/log && cat /c/log > /log\n";
    let build = |n: &str, caches: &Path| {
        let build = Build::empty().dockerfile_text(text).arg("N", n).cache_dir(caches);
        let image = build.run(&store).unwrap();
        std::io::read_to_string(image.open("/log").unwrap()).unwrap()
    };
    assert_eq!(build("1", caches.path()), "1\n");
    assert_eq!(build("2", caches.path()), "1\n2\n");
    // What is in it does not count: the step is found.
    write(caches.path(), "log/log", "changed\n");
    assert_eq!(build("2", caches.path()), "1\n2\n");
    assert_eq!(build("3", caches.path()), "changed\n3\n");
    // Saved and restored.
    let saved = tempfile::tempdir().unwrap();
    fs::create_dir(saved.path().join("log")).unwrap();
    fs::copy(caches.path().join("log/log"), saved.path().join("log/log")).unwrap();
    assert_eq!(build("4", saved.path()), "changed\n3\n4\n");
    assert_eq!(fs::read_to_string(saved.path().join("log/log")).unwrap(), "changed\n3\n4\n");
    // The store's own are none of them.
    let own = Build::empty().dockerfile_text(text).arg("N", "5").run(&store).unwrap();
    assert_eq!(std::io::read_to_string(own.open("/log").unwrap()).unwrap(), "5\n");
    store.prune_cache(None, None).unwrap();
    assert!(saved.path().join("log/log").exists());
}

/// A directory that is closed to an ordinary user who builds, as somebody else's in the image.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn cache_mounts_of_other_users() {
    let store = bases::store();
    let mount = "--mount=type=cache,id=closed,target=/c,uid=3,gid=4,mode=0700";
    for _ in 0..2 {
        let text = format!(
            "FROM localhost/box:1\nRUN {mount} stat -c '%a %u %g' /c | grep '^700 3 4$' && echo x >> /c/x\n"
        );
        Build::empty().dockerfile_text(text).no_cache(true).run(&store).unwrap();
    }
    assert_eq!(store.prune_cache(None, None).unwrap().mounts, 1);
    assert_eq!(count(store.path().join("cache/mounts")), 0);
}

/// A cache stays that of who made it first: who asks for another owner, another mode or other files to begin with has another one.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn cache_mounts_of_one_id_are_apart() {
    let (store, caches) = (bases::store(), tempfile::tempdir().unwrap());
    let run = |settings: &str, command: &str| {
        let text = format!(
            "FROM localhost/box:1 AS old\nRUN mkdir /seed && echo old > /seed/x\n\
             FROM localhost/box:1 AS new\nRUN mkdir /seed && echo new > /seed/x\n\
             FROM localhost/box:1 AS own\nRUN mkdir -m 700 /seed && chown 1000:1000 /seed\n\
             FROM localhost/box:1\nRUN --mount=type=cache,id=c,target=/c{settings} {command}\n"
        );
        let build = Build::empty().dockerfile_text(text).cache_dir(caches.path());
        build.run(&store).unwrap_or_else(|error| panic!("{settings}: {error}"));
    };
    run("", "touch /c/root && chmod 700 /c");
    run(
        ",uid=1000,gid=1000",
        "test ! -e /c/root && stat -c '%a %u %g' /c | grep '^755 1000 1000$' && touch /c/mine",
    );
    run(",gid=1000,uid=1000,mode=0755", "test -e /c/mine");
    run(",mode=0777", "stat -c '%a %u' /c | grep '^777 0$' && test ! -e /c/mine");
    // Named as it is anyway, it is that one.
    run(",uid=0,mode=0755", "test -e /c/root");
    run(",from=old,source=/seed", "grep old /c/x && echo changed > /c/x");
    run(",from=new,source=/seed", "grep new /c/x");
    run(",from=old,source=/seed", "grep changed /c/x");
    // With files to begin with, the usual owner and mode are others than those of these files. What is a sub-id's an ordinary user
    // can't take back, which is an error.
    run(",from=own,source=/seed", "stat -c '%a %u' /c | grep '^700 1000$'");
    if is_root() {
        run(",from=own,source=/seed,uid=0,gid=0,mode=0755", "stat -c '%a %u' /c | grep '^755 0$'");
    }
    assert_eq!(count(caches.path()), if is_root() { 7 } else { 6 });
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn locked_cache_mounts_are_one_stages_at_a_time() {
    let store = bases::store();
    let mount = "--mount=type=cache,id=n,target=/c,sharing=locked";
    let count =
        "for i in 1 2 3 4 5 6 7 8; do n=$(cat /c/n 2>/dev/null || echo 0); echo $((n + 1)) > /c/n; done";
    let mut text = String::new();
    for stage in 0..4 {
        text += &format!("FROM localhost/box:1 AS s{stage}\nRUN {mount} {count} && touch /{stage}\n");
    }
    text += "FROM localhost/box:1\n";
    for stage in 0..4 {
        text += &format!("COPY --from=s{stage} /{stage} /\n");
    }
    let caches = tempfile::tempdir().unwrap();
    Build::empty().dockerfile_text(text).cache_dir(caches.path()).parallel(4).run(&store).unwrap();
    assert_eq!(fs::read_to_string(caches.path().join("n/n")).unwrap(), "32\n");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn nobody_waits_in_vain_for_cache_mounts() {
    let store = bases::store();
    let mount = |id: &str, at: &str, sharing: &str| {
        format!("--mount=type=cache,id={id},target={at},sharing={sharing}")
    };
    // One RUN has a cache twice, and two have two in either order.
    let twice =
        [mount("a", "/c", "shared"), mount("a", "/d", "locked"), mount("a", "/e", "locked")].join(" ");
    let (one, other) = (mount("a", "/a", "locked"), mount("b", "/b", "locked"));
    let mut text = format!("FROM localhost/box:1 AS twice\nRUN {twice} echo 1 > /c/x && cp /d/x /e/y\n");
    for round in 0..8 {
        let (first, second) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        text += &format!("FROM localhost/box:1 AS s{round}\nRUN {first} {second} cp /a/y /b/z{round}\n");
    }
    text += "FROM twice\n";
    for stage in (0..8).map(|round| format!("s{round}")) {
        text += &format!("COPY --from={stage} /etc /{stage}\n");
    }
    let caches = tempfile::tempdir().unwrap();
    fs::create_dir(caches.path().join("a")).unwrap();
    fs::write(caches.path().join("a/y"), "").unwrap();
    let limit = std::time::Duration::from_secs(300);
    Build::empty()
        .dockerfile_text(text)
        .cache_dir(caches.path())
        .parallel(8)
        .timeout(limit)
        .run(&store)
        .unwrap();
    assert_eq!(count(caches.path().join("b")), 8);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_is_pruned_is_done_again() {
    let (store, dir) = (bases::store(), context(FILES));
    let build = Build::context(dir.path());
    steps_done(&build, &store);
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(store.prune_cache(Some(hour), None).unwrap().steps, 0, "nothing is that old");
    assert_eq!(store.prune_cache(None, Some(1 << 40)).unwrap().steps, 0, "all of it is less");
    assert!(steps_done(&build, &store).1.is_empty());
    assert!(store.prune_cache(None, None).unwrap().steps >= from("ENV").len());
    // The image is still there, and says what its steps gave, where it is believed.
    assert_eq!(works(&steps_done(&build.clone().images_as_cache(true), &store).1), 0);
    store.prune_images(false).unwrap();
    store.prune_cache(None, None).unwrap();
    let (_, again) = steps_done(&build, &store);
    assert_eq!(works(&again), 6, "{again:?}");
    // What has a name stays as it is, and serves where it is said to.
    let (named, _) = steps_done(&build.clone().tag("app:1"), &store);
    assert!(store.prune_cache(None, Some(0)).unwrap().steps > 0);
    assert_eq!(store.image("app:1").unwrap().id(), named.id());
    assert_eq!(works(&steps_done(&build.cache_from("app:1"), &store).1), 0);
    assert!(store.verify().unwrap().is_sound());
}

/// The kernel says which files were opened.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_build_without_changes_reads_no_file() {
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    let (store, dir) = (bases::store(), context(FILES));
    let build = Build::context(dir.path());
    steps_done(&build, &store);
    // What has just been written may change once more within its time's grain, and is read again for that: a second build.
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    let names = ["one", "dir/x"];
    for name in names {
        fs::File::open(dir.path().join(name)).unwrap().set_modified(old).unwrap();
    }
    eventually("the changes are of another moment", || {
        steps_done(&build, &store);
        let changed = fs::metadata(dir.path().join("one")).unwrap();
        let changed = std::time::Duration::new(
            std::os::unix::fs::MetadataExt::ctime(&changed) as u64,
            std::os::unix::fs::MetadataExt::ctime_nsec(&changed) as u32,
        );
        std::time::UNIX_EPOCH.elapsed().unwrap() > changed + std::time::Duration::from_secs(3)
    });
    steps_done(&build, &store);
    let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    for name in names {
        add_watch(&watch, dir.path().join(name), WatchFlags::OPEN | WatchFlags::ACCESS).unwrap();
    }
    let (_, told) = watched(build.clone(), &store);
    assert!(done(&told).is_empty());
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let nothing = Reader::new(&watch, &mut buffer).next().map(|event| event.events());
    assert_eq!(nothing.unwrap_err(), rustix::io::Errno::AGAIN);
    // It would have been seen.
    fs::read(dir.path().join("one")).unwrap();
    let seen = Reader::new(&watch, &mut buffer).next().unwrap().events();
    assert!(seen.contains(ReadFlags::OPEN));
}
