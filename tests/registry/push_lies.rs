//! A registry that lies to a push, one test a lie: a typed error that names registry, repository and step, and the next push works.

use super::push::*;
use super::*;
use coracle::Push;

/// Pushes to a registry that lies, and then to it when it does not.
#[track_caller]
fn lie(
    kind: ErrorKind,
    says: &str,
    lie: impl Fn(&Request, &dyn Fn() -> Reply) -> Reply + Send + Sync + 'static,
) {
    lie_saying(kind, &[says], lie);
}

#[track_caller]
fn lie_saying(
    kind: ErrorKind,
    says: &[&str],
    lie: impl Fn(&Request, &dyn Fn() -> Reply) -> Reply + Send + Sync + 'static,
) {
    let lies = Arc::new(AtomicUsize::new(1));
    let lying = lies.clone();
    let (_, server) = writable(move |request, honest| match lying.load(Ordering::SeqCst) {
        0 => honest(),
        _ => lie(request, honest),
    });
    let store = Store::temp().unwrap();
    let image = loaded(&store, &Fixture::new(&["one", "two"]), "app:1");
    let push = Push::new(server.name(NAME)).retries(1).credentials(Credentials::anonymous());
    let error = push.run(&image).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in says.iter().copied().chain(["pushing me/app:1", &server.authority()]) {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(count(store.path().join("tmp")), 0);
    lies.store(0, Ordering::SeqCst);
    assert_eq!(push.run(&image).unwrap().digest, *image.digest());
    assert_eq!(Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap().digest(), image.digest());
}

fn is_upload(request: &Request) -> bool {
    request.method == "PUT" && request.is_blob()
}

fn another() -> String {
    Digest::of(b"another").to_string()
}

const STEPS: [(&str, &str, &str); 4] = [
    ("HEAD", "/blobs/sha256:", "pushing the layer"),
    ("POST", "/blobs/uploads/", "pushing the layer"),
    ("PUT", "/blobs/uploads/", "pushing the layer"),
    ("PUT", "/manifests/", "pushing the manifest"),
];

#[track_caller]
fn refuses(status: u16, kind: ErrorKind) {
    for (method, path, says) in STEPS {
        // Whether a blob is there need not be told: it is sent.
        if method == "HEAD" && matches!(status, 403 | 404 | 405 | 413) {
            continue;
        }
        let says = [says, &format!("{method} http://"), &status.to_string(), "not today"];
        // A HEAD has no words.
        let says = if method == "HEAD" { &says[..3] } else { &says[..] };
        lie_saying(kind, says, move |request, honest| {
            match request.method == method && request.path.contains(path) {
                true => no(status),
                false => honest(),
            }
        });
    }
    // Of blobs the configuration alone is text.
    let says = ["pushing the configuration", "PUT http://", &status.to_string(), "not today"];
    lie_saying(kind, &says, move |request, honest| {
        match is_upload(request) && request.body.starts_with('{') {
            true => no(status),
            false => honest(),
        }
    });
}

fn no(status: u16) -> Reply {
    Reply::new(status, r#"{"errors":[{"code":"NO","message":"not today"}]}"#)
}

#[test]
fn it_gives_no_token() {
    for (status, kind) in [
        (401, ErrorKind::PermissionDenied),
        (403, ErrorKind::PermissionDenied),
        (404, ErrorKind::NotFound),
        (429, ErrorKind::Network),
        (500, ErrorKind::Network),
    ] {
        let says = ["pushing the layer", "/token", &status.to_string()];
        lie_saying(kind, &says, move |request, _| match request.path.starts_with("/token") {
            true => no(status),
            false => Reply::new(401, "").with(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{}/token",service=s"#, request.header("host").unwrap()),
            ),
        });
    }
}

#[test]
fn it_wants_to_know_who() {
    refuses(401, ErrorKind::PermissionDenied);
}

#[test]
fn it_lets_nobody_in() {
    refuses(403, ErrorKind::PermissionDenied);
}

#[test]
fn it_has_no_such_place() {
    refuses(404, ErrorKind::NotFound);
}

#[test]
fn it_is_for_reading_only() {
    refuses(405, ErrorKind::Unsupported);
}

#[test]
fn it_takes_no_more() {
    refuses(413, ErrorKind::TooLarge);
}

#[test]
fn it_is_too_busy() {
    refuses(429, ErrorKind::Network);
}

#[test]
fn it_is_broken() {
    refuses(500, ErrorKind::Network);
}

#[test]
fn it_answers_no_question_and_takes_it_all_the_same() {
    for status in [400, 403, 404, 405, 410, 501] {
        let (_, server) = writable(move |request, honest| match request.method.as_str() {
            "HEAD" => no(status),
            _ => honest(),
        });
        let store = Store::temp().unwrap();
        let image = loaded(&store, &Fixture::new(&["one", "two"]), "app:1");
        let pushed = image.push(&server.name(NAME)).unwrap();
        assert_eq!(pushed.digest, *image.digest(), "{status}");
        let there = Store::temp().unwrap();
        assert_eq!(Image::pull(&there, &server.name(NAME)).unwrap().digest(), image.digest());
    }
    // What is wrong is said to the next request, in words.
    let says = ["pushing the layer", "POST http://", "403", "not today"];
    lie_saying(ErrorKind::PermissionDenied, &says, |request, honest| match request.method.as_str() {
        "HEAD" | "POST" => no(403),
        _ => honest(),
    });
}

#[test]
fn it_has_another_blob_of_the_name() {
    lie(ErrorKind::Mismatch, "the registry calls it", |request, honest| match request.method.as_str() {
        "HEAD" if request.is_blob() => Reply::new(200, "").with("Docker-Content-Digest", another()),
        _ => honest(),
    });
}

#[test]
fn it_has_a_blob_of_another_size() {
    lie(ErrorKind::Mismatch, "it says 3 bytes", |request, honest| match request.method.as_str() {
        "HEAD" if request.is_blob() => Reply::new(200, "abc"),
        _ => honest(),
    });
}

#[test]
fn it_took_another_blob() {
    lie(ErrorKind::Mismatch, "the registry calls it", |request, honest| match is_upload(request) {
        true => honest().with("Docker-Content-Digest", another()),
        false => honest(),
    });
}

#[test]
fn it_took_another_manifest() {
    lie(ErrorKind::Mismatch, "the registry calls it", |request, honest| {
        match request.method == "PUT" && !request.is_blob() {
            true => honest().with("Docker-Content-Digest", another()),
            false => honest(),
        }
    });
}

#[test]
fn it_says_that_the_digest_is_wrong() {
    lie(ErrorKind::Network, "DIGEST_INVALID", |request, honest| match is_upload(request) {
        true => Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#),
        false => honest(),
    });
}

#[test]
fn its_upload_is_nowhere() {
    lie(ErrorKind::InvalidData, "an upload to nowhere", |request, honest| match request.method == "POST" {
        true => Reply::new(202, ""),
        false => honest(),
    });
}

#[test]
fn its_upload_is_no_address() {
    lie(ErrorKind::InvalidData, "where the upload goes", |request, honest| match request.method == "POST" {
        true => honest().with("Location", "ftp://elsewhere/x"),
        false => honest(),
    });
}

#[test]
fn its_upload_is_on_another_machine_without_tls() {
    lie(ErrorKind::InvalidData, "plain HTTP to another machine", |request, honest| {
        match request.method == "POST" {
            true => honest().with("Location", "http://192.0.2.1/x"),
            false => honest(),
        }
    });
}

#[test]
fn its_uploads_vanish() {
    lie(ErrorKind::NotFound, "BLOB_UPLOAD_UNKNOWN", |request, honest| match is_upload(request) {
        true => Reply::new(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"gone"}]}"#),
        false => honest(),
    });
}

#[test]
fn its_uploads_lead_in_a_circle() {
    lie(ErrorKind::InvalidData, "redirects", |request, honest| match is_upload(request) {
        true => Reply::new(307, "").with("Location", request.path.clone()),
        false => honest(),
    });
}

#[test]
fn it_would_make_a_question_of_an_upload() {
    lie(ErrorKind::Network, "303", |request, honest| match is_upload(request) {
        true => Reply::new(303, "").with("Location", "/elsewhere"),
        false => honest(),
    });
}

#[test]
fn it_answers_an_upload_with_something_else() {
    lie(ErrorKind::Network, "206", |request, honest| match is_upload(request) {
        true => Reply::new(206, ""),
        false => honest(),
    });
}

/// What it claims to have is sent when it refuses the manifest for it; one that goes on so is an error.
#[test]
fn it_claims_to_have_blobs_and_refuses_the_manifest() {
    lie(ErrorKind::InvalidData, "MANIFEST_BLOB_UNKNOWN", |request, honest| match request.method.as_str() {
        "HEAD" if request.is_blob() => {
            Reply::new(200, "").with("Content-Type", "application/octet-stream").headless()
        }
        "PUT" if !request.is_blob() => {
            Reply::new(400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"never seen"}]}"#)
        }
        _ => honest(),
    });
    // It only forgot.
    let (_, server) = writable(|request, honest| match request.method == "HEAD" && request.is_blob() {
        true => Reply::new(200, "").headless(),
        false => honest(),
    });
    let store = Store::temp().unwrap();
    let image = loaded(&store, &Fixture::new(&["one", "two"]), "app:1");
    image.push(&server.name(NAME)).unwrap();
    let log = server.take_log();
    let puts = |blob: bool| {
        log.iter().filter(|request| request.method == "PUT" && request.is_blob() == blob).count()
    };
    assert_eq!((puts(true), puts(false)), (3, 2));
}

/// A mount that is none, and one of something else.
#[test]
fn it_mounts_another_blob() {
    let lies = Arc::new(AtomicUsize::new(1));
    let lying = lies.clone();
    let (_, server) = writable(move |request, honest| {
        match request.path.contains("mount=") && lying.load(Ordering::SeqCst) == 1 {
            true => Reply::new(201, "").with("Docker-Content-Digest", another()),
            false => honest(),
        }
    });
    let store = Store::temp().unwrap();
    let image = loaded(&store, &Fixture::new(&["one"]), "app:1");
    image.push(&server.name("me/base:1")).unwrap();
    let push = Push::new(server.name(NAME)).retries(1);
    let error = push.run(&image).unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("calls it"), "{error}");
    lies.store(0, Ordering::SeqCst);
    push.run(&image).unwrap();
}

#[test]
fn it_refuses_to_mount_and_takes_it_all_the_same() {
    for status in [400, 401, 403, 404, 405] {
        let (_, server) = writable(move |request, honest| match request.path.contains("mount=") {
            true => Reply::new(status, ""),
            false => honest(),
        });
        let store = Store::temp().unwrap();
        let image = loaded(&store, &Fixture::new(&["one"]), "app:1");
        image.push(&server.name("me/base:1")).unwrap();
        server.take_log();
        image.push(&server.name(NAME)).unwrap();
        let puts = server.take_log().iter().filter(|request| request.method == "PUT").count();
        assert_eq!(puts, 3, "{status}");
    }
}
