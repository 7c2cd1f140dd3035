//! Files to copy from, wherever they are: what each kind of source shows under a path, with no link followed; and where a path
//! leads in it, with its root as the root of all links.
#![forbid(unsafe_code)]

use super::disk::DiskFile;
use super::stats::Key;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Entry, EntryKind, join, split};
use bytes::{Buf, Bytes};
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Bytes that are read at a time.
const BUFFER: usize = 64 << 10;

pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Where the content of a regular file is.
#[derive(Clone)]
pub(super) enum Content {
    /// Not a regular file.
    Nothing,
    Bytes(Bytes),
    /// As long as its entry says, from here on in a file that nobody changes.
    Piece(Arc<File>, u64),
    Disk(Arc<DiskFile>),
    /// Of the image that is copied from.
    Image(Option<Key>),
}

/// A file of a tree.
#[derive(Clone)]
pub(super) struct Item {
    /// Without a path. Of a regular file on a disk or of an image, without its extended attributes, which are read with it.
    pub(super) entry: Entry,
    pub(super) content: Content,
    /// Of a file with several names.
    pub(super) inode: Option<(u64, u64)>,
}

impl Item {
    pub(super) fn directory() -> Self {
        let entry = Entry::new("", EntryKind::Directory);
        Self { entry, content: Content::Nothing, inode: None }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.entry.kind == EntryKind::Directory
    }
}

/// Takes a file's extended attributes and content.
pub(super) type Take<'a> = &'a mut dyn FnMut(Xattrs, &mut (dyn Read + Send)) -> Result<()>;

pub(super) trait Tree {
    /// For messages: `the context`.
    fn name(&self) -> String;

    /// What is at a normal path; the root is a directory.
    fn find(&mut self, path: &[u8]) -> Result<Option<Item>>;

    /// What a directory has in it, sorted by name; nothing where there is no directory.
    fn list(&mut self, path: &[u8]) -> Result<Vec<(Vec<u8>, Item)>>;

    /// All below a directory will be asked for.
    fn prepare(&mut self, _path: &[u8]) -> Result<()> {
        Ok(())
    }

    /// The extended attributes of what is no regular file.
    fn attributes(&mut self, _path: &[u8], item: &Item) -> Result<Xattrs> {
        Ok(item.entry.xattrs.clone())
    }

    /// Whether something is there that is not shown.
    fn hides(&mut self, _path: &[u8]) -> Result<bool> {
        Ok(false)
    }

    /// Of the content and the extended attributes of a regular file.
    fn digest(&mut self, path: &[u8], item: &Item) -> Result<[u8; 32]> {
        match &item.content {
            Content::Disk(file) => file.digest(),
            _ => digest_of(self, path, item),
        }
    }

    /// Hands a regular file to `take`.
    fn open(&mut self, path: &[u8], item: &Item, take: Take<'_>) -> Result<()> {
        open(&item.content, &item.entry, path, take)
    }
}

/// What is not of an image.
pub(super) fn open(content: &Content, entry: &Entry, path: &[u8], take: Take<'_>) -> Result<()> {
    let xattrs = || entry.xattrs.clone();
    match content {
        Content::Nothing => take(xattrs(), &mut io::empty()),
        Content::Bytes(bytes) => take(xattrs(), &mut bytes.clone().reader()),
        Content::Piece(file, from) => {
            take(xattrs(), &mut Piece { file, at: *from, end: from.saturating_add(entry.size) })
        }
        Content::Disk(file) => file.open(take),
        Content::Image(_) => {
            Err(Error::new(ErrorKind::State, "a file of an image without the image").with_path(text(path)))
        }
    }
}

pub(super) fn digest_of<T: Tree + ?Sized>(tree: &mut T, path: &[u8], item: &Item) -> Result<[u8; 32]> {
    let mut digest = [0; 32];
    tree.open(path, item, &mut |xattrs, data| {
        digest = hash(&xattrs, item.entry.size, data).call_at("read", text(path))?;
        Ok(())
    })?;
    Ok(digest)
}

/// Of so many bytes, and of attributes, if there are any.
pub(super) fn hash(xattrs: &Xattrs, size: u64, data: &mut (dyn Read + Send)) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; usize::try_from(size).map_or(BUFFER, |size| size.min(BUFFER))];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        match data.read(&mut buffer[..most]) {
            Ok(0) => return Err(changed().into()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                left -= n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if !xattrs.is_empty() {
        let content = hasher.finalize();
        hasher = Sha256::new();
        hasher.update(content);
        attributes(&mut hasher, xattrs);
    }
    Ok(hasher.finalize().into())
}

pub(super) fn attributes(hasher: &mut Sha256, xattrs: &Xattrs) {
    for (name, value) in xattrs {
        for part in [name, value] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
}

pub(super) fn changed() -> Error {
    Error::new(ErrorKind::InUse, "a file changed while it was read")
        .with_remedy("build when nothing writes to it, or leave it out by .dockerignore")
}

struct Piece<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Why a path leads to nothing.
pub(super) enum Lost {
    /// There is nothing of this name, or what is there is no directory.
    At(Vec<u8>),
    /// More links than the kernel follows.
    Circle,
}

/// Where `path` leads: links are followed with the tree as root, `..` of the root is the root. `None` where there is nothing.
pub(super) fn resolve(tree: &mut dyn Tree, path: &[u8]) -> Result<Option<(Vec<u8>, Item)>> {
    follow(tree, path).map(|led| led.ok())
}

/// The same, and why there is nothing.
pub(super) fn follow(tree: &mut dyn Tree, path: &[u8]) -> Result<std::result::Result<(Vec<u8>, Item), Lost>> {
    let mut todo: Vec<Vec<u8>> = Vec::new();
    let push = |todo: &mut Vec<Vec<u8>>, path: &[u8]| {
        todo.extend(path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
    };
    push(&mut todo, path);
    let (mut at, mut found, mut links) = (Vec::new(), Item::directory(), 0);
    if let Some(root) = tree.find(b"")? {
        found = root;
    }
    while let Some(part) = todo.pop() {
        match &part[..] {
            b"" | b"." => continue,
            _ if !found.is_directory() => return Ok(Err(Lost::At(at))),
            b".." => {
                at = split(&at).0.to_vec();
                match tree.find(&at)? {
                    Some(item) => found = item,
                    None => return Ok(Err(Lost::At(at))),
                }
                continue;
            }
            _ => {}
        }
        let here = join(&at, &part);
        let Some(next) = tree.find(&here)? else { return Ok(Err(Lost::At(here))) };
        if next.entry.kind == EntryKind::Symlink {
            links += 1;
            if links > LINKS_MAX {
                return Ok(Err(Lost::Circle));
            }
            if next.entry.link.starts_with(b"/") {
                at = Vec::new();
            }
            match tree.find(&at)? {
                Some(item) => found = item,
                None => return Ok(Err(Lost::At(at))),
            }
            push(&mut todo, &next.entry.link);
            continue;
        }
        (at, found) = (here, next);
    }
    Ok(Ok((at, found)))
}

/// The shortest path that means the same, from the root on and without a slash at its beginning; and whether it leads out of
/// the root, which it is kept in.
pub(super) fn clean(path: &[u8]) -> (Vec<u8>, bool) {
    let (mut parts, mut leads_out): (Vec<&[u8]>, bool) = (Vec::new(), false);
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => leads_out |= parts.pop().is_none(),
            part => parts.push(part),
        }
    }
    (parts.join(&b'/'), leads_out)
}

/// The same of a path in an image.
pub(super) fn absolute(path: &Path) -> PathBuf {
    Path::new("/").join(text(&clean(path.as_os_str().as_bytes()).0))
}

/// For messages.
pub(super) fn text(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
