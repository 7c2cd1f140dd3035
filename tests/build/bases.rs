//! Images to build on. All are of busybox, so nothing is downloaded.

use super::*;

pub const BOX: &str = "localhost/box:1";
pub const OTHER: &str = "localhost/other:1";
pub const ONBUILD: &str = "localhost/onbuild:1";

const APPLETS: &str = "ash awk cat chmod chown cp date dd df echo env false find grep head hostname id ip kill ln ls mkdir mkfifo mv \
                       nc ps pwd rm sed seq sh sleep sort stat sync tail tar tee test touch tr true wc wget yes";

const DIRS: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("opt", 0o755),
    ("opt/again", 0o755),
    ("opt/kept", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("srv/dir", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:100::/home/bob:/bin/sh\n";

/// What runtimes mount over is there, so that none leaves it behind.
const FILES: &[(&str, &str)] = &[
    ("etc/group", "root:x:0:\ncrew:x:50:alice\nusers:x:100:\nalice:x:1000:\n"),
    ("etc/hostname", ""),
    ("etc/hosts", ""),
    ("etc/motd", "ahoy\n"),
    ("etc/passwd", PASSWD),
    ("etc/resolv.conf", ""),
    ("opt/again/old", "old\n"),
    ("opt/kept/a", "a\n"),
    ("opt/kept/b", "b\n"),
    ("srv/dir/old", "old\n"),
    ("srv/file", "file\n"),
    ("srv/mode", "mode\n"),
    ("srv/moved", "moved\n"),
    ("srv/owner", "owner\n"),
];

const LINKS: &[(&str, &str)] = &[("srv/link", "file"), ("srv/link-to-dir", "dir")];

/// The program itself.
pub fn busybox() -> Vec<u8> {
    fs::read("/bin/busybox").expect("this test needs busybox-static")
}

/// An archive with owners and modes.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, (uid, gid): (u64, u64)) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        header
    }

    pub fn dir(&mut self, path: &str, mode: u32, owner: (u64, u64)) {
        let mut header = Self::header(tar::EntryType::Directory, mode, owner);
        self.0.append_data(&mut header, path, &[][..]).unwrap();
    }

    pub fn file(&mut self, path: &str, mode: u32, owner: (u64, u64), data: &[u8]) {
        let mut header = Self::header(tar::EntryType::Regular, mode, owner);
        header.set_size(data.len() as u64);
        self.0.append_data(&mut header, path, data).unwrap();
    }

    pub fn link(&mut self, path: &str, owner: (u64, u64), target: &str) {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, owner);
        self.0.append_link(&mut header, path, target).unwrap();
    }

    pub fn hard_link(&mut self, path: &str, mode: u32, owner: (u64, u64), target: &str) {
        let mut header = Self::header(tar::EntryType::Link, mode, owner);
        self.0.append_link(&mut header, path, target).unwrap();
    }

    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn root() -> Vec<u8> {
    let mut layer = Layer::new();
    for (path, mode) in DIRS {
        layer.dir(path, *mode, (0, 0));
    }
    layer.file("bin/busybox", 0o755, (0, 0), &busybox());
    for name in APPLETS.split_whitespace() {
        layer.link(&format!("bin/{name}"), (0, 0), "busybox");
    }
    for (path, text) in FILES {
        layer.file(path, 0o644, (0, 0), text.as_bytes());
    }
    for (path, target) in LINKS {
        layer.link(path, (0, 0), target);
    }
    layer.end()
}

fn data() -> Vec<u8> {
    let mut layer = Layer::new();
    layer.dir("data", 0o750, (7, 8));
    layer.dir("data/dir", 0o755, (0, 0));
    layer.file("data/dir/two", 0o644, (0, 0), b"two\n");
    layer.file("data/file", 0o640, (9, 10), b"data\n");
    layer.end()
}

pub fn image(layers: Vec<Vec<u8>>, config: Value) -> Fixture {
    let mut image = Fixture::of(layers);
    let mut whole: Value = serde_json::from_slice(&image.config).unwrap();
    whole["config"] = config;
    whole["history"] = image.layers.iter().map(|_| json!({"created_by": "test"})).collect();
    image.config = whole.to_string().into_bytes();
    image
}

pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A docker archive with the three of them.
pub fn archive() -> Vec<u8> {
    let root = root();
    let plain = image(vec![root.clone()], json!({"Env": [PATH], "Cmd": ["sh"]}));
    let other = json!({
        "Env": [PATH, "OTHER=other"], "User": "7", "WorkingDir": "/data", "Entrypoint": ["/bin/cat"], "Cmd": ["file"],
        "Labels": {"from": "other"}, "ExposedPorts": {"1/tcp": {}}, "Volumes": {"/other": {}}, "StopSignal": "SIGUSR1",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000},
    });
    let other = image(vec![root.clone(), data()], other);
    let triggers = ["RUN echo triggered > /srv/triggered", "COPY . /app", "ENV A=$B"];
    let onbuild = image(vec![root], json!({"Env": [PATH], "OnBuild": triggers}));
    docker_archive(&[(&plain, &[BOX]), (&other, &[OTHER]), (&onbuild, &[ONBUILD])])
}

/// A store with the three of them.
pub fn store() -> Store {
    let store = Store::temp().unwrap();
    fill(&store);
    store
}

pub fn fill(store: &Store) {
    assert_eq!(Image::load_reader(store, &archive()[..]).unwrap().len(), 3);
}

/// A directory with these files.
pub fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        write(dir.path(), path, text);
    }
    dir
}

pub fn write(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
