//! What the machine needs: the entry, the system call, and the memory functions that compilers call.

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call warden_main",
    "ud2",
    // memcpy, memmove, memset, memcmp, bcmp: rep-prefixed, short and exact.
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    ".globl memmove",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rcx - 1]",
    "lea rsi, [rsi + rcx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".globl memcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "xor eax, eax",
    "mov rcx, rdx",
    "cmp rcx, rcx", // sets ZF, so that an empty range is equal
    "repe cmpsb",
    "je 3f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub eax, ecx",
    "3:",
    "ret",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "and sp, x0, #-16",
    "bl warden_main",
    "brk #1",
    ".globl memcpy",
    "memcpy:",
    "mov x3, x0",
    "2:",
    "cbz x2, 3f",
    "ldrb w4, [x1], #1",
    "strb w4, [x3], #1",
    "sub x2, x2, #1",
    "b 2b",
    "3:",
    "ret",
    ".globl memmove",
    "memmove:",
    "sub x3, x0, x1",
    "cmp x3, x2",
    "b.hs memcpy",
    "4:",
    "cbz x2, 5f",
    "sub x2, x2, #1",
    "ldrb w4, [x1, x2]",
    "strb w4, [x0, x2]",
    "b 4b",
    "5:",
    "ret",
    ".globl memset",
    "memset:",
    "mov x3, x0",
    "6:",
    "cbz x2, 7f",
    "strb w1, [x3], #1",
    "sub x2, x2, #1",
    "b 6b",
    "7:",
    "ret",
    ".globl memcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "8:",
    "cbz x2, 9f",
    "ldrb w3, [x0], #1",
    "ldrb w4, [x1], #1",
    "sub x2, x2, #1",
    "cmp w3, w4",
    "b.eq 8b",
    "sub w0, w3, w4",
    "ret",
    "9:",
    "mov w0, #0",
    "ret",
);

/// A system call with up to six arguments; the kernel's answer, negative errno included.
///
/// # Safety
/// As the call itself: the pointers must be what it expects.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall(nr: u32, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's convention; rcx and r11 are its to clobber; memory may change.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
             in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack))
    };
    result
}

/// See the other architecture's.
///
/// # Safety
/// As the call itself.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn syscall(nr: u32, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's convention; memory may change.
    unsafe {
        asm!("svc 0", in("x8") nr as usize, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2],
             in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack))
    };
    result
}

/// The numbers of the calls that the warden makes for itself (`arch/*/entry/syscalls`).
#[cfg(target_arch = "x86_64")]
pub mod nr {
    pub const CLOSE: u32 = 3;
    pub const MMAP: u32 = 9;
    pub const RT_SIGACTION: u32 = 13;
    pub const RT_SIGPROCMASK: u32 = 14;
    pub const ACCEPT4: u32 = 288;
    pub const SENDMSG: u32 = 46;
    pub const RECVMSG: u32 = 47;
    pub const CLONE: u32 = 56;
    pub const WAIT4: u32 = 61;
    pub const KILL: u32 = 62;
    pub const FCNTL: u32 = 72;
    pub const CHDIR: u32 = 80;
    pub const UMASK: u32 = 95;
    pub const SETSID: u32 = 112;
    pub const KEYCTL: u32 = 250;
    pub const SETRESUID: u32 = 117;
    pub const SETRESGID: u32 = 119;
    pub const RT_SIGTIMEDWAIT: u32 = 128;
    pub const PRCTL: u32 = 157;
    pub const MOUNT: u32 = 165;
    pub const SCHED_SETAFFINITY: u32 = 203;
    pub const EXIT_GROUP: u32 = 231;
    pub const WAITID: u32 = 247;
    pub const PPOLL: u32 = 271;
    pub const UNSHARE: u32 = 272;
    pub const SOCKETPAIR: u32 = 53;
    pub const EPOLL_CTL: u32 = 233;
    pub const EPOLL_PWAIT: u32 = 281;
    pub const EPOLL_CREATE1: u32 = 291;
    pub const PRLIMIT64: u32 = 302;
    pub const SIGNALFD4: u32 = 289;
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const DUP3: u32 = 292;
    pub const PIDFD_SEND_SIGNAL: u32 = 424;
    pub const CLONE3: u32 = 435;
    pub const CLOSE_RANGE: u32 = 436;
    pub const LSEEK: u32 = 8;
    pub const GETDENTS64: u32 = 217;
    pub const OPENAT: u32 = 257;
    pub const OPEN_TREE_ATTR: u32 = 467;
}

#[cfg(target_arch = "aarch64")]
pub mod nr {
    pub const CLOSE: u32 = 57;
    pub const MMAP: u32 = 222;
    pub const RT_SIGACTION: u32 = 134;
    pub const RT_SIGPROCMASK: u32 = 135;
    pub const ACCEPT4: u32 = 242;
    pub const SENDMSG: u32 = 211;
    pub const RECVMSG: u32 = 212;
    pub const CLONE: u32 = 220;
    pub const WAIT4: u32 = 260;
    pub const KILL: u32 = 129;
    pub const FCNTL: u32 = 25;
    pub const CHDIR: u32 = 49;
    pub const UMASK: u32 = 166;
    pub const SETSID: u32 = 157;
    pub const KEYCTL: u32 = 219;
    pub const SETRESUID: u32 = 147;
    pub const SETRESGID: u32 = 149;
    pub const RT_SIGTIMEDWAIT: u32 = 137;
    pub const PRCTL: u32 = 167;
    pub const MOUNT: u32 = 40;
    pub const SCHED_SETAFFINITY: u32 = 122;
    pub const EXIT_GROUP: u32 = 94;
    pub const WAITID: u32 = 95;
    pub const PPOLL: u32 = 73;
    pub const UNSHARE: u32 = 97;
    pub const SOCKETPAIR: u32 = 199;
    pub const EPOLL_CTL: u32 = 21;
    pub const EPOLL_PWAIT: u32 = 22;
    pub const EPOLL_CREATE1: u32 = 20;
    pub const PRLIMIT64: u32 = 261;
    pub const SIGNALFD4: u32 = 74;
    pub const READ: u32 = 63;
    pub const WRITE: u32 = 64;
    pub const DUP3: u32 = 24;
    pub const PIDFD_SEND_SIGNAL: u32 = 424;
    pub const CLONE3: u32 = 435;
    pub const CLOSE_RANGE: u32 = 436;
    pub const LSEEK: u32 = 62;
    pub const GETDENTS64: u32 = 61;
    pub const OPENAT: u32 = 56;
    pub const OPEN_TREE_ATTR: u32 = 467;
}
