//! What a control group has used: the kernel's files, read by handle.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// What a group's processes have used. `None` is what its controllers don't count: on cgroup v1, memory is only
/// counted where it is limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Memory in use, in bytes, the page cache included.
    pub memory_current: Option<u64>,
    /// The most there ever was, in bytes.
    pub memory_peak: Option<u64>,
    /// The limit in bytes; `None` also where there is none.
    pub memory_max: Option<u64>,
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
        Ok(())
    }

    pub(super) fn oom_kills(&self, v2: bool) -> Result<Option<u64>> {
        let text = self.read_any(if v2 { "memory.events" } else { "memory.oom_control" })?;
        Ok(text.and_then(|text| field(&text, "oom_kill")))
    }

    pub(super) fn pids(&self, stats: &mut Stats) -> Result<()> {
        stats.pids_current = self.number("pids.current")?;
        stats.pids_max = self.number("pids.max")?;
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
}
