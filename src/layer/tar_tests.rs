#![forbid(unsafe_code)]

use super::*;
use crate::layer::testing::{Random, Raw, damage, octal, record};

fn entries(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(archive, ReadLimits::default());
    let mut found = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        reader.by_ref().take(1 << 20).read_to_end(&mut data).call("read")?;
        found.push((entry, data));
    }
    Ok(found)
}

fn one(archive: Vec<u8>) -> (Entry, Vec<u8>) {
    let mut found = entries(&archive).unwrap();
    assert_eq!(found.len(), 1);
    found.pop().unwrap()
}

#[test]
fn long_names_come_in_four_ways() {
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(90));
    let ustar = Raw::new().header(&[b'n'; 90], b'0', 0, |h| h[345..435].fill(b'd')).end();
    let gnu = Raw::new().extended(b'L', format!("{long}\0").as_bytes()).file("short", "").end();
    let pax = Raw::new().pax(&[("path", long.as_bytes())]).file("short", "").end();
    let both =
        Raw::new().pax(&[("path", long.as_bytes())]).extended(b'L', long.as_bytes()).file("short", "").end();
    for archive in [ustar, gnu, pax, both] {
        assert_eq!(one(archive).0.path, long.as_bytes());
    }
    let target = "t".repeat(200);
    for archive in [
        Raw::new().extended(b'K', format!("{target}\0").as_bytes()).symlink("s", "short").end(),
        Raw::new().pax(&[("linkpath", target.as_bytes())]).symlink("s", "short").end(),
    ] {
        assert_eq!(one(archive).0.link, target.as_bytes());
    }
}

#[test]
fn gnu_headers_have_no_prefix() {
    // GNU tar keeps times where ustar has the prefix.
    let archive = Raw::new()
        .header(b"name", b'0', 0, |h| {
            h[257..265].copy_from_slice(b"ustar  \0");
            octal(&mut h[345..357], 1);
        })
        .end();
    assert_eq!(one(archive).0.path, b"name");
}

#[test]
fn old_archives_mark_directories_by_a_slash() {
    let archive = Raw::new().header(b"dir/", 0, 0, |h| h[257..265].fill(0)).end();
    assert_eq!(one(archive).0.kind, EntryKind::Directory);
    let archive = Raw::new().header(b"file", 0, 3, |h| h[257..265].fill(0)).data(b"abc").end();
    let (entry, data) = one(archive);
    assert_eq!((entry.kind, &data[..]), (EntryKind::File, &b"abc"[..]));
}

#[test]
fn numbers_in_base_256() {
    let archive = Raw::new()
        .header(b"f", b'0', 3, |h| {
            h[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            h[136..148].copy_from_slice(&[0xff; 12]);
            h[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0, 0, 1]);
        })
        .data(b"abc")
        .end();
    let (entry, data) = one(archive);
    assert_eq!(data, b"abc");
    assert_eq!(entry.mtime, Mtime { secs: -1, nanos: 0 });
    assert_eq!(entry.uid, 0xff00_0001);
    assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Some(256));
    assert_eq!(number(&[0x8f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Some(0x0fff_ffff_ffff_ffff));
    assert_eq!(number(&[0xc0, 0, 0, 0, 0, 0, 0, 0]), Some(-(1 << 62)));
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"   644 \0"), Some(0o644));
    assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
    assert_eq!(number(b"        "), Some(0));
    assert_eq!(number(b"00009\0\0\0"), None);
    assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
}

#[test]
fn pax_gives_what_a_header_cannot() {
    let mut global = record("uid", b"5");
    global.extend(record("comment", b"x"));
    let archive = Raw::new()
        .extended(b'g', &global)
        .pax(&[
            ("mtime", b"-1.25"),
            ("gid", b"3000000000"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\x0a\0\0\0"),
            ("SCHILY.xattr.user.empty", b""),
            ("LIBARCHIVE.xattr.user.a%20b", b"aGk"),
        ])
        .file("f", "")
        .file("g", "")
        .end();
    let found = entries(&archive).unwrap();
    let f = &found[0].0;
    assert_eq!((f.uid, f.gid, f.mtime), (5, 3_000_000_000, Mtime { secs: -2, nanos: 750_000_000 }));
    let names: Vec<_> = f.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
    let expected: [(&[u8], &[u8]); 3] =
        [(b"security.capability", b"\x01\0\0\x02\x0a\0\0\0"), (b"user.a b", b"hi"), (b"user.empty", b"")];
    assert_eq!(names, expected);
    // An extended header is for one entry, a global one for all.
    let g = &found[1].0;
    assert_eq!((g.uid, g.gid, g.xattrs.len()), (5, 0, 0));
}

#[test]
fn a_size_in_pax_is_not_that_of_the_headers_between() {
    let archive = Raw::new()
        .pax(&[("size", b"5")])
        .extended(b'L', b"name\0")
        .header(b"x", b'0', 0, |_| ())
        .data(b"hello")
        .end();
    let (entry, data) = one(archive);
    assert_eq!((&entry.path[..], &data[..]), (&b"name"[..], &b"hello"[..]));
}

#[test]
fn a_size_without_data_is_not_skipped() {
    // Old writers give hard links the size of their file.
    let archive = Raw::new()
        .header(b"link", b'1', 4096, |h| h[157..161].copy_from_slice(b"file"))
        .file("next", "data")
        .end();
    let found = entries(&archive).unwrap();
    assert_eq!((found[0].0.size, &found[1].0.path[..]), (0, &b"next"[..]));
}

/// 3 bytes at 4, 2 at 4096, and nothing up to 5000.
fn sparse_expected() -> Vec<u8> {
    let mut data = vec![0; 5000];
    data[4..7].copy_from_slice(b"abc");
    data[4096..4098].copy_from_slice(b"de");
    data
}

fn sparse_archives() -> Vec<Vec<u8>> {
    let old = Raw::new()
        .header(b"s", b'S', 5, |h| {
            h[257..265].copy_from_slice(b"ustar  \0");
            octal(&mut h[386..398], 4);
            octal(&mut h[398..410], 3);
            octal(&mut h[410..422], 4096);
            octal(&mut h[422..434], 2);
            octal(&mut h[483..495], 5000);
        })
        .data(b"abcde")
        .end();
    // The same with the second piece in a block of its own.
    let mut more = [0; 512];
    octal(&mut more[..12], 4096);
    octal(&mut more[12..24], 2);
    let extended = Raw::new()
        .header(b"s", b'S', 5, |h| {
            h[257..265].copy_from_slice(b"ustar  \0");
            octal(&mut h[386..398], 4);
            octal(&mut h[398..410], 3);
            h[482] = 1;
            octal(&mut h[483..495], 5000);
        })
        .data(&more)
        .data(b"abcde")
        .end();
    let v0_0 = Raw::new()
        .pax(&[
            ("GNU.sparse.size", b"5000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"4"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"2"),
        ])
        .file("s", "abcde")
        .end();
    let v0_1 = Raw::new()
        .pax(&[
            ("GNU.sparse.size", b"5000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.map", b"4,3,4096,2"),
            ("GNU.sparse.name", b"s"),
        ])
        .file("GNUSparseFile.1/s", "abcde")
        .end();
    let mut data = b"2\n4\n3\n4096\n2\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    let v1_0 = Raw::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", b"5000"),
        ])
        .header(b"GNUSparseFile.1/s", b'0', data.len() as u64, |_| ())
        .data(&data)
        .end();
    vec![old, extended, v0_0, v0_1, v1_0]
}

#[test]
fn sparse_files_of_all_formats() {
    for (i, archive) in sparse_archives().into_iter().enumerate() {
        let (entry, data) = one(archive);
        assert_eq!(entry.path, b"s", "format {i}");
        assert_eq!((entry.size, entry.sparse), (5000, true), "format {i}");
        assert!(data == sparse_expected(), "format {i}");
    }
}

#[test]
fn what_follows_the_end_mark_is_not_read() {
    let mut archive = Raw::new().file("a", "").end();
    archive.extend_from_slice(&[0; 4096]);
    archive.extend_from_slice(b"whatever");
    assert_eq!(entries(&archive).unwrap().len(), 1);
}

#[test]
fn an_archive_without_end_mark_is_whole_only_where_a_digest_says_so() {
    let archive = Raw::new().file("a", "x").0;
    assert_eq!(entries(&archive).unwrap_err().kind(), ErrorKind::InvalidData);
    let mut reader = Reader::new(&archive[..], ReadLimits { unterminated: true, ..ReadLimits::default() });
    assert!(reader.next().unwrap().is_some());
    assert!(reader.next().unwrap().is_none());
    // One of no bytes is an empty one, and after the last file's data its filling may be missing.
    for cut in 0..archive.len() {
        let limits = ReadLimits { unterminated: true, ..ReadLimits::default() };
        let mut reader = Reader::new(&archive[..cut], limits);
        let is_whole = cut == 0 || cut > 512;
        assert_eq!(reader.next().and_then(|_| reader.next()).is_ok(), is_whole, "cut at {cut}");
        assert!(entries(&archive[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn cut_anywhere_it_is_an_error() {
    let mut archive = Raw::new()
        .extended(b'g', &record("comment", b"c"))
        .pax(&[("path", &[b'p'; 300])])
        .file("x", "data")
        .extended(b'L', &[b'l'; 600])
        .dir("d")
        .0;
    archive.extend(sparse_archives().concat().chunks(512).take_while(|b| b[0] != 0).flatten());
    archive.extend_from_slice(&[0; 1024]);
    assert!(entries(&archive).is_ok());
    // The second block of the end mark may be missing.
    for cut in 0..archive.len() - 1024 {
        let error = entries(&archive[..cut]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "cut at {cut}");
    }
}

#[test]
fn hostile_archives_are_refused() {
    use ErrorKind::{InvalidData, TooLarge, Unsupported};
    let sparse = |map: &str, size: &str| {
        Raw::new()
            .pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())])
            .file("s", "abcde")
            .end()
    };
    let huge = |fill: u8| {
        Raw::new().header(b"f", b'0', 0, |h| {
            h[124] = fill;
            h[125..136].fill(0xff);
        })
    };
    let base = Raw::new();
    let table = [
        (
            "wrong checksum",
            {
                let mut archive = base.clone().file("f", "").end();
                archive[0] = b'g';
                archive
            },
            InvalidData,
        ),
        ("not an archive", vec![b'x'; 2048], InvalidData),
        ("empty", Vec::new(), InvalidData),
        ("lone zero block", base.clone().file("a", "").data(&[0; 512]).file("b", "").end(), InvalidData),
        ("negative size", huge(0xff).end(), InvalidData),
        ("size beyond 64 bits", huge(0x80).end(), InvalidData),
        (
            "size that overflows when padded",
            base.clone().pax(&[("size", b"18446744073709551615")]).file("f", "").end(),
            InvalidData,
        ),
        (
            "size in PAX beyond 64 bits",
            base.clone().pax(&[("size", b"99999999999999999999")]).file("f", "").end(),
            InvalidData,
        ),
        ("negative size in PAX", base.clone().pax(&[("size", b"-1")]).file("f", "").end(), InvalidData),
        (
            "more data than there is",
            base.clone().header(b"f", b'0', 1 << 32, |_| ()).data(b"x").end(),
            InvalidData,
        ),
        ("user -1", base.clone().pax(&[("uid", b"4294967295")]).file("f", "").end(), InvalidData),
        ("huge group", base.clone().pax(&[("gid", b"4294967296")]).file("f", "").end(), InvalidData),
        ("huge PAX header", base.clone().header(b"x", b'x', (1 << 33) - 1, |_| ()).end(), TooLarge),
        (
            "PAX header above the limit",
            base.clone().pax(&[("comment", &vec![b'c'; 1 << 20])]).file("f", "").end(),
            TooLarge,
        ),
        ("huge long name", base.clone().header(b"x", b'L', 1 << 30, |_| ()).end(), TooLarge),
        (
            "global headers above the limit",
            {
                (0..3)
                    .fold(base.clone(), |raw, i| {
                        raw.extended(b'g', &record(&format!("k{i}"), &vec![b'c'; 500 << 10]))
                    })
                    .file("f", "")
                    .end()
            },
            TooLarge,
        ),
        (
            "two PAX headers for one entry",
            base.clone().pax(&[("a", b"b")]).pax(&[("a", b"b")]).file("f", "").end(),
            InvalidData,
        ),
        (
            "two names for one entry",
            base.clone().pax(&[("path", b"a")]).extended(b'L', b"b").file("f", "").end(),
            InvalidData,
        ),
        ("a NUL in a path", base.clone().pax(&[("path", b"a\0b")]).file("f", "").end(), InvalidData),
        (
            "a path for all entries",
            base.clone().extended(b'g', &record("path", b"a")).file("f", "").end(),
            InvalidData,
        ),
        (
            "a size for all entries",
            base.clone().extended(b'g', &record("size", b"1")).file("f", "").end(),
            InvalidData,
        ),
        ("a PAX header and no entry", base.clone().pax(&[("path", b"a")]).end(), InvalidData),
        ("no name", base.clone().file("", "").end(), InvalidData),
        ("a link without a target", base.clone().symlink("s", "").end(), InvalidData),
        ("a directory with data", base.clone().file("d/", "data").end(), InvalidData),
        ("a broken mtime", base.clone().pax(&[("mtime", b"tomorrow")]).file("f", "").end(), InvalidData),
        (
            "a broken attribute",
            base.clone().pax(&[("LIBARCHIVE.xattr.user.a", b"*")]).file("f", "").end(),
            InvalidData,
        ),
        (
            "an attribute without a name",
            base.clone().pax(&[("SCHILY.xattr.", b"v")]).file("f", "").end(),
            InvalidData,
        ),
        ("a multi-volume archive", base.clone().header(b"f", b'M', 0, |_| ()).end(), Unsupported),
        ("an unknown type", base.clone().header(b"f", b'!', 0, |_| ()).end(), Unsupported),
        ("overlapping pieces", sparse("0,3,2,2", "5000"), InvalidData),
        ("pieces in the wrong order", sparse("10,3,0,2", "5000"), InvalidData),
        ("pieces beyond the file", sparse("0,3,4999,2", "5000"), InvalidData),
        ("pieces beyond 64 bits", sparse("0,3,18446744073709551615,2", "5000"), InvalidData),
        ("more pieces than data", sparse("0,3,10,9", "5000"), InvalidData),
        ("less pieces than data", sparse("0,3", "5000"), InvalidData),
        ("half a piece", sparse("0,3,9", "5000"), InvalidData),
        (
            "a sparse map without end",
            {
                let map = b"9999999\n".iter().copied().chain(b"1\n".iter().copied().cycle()).take(2 << 20);
                let data: Vec<u8> = map.collect();
                base.clone()
                    .pax(&[
                        ("GNU.sparse.major", b"1"),
                        ("GNU.sparse.minor", b"0"),
                        ("GNU.sparse.realsize", b"1"),
                    ])
                    .header(b"s", b'0', data.len() as u64, |_| ())
                    .data(&data)
                    .end()
            },
            TooLarge,
        ),
        (
            "a sparse map of blocks without end",
            {
                let mut block = [0; 512];
                (0..21).for_each(|i| {
                    octal(&mut block[i * 24..i * 24 + 12], 0);
                    octal(&mut block[i * 24 + 12..i * 24 + 24], 0);
                });
                block[504] = 1;
                let mut archive = base
                    .clone()
                    .header(b"s", b'S', 0, |h| {
                        h[257..265].copy_from_slice(b"ustar  \0");
                        h[482] = 1;
                    })
                    .0;
                (0..5000).for_each(|_| archive.extend_from_slice(&block));
                archive
            },
            TooLarge,
        ),
    ];
    for (name, archive, kind) in table {
        let found = entries(&archive).map_err(|error| error.kind());
        assert_eq!(found.err(), Some(kind), "{name}");
    }
}

#[test]
fn headers_are_counted() {
    let archive = (0..20).fold(Raw::new(), |raw, i| raw.file(&i.to_string(), "")).end();
    let mut reader = Reader::new(&archive[..], ReadLimits { headers: 10, ..ReadLimits::default() });
    let error = std::iter::from_fn(|| reader.next().transpose()).find_map(|r| r.err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn random_damage_never_panics() {
    let mut whole = Raw::new()
        .extended(b'g', &record("mtime", b"1.5"))
        .pax(&[("path", b"some/long/name"), ("SCHILY.xattr.user.a", b"\n12 path=/x\n"), ("size", b"4")])
        .file("x", "data")
        .extended(b'L', b"long\0")
        .extended(b'K', b"target\0")
        .symlink("s", "t")
        .device("null", b'3', 1, 3)
        .0;
    for archive in sparse_archives() {
        whole.extend_from_slice(&archive[..archive.len() - 1024]);
    }
    whole.extend_from_slice(&[0; 1024]);
    assert!(entries(&whole).is_ok());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4000 {
        let mut archive = whole.clone();
        damage(&mut archive, &mut random);
        match entries(&archive) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
    }
    // It is worth something only while it comes past the checksums.
    assert!(good > 100 && bad > 100, "{good} read, {bad} refused");
}
