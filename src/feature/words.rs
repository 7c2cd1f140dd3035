//! The words for each lack. A [`Cause`] is constant; what depends on the feature or on a number is a function.
#![forbid(unsafe_code)]

use super::{Feature, Missing};

/// A reason and its remedy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cause {
    pub reason: &'static str,
    pub remedy: &'static str,
}

impl Cause {
    pub fn of(self, feature: Feature) -> Missing {
        Missing::new(feature, self.reason, self.remedy)
    }
}

const fn cause(reason: &'static str, remedy: &'static str) -> Cause {
    Cause { reason, remedy }
}

// User namespaces.

pub(crate) const DEBIAN_SYSCTL: Cause = cause(
    "kernel.unprivileged_userns_clone=0 keeps ordinary users from making user namespaces",
    "as root: sysctl -w kernel.unprivileged_userns_clone=1 (to stay: a file in /etc/sysctl.d)",
);

pub(crate) const APPARMOR_USERNS: Cause = cause(
    "AppArmor lets ordinary users' programs have no rights in a user namespace \
     (kernel.apparmor_restrict_unprivileged_userns=1)",
    "give this program an AppArmor profile that allows it, `profile NAME /PATH/OF/THE/PROGRAM flags=(unconfined) \
     { userns, }` in /etc/apparmor.d, loaded with apparmor_parser -r (in a container: on the host, and docker or podman \
     --security-opt apparmor=NAME); or, for all programs, as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
);

pub(crate) const CHROOT: Cause = cause(
    "this program runs in a chroot, where the kernel gives no user namespace",
    "run it outside, or enter the directory with pivot_root (as containers do) rather than chroot",
);

pub(crate) const UNMAPPED: Cause = cause(
    "this program's own user or group id is not mapped in its user namespace, so it can't make another",
    "run it as a user whom the namespace maps: in `unshare -U`, add --map-root-user or --map-current-user",
);

pub(crate) const SETFCAP: Cause = cause(
    "uid 0 is let into a user namespace only by CAP_SETFCAP (since Linux 5.12)",
    "give this program CAP_SETFCAP, or all that containers need (SYS_ADMIN, SETUID, SETGID, CHOWN), or another user",
);

pub(crate) const USERNS_REFUSED: Cause = cause(
    "this host does not let an ordinary user's program make user namespaces, or gives it no rights in them",
    "run it as root, or see what confines it: a seccomp filter (in docker and podman: --security-opt \
     seccomp=unconfined), AppArmor (a profile with `userns,`), SELinux",
);

pub(crate) const ORDINARY_USER: Cause = cause(
    "an ordinary user can't have the filesystems of the host id-mapped",
    "run as root, or give the files to the ids that they are to have",
);

// Whatever surrounds the program.

pub(crate) const MASKED_PROC: Cause = cause(
    "parts of /proc are masked or missing here, as an outer container does it: the kernel mounts no other /proc beside \
     it in a user namespace",
    "let the outer container show the whole of it: docker --security-opt systempaths=unconfined, podman \
     --security-opt unmask=ALL, Kubernetes `procMount: Unmasked` with `hostUsers: false`",
);

pub(crate) const PROFILE: Cause = cause(
    "the AppArmor profile of this program refuses it",
    "run it with another profile; in a container: docker or podman --security-opt apparmor=unconfined, Kubernetes \
     `appArmorProfile: {type: Unconfined}`",
);

pub(crate) const PROFILE_USERNS: Cause = cause(
    "the AppArmor profile of this program lets it have no user namespace, or no rights in one",
    "add `userns,`, `capability,` and `mount,` to the profile, or run the program with another; in a container: docker \
     or podman --security-opt apparmor=unconfined, Kubernetes `appArmorProfile: {type: Unconfined}`",
);

pub(crate) const REFUSED: Cause = cause(
    "the kernel refuses it to this program",
    "see what confines the program: its capabilities, a seccomp filter, AppArmor or SELinux; in a container: docker or \
     podman --privileged has none of them",
);

pub(crate) const KILLED: Cause = cause(
    "the process that tried it was killed, as a seccomp filter does it",
    "run the program under a filter that allows the call; in docker and podman: --security-opt seccomp=unconfined",
);

pub(crate) const NO_NAMESPACE_RIGHTS: Cause = cause(
    "root in a new user namespace has no rights there",
    "see what confines this program: AppArmor, SELinux; in a container: docker or podman --security-opt \
     apparmor=unconfined --security-opt label=disable",
);

// Ids.

pub(crate) const UIDMAP: &str = "install newuidmap and newgidmap (Debian's package: uidmap), and give the user ranges in /etc/subuid and \
     /etc/subgid: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER";

pub(crate) const TOOLS_NO_NEW_PRIVS: Cause = cause(
    "newuidmap can't work: this program has given up to gain privileges (no_new_privs)",
    "start it without: systemd's NoNewPrivileges=no, docker without --security-opt no-new-privileges",
);

pub(crate) const TOOLS_BOUND: Cause = cause(
    "newuidmap can't work: this program's bounding set lacks CAP_SETUID or CAP_SETGID",
    "give them to it: docker and podman --cap-add SETUID --cap-add SETGID; systemd's CapabilityBoundingSet=",
);

pub(crate) const TOOLS_REFUSE: &str = "check that newuidmap and newgidmap are setuid root, and that the ids in /etc/subuid and /etc/subgid exist here: in a \
     user namespace (`unshare -U`, a rootless container) only those that it maps do";

// Filesystems.

pub(crate) const NOT_ID_MAPPED: Cause = cause(
    "the filesystem there can't be id-mapped",
    "use one that can (ext4, xfs, btrfs; tmpfs since Linux 6.3)",
);

pub(crate) const NO_OVERLAY: Cause = cause(
    "this kernel has no overlay filesystem",
    "as root: modprobe overlay; or a kernel with CONFIG_OVERLAY_FS",
);

pub(crate) const NO_QUOTAS: Cause = cause(
    "the store's filesystem has no project quotas",
    "use writable_in_memory(true), or, as root, a store on a filesystem mounted with prjquota (ext4 with the features \
     quota and project, or xfs)",
);

pub(crate) const QUOTAS_ARE_ROOTS: Cause = cause(
    "project quotas need CAP_SYS_ADMIN in the initial user namespace",
    "run as root, or use writable_in_memory(true)",
);

pub(crate) const LANDLOCK_OFF: Cause = cause(
    "Landlock is switched off at boot",
    "boot with `landlock` in the list of the kernel's parameter lsm= (see /sys/kernel/security/lsm)",
);

pub(crate) const MEMFD_NOEXEC: Cause = cause(
    "vm.memfd_noexec=2 lets no program be executed from memory",
    "nothing need be done: an unnamed file in TMPDIR is used instead; it must not be on a filesystem mounted with noexec",
);

// Control groups.

/// What lets this user make groups.
pub(crate) const DELEGATE: &str = "run as root, or where control groups v2 are delegated to this user: systemd-run \
     --user --scope -p Delegate=yes PROGRAM; in a container, they have to be mounted for writing (docker and podman \
     --privileged; podman on v2 --security-opt unmask=/sys/fs/cgroup)";

pub(crate) const NOT_DELEGATED: Cause =
    cause("this program may not make control groups where it is", DELEGATE);

pub(crate) const NO_CGROUP: Cause = cause("its report says why", DELEGATE);

pub(crate) const MOUNT_CGROUP: &str = "mount control groups: mount -t cgroup2 none /sys/fs/cgroup";

pub(crate) const MOUNT_UNIFIED: &str =
    "mount cgroup2, also beside v1: mount -t cgroup2 none /sys/fs/cgroup/unified";

pub(crate) const NO_UNIFIED: Cause =
    cause("no cgroup v2 hierarchy is mounted where this process is", MOUNT_UNIFIED);

pub(crate) const BUSY_GROUP: Cause = cause(
    "a control group with processes of its own, as this program, hands no controllers on",
    "start the program in a group below that one: DelegateSubgroup= since systemd 254; first in an outer container \
     mkdir /sys/fs/cgroup/own && echo $$ >/sys/fs/cgroup/own/cgroup.procs; or as root of the host",
);

pub(crate) const NO_FREEZER: Cause =
    cause("this kernel can't pause control groups v2; Linux can since 5.2", "a kernel of Linux 5.2 or newer");

#[cfg(feature = "cgroups")]
pub(crate) const NO_SWAP: Cause = cause(
    "this kernel counts no swap for control groups",
    "boot with swapaccount=1, or leave memory_swap_max unsaid",
);

#[cfg(feature = "cgroups")]
pub(crate) const NO_MEMORY_HIGH: Cause = cause(
    "memory.high is of control groups v2 alone, and the memory controller is in v1 here",
    "memory_high needs the memory controller on cgroup v2 (under systemd: boot with systemd.unified_cgroup_hierarchy=1); \
     memory_reservation is there on v1",
);

#[cfg(feature = "cgroups")]
pub(crate) const NO_WEIGHTS_V1: Cause = cause(
    "no disk of this machine heeds weights",
    "choose the scheduler bfq for a disk: echo bfq > /sys/block/DISK/queue/scheduler",
);

#[cfg(feature = "cgroups")]
pub(crate) const NO_WEIGHTS_V2: Cause = cause(
    "no disk of this machine heeds weights",
    "choose the scheduler bfq for a disk (/sys/block/DISK/queue/scheduler), or switch the model of costs on: echo \
     'MAJOR:MINOR enable=1' > /sys/fs/cgroup/io.cost.qos",
);

pub(crate) const NO_DISK: Cause = cause(
    "no disk of this machine has its node in /dev here, so none can be named",
    "run the program where /dev has the disks' nodes, or make one (mknod) and name it",
);

pub(crate) const NO_HUGE_PAGES: &str = "/sys/kernel/mm/hugepages lists the sizes that there are; others take a kernel with \
     CONFIG_HUGETLBFS, and a processor that has them";

#[cfg(feature = "cgroups")]
pub(crate) const DEVICE_PROGRAMS: Cause = cause(
    "device programs of control groups v2 need CAP_BPF or CAP_SYS_ADMIN in the first user namespace",
    "run as root, or leave the devices unsaid: a container reaches none but its own and those given to it anyway",
);

pub(crate) const NO_LIMITS_BUILT: Cause =
    cause("this build of coracle has no limits", "build it with the feature `cgroups`");

// Functions.

/// Where groups are made.
pub(crate) fn rooms<'a>(dirs: impl Iterator<Item = &'a std::path::Path>) -> String {
    let dirs: Vec<_> = dirs.map(|dir| dir.display().to_string()).collect();
    format!("they are made in {}", dirs.join(", "))
}

/// A limit on namespaces, of user `0` in the namespace above or of this user here.
pub(crate) fn limit_of(feature: Feature, sysctl: &str, value: &str) -> Missing {
    let reason = match value {
        "0" => format!("user.{sysctl}=0 allows none"),
        value => {
            format!("as many as user.{sysctl}={value} allows exist already, here or in a namespace above")
        }
    };
    let remedy = format!(
        "as root, outside of every user namespace: sysctl -w user.{sysctl}=15000 (to stay: a file in /etc/sysctl.d)"
    );
    Missing::new(feature, reason, remedy)
}

/// What a user's systemd was asked for and did not give.
pub(crate) fn not_given(without: Option<&Missing>, refused: &impl std::fmt::Display) -> Missing {
    let reason = without.map_or(NOT_DELEGATED.reason.into(), |missing| missing.reason.clone());
    let remedy = format!("{DELEGATE}; what is asked for by itself failed: {refused}");
    Missing::new(Feature::Cgroup, reason, remedy)
}

/// A controller that the groups above do not hand on, or that is in no v2 hierarchy at all.
pub(crate) fn no_controller(controller: &str) -> Missing {
    Missing::new(
        Feature::Cgroup,
        format!(
            "the {controller} controller is not available in the control groups that this program may use"
        ),
        "run as root, or have it handed on: under systemd Delegate=cpu cpuset io memory pids in a drop-in for \
         user@.service (systemctl edit user@.service); where the root's cgroup.controllers lacks it too, the kernel was \
         built or booted without it (cgroup_disable=), or has it in a v1 hierarchy",
    )
}

/// Neither v1 nor v2 has it.
pub(crate) fn not_mounted(controller: &str) -> Missing {
    Missing::new(Feature::Cgroup, format!("no {controller} controller is mounted"), MOUNT_CGROUP)
}

/// A group of this controller lacks a file, which an option of the kernel brings.
#[cfg(feature = "cgroups")]
pub(crate) fn no_file(file: &str) -> Missing {
    let option = match file {
        "cpu.max" | "cpu.cfs_quota_us" | "cpu.cfs_period_us" => "CONFIG_CFS_BANDWIDTH",
        "cpu.weight" | "cpu.shares" => "CONFIG_FAIR_GROUP_SCHED",
        "io.bfq.weight" | "blkio.bfq.weight" => "CONFIG_BFQ_GROUP_IOSCHED",
        file if file.starts_with("io.") || file.starts_with("blkio.") => "CONFIG_BLK_DEV_THROTTLING",
        _ => "it",
    };
    let reason = format!("this kernel's control groups have no {file}");
    Missing::new(Feature::Cgroup, reason, format!("a kernel with {option}, or leave the limit unsaid"))
}

/// The store's filesystem, of this kind where that is known.
pub(crate) fn no_upper(kind: Option<&str>) -> Missing {
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    Missing::new(
        Feature::Overlay,
        format!(
            "the store's filesystem{kind} can't hold a writable layer, the upper directory of an overlay"
        ),
        "put the store on ext4, xfs, btrfs or tmpfs (in an outer container: on a volume), or keep the writable layer in \
         memory: writable_in_memory(true)",
    )
}

/// Huge pages of a size, or of any.
pub(crate) fn no_huge_pages(size: Option<&str>) -> Missing {
    let reason = match size {
        Some(size) => {
            format!("this machine has no pages of {size}, or does not count them for control groups")
        }
        None => "this machine has no huge pages".to_owned(),
    };
    Missing::new(Feature::HugetlbLimit, reason, NO_HUGE_PAGES)
}

/// Landlock without all of its rules.
pub(crate) fn landlock_scopes(running: &str) -> Missing {
    let missing = too_old(Feature::LandlockScopes, running);
    let remedy =
        format!("{}, or best_effort(Protection::Landlock) for what this kernel has", missing.remedy());
    Missing::new(Feature::LandlockScopes, missing.reason().to_owned(), remedy)
}

/// The other way to a limit on processes.
pub(crate) fn no_fence(running: &str) -> Missing {
    Missing::new(
        Feature::PidsLimit,
        format!(
            "this kernel ({running}) holds no user namespace as a whole to RLIMIT_NPROC; Linux does since 5.14"
        ),
        format!("a kernel of Linux 5.14 or newer, or a control group: {DELEGATE}"),
    )
}

/// The kernel was built without it.
pub(crate) fn not_built(feature: Feature, option: &str) -> Missing {
    Missing::new(
        feature,
        format!("this kernel was built without {option}"),
        format!("a kernel with {option}"),
    )
}

/// The kernel is too old.
pub(crate) fn too_old(feature: Feature, running: &str) -> Missing {
    match feature.since() {
        Some((major, minor)) => Missing::new(
            feature,
            format!("this kernel ({running}) lacks it; Linux has it since {major}.{minor}"),
            format!("a kernel of Linux {major}.{minor} or newer"),
        ),
        None => Missing::new(feature, format!("this kernel ({running}) lacks it"), "a newer kernel"),
    }
}

/// A filter refuses the call.
pub(crate) fn filtered(feature: Feature, call: &str) -> Missing {
    Missing::new(
        feature,
        format!("the seccomp filter that this program runs under refuses {call}"),
        "run it under a filter that allows the call; in docker and podman: --security-opt seccomp=unconfined, in \
         Kubernetes `seccompProfile: {type: Unconfined}`",
    )
}

/// Root, but not all of root.
pub(crate) fn capabilities(feature: Feature, lacking: &[&str]) -> Missing {
    let list = lacking.join(", ");
    let flags: Vec<_> =
        lacking.iter().map(|name| format!("--cap-add {}", name.trim_start_matches("CAP_"))).collect();
    Missing::new(
        feature,
        format!("this program is root without {list}"),
        format!("give it {list}; in docker and podman: {} or --privileged", flags.join(" ")),
    )
}

/// No warden, so nothing could be tried.
pub(crate) fn no_warden(feature: Feature, why: &Missing) -> Missing {
    Missing::new(
        feature,
        format!("it can't be tried without {}: {}", why.feature(), why.reason()),
        why.remedy().to_owned(),
    )
}

/// Not root at all.
pub(crate) fn unprivileged(feature: Feature, user: u32) -> Missing {
    Missing::new(
        feature,
        format!("this program runs as an ordinary user ({user})"),
        "nothing need be done: containers run nevertheless; run it as root where it is wanted",
    )
}
