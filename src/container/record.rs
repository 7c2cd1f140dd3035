//! A container in the store: `containers/ID/`.
//!
//! ```text
//! container.json   the record: id, name, image, specification, and how it last ended
//! running.json     while it runs: its first process, for other programs
//! ephemeral        it goes with its program; removed by `keep`
//! pins.json        what it needs to stay
//! upper, work      the writable layer, owned by the container's root; parts/N of the host's image
//! rootfs           where its root filesystem is mounted, in its own mount namespace only
//! hosts, hostname, resolv.conf
//! ```
//!
//! The program that has it open holds a shared lock on the directory; a sweep removes what is ephemeral and unlocked.
#![forbid(unsafe_code)]

use super::spec::Spec;
use super::status::ExitStatus;
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{Lease, Pins, Store, random_hex};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

const RECORD: &str = "container.json";
const RUNNING: &str = "running.json";
/// Also read by the store's sweep.
pub(crate) const EPHEMERAL: &str = "ephemeral";
const RECORD_MAX: u64 = 64 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub name: String,
    pub created: SystemTime,
    /// The image's id; none for the host's root.
    pub image: Option<Digest>,
    pub image_name: String,
    /// What the host image gives back.
    #[serde(default)]
    pub exposed: Vec<PathBuf>,
    pub spec: Spec,
    /// First id of its range on the host; 0 as an ordinary user.
    pub base: u32,
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub exited: Option<Exited>,
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
    /// Field 22 of /proc/PID/stat: a pid that was given again has another.
    pub start_time: u64,
    pub started: SystemTime,
    pub paused: bool,
    pub cgroups: Vec<PathBuf>,
    pub ports: Vec<(u16, std::net::SocketAddr)>,
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorKind::InvalidData, "encoding JSON").with_source(error))
}

/// A container's directory, leased.
#[derive(Debug)]
pub(crate) struct Dir {
    pub store: Store,
    pub id: String,
    lease: Lease,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lease.as_fd()
    }
}

impl Dir {
    /// A new one, ephemeral, with a new id.
    pub fn make(store: &Store, pins: &Pins) -> Result<Self> {
        loop {
            let id = random_hex(32)?;
            match store.new_container(&id, pins, true) {
                Ok(lease) => return Ok(Self { store: store.clone(), id, lease }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// An existing one.
    pub fn open(store: &Store, id: &str) -> Result<Option<Self>> {
        let lease = Lease::shared(store.containers_dir(), id)?;
        Ok(lease.map(|lease| Self { store: store.clone(), id: id.to_owned(), lease }))
    }

    pub fn path(&self) -> PathBuf {
        self.store.path().join("containers").join(&self.id)
    }

    /// Writes a file that nobody reads meanwhile.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self, name, flags, Mode::from(0o644))
            .call_at("openat(O_CREAT)", self.path().join(name))?;
        File::from(fd).write_all(bytes).call_at("write", self.path().join(name))
    }

    /// Writes a file in one step for its readers.
    fn replace(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let new = format!("{name}.new");
        self.put(&new, &encode(value)?)?;
        rustix::fs::renameat(self, &new, self, name).call_at("renameat", self.path().join(name))
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path().join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(self, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.call_at("openat", &path)?,
        };
        let mut text = Vec::new();
        File::from(fd).take(RECORD_MAX).read_to_end(&mut text).call_at("read", &path)?;
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(ErrorKind::InvalidData, "record of a container").with_path(path).with_source(error)
        })
    }

    pub fn open_dir(&self, name: &str) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self, name, flags, Mode::empty()).ok()
    }

    pub fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(self, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::os("unlinkat", errno).with_path(self.path().join(name))),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(self, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    pub fn mkdir(&self, name: impl AsRef<OsStr>, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
        let name = name.as_ref();
        match rustix::fs::mkdirat(self, name, Mode::from(mode)) {
            // From an earlier start.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::os("mkdirat", errno).with_path(self.path().join(name))),
        }
        // Whatever the caller's umask is.
        rustix::fs::chmodat(self, name, Mode::from(mode), AtFlags::empty())
            .call_at("fchmodat", self.path().join(name))?;
        self.own(name, owner)
    }

    pub fn own(&self, name: impl AsRef<OsStr>, owner: Option<(u32, u32)>) -> Result<()> {
        use rustix::fs::{Gid, Uid, chownat};
        let Some((uid, gid)) = owner else { return Ok(()) };
        let name = name.as_ref();
        chownat(self, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
            .call_at("fchownat", self.path().join(name))
    }

    pub fn record(&self) -> Result<Option<Record>> {
        self.get(RECORD)
    }

    pub fn set_record(&self, record: &Record) -> Result<()> {
        self.replace(RECORD, record)
    }

    pub fn running(&self) -> Result<Option<RunningRecord>> {
        self.get(RUNNING)
    }

    pub fn set_running(&self, running: Option<&RunningRecord>) -> Result<()> {
        match running {
            Some(running) => self.replace(RUNNING, running),
            None => self.unlink(RUNNING),
        }
    }

    pub fn is_ephemeral(&self) -> bool {
        self.has(EPHEMERAL)
    }
}

/// When a process started (proc_pid_stat(5), field 22), in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Names of containers: `names/NAME` holds the id.
pub(crate) struct Names;

impl Names {
    const DIR: &str = "names";

    fn path(name: &str) -> String {
        format!("{}/{name}", Self::DIR)
    }

    /// Takes the name for a container; `false` when another one that exists has it.
    pub fn take(store: &Store, name: &str, id: &str) -> Result<bool> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat(store.dir(), Self::path(name), flags, Mode::from(0o600)) {
                Ok(fd) => {
                    File::from(fd).write_all(id.as_bytes()).call_at("write", Self::path(name))?;
                    return Ok(true);
                }
                Err(Errno::NOENT) => match rustix::fs::mkdirat(store.dir(), Self::DIR, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(Error::os("mkdirat", errno).with_path(Self::DIR)),
                },
                Err(Errno::EXIST) => match Self::get(store, name)? {
                    Some(holder) if store_has(store, &holder) => return Ok(false),
                    // Its container is gone: the name of a program that was killed.
                    _ => Self::release(store, name)?,
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

    pub fn release(store: &Store, name: &str) -> Result<()> {
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
