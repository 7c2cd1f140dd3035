//! What goes in and comes out.
use super::*;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};

#[test]
fn stdin_is_bytes_nothing_or_a_pipe() {
    let image = host();
    let count = sh(&image, "wc -c");
    assert_eq!(say(&count), "0");
    assert_eq!(say(&count.clone().stdin(Stdio::null())), "0");
    assert_eq!(say(&count.clone().stdin(vec![b'x'; 300_000])), "300000");
    let again = count.stdin("again");
    assert_eq!((say(&again), say(&again)), ("5".into(), "5".into()));
    let container = sh(&image, "cat").stdin(Stdio::piped()).stdout(Stdio::piped()).start().unwrap();
    let (mut to, mut from) = (container.take_stdin().unwrap(), container.take_stdout().unwrap());
    assert!(container.take_stdin().is_none());
    to.write_all(b"ping").unwrap();
    let mut heard = [0; 4];
    from.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
    drop(to);
    assert_eq!(from.read(&mut heard).unwrap(), 0);
    assert!(container.wait().unwrap().success());
}

/// Of a program whose own are pipes.
#[test]
fn the_programs_own_streams_are_inherited() {
    const TEST: &str = "streams::the_programs_own_streams_are_inherited";
    if std::env::var_os(ROLE).is_some() {
        let script = "read line; echo \"out $line\"; echo \"err $line\" >&2";
        let builder = |script| {
            let plain = sh(&host(), script).stdin(Stdio::inherit());
            plain.stdout(Stdio::inherit()).stderr(Stdio::inherit())
        };
        let out = builder(script).run().unwrap();
        assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty());
        // Only one of them: the others are collected as ever.
        let out = sh(&host(), "cat; echo err-of-two >&2").stderr(Stdio::inherit()).run().unwrap();
        assert!(out.stdout.is_empty(), "nothing was for it to read");
        let container = builder("cat").start().unwrap();
        assert!(container.wait().unwrap().success());
        return;
    }
    let mut command = child(TEST, &[(ROLE, "1".as_ref())]);
    let piped = std::process::Stdio::piped;
    let mut program = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(b"of one\nrest\nof it\n").unwrap();
    let out = program.wait_with_output().unwrap();
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    assert!(stdout.contains("out of one\nrest\nof it\n") && !stdout.contains("err"), "{stdout}");
    assert_eq!(stderr, "err of one\nerr-of-two");
}

#[test]
fn output_comes_to_a_callback() {
    let image = host();
    let heard = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let to = heard.clone();
    let builder = sh(&image, "echo out; echo err >&2").on_output(move |stream, bytes| {
        let mut heard = to.lock().unwrap();
        match stream {
            Stream::Stdout => heard.0.extend_from_slice(bytes),
            Stream::Stderr => heard.1.extend_from_slice(bytes),
        }
    });
    assert_eq!(say(&builder), "out");
    assert_eq!(*heard.lock().unwrap(), (b"out\n".to_vec(), b"err\n".to_vec()));
}

#[test]
fn a_callback_that_panics_is_told_at_the_end_and_the_time_limit_stays() {
    let image = host();
    let calls = Arc::new(Mutex::new(0));
    let count = calls.clone();
    let panics = move |_: Stream, _: &[u8]| {
        *count.lock().unwrap() += 1;
        panic!("no room for {}", "that");
    };
    let builder = sh(&image, "echo one; read x; echo two; exit 3").stdin(Stdio::piped()).on_output(panics);
    let container = builder.start().unwrap();
    eventually("the first line", || text(&container.logs(Stream::Stdout).unwrap()) == "one");
    container.take_stdin().unwrap().write_all(b"x\n").unwrap();
    let error = container.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.to_string().contains("no room for that"), "{error}");
    assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), "one\ntwo", "it is collected all the same");
    assert_eq!(*calls.lock().unwrap(), 1);
    assert!(ends(&container.as_fd().try_clone_to_owned().unwrap(), LONG));
    // It is over, and can begin anew.
    container.start().unwrap();
    container.remove().unwrap();
    let timed = |time| {
        let timed = sh(&image, "echo one; sleep 1000").timeout(time);
        timed.on_output(|_, _| panic!()).start().unwrap().wait_timeout(LONG).unwrap_err()
    };
    let error = in_time(timed, |error| error.to_string().contains("panicked"));
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("panicked"), "{error}");
    let error = sh(&image, "echo one; sleep 1000").on_output(|_, _| panic!("no")).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
}

#[test]
fn output_that_can_not_be_read_ends_no_time_limit() {
    use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
    if !is_own_process("streams::output_that_can_not_be_read_ends_no_time_limit") {
        return;
    }
    let builder = sh(&host(), "read x; echo; exec sleep 1000").stdin(Stdio::piped());
    let container = builder.timeout(Duration::from_secs(5)).start().unwrap();
    let input = container.take_stdin().unwrap();
    let directory = OwnedFd::from(std::fs::File::open("/").unwrap());
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        let is_pipe =
            std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
        if number > 2 && is_pipe && number != input.as_raw_fd() {
            // SAFETY: the number stays open, and is given back.
            let mut pipe = unsafe { OwnedFd::from_raw_fd(number) };
            rustix::io::dup2(&directory, &mut pipe).unwrap();
            let _ = pipe.into_raw_fd();
        }
    }
    // It wakes the thread that polls the old pipe.
    (&input).write_all(b"x\n").unwrap();
    let error = container.wait_timeout(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("read(output)"), "{error}");
}

#[test]
fn what_is_collected_is_bounded() {
    let image = host();
    let from = Instant::now();
    let error = sh(&image, "exec yes").output_max(1 << 16).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.remedy().is_some());
    let error = sh(&image, "exec yes").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "by default too");
    assert_soon(from);
    // 16 MiB by default, of each stream.
    let bytes = |script: &str| sh(&image, script).run();
    let fits = bytes("head -c 16777216 /dev/zero; head -c 16777216 /dev/zero >&2").unwrap();
    assert_eq!((fits.stdout.len(), fits.stderr.len()), (16 << 20, 16 << 20));
    for one_more in ["head -c 16777217 /dev/zero", "head -c 16777217 /dev/zero >&2"] {
        assert_eq!(bytes(one_more).unwrap_err().kind(), ErrorKind::TooLarge, "{one_more}");
    }
    let container = sh(&image, "exec sleep 1000").start().unwrap();
    let executed = |count: &str| container.exec(["head", "-c", count, "/dev/zero"]).output();
    assert_eq!(executed("16777216").unwrap().stdout.len(), 16 << 20);
    assert_eq!(executed("16777217").unwrap_err().kind(), ErrorKind::TooLarge);
    // Of a started one the end is kept.
    let container = sh(&image, "seq 100000; echo last").output_max(1000).start().unwrap();
    assert!(container.wait().unwrap().success());
    let rest = container.logs(Stream::Stdout).unwrap();
    assert!(rest.len() <= 1000 && rest.ends_with(b"99999\n100000\nlast\n"), "{}", rest.len());
}

#[test]
fn all_output_is_there_after_the_end() {
    let image = host();
    let container = sh(&image, "seq 50000").start().unwrap();
    container.wait().unwrap();
    let expected: String = (1..=50000).map(|n| format!("{n}\n")).collect();
    assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), expected.trim_end());
    let out = sh(&image, "seq 50000").run().unwrap();
    assert_eq!(out.stdout, expected.as_bytes());
}

#[test]
fn what_is_not_collected_here_is_an_error() {
    let image = host();
    let refused = |container: &Container| {
        let error = container.logs(Stream::Stdout).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
    };
    let container = sh(&image, "read x; echo it").stdin(Stdio::piped()).name("one").create().unwrap();
    refused(&container);
    container.start().unwrap();
    refused(&image.store().container("one").unwrap());
    drop(container.take_stdin());
    container.wait().unwrap();
    assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), "it");
    let tty = sh(&image, "true").tty(true).start().unwrap();
    refused(&tty);
    let error = tty.wait_until(coracle::Ready::log("x"), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "nothing to wait for: {error}");
    let piped = sh(&image, "echo oops >&2").stdout(Stdio::piped()).start().unwrap();
    refused(&piped);
    piped.wait().unwrap();
    assert_eq!(text(&piped.logs(Stream::Stderr).unwrap()), "oops");
}

#[test]
fn a_terminal_is_one() {
    let container = sh(&host(), "test -t 0 && test -t 1 && test -t 2 && stty size && read x && echo got $x")
        .tty(true)
        .create()
        .unwrap();
    container.start().unwrap();
    container.resize(100, 40).unwrap();
    let mut terminal = container.terminal().unwrap();
    terminal.write_all(b"word\n").unwrap();
    let mut said = Vec::new();
    let mut buffer = [0; 512];
    // EIO is a terminal's end of file.
    while let Ok(n @ 1..) = terminal.read(&mut buffer) {
        said.extend_from_slice(&buffer[..n]);
    }
    assert!(container.wait().unwrap().success(), "{}", text(&said));
    assert!(text(&said).contains("got word"), "{}", text(&said));
}
