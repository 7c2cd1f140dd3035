//! The floor that starts are compared with: the least that gives the same container, by raw system calls.
//!
//! One process made straight from this program with clone3(CLONE_VM) in all namespaces, id-mapped lower layers, an
//! overlay, pivot_root, /proc, execve, wait. (It enters its user namespace last: inside of one it could not id-map the
//! layers.) It has no warden, no limits, no seccomp, no devices, no record in a store; and it shares its memory with the
//! host.
#![allow(dead_code)] // each benchmark uses its part

use crate::measure::Result;
use std::arch::asm;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BASE: u32 = 0x1000_0000;

/// What the child needs, laid out before the clone: it shares this memory.
pub struct Floor {
    lowers: Vec<CString>,
    argv: [CString; 2],
    upper: CString,
    work: CString,
    mount: CString,
    userns: Arc<OwnedFd>,
    _holder: Arc<Holder>,
}

/// A process that holds the user namespace for the id map of the layer.
struct Holder(std::process::Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[repr(C)]
struct Child {
    floor: *const Floor,
    ask: i32,
    ready: i32,
    failed: i32,
}

/// # Safety
/// What the pointers among the arguments point to outlives the call.
pub unsafe fn sys(nr: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller's pointers are valid for the call.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
             in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _)
    };
    result
}

macro_rules! call {
    ($nr:ident $(, $arg:expr)*) => {{
        let mut args = [0usize; 6];
        let mut _n = 0;
        $( args[_n] = $arg as usize; _n += 1; )*
        // SAFETY: all pointers come from values that outlive the call.
        unsafe { $crate::floor::sys(linux_raw_sys::general::$nr as usize, args) }
    }};
}

impl Floor {
    /// Over these layers, the uppermost first.
    pub fn new(dir: &Path, lowers: &[PathBuf]) -> Result<Self> {
        let mut child = Command::new("unshare");
        child.args(["--user", "sh", "-c", "echo; exec sleep 1000000"]).stdout(Stdio::piped());
        let mut holder = Holder(child.spawn()?);
        let mut line = [0];
        holder.0.stdout.take().ok_or("stdout")?.read_exact(&mut line)?;
        let pid = holder.0.id();
        for name in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{name}"), format!("0 {BASE} 65536"))?;
        }
        let userns = Arc::new(File::open(format!("/proc/{pid}/ns/user"))?.into());
        let lowers = lowers.iter().map(|path| CString::new(path.as_os_str().as_encoded_bytes()));
        let lowers = lowers.collect::<std::result::Result<_, _>>()?;
        Self::with(dir, lowers, userns, Arc::new(holder))
    }

    /// Another one over the same layers, in a directory of its own.
    pub fn another(&self, dir: &Path) -> Result<Self> {
        Self::with(dir, self.lowers.clone(), self.userns.clone(), self._holder.clone())
    }

    fn with(dir: &Path, lowers: Vec<CString>, userns: Arc<OwnedFd>, _holder: Arc<Holder>) -> Result<Self> {
        let own = dir.join("floor");
        for name in ["upper", "work", "mount"] {
            fs::create_dir_all(own.join(name))?;
            std::os::unix::fs::chown(own.join(name), Some(BASE), Some(BASE))?;
        }
        let path = |name: &str| CString::new(own.join(name).into_os_string().into_encoded_bytes());
        let argv = [c"true".into(), c"".into()];
        let (upper, work, mount) = (path("upper")?, path("work")?, path("mount")?);
        Ok(Self { lowers, argv, upper, work, mount, userns, _holder })
    }

    /// The command, instead of `true`: an applet of busybox and its argument.
    pub fn command(mut self, name: &str, arg: &str) -> Result<Self> {
        self.argv = [CString::new(name)?, CString::new(arg)?];
        Ok(self)
    }

    /// Start to reaped.
    pub fn run(&self) -> Result<Duration> {
        Ok(self.go(true)?.1)
    }

    /// Until the command is executed; also gives its pid.
    pub fn start(&self) -> Result<(isize, Duration)> {
        self.go(false)
    }

    fn go(&self, reap: bool) -> Result<(isize, Duration)> {
        use linux_raw_sys::general as n;
        let mut stack = vec![0u8; 64 << 10];
        let (ready, mut go) = std::io::pipe()?;
        let (mut asked, ask) = std::io::pipe()?;
        // Closed by the execution.
        let (mut executed, executes) = std::io::pipe()?;
        // A volatile overlay refuses the working directory of an earlier one.
        let work = Path::new(std::ffi::OsStr::new(self.work.to_str()?));
        fs::remove_dir_all(work)?;
        fs::create_dir(work)?;
        std::os::unix::fs::chown(work, Some(BASE), Some(BASE))?;
        let begin = Instant::now();
        let mut child = Child { floor: self, ask: ask.as_raw_fd(), ready: ready.as_raw_fd(), failed: 0 };
        const CLONE_VM: u32 = 0x100;
        let namespaces = n::CLONE_NEWNS
            | n::CLONE_NEWPID
            | n::CLONE_NEWNET
            | n::CLONE_NEWUTS
            | n::CLONE_NEWIPC
            | n::CLONE_NEWCGROUP;
        // Its stack lives until it has executed or is reaped, below.
        let flags = u64::from(CLONE_VM | namespaces);
        let pid = clone_on(stack.as_mut_ptr(), stack.len(), flags, 17, enter, (&raw mut child).cast());
        assert!(pid > 0, "clone3 {pid}");
        let mut byte = [0];
        asked.read_exact(&mut byte)?;
        for name in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{name}"), format!("0 {BASE} 65536"))?;
        }
        go.write_all(b"x")?;
        let mut status = 0i32;
        if reap {
            assert_eq!(call!(__NR_wait4, pid, &raw mut status, 0, 0), pid);
        } else {
            drop(executes);
            assert_eq!(executed.read(&mut byte)?, 0);
        }
        let took = begin.elapsed();
        assert_eq!((status, child.failed), (0, 0), "failed step {}", child.failed);
        Ok((pid, took))
    }
}

/// clone3(2) onto a stack; the child calls `run` with `data`. The caller keeps both until the child has executed or ended.
pub fn clone_on(
    stack: *mut u8,
    size: usize,
    flags: u64,
    signal: u64,
    run: extern "C" fn(*mut u8) -> !,
    data: *mut u8,
) -> isize {
    let args = [flags, 0, 0, 0, signal, stack as u64, size as u64, 0];
    let pid: isize;
    // SAFETY: the child runs `run` on its own stack and never returns.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call r13", "ud2", "2:",
             inlateout("rax") 435isize => pid, in("rdi") args.as_ptr(), in("rsi") size_of_val(&args),
             in("r12") data, in("r13") run as *const () as usize,
             lateout("rcx") _, lateout("r11") _)
    };
    pid
}

extern "C" fn enter(child: *mut u8) -> ! {
    use linux_raw_sys::general as n;
    // SAFETY: made by `run`, which waits for this process.
    let child = unsafe { &mut *child.cast::<Child>() };
    // SAFETY: likewise.
    let floor = unsafe { &*child.floor };
    let mut step = 0;
    macro_rules! must {
        ($nr:ident $(, $arg:expr)*) => {{
            step += 1;
            let result = call!($nr $(, $arg)*);
            if result < 0 {
                child.failed = step * 1000 - result as i32;
                call!(__NR_exit_group, 1);
            }
            result
        }};
    }
    must!(__NR_mount, 0, c"/".as_ptr(), 0, n::MS_REC | n::MS_PRIVATE, 0);
    const SET_FLAG: usize = 0;
    const SET_STRING: usize = 1;
    const CREATE: usize = 6;
    let attributes =
        [u64::from(n::MOUNT_ATTR_IDMAP | n::MOUNT_ATTR_NODEV), 0, 0, floor.userns.as_raw_fd() as u64];
    let fs = must!(__NR_fsopen, c"overlay".as_ptr(), 1);
    must!(__NR_fsconfig, fs, SET_FLAG, c"volatile".as_ptr(), 0, 0);
    for path in &floor.lowers {
        let flags = n::OPEN_TREE_CLONE | n::OPEN_TREE_CLOEXEC;
        let layer = must!(__NR_open_tree, -100isize, path.as_ptr(), flags);
        must!(__NR_mount_setattr, layer, c"".as_ptr(), n::AT_EMPTY_PATH, attributes.as_ptr(), 32);
        // "/proc/self/fd/N", without an allocator.
        let mut lower = *b"/proc/self/fd/\0\0\0\0\0\0";
        let (mut at, mut rest, mut digits) = (14, layer, [0u8; 5]);
        let mut count = 0;
        while count == 0 || rest > 0 {
            digits[count] = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
        }
        while count > 0 {
            count -= 1;
            lower[at] = digits[count];
            at += 1;
        }
        must!(__NR_fsconfig, fs, SET_STRING, c"lowerdir+".as_ptr(), lower.as_ptr(), 0);
    }
    must!(__NR_fsconfig, fs, SET_STRING, c"upperdir".as_ptr(), floor.upper.as_ptr(), 0);
    must!(__NR_fsconfig, fs, SET_STRING, c"workdir".as_ptr(), floor.work.as_ptr(), 0);
    must!(__NR_fsconfig, fs, CREATE, 0, 0, 0);
    let mount = must!(__NR_fsmount, fs, 1, n::MOUNT_ATTR_NODEV);
    must!(__NR_move_mount, mount, c"".as_ptr(), -100isize, floor.mount.as_ptr(), n::MOVE_MOUNT_F_EMPTY_PATH);
    must!(__NR_chdir, floor.mount.as_ptr());
    let flags = n::MS_NOSUID | n::MS_NODEV | n::MS_NOEXEC;
    must!(__NR_mount, c"proc".as_ptr(), c"proc".as_ptr(), c"proc".as_ptr(), flags, 0);
    must!(__NR_pivot_root, c".".as_ptr(), c".".as_ptr());
    must!(__NR_umount2, c".".as_ptr(), n::MNT_DETACH);
    must!(__NR_unshare, n::CLONE_NEWUSER);
    let mut byte = 0u8;
    must!(__NR_write, child.ask, &raw mut byte, 1);
    must!(__NR_read, child.ready, &raw mut byte, 1);
    must!(__NR_setresgid, 0, 0, 0);
    must!(__NR_setresuid, 0, 0, 0);
    let [applet, arg] = &floor.argv;
    let arg = if arg.is_empty() { std::ptr::null() } else { arg.as_ptr() };
    let argv = [c"/bin/busybox".as_ptr(), applet.as_ptr(), arg, std::ptr::null()];
    let envp = [std::ptr::null::<u8>()];
    must!(__NR_execve, c"/bin/busybox".as_ptr(), argv.as_ptr(), envp.as_ptr());
    loop {
        call!(__NR_exit_group, 1);
    }
}
