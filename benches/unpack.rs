//! How long a layer takes from its archive to a directory on disk, beside GNU tar and umoci.
//!
//! ```text
//! cargo bench --bench unpack [-- ARCHIVE.tar]
//! ```
//! Without an archive, one of about 450 MB and 13,000 files is made with mmdebstrap (a minute, from Debian's mirror).
//! Everybody starts from an archive in the page cache and ends with one syncfs. Coracle verifies digest and
//! diff_id meanwhile; tar verifies nothing. Rounds alternate, so that what else the machine does
//! hits all alike; the median and the best are shown. A report, not a test: it fails only when something does not work.

use coracle::{Compression, Layer, Result, Store};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const PACKAGES: &str = "python3,perl,git,gcc,ca-certificates";

fn run(program: &str, arguments: &[&str]) -> std::io::Result<()> {
    let status =
        Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("{program}: {status}"))) }
}

fn timed(work: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<Duration> {
    // What is still to be written belongs to nobody's measurement.
    run("sync", &[])?;
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn coracle(archive: &Path, compression: Option<Compression>, dir: &Path) -> Result<(Store, Layer)> {
    let store = Store::open(dir)?;
    let builder = Layer::builder().tar(archive);
    let layer = match compression {
        Some(compression) => builder.compression(compression),
        None => builder,
    }
    .build(&store)?;
    Ok((store, layer))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::Builder::new().prefix("coracle-unpack").tempdir()?;
    let path = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    // Cargo itself passes `--bench`.
    let archive = match std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        Some(archive) => archive,
        None => {
            let archive = path("debian.tar");
            println!("making a Debian root filesystem with {PACKAGES} ...");
            let include = format!("--include={PACKAGES}");
            run("mmdebstrap", &["--variant=minbase", &include, "bookworm", &archive])?;
            archive
        }
    };
    let gzip = path("layer.tar.gz");
    let packed = std::fs::File::create(&gzip)?;
    let status = Command::new("gzip").args(["-6", "-n", "-c", &archive]).stdout(packed).status()?;
    assert!(status.success(), "gzip");

    // umoci needs an image; it gets one with this layer.
    let has = |program: &str| run(program, &["--version"]).is_ok();
    let (tar, umoci) = (has("tar"), has("umoci") && has("skopeo"));
    let oci = path("oci");
    if umoci {
        run("umoci", &["init", "--layout", &oci])?;
        run("umoci", &["new", "--image", &format!("{oci}:bench")])?;
        run("umoci", &["raw", "add-layer", "--image", &format!("{oci}:bench"), &archive])?;
    }

    let mut rows: Vec<(&str, Vec<Duration>)> = Vec::new();
    let mut note = |name: &'static str, time: Duration| match rows.iter_mut().find(|row| row.0 == name) {
        Some(row) => row.1.push(time),
        None => rows.push((name, vec![time])),
    };
    let mut entries = 0;
    for round in 0..ROUNDS {
        for (name, file) in [("coracle, plain", &archive), ("coracle, gzip", &gzip)] {
            let dir = scratch.path().join(format!("store-{round}"));
            let (store, layer) = coracle(Path::new(file), None, &dir)?;
            if entries == 0 {
                entries = layer.entries()?.count();
            }
            note(name, timed(|| Ok(layer.unpack(&[]).map(drop)?))?);
            drop((layer, store));
            std::fs::remove_dir_all(&dir)?;
        }
        for (name, flag, file) in
            [("GNU tar, plain", "-xpf", &archive), ("GNU tar, gzip", "-xpzf", &gzip)].iter().filter(|_| tar)
        {
            let dir = path("tar");
            std::fs::create_dir(&dir)?;
            let arguments = ["--numeric-owner", "--xattrs", "--xattrs-include=*", flag, file, "-C", &dir];
            note(name, timed(|| run("tar", &arguments).and_then(|()| run("sync", &["-f", &dir])))?);
            std::fs::remove_dir_all(&dir)?;
        }
        if umoci {
            let dir = path("bundle");
            let mut arguments = vec!["unpack", "--image"];
            let image = format!("{oci}:bench");
            arguments.push(&image);
            arguments.push(&dir);
            if !rustix::process::geteuid().is_root() {
                arguments.insert(1, "--rootless");
            }
            note(
                "umoci, gzip",
                timed(|| run("umoci", &arguments).and_then(|()| run("sync", &["-f", &dir])))?,
            );
            std::fs::remove_dir_all(&dir)?;
        }
    }

    let size = std::fs::metadata(&archive)?.len() >> 20;
    println!("{size} MiB, {entries} entries, {ROUNDS} rounds, with one syncfs each");
    println!("{:<16} {:>9} {:>9}", "", "median", "best");
    let mut medians = std::collections::BTreeMap::new();
    for (name, times) in &mut rows {
        times.sort();
        let median = times[times.len() / 2];
        medians.insert(*name, median.as_secs_f64());
        println!("{name:<16} {:>7.2} s {:>7.2} s", median.as_secs_f64(), times[0].as_secs_f64());
    }
    for (ours, theirs, goal) in
        [("coracle, plain", "GNU tar, plain", 1.2), ("coracle, gzip", "umoci, gzip", 0.6)]
    {
        if let (Some(ours_s), Some(theirs_s)) = (medians.get(ours), medians.get(theirs)) {
            println!("{ours} / {theirs}: {:.2} (the goal is at most {goal})", ours_s / theirs_s);
        }
    }
    Ok(())
}
