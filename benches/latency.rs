//! How long pausing, unpausing, stopping and removing take, beside floors of raw system calls. A report, not a test.
//!
//! The floor of a pause is one write to `cgroup.freeze` of a group with one process, and `cgroup.events` read until it says
//! so (the kernel notifies of a change ten milliseconds after the last one only); that of a kill is kill(2) and wait4(2) of the container that the floor of starts makes (shared/floor.rs), whose
//! namespaces and overlay the kernel takes down as well.
//!
//! `cargo bench --bench latency` as root.

#[cfg(target_arch = "x86_64")]
#[path = "shared/floor.rs"]
#[macro_use]
mod floor;
#[path = "shared/measure.rs"]
mod measure;

use coracle::{Container, Signal, State};
#[cfg(target_arch = "x86_64")]
use floor::Floor;
use measure::{Result, Row, import, measure, rootfs};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("the floor is written for x86_64");
}

#[cfg(target_arch = "x86_64")]
fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("needs root: the floor makes a control group by itself");
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp")?;
    let rootfs = rootfs(dir.path())?;
    let floor = Floor::new(dir.path(), std::slice::from_ref(&rootfs))?.command("sleep", "1000000")?;
    let (_, image) = import(dir.path(), &rootfs)?;
    let builder = Container::builder(&image).command(["/bin/busybox", "sleep", "1000000"]);
    let time = |act: &mut dyn FnMut() -> Result<()>| {
        let begin = Instant::now();
        act().map(|()| begin.elapsed())
    };

    println!("pause; medians of interleaved runs, in ms; ratio to the floor of the same run");
    let container = builder.start()?;
    let frozen = Frozen::new()?;
    measure(&mut [
        Row::new("floor: 1 to cgroup.freeze", 200, || {
            frozen.set(false)?;
            time(&mut || frozen.set(true))
        }),
        Row::new("coracle pause()", 200, || {
            if container.state() == State::Paused {
                container.unpause()?;
            }
            time(&mut || Ok(container.pause()?))
        }),
    ]);
    println!("\nunpause");
    measure(&mut [
        Row::new("floor: 0 to cgroup.freeze", 200, || {
            frozen.set(true)?;
            time(&mut || frozen.set(false))
        }),
        Row::new("coracle unpause()", 200, || {
            if container.state() == State::Running {
                container.pause()?;
            }
            time(&mut || Ok(container.unpause()?))
        }),
    ]);
    container.remove()?;

    println!("\nthe end of a running container");
    measure(&mut [
        Row::new("floor: kill, wait4", 200, || {
            let (pid, _) = floor.start()?;
            let begin = Instant::now();
            let mut status = 0i32;
            assert_eq!(call!(__NR_kill, pid, 9), 0);
            assert_eq!(call!(__NR_wait4, pid, &raw mut status, 0, 0), pid);
            Ok(begin.elapsed())
        }),
        Row::new("coracle kill(SIGKILL), wait()", 200, || {
            let container = builder.start()?;
            time(&mut || {
                container.kill(Signal::SIGKILL)?;
                container.wait()?;
                Ok(())
            })
        }),
        Row::new("coracle stop(10 s), by SIGTERM", 200, || {
            let container = builder.clone().init(true).start()?;
            time(&mut || Ok(container.stop(Duration::from_secs(10)).map(drop)?))
        }),
        Row::new("coracle stop(0)", 200, || {
            let container = builder.start()?;
            time(&mut || Ok(container.stop(Duration::ZERO).map(drop)?))
        }),
        Row::new("coracle kill and drop of the handle", 200, || {
            let mut container = Some(builder.start()?);
            time(&mut || {
                drop(container.take());
                Ok(())
            })
        }),
        Row::new("coracle remove(), nothing left", 200, || {
            let mut container = Some(builder.start()?);
            time(&mut || Ok(container.take().map_or(Ok(()), Container::remove)?))
        }),
    ]);
    Ok(())
}

/// A control group with one process.
struct Frozen {
    dir: PathBuf,
    process: std::process::Child,
    freeze: File,
    events: File,
}

impl Frozen {
    fn new() -> Result<Self> {
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.is_dir() { unified } else { Path::new("/sys/fs/cgroup") };
        let dir = root.join(format!("coracle-bench-{}", std::process::id()));
        fs::create_dir(&dir)?;
        let process = Command::new("sleep").arg("1000000").spawn()?;
        fs::write(dir.join("cgroup.procs"), process.id().to_string())?;
        let freeze = File::options().write(true).open(dir.join("cgroup.freeze"))?;
        let events = File::open(dir.join("cgroup.events"))?;
        Ok(Self { dir, process, freeze, events })
    }

    fn set(&self, frozen: bool) -> Result<()> {
        self.freeze.write_at(if frozen { b"1" } else { b"0" }, 0)?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        let mut text = [0; 200];
        loop {
            let read = self.events.read_at(&mut text, 0)?;
            if String::from_utf8_lossy(&text[..read]).contains(wanted) {
                return Ok(());
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.set(false);
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_dir(&self.dir));
    }
}
