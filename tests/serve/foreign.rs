//! What other tools push.

use super::*;

#[test]
fn layers_of_no_bytes_are_pushed_and_pulled() {
    let world = World::new();
    let mut unfilled = tar([("last", Node::File(b"text"))]);
    unfilled.truncate(512 + 4);
    let fixture = Fixture::of(vec![Vec::new(), unfilled, Vec::new()]);
    let digest = world.push("me/app", "1", &fixture);
    // In the forms of a client that sends a blob after its upload has begun.
    let nothing = Digest::of(b"");
    let place = world.begin("me/other");
    ask(world.addr(), "PUT", &format!("{place}?digest={nothing}"), &[], b"").expect(201);
    assert!(world.get(&format!("/v2/me/app/blobs/{nothing}")).expect(200).body.is_empty());
    let there = Store::temp().unwrap();
    let image = Image::pull(&there, &world.name("me/app:1")).unwrap();
    assert_eq!((image.id(), image.digest()), (&fixture.id(), &digest));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut image.open("/last").unwrap(), &mut text).unwrap();
    assert_eq!(text, "text");
    // Each on to where it was not.
    for compression in [coracle::Compression::None, coracle::Compression::Gzip] {
        let other = World::new();
        let push = coracle::Push::new(other.name("me/copy:1")).compression(compression);
        push.run(&image).unwrap();
        let copy = Image::pull(&Store::temp().unwrap(), &other.name("me/copy:1")).unwrap();
        assert_eq!(copy.id(), &fixture.id());
        assert!(other.store.verify().unwrap().is_sound());
    }
}

#[test]
fn an_image_without_layers_may_say_so_in_three_ways() {
    let world = World::new();
    let fixture = Fixture::of(Vec::new());
    for (tag, layers) in [("1", Some(json!([]))), ("2", Some(Value::Null)), ("3", None)] {
        let mut manifest = world.blobs("me/app", &fixture);
        match layers {
            Some(layers) => manifest["layers"] = layers,
            None => _ = manifest.as_object_mut().unwrap().remove("layers"),
        }
        world.put("me/app", tag, MANIFEST, &manifest).expect(201);
        let there = Store::temp().unwrap();
        let image = Image::pull(&there, &world.name(&format!("me/app:{tag}"))).unwrap();
        assert_eq!((image.id(), *image.digest()), (&fixture.id(), digest_of(&manifest)));
    }
}

#[test]
fn the_type_of_a_configuration_may_be_anothers() {
    let world = World::new();
    let fixture = Fixture::new(&["one"]);
    for kind in ["application/octet-stream", "application/json", "text/html", ""] {
        let mut manifest = world.blobs("me/app", &fixture);
        manifest["config"]["mediaType"] = json!(kind);
        world.put("me/app", "1", MANIFEST, &manifest).expect(201);
        let image = Image::pull(&Store::temp().unwrap(), &world.name("me/app:1")).unwrap();
        assert_eq!((image.id(), *image.digest()), (&fixture.id(), digest_of(&manifest)), "{kind}");
    }
    // What can't be read as one is an artifact's, and nothing is broken.
    world.blob("me/data", b"{}");
    let mut artifact = world.blobs("me/data", &fixture);
    artifact["config"] = descriptor("application/json", b"{}");
    world.put("me/data", "1", MANIFEST, &artifact).expect(201);
    let error = Image::pull(&Store::temp().unwrap(), &world.name("me/data:1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(world.store.broken_images().unwrap().is_empty());
    assert!(world.store.verify().unwrap().is_sound());
}

#[test]
fn what_has_a_digest_of_another_algorithm_is_no_hindrance_where_it_is_not_needed() {
    let world = World::new();
    let fixture = Fixture::new(&["one"]);
    world.push("me/app", "1", &fixture);
    let manifest = manifest_of(&fixture);
    // What an artifact belongs to need not be there.
    let sha512 = format!("sha512:{}", "ab".repeat(64));
    let mut sbom = artifact("x/sbom", &manifest, "text");
    sbom["subject"]["digest"] = json!(sha512);
    world.blob("me/app", b"{}");
    world.blob("me/app", b"text");
    let answer = world.put("me/app", "sbom", MANIFEST, &sbom).expect(201);
    assert_eq!(answer.header("oci-subject"), None);
    sbom["subject"]["digest"] = json!("sha256:1");
    world.put("me/app", "sbom", MANIFEST, &sbom).fails(400, "MANIFEST_INVALID");
    // What an index has need be there.
    let mut index = index_of(&[&manifest]);
    let mut other = index["manifests"][0].clone();
    other["digest"] = json!(sha512);
    index["manifests"].as_array_mut().unwrap().push(other);
    world.put("me/app", "2", INDEX, &index).fails(400, "MANIFEST_BLOB_UNKNOWN");
}

#[test]
fn a_cache_of_layers_is_an_index_of_blobs() {
    let world = World::new();
    // Larger than any document.
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let noise: Vec<u8> = noise.take(5 << 20).collect();
    let layer = gzip(&tar([("file", Node::File(&noise))]));
    assert!(layer.len() > 4 << 20);
    let config = br#"{"layers":[],"records":[]}"#;
    let cache = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer),
        descriptor("application/vnd.buildkit.cacheconfig.v0", config),
    ]});
    world.put("me/cache", "1", INDEX, &cache).fails(400, "MANIFEST_BLOB_UNKNOWN");
    let blobs = [world.blob("me/cache", &layer), world.blob("me/cache", config)];
    world.put("me/cache", "1", INDEX, &cache).expect(201);
    // It stays whatever is collected, is no image, and nothing of it is broken.
    world.store.prune_images(true).unwrap();
    for blob in blobs {
        world.get(&format!("/v2/me/cache/blobs/{blob}")).expect(200);
    }
    assert_eq!(world.get("/v2/me/cache/manifests/1").expect(200).body, cache.to_string().as_bytes());
    assert!(world.store.images().unwrap().is_empty() && world.store.broken_images().unwrap().is_empty());
    assert!(world.store.verify().unwrap().is_sound());
    let error = Image::pull(&Store::temp().unwrap(), &world.name("me/cache:1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // The next one takes its place, and its blobs go with it.
    world.delete(&format!("/v2/me/cache/manifests/{}", digest_of(&cache))).expect(202);
    world.get(&format!("/v2/me/cache/blobs/{}", blobs[0])).expect(404);
}
