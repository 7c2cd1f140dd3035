//! Mirrors: asked first, believed no more than others, and told nothing that is the registry's.

use super::*;

/// A registry with the image, and how to pull it from there with mirrors before.
fn origin() -> (Server, Fixture) {
    let image = Fixture::new(&["one", "two"]);
    (Server::honest(Content::of(REPOSITORY, "1", &image)), image)
}

fn with(origin: &Server, mirrors: &[&str]) -> Pull {
    let pull = Pull::new(origin.name(NAME)).retries(0);
    mirrors.iter().fold(pull, |pull, mirror| pull.mirror(origin.authority(), *mirror))
}

#[test]
fn a_mirror_is_asked_first_and_its_image_has_the_registrys_name() {
    let (origin, image) = origin();
    let mirror = Server::honest(Content::of(REPOSITORY, "1", &image));
    let store = Store::temp().unwrap();
    let pull = with(&origin, &["127.0.0.1:1", &mirror.authority()]);
    let pulled = pull.run(&store).unwrap();
    assert_eq!(*pulled.id(), image.id());
    assert_eq!(pulled.references().unwrap()[0].to_string(), origin.name(NAME));
    assert_eq!((mirror.take_log().len(), origin.take_log().len()), (4, 0));
    pull.run(&store).unwrap();
    assert_eq!(paths(&mirror.take_log()), ["HEAD /v2/me/app/manifests/1"]);
    // One of another registry is not asked.
    let other = Pull::new(origin.name(NAME)).mirror("docker.io", mirror.authority());
    other.run(&Store::temp().unwrap()).unwrap();
    assert_eq!((mirror.take_log().len(), origin.take_log().len()), (0, 4));
}

#[test]
fn whatever_is_wrong_with_a_mirror_the_registry_has_the_last_word() {
    let (origin, image) = origin();
    let has = || Content::of(REPOSITORY, "1", &image);
    let mirrors = [
        Server::start(|_| Reply::new(500, "")),
        Server::start(|_| Reply::new(404, "")),
        Server::start(|_| Reply::new(200, "<html>").with("Content-Type", "text/html")),
        // It has another layer than it says.
        Server::lying(has(), |request, reply| match request.is_blob() {
            true => reply.body(*b"something else"),
            false => reply,
        }),
        Server::lying(has(), |_, reply| Reply { endless: true, length: None, ..reply }),
    ];
    for mirror in &mirrors {
        let store = Store::temp().unwrap();
        let pulled = with(&origin, &[&mirror.authority()]).run(&store).unwrap();
        assert_eq!(*pulled.id(), image.id());
        assert!(!mirror.take_log().is_empty() && !origin.take_log().is_empty());
        assert!(store.verify().unwrap().is_sound());
        assert_eq!(count(store.path().join("tmp")), 0);
    }
    // What both refuse is the registry's error.
    let error = Pull::new(origin.name("me/app:none"))
        .mirror(origin.authority(), mirrors[0].authority())
        .retries(0)
        .run(&Store::temp().unwrap())
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::NotFound && error.to_string().contains(&origin.authority()),
        "{error}"
    );
    for bad in ["mirror", "https://mirror.example", "mirror.example/path", ""] {
        let error = with(&origin, &[bad]).run(&Store::temp().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[test]
fn a_mirror_never_hears_the_registrys_credentials() {
    let (honest, image) = origin();
    let has = Content::of(REPOSITORY, "1", &image);
    let origin = Server::lying(has, |request, reply| match request.header("authorization") {
        Some("Basic bWU6c2VjcmV0LXdvcmQ=") => reply,
        _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"here\""),
    });
    drop(honest);
    let mirror = Server::start(|_| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"there\""));
    let pull = with(&origin, &[&mirror.authority()]).credentials(Credentials::basic("me", "secret-word"));
    assert_eq!(*pull.run(&Store::temp().unwrap()).unwrap().id(), image.id());
    let asked = mirror.take_log();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.header("authorization").is_none()));
}
