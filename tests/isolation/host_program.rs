//! What containers do to the program that runs them: nothing.
//!
//! Each of these needs a process of its own: it is this test program again, with one test.
use super::*;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use common::ROLE;

fn is_own_process(test: &str) -> bool {
    common::is_own_process(&format!("host_program::{test}"))
}

#[test]
fn threads_that_start_beside_threads_that_fork_allocate_lock_and_set_variables() {
    if !is_own_process("threads_that_start_beside_threads_that_fork_allocate_lock_and_set_variables") {
        return;
    }
    let image = host();
    let (done, lock) = (AtomicBool::new(false), std::sync::Mutex::new(0u64));
    std::thread::scope(|scope| {
        let (done, lock) = (&done, &lock);
        for number in 0..2 {
            scope.spawn(move || {
                let mut kept = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    kept.push(vec![number; 10_000 + kept.len()]);
                    kept.truncate(500);
                    kept.swap_remove(kept.len() / 2);
                    std::thread::yield_now();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // Held while others have the processor.
                    let mut number = lock.lock().unwrap();
                    std::thread::yield_now();
                    *number += 1;
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(move || locks_of_the_c_library(done));
        }
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                assert!(std::process::Command::new("true").status().unwrap().success());
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the copy ends at once, by a call that is async-signal-safe.
                match unsafe { nix::unistd::fork() }.unwrap() {
                    // SAFETY: _exit(2) is.
                    nix::unistd::ForkResult::Child => unsafe { nix::libc::_exit(0) },
                    nix::unistd::ForkResult::Parent { child } => {
                        nix::sys::wait::waitpid(child, None).unwrap();
                    }
                }
            }
        });
        scope.spawn(move || {
            let mut number = 0u64;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                // SAFETY: all of this process reads its environment through std, which locks.
                unsafe { std::env::set_var("CORACLE_TEST_NOISE", number.to_string()) };
                std::thread::yield_now();
            }
        });
        let starting: Vec<_> = (0..8)
            .map(|thread| {
                let image = &image;
                scope.spawn(move || {
                    for turn in 0..5 {
                        let word = format!("{thread}.{turn}");
                        assert_eq!(
                            say(&sh(image, "echo $WORD; test -z \"$CORACLE_TEST_NOISE\"").env("WORD", &word)),
                            word
                        );
                    }
                })
            })
            .collect();
        let results: Vec<_> = starting.into_iter().map(|thread| thread.join()).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
}

/// Takes them again and again: that of a stream, that of the list of all streams, and a mutex that two threads want.
fn locks_of_the_c_library(done: &AtomicBool) {
    struct Shared(std::cell::UnsafeCell<nix::libc::pthread_mutex_t>);
    // SAFETY: a mutex of pthreads is used through its address alone, by many threads.
    unsafe impl Sync for Shared {}
    static SHARED: Shared = Shared(std::cell::UnsafeCell::new(nix::libc::PTHREAD_MUTEX_INITIALIZER));
    // SAFETY: two texts that end in zero.
    let stream = unsafe { nix::libc::fopen(c"/dev/null".as_ptr(), c"w".as_ptr()) };
    assert!(!stream.is_null());
    while !done.load(Ordering::Relaxed) {
        // SAFETY: the mutex is static and initialized, the stream open; what is locked is unlocked by the same thread.
        unsafe {
            assert_eq!(nix::libc::pthread_mutex_lock(SHARED.0.get()), 0);
            assert!(nix::libc::fputs(c"noise".as_ptr(), stream) >= 0);
            std::thread::yield_now();
            assert_eq!(nix::libc::fflush(std::ptr::null_mut()), 0);
            assert_eq!(nix::libc::pthread_mutex_unlock(SHARED.0.get()), 0);
        }
    }
    // SAFETY: open, and not used any more.
    assert_eq!(unsafe { nix::libc::fclose(stream) }, 0);
}

/// Everything of a process that a careless library might change.
fn state() -> Vec<String> {
    let mut all = Vec::new();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"] {
        all.push(format!("{:?}", fs::read_link(format!("/proc/self/ns/{name}")).unwrap()));
    }
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let fields =
        ["Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "Cap", "NoNewPrivs", "Seccomp:"];
    all.extend(status.lines().filter(|line| fields.iter().any(|f| line.starts_with(f))).map(str::to_owned));
    all.push(format!("{:?}", std::env::current_dir().unwrap()));
    all.push(format!("{:?}", std::env::vars_os().collect::<Vec<_>>()));
    all.push(fs::read_to_string("/proc/self/limits").unwrap());
    all.push(fs::read_to_string("/proc/self/oom_score_adj").unwrap());
    all.push(format!("{:?}", rustix::process::dumpable_behavior().unwrap()));
    all.push(fs::read_to_string("/proc/self/mountinfo").unwrap());
    all.push(fs::read_to_string("/proc/self/cgroup").unwrap());
    all
}

fn descriptors() -> usize {
    count("/proc/self/fd")
}

#[test]
fn nothing_of_its_state_changes() {
    if !is_own_process("nothing_of_its_state_changes") {
        return;
    }
    let before = state();
    let image = host();
    let round = || {
        say(&sh(&image, "true"));
        let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
        container.exec(["true"]).output().unwrap();
        container.stop(Duration::ZERO).unwrap();
        container.remove().unwrap();
    };
    round();
    let open = descriptors();
    for _ in 0..5 {
        round();
    }
    assert_eq!(state(), before);
    // The library's threads close theirs soon after.
    let deadline = std::time::Instant::now() + LONG;
    while descriptors() > open && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(descriptors() <= open, "{} descriptors are left open", descriptors() - open);
    assert!(
        rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG).is_err(),
        "no child is left"
    );
}

#[test]
fn a_forked_copy_controls_nothing() {
    if !is_own_process("a_forked_copy_controls_nothing") {
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let executed = container.exec(["sleep", "1000"]).spawn().unwrap();
    // By a connection of its own, as another program would have it.
    let other = image.store().container(container.id()).unwrap().exec(["sleep", "1000"]).spawn().unwrap();
    // SAFETY: this process has one thread that does anything; the copy ends without returning.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let gone =
                |result: coracle::Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::Gone);
            let wrong = [
                gone(container.kill(coracle::Signal::SIGKILL)),
                gone(container.wait().map(drop)),
                gone(container.try_wait().map(drop)),
                gone(container.exec(["true"]).output().map(drop)),
                gone(container.top().map(drop)),
                gone(executed.try_wait().map(drop)),
                gone(executed.kill(coracle::Signal::SIGKILL)),
            ];
            let wrong = wrong.iter().position(|gone| !gone).map_or(0, |number| number as i32 + 1);
            drop((executed, other, container));
            // SAFETY: ends the copy, without its destructors.
            unsafe { nix::libc::_exit(wrong) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    assert_eq!(container.try_wait().unwrap(), None);
    assert_eq!((executed.try_wait().unwrap(), other.try_wait().unwrap()), (None, None));
    assert!(container.exec(["true"]).output().unwrap().status.success());
    // What the copy had in common is still good for messages.
    other.kill(coracle::Signal::SIGKILL).unwrap();
    assert_eq!(other.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_host_that_ignores_its_children() {
    if !is_own_process("a_host_that_ignores_its_children") {
        return;
    }
    // SAFETY: no handler is installed.
    unsafe {
        nix::sys::signal::signal(nix::sys::signal::Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn)
            .unwrap()
    };
    let image = host();
    assert_eq!(say(&sh(&image, "true; sh -c 'exit 3'; echo $?")), "3");
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    assert_eq!(container.exec(["sh", "-c", "exit 4"]).output().unwrap().status.code(), Some(4));
    assert_eq!(container.stop(Duration::ZERO).unwrap().signal(), Some(9));
}

#[test]
fn a_host_without_stdio() {
    if !is_own_process("a_host_without_stdio") {
        return;
    }
    let image = host();
    let saved: Vec<_> = (0..3).map(|fd| nix::unistd::dup(borrowed(fd)).unwrap()).collect();
    for fd in 0..3 {
        nix::unistd::close(fd).unwrap();
    }
    let result = sh(&image, "echo out; echo err >&2; wc -c").stdin("four").run();
    // With the last handle on the store its thread has ended: whatever it had open as 0 to 2 is closed.
    drop(image);
    for (fd, saved) in saved.iter().enumerate() {
        // SAFETY: closed above, and nobody else's.
        let mut to = std::mem::ManuallyDrop::new(unsafe {
            <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd as i32)
        });
        nix::unistd::dup2(saved, &mut to).unwrap();
    }
    let out = result.unwrap();
    assert_eq!((text(&out.stdout).as_str(), text(&out.stderr).as_str()), ("out\n4", "err"));
}

fn borrowed(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: the three standard streams are open in a test program.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

/// Not a test when run by itself: what listens in a container.
#[test]
fn serves_for_the_trace() {
    if std::env::var_os(SERVES).is_none() {
        return;
    }
    for stream in std::net::TcpListener::bind("127.0.0.1:8080").unwrap().incoming() {
        std::io::Write::write_all(&mut stream.unwrap(), b"served").unwrap();
    }
}

const SERVES: &str = "CORACLE_TEST_SERVES";

#[test]
fn many_starts_for_the_trace() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let image = host();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                say(&sh(&image, "true"));
                let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
                container.exec(["true"]).output().unwrap();
            });
        }
        scope.spawn(|| whole_life_for_the_trace(&image));
        scope.spawn(|| images_for_the_trace(image.store()));
        scope.spawn(primitives_for_the_trace);
    });
}

/// All that is done to a container in its life.
fn whole_life_for_the_trace(image: &Image) {
    use std::io::Read;
    let store = image.store();
    let volume = coracle::Volume::create(store, "data").unwrap();
    let server = Container::builder(image)
        .bind(std::env::current_exe().unwrap(), "/program")
        .command(["/program", "--exact", "host_program::serves_for_the_trace", "--nocapture"])
        .env(SERVES, "1")
        // With what the image has there.
        .volume(&volume, "/etc/skel")
        .mount(Mount::anonymous_volume("/v"))
        .file("/made", "x")
        .publish(8080)
        .memory_max(512 << 20)
        .cpus(1.0)
        .best_effort(coracle::LimitKind::MemoryMax)
        .best_effort(coracle::LimitKind::CpuMax)
        .start()
        .unwrap();
    server.wait_until(coracle::Ready::port(8080), LONG).unwrap();
    let published = std::net::TcpStream::connect(server.host_addr(8080).unwrap()).unwrap();
    for mut stream in [server.connect(8080).unwrap(), published] {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "served");
    }
    assert!(!server.top().unwrap().is_empty());
    if is_root() {
        server.pause().unwrap();
        server.unpause().unwrap();
        server.stats().unwrap();
    }
    server.stop(Duration::ZERO).unwrap();
    let id = server.id().to_owned();
    server.keep().unwrap();
    let again = store.container(&id).unwrap();
    again.start().unwrap();
    again.wait_until(coracle::Ready::port(8080), LONG).unwrap();
    again.kill(coracle::Signal::SIGKILL).unwrap();
    assert_eq!(again.wait().unwrap().signal(), Some(9));
    again.remove().unwrap();
    volume.size().unwrap();
    volume.remove().unwrap();
}

/// Into a store and out of it.
fn images_for_the_trace(store: &coracle::Store) {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, owner) in [("a", 0), ("b", 33)] {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_mode(0o644);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(1);
        header.set_cksum();
        archive.append(&header, &b"x"[..]).unwrap();
    }
    let fixture = Fixture::of(vec![archive.into_inner().unwrap(), tar([("dir/", Node::Dir)])]);
    let loaded = Image::load_reader(store, &docker_archive(&[(&fixture, &["app:1"])])[..]).unwrap();
    assert_eq!(loaded[0].layers().unwrap().len(), 2);
    let error = Container::builder(&loaded[0]).command(["/none"]).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exec, "{error}");
    drop(loaded);
    store.remove_image("app:1").unwrap();
}

/// What containers are made of, by itself.
fn primitives_for_the_trace() {
    let out = coracle::Namespaces::all().command(["/bin/sh", "-c", "echo $$"]).output().unwrap();
    assert_eq!(text(&out.stdout), "1", "{}", text(&out.stderr));
    let dir = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("lower/file"), "below").unwrap();
    let overlay = coracle::Overlay::new().lower(dir.path().join("lower"));
    let mounted = overlay.upper(dir.path().join("upper"), dir.path().join("work")).mount().unwrap();
    assert_eq!(fs::read_to_string(mounted.path().join("file")).unwrap(), "below");
    fs::write(mounted.path().join("file"), "above").unwrap();
    drop(mounted);
    assert_eq!(fs::read_to_string(dir.path().join("lower/file")).unwrap(), "below");
}

/// What a program that starts containers from several threads does to the system itself, by its trace: the calls of its
/// threads that make a process, execute a program or change what a process has. `before` is what executes it, traced as
/// well. Nobody executes this program a second time.
fn traced(program: &std::path::Path, before: &[&str], vars: &[(&str, &std::ffi::OsStr)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let out = std::process::Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=clone,clone3,fork,vfork,execve,execveat,unshare,setns,mount,umount2,move_mount,pivot_root,chroot,\
             chdir,umask",
        ])
        .arg("-o")
        .arg(&log)
        .args(before)
        .arg(program)
        .args(["--exact", "host_program::many_starts_for_the_trace", "--test-threads=1"])
        .env(ROLE, "1")
        .envs(vars.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("strace");
    assert!(out.status.success(), "{}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains("1 passed"), "{}", text(&out.stdout));
    let log = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = log.lines().map(|line| line.split_once(char::is_whitespace).unwrap()).collect();
    let lines = || lines.iter().map(|(pid, call)| (*pid, call.trim_start()));
    // Who made which thread. A thread may be at work before the call that made it is said to have returned.
    let mut made = Vec::new();
    // A call that is interrupted in the log: whether it makes a thread.
    let mut open = std::collections::BTreeMap::new();
    for (pid, call) in lines() {
        let is_thread = match call.starts_with("<...") {
            true => open.remove(pid).unwrap_or(false),
            false => call.contains("CLONE_THREAD"),
        };
        if call.contains("<unfinished") {
            open.insert(pid, is_thread);
        } else if is_thread {
            made.push((pid, call.rsplit(' ').next().unwrap()));
        }
    }
    let mut threads = std::collections::BTreeSet::from([lines().next().unwrap().0]);
    while made.iter().any(|(by, new)| threads.contains(by) && threads.insert(new)) {}
    let is_call = |call: &&str| !["+++", "---", "<..."].iter().any(|other| call.starts_with(other));
    let calls = lines().filter(|(pid, _)| threads.contains(pid)).map(|(_, call)| call);
    let mut calls: Vec<_> =
        calls.filter(is_call).filter(|call| !call.contains("CLONE_THREAD")).map(str::to_owned).collect();
    assert!(threads.len() > 4, "{log}");
    // Its own beginning, and what came before it.
    let own = format!("execve(\"{}\"", program.display());
    let begun = calls.iter().position(|call| call.starts_with(&own)).expect("its beginning");
    calls.drain(..=begun);
    let executed: Vec<_> = lines().map(|(_, call)| call).filter(|call| call.starts_with("execve")).collect();
    let of_it = |call: &&&str| call.starts_with(&own) || call.contains("/proc/self/exe");
    assert_eq!(executed.iter().filter(of_it).count(), 1, "{executed:#?}");
    // The log has those of the others: of containers, at least.
    assert!(executed.iter().any(|call| call.contains("\"/program\"")), "{executed:#?}");
    calls
}

/// One posix_spawn in its life, and no other process or namespace made by it.
#[test]
#[ignore = "needs root and strace: under a user's own trace newuidmap is not set-user-id"]
fn a_trace_of_it_shows_one_spawn() {
    let spawns = traced(&std::env::current_exe().unwrap(), &[], &[]);
    assert!(spawns.iter().all(|call| call.contains("CLONE_VM|CLONE_VFORK")), "{spawns:?}");
    assert_eq!(spawns.len(), 1, "{spawns:?}");
}

/// Somebody else, for root: this test program where that user can read it, and a place of the user's own for the store.
pub(super) struct OtherUser {
    uid: u32,
    pub program: std::path::PathBuf,
    pub own: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl OtherUser {
    pub fn new(uid: u32) -> Self {
        let (dir, program) = own_copy();
        let own = dir.path().join("own");
        fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(uid), Some(uid)).unwrap();
        Self { uid, program, own, _dir: dir }
    }

    /// The words before a command that is to be that user's.
    pub fn become_it(&self) -> Vec<String> {
        let uid = self.uid.to_string();
        let words = ["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--inh-caps=-all", "--"];
        words.map(str::to_owned).to_vec()
    }
}

/// As an ordinary user likewise, but for the two programs that write the warden's maps where it has sub-ids. Root traces
/// it: under a trace of the user's own those are not set-user-id.
#[test]
#[ignore = "needs root and strace: becomes another user under its trace"]
fn a_trace_of_it_as_an_ordinary_user_shows_one_spawn() {
    use std::os::unix::fs::PermissionsExt;
    const NOBODY: u32 = 65534;
    const MAPS: &str = "CORACLE_TEST_MAPS";
    let name = "host_program::a_trace_of_it_as_an_ordinary_user_shows_one_spawn";
    let Some(maps) = std::env::var_os(MAPS) else {
        // With sub-ids and without, in a mount namespace that goes with it.
        for (subids, maps) in [("nobody:200000:65536\n", "2"), ("", "0")] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("subids");
            fs::write(&file, subids).unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let script =
                "mount --bind \"$1\" /etc/subuid && mount --bind \"$1\" /etc/subgid && shift && exec \"$@\"";
            let mut command = std::process::Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(&file);
            command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--include-ignored"]);
            let out = command.env(MAPS, maps).stdin(Stdio::null()).output().unwrap();
            assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
            assert!(text(&out.stdout).contains("1 passed"), "{}", text(&out.stdout));
        }
        return;
    };
    let maps: usize = maps.to_str().unwrap().parse().unwrap();
    let other = OtherUser::new(NOBODY);
    let own = other.own.as_os_str();
    let spawns = traced(
        &other.program,
        &other.become_it().iter().map(String::as_str).collect::<Vec<_>>(),
        &[("TMPDIR", own), ("HOME", own)],
    );
    assert!(spawns.iter().all(|call| call.contains("CLONE_VM|CLONE_VFORK")), "{spawns:?}");
    assert_eq!(spawns.len(), 1 + maps, "{spawns:?}");
}
