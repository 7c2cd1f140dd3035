//! Layers that come small and get large: on a filesystem that they would fill.

use super::*;
use std::io::Read;
use std::path::Path;

const DISK: &str = "CORACLE_TEST_SMALL_DISK";
const SIZE: u64 = 300 << 20;

/// An archive with a file of zeros.
fn zeros() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(SIZE);
    archive.append_data(&mut header, "zeros", std::io::repeat(0).take(SIZE)).unwrap();
    archive.into_inner().unwrap()
}

/// Pulls a bomb, and then what is none, from a registry in this process.
fn defuse(disk: &Path, compress: fn(&[u8]) -> Vec<u8>, suffix: &str) {
    let free = || rustix::fs::statvfs(disk).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    let mut content = content(&["small"]);
    let (media_type, manifest) = content.add(REPOSITORY, &Fixture::of(vec![zeros()]), compress, suffix);
    content.manifest(REPOSITORY, "bomb", &media_type, manifest);
    let layer = content.json("/v2/me/app/manifests/bomb")["layers"][0].clone();
    assert!(layer["size"].as_u64().unwrap() < 4 << 20, "{layer}");
    let digest = layer["digest"].as_str().unwrap().to_owned();
    let server = Server::honest(content);
    let store = Store::open(disk.join("store")).unwrap();
    let before = free();
    let error = Image::pull(&store, &server.name("me/app:bomb")).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{text}");
    for part in ["pulling me/app:bomb", &server.authority(), "pulling the layer", &digest, "to stay free"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_no_image(&store);
    for room in ["blobs/sha256", "layers"] {
        assert_eq!(count(store.path().join(room)), 0, "{room}");
    }
    assert!(free() + (1 << 20) > before, "{} of {before}", free());
    Image::pull(&store, &server.name(NAME)).unwrap();
    assert!(store.verify().unwrap().is_sound());
}

/// In a mount namespace of its own, with a small filesystem.
fn on_a_small_disk(test: &str, compress: fn(&[u8]) -> Vec<u8>, suffix: &str) {
    if let Some(disk) = std::env::var_os(DISK) {
        return defuse(Path::new(&disk), compress, suffix);
    }
    let disk = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=128m tmpfs $1; export {DISK}=$1; exec $2 --exact $3 --include-ignored"
    );
    let (disk, program) = (disk.path().to_str().unwrap(), program.to_str().unwrap());
    // An ordinary user mounts where it is root: in a user namespace of its own.
    let mut words = vec!["--mount", "--propagation", "private"];
    if !is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend(["sh", "-ec", &script, "sh", disk, program, test]);
    let said = peer("unshare", words);
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn a_gzip_bomb_does_not_fill_the_disk() {
    on_a_small_disk("bombs::a_gzip_bomb_does_not_fill_the_disk", gzip, "+gzip");
}

#[cfg(feature = "zstd")]
#[test]
fn a_zstd_bomb_does_not_fill_the_disk() {
    on_a_small_disk("bombs::a_zstd_bomb_does_not_fill_the_disk", zstd, "+zstd");
}
