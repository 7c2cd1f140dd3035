//! What an image has of its container's settings, and its history.

use super::*;
use coracle::Signal;
use std::time::{Duration, SystemTime};

#[test]
fn the_settings_of_the_container_are_the_images() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let base = Import::new()
        .name("base:1")
        .env("A", "image")
        .env("B", "image")
        .label("of", "image")
        .cmd(["/bin/serve"])
        .entrypoint(["/bin/entry"])
        .path(&store, dir.path())
        .unwrap();
    let plain = Container::builder(&base).create().unwrap().commit("plain:1").unwrap();
    assert_eq!(plain.config().cmd(), ["/bin/serve"]);
    assert_eq!(plain.config().entrypoint(), ["/bin/entry"]);
    assert_eq!(plain.config().env(), ["A=image", "B=image"]);
    let container = Container::builder(&base)
        .command(["run", "it"])
        .arg("now")
        .env("B", "container")
        .env("C", "new")
        .label("and", "container")
        .user("7:8")
        .working_dir("/srv")
        .stop_signal(Signal::SIGUSR1)
        .publish(8080)
        .create()
        .unwrap();
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let image = container
        .committing()
        .name("me/app:1")
        .author("somebody")
        .message("why")
        .created(made)
        .run()
        .unwrap();
    let config = image.config();
    assert_eq!(config.cmd(), ["run", "it", "now"]);
    assert_eq!(config.entrypoint(), ["/bin/entry"]);
    assert_eq!(config.env(), ["A=image", "B=container", "C=new"]);
    assert_eq!((config.labels()["of"].as_str(), config.labels()["and"].as_str()), ("image", "container"));
    assert_eq!((config.user(), config.working_dir(), config.stop_signal()), ("7:8", "/srv", Some("SIGUSR1")));
    assert_eq!(config.exposed_ports().collect::<Vec<_>>(), ["8080/tcp"]);
    assert_eq!((config.author(), image.created()), (Some("somebody"), Some(made)));
    let last = config.history().last().unwrap();
    assert_eq!(last.created_by().as_deref(), Some("/bin/entry run it now"));
    assert_eq!((last.comment().as_deref(), last.author().as_deref()), (Some("why"), Some("somebody")));
    assert_eq!(store.image("me/app:1").unwrap().digest(), image.digest());
    // An entrypoint of the container's takes away the image's command.
    let other = Container::builder(&base).entrypoint(["/other"]).create().unwrap().commit("other:1").unwrap();
    assert_eq!(other.config().entrypoint(), ["/other"]);
    assert!(other.config().cmd().is_empty());
    let error = container.commit("Not A Name").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_setting_that_no_image_can_have_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let store = Store::temp().unwrap();
    let base = Import::new().cmd(["/x"]).path(&store, tempfile::tempdir().unwrap().path()).unwrap();
    let value = std::ffi::OsString::from_vec(vec![b'v', 0xff]);
    let container = Container::builder(&base).env("ODD", value).create().unwrap();
    let error = container.commit("odd:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("ODD=v"), "{error}");
}
