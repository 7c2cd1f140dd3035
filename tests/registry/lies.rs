//! A registry that lies, one test a lie: a typed error that names registry, repository and step; nothing of it stays, and the
//! next pull works.

use super::*;

/// Pulls from a registry that lies, and then from one that does not.
#[track_caller]
fn lie(kind: ErrorKind, says: &str, lie: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) {
    let honest = content(&["one", "two"]);
    lie_with(&honest.clone(), kind, says, lie);
}

#[track_caller]
pub fn lie_with(
    content: &Content,
    kind: ErrorKind,
    says: &str,
    lie: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) {
    let lies = Arc::new(AtomicUsize::new(1));
    let lying = lies.clone();
    let server = Server::lying(content.clone(), move |request, reply| match lying.load(Ordering::SeqCst) {
        0 => reply,
        _ => lie(request, reply),
    });
    let store = Store::temp().unwrap();
    let pull = Pull::new(server.name(NAME)).retries(1).credentials(Credentials::anonymous());
    let error = pull.run(&store).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in [says, "pulling me/app:1", &server.authority()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_no_image(&store);
    if !matches!(kind, ErrorKind::Network | ErrorKind::TimedOut) {
        for room in ["blobs/sha256", "layers"] {
            assert_eq!(count(store.path().join(room)), 0, "{room}");
        }
    }
    lies.store(0, Ordering::SeqCst);
    pull.run(&store).unwrap();
}

/// Whether it asks for a layer: they are the blobs that are gzip.
pub fn is_layer(request: &Request, reply: &Reply) -> bool {
    request.is_blob() && reply.body.starts_with(&[0x1f, 0x8b])
}

pub fn is_tag(request: &Request) -> bool {
    request.path.ends_with("/manifests/1")
}

#[test]
fn a_layer_of_another_digest() {
    lie(ErrorKind::Mismatch, "its content has digest", |request, mut reply| {
        if is_layer(request, &reply) {
            // The time in gzip's head: nothing else could tell.
            reply.body[4] ^= 1;
        }
        reply
    });
}

#[test]
fn a_layer_of_another_content() {
    lie(ErrorKind::Mismatch, "its content has digest", |request, reply| match is_layer(request, &reply) {
        true => {
            let size = reply.body.len();
            reply.body(vec![0; size])
        }
        false => reply,
    });
}

#[test]
fn a_layer_of_another_size() {
    lie(ErrorKind::Mismatch, "instead of the promised", |request, reply| match is_layer(request, &reply) {
        true => {
            let longer = [&reply.body[..], b"more"].concat();
            reply.body(longer)
        }
        false => reply,
    });
}

#[test]
fn a_layer_that_is_short() {
    lie(ErrorKind::Mismatch, "instead of the promised", |request, reply| match is_layer(request, &reply) {
        true => {
            let short = reply.body[..reply.body.len() / 2].to_vec();
            reply.body(short)
        }
        false => reply,
    });
}

#[test]
fn a_layer_that_breaks_off() {
    lie(ErrorKind::Network, "/v2/me/app/blobs/sha256:", |request, mut reply| {
        if is_layer(request, &reply) || request.header("range").is_some() {
            reply.body.truncate(20);
        }
        reply
    });
}

#[test]
fn a_layer_without_length_that_ends_early() {
    lie(ErrorKind::Mismatch, "instead of the promised", |request, mut reply| {
        if request.header("range").is_some() {
            return Reply::new(416, "");
        }
        if is_layer(request, &reply) {
            reply.body.truncate(30);
            reply.length = None;
        }
        reply
    });
}

#[test]
fn a_layer_without_end() {
    lie(ErrorKind::Mismatch, "instead of the promised", |request, mut reply| {
        if is_layer(request, &reply) {
            (reply.length, reply.endless) = (None, true);
        }
        reply
    });
}

#[test]
fn a_manifest_without_end() {
    lie(ErrorKind::TooLarge, "more than 4194304 bytes", |request, mut reply| {
        if is_tag(request) {
            reply.body = vec![b' '; 64 << 10];
            (reply.length, reply.endless) = (None, true);
        }
        reply
    });
}

#[test]
fn a_manifest_of_more_than_four_megabytes() {
    lie(ErrorKind::TooLarge, "more than 4194304 bytes", |request, reply| match is_tag(request) {
        true => reply.body(vec![b' '; (4 << 20) + 1]),
        false => reply,
    });
}

#[test]
fn a_manifest_of_another_digest_than_it_says() {
    lie(ErrorKind::Mismatch, "/manifests/1", |request, reply| match is_tag(request) {
        true => reply.with("Docker-Content-Digest", Digest::of(b"another").to_string()),
        false => reply,
    });
}

#[test]
fn a_page_in_place_of_a_manifest() {
    lie(ErrorKind::InvalidData, "text/html", |request, reply| match is_tag(request) {
        true => reply.body("<html>log in</html>").with("Content-Type", "text/html; charset=utf-8"),
        false => reply,
    });
}

#[test]
fn a_manifest_under_the_type_of_an_index() {
    lie(ErrorKind::InvalidData, "under the type", |request, reply| match is_tag(request) {
        true => reply.with("Content-Type", INDEX),
        false => reply,
    });
}

#[test]
fn a_manifest_that_is_also_an_index() {
    lie(ErrorKind::InvalidData, "both a manifest and an index", |request, reply| {
        instead(request, reply, |both| both["manifests"] = json!([]))
    });
}

#[test]
fn a_manifest_of_the_old_schema() {
    lie(ErrorKind::Unsupported, "schema version 1", |request, reply| match is_tag(request) {
        true => reply.with("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        false => reply,
    });
}

#[test]
fn indexes_in_indexes_without_end() {
    lie(ErrorKind::InvalidData, "indexes only", |request, reply| {
        if !request.path.contains("/manifests/") {
            return reply;
        }
        // Each leads to the next, whose digest is made up: the last one is never asked for.
        let level = |depth: usize| {
            let mut raw = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[]}}"#);
            for _ in 0..depth {
                let (digest, size) = (Digest::of(raw.as_bytes()), raw.len());
                raw = format!(
                    r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{INDEX}","digest":"{digest}","size":{size}}}]}}"#
                );
            }
            raw
        };
        let all: Vec<_> = (0..8).map(level).collect();
        let asked = request.path.rsplit('/').next().unwrap();
        let found = all.iter().find(|raw| Digest::of(raw.as_bytes()).to_string() == asked).unwrap_or(&all[7]);
        Reply::new(200, found.clone()).with("Content-Type", INDEX)
    });
}

#[test]
fn redirects_in_a_circle() {
    lie(ErrorKind::InvalidData, "more than 10 redirects", |request, reply| match request.is_blob() {
        true => Reply::new(307, "").with("Location", request.path.clone()),
        false => reply,
    });
}

#[test]
fn a_redirect_to_nowhere() {
    lie(ErrorKind::InvalidData, "redirect", |request, reply| match request.is_blob() {
        true => Reply::new(307, ""),
        false => reply,
    });
}

#[test]
fn a_redirect_to_another_machine_without_tls() {
    // 192.0.2.0/24 is for documents (RFC 5737): nothing is sent there, as it is refused before.
    lie(ErrorKind::InvalidData, "plain HTTP to another machine", |request, reply| match request.is_blob() {
        true => Reply::new(307, "").with("Location", "http://192.0.2.1/x"),
        false => reply,
    });
}

#[test]
fn a_redirect_to_a_file() {
    lie(ErrorKind::InvalidData, "neither http nor https", |request, reply| match request.is_blob() {
        true => Reply::new(307, "").with("Location", "file:///etc/passwd"),
        false => reply,
    });
}

#[test]
fn a_range_that_was_not_asked_for() {
    lie_with(
        &Content::of(REPOSITORY, "1", &noise(100_000)),
        ErrorKind::InvalidData,
        "where those from",
        |request, mut reply| {
            if request.header("range").is_some() {
                return reply.with("Content-Range", "bytes 5-9/100");
            }
            if is_layer(request, &reply) {
                reply.body.truncate(50_000);
            }
            reply
        },
    );
}

/// Answers with another manifest, made of the one that is there.
fn instead(request: &Request, reply: Reply, change: impl Fn(&mut serde_json::Value)) -> Reply {
    if !is_tag(request) {
        return reply;
    }
    let mut manifest: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    change(&mut manifest);
    let manifest = manifest.to_string();
    let digest = Digest::of(manifest.as_bytes()).to_string();
    reply.body(manifest).with("Docker-Content-Digest", digest)
}

#[test]
fn a_manifest_of_an_unknown_schema() {
    for version in [0, 1, 3] {
        let says = format!("schema version {version}");
        lie(ErrorKind::Unsupported, &says, move |request, reply| {
            instead(request, reply, |manifest| manifest["schemaVersion"] = version.into())
        });
    }
    lie(ErrorKind::InvalidData, "image manifest", |request, reply| {
        instead(request, reply, |manifest| manifest["schemaVersion"] = json!("2"))
    });
}

/// An index that says so is no other.
#[test]
fn an_index_of_an_unknown_schema() {
    lie(ErrorKind::Unsupported, "schema version 3", |request, reply| match is_tag(request) {
        true => {
            let index = json!({"schemaVersion": 3, "mediaType": INDEX, "manifests": []}).to_string();
            let digest = Digest::of(index.as_bytes()).to_string();
            reply.body(index).with("Content-Type", INDEX).with("Docker-Content-Digest", digest)
        }
        false => reply,
    });
}

/// More layers than any image has, each of which the manifest and the configuration name.
#[test]
fn thousands_of_layers() {
    for layers in [1000, 5000] {
        let ids: Vec<_> = (0..layers).map(|n| Digest::of(format!("{n}").as_bytes())).collect();
        let config =
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
        let config = config.to_string();
        let path = format!("/v2/me/app/blobs/{}", Digest::of(config.as_bytes()));
        lie(ErrorKind::TooLarge, "layers", move |request, reply| {
            assert!(!is_layer(request, &reply), "a layer is asked for");
            if request.path == path {
                return Reply::new(200, config.clone());
            }
            instead(request, reply, |manifest| {
                let layer = manifest["layers"][0].clone();
                manifest["config"]["digest"] = json!(Digest::of(config.as_bytes()));
                manifest["config"]["size"] = config.len().into();
                manifest["layers"] = ids
                    .iter()
                    .map(|id| {
                        let mut layer = layer.clone();
                        layer["digest"] = json!(id);
                        layer
                    })
                    .collect();
            })
        });
    }
}

/// The other way about: only the configuration has them.
#[test]
fn a_configuration_of_more_layers_than_any_image_has() {
    let ids: Vec<_> = (0..5000).map(|n| Digest::of(format!("{n}").as_bytes())).collect();
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
    let config = config.to_string();
    let path = format!("/v2/me/app/blobs/{}", Digest::of(config.as_bytes()));
    lie(ErrorKind::TooLarge, "layers", move |request, reply| match request.path == path {
        true => Reply::new(200, config.clone()),
        false => instead(request, reply, |manifest| {
            manifest["config"]["digest"] = json!(Digest::of(config.as_bytes()));
            manifest["config"]["size"] = config.len().into();
        }),
    });
}

#[test]
fn a_layer_of_a_type_that_is_none() {
    for media_type in
        ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/x-tar", "text/plain", ""]
    {
        lie(ErrorKind::Unsupported, &format!("{media_type:?}"), move |request, reply| {
            assert!(!request.is_blob(), "it is known before anything else is asked for");
            instead(request, reply, |manifest| manifest["layers"][1]["mediaType"] = media_type.into())
        });
    }
}

#[test]
fn an_artifact_is_no_image() {
    let mut content = Content::default();
    let config = json!({"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": Digest::of(b"{}"), "size": 2});
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
    content.manifest(REPOSITORY, "1", MANIFEST, manifest.to_string().into_bytes());
    let server = Server::honest(content);
    let error = Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("helm"), "{error}");
    assert_eq!(server.take_log().len(), 1);
}

#[test]
fn nobody_at_home() {
    let port = Reserved::new();
    let address = port.address;
    let error = Image::pull(&Store::temp().unwrap(), &format!("{address}/{NAME}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn what_does_not_speak_http() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut connection, _) = listener.accept().unwrap();
        connection.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").unwrap();
        let _ = connection.read(&mut [0; 1024]);
    });
    let error = Pull::new(format!("{address}/{NAME}")).retries(0).run(&Store::temp().unwrap()).unwrap_err();
    other.join().unwrap();
    assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::Network), "{error}");
}
