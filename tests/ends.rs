//! Hundreds of sudden ends of a host program that is busy: nothing stays but what was kept, and that is whole.
//!
//! The host program is this test program again, with one test: some threads start, execute, stop, load and remove, and at
//! a moment that the seed says it ends in the way that [`MODE`] says. Its supervisor, a process of its own too, is a
//! subreaper: whatever outlives the host is its child, so "no process is left" is what waitpid(2) says. What else could be
//! left is looked for in `ends/left.rs`.

mod common;

#[path = "ends/left.rs"]
mod left;
#[path = "ends/supervisor.rs"]
mod supervisor;

use common::*;
use coracle::{Container, ErrorKind, Image, Mount, Store, Volume};
use left::Leak;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use supervisor::Supervisor;

const MODE: &str = "CORACLE_TEST_END";
const STORE: &str = "CORACLE_TEST_STORE";
const SEED: &str = "CORACLE_TEST_SEED";
const ENDS: &str = "CORACLE_TEST_ENDS";
const MODES: &str = "kill exec daemon abort memory";
/// What the host is busy with, in the words of its log.
const WORK: [&str; 5] = ["start", "exec", "stop", "load", "remove"];

/// xorshift64*: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Two threads may have the same name in mind, or one removes what another begins to use. Nothing else goes wrong.
#[track_caller]
fn may_lose<T>(result: coracle::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error)
            if [ErrorKind::AlreadyExists, ErrorKind::InUse, ErrorKind::NotFound].contains(&error.kind()) =>
        {
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the host has done, and which containers it has made.
struct Log {
    file: fs::File,
    done: AtomicU64,
}

impl Log {
    fn container(&self, id: &str) {
        writeln!(&self.file, "container {id}").unwrap();
    }

    fn done(&self, what: &str) {
        writeln!(&self.file, "{what}").unwrap();
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where something is mounted in every container by which its mounts are known: an overlay names no directory.
fn bound(store: &Path) -> PathBuf {
    store.with_extension("bound")
}

/// Starts, executes, stops, removes.
fn runs(image: &Image, log: &Log, mut random: Random) {
    loop {
        let mut builder = sh(image, "trap '' TERM; sleep 1000 & echo ready; wait; sleep 1000");
        builder = builder.bind(bound(image.store().path()), "/bound");
        if random.below(3) == 0 {
            builder = builder.init(true);
        }
        if random.below(3) == 0 {
            builder = builder.mount(Mount::anonymous_volume("/v"));
        }
        if random.below(4) == 0 {
            builder = builder.publish(80);
        }
        let container = builder.stdout(coracle::Stdio::piped()).create().unwrap();
        log.container(container.id());
        container.start().unwrap();
        log.done("start");
        for _ in 0..random.below(3) {
            assert_eq!(container.exec(["sh", "-c", "exit 4"]).output().unwrap().status.code(), Some(4));
            log.done("exec");
        }
        let executed = (random.below(2) == 0).then(|| container.exec(["sleep", "1000"]).spawn().unwrap());
        match random.below(3) {
            0 => {
                container.stop(Duration::ZERO).unwrap();
                log.done("stop");
            }
            1 => container.kill(coracle::Signal::SIGKILL).unwrap(),
            _ => {}
        }
        drop(executed);
        match random.below(2) {
            0 => drop(container),
            _ => container.remove().unwrap(),
        }
        log.done("remove");
        assert!(sh(image, "true").run().unwrap().status.success());
    }
}

/// Loads, makes, keeps, removes.
fn stores(store: &Store, log: &Log, mut random: Random) {
    loop {
        let number = random.below(4);
        let name = format!("app{number}:1");
        let noise: String = (0..2000).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
        let fixture = Fixture::new(&[&format!("common {number}"), &noise]);
        let archive = docker_archive(&[(&fixture, &[&name])]);
        let loaded = Image::load_reader(store, &archive[..]).unwrap();
        log.done("load");
        let builder = Container::builder(&loaded[0]).bind(bound(store.path()), "/bound");
        if let Some(container) = may_lose(builder.name(format!("k-{number}")).create()) {
            log.container(container.id());
            // It has no such program, but its layers are unpacked, and its root filesystem is made.
            assert_eq!(container.start().unwrap_err().kind(), ErrorKind::Exec);
            if random.below(2) == 0 {
                container.keep().unwrap();
                may_lose(store.container(&format!("k-{number}")).and_then(Container::remove));
                log.done("remove");
            }
        }
        if let Some(volume) = may_lose(Volume::create(store, &format!("v-{number}"))) {
            may_lose(volume.remove());
        }
        drop(loaded);
        if random.below(2) == 0 {
            may_lose(store.force_remove_image(&name));
            log.done("remove");
        }
    }
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// Not a test when run by itself.
#[test]
fn host_program() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let path = PathBuf::from(std::env::var_os(STORE).unwrap());
    let mut random = Random::new(seed);
    // Counted in what it does, as machines differ; and some time in the middle of it.
    let moment = random.below(24);
    let later = Duration::from_micros(random.below(if moment == 0 { 40_000 } else { 5_000 }));
    let file = fs::OpenOptions::new().append(true).create(true).open(path.with_extension("log")).unwrap();
    let log: &Log = Box::leak(Box::new(Log { file, done: AtomicU64::new(0) }));
    for number in 0..3 {
        let (path, random) = (path.clone(), Random::new(seed ^ (number << 32)));
        std::thread::spawn(move || {
            // A thread that fails is seen: the program ends in another way than it is to.
            let work = std::panic::AssertUnwindSafe(|| {
                let store = Store::open(path).unwrap();
                match number {
                    2 => stores(&store, log, random),
                    _ => runs(&Image::host(&store).unwrap(), log, random),
                }
            });
            if std::panic::catch_unwind(work).is_err() {
                // While a program is being replaced, its other threads can't have new ones (EAGAIN); nor memory, when there
                // is none.
                while ENDING.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                std::process::exit(99);
            }
        });
    }
    while log.done.load(Ordering::Relaxed) < moment {
        std::thread::park_timeout(Duration::from_micros(200));
    }
    std::thread::park_timeout(later);
    ENDING.store(true, Ordering::SeqCst);
    let fork = |again: bool| {
        // SAFETY: the copies call only what is async-signal-safe.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Parent { .. } => false,
            nix::unistd::ForkResult::Child if again => true,
            nix::unistd::ForkResult::Child => loop {
                nix::unistd::pause();
            },
        }
    };
    match mode.as_str() {
        "kill" => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
        "abort" => std::process::abort(),
        "exec" => {
            fork(false);
            use std::os::unix::process::CommandExt;
            panic!("{}", Command::new("sleep").arg("1000").exec());
        }
        // As daemon(3) has it: the parent ends, the child leads a session, and its child stays.
        "daemon" => {
            if fork(true) {
                nix::unistd::setsid().unwrap();
                fork(false);
            }
            // SAFETY: ends this process without its destructors.
            unsafe { nix::libc::_exit(0) }
        }
        "memory" => {
            // Where no control group sets an end to it, the program's own limit does.
            if std::env::var_os(supervisor::GROUP).is_none() {
                let limit = rustix::process::Rlimit { current: Some(64 << 20), maximum: None };
                let hard = rustix::process::getrlimit(rustix::process::Resource::Data).maximum;
                let limit = rustix::process::Rlimit { maximum: hard, ..limit };
                rustix::process::setrlimit(rustix::process::Resource::Data, limit).unwrap();
            }
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                all.push(vec![all.len() as u8 | 1; 1 << 20]);
            }
        }
        other => panic!("{other}"),
    }
    panic!("{mode} goes on");
}

/// Not a test when run by itself.
#[test]
fn supervisor() {
    let Ok(ends) = std::env::var(ENDS) else { return };
    let mut words = ends.split(' ');
    let [from, number] = [(); 2].map(|()| words.next().unwrap().parse::<u64>().unwrap());
    let modes: Vec<_> = words.collect();
    let mut supervisor = Supervisor::new();
    let mut work = BTreeMap::new();
    for seed in from..from + number {
        let mode = modes[seed as usize % modes.len()];
        eprintln!("{mode}, seed {seed}");
        let ended = supervisor.end(mode, seed, None);
        for what in ended.done {
            *work.entry(what).or_insert(0) += 1;
        }
        assert!(
            ended.left.is_empty(),
            "{}\nThis end again: {ENDS}='{seed} 1 {mode}', --exact supervisor --nocapture",
            ended.left.join("\n")
        );
    }
    println!("{}: {work:?}", supervisor.memory_ends_by());
    if number > 10 {
        assert!(WORK.iter().all(|what| work.get(*what).is_some_and(|n| *n > number / 10)), "{work:?}");
    }
}

/// By two supervisors at once, with a store each. A failure names the seed and how that end is had alone;
/// [`SEED`] gives all of them again.
#[test]
fn two_hundred_ends() {
    // In an emulated machine one takes some seconds.
    let number = match std::env::var("CORACLE_LANE") {
        Ok(lane) if lane.starts_with("vm-") => 8,
        _ => 200,
    };
    let seed = std::env::var(SEED).map_or_else(
        |_| std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64 % 1_000_000 * 1000,
        |seed| seed.parse().unwrap(),
    );
    println!("{SEED}={seed}");
    std::thread::scope(|scope| {
        for half in 0..2 {
            let ends = format!("{} {} {MODES}", seed + half * number / 2, number / 2);
            scope.spawn(move || passes(child("supervisor", &[(ENDS, ends.as_ref())])));
        }
    });
}

/// Each kind of leak is seen when it is there, and nothing is when it is not.
#[test]
fn a_leak_is_seen() {
    if !is_own_process("a_leak_is_seen") {
        return;
    }
    let mut supervisor = Supervisor::new();
    for (number, leak) in Leak::ALL.into_iter().enumerate() {
        let ended = supervisor.end("kill", 7000 + number as u64, Some(leak));
        if ended.planted {
            let seen = ended.left.iter().any(|line| line.contains(leak.word()));
            assert!(seen, "{leak:?} was not seen: {:?}", ended.left);
        } else {
            // A control group, where this user can have none.
            assert!(leak == Leak::Group && !is_root(), "{leak:?} can't be made here");
        }
    }
    assert_eq!(supervisor.end("kill", 7, None).left, [""; 0]);
}
