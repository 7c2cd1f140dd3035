//! Waiting until a container is ready.
#![forbid(unsafe_code)]

use super::Reach;
use crate::container::output::{Found, Stream};
use crate::container::running::Running;
use crate::container::{Container, Phase};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::time::after;
use std::cell::Cell;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// So much of the output is in the error.
const TAIL: usize = 2 << 10;
/// Pauses between two tries grow from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// What to wait for with [`Container::wait_until`].
#[derive(Clone)]
pub struct Ready(Kind);

#[derive(Clone)]
enum Kind {
    Port(u16),
    Http(u16, String),
    Log(String),
    Exec(Vec<OsString>),
    Exit,
}

impl Ready {
    /// Something listens on this TCP port of the container's loopback interface.
    pub fn port(port: u16) -> Self {
        Self(Kind::Port(port))
    }

    /// An HTTP server on this port answers a GET of `path` with a status from 200 to 399.
    pub fn http(port: u16, path: impl Into<String>) -> Self {
        Self(Kind::Http(port, path.into()))
    }

    /// This text is in what is kept of stdout or of stderr. It needs an output that is collected, as it is by default.
    pub fn log(text: impl Into<String>) -> Self {
        Self(Kind::Log(text.into()))
    }

    /// This command, executed in the container again and again, ends with code 0.
    pub fn exec<S: Into<OsString>>(words: impl IntoIterator<Item = S>) -> Self {
        Self(Kind::Exec(words.into_iter().map(Into::into).collect()))
    }

    /// The container's command has ended, whatever its status.
    pub fn exit() -> Self {
        Self(Kind::Exit)
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Port(port) => write!(f, "port {port}"),
            Kind::Http(port, path) => write!(f, "http on port {port}, {path:?}"),
            Kind::Log(text) => write!(f, "{text:?} in the output"),
            Kind::Exec(words) => write!(f, "success of {words:?}"),
            Kind::Exit => f.write_str("the command's end"),
        }
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ready({self})")
    }
}

/// Why it is not ready.
enum Not {
    /// And the last failed try.
    TimedOut(Option<Error>),
    Ended,
    Error(Error),
}

impl From<Error> for Not {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Container {
    /// Waits until it is ready, at most so long.
    ///
    /// ```no_run
    /// # let server: coracle::Container = unimplemented!();
    /// use std::time::Duration;
    /// server.wait_until(coracle::Ready::port(5432), Duration::from_secs(10))?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `TimedOut`, or `State` when the container has ended before (or does not run at all). Both texts carry the
    /// last output, at most 2 KiB of it. `Gone` when this program's warden was killed, and all containers with it.
    pub fn wait_until(&self, ready: Ready, timeout: Duration) -> Result<()> {
        let deadline = after(timeout);
        if matches!((&ready.0, &*self.0.phase()), (Kind::Exit, Phase::Exited(_))) {
            return Ok(());
        }
        let running = self.running()?;
        let waited = match &ready.0 {
            Kind::Port(port) => self.until(&running, deadline, |reach| {
                reach.connect(*port, deadline, Some(running.process.pidfd.as_fd())).map(drop)
            }),
            Kind::Http(port, path) => {
                self.until(&running, deadline, |reach| http(reach, *port, path, deadline))
            }
            Kind::Log(text) => logged(&running, text, deadline),
            Kind::Exec(words) => self.until(&running, deadline, |_| {
                let left = deadline.saturating_duration_since(Instant::now());
                let output = self.exec(words.iter().cloned()).timeout(left).output()?;
                match output.status.success() {
                    true => Ok(()),
                    false => Err(Error::new(ErrorKind::State, format!("it ended with {}", output.status))),
                }
            }),
            Kind::Exit => match self.wait_timeout(timeout) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(Not::TimedOut(None)),
                // Its own time limit has ended it.
                Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
                Err(error) => Err(error.into()),
            },
        };
        waited.map_err(|not| explain(&running, &ready, timeout, not))
    }

    /// Tries again and again.
    fn until(
        &self,
        running: &Running,
        deadline: Instant,
        mut attempt: impl FnMut(&Reach) -> Result<()>,
    ) -> std::result::Result<(), Not> {
        let reach = Reach::of(running, self.0.record(|record| record.spec.network.is_host())?)?;
        let (mut pause, mut before) = (PAUSES.0, None);
        loop {
            let failed: Error = match attempt(&reach) {
                Ok(()) => return Ok(()),
                // Trying again won't help.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Gone | ErrorKind::Unsupported | ErrorKind::InvalidInput
                    ) =>
                {
                    return Err(error.into());
                }
                Err(error) => error,
            };
            // By the deadline: it says less than the one before.
            let is_cut = Instant::now() >= deadline;
            let again = deadline.min(Instant::now() + pause);
            if crate::sys::message::readable(&*running.process.pidfd, Some(again))? {
                return Err(Not::Ended);
            }
            if again == deadline {
                return Err(Not::TimedOut(before.filter(|_| is_cut).or(Some(failed))));
            }
            before = Some(failed);
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

fn http(reach: &Reach, port: u16, path: &str, deadline: Instant) -> Result<()> {
    let mut stream = reach.connect(port, deadline, None)?;
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_write_timeout(Some(left())).call("setsockopt(SO_SNDTIMEO)")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).call("send")?;
    // "HTTP/1.1 200": the rest does not matter.
    let mut head = [0; 12];
    let mut got = 0;
    while got < head.len() {
        stream.set_read_timeout(Some(left())).call("setsockopt(SO_RCVTIMEO)")?;
        match stream.read(&mut head[got..]).call("recv")? {
            0 => break,
            len => got += len,
        }
    }
    let head = String::from_utf8_lossy(&head[..got]);
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..)?.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(Error::new(ErrorKind::State, format!("it answered with status {status}"))),
        None => Err(Error::new(ErrorKind::InvalidData, format!("it answered {head:?}, which is not HTTP"))),
    }
}

fn logged(running: &Running, text: &str, deadline: Instant) -> std::result::Result<(), Not> {
    if running.warden.is_none() {
        return Err(
            Error::new(ErrorKind::Unsupported, "the output goes to the program that started it").into()
        );
    }
    if ![Stream::Stdout, Stream::Stderr].iter().any(|stream| running.log.collects(*stream)) {
        return Err(running.output(Stream::Stdout).err().map_or(Not::Ended, Not::Error));
    }
    // What was looked through already, as long as a stream only grows.
    let seen = Cell::new([0usize; 2]);
    let found = running.log.wait(deadline, |streams| {
        let mut looked = seen.get();
        let found = streams.iter().zip(&mut looked).any(|(stream, looked)| {
            let from = if stream.len() > *looked { looked.saturating_sub(text.len()) } else { 0 };
            *looked = stream.len();
            contains(&stream[from..], text.as_bytes())
        });
        seen.set(looked);
        found
    });
    match found {
        Found::Yes => Ok(()),
        Found::Closed => Err(Not::Ended),
        Found::TimedOut => Err(Not::TimedOut(None)),
    }
}

fn contains(stream: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else { return true };
    let mut stream = stream;
    while let Some(at) = stream.iter().position(|byte| byte == first) {
        stream = &stream[at + 1..];
        if stream.starts_with(rest) {
            return true;
        }
    }
    false
}

fn explain(running: &Running, ready: &Ready, timeout: Duration, not: Not) -> Error {
    let (kind, what) = match not {
        Not::Error(error) => return error.during(format!("waiting for {ready}")),
        Not::TimedOut(last) => {
            let last_try = last.map(|error| format!(" ({error})")).unwrap_or_default();
            (ErrorKind::TimedOut, format!("no {ready} after {timeout:?}{last_try}"))
        }
        Not::Ended => {
            // That it has ended is seen before it is told how, and its last words may still be on their way.
            let how = match running.wait(Some(Instant::now() + Duration::from_millis(500))) {
                Ok(Some(status)) => format!(": {status}"),
                Ok(None) => String::new(),
                Err(error) => format!(": {error}"),
            };
            (ErrorKind::State, format!("the container ended before {ready}{how}"))
        }
    };
    Error::new(kind, format!("{what}{}", last_output(running)))
}

/// The ends of both streams, made harmless for a terminal.
fn last_output(running: &Running) -> String {
    let streams = [Stream::Stdout, Stream::Stderr].map(|stream| running.log.get(stream).0);
    let [out, err] = streams.each_ref().map(Vec::len);
    // The room is shared; what one does not need the other has.
    let room = [TAIL - err.min(TAIL / 2), TAIL - out.min(TAIL / 2)];
    let mut text = String::new();
    for ((stream, room), name) in streams.iter().zip(room).zip(["stdout", "stderr"]) {
        if stream.is_empty() {
            continue;
        }
        let tail = &stream[stream.len().saturating_sub(room)..];
        let dots = if tail.len() < stream.len() { "…" } else { "" };
        let shown: String = String::from_utf8_lossy(tail)
            .chars()
            .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
            .collect();
        text += &format!("; its last {name}: {dots}{}", shown.trim_end());
    }
    if text.is_empty() { "; it has printed nothing".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_text_anywhere() {
        assert!(contains(b"aab", b"ab"));
        assert!(contains(b"x ready\n", b"ready"));
        assert!(contains(b"", b""));
        assert!(!contains(b"read", b"ready"));
        assert!(!contains(b"", b"r"));
    }
}
