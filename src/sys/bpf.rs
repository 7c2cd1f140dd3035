//! Programs that a v2 control group runs when a device is opened or made (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`).

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// linux/bpf.h
const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_QUERY: u32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Beside those of the groups above and below: each of them has to allow it.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; what follows in it is zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    rest: u32,
}

/// bpf(2).
///
/// # Safety
/// `T` is how the kernel's `union bpf_attr` begins for `command`, and what it points to is what the kernel reads there.
unsafe fn bpf<T>(command: u32, attr: &mut T) -> Result<usize, Errno> {
    let (attr, size) = (std::ptr::from_mut(attr), size_of::<T>());
    // SAFETY: `attr` is exclusively ours and as large as is said; what it holds is the caller's promise.
    let result = unsafe { syscalls::syscall!(syscalls::Sysno::bpf, command, attr, size) };
    result.map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}

/// Checks and loads a program. It goes with its last descriptor and the last group that it is attached to.
pub(crate) fn load(instructions: &[u64]) -> Result<OwnedFd, Errno> {
    // It calls no function of the kernel, so none that asks for a certain one.
    let license = c"MIT";
    let mut load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `Load` is its beginning; `insns` are as many as `insn_cnt` says, each of eight bytes, and `license` a string.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut load) }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: a new descriptor (the kernel makes it close-on-exec) that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the group at `cgroup` ask this program from now on, too.
pub(crate) fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let fd = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF);
    let mut attach = Attach {
        target_fd: fd(cgroup)?,
        attach_bpf_fd: fd(program)?,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `Attach` is its beginning and has no pointers.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attach) }.map(drop)
}

/// How many such programs the group has itself.
pub(crate) fn attached(cgroup: BorrowedFd<'_>) -> Result<u32, Errno> {
    let target_fd = u32::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let mut query = Query { target_fd, attach_type: BPF_CGROUP_DEVICE, ..Query::default() };
    // SAFETY: `Query` is its beginning; with no room for ids (`prog_cnt` 0) the kernel only counts.
    unsafe { bpf(BPF_PROG_QUERY, &mut query) }?;
    Ok(query.prog_cnt)
}
