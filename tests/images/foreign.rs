//! What other tools make, as docker and podman take it.

use super::*;
use coracle::Save;

/// The layer's first file, without the filling after it.
fn unfilled(text: &str) -> Vec<u8> {
    let mut layer = tar([("last", Node::File(text.as_bytes()))]);
    layer.truncate(512 + text.len());
    layer
}

/// In all the forms that an image may come in.
fn archives(image: &Fixture) -> Vec<Vec<u8>> {
    vec![
        docker_archive(&[(image, &["app:1"])]),
        pack(&oci_members(image, Some("app:1"), "", <[u8]>::to_vec)),
        pack(&oci_members(image, Some("app:1"), "+gzip", gzip)),
        #[cfg(feature = "zstd")]
        pack(&oci_members(image, Some("app:1"), "+zstd", zstd)),
    ]
}

fn read(image: &Image, path: &str) -> String {
    let mut text = String::new();
    image.open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_layer_of_no_bytes_is_an_empty_layer() {
    let below = tar([("below", Node::File(b"below"))]);
    let fixture = Fixture::of(vec![Vec::new(), below, unfilled("text"), Vec::new()]);
    for archive in archives(&fixture) {
        let store = Store::temp().unwrap();
        let image = load(&store, &archive).unwrap().remove(0);
        assert_eq!(
            (image.id(), read(&image, "/below"), read(&image, "/last")),
            (&fixture.id(), "below".into(), "text".into())
        );
        let layers = image.layers().unwrap();
        let entries: Vec<_> = layers.iter().map(|layer| layer.entries().unwrap().count()).collect();
        assert_eq!(entries, [0, 1, 1, 0]);
        assert!(store.verify().unwrap().is_sound());
        // And on to another store, as the very bytes.
        let mut saved = Vec::new();
        Save::new().image(&image).unwrap().write(&mut saved).unwrap();
        let elsewhere = Store::temp().unwrap();
        assert_eq!(load(&elsewhere, &saved).unwrap()[0].digest(), image.digest());
        assert_eq!(image.squash().unwrap().layers().unwrap().len(), 1);
        // Unpacked anew from the blobs.
        for layer in fs::read_dir(elsewhere.path().join("layers")).unwrap() {
            fs::remove_dir_all(layer.unwrap().path()).unwrap();
        }
        assert_eq!(read(&elsewhere.image("app:1").unwrap(), "/last"), "text");
    }
    // What has less data than it says is cut short, whatever its digest.
    let mut cut = unfilled("text");
    cut.pop();
    let error = load(&Store::temp().unwrap(), &docker_archive(&[(&Fixture::of(vec![cut.clone()]), &[])]))
        .unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidData && error.to_string().contains("cut short"), "{error}");
    // Where nobody has said what it is, nothing is no archive.
    let store = Store::temp().unwrap();
    for archive in [Vec::new(), gzip(b""), unfilled("text")] {
        let error = Import::new().reader(&store, &archive[..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}

/// An image layout's members, with its manifest changed.
fn with_manifest(image: &Fixture, change: impl Fn(&mut Value)) -> Vec<(String, Vec<u8>)> {
    let mut members = oci_members(image, Some("app:1"), "", <[u8]>::to_vec);
    let at = members.iter().position(|(name, _)| name == "index.json").unwrap();
    let mut index: Value = serde_json::from_slice(&members[at].1).unwrap();
    let old = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let manifest = members.iter_mut().find(|(name, _)| *name == old).unwrap();
    let mut value: Value = serde_json::from_slice(&manifest.1).unwrap();
    change(&mut value);
    let text = value.to_string().into_bytes();
    let digest = Digest::of(&text);
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(text.len());
    *manifest = (format!("blobs/sha256/{}", digest.hex()), text);
    members[at].1 = index.to_string().into_bytes();
    members
}

#[test]
fn an_image_without_layers_may_say_so_in_three_ways() {
    let none = Fixture::of(Vec::new());
    let ways: [fn(&mut Value); 3] = [
        |_| (),
        |manifest| manifest["layers"] = Value::Null,
        |manifest| _ = manifest.as_object_mut().unwrap().remove("layers"),
    ];
    for way in ways {
        let store = Store::temp().unwrap();
        let image = load(&store, &pack(&with_manifest(&none, way))).unwrap().remove(0);
        assert_eq!((image.id(), image.layer_descriptors().len()), (&none.id(), 0));
        assert!(store.verify().unwrap().is_sound());
        let some = load(&store, &pack(&with_manifest(&Fixture::new(&["one"]), way)));
        assert_eq!(some.is_ok(), way as usize == ways[0] as usize);
    }
}

#[test]
fn the_type_of_a_configuration_may_be_anothers() {
    let image = Fixture::new(&["one"]);
    let called =
        |kind: &'static str| move |manifest: &mut Value| manifest["config"]["mediaType"] = json!(kind);
    for kind in ["application/octet-stream", "application/json", "text/html", ""] {
        let store = Store::temp().unwrap();
        let loaded = load(&store, &pack(&with_manifest(&image, called(kind)))).unwrap().remove(0);
        assert_eq!((loaded.id(), read(&loaded, "/dir/file0")), (&image.id(), "one".into()), "{kind}");
        store.prune_images(false).unwrap();
        assert_eq!(read(&store.image("app:1").unwrap(), "/dir/file0"), "one");
        assert!(store.verify().unwrap().is_sound());
        // What can't be read as one is an artifact's.
        for config in ["{}", "[]", "", "text"] {
            let artifact = Fixture { config: config.into(), ..image.clone() };
            let store = Store::temp().unwrap();
            let error = load(&store, &pack(&with_manifest(&artifact, called(kind)))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{kind} {config}: {error}");
            assert_empty(&store);
        }
    }
    for kind in
        ["application/vnd.cncf.helm.config.v1+json", "application/vnd.oci.empty.v1+json", "text/plain"]
    {
        let error = load(&Store::temp().unwrap(), &pack(&with_manifest(&image, called(kind)))).unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(kind), "{error}");
    }
}

#[test]
#[ignore = "needs /bin/busybox (busybox-static): run with --include-ignored"]
fn an_image_with_an_empty_layer_runs() {
    let busybox = fs::read("/bin/busybox").expect("busybox-static");
    let mut layer = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_ustar();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/busybox", &busybox[..]).unwrap();
    let layer = layer.into_inner().unwrap();
    // And one whose layers are not all different, of which the kernel's overlay takes each once.
    let fixture = Fixture::of(vec![Vec::new(), layer.clone(), Vec::new(), unfilled("text"), layer]);
    let store = Store::temp().unwrap();
    let image = load(&store, &docker_archive(&[(&fixture, &["app:1"])])).unwrap().remove(0);
    let image = image.with_entrypoint(["/bin/busybox"]).unwrap().with_cmd(["cat", "/last"]).unwrap();
    assert_eq!(say(&coracle::Container::builder(&image)), "text");
}
