//! COPY and ADD: what they take, as a digest for the cache and as a layer.
//!
//! The measure is BuildKit: `dispatchCopy` of its Dockerfile frontend says which files are meant, `fsutil/copy` what becomes of them.
//! So a directory's content is copied and not the directory; one that is made on the way is root's (or `--chown`'s) with mode
//! 0755; one that is there keeps what it is, but those in a copied tree take the attributes of
//! the copied; a link as a source is followed, those in a directory are copied as links; a wildcard without a match is no error;
//! and what is no directory is never replaced by one. Where it differs, on purpose:
//! - an unknown name in `--chown`, and several files for one name, are errors, where BuildKit takes root and the last;
//! - `--chmod` is about what is copied, not about directories that are made on the way, which 644 would close (as BuildKit had it
//!   until 2025, and buildah has it);
//! - `--exclude` is also about files that a wildcard finds, as its documentation has it;
//! - directories that are made, and here-documents, are of 1980, so that the same files make the same layer.
//!
//! Nothing is mounted: sources are opened by handle beneath their root, an image's files are found in its layers, and the layer is
//! an archive, whose entries are sorted.
#![forbid(unsafe_code)]

mod chmod;
mod git;
mod key;
mod owner;
mod remote;
mod select;
mod target;
mod unpack;

#[cfg(test)]
mod tests;

use super::context::Context;
use super::files::{Files, with_files};
use super::stats::Stats;
use super::tree::{Content, Item, Tree, clean, resolve, text};
use super::work::{in_time, late};
use crate::digest::Digest;
use crate::dockerfile::{Add, Copy, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::archive::Writer;
use crate::layer::{Below, Entry, EntryKind, Layer, Mtime, join, split};
use crate::store::Store;
use bytes::Bytes;
use chmod::Chmod;
pub(super) use owner::owner;
use remote::{Fetched, Place};
use select::{Filter, Found};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};
pub(super) use target::MADE;
use target::{Clash, Now, Planned, Target};

/// What a mount of a context's files does, for messages.
const MOUNT: &str = "mount of";

/// Where the paths of COPY and ADD are: the context, or the files of an image (`--from`: another one, or a stage's result).
#[derive(Clone, Copy)]
pub(crate) enum From<'a> {
    Context(&'a Context),
    Image(&'a Image),
}

impl From<'_> {
    fn with<T>(&self, store: &Store, work: impl FnOnce(&mut dyn Tree) -> Result<T>) -> Result<T> {
        match self {
            Self::Context(context) => context.with(work),
            Self::Image(image) => {
                let stats = Stats::open(store, b"layers");
                let name = match image.references()?.first() {
                    Some(name) => format!("the image {name}"),
                    None => "the image".to_owned(),
                };
                with_files(image, |below| {
                    work(&mut Files { below, stats: &stats, name, known: BTreeMap::new() })
                })
            }
        }
    }
}

/// A COPY or an ADD, its variables replaced.
pub(crate) struct Transfer {
    /// For messages.
    verb: &'static str,
    is_add: bool,
    sources: Vec<Source>,
    destination: String,
    workdir: String,
    chown: Option<String>,
    chmod: Option<String>,
    link: bool,
    parents: bool,
    exclude: Vec<String>,
    unpack: Option<bool>,
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
    /// Nothing in the layer is newer (SOURCE_DATE_EPOCH).
    times: Option<SystemTime>,
    /// The end of the build's time.
    until: Option<Instant>,
    /// What came from URLs, and what references of repositories mean.
    fetched: Mutex<HashMap<String, Fetched>>,
    commits: Mutex<HashMap<String, String>>,
}

impl Transfer {
    /// `workdir`: what a relative destination begins at.
    pub(crate) fn copy(copy: &Copy, workdir: &str) -> Self {
        Self {
            chown: copy.chown.clone(),
            chmod: copy.chmod.clone(),
            link: copy.is_linked(),
            parents: copy.parents,
            exclude: copy.exclude.clone(),
            ..Self::new(&copy.sources, &copy.destination, workdir)
        }
    }

    pub(crate) fn add(add: &Add, workdir: &str) -> Self {
        Self {
            verb: "ADD",
            is_add: true,
            chown: add.chown.clone(),
            chmod: add.chmod.clone(),
            link: add.is_linked(),
            exclude: add.exclude.clone(),
            unpack: add.unpack,
            checksum: add.checksum.clone(),
            keep_git_dir: add.keep_git_dir,
            ..Self::new(&add.sources, &add.destination, workdir)
        }
    }

    /// Where a path leads in a context, with its root as that of all links: for [`mount`](Self::mount).
    ///
    /// # Errors
    /// `NotFound` where that is nothing, or out of the context.
    pub(crate) fn led(context: &Context, path: &str) -> Result<String> {
        context.with(|tree| {
            let Some((at, _)) = resolve(tree, path.as_bytes())? else {
                return Err(select::not_found(tree, path.as_bytes(), path, false, MOUNT)?);
            };
            String::from_utf8(at).map_err(|error| {
                let what = format!("{MOUNT} {path}: it leads to a name that is not UTF-8");
                Error::new(ErrorKind::Unsupported, what).with_path(text(error.as_bytes()))
            })
        })
    }

    /// What is at a path, which is a name and no pattern and goes through no link, at the same path of a layer by itself: for a
    /// mount.
    pub(crate) fn mount(path: &str) -> Self {
        let source = if path.is_empty() { ".".to_owned() } else { select::literal(path) };
        let parents = !path.is_empty();
        Self { verb: MOUNT, link: true, parents, ..Self::new(&[Source::Path(source)], "/", "/") }
    }

    fn new(sources: &[Source], destination: &str, workdir: &str) -> Self {
        Self {
            verb: "COPY",
            is_add: false,
            sources: sources.to_vec(),
            destination: destination.to_owned(),
            workdir: workdir.to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: None,
            checksum: None,
            keep_git_dir: None,
            times: None,
            until: None,
            fetched: Mutex::default(),
            commits: Mutex::default(),
        }
    }

    /// Nothing in the layer is newer than this.
    pub(crate) fn times(mut self, times: Option<SystemTime>) -> Self {
        self.times = times;
        self
    }

    /// It does not take longer: what gets something from elsewhere ends then, and what is copied with the next file.
    pub(crate) fn until(mut self, deadline: Option<Instant>) -> Self {
        self.until = deadline;
        self
    }

    /// Of all that is copied: content, and metadata but for times; and but for owners, where `--chown` gives them. What is on the
    /// destination's side, and the instruction's flags, are no part of it. A file of a context is read only if it may have changed.
    ///
    /// # Errors
    /// `NotFound` where a source is missing, `InUse` where a file changes meanwhile; those of getting what is elsewhere.
    pub(crate) fn digest(&self, store: &Store, from: From<'_>) -> Result<Digest> {
        self.check()?;
        from.with(store, |tree| self.key(store, tree))
    }

    /// The layer that it makes above `below`, whose links on the way to the destination are followed inside of it, and whose
    /// /etc/passwd and /etc/group know the names of `--chown`. With `--link` the destination is as it is written, and the layer is
    /// the same above anything; as in BuildKit that is nothing beside a `--chmod`. It is a plain archive.
    ///
    /// # Errors
    /// As [`digest`](Self::digest); `InvalidInput` where something else is in the way, `InvalidData` for a broken archive.
    pub(crate) fn layer(&self, store: &Store, from: From<'_>, below: Option<&Image>) -> Result<Layer> {
        self.check()?;
        let work = |below: Option<&mut Below<'_>>| from.with(store, |tree| self.make(store, tree, below));
        match below {
            Some(image) => with_files(image, |below| work(Some(below))),
            None => work(None),
        }
    }

    /// What is wrong whatever the files are.
    fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(ErrorKind::InvalidInput, format!("{} {what}", self.verb)));
        self.chmod.as_deref().map_or(Ok(()), |mode| Chmod::parse(mode).map(drop))?;
        Filter::excluding(&self.exclude)?;
        for source in &self.sources {
            let Source::Path(source) = source else { continue };
            match Place::of(source)? {
                Place::Local(_) if self.checksum.is_some() => {
                    return bad(format!("--checksum of {source}: it is for URLs and repositories"));
                }
                Place::Git(_) | Place::Url(_) if !self.is_add => {
                    return bad(format!("{source}: only ADD takes what is elsewhere"));
                }
                _ => {}
            }
        }
        if self.checksum.is_some() && self.sources.len() != 1 {
            return bad("--checksum: it is for one source alone".into());
        }
        Ok(())
    }

    fn fetched(&self, store: &Store, url: &str) -> Result<Fetched> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = fetched.get(url) {
            return Ok(known.clone());
        }
        let promised = self.checksum.as_deref().map(remote::checksum).transpose()?;
        let new = remote::fetch(store, url, promised.as_ref(), self.until)
            .map_err(|error| late(error, self.until))
            .map_err(|error| error.during(format!("{} {}", self.verb, remote::shown(url))))?;
        fetched.insert(url.to_owned(), new.clone());
        Ok(new)
    }

    /// A repository with what the flags say of it, and the commit that is meant.
    fn repository(&self, git: &git::GitSource) -> Result<(git::GitSource, String, bool)> {
        let mut git = git::GitSource { until: self.until, ..git.clone() };
        let differ = |what: &str| {
            let what = format!("ADD {}: the flag and the address have another {what}", git.shown());
            Err(Error::new(ErrorKind::InvalidInput, what))
        };
        if let (Some(flag), Some(own)) = (&self.checksum, &git.checksum)
            && flag != own
        {
            return differ("commit");
        }
        if let (Some(flag), Some(own)) = (self.keep_git_dir, git.keep_git_dir)
            && flag != own
        {
            return differ("answer to whether .git is kept");
        }
        let keep = git.keep_git_dir.or(self.keep_git_dir).unwrap_or(false);
        git.checksum = git.checksum.or_else(|| self.checksum.clone());
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{}#{}", git.remote, git.reference);
        let commit = match commits.get(&key) {
            Some(commit) => commit.clone(),
            None => {
                let commit = git.commit()?;
                commits.insert(key, commit.clone());
                commit
            }
        };
        Ok((git, commit, keep))
    }

    /// The files that a source of the context or an image names, and which of those below are meant.
    fn found(&self, tree: &mut dyn Tree, source: &str) -> Result<(Vec<Found>, Filter)> {
        let filter = Filter::excluding(&self.exclude)?;
        if self.parents {
            let (start, pattern) = select::pivot(source);
            let filter = if pattern.is_empty() { filter } else { filter.including(&pattern)? };
            return Ok((select::find(tree, start, self.verb)?, filter));
        }
        let mut found = select::find(tree, source, self.verb)?;
        found
            .retain(|found| !found.by_wildcard || found.item.is_directory() || !filter.excludes(&found.name));
        Ok((found, filter))
    }

    /// The error of `--parents` for a path that is not there, where it is one.
    fn nothing_meant(&self, tree: &mut dyn Tree, source: &str) -> Result<()> {
        if !self.parents || select::has_wildcard(source.as_bytes()) {
            return Ok(());
        }
        let (path, leads_out) = clean(source.as_bytes());
        Err(select::not_found(tree, &path, source, leads_out, self.verb)?)
    }

    fn make(&self, store: &Store, tree: &mut dyn Tree, mut below: Option<&mut Below<'_>>) -> Result<Layer> {
        let chown = self.chown.as_deref();
        let owner = chown.map(|text| owner::owner(text, below.as_deref_mut())).transpose()?;
        let chmod = self.chmod.as_deref().map(Chmod::parse).transpose()?;
        let target = Target::new(if self.link { None } else { below });
        let mut job = Job { transfer: self, store, target, owner, chmod, checkouts: Vec::new(), placed: 0 };
        let during = |error: Error| error.during(format!("{} to {}", self.verb, self.destination));
        for source in &self.sources {
            job.source(tree, source).map_err(during)?;
        }
        let Job { target, checkouts, .. } = job;
        let times = self.times.map(Mtime::from);
        let layer = Layer::plain(store, |writer| write(target.planned, tree, times, self.until, writer))
            .map_err(during);
        // Files of them were read just now.
        drop(checkouts);
        layer
    }
}

/// Where a path leads in an image, also where nothing is there: links on the way are followed, with the image as root.
pub(super) fn place_in(image: &Image, path: &[u8]) -> Result<Vec<u8>> {
    with_files(image, |below| Target::new(Some(below)).resolve(b"", path))
}

/// The making of one layer.
struct Job<'a, 'b, 'c> {
    transfer: &'a Transfer,
    store: &'a Store,
    target: Target<'b, 'c>,
    owner: Option<(u32, u32)>,
    chmod: Option<Chmod>,
    checkouts: Vec<git::Checkout>,
    /// So many files were named.
    placed: usize,
}

impl Job<'_, '_, '_> {
    fn source(&mut self, tree: &mut dyn Tree, source: &Source) -> Result<()> {
        let transfer = self.transfer;
        let none = Filter::default();
        match source {
            Source::Heredoc(heredoc) => {
                let bytes = Bytes::from(heredoc.stripped());
                let entry =
                    Entry { size: bytes.len() as u64, mtime: MADE, ..Entry::new("", EntryKind::File) };
                let item = Item { entry, content: Content::Bytes(bytes), inode: None };
                let name = split(heredoc.name.as_bytes()).1.to_vec();
                self.copy(tree, &Found { name, at: Vec::new(), item, by_wildcard: false }, &none)
            }
            Source::Path(path) => match Place::of(path)? {
                Place::Url(url) => {
                    let Fetched { entry, content, .. } = transfer.fetched(self.store, url)?;
                    let item = Item { entry, content, inode: None };
                    let found =
                        Found { name: remote::file_name(url), at: Vec::new(), item, by_wildcard: false };
                    if transfer.unpack == Some(true) && self.unpack(tree, &found)? {
                        return Ok(());
                    }
                    self.copy(tree, &found, &none)
                }
                Place::Git(git) => {
                    let (git, commit, keep) = transfer.repository(&git)?;
                    let checkout = git.checkout(self.store, &commit, keep)?;
                    let mut disk = &checkout.disk;
                    let filter = Filter::excluding(&transfer.exclude)?;
                    for found in
                        select::find(&mut disk, &format!("/{}", select::literal(&git.directory)), "ADD")?
                    {
                        self.copy(&mut disk, &found, &filter)?;
                    }
                    self.checkouts.push(checkout);
                    Ok(())
                }
                Place::Local(path) => {
                    let (all, filter) = transfer.found(tree, path)?;
                    let before = self.placed;
                    for found in &all {
                        let unpacks = transfer.unpack.unwrap_or(transfer.is_add);
                        if unpacks && self.unpack(tree, found)? {
                            continue;
                        }
                        self.copy(tree, found, &filter)?;
                    }
                    if transfer.parents && self.placed == before {
                        transfer.nothing_meant(tree, path)?;
                    }
                    Ok(())
                }
            },
        }
    }

    /// The destination without its links' names, and whether it is to be a directory.
    fn destination(&self) -> (Vec<u8>, bool) {
        let written = self.transfer.destination.as_str();
        let is_directory = matches!(written, "" | ".") || written.ends_with('/') || written.ends_with("/.");
        let path = match written.starts_with('/') {
            true => written.to_owned(),
            false => format!("{}/{written}", self.transfer.workdir),
        };
        (clean(path.as_bytes()).0, is_directory)
    }

    fn owner(&self) -> (u32, u32) {
        self.owner.unwrap_or_default()
    }

    fn planned(&self, at: &[u8], item: &Item) -> Planned {
        let mut entry = item.entry.clone();
        (entry.uid, entry.gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        if let Some(chmod) = &self.chmod
            && entry.kind != EntryKind::Symlink
        {
            entry.mode = chmod.apply(entry.mode, item.is_directory());
        }
        let mut planned = Planned::new(entry, item.content.clone(), at);
        planned.inode = item.inode;
        planned
    }

    /// Copies a file, or what a directory has in it.
    fn copy(&mut self, tree: &mut dyn Tree, found: &Found, filter: &Filter) -> Result<()> {
        let (destination, is_directory) = self.destination();
        let owner = self.owner();
        let parent = if is_directory { &destination[..] } else { split(&destination).0 };
        let parent = self.target.resolve(b"", parent)?;
        self.target.make_all(&parent, owner)?;
        let mut path = self.target.resolve(b"", &destination)?;
        let now = self.target.now(&path)?;
        if !found.item.is_directory() {
            if now == Now::Directory {
                path = join(&path, &found.name);
            } else if self.placed > 0 && self.target.planned.contains_key(&path) {
                let what = "several files for one name";
                return Err(Error::new(ErrorKind::InvalidInput, what)
                    .with_path(text(&path))
                    .with_remedy("a destination that is a directory ends with a slash"));
            }
            self.target.make_all(split(&path).0, owner)?;
            self.placed += 1;
            return self.target.put(&path, self.planned(&found.at, &found.item), Clash::Refuse);
        }
        if now == Now::Nothing {
            self.target.make_all(&path, owner)?;
        } else if now != Now::Directory {
            return Err(Error::new(ErrorKind::InvalidInput, "a file is where a directory is to be")
                .with_path(text(&path)));
        }
        // As BuildKit leaves it: its own time, and nothing else.
        self.target.touch(&path, found.item.entry.mtime)?;
        if !self.transfer.parents {
            self.placed += 1;
        }
        select::walk(tree, &found.at, filter, &mut |tree, at, below, item, is_meant| {
            let path = join(&path, below);
            self.placed += usize::from(is_meant);
            let mut planned = self.planned(at, item);
            if !item.is_directory() {
                return self.target.put(&path, planned, Clash::Refuse);
            }
            planned.entry.xattrs = tree.attributes(at, item)?;
            self.target.put_directory(&path, planned, is_meant, Clash::Refuse)
        })
    }

    /// Unpacks an archive, if it is one.
    fn unpack(&mut self, tree: &mut dyn Tree, found: &Found) -> Result<bool> {
        let Some(entries) = unpack::archive(self.store, tree, &found.at, &found.item)? else {
            return Ok(false);
        };
        let (destination, _) = self.destination();
        let root = self.target.resolve(b"", &destination)?;
        let owner = self.owner();
        self.target.make_all(&root, owner)?;
        for (entry, content) in entries {
            self.placed += 1;
            self.unpacked(&root, entry, content)
                .map_err(|error| error.during(format!("unpacking {}", text(&found.name).display())))?;
        }
        Ok(true)
    }

    fn unpacked(&mut self, root: &[u8], mut entry: Entry, content: Content) -> Result<()> {
        let inside = |path: &[u8]| match clean(path) {
            (path, false) => Ok(path),
            (_, true) => Err(Error::new(ErrorKind::InvalidData, "an entry that leads out of its archive")
                .with_path(text(path))),
        };
        let path = inside(&entry.path)?;
        if path.is_empty() {
            return Ok(());
        }
        let (parent, name) = split(&path);
        let parent = self.target.resolve(root, parent)?;
        self.target.make_all(&parent, self.owner())?;
        let path = join(&parent, name);
        (entry.uid, entry.gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        entry.path = Vec::new();
        match entry.kind {
            EntryKind::Directory => {
                let planned = Planned::new(entry, content, b"");
                self.target.put_directory(&path, planned, true, Clash::Replace)
            }
            EntryKind::HardLink => {
                let link = inside(&entry.link)?;
                let (parent, name) = split(&link);
                let link = join(&self.target.resolve(root, parent)?, name);
                let Some(first) = self.target.planned.get_mut(&link) else {
                    return Err(Error::new(
                        ErrorKind::InvalidData,
                        "a hard link to what is not in the archive",
                    )
                    .with_path(text(&path)));
                };
                // A number of its own, as no inode of a tree has it.
                first.inode.get_or_insert((u64::MAX, self.placed as u64));
                let planned = first.clone();
                self.target.put(&path, planned, Clash::Replace)
            }
            _ => {
                let planned = Planned::new(entry, content, b"");
                self.target.put(&path, planned, Clash::Replace)
            }
        }
    }
}

/// Writes what is planned, sorted by path. Of a file with several names the first has the content.
fn write<W: Write>(
    planned: BTreeMap<Vec<u8>, Planned>,
    tree: &mut dyn Tree,
    times: Option<Mtime>,
    until: Option<Instant>,
    writer: &mut Writer<W>,
) -> Result<()> {
    let mut first_names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for (path, planned) in planned {
        in_time(until)?;
        let Planned { mut entry, content, at, inode, hides, .. } = planned;
        entry.mtime = times.map_or(entry.mtime, |times| entry.mtime.min(times));
        // Its data comes whole.
        entry.sparse = false;
        if let Some(inode) = inode.filter(|_| entry.kind == EntryKind::File) {
            if let Some(first) = first_names.get(&inode) {
                let (kind, link) = (EntryKind::HardLink, first.clone());
                entry = Entry { kind, link, size: 0, xattrs: Vec::new(), path, ..entry };
                writer.entry(&entry, &mut std::io::empty())?;
                continue;
            }
            first_names.insert(inode, path.clone());
        }
        let is_directory = entry.kind == EntryKind::Directory;
        let mut whole = |xattrs, data: &mut (dyn std::io::Read + Send)| {
            writer.entry(&target::with_xattrs(&entry, &path, xattrs), data)
        };
        match &content {
            Content::Image(_) => {
                let item = Item { entry: entry.clone(), content: content.clone(), inode: None };
                tree.open(&at, &item, &mut whole)?;
            }
            _ => super::tree::open(&content, &entry, &at, &mut whole)?,
        }
        if is_directory && hides {
            // OCI image-spec, layer.md, "Opaque Whiteout".
            let mark =
                Entry { mtime: entry.mtime, ..Entry::new(join(&path, b".wh..wh..opq"), EntryKind::File) };
            writer.entry(&mark, &mut std::io::empty())?;
        }
    }
    Ok(())
}
