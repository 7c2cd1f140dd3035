//! Debian's docker-registry, and what skopeo pushed to it.

use super::*;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// docker-registry on a port of its own; it ends with this.
pub struct Distribution {
    child: Child,
    pub authority: String,
    /// A line for each request that was answered.
    access: Arc<Mutex<Vec<String>>>,
    storage: PathBuf,
    _dir: tempfile::TempDir,
}

impl Distribution {
    /// `more` goes on with the section `http` of its configuration, then with others.
    pub fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = dir.path().join("storage");
        Self::with(more, dir, storage)
    }

    /// One that has what another one has.
    pub fn start_in(more: &str, storage: &Path) -> Self {
        Self::with(more, tempfile::tempdir().unwrap(), storage.to_owned())
    }

    /// What was asked since the last time, up to an answer to what `last` says.
    pub fn take_access(&self, last: &str) -> Vec<String> {
        eventually("the registry's log", || {
            self.access.lock().unwrap().iter().any(|line| line.contains(last))
        });
        std::mem::take(&mut self.access.lock().unwrap())
    }

    pub fn storage(&self) -> &Path {
        &self.storage
    }

    fn with(more: &str, dir: tempfile::TempDir, storage: PathBuf) -> Self {
        let config = dir.path().join("config.yml");
        // A port that is free; nobody else on this machine asks for this one at once, as the kernel goes round.
        let authority = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {authority}\n{more}",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("docker-registry: {error}; this test needs it"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().any(|line| line.unwrap().contains("listening on"));
        assert!(ready, "docker-registry ended");
        // It must not stand still for want of a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let access = Arc::new(Mutex::new(Vec::new()));
        let (log, lines) = (access.clone(), BufReader::new(child.stdout.take().unwrap()).lines());
        std::thread::spawn(move || lines.for_each(|line| log.lock().unwrap().push(line.unwrap())));
        Self { child, authority, access, storage, _dir: dir }
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer that looks for nobody's credentials on this machine.
pub fn skopeo(args: &[&str]) -> String {
    let nobody = tempfile::NamedTempFile::new().unwrap();
    fs::write(nobody.path(), "{}").unwrap();
    let (verb, rest) = args.split_first().unwrap();
    peer("skopeo", [&[verb, "--authfile", nobody.path().to_str().unwrap()], rest].concat())
}

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
