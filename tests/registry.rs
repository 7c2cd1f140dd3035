//! Images from registries: what is pulled, what travels, and what registries must not get away with.
#![cfg(feature = "registry")]

mod common;

#[path = "registry/auth.rs"]
mod auth;
#[path = "registry/bombs.rs"]
mod bombs;
#[path = "registry/by_digest.rs"]
mod by_digest;
#[path = "registry/catalog.rs"]
mod catalog;
#[path = "registry/cli.rs"]
mod cli;
#[path = "registry/environment.rs"]
mod environment;
#[path = "registry/guards.rs"]
mod guards;
#[path = "registry/killed.rs"]
mod killed;
#[path = "registry/lies.rs"]
mod lies;
#[path = "registry/login.rs"]
mod login;
#[path = "registry/matrix.rs"]
mod matrix;
#[path = "registry/mirrors.rs"]
mod mirrors;
#[path = "registry/peers.rs"]
mod peers;
#[path = "registry/platforms.rs"]
mod platforms;
#[path = "registry/push.rs"]
mod push;
#[path = "registry/push_cli.rs"]
mod push_cli;
#[path = "registry/push_lies.rs"]
mod push_lies;
#[path = "registry/push_peers.rs"]
mod push_peers;
#[path = "registry/retries.rs"]
mod retries;
#[path = "registry/secrets.rs"]
mod secrets;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/statuses.rs"]
mod statuses;
#[path = "registry/strangers.rs"]
mod strangers;
#[path = "registry/streaming.rs"]
mod streaming;
#[path = "registry/tls.rs"]
mod tls;
#[path = "registry/writable.rs"]
mod writable;

use common::*;
use coracle::{
    Credentials, CredentialsPlace, Digest, ErrorKind, Image, Pull, PullEvent, PullPolicy, RegistryClient,
    Store,
};
use serde_json::json;
use server::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

const REPOSITORY: &str = "me/app";
const NAME: &str = "me/app:1";

fn content(texts: &[&str]) -> Content {
    Content::of(REPOSITORY, "1", &Fixture::new(texts))
}

/// No image, and nothing half-made.
#[track_caller]
fn assert_no_image(store: &Store) {
    assert!(store.images().unwrap().is_empty());
    assert_eq!(count(store.path().join("tmp")), 0);
}

fn paths(log: &[Request]) -> Vec<String> {
    let mut paths: Vec<_> =
        log.iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    paths.sort();
    paths
}

#[test]
fn a_pulled_image_is_the_registrys_and_is_asked_for_once() {
    let fixture = Fixture::new(&["one", "two", "three"]);
    let server = Server::honest(Content::of(REPOSITORY, "1", &fixture));
    let store = Store::temp().unwrap();
    let image = Image::pull(&store, &server.name(NAME)).unwrap();
    assert_eq!(*image.id(), fixture.id());
    assert_eq!(image.references().unwrap()[0].to_string(), server.name(NAME));
    assert_eq!(image.layer_descriptors().len(), 3);
    assert_eq!(server.take_log().len(), 5, "a manifest, a configuration, three layers");
    assert_eq!(count(store.path().join("layers")), 3);
    assert_eq!(count(store.path().join("tmp")), 0);

    // Again: one question, and nothing travels.
    assert_eq!(Image::pull(&store, &server.name(NAME)).unwrap().digest(), image.digest());
    assert_eq!(paths(&server.take_log()), ["HEAD /v2/me/app/manifests/1"]);
    let missing = Pull::new(server.name(NAME)).policy(PullPolicy::Missing);
    assert_eq!(missing.run(&store).unwrap().id(), image.id());
    let never = missing.clone().policy(PullPolicy::Never);
    assert_eq!(never.run(&store).unwrap().id(), image.id());
    assert_eq!(server.take_log().len(), 0);
    assert_eq!(never.run(&Store::temp().unwrap()).unwrap_err().kind(), ErrorKind::NotFound);

    // By its digest: the same, which is its name then.
    let by_digest = server.name(&format!("{REPOSITORY}@{}", image.digest()));
    assert_eq!(Image::pull(&store, &by_digest).unwrap().id(), image.id());
    assert_eq!(server.take_log().len(), 0, "a digest leads to the same for ever");
    let elsewhere = Store::temp().unwrap();
    let again = Image::pull(&elsewhere, &by_digest).unwrap();
    assert_eq!(
        (again.digest(), again.references().unwrap()),
        (image.digest(), vec![by_digest.parse().unwrap()])
    );
}

#[test]
fn only_what_the_store_lacks_travels() {
    let (base, child) = (Fixture::new(&["base", "more"]), Fixture::new(&["base", "more", "child"]));
    let mut both = Content::of(REPOSITORY, "base", &base);
    let (media_type, manifest) = both.add(REPOSITORY, &child, gzip, "+gzip");
    both.manifest(REPOSITORY, "child", &media_type, manifest);
    let server = Server::honest(both);
    let store = Store::temp().unwrap();
    Image::pull(&store, &server.name("me/app:base")).unwrap();
    server.take_log();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let pull =
        Pull::new(server.name("me/app:child")).observe(move |event| told.lock().unwrap().push(event.clone()));
    let image = pull.run(&store).unwrap();
    let blobs = server.take_log().iter().filter(|request| request.is_blob()).count();
    assert_eq!(blobs, 2, "the configuration and one layer");
    let seen = seen.lock().unwrap();
    let travelled = seen.iter().filter_map(|event| match event {
        PullEvent::Ready { layer, travelled: true } => Some(*layer),
        _ => None,
    });
    let top = image.layer_descriptors()[2].clone();
    assert_eq!(travelled.collect::<Vec<_>>(), [top.digest]);
    let whole = seen.iter().any(|event| matches!(event, PullEvent::Bytes { layer, done, size } if *layer == top.digest && (*done, *size) == (top.size, top.size)));
    assert!(whole, "{seen:?}");
    assert!(matches!(&seen[0], PullEvent::Found { layers, .. } if layers.len() == 3));
}

#[test]
fn of_an_index_comes_the_machine_that_was_asked_for() {
    let mut content = Content::default();
    let mut listed = Vec::new();
    let mut ids = Vec::new();
    for (architecture, variant) in
        [("arm", "v5"), ("arm", "v7"), ("amd64", "v3"), ("amd64", ""), ("arm64", "v8")]
    {
        let layer = tar([("machine", Node::File(format!("{architecture}{variant}").as_bytes()))]);
        let image = Fixture::of_machine(vec![layer], architecture);
        let (_, manifest) = content.add(REPOSITORY, &image, gzip, "+gzip");
        let digest = content.manifest(REPOSITORY, "none", MANIFEST, manifest.clone());
        let mut platform = json!({"os": "linux", "architecture": architecture});
        if !variant.is_empty() {
            platform["variant"] = variant.into();
        }
        listed.push(
            json!({"mediaType": MANIFEST, "digest": digest, "size": manifest.len(), "platform": platform}),
        );
        ids.push(image.id());
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).to_string();
    let index = content.manifest(REPOSITORY, "1", INDEX, index.into_bytes());
    let server = Server::honest(content);
    for (platform, want) in [
        ("linux/arm/v6", Ok(0)),
        ("linux/arm/v7", Ok(1)),
        ("linux/arm", Ok(1)),
        ("linux/amd64/v4", Ok(2)),
        ("linux/amd64/v2", Ok(3)),
        ("linux/amd64", Ok(3)),
        ("linux/arm64", Ok(4)),
        ("linux/riscv64", Err(ErrorKind::Unsupported)),
        ("windows/amd64", Err(ErrorKind::Unsupported)),
    ] {
        let store = Store::temp().unwrap();
        let pull = Pull::new(server.name(NAME)).platform(platform.parse().unwrap());
        let got = pull.run(&store).map(|image| *image.id()).map_err(|error| error.kind());
        assert_eq!(got, want.map(|at: usize| ids[at]), "{platform}");
    }
    // The name leads to the index: whether it still does takes one question.
    let store = Store::temp().unwrap();
    let pull = Pull::new(server.name(NAME)).platform("linux/arm64".parse().unwrap());
    let image = pull.run(&store).unwrap();
    server.take_log();
    assert_eq!(pull.run(&store).unwrap().digest(), image.digest());
    let by_digest = Pull::new(server.name(&format!("{REPOSITORY}@{index}"))).policy(PullPolicy::Missing);
    let by_digest = by_digest.platform("linux/arm64".parse().unwrap());
    assert_eq!(by_digest.run(&store).unwrap().digest(), image.digest());
    assert_eq!(paths(&server.take_log()), ["HEAD /v2/me/app/manifests/1"]);
    // Another machine's is another image.
    let other = pull.clone().policy(PullPolicy::Missing).platform("linux/arm/v7".parse().unwrap());
    assert_eq!(*other.run(&store).unwrap().id(), ids[1]);
}

/// The upper layer is unpacked before the one below it has come, and becomes the same.
#[test]
fn layers_wait_for_those_below_only_at_their_end() {
    let below = tar([("dir/", Node::Dir), ("dir/gone", Node::File(b"x")), ("kept", Node::File(b"y"))]);
    // It needs the one below: a whiteout, and a parent that it does not have.
    let above = tar([("dir/.wh.gone", Node::File(b"")), ("dir/new", Node::File(&[7; 300_000]))]);
    let image = Fixture::of(vec![below, above]);
    let content = Content::of(REPOSITORY, "1", &image);
    let manifest = content.json("/v2/me/app/manifests/1");
    let digest = |at: usize| manifest["layers"][at]["digest"].as_str().unwrap().to_owned();
    let (lower, upper) = (digest(0), digest(1));
    let asked = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = asked.clone();
    let server = Server::lying(content, move |request, reply| {
        if request.path.ends_with(&upper) {
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
        }
        if request.path.ends_with(&lower) {
            let open = gate.0.lock().unwrap();
            drop(gate.1.wait_while(open, |open| !*open).unwrap());
        }
        reply
    });
    let store = Store::temp().unwrap();
    Image::pull(&store, &server.name(NAME)).unwrap();
    let loaded = Store::temp().unwrap();
    Image::load_reader(&loaded, &docker_archive(&[(&image, &["app:1"])])[..]).unwrap();
    let layers = |store: &Store| {
        let mut names: Vec<_> = fs::read_dir(store.path().join("layers"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(layers(&store), layers(&loaded));
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn two_that_want_the_same_download_it_once() {
    let server = Server::honest(content(&["one", "two"]));
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|_| {
                // Each with a handle of its own, as programs have it.
                let store = Store::open(dir.path().join("store")).unwrap();
                let pull = Pull::new(server.name(NAME)).policy(PullPolicy::Missing);
                scope.spawn(move || *pull.run(&store).unwrap().digest())
            })
            .collect();
        let digests: Vec<_> = pulls.into_iter().map(|pull| pull.join().unwrap()).collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    });
    assert_eq!(server.take_log().len(), 4, "a manifest, a configuration, two layers");
}

/// A layer that does not compress, of some size.
fn noise(bytes: usize) -> Fixture {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let data: Vec<u8> = (0..bytes).map(|_| next()).collect();
    Fixture::of(vec![tar([("noise", Node::File(&data))])])
}

#[test]
fn a_broken_download_goes_on_where_it_was() {
    for ranges in [true, false] {
        let image = noise(600_000);
        let content = Content::of(REPOSITORY, "1", &image);
        let server = Server::lying(content.clone(), move |request, reply| {
            let mut reply = match ranges {
                true => reply,
                // It knows no ranges and sends all of it again.
                false => content.reply(&Request { headers: Default::default(), ..request.clone() }),
            };
            if reply.body.len() > 500_000 && request.header("range").is_none() {
                reply.body.truncate(400_000);
            } else if reply.body.len() > 100_000 && ranges {
                reply.body.truncate(100_000);
            }
            reply
        });
        let store = Store::temp().unwrap();
        let pulled = Image::pull(&store, &server.name(NAME)).unwrap();
        assert_eq!(*pulled.id(), image.id());
        let log = server.take_log();
        let asked: Vec<_> = log.iter().filter_map(|request| request.header("range")).collect();
        assert_eq!(asked[0], "bytes=400000-", "{ranges}");
        assert_eq!(asked.len(), if ranges { 3 } else { 1 }, "{asked:?}");
    }
}

#[test]
fn a_layer_that_came_before_the_line_broke_is_not_asked_for_again() {
    let content = Content::of(REPOSITORY, "1", &Fixture::new(&["one", "two"]));
    let top = content.json("/v2/me/app/manifests/1")["layers"][1]["digest"].as_str().unwrap().to_owned();
    let broken = Arc::new(AtomicUsize::new(1));
    let is_broken = broken.clone();
    let server = Server::lying(content, move |request, reply| match request.path.ends_with(&top) {
        true if is_broken.load(Ordering::SeqCst) == 1 => Reply::new(503, ""),
        _ => reply,
    });
    let store = Store::temp().unwrap();
    let pull = Pull::new(server.name(NAME)).retries(0).parallel(1);
    assert_eq!(pull.run(&store).unwrap_err().kind(), ErrorKind::Network);
    assert_no_image(&store);
    server.take_log();
    broken.store(0, Ordering::SeqCst);
    pull.run(&store).unwrap();
    let blobs = server.take_log().iter().filter(|request| request.is_blob()).count();
    assert_eq!(blobs, 2, "the configuration and the upper layer");
}

const PULLS: &str = "CORACLE_TEST_RUNNING_PULL";

/// What the pull of another program has brought, or has found and relies on, stays when its image is removed meanwhile.
#[test]
fn what_a_running_pull_needs_is_not_collected() {
    if let Ok(told) = std::env::var(PULLS) {
        let (store, name) = told.split_once(' ').unwrap();
        let pull = Pull::new(name).parallel(1).observe(|event| {
            if let PullEvent::Ready { travelled, .. } = event {
                println!("\nready {travelled}");
            }
        });
        pull.run(&Store::open(store).unwrap()).unwrap();
        return;
    }
    let (base, child_image) = (Fixture::new(&["base"]), Fixture::new(&["base", "middle", "top"]));
    let mut both = Content::of(REPOSITORY, "base", &base);
    let (media_type, manifest) = both.add(REPOSITORY, &child_image, gzip, "+gzip");
    both.manifest(REPOSITORY, "1", &media_type, manifest);
    let top = both.json("/v2/me/app/manifests/1")["layers"][2]["digest"].as_str().unwrap().to_owned();
    // The last layer comes when all has been removed that can be.
    let removed = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = removed.clone();
    let server = Server::lying(both, move |request, reply| {
        if request.path.ends_with(&top) {
            let open = gate.0.lock().unwrap();
            drop(gate.1.wait_while(open, |open| !*open).unwrap());
        }
        reply
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let base_name = server.name("me/app:base");
    let size = Image::pull(&store, &base_name).unwrap().size();
    let told = format!("{} {}", path.display(), server.name(NAME));
    let mut command = child("what_a_running_pull_needs_is_not_collected", &[(PULLS, told.as_ref())]);
    let mut running = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let mut ready = || lines.find(|line| line.starts_with("ready"));
    assert_eq!(ready().as_deref(), Some("ready false"), "the base is there");
    assert_eq!(ready().as_deref(), Some("ready true"));

    let gone = store.prune_images(true).unwrap();
    assert_eq!((gone.deleted, gone.freed), (vec![base.id()], 0), "content goes when nobody writes");
    assert!(store.images().unwrap().is_empty());
    assert_eq!(count(path.join("layers")), 2);
    *removed.0.lock().unwrap() = true;
    removed.1.notify_all();
    assert_eq!(ready().as_deref(), Some("ready true"));
    lines.for_each(drop);
    assert!(running.wait().unwrap().success());

    let image = store.image(&server.name(NAME)).unwrap();
    assert_eq!(*image.id(), child_image.id());
    assert!(store.verify().unwrap().is_sound());
    let whole = image.size();
    drop(image);
    let gone = store.prune_images(true).unwrap();
    assert_eq!(gone.deleted, [child_image.id()]);
    assert!(gone.freed > whole && gone.freed < whole + size, "the base's own documents too: {gone:?}");
    assert_eq!((count(path.join("layers")), count(path.join("blobs/sha256"))), (0, 0));
}
