//! What is wrong in a store is said, beside what is right.
#![forbid(unsafe_code)]

use super::{Done, World};
use std::fs;

#[test]
fn a_broken_image_is_listed_and_removed() {
    let w = World::new();
    let root = w.path().join("rootfs");
    fs::create_dir_all(root.join("etc")).unwrap();
    for name in ["good", "bad"] {
        fs::write(root.join("etc/greeting"), name).unwrap();
        assert_eq!(Done::of(w.command(["import"]).arg(&root).arg(name).output().unwrap()).code, 0);
    }
    assert_eq!(w.run(["system", "verify"]).code, 0);
    let id = w.inspect("bad")["Id"].as_str().unwrap().replace("sha256:", "");
    let blob = w.path().join("store/blobs/sha256").join(id);
    fs::write(&blob, "damaged").unwrap();
    let done = w.run(["images"]);
    assert_eq!((done.code, done.out.lines().count()), (0, 3), "{done:?}");
    let bad = done.out.lines().find(|line| line.starts_with("bad")).unwrap();
    assert!(bad.contains("latest") && bad.contains("<broken>"), "{bad}");
    assert!(done.err.contains(blob.to_str().unwrap()) && done.err.contains("help:"), "{done:?}");
    assert_eq!(w.ok(["images", "-q"]).lines().count(), 2);

    let done = w.run(["system", "verify"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.out.contains(blob.to_str().unwrap()) && done.out.contains("help:"), "{done:?}");
    let format = ["system", "verify", "--format", "{{.Blobs}} {{.Images}}"];
    assert_eq!(w.run(format).out, "6 2\n");

    w.ok(["rmi", "bad"]);
    assert_eq!(w.ok(["images", "--format", "{{.Repository}}"]), "good\n");
    assert_eq!(w.run(["system", "verify"]).code, 0);
}

#[test]
fn broken_containers_and_volumes_are_told_beside_the_others() {
    let w = World::new();
    for name in ["good", "bad"] {
        w.ok(["create", "--name", name, "@host", "true"]);
        w.ok(["volume", "create", name]);
    }
    let id = w.inspect("bad")["Id"].as_str().unwrap().to_owned();
    let record = w.path().join("store/containers").join(&id).join("container.json");
    let volume = w.path().join("store/volumes/bad/volume.json");
    let sound = fs::read(&record).unwrap();
    for file in [&record, &volume] {
        fs::write(file, "damaged").unwrap();
    }
    let told = |args: &[&str], out: &str, file: &std::path::Path| {
        let done = w.run(args);
        assert_eq!((done.code, &*done.out), (0, out), "{args:?}: {done:?}");
        assert!(
            done.err.contains(file.to_str().unwrap()) && done.err.contains("help:"),
            "{args:?}: {done:?}"
        );
        assert_eq!(done.err.lines().count(), 1, "{args:?}: {done:?}");
    };
    told(&["ps", "-a", "--format", "{{.Names}}"], "good\n", &record);
    told(&["ps", "--format", "{{.Names}}"], "", &record);
    told(&["volume", "ls", "-q"], "good\n", &volume);
    let info = w.run(["info", "--format", "{{.Containers}} {{.Volumes}}"]);
    assert_eq!((info.code, &*info.out, info.err.lines().count()), (0, "1 1\n", 2), "{info:?}");
    // Sound again, so that what it has can be removed.
    fs::write(record, sound).unwrap();
    assert_eq!(w.ok(["ps", "-a"]).lines().count(), 3);
    fs::remove_dir_all(volume.parent().unwrap()).unwrap();
}
