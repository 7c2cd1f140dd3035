//! Streams: what a command reads, where its output goes, and what of it is kept.
//!
//! Collected output is taken by a thread for each container (of `run`: the calling one), which also keeps the time
//! limit. Bytes for stdin are a sealed file in memory: nobody has to feed them. Nothing of a container's output can fill
//! the host's memory: what is kept is bounded.
#![forbid(unsafe_code)]

use super::memfd::{self, above_stdio};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// What is collected of a stream at most, unless the builder says otherwise: 16 MiB.
pub(crate) const OUTPUT_MAX: usize = 16 << 20;
const CHUNK: usize = 64 << 10;

/// A callback for output as it comes.
pub(crate) type Callback = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// Which of a command's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Where a stream of a container comes from or goes to.
///
/// The default is nowhere for stdin; output is collected ([`Container::logs`](crate::Container::logs), `run`).
#[derive(Clone, Default)]
pub struct Stdio(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    Default,
    Inherit,
    Null,
    Pipe,
    Bytes(Arc<[u8]>),
    Fd(Arc<OwnedFd>),
}

impl Stdio {
    /// This program's own stream.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// /dev/null.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe whose other end the caller takes from the container (`take_stdin`, `take_stdout`, `take_stderr`).
    pub fn piped() -> Self {
        Self(Kind::Pipe)
    }

    pub(crate) fn is_default(&self) -> bool {
        matches!(self.0, Kind::Default)
    }
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Default => "default",
            Kind::Inherit => "inherit",
            Kind::Null => "null",
            Kind::Pipe => "piped",
            Kind::Bytes(_) => "bytes",
            Kind::Fd(_) => "descriptor",
        })
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<Vec<u8>> for Stdio {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }
}

impl From<&[u8]> for Stdio {
    fn from(bytes: &[u8]) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }
}

impl From<String> for Stdio {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Stdio {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// What binds a command to this program: its streams.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    pub stdin: Stdio,
    pub stdout: Stdio,
    pub stderr: Stdio,
    pub on_output: Option<Callback>,
    /// What is collected at most, in bytes for each stream.
    pub output_max: Option<usize>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("stdin", &self.stdin).finish_non_exhaustive()
    }
}

/// What was kept of a container's output, shared with whoever waits for a line of it.
#[derive(Debug)]
pub(crate) struct Log {
    kept: Mutex<Kept>,
    changed: Condvar,
    max: usize,
    collected: [bool; 2],
}

#[derive(Debug, Default)]
struct Kept {
    streams: [VecDeque<u8>; 2],
    lost: [bool; 2],
    /// Nothing more comes.
    closed: bool,
}

impl Log {
    pub fn new(max: usize, collected: [bool; 2]) -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), changed: Condvar::new(), max, collected })
    }

    /// Whether the stream comes here at all.
    pub fn collects(&self, stream: Stream) -> bool {
        self.collected[stream as usize]
    }

    fn add(&self, stream: Stream, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let i = stream as usize;
        kept.lost[i] |= kept.streams[i].len() + bytes.len() > self.max;
        let bytes = &bytes[bytes.len().saturating_sub(self.max)..];
        let over = (kept.streams[i].len() + bytes.len()).saturating_sub(self.max);
        kept.streams[i].drain(..over);
        kept.streams[i].extend(bytes);
        self.changed.notify_all();
    }

    pub fn close(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    /// The kept bytes of a stream, and whether earlier ones were dropped.
    pub fn get(&self, stream: Stream) -> (Vec<u8>, bool) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let i = stream as usize;
        (kept.streams[i].iter().copied().collect(), kept.lost[i])
    }

    /// Waits until `found` says so of the two streams, or nothing more comes, or the deadline has come.
    pub fn wait(&self, deadline: Instant, found: impl Fn(&[&[u8]; 2]) -> bool) -> Found {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let [out, err] = &mut kept.streams;
            if found(&[out.make_contiguous(), err.make_contiguous()]) {
                return Found::Yes;
            }
            if kept.closed {
                return Found::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Found::TimedOut;
            }
            kept = self.changed.wait_timeout(kept, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Yes,
    Closed,
    TimedOut,
}

/// The container's ends of its streams, and the host's.
pub(crate) struct Pipes {
    pub theirs: [OwnedFd; 3],
    /// Which of them are pipes that were made here.
    pub made: [bool; 3],
    pub ours: Ours,
}

/// The host's ends.
#[derive(Default)]
pub(crate) struct Ours {
    pub stdin: Option<PipeWriter>,
    pub stdout: Option<PipeReader>,
    pub stderr: Option<PipeReader>,
    /// To be pumped.
    collect: [Option<OwnedFd>; 2],
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).call("pipe2")?;
    Ok((above_stdio(read)?, above_stdio(write)?))
}

fn null() -> Result<OwnedFd> {
    above_stdio(
        open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).call_at("open", "/dev/null")?,
    )
}

fn own(number: u32) -> Result<OwnedFd> {
    // Through the table, not by number: the host may have closed it.
    let fd = match number {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        _ => std::io::stderr().as_fd().try_clone_to_owned(),
    };
    match fd {
        Ok(fd) => above_stdio(fd),
        // A host that has closed its own stream gives what it has: nothing.
        Err(error) if error.raw_os_error() == Some(Errno::BADF.raw_os_error()) => null(),
        Err(error) => Err(Error::os("fcntl(F_DUPFD_CLOEXEC)", error)),
    }
}

impl Pipes {
    pub fn new(streams: &Streams) -> Result<Self> {
        let Streams { stdin, stdout, stderr, .. } = streams;
        let mut ours = Ours::default();
        // Of stdin the default is /dev/null.
        let piped = |stdio: &Stdio| matches!(stdio.0, Kind::Default | Kind::Pipe);
        let made = [matches!(stdin.0, Kind::Pipe), piped(stdout), piped(stderr)];
        let input = match &stdin.0 {
            Kind::Default | Kind::Null => null()?,
            Kind::Inherit => own(0)?,
            Kind::Fd(fd) => above_stdio(fd.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?)?,
            Kind::Pipe => {
                let (theirs, writer) = pipe()?;
                ours.stdin = Some(writer.into());
                theirs
            }
            Kind::Bytes(bytes) => {
                let file = File::from(memfd::sealed("coracle-stdin", bytes, 0, false)?);
                (&file).seek(SeekFrom::Start(0)).call("lseek(memfd)")?;
                file.into()
            }
        };
        let mut outputs = Vec::with_capacity(2);
        for (i, stdio) in [stdout, stderr].into_iter().enumerate() {
            outputs.push(match &stdio.0 {
                Kind::Null => null()?,
                Kind::Inherit => own(1 + i as u32)?,
                Kind::Fd(fd) => above_stdio(fd.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?)?,
                Kind::Pipe => {
                    let (reader, theirs) = pipe()?;
                    *[&mut ours.stdout, &mut ours.stderr][i] = Some(reader.into());
                    theirs
                }
                Kind::Default => {
                    let (reader, theirs) = pipe()?;
                    rustix::io::ioctl_fionbio(&reader, true).call("ioctl(FIONBIO)")?;
                    ours.collect[i] = Some(reader);
                    theirs
                }
                Kind::Bytes(_) => {
                    return Err(Error::new(ErrorKind::InvalidInput, "bytes are for stdin, not for output"));
                }
            });
        }
        let [stdout, stderr] =
            <[OwnedFd; 2]>::try_from(outputs).map_err(|_| Error::new(ErrorKind::Io, "two outputs"))?;
        Ok(Self { theirs: [input, stdout, stderr], made, ours })
    }
}

impl Pipes {
    /// For a command whose streams are all its terminal, which the command's plan opens: nothing.
    pub fn none() -> Result<Self> {
        Ok(Self { theirs: [null()?, null()?, null()?], made: [false; 3], ours: Ours::default() })
    }

    /// For a command whose streams are all this side of a terminal.
    pub fn terminal(slave: OwnedFd) -> Result<Self> {
        let again = || slave.try_clone().call("fcntl(F_DUPFD_CLOEXEC)").and_then(above_stdio);
        Ok(Self { theirs: [again()?, again()?, slave], made: [true, false, false], ours: Ours::default() })
    }
}

impl Ours {
    /// Which of the two outputs.
    pub fn collected(&self) -> [bool; 2] {
        self.collect.each_ref().map(Option::is_some)
    }

    /// What somebody has to pump.
    pub fn pump(&mut self) -> Pump {
        Pump { collect: std::mem::take(&mut self.collect), last: false }
    }
}

/// Moves bytes between the host's ends and where they belong.
pub(crate) struct Pump {
    collect: [Option<OwnedFd>; 2],
    last: bool,
}

/// Why a pump stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Every stream has come to its end.
    Done,
    Deadline,
    /// A stream gave more than `max`.
    TooMuch(Stream),
}

impl Pump {
    /// Of a process with which all others of its container end. Whoever holds a stream open then is somebody else, to
    /// whom the container has given it, and is not waited for.
    pub fn of_the_last(mut self) -> Self {
        self.last = true;
        self
    }

    /// The streams are taken no more; who still writes to them gets SIGPIPE. Whether there were any.
    pub fn close(&mut self) -> bool {
        std::mem::take(&mut self.collect).iter().any(Option::is_some)
    }

    /// Pumps until the streams end, and `until` (a pidfd) is readable where one is given, or the deadline comes.
    /// With `strict`, more than the log keeps is an end too.
    ///
    /// # Errors
    /// `Panicked` when the callback has: what it was called with is in the log, and pumping may go on without it.
    pub fn run(
        &mut self,
        log: &Log,
        callback: Option<&Callback>,
        until: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
        strict: bool,
    ) -> Result<Stopped> {
        let mut chunk = vec![0; CHUNK];
        let mut ended = until.is_none();
        let mut total = [0usize; 2];
        // What is still in the pipes at the end.
        let mut left: Option<[u64; 2]> = None;
        loop {
            let mut polled = Vec::with_capacity(3);
            for fd in self.collect.iter().flatten() {
                polled.push(PollFd::new(fd, PollFlags::IN));
            }
            if polled.is_empty() && ended {
                return Ok(Stopped::Done);
            }
            let streams = polled.len();
            if let Some(until) = until.as_ref().filter(|_| !ended) {
                polled.push(PollFd::new(until, PollFlags::IN));
            }
            let time = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // There may be something to read at any time.
            if time.is_some_and(|time| time.is_zero()) {
                return Ok(Stopped::Deadline);
            }
            let time = time
                .map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
            match poll(&mut polled, time.as_ref()) {
                Ok(0) => return Ok(Stopped::Deadline),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::os("poll", errno)),
            }
            let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(polled);
            ended |= ready.get(streams).copied().unwrap_or(false);
            let mut at = 0;
            for stream in [Stream::Stdout, Stream::Stderr] {
                let Some(fd) = &self.collect[stream as usize] else { continue };
                at += 1;
                if !ready[at - 1] {
                    continue;
                }
                let want = left.map_or(CHUNK, |left| left[stream as usize].min(CHUNK as u64) as usize);
                let len = match rustix::io::read(fd, &mut chunk[..want]) {
                    Ok(len) => len,
                    Err(Errno::AGAIN | Errno::INTR) => continue,
                    Err(errno) => return Err(Error::os("read(output)", errno)),
                };
                if len == 0 {
                    self.collect[stream as usize] = None;
                    continue;
                }
                total[stream as usize] += len;
                log.add(stream, &chunk[..len]);
                if let Some(callback) = callback {
                    call(callback, stream, &chunk[..len])?;
                }
                if strict && total[stream as usize] > log.max {
                    return Ok(Stopped::TooMuch(stream));
                }
                if let Some(left) = &mut left {
                    left[stream as usize] = left[stream as usize].saturating_sub(len as u64);
                }
            }
            if ended && self.last {
                let mut rest = left.unwrap_or_default();
                for (fd, rest) in self.collect.iter_mut().zip(&mut rest) {
                    if let (Some(fd), None) = (&*fd, left) {
                        *rest = rustix::io::ioctl_fionread(fd).call("ioctl(FIONREAD)")?;
                    }
                    if *rest == 0 {
                        *fd = None;
                    }
                }
                left = Some(rest);
            }
        }
    }
}

/// A panic would else end a thread that also keeps a time limit and cleans up.
fn call(callback: &Callback, stream: Stream, bytes: &[u8]) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| callback(stream, bytes))).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let what = format!("the function given to on_output has panicked: {}", text.unwrap_or("no text"));
        Error::new(ErrorKind::Panicked, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_the_last_bytes_and_knows_what_is_lost() {
        let log = Log::new(4, [true; 2]);
        let got = |stream| log.get(stream);
        log.add(Stream::Stdout, b"abcd");
        assert_eq!(got(Stream::Stdout), (b"abcd".to_vec(), false));
        log.add(Stream::Stdout, b"e");
        assert_eq!(got(Stream::Stdout), (b"bcde".to_vec(), true));
        // More at once than there is room for.
        log.add(Stream::Stderr, b"abcdef");
        assert_eq!(got(Stream::Stderr), (b"cdef".to_vec(), true));
    }
}
