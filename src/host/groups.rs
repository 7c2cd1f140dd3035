//! Control groups: made, limited, paused and removed.
#![forbid(unsafe_code)]

use super::{Ability, CgroupVersion};
use crate::cgroup::{Cgroup, CgroupParent, DeviceRule, IoMax, Limits, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::feature::{Feature, Missing, words};
use crate::sys::pids;
use crate::sys::warden::Warden;
use std::hash::BuildHasher;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an empty group may take to be paused.
const FREEZE_TIME: Duration = Duration::from_secs(2);

/// What decides where groups are made, as most hosts have it.
const LIMITS: [Feature; 5] =
    [Feature::MemoryLimit, Feature::SwapLimit, Feature::CpuLimit, Feature::CpusetLimit, Feature::PidsLimit];

/// What fewer have: each is tried by itself, and where the others are.
const FURTHER: [Feature; 5] =
    [Feature::MemoryHigh, Feature::IoLimit, Feature::IoWeight, Feature::HugetlbLimit, Feature::DeviceRules];

/// What became of each try.
pub(super) struct Groups {
    group: Result<Cgroup>,
    freeze: Result<()>,
    limits: Vec<(Feature, Result<()>)>,
}

/// `None` where /proc tells nothing of control groups. They are made for children of the warden, as those of containers: a
/// user's systemd is asked where a start would ask it.
pub(super) fn probe(warden: Option<&Warden>) -> (CgroupVersion, Option<Groups>) {
    let Ok(parent) = CgroupParent::detect() else { return (CgroupVersion::None, None) };
    let version = match (parent.has_v1(), parent.has_unified()) {
        (false, false) => CgroupVersion::None,
        (true, false) => CgroupVersion::V1,
        (false, true) => CgroupVersion::V2,
        (true, true) => CgroupVersion::Hybrid,
    };
    // One that was killed in the midst of this has left its own. What can't be removed is no answer to what was asked.
    if let Err(error) = parent.sweep(|name| !is_left(name)) {
        tracing::warn!(%error, "control groups of a program that was killed stay");
    }
    let random = std::hash::RandomState::new().hash_one(std::process::id());
    let mark = format!("{PREFIX}{}-{}-{random:016x}", pids::own().unwrap_or(0), std::process::id());
    let make = |suffix: &str, limits: &Limits| {
        let name = format!("{mark}{suffix}");
        match warden {
            Some(warden) => {
                let origin = Origin { pid: &|| warden.pid(), scope: &warden.scope };
                parent.create_for(origin, &name, limits)
            }
            None => parent.create(&name, limits),
        }
    };
    let one = |feature| {
        let made = limited(Limits::new(), feature).and_then(|limits| make("-limit", &limits));
        (feature, made.and_then(Cgroup::remove))
    };
    let all = LIMITS.into_iter().try_fold(Limits::new(), limited);
    let (group, mut limits): (_, Vec<_>) = match all.and_then(|all| make("", &all)) {
        Ok(group) => (Ok(group), LIMITS.map(|feature| (feature, Ok(()))).into()),
        // Which of them it is takes each by itself.
        Err(_) => (make("", &Limits::new()), LIMITS.map(one).into()),
    };
    limits.extend(FURTHER.map(one));
    let freeze = match &group {
        Ok(group) => group.freeze(FREEZE_TIME).and_then(|()| group.thaw(FREEZE_TIME)),
        Err(_) => Ok(()),
    };
    (version, Some(Groups { group, freeze, limits }))
}

/// Then the PID namespace, the number there, and chance.
const PREFIX: &str = "probe-";

/// Whether a group is that of a probe whose program has ended.
fn is_left(name: &str) -> bool {
    let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-').map(str::parse);
    let (Some(Ok(namespace)), Some(Ok(pid))) = (parts.next(), parts.next()) else { return false };
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // Of a program in another namespace nothing can be told.
    pids::own() == Some(namespace)
        && pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// A bound that a group without processes is far from.
fn limited(limits: Limits, feature: Feature) -> Result<Limits> {
    Ok(match feature {
        Feature::MemoryLimit => limits.memory_max(64 << 20),
        Feature::SwapLimit => limits.memory_max(64 << 20).memory_swap_max(64 << 20),
        Feature::CpuLimit => limits.cpus(1.0),
        Feature::CpusetLimit => limits.cpuset_cpus(first_processor()),
        Feature::MemoryHigh => limits.memory_high(64 << 20),
        Feature::IoLimit => limits.io_max(IoMax::new(disk()?).read_bps(1 << 40)),
        Feature::IoWeight => limits.io_weight(100),
        Feature::HugetlbLimit => {
            let size = huge_page()?;
            limits.hugetlb_max(size, size)
        }
        Feature::DeviceRules => limits.devices([DeviceRule::char(1, 3)]),
        _ => limits.pids_max(64),
    })
}

/// The node of a disk that can be named in a limit: a machine's own rather than one in memory or of a file.
fn disk() -> Result<PathBuf> {
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut names: Vec<_> = disks.map(|disk| disk.file_name()).collect();
    names.sort_by_key(|name| {
        let text = name.to_string_lossy();
        (["loop", "ram", "zram"].iter().any(|kind| text.starts_with(kind)), text.into_owned())
    });
    let nodes = names.into_iter().map(|name| Path::new("/dev").join(name));
    let is_disk =
        |node: &PathBuf| std::fs::metadata(node).is_ok_and(|meta| meta.file_type().is_block_device());
    let lack = || Error::new(ErrorKind::Unsupported, "io_max").lacks(words::NO_DISK.of(Feature::IoLimit));
    nodes.filter(is_disk).map(Ok).next().unwrap_or_else(|| Err(lack()))
}

/// The smallest of them, in bytes.
fn huge_page() -> Result<u64> {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let size = sizes.filter_map(|size| {
        size.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()
    });
    let lack = || Error::new(ErrorKind::Unsupported, "hugetlb_max").lacks(words::no_huge_pages(None));
    size.min().map(|kilobytes| kilobytes << 10).ok_or_else(lack)
}

/// One that this program may use.
fn first_processor() -> String {
    let allowed = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let list = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
    list.trim().split(['-', ',']).next().unwrap_or("0").to_owned()
}

impl Groups {
    /// The directory in the unified hierarchy.
    pub fn v2_dir(&self) -> Result<BorrowedFd<'_>, Missing> {
        let lack = || words::NO_UNIFIED.of(Feature::CloneIntoCgroup);
        let group = self.group.as_ref().map_err(|_| lack())?;
        group.v2_dir().ok_or_else(|| group.lack().cloned().unwrap_or_else(lack))
    }
}

pub(super) fn abilities(groups: Option<Groups>) -> Vec<Ability> {
    let Some(Groups { group, freeze, limits }) = groups else {
        let none = Missing::new(Feature::Cgroup, "/proc tells of no control groups", words::MOUNT_CGROUP);
        let features = [Feature::Cgroup, Feature::Freeze].into_iter().chain(LIMITS).chain(FURTHER);
        return features.map(|feature| Ability::missing_for(feature, none.clone())).collect();
    };
    let answer = |feature: Feature, result: Result<()>| {
        Ability::new(
            feature,
            result.map(|()| None).map_err(|error: Error| error.into_missing(feature, words::DELEGATE)),
        )
    };
    let mut abilities: Vec<_> = Vec::new();
    let any = limits.iter().any(|(_, result)| result.is_ok());
    for (feature, result) in limits {
        abilities.push(answer(feature, result));
    }
    match group {
        // Without limits there is no directory on v1, so a group may be one that has none at all.
        Ok(group) => {
            let there = any || group.paths().next().is_some();
            let lack = group.lack().filter(|_| !there).cloned();
            let rooms = || group.paths().filter_map(Path::parent);
            let place = || group.paths().next().map(|_| words::rooms(rooms()));
            let outcome = lack.map_or_else(|| Ok(place()), |lack| Err((lack, None)));
            abilities.push(Ability::new(Feature::Cgroup, outcome));
            abilities.push(answer(Feature::Freeze, freeze));
        }
        Err(error) => {
            let missing = error.into_missing(Feature::Cgroup, words::DELEGATE);
            abilities.push(Ability::new(Feature::Freeze, Err(missing.clone())));
            abilities.push(Ability::new(Feature::Cgroup, Err(missing)));
        }
    }
    abilities
}
