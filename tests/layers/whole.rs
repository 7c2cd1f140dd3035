//! Whole images of several layers beside what umoci makes of them, and the memory that a large one takes.
use crate::common::{child, gzip, passes, peer};
use crate::testing::{Raw, octal};
use crate::trees::{Compare, Scratch, assert_same, tree};
use coracle::{ErrorKind, Image, Overlay, Store};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Each entry with a mode, an owner and a time that nothing else has.
#[derive(Default)]
struct Layer(Raw, u64);

impl Layer {
    fn of(number: u64) -> Self {
        Self(Raw::new(), number * 100)
    }

    fn add(self, path: &str, flag: u8, mode: u64, data: &str, xattrs: &[(&str, &[u8])]) -> Self {
        let number = self.1 + 1;
        let time = format!("{}.{:09}", 1_500_000_000 + number, 123_000_000 + number);
        let mut records = vec![("mtime", time.as_bytes())];
        records.extend(xattrs);
        let size = if flag == b'0' { data.len() as u64 } else { 0 };
        let raw = self.0.pax(&records).header(path.as_bytes(), flag, size, |header| {
            octal(&mut header[100..108], mode);
            octal(&mut header[108..116], number % 7 * 11);
            octal(&mut header[116..124], number % 5 * 13);
            if matches!(flag, b'1' | b'2') {
                header[157..157 + data.len()].copy_from_slice(data.as_bytes());
            }
        });
        Self(if flag == b'0' { raw.data(data.as_bytes()) } else { raw }, number)
    }

    fn dir(self, path: &str, mode: u64) -> Self {
        self.add(path, b'5', mode, "", &[])
    }

    fn file(self, path: &str, mode: u64, data: &str) -> Self {
        self.add(path, b'0', mode, data, &[])
    }

    fn gone(self, path: &str) -> Self {
        self.file(path, 0o644, "")
    }

    fn hard(self, path: &str, target: &str) -> Self {
        self.add(path, b'1', 0o644, target, &[])
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(path, b'2', 0o777, target, &[])
    }
}

/// What layers do to each other: whiteouts, opaque directories, other kinds in the same place, links to what lies below,
/// attributes that change and go.
fn layers() -> [Vec<u8>; 4] {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let note: &[(&str, &[u8])] = &[("SCHILY.xattr.user.note", b"first")];
    let of_root: &[(&str, &[u8])] =
        &[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.trusted.note", b"t\0v")];
    let bottom = Layer::of(1)
        .dir("./", 0o755)
        .dir("bin", 0o755)
        .add("bin/ping", b'0', 0o755, "ping", of_root)
        .file("bin/su", 0o4755, "su")
        .symlink("bin/sh", "ping")
        .dir("etc", 0o755)
        .add("etc/noted", b'0', 0o640, "noted", note)
        .file("etc/gone", 0o600, "gone")
        .symlink("etc/kind", "gone")
        .dir("opaque", 0o711)
        .file("opaque/old", 0o644, "old")
        .dir("opaque/below", 0o755)
        .file("opaque/below/deep", 0o644, "deep")
        .dir("whole", 0o755)
        .file("whole/a", 0o644, "a")
        .dir("links", 0o2755)
        .file("links/one", 0o644, "one")
        .hard("links/two", "links/one")
        .file("links/base", 0o444, "base")
        .dir("sticky", 0o1777)
        .add("sticky/pipe", b'6', 0o622, "", &[])
        .dir("becomes", 0o755)
        .file("becomes/x", 0o644, "x")
        .file("file", 0o644, "file");
    let second = Layer::of(2)
        .dir("./", 0o755)
        .dir("etc", 0o750)
        .gone("etc/.wh.gone")
        .dir("etc/kind", 0o700)
        .file("etc/kind/inside", 0o644, "inside")
        .dir("opaque", 0o711)
        .gone("opaque/.wh..wh..opq")
        .file("opaque/new", 0o644, "new")
        .gone(".wh.whole")
        .dir("links", 0o2755)
        // One that the bottom has, by two further names, of which the next layer has another.
        .hard("links/upper", "links/base")
        .hard("links/uppermost", "links/base");
    let third = Layer::of(3)
        .dir("./", 0o755)
        .dir("links", 0o2775)
        .gone("links/.wh.base")
        .gone("links/.wh.two")
        .file("links/late", 0o644, "late")
        .hard("links/later", "links/late")
        .symlink("becomes", "opaque/new")
        .dir("file", 0o755)
        .file("file/now", 0o644, "a directory");
    let top = Layer::of(4)
        .dir("./", 0o751)
        .dir("etc", 0o755)
        .add("etc/noted", b'0', 0o644, "noted", &[("SCHILY.xattr.user.other", b"second")])
        .file("etc/gone", 0o644, "again")
        .dir("opaque", 0o755)
        .dir("opaque/below", 0o755)
        .file("opaque/below/other", 0o644, "other")
        .dir("whole", 0o555)
        .dir("bin", 0o755)
        .file("bin/ping", 0o755, "without a capability");
    [bottom, second, third, top].map(|layer| layer.0.end())
}

#[test]
#[ignore = "needs root: gives files away, beside umoci"]
fn a_whole_image_is_what_umoci_unpacks() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let image = format!("{}:image", path("oci"));
    peer("umoci", ["init", "--layout", &path("oci")]);
    peer("umoci", ["new", "--image", &image]);
    let archives = layers();
    for (number, layer) in archives.iter().enumerate() {
        let archive = path(&format!("{number}.tar"));
        std::fs::write(&archive, layer).unwrap();
        peer("umoci", ["raw", "add-layer", "--image", &image, &archive]);
    }
    peer("umoci", ["unpack", "--image", &image, &path("bundle")]);

    let store = Store::open(path("store")).unwrap();
    let loaded = Image::load(&store, path("oci")).unwrap().remove(0);
    let mut layers = loaded.layers().unwrap();
    assert_eq!(layers.len(), archives.len());
    layers.reverse();
    let mounted = Overlay::new().layers(&layers).unwrap().mount().unwrap();

    let compare = Compare { owners: true, all_xattrs: true, root: true };
    let umoci = tree(&Path::new(&path("bundle")).join("rootfs"), compare);
    for (name, word) in [
        ("links/two", None),
        ("links/uppermost", Some("=links/upper")),
        ("links/later", Some("=links/late")),
        ("opaque/old", None),
        ("opaque/below/deep", None),
        ("whole/a", None),
        ("etc/kind/inside", Some("RegularFile")),
        ("file/now", Some("RegularFile")),
        ("becomes", Some("-> \"opaque/new\"")),
        ("etc/noted", Some("user.other=second")),
        ("bin/su", Some("4755")),
        ("sticky/pipe", Some("Fifo")),
    ] {
        let line = umoci.get(name);
        let is_right = line.map_or(word.is_none(), |line| word.is_some_and(|word| line.contains(word)));
        assert!(is_right, "{name}: {line:?}: the test tests less");
    }
    assert_same(&without_lone(tree(&mounted.path().join("."), compare)), &without_lone(umoci), "umoci");
}

/// An overlay counts the names of a file in its layer, those too that are covered: what says of only one name that it is one
/// of several is left out.
fn without_lone(mut tree: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let names: Vec<_> = tree.keys().cloned().collect();
    for name in names {
        let word = format!(" ={name} ");
        if tree.values().filter(|line| line.contains(&word)).count() == 1 {
            let line = tree.get_mut(&name).unwrap();
            *line = line.replacen(&word, " ", 1);
        }
    }
    tree
}

/// What one copy of a program may have resident more, at its peak, after it took a layer than before: chunks on their way
/// between threads, and what compression needs. Files that are mapped count.
const MEMORY_MAX: u64 = 32 << 20;
/// So that to hold the layer, or a third of it, is beyond all doubt.
const LARGE: u64 = 128 << 20;
const WHERE: &str = "CORACLE_TEST_WHERE";

/// The most bytes that this program has had resident.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[track_caller]
fn assert_measured(before: u64) {
    let mut all = vec![0; 200 << 20];
    all.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    assert!(peak() - before > MEMORY_MAX, "the test measures nothing: {}", all.len());
}

/// Not a test when run by itself: takes a large layer in each form, and gives it away again.
#[test]
fn takes_a_large_layer() {
    let Some(dir) = std::env::var_os(WHERE) else { return };
    let at = |name: &str| Path::new(&dir).join(name);
    let before = peak();
    let check = |what: &str| {
        let more = peak() - before;
        println!("{what}: {} KiB more", more >> 10);
        assert!(more <= MEMORY_MAX, "{what}: {more} bytes more");
    };
    let stored = |name: &str| Store::open(at(name)).unwrap();
    let image = Image::import(&stored("plain"), at("layer.tar"), "large:1").unwrap();
    check("import");
    image.save(std::fs::File::create(at("image.tar")).unwrap()).unwrap();
    check("save");
    let loaded = Image::load(&stored("loaded"), at("image.tar")).unwrap().remove(0);
    assert_eq!(loaded.id(), image.id());
    check("load");
    Image::import(&stored("gzip"), at("layer.tar.gz"), "large:1").unwrap();
    check("import of gzip");
    assert_measured(before);
}

#[test]
fn a_large_layer_takes_little_memory() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path().join(name);
    let mut archive = tar::Builder::new(std::fs::File::create(at("layer.tar")).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(LARGE);
    archive.append_data(&mut header, "large", std::io::repeat(7).take(LARGE)).unwrap();
    header.set_size(5);
    for number in 0..5000 {
        archive.append_data(&mut header, format!("dir{}/{number}", number % 50), &b"small"[..]).unwrap();
    }
    archive.finish().unwrap();
    let to = std::fs::File::create(at("layer.tar.gz")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
    std::io::copy(&mut std::fs::File::open(at("layer.tar")).unwrap(), &mut gzip).unwrap();
    gzip.finish().unwrap();
    passes(child("whole::takes_a_large_layer", &[(WHERE, scratch.path().as_os_str())]));
}

/// Not a test when run by itself: takes a small archive whose files have attributes with names of a megabyte, which no
/// kernel takes, and which would be left out anyway.
#[test]
fn takes_names_of_a_megabyte() {
    let Some(dir) = std::env::var_os(WHERE) else { return };
    let at = |name: &str| Path::new(&dir).join(name);
    let (store, archive) = (Store::open(at("store")).unwrap(), at("names.tar.gz"));
    assert!(archive.metadata().unwrap().len() < 1 << 20);
    let before = peak();
    let error = Image::import(&store, &archive, "names:1").unwrap_err();
    let more = peak() - before;
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert!(error.to_string().len() < 4096, "{}", error.to_string().len());
    assert!(more <= MEMORY_MAX, "{more} bytes more");
    assert_measured(before);
}

#[test]
fn names_of_a_megabyte_take_little_memory() {
    let scratch = Scratch::new();
    let mut record = b"SCHILY.xattr.user.overlay.".to_vec();
    record.resize(1_048_000, 0xff);
    let record = [format!("{} ", record.len() + 10).as_bytes(), &record, b"=\n"].concat();
    let raw = (0..60).fold(Raw::new(), |raw, n| raw.extended(b'x', &record).file(&n.to_string(), ""));
    std::fs::write(scratch.path().join("names.tar.gz"), gzip(&raw.end())).unwrap();
    passes(child("whole::takes_names_of_a_megabyte", &[(WHERE, scratch.path().as_os_str())]));
}
