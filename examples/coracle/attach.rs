//! Between this program's streams and signals and those of a command in a container.
//!
//! The container never gets this program's own descriptors: its streams are pipes or a terminal of its own, as with
//! docker, so that it can't type on the caller's terminal or change the flags of the caller's files.
#![forbid(unsafe_code)]

use crate::fail::{Result, context, fail};
use coracle::{Container, Executed, ExitStatus, Signal, Stdio};
use nix::sys::signal::{self, SigSet};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, Winsize};
use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// Which streams are connected.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub stdin: bool,
    pub tty: bool,
    pub proxy: bool,
}

impl Wanted {
    /// As docker: a terminal that is to be typed on must be there.
    pub fn check(self) -> Result<Self> {
        if self.stdin && self.tty && !io::stdin().is_terminal() {
            return Err(fail("the input device is not a TTY"));
        }
        Ok(self)
    }

    pub fn stdin(self) -> Stdio {
        if self.stdin { Stdio::piped() } else { Stdio::null() }
    }
}

/// The signals that are passed on: all but those that the kernel sends for a fault of this program's own, those of its
/// children and of its terminal's job control.
fn forwarded() -> SigSet {
    use signal::Signal::*;
    let own = [
        SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGCHLD, SIGPIPE,
        SIGURG, SIGTTIN, SIGTTOU,
    ];
    let mut set = SigSet::empty();
    signal::Signal::iterator().filter(|signal| !own.contains(signal)).for_each(|signal| set.add(signal));
    set
}

/// Signals wait in a descriptor from here on, in every thread that is made later.
pub struct Signals {
    fd: SignalFd,
    proxy: bool,
}

impl Signals {
    /// Without `proxy` only what the terminal's size needs is taken; the others keep their effect on this program.
    pub fn take(proxy: bool) -> Result<Self> {
        let mut set = SigSet::empty();
        set.add(signal::Signal::SIGWINCH);
        let set = if proxy { forwarded() } else { set };
        set.thread_block().map_err(context("pthread_sigmask"))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(context("signalfd"))?;
        Ok(Self { fd, proxy })
    }
}

/// A command that runs: a container's own, or a further one.
pub trait Command: AsFd {
    fn signal(&self, signal: Signal) -> coracle::Result<()>;
    fn end(&self) -> coracle::Result<ExitStatus>;
}

impl Command for Container {
    fn signal(&self, signal: Signal) -> coracle::Result<()> {
        self.kill(signal)
    }

    fn end(&self) -> coracle::Result<ExitStatus> {
        self.wait()
    }
}

impl Command for Executed {
    fn signal(&self, signal: Signal) -> coracle::Result<()> {
        self.kill(signal)
    }

    fn end(&self) -> coracle::Result<ExitStatus> {
        self.wait()
    }
}

/// The host's ends of a command's streams.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<PipeWriter>,
    pub stdout: Option<PipeReader>,
    pub stderr: Option<PipeReader>,
    /// The master side of its terminal.
    pub terminal: Option<File>,
}

/// The caller's terminal in raw mode, until this value goes.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Self> {
        let old = rustix::termios::tcgetattr(io::stdin()).map_err(context("tcgetattr"))?;
        let mut raw = old.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(context("tcsetattr"))?;
        Ok(Self(old))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(errno) = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0) {
            eprintln!("coracle: tcsetattr: {errno}");
        }
    }
}

/// The size of the caller's terminal.
pub fn window() -> Option<Winsize> {
    let sized = |fd: std::os::fd::BorrowedFd<'_>| rustix::termios::tcgetwinsize(fd).ok();
    sized(io::stdout().as_fd()).or_else(|| sized(io::stdin().as_fd()))
}

fn resize(terminal: &File) {
    if let Some(size) = window() {
        // Only the looks depend on it; a terminal that has gone has no size.
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}

/// Copies until either side ends; a side that has gone away is an end, not an error. The last one to end closes `done`.
fn copy(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static, done: Option<PipeWriter>) {
    std::thread::spawn(move || {
        let mut chunk = vec![0; 64 << 10];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) if to.write_all(&chunk[..len]).and_then(|()| to.flush()).is_err() => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Also EIO: the other side of a terminal is closed.
                Err(_) => break,
            }
        }
        // Who writes on into a pipe that nobody reads learns it.
        drop((from, to));
        drop(done);
    });
}

/// Connects the streams, passes signals on, and waits for the command's end and the last of its output.
pub fn follow(
    command: &impl Command,
    streams: Streams,
    wanted: Wanted,
    signals: &Signals,
) -> Result<ExitStatus> {
    let (mut drained, done) = io::pipe()?;
    let copied = || done.try_clone().map(Some);
    let mut raw = None;
    let size = streams.terminal.as_ref().map(File::try_clone).transpose()?;
    if let Some(terminal) = streams.terminal {
        resize(&terminal);
        if wanted.stdin {
            raw = Some(Raw::set()?);
            copy(io::stdin(), terminal.try_clone()?, None);
        }
        copy(terminal, io::stdout(), copied()?);
    }
    if let Some(stdin) = streams.stdin {
        copy(unbuffered(io::stdin().as_fd())?, stdin, None);
    }
    if let Some(stdout) = streams.stdout {
        copy(stdout, unbuffered(io::stdout().as_fd())?, copied()?);
    }
    if let Some(stderr) = streams.stderr {
        copy(stderr, unbuffered(io::stderr().as_fd())?, copied()?);
    }
    drop(done);
    let mut ended = None;
    loop {
        let mut polled = [
            PollFd::new(&signals.fd, PollFlags::IN),
            match ended {
                None => PollFd::new(command, PollFlags::IN),
                Some(_) => PollFd::new(&drained, PollFlags::IN),
            },
        ];
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(context("poll"))?,
        };
        let [signalled, other] = polled.map(|fd| !fd.revents().is_empty());
        if signalled {
            while let Some(info) = signals.fd.read_signal().map_err(context("read(signalfd)"))? {
                let signal = Signal::try_from(info.ssi_signo as i32)?;
                match (signal, &size) {
                    (Signal::SIGWINCH, Some(terminal)) => resize(terminal),
                    _ if !signals.proxy => {}
                    // Nothing is left to be signalled but this program, which hangs in its own output.
                    (Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT, _)
                        if ended.is_some() =>
                    {
                        drop(raw);
                        return ended.ok_or_else(|| fail("no status"));
                    }
                    _ => match command.signal(signal) {
                        Err(error) if error.kind() != coracle::ErrorKind::State => {
                            eprintln!("coracle: forwarding {signal}: {error}");
                        }
                        // Sent, or it has just ended.
                        _ => {}
                    },
                }
            }
        }
        if other && ended.is_none() {
            ended = Some(command.end()?);
        } else if other {
            // Nobody writes to it: it is readable when the last copy is done.
            let _ = drained.read(&mut [0]);
            drop(raw);
            return ended.ok_or_else(|| fail("no status"));
        }
    }
}

/// A copy of a standard stream, without Rust's buffer.
fn unbuffered(fd: std::os::fd::BorrowedFd<'_>) -> Result<File> {
    Ok(fd.try_clone_to_owned()?.into())
}

/// The exit code of this program for a command's end.
pub fn code(status: ExitStatus) -> u8 {
    u8::try_from(status.shell_code()).unwrap_or(u8::MAX)
}

/// The streams of a started container.
pub fn streams_of(container: &Container, tty: bool) -> Result<Streams> {
    if tty {
        return Ok(Streams { terminal: Some(container.terminal()?), ..Streams::default() });
    }
    Ok(Streams {
        stdin: container.take_stdin(),
        stdout: container.take_stdout(),
        stderr: container.take_stderr(),
        terminal: None,
    })
}

/// For `main`.
pub fn exit(code: u8) -> ExitCode {
    ExitCode::from(code)
}
