//! Messages with descriptors, for the warden's fixed buffers.

use crate::arch::{nr, syscall};
use crate::plan::FDS_MAX;

pub const EINTR: isize = -4;
pub const EAGAIN: isize = -11;

/// A system call whose pointers (if any) the caller vouches for by the reference it made them from.
macro_rules! sys {
    ($nr:expr $(, $arg:expr)*) => {{
        let mut args = [0usize; 6];
        let mut _i = 0;
        $( args[_i] = $arg as usize; _i += 1; )*
        // SAFETY: every pointer passed in this program comes from a live reference or from a plan's memory.
        unsafe { $crate::arch::syscall($nr, args) }
    }};
}
pub(crate) use sys;

pub fn exit(code: i32) -> ! {
    loop {
        sys!(nr::EXIT_GROUP, code);
    }
}

#[repr(C)]
struct IoVec {
    base: usize,
    len: usize,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_len: u32,
    iov: *mut IoVec,
    iov_len: usize,
    control: *mut u8,
    control_len: usize,
    flags: i32,
}

const CMSG_HEADER: usize = 16;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const MSG_CTRUNC: i32 = 8;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;

/// Ancillary data: one header and the descriptors.
#[repr(C, align(8))]
pub struct Control {
    len: usize,
    level: i32,
    kind: i32,
    pub fds: [i32; FDS_MAX + 1],
}

impl Control {
    pub const fn new() -> Self {
        Self { len: 0, level: 0, kind: 0, fds: [-1; FDS_MAX + 1] }
    }
}

pub struct Received {
    pub len: isize,
    pub fds: usize,
    /// Descriptors were lost for lack of room in this process's table.
    pub truncated: bool,
}

/// Receives one message into `len` bytes at `base`.
pub fn receive(socket: i32, base: usize, len: usize, control: &mut Control, wait: bool) -> Received {
    control.len = 0;
    let mut iov = IoVec { base, len };
    let mut header = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &mut iov,
        iov_len: 1,
        control: (control as *mut Control).cast(),
        control_len: CMSG_HEADER + FDS_MAX * 4,
        flags: 0,
    };
    let flags = MSG_CMSG_CLOEXEC | if wait { 0 } else { MSG_DONTWAIT };
    let len = loop {
        let len = sys!(nr::RECVMSG, socket, &mut header as *mut MsgHdr, flags);
        if len != EINTR {
            break len;
        }
    };
    let has = len >= 0 && header.control_len >= CMSG_HEADER && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    let fds = if has { (control.len.saturating_sub(CMSG_HEADER) / 4).min(FDS_MAX) } else { 0 };
    Received { len, fds, truncated: header.flags & MSG_CTRUNC != 0 }
}

/// Sends `len` bytes at `base`, with at most one descriptor; never waits for room unless told to.
pub fn send(socket: i32, base: usize, len: usize, fd: Option<i32>, wait: bool) -> isize {
    let mut control = Control::new();
    control.len = CMSG_HEADER + 4;
    control.level = SOL_SOCKET;
    control.kind = SCM_RIGHTS;
    control.fds[0] = fd.unwrap_or(-1);
    let mut iov = IoVec { base, len };
    let header = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &mut iov,
        iov_len: 1,
        control: (&mut control as *mut Control).cast(),
        control_len: if fd.is_some() { CMSG_HEADER + 8 } else { 0 },
        flags: 0,
    };
    let flags = MSG_NOSIGNAL | if wait { 0 } else { MSG_DONTWAIT };
    loop {
        let sent = sys!(nr::SENDMSG, socket, &header as *const MsgHdr, flags);
        if sent != EINTR {
            return sent;
        }
    }
}

/// Whether a call does not exist here, or some filter says so, or refuses it whatever it is asked.
pub fn is_missing(result: isize) -> bool {
    const EPERM: isize = -1;
    const ENOSYS: isize = -38;
    result == ENOSYS || result == EPERM
}

pub fn close(fd: i32) {
    sys!(nr::CLOSE, fd);
}

/// A child with a copy of this memory: 0 in the child.
pub fn fork() -> isize {
    const SIGCHLD: usize = 17;
    // x86_64 and aarch64 differ in the order of the last two arguments, which are all 0.
    // SAFETY: no memory is shared and the stack is the same, as with fork(2).
    unsafe { syscall(nr::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) }
}

/// The signals that this thread does not take now.
pub fn set_mask(mask: u64) {
    const SIG_SETMASK: usize = 2;
    sys!(nr::RT_SIGPROCMASK, SIG_SETMASK, &mask as *const u64, 0, 8);
}

/// Closes all descriptors but the first three, which may have any number: without close_range(2), those that /proc lists.
pub fn close_others() -> isize {
    const FIRST: usize = 3;
    const AT_FDCWD: isize = -100;
    const O_DIRECTORY_CLOEXEC: usize = O_DIRECTORY | 0o2000000;
    let closed = sys!(nr::CLOSE_RANGE, FIRST, u32::MAX, 0);
    if !is_missing(closed) {
        return closed;
    }
    let dir = sys!(nr::OPENAT, AT_FDCWD, c"/proc/self/fd".as_ptr(), O_DIRECTORY_CLOEXEC, 0);
    if dir < 0 {
        return dir;
    }
    // A list that changes while it is read may leave something out: until there is nothing more to close.
    loop {
        let mut some = false;
        sys!(nr::LSEEK, dir, 0, 0);
        loop {
            let mut buffer = [0u64; 512];
            let len = sys!(nr::GETDENTS64, dir, buffer.as_mut_ptr(), size_of_val(&buffer));
            if len < 0 {
                return len;
            }
            if len == 0 {
                break;
            }
            let mut at = 0;
            while at < len as usize {
                // SAFETY: struct linux_dirent64, as the kernel has written it: its length at 16, its name from 19 on.
                let (size, name) = unsafe {
                    let entry = (buffer.as_ptr() as *const u8).add(at);
                    (entry.add(16).cast::<u16>().read_unaligned(), entry.add(19))
                };
                at += size as usize;
                let fd = number(name);
                if fd.is_some_and(|fd| fd >= FIRST && fd != dir as usize) {
                    close(fd.unwrap_or_default() as i32);
                    some = true;
                }
            }
        }
        if !some {
            close(dir as i32);
            return 0;
        }
    }
}

/// The number that a C string is; `.` and `..` are none.
fn number(mut text: *const u8) -> Option<usize> {
    let mut value = 0;
    loop {
        // SAFETY: up to its NUL, which is no digit and ends this.
        let byte = unsafe { text.read() };
        match byte {
            0 => return Some(value),
            b'0'..=b'9' => value = value * 10 + usize::from(byte - b'0'),
            _ => return None,
        }
        // SAFETY: what was read was not the NUL.
        text = unsafe { text.add(1) };
    }
}

#[cfg(target_arch = "x86_64")]
const O_DIRECTORY: usize = 0o200000;
#[cfg(target_arch = "aarch64")]
const O_DIRECTORY: usize = 0o40000;
