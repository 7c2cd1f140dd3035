//! Why the kernel refused: what an errno means here, by what is known of the kernel, the program and what surrounds it.
//!
//! That something can't be had is found out by using it. Only then, and only for the words, this looks at
//! versions, settings and confinements.
#![forbid(unsafe_code)]

use super::idmap;
use crate::error::Error;
use crate::feature::words::{self, Cause};
use crate::feature::{Feature, Missing};
use linux_raw_sys::errno as e;
use rustix::process::{getegid, geteuid};
use std::fs;
use std::path::Path;

/// Names what the host lacks, if that is why this error came.
pub(crate) fn explain(error: Error, feature: Feature) -> Error {
    match error.raw_os_error().and_then(|errno| missing(feature, error.step(), errno)) {
        Some(missing) => error.lacks(missing),
        None => error,
    }
}

/// Why an overlay was refused whose upper directory is in the store: the kernel says no more than EINVAL. Of a network's or a
/// FUSE filesystem it does so only once it has tried what it needs, and another overlay is none.
pub(crate) fn explain_upper(error: Error, dir: &Path) -> Error {
    if error.raw_os_error() != Some(e::EINVAL as i32) || error.missing().is_some() {
        return error;
    }
    let kind = filesystem(dir);
    match kind.as_deref() {
        // Then it is something else.
        Some("ext4" | "xfs" | "btrfs" | "tmpfs" | "f2fs" | "bcachefs" | "zfs") => error,
        kind => error.lacks(words::no_upper(kind)),
    }
}

/// What kind of filesystem a directory is on.
fn filesystem(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = super::mountinfo::read().ok()?;
    // Of those at the same place the last one is above.
    let mounts = mounts.into_iter().filter(|mount| dir.starts_with(&mount.point));
    mounts.max_by_key(|mount| mount.point.components().count()).map(|mount| mount.kind)
}

/// The same of a call that is not there, whoever made it: every container needs it.
pub(crate) fn explain_call(error: Error) -> Error {
    if !error.is_missing_call() || error.missing().is_some() {
        return error;
    }
    let call = error.step().split('(').next().unwrap_or_default();
    let feature = match call {
        "openat2" => Feature::Openat2,
        "pidfd_open" | "pidfd_send_signal" => Feature::Pidfd,
        "memfd_create" => Feature::ExecutableMemfd,
        "open_tree" | "move_mount" | "fsopen" | "fsconfig" | "fsmount" => Feature::MountApi,
        "mount_setattr" => Feature::MountSetattr,
        _ => return error,
    };
    explain(error, feature)
}

/// What `call` needed when it gave `errno`; `None` where that says nothing about what the host has.
pub(crate) fn missing(feature: Feature, call: &str, errno: i32) -> Option<Missing> {
    use Feature as F;
    let errno = errno as u32;
    let refused = matches!(errno, e::EPERM | e::EACCES);
    if errno == e::ENOSYS {
        return Some(absent(feature, call));
    }
    if let Some((sysctl, option)) = namespace(feature) {
        return match errno {
            e::ENOSPC | e::EUSERS => Some(limited(feature, sysctl)),
            e::EINVAL => Some(words::not_built(feature, option)),
            // What is done with a capability in a new one, as whoever made it has all of them there.
            _ if refused && feature == Feature::UserNamespace && call == "sethostname" && !is_filtered() => {
                Some(words::NO_NAMESPACE_RIGHTS.of(feature))
            }
            _ if refused => Some(confined(feature, call)),
            _ => None,
        };
    }
    match (feature, errno) {
        // Of what a mount may reveal, mount_namespaces(7).
        (F::FreshProc, e::EPERM) => Some(words::MASKED_PROC.of(feature)),
        (F::IdMappedMounts | F::OverlayIdMapped, e::EPERM) if !idmap::is_privileged() => {
            Some(words::ORDINARY_USER.of(feature))
        }
        (F::OverlayIdMapped, e::EINVAL | e::EPERM) if older(feature) => {
            Some(words::too_old(feature, &release()))
        }
        (F::IdMappedMounts, e::EINVAL) => Some(words::NOT_ID_MAPPED.of(feature)),
        // Whatever it was to be made of.
        (F::Overlay | F::OverlayIdMapped | F::OverlayAppend | F::OverlayDetached, e::ENODEV) => {
            Some(words::NO_OVERLAY.of(F::Overlay))
        }
        // A layer that this user may not enter.
        (F::Overlay, e::EACCES) if profile().is_none() => None,
        // Before that version only root could mount one.
        (F::Overlay | F::OverlayAppend | F::OverlayDetached, e::EPERM) if older(feature) => {
            Some(words::too_old(feature, &release()))
        }
        (F::ExecutableMemfd, e::EACCES) if sysctl("vm/memfd_noexec").as_deref() == Some("2") => {
            Some(words::MEMFD_NOEXEC.of(feature))
        }
        // Else it is something in that filter.
        (F::Seccomp, e::EINVAL) if idmap::field(&idmap::status(), "Seccomp_filters:").is_none() => {
            Some(words::not_built(feature, "CONFIG_SECCOMP_FILTER"))
        }
        (F::LandlockScopes, e::EINVAL | e::E2BIG) => Some(words::landlock_scopes(&release())),
        (F::Landlock | F::LandlockScopes, e::EOPNOTSUPP) => Some(words::LANDLOCK_OFF.of(feature)),
        (F::Clone3 | F::CloneIntoCgroup, e::EINVAL | e::E2BIG)
        | (F::OverlayAppend | F::OverlayDetached | F::IdMappedTmpfs, e::EINVAL)
        | (F::PidfdNamespaces, e::EINVAL | e::ENOTTY)
        | (F::Pidfd, e::EINVAL) => Some(words::too_old(feature, &release())),
        // A path may be forbidden to whoever asks, which says nothing of the call.
        (
            F::MountApi
            | F::MountSetattr
            | F::Openat2
            | F::Clone3
            | F::CloseRange
            | F::Pidfd
            | F::PidfdNamespaces,
            _,
        ) if refused => match confined(feature, call) {
            other if other.reason() == words::REFUSED.reason => None,
            _ if errno == e::EACCES && profile().is_none() => None,
            other => Some(other),
        },
        _ if refused => Some(confined(feature, call)),
        _ => None,
    }
}

/// Why an ordinary user's program gets no user namespace that is of use to it.
pub(crate) fn no_user_namespace(call: &str, errno: i32) -> Missing {
    let feature = Feature::UserNamespace;
    let errno = errno as u32;
    if !matches!(errno, e::EPERM | e::EACCES) {
        return missing(feature, call, errno as i32).unwrap_or(words::USERNS_REFUSED.of(feature));
    }
    let is_on = |name| sysctl(name).is_some_and(|value| value != "0");
    let causes: [(&dyn Fn() -> bool, Cause); 4] = [
        (&|| sysctl("kernel/unprivileged_userns_clone").as_deref() == Some("0"), words::DEBIAN_SYSCTL),
        (
            &|| is_on("kernel/apparmor_restrict_unprivileged_userns") && !has_own_profile(),
            words::APPARMOR_USERNS,
        ),
        (&is_unmapped, words::UNMAPPED),
        (&is_in_chroot, words::CHROOT),
    ];
    if let Some((_, cause)) = causes.into_iter().find(|(holds, _)| holds()) {
        return cause.of(feature);
    }
    match confined(feature, call) {
        // Without privileges there are no capabilities to be given.
        other if other.reason() == words::REFUSED.reason => words::USERNS_REFUSED.of(feature),
        other if other.reason() == words::PROFILE.reason => words::PROFILE_USERNS.of(feature),
        other => other,
    }
}

/// The call does not exist, or is said not to.
fn absent(feature: Feature, call: &str) -> Missing {
    // Whatever a namespace or an overlay is made with may be missing, rather than the thing itself.
    // With whatever it is asked.
    let call = call.split('(').next().unwrap_or_default();
    let feature = match call {
        "clone3" => Feature::Clone3,
        "fsopen" | "fsmount" | "fsconfig" | "move_mount" | "open_tree" => Feature::MountApi,
        "mount_setattr" => Feature::MountSetattr,
        _ => feature,
    };
    match (is_filtered(), older(feature)) {
        (true, false) => words::filtered(feature, call),
        (false, false) if matches!(feature, Feature::Landlock | Feature::LandlockScopes) => {
            words::not_built(feature, "CONFIG_SECURITY_LANDLOCK")
        }
        _ if feature == Feature::LandlockScopes => words::landlock_scopes(&release()),
        _ => words::too_old(feature, &release()),
    }
}

/// It exists and this program may not.
fn confined(feature: Feature, call: &str) -> Missing {
    // Capabilities are no question: without them the warden has a user namespace, where it has all.
    if is_filtered() {
        // With whatever it was asked.
        return words::filtered(feature, call.split('(').next().unwrap_or(call));
    }
    match profile() {
        Some(profile) if profile.ends_with("(enforce)") => words::PROFILE.of(feature),
        _ => words::REFUSED.of(feature),
    }
}

/// A limit on namespaces; one call makes several, so the one that is 0 is the one that was met.
fn limited(feature: Feature, own: &'static str) -> Missing {
    let value = |name: &str| sysctl(&format!("user/{name}")).unwrap_or_else(|| "?".into());
    let zero = Feature::ALL.into_iter().find_map(|other| {
        let (name, _) = namespace(other)?;
        (value(name) == "0").then_some((other, name))
    });
    let (feature, name) = if value(own) == "0" { (feature, own) } else { zero.unwrap_or((feature, own)) };
    words::limit_of(feature, name, &value(name))
}

/// The sysctl below `user` that limits a kind of namespace, and the kernel's option for it.
fn namespace(feature: Feature) -> Option<(&'static str, &'static str)> {
    Some(match feature {
        Feature::UserNamespace => ("max_user_namespaces", "CONFIG_USER_NS"),
        Feature::PidNamespace => ("max_pid_namespaces", "CONFIG_PID_NS"),
        Feature::MountNamespace => ("max_mnt_namespaces", "CONFIG_NAMESPACES"),
        Feature::NetNamespace => ("max_net_namespaces", "CONFIG_NET_NS"),
        Feature::IpcNamespace => ("max_ipc_namespaces", "CONFIG_IPC_NS"),
        Feature::UtsNamespace => ("max_uts_namespaces", "CONFIG_UTS_NS"),
        Feature::CgroupNamespace => ("max_cgroup_namespaces", "CONFIG_CGROUPS"),
        Feature::TimeNamespace => ("max_time_namespaces", "CONFIG_TIME_NS"),
        _ => return None,
    })
}

/// The capabilities of root that this program lacks.
pub(crate) fn lacking() -> Vec<&'static str> {
    const WANTED: [(u32, &str); 4] =
        [(21, "CAP_SYS_ADMIN"), (7, "CAP_SETUID"), (6, "CAP_SETGID"), (0, "CAP_CHOWN")];
    let has = idmap::effective_capabilities();
    WANTED.into_iter().filter(|(bit, _)| has & 1 << bit == 0).map(|(_, name)| name).collect()
}

/// Whether a seccomp filter lies over this program, proc_pid_status(5).
pub(crate) fn is_filtered() -> bool {
    idmap::field(&idmap::status(), "Seccomp:") == Some("2")
}

/// The AppArmor profile, where there is one: `docker-default (enforce)`.
pub(crate) fn profile() -> Option<String> {
    // The file that is AppArmor's alone is newer; the other may be another security module's.
    let read =
        |path| fs::read_to_string(path).ok().map(|text| text.trim_end_matches(['\n', '\0']).to_owned());
    read("/proc/thread-self/attr/apparmor/current").or_else(|| read("/proc/thread-self/attr/current"))
}

/// Whether a profile was made for this program. Ubuntu's rule is for all others, and puts those into one in their namespaces.
fn has_own_profile() -> bool {
    profile().is_some_and(|profile| profile != "unconfined" && !profile.contains("unprivileged_userns"))
}

fn sysctl(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().to_owned())
}

fn is_unmapped() -> bool {
    let has = |file: &str, id: u32| {
        let map = fs::read_to_string(file).unwrap_or_default();
        map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().unwrap_or(0));
            let (inside, _, count) = (numbers.next(), numbers.next(), numbers.next());
            matches!((inside, count), (Some(inside), Some(count)) if id >= inside && id - inside < count)
        })
    };
    !has("/proc/thread-self/uid_map", geteuid().as_raw())
        || !has("/proc/thread-self/gid_map", getegid().as_raw())
}

/// The root of a mount namespace is a mount; that of a chroot seldom is.
fn is_in_chroot() -> bool {
    let mounts = super::mountinfo::read().unwrap_or_default();
    !mounts.is_empty() && !mounts.iter().any(|mount| mount.point.as_os_str() == "/")
}

/// The kernel's release.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether the kernel says to be from before a feature was there.
fn older(feature: Feature) -> bool {
    matches!((feature.since(), version(&release())), (Some(since), Some(running)) if running < since)
}

/// Why RLIMIT_NPROC does not bound all users of a user namespace together. Before the kernel counted processes for each
/// namespace it counted those of each user on the whole machine, whatever its namespaces.
pub(crate) fn no_fence() -> Option<Missing> {
    no_fence_on(&release())
}

fn no_fence_on(release: &str) -> Option<Missing> {
    version(release).filter(|running| *running < (5, 14)).map(|_| words::no_fence(release))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("next"), None);
    }

    #[test]
    fn processes_are_counted_for_each_user_namespace_since_5_14() {
        for old in ["4.18.0-553.el8", "5.11.0", "5.13.19-generic", "2.6.78"] {
            let missing = no_fence_on(old).unwrap();
            assert!(missing.reason().contains(old) && missing.remedy().contains("5.14"), "{missing}");
            assert!(missing.remedy().contains("control group"), "{missing}");
        }
        for new in ["5.14.0-70.el9", "5.15.1", "6.1.0-18-amd64", "10.0", "next"] {
            assert_eq!(no_fence_on(new), None, "{new}");
        }
    }

    /// A program can have the kernel say that it is an old one (personality(2), UNAME26).
    #[test]
    fn what_an_older_kernel_lacks_is_told_with_the_version() {
        const OLD: &str = "CORACLE_TEST_OLD_KERNEL";
        if std::env::var_os(OLD).is_none() {
            let name = "sys::diagnose::tests::what_an_older_kernel_lacks_is_told_with_the_version";
            let out = std::process::Command::new("setarch")
                .arg("--uname-2.6")
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(OLD, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        for (feature, errno, since) in
            [(Feature::OverlayIdMapped, e::EINVAL, "5.19"), (Feature::Overlay, e::EPERM, "5.11")]
        {
            let missing = missing(feature, "fsconfig", errno as i32).unwrap();
            assert_eq!(missing.feature(), feature);
            assert!(missing.reason().contains(since) && missing.reason().contains("2.6."), "{missing}");
            assert!(missing.remedy().len() > 10, "{missing}");
        }
    }

    #[test]
    fn a_directory_is_on_the_filesystem_that_is_above() {
        assert_eq!(filesystem(Path::new("/proc/self/fd")).as_deref(), Some("proc"));
        assert_eq!(filesystem(Path::new("/nowhere/at/all")), None);
        let error = |errno: u32| Error::errno("fsconfig(upperdir)", errno as i32);
        let explained = explain_upper(error(e::EINVAL), Path::new("/proc"));
        assert_eq!(explained.kind(), crate::error::ErrorKind::Unsupported);
        assert!(explained.to_string().contains("the store's filesystem (proc)"), "{explained}");
        assert_eq!(explain_upper(error(e::EACCES), Path::new("/proc")).missing(), None);
    }

    #[test]
    fn what_is_no_lack_is_none() {
        for errno in [e::ENOMEM, e::EMFILE, e::EAGAIN, e::EINTR, e::ENOENT, e::EIO] {
            for feature in Feature::ALL {
                assert_eq!(missing(feature, "call", errno as i32), None, "{feature} {errno}");
            }
        }
    }

    #[test]
    fn each_refusal_has_a_reason_and_a_remedy() {
        for errno in [e::EPERM, e::EACCES, e::ENOSYS] {
            for feature in Feature::ALL {
                let Some(missing) = missing(feature, "call", errno as i32) else {
                    assert!(errno != e::ENOSYS && feature.since().is_some(), "{feature} {errno}");
                    continue;
                };
                assert!(missing.reason().len() > 10 && missing.remedy().len() > 10, "{missing}");
            }
            let missing = no_user_namespace("unshare(CLONE_NEWUSER)", errno as i32);
            assert!(missing.reason().len() > 10 && missing.remedy().len() > 10, "{missing}");
        }
    }

    #[test]
    fn a_limit_names_its_sysctl() {
        let missing = missing(Feature::NetNamespace, "unshare", e::ENOSPC as i32).unwrap();
        assert!(missing.reason().contains("user.max_net_namespaces="), "{missing}");
        assert!(missing.remedy().contains("sysctl -w user.max_net_namespaces="), "{missing}");
    }

    #[test]
    fn what_a_thing_is_made_with_is_what_is_missing() {
        let missing = missing(Feature::Overlay, "fsopen", e::ENOSYS as i32).unwrap();
        assert_eq!(missing.feature(), Feature::MountApi);
        assert!(missing.reason().contains("5.2"), "{missing}");
    }
}
