//! The process that starts hosts, sees them end, and looks after them.
use super::left::{Leak, Look};
use super::*;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// A host that executes another program while it brings up its warden is waited for a minute.
const LONG: Duration = Duration::from_secs(120);
/// Set where a control group bounds the host's memory.
pub const GROUP: &str = "CORACLE_TEST_GROUP";

pub struct Supervisor {
    dir: tempfile::TempDir,
    look: Look,
    /// With little memory; none where none can be had.
    group: Option<PathBuf>,
}

/// What came of a host.
#[derive(Default)]
pub struct Ended {
    /// What is left of it that should not be.
    pub left: Vec<String>,
    /// What it had done, in the words of [`WORK`].
    pub done: Vec<String>,
    pub planted: bool,
}

/// The pids below this process of those that have not ended.
fn descendants() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut todo = vec![std::process::id() as i32];
    while let Some(pid) = todo.pop() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for children in tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()) {
            for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                // What the program that was executed does not wait for is none of this library's.
                let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
                let is_over = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
                if !is_over && found.insert(child) {
                    todo.push(child);
                }
            }
        }
    }
    found
}

/// The command of a process; none of one that has ended.
fn command(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned()
}

fn end(pids: &BTreeSet<i32>) {
    for pid in pids {
        // It is this process's child or grandchild until it is waited for, here.
        let _ = kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL);
    }
}

impl Supervisor {
    pub fn new() -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        fs::create_dir(bound(store.path())).unwrap();
        let archive = docker_archive(&[(&Fixture::new(&["base one", "base two"]), &["base:1"])]);
        let base = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
        let kept = sh(&Image::host(&store).unwrap(), "echo kept >/srv/kept").name("kept").create().unwrap();
        kept.start().unwrap();
        kept.wait().unwrap();
        kept.keep().unwrap();
        let other = Container::builder(&base).name("other").create().unwrap();
        assert_eq!(other.start().unwrap_err().kind(), ErrorKind::Exec);
        other.keep().unwrap();
        Volume::create(&store, "data").unwrap();
        drop((base, store));
        // Whatever is made only once is there: the first store's warden ends with this program.
        let look = Look::new(&dir.path().join("store"));
        let group = limit_memory();
        assert!(group.is_some() || std::env::var("CORACLE_LANE").as_deref() != Ok("root"), "no group");
        Self { dir, look, group }
    }

    /// What a host without memory ends by.
    pub fn memory_ends_by(&self) -> &'static str {
        match self.group {
            Some(_) => "the kernel kills who has no memory",
            None => "who has no memory aborts",
        }
    }

    fn host(&self, mode: &str, seed: u64) -> Command {
        let vars = [
            (MODE, mode.as_ref()),
            (STORE, self.look.store().as_os_str()),
            (SEED, seed.to_string().as_ref()),
        ]
        .map(|(name, value): (_, &std::ffi::OsStr)| (name, value.to_owned()));
        let mut host = child("host_program", &[]);
        host.envs(vars);
        if let Some(group) = self.group.as_ref().filter(|_| mode == "memory") {
            let script = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.display());
            let mut shell = Command::new("sh");
            shell.args(["-c", &script, "sh"]).arg(host.get_program()).args(host.get_args()).env(GROUP, "1");
            shell.envs(host.get_envs().filter_map(|(name, value)| Some((name, value?))));
            host = shell;
        }
        host.stdin(Stdio::null()).stdout(Stdio::null());
        host
    }

    /// One end of a host, and what is left after it.
    pub fn end(&mut self, mode: &str, seed: u64, leak: Option<Leak>) -> Ended {
        let own = descendants();
        let said = self.dir.path().join("stderr");
        let mut host = self.host(mode, seed);
        let host = host.stderr(fs::File::create(&said).unwrap()).spawn().unwrap().id() as i32;
        let said = || fs::read_to_string(&said).unwrap_or_default();
        let mut ended = Ended::default();
        let mut deadline = Instant::now() + LONG;
        if leak == Some(Leak::Process) {
            // Waited for below, as all are.
            ended.planted = Command::new("setsid").args(["sleep", "999"]).spawn().unwrap().id() > 1;
            deadline = Instant::now() + Duration::from_secs(3);
        }
        // Those that are to live on: the program that was executed, the forked copies.
        let mut status = None;
        let mut is_over = false;
        let all = || &descendants() - &own;
        while !(is_over && status.is_some() && all().is_empty()) {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => {}
                Ok(one) => {
                    if one.pid().map(|pid| pid.as_raw()) == Some(host) {
                        status = Some(one);
                    }
                    continue;
                }
                Err(errno) => panic!("{errno}"),
            }
            let left = all();
            let executed = left.iter().filter(|pid| command(**pid).starts_with("sleep 1000")).count();
            let has_ended = status.is_some();
            is_over |= match mode {
                // The other program and the copy; nothing that was started.
                "exec" => left.contains(&host) && executed == 1 && left.len() == 2 || has_ended,
                "daemon" => has_ended && left.len() == 1,
                _ => has_ended && left.is_empty(),
            };
            if is_over {
                end(&left);
            } else if Instant::now() > deadline {
                let left: Vec<_> = left.iter().map(|pid| (*pid, command(*pid))).collect();
                ended.left.push(format!("{mode}, seed {seed}: {status:?}, processes: {left:?}\n{}", said()));
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        while !all().is_empty() {
            end(&all());
            let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
        }
        let by_memory = if self.group.is_some() { Signal::SIGKILL } else { Signal::SIGABRT };
        let expected = match (mode, status) {
            ("kill" | "exec", Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)))
            | ("abort", Some(WaitStatus::Signaled(_, Signal::SIGABRT, _)))
            | ("daemon", Some(WaitStatus::Exited(_, 0))) => true,
            ("memory", Some(WaitStatus::Signaled(_, signal, _))) => signal == by_memory,
            _ => false,
        };
        if !expected {
            ended.left.push(format!("{mode}, seed {seed}: it ended with {status:?}\n{}", said()));
        }
        let log = self.look.store().with_extension("log");
        let lines = fs::read_to_string(&log).unwrap_or_default();
        let (ids, done): (Vec<_>, Vec<_>) =
            lines.lines().map(|line| line.strip_prefix("container ").ok_or(line)).partition(Result::is_ok);
        let mut ids: Vec<_> = ids.into_iter().flatten().map(str::to_owned).collect();
        ended.done = done.into_iter().filter_map(Result::err).map(str::to_owned).collect();
        let planted = leak.and_then(|leak| self.look.plant(leak, &mut ids));
        ended.planted |= planted.is_some();
        let left = self.look.left(&ids);
        ended.left.extend(left.into_iter().map(|what| format!("{mode}, seed {seed}: {what}")));
        drop(planted);
        let _ = fs::remove_file(log);
        ended
    }
}

/// A group with little memory.
fn limit_memory() -> Option<PathBuf> {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let (parent, limit) = match v1.is_dir() {
        true => (v1, "memory.limit_in_bytes"),
        false => (Path::new("/sys/fs/cgroup"), "memory.max"),
    };
    if parent != v1 {
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
    }
    let group = parent.join(format!("ends-{}", std::process::id()));
    fs::create_dir(&group).ok()?;
    match fs::write(group.join(limit), (64 << 20).to_string()) {
        Ok(()) => Some(group),
        Err(_) => {
            let _ = fs::remove_dir(group);
            None
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(group);
        }
    }
}
