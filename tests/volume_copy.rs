//! The first use of a volume copies what the image has at its path.

mod common;

use common::{Fixture, docker_archive};
use coracle::{Container, Image, Store, Volume};

/// One file of a layer: path, what it is, mode, owner, extended attributes.
enum What {
    Dir,
    File(&'static str),
    Link(&'static str),
    Hard(&'static str),
    Fifo,
}
use What::{Dir, Fifo, File, Hard, Link};

type Entry = (&'static str, What, u32, (u64, u64), &'static [(&'static str, &'static [u8])]);

fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, what, mode, (uid, gid), xattrs) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_mode(*mode);
        header.set_uid(*uid);
        header.set_gid(*gid);
        header.set_mtime(1_600_000_000);
        let data = if let File(text) = what { text.as_bytes() } else { b"" };
        header.set_size(data.len() as u64);
        let (kind, target) = match what {
            Dir => (tar::EntryType::Directory, None),
            File(_) => (tar::EntryType::Regular, None),
            Link(target) => (tar::EntryType::Symlink, Some(target)),
            Hard(target) => (tar::EntryType::Link, Some(target)),
            Fifo => (tar::EntryType::Fifo, None),
        };
        header.set_entry_type(kind);
        if let Some(target) = target {
            header.set_link_name(target).unwrap();
        }
        header.set_cksum();
        let pax: Vec<_> =
            xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value)).collect();
        archive.append_pax_extensions(pax.iter().map(|(name, value)| (name.as_str(), *value))).unwrap();
        archive.append(&header, data).unwrap();
    }
    archive.into_inner().unwrap()
}

const ROOT: (u64, u64) = (0, 0);
const WWW: (u64, u64) = (33, 34);
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn image(store: &Store) -> Image {
    let lower = layer(&[
        ("srv/", Dir, 0o755, ROOT, &[]),
        ("srv/data/", Dir, 0o755, ROOT, &[]),
        ("srv/data/kept", File("lower"), 0o644, ROOT, &[]),
        ("srv/data/changed", File("lower"), 0o644, ROOT, &[]),
        ("srv/data/gone", File("lower"), 0o644, ROOT, &[]),
        ("srv/data/merged/", Dir, 0o755, ROOT, &[]),
        ("srv/data/merged/low", File("low"), 0o600, WWW, &[]),
        ("srv/data/opaque/", Dir, 0o755, ROOT, &[]),
        ("srv/data/opaque/hidden", File("x"), 0o644, ROOT, &[]),
        ("srv/data/was-dir/", Dir, 0o755, ROOT, &[]),
        ("srv/data/was-dir/in", File("x"), 0o644, ROOT, &[]),
        ("srv/data/was-file", File("x"), 0o644, ROOT, &[]),
        ("alias", Link("srv"), 0o777, ROOT, &[]),
        ("srv/abs", Link("/alias/data"), 0o777, ROOT, &[]),
    ]);
    let upper = layer(&[
        ("srv/data/", Dir, 0o1770, WWW, &[("user.note", b"top")]),
        ("srv/data/changed", File("upper"), 0o640, WWW, &[("user.note", b"file")]),
        ("srv/data/.wh.gone", File(""), 0o644, ROOT, &[]),
        ("srv/data/merged/", Dir, 0o2700, WWW, &[]),
        ("srv/data/merged/up", File("up"), 0o4755, WWW, &[]),
        ("srv/data/opaque/", Dir, 0o700, WWW, &[]),
        ("srv/data/opaque/.wh..wh..opq", File(""), 0o644, ROOT, &[]),
        ("srv/data/opaque/shown", File("shown"), 0o400, WWW, &[]),
        ("srv/data/was-dir", File("now a file"), 0o644, ROOT, &[]),
        ("srv/data/was-file/", Dir, 0o555, ROOT, &[]),
        ("srv/data/was-file/in", File("y"), 0o444, ROOT, &[]),
        ("srv/data/link", Link("/etc/shadow"), 0o777, WWW, &[]),
        ("srv/data/fifo", Fifo, 0o620, WWW, &[]),
        ("srv/data/able", File("able"), 0o755, WWW, &[("security.capability", CAPABILITY)]),
        ("srv/data/merged/hard", Hard("srv/data/able"), 0o755, WWW, &[]),
    ]);
    let archive = docker_archive(&[(&Fixture::of(vec![lower, upper]), &["data:1"])]);
    Image::load_reader(store, &archive[..]).unwrap().remove(0)
}

/// What the volume holds, as a container sees it.
const LIST: &str = "cd /v; find . -printf '%p %y %m %U:%G %n %l\\n' | sort; \
    for f in kept changed merged/low merged/up opaque/shown was-dir was-file/in able; do printf '%s=' $f; cat $f; echo; done; \
    find . -printf '%p %T@\\n' | grep -vc ' 1600000000' ; \
    getfattr -dm user. . changed 2>/dev/null; getfattr -dm security.capability -e hex able 2>/dev/null; true";

fn list(host: &Image, volume: &Volume) -> String {
    let out = Container::builder(host)
        .command(["sh", "-c", LIST])
        .volume(volume, "/v")
        .read_only(true)
        .run()
        .unwrap();
    assert!(out.status.success(), "{}", out.stderr_text());
    out.stdout_text().into_owned()
}

/// Whether this user can have more than one id in a container.
fn single(host: &Image) -> bool {
    let out = Container::builder(host).command(["cat", "/proc/self/uid_map"]).run().unwrap();
    out.stdout_text().split_whitespace().nth(2) == Some("1") && out.stdout_text().lines().count() == 1
}

#[test]
#[ignore = "needs getfattr, and sub-ids as an ordinary user: run with --include-ignored"]
fn all_of_a_file_is_copied_and_the_layers_are_merged() {
    let store = Store::temp().unwrap();
    let (image, host) = (image(&store), Image::host(&store).unwrap());
    assert!(!single(&host), "this user has no sub-ids");
    let expected = "\
. d 1770 33:34 5 \n./able f 755 33:34 2 \n./changed f 640 33:34 1 \n./fifo p 620 33:34 1 \n\
./kept f 644 0:0 1 \n./link l 777 33:34 1 /etc/shadow\n./merged d 2700 33:34 2 \n./merged/hard f 755 33:34 2 \n\
./merged/low f 600 33:34 1 \n./merged/up f 4755 33:34 1 \n./opaque d 700 33:34 2 \n\
./opaque/shown f 400 33:34 1 \n./was-dir f 644 0:0 1 \n./was-file d 555 0:0 2 \n./was-file/in f 444 0:0 1 \n\
kept=lower\nchanged=upper\nmerged/low=low\nmerged/up=up\nopaque/shown=shown\nwas-dir=now a file\n\
was-file/in=y\nable=able\n0\n";
    // The same directory by its name, and through links.
    for target in ["/srv/data", "/alias/data", "/srv/abs"] {
        let volume = Volume::create(&store, "v").unwrap();
        let first = Container::builder(&image).volume(&volume, target).create().unwrap();
        let listed = list(&host, &volume);
        let mut lines = listed.splitn(25, '\n');
        let (head, attributes): (Vec<_>, _) = (lines.by_ref().take(24).collect(), lines.next().unwrap());
        assert_eq!(format!("{}\n", head.join("\n")), expected, "{target}");
        assert!(attributes.contains("user.note=\"top\""), "{attributes}");
        assert!(attributes.contains("user.note=\"file\""), "{attributes}");
        assert!(attributes.contains("security.capability=0x010000020004"), "{attributes}");
        first.remove().unwrap();
        volume.remove().unwrap();
    }
}

#[test]
fn only_the_first_use_copies() {
    let store = Store::temp().unwrap();
    let (image, host) = (image(&store), Image::host(&store).unwrap());
    let volume = Volume::create(&store, "v").unwrap();
    let sh = |script: &str| {
        let out =
            Container::builder(&host).command(["sh", "-c", script]).volume(&volume, "/v").run().unwrap();
        assert!(out.status.success(), "{}", out.stderr_text());
        out.stdout_text().into_owned()
    };
    // Nothing there, and no directory: nothing is copied, and that is no error.
    drop(Container::builder(&image).volume(&volume, "/nowhere/at/all").create().unwrap());
    drop(Container::builder(&image).volume(&volume, "/srv/data/kept").create().unwrap());
    drop(Container::builder(&image).volume(&volume, "/srv/data/gone").create().unwrap());
    assert_eq!(sh("ls -A /v"), "");
    sh("echo mine > /v/kept");
    drop(Container::builder(&image).volume(&volume, "/srv/data").create().unwrap());
    assert_eq!(sh("cd /v; ls -A; cat kept"), "kept\nmine\n");
    // What was begun and not ended is done again.
    sh("mkdir /v/merged; echo half > /v/merged/up");
    std::fs::write(volume.path().with_file_name("copying"), "").unwrap();
    drop(Container::builder(&image).volume(&volume, "/srv/data").create().unwrap());
    assert_eq!(sh("cd /v; cat kept merged/up opaque/shown"), "lowerupshown");
    sh("rm -rf /v/*");
    // Empty once more, and its directory belongs to somebody.
    drop(Container::builder(&image).volume(&volume, "/srv/data").create().unwrap());
    assert_eq!(sh("cat /v/kept"), "lower");
}

/// A file that is nearly all hole takes an image some bytes, and the disk no more.
#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = 256 << 20;
    let store = Store::temp().unwrap();
    let (size, at) = (SIZE.to_string(), SIZE / 2);
    let mut data = format!("1\n{at}\n6\n").into_bytes();
    data.resize(512, 0);
    data.extend(b"middle");
    let mut lower = tar::Builder::new(Vec::new());
    let pax = [("major", "1"), ("minor", "0"), ("name", "data/sparse"), ("realsize", &size)];
    let pax = pax.map(|(name, value)| (format!("GNU.sparse.{name}"), value));
    lower.append_pax_extensions(pax.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("GNUSparseFile.0/sparse").unwrap();
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_cksum();
    lower.append(&header, &data[..]).unwrap();
    // A layer has what it links to itself.
    let upper = layer(&[("data/again", Hard("data/sparse"), 0o644, ROOT, &[])]);
    let archive = docker_archive(&[(&Fixture::of(vec![lower.into_inner().unwrap(), upper]), &["holes:1"])]);
    let image = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
    let volume = Volume::create(&store, "v").unwrap();
    drop(Container::builder(&image).volume(&volume, "/data").create().unwrap());
    for name in ["sparse", "again"] {
        let file = std::fs::File::open(volume.path().join(name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        let mut middle = [0; 8];
        file.read_exact_at(&mut middle, at - 1).unwrap();
        assert_eq!(&middle, b"\0middle\0");
    }
    for room in ["layers", "volumes"] {
        let used = common::peer("du", ["-sm", store.path().join(room).to_str().unwrap()]);
        assert!(used.split_whitespace().next().unwrap().parse::<u64>().unwrap() < 16, "{used}");
    }
}

#[test]
fn a_volume_of_the_image_is_filled_for_each_container() {
    let store = Store::temp().unwrap();
    let mut fixture = Fixture::of(vec![layer(&[
        ("data/", Dir, 0o755, ROOT, &[]),
        ("data/f", File("image"), 0o644, ROOT, &[]),
    ])]);
    let mut config: serde_json::Value = serde_json::from_slice(&fixture.config).unwrap();
    config["config"]["Volumes"] = serde_json::json!({"/data": {}});
    fixture.config = config.to_string().into_bytes();
    let archive = docker_archive(&[(&fixture, &["v:1"])]);
    let image = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
    let container = Container::builder(&image).create().unwrap();
    let volumes = store.volumes().unwrap();
    assert_eq!(volumes.len(), 1);
    assert_eq!(std::fs::read(volumes[0].path().join("f")).unwrap(), b"image");
    drop(volumes);
    container.remove().unwrap();
    assert!(store.volumes().unwrap().is_empty());
}

/// A layer may lack the parents of its files, and link to files of layers below, whoever may read those.
#[test]
#[ignore = "needs getfattr, and sub-ids as an ordinary user: run with --include-ignored"]
fn layers_below_are_read_whoever_owns_them() {
    let store = Store::temp().unwrap();
    let host = Image::host(&store).unwrap();
    assert!(!single(&host), "this user has no sub-ids");
    let lower = layer(&[
        ("d/", Dir, 0o700, WWW, &[("user.note", b"below")]),
        ("d/f", File("secret"), 0o600, WWW, &[("user.note", b"file"), ("security.capability", CAPABILITY)]),
        ("d/l", Link("target"), 0o777, WWW, &[]),
        ("d/e/", Dir, 0o711, WWW, &[]),
        ("d/e/h", File("deep"), 0o4700, (35, 36), &[]),
    ]);
    let upper = layer(&[
        ("d/e/g", File("new"), 0o600, WWW, &[]),
        ("d/e/.wh.h", File(""), 0o600, ROOT, &[]),
        ("d/hard", Hard("d/f"), 0o600, WWW, &[]),
        ("d/hardlink", Hard("d/l"), 0o777, WWW, &[]),
    ]);
    let archive = docker_archive(&[(&Fixture::of(vec![lower, upper]), &["below:1"])]);
    let image = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
    let volume = Volume::create(&store, "v").unwrap();
    drop(Container::builder(&image).volume(&volume, "/d").create().unwrap());
    let script = "cd /v; find . -printf '%p %y %m %U:%G %n %l\\n' | sort; cat hard e/g";
    let out = Container::builder(&host).command(["sh", "-c", script]).volume(&volume, "/v").run().unwrap();
    assert_eq!(
        out.stdout_text(),
        ". d 700 33:34 3 \n./e d 711 33:34 2 \n./e/g f 600 33:34 1 \n./f f 600 33:34 2 \n./hard f 600 33:34 2 \n\
         ./hardlink l 777 33:34 2 target\n./l l 777 33:34 2 target\nsecretnew",
        "{}",
        out.stderr_text()
    );
    let script = "cd /v; getfattr -dm - -e hex . hard";
    let out = Container::builder(&host).command(["sh", "-c", script]).volume(&volume, "/v").run().unwrap();
    let said = out.stdout_text();
    for line in ["user.note=0x62656c6f77", "user.note=0x66696c65", "security.capability=0x0100000200040000"] {
        assert!(said.contains(line), "{said}{}", out.stderr_text());
    }
}
