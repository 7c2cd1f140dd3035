//! Mistakes that people make: the error names what is there and what may be meant.

use super::refused::fails;
use super::*;
use coracle::{BuildEvent, Platform};
use std::sync::{Arc, Mutex};

/// Each with the line of its error and words that it has to say.
const MISTAKES: &[(&str, usize, &[&str])] = &[
    ("FROM localhost/box:1\nCOPY dangling /x", 2, &["a link to /etc/hostname", "the context"]),
    ("FROM localhost/box:1\nCOPY links/* /x/", 2, &["a link to /nowhere"]),
    (
        "FROM localhost/box:1 AS build\nFROM localhost/box:1\nCOPY --from=biuld /x /y",
        3,
        &["the stage build?"],
    ),
    ("FROM localhost/box:1 AS build\nFROM biuld", 2, &["the stage build?"]),
    (
        "FROM localhost/box:1\nRUN --mount=type=bind,source=nosuch,target=/m true",
        2,
        &["mount of nosuch: not found"],
    ),
    ("FROM localhost/box:1\nRUN --mount=type=secret,id=s,required true", 2, &["--secret id="]),
    ("FROM localhost/box:1\nCOPY [\"one\", \"/z\"", 2, &["JSON"]),
    ("FROM localhost/box:1\nRUN [\"/nosuch\"]", 2, &["/nosuch", "interpreter"]),
    ("FROM localhost/box:1\nCOPY <<E /s.sh\n#!/nosuch\nE\nRUN [\"/s.sh\"]", 5, &["/s.sh", "chmod +x"]),
    ("FROM scratch\nRUN echo", 2, &["/bin/sh", "interpreter"]),
    ("FROM --platform=linux/arm64 localhost/box:1", 1, &["linux/arm64"]),
    ("FROM --platform=linux/amd64,linux/arm64 localhost/box:1", 1, &["one at a time"]),
];

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn each_says_what_is_there() {
    let store = bases::store();
    let dir = context(&[("one", "1")]);
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("dangling")).unwrap();
    fs::create_dir(dir.path().join("links")).unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.path().join("links/a")).unwrap();
    write(dir.path(), "links/b", "b");
    for (file, line, words) in MISTAKES {
        let build = Build::context(dir.path()).dockerfile_text(*file);
        #[cfg(feature = "registry")]
        let build = build.pull(coracle::PullPolicy::Never);
        let error = fails(&build, &store, *line).to_string();
        for word in *words {
            assert!(error.contains(word), "{file}\n{error}\nhas no {word:?}");
        }
    }
    assert!("linux/amd64,linux/arm64".parse::<Platform>().is_err());
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_is_to_be_a_cache_is_looked_for_first() {
    let store = bases::store();
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = told.clone();
    let build = Build::empty().dockerfile_text("FROM localhost/box:1\nRUN true").on_event(move |event| {
        to.lock().unwrap().push(match event {
            BuildEvent::Warning { text, .. } => text.clone(),
            _ => String::new(),
        });
    });
    let error = build.clone().cache_from("type=gha").run(&store).unwrap_err();
    assert!(error.to_string().contains("type=gha") && error.position().is_none(), "{error}");
    assert!(told.lock().unwrap().is_empty(), "nothing was begun");
    build.cache_from("localhost/none:1").run(&store).unwrap();
    assert!(told.lock().unwrap()[0].contains("localhost/none:1"), "{told:?}");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn the_container_of_a_run_knows_its_own_name() {
    let store = bases::store();
    for network in ["default", "none"] {
        let text =
            format!("FROM localhost/box:1\nRUN --network={network} grep -w \"$(hostname)\" /etc/hosts");
        Build::empty().dockerfile_text(text).run(&store).unwrap();
    }
}
