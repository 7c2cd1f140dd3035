//! How long an image takes from a registry on this machine to a store, beside podman and docker, and how much memory it needs.
//!
//! ```text
//! cargo bench --features registry --bench pull [-- ARCHIVE.tar]
//! ```
//! Without an archive, a root filesystem of about 450 MB is made with mmdebstrap (a minute, from Debian's mirror). It is cut
//! into four layers and pushed by skopeo to Debian's docker-registry, which compresses nothing and has all in the page cache.
//! Then everybody pulls it into an empty store, in turn; coracle in a process of its own, whose memory (VmHWM) is read at its
//! end. Coracle's time has a syncfs for each layer in it. Podman and docker leave most of what they wrote to the kernel: so there
//! is the time of their commands, with which the goals are compared, and that with one syncfs, after which they have what coracle has.
//! Last come the parts by themselves, each beside the best that there is for it.
//! As root; docker is left out where its daemon does not run. A report, not a test.
//!
//! All of it stays until the end, about 8 GB: for some minutes ext4 without a journal passes over inodes that have been freed,
//! one by one for each file that is made, and that became most of the time of whoever came after a removal.

#[path = "shared/measure.rs"]
mod measure;
#[path = "shared/registries.rs"]
mod registries;

use coracle::{Image, Layer, Store};
use flate2::bufread::GzDecoder;
use measure::{Result, tool};
use registries::{Daemon, TOLD, configure, coracle, debian, hash, run, settle, tell_memory};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const NAME: &str = "bench/debian:1";

/// Cuts a root filesystem into layers, in docker's archive form.
fn layers(archive: &Path, dir: &Path) -> Result<Vec<PathBuf>> {
    let of = |path: &Path| match path.to_string_lossy().trim_start_matches("./") {
        text if text.starts_with("usr/lib/gcc") || text.starts_with("usr/lib/git-core") => 3,
        text if text.starts_with("usr/lib/") => 1,
        text if text.starts_with("usr/share/") => 2,
        _ => 0,
    };
    let paths: Vec<_> = (0..4).map(|at| dir.join(format!("layer-{at}.tar"))).collect();
    let mut out = Vec::new();
    for path in &paths {
        out.push(tar::Builder::new(std::io::BufWriter::new(File::create(path)?)));
    }
    let mut dirs: BTreeMap<PathBuf, tar::Header> = BTreeMap::new();
    let mut has: Vec<BTreeSet<PathBuf>> = vec![BTreeSet::new(); 4];
    for entry in tar::Archive::new(BufReader::new(File::open(archive)?)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let mut header = entry.header().clone();
        if header.entry_type().is_dir() {
            dirs.insert(path.clone(), header.clone());
        }
        let link = entry.link_name()?.map(|link| link.into_owned());
        // A hard link is where its file is.
        let at = match &link {
            Some(link) if header.entry_type().is_hard_link() => of(link),
            _ => of(&path),
        };
        let above: Vec<_> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for above in above.into_iter().rev() {
            if let Some(header) = dirs.get_mut(&above)
                && has[at].insert(above.clone())
            {
                out[at].append_data(header, &above, std::io::empty())?;
            }
        }
        match link {
            Some(link) => out[at].append_link(&mut header, &path, link)?,
            None if header.entry_type().is_dir() && !has[at].insert(path.clone()) => {}
            None => out[at].append_data(&mut header, &path, &mut entry)?,
        }
    }
    for out in out {
        out.into_inner()?.flush()?;
    }
    Ok(paths)
}

/// An archive for skopeo, which pushes it compressed.
fn push(layers: &[PathBuf], dir: &Path, authority: &str) -> Result<()> {
    let diff_ids: Vec<_> =
        layers.iter().map(|path| Ok(format!("sha256:{}", hash(path)?))).collect::<Result<_>>()?;
    let config = json!({"architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let names: Vec<_> = layers.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["bench:1"], "Layers": names}]);
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("manifest.json"), manifest.to_string())?;
    let archive = dir.join("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(dir).arg("-cf").arg(&archive).args(["manifest.json", "config.json"]).args(names);
    run(&mut tar)?;
    let from = format!("docker-archive:{}", archive.display());
    let to = format!("docker://{authority}/{NAME}");
    run(Command::new("skopeo").args(["copy", "--insecure-policy", "--dest-tls-verify=false", &from, &to]))?;
    fs::remove_file(archive)?;
    Ok(())
}

/// The process that pulls: it says how much memory it needed.
fn child(told: &str) -> Result<()> {
    let (store, name) = told.split_once(' ').ok_or("STORE NAME")?;
    Image::pull(&Store::open(store)?, name)?;
    tell_memory()
}

#[derive(Default)]
struct Rows(Vec<(&'static str, Vec<Duration>)>);

impl Rows {
    fn note(&mut self, name: &'static str, time: Duration) {
        match self.0.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1.push(time),
            None => self.0.push((name, vec![time])),
        }
    }

    fn median(&self, name: &str) -> Option<f64> {
        let mut times = self.0.iter().find(|row| row.0 == name)?.1.clone();
        times.sort();
        Some(times[times.len() / 2].as_secs_f64())
    }

    fn print(&self) {
        for (name, times) in &self.0 {
            let best = times.iter().min().copied().unwrap_or_default().as_secs_f64();
            println!("{name:<34} {:>7.3} s   best {best:>7.3} s", self.median(name).unwrap_or_default());
        }
    }

    fn ratio(&self, ours: &str, theirs: &str, goal: f64) {
        if let (Some(ours_s), Some(theirs_s)) = (self.median(ours), self.median(theirs)) {
            println!("{ours} / {theirs}: {:.2} (the goal is at most {goal})", ours_s / theirs_s);
        }
    }
}

/// A GET, byte by byte off the socket: the least that a client does.
fn get(authority: &str, path: &str, mut to: impl FnMut(&[u8])) -> Result<()> {
    let mut stream = TcpStream::connect(authority)?;
    let accept = "application/vnd.docker.distribution.manifest.v2+json";
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut input = BufReader::with_capacity(128 << 10, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        input.read_line(&mut line)?;
    }
    loop {
        let n = match input.fill_buf()? {
            [] => return Ok(()),
            bytes => {
                to(bytes);
                bytes.len()
            }
        };
        input.consume(n);
    }
}

/// The parts of a pull, one after the other, on one processor but for what the system does beside.
fn parts(rows: &mut Rows, authority: &str, blobs: &[String], dir: &Path, layers: &[PathBuf]) -> Result<()> {
    let files: Vec<_> = (0..blobs.len()).map(|at| dir.join(format!("blob-{at}"))).collect();
    for (blob, file) in blobs.iter().zip(&files) {
        let mut bytes = Vec::new();
        get(authority, &format!("/v2/bench/debian/blobs/{blob}"), |part| bytes.extend_from_slice(part))?;
        fs::write(file, bytes)?;
    }
    let mut timed = |name, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        settle()?;
        let begin = Instant::now();
        work()?;
        rows.note(name, begin.elapsed());
        Ok(())
    };
    let each = |program: &str, args: &[&str], files: &[PathBuf]| {
        files.iter().try_for_each(|file| run(Command::new(program).args(args).arg(file)).map(drop))
    };
    for round in 0..ROUNDS {
        timed("network, as coracle (ureq)", &mut || {
            let mut buffer = vec![0; 128 << 10];
            for blob in blobs {
                let answer = ureq::get(format!("http://{authority}/v2/bench/debian/blobs/{blob}")).call()?;
                let mut body = answer.into_body().into_reader();
                while body.read(&mut buffer)? > 0 {}
            }
            Ok(())
        })?;
        timed("network, floor (a socket)", &mut || {
            blobs
                .iter()
                .try_for_each(|blob| get(authority, &format!("/v2/bench/debian/blobs/{blob}"), |_| ()))
        })?;
        timed("hash, as coracle (sha2)", &mut || {
            files.iter().chain(layers).try_for_each(|file| hash(file).map(drop))
        })?;
        timed("hash, floor (openssl)", &mut || {
            each("openssl", &["dgst", "-sha256"], &[&files[..], layers].concat())
        })?;
        timed("inflate, as coracle (zlib-rs)", &mut || {
            let mut buffer = vec![0; 128 << 10];
            for file in &files {
                let mut plain = GzDecoder::new(BufReader::with_capacity(128 << 10, File::open(file)?));
                while plain.read(&mut buffer)? > 0 {}
            }
            Ok(())
        })?;
        timed("inflate, floor (gzip)", &mut || each("gzip", &["-dc"], &files))?;
        timed("write, coracle (with its hashes)", &mut || {
            let store = Store::open(dir.join(format!("parts-{round}")))?;
            for layer in layers {
                // Read once before, as it is built, so this is hashed and written in the second step alone.
                Layer::builder().tar(layer).build(&store)?.unpack(&[])?;
            }
            Ok(())
        })?;
        timed("write, floor (GNU tar, one syncfs)", &mut || {
            let to = dir.join(format!("tar-{round}"));
            fs::create_dir(&to)?;
            for layer in layers {
                let mut tar = Command::new("tar");
                tar.args(["--numeric-owner", "-xpf"]).arg(layer).arg("-C").arg(&to);
                run(&mut tar)?;
            }
            run(Command::new("sync").arg("-f").arg(&to)).map(drop)
        })?;
    }
    Ok(())
}

fn main() -> Result<()> {
    if let Ok(told) = std::env::var(TOLD) {
        return child(&told);
    }
    let scratch = tempfile::Builder::new().prefix("coracle-pull").tempdir_in("/var/tmp")?;
    let dir = scratch.path();
    // Cargo itself passes `--bench`.
    let archive = match std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        Some(archive) => PathBuf::from(archive),
        None => debian(dir)?,
    };
    let layers = layers(&archive, dir)?;
    let authority = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let config = dir.join("config.yml");
    configure(&config, &authority, &dir.join("registry"))?;
    let _registry = Daemon::start(Command::new("docker-registry").arg("serve").arg(config), "listening on")?;
    push(&layers, dir, &authority)?;
    let name = format!("{authority}/{NAME}");
    let mut manifest = Vec::new();
    get(&authority, "/v2/bench/debian/manifests/1", |part| manifest.extend_from_slice(part))?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let blobs = manifest["layers"].as_array().ok_or("layers")?.iter();
    let sizes: Vec<_> = blobs.clone().filter_map(|layer| layer["size"].as_u64()).collect();
    let blobs: Vec<_> = blobs.filter_map(|layer| Some(layer["digest"].as_str()?.to_owned())).collect();

    let (mut rows, mut most) = (Rows::default(), 0);
    for round in 0..ROUNDS {
        let place = dir.join(round.to_string());
        fs::create_dir(&place)?;
        let socket = format!("unix://{}/docker.sock", place.display());
        let mut dockerd = Command::new("dockerd");
        dockerd.arg("--data-root").arg(place.join("docker")).arg("--exec-root").arg(place.join("exec"));
        dockerd.arg("--pidfile").arg(place.join("docker.pid")).args([
            "-H",
            &socket,
            "--bridge=none",
            "--iptables=false",
        ]);
        let dockerd = Daemon::start(dockerd.arg("--ip6tables=false"), "API listen on");
        if let Err(error) = &dockerd {
            println!("without docker: {error}");
        }
        let docker = |args: &[&str]| run(Command::new("docker").args(["-H", &socket]).args(args).arg(&name));
        let podman = |args: &[&str]| {
            let mut command = Command::new("podman");
            command.arg("--root").arg(place.join("podman")).arg("--runroot").arg(place.join("podman-run"));
            run(command.args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs"]).args(args).arg(&name))
        };
        let store = place.join("store");
        settle()?;
        let (took, memory) = coracle(&store, &name)?;
        rows.note("coracle, cold", took);
        most = most.max(memory);
        rows.note("coracle, there already", coracle(&store, &name)?.0);
        if tool("podman") {
            settle()?;
            let took = podman(&["pull", "-q", "--tls-verify=false"])?;
            rows.note("podman, cold", took);
            rows.note("podman, cold, and a syncfs", took + run(Command::new("sync").arg("-f").arg(dir))?);
            rows.note("podman, there already", podman(&["pull", "-q", "--tls-verify=false"])?);
        }
        if dockerd.is_ok() {
            settle()?;
            let took = docker(&["pull", "-q"])?;
            rows.note("docker, cold", took);
            rows.note("docker, cold, and a syncfs", took + run(Command::new("sync").arg("-f").arg(dir))?);
            rows.note("docker, there already", docker(&["pull", "-q"])?);
        }
    }
    parts(&mut rows, &authority, &blobs, dir, &layers)?;
    let plain: u64 = layers.iter().map(|layer| fs::metadata(layer).map_or(0, |meta| meta.len())).sum();
    let mib = |bytes: &u64| bytes >> 20;
    println!(
        "layers of {:?} MiB compressed, {} MiB plain; {ROUNDS} rounds, median",
        sizes.iter().map(mib).collect::<Vec<_>>(),
        mib(&plain)
    );
    rows.print();
    rows.ratio("coracle, cold", "podman, cold", 0.5);
    rows.ratio("coracle, cold", "docker, cold", 0.3);
    rows.ratio("coracle, cold", "podman, cold, and a syncfs", 0.5);
    rows.ratio("coracle, cold", "docker, cold, and a syncfs", 0.3);
    println!("coracle's memory at most: {} MiB (the goal is at most 64)", most >> 10);
    Ok(())
}
