//! What a control group has used: the kernel's files, read by handle.
#![forbid(unsafe_code)]

use super::pressure::Pressure;
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// What a group's processes have used. `None` is what its controllers don't count: on cgroup v1, memory, disks and
/// processes are only counted where they are limited; on v2 as well, unless the group's neighbours have the controller.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Memory in use, in bytes, the page cache included.
    pub memory_current: Option<u64>,
    /// The most there ever was, in bytes.
    pub memory_peak: Option<u64>,
    /// The limit in bytes; `None` also where there is none.
    pub memory_max: Option<u64>,
    /// Of it, what programs have allocated, in bytes.
    pub memory_anon: Option<u64>,
    /// Of it, the page cache and shared memory, in bytes.
    pub memory_file: Option<u64>,
    /// Of it, the kernel's own, in bytes. On v2 since Linux 5.18.
    pub memory_kernel: Option<u64>,
    /// Swap in use, in bytes, beside the memory. `None` where the kernel doesn't count it.
    pub memory_swap: Option<u64>,
    /// How often processes were slowed down at `memory_high`. Only v2 has it.
    pub memory_high_events: Option<u64>,
    /// How often memory was at its limit, so that some had to be reclaimed, or was refused.
    pub memory_max_events: Option<u64>,
    /// How often none could be reclaimed. Only v2 counts it.
    pub ooms: Option<u64>,
    /// Processes killed because memory ran out.
    pub oom_kills: Option<u64>,
    /// Processor time in all.
    pub cpu_usage: Option<Duration>,
    /// Of that, spent in programs.
    pub cpu_user: Option<Duration>,
    /// Of that, spent in the kernel.
    pub cpu_system: Option<Duration>,
    /// Periods in which the quota was used up.
    pub throttled: Option<u64>,
    /// How long processes waited for a new quota.
    pub throttled_time: Option<Duration>,
    /// Processes and threads there are.
    pub pids_current: Option<u64>,
    /// How many there may be; `None` also where there is no limit.
    pub pids_max: Option<u64>,
    /// How often one more was refused.
    pub pids_refused: Option<u64>,
    /// What went to and came from each disk that was used.
    pub io: Option<Vec<IoStats>>,
    /// How long processes waited for a processor. `None` of all three without v2 (also beside v1), or where the kernel
    /// does not measure it: CONFIG_PSI, and `psi=1` for some distributions' kernels.
    pub cpu_pressure: Option<Pressure>,
    /// How long processes waited for memory: for pages to be read again, or reclaimed.
    pub memory_pressure: Option<Pressure>,
    /// How long processes waited for disks.
    pub io_pressure: Option<Pressure>,
}

/// What a group's processes have read from one disk and written to it. On v1 without what was written later from the page
/// cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoStats {
    /// The disk's number, as `lsblk` shows it.
    pub major: u32,
    /// The second part of it.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// A directory of a group, for reading.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) path: &'a Path,
}

impl Files<'_> {
    /// A file's text.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        let path = || self.path.join(name);
        let fd = openat(self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os("openat", errno).with_path(path()))?;
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).call_at("read", path())?;
        Ok(text)
    }

    /// The same, `None` where this kernel has no such file.
    fn read_any(&self, name: &str) -> Result<Option<String>> {
        match self.read(name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // How files of a part of the kernel that is switched off say so.
            Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.read_any(name)?.and_then(|text| text.trim().parse().ok()))
    }

    pub(super) fn memory(&self, v2: bool, stats: &mut Stats) -> Result<()> {
        let [current, peak, max] = if v2 {
            ["memory.current", "memory.peak", "memory.max"]
        } else {
            ["memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes"]
        };
        stats.memory_current = self.number(current)?;
        stats.memory_peak = self.number(peak)?;
        // v1 writes "no limit" as the largest number of whole pages; v2 writes "max", which is no number.
        stats.memory_max = self.number(max)?.filter(|bytes| *bytes < i64::MAX as u64 / 65_536 * 65_536);
        stats.oom_kills = self.oom_kills(v2)?;
        let text = self.read_any("memory.stat")?.unwrap_or_default();
        let of = |name| field(&text, name);
        if v2 {
            (stats.memory_anon, stats.memory_file, stats.memory_kernel) =
                (of("anon"), of("file"), of("kernel"));
            stats.memory_swap = self.number("memory.swap.current")?;
            let events = self.read_any("memory.events")?.unwrap_or_default();
            stats.memory_high_events = field(&events, "high");
            stats.memory_max_events = field(&events, "max");
            stats.ooms = field(&events, "oom");
        } else {
            (stats.memory_anon, stats.memory_file) = (of("total_rss"), of("total_cache"));
            stats.memory_swap = of("total_swap");
            stats.memory_kernel = self.number("memory.kmem.usage_in_bytes")?;
            stats.memory_max_events = self.number("memory.failcnt")?;
        }
        Ok(())
    }

    pub(super) fn oom_kills(&self, v2: bool) -> Result<Option<u64>> {
        let text = self.read_any(if v2 { "memory.events" } else { "memory.oom_control" })?;
        Ok(text.and_then(|text| field(&text, "oom_kill")))
    }

    pub(super) fn pids(&self, stats: &mut Stats) -> Result<()> {
        stats.pids_current = self.number("pids.current")?;
        stats.pids_max = self.number("pids.max")?;
        stats.pids_refused = self.read_any("pids.events")?.and_then(|text| field(&text, "max"));
        Ok(())
    }

    /// v2 keeps pressure in every group, also where no controller is on.
    pub(super) fn pressure(&self, stats: &mut Stats) -> Result<()> {
        let of = |name| Ok::<_, Error>(self.read_any(name)?.and_then(|text| Pressure::parse(&text)));
        stats.cpu_pressure = of("cpu.pressure")?;
        stats.memory_pressure = of("memory.pressure")?;
        stats.io_pressure = of("io.pressure")?;
        Ok(())
    }

    pub(super) fn io_v2(&self, stats: &mut Stats) -> Result<()> {
        stats.io = self.read_any("io.stat")?.map(|text| io_of_v2(&text));
        Ok(())
    }

    pub(super) fn io_v1(&self, stats: &mut Stats) -> Result<()> {
        let Some(bytes) = self.read_any("blkio.throttle.io_service_bytes_recursive")? else { return Ok(()) };
        let operations = self.read_any("blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
        stats.io = Some(io_of_v1(&bytes, &operations));
        Ok(())
    }

    /// v2 keeps processor time in every group, also where no controller is on.
    pub(super) fn cpu_v2(&self, stats: &mut Stats) -> Result<()> {
        let Some(text) = self.read_any("cpu.stat")? else { return Ok(()) };
        let micros = |name| field(&text, name).map(Duration::from_micros);
        stats.cpu_usage = micros("usage_usec");
        stats.cpu_user = micros("user_usec");
        stats.cpu_system = micros("system_usec");
        stats.throttled = field(&text, "nr_throttled");
        stats.throttled_time = micros("throttled_usec");
        Ok(())
    }

    pub(super) fn cpu_v1(&self, stats: &mut Stats) -> Result<()> {
        let Some(text) = self.read_any("cpu.stat")? else { return Ok(()) };
        stats.throttled = field(&text, "nr_throttled");
        stats.throttled_time = field(&text, "throttled_time").map(Duration::from_nanos);
        Ok(())
    }

    pub(super) fn cpuacct_v1(&self, stats: &mut Stats) -> Result<()> {
        let nanos = |name| Ok::<_, Error>(self.number(name)?.map(Duration::from_nanos));
        stats.cpu_usage = nanos("cpuacct.usage")?;
        stats.cpu_user = nanos("cpuacct.usage_user")?;
        stats.cpu_system = nanos("cpuacct.usage_sys")?;
        Ok(())
    }
}

fn disk(stats: &mut Vec<IoStats>, number: &str) -> Option<usize> {
    let (major, minor) = number.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let known = stats.iter().position(|disk| (disk.major, disk.minor) == (major, minor));
    Some(known.unwrap_or_else(|| {
        stats.push(IoStats { major, minor, ..IoStats::default() });
        stats.len() - 1
    }))
}

/// Lines `8:16 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn io_of_v2(text: &str) -> Vec<IoStats> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some(at) = words.next().and_then(|number| disk(&mut all, number)) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => all[at].read_bytes = value,
                "wbytes" => all[at].written_bytes = value,
                "rios" => all[at].reads = value,
                "wios" => all[at].writes = value,
                _ => {}
            }
        }
    }
    all
}

/// Lines `8:16 Read 1`, in a file for bytes and one for operations.
fn io_of_v1(bytes: &str, operations: &str) -> Vec<IoStats> {
    let mut all = Vec::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [number, what, value] = words[..] else { continue };
            let (Ok(value), Some(at)) = (value.parse(), disk(&mut all, number)) else { continue };
            match (what, is_bytes) {
                ("Read", true) => all[at].read_bytes = value,
                ("Write", true) => all[at].written_bytes = value,
                ("Read", false) => all[at].reads = value,
                ("Write", false) => all[at].writes = value,
                _ => {}
            }
        }
    }
    all
}

/// The number behind `name` in a file of lines `name number`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_field_by_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
        assert_eq!(field("low 0\noom 5\noom_kill 2\noom_group_kill 0\n", "oom_kill"), Some(2));
        assert_eq!(field("populated\nfrozen x\n", "frozen"), None);
    }

    #[test]
    fn disks_of_both_versions() {
        let disk = |major, minor, read_bytes, written_bytes, reads, writes| IoStats {
            major,
            minor,
            read_bytes,
            written_bytes,
            reads,
            writes,
        };
        let v2 = "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n";
        assert_eq!(io_of_v2(v2), [disk(254, 0, 1, 2, 3, 4), disk(8, 16, 0, 0, 0, 0)]);
        let bytes = "254:0 Read 1\n254:0 Write 2\n254:0 Sync 3\n254:0 Total 3\nTotal 3\n";
        let operations = "254:0 Read 3\n254:0 Write 4\n7:0 Read 5\nTotal 12\n";
        assert_eq!(io_of_v1(bytes, operations), [disk(254, 0, 1, 2, 3, 4), disk(7, 0, 0, 0, 5, 0)]);
        assert_eq!(io_of_v1("Total 0\n", "Total 0\n"), []);
    }
}
