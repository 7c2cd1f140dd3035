#![forbid(unsafe_code)]
use super::*;
use serde_json::json;

fn tar_of(name: &str, data: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, data).unwrap();
    archive.into_inner().unwrap()
}

/// As after another tool wrote into the layout: the blobs are there, the directories are not.
#[test]
fn layers_that_are_not_unpacked_are_unpacked_at_need() {
    let store = Store::temp().unwrap();
    let layers = [tar_of("low", b"1"), tar_of("top", b"2")];
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": diff_ids}}).to_string();
    let digest = store.put_blob(config.as_bytes()).unwrap();
    let descriptors = layers
        .iter()
        .map(|layer| Descriptor::new(media::LAYER, store.put_blob(layer).unwrap(), layer.len() as u64));
    let config = Descriptor::new(media::CONFIG, digest, config.len() as u64);
    let manifest = Manifest::new(config, descriptors.collect()).unwrap();
    store.put_blob(manifest.raw()).unwrap();
    let name = "app".parse().unwrap();
    let named = store.update_index(|index| {
        set_name(index, &manifest.descriptor(), Some(&name));
        Ok(())
    });
    named.unwrap();

    let image = store.image("app").unwrap();
    assert!(store.layer_keys().unwrap().is_empty());
    let dirs = image.layer_dirs().unwrap();
    let names: Vec<_> = dirs.iter().map(|dir| crate::store::list(dir.dir()).unwrap()).collect();
    assert_eq!(names, [["top"], ["low"]]);
    assert!(Image::host(&store).unwrap().layer_dirs().unwrap().is_empty());

    // A blob that went bad meanwhile is noticed.
    drop((image, dirs));
    let low = store.image("app").unwrap().layer_descriptors()[0].digest;
    let keys = store.layer_keys().unwrap();
    assert_eq!(keys.len(), 2);
    keys.iter().for_each(|key| store.remove_layer(key).unwrap());
    std::fs::write(store.blob_path(&low), tar_of("low", b"x")).unwrap();
    let error = store.image("app").unwrap().layer_dirs().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(store.layer_keys().unwrap().is_empty());
}

/// Later ones may want a newer processor than this machine has.
#[test]
fn of_several_that_fit_the_first_counts() {
    let manifest =
        |n: u8| Manifest::new(Descriptor::new(media::CONFIG, Digest::of(&[n]), 1), Vec::new()).unwrap();
    let (silent, first, second) = (manifest(0), manifest(1), manifest(2));
    let for_host = |manifest: &Manifest, variant: Option<&str>| {
        let mut platform = crate::manifest::Platform::host();
        platform.variant = variant.map(str::to_owned);
        Descriptor { platform: Some(platform), ..manifest.descriptor() }
    };
    let manifests = [silent.descriptor(), for_host(&first, None), for_host(&second, Some("v3"))];
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    let listed = Descriptor::new(media::INDEX, Digest::of(index.as_bytes()), index.len() as u64);
    let mut read = |wanted: &Descriptor| {
        let found = [&silent, &first, &second].into_iter().find(|one| *one.digest() == wanted.digest);
        Ok((found.map_or(index.as_bytes(), |one| one.raw()).to_vec(), ()))
    };
    assert_eq!(resolve(&listed, &mut read).unwrap().0.digest(), first.digest());
}
