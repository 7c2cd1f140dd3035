//! What is pushed, and what travels.

use super::writable::*;
use super::*;
use coracle::{Compression, Push, PushEvent, Sent};

/// A registry that takes what comes, with what a test makes of its answers.
pub fn writable(
    lie: impl Fn(&Request, &dyn Fn() -> Reply) -> Reply + Send + Sync + 'static,
) -> (Arc<Writable>, Server) {
    let registry = Arc::new(Writable::default());
    let held = registry.clone();
    (registry, Server::start(move |request| lie(request, &|| held.reply(request))))
}

pub fn honest() -> (Arc<Writable>, Server) {
    writable(|_, honest| honest())
}

/// An image that came from no registry, its layers compressed.
pub fn loaded(store: &Store, image: &Fixture, name: &str) -> Image {
    let archive = pack(&oci_members(image, Some(name), "+gzip", gzip));
    Image::load_reader(store, &archive[..]).unwrap().remove(0)
}

/// What happens in a push, by layer, and the requests of it.
fn told(push: Push) -> (Push, Arc<Mutex<Vec<PushEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    (push.observe(move |event| told.lock().unwrap().push(event.clone())), events)
}

fn ways(events: &Mutex<Vec<PushEvent>>) -> Vec<Sent> {
    let mut done: Vec<_> = std::mem::take(&mut *events.lock().unwrap())
        .into_iter()
        .filter_map(|event| match event {
            PushEvent::Done { layer, sent } => Some((layer, sent)),
            _ => None,
        })
        .collect();
    done.sort_by_key(|(layer, _)| layer.to_string());
    done.into_iter().map(|(_, sent)| sent).collect()
}

/// How many requests of each kind.
fn verbs(log: &[Request]) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for request in log {
        let kind = if request.is_blob() { "blob" } else { "manifest" };
        *counts.entry(format!("{} {kind}", request.method)).or_default() += 1;
    }
    counts.into_iter().collect()
}

fn want(counts: &[(&str, usize)]) -> Vec<(String, usize)> {
    counts.iter().map(|(verb, count)| ((*verb).to_owned(), *count)).collect()
}

#[test]
fn what_is_pushed_is_pulled_again_byte_for_byte() {
    let (_, server) = honest();
    let store = Store::temp().unwrap();
    let image = loaded(&store, &Fixture::new(&["one", "two"]), "app:1");
    let (push, events) = told(Push::new(server.name(NAME)));
    let pushed = push.run(&image).unwrap();
    assert_eq!((pushed.digest, pushed.media_type.as_str()), (*image.digest(), MANIFEST));
    let log = server.take_log();
    let all = [("HEAD blob", 3), ("POST blob", 3), ("PUT blob", 3), ("PUT manifest", 1)];
    assert_eq!(verbs(&log), want(&all));
    // The configuration after the layers, the manifest after all.
    assert!(log[log.len() - 2].bytes == image.config().json().as_bytes());
    assert!(log[log.len() - 1].bytes == image.manifest_json().as_bytes());
    for put in log.iter().filter(|request| request.method == "PUT" && request.is_blob()) {
        assert_eq!(put.header("content-length"), Some(put.bytes.len().to_string().as_str()));
        assert_eq!(put.header("transfer-encoding"), None);
    }
    let seen = std::mem::take(&mut *events.lock().unwrap());
    assert!(matches!(&seen[0], PushEvent::Started { layers } if layers == image.layer_descriptors()));
    for layer in image.layer_descriptors() {
        let whole = |event: &PushEvent| matches!(event, PushEvent::Bytes { layer: of, done, size } if (*of, *done, *size) == (layer.digest, layer.size, layer.size));
        assert!(seen.iter().any(whole), "{seen:?}");
    }

    let elsewhere = Store::temp().unwrap();
    let again = Image::pull(&elsewhere, &server.name(NAME)).unwrap();
    assert_eq!(again.digest(), image.digest());
    assert!(elsewhere.verify().unwrap().is_sound());
    server.take_log();

    // It is there: a question for each blob, and the manifest.
    push.run(&image).unwrap();
    assert_eq!(ways(&events), [Sent::Exists, Sent::Exists]);
    assert_eq!(verbs(&server.take_log()), want(&[("HEAD blob", 3), ("PUT manifest", 1)]));
    // And by another tag, and by its digest.
    image.push(&server.name("me/app:2")).unwrap();
    image.push(&server.name(&format!("me/app@{}", image.digest()))).unwrap();
    let puts: Vec<_> = server.take_log().into_iter().filter(|request| request.method == "PUT").collect();
    assert_eq!(puts[0].path, "/v2/me/app/manifests/2");
    assert_eq!(puts[1].path, format!("/v2/me/app/manifests/{}", image.digest()));
}

#[test]
fn of_a_child_its_own_layer_travels() {
    let (_, server) = honest();
    let store = Store::temp().unwrap();
    loaded(&store, &Fixture::new(&["base", "more"]), "base:1").push(&server.name(NAME)).unwrap();
    let child = loaded(&store, &Fixture::new(&["base", "more", "child"]), "child:1");
    server.take_log();
    child.push(&server.name("me/app:2")).unwrap();
    let sent: Vec<_> = server
        .take_log()
        .into_iter()
        .filter(|request| request.method == "PUT" && request.is_blob())
        .collect();
    assert_eq!(sent.len(), 2, "its layer and its configuration");
    assert_eq!(Digest::of(&sent[0].bytes), child.layer_descriptors()[2].digest);
}

#[test]
fn what_another_repository_has_is_mounted() {
    let (registry, server) = honest();
    let (_, stranger) = honest();
    let store = Store::temp().unwrap();
    let base = loaded(&store, &Fixture::new(&["base"]), "base:1");
    // Known by a push to one registry, and to be kept from the other; a name that was only given here is nobody's business.
    base.push(&server.name("team/base:1")).unwrap();
    base.tag(&server.name("private/name:1")).unwrap();
    let child = loaded(&store, &Fixture::new(&["base", "child"]), "child:1");
    server.take_log();
    let (push, events) = told(Push::new(server.name("team/child:1")));
    push.run(&child).unwrap();
    let mut all = ways(&events);
    all.sort_by_key(|sent| format!("{sent:?}"));
    assert_eq!(all, [Sent::Mounted { from: "team/base".into() }, Sent::Uploaded]);
    let log = server.take_log();
    let mounts: Vec<_> =
        log.iter().filter(|request| request.path.contains("mount=")).map(|request| &request.path).collect();
    let layer = child.layer_descriptors()[0].digest.to_string().replace(':', "%3A");
    assert_eq!(mounts, [&format!("/v2/team/child/blobs/uploads/?mount={layer}&from=team%2Fbase")]);
    assert_eq!(
        log.iter().filter(|request| request.method == "PUT").count(),
        3,
        "a layer, the configuration, the manifest"
    );
    assert!(!log.iter().any(|request| request.path.contains("private")));

    // Pulled from there, in another store, it is known too.
    let other = Store::temp().unwrap();
    let pulled = Image::pull(&other, &server.name("team/child:1")).unwrap();
    server.take_log();
    pulled.push(&server.name("copy:1")).unwrap();
    let log = server.take_log();
    assert_eq!(verbs(&log), want(&[("HEAD blob", 3), ("POST blob", 3), ("PUT manifest", 1)]));

    // Where it is gone again it is sent, with the upload that the question began.
    registry.0.lock().unwrap().remove("copy");
    registry.0.lock().unwrap().remove("team/child");
    registry.0.lock().unwrap().remove("team/base");
    pulled.push(&server.name("copy:1")).unwrap();
    let all = [("HEAD blob", 3), ("POST blob", 3), ("PUT blob", 3), ("PUT manifest", 1)];
    assert_eq!(verbs(&server.take_log()), want(&all));
    // Another registry is told nothing of it.
    child.push(&stranger.name("copy:1")).unwrap();
    assert!(!stranger.take_log().iter().any(|request| request.path.contains("from=")));
}

#[test]
fn plain_layers_are_compressed_on_their_way_and_always_to_the_same() {
    let (registry, server) = honest();
    let (base, image) = (Fixture::new(&["one"]), Fixture::new(&["one", "two"]));
    let store = Store::temp().unwrap();
    let archive = docker_archive(&[(&image, &["app:1"]), (&base, &["base:1"])]);
    Image::load_reader(&store, &archive[..]).unwrap();
    let (image, base) = (store.image("app:1").unwrap(), store.image("base:1").unwrap());
    let layers = |tag: &str| {
        let repositories = registry.0.lock().unwrap();
        let repository = &repositories["me/app"];
        let text: serde_json::Value = serde_json::from_slice(&repository.manifests[tag].1).unwrap();
        let layers = text["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| {
                let digest = layer["digest"].as_str().unwrap();
                let head = repository.blobs[digest][..4].to_vec();
                (layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned(), head)
            })
            .collect::<Vec<_>>()
    };
    Push::new(server.name("me/app:base")).run(&base).unwrap();
    server.take_log();
    let (push, events) = told(Push::new(server.name(NAME)));
    let packed = || -> std::collections::BTreeSet<_> {
        let events = std::mem::take(&mut *events.lock().unwrap());
        let layers = events.into_iter().filter_map(|event| match event {
            PushEvent::Packed { layer, .. } => Some(layer.to_string()),
            _ => None,
        });
        layers.collect()
    };
    let pushed = push.run(&image).unwrap();
    assert_ne!(pushed.digest, *image.digest());
    let upper = image.layer_descriptors()[1].digest.to_string();
    assert_eq!(packed(), [upper].into(), "what the lower one becomes is known");
    let puts = server.take_log().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(puts, 3, "the lower layer became the same as before");
    assert!(layers("1").iter().all(|(kind, head)| kind == "tar+gzip" && head[..2] == [0x1f, 0x8b]));
    let pulled = Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap();
    assert_eq!((pulled.id(), *pulled.digest()), (image.id(), pushed.digest));
    assert!(pulled.store().verify().unwrap().is_sound());
    server.take_log();
    assert_eq!(push.run(&image).unwrap(), pushed);
    assert_eq!(
        (packed(), verbs(&server.take_log())),
        ([].into(), want(&[("HEAD blob", 3), ("PUT manifest", 1)]))
    );
    // Where it is not there it is made anew, and is the same.
    let (_, other) = honest();
    assert_eq!(image.push(&other.name(NAME)).unwrap(), pushed);
    assert_eq!(count(store.path().join("tmp")), 0);

    // As they are, by choice; and those that came so from a registry always.
    let none = Push::new(server.name("me/app:plain")).compression(Compression::None).run(&image).unwrap();
    assert_eq!(none.digest, *image.digest());
    assert!(layers("plain").iter().all(|(kind, _)| kind == "tar"));
    let plain = Image::pull(&Store::temp().unwrap(), &server.name("me/app:plain")).unwrap();
    assert_eq!(plain.push(&server.name("me/app:again")).unwrap().digest, *image.digest());

    #[cfg(feature = "zstd")]
    {
        let fresh = Store::temp().unwrap();
        let image = Image::load_reader(&fresh, &archive[..]).unwrap().remove(0);
        let push = Push::new(server.name("me/app:zstd")).compression(Compression::Zstd);
        push.run(&image).unwrap();
        assert!(
            layers("zstd")
                .iter()
                .all(|(kind, head)| kind == "tar+zstd" && head[..] == [0x28, 0xb5, 0x2f, 0xfd])
        );
        let pulled = Image::pull(&Store::temp().unwrap(), &server.name("me/app:zstd")).unwrap();
        assert_eq!(pulled.id(), image.id());
        // What is compressed already stays.
        assert_eq!(push.run(&pulled).unwrap().digest, *pulled.digest());
    }
}

/// A store as another tool leaves it, with an index of this machine's image and another one: the index, and that one.
pub fn for_two_machines(path: &std::path::Path) -> (String, Fixture) {
    let host = Fixture::new(&["host"]);
    let other = Fixture::of_machine(vec![tar([("x", Node::File(b"other"))])], "riscv64");
    let mut members = std::collections::BTreeMap::new();
    let mut listed = Vec::new();
    for (image, architecture) in
        [(&host, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }), (&other, "riscv64")]
    {
        let mut parts: std::collections::BTreeMap<_, _> =
            oci_members(image, None, "", <[u8]>::to_vec).into_iter().collect();
        let index: serde_json::Value = serde_json::from_slice(&parts.remove("index.json").unwrap()).unwrap();
        let mut entry = index["manifests"][0].clone();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        listed.push(entry);
        members.extend(parts);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).to_string();
    let digest = Digest::of(index.as_bytes());
    members.insert(format!("blobs/sha256/{}", digest.hex()), index.clone().into_bytes());
    let named = json!({"org.opencontainers.image.ref.name": "app:1"});
    let top = json!({"schemaVersion": 2, "manifests": [{"mediaType": INDEX, "digest": digest, "size": index.len(), "annotations": named}]});
    members.insert("index.json".into(), top.to_string().into_bytes());
    write_layout(path, &members.into_iter().collect::<Vec<_>>());
    (index, other)
}

#[test]
fn an_index_is_pushed_when_all_of_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (index, other) = for_two_machines(&path);
    let digest = Digest::of(index.as_bytes());
    let store = Store::open(&path).unwrap();
    let image = store.image("app:1").unwrap();

    let (registry, server) = honest();
    let pushed = image.push(&server.name(NAME)).unwrap();
    assert_eq!((pushed.digest, pushed.media_type.as_str()), (digest, INDEX));
    assert_eq!(registry.0.lock().unwrap()["me/app"].manifests["1"].1, index.as_bytes());
    let pull = Pull::new(server.name(NAME)).platform("linux/riscv64".parse().unwrap());
    assert_eq!(*pull.run(&Store::temp().unwrap()).unwrap().id(), other.id());

    // Without a layer of the other machine's it is this machine's image.
    fs::remove_file(path.join("blobs/sha256").join(Digest::of(&other.layers[0]).hex())).unwrap();
    let (_, server) = honest();
    let (push, events) = told(Push::new(server.name(NAME)));
    let pushed = push.run(&image).unwrap();
    assert!(
        matches!(events.lock().unwrap()[0], PushEvent::OnePlatform { index, manifest } if (index, manifest) == (digest, *image.digest()))
    );
    // Its layer was plain.
    assert_eq!(pushed.media_type, MANIFEST);
    assert_eq!(Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap().id(), image.id());
}

#[test]
fn what_may_pass_is_tried_again() {
    for (status, headers) in [(429, &[("Retry-After", "0")][..]), (500, &[]), (503, &[])] {
        let count = AtomicUsize::new(0);
        let (_, server) = writable(move |_, honest| match (count.fetch_add(1, Ordering::SeqCst), honest()) {
            // Each request fails once, whatever it did.
            (n, _) if n % 2 == 0 => {
                headers.iter().fold(Reply::new(status, ""), |reply, (name, value)| reply.with(name, *value))
            }
            (_, reply) => reply,
        });
        let store = Store::temp().unwrap();
        let image = loaded(&store, &Fixture::new(&["x"]), "app:1");
        Push::new(server.name(NAME)).parallel(1).run(&image).unwrap();
        let log = server.take_log();
        // A PUT that failed begins anew: it is asked for, and is there after all.
        let all = [("HEAD blob", 6), ("POST blob", 4), ("PUT blob", 2), ("PUT manifest", 2)];
        assert_eq!(verbs(&log), want(&all), "{status}");
    }
}

#[test]
fn an_upload_that_breaks_or_vanishes_begins_anew() {
    for vanishes in [false, true] {
        let count = AtomicUsize::new(0);
        let (_, server) = writable(move |request, honest| {
            let first =
                request.method == "PUT" && request.is_blob() && count.fetch_add(1, Ordering::SeqCst) == 0;
            match (first, vanishes) {
                (true, true) => Reply::new(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#),
                (true, false) => Reply::none(),
                _ => honest(),
            }
        });
        let store = Store::temp().unwrap();
        let image = loaded(&store, &Fixture::new(&["x"]), "app:1");
        image.push(&server.name(NAME)).unwrap();
        let log = server.take_log();
        let uploads: Vec<_> =
            log.iter().filter(|request| request.method == "PUT" && request.is_blob()).collect();
        assert_eq!(uploads.len(), 3, "a layer twice, and the configuration");
        assert_ne!(uploads[0].path, uploads[1].path);
        assert_eq!(uploads[0].bytes, uploads[1].bytes);
    }
}

/// The uploads are on another host: it gets no token, whether an address or a redirect leads there.
#[test]
fn an_upload_elsewhere_takes_no_token_along() {
    for redirect in [false, true] {
        let registry = Arc::new(Writable::default());
        let held = registry.clone();
        let elsewhere = Server::start(move |request| held.reply(request));
        let (there, held) = (elsewhere.authority(), registry.clone());
        let server = Server::start(move |request| match request.header("authorization") {
            None if request.path.starts_with("/token") => {
                Reply::new(200, json!({"token": "token-of-some-length"}).to_string())
            }
            None => Reply::new(401, "").with(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap()),
            ),
            Some(_) if redirect && request.method == "PUT" && request.is_blob() => {
                Reply::new(307, "").with("Location", format!("http://{there}{}", request.path))
            }
            Some(_) => {
                let reply = held.reply(request);
                match reply.headers.iter().find(|(name, _)| name == "Location").cloned() {
                    Some((_, location)) if !redirect => {
                        reply.with("Location", format!("http://{there}{location}"))
                    }
                    _ => reply,
                }
            }
        });
        let store = Store::temp().unwrap();
        // Large enough to be announced before it is sent.
        let image = loaded(&store, &noise(2_000_000), "app:1");
        let push = Push::new(server.name(NAME)).credentials(Credentials::anonymous());
        push.run(&image).unwrap();
        let log = elsewhere.take_log();
        assert_eq!(log.len(), 2, "{redirect}");
        assert!(
            log.iter().all(|request| request.method == "PUT" && request.header("authorization").is_none())
        );
        assert_eq!(
            Image::pull(&Store::temp().unwrap(), &elsewhere.name(NAME)).unwrap().digest(),
            image.digest()
        );
    }
}

#[test]
fn tokens_are_for_pushing_and_for_where_blobs_are_mounted_from() {
    for strict in [false, true] {
        let (_, first) = honest();
        let store = Store::temp().unwrap();
        let registry = Arc::new(Writable::default());
        let held = registry.clone();
        let server = Server::start(move |request| {
            if request.path.starts_with("/token") {
                // One that refuses all where it does not grant all.
                let refused =
                    strict && request.path.contains("team%2Fbase") && request.path.contains("me%2Fapp");
                return match refused {
                    true => Reply::new(403, ""),
                    false => Reply::new(
                        200,
                        json!({"token": format!("for {}", request.path).replace(' ', "-")}).to_string(),
                    ),
                };
            }
            let name = request.path.split("/v2/").nth(1).unwrap();
            let name = ["team/base", "me/app"].into_iter().find(|known| name.starts_with(known)).unwrap();
            let token = request.header("authorization").unwrap_or_default();
            let allowed = token.contains(&format!("{}%3Apull%2Cpush", name.replace('/', "%2F")));
            let mounts = !request.path.contains("from=") || token.contains("team%2Fbase%3Apull");
            match allowed && mounts {
                true => held.reply(request),
                // As it is asked for when a blob is looked for.
                false => Reply::new(401, "").with(
                    "WWW-Authenticate",
                    format!(
                        r#"Bearer realm="http://{}/token",service=s,scope="repository:{name}:pull""#,
                        request.header("host").unwrap()
                    ),
                ),
            }
        });
        drop(first);
        let image = loaded(&store, &Fixture::new(&["x"]), "app:1");
        let push = |name: &str| Push::new(server.name(name)).credentials(Credentials::anonymous());
        push("team/base:1").run(&image).unwrap();
        server.take_log();
        let (push, events) = told(push(NAME));
        push.run(&image).unwrap();
        let log = server.take_log();
        let tokens: Vec<_> = log
            .iter()
            .filter(|request| request.path.starts_with("/token"))
            .map(|request| request.path.as_str())
            .collect();
        let own = "/token?service=s&scope=repository%3Ame%2Fapp%3Apull%2Cpush";
        let both = format!("{own}&scope=repository%3Ateam%2Fbase%3Apull");
        let mounted = Sent::Mounted { from: "team/base".into() };
        match strict {
            false => assert_eq!((tokens, ways(&events)), (vec![both.as_str()], vec![mounted])),
            true => {
                assert_eq!(tokens[..2], [both.as_str(), own]);
                assert_eq!(ways(&events), [Sent::Uploaded]);
            }
        }
    }
}

#[test]
fn what_is_damaged_in_the_store_does_not_get_whole() {
    let (registry, server) = honest();
    let store = Store::temp().unwrap();
    let image = loaded(&store, &noise(300_000), "app:1");
    let layer = image.layer_descriptors()[0].digest;
    let path = store.path().join("blobs/sha256").join(layer.hex());
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[1000] ^= 1;
    for (content, kind) in
        [(bad, ErrorKind::Mismatch), (good[..good.len() - 1].to_vec(), ErrorKind::NotFound)]
    {
        fs::write(&path, content).unwrap();
        let error = image.push(&server.name(NAME)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(&layer.to_string()) && error.remedy().is_some(), "{error}");
        let repositories = registry.0.lock().unwrap();
        assert!(
            repositories.get("me/app").is_none_or(|app| app.blobs.is_empty() && app.manifests.is_empty())
        );
    }
    fs::write(&path, good).unwrap();
    image.push(&server.name(NAME)).unwrap();
}

#[test]
fn what_can_not_be_pushed_says_so() {
    let (_, server) = honest();
    let store = Store::temp().unwrap();
    let image = loaded(&store, &Fixture::new(&["x"]), "app:1");
    let other = format!("me/app@{}", Digest::of(b"another"));
    for (image, name, kind) in [
        (&image, "Not/A/Name".to_owned(), ErrorKind::InvalidInput),
        (&image, server.name(&other), ErrorKind::InvalidInput),
        (&Image::host(&store).unwrap(), server.name(NAME), ErrorKind::Unsupported),
    ] {
        let error = image.push(&name).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert!(server.take_log().iter().all(|request| !request.path.contains("manifests")));
}

/// A server, or a proxy in front of it, that knows no expectations (RFC 9110, 10.1.1).
#[test]
fn who_does_not_know_what_is_expected_is_sent_it_unasked() {
    let (_, server) = writable(|request, honest| match request.header("expect") {
        Some(_) => Reply::new(417, ""),
        None => honest(),
    });
    let store = Store::temp().unwrap();
    let image = loaded(&store, &noise(3_000_000), "large:1");
    Push::new(server.name(NAME)).retries(0).run(&image).unwrap();
    let log = server.take_log();
    let asked = log.iter().filter(|request| request.header("expect").is_some());
    assert_eq!(asked.count(), 1);
    assert_eq!(Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap().digest(), image.digest());
}
