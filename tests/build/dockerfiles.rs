//! tests/dockerfiles, built by this crate and by buildah.

use super::case::Case;
use super::seen::Seen;
use super::*;
#[cfg(feature = "registry")]
use std::sync::Mutex;

/// What a case stands on.
fn below(case: &Case, bases: &[Seen]) -> Seen {
    if case.has_base() { bases[0].clone() } else { Seen::default() }
}

fn base_images() -> Vec<Seen> {
    let archive = tempfile::NamedTempFile::new().unwrap();
    fs::write(archive.path(), bases::archive()).unwrap();
    Seen::of_members(archive.path())
}

/// The lines that only one of them has.
fn differences(expected: &str, found: &str) -> String {
    let missing = expected.lines().filter(|line| !found.lines().any(|other| other == *line));
    let new = found.lines().filter(|line| !expected.lines().any(|other| other == *line));
    missing.map(|line| format!("  - {line}\n")).chain(new.map(|line| format!("  + {line}\n"))).collect()
}

fn assert_none(failures: &[String], of: usize) {
    assert!(failures.is_empty(), "{} of {of}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
#[ignore = "needs busybox, bzip2 and xz: run with --include-ignored"]
fn every_dockerfile_gives_what_is_expected() {
    let (store, bases) = (bases::store(), base_images());
    let contexts = tempfile::tempdir().unwrap();
    let cases = Case::all();
    let mut failures = Vec::new();
    for case in &cases {
        let context = contexts.path().join(&case.name);
        case.prepare(&context);
        let failure = match case.build(&context).tag(format!("out/{}", case.name)).run(&store) {
            Ok(image) => differences(&case.expected(), &Seen::of_image(&image).over(&below(case, &bases))),
            Err(error) => format!("  {error}\n"),
        };
        if !failure.is_empty() {
            failures.push(format!("{}:\n{failure}", case.name));
        }
    }
    assert_none(&failures, cases.len());
    assert!(store.verify().unwrap().is_sound());
}

/// What `expected` says is what buildah makes of it, where it is not by hand. With `CORACLE_BLESS` set it is written down.
#[cfg(feature = "registry")]
#[test]
#[ignore = "needs root, buildah and docker-registry: its chroots and their mounts"]
fn buildah_gives_the_same() {
    let (bases, served) = (base_images(), buildah::Bases::serve());
    let contexts = tempfile::tempdir().unwrap();
    let cases: Vec<_> = Case::all().into_iter().filter(|case| !case.is_by_hand()).collect();
    assert!(cases.len() >= 40 || std::env::var_os("CORACLE_TEST_CASE").is_some(), "{}", cases.len());
    let (next, failures) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    // Each with a store of its own, as one store is locked.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let buildah = buildah::Buildah::new(&served);
                loop {
                    let Some(case) = next.lock().unwrap().next() else { break };
                    let context = contexts.path().join(&case.name);
                    case.prepare(&context);
                    let failure = match buildah.build(case, &context) {
                        Ok(image) => {
                            let found = image.over(&below(case, &bases));
                            if std::env::var_os("CORACLE_BLESS").is_some() {
                                case.bless(&found);
                            }
                            differences(&case.expected(), &found)
                        }
                        Err(error) => format!("  {error}\n"),
                    };
                    if !failure.is_empty() {
                        failures.lock().unwrap().push(format!("{}:\n{failure}", case.name));
                    }
                }
            });
        }
    });
    assert_none(&failures.into_inner().unwrap(), cases.len());
}
