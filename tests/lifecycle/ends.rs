//! Ways for a container to end.
use super::*;
use coracle::{LimitKind, Outcome, Requirement};

#[test]
fn one_thread_waits_while_another_stops() {
    let container = ready(&sh(&host(), "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| container.wait().unwrap())).collect();
        let stopped = container.stop(LONG).unwrap();
        assert_eq!(stopped.code(), Some(7));
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), stopped);
        }
    });
}

#[test]
fn stop_kills_what_does_not_listen() {
    // The first process of a PID namespace ignores what it has no handler for.
    let container = ready(&sh(&host(), "echo ready; sleep 1000; true"));
    let from = Instant::now();
    let status = container.stop(Duration::from_millis(50)).unwrap();
    assert_eq!(status.signal(), Some(9));
    assert_eq!(status.shell_code(), 137);
    assert_soon(from);
}

#[test]
fn stop_sends_the_signal_that_was_asked_for() {
    let script = "trap 'exit 11' INT; trap 'exit 12' TERM; echo ready; while :; do sleep 0.1; done";
    let container = ready(&sh(&host(), script).stop_signal(Signal::SIGINT));
    assert_eq!(container.stop(LONG).unwrap().code(), Some(11));
    // A real-time one, as containers of systemd have it.
    let halt: Signal = "SIGRTMIN+3".parse().unwrap();
    for init in [false, true] {
        let script = "trap 'exit 13' 37; echo ready; while :; do sleep 0.1; done";
        let container = ready(&sh(&host(), script).stop_signal(halt).init(init));
        assert_eq!(container.stop_signal().unwrap(), halt);
        assert_eq!(container.stop(LONG).unwrap().code(), Some(13), "init {init}");
    }
}

#[test]
fn kill_sends_any_signal() {
    let image = host();
    let container = ready(&sh(&image, "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"));
    container.kill(Signal::SIGTERM).unwrap_or(());
    let container2 = ready(&sh(&image, "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"));
    container2.kill(Signal::SIGUSR1).unwrap();
    assert_eq!(container2.wait().unwrap().code(), Some(9));
    container.kill(Signal::SIGKILL).unwrap();
    assert_eq!(container.wait().unwrap().signal(), Some(9));
}

/// However fast the output comes and however slowly it is taken.
#[test]
fn the_time_limit_kills_what_floods() {
    let slow = |_: Stream, _: &[u8]| std::thread::sleep(Duration::from_millis(20));
    let flood = sh(&host(), "cat /dev/zero & exec cat /dev/zero >&2").on_output(slow);
    let from = Instant::now();
    let error = flood.timeout(Duration::from_millis(100)).start().unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_soon(from);
}

/// The descriptor goes on telling of the last end, and nobody waits for it to tell again.
#[test]
fn a_start_that_fails_leaves_the_last_end() {
    use std::os::fd::AsFd;
    let image = host();
    let container = sh(&image, "true").create().unwrap();
    container.start().unwrap();
    container.wait().unwrap();
    let told = || ends(&container.as_fd().try_clone_to_owned().unwrap(), LONG);
    assert!(told());
    // Without it an overlay can't be had.
    let dir = image.store().path().join("containers").join(container.id());
    std::fs::rename(dir.join("upper"), dir.join("away")).unwrap();
    let from = Instant::now();
    for _ in 0..2 {
        container.start().unwrap_err();
        assert!(told());
    }
    assert_soon(from);
    std::fs::rename(dir.join("away"), dir.join("upper")).unwrap();
    container.start().unwrap();
    assert!(container.wait().unwrap().success());
}

#[test]
fn the_time_limit_kills() {
    let image = host();
    let from = Instant::now();
    let error = sh(&image, "sleep 1000").timeout(Duration::from_millis(100)).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let builder = sh(&image, "echo so far; echo oops >&2; exec sleep 1000");
    let timed = |time| builder.clone().timeout(time).run().unwrap_err();
    let error = in_time(timed, |error| text(error.stderr()) == "oops");
    assert_eq!((error.stdout(), error.stderr()), (&b"so far\n"[..], &b"oops\n"[..]));
    let container = sh(&image, "sleep 1000").timeout(Duration::from_millis(100)).start().unwrap();
    assert_eq!(container.wait().unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(container.wait().unwrap_err().kind(), ErrorKind::TimedOut, "the same answer");
    assert_soon(from);
    assert!(sh(&image, "true").timeout(LONG).run().unwrap().status.success());
}

/// For whoever says "without a limit" by the longest time that there is.
#[test]
fn no_time_is_too_long() {
    let image = host();
    let forever = Duration::MAX;
    assert!(sh(&image, "true").timeout(forever).run().unwrap().status.success());
    let container =
        ready(&sh(&image, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done").timeout(forever));
    assert!(container.exec(["true"]).timeout(forever).output().unwrap().status.success());
    container.wait_until(coracle::Ready::exec(["true"]), forever).unwrap();
    assert_eq!(container.stop(forever).unwrap().code(), Some(7));
    assert_eq!(container.wait_timeout(forever).unwrap().unwrap().code(), Some(7));
    container.wait_until(coracle::Ready::exit(), forever).unwrap();
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    let image = host();
    // The orphan's parent is the init, which reaps it: no zombie stays.
    let script = "(sh -c 'exit 0' & ) ; \
        for i in $(seq 200); do grep -qs 'State:.*Z' /proc/[0-9]*/status || exit 0; sleep 0.05; done; exit 1";
    say(&sh(&image, script).init(true));
    assert_eq!(say(&sh(&image, "echo $$").init(true)), "2");
    assert_eq!(say(&sh(&image, "echo $$")), "1");
    let container =
        ready(&sh(&image, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done").init(true));
    assert_eq!(container.stop(LONG).unwrap().code(), Some(5));
    let container = ready(&sh(&image, "echo ready; exec sleep 1000").init(true));
    let status = container.stop(LONG).unwrap();
    assert_eq!(status.shell_code(), 143, "without a handler too");
}

#[test]
#[ignore = "needs root: a freezer of its own"]
fn paused_containers_stand_still() {
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000").name("one"));
    // Each handle knows what the others do, and writes nothing of it down.
    let other = image.store().container("one").unwrap();
    other.pause().unwrap();
    let third = image.store().container("one").unwrap();
    assert_eq!([&container, &other, &third].map(Container::state), [State::Paused; 3]);
    container.unpause().unwrap();
    assert_eq!([&container, &other, &third].map(Container::state), [State::Running; 3]);
    drop((other, third));
    container.pause().unwrap();
    assert_eq!(container.state(), State::Paused);
    assert_eq!(container.pause().unwrap_err().kind(), ErrorKind::State);
    container.unpause().unwrap();
    assert_eq!(container.state(), State::Running);
    assert_eq!(container.unpause().unwrap_err().kind(), ErrorKind::State);
    container.pause().unwrap();
    let handle = pidfd(container.pid().unwrap());
    let from = Instant::now();
    container.remove().unwrap();
    assert!(ends(&handle, Duration::ZERO));
    assert_soon(from);
}

#[test]
fn a_limit_that_can_not_be_had_says_what_to_do() {
    let image = host();
    type Ask = fn(coracle::ContainerBuilder) -> coracle::ContainerBuilder;
    let asks: [(&str, LimitKind, Ask); 4] = [
        ("memory_max", LimitKind::MemoryMax, |b| b.memory_max(64 << 20)),
        ("cpu_max", LimitKind::CpuMax, |b| b.cpus(0.5)),
        ("cpu_weight", LimitKind::CpuWeight, |b| b.cpu_weight(50)),
        ("cpuset_cpus", LimitKind::CpusetCpus, |b| b.cpuset_cpus("0")),
    ];
    for (name, kind, ask) in asks {
        match ask(sh(&image, "true")).run() {
            Ok(out) => assert!(out.status.success(), "{name}: {}", out.status),
            Err(error) => {
                assert!(!is_root(), "{error}");
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                let remedy = error.remedy().unwrap_or_else(|| panic!("no remedy: {error}"));
                assert!(remedy.contains("as root") && remedy.contains("Delegate=yes"), "{error}");
                let container = ready(
                    &ask(sh(&image, "echo; cat"))
                        .stdin(Stdio::piped())
                        .requirement(kind, Requirement::BestEffort),
                );
                let report = container.report();
                let line = report.get(name).unwrap();
                assert!(
                    matches!(line.outcome(), Outcome::NotEnforced(why) if why.contains("Delegate=yes")),
                    "{line}"
                );
            }
        }
    }
}

/// By a control group, or without one by RLIMIT_NPROC.
#[test]
fn a_fork_bomb_is_contained_whoever_starts_it() {
    let image = host();
    // Of two users, who count together. A shell that can't fork ends; its children stay.
    let bomb = "(setpriv --reuid 33 sh -c 'for i in 1 2 3 4 5 6; do sleep 1000 & done'; \
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1000 & done) 2>/dev/null; \
        echo full; exec sleep 1000";
    let full = ready(&sh(&image, bomb).pids_max(16));
    let users: Vec<_> = full.top().unwrap().into_iter().map(|process| process.uid).collect();
    assert!((14..=16).contains(&users.len()), "{users:?}");
    // Their numbers may have begun anew in between: whose comes first says nothing.
    let mut counts = std::collections::BTreeMap::new();
    users.iter().for_each(|uid| *counts.entry(uid).or_insert(0) += 1);
    match is_single(&full) {
        // There is no second one.
        true => assert_eq!(counts.len(), 1, "{users:?}"),
        false => assert_eq!((counts.len(), counts.values().min()), (2, Some(&6)), "{users:?}"),
    }
    let report = full.report();
    let line = report.get("pids_max").unwrap();
    match line.outcome() {
        Outcome::Enforced(how) if how == "16" => {}
        Outcome::Enforced(how) if !is_root() => assert!(how.starts_with("16, by RLIMIT_NPROC"), "{line}"),
        _ => panic!("{line}"),
    }
    // Nobody else has less for it, not another container of the same user either.
    let other = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1 & done; wait; ulimit -u";
    let own = rustix::process::getrlimit(rustix::process::Resource::Nproc).current;
    let own = own.map_or("unlimited".to_owned(), |own| own.to_string());
    assert_eq!(say(&Container::builder(&image).command(["bash", "-c", other]).pids_max(16)), own);
    let three = sh(&image, "sleep 1000 & sleep 1000 & sleep 1000 & wait").pids_max(3);
    assert!(!three.run().unwrap().status.success());
    assert_eq!(say(&sh(&image, "sleep 0 & wait; echo two").pids_max(2)), "two", "the makers don't count");
    full.remove().unwrap();
}

#[test]
#[ignore = "needs root: memory and pids limits"]
fn limits_bite_and_are_counted() {
    let image = host();
    let hog = sh(&image, "exec tail /dev/zero").memory_max(32 << 20).memory_swap_max(32 << 20);
    let out = hog.run().unwrap();
    assert!(out.status.oom_killed(), "{} {}", out.status, out.stderr_text());
    assert_eq!(out.status.signal(), Some(9));
    let out = sh(&image, "true").memory_max(32 << 20).run().unwrap();
    assert!(out.status.success() && !out.status.oom_killed());
    assert!(out.report.is_complete(), "{:?}", out.report);
    let out = sh(&image, "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait").pids_max(4).run().unwrap();
    assert!(!out.status.success() && out.stderr_text().contains("fork"), "{}", out.stderr_text());
    let container =
        ready(&sh(&image, "echo ready; exec sleep 1000").memory_max(64 << 20).cpus(0.5).pids_max(9));
    let stats = container.stats().unwrap();
    assert!(container.report().is_complete(), "{:?} {stats:?}", container.report());
    assert_eq!(container.top().unwrap().len(), 1);
}

/// A handle that was opened while another one ran the container tells of the end of its own run, not of that one's.
#[test]
fn a_descriptor_of_a_container_that_somebody_else_ran() {
    let image = host();
    sh(&image, "read line").name("passed-on").create().unwrap().keep().unwrap();
    let one = image.store().container("passed-on").unwrap();
    one.set_streams(Stdio::piped(), Stdio::null(), Stdio::null());
    one.start().unwrap();
    let other = image.store().container("passed-on").unwrap();
    drop(one.take_stdin());
    one.wait().unwrap();
    other.wait().unwrap();
    drop(one);
    let told = |within| {
        use std::os::fd::AsFd;
        ends(&other.as_fd().try_clone_to_owned().unwrap(), within)
    };
    assert!(told(LONG));
    for _ in 0..2 {
        other.set_streams(Stdio::piped(), Stdio::null(), Stdio::null());
        other.start().unwrap();
        assert!(!told(Duration::ZERO), "it runs");
        drop(other.take_stdin());
        assert!(told(LONG));
        other.wait().unwrap();
    }
    other.remove().unwrap();
}

/// Its end is told before its mounts go: somebody holds them until then, and not longer.
#[test]
#[ignore = "needs root: looks at the descriptors of the warden's processes"]
fn its_mounts_are_gone_before_it_starts_again() {
    // The number of a namespace that is gone is given again, to other containers of this program too.
    if !common::is_own_process("ends::its_mounts_are_gone_before_it_starts_again") {
        return;
    }
    let container = sh(&host(), "read line").stdin(Stdio::piped()).create().unwrap();
    container.start().unwrap();
    let mounts = |pid| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let pid = container.top().unwrap()[0].pid;
    let first = mounts(pid);
    let warden = common::warden_of(&container);
    let children = std::fs::read_to_string(format!("/proc/{warden}/task/{warden}/children")).unwrap();
    let children: Vec<_> = children.split(' ').map(str::to_owned).collect();
    let is_held = || {
        let fds =
            |child: &String| std::fs::read_dir(format!("/proc/{child}/fd")).into_iter().flatten().flatten();
        let mut links = children.iter().flat_map(fds).filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.any(|link| link == first)
    };
    eventually("its mount namespace is held", is_held);
    container.kill(coracle::Signal::SIGKILL).unwrap();
    assert_eq!(container.wait().unwrap().signal(), Some(9));
    container.start().unwrap();
    let second = mounts(container.top().unwrap()[0].pid);
    assert!(second == first || !is_held());
}
