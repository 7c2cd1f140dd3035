//! Removes what was discarded without keeping anybody waiting: freeing a directory can take milliseconds on a busy disk.
#![forbid(unsafe_code)]

use super::remove::{Remover, remove_tree_with};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// When something that could not be removed is tried again, and how often.
const AGAIN: Duration = Duration::from_millis(250);
const TRIES: u32 = 20;

/// The thread and its queue.
pub(super) struct Janitor {
    queue: Sender<OsString>,
    thread: JoinHandle<()>,
}

impl Janitor {
    /// `tmp` is where the doomed are. `None` where no thread can be had.
    pub(super) fn start(tmp: Arc<OwnedFd>, remover: Arc<OnceLock<Box<dyn Remover>>>) -> Option<Self> {
        let (queue, doomed) = channel::<OsString>();
        let run = move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            let remove = |name: &OsString| {
                remove_tree_with(tmp.as_fd(), name, remover.get().map(|remover| &**remover))
            };
            // What failed, and how often: a program that is out of descriptors now has some again later.
            let mut failed: Vec<(OsString, u32)> = Vec::new();
            loop {
                let next = match failed.is_empty() {
                    true => doomed.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    false => doomed.recv_timeout(AGAIN),
                };
                let is_over = matches!(next, Err(RecvTimeoutError::Disconnected));
                failed.extend(next.ok().map(|name| (name, 0)));
                failed.retain_mut(|(name, tries)| match remove(name) {
                    Ok(()) => false,
                    Err(_) if *tries < TRIES && !is_over => {
                        *tries += 1;
                        true
                    }
                    Err(error) => {
                        tracing::warn!(%error, ?name, "discarded content stays until the next sweep");
                        false
                    }
                });
                if is_over {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("coracle-janitor".into())
            .stack_size(256 << 10)
            .spawn(run)
            .ok()?;
        Some(Self { queue, thread })
    }

    /// Whether the thread took it.
    pub(super) fn take(&self, name: OsString) -> bool {
        self.queue.send(name).is_ok()
    }

    /// Waits until everything is removed.
    pub(super) fn finish(self) {
        drop(self.queue);
        // A panic in there has printed itself; what it left is swept.
        let _ = self.thread.join();
    }
}
