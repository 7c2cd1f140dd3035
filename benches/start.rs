//! Start to reaped of `true`, beside a floor of raw system calls (shared/floor.rs) and beside other runtimes. A report,
//! not a test.
//!
//! The clock of most rows begins after `create`. That call makes the container's record and, as OCI's does, begins its start
//! (its control group, its namespaces, and the processes that build the root filesystem and become the command, both
//! waiting for what they are to do), so that a part of the work is not in these rows. The rows of `create + start` have all
//! of it, from the builder to the reaped process; `run()` its removal, too.
//!
//! `cargo bench --bench start` as root. Peers that are not installed are left out and named. Of docker a daemon is needed,
//! wherever the client finds it: one that was started by hand is named by `DOCKER_HOST=unix:///path/docker.sock`.

#[cfg(target_arch = "x86_64")]
#[path = "shared/floor.rs"]
#[macro_use]
mod floor;
#[path = "shared/measure.rs"]
mod measure;

use coracle::Container;
#[cfg(target_arch = "x86_64")]
use floor::Floor;
use measure::{Result, Row, import, measure, measure_in_a_row, rootfs, timed, tool};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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
    let floor = Floor::new(dir.path(), std::slice::from_ref(&rootfs))?;
    let (tar, image) = import(dir.path(), &rootfs)?;
    let usual = Container::builder(&image).command(["/bin/busybox", "true"]);
    let plain = usual.clone().pids_unlimited();
    let limited = usual.clone().memory_max(64 << 20).pids_max(64).cpus(1.0);

    println!(
        "start to reaped of `true`; medians of interleaved runs, each on a machine at rest, in ms; ratio to the floor"
    );
    let own = || {
        vec![
            Row::new("floor: raw clone3(CLONE_VM)", 200, || floor.run()),
            Row::new("coracle, no limits", 200, || started(&plain)),
            Row::new("coracle, as by default: 2048 pids", 200, || started(&usual)),
            Row::new("coracle, memory, pids, cpu", 200, || started(&limited)),
            Row::new("coracle create + start, no limits", 200, || created_and_started(&plain)),
            Row::new("coracle create + start, by default", 200, || created_and_started(&usual)),
            Row::new("coracle create + start, with limits", 200, || created_and_started(&limited)),
            Row::new("coracle run(), with its removal", 200, || whole(&usual)),
        ]
    };
    let mut rows: Vec<Row> = own();
    rows.extend(peers(dir.path(), &rootfs, &tar)?);
    let medians = measure(&mut rows);
    println!("\nwhat is to hold");
    for (name, goal) in [("coracle, no limits", 1.5), ("coracle, memory, pids, cpu", 2.0)] {
        let row = rows.iter().position(|row| row.name() == name).and_then(|row| medians[row]);
        if let (Some(row), Some(floor)) = (row, medians[0]) {
            println!("{name:34} {:6.2} x, at most {goal:.2} x", row / floor);
        }
    }
    drop(Command::new("docker").args(["rmi", DOCKER_IMAGE]).output());

    println!("\none after the other without a rest: what each left behind is still being taken down");
    measure_in_a_row(&mut own());

    let large = || {
        vec![
            Row::new("floor: raw clone3(CLONE_VM)", 100, || floor.run()),
            Row::new("coracle, no limits", 100, || started(&plain)),
            Row::new("coracle, memory, pids, cpu", 100, || started(&limited)),
            Row::new("coracle create + start, no limits", 100, || created_and_started(&plain)),
        ]
    };
    println!("\nat rest, once more, to be compared with the next");
    let without = measure(&mut large());
    println!("\nthe same in a host program of 4 GB");
    let mut ballast = vec![0u8; 4 << 30];
    ballast.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let mut rows = large();
    let with = measure(&mut rows);
    drop(ballast);
    println!("\nwith 4 GB to without; what is to hold: at most 1.20 x");
    for (row, (with, without)) in rows.iter().zip(with.into_iter().zip(without)) {
        if let (Some(with), Some(without)) = (with, without) {
            println!("{:34} {:6.2} x", row.name(), with / without);
        }
    }
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

/// From the builder on; what is removed after is not part of it.
fn created_and_started(builder: &coracle::ContainerBuilder) -> Result<Duration> {
    let begin = Instant::now();
    let container = builder.create()?;
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

fn peers<'a>(dir: &Path, rootfs: &Path, tar: &Path) -> Result<Vec<Row<'a>>> {
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
    match Command::new("docker").args(["import"]).arg(tar).arg(DOCKER_IMAGE).output() {
        Ok(out) if out.status.success() => {
            let mut command = Command::new("docker");
            command.args(["run", "--rm", "--network", "none", DOCKER_IMAGE, "/bin/busybox", "true"]);
            rows.push(Row::new("docker run --network none", 10, timed(command)));
        }
        // That there is no daemon, for one.
        Ok(out) => println!("docker: {}", String::from_utf8_lossy(&out.stderr).trim()),
        Err(_) => println!("docker: not installed"),
    }
    Ok(rows)
}
