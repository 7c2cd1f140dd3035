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
