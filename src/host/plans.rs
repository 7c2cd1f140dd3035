//! How each feature is used: the shortest sequence of system calls that only succeeds where it is really there.
//!
//! A namespace counts when a capability was used in it: AppArmor and SELinux may grant a namespace and nothing in it.
//! Mounts lie on the process's own /proc, the one directory that is certainly there, in a mount namespace that goes with the
//! process.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::feature::{Feature, Missing, words};
use crate::namespace::{self, Birth, NamespaceKind, Namespaces};
use crate::security::landlock::Landlock;
use crate::sys::idmap::IdMap;
use crate::sys::plan::format::OP_END;
use crate::sys::plan::{At, Cell};
use crate::sys::script::{CWD, Links, Script};
use crate::sys::warden::Warden;
use linux_raw_sys::errno::{ECHILD, EINVAL, ENOEXEC};
use linux_raw_sys::{general as n, prctl};
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// What [`write()`] uses.
pub(super) const ALL: [Feature; 23] = [
    Feature::UserNamespace,
    Feature::PidNamespace,
    Feature::MountNamespace,
    Feature::NetNamespace,
    Feature::IpcNamespace,
    Feature::UtsNamespace,
    Feature::CgroupNamespace,
    Feature::TimeNamespace,
    Feature::FreshProc,
    Feature::Overlay,
    Feature::OverlayAppend,
    Feature::OverlayDetached,
    Feature::MountApi,
    Feature::MountSetattr,
    Feature::Openat2,
    Feature::Clone3,
    Feature::CloseRange,
    Feature::Pidfd,
    Feature::PidfdNamespaces,
    Feature::ExecutableMemfd,
    Feature::Seccomp,
    Feature::Landlock,
    Feature::LandlockScopes,
];

/// What [`mapped()`] uses.
pub(super) const MAPPED: [Feature; 3] =
    [Feature::IdMappedMounts, Feature::OverlayIdMapped, Feature::IdMappedTmpfs];

const SIGCHLD: u32 = 17;

pub(super) fn write(s: &mut Script<'_>, warden: &Warden, feature: Feature, result: Cell) -> Result<()> {
    match feature {
        Feature::UserNamespace => {
            let namespaces = Namespaces::new().user().uts();
            inside(s, warden, &namespaces, |s| host_name(s, feature))?;
        }
        Feature::PidNamespace => {
            unshare(s, feature, n::CLONE_NEWPID);
            // clone3 is a feature of its own.
            let args = [SIGCHLD.into(), 0.into(), 0.into(), 0.into(), 0.into()];
            let pid = s.op(n::__NR_clone, "clone", args).needs(feature).result();
            end_and_wait(s, pid);
        }
        Feature::MountNamespace => own_mounts(s, feature),
        Feature::NetNamespace => {
            unshare(s, feature, n::CLONE_NEWNET);
            s.loopback();
        }
        Feature::IpcNamespace => unshare(s, feature, n::CLONE_NEWIPC),
        Feature::UtsNamespace => {
            unshare(s, feature, n::CLONE_NEWUTS);
            host_name(s, feature);
        }
        Feature::CgroupNamespace => unshare(s, feature, n::CLONE_NEWCGROUP),
        Feature::TimeNamespace => unshare(s, feature, n::CLONE_NEWTIME),
        Feature::FreshProc => {
            inside(s, warden, &Namespaces::new().user().pid().mount(), |s| {
                const FLAGS: u32 = n::MS_NOSUID | n::MS_NODEV | n::MS_NOEXEC;
                s.private_mounts();
                mount(s, feature, c"proc", FLAGS, None);
            })?;
        }
        Feature::Overlay => {
            own_mounts(s, feature);
            let options = "lowerdir=/proc/a,upperdir=/proc/upper,workdir=/proc/work";
            let user = if warden.map().is_some() { ",userxattr" } else { "" };
            overlay(s, feature, &format!("{options}{user}"));
        }
        Feature::OverlayAppend => {
            own_mounts(s, feature);
            let layers = [c"/proc/a", c"/proc/b"].map(|dir| s.c_str(dir));
            stack(s, feature, layers);
        }
        Feature::OverlayDetached => {
            let layers = [0, 1].map(|_| s.tmpfs(4096, 2, 0o755, None, n::MOUNT_ATTR_NODEV));
            let layers = layers.map(|layer| s.magic(layer));
            stack(s, feature, layers);
        }
        Feature::MountApi => {
            own_mounts(s, feature);
            let made = s.tmpfs(4096, 2, 0o755, None, n::MOUNT_ATTR_NODEV);
            // Before Linux 6.15 what is attached nowhere can't be copied.
            let below = s.open_path(Path::new("/proc/b"));
            let copy = s.clone_mount(below, false, Path::new("/proc/b"));
            for mount in [made, copy] {
                let target = s.open_path(Path::new("/proc/a"));
                s.attach(mount, target, Path::new("/proc/a"));
            }
        }
        Feature::MountSetattr => {
            let made = s.tmpfs(4096, 2, 0o755, None, n::MOUNT_ATTR_NODEV);
            s.set_attributes(made, n::MOUNT_ATTR_RDONLY, None, false, Path::new("tmpfs"));
        }
        Feature::Openat2 => {
            let root = s.open_path(Path::new("/"));
            s.open_in(root, Path::new("proc"), Links::Follow, None);
        }
        Feature::Clone3 => clone3(s, feature, 0, None),
        Feature::CloseRange => {
            // There is nothing up there.
            let args = [(1 << 30).into(), u32::MAX.into(), 0.into()];
            s.op(n::__NR_close_range, "close_range", args).needs(feature);
        }
        Feature::Pidfd => {
            const P_PIDFD: u32 = 3;
            const WEXITED: u32 = 4;
            let pidfd = pidfd_of_itself(s, feature);
            let args = [pidfd.into(), 0.into(), 0.into(), 0.into()];
            s.op(n::__NR_pidfd_send_signal, "pidfd_send_signal", args).needs(feature);
            // Nobody is one's own child.
            let args = [P_PIDFD.into(), pidfd.into(), 0.into(), WEXITED.into(), 0.into()];
            s.op(n::__NR_waitid, "waitid(P_PIDFD)", args).tolerate(&[ECHILD]).needs(feature);
        }
        Feature::PidfdNamespaces => {
            let pidfd = pidfd_of_itself(s, feature);
            let request = namespace::pidfd_request(NamespaceKind::Uts);
            let args = [pidfd.into(), request.into(), 0.into()];
            s.op(n::__NR_ioctl, "ioctl(PIDFD_GET_UTS_NAMESPACE)", args).needs(feature);
        }
        Feature::ExecutableMemfd => memfd(s, feature),
        Feature::Seccomp => {
            const SECCOMP_SET_MODE_FILTER: u32 = 1;
            // One instruction that allows everything: BPF_RET, SECCOMP_RET_ALLOW.
            let filter = s.words64(&[0x7fff_0000 << 32 | 6]);
            let program = s.words64(&[1, filter.0]);
            let args = [prctl::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()];
            s.op(n::__NR_prctl, "prctl(PR_SET_NO_NEW_PRIVS)", args);
            let args = [SECCOMP_SET_MODE_FILTER.into(), 0.into(), program.into()];
            s.op(n::__NR_seccomp, "seccomp(SECCOMP_SET_MODE_FILTER)", args).needs(feature);
        }
        Feature::Landlock => {
            const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
            let args = [0.into(), 0.into(), LANDLOCK_CREATE_RULESET_VERSION.into()];
            s.op(n::__NR_landlock_create_ruleset, "landlock_create_ruleset", args)
                .needs(feature)
                .store(result);
        }
        Feature::LandlockScopes => Landlock::make_all(s, feature),
        // None of this module's.
        _ => {}
    }
    Ok(())
}

/// A user namespace to map mounts with. Whose ids it has does not matter here.
pub(super) fn for_mounts(warden: &Arc<Warden>) -> Result<OwnedFd, Missing> {
    namespace::for_mounts(warden, &IdMap::single(0, 0))
        .map_err(|error| error.into_missing(Feature::UserNamespace, words::REFUSED.remedy).0)
}

/// Id maps of the filesystem at `place`, or of a tmpfs.
pub(super) fn mapped<'fd>(s: &mut Script<'fd>, feature: Feature, userns: BorrowedFd<'fd>, place: &Path) {
    let userns = s.fd(userns);
    if feature == Feature::OverlayIdMapped {
        own_mounts(s, Feature::MountNamespace);
    }
    let mount = match feature {
        Feature::IdMappedTmpfs => s.tmpfs(4096, 2, 0o755, None, n::MOUNT_ATTR_NODEV),
        _ => {
            let dir = s.open_path(place);
            s.clone_mount(dir, false, place)
        }
    };
    s.set_attributes(mount, n::MOUNT_ATTR_NODEV, Some(userns), false, place);
    if feature == Feature::OverlayIdMapped {
        let target = s.open_path(Path::new("/proc/a"));
        s.attach(mount, target, Path::new("/proc/a"));
        overlay(s, feature, "lowerdir=/proc/a:/proc/b");
    }
}

/// A child in this group.
pub(super) fn into_cgroup<'fd>(s: &mut Script<'fd>, dir: BorrowedFd<'fd>) {
    let dir = s.fd(dir);
    clone3(s, Feature::CloneIntoCgroup, n::CLONE_INTO_CGROUP, Some(dir));
}

fn unshare(s: &mut Script<'_>, feature: Feature, flag: u32) {
    s.op(n::__NR_unshare, "unshare", [flag.into()]).detail(feature.name()).needs(feature);
}

fn host_name(s: &mut Script<'_>, feature: Feature) {
    let name = s.c_str(c"coracle");
    s.op(n::__NR_sethostname, "sethostname", [name.into(), 7.into()]).needs(feature);
}

/// What follows is executed in new namespaces, by a child with all capabilities there.
fn inside(
    s: &mut Script<'_>,
    warden: &Warden,
    namespaces: &Namespaces,
    what: impl FnOnce(&mut Script<'_>),
) -> Result<()> {
    // Else /proc/PID/uid_map of the child would belong to the host's root.
    s.dumpable(warden.map().is_some());
    let birth = Birth { outer: warden.map(), ..Birth::default() };
    namespace::clone_into(s, namespaces, &birth, None, |_, _| (), what).map(drop)
}

/// A mount namespace of its own with a small tmpfs on /proc, and directories in it.
fn own_mounts(s: &mut Script<'_>, feature: Feature) {
    unshare(s, Feature::MountNamespace, n::CLONE_NEWNS);
    s.private_mounts();
    let options = s.c_str(c"size=64k,nr_inodes=32,mode=755");
    mount(s, feature, c"tmpfs", n::MS_NODEV, Some(options));
    for dir in [c"/proc/a", c"/proc/b", c"/proc/upper", c"/proc/work"] {
        let at = s.c_str(dir);
        s.op(n::__NR_mkdirat, "mkdirat", [CWD.into(), at.into(), 0o755.into()]);
    }
}

/// mount(2) on /proc.
fn mount(s: &mut Script<'_>, feature: Feature, kind: &CStr, flags: u32, options: Option<At>) {
    let (kind_at, target) = (s.c_str(kind), s.c_str(c"/proc"));
    let options = options.map_or(0.into(), Into::into);
    let args = [kind_at.into(), target.into(), kind_at.into(), flags.into(), options];
    s.op(n::__NR_mount, "mount", args).detail(kind.to_bytes()).needs(feature);
}

fn overlay(s: &mut Script<'_>, feature: Feature, options: &str) {
    let options = s.string(options);
    mount(s, feature, c"overlay", n::MS_NODEV, Some(options));
}

/// An overlay of layers by themselves. Before Linux 6.5 an option that is not known is an error only when it is made.
fn stack(s: &mut Script<'_>, feature: Feature, layers: [At; 2]) {
    let (append, create) =
        (n::fsconfig_command::FSCONFIG_SET_STRING as u32, n::fsconfig_command::FSCONFIG_CMD_CREATE as u32);
    let fs = s.fsopen(c"overlay");
    let key = s.c_str(c"lowerdir+");
    for layer in layers {
        let args = [fs.into(), append.into(), key.into(), layer.into(), 0.into()];
        s.op(n::__NR_fsconfig, "fsconfig", args).detail("lowerdir+").needs(feature);
    }
    let args = [fs.into(), create.into(), 0.into(), 0.into(), 0.into()];
    s.op(n::__NR_fsconfig, "fsconfig(FSCONFIG_CMD_CREATE)", args).path("overlay").needs(feature);
}

fn clone3(s: &mut Script<'_>, feature: Feature, flags: u64, cgroup: Option<Cell>) {
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    let args = s.words64(&[flags, 0, 0, 0, SIGCHLD.into(), 0, 0, 0, 0, 0, 0]);
    if let Some(cgroup) = cgroup {
        s.copy_fd(cgroup, Cell(args.0 + 80));
    }
    let pid = s.op(n::__NR_clone3, "clone3", [args.into(), 88.into()]).needs(feature).result();
    end_and_wait(s, pid);
}

/// The child ends, the parent waits for that.
fn end_and_wait(s: &mut Script<'_>, pid: Cell) {
    let (child, parent) = (s.label(), s.label());
    s.jump_if_zero(pid, child);
    s.op(n::__NR_wait4, "wait4", [pid.into(), 0.into(), 0.into(), 0.into()]);
    s.jump(parent);
    s.place(child);
    s.op(OP_END, "end", [0.into()]);
    s.place(parent);
}

fn pidfd_of_itself(s: &mut Script<'_>, feature: Feature) -> Cell {
    let pid = s.op(n::__NR_getpid, "getpid", []).result();
    s.op(n::__NR_pidfd_open, "pidfd_open", [pid.into(), 0.into()]).needs(feature).result()
}

/// A file in memory that may be executed, which shows when the kernel does not find a program in it.
fn memfd(s: &mut Script<'_>, feature: Feature) {
    let name = s.c_str(c"coracle-probe");
    let fd = s.cell(-1);
    let (older, made) = (s.label(), s.label());
    let with = n::MFD_CLOEXEC | n::MFD_EXEC;
    s.op(n::__NR_memfd_create, "memfd_create(MFD_EXEC)", [name.into(), with.into()])
        .tolerate(&[EINVAL])
        .otherwise(older)
        .needs(feature)
        .store(fd);
    s.jump(made);
    s.place(older);
    s.op(n::__NR_memfd_create, "memfd_create", [name.into(), n::MFD_CLOEXEC.into()]).needs(feature).store(fd);
    s.place(made);
    s.write(fd, b"no program", Path::new("memfd"));
    let (empty, none) = (s.c_str(c""), s.words64(&[0]));
    let argv = s.vector(["coracle-probe"]);
    let args = [fd.into(), empty.into(), argv.into(), none.into(), n::AT_EMPTY_PATH.into()];
    s.op(n::__NR_execveat, "execveat(memfd)", args).tolerate(&[ENOEXEC]).needs(feature);
}
