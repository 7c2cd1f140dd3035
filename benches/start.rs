//! Start to reaped of `true`, beside a floor of raw system calls and beside other runtimes. A report, not a test.
//!
//! The floor is the least that gives the same container: one process made straight from this program with
//! clone3(CLONE_VM) in all namespaces, one id-mapped lower layer, an overlay, pivot_root, /proc, execve, wait. (It
//! enters its user namespace last: inside of one it could not id-map the layer.) It has no warden, no limits, no seccomp, no devices, no record in a store; and it shares its memory with the host.
//!
//! `cargo bench --bench start` as root. Peers that are not installed are left out and named.

use coracle::{Container, Image, Store};
use std::arch::asm;
use std::error::Error;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BASE: u32 = 0x1000_0000;
const DOCKER_IMAGE: &str = "coracle-bench:start";

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("the floor is written for x86_64");
}

#[cfg(target_arch = "x86_64")]
fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("needs root: the floor id-maps a layer by itself");
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp")?;
    let rootfs = rootfs(dir.path())?;
    let floor = Floor::new(dir.path(), &rootfs)?;
    let store = Store::open(dir.path().join("store"))?;
    let tar = dir.path().join("rootfs.tar");
    let made = Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg(".").status()?;
    assert!(made.success(), "tar");
    let image = Image::import(&store, &tar, "bench")?;
    let plain = Container::builder(&image).command(["/bin/busybox", "true"]);
    let limited = plain.clone().memory_max(64 << 20).pids_max(64).cpus(1.0);

    println!(
        "start to reaped of `true`; medians of interleaved runs, in ms; ratio to the floor of the same run"
    );
    let mut rows: Vec<Row> = vec![
        Row::new("floor: raw clone3(CLONE_VM)", 200, || floor.run()),
        Row::new("coracle, no limits", 200, || started(&plain)),
        Row::new("coracle, memory, pids, cpu", 200, || started(&limited)),
        Row::new("coracle run(), with its removal", 200, || whole(&plain)),
    ];
    rows.extend(peers(dir.path(), &rootfs, &tar)?);
    measure(&mut rows);
    drop(Command::new("docker").args(["rmi", DOCKER_IMAGE]).output());

    println!("\nthe same in a host program of 4 GB");
    let mut ballast = vec![0u8; 4 << 30];
    ballast.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let mut rows = vec![
        Row::new("floor: raw clone3(CLONE_VM)", 100, || floor.run()),
        Row::new("coracle, no limits", 100, || started(&plain)),
    ];
    measure(&mut rows);
    drop(ballast);
    Ok(())
}

/// Start and wait; what is made before and removed after is not part of it.
fn started(builder: &coracle::ContainerBuilder) -> Result<Duration> {
    let container = builder.create()?;
    let begin = Instant::now();
    container.start()?;
    let status = container.wait()?;
    let took = begin.elapsed();
    assert!(status.success(), "{status}");
    Ok(took)
}

fn whole(builder: &coracle::ContainerBuilder) -> Result<Duration> {
    let begin = Instant::now();
    let out = builder.run()?;
    assert!(out.status.success(), "{}", out.status);
    Ok(begin.elapsed())
}

struct Row<'a> {
    name: &'a str,
    runs: usize,
    times: Vec<Duration>,
    run: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Row<'a> {
    fn new(name: &'a str, runs: usize, run: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self { name, runs, times: Vec::new(), run: Box::new(run) }
    }
}

fn measure(rows: &mut [Row<'_>]) {
    let most = rows.iter().map(|row| row.runs).max().unwrap_or(0);
    for round in 0..most + 3 {
        for row in rows.iter_mut().filter(|row| round < row.runs + 3) {
            match (row.run)() {
                // The first three warm up.
                Ok(time) if round >= 3 => row.times.push(time),
                Ok(_) => {}
                Err(error) => {
                    println!("{}: {error}", row.name);
                    row.runs = 0;
                }
            }
        }
    }
    let mut floor = None;
    for row in rows.iter_mut().filter(|row| !row.times.is_empty()) {
        row.times.sort();
        let at = |part: usize| row.times[row.times.len() * part / 100].as_secs_f64() * 1e3;
        let median = at(50);
        let floor = *floor.get_or_insert(median);
        println!(
            "{:34} {median:8.3}  p10 {:8.3}  p95 {:8.3}  {:6.2} x",
            row.name,
            at(10),
            at(95),
            median / floor
        );
    }
}

fn rootfs(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("rootfs");
    for name in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(
        busybox.ok_or("needs a static busybox (Debian's package: busybox-static)")?,
        root.join("bin/busybox"),
    )?;
    // The floor's process is another user and finds its way by path.
    for path in [dir, &root] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(root)
}

fn tool(name: &str) -> bool {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn peers<'a>(dir: &Path, rootfs: &Path, tar: &Path) -> Result<Vec<Row<'a>>> {
    let timed = |mut command: Command| {
        move || {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let begin = Instant::now();
            let status = command.status()?;
            let took = begin.elapsed();
            if status.success() { Ok(took) } else { Err(format!("{status}").into()) }
        }
    };
    let mut rows = Vec::new();
    if tool("bwrap") {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-all", "--bind"]).arg(rootfs).args(["/", "--proc", "/proc", "--dev", "/dev"]);
        command.args(["/bin/busybox", "true"]);
        rows.push(Row::new("bwrap --unshare-all (no overlay)", 50, timed(command)));
    } else {
        println!("bwrap: not installed");
    }
    if tool("runc") {
        let bundle = dir.join("bundle");
        fs::create_dir_all(&bundle)?;
        let spec = Command::new("runc").arg("spec").current_dir(&bundle).status()?;
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_reader(File::open(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/busybox", "true"]);
        config["process"]["rlimits"] = serde_json::json!([]);
        config["root"]["path"] = rootfs.to_str().into();
        fs::write(&path, config.to_string())?;
        let mut n = 0;
        if spec.success() {
            rows.push(Row::new("runc run (no overlay)", 20, move || {
                n += 1;
                let mut command = Command::new("runc");
                command.args(["run", "--bundle"]).arg(&bundle).arg(format!("coracle-bench-{n}"));
                timed(command)()
            }));
        }
    } else {
        println!("runc: not installed");
    }
    let docker = Command::new("docker").args(["import"]).arg(tar).arg(DOCKER_IMAGE).output();
    if docker.is_ok_and(|out| out.status.success()) {
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--network", "none", DOCKER_IMAGE, "/bin/busybox", "true"]);
        rows.push(Row::new("docker run --network none", 10, timed(command)));
    } else {
        println!("docker: no daemon");
    }
    Ok(rows)
}

/// What the child needs, laid out before the clone: it shares this memory.
#[cfg(target_arch = "x86_64")]
struct Floor {
    lower: CString,
    upper: CString,
    work: CString,
    mount: CString,
    userns: OwnedFd,
    _holder: Holder,
}

/// A process that holds the user namespace for the id map of the layer.
struct Holder(std::process::Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(target_arch = "x86_64")]
#[repr(C)]
struct Child {
    floor: *const Floor,
    ask: i32,
    ready: i32,
    failed: i32,
}

#[cfg(target_arch = "x86_64")]
unsafe fn sys(nr: usize, a: [usize; 6]) -> isize {
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
        unsafe { sys(linux_raw_sys::general::$nr as usize, args) }
    }};
}

#[cfg(target_arch = "x86_64")]
impl Floor {
    fn new(dir: &Path, rootfs: &Path) -> Result<Self> {
        let own = dir.join("floor");
        for name in ["upper", "work", "mount"] {
            fs::create_dir_all(own.join(name))?;
            std::os::unix::fs::chown(own.join(name), Some(BASE), Some(BASE))?;
        }
        let mut child = Command::new("unshare");
        child.args(["--user", "sh", "-c", "echo; exec sleep 1000000"]).stdout(Stdio::piped());
        let mut holder = Holder(child.spawn()?);
        let mut line = [0];
        holder.0.stdout.take().ok_or("stdout")?.read_exact(&mut line)?;
        let pid = holder.0.id();
        for name in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{name}"), format!("0 {BASE} 65536"))?;
        }
        let path = |name: &str| CString::new(own.join(name).into_os_string().into_encoded_bytes());
        Ok(Self {
            lower: CString::new(rootfs.as_os_str().as_encoded_bytes())?,
            upper: path("upper")?,
            work: path("work")?,
            mount: path("mount")?,
            userns: File::open(format!("/proc/{pid}/ns/user"))?.into(),
            _holder: holder,
        })
    }

    fn run(&self) -> Result<Duration> {
        use linux_raw_sys::general as n;
        let mut stack = vec![0u8; 64 << 10];
        let (ready, mut go) = std::io::pipe()?;
        let (mut asked, ask) = std::io::pipe()?;
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
        let args =
            [u64::from(CLONE_VM | namespaces), 0, 0, 0, 17, stack.as_mut_ptr() as u64, stack.len() as u64, 0];
        let pid: isize;
        // SAFETY: the child runs `enter` on its own stack, which lives until it is reaped below, and never returns.
        unsafe {
            asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call r13", "ud2", "2:",
                 inlateout("rax") 435isize => pid, in("rdi") args.as_ptr(), in("rsi") size_of_val(&args),
                 in("r12") &raw mut child, in("r13") enter as *const () as usize,
                 lateout("rcx") _, lateout("r11") _)
        };
        assert!(pid > 0, "clone3 {pid}");
        let mut byte = [0];
        asked.read_exact(&mut byte)?;
        for name in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{name}"), format!("0 {BASE} 65536"))?;
        }
        go.write_all(b"x")?;
        let mut status = 0i32;
        let reaped = call!(__NR_wait4, pid, &raw mut status, 0, 0);
        let took = begin.elapsed();
        assert_eq!((reaped, status), (pid, 0), "failed step {}", child.failed);
        Ok(took)
    }
}

#[cfg(target_arch = "x86_64")]
extern "C" fn enter(child: *mut Child) -> ! {
    use linux_raw_sys::general as n;
    // SAFETY: made by `run`, which waits for this process.
    let (child, floor) = unsafe { (&mut *child, &*(*child).floor) };
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
    let flags = n::OPEN_TREE_CLONE | n::OPEN_TREE_CLOEXEC;
    let layer = must!(__NR_open_tree, -100isize, floor.lower.as_ptr(), flags);
    let attributes =
        [u64::from(n::MOUNT_ATTR_IDMAP | n::MOUNT_ATTR_NODEV), 0, 0, floor.userns.as_raw_fd() as u64];
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
    const SET_FLAG: usize = 0;
    const SET_STRING: usize = 1;
    const CREATE: usize = 6;
    let fs = must!(__NR_fsopen, c"overlay".as_ptr(), 1);
    must!(__NR_fsconfig, fs, SET_FLAG, c"volatile".as_ptr(), 0, 0);
    must!(__NR_fsconfig, fs, SET_STRING, c"lowerdir+".as_ptr(), lower.as_ptr(), 0);
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
    let argv = [c"true".as_ptr(), std::ptr::null()];
    let argv = [c"/bin/busybox".as_ptr(), argv[0], argv[1]];
    let envp = [std::ptr::null::<u8>()];
    must!(__NR_execve, c"/bin/busybox".as_ptr(), argv.as_ptr(), envp.as_ptr());
    loop {
        call!(__NR_exit_group, 1);
    }
}
