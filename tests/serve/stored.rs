//! What a registry makes of its store, beside all that others do there.

use super::hostile::files_below;
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn artifacts_are_served_and_are_no_images() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    world.push("me/app", "1", &image);
    let manifest = manifest_of(&image);
    let sbom = artifact("x/sbom", &manifest, "all that is in it");
    world.blob("me/app", b"{}");
    world.blob("me/app", b"all that is in it");
    let digest = digest_of(&sbom);
    world.put("me/app", &digest.to_string(), MANIFEST, &sbom).expect(201);
    assert_eq!(world.store.images().unwrap().len(), 1);
    assert!(world.store.broken_images().unwrap().is_empty());
    // It stays when images go that nobody uses, and a collection takes nothing of it.
    world.store.prune_images(true).unwrap();
    assert!(world.store.images().unwrap().is_empty());
    assert_eq!(
        world.get(&format!("/v2/me/app/manifests/{digest}")).expect(200).body,
        sbom.to_string().as_bytes()
    );
    let content = Digest::of(b"all that is in it");
    world.get(&format!("/v2/me/app/blobs/{content}")).expect(200);
    assert!(world.store.verify().unwrap().is_sound());
    // By its name it can be removed like an image.
    world.store.remove_image(&format!("me/app@{digest}")).unwrap();
    world.get(&format!("/v2/me/app/manifests/{digest}")).expect(404);
    assert!(world.store.blob_paths().is_empty());
}

trait Blobs {
    fn blob_paths(&self) -> Vec<std::path::PathBuf>;
}

impl Blobs for Store {
    fn blob_paths(&self) -> Vec<std::path::PathBuf> {
        let blobs = std::fs::read_dir(self.path().join("blobs/sha256")).unwrap();
        blobs.map(|blob| blob.unwrap().path()).collect()
    }
}

#[test]
fn an_image_for_several_machines_is_pushed_and_pulled_whole() {
    let world = World::new();
    let host = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let fixtures = [(host, "here"), ("s390x", "there")]
        .map(|(arch, text)| Fixture::of_machine(vec![tar([("file", Node::File(text.as_bytes()))])], arch));
    let manifests = fixtures.each_ref().map(|fixture| {
        let manifest = world.blobs("me/app", fixture);
        world.put("me/app", &digest_of(&manifest).to_string(), MANIFEST, &manifest).expect(201);
        manifest
    });
    assert_eq!(world.names().len(), 2, "under their digests");
    let mut index = index_of(&manifests.each_ref());
    for (at, (arch, _)) in [(host, ()), ("s390x", ())].iter().enumerate() {
        index["manifests"][at]["platform"] = json!({"os": "linux", "architecture": arch});
    }
    world.put("me/app", "1", INDEX, &index).expect(201);
    // What belongs to the index is there by it, and no image of its own.
    assert_eq!(world.names(), ["me/app:1"]);
    for manifest in &manifests {
        world.get(&format!("/v2/me/app/manifests/{}", digest_of(manifest))).expect(200);
        let part = format!("/v2/me/app/manifests/{}", digest_of(manifest));
        world.delete(&part).fails(405, "UNSUPPORTED");
    }
    let answer = world.get("/v2/me/app/manifests/1").expect(200);
    assert_eq!(
        (answer.header("content-type"), answer.body.as_slice()),
        (Some(INDEX), index.to_string().as_bytes())
    );
    world.store.prune_images(false).unwrap();
    for (fixture, arch) in
        fixtures.iter().zip(["amd64", "s390x"].map(|arch| if arch == "amd64" { host } else { arch }))
    {
        let there = Store::temp().unwrap();
        let pull = Pull::new(world.name("me/app:1")).platform(format!("linux/{arch}").parse().unwrap());
        assert_eq!(*pull.run(&there).unwrap().id(), fixture.id());
    }
    assert_eq!(*world.store.image("me/app:1").unwrap().id(), fixtures[0].id());
    assert!(world.store.verify().unwrap().is_sound());
    world.delete(&format!("/v2/me/app/manifests/{}", digest_of(&index))).expect(202);
    assert!(world.store.blob_paths().is_empty());
}

#[test]
fn a_tag_that_moves_leaves_what_it_named_under_its_digest_until_that_is_pruned() {
    let world = World::new();
    let first = world.push("me/app", "1", &Fixture::new(&["one"]));
    let second = world.push("me/app", "1", &Fixture::new(&["two"]));
    assert_eq!(world.names(), ["me/app:1".to_owned(), format!("me/app@{first}")]);
    let path = |digest| format!("/v2/me/app/manifests/{digest}");
    world.get(&path(first)).expect(200);
    let by_digest = Image::pull(&Store::temp().unwrap(), &world.name(&format!("me/app@{first}"))).unwrap();
    assert_eq!(*by_digest.digest(), first);
    // While somebody has it, it stays.
    let held = world.store.image(&format!("me/app@{first}")).unwrap();
    assert!(world.store.prune_images(false).unwrap().deleted.is_empty());
    drop(held);
    assert_eq!(world.store.prune_images(false).unwrap().deleted.len(), 1);
    world.get(&path(first)).expect(404);
    world.get(&path(second)).expect(200);
    assert_eq!(world.names(), ["me/app:1"]);
    assert!(world.store.verify().unwrap().is_sound());
}

#[test]
fn a_prefix_bounds_what_is_served_and_what_is_named() {
    let store = Store::temp().unwrap();
    let open = World { registry: Registry::serve(&store, "127.0.0.1:0").unwrap(), store: store.clone() };
    let secret = Fixture::new(&["secret"]);
    open.push("me/secret", "1", &secret);
    let builder = Registry::builder().prefix("registry.lan:5000/team");
    let team = World { registry: builder.serve(&store, "127.0.0.1:0").unwrap(), store };
    team.push("app", "1", &Fixture::new(&["one"]));
    assert_eq!(team.names(), ["me/secret:1", "registry.lan:5000/team/app:1"]);
    assert_eq!(team.get("/v2/_catalog").json()["repositories"], json!(["app"]));
    team.get("/v2/me/secret/manifests/1").expect(404);
    team.get(&format!("/v2/app/blobs/{}", secret.id())).expect(404);
    let mount =
        |query: &str| ask(team.addr(), "POST", &format!("/v2/app/blobs/uploads/?{query}"), &[], b"").status;
    assert_eq!(mount(&format!("mount={}", secret.id())), 202);
    assert_eq!(mount(&format!("mount={}&from=me/secret", secret.id())), 202);
    // The one has names that no client can write for the other.
    assert_eq!(open.get("/v2/_catalog").json()["repositories"], json!(["me/secret"]));
}

#[test]
fn several_registries_have_one_store() {
    let first = World::new();
    let second =
        World { registry: Registry::serve(&first.store, "127.0.0.1:0").unwrap(), store: first.store.clone() };
    let image = Fixture::new(&["one"]);
    let digest = first.push("me/app", "1", &image);
    second.get(&format!("/v2/me/app/manifests/{digest}")).expect(200);
    second.push("me/app", "2", &image);
    second.delete("/v2/me/app/manifests/1").expect(202);
    first.get("/v2/me/app/manifests/1").expect(404);
    // What waits for a manifest waits where it came.
    let waiting = first.blob("me/app", b"waiting");
    second.get(&format!("/v2/me/app/blobs/{waiting}")).expect(404);
}

#[test]
fn what_a_push_was_told_of_is_there_until_its_manifest_comes() {
    let world = World::new();
    let (base, child) = (Fixture::new(&["base"]), Fixture::new(&["base", "more"]));
    world.push("me/app", "base", &base);
    // It asks for the layer that it shares, mounts another, and then all else is removed.
    world.head(&format!("/v2/me/app/blobs/{}", Digest::of(&child.layers[0]))).expect(200);
    world.blob("me/app", &child.layers[1]);
    world.blob("me/app", &child.config);
    world.store.force_remove_image("me/app:base").unwrap();
    assert!(world.store.blob_paths().is_empty());
    world.get(&format!("/v2/me/app/blobs/{}", Digest::of(&child.layers[0]))).expect(200);
    let manifest = manifest_of(&child);
    // Parts of an index come before it, and are nothing that anybody named.
    world.put("me/app", &digest_of(&manifest).to_string(), MANIFEST, &manifest).expect(201);
    world.store.prune_images(true).unwrap();
    assert!(world.store.blob_paths().is_empty());
    world.put("me/app", "all", INDEX, &index_of(&[&manifest])).expect(201);
    assert!(world.store.verify().unwrap().is_sound());
    assert_eq!(Image::pull(&Store::temp().unwrap(), &world.name("me/app:all")).unwrap().id(), &child.id());
    assert_eq!(files_below(&world.store), 0, "nothing waits any more");
}

#[test]
fn pruning_beside_pushes_breaks_none_of_them() {
    let world = World::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut pruned = 0;
            while !over.load(Ordering::Acquire) {
                // Another handle, as another program has it.
                let store = Store::open(world.store.path()).unwrap();
                pruned += store.prune_images(true).unwrap().deleted.len();
            }
            pruned
        });
        let pushers: Vec<_> = (0..4)
            .map(|n| {
                let world = &world;
                scope.spawn(move || {
                    for round in 0..10 {
                        let texts = ["shared".to_owned(), format!("{n} {}", round % 3)];
                        let image = Fixture::new(&texts.each_ref().map(String::as_str));
                        let digest = world.push(&format!("me/app{}", n % 2), &format!("{n}"), &image);
                        // It may be pruned already, but it is never there in part.
                        let path = format!("/v2/me/app{}/manifests/{digest}", n % 2);
                        assert!([200, 404].contains(&world.get(&path).status));
                    }
                })
            })
            .collect();
        let pushed: Vec<_> = pushers.into_iter().map(|pusher| pusher.join()).collect();
        over.store(true, Ordering::Release);
        assert!(pruner.join().unwrap() > 0);
        pushed.into_iter().for_each(|pushed| pushed.unwrap());
    });
    assert!(world.store.verify().unwrap().is_sound());
    world.store.prune_images(true).unwrap();
    assert!(world.store.blob_paths().is_empty());
}

#[test]
fn a_push_replaces_what_the_disk_has_damaged() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    world.push("me/app", "1", &image);
    let layer = Digest::of(&image.layers[0]);
    let path = world.store.path().join("blobs/sha256").join(layer.hex());
    let mut wrong = std::fs::read(&path).unwrap();
    wrong[600] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, wrong).unwrap();
    assert!(!world.store.verify().unwrap().is_sound());
    world.push("me/app", "1", &image);
    assert!(world.store.verify().unwrap().is_sound());
}

#[test]
fn a_manifest_that_is_damaged_or_gone_is_not_served() {
    let world = World::new();
    let digest = world.push("me/app", "1", &Fixture::new(&["one"]));
    let path = world.store.path().join("blobs/sha256").join(digest.hex());
    std::fs::remove_file(&path).unwrap();
    world.get("/v2/me/app/manifests/1").fails(404, "MANIFEST_UNKNOWN");
    std::fs::write(&path, "{}").unwrap();
    let answer = world.get("/v2/me/app/manifests/1").expect(500);
    let text = String::from_utf8(answer.body).unwrap();
    assert!(!text.contains("blobs"), "no path of this side's: {text}");
}

#[test]
fn a_pull_goes_on_where_it_broke_off() {
    // coracle's own, byte for byte, of more than one read.
    let world = World::new();
    let layer = tar([("file", Node::File(&vec![5; 3 << 20]))]);
    let image = Fixture::of(vec![layer.clone()]);
    world.push("me/app", "1", &image);
    let there = Store::temp().unwrap();
    let pulled = Image::pull(&there, &world.name("me/app:1")).unwrap();
    assert_eq!(pulled.layer_descriptors()[0].size, layer.len() as u64);
    assert!(there.verify().unwrap().is_sound());
    let path = format!("/v2/me/app/blobs/{}", Digest::of(&layer));
    let part = ask(world.addr(), "GET", &path, &[("Range", "bytes=1000000-")], b"").expect(206);
    assert_eq!(part.body, layer[1_000_000..]);
}
