//! Whatever way the host program goes, nothing of its containers stays.
//!
//! The host program is this test program again, with one test: it starts containers, says which processes they are,
//! and does what [`MODE`] says.
use super::*;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const MODE: &str = "CORACLE_TEST_HOST";
const STORE: &str = "CORACLE_TEST_STORE";
/// Set for a host whose user has sub-ids.
const RANGE: &str = "CORACLE_TEST_RANGE";
/// Where the first container's port is published.
const ADDRESS: &str = "CORACLE_TEST_ADDRESS";
/// Set in a container whose root becomes another user.
const BECOMES: &str = "CORACLE_TEST_BECOMES";
/// One process that has a child, ignores what can be ignored and has left its session.
const SCRIPT: &str = "trap '' HUP INT TERM; setsid sleep 1000 & echo ready; wait";
/// How many containers it has.
fn containers() -> usize {
    tries(20) as usize
}

/// Not a test when run by itself.
#[test]
fn host_program() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let store = coracle::Store::open(std::env::var_os(STORE).unwrap()).unwrap();
    if mode == "kept" {
        let container = store.container("kept").unwrap();
        container.start().unwrap();
        writeln!(std::io::stdout(), "\nPIDS {}", container.pid().unwrap()).unwrap();
        container.wait().unwrap();
        panic!("it goes on");
    }
    let image = Image::host(&store).unwrap();
    let (mut all, mut changed) = (Vec::new(), 0);
    for number in 0..containers() {
        let mut builder = sh(&image, SCRIPT);
        // The first has told whether there are other users at all.
        let has_users = all.first().is_some_and(|first| !is_single(first));
        if number % 4 == 1 && has_users {
            builder = builder.user("1:1");
        }
        if number % 4 == 0 && has_users {
            all.push(becoming_another_user(&image));
            changed += 1;
            continue;
        }
        if number % 4 == 2 {
            builder = builder.init(true).mount(Mount::anonymous_volume("/v"));
        }
        if number % 4 == 3 && is_root() {
            builder = builder.memory_max(64 << 20);
        }
        if number == 0 {
            let address: std::net::SocketAddr = std::env::var(ADDRESS).unwrap().parse().unwrap();
            builder = builder.publish_at(address, 80);
        }
        all.push(ready(&builder));
    }
    // Only who runs the suite by hand may have no sub-ids.
    let is_sure =
        is_root() || [RANGE, "CORACLE_LANE"].into_iter().any(|name| std::env::var_os(name).is_some());
    assert_eq!(changed, if is_single(&all[0]) && !is_sure { 0 } else { containers().div_ceil(4) - 1 });
    let mut pids = Vec::new();
    for container in &all {
        let own = container.top().unwrap();
        assert!(own.len() >= 2, "{own:?}");
        pids.push(warden_of(container));
        pids.extend(own.iter().map(|process| process.pid));
    }
    pids.sort();
    pids.dedup();
    if mode == "paused" {
        all.iter().take(5).for_each(|container| container.pause().unwrap());
    }
    let mut forked = String::new();
    if mode == "forked" {
        // SAFETY: the copy calls only pause(2), which is async-signal-safe.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => loop {
                nix::unistd::pause();
            },
            nix::unistd::ForkResult::Parent { child } => forked = child.to_string(),
        }
    }
    if mode == "dropped" {
        let nobody = nix::unistd::Uid::from_raw(65534);
        nix::unistd::setresuid(nobody, nobody, nobody).unwrap();
    }
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let mut out = std::io::stdout();
    let port = all[0].host_addr(80).unwrap();
    writeln!(out, "\nPIDS {}\nFORKED {forked}\nPORT {port}", pids.join(" ")).unwrap();
    out.flush().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    match mode.as_str() {
        "exec" => panic!("{}", Command::new("sleep").arg("1000").stdin(Stdio::null()).exec()),
        "exit" => {
            std::mem::forget(all);
            std::process::exit(0);
        }
        "abort" => std::process::abort(),
        "unwind" => panic!("as asked"),
        other => panic!("{other} goes on"),
    }
}

/// A container whose first process starts as root and has become another user when this returns: of such a process the
/// kernel forgets what it was to be sent at its parent's death (prctl(2), PR_SET_PDEATHSIG).
fn becoming_another_user(image: &Image) -> Container {
    let own = std::env::current_exe().unwrap();
    let words = ["/program", "--exact", "death::another_user", "--nocapture", "--test-threads=1"];
    let builder = Container::builder(image).command(words).mount(Mount::bind(own, "/program").read_only());
    let container = builder.env(BECOMES, "1").stdout(coracle::Stdio::piped()).start().unwrap();
    let lines = BufReader::new(container.take_stdout().unwrap()).lines().map_while(Result::ok);
    // What it says first is the test runner's.
    assert!(lines.into_iter().any(|line| line.ends_with("ready")), "{:?}", container.wait());
    let first = container.pid().unwrap();
    let read = |name: &str| fs::read_to_string(format!("/proc/{first}/{name}")).unwrap();
    let status = read("status");
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    let map = read("uid_map");
    let root = map.split_whitespace().nth(1).unwrap();
    assert!(uids.split_whitespace().all(|uid| uid != root), "{uids} of {map}");
    container
}

/// Not a test when run by itself: what such a container executes.
#[test]
fn another_user() {
    if std::env::var_os(BECOMES).is_none() {
        return;
    }
    let (uid, gid) = (nix::unistd::Uid::from_raw(33), nix::unistd::Gid::from_raw(33));
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(gid, gid, gid).unwrap();
    nix::unistd::setresuid(uid, uid, uid).unwrap();
    panic!("{}", Command::new("/bin/sh").args(["-c", SCRIPT]).exec());
}

struct Host {
    child: Child,
    processes: Vec<OwnedFd>,
    forked: Option<i32>,
    /// Nobody else listens there when it has gone.
    port: Reserved,
}

impl Host {
    fn start(mode: &str, store: &Path) -> Self {
        let port = Reserved::new();
        let address = port.address.to_string();
        let vars = [(MODE, mode.as_ref()), (STORE, store.as_os_str()), (ADDRESS, address.as_ref())];
        let errors = tempfile::NamedTempFile::new().unwrap();
        let mut child = child("death::host_program", &vars)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen().unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let pids = lines.find_map(|line| line.strip_prefix("PIDS ").map(str::to_owned));
        let pids = pids.unwrap_or_else(|| {
            let why = fs::read_to_string(errors.path()).unwrap();
            panic!("the host program started no containers: {:?}\n{why}", child.wait())
        });
        // Those that only started a container may be ending now.
        let pidfds = pids.split(' ').filter_map(|pid| try_pidfd(pid.parse().unwrap()));
        let processes: Vec<_> = pidfds.filter(|process| !ends(process, Duration::ZERO)).collect();
        let forked = lines.find_map(|line| line.strip_prefix("FORKED ").map(str::to_owned));
        let forked = forked.and_then(|pid| pid.parse().ok());
        let said = lines.find_map(|line| line.strip_prefix("PORT ")?.parse().ok());
        assert_eq!(said, Some(port.address));
        // Each container has two at least, and there is the warden.
        assert!(processes.len() > 2 * containers());
        // Nothing listens in the container, but here somebody does.
        drop(std::net::TcpStream::connect(port.address).unwrap());
        Self { child, processes, forked, port }
    }

    fn end_forked(&mut self) {
        if let Some(pid) = self.forked.take() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn assert_port_closed(&self) {
        let error = std::net::TcpStream::connect(self.port.address).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }

    /// All processes end, and what is on disk goes with the next opening of the store. A program that unwinds removes its
    /// containers one after the other before its warden ends.
    fn assert_gone(&self, store: &Path) {
        for (number, process) in self.processes.iter().enumerate() {
            assert!(ends(process, LONG), "process {number} of {}", self.processes.len());
        }
        self.assert_port_closed();
        let ids: Vec<_> =
            fs::read_dir(store.join("containers")).unwrap().flatten().map(|e| e.file_name()).collect();
        // A program that is being replaced lets go of one file after the other.
        let deadline = std::time::Instant::now() + LONG;
        while !coracle::Store::open(store).unwrap().containers().unwrap().is_empty() {
            assert!(std::time::Instant::now() < deadline, "containers of the dead are in the store");
            std::thread::yield_now();
        }
        assert_eq!((count(store.join("containers")), count(store.join("volumes"))), (0, 0));
        for id in ids {
            assert!(cgroups_with(&id.to_string_lossy()).is_empty());
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(pid) = self.forked {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn killed(mode: &str) {
    let store = tempfile::tempdir().unwrap();
    let mut host = Host::start(mode, store.path());
    host.child.kill().unwrap();
    host.child.wait().unwrap();
    host.assert_gone(store.path());
}

fn told_to(mode: &str) {
    let store = tempfile::tempdir().unwrap();
    let mut host = Host::start(mode, store.path());
    drop(host.child.stdin.take());
    host.assert_gone(store.path());
}

#[test]
fn killed_host() {
    killed("plain");
}

#[test]
#[ignore = "needs root: a freezer of its own"]
fn killed_host_with_paused_containers() {
    killed("paused");
}

/// A sub-tree of control groups v2 that is a user's own, as `Delegate=` of systemd makes it.
struct Delegated(std::path::PathBuf);

impl Delegated {
    fn new(uid: u32) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let unified = unified.filter(|words| words[2] == "cgroup2").map(|words| words[1].to_owned()).next();
        let unified = unified.expect("this test needs control groups v2, beside v1 or alone");
        // Where there is v1 it has them.
        let _ = fs::write(Path::new(&unified).join("cgroup.subtree_control"), "+pids");
        let this = Self(Path::new(&unified).join(format!("coracle-test-{}", std::process::id())));
        for dir in [&this.0, &this.program()] {
            fs::create_dir(dir).unwrap();
            for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
                std::os::unix::fs::chown(dir.join(name), Some(uid), Some(uid)).unwrap();
            }
        }
        this
    }

    /// The group in it in which the user's program is.
    fn program(&self) -> std::path::PathBuf {
        self.0.join("program")
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // With what a killed host has left in it; the last of its processes may still be ending.
        fn clear(dir: &Path) {
            for below in fs::read_dir(dir).into_iter().flatten().flatten() {
                if below.file_type().is_ok_and(|kind| kind.is_dir()) {
                    clear(&below.path());
                }
            }
            let _ = fs::remove_dir(dir);
        }
        let deadline = std::time::Instant::now() + LONG;
        while self.0.exists() && std::time::Instant::now() < deadline {
            clear(&self.0);
            std::thread::yield_now();
        }
    }
}

/// Both as somebody who is not root, has sub-ids and may freeze.
#[test]
#[ignore = "needs root: becomes a user with sub-ids and control groups"]
fn killed_host_of_an_ordinary_user() {
    // newuidmap wants a name.
    const NOBODY: u32 = 65534;
    let other = super::host_program::OtherUser::new(NOBODY);
    let subids = other.own.join("subids");
    fs::write(&subids, "nobody:200000:65536\n").unwrap();
    let groups = Delegated::new(NOBODY);
    let script = "mount --bind \"$1\" /etc/subuid && mount --bind \"$1\" /etc/subgid && \
        echo $$ >\"$2/cgroup.procs\" && shift 2 && exec \"$@\"";
    for test in ["killed_host", "killed_host_with_paused_containers"] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(&subids).arg(groups.program()).args(other.become_it()).arg(&other.program);
        command.args(["--exact", &format!("death::{test}"), "--include-ignored"]).env(RANGE, "1");
        passes({
            command.env("HOME", &other.own).env("TMPDIR", &other.own).env_remove("XDG_DATA_HOME");
            command
        });
    }
}

#[test]
#[ignore = "needs root: becomes another user"]
fn killed_host_that_gave_up_its_privileges() {
    killed("dropped");
}

#[test]
fn killed_host_whose_forked_copy_lives_on() {
    let store = tempfile::tempdir().unwrap();
    let mut host = Host::start("forked", store.path());
    let forked = pidfd(host.forked.unwrap());
    host.child.kill().unwrap();
    host.child.wait().unwrap();
    for process in &host.processes {
        assert!(ends(process, LONG));
    }
    host.assert_port_closed();
    assert!(!ends(&forked, Duration::ZERO), "the copy still lives");
    // Locks of files are shared with it: the directories stay as long as it does.
    host.end_forked();
    assert!(ends(&forked, LONG));
    host.assert_gone(store.path());
}

#[test]
fn host_that_executes_another_program() {
    let store = tempfile::tempdir().unwrap();
    let mut host = Host::start("exec", store.path());
    let program = pidfd(host.child.id() as i32);
    drop(host.child.stdin.take());
    host.assert_gone(store.path());
    assert!(!ends(&program, Duration::ZERO), "the other program still lives");
}

#[test]
fn host_that_exits_with_leaked_handles() {
    told_to("exit");
}

#[test]
fn host_that_aborts() {
    told_to("abort");
}

#[test]
fn host_that_panics() {
    told_to("unwind");
}

/// A container that is kept survives its program's death as what it is on disk.
#[test]
fn a_kept_container_whose_program_was_killed() {
    kept_container_of_a_killed_program(|_| {});
}

/// What has ended has its number until somebody reaps it, which may take its time.
#[test]
fn a_kept_container_whose_first_process_nobody_has_reaped() {
    let mut zombie = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let pid = zombie.id();
    assert!(ends(&pidfd(pid as i32), LONG));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let started: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    kept_container_of_a_killed_program(|running| {
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(running).unwrap()).unwrap();
        assert!(record["pid"].is_u64() && record["start_time"].is_u64(), "{record}");
        (record["pid"], record["start_time"]) = (pid.into(), started.into());
        // Nor the program.
        assert!(record["owner"].is_array(), "{record}");
        record["owner"] = serde_json::json!([pid, started]);
        // None where there are none to be had; one that is gone would say that the run has ended.
        record["cgroups"] = serde_json::json!([]);
        fs::write(running, record.to_string()).unwrap();
    });
    assert!(zombie.wait().unwrap().success());
}

/// `leaves` is given what the program left of its run.
fn kept_container_of_a_killed_program(leaves: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let store = coracle::Store::open(dir.path()).unwrap();
    let image = Image::host(&store).unwrap();
    let script = "test -e /srv/again && exit 5; touch /srv/again; exec sleep 1000";
    let container = sh(&image, script).name("kept").create().unwrap();
    let id = container.id().to_owned();
    container.keep().unwrap();
    let vars = [(MODE, "kept".as_ref()), (STORE, dir.path().as_os_str())];
    let mut host = child("death::host_program", &vars);
    let host = host.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut host = host.spawn().unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map_while(Result::ok);
    let process = pidfd(lines.find_map(|line| line.strip_prefix("PIDS ")?.parse().ok()).unwrap());
    let seen = store.container("kept").unwrap();
    assert_eq!(seen.state(), coracle::State::Running);
    // It has got to where it stays.
    while !seen.top().unwrap().iter().any(|process| process.command == "sleep 1000") {
        assert!(host.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    assert_eq!(seen.start().unwrap_err().kind(), ErrorKind::State);
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(ends(&process, LONG));
    assert_eq!(seen.wait().unwrap().signal(), Some(9));
    drop(seen);
    leaves(&dir.path().join("containers").join(&id).join("running.json"));
    let store = coracle::Store::open(dir.path()).unwrap();
    let again = store.container("kept").unwrap();
    assert_eq!((again.id(), again.state()), (id.as_str(), coracle::State::Exited));
    again.start().unwrap();
    assert_eq!(again.wait().unwrap().code(), Some(5), "with the changes of its first run");
    again.remove().unwrap();
    assert!(cgroups_with(&id).is_empty(), "{:?}", cgroups_with(&id));
    assert_eq!(count(dir.path().join("containers")), 0);
}

/// So little memory that the limit bites while the container is being made.
#[test]
#[ignore = "needs root: a memory limit"]
fn a_container_without_memory_dies_alone() {
    let image = host();
    let other = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let before = rustix::process::getpid();
    let starving = |bytes, script: &str| sh(&image, script).memory_max(bytes).memory_swap_max(bytes);
    // There is nothing of the image's yet that could be too large: the limit is there before it.
    let never = Container::builder(&image).command(["true"]).memory_max(4 << 10).memory_swap_max(4 << 10);
    let error = never.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("before the command started"), "{error}");
    for bytes in [4 << 10, 128 << 10, 512 << 10] {
        match starving(bytes, "exec tail /dev/zero").run() {
            Ok(out) => assert!(out.status.oom_killed(), "{bytes}: {}", out.status),
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{bytes}: {error}"),
        }
    }
    assert_eq!(rustix::process::getpid(), before);
    assert_eq!(other.try_wait().unwrap(), None);
    assert_eq!(say(&sh(&image, "echo still")), "still");
}
