//! `commit`, `diff` and `export`.
#![forbid(unsafe_code)]

use super::World;
use std::fs;

/// An image of nothing but what the host's container leaves: its files are put in by the command line itself.
fn container(w: &World) {
    let root = w.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/motd"), "ahoy\n").unwrap();
    w.ok(["import", root.to_str().unwrap(), "base:1"]);
    w.ok(["create", "--name", "one", "-e", "A=1", "-l", "k=v", "base:1", "/bin/serve", "now"]);
}

#[test]
fn a_container_becomes_an_image() {
    let w = World::new();
    container(&w);
    let id = w.ok(["commit", "-a", "somebody", "-m", "why", "one", "me/app:1"]);
    let image = w.inspect("me/app:1");
    assert_eq!(image["Id"], id.trim());
    assert_eq!(image["Author"], "somebody");
    assert_eq!(image["Config"]["Cmd"], serde_json::json!(["/bin/serve", "now"]));
    assert_eq!(image["Config"]["Env"], serde_json::json!(["A=1"]));
    assert_eq!(image["Config"]["Labels"]["k"], "v");
    let history = w.ok(["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "me/app:1"]);
    assert_eq!(history.lines().next().unwrap(), "/bin/serve now|why");
    // Without a name, not paused, and the same every time.
    let epoch = |args: &[&str]| {
        let out = w.command(args).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(epoch(&["commit", "--pause=false", "one"]), epoch(&["commit", "-p=false", "one"]));
    let done = w.run(["commit", "nobody"]);
    assert_eq!((done.code, done.err.contains("no container")), (1, true), "{done:?}");
    let done = w.run(["commit", "one", "Not A Name"]);
    assert_eq!(done.code, 1, "{done:?}");
}

#[test]
#[cfg(feature = "build")]
fn changes_are_instructions() {
    let w = World::new();
    container(&w);
    w.ok([
        "commit",
        "-c",
        "CMD [\"other\", \"words\"]",
        "--change",
        "ENV B=$A-2",
        "-c",
        "EXPOSE 80",
        "-c",
        "USER 7:8",
        "one",
        "changed:1",
    ]);
    let config = &w.inspect("changed:1")["Config"];
    assert_eq!(config["Cmd"], serde_json::json!(["other", "words"]));
    assert_eq!(config["Env"], serde_json::json!(["A=1", "B=1-2"]));
    assert_eq!(
        (&config["User"], &config["ExposedPorts"]),
        (&"7:8".into(), &serde_json::json!({"80/tcp": {}}))
    );
    for wrong in ["RUN true", "NOTHING x", "CMD [\"open"] {
        let done = w.run(["commit", "-c", wrong, "one", "wrong:1"]);
        // What is no list is a command for the shell.
        assert_eq!(done.code, i32::from(!wrong.starts_with("CMD")), "{wrong}: {done:?}");
    }
}

#[test]
fn a_container_that_did_nothing_has_no_changes_and_exports_its_image() {
    let w = World::new();
    container(&w);
    assert_eq!(w.ok(["diff", "one"]), "");
    let path = w.path().join("one.tar");
    w.ok(["export", "-o", path.to_str().unwrap(), "one"]);
    let out = w.command(["export", "one"]).output().unwrap();
    assert!(out.status.success() && out.stdout == fs::read(&path).unwrap(), "{:?}", out.status);
    let mut archive = tar::Archive::new(&out.stdout[..]);
    let names: Vec<_> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [std::path::Path::new("etc/"), std::path::Path::new("etc/motd")]);
}
