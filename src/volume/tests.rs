#![forbid(unsafe_code)]
use super::*;
use crate::store::Pins;

#[test]
fn a_volume_in_use_is_not_removed() {
    let store = Store::temp().unwrap();
    let volume = Volume::create(&store, "site").unwrap();
    let elsewhere = Store::open(store.path()).unwrap();
    let lease = volume.lease().unwrap();
    let error = Volume::open(&elsewhere, "site").unwrap().remove().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(elsewhere.prune_volumes(true).unwrap().is_empty());
    drop(lease);
    // A container that is not running.
    let container = store.path().join("containers/abc");
    std::fs::create_dir(&container).unwrap();
    let pins = Pins { image: None, volumes: vec!["site".into()] };
    let record = serde_json::json!({ "pins": pins }).to_string();
    std::fs::write(container.join(crate::store::pins::RECORD), record).unwrap();
    assert_eq!(store.pins().unwrap(), [("abc".to_owned(), pins)]);
    let error = volume.remove().unwrap_err();
    assert!(error.kind() == ErrorKind::InUse && error.to_string().contains("abc"), "{error}");
    std::fs::remove_dir_all(&container).unwrap();
    volume.remove().unwrap();
    assert_eq!(volume.lease().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(volume.remove().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_lock_for_copying_does_not_touch_the_volume() {
    let store = Store::temp().unwrap();
    let volume = Volume::anonymous(&store).unwrap();
    drop(volume.copy_lock().unwrap());
    assert_eq!(std::fs::read_dir(volume.path()).unwrap().count(), 0);
    assert!(Volume::open(&store, volume.name()).unwrap().is_anonymous());
}

/// A program may be killed at any moment between the making of a volume and its removal.
#[test]
fn a_volume_goes_with_the_container_that_it_was_made_for() {
    let store = Store::temp().unwrap();
    let sweep = || drop(Store::open(store.path()).unwrap());
    let (lease, volume) = Volume::anonymous_of(&store, "c0ffee").unwrap();
    let (_, other) = Volume::anonymous_of(&store, "c0ffee").unwrap();
    let own = Volume::anonymous(&store).unwrap();
    assert!(volume.is_anonymous());
    let there = |volume: &Volume| Volume::find(&store, volume.name()).unwrap().is_some();
    let put = |id: &str, volumes: Vec<String>| {
        let dir = store.path().join("containers").join(id);
        std::fs::create_dir_all(&dir).unwrap();
        let record = serde_json::json!({ "pins": Pins { image: None, volumes } }).to_string();
        std::fs::write(dir.join(crate::store::pins::RECORD), record).unwrap();
        dir
    };
    // Somebody has learnt the name of the one and uses it; the other's container is still being made.
    let user = put("abc", vec![other.name().to_owned()]);
    sweep();
    assert!(there(&volume) && there(&other) && there(&own));
    let container = put("c0ffee", vec![volume.name().to_owned()]);
    drop(lease);
    sweep();
    assert!(there(&volume));
    std::fs::remove_dir_all(container).unwrap();
    sweep();
    assert!(!there(&volume) && there(&other) && there(&own));
    std::fs::remove_dir_all(user).unwrap();
    sweep();
    assert!(!there(&other) && there(&own));
}
