//! The rules of the distribution specification (1.1), a test or a row of a table for each.

use super::*;

const BLOB: &[u8] = b"0123456789";

// ---- Pull

#[test]
fn end_1_the_base_says_that_it_is_there() {
    let world = World::new();
    for path in ["/v2/", "/v2"] {
        let answer = world.get(path).expect(200);
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(answer.json(), json!({}));
    }
    world.get("/").expect(404);
    ask(world.addr(), "OPTIONS", "/v2/", &[], b"").expect(405);
}

#[test]
fn end_2_a_blob_is_pulled_and_asked_for() {
    let world = World::new();
    let digest = world.blob("me/app", BLOB);
    let path = format!("/v2/me/app/blobs/{digest}");
    for answer in [world.get(&path), world.head(&path)] {
        let answer = answer.expect(200);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(answer.header("content-length"), Some("10"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    }
    assert_eq!(world.get(&path).body, BLOB);
    assert_eq!(world.head(&path).body, b"");
    // Of another repository it is not.
    world.get(&path.replace("me/app", "me/other")).fails(404, "BLOB_UNKNOWN");
    world.head(&format!("/v2/me/app/blobs/{}", Digest::of(b"unknown"))).expect(404);
    for bad in ["sha256:123", "sha256:zz", "sha512:00", "md5:0", "latest"] {
        world.get(&format!("/v2/me/app/blobs/{bad}")).fails(400, "DIGEST_INVALID");
    }
}

#[test]
fn end_2_ranges_of_a_blob() {
    let world = World::new();
    let digest = world.blob("me/app", BLOB);
    let path = format!("/v2/me/app/blobs/{digest}");
    let tag = format!("\"{digest}\"");
    for (range, more, status, content, said) in [
        ("bytes=2-5", None, 206, &b"2345"[..], Some("bytes 2-5/10")),
        ("bytes=7-", None, 206, b"789", Some("bytes 7-9/10")),
        ("bytes=-3", None, 206, b"789", Some("bytes 7-9/10")),
        ("bytes=8-99", None, 206, b"89", Some("bytes 8-9/10")),
        ("bytes=10-", None, 416, b"", Some("bytes */10")),
        ("bytes=5-2", None, 416, b"", Some("bytes */10")),
        ("bytes=1-2,4-5", None, 200, BLOB, None),
        ("bytes=2-5", Some(tag.as_str()), 206, b"2345", Some("bytes 2-5/10")),
        ("bytes=2-5", Some("\"other\""), 200, BLOB, None),
    ] {
        let mut headers = vec![("Range", range)];
        headers.extend(more.map(|more| ("If-Range", more)));
        let answer = ask(world.addr(), "GET", &path, &headers, b"").expect(status);
        assert_eq!(answer.header("content-range"), said, "{range}");
        if status != 416 {
            assert_eq!(answer.body, content, "{range}");
        }
    }
}

#[test]
fn end_3_a_manifest_is_pulled_by_tag_and_by_digest() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let digest = world.push("me/app", "1", &image);
    let text = manifest_of(&image).to_string();
    for which in ["1".to_owned(), digest.to_string()] {
        let path = format!("/v2/me/app/manifests/{which}");
        for answer in [world.get(&path), world.head(&path)] {
            let answer = answer.expect(200);
            assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(answer.header("content-length").unwrap(), text.len().to_string());
        }
        assert_eq!(world.get(&path).body, text.as_bytes(), "the very bytes");
    }
    for (path, status, code) in [
        ("me/app/manifests/2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("me/app/manifests/{}", Digest::of(b"unknown")), 404, "MANIFEST_UNKNOWN"),
        (format!("me/other/manifests/{digest}"), 404, "MANIFEST_UNKNOWN"),
        ("me/app/manifests/sha256:bad".to_owned(), 400, "DIGEST_INVALID"),
        ("me/app/manifests/.bad".to_owned(), 400, "MANIFEST_INVALID"),
        ("Me/app/manifests/1".to_owned(), 400, "NAME_INVALID"),
    ] {
        world.get(&format!("/v2/{path}")).fails(status, code);
    }
}

// ---- Push

#[test]
fn end_4a_and_6_a_blob_is_pushed_by_post_and_put() {
    let world = World::new();
    let digest = Digest::of(BLOB);
    let place = world.begin("me/app");
    assert!(place.starts_with("/v2/me/app/blobs/uploads/"), "{place}");
    let answer = ask(world.addr(), "PUT", &format!("{place}?digest={digest}"), &[], BLOB).expect(201);
    assert_eq!(answer.header("location").unwrap(), format!("/v2/me/app/blobs/{digest}"));
    assert_eq!(answer.header("docker-content-digest").unwrap(), digest.to_string());
    assert_eq!(world.get(answer.header("location").unwrap()).expect(200).body, BLOB);
    // It is over.
    ask(world.addr(), "PUT", &format!("{place}?digest={digest}"), &[], BLOB)
        .fails(404, "BLOB_UPLOAD_UNKNOWN");
    // Chunked in HTTP's way, as docker sends what it does not know the length of.
    let place = world.begin("me/app");
    let body = "5;ext=1\r\n01234\r\n5\r\n56789\r\n0\r\nTrailer: x\r\n\r\n";
    let chunked = [("Transfer-Encoding", "chunked")];
    let path = format!("{place}?digest={digest}");
    ask(world.addr(), "PUT", &path, &chunked, body.as_bytes()).expect(201);
    // Nothing is a blob, too.
    world.blob("me/app", b"");
    assert_eq!(
        world.head(&format!("/v2/me/app/blobs/{}", Digest::of(b""))).header("content-length"),
        Some("0")
    );
}

#[test]
fn end_6_a_wrong_digest_is_refused_and_leaves_nothing() {
    let world = World::new();
    let other = Digest::of(b"something else");
    for (query, code) in [
        (format!("?digest={other}"), "DIGEST_INVALID"),
        ("?digest=sha256:bad".to_owned(), "DIGEST_INVALID"),
        (format!("?digest=sha512:{}", "0".repeat(128)), "DIGEST_INVALID"),
        (String::new(), "DIGEST_INVALID"),
    ] {
        let place = world.begin("me/app");
        ask(world.addr(), "PUT", &format!("{place}{query}"), &[], BLOB).fails(400, code);
        let path = format!("/v2/me/app/blobs/uploads/{query}");
        if !query.is_empty() {
            ask(world.addr(), "POST", &path, &[], BLOB).fails(400, code);
        }
    }
    for content in [BLOB, b"something else"] {
        world.head(&format!("/v2/me/app/blobs/{}", Digest::of(content))).expect(404);
    }
    assert_eq!(count(world.store.path().join("blobs/sha256")), 0);
}

#[test]
fn end_4b_a_blob_is_pushed_by_one_post() {
    let world = World::new();
    let digest = world.blob("me/app", BLOB);
    assert_eq!(world.get(&format!("/v2/me/app/blobs/{digest}")).body, BLOB);
}

#[test]
fn end_5_chunks_come_in_their_order() {
    let world = World::new();
    let place = world.begin("me/app");
    let patch =
        |range: &str, body: &[u8]| ask(world.addr(), "PATCH", &place, &[("Content-Range", range)], body);
    // end-13: how far it is.
    let status = || world.get(&place).expect(204).header("range").unwrap().to_owned();
    assert_eq!(status(), "0-0");
    patch("1-3", b"123").fails(416, "BLOB_UPLOAD_INVALID");
    let answer = patch("0-3", b"0123").expect(202);
    assert_eq!(answer.header("range"), Some("0-3"));
    assert_eq!(answer.header("location"), Some(place.as_str()));
    for (range, body, code, wanted) in [
        ("0-3", &b"0123"[..], "BLOB_UPLOAD_INVALID", 416),
        ("5-6", b"56", "BLOB_UPLOAD_INVALID", 416),
        ("4-9", b"45", "SIZE_INVALID", 400),
        ("4-3", b"", "BLOB_UPLOAD_INVALID", 400),
        ("bytes 4-5/10", b"45", "BLOB_UPLOAD_INVALID", 400),
        ("4", b"4", "BLOB_UPLOAD_INVALID", 400),
    ] {
        let answer = patch(range, body).fails(wanted, code);
        if wanted == 416 {
            assert_eq!(answer.header("location"), Some(place.as_str()));
            assert_eq!(answer.header("range"), Some("0-3"));
        }
        assert_eq!(status(), "0-3", "{range}");
    }
    patch("4-6", b"456").expect(202);
    let put = |range: &str, body: &[u8]| {
        let path = format!("{place}?digest={}", Digest::of(BLOB));
        ask(world.addr(), "PUT", &path, &[("Content-Range", range)], body)
    };
    put("8-9", b"89").fails(416, "BLOB_UPLOAD_INVALID");
    put("7-9", b"789").expect(201);
    assert_eq!(world.get(&format!("/v2/me/app/blobs/{}", Digest::of(BLOB))).body, BLOB);
    // Without ranges, as docker streams.
    let place = world.begin("me/app");
    for chunk in [&b"012"[..], b"3456789"] {
        ask(world.addr(), "PATCH", &place, &[], chunk).expect(202);
    }
    ask(world.addr(), "PUT", &format!("{place}?digest={}", Digest::of(BLOB)), &[], b"").expect(201);
}

#[test]
fn end_14_an_upload_is_cancelled() {
    let world = World::new();
    let place = world.begin("me/app");
    ask(world.addr(), "PATCH", &place, &[], b"0123").expect(202);
    world.delete(&place).expect(204);
    world.get(&place).fails(404, "BLOB_UPLOAD_UNKNOWN");
    world.delete(&place).fails(404, "BLOB_UPLOAD_UNKNOWN");
    // Of another repository it never was.
    let place = world.begin("me/app");
    world.get(&place.replace("me/app", "me/other")).fails(404, "BLOB_UPLOAD_UNKNOWN");
    world.get("/v2/me/app/blobs/uploads/../../x").expect(404);
}

#[test]
fn end_11_a_blob_is_mounted_or_else_uploaded() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    world.push("me/base", "1", &image);
    let digest = Digest::of(&image.layers[0]);
    let post =
        |query: &str| ask(world.addr(), "POST", &format!("/v2/me/app/blobs/uploads/?{query}"), &[], b"");
    // Where it is not, an upload begins.
    for query in [
        format!("mount={digest}&from=me/none"),
        format!("mount={}&from=me/base", Digest::of(b"unknown")),
        "mount=sha256:bad&from=me/base".into(),
        format!("mount={digest}&from=NO"),
    ] {
        let answer = post(&query).expect(202);
        assert!(answer.header("location").unwrap().contains("/uploads/"), "{query}");
    }
    world.head(&format!("/v2/me/app/blobs/{digest}")).expect(404);
    let answer = post(&format!("mount={digest}&from=me%2Fbase")).expect(201);
    assert_eq!(answer.header("location").unwrap(), format!("/v2/me/app/blobs/{digest}"));
    assert_eq!(world.get(answer.header("location").unwrap()).body, image.layers[0]);
    // From wherever it is.
    post(&format!("mount={}", Digest::of(&image.config))).expect(201);
    let manifest = manifest_of(&image);
    world.put("me/app", "1", MANIFEST, &manifest).expect(201);
    // One that waits for a manifest is mounted as well.
    let waiting = world.blob("me/base", BLOB);
    post(&format!("mount={waiting}&from=me/base")).expect(201);
}

#[test]
fn end_7_a_manifest_is_pushed() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let manifest = world.blobs("me/app", &image);
    let digest = digest_of(&manifest);
    let answer = world.put("me/app", "1", MANIFEST, &manifest).expect(201);
    assert_eq!(answer.header("docker-content-digest").unwrap(), digest.to_string());
    assert_eq!(answer.header("oci-subject"), None);
    assert_eq!(world.get(answer.header("location").unwrap()).body, manifest.to_string().as_bytes());
    world.put("me/app", &digest.to_string(), MANIFEST, &manifest).expect(201);
    // Parameters of the type are ignored; without one the manifest's own counts.
    world.put("me/app", "2", &format!("{MANIFEST}; charset=utf-8"), &manifest).expect(201);
    world.put("me/app", "3", "", &manifest).expect(201);
    assert_eq!(world.head("/v2/me/app/manifests/3").header("content-type"), Some(MANIFEST));
    // A layer that may not be pushed is elsewhere.
    let mut elsewhere = manifest.clone();
    elsewhere["layers"][0] =
        descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", b"elsewhere");
    world.put("me/app", "4", MANIFEST, &elsewhere).expect(201);
}

#[test]
fn end_7_what_is_no_manifest_is_refused() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let manifest = world.blobs("me/app", &image);
    let changed = |at: &str, value: Value| {
        let mut changed = manifest.clone();
        *changed.pointer_mut(at).unwrap() = value;
        changed
    };
    let both = json!({"schemaVersion": 2, "config": manifest["config"], "layers": [], "manifests": []});
    let unknown = descriptor(LAYER, b"unknown");
    let other = Digest::of(b"unknown").to_string();
    for (which, kind, manifest, code) in [
        ("1", MANIFEST, &json!({}), "MANIFEST_INVALID"),
        ("1", MANIFEST, &json!([]), "MANIFEST_INVALID"),
        ("1", MANIFEST, &both, "MANIFEST_INVALID"),
        ("1", MANIFEST, &changed("/schemaVersion", 1.into()), "MANIFEST_INVALID"),
        ("1", MANIFEST, &changed("/mediaType", INDEX.into()), "MANIFEST_INVALID"),
        ("1", INDEX, &manifest, "MANIFEST_INVALID"),
        ("1", "application/json", &manifest, "MANIFEST_INVALID"),
        ("1", MANIFEST, &changed("/config/digest", "sha512:00".into()), "MANIFEST_INVALID"),
        ("1", MANIFEST, &changed("/layers/0", unknown), "MANIFEST_BLOB_UNKNOWN"),
        ("1", MANIFEST, &changed("/layers/0/size", 7.into()), "SIZE_INVALID"),
        ("1", INDEX, &index_of(&[&json!({"unknown": 1})]), "MANIFEST_BLOB_UNKNOWN"),
        (&other, MANIFEST, &manifest, "DIGEST_INVALID"),
        ("sha256:bad", MANIFEST, &manifest, "DIGEST_INVALID"),
        (".1", MANIFEST, &manifest, "MANIFEST_INVALID"),
    ] {
        world.put("me/app", which, kind, manifest).fails(400, code);
    }
    ask(world.addr(), "PUT", "/v2/me/app/manifests/1", &[("Content-Type", MANIFEST)], b"{\"a\": ")
        .fails(400, "MANIFEST_INVALID");
    // Of another repository the blobs are not.
    world.put("me/other", "1", MANIFEST, &manifest).fails(400, "MANIFEST_BLOB_UNKNOWN");
    assert!(world.names().is_empty());
    world.get("/v2/me/app/tags/list").fails(404, "NAME_UNKNOWN");
}

#[test]
fn end_7_a_manifest_of_more_than_4_mib_is_refused_and_one_of_that_is_not() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let mut manifest = world.blobs("me/app", &image);
    let most = 4 << 20;
    let mut pad = |size: usize| {
        manifest["annotations"] = json!({"pad": ""});
        let empty = manifest.to_string().len();
        manifest["annotations"]["pad"] = "x".repeat(size - empty).into();
        assert_eq!(manifest.to_string().len(), size);
        manifest.clone()
    };
    let (fits, too_large) = (pad(most), pad(most + 1));
    world.put("me/app", "1", MANIFEST, &fits).expect(201);
    world.put("me/app", "2", MANIFEST, &too_large).fails(413, "SIZE_INVALID");
    let text = too_large.to_string();
    let chunked = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let headers = [("Content-Type", MANIFEST), ("Transfer-Encoding", "chunked")];
    ask(world.addr(), "PUT", "/v2/me/app/manifests/2", &headers, chunked.as_bytes())
        .fails(413, "SIZE_INVALID");
    assert_eq!(world.names(), ["me/app:1"]);
}

#[test]
fn end_7b_a_manifest_is_pushed_under_several_tags() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let manifest = world.blobs("me/app", &image);
    let query: Vec<_> = (0..12).map(|n| format!("tag=t{n}")).collect();
    let path = format!("{}?{}", digest_of(&manifest), query.join("&"));
    let answer = world.put("me/app", &path, MANIFEST, &manifest).expect(201);
    assert_eq!(answer.all("oci-tag").len(), 12);
    assert_eq!(world.names().len(), 12);
    let many: Vec<_> = (0..65).map(|n| format!("tag=t{n}")).collect();
    let path = format!("{}?{}", digest_of(&manifest), many.join("&"));
    world.put("me/app", &path, MANIFEST, &manifest).expect(414);
}

// ---- Content discovery

#[test]
fn end_8_tags_are_listed_in_their_order_and_in_pages() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let manifest = world.blobs("me/app", &image);
    for tag in ["b", "a", "C", "10", "9", "z_-."] {
        world.put("me/app", tag, MANIFEST, &manifest).expect(201);
    }
    let list = |query: &str| {
        let answer = world.get(&format!("/v2/me/app/tags/list{query}")).expect(200);
        let json = answer.json();
        assert_eq!(json["name"], "me/app");
        let tags: Vec<_> =
            json["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect();
        (tags.join(" "), answer.header("link").map(str::to_owned))
    };
    assert_eq!(list(""), ("10 9 C a b z_-.".into(), None));
    assert_eq!(list("?n=0"), (String::new(), None));
    assert_eq!(list("?n=6"), ("10 9 C a b z_-.".into(), None));
    assert_eq!(list("?last=a"), ("b z_-.".into(), None));
    assert_eq!(list("?last=B"), ("C a b z_-.".into(), None), "a tag need not be there");
    let (mut all, mut query) = (Vec::new(), "?n=4".to_owned());
    loop {
        let (tags, link) = list(&query);
        all.push(tags);
        let Some(link) = link else { break };
        let path = link.strip_prefix("</v2/me/app/tags/list").unwrap();
        query = path.strip_suffix(">; rel=\"next\"").unwrap().to_owned();
    }
    assert_eq!(all, ["10 9 C a", "b z_-."]);
    for bad in ["?n=-1", "?n=x", "?n=99999999999999999999999"] {
        world.get(&format!("/v2/me/app/tags/list{bad}")).expect(400);
    }
    world.get("/v2/me/none/tags/list").fails(404, "NAME_UNKNOWN");
    // Under its digest alone it is there, and has no tag.
    world.blobs("me/other", &image);
    world.put("me/other", &digest_of(&manifest).to_string(), MANIFEST, &manifest).expect(201);
    assert_eq!(world.get("/v2/me/other/tags/list").expect(200).json()["tags"], json!([]));
}

#[test]
fn the_catalogue_lists_repositories_in_pages() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    for repository in ["b/b", "app", "quay.io/x/y"] {
        world.push(repository, "1", &image);
    }
    let list = |query: &str| {
        let answer = world.get(&format!("/v2/_catalog{query}")).expect(200);
        (answer.json()["repositories"].clone(), answer.header("link").map(str::to_owned))
    };
    assert_eq!(list(""), (json!(["app", "b/b", "quay.io/x/y"]), None));
    let (first, link) = list("?n=2");
    assert_eq!(first, json!(["app", "b/b"]));
    assert_eq!(link.unwrap(), "</v2/_catalog?n=2&last=b/b>; rel=\"next\"");
    assert_eq!(list("?n=2&last=b/b"), (json!(["quay.io/x/y"]), None));
    assert_eq!(list("?n=0").0, json!([]));
}

#[test]
fn end_12_referrers_are_listed_and_filtered() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let manifest = manifest_of(&image);
    let subject = digest_of(&manifest);
    let path = format!("/v2/me/app/referrers/{subject}");
    let empty = world.get(&path).expect(200);
    assert_eq!(empty.header("content-type"), Some(INDEX));
    assert_eq!(empty.json(), json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
    // Before its subject is there, or after.
    let (signature, sbom) = (artifact("x/signature", &manifest, "s"), artifact("x/sbom", &manifest, "b"));
    for (artifact, text) in [(&signature, "s"), (&sbom, "b")] {
        world.blob("me/app", b"{}");
        world.blob("me/app", text.as_bytes());
        let answer = world.put("me/app", &digest_of(artifact).to_string(), MANIFEST, artifact).expect(201);
        assert_eq!(answer.header("oci-subject").unwrap(), subject.to_string());
        world.push("me/app", "1", &image);
    }
    // Without a type of its own its configuration's counts; of an index there is none.
    let mut plain = artifact("", &manifest, "s");
    plain.as_object_mut().unwrap().remove("annotations");
    world.blob("me/app", b"s");
    world.blob("me/app", b"{}");
    world.put("me/app", "plain", MANIFEST, &plain).expect(201);
    let mut index = index_of(&[&manifest]);
    index["subject"] = descriptor(MANIFEST, manifest.to_string().as_bytes());
    world.put("me/app", "index", INDEX, &index).expect(201);

    let listed = world.get(&path).expect(200).json();
    let of = |document: &Value| {
        let digest = json!(digest_of(document));
        listed["manifests"].as_array().unwrap().iter().find(|one| one["digest"] == digest).unwrap().clone()
    };
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 4);
    assert_eq!(
        of(&signature),
        json!({
            "mediaType": MANIFEST, "digest": digest_of(&signature), "size": signature.to_string().len(),
            "artifactType": "x/signature", "annotations": {"says": "s"},
        })
    );
    assert_eq!(of(&plain)["artifactType"], EMPTY);
    assert_eq!(of(&index)["mediaType"], INDEX);
    assert_eq!(of(&index).get("artifactType"), None);
    let filtered = world.get(&format!("{path}?artifactType=x%2Fsbom")).expect(200);
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(filtered.json()["manifests"][0]["digest"], json!(digest_of(&sbom)));
    world.get("/v2/me/app/referrers/sha256:bad").fails(400, "DIGEST_INVALID");
    // Of another repository they are not.
    assert_eq!(world.get(&path.replace("me/app", "me/other")).expect(200).json()["manifests"], json!([]));
    world.delete(&format!("/v2/me/app/manifests/{}", digest_of(&sbom))).expect(202);
    assert_eq!(world.get(&path).json()["manifests"].as_array().unwrap().len(), 3);
}

#[test]
fn end_12_referrers_of_more_than_4_mib_come_in_pages() {
    let world = World::new();
    let manifest = manifest_of(&Fixture::new(&["one"]));
    world.blob("me/app", b"{}");
    let long = "x".repeat(2 << 20);
    for n in 0..3 {
        let text = format!("{n}{long}");
        let mut artifact = artifact("x/y", &manifest, "");
        world.blob("me/app", b"");
        artifact["annotations"]["says"] = text.into();
        world.put("me/app", &digest_of(&artifact).to_string(), MANIFEST, &artifact).expect(201);
    }
    let (mut found, mut pages, mut path) =
        (Vec::new(), 0, format!("/v2/me/app/referrers/{}?artifactType=x/y", digest_of(&manifest)));
    loop {
        let answer = world.get(&path).expect(200);
        assert!(answer.body.len() <= 4 << 20);
        pages += 1;
        found.extend(
            answer.json()["manifests"].as_array().unwrap().iter().map(|one| one["digest"].to_string()),
        );
        let Some(link) = answer.header("link") else { break };
        path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
    }
    found.sort();
    found.dedup();
    assert_eq!((found.len(), pages), (3, 3));
}

// ---- Content management

#[test]
fn end_9_a_tag_is_deleted_and_its_manifest_stays() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    let digest = world.push("me/app", "1", &image);
    world.delete("/v2/me/app/manifests/1").expect(202);
    world.get("/v2/me/app/manifests/1").fails(404, "MANIFEST_UNKNOWN");
    world.delete("/v2/me/app/manifests/1").fails(404, "MANIFEST_UNKNOWN");
    world.get(&format!("/v2/me/app/manifests/{digest}")).expect(200);
    world.get(&format!("/v2/me/app/blobs/{}", image.id())).expect(200);
    assert_eq!(world.get("/v2/me/app/tags/list").json()["tags"], json!([]));
}

#[test]
fn end_9_a_manifest_is_deleted_with_its_tags() {
    let world = World::new();
    let (image, other) = (Fixture::new(&["one"]), Fixture::new(&["one", "two"]));
    let digest = world.push("me/app", "1", &image);
    world.push("me/app", "2", &image);
    world.push("me/app", "3", &other);
    world.push("me/copy", "1", &image);
    world.delete(&format!("/v2/me/app/manifests/{digest}")).expect(202);
    for which in ["1", "2", &digest.to_string()] {
        world.get(&format!("/v2/me/app/manifests/{which}")).fails(404, "MANIFEST_UNKNOWN");
    }
    world.delete(&format!("/v2/me/app/manifests/{digest}")).fails(404, "MANIFEST_UNKNOWN");
    assert_eq!(world.names(), ["me/app:3", "me/copy:1"]);
    world.delete(&format!("/v2/me/copy/manifests/{digest}")).expect(202);
    // What nothing needs is gone, what the other image needs is not.
    world.get(&format!("/v2/me/app/blobs/{}", image.id())).fails(404, "BLOB_UNKNOWN");
    assert_eq!(count(world.store.path().join("blobs/sha256")), 4);
    assert!(world.store.verify().unwrap().is_sound());
    world.delete(&format!("/v2/me/none/manifests/{digest}")).expect(404);
}

#[test]
fn end_10_a_blob_is_deleted_that_no_manifest_has() {
    let world = World::new();
    let image = Fixture::new(&["one"]);
    world.push("me/app", "1", &image);
    world.delete(&format!("/v2/me/app/blobs/{}", image.id())).fails(405, "UNSUPPORTED");
    let digest = world.blob("me/app", BLOB);
    world.delete(&format!("/v2/me/other/blobs/{digest}")).fails(404, "BLOB_UNKNOWN");
    world.delete(&format!("/v2/me/app/blobs/{digest}")).expect(202);
    world.get(&format!("/v2/me/app/blobs/{digest}")).fails(404, "BLOB_UNKNOWN");
    world.delete(&format!("/v2/me/app/blobs/{digest}")).fails(404, "BLOB_UNKNOWN");
}

#[test]
fn an_error_says_its_code_in_the_specifications_form() {
    let world = World::new();
    let answer = world.get("/v2/me/app/manifests/1").expect(404);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors.as_array().unwrap().len(), 1);
    assert!(errors[0]["code"].is_string() && errors[0]["message"].is_string());
    // No method is answered as another one.
    for (method, path) in [
        ("POST", "/v2/me/app/manifests/1"),
        ("PUT", "/v2/me/app/tags/list"),
        ("TRACE", "/v2/"),
        ("PATCH", "/v2/_catalog"),
    ] {
        let answer = ask(world.addr(), method, path, &[], b"").fails(405, "UNSUPPORTED");
        assert!(answer.header("allow").is_some());
    }
}
