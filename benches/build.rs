//! How long a build takes, beside docker and buildah: eight steps anew, the same again with nothing to do, and that with a context
//! of 10,000 files, beside a walk that only looks at each of them.
//!
//! ```text
//! cargo bench --features build --bench build
//! ```
//! As root. All build the same Dockerfile on the same image of busybox, with no network. Coracle in a process of its own, as the
//! others are, and in this one. Docker's is the builder of its daemon (Debian has no buildx), which is started here; buildah
//! is asked with `--layers`, as only then it keeps its steps, and for the build anew also without. A report, not a test.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "shared/measure.rs"]
mod measure;
#[path = "shared/registries.rs"]
#[allow(dead_code)] // a daemon is all that is needed of it
mod registries;

use common::{Fixture, docker_archive};
use coracle::{Build, Image, Network, Store};
use measure::{Result, Row, measure, rootfs, timed, tool};
use registries::{Daemon, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// For a process that builds: its store, the context, and whether anew.
const TOLD: &str = "CORACLE_BENCH_BUILD";
const BASE: &str = "localhost/bench:1";
const TEXT: &str = "\
FROM localhost/bench:1
ENV A=1 PATH=/bin
WORKDIR /app
COPY package.json .
RUN [\"/bin/busybox\", \"cp\", \"package.json\", \"lock\"]
COPY . .
RUN [\"/bin/busybox\", \"sh\", \"-c\", \"cat src/*/* > all && mkdir out && cp all out/\"]
RUN [\"/bin/busybox\", \"rm\", \"-r\", \"lock\"]
CMD [\"/bin/busybox\", \"cat\", \"all\"]
";
/// Of the build anew.
const FILES: usize = 200;
const MANY: usize = 10_000;

fn context(dir: &Path, files: usize, text: &str) -> Result<PathBuf> {
    for n in 0..files {
        let path = dir.join(format!("src/dir{}/file{n}", n / 100));
        if n % 100 == 0 {
            fs::create_dir_all(path.parent().ok_or("no directory")?)?;
        }
        fs::write(path, format!("content of file {n}\n").repeat(20))?;
    }
    fs::write(dir.join("package.json"), "{}")?;
    fs::write(dir.join("Dockerfile"), text)?;
    Ok(dir.to_owned())
}

/// A look at everything, in the order of directories: what no build can do without.
fn walk(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += 1;
        if entry.metadata()?.is_dir() {
            count += walk(&entry.path())?;
        }
    }
    Ok(count)
}

fn build(store: &Store, context: &Path, anew: bool) -> Result<()> {
    Build::context(context).no_cache(anew).network(Network::none()).run(store)?;
    Ok(())
}

/// The process that builds.
fn child(told: &str) -> Result<()> {
    let words: Vec<_> = told.split(' ').collect();
    let [store, context, anew] = words[..] else { return Err("STORE CONTEXT ANEW".into()) };
    build(&Store::open(store)?, Path::new(context), anew == "true")
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    docker: Option<Daemon>,
    buildah: bool,
}

impl Bench {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp")?;
        let store = Store::open(dir.path().join("store"))?;
        let root = rootfs(dir.path())?;
        let mut layer = tar::Builder::new(Vec::new());
        layer.append_dir_all("", &root)?;
        let image = Fixture::of(vec![layer.into_inner()?]);
        let archive = dir.path().join("base.tar");
        fs::write(&archive, docker_archive(&[(&image, &[BASE])]))?;
        Image::load(&store, &archive)?;
        let mut bench = Self { dir, store, docker: None, buildah: tool("buildah") };
        if bench.buildah {
            run(bench.buildah(&["pull", "--quiet"]).arg(format!("docker-archive:{}", archive.display())))?;
        } else {
            println!("buildah: not installed");
        }
        match bench.start_docker() {
            Ok(daemon) => {
                bench.docker = Some(daemon);
                run(bench.docker(&["load", "--quiet", "--input"]).arg(&archive))?;
            }
            Err(error) => println!("docker: {error}"),
        }
        Ok(bench)
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn start_docker(&self) -> Result<Daemon> {
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &self.at("docker"), "--exec-root", &self.at("docker-run")]);
        command.args([
            "--pidfile",
            &self.at("docker.pid"),
            "--host",
            &format!("unix://{}", self.at("socket")),
        ]);
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        Daemon::start(&mut command, "API listen on")
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &format!("unix://{}", self.at("socket"))]).args(args);
        command.env("DOCKER_BUILDKIT", "0");
        command
    }

    fn buildah(&self, args: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.args(["--root", &self.at("buildah"), "--runroot", &self.at("buildah-run")]);
        command.args(["--storage-driver", "overlay"]).args(args);
        command
    }

    /// The ways to build, each in a process of its own but the second.
    fn rows(&self, context: &Path, anew: bool, runs: usize) -> Vec<Row<'_>> {
        let context = context.to_owned();
        let told = format!("{} {} {anew}", self.store.path().display(), context.display());
        let (store, own) = (self.store.clone(), context.clone());
        let mut rows = vec![
            Row::new("coracle, a process of its own", runs, move || {
                let mut command = Command::new(std::env::current_exe()?);
                command.env(TOLD, &told);
                timed(command)()
            }),
            Row::new("coracle, in this process", runs, move || {
                let begin = Instant::now();
                build(&store, &own, anew)?;
                Ok(begin.elapsed())
            }),
        ];
        if self.docker.is_some() {
            let flags: &[&str] =
                if anew { &["build", "--network=none", "--no-cache"] } else { &["build", "--network=none"] };
            let (flags, context) = (flags.to_vec(), context.clone());
            rows.push(Row::new("docker build (classic)", runs, move || {
                let mut command = self.docker(&flags);
                command.arg(&context);
                timed(command)()
            }));
        }
        if self.buildah {
            let kinds: &[(&str, &[&str])] = if anew {
                &[("buildah bud --layers", &["--layers", "--no-cache"]), ("buildah bud", &["--no-cache"])]
            } else {
                &[("buildah bud --layers", &["--layers"])]
            };
            for (name, flags) in kinds {
                let context = context.clone();
                rows.push(Row::new(name, runs, move || {
                    let mut command =
                        self.buildah(&["bud", "--quiet", "--isolation", "chroot", "--pull-never"]);
                    command.args(*flags).arg(&context);
                    timed(command)()
                }));
            }
        }
        rows
    }
}

/// The first row beside the best of the peers.
fn goal(what: &str, most: f64, rows: &[Row<'_>], medians: &[Option<f64>]) {
    let peers = rows.iter().zip(medians).filter(|(row, _)| !row.name().starts_with("coracle"));
    let best = peers.filter_map(|(_, median)| *median).min_by(f64::total_cmp);
    if let (Some(own), Some(best)) = (medians[0], best) {
        println!("goal: {what} at most {most} times the faster peer: {:.3}", own / best);
    }
}

fn main() -> Result<()> {
    if let Ok(told) = std::env::var(TOLD) {
        return child(&told);
    }
    if !rustix::process::geteuid().is_root() {
        println!("needs root: for the peers");
        return Ok(());
    }
    let bench = Bench::new()?;
    println!("medians of interleaved runs, in ms; ratio to the first row");
    let few = context(&bench.dir.path().join("few"), FILES, TEXT)?;
    for (what, anew, runs, most) in
        [("eight steps anew", true, 9, 0.4), ("eight steps, nothing to do", false, 15, 0.15)]
    {
        println!("\n{what}, a context of {FILES} files");
        let mut rows = bench.rows(&few, anew, runs);
        let medians = measure(&mut rows);
        goal(what, most, &rows, &medians);
    }
    let many = context(&bench.dir.path().join("many"), MANY, "FROM localhost/bench:1\nCOPY . /ctx\n")?;
    // What was written a moment ago may change within the grain of its time: nobody's cache believes it yet.
    std::thread::sleep(Duration::from_secs(3));
    println!("\na context of {MANY} files, nothing to do");
    let mut rows = vec![Row::new("a walk that looks at each", 30, || {
        let begin = Instant::now();
        let count = walk(&many)?;
        let took = begin.elapsed();
        if count > MANY { Ok(took) } else { Err(format!("{count} files").into()) }
    })];
    rows.extend(bench.rows(&many, false, 9));
    let medians = measure(&mut rows);
    for at in [1, 2] {
        if let (Some(floor), Some(own)) = (medians[0], medians[at]) {
            println!("goal: {} at most 2 times the walk: {:.2}", rows[at].name(), own / floor);
        }
    }
    Ok(())
}
