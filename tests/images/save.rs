//! Images into archives, and what reads them.

use super::*;
use coracle::{ArchiveFormat, Save};

const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive];

fn save(format: ArchiveFormat, images: &[&Image]) -> Vec<u8> {
    let mut archive = Vec::new();
    let all = images.iter().fold(Save::new().format(format), |all, image| all.image(image).unwrap());
    all.write(&mut archive).unwrap();
    archive
}

/// Two images with a layer in common, of which one is compressed, as it came.
fn two(store: &Store) -> (Image, Image) {
    let (base, above) = (Fixture::new(&["base"]), Fixture::new(&["base", "above"]));
    let first = load(store, &docker_archive(&[(&base, &["base:1", "localhost:5000/me/base"])])).unwrap();
    let members = oci_members(&above, Some("above:1"), "+gzip", gzip);
    let second = load(store, &pack(&members)).unwrap();
    (first[0].clone(), second[0].clone())
}

#[test]
fn what_is_saved_comes_back_with_the_same_digests() {
    let store = Store::temp().unwrap();
    let (base, above) = two(&store);
    for format in FORMATS {
        let archive = save(format, &[&base, &above]);
        assert_eq!(archive, save(format, &[&base, &above]), "the same bytes each time");
        let elsewhere = Store::temp().unwrap();
        let loaded = load(&elsewhere, &archive).unwrap();
        assert_eq!(loaded.len(), 2);
        for (before, after) in [&base, &above].into_iter().zip(&loaded) {
            assert_eq!((before.digest(), before.id()), (after.digest(), after.id()));
            assert_eq!(names(before), names(after));
            for layer in after.layer_descriptors() {
                let blob = fs::read(elsewhere.path().join("blobs/sha256").join(layer.digest.hex())).unwrap();
                assert_eq!(Digest::of(&blob), layer.digest);
            }
        }
        // From there it is the same archive.
        assert_eq!(archive, save(format, &[&loaded[0], &loaded[1]]));
    }
    let mut archive = Vec::new();
    above.save(&mut archive).unwrap();
    assert_eq!(archive, save(ArchiveFormat::DockerArchive, &[&above]));
    // What an old engine reads of it: docker's list alone leads to all of it.
    let mut members = tar::Archive::new(&archive[..]);
    let list = members.entries().unwrap().map(Result::unwrap).find(|entry| {
        entry.path().unwrap() == Path::new("manifest.json") && entry.header().mtime().unwrap() == 0
    });
    let list: Value = serde_json::from_reader(list.unwrap()).unwrap();
    assert_eq!(list[0]["Config"], format!("blobs/sha256/{}", above.id().hex()));
    assert_eq!(list[0]["RepoTags"], json!(["above:1"]));
    assert_eq!(list[0]["Layers"].as_array().unwrap().len(), 2);
}

#[test]
fn an_archive_has_the_names_that_were_asked_for_and_each_blob_once() {
    let store = Store::temp().unwrap();
    let (base, _) = two(&store);
    let mut archive = Vec::new();
    let (one, two) = ("one:1".parse().unwrap(), "two:2".parse().unwrap());
    Save::new().image_as(&base, [one]).image_as(&base, [two]).write(&mut archive).unwrap();
    let elsewhere = Store::temp().unwrap();
    let loaded = load(&elsewhere, &archive).unwrap();
    assert_eq!((loaded.len(), names(&loaded[0])), (1, vec!["one:1".to_owned(), "two:2".to_owned()]));
    let mut archive = Vec::new();
    Save::new().image_as(&base, []).write(&mut archive).unwrap();
    let nameless = Store::temp().unwrap();
    assert!(names(&load(&nameless, &archive).unwrap()[0]).is_empty());

    let kind = |save: Save| save.write(io::sink()).unwrap_err().kind();
    assert_eq!(kind(Save::new()), ErrorKind::InvalidInput);
    assert_eq!(kind(Save::new().image(&Image::host(&store).unwrap()).unwrap()), ErrorKind::Unsupported);
    let digest = format!("base@{}", base.digest()).parse().unwrap();
    assert_eq!(kind(Save::new().image_as(&base, [digest])), ErrorKind::InvalidInput);
}

#[test]
fn a_damaged_blob_is_not_saved_as_if_it_were_whole() {
    let store = Store::temp().unwrap();
    let (base, _) = two(&store);
    let path = store.path().join("blobs/sha256").join(base.layer_descriptors()[0].digest.hex());
    let sound = fs::read(&path).unwrap();
    let mut other = sound.clone();
    other[0] ^= 1;
    for (content, kind) in [(other, ErrorKind::Mismatch), (sound[1..].to_vec(), ErrorKind::Mismatch)] {
        fs::write(&path, content).unwrap();
        let error = base.save(io::sink()).unwrap_err();
        assert!(error.kind() == kind && error.remedy().is_some(), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(base.save(io::sink()).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(&path, sound).unwrap();
    base.save(io::sink()).unwrap();
    // A writer that is full.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(base.save(full).unwrap_err().kind(), ErrorKind::StorageFull);
}

#[test]
#[ignore = "needs skopeo and umoci: run with --include-ignored"]
fn skopeo_and_umoci_read_what_was_saved() {
    let store = Store::temp().unwrap();
    let (_, above) = two(&store);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (format, file, kind) in
        [(FORMATS[0], "docker.tar", "docker-archive"), (FORMATS[1], "oci.tar", "oci-archive")]
    {
        above.save_as(format, fs::File::create(at(file)).unwrap()).unwrap();
        let source = format!("{kind}:{}:above:1", at(file));
        let config = peer("skopeo", ["inspect", "--config", "--raw", &source]);
        assert_eq!(Digest::of(config.as_bytes()), *above.id(), "{kind}");
        // All of it, verified by skopeo.
        let copy = format!("dir:{}", at(kind));
        peer("skopeo", ["copy", "--quiet", "--insecure-policy", &source, &copy]);
    }
    let source = format!("oci-archive:{}:above:1", at("oci.tar"));
    let seen: Value = serde_json::from_str(&peer("skopeo", ["inspect", &source])).unwrap();
    assert_eq!(seen["Digest"], above.digest().to_string());
    // umoci reads directories.
    fs::create_dir(at("layout")).unwrap();
    tar::Archive::new(fs::File::open(at("docker.tar")).unwrap()).unpack(at("layout")).unwrap();
    let image = format!("{}:above:1", at("layout"));
    peer("umoci", ["unpack", "--rootless", "--image", &image, &at("bundle")]);
    assert_eq!(fs::read_to_string(Path::new(&at("bundle")).join("rootfs/dir/file1")).unwrap(), "above");
}

#[test]
#[ignore = "needs podman: run with --include-ignored"]
fn podman_loads_what_was_saved() {
    let store = Store::temp().unwrap();
    let (base, above) = two(&store);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // An ordinary user's podman leaves a process that holds its user namespace, for the next one: here our own.
    let runtime = format!("XDG_RUNTIME_DIR={}", dir.path().display());
    for (n, format) in FORMATS.into_iter().enumerate() {
        let (archive, root) = (at(&format!("{n}.tar")), at(&format!("root{n}")));
        let images: &[&Image] = if n == 0 { &[&base, &above] } else { &[&above] };
        fs::write(&archive, save(format, images)).unwrap();
        let run = at(&format!("run{n}"));
        let podman = |args: &[&str]| {
            let own = [&runtime, "podman", "--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
            peer("env", own.iter().chain(args))
        };
        podman(&["load", "--quiet", "--input", &archive]);
        for image in images {
            let name = &names(image)[0];
            assert_eq!(podman(&["image", "inspect", "--format", "{{.Id}}", name]).trim(), image.id().hex());
        }
        podman(&["rmi", "--all", "--force"]);
        // Ends that process.
        podman(&["system", "migrate"]);
    }
}
