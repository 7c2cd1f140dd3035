//! Writing limits: each by the single setter of `cgroups_rs`, each read back and compared.
//!
//! Its `Cgroup::apply`, its hierarchies and its task functions are not used: they drop errors, know no hybrid
//! and no delegated subtree, and write pids from outside.
#![forbid(unsafe_code)]

use super::limits::{CpuMax, LimitKind, Limits, parse_list, shares_of_weight};
use super::{devices, hugetlb, io as disks};
use crate::error::{Error, ErrorKind, Result};
use crate::feature::{Feature, words};
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::memory::{MemController, SetMemory};
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, Hierarchy, MaxValue, Subsystem};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One directory and one controller of it, in the form that `cgroups_rs` wants to know.
#[derive(Clone, Debug)]
struct Place {
    dir: PathBuf,
    controller: &'static str,
    v2: bool,
}

impl Hierarchy for Place {
    fn subsystems(&self) -> Vec<Subsystem> {
        let (dir, base) = (self.dir.clone(), PathBuf::new());
        match self.controller {
            "memory" => vec![Subsystem::Mem(MemController::new(dir, base, self.v2))],
            "cpu" => vec![Subsystem::Cpu(CpuController::new(dir, base, self.v2))],
            "cpuset" => vec![Subsystem::CpuSet(CpuSetController::new(dir, base, self.v2))],
            "pids" => vec![Subsystem::Pid(PidController::new(dir, base, self.v2))],
            _ => Vec::new(),
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, _path: &str) -> Cgroup {
        self.root_control_group()
    }

    fn v2(&self) -> bool {
        self.v2
    }
}

/// One write and how its file must read afterwards.
pub(super) struct Write<'a> {
    dir: &'a Path,
    file: Cow<'static, str>,
}

impl<'a> Write<'a> {
    pub(super) fn new(dir: &'a Path, file: impl Into<Cow<'static, str>>) -> Self {
        Self { dir, file: file.into() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(&*self.file)
    }

    /// Runs the setter; its error becomes one of ours. The file must be there: the setter would try to make it.
    fn set(&self, setter: impl FnOnce() -> cgroups_rs::fs::error::Result<()>) -> Result<()> {
        let path = self.path();
        if !path.exists() {
            return Err(self.missing());
        }
        let Err(error) = setter() else { return Ok(()) };
        let errno = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
        Err(match errno {
            Some(errno) => Error::errno("write", errno).with_path(path),
            None => Error::new(ErrorKind::Io, "write").with_path(path).with_source(error.to_string()),
        })
    }

    /// Writes a value that `cgroups_rs` has no setter for, or none that says where it goes.
    pub(super) fn put(&self, value: &str) -> Result<()> {
        let path = self.path();
        let opened = fs::OpenOptions::new().write(true).open(&path);
        let mut file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => Error::os("open", error).with_path(&path),
        })?;
        io::Write::write_all(&mut file, value.as_bytes())
            .map_err(|error| Error::os(format!("write({value:?})"), error).with_path(path))
    }

    pub(super) fn exists(&self) -> bool {
        self.path().exists()
    }

    pub(super) fn missing(&self) -> Error {
        let lack = match &*self.file {
            "memory.memsw.limit_in_bytes" | "memory.swap.max" => words::NO_SWAP.of(Feature::SwapLimit),
            file => words::no_file(file),
        };
        Error::new(ErrorKind::Unsupported, "open").with_path(self.path()).lacks(lack)
    }

    pub(super) fn read(&self) -> Result<String> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(Error::os("read", error).with_path(path)),
        }
    }

    /// Reads the file back; `wanted` is how it must read.
    pub(super) fn verify(&self, wanted: impl Fn(&str) -> bool, asked: &str) -> Result<String> {
        let kept = self.read()?;
        if wanted(&kept) {
            return Ok(kept);
        }
        Err(Error::new(ErrorKind::Unsupported, format!("{asked} was written, the kernel keeps {kept:.100}"))
            .with_path(self.path()))
    }
}

/// Sets one limit in `dir` and says what the kernel made of it.
pub(super) fn set(limits: &Limits, kind: LimitKind, dir: &Path, v2: bool) -> Result<String> {
    let place = Place { dir: dir.to_owned(), controller: kind.v1_controller(), v2 };
    let group = Cgroup::load(Box::new(place), "");
    let file = |file: &'static str| Write::new(dir, file);
    // Every `kind` is asked for only when its value is there.
    let absent = || Error::new(ErrorKind::InvalidInput, format!("{} was not asked for", kind.name()));
    let memory = || group.controller_of::<MemController>().ok_or_else(absent);
    let cpu = || group.controller_of::<CpuController>().ok_or_else(absent);
    let cpuset = || group.controller_of::<CpuSetController>().ok_or_else(absent);
    match kind {
        LimitKind::MemoryMax => {
            let bytes = limits.memory_max.ok_or_else(absent)?;
            let write = file(if v2 { "memory.max" } else { "memory.limit_in_bytes" });
            let controller = memory()?;
            write.set(|| controller.set_limit(signed(bytes)))?;
            write.verify(|kept| kept == pages(bytes), &bytes.to_string())
        }
        LimitKind::MemorySwapMax => {
            let total = limits.memory_swap_max.ok_or_else(absent)?;
            let write = file(if v2 { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" });
            if total == Limits::UNLIMITED {
                let controller = memory()?;
                write.set(|| controller.set_memswap_limit(-1))?;
                return Ok("unlimited".to_owned());
            }
            // v1 counts memory and swap together, v2 swap alone.
            let bytes = if v2 { total - limits.memory_max.ok_or_else(absent)? } else { total };
            let controller = memory()?;
            write.set(|| controller.set_memswap_limit(signed(bytes)))?;
            write.verify(|kept| kept == pages(bytes), &bytes.to_string())
        }
        LimitKind::MemoryHigh => {
            let bytes = limits.memory_high.ok_or_else(absent)?;
            let write = file("memory.high");
            if !v2 {
                return Err(write.missing().lacks(words::NO_MEMORY_HIGH.of(Feature::MemoryHigh)));
            }
            let high = Some(MaxValue::Value(signed(bytes)));
            let controller = memory()?;
            write.set(|| controller.set_mem(SetMemory { high, low: None, min: None, max: None }))?;
            write.verify(|kept| kept == pages(bytes), &bytes.to_string())
        }
        LimitKind::MemoryReservation => {
            let bytes = limits.memory_reservation.ok_or_else(absent)?;
            let write = file(if v2 { "memory.low" } else { "memory.soft_limit_in_bytes" });
            let controller = memory()?;
            write.set(|| match v2 {
                true => {
                    let low = Some(MaxValue::Value(signed(bytes)));
                    controller.set_mem(SetMemory { low, high: None, min: None, max: None })
                }
                false => controller.set_soft_limit(signed(bytes)),
            })?;
            let kept = write.verify(|kept| kept == pages(bytes), &bytes.to_string())?;
            if v2 {
                protected_above(dir, bytes)?;
            }
            Ok(kept)
        }
        LimitKind::CpuMax => {
            let CpuMax { quota, period } = limits.cpu_max.ok_or_else(absent)?;
            if v2 {
                let write = file("cpu.max");
                let controller = cpu()?;
                write.set(|| controller.set_cfs_quota_and_period(Some(signed(quota)), Some(period)))?;
                let line = format!("{quota} {period}");
                return write.verify(|kept| kept == line, &line);
            }
            // The period first: the quota is checked against it and against the parent's.
            let write = file("cpu.cfs_period_us");
            let controller = cpu()?;
            write.set(|| controller.set_cfs_period(period))?;
            let period = write.verify(|kept| kept == period.to_string(), &period.to_string())?;
            let write = file("cpu.cfs_quota_us");
            let controller = cpu()?;
            write.set(|| controller.set_cfs_quota(signed(quota)))?;
            let quota = write.verify(|kept| kept == quota.to_string(), &quota.to_string())?;
            Ok(format!("{quota} {period}"))
        }
        LimitKind::CpuWeight => {
            let weight = limits.cpu_weight.ok_or_else(absent)?;
            let (name, value) =
                if v2 { ("cpu.weight", weight) } else { ("cpu.shares", shares_of_weight(weight)) };
            let write = file(name);
            let controller = cpu()?;
            write.set(|| controller.set_shares(value))?;
            write.verify(|kept| kept == value.to_string(), &value.to_string())
        }
        LimitKind::CpusetCpus | LimitKind::CpusetMems => {
            let (name, list) = match kind {
                LimitKind::CpusetCpus => ("cpuset.cpus", &limits.cpuset_cpus),
                _ => ("cpuset.mems", &limits.cpuset_mems),
            };
            let list = list.as_ref().ok_or_else(absent)?;
            let write = file(name);
            let controller = cpuset()?;
            write.set(|| match kind {
                LimitKind::CpusetCpus => controller.set_cpus(list),
                _ => controller.set_mems(list),
            })?;
            let kept = write.verify(|kept| parse_list(kept) == parse_list(list), list)?;
            if v2 {
                // v2 takes any number and uses what exists and what the parent has.
                let effective = if kind == LimitKind::CpusetCpus {
                    file("cpuset.cpus.effective")
                } else {
                    file("cpuset.mems.effective")
                };
                effective.verify(|used| parse_list(used) == parse_list(list), list)?;
            }
            Ok(kept)
        }
        LimitKind::PidsMax => {
            let pids = limits.pids_max.ok_or_else(absent)?;
            let write = file("pids.max");
            let controller = group.controller_of::<PidController>().ok_or_else(absent)?;
            write.set(|| controller.set_pid_max(MaxValue::Value(signed(pids))))?;
            write.verify(|kept| kept == pids.to_string(), &pids.to_string())
        }
        LimitKind::IoWeight => disks::set_weight(limits.io_weight.ok_or_else(absent)?, dir, v2),
        LimitKind::IoMax => {
            let all: Result<Vec<_>> = limits.io_max.iter().map(|max| disks::set_max(max, dir, v2)).collect();
            Ok(all?.join(", "))
        }
        LimitKind::HugetlbMax => {
            let one = |(size, bytes): (&u64, &u64)| hugetlb::set(*size, *bytes, dir, v2);
            let all: Result<Vec<_>> = limits.hugetlb_max.iter().map(one).collect();
            Ok(all?.join(", "))
        }
        LimitKind::Devices => {
            let rules = limits.devices.as_deref().ok_or_else(absent)?;
            if v2 { devices::set_v2(rules, dir) } else { devices::set_v1(rules, dir) }
        }
    }
}

/// Validation has bounded it.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The kernel keeps whole pages, rounded down.
/// No group has more protected than those above it (cgroup v2 documentation, memory.low); the topmost has no such file.
fn protected_above(dir: &Path, bytes: u64) -> Result<()> {
    for above in dir.ancestors().skip(1) {
        let path = above.join("memory.low");
        let low = match fs::read_to_string(&path) {
            Ok(low) => low,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::os("read", error).with_path(path)),
        };
        let low = low.trim();
        if low != "max" && low.parse().is_ok_and(|low: u64| low < bytes) {
            let what = format!("the group above has {low} bytes protected, and a group in it no more");
            return Err(Error::new(ErrorKind::Unsupported, what)
                .with_path(path)
                .with_remedy("raise memory.low there and in the groups above, or ask for best effort"));
        }
    }
    Ok(())
}

fn pages(bytes: u64) -> String {
    let page = rustix::param::page_size() as u64;
    (bytes / page * page).to_string()
}

/// On v1 a new cpuset is empty, and nothing may join an empty one: what is empty in `dir` is taken from `parent`.
pub(super) fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    let place = Place { dir: dir.to_owned(), controller: "cpuset", v2: false };
    let group = Cgroup::load(Box::new(place), "");
    let absent = || Error::new(ErrorKind::Unsupported, "no cpuset controller");
    let controller = group.controller_of::<CpuSetController>().ok_or_else(absent)?;
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let write = Write::new(dir, name);
        if !write.read()?.is_empty() {
            continue;
        }
        let list = Write::new(parent, name).read()?;
        write.set(|| match name {
            "cpuset.cpus" => controller.set_cpus(&list),
            _ => controller.set_mems(&list),
        })?;
        write.verify(|kept| kept == list, &list)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! The v2 files as plain files: what is written where. That the kernel takes it is for tests on such a kernel.
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn text(dir: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn v2_counts_swap_alone() {
        let dir = dir(&[("memory.max", "max\n"), ("memory.swap.max", "max\n"), ("memory.high", "max\n")]);
        let limits = Limits::new().memory_max(64 << 20).memory_swap_max(80 << 20).memory_high(32 << 20);
        for kind in [LimitKind::MemoryMax, LimitKind::MemorySwapMax, LimitKind::MemoryHigh] {
            set(&limits, kind, dir.path(), true).unwrap();
        }
        assert_eq!(text(&dir, "memory.max"), (64 << 20).to_string());
        assert_eq!(text(&dir, "memory.swap.max"), (16 << 20).to_string());
        assert_eq!(text(&dir, "memory.high"), (32 << 20).to_string());
        let unlimited = limits.memory_swap_max(Limits::UNLIMITED);
        assert_eq!(set(&unlimited, LimitKind::MemorySwapMax, dir.path(), true).unwrap(), "unlimited");
        assert_eq!(text(&dir, "memory.swap.max"), "max");
    }

    #[test]
    fn v2_processor_and_pids() {
        let files = [("cpu.max", "max 100000\n"), ("cpu.weight", "100\n"), ("pids.max", "max\n")];
        let dir = dir(&files);
        let limits = Limits::new().cpus(1.5).cpu_shares(512).pids_max(7);
        assert_eq!(set(&limits, LimitKind::CpuMax, dir.path(), true).unwrap(), "150000 100000");
        assert_eq!(set(&limits, LimitKind::CpuWeight, dir.path(), true).unwrap(), "50");
        assert_eq!(set(&limits, LimitKind::PidsMax, dir.path(), true).unwrap(), "7");
        assert_eq!(text(&dir, "cpu.max"), "150000 100000");
    }

    #[test]
    fn what_the_kernel_keeps_otherwise_is_an_error() {
        // A plain file keeps the odd bytes, where the kernel would keep pages.
        let dir = dir(&[("memory.max", ""), ("cpuset.cpus", ""), ("cpuset.cpus.effective", "0-1\n")]);
        let odd = Limits::new().memory_max((1 << 20) + 1);
        let error = set(&odd, LimitKind::MemoryMax, dir.path(), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("the kernel keeps 1048577"), "{error}");
        set(&Limits::new().cpuset_cpus("1,0"), LimitKind::CpusetCpus, dir.path(), true).unwrap();
        let more = Limits::new().cpuset_cpus("0-2");
        let error = set(&more, LimitKind::CpusetCpus, dir.path(), true).unwrap_err();
        assert!(error.path().unwrap().ends_with("cpuset.cpus.effective"), "{error}");
    }

    #[test]
    fn a_missing_file_is_unsupported_and_not_made() {
        let dir = dir(&[]);
        let limits = Limits::new().memory_max(1 << 20).memory_swap_max(1 << 20).memory_high(1 << 20);
        for (v2, kind) in [
            (true, LimitKind::MemorySwapMax),
            (false, LimitKind::MemorySwapMax),
            (false, LimitKind::MemoryHigh),
        ] {
            let error = set(&limits, kind, dir.path(), v2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let remedy = error.remedy().unwrap();
            assert!(remedy.contains("swapaccount=1") || remedy.contains("cgroup v2"), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
