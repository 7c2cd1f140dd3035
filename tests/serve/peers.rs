//! docker, podman and skopeo as clients: what they push and pull, byte for byte.

use super::common::certificates::certificates;
use super::common::docker::Docker;
use super::*;
use std::path::Path;
use std::process::Command;

/// A directory for a client's own, and its settings.
struct Client {
    dir: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("coracle-serve-").tempdir_in("/var/tmp").unwrap();
        std::fs::write(dir.path().join("auth.json"), "{}").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// An archive of an image, under a name.
    fn archive(&self, image: &Fixture, name: &str) -> String {
        let path = self.path("image.tar");
        std::fs::write(&path, docker_archive(&[(image, &[name])])).unwrap();
        path
    }

    fn skopeo(&self, verb: &str, args: &[&str]) -> String {
        let auth = self.path("auth.json");
        let verb = [verb, "--authfile", &auth];
        peer("skopeo", [&["--insecure-policy"], &verb[..], args].concat())
    }

    fn podman(&self, args: &[&str]) -> String {
        let (root, run) = (self.path("root"), self.path("run"));
        let own = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        peer("podman", [&own, args].concat())
    }

    /// For `docker` and `podman push`.
    fn certificate(&self, authority: &Authority) -> String {
        let dir = self.path("certs");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(authority.dir.path().join("ca.pem"), Path::new(&dir).join("ca.crt")).unwrap();
        dir
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // podman mounts its own directories on themselves.
        let _ = Command::new("umount").arg("-q").arg(self.path("root")).status();
    }
}

/// An authority of a test's own, and a certificate of it for 127.0.0.1.
struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        Self { dir }
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).unwrap()
    }

    fn builder(&self) -> RegistryBuilder {
        Registry::builder().tls(self.read("server.pem"), self.read("server.key"))
    }
}

fn with_users(builder: RegistryBuilder) -> RegistryBuilder {
    let line = peer("htpasswd", ["-nbB", "me", "secret-word"]);
    builder.htpasswd(&line, Access::Write).unwrap()
}

fn coracle_pull(world: &World, name: &str, authority: Option<&Authority>) -> Image {
    let mut pull = Pull::new(world.name(name)).credentials(coracle::Credentials::basic("me", "secret-word"));
    if let Some(authority) = authority {
        pull = pull.root_certificates(authority.read("ca.pem"));
    }
    pull.run(&Store::temp().unwrap()).unwrap()
}

/// What skopeo pulled into a layout is what the store has.
fn assert_same_blobs(layout: &str, world: &World) {
    let blobs = Path::new(layout).join("blobs/sha256");
    let mut seen = 0;
    for blob in std::fs::read_dir(blobs).unwrap() {
        let blob = blob.unwrap();
        let ours = world.store.path().join("blobs/sha256").join(blob.file_name());
        assert!(
            std::fs::read(blob.path()).unwrap() == std::fs::read(ours).unwrap(),
            "{:?}",
            blob.file_name()
        );
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
#[ignore = "needs skopeo, htpasswd and openssl: run with --include-ignored"]
fn skopeo_pushes_and_pulls_the_very_bytes() {
    let authority = Authority::new();
    for builder in [Registry::builder(), with_users(Registry::builder()), with_users(authority.builder())] {
        let has_tls = format!("{builder:?}").contains("tls: true");
        let world = World::with(builder);
        let client = Client::new();
        let certs = client.certificate(&authority);
        let image = Fixture::new(&["one", "two", "three"]);
        let archive = format!("docker-archive:{}", client.archive(&image, "app:1"));
        let (src, dst) = match has_tls {
            true => (["--src-cert-dir", &certs], ["--dest-cert-dir", &certs]),
            false => (["--src-tls-verify=false", "-q"], ["--dest-tls-verify=false", "-q"]),
        };
        let (from, to) = (["--src-creds", "me:secret-word"], ["--dest-creds", "me:secret-word"]);
        for (format, name) in [("v2s2", "me/docker:1"), ("oci", "me/oci:1")] {
            let there = format!("docker://{}", world.name(name));
            client.skopeo("copy", &[&["--format", format], &dst[..], &to, &[&archive, &there]].concat());
            let stored = world.store.image(name).unwrap();
            let verify = if has_tls { ["--cert-dir", &certs] } else { ["--tls-verify=false", "--no-tags"] };
            let seen =
                client.skopeo("inspect", &[&verify[..], &["--creds", "me:secret-word", &there]].concat());
            let seen: Value = serde_json::from_str(&seen).unwrap();
            assert_eq!(seen["Digest"], stored.digest().to_string());
            let back = client.path(&format!("{format}-back"));
            let layout = format!("oci:{back}:1");
            if format == "oci" {
                client.skopeo("copy", &[&src[..], &from, &[&there, &layout]].concat());
                assert_same_blobs(&back, &world);
            }
            // Another tag, mounted from the first repository: what is there does not travel.
            let other = format!("docker://{}", world.name(&name.replace("me/", "other/")));
            client.skopeo("copy", &[&src[..], &from, &dst, &to, &[&there, &other]].concat());
            assert_eq!(world.store.image(&name.replace("me/", "other/")).unwrap().digest(), stored.digest());
            let pulled = coracle_pull(&world, name, has_tls.then_some(&authority));
            assert_eq!((pulled.digest(), pulled.id()), (stored.digest(), stored.id()));
        }
        let there = format!("docker://{}", world.name("me/oci:1"));
        let verify = if has_tls { ["--cert-dir", &certs] } else { ["--tls-verify=false", "--creds"] };
        let mut args = verify.to_vec();
        args.extend(if has_tls { &["--creds", "me:secret-word"][..] } else { &["me:secret-word"] });
        let tags = client.skopeo("list-tags", &[&args[..], &[&there[..there.len() - 2]]].concat());
        assert!(tags.contains("\"1\""), "{tags}");
        client.skopeo("delete", &[&args[..], &[&there]].concat());
        assert!(world.store.image("me/oci:1").is_err());
        assert!(world.store.verify().unwrap().is_sound());
    }
}

#[test]
#[ignore = "needs root, podman, htpasswd and openssl: run with --include-ignored"]
fn podman_pushes_and_pulls_the_very_bytes() {
    let authority = Authority::new();
    for builder in [Registry::builder(), with_users(authority.builder())] {
        let has_tls = format!("{builder:?}").contains("tls: true");
        let world = World::with(builder);
        let client = Client::new();
        let certs = client.certificate(&authority);
        let image = Fixture::new(&["one", "two"]);
        client.podman(&["load", "-q", "-i", &client.archive(&image, "localhost/app:1")]);
        let auth = client.path("auth.json");
        let settings = match has_tls {
            true => vec!["--cert-dir", &certs, "--authfile", &auth],
            false => vec!["--tls-verify=false"],
        };
        if has_tls {
            let addr = world.addr().to_string();
            client.podman(&[&["login", "-u", "me", "-p", "secret-word"], &settings[..], &[&addr]].concat());
        }
        let name = world.name("me/app:1");
        let file = client.path("digest");
        client.podman(
            &[&["push", "-q", "--digestfile", &file], &settings[..], &["localhost/app:1", &name]].concat(),
        );
        let stored = world.store.image("me/app:1").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), stored.digest().to_string());
        assert_eq!(coracle_pull(&world, "me/app:1", has_tls.then_some(&authority)).digest(), stored.digest());
        client.podman(&["rmi", "-a", "-f"]);
        let id = client.podman(&[&["pull", "-q"], &settings[..], &[&name]].concat());
        assert_eq!(id.trim(), stored.id().hex());
        let seen = client.podman(&["inspect", "--format", "{{.Digest}}", &name]);
        assert_eq!(seen.trim(), stored.digest().to_string());
        // An index of manifests, as podman pushes one.
        client.podman(&["manifest", "create", "all"]);
        client.podman(&[&["manifest", "add"], &settings[..], &["all", &format!("docker://{name}")]].concat());
        client.podman(
            &[
                &["manifest", "push", "--all"],
                &settings[..],
                &["all", &format!("docker://{}", world.name("me/all:1"))],
            ]
            .concat(),
        );
        let index = coracle_pull(&world, "me/all:1", has_tls.then_some(&authority));
        assert_eq!(index.id(), stored.id());
        assert!(world.store.verify().unwrap().is_sound());
        client.podman(&["rmi", "-a", "-f"]);
    }
}

/// Where docker looks for authorities; removed with this.
struct Trusted(std::path::PathBuf);

impl Trusted {
    fn new(addr: SocketAddr, authority: &Authority) -> Self {
        let dir = Path::new("/etc/docker/certs.d").join(addr.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("ca.crt"), authority.read("ca.pem")).unwrap();
        Self(dir)
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
#[ignore = "needs root, docker, htpasswd and openssl: run with --include-ignored"]
fn docker_pushes_and_pulls_the_very_bytes() {
    let (docker, client) = (Docker::start(), Client::new());
    let authority = Authority::new();
    for builder in [Registry::builder(), with_users(authority.builder())] {
        let has_tls = format!("{builder:?}").contains("tls: true");
        let world = World::with(builder);
        let _trusted = has_tls.then(|| Trusted::new(world.addr(), &authority));
        if has_tls {
            docker.run(&["login", "-u", "me", "-p", "secret-word", &world.addr().to_string()]);
        }
        let (base, child) = (Fixture::new(&["base"]), Fixture::new(&["base", "child"]));
        for (image, name) in [(&base, "me/base:1"), (&child, "me/child:1")] {
            docker.run(&["load", "-q", "-i", &client.archive(image, "app:1")]);
            docker.run(&["tag", "app:1", &world.name(name)]);
            let said = docker.run(&["push", &world.name(name)]);
            let stored = world.store.image(name).unwrap();
            assert!(said.contains(&format!("digest: {}", stored.digest())), "{said}");
            assert_eq!(*stored.id(), image.id());
            assert_eq!(said.contains("Mounted from me/base"), name == "me/child:1", "{said}");
            assert_eq!(coracle_pull(&world, name, has_tls.then_some(&authority)).digest(), stored.digest());
        }
        let names = [world.name("me/base:1"), world.name("me/child:1")];
        docker.run(&["rmi", "-f", "app:1", &names[0], &names[1]]);
        for (name, image) in names.iter().zip([&base, &child]) {
            docker.run(&["pull", "-q", name]);
            let id = docker.run(&["inspect", "--format", "{{.Id}}", name]);
            assert_eq!(id.trim(), image.id().to_string());
        }
        docker.run(&["rmi", "-f", &names[0], &names[1]]);
        // What coracle has made of it is pulled as well.
        let other = Fixture::new(&["of coracle's"]);
        let image = Image::load(&world.store, client.archive(&other, "me/loaded:1")).unwrap().remove(0);
        docker.run(&["pull", "-q", &world.name("me/loaded:1")]);
        let digests = docker.run(&["inspect", "--format", "{{.RepoDigests}}", &world.name("me/loaded:1")]);
        assert!(digests.contains(&image.digest().to_string()), "{digests}");
        assert!(world.store.verify().unwrap().is_sound());
    }
}
