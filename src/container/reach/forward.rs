//! Published ports: a listener on the host for each, and a thread for each connection that copies both ways.
//! The listening socket is not this program's, see [`Listener`].
#![forbid(unsafe_code)]

use super::listener::{Heard, Listener};
use super::{CONNECT_TIME, Reach};
use crate::container::lock;
use crate::error::{Call, ErrorKind, Result};
use crate::sys::fork::Witness;
use crate::sys::memfd::above_stdio;
use crate::sys::time::left;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections of one port at a time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 512;
/// What the container has sent before its end is still delivered, for so long.
const DRAIN_TIME: Duration = Duration::from_secs(1);
const CHUNK: usize = 64 << 10;

/// A published port. When it is dropped, its listener is closed and its connections end.
pub(crate) struct Forwarder {
    port: u16,
    address: SocketAddr,
    shared: Option<Arc<Shared>>,
    thread: Option<JoinHandle<()>>,
    witness: Witness,
}

struct Shared {
    /// Readable, and stays so, once all shall end.
    stop: OwnedFd,
    connections: Mutex<usize>,
    fewer: Condvar,
}

impl Forwarder {
    /// Of the host's network: the port is what it is.
    pub fn direct(port: u16, witness: Witness) -> Self {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        Self { port, address, shared: None, thread: None, witness }
    }

    /// To this port of the container.
    pub(super) fn start(listener: Listener, port: u16, reach: Reach, witness: Witness) -> Result<Self> {
        let address = listener.address();
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).call("eventfd")?;
        let stop = above_stdio(stop)?;
        let shared = Arc::new(Shared { stop, connections: Mutex::new(0), fewer: Condvar::new() });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("coracle-p{port}"))
            .stack_size(128 << 10)
            .spawn(move || {
                let _ = nix::sys::signal::SigSet::all().thread_block();
                accept_all(listener, port, &reach, &for_thread);
            })
            .call("pthread_create")?;
        Ok(Self { port, address, shared: Some(shared), thread: Some(thread), witness })
    }

    /// The container's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if !self.witness.is_here() {
            // A forked copy of the program has the eventfd in common with the original, and not the thread.
            std::mem::forget(self.thread.take());
            return;
        }
        if let Some(shared) = &self.shared {
            // An eventfd takes this write unless its counter is full, which then says the same.
            let _ = rustix::io::write(&shared.stop, &1u64.to_ne_bytes());
        }
        // The listener is closed when the thread has ended, which it does at once.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether all shall end; waits so long for it.
fn stopped(stop: BorrowedFd<'_>, time: Duration) -> bool {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    !matches!(poll(&mut [PollFd::new(&stop, PollFlags::IN)], Some(&time)), Ok(0) | Err(Errno::INTR))
}

fn accept_all(mut listener: Listener, port: u16, reach: &Reach, shared: &Arc<Shared>) {
    loop {
        let mut polled = [PollFd::new(&shared.stop, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) if !polled[0].revents().is_empty() => return,
            Ok(_) | Err(Errno::INTR) if polled[1].revents().is_empty() => continue,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, port, "a published port is closed");
                return;
            }
        }
        let client = match listener.next() {
            Ok(Heard::Connection(client)) => client,
            Ok(Heard::End) => {
                tracing::warn!(port, "a published port is closed: its process was killed");
                return;
            }
            // With the warden all containers have ended.
            Err(error) if error.kind() == ErrorKind::Gone => return,
            Err(error) => {
                // Out of descriptors or memory: that may pass.
                tracing::warn!(%error, port, "a connection to a published port was not accepted");
                if stopped(shared.stop.as_fd(), Duration::from_millis(50)) {
                    return;
                }
                continue;
            }
        };
        while *lock(&shared.connections) >= CONNECTIONS_MAX {
            let connections = lock(&shared.connections);
            let time = Duration::from_millis(50);
            drop(shared.fewer.wait_timeout(connections, time).unwrap_or_else(PoisonError::into_inner));
            if stopped(shared.stop.as_fd(), Duration::ZERO) {
                return;
            }
        }
        *lock(&shared.connections) += 1;
        let connection = Connection { client, shared: shared.clone() };
        let reach = reach.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("coracle-c{port}"))
            .stack_size(128 << 10)
            .spawn(move || {
                let _ = nix::sys::signal::SigSet::all().thread_block();
                connection.serve(port, &reach);
            });
        if let Err(error) = spawned {
            // The connection was dropped with the closure, so its client knows.
            tracing::warn!(%error, port, "no thread for a connection to a published port");
        }
    }
}

struct Connection {
    client: OwnedFd,
    shared: Arc<Shared>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A copy of this program may have it, too.
        let _ = rustix::net::shutdown(&self.client, Shutdown::Both);
        *lock(&self.shared.connections) -= 1;
        self.shared.fewer.notify_one();
    }
}

impl Connection {
    fn serve(&self, port: u16, reach: &Reach) {
        let stop = self.shared.stop.as_fd();
        let copied = reach.connect(port, Instant::now() + CONNECT_TIME, Some(stop)).and_then(|server| {
            let server = OwnedFd::from(server);
            rustix::io::ioctl_fionbio(&server, true).call("ioctl(FIONBIO)")?;
            for socket in [&self.client, &server] {
                rustix::net::sockopt::set_tcp_nodelay(socket, true).call("setsockopt(TCP_NODELAY)")?;
            }
            copy_both(&self.client, &server, stop).call("copying between sockets")
        });
        if let Err(error) = copied {
            // The client sees its connection closed, as it would without us.
            tracing::debug!(%error, port, "a connection to a published port");
        }
    }
}

/// One direction of a connection.
struct Way {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// The source has nothing more.
    ended: bool,
    /// The target was told so.
    told: bool,
}

impl Way {
    fn new() -> Self {
        Self { buffer: Vec::new(), from: 0, to: 0, ended: false, told: false }
    }

    fn wants_read(&self) -> bool {
        self.from == self.to && !self.ended
    }

    fn wants_write(&self) -> bool {
        self.from < self.to
    }

    fn read(&mut self, source: &OwnedFd) -> Result<(), Errno> {
        self.buffer.resize(CHUNK, 0);
        match rustix::net::recv(source, &mut self.buffer[..], rustix::net::RecvFlags::empty()) {
            Ok((_, 0)) => self.ended = true,
            Ok((_, len)) => (self.from, self.to) = (0, len),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    fn write(&mut self, target: &OwnedFd) -> Result<(), Errno> {
        while self.from < self.to {
            let rest = &self.buffer[self.from..self.to];
            match rustix::net::send(target, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(len) => self.from += len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        if self.ended && !self.told {
            self.told = true;
            match rustix::net::shutdown(target, Shutdown::Write) {
                // Its other end is gone already.
                Ok(()) | Err(Errno::NOTCONN) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// Copies until both ends have closed. Once `stop` is readable the container is gone: what it has sent is
/// still delivered.
fn copy_both(client: &OwnedFd, server: &OwnedFd, stop: BorrowedFd<'_>) -> Result<(), Errno> {
    let (mut up, mut down) = (Way::new(), Way::new());
    let mut deadline = None;
    while !(down.told && (up.told || deadline.is_some())) {
        let interest = |reads: &Way, writes: &Way| {
            let read = if reads.wants_read() { PollFlags::IN } else { PollFlags::empty() };
            read | if writes.wants_write() { PollFlags::OUT } else { PollFlags::empty() }
        };
        // Without an interest in it, a socket that hangs up would be reported again and again.
        let wanted = [interest(&up, &down), interest(&down, &up)];
        let mut polled = Vec::with_capacity(3);
        for (socket, flags) in [client, server].into_iter().zip(wanted) {
            if !flags.is_empty() {
                polled.push(PollFd::new(socket, flags));
            }
        }
        if deadline.is_none() {
            polled.push(PollFd::new(&stop, PollFlags::IN));
        }
        let left = deadline.map(left);
        match poll(&mut polled, left.as_ref()) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        if deadline.is_none() && polled.last().is_some_and(|stop| !stop.revents().is_empty()) {
            deadline = Some(Instant::now() + DRAIN_TIME);
        }
        drop(polled);
        // Not blocking: what is not ready says so.
        if up.wants_read() {
            up.read(client)?;
        }
        if down.wants_read() {
            down.read(server)?;
        }
        down.write(client)?;
        match up.write(server) {
            // It reads no more, but may still have something to say.
            Err(Errno::PIPE | Errno::CONNRESET) if !down.told => {
                up = Way { ended: true, told: true, ..Way::new() };
            }
            other => other?,
        }
    }
    Ok(())
}
