//! A store as a registry: what the distribution specification says of it, what it makes of the store, and who may do what.
#![cfg(feature = "registry")]

mod common;

#[path = "serve/cli.rs"]
mod cli;
#[path = "serve/client.rs"]
mod client;
#[path = "serve/foreign.rs"]
mod foreign;
#[path = "serve/guards.rs"]
mod guards;
#[path = "serve/hostile.rs"]
mod hostile;
#[path = "serve/peers.rs"]
mod peers;
#[path = "serve/rules.rs"]
mod rules;
#[path = "serve/stored.rs"]
mod stored;
#[path = "serve/tls.rs"]
mod tls;
#[path = "serve/users.rs"]
mod users;

use client::*;
use common::*;
use coracle::{Access, Digest, ErrorKind, Image, Pull, Registry, RegistryBuilder, Store};
use serde_json::{Value, json};
use std::net::SocketAddr;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A registry over a store of its own.
struct World {
    store: Store,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        Self::with(Registry::builder())
    }

    fn at(addr: SocketAddr) -> Self {
        let store = Store::temp().unwrap();
        let registry = Registry::serve(&store, addr).unwrap();
        Self { store, registry }
    }

    fn with(builder: RegistryBuilder) -> Self {
        let store = Store::temp().unwrap();
        let registry = builder.serve(&store, "127.0.0.1:0").unwrap();
        Self { store, registry }
    }

    fn addr(&self) -> SocketAddr {
        self.registry.addr()
    }

    /// `127.0.0.1:PORT/me/app:1`.
    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.addr())
    }

    fn get(&self, path: &str) -> Answer {
        ask(self.addr(), "GET", path, &[], b"")
    }

    fn head(&self, path: &str) -> Answer {
        ask(self.addr(), "HEAD", path, &[], b"")
    }

    fn delete(&self, path: &str) -> Answer {
        ask(self.addr(), "DELETE", path, &[], b"")
    }

    /// Begins an upload and gives its place.
    fn begin(&self, repository: &str) -> String {
        let answer =
            ask(self.addr(), "POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"").expect(202);
        answer.header("location").unwrap().to_owned()
    }

    /// Pushes a blob in one request.
    fn blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        ask(self.addr(), "POST", &path, &[("Content-Type", "application/octet-stream")], content).expect(201);
        digest
    }

    fn put(&self, repository: &str, which: &str, kind: &str, manifest: &Value) -> Answer {
        let path = format!("/v2/{repository}/manifests/{which}");
        ask(self.addr(), "PUT", &path, &[("Content-Type", kind)], manifest.to_string().as_bytes())
    }

    /// Pushes an image's blobs, and gives its manifest.
    fn blobs(&self, repository: &str, image: &Fixture) -> Value {
        self.blob(repository, &image.config);
        for layer in &image.layers {
            self.blob(repository, layer);
        }
        manifest_of(image)
    }

    /// Pushes an image.
    fn push(&self, repository: &str, tag: &str, image: &Fixture) -> Digest {
        let manifest = self.blobs(repository, image);
        self.put(repository, tag, MANIFEST, &manifest).expect(201);
        digest_of(&manifest)
    }

    /// The names that the store has.
    fn names(&self) -> Vec<String> {
        let images = self.store.images().unwrap();
        let names = images.iter().flat_map(|image| image.references().unwrap());
        let mut names: Vec<_> = names.map(|name| name.familiar()).collect();
        names.sort();
        names
    }
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(content), "size": content.len()})
}

fn manifest_of(image: &Fixture) -> Value {
    let layers: Vec<_> = image.layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &image.config), "layers": layers})
}

fn index_of(manifests: &[&Value]) -> Value {
    let manifests: Vec<_> =
        manifests.iter().map(|manifest| descriptor(MANIFEST, manifest.to_string().as_bytes())).collect();
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
}

/// Something that belongs to another manifest: no image.
fn artifact(kind: &str, subject: &Value, text: &str) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": descriptor(EMPTY, b"{}"), "layers": [descriptor("text/plain", text.as_bytes())],
        "subject": descriptor(MANIFEST, subject.to_string().as_bytes()), "annotations": {"says": text},
    })
}

fn digest_of(document: &Value) -> Digest {
    Digest::of(document.to_string().as_bytes())
}

#[test]
fn what_a_store_has_is_pulled_and_what_is_pushed_it_has() {
    let world = World::new();
    let fixture = Fixture::new(&["one", "two"]);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    std::fs::write(&archive, docker_archive(&[(&fixture, &["me/app:1", "quay.io/me/app:1", "app:1"])]))
        .unwrap();
    let loaded = Image::load(&world.store, &archive).unwrap().remove(0);
    for name in ["me/app:1", "quay.io/me/app:1", "app:1", "library/app:1"] {
        let there = Store::temp().unwrap();
        let pulled = Image::pull(&there, &world.name(name)).unwrap();
        assert_eq!((pulled.digest(), pulled.id()), (loaded.digest(), loaded.id()), "{name}");
        assert!(there.verify().unwrap().is_sound());
    }
    // And what comes by way of the registry is an image like any other.
    let other = Fixture::new(&["three"]);
    let digest = world.push("me/other", "2", &other);
    assert_eq!(world.names(), ["app:1", "me/app:1", "me/other:2", "quay.io/me/app:1"]);
    let image = world.store.image("me/other:2").unwrap();
    assert_eq!((image.id(), image.digest()), (&other.id(), &digest));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut image.open("/dir/file0").unwrap(), &mut text).unwrap();
    assert_eq!(text, "three");
    assert!(world.store.verify().unwrap().is_sound());
    let missing = Image::pull(&Store::temp().unwrap(), &world.name("me/none:1")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn a_registry_ends_with_its_handle_and_leaves_no_thread_and_no_upload() {
    // As it is to be had again.
    let reserved = Reserved::new();
    let world = World::at(reserved.address);
    let mut idle = Connection::to(world.addr());
    idle.ask("GET", "/v2/", &[], b"").expect(200);
    let place = world.begin("me/app");
    ask(world.addr(), "PATCH", &place, &[], b"half of it").expect(202);
    let World { store, registry } = world;
    let addr = registry.addr();
    let mine = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with("coracle-regist")).count()
    };
    assert!(mine() >= 2);
    drop(registry);
    assert!(idle.is_closed());
    assert!(std::net::TcpStream::connect(addr).is_err());
    assert_eq!(count(store.path().join("tmp")), 0);
    // Other tests have theirs.
    let again = Registry::serve(&store, addr).unwrap();
    assert_eq!(again.addr(), addr);
    ask(addr, "GET", &place, &[], b"").fails(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_request_that_is_under_way_is_answered_before_the_end() {
    // Nobody else is to listen there when it has ended.
    let reserved = Reserved::new();
    let World { store, registry } = World::at(reserved.address);
    let mut slow = Connection::to(registry.addr());
    let content = vec![7; 100_000];
    let digest = Digest::of(&content);
    let path = format!("/v2/me/app/blobs/uploads/?digest={digest}");
    slow.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
    ));
    // It has been read when its body is asked for.
    assert!(slow.is_continued());
    let addr = registry.addr();
    let ended = std::thread::spawn(move || drop(registry));
    // It takes no more connections: so it is ending.
    while Connection::try_to(addr).is_some() {
        std::thread::yield_now();
    }
    slow.send(&content);
    let answer = slow.answer(false).unwrap().expect(201);
    assert_eq!(answer.header("connection"), Some("close"));
    ended.join().unwrap();
    assert_eq!(count(store.path().join("tmp")), 0);

    // Who does not go on is not waited for.
    let registry =
        Registry::builder().grace(std::time::Duration::from_millis(50)).serve(&store, "127.0.0.1:0").unwrap();
    let mut stuck = Connection::to(registry.addr());
    stuck.send("PUT /v2/me/app/manifests/1 HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    assert!(stuck.is_continued());
    drop(registry);
    assert!(stuck.answer(false).is_none());
}
