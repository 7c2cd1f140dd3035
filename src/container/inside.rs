//! Stage B: from inside all namespaces to the command.
//!
//! Here the process is root of the container's user namespace and of nothing else. What it mounts (proc, dev, sys,
//! the covers over their dangerous parts) belongs to the container.
#![forbid(unsafe_code)]

use super::dev;
use super::hierarchies::Hierarchies;
use super::protection::Protection;
use super::script::{CWD, Links, Script};
use super::stages::{NO_FILTER, WITHOUT};
use super::users::Identity;
use crate::error::ErrorKind;
use crate::feature::{Feature, words};
use crate::namespace::{NamespaceKind, Namespaces};
use crate::security::capability::Capabilities;
use crate::security::landlock::{Domain, Entering, Places};
use crate::security::limit::{Sysctl, Ulimit};
use crate::security::seccomp::Program;
use crate::sys::courier::Letter;
use crate::sys::plan::Cell;
use linux_raw_sys::errno::{EACCES, EEXIST, EINVAL, ENOENT, ENOTDIR, EPERM, EROFS};
use linux_raw_sys::{general as n, ioctl, prctl};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a process of a container is to be: its first one, or one that joins.
pub(super) struct Command<'a> {
    pub words: &'a [OsString],
    pub env: &'a [OsString],
    pub path: &'a OsStr,
    pub working_dir: &'a Path,
    /// Where it is missing; else that is an error.
    pub make_working_dir: bool,
    pub identity: &'a Identity,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub seccomp: Option<Arc<Program>>,
    /// It goes on without the filter where the kernel refuses it, and [tells](WITHOUT).
    pub seccomp_best_effort: bool,
    /// A second wall, with its places.
    pub landlock: Option<(&'a Domain<'a>, Places, Entering)>,
    pub ulimits: &'a [Ulimit],
    pub init: bool,
    /// Whether setgroups(2) is allowed in the user namespace: not in one with a single id.
    pub groups_allowed: bool,
}

/// The filesystems of a container that belong to it.
pub(super) struct Inside<'a> {
    pub namespaces: &'a Namespaces,
    /// And whether each is a directory, of those of the kernel's own that were there a moment ago.
    pub masked: &'a [(PathBuf, Option<bool>)],
    pub read_only: &'a [PathBuf],
    /// They are the kernel's own, in what is mounted here: no link of the image's can be in the way.
    pub read_only_known: bool,
    /// What its network has by default, below /proc/sys: as far as the kernel has it.
    pub own_network: &'a [(&'static str, String)],
    pub sysctls: &'a [Sysctl],
    /// The group of terminals, where it exists in the user namespace.
    pub tty_group: bool,
    /// What is seen in /sys/fs/cgroup.
    pub hierarchies: Hierarchies,
}

/// Root of the namespace, and nothing of it visible through /proc to whoever is already there.
pub(super) fn become_root(s: &mut Script<'_>, groups_allowed: bool) {
    s.during("becoming root of the user namespace");
    s.op(n::__NR_setresgid, "setresgid", [0.into(), 0.into(), 0.into()]);
    s.op(n::__NR_setresuid, "setresuid", [0.into(), 0.into(), 0.into()]);
    if groups_allowed {
        s.op(n::__NR_setgroups, "setgroups", [0.into(), 0.into()]);
    }
    s.dumpable(false);
    s.session();
}

/// Takes all other capabilities from the bounding set: nothing that is executed gets them back. The process itself keeps
/// them until it has given them up.
pub(super) fn bound(s: &mut Script<'_>, capabilities: Capabilities) {
    s.during("giving up privileges");
    for capability in crate::security::capability::Capability::all() {
        if !capabilities.contains(capability) {
            let number = u32::from(capability.number());
            // EINVAL: unknown to this kernel, there is nothing to drop.
            s.op(
                n::__NR_prctl,
                "prctl(PR_CAPBSET_DROP)",
                [prctl::PR_CAPBSET_DROP.into(), number.into(), 0.into(), 0.into(), 0.into()],
            )
            .tolerate(&[EINVAL]);
        }
    }
}

/// Everything up to and including the new root; the working directory was the root's mount.
pub(super) fn mounts(s: &mut Script<'_>, inside: &Inside<'_>, terminal: Option<Letter>) -> Option<Cell> {
    s.during("entering the root filesystem");
    // pivot_root refuses a locked mount: a copy of the whole tree on top of itself is not one, while the mounts in
    // it stay locked to each other.
    let dot = s.c_str(c".");
    let flags = n::OPEN_TREE_CLONE | n::OPEN_TREE_CLOEXEC | n::AT_RECURSIVE;
    let root = s
        .op(n::__NR_open_tree, "open_tree(\".\")", [CWD.into(), dot.into(), flags.into()])
        .needs(Feature::MountApi)
        .result();
    let here = s
        .op(
            n::__NR_openat,
            "openat(\".\")",
            [CWD.into(), dot.into(), (n::O_PATH | n::O_CLOEXEC).into(), 0.into()],
        )
        .result();
    s.attach(root, here, Path::new("/"));
    s.op(n::__NR_fchdir, "fchdir", [root.into()]);
    let plain = n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOEXEC;

    s.during("mounting /proc");
    let fs = s.fsopen(c"proc");
    let proc = s.fsmount(fs, "proc", plain);
    let target = mountable(s, root, "proc");
    s.attach(proc, target, Path::new("/proc"));

    let empty = s.open_in(root, Path::new(&dev::EMPTY[1..]), Links::Refuse, None);
    let slave = dev::join(s, root, inside.tty_group, terminal);

    s.during("mounting /sys");
    let target = mountable(s, root, "sys");
    if inside.namespaces.has(NamespaceKind::Net) {
        let fs = s.fsopen(c"sysfs");
        let sys = s.fsmount(fs, "sysfs", plain | n::MOUNT_ATTR_RDONLY);
        s.attach(sys, target, Path::new("/sys"));
    } else {
        // A new sysfs shows a network namespace's devices; the host's is not ours to show anew.
        let source = s.open_path(Path::new("/sys"));
        let sys = s.clone_mount(source, true, Path::new("/sys"));
        s.set_attributes(sys, plain | n::MOUNT_ATTR_RDONLY, None, true, Path::new("/sys"));
        s.attach(sys, target, Path::new("/sys"));
    }
    inside.hierarchies.mount(s, root, !inside.namespaces.has(NamespaceKind::Net));

    s.during("setting kernel parameters");
    let how = s.words64(&[
        u64::from(n::O_WRONLY | n::O_CLOEXEC),
        0,
        u64::from(n::RESOLVE_IN_ROOT | n::RESOLVE_NO_SYMLINKS | n::RESOLVE_NO_MAGICLINKS),
    ]);
    let own = inside.own_network.iter().map(|(path, value)| (*path, value.as_str(), true));
    let asked = inside.sysctls.iter().map(|sysctl| (sysctl.path(), sysctl.value(), false));
    for (path, value, may_lack) in own.chain(asked) {
        let path = Path::new("proc/sys").join(path);
        let shown = Path::new("/").join(&path);
        let (at, fd, absent) = (s.string(&path), s.cell(-1), s.label());
        let op = s
            .op(n::__NR_openat2, "openat2", [root.into(), at.into(), how.into(), 24.into()])
            .needs(Feature::Openat2)
            .path(&shown)
            .store(fd);
        if may_lack {
            // Also where this program's profile refuses it: nobody has asked for it.
            op.tolerate(&[ENOENT, EACCES, EPERM, EROFS]).otherwise(absent);
        }
        let op = s.write(fd, value.as_bytes(), &shown);
        if may_lack {
            op.tolerate(&[EACCES, EPERM, EINVAL]);
        }
        s.place(absent);
    }
    covers(s, root, empty, inside);

    s.during("leaving the old root");
    s.op(n::__NR_pivot_root, "pivot_root(\".\", \".\")", [dot.into(), dot.into()]).remedy(
        "a seccomp filter over this program refuses it, as docker's does whatever the capabilities: see \
         docs/inside-containers.md for the options that let it through",
    );
    s.op(n::__NR_umount2, "umount2(MNT_DETACH)", [dot.into(), n::MNT_DETACH.into()]);
    let slash = s.c_str(c"/");
    s.op(n::__NR_chdir, "chdir", [slash.into()]).path("/");
    slave
}

/// A directory of the root by its very name: an image in which it is a link is refused.
pub(super) fn mountable(s: &mut Script<'_>, root: Cell, name: &str) -> Cell {
    let at = s.string(name);
    let how = s.words64(&[
        u64::from(n::O_PATH | n::O_CLOEXEC | n::O_DIRECTORY),
        0,
        u64::from(n::RESOLVE_IN_ROOT | n::RESOLVE_NO_SYMLINKS | n::RESOLVE_NO_MAGICLINKS),
    ]);
    s.op(n::__NR_openat2, "openat2(RESOLVE_NO_SYMLINKS)", [root.into(), at.into(), how.into(), 24.into()])
        .needs(Feature::Openat2)
        .path(Path::new("/").join(name))
        .remedy("in the image it has to be a directory, not a link or a file")
        .result()
}

fn covers(s: &mut Script<'_>, root: Cell, empty: Cell, inside: &Inside<'_>) {
    s.during("covering parts of /proc and /sys");
    let plain = n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOEXEC;
    let null = s.open_in(root, Path::new("dev/null"), Links::Refuse, None);
    // First: what covers a part of one of them is to stay.
    for path in inside.read_only {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let absent = s.label();
        if inside.read_only_known {
            let at = s.string(relative);
            let copy = s.copy_mount_at(root, at, path).tolerate(&[ENOENT]).otherwise(absent).result();
            s.set_attributes(copy, plain | n::MOUNT_ATTR_RDONLY, None, false, path);
            s.attach_at(copy, root, at, path);
        } else {
            let target = s.open_in(root, relative, Links::Refuse, Some(absent));
            // With what is mounted in it, and else as it was: programs in there are still to run.
            let copy = s.clone_mount(target, true, path);
            s.set_attributes(copy, n::MOUNT_ATTR_RDONLY, None, true, path);
            s.attach(copy, target, path);
        }
        s.place(absent);
    }
    for (path, is_dir) in inside.masked {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let absent = s.label();
        match is_dir {
            // In what was just mounted. It may have gone since.
            Some(is_dir) => {
                let cover = s.clone_mount(if *is_dir { empty } else { null }, false, path);
                let at = s.string(relative);
                s.attach_at(cover, root, at, path).tolerate(&[ENOENT]);
            }
            // It may be anything, or come later. Those of the image or the caller may lead through links. The kernel takes a
            // file only for a file.
            None => {
                let target = s.open_in(root, relative, Links::Refuse, Some(absent));
                let cover = s.clone_mount(null, false, path);
                let is_dir = s.label();
                s.attach(cover, target, path).tolerate(&[EINVAL, ENOTDIR]).otherwise(is_dir);
                s.jump(absent);
                s.place(is_dir);
                let cover = s.clone_mount(empty, false, path);
                s.attach(cover, target, path);
            }
        }
        s.place(absent);
    }
}

/// Gives pipes (or a terminal) to the command's user, as docker does: `/dev/stdout` is opened again by many programs. Done by who names
/// ids as [`Shift`](super::rootfs::Shift) does; where it can't be done, they work by descriptor as ever.
pub(super) fn give_pipes(s: &mut Script<'_>, stdio: [Cell; 3], made: [bool; 3], (uid, gid): (u32, u32)) {
    for (fd, _) in stdio.into_iter().zip(made).filter(|(_, made)| *made) {
        s.op(n::__NR_fchown, "fchown(stdio)", [fd.into(), uid.into(), gid.into()]).tolerate_all();
    }
}

/// Makes a terminal the controlling one of this process, which leads a session.
pub(super) fn control(s: &mut Script<'_>, terminal: Cell) {
    s.op(n::__NR_ioctl, "ioctl(TIOCSCTTY)", [terminal.into(), ioctl::TIOCSCTTY.into(), 0.into()]);
}

/// From a process in its place, whose capabilities are [bound], to the command itself. `ready` is told at the last moment before.
pub(super) fn execute(s: &mut Script<'_>, command: &Command<'_>, stdio: [Cell; 3], ready: &[u64; 2]) {
    s.stdio(stdio);
    if command.init {
        s.init();
    }
    s.during("setting resource limits");
    for limit in command.ulimits {
        let at = s.words64(&[limit.soft(), limit.hard()]);
        s.op(n::__NR_prlimit64, "prlimit64", [0.into(), limit.resource().into(), at.into(), 0.into()])
            .path(limit.name())
            .remedy("a hard limit above this program's own needs CAP_SYS_RESOURCE on the host");
    }
    working_dir(s, command.working_dir, command.make_working_dir);
    if let Some((domain, places, who)) = &command.landlock {
        domain.enter(s, places, *who);
    }
    let filter = command.seccomp.as_ref().map(|program| {
        let bytes = s.bytes(program.bytes());
        let fprog = s.words64(&[u64::from(program.instructions()), bytes.0]);
        (fprog, program.flags())
    });
    let load = |s: &mut Script<'_>| {
        let Some((fprog, flags)) = filter else { return };
        s.during("loading the seccomp filter");
        let args = [1.into(), flags.into(), fprog.into()];
        if !command.seccomp_best_effort {
            s.op(n::__NR_seccomp, "seccomp(SECCOMP_SET_MODE_FILTER)", args)
                .protection(Protection::Seccomp.name())
                .needs(Feature::Seccomp);
            return;
        }
        let (without, done) = (s.label(), s.label());
        s.op(n::__NR_seccomp, "seccomp(SECCOMP_SET_MODE_FILTER)", args).tolerate_all().otherwise(without);
        s.jump(done);
        s.place(without);
        s.tell(&[u64::from(WITHOUT), NO_FILTER]);
        s.place(done);
    };
    if !command.no_new_privileges {
        // The kernel lets only CAP_SYS_ADMIN load a filter then.
        load(s);
    }
    privileges(s, command);
    s.op(n::__NR_umask, "umask", [0o022.into()]);
    if command.no_new_privileges {
        s.op(
            n::__NR_prctl,
            "prctl(PR_SET_NO_NEW_PRIVS)",
            [prctl::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()],
        );
        load(s);
    }
    let missing = "execve: not found in the PATH of the container";
    s.execute(command.words, command.env, command.path, ready, missing);
}

fn working_dir(s: &mut Script<'_>, path: &Path, make: bool) {
    s.during("entering the working directory");
    let at = s.string(path);
    if !make {
        s.op(n::__NR_chdir, "chdir", [at.into()])
            .path(path)
            .remedy("it has to be there, and open to the command's user: only a container's first command has its own made");
        return;
    }
    let there = s.label();
    let missing = s.label();
    s.op(n::__NR_chdir, "chdir", [at.into()]).path(path).tolerate(&[ENOENT]).otherwise(missing);
    s.jump(there);
    s.place(missing);
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        if so_far.parent().is_some() {
            let at = s.string(&so_far);
            s.op(n::__NR_mkdirat, "mkdirat", [CWD.into(), at.into(), 0o755.into()])
                .path(&so_far)
                .tolerate(&[EEXIST]);
        }
    }
    s.op(n::__NR_chdir, "chdir", [at.into()]).path(path);
    s.place(there);
}

/// Capabilities and ids, in the order in which the kernel still lets each step happen.
fn privileges(s: &mut Script<'_>, command: &Command<'_>) {
    let identity = command.identity;
    s.during("becoming the user");
    if command.groups_allowed {
        let groups: Vec<u8> = identity.groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
        let at = s.bytes(&groups);
        s.op(n::__NR_setgroups, "setgroups", [identity.groups.len().into(), at.into()])
            .kind(ErrorKind::Unsupported)
            .remedy(words::UIDMAP);
    }
    let (uid, gid) = (identity.uid, identity.gid);
    s.op(n::__NR_setresgid, "setresgid", [gid.into(), gid.into(), gid.into()])
        .path(gid.to_string())
        .kind(ErrorKind::Unsupported)
        .remedy(words::UIDMAP);
    s.op(n::__NR_setresuid, "setresuid", [uid.into(), uid.into(), uid.into()])
        .path(uid.to_string())
        .kind(ErrorKind::Unsupported)
        .remedy(words::UIDMAP);
    s.dumpable(false);
    // struct __user_cap_header, then two of __user_cap_data (effective, permitted, inheritable).
    let header = s.words64(&[u64::from(n::_LINUX_CAPABILITY_VERSION_3)]);
    let bits = if uid == 0 { command.capabilities.bits() } else { 0 };
    let (low, high) = (bits & 0xffff_ffff, bits >> 32);
    let data = s.words64(&[low | low << 32, high << 32, high]);
    s.op(n::__NR_capset, "capset", [header.into(), data.into()]);
}
