//! The files of an image as a tree to copy from, or as what a layer is made for: its layers merged as the overlay would, without a
//! mount.
#![forbid(unsafe_code)]

use super::stats::{Key, Moment, Stats};
use super::tree::{Content, Item, Take, Tree, text};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::{Below, EntryKind, Found, Lower, for_caller, join};
use crate::sys::idmap::is_privileged;
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::io::Read;

/// More of /etc/passwd is not read.
const TEXT_MAX: u64 = 10 << 20;

/// Does something with the merged layers of an image.
pub(super) fn with_files<T>(image: &Image, work: impl FnOnce(&mut Below<'_>) -> Result<T>) -> Result<T> {
    if image.is_host() {
        let what = "the files of the host image are not copied into or out of a build";
        return Err(Error::new(ErrorKind::Unsupported, what)
            .with_remedy("bind the directory as a context of its own (--build-context), or import it"));
    }
    let layers = image.layer_dirs()?;
    let owners = for_caller();
    let lowers = layers.iter().map(|layer| Lower::new(layer.dir(), || layer.meta())).collect();
    work(&mut Below::new(lowers, !is_privileged(), Some(&*owners)))
}

pub(super) struct Files<'a, 'b> {
    pub(super) below: &'a mut Below<'b>,
    pub(super) stats: &'a Stats,
    /// What it is called.
    pub(super) name: String,
    /// What was read of files that an earlier reading is not kept of.
    pub(super) known: BTreeMap<Vec<u8>, [u8; 32]>,
}

impl Files<'_, '_> {
    fn item(&self, path: &[u8], found: &Found) -> Result<Option<Item>> {
        let Some(mut entry) = self.below.entry_unopened(path, found)? else { return Ok(None) };
        entry.path = Vec::new();
        let (mut content, mut inode) = (Content::Nothing, None);
        if entry.kind == EntryKind::File
            && let Found::File(_, _, stat) = found
        {
            content = Content::Image(Some(Key::of(stat)));
            inode = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        }
        Ok(Some(Item { entry, content, inode }))
    }
}

impl Tree for Files<'_, '_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Item>> {
        if path.is_empty() {
            return Ok(Some(Item::directory()));
        }
        match self.below.find(path)? {
            Some(found) => self.item(path, &found),
            None => Ok(None),
        }
    }

    fn list(&mut self, path: &[u8]) -> Result<Vec<(Vec<u8>, Item)>> {
        let mut listed = Vec::new();
        for name in self.below.names(path)? {
            if let Some(item) = self.find(&join(path, &name))? {
                listed.push((name, item));
            }
        }
        Ok(listed)
    }

    fn digest(&mut self, path: &[u8], item: &Item) -> Result<[u8; 32]> {
        let Content::Image(Some(key)) = &item.content else {
            return super::tree::digest_of(self, path, item);
        };
        let known = self.known.get(path).copied().or_else(|| self.stats.find(key, path));
        if let Some(known) = known {
            return Ok(known);
        }
        let since = Moment::now();
        let digest = super::tree::digest_of(self, path, item)?;
        self.stats.keep(key, path, &digest, since);
        self.known.insert(path.to_vec(), digest);
        Ok(digest)
    }

    fn open(&mut self, path: &[u8], item: &Item, take: Take<'_>) -> Result<()> {
        if !matches!(item.content, Content::Image(_)) {
            return super::tree::open(&item.content, &item.entry, path, take);
        }
        let Some(found) = self.below.find(path)? else {
            return Err(Error::new(ErrorKind::NotFound, "no such file in the image").with_path(text(path)));
        };
        let xattrs = self.below.entry(path, &found)?.map(|entry| entry.xattrs).unwrap_or_default();
        take(xattrs, &mut self.below.open_file(path, &found)?)
    }
}

/// What a text file of an image has; `None` where there is none.
pub(super) fn text_of(below: &mut Below<'_>, path: &str) -> Result<Option<String>> {
    let Some((at, Some(found))) = below.resolve(path.as_bytes())? else { return Ok(None) };
    if !found.is(FileType::RegularFile) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    below.open_file(&at, &found)?.take(TEXT_MAX + 1).read_to_end(&mut bytes).call_at("read", path)?;
    if bytes.len() as u64 > TEXT_MAX {
        let what = format!("more than {TEXT_MAX} bytes");
        return Err(Error::new(ErrorKind::TooLarge, what).with_path(path));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
