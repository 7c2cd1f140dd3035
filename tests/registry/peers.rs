//! Debian's docker-registry, and what skopeo pushed to it.

use super::common::distribution::{Distribution, skopeo};
use super::*;
use std::path::Path;

pub fn push(source: &str, target: &str, more: &[&str]) {
    let args = ["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"];
    skopeo(&[&args[..], more, &[source, target]].concat());
}

pub fn archive(dir: &Path, image: &Fixture) -> String {
    let path = dir.join("image.tar");
    fs::write(&path, docker_archive(&[(image, &["app:1"])])).unwrap();
    format!("docker-archive:{}", path.display())
}

#[test]
#[ignore = "needs docker-registry and skopeo: run with --include-ignored"]
fn what_skopeo_pushed_is_pulled_with_its_digests() {
    let registry = Distribution::start("");
    let dir = tempfile::tempdir().unwrap();
    let image = Fixture::new(&["one", "two", "three"]);
    let source = archive(dir.path(), &image);
    for (tag, more) in [
        ("docker", &["--format", "v2s2"][..]),
        ("oci", &["--format", "oci"]),
        #[cfg(feature = "zstd")]
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
    ] {
        let name = format!("{}/me/app:{tag}", registry.authority);
        push(&source, &format!("docker://{name}"), more);
        let seen = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")]);
        let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
        let store = Store::temp().unwrap();
        let pulled = Image::pull(&store, &name).unwrap();
        assert_eq!(seen["Digest"], pulled.digest().to_string(), "{tag}");
        let layers: Vec<_> =
            pulled.layer_descriptors().iter().map(|layer| layer.digest.to_string()).collect();
        assert_eq!(seen["Layers"], json!(layers), "{tag}");
        // For OCI's form skopeo writes the configuration anew.
        let from = format!("docker://{name}");
        let config = skopeo(&["inspect", "--tls-verify=false", "--config", "--raw", &from]);
        assert_eq!(pulled.config().json(), config, "{tag}");
        assert_eq!(*pulled.id() == image.id(), tag == "docker");
        assert!(store.verify().unwrap().is_sound());
        if tag == "docker" {
            // skopeo knows only OCI's own types in a layout. It reads what is saved of it.
            let saved = dir.path().join("saved.tar");
            pulled.save(fs::File::create(&saved).unwrap()).unwrap();
            let source = format!("docker-archive:{}:{name}", saved.display());
            let stored = skopeo(&["inspect", "--config", "--raw", &source]);
            assert_eq!(Digest::of(stored.as_bytes()), image.id());
            continue;
        }
        // And it is the same to skopeo when it reads the store.
        let stored = peer("skopeo", ["inspect", &format!("oci:{}:{name}", store.path().display())]);
        let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
        assert_eq!(stored["Digest"], seen["Digest"], "{tag}");
    }
    let error =
        Image::pull(&Store::temp().unwrap(), &format!("{}/me/app:none", registry.authority)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
}

#[test]
#[ignore = "needs skopeo and umoci: run with --include-ignored"]
fn what_was_pulled_by_a_digest_has_it_for_a_name_elsewhere() {
    let (server, index, _) = super::platforms::registry();
    let (store, name) = (Store::temp().unwrap(), server.name(&format!("{REPOSITORY}@{index}")));
    let pulled = Image::pull(&store, &name).unwrap();
    let stored = peer("skopeo", ["inspect", &format!("oci:{}:{name}", store.path().display())]);
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["Digest"], pulled.digest().to_string());
    let listed = peer("umoci", ["ls", "--layout", store.path().to_str().unwrap()]);
    assert_eq!(listed.trim_end(), name);
}

/// Lets in who says `me` and `secret-word`.
pub fn with_password(dir: &Path) -> String {
    let users = dir.join("htpasswd");
    fs::write(&users, peer("htpasswd", ["-nbB", "me", "secret-word"])).unwrap();
    format!("auth: {{htpasswd: {{realm: here, path: {}}}}}\n", users.display())
}

#[test]
#[ignore = "needs docker-registry, skopeo and htpasswd: run with --include-ignored"]
fn a_registry_with_passwords_lets_in_who_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Distribution::start(&with_password(dir.path()));
    let image = Fixture::new(&["one"]);
    let name = format!("{}/me/app:1", registry.authority);
    let source = archive(dir.path(), &image);
    push(&source, &format!("docker://{name}"), &["--dest-creds", "me:secret-word"]);
    let pull = |credentials| Pull::new(&name).credentials(credentials).run(&Store::temp().unwrap());
    assert_eq!(*pull(Credentials::basic("me", "secret-word")).unwrap().id(), image.id());
    for wrong in [Credentials::anonymous(), Credentials::basic("me", "another-word")] {
        assert_eq!(pull(wrong).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}
