//! Who is let in, and where passwords and tokens go.

use super::*;

pub const PASSWORD: &str = "correct-horse-battery";
pub const TOKEN: &str = "token-of-some-length";
/// The base64 of `me:` and the password.
pub const BASIC: &str = "Basic bWU6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5";

/// This process's environment, in a test that has its process to itself.
pub fn set(name: &str, value: &std::path::Path) {
    // SAFETY: no other thread reads the environment now.
    unsafe { std::env::set_var(name, value) }
}

pub fn me() -> Credentials {
    Credentials::basic("me", PASSWORD)
}

pub fn asks(challenge: &str) -> Reply {
    Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#)
        .with("WWW-Authenticate", challenge)
}

/// A registry that wants a token, and a token service that wants a password.
pub fn with_tokens(realm: Option<String>) -> Server {
    let content = content(&["one", "two"]);
    Server::start(move |request| {
        let authorization = request.header("authorization");
        if request.path.starts_with("/token?") {
            return match authorization {
                Some(BASIC) => Reply::new(200, json!({"token": TOKEN, "expires_in": 300}).to_string()),
                _ => Reply::new(401, ""),
            };
        }
        if authorization == Some(&format!("Bearer {TOKEN}")) {
            return content.reply(request);
        }
        let host = request.header("host").unwrap();
        let realm = realm.clone().unwrap_or(format!("http://{host}/token"));
        asks(&format!(r#"Bearer realm="{realm}",service="registry",scope="repository:me/app:pull""#))
    })
}

#[test]
fn a_token_is_asked_for_once() {
    let server = with_tokens(None);
    let pull = Pull::new(server.name(NAME)).credentials(me());
    pull.run(&Store::temp().unwrap()).unwrap();
    let log = server.take_log();
    assert_eq!(log[0].header("authorization"), None);
    assert_eq!(log[1].path, "/token?service=registry&scope=repository%3Ame%2Fapp%3Apull");
    let tokens = log.iter().filter(|request| request.path.starts_with("/token"));
    assert_eq!((tokens.count(), log.len()), (1, 6));
    // The password went to the token service only.
    let passwords = log.iter().filter(|request| request.header("authorization") == Some(BASIC));
    assert!(passwords.clone().all(|request| request.path.starts_with("/token")) && passwords.count() == 1);
}

#[test]
fn wrong_credentials_say_so_and_are_not_shown() {
    let server = with_tokens(None);
    for credentials in [Credentials::anonymous(), Credentials::basic("me", "wrong-password-here")] {
        let pull = Pull::new(server.name(NAME)).credentials(credentials);
        let error = pull.run(&Store::temp().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let text = error.to_string();
        for part in ["/token: 401", "pulling me/app:1", &server.authority()] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(error.remedy().is_some(), "{error}");
        assert!(!format!("{error} {error:?} {pull:?}").contains("wrong-password"), "{error:?}");
    }
}

#[test]
fn a_token_that_is_refused_is_renewed() {
    let content = content(&["one", "two"]);
    let given = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path.starts_with("/token?") {
            let n = given.fetch_add(1, Ordering::SeqCst) + 1;
            return Reply::new(200, json!({"token": "", "access_token": format!("token-{n}")}).to_string());
        }
        // The first is for the manifest, the second for blobs.
        let wanted = if request.is_blob() { "Bearer token-2" } else { "Bearer token-1" };
        match request.header("authorization") == Some(wanted) {
            true => content.reply(request),
            false => asks(&format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap())),
        }
    });
    let pull = Pull::new(server.name(NAME)).credentials(Credentials::anonymous());
    pull.run(&Store::temp().unwrap()).unwrap();
}

#[test]
fn a_refresh_token_is_sent_as_a_form() {
    let content = content(&["one"]);
    let server = Server::start(move |request| match request.header("authorization") {
        _ if request.path == "/token" => match request.body.contains("refresh_token=a%2Brefresh%2Ftoken") {
            true => Reply::new(200, json!({"access_token": TOKEN}).to_string()),
            false => Reply::new(400, ""),
        },
        Some(_) => content.reply(request),
        None => {
            asks(&format!(r#"Bearer realm="http://{}/token",service=s"#, request.header("host").unwrap()))
        }
    });
    let pull = Pull::new(server.name(NAME)).credentials(Credentials::identity_token("a+refresh/token"));
    pull.run(&Store::temp().unwrap()).unwrap();
    let log = server.take_log();
    assert!(
        log.iter()
            .any(|request| request.method == "POST" && request.body.contains("grant_type=refresh_token"))
    );
}

#[test]
fn a_password_is_sent_when_it_is_asked_for() {
    let content = content(&["one"]);
    let server = Server::start(move |request| match request.header("authorization") {
        Some(BASIC) => content.reply(request),
        _ => asks("Basic realm=\"registry\""),
    });
    let pull = Pull::new(server.name(NAME));
    pull.clone().credentials(me()).run(&Store::temp().unwrap()).unwrap();
    let error = pull.credentials(Credentials::anonymous()).run(&Store::temp().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

/// The blobs are on another host, as at every large registry: it gets no token.
#[test]
fn a_redirect_takes_no_token_along() {
    let content = content(&["one", "two"]);
    let blobs = content.clone();
    let elsewhere = Server::start(move |request| {
        let path = request.path.strip_suffix("?signature=signed-in-secret").expect("the query comes along");
        blobs.reply(&Request { path: path.to_owned(), ..request.clone() })
    });
    let there = elsewhere.authority();
    let server = Server::start(move |request| match request.header("authorization") {
        None if request.path.starts_with("/token") => Reply::new(200, json!({"token": TOKEN}).to_string()),
        None => asks(&format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap())),
        Some(_) if request.is_blob() => Reply::new(307, "")
            .with("Location", format!("http://{there}{}?signature=signed-in-secret", request.path)),
        Some(_) => content.reply(request),
    });
    let pull = Pull::new(server.name(NAME)).credentials(Credentials::anonymous());
    pull.run(&Store::temp().unwrap()).unwrap();
    let log = elsewhere.take_log();
    assert_eq!(log.len(), 3);
    assert!(log.iter().all(|request| request.header("authorization").is_none()), "{log:?}");
}

/// What the other host refuses is its own business: no token for it, and no query in the error.
#[test]
fn a_host_after_a_redirect_can_ask_for_nothing() {
    let elsewhere = Server::start(|request| {
        asks(&format!(r#"Bearer realm="http://{}/steal""#, request.header("host").unwrap()))
    });
    let (there, content) = (elsewhere.authority(), content(&["one"]));
    let server = Server::start(move |request| match request.is_blob() {
        true => Reply::new(302, "").with("Location", format!("http://{there}/x?signature=signed-in-secret")),
        false => content.reply(request),
    });
    let error = Pull::new(server.name(NAME)).credentials(me()).run(&Store::temp().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let text = error.to_string();
    for part in ["pulling me/app:1", "reading the configuration", &server.authority()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("signed-in"), "{text}");
    let log = elsewhere.take_log();
    assert!(
        log.iter().all(|request| request.path.starts_with("/x") && request.header("authorization").is_none())
    );
}

#[test]
fn a_realm_elsewhere_gets_no_password() {
    let thief = Server::start(|_| Reply::new(200, json!({"token": TOKEN}).to_string()));
    let port = thief.authority().rsplit(':').next().unwrap().to_owned();
    // The same machine under another name: for a registry without TLS another host all the same.
    for realm in [format!("http://localhost:{port}/token"), "https://thief.example/token".to_owned()] {
        let server = with_tokens(Some(realm));
        let error = Pull::new(server.name(NAME)).credentials(me()).run(&Store::temp().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        let text = error.to_string();
        for part in ["token service", "pulling me/app:1", &server.authority()] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert_eq!(thief.take_log().len(), 0);
}

#[test]
fn what_a_registry_repeats_of_a_secret_is_not_shown() {
    let server = Server::start(|request| match request.header("authorization") {
        None => asks("Basic realm=\"registry\""),
        Some(authorization) => {
            let said = format!("{authorization} {PASSWORD}\u{7}\n");
            Reply::new(403, json!({"errors": [{"code": "DENIED", "message": said}]}).to_string())
        }
    });
    let error = Pull::new(server.name(NAME)).credentials(me()).run(&Store::temp().unwrap()).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("DENIED"), "{text}");
    assert!(!text.contains(PASSWORD) && !text.contains(&BASIC[6..]) && !text.contains('\u{7}'), "{text}");
}

/// What this machine keeps: the file that is named, docker's own, and a helper program.
#[test]
fn credentials_are_found_where_docker_and_podman_keep_them() {
    if !is_own_process("auth::credentials_are_found_where_docker_and_podman_keep_them") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let content = content(&["one"]);
    let server = Server::start(move |request| match request.header("authorization") {
        Some(BASIC) => content.reply(request),
        _ => asks("Basic realm=\"registry\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let pull = || Image::pull(&Store::temp().unwrap(), &server.name(NAME));
    set("HOME", dir.path());
    assert_eq!(pull().unwrap_err().kind(), ErrorKind::PermissionDenied);

    fs::create_dir(dir.path().join(".docker")).unwrap();
    let file = dir.path().join(".docker/config.json");
    let entry = json!({"auths": {(server.authority()): {"auth": &BASIC[6..]}}}).to_string();
    fs::write(&file, &entry).unwrap();
    pull().unwrap();

    // A helper, which is asked for this registry, and counts before the entry of the file.
    let helper = dir.path().join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = {} ] && echo '{{\"Username\":\"me\",\"Secret\":\"{PASSWORD}\"}}'\n",
        server.authority()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    set("PATH", path.as_ref());
    let named = dir.path().join("named.json");
    let wrong = json!({(server.authority()): {"auth": "bWU6bm8="}});
    for config in [
        json!({"credsStore": "test"}),
        json!({"credHelpers": {(server.authority()): "test"}, "auths": wrong}),
    ] {
        fs::write(&named, config.to_string()).unwrap();
        set("REGISTRY_AUTH_FILE", &named);
        pull().unwrap();
    }
    // One that says that it has none, and one that fails.
    fs::write(&helper, "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n").unwrap();
    let error = pull().unwrap_err();
    assert!(
        error.kind() == ErrorKind::PermissionDenied && !error.to_string().contains("docker-credential"),
        "{error}"
    );
    fs::write(&helper, "#!/bin/sh\necho the keychain is locked\nexit 1\n").unwrap();
    assert!(pull().unwrap_err().to_string().contains("the keychain is locked"));
    // A file that was named has to be there.
    set("REGISTRY_AUTH_FILE", &dir.path().join("nowhere"));
    assert_eq!(pull().unwrap_err().kind(), ErrorKind::NotFound);

    // The environment's own come before the file's, where they have any for this registry.
    set("DOCKER_AUTH_CONFIG", entry.as_ref());
    pull().unwrap();
    let of = |registry: String, entry: serde_json::Value| json!({"auths": {registry: entry}}).to_string();
    set("DOCKER_AUTH_CONFIG", of("other.test".to_owned(), json!({"auth": "bWU6bm8="})).as_ref());
    assert_eq!(pull().unwrap_err().kind(), ErrorKind::NotFound);
    set("DOCKER_AUTH_CONFIG", "{\"auths\": hunter22}".as_ref());
    let error = pull().unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidData && !format!("{error:?}").contains("hunter22"), "{error}");
    // A token of which nothing has to be asked.
    let server = with_tokens(None);
    set("DOCKER_AUTH_CONFIG", of(server.authority(), json!({"registrytoken": TOKEN})).as_ref());
    Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap();
    assert!(server.take_log().iter().all(|request| !request.path.starts_with("/token")));
}
