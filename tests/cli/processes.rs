//! Containers as processes: signals, terminals, and what other command lines do with them.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn signals_are_passed_on() {
    let w = World::new();
    let running = w.spawn(["run", "-i", "--name", "one", "@host", "sh", "-c", LOOP]);
    running.signal("TERM");
    assert_eq!(running.end().0, Some(7));
    // The container was kept, and tells what the program told.
    assert_eq!(w.ok(["inspect", "-f", "{{.State.ExitCode}}", "one"]), "7\n");

    let mut running = w.spawn(["start", "-i", "one"]);
    let script = r#"trap "echo usr1" USR1; echo ready; read line; echo $line"#;
    let mut other = w.spawn(["run", "--rm", "-i", "@host", "sh", "-c", script]);
    other.signal("USR1");
    assert_eq!(other.line(), "usr1");
    // `read` of a shell is interrupted, and then nobody takes this any more, or goes on.
    if let Err(error) = writeln!(other.stdin.as_mut().unwrap(), "typed") {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
    other.end();
    running.stdin.take();
    running.signal("TERM");
    assert_eq!(running.end().0, Some(7));
}

#[test]
fn other_processes_stop_kill_and_look() {
    let w = World::new();
    let running = w.spawn(["run", "-i", "--name", "one", "@host", "sh", "-c", LOOP]);
    assert_eq!(w.ok(["ps", "--format", "{{.Names}} {{.State}}"]), "one running\n");
    assert!(w.ok(["top", "one"]).contains("sh -c trap"));
    let report = &w.inspect("one")["Report"];
    let lines = report.as_array().unwrap();
    assert!(lines.iter().any(|line| line == "no_new_privs: enforced (PR_SET_NO_NEW_PRIVS)"), "{report}");
    assert_eq!(w.run(["rm", "one"]).code, 1, "it runs");
    assert_eq!(w.run(["start", "one"]).code, 1, "it runs");
    assert_eq!(w.ok(["stop", "one"]), "one\n");
    assert_eq!(running.end().0, Some(7));

    // Also from a third one while the first has not gone yet.
    let running = w.spawn(["start", "-i", "one"]);
    w.ok(["stop", "one"]);
    let again = w.spawn(["start", "-i", "one"]);
    w.ok(["stop", "one"]);
    assert_eq!((running.end().0, again.end().0), (Some(7), Some(7)));

    let running = w.spawn(["start", "-i", "one"]);
    let waiting = w.command(["wait", "one"]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(w.ok(["kill", "one"]), "one\n");
    assert_eq!(running.end().0, Some(137));
    assert_eq!(Done::of(waiting.wait_with_output().unwrap()).out, "137\n");

    let running = w.spawn(["run", "-i", "--rm", "--name", "two", "@host", "sh", "-c", LOOP]);
    assert_eq!(w.ok(["kill", "-s", "TERM", "two"]), "two\n");
    assert_eq!(running.end().0, Some(7));
    assert_eq!(w.ok(["ps", "-aq", "--no-trunc"]).lines().count(), 1, "--rm");

    let running = w.spawn(["start", "-i", "one"]);
    assert_eq!(w.ok(["rm", "-f", "one"]), "one\n");
    assert_eq!(running.end().0, Some(137));
    assert_eq!(w.ok(["ps", "-aq"]), "");
}

#[test]
fn a_killed_command_line_takes_its_container_along() {
    let w = World::new();
    let mut running = w.spawn(["run", "-i", "--name", "one", "@host", "sh", "-c", LOOP]);
    running.child.kill().unwrap();
    assert_eq!(running.end().0, None);
    assert_eq!(w.ok(["wait", "one"]), "137\n");
    assert_eq!(w.ok(["ps", "-a", "--format", "{{.Names}} {{.State}}"]), "one exited\n");
    w.ok(["rm", "one"]);
}

/// The two sides of a terminal of this machine.
pub fn terminal() -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    (master.into(), slave.into())
}

#[test]
fn exec_in_another_processes_container() {
    let w = World::new();
    let running = w.spawn(["run", "-i", "--name", "one", "-e", "A=1", "@host", "sh", "-c", LOOP]);
    let done = w.run([
        "exec",
        "-e",
        "B=2",
        "-w",
        "/usr",
        "one",
        "sh",
        "-c",
        "echo $A$B; pwd; cat /proc/1/comm; exit 4",
    ]);
    assert_eq!((done.code, done.out.as_str()), (4, "12\n/usr\nsh\n"), "{done:?}");
    assert_eq!(w.run(["exec", "one", "no-such-program"]).code, 127);
    let mut command = w.command(["exec", "-i", "one", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
    // A terminal of the container's own; it is to be typed on only from one.
    let said =
        w.ok(["exec", "-t", "-e", "X=1", "one", "sh", "-c", "tty; test -c $(tty) && echo $TERM >/dev/tty"]);
    assert!(said.starts_with("/dev/pts/") && said.ends_with("\r\nxterm\r\n"), "{said:?}");
    assert!(w.run(["exec", "-it", "one", "true"]).err.contains("not a TTY"));
    let (mut typed, slave) = terminal();
    rustix::termios::tcsetwinsize(
        &slave,
        rustix::termios::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 },
    )
    .unwrap();
    let mut child = w
        .command([
            "exec",
            "-it",
            "one",
            "sh",
            "-c",
            "stty noflsh; trap 'stty size; exit 9' INT; echo ready; while :; do read x; done",
        ])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(typed.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "ready");
    // ^C is the container's: this side is raw.
    typed.write_all(&[3]).unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim_start_matches("^C").trim_end(), "33 77");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let timed = w.run(["exec", "--timeout", "0.5", "one", "sleep", "1000"]);
    assert!(timed.code != 0 && timed.err.contains("time was up"), "{timed:?}");
    w.ok(["stop", "one"]);
    assert_eq!(running.end().0, Some(7));
    assert_eq!(w.run(["exec", "one", "true"]).code, 1, "it does not run");
}

#[test]
fn pause_and_stats() {
    let w = World::new();
    let running = w.spawn(["run", "-i", "--name", "one", "@host", "sh", "-c", LOOP]);
    let paused = w.run(["pause", "one"]);
    if !is_root() && paused.code != 0 {
        // Without a delegated group it says so.
        assert!(paused.err.contains("control group"), "{paused:?}");
    } else {
        assert_eq!(paused.code, 0, "{paused:?}");
        assert_eq!(w.ok(["ps", "--format", "{{.State}}"]), "paused\n");
        assert_eq!(w.run(["exec", "one", "true"]).code, 1);
        assert_eq!(w.run(["pause", "one"]).code, 1, "twice");
        assert_eq!(w.ok(["unpause", "one"]), "one\n");
        let stats = w.ok(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "one"]);
        assert!(stats.starts_with("one ") && stats.trim() != "one --", "{stats}");
    }
    w.ok(["stop", "-t", "5", "one"]);
    assert_eq!(running.end().0, Some(7));
}
