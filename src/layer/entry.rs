//! What an archive says about one file.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What kind of file an [`Entry`] of a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; its target is kept verbatim.
    Symlink,
    /// Another name of a file that is in this layer or in one below.
    HardLink,
    /// A named pipe.
    Fifo,
    /// A character device. It is in the archive and in the layer's metadata, never on disk.
    CharDevice,
    /// A block device. It is in the archive and in the layer's metadata, never on disk.
    BlockDevice,
}

/// Seconds since 1970 and nanoseconds above them, `nanos` in 0..1_000_000_000 also before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(crate) struct Mtime {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

impl From<SystemTime> for Mtime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            // Before 1970: the whole second below, and what is above it.
            Err(before) => {
                let before = before.duration();
                let up = u64::from(before.subsec_nanos() > 0);
                let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                Self { secs: -((before.as_secs() + up) as i64), nanos }
            }
        }
    }
}

/// One file as an archive describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As archived: it may be absolute, have `./` in front, end in a slash, or be hostile.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits with set-user-ID, set-group-ID and sticky: `mode & 0o7777`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    /// The length of the file, holes included; 0 for all but regular files.
    pub(crate) size: u64,
    /// The target of a symbolic or a hard link; empty for all else.
    pub(crate) link: Vec<u8>,
    /// Sorted by name, each name once.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// The data comes in pieces with holes between them.
    pub(crate) sparse: bool,
}

impl Entry {
    pub(crate) fn new(path: impl Into<Vec<u8>>, kind: EntryKind) -> Self {
        Self {
            path: path.into(),
            kind,
            mode: if kind == EntryKind::Directory { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            size: 0,
            link: Vec::new(),
            xattrs: Vec::new(),
            device: (0, 0),
            sparse: false,
        }
    }

    /// Whether it is another root directory than one that no archive says anything of.
    pub(crate) fn is_unusual_root(&self) -> bool {
        (self.mode, self.uid, self.gid) != (0o755, 0, 0) || !self.xattrs.is_empty()
    }

    /// The path, as it is in the archive. Whiteouts have their `.wh.` name.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The kind of file.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Permission bits with set-user-ID, set-group-ID and sticky (`mode & 0o7777`).
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// The user id in the image.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The group id in the image.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// When it was modified, to the nanosecond.
    ///
    /// `None` when the archive's number is beyond what [`SystemTime`] can hold.
    pub fn modified(&self) -> Option<SystemTime> {
        let whole = Duration::from_secs(self.mtime.secs.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH;
        let base = if self.mtime.secs < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
        base?.checked_add(Duration::from_nanos(self.mtime.nanos.into()))
    }

    /// The length of a regular file in bytes, holes included; 0 for all else.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The target of a symbolic or a hard link.
    pub fn link_target(&self) -> Option<&Path> {
        matches!(self.kind, EntryKind::Symlink | EntryKind::HardLink)
            .then(|| Path::new(OsStr::from_bytes(&self.link)))
    }

    /// Major and minor number of a device.
    pub fn device(&self) -> Option<(u32, u32)> {
        matches!(self.kind, EntryKind::CharDevice | EntryKind::BlockDevice).then_some(self.device)
    }

    /// Extended attributes, names with their namespace (`user.note`, `security.capability`).
    pub fn xattrs(&self) -> impl Iterator<Item = (&OsStr, &[u8])> {
        self.xattrs.iter().map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
    }
}
