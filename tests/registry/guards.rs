//! What a registry may not do to who asks it: hold him for ever, learn who he is by another's asking, have its words shown.

use super::auth::{BASIC, PASSWORD, asks, me};
use super::*;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Short, but not for a machine with other work.
const PATIENCE: Duration = Duration::from_millis(400);
/// Who has not ended by then would not have ended.
const FOR_EVER: Duration = Duration::from_secs(60);

/// What comes a byte at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drips {
    Head,
    /// Of known length.
    Body,
    /// The line before a chunk, in which no byte is content.
    Chunk,
    /// The words of an error.
    Words,
}

/// A registry that drips where it is told to, and is honest else.
fn dripping(content: Content, drips: Drips, at: impl Fn(&Request) -> bool + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (content, at) = (Arc::new(content), Arc::new(at));
    // It ends with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, content, at) = (connection.unwrap(), content.clone(), at.clone());
            std::thread::spawn(move || answer(&connection, &content, drips, &*at));
        }
    });
    address
}

fn answer(connection: &TcpStream, content: &Content, drips: Drips, at: &dyn Fn(&Request) -> bool) {
    let (mut input, mut output) = (BufReader::new(connection), connection);
    let Some(request) = read_head(&mut input) else { return };
    let reply = content.reply(&request);
    if !at(&request) {
        let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let _ = output.write_all(format!("{head}Content-Length: {}\r\n\r\n", reply.body.len()).as_bytes());
        let _ = output.write_all(&reply.body);
        return;
    }
    let kind = if request.is_blob() { "application/octet-stream" } else { MANIFEST };
    let head =
        |status: u16, more: &str| format!("HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\n{more}\r\n");
    let begins = match drips {
        Drips::Head => "HTTP/1.1 200 OK\r\nX-Long: ".to_owned(),
        Drips::Body => head(200, &format!("Content-Length: {}\r\n", reply.body.len())),
        Drips::Chunk => head(200, "Transfer-Encoding: chunked\r\n"),
        Drips::Words => head(404, "Content-Length: 60000\r\n"),
    };
    let _ = output.write_all(begins.as_bytes());
    let begun = Instant::now();
    while begun.elapsed() < FOR_EVER && output.write_all(b"0").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn read_head(input: &mut impl BufRead) -> Option<Request> {
    let (mut first, mut line) = (String::new(), String::new());
    input.read_line(&mut first).ok()?;
    while input.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Request { method, path, headers: Default::default(), body: String::new(), bytes: Vec::new() })
}

#[test]
fn a_registry_that_drips_holds_nobody() {
    // What can't be made smaller.
    let noise: String = (0..1000u32).map(|n| Digest::of(&n.to_le_bytes()).hex()).collect();
    let layer = tar([("noise", Node::File(noise.as_bytes()))]);
    let image = Fixture::of(vec![layer]);
    let store = Store::temp().unwrap();
    for of_layer in [false, true] {
        for drips in [Drips::Head, Drips::Body, Drips::Chunk, Drips::Words] {
            let content = Content::of(REPOSITORY, "1", &image);
            let manifest = content.json("/v2/me/app/manifests/1");
            let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
            let at = move |request: &Request| match of_layer {
                true => request.is_blob() && !request.path.ends_with(&config),
                false => request.path.contains("/manifests/"),
            };
            let registry = dripping(content, drips, at);
            let begun = Instant::now();
            let pull = Pull::new(format!("{registry}/{NAME}")).patience(PATIENCE).retries(0);
            let error = pull.run(&store).unwrap_err();
            assert!(begun.elapsed() < FOR_EVER, "{drips:?} {of_layer} {error}");
            let expected = if drips == Drips::Words { ErrorKind::NotFound } else { ErrorKind::TimedOut };
            assert_eq!(error.kind(), expected, "{drips:?} {of_layer} {error}");
            assert!(error.to_string().contains(&registry), "{error}");
        }
    }
    assert_no_image(&store);
}

/// A list, too, which has no size that anybody promised.
#[test]
fn a_catalogue_ends_in_time_and_does_not_go_in_a_circle() {
    let registry = dripping(Content::default(), Drips::Body, |request| request.path.contains("_catalog"));
    let client = RegistryClient::new(&registry).unwrap().patience(PATIENCE).retries(0);
    // Its length is that of an honest answer's.
    let error = client.repositories().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");

    let page = |names: &[&str], next: &str| {
        let next = format!("<{next}>; rel=\"next\"");
        Reply::new(200, json!({"repositories": names}).to_string()).with("Link", next)
    };
    // To itself, and to and fro.
    let server = Server::start(move |request| match request.path.contains("last=b") {
        true => page(&["b"], "/v2/_catalog?last=a"),
        false => page(&["a"], "/v2/_catalog?last=b"),
    });
    let client = RegistryClient::new(&server.authority()).unwrap().retries(0);
    let error = client.repositories().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert_eq!(server.take_log().len(), 3);
}

/// RFC 9110, 10.2.3: seconds or a date.
#[test]
fn a_registry_is_asked_again_when_it_says() {
    let date = |seconds: u64| {
        let out = std::process::Command::new("date")
            .args(["-u", "-R", "-d", &format!("{seconds} seconds")])
            .env("LC_ALL", "C")
            .output();
        String::from_utf8(out.unwrap().stdout).unwrap().trim().replace("+0000", "GMT")
    };
    let (content, times) = (content(&["one"]), Arc::new(Mutex::new(Vec::new())));
    let asked = times.clone();
    let server = Server::start(move |request| {
        let mut asked = asked.lock().unwrap();
        asked.push(Instant::now());
        match asked.len() {
            1 => Reply::new(429, "").with("Retry-After", date(3)),
            _ => content.reply(request),
        }
    });
    Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap();
    let waited = {
        let times = times.lock().unwrap();
        times[1] - times[0]
    };
    assert!(waited > Duration::from_millis(1500), "{waited:?}");

    // Later than anybody waits.
    let server = Server::start(move |_| Reply::new(503, "").with("Retry-After", date(3600)));
    let error = Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap_err();
    assert!(error.remedy().unwrap().starts_with("try again in 3"), "{error}");
    assert_eq!(server.take_log().len(), 1);
}

/// Image-spec, "Non-Distributable Layers".
#[test]
fn layers_that_are_kept_elsewhere_are_said_to_be() {
    let image = Fixture::new(&["one", "two"]);
    let made = Content::of(REPOSITORY, "1", &image);
    for media_type in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let mut content = made.clone();
        let mut manifest = content.json("/v2/me/app/manifests/1");
        let layer = &mut manifest["layers"][0];
        layer["mediaType"] = media_type.into();
        layer["urls"] = json!(["https://layers.example/one?signature=signed-in-secret", "not an address", 7]);
        let digest = layer["digest"].as_str().unwrap().to_owned();
        content.manifest(REPOSITORY, "1", MANIFEST, manifest.to_string().into_bytes());
        // One that has it all the same is as good as any.
        let server = Server::honest(content.clone());
        assert_eq!(*Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap().id(), image.id());

        let server = Server::lying(content, move |request, reply| match request.path.ends_with(&digest) {
            true => Reply::new(404, ""),
            false => reply,
        });
        let store = Store::temp().unwrap();
        let error = Image::pull(&store, &server.name(NAME)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains("kept elsewhere") && text.contains("https://layers.example/one"), "{text}");
        assert!(text.contains(&server.authority()) && !text.contains("signed-in-secret"), "{text}");
        assert_no_image(&store);
    }
}

/// Whatever of an answer an error quotes.
#[test]
fn no_part_of_an_answer_shows_a_secret() {
    let content = content(&["one"]);
    let manifest = content.json("/v2/me/app/manifests/1");
    let digest_of = |which: &str| manifest.pointer(which).unwrap().as_str().unwrap().to_owned();
    let layer = digest_of("/layers/0/digest");
    let repeats = |what: &'static str| {
        let (content, layer) = (content.clone(), layer.clone());
        Server::start(move |request| {
            if request.header("authorization") != Some(BASIC) {
                return asks("Basic realm=\"registry\"");
            }
            let secret = format!("x-{}-{PASSWORD}", &BASIC[6..]);
            let reply = content.reply(request);
            let is_manifest = request.path.contains("/manifests/");
            let is_layer = request.path.ends_with(&layer);
            match what {
                "Content-Type" if is_manifest => reply.with("Content-Type", secret),
                // Cut in its middle.
                "cut" if is_manifest => {
                    reply.with("Content-Type", format!("{}{PASSWORD}", "x".repeat(98 - PASSWORD.len() / 2)))
                }
                "mediaType" if is_manifest => {
                    let body = json!({"schemaVersion": 2, "mediaType": secret}).to_string();
                    reply.body(body).with("Docker-Content-Digest", "")
                }
                "Location" if is_manifest => {
                    Reply::new(307, "").with("Location", format!("ftp://a/{secret}"))
                }
                "circle" if is_manifest => Reply::new(307, "").with("Location", format!("/v2/{secret}")),
                "circle" => Reply::new(404, ""),
                "plain" if is_manifest => {
                    Reply::new(307, "").with("Location", format!("http://elsewhere.example/{secret}"))
                }
                // Of what broke off, another part than was asked for.
                "Content-Range" if is_layer && request.header("range").is_some() => {
                    Reply { status: 206, ..reply }.with("Content-Range", format!("bytes {secret}"))
                }
                "Content-Range" if is_layer => {
                    let half = reply.body[..reply.body.len() / 2].to_vec();
                    Reply { body: half, ..reply }
                }
                _ => reply,
            }
        })
    };
    for what in ["Content-Type", "cut", "mediaType", "Location", "circle", "plain", "Content-Range"] {
        let server = repeats(what);
        let pull = Pull::new(server.name(NAME)).credentials(me());
        let error = pull.run(&Store::temp().unwrap()).unwrap_err();
        let text = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(!text.contains(&PASSWORD[..8]) && !text.contains(&BASIC[6..]), "{what}: {text}");
        if what != "Location" {
            assert!(text.contains('…'), "{what}: {text}");
        }
    }
    // What a push is told.
    let store = Store::temp().unwrap();
    let image = Image::pull(&store, &Server::honest(content.clone()).name(NAME)).unwrap();
    let server = Server::start(move |request| match request.header("authorization") {
        Some(BASIC) => Reply::new(200, "").with("Docker-Content-Digest", format!("{PASSWORD} {BASIC}")),
        _ => asks("Basic realm=\"registry\""),
    });
    let error = coracle::Push::new(server.name(NAME)).credentials(me()).run(&image).unwrap_err();
    let text = format!("{error}");
    assert!(text.contains('…') && !text.contains(PASSWORD) && !text.contains(&BASIC[6..]), "{text}");
    // And a list.
    let server = Server::start(move |request| match request.header("authorization") {
        Some(BASIC) => Reply::new(200, json!({"repositories": [PASSWORD, "UPPER"]}).to_string())
            .with("Link", format!("<http://elsewhere.example/{PASSWORD}>; rel=\"next\"")),
        _ => asks("Basic realm=\"registry\""),
    });
    let client = RegistryClient::new(&server.authority()).unwrap().credentials(me());
    let text = client.repositories().unwrap_err().to_string();
    assert!(text.contains('…') && !text.contains(PASSWORD), "{text}");
}

/// docker's: who keeps a registry's credentials is asked alone.
#[test]
fn a_helper_is_asked_in_place_of_the_file() {
    if !is_own_process("guards::a_helper_is_asked_in_place_of_the_file") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let content = content(&["one"]);
    let server = Server::start(move |request| match request.header("authorization") {
        Some(authorization) if authorization == BASIC => content.reply(request),
        _ => asks("Basic realm=\"registry\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let helper = |name: &str, secret: Option<&str>| {
        let path = dir.path().join(format!("docker-credential-{name}"));
        let says = match secret {
            Some(secret) => format!("echo '{{\"Username\":\"me\",\"Secret\":\"{secret}\"}}'"),
            None => "echo credentials not found in native keychain; exit 1".to_owned(),
        };
        fs::write(&path, format!("#!/bin/sh\n{says}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("right", Some(PASSWORD));
    helper("stale", Some("of-last-year"));
    helper("none", None);
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    super::auth::set("PATH", path.as_ref());
    let file = dir.path().join("config.json");
    super::auth::set("REGISTRY_AUTH_FILE", &file);
    let host = server.authority();
    let (right, stale) = (json!({(&host): {"auth": &BASIC[6..]}}), json!({(&host): {"auth": "bWU6bm8="}}));
    for (config, lets_in) in [
        (json!({"auths": right}), true),
        (json!({"auths": stale}), false),
        (json!({"auths": stale, "credsStore": "right"}), true),
        (json!({"auths": right, "credsStore": "stale"}), false),
        // What it does not have nobody has.
        (json!({"auths": right, "credsStore": "none"}), false),
        (json!({"auths": stale, "credsStore": "stale", "credHelpers": {(&host): "right"}}), true),
        (json!({"auths": right, "credsStore": "right", "credHelpers": {(&host): "stale"}}), false),
        (json!({"auths": right, "credsStore": "right", "credHelpers": {(&host): "none"}}), false),
        (json!({"credsStore": "right", "credHelpers": {"another.example": "stale"}}), true),
    ] {
        fs::write(&file, config.to_string()).unwrap();
        let pulled = Image::pull(&Store::temp().unwrap(), &server.name(NAME));
        assert_eq!(pulled.is_ok(), lets_in, "{config} {:?}", pulled.err());
    }
}
