//! Pushes to Debian's docker-registry, and what skopeo and podman find there.

use super::auth::set;
use super::common::certificates::{HOST, certificates};
use super::common::distribution::{Distribution, skopeo};
use super::common::podman::Podman;
use super::peers::{archive, push as skopeo_push};
use super::push::{for_two_machines, loaded};
use super::tls::{Proxy, certs_d, through, with_tls};
use super::*;
use coracle::Push;
use std::path::Path;

const TOLD: &str = "CORACLE_TEST_PUSH_THROUGH_PROXY";

fn raw(name: &str) -> String {
    skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")])
}

#[test]
#[ignore = "needs docker-registry and skopeo: run with --include-ignored"]
fn what_is_pushed_is_skopeos_byte_for_byte() {
    let registry = Distribution::start("");
    let store = Store::temp().unwrap();
    let fixture = Fixture::new(&["one", "two", "three"]);
    let plain = docker_archive(&[(&fixture, &["plain:1"])]);
    let images = [
        ("gzip", loaded(&store, &fixture, "app:1")),
        ("large", loaded(&store, &noise(3_000_000), "large:1")),
        ("plain", Image::load_reader(&Store::temp().unwrap(), &plain[..]).unwrap().remove(0)),
    ];
    for (tag, image) in &images {
        let name = format!("{}/me/app:{tag}", registry.authority);
        let pushed = image.push(&name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let from = format!("docker://{name}");
        let to = format!("dir:{}", dir.path().display());
        skopeo(&["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", &from, &to]);
        let manifest = fs::read(dir.path().join("manifest.json")).unwrap();
        assert_eq!(Digest::of(&manifest), pushed.digest, "{tag}");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], image.id().to_string(), "{tag}");
        if *tag == "plain" {
            continue;
        }
        assert_eq!(pushed.digest, *image.digest(), "{tag}");
        for layer in image.layer_descriptors() {
            let hex = layer.digest.hex();
            let stored = fs::read(store.path().join("blobs/sha256").join(&hex)).unwrap();
            assert!(fs::read(dir.path().join(&hex)).unwrap() == stored, "{tag} {hex}");
        }
    }
}

#[test]
#[ignore = "needs docker-registry, skopeo and podman: run with --include-ignored"]
fn podman_pulls_what_was_pushed() {
    let registry = Distribution::start("");
    let store = Store::temp().unwrap();
    let fixture = Fixture::new(&["one", "two"]);
    let plain = docker_archive(&[(&fixture, &["plain:1"])]);
    let plain = Image::load_reader(&Store::temp().unwrap(), &plain[..]).unwrap().remove(0);
    let podman = Podman::new();
    let name = |tag: &str| format!("{}/me/app:{tag}", registry.authority);
    let image = loaded(&store, &fixture, "app:1");
    image.push(&name("gzip")).unwrap();
    plain.push(&name("plain")).unwrap();
    #[cfg(feature = "zstd")]
    Push::new(name("zstd")).compression(coracle::Compression::Zstd).run(&plain).unwrap();
    for tag in [
        "gzip",
        "plain",
        #[cfg(feature = "zstd")]
        "zstd",
    ] {
        podman.run(&["pull", "--quiet", "--tls-verify=false", &name(tag)]);
        assert_eq!(podman.inspect("{{.Id}}", &name(tag)), image.id().hex(), "{tag}");
        let digest = Digest::of(raw(&name(tag)).as_bytes()).to_string();
        assert_eq!(podman.inspect("{{.Digest}}", &name(tag)), digest, "{tag}");
        podman.clear();
    }
}

#[test]
#[ignore = "needs docker-registry and skopeo: run with --include-ignored"]
fn what_was_pulled_is_pushed_as_it_came() {
    let registry = Distribution::start("");
    let dir = tempfile::tempdir().unwrap();
    let source = archive(dir.path(), &Fixture::new(&["one", "two", "three"]));
    for (tag, more) in [
        ("docker", &["--format", "v2s2"][..]),
        ("oci", &["--format", "oci"]),
        #[cfg(feature = "zstd")]
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
    ] {
        let (theirs, ours) = (
            format!("{}/their/app:{tag}", registry.authority),
            format!("{}/our/app:{tag}", registry.authority),
        );
        skopeo_push(&source, &format!("docker://{theirs}"), more);
        let store = Store::temp().unwrap();
        let image = Image::pull(&store, &theirs).unwrap();
        registry.take_access("/v2/their/app/blobs/");
        assert_eq!(image.push(&ours).unwrap().digest, *image.digest(), "{tag}");
        assert_eq!(raw(&ours), raw(&theirs), "{tag}");
        // All of it is mounted: nothing but the manifest travelled.
        let log = registry.take_access("PUT /v2/our/app/manifests/");
        assert!(!log.iter().any(|line| line.contains("PUT /v2/our/app/blobs/")), "{log:#?}");
        // Another registry has to be sent all.
        let other = Distribution::start("");
        let elsewhere = format!("{}/our/app:{tag}", other.authority);
        image.push(&elsewhere).unwrap();
        assert_eq!(raw(&elsewhere), raw(&theirs), "{tag}");
        let to = format!("dir:{}", dir.path().join(tag).display());
        let from = format!("docker://{elsewhere}");
        skopeo(&["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", &from, &to]);
    }
}

#[test]
#[ignore = "needs docker-registry and skopeo: run with --include-ignored"]
fn an_index_comes_with_all_its_images() {
    let registry = Distribution::start("");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (index, other) = for_two_machines(&path);
    let name = format!("{}/{NAME}", registry.authority);
    let pushed = Store::open(&path).unwrap().image("app:1").unwrap().push(&name).unwrap();
    assert_eq!((raw(&name), pushed.digest), (index.clone(), Digest::of(index.as_bytes())));
    // All of it, byte for byte, as skopeo copies it.
    let copy = dir.path().join("copy");
    let to = format!("oci:{}:1", copy.display());
    let args =
        ["copy", "--all", "--preserve-digests", "--quiet", "--insecure-policy", "--src-tls-verify=false"];
    skopeo(&[&args[..], &[&format!("docker://{name}"), &to]].concat());
    let blobs = |of: &Path| {
        let names = fs::read_dir(of.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
        let mut blobs: Vec<_> = names.map(|path| Digest::of(&fs::read(path).unwrap())).collect();
        blobs.sort_by_key(Digest::hex);
        blobs
    };
    assert_eq!(
        (blobs(&copy), blobs(&copy).len()),
        (blobs(&path), 7),
        "an index, and two images of one layer"
    );
    let pull = Pull::new(&name).platform("linux/riscv64".parse().unwrap());
    assert_eq!(*pull.run(&Store::temp().unwrap()).unwrap().id(), other.id());
}

#[test]
#[ignore = "needs docker-registry: run with --include-ignored"]
fn of_a_child_the_registry_is_sent_its_own_layer() {
    let registry = Distribution::start("");
    let store = Store::temp().unwrap();
    let name = |tag: &str| format!("{}/me/app:{tag}", registry.authority);
    loaded(&store, &Fixture::new(&["one", "two", "three"]), "base:1").push(&name("base")).unwrap();
    let sent = |tag: &str| {
        let log = registry.take_access(&format!("PUT /v2/me/app/manifests/{tag} "));
        log.iter().filter(|line| line.contains("\"PUT /v2/me/app/blobs/uploads/")).count()
    };
    assert_eq!(sent("base"), 4, "three layers and the configuration");
    let child = loaded(&store, &Fixture::new(&["one", "two", "three", "child"]), "child:1");
    child.push(&name("child")).unwrap();
    assert_eq!(sent("child"), 2, "its layer and its configuration");
    child.push(&name("child")).unwrap();
    assert_eq!(sent("child"), 0);
}

#[test]
#[ignore = "needs docker-registry and htpasswd: run with --include-ignored"]
fn who_has_a_password_may_push() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("htpasswd");
    fs::write(&users, peer("htpasswd", ["-nbB", "me", "secret-word"])).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: here, path: {}}}}}\n", users.display());
    let registry = Distribution::start(&auth);
    let store = Store::temp().unwrap();
    let image = loaded(&store, &noise(2_000_000), "app:1");
    let name = format!("{}/me/app:1", registry.authority);
    for wrong in [Credentials::anonymous(), Credentials::basic("me", "another-word")] {
        let error = Push::new(&name).credentials(wrong).run(&image).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(!format!("{error:?}").contains("another-word"), "{error:?}");
    }
    let me = Credentials::basic("me", "secret-word");
    Push::new(&name).credentials(me.clone()).run(&image).unwrap();
    let pulled = Pull::new(&name).credentials(me).run(&Store::temp().unwrap()).unwrap();
    assert_eq!(pulled.digest(), image.digest());
}

/// In a process of its own, as a proxy is in the environment.
fn push_as_told(told: &str) {
    let [dir, ca, client] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let read = |name: String| fs::read(Path::new(dir).join(name)).unwrap();
    let store = Store::temp().unwrap();
    let image = loaded(&store, &noise(2_000_000), "app:1");
    let mut push = Push::new(format!("{HOST}/{NAME}")).retries(0);
    if ca != "-" {
        push = push.root_certificates(read(format!("{ca}.pem")));
    }
    if client != "-" {
        let key = String::from_utf8(read(format!("{client}.key"))).unwrap();
        push = push.client_certificate(read(format!("{client}.pem")), key);
    }
    match push.run(&image) {
        Ok(pushed) => println!("pushed {}", pushed.digest),
        Err(error) => println!("failed {:?}: {error}", error.kind()),
    }
}

#[test]
#[ignore = "needs docker-registry, skopeo and openssl: run with --include-ignored"]
fn a_push_over_tls_trusts_the_certificate_alone() {
    if let Ok(told) = std::env::var(TOLD) {
        return push_as_told(&told);
    }
    let test = "push_peers::a_push_over_tls_trusts_the_certificate_alone";
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let at = dir.path().display();
    let registry = Distribution::start(&with_tls(dir.path(), true));
    let proxy = Proxy::to(registry.authority.clone());
    for told in [format!("{at} - client"), format!("{at} stranger client"), format!("{at} ca -")] {
        let said = through(test, &proxy, TOLD, &told);
        assert!(said.starts_with("failed Network: "), "{told}: {said}");
    }
    let said = through(test, &proxy, TOLD, &format!("{at} ca client"));
    let plain = Distribution::start_in("", registry.storage());
    let there = Digest::of(raw(&format!("{}/{NAME}", plain.authority)).as_bytes());
    assert_eq!(said, format!("pushed {there}"));
}

#[test]
#[ignore = "needs docker-registry, skopeo and openssl: run with --include-ignored"]
fn a_push_finds_certificates_where_docker_has_them() {
    if !is_own_process("push_peers::a_push_finds_certificates_where_docker_has_them") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    let registry = Distribution::start(&with_tls(dir, true));
    let (host, store) = (&registry.authority, Store::temp().unwrap());
    let name = |tag: &str| format!("{host}/me/app:{tag}");
    let image = loaded(&store, &noise(2_000_000), "app:1");
    let files = [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")];
    let push = |tag: &str| Push::new(name(tag)).retries(0);
    // Of another registry, and of one that nobody vouches for.
    set("XDG_CONFIG_HOME", dir);
    certs_d(dir, "containers/certs.d/another.test", &files);
    assert_eq!(push("none").run(&image).unwrap_err().kind(), ErrorKind::Network);
    let stranger = certs_d(dir, "stranger.d", &[("stranger.pem", "ca.crt")]);
    let error = push("none").certificates_in(stranger).run(&image).unwrap_err();
    assert!(error.kind() == ErrorKind::Network && error.to_string().contains("certificate"), "{error}");
    // Of a directory that is named, and of the one that has the registry's name.
    let own = certs_d(dir, &format!("containers/certs.d/{host}"), &files);
    let moved = dir.join("own.d");
    fs::rename(&own, &moved).unwrap();
    push("named").certificates_in(&moved).run(&image).unwrap();
    fs::rename(&moved, &own).unwrap();
    push("found").run(&image).unwrap();
    let plain = Distribution::start_in("", registry.storage());
    for tag in ["named", "found"] {
        let there = raw(&format!("{}/me/app:{tag}", plain.authority));
        assert_eq!(Digest::of(there.as_bytes()), *image.digest(), "{tag}");
    }
}
