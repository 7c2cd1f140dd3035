//! `cp`.
use super::*;
use std::fs;

#[test]
fn files_go_in_and_come_out() {
    let w = World::new();
    let id = w.ok(["create", "--name", "one", "@host", "cat", "/srv/in"]);
    let dir = w.path().join("files");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f"), "hello\n").unwrap();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    // Nothing is said where no terminal is.
    assert_eq!(w.ok(["cp", &at("f"), "one:/srv/in"]), "");
    assert_eq!(w.ok(["start", "-a", "one"]), "hello\n");
    w.ok(["cp", &format!("{}:srv/in", id.trim()), &at("out")]);
    assert_eq!(fs::read_to_string(at("out")).unwrap(), "hello\n");
    w.ok(["cp", "one:/srv/in", &at("")]);
    assert_eq!(fs::read_to_string(at("in")).unwrap(), "hello\n");
    // A name with a colon is a container's, unless it says otherwise.
    fs::write(at("a:b"), "colon").unwrap();
    let mut command = w.command(["cp", "./a:b", "one:/srv"]);
    assert_eq!(Done::of(command.current_dir(&dir).output().unwrap()).code, 0);
    w.ok(["cp", "one:/srv/a:b", &at("c")]);
    assert_eq!(fs::read_to_string(at("c")).unwrap(), "colon");
    // What is said, when it is wanted.
    let done = w.run(["cp", "-q=false", &at("f"), "one:/srv/in"]);
    assert_eq!((done.code, done.err.as_str()), (0, "Successfully copied 6B to one:/srv/in\n"));
    assert_eq!(w.run(["cp", "--quiet", "-a", "-L", "one:/srv/in", &at("out")]).err, "");
}

#[test]
fn archives_are_streamed() {
    let w = World::new();
    w.ok(["create", "--name", "one", "@host", "sleep", "1000"]);
    w.ok(["create", "--name", "other", "@host", "cat", "/srv/services"]);
    let archive = w.command(["cp", "one:/etc/services", "-"]).output().unwrap().stdout;
    let names: Vec<_> = tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().into_owned())
        .collect();
    assert_eq!(names, [Path::new("services")]);
    // From one to the other, by a pipe.
    let mut out = w.command(["cp", "one:/etc/services", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let input = out.stdout.take().unwrap();
    let into = w.command(["cp", "-", "other:/srv"]).stdin(input).output().unwrap();
    assert!(out.wait().unwrap().success() && into.status.success(), "{into:?}");
    assert_eq!(w.ok(["start", "-a", "other"]), fs::read_to_string("/etc/services").unwrap());
    // And from one place of a container that runs to another of it.
    let mut runs = w.spawn(["run", "--name", "runs", "-i", "@host", "sh", "-c", "echo ready; read line"]);
    let mut out = w.command(["cp", "runs:/etc", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let input = out.stdout.take().unwrap();
    let into = w.command(["cp", "-", "runs:/srv"]).stdin(input).output().unwrap();
    assert!(out.wait().unwrap().success() && into.status.success(), "{into:?}");
    assert_eq!(w.ok(["exec", "runs", "cmp", "/etc/services", "/srv/etc/services"]), "");
    drop(runs.stdin.take());
    assert_eq!(runs.child.wait().unwrap().code(), Some(1));
}

#[test]
fn what_can_not_be_copied() {
    let w = World::new();
    w.ok(["create", "--name", "one", "@host", "true"]);
    for (words, code) in [
        (vec!["cp", "one:/a", "one:/b"], 125),
        (vec!["cp", "/a", "/b"], 125),
        (vec!["cp", "-", "-"], 125),
        (vec!["cp", ":a", "/b"], 125),
        (vec!["cp", "one:/etc/passwd"], 125),
        (vec!["cp", "none:/a", "/b"], 1),
        (vec!["cp", "one:/missing", "/b"], 1),
        (vec!["cp", "-", "one:/etc/passwd"], 1),
        (vec!["cp", "/etc/passwd", "one:/missing/"], 1),
    ] {
        let done = w.run(words.clone());
        assert_eq!(done.code, code, "{words:?}: {done:?}");
        assert!(!done.err.is_empty(), "{words:?}");
    }
    assert!(
        w.run(["cp", "/etc/passwd", "one:/missing/"]).err.contains("the destination directory must exist")
    );
}
