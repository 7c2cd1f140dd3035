//! What a registry refuses, at each step of a pull: a typed error that names registry, repository and step, nothing of it
//! stays, and the next pull works.

use super::auth::asks;
use super::lies::{is_layer, is_tag, lie_with};
use super::*;
use std::sync::atomic::AtomicBool;

const STATUSES: [(u16, ErrorKind); 7] = [
    (401, ErrorKind::PermissionDenied),
    (403, ErrorKind::PermissionDenied),
    (404, ErrorKind::NotFound),
    (418, ErrorKind::Network),
    (429, ErrorKind::Network),
    (500, ErrorKind::Network),
    (503, ErrorKind::Network),
];

fn refusal(status: u16) -> Reply {
    Reply::new(status, r#"{"errors":[{"code":"SOME_CODE","message":"so it is"}]}"#)
}

/// Refuses with each status what is asked for; the error has `says` and the status in it.
#[track_caller]
fn refused(
    content: &Content,
    says: &str,
    is: impl Fn(&Request, &Reply) -> bool + Clone + Send + Sync + 'static,
) {
    for (status, kind) in STATUSES {
        let is = is.clone();
        // An error names its step, then the status.
        lie_with(content, kind, &format!("{says}: {status} "), move |request, reply| {
            if is(request, &reply) { refusal(status) } else { reply }
        });
    }
}

#[test]
fn a_manifest() {
    refused(&content(&["one", "two"]), "/v2/me/app/manifests/1", |request, _| is_tag(request));
}

#[test]
fn a_manifest_of_an_index() {
    let mut content = content(&["one"]);
    let raw = content.json("/v2/me/app/manifests/1").to_string().into_bytes();
    let child = content.manifest(REPOSITORY, "child", MANIFEST, raw.clone());
    let listed = json!([{"mediaType": MANIFEST, "digest": child, "size": raw.len()}]);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).to_string();
    content.manifest(REPOSITORY, "1", INDEX, index.into_bytes());
    let path = format!("/v2/me/app/manifests/{child}");
    refused(&content, &path.clone(), move |request, _| request.path == path);
}

#[test]
fn a_configuration() {
    let content = content(&["one", "two"]);
    let manifest = content.json("/v2/me/app/manifests/1");
    let path = format!("/v2/me/app/blobs/{}", manifest["config"]["digest"].as_str().unwrap());
    refused(&content, &path.clone(), move |request, _| request.path == path);
}

#[test]
fn a_layer() {
    let content = content(&["one", "two"]);
    for at in 0..2 {
        let layer = content.json("/v2/me/app/manifests/1")["layers"][at]["digest"].clone();
        let path = format!("/v2/me/app/blobs/{}", layer.as_str().unwrap());
        refused(&content, &path.clone(), move |request, reply| {
            assert!(request.path != path || is_layer(request, reply));
            request.path == path
        });
    }
}

/// Whether an image that is there is still the registry's: what is there stays as it is. Where a HEAD alone is refused for good, as
/// some registries and caches do, the GET says it; what may pass is not asked in another way.
#[test]
fn whether_anything_has_changed() {
    // A status, and whether each request gets it.
    let refuses = Arc::new((AtomicUsize::new(0), AtomicBool::new(false)));
    let told = refuses.clone();
    let server = Server::lying(content(&["one", "two"]), move |request, reply| {
        match (told.0.load(Ordering::SeqCst), told.1.load(Ordering::SeqCst)) {
            (0, _) => reply,
            (status, all) if all || request.method == "HEAD" => refusal(status as u16),
            _ => reply,
        }
    });
    let store = Store::temp().unwrap();
    let pull = Pull::new(server.name(NAME)).retries(1).credentials(Credentials::anonymous());
    let image = pull.run(&store).unwrap();
    for (status, kind) in STATUSES {
        let may_pass = matches!(status, 429 | 500 | 503);
        refuses.0.store(usize::from(status), Ordering::SeqCst);
        if !may_pass {
            refuses.1.store(false, Ordering::SeqCst);
            server.take_log();
            assert_eq!(pull.run(&store).unwrap().digest(), image.digest(), "{status}");
            let asked = ["GET", "HEAD"].map(|method| format!("{method} /v2/me/app/manifests/1"));
            assert_eq!(paths(&server.take_log()), asked, "{status}");
        }
        refuses.1.store(!may_pass, Ordering::SeqCst);
        let error = pull.run(&store).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        let method = if may_pass { "HEAD" } else { "GET" };
        let step = format!("{method} http://{}/v2/me/app/manifests/1: {status} ", server.authority());
        for part in ["pulling me/app:1", &server.authority(), &step] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(store.image(&server.name(NAME)).unwrap().digest(), image.digest());
        assert_eq!((count(store.path().join("tmp")), count(store.path().join("layers"))), (0, 2));
        assert!(store.verify().unwrap().is_sound());
        refuses.0.store(0, Ordering::SeqCst);
        assert_eq!(pull.run(&store).unwrap().digest(), image.digest());
    }
}

/// The error has the address of the token service without its query.
#[test]
fn a_token() {
    for (status, kind) in STATUSES {
        lie_with(&content(&["one", "two"]), kind, &format!("/token: {status} "), move |request, _| {
            match request.path.starts_with("/token?") {
                true => refusal(status),
                false => asks(&format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap())),
            }
        });
    }
}

/// As some registries write it: not from the root, and with what no address has in it.
#[test]
fn a_redirect_leads_where_it_is_meant_to() {
    let content = content(&["one", "two"]);
    let server = Server::start(move |request| match request.path.split_once("?f=") {
        None if request.is_blob() => {
            let digest = request.path.rsplit('/').next().unwrap();
            Reply::new(307, "").with("Location", format!("./x/../../blobs/{digest}?f=\"a b\"é"))
        }
        Some((path, "%22a%20b%22%C3%A9")) => {
            content.reply(&Request { path: path.to_owned(), ..request.clone() })
        }
        _ => content.reply(request),
    });
    Pull::new(server.name(NAME)).retries(0).run(&Store::temp().unwrap()).unwrap();
    let log = server.take_log();
    let followed = log.iter().filter(|request| request.path.ends_with("?f=%22a%20b%22%C3%A9"));
    assert_eq!(followed.count(), 3);
}
