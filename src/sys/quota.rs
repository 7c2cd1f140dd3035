//! Project quotas: a bound on what lies below a directory, whoever writes it (quotactl(2); ext4(5), xfs(5): `prjquota`).

use linux_raw_sys::general::{FS_XFLAG_PROJINHERIT, fsxattr};
use linux_raw_sys::ioctl::{FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// linux/quota.h and linux/dqblk_xfs.h; the sub-command is in the low eight bits.
const PROJECT: u32 = 2;
const Q_GETQUOTA: u32 = 0x800007 << 8 | PROJECT;
const Q_SETQUOTA: u32 = 0x800008 << 8 | PROJECT;
const Q_XGETQSTAT: u32 = ((b'X' as u32) << 8 | 5) << 8 | PROJECT;
/// Limits of projects are not only counted against, but hold.
const PROJECTS_ENFORCED: u16 = 1 << 5;
/// The unit of limits, in bytes.
const BLOCK: u64 = 1024;

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Block {
    hard_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `struct fs_quota_stat`; only the flags are of interest.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 16],
}

/// What a project may have, and has. A bound of 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quota {
    pub bytes_max: u64,
    pub inodes_max: u64,
    pub bytes: u64,
    pub inodes: u64,
}

/// quotactl_fd(2), for the filesystem of `file`. `T` is what the command reads or writes at its address.
///
/// # Safety
/// `T` is at least as large as the kernel's structure for `command`, and any bytes are one.
unsafe fn quotactl<T>(file: BorrowedFd<'_>, command: u32, project: u32, data: &mut T) -> Result<(), Errno> {
    let data = std::ptr::from_mut(data);
    // SAFETY: the descriptor is open and `data` is exclusively ours; its size is the caller's promise.
    let result =
        unsafe { syscalls::syscall!(syscalls::Sysno::quotactl_fd, file.as_raw_fd(), command, project, data) };
    result.map(drop).map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}

/// Whether the filesystem of `file` holds projects to their limits. What it says where there are no quotas at all
/// (ENOSYS, EINVAL, ESRCH) is no error.
pub(crate) fn enforced(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut state = State::default();
    // SAFETY: `struct fs_quota_stat` has 80 bytes, all of them numbers.
    match unsafe { quotactl(file, Q_XGETQSTAT, 0, &mut state) } {
        Ok(()) => Ok(state.flags & PROJECTS_ENFORCED != 0),
        Err(Errno::NOSYS | Errno::INVAL | Errno::SRCH | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// What a project has. Needs CAP_SYS_ADMIN in the initial user namespace.
pub(crate) fn get(file: BorrowedFd<'_>, project: u32) -> Result<Quota, Errno> {
    let mut block = Block::default();
    // SAFETY: `Block` is `struct if_dqblk`, all of it numbers.
    match unsafe { quotactl(file, Q_GETQUOTA, project, &mut block) } {
        // XFS of a project that never was.
        Err(Errno::NOENT) => return Ok(Quota::default()),
        other => other?,
    }
    Ok(Quota {
        bytes_max: block.hard_blocks.saturating_mul(BLOCK),
        inodes_max: block.hard_inodes,
        bytes: block.bytes,
        inodes: block.inodes,
    })
}

/// Sets a project's bounds, the bytes rounded down to 1 KiB; 0 takes one away. Needs CAP_SYS_ADMIN as [`get`] does.
pub(crate) fn set(file: BorrowedFd<'_>, project: u32, bytes_max: u64, inodes_max: u64) -> Result<(), Errno> {
    const LIMITS: u32 = 1 | 4; // QIF_BLIMITS, QIF_ILIMITS
    // Less than a block is not the absence of a bound.
    let hard_blocks = (bytes_max / BLOCK).max(u64::from(bytes_max > 0));
    let mut block = Block { hard_blocks, hard_inodes: inodes_max, valid: LIMITS, ..Block::default() };
    // SAFETY: `Block` is `struct if_dqblk`, all of it numbers.
    unsafe { quotactl(file, Q_SETQUOTA, project, &mut block) }
}

fn attributes(file: BorrowedFd<'_>) -> Result<fsxattr, Errno> {
    use rustix::ioctl::{Getter, ioctl};
    // SAFETY: FS_IOC_FSGETXATTR fills a `struct fsxattr`, all of it numbers.
    unsafe { ioctl(file, Getter::<{ FS_IOC_FSGETXATTR as rustix::ioctl::Opcode }, fsxattr>::new()) }
}

/// The project that a file counts for; 0 is none.
pub(crate) fn project(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    attributes(file).map(|attributes| attributes.fsx_projid)
}

/// Lets a file count for a project, and what is made in it from now on if it is a directory.
pub(crate) fn set_project(file: BorrowedFd<'_>, project: u32, is_dir: bool) -> Result<(), Errno> {
    use rustix::ioctl::{Setter, ioctl};
    let mut attributes = attributes(file)?;
    attributes.fsx_projid = project;
    attributes.fsx_xflags |= if is_dir { FS_XFLAG_PROJINHERIT } else { 0 };
    // SAFETY: FS_IOC_FSSETXATTR reads a `struct fsxattr`.
    unsafe { ioctl(file, Setter::<{ FS_IOC_FSSETXATTR as rustix::ioctl::Opcode }, fsxattr>::new(attributes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_kernels_structures() {
        assert_eq!(size_of::<Block>(), 72);
        assert_eq!(std::mem::offset_of!(State, flags), 2);
        assert!(size_of::<State>() >= 80);
        assert_eq!((Q_SETQUOTA, Q_XGETQSTAT), (0x80000802, 0x580502));
    }

    #[test]
    fn a_filesystem_in_memory_has_none() {
        let file = std::fs::File::open("/proc/self").unwrap();
        assert_eq!(enforced(file.as_fd()), Ok(false));
        assert!(get(file.as_fd(), 7).is_err());
    }
}
