#![forbid(unsafe_code)]

use super::*;
use crate::layer::testing::Raw;
use crate::store::Base;
use crate::sys::idmap::IdMap;
use std::os::unix::fs::MetadataExt;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn archive() -> Vec<u8> {
    // Several chunks, so that threads really wait for each other.
    let text: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    Raw::new().dir("d").file("d/f", &text).end()
}

fn left(store: &Store) -> (usize, usize, usize) {
    let count = |dir: &str| std::fs::read_dir(store.path().join(dir)).unwrap().count();
    (count("tmp"), count("layers"), count("blobs/sha256"))
}

#[test]
fn one_pass_gives_all_digests() {
    let store = Store::temp().unwrap();
    let plain = archive();
    let packed = gzip(&plain);
    for (blob, compression) in [(&packed, Compression::Gzip), (&plain, Compression::None)] {
        let applied = apply(&store, &blob[..], Expected::default(), &[], None).unwrap();
        assert_eq!((applied.digest, applied.size), (Digest::of(blob), blob.len() as u64));
        assert_eq!((applied.diff_id, applied.chain_id), (Digest::of(&plain), Digest::of(&plain)));
        assert_eq!((applied.compression, applied.entries), (compression, 2));
        assert_eq!(applied.unpacked.key(), &owner::for_caller().base().file(&applied.diff_id));
        let meta: LayerMeta = applied.unpacked.meta().unwrap();
        assert_eq!((meta.digest, meta.bytes), (Some(Digest::of(&packed)), plain.len() as u64));
    }
    // Two blobs, one layer.
    assert_eq!(left(&store), (0, 1, 2));
}

#[test]
fn a_blob_that_is_not_as_promised_is_a_mismatch() {
    let plain = archive();
    let packed = gzip(&plain);
    let other = Digest::of(b"other");
    for blob in [&plain, &packed] {
        let (digest, size, diff_id) =
            (Some(Digest::of(blob)), Some(blob.len() as u64), Some(Digest::of(&plain)));
        let good = Expected { digest, size, diff_id };
        let mut flipped = blob.clone();
        flipped[blob.len() / 2] ^= 1;
        let longer = [&blob[..], b"\0"].concat();
        let table = [
            ("digest", &blob[..], Expected { digest: Some(other), ..good }),
            ("digest alone", &blob[..], Expected { digest: Some(other), ..Expected::default() }),
            ("diff_id", &blob[..], Expected { diff_id: Some(other), ..good }),
            ("diff_id alone", &blob[..], Expected { diff_id: Some(other), ..Expected::default() }),
            ("size", &blob[..], Expected { size: size.map(|size| size + 1), ..good }),
            ("size alone", &blob[..], Expected { size: size.map(|size| size - 1), ..Expected::default() }),
            ("a flipped bit", &flipped[..], good),
            ("one byte less", &blob[..blob.len() - 1], good),
            ("half of it", &blob[..blob.len() / 2], good),
            ("nothing", &[], good),
            ("one byte more", &longer[..], good),
        ];
        for (what, bytes, expected) in table {
            let store = Store::temp().unwrap();
            let error = apply(&store, bytes, expected, &[], None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{what}: {error}");
            let (tmp, layers, _) = left(&store);
            assert_eq!((tmp, layers), (0, 0), "{what}");
        }
        let store = Store::temp().unwrap();
        apply(&store, &blob[..], good, &[], None).unwrap();
    }
}

#[test]
fn an_endless_blob_ends_at_its_promised_size() {
    let store = Store::temp().unwrap();
    let expected = Expected { size: Some(1 << 20), ..Expected::default() };
    let endless = std::io::repeat(0x1f);
    let error = apply(&store, endless, expected, &[], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    let archive = Raw::new().header(b"f", b'0', 1 << 32, |_| ()).0;
    let error = apply(&store, archive.chain(std::io::repeat(7)), expected, &[], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert_eq!(left(&store), (0, 0, 0));
}

#[test]
fn an_error_of_the_source_comes_back_as_it_was() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += buffer.len();
            if self.0 > 1 << 20 {
                return Err(Error::new(ErrorKind::TimedOut, "the registry").into());
            }
            buffer.fill(0x42);
            Ok(buffer.len())
        }
    }
    let store = Store::temp().unwrap();
    let header = Raw::new().header(b"f", b'0', 1 << 32, |_| ()).0;
    let packed = gzip(&header);
    for head in [&header, &packed[..packed.len() - 8].to_vec()] {
        let error = apply(&store, head.chain(Broken(0)), Expected::default(), &[], None).unwrap_err();
        let kinds = [ErrorKind::TimedOut, ErrorKind::InvalidData];
        assert!(kinds.contains(&error.kind()), "{error}");
        if head.len() == header.len() {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
    }
    assert_eq!(left(&store), (0, 0, 0));
}

#[test]
fn an_unpacked_layer_is_verified_and_not_unpacked_again() {
    let store = Store::temp().unwrap();
    let plain = archive();
    let packed = gzip(&plain);
    let expected = Expected { diff_id: Some(Digest::of(&plain)), ..Expected::default() };
    let first = apply(&store, &plain[..], expected, &[], None).unwrap();
    let inode = || std::fs::metadata(first.unpacked.fs_path().join("d/f")).unwrap().ino();
    let before = inode();
    apply(&store, &packed[..], expected, &[], None).unwrap();
    assert_eq!(inode(), before);
    let mut broken = packed.clone();
    let at = broken.len() - 6;
    broken[at] ^= 1;
    let error = apply(&store, &broken[..], expected, &[], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    // From the store itself.
    let again = unpack_stored(&store, first.digest, Some(first.diff_id), &[], None).unwrap();
    assert_eq!(again.unpacked.key(), first.unpacked.key());
    let missing = unpack_stored(&store, Digest::of(b"?"), None, &[], None).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn an_archive_without_end_mark_needs_a_digest() {
    let store = Store::temp().unwrap();
    let archive = Raw::new().file("f", "x").0;
    let error = apply(&store, &archive[..], Expected::default(), &[], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let expected = Expected { diff_id: Some(Digest::of(&archive)), ..Expected::default() };
    assert_eq!(apply(&store, &archive[..], expected, &[], None).unwrap().entries, 1);
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let store = Store::temp().unwrap();
    let header = Raw::new().header(b"f", b'0', 64 << 20, |_| ()).0;
    let bomb = gzip(&[&header[..], &vec![0; 64 << 20]].concat());
    let owners = owner::for_caller();
    let limits = Limits { bytes: Some(1 << 20), ..Limits::default() };
    let job = Job {
        store: &store,
        expected: Expected::default(),
        lowers: super::Lowers::Ready(&[]),
        parent: None,
        owners: &*owners,
        limits,
    };
    let error = job.run(&bomb[..], Some(store.blob_writer().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(left(&store), (0, 0, 0));
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let digest = |c: &str| format!("sha256:{}", c.repeat(64)).parse::<Digest>().unwrap();
    let (a, b) = (digest("a"), digest("b"));
    assert_eq!(chain_id(None, &a), a);
    assert_eq!(chain_id(Some(&a), &b), Digest::of(format!("{a} {b}").as_bytes()));
}

/// What was unpacked for some ids is another layer for others, and stays beside it while an image has it.
#[test]
fn a_layer_with_some_ids_is_not_taken_for_one_with_others() {
    /// An ordinary user whose sub-ids begin there; what it does on disk does not matter here.
    struct Sub(u32);
    impl Owners for Sub {
        fn base(&self) -> Base {
            Base::of(&IdMap::range(self.0, 65536))
        }

        fn apply(&self, _: std::os::fd::BorrowedFd<'_>, _: &[owner::Owned]) -> Result<()> {
            Ok(())
        }
    }
    let store = Store::temp().unwrap();
    let plain = archive();
    let unpack = |owners: &dyn Owners| {
        let (expected, limits) = (Expected::default(), Limits::default());
        let job =
            Job { store: &store, expected, lowers: super::Lowers::Ready(&[]), parent: None, owners, limits };
        job.run(&plain[..], Some(store.blob_writer().unwrap())).unwrap().unpacked
    };
    let everybody: [&dyn Owners; 4] = [&owner::Direct, &owner::Recorded, &Sub(100_000), &Sub(200_000)];
    let layers = everybody.map(unpack);
    let keys: std::collections::BTreeSet<_> = layers.iter().map(|layer| layer.key().hex()).collect();
    assert_eq!(keys.len(), everybody.len());
    assert_eq!(left(&store), (0, 4, 1));
    for (owners, layer) in everybody.iter().zip(&layers) {
        let meta: LayerMeta = layer.meta().unwrap();
        assert_eq!((meta.base, meta.chain_id), (owners.base(), Some(Digest::of(&plain))));
        let diff_id = Digest::of(&plain);
        assert_eq!(find(&store, &diff_id, &diff_id, *owners).unwrap().unwrap().key(), layer.key());
    }
    drop(layers);
    // No image has it.
    store.collect_garbage().unwrap();
    assert_eq!(left(&store), (0, 0, 0));
}
