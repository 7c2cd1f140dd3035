//! Reading the image's own /etc/passwd and /etc/group from outside of the container, where their links lead in it.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Below, Lower, for_caller, opaque_name};
use crate::store::UnpackedLayer;
use crate::sys::idmap::is_privileged;
use crate::sys::open::openat2;
use linux_raw_sys::general::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC,
};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::cell::LazyCell;
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// More of either file is not read.
const SIZE_MAX: u64 = 4 << 20;

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What a file of a root that is mounted has; nothing where no file is there. Who is in there may have made it anything: it is
/// not opened before it is known to be a plain file, and none of the kernel's, which may do something when they are read.
pub(super) fn in_mounted(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    const OF_THE_KERNEL: [u32; 6] = [
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
    ];
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(Error::os("openat2(RESOLVE_IN_ROOT)", errno).with_path(path)),
    };
    let stat = rustix::fs::fstat(&found).call_at("fstat", path)?;
    let kind = rustix::fs::fstatfs(&found).call_at("fstatfs", path)?.f_type as u32;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || OF_THE_KERNEL.contains(&kind) {
        return Ok(String::new());
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    text(rustix::fs::open(again, FLAGS, Mode::empty()).call_at("open", path)?.into(), path)
}

/// The same of one that is not mounted: a writable layer, where there is one, over the image's.
pub(super) fn in_layers(upper: Option<&OwnedFd>, layers: &[UnpackedLayer], path: &str) -> Result<String> {
    // Nearly always it is a plain file of one of the layers, which this finds without asking for their metadata.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opaque = LazyCell::new(|| opaque_name(!is_privileged()));
    let dirs = upper.into_iter().map(AsFd::as_fd).chain(layers.iter().map(UnpackedLayer::dir));
    for dir in dirs {
        match openat2(dir, path, FLAGS, Mode::empty(), resolve) {
            Ok(file) => {
                let is_file =
                    FileType::from_raw_mode(rustix::fs::fstat(&file).call_at("fstat", path)?.st_mode)
                        == FileType::RegularFile;
                return if is_file { text(file.into(), path) } else { Ok(String::new()) };
            }
            Err(Errno::NOENT) if !may_hide(dir, path, || *opaque) => {}
            Err(_) => return merged(upper, layers, path),
        }
    }
    Ok(String::new())
}

/// Whether a layer without the file hides those below.
fn may_hide(dir: BorrowedFd<'_>, path: &str, opaque: impl Fn() -> &'static CStr) -> bool {
    let parent = path.rsplit_once('/').map_or(".", |(parent, _)| parent);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
    match openat2(dir, parent, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        Ok(parent) => !matches!(
            rustix::fs::fgetxattr(parent, opaque(), &mut [0; 4][..]),
            Err(Errno::NODATA | Errno::OPNOTSUPP)
        ),
        Err(errno) => errno != Errno::NOENT,
    }
}

fn merged(upper: Option<&OwnedFd>, layers: &[UnpackedLayer], path: &str) -> Result<String> {
    let owners = for_caller();
    let upper = upper.into_iter().map(|dir| Lower::new(dir.as_fd(), || Ok(Default::default())));
    let layers = layers.iter().map(|layer| Lower::new(layer.dir(), || layer.meta()));
    let mut below = Below::new(upper.chain(layers).collect(), !is_privileged(), Some(&*owners));
    match below.resolve(path.as_bytes())? {
        Some((at, Some(found))) if found.is(FileType::RegularFile) => {
            text(below.open_file(&at, &found)?, path)
        }
        _ => Ok(String::new()),
    }
}

/// What a regular file has.
fn text(file: File, path: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let read = file.take(SIZE_MAX + 1).read_to_end(&mut bytes).call_at("read", path)?;
    if read as u64 > SIZE_MAX {
        return Err(Error::new(ErrorKind::TooLarge, format!("more than {SIZE_MAX} bytes"))
            .with_path(path)
            .with_remedy(
                "the image's list of users or groups is larger than any that is read: make it shorter",
            ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
