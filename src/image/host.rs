//! This machine's own root directory as an image: what of it stays hidden.
//!
//! A container on the host image sees the host's programs and libraries, and its root reads what the
//! host's root can read. So everything that holds secrets is covered, by three rules:
//!
//! 1. the list [`HIDDEN`], and with it the store, the home directories of people and the directory for temporary files;
//! 2. in `/etc`, at any depth, what others may not read: a regular file, or a directory as a whole;
//! 3. directly in the directories of [`STATE`] and [`DATA`] (data of daemons, logs, queues), the same; in `DATA` also
//!    each directory that belongs to a daemon's own user.
//!
//! Paths are followed to where they lead (`/var/run` is `/run`), and that place is covered.
//! [`Image::expose`](crate::Image::expose) gives back exactly the path it names: a covered path, or something
//! inside of one. To expose a directory gives back nothing that is covered for a reason of its own below it:
//! `/home` does not give back the store in it.
//!
//! What this can't know: secrets that a program keeps world-readable, or in places of its own (`/srv`, `/opt`).
#![forbid(unsafe_code)]

mod hidden;

use hidden::{DATA, HIDDEN, STATE};

use crate::error::{Call, Error, ErrorKind, Result};
use crate::manifest::{DEFAULT_PATH, ImageConfig};
use crate::store::{Store, list};
use crate::sys::open::openat2;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// More entries than this in `/etc` or a directory of state are not looked through: the host image is
/// refused then, rather than shown in part unseen.
const ENTRIES_MAX: usize = 200_000;
const PASSWD_MAX: u64 = 4 << 20;

/// So often a file is looked for again that has been replaced meanwhile.
const TRIES: usize = 64;
/// What the kernel says of a file that has no name any more (proc_pid_fd(5)).
const DELETED: &[u8] = b" (deleted)";

/// One step in making the host's root fit to be seen; in this order, a directory before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// Absolute, without symbolic links.
    pub(crate) path: PathBuf,
    pub(crate) is_dir: bool,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// Cover it: an empty directory, or an empty file.
    Hide,
    /// It lies in something covered: put it back.
    Return,
}

/// A configuration for containers on the host's root: this machine's platform, a search path, a shell.
pub(super) fn config() -> Result<ImageConfig> {
    ImageConfig::new(&[], json!([]), "1970-01-01T00:00:00Z")?.edit(|value| {
        value["config"]["Env"] = json!([format!("PATH={DEFAULT_PATH}")]);
        value["config"]["Cmd"] = json!(["/bin/sh"]);
        Ok(())
    })
}

/// What of this machine's root is hidden and what of that is given back.
///
/// # Errors
/// `TooLarge` when `/etc` is beyond all bounds; the errors of the file system.
pub(crate) fn steps(store: &Store, exposed: &[PathBuf]) -> Result<Vec<Step>> {
    let root = Root::open(Path::new("/"))?;
    let mut homes = vec![std::env::temp_dir()];
    homes.extend(std::env::var_os("HOME").map(PathBuf::from));
    root.steps(store.path(), &homes, exposed)
}

struct Root {
    dir: OwnedFd,
    /// What the kernel calls it: cut off from resolved paths.
    path: PathBuf,
}

/// A path of the root that exists, without links.
struct Resolved {
    path: PathBuf,
    stat: Stat,
    fd: OwnedFd,
}

impl Resolved {
    fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

/// Whether others may not read it: of a directory, list or enter it.
fn is_private(stat: &Stat) -> bool {
    let mode = Mode::from_raw_mode(stat.st_mode);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => !mode.contains(Mode::ROTH | Mode::XOTH),
        FileType::RegularFile => !mode.contains(Mode::ROTH),
        _ => false,
    }
}

/// Or whether it is the directory of a daemon that has a user of its own: what it keeps from others lies somewhere
/// below (PostgreSQL's databases are three levels down).
fn is_private_or_of_a_daemon(stat: &Stat) -> bool {
    let own = [0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid);
    is_private(stat) || FileType::from_raw_mode(stat.st_mode) == FileType::Directory && !own
}

impl Root {
    fn open(path: &Path) -> Result<Self> {
        let dir = rustix::fs::open(path, crate::store::DIRECTORY, Mode::empty()).call_at("open", path)?;
        Ok(Self { path: path_of(&dir)?, dir })
    }

    fn steps(&self, store: &Path, homes: &[PathBuf], exposed: &[PathBuf]) -> Result<Vec<Step>> {
        let mut hidden: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut hide = |found: &Resolved| {
            hidden.insert(found.path.clone(), found.is_dir());
        };
        for pattern in HIDDEN {
            self.expand(Path::new(pattern))?.iter().for_each(&mut hide);
        }
        self.resolve(store)?.iter().for_each(&mut hide);
        for path in homes.iter().chain(&self.homes()?) {
            // Daemons live in `/`, `/var/lib` or `/usr/bin`, which nobody can do without.
            self.resolve(path)?.iter().filter(|found| !is_needed(&found.path)).for_each(&mut hide);
        }
        self.private(Path::new("/etc"), usize::MAX, is_private, &mut hide)?;
        for state in STATE {
            self.private(Path::new(state), 0, is_private, &mut hide)?;
        }
        for data in DATA {
            self.private(Path::new(data), 0, is_private_or_of_a_daemon, &mut hide)?;
        }
        let mut returned = BTreeMap::new();
        for path in exposed {
            let Some(found) = self.resolve(path)? else {
                return Err(
                    Error::new(ErrorKind::NotFound, "expose: no such path on the host").with_path(path)
                );
            };
            hidden.remove(&found.path);
            returned.insert(found.path.clone(), found.is_dir());
        }
        Ok(order(hidden, returned))
    }

    /// The paths that match a pattern.
    fn expand(&self, pattern: &Path) -> Result<Vec<Resolved>> {
        let starred = pattern.components().position(|part| part.as_os_str().as_bytes().contains(&b'*'));
        let Some(at) = starred else { return Ok(self.resolve(pattern)?.into_iter().collect()) };
        let parent: PathBuf = pattern.components().take(at).collect();
        let rest: PathBuf = pattern.components().skip(at + 1).collect();
        let star = pattern.components().nth(at).map(|part| part.as_os_str().as_bytes()).unwrap_or_default();
        let Some(directory) = self.resolve(&parent)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for name in self.names(&directory)?.unwrap_or_default() {
            if matches(star, name.as_bytes()) {
                found.extend(
                    self.resolve(&directory.path.join(&name).join(&rest).components().collect::<PathBuf>())?,
                );
            }
        }
        Ok(found)
    }

    /// Follows a path within the root; `None` when it leads nowhere, or where the caller may not look
    /// (and with the caller's rights nobody in a container may).
    fn look(&self, path: &Path) -> Result<Option<(OwnedFd, Stat)>> {
        if !path.is_absolute() {
            return Ok(None);
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd = match openat2(&self.dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(None),
            other => other.call_at("openat2", path)?,
        };
        let stat = rustix::fs::fstat(&fd).call_at("fstat", path)?;
        Ok(Some((fd, stat)))
    }

    /// The same, and where it led.
    fn resolve(&self, path: &Path) -> Result<Option<Resolved>> {
        let Some((fd, stat)) = self.look(path)? else { return Ok(None) };
        self.name(path, fd, stat)
    }

    /// Where `path` led. What has been replaced meanwhile, as most programs write their files, has no name any more: the one
    /// that has its place counts.
    fn name(&self, path: &Path, mut fd: OwnedFd, mut stat: Stat) -> Result<Option<Resolved>> {
        for _ in 0..TRIES {
            let real = path_of(&fd)?;
            let Ok(inside) = real.strip_prefix(&self.path) else {
                return Err(Error::new(ErrorKind::Io, "resolved to outside of the root").with_path(real));
            };
            let real = Path::new("/").join(inside);
            // Not by the number of its names: it may have another one, or be of a layer of an overlay.
            let is_it = |found: &Stat| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino);
            if !real.as_os_str().as_bytes().ends_with(DELETED)
                || self.look(&real)?.is_some_and(|(_, found)| is_it(&found))
            {
                return Ok(Some(Resolved { path: real, stat, fd }));
            }
            match self.look(path)? {
                Some(other) => (fd, stat) = other,
                None => return Ok(None),
            }
        }
        Err(Error::new(ErrorKind::InUse, "a file that is to be hidden is replaced all the time")
            .with_path(path)
            .with_remedy("some other program writes it again and again: end that"))
    }

    /// What a directory has; `None` when the caller may not list it.
    fn names(&self, directory: &Resolved) -> Result<Option<Vec<std::ffi::OsString>>> {
        let open = rustix::fs::openat(&directory.fd, ".", crate::store::DIRECTORY, Mode::empty());
        match open {
            Err(Errno::ACCESS | Errno::NOENT | Errno::NOTDIR) => Ok(None),
            other => {
                let fd = other.call_at("openat", &directory.path)?;
                list(fd.as_fd()).map(Some).map_err(|error| error.with_path(&directory.path))
            }
        }
    }

    /// Hides what is a secret below `path`, down to `depth` directories below.
    fn private(
        &self,
        path: &Path,
        depth: usize,
        is_secret: fn(&Stat) -> bool,
        hide: &mut impl FnMut(&Resolved),
    ) -> Result<()> {
        let Some(top) = self.resolve(path)? else { return Ok(()) };
        let mut todo = vec![(top, 0)];
        let mut seen = 0;
        while let Some((directory, level)) = todo.pop() {
            for name in self.names(&directory)?.unwrap_or_default() {
                seen += 1;
                if seen > ENTRIES_MAX {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        format!("more than {ENTRIES_MAX} entries to look through"),
                    )
                    .with_path(path));
                }
                // One call for most entries: this is done at each start of a container.
                let below = directory.path.join(&name);
                let stat = match rustix::fs::statat(&directory.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT | Errno::ACCESS) => continue,
                    other => other.call_at("fstatat", &below)?,
                };
                let kind = FileType::from_raw_mode(stat.st_mode);
                let enter = kind == FileType::Directory && level < depth;
                if kind != FileType::Symlink && !enter && !is_secret(&stat) {
                    continue;
                }
                let Some((fd, stat)) = self.look(&below)? else { continue };
                if is_secret(&stat) {
                    self.name(&below, fd, stat)?.iter().for_each(&mut *hide);
                } else if enter {
                    todo.push((Resolved { path: below, stat, fd }, level + 1));
                }
            }
        }
        Ok(())
    }

    /// The home directories of people, and of the caller.
    fn homes(&self) -> Result<Vec<PathBuf>> {
        let Some(passwd) = self.resolve(Path::new("/etc/passwd"))? else { return Ok(Vec::new()) };
        let me = rustix::process::geteuid().as_raw();
        let mut text = Vec::new();
        let open = std::fs::OpenOptions::new()
            .read(true)
            .open(format!("/proc/thread-self/fd/{}", passwd.fd.as_raw_fd()));
        let file: File = open.call_at("open", &passwd.path)?;
        file.take(PASSWD_MAX).read_to_end(&mut text).call_at("read", &passwd.path)?;
        let home = |line: &[u8]| {
            let mut fields = line.split(|b| *b == b':');
            let uid: u32 = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
            // Below 1000 are daemons, 65534 is nobody.
            let person = uid == me || (1000..65_534).contains(&uid) || uid > 65_535;
            person.then_some(PathBuf::from(OsStr::from_bytes(fields.nth(2)?)))
        };
        Ok(text.split(|b| *b == b'\n').filter_map(home).collect())
    }
}

/// Directories that containers can't do without, whoever has them as home.
fn is_needed(path: &Path) -> bool {
    let top =
        ["/", "/etc", "/var", "/var/lib", "/var/cache", "/var/log", "/opt", "/srv", "/dev", "/proc", "/sys"];
    top.iter().any(|needed| path == Path::new(needed))
        || ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]
            .iter()
            .any(|needed| path.starts_with(needed))
}

/// Parents before children; no cover below a cover unless something between them was given back.
fn order(hidden: BTreeMap<PathBuf, bool>, returned: BTreeMap<PathBuf, bool>) -> Vec<Step> {
    let hide = hidden.into_iter().map(|(path, is_dir)| Step { path, is_dir, what: What::Hide });
    let give = returned.into_iter().map(|(path, is_dir)| Step { path, is_dir, what: What::Return });
    let mut all: Vec<_> = hide.chain(give).collect();
    // By components: `/a/b` comes right behind `/a`, not behind `/a-b`.
    all.sort();
    let mut steps: Vec<Step> = Vec::new();
    for step in all {
        let above = steps.iter().rev().find(|above| step.path.starts_with(&above.path));
        // What nothing covers needs no return, and what is covered no cover.
        if above.map_or(What::Return, |above| above.what) != step.what {
            steps.push(step);
        }
    }
    steps
}

fn path_of(fd: &OwnedFd) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()))
        .call("readlink(/proc/thread-self/fd)")
}

/// Whether a name matches a pattern with one `*`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.iter().position(|b| *b == b'*') {
        None => pattern == name,
        Some(at) => {
            let (before, after) = (&pattern[..at], &pattern[at + 1..]);
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
    }
}

#[cfg(test)]
mod tests;
