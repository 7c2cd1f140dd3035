//! The command line's `push`.

use super::cli::{World, screen, terminal};
use super::push::honest;
use super::*;
use std::io::Read;
use std::path::Path;

/// An image in the world's store, its layers compressed or plain.
fn load(w: &World, dir: &Path, image: &Fixture, name: &str, plain: bool) {
    let path = dir.join("image.tar");
    let archive = match plain {
        true => docker_archive(&[(image, &[name])]),
        false => pack(&oci_members(image, Some(name), "+gzip", gzip)),
    };
    fs::write(&path, archive).unwrap();
    w.ok(&["load", "-q", "-i", path.to_str().unwrap()]);
}

fn layer(text: &Fixture, at: usize) -> String {
    Digest::of(&gzip(&text.layers[at])).hex()[..12].to_owned()
}

#[test]
fn push_says_in_plain_lines_what_went() {
    let (_, server) = honest();
    let (w, dir) = (World::new(), tempfile::tempdir().unwrap());
    let (base, child) = (Fixture::new(&["one"]), Fixture::new(&["one", "two"]));
    let name = server.name(NAME);
    load(&w, dir.path(), &base, &name, false);
    let out = w.ok(&["push", &name]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], format!("The push refers to repository [{}/me/app]", server.authority()));
    assert_eq!(lines[1], format!("{}: Pushed", layer(&base, 0)));
    let digest = w.ok(&["images", "--digests", "--format", "{{.Digest}}"]);
    assert!(lines[2].starts_with(&format!("1: digest: {} size: ", digest.trim_end())), "{out}");
    assert_eq!((lines.len(), out.contains('\x1b')), (3, false), "{out:?}");
    assert!(w.ok(&["image", "push", &name]).contains(": Layer already exists\n"));
    assert_eq!(w.ok(&["push", "-q", &name]), format!("{name}\n"));

    // In another repository: from the first.
    let other = server.name("me/child");
    load(&w, dir.path(), &child, &format!("{other}:latest"), false);
    let out = w.ok(&["push", &other]);
    assert!(out.starts_with("Using default tag: latest\nThe push refers to"), "{out}");
    assert!(out.contains(&format!("{}: Mounted from me/app\n", layer(&child, 0))), "{out}");
    assert!(out.contains(&format!("{}: Pushed\n", layer(&child, 1))), "{out}");
}

#[test]
fn all_tags_are_pushed_where_that_is_wanted() {
    let (registry, server) = honest();
    let (w, dir) = (World::new(), tempfile::tempdir().unwrap());
    let name = |tag: &str| server.name(&format!("me/app:{tag}"));
    load(&w, dir.path(), &Fixture::new(&["one"]), &name("1"), false);
    load(&w, dir.path(), &Fixture::new(&["one", "two"]), &name("2"), false);
    w.ok(&["tag", &name("2"), &name("latest")]);
    w.ok(&["tag", &name("2"), &server.name("me/other:3")]);
    let out = w.ok(&["push", "-a", &server.name("me/app")]);
    let tags: Vec<_> = out.lines().filter_map(|line| Some(line.split_once(": digest: ")?.0)).collect();
    assert_eq!((tags, out.matches("refers to repository").count()), (vec!["1", "2", "latest"], 1), "{out}");
    let quiet = w.ok(&["push", "--quiet", "--all-tags", &server.name("me/app")]);
    assert_eq!(quiet, format!("{}\n{}\n{}\n", name("1"), name("2"), name("latest")));
    assert_eq!(registry.0.lock().unwrap().keys().collect::<Vec<_>>(), ["me/app"]);

    for (args, code, says) in [
        (&["push", "-a", &name("1")][..], 1, "--all-tags"),
        (&["push", "-a", &server.name("me/none")], 1, "does not exist locally"),
        (&["push", &name("none")], 1, "no image"),
        (&["push", "127.0.0.1:1/me/app:1"], 1, "no image"),
        (&["push", "--compression", "lzma", &name("1")], 125, "gzip, zstd or none"),
        (&["push", "--parallel", "0", &name("1")], 125, "one at least"),
        (&["push", "--tls-verify=false", &name("1")], 125, "always verified"),
        (&["push"], 125, "1 argument"),
    ] {
        let done = w.run(args);
        assert!(done.code == code && done.err.contains(says), "{args:?}: {} {}", done.code, done.err);
    }
    // One that does not answer.
    w.ok(&["tag", &name("1"), "127.0.0.1:1/me/app:1"]);
    let done = w.run(&["push", "127.0.0.1:1/me/app:1"]);
    assert!(done.code == 1 && done.err.contains("127.0.0.1:1"), "{}", done.err);
    let id = w.ok(&["images", "-q"]);
    assert_eq!(w.run(&["push", id.lines().next().unwrap()]).code, 1, "an id is no name");
}

#[test]
fn on_a_terminal_a_layer_that_is_pushed_has_a_bar() {
    let (_, server) = honest();
    let (w, dir) = (World::new(), tempfile::tempdir().unwrap());
    let (image, name) = (noise(600_000), server.name(NAME));
    load(&w, dir.path(), &image, &name, true);
    let (mut master, slave) = terminal(60);
    let mut child = w.command(&["push", &name]).env("TERM", "xterm").stdout(slave).spawn().unwrap();
    let mut shown = Vec::new();
    // The end is an error: nobody has the other side any more.
    let _ = master.read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    let layer = Digest::of(&image.layers[0]).hex()[..12].to_owned();
    assert!(shown.contains(&format!("{layer}: Compressing [")), "{shown:?}");
    let lines = screen(60, &shown);
    assert!(lines.contains(&format!("{layer}: Pushed")), "{lines:?}");
    // Of the bars nothing stays.
    assert!(!lines.iter().any(|line| line.contains(" [") && line.contains('>')), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("Compressing")), "{lines:?}");
}
