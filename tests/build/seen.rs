//! An image as text: its settings, and its files, of which each is one line. Read from the archives of its layers by nothing of
//! this crate, so that it is the same whoever made them.

use super::*;
use std::io::Read;

/// What a builder is asked about, in the order of the configuration's description.
const SETTINGS: &[&str] = &[
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
];

/// Runtimes make them where an image has nothing to mount over.
const STUBS: &[&str] =
    &["/run", "/sys", "/proc", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc", "/dev"];

/// One file, by whatever names.
#[derive(Clone)]
struct Node {
    number: usize,
    line: String,
}

#[derive(Clone, Default)]
pub struct Seen {
    config: Value,
    files: BTreeMap<String, Node>,
    numbers: usize,
}

impl Seen {
    /// An image of coracle's store.
    pub fn of_image(image: &Image) -> Self {
        let config = serde_json::from_str(image.config().json()).unwrap();
        let mut seen = Self { config, ..Self::default() };
        for layer in image.layer_descriptors() {
            let path = image.store().path().join("blobs/sha256").join(layer.digest.hex());
            seen.apply(&fs::read(path).unwrap());
        }
        seen
    }

    /// The one image of a docker archive.
    pub fn of_archive(path: &Path) -> Self {
        Self::of_members(path).remove(0)
    }

    pub fn of_members(path: &Path) -> Vec<Self> {
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            members.insert(name, data);
        }
        let list: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        let read = |image: &Value| {
            let config = serde_json::from_slice(&members[image["Config"].as_str().unwrap()]).unwrap();
            let mut seen = Self { config, ..Self::default() };
            for layer in image["Layers"].as_array().unwrap() {
                seen.apply(&members[layer.as_str().unwrap()]);
            }
            seen
        };
        list.as_array().unwrap().iter().map(read).collect()
    }

    /// One layer over what there is.
    fn apply(&mut self, blob: &[u8]) {
        let plain = match blob {
            [0x1f, 0x8b, ..] => {
                let mut plain = Vec::new();
                flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut plain).unwrap();
                plain
            }
            _ => blob.to_owned(),
        };
        let mut own = std::collections::BTreeSet::new();
        for entry in tar::Archive::new(&plain[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = absolute(entry.path().unwrap().to_str().unwrap());
            let (parent, name) = path.rsplit_once('/').unwrap();
            if name == ".wh..wh..opq" {
                let below = format!("{parent}/");
                self.files.retain(|path, _| !path.starts_with(&below) || own.contains(path));
            } else if let Some(gone) = name.strip_prefix(".wh.") {
                self.remove(&format!("{parent}/{gone}"));
            } else if path != "/" {
                let node = self.node(&mut entry);
                if !node.line.starts_with("dir ") {
                    self.remove(&path);
                }
                own.insert(path.clone());
                self.files.insert(path, node);
            }
        }
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.files.retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn node(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Node {
        let link = entry.link_name().unwrap().map(|target| target.to_str().unwrap().to_owned());
        let header = entry.header();
        let kind = header.entry_type();
        if kind == tar::EntryType::Link {
            let target = absolute(&link.unwrap());
            return self.files.get(&target).unwrap_or_else(|| panic!("a hard link to {target}")).clone();
        }
        let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
        let mode = format!("{:o}", header.mode().unwrap() & 0o7777);
        let mut attributes: Vec<_> = match entry.pax_extensions().unwrap() {
            Some(all) => all.map(Result::unwrap).filter_map(attribute).collect(),
            None => Vec::new(),
        };
        attributes.sort();
        let line = match kind {
            tar::EntryType::Directory => format!("dir {mode} {owner}"),
            tar::EntryType::Symlink => format!("link {owner} -> {}", link.unwrap()),
            tar::EntryType::Fifo => format!("fifo {mode} {owner}"),
            tar::EntryType::Regular => {
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                format!("file {mode} {owner} {}", content(&data))
            }
            other => panic!("{other:?} in a layer"),
        };
        self.numbers += 1;
        Node { number: self.numbers, line: line + &attributes.concat() }
    }

    /// All lines, where a file's further names say which is its first.
    pub fn lines(&self) -> BTreeMap<String, String> {
        let mut first = BTreeMap::new();
        let lines = self.files.iter().map(|(path, node)| {
            let name = first.entry(node.number).or_insert(path);
            (path.clone(), if *name == path { node.line.clone() } else { format!("same as {name}") })
        });
        lines.collect()
    }

    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// What follows the path; none of what is not there.
    pub fn file(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(|node| node.line.as_str())
    }

    /// Its settings, and the files that are otherwise than those of `below`.
    pub fn over(&self, below: &Seen) -> String {
        let mut text = String::new();
        if let Some(author) = self.config["author"].as_str().filter(|author| !author.is_empty()) {
            text += &format!("author {author}\n");
        }
        for key in SETTINGS {
            let mut value = self.config["config"][*key].clone();
            if let Some(labels) = value.as_object_mut() {
                labels.remove("io.buildah.version");
            }
            let is_empty = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty() || text == "/" && *key == "WorkingDir",
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !is_empty {
                text += &format!("{key} {value}\n");
            }
        }
        let (mut now, before) = (self.lines(), below.lines());
        for stub in STUBS {
            let below = format!("{stub}/");
            if !before.contains_key(*stub) && !now.keys().any(|path| path.starts_with(&below)) {
                now.remove(*stub);
            }
        }
        let paths: std::collections::BTreeSet<_> = now.keys().chain(before.keys()).collect();
        for path in paths {
            match (now.get(path), before.get(path)) {
                (now, before) if now == before => {}
                (now, _) => text += &format!("{path} {}\n", now.map_or("gone", String::as_str)),
            }
        }
        text
    }
}

fn absolute(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !["", "."].contains(part)).collect();
    format!("/{}", parts.join("/"))
}

fn attribute(extension: tar::PaxExtension<'_>) -> Option<String> {
    let name = extension.key().unwrap().strip_prefix("SCHILY.xattr.")?;
    Some(format!(" {name}={:?}", String::from_utf8_lossy(extension.value_bytes())))
}

fn content(data: &[u8]) -> String {
    if data.len() > 1 << 20 && data == bases::busybox() {
        return "busybox".into();
    }
    match std::str::from_utf8(data) {
        Ok(text) if data.len() <= 200 => json!(text).to_string(),
        _ => format!("{} bytes, {}", data.len(), coracle::Digest::of(data)),
    }
}
