//! Reaching into a container's network, and waiting until something there is ready.
//!
//! A socket belongs to the network namespace that it was made in, wherever it is used. So a plan of the warden makes
//! one inside and sends it here, and this process connects it: no thread of it ever leaves its own namespaces, and
//! the container needs no address that the host could see.
#![forbid(unsafe_code)]

mod forward;
mod listener;
mod ready;

pub(crate) use forward::Forwarder;
pub(super) use listener::Listener;
pub use ready::Ready;

use super::running::Running;
use super::spec::{Publish, Spec};
use super::{Container, lock};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::fork::Witness;
use crate::sys::memfd::above_stdio;
use crate::sys::plan::Plan;
use crate::sys::plan::format::Status;
use crate::sys::time::left;
use crate::sys::warden::Warden;
use linux_raw_sys::general as n;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one connection may take. On a loopback interface it takes microseconds, or the listener's queue is full.
const CONNECT_TIME: Duration = Duration::from_secs(10);

impl Container {
    /// Connects to a TCP port of the container, over its own loopback interface (127.0.0.1, then ::1).
    ///
    /// It needs no published port, and no address of the host is used.
    ///
    /// ```no_run
    /// # let container: coracle::Container = unimplemented!();
    /// use std::io::{Read, Write};
    /// let mut stream = container.connect(80)?;
    /// stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    /// let mut answer = String::new();
    /// stream.read_to_string(&mut answer)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `State` when the container does not run; `Io` with errno `ECONNREFUSED` when nothing listens there (see
    /// [`wait_until`](Self::wait_until)); `TimedOut` after 10 s with a listener that doesn't accept.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        Reach::of(&*self.running()?, self.0.record(|record| record.spec.network.is_host())?)?
            .connect(port, Instant::now() + CONNECT_TIME, None)
            .map_err(|error| match error.raw_os_error() {
                Some(errno) if errno == Errno::CONNREFUSED.raw_os_error() => error.with_remedy(
                    "nothing listens on that port yet: wait for it with Container::wait_until(Ready::port(…))",
                ),
                _ => error,
            })
    }

    /// The address on the host that is forwarded to this port of the container.
    ///
    /// # Errors
    /// `NotFound` for a port that was not published; `State` when the container does not run.
    pub fn host_addr(&self, port: u16) -> Result<SocketAddr> {
        let running = self.running()?;
        if running.try_wait()?.is_some() {
            return Err(Error::new(ErrorKind::State, "the container is not running"));
        }
        let found = match running.warden {
            Some(_) => published(&running),
            // Another program forwards; its record says from where.
            None => running.dir.running()?.map(|record| record.ports).unwrap_or_default(),
        };
        let found = found.into_iter().find(|(published, _)| *published == port);
        found.map(|(_, address)| address).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("port {port} is not published"))
                .with_remedy("publish it with ContainerBuilder::publish, or use Container::connect")
        })
    }
}

/// The published ports of a container of this program, and where the host has them.
pub(super) fn published(running: &Running) -> Vec<(u16, SocketAddr)> {
    lock(&running.ports).iter().map(|forwarder| (forwarder.port(), forwarder.address())).collect()
}

/// The ports that were asked for, on the host: before the command begins, which would else have run where one is taken. None of
/// those that need no forwarding: with the host's network, unless another address was asked for.
pub(super) fn listen(warden: &Arc<Warden>, spec: &Spec) -> Result<Vec<(u16, Option<Listener>)>> {
    let host_network = spec.network.is_host();
    let one = |publish: &Publish| {
        let address = SocketAddr::new(publish.address, publish.host);
        let direct = host_network && (publish.host == 0 || publish.host == publish.container);
        let listener = if direct { None } else { Some(Listener::start(warden, address)?) };
        Ok((publish.container, listener))
    };
    spec.publish.iter().map(one).collect()
}

/// Forwards what comes there.
pub(super) fn publish(
    running: &Running,
    listening: Vec<(u16, Option<Listener>)>,
    host_network: bool,
    witness: Witness,
) -> Result<()> {
    if listening.is_empty() {
        return Ok(());
    }
    let reach = Reach::of(running, host_network)?;
    let mut forwarders = Vec::new();
    for (port, listener) in listening {
        forwarders.push(match listener {
            None => Forwarder::direct(port, witness),
            Some(listener) => Forwarder::start(listener, port, reach.clone(), witness)?,
        });
    }
    lock(&running.ports).extend(forwarders);
    Ok(())
}

/// What it takes to get into a container's network.
#[derive(Clone)]
pub(super) struct Reach {
    /// None for the host's network.
    warden: Option<Arc<Warden>>,
    /// A process in it.
    member: Arc<OwnedFd>,
}

impl Reach {
    pub fn of(running: &Running, host_network: bool) -> Result<Self> {
        let warden = match (&running.warden, &running.door) {
            _ if host_network => None,
            (Some(warden), _) => Some(warden.clone()),
            // Another program's container: its warden may go there.
            (None, Some(door)) => Some(Warden::connect(running.dir.store.locks_dir(), door)?),
            (None, None) => return Err(Error::new(ErrorKind::State, "the container has no warden")),
        };
        let member = match warden.as_ref().map(|_| running.member()) {
            Some(Ok((_, member))) => member,
            Some(Err(error)) if error.kind() != ErrorKind::State => return Err(error),
            // It has ended: whoever goes there is told how.
            _ => running.process.pidfd.clone(),
        };
        Ok(Self { warden, member })
    }

    /// Connects to 127.0.0.1, and to ::1 where nothing listens there. Ends early when `stop` becomes readable.
    pub fn connect(&self, port: u16, deadline: Instant, stop: Option<BorrowedFd<'_>>) -> Result<TcpStream> {
        let step = |address| format!("connect({})", SocketAddr::new(address, port));
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let socket = self.socket(AddressFamily::INET, deadline)?;
        match establish(&socket, SocketAddr::new(v4, port), deadline, stop) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::CONNREFUSED) => {}
            Err(errno) => return Err(errno).call(step(v4)),
        }
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let refused = || Error::os(step(v4), Errno::CONNREFUSED);
        // A kernel without IPv6 has no such sockets.
        let socket = match self.socket(AddressFamily::INET6, deadline) {
            Err(error) if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => {
                return Err(refused());
            }
            other => other?,
        };
        match establish(&socket, SocketAddr::new(v6, port), deadline, stop) {
            Ok(()) => Ok(socket.into()),
            Err(_) => Err(refused()),
        }
    }

    /// A TCP socket of the container's network.
    fn socket(&self, family: AddressFamily, deadline: Instant) -> Result<OwnedFd> {
        let Some(warden) = &self.warden else {
            let made = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
            return above_stdio(made.call("socket")?);
        };
        let mut plan = Plan::new();
        plan.during("making a socket in the container's network");
        let pidfd = plan.fd(self.member.as_fd());
        // The user namespace stays the warden's, whose root may enter the networks below it: nothing of the
        // container's ever has a hold on this process.
        plan.op(n::__NR_setns, "setns(pidfd, CLONE_NEWNET)", [pidfd.into(), n::CLONE_NEWNET.into()]);
        let letter = plan.letter(Status::PLAN);
        let kind = SocketType::STREAM.as_raw() | SocketFlags::CLOEXEC.bits();
        plan.op(
            linux_raw_sys::general::__NR_socket,
            "socket",
            [u32::from(family.as_raw()).into(), kind.into(), 0.into()],
        )
        .store(letter.fd);
        plan.post(letter);
        let told = warden.start_plan_by(plan, Some(deadline))?.next(Some(deadline));
        let told = told.map_err(|error| match error.raw_os_error() {
            Some(errno) if errno == Errno::SRCH.raw_os_error() => {
                Error::new(ErrorKind::State, "the container is not running")
            }
            _ => error,
        })?;
        told.and_then(|told| told.fds.into_iter().next())
            .ok_or_else(|| Error::new(ErrorKind::Gone, "the socket of the container's network did not come"))
    }
}

/// Connects in time. Blocking afterwards.
fn establish(
    socket: &OwnedFd,
    to: SocketAddr,
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
) -> std::result::Result<(), Errno> {
    rustix::io::ioctl_fionbio(socket, true)?;
    match rustix::net::connect(socket, &to) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => loop {
            let mut polled = vec![PollFd::new(socket, PollFlags::OUT)];
            polled.extend(stop.as_ref().map(|stop| PollFd::new(stop, PollFlags::IN)));
            match poll(&mut polled, Some(&left(deadline))) {
                Ok(0) => return Err(Errno::TIMEDOUT),
                Ok(_) if polled[0].revents().is_empty() => return Err(Errno::CANCELED),
                Ok(_) => {
                    rustix::net::sockopt::socket_error(socket)??;
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        },
        Err(errno) => return Err(errno),
    }
    // A port in the range that the kernel takes source ports from can connect to itself: nobody listens then.
    let own: Option<SocketAddr> = rustix::net::getsockname(socket)?.try_into().ok();
    if own == Some(to) {
        return Err(Errno::CONNREFUSED);
    }
    rustix::io::ioctl_fionbio(socket, false)
}
