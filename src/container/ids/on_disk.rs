//! Which ids the files of an ordinary user's containers and volumes have on disk.
//!
//! They are the user's own and sub-ids, and these are given and taken away (subuid(5)), newuidmap is installed and removed,
//! root works with its capabilities and without. Under another map the same file is nobody's, or somebody else's: a start that
//! would show it so is refused.
#![forbid(unsafe_code)]

use super::super::Held;
use super::super::record::{Dir, Record, UPPER};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Owners, for_caller};
use crate::store::{DIRECTORY, Lease, list, random_hex};
use crate::sys::idmap::{Extent, IdMap};
use crate::sys::open::openat2;
use crate::sys::owners::inside_of;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The map that they were written with: first id inside, first id outside, how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnDisk {
    users: Vec<(u32, u32, u32)>,
    groups: Vec<(u32, u32, u32)>,
}

impl OnDisk {
    fn of(map: &IdMap) -> Self {
        let all = |extents: &[Extent]| extents.iter().map(|e| (e.inside, e.outside, e.count)).collect();
        Self { users: all(&map.users), groups: all(&map.groups) }
    }

    fn map(&self) -> IdMap {
        let all = |extents: &[(u32, u32, u32)]| {
            let extent = |&(inside, outside, count): &(_, _, _)| Extent { inside, outside, count };
            extents.iter().map(extent).collect()
        };
        IdMap { users: all(&self.users), groups: all(&self.groups) }
    }

    /// Whether what was written with these ids in a directory, below `tops`, belongs to the same users now.
    fn is_same(
        &self,
        now: &IdMap,
        dir: BorrowedFd<'_>,
        at: &Path,
        tops: impl FnOnce(&Search<'_>) -> Result<Vec<PathBuf>>,
    ) -> Result<()> {
        let then = self.map();
        if has(&now.users, &then.users) && has(&now.groups, &then.groups) {
            return Ok(());
        }
        let search = Search { dir, at, then: &then, now, owners: for_caller() };
        let Some((path, stat)) = search.changed(tops(&search)?)? else { return Ok(()) };
        let text = |extents| IdMap::text(extents).trim_end().replace('\n', ", ");
        let what = format!(
            "the ids of this user are not those that these files were written with: this one belongs to {}:{}",
            stat.st_uid, stat.st_gid
        );
        Err(Error::new(ErrorKind::State, what).with_path(at.join(path)).with_remedy(format!(
            "give the user the ids back that it had (/etc/subuid, /etc/subgid, newuidmap): users {}; groups {}; or make the \
             container, or the volume, anew",
            text(&then.users),
            text(&then.groups)
        )))
    }
}

/// Has a container's files be of the ids that the warden has, and notes these. `map` is none for root, whose containers have
/// ranges of their own.
///
/// # Errors
/// `Unsupported` for a container with such a range; as [`same_as_written`].
pub(in super::super) fn claim(held: &mut Held, map: Option<&IdMap>) -> Result<()> {
    let Some(map) = map else { return Ok(()) };
    if held.record.base != 0 {
        let what = format!("the container has a range of user ids of root's, from {} on", held.record.base);
        return Err(Error::new(ErrorKind::Unsupported, what).with_path(&held.record.name).with_remedy(
            "the container was made with capabilities that this program has not: start it as it was made, or make it anew",
        ));
    }
    same_as_written(&held.dir, &held.record, map)?;
    let now = Some(OnDisk::of(map));
    if held.record.ids != now {
        held.record.ids = now;
        if !held.record.ephemeral {
            held.dir.set_record(&held.record)?;
        }
    }
    Ok(())
}

/// Whether under this map the container's files are whose they were when it was last started.
///
/// # Errors
/// `State` where they are not, with a file that is somebody else's now.
pub(in super::super) fn same_as_written(dir: &Dir, record: &Record, now: &IdMap) -> Result<()> {
    let Some(then) = record.ids.as_ref().filter(|_| !record.spec.in_memory) else { return Ok(()) };
    then.is_same(now, dir.as_fd(), &dir.path(), |search| {
        let mut tops = vec![PathBuf::from(UPPER)];
        if let Some(parts) = search.directory(dir.as_fd(), Path::new("parts"))? {
            let numbers = list(parts.as_fd())?;
            tops.extend(numbers.iter().map(|number| Path::new("parts").join(number).join(UPPER)));
        }
        Ok(tops)
    })
}

/// The same for a volume, by its lease and its path, of which a file beside the data tells.
///
/// # Errors
/// As [`same_as_written`].
pub(in super::super) fn claim_volume(volume: &Lease, path: &Path, map: &IdMap) -> Result<()> {
    const FILE: &str = "ids";
    let at = || path.join(FILE);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let then: Option<OnDisk> = match rustix::fs::openat(volume, FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => None,
        other => {
            let mut text = Vec::new();
            let file = File::from(other.call_at("openat", at())?);
            file.take(MAX).read_to_end(&mut text).call_at("read", at())?;
            // What was cut short with the machine's power tells nothing.
            serde_json::from_slice(&text).ok()
        }
    };
    let now = OnDisk::of(map);
    match then {
        Some(then) if then == now => return Ok(()),
        Some(then) => then.is_same(map, volume.as_fd(), path, |_| Ok(vec![PathBuf::from("data")]))?,
        None => {}
    }
    let text = serde_json::to_vec(&now)
        .map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))?;
    let new = format!("{FILE}.{}", random_hex(8)?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(volume, &new, flags, Mode::RUSR | Mode::WUSR).call_at("openat(O_CREAT)", at())?;
    let named = File::from(file)
        .write_all(&text)
        .call_at("write", at())
        .and_then(|()| rustix::fs::renameat(volume, &new, volume, FILE).call_at("renameat", at()));
    named.inspect_err(|_| {
        // The disk is full, as a rule. If it stays, it is in nobody's way.
        let _ = rustix::fs::unlinkat(volume, &new, AtFlags::empty());
    })
}

/// Of a file with two maps.
const MAX: u64 = 1 << 16;

/// Whether all of `then` are the same now.
fn has(now: &[Extent], then: &[Extent]) -> bool {
    let holds = |now: &Extent, then: &Extent| {
        let (Some(inside), Some(outside)) =
            (then.inside.checked_sub(now.inside), then.outside.checked_sub(now.outside))
        else {
            return false;
        };
        inside == outside && u64::from(inside) + u64::from(then.count) <= u64::from(now.count)
    };
    then.iter().all(|then| now.iter().any(|now| holds(now, then)))
}

struct Search<'a> {
    dir: BorrowedFd<'a>,
    /// Its path, for errors.
    at: &'a Path,
    then: &'a IdMap,
    now: &'a IdMap,
    owners: Box<dyn Owners>,
}

impl Search<'_> {
    /// A file that is somebody else's than it was, by its path in the directory.
    fn changed(&self, tops: Vec<PathBuf>) -> Result<Option<(PathBuf, Stat)>> {
        for top in &tops {
            if let Some(stat) = self.stat(self.dir, top)?.filter(|stat| !self.is_same(stat)) {
                return Ok(Some((top.clone(), stat)));
            }
        }
        let mut todo = tops;
        while let Some(path) = todo.pop() {
            let Some(open) = self.directory(self.dir, &path)? else { continue };
            for name in list(open.as_fd()).map_err(|error| error.with_path(self.at.join(&path)))? {
                let below = path.join(&name);
                let Some(stat) = self.stat(open.as_fd(), Path::new(&name))? else { continue };
                if !self.is_same(&stat) {
                    return Ok(Some((below, stat)));
                }
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    todo.push(below);
                }
            }
        }
        Ok(None)
    }

    /// What is the caller's own is root's, whatever else there is. A group may be one that the container never had, as
    /// directories hand theirs on.
    fn is_same(&self, stat: &Stat) -> bool {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let user = inside_of(&self.then.users, stat.st_uid);
        let group = inside_of(&self.then.groups, stat.st_gid);
        (stat.st_uid == own.0 || user.is_some() && user == inside_of(&self.now.users, stat.st_uid))
            && (stat.st_gid == own.1 || group == inside_of(&self.now.groups, stat.st_gid))
    }

    fn stat(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<Option<Stat>> {
        let stat = match rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW) {
            // In a directory that a sub-id has closed.
            Err(Errno::ACCESS) => match self.by_courier(dir, path, OFlags::PATH)? {
                Some(file) => rustix::fs::fstat(file),
                None => Err(Errno::ACCESS),
            },
            other => other,
        };
        match stat {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some).call_at("fstatat", path),
        }
    }

    fn directory(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = match openat2(dir, path, DIRECTORY, Mode::empty(), how) {
            Err(Errno::ACCESS) => match self.by_courier(dir, path, DIRECTORY)? {
                Some(opened) => Ok(opened),
                None => Err(Errno::ACCESS),
            },
            other => other,
        };
        match opened {
            // Who uses it goes on meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            other => other.map(Some).call_at("openat2(RESOLVE_BENEATH)", self.at.join(path)),
        }
    }

    fn by_courier(&self, dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>> {
        let name = CString::new(path.as_os_str().as_bytes()).call("a path with a NUL byte")?;
        self.owners.open(dir, &name, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_ids_are_no_other_ids() {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        let then = [extent(0, 1000, 1), extent(1, 100_000, 1000)];
        assert!(has(&then, &then));
        assert!(has(&[extent(0, 1000, 1), extent(1, 100_000, 65535)], &then));
        // Fewer, others, moved by some, in the hands of other users.
        for now in [(1, 100_000, 999), (1, 200_000, 1000), (1, 99_990, 65535), (2, 100_000, 65535)] {
            assert!(!has(&[extent(0, 1000, 1), extent(now.0, now.1, now.2)], &then), "{now:?}");
        }
        assert!(!has(&then[1..], &then));
        assert!(has(&then, &then[..1]), "a single id is among them");
    }
}
