//! What stacked layers show, as the entries of one archive: all of them, or those above some.
#![forbid(unsafe_code)]

use super::attributes::Attributes;
use super::below::{Below, Found};
use super::entry::{Entry, EntryKind};
use super::path::{join, text};
use crate::error::{Call, Result};
use rustix::fs::OFlags;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::os::fd::AsFd;

/// Takes an entry with its data.
pub(crate) type Each<'a> = &'a mut dyn FnMut(Entry, &mut dyn Read) -> Result<()>;

struct Flat<'a, 'b> {
    all: &'a mut Below<'b>,
    /// The layers that stay as they are, below those that are asked for.
    base: Option<&'a mut Below<'b>>,
    /// How many layers are asked for, from the topmost.
    above: usize,
    /// The first name of every file that has several.
    links: HashMap<(usize, u64, u64), Vec<u8>>,
}

/// Calls `each` with what these layers show: sorted by name, the files of a directory before the directories in it, with the
/// owners of the image and no whiteouts. The root directory comes first, where an archive says what it is like.
pub(crate) fn flatten(all: &mut Below<'_>, each: Each<'_>) -> Result<()> {
    let above = all.len();
    Flat { all, base: None, above, links: HashMap::new() }.run(each)
}

/// The same of what the topmost `above` layers change in what `base` shows, the layers below these: with whiteouts, as one layer
/// in their place.
pub(crate) fn flatten_above<'b>(
    all: &mut Below<'b>,
    base: &mut Below<'b>,
    above: usize,
    each: Each<'_>,
) -> Result<()> {
    Flat { all, base: Some(base), above, links: HashMap::new() }.run(each)
}

impl Flat<'_, '_> {
    fn run(mut self, each: Each<'_>) -> Result<()> {
        if let Some(root) = self.all.root(self.above)? {
            each(root, &mut io::empty())?;
        }
        // Directories to visit, the next one last.
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            if !path.is_empty()
                && let Some(found) = self.all.find(&path)?
                && let Some(entry) = self.all.entry(&path, &found)?
            {
                each(entry, &mut io::empty())?;
            }
            let directories = self.directory(&path, each)?;
            todo.extend(directories.into_iter().rev());
        }
        Ok(())
    }

    /// What is in a directory, but for the directories, which it gives.
    fn directory(&mut self, dir: &[u8], each: Each<'_>) -> Result<Vec<Vec<u8>>> {
        let shown = self.all.names(dir)?;
        let hidden = match &mut self.base {
            Some(base) => &base.names(dir)? - &shown,
            None => BTreeSet::new(),
        };
        let mut directories = Vec::new();
        for name in shown {
            let path = join(dir, &name);
            let Some(found) = self.all.find(&path)? else { continue };
            if found.layer() >= self.above {
                continue;
            }
            match found.kind() {
                Some(EntryKind::Directory) => directories.push(path),
                Some(kind) => self.file(path, kind, &found, each)?,
                None => {}
            }
        }
        for name in hidden {
            let whiteout = join(dir, &[b".wh.", &name[..]].concat());
            each(Entry::new(whiteout, EntryKind::File), &mut io::empty())?;
        }
        Ok(directories)
    }

    fn file(&mut self, path: Vec<u8>, kind: EntryKind, found: &Found, each: Each<'_>) -> Result<()> {
        let Some(mut entry) = self.all.entry(&path, found)? else { return Ok(()) };
        if let Found::File(layer, _, stat) = found
            && stat.st_nlink > 1
        {
            let file = (*layer, stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&file) {
                (entry.kind, entry.size, entry.link) = (EntryKind::HardLink, 0, first.clone());
                entry.xattrs.clear();
                return each(entry, &mut io::empty());
            }
            self.links.insert(file, path.clone());
        }
        match kind {
            EntryKind::File => each(entry, &mut self.all.open_file(&path, found)?),
            _ => each(entry, &mut io::empty()),
        }
    }
}

impl Below<'_> {
    /// What the archives of the topmost `above` layers say of the root directory, if one does.
    fn root(&self, above: usize) -> Result<Option<Entry>> {
        for number in 0..above {
            let layer = self.layer(number);
            if !layer.meta()?.root {
                continue;
            }
            let dir = self.open(layer.dir(), b".", OFlags::RDONLY | OFlags::DIRECTORY, b"")?;
            let stat = rustix::fs::fstat(&dir).call_at("fstat", text(b""))?;
            let found = Attributes::of_file(&stat, self.xattrs(dir.as_fd(), b"")?);
            let Attributes { mode, uid, gid, mtime, mut xattrs } = self.as_in_image(number, b"", found)?;
            xattrs.sort();
            let root = Entry::new(".", EntryKind::Directory);
            return Ok(Some(Entry { mode, uid, gid, mtime, xattrs, ..root }));
        }
        Ok(None)
    }
}
