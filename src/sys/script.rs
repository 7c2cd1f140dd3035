//! The idioms of plans: mounts through descriptors, resolution inside a root, from a process to a command.
//!
//! Descriptors that a plan opens are closed by it only where there may be many: all are close-on-exec, and the process that
//! opened them ends or becomes the container's program soon.
#![forbid(unsafe_code)]

use super::idmap::IdMap;
use super::plan::format::{KEEPER, OP_CLOSE_FROM, OP_FAIL, OP_INIT};
use super::plan::{Added, At, Cell, Label, Plan};
use crate::error::ErrorKind;
use crate::feature::Feature;
use linux_raw_sys::errno::{EACCES, EEXIST, EINVAL, ELOOP, ENOENT, ENOSYS, ENOTDIR, EPERM};
use linux_raw_sys::{general as n, ioctl, prctl};
use std::ffi::{CStr, OsStr, OsString};
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

pub(crate) const CWD: i32 = n::AT_FDCWD;

/// Of a command that the kernel does not execute.
const EXECUTABLE: &str = "it has to be there and executable (chmod +x), and so has the interpreter that its first line or its ELF header names";

/// How a path inside a root is resolved: beneath it, links as the container would see them, no magic links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    /// A link anywhere in the path is an error.
    Refuse,
    /// What is behind a link, or behind a file, counts as missing: for paths that a container may have changed.
    Avoid,
}

/// A process that another clones.
pub(crate) struct NewProcess<'a> {
    /// `CLONE_*`, without those that the other fields say.
    pub flags: u64,
    pub exit_signal: u32,
    /// Its number goes here; 0 in itself.
    pub pid: Cell,
    /// And a descriptor of it here.
    pub pidfd: Option<Cell>,
    /// The v2 group that it is born in, which clone3 alone can do.
    pub cgroup: Option<Cell>,
    /// For errors.
    pub detail: &'a str,
    pub lacking: Lacking,
}

/// What keeps a process from being made, for errors.
#[derive(Clone, Copy)]
pub(crate) enum Lacking {
    Feature(Feature),
    Remedy(&'static str),
}

impl Lacking {
    fn said_of<'a, 'fd>(self, op: Added<'a, 'fd>) -> Added<'a, 'fd> {
        match self {
            Self::Feature(feature) => op.needs(feature),
            Self::Remedy(remedy) => op.remedy(remedy),
        }
    }
}

pub(crate) struct Script<'fd> {
    pub plan: Plan<'fd>,
    empty: At,
    follow: At,
    refuse: At,
}

impl<'fd> Deref for Script<'fd> {
    type Target = Plan<'fd>;
    fn deref(&self) -> &Self::Target {
        &self.plan
    }
}

impl DerefMut for Script<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.plan
    }
}

impl<'fd> Script<'fd> {
    pub fn new() -> Self {
        Self::of(Plan::new())
    }

    /// For a plan that comes in two parts.
    pub fn in_two_parts() -> Self {
        Self::of(Plan::in_two_parts())
    }

    fn of(mut plan: Plan<'fd>) -> Self {
        let empty = plan.c_str(c"");
        let path = u64::from(n::O_PATH | n::O_CLOEXEC);
        let inside = u64::from(n::RESOLVE_IN_ROOT | n::RESOLVE_NO_MAGICLINKS);
        // struct open_how: flags, mode, resolve.
        let follow = plan.words64(&[path, 0, inside]);
        let refuse = plan.words64(&[path, 0, inside | u64::from(n::RESOLVE_NO_SYMLINKS)]);
        Self { plan, empty, follow, refuse }
    }

    /// An O_PATH descriptor of `path` (relative) inside `root`. Jumps to `missing`, where given, if it does not exist.
    pub fn open_in(&mut self, root: Cell, path: &Path, links: Links, missing: Option<Label>) -> Cell {
        let found = self.cell(-1);
        self.open_into(found, root, path, links, missing);
        found
    }

    fn open_into(&mut self, found: Cell, root: Cell, path: &Path, links: Links, missing: Option<Label>) {
        let at = if path.as_os_str().is_empty() { self.string(".") } else { self.string(path) };
        let (how, absent): (_, &[u32]) = match links {
            Links::Follow => (self.follow, &[ENOENT]),
            Links::Refuse => (self.refuse, &[ENOENT]),
            Links::Avoid => (self.refuse, &[ENOENT, ENOTDIR, ELOOP]),
        };
        // A rename anywhere on the machine makes the kernel give up (EAGAIN) where there is a `..` on the way.
        let op = self
            .plan
            .op(n::__NR_openat2, "openat2(RESOLVE_IN_ROOT)", [root.into(), at.into(), how.into(), 24.into()])
            .path(Path::new("/").join(path))
            .store(found)
            .needs(Feature::Openat2)
            .again();
        if let Some(missing) = missing {
            op.tolerate(absent).otherwise(missing);
        }
    }

    /// A descriptor of a path of the process's own mount namespace, without following a last link.
    pub fn open_path(&mut self, path: &Path) -> Cell {
        self.opening(path).result()
    }

    /// The same of what may have gone since it was found: it goes on at `missing`.
    pub fn open_path_if_there(&mut self, path: &Path, missing: Label) -> Cell {
        let found = self.cell(-1);
        self.opening(path).tolerate(&[ENOENT]).otherwise(missing).store(found);
        found
    }

    fn opening(&mut self, path: &Path) -> Added<'_, 'fd> {
        let at = self.string(path);
        let flags = n::O_PATH | n::O_CLOEXEC | n::O_NOFOLLOW;
        self.op(n::__NR_openat, "openat(O_PATH)", [CWD.into(), at.into(), flags.into(), 0.into()]).path(path)
    }

    pub fn open_dir_at(&mut self, dir: Cell, name: &CStr) -> Cell {
        let at = self.c_str(name);
        let flags = n::O_PATH | n::O_CLOEXEC | n::O_NOFOLLOW | n::O_DIRECTORY;
        self.op(n::__NR_openat, "openat(O_PATH)", [dir.into(), at.into(), flags.into(), 0.into()])
            .path(OsStr::from_bytes(name.to_bytes()))
            .result()
    }

    /// `/proc/self/fd/N` of a descriptor, for calls that only take paths.
    pub fn magic(&mut self, fd: Cell) -> At {
        self.decimal("/proc/self/fd/", fd, c"")
    }

    /// A filesystem being configured (fsopen(2)).
    pub fn fsopen(&mut self, kind: &'static CStr) -> Cell {
        let name = self.c_str(kind);
        let feature = if kind == c"overlay" { Feature::Overlay } else { Feature::MountApi };
        self.op(n::__NR_fsopen, "fsopen", [name.into(), n::FSOPEN_CLOEXEC.into()])
            .path(OsStr::from_bytes(kind.to_bytes()))
            .needs(feature)
            .result()
    }

    pub fn set_string(&mut self, fs: Cell, key: &CStr, value: At, what: impl AsRef<Path>) -> Added<'_, 'fd> {
        let key_at = self.c_str(key);
        let command = n::fsconfig_command::FSCONFIG_SET_STRING as u32;
        self.op(
            n::__NR_fsconfig,
            "fsconfig",
            [fs.into(), command.into(), key_at.into(), value.into(), 0.into()],
        )
        .detail(key.to_bytes())
        .path(what)
    }

    pub fn set(&mut self, fs: Cell, key: &CStr, value: &str) {
        let at = self.string(value);
        self.set_string(fs, key, at, value);
    }

    pub fn set_flag(&mut self, fs: Cell, key: &CStr) {
        let key_at = self.c_str(key);
        let command = n::fsconfig_command::FSCONFIG_SET_FLAG as u32;
        self.op(n::__NR_fsconfig, "fsconfig", [fs.into(), command.into(), key_at.into(), 0.into(), 0.into()])
            .detail(key.to_bytes());
    }

    /// Creates the filesystem and gives its mount, attached nowhere yet.
    pub fn fsmount(&mut self, fs: Cell, kind: &'static str, attributes: u32) -> Cell {
        self.create(fs, kind);
        self.mount_of(fs, kind, attributes)
    }

    pub fn create(&mut self, fs: Cell, kind: &'static str) -> Added<'_, 'fd> {
        let command = n::fsconfig_command::FSCONFIG_CMD_CREATE as u32;
        self.op(
            n::__NR_fsconfig,
            "fsconfig(FSCONFIG_CMD_CREATE)",
            [fs.into(), command.into(), 0.into(), 0.into(), 0.into()],
        )
        .path(kind)
    }

    pub fn mount_of(&mut self, fs: Cell, kind: &'static str, attributes: u32) -> Cell {
        self.op(n::__NR_fsmount, "fsmount", [fs.into(), n::FSMOUNT_CLOEXEC.into(), attributes.into()])
            .path(kind)
            .result()
    }

    /// A tmpfs that can't grow beyond its bounds.
    pub fn tmpfs(
        &mut self,
        size: u64,
        inodes: u64,
        mode: u32,
        owner: Option<(u32, u32)>,
        attributes: u32,
    ) -> Cell {
        let fs = self.fsopen(c"tmpfs");
        self.set(fs, c"size", &size.to_string());
        self.set(fs, c"nr_inodes", &inodes.to_string());
        self.set(fs, c"mode", &format!("{mode:o}"));
        if let Some((uid, gid)) = owner {
            self.set(fs, c"uid", &uid.to_string());
            self.set(fs, c"gid", &gid.to_string());
        }
        self.fsmount(fs, "tmpfs", attributes)
    }

    /// Attaches a mount on what `target` is.
    pub fn attach(&mut self, mount: Cell, target: Cell, path: &Path) -> Added<'_, 'fd> {
        let flags = n::MOVE_MOUNT_F_EMPTY_PATH | n::MOVE_MOUNT_T_EMPTY_PATH;
        let empty = self.empty;
        self.op(
            n::__NR_move_mount,
            "move_mount",
            [mount.into(), empty.into(), target.into(), empty.into(), flags.into()],
        )
        .path(path)
        .needs(Feature::MountApi)
    }

    /// Attaches a mount on what has this name, in a directory where no link can be in the way.
    pub fn attach_at(&mut self, mount: Cell, dir: Cell, name: At, path: &Path) -> Added<'_, 'fd> {
        let empty = self.empty;
        self.op(
            n::__NR_move_mount,
            "move_mount",
            [mount.into(), empty.into(), dir.into(), name.into(), n::MOVE_MOUNT_F_EMPTY_PATH.into()],
        )
        .path(path)
        .needs(Feature::MountApi)
    }

    /// A copy of the mount at a path of the process's own mount namespace. A last link is not followed.
    pub fn copy_mount(&mut self, path: &Path) -> Cell {
        let at = self.string(path);
        let flags = n::OPEN_TREE_CLONE | n::OPEN_TREE_CLOEXEC | n::AT_SYMLINK_NOFOLLOW;
        self.op(n::__NR_open_tree, "open_tree(OPEN_TREE_CLONE)", [CWD.into(), at.into(), flags.into()])
            .path(path)
            .needs(Feature::MountApi)
            .result()
    }

    /// The same for what has this name in a directory where no link can be in the way.
    pub fn copy_mount_at(&mut self, dir: Cell, name: At, path: &Path) -> Added<'_, 'fd> {
        let flags = n::OPEN_TREE_CLONE | n::OPEN_TREE_CLOEXEC | n::AT_SYMLINK_NOFOLLOW;
        self.op(n::__NR_open_tree, "open_tree(OPEN_TREE_CLONE)", [dir.into(), name.into(), flags.into()])
            .path(path)
            .needs(Feature::MountApi)
    }

    /// A copy of the mount at a descriptor, from there on down.
    pub fn clone_mount(&mut self, fd: Cell, recursive: bool, path: &Path) -> Cell {
        let flags = n::OPEN_TREE_CLONE
            | n::OPEN_TREE_CLOEXEC
            | n::AT_EMPTY_PATH
            | if recursive { n::AT_RECURSIVE } else { 0 };
        let empty = self.empty;
        self.op(n::__NR_open_tree, "open_tree(OPEN_TREE_CLONE)", [fd.into(), empty.into(), flags.into()])
            .path(path)
            .needs(Feature::MountApi)
            .result()
    }

    /// Sets attributes of a mount, and its id map where a user namespace is given.
    pub fn set_attributes(
        &mut self,
        mount: Cell,
        set: u32,
        userns: Option<Cell>,
        recursive: bool,
        path: &Path,
    ) -> Added<'_, 'fd> {
        self.change_attributes(mount, (set, 0), userns, recursive, path)
    }

    /// The same, with some that are taken away.
    pub fn change_attributes(
        &mut self,
        mount: Cell,
        (set, clear): (u32, u32),
        userns: Option<Cell>,
        recursive: bool,
        path: &Path,
    ) -> Added<'_, 'fd> {
        let id_map = if userns.is_some() { n::MOUNT_ATTR_IDMAP } else { 0 };
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let attributes = self.words64(&[u64::from(set | id_map), clear.into(), 0, 0]);
        if let Some(userns) = userns {
            self.copy_fd(userns, Cell(attributes.0 + 24));
        }
        let flags = n::AT_EMPTY_PATH | if recursive { n::AT_RECURSIVE } else { 0 };
        let empty = self.empty;
        let op = self
            .plan
            .op(
                n::__NR_mount_setattr,
                "mount_setattr",
                [mount.into(), empty.into(), flags.into(), attributes.into(), n::MOUNT_ATTR_SIZE_VER0.into()],
            )
            .path(path);
        match userns {
            Some(_) => op
                .call("mount_setattr(MOUNT_ATTR_IDMAP)")
                .kind(ErrorKind::Unsupported)
                .needs(Feature::IdMappedMounts),
            None => op.needs(Feature::MountSetattr),
        }
    }

    /// A message of the plan's own to its starter.
    pub fn tell(&mut self, message: &[u64; 2]) {
        let message = self.words64(message);
        let status = self.status();
        self.op(n::__NR_write, "write(status)", [status.into(), message.into(), 16.into()]);
    }

    /// Makes sure that a place to mount on exists, and gives its descriptor.
    /// What is missing is made, owned by `owner`; a link as the last component of a file is replaced.
    pub fn mountpoint(&mut self, root: Cell, path: &Path, is_dir: bool, owner: (u32, u32)) -> Cell {
        let names: Vec<&OsStr> = path
            .components()
            .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
            .collect();
        let relative: std::path::PathBuf = names.iter().collect();
        let found = self.cell(-1);
        let missing = self.label();
        let done = self.label();
        self.open_into(found, root, &relative, Links::Follow, Some(missing));
        self.jump(done);
        self.place(missing);
        let mut parent = root;
        let mut so_far = std::path::PathBuf::new();
        for (i, name) in names.iter().enumerate() {
            so_far.push(name);
            let exists = self.label();
            let at = self.string(name);
            let shown = Path::new("/").join(&so_far);
            if is_dir || i + 1 < names.len() {
                self.op(n::__NR_mkdirat, "mkdirat", [parent.into(), at.into(), 0o755.into()])
                    .path(&shown)
                    .tolerate(&[EEXIST])
                    .otherwise(exists);
            } else {
                self.replace_link(parent, at);
                // Not for writing: an open file that can be written keeps its mount from becoming read-only.
                let flags = n::O_CREAT | n::O_EXCL | n::O_CLOEXEC;
                self.op(
                    n::__NR_openat,
                    "openat(O_CREAT)",
                    [parent.into(), at.into(), flags.into(), 0o644.into()],
                )
                .path(&shown)
                .tolerate(&[EEXIST])
                .otherwise(exists);
            }
            self.chown(parent, at, owner, &shown);
            self.place(exists);
            if i + 1 < names.len() {
                parent = self.open_in(root, &so_far, Links::Follow, None);
            } else {
                self.open_into(found, root, &so_far, Links::Follow, None);
            }
        }
        self.place(done);
        found
    }

    /// What is made in here is made by this owner, with the rights of whoever executes the plan: in an id-mapped mount only
    /// who is mapped makes something (setfsuid(2), capabilities(7)).
    pub fn as_owner<T>(&mut self, owner: (u32, u32), make: impl FnOnce(&mut Self) -> T) -> T {
        let header = self.words64(&[u64::from(n::_LINUX_CAPABILITY_VERSION_3)]);
        // Two of struct __user_cap_data: effective, permitted, inheritable.
        let rights = self.space(24);
        self.op(n::__NR_capget, "capget", [header.into(), rights.into()]);
        self.op(n::__NR_setfsgid, "setfsgid", [owner.1.into()]);
        self.op(n::__NR_setfsuid, "setfsuid", [owner.0.into()]);
        // Those over files went with the id of root.
        self.op(n::__NR_capset, "capset", [header.into(), rights.into()]);
        let made = make(self);
        self.op(n::__NR_setfsuid, "setfsuid", [0.into()]);
        self.op(n::__NR_setfsgid, "setfsgid", [0.into()]);
        made
    }

    /// A dangling link where a file has to be: it goes.
    fn replace_link(&mut self, parent: Cell, name: At) {
        let buffer = self.space(8);
        let keep = self.label();
        self.op(n::__NR_readlinkat, "readlinkat", [parent.into(), name.into(), buffer.into(), 8.into()])
            .tolerate(&[ENOENT, EINVAL])
            .otherwise(keep);
        self.op(n::__NR_unlinkat, "unlinkat", [parent.into(), name.into(), 0.into()]);
        self.place(keep);
    }

    pub fn chown(&mut self, dir: Cell, name: At, owner: (u32, u32), path: &Path) {
        self.op(
            n::__NR_fchownat,
            "fchownat",
            [dir.into(), name.into(), owner.0.into(), owner.1.into(), n::AT_SYMLINK_NOFOLLOW.into()],
        )
        .path(path);
    }

    pub fn write(&mut self, fd: Cell, bytes: &[u8], path: &Path) -> Added<'_, 'fd> {
        let at = self.bytes(bytes);
        self.op(n::__NR_write, "write", [fd.into(), at.into(), bytes.len().into()]).full().path(path)
    }

    pub fn dumpable(&mut self, dumpable: bool) {
        let value = u32::from(dumpable);
        self.op(
            n::__NR_prctl,
            "prctl(PR_SET_DUMPABLE)",
            [prctl::PR_SET_DUMPABLE.into(), value.into(), 0.into(), 0.into(), 0.into()],
        );
    }

    /// Clones this process: clone3(2) or, where that does not exist or a filter refuses it, which can't look into its
    /// arguments, clone(2).
    pub fn clone_process(&mut self, new: &NewProcess<'_>) {
        let pidfd = new.pidfd.map_or(0, |cell| cell.0);
        let flags = new.flags | if new.pidfd.is_some() { u64::from(n::CLONE_PIDFD) } else { 0 };
        let into = if new.cgroup.is_some() { n::CLONE_INTO_CGROUP } else { 0 };
        let signal = u64::from(new.exit_signal);
        // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        // set_tid_size, cgroup.
        let args = self.words64(&[flags | into, pidfd, 0, 0, signal, 0, 0, 0, 0, 0, 0]);
        if let Some(cgroup) = new.cgroup {
            self.copy_fd(cgroup, Cell(args.0 + 80));
        }
        let (older, done) = (self.label(), self.label());
        // Kernels from 6.1 to 7.2 were seen to refuse it once in a thousand times, and to do it a moment later: on a
        // slow machine a little more than that.
        let tries = if new.cgroup.is_some() { 4 } else { 1 };
        for left in (0..tries).rev() {
            let again = self.label();
            let op = self.plan.op(n::__NR_clone3, "clone3", [args.into(), 88.into()]);
            let op = new.lacking.said_of(op.detail(new.detail)).store(new.pid);
            if left > 0 {
                op.tolerate(&[EACCES]).otherwise(again);
                self.jump(done);
            } else if new.cgroup.is_none() {
                op.tolerate(&[EPERM, ENOSYS]).otherwise(older);
            }
            self.place(again);
            if left > 0 {
                // 1, 4 and 16 ms.
                let moment = self.words64(&[0, 1_000_000 << (2 * (tries - 1 - left))]);
                self.op(n::__NR_nanosleep, "nanosleep", [moment.into(), 0.into()]);
            }
        }
        if new.cgroup.is_some() {
            return self.place(done);
        }
        self.jump(done);
        self.place(older);
        // The descriptor goes where a thread's number would; without a stack it is a copy of this one.
        let args = [(flags | signal).into(), 0.into(), pidfd.into(), 0.into(), 0.into()];
        let op = self.op(n::__NR_clone, "clone", args).detail(new.detail);
        new.lacking.said_of(op).store(new.pid);
        self.place(done);
    }

    /// Puts a descriptor's number into a structure, by way of another descriptor for the same.
    pub fn copy_fd(&mut self, from: Cell, to: Cell) {
        let args = [from.into(), n::F_DUPFD_CLOEXEC.into(), 3.into()];
        self.op(n::__NR_fcntl, "fcntl(F_DUPFD_CLOEXEC)", args).store(to);
    }

    /// Lets the keeper (`warden/keeper.rs`) hold `held` until the process of `pidfd` has ended. Where it can't, nobody does.
    pub fn keep(&mut self, pidfd: Cell, held: Cell) {
        let (letter, second) = self.letter_of_two(0);
        let not = self.label();
        for (from, to) in [(pidfd, letter.fd), (held, second)] {
            let args = [from.into(), n::F_DUPFD_CLOEXEC.into(), 3.into()];
            let op = self.op(n::__NR_fcntl, "fcntl(F_DUPFD_CLOEXEC)", args);
            op.tolerate_all().otherwise(not).store(to);
        }
        let keeper = self.cell(KEEPER);
        self.send_at_once(keeper, letter).tolerate_all();
        self.place(not);
    }

    /// Waits until the keeper holds nothing of processes that have ended. Without a keeper nothing is held.
    pub fn kept_are_gone(&mut self) {
        let both = self.space(8);
        self.op(n::__NR_pipe2, "pipe2", [both.into(), n::O_CLOEXEC.into()]);
        let (read, write) = (Cell(both.0), Cell(both.0 + 4));
        let letter = self.letter(0);
        self.copy_fd(write, letter.fd);
        let keeper = self.cell(KEEPER);
        self.send(keeper, letter).tolerate_all();
        for fd in [write, letter.fd] {
            self.op(n::__NR_close, "close", [fd.into()]);
        }
        self.op(n::__NR_read, "read(sync)", [read.into(), both.into(), 1.into()]);
    }

    /// Enters a mount namespace of its own, a copy of the one that it is in.
    pub fn unshare_mounts(&mut self) {
        self.op(n::__NR_unshare, "unshare(CLONE_NEWNS)", [n::CLONE_NEWNS.into()])
            .needs(Feature::MountNamespace);
    }

    /// In a new mount namespace: nothing comes in or goes out any more.
    pub fn private_mounts(&mut self) {
        let slash = self.c_str(c"/");
        let private = n::MS_REC | n::MS_PRIVATE;
        let args = [0.into(), slash.into(), 0.into(), private.into(), 0.into()];
        self.op(n::__NR_mount, "mount(MS_PRIVATE)", args);
    }

    /// Writes the maps of the process in `pid`, from one that has the rights to. `proc` is where /proc is, unless it
    /// is at its place.
    pub fn write_maps(&mut self, proc: Option<Cell>, pid: Cell, map: &IdMap) {
        self.during("writing the maps of the user namespace");
        let mut put = |suffix: &CStr, text: &str| {
            let shown = format!("/proc/PID{}", suffix.to_string_lossy());
            let path = self.decimal(if proc.is_some() { "" } else { "/proc/" }, pid, suffix);
            let open = [
                proc.map_or(CWD.into(), Into::into),
                path.into(),
                (n::O_WRONLY | n::O_CLOEXEC).into(),
                0.into(),
            ];
            let fd = self.op(n::__NR_openat, "openat", open).path(&shown).result();
            self.write(fd, text.as_bytes(), Path::new(&shown));
            self.op(n::__NR_close, "close", [fd.into()]);
        };
        if map.is_single() {
            put(c"/setgroups", "deny");
        }
        put(c"/uid_map", &IdMap::text(&map.users));
        put(c"/gid_map", &IdMap::text(&map.groups));
    }

    /// Brings up the loopback interface of the process's network.
    pub fn loopback(&mut self) {
        const AF_INET: u32 = 2;
        const SOCK_DGRAM_CLOEXEC: u32 = 2 | 0o2000000;
        const IFF_UP_RUNNING: u64 = 1 | 1 << 6;
        self.during("bringing up the loopback interface");
        let socket =
            self.op(n::__NR_socket, "socket", [AF_INET.into(), SOCK_DGRAM_CLOEXEC.into(), 0.into()]).result();
        // struct ifreq: name (16 bytes), then flags.
        let request = self.words64(&[u64::from_le_bytes(*b"lo\0\0\0\0\0\0"), 0, IFF_UP_RUNNING, 0, 0]);
        self.op(
            n::__NR_ioctl,
            "ioctl(SIOCSIFFLAGS, lo)",
            [socket.into(), ioctl::SIOCSIFFLAGS.into(), request.into()],
        );
    }

    /// The warden's own code stays as the parent, passes signals on and reaps; a child goes on.
    pub fn init(&mut self) {
        self.during("starting the init process");
        let name = self.c_str(c"coracle-init");
        self.op(
            n::__NR_prctl,
            "prctl(PR_SET_NAME)",
            [prctl::PR_SET_NAME.into(), name.into(), 0.into(), 0.into(), 0.into()],
        );
        self.op(OP_INIT, "clone", []);
    }

    /// A session of its own, and a keyring of it. Where the quota for keys is used up that stays the warden's, which has
    /// no keys.
    pub fn session(&mut self) {
        const KEYCTL_JOIN_SESSION_KEYRING: u32 = 1;
        self.op(n::__NR_setsid, "setsid", []).tolerate(&[EPERM]);
        self.op(n::__NR_keyctl, "keyctl", [KEYCTL_JOIN_SESSION_KEYRING.into(), 0.into()]).tolerate_all();
    }

    /// Makes these the descriptors 0 to 2 and closes all others but the status socket. From here on paths are the image's
    /// and the caller's, and `/proc/self/fd/N` as working directory or program would lead through a descriptor of the
    /// set-up: a layer, a control group, the host's root.
    pub fn stdio(&mut self, stdio: [Cell; 3]) {
        self.during("setting up stdio");
        for (i, fd) in stdio.into_iter().enumerate() {
            self.op(n::__NR_dup3, "dup3", [fd.into(), i.into(), 0.into()]);
        }
        let status = self.status();
        self.op(n::__NR_dup3, "dup3", [status.into(), 3.into(), n::O_CLOEXEC.into()])
            .tolerate(&[EINVAL])
            .store(status);
        self.op(OP_CLOSE_FROM, "close_range", [4.into()]);
    }

    /// Says `ready` and executes `words`; a word without a slash is looked for in `path`, as execvp(3) does it.
    /// `missing` is the error's step when it is nowhere there.
    pub fn execute(
        &mut self,
        words: &[OsString],
        env: &[OsString],
        path: &OsStr,
        ready: &[u64; 2],
        missing: &'static str,
    ) {
        self.during("executing the command");
        self.tell(ready);
        let argv = self.vector(words);
        let envp = self.vector(env);
        let word = words.first().map(OsString::as_os_str).unwrap_or_default();
        if word.as_bytes().contains(&b'/') {
            let at = self.string(word);
            self.op(n::__NR_execve, "execve", [at.into(), argv.into(), envp.into()])
                .path(word)
                .kind(ErrorKind::Exec)
                .remedy(EXECUTABLE);
            return;
        }
        for dir in std::env::split_paths(path) {
            let candidate =
                if dir.as_os_str().is_empty() { Path::new(".").join(word) } else { dir.join(word) };
            let at = self.string(&candidate);
            self.op(n::__NR_execve, "execve", [at.into(), argv.into(), envp.into()])
                .path(&candidate)
                .kind(ErrorKind::Exec)
                .remedy(EXECUTABLE)
                .tolerate(&[ENOENT, EACCES, ENOTDIR]);
        }
        // What is there but may not be executed matters more than what is not there.
        const F_OK: u32 = 0;
        for dir in std::env::split_paths(path) {
            let candidate = dir.join(word);
            let at = self.string(&candidate);
            let absent = self.label();
            self.op(n::__NR_faccessat, "faccessat", [CWD.into(), at.into(), F_OK.into()])
                .tolerate_all()
                .otherwise(absent);
            self.op(OP_FAIL, "execve", [EACCES.into()])
                .path(&candidate)
                .kind(ErrorKind::Exec)
                .remedy(EXECUTABLE);
            self.place(absent);
        }
        self.op(OP_FAIL, missing, [ENOENT.into()])
            .path(word)
            .kind(ErrorKind::Exec)
            .remedy("say where it is by its whole path, or set PATH in its environment");
    }
}
