//! The warden is killed, or stopped for a while.
use super::*;
use nix::sys::signal::Signal;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

fn send(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn processes(container: &Container) -> Vec<OwnedFd> {
    container.top().unwrap().iter().filter_map(|process| try_pidfd(process.pid)).collect()
}

#[track_caller]
fn assert_gone<T: std::fmt::Debug>(result: coracle::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("start")), "{error}");
}

#[test]
fn it_is_killed() {
    if !is_own_process("warden::it_is_killed") {
        return;
    }
    let image = host();
    let containers: Vec<_> = (0..3).map(|_| ready(&sh(&image, "sleep 999 & echo ready; wait"))).collect();
    let executed = containers[0].exec(["sleep", "1000"]).spawn().unwrap();
    let warden = warden_of(&containers[0]);
    let all: Vec<_> = containers.iter().flat_map(processes).chain([pidfd(warden)]).collect();
    assert!(all.len() >= 3 * 2 + 2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| containers[0].wait());
        send(warden, Signal::SIGKILL);
        assert_gone(waiting.join().unwrap());
    });
    assert!(all.iter().all(|process| ends(process, LONG)), "with it the kernel kills everything");
    assert_gone(executed.wait());
    for container in &containers {
        assert_gone(container.wait());
        assert_gone(container.try_wait());
        assert_eq!(container.state(), coracle::State::Exited);
        for result in [
            container.exec(["true"]).output().map(drop),
            container.kill(coracle::Signal::SIGTERM),
            container.top().map(drop),
        ] {
            let kind = result.unwrap_err().kind();
            assert!([ErrorKind::Gone, ErrorKind::State].contains(&kind), "{kind:?}");
        }
        use std::os::fd::AsFd;
        assert!(ends(&container.as_fd().try_clone_to_owned().unwrap(), LONG), "its descriptor says so");
    }
    // The next start gets a new one, also of a container that was lost.
    let next = ready(&sh(&image, "echo ready; exec sleep 1000"));
    assert_ne!(warden_of(&next), warden);
    assert!(next.exec(["true"]).output().unwrap().status.success());
    containers[0].start().unwrap();
    assert_eq!(warden_of(&containers[0]), warden_of(&next));
    let ids: Vec<_> = containers.iter().map(|container| container.id().to_owned()).collect();
    for container in containers {
        container.remove().unwrap();
    }
    for id in ids {
        assert!(cgroups_with(&id).is_empty());
    }
    assert_eq!(count(image.store().path().join("containers")), 1);
}

/// What became of it is written down, so that anybody may start it again while this program lives.
#[test]
fn a_kept_container_that_was_lost_is_started_by_another_handle() {
    if !is_own_process("warden::a_kept_container_that_was_lost_is_started_by_another_handle") {
        return;
    }
    let image = host();
    sh(&image, "exec sleep 1000").name("kept").create().unwrap().keep().unwrap();
    let container = image.store().container("kept").unwrap();
    container.start().unwrap();
    send(warden_of(&container), Signal::SIGKILL);
    assert_gone(container.wait());
    use std::os::fd::AsFd;
    assert!(ends(&container.as_fd().try_clone_to_owned().unwrap(), LONG), "its descriptor says so");
    drop(container);
    let again = image.store().container("kept").unwrap();
    assert_eq!(again.state(), coracle::State::Exited);
    again.start().unwrap();
    assert_eq!(again.stop(Duration::ZERO).unwrap().signal(), Some(9));
    again.remove().unwrap();
}

/// Nothing waits for ever, and every start either gives a container or says why not.
#[test]
fn it_is_killed_again_and_again() {
    if !is_own_process("warden::it_is_killed_again_and_again") {
        return;
    }
    let image = host();
    let done = AtomicBool::new(false);
    let ids = std::sync::Mutex::new(Vec::new());
    let (image, done, ids) = (&image, &done, &ids);
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    let (mut good, mut lost) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        let container = match sh(image, "read x").stdin(coracle::Stdio::piped()).start() {
                            Ok(container) => container,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
                                lost += 1;
                                continue;
                            }
                        };
                        ids.lock().unwrap().push(container.id().to_owned());
                        let results = [
                            container.exec(["true"]).output().map(drop),
                            container.stop(Duration::ZERO).map(drop),
                            container.remove(),
                        ];
                        for error in results.into_iter().filter_map(Result::err) {
                            let kind = error.kind();
                            assert!([ErrorKind::Gone, ErrorKind::State].contains(&kind), "{error}");
                        }
                        good += 1;
                    }
                    (good, lost)
                })
            })
            .collect();
        let killing = scope.spawn(move || {
            for _ in 0..25 {
                // It may be killed by now, or its container.
                let container = sh(image, "sleep 1000").start();
                let Ok(container) = container else { continue };
                let Some(warden) = find_warden(&container) else { continue };
                std::thread::park_timeout(Duration::from_micros(u64::from(std::process::id() % 7) * 300));
                let pid = nix::unistd::Pid::from_raw(warden);
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            }
            done.store(true, Ordering::Relaxed);
        });
        let killed = killing.join();
        done.store(true, Ordering::Relaxed);
        let counts: Vec<_> = starting.into_iter().map(|thread| thread.join()).collect();
        killed.unwrap();
        let good: usize = counts.into_iter().map(|count| count.unwrap().0).sum();
        assert!(good > 0, "some lived long enough");
    });
    assert_eq!(say(&sh(image, "echo still")), "still");
    let path = image.store().path();
    for room in ["containers", "tmp"] {
        eventually(&format!("something is left in {room}"), || count(path.join(room)) == 0);
    }
    for id in &*ids.lock().unwrap() {
        // Whoever was in it may have been on the way out when its container went.
        eventually("its groups go", || cgroups_with(id).is_empty());
    }
}

fn state_of(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn stop(warden: i32) {
    send(warden, Signal::SIGSTOP);
    eventually("it stops", || state_of(warden) == 'T');
}

/// While it is stopped, waits go on and starts wait; what has a time limit says who does not answer.
#[test]
fn it_is_stopped_and_continued() {
    if !is_own_process("warden::it_is_stopped_and_continued") {
        return;
    }
    let image = host();
    let image = &image;
    let one = ready(&sh(image, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"));
    let two = ready(&sh(image, "echo ready; exec sleep 1000"));
    let warden = warden_of(&one);
    stop(warden);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.wait());
        let starting = scope.spawn(|| say(&sh(image, "echo late")));
        let executing = scope.spawn(|| two.exec(["echo", "late"]).output());
        // Signals need no warden, nor does what runs.
        one.kill(coracle::Signal::SIGTERM).unwrap();
        eventually("it ends", || !fs::exists(format!("/proc/{}/root/proc", one.pid().unwrap_or(0))).unwrap());
        assert_eq!(one.wait_timeout(Duration::from_millis(50)).unwrap(), None, "nobody has told yet");
        assert!(!waiting.is_finished() && !starting.is_finished() && !executing.is_finished());
        send(warden, Signal::SIGCONT);
        assert_eq!(waiting.join().unwrap().unwrap().code(), Some(3));
        assert_eq!(starting.join().unwrap(), "late");
        assert_eq!(text(&executing.join().unwrap().unwrap().stdout), "late");
    });
    assert_eq!(warden_of(&two), warden, "the same goes on");

    stop(warden);
    let error = two.stop(Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("SIGCONT")), "{error}");
    send(warden, Signal::SIGCONT);
    assert_eq!(two.wait().unwrap().signal(), Some(9));
    for container in [one, two] {
        container.remove().unwrap();
    }
    assert_eq!(count(image.store().path().join("containers")), 0);
}

#[test]
fn it_is_stopped_and_killed() {
    if !is_own_process("warden::it_is_stopped_and_killed") {
        return;
    }
    let image = host();
    let image = &image;
    let container = ready(&sh(image, "echo ready; exec sleep 1000"));
    let warden = warden_of(&container);
    stop(warden);
    std::thread::scope(|scope| {
        let (begun, begins) = std::sync::mpsc::channel();
        let starting = scope.spawn(move || {
            begun.send(()).unwrap();
            sh(image, "echo never").start()
        });
        begins.recv().unwrap();
        send(warden, Signal::SIGKILL);
        // It may have begun only now, with a new one.
        match starting.join().unwrap() {
            Ok(container) => assert!(container.wait().unwrap().success()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Gone, "{error}"),
        }
    });
    assert_gone(container.wait());
    assert_eq!(say(&sh(image, "echo next")), "next");
}
