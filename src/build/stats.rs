//! What files had in them when they were last read, so that those that did not change since are not read again. One file in
//! the store for each place, `STORE/contexts/HEX`:
//!
//! ```text
//! "crstat2\n"   magic
//! u64           records, little-endian as all that follows
//! u32           CRC-32 of the records
//! u32           0
//! records       88 bytes each, sorted by device and inode
//! ```
//! It is thrown away when anything is wrong with it: then files are read.
//!
//! A file is the same when its device, inode, size, times of content and of status, and path are. Every change of content, mode
//! or attributes makes a new time of status, which no program can set; but within one tick of the kernel's clock it may be the
//! same time. So what changed just before it was read is not kept, as git does not trust what is as new as its index.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::{Call, Result};
use crate::store::Store;
use flate2::Crc;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MAGIC: &[u8; 8] = b"crstat2\n";
const HEAD: usize = 24;
const RECORD: usize = 88;
const DIRECTORY: &str = "contexts";
/// As many places are remembered.
const PLACES_MAX: usize = 256;
/// Of files that were not met this time, as many are kept beside four times those that were.
const UNMET_MAX: usize = 100_000;
/// Whoever stamps files has a clock with ticks: hundredths of a second at most, unless it only counts seconds.
const TICK: i64 = 100_000_000;
const COARSE_TICK: i64 = 2_000_000_000;

/// What tells whether a file is the same as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Key {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    fn record(&self, path: &[u8], digest: &[u8; 32]) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            record[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.dev.to_be_bytes());
        put(&self.ino.to_be_bytes());
        put(&self.size.to_le_bytes());
        for (seconds, nanos) in [self.mtime, self.ctime] {
            put(&seconds.to_le_bytes());
            put(&nanos.to_le_bytes());
        }
        put(&hash(path));
        put(digest);
        record
    }

    /// Whether a change after this moment would have another time.
    fn is_settled(&self, now: Moment) -> bool {
        let tick = if self.ctime.1 == 0 { COARSE_TICK } else { TICK };
        let nanos = |(seconds, nanos): (i64, u32)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        nanos(self.ctime) + i128::from(tick) < nanos(now.0)
    }
}

/// The beginning of its SHA-256: the same in whatever version of this program.
fn hash(path: &[u8]) -> [u8; 8] {
    use sha2::Digest as _;
    let mut first = [0; 8];
    first.copy_from_slice(&sha2::Sha256::digest(path)[..8]);
    first
}

/// When the reading of a file began, by the clock that stamps files.
#[derive(Clone, Copy)]
pub(super) struct Moment((i64, u32));

impl Moment {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Self((now.tv_sec, now.tv_nsec as u32))
    }
}

/// What is known of the files of one place.
pub(super) struct Stats {
    store: Store,
    name: String,
    /// Records, sorted.
    old: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    new: BTreeMap<[u8; 16], [u8; RECORD]>,
    met: Vec<bool>,
}

impl Stats {
    /// Of a place by its name, which may be any text: the path of a context's root.
    pub(super) fn open(store: &Store, place: &[u8]) -> Self {
        let name = Digest::of(place).hex();
        let old = match read(store, &name) {
            Ok(old) => old,
            Err(error) => {
                tracing::debug!(%error, "what is known of a context's files can't be read");
                Vec::new()
            }
        };
        let state = State { new: BTreeMap::new(), met: vec![false; old.len() / RECORD] };
        Self { store: store.clone(), name, old, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn old(&self, at: usize) -> &[u8] {
        &self.old[at * RECORD..(at + 1) * RECORD]
    }

    /// The digest that a file had, if it is still the same.
    pub(super) fn find(&self, key: &Key, path: &[u8]) -> Option<[u8; 32]> {
        let wanted = key.record(path, &[0; 32]);
        let (id, fixed) = (&wanted[..16], RECORD - 32);
        let (mut low, mut high) = (0, self.old.len() / RECORD);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.old(middle)[..16].cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let found = self.old(middle);
                    if found[..fixed] != wanted[..fixed] {
                        return None;
                    }
                    if let Some(met) = self.state().met.get_mut(middle) {
                        *met = true;
                    }
                    return found[fixed..].try_into().ok();
                }
            }
        }
        None
    }

    /// Keeps the digest of a file that was read from this moment on.
    pub(super) fn keep(&self, key: &Key, path: &[u8], digest: &[u8; 32], since: Moment) {
        if key.is_settled(since) {
            let record = key.record(path, digest);
            let mut id = [0; 16];
            id.copy_from_slice(&record[..16]);
            self.state().new.insert(id, record);
        }
    }

    /// Writes down what is new, if there is anything.
    pub(super) fn save(&self) -> Result<()> {
        let mut state = self.state();
        if state.new.is_empty() {
            return Ok(());
        }
        let mut new = std::mem::take(&mut state.new);
        let met = state.met.iter().filter(|met| **met).count() + new.len();
        let all = state.met.len() <= 4 * met + UNMET_MAX;
        for at in (0..state.met.len()).filter(|at| all || state.met[*at]) {
            let mut id = [0; 16];
            id.copy_from_slice(&self.old(at)[..16]);
            new.entry(id).or_insert_with(|| {
                let mut record = [0; RECORD];
                record.copy_from_slice(self.old(at));
                record
            });
        }
        let records: Vec<u8> = new.values().flatten().copied().collect();
        let result = write(&self.store, &self.name, &records);
        // A later save adds to what this one had.
        state.new = new;
        result
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "what was read of a context will be read again");
        }
    }
}

fn directory(store: &Store) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(store.dir(), DIRECTORY, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some).call_at("openat", store.path().join(DIRECTORY)),
    }
}

fn read(store: &Store, name: &str) -> Result<Vec<u8>> {
    let Some(dir) = directory(store)? else { return Ok(Vec::new()) };
    let path = || store.path().join(DIRECTORY).join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other.call_at("openat", path())?,
    };
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes).call_at("read", path())?;
    match parse(&bytes) {
        Some(()) => Ok(bytes.split_off(HEAD)),
        None => Ok(Vec::new()),
    }
}

fn parse(bytes: &[u8]) -> Option<()> {
    let count = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    let sum = u32::from_le_bytes(bytes.get(16..20)?.try_into().ok()?);
    let records = bytes.get(HEAD..)?;
    let length = usize::try_from(count).ok()?.checked_mul(RECORD)?;
    let mut crc = Crc::new();
    crc.update(records);
    (bytes.starts_with(MAGIC) && records.len() == length && crc.sum() == sum).then_some(())
}

fn write(store: &Store, name: &str, records: &[u8]) -> Result<()> {
    let mut crc = Crc::new();
    crc.update(records);
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&((records.len() / RECORD) as u64).to_le_bytes());
    head.extend_from_slice(&crc.sum().to_le_bytes());
    head.resize(HEAD, 0);
    match rustix::fs::mkdirat(store.dir(), DIRECTORY, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        other => other.call_at("mkdirat", store.path().join(DIRECTORY)),
    }?;
    let Some(dir) = directory(store)? else { return Ok(()) };
    let (mut lease, temporary) = store.new_tmp_file()?;
    let written = lease.file_mut().write_all(&head).and_then(|()| lease.file_mut().write_all(records));
    let written = written.call_at("write", store.path().join("tmp")).and_then(|()| {
        rustix::fs::renameat(store.tmp_dir(), &temporary, &dir, name)
            .call_at("renameat", store.path().join(DIRECTORY).join(name))
    });
    if written.is_err() {
        let _ = rustix::fs::unlinkat(store.tmp_dir(), &temporary, AtFlags::empty());
    }
    written?;
    bound(&dir)
}

/// Forgets the places that were changed longest ago, where there are too many.
fn bound(dir: &OwnedFd) -> Result<()> {
    let names = crate::store::list(dir.as_fd())?;
    if names.len() <= PLACES_MAX {
        return Ok(());
    }
    let time = |name: &std::ffi::OsString| {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or((0, 0), |stat| (stat.st_mtime, stat.st_mtime_nsec))
    };
    let mut by_time: Vec<_> = names.iter().map(|name| (time(name), name)).collect();
    by_time.sort();
    for (_, name) in &by_time[..names.len() - PLACES_MAX] {
        match rustix::fs::unlinkat(dir, *name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).call_at("unlinkat", name),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another version of the program, or of Rust, reads what this one has written.
    #[test]
    fn what_is_on_disk_is_the_same_in_each_version() {
        let key = Key { dev: 1, ino: 2, size: 3, mtime: (4, 5), ctime: (6, 7) };
        let record = key.record(b"dir/file", &[8; 32]);
        let mut expected = Vec::new();
        expected.extend([1_u64.to_be_bytes(), 2_u64.to_be_bytes(), 3_u64.to_le_bytes()].concat());
        for (seconds, nanos) in [(4_i64, 5_u32), (6, 7)] {
            expected.extend(seconds.to_le_bytes());
            expected.extend(nanos.to_le_bytes());
        }
        // printf dir/file | sha256sum
        expected.extend([0x20, 0x79, 0x85, 0x4a, 0x06, 0x81, 0x43, 0x7b]);
        expected.extend([8; 32]);
        assert_eq!(record[..], expected[..]);
    }

    #[test]
    fn what_an_earlier_version_has_written_is_not_read() {
        let store = Store::temp().unwrap();
        let key = Key { dev: 1, ino: 2, size: 3, mtime: (4, 5), ctime: (6, 7) };
        let stats = Stats::open(&store, b"/place");
        stats.keep(&key, b"file", &[8; 32], Moment::now());
        drop(stats);
        assert_eq!(Stats::open(&store, b"/place").find(&key, b"file"), Some([8; 32]));
        let path = store.path().join(DIRECTORY).join(Digest::of(b"/place").hex());
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], MAGIC);
        bytes[..8].copy_from_slice(b"crstat1\n");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Stats::open(&store, b"/place").find(&key, b"file"), None);
    }
}
