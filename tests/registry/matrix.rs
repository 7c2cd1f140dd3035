//! docker-registry without anything, with passwords, with TLS, and with both: what coracle pushes skopeo and podman pull, what
//! they push coracle pulls, byte for byte.

use super::common::certificates::certificates;
use super::common::distribution::{Distribution, skopeo};
use super::common::podman::Podman;
use super::peers::*;
use super::push::loaded;
use super::tls::{certs_d, with_tls};
use super::*;
use coracle::Push;
use std::path::Path;

/// A registry of one kind, and what who talks to it has to say.
struct Kind {
    has_password: bool,
    has_tls: bool,
    registry: Distribution,
    dir: tempfile::TempDir,
}

impl Kind {
    fn new(has_password: bool, has_tls: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        certs_d(dir.path(), "certs", &[("ca.pem", "ca.crt")]);
        let mut settings = String::new();
        if has_tls {
            settings += &with_tls(dir.path(), false);
        }
        if has_password {
            settings += &with_password(dir.path());
        }
        Self { has_password, has_tls, registry: Distribution::start(&settings), dir }
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/me/app:{tag}", self.registry.authority)
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// skopeo's and podman's options; `side` is before each of their names: "", "src-", "dest-".
    fn options(&self, side: &str) -> Vec<String> {
        let mut options = match self.has_tls {
            true => vec![format!("--{side}cert-dir={}", self.at("certs"))],
            false => vec![format!("--{side}tls-verify=false")],
        };
        if self.has_password {
            options.push(format!("--{side}creds=me:secret-word"));
        }
        options
    }

    fn credentials(&self) -> Credentials {
        if self.has_password { Credentials::basic("me", "secret-word") } else { Credentials::anonymous() }
    }

    fn pull(&self, tag: &str, store: &Store) -> Image {
        let mut pull = Pull::new(self.name(tag)).credentials(self.credentials());
        if self.has_tls {
            pull = pull.root_certificates(fs::read(self.at("ca.pem")).unwrap());
        }
        pull.run(store).unwrap()
    }

    fn push(&self, tag: &str, image: &Image, compression: Option<coracle::Compression>) -> Digest {
        let mut push = Push::new(self.name(tag)).credentials(self.credentials());
        if let Some(compression) = compression {
            push = push.compression(compression);
        }
        if self.has_tls {
            push = push.root_certificates(fs::read(self.at("ca.pem")).unwrap());
        }
        push.run(image).unwrap().digest
    }

    /// What skopeo copies out of it: the manifest, and all that it names.
    fn copied(&self, tag: &str) -> (Digest, std::path::PathBuf) {
        let to = self.dir.path().join(format!("copy-{tag}"));
        let (from, into) = (format!("docker://{}", self.name(tag)), format!("dir:{}", to.display()));
        let options = self.options("src-");
        let mut args = vec!["copy", "--quiet", "--insecure-policy"];
        args.extend(options.iter().map(String::as_str));
        skopeo(&[&args[..], &[&from, &into]].concat());
        (Digest::of(&fs::read(to.join("manifest.json")).unwrap()), to)
    }
}

/// Each blob that skopeo has is the store's.
#[track_caller]
fn assert_same_blobs(copy: &Path, store: &Store, blobs: usize) {
    let mut seen = 0;
    for entry in fs::read_dir(copy).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !["manifest.json", "version"].contains(&name.as_str()) {
            let ours = fs::read(store.path().join("blobs/sha256").join(&name)).unwrap();
            assert!(fs::read(copy.join(&name)).unwrap() == ours, "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, blobs);
}

/// What is pushed by coracle.
fn pushed(kind: &Kind) {
    let store = Store::temp().unwrap();
    let fixture = Fixture::new(&["one", "two"]);
    let image = loaded(&store, &fixture, "app:1");
    let large = loaded(&store, &noise(3_000_000), "large:1");
    let plain = docker_archive(&[(&fixture, &["plain:1"])]);
    let plain = Image::load_reader(&Store::temp().unwrap(), &plain[..]).unwrap().remove(0);
    let podman = Podman::new();
    #[cfg(feature = "zstd")]
    let zstd = ("zstd", &plain, Some(coracle::Compression::Zstd));
    for (tag, image, compression) in [
        ("gzip", &image, None),
        ("large", &large, None),
        ("plain", &plain, None),
        #[cfg(feature = "zstd")]
        zstd,
    ] {
        let digest = kind.push(tag, image, compression);
        let (there, copy) = kind.copied(tag);
        assert_eq!(there, digest, "{tag}");
        if ["gzip", "large"].contains(&tag) {
            assert_eq!(digest, *image.digest(), "{tag}");
            assert_same_blobs(&copy, &store, image.layer_descriptors().len() + 1);
        }
        let options = kind.options("");
        let mut args = vec!["pull", "--quiet"];
        args.extend(options.iter().map(String::as_str));
        let name = kind.name(tag);
        podman.run(&[&args[..], &[&name]].concat());
        assert_eq!(podman.inspect("{{.Id}}", &name), image.id().hex(), "{tag}");
        assert_eq!(podman.inspect("{{.Digest}}", &name), digest.to_string(), "{tag}");
        podman.clear();
    }
}

/// What is pulled by coracle.
fn pulled(kind: &Kind) {
    let fixture = Fixture::new(&["three", "four", "five"]);
    let source = archive(kind.dir.path(), &fixture);
    for (tag, more) in [
        ("docker", &["--format=v2s2"][..]),
        ("oci", &["--format=oci"]),
        #[cfg(feature = "zstd")]
        ("oci-zstd", &["--format=oci", "--dest-compress-format=zstd"]),
    ] {
        let options = kind.options("dest-");
        let mut args = vec!["copy", "--quiet", "--insecure-policy"];
        args.extend(options.iter().map(String::as_str).chain(more.iter().copied()));
        skopeo(&[&args[..], &[&source, &format!("docker://{}", kind.name(tag))]].concat());
        let store = Store::temp().unwrap();
        let image = kind.pull(tag, &store);
        let (there, copy) = kind.copied(tag);
        assert_eq!((*image.digest(), image.layer_descriptors().len()), (there, 3), "{tag}");
        assert_same_blobs(&copy, &store, 4);
        assert!(store.verify().unwrap().is_sound());
    }
    let podman = Podman::new();
    podman.run(&["load", "--quiet", "--input", source.strip_prefix("docker-archive:").unwrap()]);
    let options = kind.options("");
    let mut args = vec!["push", "--quiet"];
    args.extend(options.iter().map(String::as_str));
    podman.run(&[&args[..], &[&fixture.id().hex(), &kind.name("podman")]].concat());
    let store = Store::temp().unwrap();
    let image = kind.pull("podman", &store);
    let (there, copy) = kind.copied("podman");
    assert_eq!((*image.digest(), image.config().diff_ids().len()), (there, 3));
    assert_same_blobs(&copy, &store, 4);
    podman.clear();
}

fn both_ways(has_password: bool, has_tls: bool) {
    let kind = Kind::new(has_password, has_tls);
    pushed(&kind);
    pulled(&kind);
    // It is what it is said to be: who says nothing, or speaks without TLS, is not let in.
    let stranger = Pull::new(kind.name("gzip")).retries(0).credentials(Credentials::anonymous());
    let is_in = stranger.run(&Store::temp().unwrap()).is_ok();
    assert_eq!(is_in, !has_password && !has_tls);
}

#[test]
#[ignore = "needs docker-registry, skopeo, podman and openssl: run with --include-ignored"]
fn a_plain_registry() {
    both_ways(false, false);
}

#[test]
#[ignore = "needs docker-registry, skopeo, podman, htpasswd and openssl: run with --include-ignored"]
fn a_registry_with_passwords() {
    both_ways(true, false);
}

#[test]
#[ignore = "needs docker-registry, skopeo, podman and openssl: run with --include-ignored"]
fn a_registry_with_tls() {
    both_ways(false, true);
}

#[test]
#[ignore = "needs docker-registry, skopeo, podman, htpasswd and openssl: run with --include-ignored"]
fn a_registry_with_tls_and_passwords() {
    both_ways(true, true);
}
