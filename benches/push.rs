//! How long a new layer takes from a store to a registry on this machine, beside podman and docker, and how much memory it needs.
//!
//! ```text
//! cargo bench --features registry --bench push [-- ARCHIVE.tar]
//! ```
//! Without an archive, a root filesystem of about 450 MB is made with mmdebstrap (a minute, from Debian's mirror). It is cut in
//! two: the last 100 MB are the new layer, all before is the image below. Everybody loads both from docker's archive, in which layers are plain,
//! and pushes the lower image; what is measured is the push of the upper one, each time into a registry (Debian's
//! docker-registry) that has the lower one only. Coracle is a process of its own, whose memory (VmHWM) is read at its end. Last comes the same for a layer that is
//! compressed in the store, as all are that coracle builds or pulls: then there is nothing to do but to send it.
//! As root; docker is left out where its daemon does not run. A report, not a test.

#[path = "shared/measure.rs"]
mod measure;
#[path = "shared/registries.rs"]
mod registries;

use coracle::{Image, Store};
use measure::{Result, tool};
use registries::{Daemon, TOLD, configure, coracle, debian, hash, run, settle, tell_memory};
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const ROUNDS: usize = 3;
const NEW: u64 = 100 << 20;

/// Cuts a root filesystem in two. A hard link into the other half is made a file by nobody: it is found below.
fn cut(archive: &Path, dir: &Path) -> Result<[PathBuf; 2]> {
    let paths = ["below.tar", "new.tar"].map(|name| dir.join(name));
    let below = fs::metadata(archive)?.len().saturating_sub(NEW);
    let open = |path: &PathBuf| {
        Ok::<_, std::io::Error>(tar::Builder::new(std::io::BufWriter::new(File::create(path)?)))
    };
    let mut out = [open(&paths[0])?, open(&paths[1])?];
    for entry in tar::Archive::new(BufReader::new(File::open(archive)?)).entries()? {
        let mut entry = entry?;
        let to = &mut out[usize::from(entry.raw_header_position() >= below)];
        let (path, mut header) = (entry.path()?.into_owned(), entry.header().clone());
        match entry.link_name()?.map(|link| link.into_owned()) {
            Some(link) => to.append_link(&mut header, &path, link)?,
            None => to.append_data(&mut header, &path, &mut entry)?,
        }
    }
    for out in out {
        out.into_inner()?.flush()?;
    }
    Ok(paths)
}

/// Docker's archive of both images.
fn archive(layers: &[PathBuf; 2], dir: &Path, authority: &str) -> Result<PathBuf> {
    let mut list = Vec::new();
    let ids = [hash(&layers[0])?, hash(&layers[1])?].map(|hex| format!("sha256:{hex}"));
    for (count, tag) in [(1, "below"), (2, "new")] {
        let config = json!({"architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": &ids[..count]}});
        fs::write(dir.join(format!("{tag}.json")), config.to_string())?;
        list.push(
            json!({"Config": format!("{tag}.json"), "RepoTags": [format!("{authority}/bench/app:{tag}")],
            "Layers": &["below.tar", "new.tar"][..count]}),
        );
    }
    fs::write(dir.join("manifest.json"), json!(list).to_string())?;
    let path = dir.join("images.tar");
    let names = ["manifest.json", "below.json", "new.json", "below.tar", "new.tar"];
    run(Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(&path).args(names))?;
    Ok(path)
}

/// The process that pushes: it says how much memory it needed.
fn child(told: &str) -> Result<()> {
    let (store, name) = told.split_once(' ').ok_or("STORE NAME")?;
    Store::open(store)?.image(name)?.push(name)?;
    tell_memory()
}

/// By what is measured.
type Rows = Vec<(String, Vec<Duration>)>;

/// One who pushes: `below` once before each measurement, then `new`.
fn round(
    config: &Path,
    storage: &Path,
    rows: &mut Rows,
    name: &str,
    push: &mut dyn FnMut(&str) -> Result<Duration>,
) -> Result<()> {
    // Nothing is left of what others pushed, in the registry's memory neither.
    let _ = fs::remove_dir_all(storage);
    let registry = Daemon::start(Command::new("docker-registry").arg("serve").arg(config), "listening on")?;
    push("below")?;
    settle()?;
    let took = push("new")?;
    let again = push("new")?;
    drop(registry);
    for (name, took) in [(name.to_owned(), took), (format!("{name}, once more"), again)] {
        match rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1.push(took),
            None => rows.push((name, vec![took])),
        }
    }
    Ok(())
}

fn median(rows: &Rows, name: &str) -> Option<f64> {
    let mut times = rows.iter().find(|row| row.0 == name)?.1.clone();
    times.sort();
    Some(times[times.len() / 2].as_secs_f64())
}

fn main() -> Result<()> {
    if let Ok(told) = std::env::var(TOLD) {
        return child(&told);
    }
    let scratch = tempfile::Builder::new().prefix("coracle-push").tempdir_in("/var/tmp")?;
    let dir = scratch.path();
    // Cargo itself passes `--bench`.
    let root = match std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        Some(archive) => PathBuf::from(archive),
        None => debian(dir)?,
    };
    let layers = cut(&root, dir)?;
    let authority = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let (config, storage) = (dir.join("config.yml"), dir.join("registry"));
    configure(&config, &authority, &storage)?;
    let archive = archive(&layers, dir, &authority)?;
    let name = |tag: &str| format!("{authority}/bench/app:{tag}");

    let plain = dir.join("plain");
    Image::load(&Store::open(&plain)?, &archive)?;
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(dir.join("podman")).arg("--runroot").arg(dir.join("podman-run"));
        run(command.args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs"]).args(args))
    };
    let archive = archive.to_str().ok_or("a path that is no text")?;
    if tool("podman") {
        podman(&["load", "-q", "-i", archive])?;
    }
    let socket = format!("unix://{}/docker.sock", dir.display());
    let mut dockerd = Command::new("dockerd");
    dockerd.arg("--data-root").arg(dir.join("docker")).arg("--exec-root").arg(dir.join("exec"));
    dockerd.arg("--pidfile").arg(dir.join("docker.pid")).args([
        "-H",
        &socket,
        "--bridge=none",
        "--iptables=false",
    ]);
    let dockerd = Daemon::start(dockerd.arg("--ip6tables=false"), "API listen on");
    let docker = |args: &[&str]| run(Command::new("docker").args(["-H", &socket]).args(args));
    match &dockerd {
        Ok(_) => drop(docker(&["load", "-q", "-i", archive])?),
        Err(error) => println!("without docker: {error}"),
    }

    let (mut rows, mut most) = (Rows::new(), [0, 0]);
    let packed = dir.join("packed");
    for at in 0..ROUNDS {
        round(&config, &storage, &mut rows, "coracle, plain in the store", &mut |tag| {
            let (took, memory) = coracle(&plain, &name(tag))?;
            most[0] = most[0].max(memory);
            Ok(took)
        })?;
        if at == 0 {
            // As it is compressed now, for the last row.
            let registry =
                Daemon::start(Command::new("docker-registry").arg("serve").arg(&config), "listening on")?;
            for tag in ["below", "new"] {
                Image::pull(&Store::open(&packed)?, &name(tag))?;
            }
            drop(registry);
        }
        if tool("podman") {
            round(&config, &storage, &mut rows, "podman", &mut |tag| {
                podman(&["push", "-q", "--tls-verify=false", &name(tag)])
            })?;
        }
        if dockerd.is_ok() {
            round(&config, &storage, &mut rows, "docker", &mut |tag| docker(&["push", "-q", &name(tag)]))?;
        }
        round(&config, &storage, &mut rows, "coracle, compressed in the store", &mut |tag| {
            let (took, memory) = coracle(&packed, &name(tag))?;
            most[1] = most[1].max(memory);
            Ok(took)
        })?;
    }
    let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len() >> 20);
    println!("a layer of {} MiB upon {} MiB; {ROUNDS} rounds, median", size(&layers[1]), size(&layers[0]));
    for (name, times) in &rows {
        let best = times.iter().min().copied().unwrap_or_default().as_secs_f64();
        println!("{name:<34} {:>7.3} s   best {best:>7.3} s", median(&rows, name).unwrap_or_default());
    }
    for ours in ["coracle, plain in the store", "coracle, compressed in the store"] {
        for (theirs, goal) in [("podman", ""), ("docker", " (the goal is at most 0.5)")] {
            if let (Some(ours_s), Some(theirs_s)) = (median(&rows, ours), median(&rows, theirs)) {
                println!("{ours} / {theirs}: {:.2}{goal}", ours_s / theirs_s);
            }
        }
    }
    println!(
        "coracle's memory at most: {} MiB, {} MiB (the goal is at most 64)",
        most[0] >> 10,
        most[1] >> 10
    );
    Ok(())
}
