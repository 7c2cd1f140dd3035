//! Real software in a real distribution: what a user's first hour looks like.

mod common;

use common::peer;
use coracle::{Container, Image, Network, Signal, Store};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A Debian root filesystem with a compiler and Python, made by Debian's own tool.
fn debian(tar: &Path) {
    let made = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--include=python3-minimal,gcc,libc6-dev", "bookworm"])
        .arg(tar)
        // Its own user namespace has to get there.
        .env("TMPDIR", "/tmp")
        .status()
        .expect("mmdebstrap (Debian's package of that name)");
    assert!(made.success(), "{made}");
}

/// One tree in every form that images come in, each in a store of its own: nothing is unpacked already.
#[test]
#[ignore = "needs mmdebstrap, umoci, skopeo and Debian's archive: run with --include-ignored"]
fn debian_comes_in_every_form_and_installs_compiles_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let tar = at("debian.tar");
    debian(Path::new(&tar));
    let store = Store::temp().unwrap();
    works(&Image::import(&store, &tar, "debian:imported").unwrap());
    drop(store);

    let image = format!("{}:12", at("layout"));
    peer("umoci", ["init", "--layout", &at("layout")]);
    peer("umoci", ["new", "--image", &image]);
    peer("umoci", ["raw", "add-layer", "--image", &image, &tar]);
    std::fs::remove_file(tar).unwrap();
    let source = format!("oci:{image}");
    let copy = |target: &str| {
        peer("skopeo", ["copy", "--quiet", "--insecure-policy", &source, target]);
    };
    copy(&format!("docker-archive:{}:debian:12", at("docker.tar")));
    copy(&format!("oci-archive:{}:debian:12", at("skopeo.tar")));
    peer("tar", ["-C", &at("layout"), "-cf", &at("umoci.tar"), "."]);
    for form in ["docker.tar", "umoci.tar"] {
        let store = Store::temp().unwrap();
        let mut loaded = Image::load(&store, at(form)).unwrap();
        assert_eq!(loaded.len(), 1, "{form}");
        works(&loaded.remove(0));
        if form == "umoci.tar" {
            // The same blobs from another hand.
            let other = Image::load(&store, at("skopeo.tar")).unwrap().remove(0);
            let python = Container::builder(&other).command(["python3", "-c", "print(6 * 7)"]).run().unwrap();
            assert_eq!(python.stdout_text(), "42\n", "{}", python.stderr_text());
        }
    }
}

/// apt-get, gcc and python3 do what they are for.
fn works(image: &Image) {
    let store = image.store();
    let release = Container::builder(image).command(["cat", "/etc/os-release"]).run().unwrap();
    assert!(release.stdout_text().contains("bookworm"), "{}", release.stdout_text());

    // One container that changes, step by step, as somebody at a shell would.
    let machine = Container::builder(image)
        .command(["sleep", "infinity"])
        .init(true)
        .network(Network::host())
        .start()
        .unwrap();
    let sh = |script: &str| {
        let out = machine
            .exec(["sh", "-ec", script])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .timeout(Duration::from_secs(400))
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{script}: {}\n{}\n{}",
            out.status,
            out.stdout_text(),
            out.stderr_text()
        );
        out.stdout_text().into_owned()
    };
    sh("apt-get update -qq && apt-get install -qq -y --no-install-recommends hello make");
    assert_eq!(sh("hello"), "Hello, world!\n");
    sh(
        "printf '#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 0; }\n' > /tmp/h.c && gcc -O2 -o /usr/local/bin/h /tmp/h.c",
    );
    assert_eq!(sh("h"), "compiled\n");
    assert_eq!(sh("python3 -c 'print(sum(range(101)))'"), "5050\n");
    // apt's own user, a service user, and a file that only it may read.
    assert_eq!(
        sh("id -nu _apt; chown www-data /usr/local/bin/h; stat -c %U /usr/local/bin/h"),
        "_apt\nwww-data\n"
    );
    let status = machine.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(
        status.code(),
        Some(128 + Signal::SIGTERM.number()),
        "init passes the signal on and says how it ended"
    );
    machine.remove().unwrap();
    assert_eq!(std::fs::read_dir(store.path().join("containers")).unwrap().count(), 0);
}
