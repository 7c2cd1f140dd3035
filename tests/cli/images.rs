//! Images among each other, saved, and pruned.
#![forbid(unsafe_code)]

use super::common::{Fixture, docker_archive};
use super::{Done, World};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Loads images of a layer for each text.
fn load(w: &World, images: &[(&Fixture, &[&str])]) {
    let archive = w.path().join("fixture.tar");
    fs::write(&archive, docker_archive(images)).unwrap();
    w.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
}

/// With other fields in its configuration.
fn with(image: &Fixture, fields: Value) -> Fixture {
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    Fixture { layers: image.layers.clone(), config: config.to_string().into_bytes() }
}

/// Two images upon one, and one beside.
fn family(w: &World) {
    let (base, app, tool) =
        (Fixture::new(&["base"]), Fixture::new(&["base", "app"]), Fixture::new(&["base", "tool"]));
    let top = Fixture::new(&["base", "app", "top"]);
    load(w, &[(&base, &["base"]), (&app, &["app:1", "app:2"]), (&tool, &["tool"]), (&top, &["top"])]);
    load(w, &[(&Fixture::new(&["other"]), &["other"])]);
}

fn at(w: &World, name: &str) -> (PathBuf, String) {
    let path = w.path().join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

#[test]
fn a_history_has_dockers_columns() {
    let w = World::new();
    let long = format!("RUN\techo {}", "x".repeat(60));
    let history = json!([
        {"created": "2026-01-02T03:04:05Z", "created_by": "ADD one", "comment": "base"},
        {"created_by": "ENV A=1", "empty_layer": true},
        {"created": "2026-01-02T03:04:06.5Z", "created_by": long},
    ]);
    let image = with(&Fixture::new(&["one", "two"]), json!({ "history": history }));
    load(&w, &[(&image, &["app"])]);
    let id = image.id().to_string();
    let out = w.ok(["history", "app"]);
    let lines: Vec<_> = out.lines().collect();
    let heads: Vec<_> = lines[0].split("  ").map(str::trim).filter(|head| !head.is_empty()).collect();
    assert_eq!(heads, ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    assert_eq!(lines.len(), 4, "{out}");
    assert!(lines[1].starts_with(&id[7..19]) && lines[1].contains("ago"), "the newest first: {out}");
    assert!(lines[1].contains("RUN echo") && lines[1].contains('…') && !lines[1].contains(&"x".repeat(50)));
    assert!(lines[2].starts_with("<missing>") && lines[2].contains("N/A") && lines[2].contains(" 0B"));
    assert!(lines[3].starts_with("<missing>") && lines[3].ends_with("base"), "{out}");
    assert_eq!(w.ok(["image", "history", "-q", "app"]), format!("{}\n<missing>\n<missing>\n", &id[7..19]));
    assert_eq!(w.ok(["history", "-q", "--no-trunc", &id]), format!("{id}\n<missing>\n<missing>\n"));
    let plain =
        w.ok(["history", "-H=false", "--no-trunc", "--format", "{{.CreatedSince}} {{.UnpackedSize}}", "app"]);
    let size = |n: usize| image.layers[n].len();
    assert_eq!(
        plain,
        format!(
            "2026-01-02T03:04:06.500000000Z {}\nN/A 0\n2026-01-02T03:04:05.000000000Z {}\n",
            size(1),
            size(0)
        )
    );
    // What is stored, as `images` counts it: all but the two documents.
    let stored = w.ok(["history", "--human=false", "--format", "{{.Size}}", "app"]);
    let stored: u64 = stored.lines().map(|size| size.parse::<u64>().unwrap()).sum();
    let inspected = w.inspect("app");
    let manifest = w.path().join("store/blobs/sha256").join(&inspected["Digest"].as_str().unwrap()[7..]);
    let documents = image.config.len() as u64 + fs::metadata(manifest).unwrap().len();
    assert_eq!(stored + documents, inspected["Size"].as_u64().unwrap());
    let whole = w.ok(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "app"]);
    assert_eq!(whole.lines().next(), Some(long.replace('\t', " ").as_str()));
    let parsed: Value =
        serde_json::from_str(w.ok(["history", "--format", "json", "app"]).lines().last().unwrap()).unwrap();
    assert_eq!((&parsed["CreatedBy"], &parsed["Comment"]), (&json!("ADD one"), &json!("base")));
    assert_eq!(parsed["Digest"].as_str().unwrap().len(), 71);
    assert_eq!(w.ok(["history", "-q", "@host"]), "");
    for (wrong, code) in [(&["history", "none"][..], 1), (&["history"], 125), (&["history", "a", "b"], 125)] {
        assert_eq!(w.run(wrong).code, code, "{wrong:?}");
    }
}

#[test]
fn images_are_shown_as_a_tree() {
    let w = World::new();
    family(&w);
    let out = w.ok(["images", "--tree"]);
    let rows: Vec<Vec<_>> = out
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(rows[0], ["IMAGE", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE"]);
    let images: Vec<_> = out.lines().skip(1).map(|line| line.split("  ").next().unwrap()).collect();
    let expected = ["base:latest", "├─ app:1, app:2", "│", "└─ tool:latest", "other:latest"];
    assert_eq!(images, expected, "{out}");
    assert!(out.contains("│  └─ top:latest"), "{out}");
    // Alone, an image shares nothing.
    let other = rows.last().unwrap();
    assert_eq!((other[3], other[4]), (other[5], "0B"), "{out}");
    assert_ne!(rows[1][4], "0B");

    let out = w.ok(["image", "ls", "--tree", "--no-trunc", "--digests", "app:1"]);
    let lines: Vec<_> = out.lines().collect();
    assert!(lines.len() == 3 && lines[1].starts_with("app:1, app:2 "), "{out}");
    assert!(lines[2].starts_with("└─ top:latest") && lines[2].matches("sha256:").count() == 2, "{out}");
    assert_eq!(w.run(["images", "--tree", "none"]).code, 1);
    for other in ["-q", "--format=json", "-f=dangling=true"] {
        assert_eq!(w.run(["images", "--tree", other]).code, 125, "{other}");
    }
}

#[test]
fn the_verbs_of_images_have_their_second_names() {
    let w = World::new();
    family(&w);
    for words in [&["ls"][..], &["list"]] {
        let own: Vec<_> = ["image"].iter().chain(words).copied().collect();
        assert_eq!(w.ok(&own), w.ok(["images"]));
    }
    let digests =
        w.ok(["images", "--digests", "--no-trunc", "--format", "{{.Tag}} {{.Digest}} {{.ID}}", "base"]);
    assert_eq!(digests.matches("sha256:").count(), 2, "{digests}");
    w.ok(["image", "tag", "base", "me/base:1"]);
    assert_eq!(
        w.ok(["image", "inspect", "-f", "{{.RepoTags}}", "base"]),
        "[\"base:latest\",\"me/base:1\"]\n"
    );
    w.ok(["volume", "create", "site"]);
    assert_eq!(w.run(["image", "inspect", "site"]).code, 1, "a volume is no image");
    assert_eq!(w.ok(["image", "rm", "me/base:1"]), "Untagged: me/base:1\n");
    let out = w.ok(["image", "remove", "other"]);
    assert!(out.starts_with("Untagged: other:latest\nDeleted: sha256:"), "{out}");
    assert!(
        w.ok(["image", "--help"]).contains("prune") && w.ok(["image", "ls", "--help"]).contains("--tree")
    );
    for wrong in [&["image"][..], &["image", "none"]] {
        assert_eq!(w.run(wrong).code, 125, "{wrong:?}");
    }
}

/// By the whole identifier with and without its algorithm, and by the beginning that `images` shows.
#[test]
fn images_are_found_by_their_ids() {
    let w = World::new();
    load(&w, &[(&Fixture::new(&["one"]), &["app"])]);
    let id = w.ok(["inspect", "-f", "{{.Id}}", "app"]).trim().to_owned();
    let bare = id.strip_prefix("sha256:").unwrap();
    let short = &id[..19];
    for (i, form) in [&id, bare, short, &bare[..12]].into_iter().enumerate() {
        let name = format!("other:{i}");
        w.ok(["tag", form, &name]);
        assert_eq!(w.ok(["inspect", "-f", "{{.Id}}", &name]).trim(), id, "{form}");
        let out = w.run(["run", "--rm", form, "/none"]);
        assert!(out.code == 127 && !out.err.contains("no such image"), "{form}: {}", out.err);
        assert_eq!(w.ok(["rmi", &name]), format!("Untagged: {name}\n"));
    }
    for form in ["sha256:0000", "000000000000"] {
        assert_eq!(w.run(["rmi", form]).code, 1, "{form}");
    }
    let out = w.ok(["rmi", &id]);
    assert!(out.contains(&format!("Deleted: {id}")), "{out}");
    assert_eq!(w.run(["inspect", "app"]).code, 1);
}

#[test]
fn images_are_saved_under_the_names_that_were_asked_for() {
    let w = World::new();
    family(&w);
    let (path, file) = at(&w, "saved.tar");
    fs::write(&path, "an older one").unwrap();
    let tags = |words: &[&str]| -> Vec<String> {
        let words: Vec<_> = ["save", "-o", &file].iter().chain(words).copied().collect();
        assert_eq!(w.ok(&words), "");
        let there = World::new();
        let out = there.ok(["load", "-i", &file]);
        assert_eq!(there.run(["system", "verify"]).code, 0);
        let mut names: Vec<_> = out.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(tags(&["app"]), ["app:1", "app:2"], "all tags, as docker does");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(tags(&["app:2", "base", "app:2"]), ["app:2", "base:latest"]);
    let id = w.inspect("top")["Id"].as_str().unwrap().to_owned();
    assert_eq!(tags(&[&id[7..19]]), [id.as_str()], "an id has no name");
    assert_eq!(tags(&[&id]), [id.as_str()], "nor has it one when it is written out");
    assert_eq!(tags(&["--format", "oci-archive", "tool:latest"]), ["tool:latest"]);
    let archive = fs::read(&path).unwrap();
    let streamed = w.command(["image", "save", "--format=oci-archive", "tool"]).output().unwrap();
    assert!(streamed.status.success() && streamed.stdout == archive, "the same bytes");
    let streamed = w.command(["save", "--format=oci-archive", "-o", "/dev/stdout", "tool"]).output().unwrap();
    assert!(streamed.status.success() && streamed.stdout == archive, "into what is no file");

    let (link, target) = (w.path().join("link.tar"), w.path().join("target.tar"));
    fs::write(&target, vec![b'x'; archive.len() + 1]).unwrap();
    std::os::unix::fs::symlink("target.tar", &link).unwrap();
    w.ok(["save", "--format=oci-archive", "-o", link.to_str().unwrap(), "tool"]);
    assert!(link.is_symlink() && fs::read(&target).unwrap() == archive, "a link stays one");
    fs::remove_file(&target).unwrap();
    w.ok(["save", "--format=oci-archive", "-o", link.to_str().unwrap(), "tool"]);
    assert!(link.is_symlink() && fs::read(&target).unwrap() == archive, "also one that leads nowhere yet");

    // What fails leaves the older file, and nothing beside it.
    let blob = w.path().join("store/blobs/sha256").join(&id[7..]);
    fs::write(&blob, fs::read_to_string(&blob).unwrap().replace("amd64", "AMD64").replace("arm64", "ARM64"))
        .unwrap();
    let before = fs::read_dir(w.path()).unwrap().count();
    for (wrong, code) in [
        (&["save", "-o", &file, "none"][..], 1),
        (&["save", "-o", &file, "@host"], 1),
        (&["save", "-o", &file, "top"], 1),
        (&["save", "-o", "/no/such/dir/x.tar", "base"], 1),
        (&["save", "-o", w.path().to_str().unwrap(), "base"], 1),
        (&["save", "--format", "zip", "base"], 125),
        (&["save", "-o", &file], 125),
    ] {
        let done = w.run(wrong);
        assert!(done.code == code && !done.err.is_empty(), "{wrong:?}: {done:?}");
    }
    assert_eq!((fs::read(&path).unwrap(), fs::read_dir(w.path()).unwrap().count()), (archive, before));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let done = Done::of(w.command(["save", "base"]).stdout(full).output().unwrap());
    assert_eq!(done.code, 1, "{done:?}");
    w.ok(["rmi", "top"]);
}

#[test]
fn an_archive_is_not_written_to_a_terminal() {
    let w = World::new();
    family(&w);
    let (master, terminal) = super::processes::terminal();
    let done = Done::of(w.command(["save", "base"]).stdout(terminal).output().unwrap());
    assert!(done.code == 1 && done.err.contains("terminal"), "{done:?}");
    drop(master);
}

#[test]
fn two_images_are_compared() {
    let w = World::new();
    load(&w, &[(&Fixture::new(&["one"]), &["old"]), (&Fixture::new(&["other", "two"]), &["new"])]);
    assert_eq!(w.ok(["image", "diff", "old", "new"]), "C /dir/file0\nA /dir/file1\n");
    assert_eq!(w.ok(["image", "diff", "new", "old"]), "C /dir/file0\nD /dir/file1\n");
    assert_eq!(w.ok(["image", "diff", "old", "old"]), "");
    let format = w.ok(["image", "diff", "--format", "{{.Path}}={{.Kind}}", "old", "new"]);
    assert_eq!(format, "/dir/file0=C\n/dir/file1=A\n");
    assert_eq!(w.run(["image", "diff", "old", "@host"]).code, 1);
    assert_eq!(w.run(["image", "diff", "old"]).code, 125);
}

#[test]
fn what_nobody_uses_is_pruned() {
    let w = World::new();
    let one = |text: &str, label: &str, created: &str| {
        with(&Fixture::new(&[text]), json!({"created": created, "config": {"Labels": {"k": label}}}))
    };
    let old = one("old", "a", "2026-01-02T03:04:05Z");
    let new = one("new", "b", "2026-01-03T00:00:00Z");
    load(&w, &[(&old, &["app"])]);
    load(&w, &[(&new, &["app"])]);
    let (kept, used) = (one("kept", "a", "2026-01-04T00:00:00Z"), Fixture::new(&["used"]));
    load(&w, &[(&kept, &["kept", "too"]), (&used, &["used"])]);
    w.ok(["create", "--name", "user", "used", "/none"]);
    let nothing = "Total reclaimed space: 0B\n";
    let prune = |words: &[&str]| w.ok(["image", "prune", "-f"].iter().chain(words));
    let count = || w.ok(["images", "-aq"]).lines().count();
    assert_eq!(count(), 4);
    // The first lost its name to the second.
    assert_eq!(prune(&["--filter", "label=k=b"]), nothing);
    assert_eq!(prune(&["--filter", "label!=k=a"]), nothing);
    assert_eq!(prune(&["--filter", "until=2026-01-02"]), nothing);
    assert_eq!(prune(&["--filter", "until=2026-01-02T03:04:05Z"]), nothing);
    let out = prune(&["--filter", "until=2026-01-03", "--filter", "label=k"]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..3], ["Deleted Images:", &format!("deleted: {}", old.id()), ""], "{out}");
    assert!(lines[3].starts_with("Total reclaimed space: ") && !out.ends_with(nothing), "{out}");
    assert_eq!(prune(&[]), nothing);
    // With names: but not what a container has.
    assert_eq!(prune(&["-a", "--filter", "until=400000h"]), nothing);
    assert_eq!(prune(&["-a", "--filter", "until=1767225600"]), nothing, "the first of January");
    let out = prune(&["--filter", "dangling=false", "--filter", "label=k=b"]);
    assert!(out.contains("untagged: app:latest\n"), "{out}");
    assert_eq!(count(), 2);
    let out = prune(&["-a"]);
    assert!(out.contains("untagged: kept:latest\nuntagged: too:latest\n"), "{out}");
    assert_eq!(w.ok(["images", "--format", "{{.Repository}}"]), "used\n");
    w.ok(["rm", "user"]);
    assert!(prune(&["-a"]).contains("untagged: used:latest\n"));
    assert_eq!(count(), 0);
    for wrong in ["until=soon", "until=1h30", "until=2026-01-02T03:04:05", "until=", "colour=red", "label"] {
        assert_eq!(w.run(["image", "prune", "--filter", wrong]).code, 125, "{wrong}");
    }
}

#[test]
fn an_image_is_squashed_and_gets_another_base() {
    let w = World::new();
    family(&w);
    let layers = |name: &str| w.inspect(name)["RootFS"]["Layers"].as_array().unwrap().clone();
    let id = w.ok(["image", "squash", "top", "one:1"]);
    assert_eq!((layers("top").len(), layers("one:1").len()), (3, 1));
    assert_eq!(w.inspect("one:1")["Id"].as_str(), Some(id.trim_end()));
    assert_eq!(w.ok(["image", "diff", "top", "one:1"]), "");
    w.ok(["image", "squash", "--onto", "base", "top", "two:1"]);
    assert_eq!((layers("two:1").len(), &layers("two:1")[0]), (2, &layers("base")[0]));
    w.ok(["image", "rebase", "top", "base", "other", "moved:1"]);
    assert_eq!(layers("moved:1"), [layers("other"), layers("top")[1..].to_vec()].concat());
    let done = w.run(["image", "rebase", "top", "tool", "other", "never:1"]);
    assert!(done.code == 1 && done.err.contains("does not stand on"), "{done:?}");
    assert_eq!(w.run(["image", "inspect", "never:1"]).code, 1);
}

#[test]
#[cfg(feature = "build")]
fn an_import_is_changed_as_docker_does() {
    let w = World::new();
    let (root, path) = at(&w, "rootfs");
    fs::create_dir_all(root.join("etc")).unwrap();
    let changes =
        ["ENV A=\"x y\" B=b", "LABEL c=$A", "EXPOSE 80-81/udp", "ENTRYPOINT [\"e\"]", "WORKDIR a/b"];
    let flags = changes.iter().flat_map(|change| ["--change", change]);
    w.ok(["import"].into_iter().chain(flags).chain([path.as_str(), "changed"]));
    let config = w.inspect("changed")["Config"].clone();
    assert_eq!((&config["Env"], &config["Labels"]["c"]), (&json!(["A=x y", "B=b"]), &json!("x y")));
    assert_eq!(config["ExposedPorts"], json!({ "80/udp": {}, "81/udp": {} }));
    assert_eq!((&config["Entrypoint"], &config["WorkingDir"]), (&json!(["e"]), &json!("/a/b")));
    let done = w.run(["import", "-c", "RUN true", &path, "never"]);
    assert!(done.code == 1 && done.err.contains("RUN is no change"), "{done:?}");
}
