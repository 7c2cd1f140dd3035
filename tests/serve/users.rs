//! Who may do what.

use super::*;

/// A header that names a user.
fn as_user(text: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(text))
}

/// `htpasswd -nbB me secret-word`.
const HTPASSWD: &str = "me:$2y$05$sOLQfHl.apwNpzsN67jdXeFFUfG9J/20kHzHVTdoKcpDMdCqNjBXW\n";

fn status(world: &World, user: Option<&str>, method: &str, path: &str) -> u16 {
    let user = user.map(as_user);
    let headers: Vec<_> = user.iter().map(|user| ("Authorization", user.as_str())).collect();
    ask(world.addr(), method, path, &headers, b"").status
}

const UPLOADS: &str = "/v2/me/app/blobs/uploads/";

#[test]
fn users_read_and_write_as_they_may() {
    let builder =
        || Registry::builder().user("writer", "w0rd", Access::Write).user("reader", "r0rd", Access::Read);
    let closed = World::with(builder().user("nobody", "n0rd", Access::None));
    let open = World::with(builder().anonymous(Access::Read));
    for (user, read, write) in [
        (None, 401, 401),
        (Some("writer:w0rd"), 404, 202),
        (Some("reader:r0rd"), 404, 403),
        (Some("nobody:n0rd"), 403, 403),
        (Some("writer:word"), 401, 401),
        (Some("writer:"), 401, 401),
        (Some("other:w0rd"), 401, 401),
        (Some("reader:w0rd"), 401, 401),
    ] {
        assert_eq!(status(&closed, user, "GET", "/v2/me/app/tags/list"), read, "{user:?}");
        assert_eq!(status(&closed, user, "POST", UPLOADS), write, "{user:?}");
    }
    assert_eq!(status(&open, None, "GET", "/v2/me/app/tags/list"), 404);
    assert_eq!(status(&open, None, "POST", UPLOADS), 401);
    assert_eq!(status(&open, Some("writer:w0rd"), "POST", UPLOADS), 202);
    assert_eq!(status(&open, Some("writer:wrong"), "GET", "/v2/"), 401);
    // Nothing is said of what is there.
    let refused = closed.get("/v2/me/app/manifests/1").fails(401, "UNAUTHORIZED");
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"coracle\", charset=\"UTF-8\""));
    assert_eq!(status(&closed, None, "GET", "/nothing"), 401);
    for header in ["Bearer x", "Basic", "Basic %%%", "Basic bm9jb2xvbg==", &as_user(&"x:".repeat(4000))] {
        ask(closed.addr(), "GET", "/v2/", &[("Authorization", header)], b"").expect(401);
    }
    let text = format!("{:?}", builder());
    assert!(text.contains("writer") && !text.contains("w0rd"), "{text}");
}

#[test]
fn a_read_only_registry_changes_nothing() {
    let store = Store::temp().unwrap();
    let digest = {
        let registry = Registry::serve(&store, "127.0.0.1:0").unwrap();
        World { store: store.clone(), registry }.push("me/app", "1", &Fixture::new(&["one"]))
    };
    let world =
        World { registry: Registry::builder().read_only().serve(&store, "127.0.0.1:0").unwrap(), store };
    world.get("/v2/me/app/manifests/1").expect(200);
    for (method, path) in [
        ("POST", UPLOADS.to_owned()),
        ("PUT", "/v2/me/app/manifests/2".into()),
        ("DELETE", "/v2/me/app/manifests/1".into()),
        ("DELETE", format!("/v2/me/app/manifests/{digest}")),
        ("DELETE", format!("/v2/me/app/blobs/{digest}")),
    ] {
        ask(world.addr(), method, &path, &[], b"").fails(405, "UNSUPPORTED");
    }
    assert_eq!(Image::pull(&Store::temp().unwrap(), &world.name("me/app:1")).unwrap().digest(), &digest);
}

#[test]
fn a_page_in_a_browser_changes_nothing() {
    let world = World::new();
    let origin = [("Origin", "http://evil.example"), ("Content-Type", "text/plain")];
    ask(world.addr(), "POST", UPLOADS, &origin, b"").fails(403, "DENIED");
    ask(world.addr(), "GET", "/v2/", &origin, b"").expect(200);
    assert!(
        ask(world.addr(), "OPTIONS", "/v2/", &origin, b"").header("access-control-allow-origin").is_none()
    );
}

#[test]
fn other_machines_are_served_only_as_was_said() {
    let store = Store::temp().unwrap();
    let serve = |builder: RegistryBuilder| builder.serve(&store, "0.0.0.0:0");
    let user = || Registry::builder().user("me", "secret-word", Access::Write);
    for (builder, says) in [
        (Registry::builder(), "nothing says who may do what"),
        (Registry::builder().read_only(), "nothing says who may do what"),
        (user(), "passwords of other machines would travel in the clear"),
        (user().tls("no", "key"), "private key"),
        (Registry::builder().prefix("no//prefix"), "prefix of names"),
    ] {
        let error = serve(builder).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(says), "{error}");
    }
    for builder in [Registry::builder().anonymous(Access::Read), user().plain_http()] {
        drop(serve(builder).unwrap());
    }
    let taken = Registry::serve(&store, "127.0.0.1:0").unwrap();
    assert_eq!(Registry::serve(&store, taken.addr()).unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(count(store.path().join("tmp")), 1, "of the one that runs");
}

#[test]
fn coracle_pulls_with_the_password_of_a_file() {
    let builder = Registry::builder().htpasswd(HTPASSWD, Access::Write).unwrap();
    let world = World::with(builder.user("pusher", "p0rd", Access::Write));
    let image = Fixture::new(&["one"]);
    let manifest = manifest_of(&image);
    let pusher = as_user("pusher:p0rd");
    let headers = [("Authorization", pusher.as_str()), ("Content-Type", MANIFEST)];
    for blob in image.layers.iter().chain([&image.config]) {
        let path = format!("{UPLOADS}?digest={}", Digest::of(blob));
        ask(world.addr(), "POST", &path, &headers, blob).expect(201);
    }
    let text = manifest.to_string();
    ask(world.addr(), "PUT", "/v2/me/app/manifests/1", &headers, text.as_bytes()).expect(201);
    let pull =
        |credentials| Pull::new(world.name("me/app:1")).credentials(credentials).run(&Store::temp().unwrap());
    assert_eq!(
        *pull(coracle::Credentials::basic("me", "secret-word")).unwrap().digest(),
        digest_of(&manifest)
    );
    for wrong in [coracle::Credentials::anonymous(), coracle::Credentials::basic("me", "another-word")] {
        assert_eq!(pull(wrong).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}
