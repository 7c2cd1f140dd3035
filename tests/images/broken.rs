//! Broken and hostile archives.

use super::*;

#[test]
fn each_broken_blob_is_noticed_and_leaves_nothing() {
    let image = Fixture::new(&["one", "two"]);
    let sets = [
        docker_members(&[(&image, &["app:1"])]),
        oci_members(&image, Some("app:1"), "+gzip", gzip),
        oci_members(&image, Some("app:1"), "", <[u8]>::to_vec),
    ];
    for members in sets {
        let mut broken = 0;
        for at in 0..members.len() {
            if matches!(members[at].0.as_str(), "manifest.json" | "index.json" | "oci-layout") {
                continue;
            }
            // A changed byte, a missing one, one too many.
            let changes: [fn(&mut Vec<u8>); 3] = [
                |data| {
                    let middle = data.len() / 2;
                    data[middle] ^= 1;
                },
                |data| data.truncate(data.len() - 1),
                |data| data.push(0),
            ];
            for change in changes {
                let mut members = members.clone();
                change(&mut members[at].1);
                let store = Store::temp().unwrap();
                let error = load(&store, &pack(&members)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Mismatch, "{}: {error}", members[at].0);
                assert_empty(&store);
                broken += 1;
            }
            let mut members = members.clone();
            members.remove(at);
            let store = Store::temp().unwrap();
            assert_eq!(load(&store, &pack(&members)).unwrap_err().kind(), ErrorKind::InvalidData);
            assert_empty(&store);
        }
        assert!(broken >= 9);
    }
}

#[test]
fn a_failed_load_does_not_touch_what_was_there() {
    let store = Store::temp().unwrap();
    let old = Fixture::new(&["shared"]);
    load(&store, &docker_archive(&[(&old, &["app:1"])])).unwrap();
    let before = (count(store.path().join("blobs/sha256")), count(store.path().join("layers")));
    let new = Fixture::new(&["shared", "new"]);
    let mut members = docker_members(&[(&new, &["app:1"])]);
    let layer = format!("{}/layer.tar", &Digest::of(&new.layers[1]).hex()[..12]);
    members.iter_mut().find(|(name, _)| *name == layer).unwrap().1.push(1);
    assert_eq!(load(&store, &pack(&members)).unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(store.image("app:1").unwrap().id(), &old.id());
    assert_eq!((count(store.path().join("blobs/sha256")), count(store.path().join("layers"))), before);
}

#[test]
fn hostile_lists_are_refused() {
    let image = Fixture::new(&["x"]);
    let config = format!("{}.json", image.id().hex());
    let canary = tempfile::NamedTempFile::new().unwrap();
    fs::write(canary.path(), &image.layers[0]).unwrap();
    let outside = canary.path().to_str().unwrap();
    let deep = "[".repeat(100_000);
    let list = |config: &str, tags: Value, layers: Value| {
        json!([{"Config": config, "RepoTags": tags, "Layers": layers}]).to_string()
    };
    let cases = [
        ("outside", list(&config, json!([]), json!([outside])), ErrorKind::InvalidData),
        (
            "above",
            list(&config, json!([]), json!([format!("../../../../../../..{outside}")])),
            ErrorKind::InvalidData,
        ),
        ("config outside", list("/etc/passwd", json!([]), json!(["l"])), ErrorKind::InvalidData),
        ("link to outside", list(&config, json!([]), json!(["out"])), ErrorKind::InvalidData),
        ("circle", list(&config, json!([]), json!(["circle"])), ErrorKind::InvalidData),
        ("directory", list(&config, json!([]), json!(["dir"])), ErrorKind::InvalidData),
        ("name above", list(&config, json!(["../../etc:1"]), json!(["l"])), ErrorKind::InvalidData),
        ("name with newline", list(&config, json!(["a\nb:1"]), json!(["l"])), ErrorKind::InvalidData),
        (
            "name with digest",
            list(&config, json!([format!("a@{}", image.id())]), json!(["l"])),
            ErrorKind::InvalidData,
        ),
        ("too few layers", list(&config, json!([]), json!([])), ErrorKind::InvalidData),
        ("too many layers", list(&config, json!([]), json!(["l", "l"])), ErrorKind::InvalidData),
        ("layer is the list", list(&config, json!([]), json!(["manifest.json"])), ErrorKind::Mismatch),
        ("config is a layer", list("l", json!([]), json!(["l"])), ErrorKind::InvalidData),
        ("no list", "{}".into(), ErrorKind::InvalidData),
        ("nothing listed", "[]".into(), ErrorKind::InvalidData),
        ("numbers", json!([{"Config": 1}]).to_string(), ErrorKind::InvalidData),
        ("nested", deep, ErrorKind::InvalidData),
        ("huge", format!("[{}]", " ".repeat(5 << 20)), ErrorKind::TooLarge),
    ];
    for (what, list, kind) in cases {
        let archive = tar([
            (config.as_str(), Node::File(&image.config)),
            ("l", Node::File(&image.layers[0])),
            ("out", Node::Link(outside)),
            ("circle", Node::Link("circle")),
            ("dir/", Node::Dir),
            ("../escape", Node::File(b"x")),
            ("/tmp/escape", Node::File(b"x")),
            ("manifest.json", Node::File(list.as_bytes())),
        ]);
        let store = Store::temp().unwrap();
        let error = load(&store, &archive).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert_empty(&store);
        assert!(
            !store.path().parent().unwrap().join("escape").exists() && !Path::new("/tmp/escape").exists()
        );
    }
    // Two lists: two readers could see two archives.
    let good = list(&config, json!([]), json!(["l"]));
    let twice = tar([
        (config.as_str(), Node::File(&image.config)),
        ("l", Node::File(&image.layers[0])),
        ("manifest.json", Node::File(good.as_bytes())),
        ("./manifest.json", Node::File(b"[]")),
    ]);
    assert_eq!(load(&Store::temp().unwrap(), &twice).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn the_memory_for_an_archives_names_is_bounded() {
    let mut archive = tar::Builder::new(Vec::new());
    let target = vec![b'x'; 1_000_000];
    for n in 0..40 {
        archive.append_pax_extensions([("linkpath", &target[..])]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_path(n.to_string()).unwrap();
        header.set_link_name("x").unwrap();
        header.set_size(0);
        header.set_cksum();
        archive.append(&header, &b""[..]).unwrap();
    }
    let store = Store::temp().unwrap();
    let error = load(&store, &gzip(&archive.into_inner().unwrap())).unwrap_err();
    assert!(error.kind() == ErrorKind::TooLarge && error.to_string().contains("names"), "{error}");
    assert_empty(&store);
}

#[test]
fn artifacts_and_unknown_layers_are_no_images() {
    let image = Fixture::new(&["x"]);
    for (find, put) in [
        ("application/vnd.oci.image.config.v1+json", "application/vnd.cncf.helm.config.v1+json"),
        ("image.layer.v1.tar", "image.layer.v1.tar+encrypted"),
    ] {
        let mut members = oci_members(&image, None, "", <[u8]>::to_vec);
        let at = members
            .iter()
            .position(|(_, data)| {
                data.windows(8).any(|w| w == b"\"config\"")
                    && data.windows(8).any(|w| w == b"\"layers\"")
                    && !data.windows(8).any(|w| w == b"diff_ids")
            })
            .unwrap();
        let text = String::from_utf8(members[at].1.clone()).unwrap().replace(find, put);
        let (old, new) = (Digest::of(&members[at].1), Digest::of(text.as_bytes()));
        let sizes = (members[at].1.len(), text.len());
        members[at] = (format!("blobs/sha256/{}", new.hex()), text.into_bytes());
        let index = members.iter_mut().find(|(name, _)| name == "index.json").unwrap();
        let text = String::from_utf8(index.1.clone()).unwrap().replace(&old.hex(), &new.hex());
        index.1 =
            text.replace(&format!("\"size\":{}", sizes.0), &format!("\"size\":{}", sizes.1)).into_bytes();
        let store = Store::temp().unwrap();
        let error = load(&store, &pack(&members)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_empty(&store);
    }
}
