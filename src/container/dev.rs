//! The container's /dev.
//!
//! Stage A makes it, so that it is there while B still enters its network, and so that it is locked: bound devices (no node
//! of its own but for one with fewer rights than the host's), links, shared memory. B adds what belongs to its namespaces:
//! terminals and message queues.
#![forbid(unsafe_code)]

use super::devices;
use super::rootfs::Shift;
use super::script::{Links, Script};
use crate::sys::courier::Letter;
use crate::sys::plan::Cell;
use linux_raw_sys::{general as n, ioctl};
use std::path::Path;

/// The size of /dev/shm, as docker has it, in bytes.
const SHM_SIZE: u64 = 64 << 20;
/// Bytes and inodes for /dev itself.
pub(super) const SIZE: u64 = 64 << 10;
pub(super) const INODES: u64 = 64;
pub(super) const PLAIN: u32 = n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOEXEC;

/// Where an empty directory is mounted, read-only, before [`join`]: for B to copy.
pub(super) const EMPTY: &str = "/dev/mqueue";

pub(super) struct Dev<'a> {
    pub devices: &'a [devices::Planned],
    /// Of /dev/shm, where it is not the default, in bytes.
    pub shm_size: Option<u64>,
}

/// Stage A: everything but what belongs to a namespace. `at` is the directory, in a root that nobody has entered yet; what is
/// mounted on it is a directory of the tmpfs `fresh`.
pub(super) fn build(s: &mut Script<'_>, at: Cell, fresh: Cell, dev: &Dev<'_>, shift: Shift) {
    let nodes = devices::nodes(s, at, dev.devices);
    s.during("mounting /dev");
    let owner = shift.owner(0, 0);
    let (path, name) = (Path::new("/dev"), s.c_str(c"dev"));
    s.op(n::__NR_mkdirat, "mkdirat", [fresh.into(), name.into(), 0o755.into()]).path(path);
    s.chown(fresh, name, owner, path);
    let mount = s.copy_mount_at(fresh, name, path).result();
    s.attach(mount, at, path);
    for name in devices::OWN {
        devices::bind_own(s, mount, name);
    }
    devices::bind(s, mount, dev.devices, &nodes, owner);
    for (link, target) in [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
        (c"core", c"/proc/kcore"),
        (c"ptmx", c"pts/ptmx"),
    ] {
        let (target, link) = (s.c_str(target), s.c_str(link));
        s.op(n::__NR_symlinkat, "symlinkat", [target.into(), mount.into(), link.into()]).path("/dev");
        s.chown(mount, link, owner, Path::new("/dev"));
    }
    for name in ["pts", "mqueue", "shm"] {
        let (path, name) = (Path::new("/dev").join(name), s.string(name));
        s.op(n::__NR_mkdirat, "mkdirat", [mount.into(), name.into(), 0o755.into()]).path(&path);
        s.chown(mount, name, owner, &path);
    }
    // Until B mounts its queues over it.
    let (path, name) = (Path::new(EMPTY), s.c_str(c"empty"));
    s.op(n::__NR_mkdirat, "mkdirat", [fresh.into(), name.into(), 0o555.into()]).path(path);
    let empty = s.copy_mount_at(fresh, name, path).result();
    s.set_attributes(empty, n::MOUNT_ATTR_RDONLY, None, false, path);
    let name = s.c_str(c"mqueue");
    s.attach_at(empty, mount, name, path);
    let shm = s.tmpfs(dev.shm_size.unwrap_or(SHM_SIZE), 65536, 0o1777, Some(owner), PLAIN);
    let name = s.c_str(c"shm");
    s.attach_at(shm, mount, name, Path::new("/dev/shm"));
}

/// Stage B: terminals and queues. `tty_group`: the group of terminals exists in the user namespace. Gives the terminal that
/// `letter` is for, if it is there.
pub(super) fn join(s: &mut Script<'_>, root: Cell, tty_group: bool, letter: Option<Letter>) -> Option<Cell> {
    s.during("mounting /dev/pts and /dev/mqueue");
    let fs = s.fsopen(c"devpts");
    s.set_flag(fs, c"newinstance");
    s.set(fs, c"ptmxmode", "0666");
    s.set(fs, c"mode", "0620");
    if tty_group {
        s.set(fs, c"gid", "5");
    }
    let pts = s.fsmount(fs, "devpts", n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_NOEXEC);
    let at = s.c_str(c"dev/pts");
    s.attach_at(pts, root, at, Path::new("/dev/pts"));
    let fs = s.fsopen(c"mqueue");
    let mqueue = s.fsmount(fs, "mqueue", PLAIN);
    let at = s.c_str(c"dev/mqueue");
    s.attach_at(mqueue, root, at, Path::new("/dev/mqueue"));
    letter.map(|letter| open_terminal(s, pts, root, letter))
}

/// A PTY of the container's own devpts; its master goes to the host, its slave is /dev/console and stdio.
fn open_terminal(s: &mut Script<'_>, pts: Cell, root: Cell, letter: Letter) -> Cell {
    s.during("opening a terminal");
    let ptmx = s.c_str(c"ptmx");
    let flags = n::O_RDWR | n::O_NOCTTY | n::O_CLOEXEC;
    s.op(n::__NR_openat, "openat(ptmx)", [pts.into(), ptmx.into(), flags.into(), 0.into()]).store(letter.fd);
    let zero = s.words64(&[0]);
    s.op(n::__NR_ioctl, "ioctl(TIOCSPTLCK)", [letter.fd.into(), ioctl::TIOCSPTLCK.into(), zero.into()]);
    let slave = s
        .op(n::__NR_ioctl, "ioctl(TIOCGPTPEER)", [letter.fd.into(), ioctl::TIOCGPTPEER.into(), flags.into()])
        .result();
    let console = s.c_str(c"dev/console");
    let flags = n::O_CREAT | n::O_WRONLY | n::O_CLOEXEC | n::O_NOFOLLOW;
    s.op(n::__NR_openat, "openat(O_CREAT)", [root.into(), console.into(), flags.into(), 0o600.into()])
        .path("/dev/console");
    let copy = s.clone_mount(slave, false, Path::new("/dev/console"));
    let target = s.open_in(root, Path::new("dev/console"), Links::Refuse, None);
    s.attach(copy, target, Path::new("/dev/console"));
    s.post(letter);
    slave
}
