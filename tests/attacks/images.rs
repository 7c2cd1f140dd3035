//! Configurations of images that want what an image has no right to.
use super::*;
use serde_json::{Value, json};

/// An image of busybox alone, with this in its configuration.
pub(super) fn image(store: &coracle::Store, config: Value) -> coracle::Image {
    let busybox = fs::read("/bin/busybox").expect("busybox-static, which this test needs");
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, data: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        header.set_link_name_literal(link).unwrap();
        layer.append_data(&mut header, path, data).unwrap();
    };
    use tar::EntryType::{Directory, Regular, Symlink};
    add("bin/", Directory, b"", "");
    add("bin/busybox", Regular, &busybox, "");
    add("etc/", Directory, b"", "");
    add("etc/passwd", Regular, b"root:x:0:0::/:/bin/busybox\n", "");
    add("to-root", Symlink, b"", "/");
    add("to-proc", Symlink, b"", "/proc/1/root");
    add("to-dev", Symlink, b"", "/dev");
    let layer = layer.into_inner().unwrap();
    let mut fixture = Fixture::of(vec![layer]);
    let mut all: Value = serde_json::from_slice(&fixture.config).unwrap();
    all["config"] = config;
    fixture.config = all.to_string().into_bytes();
    let path = store.path().join("hostile.tar");
    fs::write(&path, docker_archive(&[(&fixture, &["hostile:1"])])).unwrap();
    let images = coracle::Image::load(store, &path).unwrap();
    fs::remove_file(path).unwrap();
    images.into_iter().next().unwrap()
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn configurations() {
    let store = coracle::Store::temp().unwrap();
    let canary = tempfile::tempdir().unwrap();
    let up = format!("/../../../../../../../..{}", canary.path().display());
    let long = "x".repeat(5000);
    let sets = [
        json!({"WorkingDir": up}),
        json!({"WorkingDir": "/\u{0}/etc"}),
        json!({"WorkingDir": "relative/../../.."}),
        json!({"WorkingDir": "/to-proc/etc/made"}),
        json!({"WorkingDir": format!("/{long}")}),
        json!({"WorkingDir": "/proc/1/cwd"}),
        json!({"User": "99999999999999999999:0"}),
        json!({"User": "4294967295:4294967295"}),
        json!({"User": "-1"}),
        json!({"User": "\u{0}"}),
        json!({"User": "0:../../etc/passwd"}),
        json!({"Env": ["\u{0}=x", "=", "", "PATH", "PATH=", "LD_PRELOAD=/x", format!("A={long}")]}),
        json!({"Env": ["HOME=/proc/self/fd/3"]}),
        json!({"Entrypoint": ["\u{0}"]}),
        json!({"Entrypoint": [""]}),
        json!({"Entrypoint": []}),
        json!({"StopSignal": "SIGNOTHING"}),
        json!({"StopSignal": "-9"}),
        json!({"Volumes": {"/": {}}}),
        json!({"Volumes": {"": {}}}),
        json!({"Volumes": {"relative": {}}}),
        json!({"Volumes": {&up: {}}}),
        json!({"Volumes": {"/proc": {}, "/sys": {}, "/dev": {}}}),
        json!({"Volumes": {"/proc/self": {}, "/dev/shm": {}}}),
        json!({"Volumes": {"/to-root": {}, "/to-proc/x": {}}}),
        json!({"Volumes": {"/a\u{0}b": {}}}),
        json!({"Volumes": {"/etc/passwd": {}}}),
        json!({"Labels": {"\u{1b}[2J": "\u{0}"}}),
        json!({"ExposedPorts": {"99999/tcp": {}, "": {}}}),
    ];
    for config in sets {
        let shown: String = config.to_string().chars().take(100).collect();
        let image = image(&store, config.clone());
        let words = ["/bin/busybox", "sh", "-c", "echo in $(pwd); ls -a / >/dev/null; touch /here here"];
        // It runs or it doesn't; in both cases it is in its own root, and this program goes on.
        match Container::builder(&image).command(words).run() {
            Ok(out) => assert!(out.stdout_text().starts_with("in /"), "{shown}: {out:?}"),
            Err(error) => {
                assert!(!matches!(error.kind(), ErrorKind::Gone | ErrorKind::State), "{shown}: {error}")
            }
        }
        assert_eq!(count(canary.path()), 0, "{shown}");
        assert_eq!(count(store.path().join("containers")), 0, "{shown}");
    }
}

/// As docker takes them: from the root, and no further up. The root itself is no place for a volume.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn volumes_that_are_no_paths() {
    let store = coracle::Store::temp().unwrap();
    let create = |volume: &str| {
        let image = image(&store, json!({"Volumes": {volume: {}}}));
        Container::builder(&image).command(["/bin/busybox", "sh", "-c", "echo x >/relative/x"]).create()
    };
    for volume in ["", "/", ".", "/a/../..", "/a\0b"] {
        let error = create(volume).and_then(|container| container.diff()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{volume:?}: {error}");
        assert!(error.remedy().unwrap().contains("without_volume"), "{volume:?}: {error}");
        assert!(store.volumes().unwrap().is_empty(), "{volume:?}");
    }
    for volume in ["relative", "../relative/.", "/../a/../relative"] {
        let container = create(volume).unwrap();
        container.start().unwrap();
        assert!(container.wait().unwrap().success(), "{volume:?}");
        assert!(container.diff().unwrap().is_empty(), "{volume:?}");
        assert_eq!(fs::read_to_string(store.volumes().unwrap()[0].path().join("x")).unwrap(), "x\n");
        container.remove().unwrap();
    }
}

/// What is mounted where the image's links lead to /dev would lie below the container's own, and is refused.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn mounts_that_links_bring_into_dev() {
    let store = coracle::Store::temp().unwrap();
    let image = image(&store, json!({}));
    let base = tempfile::tempdir().unwrap();
    let (canary, bound) = (base.path().join("canary"), base.path().join("bound"));
    for dir in ["pts", "mqueue", "shm"] {
        fs::create_dir_all(bound.join(dir)).unwrap();
    }
    for name in ["console", "null", "zero"] {
        std::os::unix::fs::symlink(&canary, bound.join(name)).unwrap();
    }
    let builder = Container::builder(&image).command(["/bin/busybox", "true"]).bind(&bound, "/to-dev");
    for builder in [builder.clone(), builder.tty(true)] {
        let error = builder.start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(error.path(), Some(std::path::Path::new("/dev")), "{error}");
    }
    assert!(canary.symlink_metadata().is_err(), "made on the host");
}
