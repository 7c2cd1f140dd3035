//! A [`Difference`] as a layer's archive.
#![forbid(unsafe_code)]

use super::Layer;
use super::apply::{Expected, Job, Lowers};
use super::archive::Writer;
use super::build::{Written, write_with};
use super::compression::Compression;
use super::difference::{Difference, Node, Visitor, is_place, same_but_for_time};
use super::entry::{Entry, EntryKind, Mtime};
use super::flow::Stream;
use super::meta::LayerMeta;
use super::path::{NAME_MAX, join, split, text};
use super::root::RootDir;
use super::unpack::{Limits, Outcome};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{StagedLayer, Store, UnpackedLayer};
use rustix::fs::{FileType, Stat};
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::SystemTime;

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

/// Where the new layer's image is unpacked: it is unpacked on it in the same pass.
pub(crate) struct Onto<'a> {
    /// The topmost first.
    pub(crate) layers: &'a [UnpackedLayer],
    /// Their chain_id.
    pub(crate) parent: Option<Digest>,
    /// Reads all of the archive before anything of it has a name; with an error nothing gets one.
    pub(crate) scan: Option<Scan<'a>>,
}

pub(crate) type Scan<'a> = &'a (dyn Fn(&mut dyn io::Read) -> Result<()> + Sync);

/// A layer that is unpacked before it has a digest.
pub(super) struct Unpacked<'a> {
    store: &'a Store,
    staged: StagedLayer,
    outcome: Outcome,
    parent: Option<Digest>,
}

/// Unpacks an archive that is only now being made.
pub(super) fn unpack<'a>(store: &'a Store, onto: &Onto<'_>, plain: Stream) -> Result<Unpacked<'a>> {
    let owners = super::owner::for_caller();
    let job = Job {
        store,
        expected: Expected::default(),
        lowers: Lowers::Ready(onto.layers),
        parent: onto.parent,
        owners: &*owners,
        limits: Limits::default(),
    };
    let (staged, outcome) = job.unpack(plain)?;
    Ok(Unpacked { store, staged, outcome, parent: onto.parent })
}

impl Unpacked<'_> {
    /// Files it under what it has turned out to be.
    pub(super) fn publish(self, written: &Written, bytes: u64) -> Result<UnpackedLayer> {
        let base = super::owner::for_caller().base();
        let chain_id = super::chain_id(self.parent.as_ref(), &written.diff_id);
        let meta = LayerMeta {
            diff_id: Some(written.diff_id),
            chain_id: Some(chain_id),
            digest: Some(written.digest),
            size: written.size,
            bytes,
            base,
            ..self.outcome.meta
        };
        let key = meta.base.file(if meta.self_contained { &written.diff_id } else { &chain_id });
        if let Some(layer) = self.store.layer(&key)? {
            return Ok(layer);
        }
        self.staged.publish(&key, &meta)
    }
}

/// What a container has changed, if it has, and what of that no layer can have, with the reason.
pub(crate) type Changed = (Option<Layer>, Vec<(PathBuf, String)>);

impl Layer {
    /// What a container has changed, as a plain archive, `None` where that is nothing; and what has no place in one. Times later
    /// than `latest` are `latest`.
    /// `root`: what the image says of its root directory. The caller holds `store.writing()`.
    ///
    /// # Errors
    /// `InvalidInput` for a name that a layer would take for a whiteout, `Unsupported` for an owner whom the container does not
    /// have, `TooLarge` for a path that is too long or too deep; `InUse` where the container changes it meanwhile.
    pub(crate) fn of_difference(
        store: &Store,
        mut difference: Difference<'_>,
        root: Option<&RootDir>,
        latest: Option<SystemTime>,
        onto: Option<Onto<'_>>,
    ) -> Result<Changed> {
        let latest = latest.map(Mtime::from);
        let root = root.cloned();
        // Without anything in it there is to be no layer, and no blob either.
        let mut probe = Archive::<io::Sink> { latest, root: root.clone(), ..Archive::new(None) };
        difference.walk(&mut probe)?;
        if !probe.any {
            return Ok((None, difference.left_out));
        }
        difference.begin_again();
        let made = write_with(store, Compression::None, onto, |output| {
            let mut archive = Archive { latest, root, ..Archive::writing(output) };
            difference.walk(&mut archive)?;
            archive.finish()
        })?;
        let left_out = difference.left_out;
        let layer =
            Self::new(store, made.digest, made.size, made.diff_id, Compression::None, left_out.clone())?;
        Ok((Some(layer), left_out))
    }
}

/// Takes what is found as the entries of an archive; without a writer only whether there are any.
pub(super) struct Archive<W> {
    writer: Option<Writer<W>>,
    any: bool,
    latest: Option<Mtime>,
    root: Option<RootDir>,
    /// Directories that only come if something in them does: each with what is in it, the deepest last.
    pending: Vec<Entry>,
}

impl<W: Write> Archive<W> {
    fn new(writer: Option<Writer<W>>) -> Self {
        Self { writer, any: false, latest: None, root: None, pending: Vec::new() }
    }

    pub(super) fn writing(output: W) -> Self {
        Self::new(Some(Writer::new(output)))
    }

    pub(super) fn finish(self) -> Result<W> {
        match self.writer {
            Some(writer) => writer.finish(),
            None => Err(Error::new(ErrorKind::State, "an archive without a writer")),
        }
    }

    /// An entry, with the file that its data is in where it has some, what that is like and where it lies.
    pub(super) fn put(&mut self, mut entry: Entry, file: Option<(&File, &Stat)>) -> Result<ControlFlow<()>> {
        self.any = true;
        self.leave(&entry.path);
        let pending = std::mem::take(&mut self.pending);
        let Some(writer) = &mut self.writer else { return Ok(ControlFlow::Break(())) };
        for directory in pending {
            writer.entry(&clamped(directory, self.latest), &mut io::empty())?;
        }
        entry = clamped(entry, self.latest);
        match file {
            None => writer.entry(&entry, &mut io::empty())?,
            Some((file, stat)) => writer.file(&entry, file, stat)?,
        }
        Ok(GO_ON)
    }

    /// Forgets the pending directories that this is not in.
    fn leave(&mut self, path: &[u8]) {
        let is_in = |dir: &[u8]| {
            dir == b"." || path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let keep = self.pending.iter().take_while(|dir| is_in(&dir.path)).count();
        self.pending.truncate(keep);
    }

    /// Whether the root directory itself is another than the image's. Its time alone does not count: it changes with what is
    /// made in it.
    fn is_root_changed(&self, entry: &Entry) -> bool {
        let of_users = |(name, _): &&(Vec<u8>, Vec<u8>)| name.starts_with(b"user.");
        let mine: Vec<_> = entry.xattrs.iter().filter(of_users).collect();
        match &self.root {
            None => (entry.mode, entry.uid, entry.gid) != (0o755, 0, 0) || !mine.is_empty(),
            Some(root) => {
                (entry.mode, entry.uid, entry.gid) != (root.mode, root.uid, root.gid)
                    || mine != root.xattrs.iter().collect::<Vec<_>>()
            }
        }
    }
}

fn clamped(entry: Entry, latest: Option<Mtime>) -> Entry {
    Entry { mtime: latest.map_or(entry.mtime, |latest| entry.mtime.min(latest)), ..entry }
}

/// A name that hides another.
///
/// # Errors
/// `TooLarge` for a name that no whiteout can be made of: nobody could unpack the layer.
pub(super) fn hiding(dir: &[u8], name: &[u8]) -> Result<Entry> {
    let hides = [b".wh.", name].concat();
    if hides.len() > NAME_MAX {
        let what =
            format!("to hide a file with a name of {} bytes, a layer needs {}", name.len(), hides.len());
        return Err(Error::new(ErrorKind::TooLarge, what)
            .with_path(text(&join(dir, name)))
            .with_remedy("leave the file there, if need be empty, or remove the directory that it is in"));
    }
    Ok(Entry::new(join(dir, &hides), EntryKind::File))
}

impl<W: Write> Visitor for Archive<W> {
    fn found(&mut self, difference: &mut Difference<'_>, node: &Node<'_>) -> Result<ControlFlow<()>> {
        if split(node.path).1.starts_with(b".wh.") {
            return Err(Error::new(ErrorKind::InvalidInput, "a file that a layer would take for a whiteout")
                .with_path(text(node.path))
                .with_remedy("give it another name, or remove it, in the container"));
        }
        if node.is(FileType::Directory) {
            let Some((entry, _)) = difference.describe(node)? else { return Ok(GO_ON) };
            if node.path.is_empty() {
                return if self.is_root_changed(&entry) { self.put(entry, None) } else { Ok(GO_ON) };
            }
            if is_place(difference, node)? || self.is_unchanged(difference, node, &entry)? {
                self.leave(node.path);
                self.pending.push(entry);
                return Ok(GO_ON);
            }
            return self.put(entry, None);
        }
        if self.writer.is_none() && !node.is(FileType::Socket) {
            // There is something.
            return self.put(Entry::new(node.path, EntryKind::File), None);
        }
        let Some((mut entry, file)) = difference.describe(node)? else { return Ok(GO_ON) };
        // Of what was opened: a container may have put another file there since it was found.
        let stat = match &file {
            Some(file) => rustix::fs::fstat(file).call_at("fstat", text(node.path))?,
            None => node.stat,
        };
        if let Some(first) = difference.linked(&stat, node.path) {
            (entry.kind, entry.link) = (EntryKind::HardLink, first);
            (entry.size, entry.xattrs) = (0, Vec::new());
            return self.put(entry, None);
        }
        if file.is_some() {
            entry.size = stat.st_size as u64;
        }
        self.put(entry, file.as_ref().map(|file| (file, &stat)))
    }

    fn gone(&mut self, path: Vec<u8>, covered: bool) -> Result<ControlFlow<()>> {
        if covered {
            return Ok(GO_ON);
        }
        let (dir, name) = split(&path);
        self.put(hiding(dir, name)?, None)
    }

    fn opaque(&mut self, path: &[u8]) -> Result<ControlFlow<()>> {
        self.put(hiding(path, b".wh..opq")?, None)
    }
}

impl<W> Archive<W> {
    /// Whether a directory was only copied, as something in it changed.
    fn is_unchanged(&self, difference: &mut Difference<'_>, node: &Node<'_>, entry: &Entry) -> Result<bool> {
        let Some(found) = node.image.as_ref().filter(|_| !node.covered) else { return Ok(false) };
        if found.kind() != Some(EntryKind::Directory) {
            return Ok(false);
        }
        let Some(old) = difference.image.entry(node.path, found)? else { return Ok(false) };
        // Places to mount on that were made in it have changed its time.
        let same_time = old.mtime == entry.mtime || difference.has_excluded(node.path);
        Ok(same_but_for_time(&old, entry) && same_time)
    }
}
