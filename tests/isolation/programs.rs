//! Several programs and one container: how many there may be, and what a copy of one of them leaves.
use super::common::is_own_process;
use super::host_program::{OtherUser, ROLE};
use super::*;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

const STORE: &str = "CORACLE_TEST_STORE";
const CONTAINER: &str = "CORACLE_TEST_CONTAINER";

/// A connection to this program's warden that it has not looked at yet.
fn knock(store: &coracle::Store, flags: rustix::net::SocketFlags) -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let doors = fs::read_dir(store.path().join("locks")).unwrap().map(|entry| entry.unwrap().path());
    let door =
        doors.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("warden-"));
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(door.unwrap()).unwrap()).map(|()| socket)
}

/// A connection to this program's warden, as another program has it.
fn connect(store: &coracle::Store) -> OwnedFd {
    let socket = knock(store, rustix::net::SocketFlags::empty()).unwrap();
    // It has been looked at.
    assert!(ends(&socket, LONG));
    socket
}

/// Processor time of a process in ticks of a hundredth of a second (proc_pid_stat(5)).
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn one_program_too_many_is_told_so() {
    if !is_own_process("programs::one_program_too_many_is_told_so") {
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let other = image.store().container(container.id()).unwrap();
    let warden = warden_of(&container);
    let refused = |why: &str| {
        let error = other.exec(["true"]).output().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{why}: {error}");
        assert!(error.step().contains("too many programs") && error.remedy().is_some(), "{why}: {error}");
    };
    let let_in = || {
        let deadline = Instant::now() + LONG;
        // Who has gone may not have been seen yet.
        while let Err(error) = other.exec(["true"]).output() {
            assert!(error.kind() == ErrorKind::ResourceExhausted && Instant::now() < deadline, "{error}");
        }
    };
    let all: Vec<_> = (0..64).map(|_| connect(image.store())).collect();
    refused("64 connections");
    drop(all);
    let_in();

    // No descriptors for as many.
    let warden_pid = rustix::process::Pid::from_raw(warden).unwrap();
    let limit = |soft| {
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current = Some(soft);
        rustix::process::prlimit(Some(warden_pid), rustix::process::Resource::Nofile, limit).unwrap()
    };
    let before = limit(12);
    let all: Vec<_> = (0..20).map(|_| connect(image.store())).collect();
    refused("no descriptors");
    let spent = ticks(warden);
    // It has nothing to do, and does nothing: half a second would be fifty.
    assert_eq!(container.wait_timeout(Duration::from_millis(500)).unwrap(), None);
    assert!(ticks(warden) - spent < 10, "{} ticks", ticks(warden) - spent);
    drop(all);
    limit(before.current.unwrap());
    let_in();

    // A limit below what is open already: who goes is seen nevertheless, and makes room for a command.
    let all: Vec<_> = (0..60).map(|_| connect(image.store())).collect();
    limit(40);
    drop(all);
    let_in();
    limit(before.current.unwrap());
    assert_eq!(say(&sh(&image, "echo still")), "still");
}

/// Of a warden that is stopped the queue is full sooner or later: nobody waits at it for ever.
#[test]
fn a_warden_that_is_stopped_is_not_waited_for() {
    if !is_own_process("programs::a_warden_that_is_stopped_is_not_waited_for") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = coracle::Store::open(dir.path()).unwrap();
    let container = ready(&sh(&Image::host(&store).unwrap(), "echo ready; exec sleep 1000"));
    let other = store.container(container.id()).unwrap();
    let warden = nix::unistd::Pid::from_raw(warden_of(&container));
    nix::sys::signal::kill(warden, nix::sys::signal::SIGSTOP).unwrap();
    while knock(&store, rustix::net::SocketFlags::NONBLOCK).is_ok() {}

    let (done, results) = std::sync::mpsc::channel();
    let path = dir.path().to_owned();
    std::thread::spawn(move || {
        let opened = coracle::Store::open(path).map(drop);
        let executed = other.exec(["true"]).output().map(drop);
        done.send((opened, executed, other)).unwrap();
    });
    let answers = results.recv_timeout(LONG);
    nix::sys::signal::kill(warden, nix::sys::signal::SIGCONT).unwrap();
    let (opened, executed, other) = answers.expect("it hangs");
    opened.unwrap();
    let error = executed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("stopped")), "{error}");
    // Its door was not taken for a dead program's.
    assert!(other.exec(["true"]).output().unwrap().status.success());
}

/// One that was stopped between the letting in and the command: here another listener at its door, which does nothing more.
#[test]
fn a_warden_that_is_stopped_later_is_not_waited_for() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let other = image.store().container(container.id()).unwrap();
    let locks = image.store().path().join("locks");
    let mut names =
        fs::read_dir(&locks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = names.find(|name| name.starts_with("warden-")).unwrap();
    fs::rename(locks.join(&name), locks.join("aside")).unwrap();
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(locks.join(&name)).unwrap()).unwrap();
    rustix::net::listen(&listener, 4).unwrap();
    let (done, results) = std::sync::mpsc::channel();
    let asker = std::thread::spawn(move || {
        let since = Instant::now();
        let executed = other.exec(["touch", "/srv/too-late"]).output().map(drop);
        let _ = done.send((executed, since.elapsed()));
        let soon = other.exec(["true"]).timeout(Duration::from_millis(200)).output().map(drop);
        let _ = done.send((soon, since.elapsed()));
        other
    });
    let mut let_in = Vec::new();
    for within in [Duration::from_secs(9)..LONG, Duration::ZERO..LONG] {
        let client = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
        // Event::WELCOME of the warden's plan.rs.
        let mut event = [0u8; 48];
        event[0] = 8;
        assert_eq!(rustix::net::send(&client, &event, rustix::net::SendFlags::empty()).unwrap(), 48);
        let (executed, took) = results.recv_timeout(LONG).expect("it hangs");
        let error = executed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(within.contains(&took), "{took:?}: {error}");
        let_in.push((client, error));
    }
    assert!(let_in[0].1.remedy().is_some_and(|remedy| remedy.contains("stopped")), "{}", let_in[0].1);
    drop((let_in, listener));
    fs::rename(locks.join("aside"), locks.join(&name)).unwrap();
    assert!(asker.join().unwrap().exec(["true"]).output().unwrap().status.success());
}

/// That a command has ended is seen without its warden; how it ended is not.
#[test]
fn a_stopped_warden_does_not_keep_the_end_of_a_command() {
    if !is_own_process("programs::a_stopped_warden_does_not_keep_the_end_of_a_command") {
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let other = image.store().container(container.id()).unwrap();
    let executed = other.exec(["sleep", "1000"]).spawn().unwrap();
    let warden = nix::unistd::Pid::from_raw(warden_of(&container));
    nix::sys::signal::kill(warden, nix::sys::signal::SIGSTOP).unwrap();
    executed.kill(coracle::Signal::SIGKILL).unwrap();
    let (done, results) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let first = executed.wait();
        done.send((first, executed)).unwrap();
    });
    let answer = results.recv_timeout(LONG);
    nix::sys::signal::kill(warden, nix::sys::signal::SIGCONT).unwrap();
    let (first, executed) = answer.expect("it hangs");
    let error = first.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("stopped")), "{error}");
    assert_eq!(executed.wait().unwrap().signal(), Some(9));
}

/// What other programs' commands in its container come to is told to this one first, which calls nothing here meanwhile.
#[test]
fn nobody_has_to_listen() {
    if !is_own_process("programs::nobody_has_to_listen") {
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let other = image.store().container(container.id()).unwrap();
    // More than find room in a socket.
    for _ in 0..400 {
        assert!(other.exec(["true"]).output().unwrap().status.success());
    }
    assert_eq!(container.stop(Duration::ZERO).unwrap().signal(), Some(9));
}

/// A forked copy of this program, which ends with this.
struct Copied(nix::unistd::Pid);

impl Copied {
    fn new() -> Self {
        // SAFETY: the copy calls only pause(2), which is async-signal-safe.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => loop {
                nix::unistd::pause();
            },
            nix::unistd::ForkResult::Parent { child } => Self(child),
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Whoever has a copy of what its program had open keeps neither the port nor a connection.
#[test]
fn a_port_goes_with_its_container_while_a_copy_lives_on() {
    use std::io::Read;
    if !is_own_process("programs::a_port_goes_with_its_container_while_a_copy_lives_on") {
        return;
    }
    let image = host();
    let reserved = Reserved::new();
    let address = reserved.address;
    let container = sh(&image, "exec sleep 1000").publish_at(address, 80).start().unwrap();
    drop(std::net::TcpStream::connect(address).unwrap());
    let _copy = Copied::new();
    container.remove().unwrap();
    let error = std::net::TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // The next one may have it at once.
    let again = sh(&image, "exec sleep 1000").publish_at(address, 80).start().unwrap();
    let mut refused = std::net::TcpStream::connect(address).unwrap();
    // Nothing listens in the container.
    assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
    again.remove().unwrap();
}

/// What this program lets go of is free, whoever has a copy of what it had open; and a copy lets go of nothing.
#[test]
fn nothing_is_in_use_for_a_copy() {
    if !is_own_process("programs::nothing_is_in_use_for_a_copy") {
        return;
    }
    let (store, files) = (coracle::Store::temp().unwrap(), tempfile::tempdir().unwrap());
    fs::write(files.path().join("file"), "x").unwrap();
    let image = coracle::Import::new().name("app").path(&store, files.path()).unwrap();
    let volume = coracle::Volume::builder("data").create(&store).unwrap();
    // SAFETY: the copy of a program of one thread may do what it likes; it ends without clearing up anything else.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            drop(image);
            unsafe { nix::libc::_exit(0) };
        }
        nix::unistd::ForkResult::Parent { child } => {
            let ended = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    assert!(store.prune_images(true).unwrap().deleted.is_empty(), "the copy has let go of it");
    let layers = image.layers().unwrap();
    let _copy = Copied::new();
    let id = *image.id();
    drop((image, layers));
    let pruned = store.prune_images(true).unwrap();
    assert!(pruned.deleted == [id] && pruned.freed > 0, "{pruned:?}");
    assert_eq!((count(store.path().join("layers")), count(store.path().join("blobs/sha256"))), (0, 0));
    volume.remove().unwrap();
}

/// A copy of the program has its own warden, containers and clearing up.
#[test]
fn a_copy_makes_and_removes_its_own() {
    if !is_own_process("programs::a_copy_makes_and_removes_its_own") {
        return;
    }
    let image = host();
    let store = image.store().path().to_owned();
    assert_eq!(say(&sh(&image, "echo original")), "original");
    // SAFETY: this process has one thread that does anything; the copy ends without returning.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let said = sh(&image, "echo copy").run().map(|out| out.stdout_text().into_owned());
            let is_fine = said.is_ok_and(|said| said == "copy\n") && count(store.join("containers")) == 0;
            let left = count(store.join("tmp"));
            // SAFETY: ends the copy, without its destructors.
            unsafe { nix::libc::_exit(if is_fine { left as i32 } else { 100 }) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    assert_eq!(say(&sh(&image, "echo still")), "still");
}

/// Not a test when run by itself: another program, with a container of `STORE`.
#[test]
fn other_program() {
    let Some(store) = std::env::var_os(STORE) else { return };
    let store = coracle::Store::open(store).unwrap();
    let container = store.container(std::env::var(CONTAINER).unwrap().as_str()).unwrap();
    let mut executed = None;
    let mut copy = None;
    match container.state() {
        coracle::State::Running => {
            executed = Some(container.exec(["sleep", "1234"]).stdin(coracle::Stdio::null()).spawn().unwrap());
            copy = Some(Copied::new());
        }
        _ => container.start().unwrap(),
    }
    writeln!(std::io::stdout(), "\nCOPY {}", copy.as_ref().map_or(0, |copy| copy.0.as_raw())).unwrap();
    container.wait().unwrap();
    drop(executed);
}

/// Starts it, and gives the number of its copy.
fn start(store: &Path, container: &str) -> (Child, i32) {
    let vars = [(STORE, store.as_os_str()), (CONTAINER, container.as_ref())];
    let mut program = child("programs::other_program", &vars);
    let program = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut program = program.spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map_while(Result::ok);
    let copy = lines.find_map(|line| line.strip_prefix("COPY ")?.parse().ok()).unwrap();
    (program, copy)
}

/// Whoever is not in the container is refused alike, whichever program asks; `alone`: it has one id only.
fn others_are_told_alike(test: &str, alone: bool) {
    let users = if alone { ["1000", "0:1000"] } else { ["70000", "0:70000"] };
    let tried = |container: &Container| {
        let error = |user| container.exec(["true"]).user(user).output().unwrap_err();
        users.map(error).map(|error| format!("{:?} {error}", error.kind()))
    };
    if let Some(store) = std::env::var_os(STORE) {
        let container = coracle::Store::open(store).unwrap().container("shared").unwrap();
        assert!(container.exec(["true"]).user("0:0").output().unwrap().status.success());
        println!("\nSAID {:?}", tried(&container));
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000").name("shared"));
    assert_eq!(is_single(&container), alone);
    let own = tried(&container);
    let kind = if alone { "Unsupported" } else { "InvalidInput" };
    assert!(own.iter().all(|said| said.starts_with(kind)), "{own:?}");
    let out =
        child(test, &[(STORE, image.store().path().as_os_str())]).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    let said = text(&out.stdout);
    let said = said.lines().find_map(|line| line.strip_prefix("SAID ")).unwrap();
    match alone {
        // The reason is the container's, which this program knows and the other does not.
        true => assert_eq!(said.matches(kind).count(), 2, "{said}"),
        false => assert_eq!(said, format!("{own:?}")),
    }
}

#[test]
fn who_is_not_in_it_is_told_alike_by_each_program() {
    const TEST: &str = "programs::who_is_not_in_it_is_told_alike_by_each_program";
    if std::env::var_os(STORE).is_some() || !is_single(&ready(&sh(&host(), "echo ready; exec sleep 1000"))) {
        others_are_told_alike(TEST, false);
    }
}

#[test]
fn who_is_not_in_it_is_told_alike_where_there_is_one_id() {
    const TEST: &str = "programs::who_is_not_in_it_is_told_alike_where_there_is_one_id";
    let flags: &[&str] = match is_root() {
        true => &["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"],
        false => &["setpriv", "--no-new-privs"],
    };
    if std::env::var_os(STORE).is_some() || is_under(TEST, flags) {
        others_are_told_alike(TEST, true);
    }
}

/// A command in another program's container does not outlive who asked for it, whoever has a copy of that.
#[test]
fn a_command_ends_with_who_asked_for_it_while_a_copy_lives_on() {
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let (mut program, copy) = start(image.store().path(), container.id());
    let copied = pidfd(copy);
    let mut command = None;
    // The kernel tells a new program's words a little after it has become one.
    eventually("it runs", || {
        command = container.top().unwrap().into_iter().find(|process| process.command == "sleep 1234");
        command.is_some()
    });
    let command = pidfd(command.unwrap().pid);
    program.kill().unwrap();
    program.wait().unwrap();
    let ended = ends(&command, Duration::from_secs(20));
    let lives = !ends(&copied, Duration::ZERO);
    drop(Copied(nix::unistd::Pid::from_raw(copy)));
    assert!(ended && lives, "{ended} {lives}");
    assert_eq!(container.try_wait().unwrap(), None);
}

/// A program that was killed and that nobody has reaped yet says no more how its container ended.
#[test]
fn nobody_waits_for_the_word_of_the_dead() {
    let dir = tempfile::tempdir().unwrap();
    let store = coracle::Store::open(dir.path()).unwrap();
    let image = Image::host(&store).unwrap();
    let waited = || {
        sh(&image, "exec sleep 1000").name("left").create().unwrap().keep().unwrap();
        let (mut program, _) = start(dir.path(), "left");
        let seen = store.container("left").unwrap();
        let line = seen.report().get("no_new_privs").map(ToString::to_string);
        assert_eq!(line.as_deref(), Some("no_new_privs: enforced (PR_SET_NO_NEW_PRIVS)"));
        let first = pidfd(seen.pid().unwrap());
        program.kill().unwrap();
        assert!(ends(&first, LONG));
        let since = Instant::now();
        assert_eq!(seen.wait().unwrap().signal(), Some(9));
        let waited = since.elapsed();
        program.wait().unwrap();
        seen.remove().unwrap();
        waited
    };
    // It would have had two seconds to say so, each time; a machine may stand still once.
    let times: Vec<_> = (0..3).map(|_| waited()).take_while(|time| *time >= Duration::from_secs(2)).collect();
    assert!(times.len() < 3, "{times:?}");
}

/// All processes of an ordinary user count on that user's limit, in whatever container: who is refused one learns why.
#[test]
#[ignore = "needs root: becomes a user of its own, as others' processes would count too"]
fn a_fork_bomb_of_a_users_container_is_named_by_the_error() {
    const NAME: &str = "programs::a_fork_bomb_of_a_users_container_is_named_by_the_error";
    if std::env::var_os(ROLE).is_none() {
        // Of another run of this test, too.
        let other = OtherUser::new(543_210 + std::process::id());
        let mut command = std::process::Command::new("prlimit");
        command.arg("--nproc=60:4096").args(other.become_it()).arg(&other.program);
        command.args(["--exact", NAME, "--include-ignored"]).env(ROLE, "1").env("TMPDIR", &other.own);
        let out = command.env("HOME", &other.own).stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
        assert!(text(&out.stdout).contains("1 passed"), "{}", text(&out.stdout));
        return;
    }
    let image = host();
    let quiet = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let shared = quiet.report().get("pids_max").map(|entry| format!("{:?}", entry.outcome())).unwrap();
    assert!(shared.contains("this user's own limit"), "{shared}");
    // Whatever ends of this program's own after that makes room, which it takes as well.
    let bomb = "import os,signal,time\nfull=False\nwhile True:\n try:\n  if not os.fork(): signal.pause()\n\
        \x20except OSError:\n  if not full: print('full',flush=True)\n  full=True\n  time.sleep(0.001)";
    let bomb = ready(&Container::builder(&image).command(["python3", "-c", bomb]));
    let refused = |act: &dyn Fn() -> coracle::Result<()>| {
        let mut refused = None;
        eventually("there is room", || {
            refused = act().err();
            refused.is_some()
        });
        refused.unwrap()
    };
    let run = refused(&|| sh(&image, "true").run().map(drop));
    let executed = refused(&|| quiet.exec(["true"]).output().map(drop));
    for error in [run, executed] {
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("ulimit -u")), "{error}");
    }
    bomb.remove().unwrap();
    assert_eq!(say(&sh(&image, "echo still")), "still");
    assert!(quiet.exec(["true"]).output().unwrap().status.success());
}

/// A program that may have few descriptors: its warden serves, and what does not fit is an error.
#[test]
fn a_host_with_few_descriptors() {
    if !is_own_process("programs::a_host_with_few_descriptors") {
        return;
    }
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let before = limit;
    limit.current = Some(64);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let few = coracle::Namespaces::new().user().pid().command(["echo", "few"]).output();
    // A container on the host's root takes more.
    let more = sh(&host(), "echo more").run();
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).unwrap();
    assert_eq!(text(&few.unwrap().stdout), "few");
    if let Err(error) = more {
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("ulimit -n")), "{error}");
    }
}
