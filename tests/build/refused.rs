//! What must not be built, or not so: each is an error with its line, and the store stays whole.

use super::told::watched;
use super::*;
use coracle::{BuildEvent, Error, ErrorKind, Limits, Network};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Outside of every context; nothing may show it.
pub const CANARY: &str = "canary-of-the-host";

/// A directory with the canary, and in it a context.
pub fn outside() -> (tempfile::TempDir, PathBuf) {
    let dir = context(&[("secret", CANARY), ("ctx/one", "1"), ("ctx/dir/two", "2")]);
    let context = dir.path().join("ctx");
    (dir, context)
}

/// Builds what has to fail at that line.
#[track_caller]
pub fn fails(build: &Build, store: &Store, line: usize) -> Error {
    let (result, told) = watched(build.clone(), store);
    let Err(error) = result else { panic!("it was built: {build:?}") };
    assert_eq!(error.position().map(|(line, _)| line), Some(line), "{error}");
    let said: Vec<u8> = told.iter().flat_map(|told| told.output.clone()).collect();
    assert!(!error.to_string().contains(CANARY) && !text(&said).contains(CANARY), "{error} {}", text(&said));
    error
}

/// No layer has the words, nor does any other file of the store.
pub fn has_nowhere(store: &Store, words: &[u8]) {
    fn walk(dir: &Path, words: &[u8]) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                // Another user's directories are the layers' own, and those are archives as well.
                if fs::read_dir(entry.path()).is_ok() {
                    walk(&entry.path(), words);
                }
            } else if kind.is_file()
                && let Ok(data) = fs::read(entry.path())
            {
                assert!(!data.windows(words.len()).any(|part| part == words), "{:?}", entry.path());
            }
        }
    }
    walk(store.path(), words);
}

pub fn is_whole(store: &Store) {
    assert!(store.verify().unwrap().is_sound());
    // What was removed is taken apart beside the program.
    eventually("nothing is left", || {
        ["tmp", "containers"].iter().all(|room| count(store.path().join(room)) == 0)
    });
    // And goes on to work.
    Build::empty().dockerfile_text("FROM localhost/box:1\nRUN true\n").no_cache(true).run(store).unwrap();
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_reaches_out_of_the_context() {
    let (store, (dir, context)) = (bases::store(), outside());
    let secret = dir.path().join("secret");
    symlink("../secret", context.join("relative")).unwrap();
    symlink(&secret, context.join("absolute")).unwrap();
    symlink("..", context.join("up")).unwrap();
    symlink("/", context.join("root")).unwrap();
    let absolute = format!("root{}", secret.display());
    for source in [
        "../secret",
        "../../../../../../etc/shadow",
        "/../secret",
        "relative",
        "absolute",
        "up/secret",
        &absolute,
        "dir/../../secret",
    ] {
        let text = format!("FROM localhost/box:1\nCOPY {source} /stolen\n");
        let error = fails(&Build::context(&context).dockerfile_text(text), &store, 2);
        assert!(
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::InvalidData),
            "{source}: {error}"
        );
        let text = format!("FROM localhost/box:1\nRUN --mount=type=bind,source={source},target=/m cat /m\n");
        fails(&Build::context(&context).dockerfile_text(text), &store, 2);
    }
    // Copied as links they lead nowhere but inside of the image.
    let text = "FROM localhost/box:1\nCOPY . /ctx\nRUN ! cat /ctx/relative && ! cat /ctx/absolute && ! ls /ctx/up/secret\n";
    Build::context(&context).dockerfile_text(text).run(&store).unwrap();
    has_nowhere(&store, CANARY.as_bytes());
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_reaches_out_of_a_stage() {
    let (store, (dir, _)) = (bases::store(), outside());
    let secret = dir.path().join("secret").display().to_string();
    for (links, source) in [
        ("true", format!("../../../{secret}")),
        (&*format!("ln -s {secret} /link"), "/link".into()),
        ("ln -s / /all", format!("/all{secret}")),
        ("ln -s ../../../../../.. /up", format!("/up{secret}")),
        (&*format!("mkdir /d && ln -s {secret} /d/x"), "/d/x".into()),
    ] {
        let text = format!(
            "FROM localhost/box:1 AS s\nRUN {links}\nFROM localhost/box:1\nCOPY --from=s {source} /stolen\n"
        );
        fails(&Build::empty().dockerfile_text(text), &store, 4);
        let mount = format!(
            "FROM localhost/box:1 AS s\nRUN {links}\nFROM localhost/box:1\nRUN --mount=from=s,source={source},target=/m cat /m\n"
        );
        fails(&Build::empty().dockerfile_text(mount), &store, 4);
    }
    // Where it is copied to, too.
    let stolen = dir.path().join("written");
    let text = format!(
        "FROM localhost/box:1\nRUN ln -s {} /out && ln -s /../../../.. /up\nCOPY <<x /out\nwritten\nx\nCOPY <<y /up{}\nwritten\ny\n",
        stolen.display(),
        stolen.display()
    );
    let _ = Build::empty().dockerfile_text(text).run(&store);
    assert!(!stolen.exists());
    has_nowhere(&store, CANARY.as_bytes());
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn archives_that_reach_out() {
    let store = bases::store();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out").display().to_string();
    let hostile: &[(&str, Vec<(&str, Node<'_>)>)] = &[
        ("up", vec![("../../../../../../../../../../tmp/coracle-out", Node::File(b"x"))]),
        ("absolute", vec![(&out, Node::File(b"x"))]),
        ("link", vec![("l", Node::Link("/")), ("l/tmp/coracle-out", Node::File(b"x"))]),
        (
            "relative link",
            vec![("l", Node::Link("../../../../../..")), ("l/tmp/coracle-out", Node::File(b"x"))],
        ),
        ("hard link", vec![("h", Node::HardLink("../../../../../../etc/passwd"))]),
    ];
    for (what, members) in hostile {
        let archive = || {
            let again = members.iter().map(|(name, node)| {
                let node = match node {
                    Node::File(data) => Node::File(data),
                    Node::Program(data) => Node::Program(data),
                    Node::Dir => Node::Dir,
                    Node::Link(target) => Node::Link(target),
                    Node::HardLink(target) => Node::HardLink(target),
                };
                (*name, node)
            });
            tar(again)
        };
        let context = tempfile::tempdir().unwrap();
        fs::write(context.path().join("a.tar"), archive()).unwrap();
        let text = "FROM localhost/box:1\nADD a.tar /into/\n";
        // Refused, or kept inside.
        if let Err(error) = Build::context(context.path()).dockerfile_text(text).run(&store) {
            assert_eq!(error.position().map(|(line, _)| line), Some(2), "{what}: {error}");
        }
        let as_context = Build::context_tar(std::io::Cursor::new(archive()));
        let _ = as_context.dockerfile_text("FROM localhost/box:1\nCOPY . /c\n").run(&store);
        assert!(!Path::new(&out).exists() && !Path::new("/tmp/coracle-out").exists(), "{what}");
    }
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn triggers_that_reach_out() {
    use ErrorKind as Kind;
    let (dir, context) = outside();
    for (trigger, kind, why) in [
        ("COPY ../secret /stolen", Kind::NotFound, "leads out of the context"),
        ("COPY --from=localhost/box:1 ../../x /x", Kind::NotFound, "leads out of the image localhost/box:1"),
        ("RUN --mount=source=../secret,target=/m cat /m", Kind::InvalidInput, "leads out of what it is from"),
        ("RUN --mount=source=/secret,target=/m cat /m", Kind::NotFound, "secret"),
        ("RUN --security=insecure true", Kind::PermissionDenied, "--security=insecure is not allowed"),
        ("RUN --mount=type=secret,id=a,required true", Kind::NotFound, "no secret \"a\""),
        ("RUN exit 7", Kind::Command, "exit code 7"),
        ("FROM x", Kind::InvalidData, "FROM"),
        ("ONBUILD RUN x", Kind::InvalidData, "ONBUILD"),
        ("MAINTAINER x", Kind::InvalidData, "MAINTAINER is no trigger"),
        ("NOTHING x", Kind::InvalidData, "NOTHING"),
    ] {
        let store = bases::store();
        let base = bases::image(vec![bases::root()], json!({"OnBuild": [trigger]}));
        Image::load_reader(&store, &docker_archive(&[(&base, &["localhost/hostile:1"])])[..]).unwrap();
        // Whose they are is said by the line of FROM, as no line of the file has them.
        let text = "# of another\nFROM localhost/hostile:1\nLABEL a=b\n";
        let error = fails(&Build::context(&context).dockerfile_text(text), &store, 2);
        let said = error.to_string();
        assert_eq!(error.kind(), kind, "{trigger}: {said}");
        assert!(said.contains(&format!("executing ONBUILD {trigger} of the base")), "{trigger}: {said}");
        assert!(said.contains(why) && said.contains("FROM localhost/hostile:1"), "{trigger}: {said}");
        has_nowhere(&store, CANARY.as_bytes());
        is_whole(&store);
    }
    drop(dir);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn stages_that_need_each_other() {
    let store = bases::store();
    for (text, line) in [
        ("FROM scratch AS a\nCOPY --from=b /x /\nFROM a AS b\nCOPY x /\n", 2),
        ("FROM localhost/box:1 AS a\nCOPY --from=a /x /\n", 2),
        ("FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nCOPY --from=a /x /\n", 2),
        ("FROM localhost/box:1 AS a\nRUN --mount=from=b,target=/m true\nFROM a AS b\nRUN true\n", 2),
        ("FROM b AS a\nFROM a AS b\n", 1),
        ("FROM localhost/box:1\nCOPY --from=7 /x /\n", 2),
    ] {
        let build = Build::empty().dockerfile_text(text);
        #[cfg(feature = "registry")]
        let build = build.pull(coracle::PullPolicy::Never);
        let error = build.run(&store).unwrap_err();
        assert_eq!(error.position().map(|(line, _)| line), Some(line), "{text}{error}");
    }
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn texts_that_are_no_dockerfile() {
    let store = bases::store();
    let long = format!("FROM localhost/box:1\nRUN echo {}\n", "x".repeat(10 << 20));
    let many = format!("FROM localhost/box:1\n{}", "RUN \\\n".repeat(3 << 20));
    let words = format!("FROM localhost/box:1\nENV {}\n", "a=b ".repeat(16000));
    let cases: &[(&str, &[u8], Option<usize>)] = &[
        ("a long line", long.as_bytes(), Some(2)),
        ("a long instruction", many.as_bytes(), None),
        ("NUL", b"FROM localhost/box:1\nRUN echo \0\n", Some(2)),
        ("not UTF-8", b"FROM localhost/box:1\nRUN echo \xff\n", Some(2)),
        ("an unknown instruction", b"FROM localhost/box:1\nRUM echo\n", Some(2)),
        ("an unknown flag", b"FROM localhost/box:1\nRUN --frob=1 echo\n", Some(2)),
        ("an unknown flag of COPY", b"FROM localhost/box:1\nCOPY --form=a b c\n", Some(2)),
        (
            "an unknown kind of mount",
            b"FROM localhost/box:1\nRUN --mount=type=disk,target=/d true\n",
            Some(2),
        ),
        ("nothing", b"", None),
        ("comments", b"# FROM x\n\n", None),
        ("no FROM", b"RUN true\nFROM localhost/box:1\n", Some(1)),
        ("no end", b"FROM localhost/box:1\nRUN <<end\ntrue\n", Some(2)),
        (
            "an unset variable that is needed",
            b"FROM localhost/box:1\nWORKDIR /${NEEDED:?is needed}\n",
            Some(2),
        ),
        ("a quote", b"FROM localhost/box:1\nENV A=\"b\n", Some(2)),
        ("a user that is not there", b"FROM localhost/box:1\nUSER nobody-of-that-name\nRUN true\n", Some(3)),
        (
            "an owner that is not there",
            b"FROM localhost/box:1\nCOPY --chown=nobody-of-that-name <<x /x\nx\n",
            Some(2),
        ),
        ("a mode that is none", b"FROM localhost/box:1\nCOPY --chmod=9z <<x /x\n1\nx\n", Some(2)),
        ("a port that is none", b"FROM localhost/box:1\nEXPOSE http\n", Some(2)),
        (
            "a file where a directory is",
            b"FROM localhost/box:1\nCOPY --from=localhost/box:1 /etc/motd /srv/dir/old/x\n",
            Some(2),
        ),
        (
            "a directory where a file is",
            b"FROM localhost/box:1\nCOPY --from=localhost/box:1 /srv/dir /srv/file\n",
            Some(2),
        ),
        ("an image name that is none", b"FROM UPPER/case\n", Some(1)),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, line) in cases {
        match Build::empty().dockerfile_text(bytes).run(&store) {
            Ok(_) => wrong.push(format!("{what}: it was built")),
            Err(error) => {
                let found = error.position().map(|(line, _)| line);
                if line.is_some() && found != *line {
                    wrong.push(format!("{what}: line {found:?}: {error}"));
                }
                assert!(error.to_string().len() < 4096, "{what}: {} bytes", error.to_string().len());
            }
        }
    }
    drop(words);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn names_that_lead_nowhere() {
    let store = bases::store();
    let dir = context(&[("dir/x", "x"), ("Dockerfile", "FROM localhost/box:1 AS build\nCOPY missing /\n")]);
    let build = || Build::context(dir.path());
    let kind = |build: Build| build.run(&store).unwrap_err().kind();
    assert_eq!(kind(build().dockerfile("No")), ErrorKind::NotFound);
    assert!(matches!(
        kind(build().dockerfile("dir")),
        ErrorKind::InvalidInput | ErrorKind::Io | ErrorKind::NotFound
    ));
    assert_eq!(kind(Build::context(dir.path().join("none"))), ErrorKind::NotFound);
    assert_eq!(kind(build().target("biuld")), ErrorKind::NotFound);
    let error = fails(&build(), &store, 2);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing") && error.to_string().contains('^'), "{error}");
    #[cfg(feature = "registry")]
    {
        let never =
            Build::empty().dockerfile_text("FROM localhost/none:1\n").pull(coracle::PullPolicy::Never);
        assert_eq!(fails(&never, &store, 1).kind(), ErrorKind::NotFound);
    }
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_command_that_fails() {
    let store = bases::store();
    let run = |command: &str| {
        let text = format!("FROM localhost/box:1\n\n# why\nRUN {command}\nRUN echo later\n");
        fails(&Build::empty().dockerfile_text(text), &store, 4)
    };
    let error = run("echo to stdout; echo to stderr >&2; exit 7");
    assert_eq!(error.kind(), ErrorKind::Command);
    let said = error.to_string();
    for part in ["7", "line 4", "to stdout", "to stderr", "^"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!((error.stdout(), error.stderr()), (&b"to stdout\n"[..], &b"to stderr\n"[..]));
    assert_eq!(run("[\"/no/such/program\"]").kind(), ErrorKind::Exec);
    assert_eq!(run("sh -c 'kill -SEGV $$'; exit $?").kind(), ErrorKind::Command);
    // The first process of its namespace, and all that it could reach.
    for command in
        ["kill -KILL -1; kill -KILL 1; kill -KILL $$; false", "kill -TERM -1; kill -ABRT $$; false"]
    {
        assert_eq!(run(command).kind(), ErrorKind::Command);
    }
    // Much output does not fill memory, and of it the end is shown.
    let error = run("yes line | head -n 300000; echo the end; false");
    assert!(error.to_string().contains("the end") && error.to_string().len() < 64 << 10);
    assert!(error.stdout().len() < 4 << 20, "{}", error.stdout().len());
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_command_that_takes_too_long() {
    let store = bases::store();
    let build = Build::empty().dockerfile_text("FROM localhost/box:1\nRUN echo begun; sleep 1000\n");
    // On a busy machine the first may be over before that line is come to.
    let mut errors = [2, 10, 50].map(Duration::from_secs).into_iter().map(|time| {
        let error = build.clone().timeout(time).run(&store).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        error
    });
    let is_of_line = |error: &Error| error.position().is_some_and(|(line, _)| line == 2);
    errors.find(is_of_line).expect("no error of that line");
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_secret_that_would_stay() {
    const SECRET: &str = "a-token-of-twenty-five";
    let store = bases::store();
    let run = |command: &str| {
        Build::empty()
            .dockerfile_text(format!(
                "FROM localhost/box:1\nRUN --mount=type=secret,id=token,env=TOKEN,target=/token {command}\n"
            ))
            .secret("token", SECRET)
            .no_cache(true)
    };
    for command in [
        "cp /token /leak",
        "echo before $TOKEN after > /srv/leak",
        "mkdir /deep && { head -c 100000 /dev/zero; cat /token; head -c 100000 /dev/zero; } > /deep/leak",
        "ln -s $TOKEN /link",
        "touch /srv/$TOKEN",
    ] {
        let error = fails(&run(command), &store, 2);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{command}: {error}");
        assert!(!error.to_string().contains(SECRET), "{error}");
        // No layer ever had it; what the container wrote is taken apart beside the program.
        eventually("nothing is left", || count(store.path().join("tmp")) == 0);
        has_nowhere(&store, SECRET.as_bytes());
    }
    // In what is said it is replaced, also where it comes in two parts and where the command fails.
    let (image, told) = watched(
        run("cat /token; printf %s $TOKEN | head -c 9; sleep 0.1; printf %s $TOKEN | tail -c +10"),
        &store,
    );
    image.unwrap();
    let said = text(&told[1].output);
    assert!(!said.contains(SECRET) && said.contains("***"), "{said}");
    let error = run("cat /token; cat /token >&2; false").run(&store).unwrap_err();
    let all = format!("{error}{}{}", text(error.stdout()), text(error.stderr()));
    assert!(!all.contains(SECRET) && all.contains("***"), "{all}");
    eventually("nothing is left", || count(store.path().join("tmp")) == 0);
    has_nowhere(&store, SECRET.as_bytes());
    // While it executes, too, it is in memory alone.
    let looked = Arc::new(AtomicUsize::new(0));
    let (place, seen) = (store.clone(), looked.clone());
    let build = run("test -n \"$TOKEN\" -a -s /token && echo here").on_event(move |event| {
        if matches!(event, BuildEvent::Running { .. } | BuildEvent::Output { .. }) {
            has_nowhere(&place, SECRET.as_bytes());
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    build.run(&store).unwrap();
    assert!(looked.load(Ordering::Relaxed) >= 2);
    // A file that a cache mount has is the caller's business, but no layer's.
    let error = Build::empty()
        .dockerfile_text("FROM localhost/box:1\nRUN --mount=type=secret,id=needed,required true\n");
    assert_eq!(fails(&error, &store, 2).kind(), ErrorKind::NotFound);
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn cache_mounts_that_lead_elsewhere() {
    let (store, dir) = (bases::store(), context(&[("outside/secret", CANARY)]));
    let outside = dir.path().join("outside");
    let build = |id: &str, caches: &Path| {
        let text = format!(
            "FROM localhost/box:1\nRUN --mount=type=cache,id={id},target=/c cat /c/secret; echo x > /c/written\n"
        );
        Build::empty().dockerfile_text(text).cache_dir(caches).no_cache(true)
    };
    // Somebody has put a link there.
    let caches = dir.path().join("caches");
    fs::create_dir(&caches).unwrap();
    symlink(&outside, caches.join("swapped")).unwrap();
    fails(&build("swapped", &caches), &store, 2);
    // A name with directories in it is a name.
    for id in ["../outside", "..", ".", "a/../../outside", "/"] {
        let _ = watched(build(id, &caches), &store);
    }
    assert_eq!(count(&outside), 1, "{:?}", fs::read_dir(&outside).unwrap().collect::<Vec<_>>());
    for entry in fs::read_dir(&caches).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_str().unwrap().contains('/') && name != "..");
    }
    assert_eq!(count(dir.path()), 2);
    is_whole(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_has_to_be_allowed() {
    let store = bases::store();
    let text =
        |flag: &str| Build::empty().dockerfile_text(format!("FROM localhost/box:1\nRUN {flag} true\n"));
    assert_eq!(fails(&text("--security=insecure"), &store, 2).kind(), ErrorKind::PermissionDenied);
    text("--security=insecure").allow_insecure(true).run(&store).unwrap();
    // What a RUN has is what a container has; an insecure one has all capabilities, and no filter.
    const LOOK: &str = "grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status";
    let seen = |flag: &str, insecure| {
        let run = format!("FROM localhost/box:1\nRUN {flag} {LOOK} > /seen\n");
        let image = Build::empty().dockerfile_text(run).allow_insecure(insecure).run(&store).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut image.open("/seen").unwrap(), &mut text).unwrap();
        text.trim_end().to_owned()
    };
    let plain = say(&sh(&store.image("localhost/box:1").unwrap(), LOOK));
    assert!(plain.contains("Seccomp:\t2") && plain.contains("NoNewPrivs:\t1"), "{plain}");
    assert_eq!(seen("", false), plain);
    assert_eq!(seen("", true), plain, "allowed is not asked for");
    let insecure = seen("--security=insecure", true);
    assert!(insecure.contains("NoNewPrivs:\t0"), "{insecure}");
    let effective = |text: &str| {
        let hex = text.split("CapEff:\t").nth(1).unwrap().split_whitespace().next().unwrap();
        u64::from_str_radix(hex, 16).unwrap().count_ones()
    };
    assert!(effective(&insecure) > effective(&plain) + 10, "{insecure} {plain}");
    let host = text("--network=host").network(Network::none());
    assert_eq!(fails(&host, &store, 2).kind(), ErrorKind::PermissionDenied);
    host.allow_host_network(true).run(&store).unwrap();
    is_whole(&store);
}

/// Nothing that a RUN does to its context reaches the caller's files.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_context_is_not_written_to() {
    let (store, dir) = (bases::store(), context(&[("one", "1"), ("dir/two", "2")]));
    let text = "FROM localhost/box:1\nRUN --mount=target=/c,rw echo changed > /c/one; rm -r /c/dir; touch /c/new; true\n";
    Build::context(dir.path()).dockerfile_text(text).run(&store).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("one")).unwrap(), "1");
    assert!(dir.path().join("dir/two").exists() && !dir.path().join("new").exists());
    let error = Build::context(dir.path())
        .dockerfile_text("FROM localhost/box:1\nRUN --mount=target=/c echo > /c/one\n");
    fails(&error, &store, 2);
    is_whole(&store);
}

/// A FIFO has no end and a socket no content.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn files_that_are_none() {
    let (store, dir) = (bases::store(), context(&[("one", "1")]));
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    // As in BuildKit a FIFO is copied as one, and a socket as an empty file; nobody waits for what they have in them.
    let are = |at: &str| format!("test -p {at}/fifo -a -f {at}/socket -a ! -s {at}/socket");
    for text in [
        format!("COPY . /c\nRUN {}", are("/c")),
        format!("COPY fifo s* /c/\nRUN {}", are("/c")),
        format!("ADD fifo socket /c/\nRUN {}", are("/c")),
        format!("RUN --mount=target=/c {}", are("/c")),
        "RUN --mount=source=fifo,target=/c test -p /c".to_owned(),
    ] {
        let text = format!("FROM localhost/box:1\n{text}\n");
        Build::context(dir.path()).dockerfile_text(&text).run(&store).unwrap();
        is_whole(&store);
    }
    for name in ["fifo", "socket"] {
        let error = Build::context(dir.path()).dockerfile(name).run(&store).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.path().is_some_and(|at| at.ends_with(name)), "{error}");
        is_whole(&store);
    }
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_secret_in_a_variable_is_in_no_record() {
    const SECRET: &str = "a-token-of-twenty-five";
    let store = bases::store();
    let (looked, in_store) = (std::sync::Arc::new(std::sync::Mutex::new(0)), store.clone());
    let told = looked.clone();
    let build = Build::empty()
        .dockerfile_text(
            "FROM localhost/box:1\nRUN --mount=type=secret,id=token,env=TOKEN test -n \"$TOKEN\"\n",
        )
        .secret("token", SECRET)
        .on_event(move |event| {
            // Its container is made, and goes only after it has been told of.
            if let coracle::BuildEvent::Running { container, .. } = event {
                assert!(in_store.path().join("containers").join(container).join("container.json").exists());
                has_nowhere(&in_store, SECRET.as_bytes());
                *told.lock().unwrap() += 1;
            }
        });
    build.run(&store).unwrap();
    assert_eq!(*looked.lock().unwrap(), 1);
    has_nowhere(&store, SECRET.as_bytes());
}

/// One that takes more memory than the build gives it.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_command_that_is_out_of_memory() {
    let store = bases::store();
    let limits = Limits::new().memory_max(32 << 20).memory_swap_max(32 << 20);
    let can = coracle::Cgroup::create(&format!("coracle-build-{}", std::process::id()), &limits).is_ok();
    let greedy = "FROM localhost/box:1\nRUN awk 'BEGIN { s = \"x\"; while (1) s = s s }'\n";
    let error = fails(&Build::empty().dockerfile_text(greedy).limits(limits), &store, 2);
    let text = error.to_string();
    match can {
        true => {
            assert_eq!(error.kind(), ErrorKind::Command, "{text}");
            assert!(
                text.contains("out of memory") && error.remedy().unwrap().contains("Build::limits"),
                "{text}"
            );
        }
        // It was not executed without its limit.
        false => assert!(text.contains("memory_max") && error.remedy().is_some(), "{text}"),
    }
    is_whole(&store);
}
