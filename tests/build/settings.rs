//! What a build can be told beside its Dockerfile.

use super::told::watched;
use super::*;
use coracle::dockerfile::Rule;
use coracle::{BuildContext, BuildEvent, ErrorKind};
use std::sync::{Arc, Mutex};

fn text(text: &str) -> Build {
    Build::empty().dockerfile_text(text)
}

fn config(image: &Image) -> Value {
    serde_json::from_str(image.config().json()).unwrap()
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn an_agent_for_ssh() {
    let store = bases::store();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let build = text(
        "FROM localhost/box:1\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\"\nRUN test -z \"$SSH_AUTH_SOCK\"\n",
    );
    let image = build.clone().ssh("default", &socket).run(&store).unwrap();
    assert_eq!(image.config().diff_ids().len(), 1, "nothing of it stays");
    let other =
        text("FROM localhost/box:1\nRUN --mount=type=ssh,id=mine,required true\n").ssh("default", &socket);
    let error = other.run(&store).unwrap_err();
    assert_eq!(
        (error.kind(), error.position().map(|(line, _)| line)),
        (ErrorKind::NotFound, Some(2)),
        "{error}"
    );
    // Of several the first is named, and what ENV and ARG say is kept.
    for several in [
        "RUN --mount=type=ssh,target=/a --mount=type=ssh test \"$SSH_AUTH_SOCK\" = /a -a -S /a -a -S /run/buildkit/ssh_agent.1",
        "RUN --mount=type=ssh --mount=type=ssh,target=/b test \"$SSH_AUTH_SOCK\" = /run/buildkit/ssh_agent.0 -a -S /b",
        "RUN --mount=type=ssh,id=mine --mount=type=ssh test -S \"$SSH_AUTH_SOCK\"",
        "ARG SSH_AUTH_SOCK=/set\nRUN --mount=type=ssh test \"$SSH_AUTH_SOCK\" = /set -a -S /run/buildkit/ssh_agent.0",
        "ENV SSH_AUTH_SOCK=/set\nRUN --mount=type=ssh test \"$SSH_AUTH_SOCK\" = /set -a -S /run/buildkit/ssh_agent.0",
    ] {
        let build = text(&format!("FROM localhost/box:1\n{several}\n")).ssh("default", &socket);
        build.run(&store).unwrap_or_else(|error| panic!("{several}: {error}"));
    }
    // What is not required is not there.
    let absent = text("FROM localhost/box:1\nRUN --mount=type=ssh,id=mine test -z \"$SSH_AUTH_SOCK\"\n");
    absent.run(&store).unwrap();
}

/// A program of this machine with the libraries that it wants.
fn with_programs(store: &Store, programs: &[&str]) {
    let mut layer = coracle::Layer::builder();
    for program in programs {
        let said = peer("ldd", [program]);
        let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
        for path in libraries.chain([*program]) {
            layer = layer.file_with_mode(&path[1..], fs::read(path).unwrap(), 0o755);
        }
    }
    let layer = layer.build(store).unwrap();
    store.image(bases::BOX).unwrap().with_layer(&layer).unwrap().tag("localhost/programs:1").unwrap();
}

#[test]
#[ignore = "needs busybox and openssh-client: run with --include-ignored"]
fn an_agents_keys_are_used_in_a_command() {
    let store = bases::store();
    with_programs(&store, &["/usr/bin/ssh-add"]);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut agent = std::process::Command::new("ssh-agent");
    let mut agent =
        agent.args(["-D", "-a", &at("agent")]).stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("the agent listens", || std::os::unix::net::UnixStream::connect(at("agent")).is_ok());
    peer("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "the key of this test", "-f", &at("key")]);
    let added =
        std::process::Command::new("ssh-add").arg(at("key")).env("SSH_AUTH_SOCK", at("agent")).output();
    assert!(added.unwrap().status.success());
    // As root and as another user, whose the socket has to be.
    let build = text(
        "FROM localhost/programs:1\nRUN --mount=type=ssh ssh-add -l > /keys\nRUN mkdir -m 777 /open\n\
         USER alice\nRUN --mount=type=ssh ! ssh-add -l\nRUN --mount=type=ssh,uid=1000,mode=0600 ssh-add -l > /open/keys\n",
    );
    let built = build.ssh("default", at("agent")).run(&store);
    agent.kill().unwrap();
    agent.wait().unwrap();
    let image = built.unwrap();
    for path in ["/keys", "/open/keys"] {
        let mut keys = String::new();
        std::io::Read::read_to_string(&mut image.open(path).unwrap(), &mut keys).unwrap();
        assert!(keys.contains("the key of this test"), "{path}: {keys}");
    }
    assert_eq!(count(store.path().join("tmp")), 0);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn checks() {
    let store = bases::store();
    let dubious = "FROM localhost/box:1 AS Base\nWORKDIR relative\nCMD echo\n";
    let rules: Vec<_> = text(dubious)
        .check()
        .unwrap()
        .into_iter()
        .map(|warning| (warning.rule, warning.span.first))
        .collect();
    let expected =
        [(Rule::StageNameCasing, 1), (Rule::WorkdirRelativePath, 2), (Rule::JsonArgsRecommended, 3)];
    assert_eq!(rules, expected);
    // It is built all the same, unless it says otherwise itself.
    text(dubious).run(&store).unwrap();
    let strict = text(&format!("# check=error=true\n{dubious}"));
    assert_eq!(strict.check().unwrap().len(), 3);
    assert!(strict.run(&store).is_err());
    text(&format!("# check=error=true;skip=all\n{dubious}")).run(&store).unwrap();
    // The context's own rules count.
    let dir = context(&[
        ("Dockerfile", "FROM scratch\nCOPY left-out /\n"),
        (".dockerignore", "left-out\n"),
        ("left-out", ""),
    ]);
    let warnings = Build::context(dir.path()).check().unwrap();
    assert_eq!(warnings.iter().map(|warning| warning.rule).collect::<Vec<_>>(), [Rule::CopyIgnoredFile]);
    assert_eq!(text("FROM scratch\nCOPY --form=x a b\n").check().unwrap_err().position(), Some((2, 6)));
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn another_machine() {
    let store = bases::store();
    let (own, other) = if cfg!(target_arch = "x86_64") { ("amd64", "arm64") } else { ("arm64", "amd64") };
    let build = text(
        "FROM scratch\nARG TARGETPLATFORM BUILDPLATFORM\nLABEL target=$TARGETPLATFORM build=$BUILDPLATFORM\n",
    );
    let image = build.platform(format!("linux/{other}").parse().unwrap()).run(&store).unwrap();
    assert_eq!(image.architecture(), other);
    let labels = &config(&image)["config"]["Labels"];
    assert_eq!(labels, &json!({"target": format!("linux/{other}"), "build": format!("linux/{own}")}));
    // What is made here for it is for it.
    for base in ["localhost/box:1", "scratch AS nothing\nFROM nothing", "scratch"] {
        let run = if base.contains("box") { "RUN true\n" } else { "" };
        let made = text(&format!("FROM --platform=$BUILDPLATFORM {base}\n{run}COPY <<E /data\nx\nE\n"));
        let image = made.platform(format!("linux/{other}").parse().unwrap()).run(&store).unwrap();
        assert_eq!((image.architecture(), image.config().variant()), (other, None), "{base}");
    }
    // The image that is there is not for it.
    let build = text("FROM localhost/box:1\nRUN true\n").platform(format!("linux/{other}").parse().unwrap());
    #[cfg(feature = "registry")]
    let build = build.pull(coracle::PullPolicy::Never);
    let error = build.run(&store).unwrap_err();
    assert_eq!(error.position().map(|(line, _)| line), Some(1), "{error}");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn arguments_that_nothing_uses() {
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = warnings.clone();
    let build = text("FROM localhost/box:1\nARG USED\nRUN true\n")
        .arg("USED", "1")
        .arg("UNUSED", "2")
        .on_event(move |event| {
            if let BuildEvent::Warning { text, .. } = event {
                told.lock().unwrap().push(text.clone());
            }
        });
    build.run(&bases::store()).unwrap();
    let warnings = warnings.lock().unwrap();
    assert!(warnings.iter().any(|text| text.contains("UNUSED")), "{warnings:?}");
    assert!(!warnings.iter().any(|text| text.replace("UNUSED", "").contains("USED")), "{warnings:?}");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn names_and_labels() {
    let store = bases::store();
    let first =
        text("FROM localhost/box:1\nLABEL a=1 b=1\n").tag("app:1").tag("app:latest").run(&store).unwrap();
    let second = text("FROM localhost/box:1\nLABEL a=2 b=2\n")
        .tag("app")
        .label("b", "3")
        .label("c", "")
        .run(&store)
        .unwrap();
    assert_eq!(store.image("app:1").unwrap().id(), first.id());
    assert_eq!(store.image("app").unwrap().id(), second.id());
    assert_eq!(config(&second)["config"]["Labels"], json!({"a": "2", "b": "3", "c": ""}));
    // One without a name is there as well, until somebody prunes.
    let unnamed = text("FROM localhost/box:1\nLABEL a=4\n").run(&store).unwrap();
    let id = *unnamed.id();
    assert!(unnamed.references().unwrap().is_empty());
    assert!(store.images().unwrap().iter().any(|image| *image.id() == id));
    drop(unnamed);
    store.prune_images(false).unwrap();
    assert!(!store.images().unwrap().iter().any(|image| *image.id() == id));
    assert!(matches!(
        text("FROM scratch\n").tag("me/UPPER").run(&store).unwrap_err().kind(),
        ErrorKind::InvalidInput | ErrorKind::InvalidData
    ));
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn contexts_with_names() {
    let store = bases::store();
    let dir = context(&[("one", "further"), (".dockerignore", "left-out\n"), ("left-out", "")]);
    // Of a base's name it takes the place, of a stage's too, and of what would be pulled.
    let build = text(
        "FROM not.there/at/all:1 AS base\nFROM localhost/box:1 AS stage\nRUN exit 1\nFROM base\nCOPY --from=stage . /copied/\nCOPY --from=files one /one\n",
    );
    let build = build
        .build_context("not.there/at/all:1", BuildContext::image(bases::OTHER))
        .build_context("stage", BuildContext::dir(dir.path()))
        .build_context(
            "files",
            BuildContext::tar(std::io::Cursor::new(tar([("one", Node::File(b"archived"))]))),
        );
    let image = build.run(&store).unwrap();
    let seen = seen::Seen::of_image(&image);
    assert!(seen.file("/data/file").is_some());
    assert_eq!(seen.file("/copied/one"), Some("file 644 0:0 \"further\""));
    assert_eq!((seen.file("/one"), seen.file("/copied/left-out")), (Some("file 644 0:0 \"archived\""), None));
    // What was a stream is read once.
    let once = Build::context_tar(std::io::Cursor::new(tar([("Dockerfile", Node::File(b"FROM scratch\n"))])));
    once.run(&store).unwrap();
    assert_eq!(once.run(&store).unwrap_err().kind(), ErrorKind::State);
}

/// As BuildKit has it: an archive has what it has, also where the Dockerfile is elsewhere.
#[test]
fn an_archive_has_all_that_is_in_it() {
    let (store, host) =
        (Store::temp().unwrap(), context(&[("F", "FROM scratch\nCOPY . /\n"), ("F.dockerignore", "*\n")]));
    let archive = || {
        let dockerfile = b"FROM scratch\nCOPY . /\nCOPY ignored /again\n";
        std::io::Cursor::new(tar([
            (".dockerignore", Node::File(b"ignored\n")),
            ("Dockerfile", Node::File(dockerfile)),
            ("Dockerfile.dockerignore", Node::File(b"*\n")),
            ("ignored", Node::File(b"there")),
        ]))
    };
    let image = Build::context_tar(archive()).run(&store).unwrap();
    let seen = seen::Seen::of_image(&image);
    assert_eq!(seen.file("/ignored"), Some("file 644 0:0 \"there\""));
    assert!(seen.file("/again").is_some() && seen.file("/.dockerignore").is_some());
    assert!(Build::context_tar(archive()).check().unwrap().is_empty());
    let image = Build::context_tar(archive()).dockerfile(host.path().join("F")).run(&store).unwrap();
    assert!(seen::Seen::of_image(&image).file("/ignored").is_some());
    // A further one, too.
    let build = text("FROM scratch\nCOPY --from=more ignored /\n")
        .build_context("more", BuildContext::tar(archive()));
    assert!(build.run(&store).unwrap().open("/ignored").is_ok());
}

/// A further context has no Dockerfile: a file with the name of one's rules is one of its files.
#[test]
fn further_contexts_have_rules_of_one_name() {
    let store = Store::temp().unwrap();
    let dir = context(&[
        ("one", "1"),
        ("two", "2"),
        ("Dockerfile.dockerignore", "one\n"),
        (".dockerignore", "two\n"),
    ]);
    let build =
        text("FROM scratch\nCOPY --from=more . /\n").build_context("more", BuildContext::dir(dir.path()));
    let image = build.run(&store).unwrap();
    assert!(image.open("/one").is_ok() && image.open("/two").is_err());
}

#[test]
fn nothing_as_a_further_context() {
    let store = Store::temp().unwrap();
    let build = |file: &str| text(file).build_context("base", BuildContext::image("scratch"));
    let image = build("FROM base\nLABEL a=1\n").run(&store).unwrap();
    assert!(image.config().diff_ids().is_empty());
    // The same as FROM itself has it.
    assert_eq!(image.id(), text("FROM scratch\nLABEL a=1\n").run(&store).unwrap().id());
    let image = build("FROM scratch\nCOPY --from=base . /\n").run(&store).unwrap();
    assert_eq!(seen::Seen::of_image(&image).file("/any"), None);
    let error = build("FROM scratch\nCOPY --from=base any /\n").run(&store).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn a_dockerfile_in_small_letters() {
    let store = Store::temp().unwrap();
    let dir = context(&[
        ("dockerfile", "FROM scratch\nCOPY . /\nLABEL name=small\n"),
        ("dockerfile.dockerignore", "left-out\n"),
        ("left-out", ""),
        ("one", ""),
    ]);
    let name = |image: &Image| config(image)["config"]["Labels"]["name"].as_str().unwrap().to_owned();
    let other = tempfile::tempdir().unwrap();
    let archive = tar([("dockerfile", Node::File(b"FROM scratch\nLABEL name=archived\n"))]);
    for (build, expected) in [
        (Build::context(dir.path()), "small"),
        (Build::context(dir.path()).dockerfile(dir.path().join("Dockerfile")), "small"),
        (Build::context(other.path()).dockerfile(dir.path().join("Dockerfile")), "small"),
        (Build::context_tar(std::io::Cursor::new(archive)), "archived"),
    ] {
        assert_eq!(name(&build.run(&store).unwrap()), expected);
    }
    let image = Build::context(dir.path()).run(&store).unwrap();
    assert!(image.open("/one").is_ok() && image.open("/left-out").is_err());
    // It is only there for who has no other one, and for that name.
    write(dir.path(), "Dockerfile", "FROM scratch\nLABEL name=usual\n");
    assert_eq!(name(&Build::context(dir.path()).run(&store).unwrap()), "usual");
    for build in [Build::context(other.path()), Build::context(dir.path()).dockerfile("Other")] {
        let error = build.run(&store).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!error.to_string().contains("dockerfile"), "{error}");
    }
}

#[test]
fn directories_of_workdir_are_of_the_eighties() {
    const DAY: u64 = 24 * 60 * 60;
    let store = Store::temp().unwrap();
    let times = |build: Build| {
        let image = build.run(&store).unwrap();
        let layer = &image.layer_descriptors()[0];
        let blob = fs::File::open(store.path().join("blobs/sha256").join(layer.digest.hex())).unwrap();
        let mut archive = ::tar::Archive::new(blob);
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().header().mtime().unwrap() / DAY).collect::<Vec<_>>()
    };
    let build = text("FROM scratch\nWORKDIR /a/b\n");
    // No archive, of zip or of FAT, has anything older than 1980.
    assert_eq!(times(build.clone()), [3653, 3653]);
    let epoch = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5 * DAY);
    assert_eq!(times(build.source_date_epoch(epoch)), [5, 5]);
}

/// Whatever is given to it, one after the other or at once.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn many_builds_in_one_program() {
    let store = bases::store();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..5 {
                    // Some of it is the same for all.
                    let (image, told) = watched(
                        text(&format!(
                            "FROM localhost/box:1\nRUN echo {round} > /round\nRUN echo {thread} > /thread\n"
                        )),
                        store,
                    );
                    let seen = seen::Seen::of_image(&image.unwrap());
                    assert_eq!(seen.file("/thread"), Some(&*format!("file 644 0:0 \"{thread}\\n\"")));
                    assert_eq!(told.len(), 3);
                }
            });
        }
    });
    assert!(store.verify().unwrap().is_sound());
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn the_socket_of_an_agent_stays_as_it_is() {
    use std::os::unix::fs::MetadataExt;
    let store = bases::store();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let seen = || {
        let now = fs::metadata(&socket).unwrap();
        (now.mode(), now.uid(), now.gid())
    };
    let before = seen();
    for change in ["chmod 777", "chown 1000:1000", "touch -t 200001010000"] {
        let build =
            text(&format!("FROM localhost/box:1\nRUN --mount=type=ssh ! {change} \"$SSH_AUTH_SOCK\"\n"));
        build.ssh("default", &socket).run(&store).unwrap_or_else(|error| panic!("{change}: {error}"));
        assert_eq!(seen(), before, "{change}");
    }
}
