//! The agent of `RUN --mount=type=ssh`: a socket of the build's own, of which each connection goes on to the caller's agent.
//!
//! The agent itself can't be given: ssh-agent(1) speaks with nobody but root and its own user, by the peer's credentials
//! (unix(7), SO_PEERCRED), and root of a container is neither. So the socket's mode and owner are the mount's, too.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, Result};
use crate::layer::{Owned, for_caller};
use crate::store::{Lease, Store};
use rustix::fs::{CWD, Mode};
use rustix::net::Shutdown as Both;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

const SOCKET: &std::ffi::CStr = c"agent";
/// Connections at once; further ones are closed.
const MOST: usize = 64;

/// It ends with this value.
pub(super) struct Agent {
    store: Store,
    directory: String,
    _lease: Lease,
    listener: Arc<UnixListener>,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// Both ends of each connection.
    open: Vec<Arc<UnixStream>>,
    has_ended: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// `owner`: user and group of the container whose socket it is.
    pub(super) fn start(store: &Store, agent: &Path, owner: (u32, u32), mode: u32) -> Result<Self> {
        // One that is not there is an error here, not in the RUN.
        UnixStream::connect(agent).call_at("connect", agent).map_err(|error| {
            error.with_remedy("Build::ssh wants the socket of an agent that runs: $SSH_AUTH_SOCK")
        })?;
        let (lease, directory) = store.new_tmp_dir()?;
        let listener = bind(&lease).inspect_err(|_| {
            // Its own error counts; what stays is swept.
            let _ = store.remove_tree(store.tmp_dir(), &directory);
        })?;
        let mut this = Self {
            store: store.clone(),
            listener: Arc::new(listener),
            directory,
            _lease: lease,
            state: Arc::default(),
            thread: None,
        };
        let path = this.path();
        rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
            .call_at("chmod", &path)?;
        if owner != (0, 0) {
            let owned = Owned {
                path: SOCKET.to_owned(),
                uid: owner.0,
                gid: owner.1,
                mode: Some(mode),
                capability: None,
            };
            for_caller().apply(this._lease.as_fd(), &[owned])?;
        }
        let (listener, state, agent) = (this.listener.clone(), this.state.clone(), agent.to_owned());
        let thread = Builder::new().name("coracle-agent".into());
        let serving = thread.spawn(move || serve(&listener, &state, &agent)).call("starting a thread")?;
        this.thread = Some(serving);
        Ok(this)
    }

    /// What is to be mounted.
    pub(super) fn path(&self) -> PathBuf {
        self.store.path().join("tmp").join(&self.directory).join("agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let open = {
            let mut state = lock(&self.state);
            state.has_ended = true;
            std::mem::take(&mut state.open)
        };
        // What is waited for ends by it: accept(2), and reads.
        let _ = rustix::net::shutdown(&self.listener, Both::Both);
        for stream in open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Err(error) = self.store.remove_tree(self.store.tmp_dir(), &self.directory) {
            tracing::warn!(%error, "the socket of an agent stays until the store's next sweep");
        }
    }
}

/// By the directory's descriptor, as the whole path can be longer than an address may be (108 bytes).
fn bind(directory: &Lease) -> Result<UnixListener> {
    let name = SOCKET.to_string_lossy();
    let path = format!("/proc/thread-self/fd/{}/{name}", directory.as_fd().as_raw_fd());
    UnixListener::bind(&path).call_at("bind", &path)
}

fn serve(listener: &UnixListener, state: &Mutex<State>, agent: &Path) {
    std::thread::scope(|scope| {
        loop {
            let inside = match listener.accept() {
                Ok((stream, _)) => Arc::new(stream),
                Err(_) if lock(state).has_ended => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return gone(&Error::os("accept", error)),
            };
            let outside = match UnixStream::connect(agent) {
                Ok(stream) => Arc::new(stream),
                // Whoever asked sees the connection's end.
                Err(error) => {
                    gone(&Error::os("connect", error).with_path(agent));
                    continue;
                }
            };
            {
                let mut state = lock(state);
                if state.has_ended {
                    return;
                }
                state.open.retain(|stream| Arc::strong_count(stream) > 1);
                if state.open.len() >= 2 * MOST {
                    continue;
                }
                state.open.extend([inside.clone(), outside.clone()]);
            }
            for (from, to) in [(inside.clone(), outside.clone()), (outside, inside)] {
                let thread = Builder::new().name("coracle-agent".into());
                if let Err(error) = thread.spawn_scoped(scope, move || carry(&from, &to)) {
                    gone(&Error::os("starting a thread", error));
                }
            }
        }
    });
}

fn gone(error: &Error) {
    tracing::warn!(%error, "an ssh agent that a RUN asks is not there for it");
}

/// One way. A connection that breaks has its end at both sides.
fn carry(from: &UnixStream, to: &UnixStream) {
    let way = match io::copy(&mut &*from, &mut &*to) {
        Ok(_) => Shutdown::Write,
        Err(_) => Shutdown::Both,
    };
    let _ = to.shutdown(way);
}
