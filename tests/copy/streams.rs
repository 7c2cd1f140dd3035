//! Archives, in and out.

use super::*;
use coracle::ErrorKind;

/// A tar entry of any kind.
fn entry(kind: tar::EntryType, path: &str, link: &str, data: &[u8], ids: (u64, u64)) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(0o644);
    header.set_mtime(1_600_000_000);
    header.set_uid(ids.0);
    header.set_gid(ids.1);
    header.set_size(data.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

#[test]
fn an_archive_is_unpacked_and_packed() {
    let plain = archive(&[
        entry(Regular, "a/b/f", "", b"deep", (0, 0)),
        entry(Directory, "e/", "", b"", (0, 0)),
        entry(Link, "e/hard", "a/b/f", b"", (0, 0)),
        entry(Symlink, "s", "a/b", b"", (0, 0)),
        entry(Regular, "/absolute", "", b"here", (0, 0)),
        entry(Fifo, "p", "", b"", (0, 0)),
        // Through the link, as for every other unpacker in a root of its own.
        entry(Regular, "s/through", "", b"link", (0, 0)),
    ]);
    everywhere(|container| {
        for (i, archive) in [plain.clone(), gzip(&plain)].iter().enumerate() {
            let dir = format!("/stream{i}");
            let error = container.copying().copy_in_tar(&archive[..], &dir).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            let made = tempfile::tempdir().unwrap();
            container.copy_in(made.path(), &dir).unwrap();
            let copied = container.copying().copy_in_tar(&archive[..], &dir).unwrap();
            assert_eq!((copied.entries(), copied.bytes()), (7, 12));
            let expected = [
                "a/",
                "a/b/",
                "a/b/f=deep",
                "a/b/through=link",
                "absolute=here",
                "e/",
                "e/hard==./a/b/f",
                "p|",
                "s->a/b",
            ];
            assert_eq!(inside(container, &dir), expected);
        }
        // Under its own name, and of a file alone.
        let mut out = Vec::new();
        let copied = container.copying().copy_out_tar("/stream0/a/b", &mut out).unwrap();
        assert_eq!(listed(&out), ["b/", "b/f=deep", "b/through=link"]);
        assert_eq!((copied.entries(), copied.bytes()), (3, 8));
        let mut out = Vec::new();
        container.copying().copy_out_tar("/stream0/s", &mut out).unwrap();
        assert_eq!(listed(&out), ["s->a/b"]);
        let mut out = Vec::new();
        container.copying().follow(true).copy_out_tar("/stream0/s", &mut out).unwrap();
        assert_eq!(listed(&out), ["s/", "s/f=deep", "s/through=link"]);
    });
}

#[test]
fn what_leads_out_of_an_archive_stays_in_the_container() {
    let canary = tempfile::tempdir_in("/tmp").unwrap();
    let secret = canary.path().join("secret");
    fs::write(&secret, "canary").unwrap();
    let out = canary.path().to_str().unwrap();
    let up = format!("{}{}", "../".repeat(20), &out[1..]);
    everywhere(|container| {
        // Names with `..` are refused.
        for path in ["../x", "a/../../x", "/../x", "a/.."] {
            let bad = archive(&[entry(Regular, path, "", b"evil", (0, 0))]);
            let error = container.copying().copy_in_tar(&bad[..], "/etc").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{path}: {error}");
            let bad = archive(&[entry(Link, "hard", path, b"", (0, 0))]);
            let error = container.copying().copy_in_tar(&bad[..], "/etc").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{path}: {error}");
        }
        // Links of the archive are followed in the container's root.
        for link in [out, &up] {
            let bad = archive(&[
                entry(Symlink, "way", link, b"", (0, 0)),
                entry(Regular, "way/secret", "", b"evil", (0, 0)),
            ]);
            match container.copying().copy_in_tar(&bad[..], "/etc") {
                Ok(_) => assert_eq!(read(container, secret.to_str().unwrap()), "evil"),
                // What the link leads to is not there.
                Err(error) => {
                    assert!(
                        [ErrorKind::NotFound, ErrorKind::AlreadyExists].contains(&error.kind()),
                        "{error}"
                    )
                }
            }
            let bad = archive(&[entry(Link, "way/stolen", "way/secret", b"", (0, 0))]);
            let _ = container.copying().copy_in_tar(&bad[..], "/etc");
            let bad = archive(&[entry(Symlink, "target", &format!("{link}/secret"), b"", (0, 0))]);
            container.copying().copy_in_tar(&bad[..], "/etc").unwrap();
            let over = archive(&[entry(Regular, "target", "", b"evil", (0, 0))]);
            container.copying().copy_in_tar(&over[..], "/etc").unwrap();
            assert_eq!(read(container, "/etc/target"), "evil");
        }
        assert_eq!(fs::read_to_string(&secret).unwrap(), "canary");
        assert_eq!(outside(canary.path()), ["secret=canary"]);
    });
}

#[test]
fn devices_and_broken_archives_are_refused() {
    everywhere(|container| {
        for kind in [Char, Block] {
            let bad = archive(&[entry(kind, "disk", "", b"", (0, 0))]);
            let error = container.copying().copy_in_tar(&bad[..], "/etc").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
        let good = archive(&[entry(Regular, "cut", "", &[b'x'; 4000], (0, 0))]);
        for bad in [&good[..3000], b"no archive at all", &good[..good.len() - 1024]] {
            let error = container.copying().copy_in_tar(bad, "/etc").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        }
        // A directory is not replaced by a file, nor the place itself.
        for path in ["./", "/"] {
            let bad = archive(&[entry(Symlink, path, "/tmp", b"", (0, 0))]);
            assert!(container.copying().copy_in_tar(&bad[..], "/etc").is_err());
        }
        let bad = archive(&[entry(Link, "self", "self", b"", (0, 0))]);
        assert!(container.copying().copy_in_tar(&bad[..], "/etc").is_err());
    });
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"middle", 32 << 20).unwrap();
    drop(file);
    let out = dir.path().join("out");
    everywhere(|container| {
        let copied = container.copy_in(&path, "/sparse").unwrap();
        assert_eq!(copied.bytes(), 64 << 20);
        container.copy_out("/sparse", &out).unwrap();
        let meta = fs::metadata(&out).unwrap();
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        assert!(fs::read(&out).unwrap() == fs::read(&path).unwrap());
        // Nor does an archive have them.
        let mut archive = Vec::new();
        let copied = container.copying().copy_out_tar("/sparse", &mut archive).unwrap();
        assert_eq!(copied.bytes(), 64 << 20);
        assert!(archive.len() < 1 << 20, "{} bytes", archive.len());
        container.copying().copy_in_tar(&archive[..], "/etc").unwrap();
        container.copy_out("/etc/sparse", &out).unwrap();
        assert!(fs::read(&out).unwrap() == fs::read(&path).unwrap());
    });
}

#[test]
fn a_writer_that_fails_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let container = Container::builder(&empty(host().store())).command(["/none"]).create().unwrap();
    let error = container.copying().copy_out_tar("/etc", Full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
}
