//! A container in the store: `containers/ID/`.
//!
//! ```text
//! container.json   the record: id, name, image, specification, what it pins, and how it last ended
//! running.json     while it runs: its first process, for other programs; of a kept one also what is enforced
//! upper, work      the writable layer, owned by the container's root; parts/N of the host's image
//! ```
//!
//! In its own mount namespace only, the container's root filesystem is mounted on this directory.
//!
//! The program that has it open holds a shared lock on the directory; a sweep removes what is ephemeral and unlocked.
//!
//! A name that was asked for is a file `names/NAME` with the id in it; one that was made up is only in the record.
#![forbid(unsafe_code)]

mod later;

use super::ids::OnDisk;
use super::pausing::{self, Mark};
use super::spec::Spec;
use super::status::ExitStatus;
use crate::error::{Call, Error, ErrorKind, Result};
pub(crate) use crate::store::containers::UPPER;
use crate::store::pins::{RECORD, RECORD_MAX, RUNNING, Seat};
use crate::store::{Lease, Pins, Store};
use crate::sys::{message, pids};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The directory that an overlay wants beside the writable layer.
pub(crate) const WORK: &str = "work";

/// How long the last process of a group that has just been removed may take to be told as ended.
const SWEPT_TIME: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub name: String,
    pub created: SystemTime,
    /// The manifest of its image (none for the host's root) and its volumes, in the order of the mounts.
    pub pins: Pins,
    /// It goes with its program.
    pub ephemeral: bool,
    pub image_name: String,
    /// What the host image gives back.
    #[serde(default)]
    pub exposed: Vec<PathBuf>,
    pub spec: Spec,
    /// First id of its range on the host; 0 as an ordinary user.
    pub base: u32,
    /// An ordinary user's, from the first start on: which ids its files have on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<OnDisk>,
    /// Of the project quota that bounds the writable layer, from the first start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<u32>,
    #[serde(default)]
    pub exited: Option<Exited>,
    /// The extended attribute that its directory has since it was kept: without it the files have lost theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// Where the program that made it may make its control groups, before `running.json` names them. Of one that is kept
    /// nobody knows who will start it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<PathBuf>,
    /// Where that was said.
    #[serde(default)]
    pub seat: Option<Seat>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exited {
    pub status: ExitStatus,
    pub started: SystemTime,
    pub finished: SystemTime,
}

/// What another program needs to find the first process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunningRecord {
    /// In the PID namespace of the program that started it.
    pub pid: i32,
    /// The number of that namespace; 0 where it could not be told.
    #[serde(default)]
    pub namespace: u64,
    /// Field 22 of /proc/PID/stat: a pid that was given again has another.
    pub start_time: u64,
    /// The program that started it, likewise: its pid and when it started.
    #[serde(default)]
    pub owner: (i32, u64),
    pub started: SystemTime,
    pub cgroups: Vec<PathBuf>,
    /// Where that was said.
    #[serde(default)]
    pub seat: Option<Seat>,
    /// The socket in `locks/` of the warden that it belongs to.
    #[serde(default)]
    pub door: String,
    /// Its user namespace has one id only.
    #[serde(default)]
    pub single: bool,
    pub ports: Vec<(u16, std::net::SocketAddr)>,
    /// What is enforced ([`Report::to_json`](crate::cgroup::Report)), of one that is kept: the others are their own
    /// program's, and their start does not pay for it.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub report: serde_json::Value,
}

impl RunningRecord {
    /// Its first process; `None` where that has ended.
    ///
    /// # Errors
    /// `Unsupported` while it runs [elsewhere](Self::is_elsewhere).
    pub fn process(&self, store: &Store, id: &str) -> Result<Option<OwnedFd>> {
        if self.is_elsewhere(store)? {
            return Err(elsewhere(id));
        }
        if pids::is_other(self.namespace) { Ok(None) } else { living(self.pid, self.start_time) }
    }

    /// Whether it runs out of this program's reach.
    pub fn is_elsewhere(&self, store: &Store) -> Result<bool> {
        if pids::is_other(self.namespace) {
            // There its number is nobody's or somebody else's. Its warden's socket takes none, and listens as long as the warden
            // lives.
            return self.has_warden(store);
        }
        if self.cgroups.iter().all(|group| group.exists()) {
            return Ok(false);
        }
        // They were swept, and the kernel is about to say that its process has ended; or this program has other mounts, or a
        // cgroup namespace of its own. What joins it from there would not be held to its limits.
        let Some(process) = living(self.pid, self.start_time)? else { return Ok(false) };
        message::readable(&process, Some(Instant::now() + SWEPT_TIME)).map(|has_ended| !has_ended)
    }

    fn has_warden(&self, store: &Store) -> Result<bool> {
        let path = || store.path().join("locks").join(&self.door);
        match rustix::fs::statat(store.locks_dir(), &*self.door, AtFlags::SYMLINK_NOFOLLOW) {
            // Swept.
            Err(Errno::NOENT) => return Ok(false),
            other => other.call_at("fstatat", path())?,
        };
        let is_deaf = message::is_deaf(store.locks_dir(), &self.door);
        is_deaf.map(|is_deaf| !is_deaf).map_err(|error| error.with_path(path()))
    }
}

/// What can't be done with a container from here.
pub(crate) fn elsewhere(id: &str) -> Error {
    let what = "the container runs out of this program's reach: in another PID namespace, or in control groups that are not \
                to be seen here";
    Error::new(ErrorKind::Unsupported, what).with_path(id).with_remedy(
        "ask the program that started it, or have both programs in one PID namespace (docker run --pid=container:NAME) and \
         see the same control groups",
    )
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))
}

fn put_in(
    dir: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
) -> std::result::Result<File, (&'static str, std::io::Error)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::from(0o644))
        .map_err(|errno| ("openat(O_CREAT)", errno.into()))?;
    let mut file = File::from(fd);
    file.write_all(bytes).map_err(|error| ("write", error))?;
    Ok(file)
}

/// A container's directory, leased.
#[derive(Debug)]
pub(crate) struct Dir {
    pub store: Store,
    pub id: String,
    lease: Lease,
    ephemeral: AtomicBool,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lease.as_fd()
    }
}

impl Dir {
    /// A new one, with its record and the directories of its writable layer, which belong to `owner`.
    pub fn make(store: &Store, record: &Record, owner: Option<(u32, u32)>) -> Result<Self> {
        let text = encode(record)?;
        // Room is left for what is added later.
        if text.len() as u64 > RECORD_MAX - (1 << 20) {
            let what = format!("{} bytes for the record of a container", text.len());
            return Err(Error::new(ErrorKind::TooLarge, what)
                .with_remedy("bring large files in with a layer, a volume or a bind mount"));
        }
        let path = store.path().join("containers").join(&record.id);
        let lease = store.new_container(&record.id, |dir| {
            put_in(dir, RECORD, &text)
                .map_err(|(step, errno)| Error::os(step, errno).with_path(path.join(RECORD)))?;
            if !record.spec.in_memory {
                for (name, mode) in [(UPPER, 0o755), (WORK, 0o700)] {
                    make_dir(dir, name.as_ref(), mode, owner)
                        .map_err(|(step, errno)| Error::os(step, errno).with_path(path.join(name)))?;
                }
            }
            Ok(())
        })?;
        Ok(Self {
            store: store.clone(),
            id: record.id.clone(),
            lease,
            ephemeral: AtomicBool::new(record.ephemeral),
        })
    }

    /// An existing one.
    pub fn open(store: &Store, id: &str) -> Result<Option<Self>> {
        let Some(lease) = Lease::shared(store.containers_dir(), id)? else { return Ok(None) };
        let dir = Self { store: store.clone(), id: id.to_owned(), lease, ephemeral: AtomicBool::new(false) };
        let ephemeral = dir.record()?.is_some_and(|record| record.ephemeral);
        dir.ephemeral.store(ephemeral, Ordering::Relaxed);
        Ok(Some(dir))
    }

    pub fn path(&self) -> PathBuf {
        self.store.path().join("containers").join(&self.id)
    }

    /// Writes a file that nobody reads meanwhile.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<File> {
        put_in(self.as_fd(), name, bytes)
            .map_err(|(step, errno)| Error::os(step, errno).with_path(self.path().join(name)))
    }

    /// Writes a file in one step for its readers, and with `sync` also for a power failure.
    fn replace(&self, name: &str, value: &impl Serialize, sync: bool) -> Result<()> {
        let new = format!("{name}.new");
        let text = encode(value)?;
        let replace = || {
            let file = self.put(&new, &text)?;
            if sync {
                file.sync_data().call_at("fdatasync", self.path().join(&new))?;
            }
            rustix::fs::renameat(self, &new, self, name).call_at("renameat", self.path().join(name))
        };
        replace().inspect_err(|_| {
            // The disk is full, as a rule. If it stays, it is written over.
            let _ = self.unlink(&new);
        })
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.read(name)?.map(|text| self.parse(name, serde_json::from_slice(&text))).transpose()
    }

    fn parse<T>(&self, name: &str, parsed: serde_json::Result<T>) -> Result<T> {
        parsed.map_err(|error| {
            let what = Error::new(ErrorKind::InvalidData, "record of a container");
            what.with_path(self.path().join(name)).with_source(error)
        })
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path().join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(self, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.call_at("openat", &path)?,
        };
        let mut text = Vec::new();
        File::from(fd).take(RECORD_MAX).read_to_end(&mut text).call_at("read", &path)?;
        Ok(Some(text))
    }

    /// `None` where it is missing.
    pub fn open_dir(&self, name: &str) -> Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some).call_at("openat", self.path().join(name)),
        }
    }

    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        rustix::fs::statat(self, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(self, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::os("unlinkat", errno).with_path(self.path().join(name))),
        }
    }

    pub fn mkdir(&self, name: impl AsRef<OsStr>, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
        make_dir(self.as_fd(), name.as_ref(), mode, owner)
            .map_err(|(step, errno)| Error::os(step, errno).with_path(self.path().join(name.as_ref())))
    }

    pub fn record(&self) -> Result<Option<Record>> {
        self.get(RECORD)
    }

    /// The same, and a setting in it that this version of the library does not know: it would start the container without.
    pub fn record_of_any_version(&self) -> Result<Option<(Record, Option<String>)>> {
        let Some(text) = self.read(RECORD)? else { return Ok(None) };
        let record: Record = self.parse(RECORD, serde_json::from_slice(&text))?;
        let unknown = self.parse(RECORD, later::unknown(&text, &record.spec))?;
        Ok(Some((record, unknown)))
    }

    /// Has what was last renamed in it on the disk.
    pub fn sync(&self) -> Result<()> {
        if self.store.is_temporary() {
            return Ok(());
        }
        rustix::fs::fsync(self).call_at("fsync", self.path())
    }

    pub fn set_record(&self, record: &Record) -> Result<()> {
        // An empty record is that of a container which nobody has kept: it is swept.
        self.replace(RECORD, record, !record.ephemeral && !self.store.is_temporary())?;
        self.ephemeral.store(record.ephemeral, Ordering::Relaxed);
        Ok(())
    }

    /// In a copy of the store nothing of the original's runs.
    pub fn running(&self) -> Result<Option<RunningRecord>> {
        let Some(text) = self.read(RUNNING)? else { return Ok(None) };
        let running: RunningRecord = match serde_json::from_slice(&text) {
            // Cut short with the machine's power, as it is not synced: nothing that ran then does.
            Err(error) if error.is_eof() || text.iter().all(|byte| *byte == 0) => return Ok(None),
            parsed => self.parse(RUNNING, parsed)?,
        };
        let here = self.store.seat()?;
        Ok(Some(running).filter(|running| running.seat.is_none_or(|seat| seat == here)))
    }

    pub fn set_running(&self, running: Option<&RunningRecord>) -> Result<()> {
        match running {
            Some(running) => self.replace(RUNNING, running, false),
            None => self.unlink(RUNNING),
        }
    }

    pub(super) fn pausing(&self) -> Result<Option<Mark>> {
        self.get(pausing::FILE)
    }

    pub(super) fn set_pausing(&self, mark: Option<&Mark>) -> Result<()> {
        match mark {
            Some(mark) => self.replace(pausing::FILE, mark, false),
            None => self.unlink(pausing::FILE),
        }
    }

    /// Waits until the program that runs it has taken back what says that the run which began at `started` goes on, or has
    /// ended itself; false at the deadline.
    pub fn until_ended(&self, started: SystemTime, deadline: Instant) -> Result<bool> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let runs = || Ok::<_, Error>(self.running()?.filter(|run| run.started == started));
        let Some(run) = runs()? else { return Ok(true) };
        if pids::is_other(run.namespace) {
            return run.is_elsewhere(&self.store).map(|runs| !runs);
        }
        let Some(owner) = living(run.owner.0, run.owner.1)? else { return Ok(true) };
        let changes = || -> std::result::Result<OwnedFd, Errno> {
            let changes = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let dir = format!("/proc/thread-self/fd/{}", self.as_fd().as_raw_fd());
            add_watch(&changes, dir, WatchFlags::DELETE | WatchFlags::MOVED_TO)?;
            Ok(changes)
        };
        // Where the user's share of watches is used up (inotify(7), max_user_instances) there is nothing but to look again.
        let changes = changes().ok();
        let pause = Duration::from_millis(2);
        // Once more after the watch is there, and after each change.
        while runs()?.is_some() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            let until = if changes.is_some() { deadline } else { deadline.min(Instant::now() + pause) };
            let mut polled = vec![PollFd::new(&owner, PollFlags::IN)];
            polled.extend(changes.as_ref().map(|changes| PollFd::new(changes, PollFlags::IN)));
            match poll(&mut polled, Some(&crate::sys::time::left(until))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os("poll", errno)),
            }
            if !polled[0].revents().is_empty() {
                return Ok(true);
            }
            if let Some(changes) = &changes {
                // What has changed is looked at anyway. Nothing there: it was the deadline, or a signal.
                let _ = rustix::io::read(changes, &mut [0; 4096]);
            }
        }
        Ok(true)
    }

    /// Whether somebody else has it open, in this program or in another.
    pub fn is_shared(&self) -> Result<bool> {
        self.lease.is_shared().map_err(|error| error.with_path(self.path()))
    }

    pub fn is_ephemeral(&self) -> bool {
        self.ephemeral.load(Ordering::Relaxed)
    }
}

/// A directory, which may be there from an earlier start.
pub(super) fn make_dir(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> std::result::Result<(), (&'static str, Errno)> {
    use rustix::fs::{Gid, Uid, chmodat, chownat, mkdirat};
    match mkdirat(parent, name, Mode::from(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(("mkdirat", errno)),
    }
    // Whatever the caller's umask is.
    chmodat(parent, name, Mode::from(mode), AtFlags::empty()).map_err(|errno| ("fchmodat", errno))?;
    let Some((uid, gid)) = owner else { return Ok(()) };
    chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| ("fchownat", errno))
}

/// The process with this number, if it is the one that started at that [time](start_time): numbers are given again.
/// `None` of one that has ended, also while nobody has reaped it.
pub(crate) fn living(pid: i32, started: u64) -> Result<Option<OwnedFd>> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
    let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
        // Nobody's, or a mere thread's by now.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        other => other.call("pidfd_open")?,
    };
    let is_it = start_time(pid) == Some(started);
    Ok((is_it && !message::readable(&pidfd, Some(Instant::now()))?).then_some(pidfd))
}

/// How another program recognizes this one.
pub(crate) fn this_program() -> (i32, u64) {
    let pid = std::process::id() as i32;
    (pid, start_time(pid).unwrap_or(0))
}

/// When a process started (proc_pid_stat(5), field 22), in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses is the process's own to choose, and may be any bytes: one that could not be read would count
    // as ended.
    String::from_utf8_lossy(&stat).rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Names of containers: `names/NAME` holds the id.
pub(crate) struct Names;

impl Names {
    const DIR: &str = "names";

    pub fn path(name: impl AsRef<Path>) -> PathBuf {
        Path::new(Self::DIR).join(name)
    }

    /// All of them.
    pub fn all(store: &Store) -> Result<Vec<OsString>> {
        let dir = match rustix::fs::openat(store.dir(), Self::DIR, crate::store::DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            other => other.call_at("openat", store.path().join(Self::DIR))?,
        };
        crate::store::list(dir.as_fd())
    }

    /// Takes the name for a container; `false` when another one that exists has it.
    pub fn take(store: &Store, name: &str, id: &str) -> Result<bool> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // Between the making of the file and its writing it would look like one of a program that was killed there.
        let _turn = store.naming()?;
        loop {
            match rustix::fs::openat(store.dir(), Self::path(name), flags, Mode::from(0o600)) {
                Ok(fd) => {
                    let written = File::from(fd).write_all(id.as_bytes());
                    if written.is_err() {
                        // The disk is full, as a rule. If it stays, it is nobody's.
                        let _ = Self::forget(store, name);
                    }
                    return written.map(|()| true).call_at("write", store.path().join(Self::path(name)));
                }
                Err(Errno::NOENT) => match rustix::fs::mkdirat(store.dir(), Self::DIR, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(Error::os("mkdirat", errno).with_path(Self::DIR)),
                },
                Err(Errno::EXIST) => match Self::get(store, name)? {
                    // An earlier try came no further.
                    Some(holder) if holder == id => return Ok(true),
                    Some(holder) if store_has(store, &holder) => return Ok(false),
                    // Its container is gone: the name of a program that was killed.
                    _ => Self::forget(store, name)?,
                },
                Err(errno) => return Err(Error::os("openat(O_EXCL)", errno).with_path(Self::path(name))),
            }
        }
    }

    pub fn get(store: &Store, name: &str) -> Result<Option<String>> {
        match rustix::fs::openat(
            store.dir(),
            Self::path(name),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => {
                let mut id = String::new();
                File::from(fd).take(100).read_to_string(&mut id).call_at("read", Self::path(name))?;
                Ok(Some(id))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::os("openat", errno).with_path(Self::path(name))),
        }
    }

    /// Gives up a container's name.
    pub fn release(store: &Store, name: &str, id: &str) -> Result<()> {
        // One that was made up is nowhere but in the record.
        if Self::get(store, name)?.as_deref() != Some(id) {
            return Ok(());
        }
        // Another container may get it as soon as this one is gone.
        let _turn = store.naming()?;
        match Self::get(store, name)? {
            Some(holder) if holder == id => Self::forget(store, name),
            _ => Ok(()),
        }
    }

    fn forget(store: &Store, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(store.dir(), Self::path(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::os("unlinkat", errno).with_path(Self::path(name))),
        }
    }
}

fn store_has(store: &Store, id: &str) -> bool {
    !id.is_empty()
        && rustix::fs::accessat(store.containers_dir(), id, rustix::fs::Access::EXISTS, AtFlags::empty())
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_want_a_name_one_gets_it() {
        let store = Store::temp().unwrap();
        let ids: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        ids.iter().for_each(|id| std::fs::create_dir(store.path().join("containers").join(id)).unwrap());
        for round in 0..300 {
            let name = format!("name{round}");
            let together = std::sync::Barrier::new(ids.len());
            let take = |id: &str| {
                together.wait();
                Names::take(&store, &name, id).unwrap()
            };
            let got: usize = std::thread::scope(|scope| {
                let all: Vec<_> = ids.iter().map(|id| scope.spawn(|| take(id))).collect();
                all.into_iter().map(|one| usize::from(one.join().unwrap())).sum()
            });
            assert_eq!(got, 1, "in round {round}");
            // Who has it may ask again.
            let again = ids.iter().filter(|id| Names::take(&store, &name, id).unwrap()).count();
            assert_eq!(again, 1, "in round {round}");
        }
    }
}
