//! `commit` of a container that has written 200 MB, beside docker's. A report, not a test.
//!
//! The files are of noise, so that nobody gains by compressing them: one of 100 MB, a hundred of 500 kB, ten thousand of 5 kB. Each
//! run makes an image of the same stopped container, which is removed again outside of the clock. The new layer is unpacked then,
//! as docker's is: the first start on an image that was just made is a row of its own, which would show it if it were not.
//!
//! `cargo bench --bench commit` as root. Of docker a daemon is needed, wherever the client finds it: one that was started by hand is
//! named by `DOCKER_HOST=unix:///path/docker.sock`. Both stores should be on the same filesystem.

#[path = "shared/measure.rs"]
mod measure;

use coracle::{Container, Image, Import, Store};
use measure::{Result, Row, measure, rootfs};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const RUNS: usize = 7;
const GOAL: f64 = 0.4;
const DOCKER_BASE: &str = "coracle-bench:commit-base";
const DOCKER_MADE: &str = "coracle-bench:commit-made";
const DOCKER_NAME: &str = "coracle-bench-commit";

fn main() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp")?;
    let rootfs = rootfs(dir.path())?;
    let files = dir.path().join("files");
    let bytes = fill(&files)?;
    let store = Store::open(dir.path().join("store"))?;
    let base = Import::new().cmd(["/bin/busybox", "true"]).path(&store, &rootfs)?;
    let copy = Container::builder(&base)
        .command(["/bin/busybox", "cp", "-a", "/from/.", "/files"])
        .bind(&files, "/from");
    let container = copy.start()?;
    assert!(container.wait()?.success());
    // What is on its way to the disk is not to be waited for by the first run.
    rustix::fs::sync();

    println!("an image of a container with {} MB in {} files; medians in ms", bytes / 1_000_000, 10_101);
    let mut rows = vec![
        Row::new("docker commit", RUNS, docker_commit),
        Row::new("coracle commit", RUNS, || {
            let begin = Instant::now();
            let image = container.commit("bench:made")?;
            let took = begin.elapsed();
            removed(&store, image)?;
            Ok(took)
        }),
        Row::new("coracle diff", RUNS, || {
            let begin = Instant::now();
            assert_eq!(container.diff()?.len(), 10_101 + 103);
            Ok(begin.elapsed())
        }),
        Row::new("coracle export, to nowhere", RUNS, || {
            let begin = Instant::now();
            container.export(std::io::sink())?;
            Ok(begin.elapsed())
        }),
        Row::new("coracle, first start of the image", RUNS, || {
            let image = container.commit("bench:made")?;
            let begin = Instant::now();
            assert!(Container::builder(&image).command(["/bin/busybox", "true"]).run()?.status.success());
            let took = begin.elapsed();
            removed(&store, image)?;
            Ok(took)
        }),
    ];
    match docker_container(dir.path(), &rootfs, &files) {
        Ok(()) => {}
        Err(error) => {
            println!("docker: {error}");
            rows.remove(0);
        }
    }
    let medians = measure(&mut rows);
    drop(Command::new("docker").args(["rm", "-f", DOCKER_NAME]).output());
    drop(Command::new("docker").args(["rmi", DOCKER_MADE, DOCKER_BASE]).output());
    if let (5, [Some(docker), Some(ours), ..]) = (medians.len(), &medians[..]) {
        println!("\ncoracle commit to docker's: {:.2} x, at most {GOAL:.2} x", ours / docker);
    }
    Ok(())
}

/// Takes the image and its layer away, so that the next run makes them anew.
fn removed(store: &Store, image: Image) -> Result<()> {
    drop(image);
    store.remove_image("bench:made")?;
    Ok(())
}

/// Files of noise; gives their bytes.
fn fill(dir: &Path) -> Result<u64> {
    let mut state = 7u64;
    let mut noise = |size: usize| {
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    };
    let mut all = 0;
    let mut write = |path: &Path, size: usize| -> Result<()> {
        File::create(path)?.write_all(&noise(size))?;
        all += size as u64;
        Ok(())
    };
    fs::create_dir_all(dir)?;
    write(&dir.join("large"), 100_000_000)?;
    fs::create_dir(dir.join("middle"))?;
    for n in 0..100 {
        write(&dir.join(format!("middle/{n}")), 500_000)?;
    }
    for d in 0..100 {
        fs::create_dir_all(dir.join(format!("small/{d}")))?;
        for n in 0..100 {
            write(&dir.join(format!("small/{d}/{n}")), 5_000)?;
        }
    }
    Ok(all)
}

fn docker(args: &[&str]) -> Result<()> {
    let out = Command::new("docker").args(args).output()?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned().into());
    }
    Ok(())
}

fn docker_container(dir: &Path, rootfs: &Path, files: &Path) -> Result<()> {
    let tar = dir.join("base.tar");
    let packed = Command::new("tar").arg("-C").arg(rootfs).arg("-cf").arg(&tar).arg(".").status()?;
    if !packed.success() {
        return Err("tar".into());
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    docker(&["import", &text(&tar), DOCKER_BASE])?;
    drop(Command::new("docker").args(["rm", "-f", DOCKER_NAME]).output());
    docker(&["create", "--name", DOCKER_NAME, DOCKER_BASE, "/bin/busybox", "true"])?;
    docker(&["cp", &format!("{}/.", text(files)), &format!("{DOCKER_NAME}:/files")])?;
    rustix::fs::sync();
    Ok(())
}

fn docker_commit() -> Result<Duration> {
    let begin = Instant::now();
    docker(&["commit", DOCKER_NAME, DOCKER_MADE])?;
    let took = begin.elapsed();
    docker(&["rmi", DOCKER_MADE])?;
    Ok(took)
}
