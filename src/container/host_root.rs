//! The host's own root as a container's, and the files of /etc that docker writes.
//!
//! An ordinary user's namespace may not take `/` as an overlay's lower directory (the mounts below it are locked to
//! it), and a mount below would be missing in one. So the root is put together from parts: an overlay over each
//! top-level directory, or, where something is mounted below one, over the directories in it.
#![forbid(unsafe_code)]

use super::record::{Dir, Record};
use super::rootfs::{Base, MADE, Part};
use crate::error::{Call, Error, Result};
use crate::image::host::{What, steps};
use crate::store::Store;
use crate::sys::mountinfo;
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bound over the image's; never part of a diff.
pub(super) const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// What stage B makes anew.
const OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

pub(super) fn open_root() -> Result<OwnedFd> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call_at("open", "/")
}

/// Their contents for a start.
pub(super) fn etc_files(record: &Record, hostname: &str) -> Result<Vec<(&'static str, String)>> {
    let host = record.spec.network.is_host();
    let own = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
               ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    // Docker shows the host's own names on the host's network.
    let of_host = |path| {
        if !host {
            return Ok(None);
        }
        let bytes = if_there(fs::read(path)).call_at("read", path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let mut hosts = of_host("/etc/hosts")?.unwrap_or_else(|| own.to_owned());
    for (name, address) in &record.spec.hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    if !host {
        hosts.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    let resolv = of_host("/etc/resolv.conf")?.unwrap_or_default();
    Ok(ETC_FILES.into_iter().zip([hosts, format!("{hostname}\n"), resolv]).collect())
}

/// The largest file, in bytes, that is copied where its directory can't be an overlay: those of /etc, where other engines
/// mount some. A larger one is the host's own, read-only.
const COPIED_MAX: u64 = 64 << 10;

struct Planner<'a> {
    dir: &'a Dir,
    owner: Option<(u32, u32)>,
    in_memory: bool,
    /// Nobody has run in it.
    is_fresh: bool,
    mounted: BTreeMap<PathBuf, String>,
    hidden: BTreeSet<PathBuf>,
    parts: Vec<Part>,
    overlays: usize,
}

/// Makes the directories of the writable layer and lists the parts, a directory before what is in it.
pub(super) fn prepare(
    store: &Store,
    dir: &Dir,
    exposed: &[PathBuf],
    owner: Option<(u32, u32)>,
    in_memory: bool,
) -> Result<Base> {
    let steps = steps(store, exposed)?;
    let hidden = steps.iter().filter(|step| step.what == What::Hide).map(|step| step.path.clone()).collect();
    // Where, and of what type; what is on top there comes last.
    let mounted = mountinfo::read()?.into_iter().map(|mount| (mount.point, mount.kind)).collect();
    let is_fresh = in_memory || !dir.has(MADE);
    let mut planner =
        Planner { dir, owner, in_memory, is_fresh, mounted, hidden, parts: Vec::new(), overlays: 0 };
    let layers = if owner.is_some() {
        planner.filesystems()?;
        vec![PathBuf::from("/")]
    } else {
        planner.directory(Path::new("/"), planner.is_fresh)?;
        if planner.is_fresh && planner.overlays > 0 && !in_memory {
            planner.parts.push(Part::Made);
        }
        Vec::new()
    };
    for step in &steps {
        let (path, is_dir) = (step.path.clone(), step.is_dir);
        planner.parts.push(match step.what {
            What::Return => Part::Return { path, is_dir },
            What::Hide if !is_dir => Part::HideFile { path },
            What::Hide => {
                let (mode, writable) = match path.to_str() {
                    Some("/tmp" | "/var/tmp") => (0o1777, true),
                    Some("/run" | "/home") => (0o755, true),
                    Some("/root") => (0o700, true),
                    _ => (0o555, false),
                };
                Part::HideDir { path, mode, writable }
            }
        });
    }
    Ok(Base { root_dir: None, layers, parts: planner.parts })
}

/// Filesystems that hold a system's own files and can be id-mapped.
const DISK_TYPES: [&str; 7] = ["ext4", "xfs", "btrfs", "f2fs", "erofs", "squashfs", "ext2"];

/// The host goes on meanwhile: what has gone since it was listed is not there.
fn if_there<T>(found: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

impl Planner<'_> {
    /// Root takes `/` whole, which shows nothing of what is mounted below it: those filesystems come as parts.
    fn filesystems(&mut self) -> Result<()> {
        let covered = |path: &Path| {
            self.hidden.iter().any(|hidden| path.starts_with(hidden))
                || OWN.iter().any(|own| path.starts_with(own))
                || path == Path::new("/")
        };
        let wanted: Vec<PathBuf> = self
            .mounted
            .iter()
            .filter(|(path, kind)| DISK_TYPES.contains(&kind.as_str()) && !covered(path) && path.is_dir())
            .map(|(path, _)| path.clone())
            .collect();
        for path in wanted {
            if let Some(meta) = if_there(path.metadata()).call_at("stat", &path)? {
                self.overlay(path, &meta)?;
            }
        }
        Ok(())
    }

    /// A directory that can't be taken whole: its entries one by one. `is_new`: no container has been in it.
    fn directory(&mut self, path: &Path, is_new: bool) -> Result<()> {
        let Some(entries) = if_there(fs::read_dir(path)).call_at("open", path)? else { return Ok(()) };
        let entries = entries.map(|entry| Ok(entry?.path()));
        let mut entries: Vec<PathBuf> = entries.collect::<std::io::Result<_>>().call_at("getdents", path)?;
        entries.sort();
        for entry in entries {
            let Ok(meta) = entry.symlink_metadata() else { continue };
            if meta.is_symlink() {
                if let Some(target) = if_there(fs::read_link(&entry)).call_at("readlink", &entry)? {
                    self.link(&entry, &target)?;
                }
            } else if meta.is_dir() {
                // Below what was there already, a link of the container's may lead anywhere.
                let is_above_new = is_new || path == Path::new("/");
                let is_new = self.is_fresh || (is_above_new && !self.dir.has(Self::relative(&entry)));
                self.skeleton(&entry, meta.permissions().mode() & 0o7777, (meta.uid(), meta.gid()))?;
                if OWN.iter().any(|own| entry == Path::new(own)) || self.hidden.contains(&entry) {
                    continue;
                }
                if self.has_mount_below(&entry) {
                    self.directory(&entry, is_new)?;
                } else {
                    self.overlay(entry, &meta)?;
                }
            } else if meta.is_file() {
                // Of what is hidden the name is there. A mount of the host's file could not be covered any more once
                // that is removed, which may be while this start goes on.
                let bytes = match self.hidden.contains(&entry) {
                    true => Some(Vec::new()),
                    false if meta.len() <= COPIED_MAX => fs::read(&entry).ok(),
                    false => None,
                };
                match bytes {
                    Some(_) if !is_new => {}
                    Some(bytes) => {
                        let (path, mode) = (Self::relative(&entry), meta.permissions().mode() & 0o777);
                        self.parts.push(Part::MakeFile { path, mode, bytes, owner: self.owner });
                    }
                    None => self.parts.push(Part::File { path: entry }),
                }
            }
        }
        Ok(())
    }

    /// Whether something is mounted below it that is not hidden anyway.
    fn has_mount_below(&self, path: &Path) -> bool {
        let below = |mount: &&PathBuf| mount.starts_with(path) && mount.as_path() != path;
        // Mounts under something hidden lock their parents to them all the same, for an ordinary user.
        self.mounted.keys().any(|mount| below(&mount))
    }

    fn relative(path: &Path) -> PathBuf {
        Path::new("upper").join(path.strip_prefix("/").unwrap_or(path))
    }

    fn shifted(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        let range = |id| if id < super::ids::COUNT { id } else { 65534 };
        self.owner.map(|(base_uid, base_gid)| (base_uid + range(uid), base_gid + range(gid)))
    }

    /// A directory of the writable layer. One in memory has to be made by stage A.
    fn mkdir(&mut self, path: PathBuf, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
        if self.in_memory {
            self.parts.push(Part::MakeDir { path, mode, owner });
            return Ok(());
        }
        self.dir.mkdir(path, mode, owner)
    }

    fn skeleton(&mut self, path: &Path, mode: u32, owner: (u32, u32)) -> Result<()> {
        self.mkdir(Self::relative(path), mode, self.shifted(owner))
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let name = Self::relative(path);
        if self.in_memory {
            self.parts.push(Part::MakeLink { path: name, target: target.to_owned(), owner: self.owner });
            return Ok(());
        }
        match rustix::fs::symlinkat(target, self.dir.as_fd(), &name) {
            Ok(()) => self.dir.own(&name, self.owner),
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::os("symlinkat", errno).with_path(path)),
        }
    }

    fn overlay(&mut self, path: PathBuf, meta: &fs::Metadata) -> Result<()> {
        let number = self.overlays;
        self.overlays += 1;
        let own = format!("parts/{number}");
        if number == 0 && !self.in_memory {
            self.mkdir("parts".into(), 0o755, self.owner)?;
        }
        self.mkdir(own.clone().into(), 0o755, self.owner)?;
        let mode = meta.permissions().mode() & 0o7777;
        self.mkdir(format!("{own}/upper").into(), mode, self.shifted((meta.uid(), meta.gid())))?;
        if !self.in_memory {
            self.dir.store.remove_tree(self.dir.as_fd(), format!("{own}/work"))?;
        }
        self.mkdir(format!("{own}/work").into(), 0o700, self.owner)?;
        self.parts.push(Part::Overlay { path, number });
        Ok(())
    }
}
