//! Connections: how many, from whom to whom, and how they end.
#![forbid(unsafe_code)]

use super::body::Body;
use super::fault::{Fault, code};
use super::request::Head;
use super::response::Response;
use super::socket::Stream;
use super::{Shared, routes};
use crate::error::{Call, Error, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::HashMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Beyond the most connections so many are told why they are not served. Still more are closed.
const TOLD: usize = 16;
/// For those, all that they may take.
const TELLING: Duration = Duration::from_secs(2);
/// Between two looks for what was left alone.
const SWEEP: Duration = Duration::from_secs(30);
/// When no descriptor is left for a connection, the next try is so much later.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);
/// rustls, bcrypt and serde_json need little.
const STACK: usize = 512 << 10;

/// The thread that accepts, and all that it has begun.
pub(super) struct Acceptor {
    end: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

/// The connections that there are.
#[derive(Default)]
struct Open {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    by_number: HashMap<u64, Connection>,
    is_ending: bool,
}

struct Connection {
    tcp: Arc<TcpStream>,
    /// It has a request under way.
    is_busy: bool,
}

impl Open {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a request is under way, or is no more. Whether the connection may go on.
    fn busy(&self, number: u64, is_busy: bool) -> bool {
        let mut state = self.state();
        if let Some(connection) = state.by_number.get_mut(&number) {
            connection.is_busy = is_busy;
        }
        !state.is_ending
    }
}

impl Acceptor {
    pub(super) fn start(listener: TcpListener, shared: Shared) -> Result<Self> {
        listener.set_nonblocking(true).call("fcntl(O_NONBLOCK)")?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).call("eventfd2")?);
        let told = end.clone();
        let thread = Builder::new()
            .name("coracle-registry".into())
            .stack_size(STACK)
            .spawn(move || accept(&listener, &told, &Arc::new(shared)))
            .map_err(|error| Error::os("pthread_create", error))?;
        Ok(Self { end, thread })
    }

    /// Ends it, and waits until all of its threads have ended.
    pub(super) fn end(self) {
        // An event's number has room for more than one.
        if let Err(error) = rustix::io::write(&self.end, &1u64.to_ne_bytes()) {
            tracing::warn!(%error, "the registry can't be told to end");
            return;
        }
        // A panic in there has printed itself.
        let _ = self.thread.join();
    }
}

fn accept(listener: &TcpListener, end: &OwnedFd, shared: &Arc<Shared>) {
    let open = Arc::new(Open::default());
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut swept = Instant::now();
    // Whether connections are looked for: not for a moment where there is no descriptor for them.
    let mut listens = true;
    loop {
        let wait = if listens {
            SWEEP.min(shared.limits.upload_time.max(Duration::from_secs(1)))
        } else {
            NO_DESCRIPTOR
        };
        let mut watched = vec![PollFd::new(end, PollFlags::IN)];
        if listens {
            watched.push(PollFd::new(listener, PollFlags::IN));
        }
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut watched, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // Nothing that could pass: it ends rather than to spin.
                tracing::warn!(%error, "the registry no longer listens");
                break;
            }
        }
        if !watched[0].revents().is_empty() {
            break;
        }
        drop(watched);
        listens = true;
        threads.retain(|thread| !thread.is_finished());
        if swept.elapsed() >= wait {
            shared.pending.sweep();
            swept = Instant::now();
        }
        match listener.accept() {
            Ok((tcp, peer)) => {
                tracing::debug!(%peer, "a connection to the registry");
                threads.extend(begin(tcp, shared, &open));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                // Of one connection (accept(2)), or for want of descriptors: the next may be had.
                tracing::debug!(%error, "a connection that can't be had");
                listens = error.raw_os_error().is_none_or(|errno| {
                    ![nix::libc::EMFILE, nix::libc::ENFILE, nix::libc::ENOBUFS, nix::libc::ENOMEM]
                        .contains(&errno)
                });
            }
        }
    }
    open.state().is_ending = true;
    // Also for a forked copy, which has the socket too: nobody connects to what nobody serves.
    if let Err(error) = rustix::net::shutdown(listener.as_fd(), rustix::net::Shutdown::Both) {
        tracing::debug!(%error, "a registry's socket");
    }
    close_all(&open, shared.limits.grace);
    for thread in threads {
        let _ = thread.join();
    }
}

/// Those that wait for a request end at once, the others when they are done or the time is over.
fn close_all(open: &Open, grace: Duration) {
    let deadline = Instant::now() + grace;
    let mut state = open.state();
    for connection in state.by_number.values().filter(|connection| !connection.is_busy) {
        let _ = connection.tcp.shutdown(Shutdown::Both);
    }
    while !state.by_number.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        state = open.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    for connection in state.by_number.values() {
        let _ = connection.tcp.shutdown(Shutdown::Both);
    }
}

/// Serves a connection in a thread of its own.
fn begin(tcp: TcpStream, shared: &Arc<Shared>, open: &Arc<Open>) -> Option<JoinHandle<()>> {
    let tcp = Arc::new(tcp);
    // What is accepted is blocking, whatever the listening socket is (accept(2)).
    let (number, count) = {
        let mut state = open.state();
        let count = state.by_number.len();
        if count >= shared.limits.connections + TOLD {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.by_number.insert(number, Connection { tcp: tcp.clone(), is_busy: false });
        (number, count)
    };
    let (mine, shared, is_one_too_many) = (open.clone(), shared.clone(), count >= shared.limits.connections);
    let thread =
        Builder::new().name("coracle-registry-connection".into()).stack_size(STACK).spawn(move || {
            // It goes from the list whatever happens.
            let _entry = Entry { open: &mine, number };
            match Stream::new(tcp, shared.tls.as_ref(), shared.limits.silence) {
                Ok(stream) if is_one_too_many => tell(stream, &shared),
                Ok(stream) => serve(stream, &shared, &mine, number),
                Err(error) => tracing::debug!(%error, "a connection of the registry's"),
            }
        });
    match thread {
        Ok(thread) => Some(thread),
        Err(error) => {
            tracing::warn!(%error, "no thread for a connection of the registry's");
            open.state().by_number.remove(&number);
            None
        }
    }
}

struct Entry<'a> {
    open: &'a Open,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.open.state().by_number.remove(&self.number);
        self.open.changed.notify_all();
    }
}

/// Tells one too many to come back.
fn tell(mut stream: Stream, shared: &Shared) {
    stream.within(TELLING);
    if let Ok(Some(_)) = Head::read(&mut stream, shared.limits.header_bytes) {
        let fault = Fault::new(503, code::TOO_MANY, "as many connections are open as there may be");
        if let Some((response, _)) = fault.with("Retry-After", "1").into_response() {
            let _ = response.send(&mut stream, true, true);
        }
        stream.close();
    }
}

/// Serves requests until one of the two has enough.
fn serve(mut stream: Stream, shared: &Shared, open: &Open, number: u64) {
    let limits = &shared.limits;
    let mut is_first = true;
    loop {
        // Between two requests nothing need come for a while; what has begun to come has less time.
        let wait = if is_first { limits.header_time } else { limits.silence };
        if stream.buffered().is_empty() {
            stream.within(wait);
            match stream.fill() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    if is_first && let Some((response, _)) = Fault::of_connection(&error).into_response() {
                        stream.within(TELLING);
                        let _ = response.send(&mut stream, true, true);
                        stream.close();
                    }
                    return;
                }
            }
        }
        is_first = false;
        if !open.busy(number, true) {
            return;
        }
        stream.within(limits.header_time);
        let goes_on = match Head::read(&mut stream, limits.header_bytes) {
            Ok(Some(head)) => exchange(&mut stream, shared, open, number, &head),
            Ok(None) => return,
            Err(fault) => {
                if let Some((response, _)) = fault.into_response() {
                    stream.within(TELLING);
                    let _ = response.send(&mut stream, true, true);
                    stream.close();
                }
                return;
            }
        };
        match goes_on {
            Some(true) => {}
            Some(false) => return stream.close(),
            None => return,
        }
    }
}

/// One request and its answer. Whether the connection goes on; `None` where there is nobody any more.
fn exchange(stream: &mut Stream, shared: &Shared, open: &Open, number: u64, head: &Head) -> Option<bool> {
    stream.at_a_pace();
    let mut body = Body::new(stream, head);
    let (response, mut close) = match routes::answer(shared, head, &mut body) {
        Ok(response) => (response, false),
        Err(fault) => fault.into_response()?,
    };
    tracing::debug!(
        method = head.method,
        path = head.path,
        status = response.status,
        "the registry was asked"
    );
    // Who is told why before all has come does not send the rest.
    close |= !head.keep_alive || open.state().is_ending || !body.is_over_soon();
    if !close {
        close = !body.drain();
    }
    stream.at_a_pace();
    respond(stream, &response, head, close)?;
    Some(open.busy(number, false) && !close)
}

fn respond(stream: &mut Stream, response: &Response, head: &Head, close: bool) -> Option<()> {
    match response.send(stream, head.method != "HEAD", close) {
        Ok(()) => Some(()),
        Err(error) => {
            tracing::debug!(%error, path = head.path, "an answer that did not reach its end");
            None
        }
    }
}
