//! Control groups: made, limited, paused and removed.
#![forbid(unsafe_code)]

use super::{Ability, CgroupVersion};
use crate::cgroup::{Cgroup, CgroupParent, Limits};
use crate::error::{Error, Result};
use crate::feature::{Feature, Missing, words};
use std::hash::BuildHasher;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How long an empty group may take to be paused.
const FREEZE_TIME: Duration = Duration::from_secs(2);

const LIMITS: [Feature; 5] =
    [Feature::MemoryLimit, Feature::SwapLimit, Feature::CpuLimit, Feature::CpusetLimit, Feature::PidsLimit];

/// What became of each try.
pub(super) struct Groups {
    group: Result<Cgroup>,
    freeze: Result<()>,
    limits: Vec<(Feature, Result<()>)>,
}

/// `None` where /proc tells nothing of control groups.
pub(super) fn probe() -> (CgroupVersion, Option<Groups>) {
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
    let mark = format!("{PREFIX}{}-{}-{random:016x}", own_pids().unwrap_or(0), std::process::id());
    let make = |suffix: &str, limits: &Limits| parent.create(&format!("{mark}{suffix}"), limits);
    let all = LIMITS.into_iter().fold(Limits::new(), limited);
    let (group, limits) = match make("", &all) {
        Ok(group) => (Ok(group), LIMITS.map(|feature| (feature, Ok(()))).into()),
        Err(_) => {
            // Which of them it is takes each by itself.
            let one = |feature| {
                (feature, make("-limit", &limited(Limits::new(), feature)).and_then(Cgroup::remove))
            };
            (make("", &Limits::new()), LIMITS.map(one).into())
        }
    };
    let freeze = match &group {
        Ok(group) => group.freeze(FREEZE_TIME).and_then(|()| group.thaw(FREEZE_TIME)),
        Err(_) => Ok(()),
    };
    (version, Some(Groups { group, freeze, limits }))
}

/// Then the PID namespace, the number there, and chance.
const PREFIX: &str = "probe-";

/// The PID namespace, in which numbers of processes are unique.
fn own_pids() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").ok().map(|meta| meta.ino())
}

/// Whether a group is that of a probe whose program has ended.
fn is_left(name: &str) -> bool {
    let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-').map(str::parse);
    let (Some(Ok(pids)), Some(Ok(pid))) = (parts.next(), parts.next()) else { return false };
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // Of a program in another namespace nothing can be told.
    own_pids() == Some(pids)
        && pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// A bound that a group without processes is far from.
fn limited(limits: Limits, feature: Feature) -> Limits {
    match feature {
        Feature::MemoryLimit => limits.memory_max(64 << 20),
        Feature::SwapLimit => limits.memory_max(64 << 20).memory_swap_max(64 << 20),
        Feature::CpuLimit => limits.cpus(1.0),
        Feature::CpusetLimit => limits.cpuset_cpus(first_processor()),
        _ => limits.pids_max(64),
    }
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
        let features = [Feature::Cgroup, Feature::Freeze].into_iter().chain(LIMITS);
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
            abilities.push(Ability::new(Feature::Cgroup, lack.map_or(Ok(None), |lack| Err((lack, None)))));
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
