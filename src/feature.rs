//! What a kernel, a user or a surrounding container may lack: the features, and the words for each lack.
//!
//! The words are here and nowhere else: [`Host::probe`](crate::Host::probe) gives them as its answer, and every error about
//! the same lack has them too ([`Error::missing`](crate::Error::missing)).
#![forbid(unsafe_code)]

pub(crate) mod words;

use std::borrow::Cow;
use std::fmt;

/// Something that containers, or a part of them, are made of, and that a host may lack.
///
/// ```
/// use coracle::Feature;
/// assert_eq!(Feature::IdMappedMounts.name(), "id-mapped-mounts");
/// assert_eq!(Feature::Openat2.since(), Some((5, 6)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// User namespaces, user_namespaces(7), in which root has its capabilities. As an ordinary user, the one that all
    /// others lie in.
    UserNamespace,
    /// PID namespaces, pid_namespaces(7).
    PidNamespace,
    /// Mount namespaces, mount_namespaces(7).
    MountNamespace,
    /// Network namespaces, network_namespaces(7), whose loopback interface comes up.
    NetNamespace,
    /// IPC namespaces, ipc_namespaces(7).
    IpcNamespace,
    /// UTS namespaces, uts_namespaces(7), whose host name can be set.
    UtsNamespace,
    /// Cgroup namespaces, cgroup_namespaces(7).
    CgroupNamespace,
    /// Time namespaces, time_namespaces(7). Nothing here needs them yet.
    TimeNamespace,
    /// A /proc of a container's own, in its namespaces. An outer container's masks over its /proc keep it from being
    /// mounted.
    FreshProc,
    /// What root may do: a range of user ids for each container, id-mapped mounts of the host's filesystems, quotas.
    Privileges,
    /// More than one user id for an ordinary user: newuidmap(1), newgidmap(1) and a range in subuid(5) and subgid(5).
    SubIds,
    /// Overlay mounts; as an ordinary user in a user namespace. Whether the filesystem that a store is on can hold a writable
    /// layer is not a part of the answer, as nothing is written there to find out: another overlay can't (a program in docker
    /// without a volume), nor can NFS and most of FUSE. A start says so.
    Overlay,
    /// Overlay layers named one by one (`lowerdir+`), so that their number is not bounded by the length of an option.
    OverlayAppend,
    /// Overlay layers that are attached nowhere.
    OverlayDetached,
    /// Id-mapped mounts, mount_setattr(2), of the filesystem that the store is on.
    IdMappedMounts,
    /// Id-mapped mounts as layers of an overlay.
    OverlayIdMapped,
    /// Id-mapped mounts of a tmpfs.
    IdMappedTmpfs,
    /// Mounts through descriptors: fsopen(2), fsmount(2), open_tree(2), move_mount(2).
    MountApi,
    /// Flags of mounts through descriptors: mount_setattr(2).
    MountSetattr,
    /// Paths that are resolved inside a root: openat2(2).
    Openat2,
    /// clone3(2).
    Clone3,
    /// Processes that are born in their control group: `CLONE_INTO_CGROUP` of clone3(2).
    CloneIntoCgroup,
    /// close_range(2).
    CloseRange,
    /// Handles on processes: pidfd_open(2), pidfd_send_signal(2), `P_PIDFD` of waitid(2).
    Pidfd,
    /// Namespaces by a process's pidfd: `PIDFD_GET_*_NAMESPACE`, ioctl_pidfd(2).
    PidfdNamespaces,
    /// Programs in memory: memfd_create(2) of a file that may be executed, `vm.memfd_noexec`.
    ExecutableMemfd,
    /// Control groups that this program may make.
    Cgroup,
    /// Control groups that can be paused.
    Freeze,
    /// Limits on memory.
    MemoryLimit,
    /// Limits on memory and swap.
    SwapLimit,
    /// Slowing down rather than killing what takes much memory: `memory.high` of control groups v2.
    MemoryHigh,
    /// Limits on processor time.
    CpuLimit,
    /// Limits on which processors are used.
    CpusetLimit,
    /// Limits on the number of processes, by a control group. Without one there is another way since Linux 5.14, RLIMIT_NPROC.
    PidsLimit,
    /// Limits on how fast a disk is read and written.
    IoLimit,
    /// Shares of the time of disks.
    IoWeight,
    /// Limits on huge pages.
    HugetlbLimit,
    /// Which devices a control group may open and make: files of v1, an eBPF program on v2.
    DeviceRules,
    /// Filters of system calls, seccomp(2).
    Seccomp,
    /// A second wall around what a container reaches of its files and of its network: Landlock, landlock(7).
    Landlock,
    /// All of Landlock that a container is held to where it is required, as [`Profile::untrusted`](crate::Profile::untrusted)
    /// does: its scopes too, which keep abstract Unix sockets and signals inside (ABI 6).
    LandlockScopes,
    /// A bound on what a directory of the store's filesystem takes: project quotas, quotactl(2).
    ProjectQuota,
}

impl Feature {
    /// All of them, in the order in which [`Host`](crate::Host) shows them.
    pub const ALL: [Self; 42] = [
        Self::UserNamespace,
        Self::PidNamespace,
        Self::MountNamespace,
        Self::NetNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::TimeNamespace,
        Self::FreshProc,
        Self::Privileges,
        Self::SubIds,
        Self::Overlay,
        Self::OverlayAppend,
        Self::OverlayDetached,
        Self::IdMappedMounts,
        Self::OverlayIdMapped,
        Self::IdMappedTmpfs,
        Self::MountApi,
        Self::MountSetattr,
        Self::Openat2,
        Self::Clone3,
        Self::CloneIntoCgroup,
        Self::CloseRange,
        Self::Pidfd,
        Self::PidfdNamespaces,
        Self::ExecutableMemfd,
        Self::Cgroup,
        Self::Freeze,
        Self::MemoryLimit,
        Self::SwapLimit,
        Self::MemoryHigh,
        Self::CpuLimit,
        Self::CpusetLimit,
        Self::PidsLimit,
        Self::IoLimit,
        Self::IoWeight,
        Self::HugetlbLimit,
        Self::DeviceRules,
        Self::Seccomp,
        Self::Landlock,
        Self::LandlockScopes,
        Self::ProjectQuota,
    ];

    /// Its name for programs, the same in every version: `user-namespace`.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// The first version of Linux that has it, where that is a matter of the kernel's version. Kernels of distributions
    /// have some of them earlier.
    pub fn since(self) -> Option<(u32, u32)> {
        self.texts().2
    }

    /// Its name for programs, its name for people, its first kernel.
    fn texts(self) -> (&'static str, &'static str, Option<(u32, u32)>) {
        match self {
            Self::UserNamespace => ("user-namespace", "user namespaces", Some((3, 8))),
            Self::PidNamespace => ("pid-namespace", "PID namespaces", Some((3, 8))),
            Self::MountNamespace => ("mount-namespace", "mount namespaces", Some((3, 8))),
            Self::NetNamespace => ("net-namespace", "network namespaces", Some((3, 8))),
            Self::IpcNamespace => ("ipc-namespace", "IPC namespaces", Some((3, 8))),
            Self::UtsNamespace => ("uts-namespace", "UTS namespaces", Some((3, 8))),
            Self::CgroupNamespace => ("cgroup-namespace", "cgroup namespaces", Some((4, 6))),
            Self::TimeNamespace => ("time-namespace", "time namespaces", Some((5, 6))),
            Self::FreshProc => ("fresh-proc", "a /proc of a container's own", None),
            Self::Privileges => ("privileges", "root's privileges", None),
            Self::SubIds => ("sub-ids", "more than one user id for an ordinary user", None),
            Self::Overlay => ("overlay", "overlay mounts", Some((5, 11))),
            Self::OverlayAppend => ("overlay-append", "overlay layers one by one (lowerdir+)", Some((6, 8))),
            Self::OverlayDetached => {
                ("overlay-detached", "overlay layers that are attached nowhere", Some((6, 15)))
            }
            Self::IdMappedMounts => ("id-mapped-mounts", "id-mapped mounts of the store", Some((5, 12))),
            Self::OverlayIdMapped => ("overlay-id-mapped", "id-mapped overlay layers", Some((5, 19))),
            Self::IdMappedTmpfs => ("id-mapped-tmpfs", "id-mapped tmpfs", Some((6, 3))),
            Self::MountApi => ("mount-api", "mounts through descriptors (fsopen)", Some((5, 2))),
            Self::MountSetattr => ("mount-setattr", "mount_setattr", Some((5, 12))),
            Self::Openat2 => ("openat2", "openat2", Some((5, 6))),
            Self::Clone3 => ("clone3", "clone3", Some((5, 3))),
            Self::CloneIntoCgroup => ("clone-into-cgroup", "CLONE_INTO_CGROUP", Some((5, 7))),
            Self::CloseRange => ("close-range", "close_range", Some((5, 9))),
            Self::Pidfd => ("pidfd", "pidfds", Some((5, 4))),
            Self::PidfdNamespaces => ("pidfd-namespaces", "namespaces by pidfd", Some((6, 11))),
            Self::ExecutableMemfd => ("executable-memfd", "programs in memory (memfd)", Some((3, 17))),
            Self::Cgroup => ("cgroup", "control groups", None),
            Self::Freeze => ("freeze", "pausing control groups", None),
            Self::MemoryLimit => ("memory-limit", "limits on memory", None),
            Self::SwapLimit => ("swap-limit", "limits on swap", None),
            Self::MemoryHigh => ("memory-high", "slowing down at an amount of memory (memory.high)", None),
            Self::CpuLimit => ("cpu-limit", "limits on processor time", None),
            Self::CpusetLimit => ("cpuset-limit", "limits on processors", None),
            Self::PidsLimit => ("pids-limit", "limits on processes", None),
            Self::IoLimit => ("io-limit", "limits on the speed of disks", None),
            Self::IoWeight => ("io-weight", "shares of the time of disks", None),
            Self::HugetlbLimit => ("hugetlb-limit", "limits on huge pages", None),
            Self::DeviceRules => ("device-rules", "rules for devices of control groups", None),
            Self::Seccomp => ("seccomp", "filters of system calls (seccomp)", Some((3, 17))),
            Self::Landlock => ("landlock", "Landlock", Some((5, 13))),
            Self::LandlockScopes => {
                ("landlock-scopes", "all of Landlock, its scopes too (for untrusted programs)", Some((6, 12)))
            }
            Self::ProjectQuota => ("project-quota", "project quotas of the store", None),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.texts().1)
    }
}

impl serde::Serialize for Feature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Why a [`Feature`] can't be had, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Missing {
    #[serde(skip)]
    feature: Feature,
    reason: Cow<'static, str>,
    remedy: Cow<'static, str>,
}

impl Missing {
    pub(crate) fn new(
        feature: Feature,
        reason: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { feature, reason: reason.into(), remedy: remedy.into() }
    }

    /// What can't be had.
    pub fn feature(&self) -> Feature {
        self.feature
    }

    /// Why it can't be had.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What lets it be had.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The same lack is one of this, too.
    pub(crate) fn of(mut self, feature: Feature) -> Self {
        self.feature = feature;
        self
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; help: {}", self.reason, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_has_names_of_its_own() {
        let names: BTreeSet<_> = Feature::ALL.iter().map(|feature| feature.name()).collect();
        let shown: BTreeSet<_> = Feature::ALL.iter().map(ToString::to_string).collect();
        assert_eq!((names.len(), shown.len()), (Feature::ALL.len(), Feature::ALL.len()));
        assert!(Feature::ALL.is_sorted(), "in the order of the type: none is left out");
        assert_eq!(Feature::ALL.last().map(|last| *last as usize + 1), Some(Feature::ALL.len()));
    }
}
