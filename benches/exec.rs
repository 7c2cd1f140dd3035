//! A further command in a running container, from the call to reaped, beside a floor of raw system calls and peers. A
//! report, not a test.
//!
//! The floor is the least that runs `true` in the same namespaces: a process made from this program with clone3(CLONE_VM)
//! that joins them by the container's pidfd and clones once more, as a PID namespace is only that of children; execve,
//! wait. It has no limits, no capabilities taken, no seccomp, no streams; and it shares its memory with the host.
//!
//! `cargo bench --bench exec` as root. Peers that are not installed are left out and named.

#[cfg(target_arch = "x86_64")]
#[path = "shared/floor.rs"]
#[macro_use]
mod floor;
#[path = "shared/measure.rs"]
mod measure;

use coracle::{Container, Stdio};
use measure::{Result, Row, import, measure, rootfs, timed, tool};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("the floor is written for x86_64");
}

#[cfg(target_arch = "x86_64")]
fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("needs root: the floor joins namespaces by itself");
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp")?;
    let rootfs = rootfs(dir.path())?;
    let (_, image) = import(dir.path(), &rootfs)?;
    let container = Container::builder(&image).command(["/bin/busybox", "sleep", "1000000"]).start()?;
    let pid = rustix::process::Pid::from_raw(container.pid()?).ok_or("no pid")?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;

    println!(
        "exec of `true`, from the call to reaped; medians of interleaved runs, each at rest, in ms; ratio to the floor"
    );
    let silent = || {
        let exec = container.exec(["/bin/busybox", "true"]);
        exec.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
    };
    let mut rows: Vec<Row> = vec![
        Row::new("floor: raw setns, clone3(CLONE_VM)", 200, || joined(pidfd.as_raw_fd())),
        Row::new("coracle spawn and wait, no streams", 200, || {
            let begin = Instant::now();
            assert!(silent().spawn()?.wait()?.success());
            Ok(begin.elapsed())
        }),
        Row::new("coracle output()", 200, || {
            let begin = Instant::now();
            assert!(container.exec(["/bin/busybox", "true"]).output()?.status.success());
            Ok(begin.elapsed())
        }),
    ];
    if tool("nsenter") {
        let mut command = Command::new("nsenter");
        command.args(["--all", "-t", &container.pid()?.to_string(), "/bin/busybox", "true"]);
        rows.push(Row::new("nsenter --all", 50, timed(command)));
    } else {
        println!("nsenter: not installed");
    }
    let peer = Runc::start(dir.path(), &rootfs)?;
    if let Some(peer) = &peer {
        let mut command = Command::new("runc");
        command.args(["exec", &peer.0, "/bin/busybox", "true"]);
        rows.push(Row::new("runc exec", 20, timed(command)));
    }
    measure(&mut rows);
    Ok(())
}

/// A container of runc's, by its name.
struct Runc(String);

impl Runc {
    fn start(dir: &Path, rootfs: &Path) -> Result<Option<Self>> {
        if !tool("runc") {
            println!("runc: not installed");
            return Ok(None);
        }
        let bundle = dir.join("bundle");
        std::fs::create_dir_all(&bundle)?;
        assert!(Command::new("runc").arg("spec").current_dir(&bundle).status()?.success());
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/busybox", "sleep", "1000000"]);
        config["process"]["rlimits"] = serde_json::json!([]);
        config["root"]["path"] = rootfs.to_str().into();
        std::fs::write(&path, config.to_string())?;
        let name = format!("coracle-bench-{}", std::process::id());
        let mut command = Command::new("runc");
        command.args(["run", "--detach", "--bundle"]).arg(&bundle).arg(&name);
        match timed(command)() {
            Ok(_) => Ok(Some(Self(name))),
            Err(error) => {
                println!("runc: {error}");
                Ok(None)
            }
        }
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        drop(Command::new("runc").args(["delete", "--force", &self.0]).status());
    }
}

/// What the two processes know; they share this memory.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
struct Joining {
    pidfd: i32,
    stack: *mut u8,
    pid: isize,
    failed: isize,
}

const STACK: usize = 64 << 10;
#[cfg(target_arch = "x86_64")]
const CLONE_VM: u64 = 0x100;

#[cfg(target_arch = "x86_64")]
fn joined(pidfd: i32) -> Result<Duration> {
    let mut stacks = vec![0u8; 2 * STACK];
    // SAFETY: the second half.
    let stack = unsafe { stacks.as_mut_ptr().add(STACK) };
    let mut joining = Joining { pidfd, stack, pid: 0, failed: 0 };
    let begin = Instant::now();
    let first = floor::clone_on(stacks.as_mut_ptr(), STACK, CLONE_VM, 17, join, (&raw mut joining).cast());
    let mut status = 0i32;
    let reaped = call!(__NR_wait4, first, &raw mut status, 0, 0);
    assert_eq!((reaped, status, joining.failed), (first, 0, 0));
    let reaped = call!(__NR_wait4, joining.pid, &raw mut status, 0, 0);
    let took = begin.elapsed();
    assert_eq!((reaped, status, joining.failed), (joining.pid, 0, 0));
    Ok(took)
}

#[cfg(target_arch = "x86_64")]
extern "C" fn join(joining: *mut u8) -> ! {
    use linux_raw_sys::general as n;
    // SAFETY: made by `joined`, which waits for this process.
    let joining = unsafe { &mut *joining.cast::<Joining>() };
    let all = n::CLONE_NEWUSER
        | n::CLONE_NEWNS
        | n::CLONE_NEWPID
        | n::CLONE_NEWNET
        | n::CLONE_NEWUTS
        | n::CLONE_NEWIPC
        | n::CLONE_NEWCGROUP;
    joining.failed = call!(__NR_setns, joining.pidfd, all);
    if joining.failed == 0 {
        let data = std::ptr::from_mut(joining).cast();
        let flags = CLONE_VM | u64::from(n::CLONE_PARENT);
        joining.pid = floor::clone_on(joining.stack, STACK, flags, 0, execute, data);
    }
    loop {
        call!(__NR_exit, 0);
    }
}

#[cfg(target_arch = "x86_64")]
extern "C" fn execute(joining: *mut u8) -> ! {
    // SAFETY: as above.
    let joining = unsafe { &mut *joining.cast::<Joining>() };
    call!(__NR_setresgid, 0, 0, 0);
    call!(__NR_setresuid, 0, 0, 0);
    let argv = [c"/bin/busybox".as_ptr(), c"true".as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<u8>()];
    joining.failed = call!(__NR_execve, c"/bin/busybox".as_ptr(), argv.as_ptr(), envp.as_ptr());
    loop {
        call!(__NR_exit, 1);
    }
}
