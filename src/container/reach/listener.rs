//! The listening socket of a published port, in a process of the warden's: this program only gets the connections.
//!
//! Whatever has a listening socket open keeps the port, and a forked copy of this program has all that it had. A child
//! of the warden ends with the program, whoever has copied that.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::memfd::above_stdio;
use crate::sys::plan::format::{OP_END, Status};
use crate::sys::plan::{Cell, Plan};
use crate::sys::warden::{Started, Told, Warden};
use linux_raw_sys::errno::{EAGAIN, EINTR, ETOOMANYREFS};
use linux_raw_sys::general as n;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long the listening process may take to begin, and to end: microseconds, unless the warden has been stopped.
const TIME: Duration = Duration::from_secs(10);

const LISTENS: u32 = Status::PLAN;
const CONNECTION: u32 = Status::PLAN + 1;

/// Closed when it is dropped, before that returns.
pub(in super::super) struct Listener {
    started: Started,
    address: SocketAddr,
}

/// What the listening process has to say.
pub(in super::super) enum Heard {
    /// Not blocking.
    Connection(OwnedFd),
    /// It is no more.
    End,
}

impl Listener {
    /// # Errors
    /// `InUse` for an address where somebody listens, `PermissionDenied` for a port that this program may not have.
    pub fn start(warden: &Arc<Warden>, address: SocketAddr) -> Result<Self> {
        let listener = match Self::bind(warden, address, None) {
            // This program may have a capability that the warden of an ordinary user has not.
            Err(error) if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
                match bound(address) {
                    Ok(socket) => Self::bind(warden, address, Some(socket.as_fd())),
                    Err(_) => Err(error),
                }
            }
            other => other,
        };
        listener.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRINUSE) => error
                .with_kind(ErrorKind::InUse)
                .with_remedy("another program listens there: choose another port, or 0 for a free one"),
            Some(Errno::ACCESS) => error.with_remedy(
                "ports below net.ipv4.ip_unprivileged_port_start (1024) need CAP_NET_BIND_SERVICE",
            ),
            _ => error,
        })
    }

    fn bind(warden: &Arc<Warden>, address: SocketAddr, bound: Option<BorrowedFd<'_>>) -> Result<Self> {
        let mut plan = Plan::new();
        plan.during("publishing a port");
        let socket = match bound {
            Some(socket) => plan.fd(socket),
            None => socket(&mut plan, address),
        };
        plan.op(n::__NR_listen, "listen", [socket.into(), BACKLOG.into()]).detail(address.to_string());
        // A message whose value is the beginning of the address: family, port in the network's order.
        let message = plan.words64(&[u64::from(LISTENS), 0, 0, 0, 0]);
        let len = plan.words64(&[28]);
        let at = crate::sys::plan::At(message.0 + 8);
        plan.op(n::__NR_getsockname, "getsockname", [socket.into(), at.into(), len.into()]);
        let status = plan.status();
        plan.op(n::__NR_write, "write(status)", [status.into(), message.into(), 16.into()]).full();
        accept_all(&mut plan, socket);
        let mut started = warden.start_plan(plan)?;
        started.settle();
        match started.next(Some(Instant::now() + TIME))? {
            Some(Told { kind: LISTENS, value, .. }) => {
                let [_, _, high, low, ..] = value.to_ne_bytes();
                let address = SocketAddr::new(address.ip(), u16::from_be_bytes([high, low]));
                Ok(Self { started, address })
            }
            _ => Err(Error::new(ErrorKind::Gone, "the listening process has ended")),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What comes next; it has come when the descriptor is readable.
    ///
    /// # Errors
    /// `Gone` when the warden has ended. A connection that finds no room among this program's descriptors is closed.
    pub fn next(&mut self) -> Result<Heard> {
        match self.started.next(None)? {
            None => Ok(Heard::End),
            Some(told) => {
                told.fds.into_iter().next().map(Heard::Connection).ok_or_else(|| {
                    Error::new(ErrorKind::Gone, "the listening process has sent no connection")
                })
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.started.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A copy of this program may have the other end too: closing alone would say nothing.
        let _ = rustix::net::shutdown(&self.started, rustix::net::Shutdown::Write);
        let deadline = Instant::now() + TIME;
        while let Ok(Some(_)) = self.started.next(Some(deadline)) {}
    }
}

/// The plan's part of making the socket.
fn socket(plan: &mut Plan<'_>, address: SocketAddr) -> Cell {
    const SOL_SOCKET: u32 = 1;
    const SO_REUSEADDR: u32 = 2;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = SocketType::STREAM.as_raw() | (SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).bits();
    let args = [u32::from(family.as_raw()).into(), kind.into(), 0.into()];
    let socket = plan.op(n::__NR_socket, "socket", args).result();
    // A port whose last connections are still in TIME_WAIT can be published again.
    let yes = plan.words64(&[1]);
    let args = [socket.into(), SOL_SOCKET.into(), SO_REUSEADDR.into(), yes.into(), 4.into()];
    plan.op(n::__NR_setsockopt, "setsockopt(SO_REUSEADDR)", args);
    let bytes = sockaddr(address, family);
    let at = plan.bytes(&bytes);
    plan.op(n::__NR_bind, "bind", [socket.into(), at.into(), bytes.len().into()]).detail(address.to_string());
    socket
}

/// struct sockaddr_in and sockaddr_in6 (ip(7), ipv6(7)).
fn sockaddr(address: SocketAddr, family: AddressFamily) -> Vec<u8> {
    let mut bytes = family.as_raw().to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(v6.flowinfo().to_ne_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// The plan's part of sending each connection to the program, until that hangs up.
fn accept_all(plan: &mut Plan<'_>, socket: Cell) {
    const POLLIN: u64 = 1 << 32;
    const CLOCK_MONOTONIC: u32 = 1;
    const MSG_DONTWAIT: u32 = 0x40;
    let status = plan.status();
    // struct pollfd: descriptor, events, revents.
    let polled = plan.words64(&[POLLIN, POLLIN]);
    for (i, fd) in [status, socket].into_iter().enumerate() {
        plan.op(n::__NR_fcntl, "fcntl(F_DUPFD_CLOEXEC)", [fd.into(), n::F_DUPFD_CLOEXEC.into(), 3.into()])
            .store(Cell(polled.0 + 8 * i as u64));
    }
    let letter = plan.letter(CONNECTION);
    let byte = plan.space(8);
    let moment = plan.words64(&[0, 50_000_000]);
    let (top, accept, busy) = (plan.label(), plan.label(), plan.label());
    plan.place(top);
    plan.op(n::__NR_ppoll, "ppoll", [polled.into(), 2.into(), 0.into(), 0.into(), 8.into()])
        .tolerate(&[EINTR])
        .otherwise(top);
    // Nothing is ever sent this way: there is nothing, or the end.
    let args = [status.into(), byte.into(), 1.into(), MSG_DONTWAIT.into(), 0.into(), 0.into()];
    plan.op(n::__NR_recvfrom, "recvfrom", args).tolerate(&[EAGAIN]).otherwise(accept);
    // Before the status socket, whose end says that the port is free.
    for fd in [socket, Cell(polled.0 + 8)] {
        plan.op(n::__NR_close, "close", [fd.into()]);
    }
    plan.op(OP_END, "end", [0.into()]);
    plan.place(accept);
    let flags = (SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).bits();
    plan.op(n::__NR_accept4, "accept4", [socket.into(), 0.into(), 0.into(), flags.into()])
        .store(letter.fd)
        .tolerate_all()
        .otherwise(busy);
    // Too many descriptors of this user are in flight: the connection is closed.
    plan.post(letter).tolerate(&[ETOOMANYREFS]);
    plan.op(n::__NR_close, "close", [letter.fd.into()]);
    plan.jump(top);
    // Taken back, or out of memory: the latter may pass, and nothing tells of it.
    plan.place(busy);
    let args = [CLOCK_MONOTONIC.into(), 0.into(), moment.into(), 0.into()];
    plan.op(n::__NR_clock_nanosleep, "clock_nanosleep", args).tolerate(&[EINTR]);
    plan.jump(top);
}

/// The socket of a program that may have a port which its warden may not. A copy of the program that is made in this very
/// moment keeps it.
fn bound(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).call("socket")?;
    let socket = above_stdio(socket)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).call("setsockopt(SO_REUSEADDR)")?;
    rustix::net::bind(&socket, &address).call("bind")?;
    Ok(socket)
}
