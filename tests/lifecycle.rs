//! The life of a container, through the public interface, on this machine's own root filesystem.

mod common;

#[path = "lifecycle/ends.rs"]
mod ends;
#[path = "lifecycle/etc.rs"]
mod etc;
#[path = "lifecycle/exec.rs"]
mod exec;
#[path = "lifecycle/kept.rs"]
mod kept;
#[path = "lifecycle/limits.rs"]
mod limits;
#[path = "lifecycle/settings.rs"]
mod settings;
#[path = "lifecycle/storage.rs"]
mod storage;
#[path = "lifecycle/streams.rs"]
mod streams;

use common::*;
use coracle::{Container, ErrorKind, Image, Signal, State, Stdio, Store, Stream};
use std::time::{Duration, Instant};

/// Longer than anything here takes; shorter than a person's patience.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_command_runs_and_says_how_it_ended() {
    let image = host();
    let out = sh(&image, "echo out; echo err >&2; exit 3").run().unwrap();
    assert_eq!((out.status.code(), out.status.signal()), (Some(3), None));
    assert!(!out.status.success() && !out.status.oom_killed());
    assert_eq!((&out.stdout[..], &out.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    let out = sh(&image, "kill -9 $$").init(true).run().unwrap();
    assert_eq!(
        (out.status.code(), out.status.signal()),
        (Some(137), None),
        "an init passes it on as docker's"
    );
    assert_eq!(sh(&image, "true").run().unwrap().status.into_std().code(), Some(0));
}

#[test]
fn one_that_is_run_is_seen_by_others() {
    let image = host();
    let store = image.store().clone();
    let (told, heard) = std::sync::mpsc::channel();
    let builder = sh(&image, "echo on; sleep 1000").name("seen").on_output(move |_, _| {
        let _ = told.send(());
    });
    std::thread::scope(|scope| {
        let run = scope.spawn(|| builder.run());
        heard.recv_timeout(LONG).unwrap();
        let other = store.container("seen").unwrap();
        assert_eq!(other.state(), State::Running);
        assert_eq!(text(&other.exec(["echo", "there"]).output().unwrap().stdout), "there");
        other.kill(Signal::SIGKILL).unwrap();
        assert_eq!(run.join().unwrap().unwrap().status.signal(), Some(Signal::SIGKILL.number()));
    });
    assert_eq!(store.container("seen").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_states_follow_one_another() {
    let image = host();
    let container = sh(&image, "read line; exit 4").stdin(Stdio::piped()).create().unwrap();
    assert_eq!(container.state(), State::Created);
    assert_eq!(container.wait().unwrap_err().kind(), ErrorKind::State);
    assert_eq!(container.kill(Signal::SIGTERM).unwrap_err().kind(), ErrorKind::State);
    container.start().unwrap();
    assert_eq!(container.state(), State::Running);
    assert_eq!(container.start().unwrap_err().kind(), ErrorKind::State);
    assert_eq!(container.try_wait().unwrap(), None);
    assert_eq!(container.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    drop(container.take_stdin().unwrap());
    let status = container.wait().unwrap();
    assert_eq!(status.code(), Some(4));
    for _ in 0..3 {
        assert_eq!(container.wait().unwrap(), status);
        assert_eq!(container.try_wait().unwrap(), Some(status));
        assert_eq!(container.wait_timeout(LONG).unwrap(), Some(status));
    }
    assert_eq!(container.state(), State::Exited);
    assert_eq!(container.kill(Signal::SIGTERM).unwrap_err().kind(), ErrorKind::State);
    container.remove().unwrap();
}

#[test]
fn a_container_starts_again_with_its_changes() {
    let container = sh(&host(), "echo x >>/srv/count; exit $(wc -l </srv/count)").create().unwrap();
    for expected in 1..=3 {
        container.start().unwrap();
        assert_eq!(container.wait().unwrap().code(), Some(expected));
    }
}

#[test]
fn what_cannot_be_executed_is_an_error() {
    let image = host();
    for words in [["no-such-program"], ["/no/such/program"], ["/etc/passwd"], ["/etc"]] {
        let error = Container::builder(&image).command(words).run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec, "{words:?}: {error}");
        assert!(error.to_string().contains(words[0].trim_start_matches('/')), "{error}");
    }
    let error = Container::builder(&image).command(["x\0y"]).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = sh(&image, "true").user("nobody-of-this-name").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // Nothing of them is left.
    assert_eq!(image.store().containers().unwrap().len(), 0);
}

#[test]
fn names_are_unique_and_found() {
    let image = host();
    let store = image.store().clone();
    let first = sh(&image, "true").name("one").create().unwrap();
    let error = sh(&image, "true").name("one").create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.remedy().is_some());
    for bad in ["", "-a", "a/b", "a b"] {
        let error = sh(&image, "true").name(bad).create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    let made = sh(&image, "true").create().unwrap();
    assert_eq!(made.name().split('_').count(), 2, "{}", made.name());
    assert_eq!(store.containers().unwrap().len(), 2);
    assert_eq!(store.container("one").unwrap().id(), first.id());
    assert_eq!(store.container(made.short_id()).unwrap().name(), made.name());
    assert_eq!(store.container("none").unwrap_err().kind(), ErrorKind::NotFound);
    first.remove().unwrap();
    assert_eq!(store.container("one").unwrap_err().kind(), ErrorKind::NotFound);
    sh(&image, "true").name("one").create().unwrap();
}

#[test]
fn a_kept_container_is_opened_changed_and_removed() {
    let image = host();
    let path = image.store().path().to_owned();
    let container = sh(&image, "cat /srv/note 2>/dev/null; echo $RANDOM >/srv/other; echo kept >/srv/note")
        .name("box")
        .label("a", "b")
        .start()
        .unwrap();
    assert!(container.wait().unwrap().success());
    let id = container.id().to_owned();
    container.keep().unwrap();
    let store = Store::open(&path).unwrap();
    let opened = store.container("box").unwrap();
    assert_eq!((opened.id(), opened.state()), (id.as_str(), State::Exited));
    assert_eq!(opened.labels()["a"], "b");
    assert_eq!(opened.wait().unwrap().code(), Some(0));
    opened.start().unwrap();
    assert!(opened.wait().unwrap().success());
    assert_eq!(opened.logs(Stream::Stdout).unwrap(), b"kept\n");
    drop(opened);
    // A handle to a kept container leaves it where it is.
    store.container("box").unwrap().remove().unwrap();
    assert_eq!(store.containers().unwrap().len(), 0);
    assert!(!path.join("containers").join(&id).exists());
}

/// What is kept never has processes: they end first.
#[test]
fn one_that_runs_is_kept_as_ended() {
    let image = host();
    let store = image.store().clone();
    let script = "test -e /srv/note && exit 5; echo kept >/srv/note; sleep 1000 & echo ready; wait";
    let container = ready(&sh(&image, script).name("box"));
    let all: Vec<_> = container.top().unwrap().iter().map(|process| pidfd(process.pid)).collect();
    assert_eq!(all.len(), 2);
    container.keep().unwrap();
    assert!(all.iter().all(|process| ends(process, Duration::ZERO)));
    let kept = store.container("box").unwrap();
    assert_eq!(kept.state(), State::Exited);
    assert_eq!(kept.wait().unwrap().signal(), Some(9));
    // With what it has written.
    kept.start().unwrap();
    assert_eq!(kept.wait().unwrap().code(), Some(5));
    kept.remove().unwrap();
}

#[test]
fn two_handles_of_one_container() {
    let image = host();
    let store = image.store().clone();
    sh(&image, "echo ready; exec sleep 1000").name("box").create().unwrap().keep().unwrap();
    let (one, two) = (store.container("box").unwrap(), store.container("box").unwrap());
    one.start().unwrap();
    assert_eq!(two.start().unwrap_err().kind(), ErrorKind::State, "it runs");
    let three = store.container("box").unwrap();
    assert_eq!(three.state(), State::Running);
    // What is enforced is told to whoever opens it.
    assert!(three.report().get("seccomp").is_some(), "{:?}", three.report());
    assert_eq!(three.report(), one.report());
    three.kill(Signal::SIGKILL).unwrap();
    assert_eq!(three.wait().unwrap().signal(), Some(9));
    assert_eq!(one.wait().unwrap().signal(), Some(9));
    for _ in 0..3 {
        one.start().unwrap();
        one.kill(Signal::SIGKILL).unwrap();
        assert_eq!(one.wait().unwrap().signal(), Some(9));
        assert_eq!(store.container("box").unwrap().state(), State::Exited);
    }
    drop((one, two, three));
    store.container("box").unwrap().remove().unwrap();
}

#[test]
fn drop_leaves_nothing() {
    let image = host();
    let container = ready(&sh(&image, "sleep 1000 & echo ready; wait"));
    let (id, first) = (container.id().to_owned(), container.pid().unwrap());
    let pids: Vec<_> = container.top().unwrap().iter().map(|process| process.pid).collect();
    assert!(pids.contains(&first) && pids.len() == 2, "{pids:?}");
    let handles: Vec<_> = pids.into_iter().map(pidfd).collect();
    let dir = image.store().path().join("containers");
    assert!(dir.join(&id).exists());
    drop(container);
    assert!(handles.iter().all(|handle| ends(handle, Duration::ZERO)));
    assert!(!dir.join(&id).exists());
    assert_eq!(count(&dir), 0);
    assert!(cgroups_with(&id).is_empty(), "{:?}", cgroups_with(&id));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&id));
}

#[test]
fn many_at_once_from_many_threads() {
    let image = host();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let image = &image;
            scope.spawn(move || {
                for turn in 0..3 {
                    let word = format!("{thread}-{turn}");
                    assert_eq!(say(&sh(image, "echo $WORD").env("WORD", &word)), word);
                }
            });
        }
    });
    assert_eq!(image.store().containers().unwrap().len(), 0);
}

#[test]
fn a_descriptor_tells_of_the_end() {
    use rustix::event::{PollFd, PollFlags, poll};
    let container = sh(&host(), "read line").stdin(Stdio::piped()).start().unwrap();
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&container, PollFlags::IN)], Some(&now)).unwrap(), 0);
    drop(container.take_stdin());
    let long = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&container, PollFlags::IN)], Some(&long)).unwrap(), 1);
    assert!(container.try_wait().unwrap().is_some());
    // Of each run anew.
    for _ in 0..20 {
        container.start().unwrap();
        assert_eq!(poll(&mut [PollFd::new(&container, PollFlags::IN)], Some(&now)).unwrap(), 0);
        drop(container.take_stdin());
        container.wait().unwrap();
        assert_eq!(poll(&mut [PollFd::new(&container, PollFlags::IN)], Some(&long)).unwrap(), 1);
    }
}

/// While `run` has it, nothing in the store says that it runs: it is nobody else's.
#[test]
fn a_container_that_is_not_kept_belongs_to_its_maker() {
    let image = host();
    let made = sh(&image, "echo mine").create().unwrap();
    let other = image.store().container(made.id()).unwrap();
    assert_eq!(other.start().unwrap_err().kind(), ErrorKind::State);
    assert_eq!(other.remove().unwrap_err().kind(), ErrorKind::State);
    let other = image.store().container(made.id()).unwrap();
    made.start().unwrap();
    assert!(made.wait().unwrap().success());
    made.keep().unwrap();
    other.start().unwrap();
    assert!(other.wait().unwrap().success());
    other.remove().unwrap();
    assert_eq!(image.store().containers().unwrap().len(), 0);
}

/// Before whatever waits in vain has waited for as long as it does.
fn assert_soon(from: Instant) {
    assert!(from.elapsed() < Duration::from_secs(50), "{:?}", from.elapsed());
}

/// What comes of it when its time is up and it `has` said all: on a busy machine it takes longer, which nothing tells before.
#[track_caller]
fn in_time(
    timed: impl Fn(Duration) -> coracle::Error,
    has: impl Fn(&coracle::Error) -> bool,
) -> coracle::Error {
    let times = [300, 1000, 5000, 20_000].map(Duration::from_millis);
    times.into_iter().map(timed).find(has).expect("it has said nothing")
}

/// The image is a value: containers on it do not change it.
#[test]
fn what_one_container_writes_the_next_does_not_see() {
    let image: Image = host();
    say(&sh(&image, "echo changed >/etc/motd; rm /etc/passwd; touch /usr/new"));
    say(&sh(&image, "test ! -e /usr/new; grep -q root /etc/passwd; ! grep -q changed /etc/motd"));
    assert!(!std::path::Path::new("/usr/new").exists());
}

const STARTER: &str = "CORACLE_TEST_STARTER";

/// Several programs have the same kept container open and start it at the same moment: one of them does.
#[test]
fn one_of_several_programs_starts_a_kept_container() {
    use std::io::{BufRead, BufReader, Write};
    if let Some(path) = std::env::var_os(STARTER) {
        let container = Store::open(path).unwrap().container("shared").unwrap();
        println!("\nopen");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        match container.start() {
            Ok(()) => println!("started"),
            Err(error) => println!("{:?}: {error}", error.kind()),
        }
        // Until all have tried: it ends with its program.
        while std::io::stdin().read_line(&mut line).unwrap() > 0 {}
        return;
    }
    let image = host();
    sh(&image, "exec sleep 1000").name("shared").create().unwrap().keep().unwrap();
    for _ in 0..3 {
        let mut programs: Vec<_> = (0..4)
            .map(|_| {
                let path = image.store().path().as_os_str();
                let mut command =
                    child("one_of_several_programs_starts_a_kept_container", &[(STARTER, path)]);
                let piped = std::process::Stdio::piped;
                let mut program = command.stdin(piped()).stdout(piped()).spawn().unwrap();
                let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
                assert!(said.any(|line| line.unwrap() == "open"));
                (program, said)
            })
            .collect();
        for (program, _) in &mut programs {
            program.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        }
        let mut said: Vec<_> = programs.iter_mut().map(|(_, said)| said.next().unwrap().unwrap()).collect();
        for (program, _) in &mut programs {
            drop(program.stdin.take());
            program.wait().unwrap();
        }
        said.sort();
        assert_eq!(said.pop().unwrap(), "started");
        assert!(said.iter().all(|line| line.starts_with("State: ")), "{said:?}");
        let ended = || image.store().container("shared").unwrap().state() == State::Exited;
        eventually("it ends with its program", ended);
    }
    image.store().container("shared").unwrap().remove().unwrap();
}

/// Other programs reach the containers of each store, and what a store needed for that goes with it.
#[test]
fn many_stores_of_one_program() {
    let reach = |image: &Image| {
        let container = sh(image, "exec sleep 1000").start().unwrap();
        let other = image.store().container(container.id()).unwrap();
        assert!(other.exec(["true"]).output().unwrap().status.success());
        container
    };
    let images: Vec<_> = (0..12).map(|_| host()).collect();
    let all: Vec<_> = images.iter().map(reach).collect();
    drop((all, images));
    (0..40).for_each(|_| drop(reach(&host())));
}
