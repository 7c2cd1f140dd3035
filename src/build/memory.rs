//! An archive as a tree: its entries in memory, its files where they are in a file that nobody else has. What is in it touches no
//! path of the host.
#![forbid(unsafe_code)]

use super::tree::{Content, Item, Tree, text};
use crate::dockerfile::{Ignore, Parents};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::tar::{ReadLimits, Reader};
use crate::layer::{Entry, EntryKind, join, normal, split};
use crate::store::{Room, Store};
use bytes::Bytes;
use rustix::fs::AtFlags;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::sync::Arc;

/// The memory that the entries of an archive may take, so some million files.
const MEMORY_MAX: usize = 1 << 30;
/// The most bytes of an archive, uncompressed: a bomb ends here, or where the disk is to stay free.
const BYTES_MAX: u64 = 256 << 30;
const BUFFER: usize = 128 << 10;

/// Files by their paths. A clone is another view of the same.
#[derive(Clone, Default)]
pub(super) struct Memory {
    all: Arc<BTreeMap<Vec<u8>, Item>>,
    /// What the archive says of its root.
    root: Option<Item>,
    /// The names in each directory, of what is shown.
    shown: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
}

impl Memory {
    /// A context that comes as an archive. Its files belong to root, whoever owned them.
    pub(super) fn read(store: &Store, archive: impl Read) -> Result<Self> {
        let (mut all, mut root) = (BTreeMap::new(), None);
        unpack(store, BufReader::with_capacity(BUFFER, archive), &mut false, &mut |entry, content| {
            let path = normal(&entry.path)?;
            let mut item = Item { entry, content, inode: None };
            (item.entry.uid, item.entry.gid) = (0, 0);
            item.entry.path = Vec::new();
            if path.is_empty() {
                root = item.is_directory().then_some(item);
                return Ok(());
            }
            above(&mut all, &path)?;
            if item.entry.kind == EntryKind::HardLink {
                let target = normal(&item.entry.link)?;
                let number = all.len() as u64;
                let Some(file) = all.get_mut(&target).filter(|file: &&mut Item| !file.is_directory()) else {
                    let what = "a hard link to what is not in the archive";
                    return Err(Error::new(ErrorKind::InvalidData, what).with_path(text(&path)));
                };
                // A number of its own, as no disk has it.
                file.inode.get_or_insert((u64::MAX - 1, number));
                item = file.clone();
            }
            match all.get_mut(&path) {
                Some(old) if old.is_directory() && item.is_directory() => *old = item,
                Some(old) if old.is_directory() => {
                    return Err(Error::new(ErrorKind::InvalidData, "a file in place of a directory")
                        .with_path(text(&path)));
                }
                _ => _ = all.insert(path, item),
            }
            Ok(())
        })?;
        let mut memory = Self { all: Arc::new(all), root, shown: BTreeMap::new() };
        memory.ignore(&Ignore::default());
        Ok(memory)
    }

    /// Whether there is nothing, not even a root that an archive had.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.root.is_none()
    }

    /// Leaves out what is ignored. Asked again, it begins anew.
    pub(super) fn ignore(&mut self, ignore: &Ignore) {
        let mut matched: BTreeMap<&[u8], Parents> = BTreeMap::new();
        let mut shown: BTreeSet<&[u8]> = BTreeSet::new();
        for (path, item) in self.all.iter() {
            let parents = matched.get(split(path).0).cloned().unwrap_or_default();
            let (is_excluded, own) = ignore.excludes_below(text(path), &parents);
            if item.is_directory() {
                matched.insert(path, own);
            }
            if !is_excluded {
                // With all directories that it is in.
                let mut path = &path[..];
                while !path.is_empty() && shown.insert(path) {
                    path = split(path).0;
                }
            }
        }
        let mut names: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for path in shown {
            let (parent, name) = split(path);
            names.entry(parent.to_vec()).or_default().insert(name.to_vec());
        }
        self.shown = names;
    }

    fn is_shown(&self, path: &[u8]) -> bool {
        let (parent, name) = split(path);
        path.is_empty() || self.shown.get(parent).is_some_and(|names| names.contains(name))
    }

    /// A file whatever is ignored.
    pub(super) fn any(&self) -> impl Tree + '_ {
        All(self)
    }
}

/// Makes the directories that a path is in, where the archive does not have them.
fn above(all: &mut BTreeMap<Vec<u8>, Item>, path: &[u8]) -> Result<()> {
    let mut parent = split(path).0;
    while !parent.is_empty() {
        match all.get(parent) {
            Some(item) if item.is_directory() => break,
            // Another reader might follow it.
            Some(_) => {
                let what = "an entry below what is no directory";
                return Err(Error::new(ErrorKind::InvalidData, what).with_path(text(path)));
            }
            None => _ = all.insert(parent.to_vec(), Item::directory()),
        }
        parent = split(parent).0;
    }
    Ok(())
}

impl Tree for &Memory {
    fn name(&self) -> String {
        "the context".into()
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Item>> {
        match path.is_empty() {
            true => Ok(Some(self.root.clone().unwrap_or_else(Item::directory))),
            false => Ok(self.all.get(path).filter(|_| self.is_shown(path)).cloned()),
        }
    }

    fn list(&mut self, path: &[u8]) -> Result<Vec<(Vec<u8>, Item)>> {
        let names = self.shown.get(path).into_iter().flatten();
        let listed = names.filter_map(|name| Some((name.clone(), self.all.get(&join(path, name))?.clone())));
        Ok(listed.collect())
    }

    fn hides(&mut self, path: &[u8]) -> Result<bool> {
        Ok(self.all.contains_key(path) && !self.is_shown(path))
    }
}

struct All<'a>(&'a Memory);

impl Tree for All<'_> {
    fn name(&self) -> String {
        "the context".into()
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Item>> {
        match path.is_empty() {
            true => Ok(Some(Item::directory())),
            false => Ok(self.0.all.get(path).cloned()),
        }
    }

    fn list(&mut self, _: &[u8]) -> Result<Vec<(Vec<u8>, Item)>> {
        Ok(Vec::new())
    }
}

/// The memory that the directories on the way to a path may take, but for those that the path before it went through.
fn above_size(last: &[u8], path: &[u8]) -> usize {
    let common = last.iter().zip(path).take_while(|(one, other)| one == other).count();
    let slashes = path.iter().enumerate().skip(common).filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| size_of::<(Vec<u8>, Item)>() + at).sum()
}

/// A file of the store without a name.
pub(super) fn spool(store: &Store) -> Result<File> {
    let (lease, name) = store.new_tmp_file()?;
    rustix::fs::unlinkat(store.tmp_dir(), &name, AtFlags::empty()).call_at("unlinkat", &name)?;
    lease.into_file()
}

/// Reads a plain archive: calls `each` with its entries as they are, the data of its files kept in one that has no name.
/// `begun`: it has begun with an entry.
pub(super) fn unpack(
    store: &Store,
    archive: impl BufRead,
    begun: &mut bool,
    each: &mut dyn FnMut(Entry, Content) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::new(archive, ReadLimits::default());
    let (mut file, mut at) = (None::<Arc<File>>, 0);
    let (mut buffer, mut room, mut memory) = (vec![0; BUFFER], Room::default(), 0);
    let mut last = Vec::new();
    while let Some(entry) = reader.next()? {
        *begun = true;
        memory += size_of::<(Vec<u8>, Item)>() + 2 * entry.path.len() + entry.link.len();
        memory += entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        memory += above_size(&last, &entry.path);
        last.clone_from(&entry.path);
        if memory > MEMORY_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "an archive with more than a gigabyte of names"));
        }
        let content = match entry.kind {
            EntryKind::File if entry.size == 0 => Content::Bytes(Bytes::new()),
            EntryKind::File => {
                let file = match &file {
                    Some(file) => file.clone(),
                    None => file.insert(Arc::new(spool(store)?)).clone(),
                };
                let begin = at;
                let mut left = entry.size;
                while left > 0 {
                    let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let n = match reader.read(&mut buffer[..most]) {
                        Ok(0) => {
                            return Err(Error::new(ErrorKind::InvalidData, "the archive is cut short")
                                .with_path(text(&entry.path)));
                        }
                        Ok(n) => n,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(error).call("reading an archive"),
                    };
                    (&*file).write_all(&buffer[..n]).call_at("write", store.path().join("tmp"))?;
                    room.take(&*file, n as u64).map_err(|error| error.with_path(store.path().join("tmp")))?;
                    left -= n as u64;
                    at += n as u64;
                    if at > BYTES_MAX {
                        return Err(Error::new(
                            ErrorKind::TooLarge,
                            format!("archive of more than {BYTES_MAX} bytes"),
                        ));
                    }
                }
                Content::Piece(file, begin)
            }
            _ => Content::Nothing,
        };
        each(entry, content)?;
    }
    Ok(())
}

/// Everything that a stream has, in a file without a name, and how much that is.
pub(super) fn spooled(store: &Store, mut input: impl Read) -> Result<(File, u64)> {
    let mut file = spool(store)?;
    let (mut buffer, mut room, mut size) = (vec![0; BUFFER], Room::default(), 0);
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).call("reading a stream"),
        };
        file.write_all(&buffer[..n]).call_at("write", store.path().join("tmp"))?;
        room.take(&file, n as u64).map_err(|error| error.with_path(store.path().join("tmp")))?;
        size += n as u64;
        if size > BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("more than {BYTES_MAX} bytes")));
        }
    }
    file.rewind().call("lseek")?;
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_an_archive_only_names_count() {
        let one = size_of::<(Vec<u8>, Item)>();
        let deep = [b"x".as_slice(), &b"/d".repeat(500)].concat();
        let size = above_size(b"", &deep);
        assert_eq!(size, 500 * one + 500 * 500);
        // Another file beside it costs nothing more, and one in another tree all of it again.
        assert_eq!(above_size(&deep, &[&deep[..deep.len() - 1], b"e"].concat()), 0);
        assert_eq!(above_size(&deep, &[b"y", &deep[1..]].concat()), size);
        assert_eq!(above_size(b"a/b/c", b"a/b/d/e"), one + 5);
    }
}
