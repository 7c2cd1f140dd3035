//! A user's sub-tree from systemd: a scope with `Delegate=yes`, asked for over D-Bus.
//!
//! Under systemd an ordinary user may make groups only where the user's own instance hands some on
//! (systemd.resource-control(5), `Delegate=`; "Control Group APIs and Delegation"). It does so for processes that are to be
//! put there; here that is the warden, so that the host program stays where it is. The scope ends when nothing is left in it.
//!
//! `cgroups_rs` has a manager for systemd, but that speaks to the system's instance only, which takes no such request
//! from a user, and has a thread of an asynchronous runtime stay in the program. What is needed here is one call of one
//! method: the D-Bus specification's "Message Protocol" and "Authentication Protocol", as far as that takes.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::peer::peer;
use rustix::net::{SendFlags, send};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";
/// What the answers of a machine under load may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer to what is asked here is larger.
const MESSAGE_MAX: usize = 1 << 20;

/// What lets a user have an instance of systemd.
const NO_INSTANCE: &str = "log in so that systemd runs for this user, or loginctl enable-linger USER and set \
    XDG_RUNTIME_DIR=/run/user/UID; or run as root";

/// Has this user's systemd put the process `pid` into a new scope that is delegated to the user, and waits until it is there.
pub(super) fn scope(pid: i32) -> Result<()> {
    let mut first = None;
    for (path, is_bus) in sockets() {
        match Connection::open(&path, is_bus).and_then(|mut connection| connection.start_scope(pid)) {
            Ok(()) => return Ok(()),
            // The nearest one: why it is not there is said last.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| {
        Error::new(ErrorKind::Unsupported, "no systemd of this user's can be reached")
            .with_remedy(NO_INSTANCE)
    }))
}

/// The instance's own socket, then the user's bus. As sd-bus looks for them.
fn sockets() -> [(PathBuf, bool); 2] {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let uid = rustix::process::geteuid().as_raw();
    let dir = dir.unwrap_or_else(|| format!("/run/user/{uid}").into());
    [(dir.join("systemd/private"), false), (dir.join("bus"), true)]
}

struct Connection {
    stream: UnixStream,
    path: PathBuf,
    is_bus: bool,
    serial: u32,
    deadline: Instant,
}

impl Connection {
    fn open(path: &Path, is_bus: bool) -> Result<Self> {
        let stream = UnixStream::connect(path).call_at("connect", path)?;
        let peer = peer(stream.as_fd()).map_err(|errno| Error::os("getsockopt(SO_PEERCRED)", errno))?;
        let own = rustix::process::geteuid().as_raw();
        if peer.uid != own && peer.uid != 0 {
            let error = Error::new(ErrorKind::PermissionDenied, format!("it is user {}'s", peer.uid));
            return Err(error.with_path(path));
        }
        if peer.pid == 0 {
            // It would take our numbers for those of other processes.
            let error = Error::new(ErrorKind::Unsupported, "systemd runs outside of this PID namespace");
            return Err(error.with_path(path).with_remedy("run outside of a container, or as root"));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut connection = Self { stream, path: path.to_owned(), is_bus, serial: 0, deadline };
        connection.authenticate()?;
        Ok(connection)
    }

    /// By what the kernel says of the sender: without a name, which in a user namespace could be another one.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        for wanted in ["DATA", "OK"] {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") && line.len() < 1024 {
                line.push(self.receive(1)?[0]);
            }
            let line = String::from_utf8_lossy(&line);
            if line.split_whitespace().next() != Some(wanted) {
                let error = Error::new(ErrorKind::PermissionDenied, format!("D-Bus said {:?}", line.trim()));
                return Err(error.with_path(&self.path));
            }
        }
        Ok(())
    }

    fn start_scope(&mut self, pid: i32) -> Result<()> {
        let pid =
            u32::try_from(pid).map_err(|_| Error::new(ErrorKind::InvalidInput, format!("pid {pid}")))?;
        if self.is_bus {
            let hello = Message::call(BUS, "/org/freedesktop/DBus", BUS, "Hello");
            self.ask(hello)?;
            let mut rule = Message::call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch").signature("s");
            rule.body
                .string(&format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved'"));
            self.ask(rule)?;
            self.ask(Message::call(NAME, PATH, MANAGER, "Subscribe"))?;
        }
        use std::hash::BuildHasher;
        let random = std::hash::RandomState::new().hash_one(pid);
        let unit = format!("coracle-{}-{random:016x}.scope", std::process::id());
        let mut job = None;
        let mut removed: Vec<(String, String)> = Vec::new();
        let serial = self.tell(scope_message(&unit, pid))?;
        loop {
            if let Some((_, result)) = removed.iter().find(|(path, _)| Some(path) == job.as_ref()) {
                return match &**result {
                    "done" => Ok(()),
                    other => Err(Error::new(ErrorKind::Setup, format!("systemd: starting {unit}: {other}"))),
                };
            }
            let answer = self.hear()?;
            match answer.kind {
                Kind::Return if answer.reply_to == serial => job = answer.body().string(),
                Kind::Error if answer.reply_to == serial => return Err(self.refused(&answer)),
                Kind::Signal if answer.member == "JobRemoved" => removed.extend(answer.job()),
                _ => {}
            }
        }
    }

    /// Sends a call and waits for its answer.
    fn ask(&mut self, message: Message) -> Result<()> {
        let serial = self.tell(message)?;
        loop {
            let answer = self.hear()?;
            match answer.kind {
                Kind::Return if answer.reply_to == serial => return Ok(()),
                Kind::Error if answer.reply_to == serial => return Err(self.refused(&answer)),
                _ => {}
            }
        }
    }

    fn refused(&self, answer: &Answer) -> Error {
        let text = answer.body().string().unwrap_or_default();
        Error::new(ErrorKind::Unsupported, format!("systemd: {}: {text:.300}", answer.error))
            .with_path(&self.path)
    }

    fn tell(&mut self, message: Message) -> Result<u32> {
        self.serial += 1;
        self.send(&message.bytes(self.serial))?;
        Ok(self.serial)
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut bytes = self.receive(16)?;
        let size = Answer::rest(&bytes).filter(|size| *size <= MESSAGE_MAX);
        let size = size.ok_or_else(|| self.garbled())?;
        bytes.extend(self.receive(size)?);
        Answer::parse(bytes).ok_or_else(|| self.garbled())
    }

    fn garbled(&self) -> Error {
        Error::new(ErrorKind::InvalidData, "an answer that is no message of D-Bus").with_path(&self.path)
    }

    /// A host that handles SIGPIPE is not to get one.
    fn send(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match send(&self.stream, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::os("send", errno).with_path(&self.path)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, len: usize) -> Result<Vec<u8>> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).call_at("setsockopt(SO_RCVTIMEO)", &self.path)?;
        let mut bytes = vec![0; len];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Error::new(ErrorKind::TimedOut, "waiting for systemd's answer").with_path(&self.path))
            }
            Err(error) => Err(Error::os("read", error).with_path(&self.path)),
        }
    }
}

/// `StartTransientUnit`, org.freedesktop.systemd1(5).
fn scope_message(unit: &str, pid: u32) -> Message {
    let mut message = Message::call(NAME, PATH, MANAGER, "StartTransientUnit").signature("ssa(sv)a(sa(sv))");
    let body = &mut message.body;
    body.string(unit);
    body.string("fail");
    body.array(8, |body| {
        let mut property = |name: &str, signature: &str, value: &dyn Fn(&mut Writer)| {
            body.pad(8);
            body.string(name);
            body.signature(signature);
            value(body);
        };
        property("Description", "s", &|body| body.string("Containers of a program"));
        property("PIDs", "au", &|body| body.array(4, |body| body.u32(pid)));
        property("Delegate", "b", &|body| body.u32(1));
        // A scope that failed goes as well.
        property("CollectMode", "s", &|body| body.string("inactive-or-failed"));
        // At the end of the session: the warden heeds no SIGTERM, as it goes with the host program, which is told by itself.
        property("TimeoutStopUSec", "t", &|body| body.u64(10_000_000));
    });
    body.array(8, |_| ());
    message
}

/// Values as D-Bus lays them out, least significant byte first; positions count from the start of what is written.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.pad(4);
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.pad(8);
        self.0.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// Of elements that begin at multiples of `align`.
    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.pad(align);
        let start = self.0.len();
        fill(self);
        let len = (self.0.len() - start) as u32;
        self.0[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
}

/// A call of a method.
struct Message {
    /// Code and text of each field of the header but the signature.
    fields: [(u8, &'static str, &'static str); 4],
    signature: &'static str,
    body: Writer,
}

impl Message {
    fn call(to: &'static str, path: &'static str, interface: &'static str, member: &'static str) -> Self {
        let fields = [(1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", to)];
        Self { fields, signature: "", body: Writer::default() }
    }

    fn signature(mut self, signature: &'static str) -> Self {
        self.signature = signature;
        self
    }

    fn bytes(self, serial: u32) -> Vec<u8> {
        const METHOD_CALL: u8 = 1;
        const VERSION: u8 = 1;
        let mut all = Writer(vec![b'l', METHOD_CALL, 0, VERSION]);
        all.u32(self.body.0.len() as u32);
        all.u32(serial);
        all.array(8, |all| {
            for (code, kind, text) in self.fields {
                all.pad(8);
                all.0.push(code);
                all.signature(kind);
                all.string(text);
            }
            if !self.signature.is_empty() {
                all.pad(8);
                all.0.push(8);
                all.signature("g");
                all.signature(self.signature);
            }
        });
        all.pad(8);
        all.0.extend(self.body.0);
        all.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Return,
    Error,
    Signal,
    Other,
}

/// What comes back.
#[derive(Debug)]
struct Answer {
    kind: Kind,
    reply_to: u32,
    member: String,
    error: String,
    bytes: Vec<u8>,
    body: usize,
}

impl Answer {
    /// How much follows the first sixteen bytes; `None` of what is no message.
    fn rest(head: &[u8]) -> Option<usize> {
        let mut reader = Reader { bytes: head, at: 4 };
        let (body, _, fields) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let fields = usize::try_from(fields).ok()?.checked_next_multiple_of(8)?;
        // The other byte order is of no machine that this crate is for.
        (head.first() == Some(&b'l')).then_some(fields.checked_add(body.try_into().ok()?)?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut reader = Reader { bytes: &bytes, at: 12 };
        let end = 16 + usize::try_from(reader.u32()?).ok()?;
        let (mut reply_to, mut member, mut error) = (0, String::new(), String::new());
        while reader.at < end {
            reader.pad(8);
            let code = reader.byte()?;
            let kind = reader.signature()?;
            match (code, kind) {
                (3, "s") => member = reader.string()?,
                (4, "s") => error = reader.string()?,
                (5, "u") => reply_to = reader.u32()?,
                (_, "s" | "o") => drop(reader.string()?),
                (_, "u") => drop(reader.u32()?),
                (_, "g") => drop(reader.signature()?),
                _ => return None,
            }
        }
        let kind = match bytes.get(1)? {
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        Some(Self { kind, reply_to, member, error, body: end.next_multiple_of(8), bytes })
    }

    fn body(&self) -> Reader<'_> {
        Reader { bytes: self.bytes.get(self.body..).unwrap_or_default(), at: 0 }
    }

    /// Path and result of the job that a `JobRemoved` is about.
    fn job(&self) -> Option<(String, String)> {
        let mut body = self.body();
        let (_, path, _, result) = (body.u32()?, body.string()?, body.string()?, body.string()?);
        Some((path, result))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn pad(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.pad(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<String> {
        let len = self.u32()?.try_into().ok()?;
        let text = String::from_utf8(self.take(len)?.to_vec()).ok()?;
        self.byte().map(|_| text)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let len = self.byte()?.into();
        let text = std::str::from_utf8(self.take(len)?).ok()?;
        self.byte().map(|_| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_laid_out_as_the_specification_has_it() {
        let mut message = Message::call("a.b", "/p", "i.f", "M").signature("s");
        message.body.string("hi");
        let bytes = message.bytes(7);
        let expected: &[&[u8]] = &[
            b"l\x01\0\x01\x07\0\0\0\x07\0\0\0\x47\0\0\0",
            b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.f\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0",
            b"\x08\x01g\0\x01s\0\0",
            b"\x02\0\0\0hi\0",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn answers_are_read() {
        // A call has the form of an answer but for its kind.
        let mut message = Message::call("a.b", "/p", "i.f", "JobRemoved").signature("uoss");
        message.body.u32(3);
        for text in ["/job/3", "x.scope", "done"] {
            message.body.string(text);
        }
        let mut bytes = message.bytes(1);
        bytes[1] = 4;
        assert_eq!(Answer::rest(&bytes[..16]), Some(bytes.len() - 16));
        let answer = Answer::parse(bytes.clone()).unwrap();
        assert_eq!((answer.kind, &*answer.member), (Kind::Signal, "JobRemoved"));
        assert_eq!(answer.job(), Some(("/job/3".into(), "done".into())));
        // Cut anywhere it is no message, or one without a body, and no panic.
        for len in 0..bytes.len() {
            if let Some(answer) = Answer::parse(bytes[..len].to_vec()) {
                assert_eq!(answer.job(), None);
            }
        }
        assert_eq!(Answer::rest(&[0xff; 16]), None);
        assert_eq!(Answer::rest(b"B"), None);
    }

    #[test]
    fn a_scope_is_asked_for_with_the_process_in_it() {
        let body = scope_message("x.scope", 77).body.0;
        let has = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(b"PIDs\0\x02au\0\0\0\0\x04\0\0\0\x4d\0\0\0"), "{body:?}");
        assert!(has(b"Delegate\0\x01b\0"), "{body:?}");
    }

    #[test]
    fn without_an_instance_it_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Connection::open(&dir.path().join("bus"), true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
