//! What is pulled by a digest, and what is found by one.

use super::platforms::*;
use super::*;
use coracle::Reference;

fn names(image: &Image) -> Vec<String> {
    image.references().unwrap().iter().map(Reference::to_string).collect()
}

fn digests(image: &Image) -> Vec<String> {
    image.repo_digests().unwrap().iter().map(Reference::to_string).collect()
}

#[test]
fn a_digest_is_the_name_of_what_was_pulled_by_it() {
    let (server, index, other) = registry();
    // Of an index this machine's, which has the index's digest for a name, and a manifest of whatever machine.
    for digest in [index, other] {
        let store = Store::temp().unwrap();
        let name = server.name(&format!("{REPOSITORY}@{digest}"));
        let with_tag = server.name(&format!("{NAME}@{digest}"));
        let image = Image::pull(&store, &with_tag).unwrap();
        assert_eq!((names(&image), digests(&image)), (vec![name.clone()], vec![name.clone()]));
        server.take_log();
        for name in [&name, &with_tag] {
            assert_eq!(store.image(name).unwrap().digest(), image.digest());
            for policy in [PullPolicy::Always, PullPolicy::Missing, PullPolicy::Never] {
                assert_eq!(Pull::new(name).policy(policy).run(&store).unwrap().digest(), image.digest());
            }
        }
        assert_eq!((server.take_log().len(), names(&image).len()), (0, 1));
        let elsewhere = server.name(&format!("me/other@{digest}"));
        assert_eq!(store.image(&elsewhere).unwrap_err().kind(), ErrorKind::NotFound);

        // Beside a tag it is a name like any other; alone it is none that keeps an image.
        let tagged = store.image(&name).unwrap().tag("mine:1").unwrap();
        assert_eq!(names(&image), [name.clone(), tagged.to_string()]);
        let (id, removed) = (*image.id(), store.remove_image(&with_tag).unwrap());
        assert_eq!((removed.untagged, removed.deleted), (vec![name.parse().unwrap()], vec![]));
        assert_eq!(names(&image), [tagged.to_string()]);
        Image::pull(&store, &name).unwrap();
        assert_eq!(names(&image), [tagged.to_string(), name.clone()]);
        assert_eq!(store.remove_image("mine:1").unwrap().untagged, [tagged]);
        drop(image);
        let pruned = store.prune_images(false).unwrap();
        assert_eq!((pruned.untagged, pruned.deleted), (vec![name.parse().unwrap()], vec![id]));
        assert_eq!(count(store.path().join("blobs/sha256")), 0);
        Image::pull(&store, &name).unwrap();
        assert_eq!(store.remove_image(&name).unwrap().deleted, [id]);
        assert_no_image(&store);
    }
}

#[test]
fn what_a_tag_led_to_is_found_by_the_digest() {
    let (server, index, _) = registry();
    let store = Store::temp().unwrap();
    let image = Image::pull(&store, &server.name(NAME)).unwrap();
    let by_index = server.name(&format!("{REPOSITORY}@{index}"));
    let by_manifest = server.name(&format!("{REPOSITORY}@{}", image.digest()));
    assert_eq!(digests(&image).concat(), by_index);
    server.take_log();
    for name in [&by_index, &by_manifest] {
        assert_eq!(store.image(name).unwrap().digest(), image.digest());
        assert_eq!(Image::pull(&store, name).unwrap().digest(), image.digest());
    }
    let mut all = [server.name(NAME), by_index.clone(), by_manifest.clone()];
    all.sort();
    let mut found = names(&image);
    found.sort();
    assert_eq!((found, server.take_log().len()), (all.to_vec(), 0));
    // Another repository has it when it is pulled from there.
    for digest in [*image.digest(), index] {
        let other = server.name(&format!("me/other@{digest}"));
        assert_eq!(store.image(&other).unwrap_err().kind(), ErrorKind::NotFound);
        Pull::new(&other).policy(PullPolicy::Missing).run(&store).unwrap();
        assert_eq!(store.image(&other).unwrap().digest(), image.digest());
    }
    assert_eq!((names(&image).len(), server.take_log().len()), (5, 0));
    // What it was asked for by, it is, also when the tag has moved.
    Image::scratch(&store).unwrap().tag(&server.name(NAME)).unwrap();
    for name in [&by_index, &by_manifest] {
        assert_eq!(store.image(name).unwrap().digest(), image.digest());
    }
}

/// As docker does: what is left of a repository then is a digest.
#[test]
fn with_a_repositorys_last_tag_go_its_digests() {
    let (server, index, _) = registry();
    let store = Store::temp().unwrap();
    let (by_digest, by_tag) = (server.name(&format!("{REPOSITORY}@{index}")), server.name(NAME));
    let image = Image::pull(&store, &by_digest).unwrap();
    Image::pull(&store, &by_tag).unwrap();
    let mut all: Vec<Reference> = vec![by_digest.parse().unwrap(), by_tag.parse().unwrap()];
    assert_eq!(image.references().unwrap(), all);
    image.tag("mine:1").unwrap();
    let second = image.tag(&server.name("me/app:2")).unwrap();
    assert_eq!(store.remove_image(&second.to_string()).unwrap().untagged, [second]);
    assert_eq!(store.remove_image(&by_tag).unwrap().untagged, all);
    assert_eq!(names(&image), ["docker.io/library/mine:1"]);
    store.untag("mine:1").unwrap();
    drop(image);
    // Both are one repository's, so it goes by its id, and with the tag.
    for by_id in [true, false] {
        let image = Image::pull(&store, &by_digest).unwrap();
        Image::pull(&store, &by_tag).unwrap();
        let (id, name) = (*image.id(), if by_id { image.id().to_string() } else { by_tag.clone() });
        drop(image);
        let removed = store.remove_image(&name).unwrap();
        all.sort();
        let mut untagged = removed.untagged;
        untagged.sort();
        assert_eq!((&untagged, removed.deleted), (&all, vec![id]));
        assert_no_image(&store);
    }
}

/// The digest of an index is not one image's: whose name it is was pulled last.
#[test]
fn one_index_is_one_name() {
    let (own, other) = machines();
    let (server, index, _) = registry();
    let store = Store::temp().unwrap();
    let name = server.name(&format!("{REPOSITORY}@{index}"));
    let pull = Pull::new(&name).policy(PullPolicy::Missing);
    for _ in 0..2 {
        for architecture in [other, own.as_str()] {
            pull.clone().platform(linux(architecture)).run(&store).unwrap();
            assert_eq!(store.image(&name).unwrap().architecture(), architecture);
        }
        assert_eq!(pull.run(&store).unwrap().architecture(), own);
    }
    assert_eq!(store.images().unwrap().len(), 2);
    assert!(store.verify().unwrap().is_sound());
}
