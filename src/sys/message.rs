//! Messages with descriptors over SEQPACKET sockets, and the warden's structures as bytes.

use super::memfd::above_stdio;
use super::plan::format::{Event, FDS_MAX, Request, Status};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .call("socketpair")?;
    Ok((above_stdio(a)?, above_stdio(b)?))
}

/// The address of a socket in a directory, whatever the length of the directory's own path.
fn address(dir: BorrowedFd<'_>, name: &str) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).call("sockaddr_un")
}

fn socket() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let fd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).call("socket")?;
    above_stdio(fd)
}

/// A socket that others connect to by its name in a directory.
pub(crate) fn listen(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::bind(&socket, &address(dir, name)?).call("bind")?;
    rustix::net::listen(&socket, 16).call("listen")?;
    Ok(socket)
}

/// Connects to one that [`listen`]s: at once, unless as many as it lets wait are waiting already.
///
/// # Errors
/// `TimedOut` when they still are at the deadline.
pub(crate) fn connect(dir: BorrowedFd<'_>, name: &str, deadline: Instant) -> Result<OwnedFd> {
    let (socket, address) = (socket()?, address(dir, name)?);
    loop {
        // connect(2) keeps to the time for sending (unix(7)); 0 would be for ever.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Send, Some(left)).call("setsockopt(SO_SNDTIMEO)")?;
        match rustix::net::connect(&socket, &address) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < deadline => {}
            Err(Errno::AGAIN) => {
                return Err(Error::new(ErrorKind::TimedOut, "nobody takes one more connection"));
            }
            other => break other.call("connect")?,
        }
    }
    set_socket_timeout(&socket, Timeout::Send, None).call("setsockopt(SO_SNDTIMEO)")?;
    Ok(socket)
}

/// Whether nobody listens on a socket any more. Waits for nobody.
pub(crate) fn is_deaf(dir: BorrowedFd<'_>, name: &str) -> Result<bool> {
    let socket = socket()?;
    rustix::io::ioctl_fionbio(&socket, true).call("ioctl(FIONBIO)")?;
    Ok(rustix::net::connect(&socket, &address(dir, name)?) == Err(Errno::CONNREFUSED))
}

/// Sends one message whole, with its descriptors.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_parts(socket, &[bytes], fds)
}

/// The same to somebody who may have ended, and has said why.
pub(crate) fn send_to_some(socket: impl AsFd, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<()> {
    const ENDED: [i32; 2] = [nix::libc::EPIPE, nix::libc::ECONNRESET];
    match send_parts(socket, parts, fds) {
        Err(error) if error.raw_os_error().is_some_and(|errno| ENDED.contains(&errno)) => Ok(()),
        sent => sent,
    }
}

/// The same of bytes that lie in several places.
fn send_parts(socket: impl AsFd, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new(ErrorKind::TooLarge, format!("{} descriptors in one message", fds.len())));
    }
    let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    loop {
        match sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => continue,
            sent => return sent.map(drop).call("sendmsg"),
        }
    }
}

/// Waits until there is something to read, or the end; false at the deadline, where one is given.
pub(crate) fn readable(fd: impl AsFd, deadline: Option<Instant>) -> Result<bool> {
    wait_for(fd, PollFlags::IN, deadline)
}

/// Waits until there is something to read of one of them, and says whether it is of the first.
pub(crate) fn either_readable(first: impl AsFd, second: impl AsFd) -> Result<bool> {
    loop {
        let mut polled = [PollFd::new(&first, PollFlags::IN), PollFd::new(&second, PollFlags::IN)];
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            ready => return ready.call("poll").map(|_| !polled[0].revents().is_empty()),
        }
    }
}

/// Waits until every process that had the other end has closed it; false at the deadline. What has been sent meanwhile
/// wakes nobody.
pub(crate) fn hung_up(fd: impl AsFd, deadline: Option<Instant>) -> Result<bool> {
    wait_for(fd, PollFlags::empty(), deadline)
}

fn wait_for(fd: impl AsFd, what: PollFlags, deadline: Option<Instant>) -> Result<bool> {
    loop {
        let left = deadline.map(super::time::left);
        match poll(&mut [PollFd::new(&fd, what)], left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready.call("poll")? > 0),
        }
    }
}

/// Receives one message; `None` at the end.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    receive_with(socket, buffer, RecvFlags::empty())
}

/// A message that has come already.
pub(crate) fn try_receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Arrived> {
    match receive_with(socket, buffer, RecvFlags::DONTWAIT) {
        Ok(None) => Ok(Arrived::End),
        Ok(Some(_)) => Ok(Arrived::Message),
        Err(error) if error.raw_os_error() == Some(nix::libc::EAGAIN) => Ok(Arrived::Nothing),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    Message,
    Nothing,
    End,
}

fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let iov = &mut [IoSliceMut::new(buffer)];
        match recvmsg(&socket, iov, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            // Said once, of a peer that has ended and left something unread; what it had sent itself is still there.
            Err(Errno::CONNRESET) => continue,
            got => break got.call("recvmsg")?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            for fd in rights {
                fds.push(above_stdio(fd)?);
            }
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Error::errno("recvmsg(SCM_RIGHTS): a descriptor was lost", nix::libc::EMFILE)
            .with_remedy("raise this program's RLIMIT_NOFILE (ulimit -n)"));
    }
    if message.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    Ok(Some((message.bytes, fds)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
}

impl Request {
    pub(crate) fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..4].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.size.to_ne_bytes());
        bytes
    }
}

impl Event {
    pub(crate) fn from_bytes(b: &[u8]) -> Self {
        Self {
            kind: u32_at(b, 0),
            pid: u32_at(b, 4) as i32,
            id: u64_at(b, 8),
            value: u64_at(b, 16) as i64,
            user_us: u64_at(b, 24),
            system_us: u64_at(b, 32),
            peak_kib: u64_at(b, 40),
        }
    }
}

impl Status {
    pub(crate) fn from_bytes(b: &[u8]) -> Self {
        Self { kind: u32_at(b, 0), step: u32_at(b, 4), value: u64_at(b, 8) as i64 }
    }
}
