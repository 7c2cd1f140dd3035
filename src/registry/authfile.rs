//! The file in which docker and podman keep credentials: read, and changed so that nothing else in it changes.
//!
//! A change is one rename of a file that is whole and only the user's own (mode 0600), under a lock on its directory: of two
//! logins at once none is lost. What this crate does not know of stays as it is written, in its place.
#![forbid(unsafe_code)]

use super::credentials::{Config, Entry};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::Lease;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

const FILE_MAX: u64 = 4 << 20;
/// path_resolution(7): more is a loop.
const LINKS_MAX: usize = 40;
const AUTHS: &str = "auths";

pub(super) struct AuthFile {
    path: PathBuf,
    /// Somebody named it.
    named: bool,
}

impl AuthFile {
    /// Where the environment says; `None` without a home.
    pub(super) fn find() -> Option<Self> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = var("REGISTRY_AUTH_FILE") {
            return Some(Self { path, named: true });
        }
        let dir = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|home| home.join(".docker")));
        dir.map(|dir| Self { path: dir.join("config.json"), named: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names the file in an error that has no path.
    pub(super) fn name(&self, error: Error) -> Error {
        if error.path().is_some() { error } else { error.with_path(&self.path) }
    }

    /// `None` where there is none.
    pub(super) fn read(&self) -> Result<Option<(Config, Object)>> {
        read(&self.path)
    }

    /// Likewise; one that somebody named has to be there.
    pub(super) fn read_named(&self) -> Result<Option<(Config, Object)>> {
        match self.read()? {
            None if self.named => Err(io::Error::from(io::ErrorKind::NotFound)).call_at("open", &self.path),
            found => Ok(found),
        }
    }

    /// Changes it; where nothing changes, it is not written.
    pub(super) fn change<T>(&self, work: impl FnOnce(Config, &mut Object) -> Result<T>) -> Result<T> {
        let path = behind_links(&self.path)?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).call_at("mkdir", dir)?;
        let _lock = Lease::exclusive(File::open(dir).call_at("open", dir)?, dir.as_os_str())?;
        let (config, mut object) = read(&path)?.unwrap_or_default();
        let before = object.text()?;
        let done = work(config, &mut object).map_err(|error| self.name(error))?;
        let text = object.text()?;
        if text != before {
            replace(&path, dir, &text)?;
        }
        Ok(done)
    }
}

fn read(path: &Path) -> Result<Option<(Config, Object)>> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.call_at("open", path)?.take(FILE_MAX).read_to_end(&mut text).call_at("read", path)?,
    };
    if text.trim_ascii().is_empty() {
        return Ok(Some(Default::default()));
    }
    // The text of serde's error may quote the file.
    let bad = |error: serde_json::Error| {
        let what = format!("credentials: not JSON as docker writes it, line {}", error.line());
        Error::new(ErrorKind::InvalidData, what).with_path(path)
    };
    Ok(Some((serde_json::from_slice(&text).map_err(bad)?, serde_json::from_slice(&text).map_err(bad)?)))
}

/// The file that a link leads to, which may be missing yet: it is replaced, not the link.
fn behind_links(path: &Path) -> Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&at) {
            Ok(target) => at = at.parent().map_or(target.clone(), |dir| dir.join(&target)),
            // No link, or nothing there.
            Err(_) => return Ok(at),
        }
    }
    Err(io::Error::from_raw_os_error(rustix::io::Errno::LOOP.raw_os_error())).call_at("readlink", path)
}

fn replace(path: &Path, dir: &Path, text: &[u8]) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".coracle");
    let new = dir.join(name);
    // One name for all, which are one after the other: what a killed program left is found and goes.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).call_at("unlink", &new),
        _ => {}
    }
    let written = write(&new, path, text);
    if written.is_err() {
        // Secrets don't stay for want of space.
        let _ = fs::remove_file(&new);
    }
    written
}

fn write(new: &Path, path: &Path, text: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new);
    let mut file = file.call_at("open", new)?;
    file.write_all(text).and_then(|()| file.sync_all()).call_at("write", new)?;
    // Root, as with sudo, leaves it to whom it belongs.
    if let Ok(old) = fs::metadata(path)
        && old.uid() != file.metadata().call_at("fstat", new)?.uid()
    {
        fchown(&file, Some(old.uid()), Some(old.gid()))
            .call_at("fchown", new)
            .map_err(|error| error.with_remedy(format!("{} is another user's", path.display())))?;
    }
    fs::rename(new, path).call_at("rename", path)
}

/// A JSON object whose members keep their text and their order, but for `auths`, which is taken apart.
#[derive(Default)]
pub(super) struct Object(Vec<(String, Member)>);

#[derive(Serialize)]
#[serde(untagged)]
enum Member {
    Auths(Auths),
    Other(Box<RawValue>),
}

#[derive(Default)]
struct Auths(Vec<(String, Box<RawValue>)>);

impl Object {
    fn auths(&mut self) -> Option<&mut Auths> {
        self.0.iter_mut().find_map(|(_, member)| match member {
            Member::Auths(auths) => Some(auths),
            Member::Other(_) => None,
        })
    }

    pub(super) fn set_auth(&mut self, key: &str, entry: &Entry) -> Result<()> {
        let entry = serde_json::value::to_raw_value(entry).map_err(unwritable)?;
        if self.auths().is_none() {
            self.0.retain(|(name, _)| name != AUTHS);
            self.0.push((AUTHS.to_owned(), Member::Auths(Auths::default())));
        }
        if let Some(Auths(all)) = self.auths() {
            all.retain(|(other, _)| other != key);
            all.push((key.to_owned(), entry));
        }
        Ok(())
    }

    /// Whether there were any.
    pub(super) fn remove_auths(&mut self, which: impl Fn(&str) -> bool) -> bool {
        let Some(Auths(all)) = self.auths() else { return false };
        let before = all.len();
        all.retain(|(key, _)| !which(key));
        all.len() < before
    }

    /// Indented as docker does.
    fn text(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let style = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut to = serde_json::Serializer::with_formatter(&mut text, style);
        self.serialize(&mut to).map_err(unwritable)?;
        Ok(text)
    }
}

fn unwritable(_: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidData, "credentials: no JSON can be made of them")
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, member)| (name, member)))
    }
}

impl Serialize for Auths {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, entry)| (key, entry)))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let member = match name == AUTHS {
                        true => Member::Auths(map.next_value::<Option<Auths>>()?.unwrap_or_default()),
                        false => Member::Other(map.next_value()?),
                    };
                    members.push((name, member));
                }
                Ok(Object(members))
            }
        }
        from.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Auths {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Auths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Auths, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Auths(entries))
            }
        }
        from.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn at(path: &Path) -> AuthFile {
        AuthFile { path: path.to_owned(), named: false }
    }

    fn set(file: &AuthFile, key: &str) {
        file.change(|_, object| object.set_auth(key, &Entry::default())).unwrap();
    }

    #[test]
    fn what_is_not_changed_stays_as_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let old = "{\"z\": 1.00e2, \"auths\": {\"b\": {\"email\": null}, \"a\": {}},\n \"HttpHeaders\": {\"x\": [ 1,2 ]}, \"a\": 12345678901234567890123}";
        fs::write(&path, old).unwrap();
        let file = at(&path);
        file.change(|_, _| Ok(())).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), old);
        set(&file, "c");
        let new = "{\n\t\"z\": 1.00e2,\n\t\"auths\": {\n\t\t\"b\": {\"email\": null},\n\t\t\"a\": {},\n\t\t\"c\": {}\n\t},\n\t\"HttpHeaders\": {\"x\": [ 1,2 ]},\n\t\"a\": 12345678901234567890123\n}";
        assert_eq!(fs::read_to_string(&path).unwrap(), new);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_such_file_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for broken in ["{", "[]", "{\"auths\": []}", "{\"auths\": {\"a\": \"hunter22\"}}", "{} x"] {
            fs::write(&path, broken).unwrap();
            let error = at(&path).change(|_, object| object.set_auth("a", &Entry::default())).unwrap_err();
            assert_eq!((error.kind(), error.path()), (ErrorKind::InvalidData, Some(&*path)), "{broken}");
            assert!(!format!("{error:?}").contains("hunter22"));
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
        }
        for empty in ["", " \n", "{}", "{\"auths\": null}"] {
            fs::write(&path, empty).unwrap();
            set(&at(&path), "a");
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                "{\n\t\"auths\": {\n\t\t\"a\": {}\n\t}\n}",
                "{empty:?}"
            );
        }
    }

    #[test]
    fn a_link_stays_one_and_of_many_at_once_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (link, real) = (dir.path().join("link"), dir.path().join("below/real.json"));
        std::os::unix::fs::symlink("below/real.json", &link).unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let link = &link;
                scope.spawn(move || set(&at(link), &n.to_string()));
            }
        });
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let all: serde_json::Value = serde_json::from_slice(&fs::read(&real).unwrap()).unwrap();
        assert_eq!(all["auths"].as_object().unwrap().len(), 8);
        assert_eq!(fs::metadata(real.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("link", &link).unwrap();
        assert!(at(&link).change(|_, _| Ok(())).is_err());
    }
}
