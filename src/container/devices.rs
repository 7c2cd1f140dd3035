//! Devices of the host for a container, and what it may do with them.
//!
//! With all rights it is the host's node, bound. A mount that is read-only keeps nobody from writing to a device, and
//! the node's mode is the host's: for less, stage A makes a node of its own that nobody in the container owns.
#![forbid(unsafe_code)]

use crate::cgroup::DeviceRule;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::plan::Cell;
use crate::sys::script::{Links, Script};
use linux_raw_sys::errno::EEXIST;
use linux_raw_sys::general as n;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What every container has.
pub(super) const OWN: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// A device of the host, for [`ContainerBuilder::device`](super::ContainerBuilder::device).
///
/// Owner and mode are the host's: a container's ids are others than the host's, so that for most devices only what
/// everybody may do remains. A path alone converts to it.
///
/// ```
/// use coracle::Device;
/// let keys = Device::new("/dev/hwrng").at("/dev/random-source").read_only();
/// # let _ = keys;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Device {
    source: PathBuf,
    target: PathBuf,
    read: bool,
    write: bool,
}

impl Device {
    /// A device at the same path as on the host.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { source: path.clone(), target: path, read: true, write: true }
    }

    /// Where it shall be in the container, below /dev.
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.target = path.into();
        self
    }

    /// It can be opened for reading only. Needs CAP_MKNOD on the host, as an ordinary user never has it: an error of
    /// kind `Unsupported` then.
    pub fn read_only(mut self) -> Self {
        self.write = false;
        self
    }

    /// It can be opened for writing only; as [`read_only`](Self::read_only).
    pub fn write_only(mut self) -> Self {
        self.read = false;
        self
    }
}

impl<P: Into<PathBuf>> From<P> for Device {
    fn from(path: P) -> Self {
        Self::new(path)
    }
}

impl Device {
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn source_mut(&mut self) -> &mut PathBuf {
        &mut self.source
    }
}

/// A device as the plan needs it.
pub(super) struct Planned {
    /// Below /dev.
    pub name: PathBuf,
    source: PathBuf,
    /// Mode and number of the node to make, where the host's own would allow too much.
    node: Option<(u32, u32)>,
    /// What a control group has to allow for it.
    rule: DeviceRule,
}

/// What a control group for devices has to allow: the container's own devices, and those given to it. Nodes are made by
/// nobody in it.
pub(super) fn rules(devices: &[Planned]) -> Vec<DeviceRule> {
    let open = |rule: DeviceRule| rule.access(true, true, false);
    // null, zero, full, random, urandom; tty and ptmx; terminals (the kernel's admin-guide/devices).
    let own = [3, 5, 7, 8, 9].map(|minor| DeviceRule::char(1, minor));
    let terminals = [0, 2].map(|minor| DeviceRule::char(5, minor)).into_iter();
    let slaves = (136..=143).map(|major| DeviceRule::char(major, None));
    let given = devices.iter().map(|device| device.rule.clone());
    own.into_iter().chain(terminals).chain(slaves).map(open).chain(given).collect()
}

/// Looks at the devices.
pub(super) fn plan(devices: &[Device]) -> Result<Vec<Planned>> {
    let one = |device: &Device| {
        let source = device.source.canonicalize().call_at("realpath", &device.source)?;
        let found = source.metadata().call_at("stat", &source)?;
        if !found.file_type().is_char_device() && !found.file_type().is_block_device() {
            return Err(Error::new(ErrorKind::InvalidInput, "not a device").with_path(&device.source));
        }
        if !device.read && !device.write {
            return Err(
                Error::new(ErrorKind::InvalidInput, "a device without any right").with_path(&device.source)
            );
        }
        let rights = if device.read { 0o444 } else { 0 } | if device.write { 0o222 } else { 0 };
        // Nobody in the container is its owner or of its group.
        let mode = found.mode() & (n::S_IFMT | 0o007 & rights);
        let number = u32::try_from(found.rdev())
            .map_err(|_| Error::new(ErrorKind::Unsupported, "the device's number").with_path(&source))?;
        let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        let rule = match found.file_type().is_block_device() {
            true => DeviceRule::block(major, minor),
            false => DeviceRule::char(major, minor),
        };
        Ok(Planned {
            rule: rule.access(device.read, device.write, false),
            name: device.target.strip_prefix("/dev").unwrap_or(&device.target).to_owned(),
            source,
            node: (!device.read || !device.write).then_some((mode, number)),
        })
    };
    devices.iter().map(one).collect()
}

/// Makes the nodes that are needed, each as a mount that is attached nowhere yet. `dev` is where the container's own /dev
/// will lie.
pub(super) fn nodes(s: &mut Script<'_>, dev: Cell, devices: &[Planned]) -> Vec<Cell> {
    if devices.iter().all(|device| device.node.is_none()) {
        return Vec::new();
    }
    s.during("making device nodes with fewer rights");
    let tmpfs = s.tmpfs(64 << 10, 64, 0o700, None, n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_NOEXEC);
    // A mount can be copied only where it is attached.
    s.attach(tmpfs, dev, Path::new("/dev"));
    let one = |(i, device): (usize, &Planned)| {
        let (mode, number) = device.node?;
        let name = PathBuf::from(i.to_string());
        let at = s.string(&name);
        s.op(n::__NR_mknodat, "mknodat", [tmpfs.into(), at.into(), (mode & n::S_IFMT).into(), number.into()])
            .path(&device.source)
            .kind(ErrorKind::Unsupported)
            .remedy(
                "fewer rights than the host's node gives need CAP_MKNOD: run as root, or give all rights",
            );
        s.op(n::__NR_fchmodat, "fchmodat", [tmpfs.into(), at.into(), (mode & 0o7777).into()])
            .path(&device.source);
        let node = s.open_in(tmpfs, &name, Links::Refuse, None);
        let copy = s.clone_mount(node, false, &device.source);
        s.set_attributes(copy, n::MOUNT_ATTR_RDONLY, None, false, &device.source);
        Some(copy)
    };
    devices.iter().enumerate().filter_map(one).collect()
}

/// Binds the devices below the container's /dev; `nodes` are those that were [made](nodes).
pub(super) fn bind(s: &mut Script<'_>, dev: Cell, devices: &[Planned], nodes: &[Cell], owner: (u32, u32)) {
    let mut nodes = nodes.iter();
    for device in devices {
        let copy = match device.node {
            None => s.copy_mount(&device.source),
            Some(_) => match nodes.next() {
                Some(node) => *node,
                // Never the host's own in its stead.
                None => continue,
            },
        };
        directories(s, dev, &device.name, owner);
        place(s, dev, &device.name, copy);
    }
}

/// A device that every container has.
pub(super) fn bind_own(s: &mut Script<'_>, dev: Cell, name: &str) {
    let copy = s.copy_mount(&Path::new("/dev").join(name));
    place(s, dev, Path::new(name), copy);
}

fn directories(s: &mut Script<'_>, dev: Cell, name: &Path, owner: (u32, u32)) {
    let mut dir = PathBuf::new();
    for part in name.parent().into_iter().flat_map(Path::components) {
        dir.push(part);
        let (at, shown, exists) = (s.string(&dir), Path::new("/dev").join(&dir), s.label());
        s.op(n::__NR_mkdirat, "mkdirat", [dev.into(), at.into(), 0o755.into()])
            .path(&shown)
            .tolerate(&[EEXIST])
            .otherwise(exists);
        s.chown(dev, at, owner, &shown);
        s.place(exists);
    }
}

/// `dev` is a filesystem that nobody has written to yet: there are no links in it.
fn place(s: &mut Script<'_>, dev: Cell, name: &Path, mount: Cell) {
    let shown = Path::new("/dev").join(name);
    let at = s.string(name);
    let mode = n::S_IFREG | 0o666;
    s.op(n::__NR_mknodat, "mknodat", [dev.into(), at.into(), mode.into(), 0.into()])
        .path(&shown)
        .tolerate(&[EEXIST]);
    s.attach_at(mount, dev, at, &shown);
}
