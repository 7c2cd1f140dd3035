//! A directory of the host to copy from, without what a `.dockerignore` leaves out.
//!
//! Whoever else writes to it decides what is in it, but never leads out of it: everything is opened from the handle of its root
//! with `RESOLVE_BENEATH` and through no link, kinds are looked at before anything is opened, and what is opened must be the file
//! that was listed. A directory is listed once, when something of it is asked for first; where nothing below an excluded one may
//! be brought back, it is not listed at all. So all steps of a build see the same files.
//!
//! What is read for its digest is copied right after that, as often as not: it is held in memory meanwhile, so that it is read
//! once. Where a context has more than [`HELD_MAX`] that nobody knows yet, the rest is read twice.
#![forbid(unsafe_code)]

use super::stats::{Key, Moment, Stats};
use super::tree::{Content, Item, Take, Tree, Xattrs, changed, hash, text};
use crate::dockerfile::{Ignore, Parents};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Entry, EntryKind, Mtime, get_xattrs, join};
use crate::sys::open::openat2;
use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of a directory's entries that are read at a time.
const LISTED: usize = 16 << 10;
/// So many directories to list are worth a thread.
const PARALLEL_FROM: usize = 8;
const THREADS_MAX: usize = 4;

/// Bytes of a context that are held at once.
const HELD_MAX: u64 = 32 << 20;

/// The root of a context, and what is known of its files.
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
    stats: Option<Stats>,
    /// Bytes that may still be held.
    room: AtomicU64,
    /// The time that all of it has, in place of its own. Modes are then of who checked it out, too.
    time: Option<Mtime>,
}

impl Root {
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let at = if path.is_empty() { b"." } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat2(&self.fd, at, flags, Mode::empty(), how) {
            Ok(fd) => Ok(fd),
            // It was listed a moment ago, and there was no link on the way.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO) => {
                Err(changed().with_path(self.shown(path)))
            }
            Err(Errno::ACCESS) => {
                let error = Error::os("openat2", Errno::ACCESS).with_path(self.shown(path));
                Err(error.with_remedy("let this user read it, or leave it out by .dockerignore"))
            }
            Err(errno) => Err(errno).call_at("openat2", self.shown(path)),
        }
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.path.join(text(path))
    }
}

/// A regular file, as it was when its directory was listed.
pub(super) struct DiskFile {
    root: Arc<Root>,
    path: Vec<u8>,
    key: Key,
    size: u64,
    known: OnceLock<[u8; 32]>,
    /// From its digest to its first copy.
    held: Mutex<Option<Held>>,
}

/// What a file had, and its part of what may be held at once.
struct Held {
    root: Arc<Root>,
    size: u64,
    xattrs: Xattrs,
    bytes: Vec<u8>,
}

impl Held {
    fn new(root: &Arc<Root>, size: u64) -> Option<Self> {
        let less = |room: u64| room.checked_sub(size);
        root.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Self { root: root.clone(), size, xattrs: Vec::new(), bytes: Vec::new() })
    }

    fn fill(&mut self, xattrs: Xattrs, data: &mut dyn Read) -> std::io::Result<()> {
        self.xattrs = xattrs;
        self.bytes.reserve_exact(self.size as usize);
        data.take(self.size).read_to_end(&mut self.bytes)?;
        Ok(())
    }

    fn digest(&self) -> std::io::Result<[u8; 32]> {
        hash(&self.xattrs, self.size, &mut &self.bytes[..])
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.root.room.fetch_add(self.size, Ordering::Relaxed);
    }
}

impl DiskFile {
    /// Of its content and its extended attributes. It is read if it may have changed since it was read last.
    pub(super) fn digest(&self) -> Result<[u8; 32]> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let since = Moment::now();
        let (mut digest, mut held) = ([0; 32], Held::new(&self.root, self.size));
        self.read(&mut |xattrs, data| {
            let read = match &mut held {
                Some(held) => held.fill(xattrs, data).and_then(|()| held.digest()),
                None => hash(&xattrs, self.size, data),
            };
            digest = read.call_at("read", self.root.shown(&self.path))?;
            Ok(())
        })?;
        *self.held() = held;
        if let Some(stats) = &self.root.stats {
            stats.keep(&self.key, &self.path, &digest, since);
        }
        Ok(*self.known.get_or_init(|| digest))
    }

    /// The same where it need not be read for it.
    pub(super) fn known(&self) -> Option<[u8; 32]> {
        if let Some(known) = self.known.get() {
            return Some(*known);
        }
        let known = self.root.stats.as_ref()?.find(&self.key, &self.path)?;
        Some(*self.known.get_or_init(|| known))
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, take: Take<'_>) -> Result<()> {
        let held = self.held().take();
        match held {
            Some(mut held) => take(std::mem::take(&mut held.xattrs), &mut &held.bytes[..]),
            None => self.read(take),
        }
    }

    fn read(&self, take: Take<'_>) -> Result<()> {
        let shown = || self.root.shown(&self.path);
        let mut file = File::from(self.root.open(&self.path, OFlags::RDONLY)?);
        let is_same = |file: &File| -> Result<()> {
            let stat = rustix::fs::fstat(file).call_at("fstat", shown())?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && Key::of(&stat) == self.key { Ok(()) } else { Err(changed().with_path(shown())) }
        };
        is_same(&file)?;
        let xattrs = get_xattrs(file.as_fd(), &self.path)?;
        take(xattrs, &mut file)?;
        // So what was handed out is what was there before.
        is_same(&file)
    }
}

pub(super) struct Disk {
    root: Arc<Root>,
    ignore: Ignore,
    top: Arc<Folder>,
}

struct Folder {
    path: Vec<u8>,
    inode: (u64, u64),
    /// It is there only if something in it is.
    is_excluded: bool,
    matched: Parents,
    listed: Mutex<Option<Arc<Listing>>>,
}

struct Listing {
    /// Of the directory itself.
    xattrs: Xattrs,
    /// Sorted by name.
    children: Vec<Child>,
}

struct Child {
    name: Vec<u8>,
    item: Item,
    folder: Option<Arc<Folder>>,
}

impl Disk {
    /// `path` may be a link itself.
    pub(super) fn open(path: &Path, ignore: Ignore, stats: Option<Stats>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).call_at("open", path)?;
        let stat = rustix::fs::fstat(&fd).call_at("fstat", path)?;
        let root =
            Arc::new(Root { fd, path: path.to_owned(), stats, room: AtomicU64::new(HELD_MAX), time: None });
        Ok(Self { root, ignore, top: Arc::new(Folder::top(&stat)) })
    }

    /// With one time for all files in place of their own.
    pub(super) fn with_time(mut self, time: Mtime) -> Self {
        if let Some(root) = Arc::get_mut(&mut self.root) {
            root.time = Some(time);
        }
        self
    }

    /// The same directory, from whose files others are left out.
    pub(super) fn ignoring(&self, ignore: Ignore) -> Result<Self> {
        let stat = rustix::fs::fstat(&self.root.fd).call_at("fstat", &self.root.path)?;
        Ok(Self { root: self.root.clone(), ignore, top: Arc::new(Folder::top(&stat)) })
    }

    /// What a regular file has in it, whatever is ignored; `None` where there is none. Links are followed with this
    /// directory as root.
    pub(super) fn text(&self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>> {
        let (root, shown) = (&self.root, || self.root.shown(path));
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let found = match openat2(&root.fd, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => other.call_at("openat2", shown())?,
        };
        let stat = rustix::fs::fstat(&found).call_at("fstat", shown())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(ErrorKind::InvalidInput, "not a regular file").with_path(shown()));
        }
        // Only now that it is known to be a regular file.
        let again = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = File::from(rustix::fs::open(again, flags, Mode::empty()).call_at("open", shown())?);
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes).call_at("read", shown())?;
        match bytes.len() as u64 > max {
            true => Err(Error::new(ErrorKind::TooLarge, format!("a file of more than {max} bytes"))
                .with_path(shown())),
            false => Ok(Some(bytes)),
        }
    }

    pub(super) fn save(&self) -> Result<()> {
        self.root.stats.as_ref().map_or(Ok(()), Stats::save)
    }

    /// Lists a directory and all below, several at once, so that going through them finds them listed. What can't be listed is
    /// told of when it is met.
    fn list_all(&self, from: &Arc<Folder>) {
        let queue = Queue::default();
        queue.lock().todo.push(from.clone());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        std::thread::scope(|scope| {
            let mut helpers = threads - 1;
            while let Some(folder) = queue.next() {
                queue.done(self.listed(&folder).ok());
                if helpers > 0 && queue.lock().todo.len() >= PARALLEL_FROM {
                    for _ in 0..std::mem::take(&mut helpers) {
                        let thread = std::thread::Builder::new().name("coracle-context".into());
                        let work = || {
                            while let Some(folder) = queue.next() {
                                queue.done(self.listed(&folder).ok());
                            }
                        };
                        // Without it the others have more to do.
                        if let Err(error) = thread.spawn_scoped(scope, work) {
                            tracing::debug!(%error, "a context is listed by fewer threads");
                        }
                    }
                }
            }
        });
    }

    fn listed(&self, folder: &Folder) -> Result<Arc<Listing>> {
        let mut listed = folder.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listed) = &*listed {
            return Ok(listed.clone());
        }
        let new = Arc::new(self.children(folder)?);
        *listed = Some(new.clone());
        Ok(new)
    }

    fn children(&self, folder: &Folder) -> Result<Listing> {
        let shown = || self.root.shown(&folder.path);
        let dir = self.root.open(&folder.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let stat = rustix::fs::fstat(&dir).call_at("fstat", shown())?;
        if (stat.st_dev, stat.st_ino) != folder.inode {
            return Err(changed().with_path(shown()));
        }
        let xattrs = get_xattrs(dir.as_fd(), &folder.path)?;
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); LISTED];
        let mut entries = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.call_at("getdents64", shown())?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        let ignores = self.ignore.patterns().next().is_some();
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            let path = join(&folder.path, &name);
            let (is_excluded, matched) = match ignores {
                true => self.ignore.excludes_below(text(&path), &folder.matched),
                false => (false, Parents::default()),
            };
            if is_excluded && !self.ignore.may_include_below(text(&path)) {
                continue;
            }
            let stat = match rustix::fs::statat(&dir, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                // Gone since it was listed.
                Err(Errno::NOENT) => continue,
                other => other.call_at("fstatat", self.root.shown(&path))?,
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if is_excluded && kind != FileType::Directory {
                continue;
            }
            let folder = (kind == FileType::Directory).then(|| {
                Arc::new(Folder {
                    path: path.clone(),
                    inode: (stat.st_dev, stat.st_ino),
                    is_excluded,
                    matched,
                    listed: Mutex::default(),
                })
            });
            let item = self.item(&dir, &name, path, &stat)?;
            children.push(Child { name, item, folder });
        }
        Ok(Listing { xattrs, children })
    }

    fn item(&self, dir: &OwnedFd, name: &[u8], path: Vec<u8>, stat: &Stat) -> Result<Item> {
        let shown = |path: &[u8]| self.root.shown(path);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            // BuildKit makes an empty file of a socket.
            FileType::RegularFile | FileType::Socket => EntryKind::File,
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, "a file of unknown kind")
                    .with_path(shown(&path))
                    .with_remedy("leave it out by .dockerignore"));
            }
        };
        let mtime = Mtime { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
        let mut entry = Entry {
            mode: if kind == EntryKind::Symlink { 0o777 } else { stat.st_mode & 0o7777 },
            mtime: self.root.time.unwrap_or(mtime),
            ..Entry::new("", kind)
        };
        if self.root.time.is_some() && kind != EntryKind::Symlink {
            // Where only this bit is somebody's decision, the rest is a umask.
            let is_open = kind == EntryKind::Directory || entry.mode & 0o100 != 0;
            entry.mode = if is_open { 0o755 } else { 0o644 };
        }
        let mut content = Content::Nothing;
        match kind {
            EntryKind::File if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
                content = Content::Bytes(Bytes::new());
            }
            EntryKind::File => {
                entry.size = stat.st_size as u64;
                let (root, key, size) = (self.root.clone(), Key::of(stat), entry.size);
                content = Content::Disk(Arc::new(DiskFile {
                    root,
                    path,
                    key,
                    size,
                    known: OnceLock::new(),
                    held: Mutex::default(),
                }));
            }
            EntryKind::Symlink => {
                let link = match rustix::fs::readlinkat(dir, name, Vec::new()) {
                    Err(Errno::INVAL | Errno::NOENT) => return Err(changed().with_path(shown(&path))),
                    other => other.call_at("readlinkat", shown(&path))?,
                };
                entry.link = link.into_bytes();
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            }
            _ => {}
        }
        let inode = (kind == EntryKind::File && stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        Ok(Item { entry, content, inode })
    }

    /// Whether a directory is shown: it is not excluded, or something in it is not.
    fn is_shown(&self, folder: &Folder) -> Result<bool> {
        if !folder.is_excluded {
            return Ok(true);
        }
        for child in self.listed(folder)?.children.iter() {
            match &child.folder {
                Some(folder) if !self.is_shown(folder)? => {}
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Does something with what is at a path.
    fn at<T>(
        &self,
        path: &[u8],
        work: impl FnOnce(Option<&Child>, &Arc<Folder>) -> Result<T>,
    ) -> Result<Option<T>> {
        if path.is_empty() {
            return work(None, &self.top).map(Some);
        }
        self.below(&self.top, path, work)
    }

    fn below<T>(
        &self,
        folder: &Arc<Folder>,
        path: &[u8],
        work: impl FnOnce(Option<&Child>, &Arc<Folder>) -> Result<T>,
    ) -> Result<Option<T>> {
        let slash = path.iter().position(|&b| b == b'/');
        let (name, rest) = slash.map_or((path, None), |at| (&path[..at], Some(&path[at + 1..])));
        let listed = self.listed(folder)?;
        let Ok(at) = listed.children.binary_search_by(|child| child.name[..].cmp(name)) else {
            return Ok(None);
        };
        let child = &listed.children[at];
        if let Some(folder) = &child.folder
            && !self.is_shown(folder)?
        {
            return Ok(None);
        }
        match (rest, &child.folder) {
            (None, folder) => work(Some(child), folder.as_ref().unwrap_or(&self.top)).map(Some),
            (Some(rest), Some(folder)) => self.below(folder, rest, work),
            (Some(_), None) => Ok(None),
        }
    }
}

/// Directories that are to be listed, and how many are being listed.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    todo: Vec<Arc<Folder>>,
    busy: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when all is done.
    fn next(&self) -> Option<Arc<Folder>> {
        let mut state = self.lock();
        loop {
            if let Some(folder) = state.todo.pop() {
                state.busy += 1;
                return Some(folder);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, listed: Option<Arc<Listing>>) {
        let mut state = self.lock();
        state.busy -= 1;
        let children = listed.iter().flat_map(|listed| &listed.children);
        state.todo.extend(children.filter_map(|child| child.folder.clone()));
        drop(state);
        self.more.notify_all();
    }
}

impl Folder {
    fn top(stat: &Stat) -> Self {
        Self {
            path: Vec::new(),
            inode: (stat.st_dev, stat.st_ino),
            is_excluded: false,
            matched: Parents::default(),
            listed: Mutex::default(),
        }
    }
}

impl Tree for &Disk {
    fn name(&self) -> String {
        "the context".into()
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Item>> {
        if path.is_empty() {
            let stat = rustix::fs::fstat(&self.root.fd).call_at("fstat", &self.root.path)?;
            let mtime = Mtime { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
            let mut item = Item::directory();
            item.entry.mode = stat.st_mode & 0o7777;
            item.entry.mtime = self.root.time.unwrap_or(mtime);
            return Ok(Some(item));
        }
        let found = self.at(path, |child, _| Ok(child.map(|child| child.item.clone())))?;
        Ok(found.flatten())
    }

    fn list(&mut self, path: &[u8]) -> Result<Vec<(Vec<u8>, Item)>> {
        let listed = self.at(path, |child, folder| {
            if child.is_some_and(|child| child.folder.is_none()) {
                return Ok(Vec::new());
            }
            let mut shown = Vec::new();
            for child in self.listed(folder)?.children.iter() {
                match &child.folder {
                    Some(folder) if !self.is_shown(folder)? => {}
                    _ => shown.push((child.name.clone(), child.item.clone())),
                }
            }
            Ok(shown)
        })?;
        Ok(listed.unwrap_or_default())
    }

    fn prepare(&mut self, path: &[u8]) -> Result<()> {
        self.at(path, |_, folder| {
            self.list_all(folder);
            Ok(())
        })?;
        Ok(())
    }

    fn attributes(&mut self, path: &[u8], item: &Item) -> Result<Xattrs> {
        if !item.is_directory() {
            return Ok(Vec::new());
        }
        let found = self.at(path, |_, folder| Ok(self.listed(folder)?.xattrs.clone()))?;
        Ok(found.unwrap_or_default())
    }

    fn hides(&mut self, path: &[u8]) -> Result<bool> {
        if path.is_empty() {
            return Ok(false);
        }
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_there = openat2(&self.root.fd, path, flags, Mode::empty(), how).is_ok();
        Ok(is_there && self.find(path)?.is_none())
    }
}
