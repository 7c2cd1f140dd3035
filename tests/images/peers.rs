//! What other tools write and read.

use super::common::podman::Podman;
use super::*;

#[test]
#[ignore = "needs skopeo and umoci: run with --include-ignored"]
fn skopeo_and_umoci_read_the_store() {
    let store = Store::temp().unwrap();
    let image = Fixture::new(&["one", "two"]);
    let archive = docker_archive(&[(&image, &["debian:12", "localhost:5000/me/app:1.0"])]);
    let loaded = load(&store, &archive).unwrap().remove(0);
    for name in ["debian:12", "localhost:5000/me/app:1.0"] {
        let source = format!("oci:{}:{name}", store.path().display());
        let seen: Value = serde_json::from_str(&peer("skopeo", ["inspect", &source])).unwrap();
        assert_eq!(seen["Digest"], loaded.digest().to_string());
        assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
        let config: Value =
            serde_json::from_str(&peer("skopeo", ["inspect", "--config", "--raw", &source])).unwrap();
        assert_eq!(config["config"]["Cmd"][0], "/bin/sh");
        let seen =
            peer("umoci", ["stat", "--json", "--image", &format!("{}:{name}", store.path().display())]);
        assert!(seen.contains("test"), "{seen}");
    }
    let listed = peer("umoci", ["ls", "--layout", store.path().to_str().unwrap()]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["debian:12", "localhost:5000/me/app:1.0"]);
    // And unpacks from it.
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    let name = format!("{}:debian:12", store.path().display());
    peer(
        "umoci",
        [
            OsStr::new("unpack"),
            OsStr::new("--rootless"),
            OsStr::new("--image"),
            OsStr::new(&name),
            bundle.as_os_str(),
        ],
    );
    assert_eq!(fs::read_to_string(bundle.join("rootfs/dir/file1")).unwrap(), "two");
}

#[test]
#[ignore = "needs podman: run with --include-ignored"]
fn podman_reads_the_store() {
    // podman makes a name of the path, and has none with capital letters.
    let name = format!("coracle-podman-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in("/var/tmp").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = Fixture::new(&["one", "two"]);
    let archive = pack(&oci_members(&image, Some("app:1"), "+gzip", gzip));
    let names = ["debian:12", "localhost:5000/me/app:1.0"];
    let docker = docker_archive(&[(&image, &names)]);
    // Plain layers and compressed ones.
    let loaded = [load(&store, &docker).unwrap().remove(0), load(&store, &archive).unwrap().remove(0)];
    let podman = Podman::new();
    let whole = tempfile::NamedTempFile::new().unwrap();
    let whole = whole.path().to_str().unwrap();
    for (name, image) in [(names[0], &loaded[0]), (names[1], &loaded[0]), ("app:1", &loaded[1])] {
        let pulled = podman.run(&["pull", "--quiet", &format!("oci:{}:{name}", store.path().display())]);
        let pulled = pulled.trim();
        assert_eq!(pulled, image.id().hex(), "{name}");
        assert_eq!(podman.inspect("{{.Digest}}", pulled), image.digest().to_string(), "{name}");
        // The files too, as podman itself has unpacked them.
        fs::remove_file(whole).unwrap();
        podman.run(&["save", "--quiet", "--output", whole, pulled]);
        let back = Image::load(&Store::temp().unwrap(), whole).unwrap().remove(0);
        assert_eq!(back.config().diff_ids(), image.config().diff_ids(), "{name}");
        podman.clear();
    }
}

#[test]
#[ignore = "needs skopeo: run with --include-ignored"]
fn what_skopeo_writes_is_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let image = Fixture::new(&["one", "two"]);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("source.tar"), docker_archive(&[(&image, &["app:1"])])).unwrap();
    let source = format!("docker-archive:{}", at("source.tar"));
    let copy = |args: &[&str], target: &str| {
        peer(
            "skopeo",
            [&["copy", "--quiet", "--insecure-policy"], args, &[source.as_str(), target]].concat(),
        );
    };
    copy(&[], &format!("docker-archive:{}:app:1", at("docker.tar")));
    copy(&[], &format!("oci:{}:app:1", at("layout")));
    copy(&["--dest-compress-format", "zstd"], &format!("oci:{}:app:1", at("layout-zstd")));
    copy(&[], &format!("oci-archive:{}:app:1", at("oci.tar")));
    for name in ["docker.tar", "oci.tar"] {
        fs::write(at(&format!("{name}.gz")), gzip(&fs::read(at(name)).unwrap())).unwrap();
        #[cfg(feature = "zstd")]
        fs::write(at(&format!("{name}.zst")), zstd(&fs::read(at(name)).unwrap())).unwrap();
    }
    let all = [
        "docker.tar",
        "docker.tar.gz",
        "docker.tar.zst",
        "oci.tar",
        "oci.tar.gz",
        "oci.tar.zst",
        "layout",
        "layout-zstd",
    ];
    let all = all.iter().filter(|name| cfg!(feature = "zstd") || !name.contains("zst"));
    let store = Store::temp().unwrap();
    let mut ids = Vec::new();
    for name in all {
        let own = Store::temp().unwrap();
        for store in [&own, &store] {
            let loaded =
                Image::load(store, at(name)).unwrap_or_else(|error| panic!("{name}: {error}")).remove(0);
            assert_eq!(names(&loaded), ["app:1"], "{name}");
            assert_eq!(
                loaded.config().diff_ids(),
                image.layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>()
            );
            ids.push((name.contains("docker"), *loaded.id()));
        }
    }
    // skopeo writes docker's configuration as it was, and OCI's in its own words, but always in the same.
    for (docker, id) in &ids {
        assert_eq!(
            id,
            if *docker {
                ids.iter().find(|(docker, _)| *docker)
            } else {
                ids.iter().find(|(docker, _)| !*docker)
            }
            .map(|(_, id)| id)
            .unwrap()
        );
    }
    assert_eq!(ids[0].1, image.id());
    assert_eq!(count(store.path().join("layers")), 2);
    // From OCI back to docker's archive the configuration stays: one id in all of them.
    let from_oci = format!("oci-archive:{}", at("oci.tar"));
    peer(
        "skopeo",
        [
            "copy",
            "--quiet",
            "--insecure-policy",
            &from_oci,
            &format!("docker-archive:{}:app:2", at("back.tar")),
        ],
    );
    let back = Image::load(&store, at("back.tar")).unwrap().remove(0);
    assert_eq!(back.id(), &ids.iter().find(|(docker, _)| !*docker).unwrap().1);
}

#[test]
#[ignore = "needs skopeo: run with --include-ignored"]
fn what_skopeo_puts_into_the_store_is_an_image() {
    let store = Store::temp().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let image = Fixture::new(&["one", "two"]);
    let source = dir.path().join("source.tar");
    fs::write(&source, docker_archive(&[(&image, &["app:1"])])).unwrap();
    let target = format!("oci:{}:app:1", store.path().display());
    peer(
        "skopeo",
        ["copy", "--quiet", "--insecure-policy", &format!("docker-archive:{}", source.display()), &target],
    );
    let found = store.image("app:1").unwrap();
    assert_eq!(found.config().diff_ids().len(), 2);
    // Its layers count as ours from now on.
    assert_eq!(store.remove_image("app:1").unwrap().untagged.len(), 1);
    drop(found);
    store.prune_images(false).unwrap();
    assert_empty(&store);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_busybox_root_filesystem_is_imported() {
    let busybox = fs::read("/bin/busybox").expect("this test needs busybox-static");
    let rootfs =
        tar([("bin/", Node::Dir), ("bin/busybox", Node::File(&busybox)), ("bin/sh", Node::Link("busybox"))]);
    let store = Store::temp().unwrap();
    let image = Import::new().name("busybox").cmd(["sh"]).reader(&store, &gzip(&rootfs)[..]).unwrap();
    assert_eq!(image.config().diff_ids(), [Digest::of(&rootfs)]);
    let mut layers = fs::read_dir(store.path().join("layers")).unwrap();
    let layer = layers.next().unwrap().unwrap().path().join("fs/bin");
    assert!(layers.next().is_none());
    assert_eq!(fs::read(layer.join("busybox")).unwrap(), busybox);
    assert_eq!(fs::read_link(layer.join("sh")).unwrap(), Path::new("busybox"));
}

/// A root filesystem goes through the tools that people have, comes in in each of their forms, and its program runs.
#[test]
#[ignore = "needs skopeo, umoci and busybox: run with --include-ignored"]
fn busybox_comes_in_every_form_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let busybox = fs::read("/bin/busybox").expect("this test needs busybox-static");
    let mut rootfs = tar::Builder::new(Vec::new());
    for (path, mode, data) in [("bin/busybox", 0o755, &busybox[..]), ("etc/motd", 0o644, b"ahoy\n")] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        rootfs.append_data(&mut header, path, data).unwrap();
    }
    fs::write(at("rootfs.tar"), rootfs.into_inner().unwrap()).unwrap();
    fs::write(at("rootfs.tar.gz"), gzip(&fs::read(at("rootfs.tar")).unwrap())).unwrap();

    let image = format!("{}:busybox", at("umoci"));
    peer("umoci", ["init", "--layout", &at("umoci")]);
    peer("umoci", ["new", "--image", &image]);
    peer("umoci", ["raw", "add-layer", "--image", &image, &at("rootfs.tar")]);
    peer(
        "umoci",
        [
            "config",
            "--image",
            &image,
            "--config.entrypoint",
            "/bin/busybox",
            "--config.cmd",
            "cat",
            "--config.cmd",
            "/etc/motd",
        ],
    );
    for target in ["docker-archive:docker.tar:busybox:1", "oci-archive:oci.tar:busybox:1"] {
        let (kind, rest) = target.split_once(':').unwrap();
        let target = format!("{kind}:{}", at(rest));
        peer("skopeo", ["copy", "--quiet", "--insecure-policy", &format!("oci:{image}"), &target]);
    }
    let mut ran = 0;
    let mut run = |image: &Image, words: &[&str]| {
        let out = coracle::Container::builder(image).args(words).run().unwrap();
        assert_eq!(out.stdout_text(), "ahoy\n", "{}", out.stderr_text());
        ran += 1;
    };
    for form in ["umoci", "docker.tar", "oci.tar"] {
        let store = Store::temp().unwrap();
        run(&Image::load(&store, at(form)).unwrap()[0], &[]);
    }
    for form in ["rootfs.tar", "rootfs.tar.gz"] {
        let store = Store::temp().unwrap();
        let import = Import::new().entrypoint(["/bin/busybox"]);
        run(&import.path(&store, at(form)).unwrap(), &["cat", "/etc/motd"]);
    }
    assert_eq!(ran, 5);
}
