//! Start to reaped of `true` over images of 1, 10 and 100 layers, beside the same overlay by raw system calls
//! (shared/floor.rs). A report, not a test.
//!
//! `cargo bench --bench layers` as root.

#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(target_arch = "x86_64")]
#[path = "shared/floor.rs"]
#[macro_use]
mod floor;
#[path = "shared/measure.rs"]
mod measure;

use common::{Fixture, Node, docker_archive};
use coracle::{Container, Image, Store};
#[cfg(target_arch = "x86_64")]
use floor::Floor;
use measure::{Result, Row, measure, rootfs};
use std::fs;
use std::time::Instant;

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("the floor is written for x86_64");
}

#[cfg(target_arch = "x86_64")]
fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("needs root: the floor id-maps layers by itself");
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp")?;
    let rootfs = rootfs(dir.path())?;
    let busybox = fs::read(rootfs.join("bin/busybox"))?;
    let store = Store::open(dir.path().join("store"))?;
    println!(
        "start to reaped of `true`; medians of interleaved runs, in ms; ratio to the floor of the same image"
    );
    for number in [1, 10, 100] {
        let mut lowers = vec![rootfs.clone()];
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(busybox.len() as u64);
        let mut with_busybox = tar::Builder::new(Vec::new());
        with_busybox.append_data(&mut header, "bin/busybox", &*busybox)?;
        let mut layers = vec![with_busybox.into_inner()?];
        for layer in 1..number {
            let name = format!("layer{layer}");
            let lower = dir.path().join(format!("lower{number}-{layer}"));
            fs::create_dir(&lower)?;
            fs::write(lower.join(&name), &name)?;
            lowers.insert(0, lower);
            layers.push(common::tar([(name.as_str(), Node::File(name.as_bytes()))]));
        }
        let floor = Floor::new(&dir.path().join(number.to_string()), &lowers)?;
        let name = format!("bench{number}:1");
        let archive = docker_archive(&[(&Fixture::of(layers), &[&name])]);
        let image = Image::load_reader(&store, &archive[..])?.remove(0);
        let builder = Container::builder(&image).command(["/bin/busybox", "true"]);
        let started = || {
            let container = builder.create()?;
            let begin = Instant::now();
            container.start()?;
            assert!(container.wait()?.success());
            Ok(begin.elapsed())
        };
        println!("\n{number} layers");
        let runs = if number == 100 { 50 } else { 150 };
        measure(&mut [
            Row::new("floor: raw clone3(CLONE_VM)", runs, || floor.run()),
            Row::new("coracle, no limits", runs, started),
        ]);
    }
    Ok(())
}
