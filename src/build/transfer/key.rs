//! The digest of what is copied: a part of what a step is found by in the cache.
#![forbid(unsafe_code)]

use super::super::disk::DiskFile;
use super::super::tree::{Content, Item, Tree, attributes};
use super::super::work::in_time;
use super::remote::{Place, checksum, file_name};
use super::{Transfer, select};
use crate::digest::Digest;
use crate::dockerfile::Source;
use crate::error::Result;
use crate::layer::EntryKind;
use crate::store::Store;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Of so many bytes it is worth the threads.
const PARALLEL_FROM: u64 = 1 << 20;
const THREADS_MAX: usize = 8;

struct Key(Sha256);

impl Key {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }
}

/// A file that is copied: where it is, and its name below the source.
struct Picked {
    at: Vec<u8>,
    name: Vec<u8>,
    item: Item,
}

impl Transfer {
    pub(super) fn key(&self, store: &Store, tree: &mut dyn Tree) -> Result<Digest> {
        let mut key = Key(Sha256::new());
        key.bytes(b"coracle transfer 1");
        for source in &self.sources {
            match source {
                Source::Heredoc(heredoc) => {
                    key.bytes(b"text");
                    key.bytes(heredoc.name.as_bytes());
                    key.bytes(heredoc.stripped().as_bytes());
                }
                Source::Path(path) => match Place::of(path)? {
                    Place::Local(path) => self.local(&mut key, tree, path)?,
                    Place::Url(url) => {
                        let digest = match self.checksum.as_deref().map(checksum).transpose()? {
                            // Nobody has to be asked for what is known.
                            Some(promised) => promised,
                            None => self.fetched(store, url)?.digest,
                        };
                        key.bytes(b"url");
                        key.bytes(&file_name(url));
                        key.bytes(digest.to_string().as_bytes());
                    }
                    Place::Git(git) => {
                        let (git, commit, keep) = self.repository(&git)?;
                        key.bytes(b"git");
                        key.bytes(commit.as_bytes());
                        key.bytes(git.directory.as_bytes());
                        key.number(u64::from(keep) | u64::from(git.submodules) << 1);
                    }
                },
            }
        }
        Ok(Digest::finish(key.0))
    }

    fn local(&self, key: &mut Key, tree: &mut dyn Tree, source: &str) -> Result<()> {
        key.bytes(b"files");
        let (found, filter) = self.found(tree, source)?;
        let mut is_any = false;
        for found in found {
            key.bytes(&found.name);
            if !found.item.is_directory() {
                is_any = true;
                self.file(key, tree, &Picked { at: found.at, name: Vec::new(), item: found.item })?;
                continue;
            }
            key.bytes(b"directory");
            let (mut picked, mut unread) = (Vec::new(), Vec::new());
            select::walk(tree, &found.at, &filter, &mut |tree, at, name, item, is_meant| {
                is_any |= is_meant;
                let mut item = item.clone();
                if item.is_directory() {
                    item.entry.xattrs = tree.attributes(at, &item)?;
                }
                if let Content::Disk(file) = &item.content
                    && file.known().is_none()
                {
                    unread.push(file.clone());
                }
                picked.push(Picked { at: at.to_vec(), name: name.to_vec(), item });
                Ok(())
            })?;
            read_all(&unread, self.until)?;
            for picked in &picked {
                in_time(self.until)?;
                self.file(key, tree, picked)?;
            }
            key.bytes(b"end");
        }
        if !is_any {
            self.nothing_meant(tree, source)?;
        }
        Ok(())
    }

    fn file(&self, key: &mut Key, tree: &mut dyn Tree, picked: &Picked) -> Result<()> {
        let Picked { at, name, item } = picked;
        let entry = &item.entry;
        key.bytes(name);
        let kind = match entry.kind {
            EntryKind::File => 0,
            EntryKind::Directory => 1,
            EntryKind::Symlink => 2,
            EntryKind::HardLink => 3,
            EntryKind::Fifo => 4,
            EntryKind::CharDevice => 5,
            EntryKind::BlockDevice => 6,
        };
        key.number(kind << 32 | u64::from(entry.mode));
        if self.chown.is_none() {
            key.number(u64::from(entry.uid) << 32 | u64::from(entry.gid));
        }
        match entry.kind {
            EntryKind::File => key.bytes(&tree.digest(at, item)?),
            EntryKind::Symlink => key.bytes(&entry.link),
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                key.number(u64::from(entry.device.0) << 32 | u64::from(entry.device.1));
            }
            _ => {}
        }
        if entry.kind != EntryKind::File {
            attributes(&mut key.0, &entry.xattrs);
            key.number(entry.xattrs.len() as u64);
        }
        Ok(())
    }
}

/// Reads files, several at once, so that they are known.
fn read_all(files: &[Arc<DiskFile>], until: Option<Instant>) -> Result<()> {
    let read = |file: &Arc<DiskFile>| in_time(until).and_then(|()| file.digest().map(drop));
    let bytes = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    if files.len() < 2 || bytes < PARALLEL_FROM || threads < 2 {
        return files.iter().try_for_each(read);
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = read(file) {
                // Nobody goes on.
                next.store(files.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..threads {
            let thread = std::thread::Builder::new().name("coracle-context".into());
            match thread.spawn_scoped(scope, work) {
                Ok(other) => others.push(other),
                // Without it the others have more to do.
                Err(error) => {
                    tracing::debug!(%error, "a context is read by fewer threads");
                    break;
                }
            }
        }
        let own = work();
        for other in others {
            match other.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        own
    })
}
