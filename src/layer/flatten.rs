//! A whole root filesystem as one archive: what layers show together, as the overlay would, or what a container sees.
#![forbid(unsafe_code)]

use super::Layer;
use super::attributes::Attributes;
use super::below::{Below, Found};
use super::build::write;
use super::changed::{Archive, hiding};
use super::compression::Compression;
use super::difference::Difference;
use super::entry::{Entry, EntryKind};
use super::flow::Chunks;
use super::path::{ancestors, join, normal, text};
use crate::error::{Call, ErrorKind, Result};
use crate::store::Store;
use rustix::fs::OFlags;
use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Writes the archive. What depends on the names alone is in the same order every time: of each directory first what is no
/// directory.
pub(crate) struct Flattened<W> {
    archive: Archive<W>,
    /// The first name of every file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    left_out: Vec<(PathBuf, String)>,
}

impl<W: Write> Flattened<W> {
    /// `root`: the root directory itself, where it is worth an entry.
    pub(crate) fn new(writer: W, root: Option<Entry>) -> Result<Self> {
        let mut archive = Archive::writing(writer);
        if let Some(root) = root {
            archive.put_plain(root)?;
        }
        Ok(Self { archive, links: HashMap::new(), left_out: Vec::new() })
    }

    /// All that these layers show, but for what lies at `places`. `moving`: it changes meanwhile.
    pub(crate) fn layers(
        &mut self,
        below: &mut Below<'_>,
        places: &BTreeSet<Vec<u8>>,
        moving: bool,
    ) -> Result<()> {
        self.tree(below, Vec::new(), places, moving)
    }

    /// What the topmost `above` of all layers change in what the others, `base`, show: with whiteouts, as one layer in their place.
    pub(crate) fn layers_above(
        &mut self,
        all: &mut Below<'_>,
        base: &mut Below<'_>,
        above: usize,
    ) -> Result<()> {
        let mut todo = vec![Vec::new()];
        while let Some(at) = todo.pop() {
            let shown = all.names(&at)?;
            let hidden = &base.names(&at)? - &shown;
            let mut directories = Vec::new();
            for name in shown {
                let path = join(&at, &name);
                // What a lower layer shows is untouched, and all that is in it.
                if let Some(found) = all.find(&path)?
                    && found.layer() < above
                    && self.file(all, &path, &found)?
                {
                    directories.push(path);
                }
            }
            for name in hidden {
                self.archive.put_plain(hiding(&at, &name)?)?;
            }
            todo.extend(directories.into_iter().rev());
        }
        Ok(())
    }

    /// What an image has at places that something is mounted on in a container, which is none of the container's.
    pub(crate) fn places(&mut self, image: &mut Below<'_>, places: &BTreeSet<Vec<u8>>) -> Result<()> {
        for place in places {
            if ancestors(place).any(|above| places.contains(above)) {
                continue;
            }
            if let Some(found) = image.find(place)?
                && self.file(image, place, &found)?
            {
                self.tree(image, place.clone(), &BTreeSet::new(), false)?;
            }
        }
        Ok(())
    }

    /// All that a container sees in its own root: `difference` from nothing.
    pub(crate) fn seen(&mut self, difference: &mut Difference<'_>) -> Result<()> {
        difference.walk(&mut self.archive)?;
        self.left_out.append(&mut difference.left_out);
        Ok(())
    }

    /// The writer, and what has no place in an archive.
    pub(crate) fn finish(self) -> Result<(W, Vec<(PathBuf, String)>)> {
        Ok((self.archive.finish()?, self.left_out))
    }

    fn tree(
        &mut self,
        below: &mut Below<'_>,
        top: Vec<u8>,
        places: &BTreeSet<Vec<u8>>,
        moving: bool,
    ) -> Result<()> {
        let mut todo = vec![top];
        while let Some(at) = todo.pop() {
            let mut directories = Vec::new();
            for name in below.names(&at)? {
                let path = join(&at, &name);
                // Whoever goes through layers is told of no deeper one, and goes no deeper.
                normal(&path)?;
                if places.contains(&path) {
                    continue;
                }
                let Some(found) = below.find(&path)? else { continue };
                let is_dir = match self.file(below, &path, &found) {
                    // It has just gone.
                    Err(error)
                        if moving
                            && error.kind() == ErrorKind::NotFound
                            && error.path() == Some(text(&path)) =>
                    {
                        continue;
                    }
                    other => other?,
                };
                if is_dir {
                    directories.push(path);
                }
            }
            todo.extend(directories.into_iter().rev());
        }
        Ok(())
    }

    /// Writes one; whether it is a directory.
    fn file(&mut self, below: &Below<'_>, path: &[u8], found: &Found) -> Result<bool> {
        let Some(mut entry) = below.entry(path, found)? else {
            self.left_out.push((text(path).to_owned(), "a socket".to_owned()));
            return Ok(false);
        };
        if entry.kind == EntryKind::Directory {
            self.archive.put_plain(entry)?;
            return Ok(true);
        }
        let Found::File(_, _, stat) = found else {
            self.archive.put_plain(entry)?;
            return Ok(false);
        };
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                (entry.kind, entry.link) = (EntryKind::HardLink, first.clone());
                (entry.size, entry.xattrs) = (0, Vec::new());
                self.archive.put_plain(entry)?;
                return Ok(false);
            }
            self.links.insert(id, path.to_vec());
        }
        if entry.kind != EntryKind::File {
            self.archive.put_plain(entry)?;
            return Ok(false);
        }
        let file = below.open_file(path, found)?;
        let stat = rustix::fs::fstat(&file).call_at("fstat", text(path))?;
        entry.size = stat.st_size as u64;
        self.archive.put(entry, Some((&file, &stat))).map(|_| false)
    }
}

impl Below<'_> {
    /// What the archives of the topmost `above` layers say of the root directory itself, if one does.
    pub(crate) fn told_root(&mut self, above: usize) -> Result<Option<Entry>> {
        for (number, dir) in self.directory(b"")?.iter().take(above) {
            if !self.layer(*number).meta()?.root {
                continue;
            }
            let dir = self.open(dir.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY, b"")?;
            let stat = rustix::fs::fstat(&dir).call_at("fstat", "/")?;
            let found = Attributes::of_file(&stat, self.xattrs(dir.as_fd(), b"")?);
            let Attributes { mode, uid, gid, mtime, mut xattrs } = self.as_in_image(*number, b"", found)?;
            xattrs.sort();
            return Ok(Some(Entry {
                mode,
                uid,
                gid,
                mtime,
                xattrs,
                ..Entry::new(".", EntryKind::Directory)
            }));
        }
        Ok(None)
    }
}

impl Layer {
    /// A plain layer of what `fill` writes after the root directory.
    pub(crate) fn of_flattened(
        store: &Store,
        root: Option<Entry>,
        fill: impl FnOnce(&mut Flattened<Chunks>) -> Result<()>,
    ) -> Result<Self> {
        let _writing = store.writing()?;
        let mut left_out = Vec::new();
        let made = write(store, Compression::None, |output| {
            let mut archive = Flattened::new(output, root)?;
            fill(&mut archive)?;
            let output;
            (output, left_out) = archive.finish()?;
            Ok(output)
        })?;
        Self::new(store, made.digest, made.size, made.diff_id, Compression::None, left_out)
    }
}

/// The archive's own part.
impl<W: Write> Archive<W> {
    fn put_plain(&mut self, entry: Entry) -> Result<()> {
        self.put(entry, None).map(drop)
    }
}
