//! 100 and 1,000 containers at once: the time of each start, and the memory of each, beside as many processes in
//! namespaces of their own by raw system calls (shared/floor.rs). A report, not a test.
//!
//! Memory is what the machine has less of (MemAvailable), of it the kernel's (Slab, KernelStack, PageTables, Percpu), and
//! the resident sizes of this program and of its warden. `cargo bench --bench many` as root.

#[cfg(target_arch = "x86_64")]
#[path = "shared/floor.rs"]
#[macro_use]
mod floor;
#[path = "shared/measure.rs"]
mod measure;

use coracle::Container;
#[cfg(target_arch = "x86_64")]
use floor::Floor;
use measure::{Result, import, rootfs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::time::{Duration, Instant};

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
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp")?;
    let rootfs = rootfs(dir.path())?;
    let (_, image) = import(dir.path(), &rootfs)?;
    let builder = Container::builder(&image).command(["/bin/busybox", "sleep", "1000000"]);
    let first = Floor::new(dir.path(), std::slice::from_ref(&rootfs))?;
    // What comes up once is up.
    assert!(builder.clone().command(["/bin/busybox", "true"]).run()?.status.success());

    for number in [100, 1000] {
        println!("\n{number} at once");
        let floors = (0..number).map(|n| {
            let dir = dir.path().join(format!("{number}-{n}"));
            first.another(&dir)?.command("sleep", "1000000")
        });
        let floors = floors.collect::<Result<Vec<_>>>()?;
        settle();
        let before = Memory::now(None)?;
        let begin = Instant::now();
        let mut times = Vec::new();
        let mut pids = Vec::new();
        for floor in &floors {
            let (pid, took) = floor.start()?;
            pids.push(pid);
            times.push(took);
        }
        report("floor: raw clone3(CLONE_VM)", begin.elapsed(), &mut times, &before, None)?;
        let begin = Instant::now();
        for pid in pids {
            call!(__NR_kill, pid, 9);
            call!(__NR_wait4, pid, 0, 0, 0);
        }
        println!("{:32} {:8.3} ms each to end", "", begin.elapsed().as_secs_f64() * 1e3 / number as f64);

        settle();
        let before = Memory::now(warden())?;
        let descriptors = fs::read_dir("/proc/self/fd")?.count();
        let begin = Instant::now();
        let mut times = Vec::new();
        let mut containers = Vec::new();
        for _ in 0..number {
            let begin = Instant::now();
            containers.push(builder.start()?);
            times.push(begin.elapsed());
        }
        report("coracle, no limits", begin.elapsed(), &mut times, &before, warden())?;
        let more = fs::read_dir("/proc/self/fd")?.count() - descriptors;
        println!(
            "{:32} {:.1} descriptors and {:.1} threads each",
            "",
            more as f64 / number as f64,
            fs::read_dir("/proc/self/task")?.count() as f64 / number as f64
        );
        let begin = Instant::now();
        drop(containers);
        println!("{:32} {:8.3} ms each to end", "", begin.elapsed().as_secs_f64() * 1e3 / number as f64);
    }
    Ok(())
}

/// What ended before is freed by the kernel after a while.
fn settle() {
    std::thread::sleep(Duration::from_secs(3));
    drop(fs::write("/proc/sys/vm/drop_caches", "3"));
}

/// The warden of this program: PID 1 of a namespace, executed from a file in memory.
fn warden() -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(
        |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe.to_string_lossy().contains("coracle-warden"))
                && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                    status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
                })
        },
    )
}

/// In KiB.
struct Memory {
    available: i64,
    kernel: i64,
    own: i64,
    warden: i64,
}

fn field(text: &str, name: &str) -> i64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Memory {
    fn now(warden: Option<u32>) -> Result<Self> {
        let info = fs::read_to_string("/proc/meminfo")?;
        let kernel = ["Slab", "KernelStack", "PageTables", "Percpu"];
        let resident =
            |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).map(|text| field(&text, "VmRSS"));
        Ok(Self {
            available: field(&info, "MemAvailable"),
            kernel: kernel.iter().map(|name| field(&info, name)).sum(),
            own: resident("self")?,
            warden: warden.and_then(|pid| resident(&pid.to_string()).ok()).unwrap_or(0),
        })
    }
}

fn report(
    name: &str,
    whole: Duration,
    times: &mut [Duration],
    before: &Memory,
    warden: Option<u32>,
) -> Result<()> {
    let now = Memory::now(warden)?;
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let each = |kib: i64| kib as f64 / times.len() as f64;
    println!(
        "{name:32} {:8.3} ms each to start (median {:.3}, p95 {:.3})",
        ms(whole) / times.len() as f64,
        ms(times[times.len() / 2]),
        ms(times[times.len() * 95 / 100])
    );
    println!(
        "{:32} {:8.1} KiB each of the machine, {:.1} the kernel's, {:.1} in this program, {:.2} in the warden ({} KiB in all)",
        "",
        each(before.available - now.available),
        each(now.kernel - before.kernel),
        each(now.own - before.own),
        each(now.warden - before.warden),
        now.warden
    );
    Ok(())
}
