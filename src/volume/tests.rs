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
fn fresh_until_something_is_in_it() {
    let store = Store::temp().unwrap();
    let volume = Volume::anonymous(&store).unwrap();
    let lock = volume.copy_lock().unwrap();
    assert!(volume.is_fresh().unwrap());
    std::fs::write(volume.path().join(".hidden"), "").unwrap();
    assert!(!volume.is_fresh().unwrap());
    drop(lock);
    // The lock has not touched what it locks.
    assert!(Volume::open(&store, volume.name()).unwrap().is_anonymous());
}
