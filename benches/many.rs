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

    // What else goes on on the machine is as much as the memory of 100: the median of several rounds counts.
    for (number, rounds) in [(100, 7), (1000, 1)] {
        println!("\n{number} at once, medians of {rounds} rounds");
        let floors = (0..number).map(|n| {
            let dir = dir.path().join(format!("{number}-{n}"));
            first.another(&dir)?.command("sleep", "1000000")
        });
        let floors = floors.collect::<Result<Vec<_>>>()?;
        let (mut floor_rounds, mut our_rounds) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            floor_rounds.push(round(None, floors.iter().map(Floor::start), |pids| {
                for (pid, _) in pids {
                    call!(__NR_kill, *pid, 9);
                    call!(__NR_wait4, *pid, 0, 0, 0);
                }
            })?);
            let starts = (0..number).map(|_| {
                let begin = Instant::now();
                let container = builder.start()?;
                Ok((container, begin.elapsed()))
            });
            our_rounds.push(round(warden(), starts, |containers| containers.clear())?);
        }
        print("floor: raw clone3(CLONE_VM)", &floor_rounds);
        print("coracle, no limits", &our_rounds);
    }
    Ok(())
}

/// Starts them all, and ends them.
#[cfg(target_arch = "x86_64")]
fn round<T>(
    warden: Option<u32>,
    starts: impl Iterator<Item = Result<(T, Duration)>>,
    end: impl FnOnce(&mut Vec<(T, Duration)>),
) -> Result<Figures> {
    settle();
    let (before, begin) = (Memory::now(warden)?, Instant::now());
    let mut started = starts.collect::<Result<Vec<_>>>()?;
    let (whole, now) = (begin.elapsed(), Memory::now(warden)?);
    let mut times: Vec<_> = started.iter().map(|(_, time)| *time).collect();
    times.sort();
    let number = times.len();
    let begin = Instant::now();
    end(&mut started);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let each = |number_of: i64| number_of as f64 / number as f64;
    Ok(Figures {
        start: ms(whole) / number as f64,
        median: ms(times[number / 2]),
        p95: ms(times[number * 95 / 100]),
        end: ms(begin.elapsed()) / number as f64,
        machine: each(before.available - now.available),
        kernel: each(now.kernel - before.kernel),
        own: each(now.own - before.own),
        warden: each(now.warden - before.warden),
        warden_in_all: now.warden as f64,
        descriptors: each(now.descriptors - before.descriptors),
        threads: each(now.threads - before.threads),
    })
}

/// Of each of those that were there at once: milliseconds, KiB, numbers.
struct Figures {
    start: f64,
    median: f64,
    p95: f64,
    end: f64,
    machine: f64,
    kernel: f64,
    own: f64,
    warden: f64,
    warden_in_all: f64,
    descriptors: f64,
    threads: f64,
}

fn print(name: &str, rounds: &[Figures]) {
    let of = |figure: fn(&Figures) -> f64| {
        let mut all: Vec<_> = rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "{name:32} {:8.3} ms each to start (median {:.3}, p95 {:.3}), {:.3} ms to end",
        of(|f| f.start),
        of(|f| f.median),
        of(|f| f.p95),
        of(|f| f.end)
    );
    println!(
        "{:32} {:8.1} KiB each of the machine, {:.1} the kernel's, {:.1} in this program, {:.2} in the warden ({} KiB in all)",
        "",
        of(|f| f.machine),
        of(|f| f.kernel),
        of(|f| f.own),
        of(|f| f.warden),
        of(|f| f.warden_in_all)
    );
    println!("{:32} {:8.1} descriptors and {:.1} threads each", "", of(|f| f.descriptors), of(|f| f.threads));
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

/// In KiB; and what this program has open.
struct Memory {
    available: i64,
    kernel: i64,
    own: i64,
    warden: i64,
    descriptors: i64,
    threads: i64,
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
            descriptors: fs::read_dir("/proc/self/fd")?.count() as i64,
            threads: fs::read_dir("/proc/self/task")?.count() as i64,
        })
    }
}
