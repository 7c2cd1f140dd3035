//! For which machine an image is, and what that says of the one that the store has.

use super::*;
use coracle::Platform;
use serde_json::Value;

/// This machine's processor, and another.
pub fn machines() -> (String, &'static str) {
    let own = Platform::host().architecture;
    let other = if own == "arm64" { "amd64" } else { "arm64" };
    (own, other)
}

pub fn linux(architecture: &str) -> Platform {
    format!("linux/{architecture}").parse().unwrap()
}

pub fn of(architecture: &str) -> Fixture {
    Fixture::of_machine(vec![tar([("machine", Node::File(architecture.as_bytes()))])], architecture)
}

/// An image under a tag, and how an index lists it as one for a machine.
fn listed_for(content: &mut Content, tag: &str, image: &Fixture, architecture: &str) -> Value {
    let (_, manifest) = content.add(REPOSITORY, image, gzip, "+gzip");
    let size = manifest.len();
    let digest = content.manifest(REPOSITORY, tag, MANIFEST, manifest);
    let platform = json!({"os": "linux", "architecture": architecture});
    json!({"mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform})
}

/// An index of these under the tag `1`.
fn index_of(content: &mut Content, listed: &[Value]) -> Digest {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).to_string();
    content.manifest(REPOSITORY, "1", INDEX, index.into_bytes())
}

/// A registry with an index for both under the tag `1`, and the other machine's image alone under `single`. With the digests of the
/// index, and of the other one's manifest.
pub fn registry() -> (Server, Digest, Digest) {
    let (own, other) = machines();
    let mut content = Content::default();
    let listed =
        [&own, other].map(|architecture| listed_for(&mut content, "single", &of(architecture), architecture));
    let single = listed[1]["digest"].as_str().unwrap().parse().unwrap();
    let index = index_of(&mut content, &listed);
    (Server::honest(content), index, single)
}

#[test]
fn of_several_machines_a_name_alone_means_this_one() {
    let (own, other) = machines();
    let (server, index, single) = registry();
    let (by_tag, by_index) = (server.name(NAME), server.name(&format!("{REPOSITORY}@{index}")));
    for name in [by_tag, by_index] {
        for policy in [PullPolicy::Always, PullPolicy::Missing] {
            let store = Store::temp().unwrap();
            let pull = Pull::new(&name).policy(policy);
            let theirs = pull.clone().platform(linux(other)).run(&store).unwrap();
            assert_eq!(theirs.architecture(), other);
            // What can't be asked for is taken as it is.
            let never = Pull::new(&name).policy(PullPolicy::Never);
            assert_eq!(never.run(&store).unwrap().id(), theirs.id());
            let ours = pull.run(&store).unwrap();
            assert_eq!(*ours.id(), of(&own).id(), "{name} {policy:?}");
            // Now it is known, whichever is asked for.
            server.take_log();
            assert_eq!(pull.run(&store).unwrap().id(), ours.id());
            assert!(server.take_log().iter().all(|request| request.method == "HEAD"));
            // The other's manifest has one meaning.
            let by_manifest = Pull::new(server.name(&format!("{REPOSITORY}@{single}")));
            assert_eq!(by_manifest.run(&store).unwrap().id(), theirs.id());
            assert_eq!(server.take_log().len(), 0);
            assert!(store.verify().unwrap().is_sound());
        }
    }
    let store = Store::temp().unwrap();
    Pull::new(server.name(NAME)).platform(linux(other)).run(&store).unwrap();
    Image::pull(&store, &server.name(NAME)).unwrap();
    assert_eq!(store.image(&server.name(NAME)).unwrap().architecture(), own, "the tag has moved");
}

/// An image for another machine alone: of a registry, or put here.
#[test]
fn what_is_all_that_a_name_means_is_taken_as_it_is() {
    let (own, other) = machines();
    let (server, ..) = registry();
    let store = Store::temp().unwrap();
    let single = server.name("me/app:single");
    let pulled = Image::pull(&store, &single).unwrap();
    assert_eq!(pulled.architecture(), other);
    server.take_log();
    assert_eq!(Image::pull(&store, &single).unwrap().digest(), pulled.digest());
    assert_eq!(paths(&server.take_log()), ["HEAD /v2/me/app/manifests/single"]);
    let missing = |name: &str| Pull::new(server.name(name)).policy(PullPolicy::Missing).run(&store);
    assert_eq!(missing("me/app:single").unwrap().digest(), pulled.digest());
    let archive = docker_archive(&[(&of(other), &[&server.name("me/app:loaded")])]);
    let loaded = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
    assert_eq!(missing("me/app:loaded").unwrap().digest(), loaded.digest());
    // The name is not what led to one of several.
    let theirs = Pull::new(server.name(NAME)).platform(linux(other)).run(&store).unwrap();
    theirs.tag(&server.name("me/app:mine")).unwrap();
    server.take_log();
    assert_eq!(missing("me/app:mine").unwrap().digest(), theirs.digest());
    assert_eq!(server.take_log().len(), 0);

    // By name of the machine it is refused, and what was under the name stays.
    let ours = Pull::new(&single).platform(linux(&own));
    let error = ours.run(&store).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    let parts = [
        "pulling me/app:single from",
        &server.authority(),
        "reading the configuration sha256:",
        &format!("for linux/{other}, not for linux/{own}"),
    ];
    assert!(parts.iter().all(|part| text.contains(part)) && error.remedy().is_some(), "{text}");
    assert_eq!(store.image(&single).unwrap().digest(), pulled.digest());
    let empty = Store::temp().unwrap();
    assert_eq!(ours.run(&empty).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_no_image(&empty);
    for room in ["blobs/sha256", "layers"] {
        assert_eq!(count(empty.path().join(room)), 0, "{room}");
    }
}

#[test]
fn an_index_that_has_another_machines_image_under_this_one() {
    let (own, other) = machines();
    let mut content = Content::default();
    let listed = listed_for(&mut content, "none", &of(other), &own);
    index_of(&mut content, &[listed]);
    let server = Server::honest(content);
    let store = Store::temp().unwrap();
    let error = Pull::new(server.name(NAME)).platform(linux(&own)).run(&store).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_no_image(&store);
    // Without a machine it is what the index says.
    is_taken(&server, &Pull::new(server.name(NAME)));
}

/// It is pulled, and then known for what it was pulled for.
fn is_taken(server: &Server, pull: &Pull) {
    let store = Store::temp().unwrap();
    let image = pull.run(&store).unwrap();
    server.take_log();
    assert_eq!(pull.run(&store).unwrap().digest(), image.digest());
    assert!(server.take_log().iter().all(|request| request.method == "HEAD"));
    assert_eq!(pull.clone().policy(PullPolicy::Missing).run(&store).unwrap().digest(), image.digest());
    assert_eq!(server.take_log().len(), 0);
}

#[test]
fn an_image_that_does_not_say_for_which_machine_it_is() {
    let (own, other) = machines();
    let mut content = Content::default();
    let listed = listed_for(&mut content, "bare", &of(""), &own);
    index_of(&mut content, &[listed]);
    let server = Server::honest(content);
    for name in [NAME, "me/app:bare"] {
        let pull = Pull::new(server.name(name));
        is_taken(&server, &pull);
        is_taken(&server, &pull.platform(linux(&own)));
    }
    // What was chosen for one machine is not taken for another.
    let store = Store::temp().unwrap();
    Image::pull(&store, &server.name(NAME)).unwrap();
    let error = Pull::new(server.name(NAME)).platform(linux(other)).run(&store).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[cfg(feature = "build")]
#[test]
fn a_build_stands_on_this_machines_image() {
    let (own, other) = machines();
    let (server, ..) = registry();
    let store = Store::temp().unwrap();
    Pull::new(server.name(NAME)).platform(linux(other)).run(&store).unwrap();
    let build = |name: &str| {
        coracle::Build::empty().dockerfile_text(format!("FROM {}\nENV B=2\n", server.name(name))).run(&store)
    };
    assert_eq!(build(NAME).unwrap().architecture(), own);
    // Where there is no other, as docker does.
    assert_eq!(build("me/app:single").unwrap().architecture(), other);
}
