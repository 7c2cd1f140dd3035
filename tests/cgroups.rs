//! Control groups on the real kernel of this machine: every limit is seen to bite.
//!
//! Children join as a container's do, by writing `0` themselves; here a shell does it.

#[path = "cgroups/limits.rs"]
mod limits;

use coracle::{Cgroup, CgroupParent, ErrorKind, LimitKind, Limits, Outcome};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// A name of this test's own.
fn name(test: &str) -> String {
    format!("test-{}-{test}", std::process::id())
}

/// A shell that is in `group` before it runs `script`.
fn shell(group: &Cgroup, script: &str) -> Command {
    let join: String =
        group.join_paths().map(|path| format!("echo 0 > {} || exit 99\n", path.display())).collect();
    let mut command = Command::new("sh");
    command.arg("-c").arg(join + script);
    command
}

/// The same, once it is in all of the group's hierarchies: one that is in the first has those limits already.
fn joined(group: &Cgroup, script: &str) -> Reaped {
    let mut child =
        Reaped(shell(group, &format!("echo in; {script}")).stdout(Stdio::piped()).spawn().unwrap());
    let mut first = [0; 3];
    std::io::Read::read_exact(child.0.stdout.as_mut().unwrap(), &mut first).unwrap();
    child
}

fn output(group: &Cgroup, script: &str) -> Output {
    let out = shell(group, script).output().unwrap();
    assert_ne!(out.status.code(), Some(99), "joining failed: {}", String::from_utf8_lossy(&out.stderr));
    out
}

fn paths(group: &Cgroup) -> Vec<PathBuf> {
    group.paths().map(Path::to_owned).collect()
}

/// The value of a limit's file, whichever hierarchy it is in.
fn file(group: &Cgroup, names: &[&str]) -> String {
    let found =
        group.paths().flat_map(|dir| names.iter().map(move |name| dir.join(name))).find(|path| path.exists());
    fs::read_to_string(found.unwrap_or_else(|| panic!("none of {names:?}"))).unwrap().trim().to_owned()
}

/// Whether it has a directory in the v2 hierarchy.
fn is_on_v2(group: &Cgroup) -> bool {
    group.paths().any(|dir| !dir.join("tasks").exists())
}

/// Waits until it is. Only v2 tells.
fn emptied(group: &Cgroup) {
    if is_on_v2(group) {
        return group.wait_empty(SOON).unwrap();
    }
    let error = group.wait_empty(SOON).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let deadline = Instant::now() + SOON;
    while !group.procs().unwrap().is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn assert_gone(paths: &[PathBuf]) {
    assert!(!paths.is_empty());
    for path in paths {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

/// A child that is killed and reaped in every case.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root and writable cgroups: creates groups with limits"]
fn limits_are_kept_by_the_kernel_and_reported() {
    let limits = Limits::new()
        .memory_max((64 << 20) + 5)
        .cpus(0.5)
        .cpu_weight(50)
        .cpuset_cpus("0")
        .cpuset_mems("0")
        .pids_max(17);
    let group = Cgroup::create(&name("limits"), &limits).unwrap();
    assert_eq!(file(&group, &["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
    assert_eq!(file(&group, &["pids.max"]), "17");
    assert_eq!(file(&group, &["cpuset.cpus"]), "0");
    assert_eq!(file(&group, &["cpuset.mems"]), "0");
    assert!(["50000", "50000 100000"].contains(&file(&group, &["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    assert!(["512", "50"].contains(&file(&group, &["cpu.shares", "cpu.weight"]).as_str()));
    assert!(group.report().is_complete());
    assert_eq!(group.report().entries().len(), 6);
    let memory = group.report().get("memory_max").unwrap();
    assert_eq!(memory.asked(), ((64 << 20) + 5).to_string());
    assert_eq!(memory.outcome(), &Outcome::Enforced((64 << 20).to_string()), "whole pages");

    for list in ["Cpus_allowed_list", "Mems_allowed_list"] {
        let out = output(&group, &format!("grep {list} /proc/self/status"));
        assert_eq!(String::from_utf8_lossy(&out.stdout).split_whitespace().last(), Some("0"), "{list}");
    }

    let stats = group.stats().unwrap();
    assert_eq!((stats.memory_max, stats.pids_max), (Some(64 << 20), Some(17)));
    assert!(stats.memory_current.is_some() && stats.memory_peak.is_some_and(|peak| peak > 0));
    assert!(stats.cpu_usage.is_some_and(|used| used > Duration::ZERO), "the shell ran: {stats:?}");
    assert_eq!(stats.pids_current, Some(0));

    let dirs = paths(&group);
    group.remove().unwrap();
    assert_gone(&dirs);
}

#[test]
#[ignore = "needs root and writable cgroups: a process is killed for its memory"]
fn too_much_memory_is_killed_and_counted() {
    let limits = Limits::new().memory_max(16 << 20).memory_swap_max(16 << 20);
    let group = match Cgroup::create(&name("oom"), &limits) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            assert!(error.remedy().unwrap().contains("swapaccount=1"), "{error}");
            Cgroup::create(&name("oom"), &Limits::new().memory_max(16 << 20)).unwrap()
        }
        other => other.unwrap(),
    };
    assert_eq!(group.oom_kills().unwrap(), Some(0));
    // dd's buffer is memory it touches.
    let out = output(&group, "exec dd if=/dev/zero of=/dev/null bs=256M count=1");
    assert_eq!(out.status.signal(), Some(9), "{out:?}");
    assert_eq!(group.oom_kills().unwrap(), Some(1));
    assert_eq!(group.stats().unwrap().oom_kills, Some(1));
    let out = output(&group, "exec dd if=/dev/zero of=/dev/null bs=4M count=1");
    assert!(out.status.success(), "less than the limit is fine: {out:?}");
    let dirs = paths(&group);
    drop(group);
    assert_gone(&dirs);
}

#[test]
#[ignore = "needs root and writable cgroups: forks up to a pids limit"]
fn too_many_processes_are_refused() {
    let group = Cgroup::create(&name("pids"), &Limits::new().pids_max(4)).unwrap();
    let fork = |children: usize| {
        // The shell goes on only when it could fork them all. None of them holds its output open.
        let children = "sleep 600 </dev/null >/dev/null 2>&1 & ".repeat(children);
        let out = output(&group, &format!("{children} echo forked"));
        group.kill().unwrap();
        emptied(&group);
        String::from_utf8_lossy(&out.stdout).contains("forked")
    };
    assert!(fork(2), "the limit leaves room for the shell and two");
    assert!(!fork(6), "six children and a shell are more than four");
    group.remove().unwrap();
}

#[test]
#[ignore = "needs root and writable cgroups: measures processor time under a quota"]
fn a_quota_throttles() {
    // A millisecond of each tenth of a second, which is little work on any machine.
    let group = Cgroup::create(&name("quota"), &Limits::new().cpus(0.01)).unwrap();
    assert!(["1000", "1000 100000"].contains(&file(&group, &["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    let mut child = joined(&group, "while :; do :; done");
    let deadline = Instant::now() + 6 * SOON;
    loop {
        let stats = group.stats().unwrap();
        if stats.throttled.unwrap() > 0 && stats.throttled_time.unwrap() > Duration::ZERO {
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
        assert!(child.0.try_wait().unwrap().is_none(), "it could not join");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    group.kill().unwrap();
    assert_eq!(child.0.wait().unwrap().signal(), Some(9));
    emptied(&group);
    group.remove().unwrap();
}

#[test]
#[ignore = "needs root and writable cgroups: freezes and kills processes"]
fn a_frozen_group_makes_no_progress_and_dies_when_killed() {
    let group = Cgroup::create(&name("freeze"), &Limits::new().pids_max(32)).unwrap();
    let mut child = joined(&group, "while :; do :; done");
    assert_eq!(group.procs().unwrap(), [child.0.id() as i32]);

    if !is_on_v2(&group) {
        let error = group.freeze(SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.remedy().unwrap().contains("mount -t cgroup2"), "{error}");
        group.kill().unwrap();
        assert_eq!(child.0.wait().unwrap().signal(), Some(9));
        emptied(&group);
        return group.remove().unwrap();
    }
    group.freeze(SOON).unwrap();
    group.freeze(SOON).unwrap(); // once more changes nothing
    let used = || group.stats().unwrap().cpu_usage.unwrap();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.0.id())).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(11).unwrap().parse::<u64>().unwrap()
    };
    let (before, ticks_before) = (used(), ticks());
    // As long as this process itself gets 200 ms of work done, the other one would have got some too.
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    assert_eq!((used(), ticks()), (before, ticks_before), "it ran while frozen");

    group.thaw(SOON).unwrap();
    while used() < before + Duration::from_millis(20) {
        assert!(child.0.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let dirs = paths(&group);
    group.freeze(SOON).unwrap();
    group.kill().unwrap();
    assert_eq!(child.0.wait().unwrap().signal(), Some(9), "also while frozen");
    group.wait_empty(SOON).unwrap();
    group.remove().unwrap();
    assert_gone(&dirs);
}

#[test]
#[ignore = "needs root and writable cgroups: removes groups in use"]
fn a_group_in_use_is_not_removed_and_a_sweep_clears_what_the_dead_leave() {
    let parent = CgroupParent::detect().unwrap();
    let (dead, alive) = (name("dead"), name("alive"));
    let limits = Limits::new().pids_max(8).memory_max(64 << 20).devices(["c 1:3 rw".parse().unwrap()]);
    // As a user no program of devices can be had.
    let limits = limits.best_effort(LimitKind::Devices);
    let left = parent.create(&dead, &limits).unwrap();
    let kept = parent.create(&alive, &limits).unwrap();
    assert_eq!(parent.create(&dead, &limits).unwrap_err().kind(), ErrorKind::AlreadyExists);

    let mut child = joined(&left, "exec sleep 600");
    let (dirs, others) = (paths(&left), paths(&kept));
    // Another process would open it by its directories.
    let again = Cgroup::open(&dirs).unwrap();
    assert_eq!((again.name(), again.procs().unwrap()), (dead.as_str(), vec![child.0.id() as i32]));
    assert_eq!(again.remove().unwrap_err().kind(), ErrorKind::InUse);
    assert!(dirs.iter().all(|dir| dir.exists()));

    left.keep();
    let removed = CgroupParent::detect().unwrap().sweep(|name| name != dead).unwrap();
    assert_eq!(removed, dirs.len());
    assert_eq!(child.0.wait().unwrap().signal(), Some(9), "the leftover was killed");
    assert_gone(&dirs);
    assert!(others.iter().all(|dir| dir.exists()), "the living keep theirs");
    kept.remove().unwrap();
    assert_gone(&others);
}

/// A program with a temporary store is killed: nobody will open that store, whose containers' groups are still there.
#[test]
#[ignore = "needs root and writable cgroups: makes a group of a dead program"]
fn the_groups_of_a_dead_temporary_store_are_swept() {
    let store = coracle::Store::temp().unwrap();
    let base = store.path().parent().unwrap();
    let id = format!("{:064x}", std::process::id());
    let dead = base.join(format!("coracle-temp-{}", name("dead")));
    let group = Cgroup::create(&id, &Limits::new().pids_max(8)).unwrap();
    let dirs = paths(&group);
    group.keep();
    fs::create_dir_all(dead.join("containers").join(&id)).unwrap();
    // Another program's sweep may come first and still be at it.
    let deadline = Instant::now() + SOON;
    while dead.exists() {
        assert!(Instant::now() < deadline);
        drop(coracle::Store::temp().unwrap());
    }
    assert_gone(&dirs);
}

#[test]
#[ignore = "needs root and writable cgroups: asks for what can't be had"]
fn what_cannot_be_had_is_an_error_or_a_line_in_the_report() {
    // No machine of ours has this processor.
    let limits = Limits::new().cpuset_cpus("60000").pids_max(8);
    let error = Cgroup::create(&name("absent"), &limits).unwrap_err();
    assert!(error.to_string().contains("cpuset_cpus 60000"), "{error}");
    assert!(error.path().is_some(), "{error}");
    let group = Cgroup::create(&name("absent"), &limits.best_effort(LimitKind::CpusetCpus)).unwrap();
    assert!(!group.report().is_complete());
    assert!(
        matches!(group.report().get("cpuset_cpus").unwrap().outcome(), Outcome::NotEnforced(why) if why.contains("60000") || why.contains("write"))
    );
    assert!(matches!(group.report().get("pids_max").unwrap().outcome(), Outcome::Enforced(_)));
    // It can be joined nevertheless: an empty cpuset could not.
    assert!(output(&group, "exit 0").status.success());
}

#[test]
#[ignore = "needs root and writable cgroups: measures creating and removing"]
fn creating_and_removing_the_default_set_is_cheap() {
    let parent = CgroupParent::detect().unwrap();
    let limits = Limits::new().pids_max(2048);
    for (what, limits) in
        [("pids", limits.clone()), ("memory, pids, cpu", limits.memory_max(64 << 20).cpus(1.0))]
    {
        let mut times: Vec<_> = (0..50)
            .map(|turn| {
                let begin = Instant::now();
                let group = parent.create(&name(&format!("cheap-{turn}")), &limits).unwrap();
                let made = begin.elapsed();
                group.remove().unwrap();
                (made, begin.elapsed() - made)
            })
            .collect();
        times.sort();
        // A report, not a limit on time.
        println!("{what}: created in {:?}, removed in {:?} (median)", times[25].0, times[25].1);
    }
    let begin = Instant::now();
    CgroupParent::detect().unwrap();
    println!("detected in {:?}", begin.elapsed());
}

#[test]
fn a_name_that_is_a_path_and_a_value_that_no_kernel_takes_are_refused() {
    for bad in ["", "..", "a/b", "/x", "a\0b"] {
        assert_eq!(
            Cgroup::create(bad, &Limits::new()).unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{bad:?}"
        );
    }
    let error = Cgroup::create(&name("zero"), &Limits::new().pids_max(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
