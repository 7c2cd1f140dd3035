#![forbid(unsafe_code)]

use super::*;
use crate::manifest::{Descriptor, Manifest};
use crate::store::index::set_name;
use serde_json::json;

/// An image's manifest, and the blobs of it.
fn image(store: &Store, text: &str, layers: Vec<Descriptor>) -> (Descriptor, Vec<Digest>) {
    let config = json!({"architecture": "amd64", "os": "linux", "author": text}).to_string();
    let digest = store.put_blob(config.as_bytes()).unwrap();
    let own = store.put_blob(text.as_bytes()).unwrap();
    let mut all = vec![Descriptor::new(media::LAYER, own, text.len() as u64)];
    all.extend(layers);
    let manifest = Manifest::new(Descriptor::new(media::CONFIG, digest, config.len() as u64), all).unwrap();
    store.put_blob(manifest.raw()).unwrap();
    (manifest.descriptor(), vec![*manifest.digest(), digest, own])
}

fn index(store: &Store, children: &[Descriptor]) -> Digest {
    let raw = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": children}).to_string();
    store.put_blob(raw.as_bytes()).unwrap()
}

fn name(store: &Store, manifest: &Descriptor, name: &str) {
    let name = name.parse().unwrap();
    let named = store.update_index(|index| {
        set_name(index, manifest, Some(&name));
        Ok(())
    });
    named.unwrap();
}

fn all(store: &Store) -> HashSet<Digest> {
    store.blobs().unwrap().into_iter().collect()
}

#[test]
fn what_is_leased_stays_with_all_that_it_leads_to() {
    let store = Store::temp().unwrap();
    let texts: Vec<_> = (0..2 * LOCKED_MAX).map(|n| n.to_string()).collect();
    let images: Vec<_> = texts.iter().map(|text| image(&store, text, Vec::new())).collect();
    let manifests: Vec<_> = images.iter().map(|(manifest, _)| manifest.clone()).collect();
    let inner = index(&store, &manifests);
    let outer = index(&store, &[Descriptor::new(media::INDEX, inner, 0)]);
    let full = all(&store);
    assert_eq!(full.len(), 3 * images.len() + 2);

    let lease = store.lease_blob(&outer).unwrap();
    assert_eq!(store.collect_garbage().unwrap(), 0);
    assert_eq!(all(&store), full);
    drop(lease);
    let lease = store.lease_blob(&inner).unwrap();
    store.collect_garbage().unwrap();
    assert_eq!(full.difference(&all(&store)).collect::<Vec<_>>(), [&outer]);
    drop(lease);
    // A manifest, and a layer of another one.
    let (kept, layer) = (&images[1].1, images[40].1[2]);
    let leases = [store.lease_blob(&kept[0]).unwrap(), store.lease_blob(&layer).unwrap()];
    store.collect_garbage().unwrap();
    assert_eq!(all(&store), kept.iter().copied().chain([layer]).collect());
    drop(leases);
    assert!(store.collect_garbage().unwrap() > 0);
    assert!(all(&store).is_empty());
}

/// As between the look at what is needed and the locks: what is put off is not lost.
#[test]
fn what_has_got_a_name_or_a_lease_meanwhile_stays() {
    let store = Store::temp().unwrap();
    let (named, of_named) = image(&store, "named", Vec::new());
    let (_, of_leased) = image(&store, "leased", Vec::new());
    let (_, of_neither) = image(&store, "neither", Vec::new());
    let mut live = Live::default();
    store.mark_needed(&mut live).unwrap();
    let unmarked = store.unmarked(&live).unwrap();
    assert_eq!((unmarked.documents.len(), unmarked.others.len()), (3, 6));
    name(&store, &named, "app");
    let _lease = store.lease_blob(&of_leased[0]).unwrap();
    store.remove_documents(&unmarked.documents, &mut live).unwrap();
    assert!(of_named.iter().chain(&of_leased).all(|digest| live.blobs.contains(digest)));
    assert_eq!(unmarked.documents.len() + unmarked.others.len() - all(&store).len(), 1);
    assert_eq!(store.blob_size(&of_neither[0]).unwrap(), None);
    store.collect_garbage().unwrap();
    assert_eq!(all(&store), of_named.into_iter().chain(of_leased).collect());
}

#[test]
fn a_document_comes_before_all_that_it_leads_to() {
    let digest = |n: u32| Digest::of(&n.to_le_bytes());
    // Each leads to two further ones, and to what is none of these.
    let links: HashMap<_, _> =
        (0..300).map(|n| (digest(n), [n + 1, n + 7, 1000].map(digest).to_vec())).collect();
    let order = in_order(&links);
    let at: HashMap<_, _> = order.iter().enumerate().map(|(at, digest)| (digest, at)).collect();
    assert_eq!((order.len(), at.len()), (300, 300));
    for (digest, below) in &links {
        assert!(below.iter().all(|below| at.get(below).is_none_or(|below| at[digest] < *below)));
    }
}

/// Who may push anything may push a manifest that has somebody else's for a layer, or for its configuration.
#[test]
fn a_manifest_among_anothers_blobs_keeps_its_own() {
    let store = Store::temp().unwrap();
    let (named, _) = image(&store, "named", Vec::new());
    let (leased, _) = image(&store, "leased", Vec::new());
    let (layers, _) = image(&store, "layers", vec![named.clone(), leased.clone()]);
    let config = Descriptor { media_type: media::CONFIG.to_owned(), ..named.clone() };
    let config = Manifest::new(config, Vec::new()).unwrap();
    store.put_blob(config.raw()).unwrap();
    for (manifest, of) in [(&config.descriptor(), "config"), (&layers, "layers"), (&named, "named")] {
        name(&store, manifest, of);
    }
    let _lease = store.lease_blob(&leased.digest).unwrap();
    let full = all(&store);
    assert_eq!(full.len(), 3 * 3 + 1);
    assert_eq!(store.collect_garbage().unwrap(), 0);
    assert_eq!(all(&store), full);
}

/// By what is no blob nobody is kept from collecting the rest.
#[test]
fn links_and_damaged_documents_go() {
    let store = Store::temp().unwrap();
    let (_, blobs) = image(&store, "broken", Vec::new());
    std::fs::write(store.blob_path(&blobs[0]), "{").unwrap();
    let link = Digest::of(b"link");
    std::os::unix::fs::symlink("/etc/passwd", store.blob_path(&link)).unwrap();
    std::fs::write(store.blob_path(&Digest::of(b"")), "").unwrap();
    store.collect_garbage().unwrap();
    assert!(all(&store).is_empty());
    assert!(std::path::Path::new("/etc/passwd").exists());
}
