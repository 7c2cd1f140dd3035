//! Further commands in a running container.
use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;

fn sleeper(image: &Image) -> Container {
    ready(
        &sh(image, "echo ready; exec sleep 1000")
            .env("FROM", "container")
            .working_dir("/usr")
            .hostname("box"),
    )
}

/// Only the first command is left: what has ended is reaped soon.
#[track_caller]
fn assert_alone(container: &Container) {
    let deadline = Instant::now() + LONG;
    while container.top().unwrap().len() != 1 {
        assert!(Instant::now() < deadline, "{:?}", container.top());
        std::thread::yield_now();
    }
}

#[test]
fn it_runs_beside_the_first_command() {
    let image = host();
    let container = sleeper(&image);
    let out = container
        // It is still a shell when it says that it is ready, and the kernel tells a new program's words a little after it has become one.
        .exec(["sh", "-c", "echo $FROM; pwd; hostname; until grep -q ^sleep /proc/1/cmdline; do :; done; tr '\\0' ' ' </proc/1/cmdline"])
        .timeout(LONG)
        .output()
        .unwrap();
    assert_eq!(text(&out.stdout), "container\n/usr\nbox\nsleep 1000");
    let out = container.exec(["sh", "-c", "echo oops >&2; exit 6"]).output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr).as_str()), (Some(6), "oops"));
    let out =
        container.exec(["sh", "-c", "echo $FROM$OWN; pwd"]).env("OWN", "+exec").working_dir("/etc").output();
    assert_eq!(text(&out.unwrap().stdout), "container+exec\n/etc");
    let out = container.exec(["cat"]).stdin("given").output().unwrap();
    assert_eq!(out.stdout, b"given");
    // Only a first command has it made.
    let error = container.exec(["pwd"]).working_dir("/not/there").output().unwrap_err();
    assert_eq!((error.kind(), error.step()), (ErrorKind::NotFound, "chdir"), "{error}");
    assert_eq!(error.path(), Some("/not/there".as_ref()));
    assert!(!container.exec(["test", "-e", "/not"]).output().unwrap().status.success());
    assert_eq!(container.state(), State::Running);
}

/// The kernel would take what is before the NUL byte, and do something else than was asked for.
#[test]
fn what_no_command_can_be_told_is_refused() {
    let container = sleeper(&host());
    assert!(container.exec(["touch", "/tmp/a"]).output().unwrap().status.success());
    for (what, exec) in [
        ("nothing", container.exec([""; 0])),
        ("the program", container.exec(["true\0x"])),
        ("an argument", container.exec(["rm", "/tmp/a\0.txt"])),
        ("a further argument", container.exec(["rm"]).arg("/tmp/a\0.txt")),
        ("a variable", container.exec(["rm", "/tmp/a"]).env("A", "b\0c")),
        ("a variable's name", container.exec(["rm", "/tmp/a"]).env("A\0", "b")),
        ("a name with a value", container.exec(["rm", "/tmp/a"]).env("A=B", "b")),
        ("no name", container.exec(["rm", "/tmp/a"]).env("", "b")),
        ("the directory", container.exec(["rm", "a"]).working_dir("/tmp\0/b")),
    ] {
        let error = exec.output().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}: {error}");
    }
    assert!(container.exec(["test", "-e", "/tmp/a"]).output().unwrap().status.success());
    // Before it is looked whether anything could be executed.
    container.kill(Signal::SIGKILL).unwrap();
    container.wait().unwrap();
    let error = container.exec(["true\0x"]).spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_eq!(container.exec(["true"]).spawn().unwrap_err().kind(), ErrorKind::State);
}

/// Of a program whose own streams are pipes: they are the command's, where nothing else was said.
#[test]
fn its_status_comes_without_its_output() {
    const TEST: &str = "exec::its_status_comes_without_its_output";
    if std::env::var_os(ROLE).is_some() {
        let container = sleeper(&host());
        let script = "read line; echo \"out $line\"; echo \"err $line\" >&2; exit 6";
        let status = container.exec(["sh", "-c", script]).status().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(6), None));
        let given = container.exec(["sh", "-c", script]).stdin("given").stdout(Stdio::null()).status();
        assert_eq!(given.unwrap().code(), Some(6));
        let killed = container.exec(["sh", "-c", "kill -9 $$"]).status().unwrap();
        assert_eq!((killed.code(), killed.signal()), (None, Some(9)));
        let error = container.exec(["/no/such/program"]).status().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec, "{error}");
        let error =
            container.exec(["sleep", "1000"]).timeout(Duration::from_millis(50)).status().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        return;
    }
    let mut command = child(TEST, &[(ROLE, "1".as_ref())]);
    let piped = std::process::Stdio::piped;
    let mut program = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(b"to me\n").unwrap();
    let out = program.wait_with_output().unwrap();
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    assert!(stdout.contains("out to me\n") && !stdout.contains("given"), "{stdout}");
    assert_eq!(stderr, "err to me\nerr given");
}

#[test]
fn its_report_is_the_containers() {
    let image = host();
    assert!(!sh(&image, "true").create().unwrap().report().is_complete(), "nothing is known yet");
    let container = sleeper(&image);
    let out = container.exec(["true"]).output().unwrap();
    assert!(out.report.get("seccomp").is_some());
    assert_eq!(out.report, container.report());
}

#[test]
fn it_has_the_same_rights_and_namespaces() {
    let container = sleeper(&host());
    let script = "for n in pid mnt uts ipc net user cgroup; do \
        [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done; \
        grep -E 'Cap(Eff|Bnd|Prm)|NoNew|Seccomp:' /proc/self/status >/srv/me; \
        grep -E 'Cap(Eff|Bnd|Prm)|NoNew|Seccomp:' /proc/1/status | diff - /srv/me";
    let out = container.exec(["sh", "-c", script]).output().unwrap();
    assert_eq!((text(&out.stdout).as_str(), text(&out.stderr).as_str()), ("", ""));
    let group =
        container.exec(["sh", "-c", "cat /proc/self/cgroup >/srv/me; diff /proc/1/cgroup /srv/me"]).output();
    assert_eq!(text(&group.unwrap().stdout), "");
}

#[test]
fn all_run_on_any_processor() {
    let image = host();
    let allowed = "grep Cpus_allowed_list /proc/self/status";
    // The host's own first process is not held to any.
    let all = std::fs::read_to_string("/proc/1/status").unwrap();
    let all = all.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap();
    let container = sleeper(&image);
    let exec = container.exec(["sh", "-c", allowed]).output().unwrap();
    assert_eq!(text(&exec.stdout), all);
    for builder in [sh(&image, allowed), sh(&image, allowed).init(true)] {
        assert_eq!(say(&builder), all);
    }
}

#[test]
fn it_can_be_another_user() {
    let image = host();
    let container = sleeper(&image);
    let out = container.exec(["id", "-u"]).user("0").output().unwrap();
    assert_eq!(text(&out.stdout), "0");
    let single = is_single(&container);
    if !single {
        let out = container
            .exec(["sh", "-c", "id -u; id -g; grep CapEff /proc/self/status"])
            .user("33:44")
            .output();
        assert_eq!(text(&out.unwrap().stdout), "33\n44\nCapEff:\t0000000000000000");
    }
    let error = container.exec(["id"]).user("nobody-of-this-name").output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// An init may not be looked into by an ordinary user; commands join its child.
#[test]
fn it_runs_beside_an_init() {
    let container = ready(&sh(&host(), "echo ready; exec sleep 1000").init(true));
    let script =
        "cat /proc/1/comm; for n in pid mnt uts ipc net user cgroup; do readlink /proc/self/ns/$n; done";
    let out = container.exec(["sh", "-c", script]).output().unwrap();
    assert!(text(&out.stdout).starts_with("coracle-init\n"), "{out:?}");
    let mut command = None;
    eventually("the shell has become another program", || {
        command = container.top().unwrap().into_iter().find(|process| process.command == "sleep 1000");
        command.is_some()
    });
    let command = command.unwrap();
    for (link, name) in
        text(&out.stdout).lines().skip(1).zip(["pid", "mnt", "uts", "ipc", "net", "user", "cgroup"])
    {
        let its = std::fs::read_link(format!("/proc/{}/ns/{name}", command.pid)).unwrap();
        assert_eq!(its.to_string_lossy(), link);
    }
    // Nothing listens, which is known from inside only.
    let error = container.connect(9).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    container.kill(Signal::SIGTERM).unwrap();
    container.wait().unwrap();
    assert_eq!(container.exec(["true"]).output().unwrap_err().kind(), ErrorKind::State);
}

#[test]
fn what_cannot_be_executed_is_an_error() {
    let container = sleeper(&host());
    for words in [["no-such-program"], ["/etc/passwd"]] {
        let error = container.exec(words).output().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec, "{error}");
    }
    assert_alone(&container);
    container.kill(Signal::SIGKILL).unwrap();
    container.wait().unwrap();
    assert_eq!(container.exec(["true"]).output().unwrap_err().kind(), ErrorKind::State);
}

#[test]
fn it_is_bounded_and_spawned() {
    let container = sleeper(&host());
    let error = container.exec(["sleep", "1000"]).timeout(Duration::from_millis(50)).output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let timed = |time| {
        let exec = container.exec(["sh", "-c", "echo so far; echo oops >&2; exec sleep 1000"]);
        exec.timeout(time).output().unwrap_err()
    };
    let error = in_time(timed, |error| text(error.stderr()) == "oops");
    assert_eq!((text(error.stdout()).as_str(), text(error.stderr()).as_str()), ("so far", "oops"));
    let error = container.exec(["yes"]).output_max(1000).output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let spawned = container.exec(["sleep", "1000"]).spawn().unwrap();
    assert_eq!(spawned.try_wait().unwrap(), None);
    spawned.kill(Signal::SIGTERM).unwrap();
    assert_eq!(spawned.wait().unwrap().signal(), Some(15));
    assert_alone(&container);
}

#[test]
fn its_time_is_kept_whoever_waits() {
    let container = sleeper(&host());
    let timed = || container.exec(["sleep", "1000"]).timeout(Duration::from_secs(2)).spawn().unwrap();
    let error = timed().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let nobody_waits = timed();
    assert!(ends(&nobody_waits.as_fd().try_clone_to_owned().unwrap(), LONG));
    assert_eq!(nobody_waits.wait().unwrap_err().kind(), ErrorKind::TimedOut);
    // Also where somebody else has its output open.
    let script = "sleep 1000 & echo $!; exec sleep 1000";
    let timed = |time| {
        let exec = container.exec(["sh", "-c", script]).timeout(time);
        exec.spawn().unwrap().output().unwrap_err()
    };
    let error = in_time(timed, |error| text(error.stdout()).parse::<i32>().is_ok());
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let ended = container.exec(["true"]).timeout(LONG).spawn().unwrap();
    assert!(ended.wait().unwrap().success());
    // It had ended long before, but for what it left behind.
    let script = "sleep 1000 & echo left; exit 3";
    let ended = container.exec(["sh", "-c", script]).timeout(Duration::from_secs(5)).output().unwrap();
    assert_eq!((ended.status.code(), text(&ended.stdout)), (Some(3), "left".to_owned()));
}

#[test]
fn it_ends_with_its_container() {
    let container = sleeper(&host());
    let spawned = container.exec(["sleep", "1000"]).spawn().unwrap();
    let handles: Vec<_> = container.top().unwrap().iter().map(|process| pidfd(process.pid)).collect();
    assert_eq!(handles.len(), 2);
    container.remove().unwrap();
    assert!(handles.iter().all(|handle| ends(handle, LONG)));
    assert_eq!(spawned.wait().unwrap().signal(), Some(9));
}

#[test]
fn many_at_once() {
    let container = sleeper(&host());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let container = &container;
            scope.spawn(move || {
                let word = thread.to_string();
                let out = container.exec(["echo", &word]).output().unwrap();
                assert_eq!(text(&out.stdout), word);
            });
        }
    });
    assert_alone(&container);
}

/// Reads a terminal's lines until one has this in it.
#[track_caller]
fn until(terminal: &mut BufReader<std::fs::File>, wanted: &str) -> String {
    let mut said = String::new();
    while !said.contains(wanted) {
        // EIO is a terminal's end of file.
        assert!(terminal.read_line(&mut said).is_ok_and(|n| n > 0), "no {wanted:?} in {said:?}");
    }
    said
}

#[test]
fn a_terminal_of_the_container() {
    let container = sleeper(&host());
    // Session, foreground group and terminal of the shell itself (proc_pid_stat(5)), by its own controlling terminal.
    // Without noflsh the kernel throws output away after it has sent the signal, which may be the handler's already.
    let script = "stty noflsh; read wait; tty; set -- $(cat /proc/$$/stat); echo \"own $(($6 == $$)) $(($7 != 0)) $(($8 == $$))\"; \
        echo \"size $(stty size) TERM=$TERM\" >/dev/tty; stat -c 'owner %u mode %a' $(tty); \
        trap 'echo interrupted; exit 7' INT; echo ready; while :; do read x; done";
    let spawned = container.exec(["sh", "-c", script]).tty(true).spawn().unwrap();
    spawned.resize(100, 40).unwrap();
    assert!(spawned.take_stdout().is_none());
    let mut terminal = BufReader::new(spawned.terminal().unwrap());
    terminal.get_mut().write_all(b"\n").unwrap();
    let said = until(&mut terminal, "ready");
    for wanted in ["/dev/pts/", "own 1 1 1", "size 40 100 TERM=xterm", "owner 0 mode 620"] {
        assert!(said.contains(wanted), "no {wanted:?} in {said:?}");
    }
    // ^C is a signal to the foreground group: only a controlling terminal does that.
    terminal.get_mut().write_all(&[3]).unwrap();
    until(&mut terminal, "interrupted");
    assert_eq!(spawned.wait().unwrap().code(), Some(7));
    let mut rest = Vec::new();
    let _ = terminal.read_to_end(&mut rest);
    assert_alone(&container);
}

#[test]
fn a_terminal_is_the_users_and_ends_the_command_when_it_goes() {
    let container = sleeper(&host());
    let user = if is_single(&container) { "0:0" } else { "33:44" };
    let script = "stat -c %u $(tty); : <>/dev/stdout && echo ready; exec sleep 1000";
    let spawned =
        container.exec(["sh", "-c", script]).user(user).env("TERM", "vt100").tty(true).spawn().unwrap();
    let mut terminal = BufReader::new(spawned.terminal().unwrap());
    let said = until(&mut terminal, "ready");
    assert_eq!(said.lines().next(), user.split(':').next(), "{said:?}");
    let process = spawned.as_fd().try_clone_to_owned().unwrap();
    drop((spawned, terminal));
    assert!(ends(&process, LONG), "SIGHUP");
    assert_alone(&container);
    assert_eq!(container.state(), State::Running);
    let error = container.exec(["true"]).tty(true).output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let without = container.exec(["true"]).spawn().unwrap();
    assert_eq!(without.terminal().unwrap_err().kind(), ErrorKind::State);
}

#[test]
fn a_terminal_is_not_taken_from_what_hides_the_devpts() {
    let script =
        "mount -t tmpfs none /dev/pts && mkfifo -m 666 /dev/pts/ptmx && echo ready && exec sleep 1000";
    let container = ready(&sh(&host(), script).cap_add("SYS_ADMIN"));
    let error = container.exec(["true"]).tty(true).spawn().unwrap_err();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Setup, Some(std::path::Path::new("/dev/pts"))),
        "{error}"
    );
}
